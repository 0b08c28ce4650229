//! The access token of one app: fetched once for all who need it, refreshed before it ends, dropped when refused.
//!
//! Separate because the calls that fetch it are limited and shared, and because it is a secret: it leaves this file only
//! for a request and for the store. It makes no other call.
//!
//! Workers that share a store share the token: one at a time fetches it, the others wait a moment for what it finds.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::unreadable;
use super::client::{Calls, Request, Turn};
use super::endpoint::Endpoint;
use super::error::Failure;
use crate::config::{self, ExposeSecret as _, SecretString, TokenApi};
use crate::metrics::Metrics;
use crate::store::{Store, Terms};

/// A token is refreshed this long before it ends, or after nine tenths of a short life.
const EARLY: Duration = Duration::from_mins(5);
/// A failed fetch is not repeated sooner: calling the getter too often is throttled (`dingtalk-api.md` 2.3).
const PAUSE: Duration = Duration::from_secs(1);
/// Whoever fetches is waited for, and not for long.
const TERMS: Terms = Terms {
    ttl: Duration::from_secs(15),
    patience: Duration::from_secs(3),
    poll: Duration::from_millis(50),
};

/// A token and its life.
#[derive(Debug)]
pub(super) struct Token {
    value: SecretString,
    /// From its fetch to its end.
    lives: Duration,
    refresh_at: Instant,
    ends_at: Instant,
}

impl Token {
    /// For the request alone.
    pub(super) fn expose(&self) -> &str {
        self.value.expose_secret()
    }

    /// One that ends in `left`.
    fn new(value: &str, lives: Duration, left: Duration) -> Self {
        let now = Instant::now();
        let refresh_in = lives.saturating_sub(EARLY).max(lives.mul_f64(0.9).min(EARLY));
        let early = lives.saturating_sub(refresh_in);
        Self {
            value: value.into(),
            lives,
            refresh_at: now + left.saturating_sub(early),
            ends_at: now + left,
        }
    }

    fn is_fresh(&self) -> bool {
        Instant::now() < self.refresh_at
    }

    /// As it stands in the store.
    fn written(&self) -> SecretString {
        format!("{} {}", self.lives.as_secs(), self.expose()).into()
    }

    fn read(text: &str, left: Duration) -> Option<Self> {
        let (lives, value) = text.split_once(' ')?;
        Some(Self::new(value, Duration::from_secs(lives.parse().ok()?), left))
    }
}

/// The token of one app.
#[derive(Debug)]
pub(super) struct Tokens {
    app: String,
    key: String,
    secret: SecretString,
    api: TokenApi,
    current: RwLock<Option<Arc<Token>>>,
    /// Whoever holds it fetches; the last failure and when it was.
    fetching: tokio::sync::Mutex<Option<(Instant, Failure)>>,
    /// The last one that DingTalk refused; the store may still have it.
    refused: RwLock<Option<Arc<Token>>>,
    shared: Store,
    shared_key: String,
    lease_key: String,
    metrics: Arc<Metrics>,
}

impl Tokens {
    pub(super) fn new(app: &str, settings: &config::App, metrics: &Arc<Metrics>, shared: &Store) -> Self {
        let key = settings.app_key.clone().unwrap_or_default();
        Self {
            app: app.to_owned(),
            refused: RwLock::new(None),
            shared: shared.clone(),
            shared_key: shared.hidden_key("token", &[app, &key]),
            lease_key: shared.hidden_key("token-lease", &[app, &key]),
            key,
            secret: settings.app_secret(),
            api: settings.token_api,
            current: RwLock::new(None),
            fetching: tokio::sync::Mutex::new(None),
            metrics: metrics.clone(),
        }
    }

    fn current(&self) -> Option<Arc<Token>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fresh(&self) -> Option<Arc<Token>> {
        self.current().filter(|token| token.is_fresh())
    }

