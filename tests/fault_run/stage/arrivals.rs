//! When calls reached the sandbox, and what that says of a pace.
//!
//! Separate because it is the one place that counts calls against a limit. The times are the sandbox's own, in whole
//! milliseconds of its clock: no worker's word is taken.

use serde_json::Value;

use super::Stage;
use crate::http;

/// One call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    /// Since the sandbox started.
    pub(crate) at_ms: u64,
    pub(crate) throttled: bool,
}

impl Stage {
    /// Every call to an endpoint so far, in the order of arrival.
    pub(crate) fn arrivals(&self, endpoint: &str) -> Result<Vec<Arrival>, String> {
        let answer = self.ask_arrivals(&format!("endpoint={endpoint}"))?;
        if answer["forgotten"] != 0 {
            return Err(format!("the sandbox forgot {} arrivals", answer["forgotten"]));
        }
        let read = |row: &Value| {
            Some(Arrival {
                at_ms: row["at_ms"].as_u64()?,
                throttled: row["result"] == "throttled",
            })
        };
        let rows = answer["arrivals"].as_array().ok_or("the sandbox: no arrivals")?;
        let read: Option<Vec<Arrival>> = rows.iter().map(read).collect();
        read.ok_or_else(|| "the sandbox: an arrival without a time".to_owned())
    }

    /// The sandbox's clock, in milliseconds.
    pub(crate) fn clock(&self) -> Result<u64, String> {
        let answer = self.ask_arrivals(&format!("since_ms={}", u64::MAX >> 12))?;
        answer["now_ms"]
            .as_u64()
            .ok_or_else(|| "the sandbox: no time".to_owned())
    }

    fn ask_arrivals(&self, query: &str) -> Result<Value, String> {
        http::get_json(&format!("{}/sandbox/arrivals?{query}", self.sandbox_url))
            .map_err(|error| format!("the sandbox: {error}"))
    }
}

/// The most calls that came within one second, wherever that second begins: of all windows of 1,000 ms, its end left out,
/// that begin with a call.
pub(crate) fn most_in_a_second(arrivals: &[Arrival]) -> usize {
    let from = |n: usize, first: &Arrival| {
        let within = |other: &&Arrival| other.at_ms < first.at_ms + 1000;
        arrivals.iter().skip(n).take_while(within).count()
    };
    let counts = arrivals.iter().enumerate().map(|(n, first)| from(n, first));
    counts.max().unwrap_or(0)
}

/// Puts forged times before the counter; an error names the one that it miscounted.
pub(crate) fn can_fail() -> Result<(), String> {
    let of = |times: &[u64]| {
        let arrival = |at_ms: &u64| Arrival {
            at_ms: *at_ms,
            throttled: false,
        };
        most_in_a_second(&times.iter().map(arrival).collect::<Vec<_>>())
    };
    // Three at the end of one second and three at the start of the next are six in one.
    for (times, most) in [
        (&[900, 950, 999, 1000, 1050, 1899][..], 6),
        (&[900, 950, 999, 1000, 1050, 1900], 5),
        (&[0, 1000, 2000], 1),
        (&[5, 5], 2),
        (&[], 0),
    ] {
        if of(times) != most {
            return Err(format!("{} calls counted in a second of {times:?}", of(times)));
        }
    }
    Ok(())
}
