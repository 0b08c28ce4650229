//! The broker, the sandbox and the worker of the demo: set up, and taken down without a trace.
//!
//! Apart because what must be cleaned up is owned here and nowhere else: whatever ends the demo, a signal in the middle of
//! the start included, drops this value. A broker that was given with `AMQP_URL` is a guest's: the demo works there under
//! a namespace of its own, and deletes that at the end.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::broker::Broker;
use crate::http;
use crate::interrupt::{Early, Interrupt};
use crate::process::{Process, command};

/// For a process to be ready, and for the broker to answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// A dead letter: the `message_id` it was published under, and why it is one.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// What runs. The parts go in the order of the fields.
pub(crate) struct Stage<'a> {
    worker: Option<Process>,
    sandbox: Option<Process>,
    home: Home<'a>,
    interrupt: &'a Interrupt,
    /// `http://127.0.0.1:8787`
    pub(crate) sandbox_url: String,
    /// `http://127.0.0.1:9464`
    pub(crate) worker_url: String,
}

/// The place in a broker where the demo works.
struct Home<'a> {
    /// A guest deletes its queues; a broker of one's own goes as a whole.
    own: Option<Broker>,
    url: String,
    namespace: String,
    bin: PathBuf,
    runtime: &'a Runtime,
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
        stage.sandbox = Some(stage.start("sandbox", &stage.sandbox_url, "sandbox listening")?);
        stage.worker = Some(stage.start("worker", &stage.worker_url, "consuming")?);
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

    fn start(&self, verb: &str, url: &str, ready: &str) -> Result<Process, Early> {
        let listen = url.trim_start_matches("http://");
        let args = [verb, "--listen", listen];
        let mut process = Process::start(&self.home.bin, &args, &self.envs()).map_err(Early::failed)?;
        // In short waits, so that a signal is noticed.
        let look = || match process.wait_for_line(ready, Duration::from_millis(100)) {
            Ok(_) => Ok(Some(Ok(()))),
            Err(why) => Ok(process.wait(Duration::ZERO).is_ok().then_some(Err(why))),
        };
        match self.interrupt.until(PATIENCE, look)? {
            Some(Ok(())) => Ok(process),
            Some(Err(why)) => Err(Early::Failed(why)),
            None => Err(Early::failed(
                process.wait_for_line(ready, Duration::ZERO).err().unwrap_or_default(),
            )),
        }
    }

    /// Publishes NDJSON as a user would; gives how many jobs the broker confirmed.
    pub(crate) fn publish(&self, ndjson: &[u8]) -> Result<u64, Early> {
        let mut child = command(&self.home.bin, &["publish", "--file", "-"], &self.envs())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Early::failed)?;
        // It reads all before it writes, so neither can wait for the other.
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(ndjson));
        let output = child.wait_with_output().map_err(Early::failed)?;
        self.interrupt.check()?;
        match written {
            Some(Ok(())) if output.status.success() => Ok(output.stdout.split(|b| *b == b'\n').count() as u64 - 1),
            Some(Err(error)) => Err(Early::failed(format!("dingcard publish reads nothing: {error}"))),
            _ => Err(Early::failed(format!("dingcard publish: {}", output.status))),
        }
    }

    /// Publishes bodies that `dingcard publish` would refuse, under IDs of this kind.
    pub(crate) fn publish_raw(&self, kind: &str, bodies: &[Vec<u8>]) -> Result<(), Early> {
        let queue = self.home.name("jobs");
        self.home.with_channel(async |channel| {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            for (body, number) in bodies.iter().zip(1..) {
                let id = format!("{kind}-{number:03}");
                let properties = BasicProperties::default()
                    .with_message_id(id.into())
                    .with_delivery_mode(2);
                let options = BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                };
                channel
                    .basic_publish("".into(), queue.clone(), options, body, properties)
                    .await?
                    .await?;
            }
            Ok(())
        })
    }

    /// What lies in the dead letters. It stays there.
    pub(crate) fn dead_letters(&self) -> Result<Vec<DeadLetter>, Early> {
        let queue = self.home.name("dead");
        self.home.with_channel(async |channel| {
            let mut letters = Vec::new();
            // Taken without acknowledgement, each is given back when the channel closes.
            while let Some(letter) = channel.basic_get(queue.clone(), BasicGetOptions::default()).await? {
                let id = letter.properties.message_id().as_ref().map(ToString::to_string);
                let headers = letter.properties.headers().as_ref().map(FieldTable::inner);
                let reason = match headers.and_then(|headers| headers.get("dingcard-reason")) {
                    Some(AMQPValue::LongString(reason)) => reason.to_string(),
                    _ => "without a reason".to_owned(),
                };
                letters.push(DeadLetter {
                    id: id.unwrap_or_default(),
                    reason,
                });
            }
            Ok(letters)
        })
    }

    /// An error if the sandbox or the worker has ended by itself.
    pub(crate) fn check(&mut self) -> Result<(), Early> {
        for process in [&mut self.worker, &mut self.sandbox].into_iter().flatten() {
            if process.wait(Duration::ZERO).is_ok() {
                let why = process.wait_for_line("\0", Duration::ZERO).err();
                return Err(Early::failed(why.unwrap_or_default()));
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
        let (url, namespace, bin) = (&self.home.url, &self.home.namespace, self.home.bin.display());
        // Whoever gave the URL has it, and may not want its password on the screen.
        let url = if self.home.own.is_some() {
            format!("'{url}'")
        } else {
            "\"$AMQP_URL\"".to_owned()
        };
        format!(
            "DINGCARD_AMQP__URL={url} DINGCARD_AMQP__NAMESPACE={namespace} \\\n    {bin} publish \
             --mobile 15012341231 --param pv=2000 --param users=1000"
        )
    }

    /// Where the jobs go in the broker.
    pub(crate) fn queue(&self) -> String {
        self.home.name("jobs").to_string()
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

impl<'a> Home<'a> {
    fn find(bin: &Path, runtime: &'a Runtime, interrupt: &Interrupt, progress: &impl Fn(&str)) -> Result<Self, Early> {
        let given = std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty());
        let home = if let Some(url) = given {
            let id = uuid::Uuid::new_v4().simple().to_string();
            let namespace = format!("dingcard-demo-{}", id.get(..8).unwrap_or_default());
            progress(&format!(
                "using the broker of AMQP_URL, under the namespace {namespace}"
            ));
            Self {
                own: None,
                url,
                namespace,
                bin: bin.to_owned(),
                runtime,
            }
        } else {
            progress("starting a private RabbitMQ node");
            let broker = Broker::try_start();
            // On a terminal the signal is also the node's, whose start then fails a moment before it is noticed here.
            interrupt.sleep(Duration::from_millis(if broker.is_ok() { 0 } else { 200 }))?;
            let broker = broker.map_err(Early::Failed)?;
            let url = broker.url().to_owned();
            Self {
                own: Some(broker),
                url,
                namespace: "dingcard".to_owned(),
                bin: bin.to_owned(),
                runtime,
            }
        };
        home.with_channel(async |_| Ok(()))?;
        Ok(home)
    }

    fn name(&self, rest: &str) -> ShortString {
        format!("{}.{rest}", self.namespace).into()
    }

    /// Does something on a connection made for it.
    fn with_channel<T>(&self, work: impl AsyncFnOnce(&Channel) -> lapin::Result<T>) -> Result<T, Early> {
        let talk = async {
            let properties = ConnectionProperties::default().with_connection_name("dingcard demo".into());
            let connection = Connection::connect(&self.url, properties).await?;
            let channel = connection.create_channel().await?;
            let result = work(&channel).await;
            // What is unacknowledged goes back with the channel.
            let _gone = connection.close(200, "done".into()).await;
            result
        };
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(PATIENCE, talk).await });
        match answer {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Early::failed(format!("the broker: {error}"))),
            Err(_) => Err(Early::failed(format!("the broker did not answer within {PATIENCE:?}"))),
        }
    }

    /// Deletes everything of this namespace; what dingcard makes there it can also list.
    fn delete(&self) -> Result<(), String> {
        let envs = [
            ("DINGCARD_AMQP__URL", self.url.as_str()),
            ("DINGCARD_AMQP__NAMESPACE", &self.namespace),
        ];
        let printed = command(&self.bin, &["topology", "--print"], &envs)
            .output()
            .map_err(|e| e.to_string())?;
        let definitions: Value = serde_json::from_slice(&printed.stdout).map_err(|e| e.to_string())?;
        let names = |part: &str| {
            let parts = definitions[part].as_array().cloned().unwrap_or_default();
            parts
                .into_iter()
                .filter_map(|part| part["name"].as_str().map(ShortString::from))
                .collect::<Vec<_>>()
        };
        let deleted = self.with_channel(async |channel| {
            for queue in names("queues") {
                channel.queue_delete(queue, QueueDeleteOptions::default()).await?;
            }
            for exchange in names("exchanges") {
                channel
                    .exchange_delete(exchange, ExchangeDeleteOptions::default())
                    .await?;
            }
            Ok(())
        });
        deleted.map_err(|early| format!("{early:?}"))
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if self.own.is_none()
            && let Err(why) = self.delete()
        {
            eprintln!(
                "what begins with {}. in the broker could not be deleted: {why}",
                self.namespace
            );
        }
    }
}
