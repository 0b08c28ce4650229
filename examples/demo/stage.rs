//! The sandbox and the worker of the demo, on their place in a broker: set up, and taken down without a trace.
//!
//! Apart because every process that must be ended is owned here and nowhere else: whatever ends the demo, a signal in the
//! middle of the start included, drops this value. It judges nothing.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use tokio::runtime::Runtime;

use crate::home::Home;
use crate::http;
use crate::interrupt::{Early, Interrupt};
use crate::process::{Process, command};

/// For a process to be ready, or to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// What runs. The parts go in the order of the fields.
pub(crate) struct Stage<'a> {
    worker: Option<Process>,
    sandbox: Option<Process>,
    pub(crate) home: Home<'a>,
    interrupt: &'a Interrupt,
    /// `http://127.0.0.1:8787`
    pub(crate) sandbox_url: String,
    /// `http://127.0.0.1:9464`
    pub(crate) worker_url: String,
}

impl<'a> Stage<'a> {
    /// Starts everything, and tells `progress` what comes next.
    pub(crate) fn set(
        bin: &Path,
        runtime: &'a Runtime,
        interrupt: &'a Interrupt,
        progress: impl Fn(&str),
    ) -> Result<Self, Early> {
        let home = Home::find(bin, runtime, interrupt, &progress)?;
        let url = |port| http::free_port(Some(port)).map(|port| format!("http://127.0.0.1:{port}"));
        let mut stage = Self {
            worker: None,
            sandbox: None,
            home,
            interrupt,
            sandbox_url: url(8787).map_err(Early::failed)?,
            worker_url: url(9464).map_err(Early::failed)?,
        };
        progress("starting the DingTalk sandbox and a worker");
        // Owned before it is waited for: what is interrupted while it starts is asked to stop too.
        let sandbox = stage.start("sandbox", &stage.sandbox_url)?;
        until_it_says("sandbox listening", stage.sandbox.insert(sandbox), interrupt)?;
        let worker = stage.start("worker", &stage.worker_url)?;
        until_it_says("consuming", stage.worker.insert(worker), interrupt)?;
        let ready = format!("{}/readyz", stage.worker_url);
        let is_ready = || Ok(matches!(http::get(&ready), Ok((200, _))).then_some(()));
        match interrupt.until(PATIENCE, is_ready)? {
            Some(()) => Ok(stage),
            None => Err(Early::failed(format!(
                "the worker is not ready: {:?}",
                http::get(&ready)
            ))),
        }
    }

    /// The environment that makes a `dingcard` a part of this demo. No limit on the rate: the demo shows what is
    /// delivered, not how slowly.
    fn envs(&self) -> [(&'static str, &str); 10] {
        [
            ("DINGCARD_AMQP__URL", &self.home.url),
            ("DINGCARD_AMQP__NAMESPACE", &self.home.namespace),
            ("DINGCARD_DINGTALK__API_URL", &self.sandbox_url),
            ("DINGCARD_DINGTALK__OAPI_URL", &self.sandbox_url),
            ("DINGCARD_APPS__DEFAULT__APP_KEY", "dingsandbox"),
            ("DINGCARD_APPS__DEFAULT__APP_SECRET", "sandbox-secret"),
            ("DINGCARD_APPS__DEFAULT__ROBOT_CODE", "dingsandbox"),
            ("DINGCARD_APPS__DEFAULT__TEMPLATE", "overtime"),
            ("DINGCARD_APPS__DEFAULT__RATE_PER_SECOND", "0"),
            ("DINGCARD_SANDBOX__RATE_PER_SECOND", "0"),
        ]
    }

    fn start(&self, verb: &str, url: &str) -> Result<Process, Early> {
        let args = [verb, "--listen", url.trim_start_matches("http://")];
        Process::start_apart(&self.home.bin, &args, &self.envs()).map_err(Early::Failed)
    }

    /// Publishes NDJSON as a user would; gives how many jobs the broker confirmed.
    pub(crate) fn publish(&self, ndjson: &[u8]) -> Result<u64, Early> {
        let spawned = command(&self.home.bin, &["publish", "--file", "-"], &self.envs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = Killed(spawned.map_err(Early::failed)?);
        // It reads all before it writes, so neither can wait for the other; and what it writes fits into a pipe.
        let written = child.0.stdin.take().map(|mut stdin| stdin.write_all(ndjson));
        let ended = || child.0.try_wait().map_err(Early::failed);
        let Some(status) = self.interrupt.until(PATIENCE, ended)? else {
            return Err(Early::failed("dingcard publish does not end"));
        };
        let mut ids = String::new();
        if let Some(mut stdout) = child.0.stdout.take() {
            stdout.read_to_string(&mut ids).map_err(Early::failed)?;
        }
        match written {
            Some(Err(error)) if status.success() => {
                Err(Early::failed(format!("dingcard publish reads nothing: {error}")))
            }
            _ if status.success() => Ok(ids.lines().count() as u64),
            _ => Err(Early::failed(format!("dingcard publish: {status}"))),
        }
    }

    /// An error if the sandbox or the worker has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), Early> {
        for (name, process) in [("worker", &mut self.worker), ("sandbox", &mut self.sandbox)] {
            if let Some(process) = process
                && let Ok(code) = process.wait(Duration::ZERO)
            {
                let lines = process.lines();
                let last = lines.get(lines.len().saturating_sub(10)..).unwrap_or_default();
                return Err(Early::failed(format!(
                    "the {name} ended by itself, exit code {code}:\n{}",
                    last.join("\n")
                )));
            }
        }
        Ok(())
    }

    /// The worker's lines that tell of trouble, the last ones.
    pub(crate) fn complaints(&self) -> Vec<String> {
        let lines = self.worker.as_ref().map(Process::lines).unwrap_or_default();
        let trouble = |line: &String| ["WARN", "ERROR", "panicked"].iter().any(|word| line.contains(word));
        let mut complaints: Vec<_> = lines.into_iter().filter(trouble).collect();
        complaints.split_off(complaints.len().saturating_sub(10))
    }

    /// A line of shell that publishes one more job from another terminal.
    pub(crate) fn publish_command(&self) -> String {
        let envs = self.home.envs_to_show();
        let bin = quoted(&self.home.bin.display().to_string());
        format!(
            "{envs} \\\n  {bin} publish --mobile 15012341231 --param job=by-hand --param pv=2000 --param users=1000"
        )
    }
}

/// In short waits, so that a signal is noticed.
fn until_it_says(line: &str, process: &mut Process, interrupt: &Interrupt) -> Result<(), Early> {
    let look = || match process.wait_for_line(line, Duration::from_millis(100)) {
        Ok(_) => Ok(Some(Ok(()))),
        Err(why) => Ok(process.wait(Duration::ZERO).is_ok().then_some(Err(why))),
    };
    match interrupt.until(PATIENCE, look)? {
        Some(said) => said.map_err(Early::Failed),
        None => process
            .wait_for_line(line, Duration::ZERO)
            .map(drop)
            .map_err(Early::Failed),
    }
}

/// A child that does not outlive the wait for it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// As a shell takes it literally.
pub(crate) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

impl Drop for Stage<'_> {
    /// The worker first, while the others are still there to be told that it goes.
    fn drop(&mut self) {
        for process in [&mut self.worker, &mut self.sandbox].into_iter().flatten() {
            process.terminate();
            // If it will not go, it is killed when it is dropped.
            let _stubborn = process.wait(PATIENCE);
        }
    }
}
