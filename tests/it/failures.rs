//! Jobs that do not go well: what becomes of them, and what is said.

use serde_json::json;

use crate::delivery::single_jobs;
use crate::producers::{dead_letters, publish_raw};
use crate::stand::{PATIENCE, Stand, shared_broker, wait_until};

#[test]
fn a_message_that_is_no_job_is_dead_at_once_with_the_path_of_its_fault() {
    let stand = Stand::new();
    let worker = stand.worker();
    let malformed = br#"{"to":[{"user_id":"a"},{"user_id":"b"},{"mobile":15012341231}]}"#;
    publish_raw(&stand, "jobs", malformed);
    worker.wait_for_jobs("dead", 1);
    let letter = dead_letters(&stand, 1).remove(0);
    assert_eq!(letter.body, malformed, "the body as the producer wrote it");
    assert_eq!(letter.header("dingcard-reason"), "invalid_job");
    assert!(
        letter.header("dingcard-detail").starts_with("to[2].mobile: "),
        "{}",
        letter.header("dingcard-detail")
    );
    assert_eq!(letter.header("dingcard-queue"), stand.queue("jobs"));
    assert_eq!(
        worker.metric("dingcard_dead_letters_total", &[("reason", "invalid_job")]),
        1.0
    );
}

#[test]
fn who_cannot_be_reached_is_named_in_one_dead_letter_and_the_others_get_the_card() {
    let stand = Stand::new();
    let worker = stand.worker();
    let mut to: Vec<_> = (0..30)
        .map(|n| json!({"mobile": format!("1501234{:04}", n + 5000)}))
        .collect();
    to[3] = json!({"mobile": "15012340000"});
    to[17] = json!({"mobile": "15012350000"});
    to[20] = json!({"mobile": "no number"});
    to[25] = json!({"user_id": "x0000"});
    stand.publish_lines([json!({"id": "j", "to": to})]);
    worker.wait_for_jobs("dead", 1);
    let letter = dead_letters(&stand, 1).remove(0);
    assert_eq!(
        letter.header("dingcard-failed"),
        "user_not_found=3,17,25;mobile_invalid=20"
    );
    assert_eq!(letter.message_id, "j");
    assert_eq!(worker.recipients("delivered", "none"), 26.0);
    assert_eq!(worker.recipients("dead", "user_not_found"), 3.0);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(26));
}

#[test]
fn one_bad_recipient_among_twenty_on_interactive_cards_costs_only_itself() {
    let stand = Stand::new().with("APPS__DEFAULT__CARD_API", "interactive");
    let worker = stand.worker();
    let mut to: Vec<_> = (0..20).map(|n| json!({"user_id": format!("user{n}")})).collect();
    to[7] = json!({"user_id": "x0000"});
    to.push(json!({"conversation": "cid0000"}));
    to.push(json!({"conversation": "cidGood"}));
    stand.publish_lines([json!({"to": to})]);
    worker.wait_for_jobs("dead", 1);
    let letter = dead_letters(&stand, 1).remove(0);
    assert_eq!(
        letter.header("dingcard-failed"),
        "user_not_found=7;conversation_invalid=20"
    );
    assert_eq!(stand.calls()["deliveries"]["total"], json!(20));
    assert_eq!(stand.calls()["deliveries"]["duplicates"], json!(0));
}

#[test]
fn an_app_that_takes_one_recipient_a_call_gets_one_a_call_from_then_on() {
    let one = [("DINGCARD_SANDBOX__ASSUME__ONE_RECEIVER_PER_CHAT", "true")];
    let stand = Stand::with_sandbox(shared_broker().url(), &one).with("APPS__DEFAULT__CARD_API", "interactive");
    let worker = stand.worker();
    let job = |name: &str| {
        let to: Vec<_> = (0..8).map(|n| json!({"user_id": format!("{name}{n}")})).collect();
        stand.publish_lines([json!({"to": to})]);
    };
    job("a");
    worker.wait_for_jobs("delivered", 1);
    worker.wait_for_line("it gets one a call from now on");
    let calls = stand.calls_to("interactiveCards.send");
    job("b");
    worker.wait_for_jobs("delivered", 2);
    assert_eq!(stand.calls_to("interactiveCards.send") - calls, 8, "none in vain");
    assert_eq!(stand.calls()["deliveries"]["total"], json!(16));
    assert_eq!(stand.calls()["deliveries"]["duplicates"], json!(0));
}

