//! Every metric family: its name, its labels, and all label values that can occur, made at start.
//!
//! Separate so that the whole page can be read in one place and no other file spells a metric's name. It keeps no state
//! of its own beyond the counters, and no label ever holds a mobile, a user ID, a job ID or free text.

use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::outcome::{Class, Outcome, Reason};

/// Buckets of waits that a person or a broker causes: 5 ms to 6 h.
const LONG_WAITS: &[f64] = &[
    0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0, 1800.0, 21600.0,
];
/// Buckets of one HTTP call: 5 ms to 10 s.
const CALLS: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// How a look-up of a user ID ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserCache {
    /// The user ID was remembered.
    Hit,
    /// It was remembered that nobody has this mobile.
    NegativeHit,
    /// DingTalk was asked.
    Miss,
}

/// All families of one worker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: IntCounterVec,
    recipients: IntCounterVec,
    dead_letters: IntCounterVec,
    api_requests: IntCounterVec,
    api_duration: HistogramVec,
    end_to_end: HistogramVec,
    queue_wait: HistogramVec,
    user_cache: IntCounterVec,
    token_refreshes: IntCounterVec,
    rate_limit_wait: HistogramVec,
    rate_limit: GaugeVec,
    month_calls: GaugeVec,
    month_calls_budget: GaugeVec,
    app_hold: IntGaugeVec,
    /// Deliveries that are not settled yet.
    pub jobs_in_flight: IntGauge,
    /// `amqp.prefetch`.
    pub prefetch: IntGauge,
    /// 1 while the worker's consumers are there.
    pub consuming: IntGauge,
    /// 1 while both connections are there.
    pub broker_connected: IntGauge,
    /// Connections made after the first.
    pub broker_reconnects: IntCounter,
    /// 1 while the broker blocks publishers (alarm).
    pub publisher_blocked: IntGauge,
    /// 1 while Redis serves. On the page only where one is configured ([`Metrics::expect_redis`]).
    pub redis_connected: IntGauge,
}

/// The reasons that can stand beside an outcome of a recipient.
fn reasons_of(outcome: Outcome) -> Vec<Reason> {
    let of = |keep: fn(&Reason) -> bool| Reason::ALL.iter().copied().filter(keep).collect();
    match outcome {
        Outcome::Delivered => vec![Reason::None, Reason::Unconfirmed],
        Outcome::Duplicate | Outcome::Expired => vec![Reason::None],
        Outcome::Retried => of(|r| {
            matches!(
                r.class(),
                Some(Class::Throttle | Class::Hold | Class::Auth | Class::Transient)
            ) || *r == Reason::CardMissing
        }),
        Outcome::Dead => of(|r| {
            matches!(r.class(), Some(Class::Recipient | Class::Permanent))
                || matches!(r, Reason::AttemptsExhausted | Reason::DeliveryLimit | Reason::Panic)
        }),
    }
}

