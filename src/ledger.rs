//! The ledger: who already has a card, and which job is in work right now.
//!
//! Separate from the worker because it outlives every job: it is written before the acknowledgement, so that a job that the
//! broker delivers again, or that a producer published twice, shows nobody the same card twice. It holds delivered
//! recipients and nothing else; forgetting one is allowed (age, capacity, a store that is away), inventing one is not.
//! Recipients are remembered here and in the store; which job is in work is this process's alone.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::config;
use crate::store::{Store, digest};

/// Names a recipient of a job, or a job: half a SHA-256, since two that met would cost somebody a card.
pub type Key = [u8; 16];

/// Of one worker, in front of what the workers share.
#[derive(Debug)]
pub struct Ledger {
    finished: Mutex<Recent>,
    shared: Store,
    ttl: Duration,
    in_work: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

/// Keys of late, the oldest forgotten first. Not a cache: nobody is asked for a key that is missing, and when an entry was last
/// looked at is of no use. A cache that keeps account of that took 20 MiB more for 100,000 of them.
#[derive(Debug)]
struct Recent {
    begun: Instant,
    ttl: Second,
    capacity: usize,
    since: HashMap<Key, Second>,
    oldest_first: VecDeque<(Key, Second)>,
}

/// A time by the seconds since the ledger began: a quarter of an `Instant`, of which there would be two for each key.
type Second = u32;

impl Recent {
    fn new(settings: &config::Ledger) -> Self {
        // Up: for a part of a second too long is better than not at all.
        let ttl = settings.ttl.as_secs() + u64::from(settings.ttl.subsec_nanos() > 0);
        Self {
            begun: Instant::now(),
            ttl: Second::try_from(ttl).unwrap_or(Second::MAX),
            capacity: usize::try_from(settings.capacity).unwrap_or(usize::MAX),
            since: HashMap::new(),
            oldest_first: VecDeque::new(),
        }
    }

    fn now(&self) -> Second {
        Second::try_from(self.begun.elapsed().as_secs()).unwrap_or(Second::MAX)
    }

    fn contains(&self, key: &Key) -> bool {
        self.since.get(key).is_some_and(|since| self.now() - since < self.ttl)
    }

