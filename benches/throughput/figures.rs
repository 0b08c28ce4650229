//! The figures: what of the rows is shown, beside what, and which goal it has.
//!
//! Separate from measuring, so that a goal cannot bend what is measured. Of several rounds the median counts.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Measured values by what they are of.
#[derive(Default)]
pub(crate) struct Results(BTreeMap<String, Vec<f64>>);

impl Results {
    pub(crate) fn note(&mut self, what: &str, value: f64) {
        self.0.entry(what.to_owned()).or_default().push(value);
    }

    /// The median.
    pub(crate) fn of(&self, what: &str) -> Option<f64> {
        let mut values = self.0.get(what)?.clone();
        values.sort_by(f64::total_cmp);
        let (low, high) = (values.get((values.len() - 1) / 2)?, values.get(values.len() / 2)?);
        Some(f64::midpoint(*low, *high))
    }
}

/// What a figure should be.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    RatioAtMost(f64),
    RatioAtLeast(f64),
    None,
}

/// What a job may cost more where there is more work; less is no fault.
const GROWTH: f64 = 1.15;

struct Figure {
    text: &'static str,
    unit: &'static str,
    /// Results: of the worker, and what stands beside it.
    of: &'static str,
    beside: Option<(&'static str, &'static str)>,
    goal: Goal,
}

const fn beside_floor(
    text: &'static str,
    unit: &'static str,
    of: &'static str,
    floor: &'static str,
    goal: Goal,
) -> Figure {
    Figure {
        text,
        unit,
        of,
        beside: Some(("floor", floor)),
        goal,
    }
}

const fn alone(text: &'static str, unit: &'static str, of: &'static str, goal: Goal) -> Figure {
    Figure {
        text,
        unit,
        of,
        beside: None,
        goal,
    }
}

const FIGURES: &[Figure] = &[
    beside_floor(
        "CPU a job, instant server, 64 in work",
        "µs",
        "worker-64-cpu",
        "floor-64-cpu",
        Goal::RatioAtMost(1.35),
    ),
    beside_floor(
        "CPU a job, instant server, 256 in work",
        "µs",
        "worker-256-cpu",
        "floor-256-cpu",
        Goal::RatioAtMost(1.35),
    ),
    beside_floor(
        "the same with Redis, 64 in work",
        "µs",
        "redis-64-cpu",
        "floor-64-cpu",
        Goal::RatioAtMost(2.0),
    ),
    beside_floor(
        "the same with Redis, 256 in work",
        "µs",
        "redis-256-cpu",
        "floor-256-cpu",
        Goal::RatioAtMost(2.0),
    ),
    beside_floor(
        "the floor itself on two threads, 64 in work",
        "µs",
        "floor-2-threads-64-cpu",
        "floor-64-cpu",
        Goal::None,
    ),
    beside_floor(
        "the floor itself on two threads, 256 in work",
        "µs",
        "floor-2-threads-256-cpu",
        "floor-256-cpu",
        Goal::None,
    ),
    beside_floor(
        "CPU a job, 50 ms server, 256 in work",
        "µs",
        "worker-slow-cpu",
        "floor-slow-cpu",
        Goal::None,
    ),
    beside_floor(
        "the same with Redis",
        "µs",
        "redis-slow-cpu",
        "floor-slow-cpu",
        Goal::None,
    ),
    beside_floor(
        "jobs/s, 50 ms server, 256 in work",
        "",
        "worker-slow-rate",
        "floor-slow-rate",
        Goal::RatioAtLeast(0.97),
    ),
    beside_floor(
        "jobs/s, instant server, 64 in work",
        "",
        "worker-64-rate",
        "floor-64-rate",
        Goal::RatioAtLeast(0.75),
    ),
    beside_floor(
        "jobs/s, instant server, 256 in work",
        "",
        "worker-256-rate",
        "floor-256-rate",
        Goal::RatioAtLeast(0.75),
    ),
    beside_floor(
        "publish to call, 500 jobs/s, p50",
        "ms",
        "worker-p50",
        "floor-p50",
        Goal::AtMost(5.0),
    ),
    beside_floor(
        "publish to call, 500 jobs/s, p99",
        "ms",
        "worker-p99",
        "floor-p99",
        Goal::AtMost(25.0),
    ),
    alone("start to first card", "ms", "start", Goal::AtMost(300.0)),
    alone(
        "calls a card, 20 recipients a job, warm cache",
        "",
        "calls",
        Goal::AtMost(0.05),
    ),
    Figure {
        text: "CPU a job, 100,000 users in the cache",
        unit: "µs",
        of: "users-many",
        beside: Some(("1,000", "users-few")),
        goal: Goal::RatioAtMost(GROWTH),
    },
    Figure {
        text: "CPU a job, 50 apps, 250 in work in all",
        unit: "µs",
        of: "apps-many",
        beside: Some(("1 app", "apps-few")),
        goal: Goal::RatioAtMost(GROWTH),
    },
    Figure {
        text: "CPU a job, 1,000,000 jobs waiting",
        unit: "µs",
        of: "backlog-many",
        beside: Some(("10", "backlog-few")),
        goal: Goal::RatioAtMost(GROWTH),
    },
    Figure {
        text: "jobs/s of 3 workers, 50 ms server, 64 in work each",
        unit: "",
        of: "workers-three",
        beside: Some(("1 worker", "workers-one")),
        goal: Goal::RatioAtLeast(2.9),
    },
    alone(
        "the broker's CPU a job that it delivers",
        "µs",
        "broker-deliver",
        Goal::None,
    ),
    alone(
        "the broker's CPU a job that is published",
        "µs",
        "broker-publish",
        Goal::None,
    ),
    alone("Redis's CPU a job", "µs", "redis-server", Goal::None),
    alone(
        "resident memory, 256 in work, after 1,000,000 jobs",
        "MiB",
        "memory",
        Goal::AtMost(64.0),
    ),
    Figure {
        text: "the same beside that after half of them",
        unit: "MiB",
        of: "memory",
        beside: Some(("half", "memory-half")),
        goal: Goal::RatioAtMost(1.05),
    },
];

