//! How often each app called each endpoint, and what came of it.
//!
//! Apart from the card store because calls that show no card count too: the quota of an organisation is a number
//! of calls (dingtalk-api.md §7), and a test of retries asks how many there were. It counts and judges nothing.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Counts by app (none where the call named no known one), endpoint and result.
#[derive(Debug, Default)]
pub(super) struct Calls(BTreeMap<(Option<String>, &'static str, String), u64>);

impl Calls {
    pub(super) fn add(&mut self, app_key: Option<&str>, endpoint: &'static str, result: &str) {
        *self
            .0
            .entry((app_key.map(str::to_owned), endpoint, result.to_owned()))
            .or_default() += 1;
    }

    pub(super) fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// One row for each combination that occurred.
    pub(super) fn rows(&self) -> Vec<Value> {
        let row = |((app_key, endpoint, result), count): (&(Option<String>, &str, String), &u64)| json!({"app_key": app_key, "endpoint": endpoint, "result": result, "count": count});
        self.0.iter().map(row).collect()
    }
}
