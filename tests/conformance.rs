//! Every error row of the sheet of DingTalk's API (dingtalk-api.md §2 to §7), asked of a running sandbox over plain HTTP.
//!
//! Apart from the sandbox's own tests, and through no code of the client or of the sandbox: both are built to that sheet,
//! and this is where the sheet is held against one of them from outside. A row is either *provoked*, by a call that
//! deserves it, or *ordered*, as a fault, where nothing that a caller can write brings it about; then it is the wire
//! form that is checked.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]
#![allow(clippy::too_many_lines, reason = "a table is as long as its rows")]

#[path = "it/process.rs"]
mod process;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use self::process::{Process, value_of};

/// How long a sandbox may take to start.
const PATIENCE: Duration = Duration::from_secs(30);

const LOOK_UP: &str = "POST /topapi/v2/user/getbymobile";
const SEND: &str = "POST /v1.0/im/interactiveCards/send";
const UPDATE_SENT: &str = "PUT /v1.0/im/interactiveCards";
const CREATE_AND_DELIVER: &str = "POST /v1.0/card/instances/createAndDeliver";
const CREATE: &str = "POST /v1.0/card/instances";
const SPACES: &str = "PUT /v1.0/card/instances/spaces";
const DELIVER: &str = "POST /v1.0/card/instances/deliver";
const UPDATE: &str = "PUT /v1.0/card/instances";

/// A sandbox process; it ends with this.
struct Sandbox {
    _process: Process,
    address: String,
    token: String,
}

impl Sandbox {
    fn start(settings: &str) -> Self {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, format!("[sandbox]\n{settings}")).unwrap();
        let path = file.path().to_str().unwrap();
        let args = ["sandbox", "--config", path, "--listen", "127.0.0.1:0"];
        let process = Process::start(env!("CARGO_BIN_EXE_dingcard"), &args, &[]).unwrap();
        let line = process.wait_for_line("listening", PATIENCE).unwrap();
        assert!(line.contains("nothing is forwarded"), "{line}");
        let inbox = value_of(&line, "inbox").unwrap();
        let address = inbox.trim_start_matches("http://").trim_end_matches('/').to_owned();
        assert!(address.starts_with("127.0.0.1:"), "{line}");
        let mut sandbox = Self {
            _process: process,
            address,
            token: String::new(),
        };
        let (_, answer) = sandbox.ask("GET /gettoken?appkey=dingsandbox&appsecret=sandbox-secret", &[], "");
        answer["access_token"].as_str().unwrap().clone_into(&mut sandbox.token);
        sandbox
    }

    /// Status and body of an answer; `line` is method and path.
    fn ask(&self, line: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| [name, ": ", value, "\r\n"].concat())
            .collect();
        let headers = headers.concat();
        let length = body.len();
        let request = format!("{line} HTTP/1.0\r\nhost: sandbox\r\n{headers}content-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| json!(body)))
    }

    /// A call with JSON and the token, where its family looks for it.
    fn call(&self, line: &str, body: &Value) -> (u16, Value) {
        let headers = [
            ("content-type", "application/json"),
            ("x-acs-dingtalk-access-token", &*self.token),
        ];
        if line.contains("/topapi/") {
            return self.ask(
                &format!("{line}?access_token={}", self.token),
                &headers[..1],
                &body.to_string(),
            );
        }
        self.ask(line, &headers, &body.to_string())
    }

    fn faults(&self, faults: &Value) {
        let (status, answer) = self.call("PUT /sandbox/faults", &json!({"faults": faults}));
        assert_eq!(status, 200, "{answer}");
    }
}

/// A body with some fields replaced, or taken out by null.
fn with(mut body: Value, changes: &Value) -> Value {
    for (key, value) in changes.as_object().unwrap() {
        if value.is_null() {
            body.as_object_mut().unwrap().remove(key);
        } else {
            body[key] = value.clone();
        }
    }
    body
}

