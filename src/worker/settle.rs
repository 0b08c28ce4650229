//! From what an attempt came to, to what the broker is told: decided as a value, carried out last.
//!
//! Separate so that the decision is one table and the effects stand in one place, each as hand-over first and
//! acknowledgement second. It calls no DingTalk.

use std::any::Any;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tracing::Level;

use super::sender::Order;
use super::{Progress, Worker};
use crate::amqp::{Delivery, Destination, Headers, Queue, Settled, published_at};
use crate::dingtalk::Remedy;
use crate::job::Job;
use crate::outcome::{Class, Outcome, Reason};
use crate::retry;
use crate::slice::Slices;

/// A pause before a job whose time was up goes on: it lost to others, so it steps behind them.
const AFTER_DEADLINE: Duration = Duration::from_secs(1);

/// What is to become of a delivery. Small, since it goes from step to step.
pub(super) enum Settlement {
    /// Not this queue's: to that one, as it is.
    Move(Queue),
    /// Early: back to its queue later, as it is.
    Wait {
        queue: Queue,
        job_id: String,
        delay: Duration,
    },
    /// Everybody is final.
    Done(Box<Ended>),
    /// Somebody is open.
    Retry {
        ended: Box<Ended>,
        queue: Queue,
        delay: Duration,
        reason: Reason,
    },
    /// Everybody is final, and somebody failed for good.
    Dead { ended: Box<Ended>, reason: Reason },
}

/// An attempt's result, with what its settlement needs to say.
pub(super) struct Ended {
    pub(super) app: String,
    pub(super) job_id: Option<String>,
    pub(super) progress: Progress,
    /// The recipients of a job that died as a whole, before anybody was looked at: what its headers say of them stands.
    pub(super) whole: Option<usize>,
}

impl Settlement {
    /// Dead as a whole, before anybody was looked at.
    pub(super) fn dead(app: &str, job: Option<&Job>, reason: Reason, detail: String) -> Self {
        let progress = Progress {
            attempt: 1,
            detail,
            ..Progress::default()
        };
        let job_id = job.map(|j| j.id.clone());
        Self::Dead {
            ended: Box::new(Ended {
                app: app.to_owned(),
                job_id,
                progress,
                whole: Some(job.map_or(0, |j| j.to.len())),
            }),
            reason,
        }
    }

    /// The worker's own code failed.
    pub(super) fn panicked(delivery: &Delivery, panic: &(dyn Any + Send)) -> Self {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        let detail = format!("the worker failed on this job, which is a fault of dingcard: {text}");
        Self::dead(delivery.arrived_by().app(), None, Reason::Panic, detail)
    }

    /// Too late for whoever is open.
    pub(super) fn expired(order: &Order<'_>, mut progress: Progress) -> Self {
        progress.expire_open();
        Self::ended(Ended::of(order, progress))
    }

    fn ended(ended: Box<Ended>) -> Self {
        match ended.progress.failed.main_reason() {
            Some(reason) => Self::Dead { ended, reason },
            None => Self::Done(ended),
        }
    }

    /// The decision: done, again, or dead.
    pub(super) fn of(worker: &Worker, order: Order<'_>, progress: Progress) -> Self {
        let mut ended = Ended::of(&order, progress);
        let progress = &mut ended.progress;
        let Some(trouble) = progress.trouble.clone().filter(|_| !progress.open.0.is_empty()) else {
            return Self::ended(ended);
        };
        let reason = trouble.reason;
        let unburnt = match trouble.class {
            _ if reason.holds() => Some(worker.holds.wait(order.app_name())),
            Class::Throttle => Some(retry::named_wait(trouble.wait.unwrap_or(AFTER_DEADLINE))),
            _ if reason == Reason::Deadline && progress.moved => Some(AFTER_DEADLINE),
            _ => None,
        };
        if let Some(delay) = unburnt {
            return Self::Retry {
                ended,
                queue: order.home,
                delay,
                reason,
            };
        }
        let attempt = progress.attempt;
        if let Some(delay) = retry::delayed(&worker.sender().config.retry, attempt, trouble.wait) {
            progress.attempt += 1;
            return Self::Retry {
                ended,
                queue: order.home,
                delay,
                reason,
            };
        }
        let last_word = if reason == Reason::CardMissing {
            reason
        } else {
            Reason::AttemptsExhausted
        };
        progress.fail_open(last_word);
        progress.detail = format!("{attempt} attempts; the last: {reason}: {}", progress.detail);
        Self::Dead {
            ended,
            reason: last_word,
        }
    }
}

impl Ended {
    fn of(order: &Order<'_>, progress: Progress) -> Box<Self> {
        Box::new(Self {
            app: order.app_name().to_owned(),
            job_id: Some(order.job.id.clone()),
            progress,
            whole: None,
        })
    }
}

/// Carries a settlement out.
pub(super) async fn settle(worker: &Worker, delivery: Delivery, settlement: Settlement) -> Settled {
    // All but the first boxed, since most jobs are done and all would carry the room of a hand-over.
    match settlement {
        Settlement::Done(ended) => done(worker, delivery, &ended).await,
        Settlement::Move(queue) => {
            let home = worker.names.queue(delivery.arrived_by());
            // No attempt was made, so but for where a suspect comes from nothing is noted.
            let headers = Headers {
                queue: (queue == Queue::Suspect).then_some(home),
                ..delivery.headers().clone()
            };
            let to = Destination::Queue(queue);
            Box::pin(worker.publisher.hand_over(delivery, &to, &headers, None)).await
        }
        Settlement::Wait { queue, job_id, delay } => {
            let headers = delivery.headers().clone();
            let to = Destination::Later(queue, delay);
            Box::pin(worker.publisher.hand_over(delivery, &to, &headers, Some(&job_id))).await
        }
        Settlement::Retry {
            ended,
            queue,
            delay,
            reason,
        } => Box::pin(retried(worker, delivery, &ended, queue, delay, reason)).await,
        Settlement::Dead { ended, reason } => Box::pin(dead(worker, delivery, &ended, reason)).await,
    }
}

