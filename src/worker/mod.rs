//! The life of a job, top to bottom: consume → decode → (hand over | wait | expire) → resolve → send → settle.
//!
//! Each stage gives a value; what is to be done with the broker is decided once, from all of them, and carried out last
//! (`settle`). A panic in a job is a failure of that job alone.

mod attempt;
mod drain;
mod hold;
mod progress;
mod resolve;
mod send;
mod settle;
mod update;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use jiff::Timestamp;

use self::attempt::Attempt;
use self::hold::{Admission, Holds};
use self::progress::Progress;
use self::settle::Settlement;
use crate::amqp::{Delivery, Headers, MAX_DELAY, Names, Paces, Publisher, Queue, published_at};
use crate::config::{self, CardApi, Config, DEFAULT_APP};
use crate::dingtalk::{App, DingTalk, Failure};
use crate::health::Health;
use crate::job::{Job, Recipient};
use crate::ledger::{self, Ledger};
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason, UNKNOWN_APP};
use crate::shutdown::Shutdown;
use crate::slice::Slices;

pub use self::drain::{Left, drain};

/// A message returned this often by workers that did not settle it may be what ends them.
const SUSPECT_AFTER: u64 = 3;
/// In the suspect queue, where it is alone, this often is proof.
const GUILTY_AFTER: u64 = 2;

/// What works on jobs.
pub struct Worker {
    config: Arc<Config>,
    name: String,
    names: Names,
    dingtalk: DingTalk,
    publisher: Publisher,
    ledger: Ledger,
    holds: Holds,
    metrics: Arc<Metrics>,
}

/// A job that this worker may serve, and whose it is.
struct Order<'a> {
    job: Job,
    /// The queue that it belongs to, and so its app.
    home: Queue,
    app: &'a App,
    settings: &'a config::App,
}

impl Worker {
    /// A worker for the apps that have credentials.
    pub fn new(
        config: Arc<Config>,
        names: Names,
        dingtalk: DingTalk,
        publisher: Publisher,
        ledger: Ledger,
        metrics: Arc<Metrics>,
        health: &Arc<Health>,
    ) -> Self {
        let apps = config.served_apps().unwrap_or_default();
        Self {
            name: config.worker_name(),
            names,
            dingtalk,
            publisher,
            ledger,
            holds: Holds::new(&config, &apps, &metrics, health),
            metrics,
            config,
        }
    }

    /// How fast each app may be consumed; follows the holds.
    #[must_use]
    pub fn paces(&self) -> Paces {
        self.holds.paces()
    }

    /// Works on one delivery until it is settled, or until `shutdown` gives it up: then the broker delivers it again.
    pub async fn work(&self, delivery: Delivery, shutdown: &Shutdown) {
        self.metrics.jobs_in_flight.inc();
        let _in_flight = InFlight(&self.metrics);
        let lived_and_settled = async {
            let living = AssertUnwindSafe(self.life(&delivery, shutdown)).catch_unwind();
            let settlement = living
                .await
                .unwrap_or_else(|panic| Settlement::panicked(&delivery, panic.as_ref()));
            settle::settle(self, delivery, settlement).await;
        };
        tokio::select! {
            () = lived_and_settled => {}
            () = shutdown.aborted() => {}
        }
    }

    /// What is to become of a delivery.
    async fn life(&self, delivery: &Delivery, shutdown: &Shutdown) -> Settlement {
        let order = match self.accept(delivery) {
            Ok(order) => order,
            Err(settlement) => return settlement,
        };
        let _claim = self.ledger.claim(ledger::key(&[order.app_name(), &order.job.id])).await;
        let mut progress = match order.progress(delivery.headers()) {
            Ok(progress) => progress,
            Err(header) => {
                let detail = format!("header {header}: not one that dingcard wrote for this job");
                return Settlement::dead(order.app_name(), Some(&order.job), Reason::InvalidJob, detail);
            }
        };
        if order.job.expires_at.is_some_and(|at| at <= Timestamp::now()) {
            return Settlement::expired(&order, progress);
        }
        let template = match self.template(&order) {
            Ok(template) => template,
            Err((reason, detail)) => {
                progress.detail = detail;
                progress.fail_open(reason);
                return Settlement::of(self, order, progress);
            }
        };
        let queue = self.names.queue(delivery.arrived_by());
        match self
            .holds
            .admit(
                order.app_name(),
                &queue,
                order.is_urgent(),
                shutdown,
                delivery.session_ended(),
            )
            .await
        {
            Admission::Later(reason) => {
                progress.trouble(Failure::new(reason, Class::Hold, "the app is on hold; the job waits"));
            }
            admission @ (Admission::Go | Admission::Probe(_)) => {
                let attempt = Attempt::new(self, &order, template, delivery);
                attempt.run(&mut progress).await;
                self.learn(&attempt, &progress, &admission);
                drop(admission);
            }
        }
        Settlement::of(self, order, progress)
    }

