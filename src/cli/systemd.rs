//! Telling systemd what the worker does, where it asks to be told (`NOTIFY_SOCKET`, `sd_notify(3)`).
//!
//! Separate because it is one audience of what `health` knows, as `admin` is another. Without that variable nothing is sent.
//! A worker is ready once it consumes; whoever makes systemd wait for that (`Type=notify`) makes its start fail while the
//! broker is away, which is why the unit of `deploy/systemd` does not.

use sd_notify::NotifyState;

use crate::health::{Health, Report};

/// Tells of each change, without end.
pub(super) async fn follow(health: &Health) {
    health
        .follow(|report| {
            let status = status(report);
            let mut states = vec![NotifyState::Status(&status)];
            if report.draining {
                states.push(NotifyState::Stopping);
            } else if report.reasons.is_empty() {
                states.push(NotifyState::Ready);
            }
            tell(&states);
        })
        .await;
}

/// The configuration is about to be read anew.
pub(super) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// It was, or is as it was.
pub(super) fn reloaded() {
    tell(&[NotifyState::Ready]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd could not be told");
    }
}

/// A line for `systemctl status`.
fn status(report: &Report) -> String {
    let state = if report.reasons.is_empty() {
        "consuming".to_owned()
    } else {
        report.reasons.join("; ")
    };
    let holds = report
        .holds
        .iter()
        .map(|(app, reason)| format!("; {app} is on hold: {reason}"));
    std::iter::once(state).chain(holds).collect()
}
