//! The sandbox of a stage: slowed down, told to fail, and asked what it saw.
//!
//! Separate because it is a program of its own, reached over HTTP alone. Which fault a row needs is the row's business.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};

use super::{IN_WORK, SECRET, Stage};
use crate::http;

impl Stage {
    /// Slows DingTalk's answers down, after the cards were taken: whoever is killed while it waits leaves a card behind.
    pub(crate) fn stretch_answers(&mut self, whole: Duration) -> Result<(), String> {
        self.slowness = "slow_body";
        self.stretch(whole)
    }

    /// Slows DingTalk down so that the row's jobs take about this long, with all that may be in work at once.
    pub(crate) fn stretch(&mut self, whole: Duration) -> Result<(), String> {
        let share = IN_WORK as f64 / self.run.jobs.max(1) as f64;
        self.latency = whole.mul_f64(share).min(Duration::from_secs(1));
        self.faults(&json!([]))
    }

    /// These faults instead of those before; the slowness stays.
    pub(crate) fn faults(&self, faults: &Value) -> Result<(), String> {
        let mut all = faults.as_array().cloned().unwrap_or_default();
        let ms = u64::try_from(self.latency.as_millis()).unwrap_or(0);
        if ms > 0 {
            for endpoint in ["createAndDeliver", "interactiveCards.send"] {
                all.push(json!({"kind": self.slowness, "endpoint": endpoint, "ms": ms}));
            }
        }
        let body = json!({"faults": all, "seed": 7});
        match http::put(&format!("{}/sandbox/faults", self.sandbox_url), &body) {
            Ok((200, _)) => Ok(()),
            Ok((status, answer)) => Err(format!("the sandbox: {status} {answer}")),
            Err(error) => Err(format!("the sandbox: {error}")),
        }
    }

    /// Where it listens.
    pub(crate) fn sandbox_address(&self) -> Result<SocketAddr, String> {
        let address = self.sandbox_url.trim_start_matches("http://").parse();
        address.map_err(|_| format!("no address in {}", self.sandbox_url))
    }

    fn counts(&self) -> Result<Value, String> {
        http::get_json(&format!("{}/sandbox/calls", self.sandbox_url)).map_err(|error| format!("the sandbox: {error}"))
    }

    /// How many cards were shown, each counted once for every recipient.
    pub(crate) fn delivered(&self) -> Result<u64, String> {
        let counts = self.counts()?;
        let count = |key: &str| counts["deliveries"][key].as_u64().unwrap_or(0);
        let delivered = count("total") - count("duplicates");
        self.progress.delivered.store(delivered, Ordering::Relaxed);
        Ok(delivered)
    }

    /// How many calls were answered with one of these words.
    pub(crate) fn answered(&self, results: &[&str]) -> Result<u64, String> {
        let counts = self.counts()?;
        let rows = counts["calls"].as_array().into_iter().flatten();
        let wanted = rows.filter(|row| results.contains(&row["result"].as_str().unwrap_or_default()));
        Ok(wanted.filter_map(|row| row["count"].as_u64()).sum())
    }

    /// The sandbox gives the same token again for as long as it lives.
    pub(super) fn note_token(&mut self) {
        let url = format!("{}/gettoken?appkey=dingsandbox&appsecret={SECRET}", self.sandbox_url);
        let token = http::get_json(&url).ok();
        let token = token.as_ref().and_then(|answer| answer["access_token"].as_str());
        self.tokens.extend(token.map(str::to_owned));
    }

    pub(super) fn all_cards(&self) -> Result<Vec<Value>, String> {
        let mut cards = Vec::new();
        loop {
            let url = format!("{}/sandbox/cards?limit=1000&offset={}", self.sandbox_url, cards.len());
            let answer = http::get_json(&url).map_err(|error| format!("the sandbox: {error}"))?;
            let page = answer["cards"].as_array().cloned().unwrap_or_default();
            if page.is_empty() {
                return Ok(cards);
            }
            cards.extend(page);
        }
    }
}
