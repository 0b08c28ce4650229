//! Jobs into the broker, as fast as it confirms them, and queues for the floor.
//!
//! Separate from `dingcard publish` because it also writes what the floor takes, and keeps a queue at a length. It takes
//! nothing out of a queue but by emptying it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions, QueuePurgeOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::runtime::Runtime;

use crate::Failure;

/// Publishes in flight before their confirms are waited for.
const BATCH: usize = 500;

/// A connection to publish by.
pub(crate) struct Producer {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
}

impl Producer {
    pub(crate) fn connect(url: &str) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await?;
            let channel = connection.create_channel().await?;
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            Ok::<_, lapin::Error>((connection, channel))
        })?;
        Ok(Self {
            runtime,
            _connection: connection,
            channel,
        })
    }

    /// Makes a queue of the kind that the worker's job queues are.
    pub(crate) fn declare(&self, queue: &str) -> Result<(), Failure> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        arguments.insert("x-delivery-limit".into(), AMQPValue::LongLongInt(20));
        let durable = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        self.runtime
            .block_on(self.channel.queue_declare(queue.into(), durable, arguments))?;
        Ok(())
    }

    /// Empties a queue.
    pub(crate) fn purge(&self, queue: &str) -> Result<(), Failure> {
        self.runtime
            .block_on(self.channel.queue_purge(queue.into(), QueuePurgeOptions::default()))?;
        Ok(())
    }

    /// Publishes messages, each with its queue, and waits until the broker has them.
    pub(crate) fn publish(&self, messages: impl Iterator<Item = (String, Vec<u8>)>) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut confirms = Vec::with_capacity(BATCH);
            for (queue, body) in messages {
                let publishing = self.channel.basic_publish(
                    "".into(),
                    queue.into(),
                    BasicPublishOptions::default(),
                    &body,
                    properties(),
                );
                confirms.push(publishing.await?);
                if confirms.len() == BATCH {
                    for confirm in confirms.drain(..) {
                        confirm.await?;
                    }
                }
            }
            for confirm in confirms {
                confirm.await?;
            }
            Ok(())
        })
    }
}

/// What a careful producer sets.
fn properties() -> BasicProperties {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let milliseconds = i64::try_from(now.as_millis()).unwrap_or_default();
    let mut headers = FieldTable::default();
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(milliseconds));
    BasicProperties::default()
        .with_delivery_mode(2)
        .with_content_type("application/json".into())
        .with_timestamp(now.as_secs())
        .with_headers(headers)
}
