//! The pace of a fleet, from the sandbox's own log of arrivals: workers come and go, and Redis does.
//!
//! Calls are counted in sliding windows of one second, whole calls, refused ones too. What must not be passed is demanded
//! at any length; what must be reached only of the long form, because a busy machine takes from it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Row, row};
use crate::redis_server::RedisServer;
use crate::stage::{Arrival, Stage, most_in_a_second};
use crate::wire;

pub(super) const ROWS: &[Row] = &[
    row(
        "fleet-15",
        "8, 2 and 8 workers at 15 a second: 98 % of it used, never over 20 in a second, at most 0.1 % refused",
        |stage| fleet(stage, 15),
    ),
    row(
        "fleet-20",
        "the same at 20, which is all that the sandbox takes: 98 % used, no refusal costs an attempt",
        |stage| fleet(stage, 20),
    ),
    row(
        "redis-lost-15",
        "8 workers at 15 a second, their Redis killed and back: never over 1.1 times that in a second, 90 % used",
        |stage| redis_lost(stage, 15),
    ),
];

/// Those that the short form leaves out.
pub(super) const LONG: &[Row] = &[row(
    "redis-lost-20",
    "the same at 20, which is all that the sandbox takes",
    |stage| redis_lost(stage, 20),
)];

/// What DingTalk lets an app call one API in a second.
const ALLOWED: u64 = 20;
const WORKERS: usize = 8;
const FEW: usize = 2;
/// Of each worker, so that nobody waits long for those who stop.
const PREFETCH: &str = "4";
/// More work than the steady parts need: for what the workers do while they start, stop, and notice.
const BESIDES: u64 = 20;

/// A time in which nothing was changed.
struct Steady {
    name: String,
    from_ms: u64,
    to_ms: u64,
}

impl Steady {
    /// The part of the rate that was used: calls that were taken.
    fn usage(&self, arrivals: &[Arrival], rate: u64) -> f64 {
        let within = |a: &&Arrival| !a.throttled && (self.from_ms..self.to_ms).contains(&a.at_ms);
        let taken = arrivals.iter().filter(within).count() as f64;
        taken * 1000.0 / ((self.to_ms - self.from_ms) as f64 * rate as f64)
    }
}

fn fleet(stage: &mut Stage, rate: u64) -> Result<(), String> {
    let time = if stage.run.small { 4 } else { 60 };
    let _redis = begin(stage, rate, 3 * time + BESIDES)?;
    let mut steady = vec![unchanged(stage, WORKERS, "", time)?];
    stage.stop_last(WORKERS - FEW)?;
    steady.push(unchanged(stage, FEW, "", time)?);
    stage.add_workers(WORKERS - FEW)?;
    steady.push(unchanged(stage, WORKERS, "", time)?);
    let arrivals = told(stage, rate, &steady, 98.0)?;
    let refused = arrivals.iter().filter(|a| a.throttled).count();
    if rate < ALLOWED {
        let most = most_in_a_second(&arrivals) as u64;
        stage.demand(most <= ALLOWED, || {
            format!("{most} calls in a second, {ALLOWED} allowed")
        });
        stage.demand(refused * 1000 <= arrivals.len(), || {
            format!("{refused} of {} calls refused", arrivals.len())
        });
    }
    finish(stage)
}

fn redis_lost(stage: &mut Stage, rate: u64) -> Result<(), String> {
    // In the long form longer than a worker remembers a fleet that it does not see.
    let (time, away) = if stage.run.small { (3, 5) } else { (30, 40) };
    let mut redis = begin(stage, rate, 2 * time + away + BESIDES)?;
    let mut steady = vec![unchanged(stage, WORKERS, "with Redis", time)?];
    redis.kill();
    steady.push(unchanged(stage, WORKERS, "without", away)?);
    redis.restart();
    // The fleet settles within this, too.
    steady.push(unchanged(stage, WORKERS, "with it again", time.max(6))?);
    let arrivals = told(stage, rate, &steady, 90.0)?;
    // Two calls that a busy machine held up for a moment are over 1.1 times 15 already; the short form takes DingTalk's word.
    let bound = if stage.run.small { ALLOWED } else { rate * 11 / 10 };
    let most = most_in_a_second(&arrivals) as u64;
    stage.demand(most <= bound, || format!("{most} calls in a second, {bound} at most"));
    finish(stage)
}

/// Eight workers on one Redis, with work for so many seconds.
fn begin(stage: &mut Stage, rate: u64, seconds: u64) -> Result<RedisServer, String> {
    let redis = stage.share_redis();
    stage.set("APPS__DEFAULT__RATE_PER_SECOND", &rate.to_string());
    stage.set("AMQP__PREFETCH", PREFETCH);
    // An attempt that is burnt is the last, and buries its job.
    stage.set("RETRY__MAX_ATTEMPTS", "1");
    stage.faults(&json!([{"kind": "throttle", "on": true, "per_second": ALLOWED}]))?;
    let jobs: Vec<Value> = (0..rate * seconds).map(job).collect();
    stage.publish(&jobs)?;
    stage.add_workers(WORKERS)?;
    Ok(redis)
}

/// The rest of the work without a limit: its end is judged, not its pace.
fn finish(stage: &mut Stage) -> Result<(), String> {
    stage.stop_last(WORKERS)?;
    stage.set("APPS__DEFAULT__RATE_PER_SECOND", "0");
    stage.faults(&json!([]))?;
    stage.add_workers(FEW)?;
    stage.settle()
}

/// A job whose only call is for its card.
fn job(number: u64) -> Value {
    let id = format!("job-{number}");
    json!({"id": id, "to": [{"user_id": format!("user{number}x")}], "params": {"job": id}})
}

/// Nothing is changed for a while; there must be work to the end.
fn unchanged(stage: &mut Stage, workers: usize, name: &str, seconds: u64) -> Result<Steady, String> {
    let from_ms = stage.clock()?;
    stage.last(Duration::from_secs(seconds));
    let to_ms = stage.clock()?;
    let left = wire::waiting(stage.broker.url(), &[stage.queue("jobs")])?;
    stage.demand(left.iter().sum::<u32>() > 0, || {
        "the work ran out, so the rate was not to be reached".to_owned()
    });
    let name = format!("{workers} workers {name}").trim_end().to_owned();
    Ok(Steady { name, from_ms, to_ms })
}

/// Tells what was measured, and demands of the long form that each part used so many per cent.
fn told(stage: &mut Stage, rate: u64, steady: &[Steady], due: f64) -> Result<Vec<Arrival>, String> {
    let arrivals = stage.arrivals("createAndDeliver")?;
    for part in steady {
        let used = 100.0 * part.usage(&arrivals, rate);
        stage.note(format!("{}: {used:.1} %", part.name));
        let seen = stage.run.small || used >= due;
        stage.demand(seen, || format!("{}: {used:.1} % of {rate} a second used", part.name));
    }
    let refused = arrivals.iter().filter(|a| a.throttled).count();
    stage.note(format!("at most {} in a second", most_in_a_second(&arrivals)));
    stage.note(format!("{refused} of {} refused", arrivals.len()));
    Ok(arrivals)
}
