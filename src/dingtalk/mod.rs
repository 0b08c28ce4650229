//! DingTalk: tokens, user IDs, cards, and what its answers mean.
//!
//! Every call is a single shot, but that a refused token is fetched anew once: whether and when to try again is the
//! worker's business. Nothing in here knows a job or the broker.

mod answer;
mod budget;
mod cards;
mod client;
mod codes;
mod endpoint;
mod error;
mod remedy;
mod token;
mod trial;
mod users;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Map, Value};

pub use self::cards::{Card, Delivered, Space};
pub use self::client::Turn;
use self::client::{Calls, Http, Request};
use self::endpoint::Endpoint;
pub use self::error::Failure;
pub use self::remedy::Remedy;
use self::token::{Token, Tokens};
use self::users::Nobody;
pub use self::users::masked;
use crate::cache::Users;
use crate::config::{self, Config};
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason};
use crate::store::Store;

/// All apps that this process serves.
pub struct DingTalk {
    apps: HashMap<String, App>,
    http: Arc<Http>,
    store: Store,
    metrics: Arc<Metrics>,
}

/// One DingTalk application.
pub struct App {
    settings: config::App,
    calls: Arc<Calls>,
    tokens: Arc<Tokens>,
    users: Arc<Users<Nobody>>,
    /// Look-ups that DingTalk answered.
    look_ups: AtomicUsize,
    /// Whether it was seen that DingTalk takes one recipient a call from it.
    one_a_call: Arc<AtomicBool>,
}

impl DingTalk {
    /// The apps that have credentials, on one HTTP client, with what they know in front of `store`.
    ///
    /// # Errors
    /// Where the HTTP client cannot be built.
    pub fn new(config: &Config, metrics: &Arc<Metrics>, store: &Store) -> Result<Self, Failure> {
        let nothing = Self {
            apps: HashMap::new(),
            http: Arc::new(Http::new(&config.dingtalk, metrics)?),
            store: store.clone(),
            metrics: metrics.clone(),
        };
        Ok(nothing.reloaded(config))
    }

    /// The same with changed settings of its apps: what they know goes on as far as it is still true.
    #[must_use]
    pub fn reloaded(&self, config: &Config) -> Self {
        let complete = config.apps.iter().filter(|(_, app)| app.is_complete());
        let apps = complete.map(|(name, settings)| (name.clone(), self.app_with(name, settings, &config.users)));
        Self {
            apps: apps.collect(),
            http: self.http.clone(),
            store: self.store.clone(),
            metrics: self.metrics.clone(),
        }
    }

    fn app_with(&self, name: &str, settings: &config::App, users: &config::Users) -> App {
        let (http, store, metrics) = (&self.http, &self.store, &self.metrics);
        let known = self.apps.get(name);
        // Another key is another application, perhaps of another organisation.
        let same = known.filter(|app| app.settings.app_key == settings.app_key);
        let token = same.filter(|app| app.settings.has_credentials_of(settings));
        let pace = known.filter(|app| app.settings.has_pace_of(settings));
        App {
            settings: settings.clone(),
            calls: pace.map_or_else(
                || Arc::new(Calls::new(name, settings, http, store)),
                |app| app.calls.clone(),
            ),
            tokens: token.map_or_else(
                || Arc::new(Tokens::new(name, settings, metrics, store)),
                |app| app.tokens.clone(),
            ),
            look_ups: AtomicUsize::new(0),
            one_a_call: same.map_or_else(Arc::default, |app| app.one_a_call.clone()),
            users: same.map_or_else(
                || Arc::new(Users::new(name, users, metrics, store)),
                |app| app.users.clone(),
            ),
        }
    }

    /// The app of this name, if it has credentials.
    #[must_use]
    pub fn app(&self, name: &str) -> Option<&App> {
        self.apps.get(name)
    }
}

impl App {
    /// How many look-ups DingTalk answered so far; what is remembered does not count.
    #[must_use]
    pub fn look_ups(&self) -> usize {
        self.look_ups.load(Ordering::Relaxed)
    }

    /// Whether its calls must name one recipient each.
    #[must_use]
    pub fn takes_one_a_call(&self) -> bool {
        self.one_a_call.load(Ordering::Relaxed)
    }

    /// DingTalk refused recipients together and took each of them alone. Whether that is new.
    pub fn note_one_a_call(&self) -> bool {
        !self.one_a_call.swap(true, Ordering::Relaxed)
    }

    /// A call with the app's token. A refused one is fetched anew once; refused again, it holds the app.
    async fn authorised(&self, endpoint: Endpoint, request: Request<'_>) -> Result<Map<String, Value>, Failure> {
        let token = self.tokens.get(&self.calls, request.turn).await?;
        let again = Request {
            token: Some(token.expose()),
            ..request
        };
        let answer = self.calls.call(endpoint, &again).await;
        if !answer.as_ref().is_err_and(|f| f.class == Class::Auth) {
            return answer;
        }
        // Boxed, since it is rare and every call would carry its room.
        Box::pin(self.authorised_anew(endpoint, request, &token)).await
    }

    /// The same call after a refused token.
    async fn authorised_anew(
        &self,
        endpoint: Endpoint,
        request: Request<'_>,
        refused: &Arc<Token>,
    ) -> Result<Map<String, Value>, Failure> {
        self.tokens.reject(refused).await;
        let token = self.tokens.get(&self.calls, request.turn).await?;
        let again = Request {
            token: Some(token.expose()),
            ..request
        };
        match self.calls.call(endpoint, &again).await {
            Err(failure) if failure.class == Class::Auth => {
                self.tokens.reject(&token).await;
                Err(Failure {
                    class: Class::Hold,
                    reason: Reason::TokenRejected,
                    ..failure
                })
            }
            answer => answer,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod manual;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod testing;
