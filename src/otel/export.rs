//! Spans to an OpenTelemetry collector.
//!
//! Separate because only a build with the feature `otlp` has it. Spans are exported in batches, by a thread of their own: what
//! the collector does not take is dropped, what comes faster than it goes too, and a collector that is away is told of once.
//! The environment variables of OpenTelemetry's own specification hold for what is not set here (`OTEL_TRACES_SAMPLER`,
//! `OTEL_BSP_…`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData};
use tracing::{Level, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::{Layer, Registry};

use super::TARGET;
use crate::config::{Config, ConfigError};

/// For one batch: a collector that takes longer is as good as away.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Exports the spans of this process.
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// To the collector of the configuration; `None` where it names none.
    pub fn new(config: &Config) -> Result<Option<Self>, ConfigError> {
        let Some(endpoint) = &config.otel.endpoint else {
            return Ok(None);
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|error| ConfigError::single("otel.endpoint", &error.to_string()))?;
        let resource = Resource::builder()
            .with_service_name("dingcard")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.namespace", config.amqp.namespace.clone()),
                KeyValue::new("service.instance.id", config.worker_name()),
            ])
            .build();
        let told = Told {
            exporter,
            failing: AtomicBool::new(false),
        };
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(told)
            .with_resource(resource)
            .build();
        Ok(Some(Self(provider)))
    }

    /// What takes spans, and nothing of the log.
    #[must_use]
    pub fn layer(&self) -> Box<dyn Layer<Registry> + Send + Sync> {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer("dingcard"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_level(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(Targets::new().with_target(TARGET, Level::INFO))
            .boxed()
    }

    /// Exports what is left, within `grace`.
    pub async fn flush(self, grace: Duration) {
        // The provider waits as threads do.
        let flushed = tokio::task::spawn_blocking(move || self.0.shutdown_with_timeout(grace.min(TIMEOUT))).await;
        if !matches!(flushed, Ok(Ok(()))) {
            tracing::debug!("the last spans were not exported in time");
        }
    }
}

/// Makes `span` a child of the span that a producer names in the headers of its message (`traceparent`, `tracestate`).
pub fn join(span: &Span, header: impl Fn(&str) -> Option<String>) {
    if span.is_disabled() {
        return;
    }
    let headers = ["traceparent", "tracestate"];
    let headers: HashMap<String, String> = headers
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), header(name)?)))
        .collect();
    let parent = TraceContextPropagator::new().extract(&headers);
    // Fails only for a span that is not exported.
    let _exported = span.set_parent(parent);
}

/// An exporter that says once that nobody takes its spans, and once that somebody does again.
#[derive(Debug)]
struct Told {
    exporter: SpanExporter,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Told {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.exporter.export(batch).await;
        let failed_before = self.failing.swap(result.is_err(), Ordering::Relaxed);
        match &result {
            Err(error) if !failed_before => {
                tracing::warn!(%error, "no collector takes the spans (otel.endpoint): they are dropped, and jobs go on");
            }
            Ok(()) if failed_before => tracing::info!("the collector takes spans again"),
            _ => {}
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
