//! What can be set: the settings as types, and the rules that a single key cannot express.
//!
//! Defaults stand in `deploy/dingcard.toml` alone, embedded here, so that the documentation of a key and its value cannot
//! drift apart. Where the values come from and how a fault in them is traced to its line is `config::load`'s business.
//! This file opens no connection and knows no other part.

mod check;
mod load;
mod reload;
mod sandbox;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::fmt::serde::unsigned_duration::friendly::compact::required as duration;
use schemars::JsonSchema;
pub use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

pub use self::load::{ConfigError, Problem};
pub use self::sandbox::{Assume, Sandbox};

/// The embedded, commented file of defaults.
pub const DEFAULTS: &str = include_str!("../../deploy/dingcard.toml");

/// The app whose queues have no app in their name.
pub const DEFAULT_APP: &str = "default";

/// All settings, checked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long jobs in work may take to finish after SIGTERM.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub shutdown_grace: Duration,
    /// The worker's name; host name and process ID without it.
    pub worker_name: Option<String>,
    /// The broker.
    pub amqp: Amqp,
    /// The worker's own HTTP server.
    pub http: Http,
    /// DingTalk's hosts.
    pub dingtalk: DingTalk,
    /// DingTalk applications by name.
    pub apps: BTreeMap<String, App>,
    /// Template aliases by name.
    #[serde(default)]
    pub templates: BTreeMap<String, Template>,
    /// The cache of user IDs.
    pub users: Users,
    /// The memory of finished recipients.
    pub ledger: Ledger,
    /// Both tiers of retry.
    pub retry: Retry,
    /// What workers share.
    pub redis: Redis,
    /// Logging.
    pub log: Log,
    /// Traces.
    pub otel: Otel,
    /// The sandbox.
    pub sandbox: Sandbox,
}

/// `[amqp]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Amqp {
    /// `amqp://` or `amqps://`, with user, password and virtual host.
    #[schemars(with = "Option<String>")]
    url: Option<SecretString>,
    /// A file that holds the URL.
    url_file: Option<PathBuf>,
    /// The first part of every name in the broker.
    pub namespace: String,
    /// Jobs in work at once, of each queue.
    pub prefetch: u16,
    /// AMQP heartbeat; whole seconds.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub heartbeat: Duration,
    /// Whether missing topology is made.
    pub topology: Topology,
    /// PEM file of a private CA.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate.
    pub cert_file: Option<PathBuf>,
    /// PEM file of the client certificate's key.
    pub key_file: Option<PathBuf>,
}

/// Whether the worker makes its queues or only looks whether they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Declares all of it, idempotently.
    Declare,
    /// Only verifies that it exists.
    Verify,
}

/// `[http]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Address of `/metrics`, `/livez` and `/readyz`.
    #[schemars(with = "String")]
    pub listen: SocketAddr,
}

/// `[dingtalk]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DingTalk {
    /// Base URL of the new family.
    pub api_url: String,
    /// Base URL of the legacy family.
    pub oapi_url: String,
    /// For a whole call.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub timeout: Duration,
    /// For a call's connection.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub connect_timeout: Duration,
    /// How long nothing is asked after an IP ban.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub ip_ban_pause: Duration,
}

/// `[apps.NAME]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct App {
    /// The application's AppKey (Client ID).
    pub app_key: Option<String>,
    /// The application's AppSecret (Client Secret).
    #[schemars(with = "Option<String>")]
    app_secret: Option<SecretString>,
    /// A file that holds the secret.
    app_secret_file: Option<PathBuf>,
    /// The robot that sends.
    pub robot_code: Option<String>,
    /// Template of jobs that name none.
    pub template: Option<String>,
    /// Which card API serves this app.
    pub card_api: CardApi,
    /// Which call fetches its token.
    pub token_api: TokenApi,
    /// Calls a second for each API; 0 is no limit.
    pub rate_per_second: f64,
    /// Recipients in one call, 1 to 20.
    pub recipients_per_call: usize,
    /// Calls that DingTalk's quota counts and that the app may make in a month; absent, none are counted.
    pub monthly_calls: Option<u64>,
    /// The last of them, kept for urgent jobs.
    pub monthly_reserve: u64,
    /// Whether an operator holds the app.
    pub paused: bool,
}

/// The two card APIs of DingTalk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CardApi {
    /// createAndDeliver, the current one.
    Instances,
    /// interactiveCards/send, for apps that already have it.
    Interactive,
}

