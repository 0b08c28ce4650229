//! Results: what a producer is told of its job.

use serde_json::{Value, json};

use crate::producers::dead_letters;
use crate::stand::{Stand, wait_until};

/// What `publish --wait` prints, and its exit code.
fn wait_for_results(stand: &Stand, args: &[&str], input: &str) -> (Vec<Value>, Option<i32>) {
    let args: Vec<&str> = ["publish", "--wait"].into_iter().chain(args.iter().copied()).collect();
    let output = stand.run(&args, input);
    let text = String::from_utf8(output.stdout).unwrap();
    let results = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (results, output.status.code())
}

/// Each recipient, as `position outcome reason`.
fn told(result: &Value) -> Vec<String> {
    let recipients = result["recipients"].as_array().unwrap();
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let line = |r: &Value| format!("{} {} {}", r["position"], word(&r["outcome"]), word(&r["reason"]));
    recipients.iter().map(line).collect()
}

#[test]
fn who_waits_is_told_of_each_recipient_and_the_exit_code_says_whether_all_were_reached() {
    let stand = Stand::new();
    let _worker = stand.worker();
    let (results, code) = wait_for_results(
        &stand,
        &["--id", "good", "--user-id", "a", "--mobile", "15012341231"],
        "",
    );
    assert_eq!(code, Some(0));
    assert_eq!(results.len(), 1);
    assert_eq!((&results[0]["id"], &results[0]["open"]), (&json!("good"), &json!(0)));
    assert_eq!(told(&results[0]), ["0 delivered none", "1 delivered none"]);
    assert!(results[0]["recipients"][0]["carrier_id"].is_string(), "{}", results[0]);

    let (results, code) = wait_for_results(&stand, &["--user-id", "a", "--mobile", "15012340000"], "");
    assert_eq!(code, Some(1));
    assert_eq!(told(&results[0]), ["0 dead user_not_found", "1 delivered none"]);
    assert_eq!(results[0]["reason"], "user_not_found");
}

#[test]
fn each_attempt_tells_who_became_final_in_it_and_how_many_are_left() {
    let stand = Stand::new()
        .with("RETRY__IMMEDIATE", "0")
        .with("APPS__DEFAULT__RECIPIENTS_PER_CALL", "1");
    let _worker = stand.worker();
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 1}]));
    let (results, code) = wait_for_results(&stand, &["--user-id", "a", "--user-id", "b"], "");
    assert_eq!(code, Some(0), "{results:?}");
    assert_eq!(results.len(), 2, "{results:?}");
    let first = (&results[0]["attempt"], &results[0]["open"], &results[0]["reason"]);
    assert_eq!(first, (&json!(1), &json!(1), &json!("server_error")));
    assert_eq!((&results[1]["attempt"], &results[1]["open"]), (&json!(2), &json!(0)));
    let mut all: Vec<String> = results.iter().flat_map(told).collect();
    all.sort_unstable();
    assert_eq!(all, ["0 delivered none", "1 delivered none"], "each once");
}

#[test]
fn many_jobs_are_waited_for_together() {
    let stand = Stand::new();
    let _worker = stand.worker();
    let jobs: Vec<String> = (0..50)
        .map(|n| json!({"id": format!("j{n}"), "to": [{"user_id": format!("u{n}")}]}).to_string())
        .collect();
    let (results, code) = wait_for_results(&stand, &["--file", "-"], &jobs.join("\n"));
    assert_eq!((results.len(), code), (50, Some(0)));
    let late = json!({"id": "late", "to": [{"user_id": "u"}], "expires_at": "2020-01-01T00:00:00Z"}).to_string();
    let (results, code) = wait_for_results(&stand, &["--file", "-"], &late);
    assert_eq!((told(&results[0]), code), (vec!["0 expired none".to_owned()], Some(1)));
}

#[test]
fn a_reply_to_that_leads_nowhere_or_among_the_jobs_costs_nothing_but_the_result() {
    let stand = Stand::new();
    let worker = stand.worker();
    for reply_to in ["no such queue", &stand.queue("jobs"), &stand.queue("dead")] {
        crate::producers::publish_for_reply(&stand, br#"{"to":[{"user_id":"a"}]}"#, reply_to);
    }
    worker.wait_for_jobs("delivered", 3);
    // Whatever came into the jobs would be dead by then: it is no job, and it would have come first.
    stand.publish(&["--mobile", "15012340000"]);
    worker.wait_for_jobs("dead", 1);
    assert_eq!(dead_letters(&stand, 1).len(), 1);
    assert_eq!(worker.jobs("dead"), 1.0);
    wait_until("the session still stands", || (worker.ready().0 == 200).then_some(()));
}
