//! A cluster that loses nodes: the leader of a queue, or its majority.

use std::time::{Duration, Instant};

use super::{Own, Row};
use crate::cluster::Cluster;
use crate::stage::{IN_WORK, Stage, WORKERS};

pub(super) const ROWS: &[Row] = &[
    on_cluster(
        "leader-killed",
        "three nodes, the one that leads the jobs queue killed every 20 s; goes on, no worker restarts",
        leader_killed,
    ),
    on_cluster(
        "no-quorum",
        "two of three nodes killed, for 30 s; not ready within 10 s while there is no quorum, goes on afterwards",
        no_quorum,
    ),
];

/// Between two kills of a leader.
const EVERY: Duration = Duration::from_secs(20);
const KILLS: u32 = 5;
/// How long a node that was killed is away, before it takes its time to start.
const AWAY: Duration = Duration::from_secs(5);
/// How long there is no quorum.
const OUTAGE: Duration = Duration::from_secs(30);
const UNREADY_WITHIN: Duration = Duration::from_secs(10);
/// What a poll of three workers may add to a time.
const POLLED: Duration = Duration::from_millis(500);

const fn on_cluster(name: &'static str, holds: &'static str, play: fn(&mut Stage) -> Result<(), String>) -> Row {
    Row {
        name,
        holds,
        broker: Own::Cluster,
        play,
    }
}

fn leader_killed(stage: &mut Stage) -> Result<(), String> {
    let cluster = Cluster::around(&stage.broker)?;
    stage.set("AMQP__URL", &cluster.url());
    stage.stretch(EVERY * (KILLS + 1))?;
    stage.start_workers()?;
    for part in 0..KILLS {
        publish_part(stage, part, KILLS)?;
        let leader = cluster.leader(&stage.queue("jobs"))?;
        let before = stage.delivered()?;
        cluster.kill(&[leader]);
        let killed = Instant::now();
        goes_on(stage, before, killed)?;
        stage.last(AWAY.saturating_sub(killed.elapsed()));
        cluster.restart(&[leader]);
        stage.last(EVERY.saturating_sub(killed.elapsed()));
    }
    stage.note(format!("{KILLS} leaders killed"));
    end(stage)
}

/// Once with the leader of the jobs queue left, and a worker that loses no connection by it; once with a follower.
fn no_quorum(stage: &mut Stage) -> Result<(), String> {
    let cluster = Cluster::around(&stage.broker)?;
    stage.set("AMQP__URL", &cluster.url());
    stage.stretch(Duration::from_secs(30))?;
    publish_part(stage, 0, 3)?;
    let mut leader = cluster.leader(&stage.queue("jobs"))?;
    stage.set("AMQP__URL", &cluster.direct(leader));
    stage.add_worker()?;
    stage.set("AMQP__URL", &cluster.url());
    for _ in 1..WORKERS {
        stage.add_worker()?;
    }
    for part in 1..3 {
        publish_part(stage, part, 3)?;
        let survivor = if part == 1 { leader } else { (leader + 1) % 3 };
        let lost: Vec<_> = Cluster::PLACES.into_iter().filter(|place| *place != survivor).collect();
        cluster.kill(&lost);
        let begun = Instant::now();
        let noticed = stage.wait("every worker to be not ready", |stage| {
            (stage.ready() == 0).then(|| begun.elapsed())
        })?;
        stage.demand(noticed <= UNREADY_WITHIN + POLLED, || {
            format!("not ready after {noticed:.1?}")
        });
        stage.note(format!("not ready after {noticed:.1?}"));
        let before = stage.delivered()?;
        let mut ready = 0;
        while begun.elapsed() < OUTAGE {
            stage.last(Duration::from_secs(1));
            ready = ready.max(stage.ready());
        }
        stage.demand(ready == 0, || format!("{ready} workers were ready without a quorum"));
        cluster.restart(&lost);
        let restarted = Instant::now();
        let back = stage.wait_consuming(None)?;
        stage.resumed(back.saturating_duration_since(restarted));
        goes_on(stage, before, restarted)?;
        leader = cluster.leader(&stage.queue("jobs"))?;
    }
    end(stage)
}

/// One of so many equal parts of the jobs; the last has what is left over.
fn publish_part(stage: &mut Stage, part: u32, parts: u32) -> Result<(), String> {
    let (jobs, part, parts) = (stage.run.jobs, part as usize, parts as usize);
    let jobs: Vec<_> = (jobs * part / parts..jobs * (part + 1) / parts)
        .map(Stage::job)
        .collect();
    stage.publish(&jobs)
}

/// Waits until more is delivered than may have been in work when it happened.
fn goes_on(stage: &mut Stage, before: u64, since: Instant) -> Result<(), String> {
    let due = (before + IN_WORK + 1).min(stage.evidence.published.len() as u64);
    let on = stage.wait_delivered(due)?;
    stage.resumed(on.saturating_duration_since(since));
    Ok(())
}

fn end(stage: &mut Stage) -> Result<(), String> {
    let fallen = stage.fallen();
    stage.demand(fallen == 0, || format!("{fallen} of {WORKERS} workers ended"));
    stage.settle()
}