/// A good body of each call, for a card of that ID.
fn good(line: &str, id: &str) -> Value {
    let data = json!({"cardParamMap": {"pv": "2000"}});
    let models = json!({"imRobotOpenSpaceModel": {"supportForward": true}});
    let deliver = json!({"outTrackId": id, "openSpaceId": "dtv1.card//IM_ROBOT.u1", "imRobotOpenDeliverModel": {"spaceType": "IM_ROBOT"}});
    let made = json!({"outTrackId": id, "cardTemplateId": "TPL.schema", "cardData": data});
    match line {
        LOOK_UP => json!({"mobile": "15012341231"}),
        SEND => with(
            made,
            &json!({"conversationType": 0, "receiverUserIdList": ["u1"], "robotCode": "dingsandbox"}),
        ),
        CREATE => with(made, &models),
        CREATE_AND_DELIVER => with(with(made, &models), &deliver),
        DELIVER => deliver,
        SPACES => with(models, &json!({"outTrackId": id})),
        _ => json!({"outTrackId": id, "cardData": data}),
    }
}

/// A refusal of the new family has exactly the documented fields.
fn check_new(row: &str, (status, body): &(u16, Value), expected: (u16, &str)) {
    assert_eq!(
        (*status, body["code"].as_str()),
        (expected.0, Some(expected.1)),
        "{row}: {body}"
    );
    assert!(
        body["message"].is_string() && body["requestid"].is_string(),
        "{row}: {body}"
    );
    assert!(
        body.get("errcode").is_none() && body.get("success").is_none(),
        "{row}: {body}"
    );
}

/// One of the legacy family comes with HTTP 200; `sub_code` where the gateway wraps it.
fn check_legacy(row: &str, (status, body): &(u16, Value), errcode: i64, sub_code: Option<&str>) {
    assert_eq!(
        (*status, body["errcode"].as_i64()),
        (200, Some(errcode)),
        "{row}: {body}"
    );
    assert_eq!(body["sub_code"].as_str(), sub_code, "{row}: {body}");
    let errmsg = body["errmsg"].as_str().unwrap();
    if let Some(sub_code) = sub_code {
        assert!(
            errmsg.starts_with(&format!("ding talk error[subcode={sub_code},submsg=")),
            "{row}: {body}"
        );
    }
    assert!(
        body.get("code").is_none() && body.get("result").is_none(),
        "{row}: {body}"
    );
}

#[test]
fn every_good_call_succeeds_in_its_familys_form() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    let (status, answer) = sandbox.ask("GET /gettoken?appkey=dingsandbox&appsecret=sandbox-secret", &[], "");
    assert_eq!(
        (status, &answer["errcode"], &answer["expires_in"]),
        (200, &json!(0), &json!(7200))
    );
    let body = r#"{"appKey":"dingsandbox","appSecret":"sandbox-secret"}"#;
    let (status, answer) = sandbox.ask(
        "POST /v1.0/oauth2/accessToken",
        &[("content-type", "application/json")],
        body,
    );
    assert_eq!(
        (status, &answer["accessToken"], &answer["expireIn"]),
        (200, &json!(sandbox.token), &json!(7200))
    );
    for (line, id, path, value) in [
        (LOOK_UP, "", "/result/userid", json!("u15012341231")),
        (SEND, "s", "/success", json!(true)),
        (UPDATE_SENT, "s", "/success", json!("true")),
        (CREATE_AND_DELIVER, "a", "/result/deliverResults/0/success", json!(true)),
        (UPDATE, "a", "/result", json!(true)),
        (CREATE, "b", "/result", json!("b")),
        (SPACES, "b", "/result", json!(true)),
        (DELIVER, "b", "/result/0/success", json!(true)),
    ] {
        let (status, answer) = sandbox.call(line, &good(line, id));
        assert_eq!((status, answer.pointer(path)), (200, Some(&value)), "{line}: {answer}");
        assert_eq!(line == LOOK_UP, answer.get("errcode").is_some(), "{line}: {answer}");
    }
}

