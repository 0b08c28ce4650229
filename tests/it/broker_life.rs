//! Killing things in the middle: the broker, the worker, the queue. Nothing is lost, nobody is told twice.

use std::time::Duration;

use serde_json::json;

use crate::broker::Broker;
use crate::delivery::single_jobs;
use crate::producers::dead_letters;
use crate::stand::{PATIENCE, Stand, shared_broker, wait_until};

#[test]
fn a_broker_killed_in_the_middle_of_twenty_thousand_jobs_loses_none_and_the_worker_goes_on() {
    let broker = Broker::start();
    let stand = Stand::on(broker.url());
    let mut worker = stand.worker();
    stand.publish_lines(single_jobs(0, 20_000));
    wait_until("a quarter is delivered", || {
        (worker.jobs("delivered") >= 5_000.0).then_some(())
    });
    broker.kill();
    wait_until("the worker is not ready", || (worker.ready().0 == 503).then_some(()));
    broker.restart();
    wait_until("all delivered", || {
        (worker.recipients("delivered", "none") >= 20_000.0).then_some(())
    });
    wait_until("the queue is empty", || {
        (broker.messages(&stand.queue("jobs")) == 0).then_some(())
    });
    let deliveries = &stand.calls()["deliveries"];
    assert_eq!(
        (&deliveries["total"], &deliveries["recipients"]),
        (&json!(20_000), &json!(20_000))
    );
    assert_eq!(
        worker.recipients("delivered", "none") + worker.recipients("delivered", "unconfirmed"),
        20_000.0
    );
    assert_eq!(
        (
            worker.jobs("dead"),
            worker.metric("dingcard_broker_reconnects_total", &[])
        ),
        (0.0, 1.0)
    );
    assert_eq!(worker.ready().0, 200);
    wait_until("no job is in work for good", || {
        (worker.metric("dingcard_jobs_in_flight", &[]) == 0.0).then_some(())
    });
    worker.process.terminate();
    assert_eq!(worker.process.wait(PATIENCE), Ok(0));
}

#[test]
fn a_worker_killed_in_the_middle_loses_nothing_and_repeats_nothing() {
    let stand = Stand::new().with("AMQP__PREFETCH", "32");
    stand.faults(&json!([{"kind": "latency", "ms": 20}]));
    let mut first = stand.worker();
    stand.publish_lines(single_jobs(0, 1_000));
    wait_until("some are delivered", || {
        (first.jobs("delivered") >= 200.0).then_some(())
    });
    first.process.kill();
    let second = stand.worker();
    let delivered = || stand.calls()["deliveries"].clone();
    wait_until("all delivered", || {
        (delivered()["recipients"] == json!(1_000)).then_some(())
    });
    wait_until("nothing is left", || {
        (shared_broker().messages(&stand.queue("jobs")) == 0).then_some(())
    });
    assert_eq!(delivered()["total"], json!(1_000));
    assert_eq!(second.jobs("dead"), 0.0);
}

#[test]
fn a_job_in_work_is_not_acknowledged_with_those_that_came_after_it() {
    let stand = Stand::new().with("AMQP__PREFETCH", "32");
    let mut first = stand.worker();
    stand.faults(&json!([{"kind": "latency", "endpoint": "createAndDeliver", "ms": 9000}]));
    stand.publish_lines(single_jobs(0, 1));
    wait_until("the first is looked up", || {
        (stand.calls_to("getbymobile") == 1).then_some(())
    });
    wait_until("the first is in work", || {
        (first.metric("dingcard_jobs_in_flight", &[]) == 1.0).then_some(())
    });
    stand.faults(&json!([]));
    stand.publish_lines(single_jobs(1, 500));
    first.wait_for_jobs("delivered", 500);
    wait_until("the broker has one left", || {
        (shared_broker().messages(&stand.queue("jobs")) == 1).then_some(())
    });
    first.process.kill();
    let second = stand.worker();
    wait_until("the broker gave it to another", || {
        (second.jobs("delivered") + second.jobs("duplicate") == 1.0).then_some(())
    });
}

#[test]
fn a_worker_told_to_stop_finishes_what_is_in_work_and_gives_the_rest_back() {
    let stand = Stand::new();
    stand.faults(&json!([{"kind": "latency", "ms": 300}]));
    let mut first = stand.worker();
    stand.publish_lines(single_jobs(0, 300));
    wait_until("some are in work", || {
        (first.metric("dingcard_jobs_in_flight", &[]) > 0.0).then_some(())
    });
    first.process.terminate();
    assert_eq!(first.process.wait(PATIENCE), Ok(0));
    let last = first.wait_for_line("stopped");
    assert!(last.contains("given_back=0"), "{last}");
    let second = stand.worker();
    wait_until("all delivered", || {
        (stand.calls()["deliveries"]["recipients"] == json!(300)).then_some(())
    });
    assert_eq!(stand.calls()["deliveries"]["total"], json!(300));
    assert_eq!(
        second.recipients("delivered", "unconfirmed"),
        0.0,
        "nothing was given up in a call"
    );
}

