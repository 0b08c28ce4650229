//! What of a changed configuration takes effect while the worker runs.
//!
//! Separate from loading because it compares two configurations that are both in order. Applications (credentials, rates,
//! budgets, pauses) and templates change at once; everything else is held by connections and caches, and waits for a
//! restart. It names sections, never a value.

use std::fmt::Debug;

use super::Config;

impl Config {
    /// This configuration with what of `new` takes effect at once, and the names of what waits for a restart.
    #[must_use]
    pub fn reloaded(&self, new: &Self) -> (Self, Vec<String>) {
        let mut waits: Vec<String> = [
            ("shutdown_grace", differ(&self.shutdown_grace, &new.shutdown_grace)),
            ("worker_name", differ(&self.worker_name, &new.worker_name)),
            ("amqp", differ(&self.amqp, &new.amqp)),
            ("http", differ(&self.http, &new.http)),
            ("dingtalk", differ(&self.dingtalk, &new.dingtalk)),
            ("users", differ(&self.users, &new.users)),
            ("ledger", differ(&self.ledger, &new.ledger)),
            ("retry", differ(&self.retry, &new.retry)),
            ("redis", differ(&self.redis, &new.redis)),
            ("log", differ(&self.log, &new.log)),
        ]
        .into_iter()
        .filter(|(_, differs)| *differs)
        .map(|(name, _)| name.to_owned())
        .collect();
        let mut apps = self.apps.clone();
        for (name, old) in &mut apps {
            match new.apps.get(name) {
                // An app has queues to consume from, which are those of the start.
                Some(app) if app.is_complete() == old.is_complete() => *old = app.clone(),
                _ => waits.push(format!("apps.{name}")),
            }
        }
        let added = new.apps.keys().filter(|name| !self.apps.contains_key(*name));
        waits.extend(added.map(|name| format!("apps.{name}")));
        let templates = new.templates.clone();
        let config = Self {
            apps,
            templates,
            ..self.clone()
        };
        (config, waits)
    }
}

/// Secrets all look alike here; one that changed alone goes unnoticed and waits for a restart as well.
fn differ<T: Debug>(old: &T, new: &T) -> bool {
    format!("{old:?}") != format!("{new:?}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::float_cmp)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> Config {
        let credentials = [
            ("APPS__DEFAULT__APP_KEY", "k"),
            ("APPS__DEFAULT__APP_SECRET", "s"),
            ("APPS__DEFAULT__ROBOT_CODE", "r"),
        ];
        let env = credentials.iter().chain(settings);
        Config::load(
            None,
            env.map(|(key, value)| (format!("DINGCARD_{key}"), (*value).to_owned())),
        )
        .unwrap()
    }

    #[test]
    fn applications_and_templates_change_at_once_and_the_rest_is_named() {
        let old = config(&[]);
        let new = config(&[
            ("APPS__DEFAULT__RATE_PER_SECOND", "7"),
            ("TEMPLATES__OVERTIME__ID", "t"),
            ("AMQP__PREFETCH", "3"),
            ("APPS__SALES__APP_KEY", "k"),
            ("APPS__SALES__APP_SECRET", "s"),
            ("APPS__SALES__ROBOT_CODE", "r"),
        ]);
        let (config, waits) = old.reloaded(&new);
        assert_eq!(config.apps["default"].rate_per_second, 7.0);
        assert_eq!(config.templates["overtime"].id, "t");
        assert_eq!(config.amqp.prefetch, old.amqp.prefetch);
        assert!(!config.apps.contains_key("sales"));
        assert_eq!(waits, ["amqp", "apps.sales"]);
    }

    #[test]
    fn an_app_that_loses_its_credentials_keeps_the_old_ones() {
        let old = config(&[]);
        let (config, waits) = old.reloaded(&Config::load(None, []).unwrap());
        assert_eq!(config.apps["default"].app_key.as_deref(), Some("k"));
        assert_eq!(waits, ["apps.default"]);
    }
}
