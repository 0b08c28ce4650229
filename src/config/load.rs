//! Where settings come from: the embedded defaults, a file, the environment, and secrets in files of their own.
//!
//! Separate from the settings themselves because its one concern is the trace from a fault back to the line or the
//! variable that made it. It knows keys only through the JSON Schema of [`Config`], so a key added there is known here.

use std::fmt;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde_json::Value as Json;
use serde_path_to_error::Segment;
use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

use super::{Config, DEFAULT_APP, DEFAULTS};

/// The first part of every environment variable.
const ENV_PREFIX: &str = "DINGCARD_";

/// One fault in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key, with dots: `apps.default.app_key`.
    pub key: String,
    /// `dingcard.toml:12`, the environment variable, or empty for a key that is set nowhere.
    pub place: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// The settings cannot be used; every fault found, in the order of the keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Problem { key, place, message }) in self.problems.iter().enumerate() {
            let newline = if n == 0 { "" } else { "\n" };
            match (key.as_str(), place.as_str()) {
                ("", place) => write!(f, "{newline}{place}: {message}")?,
                (key, "") => write!(f, "{newline}{key}: {message}")?,
                (key, place) => write!(f, "{newline}{place}: {key}: {message}")?,
            }
        }
        Ok(())
    }
}

impl ConfigError {
    /// A fault of a key that is set nowhere.
    #[must_use]
    pub fn single(key: &str, message: &str) -> Self {
        let problem = Problem {
            key: key.to_owned(),
            place: String::new(),
            message: message.to_owned(),
        };
        Self {
            problems: vec![problem],
        }
    }
}

impl Config {
    /// The settings of `file` and `env` over the defaults. Variables that do not begin with `DINGCARD_` are passed over.
    pub fn load(file: Option<&Path>, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let file = file.map(File::read).transpose()?;
        let layers = Layers {
            file,
            env: variables(env),
        };
        layers.config()
    }

    /// The JSON Schema of the configuration file.
    #[must_use]
    pub fn schema() -> Json {
        schemars::schema_for!(Config).to_value()
    }
}

/// A file that parses as TOML.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let fault = |place: String, message: String| ConfigError {
            problems: vec![Problem {
                key: String::new(),
                place,
                message,
            }],
        };
        let text = std::fs::read_to_string(path).map_err(|e| fault(path.display().to_string(), e.to_string()))?;
        let file = Self {
            path: path.to_owned(),
            text,
        };
        match DeTable::parse(&file.text) {
            Ok(_) => Ok(file),
            Err(e) => Err(fault(
                file.place(e.span().map_or(0, |s| s.start)),
                e.message().to_owned(),
            )),
        }
    }

    fn place(&self, offset: usize) -> String {
        let line = self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
        format!("{}:{line}", self.path.display())
    }

    fn table(&self) -> Table {
        self.text.parse().unwrap_or_default()
    }

    /// The place of the deepest part of `path` that the file sets, if it sets all but the last part of it.
    fn place_of(&self, path: &[String]) -> Option<String> {
        let parsed = DeTable::parse(&self.text).ok()?;
        let mut table = parsed.get_ref();
        let mut offset = None;
        for (depth, part) in path.iter().enumerate() {
            let Some((key, value)) = table.get_key_value(part.as_str()) else {
                return offset.filter(|_| depth + 1 == path.len()).map(|o| self.place(o));
            };
            offset = Some(key.span().start);
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        offset.map(|o| self.place(o))
    }
}

/// One environment variable that is a setting.
struct Variable {
    name: String,
    path: Vec<String>,
    value: String,
}