/// The two token calls of DingTalk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenApi {
    /// `POST /v1.0/oauth2/accessToken`.
    Oauth2,
    /// `GET /gettoken`.
    Gettoken,
}

/// `[templates.NAME]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// DingTalk's template ID.
    pub id: String,
    /// Parameters without which a job is refused.
    #[serde(default)]
    pub required: Vec<String>,
}

/// `[users]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Users {
    /// How long a user ID is remembered.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub cache_ttl: Duration,
    /// How long an unknown mobile is remembered.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub negative_ttl: Duration,
    /// Mobiles remembered at most.
    pub capacity: u64,
}

/// `[ledger]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    /// How long a finished recipient is remembered.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub ttl: Duration,
    /// Finished recipients remembered at most.
    pub capacity: u64,
}

/// `[retry]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Tries inside one attempt, beyond the first.
    pub immediate: u32,
    /// The first interval of delayed retries.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub initial: Duration,
    /// The growth of the interval.
    pub multiplier: f64,
    /// The largest interval.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub max_delay: Duration,
    /// Attempts in all.
    pub max_attempts: u32,
    /// The longest that one attempt may take.
    #[serde(with = "duration")]
    #[schemars(with = "String")]
    pub job_deadline: Duration,
}

/// `[redis]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `redis://` or `rediss://`, with user, password and database; without it, nothing is shared.
    #[schemars(with = "Option<String>")]
    url: Option<SecretString>,
    /// A file that holds the URL.
    url_file: Option<PathBuf>,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Text or JSON lines.
    pub format: LogFormat,
    /// A level or a filter.
    pub level: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `[otel]`
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Otel {
    /// Base URL of an OpenTelemetry collector; without it no spans are made.
    pub endpoint: Option<String>,
}

impl Config {
    /// The worker's name: as configured, or host name and process ID.
    #[must_use]
    pub fn worker_name(&self) -> String {
        self.worker_name.clone().unwrap_or_else(|| {
            let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
            let host = if host.trim().is_empty() { "worker" } else { host.trim() };
            format!("{host}-{}", std::process::id())
        })
    }

    /// The apps that a worker can serve: those with credentials. Without any, an error that says where they go.
    pub fn served_apps(&self) -> Result<Vec<&str>, ConfigError> {
        let served: Vec<&str> = self
            .apps
            .iter()
            .filter(|(_, app)| app.is_complete())
            .map(|(n, _)| n.as_str())
            .collect();
        if served.is_empty() {
            return Err(ConfigError::single(
                "apps.default",
                "app_key, app_secret and robot_code are needed: they are in the DingTalk console, in the application's \
                 credentials and its robot",
            ));
        }
        Ok(served)
    }

    /// The DingTalk template ID and the required parameters of a job's `template`, or of the app's default.
    #[must_use]
    pub fn template<'a>(&'a self, app: &'a App, named: Option<&'a str>) -> Option<(&'a str, &'a [String])> {
        let name = named.or(app.template.as_deref())?;
        Some(
            self.templates
                .get(name)
                .map_or((name, &[]), |alias| (&alias.id, &alias.required)),
        )
    }
}

impl Amqp {
    /// The URL, from its key or its file.
    #[must_use]
    pub fn url(&self) -> SecretString {
        self.url.clone().unwrap_or_default()
    }
}

impl Redis {
    /// The URL, from its key or its file.
    #[must_use]
    pub fn url(&self) -> Option<&SecretString> {
        self.url.as_ref()
    }
}

impl App {
    /// Whether key, secret and robot code are all there.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.app_key.is_some() && self.app_secret.is_some() && self.robot_code.is_some()
    }

    /// Whether it fetches the same token.
    #[must_use]
    pub fn has_credentials_of(&self, other: &Self) -> bool {
        let secret = |app: &Self| app.app_secret().expose_secret().to_owned();
        self.app_key == other.app_key && self.token_api == other.token_api && secret(self) == secret(other)
    }

    /// Whether it makes the same calls at the same pace, within the same budget.
    #[must_use]
    pub fn has_pace_of(&self, other: &Self) -> bool {
        let pace = |app: &Self| (app.card_api, app.token_api, app.monthly_calls, app.monthly_reserve);
        pace(self) == pace(other) && self.rate_per_second.to_bits() == other.rate_per_second.to_bits()
    }

    /// The secret, from its key or its file; empty where the app has none.
    #[must_use]
    pub fn app_secret(&self) -> SecretString {
        self.app_secret.clone().unwrap_or_default()
    }
}
