//! HTTP to DingTalk: the only place that sends any.
//!
//! Separate so that what must hold for every call holds in one place: its host and form, its turn at the rate limit, the
//! bound on its answer, the ban of this egress IP, its metrics, and that no error shows a URL with a token in it. What an
//! answer means is `error`'s business.

use std::collections::HashMap;
use std::error::Error as _;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Client, Method, Response};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::answer::{self, Answer};
use super::error::Failure;
use crate::config::{self, CardApi, TokenApi};
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason};
use crate::rate_limit::{Gate, Limiter};

/// The largest answer that is read; those documented have a few kilobytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// Idle connections are dropped before common servers and gateways drop them.
const IDLE: Duration = Duration::from_secs(15);

/// A call that DingTalk documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Endpoint {
    /// `GET /gettoken` (2.1)
    GetToken,
    /// `POST /v1.0/oauth2/accessToken` (2.2)
    AccessToken,
    /// `POST /topapi/v2/user/getbymobile` (3)
    GetByMobile,
    /// `POST /v1.0/card/instances/createAndDeliver` (5.1)
    CreateAndDeliver,
    /// `POST /v1.0/card/instances/deliver` (5.3)
    Deliver,
    /// `PUT /v1.0/card/instances` (5.3)
    UpdateInstances,
    /// `POST /v1.0/im/interactiveCards/send` (4.1)
    InteractiveSend,
    /// `PUT /v1.0/im/interactiveCards` (4.5)
    InteractiveUpdate,
}

impl Endpoint {
    /// The label and the word in every detail.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::GetToken => "gettoken",
            Self::AccessToken => "accessToken",
            Self::GetByMobile => "getbymobile",
            Self::CreateAndDeliver => "createAndDeliver",
            Self::Deliver => "deliver",
            Self::UpdateInstances => "updateInstances",
            Self::InteractiveSend => "interactiveSend",
            Self::InteractiveUpdate => "interactiveUpdate",
        }
    }

    /// Whether it only reads, so that a lost answer means nothing was done.
    pub(super) const fn is_read(self) -> bool {
        matches!(self, Self::GetToken | Self::AccessToken | Self::GetByMobile)
    }

    /// Whether it fetches a token.
    pub(super) const fn is_token(self) -> bool {
        matches!(self, Self::GetToken | Self::AccessToken)
    }

    const fn is_legacy(self) -> bool {
        matches!(self, Self::GetToken | Self::GetByMobile)
    }

    fn method_and_path(self) -> (Method, &'static str) {
        match self {
            Self::GetToken => (Method::GET, "/gettoken"),
            Self::AccessToken => (Method::POST, "/v1.0/oauth2/accessToken"),
            Self::GetByMobile => (Method::POST, "/topapi/v2/user/getbymobile"),
            Self::CreateAndDeliver => (Method::POST, "/v1.0/card/instances/createAndDeliver"),
            Self::Deliver => (Method::POST, "/v1.0/card/instances/deliver"),
            Self::UpdateInstances => (Method::PUT, "/v1.0/card/instances"),
            Self::InteractiveSend => (Method::POST, "/v1.0/im/interactiveCards/send"),
            Self::InteractiveUpdate => (Method::PUT, "/v1.0/im/interactiveCards"),
        }
    }

    /// The calls that an app with these settings can make.
    pub(super) fn of_app(app: &config::App) -> Vec<Self> {
        let token = match app.token_api {
            TokenApi::Oauth2 => Self::AccessToken,
            TokenApi::Gettoken => Self::GetToken,
        };
        let cards: &[Self] = match app.card_api {
            CardApi::Instances => &[Self::CreateAndDeliver, Self::Deliver, Self::UpdateInstances],
            CardApi::Interactive => &[Self::InteractiveSend, Self::InteractiveUpdate],
        };
        [token, Self::GetByMobile]
            .into_iter()
            .chain(cards.iter().copied())
            .collect()
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a call carries.
#[derive(Default)]
pub(super) struct Request<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a Value>,
    pub(super) urgent: bool,
    /// What may not show in a detail.
    pub(super) hide: &'a [&'a str],
}

/// One HTTP client for the process, and what all apps share: the egress IP.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    api_url: String,
    oapi_url: String,
    ban_pause: Duration,
    banned_until: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
}

