//! Workers that end: nothing but their own work is in doubt, and that is settled by the name of the card.

use std::time::{Duration, Instant};

use super::{Row, row};
use crate::stage::{IN_WORK, PREFETCH, Stage, WORKERS};

pub(super) const ROWS: &[Row] = &[
    row("none", "duplicates 0", none),
    row(
        "worker-kill9",
        "one of three killed with kill -9 every 2 s; duplicates 0 on createAndDeliver",
        killed,
    ),
    row(
        "worker-kill9-interactive",
        "the same on interactiveCards/send; duplicates at most kills x jobs in work",
        killed_interactive,
    ),
    row(
        "rolling-restart",
        "SIGTERM for one after another; duplicates 0, each exits 0 within its grace",
        rolling,
    ),
];

/// The time between two kills.
const KILL_EVERY: Duration = Duration::from_secs(2);
/// `shutdown_grace` of the rows.
const GRACE: Duration = Duration::from_secs(10);

fn none(stage: &mut Stage) -> Result<(), String> {
    stage.start_workers()?;
    let late = stage.run.jobs / 100;
    let jobs: Vec<_> = (0..stage.run.jobs)
        .map(|number| {
            let mut job = Stage::job(number);
            if number < late {
                job["expires_at"] = "2020-01-01T00:00:00Z".into();
                let id = job["id"].as_str().unwrap_or_default().to_owned();
                stage.evidence.late.insert(id);
            }
            job
        })
        .collect();
    let begun = Instant::now();
    stage.publish(&jobs)?;
    let ended = stage.wait_delivered((jobs.len() - late) as u64)?;
    let rate = jobs.len() as f64 / ended.duration_since(begun).as_secs_f64();
    stage.note(format!("{rate:.0} jobs a second, publishing included"));
    stage.settle()
}

fn killed(stage: &mut Stage) -> Result<(), String> {
    let kills = kill_every_two_seconds(stage)?;
    stage.note(format!("{kills} kills"));
    Ok(())
}

fn killed_interactive(stage: &mut Stage) -> Result<(), String> {
    stage.set("APPS__DEFAULT__CARD_API", "interactive");
    let kills = kill_every_two_seconds(stage)?;
    let in_work = PREFETCH as u64;
    stage.evidence.duplicates_allowed = kills * in_work;
    stage.note(format!("{kills} kills, so at most {} duplicates", kills * in_work));
    Ok(())
}

fn kill_every_two_seconds(stage: &mut Stage) -> Result<u64, String> {
    let whole = if stage.run.small { 10 } else { 60 };
    stage.stretch_answers(Duration::from_secs(whole))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.wait_delivered(IN_WORK)?;
    let mut kills: u64 = 0;
    let due = stage.run.jobs as u64 * 9 / 10;
    while stage.delivered()? < due && kills < whole {
        stage.replace_killed(kills as usize % WORKERS)?;
        kills += 1;
        stage.last(KILL_EVERY);
    }
    stage.settle()?;
    stage.demand(kills >= 2, || format!("only {kills} kills before all was delivered"));
    Ok(kills)
}

fn rolling(stage: &mut Stage) -> Result<(), String> {
    let (whole, pause) = if stage.run.small { (10, 1) } else { (60, 5) };
    stage.stretch_answers(Duration::from_secs(whole))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.wait_delivered(IN_WORK)?;
    let (mut stops, mut longest) = (0, Duration::ZERO);
    let due = stage.run.jobs as u64 * 9 / 10;
    while stage.delivered()? < due && stops < whole as usize {
        let (code, took) = stage.replace_stopped(stops % WORKERS)?;
        longest = longest.max(took);
        stops += 1;
        stage.demand(code == 0 && took < GRACE, || {
            format!("stop {stops} gave {code} after {took:?}")
        });
        stage.last(Duration::from_secs(pause));
    }
    stage.settle()?;
    stage.demand(stops >= WORKERS, || {
        format!("only {stops} stops before all was delivered")
    });
    stage.note(format!("{stops} stops, the longest {longest:.1?}"));
    Ok(())
}
