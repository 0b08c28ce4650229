//! Whether the queues can commit: what a worker in a minority of a cluster would never notice.
//!
//! Separate because nothing else of a session shows it. A node that has lost most of its cluster keeps its connections, its
//! heartbeats and its consumers, answers passive declarations, and delivers nothing. So a second consumer stands in line at
//! the suspect queue every few seconds and leaves again: two commits of a quorum queue, which change nothing, because that
//! queue has one active consumer and has it already. It ends no session and gives nothing back: what is in work stays with
//! this worker until there is a quorum again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio_util::sync::CancellationToken;

use super::delivery::{Arrivals, Delivery, Queue};
use crate::health::Health;
use crate::metrics::Metrics;

/// Between two visits.
const EVERY: Duration = Duration::from_secs(2);
/// How long the broker may take for one. With [`EVERY`] it bounds how long a worker seems ready without a quorum, 8 s.
const PATIENCE: Duration = Duration::from_secs(6);
const NONE: &str = "the broker takes no work: its queues have no quorum (too many of the cluster's nodes are down), or it is overloaded";

/// The line of a queue that has a single active consumer.
pub(super) struct Line<'a> {
    pub(super) connection: &'a Connection,
    pub(super) queue: ShortString,
    pub(super) health: &'a Health,
    pub(super) metrics: &'a Metrics,
    pub(super) session: &'a CancellationToken,
}

/// A channel of the line's own, with what comes on it.
type Place = (Channel, Arc<Arrivals>);

impl Line<'_> {
    /// Says whether there is a quorum for as long as the session lasts. A message that it is given, because the active
    /// consumer went just then, is handed on.
    pub(super) async fn watch(&self, on_delivery: impl Fn(Delivery)) -> Infallible {
        let mut place = None;
        let mut there = true;
        loop {
            tokio::time::sleep(EVERY).await;
            let mut visit = std::pin::pin!(self.visit(place.take(), &on_delivery));
            let in_time = tokio::time::timeout(PATIENCE, &mut visit).await;
            let visited = if let Ok(visited) = in_time {
                visited
            } else {
                self.tell(&mut there, false);
                visit.await
            };
            self.tell(&mut there, visited.is_ok());
            // What is wrong with the connection itself ends the session.
            place = visited.inspect_err(|error| tracing::debug!(%error, "no quorum")).ok();
        }
    }

    async fn visit(&self, place: Option<Place>, on_delivery: impl Fn(Delivery)) -> lapin::Result<Place> {
        let (channel, arrivals) = if let Some(place) = place {
            place
        } else {
            let channel = self.connection.create_channel().await?;
            channel.basic_qos(1, BasicQosOptions::default()).await?;
            (channel, Arrivals::new(Queue::Suspect, self.session.clone()))
        };
        let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut second = channel
            .basic_consume(self.queue.clone(), "".into(), options, arguments)
            .await?;
        channel
            .basic_cancel(second.tag(), BasicCancelOptions::default())
            .await?;
        while let Some(message) = second.next().await {
            on_delivery(arrivals.delivery(message?));
        }
        Ok((channel, arrivals))
    }

    /// Logs a change alone.
    fn tell(&self, there: &mut bool, now: bool) {
        let before = std::mem::replace(there, now);
        match (before, now) {
            (true, false) => {
                tracing::warn!("{NONE}; waiting, with what is in work kept");
                self.health.broker_away(NONE);
                self.metrics.consuming.set(0);
            }
            (false, true) => {
                tracing::info!("the queues have a quorum again");
                self.health.broker_ready();
                self.metrics.consuming.set(1);
            }
            _ => {}
        }
    }
}
