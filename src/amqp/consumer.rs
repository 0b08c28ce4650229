//! Taking messages from one queue.
//!
//! Separate from the connection because its pace changes while the connection stays: `basic.qos` does not touch a live
//! consumer, so another pace means another consumer, on the same channel, whose unsettled deliveries stay good. It hands
//! every message on and looks into none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{FieldTable, ShortString};
use lapin::{Channel, Connection};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::delivery::{Arrivals, Delivery, Queue};
use crate::shutdown::Shutdown;

/// How long the broker may take to answer a cancel before the session counts as lost.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);
/// So many messages are taken in one go; then those in work get on, before more are. All 256 at once would be decoded, then
/// called for, then answered, and push each other out of the processor's cache at each step.
const BURST: u32 = 32;

/// How fast an app's queues are consumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// `amqp.prefetch` at once.
    Full,
    /// One message at a time: the app is on hold, and that job is the probe.
    OneByOne,
    /// Urgent jobs at full, others one at a time: the app keeps what calls are left for urgent jobs.
    UrgentFirst,
    /// Not at all: an operator paused the app.
    Stopped,
}

/// The pace of each app; changes take effect at once.
pub type Paces = HashMap<String, watch::Receiver<Pace>>;

/// A queue that is consumed within one session.
pub(super) struct Consumer {
    name: ShortString,
    urgent: bool,
    prefetch: u16,
    pace: watch::Receiver<Pace>,
    channel: Channel,
    live: Option<lapin::Consumer>,
    arrivals: Arc<Arrivals>,
    session: CancellationToken,
}

impl Consumer {
    /// Starts to consume at the present pace.
    pub(super) async fn start(
        connection: &Connection,
        queue: Queue,
        name: &str,
        prefetch: u16,
        pace: watch::Receiver<Pace>,
        session: CancellationToken,
    ) -> lapin::Result<Self> {
        let channel = connection.create_channel().await?;
        let name = ShortString::try_new(name).unwrap_or_default();
        let mut consumer = Self {
            urgent: queue.is_urgent(),
            name,
            prefetch,
            pace,
            channel,
            live: None,
            arrivals: Arrivals::new(queue, session.clone()),
            session,
        };
        consumer.consume().await?;
        Ok(consumer)
    }

    /// Its channel, on which its deliveries are settled.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    async fn consume(&mut self) -> lapin::Result<()> {
        let prefetch = match *self.pace.borrow_and_update() {
            Pace::Full => self.prefetch,
            Pace::UrgentFirst if self.urgent => self.prefetch,
            Pace::OneByOne | Pace::UrgentFirst => 1,
            Pace::Stopped => return Ok(()),
        };
        self.channel.basic_qos(prefetch, BasicQosOptions::default()).await?;
        let options = BasicConsumeOptions::default();
        let live = self
            .channel
            .basic_consume(self.name.clone(), "".into(), options, FieldTable::default())
            .await?;
        self.live = Some(live);
        Ok(())
    }

    /// Gives every message to `on_delivery` until the consumer ends, and says why it did. Once `shutdown` drains, it takes
    /// nothing more and only keeps its channel open for what is still to be settled.
    pub(super) async fn run(mut self, shutdown: &Shutdown, on_delivery: &(impl Fn(Delivery) + Sync)) -> String {
        let mut taken: u32 = 0;
        loop {
            let ended = tokio::select! {
                biased;
                () = shutdown.draining() => break,
                Ok(()) = self.pace.changed() => self.change_pace(on_delivery).await.err(),
                next = next(&mut self.live) => match next {
                    Some(Ok(message)) => {
                        on_delivery(self.delivery(message));
                        taken = taken.wrapping_add(1);
                        if taken.is_multiple_of(BURST) {
                            tokio::task::yield_now().await;
                        }
                        None
                    }
                    Some(Err(error)) => Some(error.to_string()),
                    None => Some("the broker cancelled the consumer (its queue was deleted, or its node went down)".to_owned()),
                },
            };
            if let Some(why) = ended {
                return format!("{}: {why}", self.name);
            }
        }
        let taken_too_late = self.cancel().await.unwrap_or_default();
        for message in taken_too_late {
            self.delivery(message).give_back().await;
        }
        self.session.cancelled().await;
        format!("{}: the session ended", self.name)
    }

    fn delivery(&self, message: lapin::message::Delivery) -> Delivery {
        self.arrivals.delivery(message)
    }

    async fn change_pace(&mut self, on_delivery: &(impl Fn(Delivery) + Sync)) -> Result<(), String> {
        for message in self.cancel().await? {
            on_delivery(self.delivery(message));
        }
        self.consume().await.map_err(|e| e.to_string())
    }

    /// Cancels the live consumer; gives what it had received and nobody had taken yet.
    async fn cancel(&mut self) -> Result<Vec<lapin::message::Delivery>, String> {
        let Some(mut live) = self.live.take() else {
            return Ok(Vec::new());
        };
        let cancelling = self.channel.basic_cancel(live.tag(), BasicCancelOptions::default());
        let cancelled = tokio::time::timeout(CANCEL_TIMEOUT, cancelling).await;
        let answered = cancelled.map_err(|_| "the broker did not answer a cancel".to_owned())?;
        answered.map_err(|e| e.to_string())?;
        let mut rest = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(CANCEL_TIMEOUT, live.next()).await {
            rest.push(message.map_err(|e| e.to_string())?);
        }
        Ok(rest)
    }
}

/// The next message; never, where nothing is consumed.
async fn next(live: &mut Option<lapin::Consumer>) -> Option<lapin::Result<lapin::message::Delivery>> {
    match live {
        Some(live) => live.next().await,
        None => std::future::pending().await,
    }
}
