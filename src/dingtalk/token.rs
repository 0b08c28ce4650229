//! The access token of one app: fetched once for all who need it, refreshed before it ends, dropped when refused.
//!
//! Separate because the calls that fetch it are limited and shared, and because it is a secret: it leaves this file only
//! for a request. It makes no other call.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::answer::unreadable;
use super::client::{Calls, Endpoint, Request};
use super::error::Failure;
use crate::config::{self, ExposeSecret as _, SecretString, TokenApi};
use crate::metrics::Metrics;

/// A token is refreshed this long before it ends, or after nine tenths of a short life.
const EARLY: Duration = Duration::from_mins(5);
/// A failed fetch is not repeated sooner: calling the getter too often is throttled (`dingtalk-api.md` 2.3).
const PAUSE: Duration = Duration::from_secs(1);

/// A token and its life.
#[derive(Debug)]
pub(super) struct Token {
    value: SecretString,
    refresh_at: Instant,
    ends_at: Instant,
}

impl Token {
    /// For the request alone.
    pub(super) fn expose(&self) -> &str {
        self.value.expose_secret()
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
    metrics: Arc<Metrics>,
}

impl Tokens {
    pub(super) fn new(app: &str, settings: &config::App, metrics: &Arc<Metrics>) -> Self {
        Self {
            app: app.to_owned(),
            key: settings.app_key.clone().unwrap_or_default(),
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
        self.current().filter(|token| Instant::now() < token.refresh_at)
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
            let fetched = self.fetch(calls, urgent).await;
            self.metrics
                .token_refresh(&self.app, fetched.as_ref().err().map(|f| f.class));
            fetched
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
    pub(super) fn reject(&self, refused: &Arc<Token>) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            *current = None;
        }
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
        let (now, lives) = (Instant::now(), Duration::from_secs(lives.min(365 * 24 * 3600)));
        let refresh_in = lives.saturating_sub(EARLY).max(lives.mul_f64(0.9).min(EARLY));
        Ok(Token {
            value: value.into(),
            refresh_at: now + refresh_in.min(lives),
            ends_at: now + lives,
        })
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
        let tokens = Tokens::new("default", &config.apps["default"], &metrics);
        tokens.get(&calls, false).await.unwrap();

        // Only the clock moves: the token is due for renewal, and still good.
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(95)).await;
        let mut renewal = Box::pin(tokens.get(&calls, false));
        assert!(poll!(&mut renewal).is_pending());
        assert_eq!(tokens.get(&calls, false).await.unwrap().expose(), "t1");
    }
}
