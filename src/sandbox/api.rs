//! The gateway: what every call passes before an endpoint sees it, in DingTalk's order.
//!
//! Faults, tokens, the limit of calls a second and the count are the same for all endpoints, so they are here, in
//! one function that reads top to bottom, and an endpoint holds only its own rules. It knows no field of a card.

use std::cell::LazyCell;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, Response, header};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::{Answer, Slowness};
use super::connection::Switch;
use super::endpoint::Endpoint;
use super::faults::Plan;
use super::gateway::Refusal;
use super::gist::Gist;
use super::refused::Refused;
use super::{Event, World, form, held, instances, interactive, oapi, open_api};

/// Far above the 100 KB that any field may hold.
const MAX_BODY: usize = 1024 * 1024;

/// A call, read whole.
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) path: String,
    pub(super) query: HashMap<String, String>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Answers a call to either family, or to no endpoint at all.
pub(super) async fn take(
    State(world): State<Arc<World>>,
    ConnectInfo(switch): ConnectInfo<Switch>,
    request: Request,
) -> Response<Body> {
    let arrived = Instant::now();
    let (parts, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return Answer::bare(413).into_response(Slowness::default());
    };
    let call = Call {
        endpoint: Endpoint::at(&parts.method, parts.uri.path()),
        path: parts.uri.path().to_owned(),
        query: form::fields(parts.uri.query().unwrap_or_default()),
        headers: parts.headers,
        body,
    };
    let caller = call.caller(&world);
    let plan = call.plan(&world, caller.as_deref());
    if !plan.wait.is_zero() {
        tokio::time::sleep(plan.wait).await;
    }
    if plan.expire && caller.is_some() {
        world.directory.expire(caller.as_deref());
    }
    let answer = match &plan.answer {
        None => call.answer(&world, &plan),
        Some(ordered) => {
            if plan.taken {
                call.answer(&world, &plan);
            }
            ordered.clone()
        }
    };
    let answer = if world.directory.assume().capital_error_fields {
        answer.capital()
    } else {
        answer
    };
    call.record(&world, arrived, caller, &plan, &answer);
    if answer.is_cut() {
        switch.cut();
    }
    answer.into_response(plan.slow)
}

impl Call {
    /// The token that the call carries, where its family looks for it: the legacy one in the query or a form field,
    /// the new one in its own header and nowhere else (dingtalk-api.md §1).
    fn token(&self) -> Option<String> {
        if !self.endpoint.is_legacy() {
            let token = self.headers.get("x-acs-dingtalk-access-token")?;
            return token.to_str().ok().map(str::to_owned);
        }
        let in_form = || self.is_form().then(|| self.form().remove("access_token")).flatten();
        self.query.get("access_token").cloned().or_else(in_form)
    }

    /// The app that calls, as far as the call tells: by its token, or by the key that it asks a token with.
    fn caller(&self, world: &World) -> Option<String> {
        match self.endpoint {
            Endpoint::GetToken => self
                .query
                .get("appkey")
                .filter(|key| world.directory.has_app(key))
                .cloned(),
            Endpoint::AccessToken => {
                let body: Value = serde_json::from_slice(&self.body).ok()?;
                body["appKey"]
                    .as_str()
                    .filter(|key| world.directory.has_app(key))
                    .map(str::to_owned)
            }
            _ => world.directory.app_of(&self.token()?),
        }
    }

    /// What the faults in force do to it. A recipient is also named by the mobile that its user is looked up by.
    fn plan(&self, world: &World, caller: Option<&str>) -> Plan {
        let mut faults = held(&world.faults);
        if faults.is_empty() {
            return Plan::default();
        }
        let gist = LazyCell::new(|| self.gist());
        faults.plan(self.endpoint, caller, |recipient| {
            let user = world.directory.user_of(recipient).ok();
            let is_named = |id: &str| gist.recipients.iter().any(|named| &**named == id);
            is_named(recipient) || user.is_some_and(|user| is_named(&user))
        })
    }

