//! What an answer of DingTalk means: the one table of codes, and the failure made from it.
//!
//! Separate so that a code is looked up in one place and a test can hold the table beside the documentation
//! (`dingtalk-api.md` 2 to 7). Both API families are brought to one code first (section 6), then classified. This file
//! sends nothing, waits for nothing and decides on no retry: it says what happened. That an answer carries no known
//! code is not yet success; the documented fields of success are read by the caller.

use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::rfc2822;
use jiff::tz::Offset;
use serde_json::{Map, Value};

use super::client::Endpoint;
use crate::outcome::{Class, Reason};

/// The longest detail, in bytes: it travels in a message header.
const MAX_DETAIL: usize = 1024;
/// A wait that DingTalk names is believed up to here; the punishments it documents end within five minutes.
const MAX_WAIT: Duration = Duration::from_mins(5);

/// Why a call, or one recipient of it, came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Failure {
    /// The word for it.
    pub reason: Reason,
    /// What it asks of the caller. Not derived from the reason: whether the request had been written decides too.
    pub class: Class,
    /// What happened: call, code, message, request ID. Never a token, a secret or a whole mobile; at most 1 KiB.
    pub detail: String,
    /// How long DingTalk said to wait, at most five minutes.
    pub wait: Option<Duration>,
    /// A card with this ID had been made before (`param.cardAlreadyExist`).
    pub card_exists: bool,
    /// It may be one recipient's fault, so the halves of the call are worth trying.
    pub splits: bool,
}

impl Failure {
    /// A failure of `class`, with a detail that is cut to size. Only the recipient class splits by itself.
    #[must_use]
    pub fn new(reason: Reason, class: Class, detail: impl Into<String>) -> Self {
        let splits = class == Class::Recipient;
        let detail = tidy(&detail.into());
        Self {
            reason,
            class,
            detail,
            wait: None,
            card_exists: false,
            splits,
        }
    }

    /// What an operator can do about it, in the words of DingTalk's console.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.reason {
            Reason::Throttled => {
                "Nothing to do at once: the worker slows down; lower rate_per_second if other programs use this app too."
            }
            Reason::QuotaSpent => {
                "The organisation's calls of this month are used up: buy an API quota pack in the DingTalk open platform, or wait for the next month."
            }
            Reason::BadCredentials => {
                "Compare app_key and app_secret with Credentials and Basic Information (Client ID, Client Secret) of the application in the DingTalk console."
            }
            Reason::IpNotAllowed => {
                "Add this worker's egress IP to Security Settings, Server Egress IP, of the application in the DingTalk console."
            }
            Reason::PermissionMissing => {
                "Grant the permission named in the detail under Permission Management of the application in the DingTalk console (qyapi_get_member_by_mobile to look up mobiles, Card.Instance.Write for cards); if the call itself is unknown there, check dingtalk.api_url, dingtalk.oapi_url and the app's card_api."
            }
            Reason::RobotInvalid => {
                "Compare robot_code with the RobotCode under Robot of the application in the DingTalk console, and publish the robot."
            }
            Reason::Paused => "An operator paused this app: set apps.NAME.paused to false.",
            Reason::BudgetReserved => {
                "The rest of monthly_calls is kept for urgent jobs: raise monthly_calls, lower monthly_reserve, or wait for the next month."
            }
            Reason::IpBanned => {
                "DingTalk banned this egress IP for about five minutes for too many calls: find what else calls DingTalk from here; the worker resumes by itself."
            }
            Reason::TokenRejected => {
                "DingTalk refuses even a fresh access token: check that app_key belongs to this organisation and that the application is enabled in the DingTalk console."
            }
            Reason::ServerError => {
                "DingTalk had a fault of its own; it is tried again. If it lasts, open a ticket with the request ID."
            }
            Reason::Network => {
                "Check the way from this host to dingtalk.api_url and dingtalk.oapi_url: DNS, firewall, proxy."
            }
            Reason::BadResponse => {
                "What answered does not speak DingTalk's API: check dingtalk.api_url, dingtalk.oapi_url and any proxy in between."
            }
            Reason::Deadline => {
                "The attempt took longer than retry.job_deadline: look at the rate limit and at DingTalk's latency."
            }
            Reason::UserNotFound => {
                "Nobody in this organisation has this mobile or user ID: correct the recipient, or add the member under Contacts."
            }
            Reason::MobileInvalid => {
                "The mobile is no number that DingTalk takes: 11 digits, or +CC-number outside mainland China."
            }
            Reason::UserDisabled => {
                "The member is disabled or outside the application's contact scope: widen the scope under Permission Management."
            }
            Reason::ConversationInvalid => {
                "The group is unknown, dissolved, of another organisation, or lacks the robot: check openConversationId and add the robot to the group."
            }
            Reason::TemplateInvalid => {
                "Check the template ID on the card platform, that the template is published, and that it is tied to this application."
            }
            Reason::ParamsInvalid => "Correct the job's params: the template's variables, at most 100 KB in all.",
            Reason::ContentRefused => "DingTalk's content security refused the text: change the card's content.",
            Reason::RequestRefused => "DingTalk refused the request for good: the code in the detail says why.",
            Reason::CardMissing => {
                "The card to update does not exist: check update_of, and that the first job was delivered."
            }
            Reason::InvalidJob => "Correct the job: the detail names the field.",
            Reason::UnknownApp => "Name an app that is in the configuration.",
            Reason::AttemptsExhausted => "Every attempt failed: see the detail of the last one, then replay.",
            Reason::DeliveryLimit => {
                "The message was with workers that died: look at their logs before it is replayed."
            }
            Reason::Unroutable => "A queue was missing: run dingcard topology, then replay.",
            Reason::Panic => "A fault of dingcard itself: report it with the log.",
            Reason::Unconfirmed | Reason::None => "Nothing to do.",
        }
    }
}

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

