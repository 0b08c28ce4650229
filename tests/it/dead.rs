//! The dead letters: seen, replayed, discarded, and never lost by looking.

use serde_json::{Value, json};

use crate::delivery::single_jobs;
use crate::producers::publish_raw;
use crate::stand::{PATIENCE, Stand, wait_until};

fn stdout(stand: &Stand, args: &[&str]) -> String {
    let output = stand.run(args, "");
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn listed(stand: &Stand, filter: &[&str]) -> Vec<Value> {
    let args = [&["dead", "list", "--json"][..], filter].concat();
    stdout(stand, &args)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn fifty_looks_in_a_row_find_every_letter() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.publish_lines((0..40).map(|n| json!({"id": format!("j{n}"), "to": [{"mobile": "15012340000"}]})));
    worker.wait_for_jobs("dead", 40);
    for look in 0..50 {
        assert_eq!(listed(&stand, &[]).len(), 40, "look {look}");
    }
}

#[test]
fn more_letters_than_the_broker_gives_unasked_are_all_found() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.publish_lines((0..2_500).map(|n| json!({"id": format!("j{n}"), "to": [{"mobile": "15012340000"}]})));
    worker.wait_for_jobs("dead", 2_500);
    assert_eq!(listed(&stand, &[]).len(), 2_500);
}

#[test]
fn a_letter_is_found_by_its_reason_its_app_or_its_id_and_shown_with_all_that_is_known() {
    let stand = Stand::new().with_second_app();
    let worker = stand.worker();
    stand.publish(&["--id", "nobody", "--mobile", "15012340000", "--mobile", "15012341231"]);
    stand.publish(&[
        "--id",
        "sales",
        "--app",
        "sales",
        "--template",
        "t0000",
        "--user-id",
        "a",
    ]);
    publish_raw(&stand, "jobs", b"no job");
    worker.wait_for_jobs("dead", 3);
    assert_eq!(listed(&stand, &[]).len(), 3);
    assert_eq!(listed(&stand, &["--reason", "invalid_job"]).len(), 1);
    assert_eq!(listed(&stand, &["--app", "sales"])[0]["id"], "sales");
    assert_eq!(listed(&stand, &["--older-than", "1h"]).len(), 0);
    assert_eq!(
        listed(&stand, &["--newer-than", "1h", "--reason", "user_not_found"])[0]["failed"],
        "user_not_found=0"
    );
    let shown = stdout(&stand, &["dead", "show", "nobody"]);
    for part in [
        "user_not_found",
        "failed      user_not_found=0",
        r#"{"mobile":"15012340000"}"#,
    ] {
        assert!(shown.contains(part), "{part} is not in {shown}");
    }
    let table = stdout(&stand, &["dead", "list"]);
    assert!(
        table.contains("3 dead letters: 1 invalid_job, 1 template_invalid, 1 user_not_found"),
        "{table}"
    );
    let unknown = stand.run(&["dead", "list", "--reason", "user_not_fuond"], "");
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("user_not_found"));
}

#[test]
fn a_replay_reaches_those_who_failed_and_nobody_else_a_second_time() {
    let stand = Stand::new()
        .with("RETRY__IMMEDIATE", "0")
        .with("RETRY__MAX_ATTEMPTS", "1")
        .with("USERS__NEGATIVE_TTL", "1ms");
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "fail_delivery", "space_id": "late", "message": "spaceId is illegal"}]));
    stand.publish(&["--id", "j", "--user-id", "a", "--user-id", "late", "--user-id", "c"]);
    worker.wait_for_jobs("dead", 1);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(2));
    stand.faults(&json!([]));
    assert!(stdout(&stand, &["dead", "replay", "--id", "j", "--dry-run"]).contains("would replay 1 dead letters"));
    assert_eq!(listed(&stand, &[]).len(), 1, "a dry run changes nothing");
    assert!(stdout(&stand, &["dead", "replay", "--all"]).contains("replayed 1 dead letters"));
    worker.wait_for_jobs("delivered", 1);
    assert_eq!(stand.calls()["deliveries"]["total"], json!(3));
    assert_eq!(stand.calls()["deliveries"]["duplicates"], json!(0));
    assert_eq!(stand.cards().len(), 1, "the one who missed it got the same card");
    assert!(listed(&stand, &[]).is_empty());
}

