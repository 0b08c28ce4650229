//! A stand: a namespace in a broker, a sandbox, and the settings that point workers and publishers at both.
//!
//! Separate because every test needs one and none wants to say how it is made.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::broker::Broker;
use crate::http;
use crate::process::{Process, value_of};

pub const BIN: &str = env!("CARGO_BIN_EXE_dingcard");
/// How long anything may take before a test gives up: far beyond what it takes on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(2);

pub struct Stand {
    pub namespace: String,
    pub sandbox_url: String,
    _sandbox: Process,
    env: Vec<(String, String)>,
}

pub struct Worker {
    pub process: Process,
    pub metrics_url: String,
}

/// The broker that the tests share. It removes itself when this process has gone.
pub fn shared_broker() -> &'static Broker {
    static SHARED: OnceLock<Broker> = OnceLock::new();
    SHARED.get_or_init(Broker::start)
}

impl Stand {
    /// On the shared broker.
    pub fn new() -> Self {
        Self::on(shared_broker().url())
    }

    /// On this broker.
    pub fn on(broker_url: &str) -> Self {
        Self::with_sandbox(broker_url, &[])
    }

    /// With a sandbox that is set up like this.
    pub fn with_sandbox(broker_url: &str, sandbox: &[(&str, &str)]) -> Self {
        static STANDS: AtomicUsize = AtomicUsize::new(0);
        let namespace = format!("it{}", STANDS.fetch_add(1, Ordering::SeqCst));
        let settings = [&[("DINGCARD_SANDBOX__RATE_PER_SECOND", "0")], sandbox].concat();
        let sandbox = Process::start(BIN, &["sandbox", "--listen", "127.0.0.1:0"], &settings).unwrap();
        let listening = sandbox.wait_for_line("sandbox listening", PATIENCE).unwrap();
        let sandbox_url = value_of(&listening, "inbox").unwrap().trim_end_matches('/').to_owned();
        let mut stand = Self {
            namespace: namespace.clone(),
            sandbox_url: sandbox_url.clone(),
            _sandbox: sandbox,
            env: Vec::new(),
        };
        for (key, value) in [
            ("AMQP__URL", broker_url),
            ("AMQP__NAMESPACE", &namespace),
            ("DINGTALK__API_URL", &sandbox_url),
            ("DINGTALK__OAPI_URL", &sandbox_url),
            ("APPS__DEFAULT__APP_KEY", "dingsandbox"),
            ("APPS__DEFAULT__APP_SECRET", "sandbox-secret"),
            ("APPS__DEFAULT__ROBOT_CODE", "dingsandbox"),
            ("APPS__DEFAULT__TEMPLATE", "overtime"),
            ("APPS__DEFAULT__RATE_PER_SECOND", "0"),
            ("RETRY__INITIAL", "1s"),
        ] {
            stand = stand.with(key, value);
        }
        stand
    }

    /// With this setting.
    pub fn with(mut self, key: &str, value: &str) -> Self {
        self.env.push((format!("DINGCARD_{key}"), value.to_owned()));
        self
    }

    /// With this in the environment of what it starts.
    pub fn with_env(mut self, key: &str, value: &str) -> Self {
        self.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a second app, `sales`.
    pub fn with_second_app(self) -> Self {
        self.with("APPS__SALES__APP_KEY", "dingsandbox2")
            .with("APPS__SALES__APP_SECRET", "sandbox-secret-2")
            .with("APPS__SALES__ROBOT_CODE", "dingsandbox2")
    }

    pub fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// A worker that consumes.
    pub fn worker(&self) -> Worker {
        let worker = self.starting_worker();
        worker.wait_for_line("consuming");
        worker
    }

    /// A worker that may not consume yet.
    pub fn starting_worker(&self) -> Worker {
        self.starting_worker_with(&[])
    }

    /// The same with these flags.
    pub fn starting_worker_with(&self, flags: &[&str]) -> Worker {
        let process = self.start(&[&["worker", "--listen", "127.0.0.1:0"], flags].concat());
        let metrics_url = value_of(&process.wait_for_line("metrics=", PATIENCE).unwrap(), "metrics").unwrap();
        Worker { process, metrics_url }
    }

    /// Starts a verb.
    pub fn start(&self, args: &[&str]) -> Process {
        let env: Vec<_> = self
            .env
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        Process::start(BIN, args, &env).unwrap()
    }

    /// Runs a verb to its end.
    pub fn run(&self, args: &[&str], input: &str) -> Output {
        let mut command = Command::new(BIN);
        command.args(args).envs(self.env.iter().map(|(k, v)| (k, v)));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        // A verb that reads nothing closes its end early.
        let _closed = writer.join().unwrap();
        output
    }

    /// Publishes one job from flags; gives its ID.
    pub fn publish(&self, args: &[&str]) -> String {
        let args: Vec<&str> = ["publish"].into_iter().chain(args.iter().copied()).collect();
        let output = self.run(&args, "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Publishes many jobs.
    pub fn publish_lines(&self, jobs: impl IntoIterator<Item = Value>) {
        let lines: Vec<String> = jobs.into_iter().map(|job| job.to_string()).collect();
        let output = self.run(&["publish", "--file", "-"], &lines.join("\n"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn faults(&self, faults: &Value) {
        let body = serde_json::json!({"faults": faults, "seed": 7});
        let (status, answer) = http::put(&format!("{}/sandbox/faults", self.sandbox_url), &body).unwrap();
        assert_eq!(status, 200, "{answer}");
    }

    /// What the sandbox counted: `deliveries.total`, `.recipients`, `.duplicates`, and `calls`.
    pub fn calls(&self) -> Value {
        http::get_json(&format!("{}/sandbox/calls", self.sandbox_url)).unwrap()
    }

    /// Calls to an endpoint, whatever came of them.
    pub fn calls_to(&self, endpoint: &str) -> u64 {
        let calls = self.calls();
        let rows = calls["calls"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|c| c["endpoint"] == endpoint);
        rows.map(|c| c["count"].as_u64().unwrap()).sum()
    }

    /// The newest cards.
    pub fn cards(&self) -> Vec<Value> {
        let answer = http::get_json(&format!("{}/sandbox/cards?limit=200", self.sandbox_url)).unwrap();
        answer["cards"].as_array().unwrap().clone()
    }

    /// A queue's full name: `jobs`, `dead`.
    pub fn queue(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }
}

impl Worker {
    pub fn page(&self) -> String {
        http::get(&self.metrics_url).unwrap().1
    }

    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        http::metric(&self.page(), name, labels)
    }

    pub fn jobs(&self, outcome: &str) -> f64 {
        self.metric("dingcard_jobs_total", &[("outcome", outcome)])
    }

    pub fn recipients(&self, outcome: &str, reason: &str) -> f64 {
        self.metric("dingcard_recipients_total", &[("outcome", outcome), ("reason", reason)])
    }

    /// Waits until this many jobs have that outcome.
    pub fn wait_for_jobs(&self, outcome: &str, count: u32) {
        wait_until(&format!("{count} jobs {outcome}"), || {
            (self.jobs(outcome) >= f64::from(count)).then_some(())
        });
    }

    /// Waits for a log line that holds `text`.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.process.wait_for_line(text, PATIENCE).unwrap()
    }

    /// Status and body of `/readyz`.
    pub fn ready(&self) -> (u16, Value) {
        let (status, body) = http::get(&self.metrics_url.replace("/metrics", "/readyz")).unwrap();
        (status, serde_json::from_str(&body).unwrap())
    }
}

/// Asks again and again until there is an answer. A poll, since what is waited for is only to be seen from outside.
pub fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
