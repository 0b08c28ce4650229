//! The headers that travel with a job: how far it has come, and what went wrong.
//!
//! Separate because they are a contract with whoever reads dead letters, and because the table is built afresh at every
//! hand-over: a copied `x-death` would make the broker drop the second trip as a cycle. It carries positions and words,
//! never a mobile or a user ID, and leaves what they mean to the worker.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};

/// A header table over 32 KiB in all closes the connection; the rest of the frame needs room too.
const MAX_TABLE_BYTES: usize = 28 * 1024;
/// The longest detail, in bytes.
const MAX_DETAIL_BYTES: usize = 1024;

/// dingcard's own headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers {
    /// `dingcard-attempt`: the attempt that comes next; 1 for a new job.
    pub attempt: u32,
    /// `dingcard-open`: open positions by slice; absent while nothing was cut.
    pub open: Option<String>,
    /// `dingcard-failed`: positions that failed for good, by reason.
    pub failed: Option<String>,
    /// `dingcard-reason`: why the job was last handed over.
    pub reason: Option<String>,
    /// `dingcard-detail`: what happened, for people; at most 1 KiB.
    pub detail: Option<String>,
    /// `dingcard-first-seen`: when a worker first had the job.
    pub first_seen: Option<Timestamp>,
    /// `dingcard-failed-at`: when the last attempt ended.
    pub failed_at: Option<Timestamp>,
    /// `dingcard-worker`: who wrote these.
    pub worker: Option<String>,
    /// `dingcard-queue`: the queue that the job belongs to, on a message that is in another.
    pub queue: Option<String>,
}

impl Headers {
    /// Reads them; what is missing or not of its type counts as absent.
    #[must_use]
    pub fn read(properties: &BasicProperties) -> Self {
        let text = |key: &str| text(properties, key);
        let time = |key: &str| text(key).and_then(|t| t.parse().ok());
        let attempt = header(properties, "dingcard-attempt")
            .and_then(as_number)
            .and_then(|n| u32::try_from(n).ok());
        Self {
            attempt: attempt.unwrap_or(1).max(1),
            open: text("dingcard-open"),
            failed: text("dingcard-failed"),
            reason: text("dingcard-reason"),
            detail: text("dingcard-detail"),
            first_seen: time("dingcard-first-seen"),
            failed_at: time("dingcard-failed-at"),
            worker: text("dingcard-worker"),
            queue: text("dingcard-queue"),
        }
    }

    /// The properties of a re-publication: the original's, persistent, with a fresh table of these headers and the
    /// producer's own as far as they fit. `job_id` becomes the `message_id` of a message that had none.
    #[must_use]
    pub fn write(&self, original: &BasicProperties, job_id: Option<&str>) -> BasicProperties {
        let mut table = FieldTable::default();
        let mut room = MAX_TABLE_BYTES;
        for (key, value) in self.fields() {
            room = room.saturating_sub(key.len() + value.len() + 8);
            table.insert(key.into(), AMQPValue::LongString(LongString::from(value)));
        }
        table.insert("dingcard-attempt".into(), AMQPValue::LongLongInt(self.attempt.into()));
        for (key, value) in producers_own(original) {
            let size = key.as_str().len() + size(value) + 8;
            if size <= room {
                room -= size;
                table.insert(key.clone(), value.clone());
            }
        }
        let properties = kept(original).with_headers(table).with_delivery_mode(2);
        let id = job_id.filter(|_| original.message_id().as_ref().is_none_or(|id| id.as_str().is_empty()));
        match id.and_then(|id| ShortString::try_new(id).ok()) {
            Some(id) => properties.with_message_id(id),
            None => properties,
        }
    }

