//! A `dingcard` that runs beside the test, and what it says.
//!
//! Apart because every test and the demo want the same of a child: its lines as they come, a wait that ends with the
//! line and not with a sleep, and no child left when the value goes. It knows no verb, and of a line only how it writes values.

// Two programs share it, and neither uses all of it.
#![allow(dead_code)]

use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// A child process whose output is kept, line by line; it is killed with this value.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    ended: Option<ExitStatus>,
    output: Arc<Output>,
}

#[derive(Debug)]
struct Output {
    said: Mutex<Said>,
    more: Condvar,
}

#[derive(Debug)]
struct Said {
    lines: Vec<String>,
    /// Pipes that may still bring lines.
    open: usize,
}

impl Process {
    /// Starts `bin` in `/`, so that no configuration file of the folder takes part. Of the environment's `DINGCARD_…`
    /// only `envs` reach it. Ctrl-C on a terminal reaches it too, so that an interrupted test leaves nobody behind.
    pub(crate) fn start(bin: impl AsRef<Path>, args: &[&str], envs: &[(&str, &str)]) -> Result<Self, String> {
        Self::spawn(command(bin, args, envs), args)
    }

    /// The same, in a process group of its own: Ctrl-C is for its parent to pass on.
    pub(crate) fn start_apart(bin: impl AsRef<Path>, args: &[&str], envs: &[(&str, &str)]) -> Result<Self, String> {
        let mut command = command(bin, args, envs);
        command.process_group(0);
        Self::spawn(command, args)
    }

    fn spawn(mut command: Command, args: &[&str]) -> Result<Self, String> {
        let name = std::iter::once("dingcard")
            .chain(args.first().copied())
            .collect::<Vec<_>>()
            .join(" ");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let output = Arc::new(Output {
            said: Mutex::new(Said {
                lines: Vec::new(),
                open: 2,
            }),
            more: Condvar::new(),
        });
        output.keep(stdout);
        output.keep(stderr);
        Ok(Self {
            name,
            child,
            ended: None,
            output,
        })
    }

    /// Waits for a line that contains `text`, and gives it; one that was there before counts.
    pub(crate) fn wait_for_line(&self, text: &str, timeout: Duration) -> Result<String, String> {
        self.wait_for_line_from(0, text, timeout)
    }

    /// The same, from line number `from` on. With [`lines`](Self::lines)`().len()` taken before, only what is new counts.
    pub(crate) fn wait_for_line_from(&self, from: usize, text: &str, timeout: Duration) -> Result<String, String> {
        let found = |said: &Said| said.lines.iter().skip(from).find(|line| line.contains(text)).cloned();
        let waiting = |said: &mut Said| said.open > 0 && found(said).is_none();
        let (said, _) = self
            .output
            .more
            .wait_timeout_while(self.output.said(), timeout, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        found(&said).ok_or_else(|| {
            let why = if said.open == 0 { "ended" } else { "is silent" };
            let last = said.lines.len().saturating_sub(20);
            let lines = said.lines.get(last..).unwrap_or_default().join("\n");
            format!("{} {why} without a line {text:?}; its last lines:\n{lines}", self.name)
        })
    }

    /// Every line so far, of both streams in the order of their arrival.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.output.said().lines.clone()
    }

    /// The process ID.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// SIGTERM.
    pub(crate) fn terminate(&mut self) {
        self.signal("TERM");
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&mut self) {
        self.signal("HUP");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.signal("KILL");
    }

    /// Its exit code, or 128 and the signal that ended it; an error if it still runs after `timeout`.
    pub(crate) fn wait(&mut self, timeout: Duration) -> Result<i32, String> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status
                    .code()
                    .or_else(|| status.signal().map(|number| 128 + number))
                    .unwrap_or(-1));
            }
            if Instant::now() >= deadline {
                return Err(format!("{} still runs after {timeout:?}", self.name));
            }
            // The standard library cannot wait for a child with a timeout.
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its status once it has ended.
    fn try_wait(&mut self) -> Result<Option<ExitStatus>, String> {
        if self.ended.is_none() {
            self.ended = self
                .child
                .try_wait()
                .map_err(|error| format!("{}: {error}", self.name))?;
        }
        Ok(self.ended)
    }

    /// Sends nothing once it has ended: its number may be another process's by then.
    fn signal(&mut self, signal: &str) {
        if let Ok(None) = self.try_wait() {
            let _already_gone = Command::new("kill")
                .args(["-s", signal, &self.id().to_string()])
                .stderr(Stdio::null())
                .status();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Output {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(self: &Arc<Self>, pipe: Option<impl Read + Send + 'static>) {
        let output = self.clone();
        thread::spawn(move || {
            let mut reader = pipe.map(BufReader::new);
            let mut bytes = Vec::new();
            while let Some(reader) = &mut reader {
                bytes.clear();
                match reader.read_until(b'\n', &mut bytes) {
                    Ok(0) | Err(_) => break,
                    Ok(_) => {
                        let line = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                        output.said().lines.push(line);
                        output.more.notify_all();
                    }
                }
            }
            output.said().open -= 1;
            output.more.notify_all();
        });
    }
}

/// `bin` with an environment that tests can rely on: no setting of the user's, no proxy between here and here.
pub(crate) fn command(bin: impl AsRef<Path>, args: &[&str], envs: &[(&str, &str)]) -> Command {
    let mut command = Command::new(bin.as_ref());
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("DINGCARD_")) {
        command.env_remove(key);
    }
    command
        .args(args)
        .current_dir("/")
        .env("NO_PROXY", "127.0.0.1,localhost")
        .env("no_proxy", "127.0.0.1,localhost")
        .envs(envs.iter().copied());
    command
}

/// The value of `key=` in a log line.
pub(crate) fn value_of(line: &str, key: &str) -> Result<String, String> {
    let rest = line
        .split_once(&format!("{key}="))
        .ok_or_else(|| format!("no {key} in {line}"))?
        .1;
    let value = rest.split_whitespace().next().unwrap_or_default();
    Ok(value.trim_matches('"').to_owned())
}

#[cfg(test)]
#[test]
#[allow(clippy::unwrap_used)]
fn a_wait_ends_with_its_line_or_with_the_process() {
    let script =
        "echo $GREETING; echo warned >&2; trap 'echo asked to stop; exit 7' TERM; while :; do sleep 0.01; done";
    let mut process = Process::start("sh", &["-c", script], &[("GREETING", "hello")]).unwrap();
    let patience = Duration::from_secs(20);
    assert_eq!(process.wait_for_line("hel", patience).unwrap(), "hello");
    process.wait_for_line("warned", patience).unwrap();
    let seen = process.lines().len();
    assert_eq!(seen, 2);
    let silent = process
        .wait_for_line_from(seen, "hello", Duration::from_millis(10))
        .unwrap_err();
    assert!(silent.contains("is silent"), "{silent}");
    process.wait(Duration::ZERO).unwrap_err();
    process.terminate();
    assert_eq!(process.wait(patience).unwrap(), 7);
    let ended = process.wait_for_line("never said", patience).unwrap_err();
    assert!(ended.contains("ended") && ended.contains("asked to stop"), "{ended}");
    process.terminate();
}