    fn good(&self) -> Option<Arc<Token>> {
        self.current().filter(|token| Instant::now() < token.ends_at)
    }

    /// The token, fetched where there is none or it is about to end. A failure to refresh one that is still good is none.
    pub(super) async fn get(&self, calls: &Calls, turn: Turn) -> Result<Arc<Token>, Failure> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let mut last_failure = match (self.fetching.try_lock(), self.good()) {
            (Ok(turn), _) => turn,
            // Somebody refreshes it already, and it is good meanwhile.
            (Err(_), Some(token)) => return Ok(token),
            (Err(_), None) => self.fetching.lock().await,
        };
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let recent = last_failure
            .as_ref()
            .filter(|(at, _)| at.elapsed() < PAUSE)
            .map(|(_, failure)| failure.clone());
        let fetched = if let Some(failure) = recent {
            Err(failure)
        } else {
            // Boxed, since it is rare and every call would carry its room.
            Box::pin(self.renew(calls, turn)).await
        };
        match fetched {
            Ok(token) => {
                *last_failure = None;
                let token = Arc::new(token);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
                Ok(token)
            }
            Err(failure) => {
                if last_failure.as_ref().is_none_or(|(at, _)| at.elapsed() >= PAUSE) {
                    *last_failure = Some((Instant::now(), failure.clone()));
                }
                self.good().ok_or(failure)
            }
        }
    }

    /// Fetches one whatever is known: what is refused is the credentials.
    pub(super) async fn fetch_anew(&self, calls: &Calls, turn: Turn) -> Result<(), Failure> {
        let token = self.fetch(calls, turn).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(token));
        Ok(())
    }

    /// Drops `refused`, unless another has taken its place meanwhile.
    pub(super) async fn reject(&self, refused: &Arc<Token>) {
        {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            if current.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
                *current = None;
            }
        }
        *self.refused.write().unwrap_or_else(PoisonError::into_inner) = Some(refused.clone());
        self.shared
            .remove_if(&self.shared_key, refused.written().expose_secret())
            .await;
    }

    /// A token that another worker has or fetches just now, else one fetched here.
    async fn renew(&self, calls: &Calls, turn: Turn) -> Result<Token, Failure> {
        let shared = self
            .shared
            .found_or_lease(&self.lease_key, &TERMS, || self.shared_token());
        let lease = match shared.await {
            Ok(token) => return Ok(token),
            Err(lease) => lease,
        };
        let fetched = self.fetch(calls, turn).await;
        self.metrics
            .token_refresh(&self.app, fetched.as_ref().err().map(|f| f.class));
        if let Ok(token) = &fetched {
            let (key, left) = (self.shared_key.clone(), token.lives);
            self.shared.put(&[key], token.written().expose_secret(), left).await;
        }
        self.shared.end(lease).await;
        fetched
    }

    /// The workers' token, where it is one to begin with.
    async fn shared_token(&self) -> Option<Token> {
        let (text, left) = self.shared.get(&self.shared_key).await?;
        let token = Token::read(&text, left).filter(Token::is_fresh)?;
        let refused = self.refused.read().unwrap_or_else(PoisonError::into_inner);
        let known_bad = refused.as_ref().is_some_and(|bad| bad.expose() == token.expose());
        (!known_bad).then_some(token)
    }

    async fn fetch(&self, calls: &Calls, turn: Turn) -> Result<Token, Failure> {
        let (key, secret) = (self.key.as_str(), self.secret.expose_secret());
        let hide = [secret];
        let (endpoint, names, answer) = match self.api {
            TokenApi::Oauth2 => {
                let body = json!({"appKey": key, "appSecret": secret});
                let request = Request {
                    body: Some(&body),
                    turn,
                    hide: &hide,
                    ..Request::default()
                };
                let endpoint = Endpoint::AccessToken;
                (
                    endpoint,
                    ("accessToken", "expireIn"),
                    calls.call(endpoint, &request).await?,
                )
            }
            TokenApi::Gettoken => {
                let query = [("appkey", key), ("appsecret", secret)];
                let request = Request {
                    query: &query,
                    turn,
                    hide: &hide,
                    ..Request::default()
                };
                let endpoint = Endpoint::GetToken;
                (
                    endpoint,
                    ("access_token", "expires_in"),
                    calls.call(endpoint, &request).await?,
                )
            }
        };
        let value = answer
            .get(names.0)
            .and_then(Value::as_str)
            .filter(|token| !token.is_empty());
        let lives = answer
            .get(names.1)
            .and_then(|v| v.as_u64().or_else(|| v.as_str()?.parse().ok()));
        let (Some(value), Some(lives)) = (value, lives) else {
            return Err(unreadable(
                endpoint,
                &format!("an answer without {} and {}", names.0, names.1),
            ));
        };
        let lives = Duration::from_secs(lives.min(365 * 24 * 3600));
        Ok(Token::new(value, lives, lives))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]
