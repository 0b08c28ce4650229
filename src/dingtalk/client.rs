//! HTTP to DingTalk: the only place that sends any.
//!
//! Separate so that what must hold for every call holds in one place: its host and form, its turn at the rate limit, the
//! bound on its answer, the ban of this egress IP, its metrics, and that no error shows a URL with a token in it. What an
//! answer means is `error`'s business.

use std::collections::HashMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Response, Url};
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::Instant;
use tracing::Level;

use super::answer::{self, Answer};
use super::budget::Budget;
use super::endpoint::Endpoint;
use super::error::Failure;
use crate::config;
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason};
use crate::rate_limit::{Gate, Limiter};
use crate::repeats::Repeats;
use crate::store::Store;

/// The largest answer that is read; those documented have a few kilobytes, and many can come at once.
const MAX_ANSWER: usize = 256 * 1024;
/// Idle connections are dropped before common servers and gateways drop them.
const IDLE: Duration = Duration::from_secs(15);

/// Where the token goes, but in the legacy family. Both parsed once, and not for each call.
const TOKEN_HEADER: HeaderName = HeaderName::from_static("x-acs-dingtalk-access-token");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Whose turn a call waits for, and how long.
#[derive(Debug, Clone, Copy, Default)]
pub struct Turn {
    /// Before all calls of the app that are not.
    pub urgent: bool,
    /// The wait for a permit ends here; the call itself is bounded by `dingtalk.timeout`.
    pub until: Option<Instant>,
}

/// What can stand in a body.
pub(super) trait Json: Sync {
    /// Its text.
    fn to_json(&self) -> serde_json::Result<Vec<u8>>;
}

impl<T: Serialize + Sync> Json for T {
    fn to_json(&self) -> serde_json::Result<Vec<u8>> {
        serde_json::to_vec(self)
    }
}

/// What a call carries.
#[derive(Default)]
pub(super) struct Request<'a> {
    pub(super) token: Option<&'a str>,
    pub(super) query: &'a [(&'a str, &'a str)],
    pub(super) body: Option<&'a dyn Json>,
    pub(super) turn: Turn,
    /// What may not show in a detail.
    pub(super) hide: &'a [&'a str],
}

