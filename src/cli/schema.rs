//! `dingcard schema`: JSON Schemas made from the types themselves.

use clap::ValueEnum;

use super::say;
use crate::config::Config;
use crate::job::Job;
use crate::result::JobResult;

/// What to print.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Whose schema.
    subject: Subject,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Subject {
    /// A job, as producers publish it.
    Job,
    /// A result message, as a job's `reply_to` gets it.
    Result,
    /// The configuration file.
    Config,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let schema = match args.subject {
        Subject::Job => Job::schema(),
        Subject::Result => JobResult::schema(),
        Subject::Config => Config::schema(),
    };
    Ok(say(serde_json::to_string_pretty(&schema)?)?)
}
