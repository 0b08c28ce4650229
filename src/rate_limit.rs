//! The pace of calls: how many an app may make a second, and who goes first.
//!
//! Separate because a limit is shared by everything that calls, and must be exact whoever calls. It paces evenly: DingTalk
//! counts in windows of one second, where a bucket with a burst would pass more than its rate. It sends nothing and
//! knows no answer; whoever was throttled says so here.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

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
    /// Whoever holds it is next.
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// The earliest time of the next call.
    next: Instant,
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

    async fn opened(&self) {
        // The sender lives as long as `self`, so there is always an answer.
        let mut waiting = self.0.subscribe();
        let _always = waiting.wait_for(|waiting| *waiting == 0).await;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Limiter {
    /// A limit of `per_second` calls, 0 for none, whose urgent callers share `gate` with those of the app's other limits.
    #[must_use]
    pub fn new(per_second: f64, gate: Gate) -> Self {
        let now = Instant::now();
        let state = Mutex::new(State {
            next: now,
            rate: per_second,
            cut_at: now,
        });
        Self {
            configured: per_second,
            gate,
            turn: tokio::sync::Mutex::new(()),
            state,
        }
    }

    /// Waits for a permit. A caller that gives up costs nobody a permit.
    pub async fn acquire(&self, urgent: bool) {
        let _waiting = urgent.then(|| self.gate.enter());
        loop {
            if !urgent {
                self.gate.opened().await;
            }
            if self.is_unlimited() && self.state().next <= Instant::now() {
                return;
            }
            let _turn = self.turn.lock().await;
            self.until_next().await;
            // An urgent caller that came meanwhile takes this permit.
            if urgent || self.gate.is_open() {
                let interval = self.interval();
                let mut state = self.state();
                state.next = state.next.max(Instant::now()) + interval;
                return;
            }
        }
    }

    /// A call was throttled: nobody calls for `wait`, or for a second; then the pace is slower, and regains one call a
    /// second each minute.
    pub fn throttled(&self, wait: Option<Duration>) {
        let now = Instant::now();
        let rate = self.rate();
        let mut state = self.state();
        state.next = state.next.max(now + wait.unwrap_or(WINDOW));
        // Calls that were under way together are refused together; that is one cut.
        if !self.is_unlimited() && (state.rate >= self.configured || now - state.cut_at >= WINDOW) {
            state.rate = (rate * CUT).max(SLOWEST.min(self.configured));
            state.cut_at = now;
        }
    }

    /// Calls a second at present; 0 is no limit.
    #[must_use]
    pub fn rate(&self) -> f64 {
        let state = self.state();
        let minutes = u32::try_from(state.cut_at.elapsed().as_secs() / 60).unwrap_or(u32::MAX);
        (state.rate + f64::from(minutes)).min(self.configured)
    }

    fn is_unlimited(&self) -> bool {
        self.configured == 0.0
    }

    fn interval(&self) -> Duration {
        if self.is_unlimited() {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(1.0 / self.rate())
        }
    }

    /// Waits for the time of the next call, which a throttle answer may move meanwhile.
    async fn until_next(&self) {
        loop {
            let next = self.state().next;
            if next <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use futures_util::future::join_all;
    use futures_util::poll;

    use super::*;

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

    #[tokio::test(start_paused = true)]
    async fn no_limit_means_no_wait_until_somebody_is_throttled() {
        let limiter = Limiter::new(0.0, Gate::default());
        assert_eq!(times(&limiter, 100).await[99], 0);
        limiter.throttled(None);
        assert!(times(&limiter, 1).await[0] >= 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn a_throttle_answer_stops_all_for_the_named_time_and_cuts_the_rate_by_a_quarter_once() {
        let limiter = Limiter::new(20.0, Gate::default());
        let begun = Instant::now();
        limiter.throttled(Some(Duration::from_secs(7)));
        limiter.throttled(Some(Duration::from_secs(7)));
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
