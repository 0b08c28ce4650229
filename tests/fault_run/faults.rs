//! The fault run: private brokers, Redis, the sandbox and workers; one fault at a time; a checker's line for each.
//!
//! Separate from the integration tests because its question is another one: not whether a behaviour is there, but whether
//! anything is lost or told twice while things are killed, at any number of jobs. `tests/faults` runs it, `tests/run` its
//! small set. It uses the program through its public commands alone, and leaves nothing running.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "numbers of jobs and shares of them"
)]
#![allow(clippy::float_cmp, reason = "counters are whole numbers")]

#[path = "../it/broker.rs"]
mod broker;
mod cluster;
#[path = "../it/http.rs"]
mod http;
#[path = "../it/process.rs"]
mod process;
mod proxy;
#[path = "../it/redis_server.rs"]
mod redis_server;
mod rows;
mod stage;
mod table;
mod verdict;
mod wire;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;

use crate::broker::Broker;
use crate::rows::{Own, Row};
use crate::stage::{Progress, Run, Stage};
use crate::table::Board;
use crate::verdict::Verdict;

/// Lines of the log that are printed where a row did not hold.
const LAST_LINES: usize = 25;

/// Starts private brokers, the sandbox and workers, injects one fault at a time, and says what was lost.
#[derive(Debug, Parser)]
#[command(name = "faults")]
#[allow(clippy::struct_excessive_bools, reason = "each is a flag")]
struct Args {
    /// Jobs a row.
    #[arg(long, default_value_t = 500)]
    jobs: usize,
    /// Only rows whose name contains this; repeats.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// The small set: 5 s an outage, two restarts of the broker.
    #[arg(long)]
    small: bool,
    /// How often the broker is restarted, and killed; 10 without it, 2 in the small set.
    #[arg(long)]
    restarts: Option<u32>,
    /// Rows at once; 3 without it, with `--rate` 1.
    #[arg(long)]
    lanes: Option<usize>,
    /// What the workers keep to at DingTalk's limit, instead of faults; each row has a number of jobs of its own.
    #[arg(long)]
    rate: bool,
    /// The table at the end as Markdown, and each line of it as soon as its row ends.
    #[arg(long)]
    markdown: bool,
    /// Lists the rows and what must hold in each, and ends.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let rows = if args.rate {
        rows::at_the_limit(args.small)
    } else {
        rows::all()
    };
    if args.list {
        for row in &rows {
            println!("{:<20} {}", row.name, row.holds);
        }
        return ExitCode::SUCCESS;
    }
    let chosen = |row: &Row| {
        let named = args.only.is_empty() || args.only.iter().any(|name| row.name.contains(name.as_str()));
        named && !(args.small && row.broker == Own::Cluster)
    };
    let rows: Vec<Row> = rows.into_iter().filter(chosen).collect();
    match start(&args, rows) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Whether every row held.
fn start(args: &Args, rows: Vec<Row>) -> Result<bool, String> {
    if rows.is_empty() {
        return Err(format!("no row is named like {}; see --list", args.only.join(" or ")));
    }
    if args.jobs < 100 {
        return Err("--jobs: at least 100, or a fault strikes nobody".to_owned());
    }
    let run = Run {
        bin: binary()?,
        jobs: args.jobs,
        small: args.small,
        restarts: args.restarts.unwrap_or(if args.small { 2 } else { 10 }),
        interrupted: interruption()?,
    };
    let forgeries = verdict::can_fail()?;
    stage::can_fail()?;
    println!("checker: all of {forgeries} forgeries were noticed");
    let begun = Instant::now();
    let board = Board::new(rows.len(), args.markdown);
    let shared: Mutex<Option<Arc<Broker>>> = Mutex::new(None);
    let queue: Mutex<VecDeque<(usize, Row)>> = Mutex::new(rows.into_iter().enumerate().collect());
    let results: Mutex<Vec<(usize, &'static str, Verdict)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..args.lanes.unwrap_or(if args.rate { 1 } else { 3 }).max(1) {
            scope.spawn(|| {
                loop {
                    // The lock is let go before the row is played.
                    let next = lock(&queue).pop_front();
                    let Some((place, row)) = next.filter(|_| !run.interrupted.load(Ordering::Relaxed)) else {
                        return;
                    };
                    let verdict = play(&run, &row, &shared, &board);
                    lock(&results).push((place, row.name, verdict));
                }
            });
        }
    });
    drop(shared);
    board.finish();
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(place, ..)| *place);
    let lines: Vec<_> = results.iter().map(|(_, name, verdict)| (*name, verdict)).collect();
    let table = if args.rate { table::measured } else { table::table };
    println!("\n{}", table(&lines, args.markdown));
    let held = lines.iter().filter(|(_, verdict)| verdict.holds()).count();
    let took = begun.elapsed().as_secs();
    let jobs = if args.rate {
        String::new()
    } else {
        format!(", {} jobs each, or as many as the row says", run.jobs)
    };
    println!("{held} of {} rows held{jobs}, in {took} s", lines.len());
    if run.interrupted.load(Ordering::Relaxed) {
        return Err("interrupted".to_owned());
    }
    Ok(held == lines.len())
}

