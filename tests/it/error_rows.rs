//! Every row of DingTalk's error tables, through the sandbox, a worker and a broker: what became of the recipient, which
//! metric moved, and what the log line said to do, which is what `docs/errors.md` says.
//!
//! Separate from `failures`, which is about jobs: here a row is one line, and all rows go through the same few tests.
//! Jobs of a batch are published together and each makes one call that is struck, so it does not matter which job meets
//! which answer.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use crate::process::Process;
use crate::stand::{BIN, PATIENCE, Stand, Worker, wait_until};

/// A call: its name in the sandbox, and its label in the metrics.
#[derive(Clone, Copy, PartialEq)]
enum Call {
    GetToken,
    AccessToken,
    LookUp,
    Create,
    Send,
    Update,
    UpdateSent,
}

impl Call {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::GetToken => ("gettoken", "gettoken"),
            Self::AccessToken => ("accessToken", "accessToken"),
            Self::LookUp => ("getbymobile", "getbymobile"),
            Self::Create => ("createAndDeliver", "createAndDeliver"),
            Self::Send => ("interactiveCards.send", "interactiveSend"),
            Self::Update => ("update", "updateInstances"),
            Self::UpdateSent => ("interactiveCards.update", "interactiveUpdate"),
        }
    }

    /// The app of this call: `default` uses createAndDeliver, `sales` interactiveCards.
    fn app(self) -> &'static str {
        match self {
            Self::Send | Self::UpdateSent => "sales",
            _ => "default",
        }
    }
}

/// What becomes of the recipient.
#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Dead,
    Retried,
    /// Called again, and delivered.
    Throttled,
    Duplicate,
    /// Handed back, and the app is on hold.
    Held,
}

/// Answers that mean the same. As the tables write them: `60121`, `88/60011` where the gateway wraps it, `400 param.empty`,
/// `503` without a body; and `told …` for an errorMsg, `garbage`, `cut`.
struct Row {
    call: Call,
    fate: Fate,
    reason: &'static str,
    result: &'static str,
    answers: &'static [&'static str],
}

const fn row(
    call: Call,
    fate: Fate,
    reason: &'static str,
    result: &'static str,
    answers: &'static [&'static str],
) -> Row {
    Row {
        call,
        fate,
        reason,
        result,
        answers,
    }
}

use Call::{AccessToken, Create, GetToken, LookUp, Send, Update, UpdateSent};
use Fate::{Dead, Duplicate, Held, Retried, Throttled};