#[test]
fn who_was_unknown_and_is_known_now_gets_the_card_of_the_others_by_a_replay() {
    for api in ["instances", "interactive"] {
        let stand = Stand::new()
            .with("USERS__NEGATIVE_TTL", "1ms")
            .with("APPS__DEFAULT__CARD_API", api);
        let worker = stand.worker();
        stand.faults(&json!([{"kind": "error", "endpoint": "getbymobile", "legacy": true, "errcode": 60121}]));
        let to = [
            "--user-id",
            "a",
            "--user-id",
            "b",
            "--mobile",
            "15012341231",
            "--mobile",
            "15012341232",
        ];
        stand.publish(&[&["--id", "j"][..], &to].concat());
        worker.wait_for_jobs("dead", 1);
        assert_eq!(stand.calls()["deliveries"]["total"], json!(2), "{api}");
        stand.faults(&json!([]));
        assert!(stdout(&stand, &["dead", "replay", "--reason", "user_not_found"]).contains("replayed 1 dead letters"));
        worker.wait_for_jobs("delivered", 1);
        let deliveries = &stand.calls()["deliveries"];
        assert_eq!(
            (&deliveries["total"], &deliveries["duplicates"]),
            (&json!(4), &json!(0)),
            "{api}"
        );
        assert_eq!(worker.recipients("delivered", "none"), 4.0, "{api}");
    }
}

#[test]
fn a_replay_without_a_filter_needs_all_and_a_discard_deletes_what_is_meant_alone() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.publish(&["--id", "a", "--mobile", "15012340000"]);
    publish_raw(&stand, "jobs", b"no job");
    worker.wait_for_jobs("dead", 2);
    assert_eq!(stand.run(&["dead", "replay"], "").status.code(), Some(1));
    assert!(stdout(&stand, &["dead", "discard", "--reason", "invalid_job"]).contains("discarded 1 dead letters"));
    assert_eq!(listed(&stand, &[])[0]["id"], "a");
}

#[test]
fn two_commands_at_once_say_so() {
    let stand = Stand::new();
    let worker = stand.worker();
    stand.publish_lines((0..20).map(|n| json!({"id": format!("j{n}"), "to": [{"mobile": "15012340000"}]})));
    worker.wait_for_jobs("dead", 20);
    let mut slow = stand.start(&["dead", "replay", "--all", "--rate", "2"]);
    let warned = wait_until("the second command sees the first", || {
        let output = stand.run(&["dead", "list"], "");
        Some(String::from_utf8_lossy(&output.stderr).into_owned()).filter(|text| text.contains("somebody else holds"))
    });
    assert!(warned.contains("not seen here"), "{warned}");
    slow.kill();
}

#[test]
fn a_replay_killed_half_way_under_live_traffic_loses_nothing_and_repeats_nothing() {
    let stand = Stand::new()
        .with("RETRY__IMMEDIATE", "0")
        .with("RETRY__MAX_ATTEMPTS", "1");
    let worker = stand.worker();
    stand.faults(&json!([{"kind": "error", "endpoint": "createAndDeliver", "status": 503}]));
    stand.publish_lines(single_jobs(0, 500));
    worker.wait_for_jobs("dead", 500);
    stand.faults(&json!([]));
    let mut replay = stand.start(&["dead", "replay", "--all", "--rate", "200"]);
    stand.publish_lines(single_jobs(500, 200));
    wait_until("half-way", || (worker.jobs("delivered") >= 300.0).then_some(()));
    replay.kill();
    assert_eq!(replay.wait(PATIENCE), Ok(128 + 9));
    wait_until("the letters are back", || {
        stdout(&stand, &["dead", "replay", "--all"]);
        (stand.calls()["deliveries"]["recipients"] == json!(700)).then_some(())
    });
    assert_eq!(stand.calls()["deliveries"]["total"], json!(700));
    assert!(listed(&stand, &[]).is_empty());
}
