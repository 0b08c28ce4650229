//! Holds: an app that can deliver nothing at present, through no fault of any job.
//!
//! Separate from the life of a job because a hold outlives it. While an app is on hold its queues are consumed one message
//! at a time; that job waits here for its turn as the probe, and what else is in hand goes back to the delay levels. Which
//! answer means a hold is `dingtalk::error`'s business.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::amqp::{Pace, Paces, Queue};
use crate::config::Config;
use crate::dingtalk::Failure;
use crate::health::Health;
use crate::metrics::Metrics;
use crate::outcome::Reason;
use crate::retry::Schedule;
use crate::shutdown::Shutdown;

/// The first wait between probes.
const FIRST_PROBE: Duration = Duration::from_secs(5);
/// The longest.
const LAST_PROBE: Duration = Duration::from_mins(5);
/// A hold that was due to be probed this long ago, with no job to probe it by, says nothing any more.
const LAPSE: Duration = Duration::from_mins(10);
/// Between jobs that do without the call that is refused.
const NEXT: Duration = Duration::from_millis(20);

/// The holds of all apps of a worker.
pub(super) struct Holds {
    apps: HashMap<String, App>,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
}

struct App {
    held: Mutex<Option<Held>>,
    pace: watch::Sender<Pace>,
}

struct Held {
    reason: Reason,
    look_up: bool,
    schedule: Schedule,
    next_probe: Instant,
    probing: bool,
    waiting: Vec<Queue>,
}

/// Whether a job may call DingTalk now.
pub(super) enum Admission<'a> {
    /// The app is not on hold.
    Go,
    /// It is, and this job finds out whether it still is.
    Probe(Probe<'a>),
    /// It is, for this reason, and another job waits already: come back later.
    Later(Reason),
}

/// The right to probe; whoever drops it lets the next one try.
pub(super) struct Probe<'a> {
    app: &'a App,
    /// Only a look-up that is answered shows that the hold is over.
    pub(super) needs_look_up: bool,
}

impl Holds {
    /// No app is on hold but those that an operator paused.
    pub(super) fn new(config: &Config, apps: &[&str], metrics: &Arc<Metrics>, health: &Arc<Health>) -> Self {
        let app = |name: &&str| {
            let app = App {
                held: Mutex::new(None),
                pace: watch::Sender::new(Pace::Full),
            };
            ((*name).to_owned(), app)
        };
        let holds = Self {
            apps: apps.iter().map(app).collect(),
            metrics: metrics.clone(),
            health: health.clone(),
        };
        holds.reload(config);
        holds
    }

    /// The settings are others: what an operator paused stops, what he resumed goes on, and what is on hold is probed at
    /// once, since that may be mended.
    pub(super) fn reload(&self, config: &Config) {
        for (name, app) in &self.apps {
            let paused = config.apps.get(name).is_some_and(|app| app.paused);
            let mut held = app.held();
            if let Some(held) = held.as_mut() {
                held.next_probe = Instant::now();
            }
            let reason = held.as_ref().map(|held| held.reason);
            drop(held);
            let was_paused = app
                .pace
                .send_replace(if paused { Pace::Stopped } else { pace_on(reason) })
                == Pace::Stopped;
            if paused != was_paused {
                self.metrics.app_hold(name, Reason::Paused, paused);
                self.health
                    .hold(name, if paused { Some(Reason::Paused) } else { reason });
            }
            match (was_paused, paused) {
                (false, true) => {
                    tracing::warn!(app = name, reason = %Reason::Paused, "the app is paused in the configuration; its jobs wait");
                }
                (true, false) => tracing::info!(app = name, "the app is not paused any more"),
                _ => {}
            }
        }
    }

    /// The pace of each app, for the consumers.
    pub(super) fn paces(&self) -> Paces {
        self.apps
            .iter()
            .map(|(name, app)| (name.clone(), app.pace.subscribe()))
            .collect()
    }

