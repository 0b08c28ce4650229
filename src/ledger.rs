//! The ledger: who already has a card, and which job is in work right now.
//!
//! Separate from the worker because it outlives every job: it is written before the acknowledgement, so that a job that the
//! broker delivers again, or that a producer published twice, shows nobody the same card twice. It holds delivered
//! recipients and nothing else; forgetting one is allowed (age, capacity), inventing one is not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moka::future::Cache;
use sha2::{Digest as _, Sha256};

use crate::config;

/// Names a recipient of a job, or a job: half a SHA-256, since two that met would cost somebody a card.
pub type Key = [u8; 16];

/// In-process, of one worker.
#[derive(Debug)]
pub struct Ledger {
    finished: Cache<Key, ()>,
    in_work: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

/// The right to work on a job, which nobody else in this process has until it is dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    ledger: &'a Ledger,
    key: Key,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// A key of `parts`; each is hashed with its length, so that no two lists give one key.
#[must_use]
pub fn key(parts: &[&str]) -> Key {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hash.finalize()[..16]);
    key
}

impl Ledger {
    /// Empty, with the configured age and capacity.
    #[must_use]
    pub fn new(settings: &config::Ledger) -> Self {
        let finished = Cache::builder()
            .time_to_live(settings.ttl)
            .max_capacity(settings.capacity)
            .build();
        Self {
            finished,
            in_work: Mutex::default(),
        }
    }

    /// Waits until nobody else in this process works on the job `key`.
    pub async fn claim(&self, key: Key) -> Claim<'_> {
        let job = self.in_work().entry(key).or_default().clone();
        let held = Some(job.lock_owned().await);
        Claim {
            ledger: self,
            key,
            held,
        }
    }

    /// Whether the recipient `key` has the card.
    pub async fn is_finished(&self, key: Key) -> bool {
        self.finished.get(&key).await.is_some()
    }

    /// Notes that the recipient `key` has the card.
    pub async fn finish(&self, key: Key) {
        self.finished.insert(key, ()).await;
    }

    fn in_work(&self) -> MutexGuard<'_, HashMap<Key, Arc<tokio::sync::Mutex<()>>>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.held = None;
        let mut in_work = self.ledger.in_work();
        // Only the map holds it: nobody waits, and nobody can begin to while the map is locked.
        if in_work.get(&self.key).is_some_and(|job| Arc::strong_count(job) == 1) {
            in_work.remove(&self.key);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn ledger() -> Ledger {
        Ledger::new(&Config::load(None, []).unwrap().ledger)
    }

    #[test]
    fn keys_differ_however_the_parts_are_cut() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_ne!(key(&["a"]), key(&["a", ""]));
        assert_eq!(key(&["a", "b"]), key(&["a", "b"]));
    }

    #[tokio::test]
    async fn only_who_was_noted_is_finished() {
        let ledger = ledger();
        ledger.finish(key(&["a"])).await;
        assert!(ledger.is_finished(key(&["a"])).await && !ledger.is_finished(key(&["b"])).await);
    }

    #[tokio::test]
    async fn a_job_is_in_work_once_at_a_time_and_leaves_nothing_behind() {
        let ledger = ledger();
        let first = ledger.claim(key(&["j"])).await;
        let mut second = std::pin::pin!(ledger.claim(key(&["j"])));
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        let other = ledger.claim(key(&["k"])).await;
        drop(first);
        drop((second.await, other));
        assert!(ledger.in_work().is_empty());
    }
}
