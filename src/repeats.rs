//! Log lines that repeat: of each kind the first of every ten seconds are written, and then how many more there were.
//!
//! Separate because a fault that strikes thousands of jobs would else write thousands of lines, from several parts, and each
//! line alone says all there is to know. It counts lines and nothing else: metrics and dead letters have every job. At level
//! `debug` every line is written.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing::Level;

use crate::outcome::Reason;

/// Lines of one kind in a window that are written in full.
const IN_FULL: u64 = 20;
/// From the first line of a kind to its summary.
const WINDOW: Duration = Duration::from_secs(10);

/// The lines that were written lately, by kind; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Repeats(Arc<Windows>);

#[derive(Debug, Default)]
struct Windows(Mutex<HashMap<Kind, u64>>);

/// What makes lines alike: all of closed sets, so there are not many.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Kind {
    event: &'static str,
    level: Level,
    app: String,
    reason: Reason,
}

impl Repeats {
    /// Calls `line`, which writes one at `level`, unless too many of its kind were written already: then it counts as one
    /// more in the summary. To be called within a runtime.
    pub fn write(&self, level: Level, event: &'static str, app: &str, reason: Reason, line: impl FnOnce()) {
        if tracing::enabled!(Level::DEBUG) {
            return line();
        }
        let kind = Kind {
            event,
            level,
            app: app.to_owned(),
            reason,
        };
        let count = match self.0.windows().entry(kind) {
            Entry::Occupied(mut window) => {
                *window.get_mut() += 1;
                *window.get()
            }
            Entry::Vacant(window) => {
                let kind = window.key().clone();
                let windows = Arc::downgrade(&self.0);
                tokio::spawn(async move {
                    tokio::time::sleep(WINDOW).await;
                    if let Some(windows) = windows.upgrade() {
                        let count = windows.windows().remove(&kind);
                        kind.sum_up(count.unwrap_or_default());
                    }
                });
                *window.insert(1)
            }
        };
        if count <= IN_FULL {
            line();
        }
    }
}

impl Windows {
    fn windows(&self) -> MutexGuard<'_, HashMap<Kind, u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A worker that ends leaves nothing untold.
impl Drop for Windows {
    fn drop(&mut self) {
        for (kind, count) in self.windows().drain() {
            kind.sum_up(count);
        }
    }
}

impl Kind {
    fn sum_up(&self, count: u64) {
        let Some(more) = count.checked_sub(IN_FULL).filter(|more| *more > 0) else {
            return;
        };
        let Self { event, app, reason, .. } = self;
        let within = WINDOW.as_secs();
        if self.level == Level::WARN {
            tracing::warn!(app, %reason, more, "{event}: {more} more lines like this within {within} s");
        } else {
            tracing::info!(app, %reason, more, "{event}: {more} more lines like this within {within} s");
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use super::*;

    /// What was logged, with the lines of this thread.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Log {
        fn begin(&self, level: Level) -> tracing::subscriber::DefaultGuard {
            let log = self.clone();
            let writer = move || log.clone();
            let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(writer);
            tracing::subscriber::set_default(subscriber.with_ansi(false).finish())
        }

        fn lines_with(&self, text: &str) -> usize {
            let log = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            log.lines().filter(|line| line.contains(text)).count()
        }
    }

    fn write(repeats: &Repeats, times: u64, app: &str, reason: Reason) {
        for _ in 0..times {
            repeats.write(Level::WARN, "dead", app, reason, || tracing::warn!(app, "in full"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_of_a_kind_are_written_then_a_sum_and_then_it_begins_anew() {
        let (log, repeats) = (Log::default(), Repeats::default());
        let _log = log.begin(Level::INFO);
        write(&repeats, 25, "default", Reason::UserNotFound);
        write(&repeats, 21, "default", Reason::ContentRefused);
        write(&repeats, 20, "sales", Reason::UserNotFound);
        assert_eq!((log.lines_with("in full"), log.lines_with("more")), (60, 0));
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!(log.lines_with("more"), 2);
        assert_eq!(log.lines_with("dead: 5 more lines like this within 10 s"), 1);
        assert_eq!(log.lines_with("dead: 1 more"), 1);
        write(&repeats, 1, "default", Reason::UserNotFound);
        assert_eq!(log.lines_with("in full"), 61);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_summed_up_yet_is_so_at_the_end() {
        let (log, repeats) = (Log::default(), Repeats::default());
        let _log = log.begin(Level::INFO);
        write(&repeats, 23, "default", Reason::UserNotFound);
        drop(repeats);
        assert_eq!(log.lines_with("dead: 3 more"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_looks_closer_sees_every_line() {
        let (log, repeats) = (Log::default(), Repeats::default());
        let _log = log.begin(Level::DEBUG);
        write(&repeats, 25, "default", Reason::UserNotFound);
        tokio::time::sleep(2 * WINDOW).await;
        assert_eq!((log.lines_with("in full"), log.lines_with("more")), (25, 0));
    }
}
