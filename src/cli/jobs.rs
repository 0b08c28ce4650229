//! The jobs that a command line names: one from flags, or many from NDJSON, each checked as the worker will.
//!
//! Separate because what publishes jobs and what sends them at once ask for them alike: a fault in one of many is named by
//! its line, and then nothing is done with any of them. It reads files and standard input, and asks nobody.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use serde_json::value::to_raw_value;

use crate::job::{Body, Job, Recipient, random_id};

/// Which jobs.
#[derive(Debug, clap::Args)]
pub(super) struct JobsArgs {
    #[command(flatten)]
    job: JobArgs,
    /// NDJSON, a job a line; - for standard input. It is read and checked whole before anything is sent.
    #[arg(long, value_name = "FILE", conflicts_with = "JobArgs")]
    file: Option<PathBuf>,
    /// As urgent jobs, which go before others.
    #[arg(long)]
    pub(super) urgent: bool,
}

/// The fields of a job, as flags.
#[derive(Debug, clap::Args)]
struct JobArgs {
    /// Names the job; publishing it twice shows it once. Random without it.
    #[arg(long)]
    id: Option<String>,
    /// An app of the configuration.
    #[arg(long)]
    app: Option<String>,
    /// A template alias, or a DingTalk template ID.
    #[arg(long)]
    template: Option<String>,
    /// A recipient by mobile number; repeats.
    #[arg(long, value_name = "NUMBER")]
    mobile: Vec<String>,
    /// A recipient by user ID; repeats.
    #[arg(long, value_name = "ID")]
    user_id: Vec<String>,
    /// A group by its openConversationId; repeats.
    #[arg(long, value_name = "ID")]
    conversation: Vec<String>,
    /// A card parameter; repeats.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    param: Vec<(String, String)>,
    /// Card parameters from a JSON object; --param overrides.
    #[arg(long, value_name = "FILE")]
    params_file: Option<PathBuf>,
    /// Not before this time, RFC 3339 with offset.
    #[arg(long, value_name = "TIME")]
    not_before: Option<jiff::Timestamp>,
    /// Never after this time, RFC 3339 with offset.
    #[arg(long, value_name = "TIME")]
    expires_at: Option<jiff::Timestamp>,
    /// The id of an earlier job whose cards get these parameters.
    #[arg(long, value_name = "ID")]
    update_of: Option<String>,
}

impl JobsArgs {
    /// The jobs, each with the body that it is read from, as far as `accept` takes them. A refusal names the line and says
    /// that nothing was `done`.
    pub(super) fn read<T>(
        &self,
        done: &str,
        accept: impl Fn(Job, &[u8]) -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        let checked = |body: &[u8]| accept(Job::decode(body, Some(&random_id()))?, body);
        let Some(path) = &self.file else {
            return Ok(vec![checked(&serde_json::to_vec(&self.job.body()?)?)?]);
        };
        let text = read(path)?;
        let (mut jobs, mut faults) = (Vec::new(), Vec::new());
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            match checked(line.as_bytes()) {
                Ok(job) => jobs.push(job),
                Err(error) => faults.push(format!("line {}: {error:#}", number + 1)),
            }
        }
        if faults.is_empty() {
            return Ok(jobs);
        }
        let more = faults.len().saturating_sub(10);
        faults.truncate(10);
        let more = if more > 0 {
            format!("\nand {more} more")
        } else {
            String::new()
        };
        bail!("nothing was {done}:\n{}{more}", faults.join("\n"));
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

impl JobArgs {
    fn body(&self) -> anyhow::Result<Body> {
        let mobiles = self.mobile.iter().cloned().map(Recipient::Mobile);
        let users = self.user_id.iter().cloned().map(Recipient::UserId);
        let groups = self.conversation.iter().cloned().map(Recipient::Conversation);
        let to: Vec<_> = mobiles.chain(users).chain(groups).collect();
        ensure!(
            !to.is_empty(),
            "nobody to send to: give --mobile, --user-id or --conversation, or --file with jobs"
        );
        let mut params = match &self.params_file {
            Some(path) => serde_json::from_str(&read(path)?).with_context(|| path.display().to_string())?,
            None => std::collections::BTreeMap::new(),
        };
        for (key, value) in &self.param {
            params.insert(key.clone(), to_raw_value(value)?);
        }
        Ok(Body {
            id: self.id.clone(),
            app: self.app.clone(),
            template: self.template.clone(),
            to,
            params: Some(params).filter(|p| !p.is_empty()),
            not_before: self.not_before,
            expires_at: self.expires_at,
            update_of: self.update_of.clone(),
        })
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is needed")?;
    Ok((key.to_owned(), value.to_owned()))
}
