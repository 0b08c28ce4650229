//! What is in the broker: every exchange, queue and binding of a namespace, as data.
//!
//! Separate so that declaring, verifying and printing say the same. Arguments of a queue are frozen once it exists, so a
//! change here needs a new, versioned name. It consumes and publishes nothing.

use lapin::options::{ExchangeBindOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use serde_json::{Value as Json, json};

use super::delay::Levels;
use super::delivery::Queue;
use crate::config::DEFAULT_APP;

/// Deliveries before the broker itself gives a job up: far beyond what the suspect queue lets happen.
const JOB_DELIVERY_LIMIT: i64 = 20;
/// A look at a dead letter counts as a delivery, so the limit is the largest there is. Never -1: 3.x takes that for 0.
const DEAD_DELIVERY_LIMIT: i64 = 2_147_483_647;

/// The names of a namespace.
#[derive(Debug, Clone)]
pub struct Names {
    pub(super) namespace: String,
}

impl Names {
    /// The names that begin with `namespace`.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
        }
    }

    /// A queue's name.
    #[must_use]
    pub fn queue(&self, queue: &Queue) -> String {
        format!("{}.{}", self.namespace, Self::key(queue))
    }

    /// The queue that has this name, if it is one where jobs arrive.
    #[must_use]
    pub fn parse(&self, name: &str) -> Option<Queue> {
        let key = name.strip_prefix(&self.namespace)?.strip_prefix('.')?;
        let (kind, app) = key.split_once('.').unwrap_or((key, DEFAULT_APP));
        match kind {
            "jobs" => Some(Queue::Jobs(app.to_owned())),
            "urgent" => Some(Queue::Urgent(app.to_owned())),
            _ => None,
        }
    }

    /// Whether a queue of this name holds jobs or dead letters.
    pub(super) fn is_own(&self, name: &str) -> bool {
        let below = name.strip_prefix(&self.namespace).and_then(|key| key.strip_prefix('.'));
        self.parse(name).is_some()
            || below.is_some_and(|key| matches!(key, "suspect" | "dead") || key.starts_with("delay."))
    }

    /// The key in the direct exchange: the queue's name without the namespace.
    fn key(queue: &Queue) -> String {
        let of = |kind: &str, app: &str| {
            if app == DEFAULT_APP {
                kind.to_owned()
            } else {
                format!("{kind}.{app}")
            }
        };
        match queue {
            Queue::Jobs(app) => of("jobs", app),
            Queue::Urgent(app) => of("urgent", app),
            Queue::Suspect => "suspect".to_owned(),
            Queue::Dead => "dead".to_owned(),
        }
    }

    /// The fanout exchange that leads what has no queue to the dead letters.
    fn unroutable(&self) -> String {
        format!("{}.unroutable", self.namespace)
    }

    pub(super) fn levels(&self) -> Levels<'_> {
        Levels::new(&self.namespace)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Text(String),
    Number(i64),
    Flag(bool),
}

#[derive(Debug)]
struct DeclaredExchange {
    name: String,
    kind: ExchangeKind,
    alternate: Option<String>,
}

#[derive(Debug)]
struct DeclaredQueue {
    name: String,
    arguments: Vec<(&'static str, Argument)>,
}

#[derive(Debug)]
struct Binding {
    source: String,
    destination: String,
    to_exchange: bool,
    key: String,
}

/// All of it, in an order in which each part is declared after those it refers to.
#[derive(Debug)]
pub struct Topology {
    exchanges: Vec<DeclaredExchange>,
    queues: Vec<DeclaredQueue>,
    bindings: Vec<Binding>,
}

/// Something of the topology could not be declared, or is not there.
#[derive(Debug, thiserror::Error)]
#[error("{kind} {name}: {why}")]
pub struct TopologyError {
    kind: &'static str,
    name: String,
    why: String,
    /// Whether the broker answered: the topology itself is wrong, and waiting alone mends nothing.
    pub refused: bool,
}

impl Topology {
    /// The topology of a namespace with the queues of `apps`.
    #[must_use]
    pub fn new<'a>(names: &Names, apps: impl IntoIterator<Item = &'a str>) -> Self {
        let mut topology = Self {
            exchanges: Vec::new(),
            queues: Vec::new(),
            bindings: Vec::new(),
        };
        topology.dead_letters(names);
        topology.delay_levels(names);
        let arrivals = apps
            .into_iter()
            .flat_map(|a| [Queue::Jobs(a.to_owned()), Queue::Urgent(a.to_owned())]);
        for queue in arrivals.chain([Queue::Suspect]) {
            topology.job_queue(names, &queue);
        }
        topology
    }

