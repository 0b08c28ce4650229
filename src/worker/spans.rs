//! The spans of a job's life: consume, and in it resolve, send and settle.
//!
//! Separate so that the stages name a span and not its fields. They carry what the log carries (job ID, app, attempt, outcome,
//! reason) and never a mobile, a user ID or a secret. Where they go is `otel`'s business; where they go nowhere, none is
//! made and nothing here is evaluated.

use tracing::Span;
use tracing::field::Empty;

use super::Attempt;
use super::settle::Settlement;
use crate::amqp::Delivery;
use crate::dingtalk::Failure;
use crate::otel::{self, TARGET};
use crate::outcome::{Outcome, Reason};

/// A delivery's, from its arrival until it is settled: a child of the span that the producer names.
pub(super) fn consume(delivery: &Delivery) -> Span {
    let span = tracing::info_span!(
        target: TARGET, parent: None, "consume",
        otel.kind = "consumer", otel.status_code = Empty, messaging.system = "rabbitmq",
        dingcard.job = Empty, dingcard.app = Empty, dingcard.attempt = delivery.headers().attempt,
        dingcard.outcome = Empty, dingcard.reason = Empty,
    );
    otel::join(&span, |header| delivery.header(header));
    span
}

/// The look-ups of a slice.
pub(super) fn resolve(attempt: &Attempt<'_>, recipients: usize) -> Span {
    tracing::info_span!(
        target: TARGET, "resolve", otel.status_code = Empty,
        dingcard.job = attempt.order.job.id, dingcard.app = attempt.order.app_name(), dingcard.attempt = attempt.number(),
        dingcard.recipients = recipients, dingcard.reason = Empty,
    )
}

/// A call for a card.
pub(super) fn send(attempt: &Attempt<'_>, recipients: usize) -> Span {
    tracing::info_span!(
        target: TARGET, "send", otel.kind = "client", otel.status_code = Empty,
        dingcard.job = attempt.order.job.id, dingcard.app = attempt.order.app_name(), dingcard.attempt = attempt.number(),
        dingcard.recipients = recipients, dingcard.reason = Empty,
    )
}

/// The carrying-out of a settlement.
pub(super) fn settle(consume: &Span, delivery: &Delivery) -> Span {
    tracing::info_span!(
        target: TARGET, parent: consume, "settle", otel.status_code = Empty, messaging.system = "rabbitmq",
        dingcard.job = Empty, dingcard.app = Empty, dingcard.attempt = delivery.headers().attempt,
        dingcard.outcome = Empty, dingcard.reason = Empty,
    )
}

/// The end of calls that were answered, or came to nothing.
pub(super) fn answered(span: Span, failure: Option<&Failure>) {
    if let Some(failure) = failure {
        span.record("otel.status_code", "ERROR");
        span.record("dingcard.reason", failure.reason.as_str());
    }
    drop(span);
}

/// What is to become of the delivery that `span` is of.
pub(super) fn decided(span: &Span, settlement: &Settlement) {
    if span.is_disabled() {
        return;
    }
    let (ended, outcome, reason) = match settlement {
        Settlement::Move(_) => return,
        Settlement::Wait { job_id, .. } => {
            span.record("dingcard.job", job_id.as_str());
            return;
        }
        Settlement::Done(ended) => {
            let worst = ended.progress.finals.iter().map(|f| (f.outcome, f.reason)).max();
            let (outcome, reason) = worst.unwrap_or((Outcome::Duplicate, Reason::None));
            (ended, outcome, reason)
        }
        Settlement::Retry { ended, reason, .. } => (ended, Outcome::Retried, *reason),
        Settlement::Dead { ended, reason } => (ended, Outcome::Dead, *reason),
    };
    if outcome == Outcome::Dead {
        span.record("otel.status_code", "ERROR");
    }
    span.record("dingcard.job", ended.job_id.as_deref());
    span.record("dingcard.app", ended.app.as_str());
    span.record("dingcard.outcome", outcome.as_str());
    span.record("dingcard.reason", reason.as_str());
}