/// What concerns the one recipient, the one call, or nothing but time.
#[rustfmt::skip]
const PASSING: &[Row] = &[
    // 2.4, 2.5, 3
    row(LookUp, Dead, "user_not_found", "recipient", &["60121", "88/60121", "33012", "40003", "60111"]),
    row(LookUp, Dead, "mobile_invalid", "recipient", &["40104", "60103"]),
    row(LookUp, Dead, "user_disabled", "recipient", &["60120", "50002", "88/50002"]),
    row(LookUp, Dead, "request_refused", "recipient",
        &["88/40000", "41001", "43007", "400002", "40022", "40035", "40038", "71006"]),
    row(LookUp, Retried, "server_error", "transient", &["-1", "400001", "503"]),
    row(LookUp, Retried, "bad_response", "transient", &["88", "garbage"]),
    row(LookUp, Retried, "network", "transient", &["cut"]),
    // 2.4, 5.4
    row(Create, Dead, "request_refused", "permanent",
        &["400 AuthenticationFailed.MissingParameter", "400 param.empty", "400 param.invalid", "400 param.outTrackIdEmpty",
          "400 param.cardTemplateIdEmpty", "400 param.userIdEmpty", "400 param.openSpaceIdEmpty", "400 param.openSpaceIdInvalid",
          "400 param.openDeliverModelEmpty", "400 param.openDeliverModelError", "400 param.spaceDeliverModelEmpty",
          "400 param.openSpaceModelInvalid", "400 param.dynamicDataSourceIdEmpty", "400 any.other", "404 any.thing"]),
    row(Create, Dead, "params_invalid", "permanent", &["400 param.cardPublicDataEmpty", "400 param.cardDataAndPrivateDataBothEmpty"]),
    row(Create, Dead, "template_invalid", "permanent", &["400 param.templateNotExist", "400 param.templateUnpublished"]),
    row(Create, Dead, "content_refused", "permanent", &["400 param.contentUnsafe"]),
    row(Create, Dead, "user_not_found", "recipient", &["400 param.userIdNotExist"]),
    row(Create, Duplicate, "none", "permanent", &["400 param.cardAlreadyExist"]),
    row(Create, Retried, "server_error", "unknown", &["500 system.busy", "500 param.empty", "502", "503", "504"]),
    row(Create, Retried, "bad_response", "unknown", &["garbage"]),
    row(Create, Retried, "network", "unknown", &["cut"]),
    row(Create, Dead, "user_not_found", "ok", &["told spaceId is illegal"]),
    row(Create, Dead, "conversation_invalid", "ok", &["told of group spaceId is illegal"]),
    row(Create, Retried, "server_error", "ok", &["told SYSTEM_ERROR", "told system error"]),
    row(Create, Retried, "request_refused", "ok", &["told something else"]),
    row(Update, Retried, "card_missing", "permanent", &["400 param.cardNotExist"]),
    // 4.4
    row(Send, Dead, "request_refused", "permanent",
        &["400 param.empty", "400 param.invalid", "400 callbackUrl.empty", "400 card.templateEmpty", "400 card.outTraceIdEmpty",
          "400 card.outTraceIdError", "400 outTrackId.exceed.limit", "400 invalidParameter.cid.empty", "400 duplicateKey"]),
    row(Send, Dead, "template_invalid", "permanent", &["400 cardInstance.wrong", "400 cardTemplateInvalid"]),
    row(Send, Dead, "content_refused", "permanent",
        &["400 contentSecurityChckFailed", "400 contentCheckError", "400 card.content.checkFailed"]),
    row(Send, Dead, "user_not_found", "recipient",
        &["400 userInfo.convertError", "400 userNotExist", "400 emptyUserId", "400 uidDecryptError"]),
    row(Send, Dead, "conversation_invalid", "recipient",
        &["400 cidParse.wrong", "400 org.notOwn.group", "400 sceneGroupNotFound", "400 sceneGroup.checkFailed",
          "400 cidDecryptError", "400 decryptOpenconversationIdFailed"]),
    row(Send, Retried, "server_error", "transient", &["400 getPictureFailed", "400 send.oa.failed"]),
    row(Send, Retried, "server_error", "unknown", &["400 sendCardMessageFailed", "500 systemBusy", "500 systemError"]),
    // 4.5
    row(UpdateSent, Retried, "card_missing", "permanent", &["400 cardInstance.notExist"]),
    row(UpdateSent, Dead, "request_refused", "permanent",
        &["400 param.empty", "400 param.invalid", "400 card.outTraceIdError", "400 card.outTraceIdEmpty", "400 duplicateKey",
          "400 outTrackIdLengthLimited"]),
    row(UpdateSent, Dead, "user_not_found", "recipient", &["400 userInfo.convertError", "400 uidDecryptError"]),
    row(UpdateSent, Dead, "content_refused", "permanent", &["400 contentCheckError"]),
    row(UpdateSent, Retried, "server_error", "transient", &["400 getPictureFailed"]),
    row(UpdateSent, Retried, "server_error", "unknown", &["400 sendCardMessageFailed", "500 systemBusy"]),
    // 6, 7
    row(LookUp, Throttled, "throttled", "throttle",
        &["88/90018", "88/90002", "90001", "90002", "90003", "90004", "90005", "90006", "90007", "90008", "90009", "90010",
          "90011", "90012", "90013", "90014", "90017", "90018", "90019", "45009", "429"]),
    row(Create, Throttled, "throttled", "throttle",
        &["403 Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", "403 Forbidden.AccessDenied.QpsLimitForApi",
          "403 Forbidden.AccessDenied.QpmLimitForAppkeyAndApi", "403 Forbidden.AccessDenied.QpsLimitForSuitekeyAndOrgAndApi",
          "403 Forbidden.AccessDenied.QpmLimitForSuitekeyAndOrgAndApi", "429 system.busy"]),
    row(Send, Throttled, "throttled", "throttle", &["429 systemBusy"]),
];

