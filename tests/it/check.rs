//! `dingcard check`: each step of the set-up, missing once, and named.

use std::process::Output;

use lapin::options::QueueDeclareOptions;
use lapin::types::{AMQPValue, FieldTable, LongString};
use serde_json::{Value, json};

use crate::broker::Broker;
use crate::producers::with_channel;
use crate::redis_server::RedisServer;
use crate::stand::Stand;

/// What a check said.
struct Said {
    text: String,
    code: Option<i32>,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        Self {
            text: text.concat(),
            code: output.status.code(),
        }
    }

    /// The lines about `what`, without it.
    fn about(&self, what: &str) -> Vec<(&str, &str)> {
        let mut lines = Vec::new();
        for state in ["ok", "FAILED", "not tried", "note"] {
            let begin = format!("{state:<9} {what} ");
            lines.extend(
                self.text
                    .lines()
                    .filter_map(|line| Some((state, line.strip_prefix(&begin)?.trim()))),
            );
        }
        lines
    }

    fn is(&self, what: &str, state: &str) {
        let found = self.about(what);
        let states: Vec<_> = found.iter().map(|(state, _)| *state).collect();
        assert_eq!(states, [state], "{what} in\n{}", self.text);
    }

    /// `what` alone failed, and what is said of it or of its remedy holds `parts`.
    fn names(&self, what: &str, parts: &[&str]) {
        self.is(what, "FAILED");
        let failed = self.text.lines().filter(|line| line.starts_with("FAILED")).count();
        assert_eq!((failed, self.code), (1, Some(1)), "{}", self.text);
        let from = self.text.find("FAILED").unwrap();
        let both: Vec<_> = self.text[from..].lines().take(2).collect();
        assert!(both[1].trim().starts_with("-> "), "no remedy in\n{}", self.text);
        for part in parts {
            assert!(both.concat().contains(part), "{part} is not in {both:?}");
        }
    }
}

fn check(stand: &Stand, args: &[&str]) -> Said {
    Said::of(&stand.run(&[&["check"], args].concat(), ""))
}

/// A stand whose topology is there.
fn stand() -> Stand {
    declared(Stand::new())
}

fn declared(stand: Stand) -> Stand {
    let output = stand.run(&["topology"], "");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    stand
}

fn refused(endpoint: &str, status: u16, code: &str) -> Value {
    json!([{"kind": "error", "endpoint": endpoint, "status": status, "code": code}])
}

