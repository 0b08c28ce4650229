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
        value.ok_or_else(|| Answer::legacy(40035, format!("缺少参数 {key}")))
    };
    let (key, secret) = (parameter("appkey")?, parameter("appsecret")?);
    let (token, life) = world
        .directory
        .token(key, secret)
        .ok_or_else(|| Answer::legacy(40096, "不合法的appKey或appSecret"))?;
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
        return Err(Answer::legacy(40104, "无效的手机号"));
    }
    let user_id = world.directory.user_of(mobile).map_err(|standing| match standing {
        Standing::Disabled => Answer::legacy(60120, "用户已被禁用"),
        Standing::Unknown | Standing::Known => Answer::legacy(60121, "找不到该用户"),
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
