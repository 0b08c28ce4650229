//! The pace of calls: how many an app may make a second, and who goes first.
//!
//! Separate because a limit is shared by everything that calls, and must be exact whoever calls. It paces evenly: DingTalk
//! counts in windows of one second, where a bucket with a burst would pass more than its rate. Where workers share a store,
//! the pace is the fleet's (`fleet`); without one, and while it is away, the worker's own. It sends nothing and knows no
//! answer; whoever was throttled says so here.

mod fleet;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use self::fleet::Fleet;
use crate::store::Store;

/// A throttled app that was not told how long to wait, waits this long: DingTalk's window.
const WINDOW: Duration = Duration::from_secs(1);
/// What is left of the rate after a throttle answer.
const CUT: f64 = 0.75;
/// No app is slowed below this, in calls a second.
const SLOWEST: f64 = 0.1;

/// The urgent callers of an app that wait for a permit; while there are any, nobody else of that app gets one.
#[derive(Debug, Clone)]
pub struct Gate(Arc<watch::Sender<usize>>);

/// The limit of one app for one endpoint.
#[derive(Debug)]
pub struct Limiter {
    /// Calls a second as configured; 0 is no limit.
    configured: f64,
    gate: Gate,
    fleet: Option<Fleet>,
    /// Whoever holds it is next.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The earliest time of the next call by this worker's own pace.
    next: Instant,
    /// A permit that somebody waits for, or waited for and gave up.
    permit: Option<Instant>,
    /// Calls a second after the last cut.
    rate: f64,
    /// When that was.
    cut_at: Instant,
}

impl Default for Gate {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }
}

/// One urgent caller that waits.
struct Waiting<'a>(&'a Gate);