    fn insert(&mut self, key: Key) {
        let now = self.now();
        if self.since.insert(key, now) == Some(now) {
            return;
        }
        self.oldest_first.push_back((key, now));
        let outdated = |(_, since): &(Key, Second)| now - since >= self.ttl;
        while self.oldest_first.len() > self.capacity || self.oldest_first.front().is_some_and(outdated) {
            let Some((key, since)) = self.oldest_first.pop_front() else {
                break;
            };
            // One that was noted again is known for longer.
            if self.since.get(&key) == Some(&since) {
                self.since.remove(&key);
            }
        }
    }
}

/// The right to work on a job, which nobody else in this process has until it is dropped.
#[derive(Debug)]
pub struct Claim<'a> {
    ledger: &'a Ledger,
    key: Key,
    held: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// A key of `parts`; no two lists give one key.
#[must_use]
pub fn key(parts: &[&str]) -> Key {
    let mut key = [0; 16];
    key.copy_from_slice(&digest(parts)[..16]);
    key
}

impl Ledger {
    /// Empty, with the configured age and capacity, in front of `shared`.
    #[must_use]
    pub fn new(settings: &config::Ledger, shared: Store) -> Self {
        Self {
            finished: Mutex::new(Recent::new(settings)),
            shared,
            ttl: settings.ttl,
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

    /// Whether the recipient of each of `keys` has the card. What this process does not know is asked for in one go.
    pub async fn are_finished(&self, keys: &[Key]) -> Vec<bool> {
        let mut finished: Vec<bool> = {
            let known = self.finished();
            keys.iter().map(|key| known.contains(key)).collect()
        };
        if matches!(self.shared, Store::InProcess) {
            return finished;
        }
        let unknown: Vec<usize> = (0..keys.len()).filter(|n| !finished[*n]).collect();
        let asked: Vec<String> = unknown.iter().map(|n| self.shared_key(&keys[*n])).collect();
        for (n, found) in unknown.into_iter().zip(self.shared.has(&asked).await) {
            finished[n] = found;
        }
        finished
    }

    /// Notes that the recipients of `keys` have the card; whoever asks after this knows it.
    pub async fn finish(&self, keys: &[Key]) {
        {
            let mut known = self.finished();
            for key in keys {
                known.insert(*key);
            }
        }
        let shared: Vec<String> = keys.iter().map(|key| self.shared_key(key)).collect();
        self.shared.put(&shared, "1", self.ttl).await;
    }

    fn shared_key(&self, key: &Key) -> String {
        self.shared.key("ledger", key)
    }

    fn finished(&self) -> MutexGuard<'_, Recent> {
        self.finished.lock().unwrap_or_else(PoisonError::into_inner)
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
    use crate::store::redis_server::RedisServer;
    use crate::store::testing::store;

    fn settings() -> config::Ledger {
        Config::load(None, []).unwrap().ledger
    }

    fn ledger() -> Ledger {
        Ledger::new(&settings(), Store::InProcess)
    }

    /// What a ledger does wherever it keeps what it knows. `others` is that of another worker.
    async fn keeps_its_promise(ledger: &Ledger, others: &Ledger, shared: bool) {
        let [a, b, c] = ["a", "b", "c"].map(|name| key(&[name]));
        assert_eq!(ledger.are_finished(&[]).await, Vec::<bool>::new());
        ledger.finish(&[]).await;
        ledger.finish(&[a, c]).await;
        assert_eq!(ledger.are_finished(&[a, b, c]).await, [true, false, true]);
        assert_eq!(others.are_finished(&[b, c]).await, [false, shared]);
        others.finish(&[b]).await;
        assert_eq!(ledger.are_finished(&[c, b, a]).await, [true, shared, true]);
    }

    #[tokio::test]
    async fn only_who_was_noted_is_finished_in_process_in_redis_and_with_redis_away() {
        keeps_its_promise(&ledger(), &ledger(), false).await;

        let mut server = RedisServer::start();
        let stores = [store(&server.url()).await, store(&server.url()).await];
        let ledgers = || stores.clone().map(|store| Ledger::new(&settings(), store));
        let [one, other] = ledgers();
        keeps_its_promise(&one, &other, true).await;
        server.flush();
        assert_eq!(one.are_finished(&[key(&["a"]), key(&["b"])]).await, [true, false]);

        server.kill();
        let [one, other] = ledgers();
        keeps_its_promise(&one, &other, false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn in_process_a_recipient_is_forgotten_after_the_configured_time_or_behind_as_many_others() {
        let [a, b, c, d] = ["a", "b", "c", "d"].map(|name| key(&[name]));
        let settings = config::Ledger {
            ttl: Duration::from_secs(10),
            capacity: 3,
        };
        let ledger = Ledger::new(&settings, Store::InProcess);
        ledger.finish(&[a, b]).await;
        tokio::time::advance(Duration::from_secs(9)).await;
        ledger.finish(&[a]).await;
        assert_eq!(ledger.are_finished(&[a, b]).await, [true, true]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(ledger.are_finished(&[a, b]).await, [true, false]);
        ledger.finish(&[c, d]).await;
        assert_eq!(ledger.are_finished(&[a, b, c, d]).await, [true, false, true, true]);
        ledger.finish(&[b]).await;
        assert_eq!(ledger.are_finished(&[a, b, c, d]).await, [false, true, true, true]);
        let known = ledger.finished();
        assert_eq!((known.since.len(), known.oldest_first.len()), (3, 3));
    }

    #[tokio::test]
    async fn in_redis_a_recipient_is_forgotten_after_the_configured_time() {
        let server = RedisServer::start();
        let ledger = Ledger::new(&settings(), store(&server.url()).await);
        ledger.finish(&[key(&["a"])]).await;
        let name = ledger.shared_key(&key(&["a"]));
        let left: u128 = server.ask(&["PTTL", &name]).concat().parse().unwrap();
        assert!(left > 0 && left <= settings().ttl.as_millis(), "{left}");
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
