//! The shared store: what the workers of a fleet tell each other through Redis, where one is configured.
//!
//! Separate because the ledger, the user IDs, the token, the pace of calls and the month's count ask the same of it: a few
//! keys in one round trip, answered soon or not at all. Redis away means that nothing is shared, never that a caller
//! fails: no question here ends in an error, and while Redis is away none costs any time. It knows no meaning of a key or
//! a value and logs neither, since one of them is an access token.

mod connection;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::FromRedisValue;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

pub use self::connection::Redis;
use self::connection::remove_if;
use crate::config::{Config, ConfigError};
use crate::metrics::Metrics;

/// Where workers share what they know.
#[derive(Debug, Clone)]
pub enum Store {
    /// Nowhere: every key is absent.
    InProcess,
    /// In Redis, as far as it can be reached.
    Redis(Arc<Redis>),
}

/// Whether this worker may do what one worker at a time should do.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
pub enum Lease {
    /// It may, until it gives the lease back ([`Store::end`]).
    Mine {
        /// Where the lease is noted.
        key: String,
        /// By whom.
        holder: String,
    },
    /// Another worker does it now, or might.
    Theirs,
    /// Nobody can be asked, so each does it for itself.
    Unshared,
}

/// How long workers wait for one of them that makes what all need.
#[derive(Debug)]
pub struct Terms {
    /// Then its lease ends by itself: it may have died.
    pub ttl: Duration,
    /// Then each makes it for itself.
    pub patience: Duration,
    /// How often they look meanwhile.
    pub poll: Duration,
}

/// SHA-256 of `parts`, each with its length, so that no two lists give one digest.
#[must_use]
pub fn digest(parts: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

impl Store {
    /// The store that the settings name. Waits for the first try to connect and no longer: Redis may come later.
    ///
    /// # Errors
    /// Where `redis.url` is no URL of a Redis.
    pub async fn connect(config: &Config, metrics: &Arc<Metrics>) -> Result<Self, ConfigError> {
        let Some(url) = config.redis.url() else {
            return Ok(Self::InProcess);
        };
        let redis = Redis::connect(url, &config.amqp.namespace, metrics).await?;
        Ok(Self::Redis(redis))
    }

    /// Why nothing is shared at present, where a store is configured.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::InProcess => None,
            Self::Redis(redis) => redis.trouble(),
        }
    }

    /// The name of a value of `kind`.
    #[must_use]
    pub fn key(&self, kind: &str, id: &[u8]) -> String {
        match self {
            Self::InProcess => String::new(),
            Self::Redis(redis) => format!("{}:{kind}:{}", redis.namespace, URL_SAFE_NO_PAD.encode(id)),
        }
    }

    /// The same where the ID must not be read from the name.
    #[must_use]
    pub fn hidden_key(&self, kind: &str, parts: &[&str]) -> String {
        match self {
            Self::InProcess => String::new(),
            Self::Redis(redis) => {
                let parts: Vec<&str> = [redis.namespace.as_str()]
                    .into_iter()
                    .chain(parts.iter().copied())
                    .collect();
                self.key(kind, &digest(&parts))
            }
        }
    }

    /// Which of `keys` are there.
    pub async fn has(&self, keys: &[String]) -> Vec<bool> {
        let mut found = None;
        if let (Self::Redis(redis), false) = (self, keys.is_empty()) {
            let question = redis::pipe().cmd("MGET").arg(keys).clone();
            // Boxed, since without Redis all would carry its room.
            let answer = Box::pin(redis.ask(&question)).await;
            found = answer.map(|(values,): (Vec<Option<Vec<u8>>>,)| values.iter().map(Option::is_some).collect());
        }
        found.unwrap_or_else(|| vec![false; keys.len()])
    }

    /// The value of `key`, and how long it has still to live.
    pub async fn get(&self, key: &str) -> Option<(String, Duration)> {
        let Self::Redis(redis) = self else { return None };
        let question = redis::pipe().cmd("GET").arg(key).cmd("PTTL").arg(key).clone();
        let (value, left): (Option<String>, i64) = redis.ask(&question).await?;
        let left = u64::try_from(left).ok().filter(|left| *left > 0)?;
        Some((value?, Duration::from_millis(left)))
    }

    /// Gives each of `keys` the value, for `ttl`.
    pub async fn put(&self, keys: &[String], value: &str, ttl: Duration) {
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let (Self::Redis(redis), false, true) = (self, keys.is_empty(), ttl > 0) else {
            return;
        };
        let mut entries = redis::pipe();
        for key in keys {
            entries.cmd("SET").arg(key).arg(value).arg("PX").arg(ttl).ignore();
        }
        Box::pin(redis.tell(&entries)).await;
    }

    /// Removes `key` if it still has the value.
    pub async fn remove_if(&self, key: &str, value: &str) {
        if let Self::Redis(redis) = self {
            redis
                .tell(redis::pipe().add_command(remove_if(key, value)).ignore())
                .await;
        }
    }

    /// What a Lua script answers, run whole on the server and by its clock; `None` where Redis gives no answer.
    pub async fn run<T: FromRedisValue>(&self, script: &str, keys: &[&str], arguments: &[u64]) -> Option<T> {
        let Self::Redis(redis) = self else { return None };
        let mut question = redis::pipe();
        question
            .cmd("EVAL")
            .arg(script)
            .arg(keys.len())
            .arg(keys)
            .arg(arguments);
        redis.ask::<(T,)>(&question).await.map(|(answer,)| answer)
    }

    /// Whether the workers share what they know just now.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Redis(redis) if redis.serves())
    }

    /// How many workers share the store, as far as was seen of late; `None` where none was seen ever.
    #[must_use]
    pub fn fleet(&self) -> Option<usize> {
        match self {
            Self::InProcess => None,
            Self::Redis(redis) => redis.fleet(),
        }
    }

    /// Whether the store is back for so short a time that others may not have noticed.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        match self {
            Self::InProcess => false,
            Self::Redis(redis) => redis.is_settling(),
        }
    }

    /// Takes the lease `key`. It ends by itself after `ttl`, in case its holder does not end it.
    pub async fn lease(&self, key: &str, ttl: Duration) -> Lease {
        let Self::Redis(redis) = self else {
            return Lease::Unshared;
        };
        let holder = uuid::Uuid::new_v4().to_string();
        let mut question = redis::pipe();
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        question.cmd("SET").arg(key).arg(&holder).arg("NX").arg("PX").arg(ttl);
        match redis.ask::<(Option<String>,)>(&question).await {
            Some((Some(_),)) => Lease::Mine {
                key: key.to_owned(),
                holder,
            },
            Some((None,)) => Lease::Theirs,
            // Late is not away: it is worth another question.
            None if redis.is_up() => Lease::Theirs,
            None => Lease::Unshared,
        }
    }

    /// What `look` finds, now or while another worker makes it; else the right to make it, as far as it is one worker's.
    pub async fn found_or_lease<T, L>(&self, key: &str, terms: &Terms, look: impl Fn() -> L) -> Result<T, Lease>
    where
        L: Future<Output = Option<T>>,
    {
        let patience = Instant::now() + terms.patience;
        let mut lease = Lease::Theirs;
        loop {
            if let Some(found) = look().await {
                self.end(lease).await;
                return Ok(found);
            }
            if lease != Lease::Theirs || Instant::now() >= patience {
                return Err(lease);
            }
            lease = self.lease(key, terms.ttl).await;
            match lease {
                Lease::Theirs => tokio::time::sleep(terms.poll).await,
                // Its last holder may have made it since this worker looked.
                Lease::Mine { .. } => {}
                Lease::Unshared => return Err(lease),
            }
        }
    }

    /// Gives a lease back.
    pub async fn end(&self, lease: Lease) {
        if let Lease::Mine { key, holder } = lease {
            self.remove_if(&key, &holder).await;
        }
    }
}