impl Http {
    pub(super) fn new(settings: &config::DingTalk, metrics: &Arc<Metrics>) -> Result<Self, Failure> {
        let client = Client::builder()
            .user_agent(concat!("dingcard/", env!("CARGO_PKG_VERSION")))
            .timeout(settings.timeout)
            .connect_timeout(settings.connect_timeout)
            .pool_idle_timeout(IDLE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| {
                Failure::new(
                    Reason::Network,
                    Class::Transient,
                    format!("the HTTP client: {}", told(e)),
                )
            })?;
        let base = |url: &str| url.trim_end_matches('/').to_owned();
        Ok(Self {
            client,
            api_url: base(&settings.api_url),
            oapi_url: base(&settings.oapi_url),
            ban_pause: settings.ip_ban_pause,
            banned_until: Mutex::new(None),
            metrics: metrics.clone(),
        })
    }

    /// How long this egress IP is banned yet.
    fn ban(&self) -> Option<Failure> {
        let until = (*self.banned_until.lock().unwrap_or_else(PoisonError::into_inner))?;
        let wait = until.checked_duration_since(Instant::now()).filter(|w| !w.is_zero())?;
        let detail = "DingTalk banned this egress IP; nothing is asked of it until the pause is over";
        Some(Failure {
            wait: Some(wait),
            ..Failure::new(Reason::IpBanned, Class::Hold, detail)
        })
    }

    async fn send(&self, endpoint: Endpoint, request: &Request<'_>) -> Result<Map<String, Value>, Failure> {
        let (method, path) = endpoint.method_and_path();
        let base = if endpoint.is_legacy() {
            &self.oapi_url
        } else {
            &self.api_url
        };
        let mut call = self
            .client
            .request(method, format!("{base}{path}"))
            .query(request.query);
        match request.token {
            Some(token) if endpoint.is_legacy() => call = call.query(&[("access_token", token)]),
            Some(token) => call = call.header("x-acs-dingtalk-access-token", token),
            None => {}
        }
        if let Some(body) = request.body {
            call = call.json(body);
        }
        let response = call.send().await.map_err(|e| unanswered(endpoint, e))?;
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|v| v.to_str().ok())
            .map(str::to_owned);
        let body = match read_body(endpoint, response).await {
            // A refusal by its status is one, however its body ended.
            Err(_) if status >= 400 => Vec::new(),
            body => body?,
        };
        let hide: Vec<&str> = request.hide.iter().copied().chain(request.token).collect();
        answer::read(
            endpoint,
            &Answer {
                status,
                retry_after: retry_after.as_deref(),
                body: &body,
                hide: &hide,
            },
        )
    }
}

/// The calls of one app: each endpoint with a limit of its own.
#[derive(Debug)]
pub(super) struct Calls {
    app: String,
    http: Arc<Http>,
    limiters: HashMap<Endpoint, Limiter>,
}

impl Calls {
    pub(super) fn new(app: &str, settings: &config::App, http: &Arc<Http>) -> Self {
        let endpoints = Endpoint::of_app(settings);
        let labels: Vec<&str> = endpoints.iter().map(|e| e.as_str()).collect();
        http.metrics.expect_calls(app, &labels);
        http.metrics.rate_limit(app, settings.rate_per_second);
        let gate = Gate::default();
        let limiter = |e| (e, Limiter::new(settings.rate_per_second, gate.clone()));
        Self {
            app: app.to_owned(),
            http: http.clone(),
            limiters: endpoints.into_iter().map(limiter).collect(),
        }
    }

    /// The rate of the app's slowest endpoint: the gauge has one value an app.
    fn slowest(&self) -> f64 {
        self.limiters.values().map(Limiter::rate).fold(f64::INFINITY, f64::min)
    }