#[test]
fn the_getters_refuse_as_section_2_says() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    for (row, query, errcode) in [
        ("2.1 wrong secret", "appkey=dingsandbox&appsecret=x", 40096),
        ("2.1 wrong key", "appkey=x&appsecret=sandbox-secret", 40096),
        ("2.1 key missing", "appsecret=sandbox-secret", 40035),
        ("2.1 secret missing", "appkey=dingsandbox", 40035),
    ] {
        let answer = sandbox.ask(&format!("GET /gettoken?{query}"), &[], "");
        check_legacy(row, &answer, errcode, None);
        assert!(answer.1.get("request_id").is_none(), "{row}: {}", answer.1);
    }
    let json = [("content-type", "application/json")];
    let answer = sandbox.ask(
        "POST /v1.0/oauth2/accessToken",
        &json,
        r#"{"appKey":"dingsandbox","appSecret":"x"}"#,
    );
    check_new("2.2 wrong secret", &answer, (400, "invalidClientIdOrSecret"));
    for (row, fault, errcode, sub_code) in [
        ("2.1 40089", json!({"errcode": 40089}), 40089, None),
        ("2.1 40001", json!({"errcode": 40001}), 40001, None),
        ("2.1 40013", json!({"errcode": 40013}), 40013, None),
        ("2.1 41002", json!({"errcode": 41002}), 41002, None),
        ("2.1 41004", json!({"errcode": 41004}), 41004, None),
        ("2.1 90018 unwrapped", json!({"errcode": 90018}), 90018, None),
        (
            "2.1 90002 wrapped",
            json!({"errcode": 88, "sub_code": "90002"}),
            88,
            Some("90002"),
        ),
        ("2.1 -1", json!({"errcode": -1}), -1, None),
    ] {
        sandbox.faults(&json!([with(json!({"kind": "error"}), &fault)]));
        let answer = sandbox.ask("GET /gettoken?appkey=dingsandbox&appsecret=sandbox-secret", &[], "");
        check_legacy(row, &answer, errcode, sub_code);
    }
}

