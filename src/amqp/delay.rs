//! Waiting, done by the broker.
//!
//! A delay is written as bits. Level n is a queue that holds a message for 2^n seconds if bit n is set, and an exchange
//! that passes it on if not, so any delay up to the top level needs no timer here and survives the end of every worker:
//!
//! ```text
//! publish, key 0.….0.1.0.1.dingcard.jobs (5 s)
//!   -> exchange dingcard.delay.v1.02 --1--> queue dingcard.delay.v1.02 (4 s) --expired-->
//!   -> exchange dingcard.delay.v1.01 --0-->
//!   -> exchange dingcard.delay.v1.00 --1--> queue dingcard.delay.v1.00 (1 s) --expired-->
//!   -> exchange dingcard.delay.v1.deliver --#.dingcard.jobs--> queue dingcard.jobs
//! ```
//!
//! The scheme is that of NServiceBus and Celery 5.5. All names begin with `<ns>.delay.v1`. This file knows names, keys
//! and bindings; when to wait, and how long, is `retry`'s business.

use std::time::Duration;

/// How many levels there are: 2^17 - 1 seconds are 36 hours.
const LEVELS: u32 = 17;

/// The longest delay of one trip; a longer one goes round again.
pub const MAX_DELAY: Duration = Duration::from_secs((1 << LEVELS) - 1);

/// The delay levels of a namespace.
#[derive(Debug, Clone, Copy)]
pub(super) struct Levels<'a> {
    namespace: &'a str,
}

/// One level: an exchange and a queue of the same name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Level {
    /// Of the exchange and of the queue.
    pub(super) name: String,
    /// How long the queue holds a message.
    pub(super) holds: Duration,
    /// The key by which the exchange gives a message to its queue.
    pub(super) hold_key: String,
    /// The key by which the exchange passes a message on to `next`.
    pub(super) pass_key: String,
    /// The exchange that follows, for what passes and for what expires.
    pub(super) next: String,
}

impl<'a> Levels<'a> {
    pub(super) fn new(namespace: &'a str) -> Self {
        Self { namespace }
    }

    /// The topic exchange where levels end.
    pub(super) fn deliver(self) -> String {
        format!("{}.delay.v1.deliver", self.namespace)
    }

    fn name(self, level: u32) -> String {
        format!("{}.delay.v1.{level:02}", self.namespace)
    }

    /// All levels, the shortest first, so that each is declared after the one it leads to.
    pub(super) fn all(self) -> impl Iterator<Item = Level> + use<'a> {
        (0..LEVELS).map(move |level| {
            let skipped = "*.".repeat((LEVELS - 1 - level) as usize);
            Level {
                name: self.name(level),
                holds: Duration::from_secs(1 << level),
                hold_key: format!("{skipped}1.#"),
                pass_key: format!("{skipped}0.#"),
                next: if level == 0 {
                    self.deliver()
                } else {
                    self.name(level - 1)
                },
            }
        })
    }

    /// The exchange and the routing key that bring a message to `queue` after `delay`, rounded up to whole seconds and
    /// cut to [`MAX_DELAY`].
    pub(super) fn route(self, queue: &str, delay: Duration) -> (String, String) {
        let whole = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
        let seconds = whole.min(MAX_DELAY.as_secs());
        let bits: String = (0..LEVELS)
            .rev()
            .map(|level| if seconds >> level & 1 == 1 { "1." } else { "0." })
            .collect();
        let exchange = seconds
            .checked_ilog2()
            .map_or_else(|| self.deliver(), |highest| self.name(highest));
        (exchange, format!("{bits}{queue}"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether a topic exchange would match, by AMQP's rules.
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => (0..=key.len()).any(|n| matches(rest, &key[n..])),
            (Some((&"*", rest)), Some((_, tail))) => matches(rest, tail),
            (Some((word, rest)), Some((first, tail))) => word == first && matches(rest, tail),
            _ => false,
        }
    }

    fn matches_text(pattern: &str, key: &str) -> bool {
        matches(
            &pattern.split('.').collect::<Vec<_>>(),
            &key.split('.').collect::<Vec<_>>(),
        )
    }

    /// Follows a message through the bindings; gives the seconds it was held.
    fn walk(levels: Levels<'_>, exchange: String, key: &str) -> u64 {
        let all: Vec<_> = levels.all().collect();
        let (mut at, mut held) = (exchange, 0);
        while at != levels.deliver() {
            let level = all.iter().find(|l| l.name == at).unwrap();
            let (hold, pass) = (matches_text(&level.hold_key, key), matches_text(&level.pass_key, key));
            assert!(hold != pass, "exactly one way out of {at}");
            held += if hold { level.holds.as_secs() } else { 0 };
            at.clone_from(&level.next);
        }
        held
    }

    #[test]
    fn the_routing_key_is_the_delay_in_bits_before_the_queue() {
        let levels = Levels::new("dingcard");
        let route = |seconds| levels.route("dingcard.jobs", Duration::from_secs(seconds));
        let zeros = |n: usize| "0.".repeat(n);
        for (seconds, exchange, key) in [
            (0, "deliver", format!("{}dingcard.jobs", zeros(17))),
            (1, "00", format!("{}1.dingcard.jobs", zeros(16))),
            (5, "02", format!("{}1.0.1.dingcard.jobs", zeros(14))),
            (65_536, "16", format!("1.{}dingcard.jobs", zeros(16))),
            (131_071, "16", format!("{}dingcard.jobs", "1.".repeat(17))),
            (999_999, "16", format!("{}dingcard.jobs", "1.".repeat(17))),
        ] {
            assert_eq!(
                route(seconds),
                (format!("dingcard.delay.v1.{exchange}"), key),
                "{seconds} s"
            );
        }
    }

    #[test]
    fn a_part_of_a_second_counts_as_a_whole_one() {
        let (exchange, _) = Levels::new("n").route("q", Duration::from_millis(1));
        assert_eq!(exchange, "n.delay.v1.00");
    }

    proptest! {
        #[test]
        fn a_message_is_held_exactly_as_long_as_asked_and_reaches_its_queue_alone(
            seconds in 0_u64..131_072,
            namespace in "[a-z]{1,8}(\\.[a-z0-1]{1,4})?",
            app in "[a-z0-1_]{1,8}",
        ) {
            let levels = Levels::new(&namespace);
            let queue = format!("{namespace}.jobs.{app}");
            let (exchange, key) = levels.route(&queue, Duration::from_secs(seconds));
            prop_assert_eq!(walk(levels, exchange, &key), seconds);
            let delivered_to = format!("#.{queue}");
            let other = format!("#.{namespace}.jobs");
            prop_assert!(matches_text(&delivered_to, &key));
            prop_assert!(!matches_text(&other, &key));
        }
    }
}