/// What concerns the app and not the recipient: each answer is given to an app of its own.
#[rustfmt::skip]
const OF_AN_APP: &[Row] = &[
    // 2.1, 2.2
    row(GetToken, Throttled, "throttled", "throttle", &["88/90018", "88/90002", "90018", "90002"]),
    row(GetToken, Retried, "server_error", "transient", &["-1", "503"]),
    row(AccessToken, Throttled, "throttled", "throttle", &["403 Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"]),
    row(AccessToken, Retried, "server_error", "transient", &["500 server.error", "500 unknownError"]),
    row(GetToken, Held, "bad_credentials", "hold", &["40096", "40089", "40001", "40013", "40035", "41002", "41004"]),
    row(GetToken, Held, "ip_not_allowed", "hold", &["88/60020"]),
    row(AccessToken, Held, "bad_credentials", "hold",
        &["400 invalidClientIdOrSecret", "400 invalid.client", "400 unsupported.grant.type", "401 unauthorized.client"]),
    // 2.4
    row(LookUp, Held, "token_rejected", "auth", &["88/40014", "42001", "40001", "33001"]),
    row(Create, Held, "token_rejected", "auth",
        &["400 InvalidAuthentication", "403 InvalidAccessToken", "401 any.thing"]),
    // 2.5, 1, 3, 7
    row(LookUp, Held, "ip_not_allowed", "hold", &["88/60020"]),
    row(LookUp, Held, "permission_missing", "hold", &["88/60011", "22", "404"]),
    row(LookUp, Held, "quota_spent", "hold", &["88/90020"]),
    row(Create, Held, "ip_not_allowed", "hold", &["403 Forbidden.AccessDenied.IpNotInWhiteList"]),
    row(Create, Held, "permission_missing", "hold", &["403 Forbidden.AccessDenied.AccessTokenPermissionDenied"]),
    row(Create, Held, "quota_spent", "hold", &["403 Forbidden.AccessDenied.ApiCountLimitForOrg"]),
    row(Create, Held, "robot_invalid", "ok", &["told chatbot not exist"]),
    // 4.4
    row(Send, Held, "robot_invalid", "hold",
        &["400 chatbot.notFound", "400 queryChatbot.wrong", "400 invalid.robotCode", "400 chatbotNotInstall",
          "400 chatbotNotFound", "400 chatbotId.notAllow.sendOTO"]),
    row(Send, Held, "permission_missing", "hold", &["400 permission.checkFailed"]),
];

/// The sandbox's fault that gives `answer` at `call`; `index` tells the job whose delivery fails.
fn fault(call: Call, answer: &str, index: usize) -> Value {
    let mut fault = match answer.split_once(' ') {
        Some(("told", message)) => {
            let (space, message) = match message.strip_prefix("of group ") {
                Some(message) => (format!("cid{index}"), message),
                None => (format!("user{index}"), message),
            };
            json!({"kind": "fail_delivery", "space_id": space, "message": message})
        }
        Some((status, code)) => json!({"kind": "error", "status": status.parse::<u16>().unwrap(), "code": code}),
        None if answer == "garbage" => json!({"kind": "garbage"}),
        None if answer == "cut" => json!({"kind": "drop_connection"}),
        None => match (
            answer.split_once('/'),
            call == LookUp || call == GetToken,
            answer.parse::<i64>(),
        ) {
            (Some((errcode, sub_code)), ..) => {
                json!({"kind": "error", "errcode": errcode.parse::<i64>().unwrap(), "sub_code": sub_code})
            }
            (None, _, Ok(status @ 429..=599)) => json!({"kind": "error", "status": status}),
            (None, true, Ok(errcode)) => json!({"kind": "error", "errcode": errcode}),
            _ => panic!("{answer}"),
        },
    };
    if !answer.starts_with("told") {
        fault["endpoint"] = json!(call.names().0);
    }
    if answer.contains("Qpm") {
        // Else the app would wait a minute.
        fault["retry_after"] = json!(1);
    }
    fault
}