#[test]
fn tokens_addresses_and_permissions_are_refused_as_sections_2_4_and_2_5_say() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    let json = ("content-type", "application/json");
    let wrong = ("x-acs-dingtalk-access-token", "wrong");
    for line in [SEND, UPDATE_SENT, CREATE_AND_DELIVER, CREATE, SPACES, DELIVER, UPDATE] {
        let body = good(line, "a").to_string();
        check_new(
            "2.4 wrong token",
            &sandbox.ask(line, &[json, wrong], &body),
            (400, "InvalidAuthentication"),
        );
        let missing = (400, "AuthenticationFailed.MissingParameter");
        check_new("2.4 no token", &sandbox.ask(line, &[json], &body), missing);
        let bearer = format!("Bearer {}", sandbox.token);
        let elsewhere = format!("{line}?access_token={}", sandbox.token);
        check_new(
            "1 token elsewhere",
            &sandbox.ask(&elsewhere, &[json, ("authorization", &bearer)], &body),
            missing,
        );
        let form = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("x-acs-dingtalk-access-token", &*sandbox.token),
        ];
        check_new("1 a form", &sandbox.ask(line, &form, "a=b"), (400, "Missingbody"));
    }
    let body = good(LOOK_UP, "").to_string();
    check_legacy("2.4 no token", &sandbox.ask(LOOK_UP, &[json], &body), 88, Some("40000"));
    let query = format!("{LOOK_UP}?access_token=wrong");
    check_legacy(
        "2.4 wrong token",
        &sandbox.ask(&query, &[json], &body),
        88,
        Some("40014"),
    );

    for errcode in [40014, 42001, 40001, 33001, 41001, 43007, 50002] {
        sandbox.faults(&json!([{"kind": "error", "errcode": errcode}]));
        check_legacy(
            "2.4, 2.5 unwrapped",
            &sandbox.call(LOOK_UP, &good(LOOK_UP, "")),
            errcode,
            None,
        );
    }
    for (row, status, code) in [
        ("2.4 401", 401, "InvalidAuthentication"),
        ("2.4 403", 403, "InvalidAccessToken"),
        ("6 unauthorized.client", 401, "unauthorized.client"),
        ("2.2 server.error", 500, "server.error"),
    ] {
        sandbox.faults(&json!([{"kind": "error", "status": status, "code": code}]));
        check_new(row, &sandbox.call(CREATE, &good(CREATE, "a")), (status, code));
    }
    for (row, reason, sub_code, code) in [
        (
            "2.5 address",
            "ip_not_allowed",
            "60020",
            "Forbidden.AccessDenied.IpNotInWhiteList",
        ),
        (
            "2.5 permission",
            "permission_missing",
            "60011",
            "Forbidden.AccessDenied.AccessTokenPermissionDenied",
        ),
        (
            "7 app and API",
            "throttled",
            "90018",
            "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi",
        ),
        (
            "7 API",
            "api_throttled",
            "90002",
            "Forbidden.AccessDenied.QpsLimitForApi",
        ),
    ] {
        sandbox.faults(&json!([{"kind": "refuse", "reason": reason}]));
        check_legacy(row, &sandbox.call(LOOK_UP, &good(LOOK_UP, "")), 88, Some(sub_code));
        check_new(row, &sandbox.call(CREATE, &good(CREATE, "a")), (403, code));
    }
    sandbox.faults(&json!([{"kind": "refuse", "reason": "quota_spent"}]));
    check_new(
        "7 month",
        &sandbox.call(CREATE, &good(CREATE, "a")),
        (403, "Forbidden.AccessDenied.ApiCountLimitForOrg"),
    );
    check_legacy(
        "7 month, legacy",
        &order(&sandbox, &json!({"errcode": 88, "sub_code": "90020"})),
        88,
        Some("90020"),
    );

    let poor = Sandbox::start(
        "rate_per_second = 0\n[sandbox.apps.dingsandbox]\nsecret = 'sandbox-secret'\nrobot_code = 'r'\npermissions = []\n",
    );
    let denied = poor.call(CREATE, &good(CREATE, "a"));
    check_new(
        "2.5 not granted",
        &denied,
        (403, "Forbidden.AccessDenied.AccessTokenPermissionDenied"),
    );
    assert_eq!(
        denied.1["accessdenieddetail"]["requiredScopes"],
        json!(["Card.Instance.Write"])
    );
    let denied = poor.call(LOOK_UP, &good(LOOK_UP, ""));
    check_legacy("2.5 not granted", &denied, 88, Some("60011"));
    assert!(
        denied.1["errmsg"]
            .as_str()
            .unwrap()
            .contains("{requiredScopes=[qyapi_get_member_by_mobile]}")
    );
}

/// A look-up that gets an ordered error.
fn order(sandbox: &Sandbox, error: &Value) -> (u16, Value) {
    sandbox.faults(&json!([with(json!({"kind": "error"}), error)]));
    sandbox.call(LOOK_UP, &good(LOOK_UP, ""))
}

