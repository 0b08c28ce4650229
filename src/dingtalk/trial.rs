//! Trials: whether an app may do what jobs need of it, asked without showing anybody anything.
//!
//! Separate because only `dingcard check` asks this. Trials go before other calls of the app, since somebody waits for
//! them, and no cache answers in DingTalk's place. Each is one call; which follows from which is the caller's business.

use super::App;
use super::cards::{Card, Instances, Space, succeeded};
use super::client::{Request, Turn};
use super::endpoint::Endpoint;
use super::error::Failure;
use crate::outcome::Reason;

/// Mainland mobiles begin with 13 to 19, so this is nobody's.
const NOBODYS_MOBILE: &str = "10000000000";
/// Nor is this somebody's user ID.
const NOBODY: &str = "dingcard-check-nobody-0000";
/// Before other calls.
const FIRST: Turn = Turn {
    urgent: true,
    until: None,
};

impl App {
    /// Whether key and secret give a token.
    pub async fn try_token(&self) -> Result<(), Failure> {
        self.tokens.fetch_anew(&self.calls, FIRST).await
    }

    /// Whether mobiles can be looked up: a number that is nobody's must be answered with that.
    pub async fn try_look_up(&self) -> Result<(), Failure> {
        let refused = self.look_up(NOBODYS_MOBILE, FIRST).await.err();
        let about_the_number = |failure: &Failure| {
            matches!(
                failure.reason,
                Reason::UserNotFound | Reason::MobileInvalid | Reason::UserDisabled
            )
        };
        refused.filter(|failure| !about_the_number(failure)).map_or(Ok(()), Err)
    }

    /// Whether a card can be made of its template. It is shown to nobody (`dingtalk-api.md` 5.3).
    pub async fn try_template(&self, card: &Card<'_>) -> Result<(), Failure> {
        let endpoint = Endpoint::CreateInstances;
        let nobody = [nobody()];
        let request = Request {
            body: Some(&Instances::made(card, &nobody)),
            turn: FIRST,
            ..Request::default()
        };
        let answer = self.authorised(endpoint, request).await?;
        succeeded(endpoint, &answer)
    }

    /// Whether the robot is refused when it is to show a card that [`Self::try_template`] made, to a user who is nobody.
    pub async fn try_robot(&self, card: &Card<'_>) -> Result<(), Failure> {
        let results = self.deliver(card, &[nobody()], FIRST).await;
        let refused = match results {
            Ok(results) => results.into_iter().find_map(Result::err),
            Err(failure) => Some(failure),
        };
        refused
            .filter(|failure| failure.reason != Reason::UserNotFound)
            .map_or(Ok(()), Err)
    }

    /// Shows a card to the user of a mobile.
    pub async fn try_card(&self, card: &Card<'_>, mobile: &str) -> Result<(), Failure> {
        let user = Space::User(self.user_id(mobile, FIRST).await?);
        match self.send(card, &[user], FIRST).await?.pop() {
            Some(Err(failure)) => Err(failure),
            Some(Ok(_)) | None => Ok(()),
        }
    }
}

fn nobody() -> Space {
    Space::User(NOBODY.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::super::testing::{ACCESS_TOKEN, DELIVER, GET_BY_MOBILE, Host, canned, ok};
    use super::*;

    const CREATE: &str = "POST /v1.0/card/instances";

    fn legacy(code: &str) -> super::super::testing::Canned {
        ok(&json!({"errcode": 88, "sub_code": code, "errmsg": "x"}))
    }

    fn result(message: &str) -> super::super::testing::Canned {
        let result = json!({"spaceType": "IM_ROBOT", "spaceId": NOBODY, "success": false, "errorMsg": message});
        ok(&json!({"success": true, "result": [result]}))
    }

    #[tokio::test]
    async fn a_look_up_of_nobody_may_find_nobody_and_must_be_allowed() {
        let host = Host::start().await;
        host.answer(
            GET_BY_MOBILE,
            [
                legacy("60121"),
                legacy("40104"),
                legacy("60011"),
                legacy("60020"),
                legacy("400002"),
            ],
        );
        let bench = host.bench(&[]);
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(bench.app().try_look_up().await.map_err(|failure| failure.reason));
        }
        let refused = [Reason::PermissionMissing, Reason::IpNotAllowed, Reason::RequestRefused].map(Err);
        assert_eq!(answers[..2], [Ok(()), Ok(())]);
        assert_eq!(answers[2..], refused, "no cache answers in DingTalk's place");
    }

    #[tokio::test]
    async fn a_template_is_tried_by_a_card_that_carries_a_space_and_is_delivered_to_none() {
        let host = Host::start().await;
        let refused = canned(400, &json!({"code": "param.templateUnpublished", "message": "x"}));
        host.answer(CREATE, [ok(&json!({"success": true, "result": "o1"})), refused]);
        host.answer(DELIVER, [result("spaceId is illegal"), result("chatbot not exist")]);
        let bench = host.bench(&[]);
        let params = BTreeMap::from([("pv".to_owned(), "1".to_owned())]);
        let card = Card {
            out_track_id: "o1",
            template: "T",
            params: &params,
        };
        let app = bench.app();
        assert_eq!(app.try_template(&card).await, Ok(()));
        let expected = json!({"cardTemplateId": "T", "outTrackId": "o1", "cardData": {"cardParamMap": {"pv": "1"}},
            "imRobotOpenSpaceModel": {"supportForward": true}});
        assert_eq!(host.only(CREATE).json(), expected);
        assert_eq!(
            app.try_template(&card).await.unwrap_err().reason,
            Reason::TemplateInvalid
        );
        assert_eq!(app.try_robot(&card).await, Ok(()));
        assert_eq!(app.try_robot(&card).await.unwrap_err().reason, Reason::RobotInvalid);
    }

    #[tokio::test]
    async fn credentials_are_tried_although_there_is_a_token() {
        let host = Host::start().await;
        let bench = host.bench(&[]);
        assert_eq!(bench.app().try_token().await, Ok(()));
        host.answer(
            ACCESS_TOKEN,
            [canned(400, &json!({"code": "invalidClientIdOrSecret", "message": "x"}))],
        );
        assert_eq!(
            bench.app().try_token().await.unwrap_err().reason,
            Reason::BadCredentials
        );
    }
}
