//! What is remembered of look-ups: the answer of each key for a while, and that there is none for a shorter while.
//!
//! Separate because age, capacity, one look-up for all who ask at once and sharing with other workers are the same
//! whatever is looked up. It asks nobody itself. In the store a mobile is a hash.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::config;
use crate::metrics::{Metrics, UserCache};
use crate::store::{Store, Terms};

/// Whoever looks a number up is waited for, and not for long.
const TERMS: Terms = Terms {
    ttl: Duration::from_secs(10),
    patience: Duration::from_secs(5),
    poll: Duration::from_millis(20),
};

/// The user IDs of one app by mobile; `N` says why there is none.
pub struct Users<N> {
    app: String,
    known: Cache<String, Known<N>>,
    shared: Store,
    /// User IDs are remembered long, their absence briefly.
    found: Duration,
    absent: Duration,
    metrics: Arc<Metrics>,
}

/// An answer, and for how long from now it holds.
#[derive(Clone)]
struct Known<N> {
    answer: Result<String, N>,
    holds: Duration,
}

struct Ages;

impl<N> Expiry<String, Known<N>> for Ages {
    fn expire_after_create(&self, _: &String, known: &Known<N>, _: Instant) -> Option<Duration> {
        Some(known.holds)
    }
}

impl<N> Users<N>
where
    N: Clone + Send + Sync + 'static + Display + FromStr,
{
    /// Those of `app`: none in this process, with the configured ages and capacity, in front of `shared`.
    #[must_use]
    pub fn new(app: &str, settings: &config::Users, metrics: &Arc<Metrics>, shared: &Store) -> Self {
        let known = Cache::builder()
            .max_capacity(settings.capacity)
            .expire_after(Ages)
            .support_invalidation_closures()
            .build();
        Self {
            app: app.to_owned(),
            known,
            shared: shared.clone(),
            found: settings.cache_ttl,
            absent: settings.negative_ttl,
            metrics: metrics.clone(),
        }
    }

    /// The user ID of `mobile`, from memory or by `look_up`, which runs once for all who ask meanwhile. Its error is
    /// shared with those and not remembered.
    pub async fn get<E: Clone + Send + Sync + 'static>(
        &self,
        mobile: &str,
        look_up: impl Future<Output = Result<Result<String, N>, E>>,
    ) -> Result<Result<String, N>, E> {
        if let Some(known) = self.known.get(mobile).await {
            self.told(false, &known.answer);
            return Ok(known.answer);
        }
        // Boxed, since it is rare and every call would carry its room.
        Box::pin(self.find(mobile, look_up)).await
    }

    async fn find<E: Clone + Send + Sync + 'static>(
        &self,
        mobile: &str,
        look_up: impl Future<Output = Result<Result<String, N>, E>>,
    ) -> Result<Result<String, N>, E> {
        let asked = AtomicBool::new(false);
        let find = async {
            let key = self.key(mobile);
            let turn = format!("{key}:lease");
            let known = self.shared.found_or_lease(&turn, &TERMS, || self.known_to_all(&key));
            let lease = match known.await {
                Ok(known) => return Ok(known),
                Err(lease) => lease,
            };
            asked.store(true, Ordering::Relaxed);
            let looked_up = look_up.await;
            if let Ok(answer) = &looked_up {
                self.shared.put(&[key], &written(answer), self.holds(answer)).await;
            }
            self.shared.end(lease).await;
            looked_up.map(|answer| Known {
                holds: self.holds(&answer),
                answer,
            })
        };
        let entry = self.known.entry_by_ref(mobile).or_try_insert_with(find).await;
        let entry = entry.map_err(|error: Arc<E>| {
            self.metrics.user_cache(UserCache::Miss);
            E::clone(&error)
        })?;
        let answer = entry.into_value().answer;
        self.told(asked.into_inner(), &answer);
        Ok(answer)
    }

    fn told(&self, asked: bool, answer: &Result<String, N>) {
        self.metrics.user_cache(match (asked, answer) {
            (true, _) => UserCache::Miss,
            (false, Ok(_)) => UserCache::Hit,
            (false, Err(_)) => UserCache::NegativeHit,
        });
    }

    /// What the workers know.
    async fn known_to_all(&self, key: &str) -> Option<Known<N>> {
        let (text, holds) = self.shared.get(key).await?;
        let answer = read(&text)?;
        Some(Known { answer, holds })
    }

    fn holds(&self, answer: &Result<String, N>) -> Duration {
        if answer.is_ok() { self.found } else { self.absent }
    }

    /// Forgets whatever led to `user_id`. In the store, that is what led there by this process's knowledge.
    pub async fn forget(&self, user_id: &str) {
        let gone = user_id.to_owned();
        let leads_there = move |known: &Known<N>| known.answer.as_ref().is_ok_and(|id| *id == gone);
        if matches!(self.shared, Store::Redis(_)) {
            let led_there = self.known.iter().filter(|(_, known)| leads_there(known));
            for (mobile, known) in led_there.collect::<Vec<_>>() {
                let led_there = written(&known.answer);
                self.shared.remove_if(&self.key(&mobile), &led_there).await;
            }
        }
        // Refused only where the cache was built without support for it.
        let _supported = self.known.invalidate_entries_if(move |_, known| leads_there(known));
    }

    fn key(&self, mobile: &str) -> String {
        self.shared.hidden_key("user", &[&self.app, mobile])
    }
}

