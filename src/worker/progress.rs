//! How far a job has come: who is open, who failed for good and why, and what this attempt settled.
//!
//! Separate from the life of a job because it is what travels in the headers from one attempt to the next. It calls
//! nobody; `send` and `update` fill it, `settle` reads it.

use std::collections::BTreeMap;

use crate::amqp::Headers;
use crate::dingtalk::Failure;
use crate::outcome::{Outcome, Reason};
use crate::slice::{Card, Slice, Slices, parse_positions, write_positions};

/// Positions that failed for good, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Failed(BTreeMap<Reason, Vec<usize>>);

impl Failed {
    pub(super) fn add(&mut self, reason: Reason, position: usize) {
        let positions = self.0.entry(reason).or_default();
        if let Err(place) = positions.binary_search(&position) {
            positions.insert(place, position);
        }
    }

    /// Reasons with how many failed for each.
    pub(super) fn counts(&self) -> impl Iterator<Item = (Reason, usize)> {
        self.0.iter().map(|(reason, positions)| (*reason, positions.len()))
    }

    /// The reason that most failed for.
    pub(super) fn main_reason(&self) -> Option<Reason> {
        self.counts().max_by_key(|(_, count)| *count).map(|(reason, _)| reason)
    }

    /// Every position, with its reason.
    pub(super) fn each(&self) -> impl Iterator<Item = (Reason, usize)> {
        self.0
            .iter()
            .flat_map(|(reason, positions)| positions.iter().map(|position| (*reason, *position)))
    }

    pub(super) fn positions(&self) -> impl Iterator<Item = usize> {
        self.each().map(|(_, position)| position)
    }

    /// `user_not_found=3,17;mobile_invalid=4`
    fn write(&self) -> String {
        let written = self
            .0
            .iter()
            .map(|(reason, positions)| format!("{reason}={}", write_positions(positions)));
        written.collect::<Vec<_>>().join(";")
    }

    fn parse(text: &str) -> Option<Self> {
        let parse_reason = |part: &str| {
            let (reason, positions) = part.split_once('=')?;
            Some((Reason::parse(reason)?, parse_positions(positions)?))
        };
        text.split(';')
            .filter(|part| !part.is_empty())
            .map(parse_reason)
            .collect::<Option<_>>()
            .map(Self)
    }
}

/// One recipient that became final in this attempt without failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Final {
    pub(super) position: usize,
    pub(super) outcome: Outcome,
    pub(super) reason: Reason,
}

/// The state of a job between two settlements.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// The attempt in work; 1 for the first.
    pub(super) attempt: u32,
    /// What is still to be done.
    pub(super) open: Slices,
    /// Who failed for good, in this attempt or an earlier one.
    pub(super) failed: Failed,
    /// The slices of those who failed in this attempt.
    pub(super) dead: Slices,
    /// Who became final in this attempt without failing.
    pub(super) finals: Vec<Final>,
    /// What DingTalk calls the cards of some of them.
    pub(super) carriers: Vec<(usize, String)>,
    /// Whether anybody became final in this attempt.
    pub(super) moved: bool,
    /// Why something is still open.
    pub(super) trouble: Option<Failure>,
    /// What happened to those who failed in this attempt, to one for each reason.
    pub(super) noted: BTreeMap<Reason, Failure>,
    /// What happened, for people.
    pub(super) detail: String,
    /// What they can do about it, where DingTalk or the way to it is the cause.
    pub(super) remedy: Option<&'static str>,
}

