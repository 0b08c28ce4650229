//! The one table of what DingTalk's answers mean: code by code, and what stands for a code where an answer has none.
//!
//! Separate so that a code is looked up in one place, and so that `docs/errors.md` can be made from that place (`manual`).
//! The numbers in comments are the sections of DingTalk's documentation as this project gathered it. It finds no code in
//! an answer (`answer` does) and makes no failure (`error` does).

use super::remedy::Remedy;
use crate::outcome::Class::{Auth, Hold, Permanent, Recipient, Throttle, Transient, Unknown};
use crate::outcome::Reason::{
    BadCredentials, BadResponse, CardMissing, ContentRefused, ConversationInvalid, IpBanned, IpNotAllowed,
    MobileInvalid, Network, ParamsInvalid, PermissionMissing, QuotaSpent, RequestRefused, RobotInvalid, ServerError,
    TemplateInvalid, Throttled, TokenRejected, UserDisabled, UserNotFound,
};
use crate::outcome::{Class, Reason};

/// One row: some signs that mean the same.
#[derive(Debug)]
pub(super) struct Row {
    /// Codes as DingTalk writes them: effective legacy numbers (`sub_code` where errcode is 88), new-family words. Letter
    /// case does not count.
    pub(super) codes: &'static [&'static str],
    /// What else this row is known by.
    pub(super) signs: &'static [Sign],
    pub(super) reason: Reason,
    /// Before the kind of call is looked at (`answer::settle`).
    pub(super) class: Class,
    pub(super) quirk: Quirk,
    pub(super) remedy: Remedy,
}

/// What a row is known by that is no code.
#[derive(Debug, PartialEq)]
pub(super) enum Sign {
    /// A part of a code.
    Part(&'static str),
    /// An HTTP status in this range, where no code says more.
    Status(u16, u16),
    /// A part of the `errorMsg` of one delivery inside a success (5.4).
    Told(&'static str),
    /// The same, of a delivery to a group.
    ToldOfGroup(&'static str),
    /// Any other `errorMsg`.
    ToldElse,
    /// Any other code.
    OtherCode,
    /// A page instead of JSON, or JSON with `"status": 1111` (7).
    Banned,
    /// A 2xx whose documented fields are not there, or no JSON.
    Unreadable,
    /// No connection.
    Unreachable,
    /// The request was written, and no answer came.
    Unanswered,
}

/// What a row asks for beyond its class.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quirk {
    None,
    /// It may be one recipient's fault, so the halves of the call are worth trying.
    Splits,
    /// A card of this ID was made before.
    CardExists,
    /// Worth one more call before anybody is dead for it.
    OnceMore,
}

impl Row {
    const fn of(codes: &'static [&'static str], reason: Reason, class: Class) -> Self {
        let quirk = Quirk::None;
        let remedy = Remedy::of(reason);
        Self {
            codes,
            signs: &[],
            reason,
            class,
            quirk,
            remedy,
        }
    }

    const fn or(self, signs: &'static [Sign]) -> Self {
        Self { signs, ..self }
    }

    const fn quirk(self, quirk: Quirk) -> Self {
        Self { quirk, ..self }
    }

    /// A more precise remedy than the reason's.
    const fn remedy(self, en: &'static str, zh: &'static str) -> Self {
        Self {
            remedy: Remedy { en, zh },
            ..self
        }
    }
}

/// The row of a code under an HTTP status, the second witness; or of the status alone.
pub(super) fn row(code: Option<&str>, status: u16) -> &'static Row {
    let throttled = by_status(status).filter(|row| row.class == Throttle);
    let named = throttled.or_else(|| code.and_then(by_code));
    // A 5xx is never the job's fault, whatever word comes with it.
    let named = named.filter(|row| status < 500 || !matches!(row.class, Recipient | Permanent));
    let found = named.or_else(|| by_status(status).filter(|_| code.is_none() || status == 401 || status >= 500));
    found.unwrap_or_else(|| by_sign(&Sign::OtherCode))
}

