//! Reaching the broker, and being there again after it was lost.
//!
//! A session is two connections (an alarm blocks those that publish, and acknowledgements must not stop with them), the
//! topology, and a consumer for each queue. One supervisor owns it: whatever ends any part ends the session, and the next
//! one rebuilds everything. Not lapin's own recovery, which can hang for good. It knows no job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use lapin::options::BasicQosOptions;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::consumer::{Consumer, Paces};
use super::delivery::{Delivery, Queue};
use super::publisher::{Pool, Publisher};
use super::quorum::Line;
use super::topology::{Names, Topology, TopologyError};
use crate::config::{self, Config, ExposeSecret as _};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::retry::Schedule;
use crate::shutdown::Shutdown;

/// For a connection's handshake, the whole topology, and the consumers, each.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// For a friendly close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Waits between sessions: short, since the broker's return is what everybody waits for.
const RECONNECT_MAX: Duration = Duration::from_secs(2);
/// A handshake that timed out leaves a thread of lapin's behind until the broker answers, so those come slowly.
const TIMEOUT_PAUSE: Duration = Duration::from_secs(10);
/// A session this long was a good one.
const GOOD_SESSION: Duration = Duration::from_secs(3);

/// The broker could not be reached, or is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot be read. Its text is not shown, since it holds a password.
    #[error("amqp.url cannot be read as an AMQP URL: {0}")]
    Url(String),
    /// A TLS file cannot be read.
    #[error("{0}: {1}")]
    File(String, std::io::Error),
    /// No connection.
    #[error("{host}: {error}")]
    Refused {
        /// Host and port.
        host: String,
        /// What the broker or the system said.
        error: lapin::Error,
    },
    /// No answer.
    #[error("no answer from the broker in time ({0})")]
    Timeout(&'static str),
    /// The topology is missing or differs.
    #[error("topology: {0}")]
    Topology(#[from] TopologyError),
    /// A consumer could not start.
    #[error("consume: {0}")]
    Consume(lapin::Error),
}

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

/// The broker, as the configuration names it.
#[derive(Debug)]
pub struct Broker {
    settings: config::Amqp,
    names: Names,
    topology: Topology,
    client_name: String,
    pool: watch::Sender<Option<Arc<Pool>>>,
}

impl Broker {
    /// Connects to nothing yet.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let names = Names::new(&config.amqp.namespace);
        Self {
            topology: Topology::new(&names, config.apps.keys().map(String::as_str)),
            settings: config.amqp.clone(),
            names,
            client_name: config.worker_name(),
            pool: watch::Sender::new(None),
        }
    }

    /// The names of this namespace.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// The topology of this namespace.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    pub(super) fn settings(&self) -> &config::Amqp {
        &self.settings
    }

    /// A publisher that uses whichever session is there.
    #[must_use]
    pub fn publisher(&self) -> Publisher {
        Publisher::new(self.names.clone(), self.pool.subscribe())
    }

    /// The URL's virtual host.
    pub fn virtual_host(&self) -> Result<String, ConnectError> {
        Ok(self.uri()?.vhost)
    }

    pub(super) fn uri(&self) -> Result<AMQPUri, ConnectError> {
        let mut uri: AMQPUri = self.settings.url().expose_secret().parse().map_err(ConnectError::Url)?;
        let heartbeat = u16::try_from(self.settings.heartbeat.as_secs()).unwrap_or(u16::MAX);
        uri.query.heartbeat.get_or_insert(heartbeat);
        Ok(uri)
    }

    pub(super) fn tls(&self) -> Result<OwnedTLSConfig, ConnectError> {
        let read = |path: &std::path::PathBuf| {
            std::fs::read(path).map_err(|error| ConnectError::File(path.display().to_string(), error))
        };
        let ca = self.settings.ca_file.as_ref().map(read).transpose()?;
        let identity = match (&self.settings.cert_file, &self.settings.key_file) {
            (Some(cert), Some(key)) => Some(OwnedIdentity::PKCS8 {
                pem: read(cert)?,
                key: read(key)?,
            }),
            _ => None,
        };
        Ok(OwnedTLSConfig {
            identity,
            cert_chain: ca.map(|pem| String::from_utf8_lossy(&pem).into_owned()),
        })
    }

    pub(super) async fn connect(&self, purpose: &str) -> Result<Connection, ConnectError> {
        let uri = self.uri()?;
        let host = format!("{}:{}", uri.authority.host, uri.authority.port);
        let refused = |error| ConnectError::Refused {
            host: host.clone(),
            error,
        };
        let name = format!("dingcard {} {purpose}", self.client_name);
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let runtime = lapin::runtime::default_runtime().map_err(refused)?;
        let connecting = Connection::connect_uri_with_config(uri, properties, self.tls()?, runtime);
        timed("connect", connecting).await?.map_err(refused)
    }

    /// Declares or verifies the topology, as configured.
    async fn prepare(&self, connection: &Connection) -> Result<(), ConnectError> {
        match self.settings.topology {
            config::Topology::Declare => timed("declare", self.topology.declare(connection)).await??,
            config::Topology::Verify => timed("verify", self.topology.verify(connection)).await??,
        }
        Ok(())
    }

    /// One connection for publishing alone, with the topology there: what the commands need. Ends with the process.
    pub async fn connect_publisher(&self) -> Result<Publisher, ConnectError> {
        let connection = self.connect("publish").await?;
        self.prepare(&connection).await?;
        let session = CancellationToken::new();
        let blocked = watch_events(&connection, session.clone(), None);
        self.pool
            .send_replace(Some(Arc::new(Pool::new(connection, blocked, session))));
        Ok(self.publisher())
    }

    /// Closes the connection of [`Self::connect_publisher`], so that all that was written is sent.
    pub async fn close(&self) {
        if let Some(pool) = self.pool.send_replace(None) {
            close(pool.connection()).await;
        }
    }

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
        let (consuming, publishing) = tokio::try_join!(self.connect("consume"), self.connect("publish"))?;
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
        tracing::info!(queues = consumers.len(), prefetch = self.settings.prefetch, "consuming");
        let suspects = self.names.queue(&Queue::Suspect);
        let line = Line {
            connection: consuming,
            queue: ShortString::try_new(suspects).unwrap_or_default(),
            health: &parts.health,
            metrics: &parts.metrics,
        };
        // A worker that drains stands in no line.
        let watched = async {
            tokio::select! {
                never = line.watch(|message| on_delivery(Delivery::new(message, Queue::Suspect, session.clone()))) => match never {},
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
            let (name, prefetch) = (self.names.queue(&queue), self.settings.prefetch);
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

pub(super) async fn timed<T>(step: &'static str, future: impl Future<Output = T>) -> Result<T, ConnectError> {
    tokio::time::timeout(STEP_TIMEOUT, future)
        .await
        .map_err(|_| ConnectError::Timeout(step))
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

pub(super) async fn close(connection: &Connection) {
    let text = ShortString::try_new("closed").unwrap_or_default();
    let _gone = tokio::time::timeout(CLOSE_TIMEOUT, connection.close(200, text)).await;
}

/// Follows a connection's events for as long as the session lasts: an error ends the session, and the answer says whether
/// the broker blocks publishers.
pub(super) fn watch_events(
    connection: &Connection,
    session: CancellationToken,
    metrics: Option<Arc<Metrics>>,
) -> watch::Receiver<bool> {
    let (blocked, receiver) = watch::channel(false);
    let events = connection.events_listener();
    let blocked_gauge = move |value| {
        if let Some(metrics) = &metrics {
            metrics.publisher_blocked.set(value);
        }
    };
    tokio::spawn(async move {
        let mut events = std::pin::pin!(events);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = session.cancelled() => return,
            };
            match event {
                Some(Event::ConnectionBlocked(why)) => {
                    tracing::warn!(%why, "the broker blocks publishers (an alarm); retries wait, acknowledgements go on");
                    blocked_gauge(1);
                    blocked.send_replace(true);
                }
                Some(Event::ConnectionUnblocked) => {
                    tracing::info!("the broker takes publishes again");
                    blocked_gauge(0);
                    blocked.send_replace(false);
                }
                Some(Event::Error(_)) | None => {
                    session.cancel();
                    return;
                }
                Some(_) => {}
            }
        }
    });
    receiver
}