    fn fields(&self) -> Vec<(&'static str, String)> {
        let detail = self.detail.as_deref().map(|d| cut(d, MAX_DETAIL_BYTES).to_owned());
        [
            ("dingcard-open", self.open.clone()),
            ("dingcard-failed", self.failed.clone()),
            ("dingcard-reason", self.reason.clone()),
            ("dingcard-detail", detail),
            ("dingcard-first-seen", self.first_seen.map(|t| t.to_string())),
            ("dingcard-failed-at", self.failed_at.map(|t| t.to_string())),
            ("dingcard-worker", self.worker.clone()),
            ("dingcard-queue", self.queue.clone()),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }
}

/// What of the producer's properties a re-publication keeps. Not `expiration`, by which the broker would drop a dead letter
/// or cut a delay short; not `user_id`, which it checks against the connection that publishes.
fn kept(original: &BasicProperties) -> BasicProperties {
    let mut properties = BasicProperties::default();
    macro_rules! keep {
        ($($get:ident => $set:ident),+) => {
            $(if let Some(value) = original.$get().clone() { properties = properties.$set(value); })+
        };
    }
    keep!(
        message_id => with_message_id, timestamp => with_timestamp, content_type => with_content_type,
        content_encoding => with_content_encoding, reply_to => with_reply_to, correlation_id => with_correlation_id,
        kind => with_type, app_id => with_app_id, priority => with_priority
    );
    properties
}

/// The headers that are the producer's: neither the broker's (`x-`, and those that make it copy a message to further
/// queues) nor dingcard's.
fn producers_own(properties: &BasicProperties) -> impl Iterator<Item = (&ShortString, &AMQPValue)> {
    let all = properties
        .headers()
        .as_ref()
        .map(FieldTable::inner)
        .into_iter()
        .flatten();
    all.filter(|(key, _)| {
        let key = key.as_str();
        !key.starts_with("x-") && !key.starts_with("dingcard-") && !matches!(key, "CC" | "BCC")
    })
}

/// How often the broker gave this message to a worker that did not settle it. 4.x leaves the header out for 0.
pub(super) fn delivery_count(properties: &BasicProperties) -> u64 {
    let count = header(properties, "x-delivery-count").and_then(as_number);
    count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}

/// What the broker itself dead-lettered a message for, the last time: the word, the queue, and when.
#[must_use]
pub fn died_of(properties: &BasicProperties) -> Option<(String, String, Option<Timestamp>)> {
    let AMQPValue::FieldArray(deaths) = header(properties, "x-death")? else {
        return None;
    };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else {
        return None;
    };
    let field = |key: &str| last.inner().get(key);
    let time = field("time")
        .and_then(as_number)
        .and_then(|s| Timestamp::from_second(s).ok());
    Some((as_text(field("reason")?)?, as_text(field("queue")?)?, time))
}

/// When the producer published: header `timestamp_in_ms`, else the `timestamp` property, which counts seconds.
#[must_use]
pub fn published_at(properties: &BasicProperties) -> Option<SystemTime> {
    let exact = header(properties, "timestamp_in_ms")
        .and_then(as_number)
        .and_then(|ms| u64::try_from(ms).ok());
    let millis = exact.or_else(|| properties.timestamp().and_then(|s| s.checked_mul(1000)))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(millis))
}

/// A header that is text.
pub(super) fn text(properties: &BasicProperties, key: &str) -> Option<String> {
    header(properties, key).and_then(as_text)
}

fn header<'a>(properties: &'a BasicProperties, key: &str) -> Option<&'a AMQPValue> {
    properties.headers().as_ref()?.inner().get(key)
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// Clients choose the width of an integer, so each is accepted.
fn as_number(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => (*n).into(),
        AMQPValue::ShortShortUInt(n) => (*n).into(),
        AMQPValue::ShortInt(n) => (*n).into(),
        AMQPValue::ShortUInt(n) => (*n).into(),
        AMQPValue::LongInt(n) => (*n).into(),
        AMQPValue::LongUInt(n) => (*n).into(),
        AMQPValue::LongLongInt(n) => *n,
        AMQPValue::Timestamp(n) => i64::try_from(*n).ok()?,
        _ => return None,
    })
}

/// Bytes of a value on the wire, at least.
fn size(value: &AMQPValue) -> usize {
    match value {
        AMQPValue::LongString(text) => text.as_bytes().len() + 5,
        AMQPValue::ShortString(text) => text.as_str().len() + 2,
        AMQPValue::ByteArray(bytes) => bytes.len() + 5,
        AMQPValue::FieldArray(values) => 5 + values.as_slice().iter().map(size).sum::<usize>(),
        AMQPValue::FieldTable(table) => {
            5 + table
                .inner()
                .iter()
                .map(|(k, v)| k.as_str().len() + 1 + size(v))
                .sum::<usize>()
        }
        _ => 9,
    }
}

