//! The month's calls: how many an app has spent of those that its organisation may make.
//!
//! Separate because it is a count over a month and over all workers, where the pace is one over a second. It counts what
//! DingTalk's quota counts (`dingtalk-api.md` 7): calls for cards, but for those refused by throttling; tokens and look-ups
//! are free. It warns, and keeps the last calls for urgent jobs; it stops nobody else, since only DingTalk knows what other
//! programs spend.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;
use tokio::time::Instant;

use super::error::Failure;
use crate::config;
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason};
use crate::store::Store;

/// Shares of the budget, in percent, each of which is told once when it is reached.
const MARKS: [u64; 3] = [50, 80, 95];
/// A count in the store outlives its month by some days, and then goes.
const KEPT: Duration = Duration::from_hours(24 * 35);
/// Adds `ARGV[1]` to a count that lives for `ARGV[3]` milliseconds. It is at least `ARGV[2]`, what the worker knows of it: the
/// store may have lost its memory.
const ADD: &str = "local count = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, tonumber(ARGV[2])) + ARGV[1]
redis.call('SET', KEYS[1], string.format('%.0f', count), 'PX', ARGV[3])
return count";
/// Who is refused asks the store no sooner than after this time whether that still holds.
const LOOK: Duration = Duration::from_secs(1);

/// The budget of one app.
#[derive(Debug)]
pub(super) struct Budget {
    app: String,
    calls: u64,
    reserve: u64,
    store: Store,
    known: Mutex<Known>,
    metrics: Arc<Metrics>,
}

/// What this worker knows.
#[derive(Debug, Default)]
struct Known {
    /// `2026-11`
    month: String,
    /// Calls in it, by all workers.
    spent: u64,
    /// Calls of this worker that the store has not heard of.
    untold: u64,
    /// Calls of this worker that are under way.
    under_way: u64,
    looked: Option<Instant>,
}

/// A call that was let through and is under way.
#[derive(Debug)]
pub(super) struct Admitted<'a>(&'a Budget);

impl Budget {
    /// `None` where the settings name no budget.
    pub(super) fn new(app: &str, settings: &config::App, metrics: &Arc<Metrics>, store: &Store) -> Option<Self> {
        let calls = settings.monthly_calls?;
        metrics.month_calls_budget(app, calls);
        Some(Self {
            app: app.to_owned(),
            calls,
            reserve: settings.monthly_reserve,
            store: store.clone(),
            known: Mutex::default(),
            metrics: metrics.clone(),
        })
    }