#[test]
fn jobs_that_no_configuration_can_serve_are_dead_with_the_reason() {
    let stand = Stand::new()
        .with("TEMPLATES__STRICT__ID", "tpl")
        .with("TEMPLATES__STRICT__REQUIRED", r#"["pv"]"#);
    let worker = stand.worker();
    publish_raw(&stand, "jobs", br#"{"app":"nobody","to":[{"user_id":"a"}]}"#);
    stand.publish(&["--template", "tpl0000", "--user-id", "a"]);
    stand.publish(&["--template", "strict", "--user-id", "a", "--param", "users=1"]);
    worker.wait_for_jobs("dead", 3);
    let mut reasons: Vec<_> = dead_letters(&stand, 3)
        .iter()
        .map(|l| l.header("dingcard-reason"))
        .collect();
    reasons.sort();
    assert_eq!(reasons, ["params_invalid", "template_invalid", "unknown_app"]);
}

#[test]
fn a_passing_fault_is_retried_at_once_and_a_longer_one_by_the_broker() {
    let stand = Stand::new().with("RETRY__IMMEDIATE", "1");
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 1}]));
    stand.publish(&["--user-id", "a"]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(worker.jobs("retried"), 0.0);
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 4}]));
    stand.publish(&["--user-id", "b"]);
    worker.wait_for_jobs("delivered", 2);
    assert_eq!(worker.recipients("retried", "server_error"), 2.0);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(2));
}

#[test]
fn when_every_attempt_fails_the_job_is_dead_with_the_last_reason_told() {
    let stand = Stand::new()
        .with("RETRY__IMMEDIATE", "0")
        .with("RETRY__MAX_ATTEMPTS", "2");
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503}]));
    stand.publish(&["--user-id", "a"]);
    worker.wait_for_jobs("dead", 1);
    let letter = dead_letters(&stand, 1).remove(0);
    assert_eq!(letter.header("dingcard-reason"), "attempts_exhausted");
    assert!(
        letter.header("dingcard-detail").contains("server_error"),
        "{}",
        letter.header("dingcard-detail")
    );
    assert_eq!(letter.header("dingcard-open"), "0?", "a 503 may have been executed");
}

#[test]
fn a_lost_answer_shows_the_card_once_and_counts_as_unconfirmed() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "lose_answer", "endpoint": "createAndDeliver", "next": 1}]));
    stand.publish(&["--user-id", "a"]);
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(worker.recipients("delivered", "unconfirmed"), 1.0);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn who_is_missed_for_an_unknown_cause_is_asked_for_once_more_and_then_dead() {
    let stand = Stand::new();
    let worker = stand.worker();
    let missed = |endpoint: &str, user: &str| json!({"kind": "fail_delivery", "endpoint": endpoint, "space_id": user, "message": "no such word"});
    stand.faults(&json!([
        missed("createAndDeliver", "once"),
        missed("createAndDeliver", "twice"),
        missed("deliver", "twice"),
    ]));
    stand.publish(&["--user-id", "once", "--user-id", "twice", "--user-id", "never"]);
    worker.wait_for_jobs("dead", 1);
    assert_eq!(worker.recipients("retried", "request_refused"), 2.0);
    assert_eq!(worker.recipients("delivered", "none"), 2.0);
    assert_eq!(
        dead_letters(&stand, 1)[0].header("dingcard-failed"),
        "request_refused=1"
    );
    assert_eq!(
        (stand.calls_to("createAndDeliver"), stand.calls_to("deliver")),
        (1, 1),
        "the second call is for those who were missed"
    );
}

#[test]
fn answers_that_are_no_success_are_never_taken_for_one() {
    let stand = Stand::new()
        .with("RETRY__IMMEDIATE", "0")
        .with("RETRY__INITIAL", "100ms");
    let worker = stand.worker();
    let faults = [
        json!({"kind": "garbage", "next": 1}),
        json!({"kind": "html", "status": 502, "next": 1}),
        json!({"kind": "drop_connection", "next": 1}),
    ];
    for (n, mut fault) in (1..).zip(faults) {
        fault["endpoint"] = json!("createAndDeliver");
        stand.faults(&json!([fault]));
        stand.publish(&["--user-id", &format!("user{n}")]);
        worker.wait_for_jobs("retried", n);
        worker.wait_for_jobs("delivered", n);
    }
    assert_eq!(stand.calls()["deliveries"]["total"], json!(3));
}