#[test]
fn look_ups_are_refused_as_section_3_says() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    for (row, changes, errcode) in [
        ("3 unknown", json!({"mobile": "15000000000"}), 60121),
        ("6 disabled", json!({"mobile": "15000000001"}), 60120),
        ("3 invalid", json!({"mobile": "manager7"}), 40104),
        ("3 parameter wrong", json!({"mobile": 15}), 400_002),
        ("3 flag wrong", json!({"support_exclusive_account_search": 7}), 400_002),
        ("3 missing", json!({"mobile": null}), 40035),
    ] {
        check_legacy(
            row,
            &sandbox.call(LOOK_UP, &with(good(LOOK_UP, ""), &changes)),
            errcode,
            None,
        );
    }
    check_legacy("3 bad format", &sandbox.call(LOOK_UP, &json!([])), 40038, None);
    check_legacy(
        "3 wrong path",
        &sandbox.call("POST /topapi/v2/user/getbymobil", &json!({})),
        22,
        None,
    );
    let (status, answer) = sandbox.call("POST /v1.0/card/instance", &json!({}));
    assert_eq!((status, &answer["errcode"]), (200, &json!(404)));
    for errcode in [
        60103, 40022, -1, 33012, 40003, 60111, 400_001, 45009, 90001, 90003, 90014, 90017, 90019,
    ] {
        check_legacy("3, 6", &order(&sandbox, &json!({"errcode": errcode})), errcode, None);
    }
}

#[test]
fn interactive_cards_are_refused_as_sections_4_4_and_4_5_say() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    let long = "a".repeat(101);
    let many: Vec<_> = (0..21).map(|n| format!("u{n}")).collect();
    let group = json!({"conversationType": 1, "openConversationId": "cidAbC=="});
    for (row, changes, code) in [
        ("type missing", json!({"conversationType": null}), "param.empty"),
        ("nobody", json!({"receiverUserIdList": []}), "param.empty"),
        ("data missing", json!({"cardData": null}), "param.empty"),
        ("type wrong", json!({"conversationType": 2}), "param.invalid"),
        (
            "a number for a value",
            json!({"cardData": {"cardParamMap": {"pv": 1}}}),
            "param.invalid",
        ),
        ("21 receivers", json!({"receiverUserIdList": many}), "param.invalid"),
        (
            "over 100 KB",
            json!({"cardData": {"cardParamMap": {"pv": "x".repeat(100_001)}}}),
            "param.invalid",
        ),
        ("template empty", json!({"cardTemplateId": ""}), "card.templateEmpty"),
        ("ID empty", json!({"outTrackId": ""}), "card.outTraceIdEmpty"),
        ("ID malformed", json!({"outTrackId": "a b"}), "card.outTraceIdError"),
        ("ID too long", json!({"outTrackId": long}), "outTrackId.exceed.limit"),
        (
            "template unknown",
            json!({"cardTemplateId": "TPL0000"}),
            "cardInstance.wrong",
        ),
        (
            "template unpublished",
            json!({"cardTemplateId": "TPL0001"}),
            "cardInstance.wrong",
        ),
        (
            "user unknown",
            json!({"receiverUserIdList": ["u1", "u0000"]}),
            "userInfo.convertError",
        ),
        (
            "group missing",
            json!({"conversationType": 1}),
            "invalidParameter.cid.empty",
        ),
        (
            "group unknown",
            json!({"conversationType": 1, "openConversationId": "nogroup"}),
            "cidParse.wrong",
        ),
        (
            "group dissolved",
            json!({"conversationType": 1, "openConversationId": "cid0001"}),
            "sceneGroupNotFound",
        ),
        (
            "robot of another",
            json!({"robotCode": "dingsandbox2"}),
            "invalid.robotCode",
        ),
        (
            "group without robot",
            with(group, &json!({"robotCode": ""})),
            "chatbot.notFound",
        ),
    ] {
        let answer = sandbox.call(SEND, &with(good(SEND, "a"), &changes));
        check_new(&format!("4.4 {row}"), &answer, (400, code));
    }
    for (row, changes, code) in [
        ("not there", json!({"outTrackId": "none"}), "cardInstance.notExist"),
        ("ID empty", json!({"outTrackId": null}), "card.outTraceIdEmpty"),
        ("ID malformed", json!({"outTrackId": "a\tb"}), "card.outTraceIdError"),
        (
            "ID too long",
            json!({"outTrackId": "a".repeat(101)}),
            "outTrackIdLengthLimited",
        ),
        ("data wrong", json!({"cardData": []}), "param.invalid"),
    ] {
        let answer = sandbox.call(UPDATE_SENT, &with(good(UPDATE_SENT, "a"), &changes));
        check_new(&format!("4.5 {row}"), &answer, (400, code));
    }
    for (line, status, codes) in [
        (
            SEND,
            400,
            &[
                "callbackUrl.empty",
                "duplicateKey",
                "org.notOwn.group",
                "sceneGroup.checkFailed",
                "queryChatbot.wrong",
                "permission.checkFailed",
                "getPictureFailed",
                "sendCardMessageFailed",
                "send.oa.failed",
                "chatbotNotFound",
                "chatbotId.notAllow.sendOTO",
                "userNotExist",
                "emptyUserId",
                "uidDecryptError",
                "cidDecryptError",
                "decryptOpenconversationIdFailed",
                "contentSecurityChckFailed",
                "contentCheckError",
                "card.content.checkFailed",
                "cardTemplateInvalid",
                "outTrackId.outOfLimit",
            ][..],
        ),
        (SEND, 500, &["systemBusy", "systemError"]),
        (SEND, 429, &["systemBusy"]),
        (
            UPDATE_SENT,
            400,
            &[
                "userInfo.convertError",
                "sendCardMessageFailed",
                "uidDecryptError",
                "duplicateKey",
                "getPictureFailed",
                "contentCheckError",
            ],
        ),
        (UPDATE_SENT, 500, &["systemBusy"]),
    ] {
        for code in codes {
            sandbox.faults(&json!([{"kind": "error", "status": status, "code": code}]));
            check_new(
                "4.4, 4.5 ordered",
                &sandbox.call(line, &good(line, "a")),
                (status, code),
            );
        }
    }
    let small = Sandbox::start("rate_per_second = 0\nconversations = { 'cidAbC==' = ['dingsandbox2'] }");
    let group = json!({"conversationType": 1, "openConversationId": "cidAbC==", "receiverUserIdList": null});
    check_new(
        "4.4 robot not in the group",
        &small.call(SEND, &with(good(SEND, "a"), &group)),
        (400, "chatbotNotInstall"),
    );
}

