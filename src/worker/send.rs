//! Sending one slice: a call, the meaning of its answer, and what is left to do.
//!
//! Separate because here lies the promise that nobody gets a card twice: what an answer says of the card (never sent,
//! maybe, shown to some) decides which call may follow. It settles nothing with the broker.

use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;

use super::resolve::{Resolved, resolve};
use super::{Attempt, Progress, spans};
use crate::config::CardApi;
use crate::dingtalk::{self, Delivered, Failure, Space};
use crate::outcome::{Class, Outcome, Reason};
use crate::retry;
use crate::slice::{Card, Slice};

/// A pause after a throttle answer on top of the limiter's own, so that an unlimited app does not spin.
const THROTTLE_PAUSE: Duration = Duration::from_millis(20);

/// What one call left to do.
enum Next {
    /// Nothing more to send in this attempt; what is open stays so.
    Leave,
    /// Call again, at once or after a wait.
    Again(Option<Duration>),
    /// The refusal may be one recipient's fault: each half for itself.
    Halves(Vec<Slice>),
    /// The card exists and its missing recipients are refused together: each for itself.
    Singly,
}

/// Sends to everybody open in `slice`; returns slices that it was split into.
pub(super) async fn send(attempt: &Attempt<'_>, slice: Slice, progress: &mut Progress) -> Vec<Slice> {
    let Some(Resolved {
        mut slice,
        spaces,
        complete,
    }) = resolve(attempt, slice, progress).await
    else {
        return Vec::new();
    };
    if !complete {
        // A card is created once, for all of its slice; so nobody is sent to before everybody is looked up.
        progress.open.add(slice);
        return Vec::new();
    }
    let mut batches = vec![spaces];
    let mut halves = Vec::new();
    while let Some(batch) = batches.pop() {
        let mut call = Call {
            attempt,
            waits: retry::immediate(&attempt.sender.config.retry),
        };
        let mut batch = batch;
        loop {
            match call.once(&mut slice, &mut batch, progress).await {
                Next::Leave => break,
                Next::Again(wait) => tokio::time::sleep(wait.unwrap_or_default()).await,
                Next::Halves(split) => {
                    // Their recipients are looked at anew, as parts of other cards.
                    for (_, space) in &batch {
                        attempt.release_space(space);
                    }
                    halves = split;
                    batch.clear();
                    break;
                }
                Next::Singly => {
                    batches.extend(batch.drain(..).map(|one| vec![one]));
                    break;
                }
            }
        }
        let open = slice
            .clone()
            .retain(|p| batch.iter().any(|(position, _)| *position == p));
        if let Some(open) = open {
            progress.open.add(open);
        }
    }
    halves
}

struct Call<'a> {
    attempt: &'a Attempt<'a>,
    waits: retry::Immediate,
}

