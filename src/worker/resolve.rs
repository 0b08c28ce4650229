//! From recipients to DingTalk's spaces: mobiles become user IDs, and nobody is named twice.
//!
//! Separate from sending because it is the other half of the calls, with failures of its own: a number that is nobody's
//! costs its recipient, never the slice.

use futures_util::future::{Either, join_all, ready};
use tracing::Instrument as _;

use super::{Attempt, Progress, spans};
use crate::dingtalk::{Failure, Space};
use crate::job::Recipient;
use crate::outcome::{Class, Outcome, Reason};
use crate::slice::{Card, Slice};

/// Who of a slice is to be sent to.
pub(super) struct Resolved {
    /// The slice with those positions open that `spaces` has, and, where a look-up failed, those too.
    pub(super) slice: Slice,
    /// Position and space of each.
    pub(super) spaces: Vec<(usize, Space)>,
    /// Whether everybody open is in `spaces`; where not, `progress.trouble` says why.
    pub(super) complete: bool,
}

/// Looks up whoever is open in `slice`. `None` where nobody is left to be sent to.
pub(super) async fn resolve(attempt: &Attempt<'_>, slice: Slice, progress: &mut Progress) -> Option<Resolved> {
    let span = spans::resolve(attempt, slice.open().len());
    let looking_up = join_all(slice.open().iter().map(|position| space(attempt, *position)));
    let looked_up = looking_up.instrument(span.clone()).await;
    spans::answered(span, looked_up.iter().find_map(|answer| answer.as_ref().err()));
    let looked_up: Vec<_> = slice.open().iter().copied().zip(looked_up).collect();
    let mut slice = slice;
    let (mut found, mut unknown) = (Vec::new(), Vec::new());
    let mut failed: Vec<(Reason, usize)> = Vec::new();
    for (position, result) in looked_up {
        match result {
            Ok(space) if !attempt.claim_space(&space) => progress.finish(position, Outcome::Duplicate, Reason::None),
            Ok(space) => found.push((position, space)),
            Err(failure) if failure.class == Class::Recipient => {
                progress.note(&failure);
                failed.push((failure.reason, position));
            }
            Err(failure) => {
                unknown.push(position);
                progress.trouble(failure);
            }
        }
    }
    let keys: Vec<_> = found.iter().map(|(_, space)| attempt.recipient_key(space)).collect();
    let mut spaces = Vec::new();
    for (finished, recipient) in attempt.sender.ledger.are_finished(&keys).await.into_iter().zip(found) {
        if finished {
            progress.finish(recipient.0, Outcome::Duplicate, Reason::None);
            // Somebody of this slice has its card, so it exists and the others get that one.
            slice.card = Card::Shown;
        } else {
            spaces.push(recipient);
        }
    }
    for (reason, position) in failed {
        progress.fail(reason, &slice, &[position]);
    }
    let complete = unknown.is_empty();
    let wanted = |p: usize| unknown.contains(&p) || spaces.iter().any(|(position, _)| *position == p);
    let slice = slice.retain(wanted)?;
    Some(Resolved {
        slice,
        spaces,
        complete,
    })
}

/// Boxed where somebody may have to be asked: who is named by an ID needs no room for that.
fn space<'a>(attempt: &'a Attempt<'_>, position: usize) -> impl Future<Output = Result<Space, Failure>> + use<'a> {
    match &attempt.order.job.to[position] {
        Recipient::UserId(id) => Either::Left(ready(Ok(Space::User(id.clone())))),
        Recipient::Conversation(id) => Either::Left(ready(Ok(Space::Group(id.clone())))),
        Recipient::Mobile(mobile) => Either::Right(Box::pin(async {
            let look_up = || attempt.order.app.user_id(mobile, attempt.turn());
            attempt.until_answered(look_up).await.map(Space::User)
        })),
    }
}
