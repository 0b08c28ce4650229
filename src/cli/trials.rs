//! The trials of one app, in the order in which its set-up is made: which follows from which, and what each answer tells.
//!
//! Separate from the rest of `dingcard check` because one answer can tell of a step before it: that this IP is refused
//! shows only when something else is asked for. How a trial is made is `dingtalk`'s business.

use std::collections::BTreeMap;

use crate::config::{CardApi, Config};
use crate::dingtalk::{App, Card, DingTalk, Failure, masked};
use crate::job::random_id;
use crate::outcome::Reason;

/// How one step was found.
pub(super) enum Verdict {
    Ok(String),
    Failed(Failure),
    NotTried(String),
}

/// An app that is tried.
pub(super) struct Subject<'a> {
    app: &'a App,
    card_api: CardApi,
    templates: Vec<Template<'a>>,
}

struct Template<'a> {
    name: &'a str,
    id: &'a str,
    /// A value for each parameter without which the template is refused.
    params: BTreeMap<String, String>,
}

/// What is set up for an app, in the order of doing it.
const STEPS: [&str; 6] = ["token", "IP", "look-up", "template", "robot", "card"];

/// Steps and their verdicts.
type Trials = Vec<(String, Verdict)>;

impl<'a> Subject<'a> {
    /// `None` for an app without credentials. Aliases name no app: all of them are those of an app that is `alone`, and of
    /// several apps each has its default.
    pub(super) fn new(name: &str, dingtalk: &'a DingTalk, config: &'a Config, alone: bool) -> Option<Self> {
        let (app, settings) = dingtalk.app(name).zip(config.apps.get(name))?;
        let default = settings.template.as_deref();
        let aliases = config.templates.keys().map(String::as_str).filter(|_| alone);
        let names = default
            .into_iter()
            .chain(aliases.filter(|alias| Some(*alias) != default));
        let template = |name: &'a str| {
            let (id, required) = config.template(settings, Some(name))?;
            let mut params: BTreeMap<_, _> = required.iter().map(|key| (key.clone(), "1".to_owned())).collect();
            params
                .entry("dingcard".to_owned())
                .or_insert_with(|| "check".to_owned());
            Some(Template { name, id, params })
        };
        Some(Self {
            app,
            card_api: settings.card_api,
            templates: names.filter_map(template).collect(),
        })
    }

    /// Tries step after step, as far as they go; with `to`, up to a card that the user of this mobile sees.
    pub(super) async fn try_all(&self, to: Option<&str>) -> Trials {
        let mut trials = Trials::new();
        trial(
            &mut trials,
            "token",
            self.app.try_token().await,
            "key and secret are right",
        );
        if is_ok(&trials, "token") {
            trial(
                &mut trials,
                "look-up",
                self.app.try_look_up().await,
                "mobiles can be looked up",
            );
            if ip_refusal(&trials).is_none() {
                match self.card_api {
                    CardApi::Instances => self.try_instances(to, &mut trials).await,
                    CardApi::Interactive => self.try_interactive(to, &mut trials).await,
                }
            }
        }
        self.whole(trials, to)
    }

    /// All steps in their order: also the IP whitelist, and those that were not reached, with why.
    fn whole(&self, mut trials: Trials, to: Option<&str>) -> Trials {
        let ip = on_ip(&trials);
        let refused = matches!(ip, Verdict::Failed(_));
        if refused {
            trials.retain(|(_, verdict)| !is_of_ip(verdict));
        }
        trials.push(("IP whitelist".to_owned(), ip));
        for thing in STEPS {
            if is_known(&trials, thing) {
                continue;
            }
            let why = match thing {
                _ if refused => "this IP is refused",
                "card" if to.is_none() => "--to MOBILE shows one",
                _ if !is_ok(&trials, "token") => "no token",
                "template" if self.templates.is_empty() => {
                    "the app has no default template (apps.NAME.template), so every job must name one"
                }
                "robot" if self.templates.is_empty() => "no template to make a card of",
                _ => "a step before it is missing",
            };
            trials.push((thing.to_owned(), Verdict::NotTried(why.to_owned())));
        }
        let place = |thing: &str| STEPS.iter().position(|step| kind(thing) == *step);
        trials.sort_by_key(|(thing, _)| place(thing));
        trials
    }

    /// A card can be made without showing it, so template and robot are tried without anybody.
    async fn try_instances(&self, to: Option<&str>, trials: &mut Trials) {
        let mut made = None;
        for template in &self.templates {
            let id = random_id();
            let card = template.card(&id);
            let thing = format!("template {}", template.name);
            let result = self.app.try_template(&card).await;
            if result.is_ok() && made.is_none() {
                made = Some((template, id.clone()));
            }
            trial(trials, &thing, result, "a card was made of it, and shown to nobody");
        }
        let Some((template, id)) = made else { return };
        let shown = match to {
            Some(mobile) if is_ok(trials, "look-up") => self.show(template, mobile, trials).await,
            _ => false,
        };
        if !shown && !is_known(trials, "robot") {
            let result = self.app.try_robot(&template.card(&id)).await;
            let found = "not refused, for a user who is nobody; only --to MOBILE proves that it shows a card";
            trial(trials, "robot", result, found);
        }
    }

    /// interactiveCards/send makes no card without showing it, so a card to somebody is the one trial.
    async fn try_interactive(&self, to: Option<&str>, trials: &mut Trials) {
        const WHY: &str = "interactiveCards/send makes no card without showing it: --to MOBILE does";
        let Some(template) = self.templates.first() else {
            return;
        };
        let Some(mobile) = to else {
            for thing in ["template", "robot"] {
                trials.push((thing.to_owned(), Verdict::NotTried(WHY.to_owned())));
            }
            return;
        };
        if is_ok(trials, "look-up") && self.show(template, mobile, trials).await {
            let thing = format!("template {}", template.name);
            trial(trials, &thing, Ok(()), "the card was made of it");
        }
    }

    /// Shows a card, and says what the answer tells of the steps before.
    async fn show(&self, template: &Template<'_>, mobile: &str, trials: &mut Trials) -> bool {
        let id = random_id();
        match self.app.try_card(&template.card(&id), mobile).await {
            Ok(()) => {
                trial(trials, "robot", Ok(()), "it showed the card");
                trial(trials, "card", Ok(()), &format!("shown to {}", masked(mobile)));
                true
            }
            Err(failure) => {
                let thing = match failure.reason {
                    Reason::TemplateInvalid => format!("template {}", template.name),
                    Reason::RobotInvalid => "robot".to_owned(),
                    _ => "card".to_owned(),
                };
                trials.push((thing, Verdict::Failed(failure)));
                false
            }
        }
    }
}