/// One HTTP client for the process, and what all apps share: the egress IP.
#[derive(Debug)]
pub(super) struct Http {
    client: Client,
    /// Parsed once, and not for each call.
    urls: HashMap<Endpoint, Url>,
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
        Ok(Self {
            client,
            urls: Endpoint::ALL
                .iter()
                .map(|endpoint| endpoint.url(settings))
                .collect::<Result<_, _>>()?,
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
        let mut call = self
            .client
            .request(endpoint.method_and_path().0, self.urls[&endpoint].clone());
        if !request.query.is_empty() {
            call = call.query(request.query);
        }
        match request.token {
            Some(token) if endpoint.is_legacy() => call = call.query(&[("access_token", token)]),
            Some(token) => call = call.header(TOKEN_HEADER, token),
            None => {}
        }
        if let Some(body) = request.body {
            let body = body.to_json();
            let body = body.map_err(|e| answer::unanswered(endpoint, false, &format!("the body: {e}")))?;
            call = call.header(CONTENT_TYPE, JSON).body(body);
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
    budget: Option<Budget>,
    repeats: Repeats,
}

impl Calls {
    pub(super) fn new(app: &str, settings: &config::App, http: &Arc<Http>, store: &Store) -> Self {
        let endpoints = Endpoint::of_app(settings);
        let labels: Vec<&str> = endpoints.iter().map(|e| e.as_str()).collect();
        http.metrics.expect_calls(app, &labels);
        http.metrics.rate_limit(app, settings.rate_per_second);
        let gate = Gate::default();
        let limiter = |endpoint: Endpoint| {
            let own = Limiter::new(settings.rate_per_second, gate.clone());
            (endpoint, own.shared(store, app, endpoint.as_str()))
        };
        Self {
            app: app.to_owned(),
            http: http.clone(),
            limiters: endpoints.into_iter().map(limiter).collect(),
            budget: Budget::new(app, settings, &http.metrics, store),
            repeats: Repeats::default(),
        }
    }

    /// One call, in its turn. `Ok` holds the fields of an answer that refuses nothing; whether it says success is for the
    /// caller to read.
    pub(super) async fn call(&self, endpoint: Endpoint, request: &Request<'_>) -> Result<Map<String, Value>, Failure> {
        let metrics = &self.http.metrics;
        self.http.ban().map_or(Ok(()), Err)?;
        let admitted = match self.budget.as_ref().filter(|_| !endpoint.is_read()) {
            Some(budget) => Some(Box::pin(budget.admit(request.turn.urgent)).await?),
            None => None,
        };
        let limiter = self.limiters.get(&endpoint);
        if let Some(limiter) = limiter {
            Box::pin(self.permit(limiter, request.turn)).await?;
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
        if let Some(admitted) = admitted.filter(|_| is_counted(&answer)) {
            Box::pin(admitted.spend()).await;
        }
        match (&answer, limiter) {
            (Err(failure), Some(limiter)) if failure.class == Class::Throttle => {
                Box::pin(limiter.throttled(failure.wait)).await;
                metrics.rate_limit(&self.app, self.pace());
                self.repeats.write(Level::INFO, "throttled", &self.app, failure.reason, || {
                    tracing::info!(app = self.app, %endpoint, wait = ?failure.wait, rate = limiter.rate(), detail = failure.detail,
                        remedy = failure.remedy(), "throttled: the app slows down");
                });
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

    /// Waits for a permit, and tells the pace at which the app has come by then. Nothing is sent where it does not come in
    /// time, and that is throttling: the job got no chance.
    async fn permit(&self, limiter: &Limiter, turn: Turn) -> Result<(), Failure> {
        let begun = Instant::now();
        let permit = limiter.acquire(turn.urgent);
        let in_time = if let Some(until) = turn.until {
            tokio::time::timeout_at(until, permit).await.is_ok()
        } else {
            permit.await;
            true
        };
        self.http.metrics.rate_limit_wait(&self.app, begun.elapsed());
        self.http.metrics.rate_limit(&self.app, self.pace());
        let detail = "no permit within the attempt's time: more jobs are in work than rate_per_second serves, or DingTalk \
                      throttles (lower amqp.prefetch)";
        in_time
            .then_some(())
            .ok_or_else(|| Failure::new(Reason::Deadline, Class::Throttle, detail))
    }

    /// Calls a second of the app's slowest endpoint; 0 is no limit.
    fn pace(&self) -> f64 {
        let rates = self.limiters.values().map(Limiter::rate);
        rates.reduce(f64::min).unwrap_or_default()
    }
}

/// Whether DingTalk's monthly quota counts a call for cards: one that came to DingTalk and was not throttled.
fn is_counted<T>(answer: &Result<T, Failure>) -> bool {
    let unsent = |failure: &Failure| failure.reason == Reason::Network && failure.class == Class::Transient;
    !answer
        .as_ref()
        .is_err_and(|failure| failure.class == Class::Throttle || unsent(failure))
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
    let written = !error.is_connect() && !error.is_builder();
    let what = if error.is_connect() {
        "no connection"
    } else if error.is_timeout() {
        "no answer in time (dingtalk.timeout)"
    } else {
        "the connection broke off"
    };
    answer::unanswered(endpoint, written, &format!("{what}: {}", told(error)))
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
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]
mod tests {
    use std::sync::atomic::Ordering;

    use serde_json::json;

    use super::super::testing::{
        After, Bench, CREATE_AND_DELIVER, GET_BY_MOBILE, GET_TOKEN, Host, MOBILE, SECRET, SENDS, TOKEN,
        UPDATE_INSTANCES, canned, nobody, ok, raw, rude,
    };
    use super::*;

    const READS: &[Endpoint] = &[Endpoint::GetToken, Endpoint::AccessToken, Endpoint::GetByMobile];

    /// Both families at this URL.
    fn at(url: &str) -> Bench {
        Bench::new(&[("dingtalk.api_url", url), ("dingtalk.oapi_url", url)])
    }

    /// One call with everything secret in it that a call can carry.
    async fn call(bench: &Bench, endpoint: Endpoint) -> Result<Map<String, Value>, Failure> {
        let calls = bench.calls("default", &bench.http());
        let body = json!({"mobile": MOBILE});
        let request = Request {
            token: Some(TOKEN),
            query: &[("appsecret", SECRET)],
            body: Some(&body),
            turn: Turn::default(),
            hide: &[MOBILE, SECRET],
        };
        calls.call(endpoint, &request).await
    }

    fn shows_no_secret(failure: &Failure) {
        for text in [format!("{failure:?}"), format!("{failure:#?}"), failure.to_string()] {
            for secret in [TOKEN, SECRET, MOBILE, "access_token", "appsecret"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }

    /// The class that a broken exchange has for look-ups, and for sends.
    async fn breaks(url: &str, look_ups: Class, sends: Class, reason: Reason) {
        let bench = at(url);
        for (endpoints, class) in [(READS, look_ups), (SENDS, sends)] {
            for endpoint in endpoints {
                let failure = call(&bench, *endpoint).await.unwrap_err();
                assert_eq!((failure.reason, failure.class), (reason, class), "{failure}");
                shows_no_secret(&failure);
            }
        }
    }

    #[tokio::test]
    async fn the_token_goes_into_the_query_of_the_legacy_family_and_into_a_header_of_the_new_one() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": 0}))]);
        host.answer(CREATE_AND_DELIVER, [ok(&json!({"success": true}))]);
        let http = bench.http();
        let calls = bench.calls("default", &http);
        let body = json!({"a": 1});
        let request = Request {
            token: Some("a+b&c"),
            body: Some(&body),
            ..Request::default()
        };
        calls.call(Endpoint::GetByMobile, &request).await.unwrap();
        calls.call(Endpoint::CreateAndDeliver, &request).await.unwrap();

        let legacy = host.only(GET_BY_MOBILE);
        assert_eq!(legacy.query, "access_token=a%2Bb%26c");
        assert_eq!(legacy.header("x-acs-dingtalk-access-token"), None);
        let new = host.only(CREATE_AND_DELIVER);
        assert_eq!(new.query, "");
        assert_eq!(new.header("x-acs-dingtalk-access-token"), Some("a+b&c"));
        for asked in [legacy, new] {
            assert_eq!(asked.header("content-type"), Some("application/json"));
            assert_eq!(asked.header("authorization"), None);
            assert!(asked.header("user-agent").unwrap().starts_with("dingcard/"));
            assert_eq!(asked.json(), body);
        }
    }

    #[tokio::test]
    async fn a_base_url_may_end_in_a_slash_and_have_a_path() {
        let host = Host::start().await;
        host.answer(
            "POST /proxy/v1.0/card/instances/createAndDeliver",
            [ok(&json!({"success": true}))],
        );
        call(&at(&format!("{}/proxy/", host.url)), Endpoint::CreateAndDeliver)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_refused_connection_is_transient_for_all_and_shows_no_secret() {
        breaks(&nobody(), Class::Transient, Class::Transient, Reason::Network).await;
    }

    #[tokio::test]
    async fn a_host_that_does_not_exist_is_transient_and_shows_no_secret() {
        let failure = call(&at("http://no-such-host.invalid"), Endpoint::GetByMobile)
            .await
            .unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::Network, Class::Transient));
        shows_no_secret(&failure);
    }

    #[tokio::test]
    async fn a_connection_closed_after_the_request_leaves_doubt_for_sends_alone_and_nothing_is_sent_twice() {
        let (url, taken) = rude(After::Closes("")).await;
        breaks(&url, Class::Transient, Class::Unknown, Reason::Network).await;
        assert_eq!(taken.load(Ordering::SeqCst), READS.len() + SENDS.len());
    }

    #[tokio::test]
    async fn an_answer_that_breaks_off_leaves_doubt_for_sends_alone() {
        let half = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"success\":";
        let (url, _) = rude(After::Closes(half)).await;
        breaks(&url, Class::Transient, Class::Unknown, Reason::Network).await;
        let (url, _) = rude(After::Closes("this is no HTTP\r\n\r\n")).await;
        breaks(&url, Class::Transient, Class::Unknown, Reason::Network).await;
    }

    #[tokio::test]
    async fn no_answer_in_time_leaves_doubt_for_sends_alone_and_names_the_setting() {
        let (url, _) = rude(After::Waits).await;
        let patience = [
            ("dingtalk.api_url", url.as_str()),
            ("dingtalk.oapi_url", &url),
            ("dingtalk.timeout", "50ms"),
        ];
        let bench = Bench::new(&patience);
        for (endpoint, class) in [
            (Endpoint::GetByMobile, Class::Transient),
            (Endpoint::CreateAndDeliver, Class::Unknown),
        ] {
            let failure = call(&bench, endpoint).await.unwrap_err();
            assert_eq!((failure.reason, failure.class), (Reason::Network, class), "{failure}");
            assert!(failure.detail.contains("dingtalk.timeout"), "{failure}");
            shows_no_secret(&failure);
        }
    }

    #[tokio::test]
    async fn an_answer_of_ten_mebibytes_is_not_read_to_its_end() {
        let host = Host::start().await;
        let huge = format!(r#"{{"errcode":0,"success":true,"filler":"{}"}}"#, "x".repeat(10 << 20));
        host.answer(GET_BY_MOBILE, [raw(200, huge.clone())]);
        host.answer(CREATE_AND_DELIVER, [raw(200, huge)]);
        let bench = host.bench(&[]);
        for (endpoint, class) in [
            (Endpoint::GetByMobile, Class::Transient),
            (Endpoint::CreateAndDeliver, Class::Unknown),
        ] {
            let failure = call(&bench, endpoint).await.unwrap_err();
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::BadResponse, class),
                "{failure}"
            );
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_with_the_token() {
        let host = Host::start().await;
        host.answer(CREATE_AND_DELIVER, [raw(307, "")]);
        let failure = call(&host.bench(&[]), Endpoint::CreateAndDeliver).await.unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::BadResponse, Class::Transient));
        assert_eq!(host.count(), 1);
    }

    #[tokio::test]
    async fn what_an_answer_repeats_of_the_request_is_hidden() {
        let host = Host::start().await;
        let echo = format!("bad: /topapi?access_token={TOKEN}&appsecret={SECRET} mobile {MOBILE}");
        host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": 40035, "errmsg": echo}))]);
        let failure = call(&host.bench(&[]), Endpoint::GetByMobile).await.unwrap_err();
        for secret in [TOKEN, SECRET, MOBILE] {
            assert!(!failure.detail.contains(secret), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_ban_of_the_ip_stops_every_app_without_asking_until_the_pause_is_over() {
        let host = Host::start().await;
        let banned = json!({"status": 1111, "wait": 5, "punish": "deny"});
        host.answer(GET_BY_MOBILE, [ok(&banned), ok(&json!({"errcode": 0}))]);
        let bench = host.bench(&[("dingtalk.ip_ban_pause", "7m")]);
        let http = bench.http();
        let (one, other) = (bench.calls("one", &http), bench.calls("other", &http));
        let request = Request::default();

        let failure = one.call(Endpoint::GetByMobile, &request).await.unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::IpBanned, Class::Hold));
        assert_eq!(
            failure.wait,
            Some(Duration::from_mins(7)),
            "the pause, not the five seconds"
        );
        for calls in [&one, &other] {
            for endpoint in [Endpoint::AccessToken, Endpoint::GetByMobile, Endpoint::CreateAndDeliver] {
                let failure = calls.call(endpoint, &request).await.unwrap_err();
                assert_eq!((failure.reason, failure.class), (Reason::IpBanned, Class::Hold));
                assert!(failure.wait.is_some_and(|wait| wait <= Duration::from_mins(7)));
            }
        }
        assert_eq!(host.count(), 1);

        *http.banned_until.lock().unwrap() = Some(Instant::now());
        other.call(Endpoint::GetByMobile, &request).await.unwrap();
        assert_eq!(host.count(), 2);
    }

    #[tokio::test]
    async fn a_throttle_answer_slows_that_apps_endpoint_alone() {
        let host = Host::start().await;
        let throttled = json!({"code": "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", "message": "slow down"});
        host.answer(CREATE_AND_DELIVER, [canned(403, &throttled).retry_after("2")]);
        host.answer(UPDATE_INSTANCES, [ok(&json!({"success": true}))]);
        let bench = host.bench(&[("apps.default.rate_per_second", "16")]);
        let http = bench.http();
        let (one, other) = (bench.calls("one", &http), bench.calls("other", &http));
        let series = |app| format!(r#"dingcard_rate_limit_per_second{{app="{app}"}}"#);
        assert_eq!(bench.metric(&series("one")), 16.0);

        let failure = one
            .call(Endpoint::CreateAndDeliver, &Request::default())
            .await
            .unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::Throttled, Class::Throttle));
        assert_eq!(failure.wait, Some(Duration::from_secs(2)));

        for (endpoint, limiter) in &one.limiters {
            let slowed = *endpoint == Endpoint::CreateAndDeliver;
            assert_eq!(limiter.rate(), if slowed { 12.0 } else { 16.0 }, "{endpoint}");
        }
        assert!(other.limiters.values().all(|limiter| limiter.rate() == 16.0));
        assert_eq!(bench.metric(&series("one")), 12.0);
        assert_eq!(bench.metric(&series("other")), 16.0);
        one.call(Endpoint::UpdateInstances, &Request::default()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_pace_that_is_shown_is_the_slowest_and_rises_again() {
        let bench = Bench::new(&[("apps.default.rate_per_second", "16")]);
        let calls = bench.calls("default", &bench.http());
        let (slowed, other) = (
            &calls.limiters[&Endpoint::Deliver],
            &calls.limiters[&Endpoint::GetByMobile],
        );
        let shown = || bench.metric(r#"dingcard_rate_limit_per_second{app="default"}"#);
        slowed.throttled(None).await;
        calls.permit(other, Turn::default()).await.unwrap();
        assert_eq!(shown(), 12.0);
        tokio::time::advance(Duration::from_mins(1)).await;
        calls.permit(other, Turn::default()).await.unwrap();
        assert_eq!(shown(), 13.0);
        tokio::time::advance(Duration::from_hours(1)).await;
        calls.permit(slowed, Turn::default()).await.unwrap();
        assert_eq!(shown(), 16.0);
    }

    #[tokio::test]
    async fn every_call_is_counted_under_what_came_of_it() {
        let host = Host::start().await;
        let bench = host.bench(&[("apps.default.token_api", "gettoken")]);
        host.answer(
            GET_BY_MOBILE,
            [
                ok(&json!({"errcode": 0})),
                ok(&json!({"errcode": 60121})),
                ok(&json!({"errcode": 0})),
            ],
        );
        host.answer(GET_TOKEN, [ok(&json!({"errcode": 40096}))]);
        let calls = bench.calls("default", &bench.http());
        let series = |endpoint: &str, result: &str| {
            let labels = format!(r#"app="default",endpoint="{endpoint}",result="{result}""#);
            bench.metric(&format!("dingcard_api_requests_total{{{labels}}}"))
        };
        assert_eq!(series("gettoken", "hold"), 0.0, "there from the start");
        for _ in 0..3 {
            let _either = calls.call(Endpoint::GetByMobile, &Request::default()).await;
        }
        calls.call(Endpoint::GetToken, &Request::default()).await.unwrap_err();
        assert_eq!(series("getbymobile", "ok"), 2.0);
        assert_eq!(series("getbymobile", "recipient"), 1.0);
        assert_eq!(series("gettoken", "hold"), 1.0);
        let durations = r#"dingcard_api_request_duration_seconds_count{endpoint="getbymobile"}"#;
        assert_eq!(bench.metric(durations), 3.0);
        assert_eq!(
            bench.metric(r#"dingcard_rate_limit_wait_seconds_count{app="default"}"#),
            4.0
        );
    }

    #[tokio::test]
    async fn an_app_has_a_limit_for_each_call_that_it_makes_and_for_no_other() {
        let host = Host::start().await;
        let bench = host.bench(&[
            ("apps.default.card_api", "interactive"),
            ("apps.default.token_api", "gettoken"),
        ]);
        let calls = bench.calls("default", &bench.http());
        let mut made: Vec<&str> = calls.limiters.keys().map(|e| e.as_str()).collect();
        made.sort_unstable();
        assert_eq!(
            made,
            ["getbymobile", "gettoken", "interactiveSend", "interactiveUpdate"]
        );
    }
}
