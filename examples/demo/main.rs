//! The demo: real jobs through a real RabbitMQ and a worker to a DingTalk that is played by the sandbox.
//!
//! `deploy/demo` builds and runs it. An example and no verb, because it looks at `dingcard` from outside, through the
//! same commands, queues and metrics that a user has. It refuses to look good: each kind of job has an expectation, and
//! with `--once` the exit code is 0 only if all of them came true.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs
)]

#[path = "../../tests/it/broker.rs"]
mod broker;
mod home;
#[path = "../../tests/it/http.rs"]
mod http;
mod interrupt;
mod jobs;
#[path = "../../tests/it/process.rs"]
mod process;
mod stage;
mod verdict;

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use interrupt::{Early, Interrupt};
use jobs::Kind;
use stage::Stage;
use verdict::{Check, Settled, Verdict};

/// How long no job may be settled before the demo stops waiting.
const STALL: Duration = Duration::from_mins(1);

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [once] if once == "--once" => true,
        _ => {
            eprintln!("run it through deploy/demo; deploy/demo --help tells how");
            return ExitCode::from(2);
        }
    };
    let began = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .and_then(|runtime| Ok((Interrupt::listen(&runtime)?, runtime)));
    let (interrupt, runtime) = match began {
        Ok(began) => began,
        Err(error) => {
            eprintln!("demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let result = binary().and_then(|bin| {
        let mut stage = Stage::set(&bin, &runtime, &interrupt, |next| {
            say(format_args!("{} {next}", dim("·")));
        })?;
        let good = play(&mut stage, &interrupt)?;
        if !once {
            stay(&mut stage, &interrupt)?;
        }
        say(format_args!("{} stopping", dim("·")));
        Ok(good)
    });
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Early::Interrupted) => {
            say(format_args!("interrupted; everything that the demo started is gone"));
            ExitCode::from(130)
        }
        Err(Early::Failed(why)) => {
            eprintln!("{} {why}", red("the demo cannot go on:"));
            ExitCode::FAILURE
        }
    }
}

/// The `dingcard` beside this program, or another one by `DEMO_DINGCARD`.
fn binary() -> Result<PathBuf, Early> {
    let named = std::env::var_os("DEMO_DINGCARD").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("dingcard"));
    match named.or_else(beside) {
        Some(bin) if bin.exists() => Ok(bin),
        bin => Err(Early::failed(format!(
            "there is no {}; run deploy/demo",
            bin.unwrap_or_default().display()
        ))),
    }
}

/// Publishes, waits and tells what became of it.
fn play(stage: &mut Stage<'_>, interrupt: &Interrupt) -> Result<bool, Early> {
    let kinds = jobs::kinds();
    let all: u64 = kinds.iter().map(Kind::jobs).sum();
    say(format_args!(
        "{} publishing {all} jobs to the queue {}",
        dim("·"),
        stage.home.name("jobs")
    ));
    say(format_args!(
        "  (the rate limits of the worker and the sandbox are off, so that it takes seconds)"
    ));
    let began = Instant::now();
    let published = stage.publish(&jobs::ndjson(&kinds))?;
    let mut raw = 0;
    for kind in kinds.iter().filter(|kind| kind.malformed) {
        stage.home.publish_raw(kind.name, &kind.bodies)?;
        raw += kind.jobs();
    }
    if published + raw != all {
        return Err(Early::failed(format!(
            "the broker confirmed {published} jobs, not {}",
            all - raw
        )));
    }
    let settled = wait_until_settled(stage, interrupt, all)?;
    let verdict = Verdict::reach(&kinds, stage)?;
    tell(&verdict, all, settled, began.elapsed());
    if !verdict.good() {
        for line in stage.complaints() {
            say(format_args!("  {line}"));
        }
    }
    Ok(verdict.good() && settled == all)
}

