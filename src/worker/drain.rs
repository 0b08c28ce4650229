//! The end of a worker: what is in work may finish, and what is left is reported.
//!
//! Separate because it is the one place that waits for a time to pass. It settles nothing; what it gives up, the broker
//! delivers to somebody else.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use crate::shutdown::Shutdown;

/// How a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// Jobs that were in work when it began.
    pub begun_with: usize,
    /// Jobs that were given back unfinished.
    pub given_back: usize,
}

/// Waits until `jobs` are settled, at most `grace`, then gives up the rest.
pub async fn drain(jobs: &TaskTracker, grace: Duration, shutdown: &Shutdown) -> Left {
    let begun_with = jobs.len();
    jobs.close();
    let in_time = tokio::time::timeout(grace, jobs.wait()).await.is_ok();
    let given_back = if in_time { 0 } else { jobs.len() };
    shutdown.abort();
    jobs.wait().await;
    Left { begun_with, given_back }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_finishes_within_the_grace_is_not_given_back_and_what_does_not_is() {
        let (jobs, shutdown) = (TaskTracker::new(), Shutdown::new());
        let patient = shutdown.clone();
        jobs.spawn(tokio::time::sleep(Duration::from_secs(1)));
        jobs.spawn(async move { patient.aborted().await });
        let left = drain(&jobs, Duration::from_secs(5), &shutdown).await;
        assert_eq!(
            left,
            Left {
                begun_with: 2,
                given_back: 1
            }
        );
        assert!(jobs.is_empty());
    }
}