#[test]
fn a_wrong_secret_holds_the_app_its_jobs_wait_and_delivery_resumes_by_itself() {
    let stand = Stand::new().with_second_app();
    let worker = stand.worker();
    let refused = json!({"kind": "error", "endpoint": "accessToken", "app": "dingsandbox", "status": 400,
        "code": "invalidClientIdOrSecret"});
    stand.faults(&json!([refused]));
    stand.publish_lines(single_jobs(0, 200));
    wait_until("the hold", || {
        (worker.metric(
            "dingcard_app_hold",
            &[("app", "default"), ("reason", "bad_credentials")],
        ) == 1.0)
            .then_some(())
    });
    assert_eq!(worker.ready().0, 200, "a hold is for an alert, not for a rollout");
    assert_eq!(worker.ready().1["holds"], json!({"default": "bad_credentials"}));
    stand.publish(&["--app", "sales", "--template", "t", "--user-id", "a"]);
    wait_until("the other app delivers", || {
        (worker.metric("dingcard_jobs_total", &[("app", "sales"), ("outcome", "delivered")]) == 1.0).then_some(())
    });
    stand.faults(&json!([]));
    wait_until("all delivered", || {
        (worker.recipients("delivered", "none") == 201.0).then_some(())
    });
    assert_eq!(
        (worker.jobs("dead"), worker.metric("dingcard_app_hold", &[])),
        (0.0, 0.0)
    );
    let said: Vec<_> = worker
        .process
        .lines()
        .into_iter()
        .filter(|l| l.contains("the app is on hold: "))
        .collect();
    assert_eq!(said.len(), 1, "one line says what to do: {said:?}");
    assert!(said[0].contains("app_secret"), "{said:?}");
}

#[test]
fn what_was_in_flight_when_a_hold_began_does_not_end_it() {
    let stand = Stand::new().with("AMQP__PREFETCH", "32");
    let worker = stand.worker();
    // The first card takes so long that it is taken after the look-ups of the others were refused.
    let slow = json!({"kind": "latency", "endpoint": "createAndDeliver", "ms": 1500});
    stand.faults(&json!([slow]));
    stand.publish_lines(single_jobs(0, 1));
    wait_until("the look-up", || (stand.calls_to("getbymobile") == 1).then_some(()));
    let refused = json!({"kind": "error", "endpoint": "getbymobile", "errcode": 88, "sub_code": "60011"});
    stand.faults(&json!([slow, refused]));
    stand.publish_lines(single_jobs(1, 20));
    worker.wait_for_line("the app is on hold: ");
    worker.wait_for_jobs("delivered", 1);
    let held = worker.metric("dingcard_app_hold", &[("reason", "permission_missing")]);
    assert_eq!(
        held, 1.0,
        "a card that was looked up before says nothing of the permission"
    );
    stand.faults(&json!([]));
    worker.wait_for_jobs("delivered", 21);
    assert_eq!(worker.jobs("dead"), 0.0);
}

#[test]
fn what_needs_no_look_up_is_delivered_while_look_ups_are_refused_and_does_not_end_the_hold() {
    let stand = Stand::new();
    let worker = stand.worker();
    let refused = json!({"kind": "error", "endpoint": "getbymobile", "errcode": 88, "sub_code": "60011"});
    stand.faults(&json!([refused]));
    stand.publish(&["--mobile", "15012341231"]);
    worker.wait_for_line("the app is on hold: ");
    stand.publish_lines((0..20).map(|n| json!({"to": [{"user_id": format!("user{n}")}]})));
    worker.wait_for_jobs("delivered", 20);
    let held = || worker.metric("dingcard_app_hold", &[("reason", "permission_missing")]);
    assert_eq!(held(), 1.0);
    let released = |line: &&String| line.contains("the app is off hold");
    assert_eq!(
        worker.process.lines().iter().filter(released).count(),
        0,
        "it never was"
    );
    stand.faults(&json!([]));
    worker.wait_for_jobs("delivered", 21);
    assert_eq!(held(), 0.0);
}

#[test]
fn throttling_slows_the_app_and_burns_no_attempt() {
    let stand = Stand::new().with("RETRY__MAX_ATTEMPTS", "1");
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "throttle", "on": true, "per_second": 20}]));
    stand.publish_lines(single_jobs(0, 60));
    worker.wait_for_jobs("delivered", 60);
    assert_eq!((worker.jobs("dead"), worker.jobs("retried")), (0.0, 0.0));
    let throttled = worker.metric("dingcard_api_requests_total", &[("result", "throttle")]);
    assert!(throttled > 0.0, "the sandbox throttled nobody");
}

#[test]
fn jobs_that_get_no_permit_in_time_burn_no_attempt_and_are_not_taken_for_sent() {
    let stand = Stand::new()
        .with("APPS__DEFAULT__RATE_PER_SECOND", "2")
        .with("RETRY__JOB_DEADLINE", "1s")
        .with("RETRY__MAX_ATTEMPTS", "1");
    let worker = stand.worker();
    stand.publish_lines((0..12).map(|n| json!({"to": [{"user_id": format!("user{n}")}]})));
    wait_until("all delivered", || {
        (worker.recipients("delivered", "none") >= 12.0).then_some(())
    });
    assert!(worker.recipients("retried", "deadline") > 0.0, "nobody had to wait");
    assert_eq!(
        (worker.jobs("dead"), worker.recipients("delivered", "unconfirmed")),
        (0.0, 0.0)
    );
    assert_eq!(stand.calls()["deliveries"]["total"], json!(12));
}

