//! `dingcard sandbox`: a DingTalk for development and tests.

use std::net::SocketAddr;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::worker::interrupted;
use crate::config::Config;

/// Where.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of the API and the inbox page.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8787")]
    listen: SocketAddr,
    /// How many cards, refused calls and arrivals are kept, instead of `sandbox.keep`.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    keep: Option<u32>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let listener = TcpListener::bind(args.listen)
        .await
        .with_context(|| format!("listen on {}", args.listen))?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        interrupted().await;
        stopped.cancel();
    });
    tracing::info!(inbox = %format!("http://{address}/"), "sandbox listening; nothing is forwarded to DingTalk");
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the sandbox can be reached from other machines, and it asks nobody for a password");
    }
    let mut settings = config.sandbox.clone();
    if let Some(keep) = args.keep {
        settings.keep = keep as usize;
    }
    crate::sandbox::serve(listener, &settings, stop)
        .await
        .context("serve the sandbox")
}
