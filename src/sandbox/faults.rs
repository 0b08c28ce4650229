//! Trouble on order: what goes wrong, for which calls, how often.
//!
//! A fault is data that a test puts here over HTTP; this file reads it, and draws for each call which
//! faults strike it. It carries nothing out itself: `kinds` says what a fault does, and `api` waits, throttles, answers
//! and cuts as the plan says. Draws come from a seeded generator, so a sequence of calls meets the same faults each time.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Slowness};
use super::endpoint::Endpoint;
use super::kinds::Kind;

/// One fault: which calls it is for, and what it does to them.
#[derive(Debug, Clone, Serialize)]
struct Fault {
    #[serde(flatten)]
    scope: Scope,
    #[serde(flatten)]
    kind: Kind,
}

/// Which calls. What is absent does not restrict; `next` counts how often it still strikes.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default)]
struct Scope {
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    app: Option<String>,
    /// A user ID, a mobile or a conversation that the call names.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probability: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

const SCOPE: [&str; 5] = ["endpoint", "app", "recipient", "probability", "next"];

/// What is to happen to one call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Before anything else.
    pub(super) wait: Duration,
    /// The caller's token ends before the call is looked at.
    pub(super) expire: bool,
    /// Another rate than the settings'; 0 is no limit.
    pub(super) rate: Option<u32>,
    /// Given instead of the true answer.
    pub(super) answer: Option<Answer>,
    /// Whether the call is carried out although `answer` is given.
    pub(super) taken: bool,
    /// How slowly the answer's body comes.
    pub(super) slow: Slowness,
    /// Deliveries that fail: the space (all, where there is none) and the message.
    pub(super) failing: Vec<(Option<String>, String)>,
}

/// The faults in force.
pub(super) struct Faults {
    list: Vec<Fault>,
    seed: u64,
    rng: StdRng,
}

impl Default for Faults {
    fn default() -> Self {
        Self::with(Vec::new(), rand::random())
    }
}

impl Faults {
    /// Reads `{"faults":[..],"seed":n}`. The error names the fault that is wrong. Also tells which tokens end at
    /// once: of these apps, where `None` is all.
    pub(super) fn read(input: &Value, known_app: impl Fn(&str) -> bool) -> Result<(Self, Vec<Option<String>>), String> {
        let input = input.as_object().ok_or("not a JSON object")?;
        if let Some(key) = input.keys().find(|key| !["faults", "seed"].contains(&key.as_str())) {
            return Err(format!("unknown key `{key}`, expected `faults` or `seed`"));
        }
        let seed = match input.get("seed") {
            None | Some(Value::Null) => rand::random(),
            Some(seed) => seed.as_u64().ok_or("seed: not a whole number of 0 or more")?,
        };
        let faults = input
            .get("faults")
            .and_then(Value::as_array)
            .ok_or("faults: not a list")?;
        let (mut list, mut ended) = (Vec::new(), Vec::new());
        for (n, fault) in faults.iter().enumerate() {
            let fault = Fault::read(fault, &known_app).map_err(|error| format!("faults[{n}]: {error}"))?;
            match fault {
                Fault {
                    kind: Kind::ExpireTokens {},
                    scope:
                        Scope {
                            app,
                            next: None,
                            recipient: None,
                            probability: None,
                            ..
                        },
                } => {
                    ended.push(app);
                }
                fault => list.push(fault),
            }
        }
        Ok((Self::with(list, seed), ended))
    }

    /// The faults in force, with what is left of each `next`; the input of [`Faults::read`] again.
    pub(super) fn to_json(&self) -> Value {
        json!({"faults": self.list, "seed": self.seed})
    }

