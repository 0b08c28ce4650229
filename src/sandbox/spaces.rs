//! `openSpaceId` and the models that go with it (dingtalk-api.md §5.1, §5.2).
//!
//! Where a card goes is said twice in this API, in an ID and in a model for each type of space; this file reads
//! both and holds them together. It shows nothing and stores nothing.

use serde_json::{Map, Value};

use super::World;
use super::answer::Answer;
use super::card::{Space, SpaceType};
use super::directory::Standing;
use super::open_api::{self, MAX_RECIPIENTS, invalid};

/// Characters of an `openSpaceId`.
const MAX_OPEN_SPACE_ID: usize = 1000;
const PREFIX: &str = "dtv1.card//";

impl SpaceType {
    /// The fields that hold the models of this type: of the space, and of the delivery.
    fn models(self) -> (&'static str, &'static str) {
        match self {
            Self::ImRobot => ("imRobotOpenSpaceModel", "imRobotOpenDeliverModel"),
            Self::ImGroup => ("imGroupOpenSpaceModel", "imGroupOpenDeliverModel"),
            Self::ImSingle => ("imSingleOpenSpaceModel", "imSingleOpenDeliverModel"),
            Self::OneBox => ("topOpenSpaceModel", "topOpenDeliverModel"),
        }
    }
}

/// The spaces of `openSpaceId`, as often as it names them.
pub(super) fn open_space_id(body: &Map<String, Value>) -> Result<Vec<Space>, Answer> {
    let wrong = |why: String| Answer::refused("param.openSpaceIdInvalid", format!("openSpaceId {why}"));
    let text = open_api::text(body, "openSpaceId", "param.openSpaceIdEmpty")?;
    if text.chars().count() > MAX_OPEN_SPACE_ID {
        return Err(wrong(format!("has more than {MAX_OPEN_SPACE_ID} characters")));
    }
    let items = text
        .strip_prefix(PREFIX)
        .ok_or_else(|| wrong(format!("does not begin with {PREFIX}")))?;
    let mut spaces = Vec::new();
    // A `;` at the end does no harm, and the case of a type does not matter.
    for item in items.split(';').filter(|item| !item.is_empty()) {
        let (kind, id) = item
            .split_once('.')
            .ok_or_else(|| wrong(format!("has an item without a dot: {item}")))?;
        let kind = SpaceType::ALL
            .into_iter()
            .find(|known| known.name().eq_ignore_ascii_case(kind));
        let kind = kind.ok_or_else(|| wrong(format!("has an unknown type of space: {item}")))?;
        if id.is_empty() {
            return Err(wrong(format!("has a space without an ID: {item}")));
        }
        spaces.push(Space {
            kind,
            id: id.to_owned(),
        });
    }
    if spaces.is_empty() {
        return Err(wrong("names no space".to_owned()));
    }
    if spaces.len() > MAX_RECIPIENTS {
        return Err(invalid(format!("openSpaceId names more than {MAX_RECIPIENTS} spaces")));
    }
    Ok(spaces)
}

/// The types of space that the body carries a model for.
pub(super) fn space_models(body: &Map<String, Value>) -> Result<Vec<SpaceType>, Answer> {
    let mut carried = Vec::new();
    for kind in SpaceType::ALL {
        let field = kind.models().0;
        let Some(model) = open_api::optional_object(body, field)? else {
            continue;
        };
        let wrong = |why: &str| Answer::refused("param.openSpaceModelInvalid", format!("{field}: {why}"));
        match kind {
            SpaceType::ImRobot | SpaceType::ImGroup if !model.get("supportForward").is_some_and(Value::is_boolean) => {
                return Err(wrong("supportForward is required"));
            }
            SpaceType::OneBox if model.get("spaceType").is_some_and(|kind| kind != "ONE_BOX") => {
                return Err(wrong("spaceType is not ONE_BOX"));
            }
            _ => carried.push(kind),
        }
    }
    Ok(carried)
}

/// Checks that each space's type is carried by the card and has a deliver model that is whole.
pub(super) fn check_models(body: &Map<String, Value>, spaces: &[Space], carried: &[SpaceType]) -> Result<(), Answer> {
    if SpaceType::ALL.iter().all(|kind| !body.contains_key(kind.models().1)) {
        return Err(Answer::refused("param.openDeliverModelEmpty", "no OpenDeliverModel"));
    }
    for kind in SpaceType::ALL
        .into_iter()
        .filter(|kind| spaces.iter().any(|space| space.kind == *kind))
    {
        let (space_model, field) = kind.models();
        if !carried.contains(&kind) {
            return Err(Answer::refused(
                "param.openSpaceModelInvalid",
                format!("the card has no {space_model}"),
            ));
        }
        let Some(model) = open_api::optional_object(body, field)? else {
            return Err(Answer::refused(
                "param.spaceDeliverModelEmpty",
                format!("{field} is empty"),
            ));
        };
        if let Some(why) = fault(kind, model) {
            return Err(Answer::refused(
                "param.openDeliverModelError",
                format!("{field}: {why}"),
            ));
        }
    }
    Ok(())
}

