//! The shared store: what the workers of a fleet tell each other through Redis, where one is configured.
//!
//! Separate because the ledger, the user IDs, the token, the pace of calls and the month's count ask the same of it: a few
//! keys in one round trip, answered soon or not at all. Redis away means that nothing is shared, never that a caller fails: no question here ends in an
//! error, and while Redis is away none costs any time. One task owns the connection: each second, and whenever a question
//! was not answered, it looks whether Redis does all that is asked of it, and replaces a connection that does not. (The
//! `redis` crate's own connection manager tells nobody whether it is connected, and keeps a connection whose server has
//! gone silent.) It knows no meaning of a key or a value and logs neither, since one of them is an access token.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo as _, Pipeline, RedisError, RedisResult,
};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::config::{Config, ConfigError, ExposeSecret as _};
use crate::metrics::Metrics;

/// A question that is not answered by then is not answered at all.
const RESPONSE: Duration = Duration::from_millis(300);
/// For a connection with its greeting. A start waits once for it.
const CONNECT: Duration = Duration::from_secs(1);
/// How often the connection is looked at, and so the longest time that a Redis which is back goes unused.
const BEAT: Duration = Duration::from_secs(1);

/// A worker that was not seen for so long has left the fleet.
const PRESENCE: Duration = Duration::from_secs(5);
/// How long the larger fleet counts, after one was seen that is smaller: a Redis that lost its memory sees it come back
/// one by one.
const FLEET_MEMORY: Duration = Duration::from_secs(15);
/// All workers notice within this time that Redis is back.
const SETTLING: Duration = Duration::from_secs(4);

/// Notes the worker ARGV[1] as present for ARGV[2] microseconds, by the server's clock; how many are.
const PRESENT: &str = "local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2] / 1000)
return redis.call('ZCARD', KEYS[1])";

/// Deletes a key that still has the value.
const REMOVE_IF: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// Where workers share what they know.
#[derive(Debug, Clone)]
pub enum Store {
    /// Nowhere: every key is absent.
    InProcess,
    /// In Redis, as far as it can be reached.
    Redis(Arc<Redis>),
}

/// A Redis that comes and goes.
pub struct Redis {
    namespace: String,
    /// This worker's name in the fleet.
    member: String,
    state: Mutex<State>,
    fleet: Mutex<Fleet>,
    doubted: Arc<Notify>,
    metrics: Arc<Metrics>,
}

/// What is known of the workers that share the store.
#[derive(Default)]
struct Fleet {
    /// How many there are, and when so many were seen last.
    size: Option<(usize, Instant)>,
    /// When the store came back after it had been away.
    back: Option<Instant>,
}

#[derive(Clone)]
enum State {
    /// Nothing was tried yet.
    Starting,
    Up(MultiplexedConnection),
    /// A question was not answered: nobody asks until the connection has proved itself.
    Doubted(MultiplexedConnection),
    Away,
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
        let settings = url.expose_secret().into_connection_info().map(|info| {
            // Many small questions on one connection must not wait for each other.
            info.set_tcp_settings(TcpSettings::default().set_nodelay(true))
        });
        let client = settings.and_then(Client::open).map_err(|_| {
            // The error itself says less, and where it says more it could repeat the password.
            ConfigError::single(
                "redis.url",
                "redis[s]://[USER][:PASSWORD@]HOST[:PORT][/DATABASE] is needed",
            )
        })?;
        metrics.expect_redis();
        let redis = Arc::new(Redis {
            namespace: config.amqp.namespace.clone(),
            member: uuid::Uuid::new_v4().to_string(),
            state: Mutex::new(State::Starting),
            fleet: Mutex::default(),
            doubted: Arc::default(),
            metrics: metrics.clone(),
        });
        let (tried, first_try) = oneshot::channel();
        tokio::spawn(keep(Arc::downgrade(&redis), client, tried));
        // Its other end is dropped only after it was used.
        let _tried = first_try.await;
        Ok(Self::Redis(redis))
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
            let answer = redis.ask(redis::pipe().cmd("MGET").arg(keys)).await;
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
        redis.tell(&entries).await;
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