#[test]
fn a_paused_app_sends_nothing_and_says_so() {
    let stand = Stand::new().with_second_app().with("APPS__DEFAULT__PAUSED", "true");
    let worker = stand.worker();
    stand.publish(&["--user-id", "a"]);
    stand.publish(&["--app", "sales", "--template", "t", "--user-id", "b"]);
    wait_until("the other app delivers", || {
        (worker.jobs("delivered") >= 1.0).then_some(())
    });
    assert_eq!(worker.ready().1["holds"], json!({"default": "paused"}));
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn no_log_and_no_metric_shows_a_secret_a_token_or_a_mobile() {
    let stand = Stand::new()
        .with("LOG__LEVEL", "debug")
        .with("RETRY__IMMEDIATE", "0")
        .with("RETRY__MAX_ATTEMPTS", "1");
    let worker = stand.worker();
    stand.publish(&["--mobile", "15012340000"]);
    stand.faults(&json!([{"kind": "drop_connection", "endpoint": "getbymobile"}]));
    stand.publish(&["--mobile", "15012341231"]);
    worker.wait_for_jobs("dead", 2);
    let said = worker.process.lines().join("\n") + &worker.page();
    for secret in ["sandbox-secret", "15012340000", "15012341231", "access_token="] {
        assert!(!said.contains(secret), "{secret} was shown");
    }
    for letter in dead_letters(&stand, 2) {
        assert!(
            !letter.header("dingcard-detail").contains("1501234"),
            "{}",
            letter.header("dingcard-detail")
        );
    }
}

#[test]
fn the_last_calls_of_the_month_are_kept_for_urgent_jobs_and_the_others_wait() {
    let stand = Stand::new()
        .with("APPS__DEFAULT__MONTHLY_CALLS", "4")
        .with("APPS__DEFAULT__MONTHLY_RESERVE", "2");
    let worker = stand.worker();
    stand.publish_lines((0..6).map(|n| json!({"to": [{"user_id": format!("user{n}")}]})));
    wait_until("the app keeps the rest", || {
        (worker.metric("dingcard_app_hold", &[("reason", "budget_reserved")]) >= 1.0).then_some(())
    });
    assert_eq!(worker.ready().1["holds"], json!({"default": "budget_reserved"}));
    stand.publish(&["--urgent", "--user-id", "urgent"]);
    wait_until("the urgent job is delivered", || {
        stand
            .cards()
            .iter()
            .any(|card| card.to_string().contains("urgent"))
            .then_some(())
    });
    assert_eq!(worker.jobs("dead"), 0.0);
    // Three, before fewer than two were left, and the urgent one.
    assert_eq!(stand.calls_to("createAndDeliver"), 4);
    assert_eq!(worker.metric("dingcard_month_calls", &[]), 4.0);
    worker.wait_for_line("% of the month's calls are spent");
}

#[test]
fn a_fault_that_repeats_writes_its_first_lines_and_how_many_more_there_were() {
    const DEAD: u64 = 400;
    let stand = Stand::new();
    let mut worker = stand.worker();
    stand
        .publish_lines((0..DEAD).map(|n| json!({"id": format!("d{n}"), "to": [{"mobile": format!("150{n:04}0000")}]})));
    worker.wait_for_jobs("dead", 400);
    assert_eq!(
        worker.metric("dingcard_dead_letters_total", &[("reason", "user_not_found")]),
        400.0
    );
    worker.process.terminate();
    assert_eq!(worker.process.wait(PATIENCE).unwrap(), 0);
    worker.process.wait_for_line("stopped", PATIENCE).unwrap();
    let more = |line: &String| {
        Some(
            line.split_once(" dead: ")?
                .1
                .split_once(" more lines like this")?
                .0
                .parse::<u64>()
                .unwrap(),
        )
    };
    let lines = wait_until("every dead letter in the log", || {
        let lines = worker.process.lines();
        let full = lines.iter().filter(|line| line.contains("dead: the job is")).count() as u64;
        let summed: u64 = lines.iter().filter_map(more).sum();
        (full + summed == DEAD).then_some(lines)
    });
    assert!(lines.iter().any(|line| more(line).is_some()), "{lines:?}");
}