impl Call<'_> {
    /// One call for `batch`; whoever becomes final leaves it.
    async fn once(&mut self, slice: &mut Slice, batch: &mut Vec<(usize, Space)>, progress: &mut Progress) -> Next {
        let attempt = self.attempt;
        if batch.is_empty() {
            return Next::Leave;
        }
        if batch.len() > 1 && slice.card == Card::Unsent && attempt.order.app.takes_one_a_call() {
            return slice.halves().map_or(Next::Singly, Next::Halves);
        }
        let out_track_id = attempt.out_track_id(&attempt.order.job.id, slice);
        let card = dingtalk::Card {
            out_track_id: &out_track_id,
            template: attempt.template,
            params: &attempt.order.job.params,
        };
        let spaces: Vec<Space> = batch.iter().map(|(_, space)| space.clone()).collect();
        let app = attempt.order.app;
        let span = spans::send(attempt, spaces.len());
        let answer = if slice.card == Card::Shown {
            let deliver = Box::pin(app.deliver(&card, &spaces, attempt.turn()));
            deliver.instrument(span.clone()).await
        } else {
            let send = Box::pin(app.send(&card, &spaces, attempt.turn()));
            send.instrument(span.clone()).await
        };
        spans::answered(span, answer.as_ref().err());
        let not_on_hold = match &answer {
            Ok(_) => true,
            Err(failure) => matches!(failure.class, Class::Recipient | Class::Permanent),
        };
        if not_on_hold {
            attempt.note_answer();
        }
        match answer {
            Ok(results) => {
                self.each(slice, batch, results, progress).await;
                Next::Leave
            }
            Err(failure) if failure.card_exists => {
                self.already_exists(slice, batch, progress).await;
                Next::Leave
            }
            Err(failure) => Box::pin(self.refused(failure, slice, batch, progress)).await,
        }
    }

    /// The card was taken; each recipient has a result of its own.
    async fn each(
        &self,
        slice: &mut Slice,
        batch: &mut Vec<(usize, Space)>,
        results: Vec<Result<Delivered, Failure>>,
        progress: &mut Progress,
    ) {
        slice.card = Card::Shown;
        if let [result] = results.as_slice() {
            self.attempt.note_alone(result.is_ok());
        }
        let (mut open, mut reached, mut unconfirmed) = (Vec::new(), Vec::new(), Vec::new());
        for ((position, space), result) in batch.drain(..).zip(results) {
            match result {
                Ok(delivered) => {
                    progress.carriers.push((position, delivered.carrier_id));
                    reached.push((position, space));
                }
                Err(failure) if matches!(failure.class, Class::Recipient | Class::Permanent) => {
                    self.forget(&space, &failure).await;
                    progress.note(&failure);
                    progress.fail(failure.reason, slice, &[position]);
                }
                // It may have arrived, and to ask again could show it twice.
                Err(failure)
                    if failure.class == Class::Unknown
                        && self.attempt.order.settings.card_api == CardApi::Instances =>
                {
                    unconfirmed.push((position, space));
                }
                Err(failure) => {
                    progress.trouble(failure);
                    open.push((position, space));
                }
            }
        }
        self.conclude(&reached, Outcome::Delivered, Reason::None, progress)
            .await;
        self.conclude(&unconfirmed, Outcome::Delivered, Reason::Unconfirmed, progress)
            .await;
        *batch = open;
    }

    /// `param.cardAlreadyExist` in its meanings: an answer of ours was lost, with this worker or with another; or somebody
    /// published this job before.
    async fn already_exists(&self, slice: &Slice, batch: &mut Vec<(usize, Space)>, progress: &mut Progress) {
        let published_before = slice.card == Card::Unsent && self.attempt.is_first(progress);
        let (outcome, reason) = if published_before {
            (Outcome::Duplicate, Reason::None)
        } else {
            (Outcome::Delivered, Reason::Unconfirmed)
        };
        self.conclude(batch, outcome, reason, progress).await;
        batch.clear();
    }

    async fn conclude(&self, recipients: &[(usize, Space)], outcome: Outcome, reason: Reason, progress: &mut Progress) {
        // Of a duplicate only the other copy knows whether it has arrived, and it may still have to deliver it.
        if outcome == Outcome::Delivered {
            let keys: Vec<_> = recipients
                .iter()
                .map(|(_, space)| self.attempt.recipient_key(space))
                .collect();
            self.attempt.sender.ledger.finish(&keys).await;
        }
        for (position, _) in recipients {
            progress.finish(*position, outcome, reason);
        }
    }

    /// The call as a whole was refused, or its answer was lost.
    async fn refused(
        &mut self,
        failure: Failure,
        slice: &mut Slice,
        batch: &mut Vec<(usize, Space)>,
        progress: &mut Progress,
    ) -> Next {
        let positions: Vec<usize> = batch.iter().map(|(position, _)| *position).collect();
        match failure.class {
            Class::Throttle if failure.reason != Reason::Deadline => Next::Again(Some(THROTTLE_PAUSE)),
            Class::Throttle | Class::Hold | Class::Auth => {
                progress.trouble(failure);
                Next::Leave
            }
            Class::Unknown if self.counts_as_delivered(slice, &failure) => {
                self.conclude(batch, Outcome::Delivered, Reason::Unconfirmed, progress)
                    .await;
                batch.clear();
                Next::Leave
            }
            Class::Transient | Class::Unknown => {
                if failure.class == Class::Unknown && slice.card == Card::Unsent {
                    slice.card = Card::Lost;
                }
                match self.waits.next() {
                    Some(wait) if Instant::now() + wait < self.attempt.deadline => Next::Again(Some(wait)),
                    _ => {
                        progress.trouble(failure);
                        Next::Leave
                    }
                }
            }
            Class::Recipient | Class::Permanent => {
                if failure.reason == Reason::CardMissing && slice.card == Card::Shown {
                    slice.card = Card::Unsent;
                    return Next::Again(None);
                }
                if failure.splits && batch.len() > 1 {
                    if failure.class == Class::Permanent && batch.len() == 2 {
                        self.attempt.note_parted();
                    }
                    return slice.halves().map_or(Next::Singly, Next::Halves);
                }
                self.attempt.note_alone(false);
                for (_, space) in batch.drain(..) {
                    self.forget(&space, &failure).await;
                }
                progress.note(&failure);
                progress.fail(failure.reason, slice, &positions);
                Next::Leave
            }
        }
    }

    /// A lost answer of `deliver`: asking again could show the card twice, and nothing tells whether it was shown. A 5xx
    /// says that it was not, as far as DingTalk knows. On interactiveCards a repeat is accepted (contract, section 4).
    fn counts_as_delivered(&self, slice: &Slice, failure: &Failure) -> bool {
        let lost = matches!(failure.reason, Reason::Network | Reason::BadResponse);
        slice.card == Card::Shown && lost && self.attempt.order.settings.card_api == CardApi::Instances
    }

    /// A user whom a send does not find was looked up from a mobile that now leads elsewhere, or nowhere.
    async fn forget(&self, space: &Space, failure: &Failure) {
        if let (Space::User(id), Reason::UserNotFound | Reason::UserDisabled) = (space, failure.reason) {
            Box::pin(self.attempt.order.app.forget_user(id)).await;
        }
    }
}