    /// Waits, while the app is on hold, for this job's turn to probe. Of each queue one job waits; others are sent away, and
    /// all are once `shutdown` drains or the broker is `lost`.
    pub(super) async fn admit(
        &self,
        app: &str,
        queue: &Queue,
        urgent: bool,
        shutdown: &Shutdown,
        lost: impl Future<Output = ()>,
    ) -> Admission<'_> {
        let mut lost = std::pin::pin!(lost);
        let mut gone = false;
        let Some(app) = self.apps.get(app) else {
            return Admission::Go;
        };
        let mut pace = app.pace.subscribe();
        if *pace.borrow_and_update() == Pace::Stopped {
            // Its own queues are not consumed, but a job of its can come by the suspect queue.
            return Admission::Later(Reason::Paused);
        }
        let mut place = None;
        loop {
            let next_probe = {
                let mut held = app.held();
                // A reserve is kept for those who are urgent.
                let kept_for_this_job = |held: &&mut Held| urgent && held.reason == Reason::BudgetReserved;
                let Some(held) = held.as_mut().filter(|held| !kept_for_this_job(held)) else {
                    return Admission::Go;
                };
                let taken = place.is_none() && held.waiting.iter().any(|q| q == queue);
                if taken || gone || shutdown.is_draining() {
                    return Admission::Later(held.reason);
                }
                if !held.probing && held.next_probe <= Instant::now() {
                    held.probing = true;
                    return Admission::Probe(Probe {
                        app,
                        needs_look_up: held.look_up,
                    });
                }
                place.get_or_insert_with(|| Place::take(app, held, queue));
                if held.probing {
                    Instant::now() + Duration::from_secs(1)
                } else {
                    held.next_probe
                }
            };
            pace.mark_unchanged();
            tokio::select! {
                () = tokio::time::sleep_until(next_probe) => {}
                _ = pace.changed() => {}
                () = shutdown.draining() => {}
                () = &mut lost, if !gone => gone = true,
            }
        }
    }

    /// The app is on hold, or still is; `by_probe`: that is what a probe found.
    pub(super) fn hold(&self, name: &str, failure: &Failure, by_probe: bool) {
        let Some(app) = self.apps.get(name) else { return };
        let mut held = app.held();
        let previous = held.take();
        let wait_at_least = failure.wait.unwrap_or_default();
        let next = match previous {
            // Jobs that were in flight when the hold began say nothing new, also while another one probes.
            Some(known) if !(by_probe && known.probing) && known.reason == failure.reason => known,
            Some(mut known) => {
                if known.reason != failure.reason {
                    self.metrics.app_hold(name, known.reason, false);
                    self.announce(name, failure);
                }
                let wait = known.schedule.wait().max(wait_at_least);
                Held {
                    reason: failure.reason,
                    look_up: failure.look_up,
                    next_probe: Instant::now() + wait,
                    ..known
                }
            }
            None => {
                self.announce(name, failure);
                let mut schedule = Schedule::new(FIRST_PROBE, 2.0, LAST_PROBE);
                let wait = schedule.wait().max(wait_at_least);
                let next_probe = Instant::now() + wait;
                Held {
                    reason: failure.reason,
                    look_up: failure.look_up,
                    schedule,
                    next_probe,
                    probing: false,
                    waiting: Vec::new(),
                }
            }
        };
        let pace = pace_on(Some(next.reason));
        *held = Some(next);
        drop(held);
        app.set_pace(pace);
    }

    fn announce(&self, name: &str, failure: &Failure) {
        self.metrics.app_hold(name, failure.reason, true);
        self.health.hold(name, Some(failure.reason));
        tracing::error!(app = name, reason = %failure.reason, detail = %failure.detail, remedy = failure.remedy(),
            "the app is on hold: its jobs wait unharmed, and delivery resumes by itself once this is mended");
    }

    /// Ends holds that lapse, without end itself. Jobs that wait come back to be probes, so where none did, there is none, or
    /// other workers delivered them: this one would show a hold until its next job, and somebody be woken for it.
    pub(super) async fn lapse(&self) {
        loop {
            tokio::time::sleep(LAST_PROBE).await;
            for (name, app) in &self.apps {
                let lapsed = |held: &mut Held| {
                    !held.probing && held.waiting.is_empty() && held.next_probe + LAPSE <= Instant::now()
                };
                let lapsed = app.held().take_if(lapsed);
                if let Some(held) = lapsed {
                    tracing::info!(app = name, reason = %held.reason, "no job came to probe the hold by; the next one finds out");
                    self.released(name, app, &held);
                }
            }
        }
    }

    /// The app delivers.
    pub(super) fn release(&self, name: &str) {
        let Some(app) = self.apps.get(name) else { return };
        let Some(held) = app.held().take() else { return };
        tracing::info!(app = name, reason = %held.reason, "the app is off hold and delivers again");
        self.released(name, app, &held);
    }

    fn released(&self, name: &str, app: &App, held: &Held) {
        self.metrics.app_hold(name, held.reason, false);
        self.health.hold(name, None);
        app.set_pace(Pace::Full);
    }

    /// A probe was delivered without the call that was refused: the next job may be as well.
    pub(super) fn go_on(&self, name: &str) {
        if let Some(app) = self.apps.get(name)
            && let Some(held) = app.held().as_mut()
        {
            held.next_probe = Instant::now() + NEXT;
        }
    }

    /// How long a job of an app on hold waits in the broker.
    pub(super) fn wait(&self, name: &str) -> Duration {
        let until = |held: &Held| held.next_probe.saturating_duration_since(Instant::now());
        let wait = self.apps.get(name).and_then(|app| match *app.pace.borrow() {
            Pace::Stopped => Some(LAST_PROBE),
            Pace::Full | Pace::OneByOne | Pace::UrgentFirst => app.held().as_ref().map(until),
        });
        crate::retry::named_wait(wait.unwrap_or_default().max(Duration::from_secs(1)))
    }
}