mod tests {
    use futures_util::future::join_all;

    use super::super::testing::{
        ACCESS_TOKEN, Bench, CREATE_AND_DELIVER, GET_BY_MOBILE, GET_TOKEN, Host, KEY, MOBILE, SECRET, TOKEN,
        UPDATE_INSTANCES, canned, nobody, ok, raw,
    };
    use super::*;
    use crate::outcome::{Class, Reason};
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::store;

    fn tokens(bench: &Bench) -> (&Tokens, &Calls) {
        (&bench.app().tokens, &bench.app().calls)
    }

    /// The body of an answer of the current getter.
    fn granted(token: &str, lives: &Value) -> Value {
        json!({"accessToken": token, "expireIn": lives})
    }

    /// Puts a token in place that asks to be refreshed, and ends in an hour or has ended.
    fn hold_old(tokens: &Tokens, value: &str, good: bool) {
        let (now, hour) = (Instant::now(), Duration::from_hours(1));
        let token = Token {
            value: value.into(),
            lives: Duration::from_hours(2),
            refresh_at: now,
            ends_at: if good { now + hour } else { now },
        };
        *tokens.current.write().unwrap() = Some(Arc::new(token));
    }

    fn refreshes(bench: &Bench, result: &str) -> f64 {
        bench.metric(&format!(
            r#"dingcard_token_refreshes_total{{app="default",result="{result}"}}"#
        ))
    }

