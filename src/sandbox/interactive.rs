//! interactiveCards: the card API that existing apps may keep (dingtalk-api.md §4).
//!
//! Apart from `instances` because the two agree on little: here one bad recipient refuses the whole call, an ID
//! that was used before shows the old card once more, and an update answers with a string. It cannot tell one
//! recipient's success from another's, because the API cannot.

use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::api::Call;
use super::cards::{Api, Card, Change, Space, SpaceType};
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
    let mut cards = held(&world.cards);
    // Where the ID was used before, its card is shown again as it is: idempotent for the instance, not for the
    // message (dingtalk-api.md §4.3).
    cards.create(card);
    let shown = cards.show(out_track_id, &spaces);
    drop(cards);
    world.tell(Event::Card, shown);
    Ok(Answer::ok(
        json!({"success": true, "result": {"processQueryKey": super::answer::carrier_id()}}),
    ))
}

/// `PUT /v1.0/im/interactiveCards`.
pub(super) fn update(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let out_track_id = out_track_id(&body, "outTrackIdLengthLimited")?;
    let (params, private) = open_api::card_data(&body)?;
    open_api::user_id_type(&body)?;
    let options = open_api::optional_object(&body, "cardOptions")?;
    let change = Change {
        params,
        private,
        params_by_key: open_api::flag(options, "updateCardDataByKey")?,
        private_by_key: open_api::flag(options, "updatePrivateDataByKey")?,
        request: String::from_utf8_lossy(&call.body).into_owned(),
    };
    let mut cards = held(&world.cards);
    if cards.get(out_track_id).is_none_or(|card| card.api != Api::Interactive) {
        return Err(Answer::refused("cardInstance.notExist", "卡片实例不存在"));
    }
    let updated = cards.update(out_track_id, change);
    drop(cards);
    world.tell(Event::Update, updated);
    // A string, in documentation and SDK alike (dingtalk-api.md §4.5).
    Ok(Answer::ok(json!({"success": "true"})))
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
fn spaces(world: &World, app_key: &str, body: &Map<String, Value>) -> Result<Vec<Space>, Answer> {
    let group = match body.get("conversationType") {
        None | Some(Value::Null) => return Err(Answer::refused("param.empty", "conversationType is empty")),
        Some(kind) => match kind.as_i64() {
            Some(0) => false,
            Some(1) => true,
            _ => return Err(invalid("conversationType is neither 0 nor 1")),
        },
    };
    let receivers = receivers(body)?;
    robot(world, app_key, body, group)?;
    if receivers
        .iter()
        .any(|user| world.directory.user(user) != Standing::Known)
    {
        return Err(Answer::refused("userInfo.convertError", "用户信息转换失败"));
    }
    if group {
        let id = open_api::text(body, "openConversationId", "invalidParameter.cid.empty")?;
        return match world.directory.conversation(id) {
            Standing::Known => Ok(vec![Space {
                kind: SpaceType::ImGroup,
                id: id.to_owned(),
            }]),
            Standing::Unknown => Err(Answer::refused("cidParse.wrong", "群会话id解析失败")),
            Standing::Disabled => Err(Answer::refused("sceneGroupNotFound", "群不存在")),
        };
    }
    if receivers.is_empty() {
        return Err(Answer::refused("param.empty", "receiverUserIdList is empty"));
    }
    Ok(receivers
        .into_iter()
        .map(|id| Space {
            kind: SpaceType::ImRobot,
            id,
        })
        .collect())
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
