//! The gateway's refusals, in the dialects of both API families (dingtalk-api.md §2.4, §2.5, §7).
//!
//! Apart from the endpoints, which never see such a call, and from `api`, which decides that one is refused: a fault can
//! order the same refusals, and both must be worded alike. It decides nothing.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Answer;
use super::endpoint::Endpoint;

/// Why the gateway lets a call not pass. The names are those of the reasons that a worker of such an API would give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refusal {
    /// No token came.
    TokenMissing,
    /// The token is wrong or has ended.
    TokenRejected,
    /// Too many calls of this app to this API.
    Throttled,
    /// Too many calls of all customers to this API.
    ApiThrottled,
    /// The organisation's calls of this month are used up.
    QuotaSpent,
    /// The caller's address is not on the app's whitelist.
    IpNotAllowed,
    /// The app lacks a permission.
    PermissionMissing,
    /// DingTalk is busy: HTTP 500, or errcode -1.
    ServerError,
}

impl Refusal {
    /// The answer that an endpoint's family gives; `message` where there is more to say than the usual words.
    pub(super) fn answer(self, endpoint: Endpoint, message: Option<String>) -> Answer {
        let (sub_code, status, code, words) = self.words();
        let words = message.unwrap_or_else(|| words.to_owned());
        let answer = match (self, endpoint.is_legacy()) {
            (Self::ServerError, true) => Answer::legacy(-1, words),
            (_, true) => Answer::wrapped(88, sub_code, words),
            (Self::PermissionMissing, false) => {
                let detail = json!({"requiredScopes": [endpoint.permission().unwrap_or_default()]});
                Answer::refused_with(status, code, words).with_field("accessdenieddetail", detail)
            }
            // The two card APIs spell it each in its own way (dingtalk-api.md §4.4, §5.4).
            (Self::ServerError, false) if endpoint.is_interactive() => Answer::refused_with(500, "systemBusy", words),
            _ => Answer::refused_with(status, code, words),
        };
        if matches!(self, Self::Throttled | Self::ApiThrottled) {
            return answer.throttled();
        }
        answer
    }

    /// Whether the refusal exists for that endpoint: only calls of cards are counted by the quota (dingtalk-api.md §7),
    /// and who fetches a token has none yet.
    pub(super) fn reaches(self, endpoint: Endpoint) -> bool {
        match self {
            Self::QuotaSpent => endpoint.is_card(),
            Self::PermissionMissing => endpoint.permission().is_some(),
            Self::TokenMissing | Self::TokenRejected => !endpoint.gives_token(),
            Self::Throttled | Self::ApiThrottled | Self::IpNotAllowed | Self::ServerError => true,
        }
    }

    /// Legacy `sub_code`; status and `code` of the new family; the usual words.
    fn words(self) -> (&'static str, u16, &'static str, &'static str) {
        match self {
            Self::TokenMissing => (
                "40000",
                400,
                "AuthenticationFailed.MissingParameter",
                "access_token is blank",
            ),
            Self::TokenRejected => ("40014", 400, "InvalidAuthentication", "不合法的access_token"),
            Self::Throttled => (
                "90018",
                403,
                "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
                "应用调用接口过于频繁",
            ),
            Self::ApiThrottled => (
                "90002",
                403,
                "Forbidden.AccessDenied.QpsLimitForApi",
                "接口调用过于频繁",
            ),
            Self::QuotaSpent => (
                "90020",
                403,
                "Forbidden.AccessDenied.ApiCountLimitForOrg",
                "企业本月调用次数已用完",
            ),
            Self::IpNotAllowed => (
                "60020",
                403,
                "Forbidden.AccessDenied.IpNotInWhiteList",
                "访问ip不在白名单之中",
            ),
            Self::PermissionMissing => (
                "60011",
                403,
                "Forbidden.AccessDenied.AccessTokenPermissionDenied",
                "应用尚未开通所需的权限",
            ),
            Self::ServerError => ("-1", 500, "system.busy", "系统繁忙"),
        }
    }
}

/// The same with the error fields in their other letter case (dingtalk-api.md §1, traps).
pub(super) fn capital(body: &mut Value) {
    let Some(fields) = body.as_object_mut().filter(|fields| fields.contains_key("requestid")) else {
        return;
    };
    for (lower, upper) in [
        ("code", "Code"),
        ("message", "Message"),
        ("requestid", "RequestId"),
        ("accessdenieddetail", "AccessDeniedDetail"),
    ] {
        if let Some(value) = fields.remove(lower) {
            fields.insert(upper.to_owned(), value);
        }
    }
}
