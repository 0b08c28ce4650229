//! Cards: what is sent for one, on either card API, and what became of each recipient.
//!
//! Separate because bodies and answers of the two APIs differ in every name while a card is one thing. It keeps nothing
//! between calls and decides on no second call.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::App;
use super::answer::{truth, undelivered, unreadable};
use super::client::{Endpoint, Request};
use super::error::Failure;
use crate::config::CardApi;
use crate::outcome::{Class, Reason};

/// The longest `openSpaceId` (`dingtalk-api.md` 5.1).
const MAX_OPEN_SPACE_ID: usize = 1000;

/// One card, by its name.
#[derive(Debug, Clone, Copy)]
pub struct Card<'a> {
    /// Names the card; a repeat names the same one.
    pub out_track_id: &'a str,
    /// DingTalk's template ID.
    pub template: &'a str,
    /// The template's variables.
    pub params: &'a BTreeMap<String, String>,
}

/// Where a card is shown.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Space {
    /// The chat of the robot with the user of this ID.
    User(String),
    /// The group of this `openConversationId`.
    Group(String),
}

/// A card was shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// DingTalk's `carrierId` or `processQueryKey`: finds who has read it.
    pub carrier_id: String,
}

/// What became of each space, in the order of the call.
type PerSpace = Vec<Result<Delivered, Failure>>;

impl Space {
    fn kind_and_id(&self) -> (&'static str, &str) {
        match self {
            Self::User(id) => ("IM_ROBOT", id),
            Self::Group(id) => ("IM_GROUP", id),
        }
    }

    fn is_group(&self) -> bool {
        matches!(self, Self::Group(_))
    }
}

impl App {
    /// One call that makes `card` and shows it to all of `to`: createAndDeliver; or interactiveCards/send, which takes users
    /// or one group. Gives one result a space; an error concerns all.
    pub async fn send(&self, card: &Card<'_>, to: &[Space], urgent: bool) -> Result<PerSpace, Failure> {
        match self.settings.card_api {
            CardApi::Instances => {
                let mut body = self.spaces(to)?;
                body.extend(space_models(to));
                body.insert("cardTemplateId".to_owned(), json!(card.template));
                body.insert("cardData".to_owned(), json!({"cardParamMap": card.params}));
                self.call_instances(Endpoint::CreateAndDeliver, body, card, to, urgent)
                    .await
            }
            CardApi::Interactive => self.send_interactive(card, to, urgent).await,
        }
    }

    /// Shows a card that exists to spaces that have missed it. It repeats where it is repeated.
    pub async fn deliver(&self, card: &Card<'_>, to: &[Space], urgent: bool) -> Result<PerSpace, Failure> {
        match self.settings.card_api {
            CardApi::Instances => {
                let body = self.spaces(to)?;
                self.call_instances(Endpoint::Deliver, body, card, to, urgent).await
            }
            CardApi::Interactive => self.send_interactive(card, to, urgent).await,
        }
    }

    /// Gives a card that exists new parameters; those not named stay. Repeating it is harmless.
    pub async fn update(&self, card_id: &str, params: &BTreeMap<String, String>, urgent: bool) -> Result<(), Failure> {
        let (endpoint, options) = match self.settings.card_api {
            CardApi::Instances => (Endpoint::UpdateInstances, "cardUpdateOptions"),
            CardApi::Interactive => (Endpoint::InteractiveUpdate, "cardOptions"),
        };
        let body = json!({
            "outTrackId": card_id,
            "cardData": {"cardParamMap": params},
            "userIdType": 1,
            options: {"updateCardDataByKey": true, "updatePrivateDataByKey": true},
        });
        let answer = self
            .authorised(
                endpoint,
                Request {
                    body: Some(&body),
                    urgent,
                    ..Request::default()
                },
            )
            .await?;
        succeeded(endpoint, &answer)
    }

    /// `openSpaceId` and the deliver models, common to createAndDeliver and deliver.
    fn spaces(&self, to: &[Space]) -> Result<Map<String, Value>, Failure> {
        if to.iter().any(|space| space.kind_and_id().1.contains(';')) {
            let detail = "a user ID or conversation with ; in it cannot be named in openSpaceId";
            return Err(Failure::new(Reason::RequestRefused, Class::Recipient, detail));
        }
        let items: Vec<String> = to
            .iter()
            .map(|s| format!("{}.{}", s.kind_and_id().0, s.kind_and_id().1))
            .collect();
        let open_space_id = format!("dtv1.card//{}", items.join(";"));
        if open_space_id.chars().count() > MAX_OPEN_SPACE_ID {
            let detail = format!("openSpaceId would have more than {MAX_OPEN_SPACE_ID} characters");
            return Err(Failure {
                splits: true,
                ..Failure::new(Reason::RequestRefused, Class::Permanent, detail)
            });
        }
        let robot = &self.settings.robot_code;
        let mut body = Map::new();
        body.insert("openSpaceId".to_owned(), json!(open_space_id));
        body.insert("userIdType".to_owned(), json!(1));
        if to.iter().any(|s| !s.is_group()) {
            body.insert(
                "imRobotOpenDeliverModel".to_owned(),
                json!({"spaceType": "IM_ROBOT", "robotCode": robot}),
            );
        }
        if to.iter().any(Space::is_group) {
            body.insert("imGroupOpenDeliverModel".to_owned(), json!({"robotCode": robot}));
        }
        Ok(body)
    }

