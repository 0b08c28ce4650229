//! card/instances: the current card API (dingtalk-api.md §5).
//!
//! One file for its five calls because they work on one thing, the instance, and share its rules: an ID makes one
//! card, a card goes where its models allow, and each delivery has a result of its own. Reading where a card goes
//! is `spaces`' business.

use serde_json::{Map, Value, json};

use super::answer::{Answer, carrier_id};
use super::api::Call;
use super::card::{Api, Card, Change, Space, SpaceType};
use super::directory::Standing;
use super::faults::Plan;
use super::open_api::{self, MAX_OUT_TRACK_ID, invalid};
use super::{Event, World, held, spaces};

/// `POST /v1.0/card/instances/createAndDeliver`. A card whose deliveries all fail is made nevertheless.
pub(super) fn create_and_deliver(world: &World, app_key: &str, call: &Call, plan: &Plan) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let mut card = read_card(world, app_key, &body, call)?;
    let spaces = spaces::open_space_id(&body)?;
    spaces::check_models(&body, &spaces, &card.carries)?;
    let assume = world.directory.assume();
    if assume.unknown_user_refuses_call && spaces.iter().any(|space| is_no_user(world, space)) {
        return Err(Answer::refused("param.userIdNotExist", "用户不存在"));
    }
    let out_track_id = card.out_track_id.clone();
    let deliveries = judge(world, app_key, &body, plan, spaces);
    let results: Vec<_> = deliveries.iter().map(result).collect();
    let answer =
        Answer::ok(json!({"success": true, "result": {"outTrackId": out_track_id, "deliverResults": results}}));
    card.answer = answer.text();

    let mut cards = held(&world.cards);
    if cards.create(card) {
        cards.show(&out_track_id, &deliveries);
    } else if !assume.repeated_create_succeeds {
        return Err(already_exists());
    }
    drop(cards);
    world.tell(Event::Card, Some(&out_track_id));
    Ok(answer)
}

/// `POST /v1.0/card/instances`.
pub(super) fn create(world: &World, app_key: &str, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let mut card = read_card(world, app_key, &body, call)?;
    let out_track_id = card.out_track_id.clone();
    let answer = Answer::ok(json!({"success": true, "result": out_track_id}));
    card.answer = answer.text();
    if !held(&world.cards).create(card) {
        return Err(already_exists());
    }
    world.tell(Event::Card, Some(&out_track_id));
    Ok(answer)
}

/// `PUT /v1.0/card/instances/spaces`.
pub(super) fn spaces(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let out_track_id = out_track_id(&body)?;
    let carried = spaces::space_models(&body)?;
    if carried.is_empty() {
        return Err(Answer::refused("param.openSpaceModelInvalid", "no OpenSpaceModel"));
    }
    existing(world, out_track_id)?;
    held(&world.cards).carry(out_track_id, &carried);
    Ok(Answer::ok(json!({"success": true, "result": true})))
}

/// `POST /v1.0/card/instances/deliver`. It shows a card again to whoever has it already.
pub(super) fn deliver(world: &World, app_key: &str, call: &Call, plan: &Plan) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let out_track_id = out_track_id(&body)?;
    open_api::user_id_type(&body)?;
    let spaces = spaces::open_space_id(&body)?;
    let card = existing(world, out_track_id)?;
    spaces::check_models(&body, &spaces, &card.carries)?;
    let deliveries = judge(world, app_key, &body, plan, spaces);
    held(&world.cards).show(out_track_id, &deliveries);
    world.tell(Event::Card, Some(out_track_id));
    let results: Vec<_> = deliveries.iter().map(result).collect();
    // A list, unlike createAndDeliver's object.
    Ok(Answer::ok(json!({"success": true, "result": results})))
}

/// `PUT /v1.0/card/instances`.
pub(super) fn update(world: &World, call: &Call) -> Result<Answer, Answer> {
    let body = open_api::object(call)?;
    let out_track_id = out_track_id(&body)?;
    let (params, private) = open_api::card_data(&body)?;
    open_api::user_id_type(&body)?;
    if params.is_none() && private.is_none() {
        return Err(Answer::refused(
            "param.cardDataAndPrivateDataBothEmpty",
            "cardData and privateData are empty",
        ));
    }
    let options = open_api::optional_object(&body, "cardUpdateOptions")?;
    let answer = Answer::ok(json!({"success": true, "result": true}));
    let change = Change {
        params,
        private,
        params_by_key: open_api::flag(options, "updateCardDataByKey")?,
        private_by_key: open_api::flag(options, "updatePrivateDataByKey")?,
        request: String::from_utf8_lossy(&call.body).into_owned(),
        answer: answer.text(),
    };
    existing(world, out_track_id)?;
    held(&world.cards).update(out_track_id, change);
    world.tell(Event::Update, Some(out_track_id));
    Ok(answer)
}

