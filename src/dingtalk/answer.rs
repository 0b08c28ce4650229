//! What an answer of DingTalk says, in all its layers.
//!
//! Both API families are brought to one code first (`dingtalk-api.md` 6), then looked up in the table of `codes`. Separate
//! because finding the code is one thing and its meaning another. That an answer refuses nothing is not yet success; the
//! documented fields of success are read by the caller.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::Offset;
use serde_json::{Map, Value};

use super::codes::{Quirk, Row, Sign, by_sign, row, told};
use super::endpoint::Endpoint;
use super::error::Failure;
use super::remedy::Remedy;
use crate::outcome::Class::{Auth, Hold, Permanent, Recipient, Transient, Unknown};
use crate::outcome::Reason;

/// A wait that DingTalk names is believed up to here; the punishments it documents end within five minutes.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// What came back over HTTP, before it means anything.
pub(super) struct Answer<'a> {
    /// The HTTP status.
    pub(super) status: u16,
    /// The `Retry-After` header.
    pub(super) retry_after: Option<&'a str>,
    /// The body, whole.
    pub(super) body: &'a [u8],
    /// Strings that may not show in a detail.
    pub(super) hide: &'a [&'a str],
}

/// The object that an answer holds, unless it is a refusal or no answer of DingTalk at all.
///
/// `Ok` does not mean success: only that nothing says otherwise.
pub(super) fn read(endpoint: Endpoint, answer: &Answer<'_>) -> Result<Map<String, Value>, Failure> {
    refusal(endpoint, answer, Timestamp::now()).map_err(|failure| settle(endpoint, failure))
}

/// An answer whose documented fields of success are not there: it may have been executed all the same.
pub(super) fn unreadable(endpoint: Endpoint, what: &str) -> Failure {
    failed(endpoint, by_sign(&Sign::Unreadable), what)
}

/// No answer at all; `written`: the request was, so it may have been executed all the same.
pub(super) fn unanswered(endpoint: Endpoint, written: bool, what: &str) -> Failure {
    let sign = if written { Sign::Unanswered } else { Sign::Unreachable };
    failed(endpoint, by_sign(&sign), what)
}

fn failed(endpoint: Endpoint, row: &Row, what: &str) -> Failure {
    settle(endpoint, Failure::by(row, format!("{endpoint}: {what}")))
}

/// What became of one space of a delivery that as a whole succeeded (section 5.4).
pub(super) fn undelivered(endpoint: Endpoint, message: &str, group: bool, hide: &[&str]) -> Failure {
    let row = told(message, group);
    let failure = Failure::by(row, format!("{endpoint}: not delivered: {}", hidden(message, hide)));
    if row.quirk == Quirk::OnceMore && endpoint != Endpoint::Deliver {
        // `deliver` is that one more call.
        return Failure {
            class: Transient,
            splits: false,
            ..failure
        };
    }
    failure
}

/// What the kind of call adds: a read cannot have done anything; a token call knows no recipient and no job; a look-up
/// concerns one recipient alone.
fn settle(endpoint: Endpoint, mut failure: Failure) -> Failure {
    match (endpoint, failure.class) {
        (_, Unknown) if endpoint.is_read() => failure.class = Transient,
        (_, Auth | Recipient | Permanent) if endpoint.is_token() => {
            failure = Failure {
                reason: Reason::BadCredentials,
                class: Hold,
                remedy: Remedy::of(Reason::BadCredentials),
                splits: false,
                ..failure
            };
        }
        (Endpoint::GetByMobile, Permanent) => failure.class = Recipient,
        _ => {}
    }
    failure
}

