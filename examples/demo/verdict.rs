//! What became of each kind of job, and whether it should have.
//!
//! Apart because nothing here trusts the worker: the cards are counted at the sandbox, the dead letters in the broker, and
//! the worker's own metrics must then agree with both. It changes nothing and starts nothing.

use std::collections::BTreeMap;
use std::io;

use crate::http;
use crate::interrupt::Early;
use crate::jobs::{JOB, Kind};
use crate::stage::Stage;

/// Outcomes under which a job is settled for good.
const FINAL: [&str; 4] = ["delivered", "duplicate", "expired", "dead"];

/// Jobs settled for good, by outcome, as the worker counts them.
pub(crate) type Settled = BTreeMap<String, u64>;

/// Reads `/metrics`.
pub(crate) fn settled(worker_url: &str) -> io::Result<Settled> {
    let page = page(worker_url)?;
    let count = |outcome: &&str| {
        (
            (*outcome).to_owned(),
            counted(&page, "dingcard_jobs_total", &[("outcome", outcome)]),
        )
    };
    Ok(FINAL.iter().map(count).collect())
}

fn page(worker_url: &str) -> io::Result<String> {
    Ok(http::get(&format!("{worker_url}/metrics"))?.1)
}

/// Counters are whole numbers, far below 2^53.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn counted(page: &str, name: &str, labels: &[(&str, &str)]) -> u64 {
    http::metric(page, name, labels) as u64
}

/// What became of one kind.
#[derive(Debug, Default)]
struct Became {
    cards: u64,
    dead: BTreeMap<String, u64>,
}

/// A text, and whether what it tells is as it should be.
pub(crate) struct Check {
    pub(crate) text: String,
    pub(crate) good: bool,
    /// What should have been, where that is not plain from the text.
    pub(crate) instead: Option<String>,
}

/// The verdict.
pub(crate) struct Verdict {
    pub(crate) heading: String,
    /// One for each kind.
    pub(crate) rows: Vec<Check>,
    /// The worker's numbers against those of the others.
    pub(crate) sums: Vec<Check>,
}

impl Verdict {
    pub(crate) fn good(&self) -> bool {
        self.rows.iter().chain(&self.sums).all(|check| check.good)
    }

    /// Looks at all three.
    pub(crate) fn reach(kinds: &[Kind], stage: &Stage<'_>) -> Result<Self, Early> {
        let became = became(kinds, stage)?;
        let heading = row(["kind of job", "jobs", "cards", "dead letters"]);
        let rows = kinds
            .iter()
            .zip(&became)
            .map(|(kind, became)| judge(kind, became))
            .collect();
        let sums = compare(kinds, stage).map_err(Early::failed)?;
        Ok(Self { heading, rows, sums })
    }
}

fn row([title, jobs, cards, dead]: [&str; 4]) -> String {
    format!("{title:<38} {jobs:>4}  {cards:>5}  {dead:<19}")
}

fn judge(kind: &Kind, became: &Became) -> Check {
    let expected: BTreeMap<_, _> = kind
        .dead
        .map(|reason| (reason.to_owned(), kind.jobs()))
        .into_iter()
        .collect();
    let good = became.cards == kind.cards && became.dead == expected;
    let told = |dead: &BTreeMap<String, u64>| {
        let each: Vec<_> = dead.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        if each.is_empty() {
            "none".to_owned()
        } else {
            each.join(", ")
        }
    };
    let (jobs, cards) = (kind.jobs().to_string(), became.cards.to_string());
    let text = row([kind.title, &jobs, &cards, &told(&became.dead)]);
    let instead = (!good).then(|| format!("{} cards, dead letters: {}", kind.cards, told(&expected)));
    Check { text, good, instead }
}

/// Cards as the sandbox has them, dead letters as they lie in the broker.
fn became(kinds: &[Kind], stage: &Stage<'_>) -> Result<Vec<Became>, Early> {
    let mut became: Vec<_> = kinds.iter().map(|_| Became::default()).collect();
    let kind_of = |id: &str| {
        let name = id.split('-').next();
        kinds.iter().position(|kind| Some(kind.name) == name)
    };
    for (id, count) in cards(&stage.sandbox_url).map_err(Early::failed)? {
        if let Some(became) = kind_of(&id).and_then(|at| became.get_mut(at)) {
            became.cards += count;
        }
    }
    for letter in stage.home.dead_letters()? {
        if let Some(became) = kind_of(&letter.id).and_then(|at| became.get_mut(at)) {
            *became.dead.entry(letter.reason).or_default() += 1;
        }
    }
    Ok(became)
}

/// Each card's job and how many recipients it was shown to.
fn cards(sandbox_url: &str) -> io::Result<Vec<(String, u64)>> {
    let mut cards = Vec::new();
    loop {
        let offset = cards.len();
        let page = http::get_json(&format!("{sandbox_url}/sandbox/cards?limit=1000&offset={offset}"))?;
        let some = page["cards"].as_array().map(Vec::as_slice).unwrap_or_default();
        if some.is_empty() {
            return Ok(cards);
        }
        cards.extend(some.iter().map(|card| {
            let id = card["params"][JOB].as_str().unwrap_or_default();
            (id.to_owned(), card["delivery_count"].as_u64().unwrap_or_default())
        }));
    }
}

fn compare(kinds: &[Kind], stage: &Stage<'_>) -> io::Result<Vec<Check>> {
    let page = page(&stage.worker_url)?;
    let calls = http::get_json(&format!("{}/sandbox/calls", stage.sandbox_url))?;
    let at_sandbox = |key: &str| calls["deliveries"][key].as_u64().unwrap_or_default();
    let sum = |count: fn(&Kind) -> u64| kinds.iter().map(count).sum::<u64>();
    let dead_jobs = sum(|kind| if kind.dead.is_some() { kind.jobs() } else { 0 });
    let jobs = |outcome| counted(&page, "dingcard_jobs_total", &[("outcome", outcome)]);
    let recipients = |outcome| counted(&page, "dingcard_recipients_total", &[("outcome", outcome)]);
    let letters = counted(&page, "dingcard_dead_letters_total", &[]);

    let (delivered, dead) = (recipients("delivered"), recipients("dead"));
    let worker = Check {
        text: format!(
            "the worker's metrics: {} jobs delivered, {} dead; {delivered} recipients delivered, {dead} dead",
            jobs("delivered"),
            jobs("dead")
        ),
        good: jobs("delivered") == sum(Kind::jobs) - dead_jobs
            && jobs("dead") == dead_jobs
            && letters == dead_jobs
            && delivered == sum(|kind| kind.cards)
            && dead == sum(|kind| kind.failed),
        instead: None,
    };
    let (total, twice) = (at_sandbox("total"), at_sandbox("duplicates"));
    let sandbox = Check {
        text: format!(
            "the sandbox's own count: {total} cards shown, {} of them twice, in {} calls (look-ups of users included)",
            if twice == 0 {
                "none".to_owned()
            } else {
                twice.to_string()
            },
            calls["total"]
        ),
        good: total == delivered && twice == 0,
        instead: None,
    };
    Ok(vec![worker, sandbox])
}