/// The instance that a body describes.
fn read_card(world: &World, app_key: &str, body: &Map<String, Value>, call: &Call) -> Result<Card, Answer> {
    let out_track_id = out_track_id(body)?;
    let template = open_api::text(body, "cardTemplateId", "param.cardTemplateIdEmpty")?;
    let (params, private) = open_api::card_data(body)?;
    let params = params.ok_or_else(|| Answer::refused("param.cardPublicDataEmpty", "cardData is empty"))?;
    open_api::user_id_type(body)?;
    if open_api::optional_text(body, "userId")?.is_some_and(|user| user.chars().count() > 100) {
        return Err(invalid("userId has more than 100 characters"));
    }
    if !matches!(
        open_api::optional_text(body, "callbackType")?,
        None | Some("STREAM" | "HTTP")
    ) {
        return Err(invalid("callbackType is neither STREAM nor HTTP"));
    }
    let carries = spaces::space_models(body)?;
    match world.directory.template(template) {
        Standing::Known => {}
        Standing::Unknown => return Err(Answer::refused("param.templateNotExist", "模板不存在")),
        Standing::Disabled => return Err(Answer::refused("param.templateUnpublished", "模板未发布")),
    }
    let mut card = Card::new(
        out_track_id.to_owned(),
        Api::Instances,
        app_key.to_owned(),
        template.to_owned(),
    );
    card.params = params;
    card.private = private.unwrap_or_default();
    card.carries = carries;
    card.request = String::from_utf8_lossy(&call.body).into_owned();
    Ok(card)
}

fn out_track_id(body: &Map<String, Value>) -> Result<&str, Answer> {
    let id = open_api::text(body, "outTrackId", "param.outTrackIdEmpty")?;
    if id.chars().count() > MAX_OUT_TRACK_ID {
        return Err(invalid(format!(
            "outTrackId has more than {MAX_OUT_TRACK_ID} characters"
        )));
    }
    Ok(id)
}

/// Each space, with why the delivery to it fails, if it does.
fn judge(
    world: &World,
    app_key: &str,
    body: &Map<String, Value>,
    plan: &Plan,
    spaces: Vec<Space>,
) -> Vec<(Space, Option<String>)> {
    let refusal = |space: &Space| {
        let ordered = plan
            .failing
            .iter()
            .find(|(only, _)| only.as_deref().is_none_or(|only| only == space.id));
        match ordered {
            Some((_, message)) => Some(message.clone()),
            None => spaces::refusal(world, app_key, body, space).map(str::to_owned),
        }
    };
    let judged = spaces.into_iter().map(|space| {
        let refusal = refusal(&space);
        (space, refusal)
    });
    judged.collect()
}

/// A delivery as both calls print it.
fn result((space, refusal): &(Space, Option<String>)) -> Value {
    json!({
        "spaceType": space.kind.name(),
        "spaceId": space.id,
        "success": refusal.is_none(),
        "carrierId": if refusal.is_none() { carrier_id() } else { String::new() },
        "errorMsg": refusal.as_deref().unwrap_or_default(),
    })
}

fn is_no_user(world: &World, space: &Space) -> bool {
    space.kind == SpaceType::ImRobot && world.directory.user(&space.id) != Standing::Known
}

fn existing(world: &World, out_track_id: &str) -> Result<std::sync::Arc<Card>, Answer> {
    let card = held(&world.cards).get(out_track_id);
    card.filter(|card| card.api == Api::Instances).ok_or_else(not_exist)
}

fn not_exist() -> Answer {
    Answer::refused("param.cardNotExist", "卡片不存在")
}

