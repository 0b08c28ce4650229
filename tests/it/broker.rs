//! A real RabbitMQ of one's own, for as long as a value lives.
//!
//! Apart from what uses it because the integration tests and the demo need the same broker, one that can also be
//! crashed and frozen. How a node is run is the business of `deploy/rabbitmq/node`; this only calls it. It refuses to
//! touch a broker that it did not start, and it says nothing about queues and exchanges: those are the worker's.

// Two programs share it, and neither uses all of it.
#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::http::free_port;

/// The program that runs private nodes.
const NODE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/rabbitmq/node");

/// A running node. It goes with this value, and with this process if that is killed.
#[derive(Debug)]
pub(crate) struct Broker {
    folder: TempDir,
    url: String,
}

impl Broker {
    /// A fresh node, ready for connections; ends the test if there can be none.
    pub(crate) fn start() -> Self {
        Self::try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// A fresh node, or why there is none.
    pub(crate) fn try_start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// A fresh node in the cluster of this one, which must outlive it.
    pub(crate) fn join(&self) -> Result<Self, String> {
        Self::start_with(&["--join", &self.folder.path().display().to_string()])
    }

    fn start_with(args: &[&str]) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("dingcard-node-")
            .tempdir()
            .map_err(|error| format!("a folder for the broker: {error}"))?;
        let mut broker = Self {
            folder,
            url: String::new(),
        };
        let owner = std::process::id().to_string();
        let args = [&["--owner", &owner], args].concat();
        let url = broker.node("start", &args)?;
        url.trim().clone_into(&mut broker.url);
        Ok(broker)
    }

    /// A fresh node with RabbitMQ's management API, and that API's URL, without user and password.
    pub(crate) fn with_management() -> (Self, String) {
        let broker = Self::start();
        let port = free_port(None).unwrap_or_else(|error| panic!("a port for the management API: {error}"));
        let settings = format!("management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n");
        for (file, text) in [
            ("enabled_plugins", "[rabbitmq_management].\n"),
            ("rabbitmq.conf", &settings),
        ] {
            let path = broker.folder.path().join(file);
            std::fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        broker.restart();
        (broker, format!("http://127.0.0.1:{port}"))
    }

    /// `amqp://…`, the same for the node's whole life.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its port.
    pub(crate) fn address(&self) -> SocketAddr {
        let host = self.url.split('@').next_back().and_then(|rest| rest.split('/').next());
        let address = host.and_then(|host| host.parse().ok());
        address.unwrap_or_else(|| panic!("no address in {}", self.url))
    }

    /// `kill -9`.
    pub(crate) fn kill(&self) {
        self.act("kill");
    }

    /// Starts it again with its data and its port, stopping it first if it runs.
    pub(crate) fn restart(&self) {
        self.act("restart");
    }

    /// Freezes it: connections stay open and nothing is answered.
    pub(crate) fn pause(&self) {
        self.act("pause");
    }

    /// Ends [`pause`](Self::pause).
    pub(crate) fn resume(&self) {
        self.act("resume");
    }

    /// What `rabbitmqctl --quiet ARGS…` prints.
    pub(crate) fn ctl(&self, args: &[&str]) -> String {
        let args: Vec<_> = std::iter::once("--quiet").chain(args.iter().copied()).collect();
        self.node("ctl", &args).unwrap_or_else(|error| panic!("{error}"))
    }

    /// How many messages a queue holds, delivered and not yet acknowledged ones included; 0 if there is no such queue.
    pub(crate) fn messages(&self, queue: &str) -> u64 {
        let listing = self.ctl(&["list_queues", "name", "messages", "--no-table-headers"]);
        let count = listing
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .find(|(name, _)| *name == queue);
        count.map_or(0, |(_, messages)| {
            messages
                .trim()
                .parse()
                .unwrap_or_else(|_| panic!("not a number of messages: {messages:?}"))
        })
    }

    fn act(&self, verb: &str) {
        if let Err(error) = self.node(verb, &[]) {
            panic!("{error}");
        }
    }

    /// What the verb prints to standard output.
    fn node(&self, verb: &str, args: &[&str]) -> Result<String, String> {
        let Output { status, stdout, stderr } = node(verb, self.folder.path())
            .args(args)
            .output()
            .map_err(|error| format!("{NODE}: {error}"))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            return Err(format!("{NODE} {verb}: {status}\n{}", said.trim_end()));
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // The folder goes with it; if this fails there is nobody left to tell.
        let _ended = node("remove", self.folder.path()).stderr(Stdio::null()).status();
    }
}

fn node(verb: &str, folder: &Path) -> Command {
    let mut command = Command::new(NODE);
    command.arg(verb).arg(folder).stdin(Stdio::null());
    command
}

#[cfg(test)]
#[test]
fn what_a_broker_confirmed_survives_its_crash_and_a_freeze_loses_nothing() {
    let broker = Broker::start();
    let other = Broker::start();
    assert_ne!(broker.url(), other.url());
    let (folder, user) = (broker.folder.path().to_owned(), "survivor");
    broker.ctl(&["add_user", user, "secret"]);
    broker.kill();
    broker.restart();
    broker.pause();
    broker.resume();
    assert!(broker.ctl(&["list_users"]).contains(user));
    assert!(!other.ctl(&["list_users"]).contains(user), "the nodes are apart");
    assert_eq!(broker.messages("no.such.queue"), 0);
    drop(broker);
    assert!(!folder.exists());
}
