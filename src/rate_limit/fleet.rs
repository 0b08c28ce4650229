//! The pace of a whole fleet: one slot a call, given out by Redis and its clock.
//!
//! Separate because it is the only part of the limit that asks somebody else. Slots stand at even distances and are given
//! out one by one, so the workers together call as evenly as one worker would. It keeps no time here and decides nothing:
//! who of this worker gets a slot, and what happens without an answer, is the limiter's business.

use std::time::Duration;

use tokio::time::Instant;

use crate::store::Store;

/// What is left of the rate: DingTalk counts in any second, and calls are on their way for different times. At 20 a second
/// twenty slots last a hundredth longer than a second, so that one late call does not make the next one too many.
const HEADROOM: f64 = 0.99;

/// Gives the next slot: `{1, microseconds until it}`, or `{0, microseconds}` where an urgent caller goes first.
///
/// KEYS: when the next slot is; until when urgent callers go first. ARGV: the distance of slots in microseconds; 1 for
/// urgent. A slot far away is not believed: then the server's clock was set back.
const SLOT: &str = "local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local function set(key, value)
  redis.call('SET', key, string.format('%.0f', value), 'PX', math.ceil((value - now) / 1000) + 1000)
end
local urgent_until = tonumber(redis.call('GET', KEYS[2])) or 0
if ARGV[2] == '0' and urgent_until > now and urgent_until < now + 600000000 then
  return {0, urgent_until - now}
end
local slot = tonumber(redis.call('GET', KEYS[1])) or 0
if slot < now or slot > now + 600000000 then slot = now end
set(KEYS[1], slot + ARGV[1])
if ARGV[2] == '1' then set(KEYS[2], slot + ARGV[1] / 2) end
return {1, slot - now}";

/// Moves the next slot after a throttle answer by the time that DingTalk named. Where it named none, up to half of a
/// second's calls are taken for late ones that met punctual ones: such a call has lost its slot, and that is room enough.
/// With more of them in a second the next slot moves by one slot, doubled with each answer that comes within a second of the
/// one before, up to a second.
///
/// KEYS: when the next slot is; how many answers came. ARGV: the distance of slots; the named time or 0, in microseconds.
const THROTTLED: &str = "local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local slot = math.max(tonumber(redis.call('GET', KEYS[1])) or 0, now)
local named = tonumber(ARGV[2])
if named > 0 then
  slot = math.max(slot, now + named)
else
  local before = tonumber(redis.call('GET', KEYS[2])) or 0
  local late = math.max(1, math.floor(500000 / ARGV[1]))
  if before > 0 and before < late then
    redis.call('SET', KEYS[2], before + 1, 'KEEPTTL')
  else
    redis.call('SET', KEYS[2], math.min(before + 1, late + 20), 'PX', 1000)
  end
  if before < late then return 1 end
  slot = slot + math.min(ARGV[1] * 2 ^ (before - late), 1000000)
end
redis.call('SET', KEYS[1], string.format('%.0f', slot), 'PX', math.ceil((slot - now) / 1000) + 1000)
return 1";

/// One limit as all workers share it.
#[derive(Debug)]
pub(super) struct Fleet {
    store: Store,
    slot: String,
    urgent: String,
    throttled: String,
}

/// An answer of Redis.
pub(super) enum Turn {
    /// This caller may call then.
    At(Instant),
    /// An urgent caller of the fleet goes first; ask again then.
    After(Instant),
}

impl Fleet {
    /// The limit `name` of `app`, where the store is shared.
    pub(super) fn new(store: &Store, app: &str, name: &str) -> Option<Self> {
        matches!(store, Store::Redis(_)).then(|| Self {
            slot: store.hidden_key("slot", &[app, name]),
            urgent: store.hidden_key("urgent", &[app]),
            throttled: store.hidden_key("throttled", &[app, name]),
            store: store.clone(),
        })
    }

    /// A slot at `rate` calls a second, which is the caller's alone; `None` where Redis gives none.
    pub(super) async fn turn(&self, rate: f64, urgent: bool) -> Option<Turn> {
        let keys = [self.slot.as_str(), &self.urgent];
        let arguments = [distance(rate), u64::from(urgent)];
        let (given, wait): (u8, u64) = self.store.run(SLOT, &keys, &arguments).await?;
        let at = Instant::now() + Duration::from_micros(wait);
        Some(if given == 1 { Turn::At(at) } else { Turn::After(at) })
    }

    /// All workers wait for what DingTalk named, or slow down. Whether they were told.
    pub(super) async fn throttled(&self, rate: f64, wait: Option<Duration>) -> bool {
        let keys = [self.slot.as_str(), &self.throttled];
        let named = u64::try_from(wait.unwrap_or_default().as_micros()).unwrap_or(u64::MAX);
        let told: Option<u8> = self.store.run(THROTTLED, &keys, &[distance(rate), named]).await;
        told.is_some()
    }

    /// What this worker takes of `rate` while Redis is away: its share of the fleet that was seen last, or one a second
    /// where none was seen.
    pub(super) fn share(&self, rate: f64) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a fleet has not that many workers")]
        self.store
            .fleet()
            .map_or(rate.min(1.0), |size| rate * HEADROOM / size.max(1) as f64)
    }

    /// Whether Redis gives out slots, as far as is known.
    pub(super) fn serves(&self) -> bool {
        self.store.serves()
    }

    /// Whether Redis is back for so short a time that others may not have noticed: until they have, shares go on.
    pub(super) fn is_settling(&self) -> bool {
        self.store.is_settling()
    }
}

/// The distance of slots in microseconds.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is 0.01 to 10,000"
)]
fn distance(rate: f64) -> u64 {
    (1_000_000.0 / (rate * HEADROOM)).ceil() as u64
}