    /// Counts it and, where it got no success, keeps it to be looked at.
    fn record(&self, world: &World, arrived: Instant, caller: Option<String>, plan: &Plan, answer: &Answer) {
        let app = caller.as_deref();
        held(&world.arrivals).add(arrived, self.endpoint, app, answer.is_throttled());
        held(&world.calls).add(app, self.endpoint.name(), answer.result());
        if answer.is_ok() {
            return;
        }
        let gist = self.gist();
        world.tell(Event::Refused, gist.out_track_id.as_deref());
        let call = Refused {
            at: Timestamp::now(),
            endpoint: self.endpoint,
            app_key: caller,
            gist,
            status: answer.status(),
            result: answer.result().to_owned(),
            message: answer.message().to_owned(),
            ordered: plan.answer.is_some(),
            taken: plan.taken,
            request: self.shown_request(),
            answer: answer.text(),
        };
        held(&world.refused).add(call);
    }

    /// The body, without a secret or a token that may be somebody's real one.
    fn shown_request(&self) -> String {
        if self.is_form() {
            let mut form = self.form();
            form.remove("access_token");
            return json!(form).to_string();
        }
        let text = String::from_utf8_lossy(&self.body).into_owned();
        match serde_json::from_slice(&self.body) {
            Ok(Value::Object(mut body)) if body.contains_key("appSecret") => {
                body.insert("appSecret".to_owned(), "***".into());
                Value::Object(body).to_string()
            }
            _ => text,
        }
    }

    /// What it names.
    fn gist(&self) -> Gist {
        let fields = if self.is_form() { self.form() } else { HashMap::new() };
        Gist::of(&self.body, &fields)
    }

    /// The true answer.
    fn answer(&self, world: &World, plan: &Plan) -> Answer {
        let answer = match self.endpoint {
            Endpoint::Unknown => Err(self.no_such_path()),
            Endpoint::GetToken | Endpoint::AccessToken => self.give_token(world, plan),
            endpoint => self.signed_in(world).and_then(|app| {
                self.admitted(world, &app, plan)?;
                self.permitted(world, &app)?;
                match endpoint {
                    Endpoint::GetByMobile => oapi::getbymobile(world, self),
                    Endpoint::Send => interactive::send(world, &app, self),
                    Endpoint::UpdateSent => interactive::update(world, self),
                    Endpoint::CreateAndDeliver => instances::create_and_deliver(world, &app, self, plan),
                    Endpoint::Create => instances::create(world, &app, self),
                    Endpoint::Spaces => instances::spaces(world, self),
                    Endpoint::Deliver => instances::deliver(world, &app, self, plan),
                    _ => instances::update(world, self),
                }
            }),
        };
        answer.unwrap_or_else(|refusal| refusal)
    }

    /// Whoever asks with an unknown key is not counted: there is no app whose limit it could be.
    fn give_token(&self, world: &World, plan: &Plan) -> Result<Answer, Answer> {
        if let Some(app) = self.caller(world) {
            self.admitted(world, &app, plan)?;
        }
        match self.endpoint {
            Endpoint::GetToken => oapi::gettoken(world, self),
            _ => open_api::access_token(world, self),
        }
    }

    /// The app of the call's token (dingtalk-api.md §2.4).
    fn signed_in(&self, world: &World) -> Result<String, Answer> {
        let token = self.token().unwrap_or_default();
        let why = if token.is_empty() {
            Refusal::TokenMissing
        } else {
            Refusal::TokenRejected
        };
        let app = world.directory.app_of(&token);
        app.ok_or_else(|| why.answer(self.endpoint, None))
    }

    /// So many calls a second for each app and API (dingtalk-api.md §7).
    fn admitted(&self, world: &World, app: &str, plan: &Plan) -> Result<(), Answer> {
        let rate = plan.rate.unwrap_or(world.rate_per_second);
        if held(&world.throttle).admits(app, self.endpoint, rate, Instant::now()) {
            return Ok(());
        }
        let message = format!(
            "请求过于频繁,应用 {app} 调用接口 {} 的限制将在 {} 结束.",
            self.path,
            next_second()
        );
        Err(Refusal::Throttled.answer(self.endpoint, Some(message)))
    }

