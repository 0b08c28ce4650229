//! Dead letters: whose they are, why they are dead, and what a replay publishes.
//!
//! Separate from the worker, which only writes them, and from the verbs, which only show them. Letters that the broker
//! made itself carry no word of dingcard's; their reason is read from what the broker says, or does not say. It changes
//! no body.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::amqp::{Delivery, Headers, Names, Queue, died_of};
use crate::config::DEFAULT_APP;
use crate::job::Job;
use crate::outcome::Reason;

/// What is told of a letter.
#[derive(Debug, Clone, Serialize)]
pub struct Letter {
    /// The job's ID where the message has one, else a name made of the body.
    pub id: String,
    /// The app that it was for.
    pub app: String,
    /// The word for why.
    pub reason: String,
    /// What happened.
    pub detail: String,
    /// When; unknown where nobody noted it.
    pub failed_at: Option<Timestamp>,
    /// Attempts that were made.
    pub attempt: u32,
    /// Positions that failed, by reason.
    pub failed: String,
    /// Where a replay publishes it.
    pub queue: String,
    #[serde(skip)]
    home: Queue,
}

/// Which letters are meant; whatever is empty does not restrict.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Any of these reasons.
    pub reasons: Vec<Reason>,
    /// Any of these apps.
    pub apps: Vec<String>,
    /// Any of these IDs.
    pub ids: Vec<String>,
    /// Dead for at least this long.
    pub older_than: Option<Duration>,
    /// Dead for at most this long.
    pub newer_than: Option<Duration>,
}

impl Letter {
    /// What a delivery from the dead letters says of itself.
    #[must_use]
    pub fn read(delivery: &Delivery, names: &Names) -> Self {
        let headers = delivery.headers();
        let died = died_of(delivery.properties());
        let (reason, detail, home) = match (&headers.queue, &died) {
            // Only a worker writes this header on a dead letter, and with it a reason.
            (Some(queue), _) => {
                let detail = headers.detail.clone().unwrap_or_default();
                (headers.reason.clone().unwrap_or_default(), detail, names.parse(queue))
            }
            (None, Some((word, queue, _))) if word == "delivery_limit" => {
                let detail = "the broker gave it to workers too often, and none settled it";
                (Reason::DeliveryLimit.to_string(), detail.to_owned(), names.parse(queue))
            }
            (None, _) => {
                let queue = unrouted(delivery.routing_key());
                let detail = format!("the queue {queue} was gone");
                (Reason::Unroutable.to_string(), detail, names.parse(queue))
            }
        };
        let home = home.unwrap_or_else(|| Queue::Jobs(DEFAULT_APP.to_owned()));
        Self {
            id: id_of(delivery),
            app: home.app().to_owned(),
            reason,
            detail,
            failed_at: headers.failed_at.or(died.and_then(|(_, _, time)| time)),
            attempt: headers.attempt,
            failed: headers.failed.clone().unwrap_or_default(),
            queue: names.queue(&home),
            home,
        }
    }

    /// The queue that a replay publishes to.
    #[must_use]
    pub fn home(&self) -> &Queue {
        &self.home
    }

    /// The headers of a replay: whoever failed is open again, and the attempts begin anew.
    #[must_use]
    pub fn replay(&self, headers: &Headers) -> Headers {
        Headers {
            attempt: 1,
            open: headers.open.clone(),
            first_seen: headers.first_seen,
            ..Headers::default()
        }
    }
}

impl Filter {
    /// Whether it restricts nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let Self {
            reasons,
            apps,
            ids,
            older_than,
            newer_than,
        } = self;
        reasons.is_empty() && apps.is_empty() && ids.is_empty() && older_than.is_none() && newer_than.is_none()
    }

    /// Whether `letter` is meant. A letter whose time is unknown has no age.
    #[must_use]
    pub fn accepts(&self, letter: &Letter, now: Timestamp) -> bool {
        let age = letter
            .failed_at
            .map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
        let any = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|w| w == is);
        (self.reasons.is_empty() || self.reasons.iter().any(|r| r.as_str() == letter.reason))
            && any(&self.apps, &letter.app)
            && any(&self.ids, &letter.id)
            && self.older_than.is_none_or(|least| age.is_some_and(|age| age >= least))
            && self.newer_than.is_none_or(|most| age.is_some_and(|age| age <= most))
    }
}

/// The job's ID, as logs name it; of what is no job, the `message_id`, or a name made of the body.
fn id_of(delivery: &Delivery) -> String {
    let body = || {
        let hash = Sha256::digest(delivery.body());
        format!(
            "body-{}",
            hash.iter()
                .take(6)
                .map(|b| format!("{b:02x}"))
                .collect::<Vec<_>>()
                .concat()
        )
    };
    let message_id = delivery.message_id().filter(|id| !id.is_empty());
    let fallback = message_id.map_or_else(body, str::to_owned);
    Job::decode(delivery.body(), Some(&fallback)).map_or(fallback.clone(), |job| job.id)
}

/// The queue that a routing key of the delay levels was for: what follows its bits.
fn unrouted(key: &str) -> &str {
    key.trim_start_matches(['0', '1', '.'])
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn letter(reason: Reason, failed_at: Option<i64>) -> Letter {
        Letter {
            id: "j".into(),
            app: "default".into(),
            reason: reason.to_string(),
            detail: String::new(),
            failed_at: failed_at.map(|s| Timestamp::from_second(s).unwrap()),
            attempt: 1,
            failed: String::new(),
            queue: "ns.jobs".into(),
            home: Queue::Jobs("default".into()),
        }
    }

    #[test]
    fn a_filter_that_restricts_nothing_accepts_all() {
        assert!(Filter::default().is_empty());
        assert!(Filter::default().accepts(&letter(Reason::Panic, None), Timestamp::now()));
    }

    #[test]
    fn every_part_of_a_filter_must_accept() {
        let now = Timestamp::from_second(1_000).unwrap();
        let filter = Filter {
            reasons: vec![Reason::Panic, Reason::Unroutable],
            apps: vec!["default".into()],
            older_than: Some(Duration::from_secs(100)),
            ..Filter::default()
        };
        assert!(filter.accepts(&letter(Reason::Panic, Some(900)), now));
        assert!(!filter.accepts(&letter(Reason::Panic, Some(901)), now));
        assert!(
            !filter.accepts(&letter(Reason::Panic, None), now),
            "a letter without a time has no age"
        );
        assert!(!filter.accepts(&letter(Reason::InvalidJob, Some(0)), now));
        let other = Filter {
            ids: vec!["k".into()],
            ..Filter::default()
        };
        assert!(!other.accepts(&letter(Reason::Panic, None), now));
    }

    #[test]
    fn the_queue_of_an_unroutable_message_is_read_from_its_key() {
        assert_eq!(unrouted("0.0.1.0.ns.jobs.sales"), "ns.jobs.sales");
        assert_eq!(unrouted("jobs"), "jobs");
    }
}