    /// Adds to the number `key`, which lives for `ttl` from now, and gives the sum.
    pub async fn add(&self, key: &str, amount: u64, ttl: Duration) -> Option<u64> {
        let Self::Redis(redis) = self else { return None };
        let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        let mut question = redis::pipe();
        question.cmd("INCRBY").arg(key).arg(amount);
        question.cmd("PEXPIRE").arg(key).arg(ttl).ignore();
        redis.ask::<(u64,)>(&question).await.map(|(sum,)| sum)
    }

    /// Whether the workers share what they know just now.
    #[must_use]
    pub fn serves(&self) -> bool {
        matches!(self, Self::Redis(redis) if matches!(&*redis.state(), State::Up(_)))
    }

    /// How many workers share the store, as far as was seen of late; `None` where none was seen ever.
    #[must_use]
    pub fn fleet(&self) -> Option<usize> {
        match self {
            Self::InProcess => None,
            Self::Redis(redis) => redis.fleet_state().size.map(|(size, _)| size),
        }
    }

    /// Whether the store is back for so short a time that others may not have noticed.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        match self {
            Self::InProcess => false,
            Self::Redis(redis) => redis.fleet_state().back.is_some_and(|back| back.elapsed() < SETTLING),
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

    /// Gives a lease back.
    pub async fn end(&self, lease: Lease) {
        if let Lease::Mine { key, holder } = lease {
            self.remove_if(&key, &holder).await;
        }
    }
}