/// How `answer` begins in a detail, and how it stands in the first column of docs/errors.md.
fn shown(call: Call, answer: &str) -> (String, String) {
    let endpoint = call.names().1;
    match answer.split_once(' ') {
        Some(("told", message)) => {
            let (message, group) = match message.strip_prefix("of group ") {
                Some(message) => (message, " (group)"),
                None => (message, ""),
            };
            let known = message != "something else";
            let column = if known {
                format!("errorMsg `{message}`{group}")
            } else {
                "any other errorMsg".to_owned()
            };
            (format!("{endpoint}: not delivered: {message}"), column)
        }
        None if answer == "garbage" => (
            format!("{endpoint}: HTTP 200 with no JSON"),
            "a 2xx without the documented fields".to_owned(),
        ),
        None if answer == "cut" => (
            format!("{endpoint}: the connection broke off"),
            "the connection broke off".to_owned(),
        ),
        None if answer == "429" => (format!("{endpoint}: HTTP 429 "), "HTTP 429".to_owned()),
        None if matches!(answer, "502" | "503" | "504") => {
            (format!("{endpoint}: HTTP {answer} "), "HTTP 5xx".to_owned())
        }
        coded => {
            let code = coded.map_or_else(|| answer.rsplit('/').next().unwrap_or(answer), |(_, code)| code);
            let column = match answer {
                "401 any.thing" => "HTTP 401".to_owned(),
                "500 param.empty" | "500 unknownError" => "HTTP 5xx".to_owned(),
                "429 system.busy" | "429 systemBusy" => "HTTP 429".to_owned(),
                "71006" | "400 any.other" | "404 any.thing" => "any other code".to_owned(),
                _ if code.starts_with("param.dynamic") => "`param.dynamic…`".to_owned(),
                _ => format!("`{code}`"),
            };
            (format!("{endpoint}: {code} "), column)
        }
    }
}

/// Reason and remedy of the row of docs/errors.md whose first column has `answer`.
fn documented(answer: &str) -> (String, String) {
    let page = include_str!("../../docs/errors.md");
    let cells = |line: &str| {
        line.split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned())
            .collect::<Vec<_>>()
    };
    let line = page
        .lines()
        .find(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(answer)));
    let cells = cells(line.unwrap_or_else(|| panic!("docs/errors.md does not have {answer}")));
    (cells[2].clone(), cells[5].clone())
}

/// The remedy that docs/errors.md has for this answer, once it is sure that it has the same reason.
fn remedy(row: &Row, answer: &str) -> String {
    let (reason, remedy) = documented(&shown(row.call, answer).1);
    if matches!(row.call, GetToken | AccessToken) && row.reason == "bad_credentials" {
        // Said once in the page's prose: at a token call this is what any refusal means.
        return documented("`40096`").1;
    }
    assert_eq!(reason, row.reason, "docs/errors.md on {answer}");
    remedy
}

/// The worker's line that begins with `says`, is of `job` and holds all of `told`; quotes in it as they were before the log
/// escaped them.
fn expect_line(worker: &Worker, says: &str, told: &[&str]) {
    let has_all = |line: &String| {
        let line = line.replace("\\\"", "\"");
        line.contains(says) && told.iter().all(|t| line.contains(t))
    };
    wait_until(&format!("{says} {told:?}"), || {
        worker.process.lines().iter().any(has_all).then_some(())
    });
}

