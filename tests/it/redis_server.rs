//! A real Redis of one's own, for as long as a value lives.
//!
//! Apart from what uses it because the unit tests of what is shared, the integration tests and the fault run need the
//! same server, one that can also be killed, frozen and emptied. It keeps nothing on disk, and refuses to touch a Redis
//! that it did not start.

// Three programs share it, and none uses all of it.
#![allow(dead_code)]

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server on 127.0.0.1, at a port of its own; it is killed with this value.
#[derive(Debug)]
pub(crate) struct RedisServer {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl RedisServer {
    /// A fresh one, ready for connections; ends the test if there can be none.
    pub(crate) fn start() -> Self {
        let mut server = Self::reserve();
        server.restart();
        server
    }

    /// One that does not run yet, with its port.
    pub(crate) fn reserve() -> Self {
        let folder = tempfile::Builder::new().prefix("dingcard-redis-").tempdir();
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        match (folder, free) {
            (Ok(folder), Ok(address)) => Self {
                folder,
                port: address.port(),
                child: None,
            },
            (folder, free) => panic!("a folder and a port for Redis: {folder:?}, {free:?}"),
        }
    }

    /// `redis://…`, the same for the server's whole life.
    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Starts it, empty, at the same port.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let child = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("redis-server: {error}; ./tests/run installs it"));
        self.child = Some(child);
        let deadline = Instant::now() + PATIENCE;
        while self.try_ask(&["PING"]).is_err() {
            assert!(Instant::now() < deadline, "redis-server does not answer");
            // It tells nobody when it is ready.
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// `kill -9`. What it held is lost.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _already_gone = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Freezes it: connections stay open and nothing is answered.
    pub(crate) fn pause(&self) {
        self.signal("STOP");
    }

    /// Ends [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Empties it.
    pub(crate) fn flush(&self) {
        self.ask(&["FLUSHALL"]);
    }

    /// Every key with its value, those that hold no text left out.
    pub(crate) fn entries(&self) -> Vec<(String, String)> {
        let keys = self.ask(&["KEYS", "*"]);
        keys.into_iter()
            .filter_map(|key| Some((self.try_ask(&["GET", &key]).ok()?.concat(), key)))
            .map(|(value, key)| (key, value))
            .collect()
    }

    /// The parts of an answer.
    pub(crate) fn ask(&self, command: &[&str]) -> Vec<String> {
        self.try_ask(command)
            .unwrap_or_else(|error| panic!("redis-server: {command:?}: {error}"))
    }

    fn try_ask(&self, command: &[&str]) -> io::Result<Vec<String>> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let parts: Vec<String> = command
            .iter()
            .map(|part| format!("${}\r\n{part}\r\n", part.len()))
            .collect();
        (&stream).write_all(format!("*{}\r\n{}", parts.len(), parts.concat()).as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut parts = Vec::new();
        read_answer(&mut reader, &mut parts)?;
        Ok(parts)
    }

    fn signal(&self, signal: &str) {
        let id = self.child.as_ref().map_or(0, Child::id);
        assert_ne!(id, 0, "the server does not run");
        let sent = Command::new("kill").args(["-s", signal, &id.to_string()]).status();
        assert!(sent.as_ref().is_ok_and(std::process::ExitStatus::success), "{sent:?}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Of Redis's protocol, as much as the questions above need.
fn read_answer(reader: &mut BufReader<TcpStream>, parts: &mut Vec<String>) -> io::Result<()> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, line.clone());
    let (kind, rest) = line.trim_end().split_at_checked(1).ok_or_else(wrong)?;
    match kind {
        "+" | ":" => parts.push(rest.to_owned()),
        "$" => {
            if let Ok(length) = rest.parse::<usize>() {
                let mut bytes = vec![0; length + 2];
                reader.read_exact(&mut bytes)?;
                bytes.truncate(length);
                parts.push(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        "*" => {
            for _ in 0..rest.parse().map_err(|_| wrong())? {
                read_answer(reader, parts)?;
            }
        }
        _ => return Err(wrong()),
    }
    Ok(())
}
