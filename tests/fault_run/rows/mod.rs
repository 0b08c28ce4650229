//! The rows of the fault run, in the order in which they are played.
//!
//! A row is what it breaks, when, and what must hold besides what every row must: nothing lost, nothing left, nobody told
//! twice, no secret said. It publishes, waits for events, and asks; it starts and judges nothing itself.

mod broker;
mod calls;
mod cluster;
mod dingtalk;
mod holds;
mod jobs;
mod neighbour;
mod pace;
mod redis;
mod replay;
mod workers;

use crate::stage::Stage;

/// Whose broker a row plays on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Own {
    /// One that other rows use as well.
    Shared,
    /// One that it may hurt.
    Private,
    /// The same, as the first node of a cluster. Not in the small set.
    Cluster,
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// What must hold, besides.
    pub(crate) holds: &'static str,
    pub(crate) broker: Own,
    pub(crate) play: fn(&mut Stage) -> Result<(), String>,
}

/// A row on the shared broker.
const fn row(name: &'static str, holds: &'static str, play: fn(&mut Stage) -> Result<(), String>) -> Row {
    Row {
        name,
        holds,
        broker: Own::Shared,
        play,
    }
}

/// A row with a broker of its own.
const fn alone(name: &'static str, holds: &'static str, play: fn(&mut Stage) -> Result<(), String>) -> Row {
    Row {
        name,
        holds,
        broker: Own::Private,
        play,
    }
}

/// Every fault.
pub(crate) fn all() -> Vec<Row> {
    [
        workers::ROWS,
        broker::ROWS,
        cluster::ROWS,
        redis::ROWS,
        dingtalk::ROWS,
        holds::ROWS,
        jobs::ROWS,
        replay::ROWS,
    ]
    .concat()
}

/// No faults but what DingTalk allows: `tests/rate`.
pub(crate) fn at_the_limit(small: bool) -> Vec<Row> {
    let long = if small { &[] } else { pace::LONG };
    [pace::ROWS, long, calls::ROWS, neighbour::ROWS].concat()
}
