//! The kinds of fault, and what each does to a call.
//!
//! Apart from `faults`, which decides whether a call is struck: to teach the sandbox a new kind of trouble, this is
//! the file. It writes into a plan and carries nothing out.

use std::time::Duration;

use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::answer::Answer;
use super::endpoint::Endpoint;
use super::faults::Plan;
use super::gateway::Refusal;
use super::latency::Latency;

/// What happens. `taken`: the call is carried out first, so only its answer is lost.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Kind {
    /// A failure of either family; see [`ErrorSpec`].
    Error(ErrorSpec),
    /// A refusal of the gateway, worded as the called family words it; endpoints that have it not are spared.
    Refuse { reason: Refusal },
    /// A call waits before it is looked at; see [`Latency`].
    Latency(Latency),
    /// The limit is off, or on with another rate.
    Throttle { on: bool, per_second: Option<u32> },
    /// Tokens end: at once without `next` and `probability`, else when a call is struck.
    ExpireTokens {},
    /// The ban of an egress address, as JSON.
    IpBan { status: Option<u16> },
    /// The connection closes; the call was not carried out.
    DropConnection {},
    /// The connection closes; the call was carried out.
    LoseAnswer {},
    /// The ban of an egress address, as a page.
    Html { status: Option<u16> },
    /// HTTP 200 with JSON that breaks off.
    Garbage {
        #[serde(default)]
        taken: bool,
    },
    /// HTTP 200 with a body of that size.
    BigBody { bytes: usize },
    /// The true answer, whose body stops half-way for this long.
    SlowBody { ms: u64 },
    /// The true answer, each byte of whose body takes this long.
    Trickle { ms: u64 },
    /// HTTP 200, but the deliveries in it failed: all, or those to one space.
    FailDelivery { message: String, space_id: Option<String> },
}

/// Any row of dingtalk-api.md: legacy by `errcode` (and `sub_code`), new by `status` and `code`, anything else by
/// `body`; a status alone is answered without a body.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ErrorSpec {
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    legacy: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errcode: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    taken: bool,
}

impl Kind {
    /// Refuses what makes no sense; `for_some`: it is not for every call.
    pub(super) fn check(&self, for_some: bool) -> Result<(), String> {
        let status = match self {
            Self::Error(spec) => {
                spec.check()?;
                spec.status
            }
            Self::Latency(latency) => {
                latency.check()?;
                None
            }
            Self::IpBan { status } | Self::Html { status } => *status,
            Self::Throttle {
                on: false,
                per_second: Some(_),
            } => {
                return Err("per_second: a throttle that is off has no rate".to_owned());
            }
            Self::Throttle { .. } if for_some => {
                return Err("a throttle is on or off, it takes neither `next` nor `probability`".to_owned());
            }
            _ => None,
        };
        match status {
            Some(status) if !(200..=599).contains(&status) => Err("status: not between 200 and 599".to_owned()),
            _ => Ok(()),
        }
    }

    /// Whether it stands in for the true answer.
    pub(super) fn answers(&self) -> bool {
        match self {
            Self::Error(_)
            | Self::Refuse { .. }
            | Self::IpBan { .. }
            | Self::DropConnection {}
            | Self::LoseAnswer {}
            | Self::Html { .. }
            | Self::Garbage { .. }
            | Self::BigBody { .. } => true,
            Self::Latency(_)
            | Self::Throttle { .. }
            | Self::ExpireTokens {}
            | Self::SlowBody { .. }
            | Self::Trickle { .. }
            | Self::FailDelivery { .. } => false,
        }
    }

    /// Whether it can happen to a call to that endpoint at all.
    pub(super) fn reaches(&self, endpoint: Endpoint) -> bool {
        match self {
            Self::Refuse { reason } => reason.reaches(endpoint),
            _ => true,
        }
    }