async fn retried(
    worker: &Worker,
    delivery: Delivery,
    ended: &Ended,
    queue: Queue,
    delay: Duration,
    reason: Reason,
) -> Settled {
    count_finals(worker, &delivery, ended);
    let mut headers = ended.progress.headers(&stamped(worker, &delivery), reason);
    if reason.holds() {
        // Nothing was shown, so a copy that was is still the first.
        headers.first_seen = delivery.headers().first_seen;
    }
    let to = Destination::Later(queue, delay);
    let settled = worker
        .publisher
        .hand_over(delivery, &to, &headers, ended.job_id.as_deref())
        .await;
    if settled == Settled::Lost {
        return settled;
    }
    let open = ended.progress.open.open();
    worker.metrics.job(&ended.app, Outcome::Retried);
    worker.metrics.recipients(&ended.app, Outcome::Retried, reason, open);
    // A hold is told once, by itself.
    if !reason.holds() {
        worker.repeats.write(Level::INFO, "retried", &ended.app, reason, || {
            tracing::info!(app = ended.app, job = ended.job_id, attempt = ended.progress.attempt, %reason, open,
                delay_s = delay.as_secs_f64(), detail = ended.progress.detail, remedy = ended.progress.remedy, "retried: the broker holds the job");
        });
    }
    settled
}

async fn done(worker: &Worker, delivery: Delivery, ended: &Ended) -> Settled {
    count_finals(worker, &delivery, ended);
    if delivery.ack().await == Settled::Lost {
        let event = "done, but the session had ended";
        worker.repeats.write(Level::INFO, event, &ended.app, Reason::None, || {
            tracing::info!(
                app = ended.app,
                job = ended.job_id,
                "{event}: the broker delivers it again"
            );
        });
        return Settled::Lost;
    }
    let outcome = worst(ended).unwrap_or(Outcome::Duplicate);
    worker.metrics.job(&ended.app, outcome);
    tracing::debug!(app = ended.app, job = ended.job_id, attempt = ended.progress.attempt, %outcome, "settled");
    Settled::Done
}

async fn dead(worker: &Worker, delivery: Delivery, ended: &Ended, reason: Reason) -> Settled {
    count_finals(worker, &delivery, ended);
    let mut headers = ended.progress.headers(&stamped(worker, &delivery), reason);
    let replayable = ended.progress.replayable();
    headers.open = (!replayable.0.is_empty()).then(|| replayable.to_string());
    let mut uncut = 0;
    if let Some(recipients) = ended.whole {
        let before = delivery.headers();
        let still_open = before
            .open
            .as_deref()
            .and_then(|open| Slices::parse(open, recipients.max(1000)));
        uncut = still_open.map_or(recipients, |slices| slices.open());
        headers.open.clone_from(&before.open);
        headers.failed.clone_from(&before.failed);
        headers.attempt = before.attempt;
    }
    headers
        .queue
        .get_or_insert_with(|| worker.names.queue(delivery.arrived_by()));
    let settled = worker
        .publisher
        .hand_over(
            delivery,
            &Destination::Queue(Queue::Dead),
            &headers,
            ended.job_id.as_deref(),
        )
        .await;
    if settled == Settled::Lost {
        return settled;
    }
    worker.metrics.job(&ended.app, Outcome::Dead);
    worker.metrics.dead_letter(&ended.app, reason);
    for (reason, count) in ended.progress.failed.counts() {
        worker.metrics.recipients(&ended.app, Outcome::Dead, reason, count);
    }
    if uncut > 0 {
        worker.metrics.recipients(&ended.app, Outcome::Dead, reason, uncut);
    }
    let remedy = ended.progress.remedy.unwrap_or(Remedy::of(reason).en);
    worker.repeats.write(Level::WARN, "dead", &ended.app, reason, || {
        tracing::warn!(app = ended.app, job = ended.job_id, attempt = ended.progress.attempt, %reason, detail = ended.progress.detail,
            remedy, failed = headers.failed, "dead: the job is in the dead letters (dingcard dead show)");
    });
    Settled::Done
}

/// The headers of a hand-over by this worker.
fn stamped(worker: &Worker, delivery: &Delivery) -> Headers {
    Headers {
        first_seen: Some(delivery.first_seen()),
        failed_at: Some(Timestamp::now()),
        worker: Some(worker.name.clone()),
        ..delivery.headers().clone()
    }
}

/// The worst outcome among those who became final in this attempt.
fn worst(ended: &Ended) -> Option<Outcome> {
    ended.progress.finals.iter().map(|f| f.outcome).max()
}

/// Counts who became final without failing: that is so whatever becomes of the hand-over.
fn count_finals(worker: &Worker, delivery: &Delivery, ended: &Ended) {
    for last in &ended.progress.finals {
        worker.metrics.recipients(&ended.app, last.outcome, last.reason, 1);
    }
    let delivered = ended.progress.finals.iter().any(|f| f.outcome == Outcome::Delivered);
    let took = published_at(delivery.properties()).and_then(|at| SystemTime::now().duration_since(at).ok());
    if let Some(took) = took.filter(|_| delivered) {
        worker.metrics.end_to_end(&ended.app, took);
    }
}
