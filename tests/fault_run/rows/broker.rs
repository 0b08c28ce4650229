//! The broker and the way to it: restarted, killed, silent, out of memory, short of a queue.

use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::{Row, alone, row};
use crate::proxy::Proxy;
use crate::stage::{HEARTBEAT, Stage, WORKERS};
use crate::wire::{self, Raw};

pub(super) const ROWS: &[Row] = &[
    alone(
        "broker-restart",
        "consuming again within 5 s of the broker saying that it is up; no worker restarts",
        restarted,
    ),
    alone(
        "broker-kill9",
        "consuming again within 5 s of the broker saying that it is up; no worker restarts",
        killed,
    ),
    row(
        "black-hole",
        "nothing passes between worker and broker; noticed within 2.5 heartbeats",
        black_hole,
    ),
    alone("memory-alarm", "acknowledgements go on; retries resume", memory_alarm),
    row(
        "queue-deleted",
        "the jobs queue deleted while empty, with jobs in the delay levels; consuming again within 10 s",
        queue_deleted,
    ),
    row(
        "consumer-cancelled",
        "the broker cancels every consumer of the jobs queue, which stays; consuming again within 10 s",
        cancelled,
    ),
    alone(
        "ack-timeout",
        "the broker's ack timeout strikes; consuming again within 10 s",
        ack_timeout,
    ),
    alone(
        "unroutable-64",
        "64 delayed messages whose destination is gone are dead; all others at most 2 s late",
        unroutable,
    ),
];

/// Delayed jobs, at most: a hundred a second come due.
const DELAYED: usize = 20_000;
/// How soon after the broker is up every worker consumes.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// How soon after any other trouble with a queue.
const CONSUMING_WITHIN: Duration = Duration::from_secs(10);
/// What a poll of three workers may add to a time.
const POLLED: Duration = Duration::from_millis(500);

fn restarted(stage: &mut Stage) -> Result<(), String> {
    fell(stage, |_| ())
}

fn killed(stage: &mut Stage) -> Result<(), String> {
    fell(stage, |stage| {
        stage.broker.kill();
        stage.last(stage.run.outage(10));
    })
}

/// The broker falls again and again, each time a part of the jobs is delivered.
fn fell(stage: &mut Stage, fall: impl Fn(&Stage)) -> Result<(), String> {
    let times = stage.run.restarts;
    stage.stretch(Duration::from_secs(2 + 3 * u64::from(times)))?;
    stage.start_workers()?;
    stage.publish_all()?;
    let address = stage.broker.address();
    for time in 1..=times {
        stage.wait_share(0.9 * f64::from(time) / f64::from(times + 1))?;
        let sessions = stage.sessions();
        fall(stage);
        let listening = restart(stage, address)?;
        // Its port is open before its queues have a leader; on a busy machine that is seconds.
        let up = Instant::now();
        let consuming = stage.wait_consuming(Some(&sessions))?;
        let back = consuming.saturating_duration_since(up);
        stage.resumed(consuming.saturating_duration_since(listening));
        stage.demand(back <= BACK_WITHIN + POLLED, || {
            format!("time {time}: consuming {back:.1?} after the broker was up")
        });
    }
    let fallen = stage.fallen();
    stage.demand(fallen == 0, || format!("{fallen} of {WORKERS} workers ended"));
    stage.note(format!("{times} times"));
    stage.settle()
}

/// Restarts the broker and gives the moment from which it took connections again.
fn restart(stage: &Stage, address: SocketAddr) -> Result<Instant, String> {
    let broker = stage.broker.clone();
    let (away, up) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let watching = scope.spawn(|| {
            while !up.load(Ordering::Relaxed) {
                match TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
                    Ok(_) if away.load(Ordering::Relaxed) => return Some(Instant::now()),
                    Ok(_) => {}
                    Err(_) => away.store(true, Ordering::Relaxed),
                }
                thread::sleep(Duration::from_millis(20));
            }
            None
        });
        broker.restart();
        up.store(true, Ordering::Relaxed);
        let seen = watching
            .join()
            .map_err(|_| "the watch over the broker's port failed".to_owned())?;
        Ok(seen.unwrap_or_else(Instant::now))
    })
}

fn black_hole(stage: &mut Stage) -> Result<(), String> {
    let server = stage.broker.address();
    let proxy = Proxy::to(&[server]).map_err(|error| error.to_string())?;
    let url = stage
        .broker
        .url()
        .replace(&server.to_string(), &proxy.address().to_string());
    stage.set("AMQP__URL", &url);
    stage.stretch(Duration::from_secs(6))?;
    stage.start_workers()?;
    // Publishing goes round the proxy.
    let direct = stage.broker.clone();
    stage.set("AMQP__URL", direct.url());
    stage.publish_all()?;
    stage.wait_share(0.3)?;
    let sessions = stage.sessions();
    let begun = Instant::now();
    proxy.swallow();
    let noticed = stage.wait("the black hole to be noticed", |stage| {
        let connected = stage.sum("dingcard_broker_connected", &[]);
        (connected == 0.0).then(|| begun.elapsed())
    })?;
    stage.demand(noticed <= HEARTBEAT.mul_f64(2.5) + POLLED, || {
        format!("noticed after {noticed:.1?}")
    });
    stage.last(stage.run.outage(45).saturating_sub(begun.elapsed()));
    proxy.forward();
    let returned = Instant::now();
    let back = stage.wait_consuming(Some(&sessions))?;
    stage.resumed(back.saturating_duration_since(returned));
    stage.note(format!("noticed after {noticed:.1?}, heartbeat {HEARTBEAT:?}"));
    stage.settle()
}

