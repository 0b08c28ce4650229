//! What a row plays on: a namespace in a broker, a sandbox, three workers, and the jobs that were published.
//!
//! Separate so that a row says only what it breaks and when. It waits for events and has a last moment for all of them
//! together; it judges nothing (`verdict` does) and knows no row.

mod arrivals;
mod crew;
mod dingtalk;
mod end;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::process::{Process, command, value_of};
use crate::redis_server::RedisServer;
use crate::verdict::{Evidence, Verdict};
use crate::wire::{self, Letter};

pub(crate) use self::arrivals::{Arrival, can_fail, most_in_a_second};

/// Jobs of each queue that a worker has in work at once.
pub(crate) const PREFETCH: usize = 8;
/// Workers of a row.
pub(crate) const WORKERS: usize = 3;
/// The calls that may be in flight at once.
pub(crate) const IN_WORK: u64 = (PREFETCH * WORKERS) as u64;
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(2);
const SECRET: &str = "sandbox-secret";
const POLL: Duration = Duration::from_millis(100);

/// What is the same for every row.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) bin: PathBuf,
    pub(crate) jobs: usize,
    pub(crate) small: bool,
    pub(crate) restarts: u32,
    /// Set when the user wants it to end.
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Run {
    /// How long an outage lasts: as long as the contract says, or 5 s in the small set.
    pub(crate) fn outage(&self, whole: u64) -> Duration {
        Duration::from_secs(if self.small { 5 } else { whole })
    }
}

/// How far a row has come, for whoever watches.
#[derive(Default)]
pub(crate) struct Progress {
    pub(crate) published: AtomicU64,
    pub(crate) delivered: AtomicU64,
}

pub(crate) struct Worker {
    process: Process,
    metrics_url: String,
    /// The last page that it gave.
    page: String,
}

pub(crate) struct Stage {
    pub(crate) run: Run,
    pub(crate) namespace: String,
    pub(crate) broker: Arc<Broker>,
    sandbox: Process,
    sandbox_url: String,
    env: Vec<(String, String)>,
    pub(crate) workers: Vec<Worker>,
    /// Workers that were killed or stopped: what they said still counts.
    gone: Vec<Worker>,
    /// What others said.
    heard: Vec<String>,
    latency: Duration,
    /// The kind of fault that makes it.
    slowness: &'static str,
    pub(crate) evidence: Evidence,
    pub(crate) verdict: Verdict,
    tokens: BTreeSet<String>,
    letters: Vec<Letter>,
    cards: Vec<Value>,
    settled: bool,
    deadline: Instant,
    progress: Arc<Progress>,
}

impl Stage {
    pub(crate) fn new(
        run: &Run,
        namespace: &str,
        broker: &Arc<Broker>,
        progress: Arc<Progress>,
    ) -> Result<Self, String> {
        let limits = [
            ("DINGCARD_SANDBOX__RATE_PER_SECOND", "0"),
            ("DINGCARD_SANDBOX__KEEP", "1000000"),
        ];
        let sandbox = Process::start(&run.bin, &["sandbox", "--listen", "127.0.0.1:0"], &limits)?;
        let listening = sandbox.wait_for_line("sandbox listening", Duration::from_secs(30))?;
        let sandbox_url = value_of(&listening, "inbox")?.trim_end_matches('/').to_owned();
        // Far beyond what any row takes: a row that waits for what never comes has to end too.
        let limit = Duration::from_secs(90 + run.jobs as u64 / 50)
            + run.outage(60) * 2
            + Duration::from_secs(30) * run.restarts;
        let mut stage = Self {
            run: run.clone(),
            namespace: namespace.to_owned(),
            sandbox,
            env: Vec::new(),
            workers: Vec::new(),
            gone: Vec::new(),
            heard: Vec::new(),
            latency: Duration::ZERO,
            slowness: "latency",
            evidence: Evidence::default(),
            verdict: Verdict::default(),
            tokens: BTreeSet::new(),
            letters: Vec::new(),
            cards: Vec::new(),
            settled: false,
            deadline: Instant::now() + limit,
            progress,
            sandbox_url: sandbox_url.clone(),
            broker: broker.clone(),
        };
        let (prefetch, heartbeat) = (PREFETCH.to_string(), format!("{}s", HEARTBEAT.as_secs()));
        for (key, value) in [
            ("AMQP__URL", broker.url()),
            ("AMQP__NAMESPACE", namespace),
            ("AMQP__PREFETCH", &prefetch),
            ("AMQP__HEARTBEAT", &heartbeat),
            ("DINGTALK__API_URL", &sandbox_url),
            ("DINGTALK__OAPI_URL", &sandbox_url),
            ("APPS__DEFAULT__APP_KEY", "dingsandbox"),
            ("APPS__DEFAULT__APP_SECRET", SECRET),
            ("APPS__DEFAULT__ROBOT_CODE", "dingsandbox"),
            ("APPS__DEFAULT__TEMPLATE", "overtime"),
            ("APPS__DEFAULT__RATE_PER_SECOND", "0"),
            ("RETRY__IMMEDIATE", "1"),
            ("RETRY__INITIAL", "1s"),
            ("RETRY__MAX_DELAY", "4s"),
            ("RETRY__MAX_ATTEMPTS", "100"),
            ("SHUTDOWN_GRACE", "10s"),
            (
                "LOG__LEVEL",
                if run.jobs > 2000 { "info" } else { "info,dingcard=debug" },
            ),
        ] {
            stage.set(key, value);
        }
        Ok(stage)
    }