    /// Writes what it does into the plan of a call.
    pub(super) fn strike(&self, endpoint: Endpoint, plan: &mut Plan, rng: &mut StdRng) {
        let answer = match self {
            Self::Latency(latency) => return plan.wait += latency.draw(rng),
            Self::SlowBody { ms } => return plan.slow.half_way += Duration::from_millis(*ms),
            Self::Trickle { ms } => return plan.slow.each_byte += Duration::from_millis(*ms),
            Self::Throttle { on: false, .. } => return plan.rate = Some(0),
            Self::Throttle { on: true, per_second } => return plan.rate = per_second.or(plan.rate),
            Self::ExpireTokens {} => return plan.expire = true,
            Self::FailDelivery { message, space_id } => {
                return plan.failing.push((space_id.clone(), message.clone()));
            }
            Self::Error(spec) => spec.answer(),
            Self::Refuse { reason } => reason.answer(endpoint, None),
            // Neither shape's HTTP status is known (dingtalk-api.md §1); 200 is the one that a careless client
            // takes for success.
            Self::IpBan { status } => Answer::json(
                status.unwrap_or(200),
                "ip_ban",
                json!({"status": 1111, "wait": 5, "punish": "deny"}),
            ),
            Self::Html { status } => Answer::page(status.unwrap_or(200)),
            Self::DropConnection {} => Answer::cut("drop_connection"),
            Self::LoseAnswer {} => Answer::cut("lose_answer"),
            Self::Garbage { .. } => Answer::garbage(),
            Self::BigBody { bytes } => Answer::padding(*bytes),
        };
        plan.answer = Some(answer);
        plan.taken = match self {
            Self::Error(spec) => spec.taken,
            Self::Garbage { taken } => *taken,
            Self::LoseAnswer {} => true,
            _ => false,
        };
    }
}

impl ErrorSpec {
    fn check(&self) -> Result<(), String> {
        let says = |text: &str| Err(text.to_owned());
        match self {
            Self {
                legacy: Some(true),
                errcode: None,
                ..
            } => says("errcode: a legacy error needs one"),
            Self {
                legacy: Some(false),
                errcode: Some(_),
                ..
            } => says("errcode: only a legacy error has one"),
            Self {
                errcode: None,
                sub_code: Some(_),
                ..
            } => says("sub_code: goes with an errcode"),
            Self {
                errcode: Some(_),
                code: Some(_),
                ..
            } => says("code: a legacy error has an errcode instead"),
            Self {
                body: Some(_),
                code,
                errcode,
                ..
            } if code.is_some() || errcode.is_some() => says("body: stands instead of code and errcode"),
            Self {
                status: None,
                code: None,
                errcode: None,
                body: None,
                ..
            } => says("an error needs a status, a code, an errcode or a body"),
            _ => Ok(()),
        }
    }

    fn answer(&self) -> Answer {
        let message = || {
            self.message
                .clone()
                .unwrap_or_else(|| "ordered by /sandbox/faults".to_owned())
        };
        let answer = match self {
            Self { body: Some(body), .. } => Answer::json(self.status.unwrap_or(200), "fault", body.clone()),
            Self {
                errcode: Some(code),
                sub_code: Some(sub),
                ..
            } => Answer::wrapped(*code, sub.clone(), message()),
            Self {
                errcode: Some(code), ..
            } => Answer::legacy(*code, message()),
            Self { code: Some(code), .. } => Answer::refused_with(self.status.unwrap_or(400), code.clone(), message()),
            Self { status, .. } => Answer::bare(status.unwrap_or(500)),
        };
        match self.status {
            Some(status) => answer.with_status(status),
            None => answer,
        }
        .retry_after(self.retry_after)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;

    use super::super::testing::{Bench, card, changed, got, refused};
    use super::*;

    async fn send(bench: &Bench, id: &str) -> Result<(u16, String), reqwest::Error> {
        let call = bench.signed(Method::POST, "/v1.0/card/instances/createAndDeliver");
        let response = call.json(&card(id, &["u1"], json!({}))).send().await?;
        Ok((response.status().as_u16(), response.text().await?))
    }

    async fn cards(bench: &Bench) -> u64 {
        bench.get("/sandbox/cards").await.1["total"].as_u64().unwrap()
    }

    #[tokio::test]
    async fn an_error_can_be_any_row_of_either_family() {
        let bench = Bench::start().await;
        let error = json!({"kind": "error"});
        let new = json!({"status": 403, "code": "Forbidden.AccessDenied.ApiCountLimitForOrg", "legacy": false});
        bench.faults(json!([changed(error.clone(), new)])).await;
        let answer = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&answer), (403, "Forbidden.AccessDenied.ApiCountLimitForOrg"));

        let legacy = json!({"errcode": 88, "sub_code": "60011", "message": "no"});
        bench.faults(json!([changed(error.clone(), legacy)])).await;
        let (status, body) = bench.get("/topapi/v2/user/getbymobile").await;
        assert_eq!((status, &body["errcode"]), (200, &json!(88)));
        assert_eq!(body["errmsg"], "ding talk error[subcode=60011,submsg=no]");

