//! From a mobile number to a user ID.
//!
//! Separate because people write one number in many ways, and each must be one look-up. It holds no number longer than
//! the cache does and shows none whole.

use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

use super::App;
use super::answer::{is_zero, unreadable};
use super::client::{Endpoint, Request};
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
    pub async fn user_id(&self, mobile: &str, urgent: bool) -> Result<String, Failure> {
        let Some(mobile) = normal(mobile) else {
            let detail = format!(
                "{}: 11 digits are needed, or +CC-number outside mainland China",
                masked(mobile)
            );
            return Err(Failure::new(Reason::MobileInvalid, Class::Recipient, detail));
        };
        let look_up = async {
            match self.look_up(&mobile, urgent).await {
                Ok(user_id) => Ok(Ok(user_id)),
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

    async fn look_up(&self, mobile: &str, urgent: bool) -> Result<String, Failure> {
        let endpoint = Endpoint::GetByMobile;
        let body = json!({"mobile": mobile});
        let bare = mobile.trim_start_matches('+');
        let joined = bare.replace('-', "");
        let request = Request {
            body: Some(&body),
            urgent,
            hide: &[mobile, bare, &joined],
            ..Request::default()
        };
        let answer = self.authorised(endpoint, request).await?;
        if !is_zero(&answer) {
            return Err(unreadable(endpoint, "an answer without errcode 0"));
        }
        // Without a user ID only enterprise accounts matched, which nobody asked for (section 3).
        let user_id = answer
            .get("result")
            .and_then(|r| r.get("userid"))
            .and_then(Value::as_str)
            .unwrap_or_default();
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
        .filter(|c| !c.is_whitespace() && !matches!(c, '(' | ')' | '.'))
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

/// `150****1231`
fn masked(mobile: &str) -> String {
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
            "＋86（15012341231".trim_end_matches('）').replace('（', "").as_str(),
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
}