/// One job of one recipient whose calls include `call` first.
fn job(call: Call, answer: &str, index: usize) -> Value {
    let to = match call {
        LookUp => json!({"mobile": format!("1501234{:04}", 1000 + index)}),
        _ if answer.starts_with("told of group") => json!({"conversation": format!("cid{index}")}),
        _ => json!({"user_id": format!("user{index}")}),
    };
    let mut job = json!({"id": format!("row{index}"), "app": call.app(), "template": "t", "to": [to]});
    if matches!(call, Update | UpdateSent) {
        job["update_of"] = json!("earlier");
        job.as_object_mut().unwrap().remove("template");
    }
    job
}

#[test]
fn every_answer_that_concerns_a_recipient_a_call_or_nothing_but_time() {
    let stand = Stand::new()
        .with_second_app()
        .with("APPS__SALES__CARD_API", "interactive")
        .with("APPS__SALES__RATE_PER_SECOND", "0")
        .with("RETRY__IMMEDIATE", "0")
        // Every line, however many are alike.
        .with("LOG__LEVEL", "info,dingcard=debug")
        // Beyond the test: who is retried stays so.
        .with("RETRY__INITIAL", "1000h")
        .with("RETRY__MAX_DELAY", "1000h");
    let worker = stand.worker();
    let answers: Vec<(&Row, &str)> = PASSING
        .iter()
        .flat_map(|row| row.answers.iter().map(move |answer| (row, *answer)))
        .collect();
    // A batch is of one call; told answers strike by their recipient, all others whoever calls next.
    let batch_of =
        |(row, answer): &(&Row, &str)| (row.call.names().0, row.fate == Throttled, answer.starts_with("told"));
    let mut batches = BTreeMap::<_, Vec<(usize, &Row, &str)>>::new();
    for (index, row) in answers.iter().enumerate() {
        batches.entry(batch_of(row)).or_default().push((index, row.0, row.1));
    }
    let mut settled = 0.0;
    for batch in batches.values() {
        let strike = |(index, row, answer): &(usize, &Row, &str)| {
            let mut fault = fault(row.call, answer, *index);
            if !answer.starts_with("told") {
                fault["next"] = json!(1);
            }
            fault
        };
        stand.faults(&batch.iter().map(strike).collect());
        stand.publish_lines(batch.iter().map(|(index, row, answer)| job(row.call, answer, *index)));
        settled += f64::from(u32::try_from(batch.len()).unwrap());
        wait_until("the batch", || {
            let outcomes = ["dead", "retried", "delivered", "duplicate"];
            (outcomes.iter().map(|outcome| worker.jobs(outcome)).sum::<f64>() >= settled).then_some(())
        });
    }

    let mut calls = BTreeMap::<(&str, &str), f64>::new();
    let mut recipients = BTreeMap::<(&str, &str), f64>::new();
    for (row, answer) in answers {
        let (detail, _) = shown(row.call, answer);
        let (says, fate) = match row.fate {
            Dead => ("dead: ", ("dead", row.reason)),
            Retried => ("retried: ", ("retried", row.reason)),
            Throttled => ("throttled: ", ("delivered", "none")),
            Duplicate => ("", ("duplicate", "none")),
            Held => unreachable!(),
        };
        *recipients.entry(fate).or_default() += 1.0;
        *calls.entry((row.call.names().1, row.result)).or_default() += 1.0;
        if row.fate == Throttled {
            *calls.entry((row.call.names().1, "ok")).or_default() += 1.0;
            if row.call == LookUp {
                *calls.entry(("createAndDeliver", "ok")).or_default() += 1.0;
            }
        }
        if row.fate != Duplicate {
            let reason = format!("reason={}", row.reason);
            let reason = if row.fate == Throttled { "" } else { &reason };
            expect_line(&worker, says, &[&detail, &remedy(row, answer), reason]);
        }
    }
    let mut counted = BTreeMap::new();
    let mut expected = BTreeMap::new();
    for ((endpoint, result), count) in calls {
        let labels = [("endpoint", endpoint), ("result", result)];
        counted.insert(
            (endpoint, result),
            worker.metric("dingcard_api_requests_total", &labels),
        );
        expected.insert((endpoint, result), count);
    }
    for ((outcome, reason), count) in recipients {
        counted.insert((outcome, reason), worker.recipients(outcome, reason));
        expected.insert((outcome, reason), count);
    }
    assert_eq!(counted, expected);
    assert_eq!(worker.metric("dingcard_app_hold", &[]), 0.0);
}

