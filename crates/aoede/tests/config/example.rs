//! The example works as it is, and it and the manual leave no key out.

use aoede::control::config::keys::{CONTROL, EXPORT, Key, STATUS, TOP, Takes};
use aoede::control::config::{Config, Severity, check};

use super::{export, right};

const EXAMPLE: &str = include_str!("../../../../contrib/aoede.toml");
const MANUAL: &str = include_str!("../../../../docs/configuration.md");

fn keys() -> impl Iterator<Item = &'static Key> {
    [TOP, CONTROL, STATUS, EXPORT].into_iter().flatten()
}

#[test]
fn it_is_right_as_it_is() {
    let config = right(EXAMPLE);
    assert_eq!(config.exports.len(), 1);
}

/// The lines that show a default, or an example, without their #.
fn in_full() -> String {
    let lines = EXAMPLE.lines().map(|line| match line.strip_prefix('#') {
        Some(shown) if shown.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => shown,
        _ => line,
    });
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn what_it_shows_is_right_too() {
    let text = in_full();
    let checked = check(&text, None);
    let errors = checked
        .findings
        .iter()
        .filter(|one| one.severity == Severity::Error);
    assert_eq!(errors.count(), 0, "{:?}", checked.findings);
}

#[test]
fn what_it_shows_as_a_default_is_one() {
    let Config { daemon, exports } = right(EXAMPLE);
    let plain = exports.into_values().next().unwrap();
    // These have no default, or one that no line can say.
    let examples = [
        "workers",
        "group",
        "listen",
        "beyond_loopback",
        "rack1",
        "length",
        "interfaces",
        "allow",
        "allow_read",
        "allow_write",
        "allow_configure",
        "cache_size",
        "shadow",
        "shadow_limit",
        "shadow_full",
        "unfinished_freeze",
        "model",
        "serial",
        "bytes_per_second",
        "operations_per_second",
        "worker",
    ];
    let mut compared = 0;
    for line in EXAMPLE.lines().filter_map(|line| line.strip_prefix('#')) {
        let Some((key, _)) = line.split_once(" = ") else {
            continue;
        };
        if key.contains(' ') || examples.contains(&key) {
            continue;
        }
        let text = EXAMPLE.replace(&format!("\n#{line}\n"), &format!("\n{line}\n"));
        assert_ne!(text, EXAMPLE, "{line}");
        let config = right(&text);
        assert_eq!(config.daemon, daemon, "{line}");
        assert_eq!(
            config.exports.into_values().next().unwrap(),
            plain,
            "{line}"
        );
        compared += 1;
    }
    assert_eq!(compared, 13);
}

#[test]
fn every_key_stands_in_it() {
    let text = in_full();
    let lines: Vec<&str> = text.lines().collect();
    for Key { name, takes, .. } in keys() {
        let start = match takes {
            Takes::Table => format!("[{name}]"),
            Takes::Tables => format!("[[{name}]]"),
            _ => format!("{name} = "),
        };
        assert!(lines.iter().any(|line| line.starts_with(&start)), "{start}");
    }
}

#[test]
fn every_key_stands_in_the_manual() {
    for Key { name, takes, .. } in keys() {
        let row = match takes {
            Takes::Table => format!("`[{name}]`"),
            Takes::Tables => format!("`[[{name}]]`"),
            _ => format!("\n| `{name}` |"),
        };
        assert!(MANUAL.contains(&row), "{row}");
    }
}

#[test]
fn the_examples_in_messages_are_right() {
    for key in EXPORT {
        if matches!(
            key.name,
            "address"
                | "path"
                | "interfaces"
                | "shadow_limit"
                | "shadow_full"
                | "unfinished_freeze"
        ) {
            continue;
        }
        let text = export(&format!("{} = {}", key.name, key.example));
        let config = check(&text, None).config;
        assert!(config.is_some(), "{}", key.name);
    }
    for (head, keys) in [
        ("", TOP),
        ("[control]\n", CONTROL),
        ("[status]\nlisten = \"[::1]:1\"\n", STATUS),
    ] {
        for key in keys.iter().filter(|key| !key.example.is_empty()) {
            if key.name == "listen" {
                continue;
            }
            let text = format!("{head}{} = {}\n{}", key.name, key.example, export(""));
            assert!(check(&text, None).config.is_some(), "{}", key.name);
        }
    }
}
