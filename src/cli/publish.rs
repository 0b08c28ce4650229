//! `dingcard publish`: jobs from flags or from NDJSON, mandatory and confirmed.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::ensure;
use futures_util::stream::{self, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::jobs::JobsArgs;
use super::say;
use crate::amqp::{Broker, Destination, Publisher, Queue};
use crate::config::{Config, DEFAULT_APP};
use crate::job::Job;

/// Publishes in flight: more than the publisher has channels, so that none idles.
const IN_FLIGHT: usize = 64;

/// A body that was found in order, and where it goes.
struct Outgoing {
    id: String,
    queue: Queue,
    body: Vec<u8>,
}

pub(super) async fn run(config: &Config, args: &JobsArgs) -> anyhow::Result<()> {
    let jobs = args.read("published", |job, body| outgoing(config, job, body, args.urgent))?;
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
