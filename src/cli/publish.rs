//! `dingcard publish`: jobs from flags or from NDJSON, mandatory and confirmed.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use futures_util::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};
use serde_json::value::to_raw_value;

use super::say;
use crate::amqp::{Broker, Destination, Publisher, Queue};
use crate::config::{Config, DEFAULT_APP};
use crate::job::{Body, Job, Recipient, random_id};

/// Publishes in flight: more than the publisher has channels, so that none idles.
const IN_FLIGHT: usize = 64;

/// Which jobs.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    job: JobArgs,
    /// NDJSON, a job a line; - for standard input. It is read and checked whole before anything is sent.
    #[arg(long, value_name = "FILE", conflicts_with = "JobArgs")]
    file: Option<PathBuf>,
    /// Into the urgent queue, whose jobs go before others.
    #[arg(long)]
    urgent: bool,
}

/// The fields of a job, as flags.
#[derive(Debug, clap::Args)]
pub(super) struct JobArgs {
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

/// A body that was found in order, and where it goes.
struct Outgoing {
    id: String,
    queue: Queue,
    body: Vec<u8>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let jobs = match &args.file {
        Some(path) => from_lines(config, &read(path)?, args.urgent)?,
        None => vec![outgoing(config, &serde_json::to_vec(&args.job.body()?)?, args.urgent)?],
    };
    let broker = Broker::new(config);
    let publisher = broker.connect_publisher().await?;
    let result = publish(&publisher, jobs).await;
    broker.close().await;
    result
}

async fn publish(publisher: &Publisher, jobs: Vec<Outgoing>) -> anyhow::Result<()> {
    let (total, mut confirmed) = (jobs.len(), 0);
    let bar = progress_bar(total);
    // The bar makes way for an ID only where both are on the screen.
    let shared = std::io::stdout().is_terminal();
    let failed = &AtomicBool::new(false);
    let published = stream::iter(jobs).map(|job| async move {
        if failed.load(Ordering::Relaxed) {
            return (job.id, None);
        }
        let to = Destination::Queue(job.queue);
        let result = publisher.publish(&to, &job.body, properties(&job.id)).await;
        failed.fetch_or(result.is_err(), Ordering::Relaxed);
        (job.id, Some(result))
    });
    let mut published = published.buffered(IN_FLIGHT);
    let mut unconfirmed = Vec::new();
    while let Some((id, result)) = published.next().await {
        match result {
            Some(Ok(())) => {}
            Some(Err(error)) => {
                unconfirmed.push(format!("{id}: {error}"));
                continue;
            }
            None => continue,
        }
        if shared {
            bar.suspend(|| say(&id))?;
        } else {
            say(&id)?;
        }
        bar.inc(1);
        confirmed += 1;
    }
    bar.finish_and_clear();
    ensure!(
        unconfirmed.is_empty(),
        "{confirmed} of {total} jobs were published, and their ids printed; not confirmed, so perhaps published:\n{}\n\
         the others were not tried. Publish what is missing again under the same ids",
        unconfirmed.join("\n")
    );
    Ok(())
}

fn progress_bar(total: usize) -> ProgressBar {
    if total < 2 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} published, {per_sec}, {eta} left");
    ProgressBar::new(total as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn properties(id: &str) -> BasicProperties {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let mut headers = FieldTable::default();
    let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(millis));
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_timestamp(now.as_secs())
        .with_headers(headers);
    match ShortString::try_new(id) {
        Ok(id) => properties.with_message_id(id),
        // 128 characters can be more bytes than AMQP takes; the body has the ID as well.
        Err(_) => properties,
    }
}

/// Checks a body as the worker will, and finds its queue.
fn outgoing(config: &Config, body: &[u8], urgent: bool) -> anyhow::Result<Outgoing> {
    let random = random_id();
    let job = Job::decode(body, Some(&random))?;
    let app = job.app.unwrap_or_else(|| DEFAULT_APP.to_owned());
    ensure!(
        config.apps.contains_key(&app),
        "app: {app:?} is not in the configuration, so it has no queue"
    );
    let queue = if urgent { Queue::Urgent(app) } else { Queue::Jobs(app) };
    Ok(Outgoing {
        id: job.id,
        queue,
        body: body.to_vec(),
    })
}

fn from_lines(config: &Config, text: &str, urgent: bool) -> anyhow::Result<Vec<Outgoing>> {
    let mut jobs = Vec::new();
    let mut faults = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match outgoing(config, line.as_bytes(), urgent) {
            Ok(job) => jobs.push(job),
            Err(error) => faults.push(format!("line {}: {error:#}", number + 1)),
        }
    }
    if !faults.is_empty() {
        let more = faults.len().saturating_sub(10);
        faults.truncate(10);
        let more = if more > 0 {
            format!("\nand {more} more")
        } else {
            String::new()
        };
        bail!("nothing was published:\n{}{more}", faults.join("\n"));
    }
    Ok(jobs)
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
