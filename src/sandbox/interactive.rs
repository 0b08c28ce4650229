//! interactiveCards: the card API that existing apps may keep (dingtalk-api.md §4).
//!
//! Apart from `instances` because the two agree on little: here one bad recipient refuses the whole call, an ID
//! that was used before shows the old card once more, and an update answers with a string. It cannot tell one
//! recipient's success from another's, because the API cannot.

use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::api::Call;
use super::card::{Api, Card, Change, Space, SpaceType};
use super::directory::Standing;
use super::open_api::{self, MAX_OUT_TRACK_ID, MAX_RECIPIENTS, invalid};
use super::{Event, World, held};

/// `POST /v1.0/im/interactiveCards/send`.
pub(super) fn send(world: &World, app_key: &str, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let template = open_api::text(&body, "cardTemplateId", "card.templateEmpty")?;
    let out_track_id = out_track_id(&body, "outTrackId.exceed.limit")?;
    let (params, private) = open_api::card_data(&body)?;
    let params = params.ok_or_else(|| Answer::refused("param.empty", "cardData is empty"))?;
    open_api::user_id_type(&body)?;
    let spaces = spaces(world, app_key, &body)?;
    if world.directory.template(template) != Standing::Known {
        return Err(Answer::refused(
            "cardInstance.wrong",
            "卡片实例创建失败,请检查模板是否已发布",
        ));
    }

    let mut card = Card::new(
        out_track_id.to_owned(),
        Api::Interactive,
        app_key.to_owned(),
        template.to_owned(),
    );
    card.params = params;
    card.private = private.unwrap_or_default();
    card.request = String::from_utf8_lossy(&call.body).into_owned();
    let answer = Answer::ok(json!({"success": true, "result": {"processQueryKey": super::answer::carrier_id()}}));
    card.answer = answer.text();
    let mut cards = held(&world.cards);
    // Where the ID was used before, its card is shown again as it is: idempotent for the instance, not for the
    // message (dingtalk-api.md §4.3).
    let is_new = cards.create(card);
    let spaces = if is_new || !world.directory.assume().repeated_send_shows_nothing {
        &*spaces
    } else {
        &[]
    };
    cards.show(out_track_id, spaces);
    drop(cards);
    world.tell(Event::Card, Some(out_track_id));
    Ok(answer)
}

/// `PUT /v1.0/im/interactiveCards`.
pub(super) fn update(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let out_track_id = out_track_id(&body, "outTrackIdLengthLimited")?;
    let (params, private) = open_api::card_data(&body)?;
    open_api::user_id_type(&body)?;
    let options = open_api::optional_object(&body, "cardOptions")?;
    // A string, in documentation and SDK alike (dingtalk-api.md §4.5).
    let answer = Answer::ok(json!({"success": "true"}));
    let change = Change {
        params,
        private,
        params_by_key: open_api::flag(options, "updateCardDataByKey")?,
        private_by_key: open_api::flag(options, "updatePrivateDataByKey")?,
        request: String::from_utf8_lossy(&call.body).into_owned(),
        answer: answer.text(),
    };
    let mut cards = held(&world.cards);
    if cards.get(out_track_id).is_none_or(|card| card.api != Api::Interactive) {
        return Err(Answer::refused("cardInstance.notExist", "卡片实例不存在"));
    }
    cards.update(out_track_id, change);
    drop(cards);
    world.tell(Event::Update, Some(out_track_id));
    Ok(answer)
}

fn out_track_id<'a>(body: &'a Map<String, Value>, too_long: &'static str) -> Result<&'a str, Answer> {
    let id = open_api::text(body, "outTrackId", "card.outTraceIdEmpty")?;
    if id.chars().count() > MAX_OUT_TRACK_ID {
        return Err(Answer::refused(
            too_long,
            format!("outTrackId has more than {MAX_OUT_TRACK_ID} characters"),
        ));
    }
    // Which characters are allowed is not known; these are allowed nowhere.
    if id.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err(Answer::refused("card.outTraceIdError", "outTrackId holds white space"));
    }
    Ok(id)
}

