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

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::super::client::Endpoint;
    use super::super::testing::refused;
    use super::*;
    use Reason::{
        BadCredentials, CardMissing, ContentRefused, ConversationInvalid, IpNotAllowed, MobileInvalid, ParamsInvalid,
        PermissionMissing, QuotaSpent, RequestRefused, RobotInvalid, ServerError, TemplateInvalid, Throttled,
        TokenRejected, UserDisabled, UserNotFound,
    };

    /// Legacy codes at `gettoken`: 2.1, and of 6 and 7 what concerns it.
    const GET_TOKEN: &[(&str, Reason, Class)] = &[
        ("40096", BadCredentials, Hold),
        ("40089", BadCredentials, Hold),
        ("40001", BadCredentials, Hold),
        ("40013", BadCredentials, Hold),
        ("40035", BadCredentials, Hold),
        ("41002", BadCredentials, Hold),
        ("41004", BadCredentials, Hold),
        ("60020", IpNotAllowed, Hold),
        ("90002", Throttled, Throttle),
        ("90018", Throttled, Throttle),
        ("-1", ServerError, Transient),
        ("404", PermissionMissing, Hold),
        // Of no documented meaning here; no job can help it.
        ("60121", BadCredentials, Hold),
        ("40014", BadCredentials, Hold),
    ];

    /// Legacy codes at `getbymobile`: 2.4, 2.5, 3, and the legacy column of 6 and 7. What is permanent concerns the one
    /// recipient alone.
    const LOOK_UP: &[(&str, Reason, Class)] = &[
        // 2.4
        ("40014", TokenRejected, Auth),
        ("42001", TokenRejected, Auth),
        ("40001", TokenRejected, Auth),
        ("33001", TokenRejected, Auth),
        ("40000", RequestRefused, Recipient),
        ("41001", RequestRefused, Recipient),
        ("43007", RequestRefused, Recipient),
        // 2.5
        ("60020", IpNotAllowed, Hold),
        ("60011", PermissionMissing, Hold),
        ("50002", UserDisabled, Recipient),
        // 3
        ("60121", UserNotFound, Recipient),
        ("40104", MobileInvalid, Recipient),
        ("400002", RequestRefused, Recipient),
        ("60103", MobileInvalid, Recipient),
        ("40022", RequestRefused, Recipient),
        ("40035", RequestRefused, Recipient),
        ("40038", RequestRefused, Recipient),
        ("22", PermissionMissing, Hold),
        ("-1", ServerError, Transient),
        // 6, 7
        ("90018", Throttled, Throttle),
        ("90002", Throttled, Throttle),
        ("90001", Throttled, Throttle),
        ("90003", Throttled, Throttle),
        ("90004", Throttled, Throttle),
        ("90005", Throttled, Throttle),
        ("90006", Throttled, Throttle),
        ("90007", Throttled, Throttle),
        ("90008", Throttled, Throttle),
        ("90009", Throttled, Throttle),
        ("90010", Throttled, Throttle),
        ("90011", Throttled, Throttle),
        ("90012", Throttled, Throttle),
        ("90013", Throttled, Throttle),
        ("90014", Throttled, Throttle),
        ("90017", Throttled, Throttle),
        ("90019", Throttled, Throttle),
        ("45009", Throttled, Throttle),
        ("90020", QuotaSpent, Hold),
        ("40096", BadCredentials, Hold),
        ("40089", BadCredentials, Hold),
        ("404", PermissionMissing, Hold),
        ("400001", ServerError, Transient),
        ("33012", UserNotFound, Recipient),
        ("40003", UserNotFound, Recipient),
        ("60111", UserNotFound, Recipient),
        ("60120", UserDisabled, Recipient),
        // Any other.
        ("71006", RequestRefused, Recipient),
    ];

    /// New-family codes at `accessToken`: 2.2.
    const ACCESS_TOKEN: &[(u16, &str, Reason, Class)] = &[
        (400, "invalidClientIdOrSecret", BadCredentials, Hold),
        (400, "invalid.client", BadCredentials, Hold),
        (400, "unsupported.grant.type", BadCredentials, Hold),
        (401, "unauthorized.client", BadCredentials, Hold),
        (401, "InvalidAuthentication", BadCredentials, Hold),
        (500, "server.error", ServerError, Transient),
        (500, "unknownError", ServerError, Transient),
        (403, "Forbidden.AccessDenied.IpNotInWhiteList", IpNotAllowed, Hold),
        (403, "Forbidden.AccessDenied.QpsLimitForApi", Throttled, Throttle),
    ];

    /// New-family codes at calls that send or update, whichever: 2.4, 2.5, 4.4, 4.5, 5.4, 6, 7.
    #[rustfmt::skip]
    const CARDS: &[(u16, &str, Reason, Class)] = &[
        // 2.4
        (400, "InvalidAuthentication", TokenRejected, Auth),
        (401, "InvalidAuthentication", TokenRejected, Auth),
        (403, "InvalidAuthentication", TokenRejected, Auth),
        (401, "SomethingElse", TokenRejected, Auth),
        (400, "AuthenticationFailed.MissingParameter", RequestRefused, Permanent),
        (403, "InvalidAccessToken", TokenRejected, Auth),
        // 2.5
        (403, "Forbidden.AccessDenied.IpNotInWhiteList", IpNotAllowed, Hold),
        (403, "Forbidden.AccessDenied.AccessTokenPermissionDenied", PermissionMissing, Hold),
        (403, "Forbidden.AccessDenied.SomethingElse", PermissionMissing, Hold),
        // 4.4
        (400, "param.empty", RequestRefused, Permanent),
        (400, "param.invalid", RequestRefused, Permanent),
        (400, "callbackUrl.empty", RequestRefused, Permanent),
        (400, "card.templateEmpty", RequestRefused, Permanent),
        (400, "card.outTraceIdEmpty", RequestRefused, Permanent),
        (400, "card.outTraceIdError", RequestRefused, Permanent),
        (400, "outTrackId.exceed.limit", RequestRefused, Permanent),
        (400, "invalidParameter.cid.empty", RequestRefused, Permanent),
        (400, "duplicateKey", RequestRefused, Permanent),
        (400, "cardInstance.wrong", TemplateInvalid, Permanent),
        (400, "userInfo.convertError", UserNotFound, Recipient),
        (400, "cidParse.wrong", ConversationInvalid, Recipient),
        (400, "org.notOwn.group", ConversationInvalid, Recipient),
        (400, "sceneGroupNotFound", ConversationInvalid, Recipient),
        (400, "sceneGroup.checkFailed", ConversationInvalid, Recipient),
        (400, "chatbot.notFound", RobotInvalid, Hold),
        (400, "queryChatbot.wrong", RobotInvalid, Hold),
        (400, "invalid.robotCode", RobotInvalid, Hold),
        (400, "permission.checkFailed", PermissionMissing, Hold),
        (400, "getPictureFailed", ServerError, Transient),
        (400, "sendCardMessageFailed", ServerError, Unknown),
        (400, "send.oa.failed", ServerError, Transient),
        (500, "systemBusy", ServerError, Unknown),
        (500, "systemError", ServerError, Unknown),
        (400, "chatbotNotInstall", RobotInvalid, Hold),
        (400, "chatbotNotFound", RobotInvalid, Hold),
        (400, "chatbotId.notAllow.sendOTO", RobotInvalid, Hold),
        (400, "userNotExist", UserNotFound, Recipient),
        (400, "emptyUserId", UserNotFound, Recipient),
        (400, "uidDecryptError", UserNotFound, Recipient),
        (400, "cidDecryptError", ConversationInvalid, Recipient),
        (400, "decryptOpenconversationIdFailed", ConversationInvalid, Recipient),
        (400, "contentSecurityChckFailed", ContentRefused, Permanent),
        (400, "contentCheckError", ContentRefused, Permanent),
        (400, "card.content.checkFailed", ContentRefused, Permanent),
        (400, "cardTemplateInvalid", TemplateInvalid, Permanent),
        (400, "anyOther", RequestRefused, Permanent),
        // 4.5
        (400, "cardInstance.notExist", CardMissing, Permanent),
        (400, "outTrackIdLengthLimited", RequestRefused, Permanent),
        // 5.4
        (400, "param.outTrackIdEmpty", RequestRefused, Permanent),
        (400, "param.cardTemplateIdEmpty", RequestRefused, Permanent),
        (400, "param.cardPublicDataEmpty", ParamsInvalid, Permanent),
        (400, "param.userIdEmpty", RequestRefused, Permanent),
        (400, "param.openSpaceIdEmpty", RequestRefused, Permanent),
        (400, "param.openSpaceIdInvalid", RequestRefused, Permanent),
        (400, "param.openDeliverModelEmpty", RequestRefused, Permanent),
        (400, "param.openDeliverModelError", RequestRefused, Permanent),
        (400, "param.spaceDeliverModelEmpty", RequestRefused, Permanent),
        (400, "param.openSpaceModelInvalid", RequestRefused, Permanent),
        (400, "param.cardDataAndPrivateDataBothEmpty", ParamsInvalid, Permanent),
        (400, "param.dynamicDataSourceIdEmpty", RequestRefused, Permanent),
        (400, "param.templateNotExist", TemplateInvalid, Permanent),
        (400, "param.templateUnpublished", TemplateInvalid, Permanent),
        (400, "param.contentUnsafe", ContentRefused, Permanent),
        (400, "param.userIdNotExist", UserNotFound, Recipient),
        (400, "param.cardNotExist", CardMissing, Permanent),
        (400, "param.cardAlreadyExist", RequestRefused, Permanent),
        (500, "system.busy", ServerError, Unknown),
        (429, "system.busy", Throttled, Throttle),
        // 6, 7
        (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", Throttled, Throttle),
        (403, "Forbidden.AccessDenied.QpsLimitForApi", Throttled, Throttle),
        (403, "Forbidden.AccessDenied.QpmLimitForAppkeyAndApi", Throttled, Throttle),
        (403, "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi", Throttled, Throttle),
        (403, "Forbidden.AccessDenied.QpmLimitForSuitekeyAndOrgAndApi", Throttled, Throttle),
        (429, "systemBusy", Throttled, Throttle),
        (429, "anyOther", Throttled, Throttle),
        (403, "Forbidden.AccessDenied.ApiCountLimitForOrg", QuotaSpent, Hold),
        (401, "unauthorized.client", BadCredentials, Hold),
        (404, "anyOther", RequestRefused, Permanent),
        (502, "anyOther", ServerError, Unknown),
        (503, "anyOther", ServerError, Unknown),
        (504, "anyOther", ServerError, Unknown),
        // A 5xx is nobody's fault, whatever word comes with it.
        (500, "param.invalid", ServerError, Unknown),
        (500, "userNotExist", ServerError, Unknown),
    ];

    const SENDS: &[Endpoint] = &[
        Endpoint::CreateAndDeliver,
        Endpoint::Deliver,
        Endpoint::UpdateInstances,
        Endpoint::InteractiveSend,
        Endpoint::InteractiveUpdate,
    ];

    fn says(endpoint: Endpoint, status: u16, body: &str, reason: Reason, class: Class) {
        let failure = refused(endpoint, status, body);
        assert_eq!(
            (failure.reason, failure.class),
            (reason, class),
            "{endpoint} {status} {body}"
        );
    }

    /// A legacy code bare and in the gateway's wrapper, in every way it is written.
    fn legacy(code: &str) -> Vec<String> {
        let number: i64 = code.parse().unwrap();
        let bracket = format!("ding talk error[subcode={code},submsg=x]");
        [
            json!({"errcode": number, "errmsg": "x"}),
            json!({"errcode": code, "errmsg": "x"}),
            json!({"errcode": 88, "sub_code": code, "sub_msg": "x", "errmsg": bracket, "request_id": "r"}),
            json!({"errcode": "88", "sub_code": number, "errmsg": "x"}),
            json!({"errcode": 88, "subcode": code, "submsg": "x"}),
            json!({"errcode": 88, "errmsg": bracket}),
            json!({"errcode": 88, "sub_code": "", "errmsg": bracket}),
        ]
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    /// A new-family code in both letter cases of its keys and in any of its own.
    fn new_family(code: &str) -> Vec<String> {
        [
            json!({"code": code, "message": "x", "requestid": "r"}),
            json!({"Code": code, "Message": "x", "RequestId": "r"}),
            json!({"code": code.to_uppercase(), "message": "x"}),
            json!({"Code": code.to_lowercase(), "Message": "x"}),
        ]
        .iter()
        .map(ToString::to_string)
        .collect()
    }

    #[test]
    fn legacy_codes_mean_what_the_documentation_says_bare_and_wrapped() {
        for (endpoint, rows) in [(Endpoint::GetToken, GET_TOKEN), (Endpoint::GetByMobile, LOOK_UP)] {
            for (code, reason, class) in rows {
                for body in legacy(code) {
                    says(endpoint, 200, &body, *reason, *class);
                }
            }
        }
    }

    #[test]
    fn new_family_codes_mean_what_the_documentation_says_in_any_letter_case() {
        let at = |endpoint: Endpoint, rows: &[(u16, &str, Reason, Class)]| {
            for (status, code, reason, class) in rows {
                for body in new_family(code) {
                    says(endpoint, *status, &body, *reason, *class);
                }
            }
        };
        at(Endpoint::AccessToken, ACCESS_TOKEN);
        for send in SENDS {
            at(*send, CARDS);
        }
    }

    #[test]
    fn a_code_decides_under_http_200_too() {
        for (status, code, reason, class) in CARDS.iter().filter(|(status, ..)| matches!(status, 400 | 403)) {
            let body = json!({"success": false, "code": code, "message": "x"}).to_string();
            says(Endpoint::CreateAndDeliver, 200, &body, *reason, *class);
            says(Endpoint::CreateAndDeliver, *status, &body, *reason, *class);
        }
    }

    #[test]
    fn throttling_is_told_from_a_missing_permission_although_both_are_403_with_one_prefix() {
        let class = |code: &str| refused(Endpoint::Deliver, 403, json!({ "code": code }).to_string()).class;
        assert_eq!(class("Forbidden.AccessDenied.QpsLimitForApi"), Throttle);
        assert_eq!(class("Forbidden.AccessDenied.AccessTokenPermissionDenied"), Hold);
    }

    #[test]
    fn only_a_failure_of_one_recipient_splits_a_call_and_only_a_repeat_says_that_the_card_exists() {
        for (status, code, _, class) in CARDS {
            let failure = refused(Endpoint::CreateAndDeliver, *status, json!({ "code": code }).to_string());
            let splits =
                *class == Recipient || *status < 500 && matches!(*code, "param.invalid" | "param.openSpaceIdInvalid");
            assert_eq!(failure.splits, splits, "{status} {code}");
            assert_eq!(failure.card_exists, *code == "param.cardAlreadyExist", "{code}");
        }
    }

    #[test]
    fn a_read_never_leaves_doubt_and_a_token_call_never_blames_a_job_or_a_recipient() {
        let codes = CARDS.iter().map(|(status, code, ..)| (*status, *code));
        let legacy_codes = GET_TOKEN.iter().chain(LOOK_UP).map(|(code, ..)| (200, *code));
        for (status, code) in codes.chain(legacy_codes) {
            let body = json!({"code": code, "errcode": code}).to_string();
            for endpoint in [Endpoint::GetToken, Endpoint::AccessToken] {
                let failure = refused(endpoint, status, &body);
                assert!(
                    matches!(failure.class, Throttle | Hold | Transient) && !failure.splits,
                    "{endpoint} {status} {code}: {failure:?}"
                );
            }
            assert_ne!(refused(Endpoint::GetByMobile, status, &body).class, Unknown, "{code}");
        }
    }

    #[test]
    fn every_reason_has_a_remedy() {
        for reason in Reason::ALL {
            let remedy = Failure::new(*reason, Transient, "").remedy();
            assert!(remedy.len() > 10 && remedy.ends_with('.'), "{reason}: {remedy}");
        }
    }

    #[test]
    fn a_detail_is_one_line_of_at_most_a_kibibyte() {
        let cut = |detail: &str| Failure::new(ServerError, Transient, detail).detail;
        assert_eq!(cut(" a\r\n\tb\u{0}c\u{2028}d "), "a b c d");
        assert_eq!(cut(&"x".repeat(1024)), "x".repeat(1024));
        for filler in ["x", "错", "é", "🙂"] {
            let detail = cut(&filler.repeat(3000));
            assert!(detail.len() <= 1024 && detail.len() > 1016, "{}", detail.len());
            assert!(detail.ends_with('…'));
        }
    }
}