impl Redis {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fleet_state(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many workers were present just now.
    fn saw(&self, present: usize) {
        let mut fleet = self.fleet_state();
        let outdated = fleet
            .size
            .is_none_or(|(size, at)| present >= size || at.elapsed() >= FLEET_MEMORY);
        if outdated {
            fleet.size = Some((present, Instant::now()));
        }
    }

    /// Whether it serves, as far as is known.
    fn is_up(&self) -> bool {
        matches!(&*self.state(), State::Up(_) | State::Doubted(_))
    }

    /// An answer, or none where Redis gives none; then nobody asks again until the connection has proved itself.
    async fn ask<T: FromRedisValue>(&self, question: &Pipeline) -> Option<T> {
        let State::Up(mut connection) = self.state().clone() else {
            return None;
        };
        let answer = question.query_async(&mut connection).await;
        if let Err(error) = &answer {
            tracing::debug!(why = describe(error), "a question to redis came to nothing");
            let mut state = self.state();
            if let State::Up(connection) = &*state {
                *state = State::Doubted(connection.clone());
                self.doubted.notify_one();
            }
        }
        answer.ok()
    }

    async fn tell(&self, commands: &Pipeline) {
        let _told: Option<()> = self.ask(commands).await;
    }

    /// Proves the connection, or replaces it.
    async fn beat(&self, client: &Client) {
        let probe = self.probe();
        let before = self.state().clone();
        if let State::Up(connection) | State::Doubted(connection) = &before
            && let Ok(present) = serves(connection.clone(), &probe).await
        {
            self.saw(present);
            // One answer can be late on a busy machine; that is nothing to tell.
            *self.state() = State::Up(connection.clone());
            return;
        }
        match (connect(client, &probe).await, before) {
            (Ok((connection, present)), before) => {
                self.saw(present);
                if matches!(before, State::Away) {
                    self.fleet_state().back = Some(Instant::now());
                }
                *self.state() = State::Up(connection);
                self.metrics.redis_connected.set(1);
                match before {
                    State::Starting => tracing::info!("redis is connected"),
                    State::Away => tracing::info!("redis is back"),
                    State::Up(_) | State::Doubted(_) => tracing::debug!("the connection to redis was replaced"),
                }
            }
            (Err(_), State::Away) => {}
            (Err(error), _) => {
                *self.state() = State::Away;
                self.metrics.redis_connected.set(0);
                let why = describe(&error);
                tracing::warn!(why, "redis is away: jobs go on, with what this worker knows by itself");
            }
        }
    }

    /// Every command that is used, and the worker's presence: a server that is full, read-only or refuses one of them is as
    /// good as away.
    fn probe(&self) -> Pipeline {
        let key = format!("{}:probe", self.namespace);
        let mut probe = redis::pipe();
        probe.cmd("SET").arg(&key).arg("1").arg("PX").arg(1000).ignore();
        probe.cmd("GET").arg(&key).ignore();
        probe.cmd("MGET").arg(&key).ignore();
        probe.cmd("PTTL").arg(&key).ignore();
        probe.cmd("INCRBY").arg(&key).arg(0).ignore();
        probe.add_command(remove_if(&key, "1")).ignore();
        probe
            .cmd("EVAL")
            .arg(PRESENT)
            .arg(1)
            .arg(format!("{}:fleet", self.namespace))
            .arg(&self.member)
            .arg(u64::try_from(PRESENCE.as_micros()).unwrap_or(u64::MAX));
        probe
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

/// Keeps a connection until nobody has the store any more.
async fn keep(redis: Weak<Redis>, client: Client, tried: oneshot::Sender<()>) {
    let mut tried = Some(tried);
    while let Some(redis) = redis.upgrade() {
        redis.beat(&client).await;
        if let Some(tried) = tried.take() {
            // Whoever waits for it may have been given up.
            let _heard = tried.send(());
        }
        let doubted = redis.doubted.clone();
        drop(redis);
        // Both ways of ending are a reason to look again.
        let _either = tokio::time::timeout(BEAT, doubted.notified()).await;
    }
}

async fn connect(client: &Client, probe: &Pipeline) -> RedisResult<(MultiplexedConnection, usize)> {
    let times = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT))
        .set_response_timeout(Some(RESPONSE));
    let connection = client.get_multiplexed_async_connection_with_config(&times).await?;
    let present = serves(connection.clone(), probe).await?;
    Ok((connection, present))
}

/// How many workers are present, where Redis does all that is asked of it.
async fn serves(mut connection: MultiplexedConnection, probe: &Pipeline) -> RedisResult<usize> {
    let (present,) = probe.query_async(&mut connection).await?;
    Ok(present)
}

fn remove_if(key: &str, value: &str) -> redis::Cmd {
    let mut command = redis::cmd("EVAL");
    command.arg(REMOVE_IF).arg(1).arg(key).arg(value);
    command
}

/// What an error says but for a server's own words: they can repeat the command, with its token or password.
fn describe(error: &RedisError) -> String {
    if error.is_io_error() {
        return error.to_string();
    }
    let code = error.code().unwrap_or_default();
    format!("{} {code}", error.category()).trim().to_owned()
}

#[cfg(test)]
#[path = "../tests/it/redis_server.rs"]
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
            store.put(&key, "1", CONNECT).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;

    use super::redis_server::RedisServer;
    use super::testing::{back, store, store_with};
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
    async fn away_nothing_is_there_and_nobody_is_asked_and_back_it_serves() {
        let mut server = RedisServer::start();
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let store = store_with(&server.url(), &metrics).await;
        assert_eq!(metrics.redis_connected.get(), 1);
        server.kill();
        let key = store.key("kind", b"id");
        store.put(from_ref(&key), "value", MINUTE).await;
        assert_eq!(store.get(&key).await, None);
        while metrics.redis_connected.get() != 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(store.lease("t:lease", MINUTE).await, Lease::Unshared);
        assert_eq!(Store::InProcess.lease("t:lease", MINUTE).await, Lease::Unshared);
        server.restart();
        back(&store).await;
        assert_eq!(metrics.redis_connected.get(), 1);
    }

