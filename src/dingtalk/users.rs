//! From a mobile number to a user ID.
//!
//! Separate because people write one number in many ways, and each must be one look-up. It holds no number longer than
//! the cache does and shows none whole.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::App;
use super::answer::{is_zero, unreadable};
use super::client::{Request, Turn};
use super::endpoint::Endpoint;
use super::error::Failure;
use crate::outcome::{Class, Reason};

/// Why nobody is behind a number; remembered for minutes.
#[derive(Debug, Clone)]
pub(super) struct Nobody(Failure);

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.0.reason, self.0.detail)
    }
}

impl FromStr for Nobody {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (reason, detail) = text.split_once(' ').ok_or(())?;
        let reason = Reason::parse(reason).ok_or(())?;
        Ok(Self(Failure::new(reason, Class::Recipient, detail)))
    }
}

impl App {
    /// The user ID of `mobile`, in any usual notation.
    pub async fn user_id(&self, mobile: &str, turn: Turn) -> Result<String, Failure> {
        let Some(mobile) = normal(mobile) else {
            let detail = format!(
                "{}: 11 digits are needed, or +CC-number outside mainland China",
                masked(mobile)
            );
            return Err(Failure::new(Reason::MobileInvalid, Class::Recipient, detail));
        };
        let look_up = async {
            let answer = self.look_up(&mobile, turn).await;
            if answer
                .as_ref()
                .err()
                .is_none_or(|failure| failure.class == Class::Recipient)
            {
                self.look_ups.fetch_add(1, Ordering::Relaxed);
            }
            match answer {
                Ok(user_id) => Ok(Ok(user_id)),
                Err(failure) if failure.reason == Reason::PermissionMissing => Err(Failure {
                    look_up: true,
                    ..failure
                }),
                Err(failure) if matches!(failure.reason, Reason::UserNotFound | Reason::MobileInvalid) => {
                    Ok(Err(Nobody(failure)))
                }
                Err(failure) => Err(failure),
            }
        };
        self.users
            .get(&mobile, look_up)
            .await?
            .map_err(|Nobody(failure)| failure)
    }

    /// A send said that this user is gone: whatever mobile led there is looked up anew.
    pub async fn forget_user(&self, user_id: &str) {
        self.users.forget(user_id).await;
    }

    pub(super) async fn look_up(&self, mobile: &str, turn: Turn) -> Result<String, Failure> {
        let endpoint = Endpoint::GetByMobile;
        let body = json!({"mobile": mobile});
        let bare = mobile.trim_start_matches('+');
        let joined = bare.replace('-', "");
        let request = Request {
            body: Some(&body),
            turn,
            hide: &[mobile, bare, &joined],
            ..Request::default()
        };
        let answer = self.authorised(endpoint, request).await?;
        if !is_zero(&answer) {
            return Err(unreadable(endpoint, "an answer without errcode 0"));
        }
        let Some(result) = answer.get("result").filter(|result| result.is_object()) else {
            return Err(unreadable(endpoint, "an answer without a result"));
        };
        // Without a user ID only enterprise accounts matched, which nobody asked for (section 3).
        let user_id = result.get("userid").and_then(Value::as_str).unwrap_or_default();
        if user_id.is_empty() {
            let detail = format!(
                "{endpoint}: {}: nobody in this organisation has this mobile",
                masked(mobile)
            );
            return Err(Failure::new(Reason::UserNotFound, Class::Recipient, detail));
        }
        Ok(user_id.to_owned())
    }
}