    /// The order that a delivery is, or what becomes of one that is none: refused, early, or another app's.
    fn accept(&self, delivery: &Delivery) -> Result<Order<'_>, Settlement> {
        if let Some(suspicion) = self.suspicion(delivery) {
            return Err(suspicion);
        }
        let home = self.home(delivery);
        let job = Job::decode(delivery.body(), delivery.message_id())
            .map_err(|fault| Settlement::dead(home.app(), None, Reason::InvalidJob, fault.to_string()))?;
        let app_name = job.app.as_deref().unwrap_or(home.app());
        let (Some(app), Some(settings)) = (self.dingtalk.app(app_name), self.config.apps.get(app_name)) else {
            let detail = format!("app {app_name:?} is not in the configuration, or has no credentials there");
            return Err(Settlement::dead(UNKNOWN_APP, Some(&job), Reason::UnknownApp, detail));
        };
        if app_name != home.app() {
            return Err(Settlement::Move(home.of_app(app_name)));
        }
        if let Some(delay) = early(&job) {
            return Err(Settlement::Wait {
                queue: home,
                job_id: job.id,
                delay,
            });
        }
        if delivery.is_first() {
            let published = published_at(delivery.properties());
            let waited = published.and_then(|at| SystemTime::now().duration_since(at).ok());
            if let Some(waited) = waited {
                self.metrics.queue_wait(app_name, waited);
            }
        }
        Ok(Order {
            job,
            home,
            app,
            settings,
        })
    }

    /// Whether the app is on hold, as an attempt found it. What was in flight when a hold began may end well and says
    /// nothing of it: only a probe ends a hold, and only by an answer to a call for a card.
    fn learn(&self, attempt: &Attempt<'_>, progress: &Progress, admission: &Admission<'_>) {
        let app_name = attempt.order.app_name();
        let probed = matches!(admission, Admission::Probe(_)) && attempt.answered.load(Ordering::Relaxed);
        match &progress.trouble {
            Some(trouble) if trouble.reason.holds() => self.holds.hold(app_name, trouble),
            _ if probed => self.holds.release(app_name),
            _ => {}
        }
    }

    /// Read from the broker's count before the body is looked at: the body may be what ends workers.
    fn suspicion(&self, delivery: &Delivery) -> Option<Settlement> {
        let count = delivery.count();
        match delivery.arrived_by() {
            Queue::Suspect if count >= GUILTY_AFTER => {
                let detail = format!("given to workers {count} times alone in the suspect queue, and never settled");
                Some(Settlement::dead(
                    self.home(delivery).app(),
                    None,
                    Reason::DeliveryLimit,
                    detail,
                ))
            }
            Queue::Suspect | Queue::Dead => None,
            _ if count >= SUSPECT_AFTER => Some(Settlement::Move(Queue::Suspect)),
            _ => None,
        }
    }

    /// The queue that a delivery belongs to: the one it arrived by, or, from the suspect queue, the one before.
    fn home(&self, delivery: &Delivery) -> Queue {
        match delivery.arrived_by() {
            Queue::Suspect => {
                let named = delivery
                    .headers()
                    .queue
                    .as_deref()
                    .and_then(|name| self.names.parse(name));
                named.unwrap_or_else(|| Queue::Jobs(DEFAULT_APP.to_owned()))
            }
            queue => queue.clone(),
        }
    }

    /// The job's template ID, if it has all that the template needs.
    fn template<'a>(&'a self, order: &'a Order<'_>) -> Result<&'a str, (Reason, String)> {
        let job = &order.job;
        if job.update_of.is_some() {
            return Ok("");
        }
        let Some((id, required)) = self.config.template(order.settings, job.template.as_deref()) else {
            let detail = "the job names no template and its app has no default one (apps.NAME.template)";
            return Err((Reason::TemplateInvalid, detail.to_owned()));
        };
        let missing: Vec<_> = required
            .iter()
            .filter(|key| !job.params.contains_key(*key))
            .map(String::as_str)
            .collect();
        if missing.is_empty() {
            Ok(id)
        } else {
            let missing = missing.join(", ");
            Err((
                Reason::ParamsInvalid,
                format!("params: the template needs {missing}, which the job does not give"),
            ))
        }
    }
}

impl Order<'_> {
    fn app_name(&self) -> &str {
        self.home.app()
    }

    fn is_urgent(&self) -> bool {
        self.home.is_urgent()
    }

    /// How far the job has come, as its headers say, or a first cut. An error names the header that is none.
    fn progress(&self, headers: &Headers) -> Result<Progress, &'static str> {
        let to = &self.job.to;
        // interactiveCards takes users or one group in a call, never both.
        let mixed = self.settings.card_api == CardApi::Instances;
        let alone = |p: usize| !mixed && matches!(to.get(p), Some(Recipient::Conversation(_)));
        Progress::read(headers, to.len(), || {
            Slices::cut(to.len(), self.settings.recipients_per_call, alone)
        })
    }
}

/// How long a job that is early waits in the broker.
fn early(job: &Job) -> Option<Duration> {
    let wait = job.not_before?.duration_since(Timestamp::now());
    let wait = Duration::try_from(wait).ok().filter(|w| !w.is_zero())?;
    Some(wait.min(MAX_DELAY))
}

struct InFlight<'a>(&'a Metrics);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.jobs_in_flight.dec();
    }
}