impl Goal {
    fn text(self) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit}"),
            Self::RatioAtMost(limit) => format!("≤ {limit:.2} ×"),
            Self::RatioAtLeast(limit) => format!("≥ {limit:.2} ×"),
            Self::None => String::new(),
        }
    }

    fn is_met(self, value: f64, ratio: Option<f64>) -> Option<bool> {
        match self {
            Self::AtMost(limit) => Some(value <= limit),
            Self::RatioAtMost(limit) => Some(ratio? <= limit),
            Self::RatioAtLeast(limit) => Some(ratio? >= limit),
            Self::None => None,
        }
    }
}

/// The figures of whatever was measured, as Markdown or aligned; `judged` by their goals, or not.
pub(crate) fn table(results: &Results, markdown: bool, judged: bool) -> String {
    let mut lines = vec![["figure", "beside", "dingcard", "ratio", "goal", "met"].map(str::to_owned)];
    for figure in FIGURES {
        let Some(value) = results.of(figure.of) else { continue };
        let beside = figure.beside.and_then(|(name, what)| Some((name, results.of(what)?)));
        let ratio = beside.map(|(_, beside)| value / beside);
        lines.push([
            figure.text.to_owned(),
            beside.map_or_else(String::new, |(name, beside)| {
                format!("{name}: {}", shown(beside, figure.unit))
            }),
            shown(value, figure.unit),
            ratio.map_or_else(String::new, |ratio| format!("{ratio:.2} ×")),
            figure.goal.text(),
            figure
                .goal
                .is_met(value, ratio)
                .filter(|_| judged)
                .map_or("", |met| if met { "yes" } else { "no" })
                .to_owned(),
        ]);
    }
    let widths: [usize; 6] =
        std::array::from_fn(|n| lines.iter().map(|line| line[n].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for (place, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        let row = if markdown {
            format!("| {} |", cells.join(" | "))
        } else {
            cells.join("  ")
        };
        let _written = writeln!(text, "{}", row.trim_end());
        if markdown && place == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _written = writeln!(text, "| {} |", rule.join(" | "));
        }
    }
    text
}

fn shown(value: f64, unit: &str) -> String {
    let number = if value >= 1000.0 {
        let rounded = format!("{value:.0}");
        let (head, tail) = rounded.split_at(rounded.len() - 3);
        format!("{head},{tail}")
    } else if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    };
    format!("{number} {unit}").trim_end().to_owned()
}
