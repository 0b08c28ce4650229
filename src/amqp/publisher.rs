//! Publishing, confirmed: the only place that gives a message to the broker.
//!
//! Separate because of what confirmed and mandatory mean together: with several publishes in flight on a channel, lapin can
//! report a return on another message's confirm, so each channel carries one at a time and there is a pool of them. A
//! hand-over publishes first and acknowledges after, so at no moment is a job in neither place. It does not decide where a
//! message goes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Level;

use super::acknowledger::Settled;
use super::delivery::{Delivery, Queue, ReplyTo};
use super::headers::Headers;
use super::topology::Names;
use crate::outcome::Reason;
use crate::repeats::Repeats;
use crate::retry::Schedule;

/// How long a confirm is waited for while the broker does not block publishers.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);
/// Channels, and so publishes in flight, at most.
const CHANNELS: usize = 32;

/// Where a message goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A queue, at once.
    Queue(Queue),
    /// A queue, after the broker has held the message.
    Later(Queue, Duration),
}

/// A publish that is not known to have succeeded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// There is no queue for it.
    #[error("the broker returned the message: its queue does not exist (run `dingcard topology`)")]
    Unroutable,
    /// The broker refused it.
    #[error("the broker refused the message (a full queue, or no quorum)")]
    Refused,
    /// No confirm came in time; it may have been taken.
    #[error("the broker did not confirm in time")]
    Unconfirmed,
    /// There is no connection, or it ended.
    #[error("the broker is away: {0}")]
    Away(String),
}

/// The publishing side of one session.
#[derive(Debug)]
pub(super) struct Pool {
    connection: Connection,
    idle: Mutex<Vec<Channel>>,
    permits: Semaphore,
    blocked: watch::Receiver<bool>,
    session: CancellationToken,
}

impl Pool {
    pub(super) fn new(connection: Connection, blocked: watch::Receiver<bool>, session: CancellationToken) -> Self {
        Self {
            connection,
            idle: Mutex::default(),
            permits: Semaphore::new(CHANNELS),
            blocked,
            session,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn channel(&self) -> lapin::Result<Channel> {
        if let Some(channel) = self.idle().pop() {
            return Ok(channel);
        }
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        Ok(channel)
    }

    async fn publish(&self, route: &Route, body: &[u8], properties: BasicProperties) -> Result<(), PublishError> {
        let away = |e: &dyn std::fmt::Display| PublishError::Away(e.to_string());
        let _permit = self.permits.acquire().await.map_err(|e| away(&e))?;
        let confirmation = tokio::select! {
            answer = self.confirmed(route, body, properties) => answer.map_err(|e| away(&e))?,
            () = self.overdue() => return Err(PublishError::Unconfirmed),
            () = self.session.cancelled() => return Err(away(&"the session ended")),
        };
        let (confirmation, channel) = confirmation;
        self.idle().push(channel);
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => Err(PublishError::Unroutable),
            Confirmation::Nack(_) | Confirmation::NotRequested => Err(PublishError::Refused),
        }
    }

    /// One publish and its confirm. The channel comes back only with an answer: one whose confirm is outstanding must not
    /// carry another message.
    async fn confirmed(
        &self,
        route: &Route,
        body: &[u8],
        properties: BasicProperties,
    ) -> lapin::Result<(Confirmation, Channel)> {
        let channel = self.channel().await?;
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let (exchange, key) = (route.exchange.clone(), route.key.clone());
        let confirmation = channel
            .basic_publish(exchange, key, options, body, properties)
            .await?
            .await?;
        Ok((confirmation, channel))
    }

    /// Ends when a confirm is overdue; while the broker blocks publishers, none is.
    async fn overdue(&self) {
        let mut blocked = self.blocked.clone();
        loop {
            tokio::time::sleep(CONFIRM_TIMEOUT).await;
            if !*blocked.borrow() {
                return;
            }
            let _gone = blocked.wait_for(|blocked| !blocked).await;
        }
    }
}

struct Route {
    exchange: ShortString,
    key: ShortString,
}

/// Publishes through whichever session is there; cheap to clone.
#[derive(Debug, Clone)]
pub struct Publisher {
    names: Names,
    pool: watch::Receiver<Option<Arc<Pool>>>,
    repeats: Repeats,
}

impl Publisher {
    pub(super) fn new(names: Names, pool: watch::Receiver<Option<Arc<Pool>>>) -> Self {
        Self {
            names,
            pool,
            repeats: Repeats::default(),
        }
    }

    /// Publishes once, mandatory, persistent and confirmed.
    pub async fn publish(
        &self,
        to: &Destination,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        let pool = self.pool.borrow().clone();
        let pool = pool.ok_or_else(|| PublishError::Away("not connected".to_owned()))?;
        let result = pool.publish(&self.route(to), body, properties).await;
        if result == Err(PublishError::Unroutable) {
            // A queue of ours is gone: a new session declares it again.
            pool.session.cancel();
        }
        result
    }

    /// Publishes a result once. Where it goes is the producer's word, so a queue that is not there says nothing of the
    /// session, and one that holds jobs is not taken for an answer's place.
    pub async fn reply(&self, to: &ReplyTo, body: &[u8]) -> Result<(), PublishError> {
        if self.names.is_own(to.queue()) {
            return Err(PublishError::Unroutable);
        }
        let pool = self.pool.borrow().clone();
        let pool = pool.ok_or_else(|| PublishError::Away("not connected".to_owned()))?;
        let route = Route {
            exchange: ShortString::default(),
            key: to.queue.clone(),
        };
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_delivery_mode(2);
        let properties = match to.correlation_id.clone() {
            Some(id) => properties.with_correlation_id(id),
            None => properties,
        };
        pool.publish(&route, body, properties).await
    }

    /// Hands a delivery over: publishes it with `headers`, again and again until the broker confirms, and only then
    /// acknowledges it. Given up when the session that brought it has ended, since the broker then delivers it again.
    pub async fn hand_over(
        &self,
        delivery: Delivery,
        to: &Destination,
        headers: &Headers,
        job_id: Option<&str>,
    ) -> Settled {
        let properties = headers.write(delivery.properties(), job_id);
        let mut schedule = Schedule::reconnect(Duration::from_secs(5));
        loop {
            let error = tokio::select! {
                // First: another session may be there by now, which did not bring this delivery.
                biased;
                () = delivery.session_ended() => return Settled::Lost,
                result = self.publish(to, delivery.body(), properties.clone()) => match result {
                    Ok(()) => return delivery.ack().await,
                    Err(error) => error,
                },
            };
            let (event, app) = ("a hand-over was not confirmed", delivery.arrived_by().app());
            self.repeats.write(Level::WARN, event, app, Reason::None, || {
                tracing::warn!(%error, app, job = job_id, ?to, "{event} and is repeated; the job stays unacknowledged");
            });
            tokio::select! {
                () = tokio::time::sleep(schedule.wait()) => {}
                () = delivery.session_ended() => return Settled::Lost,
            }
        }
    }

    fn route(&self, to: &Destination) -> Route {
        let (exchange, key) = match to {
            Destination::Queue(queue) => (String::new(), self.names.queue(queue)),
            Destination::Later(queue, delay) => self.names.levels().route(&self.names.queue(queue), *delay),
        };
        // Namespace, queue and 17 levels stay below the 255 bytes of a short string (`config` bounds both).
        Route {
            exchange: ShortString::try_new(exchange).unwrap_or_default(),
            key: ShortString::try_new(key).unwrap_or_default(),
        }
    }
}
