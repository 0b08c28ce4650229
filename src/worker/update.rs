//! `update_of`: the cards of an earlier job get new parameters, and no new card is shown.
//!
//! Separate from sending because it shows nothing and names nobody: it walks the slices as the earlier job cut them, by
//! their cards alone.

use tracing::Instrument as _;

use super::{Attempt, Progress, spans};
use crate::dingtalk::Failure;
use crate::outcome::{Class, Outcome, Reason};
use crate::slice::Slice;

/// Updates the card of `slice`; where there is none, the cards of its halves.
pub(super) async fn update(attempt: &Attempt<'_>, earlier: &str, slice: Slice, progress: &mut Progress) {
    let mut missing: Option<Failure> = None;
    let (mut absent, mut others) = (Vec::new(), false);
    let mut pending = vec![slice.clone()];
    let mut found = false;
    while let Some(part) = pending.pop() {
        match update_card(attempt, earlier, &part).await {
            Ok(()) => {
                found = true;
                part.open()
                    .iter()
                    .for_each(|p| progress.finish(*p, Outcome::Delivered, Reason::None));
            }
            Err(failure) if failure.reason == Reason::CardMissing => {
                // A slice was halved where its card was refused, so below a missing card there can be others; but not
                // below both halves at once, or every slice without a card would cost a call a recipient.
                let halves = part.halves().filter(|_| found || part.bounds() == slice.bounds());
                match halves {
                    Some(halves) => pending.extend(halves),
                    None => absent.push(part),
                }
                missing = Some(failure);
            }
            Err(failure) if matches!(failure.class, Class::Recipient | Class::Permanent) => {
                progress.note(&failure);
                progress.fail(failure.reason, &part, part.open());
            }
            Err(failure) => {
                progress.trouble(failure);
                progress.open.add(part);
                others = true;
            }
        }
    }
    if let Some(failure) = missing.filter(|_| !absent.is_empty()) {
        progress.trouble(Failure {
            class: Class::Transient,
            ..failure
        });
        // Where no part has a card, the first job may simply not have been delivered yet.
        let absent = if found || others { absent } else { vec![slice] };
        for part in absent {
            progress.open.add(part);
        }
    }
}

/// One update with the attempt's immediate tries. Repeating it is harmless, so a lost answer is like none.
async fn update_card(attempt: &Attempt<'_>, earlier: &str, slice: &Slice) -> Result<(), Failure> {
    let id = attempt.out_track_id(earlier, slice);
    let (app, params) = (attempt.order.app, &attempt.order.job.params);
    let update = || app.update(&id, params, attempt.turn());
    let span = spans::send(attempt, slice.open().len());
    let result = attempt.until_answered(update).instrument(span.clone()).await;
    spans::answered(span, result.as_ref().err());
    let unanswered = |f: &Failure| f.reason.holds() || !matches!(f.class, Class::Recipient | Class::Permanent);
    if !result.as_ref().is_err_and(unanswered) {
        attempt.note_answer();
    }
    result
}