    fn dead_letters(&mut self, names: &Names) {
        self.exchange(names.unroutable(), ExchangeKind::Fanout, None);
        self.exchange(names.namespace.clone(), ExchangeKind::Direct, Some(names.unroutable()));
        self.queue(
            names.queue(&Queue::Dead),
            vec![("x-delivery-limit", Argument::Number(DEAD_DELIVERY_LIMIT))],
        );
        self.bind(names.unroutable(), names.queue(&Queue::Dead), false, String::new());
    }

    fn delay_levels(&mut self, names: &Names) {
        self.exchange(names.levels().deliver(), ExchangeKind::Topic, Some(names.unroutable()));
        for level in names.levels().all() {
            self.exchange(level.name.clone(), ExchangeKind::Topic, None);
            let ttl = i64::try_from(level.holds.as_millis()).unwrap_or(i64::MAX);
            let mut arguments = dead_lettering(&level.next, None);
            arguments.push(("x-message-ttl", Argument::Number(ttl)));
            self.queue(level.name.clone(), arguments);
            self.bind(level.name.clone(), level.name.clone(), false, level.hold_key);
            self.bind(level.name, level.next, true, level.pass_key);
        }
    }

    fn job_queue(&mut self, names: &Names, queue: &Queue) {
        let name = names.queue(queue);
        let mut arguments = dead_lettering("", Some(&names.queue(&Queue::Dead)));
        arguments.push(("x-delivery-limit", Argument::Number(JOB_DELIVERY_LIMIT)));
        if *queue == Queue::Suspect {
            arguments.push(("x-single-active-consumer", Argument::Flag(true)));
        } else {
            self.bind(names.namespace.clone(), name.clone(), false, Names::key(queue));
        }
        self.bind(names.levels().deliver(), name.clone(), false, format!("#.{name}"));
        self.queue(name, arguments);
    }

    fn exchange(&mut self, name: String, kind: ExchangeKind, alternate: Option<String>) {
        self.exchanges.push(DeclaredExchange { name, kind, alternate });
    }

