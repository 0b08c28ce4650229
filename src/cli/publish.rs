//! `dingcard publish`: jobs from flags or from NDJSON, mandatory and confirmed.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::jobs::JobsArgs;
use super::{progress_bar, say};
use crate::amqp::{Broker, Destination, Publisher, Queue, Replies};
use crate::config::{Config, DEFAULT_APP};
use crate::job::Job;
use crate::result::JobResult;

/// Publishes in flight: more than the publisher has channels, so that none idles.
const IN_FLIGHT: usize = 64;

/// Which jobs, and whether to wait for them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    jobs: JobsArgs,
    /// Waits until every job is final and prints each result that comes back, as JSON; the exit code is 1 if somebody was
    /// not reached.
    #[arg(long)]
    wait: bool,
}

/// A body that was found in order, and where it goes.
struct Outgoing {
    id: String,
    queue: Queue,
    body: Vec<u8>,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let urgent = args.jobs.urgent;
    let jobs = args
        .jobs
        .read("published", |job, body| outgoing(config, job, body, urgent))?;
    let broker = Broker::new(config);
    let publisher = broker.connect_publisher().await?;
    let result = if args.wait {
        let replies = broker.replies().await?;
        publish_and_wait(&publisher, jobs, replies).await
    } else {
        publish(&publisher, jobs, None, |id| Ok(say(id)?)).await
    };
    broker.close().await;
    result
}

/// Publishes and prints what comes back, until the last result of every job.
async fn publish_and_wait(publisher: &Publisher, jobs: Vec<Outgoing>, mut replies: Replies) -> anyhow::Result<()> {
    // A job that is named twice is answered twice.
    let mut waiting = jobs.len();
    let mut missed = 0;
    let reply_to = replies.queue().to_owned();
    let results = async {
        while waiting > 0 {
            let body = replies.next().await;
            let body =
                body.context("the broker was lost; the jobs go on, but their results do not come here any more")?;
            let result: JobResult = serde_json::from_slice(&body).context("a result that is none")?;
            say(std::str::from_utf8(&body)?)?;
            waiting -= usize::from(result.open == 0);
            missed += usize::from(!result.is_good());
        }
        Ok(())
    };
    tokio::try_join!(publish(publisher, jobs, Some(&reply_to), |_| Ok(())), results)?;
    ensure!(
        missed == 0,
        "not everybody was reached: the results above say who and why"
    );
    Ok(())
}

async fn publish(
    publisher: &Publisher,
    jobs: Vec<Outgoing>,
    reply_to: Option<&str>,
    told: impl Fn(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (total, mut confirmed) = (jobs.len(), 0);
    let bar = progress_bar(total as u64, "{bar:40} {pos}/{len} published, {per_sec}, {eta} left");
    // The bar makes way for an ID only where both are on the screen.
    let shared = std::io::stdout().is_terminal();
    let failed = &AtomicBool::new(false);
    let published = stream::iter(jobs).map(|job| async move {
        if failed.load(Ordering::Relaxed) {
            return (job.id, None);
        }
        let to = Destination::Queue(job.queue);
        let result = publisher.publish(&to, &job.body, properties(&job.id, reply_to)).await;
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
            bar.suspend(|| told(&id))?;
        } else {
            told(&id)?;
        }
        bar.inc(1);
        confirmed += 1;
    }
    bar.finish_and_clear();
    let printed = if reply_to.is_none() {
        ", and their ids printed"
    } else {
        ""
    };
    ensure!(
        unconfirmed.is_empty(),
        "{confirmed} of {total} jobs were published{printed}; not confirmed, so perhaps published:\n{}\n\
         the others were not tried. Publish what is missing again under the same ids",
        unconfirmed.join("\n")
    );
    Ok(())
}

fn properties(id: &str, reply_to: Option<&str>) -> BasicProperties {
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
    let properties = match reply_to.and_then(|queue| ShortString::try_new(queue).ok()) {
        Some(queue) => properties.with_reply_to(queue).with_correlation_id(correlation_id(id)),
        None => properties,
    };
    match ShortString::try_new(id) {
        Ok(id) => properties.with_message_id(id),
        // 128 characters can be more bytes than AMQP takes; the body has the ID as well.
        Err(_) => properties,
    }
}

/// The job's ID, as far as AMQP takes it.
fn correlation_id(id: &str) -> ShortString {
    ShortString::try_new(id).unwrap_or_default()
}

/// Finds the queue of a job.
fn outgoing(config: &Config, job: Job, body: &[u8], urgent: bool) -> anyhow::Result<Outgoing> {
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