/// The row of an `errorMsg`.
pub(super) fn told(message: &str, group: bool) -> &'static Row {
    let message = message.to_ascii_lowercase();
    let has = |part: &str| message.contains(&part.to_ascii_lowercase());
    let of_group = |sign: &Sign| matches!(sign, Sign::ToldOfGroup(part) if group && has(part));
    let of_anybody = |sign: &Sign| matches!(sign, Sign::Told(part) if has(part));
    find(of_group)
        .or_else(|| find(of_anybody))
        .unwrap_or_else(|| by_sign(&Sign::ToldElse))
}

/// The row that has this sign; the last where none has, which is a row that says so.
pub(super) fn by_sign(sign: &Sign) -> &'static Row {
    find(|s| s == sign).unwrap_or(&ROWS[ROWS.len() - 1])
}

fn by_code(code: &str) -> Option<&'static Row> {
    let whole = ROWS
        .iter()
        .find(|row| row.codes.iter().any(|c| c.eq_ignore_ascii_case(code)));
    let code = code.to_ascii_lowercase();
    whole.or_else(|| find(|sign| matches!(sign, Sign::Part(part) if code.contains(&part.to_ascii_lowercase()))))
}

fn by_status(status: u16) -> Option<&'static Row> {
    find(|sign| matches!(sign, Sign::Status(from, to) if (*from..=*to).contains(&status)))
}

fn find(wanted: impl Fn(&Sign) -> bool) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.signs.iter().any(&wanted))
}