    /// Whether there is any.
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Draws what happens to a call. Of several faults that answer, the first one in the list does. `names` tells
    /// whether the call names a recipient.
    pub(super) fn plan(&mut self, endpoint: Endpoint, app_key: Option<&str>, names: impl Fn(&str) -> bool) -> Plan {
        let mut plan = Plan::default();
        for fault in &mut self.list {
            let scope = &mut fault.scope;
            let matches = scope.endpoint.as_deref().is_none_or(|name| name == endpoint.name())
                && scope.app.as_deref().is_none_or(|app| Some(app) == app_key)
                && scope.recipient.as_deref().is_none_or(&names);
            let matches = matches && fault.kind.reaches(endpoint);
            if !matches || (plan.answer.is_some() && fault.kind.answers()) {
                continue;
            }
            if scope.probability.is_some_and(|p| !self.rng.random_bool(p)) {
                continue;
            }
            if let Some(next) = &mut scope.next {
                *next = next.saturating_sub(1);
            }
            fault.kind.strike(endpoint, &mut plan, &mut self.rng);
        }
        self.list.retain(|fault| fault.scope.next != Some(0));
        plan
    }

    fn with(list: Vec<Fault>, seed: u64) -> Self {
        Self {
            list,
            seed,
            rng: StdRng::seed_from_u64(seed),
        }
    }
}

impl Fault {
    fn read(input: &Value, known_app: impl Fn(&str) -> bool) -> Result<Self, String> {
        let input = input.as_object().ok_or("not a JSON object")?.clone();
        // Null is how a client with a fixed shape says "absent".
        let input = input.into_iter().filter(|(_, value)| !value.is_null());
        let (scope, kind): (Map<_, _>, Map<_, _>) = input.partition(|(key, _)| SCOPE.contains(&key.as_str()));
        let scope: Scope = serde_json::from_value(scope.into()).map_err(|error| error.to_string())?;
        let kind: Kind = serde_json::from_value(kind.into()).map_err(|error| error.to_string())?;
        scope.check(known_app)?;
        kind.check(scope.next.is_some() || scope.probability.is_some())?;
        Ok(Self { scope, kind })
    }
}

