//! So many calls a second for each app and API, in a sliding window (dingtalk-api.md §7).
//!
//! A file of its own because it is pure: the time is an argument, so its rule is tested without a clock. Which
//! answer a refused call gets is `api`'s business. A refused call does not fill the window.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;

const WINDOW: Duration = Duration::from_secs(1);

/// The calls of the last second, by app and API.
#[derive(Debug, Default)]
pub(super) struct Throttle(HashMap<(String, Endpoint), VecDeque<Instant>>);

impl Throttle {
    /// Whether one more call fits; `rate` 0 is no limit.
    pub(super) fn admits(&mut self, app_key: &str, endpoint: Endpoint, rate: u32, now: Instant) -> bool {
        if rate == 0 {
            return true;
        }
        let calls = self.0.entry((app_key.to_owned(), endpoint)).or_default();
        while calls.front().is_some_and(|&call| now.duration_since(call) >= WINDOW) {
            calls.pop_front();
        }
        let admitted = calls.len() < rate as usize;
        if admitted {
            calls.push_back(now);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND: Endpoint = Endpoint::CreateAndDeliver;

    #[test]
    fn no_second_holds_more_than_the_rate() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        // Twenty at the end of one second leave no room at the start of the next.
        assert!((0..20).all(|_| throttle.admits("a", SEND, 20, at(900))));
        assert!(!throttle.admits("a", SEND, 20, at(901)));
        assert!(!throttle.admits("a", SEND, 20, at(1899)));
        assert!((0..20).all(|_| throttle.admits("a", SEND, 20, at(1900))));
    }

    #[test]
    fn a_refused_call_does_not_fill_the_window() {
        let (mut throttle, start) = (Throttle::default(), Instant::now());
        assert!(throttle.admits("a", SEND, 1, start));
        assert!(!throttle.admits("a", SEND, 1, start + Duration::from_millis(999)));
        assert!(throttle.admits("a", SEND, 1, start + Duration::from_secs(1)));
    }

    #[test]
    fn apps_and_apis_are_counted_apart() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        assert!(throttle.admits("a", SEND, 1, now));
        assert!(throttle.admits("b", SEND, 1, now));
        assert!(throttle.admits("a", Endpoint::Deliver, 1, now));
        assert!(!throttle.admits("a", SEND, 1, now));
    }

    #[test]
    fn a_rate_of_zero_is_no_limit() {
        let (mut throttle, now) = (Throttle::default(), Instant::now());
        assert!((0..1000).all(|_| throttle.admits("a", SEND, 0, now)));
    }
}
