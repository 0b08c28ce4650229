//! The checker: from what was published, shown, buried and said, to what was lost and what was wrong.
//!
//! Separate and pure so that it can be shown to fail: before the first row, forged evidence of every kind goes through it.
//! It asks nobody and waits for nothing.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

/// What is known at the end of a row. A job has one recipient, unless the row says otherwise, so it is delivered where its
/// card was shown.
#[derive(Debug, Default, Clone)]
pub(crate) struct Evidence {
    /// IDs that the broker confirmed.
    pub(crate) published: BTreeSet<String>,
    /// How often each job's card was shown, as the sandbox saw it.
    pub(crate) shown: BTreeMap<String, u64>,
    /// To how many the cards of a job are to be shown, where those are several. The others may be dead.
    pub(crate) several: BTreeMap<String, u64>,
    /// IDs in the dead letters, one a letter.
    pub(crate) dead: Vec<String>,
    /// IDs that may not be sent any more, and what the workers counted of such.
    pub(crate) late: BTreeSet<String>,
    pub(crate) expired: u64,
    /// Messages in any queue but the dead letters.
    pub(crate) left: BTreeMap<String, u64>,
    /// What the workers said: every line of each, and its metrics.
    pub(crate) said: Vec<String>,
    /// What they may never say.
    pub(crate) secrets: Vec<String>,
    /// Nor any of these, whole.
    pub(crate) mobiles: HashSet<String>,
    /// Cards shown again that the row allows.
    pub(crate) duplicates_allowed: u64,
    /// IDs that the row means to bury; no other may be.
    pub(crate) doomed: BTreeSet<String>,
    /// Whether a row may bury others too, for want of a queue.
    pub(crate) deaths_allowed: bool,
}

/// A row's line.
#[derive(Debug, Default, Clone)]
pub(crate) struct Verdict {
    pub(crate) published: usize,
    pub(crate) delivered: usize,
    pub(crate) dead: usize,
    pub(crate) expired: u64,
    pub(crate) left: u64,
    pub(crate) lost: usize,
    pub(crate) duplicates: u64,
    /// From the end of the fault to work going on.
    pub(crate) resume: Option<Duration>,
    pub(crate) took: Duration,
    /// Numbers worth telling, the row's own.
    pub(crate) notes: Vec<String>,
    /// What did not hold; none where all did.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    pub(crate) fn holds(&self) -> bool {
        self.wrong.is_empty()
    }
}

/// Judges what every row must keep.
pub(crate) fn judge(evidence: &Evidence) -> Verdict {
    let dead: BTreeSet<&String> = evidence.dead.iter().collect();
    let unaccounted: Vec<&String> = evidence
        .published
        .iter()
        .filter(|id| !evidence.shown.contains_key(*id) && !dead.contains(id))
        .collect();
    let missing: Vec<&String> = unaccounted
        .iter()
        .copied()
        .filter(|id| !evidence.late.contains(*id))
        .collect();
    let late_gone = unaccounted.len() - missing.len();
    let uncounted = late_gone.saturating_sub(usize::try_from(evidence.expired).unwrap_or(usize::MAX));
    let mut verdict = Verdict {
        published: evidence.published.len(),
        delivered: evidence.shown.len(),
        dead: evidence.dead.len(),
        expired: evidence.expired,
        left: evidence.left.values().sum(),
        lost: missing.len() + uncounted,
        duplicates: evidence
            .shown
            .iter()
            .map(|(id, count)| again(evidence, id, *count))
            .sum(),
        ..Verdict::default()
    };
    let mut wrong = Vec::new();
    let some = |ids: &[&String]| ids.iter().take(5).map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    if verdict.lost > 0 {
        wrong.push(format!("lost {}: {}", verdict.lost, some(&missing)));
    }
    if verdict.duplicates > evidence.duplicates_allowed {
        let more: Vec<&String> = evidence
            .shown
            .iter()
            .filter(|(id, count)| again(evidence, id, **count) > 0)
            .map(|(id, _)| id)
            .collect();
        wrong.push(format!(
            "{} cards shown again, {} allowed: {}",
            verdict.duplicates,
            evidence.duplicates_allowed,
            some(&more)
        ));
    }
    let shown = |id: &String| evidence.shown.get(id).copied().unwrap_or(0);
    let missed: Vec<&String> = evidence
        .several
        .iter()
        .filter(|(id, due)| shown(id) < **due)
        .map(|(id, _)| id)
        .collect();
    if !missed.is_empty() {
        wrong.push(format!("not shown to all of their recipients: {}", some(&missed)));
    }
    if verdict.left > 0 {
        wrong.push(format!("left in queues: {:?}", evidence.left));
    }
    let strangers: Vec<&String> = evidence
        .shown
        .keys()
        .filter(|id| !evidence.published.contains(*id) || evidence.late.contains(*id))
        .collect();
    if !strangers.is_empty() {
        wrong.push(format!("shown though not to be: {}", some(&strangers)));
    }
    let both: Vec<&String> = dead
        .iter()
        .copied()
        .filter(|id| evidence.shown.contains_key(*id) && !evidence.several.contains_key(*id))
        .collect();
    if !both.is_empty() {
        wrong.push(format!("both delivered and dead: {}", some(&both)));
    }
    let innocent: Vec<&String> = dead
        .iter()
        .copied()
        .filter(|id| !evidence.doomed.contains(*id))
        .collect();
    if !innocent.is_empty() && !evidence.deaths_allowed {
        wrong.push(format!(
            "dead {} that should not be: {}",
            innocent.len(),
            some(&innocent)
        ));
    }
    let alive: Vec<&String> = evidence.doomed.iter().filter(|id| !dead.contains(id)).collect();
    if !alive.is_empty() {
        wrong.push(format!("not dead though they should be: {}", some(&alive)));
    }
    if evidence.dead.len() > dead.len() {
        wrong.push(format!(
            "{} jobs have more than one dead letter",
            evidence.dead.len() - dead.len()
        ));
    }
    wrong.extend(leak(evidence));
    verdict.wrong = wrong;
    verdict
}

