//! The job, version 1: what a producer may ask for, and the path of whatever is wrong with a message that is none.
//!
//! Separate because it is the contract with every producer in every language. It reads a body and nothing else: which
//! apps and templates exist is the configuration's business, and whether a mobile is somebody's is DingTalk's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

/// Largest body that is decoded, in bytes.
pub const MAX_BYTES: usize = 256 * 1024;
/// Deepest nesting of objects and arrays that is decoded.
const MAX_DEPTH: usize = 32;
/// Most recipients of one job.
const MAX_RECIPIENTS: usize = 1000;
/// Longest ID, in characters.
const MAX_ID_CHARS: usize = 128;
/// Longest key of a parameter, and longest mobile, user ID or conversation, in bytes.
const MAX_NAME_BYTES: usize = 100;
/// Keys and values of all parameters together, in bytes (`dingtalk-api.md` 5.1).
const MAX_PARAMS_BYTES: usize = 100_000;

/// A job that was found in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// From the body, else from `message_id`, else random.
    pub id: String,
    /// The app it names.
    pub app: Option<String>,
    /// A template alias or a DingTalk template ID.
    pub template: Option<String>,
    /// 1 to 1,000, in the producer's order. Positions in headers and results count from 0 in this list.
    pub to: Vec<Recipient>,
    /// Parameters as DingTalk takes them: text alone.
    pub params: BTreeMap<String, String>,
    /// Not to be sent before.
    pub not_before: Option<Timestamp>,
    /// Not to be sent after.
    pub expires_at: Option<Timestamp>,
    /// The earlier job whose cards get these parameters.
    pub update_of: Option<String>,
}

/// One mobile number, user ID or group conversation.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// A mobile number, in any usual notation.
    Mobile(#[schemars(length(min = 1, max = 100))] String),
    /// A DingTalk user ID.
    UserId(#[schemars(length(min = 1, max = 100))] String),
    /// A group's `openConversationId`.
    Conversation(#[schemars(length(min = 1, max = 100))] String),
}

/// Why a message is no job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct Fault {
    /// `to[2].mobile`, or `.` for the message as a whole.
    pub path: String,
    /// What is wrong there. Names no recipient.
    pub message: String,
}

impl Fault {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }
}

/// The body as the producer writes it. A job, version 1: show this card to these recipients.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "dingcard job, version 1")]
pub struct Body {
    /// Names the job; publishing it twice shows it once. Without it the AMQP `message_id` serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub id: Option<String>,
    /// An app of the configuration; the app whose queue the message came by without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// A template alias, or a DingTalk template ID; the app's default without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// The recipients; a repeated one counts once.
    #[schemars(length(min = 1, max = 1000))]
    pub to: Vec<Recipient>,
    /// The card's parameters. What is not a string is sent as its JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, Value>>")]
    pub params: Option<BTreeMap<String, Box<RawValue>>>,
    /// RFC 3339 with offset: not to be sent before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub not_before: Option<Timestamp>,
    /// RFC 3339 with offset: never to be sent after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub expires_at: Option<Timestamp>,
    /// The `id` of an earlier job with the same `to`: its cards get these parameters, and no new card is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128))]
    pub update_of: Option<String>,
}

impl Job {
    /// Reads a message. `message_id` is AMQP's.
    pub fn decode(body: &[u8], message_id: Option<&str>) -> Result<Self, Fault> {
        bounded(body)?;
        // To know the path of a fault costs as much again as to decode; so only what has one is looked at for it.
        let body = serde_json::from_slice::<Body>(body).or_else(|_| Body::decode_with_path(body))?;
        body.check()?;
        Ok(body.into_job(message_id))
    }

    /// The JSON Schema of a job.
    #[must_use]
    pub fn schema() -> Value {
        schemars::schema_for!(Body).to_value()
    }
}

