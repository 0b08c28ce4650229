//! `dingcard check`: everything that a worker needs, tried, a line each.

use std::path::Path;
use std::sync::Arc;

use anyhow::ensure;

use super::findings::Findings;
use super::trials::{Subject, Verdict};
use crate::amqp::{Broker, ConnectError};
use crate::config::{Config, ConfigError, SecretString};
use crate::dingtalk::DingTalk;
use crate::metrics::Metrics;
use crate::store::Store;

/// How far.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Show a real card to the user of this mobile.
    #[arg(long, value_name = "MOBILE")]
    to: Option<String>,
    /// Only this app.
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Compare arguments and bindings through RabbitMQ's management API, `http://USER:PASSWORD@HOST:15672`; without user and
    /// password, those of amqp.url are taken.
    #[arg(long, value_name = "URL", value_parser = secret)]
    management: Option<SecretString>,
}

pub(super) async fn run(config: &Config, file: Option<&Path>, args: Args) -> anyhow::Result<()> {
    let served = config.served_apps()?;
    let alone = served.len() == 1;
    let apps = match args.app.as_deref() {
        None => served,
        Some(name) if served.contains(&name) => vec![name],
        Some(name) => {
            let why = format!(
                "there is no such app with credentials; there are: {}",
                served.join(", ")
            );
            return Err(ConfigError::single(&format!("apps.{name}"), &why).into());
        }
    };
    let mut findings = Findings::new();
    let source = file.map_or("the defaults and the environment".to_owned(), |file| {
        file.display().to_string()
    });
    findings.ok("configuration", format!("{source}; apps: {}", apps.join(", ")))?;
    broker(config, args.management.as_ref(), &mut findings).await?;
    let metrics = Arc::new(Metrics::new(&apps)?);
    let store = Store::connect(config, &metrics).await?;
    redis(config, &store, &mut findings)?;
    let dingtalk = DingTalk::new(config, &metrics, &store)?;
    for name in &apps {
        notes(name, config, &mut findings)?;
        let Some(subject) = Subject::new(name, &dingtalk, config, alone) else {
            continue;
        };
        for (thing, verdict) in subject.try_all(args.to.as_deref()).await {
            let what = format!("{name}: {thing}");
            match verdict {
                Verdict::Ok(found) => findings.ok(&what, found)?,
                Verdict::Failed(failure) => findings.failed(&what, &failure, failure.remedy())?,
                Verdict::NotTried(why) => findings.not_tried(&what, why)?,
            }
        }
    }
    let (tried, failed) = findings.counts();
    ensure!(failed == 0, "{failed} of {tried} failed; above is what to do");
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "the form that clap asks for")]
fn secret(url: &str) -> Result<SecretString, String> {
    Ok(url.into())
}

async fn broker(config: &Config, management: Option<&SecretString>, findings: &mut Findings) -> anyhow::Result<()> {
    let broker = Broker::new(config);
    let greeting = match broker.greeting().await {
        Ok(greeting) => greeting,
        Err(error) => {
            findings.failed("broker", &error, &broker.remedy(&error))?;
            findings.not_tried("topology", "no broker")?;
            return management_of(&broker, management, findings).await;
        }
    };
    let told = format!("{} {}", greeting.product, greeting.version);
    let verified = broker.verify().await;
    match &verified {
        _ if !greeting.is_supported() => {
            findings.failed(
                "broker",
                told,
                "RabbitMQ 3.10 or newer is needed: upgrade the broker, or name another in amqp.url.",
            )?;
        }
        Ok(()) | Err(ConnectError::Topology(_)) => {
            findings.ok("broker", format!("{told}, virtual host {}", broker.virtual_host()?))?;
        }
        Err(error) => findings.failed("broker", format!("{told}; {error}"), &broker.remedy(error))?,
    }
    match &verified {
        Ok(()) => findings.ok("topology", format!("namespace {}", config.amqp.namespace))?,
        Err(error @ ConnectError::Topology(why)) => findings.failed("topology", why, &broker.remedy(error))?,
        Err(_) => findings.not_tried("topology", "nobody may log in")?,
    }
    management_of(&broker, management, findings).await
}

/// Arguments and bindings, where somebody tells them.
async fn management_of(
    broker: &Broker,
    management: Option<&SecretString>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    const WHAT: &str = "arguments and bindings";
    let Some(url) = management else {
        return Ok(findings.not_tried(WHAT, "--management URL compares them")?);
    };
    let comparison = match broker.compare(url).await {
        Ok(comparison) => comparison,
        Err(error) => return Ok(findings.failed(WHAT, format!("management API: {error}"), &error.remedy())?),
    };
    for binding in &comparison.foreign {
        findings.note(
            WHAT,
            format!("{binding} is not dingcard's: it takes messages elsewhere"),
        )?;
    }
    for difference in &comparison.differs {
        let remedy = if difference.ends_with("is missing") {
            "Run dingcard topology, or import what dingcard topology --print prints."
        } else {
            "Arguments are frozen: once it is empty, delete it and run dingcard topology; or take another amqp.namespace."
        };
        findings.failed(WHAT, difference, remedy)?;
    }
    if comparison.differs.is_empty() {
        findings.ok(WHAT, "as dingcard topology --print prints them")?;
    }
    Ok(())
}

fn redis(config: &Config, store: &Store, findings: &mut Findings) -> std::io::Result<()> {
    match (config.redis.url(), store.trouble()) {
        (None, _) => findings.note(
            "redis",
            "not configured (redis.url): each worker keeps its own pace, tokens, user IDs and memory of who has a card",
        ),
        (Some(_), None) => findings.ok("redis", "does all that is asked of it"),
        (Some(_), Some(why)) => findings.failed(
            "redis",
            why,
            "Check redis.url, and that the user may do what deploy/dingcard.toml lists; workers go on without, each by itself.",
        ),
    }
}

/// What is good to know of an app before it is tried.
fn notes(name: &str, config: &Config, findings: &mut Findings) -> std::io::Result<()> {
    let Some(settings) = config.apps.get(name) else {
        return Ok(());
    };
    if settings.paused {
        findings.note(
            &format!("{name}: paused"),
            "workers hold its jobs (apps.NAME.paused = true)",
        )?;
    }
    if settings.monthly_calls.is_some() && config.redis.url().is_none() {
        let text = "monthly_calls is counted by each worker for itself, from its start: set redis.url for one count";
        findings.note(&format!("{name}: budget"), text)?;
    }
    Ok(())
}