/// Registers a family; the names below are distinct and valid, so this cannot fail but in a test run.
fn register<C: prometheus::core::Collector + Clone + 'static>(
    registry: &Registry,
    family: prometheus::Result<C>,
) -> prometheus::Result<C> {
    let family = family?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

impl Metrics {
    /// The families, with a value for each of `apps` (and for jobs without a known app).
    ///
    /// # Errors
    /// Where two families had one name: a fault of this file.
    #[allow(
        clippy::too_many_lines,
        reason = "one declaration a family; splitting would hide the list"
    )]
    pub fn new(apps: &[&str]) -> prometheus::Result<Self> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            register(&registry, IntCounterVec::new(Opts::new(name, help), labels))
        };
        let histograms = |name: &str, help: &str, labels: &[&str], buckets: &[f64]| {
            let opts = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            register(&registry, HistogramVec::new(opts, labels))
        };
        let gauges =
            |name: &str, help: &str, labels: &[&str]| register(&registry, GaugeVec::new(Opts::new(name, help), labels));
        let gauge = |name: &str, help: &str| register(&registry, IntGauge::new(name, help));

        let metrics = Self {
            jobs: counters(
                "dingcard_jobs_total",
                "Jobs by their worst outcome when settled for good, and each hand-over as retried.",
                &["app", "outcome"],
            )?,
            recipients: counters(
                "dingcard_recipients_total",
                "Recipients by what became of them and why.",
                &["app", "outcome", "reason"],
            )?,
            dead_letters: counters(
                "dingcard_dead_letters_total",
                "Dead letters that this worker wrote.",
                &["app", "reason"],
            )?,
            api_requests: counters(
                "dingcard_api_requests_total",
                "Calls to DingTalk by endpoint and by result: ok, or what the answer asks for.",
                &["app", "endpoint", "result"],
            )?,
            api_duration: histograms(
                "dingcard_api_request_duration_seconds",
                "Duration of calls to DingTalk.",
                &["endpoint"],
                CALLS,
            )?,
            end_to_end: histograms(
                "dingcard_end_to_end_seconds",
                "From publication to delivery of a job's recipients.",
                &["app"],
                LONG_WAITS,
            )?,
            queue_wait: histograms(
                "dingcard_queue_wait_seconds",
                "From publication to the first arrival at a worker.",
                &["app"],
                LONG_WAITS,
            )?,
            user_cache: counters(
                "dingcard_user_cache_total",
                "Look-ups of user IDs by mobile.",
                &["result"],
            )?,
            token_refreshes: counters(
                "dingcard_token_refreshes_total",
                "Token fetches: ok, or what the answer asks for.",
                &["app", "result"],
            )?,
            rate_limit_wait: histograms(
                "dingcard_rate_limit_wait_seconds",
                "How long calls waited for their turn.",
                &["app"],
                LONG_WAITS,
            )?,
            rate_limit: gauges(
                "dingcard_rate_limit_per_second",
                "Calls a second that an app takes now, in the whole fleet where Redis is there; 0 is no limit.",
                &["app"],
            )?,
            month_calls: gauges(
                "dingcard_month_calls",
                "Calls of this month (Asia/Shanghai) that DingTalk's quota counts; only for apps with monthly_calls.",
                &["app"],
            )?,
            month_calls_budget: gauges("dingcard_month_calls_budget", "monthly_calls of an app.", &["app"])?,
            app_hold: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("dingcard_app_hold", "1 while an app is on hold for this reason."),
                    &["app", "reason"],
                ),
            )?,
            jobs_in_flight: gauge("dingcard_jobs_in_flight", "Deliveries in work, not settled yet.")?,
            prefetch: gauge("dingcard_prefetch", "Jobs of each queue that may be in work at once.")?,
            consuming: gauge("dingcard_consuming", "1 while this worker consumes.")?,
            broker_connected: gauge("dingcard_broker_connected", "1 while the broker is connected.")?,
            broker_reconnects: register(
                &registry,
                IntCounter::new(
                    "dingcard_broker_reconnects_total",
                    "Connections to the broker after the first.",
                ),
            )?,
            publisher_blocked: gauge("dingcard_publisher_blocked", "1 while the broker blocks publishers.")?,
            redis_connected: IntGauge::new(
                "dingcard_redis_connected",
                "1 while Redis serves; absent where none is configured.",
            )?,
            registry: registry.clone(),
        };
        let build = register(
            &registry,
            Gauge::with_opts(
                Opts::new("dingcard_build_info", "1, with the version that runs.")
                    .const_label("version", env!("CARGO_PKG_VERSION")),
            ),
        )?;
        build.set(1.0);
        registry.register(Box::new(ProcessCollector::for_self()))?;
        metrics.create_closed_sets(apps);
        Ok(metrics)
    }

    fn create_closed_sets(&self, apps: &[&str]) {
        for app in apps.iter().copied().chain([crate::outcome::UNKNOWN_APP]) {
            for outcome in Outcome::ALL {
                self.jobs.with_label_values(&[app, outcome.as_str()]);
                for reason in reasons_of(*outcome) {
                    self.recipients
                        .with_label_values(&[app, outcome.as_str(), reason.as_str()]);
                }
            }
            for reason in reasons_of(Outcome::Dead) {
                self.dead_letters.with_label_values(&[app, reason.as_str()]);
            }
        }
        for app in apps {
            for result in results() {
                self.token_refreshes.with_label_values(&[app, result]);
            }
            for reason in Reason::ALL.iter().filter(|r| r.holds()) {
                self.app_hold.with_label_values(&[*app, reason.as_str()]);
            }
            self.end_to_end.with_label_values(&[app]);
            self.queue_wait.with_label_values(&[app]);
            self.rate_limit_wait.with_label_values(&[app]);
            self.rate_limit.with_label_values(&[app]);
        }
        for result in ["hit", "negative_hit", "miss"] {
            self.user_cache.with_label_values(&[result]);
        }
    }

    /// Creates the series of calls that `app` can make.
    pub fn expect_calls(&self, app: &str, endpoints: &[&str]) {
        for endpoint in endpoints {
            self.api_duration.with_label_values(&[endpoint]);
            for result in results() {
                self.api_requests.with_label_values(&[app, endpoint, result]);
            }
        }
    }

    /// Puts the gauge of Redis on the page: without a Redis it would read as one that is away.
    pub fn expect_redis(&self) {
        // Refused only where it is there already.
        let _there = self.registry.register(Box::new(self.redis_connected.clone()));
    }

    /// A job was settled for good, or handed over ([`Outcome::Retried`]).
    pub fn job(&self, app: &str, outcome: Outcome) {
        self.jobs.with_label_values(&[app, outcome.as_str()]).inc();
    }

    /// What became of `count` recipients.
    pub fn recipients(&self, app: &str, outcome: Outcome, reason: Reason, count: usize) {
        self.recipients
            .with_label_values(&[app, outcome.as_str(), reason.as_str()])
            .inc_by(count as u64);
    }

    /// A dead letter was written.
    pub fn dead_letter(&self, app: &str, reason: Reason) {
        self.dead_letters.with_label_values(&[app, reason.as_str()]).inc();
    }

    /// A call to DingTalk ended: well (`None`), or with what the answer asks for.
    pub fn api_request(&self, app: &str, endpoint: &str, failure: Option<Class>, took: Duration) {
        self.api_requests
            .with_label_values(&[app, endpoint, result(failure)])
            .inc();
        self.api_duration
            .with_label_values(&[endpoint])
            .observe(took.as_secs_f64());
    }

    /// A token fetch ended.
    pub fn token_refresh(&self, app: &str, failure: Option<Class>) {
        self.token_refreshes.with_label_values(&[app, result(failure)]).inc();
    }

    /// A user ID was looked for.
    pub fn user_cache(&self, result: UserCache) {
        let result = match result {
            UserCache::Hit => "hit",
            UserCache::NegativeHit => "negative_hit",
            UserCache::Miss => "miss",
        };
        self.user_cache.with_label_values(&[result]).inc();
    }

    /// A call waited for its turn.
    pub fn rate_limit_wait(&self, app: &str, waited: Duration) {
        self.rate_limit_wait
            .with_label_values(&[app])
            .observe(waited.as_secs_f64());
    }

    /// The rate that an app takes now.
    pub fn rate_limit(&self, app: &str, per_second: f64) {
        self.rate_limit.with_label_values(&[app]).set(per_second);
    }

    /// What an app may spend in a month.
    #[allow(clippy::cast_precision_loss, reason = "nobody has so many calls")]
    pub fn month_calls_budget(&self, app: &str, calls: u64) {
        self.month_calls_budget.with_label_values(&[app]).set(calls as f64);
        self.month_calls(app, 0);
    }

    /// What it has spent.
    #[allow(clippy::cast_precision_loss, reason = "nobody has so many calls")]
    pub fn month_calls(&self, app: &str, calls: u64) {
        self.month_calls.with_label_values(&[app]).set(calls as f64);
    }

    /// An app went on hold for `reason`, or came off it.
    pub fn app_hold(&self, app: &str, reason: Reason, held: bool) {
        self.app_hold
            .with_label_values(&[app, reason.as_str()])
            .set(i64::from(held));
    }

    /// From publication to delivery.
    pub fn end_to_end(&self, app: &str, took: Duration) {
        self.end_to_end.with_label_values(&[app]).observe(took.as_secs_f64());
    }

    /// From publication to the first arrival.
    pub fn queue_wait(&self, app: &str, took: Duration) {
        self.queue_wait.with_label_values(&[app]).observe(took.as_secs_f64());
    }

    /// The page, in Prometheus's text format.
    ///
    /// # Errors
    /// Where a family cannot be written as text.
    pub fn page(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn result(failure: Option<Class>) -> &'static str {
    failure.map_or("ok", Class::as_str)
}