fn refusal(endpoint: Endpoint, answer: &Answer<'_>, now: Timestamp) -> Result<Map<String, Value>, Failure> {
    let status = answer.status;
    let fail = |row: &Row, what: &str| Failure {
        wait: retry_after(answer.retry_after, now),
        ..Failure::by(row, format!("{endpoint}: {}", hidden(what, answer.hide)))
    };

    let Ok(Value::Object(fields)) = serde_json::from_slice(answer.body) else {
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(4096)]);
        let html = text
            .trim_start_matches(['\u{feff}', ' ', '\r', '\n', '\t'])
            .starts_with('<');
        // The ban page has no documented status (section 7), but a gateway's own 5xx page is none, nor a redirect or a
        // proxy's question on the way there.
        let on_the_way = (300..400).contains(&status) || status == 407;
        if html && !on_the_way && (status < 500 || text.contains("punish")) {
            let what = format!("HTTP {status} with an HTML page: this egress IP is banned");
            return Err(fail(by_sign(&Sign::Banned), &what));
        }
        let what = format!("HTTP {status} with no JSON object in its {} bytes", answer.body.len());
        return Err(fail(row(None, status), &what));
    };
    if number(field(&fields, "status")).as_deref() == Some("1111") {
        return Err(fail(by_sign(&Sign::Banned), "status 1111: this egress IP is banned"));
    }

    let message = text(&fields, &["errmsg", "message"]).unwrap_or_default();
    let Some(code) = code(&fields, status) else {
        return if (200..300).contains(&status) {
            Ok(fields)
        } else {
            Err(fail(row(None, status), &format!("HTTP {status} {message}")))
        };
    };
    let sub = text(&fields, &["sub_msg", "submsg"]).filter(|sub| !message.contains(sub.as_str()));
    let scopes = field(&fields, "accessdenieddetail").map(|detail| format!(" {detail}"));
    let request = text(&fields, &["requestid", "request_id"]).map(|id| format!(" (request {id})"));
    let mut failure = fail(
        row(Some(&code), status),
        // The request ID goes before what may be long.
        &format!(
            "{code}{} {message} {}{}",
            request.unwrap_or_default(),
            sub.as_deref().unwrap_or_default(),
            scopes.as_deref().unwrap_or_default()
        ),
    );
    if failure.reason == Reason::Throttled {
        let minute = code
            .to_ascii_lowercase()
            .contains("qpmlimit")
            .then_some(Duration::from_mins(1));
        let end = || beijing_time(&format!("{message} {}", sub.as_deref().unwrap_or_default()), now);
        failure.wait = failure.wait.or_else(end).or(minute);
    }
    Err(failure)
}

/// The gateway's wrapper around another code (section 1).
const WRAPPED: &str = "88";

/// The code that counts, or `None` where nothing is refused.
fn code(fields: &Map<String, Value>, status: u16) -> Option<String> {
    if let Some(errcode) = number(field(fields, "errcode")) {
        if errcode == WRAPPED {
            let sub = ["sub_code", "subcode"]
                .iter()
                .find_map(|key| number(field(fields, key)));
            return Some(
                sub.or_else(|| bracketed(&text(fields, &["errmsg"])?))
                    .unwrap_or(errcode),
            );
        }
        if errcode != "0" {
            return Some(errcode);
        }
    }
    let code = number(field(fields, "code"))?;
    let fine =
        (200..300).contains(&status) && ["0", "200", "ok", "success"].contains(&code.to_ascii_lowercase().as_str());
    (!fine).then_some(code)
}

/// The code in `ding talk error[subcode=40014,submsg=...]`.
fn bracketed(message: &str) -> Option<String> {
    let (_, rest) = message.split_once("subcode=")?;
    let code: String = rest.chars().take_while(|c| !matches!(c, ',' | ']')).collect();
    Some(code.trim().to_owned()).filter(|code| !code.is_empty())
}

/// The field of this name, whatever the case of its letters.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).or_else(|| {
        fields
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    })
}

/// A code, written as number or string.
fn number(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.trim().to_owned()).filter(|s| !s.is_empty()),
        _ => None,
    }
}

fn text(fields: &Map<String, Value>, names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| field(fields, name)?.as_str().map(str::to_owned))
}

