//! The life of a job, top to bottom: consume → decode → (hand over | wait | expire) → resolve → send → settle.
//!
//! Each stage gives a value; what is to be done with the broker is decided once, from all of them, and carried out last
//! (`settle`). A panic in a job is a failure of that job alone.

mod attempt;
mod drain;
mod hold;
mod progress;
mod reply;
mod resolve;
mod send;
mod sender;
mod settle;
mod spans;
mod update;

use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::Instrument as _;

use self::attempt::Attempt;
use self::hold::{Admission, Holds};
use self::progress::Progress;
use self::reply::Reply;
use self::settle::Settlement;
use crate::amqp::{Delivery, MAX_DELAY, Names, Paces, Publisher, Queue, Settled, published_at};
use crate::config::{Config, DEFAULT_APP};
use crate::dingtalk::Failure;
use crate::health::Health;
use crate::job::Job;
use crate::ledger;
use crate::metrics::Metrics;
use crate::outcome::{Class, Reason, UNKNOWN_APP};
use crate::repeats::Repeats;
use crate::shutdown::Shutdown;

pub use self::drain::{Left, drain};
pub use self::sender::{Order, Sender, Sent};

/// A message returned this often by workers that did not settle it may be what ends them.
const SUSPECT_AFTER: u64 = 3;
/// In the suspect queue, where it is alone, this often is proof.
const GUILTY_AFTER: u64 = 2;

/// What works on jobs.
pub struct Worker {
    /// Another one after each reload; an attempt keeps the one that it began with.
    sender: RwLock<Arc<Sender>>,
    name: String,
    names: Names,
    publisher: Publisher,
    holds: Holds,
    metrics: Arc<Metrics>,
    repeats: Repeats,
}

impl Worker {
    /// A worker for the apps of `sender`.
    #[must_use]
    pub fn new(
        sender: Sender,
        names: Names,
        publisher: Publisher,
        metrics: Arc<Metrics>,
        health: &Arc<Health>,
    ) -> Self {
        let config = &sender.config;
        let apps = config.served_apps().unwrap_or_default();
        Self {
            name: config.worker_name(),
            holds: Holds::new(config, &apps, &metrics, health),
            sender: RwLock::new(Arc::new(sender)),
            names,
            publisher,
            metrics,
            repeats: Repeats::default(),
        }
    }

    /// Takes changed settings: attempts that begin from now on are made with them, and apps on hold are probed at once.
    /// Gives the names of what waits for a restart.
    pub fn reload(&self, new: &Config) -> Vec<String> {
        let before = self.sender();
        let (config, waits) = before.config.reloaded(new);
        self.holds.reload(&config);
        *self.sender.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(before.reloaded(config));
        waits
    }

