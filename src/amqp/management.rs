//! RabbitMQ's management API: what is in the broker with its arguments and bindings, which AMQP itself does not tell.
//!
//! Separate because it is another protocol, at another address, that only `dingcard check --management` speaks. It reads;
//! it changes nothing, and no password shows in its errors.

use reqwest::{Client, StatusCode, Url};
use serde_json::{Map, Value};

use super::connection::Broker;
use crate::config::{ExposeSecret as _, SecretString};

/// How the broker differs from what `dingcard topology --print` prints.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// What is missing or has other arguments.
    pub differs: Vec<String>,
    /// Bindings of dingcard's exchanges that are not dingcard's: they copy or divert messages.
    pub foreign: Vec<String>,
}

/// The management API did not tell.
#[derive(Debug, thiserror::Error)]
pub enum ManagementError {
    /// The URL is none.
    #[error("not an http:// or https:// URL")]
    Url,
    /// The CA cannot be read.
    #[error("amqp.ca_file: {0}")]
    CaFile(String),
    /// No answer that can be read.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The user may not ask.
    #[error("it refuses user {user} (HTTP {status})")]
    Refused {
        /// Who asked.
        user: String,
        /// 401 or 403.
        status: u16,
    },
    /// There is no such API, or no such virtual host.
    #[error("it knows no virtual host {vhost:?} (HTTP 404)")]
    NotFound {
        /// That of `amqp.url`.
        vhost: String,
    },
    /// Another status.
    #[error("it answers HTTP {0}")]
    Status(u16),
}

impl ManagementError {
    /// What to do about it, in RabbitMQ's words.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Url => {
                "Give http://USER:PASSWORD@HOST:15672; without user and password, those of amqp.url are taken."
                    .to_owned()
            }
            Self::CaFile(_) => "Give a PEM file that this user may read.".to_owned(),
            Self::Refused { user, .. } => {
                format!(
                    "Give a user with the tag management or monitoring: rabbitmqctl set_user_tags {user} monitoring"
                )
            }
            Self::NotFound { .. } => {
                "Correct the virtual host in amqp.url, or the URL of the management API.".to_owned()
            }
            Self::Unanswered(_) | Self::Status(_) => {
                "Enable the plugin (rabbitmq-plugins enable rabbitmq_management) and check \
                                                      host and port, 15672 unless set otherwise."
                    .to_owned()
            }
        }
    }
}

impl Broker {
    /// Compares what is in the broker with what a worker would declare.
    pub async fn compare(&self, management: &SecretString) -> Result<Comparison, ManagementError> {
        let vhost = self.virtual_host().map_err(|_| ManagementError::Url)?;
        let api = Api::new(self, management.expose_secret(), vhost)?;
        let (exchanges, queues, bindings) =
            tokio::try_join!(api.list("exchanges"), api.list("queues"), api.list("bindings"))?;
        let declared = self.topology().definitions(&api.vhost);
        let mut comparison = Comparison::default();
        compare_objects(
            "exchange",
            rows(&declared, "exchanges"),
            &exchanges,
            &mut comparison.differs,
        );
        compare_objects("queue", rows(&declared, "queues"), &queues, &mut comparison.differs);
        compare_bindings(&declared, &bindings, &mut comparison);
        Ok(comparison)
    }
}

struct Api {
    client: Client,
    /// With user and password; reqwest sends those as basic authentication.
    base: Url,
    vhost: String,
}