/// As it stands in the store.
fn written<N: Display>(answer: &Result<String, N>) -> String {
    match answer {
        Ok(user_id) => format!("+{user_id}"),
        Err(nobody) => format!("-{nobody}"),
    }
}

/// `None` for what another version wrote.
fn read<N: FromStr>(text: &str) -> Option<Result<String, N>> {
    match text.strip_prefix('+') {
        Some(user_id) => Some(Ok(user_id.to_owned())),
        None => Some(Err(text.strip_prefix('-')?.parse().ok()?)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::config::Config;
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::store;

    const MOBILE: &str = "15012341231";

    fn users_in(store: &Store) -> Users<u8> {
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let settings = Config::load(None, []).unwrap().users;
        Users::new("default", &settings, &metrics, store)
    }

    fn users() -> Users<u8> {
        users_in(&Store::InProcess)
    }

    async fn shared_users(server: &RedisServer) -> Users<u8> {
        users_in(&store(&server.url()).await)
    }

    async fn count(users: &Users<u8>, asked: &AtomicUsize, answer: Result<Result<String, u8>, u8>) {
        let look_up = async {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            answer.clone()
        };
        assert_eq!(users.get(MOBILE, look_up).await, answer);
    }

    #[tokio::test]
    async fn all_who_ask_at_once_share_one_look_up_and_later_ones_need_none() {
        let (users, asked) = (users(), AtomicUsize::new(0));
        join_all((0..50).map(|_| count(&users, &asked, Ok(Ok("u".into()))))).await;
        count(&users, &asked, Ok(Ok("u".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn an_absence_is_remembered_and_an_error_is_not() {
        let (users, asked) = (users(), AtomicUsize::new(0));
        count(&users, &asked, Err(1)).await;
        count(&users, &asked, Ok(Err(7))).await;
        count(&users, &asked, Ok(Err(7))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_forgotten_user_is_looked_up_again() {
        let (users, asked) = (users(), AtomicUsize::new(0));
        count(&users, &asked, Ok(Ok("u".into()))).await;
        users.forget("other").await;
        count(&users, &asked, Ok(Ok("u".into()))).await;
        users.forget("u").await;
        count(&users, &asked, Ok(Ok("u".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_one_worker_looked_up_another_knows_and_no_mobile_can_be_read() {
        let server = RedisServer::start();
        let (one, other) = (shared_users(&server).await, shared_users(&server).await);
        let asked = AtomicUsize::new(0);
        count(&one, &asked, Ok(Ok("u".into()))).await;
        count(&other, &asked, Ok(Ok("u".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let entries = server.entries();
        assert!(entries.len() == 1 && entries[0].1 == "+u", "{entries:?}");
        assert!(!entries[0].0.contains(MOBILE), "{entries:?}");
    }

    #[tokio::test]
    async fn workers_that_ask_at_once_share_one_look_up() {
        let server = RedisServer::start();
        let workers = join_all((0..4).map(|_| shared_users(&server))).await;
        let asked = AtomicUsize::new(0);
        join_all((0..40).map(|n| count(&workers[n % 4], &asked, Ok(Ok("u".into()))))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_shared_absence_is_shared_and_ends_with_its_own_time() {
        let server = RedisServer::start();
        let (one, other) = (shared_users(&server).await, shared_users(&server).await);
        let asked = AtomicUsize::new(0);
        count(&one, &asked, Ok(Err(7))).await;
        count(&other, &asked, Ok(Err(7))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        let left: u128 = server.ask(&["PTTL", &one.key(MOBILE)]).concat().parse().unwrap();
        assert!(left <= one.absent.as_millis(), "{left}");
    }

    #[tokio::test]
    async fn a_forgotten_user_is_forgotten_by_all_but_not_whoever_has_the_number_now() {
        let server = RedisServer::start();
        let (one, other) = (shared_users(&server).await, shared_users(&server).await);
        let asked = AtomicUsize::new(0);
        count(&one, &asked, Ok(Ok("u".into()))).await;
        count(&other, &asked, Ok(Ok("u".into()))).await;
        one.forget("u").await;
        assert!(server.entries().is_empty());
        count(&one, &asked, Ok(Ok("v".into()))).await;
        other.forget("u").await;
        count(&other, &asked, Ok(Ok("v".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_store_that_is_away_costs_a_look_up_and_nothing_else() {
        let mut server = RedisServer::start();
        let users = shared_users(&server).await;
        server.kill();
        let asked = AtomicUsize::new(0);
        count(&users, &asked, Ok(Ok("u".into()))).await;
        count(&users, &asked, Ok(Ok("u".into()))).await;
        users.forget("u").await;
        count(&users, &asked, Ok(Ok("v".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn what_another_version_wrote_counts_as_nothing() {
        assert_eq!(read::<u8>("+u"), Some(Ok("u".to_owned())));
        assert_eq!(read::<u8>("-7"), Some(Err(7)));
        assert_eq!(read::<u8>("-no number"), None);
        assert_eq!(read::<u8>("?"), None);
    }
}
