//! What a code of DingTalk means: the one table, and the failure made from it.
//!
//! Separate so that a code is looked up in one place and a test can hold the table beside the documentation
//! (`dingtalk-api.md` 2 to 7). How a code is found in an answer is `answer`'s business. This file sends nothing, waits for
//! nothing and decides on no retry: it says what happened.

use std::time::Duration;

use crate::outcome::{Class, Reason};

/// The longest detail, in bytes: it travels in a message header.
const MAX_DETAIL: usize = 1024;
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
pub(super) const SPLIT: &[&str] = &["param.invalid", "param.openspaceidinvalid"];

/// What a code means, with the HTTP status as the second witness.
pub(super) fn meaning(code: &str, status: u16) -> (Reason, Class) {
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
