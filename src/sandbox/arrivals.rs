//! When each call arrived, for tests of a client's pace.
//!
//! Counts (`calls`) cannot say whether a second held 15 calls or 30; only the moments can. They are taken as a call
//! comes in, before any fault makes it wait, on one clock that starts with the sandbox. The file judges no rate: that
//! is the reader's business. Memory is bounded: the oldest are forgotten, and how many those were is told.

use std::collections::VecDeque;
use std::time::Instant;

use serde_json::{Value, json};

use super::endpoint::Endpoint;

/// One call that came in.
#[derive(Debug)]
struct Arrival {
    at_ms: u64,
    endpoint: Endpoint,
    /// None where the call named no known app.
    app_key: Option<Box<str>>,
    throttled: bool,
}

/// Which of them somebody wants to see.
#[derive(Debug, Default)]
pub(super) struct Wanted<'a> {
    pub(super) endpoint: Option<&'a str>,
    pub(super) app: Option<&'a str>,
    pub(super) since_ms: u64,
}

/// The last arrivals, oldest first.
#[derive(Debug)]
pub(super) struct Arrivals {
    start: Instant,
    keep: usize,
    list: VecDeque<Arrival>,
    forgotten: u64,
}

impl Arrivals {
    pub(super) fn new(keep: usize) -> Self {
        Self {
            start: Instant::now(),
            keep: keep.max(1),
            list: VecDeque::new(),
            forgotten: 0,
        }
    }

    /// Takes a call that came in at `at`.
    pub(super) fn add(&mut self, at: Instant, endpoint: Endpoint, app_key: Option<&str>, throttled: bool) {
        if self.list.len() == self.keep {
            self.list.pop_front();
            self.forgotten += 1;
        }
        let at_ms = at.saturating_duration_since(self.start).as_millis();
        self.list.push_back(Arrival {
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            endpoint,
            app_key: app_key.map(Box::from),
            throttled,
        });
    }

    /// Forgets all of them and tells how many there were; the clock goes on.
    pub(super) fn clear(&mut self) -> usize {
        self.forgotten = 0;
        std::mem::take(&mut self.list).len()
    }

    /// As `/sandbox/arrivals` prints them. Two calls that were answered out of order stand in the order of their
    /// answers, so the list is sorted here.
    pub(super) fn to_json(&self, wanted: &Wanted<'_>) -> Value {
        let matches = |arrival: &&Arrival| {
            arrival.at_ms >= wanted.since_ms
                && wanted.endpoint.is_none_or(|name| name == arrival.endpoint.name())
                && wanted.app.is_none_or(|app| Some(app) == arrival.app_key.as_deref())
        };
        let mut found: Vec<_> = self.list.iter().filter(matches).collect();
        found.sort_by_key(|arrival| arrival.at_ms);
        let row = |arrival: &&Arrival| {
            json!({
                "at_ms": arrival.at_ms,
                "endpoint": arrival.endpoint.name(),
                "app_key": arrival.app_key,
                "result": if arrival.throttled { "throttled" } else { "served" },
            })
        };
        let now_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let rows: Vec<_> = found.iter().map(row).collect();
        json!({"now_ms": now_ms, "forgotten": self.forgotten, "arrivals": rows})
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::time::Duration;

    use super::super::testing::Bench;
    use super::*;

    fn rows(printed: &Value) -> Vec<u64> {
        let rows = printed["arrivals"].as_array().unwrap().iter();
        rows.map(|row| row["at_ms"].as_u64().unwrap()).collect()
    }

    #[test]
    fn times_count_from_the_start_and_the_oldest_are_forgotten() {
        let mut arrivals = Arrivals::new(2);
        // The second was answered after the third.
        for ms in [5, 40, 30] {
            let at = arrivals.start + Duration::from_millis(ms);
            arrivals.add(at, Endpoint::Deliver, Some("a"), false);
        }
        let printed = arrivals.to_json(&Wanted::default());
        assert_eq!((rows(&printed), &printed["forgotten"]), (vec![30, 40], &json!(1)));
        let since = Wanted {
            since_ms: 35,
            ..Wanted::default()
        };
        assert_eq!(rows(&arrivals.to_json(&since)), [40]);
        assert_eq!(arrivals.clear(), 2);
        assert_eq!(arrivals.to_json(&Wanted::default())["arrivals"], json!([]));
    }

    #[tokio::test]
    async fn a_call_is_served_or_throttled() {
        let bench = Bench::with("rate_per_second = 1").await;
        let calls = (0..20).map(|n| {
            let bench = &bench;
            async move { bench.create_and_deliver(&format!("a{n}"), &["u1"], json!({})).await.0 }
        });
        let answers = futures_util::future::join_all(calls).await;
        let (status, seen) = bench.get("/sandbox/arrivals?endpoint=createAndDeliver").await;
        assert_eq!(status, 200);
        let rows = seen["arrivals"].as_array().unwrap();
        let with = |result: &str| rows.iter().filter(|row| row["result"] == result).count();
        assert_eq!(
            (with("served"), with("throttled")),
            (
                answers.iter().filter(|&&status| status == 200).count(),
                answers.iter().filter(|&&status| status == 403).count()
            )
        );
        assert_eq!(rows[0]["app_key"], "dingsandbox");
        let others = bench.get("/sandbox/arrivals?app=dingsandbox2").await.1;
        assert_eq!(others["arrivals"], json!([]));
        assert_eq!(bench.get("/sandbox/arrivals?endpoint=send").await.0, 400);
        assert_eq!(bench.delete("/sandbox/arrivals").await.1["deleted"], 21);
    }
}
