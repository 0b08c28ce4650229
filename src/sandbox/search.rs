//! What somebody looks for among the cards and the refused calls.
//!
//! Apart from `inbox`, which answers the question, because both lists are asked in the same words. A search is read
//! once and owns what it needs, so that it can run where it holds up no call.

use std::collections::HashMap;

use serde_json::Value;

use super::card::{Card, Shown};
use super::directory::Directory;
use super::endpoint::Endpoint;
use super::refused::Refused;

/// The filters; what is absent does not restrict.
#[derive(Debug, Default)]
pub(super) struct Search {
    app: Option<String>,
    template: Option<String>,
    outcome: Option<Shown>,
    endpoint: Option<Endpoint>,
    result: Option<String>,
    /// A recipient's ID, and the IDs that it may mean: of a mobile's user, of whoever has such a name.
    recipient: Option<Vec<String>>,
    /// A text in lower case, and the IDs of those whose name holds it.
    text: Option<(String, Vec<String>)>,
}

impl Search {
    /// Reads the parameters `app`, `template`, `outcome`, `endpoint`, `result`, `recipient` and `q`; of others it knows
    /// nothing. The error says what is wrong with which.
    pub(super) fn read(query: &HashMap<String, String>, directory: &Directory) -> Result<Self, String> {
        let given = |key: &str| query.get(key).filter(|value| !value.is_empty());
        let named = |text: &str| directory.named(&text.to_lowercase());
        let meant = |id: &String| {
            let user = directory.user_of(id).ok();
            [id.clone()].into_iter().chain(user).chain(named(id)).collect()
        };
        let text = |text: &String| (text.to_lowercase(), named(text));
        Ok(Self {
            app: given("app").cloned(),
            template: given("template").cloned(),
            outcome: given("outcome")
                .map(|name| one_of("outcome", name, Shown::ALL, Shown::name))
                .transpose()?,
            endpoint: given("endpoint")
                .map(|name| one_of("endpoint", name, Endpoint::ALL, Endpoint::name))
                .transpose()?,
            result: given("result").cloned(),
            recipient: given("recipient").map(meant),
            text: given("q").map(text),
        })
    }

    /// Whether everything matches.
    pub(super) fn is_empty(&self) -> bool {
        matches!(
            self,
            Self {
                app: None,
                template: None,
                outcome: None,
                endpoint: None,
                result: None,
                recipient: None,
                text: None,
            }
        )
    }

    /// Whether a card is looked for.
    pub(super) fn finds_card(&self, card: &Card) -> bool {
        self.app.as_ref().is_none_or(|app| card.app_key == *app)
            && self.template.as_ref().is_none_or(|template| card.template == *template)
            && self.outcome.is_none_or(|outcome| card.shown() == outcome)
            && meets(self.recipient.as_deref(), card.recipients())
            && self.text.as_ref().is_none_or(|(text, named)| {
                let private = || Value::Object(card.private.clone()).to_string();
                holds(&card.out_track_id, text)
                    || holds(&card.app_key, text)
                    || holds(&card.template, text)
                    || card
                        .params
                        .iter()
                        .any(|(key, value)| holds(key, text) || value.as_str().is_some_and(|value| holds(value, text)))
                    || card.recipients().any(|id| holds(id, text))
                    || (!named.is_empty() && meets(Some(named), card.recipients()))
                    || (!card.private.is_empty() && holds(&private(), text))
            })
    }

    /// Whether a refused call is looked for.
    pub(super) fn finds_call(&self, call: &Refused) -> bool {
        let recipients = || call.gist.recipients.iter().map(AsRef::as_ref);
        self.app.as_ref().is_none_or(|app| call.app_key.as_ref() == Some(app))
            && self
                .template
                .as_ref()
                .is_none_or(|template| call.gist.template.as_deref() == Some(template))
            && self.endpoint.is_none_or(|endpoint| call.endpoint == endpoint)
            && self.result.as_ref().is_none_or(|result| call.result == *result)
            && meets(self.recipient.as_deref(), recipients())
            && self.text.as_ref().is_none_or(|(text, named)| {
                [&call.result, &call.message, &call.request]
                    .iter()
                    .any(|field| holds(field, text))
                    || call.app_key.as_ref().is_some_and(|app| holds(app, text))
                    || (!named.is_empty() && meets(Some(named), recipients()))
            })
    }
}

/// Whether any of the recipients is meant; all are where nobody is.
fn meets<'a>(meant: Option<&[String]>, mut recipients: impl Iterator<Item = &'a str>) -> bool {
    meant.is_none_or(|meant| recipients.any(|id| meant.iter().any(|meant| meant == id)))
}

fn one_of<T: Copy, const N: usize>(
    key: &str,
    given: &str,
    all: [T; N],
    name: fn(T) -> &'static str,
) -> Result<T, String> {
    let found = all.into_iter().find(|known| name(*known) == given);
    found.ok_or_else(|| format!("{key}: no `{given}`, there are {}", all.map(name).join(", ")))
}

/// Whether a text holds another, which is in lower case, in any case. Most texts are ASCII and need no copy, and most
/// places in them are ruled out by one byte.
fn holds(field: &str, text: &str) -> bool {
    let [first, rest @ ..] = text.as_bytes() else {
        return true;
    };
    if !field.is_ascii() {
        return field.to_lowercase().contains(text);
    }
    let field = field.as_bytes();
    let Some(last) = field.len().checked_sub(text.len()) else {
        return false;
    };
    let starts = field[..=last].iter().enumerate();
    starts
        .filter(|(_, byte)| byte.eq_ignore_ascii_case(first))
        .any(|(at, _)| field[at + 1..=at + rest.len()].eq_ignore_ascii_case(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_found_in_any_case() {
        assert!(holds("dingSandbox", "sand") && holds("DINGSANDBOX", "dingsandbox") && holds("x", ""));
        assert!(holds("张三 LI", "三 li") && holds("ÄRGER", "ärger"));
        assert!(!holds("ding", "dings") && !holds("", "d") && !holds("ding", "张"));
    }
}