#[test]
fn a_set_up_that_is_whole_is_ok_from_the_configuration_to_a_card_on_a_phone() {
    let server = RedisServer::start();
    let stand = stand()
        .with("REDIS__URL", &server.url())
        .with("APPS__DEFAULT__MONTHLY_CALLS", "5000");
    let said = check(&stand, &["--to", "15012341231"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    for what in [
        "configuration",
        "broker",
        "topology",
        "redis",
        "default: token",
        "default: IP whitelist",
        "default: look-up",
        "default: template overtime",
        "default: robot",
        "default: card",
    ] {
        said.is(what, "ok");
    }
    said.is("arguments and bindings", "not tried");
    assert!(
        said.about("broker")[0].1.starts_with("RabbitMQ 3.") || said.about("broker")[0].1.starts_with("RabbitMQ 4.")
    );
    assert_eq!(said.about("default: budget"), []);
    assert_eq!(said.about("default: card"), [("ok", "shown to 150****1231")]);
    for hidden in ["15012341231", "sandbox-secret", "guest:guest", "\u{1b}"] {
        assert!(!said.text.contains(hidden), "{hidden:?} is in {}", said.text);
    }
    assert_eq!(stand.calls()["deliveries"]["total"], json!(1));
}

#[test]
fn nobody_is_shown_anything_unless_it_is_asked_for() {
    let stand = stand();
    let said = check(&stand, &[]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    said.is("default: robot", "ok");
    said.is("default: card", "not tried");
    said.is("redis", "note");
    assert_eq!(stand.calls()["deliveries"]["total"], json!(0));
}

#[test]
fn a_wrong_secret_and_an_unknown_key_are_told_as_credentials_and_nothing_after_is_tried() {
    for (key, token_api) in [
        ("APP_SECRET", "oauth2"),
        ("APP_KEY", "oauth2"),
        ("APP_SECRET", "gettoken"),
    ] {
        let stand = stand()
            .with(&format!("APPS__DEFAULT__{key}"), "wrong")
            .with("APPS__DEFAULT__TOKEN_API", token_api);
        let said = check(&stand, &["--to", "15012341231"]);
        said.names(
            "default: token",
            &["bad_credentials", "app_key and app_secret", "Client Secret"],
        );
        for what in ["IP whitelist", "look-up", "template", "robot", "card"] {
            said.is(&format!("default: {what}"), "not tried");
        }
    }
}

#[test]
fn a_secret_is_tried_although_workers_share_a_token() {
    let server = RedisServer::start();
    let stand = stand().with("REDIS__URL", &server.url());
    assert!(stand.run(&["send", "--user-id", "a"], "").status.success());
    assert!(server.entries().iter().any(|(key, _)| key.contains(":token:")));
    check(&stand.with("APPS__DEFAULT__APP_SECRET", "wrong"), &[]).names("default: token", &["bad_credentials"]);
}

#[test]
fn an_ip_that_is_not_on_the_whitelist_is_named_whichever_family_says_so() {
    let stand = stand();
    stand.faults(&json!([{"kind": "error", "endpoint": "getbymobile", "errcode": 88, "sub_code": "60020"}]));
    let said = check(&stand, &[]);
    said.names("default: IP whitelist", &["ip_not_allowed", "60020", "服务器出口IP"]);
    said.is("default: token", "ok");
    for what in ["look-up", "template", "robot", "card"] {
        said.is(&format!("default: {what}"), "not tried");
    }
    stand.faults(&refused("create", 403, "Forbidden.AccessDenied.IpNotInWhiteList"));
    check(&stand, &[]).names("default: IP whitelist", &["ip_not_allowed"]);
    stand.faults(&refused("accessToken", 403, "Forbidden.AccessDenied.IpNotInWhiteList"));
    check(&stand, &[]).names("default: IP whitelist", &["ip_not_allowed"]);
}

#[test]
fn a_permission_that_is_missing_is_named_by_what_it_is_for() {
    let stand = stand();
    stand.faults(&json!([{"kind": "refuse", "endpoint": "getbymobile", "reason": "permission_missing"}]));
    let said = check(&stand, &["--to", "15012341231"]);
    said.names(
        "default: look-up",
        &["permission_missing", "qyapi_get_member_by_mobile", "权限管理"],
    );
    said.is("default: template overtime", "ok");
    said.is("default: card", "not tried");
    stand.faults(&json!([{"kind": "refuse", "endpoint": "create", "reason": "permission_missing"}]));
    let said = check(&stand, &[]);
    said.names(
        "default: template overtime",
        &["permission_missing", "Card.Instance.Write"],
    );
    said.is("default: robot", "not tried");
    said.is("default: IP whitelist", "ok");
}

#[test]
fn a_template_that_is_missing_unpublished_or_not_set_is_named() {
    let stand = stand()
        .with("TEMPLATES__GONE__ID", "tpl0000")
        .with("TEMPLATES__DRAFT__ID", "tpl0001")
        .with("TEMPLATES__DRAFT__REQUIRED", r#"["pv"]"#);
    let said = check(&stand, &[]);
    said.is("default: template overtime", "ok");
    for alias in ["gone", "draft"] {
        said.is(&format!("default: template {alias}"), "FAILED");
    }
    said.is("default: robot", "ok");
    let named = check(
        &stand
            .with("APPS__DEFAULT__TEMPLATE", "gone")
            .with("TEMPLATES__DRAFT__ID", "good"),
        &[],
    );
    named.names(
        "default: template gone",
        &["template_invalid", "param.templateNotExist"],
    );

    let none = declared(Stand::new().with_second_app());
    let said = check(&none, &["--app", "sales"]);
    said.is("sales: template", "not tried");
    said.is("sales: robot", "not tried");
    assert!(
        said.code == Some(0) && said.text.contains("apps.NAME.template"),
        "{}",
        said.text
    );
}

#[test]
fn a_robot_that_is_not_the_apps_is_named_on_both_card_apis() {
    let to = &["--to", "15012341231"];
    let stand = stand().with("APPS__DEFAULT__ROBOT_CODE", "dingother");
    check(&stand, &[]).names("default: robot", &["robot_invalid", "robot_code", "机器人"]);
    let said = check(&stand, to);
    said.names("default: robot", &["robot_invalid"]);
    said.is("default: card", "not tried");
    let said = check(&stand.with("APPS__DEFAULT__CARD_API", "interactive"), to);
    said.names("default: robot", &["robot_invalid"]);
    said.is("default: template", "not tried");
}

#[test]
fn interactive_cards_are_tried_only_by_showing_one() {
    let stand = stand().with("APPS__DEFAULT__CARD_API", "interactive");
    let said = check(&stand, &[]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    for what in ["default: template", "default: robot"] {
        assert!(said.about(what)[0].1.contains("--to MOBILE"), "{}", said.text);
        said.is(what, "not tried");
    }
    let said = check(&stand, &["--to", "15012341231"]);
    assert_eq!(said.code, Some(0), "{}", said.text);
    for what in ["default: template overtime", "default: robot", "default: card"] {
        said.is(what, "ok");
    }
    stand.faults(&refused("interactiveCards.send", 400, "cardInstance.wrong"));
    let said = check(&stand, &["--to", "15012341231"]);
    said.names(
        "default: template overtime",
        &["template_invalid", "cardInstance.wrong"],
    );
}

#[test]
fn a_mobile_that_is_nobodys_is_the_cards_trouble_and_no_steps() {
    let said = check(&stand(), &["--to", "15012340000"]);
    said.names("default: card", &["user_not_found"]);
    said.is("default: robot", "ok");
}

#[test]
fn each_app_is_tried_by_itself_and_one_can_be_asked_for() {
    let stand = declared(Stand::new().with_second_app())
        .with("APPS__SALES__TEMPLATE", "T")
        .with("APPS__SALES__APP_SECRET", "wrong")
        .with("APPS__SALES__PAUSED", "true")
        .with("APPS__SALES__MONTHLY_CALLS", "5000");
    let said = check(&stand, &[]);
    said.names("sales: token", &["bad_credentials"]);
    said.is("default: template overtime", "ok");
    said.is("sales: paused", "note");
    said.is("sales: budget", "note");
    let said = check(&stand, &["--app", "default"]);
    assert_eq!(
        (said.code, said.text.contains("sales: ")),
        (Some(0), false),
        "{}",
        said.text
    );
    let said = check(&stand, &["--app", "nobody"]);
    assert_eq!(said.code, Some(64));
    assert!(
        said.text.contains("apps.nobody") && said.text.contains("default, sales"),
        "{}",
        said.text
    );
}

#[test]
fn dingtalk_out_of_reach_is_named_and_so_is_a_bad_configuration() {
    let stand = stand().with("DINGTALK__API_URL", "http://127.0.0.1:1");
    check(&stand, &[]).names("default: token", &["network", "dingtalk.api_url"]);
    let said = check(&stand.with("AMQP__PREFECH", "7"), &[]);
    assert_eq!(said.code, Some(64));
    assert!(said.text.contains("DINGCARD_AMQP__PREFECH"), "{}", said.text);
}

#[test]
fn redis_out_of_reach_is_named_and_nothing_else_suffers() {
    let mut server = RedisServer::start();
    server.kill();
    let said = check(&stand().with("REDIS__URL", &server.url()), &[]);
    said.names("redis", &["redis.url"]);
    said.is("default: robot", "ok");
}

#[test]
fn a_broker_that_lets_nobody_in_is_told_by_why() {
    let broker = Broker::start();
    let good = broker.url().to_owned();
    let host = good.split('@').nth(1).unwrap().split('/').next().unwrap();
    broker.ctl(&["add_vhost", "closed"]);
    broker.ctl(&["add_user", "limited", "pa55word"]);
    broker.ctl(&["set_permissions", "limited", "^$", "^$", "^$"]);
    let stand = |url: &str| Stand::on(url);
    let away = check(&stand("amqp://guest:pa55word@127.0.0.1:1/%2f"), &[]);
    away.names("broker", &["127.0.0.1:1", "Connection refused", "amqp.url"]);
    away.is("topology", "not tried");
    away.is("default: robot", "ok");
    for (url, parts) in [
        (
            format!("amqp://guest:pa55word@{host}/%2f"),
            &["ACCESS_REFUSED", "authenticate_user guest"][..],
        ),
        (
            format!("amqp://guest:guest@{host}/nope"),
            &["vhost nope not found", "add_vhost 'nope'"],
        ),
        (
            format!("amqp://limited:pa55word@{host}/closed"),
            &[
                "refused for user 'limited'",
                "set_permissions -p 'closed' limited",
                "^it",
            ],
        ),
    ] {
        let said = check(&stand(&url), &[]);
        said.names("broker", parts);
        said.is("topology", "not tried");
        assert!(!said.text.contains("pa55word"), "{}", said.text);
    }
    let limited = declared(stand(&good)).with("AMQP__URL", &format!("amqp://limited:pa55word@{host}/%2f"));
    let said = check(&limited, &[]);
    said.is("broker", "ok");
    said.names("topology", &["ACCESS_REFUSED", "set_permissions -p '/' limited"]);
}

#[test]
fn what_answers_and_is_no_broker_is_told() {
    let stand = Stand::new();
    let port = stand.sandbox_url.rsplit(':').next().unwrap().to_owned();
    let said = check(&stand.with("AMQP__URL", &format!("amqp://127.0.0.1:{port}/%2f")), &[]);
    said.names("broker", &["amqp.url"]);
}

/// Declares `<namespace>.jobs` with another delivery limit than a worker would.
fn declare_otherwise(stand: &Stand) {
    let queue = stand.queue("jobs");
    let mut arguments = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(LongString::from(text));
    for (key, value) in [
        ("x-queue-type", text("quorum")),
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(&stand.queue("dead"))),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-delivery-limit", AMQPValue::LongLongInt(5)),
    ] {
        arguments.insert(key.into(), value);
    }
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    with_channel(stand, async |channel| {
        channel.queue_declare(queue.into(), options, arguments).await.unwrap();
    });
}

#[test]
fn a_topology_that_is_missing_or_was_made_otherwise_is_told() {
    let stand = Stand::new();
    let said = check(&stand, &[]);
    said.names("topology", &["NOT_FOUND", "dingcard topology"]);
    said.is("broker", "ok");
    assert_eq!(check(&stand, &[]).code, Some(1), "a check makes nothing");
    declare_otherwise(&stand);
    // Whatever can be made is there afterwards.
    assert!(!stand.run(&["topology"], "").status.success());
    let others = [stand.queue("urgent"), stand.queue("suspect")];
    for name in &others {
        let options = QueueDeclareOptions {
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let quorum = AMQPValue::LongString(LongString::from("quorum"));
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), quorum);
        with_channel(&stand, async |channel| {
            let declared = channel.queue_declare(name.as_str().into(), options, arguments).await;
            declared.unwrap();
        });
    }
    let said = check(&stand, &[]);
    said.names("topology", &["PRECONDITION_FAILED", "x-delivery-limit", "frozen"]);
    let verifying = check(&stand.with("AMQP__TOPOLOGY", "verify"), &[]);
    verifying.is("topology", "ok");
}

#[test]
fn the_management_api_tells_of_arguments_and_bindings() {
    const WHAT: &str = "arguments and bindings";
    let (broker, url) = Broker::with_management();
    let stand = declared(Stand::on(broker.url()));
    let said = check(&stand, &["--management", &url]);
    said.is(WHAT, "ok");
    assert_eq!(said.code, Some(0), "the login of amqp.url serves: {}", said.text);

    let stranger = url.replace("//", "//stranger:pa55word@");
    let said = check(&stand, &["--management", &stranger]);
    said.names(WHAT, &["refuses user stranger", "set_user_tags stranger"]);
    assert!(!said.text.contains("pa55word"), "{}", said.text);
    check(&stand, &["--management", "http://127.0.0.1:1"]).names(WHAT, &["rabbitmq_management"]);
    check(&stand, &["--management", "127.0.0.1:15672"]).names(WHAT, &["http://USER:PASSWORD@HOST:15672"]);

    let (jobs, deliver) = (stand.queue("jobs"), stand.queue("delay.v1.deliver"));
    with_channel(&stand, async |channel| {
        let key = format!("#.{jobs}");
        let none = FieldTable::default;
        let gone = channel.queue_unbind(jobs.as_str().into(), deliver.as_str().into(), key.into(), none());
        gone.await.unwrap();
        let more = lapin::options::QueueBindOptions::default();
        let added = channel.queue_bind(
            jobs.as_str().into(),
            deliver.as_str().into(),
            "audit".into(),
            more,
            none(),
        );
        added.await.unwrap();
    });
    let said = check(&stand, &["--management", &url]);
    assert_eq!(
        said.about(WHAT),
        [
            (
                "FAILED",
                &*format!("binding of exchange {deliver} to queue {jobs} with key \"#.{jobs}\" is missing")
            ),
            (
                "note",
                &*format!(
                    "binding of exchange {deliver} to queue {jobs} with key \"audit\" is not dingcard's: it takes messages elsewhere"
                )
            ),
        ]
    );
    assert!(said.text.contains("dingcard topology --print"), "{}", said.text);

    let otherwise = Stand::on(broker.url()).with("AMQP__TOPOLOGY", "verify");
    declare_otherwise(&otherwise);
    let said = check(&otherwise, &["--management", &url]);
    let jobs = otherwise.queue("jobs");
    let told = said.about(WHAT);
    let frozen = format!("queue {jobs}: x-delivery-limit is 5, not 20");
    let missing = format!("queue {} is missing", otherwise.queue("urgent"));
    for expected in [&frozen, &missing] {
        assert!(
            told.contains(&("FAILED", expected)),
            "{expected} is not in\n{}",
            said.text
        );
    }
}