#[test]
fn instances_are_refused_as_section_5_4_says() {
    let sandbox = Sandbox::start("rate_per_second = 0");
    sandbox.call(CREATE_AND_DELIVER, &good(CREATE_AND_DELIVER, "there"));
    sandbox.call(
        CREATE,
        &with(good(CREATE, "bare"), &json!({"imRobotOpenSpaceModel": null})),
    );
    for (line, changes, code) in [
        (CREATE_AND_DELIVER, json!({"outTrackId": null}), "param.outTrackIdEmpty"),
        (
            CREATE_AND_DELIVER,
            json!({"outTrackId": "a".repeat(101)}),
            "param.invalid",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"cardTemplateId": null}),
            "param.cardTemplateIdEmpty",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"cardTemplateId": "TPL0000"}),
            "param.templateNotExist",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"cardTemplateId": "TPL0001"}),
            "param.templateUnpublished",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"cardData": null}),
            "param.cardPublicDataEmpty",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"openSpaceId": null}),
            "param.openSpaceIdEmpty",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"openSpaceId": "IM_ROBOT.u1"}),
            "param.openSpaceIdInvalid",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"openSpaceId": format!("dtv1.card//IM_ROBOT.{}", "u".repeat(1000))}),
            "param.openSpaceIdInvalid",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"imRobotOpenDeliverModel": null}),
            "param.openDeliverModelEmpty",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"imRobotOpenDeliverModel": {"spaceType": "IM_GROUP"}}),
            "param.openDeliverModelError",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"imRobotOpenDeliverModel": null, "imGroupOpenDeliverModel": {"robotCode": "dingsandbox"}}),
            "param.spaceDeliverModelEmpty",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"imRobotOpenSpaceModel": {}}),
            "param.openSpaceModelInvalid",
        ),
        (
            CREATE_AND_DELIVER,
            json!({"outTrackId": "there"}),
            "param.cardAlreadyExist",
        ),
        (CREATE, json!({"outTrackId": "there"}), "param.cardAlreadyExist"),
        (CREATE, json!({"callbackType": "http"}), "param.invalid"),
        (SPACES, json!({"outTrackId": "none"}), "param.cardNotExist"),
        (
            SPACES,
            json!({"outTrackId": "there", "imRobotOpenSpaceModel": null}),
            "param.openSpaceModelInvalid",
        ),
        (DELIVER, json!({"outTrackId": "none"}), "param.cardNotExist"),
        (DELIVER, json!({"outTrackId": "bare"}), "param.openSpaceModelInvalid"),
        (UPDATE, json!({"outTrackId": "none"}), "param.cardNotExist"),
        (
            UPDATE,
            json!({"outTrackId": "there", "cardData": null}),
            "param.cardDataAndPrivateDataBothEmpty",
        ),
    ] {
        let answer = sandbox.call(line, &with(good(line, "a"), &changes));
        check_new(&format!("5.4 {line} {changes}"), &answer, (400, code));
    }
    for (status, code) in [
        (400, "param.empty"),
        (400, "param.userIdEmpty"),
        (400, "param.contentUnsafe"),
        (400, "param.userIdNotExist"),
        (400, "param.dynamicDataSourceIdEmpty"),
        (429, "system.busy"),
        (500, "system.busy"),
        (502, "x"),
        (503, "x"),
        (504, "x"),
    ] {
        sandbox.faults(&json!([{"kind": "error", "status": status, "code": code}]));
        check_new(
            "5.4 ordered",
            &sandbox.call(CREATE_AND_DELIVER, &good(CREATE_AND_DELIVER, "a")),
            (status, code),
        );
    }
    sandbox.faults(&json!([]));
    // Failures inside an HTTP 200.
    let group = json!({"openSpaceId": "dtv1.card//IM_GROUP.cidAbC==", "imGroupOpenSpaceModel": {"supportForward": true},
        "imGroupOpenDeliverModel": {"robotCode": "dingsandbox2"}});
    for (id, changes, message) in [
        (
            "w1",
            json!({"openSpaceId": "dtv1.card//im_robot.u0000;"}),
            "spaceId is illegal",
        ),
        (
            "w2",
            json!({"openSpaceId": "dtv1.card//IM_ROBOT.u0001"}),
            "spaceId is illegal",
        ),
        ("w3", group, "chatbot not exist"),
    ] {
        let (status, answer) = sandbox.call(CREATE_AND_DELIVER, &with(good(CREATE_AND_DELIVER, id), &changes));
        let result = &answer["result"]["deliverResults"][0];
        assert_eq!(
            (status, &answer["success"], &result["success"]),
            (200, &json!(true), &json!(false)),
            "{answer}"
        );
        assert_eq!(
            (&result["errorMsg"], &result["carrierId"]),
            (&json!(message), &json!("")),
            "{answer}"
        );
    }
    sandbox.faults(&json!([{"kind": "fail_delivery", "message": "SYSTEM_ERROR"}]));
    let (status, answer) = sandbox.call(DELIVER, &good(DELIVER, "there"));
    assert_eq!(
        (status, &answer["result"][0]["errorMsg"]),
        (200, &json!("SYSTEM_ERROR")),
        "{answer}"
    );
}

