//! Holding the dead letters: each is taken once, and whatever is not settled goes back.
//!
//! Separate from the worker's consumers because it ends: it takes what is there and no more. While it holds letters,
//! nobody else sees them, so it consumes openly, and another holder can be counted. It reads no letter.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio_util::sync::CancellationToken;

use super::connection::{Broker, ConnectError, watch_events};
use super::delivery::{Arrivals, Delivery, Queue};

/// The broker counts letters a moment late, so it is asked a little longer than its count says.
const AFTER_THE_LAST: Duration = Duration::from_millis(500);
/// How long the broker may take for a letter that it has counted.
const BEFORE_THE_LAST: Duration = Duration::from_secs(10);

/// Letters that can be held at once: AMQP counts them in 16 bits.
const MOST: u16 = u16::MAX;

/// The dead letters, held.
pub struct Held {
    connection: Connection,
    channel: Channel,
    consumer: lapin::Consumer,
    arrivals: Arc<Arrivals>,
    counted: u64,
    others: u64,
    taken: u64,
}

impl Broker {
    /// Takes hold of the dead letters.
    pub async fn hold_dead_letters(&self) -> Result<Held, ConnectError> {
        let connection = self.connect("dead letters").await?;
        let session = CancellationToken::new();
        watch_events(&connection, session.clone(), None);
        let channel = connection.create_channel().await.map_err(ConnectError::Consume)?;
        let queue = ShortString::try_new(self.names().queue(&Queue::Dead)).unwrap_or_default();
        let passive = QueueDeclareOptions {
            passive: true,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let declared = channel
            .queue_declare(queue.clone(), passive, FieldTable::default())
            .await;
        let declared = declared.map_err(ConnectError::Consume)?;
        // Without a number a quorum queue gives a consumer 2,000 and waits (seen with 3.10.8).
        let qos = channel.basic_qos(MOST, BasicQosOptions::default()).await;
        qos.map_err(ConnectError::Consume)?;
        let options = BasicConsumeOptions::default();
        let consumer = channel
            .basic_consume(queue, "".into(), options, FieldTable::default())
            .await;
        Ok(Held {
            consumer: consumer.map_err(ConnectError::Consume)?,
            counted: declared.message_count().into(),
            others: declared.consumer_count().into(),
            taken: 0,
            arrivals: Arrivals::new(Queue::Dead, session),
            connection,
            channel,
        })
    }
}

impl Held {
    /// How many letters the broker counted.
    #[must_use]
    pub fn counted(&self) -> u64 {
        self.counted
    }

    /// How many others hold letters of this queue, which are not seen here.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others
    }

    /// How many letters were taken.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// The next letter; `None` after the last, or after as many as can be held at once.
    pub async fn next(&mut self) -> Option<Delivery> {
        let patience = if self.taken < self.counted {
            BEFORE_THE_LAST
        } else {
            AFTER_THE_LAST
        };
        let message = tokio::time::timeout(patience, self.consumer.next()).await.ok()??.ok()?;
        self.taken += 1;
        Some(self.arrivals.delivery(message))
    }

    /// Gives back whatever was not settled, and is sure that the broker has it.
    pub async fn release(self) {
        let all = BasicNackOptions {
            multiple: true,
            requeue: true,
        };
        // Tag 0 with `multiple` is everything outstanding; the question after it is answered only once it was done.
        let _gone = self.channel.basic_nack(0, all).await;
        let passive = QueueDeclareOptions {
            passive: true,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let _answered = self
            .channel
            .queue_declare(self.consumer.queue(), passive, FieldTable::default())
            .await;
        let text = ShortString::try_new("released").unwrap_or_default();
        let _closed = self.connection.close(200, text).await;
    }
}