/// Every row. Throttling comes first because its codes share a prefix with the permission codes (6).
#[rustfmt::skip]
pub(super) static ROWS: &[Row] = &[
    // 6, 7: refused at the gateway before execution.
    Row::of(&["90018", "90019", "90001", "90003", "90004", "90005", "90006", "90007", "90008", "90009", "90010", "90011",
              "90012", "90013", "90014", "90017", "45009", "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
              "Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi"], Throttled, Throttle)
        .or(&[Sign::Status(429, 429), Sign::Part("QpsLimitFor")]),
    Row::of(&["90002", "Forbidden.AccessDenied.QpsLimitForApi"], Throttled, Throttle)
        .remedy("Nothing: all of DingTalk's customers together were at this API's limit, which is worst on the hour. If it lasts, spread the jobs (not_before).",
                "无需处理：这是钉钉所有客户合计的接口上限，整点前后最容易触发。如果持续出现，请用 not_before 把任务错开。"),
    Row::of(&["Forbidden.AccessDenied.QpmLimitForAppkeyAndApi", "Forbidden.AccessDenied.QpmLimitForSuitekeyAndOrgAndApi"], Throttled, Throttle)
        .or(&[Sign::Part("QpmLimitFor")])
        .remedy("Nothing at once: the application's calls of this minute are used up, and the worker waits. If it lasts, lower rate_per_second.",
                "暂时无需处理：该应用本分钟的调用次数已用完，worker 会等待。如果持续出现，请调低 rate_per_second。"),
    Row::of(&["90020", "Forbidden.AccessDenied.ApiCountLimitForOrg"], QuotaSpent, Hold),
    Row::of(&[], IpBanned, Hold).or(&[Sign::Banned]),

    // 2.1, 2.2
    Row::of(&["40096", "40089", "40013", "41002", "41004", "invalidClientIdOrSecret", "invalid.client", "unauthorized.client",
              "unsupported.grant.type"], BadCredentials, Hold),
    // 2.4
    Row::of(&["40014", "42001", "40001", "33001", "InvalidAuthentication", "InvalidAccessToken"], TokenRejected, Auth)
        .or(&[Sign::Status(401, 401)]),
    Row::of(&["40000", "41001", "43007", "AuthenticationFailed.MissingParameter"], RequestRefused, Permanent)
        .remedy("The access token did not arrive with the call: check whether a proxy on the way takes away query or headers; else report it as a fault of dingcard.",
                "access token 没有随请求到达：请检查中间的代理是否去掉了查询参数或请求头；否则请作为 dingcard 的缺陷反馈。"),
    // 2.5, 4.4
    Row::of(&["60020", "Forbidden.AccessDenied.IpNotInWhiteList"], IpNotAllowed, Hold),
    Row::of(&["60011", "Forbidden.AccessDenied.AccessTokenPermissionDenied"], PermissionMissing, Hold)
        .or(&[Sign::Part("Forbidden.AccessDenied.")]),
    Row::of(&["permission.checkFailed"], PermissionMissing, Hold)
        .remedy("The application may not send with this robot: check 权限管理 (permission management) and 机器人 (robot) in the developer console. New applications get no permission for interactiveCards: set card_api = \"instances\".",
                "该应用无权用这个机器人发送：请检查开发者后台的“权限管理”和“机器人”。新应用已不能申请 interactiveCards 的权限：请设 card_api = \"instances\"。"),
    // 1, 3: no job can help a call that this host does not know.
    Row::of(&["22", "404"], PermissionMissing, Hold)
        .remedy("The host does not know this call: check dingtalk.api_url, dingtalk.oapi_url and the app's card_api.",
                "该主机不认识这个接口：请检查 dingtalk.api_url、dingtalk.oapi_url 以及该应用的 card_api。"),
    Row::of(&["chatbot.notFound", "queryChatbot.wrong", "invalid.robotCode", "chatbotNotFound"], RobotInvalid, Hold)
        .or(&[Sign::Told("chatbot not exist")]),
    Row::of(&["chatbotNotInstall"], RobotInvalid, Hold)
        .remedy("The robot is not installed in this organisation: publish the application with its robot under 版本管理与发布 (versions and publishing) in the developer console.",
                "机器人没有安装到本组织：请在开发者后台的“版本管理与发布”中发布含该机器人的应用。"),
    Row::of(&["chatbotId.notAllow.sendOTO"], RobotInvalid, Hold)
        .remedy("This robot may not write to single chats: use the RobotCode of the application's own robot under 机器人 (robot) in the developer console.",
                "该机器人不允许发单聊：请使用开发者后台该应用“机器人”页的 RobotCode。"),

    // 3, 6: the request came as far as a service that then failed.
    Row::of(&["-1", "400001", "systemBusy", "systemError", "system.busy", "server.error", "sendCardMessageFailed"], ServerError, Unknown)
        .or(&[Sign::Status(500, u16::MAX)]),
    Row::of(&["send.oa.failed"], ServerError, Transient)
        .or(&[Sign::Told("SYSTEM_ERROR"), Sign::Told("system error"), Sign::Told("system busy"), Sign::Told("systemBusy"), Sign::Told("system.busy")]),
    Row::of(&["getPictureFailed"], ServerError, Transient)
        .remedy("DingTalk could not fetch a picture of the card: check that the picture's URL in params can be reached from the internet.",
                "钉钉获取卡片中的图片失败：请确认 params 里的图片 URL 能从公网访问。"),
    Row::of(&["88"], BadResponse, Transient),
    Row::of(&[], BadResponse, Unknown).or(&[Sign::Unreadable, Sign::Status(200, 299)]),
    Row::of(&[], Network, Transient).or(&[Sign::Unreachable]),
    Row::of(&[], Network, Unknown).or(&[Sign::Unanswered]),

    // 3, 4.4, 5.4, 6
    Row::of(&["60121", "33012", "40003", "60111", "userInfo.convertError", "uidDecryptError", "userNotExist", "emptyUserId",
              "param.userIdNotExist"], UserNotFound, Recipient)
        .or(&[Sign::Told("spaceId is illegal")]),
    Row::of(&["40104", "60103"], MobileInvalid, Recipient),
    Row::of(&["60120"], UserDisabled, Recipient),
    Row::of(&["50002"], UserDisabled, Recipient)
        .remedy("The member is outside what this application may see: widen its contact scope (权限管理, 通讯录权限范围) and its visible range (版本管理与发布, 可见范围) in the developer console.",
                "该成员不在应用的可见范围内：请在开发者后台扩大“通讯录权限范围”（权限管理）和“可见范围”（版本管理与发布）。"),
    Row::of(&["cidParse.wrong", "cidDecryptError", "decryptOpenconversationIdFailed"], ConversationInvalid, Recipient)
        .or(&[Sign::ToldOfGroup("spaceId is illegal")]),
    Row::of(&["org.notOwn.group"], ConversationInvalid, Recipient)
        .remedy("The group belongs to another organisation: use an openConversationId of this one.",
                "该群属于别的组织：请使用本组织的 openConversationId。"),
    Row::of(&["sceneGroupNotFound", "sceneGroup.checkFailed"], ConversationInvalid, Recipient)
        .remedy("The group is no scene group (场景群) of this robot: send to one, or set card_api = \"instances\" and add the robot to the group.",
                "该群不是此机器人的场景群：请发到场景群，或设 card_api = \"instances\" 并把机器人加入该群。"),

    // 4.4, 4.5, 5.4
    Row::of(&["param.templateNotExist", "cardTemplateInvalid"], TemplateInvalid, Permanent),
    Row::of(&["param.templateUnpublished", "cardInstance.wrong"], TemplateInvalid, Permanent)
        .remedy("Publish (发布) the template on the card platform (卡片平台), then dingcard dead replay.",
                "请在卡片平台发布该模板，然后执行 dingcard dead replay。"),
    Row::of(&["contentSecurityChckFailed", "contentCheckError", "card.content.checkFailed", "param.contentUnsafe"], ContentRefused, Permanent),
    Row::of(&["param.cardPublicDataEmpty", "param.cardDataAndPrivateDataBothEmpty"], ParamsInvalid, Permanent),
    Row::of(&["cardInstance.notExist", "param.cardNotExist"], CardMissing, Permanent),
    Row::of(&["param.cardAlreadyExist"], RequestRefused, Permanent).quirk(Quirk::CardExists)
        .remedy("Nothing: the card is there. If it should be another card, give the job another id.",
                "无需处理：卡片已经存在。如果本应是另一张卡片，请给任务换一个 id。"),
    Row::of(&["param.invalid", "param.openSpaceIdInvalid"], RequestRefused, Permanent).quirk(Quirk::Splits)
        .remedy("DingTalk does not say what is wrong with the recipient: check the user ID or the conversation.",
                "钉钉没有说明这个接收者有什么问题：请检查 user ID 或 conversation。"),
    Row::of(&["duplicateKey"], RequestRefused, Permanent)
        .remedy("The template names one variable twice: correct it on the card platform (卡片平台) and publish it.",
                "模板里有重复的变量：请在卡片平台改正并发布。"),
    Row::of(&["40022"], RequestRefused, Permanent)
        .remedy("The mobile in 通讯录 (contacts) differs from the one that the member logs in with: correct it in the admin console (管理后台).",
                "通讯录中的手机号与该成员的登录手机号不一致：请在管理后台更正。"),
    Row::of(&["400002", "40035", "40038", "param.empty", "callbackUrl.empty", "card.templateEmpty", "card.outTraceIdEmpty",
              "card.outTraceIdError", "outTrackId.exceed.limit", "outTrackIdLengthLimited", "invalidParameter.cid.empty",
              "param.outTrackIdEmpty", "param.cardTemplateIdEmpty", "param.userIdEmpty", "param.openSpaceIdEmpty",
              "param.openDeliverModelEmpty", "param.openDeliverModelError", "param.spaceDeliverModelEmpty",
              "param.openSpaceModelInvalid"], RequestRefused, Permanent)
        .or(&[Sign::Part("param.dynamic")])
        .remedy("DingTalk finds the request malformed, which is a fault of dingcard or of a proxy on the way: report it with the request ID in the detail.",
                "钉钉认为请求格式有误，这是 dingcard 或中间代理的缺陷：请附上详情里的 request ID 反馈。"),
    Row::of(&[], RequestRefused, Recipient).or(&[Sign::ToldElse]).quirk(Quirk::OnceMore)
        .remedy("The detail has what DingTalk said of this recipient. If that does not help, send a card to this recipient alone (dingcard send) and take the answer to DingTalk's support.",
                "详情里是钉钉对这个接收者的说明。如果看不出原因，请用 dingcard send 只给该接收者发一张卡片，并把应答交给钉钉技术支持。"),
    Row::of(&[], RequestRefused, Permanent).or(&[Sign::OtherCode]),
    // Refused, though not in DingTalk's words: a proxy, perhaps. Nothing was executed.
    Row::of(&[], BadResponse, Transient).or(&[Sign::Status(0, u16::MAX)]),
];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use serde_json::json;

    use super::super::endpoint::Endpoint;
    use super::super::testing::{SENDS, refused};
    use super::*;

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
}