#[test]
fn limits_are_refused_as_section_7_says() {
    let sandbox = Sandbox::start("rate_per_second = 1");
    // Two of many calls fall into one second, however slow the machine is.
    let busy = |line: &str| {
        let mut answers = (0..200).map(|_| sandbox.call(line, &good(line, "none")));
        answers.find(|(_, body)| body.to_string().contains("QpsLimit") || body.to_string().contains("90018"))
    };
    check_new(
        "7 a second",
        &busy(UPDATE).unwrap(),
        (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"),
    );
    let legacy = busy(LOOK_UP).unwrap();
    check_legacy("7 a second", &legacy, 88, Some("90018"));
    // The end of the window, in Beijing time.
    assert!(legacy.1["errmsg"].as_str().unwrap().contains("结束"), "{}", legacy.1);

    sandbox.faults(&json!([{"kind": "throttle", "on": false}, {"kind": "ip_ban"}]));
    let ban = sandbox.call(UPDATE, &good(UPDATE, "a"));
    assert_eq!(ban, (200, json!({"status": 1111, "wait": 5, "punish": "deny"})));
    sandbox.faults(&json!([{"kind": "html"}]));
    let (_, page) = sandbox.call(LOOK_UP, &good(LOOK_UP, ""));
    assert!(page.as_str().unwrap().starts_with("<!doctype html>"));
    for code in [
        "QpmLimitForAppkeyAndApi",
        "QpsLimitForSuitekeyAndOrgAndApi",
        "QpmLimitForSuitekeyAndOrgAndApi",
    ] {
        let code = format!("Forbidden.AccessDenied.{code}");
        sandbox.faults(&json!([{"kind": "error", "status": 403, "code": code}]));
        check_new("6 throttle", &sandbox.call(CREATE, &good(CREATE, "a")), (403, &code));
    }
}

#[test]
fn error_fields_come_in_either_letter_case() {
    let sandbox = Sandbox::start("assume = { capital_error_fields = true }");
    let (status, answer) = sandbox.call(UPDATE, &good(UPDATE, "none"));
    assert_eq!(
        (status, &answer["Code"]),
        (400, &json!("param.cardNotExist")),
        "{answer}"
    );
    assert!(
        answer["RequestId"].is_string() && answer["Message"].is_string() && answer.get("code").is_none(),
        "{answer}"
    );
}

#[test]
fn what_is_unknown_can_be_set_the_other_way() {
    let other = "repeated_send_shows_nothing repeated_create_succeeds bad_receiver_is_skipped token_life_counts_down";
    let settings: Vec<_> = other.split(' ').map(|key| format!("{key} = true")).collect();
    let sandbox = Sandbox::start(&format!("rate_per_second = 0\nassume = {{ {} }}", settings.join(", ")));
    for _ in 0..2 {
        let receivers = json!({"receiverUserIdList": ["u1", "u0000"]});
        assert_eq!(sandbox.call(SEND, &with(good(SEND, "s"), &receivers)).0, 200);
        assert_eq!(sandbox.call(CREATE_AND_DELIVER, &good(CREATE_AND_DELIVER, "c")).0, 200);
    }
    let (_, calls) = sandbox.ask("GET /sandbox/calls", &[], "");
    assert_eq!(
        calls["deliveries"],
        json!({"total": 2, "recipients": 1, "duplicates": 0})
    );

    let sandbox = Sandbox::start("assume = { unknown_user_refuses_call = true, one_receiver_per_chat = true }");
    let unknown = with(
        good(CREATE_AND_DELIVER, "c"),
        &json!({"openSpaceId": "dtv1.card//IM_ROBOT.u1;IM_ROBOT.u0000"}),
    );
    check_new(
        "10",
        &sandbox.call(CREATE_AND_DELIVER, &unknown),
        (400, "param.userIdNotExist"),
    );
    let two = with(good(SEND, "s"), &json!({"receiverUserIdList": ["u1", "u2"]}));
    check_new("4.2 one", &sandbox.call(SEND, &two), (400, "param.invalid"));
    let (_, cards) = sandbox.ask("GET /sandbox/cards", &[], "");
    assert_eq!(cards["total"], 0);
}
