//! Jobs that are wrong, that come more than once, or that fail all together.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{Row, row};
use crate::proxy::Proxy;
use crate::stage::{Stage, WORKERS};
use crate::wire::{self, Raw};

pub(super) const ROWS: &[Row] = &[
    row(
        "malformed",
        "1 % is no valid job: those dead at the first try, no innocent one",
        malformed,
    ),
    row("published-five-times", "one card each on createAndDeliver", five_times),
    row(
        "published-five-times-interactive",
        "on interactiveCards/send, the copies after the first is in a ledger that all share; one card each",
        five_times_interactive,
    ),
    row(
        "killer",
        "0.1 % end their worker at each try; those dead after at most 5 crashes each, no innocent one",
        killer,
    ),
    row(
        "spread",
        "jobs that fail together come back apart: no second holds more than three times the mean",
        spread,
    ),
];

/// So many crashes are proof against a job.
const CRASHES: usize = 5;
/// How a killer's ID begins, which its call names.
const KILLER: &str = "killer-";
/// As many jobs fail together as the promise says.
const TOGETHER: usize = 50_000;

fn malformed(stage: &mut Stage) -> Result<(), String> {
    stage.start_workers()?;
    let bodies: [&[u8]; 5] = [
        b"not JSON",
        b"",
        br#"{"to":[{"mobile":15012341231}]}"#,
        br#"{"to":[{"user_id":"a"}],"paramz":{}}"#,
        &[0xff, 0xfe, b'{', b'}'],
    ];
    let bad: Vec<Raw> = (0..stage.run.jobs / 100)
        .zip(bodies.iter().cycle())
        .map(|(number, body)| Raw {
            id: format!("bad-{number}"),
            exchange: String::new(),
            key: stage.queue("jobs"),
            body: body.to_vec(),
        })
        .collect();
    let jobs: Vec<_> = (0..stage.run.jobs).map(Stage::job).collect();
    let (first, rest) = jobs.split_at(jobs.len() / 2);
    stage.publish(first)?;
    stage.publish_raw(&bad)?;
    stage.publish(rest)?;
    stage.evidence.doomed.extend(bad.iter().map(|raw| raw.id.clone()));
    stage.settle()?;
    let other: Vec<String> = stage
        .letters()
        .iter()
        .filter(|letter| letter.reason != "invalid_job" || letter.attempt != 1)
        .map(|letter| format!("{}: {} at attempt {}", letter.id, letter.reason, letter.attempt))
        .collect();
    stage.demand(other.is_empty(), || other.join(", "));
    Ok(())
}

fn five_times(stage: &mut Stage) -> Result<(), String> {
    stage.start_workers()?;
    let different = stage.run.jobs / 5;
    let copies: Vec<_> = (0..different * 5)
        .map(|number| Stage::job(number % different))
        .collect();
    stage.publish(&copies)?;
    // And five side by side.
    let close: Vec<_> = (0..different * 5)
        .map(|number| Stage::job(different + number / 5))
        .collect();
    stage.publish(&close)?;
    stage.settle()?;
    one_card_each(stage, 2 * different, copies.len() + close.len());
    Ok(())
}

/// The sandbox makes a second card of such a call, so that only the ledger can prevent one.
fn five_times_interactive(stage: &mut Stage) -> Result<(), String> {
    stage.set("APPS__DEFAULT__CARD_API", "interactive");
    let _redis = stage.share_redis();
    stage.start_workers()?;
    let different = stage.run.jobs / 5;
    let jobs: Vec<_> = (0..different).map(Stage::job).collect();
    stage.publish(&jobs)?;
    let delivered = [("outcome", "delivered")];
    stage.wait("the first of each to be told", |stage| {
        (stage.sum("dingcard_jobs_total", &delivered) >= different as f64).then_some(())
    })?;
    let copies: Vec<_> = (0..different * 4).map(|number| Stage::job(number / 4)).collect();
    stage.publish(&copies)?;
    stage.settle()?;
    one_card_each(stage, different, jobs.len() + copies.len());
    Ok(())
}

/// What every message of a job but one was told as, and what was shown.
fn one_card_each(stage: &mut Stage, cards: usize, messages: usize) {
    let told = |stage: &Stage, outcome| stage.said_metric("dingcard_jobs_total", &[("outcome", outcome)]);
    let (delivered, duplicate) = (told(stage, "delivered"), told(stage, "duplicate"));
    stage.note(format!(
        "{messages} messages; told: {delivered} delivered, {duplicate} duplicate"
    ));
    stage.demand(delivered as usize + duplicate as usize == messages, || {
        format!("{messages} messages, told: {delivered} delivered and {duplicate} duplicate")
    });
    let shown = stage.cards().len();
    stage.demand(shown == cards, || format!("{shown} cards for {cards} jobs"));
    stage.demand(delivered as usize == cards, || {
        format!("{delivered} jobs told as delivered, of {cards} different ones")
    });
}

