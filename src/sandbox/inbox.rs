//! The part that DingTalk has not: the inbox page, and the same for programs under `/sandbox`.
//!
//! Reading and resetting what the sandbox saw is kept apart from playing DingTalk, so that no test's question can
//! change an answer of the API. Errors here are plain: an HTTP status and `{"error": ".."}`.

use std::collections::HashMap;
use std::convert::Infallible;
use std::str::FromStr;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{Html, IntoResponse};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::arrivals::Wanted;
use super::endpoint::Endpoint;
use super::faults::Faults;
use super::{Event, World, held};

const PAGE: &str = include_str!("inbox.html");
/// Cards of one answer, unless asked for otherwise, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;
/// The page needs nothing but itself, and what a card says must not become code.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'";

type Failure = (StatusCode, Json<Value>);

/// `GET /`
pub(super) async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(PAGE))
}

/// `GET /sandbox/cards`: newest first, filtered by `recipient` (a space ID or a mobile), `template`, `app` and `q`,
/// a text that occurs anywhere in the card.
pub(super) async fn cards(
    State(world): State<Arc<World>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Failure> {
    check(&query, &["limit", "offset", "recipient", "template", "app", "q"])?;
    let limit = number(&query, "limit", LIMIT)?.min(MAX_LIMIT);
    let offset = number(&query, "offset", 0)?;
    let filter = |key: &str| query.get(key).filter(|value| !value.is_empty());
    let recipient = filter("recipient").map(|id| (id, world.directory.user_of(id).ok()));
    let text = filter("q").map(|text| text.to_lowercase());

    let mut cards = held(&world.cards).all();
    cards.retain(|card| {
        filter("app").is_none_or(|app| card.app_key == *app)
            && filter("template").is_none_or(|template| card.template == *template)
            && recipient
                .as_ref()
                .is_none_or(|(id, user)| card.shown_to(id) || user.as_ref().is_some_and(|user| card.shown_to(user)))
            && text.as_ref().is_none_or(|text| card.mentions(text))
    });
    let page: Vec<_> = cards
        .iter()
        .skip(offset)
        .take(limit)
        .map(|card| card.to_json())
        .collect();
    Ok(Json(json!({"total": cards.len(), "cards": page})))
}

/// `GET /sandbox/cards/{outTrackId}`
pub(super) async fn card(
    State(world): State<Arc<World>>,
    Path(out_track_id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let card = held(&world.cards).get(&out_track_id);
    let missing = || {
        (
            StatusCode::NOT_FOUND,
            Json(json!({"error": format!("no card {out_track_id}")})),
        )
    };
    card.map(|card| Json(card.to_json())).ok_or_else(missing)
}

/// `DELETE /sandbox/cards`
pub(super) async fn delete_cards(State(world): State<Arc<World>>) -> Json<Value> {
    let deleted = held(&world.cards).clear();
    world.tell(Event::Clear, None);
    Json(json!({"deleted": deleted}))
}

/// `GET /sandbox/calls`
pub(super) async fn calls(State(world): State<Arc<World>>) -> Json<Value> {
    let (total, rows) = {
        let calls = held(&world.calls);
        (calls.total(), calls.rows())
    };
    let cards = held(&world.cards);
    let tally = &cards.tally;
    let deliveries = json!({"total": tally.total, "recipients": tally.recipients(), "duplicates": tally.duplicates});
    Json(json!({"total": total, "calls": rows, "deliveries": deliveries}))
}

/// `DELETE /sandbox/calls`: the counts of calls and of deliveries begin anew.
pub(super) async fn delete_calls(State(world): State<Arc<World>>) -> Json<Value> {
    let before = std::mem::take(&mut *held(&world.calls));
    held(&world.cards).tally = super::cards::Tally::default();
    Json(json!({"deleted": before.total()}))
}

/// `GET /sandbox/arrivals`: when calls came in, oldest first, filtered by `endpoint`, `app` and `since_ms`.
pub(super) async fn arrivals(
    State(world): State<Arc<World>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<Value>, Failure> {
    check(&query, &["endpoint", "app", "since_ms"])?;
    let wanted = Wanted {
        endpoint: query.get("endpoint").map(String::as_str),
        app: query.get("app").map(String::as_str),
        since_ms: number(&query, "since_ms", 0)?,
    };
    let names = Endpoint::ALL.map(Endpoint::name);
    if let Some(name) = wanted.endpoint.filter(|name| !names.contains(name)) {
        return Err(failure(format!(
            "endpoint: no `{name}`, there are {}",
            names.join(", ")
        )));
    }
    let printed = held(&world.arrivals).to_json(&wanted);
    Ok(Json(printed))
}

/// `DELETE /sandbox/arrivals`
pub(super) async fn delete_arrivals(State(world): State<Arc<World>>) -> Json<Value> {
    let deleted = held(&world.arrivals).clear();
    Json(json!({"deleted": deleted}))
}

/// `GET /sandbox/faults`
pub(super) async fn faults(State(world): State<Arc<World>>) -> Json<Value> {
    Json(held(&world.faults).to_json())
}

/// `PUT /sandbox/faults`: replaces what was there, or nothing where one of them is wrong.
pub(super) async fn put_faults(State(world): State<Arc<World>>, body: Bytes) -> Result<Json<Value>, Failure> {
    let input: Value = serde_json::from_slice(&body).map_err(|error| failure(format!("not JSON: {error}")))?;
    let (faults, ended) = Faults::read(&input, |app| world.directory.has_app(app)).map_err(failure)?;
    for app in ended {
        world.directory.expire(app.as_deref());
    }
    let printed = faults.to_json();
    *held(&world.faults) = faults;
    Ok(Json(printed))
}

/// `DELETE /sandbox/faults`
pub(super) async fn delete_faults(State(world): State<Arc<World>>) -> Json<Value> {
    let mut faults = held(&world.faults);
    *faults = Faults::default();
    Json(faults.to_json())
}

/// `GET /sandbox/directory`: the apps and templates, without secrets.
pub(super) async fn directory(State(world): State<Arc<World>>) -> Json<Value> {
    Json(world.directory.to_json())
}

/// `GET /sandbox/events`: `card` and `update` with the card as `/sandbox/cards` prints it, `clear`, and `lagged`
/// where events were lost and the reader must load anew. Ends when the sandbox stops.
pub(super) async fn events(State(world): State<Arc<World>>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let stop = world.stop.clone().cancelled_owned();
    let events = stream::unfold(world.events.subscribe(), |mut events| async move {
        let event = match events.recv().await {
            Ok((event, card)) => {
                let name = match event {
                    Event::Card => "card",
                    Event::Update => "update",
                    Event::Clear => "clear",
                };
                let data = card.map_or_else(|| json!({}), |card| card.to_json());
                sse::Event::default().event(name).data(data.to_string())
            }
            Err(RecvError::Lagged(_)) => sse::Event::default().event("lagged").data("{}"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), events))
    });
    Sse::new(events.take_until(stop)).keep_alive(KeepAlive::default())
}

/// Refuses a parameter that is not known: a misspelt filter would show everything.
fn check(query: &HashMap<String, String>, known: &[&str]) -> Result<(), Failure> {
    match query.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(failure(format!(
            "unknown parameter `{key}`, there are {}",
            known.join(", ")
        ))),
    }
}

/// A whole number; `absent` where it is not given.
fn number<N: FromStr>(query: &HashMap<String, String>, key: &str, absent: N) -> Result<N, Failure> {
    match query.get(key) {
        None => Ok(absent),
        Some(text) => text
            .parse()
            .map_err(|_| failure(format!("{key}: not a whole number of 0 or more"))),
    }
}

fn failure(error: impl Into<String>) -> Failure {
    let error: String = error.into();
    (StatusCode::BAD_REQUEST, Json(json!({"error": error})))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;
    use serde_json::json;

    use super::super::testing::{Bench, got};

    #[tokio::test]
    async fn cards_come_newest_first_and_by_the_page() {
        let bench = Bench::start().await;
        for id in ["a", "b", "c"] {
            bench.create_and_deliver(id, &["u1"], json!({})).await;
        }
        let (_, all) = bench.get("/sandbox/cards").await;
        let ids: Vec<_> = all["cards"]
            .as_array()
            .unwrap()
            .iter()
            .map(|card| &card["out_track_id"])
            .collect();
        assert_eq!(all["total"], 3);
        assert_eq!(ids, ["c", "b", "a"]);
        let (_, page) = bench.get("/sandbox/cards?limit=1&offset=1").await;
        assert_eq!(
            (&page["total"], page["cards"].as_array().unwrap().len()),
            (&json!(3), 1)
        );
        assert_eq!(page["cards"][0]["out_track_id"], "b");
    }

    #[tokio::test]
    async fn a_card_holds_what_was_sent() {
        let bench = Bench::start().await;
        bench
            .create_and_deliver(
                "a",
                &["u1"],
                json!({"privateData": {"u1": {"cardParamMap": {"x": "y"}}}}),
            )
            .await;
        let (_, card) = bench.get("/sandbox/cards/a").await;
        assert_eq!(
            (&card["api"], &card["template"]),
            (&json!("instances"), &json!("TPL.schema"))
        );
        assert_eq!(
            (&card["params"], &card["private"]),
            (&json!({"pv": "2000"}), &json!({"u1": {"x": "y"}}))
        );
        assert_eq!(card["request"]["openSpaceId"], "dtv1.card//IM_ROBOT.u1");
        assert!(card["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
        assert_eq!(bench.get("/sandbox/cards/b").await.0, 404);
    }

    #[tokio::test]
    async fn filters_narrow_the_list() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u15012341231"], json!({})).await;
        bench
            .create_and_deliver("b", &["u2"], json!({"cardTemplateId": "other"}))
            .await;
        bench
            .create_and_deliver("c", &["u3"], json!({"cardData": {"cardParamMap": {"who": "张三 Li"}}}))
            .await;
        for (query, id) in [
            ("recipient=u2", "b"),
            ("recipient=15012341231", "a"),
            ("template=other", "b"),
            ("q=u2", "b"),
            ("q=%E5%BC%A0%E4%B8%89", "c"),
            ("q=LI", "c"),
            ("q=OTHER&app=dingsandbox", "b"),
        ] {
            let (_, found) = bench.get(&format!("/sandbox/cards?{query}")).await;
            assert_eq!(
                (&found["total"], &found["cards"][0]["out_track_id"]),
                (&json!(1), &json!(id)),
                "{query}"
            );
        }
        assert_eq!(bench.get("/sandbox/cards?app=dingsandbox2").await.1["total"], 0);
        assert_eq!(bench.get("/sandbox/cards?recipent=u2").await.0, 400);
        assert_eq!(bench.get("/sandbox/cards?limit=-1").await.0, 400);
    }

    #[tokio::test]
    async fn cards_and_counts_are_deleted_apart() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(bench.delete("/sandbox/cards").await.1, json!({"deleted": 1}));
        assert_eq!(bench.get("/sandbox/cards").await.1, json!({"total": 0, "cards": []}));
        assert_eq!(bench.get("/sandbox/calls").await.1["deliveries"]["total"], 1);
        bench.delete("/sandbox/calls").await;
        let none = json!({"total": 0, "recipients": 0, "duplicates": 0});
        assert_eq!(bench.get("/sandbox/calls").await.1["deliveries"], none);
        // A deleted card can be made again, and is then no duplicate.
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        assert_eq!(bench.get("/sandbox/calls").await.1["deliveries"]["duplicates"], 0);
    }

    #[tokio::test]
    async fn a_wrong_fault_changes_nothing() {
        let bench = Bench::start().await;
        bench.faults(json!([{"kind": "garbage"}])).await;
        let (status, body) = bench
            .faults(json!([{"kind": "latency", "ms": 1}, {"kind": "storm"}]))
            .await;
        assert_eq!(status, 400);
        assert!(body["error"].as_str().unwrap().starts_with("faults[1]: "), "{body}");
        assert_eq!(bench.get("/sandbox/faults").await.1["faults"][0]["kind"], "garbage");
        let broken = got(bench.request(Method::PUT, "/sandbox/faults").body("{")).await;
        assert_eq!(broken.0, 400);
        bench.delete("/sandbox/faults").await;
        assert_eq!(bench.get("/sandbox/faults").await.1["faults"], json!([]));
    }

    #[tokio::test]
    async fn a_page_hears_of_each_card_update_and_clearing() {
        let bench = Bench::start().await;
        let mut events = bench.request(Method::GET, "/sandbox/events").send().await.unwrap();
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench
            .put("/card/instances", json!({"outTrackId": "a", "cardData": {}}))
            .await;
        bench.delete("/sandbox/cards").await;
        let mut text = String::new();
        while !text.contains("event: clear") {
            text.push_str(std::str::from_utf8(&events.chunk().await.unwrap().unwrap()).unwrap());
        }
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names, ["card", "update", "clear"]);
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let card: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(card["out_track_id"], "a");
    }

    #[tokio::test]
    async fn the_page_loads_nothing_from_elsewhere() {
        let bench = Bench::start().await;
        let response = bench.request(Method::GET, "/").send().await.unwrap();
        assert!(
            response.headers()["content-security-policy"]
                .to_str()
                .unwrap()
                .contains("default-src 'none'")
        );
        let page = response.text().await.unwrap();
        assert!(page.contains("dingcard publish --mobile 15012341231 --template overtime --param pv=2000"));
        // The name of a namespace is no address.
        let page = page.replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "src=", "@import", "innerHTML"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[tokio::test]
    async fn the_directory_has_the_apps_and_templates_of_the_settings() {
        let bench = Bench::with("[templates.tpl]\ntitle = 'Hello ${pv}'").await;
        let (_, directory) = bench.get("/sandbox/directory").await;
        assert_eq!(
            directory["apps"][0],
            json!({"app_key": "dingsandbox", "robot_code": "dingsandbox"})
        );
        assert_eq!(directory["templates"]["tpl"]["title"], "Hello ${pv}");
    }
}
