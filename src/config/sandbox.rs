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
    /// The robot codes in each group, by conversation ID. Empty: every `cid…` is a group with every robot in it.
    /// Otherwise no other is known.
    pub conversations: BTreeMap<String, Vec<String>>,
    /// Names for the inbox page, by user ID, mobile or conversation ID.
    pub names: BTreeMap<String, String>,
    /// Calls that an app may make to one API in any second; 0 is no limit.
    pub rate_per_second: u32,
    /// How long a token lives, in seconds.
    pub token_ttl_seconds: u64,
    /// How many cards are kept, and how many arrivals of calls; the oldest is forgotten first.
    pub keep: usize,
    /// What is not known of DingTalk.
    pub assume: Assume,
}

/// What is not known of DingTalk (dingtalk-api.md marks it U), to be set otherwise than the sheet's safe assumption.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a question of its own, with yes and no for answers"
)]
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Assume {
    /// An ID that was used before shows nothing on interactiveCards/send, instead of the old card once more.
    pub repeated_send_shows_nothing: bool,
    /// An ID that was used before gets a plain success on createAndDeliver, instead of `param.cardAlreadyExist`.
    pub repeated_create_succeeds: bool,
    /// An unknown user refuses all of a createAndDeliver with `param.userIdNotExist`, instead of failing that delivery.
    pub unknown_user_refuses_call: bool,
    /// A bad user of an interactiveCards/send is left out in silence, instead of refusing the call.
    pub bad_receiver_is_skipped: bool,
    /// A single chat of interactiveCards/send takes one user, as older documentation says, instead of 20.
    pub one_receiver_per_chat: bool,
    /// Errors about a mobile come under errcode 88, instead of unwrapped.
    pub recipient_errors_wrapped: bool,
    /// Errors of the new family are `Code`, `Message`, `RequestId`, instead of lower case.
    pub capital_error_fields: bool,
    /// A token that is fetched again says what is left of its life, instead of living anew.
    pub token_life_counts_down: bool,
}

/// An app of the sandbox.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SandboxApp {
    /// The secret that goes with the app key.
    pub secret: String,
    /// The code of the app's robot.
    pub robot_code: String,
    /// What the app may do: `qyapi_get_member_by_mobile`, `Card.Instance.Write`. Absent: everything.
    #[serde(default)]
    pub permissions: Option<Vec<String>>,
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
            permissions: None,
        };
        Self {
            apps: BTreeMap::from([
                ("dingsandbox".to_owned(), app("sandbox-secret", "dingsandbox")),
                ("dingsandbox2".to_owned(), app("sandbox-secret-2", "dingsandbox2")),
            ]),
            users: BTreeMap::new(),
            templates: BTreeMap::new(),
            conversations: BTreeMap::new(),
            names: BTreeMap::new(),
            rate_per_second: 20,
            token_ttl_seconds: 7200,
            keep: 100_000,
            assume: Assume::default(),
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

    #[test]
    fn the_embedded_file_names_every_assumption() {
        let assume = serde_json::to_value(Assume::default()).unwrap();
        for key in assume.as_object().unwrap().keys() {
            assert!(crate::config::DEFAULTS.contains(&format!("\n{key} = false\n")), "{key}");
        }
    }

    /// The part of the embedded file from `[sandbox]` on, its comments of prose left out.
    fn documented(uncommented: bool) -> Sandbox {
        let (_, section) = crate::config::DEFAULTS.split_once("\n[sandbox]\n").unwrap();
        let example = |line: &str| line.starts_with('[') || line.contains(" = ");
        let lines = section.lines().map(|line| match line.strip_prefix("# ") {
            Some(rest) if uncommented && example(rest) => rest.to_owned(),
            _ => line.to_owned(),
        });
        let lines = lines.map(|line| line.replace("[sandbox.", "["));
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
        assert_eq!(shown.names["cidAbC=="], "Team 7");
        assert_eq!(shown.conversations["cidAbC=="], ["dingmine"]);
        let template = &shown.templates["overtime"];
        assert!(template.published && !template.title.is_empty() && !template.body.is_empty());
        assert_eq!(template.fields, ["pv", "users"]);
    }
}
