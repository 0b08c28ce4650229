//! What an answer of DingTalk says, in all its layers.
//!
//! Both API families are brought to one code first (`dingtalk-api.md` 6), then looked up in `error`'s table. Separate
//! because finding the code is one thing and its meaning another. That an answer refuses nothing is not yet success; the
//! documented fields of success are read by the caller.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::Offset;
use serde_json::{Map, Value};

use super::client::Endpoint;
use super::error::{Failure, SPLIT, meaning};
use crate::outcome::Class::{Auth, Hold, Permanent, Recipient, Throttle, Transient, Unknown};
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
    settle(
        endpoint,
        Failure::new(Reason::BadResponse, Unknown, format!("{endpoint}: {what}")),
    )
}

/// What became of one space of a delivery that as a whole succeeded (section 5.4).
pub(super) fn undelivered(endpoint: Endpoint, message: &str, group: bool, hide: &[&str]) -> Failure {
    let text = message.to_ascii_lowercase();
    let (reason, class) = if text.contains("spaceid is illegal") {
        (
            if group {
                Reason::ConversationInvalid
            } else {
                Reason::UserNotFound
            },
            Recipient,
        )
    } else if text.contains("chatbot not exist") {
        (Reason::RobotInvalid, Hold)
    } else if [
        "system_error",
        "system error",
        "system busy",
        "systembusy",
        "system.busy",
    ]
    .iter()
    .any(|t| text.contains(t))
    {
        (Reason::ServerError, Transient)
    } else {
        (Reason::RequestRefused, Recipient)
    };
    Failure::new(
        reason,
        class,
        format!("{endpoint}: not delivered: {}", hidden(message, hide)),
    )
}

/// What the kind of call adds: a read cannot have done anything; a token call knows no recipient and no job; a look-up
/// concerns one recipient alone.
fn settle(endpoint: Endpoint, mut failure: Failure) -> Failure {
    match (endpoint, failure.class) {
        (_, Unknown) if endpoint.is_read() => failure.class = Transient,
        (_, Auth | Recipient | Permanent) if endpoint.is_token() => {
            failure = Failure {
                splits: false,
                ..failure
            };
            (failure.reason, failure.class) = (Reason::BadCredentials, Hold);
        }
        (Endpoint::GetByMobile, Permanent) => failure.class = Recipient,
        _ => {}
    }
    failure
}

fn refusal(endpoint: Endpoint, answer: &Answer<'_>, now: Timestamp) -> Result<Map<String, Value>, Failure> {
    let status = answer.status;
    let fail = |reason, class, what: &str| {
        let text = format!("{endpoint}: {}", hidden(what, answer.hide));
        Failure {
            wait: retry_after(answer.retry_after, now),
            ..Failure::new(reason, class, text)
        }
    };
    let by_status = |what: &str| match status {
        401 => fail(Reason::TokenRejected, Auth, what),
        429 => fail(Reason::Throttled, Throttle, what),
        500.. => fail(Reason::ServerError, Unknown, what),
        200..300 => fail(Reason::BadResponse, Unknown, what),
        // Refused, though not in DingTalk's words: a proxy, perhaps. Nothing was executed.
        _ => fail(Reason::BadResponse, Transient, what),
    };

    let Ok(Value::Object(fields)) = serde_json::from_slice(answer.body) else {
        let text = String::from_utf8_lossy(&answer.body[..answer.body.len().min(4096)]);
        let html = text
            .trim_start_matches(['\u{feff}', ' ', '\r', '\n', '\t'])
            .starts_with('<');
        // The ban page has no documented status (section 7), but a gateway's own 5xx page is none.
        if html && (status < 500 || text.contains("punish")) {
            return Err(fail(
                Reason::IpBanned,
                Hold,
                &format!("HTTP {status} with an HTML page: this egress IP is banned"),
            ));
        }
        return Err(by_status(&format!(
            "HTTP {status} with no JSON object in its {} bytes",
            answer.body.len()
        )));
    };
    if number(field(&fields, "status")).as_deref() == Some("1111") {
        return Err(fail(Reason::IpBanned, Hold, "status 1111: this egress IP is banned"));
    }

    let message = text(&fields, &["errmsg", "message"]).unwrap_or_default();
    let Some(code) = code(&fields, status) else {
        return if (200..300).contains(&status) {
            Ok(fields)
        } else {
            Err(by_status(&format!("HTTP {status} {message}")))
        };
    };
    let (reason, class) = if code == WRAPPED {
        (Reason::BadResponse, Transient)
    } else {
        meaning(&code, status)
    };
    let sub = text(&fields, &["sub_msg", "submsg"]).filter(|sub| !message.contains(sub.as_str()));
    let scopes = field(&fields, "accessdenieddetail").map(|detail| format!(" {detail}"));
    let request = text(&fields, &["requestid", "request_id"]).map(|id| format!(" (request {id})"));
    let mut failure = fail(
        reason,
        class,
        // The request ID goes before what may be long.
        &format!(
            "{code}{} {message} {}{}",
            request.unwrap_or_default(),
            sub.as_deref().unwrap_or_default(),
            scopes.as_deref().unwrap_or_default()
        ),
    );
    let lower = code.to_ascii_lowercase();
    failure.card_exists = lower == "param.cardalreadyexist";
    failure.splits |= class == Permanent && SPLIT.contains(&lower.as_str());
    if reason == Reason::Throttled {
        let minute = lower.contains("qpmlimit").then_some(Duration::from_mins(1));
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
