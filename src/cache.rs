//! What is remembered of look-ups: the answer of each key for a while, and that there is none for a shorter while.
//!
//! Separate because age, capacity and one look-up for all who ask at once are the same whatever is looked up. It asks
//! nobody itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;

use crate::config;
use crate::metrics::{Metrics, UserCache};

/// The user IDs of one app by mobile; `N` says why there is none.
pub struct Users<N> {
    known: Cache<String, Result<String, N>>,
    metrics: Arc<Metrics>,
}

/// Age by what is remembered: user IDs long, their absence briefly.
struct Ages {
    found: Duration,
    absent: Duration,
}

impl<N> Expiry<String, Result<String, N>> for Ages {
    fn expire_after_create(&self, _: &String, answer: &Result<String, N>, _: Instant) -> Option<Duration> {
        Some(if answer.is_ok() { self.found } else { self.absent })
    }
}

impl<N: Clone + Send + Sync + 'static> Users<N> {
    /// Empty, with the configured ages and capacity.
    #[must_use]
    pub fn new(settings: &config::Users, metrics: &Arc<Metrics>) -> Self {
        let ages = Ages {
            found: settings.cache_ttl,
            absent: settings.negative_ttl,
        };
        let known = Cache::builder()
            .max_capacity(settings.capacity)
            .expire_after(ages)
            .support_invalidation_closures()
            .build();
        Self {
            known,
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
        let entry = self.known.entry_by_ref(mobile).or_try_insert_with(look_up).await;
        let entry = entry.map_err(|error: Arc<E>| {
            self.metrics.user_cache(UserCache::Miss);
            E::clone(&error)
        })?;
        let result = match (entry.is_fresh(), entry.value()) {
            (true, _) => UserCache::Miss,
            (false, Ok(_)) => UserCache::Hit,
            (false, Err(_)) => UserCache::NegativeHit,
        };
        self.metrics.user_cache(result);
        Ok(entry.into_value())
    }

    /// Forgets whatever led to `user_id`.
    pub fn forget(&self, user_id: &str) {
        let gone = user_id.to_owned();
        // Refused only where the cache was built without support for it.
        let _supported = self
            .known
            .invalidate_entries_if(move |_, answer| answer.as_ref().is_ok_and(|id| *id == gone));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::join_all;

    use super::*;
    use crate::config::Config;

    fn users() -> Users<()> {
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        Users::new(&Config::load(None, []).unwrap().users, &metrics)
    }

    async fn count(users: &Users<()>, asked: &AtomicUsize, answer: Result<Result<String, ()>, u8>) {
        let look_up = async {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            answer.clone()
        };
        assert_eq!(users.get("m", look_up).await, answer);
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
        count(&users, &asked, Ok(Err(()))).await;
        count(&users, &asked, Ok(Err(()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn a_forgotten_user_is_looked_up_again() {
        let (users, asked) = (users(), AtomicUsize::new(0));
        count(&users, &asked, Ok(Ok("u".into()))).await;
        users.forget("other");
        count(&users, &asked, Ok(Ok("u".into()))).await;
        users.forget("u");
        count(&users, &asked, Ok(Ok("u".into()))).await;
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
