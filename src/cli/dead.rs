//! `dingcard dead`: the dead letters, listed, shown, replayed and discarded.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Subcommand;
use jiff::{SignedDuration, Timestamp};

use super::{progress_bar, say};
use crate::amqp::{Broker, Delivery, Destination, Held, Settled};
use crate::config::Config;
use crate::dead_letters::{Filter, Letter};
use crate::outcome::Reason;

/// What to do.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists them, a line each, and counts them by reason.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// A JSON object a line instead.
        #[arg(long)]
        json: bool,
    },
    /// Shows one whole: why it is dead, and the message.
    Show {
        /// As `dead list` names it.
        id: String,
    },
    /// Publishes them again for whoever failed, with the attempts beginning anew.
    Replay(Settling),
    /// Deletes them.
    Discard(Settling),
}

#[derive(Debug, clap::Args)]
struct Settling {
    #[command(flatten)]
    filter: FilterArgs,
    /// All of them; needed where nothing restricts.
    #[arg(long)]
    all: bool,
    /// Only say which would be.
    #[arg(long)]
    dry_run: bool,
    /// At most so many a second.
    #[arg(long, value_name = "N")]
    rate: Option<f64>,
}

#[derive(Debug, clap::Args)]
struct FilterArgs {
    /// Dead for this reason, e.g. `user_not_found`; repeats.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Vec<Reason>,
    /// Of this app; repeats.
    #[arg(long, value_name = "NAME")]
    app: Vec<String>,
    /// With this job ID; repeats.
    #[arg(long, value_name = "ID")]
    id: Vec<String>,
    /// Dead for at least this long, e.g. 2h.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
    /// Dead for at most this long, e.g. 30m.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    newer_than: Option<Duration>,
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<()> {
    let broker = Broker::new(config);
    match args.action {
        Action::List { filter, json } => list(&broker, &filter.filter(), json).await,
        Action::Show { id } => show(&broker, &id).await,
        Action::Replay(settling) => settle(&broker, &settling, true).await,
        Action::Discard(settling) => settle(&broker, &settling, false).await,
    }
}

/// The letters that `filter` accepts, in hand. Those that it does not stay held until the end, so that each is seen once.
async fn take(broker: &Broker, held: &mut Held, filter: &Filter) -> Vec<(Letter, Delivery)> {
    if held.others() > 0 {
        tracing::warn!(
            holders = held.others(),
            "somebody else holds dead letters now (another `dingcard dead`?); what they hold is not seen here"
        );
    }
    let bar = progress_bar(held.counted(), "{bar:40} {pos}/{len} looked at");
    let now = Timestamp::now();
    let mut taken = Vec::new();
    while let Some(delivery) = held.next().await {
        bar.inc(1);
        let letter = Letter::read(&delivery, broker.names());
        if filter.accepts(&letter, now) {
            taken.push((letter, delivery));
        }
    }
    bar.finish_and_clear();
    if held.taken() < held.counted() {
        tracing::warn!(
            looked_at = held.taken(),
            of = held.counted(),
            "more letters are there than can be held at once; run this again for the rest"
        );
    }
    taken
}

async fn list(broker: &Broker, filter: &Filter, json: bool) -> anyhow::Result<()> {
    let mut held = broker.hold_dead_letters().await?;
    let taken = take(broker, &mut held, filter).await;
    held.release().await;
    if json {
        for (letter, _) in &taken {
            say(serde_json::to_string(letter)?)?;
        }
        return Ok(());
    }
    let row = |id: &str, app: &str, reason: &str, at: &str, detail: &str| {
        format!("{id:<38} {app:<10} {reason:<20} {at:<20} {detail}")
    };
    if !taken.is_empty() {
        say(row("ID", "APP", "REASON", "FAILED AT", "DETAIL"))?;
    }
    let mut by_reason: BTreeMap<&str, usize> = BTreeMap::new();
    for (letter, _) in &taken {
        let at = letter
            .failed_at
            .map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
            .unwrap_or_default();
        say(row(&letter.id, &letter.app, &letter.reason, &at, &letter.detail))?;
        *by_reason.entry(&letter.reason).or_default() += 1;
    }
    let counts: Vec<_> = by_reason
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    let counts = if counts.is_empty() {
        String::new()
    } else {
        format!(": {}", counts.join(", "))
    };
    Ok(say(format!("{} dead letters{counts}", taken.len()))?)
}

async fn show(broker: &Broker, id: &str) -> anyhow::Result<()> {
    let mut held = broker.hold_dead_letters().await?;
    let filter = Filter {
        ids: vec![id.to_owned()],
        ..Filter::default()
    };
    let taken = take(broker, &mut held, &filter).await;
    held.release().await;
    ensure!(
        !taken.is_empty(),
        "no dead letter is named {id} (`dingcard dead list` names them)"
    );
    for (letter, delivery) in taken {
        let headers = delivery.headers();
        let time = |time: Option<Timestamp>| time.map(|t| t.to_string()).unwrap_or_default();
        for (key, value) in [
            ("id", letter.id.as_str()),
            ("app", &letter.app),
            ("reason", &letter.reason),
            ("detail", &letter.detail),
            ("failed", &letter.failed),
            ("open", headers.open.as_deref().unwrap_or_default()),
            ("attempt", &letter.attempt.to_string()),
            ("first seen", &time(headers.first_seen)),
            ("failed at", &time(letter.failed_at)),
            ("worker", headers.worker.as_deref().unwrap_or_default()),
            ("queue", &letter.queue),
        ] {
            if !value.is_empty() {
                say(format!("{key:<11} {value}"))?;
            }
        }
        say(format!(
            "{:<11} {}",
            "message",
            String::from_utf8_lossy(delivery.body())
        ))?;
    }
    Ok(())
}

async fn settle(broker: &Broker, settling: &Settling, replay: bool) -> anyhow::Result<()> {
    let filter = settling.filter.filter();
    if filter.is_empty() && !settling.all {
        bail!("which letters? give --reason, --app, --id, --older-than or --newer-than, or --all");
    }
    if let Some(rate) = settling.rate {
        ensure!(rate > 0.0, "--rate: more than 0");
    }
    let (verb, done) = if replay {
        ("replay", "replayed")
    } else {
        ("discard", "discarded")
    };
    let publisher = broker.connect_publisher().await?;
    let mut held = broker.hold_dead_letters().await?;
    let taken = take(broker, &mut held, &filter).await;
    let total = taken.len();
    if settling.dry_run {
        for (letter, _) in &taken {
            say(&letter.id)?;
        }
        held.release().await;
        broker.close().await;
        return Ok(say(format!("would {verb} {total} dead letters"))?);
    }
    let bar = progress_bar(total as u64, "{bar:40} {pos}/{len}, {per_sec}, {eta} left");
    let mut pace = settling
        .rate
        .map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    let mut settled = 0;
    for (letter, delivery) in taken {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let result = if replay {
            let headers = letter.replay(delivery.headers());
            let to = Destination::Queue(letter.home().clone());
            let properties = headers.write(delivery.properties(), None);
            // Once: whatever stands in the way is for the caller to see, and the letters stay where they are.
            publisher
                .publish(&to, delivery.body(), properties)
                .await
                .with_context(|| {
                    format!(
                        "{}: {settled} of {total} were {done}; the others are dead letters as before",
                        letter.id
                    )
                })?;
            delivery.ack().await
        } else {
            delivery.ack().await
        };
        if result == Settled::Lost {
            bail!(
                "the broker went away: {settled} of {total} were {done}, perhaps {} as well; the others are dead letters as before",
                letter.id
            );
        }
        settled += 1;
        bar.inc(1);
    }
    bar.finish_and_clear();
    held.release().await;
    broker.close().await;
    Ok(say(format!("{done} {settled} dead letters"))?)
}

impl FilterArgs {
    fn filter(&self) -> Filter {
        Filter {
            reasons: self.reason.clone(),
            apps: self.app.clone(),
            ids: self.id.clone(),
            older_than: self.older_than,
            newer_than: self.newer_than,
        }
    }
}

fn reason(word: &str) -> Result<Reason, String> {
    Reason::parse(word).ok_or_else(|| {
        let near = Reason::ALL
            .iter()
            .min_by_key(|r| strsim::damerau_levenshtein(r.as_str(), word));
        format!(
            "no reason is called that; did you mean {}?",
            near.map_or("none", |r| r.as_str())
        )
    })
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|e: jiff::Error| e.to_string())?;
    Duration::try_from(duration).map_err(|_| "a duration that is not negative is needed".to_owned())
}
