//! What `dingcard check` found: a line each, with what to do where something is missing.
//!
//! Separate because every part of the check says its findings in the same four words. It decides nothing.

use std::fmt;
use std::io::IsTerminal as _;

use super::say;

/// How one thing was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Ok,
    Failed,
    NotTried,
    Note,
}

impl State {
    /// Its word, and its colour on a terminal.
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Ok => ("ok", "\x1b[32m"),
            Self::Failed => ("FAILED", "\x1b[1;31m"),
            Self::NotTried => ("not tried", "\x1b[33m"),
            Self::Note => ("note", "\x1b[36m"),
        }
    }
}

/// Says findings as they come, and counts them.
pub(super) struct Findings {
    colour: bool,
    tried: usize,
    failed: usize,
}

impl Findings {
    pub(super) fn new() -> Self {
        Self {
            colour: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            tried: 0,
            failed: 0,
        }
    }

    /// It is as it must be.
    pub(super) fn ok(&mut self, what: &str, found: impl fmt::Display) -> std::io::Result<()> {
        self.tried += 1;
        self.line(State::Ok, what, &found)
    }

    /// It is not, and this mends it.
    pub(super) fn failed(&mut self, what: &str, found: impl fmt::Display, remedy: &str) -> std::io::Result<()> {
        self.tried += 1;
        self.failed += 1;
        self.line(State::Failed, what, &found)?;
        say(format!("{:10}-> {remedy}", ""))
    }

    /// It could not be, or was not, and why.
    pub(super) fn not_tried(&mut self, what: &str, why: impl fmt::Display) -> std::io::Result<()> {
        self.line(State::NotTried, what, &why)
    }

    /// Nothing is wrong, and it is good to know.
    pub(super) fn note(&mut self, what: &str, found: impl fmt::Display) -> std::io::Result<()> {
        self.line(State::Note, what, &found)
    }

    /// How many were tried, and how many failed.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.tried, self.failed)
    }

    fn line(&self, state: State, what: &str, found: &dyn fmt::Display) -> std::io::Result<()> {
        let (word, colour) = state.parts();
        let (begin, end) = if self.colour { (colour, "\x1b[0m") } else { ("", "") };
        say(format!("{begin}{word:<9}{end} {what:<26} {found}"))
    }
}
