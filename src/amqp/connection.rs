//! Reaching the broker: the URL, TLS, the topology, and what a connection tells of itself.
//!
//! Separate from keeping a worker's session because commands connect too, once, and end. It knows no job.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::tcp::{OwnedIdentity, OwnedTLSConfig};
use lapin::types::ShortString;
use lapin::uri::AMQPUri;
use lapin::{Connection, ConnectionProperties, Event};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::publisher::{Pool, Publisher};
use super::topology::{Names, Topology, TopologyError};
use crate::config::{self, Config, ExposeSecret as _};
use crate::metrics::Metrics;

/// For a connection's handshake, the whole topology, and the consumers, each.
pub(super) const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// For a friendly close.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// The largest frame to the broker, in bytes. lapin keeps room for 64 of the largest, which with the broker's 128 KiB are
/// 8 MiB; what is published has at most 32 KiB of properties, and a body goes into as many frames as it takes. Not where
/// messages are consumed: the properties of a producer's come in one frame, whatever they are.
const PUBLISHED_FRAME_MAX: u32 = 48 * 1024;

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

/// The broker, as the configuration names it.
#[derive(Debug)]
pub struct Broker {
    settings: config::Amqp,
    names: Names,
    topology: Topology,
    client_name: String,
    pub(super) pool: watch::Sender<Option<Arc<Pool>>>,
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
        self.connect_by(self.uri()?, purpose).await
    }

    /// A connection that only publishes.
    pub(super) async fn connect_to_publish(&self) -> Result<Connection, ConnectError> {
        let mut uri = self.uri()?;
        uri.query.frame_max.get_or_insert(PUBLISHED_FRAME_MAX);
        self.connect_by(uri, "publish").await
    }

    async fn connect_by(&self, uri: AMQPUri, purpose: &str) -> Result<Connection, ConnectError> {
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
    pub(super) async fn prepare(&self, connection: &Connection) -> Result<(), ConnectError> {
        match self.settings.topology {
            config::Topology::Declare => timed("declare", self.topology.declare(connection)).await??,
            config::Topology::Verify => timed("verify", self.topology.verify(connection)).await??,
        }
        Ok(())
    }

    /// One connection for publishing alone, with the topology there: what the commands need. Ends with the process.
    pub async fn connect_publisher(&self) -> Result<Publisher, ConnectError> {
        let connection = self.connect_to_publish().await?;
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
}

pub(super) async fn timed<T>(step: &'static str, future: impl Future<Output = T>) -> Result<T, ConnectError> {
    tokio::time::timeout(STEP_TIMEOUT, future)
        .await
        .map_err(|_| ConnectError::Timeout(step))
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
