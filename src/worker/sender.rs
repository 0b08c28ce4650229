//! What sends: the apps, and the memory of who has a card, with or without a broker behind it.
//!
//! Separate because a worker and `dingcard send` make the same attempts, and differ in what follows from one: a worker tells
//! the broker, and here the delayed retries are waited for and what became of each recipient is given back. It settles
//! nothing and takes part in no hold: whoever sends by hand is told why nothing is delivered and stops.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::Progress;
use super::attempt::Attempt;
use crate::amqp::{Headers, Queue};
use crate::config::{self, CardApi, Config, DEFAULT_APP};
use crate::dingtalk::{App, DingTalk, Failure};
use crate::job::{Job, Recipient};
use crate::ledger::{self, Ledger};
use crate::outcome::{Class, Outcome, Reason};
use crate::retry;
use crate::slice::Slices;

/// What attempts are made with.
pub struct Sender {
    pub(super) config: Arc<Config>,
    pub(super) dingtalk: DingTalk,
    pub(super) ledger: Arc<Ledger>,
}

/// A job that can be served here, and whose it is.
pub struct Order<'a> {
    pub(super) job: Job,
    /// The queue that it belongs to, and so its app.
    pub(super) home: Queue,
    pub(super) app: &'a App,
    pub(super) settings: &'a config::App,
}

/// What became of a job that was sent without a broker.
pub struct Sent {
    /// Outcome and reason of each recipient, in the order of `to`. Without an outcome it is still open, for that reason.
    pub recipients: Vec<(Option<Outcome>, Reason)>,
    /// What happened to those who have no card, to one for each reason.
    pub failures: BTreeMap<Reason, Failure>,
}

impl Sender {
    /// For the apps that have credentials.
    #[must_use]
    pub fn new(config: Arc<Config>, dingtalk: DingTalk, ledger: Ledger) -> Self {
        Self {
            config,
            dingtalk,
            ledger: Arc::new(ledger),
        }
    }

    /// The same with changed settings; whoever has a card is remembered.
    #[must_use]
    pub fn reloaded(&self, config: Config) -> Self {
        Self {
            dingtalk: self.dingtalk.reloaded(&config),
            config: Arc::new(config),
            ledger: self.ledger.clone(),
        }
    }

    /// The order that a job is, where nothing but DingTalk can refuse it.
    pub fn order(&self, job: Job, urgent: bool) -> Result<Order<'_>, Failure> {
        let name = job.app.clone().unwrap_or_else(|| DEFAULT_APP.to_owned());
        let (app, settings) = self.app(&name)?;
        if settings.paused {
            return Err(Failure::new(
                Reason::Paused,
                Class::Hold,
                format!("app {name} is paused"),
            ));
        }
        let home = if urgent { Queue::Urgent(name) } else { Queue::Jobs(name) };
        let order = Order {
            job,
            home,
            app,
            settings,
        };
        self.template(&order)?;
        Ok(order)
    }

    /// Sends now: attempt after attempt, each with the worker's own stages, until everybody is final, the app can deliver
    /// nothing, the attempts are used up, or nobody became final for `retry.job_deadline`. `again` is told of each wait.
    pub async fn send(&self, order: &Order<'_>, again: impl Fn(&Failure, Duration)) -> Sent {
        let _claim = self.ledger.claim(ledger::key(&[order.app_name(), &order.job.id])).await;
        let mut progress = Progress {
            attempt: 1,
            open: order.cut(),
            ..Progress::default()
        };
        match self.template(order) {
            Ok(template) => self.attempts(order, template, &mut progress, again).await,
            Err(failure) => {
                progress.note(&failure);
                progress.fail_open(failure.reason);
            }
        }
        Sent::of(order, &progress)
    }

    async fn attempts(
        &self,
        order: &Order<'_>,
        template: &str,
        progress: &mut Progress,
        again: impl Fn(&Failure, Duration),
    ) {
        let patience = self.config.retry.job_deadline;
        let mut deadline = Instant::now() + patience;
        for attempt in 1.. {
            if order.is_late() {
                progress.expire_open();
                return;
            }
            Attempt::new(self, order, template, None, deadline).run(progress).await;
            if std::mem::take(&mut progress.moved) {
                deadline = Instant::now() + patience;
            }
            let Some(trouble) = progress.trouble.clone().filter(|_| !progress.open.0.is_empty()) else {
                return;
            };
            let wait = self.wait(&trouble, attempt);
            let Some(wait) = wait.filter(|wait| Instant::now() + *wait < deadline) else {
                if trouble.reason == Reason::CardMissing {
                    progress.fail_open(trouble.reason);
                }
                return;
            };
            again(&trouble, wait);
            tokio::time::sleep(wait).await;
            progress.trouble = None;
        }
    }

    /// How long until the next attempt; `None` where another would end no better, or is somebody else's to make.
    fn wait(&self, trouble: &Failure, attempt: u32) -> Option<Duration> {
        match trouble.class {
            // A worker waits for the card that is to be updated; by hand, one looks first whether it was sent.
            _ if trouble.reason.holds() || trouble.reason == Reason::CardMissing => None,
            // The time was up for this attempt, and is for good unless somebody became final in it.
            _ if trouble.reason == Reason::Deadline => Some(Duration::ZERO),
            Class::Throttle => Some(retry::named_wait(trouble.wait.unwrap_or_default())),
            _ => retry::delayed(&self.config.retry, attempt, trouble.wait),
        }
    }

    /// The app of this name.
    pub(super) fn app(&self, name: &str) -> Result<(&App, &config::App), Failure> {
        self.dingtalk.app(name).zip(self.config.apps.get(name)).ok_or_else(|| {
            let detail = format!("app {name:?} is not in the configuration, or has no credentials there");
            Failure::new(Reason::UnknownApp, Class::Permanent, detail)
        })
    }

    /// The job's template ID, if it has all that the template needs.
    pub(super) fn template<'a>(&'a self, order: &'a Order<'_>) -> Result<&'a str, Failure> {
        let job = &order.job;
        if job.update_of.is_some() {
            return Ok("");
        }
        let Some((id, required)) = self.config.template(order.settings, job.template.as_deref()) else {
            let detail = "the job names no template and its app has no default one (apps.NAME.template)";
            return Err(Failure::new(Reason::TemplateInvalid, Class::Permanent, detail));
        };
        let missing: Vec<_> = required
            .iter()
            .filter(|key| !job.params.contains_key(*key))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            return Ok(id);
        }
        let missing = missing.join(", ");
        let detail = format!("params: the template needs {missing}, which the job does not give");
        Err(Failure::new(Reason::ParamsInvalid, Class::Permanent, detail))
    }
}

