//! `dingcard send`: cards sent by hand, with nobody but DingTalk to talk to.

use std::process::Output;

use serde_json::{Value, json};

use crate::stand::Stand;

/// A stand whose broker is none.
fn stand() -> Stand {
    Stand::on("amqp://guest:guest@127.0.0.1:1/%2f")
}

/// Each recipient's line, less the job's ID, and the exit code.
fn outcomes(output: &Output) -> (Vec<String>, Option<i32>) {
    let lines = stdout(output);
    let words = |line: &str| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ");
    let of_recipients = lines.lines().filter(|line| line.contains("to[")).map(words);
    (of_recipients.collect(), output.status.code())
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn says(output: &Output, parts: &[&str]) {
    for part in parts {
        assert!(stderr(output).contains(part), "{part} is not in {}", stderr(output));
    }
}

fn lines(jobs: impl IntoIterator<Item = Value>) -> String {
    let jobs = jobs.into_iter().map(|job| job.to_string());
    jobs.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_the_script_did_is_one_line_without_a_broker() {
    for (card_api, call) in [
        ("instances", "createAndDeliver"),
        ("interactive", "interactiveCards.send"),
    ] {
        let stand = stand().with("APPS__DEFAULT__CARD_API", card_api);
        let output = stand.run(
            &[
                "send",
                "--id",
                "o7",
                "--mobile",
                "15012341231",
                "--mobile",
                "+86 150-1234-1232",
                "--template",
                "T",
                "--param",
                "pv=2000",
                "--param",
                "users=1000",
            ],
            "",
        );
        let expected = ["to[0] 150****1231 delivered", "to[1] +86****1232 delivered"];
        assert_eq!(
            outcomes(&output),
            (expected.map(str::to_owned).to_vec(), Some(0)),
            "{}",
            stderr(&output)
        );
        assert!(stdout(&output).ends_with("\n2 delivered\n"), "{}", stdout(&output));
        assert_eq!((stand.calls_to(call), stand.calls_to("getbymobile")), (1, 2));
        let card = &stand.cards()[0];
        assert_eq!(card["params"], json!({"pv": "2000", "users": "1000"}), "{card}");
    }
}

#[test]
fn who_cannot_be_reached_is_told_with_reason_and_remedy_and_the_others_get_the_card() {
    let stand = stand();
    let to = [
        "--mobile",
        "15012340000",
        "--user-id",
        "a",
        "--user-id",
        "x0001",
        "--conversation",
        "cid0000",
    ];
    let output = stand.run(&[&["send", "--mobile", "none"], &to[..]].concat(), "");
    let expected = [
        "to[0] n**** dead mobile_invalid",
        "to[1] 150****0000 dead user_not_found",
        "to[2] a delivered",
        "to[3] x0001 dead user_not_found",
        "to[4] cid0000 dead conversation_invalid",
    ];
    let (mut said, code) = outcomes(&output);
    said.sort();
    assert_eq!((said, code), (expected.map(str::to_owned).to_vec(), Some(1)));
    says(
        &output,
        &[
            "2 user_not_found: getbymobile: 60121",
            "under 通讯录",
            "1 mobile_invalid: n****",
            "1 conversation_invalid: createAndDeliver",
            "add the robot to the group",
        ],
    );
    assert!(!stderr(&output).contains("15012340000"), "{}", stderr(&output));
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn a_card_that_was_sent_before_is_a_duplicate_and_none_is_shown_again() {
    let stand = stand();
    let send = || stand.run(&["send", "--id", "same", "--user-id", "a"], "");
    assert_eq!(outcomes(&send()).0, ["to[0] a delivered"]);
    assert_eq!(outcomes(&send()), (vec!["to[0] a duplicate".to_owned()], Some(0)));
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn an_app_that_can_deliver_nothing_is_found_out_once_and_told_with_its_remedy() {
    let stand = stand()
        .with("APPS__DEFAULT__APP_SECRET", "wrong")
        .with("AMQP__PREFETCH", "4");
    let jobs = lines((0..100).map(|n| json!({"to": [{"user_id": format!("user{n}")}]})));
    let output = stand.run(&["send", "--file", "-"], &jobs);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).ends_with("\n100 open\n"), "{}", stdout(&output));
    says(&output, &["100 bad_credentials", "app_secret", "send again"]);
    assert_eq!(stand.calls_to("accessToken"), 1);
    assert!(!stderr(&output).contains("may have been shown"), "{}", stderr(&output));
}

#[test]
fn passing_trouble_is_waited_for_and_lasting_trouble_ends_it() {
    let stand = stand()
        .with("RETRY__IMMEDIATE", "1")
        .with("RETRY__INITIAL", "10ms")
        .with("RETRY__MAX_ATTEMPTS", "3");
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503, "next": 4}]));
    let output = stand.run(&["send", "--user-id", "a"], "");
    assert_eq!(outcomes(&output), (vec!["to[0] a delivered".to_owned()], Some(0)));
    says(&output, &["trying again", "server_error"]);
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503}]));
    let output = stand.run(&["send", "--user-id", "b"], "");
    assert_eq!(
        outcomes(&output),
        (vec!["to[0] b open server_error".to_owned()], Some(1))
    );
    says(&output, &["1 server_error", "may have been shown"]);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn a_lost_answer_shows_the_card_once() {
    let stand = stand();
    stand.faults(&json!([{"kind": "lose_answer", "endpoint": "createAndDeliver", "next": 1}]));
    let output = stand.run(&["send", "--user-id", "a"], "");
    assert_eq!(
        outcomes(&output),
        (vec!["to[0] a delivered unconfirmed".to_owned()], Some(0))
    );
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn throttling_and_the_pace_are_waited_for_while_somebody_gets_a_card() {
    let throttled = stand();
    throttled.faults(&json!([{"kind": "throttle", "on": true, "per_second": 20}]));
    let jobs = lines((0..60).map(|n| json!({"to": [{"user_id": format!("user{n}")}]})));
    let output = throttled.run(&["send", "--file", "-"], &jobs);
    assert!(
        output.status.success() && stdout(&output).ends_with("\n60 delivered\n"),
        "{}",
        stderr(&output)
    );

    // Far more than fits into one deadline.
    let paced = stand()
        .with("APPS__DEFAULT__RATE_PER_SECOND", "10")
        .with("APPS__DEFAULT__RECIPIENTS_PER_CALL", "1")
        .with("RETRY__JOB_DEADLINE", "500ms");
    let to: Vec<_> = (0..12).map(|n| json!({"user_id": format!("user{n}")})).collect();
    let output = paced.run(&["send", "--file", "-"], &json!({"to": to}).to_string());
    assert!(
        output.status.success() && stdout(&output).ends_with("\n12 delivered\n"),
        "{}",
        stderr(&output)
    );
    assert_eq!(paced.calls()["deliveries"]["total"], json!(12));
}

#[test]
fn an_update_changes_the_card_that_is_there_and_names_the_one_that_is_not() {
    let stand = stand();
    let first = stand.run(
        &[
            "send",
            "--id",
            "first",
            "--user-id",
            "a",
            "--param",
            "pv=1",
            "--param",
            "users=2",
        ],
        "",
    );
    assert!(first.status.success(), "{}", stderr(&first));
    let output = stand.run(
        &["send", "--update-of", "first", "--user-id", "a", "--param", "pv=3"],
        "",
    );
    assert_eq!(outcomes(&output), (vec!["to[0] a delivered".to_owned()], Some(0)));
    assert_eq!(stand.cards()[0]["params"], json!({"pv": "3", "users": "2"}));
    let output = stand.run(
        &["send", "--update-of", "never", "--user-id", "a", "--param", "pv=3"],
        "",
    );
    assert_eq!(
        outcomes(&output),
        (vec!["to[0] a dead card_missing".to_owned()], Some(1))
    );
    says(&output, &["check update_of"]);
}

#[test]
fn what_can_be_refused_without_dingtalk_is_refused_by_line_before_anything_is_sent() {
    let stand = stand()
        .with("TEMPLATES__STRICT__ID", "tpl")
        .with("TEMPLATES__STRICT__REQUIRED", r#"["pv"]"#)
        .with_second_app()
        .with("APPS__SALES__PAUSED", "true");
    let to = json!([{"user_id": "a"}]);
    let jobs = lines([
        json!({"to": to}),
        json!({"to": []}),
        json!({"to": to, "app": "nobody"}),
        json!({"to": to, "template": "strict"}),
        json!({"to": to, "not_before": "2999-01-01T00:00:00+08:00"}),
        json!({"to": to, "app": "sales", "template": "T"}),
    ]);
    let output = stand.run(&["send", "--file", "-"], &jobs);
    assert_eq!(output.status.code(), Some(1));
    says(
        &output,
        &[
            "nothing was sent",
            "line 2: to: ",
            "line 3: unknown_app",
            "line 4: params_invalid: params: the template needs pv",
            "line 5: not_before: ",
            "dingcard publish",
            "line 6: paused",
        ],
    );
    assert!(output.stdout.is_empty() && stand.cards().is_empty());
}

#[test]
fn a_job_that_is_too_late_is_expired_and_not_sent() {
    let stand = stand();
    let output = stand.run(
        &["send", "--user-id", "a", "--expires-at", "2023-03-30T22:00:00+08:00"],
        "",
    );
    assert_eq!(outcomes(&output), (vec!["to[0] a expired".to_owned()], Some(1)));
    says(&output, &["1 expired"]);
    assert!(stand.cards().is_empty());
}
