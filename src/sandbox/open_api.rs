//! The new family, `api.dingtalk.com`: its token, and the reading that both card APIs share.
//!
//! What is alike in the two card APIs (JSON only, string values, sizes) is read here once; codes that differ are
//! given by the endpoint. Values are read one by one from the JSON, on purpose without a type of the request: an
//! unknown field is ignored, as DingTalk ignores it (dingtalk-api.md §4.1).

use serde_json::{Map, Value, json};

use super::World;
use super::answer::Answer;
use super::api::Call;
use super::card::Params;

/// Recipients of one call (dingtalk-api.md §4.2, §10).
pub(super) const MAX_RECIPIENTS: usize = 20;
/// Characters of an `outTrackId` (dingtalk-api.md §4.1, §5.1).
pub(super) const MAX_OUT_TRACK_ID: usize = 100;
/// Bytes of a parameter's name (dingtalk-api.md §5.1).
const MAX_KEY: usize = 100;
/// Bytes of `cardData` and `privateData` together (dingtalk-api.md §4.1).
const MAX_DATA: usize = 100_000;

/// `POST /v1.0/oauth2/accessToken`.
pub(super) fn access_token(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = object(call)?;
    let field = |key: &str| body.get(key).and_then(Value::as_str).unwrap_or_default();
    let (token, life) = world
        .directory
        .token(field("appKey"), field("appSecret"))
        .ok_or_else(|| Answer::refused("invalidClientIdOrSecret", "无效的clientId或者clientSecret"))?;
    Ok(Answer::ok(json!({"accessToken": token, "expireIn": life})))
}

/// The body, which must be a JSON object and say so: under a form's content type the gateway sees no body at all
/// (dingtalk-api.md §1).
pub(super) fn object(call: &Call) -> Result<Map<String, Value>, Answer> {
    if call.body.is_empty() || !call.has_content_type("application/json") {
        return Err(Answer::refused("Missingbody", "body is mandatory for this action"));
    }
    serde_json::from_slice(&call.body).map_err(|error| invalid(format!("body: {error}")))
}

/// A field's text; `empty` is the code where it is missing or empty.
pub(super) fn text<'a>(body: &'a Map<String, Value>, key: &str, empty: &'static str) -> Result<&'a str, Answer> {
    match body.get(key) {
        None | Some(Value::Null) => Err(Answer::refused(empty, format!("{key} is empty"))),
        Some(Value::String(text)) if text.is_empty() => Err(Answer::refused(empty, format!("{key} is empty"))),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(invalid(format!("{key} is not a string"))),
    }
}

/// A text that may be missing.
pub(super) fn optional_text<'a>(body: &'a Map<String, Value>, key: &str) -> Result<Option<&'a str>, Answer> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(invalid(format!("{key} is not a string"))),
    }
}

/// An object that may be missing.
pub(super) fn optional_object<'a>(
    body: &'a Map<String, Value>,
    key: &str,
) -> Result<Option<&'a Map<String, Value>>, Answer> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(_) => Err(invalid(format!("{key} is not an object"))),
    }
}

/// A flag that may be missing.
pub(super) fn flag(body: Option<&Map<String, Value>>, key: &str) -> Result<bool, Answer> {
    match body.and_then(|body| body.get(key)) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(invalid(format!("{key} is not a boolean"))),
    }
}

/// `userIdType`, 1 or 2. Union IDs are not told from user IDs here: any ID is somebody.
pub(super) fn user_id_type(body: &Map<String, Value>) -> Result<(), Answer> {
    match body.get("userIdType") {
        None | Some(Value::Null) => Ok(()),
        Some(kind) if matches!(kind.as_i64(), Some(1 | 2)) => Ok(()),
        Some(_) => Err(invalid("userIdType is neither 1 nor 2")),
    }
}

/// `cardData` and `privateData`, checked; `None` where the field is missing.
pub(super) fn card_data(body: &Map<String, Value>) -> Result<(Option<Params>, Option<Params>), Answer> {
    let public = optional_object(body, "cardData")?;
    let private = optional_object(body, "privateData")?;
    let size = [public, private].into_iter().flatten().map(json_size).sum::<usize>();
    if size > MAX_DATA {
        return Err(invalid(format!(
            "cardData and privateData have {size} bytes, more than {MAX_DATA}"
        )));
    }
    let params = public.map(param_map).transpose()?;
    let Some(private) = private else {
        return Ok((params, None));
    };
    if private.len() > MAX_RECIPIENTS {
        return Err(invalid("privateData names more than 20 users"));
    }
    let mut users = Params::new();
    for user in private.keys() {
        let data = optional_object(private, user)?
            .map(param_map)
            .transpose()?
            .unwrap_or_default();
        users.insert(user.clone(), Value::Object(data));
    }
    Ok((params, Some(users)))
}

