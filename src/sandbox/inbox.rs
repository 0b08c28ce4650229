//! What the sandbox was sent, for people and programs: the cards, the calls that were refused, and news of both.
//!
//! Reading what the sandbox saw is kept apart from playing DingTalk, so that no test's question can change an answer of
//! the API. Lists come newest first and by the page. Resetting counts and ordering faults is `control`'s business.

use std::convert::Infallible;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;

use super::query::{Failure, Parameters, bad, check, missing, number};
use super::search::Search;
use super::{Event, News, World, held};

/// Rows of one answer, unless asked for otherwise, and at most.
const LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

/// `GET /sandbox/cards`: filtered by `recipient` (a space ID, a mobile or a name), `template`, `app`, `outcome` and `q`,
/// a text that occurs anywhere in the card.
pub(super) async fn cards(
    State(world): State<Arc<World>>,
    Query(query): Query<Parameters>,
) -> Result<Json<Value>, Failure> {
    check(
        &query,
        &["limit", "offset", "recipient", "template", "app", "outcome", "q"],
    )?;
    let (limit, offset) = page(&query)?;
    let search = Search::read(&query, &world.directory).map_err(bad)?;
    let (total, cards) = if search.is_empty() {
        let cards = held(&world.cards);
        let page = cards.newest().skip(offset).take(limit).cloned().collect();
        (cards.len(), page)
    } else {
        let all: Vec<_> = held(&world.cards).newest().cloned().collect();
        part(all, limit, offset, move |card| search.finds_card(card)).await?
    };
    let cards: Vec<_> = cards.iter().map(|card| card.to_json()).collect();
    Ok(Json(json!({"total": total, "cards": cards})))
}

/// `GET /sandbox/cards/{outTrackId}`
pub(super) async fn card(
    State(world): State<Arc<World>>,
    Path(out_track_id): Path<String>,
) -> Result<Json<Value>, Failure> {
    let card = held(&world.cards).get(&out_track_id);
    let card = card.ok_or_else(|| missing(format!("no card {out_track_id}")))?;
    Ok(Json(card.to_json()))
}

/// `DELETE /sandbox/cards/{outTrackId}`
pub(super) async fn delete_card(
    State(world): State<Arc<World>>,
    Path(out_track_id): Path<String>,
) -> Result<Json<Value>, Failure> {
    if !held(&world.cards).remove(&out_track_id) {
        return Err(missing(format!("no card {out_track_id}")));
    }
    world.tell(Event::Clear, Some(&out_track_id));
    Ok(Json(json!({"deleted": 1})))
}

/// `DELETE /sandbox/cards`
pub(super) async fn delete_cards(State(world): State<Arc<World>>) -> Json<Value> {
    let deleted = held(&world.cards).clear();
    world.tell(Event::Clear, None);
    Json(json!({"deleted": deleted}))
}

/// `GET /sandbox/refused`: calls that got no success, filtered by `recipient`, `template`, `app`, `endpoint`, `result`
/// and `q`, a text that occurs anywhere in the call.
pub(super) async fn refused(
    State(world): State<Arc<World>>,
    Query(query): Query<Parameters>,
) -> Result<Json<Value>, Failure> {
    check(
        &query,
        &[
            "limit",
            "offset",
            "recipient",
            "template",
            "app",
            "endpoint",
            "result",
            "q",
        ],
    )?;
    let (limit, offset) = page(&query)?;
    let search = Search::read(&query, &world.directory).map_err(bad)?;
    let (total, calls) = if search.is_empty() {
        let calls = held(&world.refused);
        let page = calls.newest().skip(offset).take(limit).cloned().collect();
        (calls.len(), page)
    } else {
        let all: Vec<_> = held(&world.refused).newest().cloned().collect();
        part(all, limit, offset, move |(_, call)| search.finds_call(call)).await?
    };
    let calls: Vec<_> = calls.iter().map(|(number, call)| call.to_json(*number)).collect();
    Ok(Json(json!({"total": total, "calls": calls})))
}

/// `DELETE /sandbox/refused`
pub(super) async fn delete_refused(State(world): State<Arc<World>>) -> Json<Value> {
    let deleted = held(&world.refused).clear();
    world.tell(Event::Refused, None);
    Json(json!({"deleted": deleted}))
}