/// A number as DingTalk keeps it: 11 digits from mainland China, else `+CC-number`. `None` for what is none.
fn normal(mobile: &str) -> Option<String> {
    let ascii = |c: char| match c {
        '０'..='９' => char::from_digit(u32::from(c) - u32::from('０'), 10).unwrap_or(c),
        '＋' => '+',
        '－' | '‐' | '‑' | '–' | '—' => '-',
        c => c,
    };
    let kept: String = mobile
        .chars()
        .map(ascii)
        .filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '（' | '）' | '.'))
        .collect();
    let kept = kept.strip_prefix("00").map_or(kept.clone(), |rest| format!("+{rest}"));
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let well_formed = |text: &str| text.chars().all(|c| c.is_ascii_digit() || c == '-') && !text.starts_with('-');
    match kept.strip_prefix('+') {
        Some(rest) if !well_formed(rest) => None,
        Some(rest) => {
            let all = digits(rest);
            match all.strip_prefix("86") {
                Some(mainland) if is_mainland(mainland) => Some(mainland.to_owned()),
                _ => (6..=20).contains(&all.len()).then(|| {
                    let (country, number) = all.split_at(country_code(&all));
                    format!("+{country}-{number}")
                }),
            }
        }
        None if !well_formed(&kept) => None,
        None => {
            let plain = digits(&kept);
            let without_country = plain.strip_prefix("86").filter(|m| is_mainland(m));
            let mobile = without_country.unwrap_or(&plain);
            (6..=20).contains(&mobile.len()).then(|| mobile.to_owned())
        }
    }
}

/// The length of a country code. None is the beginning of another, and all but these have three digits.
fn country_code(digits: &str) -> usize {
    const TWO: &[&str] = &[
        "20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46", "47", "48", "49",
        "51", "52", "53", "54", "55", "56", "57", "58", "60", "61", "62", "63", "64", "65", "66", "81", "82", "84",
        "86", "90", "91", "92", "93", "94", "95", "98",
    ];
    match &digits[..2] {
        two if TWO.contains(&two) => 2,
        two if two.starts_with(['1', '7']) => 1,
        _ => 3,
    }
}

fn is_mainland(digits: &str) -> bool {
    digits.len() == 11 && digits.starts_with('1')
}

