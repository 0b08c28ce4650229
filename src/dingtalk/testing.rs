//! A stand-in for DingTalk's hosts, for the tests of this folder: canned answers over real HTTP, and a log of what was
//! asked.
//!
//! It knows no rule of DingTalk: a test says word for word what is answered. What nobody said an answer for gets a 500
//! that no test takes for success.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Response, Uri};
use serde_json::{Map, Value};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::AbortHandle;

use super::DingTalk;
use super::answer::{self, Answer};
use super::client::{Calls, Http};
use super::endpoint::Endpoint;
use super::error::Failure;
use crate::config::Config;
use crate::metrics::Metrics;
use crate::store::Store;

pub(super) const KEY: &str = "dingkey0123";
pub(super) const SECRET: &str = "secret-fedcba9876543210";
pub(super) const ROBOT: &str = "dingrobot0123";
pub(super) const TOKEN: &str = "token-0123456789abcdef";
pub(super) const MOBILE: &str = "15012341231";

pub(super) const GET_TOKEN: &str = "GET /gettoken";
pub(super) const ACCESS_TOKEN: &str = "POST /v1.0/oauth2/accessToken";
pub(super) const GET_BY_MOBILE: &str = "POST /topapi/v2/user/getbymobile";
pub(super) const CREATE_AND_DELIVER: &str = "POST /v1.0/card/instances/createAndDeliver";
pub(super) const DELIVER: &str = "POST /v1.0/card/instances/deliver";
pub(super) const UPDATE_INSTANCES: &str = "PUT /v1.0/card/instances";
pub(super) const INTERACTIVE_SEND: &str = "POST /v1.0/im/interactiveCards/send";
pub(super) const INTERACTIVE_UPDATE: &str = "PUT /v1.0/im/interactiveCards";

/// The calls that do something.
pub(super) const SENDS: &[Endpoint] = &[
    Endpoint::CreateAndDeliver,
    Endpoint::Deliver,
    Endpoint::UpdateInstances,
    Endpoint::InteractiveSend,
    Endpoint::InteractiveUpdate,
];

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    /// Method and path.
    pub(super) call: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Asked {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The header, or nothing.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        Some(self.headers.get(name)?.to_str().unwrap())
    }
}

/// An answer, word for word.
#[derive(Debug, Clone)]
pub(super) struct Canned {
    status: u16,
    retry_after: Option<&'static str>,
    body: Vec<u8>,
}

/// HTTP 200 with this body.
pub(super) fn ok(body: &Value) -> Canned {
    canned(200, body)
}

/// This status and body.
pub(super) fn canned(status: u16, body: &Value) -> Canned {
    raw(status, body.to_string())
}

/// This status and whatever bytes.
pub(super) fn raw(status: u16, body: impl Into<Vec<u8>>) -> Canned {
    Canned {
        status,
        retry_after: None,
        body: body.into(),
    }
}

impl Canned {
    pub(super) fn retry_after(self, header: &'static str) -> Self {
        Self {
            retry_after: Some(header),
            ..self
        }
    }
}

/// The answers of each call, taken in order; the last one stays.
type Answers = HashMap<String, VecDeque<Canned>>;

/// The answer of the request's call with this very token, or else with any.
fn next_answer(answers: &mut Answers, request: &Asked) -> Option<Canned> {
    let token = request.header("x-acs-dingtalk-access-token").unwrap_or_default();
    let with_token = format!("{} with {token}", request.call);
    let call = [&with_token, &request.call]
        .into_iter()
        .find(|call| answers.contains_key(*call))?;
    let queue = answers.get_mut(call)?;
    if queue.len() > 1 {
        queue.pop_front()
    } else {
        queue.front().cloned()
    }
}