    fn queue(&mut self, name: String, mut arguments: Vec<(&'static str, Argument)>) {
        arguments.push(("x-queue-type", Argument::Text("quorum".to_owned())));
        self.queues.push(DeclaredQueue { name, arguments });
    }

    fn bind(&mut self, source: String, destination: String, to_exchange: bool, key: String) {
        self.bindings.push(Binding {
            source,
            destination,
            to_exchange,
            key,
        });
    }

    /// Makes whatever is missing.
    pub async fn declare(&self, connection: &Connection) -> Result<(), TopologyError> {
        let channel = channel(connection).await?;
        self.objects(&channel, false).await?;
        for binding in &self.bindings {
            binding
                .declare(&channel)
                .await
                .map_err(|e| fault("binding", &binding.destination, &e))?;
        }
        Ok(())
    }

    /// Looks whether every exchange and queue is there. Bindings and arguments cannot be seen over AMQP.
    pub async fn verify(&self, connection: &Connection) -> Result<(), TopologyError> {
        self.objects(&channel(connection).await?, true).await
    }

    /// Declares the exchanges and queues that [`Self::verify`] found: nothing changes, and the broker refuses what has other
    /// arguments, and a user who may not declare.
    pub async fn verify_arguments(&self, connection: &Connection) -> Result<(), TopologyError> {
        self.objects(&channel(connection).await?, false).await
    }

    async fn objects(&self, channel: &Channel, passive: bool) -> Result<(), TopologyError> {
        for exchange in &self.exchanges {
            exchange
                .declare(channel, passive)
                .await
                .map_err(|e| fault("exchange", &exchange.name, &e))?;
        }
        for queue in &self.queues {
            queue
                .declare(channel, passive)
                .await
                .map_err(|e| fault("queue", &queue.name, &e))?;
        }
        Ok(())
    }

    /// Definitions to import with `rabbitmqctl import_definitions`, for virtual host `vhost`.
    #[must_use]
    pub fn definitions(&self, vhost: &str) -> Json {
        let exchanges = self.exchanges.iter().map(|e| {
            let arguments = e
                .alternate
                .as_ref()
                .map_or_else(|| json!({}), |a| json!({"alternate-exchange": a}));
            json!({"name": e.name, "vhost": vhost, "type": kind_name(&e.kind), "durable": true, "auto_delete": false,
                   "internal": false, "arguments": arguments})
        });
        let queues = self.queues.iter().map(|q| {
            let arguments: serde_json::Map<_, _> =
                q.arguments.iter().map(|(k, v)| ((*k).to_owned(), v.json())).collect();
            json!({"name": q.name, "vhost": vhost, "durable": true, "auto_delete": false, "arguments": arguments})
        });
        let bindings = self.bindings.iter().map(|b| {
            let kind = if b.to_exchange { "exchange" } else { "queue" };
            json!({"source": b.source, "vhost": vhost, "destination": b.destination, "destination_type": kind,
                   "routing_key": b.key, "arguments": {}})
        });
        json!({
            "exchanges": exchanges.collect::<Vec<_>>(),
            "queues": queues.collect::<Vec<_>>(),
            "bindings": bindings.collect::<Vec<_>>(),
        })
    }
}

/// Without `reject-publish` the broker silently falls back from at-least-once to at-most-once dead-lettering.
fn dead_lettering(exchange: &str, key: Option<&str>) -> Vec<(&'static str, Argument)> {
    let mut arguments = vec![
        ("x-dead-letter-exchange", Argument::Text(exchange.to_owned())),
        ("x-dead-letter-strategy", Argument::Text("at-least-once".to_owned())),
        ("x-overflow", Argument::Text("reject-publish".to_owned())),
    ];
    arguments.extend(key.map(|key| ("x-dead-letter-routing-key", Argument::Text(key.to_owned()))));
    arguments
}

fn kind_name(kind: &ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Direct => "direct",
        _ => "topic",
    }
}

async fn channel(connection: &Connection) -> Result<Channel, TopologyError> {
    connection
        .create_channel()
        .await
        .map_err(|e| fault("channel", "for the topology", &e))
}

fn fault(kind: &'static str, name: &str, error: &lapin::Error) -> TopologyError {
    let answer = match error.kind() {
        lapin::ErrorKind::ProtocolError(answer) => Some(answer.get_message().to_string()),
        _ => None,
    };
    TopologyError {
        kind,
        name: name.to_owned(),
        refused: answer.is_some(),
        why: answer.unwrap_or_else(|| error.to_string()),
    }
}

impl Argument {
    fn amqp(&self) -> AMQPValue {
        match self {
            Self::Text(text) => AMQPValue::LongString(LongString::from(text.as_str())),
            Self::Number(number) => AMQPValue::LongLongInt(*number),
            Self::Flag(flag) => AMQPValue::Boolean(*flag),
        }
    }

    fn json(&self) -> Json {
        match self {
            Self::Text(text) => json!(text),
            Self::Number(number) => json!(number),
            Self::Flag(flag) => json!(flag),
        }
    }
}

/// Names of a namespace have at most 64 + 1 + 6 + 1 + 32 bytes, below the 255 of a short string.
fn short(name: &str) -> ShortString {
    ShortString::try_new(name).unwrap_or_default()
}