/// How often the card of a job was shown to somebody who had it.
fn again(evidence: &Evidence, id: &str, shown: u64) -> u64 {
    shown.saturating_sub(evidence.several.get(id).copied().unwrap_or(1))
}

/// The first line that shows what no line may, itself not repeated.
fn leak(evidence: &Evidence) -> Option<String> {
    evidence.said.iter().enumerate().find_map(|(number, line)| {
        let secret = evidence.secrets.iter().any(|secret| line.contains(secret.as_str()));
        let what = if secret {
            "a secret or a token"
        } else if shows_mobile(line, &evidence.mobiles) {
            "a whole mobile"
        } else {
            return None;
        };
        Some(format!("line {} of what the workers said shows {what}", number + 1))
    })
}

fn shows_mobile(line: &str, mobiles: &HashSet<String>) -> bool {
    line.split(|c: char| !c.is_ascii_digit())
        .filter(|run| run.len() >= 11)
        .any(|run| (0..=run.len() - 11).any(|at| run.get(at..at + 11).is_some_and(|eleven| mobiles.contains(eleven))))
}

type Forge = fn(&mut Evidence);

/// Puts forged evidence before the judge; an error names the forgery that went through.
pub(crate) fn can_fail() -> Result<usize, String> {
    let id = |n: u32| format!("j{n}");
    let sound = Evidence {
        published: (0..6).map(id).collect(),
        shown: (0..3).map(|n| (id(n), 1)).chain([(id(5), 7)]).collect(),
        several: [(id(5), 7)].into(),
        dead: vec![id(3)],
        doomed: [id(3)].into(),
        late: [id(4)].into(),
        expired: 1,
        said: vec!["delivered to 150****1231 token=****".to_owned()],
        secrets: vec!["sandbox-secret".to_owned()],
        mobiles: ["15012341231".to_owned()].into(),
        ..Evidence::default()
    };
    let honest = judge(&sound);
    if !honest.holds() {
        return Err(format!("sound evidence was refused: {:?}", honest.wrong));
    }
    let forgeries: [(&str, Forge); 13] = [
        ("a card taken away", |e| {
            e.shown.remove("j1");
        }),
        ("a dead letter taken away", |e| e.dead.clear()),
        ("an expired job not counted", |e| e.expired = 0),
        ("a card shown twice", |e| {
            e.shown.insert("j1".to_owned(), 2);
        }),
        ("a card shown to one more", |e| {
            e.shown.insert("j5".to_owned(), 8);
        }),
        ("a recipient left out", |e| {
            e.shown.insert("j5".to_owned(), 6);
        }),
        ("a late job shown", |e| {
            e.shown.insert("j4".to_owned(), 1);
        }),
        ("a card nobody asked for", |e| {
            e.shown.insert("j9".to_owned(), 1);
        }),
        ("an innocent buried", |e| e.dead.push("j2".to_owned())),
        ("a job buried twice", |e| e.dead.push("j3".to_owned())),
        ("a message left", |e| {
            e.left.insert("jobs".to_owned(), 1);
        }),
        ("a secret said", |e| e.said.push("appSecret=sandbox-secret".to_owned())),
        ("a mobile said", |e| e.said.push("user u15012341231 found".to_owned())),
    ];
    for (forgery, forge) in &forgeries {
        let mut forged = sound.clone();
        forge(&mut forged);
        if judge(&forged).holds() {
            return Err(format!("the checker did not notice {forgery}"));
        }
    }
    Ok(forgeries.len())
}
