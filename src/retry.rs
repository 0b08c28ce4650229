//! When to try again: a pure decision, on `backoff`'s exponential schedule.
//!
//! Separate because it is the one place that knows `backoff`, and because a schedule that touches no clock and no socket
//! can be tested to the last case. It never sleeps and never publishes; the waiting is the broker's (`amqp::delay`) or
//! the caller's.

use std::time::Duration;

use backoff::SystemClock;
use backoff::backoff::Backoff as _;
use backoff::exponential::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::config::Retry;

/// A schedule that goes on for ever: each wait is uniform over (0, interval], and the interval grows up to a bound.
///
/// Full jitter, so that what failed together does not come back together. `backoff` applies its own jitter after its cap
/// and cannot be seeded, hence its factor is 0 and the draw is made here.
pub struct Schedule(ExponentialBackoff<SystemClock>);

impl Schedule {
    /// The schedule of reconnects: 100 ms, doubling to `max`.
    #[must_use]
    pub fn reconnect(max: Duration) -> Self {
        Self::new(Duration::from_millis(100), 2.0, max)
    }

    /// A schedule from its first interval, its growth and its largest interval.
    #[must_use]
    pub fn new(initial: Duration, multiplier: f64, max: Duration) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(initial.min(max))
                .with_multiplier(multiplier)
                .with_randomization_factor(0.0)
                .with_max_interval(max)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// The next interval, without jitter.
    fn interval(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(self.0.max_interval)
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        jittered(self.interval())
    }

    /// Back to the first interval.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// The waits inside one attempt: `retry.immediate` of them, from 50 ms.
pub struct Immediate {
    schedule: Schedule,
    left: u32,
}

/// The immediate tier of retry.
#[must_use]
pub fn immediate(settings: &Retry) -> Immediate {
    let schedule = Schedule::new(Duration::from_millis(50), settings.multiplier, Duration::from_secs(1));
    Immediate {
        schedule,
        left: settings.immediate,
    }
}

impl Iterator for Immediate {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.left = self.left.checked_sub(1)?;
        Some(self.schedule.wait())
    }
}

/// How long a job waits in the broker after attempt number `attempt` (1 for the first), or `None` when that was the last.
///
/// A wait that DingTalk `named` is kept whole, plus up to a fifth.
#[must_use]
pub fn delayed(settings: &Retry, attempt: u32, named: Option<Duration>) -> Option<Duration> {
    (attempt < settings.max_attempts).then(|| match named {
        Some(wait) => named_wait(wait),
        None => jittered(interval(settings, attempt)),
    })
}

/// A wait that somebody else named, plus up to a fifth, so that all who were told the same do not come at once.
#[must_use]
pub fn named_wait(wait: Duration) -> Duration {
    wait + wait.mul_f64(0.2 * rand::random::<f64>())
}

/// The interval after attempt number `attempt`, before jitter.
fn interval(settings: &Retry, attempt: u32) -> Duration {
    let mut schedule = Schedule::new(settings.initial, settings.multiplier, settings.max_delay);
    (1..attempt.min(1000)).for_each(|_| {
        schedule.interval();
    });
    schedule.interval()
}

/// Uniform over (0, `interval`].
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(1.0 - rand::random::<f64>())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Retry {
        let defaults = crate::config::Config::load(None, []).unwrap().retry;
        Retry {
            initial: Duration::from_secs(10),
            multiplier: 2.0,
            max_delay: Duration::from_mins(1),
            max_attempts: 5,
            ..defaults
        }
    }

    #[test]
    fn the_interval_doubles_up_to_the_largest_delay() {
        let seconds: Vec<_> = (1..=5).map(|n| interval(&settings(), n).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 60, 60]);
    }

    #[test]
    fn the_last_attempt_is_followed_by_none() {
        assert!(delayed(&settings(), 4, None).is_some());
        assert_eq!(delayed(&settings(), 5, None), None);
        assert_eq!(delayed(&settings(), 5, Some(Duration::from_secs(1))), None);
    }

    #[test]
    fn the_immediate_tier_has_as_many_waits_as_configured() {
        assert_eq!(
            immediate(&Retry {
                immediate: 3,
                ..settings()
            })
            .count(),
            3
        );
        assert_eq!(
            immediate(&Retry {
                immediate: 0,
                ..settings()
            })
            .count(),
            0
        );
    }

    proptest! {
        #[test]
        fn own_delays_lie_in_zero_to_interval(attempt in 1_u32..5) {
            let wait = delayed(&settings(), attempt, None).unwrap();
            prop_assert!(wait > Duration::ZERO && wait <= interval(&settings(), attempt));
        }

        #[test]
        fn a_named_wait_is_never_shortened(named in 0_u64..100_000) {
            let named = Duration::from_millis(named);
            let wait = named_wait(named);
            prop_assert!(wait >= named && wait <= named.mul_f64(1.21));
        }

        #[test]
        fn no_attempt_number_overflows(attempt in any::<u32>()) {
            prop_assert!(interval(&settings(), attempt) <= Duration::from_mins(1));
        }
    }
}
