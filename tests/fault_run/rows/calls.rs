//! As few calls as possible: recipients in one call, one token for a fleet, one look-up for a mobile.
//!
//! Calls are what DingTalk counts against an app, so each row counts those that the sandbox took in all.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Row, row};
use crate::stage::{Stage, mobile};

pub(super) const ROWS: &[Row] = &[
    row(
        "thousand",
        "one job to 1,000 recipients: 50 card calls, 1,000 delivered, each once",
        |stage| thousand(stage, &BTreeSet::new()),
    ),
    row(
        "thousand-30-unknown",
        "the same with 30 unknown mobiles: 970 delivered, one dead letter that names the 30",
        |stage| thousand(stage, &(0..30).map(|n| n * 33).collect()),
    ),
    row(
        "cold-start",
        "8 workers start at once, a token takes a second: one is fetched",
        |stage| cold_start(stage, true),
    ),
    row(
        "cold-start-no-redis",
        "the same without Redis: each worker fetches at most one",
        |stage| cold_start(stage, false),
    ),
    row(
        "look-ups",
        "ten jobs to each mobile, on 4 workers that share a Redis: one look-up a mobile in all",
        look_ups,
    ),
];

const RECIPIENTS: usize = 1000;
/// Of a call, as the workers are set unless told otherwise.
const IN_A_CALL: usize = 20;

fn thousand(stage: &mut Stage, unknown: &BTreeSet<usize>) -> Result<(), String> {
    stage.start_workers()?;
    // What ends in 0000 is unknown to the sandbox.
    let number = |n: usize| {
        if unknown.contains(&n) {
            format!("15{n:05}0000")
        } else {
            mobile(n)
        }
    };
    let to: Vec<Value> = (0..RECIPIENTS).map(|n| json!({"mobile": number(n)})).collect();
    stage.evidence.mobiles.extend((0..RECIPIENTS).map(number));
    let (id, due) = ("job-0", (RECIPIENTS - unknown.len()) as u64);
    stage.evidence.several.insert(id.to_owned(), due);
    if !unknown.is_empty() {
        stage.evidence.doomed.insert(id.to_owned());
    }
    stage.publish(&[json!({"id": id, "to": to, "params": {"job": id}})])?;
    stage.wait_delivered(due)?;
    stage.settle()?;
    let calls = stage.arrivals("createAndDeliver")?.len();
    let due_calls = RECIPIENTS / IN_A_CALL;
    stage.demand(calls == due_calls, || format!("{calls} card calls, {due_calls} needed"));
    let spaces = |card: &Value| card["deliveries"].as_array().cloned().unwrap_or_default();
    let all: Vec<String> = stage
        .cards()
        .iter()
        .flat_map(spaces)
        .map(|delivery| delivery["space_id"].to_string())
        .collect();
    let distinct = all.iter().collect::<BTreeSet<_>>().len();
    stage.demand(all.len() as u64 == due && distinct == all.len(), || {
        format!("{} deliveries to {distinct} users, {due} expected", all.len())
    });
    stage.note(format!("{calls} card calls, {distinct} users, each once"));
    if !unknown.is_empty() {
        let positions: Vec<String> = unknown.iter().map(usize::to_string).collect();
        let named = format!("user_not_found={}", positions.join(","));
        let told: Vec<String> = stage.letters().iter().map(|letter| letter.failed.clone()).collect();
        stage.demand(told == [named.as_str()], || format!("the dead letters name {told:?}"));
        stage.note(format!("{} dead letter names {}", told.len(), unknown.len()));
    }
    Ok(())
}

fn cold_start(stage: &mut Stage, shared: bool) -> Result<(), String> {
    const WORKERS: usize = 8;
    let _redis = shared.then(|| stage.share_redis());
    stage.faults(&json!([
        {"kind": "latency", "endpoint": "accessToken", "ms": 1000},
        // So that no worker takes all the jobs before the last has started.
        {"kind": "latency", "endpoint": "createAndDeliver", "ms": 250},
    ]))?;
    let jobs: Vec<Value> = (0..WORKERS * 50).map(Stage::job).collect();
    stage.publish(&jobs)?;
    stage.add_workers(WORKERS)?;
    stage.wait_delivered(jobs.len() as u64)?;
    let delivered = stage.each("dingcard_recipients_total", &[("outcome", "delivered")]);
    stage.demand(delivered.iter().all(|count| *count > 0.0), || {
        format!("not every worker needed a token: {delivered:?} delivered")
    });
    let own = stage.each("dingcard_token_refreshes_total", &[]);
    stage.settle()?;
    let fetched = stage.arrivals("accessToken")?.len();
    stage.note(format!("{fetched} fetched by {WORKERS} workers"));
    if shared {
        stage.demand(fetched == 1, || format!("{fetched} tokens fetched, one is enough"));
    } else {
        stage.demand(own.iter().all(|count| *count <= 1.0) && fetched <= WORKERS, || {
            format!("{fetched} tokens fetched, by each worker {own:?}")
        });
    }
    Ok(())
}

fn look_ups(stage: &mut Stage) -> Result<(), String> {
    const WORKERS: usize = 4;
    let mobiles = if stage.run.small { 100 } else { 1000 };
    let _redis = stage.share_redis();
    // Two jobs in a row to each mobile, so that workers ask for it at once, and all of it again five times.
    let job = |n: usize| {
        let id = format!("job-{n}");
        json!({"id": id, "to": [{"mobile": mobile(n / 2 % mobiles)}], "params": {"job": id}})
    };
    let jobs: Vec<Value> = (0..mobiles * 10).map(job).collect();
    stage.publish(&jobs)?;
    // A look-up that takes a while is one that others meet.
    stage.faults(&json!([{"kind": "latency", "endpoint": "getbymobile", "ms": 20}]))?;
    stage.add_workers(WORKERS)?;
    stage.wait_delivered(jobs.len() as u64)?;
    stage.settle()?;
    let asked = stage.arrivals("getbymobile")?.len();
    stage.note(format!("{asked} look-ups for {} jobs to {mobiles} mobiles", jobs.len()));
    stage.demand(asked == mobiles, || {
        format!("{asked} look-ups, one each for {mobiles} mobiles")
    });
    Ok(())
}