impl Body {
    fn decode_with_path(body: &[u8]) -> Result<Self, Fault> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let body = serde_path_to_error::deserialize(&mut json).map_err(|e| {
            let path = e.path().to_string();
            Fault::new(path, without_values(&e.into_inner()))
        })?;
        json.end().map_err(|e| Fault::new(".", e.to_string()))?;
        Ok(body)
    }

    /// The rules that types alone do not express.
    fn check(&self) -> Result<(), Fault> {
        for (path, id) in [("id", &self.id), ("update_of", &self.update_of)] {
            if id
                .as_ref()
                .is_some_and(|id| id.is_empty() || id.chars().count() > MAX_ID_CHARS)
            {
                return Err(Fault::new(path, format!("1 to {MAX_ID_CHARS} characters are needed")));
            }
        }
        for (path, name) in [("app", &self.app), ("template", &self.template)] {
            if name.as_ref().is_some_and(String::is_empty) {
                return Err(Fault::new(path, "is empty; leave it out for the default"));
            }
        }
        if self.to.is_empty() || self.to.len() > MAX_RECIPIENTS {
            return Err(Fault::new(
                "to",
                format!(
                    "1 to {MAX_RECIPIENTS} recipients are needed, here are {}",
                    self.to.len()
                ),
            ));
        }
        for (position, recipient) in self.to.iter().enumerate() {
            let (kind, name) = recipient.parts();
            if name.trim().is_empty() || name.len() > MAX_NAME_BYTES {
                let message = format!("1 to {MAX_NAME_BYTES} bytes are needed");
                return Err(Fault::new(format!("to[{position}].{kind}"), message));
            }
        }
        let params = self.params.iter().flatten();
        let mut total = 0;
        for (key, value) in params {
            if key.is_empty() || key.len() > MAX_NAME_BYTES {
                let shown: String = key.chars().take(20).collect();
                return Err(Fault::new(
                    format!("params.{shown}"),
                    format!("a key has 1 to {MAX_NAME_BYTES} bytes"),
                ));
            }
            total += key.len() + value.get().len();
        }
        if total > MAX_PARAMS_BYTES {
            return Err(Fault::new(
                "params",
                format!("{total} bytes in all; DingTalk takes {MAX_PARAMS_BYTES}"),
            ));
        }
        Ok(())
    }

    fn into_job(self, message_id: Option<&str>) -> Job {
        let from_broker = || message_id.filter(|id| !id.is_empty()).map(str::to_owned);
        Job {
            id: self.id.or_else(from_broker).unwrap_or_else(random_id),
            app: self.app,
            template: self.template,
            to: self.to,
            params: self
                .params
                .into_iter()
                .flatten()
                .map(|(key, value)| (key, text(&value)))
                .collect(),
            not_before: self.not_before,
            expires_at: self.expires_at,
            update_of: self.update_of,
        }
    }
}

impl Recipient {
    /// The field's name and its value.
    #[must_use]
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Mobile(name) => ("mobile", name),
            Self::UserId(name) => ("user_id", name),
            Self::Conversation(name) => ("conversation", name),
        }
    }
}

/// An ID for a job that has none.
#[must_use]
pub fn random_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Size and depth, before anything is built from the bytes.
fn bounded(body: &[u8]) -> Result<(), Fault> {
    if body.len() > MAX_BYTES {
        return Err(Fault::new(
            ".",
            format!("{} bytes; a job has at most {MAX_BYTES}", body.len()),
        ));
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in body {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => depth += 1,
            (false, b'}' | b']') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return Err(Fault::new(".", format!("nested deeper than {MAX_DEPTH}")));
        }
    }
    Ok(())
}

/// A parameter as DingTalk takes it: a string as it is, all else as its JSON text.
fn text(value: &RawValue) -> String {
    serde_json::from_str::<String>(value.get()).unwrap_or_else(|_| value.get().to_owned())
}