        bench
            .faults(json!([changed(error.clone(), json!({"legacy": true, "errcode": -1}))]))
            .await;
        assert_eq!(bench.get("/gettoken").await.1["errcode"], -1);

        let body = json!({"Code": "InvalidAuthentication", "Message": "no"});
        bench
            .faults(json!([changed(error.clone(), json!({"status": 401, "body": body}))]))
            .await;
        assert_eq!(bench.create_and_deliver("a", &["u1"], json!({})).await, (401, body));

        bench
            .faults(json!([changed(error, json!({"status": 429, "retry_after": 3}))]))
            .await;
        let response = bench.request(Method::GET, "/gettoken").send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), response.headers()["retry-after"].as_bytes()),
            (429, &b"3"[..])
        );
        assert_eq!(cards(&bench).await, 0);
    }

    #[tokio::test]
    async fn a_refusal_is_worded_by_its_family_and_spares_what_has_it_not() {
        let bench = Bench::start().await;
        let path = format!("/topapi/v2/user/getbymobile?access_token={}", bench.token());
        for (reason, code, status, sub_code) in [
            (
                "throttled",
                "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
                403,
                "90018",
            ),
            ("api_throttled", "Forbidden.AccessDenied.QpsLimitForApi", 403, "90002"),
            (
                "ip_not_allowed",
                "Forbidden.AccessDenied.IpNotInWhiteList",
                403,
                "60020",
            ),
            (
                "permission_missing",
                "Forbidden.AccessDenied.AccessTokenPermissionDenied",
                403,
                "60011",
            ),
            ("token_rejected", "InvalidAuthentication", 400, "40014"),
        ] {
            bench.faults(json!([{"kind": "refuse", "reason": reason}])).await;
            let answer = bench.create_and_deliver("a", &["u1"], json!({})).await;
            assert_eq!(refused(&answer), (status, code));
            let look_up = got(bench
                .request(Method::POST, &path)
                .json(&json!({"mobile": "15012341231"})))
            .await;
            assert_eq!((look_up.0, &look_up.1["sub_code"]), (200, &json!(sub_code)));
        }
        bench
            .faults(json!([{"kind": "refuse", "reason": "server_error"}]))
            .await;
        let new = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&new), (500, "system.busy"));
        assert_eq!(
            refused(&bench.post("/im/interactiveCards/send", json!({})).await),
            (500, "systemBusy")
        );
        assert_eq!(bench.get("/gettoken").await.1["errcode"], -1);

        bench.faults(json!([{"kind": "refuse", "reason": "quota_spent"}])).await;
        let look_up = got(bench
            .request(Method::POST, &path)
            .json(&json!({"mobile": "15012341231"})))
        .await;
        assert_eq!(look_up.1["errcode"], 0);
        let answer = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&answer), (403, "Forbidden.AccessDenied.ApiCountLimitForOrg"));
    }

    #[tokio::test]
    async fn a_dropped_connection_takes_no_card_and_a_lost_answer_does() {
        let bench = Bench::start().await;
        bench.faults(json!([{"kind": "drop_connection", "next": 1}])).await;
        assert!(send(&bench, "a").await.is_err());
        assert_eq!(cards(&bench).await, 0);
        bench.faults(json!([{"kind": "lose_answer", "next": 1}])).await;
        assert!(send(&bench, "a").await.is_err());
        assert_eq!(cards(&bench).await, 1);
        let (_, calls) = bench.get("/sandbox/calls").await;
        for result in ["drop_connection", "lose_answer"] {
            assert!(calls["calls"].to_string().contains(result), "{calls}");
        }
        assert!(send(&bench, "a").await.unwrap().1.contains("param.cardAlreadyExist"));
    }

    #[tokio::test]
    async fn a_taken_call_can_be_answered_with_an_error() {
        let bench = Bench::start().await;
        bench
            .faults(json!([{"kind": "error", "status": 500, "code": "system.busy", "taken": true}]))
            .await;
        assert_eq!(send(&bench, "a").await.unwrap().0, 500);
        assert_eq!(cards(&bench).await, 1);
    }

    #[tokio::test]
    async fn a_ban_is_json_or_a_page_with_http_200() {
        let bench = Bench::start().await;
        bench.faults(json!([{"kind": "ip_ban"}])).await;
        let (status, body) = bench.get("/gettoken").await;
        assert_eq!(
            (status, body),
            (200, json!({"status": 1111, "wait": 5, "punish": "deny"}))
        );
        bench.faults(json!([{"kind": "html", "status": 403}])).await;
        let (status, body) = send(&bench, "a").await.unwrap();
        assert!(status == 403 && body.starts_with("<!doctype html>"), "{body}");
    }

    #[tokio::test]
    async fn bodies_can_be_broken_big_or_slow() {
        let bench = Bench::start().await;
        bench.faults(json!([{"kind": "garbage"}])).await;
        let (status, body) = send(&bench, "a").await.unwrap();
        assert!(status == 200 && serde_json::from_str::<Value>(&body).is_err(), "{body}");
        bench.faults(json!([{"kind": "big_body", "bytes": 1_000_000}])).await;
        let (_, body) = send(&bench, "a").await.unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap()["padding"]
                .as_str()
                .unwrap()
                .len(),
            1_000_000
        );
        bench
            .faults(json!([{"kind": "slow_body", "ms": 1}, {"kind": "latency", "ms": 1}]))
            .await;
        let (_, body) = send(&bench, "a").await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap()["success"], true);
        bench.faults(json!([{"kind": "trickle", "ms": 1}])).await;
        let call = bench.signed(Method::POST, "/v1.0/card/instances/createAndDeliver");
        let mut response = call.json(&card("b", &["u1"], json!({}))).send().await.unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = response.chunk().await.unwrap() {
            pieces.push(piece);
        }
        let body: Value = serde_json::from_slice(&pieces.concat()).unwrap();
        assert!(
            body["success"] == true && pieces.iter().all(|piece| piece.len() == 1),
            "{pieces:?}"
        );
    }

    #[tokio::test]
    async fn tokens_end_and_the_next_one_is_new() {
        let mut bench = Bench::start().await;
        let before = bench.token().to_owned();
        bench.faults(json!([{"kind": "expire_tokens"}])).await;
        let answer = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&answer), (400, "InvalidAuthentication"));
        bench.sign_in().await;
        assert_ne!(bench.token(), before);
        bench
            .faults(json!([{"kind": "expire_tokens", "endpoint": "createAndDeliver", "next": 1}]))
            .await;
        let answer = bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(refused(&answer), (400, "InvalidAuthentication"));
    }

    #[tokio::test]
    async fn the_throttle_can_be_turned_off_and_on() {
        let bench = Bench::with("rate_per_second = 1").await;
        let flood = |prefix: &'static str| {
            let bench = &bench;
            let calls = (0..20).map(move |n| async move { send(bench, &format!("{prefix}{n}")).await.unwrap().0 });
            futures_util::future::join_all(calls)
        };
        bench.faults(json!([{"kind": "throttle", "on": false}])).await;
        assert!(flood("a").await.iter().all(|&status| status == 200));
        bench
            .faults(json!([{"kind": "throttle", "on": true, "per_second": 2}]))
            .await;
        assert!(flood("b").await.contains(&403));
    }

    #[tokio::test]
    async fn a_fault_can_be_for_one_recipient_whatever_it_is_called_by() {
        let bench = Bench::start().await;
        bench
            .faults(json!([{"kind": "error", "status": 500, "code": "system.busy", "recipient": "15012341231"}]))
            .await;
        let other = bench.create_and_deliver("a", &["u15012341232"], json!({})).await;
        let struck = bench.create_and_deliver("b", &["u1", "u15012341231"], json!({})).await;
        assert_eq!((other.0, struck.0), (200, 500));
        let path = format!("/topapi/v2/user/getbymobile?access_token={}", bench.token());
        let look_up = bench
            .request(Method::POST, &path)
            .json(&json!({"mobile": "15012341231"}));
        assert_eq!(look_up.send().await.unwrap().status(), 500);
    }

    #[tokio::test]
    async fn a_delivery_can_fail_inside_a_success() {
        let bench = Bench::start().await;
        bench
            .faults(json!([{"kind": "fail_delivery", "message": "SYSTEM_ERROR", "space_id": "u2"}]))
            .await;
        let (status, body) = bench.create_and_deliver("a", &["u1", "u2"], json!({})).await;
        let results = &body["result"]["deliverResults"];
        assert_eq!(
            (status, &results[0]["success"], &results[1]["success"]),
            (200, &json!(true), &json!(false))
        );
        assert_eq!(results[1]["errorMsg"], "SYSTEM_ERROR");
    }
}