    fn sender(&self) -> Arc<Sender> {
        self.sender.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How fast each app may be consumed; follows the holds.
    #[must_use]
    pub fn paces(&self) -> Paces {
        self.holds.paces()
    }

    /// Ends holds that no job comes to probe; without end itself.
    pub async fn lapse_holds(&self) {
        self.holds.lapse().await;
    }

    /// Works on one delivery until it is settled, or until `shutdown` gives it up: then the broker delivers it again.
    pub async fn work(&self, delivery: Delivery, shutdown: &Shutdown) {
        tokio::select! {
            reply = self.live_through(delivery, shutdown) => if let Some(reply) = reply {
                // Boxed, since few jobs have one and all would carry its room.
                Box::pin(reply.send(&self.publisher, &self.repeats, shutdown)).await;
            },
            () = shutdown.aborted() => {}
        }
    }

    /// Lives a delivery through to its settlement, and gives the result that somebody waits for.
    async fn live_through(&self, delivery: Delivery, shutdown: &Shutdown) -> Option<Reply> {
        self.metrics.jobs_in_flight.inc();
        let _in_flight = InFlight(&self.metrics);
        let sender = self.sender();
        let span = spans::consume(&delivery);
        // Boxed, like other large futures that are wrapped: each wrapping moves what it wraps.
        let living = Box::pin(self.life(&sender, &delivery, shutdown));
        let living = AssertUnwindSafe(living).catch_unwind();
        let settlement = living
            .instrument(span.clone())
            .await
            .unwrap_or_else(|panic| Settlement::panicked(&delivery, panic.as_ref()));
        let reply = Reply::of(&delivery, &settlement);
        let settling = spans::settle(&span, &delivery);
        for span in [&span, &settling] {
            spans::decided(span, &settlement);
        }
        let settled = settle::settle(self, delivery, settlement).instrument(settling).await;
        reply.filter(|_| settled == Settled::Done)
    }

    /// What is to become of a delivery.
    async fn life(&self, sender: &Sender, delivery: &Delivery, shutdown: &Shutdown) -> Settlement {
        let order = match self.accept(sender, delivery) {
            Ok(order) => order,
            Err(settlement) => return settlement,
        };
        let _claim = sender
            .ledger
            .claim(ledger::key(&[order.app_name(), &order.job.id]))
            .await;
        let mut progress = match order.progress(delivery.headers()) {
            Ok(progress) => progress,
            Err(header) => {
                let detail = format!("header {header}: not one that dingcard wrote for this job");
                return Settlement::dead(order.app_name(), Some(&order.job), Reason::InvalidJob, detail);
            }
        };
        if order.is_late() {
            return Settlement::expired(&order, progress);
        }
        let template = match sender.template(&order) {
            Ok(template) => template,
            Err(failure) => {
                progress.note(&failure);
                progress.fail_open(failure.reason);
                return Settlement::of(self, order, progress);
            }
        };
        match self
            .holds
            .admit(
                order.app_name(),
                delivery.arrived_by(),
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
                let deadline = Instant::now() + sender.config.retry.job_deadline;
                let attempt = Attempt::new(sender, &order, template, Some(delivery), deadline);
                attempt.run(&mut progress).await;
                self.learn(&attempt, &progress, &admission);
                drop(admission);
            }
        }
        Settlement::of(self, order, progress)
    }

    /// The order that a delivery is, or what becomes of one that is none: refused, early, or another app's.
    fn accept<'a>(&self, sender: &'a Sender, delivery: &Delivery) -> Result<Order<'a>, Settlement> {
        if let Some(suspicion) = self.suspicion(delivery) {
            return Err(suspicion);
        }
        let home = self.home(delivery);
        let job = Job::decode(delivery.body(), delivery.message_id())
            .map_err(|fault| Settlement::dead(home.app(), None, Reason::InvalidJob, fault.to_string()))?;
        let app_name = job.app.as_deref().unwrap_or(home.app());
        let (app, settings) = match sender.app(app_name) {
            Ok(known) => known,
            Err(failure) => {
                return Err(Settlement::dead(
                    UNKNOWN_APP,
                    Some(&job),
                    failure.reason,
                    failure.detail,
                ));
            }
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
    /// nothing of it: only a probe ends a hold, and only by an answer to a call for a card, or to a look-up where those
    /// were refused.
    fn learn(&self, attempt: &Attempt<'_>, progress: &Progress, admission: &Admission<'_>) {
        let app_name = attempt.order.app_name();
        let answered = attempt.answered.load(Ordering::Relaxed);
        let (probed, answered) = match admission {
            Admission::Probe(probe) if probe.needs_look_up => {
                (attempt.order.app.look_ups() > attempt.look_ups_before, answered)
            }
            Admission::Probe(_) => (answered, false),
            Admission::Go | Admission::Later(_) => (false, false),
        };
        match &progress.trouble {
            Some(trouble) if trouble.reason.holds() => {
                let by_probe = matches!(admission, Admission::Probe(_));
                self.holds.hold(app_name, trouble, by_probe);
            }
            _ if probed => self.holds.release(app_name),
            _ if answered => self.holds.go_on(app_name),
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