/// One row from its broker to its line.
fn play(run: &Run, row: &Row, shared: &Mutex<Option<Arc<Broker>>>, board: &Board) -> Verdict {
    let begun = Instant::now();
    let progress = Arc::new(Progress::default());
    board.begin(row.name, &progress);
    let mut said = Vec::new();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let broker = match row.broker {
            Own::Shared => lock(shared).get_or_insert_with(|| Arc::new(Broker::start())).clone(),
            Own::Private | Own::Cluster => Arc::new(Broker::start()),
        };
        let namespace = format!("faults-{}", row.name);
        let mut stage = Stage::new(run, &namespace, &broker, progress)?;
        let result = (row.play)(&mut stage);
        if run.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted".to_owned());
        }
        // What broke off half-way is looked at all the same: its numbers are the question.
        if result.is_err() && !stage.is_settled() {
            let _also_wrong = stage.settle();
        }
        let mut verdict = stage.judge();
        verdict.wrong.extend(result.err());
        if !verdict.holds() {
            said = stage.logs();
        }
        Ok::<_, String>(verdict)
    }));
    let mut verdict = match played {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => Verdict {
            wrong: vec![error],
            ..Verdict::default()
        },
        Err(panic) => Verdict {
            wrong: vec![
                panic
                    .downcast_ref::<String>()
                    .cloned()
                    .unwrap_or_else(|| "a panic".to_owned()),
            ],
            ..Verdict::default()
        },
    };
    verdict.took = begun.elapsed();
    let log = (!said.is_empty()).then(|| keep(row.name, &said));
    board.end(row.name, &verdict, log.as_deref());
    verdict
}

/// Writes the log where it stays, and gives its end and its place.
fn keep(name: &str, said: &[String]) -> String {
    let file = tempfile::Builder::new()
        .prefix(&format!("dingcard-faults-{name}-"))
        .suffix(".log")
        .tempfile();
    let place = file
        .and_then(|file| {
            std::fs::write(file.path(), said.join("\n"))?;
            file.keep().map_err(|error| error.error)
        })
        .map_or_else(
            |error| format!("(not kept: {error})"),
            |(_, path)| path.display().to_string(),
        );
    let workers: Vec<&String> = said.iter().filter(|line| !line.contains(" DEBUG ")).collect();
    let last = workers
        .get(workers.len().saturating_sub(LAST_LINES)..)
        .unwrap_or_default();
    let last: Vec<&str> = last.iter().map(|line| line.as_str()).collect();
    format!("{}\n  all of it: {place}", last.join("\n"))
}

/// `dingcard`: named by the environment, or where cargo puts it beside its examples.
fn binary() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os("DINGCARD_BIN") {
        return Ok(named.into());
    }
    let own = std::env::current_exe().map_err(|error| error.to_string())?;
    let beside = own
        .parent()
        .and_then(|examples| examples.parent())
        .map(|folder| folder.join("dingcard"));
    beside
        .filter(|path| path.exists())
        .ok_or_else(|| "there is no dingcard beside this program: cargo build, or DINGCARD_BIN".to_owned())
}

/// Set at the first SIGINT or SIGTERM; the second ends the program at once.
fn interruption() -> Result<Arc<AtomicBool>, String> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = interrupted.clone();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if flag.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
                eprintln!("ending: what was started is being removed (once more ends at once)");
            }
        });
    });
    Ok(interrupted)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `1.2 s`
fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
