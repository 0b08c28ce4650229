//! DingTalk answers badly, late, or not at all: no false success, no false death, memory flat.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Row, row};
use crate::stage::Stage;

pub(super) const ROWS: &[Row] = &[
    row(
        "dingtalk-503-30",
        "30 % of the calls answered 503; no false success, no false death",
        some_503,
    ),
    row(
        "dingtalk-503-100",
        "every call answered 503 for a while; no false success, no false death",
        all_503,
    ),
    row(
        "answers-lost",
        "answers lost after the card was taken; duplicates 0, no false death",
        lost,
    ),
    row(
        "slow-body",
        "answers that stop half-way; no false success, no false death",
        slow,
    ),
    row(
        "byte-a-second",
        "answers at one byte a second; no false success, no false death",
        trickle,
    ),
    row("resets", "connections reset; no false success, no false death", resets),
    row(
        "html-garbage",
        "HTML and garbage in a 200; no false success, no false death",
        garbage,
    ),
    row(
        "big-body",
        "bodies of 10 MiB; no false success, no false death, memory flat",
        big,
    ),
];

const CARDS: &str = "createAndDeliver";
/// How much a worker's memory may grow: three bodies of 10 MiB in eight calls at once would be more.
const FLAT: f64 = 24.0 * 1024.0 * 1024.0;

/// How many calls may be struck by what costs seconds, or megabytes, each.
const COSTLY: f64 = 1000.0;

fn share(mut fault: Value, probability: f64) -> Value {
    fault["endpoint"] = json!(CARDS);
    fault["probability"] = json!(probability);
    fault
}

/// The faults are there from the first job to the last.
fn throughout(stage: &mut Stage, faults: &[Value]) -> Result<(), String> {
    stage.faults(&json!(faults))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.settle()
}

/// What was answered wrongly, as a note; that it was at all is demanded.
fn struck(stage: &mut Stage, results: &[&str]) -> Result<(), String> {
    let count = stage.answered(results)?;
    stage.note(format!("{count} calls struck"));
    stage.demand(count >= stage.run.jobs as u64 / 20, || {
        format!("the fault struck only {count} calls")
    });
    Ok(())
}

fn some_503(stage: &mut Stage) -> Result<(), String> {
    throughout(stage, &[share(json!({"kind": "error", "status": 503}), 0.3)])?;
    struck(stage, &["503"])
}

fn all_503(stage: &mut Stage) -> Result<(), String> {
    stage.stretch(Duration::from_secs(4))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.wait_share(0.2)?;
    stage.faults(&json!([{"kind": "error", "endpoint": CARDS, "status": 503}]))?;
    stage.wait("the first 503", |stage| {
        (stage.answered(&["503"]).ok()? > 0).then_some(())
    })?;
    stage.last(stage.run.outage(60));
    let during = stage.delivered()?;
    stage.faults(&json!([]))?;
    let mended = Instant::now();
    let again = stage.wait_delivered(during + 1)?;
    stage.resumed(again.saturating_duration_since(mended));
    stage.settle()?;
    struck(stage, &["503"])
}

fn lost(stage: &mut Stage) -> Result<(), String> {
    throughout(stage, &[share(json!({"kind": "lose_answer"}), 0.3)])?;
    let unconfirmed = [("outcome", "delivered"), ("reason", "unconfirmed")];
    let count: f64 = stage.said_metric("dingcard_recipients_total", &unconfirmed);
    stage.note(format!("{count} told as unconfirmed"));
    stage.demand(count > 0.0, || "nobody is told as unconfirmed".to_owned());
    struck(stage, &["lose_answer"])
}

fn slow(stage: &mut Stage) -> Result<(), String> {
    timed_out(stage, json!({"kind": "slow_body", "ms": 4000}))
}

fn trickle(stage: &mut Stage) -> Result<(), String> {
    timed_out(stage, json!({"kind": "trickle", "ms": 1000}))
}

/// A tenth of the calls, or as many as are costly, is not answered in time.
fn timed_out(stage: &mut Stage, fault: Value) -> Result<(), String> {
    stage.set("DINGTALK__TIMEOUT", "2s");
    let probability = costly(stage);
    throughout(stage, &[share(fault, probability)])?;
    let unconfirmed = [("outcome", "delivered"), ("reason", "unconfirmed")];
    let count: f64 = stage.said_metric("dingcard_recipients_total", &unconfirmed);
    stage.note(format!("{count} told as unconfirmed"));
    let due = stage.run.jobs as f64 * probability / 2.0;
    stage.demand(count >= due, || format!("only {count} are told as unconfirmed"));
    Ok(())
}

fn costly(stage: &Stage) -> f64 {
    f64::min(0.1, COSTLY / stage.run.jobs as f64)
}

fn resets(stage: &mut Stage) -> Result<(), String> {
    throughout(stage, &[share(json!({"kind": "drop_connection"}), 0.3)])?;
    struck(stage, &["drop_connection"])
}

fn garbage(stage: &mut Stage) -> Result<(), String> {
    let faults = [
        share(json!({"kind": "html", "status": 502}), 0.1),
        share(json!({"kind": "garbage"}), 0.1),
        share(json!({"kind": "garbage", "taken": true}), 0.1),
    ];
    throughout(stage, &faults)?;
    struck(stage, &["html", "garbage"])
}

fn big(stage: &mut Stage) -> Result<(), String> {
    // What fills up by itself, as it should, is to be full before the first large body.
    let few = (stage.run.jobs / 50).to_string();
    stage.set("USERS__CAPACITY", &few);
    stage.set("LEDGER__CAPACITY", &few);
    stage.start_workers()?;
    let warm: Vec<_> = (0..stage.run.jobs / 5).map(Stage::job).collect();
    stage.publish(&warm)?;
    stage.wait_delivered(warm.len() as u64)?;
    let before = stage.each("process_resident_memory_bytes", &[]);
    let probability = costly(stage);
    let fault = json!({"kind": "big_body", "bytes": 10 * 1024 * 1024});
    stage.faults(&json!([share(fault, probability)]))?;
    let rest: Vec<_> = (warm.len()..stage.run.jobs).map(Stage::job).collect();
    stage.publish(&rest)?;
    let mut most: f64 = 0.0;
    let due = stage.run.jobs as u64;
    stage.wait("the end of every job", |stage| {
        let now = stage.each("process_resident_memory_bytes", &[]);
        let grown = now.iter().zip(&before).map(|(now, before)| now - before);
        most = grown.fold(most, f64::max);
        (stage.delivered().ok()? >= due).then_some(())
    })?;
    stage.settle()?;
    stage.note(format!("memory grew by {:.0} MiB at most", most / 1024.0 / 1024.0));
    stage.demand(most < FLAT, || format!("memory grew by {most} bytes"));
    let count = stage.answered(&["big_body"])?;
    stage.note(format!("{count} calls struck"));
    stage.demand(count as f64 >= probability * due as f64 / 2.0, || {
        format!("the fault struck only {count} calls")
    });
    Ok(())
}