/// serde's message, less the value that it may quote: a value can be somebody's mobile.
fn without_values(error: &serde_json::Error) -> String {
    let message = error.to_string();
    let mut parts = message.split('"');
    let kept: Vec<&str> = parts.by_ref().step_by(2).collect();
    let kept = kept.join("…");
    // A recipient that is plain text is taken for the name of a kind, and quoted otherwise.
    match kept
        .strip_prefix("unknown variant `")
        .and_then(|rest| rest.split_once('`'))
    {
        Some((_, expected)) => format!("unknown kind of recipient{expected}"),
        None => kept,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn decode(body: &Value) -> Result<Job, Fault> {
        Job::decode(body.to_string().as_bytes(), None)
    }

    fn path(body: &Value) -> String {
        decode(body).unwrap_err().path
    }

    fn whole() -> Value {
        json!({
            "id": "overtime-2023-03-30-team7", "app": "default", "template": "overtime",
            "to": [{"mobile": "15012341231"}, {"user_id": "manager7"}, {"conversation": "cidAbC=="}],
            "params": {"pv": 2000, "users": "1000", "nested": {"a": [1.50, null]}, "on": true},
            "not_before": "2023-03-30T18:30:00+08:00", "expires_at": "2023-03-30T22:00:00+08:00"
        })
    }

    #[test]
    fn the_job_of_the_contract_is_read_whole() {
        let job = decode(&whole()).unwrap();
        assert_eq!(job.id, "overtime-2023-03-30-team7");
        assert_eq!(job.to[1], Recipient::UserId("manager7".into()));
        assert_eq!(job.not_before.unwrap().to_string(), "2023-03-30T10:30:00Z");
        assert_eq!(
            (
                job.params["users"].as_str(),
                job.params["pv"].as_str(),
                job.params["on"].as_str()
            ),
            ("1000", "2000", "true")
        );
    }

    #[test]
    fn a_parameter_that_is_no_string_keeps_the_text_that_the_producer_wrote() {
        let body = br#"{"to":[{"user_id":"a"}],"params":{"n":1.50,"big":123456789012345678901234567890,"l":[1, 2]}}"#;
        let params = Job::decode(body, None).unwrap().params;
        assert_eq!((params["n"].as_str(), params["l"].as_str()), ("1.50", "[1, 2]"));
        assert_eq!(params["big"], "123456789012345678901234567890");
    }

    #[test]
    fn the_id_is_the_bodys_else_the_message_id_else_random() {
        let body = br#"{"to":[{"user_id":"a"}]}"#;
        assert_eq!(Job::decode(body, Some("m-1")).unwrap().id, "m-1");
        assert_ne!(
            Job::decode(body, Some("")).unwrap().id,
            Job::decode(body, None).unwrap().id
        );
    }

    #[test]
    fn every_fault_is_named_by_its_path() {
        let with = |key: &str, value: Value| {
            let mut body = whole();
            body[key] = value;
            path(&body)
        };
        assert_eq!(with("id", json!("")), "id");
        assert_eq!(with("id", json!("x".repeat(129))), "id");
        assert_eq!(with("id", json!(7)), "id");
        assert_eq!(with("to", json!([])), "to");
        assert_eq!(with("to", json!(vec![json!({"user_id": "a"}); 1001])), "to");
        assert_eq!(
            with("to", json!([{"user_id": "a"}, {"mobile": 15_012_341_231_u64}])),
            "to[1].mobile"
        );
        assert_eq!(with("to", json!([{"user_id": "a"}, {"mobile": " "}])), "to[1].mobile");
        assert_eq!(with("to", json!([{"phone": "1"}])), "to[0]");
        assert_eq!(with("to", json!([{"mobile": "1", "user_id": "a"}])), "to[0]");
        assert_eq!(with("params", json!([1])), "params");
        assert_eq!(
            with("params", json!({"k".repeat(101): 1})),
            format!("params.{}", "k".repeat(20))
        );
        assert_eq!(with("params", json!({"k": "v".repeat(100_001)})), "params");
        assert_eq!(with("not_before", json!("2023-03-30T18:30:00")), "not_before");
        assert_eq!(with("expires_at", json!("tomorrow")), "expires_at");
        assert_eq!(with("update_of", json!("")), "update_of");
        assert_eq!(with("templat", json!("x")), "templat");
    }

    #[test]
    fn a_value_over_one_kilobyte_is_accepted() {
        assert!(decode(&json!({"to": [{"user_id": "a"}], "params": {"k": "v".repeat(2000)}})).is_ok());
    }

    #[test]
    fn size_and_depth_are_refused_before_decoding() {
        assert!(
            Job::decode(&vec![b'['; MAX_BYTES + 1], None)
                .unwrap_err()
                .message
                .contains("bytes")
        );
        assert!(Job::decode(&[b'['; 33], None).unwrap_err().message.contains("nested"));
        let brackets_in_text = json!({"to": [{"user_id": "a"}], "params": {"k": "[".repeat(100) + "\\\""}});
        assert!(decode(&brackets_in_text).is_ok());
    }

    #[test]
    fn no_fault_quotes_a_value() {
        let fault = decode(&json!({"to": [{"mobile": {"n": "15012341231"}}], "app": 1})).unwrap_err();
        assert!(!fault.to_string().contains("15012341231"), "{fault}");
        for to in [json!(["15012341231"]), json!([{"15012341231": 1}])] {
            let fault = decode(&json!({"to": to})).unwrap_err();
            assert!(!fault.to_string().contains("15012341231"), "{fault}");
            assert!(fault.message.contains("`mobile`"), "{fault}");
        }
        let fault = decode(&json!({"to": "15012341231"})).unwrap_err();
        assert!(!fault.to_string().contains("15012341231"), "{fault}");
    }

    #[test]
    fn the_schema_accepts_the_job_of_the_contract_and_refuses_a_misspelt_field() {
        let schema = jsonschema::validator_for(&Job::schema()).unwrap();
        assert!(schema.is_valid(&whole()));
        let mut misspelt = whole();
        misspelt["templat"] = json!("x");
        assert!(!schema.is_valid(&misspelt));
        assert!(!schema.is_valid(&json!({"to": []})));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9 ]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let keys = prop_oneof![
                "to",
                "id",
                "app",
                "params",
                "mobile",
                "user_id",
                "not_before",
                "[a-z]{1,4}"
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keys, inner, 0..4).prop_map(|m| m.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_job_or_a_fault_with_a_message(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Err(fault) = Job::decode(&bytes, None) {
                prop_assert!(!fault.message.is_empty());
            }
        }

        #[test]
        fn whatever_decodes_fits_the_schema(body in any_json()) {
            if decode(&body).is_ok() {
                prop_assert!(jsonschema::is_valid(&Job::schema(), &body));
            }
        }

        #[test]
        fn a_body_that_this_program_writes_reads_back(names in prop::collection::vec("[^\\s]{1,20}", 1..30)) {
            let to = names.into_iter().map(Recipient::UserId).collect::<Vec<_>>();
            let body = serde_json::to_vec(&Body { to: to.clone(), ..Body::default() }).unwrap();
            prop_assert_eq!(Job::decode(&body, None).unwrap().to, to);
        }
    }
}