fn memory_alarm(stage: &mut Stage) -> Result<(), String> {
    stage.set("RETRY__IMMEDIATE", "0");
    stage.stretch(Duration::from_secs(10))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.wait_share(0.2)?;
    stage.broker.ctl(&["set_vm_memory_high_watermark", "0.0001"]);
    // A worker is blocked once it publishes. Each retry keeps its place in the prefetch for as long as the alarm lasts, so
    // there may be only some.
    stage.wait("every worker to be blocked", |stage| {
        if stage.sum("dingcard_publisher_blocked", &[]) == WORKERS as f64 {
            return Some(());
        }
        let fault = json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 1}]);
        stage.faults(&fault).ok().and(None)
    })?;
    let retried = stage.answered(&["503"])?;
    let queue = [stage.queue("jobs")];
    let settled = |stage: &mut Stage| stage.sum("dingcard_jobs_total", &[("outcome", "delivered")]);
    let (before, waiting) = (settled(stage), wire_waiting(stage, &queue)?);
    stage.last(stage.run.outage(60));
    let (after, waiting_after) = (settled(stage), wire_waiting(stage, &queue)?);
    let blocked = stage.sum("dingcard_publisher_blocked", &[]);
    let reconnects: f64 = stage.sessions().iter().sum();
    stage.broker.ctl(&["set_vm_memory_high_watermark", "0.4"]);
    let returned = Instant::now();
    let freed = stage.wait("every worker to be free", |stage| {
        (stage.sum("dingcard_publisher_blocked", &[]) == 0.0).then(Instant::now)
    })?;
    stage.resumed(freed.saturating_duration_since(returned));
    stage.note(format!(
        "{} acknowledged during the alarm, {retried} retries held up by it",
        after - before
    ));
    stage.demand(after > before, || {
        format!("no job was settled during the alarm; {waiting} then {waiting_after} waited")
    });
    stage.demand(blocked == WORKERS as f64, || "the alarm ended by itself".to_owned());
    stage.demand(reconnects == 0.0, || {
        format!("{reconnects} sessions were lost to the alarm")
    });
    stage.settle()
}

fn wire_waiting(stage: &Stage, queues: &[String]) -> Result<u32, String> {
    Ok(wire::waiting(stage.broker.url(), queues)?.iter().sum())
}

fn queue_deleted(stage: &mut Stage) -> Result<(), String> {
    stage.start_workers()?;
    // Far enough that all are in the levels before the first is back.
    let due = Timestamp::now() + SignedDuration::from_secs(8 + stage.run.jobs.cast_signed() as i64 / 250);
    let jobs: Vec<_> = (0..stage.run.jobs)
        .map(|number| {
            let mut job = Stage::job(number);
            job["not_before"] = due.to_string().into();
            job
        })
        .collect();
    stage.publish(&jobs)?;
    let queue = [stage.queue("jobs")];
    stage.wait("all jobs in the delay levels", |stage| {
        let idle = stage.sum("dingcard_jobs_in_flight", &[]) == 0.0;
        (idle && wire_waiting(stage, &queue).ok()? == 0).then_some(())
    })?;
    let early = stage.delivered()?;
    stage.demand(early == 0, || {
        format!("{early} were delivered before the queue was deleted")
    });
    let sessions = stage.sessions();
    stage.broker.ctl(&["delete_queue", &stage.queue("jobs")]);
    let deleted = Instant::now();
    let back = stage
        .wait_consuming(Some(&sessions))?
        .saturating_duration_since(deleted);
    stage.resumed(back);
    stage.demand(back <= CONSUMING_WITHIN, || {
        format!("consuming {back:.1?} after the deletion")
    });
    // What came to its end while there was no queue is dead, and not lost.
    stage.evidence.deaths_allowed = true;
    stage.settle()?;
    let other = stage
        .letters()
        .iter()
        .filter(|letter| !letter.reason.is_empty())
        .count();
    stage.demand(other == 0, || format!("{other} letters are not the broker's"));
    Ok(())
}