impl App {
    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pace(&self, pace: Pace) {
        self.pace
            .send_if_modified(|now| *now != Pace::Stopped && std::mem::replace(now, pace) != pace);
    }
}

/// The pace of an app that is on hold for `reason`, or not at all.
fn pace_on(reason: Option<Reason>) -> Pace {
    match reason {
        None => Pace::Full,
        Some(Reason::BudgetReserved) => Pace::UrgentFirst,
        Some(_) => Pace::OneByOne,
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.app.held().as_mut() {
            held.probing = false;
            // It found out nothing, or not in time: the next one waits all the same.
            if held.next_probe <= Instant::now() {
                held.next_probe = Instant::now() + held.schedule.wait();
            }
        }
    }
}

/// A queue's one place to wait in.
struct Place<'a> {
    app: &'a App,
    queue: Queue,
}

impl<'a> Place<'a> {
    fn take(app: &'a App, held: &mut Held, queue: &Queue) -> Self {
        held.waiting.push(queue.clone());
        Self {
            app,
            queue: queue.clone(),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(held) = self.app.held().as_mut() {
            held.waiting.retain(|q| *q != self.queue);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures_util::poll;

    use super::*;
    use crate::outcome::Class;

    fn holds() -> Holds {
        let config = Config::load(None, []).unwrap();
        let (metrics, health) = (
            Arc::new(Metrics::new(&["a", "b"]).unwrap()),
            Arc::new(Health::default()),
        );
        Holds::new(&config, &["a", "b"], &metrics, &health)
    }

    fn jobs(app: &str) -> Queue {
        Queue::Jobs(app.to_owned())
    }

    /// For a job of the queue's own app, while the broker is there.
    async fn admit<'a>(holds: &'a Holds, queue: Queue, going: &Shutdown) -> Admission<'a> {
        let lost = std::future::pending();
        holds.admit(queue.app(), &queue, queue.is_urgent(), going, lost).await
    }

    fn failure(reason: Reason) -> Failure {
        Failure::new(reason, Class::Hold, "why")
    }

    #[tokio::test(start_paused = true)]
    async fn changed_settings_pause_resume_and_probe_at_once() {
        let (holds, going) = (holds(), Shutdown::new());
        let paused = |value: &str| {
            let settings = [
                ("PAUSED", value),
                ("APP_KEY", "k"),
                ("APP_SECRET", "s"),
                ("ROBOT_CODE", "r"),
            ];
            let env = settings.map(|(key, value)| (format!("DINGCARD_APPS__A__{key}"), value.to_owned()));
            Config::load(None, env).unwrap()
        };
        holds.hold("a", &failure(Reason::BadCredentials), false);
        let mut probing = Box::pin(admit(&holds, jobs("a"), &going));
        assert!(poll!(&mut probing).is_pending());
        let begun = Instant::now();
        holds.reload(&paused("false"));
        assert!(matches!(probing.await, Admission::Probe(_)) && begun.elapsed().is_zero());
        holds.reload(&paused("true"));
        assert_eq!(*holds.paces()["a"].borrow(), Pace::Stopped);
        let refused = admit(&holds, jobs("a"), &going).await;
        assert!(matches!(refused, Admission::Later(Reason::Paused)));
        holds.reload(&paused("false"));
        assert_eq!(*holds.paces()["a"].borrow(), Pace::OneByOne, "it was on hold, and is");
    }

    #[tokio::test(start_paused = true)]
    async fn a_budget_kept_for_urgent_jobs_holds_the_others_alone() {
        let (holds, going) = (holds(), Shutdown::new());
        holds.hold("a", &failure(Reason::BudgetReserved), false);
        assert_eq!(*holds.paces()["a"].borrow(), Pace::UrgentFirst);
        let urgent = admit(&holds, Queue::Urgent("a".to_owned()), &going).await;
        assert!(matches!(urgent, Admission::Go));
        let mut other = Box::pin(admit(&holds, jobs("a"), &going));
        assert!(poll!(&mut other).is_pending());
        holds.hold("a", &failure(Reason::QuotaSpent), false);
        assert_eq!(*holds.paces()["a"].borrow(), Pace::OneByOne, "spent is spent for all");
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_app_is_on_hold_one_job_waits_to_probe_and_the_next_is_sent_away() {
        let (holds, going) = (holds(), Shutdown::new());
        holds.hold("a", &failure(Reason::BadCredentials), false);
        assert_eq!(*holds.paces()["a"].borrow(), Pace::OneByOne);
        let mut first = Box::pin(admit(&holds, jobs("a"), &going));
        assert!(poll!(&mut first).is_pending());
        assert!(matches!(
            admit(&holds, jobs("a"), &going).await,
            Admission::Later(Reason::BadCredentials)
        ));
        assert!(matches!(first.await, Admission::Probe(_)));
        assert!(
            matches!(admit(&holds, jobs("b"), &going).await, Admission::Go),
            "other apps go on"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_probe_waits_longer_and_a_good_one_releases_all() {
        let (holds, going) = (holds(), Shutdown::new());
        holds.hold("a", &failure(Reason::QuotaSpent), false);
        let Admission::Probe(probe) = admit(&holds, jobs("a"), &going).await else {
            panic!("no probe")
        };
        holds.hold("a", &failure(Reason::QuotaSpent), true);
        drop(probe);
        let mut second = Box::pin(admit(&holds, jobs("a"), &going));
        assert!(poll!(&mut second).is_pending());
        let mut urgent = Box::pin(admit(&holds, Queue::Urgent("a".to_owned()), &going));
        assert!(poll!(&mut urgent).is_pending());
        holds.release("a");
        assert!(matches!(second.await, Admission::Go) && matches!(urgent.await, Admission::Go));
        assert_eq!(*holds.paces()["a"].borrow(), Pace::Full);
        assert!(holds.health.report().holds.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_in_flight_that_fail_during_a_probe_are_no_failed_probes() {
        let (holds, going) = (holds(), Shutdown::new());
        holds.hold("a", &failure(Reason::QuotaSpent), false);
        let Admission::Probe(probe) = admit(&holds, jobs("a"), &going).await else {
            panic!("no probe")
        };
        for _ in 0..64 {
            holds.hold("a", &failure(Reason::QuotaSpent), false);
        }
        drop(probe);
        // The second interval, plus a fifth.
        assert!(holds.wait("a") <= Duration::from_secs(12));
    }

    #[tokio::test(start_paused = true)]
    async fn a_hold_lapses_where_no_job_comes_to_probe_it_and_not_where_one_waits() {
        let (holds, going) = (holds(), Shutdown::new());
        let ban = Failure {
            wait: Some(Duration::from_hours(1)),
            ..failure(Reason::IpBanned)
        };
        holds.hold("a", &failure(Reason::QuotaSpent), false);
        holds.hold("b", &ban, false);
        let mut lapsing = Box::pin(holds.lapse());
        let mut waiting = Box::pin(admit(&holds, jobs("b"), &going));
        assert!(poll!(&mut waiting).is_pending() && poll!(&mut lapsing).is_pending());
        let held = || holds.health.report().holds.into_keys().collect::<Vec<_>>();
        for (minutes, expected) in [
            (5, vec!["a", "b"]),
            (5, vec!["a", "b"]),
            (5, vec!["b"]),
            (30, vec!["b"]),
        ] {
            tokio::time::advance(Duration::from_mins(minutes)).await;
            assert!(poll!(&mut lapsing).is_pending());
            assert_eq!(held(), expected);
        }
        assert_eq!(*holds.paces()["a"].borrow(), Pace::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_found_out_nothing_lets_the_next_one_wait() {
        let (holds, going) = (holds(), Shutdown::new());
        holds.hold("a", &failure(Reason::QuotaSpent), false);
        let Admission::Probe(probe) = admit(&holds, jobs("a"), &going).await else {
            panic!("no probe")
        };
        drop(probe);
        let begun = Instant::now();
        assert!(matches!(admit(&holds, jobs("a"), &going).await, Admission::Probe(_)));
        assert!(begun.elapsed() > Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_wait_is_kept_before_the_first_probe() {
        let (holds, going) = (holds(), Shutdown::new());
        let begun = Instant::now();
        let ban = Failure {
            wait: Some(Duration::from_mins(5)),
            ..failure(Reason::IpBanned)
        };
        holds.hold("a", &ban, false);
        assert!(holds.wait("a") >= Duration::from_mins(5));
        assert!(matches!(admit(&holds, jobs("a"), &going).await, Admission::Probe(_)));
        assert!(begun.elapsed() >= Duration::from_mins(5));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_to_probe_is_sent_away_when_the_worker_drains() {
        let (holds, going) = (holds(), Shutdown::new());
        let ban = Failure {
            wait: Some(Duration::from_mins(5)),
            ..failure(Reason::IpBanned)
        };
        holds.hold("a", &ban, false);
        let mut waiting = Box::pin(admit(&holds, jobs("a"), &going));
        assert!(poll!(&mut waiting).is_pending());
        let begun = Instant::now();
        going.drain();
        assert!(matches!(waiting.await, Admission::Later(Reason::IpBanned)));
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }
}
