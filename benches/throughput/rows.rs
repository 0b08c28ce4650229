//! The rows: what each measures in one round. What a good figure is, `figures` says.
//!
//! Separate from the stand because a row is a question. Whatever is compared is measured one after the other in the same
//! round, so that a machine which is busy for a while is so for both.

use std::time::{Duration, Instant};

use crate::Failure;
use crate::figures::Results;
use crate::stand::{Load, Running, Stand, Who};

/// A question.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) asks: &'static str,
    /// Whether one round answers it.
    pub(crate) once: bool,
    pub(crate) play: fn(&Stand, &Scale, &mut Results) -> Result<(), Failure>,
}

/// How much is done.
pub(crate) struct Scale {
    /// Jobs before and in a window.
    warm_up: u64,
    jobs: u64,
    /// The same with a server that takes its time.
    slow_jobs: u64,
    /// Users of the small and of the large cache.
    users: [u64; 2],
    apps: usize,
    /// Jobs that wait, and of which memory is measured.
    backlog: u64,
    /// Paced jobs.
    paced: u64,
    starts: usize,
}

impl Scale {
    pub(crate) const FULL: Self = Self {
        warm_up: 5_000,
        jobs: 50_000,
        slow_jobs: 40_000,
        users: [1_000, 100_000],
        apps: 50,
        backlog: 1_000_000,
        paced: 5_000,
        starts: 5,
    };
    /// Shows that every row can be played, and nothing else.
    pub(crate) const QUICK: Self = Self {
        warm_up: 100,
        jobs: 300,
        slow_jobs: 300,
        users: [20, 200],
        apps: 3,
        backlog: 2_000,
        paced: 100,
        starts: 1,
    };

    fn load(&self, who: Who, prefetch: u16) -> Load {
        Load {
            who,
            workers: 1,
            prefetch,
            delay: Duration::ZERO,
            recipients: 1,
            mobiles: None,
            apps: 1,
            warm_up: self.warm_up,
            jobs: self.jobs,
        }
    }

    fn slow(&self, who: Who, prefetch: u16) -> Load {
        Load {
            delay: SLOW,
            jobs: self.slow_jobs,
            ..self.load(who, prefetch)
        }
    }
}

/// A server that takes as long as a real one may.
const SLOW: Duration = Duration::from_millis(50);
/// Jobs a second where they are paced.
const PACE: u32 = 500;
/// Memory is looked at so many times.
const LOOKS: u64 = 10;
/// A queue that is short and never empty.
const FEW: u64 = 10;

pub(crate) const ROWS: &[Row] = &[
    Row {
        name: "instant",
        asks: "CPU a job and jobs a second, with a server that answers at once",
        once: false,
        play: instant,
    },
    Row {
        name: "slow",
        asks: "the same with a server that takes 50 ms",
        once: false,
        play: slow,
    },
    Row {
        name: "latency",
        asks: "from publishing to the call, at 500 jobs a second",
        once: false,
        play: latency,
    },
    Row {
        name: "start",
        asks: "from the start of a worker to its first card",
        once: false,
        play: start,
    },
    Row {
        name: "calls",
        asks: "calls a card, 20 recipients a job, all known",
        once: true,
        play: calls,
    },
    Row {
        name: "users",
        asks: "CPU a job with few and with many users in the cache",
        once: false,
        play: users,
    },
    Row {
        name: "apps",
        asks: "CPU a job with one app and with many",
        once: false,
        play: apps,
    },
    Row {
        name: "workers",
        asks: "jobs a second of three workers and of one",
        once: false,
        play: workers,
    },
    Row {
        name: "backlog",
        asks: "CPU a job with few and with many jobs waiting, and memory after all of them",
        once: true,
        play: backlog,
    },
];

fn instant(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for prefetch in [64, 256] {
        for (who, name) in [
            (Who::Floor(1), "floor"),
            (Who::Worker, "worker"),
            (Who::WithRedis, "redis"),
            (Who::Floor(2), "floor-2-threads"),
        ] {
            let window = stand.run(&scale.load(who, prefetch))?;
            results.note(&format!("{name}-{prefetch}-cpu"), window.cpu_us());
            results.note(&format!("{name}-{prefetch}-rate"), window.jobs_per_second());
            match who {
                Who::Worker => results.note("broker-deliver", window.broker_us()),
                Who::WithRedis => results.note("redis-server", window.redis_us()),
                Who::Floor(_) => {}
            }
        }
    }
    Ok(())
}

fn slow(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for (who, name) in [
        (Who::Floor(1), "floor"),
        (Who::Worker, "worker"),
        (Who::WithRedis, "redis"),
    ] {
        let window = stand.run(&scale.slow(who, 256))?;
        results.note(&format!("{name}-slow-cpu"), window.cpu_us());
        results.note(&format!("{name}-slow-rate"), window.jobs_per_second());
    }
    Ok(())
}

