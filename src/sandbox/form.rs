//! Queries and form bodies, which the legacy family takes both (dingtalk-api.md §1).
//!
//! Apart from `oapi` because it is text work and no rule of DingTalk's. It is lenient as such servers are: a broken
//! escape stands for itself.

use std::collections::HashMap;

/// The fields of `a=1&b=2`; of a repeated one the first.
pub(super) fn fields(text: &str) -> HashMap<String, String> {
    let mut fields = HashMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        fields.entry(decoded(key)).or_insert_with(|| decoded(value));
    }
    fields
}

fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.as_bytes();
    while let [first, rest @ ..] = bytes {
        let (byte, after) = match (first, rest) {
            (b'+', _) => (b' ', rest),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high * 16 + low, after),
                _ => (b'%', rest),
            },
            (&other, _) => (other, rest),
        };
        out.push(byte);
        bytes = after;
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone() {
        let fields = fields("mobile=%2B86-150&name=a+b%20%E5%BC%A0&mobile=2&flag");
        assert_eq!(fields["mobile"], "+86-150");
        assert_eq!(fields["name"], "a b 张");
        assert_eq!(fields["flag"], "");
    }

    #[test]
    fn a_broken_escape_stands_for_itself() {
        assert_eq!(fields("a=100%&b=%zz&c=%2")["a"], "100%");
        assert_eq!(fields("b=%zz")["b"], "%zz");
        assert_eq!(fields("c=%2")["c"], "%2");
    }
}
