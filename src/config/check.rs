//! What no single key says: ranges, names, and keys that need each other.
//!
//! Separate from the settings so that they read as a list. It names the key at fault; where that was set is found by
//! `config::load`.

use super::{App, Config, DEFAULT_APP, ExposeSecret};

/// Stands for "no known app" in metrics, so no app may have this name.
const RESERVED_APP: &str = "unknown";

/// DingTalk refuses more recipients in one call (`dingtalk-api.md` 4.2).
const MAX_RECIPIENTS_PER_CALL: usize = 20;

impl Config {
    /// What no single type says: ranges, names, and keys that need each other.
    pub(super) fn problems(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let mut refuse = |wrong: bool, key: &str, why: &str| {
            if wrong {
                found.push((key.to_owned(), why.to_owned()));
            }
        };
        let ns = &self.amqp.namespace;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        refuse(
            ns.is_empty() || ns.len() > 64 || !ns.chars().all(plain),
            "amqp.namespace",
            "1 to 64 of A-Z a-z 0-9 _ - .",
        );
        let url = self.amqp.url();
        let url = url.expose_secret();
        refuse(
            !url.starts_with("amqp://") && !url.starts_with("amqps://"),
            "amqp.url",
            "an amqp:// or amqps:// URL is needed",
        );
        refuse(
            self.amqp.prefetch == 0,
            "amqp.prefetch",
            "1 to 65535; 0 would be no limit at all",
        );
        refuse(self.amqp.heartbeat.as_secs() == 0, "amqp.heartbeat", "at least 1s");
        refuse(
            self.amqp.cert_file.is_some() != self.amqp.key_file.is_some(),
            "amqp.cert_file",
            "cert_file and key_file go together",
        );
        for (key, url) in [
            ("dingtalk.api_url", &self.dingtalk.api_url),
            ("dingtalk.oapi_url", &self.dingtalk.oapi_url),
        ] {
            let http = url.starts_with("http://") || url.starts_with("https://");
            refuse(
                !http || url.contains('?'),
                key,
                "an http:// or https:// URL without a query is needed",
            );
        }
        let redis = self.redis.url().map(ExposeSecret::expose_secret);
        refuse(
            redis.is_some_and(|url| !url.starts_with("redis://") && !url.starts_with("rediss://")),
            "redis.url",
            "a redis:// or rediss:// URL is needed",
        );
        let endpoint = self.otel.endpoint.as_deref();
        refuse(
            endpoint.is_some() && !cfg!(feature = "otlp"),
            "otel.endpoint",
            "this dingcard was built without OpenTelemetry (cargo's feature `otlp`): leave it out, or build with it",
        );
        refuse(
            endpoint.is_some_and(|url| !is_plain_base(url)),
            "otel.endpoint",
            "an http:// or https:// URL without user and query is needed (OTEL_EXPORTER_OTLP_HEADERS holds credentials)",
        );
        refuse(self.retry.max_attempts == 0, "retry.max_attempts", "at least 1");
        refuse(
            !(1.0..=100.0).contains(&self.retry.multiplier),
            "retry.multiplier",
            "1 to 100",
        );
        refuse(self.retry.initial.is_zero(), "retry.initial", "more than 0s");
        refuse(self.retry.immediate > 10, "retry.immediate", "0 to 10");
        refuse(
            self.retry.job_deadline.as_secs() > 600,
            "retry.job_deadline",
            "at most 10m, far below the broker's limit",
        );
        refuse(self.retry.job_deadline.is_zero(), "retry.job_deadline", "more than 0s");
        for (name, app) in &self.apps {
            for (wrong, key, why) in app.rules(name) {
                let key = format!("apps.{name}{key}");
                refuse(wrong, &key, why);
            }
        }
        found
    }
}

impl App {
    /// The rules of the app `name`: whether each is broken, by which key, and what would be right.
    fn rules(&self, name: &str) -> [(bool, &'static str, &'static str); 8] {
        let calls = self.recipients_per_call;
        let rate = self.rate_per_second;
        let untouched = name == DEFAULT_APP && self.app_key.is_none() && self.app_secret.is_none();
        [
            (
                !is_app_name(name),
                "",
                "an app is named by 1 to 32 of a-z 0-9 _, and not `unknown`",
            ),
            (
                calls == 0 || calls > MAX_RECIPIENTS_PER_CALL,
                ".recipients_per_call",
                "1 to 20: DingTalk refuses more in one call",
            ),
            (
                rate != 0.0 && !(0.01..=10_000.0).contains(&rate),
                ".rate_per_second",
                "0 for no limit, or 0.01 to 10000",
            ),
            (
                self.monthly_calls == Some(0),
                ".monthly_calls",
                "at least 1; leave it out to count nothing",
            ),
            (
                self.monthly_reserve > self.monthly_calls.unwrap_or_default(),
                ".monthly_reserve",
                "at most monthly_calls: it is a part of them",
            ),
            (!untouched && self.app_key.is_none(), ".app_key", "missing"),
            (!untouched && self.app_secret.is_none(), ".app_secret", "missing"),
            (!untouched && self.robot_code.is_none(), ".robot_code", "missing"),
        ]
    }
}

/// Whether paths can be added to `url`, and it can be shown to anybody.
fn is_plain_base(url: &str) -> bool {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/') && !rest.contains(['?', '#', '@', ' ']))
}

/// Whether `name` can be an app's.
fn is_app_name(name: &str) -> bool {
    (1..=32).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && name != RESERVED_APP
}
