//! Producers other than `dingcard publish`, and a look at the dead letters over AMQP.
//!
//! The Python and the Node program are those of the README, run as they stand there.

use std::path::{Path, PathBuf};
use std::process::Command;

use lapin::options::{BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::json;

use crate::stand::{Stand, wait_until};

pub struct Letter {
    pub body: Vec<u8>,
    pub message_id: String,
    headers: FieldTable,
}

impl Letter {
    pub fn header(&self, key: &str) -> String {
        match self.headers.inner().get(key) {
            Some(AMQPValue::LongString(text)) => text.to_string(),
            other => panic!("{key}: {other:?} in {:?}", self.headers),
        }
    }
}

pub fn with_channel<T>(stand: &Stand, work: impl AsyncFnOnce(Channel) -> T) -> T {
    let url = &stand
        .env()
        .iter()
        .find(|(key, _)| key == "DINGCARD_AMQP__URL")
        .unwrap()
        .1;
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        let done = work(connection.create_channel().await.unwrap()).await;
        // Its channel may be closing already, which is as good.
        let _closed = connection.close(200, "done".into()).await;
        done
    })
}

/// Publishes bytes as they are to the queue `<namespace>.<name>`.
pub fn publish_raw(stand: &Stand, name: &str, body: &[u8]) {
    publish_with(stand, name, body, BasicProperties::default());
}

/// Publishes a job whose results go to the queue `reply_to`.
pub fn publish_for_reply(stand: &Stand, body: &[u8], reply_to: &str) {
    publish_with(
        stand,
        "jobs",
        body,
        BasicProperties::default().with_reply_to(reply_to.into()),
    );
}

pub fn publish_with(stand: &Stand, name: &str, body: &[u8], properties: BasicProperties) {
    let queue = stand.queue(name);
    with_channel(stand, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        let properties = properties.with_delivery_mode(2);
        let confirm = channel
            .basic_publish("".into(), queue.into(), options, body, properties)
            .await
            .unwrap();
        assert_eq!(confirm.await.unwrap(), lapin::Confirmation::Ack(None));
    });
}

/// The first `count` dead letters, which stay where they are.
pub fn dead_letters(stand: &Stand, count: usize) -> Vec<Letter> {
    let queue = stand.queue("dead");
    with_channel(stand, async |channel| {
        let mut letters = Vec::new();
        while letters.len() < count {
            if let Some(got) = channel
                .basic_get(queue.as_str().into(), BasicGetOptions::default())
                .await
                .unwrap()
            {
                let properties = &got.delivery.properties;
                letters.push(Letter {
                    body: got.delivery.data.clone(),
                    message_id: properties
                        .message_id()
                        .as_ref()
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    headers: properties.headers().clone().unwrap_or_default(),
                });
            }
        }
        letters
    })
}

/// The fenced blocks of a language in a README.
fn blocks(readme: &str, language: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(readme)).unwrap();
    let fence = format!("```{language}\n");
    text.split(&fence)
        .skip(1)
        .map(|rest| rest.split("\n```").next().unwrap().to_owned())
        .collect()
}

/// Where `tests/run` puts the clients of other languages.
fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/clients")
}

fn run_producer(stand: &Stand, interpreter: &Path, program: &str, extension: &str, mobile: &str) {
    let folder = tempfile::tempdir_in(clients()).expect("tests/run installs the clients; run that");
    let file = folder.path().join(format!("producer.{extension}"));
    std::fs::write(&file, program).unwrap();
    let url = &stand
        .env()
        .iter()
        .find(|(key, _)| key == "DINGCARD_AMQP__URL")
        .unwrap()
        .1;
    let mut command = Command::new(interpreter);
    command
        .arg(&file)
        .arg(mobile)
        .env("AMQP_URL", url)
        .env("DINGCARD_AMQP__NAMESPACE", &stand.namespace);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn both_readmes_show_the_same_programs() {
    for language in ["python", "js"] {
        assert_eq!(blocks("README.md", language), blocks("README.zh-CN.md", language));
    }
}

#[test]
fn a_card_arrives_that_was_published_from_python_with_the_readmes_program() {
    let stand = Stand::new();
    let _worker = stand.worker();
    let python = clients().join("python/bin/python");
    for (n, program) in blocks("README.md", "python").iter().enumerate() {
        run_producer(&stand, &python, program, "py", &format!("1501234123{n}"));
        wait_until("the card", || {
            (stand.calls()["deliveries"]["total"] == json!(n + 1)).then_some(())
        });
    }
    assert!(!blocks("README.md", "python").is_empty());
}

#[test]
fn a_card_arrives_that_was_published_from_node_with_the_readmes_program() {
    let stand = Stand::new();
    let _worker = stand.worker();
    for (n, program) in blocks("README.md", "js").iter().enumerate() {
        run_producer(&stand, Path::new("node"), program, "js", &format!("1501234123{n}"));
        wait_until("the card", || {
            (stand.calls()["deliveries"]["total"] == json!(n + 1)).then_some(())
        });
    }
    assert!(!blocks("README.md", "js").is_empty());
}
