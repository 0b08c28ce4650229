//! The end of a row: every job's end is waited for, the workers stop, and everything is looked at once more.
//!
//! Separate because it is the same for every row, and because it gathers what `verdict` judges. It changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{SECRET, Stage};
use crate::http;
use crate::verdict::{Verdict, judge};
use crate::wire;

impl Stage {
    /// Waits for every job's end, stops the workers, and looks at everything once more.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        self.note_token();
        let levels = (0..17).map(|level| format!("delay.v1.{level:02}"));
        let names = ["jobs", "urgent", "suspect"]
            .into_iter()
            .map(str::to_owned)
            .chain(levels);
        let queues: Vec<String> = names.map(|name| self.queue(&name)).collect();
        let due = self.evidence.published.len() - self.evidence.late.len();
        let ended = self.wait("the end of every job", |stage| {
            let dead = wire::waiting(stage.broker.url(), &[stage.queue("dead")]).ok()?;
            let ended = stage.delivered().ok()? + u64::from(*dead.first()?);
            (ended >= due as u64).then_some(())
        });
        let mut quiet = 0;
        let emptied = self.wait("empty queues", |stage| {
            let waiting: u32 = wire::waiting(stage.broker.url(), &queues).ok()?.iter().sum();
            let busy = stage.sum("dingcard_jobs_in_flight", &[]) > 0.0;
            quiet = if waiting == 0 && !busy { quiet + 1 } else { 0 };
            (quiet >= 3).then_some(())
        });
        for missing in [ended.err(), emptied.err()].into_iter().flatten() {
            self.verdict.wrong.push(missing);
        }
        self.note_token();
        self.stop_workers();
        self.evidence.left = self.lengths()?;
        self.letters = wire::letters(self.broker.url(), &self.queue("dead"))?;
        self.cards = self.all_cards()?;
        self.settled = true;
        Ok(())
    }

    /// Whether a row has come to its end.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The row's line.
    pub(crate) fn judge(&mut self) -> Verdict {
        let expired = self.said_metric("dingcard_jobs_total", &[("outcome", "expired")]);
        let mut said = self.said();
        said.extend(self.letters.iter().map(|letter| letter.detail.clone()));
        let evidence = &mut self.evidence;
        evidence.said = said;
        evidence.expired = expired as u64;
        evidence.dead = self.letters.iter().map(|letter| letter.id.clone()).collect();
        for card in &self.cards {
            let shown = card["delivery_count"].as_u64().unwrap_or(0);
            if let (Some(job), 1..) = (card["params"]["job"].as_str(), shown) {
                *evidence.shown.entry(job.to_owned()).or_default() += shown;
            }
        }
        evidence.secrets = self.tokens.iter().cloned().collect();
        evidence.secrets.extend([SECRET.to_owned(), "access_token=".to_owned()]);
        let own = std::mem::take(&mut self.verdict);
        let mut verdict = judge(&self.evidence);
        verdict.wrong.extend(own.wrong);
        verdict.notes = own.notes;
        verdict.resume = own.resume;
        verdict
    }

    /// Every line of every worker, its last metrics, and what others said.
    pub(crate) fn said(&self) -> Vec<String> {
        let workers = self.gone.iter().chain(&self.workers);
        let lines = workers.flat_map(|w| w.process.lines().into_iter().chain(w.page.lines().map(str::to_owned)));
        lines.chain(self.heard.iter().cloned()).collect()
    }

    /// A metric over all workers that have ended, as they last told it.
    pub(crate) fn said_metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.gone.iter().map(|w| http::metric(&w.page, name, labels)).sum()
    }

    /// Every line of every worker and of the sandbox, with whose it is.
    pub(crate) fn logs(&self) -> Vec<String> {
        let mut all = Vec::new();
        for worker in self.gone.iter().chain(&self.workers) {
            let id = worker.process.id();
            all.extend(worker.process.lines().iter().map(|line| format!("worker {id}: {line}")));
        }
        all.extend(self.sandbox.lines().iter().map(|line| format!("sandbox: {line}")));
        all
    }

    fn stop_workers(&mut self) {
        self.look();
        for worker in &mut self.workers {
            worker.process.terminate();
        }
        for mut worker in std::mem::take(&mut self.workers) {
            let code = worker.process.wait(Duration::from_secs(20));
            self.gone.push(worker);
            self.demand(code == Ok(0), || format!("a worker told to stop at the end: {code:?}"));
        }
    }

    /// What is left in each queue. `rabbitmqctl` knows every queue, but its counts are up to five seconds old; those of a
    /// passive declaration are not, and leave out only what a consumer holds, of which there is none any more.
    fn lengths(&mut self) -> Result<BTreeMap<String, u64>, String> {
        let queues = self.queues()?;
        let mut left = BTreeMap::new();
        let _told = self.wait_for(Duration::from_secs(5), "empty queues", |stage| {
            let waiting = wire::waiting(stage.broker.url(), &queues).ok()?;
            let full = queues.iter().cloned().zip(waiting).filter(|(_, count)| *count > 0);
            left = full.map(|(name, count)| (name, u64::from(count))).collect();
            left.is_empty().then_some(())
        });
        Ok(left)
    }

    /// Every queue of the namespace but the dead letters.
    fn queues(&self) -> Result<Vec<String>, String> {
        let listing = self.broker.ctl(&["list_queues", "name", "--no-table-headers"]);
        let prefix = format!("{}.", self.namespace);
        let dead = self.queue("dead");
        let names = listing.lines().map(str::trim);
        let queues: Vec<String> = names
            .filter(|name| name.starts_with(&prefix) && *name != dead)
            .map(str::to_owned)
            .collect();
        if queues.is_empty() {
            return Err(format!("no queue of {} in {listing:?}", self.namespace));
        }
        Ok(queues)
    }
}
