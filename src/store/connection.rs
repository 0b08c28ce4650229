//! The one connection to Redis: kept, proved, replaced, and what it shows of the fleet.
//!
//! Separate from what is asked through it because one task owns it: each second, and whenever a question was not answered,
//! it looks whether Redis does all that is asked of it, and replaces a connection that does not. (The `redis` crate's own
//! connection manager tells nobody whether it is connected, and keeps a connection whose server has gone silent.) It knows
//! no key but its own two.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{
    AsyncConnectionConfig, Client, FromRedisValue, IntoConnectionInfo as _, Pipeline, RedisError, RedisResult,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::config::{ConfigError, ExposeSecret as _, SecretString};
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

/// Notes the worker `ARGV[1]` as present for `ARGV[2]` microseconds, by the server's clock; how many are.
const PRESENT: &str = "local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[2] / 1000)
return redis.call('ZCARD', KEYS[1])";

/// Deletes a key that still has the value.
const REMOVE_IF: &str = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0";

/// A Redis that comes and goes.
pub struct Redis {
    pub(super) namespace: String,
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

impl Fleet {
    /// So many workers were present just now.
    fn saw(&mut self, present: usize) {
        let outdated = self
            .size
            .is_none_or(|(size, at)| present >= size || at.elapsed() >= FLEET_MEMORY);
        if outdated {
            self.size = Some((present, Instant::now()));
        }
    }

    /// The store is back. Who finds it first is alone there, so nobody is counted yet, and the fleet from before counts as
    /// seen just now, however long the store was away.
    fn came_back(&mut self) {
        let now = Instant::now();
        self.back = Some(now);
        if let Some((_, seen)) = &mut self.size {
            *seen = now;
        }
    }
}

#[derive(Clone)]
enum State {
    /// Nothing was tried yet.
    Starting,
    Up(MultiplexedConnection),
    /// A question was not answered: nobody asks until the connection has proved itself.
    Doubted(MultiplexedConnection),
    /// And why.
    Away(String),
}

impl Redis {
    /// The Redis at `url`. Waits for the first try to connect and no longer.
    pub(super) async fn connect(
        url: &SecretString,
        namespace: &str,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, ConfigError> {
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
        let redis = Arc::new(Self {
            namespace: namespace.to_owned(),
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
        Ok(redis)
    }

    /// Whether questions are answered, as far as is known.
    pub(super) fn serves(&self) -> bool {
        matches!(&*self.state(), State::Up(_))
    }

    /// Why it is away.
    pub(super) fn trouble(&self) -> Option<String> {
        match &*self.state() {
            State::Away(why) => Some(why.clone()),
            State::Starting | State::Up(_) | State::Doubted(_) => None,
        }
    }

    /// How many workers share it, as far as was seen of late.
    pub(super) fn fleet(&self) -> Option<usize> {
        self.fleet_state().size.map(|(size, _)| size)
    }

    /// Whether it is back for so short a time that others may not have noticed.
    pub(super) fn is_settling(&self) -> bool {
        self.fleet_state().back.is_some_and(|back| back.elapsed() < SETTLING)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fleet_state(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it serves, or may: an answer was late.
    pub(super) fn is_up(&self) -> bool {
        matches!(&*self.state(), State::Up(_) | State::Doubted(_))
    }

    /// An answer, or none where Redis gives none; then nobody asks again until the connection has proved itself.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Pipeline) -> Option<T> {
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

    pub(super) async fn tell(&self, commands: &Pipeline) {
        let _told: Option<()> = self.ask(commands).await;
    }

    /// Proves the connection, or replaces it.
    async fn beat(&self, client: &Client) {
        let probe = self.probe();
        let before = self.state().clone();
        if let State::Up(connection) | State::Doubted(connection) = &before
            && let Ok(present) = serves(connection.clone(), &probe).await
        {
            self.fleet_state().saw(present);
            // One answer can be late on a busy machine; that is nothing to tell.
            *self.state() = State::Up(connection.clone());
            return;
        }
        match (connect(client, &probe).await, before) {
            (Ok((connection, present)), before) => {
                if matches!(before, State::Away(_)) {
                    self.fleet_state().came_back();
                } else {
                    self.fleet_state().saw(present);
                }
                *self.state() = State::Up(connection);
                self.metrics.redis_connected.set(1);
                match before {
                    State::Starting => tracing::info!("redis is connected"),
                    State::Away(_) => tracing::info!("redis is back"),
                    State::Up(_) | State::Doubted(_) => tracing::debug!("the connection to redis was replaced"),
                }
            }
            (Err(_), State::Away(_)) => {}
            (Err(error), _) => {
                let why = describe(&error);
                *self.state() = State::Away(why.clone());
                self.metrics.redis_connected.set(0);
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

/// Deletes a key that still has the value.
pub(super) fn remove_if(key: &str, value: &str) -> redis::Cmd {
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
#[allow(clippy::unwrap_used)]
mod tests {
    use std::slice::from_ref;

    use super::super::redis_server::RedisServer;
    use super::super::testing::{back, store, store_with};
    use super::super::{Lease, Store};
    use super::*;
    use crate::config::Config;

    const MINUTE: Duration = Duration::from_mins(1);

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

    #[tokio::test(start_paused = true)]
    async fn whoever_is_first_on_a_store_that_was_away_for_long_does_not_take_itself_for_the_fleet() {
        let mut fleet = Fleet::default();
        let size = |fleet: &Fleet| fleet.size.map(|(size, _)| size);
        fleet.saw(8);
        tokio::time::advance(FLEET_MEMORY * 2).await;
        fleet.came_back();
        fleet.saw(1);
        assert_eq!(size(&fleet), Some(8));
        tokio::time::advance(FLEET_MEMORY).await;
        fleet.saw(3);
        assert_eq!(size(&fleet), Some(3), "the others did not come");
        let mut unseen = Fleet::default();
        unseen.came_back();
        assert_eq!(size(&unseen), None, "the others are still to come");
    }
}