fn latency(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for (who, name) in [(Who::Floor(1), "floor"), (Who::Worker, "worker")] {
        let load = scale.load(who, 64);
        stand.prepare(&load)?;
        stand.publish(&load, load.warm_up)?;
        let running = stand.begin(&load)?;
        running.wait(load.warm_up)?;
        stand.server.note_arrivals();
        let mut published = Vec::new();
        let begun = Instant::now();
        for n in 0..scale.paced {
            let due = Duration::from_secs(1) / PACE * u32::try_from(n)?;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
            let at = Instant::now();
            published.push((stand.publish(&load, 1)?, at));
        }
        running.wait(load.warm_up + scale.paced)?;
        let arrivals = stand.server.take_arrivals();
        let mut took: Vec<Duration> = Vec::new();
        for (n, at) in published {
            let arrived = arrivals.get(&n).ok_or("a job that did not arrive")?;
            took.push(arrived.saturating_duration_since(at));
        }
        took.sort_unstable();
        for (percent, figure) in [(50, "p50"), (99, "p99")] {
            let at = took[(took.len() - 1) * percent / 100];
            results.note(&format!("{name}-{figure}"), at.as_secs_f64() * 1e3);
        }
        running.finish(load.warm_up + scale.paced)?;
    }
    Ok(())
}

fn start(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for _ in 0..scale.starts {
        let load = scale.load(Who::Worker, 64);
        stand.prepare(&load)?;
        stand.publish(&load, 1)?;
        let begun = Instant::now();
        let running = stand.begin(&load)?;
        running.wait(1)?;
        results.note("start", begun.elapsed().as_secs_f64() * 1e3);
        running.finish(1)?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "numbers of calls")]
fn calls(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    let load = Load {
        recipients: 20,
        mobiles: Some(scale.warm_up),
        ..scale.load(Who::Worker, 16)
    };
    let window = stand.run(&load)?;
    results.note("calls", window.calls as f64 / window.recipients as f64);
    Ok(())
}

fn users(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for (users, name) in scale.users.into_iter().zip(["few", "many"]) {
        let load = Load {
            mobiles: Some(users),
            warm_up: users + scale.warm_up,
            ..scale.load(Who::Worker, 64)
        };
        results.note(&format!("users-{name}"), stand.run(&load)?.cpu_us());
    }
    Ok(())
}

/// On a broker of its own: the queues of many apps would be a load on that of the other rows.
fn apps(_: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    let stand = Stand::start()?;
    for (apps, prefetch, name) in [(1, 250, "few"), (scale.apps, 5, "many")] {
        let load = Load {
            apps,
            // The same number in work; what is published ends with every queue at the same time.
            jobs: scale.jobs / 50 * 50,
            ..scale.load(Who::Worker, prefetch)
        };
        results.note(&format!("apps-{name}"), stand.run(&load)?.cpu_us());
    }
    Ok(())
}

fn workers(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    for (workers, name) in [(1, "one"), (3, "three")] {
        let load = Load {
            workers,
            jobs: scale.slow_jobs / 4 * workers as u64,
            ..scale.slow(Who::Worker, 64)
        };
        results.note(&format!("workers-{name}"), stand.run(&load)?.jobs_per_second());
    }
    Ok(())
}

/// Both while jobs are published as fast as they are worked on, so that nothing but the number of those that wait differs.
fn backlog(stand: &Stand, scale: &Scale, results: &mut Results) -> Result<(), Failure> {
    let load = scale.load(Who::Worker, 256);
    stand.prepare(&load)?;
    let running = stand.begin(&load)?;
    let few = u64::from(load.prefetch) + FEW;
    results.note("backlog-few", kept_waiting(stand, &running, 0, few)?);
    running.finish(few + load.warm_up + load.jobs)?;

    stand.prepare(&load)?;
    results.note("broker-publish", stand.publishing_us(&load, scale.backlog)?);
    let running = stand.begin(&load)?;
    results.note(
        "backlog-many",
        kept_waiting(stand, &running, scale.backlog, scale.backlog)?,
    );
    for look in 1..=LOOKS {
        running.wait(scale.backlog * look / LOOKS)?;
        let resident = running.resident()?;
        if look == LOOKS / 2 {
            results.note("memory-half", resident);
        }
        if look == LOOKS {
            results.note("memory", resident);
        }
    }
    running.finish(scale.backlog + load.warm_up + load.jobs)
}

/// CPU a job while `ahead` jobs more are published than are done; `published` are already.
fn kept_waiting(stand: &Stand, running: &Running<'_>, published: u64, ahead: u64) -> Result<f64, Failure> {
    let load = running.load();
    let mut published = published;
    let mut feed = |until: u64| -> Result<(), Failure> {
        while published < until {
            let wanted = until.min(stand.server.counts().cards + ahead);
            if wanted > published {
                stand.publish(&load, wanted - published)?;
                published = wanted;
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(())
    };
    feed(load.warm_up + ahead)?;
    let window = std::thread::scope(|scope| {
        let watching = scope.spawn(|| running.window(load.warm_up, load.jobs));
        feed(load.warm_up + load.jobs + ahead)?;
        watching.join().map_err(|_| "the watching thread failed")?
    })?;
    Ok(window.cpu_us())
}
