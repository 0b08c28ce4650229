//! The result of an attempt, as a producer is told it: who became final, and how many are left.
//!
//! Separate because it is the other half of the contract with producers, whose first half is the job. It names positions in
//! the job's `to`, never a mobile or a user ID, and decides nothing.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::outcome::{Outcome, Reason};

/// A result message, version 1: JSON, sent to the job's `reply_to` with its `correlation_id`, after each attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobResult {
    /// The job's ID; absent where the message was no job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The app that served it; `unknown` where none did.
    pub app: String,
    /// Which attempt this was, 1 for the first.
    pub attempt: u32,
    /// Who became final in it.
    pub recipients: Vec<RecipientResult>,
    /// How many are left; 0 in the last result of a job.
    pub open: usize,
    /// Why somebody failed, or is left: that of most.
    pub reason: Reason,
    /// What happened, for people; empty where there is nothing to explain.
    pub detail: String,
}

/// What became of one recipient, for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecipientResult {
    /// Its place in the job's `to`, from 0.
    pub position: usize,
    /// Never `retried`.
    pub outcome: Outcome,
    /// `none` where there is nothing to explain.
    pub reason: Reason,
    /// DingTalk's `carrierId` or `processQueryKey`, which finds who has read the card.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub carrier_id: Option<String>,
}

impl JobResult {
    /// The JSON Schema of a result message.
    #[must_use]
    pub fn schema() -> Value {
        schemars::schema_for!(JobResult).to_value()
    }

    /// Whether everybody in it has the card.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let reached =
            |recipient: &RecipientResult| matches!(recipient.outcome, Outcome::Delivered | Outcome::Duplicate);
        self.recipients.iter().all(reached) && (self.open > 0 || self.reason == Reason::None)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_reads_as_its_schema_says_and_uses_the_words_of_the_labels() {
        let result = JobResult {
            id: Some("j".to_owned()),
            app: "default".to_owned(),
            attempt: 2,
            recipients: vec![
                RecipientResult {
                    position: 0,
                    outcome: Outcome::Delivered,
                    reason: Reason::Unconfirmed,
                    carrier_id: None,
                },
                RecipientResult {
                    position: 3,
                    outcome: Outcome::Dead,
                    reason: Reason::UserNotFound,
                    carrier_id: None,
                },
            ],
            open: 1,
            reason: Reason::UserNotFound,
            detail: "why".to_owned(),
        };
        let written = serde_json::to_value(&result).unwrap();
        assert_eq!(
            written,
            json!({"id": "j", "app": "default", "attempt": 2, "open": 1, "reason": "user_not_found", "detail": "why",
                "recipients": [{"position": 0, "outcome": "delivered", "reason": "unconfirmed"},
                    {"position": 3, "outcome": "dead", "reason": "user_not_found"}]})
        );
        assert!(jsonschema::is_valid(&JobResult::schema(), &written));
        assert!(!result.is_good());
        assert_eq!(serde_json::from_value::<JobResult>(written).unwrap(), result);
    }
}
