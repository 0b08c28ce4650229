//! The verbs: one file each, and the only place that wires the parts together.
//!
//! Here errors become one text with a remedy, and a number that scripts can use.

mod check;
mod dead;
mod findings;
mod health;
mod jobs;
mod publish;
mod sandbox;
mod schema;
mod send;
mod systemd;
mod topology;
mod trials;
mod worker;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

use crate::config::{Config, ConfigError, LogFormat};
use crate::otel::{self, Exporter};

/// Exit code of a verb that failed.
const FAILED: u8 = 1;
/// Exit code of a configuration that cannot be used.
const BAD_CONFIGURATION: u8 = 64;

/// Sends DingTalk interactive cards from RabbitMQ jobs.
#[derive(Debug, Parser)]
#[command(version, about, max_term_width = 100, propagate_version = true)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrong usage, 64 bad configuration.")]
struct Cli {
    /// The configuration file; ./dingcard.toml if it is there, else the defaults. DINGCARD_SECTION__KEY overrides a key.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Consumes jobs and sends their cards, until SIGTERM.
    Worker(worker::Args),
    /// Publishes jobs: one from flags, or many from NDJSON.
    Publish(Box<publish::Args>),
    /// Sends jobs at once, without a broker, and says what became of each recipient.
    Send(Box<jobs::JobsArgs>),
    /// Lists, shows, replays and discards dead letters.
    Dead(dead::Args),
    /// Tries everything that a worker needs, and says what to do where something is missing.
    Check(check::Args),
    /// Says whether a running worker is ready, for health checks.
    Health(health::Args),
    /// Declares the queues and exchanges, or prints their definitions.
    Topology(topology::Args),
    /// Prints a JSON Schema.
    Schema(schema::Args),
    /// Runs a DingTalk for development and tests, with an inbox page.
    Sandbox(sandbox::Args),
}

/// Runs the verb of the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _closed = writeln!(std::io::stderr(), "dingcard: {error:#}");
            ExitCode::from(if error.is::<ConfigError>() {
                BAD_CONFIGURATION
            } else {
                FAILED
            })
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    if let Verb::Schema(args) = &cli.verb {
        return schema::run(args);
    }
    let config = load(cli.config.as_deref())?;
    // The provider is chosen once for the process: reqwest and lapin are built without one of their own.
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
    let runtime = runtime(&cli.verb)?;
    let level = match cli.verb {
        Verb::Worker(_) | Verb::Sandbox(_) => config.log.level.as_str(),
        // It says itself what went wrong.
        Verb::Check(_) => "off",
        _ => "warn",
    };
    let exporter = match cli.verb {
        Verb::Worker(_) => Exporter::new(&config)?,
        _ => None,
    };
    start_log(&config, level, exporter.as_ref())?;
    runtime.block_on(async {
        match cli.verb {
            Verb::Worker(args) => worker::run(config, args, cli.config, exporter).await,
            Verb::Publish(args) => publish::run(&config, &args).await,
            Verb::Send(args) => send::run(config, &args).await,
            Verb::Dead(args) => dead::run(&config, args).await,
            Verb::Check(args) => check::run(&config, file(cli.config.as_deref()), args).await,
            Verb::Health(args) => health::run(&config, args).await,
            Verb::Topology(args) => topology::run(&config, &args).await,
            Verb::Sandbox(args) => sandbox::run(&config, args).await,
            Verb::Schema(_) => Ok(()),
        }
    })
}

/// What the verb runs on. A worker takes one thread: its work is small steps between waits, and to pass each from core to core
/// costs as much as the step. More cores are for more workers.
fn runtime(verb: &Verb) -> std::io::Result<Runtime> {
    let mut builder = match verb {
        Verb::Worker(_) => {
            let mut one_thread = Builder::new_current_thread();
            // lapin brings messages, and tells that acknowledgements are written, from a thread of its own. At tokio's
            // default, of every 31 tasks one is taken from what other threads woke, and those two would wait for that.
            one_thread.global_queue_interval(2);
            one_thread
        }
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}

/// The file that is named, else the one in this folder.
fn file(named: Option<&Path>) -> Option<&Path> {
    named.or_else(|| Some(Path::new("dingcard.toml")).filter(|path| path.exists()))
}

/// The configuration: of its file, and of the environment.
fn load(named: Option<&Path>) -> Result<Config, ConfigError> {
    let env = std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
    Config::load(file(named), env)
}

/// Lines to standard error, and spans to `exporter`. Neither takes what is the other's.
fn start_log(config: &Config, level: &str, exporter: Option<&Exporter>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).map_err(|e| ConfigError::single("log.level", &e.to_string()))?;
    // lapin tells at error level of every lost connection, which the supervisor tells better.
    let filter = if level.contains("lapin") {
        filter
    } else {
        filter.add_directive("lapin=off".parse()?)
    };
    let filter = filter.add_directive(format!("{}=off", otel::TARGET).parse()?);
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(colour);
    let lines = match config.log.format {
        LogFormat::Text => lines.with_target(false).with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let layers: Vec<_> = std::iter::once(lines).chain(exporter.map(Exporter::layer)).collect();
    tracing_subscriber::registry().with(layers).init();
    Ok(())
}

/// A bar on standard error, where that is a screen and there is more than one step to show.
fn progress_bar(total: u64, template: &str) -> ProgressBar {
    if total < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total).with_style(style)
}

/// Writes a line to standard output; a reader that has gone away is a failure like any other.
fn say(line: impl std::fmt::Display) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}
