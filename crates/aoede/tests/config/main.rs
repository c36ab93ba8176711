//! A configuration as an operator writes it, rightly or not.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

mod command;
mod example;
mod host;
mod likeliest;
mod meaning;
mod mistakes;
mod plan;
mod properties;

use aoede::control::config::{Config, Located, Source, System, check};

/// Everything that is found, with lines.
fn findings(text: &str, system: Option<&dyn System>) -> Vec<Located> {
    let source = Source { name: "x", text };
    let checked = check(text, system);
    let located = checked
        .findings
        .iter()
        .map(|finding| source.locate(finding));
    located.collect()
}

/// What a text says in which nothing is wrong.
fn right(text: &str) -> Config {
    let checked = check(text, None);
    assert_eq!(checked.findings, [], "{text}");
    checked.config.unwrap()
}

/// One export with these lines more, that is otherwise right.
fn export(lines: &str) -> String {
    format!("[[export]]\naddress = \"e1.1\"\npath = \"/srv/a\"\ninterfaces = [\"eth0\"]\n{lines}\n")
}
