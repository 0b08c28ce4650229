//! Telling the producer what became of a job, where it asked to be told (`reply_to`).
//!
//! Separate from settling because it comes after it and can never hold it up: a queue that is gone, or a broker that takes
//! nothing for a while, costs the result and not the job. It decides nothing.

use std::collections::HashMap;
use std::time::Duration;

use tracing::Level;

use super::Progress;
use super::settle::Settlement;
use crate::amqp::{Delivery, PublishError, Publisher, ReplyTo};
use crate::outcome::{Outcome, Reason};
use crate::repeats::Repeats;
use crate::result::{JobResult, RecipientResult};
use crate::retry::Schedule;
use crate::shutdown::Shutdown;
use crate::slice::Slices;

/// How long a result is tried to be handed to the broker.
const PATIENCE: Duration = Duration::from_secs(30);

/// A result that somebody waits for.
pub(super) struct Reply {
    to: ReplyTo,
    result: JobResult,
}

impl Reply {
    /// The result that a settlement means; `None` where nobody asked for it, or no attempt was made.
    pub(super) fn of(delivery: &Delivery, settlement: &Settlement) -> Option<Self> {
        let to = delivery.reply_to()?;
        let (ended, reason, open) = match settlement {
            Settlement::Move(_) | Settlement::Wait { .. } => return None,
            Settlement::Done(ended) => (ended, Reason::None, 0),
            Settlement::Dead { ended, reason } => (ended, *reason, 0),
            Settlement::Retry { ended, reason, .. } => (ended, *reason, ended.progress.open.open()),
        };
        let recipients = match ended.whole {
            Some(count) => all(delivery, count, reason),
            None => finals(&ended.progress),
        };
        let no_attempt = open > 0 && recipients.is_empty() && reason.holds();
        (!no_attempt).then(|| Self {
            to,
            result: JobResult {
                id: ended.job_id.clone(),
                app: ended.app.clone(),
                attempt: delivery.headers().attempt,
                recipients,
                open,
                reason,
                detail: ended.progress.detail.clone(),
            },
        })
    }

    /// Publishes it, again and again for a while, but not beyond the end of `shutdown`. A queue that is gone has nobody who
    /// waits.
    pub(super) async fn send(self, publisher: &Publisher, repeats: &Repeats, shutdown: &Shutdown) {
        let body = serde_json::to_vec(&self.result).unwrap_or_default();
        let published = async {
            let mut schedule = Schedule::reconnect(Duration::from_secs(5));
            loop {
                match publisher.reply(&self.to, &body).await {
                    Ok(()) => return,
                    Err(PublishError::Unroutable) => {
                        tracing::debug!(
                            job = self.result.id,
                            reply_to = self.to.queue(),
                            "nobody waits for the result"
                        );
                        return;
                    }
                    Err(_) => tokio::time::sleep(schedule.wait()).await,
                }
            }
        };
        let published = async {
            tokio::select! {
                () = published => true,
                () = shutdown.aborted() => false,
            }
        };
        if !tokio::time::timeout(PATIENCE, published).await.unwrap_or(false) {
            let event = "a result was not confirmed";
            repeats.write(Level::WARN, event, &self.result.app, Reason::None, || {
                tracing::warn!(
                    app = self.result.app,
                    job = self.result.id,
                    reply_to = self.to.queue(),
                    "{event} and is given up; what it tells of is settled all the same"
                );
            });
        }
    }
}

/// Who became final in this attempt.
fn finals(progress: &Progress) -> Vec<RecipientResult> {
    let carriers: HashMap<_, _> = progress.carriers.iter().map(|(position, id)| (position, id)).collect();
    let well = progress.finals.iter().map(|last| RecipientResult {
        position: last.position,
        outcome: last.outcome,
        reason: last.reason,
        carrier_id: carriers.get(&last.position).map(ToString::to_string),
    });
    let failed_now = |position: usize| progress.dead.0.iter().any(|slice| slice.open().contains(&position));
    let failed = progress.failed.each().filter(|(_, position)| failed_now(*position));
    let failed = failed.map(|(reason, position)| dead(position, reason));
    let mut recipients: Vec<_> = well.chain(failed).collect();
    recipients.sort_unstable_by_key(|recipient| recipient.position);
    recipients
}

/// Whoever was open in a job that died as a whole.
fn all(delivery: &Delivery, count: usize, reason: Reason) -> Vec<RecipientResult> {
    let open = delivery.headers().open.as_deref();
    let open = open.and_then(|open| Slices::parse(open, count.max(1)));
    match open {
        Some(slices) => slices
            .0
            .iter()
            .flat_map(crate::slice::Slice::open)
            .map(|position| dead(*position, reason))
            .collect(),
        None => (0..count).map(|position| dead(position, reason)).collect(),
    }
}

fn dead(position: usize, reason: Reason) -> RecipientResult {
    RecipientResult {
        position,
        outcome: Outcome::Dead,
        reason,
        carrier_id: None,
    }
}
