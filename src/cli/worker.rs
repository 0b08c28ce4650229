//! `dingcard worker`: the main job.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::task::TaskTracker;

use super::systemd;
use crate::admin;
use crate::amqp::{Broker, Delivery, Parts};
use crate::config::Config;
use crate::dingtalk::DingTalk;
use crate::health::Health;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::otel::Exporter;
use crate::shutdown::Shutdown;
use crate::store::Store;
use crate::worker::{Sender, Worker, drain};

/// How.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address of /metrics, /livez and /readyz, instead of `http.listen`.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(super) async fn run(
    config: Config,
    args: Args,
    file: Option<PathBuf>,
    exporter: Option<Exporter>,
) -> anyhow::Result<()> {
    let config = Arc::new(config);
    let apps = config.served_apps()?;
    for unserved in config.apps.keys().filter(|name| !apps.contains(&name.as_str())) {
        tracing::warn!(
            app = unserved,
            "the app has no credentials here: this worker leaves its queues to others"
        );
    }
    let metrics = Arc::new(Metrics::new(&apps)?);
    metrics.prefetch.set(config.amqp.prefetch.into());
    let health = Arc::new(Health::default());
    let broker = Broker::new(&config);
    let store = Store::connect(&config, &metrics).await?;
    let dingtalk = DingTalk::new(&config, &metrics, &store)?;
    let (names, publisher) = (broker.names().clone(), broker.publisher());
    let sender = Sender::new(config.clone(), dingtalk, Ledger::new(&config.ledger, store));
    let worker = Arc::new(Worker::new(sender, names, publisher, metrics.clone(), &health));

    let shutdown = Shutdown::new();
    let address = args.listen.unwrap_or(config.http.listen);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("http.listen: {address}"))?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), worker = config.worker_name(), ?apps,
        metrics = %format!("http://{}/metrics", listener.local_addr()?), "dingcard worker");
    let serving = tokio::spawn(admin::serve(
        listener,
        metrics.clone(),
        health.clone(),
        shutdown.clone(),
    ));
    tokio::spawn({
        let health = health.clone();
        async move { systemd::follow(&health).await }
    });
    tokio::spawn({
        let worker = worker.clone();
        async move { worker.lapse_holds().await }
    });
    tokio::spawn(stop_on_signal(shutdown.clone()));
    tokio::spawn(reload_on_signal(worker.clone(), file, signal(SignalKind::hangup())?));

    let jobs = TaskTracker::new();
    let parts = Parts {
        metrics,
        health: health.clone(),
        paces: Arc::new(worker.paces()),
    };
    let on_delivery = |delivery: Delivery| {
        let (worker, shutdown) = (worker.clone(), shutdown.clone());
        // Boxed, since a task is moved several times on its way to its place, and this one is large.
        jobs.spawn(async move { Box::pin(worker.work(delivery, &shutdown)).await });
    };
    let stop = async {
        shutdown.draining().await;
        health.draining();
        tracing::info!(in_work = jobs.len(), grace = ?config.shutdown_grace, "draining: nothing more is taken");
        let begun = Instant::now();
        (drain(&jobs, config.shutdown_grace, &shutdown).await, begun)
    };
    let ((left, begun), ()) = tokio::join!(stop, broker.run(&parts, &shutdown, on_delivery));
    serving.await?.context("serve /metrics")?;
    if let Some(exporter) = exporter {
        exporter
            .flush(config.shutdown_grace.saturating_sub(begun.elapsed()))
            .await;
    }
    tracing::info!(in_work = left.begun_with, given_back = left.given_back, "stopped");
    Ok(())
}

/// Drains at the first signal, exits at the second.
async fn stop_on_signal(shutdown: Shutdown) {
    interrupted().await;
    shutdown.drain();
    interrupted().await;
    tracing::warn!("a second signal: exit at once; the broker delivers again what was in work");
    std::process::exit(1);
}

/// Reads the configuration anew at each SIGHUP. One that is not in order changes nothing.
async fn reload_on_signal(worker: Arc<Worker>, file: Option<PathBuf>, mut hangup: Signal) {
    while hangup.recv().await.is_some() {
        systemd::reloading();
        match super::load(file.as_deref()) {
            Ok(config) => {
                let waits = worker.reload(&config);
                tracing::info!("the configuration was read anew: applications and templates are as it says");
                if !waits.is_empty() {
                    tracing::warn!(keys = waits.join(", "), "these differ too, but need a restart");
                }
            }
            Err(error) => tracing::error!(%error, "the configuration is not in order: the worker keeps the one it has"),
        }
        systemd::reloaded();
    }
}

/// Ends with the next SIGTERM or SIGINT.
pub(super) async fn interrupted() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = wait(SignalKind::terminate()) => {}
        _ = wait(SignalKind::interrupt()) => {}
    }
}
