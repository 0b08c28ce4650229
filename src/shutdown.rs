//! How work is told to stop, in two steps: take nothing more, then give up waiting.
//!
//! Separate because every part takes it as a parameter and none may own it. It listens to no signal itself (`cli` does)
//! and waits for nothing.

use tokio_util::sync::CancellationToken;

/// Both steps, to be cloned into whatever must hear of them.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    /// Take nothing more.
    soft: CancellationToken,
    /// Give up what is still in work.
    hard: CancellationToken,
}

impl Shutdown {
    /// Neither step taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Step one: nothing new is taken.
    pub fn drain(&self) {
        self.soft.cancel();
    }

    /// Step two, which includes step one: what is in work is given up.
    pub fn abort(&self) {
        self.soft.cancel();
        self.hard.cancel();
    }

    /// Whether step one was taken.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.soft.is_cancelled()
    }

    /// Ends when step one is taken.
    pub async fn draining(&self) {
        self.soft.cancelled().await;
    }

    /// Ends when step two is taken.
    pub async fn aborted(&self) {
        self.hard.cancelled().await;
    }
}
