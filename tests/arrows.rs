//! The allowed arrows between the parts, and the absences that matter: whatever is not listed here is forbidden.
//!
//! Separate from the code because nothing in the compiler keeps one module of a crate from using another.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Part, and the parts that it may use. `cli` may use all.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "worker",
        &[
            "amqp", "dingtalk", "ledger", "retry", "repeats", "otel", "health", "job", "result", "slice", "outcome",
            "metrics", "config", "shutdown",
        ],
    ),
    ("dead_letters", &["amqp", "job", "outcome", "config"]),
    ("admin", &["metrics", "health", "config", "shutdown"]),
    (
        "dingtalk",
        &[
            "cache",
            "store",
            "rate_limit",
            "retry",
            "repeats",
            "health",
            "metrics",
            "outcome",
            "config",
            "shutdown",
        ],
    ),
    (
        "amqp",
        &["retry", "repeats", "health", "metrics", "outcome", "config", "shutdown"],
    ),
    ("cache", &["store", "config", "metrics"]),
    ("rate_limit", &["store", "config", "metrics"]),
    ("ledger", &["store", "config", "metrics"]),
    ("store", &["config", "metrics"]),
    ("retry", &["outcome", "config"]),
    ("repeats", &["outcome"]),
    ("otel", &["config"]),
    ("metrics", &["outcome"]),
    ("health", &["outcome"]),
    ("job", &[]),
    ("result", &["outcome"]),
    ("slice", &[]),
    ("outcome", &[]),
    ("config", &[]),
    ("shutdown", &[]),
    ("sandbox", &["config", "shutdown"]),
];

struct Source {
    /// Below `src`.
    path: String,
    /// The first directory or file name: the part it belongs to.
    part: String,
    text: String,
    /// Without comments and without the tests at the foot.
    code: String,
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
        if entry.is_dir() {
            files(&entry, found);
        } else if entry.extension().is_some_and(|e| e == "rs") && !entry.ends_with("testing.rs") {
            found.push(entry);
        }
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    files(&root, &mut paths);
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let below = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            let part = below.split(['/', '.']).next().unwrap().to_owned();
            let before_tests = text.split("#[cfg(test)]\n").next().unwrap();
            let code = before_tests
                .lines()
                .filter(|l| !l.trim_start().starts_with("//"))
                .collect::<Vec<_>>()
                .join("\n");
            Source {
                path: below,
                part,
                text,
                code,
            }
        })
        .collect()
}

fn word_after<'a>(code: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    code.match_indices(prefix).map(|(at, _)| {
        let rest = &code[at + prefix.len()..];
        &rest[..rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(rest.len())]
    })
}

#[test]
fn every_use_of_another_part_follows_an_allowed_arrow() {
    let allowed: BTreeMap<_, BTreeSet<_>> = ALLOWED
        .iter()
        .map(|(p, uses)| (*p, uses.iter().copied().collect()))
        .collect();
    let mut forbidden = Vec::new();
    for source in sources() {
        if matches!(source.part.as_str(), "cli" | "lib" | "main") {
            continue;
        }
        let may = allowed
            .get(source.part.as_str())
            .unwrap_or_else(|| panic!("{} has no row in ALLOWED", source.part));
        for used in word_after(&source.code, "crate::").filter(|u| *u != source.part && !may.contains(u)) {
            forbidden.push(format!("{} uses {used}", source.path));
        }
    }
    assert!(forbidden.is_empty(), "{}", forbidden.join("\n"));
}

#[test]
fn main_only_calls_the_command_line() {
    let main = sources().into_iter().find(|s| s.path == "main.rs").unwrap();
    assert_eq!(word_after(&main.code, "dingcard::").collect::<Vec<_>>(), ["cli"]);
}

#[test]
fn what_only_one_file_may_know_stands_nowhere_else() {
    for (word, only) in [
        ("backoff::", &["retry.rs"][..]),
        ("basic_publish", &["amqp/publisher.rs"]),
        (
            "reqwest::",
            &["dingtalk/client.rs", "dingtalk/endpoint.rs", "amqp/management.rs"],
        ),
        ("redis::", &["store/"]),
        ("opentelemetry", &["otel/export.rs"]),
        ("anyhow", &["cli/"]),
        ("clap", &["cli/"]),
    ] {
        for source in sources() {
            let may = only.iter().any(|o| source.path.starts_with(o));
            assert!(may || !source.code.contains(word), "{} knows {word}", source.path);
        }
    }
}

#[test]
fn the_broker_never_decodes_a_body_and_the_sandbox_shares_nothing_with_the_client() {
    for source in sources() {
        if source.part == "amqp" {
            assert!(!source.code.contains("from_slice"), "{} decodes", source.path);
        }
        if source.part == "sandbox" {
            assert!(!source.code.contains("dingtalk::"), "{} knows the client", source.path);
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_and_stays_below_its_ceiling() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} has no header", source.path);
        let lines = source.text.split("#[cfg(test)]\n").next().unwrap().lines().count();
        assert!(lines <= 400, "{} has {lines} lines without its tests", source.path);
    }
}

#[test]
fn no_file_has_a_name_that_says_nothing() {
    for source in sources() {
        for name in ["utils", "util", "common", "types", "helpers", "manager", "misc"] {
            assert!(
                !source.path.split(['/', '.']).any(|part| part == name),
                "{}",
                source.path
            );
        }
    }
}

#[test]
fn both_readmes_map_every_file() {
    for readme in ["README.md", "README.zh-CN.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(readme)).unwrap();
        let map = text
            .split("```text\nsrc/\n")
            .nth(1)
            .unwrap()
            .split("```")
            .next()
            .unwrap();
        for source in sources() {
            let name = source.path.rsplit('/').next().unwrap();
            assert!(map.contains(name), "{readme} does not map {}", source.path);
        }
    }
}