/// A server on a free port; it stops when this goes.
pub(super) struct Host {
    pub(super) url: String,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Asked>>>,
    serving: AbortHandle,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Host {
    /// One that gives [`TOKEN`] to both getters.
    pub(super) async fn start() -> Self {
        let (answers, asked) = (Arc::<Mutex<Answers>>::default(), Arc::<Mutex<Vec<Asked>>>::default());
        let (theirs, log) = (answers.clone(), asked.clone());
        let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let request = Asked {
                call: format!("{method} {}", uri.path()),
                query: uri.query().unwrap_or_default().to_owned(),
                headers,
                body: body.to_vec(),
            };
            let answer = next_answer(&mut theirs.lock().unwrap(), &request);
            log.lock().unwrap().push(request);
            let answer = answer.unwrap_or_else(|| raw(500, "no answer was said for this"));
            let mut response = Response::builder().status(answer.status);
            if let Some(header) = answer.retry_after {
                response = response.header("retry-after", header);
            }
            response.body(Body::from(answer.body)).unwrap()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(handler);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        let host = Self {
            url,
            answers,
            asked,
            serving,
        };
        host.answer(
            ACCESS_TOKEN,
            [raw(200, format!(r#"{{"accessToken":"{TOKEN}","expireIn":7200}}"#))],
        );
        let legacy = format!(r#"{{"errcode":0,"errmsg":"ok","access_token":"{TOKEN}","expires_in":7200}}"#);
        host.answer(GET_TOKEN, [raw(200, legacy)]);
        host
    }

    /// What `call` (`METHOD /path`, and ` with TOKEN` for that token alone) is answered from now on: one after the other,
    /// then the last again and again.
    pub(super) fn answer(&self, call: &str, answers: impl IntoIterator<Item = Canned>) {
        let answers = answers.into_iter().collect();
        self.answers.lock().unwrap().insert(call.to_owned(), answers);
    }

    /// The requests of `call` that came.
    pub(super) fn asked(&self, call: &str) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|a| a.call == call).cloned().collect()
    }

    /// The one request of `call`.
    pub(super) fn only(&self, call: &str) -> Asked {
        let mut asked = self.asked(call);
        assert_eq!(asked.len(), 1, "{call}");
        asked.remove(0)
    }

    /// How many requests came in all.
    pub(super) fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    /// The apps on this host, without a rate limit where `settings` does not set one.
    pub(super) fn bench(&self, settings: &[(&str, &str)]) -> Bench {
        let both = [
            ("dingtalk.api_url", self.url.as_str()),
            ("dingtalk.oapi_url", &self.url),
        ];
        Bench::new(&[&both, settings].concat())
    }
}

/// Settings, metrics and the client under test.
pub(super) struct Bench {
    pub(super) config: Config,
    pub(super) metrics: Arc<Metrics>,
    pub(super) dingtalk: DingTalk,
}

impl Bench {
    /// With these settings over the defaults; later ones win.
    pub(super) fn new(settings: &[(&str, &str)]) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let basic = [
            ("apps.default.app_key", KEY),
            ("apps.default.app_secret", SECRET),
            ("apps.default.robot_code", ROBOT),
            ("apps.default.rate_per_second", "0"),
        ];
        let all: HashMap<String, String> = basic
            .iter()
            .chain(settings)
            .map(|(key, value)| {
                let name = format!("DINGCARD_{}", key.replace('.', "__").to_uppercase());
                (name, (*value).to_owned())
            })
            .collect();
        let config = Config::load(None, all).unwrap();
        let apps: Vec<&str> = config.apps.keys().map(String::as_str).collect();
        let metrics = Arc::new(Metrics::new(&apps).unwrap());
        let dingtalk = DingTalk::new(&config, &metrics, &Store::InProcess).unwrap();
        Self {
            config,
            metrics,
            dingtalk,
        }
    }

    /// The same with what it knows in front of `store`.
    pub(super) fn sharing(self, store: &Store) -> Self {
        let dingtalk = DingTalk::new(&self.config, &self.metrics, store).unwrap();
        Self { dingtalk, ..self }
    }

    /// The app named `default`.
    pub(super) fn app(&self) -> &super::App {
        self.dingtalk.app("default").unwrap()
    }

    /// An HTTP client beside the one of the apps, for tests below them.
    pub(super) fn http(&self) -> Arc<Http> {
        Arc::new(Http::new(&self.config.dingtalk, &self.metrics).unwrap())
    }

    /// The calls of an app named `name` with the default app's settings.
    pub(super) fn calls(&self, name: &str, http: &Arc<Http>) -> Calls {
        Calls::new(name, &self.config.apps["default"], http, &Store::InProcess)
    }

    /// The value of the series that is written like this.
    pub(super) fn metric(&self, series: &str) -> f64 {
        let page = self.metrics.page().unwrap();
        let line = page.lines().find_map(|l| l.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} is missing"))
            .trim()
            .parse()
            .unwrap()
    }
}

/// A host that takes each request whole, then does this.
#[derive(Debug, Clone, Copy)]
pub(super) enum After {
    /// Writes these bytes and closes.
    Closes(&'static str),
    /// Keeps the connection and says nothing.
    Waits,
}

/// Such a host: its URL, and how many requests it took.
pub(super) async fn rude(after: After) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taken = Arc::new(AtomicUsize::new(0));
    let count = taken.clone();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut socket, _)) = listener.accept().await {
            take_request(&mut socket).await;
            count.fetch_add(1, Ordering::SeqCst);
            match after {
                After::Closes(bytes) => socket.write_all(bytes.as_bytes()).await.unwrap(),
                After::Waits => kept.push(socket),
            }
        }
    });
    (url, taken)
}

async fn take_request(socket: &mut TcpStream) {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_lowercase();
            let length = head
                .split_once("content-length: ")
                .map_or(0, |(_, rest)| rest.lines().next().unwrap().trim().parse().unwrap());
            if body.len() >= length {
                return;
            }
        }
        if socket.read_buf(&mut request).await.unwrap() == 0 {
            return;
        }
    }
}

/// The URL of a port where nobody listens, now or later: it stays bound for as long as the tests run.
pub(super) fn nobody() -> String {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let url = format!("http://{}", socket.local_addr().unwrap());
    std::mem::forget(socket);
    url
}

/// What the client makes of an answer.
pub(super) fn read(endpoint: Endpoint, status: u16, body: impl AsRef<[u8]>) -> Result<Map<String, Value>, Failure> {
    let body = body.as_ref();
    answer::read(
        endpoint,
        &Answer {
            status,
            retry_after: None,
            body,
            hide: &[TOKEN, SECRET, MOBILE],
        },
    )
}

/// The failure that the client makes of an answer.
pub(super) fn refused(endpoint: Endpoint, status: u16, body: impl AsRef<[u8]>) -> Failure {
    read(endpoint, status, body).unwrap_err()
}