impl Progress {
    /// What the headers say, or a job that nobody has worked on, cut by `cut`. An error names the header that is none.
    pub(super) fn read(headers: &Headers, count: usize, cut: impl FnOnce() -> Slices) -> Result<Self, &'static str> {
        let open = match &headers.open {
            Some(text) => Slices::parse(text, count).ok_or("dingcard-open")?,
            None => cut(),
        };
        let failed = headers
            .failed
            .as_deref()
            .map_or_else(|| Some(Failed::default()), Failed::parse);
        let failed = failed
            .filter(|f| f.positions().all(|p| p < count))
            .ok_or("dingcard-failed")?;
        Ok(Self {
            attempt: headers.attempt,
            open,
            failed,
            ..Self::default()
        })
    }

    /// `positions`, which were open in `slice`, failed for good.
    pub(super) fn fail(&mut self, reason: Reason, slice: &Slice, positions: &[usize]) {
        for position in positions {
            self.failed.add(reason, *position);
        }
        self.moved |= !positions.is_empty();
        if let Some(dead) = slice.clone().retain(|p| positions.contains(&p)) {
            self.dead.add(dead);
        }
    }

    /// What happened to those who failed; of several, the first is told.
    pub(super) fn note(&mut self, failure: &Failure) {
        self.noted.entry(failure.reason).or_insert_with(|| failure.clone());
        if self.detail.is_empty() {
            self.detail.clone_from(&failure.detail);
            self.remedy = Some(failure.remedy());
        }
    }

    /// It is too late for whatever is open.
    pub(super) fn expire_open(&mut self) {
        for slice in std::mem::take(&mut self.open).0 {
            for position in slice.open() {
                self.finish(*position, Outcome::Expired, Reason::None);
            }
        }
    }

    /// Everything that is open failed for good.
    pub(super) fn fail_open(&mut self, reason: Reason) {
        for slice in std::mem::take(&mut self.open).0 {
            self.fail(reason, &slice, slice.open());
        }
    }

    /// What a replay has to work on: whoever failed, in the slices of their cards as far as this attempt knows them, and
    /// each alone where an earlier one failed them. The others of a slice have its card, so a replay begins with that.
    pub(super) fn replayable(&self) -> Slices {
        let mut replayable = Slices::default();
        for slice in &self.dead.0 {
            let mut slice = slice.clone();
            if slice.card == Card::Unsent && !slice.is_whole() {
                slice.card = Card::Shown;
            }
            replayable.add(slice);
        }
        let known: Vec<usize> = self.dead.0.iter().flat_map(Slice::open).copied().collect();
        for position in self.failed.positions().filter(|p| !known.contains(p)) {
            replayable.add(Slice::whole(position, position));
        }
        replayable
    }

    /// Somebody became final without failing.
    pub(super) fn finish(&mut self, position: usize, outcome: Outcome, reason: Reason) {
        self.finals.push(Final {
            position,
            outcome,
            reason,
        });
        self.moved = true;
    }

    /// Something stays open because of `failure`. What holds an app outweighs all else; of the rest, the last is told.
    pub(super) fn trouble(&mut self, failure: Failure) {
        let outweighed = self
            .trouble
            .as_ref()
            .is_some_and(|t| t.reason.holds() && !failure.reason.holds());
        if !outweighed {
            self.detail.clone_from(&failure.detail);
            self.remedy = Some(failure.remedy());
            self.trouble = Some(failure);
        }
    }

    /// The headers of a hand-over for `reason`.
    pub(super) fn headers(&self, original: &Headers, reason: Reason) -> Headers {
        let text = |text: String| Some(text).filter(|t| !t.is_empty());
        Headers {
            attempt: self.attempt,
            open: text(self.open.to_string()),
            failed: text(self.failed.write()),
            reason: Some(reason.to_string()),
            detail: text(self.detail.clone()),
            ..original.clone()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn failed_positions_are_written_by_reason_as_the_contract_has_it() {
        let mut failed = Failed::default();
        for (reason, position) in [
            (Reason::UserNotFound, 17),
            (Reason::UserNotFound, 3),
            (Reason::MobileInvalid, 4),
            (Reason::UserNotFound, 3),
        ] {
            failed.add(reason, position);
        }
        assert_eq!(failed.write(), "user_not_found=3,17;mobile_invalid=4");
        assert_eq!(failed.main_reason(), Some(Reason::UserNotFound));
    }

    #[test]
    fn headers_that_are_none_are_named() {
        let read = |open: &str, failed: &str| {
            let headers = Headers {
                open: Some(open.into()),
                failed: Some(failed.into()),
                ..Headers::default()
            };
            Progress::read(&headers, 5, Slices::default).map(|_| ())
        };
        assert_eq!(read("0-4", "user_not_found=3"), Ok(()));
        assert_eq!(read("0-5", ""), Err("dingcard-open"));
        assert_eq!(read("0-4", "user_not_found=5"), Err("dingcard-failed"));
        assert_eq!(read("0-4", "no_such_reason=1"), Err("dingcard-failed"));
    }

    #[test]
    fn a_replay_begins_with_the_card_that_the_others_of_a_slice_have() {
        let mut progress = Progress::default();
        progress.fail(Reason::UserNotFound, &Slice::whole(0, 4), &[1]);
        progress.fail(Reason::MobileInvalid, &Slice::whole(0, 4), &[2]);
        progress.fail(Reason::TemplateInvalid, &Slice::whole(5, 6), &[5, 6]);
        progress.failed.add(Reason::UserDisabled, 9);
        assert_eq!(progress.replayable().to_string(), "0-4+1-2;5-6;9");
    }

    proptest! {
        #[test]
        fn what_a_dead_letter_names_is_read_again_by_a_replay(
            count in 1_usize..200,
            failing in prop::collection::btree_map(0_usize..200, 0_usize..31, 1..40),
        ) {
            let mut progress = Progress::default();
            let slices = Slices::cut(count, 20, |_| false);
            for slice in &slices.0 {
                for (position, reason) in failing.iter().filter(|(p, _)| slice.open().contains(p)) {
                    progress.fail(Reason::ALL[*reason], slice, &[*position]);
                }
            }
            let replayable = progress.replayable();
            prop_assert_eq!(Slices::parse(&replayable.to_string(), count), Some(replayable.clone()));
            let failed = failing.keys().filter(|p| **p < count).count();
            prop_assert_eq!(replayable.open(), failed);
        }

        #[test]
        fn progress_survives_the_trip_through_the_headers(
            count in 1_usize..200,
            failing in prop::collection::btree_map(0_usize..200, 0_usize..31, 0..20),
        ) {
            let mut progress = Progress { attempt: 3, open: Slices::cut(count, 20, |_| false), ..Progress::default() };
            for (position, reason) in failing.iter().filter(|(p, _)| **p < count) {
                progress.fail(Reason::ALL[*reason], &Slice::whole(*position, *position), &[*position]);
            }
            let headers = progress.headers(&Headers::default(), Reason::Network);
            let read = Progress::read(&headers, count, Slices::default).unwrap();
            prop_assert_eq!((read.attempt, read.open, read.failed), (3, progress.open, progress.failed));
        }
    }
}