/// What is wrong with a deliver model.
fn fault(kind: SpaceType, model: &Map<String, Value>) -> Option<&'static str> {
    let text = |key: &str| model.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    match kind {
        SpaceType::ImRobot if model.is_empty() => Some("spaceType is required where nothing else is set"),
        SpaceType::ImRobot if model.get("spaceType").is_some_and(|kind| kind != "IM_ROBOT") => {
            Some("spaceType is not IM_ROBOT")
        }
        SpaceType::ImGroup if text("robotCode").is_none() => Some("robotCode is required"),
        SpaceType::ImGroup if model.get("recipients").is_some_and(|list| !is_texts(list)) => {
            Some("recipients is not a list of strings")
        }
        SpaceType::OneBox if !model.get("expiredTimeMillis").is_some_and(Value::is_i64) => {
            Some("expiredTimeMillis is required")
        }
        _ => None,
    }
}

/// Why a delivery fails inside an HTTP 200, if it does (dingtalk-api.md §5.4). A disabled user and a dissolved group
/// are told like an unknown one: no other text about a recipient is known.
pub(super) fn refusal(world: &World, app_key: &str, body: &Map<String, Value>, space: &Space) -> Option<&'static str> {
    let robot = body
        .get(space.kind.models().1)
        .and_then(|model| model["robotCode"].as_str());
    if robot.is_some_and(|code| !code.is_empty() && !world.directory.owns_robot(app_key, code)) {
        return Some("chatbot not exist");
    }
    let standing = match space.kind {
        SpaceType::ImRobot => world.directory.user(&space.id),
        SpaceType::ImGroup | SpaceType::ImSingle | SpaceType::OneBox => world.directory.conversation(&space.id),
    };
    if space.kind == SpaceType::ImGroup && standing == Standing::Known && !world.directory.has_robot(&space.id, app_key)
    {
        return Some("chatbot not exist");
    }
    (standing != Standing::Known).then_some("spaceId is illegal")
}

fn is_texts(list: &Value) -> bool {
    list.as_array().is_some_and(|list| list.iter().all(Value::is_string))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use serde_json::json;

    use super::super::testing::{Bench, refused};
    use super::*;

    fn read(text: &str) -> Result<Vec<Space>, String> {
        let body = json!({"openSpaceId": text}).as_object().unwrap().clone();
        open_space_id(&body).map_err(|answer| answer.result().to_owned())
    }

    #[test]
    fn an_open_space_id_names_spaces_of_any_type_and_case() {
        let spaces = read("dtv1.card//IM_ROBOT.u.1;im_group.cidA=;").unwrap();
        let space = |kind, id: &str| Space {
            kind,
            id: id.to_owned(),
        };
        assert_eq!(
            spaces,
            [space(SpaceType::ImRobot, "u.1"), space(SpaceType::ImGroup, "cidA=")]
        );
    }

    #[test]
    fn a_wrong_open_space_id_is_refused() {
        let long = format!("dtv1.card//IM_ROBOT.{}", "u".repeat(1000));
        let many = format!("dtv1.card//{}", "IM_ROBOT.u;".repeat(21));
        for (text, code) in [
            ("", "param.openSpaceIdEmpty"),
            ("IM_ROBOT.u1", "param.openSpaceIdInvalid"),
            ("dtv1.card://IM_ROBOT.u1", "param.openSpaceIdInvalid"),
            ("dtv1.card//", "param.openSpaceIdInvalid"),
            ("dtv1.card//u1", "param.openSpaceIdInvalid"),
            ("dtv1.card//IM_MOON.u1", "param.openSpaceIdInvalid"),
            ("dtv1.card//IM_ROBOT.", "param.openSpaceIdInvalid"),
            (&long, "param.openSpaceIdInvalid"),
            (&many, "param.invalid"),
        ] {
            assert_eq!(read(text).unwrap_err(), code, "{text}");
        }
    }

    #[tokio::test]
    async fn each_model_that_lacks_something_has_its_code() {
        let bench = Bench::start().await;
        let group = |model: Value| {
            json!({
                "openSpaceId": "dtv1.card//IM_GROUP.cidA",
                "imGroupOpenSpaceModel": {"supportForward": true},
                "imGroupOpenDeliverModel": model,
            })
        };
        for (changes, code) in [
            (json!({"imRobotOpenDeliverModel": null}), "param.openDeliverModelEmpty"),
            (json!({"imRobotOpenDeliverModel": {}}), "param.openDeliverModelError"),
            (
                json!({"imRobotOpenDeliverModel": {"spaceType": "IM_GROUP"}}),
                "param.openDeliverModelError",
            ),
            (json!({"imRobotOpenSpaceModel": null}), "param.openSpaceModelInvalid"),
            (json!({"imRobotOpenSpaceModel": {}}), "param.openSpaceModelInvalid"),
            (group(Value::Null), "param.spaceDeliverModelEmpty"),
            (group(json!({})), "param.openDeliverModelError"),
            (
                group(json!({"robotCode": "dingsandbox", "recipients": [1]})),
                "param.openDeliverModelError",
            ),
        ] {
            let answer = bench.create_and_deliver("a", &["u1"], changes.clone()).await;
            assert_eq!(refused(&answer), (400, code), "{changes}");
        }
        let answer = bench
            .create_and_deliver("a", &[], group(json!({"robotCode": "dingsandbox"})))
            .await;
        assert_eq!(answer.0, 200);
    }
}
