//! Trying the broker: what it says of itself, whether it lets this user in, and whether the topology is there.
//!
//! Separate because only `dingcard check` asks this, a step at a time, with what to do where a step fails. It makes nothing
//! in the broker and takes nothing out of it.

use futures_util::io::{AsyncReadExt as _, AsyncWriteExt as _};
use lapin::protocol::{AMQPClass, connection, parse_class};
use lapin::tcp::AMQPUriTcpExt as _;
use lapin::types::{AMQPValue, FieldTable};

use super::connection::{Broker, ConnectError, close, timed};
use crate::config;

/// The protocol header of AMQP 0-9-1; a broker answers it with `connection.start`.
const PROTOCOL_HEADER: &[u8] = b"AMQP\x00\x00\x09\x01";
/// Type, channel and size of a frame.
const FRAME_HEADER: usize = 7;
/// A greeting is smaller by far.
const MAX_GREETING: usize = 128 * 1024;
/// The oldest RabbitMQ whose quorum queues do what is asked of them here.
const OLDEST: (u64, u64) = (3, 10);

/// What a broker says of itself before anybody has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// `RabbitMQ`
    pub product: String,
    /// `3.13.7`
    pub version: String,
}

impl Greeting {
    /// Whether it has what the topology needs.
    #[must_use]
    pub fn is_supported(&self) -> bool {
        let mut parts = self.version.split('.').map_while(|part| part.parse().ok());
        let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        self.product.eq_ignore_ascii_case("RabbitMQ") && version >= OLDEST
    }

    /// What `connection.start` holds; `None` where the bytes are something else.
    fn read(payload: &[u8]) -> Option<Self> {
        let Ok((_, AMQPClass::Connection(connection::AMQPMethod::Start(start)))) = parse_class(payload) else {
            return None;
        };
        let text = |key: &str| text(&start.server_properties, key);
        Some(Self {
            product: text("product"),
            version: text("version"),
        })
    }
}

fn text(table: &FieldTable, key: &str) -> String {
    match table.inner().get(key) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    }
}

impl Broker {
    /// Asks the broker what it is. lapin hears that too, and keeps it to itself.
    pub async fn greeting(&self) -> Result<Greeting, ConnectError> {
        let (uri, tls) = (self.uri()?, self.tls()?);
        let host = format!("{}:{}", uri.authority.host, uri.authority.port);
        let refused = |error: std::io::Error| ConnectError::Refused {
            host: host.clone(),
            error: error.into(),
        };
        let greeting = async {
            let runtime = lapin::runtime::default_runtime().map_err(std::io::Error::other)?;
            let mut stream = uri.connect_with_config_async(tls.as_ref(), &runtime).await?;
            stream.write_all(PROTOCOL_HEADER).await?;
            stream.flush().await?;
            let mut header = [0; FRAME_HEADER];
            stream.read_exact(&mut header).await?;
            let [.., a, b, c, d] = header;
            let size = u32::from_be_bytes([a, b, c, d]) as usize;
            let mut payload = vec![0; size.min(MAX_GREETING)];
            stream.read_exact(&mut payload).await?;
            Greeting::read(&payload)
                .ok_or_else(|| std::io::Error::other("what answers there does not speak AMQP 0-9-1"))
        };
        timed("greeting", greeting).await?.map_err(refused)
    }

    /// Logs in and looks whether the topology is there and, where a worker would declare it, as it would.
    pub async fn verify(&self) -> Result<(), ConnectError> {
        let connection = self.connect("check").await?;
        let topology = self.topology();
        let verified = async {
            topology.verify(&connection).await?;
            match self.settings().topology {
                config::Topology::Declare => topology.verify_arguments(&connection).await,
                config::Topology::Verify => Ok(()),
            }
        };
        let result = timed("verify", verified).await;
        close(&connection).await;
        Ok(result??)
    }

    /// What to do about `error`, in RabbitMQ's words.
    #[must_use]
    pub fn remedy(&self, error: &ConnectError) -> String {
        let text = error.to_string();
        let says = |part: &str| text.contains(part);
        let (vhost, user) = self
            .uri()
            .map(|uri| (uri.vhost, uri.authority.userinfo.username))
            .unwrap_or_default();
        match error {
            ConnectError::Url(_) | ConnectError::File(..) => "Correct amqp.url, ca_file, cert_file and key_file.".to_owned(),
            ConnectError::Timeout(_) => "What listens there does not answer: check host and port of amqp.url (5672, or 5671 with \
                                         amqps://), and whether the broker is overloaded."
                .to_owned(),
            ConnectError::Topology(_) if says("NOT_FOUND") => {
                "Run dingcard topology, or start a worker with amqp.topology = \"declare\".".to_owned()
            }
            ConnectError::Topology(_) if says("PRECONDITION_FAILED") => {
                "It was made with other arguments, and those are frozen: once it is empty, delete it and run dingcard topology; or \
                 take another amqp.namespace. --management URL shows every difference."
                    .to_owned()
            }
            _ if says("ACCESS_REFUSED - Login") || says("ACCESS_REFUSED - login") => format!(
                "Compare user and password of amqp.url with the broker's (rabbitmqctl authenticate_user {user} PASSWORD); the \
                 user guest may log in from the broker's own host alone."
            ),
            _ if says("not found") && says("vhost") => format!(
                "Make the virtual host (rabbitmqctl add_vhost '{vhost}'), or correct the path of amqp.url; the host / is written %2f \
                 there."
            ),
            _ if says("refused for user") => {
                let own = format!("^{}(\\..*)?$", self.settings().namespace.replace('.', "\\."));
                let write = own.replace('^', "^(").replace('$', "|amq\\.default)$");
                format!("Give the user its rights: rabbitmqctl set_permissions -p '{vhost}' {user} '{own}' '{write}' '{own}'")
            }
            _ => "Check host and port of amqp.url, DNS and firewall, and that RabbitMQ runs there; with amqps:// also ca_file."
                .to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn supported(product: &str, version: &str) -> bool {
        let (product, version) = (product.to_owned(), version.to_owned());
        Greeting { product, version }.is_supported()
    }

    #[test]
    fn rabbitmq_is_supported_from_3_10_on() {
        assert!(
            supported("RabbitMQ", "3.10.8") && supported("RabbitMQ", "4.0.5") && supported("RabbitMQ", "4.1.0-rc.1")
        );
        assert!(!supported("RabbitMQ", "3.9.29") && !supported("LavinMQ", "4.0.0") && !supported("RabbitMQ", ""));
    }

    #[test]
    fn what_is_no_greeting_is_none() {
        assert_eq!(Greeting::read(b"HTTP/1.1 400 Bad Request"), None);
    }
}
