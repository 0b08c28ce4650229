//! A sandbox on a free port and a caller, for the tests of this folder.

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Sandbox;

/// A running sandbox; it stops when this goes.
pub(super) struct Bench {
    pub(super) base: String,
    pub(super) client: Client,
    token: String,
    _stop: DropGuard,
}

/// Status and body of an answer.
pub(super) type Got = (u16, Value);

impl Bench {
    /// The sandbox as it is out of the box, but without a limit of calls a second.
    pub(super) async fn start() -> Self {
        Self::with("rate_per_second = 0").await
    }

    /// With these settings, in TOML.
    pub(super) async fn with(settings: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let settings: Sandbox = toml::from_str(settings).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move { super::serve(listener, &settings, told).await });
        let client = Client::builder().no_proxy().build().unwrap();
        let mut bench = Self {
            base,
            client,
            token: String::new(),
            _stop: stop.drop_guard(),
        };
        bench.sign_in().await;
        bench
    }

    /// Fetches the first app's token and uses it from now on.
    pub(super) async fn sign_in(&mut self) {
        let (_, body) = self.get("/gettoken?appkey=dingsandbox&appsecret=sandbox-secret").await;
        body["access_token"]
            .as_str()
            .unwrap_or_default()
            .clone_into(&mut self.token);
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// A call of the new family with the token in its header.
    pub(super) fn signed(&self, method: Method, path: &str) -> RequestBuilder {
        self.request(method, path)
            .header("x-acs-dingtalk-access-token", &self.token)
    }

    pub(super) async fn get(&self, path: &str) -> Got {
        got(self.request(Method::GET, path)).await
    }

    pub(super) async fn delete(&self, path: &str) -> Got {
        got(self.request(Method::DELETE, path)).await
    }

    /// `POST` to an endpoint below `/v1.0`.
    pub(super) async fn post(&self, path: &str, body: Value) -> Got {
        got(self.signed(Method::POST, &format!("/v1.0{path}")).json(&body)).await
    }

    /// `PUT` to an endpoint below `/v1.0`.
    pub(super) async fn put(&self, path: &str, body: Value) -> Got {
        got(self.signed(Method::PUT, &format!("/v1.0{path}")).json(&body)).await
    }

    /// Replaces the faults.
    pub(super) async fn faults(&self, faults: Value) -> Got {
        got(self
            .request(Method::PUT, "/sandbox/faults")
            .json(&json!({"faults": faults, "seed": 7})))
        .await
    }

    /// createAndDeliver to users of the robot, with changes to the body; a null takes a field out.
    pub(super) async fn create_and_deliver(&self, id: &str, users: &[&str], changes: Value) -> Got {
        self.post("/card/instances/createAndDeliver", card(id, users, changes))
            .await
    }
}

/// The body of a createAndDeliver.
pub(super) fn card(id: &str, users: &[&str], changes: Value) -> Value {
    let spaces: Vec<_> = users.iter().map(|user| format!("IM_ROBOT.{user}")).collect();
    let body = json!({
        "cardTemplateId": "TPL.schema",
        "outTrackId": id,
        "cardData": {"cardParamMap": {"pv": "2000"}},
        "openSpaceId": format!("dtv1.card//{}", spaces.join(";")),
        "imRobotOpenSpaceModel": {"supportForward": true},
        "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT"},
    });
    changed(body, changes)
}

/// A body with some fields replaced, or taken out by null.
pub(super) fn changed(mut body: Value, changes: Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    for (key, value) in changes.as_object().cloned().unwrap_or_default() {
        match value {
            Value::Null => drop(fields.remove(&key)),
            value => drop(fields.insert(key, value)),
        }
    }
    body
}

pub(super) async fn got(request: RequestBuilder) -> Got {
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (
        status,
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default(),
    )
}

/// Status and code of a refusal of the new family.
pub(super) fn refused(got: &Got) -> (u16, &str) {
    assert!(
        got.1["requestid"].is_string() && got.1["message"].is_string(),
        "{got:?}"
    );
    (got.0, got.1["code"].as_str().unwrap())
}