/// Whether a field says true, as a boolean or as the string that the documentation shows (section 4.5).
pub(super) fn truth(value: Option<&Value>) -> Option<bool> {
    match value? {
        Value::Bool(b) => Some(*b),
        Value::String(s) if s.eq_ignore_ascii_case("true") => Some(true),
        Value::String(s) if s.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Whether the legacy family says that all went well.
pub(super) fn is_zero(fields: &Map<String, Value>) -> bool {
    number(field(fields, "errcode")).as_deref() == Some("0")
}

/// `Retry-After`, in seconds or as a date.
fn retry_after(header: Option<&str>, now: Timestamp) -> Option<Duration> {
    let header = header?.trim();
    let wait = match header.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => until(rfc2822::parse(header).ok()?.timestamp(), now)?,
    };
    Some(wait.min(MAX_WAIT)).filter(|wait| !wait.is_zero())
}

/// The end of the punishment that legacy texts name, to the second, in Beijing time (section 7).
fn beijing_time(message: &str, now: Timestamp) -> Option<Duration> {
    const SHAPE: &str = "0000-00-00 00:00:00";
    let shaped = |s: &&[u8]| {
        s.iter()
            .zip(SHAPE.bytes())
            .all(|(c, shape)| if shape == b'0' { c.is_ascii_digit() } else { *c == shape })
    };
    let found = message.as_bytes().windows(SHAPE.len()).rfind(shaped)?;
    let end: DateTime = std::str::from_utf8(found).ok()?.parse().ok()?;
    let end = Offset::constant(8).to_timestamp(end).ok()?;
    Some(until(end, now)?.min(MAX_WAIT))
}

fn until(end: Timestamp, now: Timestamp) -> Option<Duration> {
    end.duration_since(now)
        .try_into()
        .ok()
        .filter(|wait: &Duration| !wait.is_zero())
}

/// The text without what may not show: the given strings, and whatever looks like a mainland mobile.
pub(super) fn hidden(text: &str, hide: &[&str]) -> String {
    let mut text = text.to_owned();
    for secret in hide.iter().filter(|s| s.len() >= 4) {
        text = text.replace(secret, "****");
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(start) = rest.find(|c: char| c.is_ascii_digit()) {
        let run = &rest[start..];
        let run = &run[..run.find(|c: char| !c.is_ascii_digit()).unwrap_or(run.len())];
        out.push_str(&rest[..start]);
        if run.len() >= 11 && run[run.len() - 11..].starts_with('1') {
            out.extend([&run[..3], "****", &run[run.len() - 4..]]);
        } else {
            out.push_str(run);
        }
        rest = &rest[start + run.len()..];
    }
    out + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::testing::{MOBILE, SECRET, TOKEN, read, refused};
    use super::*;
    use crate::outcome::Class::Throttle;

    const SEND: Endpoint = Endpoint::CreateAndDeliver;
    const ALL: &[Endpoint] = &[
        Endpoint::GetToken,
        Endpoint::AccessToken,
        Endpoint::GetByMobile,
        Endpoint::CreateAndDeliver,
        Endpoint::Deliver,
        Endpoint::UpdateInstances,
        Endpoint::InteractiveSend,
        Endpoint::InteractiveUpdate,
    ];
    /// 2026-09-03 00:00:58 in Beijing.
    const NOW: i64 = 1_788_364_858;

    fn kind(endpoint: Endpoint, status: u16, body: impl AsRef<[u8]>) -> (Reason, crate::outcome::Class) {
        let failure = refused(endpoint, status, body);
        (failure.reason, failure.class)
    }

    /// How long an answer asks to wait that is read at [`NOW`].
    fn wait(retry_after: Option<&str>, body: &Value) -> Option<Duration> {
        let body = body.to_string();
        let answer = Answer {
            status: 200,
            retry_after,
            body: body.as_bytes(),
            hide: &[],
        };
        refusal(SEND, &answer, Timestamp::from_second(NOW).unwrap())
            .unwrap_err()
            .wait
    }

    #[test]
    fn what_is_no_answer_of_dingtalk_is_judged_by_its_status() {
        let garbage: &[&[u8]] = &[
            b"",
            b"ok",
            b"null",
            b"[]",
            b"\"ok\"",
            b"{\"success\":tr",
            b"\xff\xfe{}",
            b"{}{}",
        ];
        for body in garbage {
            for (status, expected) in [
                (200, (Reason::BadResponse, Unknown)),
                (204, (Reason::BadResponse, Unknown)),
                (302, (Reason::BadResponse, Transient)),
                (400, (Reason::BadResponse, Transient)),
                (401, (Reason::TokenRejected, Auth)),
                (403, (Reason::BadResponse, Transient)),
                (404, (Reason::BadResponse, Transient)),
                (429, (Reason::Throttled, Throttle)),
                (500, (Reason::ServerError, Unknown)),
                (502, (Reason::ServerError, Unknown)),
                (503, (Reason::ServerError, Unknown)),
                (504, (Reason::ServerError, Unknown)),
            ] {
                let what = String::from_utf8_lossy(body);
                assert_eq!(kind(SEND, status, body), expected, "{status} {what}");
                assert_ne!(kind(Endpoint::GetByMobile, status, body).1, Unknown, "{status} {what}");
            }
        }
        assert_eq!(
            kind(SEND, 500, r#"{"message":"no code"}"#),
            (Reason::ServerError, Unknown)
        );
        assert_eq!(kind(SEND, 403, r#"{"errcode":0}"#), (Reason::BadResponse, Transient));
    }

    #[test]
    fn an_object_without_a_refusing_code_is_handed_on_and_called_no_success() {
        for body in [
            r"{}",
            r#"{"errcode":0,"errmsg":"ok"}"#,
            r#"{"errcode":"0"}"#,
            r#"{"success":true,"code":"OK"}"#,
            r#"{"success":true,"code":200,"sub_code":"40014"}"#,
            r#"{"success":false}"#,
        ] {
            assert!(read(SEND, 200, body).is_ok(), "{body}");
            assert!(read(SEND, 500, body).is_err(), "{body}");
        }
    }

    #[test]
    fn an_unknown_path_is_told_by_its_code_though_it_comes_with_200() {
        let body = r#"{"errcode":404,"errmsg":"请求的URI地址不存在"}"#;
        for endpoint in ALL {
            assert_eq!(
                kind(*endpoint, 200, body),
                (Reason::PermissionMissing, Hold),
                "{endpoint}"
            );
        }
    }

    #[test]
    fn a_ban_of_the_ip_is_told_by_its_body_whatever_the_status() {
        let json = r#"{"status":1111,"wait":5,"punish":"deny","rgv587_flag":"sm"}"#;
        let html = "\u{feff}\r\n <!DOCTYPE html><html><title>denied</title></html>";
        for endpoint in ALL {
            for status in [200, 403, 429] {
                assert_eq!(
                    kind(*endpoint, status, json),
                    (Reason::IpBanned, Hold),
                    "{endpoint} {status}"
                );
                assert_eq!(
                    kind(*endpoint, status, html),
                    (Reason::IpBanned, Hold),
                    "{endpoint} {status}"
                );
            }
            assert_eq!(kind(*endpoint, 503, json), (Reason::IpBanned, Hold));
            assert_eq!(
                kind(*endpoint, 503, "<html>/_____tmd_____/punish</html>"),
                (Reason::IpBanned, Hold)
            );
        }
        assert_eq!(kind(SEND, 200, r#"{"status":"1111"}"#), (Reason::IpBanned, Hold));
        let gateway = "<html><h1>502 Bad Gateway</h1></html>";
        assert_eq!(kind(SEND, 502, gateway), (Reason::ServerError, Unknown), "not a ban");
    }

    #[test]
    fn the_code_in_the_wrapper_counts_wherever_it_stands() {
        for (body, code) in [
            (json!({"errcode": 88, "sub_code": "40014"}), "40014"),
            (json!({"errcode": 88, "sub_code": 40014}), "40014"),
            (json!({"errcode": 88, "subcode": "40014"}), "40014"),
            (json!({"errcode": 88, "SUB_CODE": " 40014 "}), "40014"),
            (
                json!({"errcode": 88, "errmsg": "ding talk error[subcode=40014,submsg=x]"}),
                "40014",
            ),
            (
                json!({"errcode": 88, "sub_code": null, "errmsg": "error[subcode= 40014 ]"}),
                "40014",
            ),
            (json!({"errcode": 88, "errmsg": "error[subcode=,submsg=x]"}), "88"),
            (json!({"errcode": 88}), "88"),
        ] {
            assert_eq!(
                super::code(body.as_object().unwrap(), 200).as_deref(),
                Some(code),
                "{body}"
            );
        }
        assert_eq!(
            kind(SEND, 200, r#"{"errcode":88,"errmsg":"?"}"#),
            (Reason::BadResponse, Transient),
            "the gateway refused, nobody knows why"
        );
    }

    #[test]
    fn a_wait_is_taken_from_the_header_in_seconds_or_as_a_date_and_capped() {
        let throttled = json!({"errcode": 90018});
        let seconds = |header| wait(Some(header), &throttled).map(|w| w.as_secs());
        assert_eq!(seconds("7"), Some(7));
        assert_eq!(seconds(" 7 "), Some(7));
        assert_eq!(seconds("86400"), Some(300));
        assert_eq!(seconds("Wed, 02 Sep 2026 16:01:10 GMT"), Some(12));
        assert_eq!(seconds("Wed, 02 Sep 2026 17:00:00 GMT"), Some(300));
        for nothing in ["0", "-5", "", "soon", "1.5", "Wed, 02 Sep 2026 16:00:00 GMT"] {
            assert_eq!(seconds(nothing), None, "{nothing}");
        }
        let busy = wait(Some("3"), &json!({"code": "systemBusy"}));
        assert_eq!(busy, Some(Duration::from_secs(3)), "whatever was refused");
    }

    #[test]
    fn a_wait_is_taken_from_the_beijing_time_in_a_throttle_text() {
        let told = |message: &str| wait(None, &json!({"errcode": 90018, "errmsg": message})).map(|w| w.as_secs());
        assert_eq!(told("限制将在 2026-09-03 00:01:03 结束."), Some(5));
        assert_eq!(told("处罚将在2026-09-03 00:01:03结束"), Some(5));
        assert_eq!(
            told("since 2026-09-03 00:00:50 until 2026-09-03 00:01:03"),
            Some(5),
            "the last one"
        );
        assert_eq!(told("限制将在 2026-09-03 08:00:00 结束"), Some(300));
        for nothing in [
            "限制将在 2026-09-03 00:00:00 结束",
            "2026-99-03 00:01:03",
            "2026-09-03",
            "",
        ] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
        let wrapped =
            json!({"errcode": 88, "sub_code": "90002", "errmsg": "ding talk error", "sub_msg": "2026-09-03 00:01:03"});
        assert_eq!(wait(None, &wrapped), Some(Duration::from_secs(5)));
        let other = json!({"errcode": 60121, "errmsg": "2026-09-03 00:01:03"});
        assert_eq!(wait(None, &other), None, "only a throttle text means a wait by it");
        assert_eq!(
            wait(Some("7"), &wrapped),
            Some(Duration::from_secs(7)),
            "the header counts more"
        );
    }

    #[test]
    fn a_limit_by_the_minute_is_waited_out_where_nothing_is_said() {
        let qpm = json!({"code": "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi"});
        assert_eq!(wait(None, &qpm), Some(Duration::from_mins(1)));
        assert_eq!(wait(Some("2"), &qpm), Some(Duration::from_secs(2)));
        assert_eq!(
            wait(None, &json!({"code": "Forbidden.AccessDenied.QpsLimitForApi"})),
            None
        );
    }

    #[test]
    fn a_space_that_was_missed_is_judged_by_its_text() {
        for (message, group, expected) in [
            ("spaceId is illegal", false, (Reason::UserNotFound, Recipient)),
            ("SpaceID is illegal.", true, (Reason::ConversationInvalid, Recipient)),
            ("chatbot not exist", false, (Reason::RobotInvalid, Hold)),
            ("SYSTEM_ERROR", false, (Reason::ServerError, Transient)),
            ("system error", true, (Reason::ServerError, Transient)),
            ("system.busy", false, (Reason::ServerError, Transient)),
        ] {
            for endpoint in [SEND, Endpoint::Deliver] {
                let failure = undelivered(endpoint, message, group, &[]);
                assert_eq!((failure.reason, failure.class), expected, "{endpoint} {message}");
            }
        }
    }

    #[test]
    fn a_space_that_was_missed_for_an_unknown_cause_is_dead_only_when_it_is_missed_again() {
        for message in ["anything else", ""] {
            let class = |endpoint| {
                let failure = undelivered(endpoint, message, false, &[]);
                assert_eq!(failure.reason, Reason::RequestRefused);
                failure.class
            };
            assert_eq!(class(SEND), Transient, "{message}");
            assert_eq!(class(Endpoint::Deliver), Recipient, "{message}");
        }
    }

    #[test]
    fn a_detail_names_call_code_text_and_request_and_hides_what_is_secret() {
        let body = json!({
            "errcode": 88, "sub_code": "60011", "request_id": "16l4ew3d47pdp",
            "errmsg": format!("no right for {TOKEN} {SECRET} {MOBILE} +86-{MOBILE} 8613800138000 at 20260903000103"),
            "sub_msg": "没有调用该接口的权限\n{requiredScopes=[qyapi_get_member_by_mobile]}",
        });
        let detail = refused(Endpoint::GetByMobile, 200, body.to_string()).detail;
        for told in [
            "getbymobile",
            "60011",
            "16l4ew3d47pdp",
            "qyapi_get_member_by_mobile",
            "20260903000103",
        ] {
            assert!(detail.contains(told), "{told}: {detail}");
        }
        for secret in [TOKEN, SECRET, MOBILE, "13800138000", "\n"] {
            assert!(!detail.contains(secret), "{detail}");
        }
        let scopes = json!({
            "code": "Forbidden.AccessDenied.AccessTokenPermissionDenied", "message": "x",
            "accessdenieddetail": {"requiredScopes": ["Card.Instance.Write"]},
        });
        assert!(
            refused(SEND, 403, scopes.to_string())
                .detail
                .contains("Card.Instance.Write")
        );
        let long = json!({"code": "x", "message": "长".repeat(100_000), "requestid": "r-1"});
        let detail = refused(SEND, 400, long.to_string()).detail;
        assert!(detail.len() <= 1024 && detail.contains("r-1"), "{detail}");
        assert_eq!(hidden("abc 138 0013 1501234123", &["abc"]), "abc 138 0013 1501234123");
    }

    /// JSON that comes near what DingTalk says.
    fn near() -> impl Strategy<Value = Vec<u8>> {
        let value = prop_oneof![
            prop::sample::select(vec![
                json!(0),
                json!(88),
                json!("88"),
                json!("0"),
                json!(-1),
                json!(40014),
                json!("ok"),
                json!(200),
                json!(null),
                json!(true),
                json!("param.invalid"),
                json!("Forbidden.AccessDenied.QpsLimitForApi"),
                json!(1111),
                json!({}),
                json!([1]),
                json!(1.5),
                json!("ding talk error[subcode=90018,submsg=2026-09-03 00:01:03]"),
            ]),
            ".{0,40}".prop_map(Value::from),
        ];
        let key = prop::sample::select(vec![
            "errcode",
            "sub_code",
            "subcode",
            "errmsg",
            "sub_msg",
            "code",
            "message",
            "success",
            "result",
            "status",
            "requestid",
            "accessdenieddetail",
        ]);
        prop::collection::vec((key, value, any::<bool>()), 0..6).prop_map(|fields| {
            let object: std::collections::BTreeMap<&str, (Value, bool)> = fields
                .into_iter()
                .map(|(key, value, upper)| (key, (value, upper)))
                .collect();
            let named = |(key, (value, upper)): (&str, (Value, bool))| {
                (if upper { key.to_uppercase() } else { key.to_owned() }, value)
            };
            Value::Object(object.into_iter().map(named).collect())
                .to_string()
                .into_bytes()
        })
    }

    /// Whether the bytes are an object that refuses nothing, worked out apart from the code under test.
    fn refuses_nothing(body: &[u8]) -> bool {
        let Ok(Value::Object(fields)) = serde_json::from_slice(body) else {
            return false;
        };
        fields.iter().all(|(key, value)| {
            let word = match value {
                Value::Number(n) => n.to_string(),
                Value::String(s) => s.trim().to_ascii_lowercase(),
                _ => return true,
            };
            match key.to_ascii_lowercase().as_str() {
                "errcode" => matches!(word.as_str(), "" | "0"),
                "code" => matches!(word.as_str(), "" | "0" | "200" | "ok" | "success"),
                "status" => word != "1111",
                _ => true,
            }
        })
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_only_a_2xx_object_without_a_refusing_code_passes(
            body in prop_oneof![prop::collection::vec(any::<u8>(), 0..200), near()],
            status in prop_oneof![any::<u16>(), Just(200), Just(400), Just(500)],
            retry_after in prop::option::of("[ -~]{0,40}"),
            endpoint in prop::sample::select(ALL.to_vec()),
        ) {
            let answer = Answer { status, retry_after: retry_after.as_deref(), body: &body, hide: &[TOKEN] };
            let passes = (200..300).contains(&status) && refuses_nothing(&body);
            match super::read(endpoint, &answer) {
                Ok(_) => prop_assert!(passes),
                Err(failure) => {
                    prop_assert!(!passes, "{failure:?}");
                    prop_assert!(failure.detail.len() <= 1024 && !failure.detail.contains(['\n', '\r']));
                    prop_assert!(failure.wait.is_none_or(|wait| wait <= MAX_WAIT && !wait.is_zero()));
                    prop_assert!(failure.class != Unknown || !endpoint.is_read());
                }
            }
        }

        #[test]
        fn no_mobile_stays_whole_in_any_text(before in ".{0,20}", mobile in "1[3-9][0-9]{9}", after in "[^0-9]?.{0,20}") {
            let shown = hidden(&format!("{before}{mobile} {after}"), &[]);
            prop_assert!(!shown.contains(&mobile));
        }
    }
}
