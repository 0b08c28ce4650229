//! Cards: what is sent for one, on either card API, and what became of each recipient.
//!
//! Separate because bodies and answers of the two APIs differ in every name while a card is one thing. It keeps nothing
//! between calls and decides on no second call.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::App;
use super::answer::{truth, undelivered, unreadable};
use super::client::{Request, Turn};
use super::endpoint::Endpoint;
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
    pub async fn send(&self, card: &Card<'_>, to: &[Space], turn: Turn) -> Result<PerSpace, Failure> {
        match self.settings.card_api {
            CardApi::Instances => {
                let body = self.delivered(Instances::made(card, to), to)?;
                self.call_instances(Endpoint::CreateAndDeliver, &body, to, turn).await
            }
            CardApi::Interactive => self.send_interactive(card, to, turn).await,
        }
    }

    /// Shows a card that exists to spaces that have missed it. It repeats where it is repeated.
    pub async fn deliver(&self, card: &Card<'_>, to: &[Space], turn: Turn) -> Result<PerSpace, Failure> {
        match self.settings.card_api {
            CardApi::Instances => {
                let body = self.delivered(Instances::known(card), to)?;
                self.call_instances(Endpoint::Deliver, &body, to, turn).await
            }
            CardApi::Interactive => self.send_interactive(card, to, turn).await,
        }
    }

    /// Gives a card that exists new parameters; those not named stay. Repeating it is harmless.
    pub async fn update(&self, card_id: &str, params: &BTreeMap<String, String>, turn: Turn) -> Result<(), Failure> {
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
                    turn,
                    ..Request::default()
                },
            )
            .await?;
        succeeded(endpoint, &answer)?;
        // `result` is documented for instances alone (5.3); what denies it has changed no card.
        match truth(answer.get("result")) {
            Some(false) => Err(unreadable(endpoint, "result is false, without a code")),
            _ => Ok(()),
        }
    }

    /// The body of a call that shows `card` to these spaces.
    fn delivered<'a>(&'a self, card: Instances<'a>, to: &[Space]) -> Result<Instances<'a>, Failure> {
        if to.iter().any(|space| space.kind_and_id().1.contains(';')) {
            let detail = "a user ID or conversation with ; in it cannot be named in openSpaceId";
            return Err(Failure::new(Reason::RequestRefused, Class::Recipient, detail));
        }
        let mut open_space_id = "dtv1.card//".to_owned();
        for (n, space) in to.iter().enumerate() {
            let (kind, id) = space.kind_and_id();
            let separator = if n == 0 { "" } else { ";" };
            open_space_id.extend([separator, kind, ".", id]);
        }
        if open_space_id.chars().count() > MAX_OPEN_SPACE_ID {
            let detail = format!("openSpaceId would have more than {MAX_OPEN_SPACE_ID} characters");
            return Err(Failure {
                splits: true,
                ..Failure::new(Reason::RequestRefused, Class::Permanent, detail)
            });
        }
        let robot_code = self.settings.robot_code.as_deref();
        let to_users = to.iter().any(|space| !space.is_group());
        let to_groups = to.iter().any(Space::is_group);
        Ok(Instances {
            open_space_id: Some(open_space_id),
            user_id_type: Some(1),
            im_robot_open_deliver_model: to_users.then_some(RobotDelivery {
                space_type: "IM_ROBOT",
                robot_code,
            }),
            im_group_open_deliver_model: to_groups.then_some(GroupDelivery { robot_code }),
            ..card
        })
    }

    async fn call_instances(
        &self,
        endpoint: Endpoint,
        body: &Instances<'_>,
        to: &[Space],
        turn: Turn,
    ) -> Result<PerSpace, Failure> {
        let answer = self
            .authorised(
                endpoint,
                Request {
                    body: Some(body),
                    turn,
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

    async fn send_interactive(&self, card: &Card<'_>, to: &[Space], turn: Turn) -> Result<PerSpace, Failure> {
        let endpoint = Endpoint::InteractiveSend;
        if to.len() > 1 && to.iter().any(Space::is_group) {
            let detail = format!("{endpoint}: a group needs a call of its own");
            return Err(Failure {
                splits: true,
                ..Failure::new(Reason::RequestRefused, Class::Permanent, detail)
            });
        }
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
                    turn,
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

/// A body for `/v1.0/card/instances` and what is below it (5.1, 5.3): of a card that is made, delivered, or both.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Instances<'a> {
    out_track_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    card_template_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    card_data: Option<CardData<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    im_robot_open_space_model: Option<SpaceModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    im_group_open_space_model: Option<SpaceModel>,
    #[serde(skip_serializing_if = "Option::is_none")]
    open_space_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    im_robot_open_deliver_model: Option<RobotDelivery<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    im_group_open_deliver_model: Option<GroupDelivery<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CardData<'a> {
    card_param_map: &'a BTreeMap<String, String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpaceModel {
    support_forward: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RobotDelivery<'a> {
    space_type: &'static str,
    robot_code: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupDelivery<'a> {
    robot_code: Option<&'a str>,
}

impl<'a> Instances<'a> {
    /// A card that is made for these spaces: without its type's space model it cannot be delivered to a space.
    pub(super) fn made(card: &Card<'a>, to: &[Space]) -> Self {
        let model = |wanted: bool| wanted.then_some(SpaceModel { support_forward: true });
        Self {
            card_template_id: Some(card.template),
            card_data: Some(CardData {
                card_param_map: card.params,
            }),
            im_robot_open_space_model: model(to.iter().any(|space| !space.is_group())),
            im_group_open_space_model: model(to.iter().any(Space::is_group)),
            ..Self::known(card)
        }
    }

    /// A card that was made before.
    fn known(card: &Card<'a>) -> Self {
        Self {
            out_track_id: card.out_track_id,
            ..Self::default()
        }
    }
}

/// Whether the answer as a whole says success.
pub(super) fn succeeded(endpoint: Endpoint, answer: &Map<String, Value>) -> Result<(), Failure> {
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
    let named = |r: &&Value| text(r, "spaceType").eq_ignore_ascii_case(kind) && text(r, "spaceId") == id;
    let unnamed = results.iter().all(|r| r.get("spaceId").is_none());
    let by_place = || results.get(place).filter(|_| unnamed && results.len() == of);
    let Some(result) = results.iter().find(named).or_else(by_place) else {
        return Err(unreadable(endpoint, "an answer without a result for this recipient"));
    };
    match truth(result.get("success")) {
        Some(true) => Ok(Delivered {
            carrier_id: text(result, "carrierId").to_owned(),
        }),
        Some(false) => Err(undelivered(endpoint, text(result, "errorMsg"), space.is_group(), &[id])),
        // It may have arrived, so nobody is dead for it.
        None => Err(unreadable(endpoint, "a result that says neither success nor failure")),
    }
}

/// The text of a field, empty where it has none.
fn text<'a>(result: &'a Value, key: &str) -> &'a str {
    result.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::super::testing::{
        ACCESS_TOKEN, After, Bench, CREATE_AND_DELIVER, Canned, DELIVER, Host, INTERACTIVE_SEND, INTERACTIVE_UPDATE,
        ROBOT, TOKEN, UPDATE_INSTANCES, canned, ok, rude,
    };
    use super::*;
    use crate::outcome::Class::{Hold, Permanent, Transient, Unknown};

    const INTERACTIVE: &[(&str, &str)] = &[("apps.default.card_api", "interactive")];

    fn params() -> BTreeMap<String, String> {
        [("pv", "2000"), ("list", "[1,2]")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into()
    }

    fn users(ids: &[&str]) -> Vec<Space> {
        ids.iter().map(|id| Space::User((*id).to_owned())).collect()
    }

    fn group(id: &str) -> Space {
        Space::Group(id.to_owned())
    }

    fn card(params: &BTreeMap<String, String>) -> Card<'_> {
        Card {
            out_track_id: "job-42-u1",
            template: "TPL.schema",
            params,
        }
    }

    async fn send(bench: &Bench, to: &[Space]) -> Result<PerSpace, Failure> {
        bench.app().send(&card(&params()), to, Turn::default()).await
    }

    async fn deliver(bench: &Bench, to: &[Space]) -> Result<PerSpace, Failure> {
        bench.app().deliver(&card(&params()), to, Turn::default()).await
    }

    async fn update(bench: &Bench) -> Result<(), Failure> {
        bench.app().update("job-42-u1", &params(), Turn::default()).await
    }

    fn shown(kind: &str, id: &str, carrier: &str) -> Value {
        json!({"spaceType": kind, "spaceId": id, "success": true, "carrierId": carrier, "errorMsg": ""})
    }

    fn missed(kind: &str, id: &str, message: &str) -> Value {
        json!({"spaceType": kind, "spaceId": id, "success": false, "errorMsg": message})
    }

    /// The answer of createAndDeliver with these results.
    fn created(results: &[Value]) -> Canned {
        ok(&json!({"success": true, "result": {"outTrackId": "job-42-u1", "deliverResults": results}}))
    }

    /// The carrier IDs and, where it failed, reason and class, in a form that compares.
    fn told(results: &PerSpace) -> Vec<Result<&str, (Reason, Class)>> {
        results
            .iter()
            .map(|r| {
                r.as_ref()
                    .map(|d| d.carrier_id.as_str())
                    .map_err(|f| (f.reason, f.class))
            })
            .collect()
    }

    fn is(failure: &Failure, reason: Reason, class: Class) {
        assert_eq!((failure.reason, failure.class), (reason, class), "{failure}");
    }

    /// The only request of `call`: its form is the family's, and this its body.
    fn asked(host: &Host, call: &str, body: &Value) {
        let asked = host.only(call);
        assert_eq!(asked.query, "");
        assert_eq!(asked.header("x-acs-dingtalk-access-token"), Some(TOKEN));
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(&asked.json(), body);
        host.only(ACCESS_TOKEN);
        assert_eq!(host.count(), 2, "nothing else is asked");
    }

    #[tokio::test]
    async fn create_and_deliver_to_users_sends_what_is_documented() {
        let host = Host::start().await;
        host.answer(
            CREATE_AND_DELIVER,
            [created(&[shown("IM_ROBOT", "u1", "c1"), shown("IM_ROBOT", "u2", "c2")])],
        );
        let results = send(&host.bench(&[]), &users(&["u1", "u2"])).await.unwrap();
        assert_eq!(told(&results), [Ok("c1"), Ok("c2")]);
        let body = json!({
            "cardTemplateId": "TPL.schema",
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "openSpaceId": "dtv1.card//IM_ROBOT.u1;IM_ROBOT.u2",
            "userIdType": 1,
            "imRobotOpenSpaceModel": {"supportForward": true},
            "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT", "robotCode": ROBOT},
        });
        asked(&host, CREATE_AND_DELIVER, &body);
    }

    #[tokio::test]
    async fn create_and_deliver_to_a_user_and_a_group_has_the_models_of_both() {
        let host = Host::start().await;
        let results = [shown("IM_ROBOT", "u1", "c1"), shown("IM_GROUP", "cidA==", "c2")];
        host.answer(CREATE_AND_DELIVER, [created(&results)]);
        let to = [Space::User("u1".to_owned()), group("cidA==")];
        assert_eq!(told(&send(&host.bench(&[]), &to).await.unwrap()), [Ok("c1"), Ok("c2")]);
        let body = json!({
            "cardTemplateId": "TPL.schema",
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "openSpaceId": "dtv1.card//IM_ROBOT.u1;IM_GROUP.cidA==",
            "userIdType": 1,
            "imRobotOpenSpaceModel": {"supportForward": true},
            "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT", "robotCode": ROBOT},
            "imGroupOpenSpaceModel": {"supportForward": true},
            "imGroupOpenDeliverModel": {"robotCode": ROBOT},
        });
        asked(&host, CREATE_AND_DELIVER, &body);
    }

    #[tokio::test]
    async fn deliver_names_the_card_and_the_spaces_and_gives_it_no_new_content() {
        let host = Host::start().await;
        let answer = json!({"success": true, "result": [shown("IM_GROUP", "cidA==", "c1")]});
        host.answer(DELIVER, [ok(&answer)]);
        let results = deliver(&host.bench(&[]), &[group("cidA==")]).await.unwrap();
        assert_eq!(told(&results), [Ok("c1")]);
        let body = json!({
            "outTrackId": "job-42-u1",
            "openSpaceId": "dtv1.card//IM_GROUP.cidA==",
            "userIdType": 1,
            "imGroupOpenDeliverModel": {"robotCode": ROBOT},
        });
        asked(&host, DELIVER, &body);
    }

    #[tokio::test]
    async fn an_update_of_an_instance_changes_by_key() {
        let host = Host::start().await;
        host.answer(UPDATE_INSTANCES, [ok(&json!({"success": true, "result": true}))]);
        update(&host.bench(&[])).await.unwrap();
        let body = json!({
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "userIdType": 1,
            "cardUpdateOptions": {"updateCardDataByKey": true, "updatePrivateDataByKey": true},
        });
        asked(&host, UPDATE_INSTANCES, &body);
    }

    #[tokio::test]
    async fn an_update_of_an_interactive_card_names_its_options_otherwise_and_success_is_a_string() {
        let host = Host::start().await;
        host.answer(INTERACTIVE_UPDATE, [ok(&json!({"success": "true"}))]);
        update(&host.bench(INTERACTIVE)).await.unwrap();
        let body = json!({
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "userIdType": 1,
            "cardOptions": {"updateCardDataByKey": true, "updatePrivateDataByKey": true},
        });
        asked(&host, INTERACTIVE_UPDATE, &body);
    }

    #[tokio::test]
    async fn an_interactive_card_to_users_is_a_single_chat_and_all_share_its_key() {
        let host = Host::start().await;
        let answer = json!({"success": true, "result": {"processQueryKey": "key"}});
        host.answer(INTERACTIVE_SEND, [ok(&answer)]);
        let results = send(&host.bench(INTERACTIVE), &users(&["u1", "u2"])).await.unwrap();
        assert_eq!(told(&results), [Ok("key"), Ok("key")]);
        let body = json!({
            "cardTemplateId": "TPL.schema",
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "conversationType": 0,
            "receiverUserIdList": ["u1", "u2"],
            "robotCode": ROBOT,
            "userIdType": 1,
        });
        asked(&host, INTERACTIVE_SEND, &body);
    }

    #[tokio::test]
    async fn an_interactive_card_to_a_group_names_the_conversation_and_no_user_and_deliver_is_a_send() {
        let host = Host::start().await;
        let answer = json!({"success": "true", "result": {"processQueryKey": "key"}});
        host.answer(INTERACTIVE_SEND, [ok(&answer)]);
        let results = deliver(&host.bench(INTERACTIVE), &[group("cidA==")]).await.unwrap();
        assert_eq!(told(&results), [Ok("key")]);
        let body = json!({
            "cardTemplateId": "TPL.schema",
            "outTrackId": "job-42-u1",
            "cardData": {"cardParamMap": {"pv": "2000", "list": "[1,2]"}},
            "conversationType": 1,
            "openConversationId": "cidA==",
            "robotCode": ROBOT,
            "userIdType": 1,
        });
        asked(&host, INTERACTIVE_SEND, &body);
    }

    #[tokio::test]
    async fn results_come_in_the_order_of_the_call_whatever_the_order_and_case_of_the_answer() {
        let host = Host::start().await;
        let results = [
            missed("IM_ROBOT", "gone", "spaceId is illegal"),
            shown("im_group", "cidA==", "c3"),
            missed("im_robot", "busy", "SYSTEM_ERROR"),
            json!({"spaceType": "Im_Robot", "spaceId": "u1", "success": "true", "carrierId": "c1", "errorMsg": "SYSTEM_ERROR"}),
            missed("IM_GROUP", "u1", "a group that is called like a user"),
            missed("IM_GROUP", "cidGone", "spaceId is illegal"),
            missed("IM_ROBOT", "robot", "chatbot not exist"),
        ];
        host.answer(CREATE_AND_DELIVER, [created(&results)]);
        let mut to = users(&["u1", "gone", "busy", "robot", "nowhere"]);
        to.extend([group("cidA=="), group("cidGone")]);
        let results = send(&host.bench(&[]), &to).await.unwrap();
        let expected = [
            Ok("c1"),
            Err((Reason::UserNotFound, Class::Recipient)),
            Err((Reason::ServerError, Transient)),
            Err((Reason::RobotInvalid, Hold)),
            Err((Reason::BadResponse, Unknown)),
            Ok("c3"),
            Err((Reason::ConversationInvalid, Class::Recipient)),
        ];
        assert_eq!(told(&results), expected);
    }

    #[tokio::test]
    async fn results_without_names_are_taken_by_place_only_where_each_space_has_one() {
        let host = Host::start().await;
        let bare = |success: bool| json!({"success": success, "errorMsg": "spaceId is illegal"});
        let answer = |results: &[Value]| ok(&json!({"success": true, "result": results}));
        host.answer(DELIVER, [answer(&[bare(false), bare(true)]), answer(&[bare(true)])]);
        let bench = host.bench(&[]);
        let results = deliver(&bench, &users(&["gone", "u1"])).await.unwrap();
        assert_eq!(told(&results), [Err((Reason::UserNotFound, Class::Recipient)), Ok("")]);
        let results = deliver(&bench, &users(&["u1", "u2"])).await.unwrap();
        assert_eq!(told(&results), [Err((Reason::BadResponse, Unknown)); 2]);
    }

    #[tokio::test]
    async fn an_answer_without_the_documented_fields_is_no_success_of_a_send() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let result = json!({"deliverResults": [shown("IM_ROBOT", "u1", "c")]});
        for body in [
            json!({}),
            json!({"success": true}),
            json!({"success": true, "result": null}),
            json!({"success": true, "result": {"outTrackId": "job-42-u1", "deliverResults": []}}),
            json!({"success": true, "result": []}),
            json!({"success": true, "result": "job-42-u1"}),
            json!({"success": false, "result": result}),
            json!({"success": "false", "result": result}),
            json!({"result": result}),
        ] {
            host.answer(CREATE_AND_DELIVER, [ok(&body)]);
            is(
                &send(&bench, &users(&["u1"])).await.unwrap_err(),
                Reason::BadResponse,
                Unknown,
            );
        }
        let bench = host.bench(INTERACTIVE);
        for body in [
            json!({"success": true}),
            json!({"success": true, "result": {}}),
            json!({"result": {"processQueryKey": "key"}}),
        ] {
            host.answer(INTERACTIVE_SEND, [ok(&body)]);
            is(
                &send(&bench, &users(&["u1"])).await.unwrap_err(),
                Reason::BadResponse,
                Unknown,
            );
        }
    }

    #[tokio::test]
    async fn an_update_that_does_not_say_success_is_none() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        for body in [
            json!({}),
            json!({"success": false}),
            json!({"success": true, "result": false}),
        ] {
            host.answer(UPDATE_INSTANCES, [ok(&body)]);
            is(&update(&bench).await.unwrap_err(), Reason::BadResponse, Unknown);
        }
        host.answer(UPDATE_INSTANCES, [canned(400, &json!({"code": "param.cardNotExist"}))]);
        is(&update(&bench).await.unwrap_err(), Reason::CardMissing, Permanent);
    }

    #[tokio::test]
    async fn a_refusal_of_the_whole_call_concerns_all_and_says_whether_halves_are_worth_trying() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        for (status, body, reason, class, splits, exists) in [
            (
                400,
                json!({"code": "param.userIdNotExist"}),
                Reason::UserNotFound,
                Class::Recipient,
                true,
                false,
            ),
            (
                400,
                json!({"code": "param.invalid"}),
                Reason::RequestRefused,
                Permanent,
                true,
                false,
            ),
            (
                400,
                json!({"code": "param.cardAlreadyExist"}),
                Reason::RequestRefused,
                Permanent,
                false,
                true,
            ),
            (
                400,
                json!({"code": "param.templateNotExist"}),
                Reason::TemplateInvalid,
                Permanent,
                false,
                false,
            ),
            (
                200,
                json!({"success": true, "errcode": 404}),
                Reason::PermissionMissing,
                Hold,
                false,
                false,
            ),
        ] {
            host.answer(CREATE_AND_DELIVER, [canned(status, &body)]);
            let failure = send(&bench, &users(&["u1", "u2"])).await.unwrap_err();
            is(&failure, reason, class);
            assert_eq!((failure.splits, failure.card_exists), (splits, exists), "{failure}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_named_in_one_open_space_id_is_split_and_not_sent() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        let failure = send(&bench, &users(&["u1", "u;IM_ROBOT.u2"])).await.unwrap_err();
        is(&failure, Reason::RequestRefused, Class::Recipient);
        assert!(failure.splits);
        let long: Vec<String> = (0..20).map(|n| format!("{n:064}")).collect();
        let long: Vec<&str> = long.iter().map(String::as_str).collect();
        let failure = send(&bench, &users(&long)).await.unwrap_err();
        is(&failure, Reason::RequestRefused, Permanent);
        assert!(failure.splits);
        assert_eq!(host.count(), 0);

        // Exactly a thousand characters: "dtv1.card//IM_ROBOT." has twenty.
        let id = "x".repeat(980);
        host.answer(CREATE_AND_DELIVER, [created(&[shown("IM_ROBOT", &id, "c")])]);
        assert_eq!(told(&send(&bench, &users(&[&id])).await.unwrap()), [Ok("c")]);
        send(&bench, &users(&["x".repeat(981).as_str()])).await.unwrap_err();
        host.only(CREATE_AND_DELIVER);
    }

    #[tokio::test]
    async fn an_interactive_call_that_mixes_groups_in_is_split_and_not_sent() {
        let host = Host::start().await;
        let bench = host.bench(INTERACTIVE);
        for to in [
            vec![group("cidA=="), group("cidB==")],
            vec![Space::User("u1".to_owned()), group("cidA==")],
        ] {
            let failure = send(&bench, &to).await.unwrap_err();
            is(&failure, Reason::RequestRefused, Permanent);
            assert!(failure.splits);
        }
        assert_eq!(host.count(), 0);
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_doubt_on_both_card_apis_and_nothing_is_sent_twice() {
        let host = Host::start().await;
        let (url, taken) = rude(After::Closes("")).await;
        // The token comes from the legacy host, so only the cards' host is rude.
        let settings = [
            ("dingtalk.api_url", url.as_str()),
            ("apps.default.token_api", "gettoken"),
        ];
        for card_api in ["instances", "interactive"] {
            let bench = host.bench(&[&settings[..], &[("apps.default.card_api", card_api)]].concat());
            let to = users(&["u1"]);
            is(&send(&bench, &to).await.unwrap_err(), Reason::Network, Unknown);
            is(&deliver(&bench, &to).await.unwrap_err(), Reason::Network, Unknown);
            is(&update(&bench).await.unwrap_err(), Reason::Network, Unknown);
        }
        assert_eq!(taken.load(Ordering::SeqCst), 6);
    }

    #[test]
    fn a_result_that_says_neither_success_nor_failure_kills_nobody() {
        let result = json!({"spaceType": "IM_ROBOT", "spaceId": "u1", "carrierId": "c"});
        let space = Space::User("u1".into());
        let failure = result_of(Endpoint::CreateAndDeliver, &space, 0, 1, &[result]).unwrap_err();
        assert_eq!((failure.reason, failure.class), (Reason::BadResponse, Class::Unknown));
    }
}
