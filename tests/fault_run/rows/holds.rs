//! An app that can deliver nothing at present, through no fault of any job: few calls wasted, nobody dead, and delivery
//! resumes by itself once it is mended.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Row, row};
use crate::stage::{IN_WORK, Stage, WORKERS};

pub(super) const ROWS: &[Row] = &[
    row(
        "token-revoked",
        "for all workers at once; calls wasted: those in flight; dead 0",
        token_revoked,
    ),
    row(
        "secret-wrong",
        "calls wasted: those in flight, one a probe and worker; dead 0; resumes by itself",
        wrong_secret,
    ),
    row(
        "ip-refused",
        "calls wasted: those in flight, one a probe and worker; dead 0; resumes by itself",
        ip_refused,
    ),
    row(
        "permission-missing",
        "calls wasted: those in flight, one a probe and worker; dead 0; resumes by itself",
        permission,
    ),
    row(
        "ip-ban",
        "calls wasted: those in flight, one a pause and worker; dead 0; resumes by itself",
        ip_ban,
    ),
    row(
        "quota-spent",
        "calls wasted: those in flight, one a probe and worker; dead 0; resumes by itself",
        quota,
    ),
    row("one-app-held", "another app is busy and does not notice", one_held),
];

/// What is refused, how the sandbox counts that, and the reason that the workers give.
struct Refusal<'a> {
    faults: Value,
    results: &'a [&'a str],
    reason: &'a str,
}

fn refusal(endpoint: &str, status: u16, code: &str) -> Value {
    json!({"kind": "error", "endpoint": endpoint, "status": status, "code": code})
}

fn token_revoked(stage: &mut Stage) -> Result<(), String> {
    stage.stretch(Duration::from_secs(4))?;
    stage.start_workers()?;
    stage.publish_all()?;
    let mut fetched = Vec::new();
    for share in [0.2, 0.5, 0.8] {
        stage.wait_share(share)?;
        stage.faults(&json!([{"kind": "expire_tokens"}]))?;
        fetched.push(share);
    }
    stage.settle()?;
    let wasted = stage.answered(&["InvalidAuthentication", "40014"])?;
    // A job may have been looked up and sent with the same dead token.
    let most = fetched.len() as u64 * IN_WORK;
    stage.note(format!("{wasted} calls wasted, {most} may have been in flight"));
    stage.demand(wasted <= most && wasted > 0, || format!("{wasted} calls wasted"));
    Ok(())
}

fn wrong_secret(stage: &mut Stage) -> Result<(), String> {
    let code = "invalidClientIdOrSecret";
    let faults = json!([refusal("accessToken", 400, code), {"kind": "expire_tokens"}]);
    held(
        stage,
        &Refusal {
            faults,
            results: &[code],
            reason: "bad_credentials",
        },
    )
}

fn ip_refused(stage: &mut Stage) -> Result<(), String> {
    let code = "Forbidden.AccessDenied.IpNotInWhiteList";
    held(
        stage,
        &Refusal {
            faults: json!([refusal("createAndDeliver", 403, code)]),
            results: &[code],
            reason: "ip_not_allowed",
        },
    )
}

fn permission(stage: &mut Stage) -> Result<(), String> {
    let missing = json!({"kind": "error", "endpoint": "getbymobile", "errcode": 88, "sub_code": "60011"});
    held(
        stage,
        &Refusal {
            faults: json!([missing]),
            results: &["60011"],
            reason: "permission_missing",
        },
    )
}

fn quota(stage: &mut Stage) -> Result<(), String> {
    let code = "Forbidden.AccessDenied.ApiCountLimitForOrg";
    held(
        stage,
        &Refusal {
            faults: json!([refusal("createAndDeliver", 403, code)]),
            results: &[code],
            reason: "quota_spent",
        },
    )
}

fn ip_ban(stage: &mut Stage) -> Result<(), String> {
    stage.set("DINGTALK__IP_BAN_PAUSE", "3s");
    held(
        stage,
        &Refusal {
            faults: json!([{"kind": "ip_ban", "endpoint": "createAndDeliver"}, {"kind": "ip_ban", "endpoint": "getbymobile"}]),
            results: &["ip_ban"],
            reason: "ip_banned",
        },
    )
}