/// Of itself a quorum queue does this only when it goes, so each channel is told to say it; the broker goes on as if it
/// had not, and keeps giving messages to a consumer that believes to be none.
fn cancelled(stage: &mut Stage) -> Result<(), String> {
    stage.stretch(Duration::from_secs(10))?;
    stage.start_workers()?;
    stage.publish_all()?;
    let name = stage.queue("jobs");
    let cancel = format!(
        "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{name}\">>)), \
         [rabbit_channel:send_command(element(1, C), {{'basic.cancel', element(2, C), true}}) || \
         C <- rabbit_amqqueue:consumers(Q)]."
    );
    let shares = [0.2, 0.4, 0.6];
    for share in shares {
        stage.wait_share(share)?;
        let sessions = stage.sessions();
        stage.broker.ctl(&["eval", &cancel]);
        let struck = Instant::now();
        let back = stage.wait_consuming(Some(&sessions))?.saturating_duration_since(struck);
        stage.resumed(back);
        stage.demand(back <= CONSUMING_WITHIN, || {
            format!("consuming {back:.1?} after it was cancelled")
        });
    }
    stage.settle()?;
    let said = stage.said();
    let said = said
        .iter()
        .filter(|line| line.contains("the broker cancelled the consumer"));
    let said = said.count();
    stage.demand(said >= WORKERS, || {
        format!("{said} lines tell of it, of {WORKERS} workers")
    });
    stage.note(format!("{} times", shares.len()));
    Ok(())
}

fn ack_timeout(stage: &mut Stage) -> Result<(), String> {
    for setting in [
        "application:set_env(rabbit, consumer_timeout, 4000).",
        "application:set_env(rabbit, channel_tick_interval, 1000).",
    ] {
        stage.broker.ctl(&["eval", setting]);
    }
    stage.set("DINGTALK__TIMEOUT", "20s");
    stage.start_workers()?;
    // One call for each worker that takes longer than the broker waits.
    stage.faults(&json!([{"kind": "latency", "endpoint": "createAndDeliver", "ms": 7000, "next": WORKERS}]))?;
    stage.publish_all()?;
    let queue = [stage.queue("jobs")];
    stage.wait("an ack timeout", |stage| {
        (stage.sessions().iter().sum::<f64>() >= 1.0).then_some(())
    })?;
    let struck = Instant::now();
    let back = stage.wait_consuming(None)?.saturating_duration_since(struck);
    stage.resumed(back);
    stage.demand(back <= CONSUMING_WITHIN, || {
        format!("consuming {back:.1?} after the timeout")
    });
    stage.wait("an empty queue", |stage| {
        (wire_waiting(stage, &queue).ok()? == 0).then_some(())
    })?;
    stage.settle()?;
    let said = stage.said().iter().filter(|line| line.contains("timed out")).count();
    stage.demand(said > 0, || "no worker told of an ack timeout".to_owned());
    Ok(())
}

fn unroutable(stage: &mut Stage) -> Result<(), String> {
    stage.run.jobs = stage.run.jobs.min(DELAYED);
    stage.start_workers()?;
    let gone: Vec<Raw> = (0..64)
        .map(|number| Raw {
            id: format!("gone-{number}"),
            exchange: stage.queue("delay.v1.01"),
            key: format!("{}1.0.{}", "0.".repeat(15), stage.queue("jobs.gone")),
            body: br#"{"to":[{"user_id":"nobody"}]}"#.to_vec(),
        })
        .collect();
    stage.publish_raw(&gone)?;
    stage.evidence.doomed.extend(gone.iter().map(|raw| raw.id.clone()));
    // A hundred a second, so that the delay is looked at and not the speed of the worker.
    // The first comes due when the last is published, even where the machine is busy.
    let base = Timestamp::now() + SignedDuration::from_secs(5 + stage.run.jobs.cast_signed() as i64 / 250);
    let due = |number: usize| base + SignedDuration::from_millis(10 * number.cast_signed() as i64);
    let jobs: Vec<_> = (0..stage.run.jobs)
        .map(|number| {
            let mut job = Stage::job(number);
            job["not_before"] = due(number).to_string().into();
            job
        })
        .collect();
    stage.publish(&jobs)?;
    stage.settle()?;
    let shown = stage.cards().iter().filter_map(|card| {
        let number: usize = card["params"]["job"].as_str()?.strip_prefix("job-")?.parse().ok()?;
        let at: Timestamp = card["created_at"].as_str()?.parse().ok()?;
        Some(at.duration_since(due(number)).as_secs_f64())
    });
    let late: Vec<f64> = shown.collect();
    let (first, last) = (
        late.iter().copied().fold(f64::MAX, f64::min),
        late.iter().copied().fold(0.0, f64::max),
    );
    stage.note(format!("the latest {last:.1} s late"));
    stage.demand(first >= 0.0, || format!("one was {:.3} s early", -first));
    stage.demand(last <= 2.0, || format!("one was {last:.1} s late"));
    let words: Vec<_> = stage
        .letters()
        .iter()
        .filter(|letter| !letter.reason.is_empty())
        .collect();
    let other = words.len();
    stage.demand(other == 0, || format!("{other} letters are not the broker's"));
    let mut list = stage.begin(&["dead", "list", "--reason", "unroutable"])?;
    let code = list.wait(Duration::from_mins(1))?;
    stage.hear(&list);
    let listed = list.lines().iter().filter(|line| line.starts_with("gone-")).count();
    stage.demand(code == 0 && listed == gone.len(), || {
        format!("dead list gave {code} and {listed} unroutable letters")
    });
    Ok(())
}
