//! What a job costs: a private broker, a server that costs next to nothing, the floor, and the real worker, side by side.
//!
//! Separate from the fault run because its question is another one: not whether anything is lost, but what a job costs
//! beside a loop that only takes, calls and acknowledges. It uses the program through its public commands alone, asserts no
//! time, and leaves nothing running. `docs/performance.md` says how to read it.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unreachable_pub
)]

#[path = "../../tests/it/broker.rs"]
mod broker;
mod figures;
mod floor;
#[path = "../../tests/it/http.rs"]
mod http;
mod plot;
#[path = "../../tests/it/process.rs"]
mod process;
mod producer;
#[path = "../../tests/it/redis_server.rs"]
mod redis_server;
mod rows;
mod server;
mod stand;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

use crate::figures::Results;
use crate::rows::{ROWS, Row, Scale};
use crate::stand::Stand;

/// Whatever ends a run.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures what a job costs beside a loop that only takes, calls and acknowledges.
///
/// `DINGCARD_BIN` names a dingcard to measure instead of the one that was built with this.
#[derive(Debug, Parser)]
#[command(name = "throughput", args_conflicts_with_subcommands = true)]
#[expect(clippy::struct_excessive_bools, reason = "flags of a command line")]
struct Args {
    /// Only rows whose name contains this; repeats.
    #[arg(long, value_name = "ROW")]
    only: Vec<String>,
    /// Plays every row with a few hundred jobs: shows that it can be played, and measures nothing.
    #[arg(long)]
    quick: bool,
    /// How often each row is played; the median counts.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The table as Markdown.
    #[arg(long)]
    markdown: bool,
    /// Writes the plot to this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Lists the rows, and ends.
    #[arg(long)]
    list: bool,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// The bare loop, as a process of its own.
    #[command(hide = true)]
    Floor(floor::Args),
}

fn main() -> ExitCode {
    let mut args = Args::parse();
    let done = match args.part.take() {
        Some(Part::Floor(floor)) => floor::run(floor),
        None => run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("throughput: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Failure> {
    let chosen = |row: &&Row| args.only.is_empty() || args.only.iter().any(|name| row.name.contains(name.as_str()));
    let rows: Vec<&Row> = ROWS.iter().filter(chosen).collect();
    if rows.is_empty() {
        return Err(format!("no row is named like {}; see --list", args.only.join(" or ")).into());
    }
    if args.list {
        for row in rows {
            println!("{:<8} {}", row.name, row.asks);
        }
        return Ok(());
    }
    let (scale, rounds) = if args.quick {
        (Scale::QUICK, 1)
    } else {
        (Scale::FULL, args.rounds)
    };
    let stand = Stand::start()?;
    let mut results = Results::default();
    for round in 1..=rounds {
        for row in rows.iter().filter(|row| round == 1 || !row.once) {
            let begun = Instant::now();
            (row.play)(&stand, &scale, &mut results).map_err(|error| format!("{}: {error}", row.name))?;
            eprintln!(
                "round {round} of {rounds}: {} ({:.0} s)",
                row.name,
                begun.elapsed().as_secs_f64()
            );
        }
    }
    println!("{}", figures::table(&results, args.markdown, !args.quick));
    if args.quick {
        println!("every row was played; with so few jobs the figures mean nothing");
    }
    if let Some(path) = &args.svg {
        let plot = plot::bars(&results).ok_or("the plot needs the row `instant`")?;
        std::fs::write(path, plot).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}