/// The refusal of a field that is there and wrong.
pub(super) fn invalid(message: impl Into<String>) -> Answer {
    Answer::refused("param.invalid", message)
}

/// Both maps of a `cardData`, as one: names of text and media variables do not meet in a template.
fn param_map(data: &Map<String, Value>) -> Result<Params, Answer> {
    let mut params = Params::new();
    for map in ["cardParamMap", "cardMediaIdParamMap"] {
        for (key, value) in optional_object(data, map)?.into_iter().flatten() {
            if key.len() > MAX_KEY {
                return Err(invalid(format!("{map}: a key has more than {MAX_KEY} bytes")));
            }
            if !value.is_string() {
                return Err(invalid(format!("{map}.{key} is not a string")));
            }
            params.insert(key.clone(), value.clone());
        }
    }
    Ok(params)
}

fn json_size(object: &Map<String, Value>) -> usize {
    serde_json::to_vec(object).map_or(0, |text| text.len())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;

    use super::super::testing::{Bench, changed, got, refused};
    use super::*;

    #[tokio::test]
    async fn access_token_spells_its_life_expire_in() {
        let bench = Bench::start().await;
        let call = bench.request(Method::POST, "/v1.0/oauth2/accessToken");
        let (status, body) = got(call.json(&json!({"appKey": "dingsandbox", "appSecret": "sandbox-secret"}))).await;
        assert_eq!((status, &body["expireIn"]), (200, &json!(7200)));
    }

    #[tokio::test]
    async fn a_wrong_secret_is_http_400() {
        let bench = Bench::start().await;
        for body in [
            json!({"appKey": "dingsandbox", "appSecret": "x"}),
            json!({"appKey": "dingsandbox"}),
            json!({}),
        ] {
            let call = bench.request(Method::POST, "/v1.0/oauth2/accessToken").json(&body);
            assert_eq!(refused(&got(call).await), (400, "invalidClientIdOrSecret"));
        }
    }

    #[tokio::test]
    async fn both_card_apis_check_the_same_things_of_data() {
        let bench = Bench::start().await;
        let interactive = json!({
            "cardTemplateId": "TPL.schema", "outTrackId": "i", "conversationType": 0, "receiverUserIdList": ["u1"],
        });
        let map = |map: Value| json!({"cardData": {"cardParamMap": map}});
        let many: Map<_, _> = (0..21)
            .map(|n| (format!("u{n}"), json!({"cardParamMap": {}})))
            .collect();
        for changes in [
            map(json!({"pv": 2000})),
            map(json!({"pv": null})),
            map(json!(["pv"])),
            map(json!({"k".repeat(101): "1"})),
            map(json!({"pv": "1".repeat(100_001)})),
            json!({"cardData": "pv"}),
            json!({"cardData": {"cardParamMap": {}}, "privateData": many}),
            json!({"cardData": {"cardParamMap": {}}, "privateData": {"u1": {"cardParamMap": {"x": 1}}}}),
            json!({"cardData": {"cardParamMap": {}}, "userIdType": 3}),
        ] {
            let new = bench.create_and_deliver("n", &["u1"], changes.clone()).await;
            assert_eq!(refused(&new), (400, "param.invalid"));
            let old = bench
                .post("/im/interactiveCards/send", changed(interactive.clone(), changes))
                .await;
            assert_eq!(refused(&old), (400, "param.invalid"));
        }
        // A value of more than 1 KB passes: that limit is written and not enforced (dingtalk-api.md §5.1).
        let long = bench
            .create_and_deliver("n", &["u1"], map(json!({"pv": "1".repeat(5000)})))
            .await;
        assert_eq!(long.0, 200);
    }

    #[tokio::test]
    async fn an_unknown_field_is_ignored() {
        let bench = Bench::start().await;
        let answer = bench
            .create_and_deliver("a", &["u1"], json!({"cardSettings": {"pullStrategy": 1}}))
            .await;
        assert_eq!(answer.0, 200);
    }
}
