//! What a row plays on: a namespace in a broker, a sandbox, three workers, and the jobs that were published.
//!
//! Separate so that a row says only what it breaks and when. It waits for events and has a last moment for all of them
//! together; it judges nothing (`verdict` does) and knows no row.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::http;
use crate::process::{Process, command};
use crate::verdict::{Evidence, Verdict, judge};
use crate::wire::{self, Letter};

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
    latency: Duration,
    /// The kind of fault that makes it.
    slowness: &'static str,
    pub(crate) evidence: Evidence,
    pub(crate) verdict: Verdict,
    tokens: BTreeSet<String>,
    letters: Vec<Letter>,
    cards: Vec<Value>,
    deadline: Instant,
    progress: Arc<Progress>,
}

impl Stage {
    pub(crate) fn new(
        run: &Run,
        namespace: &str,
        broker: Arc<Broker>,
        progress: Arc<Progress>,
    ) -> Result<Self, String> {
        let limits = [
            ("DINGCARD_SANDBOX__RATE_PER_SECOND", "0"),
            ("DINGCARD_SANDBOX__KEEP", "1000000"),
        ];
        let sandbox = Process::start(&run.bin, &["sandbox", "--listen", "127.0.0.1:0"], &limits)?;
        let listening = sandbox.wait_for_line("sandbox listening", Duration::from_secs(30))?;
        let sandbox_url = value_of(&listening, "inbox")?.trim_end_matches('/').to_owned();
        // Three times what it takes, and a minute.
        let limit = Duration::from_secs(90 + run.jobs as u64 / 50) + run.outage(60) * 2;
        let mut stage = Self {
            run: run.clone(),
            namespace: namespace.to_owned(),
            sandbox,
            env: Vec::new(),
            workers: Vec::new(),
            gone: Vec::new(),
            latency: Duration::ZERO,
            slowness: "latency",
            evidence: Evidence::default(),
            verdict: Verdict::default(),
            tokens: BTreeSet::new(),
            letters: Vec::new(),
            cards: Vec::new(),
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

    // ---- workers ----------------------------------------------------------------------------------------------------

    /// Three workers that consume.
    pub(crate) fn start_workers(&mut self) -> Result<(), String> {
        let begun: Vec<Process> = (0..WORKERS).map(|_| self.begin_worker()).collect::<Result<_, _>>()?;
        for process in begun {
            let worker = Worker::consuming(process)?;
            self.workers.push(worker);
        }
        Ok(())
    }

    fn begin_worker(&self) -> Result<Process, String> {
        let env: Vec<_> = self.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        Process::start(&self.run.bin, &["worker", "--listen", "127.0.0.1:0"], &env)
    }

    /// `kill -9` of one worker, and another in its place.
    pub(crate) fn replace_killed(&mut self, place: usize) -> Result<(), String> {
        let mut worker = self.take_out(place);
        worker.process.kill();
        self.gone.push(worker);
        self.put_in(place)
    }

    /// SIGTERM for one worker, and another in its place once it has ended; gives its exit code and how long it took.
    pub(crate) fn replace_stopped(&mut self, place: usize) -> Result<(i32, Duration), String> {
        let mut worker = self.take_out(place);
        let begun = Instant::now();
        worker.process.terminate();
        let code = worker.process.wait(Duration::from_secs(30))?;
        let took = begun.elapsed();
        self.gone.push(worker);
        self.put_in(place)?;
        Ok((code, took))
    }

    fn take_out(&mut self, place: usize) -> Worker {
        self.look();
        self.workers.remove(place)
    }

    fn put_in(&mut self, place: usize) -> Result<(), String> {
        let worker = Worker::consuming(self.begin_worker()?)?;
        self.workers.insert(place, worker);
        Ok(())
    }

    /// Reads every worker's metrics.
    fn look(&mut self) {
        for worker in &mut self.workers {
            if let Ok((200, page)) = http::get(&worker.metrics_url) {
                worker.page = page;
            }
        }
    }

    /// A metric of each worker that runs, now.
    pub(crate) fn each(&mut self, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        self.look();
        self.workers
            .iter()
            .map(|w| http::metric(&w.page, name, labels))
            .collect()
    }

    /// Its sum.
    pub(crate) fn sum(&mut self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.each(name, labels).iter().sum()
    }

    /// Waits until every worker consumes, in another session than the `sessions` before where those are given.
    pub(crate) fn wait_consuming(&mut self, sessions: Option<&[f64]>) -> Result<Instant, String> {
        self.wait("every worker to consume", |stage| {
            let anew = sessions.is_none_or(|before| {
                let now = stage.each("dingcard_broker_reconnects_total", &[]);
                now.iter().zip(before).all(|(now, before)| now > before)
            });
            let ready = |w: &Worker| {
                let url = w.metrics_url.replace("/metrics", "/readyz");
                matches!(http::get(&url), Ok((200, _)))
            };
            (anew && stage.workers.iter().all(ready)).then(Instant::now)
        })
    }

    /// How often each worker has found the broker again.
    pub(crate) fn sessions(&mut self) -> Vec<f64> {
        self.each("dingcard_broker_reconnects_total", &[])
    }

    /// How many workers ended that nobody ended.
    pub(crate) fn fallen(&mut self) -> usize {
        let fallen = |w: &mut Worker| w.process.wait(Duration::ZERO).is_ok();
        self.workers.iter_mut().filter_map(|w| fallen(w).then_some(())).count()
    }

    // ---- jobs -------------------------------------------------------------------------------------------------------

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

    /// Publishes messages as they are; only those of `ours` count as jobs.
    pub(crate) fn publish_raw(&mut self, messages: &[wire::Raw]) -> Result<(), String> {
        wire::publish(self.broker.url(), messages)?;
        self.evidence
            .published
            .extend(messages.iter().map(|raw| raw.id.clone()));
        Ok(())
    }

    pub(crate) fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    // ---- DingTalk ---------------------------------------------------------------------------------------------------

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

    fn counts(&self) -> Result<Value, String> {
        http::get_json(&format!("{}/sandbox/calls", self.sandbox_url)).map_err(|error| format!("the sandbox: {error}"))
    }

    /// To how many recipients a card was shown.
    pub(crate) fn delivered(&self) -> Result<u64, String> {
        let delivered = self.counts()?["deliveries"]["recipients"].as_u64().unwrap_or(0);
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

    // ---- waiting ----------------------------------------------------------------------------------------------------

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

    // ---- what held --------------------------------------------------------------------------------------------------

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
        Ok(())
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

    /// Every line of every worker, and its last metrics.
    pub(crate) fn said(&self) -> Vec<String> {
        let workers = self.gone.iter().chain(&self.workers);
        let lines = workers.flat_map(|w| w.process.lines().into_iter().chain(w.page.lines().map(str::to_owned)));
        lines.collect()
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

    /// The sandbox gives the same token again for as long as it lives.
    fn note_token(&mut self) {
        let url = format!("{}/gettoken?appkey=dingsandbox&appsecret={SECRET}", self.sandbox_url);
        let token = http::get_json(&url).ok();
        let token = token.as_ref().and_then(|answer| answer["access_token"].as_str());
        self.tokens.extend(token.map(str::to_owned));
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

    fn all_cards(&self) -> Result<Vec<Value>, String> {
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

impl Worker {
    fn consuming(process: Process) -> Result<Self, String> {
        let patience = Duration::from_secs(60);
        let metrics_url = value_of(&process.wait_for_line("metrics=", patience)?, "metrics")?;
        process.wait_for_line("consuming", patience)?;
        Ok(Self {
            process,
            metrics_url,
            page: String::new(),
        })
    }
}

/// A mobile of its own for each number, none of them unknown to the sandbox.
pub(crate) fn mobile(number: usize) -> String {
    format!("150{:08}", number * 10 + 5)
}

/// The value of `key=` in a log line.
fn value_of(line: &str, key: &str) -> Result<String, String> {
    let rest = line
        .split_once(&format!("{key}="))
        .ok_or_else(|| format!("no {key} in {line}"))?
        .1;
    let value = rest.split_whitespace().next().unwrap_or_default();
    Ok(value.trim_matches('"').to_owned())
}