/// Where the call wants to show the card: a conversation with each user, or one group.
fn spaces(world: &World, app_key: &str, body: &Map<String, Value>) -> Result<Vec<(Space, Option<String>)>, Answer> {
    let group = match body.get("conversationType") {
        None | Some(Value::Null) => return Err(Answer::refused("param.empty", "conversationType is empty")),
        Some(kind) => match kind.as_i64() {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(invalid("conversationType is neither 0 nor 1")),
        },
    };
    let mut receivers = receivers(body)?;
    robot(world, app_key, body, group)?;
    let is_known = |user: &String| world.directory.user(user) == Standing::Known;
    if world.directory.assume().bad_receiver_is_skipped {
        receivers.retain(is_known);
    } else if !receivers.iter().all(is_known) {
        return Err(Answer::refused("userInfo.convertError", "用户信息转换失败"));
    }
    if group {
        let id = open_api::text(body, "openConversationId", "invalidParameter.cid.empty")?;
        return match world.directory.conversation(id) {
            Standing::Known if !world.directory.has_robot(id, app_key) => {
                Err(Answer::refused("chatbotNotInstall", "机器人不在群内"))
            }
            Standing::Known => Ok(vec![shown(SpaceType::ImGroup, id)]),
            Standing::Unknown => Err(Answer::refused("cidParse.wrong", "群会话id解析失败")),
            Standing::Disabled => Err(Answer::refused("sceneGroupNotFound", "群不存在")),
        };
    }
    if receivers.is_empty() {
        return Err(Answer::refused("param.empty", "receiverUserIdList is empty"));
    }
    if receivers.len() > 1 && world.directory.assume().one_receiver_per_chat {
        return Err(invalid("receiverUserIdList has more than one user"));
    }
    Ok(receivers.iter().map(|id| shown(SpaceType::ImRobot, id)).collect())
}

/// A delivery that does not fail: here one that would refuses the whole call.
fn shown(kind: SpaceType, id: &str) -> (Space, Option<String>) {
    let id = id.to_owned();
    (Space { kind, id }, None)
}

fn receivers(body: &Map<String, Value>) -> Result<Vec<String>, Answer> {
    let list = match body.get("receiverUserIdList") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list) => list
            .as_array()
            .ok_or_else(|| invalid("receiverUserIdList is not a list"))?,
    };
    if list.len() > MAX_RECIPIENTS {
        return Err(invalid(format!(
            "receiverUserIdList has more than {MAX_RECIPIENTS} users"
        )));
    }
    let user = |user: &Value| user.as_str().map(str::to_owned);
    list.iter()
        .map(user)
        .collect::<Option<_>>()
        .ok_or_else(|| invalid("receiverUserIdList holds no string"))
}