fn already_exists() -> Answer {
    Answer::refused("param.cardAlreadyExist", "卡片已存在")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::super::testing::{Bench, card, changed, refused};
    use super::*;

    fn without_delivery(id: &str, changes: Value) -> Value {
        changed(
            card(id, &[], json!({"openSpaceId": null, "imRobotOpenDeliverModel": null})),
            changes,
        )
    }

    fn delivery(id: &str, user: &str) -> Value {
        json!({
            "outTrackId": id,
            "openSpaceId": format!("dtv1.card//IM_ROBOT.{user}"),
            "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT"},
        })
    }

    #[tokio::test]
    async fn a_card_is_made_and_each_delivery_has_a_result() {
        let bench = Bench::start().await;
        let (status, body) = bench
            .create_and_deliver("a", &["u1", "u0000", "u0001"], json!({}))
            .await;
        assert_eq!(
            (status, &body["success"], &body["result"]["outTrackId"]),
            (200, &json!(true), &json!("a"))
        );
        let results = body["result"]["deliverResults"].as_array().unwrap();
        assert_eq!(
            (&results[0]["success"], &results[0]["errorMsg"]),
            (&json!(true), &json!(""))
        );
        assert_ne!(results[0]["carrierId"], "");
        for failed in &results[1..] {
            assert_eq!(
                (&failed["success"], &failed["errorMsg"]),
                (&json!(false), &json!("spaceId is illegal"))
            );
            assert_eq!(failed["carrierId"], "");
        }
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(card["delivery_count"], 1);
        assert_eq!(card["deliveries"][0]["space_type"], "IM_ROBOT");
    }

    #[tokio::test]
    async fn an_id_makes_one_card() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u0000"], json!({})).await;
        // Although nobody has it yet.
        let again = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&again), (400, "param.cardAlreadyExist"));
        let create = bench.post("/card/instances", without_delivery("a", json!({}))).await;
        assert_eq!(refused(&create), (400, "param.cardAlreadyExist"));
        assert_eq!(bench.get("/sandbox/calls").await.1["deliveries"]["total"], 0);
    }

    #[tokio::test]
    async fn each_fault_has_its_code() {
        let bench = Bench::start().await;
        for (changes, code) in [
            (json!({"outTrackId": null}), "param.outTrackIdEmpty"),
            (json!({"outTrackId": "a".repeat(101)}), "param.invalid"),
            (json!({"cardTemplateId": ""}), "param.cardTemplateIdEmpty"),
            (json!({"cardTemplateId": "TPL0000"}), "param.templateNotExist"),
            (json!({"cardTemplateId": "TPL0001"}), "param.templateUnpublished"),
            (json!({"cardData": null}), "param.cardPublicDataEmpty"),
            (json!({"openSpaceId": null}), "param.openSpaceIdEmpty"),
            (json!({"callbackType": "stream"}), "param.invalid"),
            (json!({"userId": "u".repeat(101)}), "param.invalid"),
        ] {
            let answer = bench.create_and_deliver("a", &["u1"], changes.clone()).await;
            assert_eq!(refused(&answer), (400, code), "{changes}");
        }
    }

    #[tokio::test]
    async fn a_robot_of_another_app_fails_the_delivery() {
        let bench = Bench::start().await;
        let robot = json!({"imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT", "robotCode": "dingsandbox2"}});
        let (status, body) = bench.create_and_deliver("a", &["u1"], robot).await;
        assert_eq!(
            (status, &body["result"]["deliverResults"][0]["errorMsg"]),
            (200, &json!("chatbot not exist"))
        );
    }

    #[tokio::test]
    async fn an_instance_is_delivered_where_it_carries_a_model_and_as_often_as_asked() {
        let bench = Bench::start().await;
        let made = bench
            .post(
                "/card/instances",
                without_delivery("a", json!({"imRobotOpenSpaceModel": null})),
            )
            .await;
        assert_eq!(made, (200, json!({"success": true, "result": "a"})));
        let refusal = bench.post("/card/instances/deliver", delivery("a", "u1")).await;
        assert_eq!(refused(&refusal), (400, "param.openSpaceModelInvalid"));

        let model = json!({"outTrackId": "a", "imRobotOpenSpaceModel": {"supportForward": true}});
        let carried = bench.put("/card/instances/spaces", model).await;
        assert_eq!(carried, (200, json!({"success": true, "result": true})));
        for _ in 0..2 {
            let (status, body) = bench.post("/card/instances/deliver", delivery("a", "u1")).await;
            assert_eq!((status, &body["result"][0]["success"]), (200, &json!(true)));
        }
        let (_, calls) = bench.get("/sandbox/calls").await;
        assert_eq!(
            calls["deliveries"],
            json!({"total": 2, "recipients": 1, "duplicates": 1})
        );
        let (_, body) = bench.post("/card/instances/deliver", delivery("a", "u0000")).await;
        assert_eq!(
            (&body["success"], &body["result"][0]["success"]),
            (&json!(true), &json!(false))
        );
    }

    #[tokio::test]
    async fn an_update_overwrites_or_goes_by_key() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        let likes = json!({"outTrackId": "a", "cardData": {"cardParamMap": {"likes": "9"}}});
        let by_key = changed(
            likes.clone(),
            json!({"cardUpdateOptions": {"updateCardDataByKey": true}}),
        );
        assert_eq!(
            bench.put("/card/instances", by_key).await,
            (200, json!({"success": true, "result": true}))
        );
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(card["params"], json!({"pv": "2000", "likes": "9"}));
        // The option's name in the other API is no option here.
        let other = changed(likes, json!({"cardOptions": {"updateCardDataByKey": true}}));
        bench.put("/card/instances", other).await;
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(
            (&card["params"], &card["update_count"]),
            (&json!({"likes": "9"}), &json!(2))
        );
    }

    #[tokio::test]
    async fn what_is_not_there_can_be_neither_changed_nor_delivered() {
        let bench = Bench::start().await;
        let interactive = json!({
            "cardTemplateId": "TPL", "outTrackId": "old", "conversationType": 0, "receiverUserIdList": ["u1"],
            "cardData": {},
        });
        assert_eq!(bench.post("/im/interactiveCards/send", interactive).await.0, 200);
        for id in ["none", "old"] {
            let update = bench
                .put("/card/instances", json!({"outTrackId": id, "cardData": {}}))
                .await;
            let deliver = bench.post("/card/instances/deliver", delivery(id, "u1")).await;
            let model = json!({"outTrackId": id, "imRobotOpenSpaceModel": {"supportForward": true}});
            let spaces = bench.put("/card/instances/spaces", model).await;
            for answer in [update, deliver, spaces] {
                assert_eq!(refused(&answer), (400, "param.cardNotExist"));
            }
        }
        let empty = bench.put("/card/instances", json!({"outTrackId": "none"})).await;
        assert_eq!(refused(&empty), (400, "param.cardDataAndPrivateDataBothEmpty"));
    }
}
