//! Traces, as a collector gets them: OTLP over HTTP, from a worker on the real broker.

use std::fmt::Write as _;
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::routing::post;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::json;
use tokio::runtime::Runtime;

use crate::delivery::single_jobs;
use crate::producers::publish_with;
use crate::stand::{PATIENCE, Stand};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PRODUCERS_SPAN: &str = "b7ad6b7169203331";

/// What a collector was sent, request by request.
type Requests = Arc<Mutex<Vec<Bytes>>>;

/// A collector that takes everything.
struct Collector {
    url: String,
    requests: Requests,
    _serving: Runtime,
}

impl Collector {
    fn start() -> Self {
        let serving = Runtime::new().unwrap();
        let requests = Requests::default();
        let take = |State(requests): State<Requests>, body: Bytes| async move { requests.lock().unwrap().push(body) };
        let router = Router::new()
            .route("/v1/traces", post(take))
            .with_state(requests.clone());
        let listener = serving.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        serving.spawn(async move { axum::serve(listener, router).await });
        Self {
            url,
            requests,
            _serving: serving,
        }
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let requests = self.requests.lock().unwrap();
        requests
            .iter()
            .map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap())
            .collect()
    }

    /// The spans, in the order in which they began.
    fn spans(&self) -> Vec<Span> {
        let of_resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        let mut spans: Vec<Span> = of_resources
            .flat_map(|of_resource| of_resource.scope_spans)
            .flat_map(|of_scope| of_scope.spans)
            .collect();
        spans.sort_by_key(|span| span.start_time_unix_nano);
        spans
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn attribute(attributes: &[KeyValue], key: &str) -> Option<String> {
    let found = attributes.iter().find(|attribute| attribute.key == key)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text.clone()),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

/// Name, attempt, and what became of it.
fn gist(span: &Span) -> (String, String, String) {
    let word = |key| attribute(&span.attributes, key).unwrap_or_default();
    let fate = format!("{} {}", word("dingcard.outcome"), word("dingcard.reason"));
    (span.name.clone(), word("dingcard.attempt"), fate.trim().to_owned())
}

fn publish_traced(stand: &Stand, job: &serde_json::Value) {
    let mut headers = FieldTable::default();
    let traceparent = format!("00-{TRACE}-{PRODUCERS_SPAN}-01");
    headers.insert(
        "traceparent".into(),
        AMQPValue::LongString(LongString::from(traceparent)),
    );
    let properties = BasicProperties::default().with_headers(headers);
    publish_with(stand, "jobs", job.to_string().as_bytes(), properties);
}

#[test]
fn a_job_is_followed_from_its_producers_span_through_every_stage_of_each_attempt() {
    let collector = Collector::start();
    let stand = Stand::new()
        .with("OTEL__ENDPOINT", &collector.url)
        .with("RETRY__IMMEDIATE", "0");
    let mut worker = stand.worker();
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 1}]));
    publish_traced(&stand, &json!({"id": "traced", "to": [{"mobile": "15012341231"}]}));
    worker.wait_for_jobs("delivered", 1);
    worker.process.terminate();
    assert_eq!(worker.process.wait(PATIENCE).unwrap(), 0);

    let spans = collector.spans();
    let gists: Vec<_> = spans.iter().map(gist).collect();
    let expected = [
        ("consume", "1", "retried server_error"),
        ("resolve", "1", ""),
        ("send", "1", "server_error"),
        ("settle", "1", "retried server_error"),
        ("consume", "2", "delivered none"),
        ("resolve", "2", ""),
        ("send", "2", ""),
        ("settle", "2", "delivered none"),
    ];
    assert_eq!(
        gists,
        expected.map(|(name, attempt, fate)| (name.into(), attempt.into(), fate.into()))
    );
    for (index, span) in spans.iter().enumerate() {
        assert_eq!(hex(&span.trace_id), TRACE, "{}", span.name);
        let parent = match index % 4 {
            0 => PRODUCERS_SPAN.to_owned(),
            _ => hex(&spans[index - index % 4].span_id),
        };
        assert_eq!(hex(&span.parent_span_id), parent, "{}", span.name);
        assert_eq!(attribute(&span.attributes, "dingcard.job").as_deref(), Some("traced"));
        assert_eq!(attribute(&span.attributes, "dingcard.app").as_deref(), Some("default"));
    }
    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(
        attribute(&resource.attributes, "service.name").as_deref(),
        Some("dingcard")
    );
    for body in collector.requests.lock().unwrap().iter() {
        let sent = String::from_utf8_lossy(body);
        for kept in ["15012341231", "sandbox-secret", "dingsandbox"] {
            assert!(!sent.contains(kept), "{kept} left the worker");
        }
    }
    let log = worker.process.lines().join("\n");
    assert!(!log.contains("dingcard.job"), "the log is as without spans: {log}");
}

#[test]
fn a_job_of_a_producer_without_a_trace_begins_one_and_a_dead_one_is_an_error() {
    let collector = Collector::start();
    let stand = Stand::new().with("OTEL__ENDPOINT", &collector.url);
    let mut worker = stand.worker();
    stand.publish(&["--id", "nobodys", "--mobile", "15012340000"]);
    worker.wait_for_jobs("dead", 1);
    worker.process.terminate();
    assert_eq!(worker.process.wait(PATIENCE).unwrap(), 0);
    let spans = collector.spans();
    let gists: Vec<_> = spans.iter().map(gist).collect();
    let dead = || "dead user_not_found".to_owned();
    let expected = [
        ("consume".to_owned(), "1".to_owned(), dead()),
        ("resolve".to_owned(), "1".to_owned(), "user_not_found".to_owned()),
        ("settle".to_owned(), "1".to_owned(), dead()),
    ];
    assert_eq!(gists, expected);
    assert!(spans[0].parent_span_id.is_empty());
    let errors = spans
        .iter()
        .filter(|span| span.status.as_ref().is_some_and(|status| status.code == 2));
    assert_eq!(errors.count(), 3);
}

#[test]
fn a_collector_that_is_away_or_silent_costs_no_job_and_one_line() {
    // It takes connections, as the system does for it, and answers nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    for endpoint in [
        "http://127.0.0.1:1".to_owned(),
        format!("http://{}", silent.local_addr().unwrap()),
    ] {
        let stand = Stand::new().with("OTEL__ENDPOINT", &endpoint);
        let mut worker = stand.worker();
        stand.publish_lines(single_jobs(0, 2_000));
        worker.wait_for_jobs("delivered", 2_000);
        worker.wait_for_line("no collector takes the spans");
        stand.publish_lines(single_jobs(2_000, 500));
        worker.wait_for_jobs("delivered", 2_500);
        assert_eq!(stand.calls()["deliveries"]["total"], json!(2_500));
        worker.process.terminate();
        assert_eq!(worker.process.wait(PATIENCE).unwrap(), 0);
        let lines = worker.process.lines();
        let told = lines
            .iter()
            .filter(|line| line.contains("collector") || line.contains("span"));
        assert_eq!(told.count(), 1, "{lines:?}");
    }
}
