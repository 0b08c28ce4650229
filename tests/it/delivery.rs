//! Jobs that go well: everybody gets the card, once, and the metrics say so.

use serde_json::json;

use crate::stand::{Stand, wait_until};

/// `count` jobs, each to a mobile of its own.
pub fn single_jobs(first: usize, count: usize) -> impl Iterator<Item = serde_json::Value> {
    (first..first + count).map(|n| {
        let mobile = format!("150{:08}", n * 10 + 5);
        json!({"id": format!("job-{n}"), "to": [{"mobile": mobile}], "params": {"pv": n}})
    })
}

#[test]
fn twenty_thousand_jobs_are_delivered_each_recipient_once_and_counted_alike() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.publish_lines(single_jobs(0, 20_000));
    worker.wait_for_jobs("delivered", 20_000);
    let deliveries = &stand.calls()["deliveries"];
    assert_eq!(
        (&deliveries["total"], &deliveries["recipients"]),
        (&json!(20_000), &json!(20_000))
    );
    assert_eq!(deliveries["duplicates"], json!(0));
    assert_eq!(worker.recipients("delivered", "none"), 20_000.0);
    assert_eq!(worker.metric("dingcard_end_to_end_seconds_count", &[]), 20_000.0);
    assert_eq!(worker.metric("dingcard_jobs_in_flight", &[]), 0.0);
    for outcome in ["dead", "retried", "expired", "duplicate"] {
        assert_eq!(worker.jobs(outcome), 0.0, "{outcome}");
    }
}

#[test]
fn one_job_to_many_of_every_kind_takes_one_call_for_each_twenty() {
    let stand = Stand::new();
    let worker = stand.worker();
    let mut to: Vec<_> = (0..30)
        .map(|n| json!({"mobile": format!("1501234{:04}", n + 5000)}))
        .collect();
    to.push(json!({"user_id": "manager7"}));
    to.push(json!({"user_id": "manager7"}));
    to.push(json!({"mobile": "+86 150-1234-5000"}));
    to.push(json!({"conversation": "cidAbC=="}));
    stand.publish_lines([json!({"to": to, "params": {"pv": 2000, "users": "1000"}})]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(worker.recipients("delivered", "none"), 32.0);
    assert_eq!(
        worker.recipients("duplicate", "none"),
        2.0,
        "a repeated user and a second notation of a number"
    );
    assert_eq!(stand.calls_to("createAndDeliver"), 2);
    assert_eq!(stand.cards()[0]["params"], json!({"pv": "2000", "users": "1000"}));
}

#[test]
fn three_workers_share_one_queue() {
    let stand = Stand::new().with("AMQP__PREFETCH", "8");
    stand.faults(&json!([{"kind": "latency", "ms": 20}]));
    let workers = [stand.worker(), stand.worker(), stand.worker()];
    stand.publish_lines(single_jobs(0, 600));
    let delivered = || workers.iter().map(|w| w.jobs("delivered")).collect::<Vec<_>>();
    wait_until("600 delivered", || {
        (delivered().iter().sum::<f64>() >= 600.0).then_some(())
    });
    assert!(delivered().iter().all(|share| *share > 0.0), "{:?}", delivered());
    assert_eq!(stand.calls()["deliveries"]["total"], json!(600));
}

#[test]
fn a_job_for_a_second_app_reaches_its_queue_and_its_robot_however_it_was_published() {
    let stand = Stand::new().with_second_app();
    let worker = stand.worker();
    stand.publish(&["--app", "sales", "--template", "t", "--user-id", "a"]);
    let misplaced = json!({"id": "m", "app": "sales", "template": "t", "to": [{"user_id": "b"}]}).to_string();
    crate::producers::publish_raw(&stand, "jobs", misplaced.as_bytes());
    wait_until("both delivered", || {
        (worker.metric("dingcard_jobs_total", &[("app", "sales"), ("outcome", "delivered")]) >= 2.0).then_some(())
    });
    assert!(
        stand.cards().iter().all(|card| card["app_key"] == "dingsandbox2"),
        "{:?}",
        stand.cards()
    );
}

#[test]
fn the_original_scripts_call_is_served_three_mobiles_one_template_four_parameters() {
    let stand = Stand::new()
        .with("APPS__DEFAULT__CARD_API", "interactive")
        .with("APPS__DEFAULT__TOKEN_API", "gettoken");
    let worker = stand.worker();
    stand.publish(&[
        "--mobile",
        "15012341231",
        "--mobile",
        "15012341232",
        "--mobile",
        "15012341233",
        "--template",
        "d7ca9b85-1a26-4c88-95eb-3a4d0a4a3a4c",
        "--param",
        "pv=2000",
        "--param",
        "users=1000",
        "--param",
        "comments=500",
        "--param",
        "likes=200",
    ]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(stand.calls_to("gettoken"), 1);
    assert_eq!(stand.calls_to("interactiveCards.send"), 1);
    let card = &stand.cards()[0];
    assert_eq!(
        (&card["api"], card["deliveries"].as_array().unwrap().len()),
        (&json!("interactive"), 3)
    );
    assert_eq!(
        card["params"],
        json!({"pv": "2000", "users": "1000", "comments": "500", "likes": "200"})
    );
}

#[test]
fn a_job_published_twice_shows_its_card_once() {
    let stand = Stand::new();
    let workers = [stand.worker(), stand.worker()];
    for _ in 0..5 {
        stand.publish(&["--id", "same", "--mobile", "15012341231"]);
    }
    let total = |outcome: &str| workers.iter().map(|w| w.jobs(outcome)).sum::<f64>();
    wait_until("five settled", || {
        (total("delivered") + total("duplicate") >= 5.0).then_some(())
    });
    assert_eq!((total("delivered"), total("duplicate")), (1.0, 4.0));
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn an_update_changes_the_cards_of_the_earlier_job_and_shows_none() {
    for api in ["instances", "interactive"] {
        let stand = Stand::new().with("APPS__DEFAULT__CARD_API", api);
        let worker = stand.worker();
        let to = ["--mobile", "15012341231", "--user-id", "b"];
        stand.publish(&[&["--id", "first", "--param", "pv=1", "--param", "users=7"][..], &to].concat());
        worker.wait_for_jobs("delivered", 1);
        stand.publish(&[&["--update-of", "first", "--param", "pv=2"][..], &to].concat());
        worker.wait_for_jobs("delivered", 2);
        assert_eq!(stand.cards().len(), 1);
        assert_eq!(
            stand.cards()[0]["params"],
            json!({"pv": "2", "users": "7"}),
            "{api}: merged by key"
        );
        assert_eq!(stand.calls()["deliveries"]["total"], json!(2));
    }
}

#[test]
fn an_early_job_waits_in_the_broker_and_a_late_one_is_never_sent() {
    let stand = Stand::new();
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let past = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(1);
    stand.publish(&["--user-id", "early", "--not-before", &soon.to_string()]);
    stand.publish(&["--user-id", "late", "--expires-at", &past.to_string()]);
    let worker = stand.worker();
    worker.wait_for_jobs("expired", 1);
    worker.wait_for_jobs("delivered", 1);
    assert!(jiff::Timestamp::now() >= soon, "not sent before its time");
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
    assert_eq!(worker.recipients("expired", "none"), 1.0);
    assert_eq!(worker.jobs("retried"), 0.0, "waiting for its time is no retry");
}
