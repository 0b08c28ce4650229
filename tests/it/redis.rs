//! Workers that share a Redis, and what becomes of them when it goes: slower, never wrong.

use serde_json::json;

use crate::delivery::single_jobs;
use crate::redis_server::RedisServer;
use crate::stand::{PATIENCE, Stand, Worker, wait_until};

fn sharing(server: &RedisServer) -> Stand {
    Stand::new().with("REDIS__URL", &server.url())
}

fn total(workers: &[Worker], outcome: &str) -> f64 {
    workers.iter().map(|worker| worker.jobs(outcome)).sum()
}

fn wait_for_total(workers: &[Worker], outcome: &str, count: f64) {
    wait_until(&format!("{count} jobs {outcome}"), || {
        (total(workers, outcome) >= count).then_some(())
    });
}

fn connected(worker: &Worker) -> f64 {
    worker.metric("dingcard_redis_connected", &[])
}

fn wait_for_connection(worker: &Worker, state: f64) {
    wait_until("redis to come or go", || (connected(worker) == state).then_some(()));
}

/// Lines of the worker's log that hold `text`.
fn told(worker: &Worker, text: &str) -> usize {
    worker.process.lines().iter().filter(|line| line.contains(text)).count()
}

#[test]
fn on_interactive_cards_a_copy_that_another_worker_gets_later_shows_no_second_card() {
    let server = RedisServer::start();
    let stand = sharing(&server).with("APPS__DEFAULT__CARD_API", "interactive");
    let mut first = stand.worker();
    let copy = || stand.publish(&["--id", "same", "--mobile", "15012341231", "--conversation", "cidAbC=="]);
    copy();
    first.wait_for_jobs("delivered", 1);
    first.process.terminate();
    assert_eq!(first.process.wait(PATIENCE), Ok(0));
    let workers = [stand.worker(), stand.worker()];
    for _ in 0..4 {
        copy();
    }
    wait_for_total(&workers, "duplicate", 4.0);
    assert_eq!(
        stand.calls()["deliveries"]["total"],
        json!(2),
        "a card to the user and one to the group"
    );
    assert_eq!(total(&workers, "delivered"), 0.0);
}

#[test]
fn what_one_worker_looked_up_the_next_one_knows_and_what_it_keeps_there_names_nobody() {
    let server = RedisServer::start();
    let stand = sharing(&server);
    let mobiles: Vec<_> = (0..30).map(|n| format!("1501234{:04}", n + 5000)).collect();
    let unknown = "15012340000";
    let to: Vec<_> = mobiles.iter().map(String::as_str).chain([unknown]).collect();
    let to: Vec<_> = to.iter().map(|mobile| json!({"mobile": mobile})).collect();
    let mut first = stand.worker();
    stand.publish_lines([json!({"id": "a", "to": to})]);
    first.wait_for_jobs("dead", 1);
    first.process.terminate();
    assert_eq!(first.process.wait(PATIENCE), Ok(0));
    let second = stand.worker();
    stand.publish_lines([json!({"id": "b", "to": to})]);
    second.wait_for_jobs("dead", 1);
    assert_eq!(stand.calls_to("getbymobile"), 31);
    assert_eq!(stand.calls_to("accessToken"), 1);
    let looked_up = |result| second.metric("dingcard_user_cache_total", &[("result", result)]);
    assert_eq!(
        (looked_up("hit"), looked_up("negative_hit"), looked_up("miss")),
        (30.0, 1.0, 0.0)
    );
    let entries = server.entries();
    assert!(
        entries
            .iter()
            .all(|(key, _)| key.starts_with(&format!("{}:", stand.namespace))),
        "{entries:?}"
    );
    let token = entries.iter().find(|(key, _)| key.contains(":token:")).unwrap();
    let token = token.1.split(' ').next_back().unwrap();
    for (key, value) in &entries {
        // The sandbox's user of a mobile is named after it; that is the user ID, not the mobile.
        let value = value.trim_start_matches("+u");
        assert!(
            !to.iter().any(|one| key.contains(one["mobile"].as_str().unwrap())),
            "{key}"
        );
        assert!(!value.contains(unknown), "{value}");
    }
    for line in first.process.lines().iter().chain(&second.process.lines()) {
        assert!(!line.contains(token), "{line}");
    }
}

