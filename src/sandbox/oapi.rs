//! The legacy family, `oapi.dingtalk.com`: a token and a look-up.
//!
//! A file of its own because nothing here looks like the new family: parameters come in a query or a form, errors
//! come with HTTP 200 (dingtalk-api.md §1 to §3). It sends no card.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::World;
use super::answer::Answer;
use super::api::Call;
use super::directory::Standing;

/// `GET /gettoken`. Parameters in a body are not looked at.
pub(super) fn gettoken(world: &World, call: &Call) -> Result<Answer, Answer> {
    let parameter = |key: &str| {
        let value = call.query.get(key).filter(|value| !value.is_empty());
        value.ok_or_else(|| Answer::legacy(40035, format!("缺少参数 {key}")).without_request_id())
    };
    let (key, secret) = (parameter("appkey")?, parameter("appsecret")?);
    let (token, life) = world
        .directory
        .token(key, secret)
        .ok_or_else(|| Answer::legacy(40096, "不合法的appKey或appSecret").without_request_id())?;
    Ok(Answer::ok(
        json!({"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": life}),
    ))
}

/// `POST /topapi/v2/user/getbymobile`. A disabled user is told with 60120 (dingtalk-api.md §6), an unknown one with
/// 60121, both as they are: whether they come wrapped is not known (§3).
pub(super) fn getbymobile(world: &World, call: &Call) -> Result<Answer, Answer> {
    let fields = fields(call)?;
    let searches = match fields.get("support_exclusive_account_search") {
        None => false,
        Some(Value::Bool(flag)) => *flag,
        Some(Value::String(flag)) if flag == "true" || flag == "false" => flag == "true",
        Some(_) => return Err(Answer::legacy(400_002, "参数错误 support_exclusive_account_search")),
    };
    let mobile = match fields.get("mobile") {
        None | Some(Value::Null) => return Err(Answer::legacy(40035, "缺少参数 mobile")),
        Some(Value::String(mobile)) if mobile.trim().is_empty() => {
            return Err(Answer::legacy(40035, "缺少参数 mobile"));
        }
        Some(Value::String(mobile)) => mobile.trim(),
        Some(_) => return Err(Answer::legacy(400_002, "参数错误 mobile")),
    };
    if !is_mobile(mobile) {
        return Err(recipient_error(world, 40104, "无效的手机号"));
    }
    let user_id = world.directory.user_of(mobile).map_err(|standing| match standing {
        Standing::Disabled => recipient_error(world, 60120, "用户已被禁用"),
        Standing::Unknown | Standing::Known => recipient_error(world, 60121, "找不到该用户"),
    })?;
    let mut result = json!({"userid": user_id});
    if searches {
        result["exclusive_account_userid_list"] = json!([]);
    }
    let request_id = super::answer::short_id();
    Ok(Answer::ok(
        json!({"errcode": 0, "errmsg": "ok", "result": result, "request_id": request_id}),
    ))
}

/// Whether these come wrapped like the gateway's is not known (dingtalk-api.md §3).
fn recipient_error(world: &World, errcode: i64, message: &str) -> Answer {
    if world.directory.assume().recipient_errors_wrapped {
        return Answer::wrapped(88, errcode.to_string(), message);
    }
    Answer::legacy(errcode, message)
}

/// The parameters, from a form or from JSON.
fn fields(call: &Call) -> Result<HashMap<String, Value>, Answer> {
    if call.is_form() {
        return Ok(call
            .form()
            .into_iter()
            .map(|(key, value)| (key, Value::String(value)))
            .collect());
    }
    if call.body.is_empty() {
        return Ok(HashMap::new());
    }
    serde_json::from_slice(&call.body).map_err(|_| Answer::legacy(40038, "参数格式错误"))
}