    /// What the app may do (dingtalk-api.md §2.5).
    fn permitted(&self, world: &World, app: &str) -> Result<(), Answer> {
        match self.endpoint.permission() {
            Some(permission) if !world.directory.may(app, permission) => {
                let message = format!("应用尚未开通所需的权限{{requiredScopes=[{permission}]}}");
                Err(Refusal::PermissionMissing.answer(self.endpoint, Some(message)))
            }
            _ => Ok(()),
        }
    }

    /// HTTP 200 all the same (dingtalk-api.md §1); the legacy family names a missing method 22 (§3).
    fn no_such_path(&self) -> Answer {
        if self.path.starts_with("/topapi/") {
            return Answer::legacy(22, "不存在的方法名");
        }
        Answer::json(200, "404", json!({"errcode": 404, "errmsg": "请求的URI地址不存在"}))
    }

    /// The body as a form.
    pub(super) fn form(&self) -> HashMap<String, String> {
        form::fields(&String::from_utf8_lossy(&self.body))
    }

    pub(super) fn is_form(&self) -> bool {
        self.has_content_type("application/x-www-form-urlencoded")
    }

    pub(super) fn has_content_type(&self, wanted: &str) -> bool {
        let kind = self
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok());
        kind.and_then(|kind| kind.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
    }
}