#[test]
fn ten_thousand_jobs_to_a_thousand_mobiles_cost_four_workers_about_a_thousand_look_ups() {
    let server = RedisServer::start();
    let stand = sharing(&server).with("AMQP__PREFETCH", "16");
    let workers = [stand.worker(), stand.worker(), stand.worker(), stand.worker()];
    let job = |n| json!({"to": [{"mobile": format!("1501234{:04}", n % 1000 + 5000)}]});
    stand.publish_lines((0..10_000).map(job));
    wait_for_total(&workers, "delivered", 10_000.0);
    let look_ups = stand.calls_to("getbymobile");
    // Each for itself would ask about 3,800 times. On an idle machine a few are asked for twice; on a busy one an answer
    // that comes late costs one more.
    println!("{look_ups} look-ups");
    assert!((1_000..2_000).contains(&look_ups), "{look_ups}");
}

#[test]
fn eight_workers_that_start_at_once_fetch_one_token_and_one_more_when_it_is_refused() {
    let server = RedisServer::start();
    let stand = sharing(&server).with("AMQP__PREFETCH", "4");
    stand.faults(&json!([{"kind": "latency", "ms": 50}]));
    let warm_up = stand.run(&["topology"], "");
    assert!(warm_up.status.success());
    stand.publish_lines(single_jobs(0, 400));
    let workers: Vec<_> = (0..8).map(|_| stand.starting_worker()).collect();
    wait_for_total(&workers, "delivered", 400.0);
    assert!(
        workers.iter().all(|worker| worker.jobs("delivered") > 0.0),
        "all took part"
    );
    assert_eq!(stand.calls_to("accessToken"), 1);

    stand.faults(&json!([{"kind": "latency", "ms": 50}, {"kind": "expire_tokens", "next": 1}]));
    stand.publish_lines(single_jobs(400, 400));
    wait_for_total(&workers, "delivered", 800.0);
    assert_eq!(stand.calls_to("accessToken"), 2);
    assert_eq!(total(&workers, "dead") + total(&workers, "retried"), 0.0);
}

#[test]
fn redis_killed_frozen_and_emptied_in_the_middle_costs_no_job() {
    let mut server = RedisServer::start();
    let stand = sharing(&server).with("AMQP__PREFETCH", "16");
    stand.faults(&json!([{"kind": "latency", "ms": 20}]));
    let workers = [stand.worker(), stand.worker()];
    stand.publish_lines(single_jobs(0, 3_000));
    let goes_on = || {
        let aim = total(&workers, "delivered") + 300.0;
        wait_for_total(&workers, "delivered", aim);
    };
    let all_see = |state| workers.iter().for_each(|worker| wait_for_connection(worker, state));

    goes_on();
    server.kill();
    all_see(0.0);
    goes_on();
    server.restart();
    all_see(1.0);
    goes_on();
    server.pause();
    all_see(0.0);
    goes_on();
    server.resume();
    all_see(1.0);
    goes_on();
    server.flush();
    wait_for_total(&workers, "delivered", 3_000.0);

    let deliveries = &stand.calls()["deliveries"];
    assert_eq!(
        (&deliveries["total"], &deliveries["duplicates"]),
        (&json!(3_000), &json!(0))
    );
    assert_eq!(total(&workers, "dead") + total(&workers, "retried"), 0.0);
    for worker in &workers {
        let lines = ["redis is connected", "redis is away", "redis is back"].map(|text| told(worker, text));
        // Not one for each of some hundred questions; a busy machine may see Redis go once more than it went.
        assert!(
            lines[0] == 1 && (2..=5).contains(&lines[1]) && lines[1] == lines[2],
            "each change is told once: {:?}",
            worker.process.lines()
        );
    }
}

#[test]
fn a_worker_starts_and_delivers_without_its_redis_and_takes_it_up_when_it_comes() {
    let mut server = RedisServer::reserve();
    let stand = sharing(&server);
    let worker = stand.worker();
    stand.publish(&["--mobile", "15012341231"]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!((connected(&worker), worker.ready().0), (0.0, 200));
    server.restart();
    wait_for_connection(&worker, 1.0);
    stand.publish(&["--mobile", "15012341232"]);
    worker.wait_for_jobs("delivered", 2);
    let keys: Vec<_> = server.entries().into_iter().map(|(key, _)| key).collect();
    let kinds = ["ledger", "user"].map(|kind| keys.iter().filter(|key| key.contains(&format!(":{kind}:"))).count());
    assert_eq!(kinds, [1, 1], "{keys:?}");
}

#[test]
fn without_a_redis_there_is_no_gauge_of_it_that_could_raise_an_alarm() {
    let stand = Stand::new();
    assert!(!stand.worker().page().contains("dingcard_redis_connected"));
}
