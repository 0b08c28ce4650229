//! Settling what a channel has brought, many at once.
//!
//! Separate because it sees all of a channel's unsettled deliveries: while the acknowledgements of some jobs are being
//! written, those of others gather, and one frame with `multiple` settles all that have no older one still in work. lapin
//! writes in a thread of its own, so a frame a job would wake that thread, and be waited for, a job at a time. It settles
//! nothing that it was not told to, and leaves in work what is in work.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::future::join_all;
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use lapin::types::DeliveryTag;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How settling ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Handed to the broker.
    Done,
    /// The session had ended: the broker will deliver the message again.
    Lost,
}

/// What the broker is told of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// To forget it.
    Ack,
    /// To deliver it again, and to count that.
    Requeue,
}

/// Settles the deliveries of one channel.
#[derive(Debug)]
pub(super) struct Acknowledger {
    unsettled: Arc<Unsettled>,
    told: mpsc::UnboundedSender<Told>,
}

/// A word that is to be passed on, and who waits until it is.
#[derive(Debug)]
struct Told {
    tag: DeliveryTag,
    acker: Acker,
    word: Word,
    answer: oneshot::Sender<Settled>,
}

impl Acknowledger {
    /// Works until it is dropped, or until the session has ended.
    pub(super) fn start(session: CancellationToken) -> Self {
        let (told, words) = mpsc::unbounded_channel();
        let unsettled = Arc::new(Unsettled::default());
        tokio::spawn(pass_on(words, unsettled.clone(), session));
        Self { unsettled, told }
    }

    /// Notes a delivery as it comes, in the order of the channel.
    pub(super) fn expect(&self, tag: DeliveryTag) {
        self.unsettled.expect(tag);
    }

    /// Settles a delivery. The answer comes once that is written.
    pub(super) fn settle(&self, tag: DeliveryTag, acker: Acker, word: Word) -> impl Future<Output = Settled> + use<> {
        let (answer, written) = oneshot::channel();
        let told = Told {
            tag,
            acker,
            word,
            answer,
        };
        // Where nobody listens any more the session has ended, and the answer goes with the word.
        let _ended = self.told.send(told);
        async move { written.await.unwrap_or(Settled::Lost) }
    }
}

impl Told {
    fn answer(self, settled: Settled) {
        // Nobody waits any more where the job was given up meanwhile.
        let _given_up = self.answer.send(settled);
    }
}

/// Passes words on, as many at once as have gathered.
async fn pass_on(mut words: mpsc::UnboundedReceiver<Told>, unsettled: Arc<Unsettled>, session: CancellationToken) {
    let mut batch = Vec::new();
    while words.recv_many(&mut batch, usize::from(u16::MAX)).await > 0 {
        // Whoever is about to settle now does, and goes with them.
        tokio::task::yield_now().await;
        while let Ok(told) = words.try_recv() {
            batch.push(told);
        }
        // For as long as the session lasts: an answer that is asked of lapin in the moment in which the connection breaks
        // may never come (seen with 4.12.3), and jobs would be in work for good.
        tokio::select! {
            biased;
            () = write(&mut batch, &unsettled) => {}
            () = session.cancelled() => return,
        }
    }
}

/// Writes a batch, and answers those that wait for it.
async fn write(batch: &mut Vec<Told>, unsettled: &Unsettled) {
    let open_from = unsettled.settle(batch.iter().map(|told| told.tag));
    let (acks, requeues): (Vec<_>, Vec<_>) = batch.drain(..).partition(|told| told.word == Word::Ack);
    // Before the acknowledgements, since the one with `multiple` may reach beyond them.
    join_all(requeues.into_iter().map(requeue)).await;
    let (together, alone): (Vec<_>, Vec<_>) = acks.into_iter().partition(|told| told.tag < open_from);
    tokio::join!(ack_up_to_last(together), join_all(alone.into_iter().map(ack)));
}

async fn requeue(told: Told) {
    let options = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    let written = told.acker.nack(options).await;
    told.answer(settled(&written));
}

async fn ack(told: Told) {
    let written = told.acker.ack(BasicAckOptions::default()).await;
    told.answer(settled(&written));
}

/// Acknowledges these, below which nothing is in work, with one frame.
async fn ack_up_to_last(together: Vec<Told>) {
    let Some(last) = together.iter().max_by_key(|told| told.tag) else {
        return;
    };
    let written = last.acker.ack(BasicAckOptions { multiple: true }).await;
    for told in together {
        told.answer(settled(&written));
    }
}

/// lapin says `Ok(false)` where the channel had gone.
fn settled(written: &lapin::Result<bool>) -> Settled {
    if matches!(written, Ok(true)) {
        Settled::Done
    } else {
        Settled::Lost
    }
}

/// The tags of a channel that the broker waits to hear of.
#[derive(Debug, Default)]
struct Unsettled(Mutex<BTreeSet<DeliveryTag>>);

impl Unsettled {
    fn expect(&self, tag: DeliveryTag) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(tag);
    }

    /// Takes tags out, and gives the one from which on others are in work.
    fn settle(&self, tags: impl Iterator<Item = DeliveryTag>) -> DeliveryTag {
        let mut unsettled = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tag in tags {
            unsettled.remove(&tag);
        }
        unsettled.first().copied().unwrap_or(DeliveryTag::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The broker's side of a channel: `multiple` settles everything up to a tag that it has to know.
        #[test]
        fn what_is_settled_together_leaves_in_work_what_is_in_work(
            steps in prop::collection::vec((0_u64..8, prop::collection::vec(0_usize..64, 0..8)), 1..40),
        ) {
            let unsettled = Unsettled::default();
            let (mut last, mut in_work, mut with_broker) = (0, BTreeSet::new(), BTreeSet::new());
            for (arrivals, settled) in steps {
                for tag in last + 1..=last + arrivals {
                    unsettled.expect(tag);
                    in_work.insert(tag);
                    with_broker.insert(tag);
                }
                last += arrivals;
                let batch: BTreeSet<DeliveryTag> = settled.iter().filter_map(|n| in_work.iter().nth(*n).copied()).collect();
                in_work.retain(|tag| !batch.contains(tag));

                let open_from = unsettled.settle(batch.iter().copied());
                let (together, alone): (Vec<_>, Vec<_>) = batch.iter().copied().partition(|tag| *tag < open_from);
                if let Some(up_to) = together.last() {
                    prop_assert!(with_broker.contains(up_to), "the broker closes the channel for a tag that it does not know");
                    with_broker.retain(|tag| tag > up_to);
                }
                for tag in &alone {
                    prop_assert!(with_broker.remove(tag));
                }
                prop_assert_eq!(&with_broker, &in_work);
            }
        }
    }
}
