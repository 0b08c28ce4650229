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
use super::client::{Calls, Endpoint, Request};
use super::error::Failure;
use crate::config::{self, ExposeSecret as _, SecretString, TokenApi};
use crate::metrics::Metrics;
use crate::store::{Store, Turn};

/// A token is refreshed this long before it ends, or after nine tenths of a short life.
const EARLY: Duration = Duration::from_mins(5);
/// A failed fetch is not repeated sooner: calling the getter too often is throttled (`dingtalk-api.md` 2.3).
const PAUSE: Duration = Duration::from_secs(1);
/// A worker that fetches is waited for this long; then the others fetch for themselves.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often they look meanwhile.
const POLL: Duration = Duration::from_millis(50);
/// The turn of a worker that died ends by itself.
const TURN: Duration = Duration::from_secs(15);

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
    turn_key: String,
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
            turn_key: shared.hidden_key("token-turn", &[app, &key]),
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
    pub(super) async fn get(&self, calls: &Calls, urgent: bool) -> Result<Arc<Token>, Failure> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let mut last_failure = match self.good() {
            // One caller renews a token that still holds; a getter that hangs must not stop the others.
            Some(token) => match self.fetching.try_lock() {
                Ok(last_failure) => last_failure,
                Err(_) => return Ok(token),
            },
            None => self.fetching.lock().await,
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
            self.renew(calls, urgent).await
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
    async fn renew(&self, calls: &Calls, urgent: bool) -> Result<Token, Failure> {
        let patience = Instant::now() + PATIENCE;
        let turn = loop {
            let turn = self.shared.turn(&self.turn_key, TURN).await;
            if let Some(token) = self.shared_token().await {
                self.shared.end(turn).await;
                return Ok(token);
            }
            if turn != Turn::Theirs || Instant::now() >= patience {
                break turn;
            }
            tokio::time::sleep(POLL).await;
        };
        let fetched = self.fetch(calls, urgent).await;
        self.metrics
            .token_refresh(&self.app, fetched.as_ref().err().map(|f| f.class));
        if let Ok(token) = &fetched {
            let (key, left) = (self.shared_key.clone(), token.lives);
            self.shared.put(&[key], token.written().expose_secret(), left).await;
        }
        self.shared.end(turn).await;
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

    async fn fetch(&self, calls: &Calls, urgent: bool) -> Result<Token, Failure> {
        let (key, secret) = (self.key.as_str(), self.secret.expose_secret());
        let hide = [secret];
        let (endpoint, names, answer) = match self.api {
            TokenApi::Oauth2 => {
                let body = json!({"appKey": key, "appSecret": secret});
                let request = Request {
                    body: Some(&body),
                    urgent,
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
                    urgent,
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
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::{Json, Router, routing::post};
    use futures_util::poll;

    use super::super::client::Http;
    use super::*;
    use crate::config::Config;
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::store;

    #[tokio::test]
    async fn a_getter_that_hangs_stops_only_the_caller_that_renews() {
        static FETCHES: AtomicUsize = AtomicUsize::new(0);
        let getter = post(|| async {
            if FETCHES.fetch_add(1, Ordering::SeqCst) > 0 {
                std::future::pending::<()>().await;
            }
            Json(json!({"accessToken": "t1", "expireIn": 100}))
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = axum::serve(listener, Router::new().route("/v1.0/oauth2/accessToken", getter));
        tokio::spawn(server.into_future());

        rustls::crypto::ring::default_provider().install_default().ok();
        let mut config = Config::load(None, []).unwrap();
        config.dingtalk.api_url = url;
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let http = Arc::new(Http::new(&config.dingtalk, &metrics).unwrap());
        let calls = Calls::new("default", &config.apps["default"], &http);
        let tokens = Tokens::new("default", &config.apps["default"], &metrics, &Store::InProcess);
        tokens.get(&calls, false).await.unwrap();

        // Only the clock moves: the token is due for renewal, and still good.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(95)).await;
        let mut renewal = Box::pin(tokens.get(&calls, false));
        assert!(poll!(&mut renewal).is_pending());
        assert_eq!(tokens.get(&calls, false).await.unwrap().expose(), "t1");
    }

    /// What two workers of a fleet hold of one app's token, and the getter that they share.
    struct Fleet {
        server: RedisServer,
        calls: Calls,
        workers: [Tokens; 2],
        fetches: Arc<AtomicUsize>,
    }

    impl Fleet {
        async fn start() -> Self {
            let fetches = Arc::new(AtomicUsize::new(0));
            let counted = fetches.clone();
            let getter = post(async move || {
                let token = format!("t{}", counted.fetch_add(1, Ordering::SeqCst) + 1);
                Json(json!({"accessToken": token, "expireIn": 7200}))
            });
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let router = Router::new().route("/v1.0/oauth2/accessToken", getter);
            tokio::spawn(axum::serve(listener, router).into_future());

            rustls::crypto::ring::default_provider().install_default().ok();
            let mut config = Config::load(None, []).unwrap();
            config.dingtalk.api_url = url;
            let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
            let http = Arc::new(Http::new(&config.dingtalk, &metrics).unwrap());
            let app = &config.apps["default"];
            let server = RedisServer::start();
            let stores = [store(&server.url()).await, store(&server.url()).await];
            Self {
                server,
                calls: Calls::new("default", app, &http),
                workers: stores.map(|store| Tokens::new("default", app, &metrics, &store)),
                fetches,
            }
        }

        async fn get(&self, worker: usize) -> Arc<Token> {
            self.workers[worker].get(&self.calls, false).await.unwrap()
        }
    }

    #[tokio::test]
    async fn workers_share_a_token_and_drop_the_one_that_was_refused_and_no_other() {
        let fleet = Fleet::start().await;
        let (one, other) = tokio::join!(fleet.get(0), fleet.get(1));
        assert_eq!((one.expose(), other.expose()), ("t1", "t1"));
        fleet.workers[0].reject(&one).await;
        assert_eq!(fleet.get(0).await.expose(), "t2");
        fleet.workers[1].reject(&other).await;
        assert_eq!(fleet.get(1).await.expose(), "t2");
        assert_eq!(fleet.fetches.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_refused_token_that_is_still_shared_is_not_taken_again() {
        let fleet = Fleet::start().await;
        let refused = fleet.get(0).await;
        fleet.workers[0].reject(&refused).await;
        let key = &fleet.workers[0].shared_key;
        fleet.server.ask(&["SET", key, "7200 t1", "PX", "7000000"]);
        assert_eq!(fleet.get(0).await.expose(), "t2");
    }

    #[tokio::test]
    async fn a_worker_whose_turn_does_not_end_is_not_waited_for_long() {
        let fleet = Fleet::start().await;
        let key = &fleet.workers[0].turn_key;
        fleet.server.ask(&["SET", key, "somebody who died", "PX", "600000"]);
        assert_eq!(fleet.get(0).await.expose(), "t1");
        assert_eq!(fleet.get(1).await.expose(), "t1");
        assert_eq!(
            fleet.server.ask(&["GET", key]),
            ["somebody who died"],
            "not ours to end"
        );
    }
}
