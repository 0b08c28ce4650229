//! `dingcard send`: jobs from flags or from NDJSON, sent at once by the worker's own stages, with no broker.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{bail, ensure};
use futures_util::stream::{self, StreamExt as _};
use jiff::Timestamp;

use super::jobs::JobsArgs;
use super::say;
use crate::config::Config;
use crate::dingtalk::{DingTalk, Failure, masked};
use crate::job::{Job, Recipient};
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::outcome::{Outcome, Reason};
use crate::store::Store;
use crate::worker::{Order, Sender, Sent};

/// The word for a recipient that no outcome is known of.
const OPEN: &str = "open";

pub(super) async fn run(config: Config, args: &JobsArgs) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let apps = config.served_apps()?;
    let metrics = Arc::new(Metrics::new(&apps)?);
    let store = Store::connect(&config, &metrics).await?;
    let dingtalk = DingTalk::new(&config, &metrics, &store)?;
    let sender = Sender::new(config.clone(), dingtalk, Ledger::new(&config.ledger, store));
    let orders = args.read("sent", |job, _| order(&sender, job, args.urgent))?;

    let held = Mutex::new(HashMap::new());
    let (sender, held) = (&sender, &held);
    let mut sent = stream::iter(&orders)
        .map(|order| async move { (order, send(sender, order, held).await) })
        .buffered(config.amqp.prefetch.into());
    let mut tally = Tally::default();
    while let Some((order, sent)) = sent.next().await {
        tally.add(order, &sent)?;
    }
    tally.conclude()
}

/// What can be refused without asking DingTalk, is.
fn order(sender: &Sender, job: Job, urgent: bool) -> anyhow::Result<Order<'_>> {
    if let Some(at) = job.not_before.filter(|at| *at > Timestamp::now()) {
        bail!(
            "not_before: {at} is still to come, and without a broker nobody waits for it: publish the job (dingcard publish), \
             or leave not_before out"
        );
    }
    sender
        .order(job, urgent)
        .map_err(|failure| anyhow::anyhow!("{failure}\n{}", failure.remedy()))
}

/// Sends one job; of an app that was found to deliver nothing, no more are begun.
async fn send(sender: &Sender, order: &Order<'_>, held: &Mutex<HashMap<String, Failure>>) -> Sent {
    let held = || held.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(failure) = held().get(order.app_name()) {
        return Sent::nothing(order, failure);
    }
    let again = |failure: &Failure, wait: std::time::Duration| {
        tracing::warn!(job = order.job().id, reason = %failure.reason, detail = failure.detail,
            "trying again in {:.1} s", wait.as_secs_f64());
    };
    let sent = sender.send(order, again).await;
    if let Some(hold) = sent.failures.values().find(|failure| failure.reason.holds()) {
        held().insert(order.app_name().to_owned(), hold.clone());
    }
    sent
}

/// How many recipients came to what.
#[derive(Default)]
struct Tally {
    outcomes: BTreeMap<&'static str, usize>,
    /// Those who were not reached, by reason, with what happened to one of them.
    missed: BTreeMap<Reason, (usize, Option<Failure>)>,
    open: usize,
    /// Whether a call of theirs may have been carried out.
    maybe_shown: bool,
}

impl Tally {
    /// A line for each recipient of a job.
    fn add(&mut self, order: &Order<'_>, sent: &Sent) -> anyhow::Result<()> {
        let job = order.job();
        for (position, (recipient, (outcome, reason))) in job.to.iter().zip(&sent.recipients).enumerate() {
            let word = outcome.map_or(OPEN, Outcome::as_str);
            let why = if *reason == Reason::None { "" } else { reason.as_str() };
            let place = format!("to[{position}]");
            let line = format!("{:<38} {place:<7} {:<24} {word:<10} {why}", job.id, shown(recipient));
            say(line.trim_end())?;
            *self.outcomes.entry(word).or_default() += 1;
            if !matches!(outcome, Some(Outcome::Delivered | Outcome::Duplicate)) {
                let missed = self.missed.entry(*reason).or_default();
                missed.0 += 1;
                missed.1 = missed.1.take().or_else(|| sent.failures.get(reason).cloned());
                if outcome.is_none() {
                    self.open += 1;
                    let unanswered = [Reason::Network, Reason::BadResponse, Reason::ServerError];
                    self.maybe_shown |= unanswered.contains(reason);
                }
            }
        }
        Ok(())
    }

    /// The sum, and an error where somebody was not reached.
    fn conclude(self) -> anyhow::Result<()> {
        if self.outcomes.is_empty() {
            return Ok(());
        }
        let counts: Vec<_> = self.outcomes.iter().map(|(word, n)| format!("{n} {word}")).collect();
        say(counts.join(", "))?;
        let mut text = vec!["not everybody has the card:".to_owned()];
        for (reason, (count, failure)) in &self.missed {
            text.push(match failure {
                Some(failure) => format!("{count} {reason}: {}\n  {}", failure.detail, failure.remedy()),
                None => format!("{count} expired: expires_at had passed"),
            });
        }
        if self.open > 0 {
            text.push(
                "Nothing is final for those who are open: once that is mended, send again, to them alone.".to_owned(),
            );
        }
        if self.maybe_shown {
            text.push("Where no answer came, the card may have been shown all the same.".to_owned());
        }
        ensure!(self.missed.is_empty(), text.join("\n"));
        Ok(())
    }
}

/// As it may be shown.
fn shown(recipient: &Recipient) -> String {
    match recipient {
        Recipient::Mobile(mobile) => masked(mobile),
        Recipient::UserId(name) | Recipient::Conversation(name) => name.clone(),
    }
}