/// The end of the window, in Beijing time and to the second, as the texts of such refusals print it.
fn next_second() -> String {
    let end = jiff::Timestamp::now() + std::time::Duration::from_secs(1);
    jiff::tz::offset(8)
        .to_datetime(end)
        .strftime("%Y-%m-%d %H:%M:%S")
        .to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;
    use serde_json::json;

    use super::super::testing::{Bench, card, got, refused};

    const CREATE_AND_DELIVER: &str = "/v1.0/card/instances/createAndDeliver";
    const GET_BY_MOBILE: &str = "/topapi/v2/user/getbymobile";

    #[tokio::test]
    async fn an_unknown_path_is_http_200_with_errcode_404() {
        let bench = Bench::start().await;
        let (status, body) = bench.post("/card/instance", json!({})).await;
        assert_eq!((status, &body["errcode"]), (200, &json!(404)));
        // A known path under another method is no endpoint either.
        assert_eq!(bench.get(CREATE_AND_DELIVER).await.1["errcode"], 404);
        assert_eq!(bench.get("/topapi/v2/user/nothing").await.1["errcode"], 22);
    }

    #[tokio::test]
    async fn the_new_family_takes_the_token_from_its_own_header_alone() {
        let bench = Bench::start().await;
        let path = format!("{CREATE_AND_DELIVER}?access_token={}", bench.token());
        let call = bench.request(Method::POST, &path).bearer_auth(bench.token());
        let answer = got(call.json(&card("a", &["u1"], json!({})))).await;
        assert_eq!(refused(&answer), (400, "AuthenticationFailed.MissingParameter"));
    }

    #[tokio::test]
    async fn the_new_family_refuses_a_wrong_token_with_400() {
        let bench = Bench::start().await;
        let call = bench
            .request(Method::POST, CREATE_AND_DELIVER)
            .header("x-acs-dingtalk-access-token", "nobody");
        let answer = got(call.json(&card("a", &["u1"], json!({})))).await;
        assert_eq!(refused(&answer), (400, "InvalidAuthentication"));
    }

    #[tokio::test]
    async fn the_legacy_family_wraps_its_token_errors_in_88() {
        let bench = Bench::start().await;
        // The header of the new family does not count here.
        let call = bench
            .signed(Method::POST, GET_BY_MOBILE)
            .json(&json!({"mobile": "15012341231"}));
        let (status, body) = got(call).await;
        assert_eq!(
            (status, &body["errcode"], &body["sub_code"]),
            (200, &json!(88), &json!("40000"))
        );
        let call = bench.request(Method::POST, &format!("{GET_BY_MOBILE}?access_token=nobody"));
        let (status, body) = got(call.json(&json!({"mobile": "15012341231"}))).await;
        assert_eq!(
            (status, &body["errcode"], &body["sub_code"]),
            (200, &json!(88), &json!("40014"))
        );
        assert_eq!(
            body["errmsg"],
            "ding talk error[subcode=40014,submsg=不合法的access_token]"
        );
    }

    #[tokio::test]
    async fn a_token_of_either_getter_serves_both_families() {
        let bench = Bench::start().await;
        let body = json!({"appKey": "dingsandbox", "appSecret": "sandbox-secret"});
        let call = bench.request(Method::POST, "/v1.0/oauth2/accessToken").json(&body);
        assert_eq!(got(call).await.1["accessToken"], bench.token());
        let path = format!("{GET_BY_MOBILE}?access_token={}", bench.token());
        let call = bench
            .request(Method::POST, &path)
            .json(&json!({"mobile": "15012341231"}));
        assert_eq!(got(call).await.1["result"]["userid"], "u15012341231");
        assert_eq!(bench.create_and_deliver("a", &["u1"], json!({})).await.0, 200);
    }

    #[tokio::test]
    async fn too_many_calls_are_refused_in_the_words_of_their_family() {
        let bench = Bench::with("rate_per_second = 1").await;
        let calls = (0..30).map(|n| {
            let bench = &bench;
            async move { bench.create_and_deliver(&format!("a{n}"), &["u1"], json!({})).await }
        });
        let answers = futures_util::future::join_all(calls).await;
        let throttled = answers.iter().find(|answer| answer.0 != 200).unwrap();
        assert_eq!(
            refused(throttled),
            (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi")
        );
        assert!(answers.iter().any(|answer| answer.0 == 200));

        let path = format!("{GET_BY_MOBILE}?access_token={}", bench.token());
        let calls = (0..30).map(|_| {
            got(bench
                .request(Method::POST, &path)
                .json(&json!({"mobile": "15012341231"})))
        });
        let answers = futures_util::future::join_all(calls).await;
        let (status, body) = answers.iter().find(|answer| answer.1["errcode"] != 0).unwrap();
        assert_eq!(
            (*status, &body["errcode"], &body["sub_code"]),
            (200, &json!(88), &json!("90018"))
        );
    }

    #[tokio::test]
    async fn calls_are_counted_by_app_endpoint_and_result() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench.get("/nowhere").await;
        let (_, calls) = bench.get("/sandbox/calls").await;
        assert_eq!(calls["total"], 4);
        let row = |app, endpoint, result| json!({"app_key": app, "endpoint": endpoint, "result": result, "count": 1});
        let rows = calls["calls"].as_array().unwrap();
        for row in [
            row(json!("dingsandbox"), "gettoken", "ok"),
            row(json!("dingsandbox"), "createAndDeliver", "ok"),
            row(json!("dingsandbox"), "createAndDeliver", "param.cardAlreadyExist"),
            row(json!(null), "unknown", "404"),
        ] {
            assert!(rows.contains(&row), "{row} in {calls}");
        }
        assert_eq!(bench.delete("/sandbox/calls").await.1["deleted"], 4);
        assert_eq!(bench.get("/sandbox/calls").await.1["calls"], json!([]));
    }

    #[tokio::test]
    async fn a_form_is_no_body_for_the_new_family() {
        let bench = Bench::start().await;
        let call = bench.signed(Method::POST, CREATE_AND_DELIVER);
        let call = call
            .header("content-type", "application/x-www-form-urlencoded")
            .body("outTrackId=a");
        assert_eq!(refused(&got(call).await), (400, "Missingbody"));
        let broken = bench
            .signed(Method::POST, CREATE_AND_DELIVER)
            .header("content-type", "application/json");
        assert_eq!(refused(&got(broken.body("{")).await), (400, "param.invalid"));
    }
}
