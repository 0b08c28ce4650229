//! The place in a broker where the demo works: a private node, or a namespace of its own in the broker of `AMQP_URL`.
//!
//! Apart because a guest leaves differently than an owner: a node goes as a whole, of somebody's broker only what begins
//! with the namespace. It knows neither the sandbox nor the worker, and nothing of what the messages mean.

use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeleteOptions, QueueDeleteOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::broker::Broker;
use crate::interrupt::{Early, Interrupt};
use crate::process::command;
use crate::stage::quoted;

/// For the broker to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A dead letter: the `message_id` it was published under, and why it is one.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// The place in a broker where the demo works.
pub(crate) struct Home<'a> {
    /// A broker of one's own goes as a whole, with this value.
    own: Option<Broker>,
    /// Whether there may be something to delete in somebody's broker.
    guest: bool,
    pub(crate) url: String,
    pub(crate) namespace: String,
    pub(crate) bin: PathBuf,
    runtime: &'a Runtime,
}

impl<'a> Home<'a> {
    /// Ready for a `dingcard` to work in; `progress` hears what is done.
    pub(crate) fn find(
        bin: &Path,
        runtime: &'a Runtime,
        interrupt: &Interrupt,
        progress: &impl Fn(&str),
    ) -> Result<Self, Early> {
        let given = std::env::var("AMQP_URL").ok().filter(|url| !url.is_empty());
        let mut home = if let Some(url) = given {
            let id = uuid::Uuid::new_v4().simple().to_string();
            let namespace = format!("dingcard-demo-{}", id.get(..8).unwrap_or_default());
            progress(&format!(
                "using the broker of AMQP_URL, under the namespace {namespace}"
            ));
            Self {
                own: None,
                guest: false,
                url,
                namespace,
                bin: bin.to_owned(),
                runtime,
            }
        } else {
            progress("starting a private RabbitMQ node, which takes some seconds");
            let broker = Broker::try_start();
            // On a terminal the signal is also the node's, whose start then fails a moment before it is noticed here.
            interrupt.sleep(Duration::from_millis(if broker.is_ok() { 0 } else { 200 }))?;
            let broker = broker.map_err(Early::Failed)?;
            let url = broker.url().to_owned();
            Self {
                own: Some(broker),
                guest: false,
                url,
                namespace: "dingcard".to_owned(),
                bin: bin.to_owned(),
                runtime,
            }
        };
        home.with_channel(async |_| Ok(()))?;
        home.guest = home.own.is_none();
        Ok(home)
    }

    /// The full name of a queue here.
    pub(crate) fn name(&self, rest: &str) -> ShortString {
        format!("{}.{rest}", self.namespace).into()
    }

    /// What a `dingcard` in another terminal needs to find this place, for a shell.
    pub(crate) fn envs_to_show(&self) -> String {
        // Whoever gave the URL has it, and may not want its password on the screen.
        let secret = self.url.contains('@') && !self.url.contains("//guest:guest@");
        let url = if secret {
            "\"$AMQP_URL\"".to_owned()
        } else {
            quoted(&self.url)
        };
        if self.own.is_some() {
            format!("DINGCARD_AMQP__URL={url}")
        } else {
            format!("DINGCARD_AMQP__URL={url} DINGCARD_AMQP__NAMESPACE={}", self.namespace)
        }
    }

    /// Publishes bodies that `dingcard publish` would refuse, under IDs of this kind.
    pub(crate) fn publish_raw(&self, kind: &str, bodies: &[Vec<u8>]) -> Result<(), Early> {
        let queue = self.name("jobs");
        self.with_channel(async |channel| {
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
        let queue = self.name("dead");
        self.with_channel(async |channel| {
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

    /// The URL without user and password.
    fn address(&self) -> &str {
        let rest = self.url.split_once("://").map_or(self.url.as_str(), |(_, rest)| rest);
        rest.rsplit_once('@').map_or(rest, |(_, address)| address)
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
            Ok(Err(error)) => Err(Early::failed(format!("the broker at {}: {error}", self.address()))),
            Err(_) => Err(Early::failed(format!(
                "the broker at {} did not answer within {PATIENCE:?}",
                self.address()
            ))),
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
            let own = |name: &&str| {
                name.strip_prefix(&self.namespace)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            parts
                .iter()
                .filter_map(|part| part["name"].as_str().filter(own).map(ShortString::from))
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
        deleted.map_err(|early| match early {
            Early::Failed(why) => why,
            Early::Interrupted => "interrupted".to_owned(),
        })
    }
}

impl Drop for Home<'_> {
    fn drop(&mut self) {
        if self.guest
            && let Err(why) = self.delete()
        {
            eprintln!(
                "demo: what begins with {} in the broker could not be deleted: {why}",
                self.namespace
            );
        }
    }
}