    /// Refuses a call that is not urgent once what is left is kept for those that are.
    pub(super) async fn admit(&self, urgent: bool) -> Result<Admitted<'_>, Failure> {
        let month = this_month();
        let unsure = {
            let known = self.known();
            let current = known.month == month && known.looked.is_some();
            !current || (self.is_reserved(&known) && known.looked.is_none_or(|at| at.elapsed() >= LOOK))
        };
        if unsure && (self.reserve > 0 || matches!(self.store, Store::Redis(_))) {
            self.add(&month, 0).await;
        }
        let mut known = self.known();
        if urgent || !self.is_reserved(&known) {
            known.under_way += 1;
            return Ok(Admitted(self));
        }
        let detail = format!(
            "{} of {} calls of {month} are spent (monthly_calls), and the last {} are kept for urgent jobs (monthly_reserve)",
            known.spent, self.calls, self.reserve
        );
        Err(Failure::new(Reason::BudgetReserved, Class::Hold, detail))
    }

    fn is_reserved(&self, known: &Known) -> bool {
        known.spent + known.under_way + self.reserve > self.calls && self.reserve > 0
    }

    /// Counts `calls` more of `month`, here and in the store, and tells each mark that they reach.
    async fn add(&self, month: &str, calls: u64) {
        let (told, before) = {
            let mut known = self.known();
            if known.month != month {
                *known = Known {
                    month: month.to_owned(),
                    under_way: known.under_way,
                    ..Known::default()
                };
            }
            known.looked = Some(Instant::now());
            known.spent += calls;
            let told = std::mem::take(&mut known.untold) + calls;
            (told, known.spent - told)
        };
        let key = self.store.hidden_key("month", &[&self.app, month]);
        let kept = u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX);
        let sum = self.store.run::<u64>(ADD, &[&key], &[told, before, kept]).await;
        let mut known = self.known();
        if known.month != month {
            return;
        }
        match sum {
            Some(sum) => known.spent = sum,
            None => known.untold += told,
        }
        self.metrics.month_calls(&self.app, known.spent);
        let before = known.spent.saturating_sub(if sum.is_some() { told } else { calls });
        self.tell_marks(month, before, known.spent);
    }

    /// Of all workers the one whose call reaches a mark tells it.
    fn tell_marks(&self, month: &str, before: u64, spent: u64) {
        let reached = |calls: u64, mark: u64| calls.saturating_mul(100) >= self.calls.saturating_mul(mark);
        let mark = MARKS
            .iter()
            .rev()
            .find(|mark| reached(spent, **mark) && !reached(before, **mark));
        if let Some(percent) = mark {
            tracing::warn!(
                app = self.app,
                month,
                spent,
                monthly_calls = self.calls,
                monthly_reserve = self.reserve,
                "{percent} % of the month's calls are spent: buy an API quota pack in the DingTalk open platform, or send less"
            );
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted<'_> {
    /// It came to DingTalk, which counts it.
    pub(super) async fn spend(self) {
        self.0.add(&this_month(), 1).await;
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.known().under_way -= 1;
    }
}

/// DingTalk's months are China's, which has no summer time.
fn this_month() -> String {
    let china = Offset::constant(8).to_datetime(Timestamp::now());
    china.strftime("%Y-%m").to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::super::testing::{Bench, CREATE_AND_DELIVER, GET_BY_MOBILE, Host, canned, ok};
    use super::*;
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::store_with;
    use serde_json::json;

    const SPENT: &str = r#"dingcard_month_calls{app="default"}"#;

    fn bench(calls: &str, reserve: &str) -> Bench {
        Bench::new(&[
            ("apps.default.monthly_calls", calls),
            ("apps.default.monthly_reserve", reserve),
        ])
    }

    fn budget(bench: &Bench, store: &Store) -> Budget {
        Budget::new("default", &bench.config.apps["default"], &bench.metrics, store).unwrap()
    }

    async fn spend(budget: &Budget) {
        budget.admit(true).await.unwrap().spend().await;
    }

    async fn refused(budget: &Budget) -> bool {
        match budget.admit(false).await {
            Ok(_) => false,
            Err(failure) => {
                assert_eq!((failure.reason, failure.class), (Reason::BudgetReserved, Class::Hold));
                true
            }
        }
    }

    #[tokio::test]
    async fn the_last_calls_are_kept_for_urgent_jobs() {
        let bench = bench("5", "2");
        let budget = budget(&bench, &Store::InProcess);
        for _ in 0..3 {
            assert!(!refused(&budget).await);
            spend(&budget).await;
        }
        assert!(!refused(&budget).await, "two are left");
        spend(&budget).await;
        assert!(refused(&budget).await, "fewer than two are left");
        let _urgent = budget.admit(true).await.unwrap();
        spend(&budget).await;
        spend(&budget).await;
        let _urgent = budget.admit(true).await.unwrap();
        assert_eq!(bench.metric(SPENT), 6.0);
        assert_eq!(bench.metric(r#"dingcard_month_calls_budget{app="default"}"#), 5.0);
    }

    #[tokio::test]
    async fn calls_that_are_under_way_are_as_good_as_spent() {
        let bench = bench("3", "2");
        let budget = budget(&bench, &Store::InProcess);
        let (one, other) = (budget.admit(false).await.unwrap(), budget.admit(false).await.unwrap());
        assert!(refused(&budget).await);
        drop((one, other));
        assert!(!refused(&budget).await, "neither came to DingTalk");
    }

    #[tokio::test]
    async fn without_a_reserve_it_only_counts() {
        let bench = bench("1", "0");
        let budget = budget(&bench, &Store::InProcess);
        spend(&budget).await;
        spend(&budget).await;
        assert!(!refused(&budget).await);
    }

    #[tokio::test]
    async fn a_new_month_begins_at_nothing() {
        let bench = bench("2", "2");
        let budget = budget(&bench, &Store::InProcess);
        spend(&budget).await;
        assert!(refused(&budget).await);
        budget.known().month = "2001-02".to_owned();
        assert!(!refused(&budget).await);
    }

    #[tokio::test]
    async fn workers_count_together_and_what_was_spent_while_redis_was_away_is_told_later() {
        let mut server = RedisServer::start();
        let bench = bench("6", "4");
        let stores = [
            store_with(&server.url(), &bench.metrics).await,
            store_with(&server.url(), &bench.metrics).await,
        ];
        let (one, other) = (budget(&bench, &stores[0]), budget(&bench, &stores[1]));
        spend(&one).await;
        spend(&one).await;
        spend(&other).await;
        assert_eq!(bench.metric(SPENT), 3.0);
        server.kill();
        spend(&one).await;
        assert!(refused(&one).await, "it knows of three");
        server.restart();
        crate::store::testing::back(&stores[0]).await;
        crate::store::testing::back(&stores[1]).await;
        spend(&other).await;
        assert_eq!(
            bench.metric(SPENT),
            4.0,
            "the store lost its memory, but the workers did not"
        );
        spend(&one).await;
        assert_eq!(bench.metric(SPENT), 6.0);
    }

    #[tokio::test]
    async fn calls_for_cards_count_but_not_throttled_ones_nor_look_ups() {
        let host = Host::start().await;
        let throttled = json!({"code": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", "message": "slow down"});
        host.answer(
            CREATE_AND_DELIVER,
            [
                canned(403, &throttled),
                ok(&json!({"success": true})),
                canned(400, &json!({"code": "param.invalid", "message": "no"})),
            ],
        );
        host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": 0}))]);
        let bench = host.bench(&[("apps.default.monthly_calls", "100")]);
        let calls = bench.calls("default", &bench.http());
        for _ in 0..3 {
            let _any = calls
                .call(
                    super::super::Endpoint::CreateAndDeliver,
                    &super::super::Request::default(),
                )
                .await;
        }
        let _any = calls
            .call(super::super::Endpoint::GetByMobile, &super::super::Request::default())
            .await;
        assert_eq!(bench.metric(SPENT), 2.0);
    }

    #[test]
    fn months_are_written_as_year_and_month() {
        let month = this_month();
        assert!(month.len() == 7 && month.starts_with("20"), "{month}");
    }
}
