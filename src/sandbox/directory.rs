//! Who is known: apps and their tokens, users, templates, conversations.
//!
//! Every "does it exist" of the sandbox is asked here, so that the settings and the built-in rule (what ends in
//! 0000 is unknown, in 0001 disabled) meet in one place. It gives a standing, never an answer: how a family words
//! the refusal is the endpoint's business.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::held;
use crate::config::{Assume, Sandbox};

/// How somebody or something stands in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// There.
    Known,
    /// Never heard of.
    Unknown,
    /// A disabled user, a dissolved conversation, an unpublished template.
    Disabled,
}

/// The organisation that the sandbox plays.
pub(super) struct Directory {
    settings: Sandbox,
    users: HashMap<String, String>,
    user_ids: HashSet<String>,
    token_ttl: Duration,
    tokens: Mutex<HashMap<String, Token>>,
}

/// The one live token of an app.
struct Token {
    value: String,
    until: Instant,
}

impl Directory {
    pub(super) fn new(settings: &Sandbox) -> Self {
        Self {
            settings: settings.clone(),
            users: settings
                .users
                .iter()
                .map(|(mobile, user)| (plain(mobile), user.clone()))
                .collect(),
            user_ids: settings.users.values().cloned().collect(),
            token_ttl: Duration::from_secs(settings.token_ttl_seconds),
            tokens: Mutex::default(),
        }
    }

    /// The token of an app and its life in seconds; `None` where key and secret are not a pair. Within its life
    /// the same token is given again, and lives anew (dingtalk-api.md §2.3).
    pub(super) fn token(&self, app_key: &str, secret: &str) -> Option<(String, u64)> {
        self.settings.apps.get(app_key).filter(|app| app.secret == secret)?;
        let now = Instant::now();
        let counts_down = self.settings.assume.token_life_counts_down;
        let mut tokens = held(&self.tokens);
        let token = tokens
            .entry(app_key.to_owned())
            .and_modify(|token| {
                if token.until <= now {
                    token.value = new_token();
                    token.until = now + self.token_ttl;
                } else if !counts_down {
                    token.until = now + self.token_ttl;
                }
            })
            .or_insert_with(|| Token {
                value: new_token(),
                until: now + self.token_ttl,
            });
        // Rounded: a token that was made just now has its whole life before it.
        let left = (token.until - now + Duration::from_millis(500)).as_secs();
        Some((token.value.clone(), left))
    }

    /// The app whose live token this is.
    pub(super) fn app_of(&self, token: &str) -> Option<String> {
        let now = Instant::now();
        held(&self.tokens)
            .iter()
            .find(|(_, held)| held.value == token && held.until > now)
            .map(|(app_key, _)| app_key.clone())
    }

    /// Ends the token of an app, or every token.
    pub(super) fn expire(&self, app_key: Option<&str>) {
        let mut tokens = held(&self.tokens);
        match app_key {
            Some(app_key) => drop(tokens.remove(app_key)),
            None => tokens.clear(),
        }
    }

    /// Whether there is such an app.
    pub(super) fn has_app(&self, app_key: &str) -> bool {
        self.settings.apps.contains_key(app_key)
    }

    /// Whether an app has a permission.
    pub(super) fn may(&self, app_key: &str, permission: &str) -> bool {
        let app = self.settings.apps.get(app_key);
        let granted = app.and_then(|app| app.permissions.as_ref());
        granted.is_none_or(|granted| granted.iter().any(|granted| granted == permission))
    }

    /// What is set otherwise than the safe assumption.
    pub(super) fn assume(&self) -> &Assume {
        &self.settings.assume
    }

    /// Whether this is the robot of that app.
    pub(super) fn owns_robot(&self, app_key: &str, robot_code: &str) -> bool {
        self.settings
            .apps
            .get(app_key)
            .is_some_and(|app| app.robot_code == robot_code)
    }

    /// The user ID of a mobile, with `+86` or without.
    pub(super) fn user_of(&self, mobile: &str) -> Result<String, Standing> {
        let mobile = plain(mobile);
        if !self.users.is_empty() {
            return self.users.get(&mobile).cloned().ok_or(Standing::Unknown);
        }
        match by_ending(&mobile) {
            Standing::Known => Ok(format!("u{mobile}")),
            other => Err(other),
        }
    }

    pub(super) fn user(&self, user_id: &str) -> Standing {
        if self.user_ids.is_empty() {
            return by_ending(user_id);
        }
        if self.user_ids.contains(user_id) {
            Standing::Known
        } else {
            Standing::Unknown
        }
    }

    /// Conversation IDs begin with `cid`; what else comes is a user ID or a mobile in the wrong place.
    pub(super) fn conversation(&self, id: &str) -> Standing {
        if !self.settings.conversations.is_empty() {
            let known = self.settings.conversations.contains_key(id);
            return if known { Standing::Known } else { Standing::Unknown };
        }
        if !id.starts_with("cid") {
            return Standing::Unknown;
        }
        by_ending(id.trim_end_matches('='))
    }

    /// Whether the robot of an app is in a group. A group without a list has every robot.
    pub(super) fn has_robot(&self, conversation: &str, app_key: &str) -> bool {
        let robots = self.settings.conversations.get(conversation);
        let app = self.settings.apps.get(app_key);
        robots.is_none_or(|robots| app.is_some_and(|app| robots.contains(&app.robot_code)))
    }