/// Each worker reaches DingTalk through a trap, and is killed when it begins a killer's call, with other jobs in its work.
fn killer(stage: &mut Stage) -> Result<(), String> {
    // Nobody may come back from a killer's call by a timeout.
    stage.set("DINGTALK__TIMEOUT", "10m");
    stage.stretch(Duration::from_secs(5))?;
    let mut jobs: Vec<_> = (0..stage.run.jobs).map(Stage::job).collect();
    let killers = (stage.run.jobs / 1000).max(1);
    for number in 0..killers {
        let id = format!("{KILLER}{number}");
        let job = json!({"id": id, "to": [{"user_id": "victim"}], "params": {"job": id}});
        jobs.insert(100 + number * 1000, job);
        stage.evidence.doomed.insert(id);
    }
    stage.publish(&jobs)?;
    let mut traps = Vec::new();
    for _ in 0..WORKERS {
        traps.push(set_trap(stage)?);
        stage.add_worker()?;
    }
    let dead = [stage.queue("dead")];
    let mut crashes = 0;
    stage.wait("every killer among the dead letters", |stage| {
        for (place, trap) in traps.iter_mut().enumerate().filter(|(_, trap)| trap.is_swallowing()) {
            crashes += 1;
            let replaced = set_trap(stage).and_then(|anew| {
                stage.replace_killed(place)?;
                // The old trap holds until its worker is dead: one that could go on would hand the killer over as a retry.
                *trap = anew;
                Ok(())
            });
            if replaced.is_err() {
                return Some(replaced);
            }
        }
        let buried = *wire::waiting(stage.broker.url(), &dead).ok()?.first()?;
        (buried as usize >= killers).then_some(Ok(()))
    })??;
    stage.settle()?;
    stage.note(format!("{killers} killers, {crashes} crashes"));
    stage.demand(crashes <= CRASHES * killers, || {
        format!("{crashes} crashes for {killers} killers, at most {CRASHES} each")
    });
    let other = stage
        .letters()
        .iter()
        .filter(|letter| letter.reason != "delivery_limit");
    let other: Vec<String> = other
        .map(|letter| format!("{}: {}", letter.id, letter.reason))
        .collect();
    stage.demand(other.is_empty(), || other.join(", "));
    Ok(())
}

/// A trap for the worker that starts next.
fn set_trap(stage: &mut Stage) -> Result<Proxy, String> {
    let trap = Proxy::trap(stage.sandbox_address()?, KILLER).map_err(|error| error.to_string())?;
    stage.set("DINGTALK__API_URL", &format!("http://{}", trap.address()));
    Ok(trap)
}

fn spread(stage: &mut Stage) -> Result<(), String> {
    stage.run.jobs = stage.run.jobs.min(TOGETHER);
    let initial = if stage.run.small { 8 } else { 60 };
    stage.set("RETRY__IMMEDIATE", "0");
    stage.set("RETRY__INITIAL", &format!("{initial}s"));
    stage.set("RETRY__MAX_DELAY", &format!("{initial}s"));
    // Each job's first call fails, and no other.
    let count = stage.run.jobs;
    stage.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": count}]))?;
    stage.publish_all()?;
    stage.start_workers()?;
    stage.wait("every job to have failed", |stage| {
        (stage.answered(&["503"]).ok()? >= count as u64).then_some(())
    })?;
    // While some still fail, those that are back early stand in line behind them: that says nothing of their delays.
    let queue = [stage.queue("jobs")];
    stage.wait("an empty queue", |stage| {
        (wire::waiting(stage.broker.url(), &queue).ok()? == [0]).then_some(())
    })?;
    let failed = Timestamp::now().as_second() + 1;
    stage.settle()?;
    let mut seconds: BTreeMap<i64, usize> = BTreeMap::new();
    for card in stage.cards() {
        let at: Option<Timestamp> = card["created_at"].as_str().and_then(|at| at.parse().ok());
        *seconds.entry(at.map_or(0, Timestamp::as_second)).or_default() += 1;
    }
    let before: usize = seconds.range(..=failed).map(|(_, count)| count).sum();
    let seconds = seconds.split_off(&(failed + 1));
    let (Some(first), Some(last)) = (seconds.keys().next(), seconds.keys().next_back()) else {
        return Err("no card came back".to_owned());
    };
    let span = last - first + 1;
    let mean = (count - before) as f64 / span as f64;
    let most = seconds.values().copied().max().unwrap_or(0);
    let spans = Duration::from_secs(span.unsigned_abs());
    stage.note(format!(
        "{before} back before all had failed; the others over {spans:?}, {mean:.0} a second, at most {most}"
    ));
    stage.demand(most as f64 <= 3.0 * mean, || {
        format!("{most} in one second, the mean is {mean:.0}: {seconds:?}")
    });
    Ok(())
}