impl Template<'_> {
    fn card<'c>(&'c self, out_track_id: &'c str) -> Card<'c> {
        Card {
            out_track_id,
            template: self.id,
            params: &self.params,
        }
    }
}

fn trial(trials: &mut Trials, thing: &str, result: Result<(), Failure>, found: &str) {
    let verdict = match result {
        Ok(()) => Verdict::Ok(found.to_owned()),
        Err(failure) => Verdict::Failed(failure),
    };
    trials.push((thing.to_owned(), verdict));
}

fn is_ok(trials: &Trials, thing: &str) -> bool {
    trials
        .iter()
        .any(|(known, verdict)| known == thing && matches!(verdict, Verdict::Ok(_)))
}

/// The step that a thing belongs to: `template overtime` is a `template`.
fn kind(thing: &str) -> &str {
    thing.split(' ').next().unwrap_or_default()
}

fn is_known(trials: &Trials, step: &str) -> bool {
    trials.iter().any(|(thing, _)| kind(thing) == step)
}

fn is_of_ip(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Failed(failure) if failure.reason == Reason::IpNotAllowed)
}

fn ip_refusal(trials: &Trials) -> Option<Failure> {
    trials.iter().find_map(|(_, verdict)| match verdict {
        Verdict::Failed(failure) if is_of_ip(verdict) => Some(failure.clone()),
        _ => None,
    })
}

/// The verdict on the IP whitelist, from what came of everything else.
fn on_ip(trials: &Trials) -> Verdict {
    let answered = |verdict: &Verdict| match verdict {
        Verdict::Ok(_) => true,
        Verdict::Failed(failure) => !matches!(
            failure.reason,
            Reason::Network | Reason::BadResponse | Reason::ServerError | Reason::IpBanned
        ),
        Verdict::NotTried(_) => false,
    };
    match ip_refusal(trials) {
        Some(failure) => Verdict::Failed(failure),
        None if !is_ok(trials, "token") => Verdict::NotTried("no token".to_owned()),
        None if trials
            .iter()
            .any(|(thing, verdict)| thing != "token" && answered(verdict)) =>
        {
            Verdict::Ok("this IP is not refused".to_owned())
        }
        None => Verdict::NotTried("no answer that tells".to_owned()),
    }
}