/// Every app of every worker is refused for a while; then it is mended, and nobody does anything else.
fn held(stage: &mut Stage, refusal: &Refusal<'_>) -> Result<(), String> {
    stage.stretch(Duration::from_secs(4))?;
    stage.start_workers()?;
    stage.publish_all()?;
    stage.wait_share(0.2)?;
    stage.faults(&refusal.faults)?;
    let reason = [("reason", refusal.reason)];
    stage.wait("every worker to hold the app", |stage| {
        (stage.sum("dingcard_app_hold", &reason) == WORKERS as f64).then_some(())
    })?;
    let held_since = Instant::now();
    stage.last(stage.run.outage(60));
    let lasted = held_since.elapsed();
    let during = stage.delivered()?;
    let wasted = stage.answered(refusal.results)?;
    stage.faults(&json!([]))?;
    let mended = Instant::now();
    let again = stage.wait_delivered(during + 1)?;
    stage.resumed(again.saturating_duration_since(mended));
    stage.settle()?;
    let said = stage
        .said()
        .iter()
        .filter(|line| line.contains("the app is on hold: "))
        .count();
    let most = IN_WORK + WORKERS as u64 * probes(lasted);
    stage.note(format!(
        "{wasted} calls wasted, at most {most}; {said} lines said what to do"
    ));
    stage.demand(wasted <= most, || {
        format!("{wasted} calls wasted, at most {most} by the rule")
    });
    stage.demand(said == WORKERS, || {
        format!("{said} lines say what to do, of {WORKERS} workers")
    });
    Ok(())
}

/// The probes of a worker in that time: intervals of 5, 10, 20 s with full jitter, so half of each on average; twice as
/// many are allowed.
fn probes(time: Duration) -> u64 {
    let (mut passed, mut interval, mut count) = (0.0, 2.5, 1);
    while passed < time.as_secs_f64() {
        passed += interval;
        interval = f64::min(interval * 2.0, 150.0);
        count += 1;
    }
    2 * count
}

fn one_held(stage: &mut Stage) -> Result<(), String> {
    stage.set_second_app();
    // Twice as long as 1,000 calls a second take, so that it is the pace that is looked at and not the machine's.
    let whole = Duration::from_secs(6 + stage.run.jobs as u64 / 500);
    stage.stretch(whole)?;
    let code = "Forbidden.AccessDenied.ApiCountLimitForOrg";
    let mut refused = refusal("createAndDeliver", 403, code);
    refused["app"] = json!("dingsandbox");
    stage.faults(&json!([refused]))?;
    stage.start_workers()?;
    let jobs: Vec<_> = (0..stage.run.jobs)
        .map(|number| {
            let mut job = Stage::job(number);
            if number % 2 == 1 {
                job["app"] = json!("sales");
            }
            job
        })
        .collect();
    stage.publish(&jobs)?;
    let busy = [("app", "sales"), ("outcome", "delivered")];
    let begun = Instant::now();
    let due = (jobs.len() / 2) as f64;
    stage.wait("the busy app's jobs", |stage| {
        (stage.sum("dingcard_jobs_total", &busy) >= due).then_some(())
    })?;
    let took = begun.elapsed();
    let reason = [("reason", "quota_spent"), ("app", "default")];
    let holding = stage.sum("dingcard_app_hold", &reason);
    stage.demand(holding == WORKERS as f64, || {
        format!("only {holding} workers held the other app")
    });
    stage.note(format!(
        "the busy app's half took {took:.1?}, {:.1?} by its own pace",
        whole / 2
    ));
    stage.demand(took < whole, || format!("the busy app's half took {took:.1?}"));
    stage.faults(&json!([]))?;
    let mended = Instant::now();
    let first = due as u64 + 1;
    let again = stage.wait_delivered(first)?;
    stage.resumed(again.saturating_duration_since(mended));
    stage.settle()
}
