//! One arrival of a message, to be settled exactly once.
//!
//! Separate so that settling consumes the value: settling twice does not compile. It knows the message's properties and
//! never looks into its body.

use std::sync::Arc;

use jiff::Timestamp;
use lapin::BasicProperties;
use lapin::types::ShortString;
use tokio_util::sync::CancellationToken;

use super::acknowledger::{Acknowledger, Settled, Word};
use super::headers::{Headers, delivery_count, text};
use crate::config::DEFAULT_APP;

/// A queue where jobs arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Queue {
    /// An app's jobs.
    Jobs(String),
    /// An app's urgent jobs.
    Urgent(String),
    /// Messages that may be killing workers, of any app, one at a time.
    Suspect,
    /// The dead letters, of any app.
    Dead,
}

impl Queue {
    /// The app of the queue; of the queues of any app the default one, for messages that do not say where they come from.
    #[must_use]
    pub fn app(&self) -> &str {
        match self {
            Self::Jobs(app) | Self::Urgent(app) => app,
            Self::Suspect | Self::Dead => DEFAULT_APP,
        }
    }

    /// The queue of the same kind of another app.
    #[must_use]
    pub fn of_app(&self, app: &str) -> Self {
        match self {
            Self::Urgent(_) => Self::Urgent(app.to_owned()),
            Self::Jobs(_) | Self::Suspect | Self::Dead => Self::Jobs(app.to_owned()),
        }
    }

    /// Whether its jobs go before others.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        matches!(self, Self::Urgent(_))
    }
}

/// Where a producer waits for results, and what it knows them by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    pub(super) queue: ShortString,
    pub(super) correlation_id: Option<ShortString>,
}

impl ReplyTo {
    /// The queue's name.
    #[must_use]
    pub fn queue(&self) -> &str {
        self.queue.as_str()
    }
}

/// What all messages of one queue that come on one channel have in common.
#[derive(Debug)]
pub(super) struct Arrivals {
    queue: Queue,
    session: CancellationToken,
    acknowledger: Acknowledger,
}

impl Arrivals {
    pub(super) fn new(queue: Queue, session: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            queue,
            acknowledger: Acknowledger::start(session.clone()),
            session,
        })
    }

    /// The message as a delivery; to be called in the order in which they come.
    pub(super) fn delivery(self: &Arc<Self>, message: lapin::message::Delivery) -> Delivery {
        self.acknowledger.expect(message.delivery_tag);
        let headers = Headers::read(&message.properties);
        Delivery(Box::new(Arrived {
            first_seen: headers.first_seen.unwrap_or_else(Timestamp::now),
            message,
            arrivals: self.clone(),
            headers,
        }))
    }
}

/// A message that the broker waits to hear of. Boxed, since it goes from step to step, and each keeps room for it.
#[derive(Debug)]
pub struct Delivery(Box<Arrived>);

#[derive(Debug)]
struct Arrived {
    message: lapin::message::Delivery,
    arrivals: Arc<Arrivals>,
    first_seen: Timestamp,
    headers: Headers,
}

impl Delivery {
    /// The body, as the producer wrote it.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.0.message.data
    }

    /// The key it was routed by.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        self.0.message.routing_key.as_str()
    }

    /// AMQP's properties.
    #[must_use]
    pub fn properties(&self) -> &BasicProperties {
        &self.0.message.properties
    }

    /// AMQP's `message_id`.
    #[must_use]
    pub fn message_id(&self) -> Option<&str> {
        self.0.message.properties.message_id().as_ref().map(ShortString::as_str)
    }

    /// Where the producer waits for results, if it does.
    #[must_use]
    pub fn reply_to(&self) -> Option<ReplyTo> {
        let properties = &self.0.message.properties;
        let queue = properties
            .reply_to()
            .clone()
            .filter(|queue| !queue.as_str().is_empty())?;
        Some(ReplyTo {
            queue,
            correlation_id: properties.correlation_id().clone(),
        })
    }

    /// dingcard's own headers.
    #[must_use]
    pub fn headers(&self) -> &Headers {
        &self.0.headers
    }

    /// A header that the producer gave, where it is text.
    #[must_use]
    pub fn header(&self, key: &str) -> Option<String> {
        text(self.properties(), key)
    }

    /// The queue that it arrived by.
    #[must_use]
    pub fn arrived_by(&self) -> &Queue {
        &self.0.arrivals.queue
    }

    /// When a worker first had this job.
    #[must_use]
    pub fn first_seen(&self) -> Timestamp {
        self.0.first_seen
    }

    /// Whether no worker had this message before: not redelivered, and not handed over by one.
    #[must_use]
    pub fn is_first(&self) -> bool {
        !self.0.message.redelivered && self.0.headers.first_seen.is_none()
    }

    /// How often the broker gave it to a worker that did not settle it.
    #[must_use]
    pub fn count(&self) -> u64 {
        delivery_count(&self.0.message.properties)
    }

    /// Whether the session that brought the message has ended: nothing can be settled, and the broker gives it to another.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.0.arrivals.session.is_cancelled()
    }

    /// Ends when the session that brought the message has ended.
    pub async fn session_ended(&self) {
        self.0.arrivals.session.cancelled().await;
    }

    /// Settles it: the broker forgets the message.
    pub async fn ack(self) -> Settled {
        self.settle(Word::Ack).await
    }

    /// Gives it back: the broker delivers it again, and counts that.
    pub async fn give_back(self) -> Settled {
        self.settle(Word::Requeue).await
    }

    fn settle(self, word: Word) -> impl Future<Output = Settled> {
        let Arrived { message, arrivals, .. } = *self.0;
        arrivals.acknowledger.settle(message.delivery_tag, message.acker, word)
    }
}