impl Api {
    fn new(broker: &Broker, url: &str, vhost: String) -> Result<Self, ManagementError> {
        let mut base: Url = url.parse().map_err(|_| ManagementError::Url)?;
        if !matches!(base.scheme(), "http" | "https") || base.cannot_be_a_base() {
            return Err(ManagementError::Url);
        }
        if base.username().is_empty() {
            let login = broker.uri().map_err(|_| ManagementError::Url)?.authority.userinfo;
            let named = base.set_username(&login.username);
            named
                .and_then(|()| base.set_password(Some(&login.password)))
                .map_err(|()| ManagementError::Url)?;
        }
        base.set_query(None);
        let mut client = Client::builder()
            .timeout(super::connection::STEP_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none());
        if let Some(path) = &broker.settings().ca_file {
            let pem = std::fs::read(path).map_err(|e| ManagementError::CaFile(e.to_string()))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem);
            client = client.tls_certs_merge(certificates.map_err(|e| ManagementError::CaFile(e.to_string()))?);
        }
        Ok(Self {
            client: client.build().map_err(unanswered)?,
            base,
            vhost,
        })
    }

    /// All of a kind in the virtual host.
    async fn list(&self, kind: &str) -> Result<Vec<Value>, ManagementError> {
        let mut url = self.base.clone();
        let path = ["api", kind, &self.vhost];
        url.path_segments_mut()
            .map_err(|()| ManagementError::Url)?
            .pop_if_empty()
            .extend(path);
        let response = self.client.get(url).send().await.map_err(unanswered)?;
        match response.status() {
            StatusCode::OK => response.json().await.map_err(unanswered),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => Err(ManagementError::Refused {
                user: self.base.username().to_owned(),
                status: status.as_u16(),
            }),
            StatusCode::NOT_FOUND => Err(ManagementError::NotFound {
                vhost: self.vhost.clone(),
            }),
            status => Err(ManagementError::Status(status.as_u16())),
        }
    }
}

/// The error and its cause, without the URL: that can hold a password.
fn unanswered(error: reqwest::Error) -> ManagementError {
    use std::error::Error as _;
    let error = error.without_url();
    let cause = error
        .source()
        .and_then(|e| e.source().or(Some(e)))
        .map(ToString::to_string);
    ManagementError::Unanswered(cause.unwrap_or_else(|| error.to_string()))
}

fn rows<'a>(definitions: &'a Value, kind: &str) -> &'a [Value] {
    definitions[kind].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// What of `declared` is missing, or has another type or other arguments.
fn compare_objects(kind: &str, declared: &[Value], there: &[Value], differs: &mut Vec<String>) {
    let nothing = Map::new();
    for object in declared {
        let name = object["name"].as_str().unwrap_or_default();
        let Some(found) = there.iter().find(|candidate| candidate["name"] == object["name"]) else {
            differs.push(format!("{kind} {name} is missing"));
            continue;
        };
        for key in ["type", "durable", "auto_delete"] {
            let (wanted, found) = (&object[key], &found[key]);
            if !wanted.is_null() && wanted != found {
                differs.push(format!("{kind} {name}: {key} is {found}, not {wanted}"));
            }
        }
        let arguments = |of: &'_ Value| of["arguments"].as_object().unwrap_or(&nothing).clone();
        let (wanted, found) = (arguments(object), arguments(found));
        for (key, value) in &wanted {
            match found.get(key) {
                Some(there) if there == value => {}
                Some(there) => differs.push(format!("{kind} {name}: {key} is {there}, not {value}")),
                None => differs.push(format!("{kind} {name}: {key} is not set, not {value}")),
            }
        }
        for (key, there) in found.iter().filter(|(key, _)| !wanted.contains_key(*key)) {
            differs.push(format!("{kind} {name}: {key} is {there}, and none is declared"));
        }
    }
}

fn compare_bindings(declared: &Value, there: &[Value], comparison: &mut Comparison) {
    const IDENTITY: [&str; 4] = ["source", "destination", "destination_type", "routing_key"];
    let same = |a: &Value, b: &Value| IDENTITY.iter().all(|key| a[key] == b[key]);
    let text = |binding: &Value, key: &str| binding[key].as_str().unwrap_or_default().to_owned();
    let told = |binding: &Value| {
        format!(
            "binding of exchange {} to {} {} with key {:?}",
            text(binding, "source"),
            text(binding, "destination_type"),
            text(binding, "destination"),
            text(binding, "routing_key")
        )
    };
    let wanted = rows(declared, "bindings");
    for binding in wanted
        .iter()
        .filter(|wanted| !there.iter().any(|found| same(wanted, found)))
    {
        comparison.differs.push(format!("{} is missing", told(binding)));
    }
    let ours = |binding: &Value| {
        rows(declared, "exchanges")
            .iter()
            .any(|e| e["name"] == binding["source"])
    };
    for binding in there
        .iter()
        .filter(|found| ours(found) && !wanted.iter().any(|wanted| same(wanted, found)))
    {
        comparison.foreign.push(told(binding));
    }
}