    /// Names by user ID, mobile and conversation ID, and for a mobile by its user's ID too.
    fn names(&self) -> impl Iterator<Item = (String, &str)> {
        let is_mobile = |id: &str| id.starts_with(|first: char| first == '+' || first.is_ascii_digit());
        self.settings.names.iter().flat_map(move |(id, name)| {
            let user = is_mobile(id).then(|| self.user_of(id).ok()).flatten();
            [Some(id.clone()), user]
                .into_iter()
                .flatten()
                .map(|id| (id, name.as_str()))
        })
    }

    /// The IDs of those whose name holds a text (lower case).
    pub(super) fn named(&self, text: &str) -> Vec<String> {
        let found = self.names().filter(|(_, name)| name.to_lowercase().contains(text));
        found.map(|(id, _)| id).collect()
    }

    pub(super) fn template(&self, id: &str) -> Standing {
        if self.settings.templates.is_empty() {
            return by_ending(id);
        }
        match self.settings.templates.get(id) {
            Some(template) if template.published => Standing::Known,
            Some(_) => Standing::Disabled,
            None => Standing::Unknown,
        }
    }

    /// What a page needs to draw cards and offer filters; no secret.
    pub(super) fn to_json(&self) -> Value {
        let apps = self.settings.apps.iter();
        let apps: Vec<_> = apps
            .map(|(key, app)| json!({"app_key": key, "robot_code": app.robot_code}))
            .collect();
        let names: BTreeMap<_, _> = self.names().collect();
        json!({"apps": apps, "templates": self.settings.templates, "names": names})
    }
}

fn by_ending(id: &str) -> Standing {
    if id.is_empty() || id.ends_with("0000") {
        Standing::Unknown
    } else if id.ends_with("0001") {
        Standing::Disabled
    } else {
        Standing::Known
    }
}

/// Mainland numbers are stored plain, but may be asked for with their country code (dingtalk-api.md §3).
fn plain(mobile: &str) -> String {
    let mobile = mobile.trim();
    let rest = mobile.strip_prefix("+86").map(|rest| rest.trim_start_matches('-'));
    rest.unwrap_or(mobile).to_owned()
}

fn new_token() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn directory() -> Directory {
        Directory::new(&Sandbox::default())
    }

    #[test]
    fn the_same_token_is_given_again_within_its_life() {
        let directory = directory();
        let first = directory.token("dingsandbox", "sandbox-secret").unwrap();
        assert_eq!(first, directory.token("dingsandbox", "sandbox-secret").unwrap());
        assert_eq!(directory.app_of(&first.0).as_deref(), Some("dingsandbox"));
    }

    #[test]
    fn an_expired_token_is_nobodys_and_the_next_one_is_new() {
        let directory = Directory::new(&Sandbox {
            token_ttl_seconds: 0,
            ..Sandbox::default()
        });
        let (first, life) = directory.token("dingsandbox", "sandbox-secret").unwrap();
        assert_eq!(life, 0);
        assert_eq!(directory.app_of(&first), None);
        assert_ne!(directory.token("dingsandbox", "sandbox-secret").unwrap().0, first);
    }

    #[test]
    fn apps_have_tokens_of_their_own() {
        let directory = directory();
        let (one, _) = directory.token("dingsandbox", "sandbox-secret").unwrap();
        let (two, _) = directory.token("dingsandbox2", "sandbox-secret-2").unwrap();
        directory.expire(Some("dingsandbox2"));
        assert_eq!(directory.app_of(&one).as_deref(), Some("dingsandbox"));
        assert_eq!(directory.app_of(&two), None);
    }

    #[test]
    fn a_key_with_anothers_secret_gets_nothing() {
        assert!(directory().token("dingsandbox", "sandbox-secret-2").is_none());
    }

    #[test]
    fn a_country_code_names_the_same_person() {
        for mobile in ["15012341231", "+8615012341231", "+86-15012341231", " 15012341231 "] {
            assert_eq!(directory().user_of(mobile).unwrap(), "u15012341231");
        }
    }

    #[test]
    fn endings_decide_where_nothing_is_set() {
        let directory = directory();
        assert_eq!(directory.user_of("15000000000"), Err(Standing::Unknown));
        assert_eq!(directory.user_of("15000000001"), Err(Standing::Disabled));
        assert_eq!(directory.user("manager7"), Standing::Known);
        assert_eq!(directory.user("u0000"), Standing::Unknown);
        assert_eq!(directory.conversation("cidAbC=="), Standing::Known);
        assert_eq!(directory.conversation("cid0001=="), Standing::Disabled);
        assert_eq!(directory.conversation("manager7"), Standing::Unknown);
        assert_eq!(directory.template("TPL.0000"), Standing::Unknown);
        assert_eq!(directory.template("TPL.0001"), Standing::Disabled);
    }

    #[test]
    fn no_secret_is_printed() {
        assert!(!directory().to_json().to_string().contains("secret"));
    }

    #[test]
    fn what_is_set_replaces_the_endings() {
        let settings = r#"
            users = { "+86-15000000000" = "zhang" }
            templates = { a0000 = {}, b = { published = false } }
        "#;
        let directory = Directory::new(&toml::from_str(settings).unwrap());
        assert_eq!(directory.user_of("15000000000").unwrap(), "zhang");
        assert_eq!(directory.user_of("15012341231"), Err(Standing::Unknown));
        assert_eq!(directory.user("zhang"), Standing::Known);
        assert_eq!(directory.user("manager7"), Standing::Unknown);
        assert_eq!(directory.template("a0000"), Standing::Known);
        assert_eq!(directory.template("b"), Standing::Disabled);
        assert_eq!(directory.template("c"), Standing::Unknown);
    }
}