fn variables(env: impl IntoIterator<Item = (String, String)>) -> Vec<Variable> {
    let mut found: Vec<_> = env
        .into_iter()
        .filter_map(|(name, value)| {
            let path = name
                .strip_prefix(ENV_PREFIX)?
                .to_ascii_lowercase()
                .split("__")
                .map(str::to_owned)
                .collect();
            Some(Variable { name, path, value })
        })
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// All that is laid over the defaults.
struct Layers {
    file: Option<File>,
    env: Vec<Variable>,
}

impl Layers {
    fn config(&self) -> Result<Config, ConfigError> {
        let schema = Schema(Config::schema());
        let mut unknown = Vec::new();
        if let Some(file) = &self.file {
            schema.unknown_keys(&mut Vec::new(), &file.table(), &mut unknown);
        }
        unknown.extend(
            self.env
                .iter()
                .filter(|v| !schema.knows(&v.path))
                .map(|v| v.path.clone()),
        );
        self.refuse(unknown.into_iter().map(|path| {
            let message = match schema.nearest(&path) {
                Some(near) => format!("unknown key; did you mean `{near}`?"),
                None => "unknown key".to_owned(),
            };
            (path, message)
        }))?;

        let merged = self.merged(&schema);
        let mut config: Config = serde_path_to_error::deserialize(Value::Table(merged)).map_err(|e| {
            let path = e.path().iter().filter_map(segment).collect();
            self.error(vec![(path, e.inner().to_string().trim().to_owned())])
        })?;
        self.refuse(read_secret_files(&mut config))?;
        self.refuse(
            config
                .problems()
                .into_iter()
                .map(|(key, why)| (key.split('.').map(str::to_owned).collect(), why)),
        )?;
        Ok(config)
    }

    fn merged(&self, schema: &Schema) -> Table {
        let mut merged: Table = DEFAULTS.parse().unwrap_or_default();
        let app_defaults = merged.get("apps").and_then(|a| a.get(DEFAULT_APP)).cloned();
        let mut lay = |layer: Table| {
            for name in layer
                .get("apps")
                .and_then(Value::as_table)
                .into_iter()
                .flat_map(Table::keys)
            {
                if let (Some(Value::Table(apps)), Some(defaults)) = (merged.get_mut("apps"), &app_defaults) {
                    apps.entry(name.clone()).or_insert_with(|| defaults.clone());
                }
            }
            merge(&mut merged, layer);
        };
        if let Some(file) = &self.file {
            lay(file.table());
        }
        for variable in &self.env {
            let mut value = schema.read(&variable.path, &variable.value);
            for part in variable.path.iter().rev() {
                value = Value::Table(Table::from_iter([(part.clone(), value)]));
            }
            if let Value::Table(layer) = value {
                lay(layer);
            }
        }
        merged
    }

    fn refuse(&self, faults: impl IntoIterator<Item = (Vec<String>, String)>) -> Result<(), ConfigError> {
        let faults: Vec<_> = faults.into_iter().collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(self.error(faults))
        }
    }

    fn error(&self, faults: Vec<(Vec<String>, String)>) -> ConfigError {
        let problem = |(path, message): (Vec<String>, String)| {
            let variable = self.env.iter().find(|v| v.path == path).map(|v| v.name.clone());
            let place = variable
                .or_else(|| self.file.as_ref().and_then(|f| f.place_of(&path)))
                .unwrap_or_default();
            Problem {
                key: path.join("."),
                place,
                message,
            }
        };
        ConfigError {
            problems: faults.into_iter().map(problem).collect(),
        }
    }
}

