//! What an operator does about a reason: in the words of DingTalk's console, in English and in Chinese.
//!
//! Separate because it is prose, read by people in log lines, in `dingcard check` and in `docs/errors.md`; a code that
//! has a more precise remedy says so in `codes`. It knows no call and decides nothing. Labels of the console stay Chinese
//! in both languages, as the console has them.

use crate::outcome::Reason;

/// One remedy, in both languages; each ends with a full stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remedy {
    /// English, for logs and commands.
    pub en: &'static str,
    /// Chinese, for the documentation.
    pub zh: &'static str,
}

const fn says(en: &'static str, zh: &'static str) -> Remedy {
    Remedy { en, zh }
}

impl Remedy {
    /// What to do about `reason`, whatever code brought it about.
    #[must_use]
    #[allow(clippy::too_many_lines, reason = "a table, one row a reason")]
    pub const fn of(reason: Reason) -> Self {
        match reason {
            Reason::Throttled => says(
                "Nothing at once: the worker slows down. If other programs use this application too, lower rate_per_second.",
                "暂时无需处理：worker 会自行减速。如果还有别的程序在用这个应用，请调低 rate_per_second。",
            ),
            Reason::QuotaSpent => says(
                "The organisation's calls of this month are used up: buy an API quota pack in the developer console (开发者后台), or wait for the next month.",
                "本组织当月的 API 调用次数已用完：请在开发者后台购买 API 调用量资源包，或等到下个月。",
            ),
            Reason::BadCredentials => says(
                "Compare app_key and app_secret with Client ID and Client Secret under 凭证与基础信息 (credentials) of the application in the developer console.",
                "请核对 app_key、app_secret 与开发者后台该应用“凭证与基础信息”里的 Client ID、Client Secret 是否一致。",
            ),
            Reason::IpNotAllowed => says(
                "Add this worker's egress IP under 安全设置 (security settings), 服务器出口IP (server egress IP), of the application in the developer console.",
                "请在开发者后台该应用的“安全设置”中，把 worker 的出口 IP 加入“服务器出口IP”。",
            ),
            Reason::PermissionMissing => says(
                "Apply under 权限管理 (permission management) of the application in the developer console for the permission that the detail names: qyapi_get_member_by_mobile to look up mobiles, Card.Instance.Write for cards.",
                "请在开发者后台该应用的“权限管理”中申请详情里写明的权限：按手机号查用户需要 qyapi_get_member_by_mobile，卡片需要 Card.Instance.Write。",
            ),
            Reason::RobotInvalid => says(
                "Compare robot_code with the RobotCode under 机器人 (robot) of the application in the developer console, and publish robot and application (版本管理与发布).",
                "请核对 robot_code 与开发者后台该应用“机器人”页的 RobotCode 是否一致，并发布机器人和应用（版本管理与发布）。",
            ),
            Reason::Paused => says(
                "An operator paused this app: set apps.NAME.paused to false and restart the worker.",
                "运维人员暂停了该应用：把 apps.NAME.paused 设为 false 并重启 worker。",
            ),
            Reason::BudgetReserved => says(
                "What is left of monthly_calls is kept for urgent jobs: raise monthly_calls, lower monthly_reserve, or wait for the next month.",
                "monthly_calls 的剩余部分留给紧急任务：请调高 monthly_calls、调低 monthly_reserve，或等到下个月。",
            ),
            Reason::IpBanned => says(
                "DingTalk banned this egress IP for about five minutes for too many calls: find what else calls DingTalk from here. The worker resumes by itself.",
                "调用过多，钉钉封禁了这个出口 IP 约五分钟：请查出还有什么程序从这里调用钉钉。worker 会自行恢复。",
            ),
            Reason::TokenRejected => says(
                "DingTalk refuses even a fresh access token: check that app_key belongs to this organisation and that the application is enabled (已启用) in the developer console.",
                "连新取的 access token 也被拒绝：请确认 app_key 属于本组织，且该应用在开发者后台处于启用状态。",
            ),
            Reason::ServerError => says(
                "DingTalk had a fault of its own and is asked again. If it lasts, open a ticket with the request ID in the detail.",
                "钉钉自身出错，会自动重试。如果持续出现，请带上详情里的 request ID 提工单。",
            ),
            Reason::Network => says(
                "Check the way from this host to dingtalk.api_url and dingtalk.oapi_url: DNS, firewall, proxy.",
                "请检查本机到 dingtalk.api_url 和 dingtalk.oapi_url 的网络：DNS、防火墙、代理。",
            ),
            Reason::BadResponse => says(
                "What answered does not speak DingTalk's API: check dingtalk.api_url, dingtalk.oapi_url and any proxy in between.",
                "应答的不是钉钉的 API：请检查 dingtalk.api_url、dingtalk.oapi_url 以及中间的代理。",
            ),
            Reason::Deadline => says(
                "The attempt took longer than retry.job_deadline: lower amqp.prefetch or raise rate_per_second, and look at DingTalk's latency.",
                "本次尝试超过了 retry.job_deadline：请调低 amqp.prefetch 或调高 rate_per_second，并查看钉钉的响应时间。",
            ),
            Reason::UserNotFound => says(
                "Nobody in this organisation has this mobile or user ID: correct the recipient, or add the member under 通讯录 (contacts) in the admin console (管理后台).",
                "本组织中没有人使用这个手机号或 user ID：请更正接收者，或在管理后台的“通讯录”中添加该成员。",
            ),
            Reason::MobileInvalid => says(
                "The mobile is no number that DingTalk takes: 11 digits, or +CC-number outside mainland China.",
                "该手机号不是钉钉接受的号码：大陆号码为 11 位数字，其他地区为 +国家码-号码。",
            ),
            Reason::UserDisabled => says(
                "The member is disabled: enable the member in the admin console (管理后台), or take the recipient out.",
                "该成员已被停用：请在管理后台启用该成员，或去掉这个接收者。",
            ),
            Reason::ConversationInvalid => says(
                "The group is unknown or dissolved, or the conversation is no openConversationId of this organisation: correct the recipient, and add the robot to the group.",
                "群不存在、已解散，或 conversation 不是本组织的 openConversationId：请更正接收者，并把机器人加入该群。",
            ),
            Reason::TemplateInvalid => says(
                "Compare the template's ID with 模板ID on the card platform (卡片平台), and check that the template is published (已发布) and tied to no other application (关联应用).",
                "请核对模板 ID 与卡片平台上的模板ID 是否一致，并确认模板已发布、且没有关联别的应用。",
            ),
            Reason::ParamsInvalid => says(
                "Correct the job's params: every variable that the template requires, at most 100 KB in all and 100 bytes a key.",
                "请更正任务的 params：给全模板要求的变量，总计不超过 100 KB，每个键不超过 100 字节。",
            ),
            Reason::ContentRefused => says(
                "DingTalk's content security refused the text: change the card's content.",
                "内容未通过钉钉的内容安全检查：请修改卡片内容。",
            ),
            Reason::RequestRefused => says(
                "DingTalk refused the request for good: look its code up in DingTalk's global error codes (全局错误码), with the request ID in the detail.",
                "钉钉明确拒绝了请求：请在钉钉的“全局错误码”中查询该错误码，详情里有 request ID。",
            ),
            Reason::CardMissing => says(
                "The card to update does not exist: check update_of, that the earlier job was delivered, and that it had the same to.",
                "要更新的卡片不存在：请检查 update_of，确认先前的任务已送达，且它的 to 与本任务相同。",
            ),
            Reason::InvalidJob => says(
                "Correct the producer: the detail names the field.",
                "请修正生产者：详情里写明了出错的字段。",
            ),
            Reason::UnknownApp => says(
                "Name an app that is in the configuration, or add [apps.NAME] and restart the worker.",
                "请填写配置中已有的应用，或添加 [apps.NAME] 并重启 worker。",
            ),
            Reason::AttemptsExhausted => says(
                "Every attempt failed: the detail has the last failure. Mend that, then dingcard dead replay.",
                "所有尝试均失败：详情里是最后一次失败的原因。排除后执行 dingcard dead replay。",
            ),
            Reason::DeliveryLimit => says(
                "The message was with workers that died: look at their logs before you replay it.",
                "处理该消息的 worker 都异常退出了：重放前请先查看它们的日志。",
            ),
            Reason::Unroutable => says(
                "A queue was missing: run dingcard topology, then dingcard dead replay.",
                "缺少队列：请执行 dingcard topology，再执行 dingcard dead replay。",
            ),
            Reason::Panic => says(
                "A fault of dingcard itself: report it with the log.",
                "dingcard 自身的缺陷：请附上日志反馈。",
            ),
            Reason::Unconfirmed | Reason::None => says("Nothing to do.", "无需处理。"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_remedy_in_both_languages() {
        for reason in Reason::ALL {
            let Remedy { en, zh } = Remedy::of(*reason);
            assert!(
                en.is_ascii() || en.contains('('),
                "{reason}: a Chinese label has its meaning beside it: {en}"
            );
            assert!(en.len() > 10 && en.ends_with('.'), "{reason}: {en}");
            assert!(zh.ends_with('。'), "{reason}: {zh}");
        }
    }
}
