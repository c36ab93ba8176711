//! Any text is harmless, and any two configurations have a difference that leads from one to the
//! other.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aoede::control::config::{Config, Severity, Source, check};
use aoede::control::plan::{ExportChange, State, diff};
use proptest::prelude::*;

use super::right;

/// Reads a text, and whatever is said of it lies inside of it.
fn read(text: &str) -> Option<Config> {
    let checked = check(text, None);
    let source = Source { name: "x", text };
    for finding in &checked.findings {
        assert!(text.get(finding.span.clone()).is_some(), "{finding:?}");
        if let Some((span, _)) = &finding.other {
            assert!(text.get(span.clone()).is_some(), "{finding:?}");
        }
        assert!(
            !finding.message.is_empty() && !finding.remedy.is_empty(),
            "{finding:?}"
        );
        let is_plain = |text: &str| !text.contains(is_order);
        assert!(
            is_plain(&finding.message) && is_plain(&finding.remedy),
            "{finding:?}"
        );
        let shown = source.show(finding, false);
        assert!(shown.contains(" help: "), "{finding:?}");
        assert!(!shown.replace('\n', "").contains(is_order), "{shown:?}");
        assert!(source.locate(finding).line <= text.matches('\n').count() + 1);
    }
    let is_wrong = checked
        .findings
        .iter()
        .any(|one| one.severity == Severity::Error);
    assert_eq!(checked.config.is_none(), is_wrong);
    checked.config
}

/// What a terminal may not get: control characters and what turns the direction of writing.
fn is_order(c: char) -> bool {
    c.is_control()
        || "\u{61c}\u{200e}\u{200f}\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\
            \u{2067}\u{2068}\u{2069}"
            .contains(c)
}

/// A character that is mostly one of these.
fn order() -> impl Strategy<Value = char> {
    prop_oneof![
        4 => prop::char::range('\0', '\u{1f}'),
        4 => prop::char::range('\u{7f}', '\u{9f}'),
        2 => prop::char::range('\u{200b}', '\u{202f}'),
        1 => prop::char::range('\u{2060}', '\u{206f}'),
        1 => any::<char>(),
    ]
}

/// Lines that are TOML, and mostly say something wrong with such characters in it, by escapes.
fn escaped_orders() -> impl Strategy<Value = String> {
    let some = prop::collection::vec(order(), 0..4).prop_map(|some| {
        let escape = |c: char| format!("\\U{:08x}", u32::from(c));
        some.into_iter().map(escape).collect::<String>()
    });
    let templates = [
        "\"x@\" = 1",
        "path = \"/srv/@\"",
        "allow = [\"@\"]",
        "create = \"1@\"",
        "dirty_age = \"1@\"",
        "cache = \"@\"",
        "serial = \"@\"",
        "model = { \"@\" = 1 }",
        "interfaces = [\"e@\", 1]",
        "buffers = \"6@\"",
    ];
    let lists = ["\"x@\" = \"@\"", "\"x@\" = [\"@\"]", "\"y@\" = [1, \"@\"]"];
    let line = |lines: &[&'static str]| prop::sample::select(lines.to_vec());
    (some, line(&lists), line(&templates), line(&templates)).prop_map(|(some, list, one, two)| {
        let text = format!("[lists]\n{list}\n[defaults]\n{one}\n[[export]]\n{two}\n");
        text.replace('@', &some)
    })
}

/// Words that configurations are made of, so that much of what comes of them is nearly right.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "[[export]]\n",
        "[export]\n",
        "[control]\n",
        "[status]\n",
        "[lists]\n",
        "[defaults]\n",
        "address",
        "path",
        "interfaces",
        "create",
        "offset",
        "length",
        "cache",
        "cache_size",
        "shadow",
        "allow",
        "allow_write",
        "dirty_age",
        "listen",
        "group",
        "workers",
        "worker",
        "extensions",
        "model",
        " = ",
        " = ",
        " = ",
        " = ",
        "=",
        "\n",
        "\n",
        "\n",
        "\n",
        ",",
        "[",
        "]",
        "{",
        "}",
        ".",
        "#",
        "\"e1.1\"",
        "\"/srv/a\"",
        "[\"eth0\"]",
        "\"eth*\"",
        "1",
        "512",
        "\"1MiB\"",
        "\"1s\"",
        "true",
        "1.5",
        "18446744073709551615",
        "-1",
        "0x10",
        "1979-05-27",
        "\"",
        "'",
        "'''",
        "\\",
        "\"\\u0000\"",
        "\"52:54:00:00:00:01\"",
        "\"\u{e9}\u{1F600}\"",
        "\u{e9}",
        "\r",
        "\t",
        "\u{1b}",
        "\u{feff}",
        "e1.1",
    ];
    prop_oneof![
        8 => prop::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
    ]
}