/// `150****1231`: a mobile as it may be shown.
#[must_use]
pub fn masked(mobile: &str) -> String {
    let chars: Vec<char> = mobile.chars().collect();
    let ends = |n: usize, m: usize| {
        let (head, tail) = (&chars[..n], &chars[chars.len() - m..]);
        format!(
            "{}****{}",
            head.iter().collect::<String>(),
            tail.iter().collect::<String>()
        )
    };
    if chars.len() >= 11 {
        ends(3, 4)
    } else {
        ends(chars.len().min(1), 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::float_cmp)]
mod tests {
    use futures_util::future::join_all;

    use super::super::testing::{
        ACCESS_TOKEN, After, Bench, Canned, GET_BY_MOBILE, Host, MOBILE, TOKEN, canned, nobody, ok, raw, rude,
    };
    use super::*;

    fn found(user_id: &str) -> Canned {
        ok(&json!({
            "errcode": 0, "errmsg": "ok", "request_id": "5w82ciuur781",
            "result": {"userid": user_id, "exclusive_account_userid_list": ["zxxxx"]},
        }))
    }

    fn refusal(code: &str) -> Canned {
        let text = format!("ding talk error[subcode={code},submsg=x {MOBILE}]");
        ok(&json!({"errcode": 88, "sub_code": code, "sub_msg": "x", "errmsg": text, "request_id": "r"}))
    }

    fn cached(bench: &Bench, result: &str) -> f64 {
        bench.metric(&format!(r#"dingcard_user_cache_total{{result="{result}"}}"#))
    }

    #[test]
    fn one_number_is_one_however_people_write_it() {
        for written in [
            "15012341231",
            " 150 1234 1231 ",
            "150-1234-1231",
            "+86 150-1234-1231",
            "+86-15012341231",
            "008615012341231",
            "8615012341231",
            "１５０１２３４１２３１",
            "＋86（150）1234　1231",
            "(150)12341231",
        ] {
            assert_eq!(normal(written).as_deref(), Some("15012341231"), "{written}");
        }
        assert_eq!(normal("+852-91234567").as_deref(), Some("+852-91234567"));
        for written in ["+85291234567", "0085291234567", "+852 9123 4567", "+8529-1234567"] {
            assert_eq!(normal(written).as_deref(), Some("+852-91234567"), "{written}");
        }
        assert_eq!(normal("+1 242-555-1234").as_deref(), Some("+1-2425551234"));
        assert_eq!(normal("+44 7700 900123").as_deref(), Some("+44-7700900123"));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for wrong in [
            "",
            "abc",
            "150x2341231",
            "12",
            "-15012341231",
            "+",
            "+-1",
            "1501234123115012341231",
            "15012341231;1",
        ] {
            assert_eq!(normal(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_number_is_shown_masked() {
        assert_eq!(masked("15012341231"), "150****1231");
        assert_eq!(masked("12345"), "1****");
        assert_eq!(masked(""), "****");
    }

    #[tokio::test]
    async fn a_look_up_asks_for_one_mobile_with_the_token_in_the_query() {
        let host = Host::start().await;
        host.answer(GET_BY_MOBILE, [found("zhangsan")]);
        let bench = host.bench(&[]);
        let user_id = bench.app().user_id("+86 150-1234-1231", Turn::default()).await.unwrap();
        assert_eq!(user_id, "zhangsan");
        let asked = host.only(GET_BY_MOBILE);
        assert_eq!(asked.query, format!("access_token={TOKEN}"));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.json(), json!({ "mobile": MOBILE }));
    }

    #[tokio::test]
    async fn one_number_is_one_look_up_for_all_who_ask_at_once_and_later() {
        let host = Host::start().await;
        host.answer(GET_BY_MOBILE, [found("zhangsan")]);
        let bench = host.bench(&[]);
        let written = ["15012341231", "+86-15012341231", "150 1234 1231"];
        let all = written
            .iter()
            .cycle()
            .take(90)
            .map(|mobile| bench.app().user_id(mobile, Turn::default()));
        assert!(join_all(all).await.into_iter().all(|got| got.unwrap() == "zhangsan"));
        bench.app().user_id(MOBILE, Turn::default()).await.unwrap();
        host.only(GET_BY_MOBILE);
        host.only(ACCESS_TOKEN);
        assert!(cached(&bench, "miss") >= 1.0 && cached(&bench, "hit") >= 1.0);
        assert_eq!(cached(&bench, "miss") + cached(&bench, "hit"), 91.0);
    }

    #[tokio::test]
    async fn an_unknown_mobile_is_remembered_with_its_reason() {
        for (code, reason) in [("60121", Reason::UserNotFound), ("40104", Reason::MobileInvalid)] {
            let host = Host::start().await;
            host.answer(GET_BY_MOBILE, [refusal(code)]);
            let bench = host.bench(&[]);
            for _ in 0..3 {
                let failure = bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
                assert_eq!((failure.reason, failure.class), (reason, Class::Recipient));
                assert!(!failure.to_string().contains(MOBILE), "{failure}");
            }
            host.only(GET_BY_MOBILE);
            assert_eq!((cached(&bench, "miss"), cached(&bench, "negative_hit")), (1.0, 2.0));
        }
    }

    #[tokio::test]
    async fn whatever_else_fails_is_not_remembered() {
        let host = Host::start().await;
        let failures = [
            (raw(503, ""), Reason::ServerError, Class::Transient),
            (refusal("60011"), Reason::PermissionMissing, Class::Hold),
            (refusal("50002"), Reason::UserDisabled, Class::Recipient),
            (refusal("40035"), Reason::RequestRefused, Class::Recipient),
            (canned(404, &json!({})), Reason::BadResponse, Class::Transient),
        ];
        let answers = failures.iter().map(|(answer, ..)| answer.clone());
        host.answer(GET_BY_MOBILE, answers.chain([found("u")]));
        let bench = host.bench(&[]);
        for (_, reason, class) in &failures {
            let failure = bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
            assert_eq!((failure.reason, failure.class), (*reason, *class));
        }
        assert_eq!(bench.app().user_id(MOBILE, Turn::default()).await.unwrap(), "u");
    }

    #[tokio::test]
    async fn an_answer_without_its_documented_fields_says_nothing_about_the_recipient() {
        let host = Host::start().await;
        let broken = [
            json!({}),
            json!({"errcode": 0, "errmsg": "ok"}),
            json!({"errcode": 0, "result": null}),
            json!({"errcode": 0, "result": "zhangsan"}),
            json!({"result": {"userid": "zhangsan"}}),
        ];
        host.answer(GET_BY_MOBILE, broken.iter().map(ok));
        let bench = host.bench(&[]);
        for body in &broken {
            let failure = bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::BadResponse, Class::Transient),
                "{body}"
            );
        }
        assert_eq!(cached(&bench, "negative_hit"), 0.0);
    }

    #[tokio::test]
    async fn who_has_only_an_enterprise_account_is_not_found_and_a_code_may_be_a_string() {
        for user_id in [json!(""), Value::Null] {
            let host = Host::start().await;
            let result = json!({"userid": user_id, "exclusive_account_userid_list": "[\"a\"]"});
            host.answer(GET_BY_MOBILE, [ok(&json!({"errcode": "0", "result": result}))]);
            let failure = host
                .bench(&[])
                .app()
                .user_id(MOBILE, Turn::default())
                .await
                .unwrap_err();
            assert_eq!(
                (failure.reason, failure.class),
                (Reason::UserNotFound, Class::Recipient)
            );
            assert!(failure.detail.contains("150****1231"), "{failure}");
        }
    }

    #[tokio::test]
    async fn a_user_that_is_gone_is_looked_up_anew() {
        let host = Host::start().await;
        host.answer(GET_BY_MOBILE, [found("old"), found("new")]);
        let bench = host.bench(&[]);
        let app = bench.app();
        assert_eq!(app.user_id(MOBILE, Turn::default()).await.unwrap(), "old");
        app.forget_user("somebody else").await;
        assert_eq!(app.user_id(MOBILE, Turn::default()).await.unwrap(), "old");
        app.forget_user("old").await;
        assert_eq!(app.user_id(MOBILE, Turn::default()).await.unwrap(), "new");
    }

    #[tokio::test]
    async fn what_is_no_number_is_refused_without_asking() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let failure = bench.app().user_id("15012341231x", Turn::default()).await.unwrap_err();
        assert_eq!(
            (failure.reason, failure.class),
            (Reason::MobileInvalid, Class::Recipient)
        );
        assert!(!failure.to_string().contains(MOBILE), "{failure}");
        assert_eq!(host.count(), 0);
    }

    #[tokio::test]
    async fn a_lost_answer_to_a_look_up_is_transient_and_shows_neither_token_nor_mobile() {
        let host = Host::start().await;
        for oapi in [nobody(), rude(After::Closes("")).await.0] {
            let bench = host.bench(&[("dingtalk.oapi_url", &oapi)]);
            let failure = bench.app().user_id(MOBILE, Turn::default()).await.unwrap_err();
            assert_eq!((failure.reason, failure.class), (Reason::Network, Class::Transient));
            let shown = format!("{failure:?} {failure}");
            assert!(!shown.contains(TOKEN) && !shown.contains(MOBILE), "{shown}");
        }
    }

    #[test]
    fn why_there_is_nobody_reads_as_it_was_written() {
        let failure = Failure::new(
            Reason::UserNotFound,
            Class::Recipient,
            "getbymobile: 150****1231: nobody",
        );
        let read: Nobody = Nobody(failure.clone()).to_string().parse().unwrap();
        assert_eq!(read.0, failure);
        assert!("no_such_reason x".parse::<Nobody>().is_err());
    }
}
