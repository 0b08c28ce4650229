//! The levers and the counts: how often what was called, when, and what is to go wrong.
//!
//! Apart from `inbox`, which shows what was sent: this is what a test turns and reads. It carries nothing out itself;
//! faults are drawn in `faults`, calls counted in `calls` and `arrivals`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::arrivals::Wanted;
use super::cards::Tally;
use super::endpoint::Endpoint;
use super::faults::Faults;
use super::query::{Failure, Parameters, bad, check, number};
use super::{Event, World, held};

const OPENAPI: &str = include_str!("openapi.json");

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
    held(&world.cards).tally = Tally::default();
    Json(json!({"deleted": before.total()}))
}

/// `GET /sandbox/arrivals`: when calls came in, oldest first, filtered by `endpoint`, `app` and `since_ms`.
pub(super) async fn arrivals(
    State(world): State<Arc<World>>,
    Query(query): Query<Parameters>,
) -> Result<Json<Value>, Failure> {
    check(&query, &["endpoint", "app", "since_ms"])?;
    let wanted = Wanted {
        endpoint: query.get("endpoint").map(String::as_str),
        app: query.get("app").map(String::as_str),
        since_ms: number(&query, "since_ms", 0)?,
    };
    let names = Endpoint::ALL.map(Endpoint::name);
    if let Some(name) = wanted.endpoint.filter(|name| !names.contains(name)) {
        return Err(bad(format!("endpoint: no `{name}`, there are {}", names.join(", "))));
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
    let input: Value = serde_json::from_slice(&body).map_err(|error| bad(format!("not JSON: {error}")))?;
    let (faults, ended) = Faults::read(&input, |app| world.directory.has_app(app)).map_err(bad)?;
    for app in ended {
        world.directory.expire(app.as_deref());
    }
    let printed = faults.to_json();
    *held(&world.faults) = faults;
    world.tell(Event::Faults, None);
    Ok(Json(printed))
}

/// `DELETE /sandbox/faults`
pub(super) async fn delete_faults(State(world): State<Arc<World>>) -> Json<Value> {
    let none = Faults::default();
    let printed = none.to_json();
    *held(&world.faults) = none;
    world.tell(Event::Faults, None);
    Json(printed)
}

/// `GET /sandbox/directory`: the apps, templates and names, without secrets.
pub(super) async fn directory(State(world): State<Arc<World>>) -> Json<Value> {
    Json(world.directory.to_json())
}

/// `GET /sandbox/openapi.json`: all of `/sandbox`, described.
pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use std::collections::BTreeSet;

    use reqwest::Method;
    use serde_json::{Value, json};

    use super::super::testing::{Bench, got};

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
    async fn the_directory_has_the_apps_and_templates_of_the_settings() {
        let bench = Bench::with("[templates.tpl]\ntitle = 'Hello ${pv}'").await;
        let (_, directory) = bench.get("/sandbox/directory").await;
        assert_eq!(
            directory["apps"][0],
            json!({"app_key": "dingsandbox", "robot_code": "dingsandbox"})
        );
        assert_eq!(directory["templates"]["tpl"]["title"], "Hello ${pv}");
    }

    /// The OpenAPI file's answer to a method of a path, with what it refers to beside it.
    fn described(file: &Value, path: &str, method: &str) -> Value {
        let answer = &file["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"];
        json!({"allOf": [answer], "components": file["components"]})
    }

    #[tokio::test]
    async fn the_openapi_file_has_the_routes_and_no_others() {
        let bench = Bench::start().await;
        let (_, file) = bench.get("/sandbox/openapi.json").await;
        let described = file["paths"].as_object().unwrap();
        let routes = super::super::routes();
        assert_eq!(
            described.keys().map(String::as_str).collect::<BTreeSet<_>>(),
            routes.iter().map(|(path, _)| *path).collect()
        );
        for (path, methods) in described {
            // A method that no route has is answered with those that it has.
            let call = bench.request(Method::PATCH, &path.replace(['{', '}'], ""));
            let response = call.send().await.unwrap();
            assert_eq!(response.status(), 405, "{path}");
            let allowed = response.headers()["allow"].to_str().unwrap().to_ascii_lowercase();
            let allowed: BTreeSet<_> = allowed.split(',').filter(|method| *method != "head").collect();
            let methods = methods.as_object().unwrap();
            assert_eq!(allowed, methods.keys().map(String::as_str).collect(), "{path}");
        }
    }

    #[tokio::test]
    async fn answers_are_as_the_openapi_file_describes_them() {
        let bench = Bench::start().await;
        bench.create_and_deliver("a", &["u1", "u0000"], json!({})).await;
        bench.create_and_deliver("a", &["u1"], json!({})).await;
        bench
            .put("/card/instances", json!({"outTrackId": "a", "cardData": {}}))
            .await;
        bench.get("/nowhere").await;
        let faults = json!([
            {"kind": "latency", "p50_ms": 1, "p99_ms": 2, "endpoint": "deliver", "next": 3},
            {"kind": "refuse", "reason": "quota_spent", "recipient": "u9", "probability": 0.5},
        ]);
        bench.faults(faults).await;
        let (_, file) = bench.get("/sandbox/openapi.json").await;
        for (path, at) in [
            ("/sandbox/cards", "/sandbox/cards"),
            ("/sandbox/cards/{out_track_id}", "/sandbox/cards/a"),
            ("/sandbox/refused", "/sandbox/refused"),
            ("/sandbox/calls", "/sandbox/calls"),
            ("/sandbox/arrivals", "/sandbox/arrivals"),
            ("/sandbox/faults", "/sandbox/faults"),
            ("/sandbox/directory", "/sandbox/directory"),
        ] {
            let (status, answer) = bench.get(at).await;
            assert_eq!(status, 200, "{at}");
            closed(&described(&file, path, "get"), &answer);
        }
        for path in [
            "/sandbox/cards",
            "/sandbox/refused",
            "/sandbox/calls",
            "/sandbox/arrivals",
            "/sandbox/faults",
        ] {
            closed(&described(&file, path, "delete"), &bench.delete(path).await.1);
        }
    }

    #[tokio::test]
    async fn every_fault_and_filter_of_the_openapi_file_is_taken() {
        let bench = Bench::start().await;
        let (_, file) = bench.get("/sandbox/openapi.json").await;
        let kinds = file["components"]["schemas"]["Fault"]["oneOf"].as_array().unwrap();
        // One that is not there, to be told the names of all that are.
        let (_, unknown) = bench.faults(json!([{"kind": "none"}])).await;
        for kind in kinds {
            let name = kind["properties"]["kind"]["const"].as_str().unwrap();
            assert!(
                unknown["error"].as_str().unwrap().contains(&format!("`{name}`")),
                "{name}"
            );
        }
        assert_eq!(
            unknown["error"].as_str().unwrap().matches('`').count() / 2 - 1,
            kinds.len(),
            "{unknown}"
        );
        for (path, methods) in file["paths"].as_object().unwrap() {
            for parameter in methods["get"]["parameters"].as_array().into_iter().flatten() {
                if parameter["in"] == "query" {
                    let name = parameter["name"].as_str().unwrap();
                    let value = match &parameter["schema"]["enum"][0] {
                        Value::String(first) => first,
                        _ => "1",
                    };
                    assert_eq!(
                        bench.get(&format!("{path}?{name}={value}")).await.0,
                        200,
                        "{path} {name}"
                    );
                }
            }
        }
    }

    /// Checks a value against a schema, in which no object may hold what is not described.
    fn closed(schema: &Value, value: &Value) {
        fn close(node: &mut Value) {
            match node {
                Value::Object(fields) => {
                    fields.values_mut().for_each(close);
                    let is_closed = fields.contains_key("properties") && !fields.contains_key("oneOf");
                    if is_closed && fields["properties"].get("kind").is_none() {
                        fields.entry("additionalProperties").or_insert(json!(false));
                    }
                }
                Value::Array(list) => list.iter_mut().for_each(close),
                _ => {}
            }
        }
        let mut schema = schema.clone();
        close(&mut schema);
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<_> = validator.iter_errors(value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?} in {value}");
    }
}