fn results() -> impl Iterator<Item = &'static str> {
    ["ok"].into_iter().chain(Class::ALL.iter().map(|c| c.as_str()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn series(page: &str) -> usize {
        page.lines().filter(|l| !l.starts_with('#')).count()
    }

    #[test]
    fn every_label_value_of_a_closed_set_is_there_from_the_start() {
        let page = Metrics::new(&["default"]).unwrap().page().unwrap();
        for line in [
            r#"dingcard_jobs_total{app="default",outcome="duplicate"} 0"#,
            r#"dingcard_recipients_total{app="unknown",outcome="dead",reason="invalid_job"} 0"#,
            r#"dingcard_app_hold{app="default",reason="bad_credentials"} 0"#,
            r#"dingcard_user_cache_total{result="negative_hit"} 0"#,
            r#"dingcard_token_refreshes_total{app="default",result="hold"} 0"#,
        ] {
            assert!(page.contains(line), "{line} is missing");
        }
    }

    #[test]
    fn ten_apps_stay_below_two_thousand_series() {
        let apps: Vec<String> = (0..10).map(|n| format!("app{n}")).collect();
        let apps: Vec<&str> = apps.iter().map(String::as_str).collect();
        let metrics = Metrics::new(&apps).unwrap();
        for app in &apps {
            metrics.expect_calls(app, &["token", "getbymobile", "createAndDeliver", "deliver", "update"]);
        }
        let count = series(&metrics.page().unwrap());
        assert!(count <= 2000, "{count}");
    }
}