#[cfg(test)]
#[path = "../../tests/it/redis_server.rs"]
pub(crate) mod redis_server;

/// Stores for the tests of what uses them.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod testing {
    use super::*;

    /// A store as a worker of namespace `t` makes it.
    pub(crate) async fn store(url: &str) -> Store {
        store_with(url, &Arc::new(Metrics::new(&["default"]).unwrap())).await
    }

    pub(crate) async fn store_with(url: &str, metrics: &Arc<Metrics>) -> Store {
        let env = [("REDIS__URL", url), ("AMQP__NAMESPACE", "t")];
        let env = env.map(|(key, value)| (format!("DINGCARD_{key}"), value.to_owned()));
        Store::connect(&Config::load(None, env).unwrap(), metrics)
            .await
            .unwrap()
    }

    /// Waits until a store that was away serves again.
    pub(crate) async fn back(store: &Store) {
        let key = [store.key("test", b"back")];
        while store.has(&key).await != [true] {
            store.put(&key, "1", Duration::from_secs(1)).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;

    use super::redis_server::RedisServer;
    use super::testing::store;
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[tokio::test]
    async fn what_one_worker_puts_another_gets_until_it_ends() {
        let server = RedisServer::start();
        let (one, other) = (store(&server.url()).await, store(&server.url()).await);
        let key = one.key("kind", b"id");
        one.put(from_ref(&key), "value", MINUTE).await;
        let (value, left) = other.get(&key).await.unwrap();
        assert!(value == "value" && left <= MINUTE && !left.is_zero());
        assert_eq!(
            other.has(&[one.key("kind", b"other"), key.clone()]).await,
            [false, true]
        );
        other.remove_if(&key, "another value").await;
        assert_eq!(one.has(from_ref(&key)).await, [true]);
        other.remove_if(&key, "value").await;
        assert_eq!(one.get(&key).await, None);
        assert!(key.starts_with("t:kind:"));
    }

    #[tokio::test]
    async fn a_lease_is_one_workers_until_it_gives_it_back() {
        let server = RedisServer::start();
        let (one, other) = (store(&server.url()).await, store(&server.url()).await);
        let lease = one.lease("t:lease", MINUTE).await;
        assert!(matches!(lease, Lease::Mine { .. }));
        assert_eq!(other.lease("t:lease", MINUTE).await, Lease::Theirs);
        one.end(lease).await;
        assert!(matches!(other.lease("t:lease", MINUTE).await, Lease::Mine { .. }));
    }

    #[tokio::test]
    async fn a_script_runs_on_the_server_or_not_at_all() {
        let server = RedisServer::start();
        let store = store(&server.url()).await;
        assert_eq!(store.run::<u64>("return ARGV[1] + 1", &[], &[41]).await, Some(42));
        assert_eq!(
            Store::InProcess.run::<u64>("return ARGV[1] + 1", &[], &[41]).await,
            None
        );
    }

    #[test]
    fn digests_differ_however_the_parts_are_cut() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a"]), digest(&["a", ""]));
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
    }
}