/// Follows the worker's metrics until every job has ended, or none does any more.
fn wait_until_settled(stage: &mut Stage<'_>, interrupt: &Interrupt, all: u64) -> Result<u64, Early> {
    let terminal = std::io::stderr().is_terminal() && std::io::stdout().is_terminal();
    let bar = if terminal {
        ProgressBar::new(all)
    } else {
        ProgressBar::hidden()
    };
    if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos}/{len} jobs settled") {
        bar.set_style(style);
    }
    let (mut before, mut moved) = (0, Instant::now());
    let settled = interrupt.until(Duration::MAX / 4, || {
        stage.check()?;
        let settled = verdict::settled(&stage.worker_url)
            .map_err(Early::failed)?
            .values()
            .sum();
        if settled > before {
            (before, moved) = (settled, Instant::now());
            bar.set_position(settled);
            if !terminal {
                say(format_args!("  {settled} of {all} jobs settled"));
            }
        }
        Ok((settled >= all || moved.elapsed() > STALL).then_some(settled))
    });
    bar.finish_and_clear();
    Ok(settled?.unwrap_or(before))
}

fn tell(verdict: &Verdict, all: u64, settled: u64, took: Duration) {
    say(format_args!("\n  {}", bold(format!("{}  verdict", verdict.heading))));
    for row in &verdict.rows {
        say(format_args!("  {}  {}", row.text, mark(row, "as expected", "expected")));
    }
    say("");
    let (settled, took) = (settled.to_string(), took.as_secs_f64());
    let time = Check {
        text: format!("{settled} of {all} jobs settled, {took:.1} s after the first was published"),
        good: settled == all.to_string(),
        instead: None,
    };
    for sum in std::iter::once(&time).chain(&verdict.sums) {
        say(format_args!("  {} {}", mark(sum, "", ""), sum.text));
    }
    say("");
}

fn mark(check: &Check, good: &str, bad: &str) -> String {
    match &check.instead {
        Some(instead) => red(format!("✗ {bad}: {instead}")),
        None if check.good => green(format!("✓ {good}").trim_end()),
        None => red(format!("✗ {bad}").trim_end()),
    }
}

/// Until a signal, which is how this ends well.
fn stay(stage: &mut Stage<'_>, interrupt: &Interrupt) -> Result<(), Early> {
    say(format_args!("{}", bold("Where to look")));
    say(format_args!(
        "  the cards, as they would look     {}/",
        stage.sandbox_url
    ));
    say(format_args!(
        "  the worker's Prometheus metrics   {}/metrics\n",
        stage.worker_url
    ));
    say(format_args!("{}", bold("One more card, from another terminal")));
    say(format_args!("  {}\n", stage.publish_command()));
    say(format_args!("Ctrl-C ends the demo and removes all of it."));
    let mut before = verdict::settled(&stage.worker_url).map_err(Early::failed)?;
    let watched = loop {
        if let Err(early) = interrupt.sleep(Duration::from_millis(500)) {
            break early;
        }
        if let Err(early) = stage.check() {
            break early;
        }
        if let Ok(now) = verdict::settled(&stage.worker_url) {
            tell_news(&before, &now);
            before = now;
        }
    };
    match watched {
        Early::Interrupted => {
            say("");
            Ok(())
        }
        failed @ Early::Failed(_) => Err(failed),
    }
}

fn tell_news(before: &Settled, now: &Settled) {
    for (outcome, count) in now {
        let more = count.saturating_sub(before.get(outcome).copied().unwrap_or_default());
        match more {
            0 => {}
            1 => say(format_args!("{} one more job: {outcome}", dim("·"))),
            more => say(format_args!("{} {more} more jobs: {outcome}", dim("·"))),
        }
    }
}

/// A line to standard output. That its reader has gone, as `tee` goes at Ctrl-C, must not keep the demo from cleaning up.
fn say(line: impl Display) {
    let _closed = writeln!(std::io::stdout(), "{line}");
}

fn green(text: impl Display) -> String {
    paint("32", text)
}

fn red(text: impl Display) -> String {
    paint("31", text)
}

fn bold(text: impl Display) -> String {
    paint("1", text)
}

fn dim(text: impl Display) -> String {
    paint("2", text)
}

/// In colour on a terminal, unless the user wants none.
fn paint(code: &str, text: impl Display) -> String {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    if wanted && std::io::stdout().is_terminal() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_string()
    }
}
