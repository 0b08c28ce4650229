//! What the demo publishes, and what should become of it.
//!
//! Apart because a verdict is worth something only if the expectation was written down before anything ran. Data alone:
//! it publishes nothing and looks at nothing.

use serde_json::{Value, json};

/// The parameter of every card that names its job, so that a card can be found in the inbox and counted to its kind.
pub(crate) const JOB: &str = "job";

/// Jobs of one sort.
#[derive(Debug)]
pub(crate) struct Kind {
    /// Begins the ID of each of its jobs.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) title: &'static str,
    /// Bodies, as a producer writes them.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// How many cards should arrive.
    pub(crate) cards: u64,
    /// Why each of its jobs should end in the dead letters, if it should.
    pub(crate) dead: Option<&'static str>,
    /// How many of its recipients should fail.
    pub(crate) failed: u64,
    /// Whether `dingcard publish` would refuse it.
    pub(crate) malformed: bool,
}

impl Kind {
    pub(crate) fn jobs(&self) -> u64 {
        self.bodies.len() as u64
    }

    fn new(name: &'static str, title: &'static str, recipients: impl IntoIterator<Item = Vec<Value>>) -> Self {
        let mut cards = 0;
        let job = |(number, to): (u64, Vec<Value>)| {
            cards += to.len() as u64;
            let id = format!("{name}-{number:03}");
            let body = json!({"id": id, "to": to, "params": {
                JOB: id, "pv": 1000 + 7 * number, "users": 200 + 3 * number, "comments": 5 * number, "likes": 11 * number,
            }});
            body.to_string().into_bytes()
        };
        let bodies: Vec<_> = (1..).zip(recipients).map(job).collect();
        Self {
            name,
            title,
            bodies,
            cards,
            dead: None,
            failed: 0,
            malformed: false,
        }
    }

    /// The last recipient of each job is nobody's.
    fn with_one_unknown(mut self) -> Self {
        self.dead = Some("user_not_found");
        self.failed = self.jobs();
        self.cards -= self.failed;
        self
    }
}

/// Every kind. Mobiles that end in 0000 are nobody's in the sandbox.
pub(crate) fn kinds() -> Vec<Kind> {
    let known = |number: u64| json!({"mobile": format!("1501{:06}9", number)});
    let unknown = |number: u64| json!({"mobile": format!("1502{number:03}0000")});
    let user = |number: u64| json!({"user_id": format!("manager{number}")});
    let group = |number: u64| json!({"conversation": format!("cidTeam{number}==")});
    let several = |job: u64| (0..2 + job % 24).map(|n| known(1000 + 100 * job + n)).collect();
    let mixed = |job: u64| {
        vec![
            known(10_000 + job),
            known(11_000 + job),
            known(12_000 + job),
            unknown(job),
        ]
    };
    vec![
        Kind::new("single", "one mobile number", (0..200).map(|n| vec![known(n)])),
        Kind::new("several", "2 to 25 mobile numbers", (0..40).map(several)),
        Kind::new("user", "a user ID", (1..=30).map(|n| vec![user(n)])),
        Kind::new("group", "a group", (1..=10).map(|n| vec![group(n)])),
        Kind::new("mixed", "three known numbers and one unknown", (0..10).map(mixed)).with_one_unknown(),
        Kind::new("unknown", "an unknown number", (100..110).map(|n| vec![unknown(n)])).with_one_unknown(),
        malformed(),
    ]
}

fn malformed() -> Kind {
    let bodies: [&[u8]; 3] = [
        b"not JSON at all",
        br#"{"to": [{"mobile": "15012341231"}], "parms": {"pv": 1}}"#,
        br#"{"to": [{"mobile": "15012341231"}, {"mobile": ""}]}"#,
    ];
    Kind {
        name: "malformed",
        title: "a malformed message",
        bodies: bodies.map(<[u8]>::to_vec).into(),
        cards: 0,
        dead: Some("invalid_job"),
        failed: 0,
        malformed: true,
    }
}

/// The valid jobs as NDJSON, the kinds mixed as they would be in life.
pub(crate) fn ndjson(kinds: &[Kind]) -> Vec<u8> {
    let valid = kinds.iter().filter(|kind| !kind.malformed);
    let mut placed: Vec<_> = valid
        .flat_map(|kind| {
            kind.bodies
                .iter()
                .zip(0u64..)
                .map(|(body, at)| (at * 1000 / kind.jobs(), body))
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    placed
        .iter()
        .flat_map(|(_, body)| [body.as_slice(), b"\n"].concat())
        .collect()
}
