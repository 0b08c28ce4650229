//! A queue of one's own for results: made for one command, and gone with it.
//!
//! Separate from the worker's consumers because nothing in it is kept: results are told once, and whoever does not listen
//! has lost them. It reads no result.

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};

use super::connection::{Broker, ConnectError};

/// Results as they come.
pub struct Replies {
    // The queue is exclusive: it lives as long as the connection.
    _connection: lapin::Connection,
    queue: String,
    consumer: lapin::Consumer,
}

impl Broker {
    /// A queue for results, named like the namespace's others, so that who may use those may use it too.
    pub async fn replies(&self) -> Result<Replies, ConnectError> {
        let connection = self.connect("replies").await?;
        let channel = connection.create_channel().await.map_err(ConnectError::Consume)?;
        let queue = format!("{}.reply.{}", self.names().namespace, uuid::Uuid::new_v4());
        let name = ShortString::try_new(queue.as_str()).unwrap_or_default();
        let own = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare(name.clone(), own, FieldTable::default()).await;
        declared.map_err(ConnectError::Consume)?;
        let options = BasicConsumeOptions {
            no_ack: true,
            exclusive: true,
            ..BasicConsumeOptions::default()
        };
        let consumer = channel
            .basic_consume(name, "".into(), options, FieldTable::default())
            .await;
        Ok(Replies {
            _connection: connection,
            queue,
            consumer: consumer.map_err(ConnectError::Consume)?,
        })
    }
}

impl Replies {
    /// What to publish as `reply_to`.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The body of the next; `None` once the broker is lost.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        Some(self.consumer.next().await?.ok()?.data)
    }
}