/// `GET /sandbox/events`: `card`, `update`, `clear`, `refused` with the `out_track_id` of what they are about, `faults`,
/// and `lagged` where events were lost and the reader must load anew. Ends when the sandbox stops.
pub(super) async fn events(State(world): State<Arc<World>>) -> Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let stop = world.stop.clone().cancelled_owned();
    let events = stream::unfold(world.events.subscribe(), |mut events| async move {
        let event = match events.recv().await {
            Ok(News { event, out_track_id }) => {
                let data = json!({"out_track_id": out_track_id});
                sse::Event::default().event(event.name()).data(data.to_string())
            }
            Err(RecvError::Lagged(_)) => sse::Event::default().event("lagged").data("{}"),
            Err(RecvError::Closed) => return None,
        };
        Some((Ok(event), events))
    });
    Sse::new(events.take_until(stop)).keep_alive(KeepAlive::default())
}

/// The page that is asked for: how many rows, after how many.
fn page(query: &Parameters) -> Result<(usize, usize), Failure> {
    Ok((
        number(query, "limit", LIMIT)?.min(MAX_LIMIT),
        number(query, "offset", 0)?,
    ))
}

/// How many rows are looked for, and one page of them. Beside the calls, for a hundred thousand take a moment.
async fn part<T: Send + 'static>(
    mut all: Vec<T>,
    limit: usize,
    offset: usize,
    finds: impl Fn(&T) -> bool + Send + 'static,
) -> Result<(usize, Vec<T>), Failure> {
    let search = move || {
        all.retain(finds);
        (all.len(), all.into_iter().skip(offset).take(limit).collect())
    };
    let found = tokio::task::spawn_blocking(search).await;
    found.map_err(|_| bad("the search broke off"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use reqwest::Method;
    use serde_json::json;

    use super::super::testing::Bench;

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
        assert_eq!(card["answer"]["result"]["outTrackId"], "a");
        assert_eq!(bench.get("/sandbox/cards/b").await.0, 404);
    }

    #[tokio::test]
    async fn filters_narrow_the_list() {
        let bench = Bench::with("names = { 15012341231 = 'Zhang San' }").await;
        bench.create_and_deliver("a", &["u15012341231"], json!({})).await;
        bench
            .create_and_deliver("b", &["u2"], json!({"cardTemplateId": "other"}))
            .await;
        bench
            .create_and_deliver("c", &["u3"], json!({"cardData": {"cardParamMap": {"who": "张三 Li"}}}))
            .await;
        bench.create_and_deliver("d", &["u4", "u0000"], json!({})).await;
        bench.create_and_deliver("e", &["u0000"], json!({})).await;
        for (query, id) in [
            ("recipient=u2", "b"),
            ("recipient=15012341231", "a"),
            ("recipient=zhang+san", "a"),
            ("q=ZHANG", "a"),
            ("outcome=partly", "d"),
            ("outcome=undelivered", "e"),
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
        assert_eq!(bench.get("/sandbox/cards?outcome=lost").await.0, 400);
    }

    #[tokio::test]
    async fn a_page_hears_of_each_card_update_and_clearing() {
        let bench = Bench::start().await;
        let mut events = bench.request(Method::GET, "/sandbox/events").send().await.unwrap();
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench
            .put("/card/instances", json!({"outTrackId": "a", "cardData": {}}))
            .await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench.delete("/sandbox/cards").await;
        let mut text = String::new();
        while !text.contains("event: clear") {
            text.push_str(std::str::from_utf8(&events.chunk().await.unwrap().unwrap()).unwrap());
        }
        let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names, ["card", "update", "refused", "clear"]);
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let card: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(card["out_track_id"], "a");
    }

    #[tokio::test]
    async fn one_card_can_be_deleted() {
        let bench = Bench::start().await;
        for id in ["a", "b"] {
            bench.create_and_deliver(id, &["u1"], json!({})).await;
        }
        assert_eq!(bench.delete("/sandbox/cards/a").await.1["deleted"], 1);
        assert_eq!(bench.delete("/sandbox/cards/a").await.0, 404);
        assert_eq!(bench.get("/sandbox/cards").await.1["total"], 1);
    }
}