    #[tokio::test]
    async fn the_current_getter_takes_key_and_secret_in_a_json_body() {
        let host = Host::start().await;
        let bench = host.bench(&[("dingtalk.oapi_url", &nobody())]);
        let (tokens, calls) = tokens(&bench);
        assert_eq!(tokens.get(calls, Turn::default()).await.unwrap().expose(), TOKEN);
        let asked = host.only(ACCESS_TOKEN);
        assert_eq!(asked.query, "");
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.header("x-acs-dingtalk-access-token"), None);
        assert_eq!(asked.json(), json!({"appKey": KEY, "appSecret": SECRET}));
        assert_eq!(refreshes(&bench, "ok"), 1.0);
    }

    #[tokio::test]
    async fn the_legacy_getter_takes_key_and_secret_in_the_query() {
        let host = Host::start().await;
        let settings = [
            ("dingtalk.api_url", &*nobody()),
            ("apps.default.token_api", "gettoken"),
            ("apps.default.app_secret", "s+e&c=r t"),
        ];
        let bench = host.bench(&settings);
        let (tokens, calls) = tokens(&bench);
        assert_eq!(tokens.get(calls, Turn::default()).await.unwrap().expose(), TOKEN);
        let asked = host.only(GET_TOKEN);
        assert_eq!(asked.query, format!("appkey={KEY}&appsecret=s%2Be%26c%3Dr+t"));
        assert!(asked.body.is_empty());
        assert_eq!(asked.header("content-type"), None);
    }

    #[tokio::test]
    async fn a_hundred_callers_at_once_make_one_fetch_and_later_ones_none() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        for got in join_all((0..100).map(|_| tokens.get(calls, Turn::default()))).await {
            assert_eq!(got.unwrap().expose(), TOKEN);
        }
        tokens.get(calls, Turn::default()).await.unwrap();
        host.only(ACCESS_TOKEN);
    }

    #[tokio::test]
    async fn a_failed_fetch_is_shared_and_not_repeated_within_a_second() {
        let host = Host::start().await;
        let refusal = json!({"code": "invalidClientIdOrSecret", "message": "无效的clientId或者clientSecret"});
        host.answer(ACCESS_TOKEN, [canned(400, &refusal), ok(&granted(TOKEN, &json!(7200)))]);
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        for got in join_all((0..100).map(|_| tokens.get(calls, Turn::default()))).await {
            let failure = got.unwrap_err();
            assert_eq!((failure.reason, failure.class), (Reason::BadCredentials, Class::Hold));
        }
        // The second that follows, made longer than any test: an instant to come has not elapsed at all.
        let failure = tokens.fetching.lock().await.take().unwrap().1;
        let set = async |at| *tokens.fetching.lock().await = Some((at, failure.clone()));
        set(Instant::now() + Duration::from_hours(1)).await;
        assert_eq!(tokens.get(calls, Turn::default()).await.unwrap_err(), failure);
        host.only(ACCESS_TOKEN);
        assert_eq!((refreshes(&bench, "hold"), refreshes(&bench, "ok")), (1.0, 0.0));

        set(Instant::now().checked_sub(PAUSE).unwrap()).await;
        tokens.get(calls, Turn::default()).await.unwrap();
        assert_eq!(host.asked(ACCESS_TOKEN).len(), 2);
        assert_eq!(refreshes(&bench, "ok"), 1.0);
    }

    #[tokio::test]
    async fn a_token_that_is_still_good_survives_a_failed_refresh_and_one_that_ended_does_not() {
        let host = Host::start().await;
        host.answer(ACCESS_TOKEN, [raw(503, "")]);
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        hold_old(tokens, "still good", true);
        assert_eq!(tokens.get(calls, Turn::default()).await.unwrap().expose(), "still good");
        assert_eq!(refreshes(&bench, "transient"), 1.0);
        hold_old(tokens, "ended", false);
        let failure = tokens.get(calls, Turn::default()).await.unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::ServerError, Class::Transient));
    }

    #[tokio::test]
    async fn nobody_waits_for_a_refresh_while_the_token_is_good() {
        let bench = Bench::new(&[]);
        let (tokens, calls) = tokens(&bench);
        hold_old(tokens, "still good", true);
        let _somebody_fetches = tokens.fetching.lock().await;
        assert_eq!(tokens.get(calls, Turn::default()).await.unwrap().expose(), "still good");
    }

    #[tokio::test]
    async fn a_token_is_refreshed_five_minutes_early_or_after_nine_tenths_of_a_short_life() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        for (lives, early) in [(7200, 300), (3600, 300), (400, 100), (300, 30), (100, 10)] {
            host.answer(ACCESS_TOKEN, [ok(&granted(TOKEN, &json!(lives)))]);
            let token = tokens.fetch(calls, Turn::default()).await.unwrap();
            assert_eq!(token.ends_at - token.refresh_at, Duration::from_secs(early), "{lives}");
        }
        host.answer(ACCESS_TOKEN, [ok(&granted(TOKEN, &json!("7200")))]);
        assert!(
            tokens.fetch(calls, Turn::default()).await.is_ok(),
            "a number as a string"
        );
        host.answer(ACCESS_TOKEN, [ok(&granted(TOKEN, &json!(u64::MAX)))]);
        assert!(tokens.fetch(calls, Turn::default()).await.is_ok(), "no overflow");
    }

    #[tokio::test]
    async fn an_answer_without_a_token_and_its_life_is_no_success() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        for body in [
            json!({}),
            granted("", &json!(7200)),
            granted(TOKEN, &Value::Null),
            granted(TOKEN, &json!(-1)),
            json!({"access_token": TOKEN, "expires_in": 7200}),
            json!({"accessToken": 5, "expireIn": 7200}),
        ] {
            host.answer(ACCESS_TOKEN, [ok(&body)]);
            let failure = tokens.fetch(calls, Turn::default()).await.unwrap_err();
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::BadResponse, Class::Transient),
                "{body}"
            );
            assert!(!format!("{failure:?}").contains(TOKEN));
        }
    }

    #[tokio::test]
    async fn only_the_refused_token_is_dropped_and_not_its_successor() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let (tokens, calls) = tokens(&bench);
        let first = tokens.get(calls, Turn::default()).await.unwrap();
        tokens.reject(&first).await;
        // DingTalk gives the same token again while it lives; it is a token of its own all the same.
        let second = tokens.get(calls, Turn::default()).await.unwrap();
        tokens.reject(&first).await;
        assert!(Arc::ptr_eq(&second, &tokens.get(calls, Turn::default()).await.unwrap()));
        assert_eq!(host.asked(ACCESS_TOKEN).len(), 2);
    }

    #[tokio::test]
    async fn a_refused_token_is_fetched_anew_once_for_all_and_their_calls_are_repeated_once() {
        let host = Host::start().await;
        let old = json!({"code": "InvalidAuthentication", "message": "不合法的access_token"});
        host.answer(&format!("{UPDATE_INSTANCES} with old token"), [canned(400, &old)]);
        host.answer(UPDATE_INSTANCES, [ok(&json!({"success": true}))]);
        let bench = host.bench(&[]);
        let later = Instant::now() + Duration::from_hours(1);
        let token = Token {
            value: "old token".into(),
            lives: Duration::from_hours(2),
            refresh_at: later,
            ends_at: later,
        };
        *bench.app().tokens.current.write().unwrap() = Some(Arc::new(token));
        let params = std::collections::BTreeMap::new();
        let all = join_all((0..20).map(|_| bench.app().update("card", &params, Turn::default()))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        host.only(ACCESS_TOKEN);
        let sent = host.asked(UPDATE_INSTANCES);
        let with = |token: &str| {
            sent.iter()
                .filter(|asked| asked.header("x-acs-dingtalk-access-token") == Some(token))
                .count()
        };
        assert_eq!((with("old token"), with(TOKEN), sent.len()), (20, 20, 40));
    }

    #[tokio::test]
    async fn a_token_that_is_refused_again_holds_the_app() {
        let host = Host::start().await;
        let refusal = json!({"errcode": 88, "sub_code": "40014", "errmsg": format!("bad {TOKEN} of {MOBILE}")});
        host.answer(GET_BY_MOBILE, [ok(&refusal)]);
        let bench = host.bench(&[]);
        let failure = bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::TokenRejected, Class::Hold));
        assert_eq!(
            (host.asked(GET_BY_MOBILE).len(), host.asked(ACCESS_TOKEN).len()),
            (2, 2)
        );
        assert!(!format!("{failure:?} {failure}").contains(TOKEN));
        let calls = |result: &str| {
            let labels = format!(r#"app="default",endpoint="getbymobile",result="{result}""#);
            bench.metric(&format!("dingcard_api_requests_total{{{labels}}}"))
        };
        assert_eq!(calls("auth"), 2.0);

        host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": 0, "result": {"userid": "u"}}))]);
        bench.app().user_id(MOBILE, Turn::default()).await.unwrap();
        assert_eq!(host.asked(ACCESS_TOKEN).len(), 3, "the refused token is not used again");
    }

    #[tokio::test]
    async fn what_is_not_about_the_token_is_not_repeated() {
        let host = Host::start().await;
        host.answer(CREATE_AND_DELIVER, [canned(500, &json!({"code": "systemBusy"}))]);
        host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": 88, "sub_code": "60011"}))]);
        let bench = host.bench(&[]);
        bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
        let params = std::collections::BTreeMap::new();
        let card = super::super::Card {
            out_track_id: "card",
            template: "t",
            params: &params,
        };
        let to = [super::super::Space::User("u1".into())];
        bench.app().send(&card, &to, Turn::default()).await.unwrap_err();
        host.only(GET_BY_MOBILE);
        host.only(CREATE_AND_DELIVER);
        host.only(ACCESS_TOKEN);
    }

    #[tokio::test]
    async fn neither_secret_nor_token_shows_in_a_failed_fetch_or_in_debug() {
        let settings = [
            ("dingtalk.oapi_url", &*nobody()),
            ("apps.default.token_api", "gettoken"),
        ];
        let bench = Bench::new(&settings);
        let (tokens, calls) = tokens(&bench);
        let failure = tokens.get(calls, Turn::default()).await.unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::Network, Class::Transient));
        hold_old(tokens, TOKEN, true);
        let token = tokens.current().unwrap();
        for text in [
            format!("{failure:?} {failure}"),
            format!("{tokens:?}"),
            format!("{token:?}"),
            format!("{calls:?}"),
        ] {
            assert!(
                !text.contains(SECRET) && !text.contains(TOKEN) && !text.contains("appsecret"),
                "{text}"
            );
        }
    }

    /// Two workers that share a Redis, and the getter's answers in their order.
    async fn fleet(host: &Host) -> (RedisServer, [Bench; 2]) {
        let granted = ["t1", "t2", "t3"].map(|token| ok(&granted(token, &json!(7200))));
        host.answer(ACCESS_TOKEN, granted);
        let server = RedisServer::start();
        let stores = [store(&server.url()).await, store(&server.url()).await];
        (server, stores.map(|store| host.bench(&[]).sharing(&store)))
    }

    async fn get(bench: &Bench) -> Arc<Token> {
        let (tokens, calls) = tokens(bench);
        tokens.get(calls, Turn::default()).await.unwrap()
    }

    #[tokio::test]
    async fn workers_share_a_token_and_drop_the_one_that_was_refused_and_no_other() {
        let host = Host::start().await;
        let (_server, [one, other]) = fleet(&host).await;
        let refused = [get(&one).await, get(&other).await];
        assert_eq!((refused[0].expose(), refused[1].expose()), ("t1", "t1"));
        tokens(&one).0.reject(&refused[0]).await;
        assert_eq!(get(&one).await.expose(), "t2");
        tokens(&other).0.reject(&refused[1]).await;
        assert_eq!(get(&other).await.expose(), "t2");
        assert_eq!(host.asked(ACCESS_TOKEN).len(), 2);
    }

    #[tokio::test]
    async fn a_refused_token_that_is_still_shared_is_not_taken_again() {
        let host = Host::start().await;
        let (server, [one, _]) = fleet(&host).await;
        let refused = get(&one).await;
        tokens(&one).0.reject(&refused).await;
        let key = &tokens(&one).0.shared_key;
        server.ask(&["SET", key, "7200 t1", "PX", "7000000"]);
        assert_eq!(get(&one).await.expose(), "t2");
    }

    #[tokio::test]
    async fn a_worker_that_died_over_its_fetch_is_not_waited_for_long() {
        let host = Host::start().await;
        let (server, [one, other]) = fleet(&host).await;
        let key = &tokens(&one).0.lease_key;
        server.ask(&["SET", key, "somebody who died", "PX", "600000"]);
        assert_eq!((get(&one).await.expose(), get(&other).await.expose()), ("t1", "t1"));
        assert_eq!(server.ask(&["GET", key]), ["somebody who died"], "not ours to end");
    }
}
