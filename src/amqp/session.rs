//! A worker's session with the broker, and being there again after it was lost.
//!
//! A session is two connections (an alarm blocks those that publish, and acknowledgements must not stop with them), the
//! topology, and a consumer for each queue. One supervisor owns it: whatever ends any part ends the session, and the next
//! one rebuilds everything. Not lapin's own recovery, which can hang for good. Separate from reaching the broker because
//! commands do that too, and supervise nothing. It knows no job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::BasicQosOptions;
use lapin::types::ShortString;
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::connection::{Broker, CLOSE_TIMEOUT, ConnectError, close, timed, watch_events};
use super::consumer::{Consumer, Paces};
use super::delivery::{Delivery, Queue};
use super::publisher::Pool;
use super::quorum::Line;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::retry::Schedule;
use crate::shutdown::Shutdown;

/// Waits between sessions: short, since the broker's return is what everybody waits for.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// A handshake that timed out leaves a thread of lapin's behind until the broker answers, so those come slowly.
const TIMEOUT_PAUSE: Duration = Duration::from_secs(10);
/// A session this long was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(3);

/// What a worker lends to the supervisor.
#[derive(Debug, Clone)]
pub struct Parts {
    /// Counts sessions and says whether one is there.
    pub metrics: Arc<Metrics>,
    /// Says why none is.
    pub health: Arc<Health>,
    /// How fast each app is consumed. Only these apps are.
    pub paces: Arc<Paces>,
}

impl Broker {
    /// Consumes until `shutdown` is through, in as many sessions as it takes. Every message goes to `on_delivery`.
    pub async fn run(&self, parts: &Parts, shutdown: &Shutdown, on_delivery: impl Fn(Delivery) + Sync) {
        let mut schedule = Schedule::reconnect(RECONNECT_MAX);
        let mut said = String::new();
        let mut first = true;
        while !shutdown.is_draining() {
            let begun = Instant::now();
            let pause = match self.session(parts, shutdown, &on_delivery, &mut first).await {
                Ok(()) => return,
                Err(error) => {
                    let why = error.to_string();
                    parts.health.broker_away(format!("the broker is away: {why}"));
                    if std::mem::replace(&mut said, why.clone()) == why {
                        tracing::debug!(%why, "still without the broker");
                    } else {
                        tracing::warn!(%why, "without the broker; connecting again until it is back");
                    }
                    if matches!(error, SessionError::Connect(ConnectError::Timeout(_))) {
                        TIMEOUT_PAUSE
                    } else {
                        Duration::ZERO
                    }
                }
            };
            if begun.elapsed() > GOOD_SESSION {
                schedule.reset();
                said.clear();
            }
            tokio::select! {
                () = tokio::time::sleep(schedule.wait() + pause) => {}
                () = shutdown.draining() => {}
            }
        }
    }

    /// One session, from the first connection to the end of any part. `Ok` where `shutdown` ended it.
    async fn session(
        &self,
        parts: &Parts,
        shutdown: &Shutdown,
        on_delivery: &(impl Fn(Delivery) + Sync),
        first: &mut bool,
    ) -> Result<(), SessionError> {
        let session = CancellationToken::new();
        let _ends = session.clone().drop_guard();
        let (consuming, publishing) = tokio::try_join!(self.connect("consume"), self.connect_to_publish())?;
        parts.metrics.broker_connected.set(1);
        if !std::mem::replace(first, false) {
            parts.metrics.broker_reconnects.inc();
        }
        let result = self
            .consume(parts, shutdown, on_delivery, &session, &consuming, publishing)
            .await;
        session.cancel();
        parts.metrics.consuming.set(0);
        parts.metrics.broker_connected.set(0);
        parts.metrics.publisher_blocked.set(0);
        if let Some(pool) = self.pool.send_replace(None) {
            tokio::join!(close(&consuming), close(pool.connection()));
        }
        result
    }

    async fn consume(
        &self,
        parts: &Parts,
        shutdown: &Shutdown,
        on_delivery: &(impl Fn(Delivery) + Sync),
        session: &CancellationToken,
        consuming: &Connection,
        publishing: Connection,
    ) -> Result<(), SessionError> {
        watch_events(consuming, session.clone(), None);
        let blocked = watch_events(&publishing, session.clone(), Some(parts.metrics.clone()));
        let pool = Arc::new(Pool::new(publishing, blocked, session.clone()));
        self.prepare(pool.connection()).await?;
        self.pool.send_replace(Some(pool));

        let mut channels = Vec::new();
        let mut consumers = FuturesUnordered::new();
        for consumer in timed("consume", self.start_consumers(parts, session, consuming)).await?? {
            channels.push(consumer.channel());
            consumers.push(consumer.run(shutdown, on_delivery));
        }
        parts.metrics.consuming.set(1);
        parts.health.broker_ready();
        tracing::info!(
            queues = consumers.len(),
            prefetch = self.settings().prefetch,
            "consuming"
        );
        let suspects = self.names().queue(&Queue::Suspect);
        let line = Line {
            connection: consuming,
            queue: ShortString::try_new(suspects).unwrap_or_default(),
            health: &parts.health,
            metrics: &parts.metrics,
            session,
        };
        // A worker that drains stands in no line.
        let watched = async {
            tokio::select! {
                never = line.watch(on_delivery) => match never {},
                () = shutdown.draining() => std::future::pending().await,
            }
        };
        tokio::select! {
            never = watched => match never {},
            () = shutdown.aborted() => {
                flush(&channels).await;
                Ok(())
            }
            Some(why) = consumers.next() => Err(SessionError::Ended(why)),
            () = session.cancelled() => Err(SessionError::Ended("the connection was lost".to_owned())),
        }
    }

    async fn start_consumers(
        &self,
        parts: &Parts,
        session: &CancellationToken,
        connection: &Connection,
    ) -> Result<Vec<Consumer>, ConnectError> {
        let always = watch::Sender::new(super::Pace::OneByOne).subscribe();
        let arrivals = parts.paces.iter().flat_map(|(app, pace)| {
            [Queue::Urgent(app.clone()), Queue::Jobs(app.clone())].map(|queue| (queue, pace.clone()))
        });
        let mut consumers = Vec::new();
        for (queue, pace) in arrivals.chain([(Queue::Suspect, always)]) {
            let (name, prefetch) = (self.names().queue(&queue), self.settings().prefetch);
            let started = Consumer::start(connection, queue, &name, prefetch, pace, session.clone()).await;
            consumers.push(started.map_err(ConnectError::Consume)?);
        }
        Ok(consumers)
    }
}

#[derive(Debug, thiserror::Error)]
enum SessionError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("{0}")]
    Ended(String),
}

/// Waits until the broker has all that was written on these channels. lapin drops what is still queued of a channel that is
/// closed, so the last acknowledgements of a worker that stops would be lost; an answer to a question after them proves
/// that they have arrived.
async fn flush(channels: &[Channel]) {
    let ask = |channel: &Channel| {
        let channel = channel.clone();
        async move { channel.basic_qos(1, BasicQosOptions::default()).await }
    };
    let asked = futures_util::future::join_all(channels.iter().map(ask));
    let _gone = tokio::time::timeout(CLOSE_TIMEOUT, asked).await;
}