fn segment(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Lays `over` on `base`. A secret and its file replace each other: the later layer wins.
fn merge(base: &mut Table, over: Table) {
    for (key, value) in over {
        match key.strip_suffix("_file") {
            Some(secret) => base.remove(secret),
            None => base.remove(&format!("{key}_file")),
        };
        match (base.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Reads each `…_file`; a trailing line end is not part of a secret.
fn read_secret_files(config: &mut Config) -> Vec<(Vec<String>, String)> {
    let mut faults = Vec::new();
    let mut read = |path: &[&str], file: Option<&PathBuf>, secret: &mut Option<SecretString>| {
        let Some(file) = file else { return };
        match std::fs::read_to_string(file) {
            Ok(text) => *secret = Some(text.trim_end_matches(['\n', '\r']).into()),
            Err(e) => faults.push((
                path.iter().map(|p| (*p).to_owned()).collect(),
                format!("{}: {e}", file.display()),
            )),
        }
    };
    read(
        &["amqp", "url_file"],
        config.amqp.url_file.as_ref(),
        &mut config.amqp.url,
    );
    read(
        &["redis", "url_file"],
        config.redis.url_file.as_ref(),
        &mut config.redis.url,
    );
    for (name, app) in &mut config.apps {
        read(
            &["apps", name, "app_secret_file"],
            app.app_secret_file.as_ref(),
            &mut app.app_secret,
        );
    }
    faults
}

/// The keys of the configuration and their types, read from its JSON Schema.
struct Schema(Json);

impl Schema {
    fn resolve<'a>(&'a self, node: &'a Json) -> &'a Json {
        let target = node
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|r| self.0.pointer(r.trim_start_matches('#')));
        target.unwrap_or(node)
    }

    /// The schema of the key `part` below `node`.
    fn below<'a>(&'a self, node: &'a Json, part: &str) -> Option<&'a Json> {
        let named = node.get("properties").and_then(|p| p.get(part));
        let any = || node.get("additionalProperties").filter(|a| a.is_object());
        named.or_else(any).map(|n| self.resolve(n))
    }

    fn at(&self, path: &[String]) -> Option<&Json> {
        path.iter().try_fold(&self.0, |node, part| self.below(node, part))
    }

    fn knows(&self, path: &[String]) -> bool {
        self.at(path).is_some()
    }

    fn unknown_keys(&self, path: &mut Vec<String>, table: &Table, unknown: &mut Vec<Vec<String>>) {
        for (key, value) in table {
            path.push(key.clone());
            match (self.knows(path), value) {
                (false, _) => unknown.push(path.clone()),
                (true, Value::Table(inner)) => self.unknown_keys(path, inner, unknown),
                (true, _) => {}
            }
            path.pop();
        }
    }

    /// The known key beside `path` that is spelt most like it.
    fn nearest(&self, path: &[String]) -> Option<&str> {
        let known_depth = (0..path.len()).rev().find(|n| self.knows(&path[..*n]))?;
        let siblings = self.at(&path[..known_depth])?.get("properties")?.as_object()?;
        let wrong = path.get(known_depth)?;
        let distance = |key: &&String| strsim::damerau_levenshtein(key, wrong);
        siblings
            .keys()
            .min_by_key(distance)
            .filter(|k| distance(k) <= k.len().max(wrong.len()) / 3)
            .map(String::as_str)
    }

    /// A variable's text as a value of its key's type; text that does not fit stays text, so that the error names it.
    fn read(&self, path: &[String], text: &str) -> Value {
        let declared = self.at(path).and_then(|n| n.get("type"));
        let is_text = |t: &Json| t == "string" || t.as_array().is_some_and(|all| all.iter().any(|t| t == "string"));
        let typed = declared
            .filter(|t| !is_text(t))
            .and_then(|_| format!("value = {text}").parse::<Table>().ok());
        typed
            .and_then(|mut t| t.remove("value"))
            .unwrap_or_else(|| Value::String(text.to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;
    use secrecy::ExposeSecret as _;

    use super::*;

    fn load(toml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(toml.as_bytes()).unwrap();
        Config::load(
            Some(file.path()),
            env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        )
    }

    fn problem(toml: &str, env: &[(&str, &str)]) -> Problem {
        load(toml, env).unwrap_err().problems.remove(0)
    }

    const APP: &str = "[apps.default]\napp_key='k'\napp_secret='s3cret-of-app'\nrobot_code='r'\n";

    #[test]
    #[cfg(feature = "otlp")]
    fn a_collector_is_a_base_url_that_can_be_shown_to_anybody() {
        let of = |url: &str| load(&format!("{APP}[otel]\nendpoint='{url}'\n"), &[]);
        for url in ["http://127.0.0.1:4318", "https://otel.example/base/"] {
            assert_eq!(of(url).unwrap().otel.endpoint.as_deref(), Some(url));
        }
        for url in [
            "127.0.0.1:4318",
            "http://",
            "https://user:pa55word@h/",
            "https://h/?key=pa55word",
        ] {
            let problem = of(url).unwrap_err().problems.remove(0);
            assert_eq!(problem.key, "otel.endpoint");
            assert!(!problem.message.contains("pa55word"), "{problem:?}");
        }
        assert!(load(APP, &[]).unwrap().otel.endpoint.is_none());
    }

    #[test]
    #[cfg(not(feature = "otlp"))]
    fn a_build_without_opentelemetry_refuses_a_collector() {
        let problem = problem(&format!("{APP}[otel]\nendpoint='http://127.0.0.1:4318'\n"), &[]);
        assert_eq!(problem.key, "otel.endpoint");
        assert!(problem.message.contains("built without OpenTelemetry"), "{problem:?}");
    }

    #[test]
    fn the_embedded_defaults_are_a_configuration() {
        let config = Config::load(None, []).unwrap();
        assert_eq!(config.amqp.namespace, "dingcard");
        assert_eq!(config.shutdown_grace.as_secs(), 25);
        assert!(config.served_apps().is_err());
    }

    #[test]
    fn every_key_of_the_schema_stands_in_the_embedded_file_commented_or_not() {
        let schema = Schema(Config::schema());
        for (section, node) in schema.0["properties"].as_object().unwrap() {
            for key in schema
                .resolve(node)
                .get("properties")
                .and_then(Json::as_object)
                .into_iter()
                .flat_map(|p| p.keys())
            {
                let set = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
                assert!(
                    section == "sandbox" || DEFAULTS.lines().any(set),
                    "{section}.{key} is not documented"
                );
            }
        }
    }

    #[test]
    fn a_file_wins_over_the_defaults_and_the_environment_over_the_file() {
        let config = load(
            "[amqp]\nprefetch = 7\nnamespace = 'a'\n",
            &[("DINGCARD_AMQP__PREFETCH", "9")],
        )
        .unwrap();
        assert_eq!((config.amqp.prefetch, config.amqp.namespace.as_str()), (9, "a"));
    }

    #[test]
    fn a_further_app_starts_from_the_values_of_the_default_app() {
        let toml = format!("{APP}[apps.sales]\napp_key='k2'\napp_secret='x'\nrobot_code='r2'\n");
        let config = load(&toml, &[]).unwrap();
        assert_eq!(config.apps["sales"].recipients_per_call, 20);
        assert_eq!(config.served_apps().unwrap(), ["default", "sales"]);
    }

    #[test]
    fn an_app_can_be_made_of_the_environment_alone() {
        let env = [
            ("DINGCARD_APPS__SALES__APP_KEY", "k"),
            ("DINGCARD_APPS__SALES__APP_SECRET", "123456"),
            ("DINGCARD_APPS__SALES__ROBOT_CODE", "r"),
        ];
        let config = load("", &env).unwrap();
        assert_eq!(config.apps["sales"].app_secret().expose_secret(), "123456");
        assert_eq!(config.served_apps().unwrap(), ["sales"]);
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_a_suggestion() {
        let problem = problem("[amqp]\n\nprefech = 7\n", &[]);
        assert_eq!(problem.key, "amqp.prefech");
        assert!(problem.place.ends_with(":3"), "{}", problem.place);
        assert!(problem.message.contains("`prefetch`"), "{}", problem.message);
    }

    #[test]
    fn every_unknown_key_is_reported_not_only_the_first() {
        assert_eq!(
            load("[amqp]\nx = 1\n[retries]\ny = 2\n", &[])
                .unwrap_err()
                .problems
                .len(),
            2
        );
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_with_its_line() {
        let problem = problem("[amqp]\nprefetch = 'many'\n", &[]);
        assert_eq!(problem.key, "amqp.prefetch");
        assert!(problem.place.ends_with(":2"), "{}", problem.place);
    }

    #[test]
    fn an_unknown_or_wrong_variable_is_refused_by_its_name() {
        assert_eq!(problem("", &[("DINGCARD_AMPQ__URL", "x")]).place, "DINGCARD_AMPQ__URL");
        let wrong = problem("", &[("DINGCARD_RETRY__INITIAL", "soon")]);
        assert_eq!(
            (wrong.place.as_str(), wrong.key.as_str()),
            ("DINGCARD_RETRY__INITIAL", "retry.initial")
        );
    }

    #[test]
    fn a_value_out_of_range_is_refused_where_it_was_set() {
        let problem = problem(&format!("{APP}recipients_per_call = 21\n"), &[]);
        assert!(
            problem.place.ends_with(":5") && problem.message.contains("20"),
            "{problem:?}"
        );
    }

    #[test]
    fn a_half_configured_app_is_refused_with_what_is_missing() {
        let problem = problem("[apps.sales]\napp_key='k'\n", &[]);
        assert_eq!(problem.key, "apps.sales.app_secret");
        assert!(problem.place.ends_with(":1"), "{problem:?}");
    }

    #[test]
    fn broken_toml_is_refused_with_its_line() {
        assert!(problem("[amqp]\nprefetch = \n", &[]).place.ends_with(":2"));
    }

    #[test]
    fn a_secret_is_read_from_its_file_without_the_line_end() {
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(b"amqp://u:p@h/v\n").unwrap();
        let env = [("DINGCARD_AMQP__URL_FILE", secret.path().to_str().unwrap())];
        assert_eq!(load("", &env).unwrap().amqp.url().expose_secret(), "amqp://u:p@h/v");
        assert_eq!(problem("[amqp]\nurl_file='/no/such/file'\n", &[]).key, "amqp.url_file");
    }

    #[test]
    fn redis_has_no_url_or_one_of_its_own_from_its_key_or_its_file() {
        assert!(load("", &[]).unwrap().redis.url().is_none());
        assert_eq!(problem("[redis]\nurl='amqp://h/v'\n", &[]).key, "redis.url");
        let mut secret = tempfile::NamedTempFile::new().unwrap();
        secret.write_all(b"rediss://:p@h/\n").unwrap();
        let env = [("DINGCARD_REDIS__URL_FILE", secret.path().to_str().unwrap())];
        let config = load("", &env).unwrap();
        assert_eq!(config.redis.url().unwrap().expose_secret(), "rediss://:p@h/");
    }

    #[test]
    fn no_secret_is_printed_by_debug() {
        let config = load(
            &format!("{APP}[amqp]\nurl='amqp://u:pa55word@h/v'\n[redis]\nurl='redis://:pa55word@h/'\n"),
            &[],
        )
        .unwrap();
        let printed = format!("{config:?}");
        assert!(
            !printed.contains("s3cret-of-app") && !printed.contains("pa55word"),
            "{printed}"
        );
    }

    proptest! {
        #[test]
        fn any_file_gives_a_configuration_or_an_error_with_a_message(text in ".{0,200}") {
            if let Err(e) = load(&text, &[]) {
                prop_assert!(!e.problems.is_empty() && !e.to_string().is_empty());
            }
        }

        #[test]
        fn any_variable_gives_a_configuration_or_an_error_that_names_it(key in "[A-Z_]{0,30}", value in ".{0,40}") {
            let name = format!("DINGCARD_{key}");
            if let Err(e) = load("", &[(&name, &value)]) {
                prop_assert!(e.to_string().contains(&name), "{}", e);
            }
        }
    }
}
