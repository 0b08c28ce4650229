//! The worker's own HTTP server: `/metrics`, `/livez`, `/readyz`.
//!
//! Separate because it only tells; nothing can be changed through it, and it knows no job and no broker.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Prometheus's text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves until `shutdown` is through: a worker that drains still shows its metrics.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    health: Arc<Health>,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/metrics", get(page).with_state(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health));
    axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.aborted().await })
        .await
}

async fn page(State(metrics): State<Arc<Metrics>>) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(health): State<Arc<Health>>) -> Response {
    let report = health.report();
    let status = if report.reasons.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let holds: Map<String, Value> = report
        .holds
        .iter()
        .map(|(app, r)| (app.clone(), json!(r.as_str())))
        .collect();
    (
        status,
        Json(json!({"ready": report.reasons.is_empty(), "reasons": report.reasons, "holds": holds})),
    )
        .into_response()
}
