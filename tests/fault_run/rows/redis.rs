//! A Redis that the workers share goes, is silent, or forgets: slower, never wrong.
//!
//! While it is in trouble, jobs that were delivered before are published again: whether they are known when their turn
//! comes depends on what was forgotten and on which worker gets them; that nobody sees a second card does not.

use std::time::{Duration, Instant};

use super::{Row, row};
use crate::redis_server::RedisServer;
use crate::stage::{Stage, WORKERS};

pub(super) const ROWS: &[Row] = &[
    row(
        "redis-killed",
        "the Redis that the workers share killed for a while; goes on meanwhile, duplicates 0",
        killed,
    ),
    row(
        "redis-frozen",
        "the same silent for 5 s; goes on meanwhile, duplicates 0",
        frozen,
    ),
    row(
        "redis-flushed",
        "the same emptied again and again; goes on meanwhile, duplicates 0",
        flushed,
    ),
];

/// How long the row's jobs take, so that there are some before, while and after.
const BESIDES: Duration = Duration::from_secs(4);
const CONNECTED: &str = "dingcard_redis_connected";

fn killed(stage: &mut Stage) -> Result<(), String> {
    let outage = stage.run.outage(30);
    away(stage, outage, RedisServer::kill, RedisServer::restart)
}

fn frozen(stage: &mut Stage) -> Result<(), String> {
    let frozen = Duration::from_secs(5);
    away(stage, frozen, |redis| redis.pause(), |redis| redis.resume())
}

/// Redis is away for a time, in one way or another.
fn away(
    stage: &mut Stage,
    time: Duration,
    take: impl Fn(&mut RedisServer),
    give: impl Fn(&mut RedisServer),
) -> Result<(), String> {
    let mut redis = begin(stage, time)?;
    take(&mut redis);
    let begun = Instant::now();
    seen(stage, 0.0)?;
    let before = stage.delivered()?;
    again(stage)?;
    stage.last(time.saturating_sub(begun.elapsed()));
    let meanwhile = stage.delivered()? - before;
    give(&mut redis);
    let mended = Instant::now();
    let back = seen(stage, 1.0)?;
    stage.resumed(back.saturating_duration_since(mended));
    let known = entries(&redis)?;
    stage.settle()?;
    let told = entries(&redis)?.saturating_sub(known);
    stage.demand(told > 0, || "nothing was shared any more once it was back".to_owned());
    stage.note(format!(
        "{meanwhile} delivered while it was away, {told} entries after it was back"
    ));
    goes_on(stage, meanwhile, time);
    Ok(())
}

fn flushed(stage: &mut Stage) -> Result<(), String> {
    let time = stage.run.outage(30);
    let redis = begin(stage, time)?;
    let before = stage.delivered()?;
    again(stage)?;
    let begun = Instant::now();
    let (mut times, mut forgotten) = (0, 0);
    while begun.elapsed() < time {
        forgotten += entries(&redis)?;
        redis.flush();
        times += 1;
        stage.last(Duration::from_millis(500));
    }
    let meanwhile = stage.delivered()? - before;
    stage.settle()?;
    stage.note(format!(
        "emptied {times} times of {forgotten} entries, {meanwhile} delivered meanwhile"
    ));
    stage.demand(forgotten > 0, || {
        "nothing was shared that could be forgotten".to_owned()
    });
    goes_on(stage, meanwhile, time);
    Ok(())
}

/// Workers that share a Redis and have delivered some of the jobs; the others take longer than its trouble.
fn begin(stage: &mut Stage, trouble: Duration) -> Result<RedisServer, String> {
    let redis = stage.share_redis();
    stage.stretch(trouble + BESIDES)?;
    stage.start_workers()?;
    seen(stage, 1.0)?;
    stage.publish_all()?;
    stage.wait_share(0.1)?;
    Ok(redis)
}

/// Waits until every worker sees Redis there (1) or away (0).
fn seen(stage: &mut Stage, state: f64) -> Result<Instant, String> {
    stage.wait("every worker to see Redis come or go", |stage| {
        let all = stage.sum(CONNECTED, &[]) == state * WORKERS as f64;
        all.then(Instant::now)
    })
}

/// Publishes some jobs again that have been delivered.
fn again(stage: &mut Stage) -> Result<(), String> {
    let copies: Vec<_> = (0..stage.run.jobs / 20).map(Stage::job).collect();
    stage.publish(&copies)
}

fn entries(redis: &RedisServer) -> Result<u64, String> {
    let size = redis.ask(&["DBSIZE"]).concat();
    size.parse().map_err(|_| format!("redis-server: DBSIZE: {size}"))
}

/// A tenth of the jobs, or fifty a second, is far below the pace; a busy machine slows everything down.
fn goes_on(stage: &mut Stage, meanwhile: u64, trouble: Duration) {
    let due = (stage.run.jobs as u64 / 10).min(50 * trouble.as_secs());
    stage.demand(meanwhile >= due, || {
        format!("only {meanwhile} delivered while Redis was in trouble, at least {due} expected")
    });
}
