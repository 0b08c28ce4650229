//! Ctrl-C, a `kill` and a closed terminal, as something that every wait of the demo ends with.
//!
//! Apart because the demo must clean up wherever it is interrupted: it never waits but through here, and learns of the
//! signal as an error that unwinds to the values which own the processes. It ends nothing itself.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Why the demo ends before its time.
#[derive(Debug)]
pub(crate) enum Early {
    /// Somebody wants it to.
    Interrupted,
    /// It cannot go on.
    Failed(String),
}

impl Early {
    pub(crate) fn failed(why: impl Into<Box<dyn std::error::Error>>) -> Self {
        Self::Failed(why.into().to_string())
    }
}

/// Whether a signal has come.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<(Mutex<bool>, Condvar)>);

impl Interrupt {
    /// From here on SIGINT, SIGTERM and SIGHUP end waits, and no longer the process.
    pub(crate) fn listen(runtime: &Runtime) -> std::io::Result<Self> {
        let interrupt = Self(Arc::new((Mutex::new(false), Condvar::new())));
        let _inside = runtime.enter();
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind)?;
            let interrupt = interrupt.clone();
            runtime.spawn(async move {
                while signals.recv().await.is_some() {
                    *interrupt.came() = true;
                    interrupt.0.1.notify_all();
                }
            });
        }
        Ok(interrupt)
    }

    /// An error once a signal has come.
    pub(crate) fn check(&self) -> Result<(), Early> {
        if *self.came() { Err(Early::Interrupted) } else { Ok(()) }
    }

    /// Waits so long, or until a signal.
    pub(crate) fn sleep(&self, time: Duration) -> Result<(), Early> {
        let (_, signal) = &*self.0;
        let woken = signal.wait_timeout_while(self.came(), time, |came| !*came);
        drop(woken.unwrap_or_else(PoisonError::into_inner));
        self.check()
    }

    /// Asks `done` again and again until it has an answer, for at most `patience`; without one, `Ok(None)`.
    pub(crate) fn until<T>(
        &self,
        patience: Duration,
        mut done: impl FnMut() -> Result<Option<T>, Early>,
    ) -> Result<Option<T>, Early> {
        let deadline = Instant::now() + patience;
        loop {
            self.check()?;
            if let Some(answer) = done()? {
                return Ok(Some(answer));
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
            self.sleep(Duration::from_millis(50))?;
        }
    }

    fn came(&self) -> MutexGuard<'_, bool> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