impl Scope {
    fn check(&self, known_app: impl Fn(&str) -> bool) -> Result<(), String> {
        let names = Endpoint::ALL.map(Endpoint::name);
        match self {
            Self {
                endpoint: Some(name), ..
            } if !names.contains(&name.as_str()) => {
                Err(format!("endpoint: no `{name}`, there are {}", names.join(", ")))
            }
            Self { app: Some(app), .. } if !known_app(app) => Err(format!("app: no app has the key `{app}`")),
            Self {
                probability: Some(p), ..
            } if !(0.0..=1.0).contains(p) => Err("probability: not between 0 and 1".to_owned()),
            Self { next: Some(0), .. } => Err("next: 0 calls are no fault".to_owned()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]
mod tests {
    use super::*;

    fn faults(input: Value) -> Faults {
        Faults::read(&input, |app| app == "a")
            .map_err(|error| format!("{error} in {input}"))
            .unwrap()
            .0
    }

    fn refusal(fault: Value) -> String {
        let input = json!({"faults": [{"kind": "latency", "ms": 1}, fault]});
        Faults::read(&input, |app| app == "a").err().unwrap()
    }

    const SEND: Endpoint = Endpoint::CreateAndDeliver;

    #[test]
    fn bad_input_names_the_fault_and_what_is_wrong_with_it() {
        for (fault, expected) in [
            (json!({"kind": "latency"}), "a latency needs"),
            (json!({"kind": "latency", "ms": 1, "msec": 2}), "unknown field `msec`"),
            (json!({"kind": "ip_ban", "code": "x"}), "unknown field `code`"),
            (json!({"kind": "lose_answer", "code": "x"}), "unknown field `code`"),
            (json!({"kind": "earthquake"}), "unknown variant `earthquake`"),
            (json!({"kind": "html", "endpoint": "send"}), "endpoint: no `send`"),
            (json!({"kind": "html", "app": "b"}), "no app has the key `b`"),
            (json!({"kind": "html", "probability": 1.5}), "probability"),
            (json!({"kind": "html", "next": -1}), "-1"),
            (json!({"kind": "html", "next": 0}), "next: 0"),
            (json!({"kind": "html", "status": 99}), "status"),
            (json!({"kind": "error"}), "an error needs"),
            (json!({"kind": "error", "legacy": true, "code": "x"}), "errcode"),
            (json!({"kind": "error", "sub_code": "40014"}), "sub_code"),
            (json!({"kind": "throttle", "on": true, "next": 3}), "neither"),
            (json!(7), "not a JSON object"),
        ] {
            let error = refusal(fault);
            assert!(error.starts_with("faults[1]: ") && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_fault_for_the_next_calls_is_gone_after_them() {
        let mut faults = faults(json!({"faults": [{"kind": "garbage", "next": 2}]}));
        let hit = [0; 3].map(|_| faults.plan(SEND, None, |_| false).answer.is_some());
        assert_eq!(hit, [true, true, false]);
        assert_eq!(faults.to_json()["faults"], json!([]));
    }

    #[test]
    fn a_fault_strikes_only_its_endpoint_and_app() {
        let mut faults = faults(json!({"faults": [{"kind": "html", "endpoint": "createAndDeliver", "app": "a"}]}));
        assert!(faults.plan(SEND, Some("a"), |_| false).answer.is_some());
        assert!(faults.plan(SEND, Some("b"), |_| false).answer.is_none());
        assert!(faults.plan(SEND, None, |_| false).answer.is_none());
        assert!(faults.plan(Endpoint::Deliver, Some("a"), |_| false).answer.is_none());
    }

    #[test]
    fn a_fault_for_a_recipient_strikes_the_calls_that_name_it() {
        let mut faults = faults(json!({"faults": [{"kind": "html", "recipient": "u1"}]}));
        assert!(faults.plan(SEND, None, |recipient| recipient == "u1").answer.is_some());
        assert!(faults.plan(SEND, None, |recipient| recipient == "u2").answer.is_none());
    }

    #[test]
    fn one_seed_is_one_sequence() {
        let input = json!({"faults": [{"kind": "garbage", "probability": 0.3}], "seed": 7});
        let draw = |mut faults: Faults| [0; 200].map(|_| faults.plan(SEND, None, |_| false).answer.is_some());
        let hit = draw(faults(input.clone()));
        assert_eq!(hit, draw(faults(input)));
        let count = hit.iter().filter(|&&hit| hit).count();
        assert!((30..90).contains(&count), "{count}");
    }

    #[test]
    fn the_first_answer_in_the_list_wins_and_spends_no_other() {
        let two = json!([{"kind": "html", "next": 1}, {"kind": "garbage", "next": 1}, {"kind": "latency", "ms": 3}]);
        let mut faults = faults(json!({"faults": two}));
        let plan = faults.plan(SEND, None, |_| false);
        assert_eq!(plan.answer.unwrap().result(), "html");
        assert_eq!(plan.wait, Duration::from_millis(3));
        assert_eq!(faults.plan(SEND, None, |_| false).answer.unwrap().result(), "garbage");
    }

    #[test]
    fn only_a_lost_answer_leaves_the_call_taken_unless_asked() {
        for (fault, taken) in [
            (json!({"kind": "lose_answer"}), true),
            (json!({"kind": "drop_connection"}), false),
            (json!({"kind": "garbage"}), false),
            (json!({"kind": "garbage", "taken": true}), true),
            (json!({"kind": "error", "status": 500, "code": "systemBusy"}), false),
            (
                json!({"kind": "error", "status": 500, "code": "systemBusy", "taken": true}),
                true,
            ),
        ] {
            assert_eq!(
                faults(json!({"faults": [fault]})).plan(SEND, None, |_| false).taken,
                taken
            );
        }
    }

    #[test]
    fn tokens_end_at_once_unless_calls_are_named() {
        let input = json!({"faults": [{"kind": "expire_tokens", "app": "a"}, {"kind": "expire_tokens", "next": 1}]});
        let (mut faults, ended) = Faults::read(&input, |_| true).unwrap();
        assert_eq!(ended, [Some("a".to_owned())]);
        assert!(faults.plan(SEND, None, |_| false).expire);
        assert!(!faults.plan(SEND, None, |_| false).expire);
    }

    #[test]
    fn what_is_printed_can_be_put_again() {
        let list = json!([
            {"kind": "error", "status": 503, "code": "x", "probability": 0.5, "next": 5, "taken": false},
            {"kind": "throttle", "on": true, "per_second": 3, "endpoint": "deliver"},
        ]);
        let printed = faults(json!({"faults": list, "seed": 7})).to_json();
        assert_eq!(printed, faults(printed.clone()).to_json());
        assert_eq!(printed, json!({"faults": list, "seed": 7}));
    }
}