impl DeclaredExchange {
    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        let options = ExchangeDeclareOptions {
            durable: true,
            passive,
            ..ExchangeDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        if let Some(alternate) = &self.alternate {
            arguments.insert("alternate-exchange".into(), Argument::Text(alternate.clone()).amqp());
        }
        channel
            .exchange_declare(short(&self.name), self.kind.clone(), options, arguments)
            .await
    }
}

impl DeclaredQueue {
    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        let options = QueueDeclareOptions {
            durable: true,
            passive,
            ..QueueDeclareOptions::default()
        };
        let mut arguments = FieldTable::default();
        for (key, value) in &self.arguments {
            arguments.insert((*key).into(), value.amqp());
        }
        channel
            .queue_declare(short(&self.name), options, arguments)
            .await
            .map(|_| ())
    }
}

impl Binding {
    async fn declare(&self, channel: &Channel) -> lapin::Result<()> {
        let (destination, source, key) = (short(&self.destination), short(&self.source), short(&self.key));
        if self.to_exchange {
            let options = ExchangeBindOptions::default();
            channel
                .exchange_bind(destination, source, key, options, FieldTable::default())
                .await
        } else {
            channel
                .queue_bind(
                    destination,
                    source,
                    key,
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn topology() -> Topology {
        Topology::new(&Names::new("ns"), ["default", "sales"])
    }

    #[test]
    fn the_default_app_has_the_plain_names_and_every_other_its_own() {
        let names = Names::new("ns");
        assert_eq!(names.queue(&Queue::Jobs("default".into())), "ns.jobs");
        assert_eq!(names.queue(&Queue::Urgent("sales".into())), "ns.urgent.sales");
        assert_eq!(names.parse("ns.urgent.sales"), Some(Queue::Urgent("sales".into())));
        assert_eq!(names.parse("ns.jobs"), Some(Queue::Jobs("default".into())));
        assert_eq!((names.parse("ns.dead"), names.parse("other.jobs")), (None, None));
    }

    #[test]
    fn every_queue_is_a_quorum_queue_and_dead_letters_at_least_once_where_it_does() {
        for queue in topology().queues {
            let argument = |key: &str| queue.arguments.iter().find(|(k, _)| *k == key).map(|(_, v)| v.clone());
            let text = |value: &str| Some(Argument::Text(value.to_owned()));
            assert_eq!(argument("x-queue-type"), text("quorum"));
            if argument("x-dead-letter-exchange").is_some() {
                assert_eq!(
                    argument("x-dead-letter-strategy"),
                    text("at-least-once"),
                    "{}",
                    queue.name
                );
                assert_eq!(argument("x-overflow"), text("reject-publish"), "{}", queue.name);
            }
            assert_eq!(argument("x-expires"), None);
        }
    }

    #[test]
    fn every_queue_where_jobs_arrive_can_be_reached_from_the_delay_levels() {
        let topology = topology();
        for name in ["ns.jobs", "ns.urgent", "ns.jobs.sales", "ns.urgent.sales", "ns.suspect"] {
            let key = format!("#.{name}");
            assert!(
                topology
                    .bindings
                    .iter()
                    .any(|b| b.source == "ns.delay.v1.deliver" && b.key == key),
                "{name}"
            );
        }
    }

    #[test]
    fn whatever_a_binding_names_is_declared() {
        let topology = topology();
        for binding in &topology.bindings {
            assert!(
                topology.exchanges.iter().any(|e| e.name == binding.source),
                "{binding:?}"
            );
            let there = if binding.to_exchange {
                topology.exchanges.iter().any(|e| e.name == binding.destination)
            } else {
                topology.queues.iter().any(|q| q.name == binding.destination)
            };
            assert!(there, "{binding:?}");
        }
    }

    #[test]
    fn the_printed_definitions_name_every_part() {
        let definitions = topology().definitions("/");
        let count = |part: &str| definitions[part].as_array().unwrap().len();
        assert_eq!((count("exchanges"), count("queues")), (2 + 1 + 17, 1 + 17 + 5));
        assert_eq!(count("bindings"), 1 + 2 * 17 + 2 * 4 + 1);
    }
}