impl Gate {
    fn enter(&self) -> Waiting<'_> {
        self.0.send_modify(|waiting| *waiting += 1);
        Waiting(self)
    }

    fn is_open(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Ends once an urgent caller waits (`false`), or none does (`true`).
    async fn becomes(&self, open: bool) {
        // The sender lives as long as `self`, so there is always an answer.
        let mut waiting = self.0.subscribe();
        let _always = waiting.wait_for(|waiting| (*waiting == 0) == open).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Limiter {
    /// A limit of `per_second` calls, 0 for none, of this worker alone. Its urgent callers share `gate` with those of the
    /// app's other limits.
    #[must_use]
    pub fn new(per_second: f64, gate: Gate) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State {
            next: now,
            permit: None,
            rate: per_second,
            cut_at: now,
        });
        Self {
            configured: per_second,
            gate,
            fleet: None,
            turn: tokio::sync::Mutex::new(()),
            state,
        }
    }

    /// The same limit for all workers that share `store`: there it is `name` of `app`.
    #[must_use]
    pub fn shared(self, store: &Store, app: &str, name: &str) -> Self {
        let fleet = Fleet::new(store, app, name).filter(|_| !self.is_unlimited());
        Self { fleet, ..self }
    }

    /// Waits for a permit. A caller that gives up costs nobody a permit.
    pub async fn acquire(&self, urgent: bool) {
        let _waiting = urgent.then(|| self.gate.enter());
        loop {
            if !urgent {
                self.gate.becomes(true).await;
            }
            if self.is_unlimited() && self.state().next <= Instant::now() {
                return;
            }
            let _turn = self.turn.lock().await;
            match self.permit(urgent).await {
                fleet::Turn::At(time) => {
                    tokio::time::sleep_until(time).await;
                    // An urgent caller that came meanwhile takes this permit.
                    if (urgent || self.gate.is_open()) && self.take() {
                        return;
                    }
                }
                fleet::Turn::After(time) => tokio::select! {
                    () = tokio::time::sleep_until(time) => {}
                    () = self.gate.becomes(false), if !urgent => {}
                },
            }
        }
    }

    /// A call was throttled. Where the fleet was told, all workers wait for as long as DingTalk named, if that is no shorter
    /// than the window, or, where such answers come one after the other, slow down for a moment. Else nobody of this worker
    /// calls for `wait`, or for a second; then its pace is slower, and regains one call a second each minute.
    pub async fn throttled(&self, wait: Option<Duration>) {
        // Less than a second is no punishment but the end of the window, which the text rounds to the second.
        let named = wait.filter(|wait| *wait >= WINDOW);
        let told = match &self.fleet {
            Some(fleet) => fleet.throttled(self.configured, named).await,
            None => false,
        };
        let now = Instant::now();
        let rate = self.uncut();
        let mut state = self.state();
        if told && named.is_none() {
            return;
        }
        state.next = state.next.max(now + wait.unwrap_or(WINDOW));
        state.permit = None;
        // Calls that were under way together are refused together; that is one cut.
        let cut_anew = state.rate >= self.configured || now - state.cut_at >= WINDOW;
        if !told && !self.is_unlimited() && cut_anew {
            state.rate = (rate * CUT).max(SLOWEST.min(self.configured));
            state.cut_at = now;
        }
    }

    /// Calls a second at present: the fleet's, or this worker's where it is by itself. 0 is no limit.
    #[must_use]
    pub fn rate(&self) -> f64 {
        match &self.fleet {
            Some(fleet) if fleet.serves() => self.configured,
            _ => self.own_rate(),
        }
    }

    /// What this worker may take by itself.
    fn own_rate(&self) -> f64 {
        let rate = self.uncut();
        self.fleet.as_ref().map_or(rate, |fleet| fleet.share(rate))
    }

    /// The configured rate, less what throttle answers cut off it.
    fn uncut(&self) -> f64 {
        let state = self.state();
        let minutes = u32::try_from(state.cut_at.elapsed().as_secs() / 60).unwrap_or(u32::MAX);
        (state.rate + f64::from(minutes)).min(self.configured)
    }

    fn is_unlimited(&self) -> bool {
        self.configured == 0.0
    }

    /// The distance of this worker's calls by its own pace.
    fn interval(&self) -> Duration {
        if self.is_unlimited() {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(1.0 / self.own_rate())
        }
    }

    /// When the next call of this worker may be made.
    async fn permit(&self, urgent: bool) -> fleet::Turn {
        // One that nobody used in its time could meet the next.
        let is_good = |at: &Instant| at.elapsed().as_secs_f64() * self.configured < 1.0;
        let left_over = self.state().permit.filter(is_good);
        if let Some(at) = left_over {
            return fleet::Turn::At(at);
        }
        let next = self.state().next;
        let given = match &self.fleet {
            // Not all have noticed that Redis is back, so the share still holds; and a slot is asked for no sooner than it
            // can be used, or the calls would come later than their slots, and meet those of the next.
            Some(fleet) if fleet.is_settling() && next > Instant::now() => return fleet::Turn::After(next),
            Some(fleet) => fleet.turn(self.configured, urgent).await,
            None => None,
        };
        let at = match given {
            Some(fleet::Turn::After(time)) => return fleet::Turn::After(time),
            Some(fleet::Turn::At(time)) => time,
            None => self.state().next,
        };
        self.state().permit = Some(at);
        fleet::Turn::At(at)
    }

    /// Uses the permit, if it is still good: a throttle answer may have taken it back.
    fn take(&self) -> bool {
        let interval = self.interval();
        let mut state = self.state();
        let Some(permit) = state.permit.take() else {
            return false;
        };
        state.next = permit.max(Instant::now()) + interval;
        true
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;
    use crate::metrics::Metrics;
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::{back, store, store_with};

    async fn times(limiter: &Limiter, calls: usize) -> Vec<u128> {
        let begun = Instant::now();
        let call = |_| async move {
            limiter.acquire(false).await;
            begun.elapsed().as_millis()
        };
        let mut times = join_all((0..calls).map(call)).await;
        times.sort_unstable();
        times
    }

    #[tokio::test(start_paused = true)]
    async fn calls_are_paced_evenly_and_never_pass_the_rate_in_any_second() {
        let limiter = Limiter::new(10.0, Gate::default());
        let times = times(&limiter, 40).await;
        for window in times.windows(11) {
            assert!(window[10] - window[0] >= 1000, "{window:?}");
        }
        assert!(times[39] <= 4000, "the rate is used: {times:?}");
    }

    /// The limit of 20 a second as one of the workers on `server` has it.
    async fn shared(server: &RedisServer) -> Limiter {
        Limiter::new(20.0, Gate::default()).shared(&store(&server.url()).await, "default", "deliver")
    }

    /// The times of `calls` by each of `limiters`, in milliseconds.
    async fn times_of(limiters: &[Limiter], calls: usize) -> Vec<u128> {
        let begun = Instant::now();
        let call = |n: usize| async move {
            limiters[n % limiters.len()].acquire(false).await;
            begun.elapsed().as_millis()
        };
        let mut times = join_all((0..calls).map(call)).await;
        times.sort_unstable();
        times
    }

    #[tokio::test]
    async fn a_fleet_takes_the_rate_of_one_worker_and_each_a_share_of_it_while_redis_is_away() {
        let mut server = RedisServer::start();
        let fleet = [
            shared(&server).await,
            shared(&server).await,
            shared(&server).await,
            shared(&server).await,
        ];
        let together = times_of(&fleet, 40).await;
        assert!(together[39] - together[0] >= 39 * 50, "{together:?}");
        server.kill();
        let by_themselves = times_of(&fleet, 24).await;
        // Six each at five a second, whenever each noticed.
        assert!(by_themselves[23] >= 5 * 200, "{by_themselves:?}");
        assert!(fleet.iter().any(|limiter| limiter.rate() < 20.0));
    }

    #[tokio::test]
    async fn a_worker_that_never_saw_its_fleet_takes_one_call_a_second() {
        let server = RedisServer::reserve();
        let limiter = shared(&server).await;
        assert_eq!(limiter.rate(), 1.0);
        assert!(times(&limiter, 2).await[1] >= 1000);
    }

    #[tokio::test]
    async fn a_throttle_answer_to_one_stops_the_fleet_for_the_named_time() {
        let server = RedisServer::start();
        let fleet = [shared(&server).await, shared(&server).await];
        let begun = Instant::now();
        fleet[0].throttled(Some(WINDOW)).await;
        fleet[1].acquire(false).await;
        assert!(begun.elapsed() >= WINDOW);
        assert_eq!(fleet[0].rate(), 20.0, "no cut: the pace is everybody's");
    }

    #[tokio::test]
    async fn throttle_answers_without_a_time_slow_the_fleet_more_and_more() {
        let server = RedisServer::start();
        let limiter = shared(&server).await;
        limiter.acquire(false).await;
        let begun = Instant::now();
        // Half a second's calls for nothing; then one slot, two, four and eight.
        for _ in 0..9 + 4 {
            limiter.throttled(None).await;
        }
        limiter.acquire(false).await;
        assert!(begun.elapsed() >= Duration::from_millis(15 * 50));
    }

    /// When the next slot is, in microseconds of the server's clock.
    fn next_slot(server: &RedisServer) -> u128 {
        let entries = server.entries();
        let slot = entries.iter().find(|(key, _)| key.contains(":slot:"));
        slot.map_or(0, |(_, value)| value.parse().unwrap())
    }

    /// The same clock, since the server is on this machine.
    fn clock() -> u128 {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()
    }

    #[tokio::test]
    async fn a_call_that_met_a_full_window_delays_nobody() {
        let server = RedisServer::start();
        let limiter = Limiter::new(0.5, Gate::default()).shared(&store(&server.url()).await, "default", "deliver");
        limiter.acquire(false).await;
        let slot = next_slot(&server);
        limiter.throttled(Some(Duration::from_millis(999))).await;
        assert_eq!(next_slot(&server), slot);
    }

    #[tokio::test]
    async fn after_redis_is_back_a_slot_is_asked_for_when_the_share_allows_the_call_and_not_before() {
        let mut server = RedisServer::start();
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let store = store_with(&server.url(), &metrics).await;
        let limiter = Limiter::new(20.0, Gate::default()).shared(&store, "default", "deliver");
        server.kill();
        while metrics.redis_connected.get() != 0 {
            limiter.acquire(false).await;
        }
        server.restart();
        back(&store).await;
        let wait = Duration::from_millis(500);
        limiter.state().next = Instant::now() + wait;
        let due = clock() + wait.as_micros();
        limiter.acquire(false).await;
        // The slot after the call's own: of slots that were given out before their time, another worker would take the place.
        assert!(next_slot(&server) >= due);
    }

    #[tokio::test]
    async fn an_urgent_caller_of_one_worker_goes_before_the_callers_of_all() {
        let server = RedisServer::start();
        let slow =
            || async { Limiter::new(2.0, Gate::default()).shared(&store(&server.url()).await, "default", "deliver") };
        let (one, other) = (slow().await, slow().await);
        one.acquire(false).await;
        let mut urgent = Box::pin(one.acquire(true));
        // It has asked for its slot once the mark is there.
        while server.entries().len() < 2 {
            assert!(poll!(&mut urgent).is_pending());
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            () = &mut urgent => {}
            () = other.acquire(false) => panic!("the urgent caller goes first"),
        }
        other.acquire(false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn no_limit_means_no_wait_until_somebody_is_throttled() {
        let limiter = Limiter::new(0.0, Gate::default());
        assert_eq!(times(&limiter, 100).await[99], 0);
        limiter.throttled(None).await;
        assert!(times(&limiter, 1).await[0] >= 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_answer_stops_all_for_the_named_time_and_cuts_the_rate_by_a_quarter_once() {
        let limiter = Limiter::new(20.0, Gate::default());
        let begun = Instant::now();
        limiter.throttled(Some(Duration::from_secs(7))).await;
        limiter.throttled(Some(Duration::from_secs(7))).await;
        limiter.acquire(false).await;
        assert!(begun.elapsed() >= Duration::from_secs(7));
        assert_eq!(limiter.rate(), 15.0);
        tokio::time::advance(Duration::from_mins(2)).await;
        assert_eq!(limiter.rate(), 17.0);
        tokio::time::advance(Duration::from_hours(1)).await;
        assert_eq!(limiter.rate(), 20.0);
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_urgent_caller_waits_nobody_else_gets_a_permit() {
        let gate = Gate::default();
        let (limiter, other) = (Limiter::new(1.0, gate.clone()), Limiter::new(1.0, gate));
        limiter.acquire(false).await;
        let mut plain = Box::pin(limiter.acquire(false));
        assert!(poll!(&mut plain).is_pending());
        let mut urgent = Box::pin(limiter.acquire(true));
        assert!(poll!(&mut urgent).is_pending());
        let mut elsewhere = Box::pin(other.acquire(false));
        assert!(poll!(&mut elsewhere).is_pending(), "the gate is the app's");
        tokio::time::advance(Duration::from_secs(1)).await;
        tokio::select! {
            () = &mut urgent => {}
            () = &mut plain => panic!("the urgent caller goes first"),
        }
        elsewhere.await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_gives_up_costs_nobody_a_permit() {
        let limiter = Limiter::new(1.0, Gate::default());
        limiter.acquire(false).await;
        let begun = Instant::now();
        let mut given_up = Box::pin(limiter.acquire(true));
        assert!(poll!(&mut given_up).is_pending());
        drop(given_up);
        limiter.acquire(false).await;
        assert!(begun.elapsed() <= Duration::from_secs(1));
    }
}
