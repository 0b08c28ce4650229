//! What the fault run shows: a line as each row ends, a line that moves on a terminal, and the table at the end.
//!
//! Separate so that no row prints. It changes no number.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::seconds;
use crate::stage::Progress;
use crate::verdict::Verdict;

/// Names of rows, and how far each has come.
type Playing = Arc<Mutex<Vec<(&'static str, Arc<Progress>)>>>;

/// The rows that are being played.
pub(crate) struct Board {
    bar: ProgressBar,
    playing: Playing,
    markdown: bool,
}

impl Board {
    /// With `markdown`, each row's line of the table is printed as it ends: a run that breaks off loses nothing.
    pub(crate) fn new(rows: usize, markdown: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(rows as u64), ProgressDrawTarget::stderr());
        let playing: Playing = Arc::default();
        let shown = playing.clone();
        let style = ProgressStyle::with_template("{spinner} {pos} of {len} rows, {elapsed}: {now}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .with_key(
                "now",
                move |_: &indicatif::ProgressState, to: &mut dyn std::fmt::Write| {
                    let playing = shown.lock().unwrap_or_else(PoisonError::into_inner);
                    let one = |(name, progress): &(&str, Arc<Progress>)| {
                        let (delivered, published) = (&progress.delivered, &progress.published);
                        let of = (delivered.load(Ordering::Relaxed), published.load(Ordering::Relaxed));
                        format!("{name} {}/{}", of.0, of.1)
                    };
                    let _lost = to.write_str(&playing.iter().map(one).collect::<Vec<_>>().join(", "));
                },
            );
        bar.set_style(style);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, playing, markdown }
    }

    pub(crate) fn begin(&self, name: &'static str, progress: &Arc<Progress>) {
        let mut playing = self.playing.lock().unwrap_or_else(PoisonError::into_inner);
        playing.push((name, progress.clone()));
    }

    /// A row's line, and the log where it did not hold.
    pub(crate) fn end(&self, name: &str, verdict: &Verdict, log: Option<&str>) {
        let mut playing = self.playing.lock().unwrap_or_else(PoisonError::into_inner);
        playing.retain(|(playing, _)| *playing != name);
        drop(playing);
        self.bar.inc(1);
        self.bar.suspend(|| {
            println!("{}", line(name, verdict));
            if self.markdown {
                println!("| {} |", cells(name, verdict).join(" | "));
            }
            for wrong in &verdict.wrong {
                println!("  NOT HELD: {wrong}");
            }
            if let Some(log) = log {
                println!("  the last that its workers said:\n{log}");
            }
        });
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(name: &str, v: &Verdict) -> String {
    let resume = v.resume.map_or_else(|| "-".to_owned(), seconds);
    let notes = if v.notes.is_empty() {
        String::new()
    } else {
        format!("; {}", v.notes.join("; "))
    };
    format!(
        "{name:<20} {}: published {}, delivered {}, dead {}, expired {}, left {}, lost {}, duplicates {}, resume {resume}, took {}{notes}",
        if v.holds() { "ok" } else { "NOT HELD" },
        v.published,
        v.delivered,
        v.dead,
        v.expired,
        v.left,
        v.lost,
        v.duplicates,
        seconds(v.took),
    )
}

/// A row of the table.
fn cells(name: &str, v: &Verdict) -> Vec<String> {
    let numbers = [
        v.published as u64,
        v.delivered as u64,
        v.dead as u64,
        v.expired,
        v.left,
        v.lost as u64,
        v.duplicates,
    ];
    let mut cells = vec![name.to_owned()];
    cells.extend(numbers.map(|n| n.to_string()));
    cells.push(v.resume.map_or_else(|| "-".to_owned(), seconds));
    cells.push(if v.holds() { "yes" } else { "NO" }.to_owned());
    cells
}

/// All rows.
pub(crate) fn table(rows: &[(&str, &Verdict)], markdown: bool) -> String {
    let head = [
        "row",
        "published",
        "delivered",
        "dead",
        "expired",
        "left",
        "lost",
        "duplicates",
        "resume",
        "held",
    ];
    let mut lines: Vec<Vec<String>> = vec![head.map(str::to_owned).to_vec()];
    lines.extend(rows.iter().map(|(name, verdict)| cells(name, verdict)));
    laid_out(&lines, markdown)
}

/// What each row measured.
pub(crate) fn measured(rows: &[(&str, &Verdict)], markdown: bool) -> String {
    let cells = |name: &str, measured: String, held: &str| vec![name.to_owned(), measured, held.to_owned()];
    let mut lines = vec![cells("row", "measured".to_owned(), "held")];
    for (name, v) in rows {
        let held = if v.holds() { "yes" } else { "NO" };
        lines.push(cells(name, v.notes.join("; "), held));
    }
    laid_out(&lines, markdown)
}

/// The first line is the head; numbers, which are all but the first column, stand on the right.
fn laid_out(lines: &[Vec<String>], markdown: bool) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        let cells = lines.iter().filter_map(|cells| cells.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let padded = |cells: &Vec<String>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(n, (cell, width))| {
            if n == 0 {
                format!("{cell:<width$}")
            } else {
                format!("{cell:>width$}")
            }
        });
        padded.collect::<Vec<_>>()
    };
    let mut printed = Vec::new();
    for (number, cells) in lines.iter().map(padded).enumerate() {
        if !markdown {
            printed.push(cells.join("  "));
            continue;
        }
        printed.push(format!("| {} |", cells.join(" | ")));
        if number == 0 {
            let rules = widths.iter().enumerate().map(|(n, width)| {
                let rule = "-".repeat(width.saturating_sub(1).max(2));
                if n == 0 { format!("{rule}-") } else { format!("{rule}:") }
            });
            printed.push(format!("| {} |", rules.collect::<Vec<_>>().join(" | ")));
        }
    }
    printed.join("\n") + "\n"
}