    #[tokio::test]
    async fn frozen_it_costs_one_wait_and_then_none() {
        let server = RedisServer::start();
        let store = store(&server.url()).await;
        server.pause();
        let key = store.key("kind", b"id");
        assert_eq!(store.get(&key).await, None);
        // Answered without waiting for anybody.
        for _ in 0..1000 {
            let mut question = Box::pin(store.get(&key));
            assert!(futures_util::poll!(&mut question).is_ready());
        }
        server.resume();
        back(&store).await;
    }

    #[tokio::test]
    async fn a_start_does_not_need_it() {
        let mut server = RedisServer::reserve();
        let store = store(&server.url()).await;
        assert_eq!(store.get("t:kind:id").await, None);
        server.restart();
        back(&store).await;
    }

    #[tokio::test]
    async fn a_server_that_does_not_do_all_that_is_needed_is_as_good_as_away() {
        let server = RedisServer::start();
        server.ask(&["CONFIG", "SET", "requirepass", "s3cret"]);
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let _store = store_with(&server.url(), &metrics).await;
        assert_eq!(metrics.redis_connected.get(), 0);
        let url = server.url().replace("//", "//:s3cret@");
        let _store = store_with(&url, &metrics).await;
        assert_eq!(metrics.redis_connected.get(), 1);
    }

    #[tokio::test]
    async fn a_url_that_names_no_redis_is_a_fault_of_the_settings_and_shows_no_password() {
        let metrics = Arc::new(Metrics::new(&["default"]).unwrap());
        let env = [(
            "DINGCARD_REDIS__URL".to_owned(),
            "redis://:s3cret@host/words".to_owned(),
        )];
        let config = Config::load(None, env).unwrap();
        let fault = Store::connect(&config, &metrics).await.unwrap_err();
        assert_eq!(fault.problems[0].key, "redis.url");
        assert!(!fault.to_string().contains("s3cret"), "{fault}");
        assert!(!metrics.page().unwrap().contains("dingcard_redis_connected"));
    }

    #[tokio::test]
    async fn no_error_repeats_a_command() {
        let server = RedisServer::start();
        let client = Client::open(server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let error = redis::cmd("NO-SUCH")
            .arg("s3cret")
            .query_async::<()>(&mut connection)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("s3cret"), "as Redis says it");
        assert!(!describe(&error).contains("s3cret"), "{}", describe(&error));
    }

    #[tokio::test]
    async fn the_fleet_is_whoever_was_seen_of_late_and_is_remembered_while_redis_is_away() {
        let mut server = RedisServer::start();
        let one = store(&server.url()).await;
        assert_eq!((one.fleet(), Store::InProcess.fleet()), (Some(1), None));
        let other = store(&server.url()).await;
        assert_eq!(other.fleet(), Some(2));
        server.kill();
        while one.has(&["t:any".to_owned()]).await != [false] || other.fleet() != Some(2) {
            tokio::task::yield_now().await;
        }
        assert!(!other.is_settling());
        server.restart();
        back(&other).await;
        assert_eq!(
            other.fleet(),
            Some(2),
            "alone again on an empty Redis, but the others will come"
        );
    }

    #[tokio::test]
    async fn numbers_add_up_for_all() {
        let server = RedisServer::start();
        let (one, other) = (store(&server.url()).await, store(&server.url()).await);
        assert_eq!(one.add("t:count", 2, MINUTE).await, Some(2));
        assert_eq!(other.add("t:count", 3, MINUTE).await, Some(5));
        assert_eq!(Store::InProcess.add("t:count", 3, MINUTE).await, None);
        assert_eq!(one.run::<u64>("return ARGV[1] + 1", &[], &[41]).await, Some(42));
    }

    #[test]
    fn digests_differ_however_the_parts_are_cut() {
        assert_ne!(digest(&["ab", "c"]), digest(&["a", "bc"]));
        assert_ne!(digest(&["a"]), digest(&["a", ""]));
        assert_eq!(digest(&["a", "b"]), digest(&["a", "b"]));
    }
}