/// Exports out of some keys with some values, all of them right.
fn exports() -> impl Strategy<Value = String> {
    let line = |lines: &'static [&'static str]| prop::sample::select(lines);
    let export = (
        line(&["", "read_only = true", "cache = 'writeback'"]),
        line(&[
            "",
            "buffers = 16",
            "cache_size = '64MiB'",
            "model = 'x'",
            "io = 'buffered'",
        ]),
        line(&[
            "",
            "allow = ['52:54:00:00:00:01']",
            "allow_write = []",
            "allow_configure = []",
        ]),
        line(&[
            "",
            "bytes_per_second = '1MiB'",
            "operations_per_second = 9",
            "extensions = []",
        ]),
        line(&["", "", "", "worker = 0", "worker = 1", "worker = 7"]),
        line(&["interfaces = ['eth0']", "interfaces = ['eth0', 'eth*']"]),
    );
    let lines = export.prop_map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].join("\n"));
    // Files by number: some exports change theirs, and no two have the same.
    let table = (0..12_u8, lines);
    let head = line(&[
        "",
        "workers = 8",
        "busy_poll = '0s'",
        "[status]\nlisten = '127.0.0.1:80'",
    ]);
    let tables = prop::collection::vec(table, 0..6);
    (head, tables, 0..2_u8).prop_map(|(head, tables, turn)| {
        let mut text = format!("{head}\n");
        let mut seen = BTreeSet::new();
        for (slot, lines) in tables {
            if seen.insert(slot) {
                let file = (slot + turn) % 12;
                writeln!(
                    text,
                    "[[export]]\naddress = 'e1.{slot}'\npath = '/srv/{file}'\n{lines}"
                )
                .unwrap();
            }
        }
        if seen.is_empty() {
            text.push_str("[[export]]\naddress = 'e1.0'\npath = '/srv/0'\ninterfaces = ['eth0']\n");
        }
        text
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_harmless(text in any::<String>()) {
        read(&text);
    }

    #[test]
    fn any_words_are_harmless(words in prop::collection::vec(word(), 0..40)) {
        read(&words.concat());
    }

    #[test]
    fn control_characters_of_the_file_are_not_shown(
        parts in prop::collection::vec((word(), prop::collection::vec(order(), 0..3)), 0..20),
    ) {
        let text: String = parts
            .into_iter()
            .flat_map(|(word, orders)| word.chars().chain(orders).collect::<Vec<char>>())
            .collect();
        read(&text);
    }

    #[test]
    fn control_characters_that_it_means_are_not_shown(text in escaped_orders()) {
        prop_assert!(!check(&text, None).findings.is_empty());
        read(&text);
    }

    #[test]
    fn the_difference_leads_from_one_to_the_other(
        texts in prop::collection::vec(exports(), 1..4),
        cores in 1..5_u16,
    ) {
        let mut running = State::default();
        for text in texts {
            let wanted = State::wanted(right(&text), &running, cores);
            let plan = diff(&running, &wanted);
            for (address, new) in &wanted.exports {
                let old = running.exports.get(address);
                let change = plan.exports.get(address);
                // In a plan is what changes, and nothing else.
                prop_assert_eq!(change.is_none(), old == Some(new));
                let Some(old) = old else {
                    prop_assert!(matches!(change, Some(ExportChange::Open(_))));
                    continue;
                };
                if matches!(change, Some(ExportChange::Adjust(_))) {
                    prop_assert_eq!(&old.export.settings.path, &new.export.settings.path);
                    prop_assert_eq!(old.export.settings.cache, new.export.settings.cache);
                    prop_assert_eq!(old.worker, new.worker);
                }
                // Nobody is moved who need not be.
                let pinned = new.export.worker.unwrap_or(old.worker);
                let limit = wanted.daemon.workers.unwrap_or(cores);
                prop_assert!(new.worker == pinned || pinned >= limit);
            }
            prop_assert_eq!(plan.apply(running), wanted.clone());
            prop_assert!(diff(&wanted, &wanted).is_empty());
            running = wanted;
        }
    }

    /// Each configuration that is right stays so with remarks and blank lines between its lines.
    #[test]
    fn remarks_change_nothing(text in exports()) {
        let remarked = text.replace('\n', " # remark\n\n");
        prop_assert_eq!(right(&remarked), right(&text));
    }
}
