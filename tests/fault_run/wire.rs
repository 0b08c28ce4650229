//! AMQP as a producer and an operator use it: raw messages in, queue lengths and dead letters out.
//!
//! Separate so that the rows look at the broker through none of the code under test. Every question is a connection of
//! its own, because between two of them the broker may have been killed. It takes no message away.

use std::time::Duration;

use jiff::Timestamp;
use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);

/// A message of no meaning to `dingcard publish`.
pub(crate) struct Raw {
    pub(crate) id: String,
    pub(crate) exchange: String,
    pub(crate) key: String,
    pub(crate) body: Vec<u8>,
}

/// A dead letter, as far as a checker looks at it.
pub(crate) struct Letter {
    /// The job's ID: the message's, or the body's.
    pub(crate) id: String,
    /// `dingcard-reason`; empty where the broker put it there.
    pub(crate) reason: String,
    /// `dingcard-attempt`; 0 where the broker put it there.
    pub(crate) attempt: i64,
    /// `dingcard-detail`.
    pub(crate) detail: String,
    /// `dingcard-failed`: positions by reason.
    pub(crate) failed: String,
}

fn with_channel<T>(
    url: &str,
    patience: Duration,
    work: impl AsyncFnOnce(Channel) -> lapin::Result<T>,
) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = runtime.block_on(async {
        tokio::time::timeout(patience, async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let done = work(connection.create_channel().await?).await;
            // Its channel may be closing already, which is as good.
            let _closed = connection.close(200, "done".into()).await;
            done
        })
        .await
    });
    match asked {
        Ok(answer) => answer.map_err(|error| format!("the broker: {error}")),
        Err(_) => Err(format!("the broker gave no answer in {patience:?}")),
    }
}

/// Publishes messages as they are, confirmed, one each `every`; when each was published.
pub(crate) fn publish(url: &str, messages: &[Raw], every: Duration) -> Result<Vec<Timestamp>, String> {
    let patience = PATIENCE + every * u32::try_from(messages.len()).unwrap_or(u32::MAX);
    with_channel(url, patience, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let begun = Instant::now();
        let mut times = Vec::new();
        for raw in messages {
            tokio::time::sleep_until(begun + every * u32::try_from(times.len()).unwrap_or(u32::MAX)).await;
            times.push(Timestamp::now());
            let properties = BasicProperties::default()
                .with_delivery_mode(2)
                .with_message_id(raw.id.as_str().into());
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let (exchange, key) = (raw.exchange.as_str().into(), raw.key.as_str().into());
            let confirm = channel
                .basic_publish(exchange, key, options, &raw.body, properties)
                .await?
                .await?;
            if confirm != Confirmation::Ack(None) {
                return Ok(Err(format!("{} was not taken: {confirm:?}", raw.id)));
            }
        }
        Ok(Ok(times))
    })?
}

/// How many messages wait in each of these queues; 0 for a queue that is not there.
pub(crate) fn waiting(url: &str, queues: &[String]) -> Result<Vec<u32>, String> {
    with_channel(url, PATIENCE, async |channel| {
        let mut counts = Vec::new();
        for queue in queues {
            let passive = QueueDeclareOptions {
                passive: true,
                durable: true,
                ..QueueDeclareOptions::default()
            };
            let declared = channel
                .queue_declare(queue.as_str().into(), passive, FieldTable::default())
                .await?;
            counts.push(declared.message_count());
        }
        Ok(counts)
    })
}

/// All letters in a queue of dead letters, which stay where they are.
pub(crate) fn letters(url: &str, queue: &str) -> Result<Vec<Letter>, String> {
    with_channel(url, PATIENCE, async |channel| {
        let mut letters = Vec::new();
        while let Some(got) = channel.basic_get(queue.into(), BasicGetOptions::default()).await? {
            letters.push(letter(&got.delivery.properties, &got.delivery.data));
        }
        Ok(letters)
    })
}

fn letter(properties: &BasicProperties, body: &[u8]) -> Letter {
    let header = |key: &str| properties.headers().as_ref().and_then(|table| table.inner().get(key));
    let text = |key: &str| match header(key) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    let named = properties.message_id().as_ref().map(ToString::to_string);
    let in_body = || {
        let body: Value = serde_json::from_slice(body).ok()?;
        body["id"].as_str().map(str::to_owned)
    };
    let attempt = match header("dingcard-attempt") {
        Some(AMQPValue::LongInt(n)) => i64::from(*n),
        Some(AMQPValue::LongUInt(n)) => i64::from(*n),
        Some(AMQPValue::LongLongInt(n)) => *n,
        _ => 0,
    };
    Letter {
        id: named.or_else(in_body).unwrap_or_default(),
        reason: text("dingcard-reason"),
        attempt,
        detail: text("dingcard-detail"),
        failed: text("dingcard-failed"),
    }
}
