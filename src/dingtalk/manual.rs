//! The tables of `docs/errors.md` and `docs/errors.zh-CN.md`, made from `codes` and `remedy`.
//!
//! A test, so that neither page can drift from the code: it fails where a page says something else, and writes both where
//! `DINGCARD_WRITE_DOCS` is set. It holds what the worker does in words; the worker itself is tested elsewhere. The prose
//! around the tables is the pages' own.

use std::fmt::Write as _;
use std::path::Path;

use super::codes::{Quirk, ROWS, Row, Sign};
use super::remedy::Remedy;
use crate::outcome::{Class, Reason};

const BEGIN: &str = "<!-- tables: DINGCARD_WRITE_DOCS=1 cargo test --lib manual -->\n";
const END: &str = "<!-- end of tables -->\n";

#[derive(Clone, Copy)]
enum Language {
    English,
    Chinese,
}

impl Language {
    fn pick<T>(self, english: T, chinese: T) -> T {
        match self {
            Self::English => english,
            Self::Chinese => chinese,
        }
    }

    fn remedy(self, remedy: Remedy) -> &'static str {
        self.pick(remedy.en, remedy.zh)
    }
}

/// How a sign stands in the first column; `None` where another sign of its row says the same.
fn shown(sign: &Sign, language: Language) -> Option<String> {
    Some(match sign {
        Sign::Part(part) => format!("`{part}…`"),
        Sign::Status(429, _) => "HTTP 429".to_owned(),
        Sign::Status(401, _) => "HTTP 401".to_owned(),
        Sign::Status(500, _) => "HTTP 5xx".to_owned(),
        Sign::Status(200, _) => return None,
        Sign::Status(..) => {
            let other = ("any other HTTP status without a code", "其他没有错误码的 HTTP 状态");
            language.pick(other.0, other.1).to_owned()
        }
        Sign::Told(part) => format!("errorMsg `{part}`"),
        Sign::ToldOfGroup(part) => {
            language.pick(format!("errorMsg `{part}` (group)"), format!("errorMsg `{part}`（群）"))
        }
        Sign::ToldElse => language.pick("any other errorMsg", "其他 errorMsg").to_owned(),
        Sign::OtherCode => language.pick("any other code", "其他错误码").to_owned(),
        Sign::Banned => {
            let banned = (
                "an HTML page, or `{\"status\":1111,…}`",
                "HTML 页面，或 `{\"status\":1111,…}`",
            );
            language.pick(banned.0, banned.1).to_owned()
        }
        Sign::Unreadable => {
            let unreadable = ("a 2xx without the documented fields", "2xx，但没有文档规定的字段");
            language.pick(unreadable.0, unreadable.1).to_owned()
        }
        Sign::Unreachable => language.pick("no connection", "无法建立连接").to_owned(),
        Sign::Unanswered => {
            let unanswered = (
                "the connection broke off, or no answer in time",
                "连接中断，或超时没有应答",
            );
            language.pick(unanswered.0, unanswered.1).to_owned()
        }
    })
}

/// What the worker did about a row.
fn done(row: &Row, language: Language) -> &'static str {
    let (english, chinese) = match (row.quirk, row.reason, row.class) {
        (Quirk::Splits, ..) => (
            "Halved the call until the culprit was alone. That recipient is dead; the others have the card",
            "把请求对半拆分，直到只剩有问题的接收者。该接收者进入死信，其他人照常收到卡片",
        ),
        (Quirk::CardExists, ..) => (
            "After an answer of its own was lost: `delivered`, `unconfirmed`. On a first attempt: `duplicate`",
            "若是先前的应答丢失：`delivered`，原因 `unconfirmed`。若是首次尝试：`duplicate`",
        ),
        (Quirk::OnceMore, ..) => (
            "Asked for that recipient once more, on the same card; if missed again, that recipient is dead. The others have the card",
            "用同一张卡片为该接收者再投放一次；仍未成功则该接收者进入死信。其他人照常收到卡片",
        ),
        (_, Reason::CardMissing, _) => (
            "Tried again later, up to `retry.max_attempts`, since the card may still be on its way; then dead",
            "卡片可能还没发出，所以稍后重试，最多 `retry.max_attempts` 次；仍没有则进入死信",
        ),
        (_, Reason::IpBanned, _) => (
            "Stopped every app of this worker for `dingtalk.ip_ban_pause`. No attempt is used",
            "本 worker 的所有应用停止 `dingtalk.ip_ban_pause`。不消耗尝试次数",
        ),
        (_, _, Class::Throttle) => (
            "Stopped this app's calls to this API for as long as DingTalk named, else a second (a limit by the minute: a minute), then called again. No attempt is used",
            "该应用对该接口的调用暂停到钉钉指定的时间，没有指定则一秒（按分钟的限制则一分钟），然后再次调用。不消耗尝试次数",
        ),
        (_, _, Class::Hold) => (
            "Held the app: its jobs wait in the broker, and one at a time probes, from every few seconds to every 5 minutes. No attempt is used",
            "挂起该应用：任务在 broker 中等待，每次只放一个任务去探测，间隔从几秒到 5 分钟。不消耗尝试次数",
        ),
        (_, _, Class::Auth) => (
            "Fetched a new token and called once more. If that is refused too, held the app as `token_rejected`",
            "重新获取 token 并再调用一次。如果仍被拒绝，以 `token_rejected` 挂起该应用",
        ),
        (_, _, Class::Transient) => (
            "Tried again: `retry.immediate` times at once, then from the broker, up to `retry.max_attempts`; then dead, `attempts_exhausted`",
            "重试：先立即重试 `retry.immediate` 次，再由 broker 延时重试，最多 `retry.max_attempts` 次；之后进入死信 `attempts_exhausted`",
        ),
        (_, _, Class::Unknown) => (
            "Tried again as often as a `transient` failure, and always under the same `outTrackId`, because the card may have been shown. On interactiveCards/send a repeat can show it twice",
            "与 `transient` 一样重试。由于卡片可能已经展示，重试始终使用同一个 `outTrackId`。在 interactiveCards/send 上，重试可能让卡片出现两次",
        ),
        (_, _, Class::Recipient) => (
            "That recipient is dead; the others of the job get the card",
            "该接收者进入死信；任务中的其他人照常收到卡片",
        ),
        (_, _, Class::Permanent) => (
            "Whoever the call was for is dead; it is not tried again",
            "该次请求的接收者进入死信，不再重试",
        ),
    };
    language.pick(english, chinese)
}