    /// A setting of the workers that start from now on.
    pub(crate) fn set(&mut self, key: &str, value: &str) {
        let key = format!("DINGCARD_{key}");
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value.to_owned()));
    }

    /// A second app, `sales`.
    pub(crate) fn set_second_app(&mut self) {
        for (key, value) in [
            ("APP_KEY", "dingsandbox2"),
            ("APP_SECRET", "sandbox-secret-2"),
            ("ROBOT_CODE", "dingsandbox2"),
            ("TEMPLATE", "overtime"),
            ("RATE_PER_SECOND", "0"),
        ] {
            self.set(&format!("APPS__SALES__{key}"), value);
        }
    }

    /// A Redis that the workers which start from now on share.
    pub(crate) fn share_redis(&mut self) -> RedisServer {
        let server = RedisServer::start();
        self.set("REDIS__URL", &server.url());
        server
    }

    /// A job to a mobile of its own, which also names it in the card.
    pub(crate) fn job(number: usize) -> Value {
        let id = format!("job-{number}");
        json!({"id": id, "to": [{"mobile": mobile(number)}], "params": {"job": id}})
    }

    /// Publishes the row's jobs.
    pub(crate) fn publish_all(&mut self) -> Result<(), String> {
        let jobs: Vec<_> = (0..self.run.jobs).map(Self::job).collect();
        self.publish(&jobs)
    }

    /// Publishes jobs with `dingcard publish`; what it printed was confirmed.
    pub(crate) fn publish(&mut self, jobs: &[Value]) -> Result<(), String> {
        let lines: Vec<String> = jobs.iter().map(Value::to_string).collect();
        for job in jobs {
            let mobile = job["to"][0]["mobile"].as_str().map(str::to_owned);
            self.evidence.mobiles.extend(mobile);
        }
        let env: Vec<_> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut child = command(&self.run.bin, &["publish", "--file", "-"], &env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().ok_or("no standard input")?;
        let writer = thread::spawn(move || stdin.write_all(lines.join("\n").as_bytes()));
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        // One that fails reads nothing.
        let _closed = writer.join();
        let printed = String::from_utf8_lossy(&output.stdout);
        self.evidence.published.extend(printed.lines().map(str::to_owned));
        self.progress
            .published
            .store(self.evidence.published.len() as u64, Ordering::Relaxed);
        if output.status.success() {
            Ok(())
        } else {
            Err(format!(
                "publish: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            ))
        }
    }

    /// Publishes messages as they are; each counts as a job.
    pub(crate) fn publish_raw(&mut self, messages: &[wire::Raw]) -> Result<(), String> {
        self.publish_evenly(messages, Duration::ZERO).map(drop)
    }

    /// The same, one each `every`; when each was published.
    pub(crate) fn publish_evenly(
        &mut self,
        messages: &[wire::Raw],
        every: Duration,
    ) -> Result<Vec<jiff::Timestamp>, String> {
        let times = wire::publish(self.broker.url(), messages, every)?;
        self.evidence
            .published
            .extend(messages.iter().map(|raw| raw.id.clone()));
        Ok(times)
    }

    pub(crate) fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// Asks again and again until there is an answer, the row's time is up, or the user has had enough.
    pub(crate) fn wait<T>(&mut self, what: &str, ask: impl FnMut(&mut Self) -> Option<T>) -> Result<T, String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        self.wait_for(left, what, ask)
    }

    fn wait_for<T>(
        &mut self,
        time: Duration,
        what: &str,
        mut ask: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + time;
        loop {
            if let Some(answer) = ask(self) {
                return Ok(answer);
            }
            if self.run.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".to_owned());
            }
            if Instant::now() >= deadline {
                return Err(format!("gave up waiting for {what}"));
            }
            thread::sleep(POLL);
        }
    }

    /// Waits until so many recipients have their card.
    pub(crate) fn wait_delivered(&mut self, count: u64) -> Result<Instant, String> {
        self.wait(&format!("{count} delivered"), |stage| {
            (stage.delivered().ok()? >= count).then(Instant::now)
        })
    }

    /// Waits until a fraction of the row's jobs is delivered.
    pub(crate) fn wait_share(&mut self, share: f64) -> Result<Instant, String> {
        self.wait_delivered((self.run.jobs as f64 * share) as u64)
    }

    /// The fault lasts; the one wait that is for a time. Ends early where the user has had enough.
    pub(crate) fn last(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.run.interrupted.load(Ordering::Relaxed) {
            thread::sleep(POLL.min(until.saturating_duration_since(Instant::now())));
        }
    }

    /// A row's own demand.
    pub(crate) fn demand(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.verdict.wrong.push(otherwise());
        }
    }

    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.verdict.notes.push(text.into());
    }

    /// The longest of the row's returns to work.
    pub(crate) fn resumed(&mut self, after: Duration) {
        self.verdict.resume = self.verdict.resume.max(Some(after));
    }

    /// The dead letters, once the row has ended.
    pub(crate) fn letters(&self) -> &[Letter] {
        &self.letters
    }

    /// The cards, once the row has ended.
    pub(crate) fn cards(&self) -> &[Value] {
        &self.cards
    }
}

/// A mobile of its own for each number, none of them unknown to the sandbox.
pub(crate) fn mobile(number: usize) -> String {
    format!("150{:08}", number * 10 + 5)
}