/// A sandbox with an app for each of these keys.
fn sandbox_with_apps(keys: &[String]) -> (Process, String, tempfile::NamedTempFile) {
    let mut file = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let mut settings = String::from("[sandbox]\nrate_per_second = 0\n");
    for key in keys {
        writeln!(
            settings,
            "[sandbox.apps.{key}]\nsecret = \"sandbox-secret\"\nrobot_code = \"{key}\""
        )
        .unwrap();
    }
    file.write_all(settings.as_bytes()).unwrap();
    let args = [
        "sandbox",
        "--listen",
        "127.0.0.1:0",
        "--config",
        file.path().to_str().unwrap(),
    ];
    let process = Process::start(BIN, &args, &[]).unwrap();
    let line = process.wait_for_line("sandbox listening", PATIENCE).unwrap();
    let url = line.split("inbox=").nth(1).unwrap().split_whitespace().next().unwrap();
    let url = url.trim_matches('"').trim_end_matches('/').to_owned();
    (process, url, file)
}

#[test]
fn every_answer_that_concerns_an_app_concerns_it_alone_and_costs_no_recipient() {
    let answers: Vec<(&Row, &str)> = OF_AN_APP
        .iter()
        .flat_map(|row| row.answers.iter().map(move |answer| (row, *answer)))
        .collect();
    let keys: Vec<String> = (0..answers.len()).map(|index| format!("h{index:02}")).collect();
    let (_sandbox, url, _file) = sandbox_with_apps(&keys);
    let mut stand = Stand::new()
        .with("DINGTALK__API_URL", &url)
        .with("DINGTALK__OAPI_URL", &url)
        .with("APPS__DEFAULT__APP_SECRET", "")
        .with("RETRY__IMMEDIATE", "0")
        // Beyond the test: who is retried stays so.
        .with("RETRY__INITIAL", "1000h")
        .with("RETRY__MAX_DELAY", "1000h");
    for ((row, _), key) in answers.iter().zip(&keys) {
        let interactive = matches!(row.call, Send | UpdateSent);
        let settings = [
            ("APP_KEY", key.as_str()),
            ("APP_SECRET", "sandbox-secret"),
            ("ROBOT_CODE", key),
            ("RATE_PER_SECOND", "0"),
            ("CARD_API", if interactive { "interactive" } else { "instances" }),
            ("TOKEN_API", if row.call == GetToken { "gettoken" } else { "oauth2" }),
        ];
        for (name, value) in settings {
            stand = stand.with(&format!("APPS__{}__{name}", key.to_uppercase()), value);
        }
    }
    stand.sandbox_url = url;
    let worker = stand.worker();
    let indexed = || answers.iter().zip(&keys).enumerate();
    let faults = indexed().map(|(index, ((row, answer), key))| {
        let mut fault = fault(row.call, answer, index);
        fault["app"] = json!(key);
        if row.fate != Held {
            fault["next"] = json!(1);
        }
        fault
    });
    stand.faults(&faults.collect());
    stand.publish_lines(indexed().map(|(index, ((row, answer), key))| {
        let mut job = job(row.call, answer, index);
        job["app"] = json!(key);
        job
    }));
    for ((row, answer), key) in answers.iter().zip(&keys) {
        let (says, family, labels) = match row.fate {
            Held => ("the app is on hold: ", "dingcard_app_hold", ("reason", row.reason)),
            Retried => ("retried: ", "dingcard_jobs_total", ("outcome", "retried")),
            _ => ("throttled: ", "dingcard_jobs_total", ("outcome", "delivered")),
        };
        wait_until(&format!("what becomes of {answer}"), || {
            (worker.metric(family, &[("app", key), labels]) == 1.0).then_some(())
        });
        let (detail, _) = shown(row.call, answer);
        expect_line(&worker, says, &[key, &detail, &remedy(row, answer)]);
        let labels = [
            ("app", key.as_str()),
            ("endpoint", row.call.names().1),
            ("result", row.result),
        ];
        let once = if row.result == "auth" { 2.0 } else { 1.0 };
        let calls = worker.metric("dingcard_api_requests_total", &labels);
        assert!(
            calls >= once && (row.fate == Held || calls == once),
            "{answer} {labels:?}"
        );
        let labels = [("app", key.as_str()), ("outcome", "retried"), ("reason", row.reason)];
        let handed_back = worker.metric("dingcard_recipients_total", &labels);
        assert_eq!(handed_back >= 1.0, row.fate != Throttled, "{answer}");
    }
    let of_fate = |fate| answers.iter().filter(|(row, _)| row.fate == fate).count();
    assert_eq!(worker.jobs("dead"), 0.0);
    assert_eq!(
        worker.jobs("delivered"),
        f64::from(u32::try_from(of_fate(Throttled)).unwrap())
    );
    assert_eq!(worker.ready().0, 200);
    assert_eq!(worker.ready().1["holds"].as_object().unwrap().len(), of_fate(Held));
}