/// The first `bytes` of a text, less what would split a character.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(pairs: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (key, value) in pairs {
            table.insert((*key).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    fn text(value: &str) -> AMQPValue {
        AMQPValue::LongString(value.into())
    }

    #[test]
    fn a_republication_keeps_what_is_the_producers_and_nothing_of_the_brokers() {
        let original = table(&[
            ("traceparent", text("00-abc")),
            ("x-death", AMQPValue::FieldArray(vec![text("cycle")].into())),
            ("x-delivery-count", AMQPValue::LongLongInt(3)),
            ("dingcard-reason", text("stale")),
            ("CC", AMQPValue::FieldArray(vec![text("elsewhere")].into())),
        ])
        .with_expiration("60000".into())
        .with_user_id("producer".into())
        .with_message_id("m".into())
        .with_reply_to("answers".into())
        .with_timestamp(7);
        let written = Headers {
            attempt: 2,
            ..Headers::default()
        }
        .write(&original, Some("j"));
        let keys: Vec<_> = written
            .headers()
            .as_ref()
            .unwrap()
            .inner()
            .keys()
            .map(|k| k.as_str().to_owned())
            .collect();
        assert_eq!(keys, ["dingcard-attempt", "traceparent"]);
        assert_eq!(written.message_id().as_ref().unwrap().as_str(), "m");
        assert_eq!(
            (written.reply_to(), written.timestamp()),
            (original.reply_to(), original.timestamp())
        );
        assert_eq!(*written.delivery_mode(), Some(2));
        assert_eq!(
            (written.expiration(), written.user_id()),
            (&None, &None),
            "a dead letter stays, and can be published"
        );
    }

    #[test]
    fn a_job_without_message_id_gets_its_own_id_as_far_as_amqp_can_carry_it() {
        let write = |id: &str| Headers::default().write(&BasicProperties::default(), Some(id));
        assert_eq!(write("j-1").message_id().as_ref().unwrap().as_str(), "j-1");
        assert_eq!(*write(&"夜".repeat(100)).message_id(), None);
    }

    #[test]
    fn the_table_stays_below_the_brokers_limit_whatever_the_producer_sent() {
        let big = text(&"x".repeat(20 * 1024));
        let original = table(&[("a", big.clone()), ("b", big), ("c", text("small"))]);
        let headers = Headers {
            detail: Some("夜".repeat(1000)),
            ..Headers::default()
        };
        let written = headers.write(&original, None);
        let table = written.headers().clone().unwrap();
        assert!(size(&AMQPValue::FieldTable(table.clone())) < 32 * 1024);
        assert!(table.contains_key("a") && !table.contains_key("b") && table.contains_key("c"));
        assert!(Headers::read(&written).detail.unwrap().len() <= MAX_DETAIL_BYTES);
    }

    #[test]
    fn the_time_of_publication_is_exact_where_the_producer_said_it_exactly() {
        let seconds = BasicProperties::default().with_timestamp(1_700_000_000);
        let exact = table(&[("timestamp_in_ms", AMQPValue::LongLongInt(1_700_000_000_123))]).with_timestamp(1);
        let since = |p: &BasicProperties| published_at(p).unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since(&seconds).as_millis(), 1_700_000_000_000);
        assert_eq!(since(&exact).as_millis(), 1_700_000_000_123);
        assert_eq!(published_at(&BasicProperties::default()), None);
        assert_eq!(published_at(&BasicProperties::default().with_timestamp(u64::MAX)), None);
    }

    #[test]
    fn the_brokers_count_is_read_and_is_0_where_it_is_missing() {
        assert_eq!(
            delivery_count(&table(&[("x-delivery-count", AMQPValue::LongLongInt(3))])),
            3
        );
        assert_eq!(delivery_count(&BasicProperties::default()), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            attempt in 1_u32..1000,
            words in prop::collection::vec(prop::option::of(".{0,60}"), 6),
            seconds in prop::option::of(0_i64..4_000_000_000),
        ) {
            let mut words = words.into_iter();
            let mut next = || words.next().flatten();
            let time = seconds.map(|s| Timestamp::from_second(s).unwrap());
            let headers = Headers {
                attempt, open: next(), failed: next(), reason: next(), detail: next(),
                first_seen: time, failed_at: time, worker: next(), queue: next(),
            };
            let written = headers.write(&BasicProperties::default(), None);
            prop_assert_eq!(Headers::read(&written), headers);
        }
    }
}