    async fn call_instances(
        &self,
        endpoint: Endpoint,
        mut body: Map<String, Value>,
        card: &Card<'_>,
        to: &[Space],
        urgent: bool,
    ) -> Result<PerSpace, Failure> {
        body.insert("outTrackId".to_owned(), json!(card.out_track_id));
        let body = Value::Object(body);
        let answer = self
            .authorised(
                endpoint,
                Request {
                    body: Some(&body),
                    urgent,
                    ..Request::default()
                },
            )
            .await?;
        succeeded(endpoint, &answer)?;
        // `result.deliverResults` of createAndDeliver, `result` of deliver (5.1, 5.3).
        let result = answer.get("result").unwrap_or(&Value::Null);
        let results = result
            .get("deliverResults")
            .unwrap_or(result)
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        if results.is_empty() {
            return Err(unreadable(endpoint, "an answer without results of the delivery"));
        }
        Ok(to
            .iter()
            .enumerate()
            .map(|(n, space)| result_of(endpoint, space, n, to.len(), results))
            .collect())
    }

    async fn send_interactive(&self, card: &Card<'_>, to: &[Space], urgent: bool) -> Result<PerSpace, Failure> {
        let endpoint = Endpoint::InteractiveSend;
        let mut body = json!({
            "cardTemplateId": card.template,
            "outTrackId": card.out_track_id,
            "cardData": {"cardParamMap": card.params},
            "robotCode": self.settings.robot_code,
            "userIdType": 1,
        });
        if let [Space::Group(conversation)] = to {
            body["conversationType"] = json!(1);
            body["openConversationId"] = json!(conversation);
        } else {
            let users: Vec<&str> = to.iter().map(|space| space.kind_and_id().1).collect();
            body["conversationType"] = json!(0);
            body["receiverUserIdList"] = json!(users);
        }
        let answer = self
            .authorised(
                endpoint,
                Request {
                    body: Some(&body),
                    urgent,
                    ..Request::default()
                },
            )
            .await?;
        succeeded(endpoint, &answer)?;
        let key = answer
            .get("result")
            .and_then(|r| r.get("processQueryKey"))
            .and_then(Value::as_str);
        let Some(carrier_id) = key.map(str::to_owned) else {
            return Err(unreadable(endpoint, "an answer without processQueryKey"));
        };
        Ok(to
            .iter()
            .map(|_| {
                Ok(Delivered {
                    carrier_id: carrier_id.clone(),
                })
            })
            .collect())
    }
}

/// The space models of a card that is made: without its type's model it cannot be delivered to a space.
fn space_models(to: &[Space]) -> Map<String, Value> {
    let model = json!({"supportForward": true});
    let mut models = Map::new();
    if to.iter().any(|s| !s.is_group()) {
        models.insert("imRobotOpenSpaceModel".to_owned(), model.clone());
    }
    if to.iter().any(Space::is_group) {
        models.insert("imGroupOpenSpaceModel".to_owned(), model);
    }
    models
}

/// Whether the answer as a whole says success.
fn succeeded(endpoint: Endpoint, answer: &Map<String, Value>) -> Result<(), Failure> {
    match truth(answer.get("success")) {
        Some(true) => Ok(()),
        Some(false) => Err(unreadable(endpoint, "success is false, without a code")),
        None => Err(unreadable(endpoint, "an answer without success")),
    }
}

/// What became of one space: found by its type and ID, or by its place where every space has a result.
fn result_of(
    endpoint: Endpoint,
    space: &Space,
    place: usize,
    of: usize,
    results: &[Value],
) -> Result<Delivered, Failure> {
    let (kind, id) = space.kind_and_id();
    let text = |result: &'_ Value, key: &str| result.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let named = |r: &&Value| text(r, "spaceType").eq_ignore_ascii_case(kind) && text(r, "spaceId") == id;
    let unnamed = results.iter().all(|r| r.get("spaceId").is_none());
    let by_place = || results.get(place).filter(|_| unnamed && results.len() == of);
    let Some(result) = results.iter().find(named).or_else(by_place) else {
        return Err(unreadable(endpoint, "an answer without a result for this recipient"));
    };
    match truth(result.get("success")) {
        Some(true) => Ok(Delivered {
            carrier_id: text(result, "carrierId"),
        }),
        Some(false) => Err(undelivered(
            endpoint,
            &text(result, "errorMsg"),
            space.is_group(),
            &[id],
        )),
        // It may have arrived, so nobody is dead for it.
        None => Err(unreadable(endpoint, "a result that says neither success nor failure")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_result_that_says_neither_success_nor_failure_kills_nobody() {
        let result = json!({"spaceType": "IM_ROBOT", "spaceId": "u1", "carrierId": "c"});
        let space = Space::User("u1".into());
        let failure = result_of(Endpoint::CreateAndDeliver, &space, 0, 1, &[result]).unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::BadResponse, Class::Unknown));
    }
}