/// `^\+?\d[\d-]{5,19}$`, what dingtalk-api.md §3 takes for a number.
fn is_mobile(text: &str) -> bool {
    let digits = text.strip_prefix('+').unwrap_or(text);
    (6..=20).contains(&digits.len())
        && digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|char| char.is_ascii_digit() || char == '-')
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;

    use super::super::testing::{Bench, Got, got};
    use super::*;

    async fn look_up(bench: &Bench, body: Value) -> Got {
        let path = format!("/topapi/v2/user/getbymobile?access_token={}", bench.token());
        got(bench.request(Method::POST, &path).json(&body)).await
    }

    #[tokio::test]
    async fn a_pair_of_key_and_secret_gets_a_token() {
        let bench = Bench::start().await;
        let (status, body) = bench
            .get("/gettoken?appkey=dingsandbox2&appsecret=sandbox-secret-2")
            .await;
        assert_eq!(
            (status, &body["errcode"], &body["expires_in"]),
            (200, &json!(0), &json!(7200))
        );
        assert_ne!(body["access_token"], bench.token());
    }

    #[tokio::test]
    async fn a_wrong_pair_is_40096_with_http_200() {
        let bench = Bench::start().await;
        let (status, body) = bench.get("/gettoken?appkey=dingsandbox&appsecret=wrong").await;
        assert_eq!(
            (status, &body["errcode"], &body["sub_code"]),
            (200, &json!(40096), &Value::Null)
        );
    }

    #[tokio::test]
    async fn parameters_of_gettoken_in_a_body_are_not_seen() {
        let bench = Bench::start().await;
        let call = bench.request(Method::GET, "/gettoken");
        let body = json!({"appkey": "dingsandbox", "appsecret": "sandbox-secret"});
        assert_eq!(got(call.json(&body)).await.1["errcode"], 40035);
    }

    #[tokio::test]
    async fn a_mobile_gives_its_user() {
        let bench = Bench::start().await;
        for mobile in ["15012341231", "+86-15012341231"] {
            let (status, body) = look_up(&bench, json!({"mobile": mobile})).await;
            assert_eq!(
                (status, &body["errcode"], &body["result"]),
                (200, &json!(0), &json!({"userid": "u15012341231"}))
            );
        }
        let body = json!({"mobile": "15012341231", "support_exclusive_account_search": true});
        assert_eq!(
            look_up(&bench, body).await.1["result"]["exclusive_account_userid_list"],
            json!([])
        );
    }

    #[tokio::test]
    async fn a_form_serves_too_and_may_carry_the_token() {
        let bench = Bench::start().await;
        let body = format!("mobile=%2B8615012341231&access_token={}", bench.token());
        let call = bench.request(Method::POST, "/topapi/v2/user/getbymobile").body(body);
        let (_, body) = got(call.header("content-type", "application/x-www-form-urlencoded;charset=utf-8")).await;
        assert_eq!(body["result"]["userid"], "u15012341231");
    }

    #[tokio::test]
    async fn errors_about_a_mobile_can_come_wrapped() {
        let bench = Bench::with("assume = { recipient_errors_wrapped = true }").await;
        let (status, answer) = look_up(&bench, json!({"mobile": "15000000000"})).await;
        assert_eq!(
            (status, &answer["errcode"], &answer["sub_code"]),
            (200, &json!(88), &json!("60121"))
        );
    }

    #[tokio::test]
    async fn each_bad_number_has_its_code() {
        let bench = Bench::start().await;
        for (body, errcode) in [
            (json!({"mobile": "15000000000"}), 60121),
            (json!({"mobile": "15000000001"}), 60120),
            (json!({"mobile": "manager7"}), 40104),
            (json!({"mobile": "123"}), 40104),
            (json!({"mobile": ""}), 40035),
            (json!({}), 40035),
            (json!({"mobile": 15_012_341_231_u64}), 400_002),
            (
                json!({"mobile": "15012341231", "support_exclusive_account_search": "maybe"}),
                400_002,
            ),
            (json!([]), 40038),
        ] {
            let (status, answer) = look_up(&bench, body.clone()).await;
            assert_eq!((status, &answer["errcode"]), (200, &json!(errcode)), "{body}");
        }
    }
}
