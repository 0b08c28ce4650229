//! Two apps on one fleet: what one has waiting must not reach the other.
//!
//! Times are compared with each other, in one run on one machine, and only the long form demands anything of them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Row, row};
use crate::stage::Stage;
use crate::wire::{self, Raw};

pub(super) const ROWS: &[Row] = &[row(
    "neighbour",
    "an app with 20,000 jobs waiting: the other's p99 from publish to shown within 1.5 times of what it is alone",
    neighbour,
)];

const WORKERS: usize = 4;
/// A job of the quiet app each of these, well below its rate.
const EVERY: Duration = Duration::from_millis(100);
/// What DingTalk takes for an answer, about.
const ANSWER: Duration = Duration::from_millis(100);

fn neighbour(stage: &mut Stage) -> Result<(), String> {
    let (quiet, flood) = if stage.run.small { (50, 1000) } else { (600, 20_000) };
    let _redis = stage.share_redis();
    stage.set_second_app();
    rates(stage, "15");
    stage.faults(&json!([{"kind": "latency", "endpoint": "createAndDeliver", "ms": ANSWER.as_millis() as u64}]))?;
    stage.add_workers(WORKERS)?;
    // The first calls fetch a token.
    let _warm = traffic(stage, "warm", 20)?;
    let alone = traffic(stage, "alone", quiet)?;
    let jobs: Vec<Value> = (0..flood).map(Stage::job).collect();
    stage.publish(&jobs)?;
    let beside = traffic(stage, "beside", quiet)?;
    let left = wire::waiting(stage.broker.url(), &[stage.queue("jobs")])?;
    let left: u32 = left.iter().sum();
    // Nobody waits for what the rate would take hours for.
    stage.stop_last(WORKERS)?;
    rates(stage, "0");
    stage.faults(&json!([]))?;
    stage.add_workers(WORKERS)?;
    stage.settle()?;
    let shown = shown(stage.cards())?;
    let (alone, beside) = (p99(&alone, &shown)?, p99(&beside, &shown)?);
    let ratio = beside / alone;
    stage.note(format!(
        "p99 of {quiet} jobs {alone:.0} ms alone, {beside:.0} ms beside {flood} waiting ({left} at the end): {ratio:.2} times"
    ));
    stage.demand(left > 0, || "no flood was waiting".to_owned());
    let seen = stage.run.small || ratio <= 1.5;
    stage.demand(seen, || format!("{ratio:.2} times as long beside a flood as alone"));
    Ok(())
}

fn rates(stage: &mut Stage, rate: &str) {
    for app in ["DEFAULT", "SALES"] {
        stage.set(&format!("APPS__{app}__RATE_PER_SECOND"), rate);
    }
}

/// Jobs of the quiet app, one after the other, and when each was published; ends when all are shown.
fn traffic(stage: &mut Stage, name: &str, count: usize) -> Result<HashMap<String, Timestamp>, String> {
    let message = |n: usize| {
        let id = format!("{name}-{n}");
        let job = json!({"id": id, "to": [{"user_id": format!("{name}{n}x")}], "params": {"job": id}});
        Raw {
            id,
            exchange: String::new(),
            key: stage.queue("jobs.sales"),
            body: job.to_string().into_bytes(),
        }
    };
    let messages: Vec<Raw> = (0..count).map(message).collect();
    let times = stage.publish_evenly(&messages, EVERY)?;
    stage.wait(&format!("the jobs {name}"), |stage| {
        let delivered = stage.sum(
            "dingcard_recipients_total",
            &[("app", "sales"), ("outcome", "delivered")],
        );
        let due = stage
            .evidence
            .published
            .iter()
            .filter(|id| !id.starts_with("job-"))
            .count();
        (delivered >= due as f64).then_some(())
    })?;
    Ok(messages.into_iter().map(|raw| raw.id).zip(times).collect())
}

/// When each job's card was shown.
fn shown(cards: &[Value]) -> Result<HashMap<String, Timestamp>, String> {
    let read = |card: &Value| {
        let at = card["deliveries"][0]["at"].as_str()?.parse().ok()?;
        Some((card["params"]["job"].as_str()?.to_owned(), at))
    };
    let read: Option<HashMap<_, _>> = cards.iter().map(read).collect();
    read.ok_or_else(|| "a card without its job or its time".to_owned())
}

/// In milliseconds; only one in a hundred took longer.
fn p99(published: &HashMap<String, Timestamp>, shown: &HashMap<String, Timestamp>) -> Result<f64, String> {
    let took = |(id, from): (&String, &Timestamp)| {
        let at = shown.get(id).ok_or_else(|| format!("{id} was not shown"))?;
        Ok(at.duration_since(*from).as_secs_f64() * 1000.0)
    };
    let mut took: Vec<f64> = published.iter().map(took).collect::<Result<_, String>>()?;
    took.sort_by(f64::total_cmp);
    let place = (took.len() * 99).div_ceil(100).saturating_sub(1);
    took.get(place).copied().ok_or_else(|| "no job".to_owned())
}
