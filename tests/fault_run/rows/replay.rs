//! Dead letters that are sent again while everything else goes on: each once, however often the replay is begun.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Row, row};
use crate::stage::Stage;
use crate::wire;

pub(super) const ROWS: &[Row] = &[row(
    "replay-killed",
    "half of the jobs dead, replayed under live traffic, the replay killed half-way and begun again: none lost, none twice",
    killed,
)];

/// As many letters as the promise says.
const LETTERS: usize = 10_000;
/// How long the replay takes where nobody kills it, as far as the broker keeps up.
const REPLAY: Duration = Duration::from_secs(3);
/// How long the live traffic lasts longer than that, besides the time to publish it: so many jobs a second.
const LIVE: Duration = Duration::from_secs(1);
const PUBLISHED: f64 = 250.0;

fn killed(stage: &mut Stage) -> Result<(), String> {
    stage.run.jobs = stage.run.jobs.min(2 * LETTERS);
    // The dead are one app's, so that what is replayed can be told from the live traffic.
    stage.set_second_app();
    let refused = json!({"kind": "error", "endpoint": "createAndDeliver", "status": 400,
        "code": "param.templateUnpublished", "app": "dingsandbox2"});
    stage.faults(&json!([refused]))?;
    stage.start_workers()?;
    let half = stage.run.jobs / 2;
    let (doomed, live): (Vec<_>, Vec<_>) = (0..stage.run.jobs).map(job).partition(|job| job["app"] == "sales");
    stage.publish(&doomed)?;
    let dead = stage.queue("dead");
    wait_letters(stage, &dead, half)?;

    let lasting = REPLAY + LIVE + Duration::from_secs_f64(stage.run.jobs as f64 / PUBLISHED);
    // All that may be in work is for twice as many jobs as are live. Until the kill they take much longer: on a busy machine
    // the replay does as well.
    stage.stretch(10 * lasting)?;
    stage.publish(&live)?;
    let rate = (half as f64 / REPLAY.as_secs_f64()).to_string();
    let mut first = stage.begin(&["dead", "replay", "--all", "--rate", &rate])?;
    let queue = [stage.queue("jobs.sales")];
    stage.wait("half of the letters to be replayed", |stage| {
        let waiting = wire::waiting(stage.broker.url(), &queue).ok()?;
        let replayed = sent(stage, "sales") + f64::from(*waiting.first()?);
        (replayed >= half as f64 / 2.0).then_some(())
    })?;
    first.kill();
    let live_sent = sent(stage, "default");
    stage.stretch(2 * lasting)?;
    stage.demand(live_sent < live.len() as f64, || {
        "the live traffic had ended before the replay was killed".to_owned()
    });
    let code = first.wait(Duration::from_secs(10))?;
    stage.demand(code == 128 + 9, || {
        format!("the first replay ended by itself, with {code}")
    });
    stage.hear(&first);

    // What it held comes back once the broker has seen that it is gone.
    wait_letters(stage, &dead, 1)?;
    let mut second = stage.begin(&["dead", "replay", "--all"])?;
    let code = stage.wait("the second replay", |_| second.wait(Duration::ZERO).ok())?;
    let told = second.wait_for_line("replayed ", Duration::from_secs(10))?;
    stage.demand(code == 0, || format!("the second replay gave {code}"));
    stage.hear(&second);
    stage.wait("the replayed jobs", |stage| {
        (wire::waiting(stage.broker.url(), &queue).ok()? == [0]).then_some(())
    })?;
    stage.settle()?;
    let again = stage.said_metric("dingcard_jobs_total", &[("outcome", "duplicate")]);
    stage.note(format!(
        "{half} letters; killed when {live_sent} of {} live jobs were delivered; then {told}; {again} known as told",
        live.len()
    ));
    let rest = told.split_whitespace().nth(1).and_then(|count| count.parse().ok());
    stage.demand(rest.is_some_and(|rest: usize| rest > 0 && rest < half), || {
        format!("of {half} letters, the second time: {told}")
    });
    Ok(())
}

/// Every other job is the second app's.
fn job(number: usize) -> Value {
    let mut job = Stage::job(number);
    if number % 2 == 1 {
        job["app"] = json!("sales");
    }
    job
}

/// How many jobs of an app the workers have told as delivered.
fn sent(stage: &mut Stage, app: &str) -> f64 {
    stage.sum("dingcard_jobs_total", &[("app", app), ("outcome", "delivered")])
}

fn wait_letters(stage: &mut Stage, dead: &str, count: usize) -> Result<(), String> {
    stage.wait(&format!("{count} dead letters"), |stage| {
        let waiting = wire::waiting(stage.broker.url(), &[dead.to_owned()]).ok()?;
        (*waiting.first()? as usize >= count).then_some(())
    })
}
