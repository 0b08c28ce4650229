//! The parameters of a question below `/sandbox`, and the plain errors there: an HTTP status and `{"error": ".."}`.
//!
//! Apart from who answers, because all of them read and refuse alike. Nothing of it is DingTalk's.

use std::collections::HashMap;
use std::str::FromStr;

use axum::Json;
use axum::http::StatusCode;
use serde_json::{Value, json};

/// A question that is not answered.
pub(super) type Failure = (StatusCode, Json<Value>);

/// Parameters by name.
pub(super) type Parameters = HashMap<String, String>;

/// Refuses a parameter that is not known: a misspelt filter would show everything.
pub(super) fn check(query: &Parameters, known: &[&str]) -> Result<(), Failure> {
    match query.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(bad(format!(
            "unknown parameter `{key}`, there are {}",
            known.join(", ")
        ))),
    }
}

/// A whole number; `absent` where it is not given.
pub(super) fn number<N: FromStr>(query: &Parameters, key: &str, absent: N) -> Result<N, Failure> {
    match query.get(key) {
        None => Ok(absent),
        Some(text) => text
            .parse()
            .map_err(|_| bad(format!("{key}: not a whole number of 0 or more"))),
    }
}

/// The question is wrong.
pub(super) fn bad(error: impl Into<String>) -> Failure {
    failure(StatusCode::BAD_REQUEST, error)
}

/// There is no such thing.
pub(super) fn missing(error: impl Into<String>) -> Failure {
    failure(StatusCode::NOT_FOUND, error)
}

fn failure(status: StatusCode, error: impl Into<String>) -> Failure {
    let error: String = error.into();
    (status, Json(json!({"error": error})))
}
