//! `[sandbox]`: who lives in the `DingTalk` that `dingcard sandbox` serves, and how strict it is.
//!
//! Apart from the rest of the configuration because nothing here reaches a worker: these apps and secrets exist
//! in the sandbox alone, so they are plain strings. What the settings mean is `sandbox::directory`'s business.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The settings of the sandbox. A map that is set replaces the one that is built in.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sandbox {
    /// The apps that may call, by app key.
    pub apps: BTreeMap<String, SandboxApp>,
    /// User IDs by mobile number. Empty: every mobile M has the user `u` + M. Otherwise nobody else is known.
    pub users: BTreeMap<String, String>,
    /// Card templates by ID. Empty: every ID is a published template. Otherwise no other is known.
    pub templates: BTreeMap<String, SandboxTemplate>,
    /// Calls that an app may make to one API in any second; 0 is no limit.
    pub rate_per_second: u32,
    /// How long a token lives, in seconds.
    pub token_ttl_seconds: u64,
    /// How many cards are kept, and how many arrivals of calls; the oldest is forgotten first.
    pub keep: usize,
}

/// An app of the sandbox.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxApp {
    /// The secret that goes with the app key.
    pub secret: String,
    /// The code of the app's robot.
    pub robot_code: String,
}

/// A card template of the sandbox, as far as the inbox page needs it to draw a card.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SandboxTemplate {
    /// The card's heading; `${name}` stands for a parameter.
    pub title: String,
    /// The parameters that the card shows, in order. Empty: all of them.
    pub fields: Vec<String>,
    /// Text under the heading; `${name}` stands for a parameter.
    pub body: String,
    /// Whether it is published; an unpublished one is refused.
    pub published: bool,
}

impl Default for Sandbox {
    fn default() -> Self {
        let app = |secret: &str, robot: &str| SandboxApp {
            secret: secret.to_owned(),
            robot_code: robot.to_owned(),
        };
        Self {
            apps: BTreeMap::from([
                ("dingsandbox".to_owned(), app("sandbox-secret", "dingsandbox")),
                ("dingsandbox2".to_owned(), app("sandbox-secret-2", "dingsandbox2")),
            ]),
            users: BTreeMap::new(),
            templates: BTreeMap::new(),
            rate_per_second: 20,
            token_ttl_seconds: 7200,
            keep: 100_000,
        }
    }
}

impl Default for SandboxTemplate {
    fn default() -> Self {
        Self {
            title: String::new(),
            fields: Vec::new(),
            body: String::new(),
            published: true,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn nothing_set_is_the_default() {
        assert_eq!(toml::from_str::<Sandbox>("").unwrap(), Sandbox::default());
    }

    #[test]
    fn a_map_that_is_set_replaces_the_built_in_one() {
        let set: Sandbox = toml::from_str("[apps.mine]\nsecret = \"s\"\nrobot_code = \"r\"").unwrap();
        assert_eq!(set.apps.keys().collect::<Vec<_>>(), ["mine"]);
    }

    #[test]
    fn a_template_is_published_unless_it_says_otherwise() {
        let set: Sandbox = toml::from_str("[templates.a]\ntitle = \"A\"\n[templates.b]\npublished = false").unwrap();
        assert!(set.templates["a"].published);
        assert!(!set.templates["b"].published);
    }

    #[test]
    fn a_misspelt_key_is_refused() {
        assert!(toml::from_str::<Sandbox>("rate_per_secnd = 1").is_err());
    }

    /// The part of the embedded file from `[sandbox]` on, its comments of prose left out.
    fn documented(uncommented: bool) -> Sandbox {
        let (_, section) = crate::config::DEFAULTS.split_once("\n[sandbox]\n").unwrap();
        let example = |line: &str| line.starts_with('[') || line.contains(" = ");
        let lines = section.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if uncommented && example(rest) => rest.replace("[sandbox.", "["),
            _ => line.to_owned(),
        });
        toml::from_str(&lines.collect::<Vec<_>>().join("\n")).unwrap()
    }

    #[test]
    fn the_embedded_file_says_what_the_defaults_are() {
        assert_eq!(documented(false), Sandbox::default());
    }

    #[test]
    fn the_embedded_file_shows_every_map_by_an_example_that_works() {
        let shown = documented(true);
        assert_eq!(shown.apps["dingmine"].robot_code, "dingmine");
        assert_eq!(shown.users["15012341231"], "manager7");
        let template = &shown.templates["overtime"];
        assert!(template.published && !template.title.is_empty() && !template.body.is_empty());
        assert_eq!(template.fields, ["pv", "users"]);
    }
}