    /// One call, in its turn. `Ok` holds the fields of an answer that refuses nothing; whether it says success is for the
    /// caller to read.
    pub(super) async fn call(&self, endpoint: Endpoint, request: &Request<'_>) -> Result<Map<String, Value>, Failure> {
        let metrics = &self.http.metrics;
        self.http.ban().map_or(Ok(()), Err)?;
        let begun = Instant::now();
        let limiter = self.limiters.get(&endpoint);
        if let Some(limiter) = limiter {
            limiter.acquire(request.urgent).await;
            metrics.rate_limit_wait(&self.app, begun.elapsed());
            // A cut rate comes back with time alone, so nothing but a call can show it.
            metrics.rate_limit(&self.app, self.slowest());
        }
        self.http.ban().map_or(Ok(()), Err)?;
        let begun = Instant::now();
        let answer = self.http.send(endpoint, request).await;
        metrics.api_request(
            &self.app,
            endpoint.as_str(),
            answer.as_ref().err().map(|f| f.class),
            begun.elapsed(),
        );
        match (&answer, limiter) {
            (Err(failure), Some(limiter)) if failure.class == Class::Throttle => {
                limiter.throttled(failure.wait);
                metrics.rate_limit(&self.app, self.slowest());
                tracing::info!(app = self.app, %endpoint, wait = ?failure.wait, rate = limiter.rate(), detail = failure.detail,
                    "throttled: the app slows down");
            }
            (Err(failure), _) if failure.reason == Reason::IpBanned => {
                let until = Instant::now() + self.http.ban_pause;
                *self.http.banned_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
                return Err(Failure {
                    wait: Some(self.http.ban_pause),
                    ..failure.clone()
                });
            }
            _ => {}
        }
        answer
    }
}

/// The whole answer, or a failure where it is too large or breaks off.
async fn read_body(endpoint: Endpoint, mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| unanswered(endpoint, e))? {
        if body.len() + chunk.len() > MAX_ANSWER {
            return Err(answer::unreadable(
                endpoint,
                &format!("an answer of more than {MAX_ANSWER} bytes"),
            ));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// No answer, or half of one. Only where there was no connection is it sure that nothing was executed.
fn unanswered(endpoint: Endpoint, error: reqwest::Error) -> Failure {
    let class = if error.is_connect() || error.is_builder() || endpoint.is_read() {
        Class::Transient
    } else {
        Class::Unknown
    };
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time (dingtalk.timeout)"
    } else {
        "the connection broke off"
    };
    Failure::new(Reason::Network, class, format!("{endpoint}: {what}: {}", told(error)))
}

/// The error and its causes, without the URL: that can hold a token.
fn told(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::Config;

    /// Calls of the default app to a server that gives these answers, a connection each, then closes it.
    async fn answered_by(answers: &'static [&'static str]) -> (Calls, Arc<Metrics>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = Config::load(None, []).unwrap();
        config.dingtalk.api_url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let _read = socket.read(&mut [0; 4096]).await.unwrap();
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let http = Arc::new(Http::new(&config.dingtalk, &metrics).unwrap());
        (Calls::new("default", &config.apps["default"], &http), metrics)
    }

    fn shown(metrics: &Metrics) -> f64 {
        let page = metrics.page().unwrap();
        let line = page
            .lines()
            .find_map(|l| l.strip_prefix(r#"dingcard_rate_limit_per_second{app="default"} "#));
        line.unwrap().parse().unwrap()
    }

    #[tokio::test]
    #[allow(clippy::float_cmp, reason = "these numbers are exact in binary")]
    async fn the_gauge_follows_the_rate_down_and_up_again() {
        const THROTTLED: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        let (calls, metrics) = answered_by(&[THROTTLED, FINE]).await;
        let request = Request::default();
        calls.call(Endpoint::Deliver, &request).await.unwrap_err();
        assert_eq!(shown(&metrics), 11.25);
        tokio::time::pause();
        tokio::time::advance(Duration::from_mins(2)).await;
        tokio::time::resume();
        calls.call(Endpoint::Deliver, &request).await.unwrap();
        assert_eq!(shown(&metrics), 13.25);
    }

    #[tokio::test]
    async fn a_refusal_whose_body_breaks_off_is_what_its_status_says() {
        let (calls, _) = answered_by(&[
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 100\r\n\r\n{\"co",
            "HTTP/1.1 503 Unavailable\r\ncontent-length: 100\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"su",
        ])
        .await;
        for (reason, class) in [
            (Reason::BadResponse, Class::Transient),
            (Reason::ServerError, Class::Unknown),
            (Reason::Network, Class::Unknown),
        ] {
            let failure = calls.call(Endpoint::Deliver, &Request::default()).await.unwrap_err();
            assert_eq!((failure.reason, failure.class), (reason, class), "{failure}");
        }
    }
}