use Class::{Auth, Hold, Permanent, Recipient, Throttle, Transient, Unknown};

/// Code by code, in lower case: legacy numbers (effective code, so `sub_code` where errcode is 88) and new-family words.
/// What is not here is judged by its prefix or by the HTTP status, in [`meaning`]. Throttling comes first because its
/// codes share a prefix with the permission codes (section 6).
#[rustfmt::skip]
const CODES: &[(&[&str], Reason, Class)] = &[
    // 6, 7: refused at the gateway before execution.
    (&["90001", "90002", "90003", "90004", "90005", "90006", "90007", "90008", "90009", "90010", "90011", "90012", "90013",
       "90014", "90017", "90018", "90019", "45009"], Reason::Throttled, Throttle),
    (&["90020", "forbidden.accessdenied.apicountlimitfororg"], Reason::QuotaSpent, Hold),
    // 2.1, 2.2
    (&["40096", "40089", "40013", "41002", "41004", "invalidclientidorsecret", "invalid.client", "unauthorized.client"],
       Reason::BadCredentials, Hold),
    // 2.4
    (&["40014", "42001", "40001", "33001", "invalidauthentication", "invalidaccesstoken"], Reason::TokenRejected, Auth),
    (&["40000", "41001", "43007", "authenticationfailed.missingparameter"], Reason::RequestRefused, Permanent),
    // 2.5, 4.4
    (&["60020", "forbidden.accessdenied.ipnotinwhitelist"], Reason::IpNotAllowed, Hold),
    (&["60011", "forbidden.accessdenied.accesstokenpermissiondenied", "permission.checkfailed"], Reason::PermissionMissing, Hold),
    // 1, 3: a call that this host does not know. No job can help it.
    (&["22", "404"], Reason::PermissionMissing, Hold),
    (&["chatbot.notfound", "querychatbot.wrong", "invalid.robotcode", "chatbotnotinstall", "chatbotnotfound",
       "chatbotid.notallow.sendoto"], Reason::RobotInvalid, Hold),
    // 3, 6: the request came as far as a service that then failed.
    (&["-1", "400001", "systembusy", "systemerror", "system.busy", "server.error", "sendcardmessagefailed"],
       Reason::ServerError, Unknown),
    // 4.4: failed before anything was sent, by the text of the documentation.
    (&["send.oa.failed", "getpicturefailed"], Reason::ServerError, Transient),
    // 3, 4.4, 5.4, 6
    (&["60121", "33012", "40003", "60111", "userinfo.converterror", "uiddecrypterror", "usernotexist", "emptyuserid",
       "param.useridnotexist"], Reason::UserNotFound, Recipient),
    (&["40104", "60103"], Reason::MobileInvalid, Recipient),
    (&["60120", "50002"], Reason::UserDisabled, Recipient),
    (&["cidparse.wrong", "org.notown.group", "scenegroupnotfound", "scenegroup.checkfailed", "ciddecrypterror",
       "decryptopenconversationidfailed"], Reason::ConversationInvalid, Recipient),
    // 4.4, 4.5, 5.4
    (&["cardinstance.wrong", "cardtemplateinvalid", "param.templatenotexist", "param.templateunpublished"],
       Reason::TemplateInvalid, Permanent),
    (&["contentsecuritychckfailed", "contentcheckerror", "card.content.checkfailed", "param.contentunsafe"],
       Reason::ContentRefused, Permanent),
    (&["param.cardpublicdataempty", "param.carddataandprivatedatabothempty"], Reason::ParamsInvalid, Permanent),
    (&["cardinstance.notexist", "param.cardnotexist"], Reason::CardMissing, Permanent),
    (&["400002", "40035", "40038", "40022", "param.invalid", "param.empty", "param.openspaceidinvalid",
       "param.cardalreadyexist"], Reason::RequestRefused, Permanent),
];

/// Codes of the permanent class that may nevertheless be one recipient's fault.
const SPLIT: &[&str] = &["param.invalid", "param.openspaceidinvalid"];

/// What a code means, with the HTTP status as the second witness.
fn meaning(code: &str, status: u16) -> (Reason, Class) {
    let code = code.to_ascii_lowercase();
    if status == 429 || code.contains("qpslimit") || code.contains("qpmlimit") {
        return (Reason::Throttled, Throttle);
    }
    let row = CODES.iter().find(|(codes, ..)| codes.contains(&code.as_str()));
    match row {
        // A 5xx is never the job's fault, whatever word comes with it.
        Some((_, _, Recipient | Permanent)) | None if status >= 500 => (Reason::ServerError, Unknown),
        Some((_, reason, class)) => (*reason, *class),
        None if status == 401 => (Reason::TokenRejected, Auth),
        None if code.starts_with("forbidden.accessdenied.") => (Reason::PermissionMissing, Hold),
        None => (Reason::RequestRefused, Permanent),
    }
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

/// One line of at most [`MAX_DETAIL`] bytes.
fn tidy(detail: &str) -> String {
    let mut line = detail
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|w| !w.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if line.len() > MAX_DETAIL {
        let mut end = MAX_DETAIL - '…'.len_utf8();
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        line.truncate(end);
        line.push('…');
    }
    line
}