#[test]
fn a_refused_token_is_fetched_anew_once_and_the_recipient_gets_the_card() {
    for (call, answer) in [
        (LookUp, "88/40014"),
        (Create, "400 InvalidAuthentication"),
        (Create, "401 any.thing"),
    ] {
        let stand = Stand::new();
        let worker = stand.worker();
        let mut fault = fault(call, answer, 0);
        fault["next"] = json!(1);
        stand.faults(&json!([fault]));
        stand.publish(&["--mobile", "15012341231"]);
        worker.wait_for_jobs("delivered", 1);
        let labels = [("endpoint", call.names().1), ("result", "auth")];
        assert_eq!(worker.metric("dingcard_api_requests_total", &labels), 1.0, "{answer}");
        assert_eq!(stand.calls_to("accessToken"), 2);
        assert_eq!(worker.recipients("delivered", "none"), 1.0);
        assert_eq!(worker.jobs("retried"), 0.0);
    }
}

#[test]
fn a_ban_of_the_egress_ip_stops_every_app_until_its_pause_is_over() {
    for ban in ["html", "ip_ban"] {
        let stand = Stand::new().with_second_app().with("DINGTALK__IP_BAN_PAUSE", "1s");
        let worker = stand.worker();
        stand.faults(&json!([{"kind": ban, "endpoint": "createAndDeliver", "next": 1}]));
        stand.publish(&["--user-id", "a"]);
        let (reason, remedy) = documented("an HTML page");
        assert_eq!(reason, "ip_banned");
        expect_line(
            &worker,
            "the app is on hold: ",
            &["createAndDeliver: ", "reason=ip_banned", &remedy],
        );
        stand.publish(&["--app", "sales", "--template", "t", "--user-id", "b"]);
        worker.wait_for_jobs("delivered", 2);
        let labels = [("endpoint", "createAndDeliver"), ("result", "hold")];
        assert_eq!(worker.metric("dingcard_api_requests_total", &labels), 1.0, "{ban}");
        assert_eq!(worker.jobs("dead"), 0.0);
        assert!(worker.recipients("retried", "ip_banned") >= 1.0, "{ban}");
        assert_eq!(worker.metric("dingcard_app_hold", &[]), 0.0);
    }
}