#[test]
fn a_queue_deleted_under_the_worker_is_made_anew_and_consumed() {
    let broker = Broker::start();
    let stand = Stand::on(broker.url());
    let worker = stand.worker();
    broker.ctl(&["delete_queue", &stand.queue("jobs")]);
    wait_until("the worker consumes again", || {
        (worker.metric("dingcard_broker_reconnects_total", &[]) >= 1.0 && worker.ready().0 == 200).then_some(())
    });
    stand.publish(&["--user-id", "a"]);
    worker.wait_for_jobs("delivered", 1);
}

/// A minority of a cluster: connections stay, and no queue can commit anything. That its process stands still is all that
/// a node sees of a queue that waits for the others.
#[test]
fn a_worker_whose_queues_have_no_quorum_is_not_ready_and_keeps_its_session() {
    let stand = Stand::new();
    let worker = stand.worker();
    let raft = |verb: &str| {
        for queue in ["jobs", "urgent", "suspect"] {
            let process = format!("'%2F_{}'", stand.queue(queue));
            shared_broker().ctl(&["eval", &format!("sys:{verb}({process}).")]);
        }
    };
    assert_eq!(worker.ready().0, 200);
    raft("suspend");
    wait_until("the reason is told", || {
        let (status, body) = worker.ready();
        (status == 503 && body["reasons"][0].as_str().is_some_and(|r| r.contains("quorum"))).then_some(())
    });
    assert_eq!(worker.metric("dingcard_consuming", &[]), 0.0);
    raft("resume");
    wait_until("the worker is ready", || (worker.ready().0 == 200).then_some(()));
    stand.publish(&["--user-id", "a"]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(worker.metric("dingcard_broker_reconnects_total", &[]), 0.0);
}

#[test]
fn where_the_worker_may_not_declare_it_waits_unready_until_the_topology_is_there() {
    let stand = Stand::new().with("AMQP__TOPOLOGY", "verify");
    let worker = stand.starting_worker();
    wait_until("the reason is told", || {
        let (status, body) = worker.ready();
        (status == 503 && body["reasons"][0].as_str().is_some_and(|r| r.contains("topology"))).then_some(())
    });
    let declaring = Stand::new().with("AMQP__NAMESPACE", &stand.namespace);
    assert!(declaring.run(&["topology"], "").status.success());
    worker.wait_for_line("consuming");
}

#[test]
fn a_message_that_ends_every_worker_is_dead_after_five_and_takes_no_other_with_it() {
    let stand = Stand::new().with_second_app().with("AMQP__PREFETCH", "16");
    // The killer's call never ends, and each worker that is in it is killed.
    stand.faults(&json!([{"kind": "latency", "ms": 600_000, "app": "dingsandbox2"}]));
    stand.publish(&[
        "--id",
        "killer",
        "--app",
        "sales",
        "--template",
        "t",
        "--user-id",
        "killer",
    ]);
    stand.publish_lines(single_jobs(0, 100));
    let mut crashes = 0;
    let worker = loop {
        let mut worker = stand.worker();
        let dead = wait_until("the killer alone is in work, or dead", || {
            let others = stand.calls()["deliveries"]["recipients"] == json!(100);
            // A look at a message that is only moved on is over in a moment; one that is in its call is not.
            let in_its_call = (0..10).all(|_| {
                std::thread::sleep(Duration::from_millis(50));
                worker.metric("dingcard_jobs_in_flight", &[]) == 1.0
            });
            let dead = worker.jobs("dead") == 1.0;
            (dead || (others && in_its_call)).then_some(dead)
        });
        if dead {
            break worker;
        }
        worker.process.kill();
        worker.process.wait(PATIENCE).unwrap();
        crashes += 1;
    };
    assert!(crashes <= 5, "the killer ended {crashes} workers");
    let letters = dead_letters(&stand, 1);
    assert_eq!(
        (
            letters[0].message_id.as_str(),
            letters[0].header("dingcard-reason").as_str()
        ),
        ("killer", "delivery_limit")
    );
    assert_eq!(letters[0].header("dingcard-queue"), stand.queue("jobs.sales"));
    assert_eq!(worker.metric("dingcard_dead_letters_total", &[]), 1.0);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(100));
}
