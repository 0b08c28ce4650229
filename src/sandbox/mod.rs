//! A DingTalk for development and tests.
//!
//! It answers as dingtalk-api.md says DingTalk answers, shows on a page what it was sent, and goes wrong on order.
//! It shares no type of a request or an answer with the client of this package: the two meet over HTTP alone, so
//! that one misreading cannot pass on both sides. It depends on the settings and on nothing else here.
//!
//! A call goes `api` (faults, token, limit) → `oapi`, `open_api`, `interactive`, `instances` (the endpoints' own
//! rules) → `directory` (who is known) and `cards` (what was sent). DingTalk has neither
//! `inbox` and `page` (what was sent, for programs and people) nor `control` (faults and counts).

mod answer;
mod api;
mod arrivals;
mod calls;
mod card;
mod cards;
mod connection;
mod control;
mod directory;
mod endpoint;
mod faults;
mod form;
mod gateway;
mod gist;
mod inbox;
mod instances;
mod interactive;
mod kinds;
mod latency;
mod oapi;
mod open_api;
mod page;
mod query;
mod refused;
mod search;
mod spaces;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::needless_pass_by_value)]
mod testing;
mod throttle;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::routing::{MethodRouter, get};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use crate::config::Sandbox;

/// How long calls that are under way may take once it is told to stop.
const GRACE: Duration = Duration::from_secs(2);
/// Events that a slow page may lag behind before it is told to load anew.
const EVENTS: usize = 1024;

/// Everything that the sandbox knows. Each lock is held for a few lines and never across an await.
struct World {
    directory: directory::Directory,
    rate_per_second: u32,
    throttle: Mutex<throttle::Throttle>,
    cards: Mutex<cards::Cards>,
    calls: Mutex<calls::Calls>,
    arrivals: Mutex<arrivals::Arrivals>,
    faults: Mutex<faults::Faults>,
    refused: Mutex<refused::RefusedCalls>,
    events: broadcast::Sender<News>,
    stop: CancellationToken,
}

/// What a page is told: what happened, and to which card, if it was one.
#[derive(Debug, Clone)]
struct News {
    event: Event,
    out_track_id: Option<String>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// A card was made, or shown once more.
    Card,
    /// A card was changed.
    Update,
    /// A card was deleted, or all were.
    Clear,
    /// A call got no success.
    Refused,
    /// The faults in force are others.
    Faults,
}

/// Serves the sandbox until `stop`, and for at most two seconds more.
pub async fn serve(listener: TcpListener, settings: &Sandbox, stop: CancellationToken) -> std::io::Result<()> {
    let world = Arc::new(World {
        directory: directory::Directory::new(settings),
        rate_per_second: settings.rate_per_second,
        throttle: Mutex::default(),
        cards: Mutex::new(cards::Cards::new(settings.keep)),
        calls: Mutex::default(),
        arrivals: Mutex::new(arrivals::Arrivals::new(settings.keep)),
        faults: Mutex::default(),
        refused: Mutex::new(refused::RefusedCalls::new(settings.keep)),
        events: broadcast::Sender::new(EVENTS),
        stop: stop.clone(),
    });
    let service = router(world).into_make_service_with_connect_info::<connection::Switch>();
    let server =
        axum::serve(connection::Door(listener), service).with_graceful_shutdown(stop.clone().cancelled_owned());
    let give_up = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        done = server.into_future() => done,
        () = give_up => Ok(()),
    }
}

fn router(world: Arc<World>) -> Router {
    routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| router.route(path, methods))
        .fallback(api::take)
        .with_state(world)
}

/// What DingTalk has not. The OpenAPI file says the same, which a test checks.
fn routes() -> Vec<(&'static str, MethodRouter<Arc<World>>)> {
    vec![
        ("/", get(page::page)),
        ("/sandbox/page/{file}", get(page::file)),
        ("/sandbox/cards", get(inbox::cards).delete(inbox::delete_cards)),
        (
            "/sandbox/cards/{out_track_id}",
            get(inbox::card).delete(inbox::delete_card),
        ),
        ("/sandbox/refused", get(inbox::refused).delete(inbox::delete_refused)),
        ("/sandbox/events", get(inbox::events)),
        ("/sandbox/calls", get(control::calls).delete(control::delete_calls)),
        (
            "/sandbox/arrivals",
            get(control::arrivals).delete(control::delete_arrivals),
        ),
        (
            "/sandbox/faults",
            get(control::faults)
                .put(control::put_faults)
                .delete(control::delete_faults),
        ),
        ("/sandbox/directory", get(control::directory)),
        ("/sandbox/openapi.json", get(control::openapi)),
    ]
}

impl Event {
    /// Its name among server-sent events.
    fn name(self) -> &'static str {
        match self {
            Self::Card => "card",
            Self::Update => "update",
            Self::Clear => "clear",
            Self::Refused => "refused",
            Self::Faults => "faults",
        }
    }
}

impl World {
    /// Tells every open page.
    fn tell(&self, event: Event, out_track_id: Option<&str>) {
        if self.events.receiver_count() > 0 {
            let out_track_id = out_track_id.map(str::to_owned);
            // Fails only where the last page has just gone.
            let _ = self.events.send(News { event, out_track_id });
        }
    }
}

/// A lock that outlives a panic: plain counts and maps are whole between any two lines that change them.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {

    use super::*;

    async fn running(stop: &CancellationToken) -> (String, tokio::task::JoinHandle<std::io::Result<()>>) {
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = stop.clone();
        (
            base,
            tokio::spawn(async move { serve(listener, &Sandbox::default(), stop).await }),
        )
    }

    #[tokio::test]
    async fn it_stops_although_a_page_is_open_and_a_call_hangs() {
        let stop = CancellationToken::new();
        let (base, server) = running(&stop).await;
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut page = client.get(format!("{base}/sandbox/events")).send().await.unwrap();
        let hang = r#"{"faults": [{"kind": "latency", "ms": 3600000}]}"#;
        client
            .put(format!("{base}/sandbox/faults"))
            .body(hang)
            .send()
            .await
            .unwrap();
        tokio::spawn(client.get(format!("{base}/gettoken")).send());
        stop.cancel();
        assert!(server.await.unwrap().is_ok());
        // It was told of the fault, and then of nothing more.
        while page.chunk().await.unwrap().is_some() {}
    }
}