/// A group needs a robot; in a single chat the token's own app sends where none is named (dingtalk-api.md §4.1).
fn robot(world: &World, app_key: &str, body: &Map<String, Value>, group: bool) -> Result<(), Answer> {
    let robot_code = open_api::optional_text(body, "robotCode")?;
    let chat_bot_id = open_api::optional_text(body, "chatBotId")?;
    match (robot_code, chat_bot_id) {
        (Some(code), _) if !world.directory.owns_robot(app_key, code) => {
            Err(Answer::refused("invalid.robotCode", "robotCode 无效"))
        }
        (None, Some(id)) if id != app_key => Err(Answer::refused("chatbot.notFound", "机器人不存在")),
        (None, None) if group => Err(Answer::refused("chatbot.notFound", "机器人不存在")),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::super::testing::{Bench, Got, changed, refused};
    use super::*;

    async fn send_with(bench: &Bench, id: &str, changes: Value) -> Got {
        let body = json!({
            "cardTemplateId": "TPL.schema",
            "outTrackId": id,
            "conversationType": 0,
            "receiverUserIdList": ["u1", "u2"],
            "robotCode": "dingsandbox",
            "cardData": {"cardParamMap": {"pv": "2000"}},
        });
        bench.post("/im/interactiveCards/send", changed(body, changes)).await
    }

    #[tokio::test]
    async fn a_card_is_shown_to_each_receiver() {
        let bench = Bench::start().await;
        let (status, body) = send_with(&bench, "a", json!({})).await;
        assert_eq!((status, &body["success"]), (200, &json!(true)));
        assert!(body["result"]["processQueryKey"].is_string());
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(
            (&card["api"], &card["app_key"]),
            (&json!("interactive"), &json!("dingsandbox"))
        );
        let to: Vec<_> = card["deliveries"]
            .as_array()
            .unwrap()
            .iter()
            .map(|at| &at["space_id"])
            .collect();
        assert_eq!(to, ["u1", "u2"]);
    }

    #[tokio::test]
    async fn the_same_id_again_shows_the_old_content_in_a_second_message() {
        let bench = Bench::start().await;
        send_with(&bench, "a", json!({})).await;
        let again = json!({"cardData": {"cardParamMap": {"pv": "1"}}, "receiverUserIdList": ["u2"]});
        assert_eq!(send_with(&bench, "a", again).await.0, 200);
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(
            (&card["params"]["pv"], &card["delivery_count"]),
            (&json!("2000"), &json!(3))
        );
        let (_, calls) = bench.get("/sandbox/calls").await;
        assert_eq!(
            calls["deliveries"],
            json!({"total": 3, "recipients": 2, "duplicates": 1})
        );
    }

    #[tokio::test]
    async fn a_group_sees_one_message() {
        let bench = Bench::start().await;
        let group = json!({"conversationType": 1, "openConversationId": "cidAbC==", "receiverUserIdList": null});
        assert_eq!(send_with(&bench, "a", group).await.0, 200);
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(card["deliveries"][0]["space_type"], "IM_GROUP");
        assert_eq!(card["deliveries"][0]["space_id"], "cidAbC==");
    }

    #[tokio::test]
    async fn one_bad_receiver_refuses_the_whole_call() {
        let bench = Bench::start().await;
        for user in ["u0000", "u0001"] {
            let answer = send_with(&bench, "a", json!({"receiverUserIdList": ["u1", user]})).await;
            assert_eq!(refused(&answer), (400, "userInfo.convertError"));
        }
        assert_eq!(bench.get("/sandbox/cards").await.1["total"], 0);
    }

    #[tokio::test]
    async fn each_fault_has_its_code() {
        let bench = Bench::start().await;
        let group = |id: &str| json!({"conversationType": 1, "openConversationId": id});
        let twenty_one: Vec<_> = (0..21).map(|n| format!("u{n}")).collect();
        for (changes, code) in [
            (json!({"cardTemplateId": null}), "card.templateEmpty"),
            (json!({"cardTemplateId": "TPL0000"}), "cardInstance.wrong"),
            (json!({"cardTemplateId": "TPL0001"}), "cardInstance.wrong"),
            (json!({"outTrackId": ""}), "card.outTraceIdEmpty"),
            (json!({"outTrackId": "a".repeat(101)}), "outTrackId.exceed.limit"),
            (json!({"outTrackId": "a b"}), "card.outTraceIdError"),
            (json!({"cardData": null}), "param.empty"),
            (json!({"conversationType": null}), "param.empty"),
            (json!({"conversationType": 2}), "param.invalid"),
            (json!({"receiverUserIdList": null}), "param.empty"),
            (json!({"receiverUserIdList": twenty_one}), "param.invalid"),
            (json!({"receiverUserIdList": [1]}), "param.invalid"),
            (json!({"conversationType": 1}), "invalidParameter.cid.empty"),
            (group("cid0000"), "cidParse.wrong"),
            (group("somewhere"), "cidParse.wrong"),
            (group("cid0001"), "sceneGroupNotFound"),
            (json!({"robotCode": "dingsandbox2"}), "invalid.robotCode"),
            (
                json!({"robotCode": null, "chatBotId": "dingsandbox2"}),
                "chatbot.notFound",
            ),
            (changed(group("cidAbC"), json!({"robotCode": ""})), "chatbot.notFound"),
        ] {
            let answer = send_with(&bench, "a", changes.clone()).await;
            assert_eq!(refused(&answer), (400, code), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_single_chat_needs_no_robot() {
        let bench = Bench::start().await;
        assert_eq!(send_with(&bench, "a", json!({"robotCode": null})).await.0, 200);
    }

    #[tokio::test]
    async fn an_update_says_true_as_a_string_and_goes_by_key_only_when_asked() {
        let bench = Bench::start().await;
        send_with(&bench, "a", json!({})).await;
        let likes = json!({"outTrackId": "a", "cardData": {"cardParamMap": {"likes": "9"}}});
        let by_key = changed(likes.clone(), json!({"cardOptions": {"updateCardDataByKey": true}}));
        assert_eq!(
            bench.put("/im/interactiveCards", by_key).await,
            (200, json!({"success": "true"}))
        );
        let params = || async { bench.get("/sandbox/cards/a").await.1["params"].clone() };
        assert_eq!(params().await, json!({"pv": "2000", "likes": "9"}));
        bench.put("/im/interactiveCards", likes).await;
        assert_eq!(params().await, json!({"likes": "9"}));
    }

    #[tokio::test]
    async fn an_update_finds_only_cards_of_this_api() {
        let bench = Bench::start().await;
        bench.create_and_deliver("new", &["u1"], json!({})).await;
        for (id, code) in [
            ("none", "cardInstance.notExist"),
            ("new", "cardInstance.notExist"),
            ("", "card.outTraceIdEmpty"),
            (&"a".repeat(101), "outTrackIdLengthLimited"),
        ] {
            let answer = bench.put("/im/interactiveCards", json!({"outTrackId": id})).await;
            assert_eq!(refused(&answer), (400, code));
        }
    }
}