impl Order<'_> {
    /// The job.
    #[must_use]
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The name of its app.
    #[must_use]
    pub fn app_name(&self) -> &str {
        self.home.app()
    }

    pub(super) fn is_urgent(&self) -> bool {
        self.home.is_urgent()
    }

    /// Whether nobody may get the card any more.
    pub(super) fn is_late(&self) -> bool {
        self.job.expires_at.is_some_and(|at| at <= Timestamp::now())
    }

    /// How far the job has come, as its headers say, or a first cut. An error names the header that is none.
    pub(super) fn progress(&self, headers: &Headers) -> Result<Progress, &'static str> {
        Progress::read(headers, self.job.to.len(), || self.cut())
    }

    /// The slices of a job that nobody has worked on.
    fn cut(&self) -> Slices {
        let to = &self.job.to;
        // interactiveCards takes users or one group in a call, never both.
        let mixed = self.settings.card_api == CardApi::Instances;
        let alone = |p: usize| !mixed && matches!(to.get(p), Some(Recipient::Conversation(_)));
        Slices::cut(to.len(), self.settings.recipients_per_call, alone)
    }
}

impl Sent {
    /// Nothing was sent, because of `failure`.
    #[must_use]
    pub fn nothing(order: &Order<'_>, failure: &Failure) -> Self {
        Self {
            recipients: vec![(None, failure.reason); order.job.to.len()],
            failures: BTreeMap::from([(failure.reason, failure.clone())]),
        }
    }

    /// What the attempts came to.
    fn of(order: &Order<'_>, progress: &Progress) -> Self {
        let open = progress.trouble.as_ref().map_or(Reason::None, |trouble| trouble.reason);
        let mut recipients = vec![(None, open); order.job.to.len()];
        for (reason, position) in progress.failed.each() {
            recipients[position] = (Some(Outcome::Dead), reason);
        }
        for last in &progress.finals {
            recipients[last.position] = (Some(last.outcome), last.reason);
        }
        let noted = progress.noted.iter().map(|(reason, failure)| (*reason, failure));
        let trouble = progress.trouble.iter().map(|failure| (failure.reason, failure));
        Self {
            recipients,
            failures: noted
                .chain(trouble)
                .map(|(reason, failure)| (reason, failure.clone()))
                .collect(),
        }
    }
}
