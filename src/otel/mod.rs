//! Where spans go: out to a collector, by OTLP over HTTP, or nowhere at all.
//!
//! Separate from the spans, which the worker makes as it goes (`worker/spans.rs`): what is made of them, and whether
//! anything is, is decided once at the start. Without `otel.endpoint`, or in a build without the feature `otlp`, no span is
//! made and none costs anything. It decides nothing about a job, and no job waits for it.

#[cfg(feature = "otlp")]
mod export;
#[cfg(not(feature = "otlp"))]
mod without;

#[cfg(feature = "otlp")]
pub use self::export::{Exporter, join};
#[cfg(not(feature = "otlp"))]
pub use self::without::{Exporter, join};

/// The target of every span, by which the log leaves them out and the exporter takes nothing else.
pub const TARGET: &str = "spans";
