//! SIGHUP: the configuration read anew while the worker runs.

use std::fs;

use serde_json::json;

use crate::stand::{Stand, wait_until};

/// The file: an app `sales` with this secret, and what else is given.
fn write(path: &std::path::Path, secret: &str, more: &str) {
    let text = format!(
        "{more}\n[apps.sales]\napp_key = \"dingsandbox2\"\napp_secret = \"{secret}\"\nrobot_code = \"dingsandbox2\"\n"
    );
    fs::write(path, text).unwrap();
}

#[test]
fn a_corrected_secret_a_new_template_and_a_pause_take_effect_without_a_restart_and_a_broken_file_changes_nothing() {
    let stand = Stand::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dingcard.toml");
    write(&file, "wrong", "");
    let flags = ["--config", file.to_str().unwrap()];
    let mut worker = stand.starting_worker_with(&flags);
    worker.wait_for_line("consuming");
    let publish = |args: &[&str]| stand.publish(&[&flags, args].concat());
    publish(&[
        "--app",
        "sales",
        "--template",
        "later",
        "--param",
        "pv=1",
        "--user-id",
        "a",
    ]);
    wait_until("the app is on hold", || {
        (worker.ready().1["holds"] == json!({"sales": "bad_credentials"})).then_some(())
    });

    fs::write(&file, "[apps.sales]\nrate_per_secnd = 3\n").unwrap();
    worker.process.hang_up();
    let said = worker.wait_for_line("the configuration is not in order");
    assert!(said.contains("rate_per_secnd"), "{said}");
    assert_eq!(worker.ready().0, 200);

    write(
        &file,
        "sandbox-secret-2",
        "[templates.later]\nid = \"the-id\"\nrequired = [\"pv\"]\n",
    );
    worker.process.hang_up();
    worker.wait_for_line("the configuration was read anew");
    wait_until("the job is delivered", || {
        (worker.jobs("delivered") >= 1.0).then_some(())
    });
    assert_eq!(stand.cards()[0]["template"], json!("the-id"));

    write(
        &file,
        "sandbox-secret-2",
        "[apps.default]\npaused = true\n[amqp]\nprefetch = 7\n",
    );
    worker.process.hang_up();
    let said = worker.wait_for_line("need a restart");
    assert!(said.contains("amqp"), "{said}");
    publish(&["--user-id", "waits"]);
    assert_eq!(worker.ready().1["holds"], json!({"default": "paused"}));
    write(&file, "sandbox-secret-2", "");
    worker.process.hang_up();
    wait_until("the paused job is delivered", || {
        (worker.jobs("delivered") >= 2.0).then_some(())
    });
}
