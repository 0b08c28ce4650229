//! The verbs as scripts see them: what they print, and the number they exit with.

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::stand::{Stand, shared_broker, wait_until};

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn exit_codes_tell_wrong_usage_from_bad_configuration_from_failure() {
    let stand = Stand::new();
    assert_eq!(stand.run(&["publish", "--no-such-flag"], "").status.code(), Some(2));
    let misspelt = Stand::new().with("AMQP__PREFECH", "7");
    let output = misspelt.run(&["topology"], "");
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("DINGCARD_AMQP__PREFECH") && stderr(&output).contains("prefetch"),
        "{}",
        stderr(&output)
    );
    let away = Stand::new().with("AMQP__URL", "amqp://guest:pa55word@127.0.0.1:1/%2f");
    let output = away.run(&["publish", "--user-id", "a"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("127.0.0.1:1") && !stderr(&output).contains("pa55word"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_worker_without_credentials_says_where_they_are_found() {
    let stand = Stand::new();
    let output = std::process::Command::new(crate::stand::BIN)
        .args(["worker", "--config", "/dev/null"])
        .env("DINGCARD_AMQP__NAMESPACE", &stand.namespace)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(
        stderr(&output).contains("app_secret") && stderr(&output).contains("console"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_invalid_line_is_refused_by_number_before_anything_is_sent() {
    let stand = Stand::new();
    let lines = [
        json!({"to": [{"user_id": "a"}]}),
        json!({"to": []}),
        json!({"to": [{"user_id": "a"}], "app": "nobody"}),
    ];
    let input = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    let output = stand.run(&["publish", "--file", "-"], &input);
    assert_eq!(output.status.code(), Some(1));
    for part in ["line 2: to: ", "line 3: app: ", "nothing was published"] {
        assert!(stderr(&output).contains(part), "{part} is not in {}", stderr(&output));
    }
    assert!(output.stdout.is_empty());
}

#[test]
fn published_jobs_are_named_one_a_line_in_their_order() {
    let stand = Stand::new();
    let ids: Vec<_> = (0..50).map(|n| format!("j{n}")).collect();
    let jobs: Vec<_> = ids
        .iter()
        .map(|id| json!({"id": id, "to": [{"user_id": "a"}]}).to_string())
        .collect();
    let input = jobs.join("\n");
    let output = stand.run(&["publish", "--file", "-", "--urgent"], &input);
    assert_eq!(
        String::from_utf8(output.stdout).unwrap().lines().collect::<Vec<_>>(),
        ids
    );
    let queue = stand.queue("urgent");
    wait_until("50 messages", || (shared_broker().messages(&queue) == 50).then_some(()));
}

#[test]
fn printed_definitions_can_be_imported_and_are_what_the_worker_declares() {
    let broker = Broker::start();
    let stand = Stand::on(broker.url()).with_second_app();
    let output = stand.run(&["topology", "--print"], "");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &output.stdout).unwrap();
    broker.ctl(&["import_definitions", file.path().to_str().unwrap()]);
    // Declaring over it is refused by the broker where any argument differs.
    let output = stand.run(&["topology"], "");
    assert!(output.status.success(), "{}", stderr(&output));
    let verifying = stand.with("AMQP__TOPOLOGY", "verify");
    assert!(verifying.run(&["topology"], "").status.success());
}

#[test]
fn schemas_are_printed_without_a_configuration() {
    let stand = Stand::new().with("AMQP__PREFECH", "7");
    for subject in ["job", "config"] {
        let output = stand.run(&["schema", subject], "");
        assert!(output.status.success());
        let schema: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(schema["type"], "object", "{subject}");
    }
}

#[test]
fn health_is_what_a_running_worker_says_of_itself() {
    let stand = Stand::new();
    let mut worker = stand.worker();
    let everywhere = worker
        .metrics_url
        .replace("http://127.0.0.1", "0.0.0.0")
        .replace("/metrics", "");
    let stand = stand.with("HTTP__LISTEN", &everywhere);
    let output = stand.run(&["health"], "");
    assert!(output.status.success(), "{}", stderr(&output));
    let inbox = format!("{}/sandbox/calls", stand.sandbox_url);
    assert!(stand.run(&["health", "--url", &inbox], "").status.success());
    let no_page = worker.metrics_url.replace("/metrics", "/no-such-page");
    let missing = stand.run(&["health", "--url", &no_page], "");
    assert_eq!(missing.status.code(), Some(1));
    assert!(stderr(&missing).contains("404"), "{}", stderr(&missing));
    assert_eq!(
        stand.run(&["health", "--url", "https://127.0.0.1/"], "").status.code(),
        Some(2)
    );

    worker.process.kill();
    worker.process.wait(crate::stand::PATIENCE).unwrap();
    let output = stand.run(&["health"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("nobody to ask"), "{}", stderr(&output));

    let stand = stand.with("AMQP__URL", "amqp://guest:guest@127.0.0.1:1/%2f");
    let without_broker = stand.starting_worker();
    let ready = without_broker.metrics_url.replace("/metrics", "/readyz");
    wait_until("the reason is known", || {
        let output = stand.run(&["health", "--url", &ready], "");
        assert_eq!(output.status.code(), Some(1));
        stderr(&output).contains("not ready: the broker").then_some(())
    });
}