/// The reasons that no answer of DingTalk gives, and what the worker did. A reason that is in neither table fails the test.
const OTHERS: &[(Reason, &str, &str)] = &[
    (
        Reason::Paused,
        "Consumed nothing of the app's queues",
        "不消费该应用的队列",
    ),
    (
        Reason::BudgetReserved,
        "Held the app's jobs that are not urgent. No attempt is used",
        "挂起该应用的非紧急任务。不消耗尝试次数",
    ),
    (
        Reason::Deadline,
        "Handed what was open back to the broker. An attempt is used only if nothing was achieved",
        "把未完成的部分交还 broker。只有毫无进展时才消耗一次尝试",
    ),
    (Reason::InvalidJob, "Dead at once", "立即进入死信"),
    (Reason::UnknownApp, "Dead at once", "立即进入死信"),
    (
        Reason::AttemptsExhausted,
        "Tried `retry.max_attempts` times; whoever was open is dead",
        "尝试了 `retry.max_attempts` 次；仍未完成的接收者进入死信",
    ),
    (
        Reason::DeliveryLimit,
        "The message was delivered again and again and never settled: dead, unread",
        "消息反复投递却从未被确认：不再读取，直接进入死信",
    ),
    (
        Reason::Unroutable,
        "The broker put the message into the dead letters",
        "broker 把消息放进了死信",
    ),
    (
        Reason::Panic,
        "That job is dead; the worker goes on",
        "该任务进入死信；worker 继续运行",
    ),
    (
        Reason::Unconfirmed,
        "Counted as `delivered`: DingTalk took the card, and its answer was lost",
        "计为 `delivered`：钉钉收下了卡片，但应答丢失了",
    ),
];

fn tables(language: Language) -> String {
    let mut out = String::from("\n");
    out += language.pick(
        "| DingTalk's answer | reason | `result` | the worker | you |\n",
        "| 钉钉的应答 | 原因 | `result` | worker 做了什么 | 你要做什么 |\n",
    );
    out += "| --- | --- | --- | --- | --- |\n";
    for row in ROWS {
        let codes = row.codes.iter().map(|code| format!("`{code}`"));
        let signs = row.signs.iter().filter_map(|sign| shown(sign, language));
        let answer = codes.chain(signs).collect::<Vec<_>>().join(language.pick(", ", "、"));
        let (done, remedy) = (done(row, language), language.remedy(row.remedy));
        writeln!(
            out,
            "| {answer} | `{}` | `{}` | {done} | {remedy} |",
            row.reason, row.class
        )
        .unwrap();
    }
    out += "\n";
    out += language.pick(
        "| reason without an answer | the worker | you |\n",
        "| 与应答无关的原因 | worker 做了什么 | 你要做什么 |\n",
    );
    out += "| --- | --- | --- |\n";
    for (reason, english, chinese) in OTHERS {
        let (done, remedy) = (language.pick(english, chinese), language.remedy(Remedy::of(*reason)));
        writeln!(out, "| `{reason}` | {done} | {remedy} |").unwrap();
    }
    out + "\n"
}

#[test]
fn both_pages_of_errors_say_what_the_tables_say() {
    for (file, language) in [
        ("docs/errors.md", Language::English),
        ("docs/errors.zh-CN.md", Language::Chinese),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let page = std::fs::read_to_string(&path).unwrap();
        let (before, rest) = page.split_once(BEGIN).expect("the page has the marker of its tables");
        let (_, after) = rest.split_once(END).expect("the page has the end of its tables");
        let made = [before, BEGIN, &tables(language), END, after].concat();
        if std::env::var_os("DINGCARD_WRITE_DOCS").is_some() {
            std::fs::write(&path, made).unwrap();
        } else {
            assert!(page == made, "{file} is not what src/dingtalk says: run {BEGIN}");
        }
    }
}

#[test]
fn every_reason_and_every_code_stands_in_the_tables_once() {
    for reason in Reason::ALL.iter().filter(|r| **r != Reason::None) {
        let answered = ROWS.iter().any(|row| row.reason == *reason);
        let other = OTHERS.iter().filter(|(r, ..)| r == reason).count();
        assert_eq!(usize::from(answered) + other, 1, "{reason}");
    }
    let mut codes: Vec<_> = ROWS
        .iter()
        .flat_map(|row| row.codes)
        .map(|c| c.to_lowercase())
        .collect();
    codes.sort();
    let count = codes.len();
    codes.dedup();
    assert_eq!(codes.len(), count, "a code stands in two rows");
}
