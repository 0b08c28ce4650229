//! One attempt at a job: slice after slice, within its time.
//!
//! Separate from the life of the job because it is the only part that calls DingTalk, and because what its slices share
//! (the deadline, who is served already, the card's name) is theirs alone. It decides nothing about the broker.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::sender::{Order, Sender};
use super::{Progress, send, update};
use crate::amqp::Delivery;
use crate::dingtalk::{Failure, Space, Turn};
use crate::ledger;
use crate::outcome::{Class, Reason};
use crate::retry;
use crate::slice::Slice;

/// An order that is worked on, with all that its slices need.
pub(super) struct Attempt<'a> {
    pub(super) sender: &'a Sender,
    pub(super) order: &'a Order<'a>,
    pub(super) template: &'a str,
    /// How the order came; none where a command made it, with no broker behind it.
    pub(super) delivery: Option<&'a Delivery>,
    pub(super) deadline: Instant,
    /// Whether DingTalk answered a call for a card: then the app is not on hold.
    pub(super) answered: AtomicBool,
    /// Look-ups that DingTalk had answered for the app when it began.
    pub(super) look_ups_before: usize,
    /// Of two recipients that were refused together, who is still to be taken alone.
    pub(super) parted: AtomicUsize,
    /// Spaces that this attempt already serves: two mobiles of one user are one user.
    pub(super) claimed: Mutex<HashSet<Space>>,
}

impl<'a> Attempt<'a> {
    /// An attempt that begins no call after `deadline`.
    pub(super) fn new(
        sender: &'a Sender,
        order: &'a Order<'a>,
        template: &'a str,
        delivery: Option<&'a Delivery>,
        deadline: Instant,
    ) -> Self {
        Self {
            sender,
            order,
            template,
            delivery,
            deadline,
            answered: AtomicBool::new(false),
            look_ups_before: order.app.look_ups(),
            parted: AtomicUsize::new(0),
            claimed: Mutex::default(),
        }
    }

    /// Serves slice after slice, until all are, or nothing more can be sent.
    pub(super) async fn run(&self, progress: &mut Progress) {
        let mut pending = std::mem::take(&mut progress.open).0;
        pending.reverse();
        while let Some(slice) = pending.pop() {
            if let Some(end) = self.end(progress) {
                progress.trouble(end);
                progress.open.add(slice);
                pending.drain(..).for_each(|slice| progress.open.add(slice));
                break;
            }
            match &self.order.job.update_of {
                Some(earlier) => Box::pin(update::update(self, earlier, slice, progress)).await,
                None => pending.extend(send::send(self, slice, progress).await.into_iter().rev()),
            }
        }
    }

    /// Why no further slice is begun: the app is on hold, or time is up.
    fn end(&self, progress: &Progress) -> Option<Failure> {
        match &progress.trouble {
            Some(trouble) if trouble.reason.holds() || trouble.class == Class::Throttle => Some(trouble.clone()),
            _ if self.delivery.is_some_and(Delivery::is_lost) => Some(Failure::new(
                Reason::Deadline,
                Class::Transient,
                "the broker was lost; it gives the job to somebody else",
            )),
            _ if Instant::now() >= self.deadline => Some(Failure::new(
                Reason::Deadline,
                Class::Transient,
                "the attempt's time was up (retry.job_deadline)",
            )),
            _ => None,
        }
    }

    /// Which attempt at the job it is.
    pub(super) fn number(&self) -> u32 {
        self.delivery.map_or(1, |delivery| delivery.headers().attempt)
    }

    /// Whether nobody worked on this order before.
    pub(super) fn is_first(&self, progress: &Progress) -> bool {
        self.delivery.is_none_or(Delivery::is_first) && progress.attempt == 1
    }

    /// The answer to a call that may be made again: with the immediate tries, of which throttling costs none.
    pub(super) async fn until_answered<T, C>(&self, call: impl Fn() -> C) -> Result<T, Failure>
    where
        C: Future<Output = Result<T, Failure>>,
    {
        let mut waits = retry::immediate(&self.sender.config.retry);
        loop {
            match call().await {
                Err(failure) if failure.class == Class::Throttle && failure.reason != Reason::Deadline => {}
                Err(failure) if matches!(failure.class, Class::Transient | Class::Unknown) => match waits.next() {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => return Err(failure),
                },
                result => return result,
            }
        }
    }

    /// Whose turn its calls wait for.
    pub(super) fn turn(&self) -> Turn {
        Turn {
            urgent: self.order.is_urgent(),
            until: Some(self.deadline),
        }
    }

    /// DingTalk answered a call for a card with something else than a hold.
    pub(super) fn note_answer(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Two recipients were refused together, for a cause that names neither.
    pub(super) fn note_parted(&self) {
        self.parted.store(2, Ordering::Relaxed);
    }

    /// One recipient was called for alone. Where both of two are taken alone that were refused together, the app is one
    /// whose calls may name one recipient each.
    pub(super) fn note_alone(&self, taken: bool) {
        let left = if taken { self.parted.load(Ordering::Relaxed) } else { 0 };
        self.parted.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 1 && self.order.app.note_one_a_call() {
            tracing::warn!(
                app = self.order.app_name(),
                "DingTalk refuses several recipients in one call of this app and takes each alone: it gets one a call from \
                 now on, until the worker is restarted (recipients_per_call = 1 saves the tries)"
            );
        }
    }

    /// Takes `space` for one position; `false` where another position of this job has it. Of one recipient none can.
    pub(super) fn claim_space(&self, space: &Space) -> bool {
        self.order.job.to.len() == 1
            || self
                .claimed
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(space.clone())
    }

    pub(super) fn release_space(&self, space: &Space) {
        self.claimed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(space);
    }

    /// The ledger's key of a recipient.
    pub(super) fn recipient_key(&self, space: &Space) -> ledger::Key {
        let (kind, id) = match space {
            Space::User(id) => ("user", id),
            Space::Group(id) => ("group", id),
        };
        ledger::key(&[self.order.app_name(), &self.order.job.id, kind, id])
    }

    /// The card's name: the same for every try at the same slice, so that a repeat names the same card.
    pub(super) fn out_track_id(&self, job_id: &str, slice: &Slice) -> String {
        let (first, last) = slice.bounds();
        let mut hash = Sha256::new();
        for part in [
            self.sender.config.amqp.namespace.as_str(),
            self.order.app_name(),
            job_id,
        ] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        hash.update((first as u64).to_be_bytes());
        hash.update((last as u64).to_be_bytes());
        URL_SAFE_NO_PAD.encode(hash.finalize())
    }
}
