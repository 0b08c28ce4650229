//! A failure: why a call, or one recipient of it, came to nothing.
//!
//! Separate because everything that calls DingTalk speaks in it, up to the worker and the log. What a code means is
//! `codes`'s business, and how a code is found in an answer is `answer`'s. This file sends nothing, waits for nothing and
//! decides on no retry: it says what happened.

use std::time::Duration;

use super::codes::{Quirk, Row};
use super::remedy::Remedy;
use crate::outcome::{Class, Reason};

/// The longest detail, in bytes: it travels in a message header.
const MAX_DETAIL: usize = 1024;

/// Why a call, or one recipient of it, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Failure {
    /// The word for it.
    pub reason: Reason,
    /// What it asks of the caller. Not derived from the reason: whether the request had been written decides too.
    pub class: Class,
    /// What happened: call, code, message, request ID. Never a token, a secret or a whole mobile; at most 1 KiB.
    pub detail: String,
    /// How long DingTalk said to wait, at most five minutes.
    pub wait: Option<Duration>,
    /// A card with this ID had been made before (`param.cardAlreadyExist`).
    pub card_exists: bool,
    /// It may be one recipient's fault, so the halves of the call are worth trying.
    pub splits: bool,
    /// It was a look-up that was refused, and no other call need be.
    pub look_up: bool,
    /// What to do about it: the reason's, or more precise where the code is.
    pub remedy: Remedy,
}

impl Failure {
    /// A failure of `class`, with a detail that is cut to size. Only the recipient class splits by itself.
    #[must_use]
    pub fn new(reason: Reason, class: Class, detail: impl Into<String>) -> Self {
        let splits = class == Class::Recipient;
        let detail = tidy(&detail.into());
        Self {
            reason,
            class,
            detail,
            wait: None,
            card_exists: false,
            splits,
            look_up: false,
            remedy: Remedy::of(reason),
        }
    }

    /// The failure that a row of the table stands for.
    pub(super) fn by(row: &Row, detail: impl Into<String>) -> Self {
        let failure = Self::new(row.reason, row.class, detail);
        Self {
            splits: failure.splits || row.quirk == Quirk::Splits,
            card_exists: row.quirk == Quirk::CardExists,
            remedy: row.remedy,
            ..failure
        }
    }

    /// What an operator can do about it, in the words of DingTalk's console.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        self.remedy.en
    }
}

/// One line of at most [`MAX_DETAIL`] bytes.
fn tidy(detail: &str) -> String {
    let mut line = detail
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.len() > MAX_DETAIL {
        let mut end = MAX_DETAIL - '…'.len_utf8();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use Class::Transient;
    use Reason::ServerError;

    #[test]
    fn a_detail_is_one_line_of_at_most_a_kibibyte() {
        let cut = |detail: &str| Failure::new(ServerError, Transient, detail).detail;
        assert_eq!(cut(" a\r\n\tb\u{0}c\u{2028}d "), "a b c d");
        assert_eq!(cut(&"x".repeat(1024)), "x".repeat(1024));
        for filler in ["x", "错", "é", "🙂"] {
            let detail = cut(&filler.repeat(3000));
            assert!(detail.len() <= 1024 && detail.len() > 1016, "{}", detail.len());
            assert!(detail.ends_with('…'));
        }
    }
}
