//! What readiness knows: whether the broker is there, whether the worker drains, and which apps are on hold.
//!
//! Separate so that whoever learns of a change says it here and `admin` alone turns it into an answer. It decides nothing
//! and logs nothing.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::outcome::Reason;

/// Shared by all parts of a worker.
#[derive(Debug)]
pub struct Health(watch::Sender<State>);

#[derive(Debug)]
struct State {
    broker: Result<(), String>,
    draining: bool,
    holds: BTreeMap<String, Reason>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Why the worker is not ready; ready where this is empty.
    pub reasons: Vec<String>,
    /// Whether the worker was asked to stop.
    pub draining: bool,
    /// Apps on hold. A hold is for an alert, not for a rollout to stall on, so it does not make the worker unready.
    pub holds: BTreeMap<String, Reason>,
}

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(State {
            broker: Err("starting: the broker is not connected yet".to_owned()),
            draining: false,
            holds: BTreeMap::new(),
        }))
    }
}

impl Health {
    /// The worker consumes.
    pub fn broker_ready(&self) {
        self.0.send_modify(|state| state.broker = Ok(()));
    }

    /// The worker cannot consume, and why.
    pub fn broker_away(&self, why: impl Into<String>) {
        self.0.send_modify(|state| state.broker = Err(why.into()));
    }

    /// The worker drains.
    pub fn draining(&self) {
        self.0.send_modify(|state| state.draining = true);
    }

    /// An app went on hold, or came off it.
    pub fn hold(&self, app: &str, reason: Option<Reason>) {
        self.0.send_modify(|state| {
            match reason {
                Some(reason) => state.holds.insert(app.to_owned(), reason),
                None => state.holds.remove(app),
            };
        });
    }

    /// What readiness knows now.
    #[must_use]
    pub fn report(&self) -> Report {
        self.0.borrow().report()
    }

    /// Tells what readiness knows now and after each change, without end.
    pub async fn follow(&self, mut tell: impl FnMut(&Report)) {
        let mut state = self.0.subscribe();
        loop {
            let report = state.borrow_and_update().report();
            tell(&report);
            if state.changed().await.is_err() {
                return;
            }
        }
    }
}

impl State {
    fn report(&self) -> Report {
        let draining = self
            .draining
            .then(|| "draining: the worker was asked to stop".to_owned());
        Report {
            reasons: self.broker.clone().err().into_iter().chain(draining).collect(),
            draining: self.draining,
            holds: self.holds.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_only_while_it_consumes_and_does_not_drain() {
        let health = Health::default();
        assert_eq!(health.report().reasons.len(), 1);
        health.broker_ready();
        assert!(health.report().reasons.is_empty());
        health.broker_away("the broker is away");
        assert_eq!(health.report().reasons, ["the broker is away"]);
        health.draining();
        assert_eq!(health.report().reasons.len(), 2);
    }

    #[test]
    fn a_hold_is_listed_and_does_not_make_the_worker_unready() {
        let health = Health::default();
        health.broker_ready();
        health.hold("sales", Some(Reason::QuotaSpent));
        let report = health.report();
        assert!(report.reasons.is_empty() && report.holds["sales"] == Reason::QuotaSpent);
        health.hold("sales", None);
        assert!(health.report().holds.is_empty());
    }
}
