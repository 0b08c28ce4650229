//! `dingcard topology`: the queues and exchanges, declared or printed.

use super::say;
use crate::amqp::Broker;
use crate::config::Config;

/// How.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print definitions for `rabbitmqctl import_definitions` and connect to nothing.
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    let broker = Broker::new(config);
    if args.print {
        let definitions = broker.topology().definitions(&broker.virtual_host()?);
        return Ok(say(serde_json::to_string_pretty(&definitions)?)?);
    }
    broker.connect_publisher().await?;
    broker.close().await;
    Ok(say(format!(
        "the topology of namespace {} is there",
        config.amqp.namespace
    ))?)
}
