//! The pure parts of a job's way through a worker: how long each takes, and how often it allocates.
//!
//! Separate from `throughput`, where they drown in the broker's and the kernel's time. Only what the library offers to its
//! callers is measured: the classification of DingTalk's answers, the routing keys of the delay levels and the card's name
//! (`outTrackId`) are private to their parts. The card's name is a hash as [`dingcard::ledger::key`] is one, which stands
//! here for it; the others cost a job that is delivered nothing, or show in the profile of `throughput`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use dingcard::amqp::{Headers, Names, Queue, published_at};
use dingcard::job::Job;
use dingcard::ledger;
use dingcard::metrics::Metrics;
use dingcard::outcome::{Outcome, Reason};
use dingcard::slice::Slices;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};

const ONE: &str = r#"{"id":"overtime-2023-03-30-team7","to":[{"mobile":"15012341231"}],"params":{"pv":2000,"users":"1000","comments":"500","likes":"200"}}"#;

fn with_recipients(count: u64) -> String {
    let to: Vec<String> = (0..count)
        .map(|n| format!(r#"{{"mobile":"{}"}}"#, 15_000_000_000 + n))
        .collect();
    ONE.replace(r#"{"mobile":"15012341231"}"#, &to.join(","))
}

/// Properties as a careful producer sets them.
fn properties() -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("timestamp_in_ms".into(), AMQPValue::LongLongInt(1_680_172_200_000));
    headers.insert("origin".into(), AMQPValue::LongString("payroll".into()));
    BasicProperties::default().with_delivery_mode(2).with_headers(headers)
}

/// What a job of one recipient counts when it is delivered.
fn count_one_delivery(metrics: &Metrics) {
    let took = Duration::from_millis(20);
    metrics.jobs_in_flight.inc();
    metrics.queue_wait("default", took);
    metrics.rate_limit_wait("default", took);
    metrics.rate_limit("default", 15.0);
    metrics.api_request("default", "createAndDeliver", None, took);
    metrics.recipients("default", Outcome::Delivered, Reason::None, 1);
    metrics.end_to_end("default", took);
    metrics.job("default", Outcome::Delivered);
    metrics.jobs_in_flight.dec();
}

/// Says how often `work` allocates and how much, and measures how long it takes.
fn measure<T>(criterion: &mut Criterion, name: &str, mut work: impl FnMut() -> T) {
    // The first time may fill what later ones find.
    black_box(work());
    let info = allocation_counter::measure(|| {
        black_box(work());
    });
    println!(
        "{name:<40} {} allocations, {} bytes in all, {} at once",
        info.count_total, info.bytes_total, info.bytes_max
    );
    criterion.bench_function(name, |bencher| bencher.iter(|| black_box(work())));
}

fn hot_path(criterion: &mut Criterion) {
    let twenty = with_recipients(20);
    let thousand = with_recipients(1000);
    measure(criterion, "decode, 1 recipient", || {
        Job::decode(black_box(ONE.as_bytes()), None)
    });
    measure(criterion, "decode, 20 recipients", || {
        Job::decode(black_box(twenty.as_bytes()), None)
    });
    measure(criterion, "decode, 1,000 recipients", || {
        Job::decode(black_box(thousand.as_bytes()), None)
    });

    let properties = properties();
    measure(criterion, "headers of a new job", || {
        (
            Headers::read(black_box(&properties)),
            published_at(black_box(&properties)),
        )
    });

    measure(criterion, "slices of 1 recipient", || {
        Slices::cut(black_box(1), 20, |_| false)
    });
    measure(criterion, "slices of 1,000 recipients", || {
        Slices::cut(black_box(1000), 20, |_| false)
    });
    measure(criterion, "open positions from a header", || {
        Slices::parse(black_box("0-19;20-38?;40-59+44,51;60-79:61-79"), 100)
    });

    let names = Names::new("dingcard");
    let queue = Queue::Jobs("sales".to_owned());
    measure(criterion, "name of a queue", || names.queue(black_box(&queue)));
    measure(criterion, "queue of a name", || {
        names.parse(black_box("dingcard.jobs.sales"))
    });

    measure(criterion, "key of a recipient (SHA-256)", || {
        ledger::key(black_box(&["default", "overtime-2023-03-30-team7", "user", "manager7"]))
    });

    let metrics = Metrics::new(&["default"]).unwrap();
    metrics.expect_calls("default", &["createAndDeliver"]);
    measure(criterion, "metrics of one delivery", || {
        count_one_delivery(black_box(&metrics));
    });
    measure(criterion, "the page of metrics", || metrics.page());
}

criterion_group!(benches, hot_path);
criterion_main!(benches);
