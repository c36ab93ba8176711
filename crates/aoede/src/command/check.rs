//! `aoede check`: is a configuration right? Touches nothing.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::bail;
use aoede_link::Interface;
use clap::Args;
use serde::Serialize;

use crate::control::config::{self, Checked, Config, Export, Located, Severity, Source, System};
use crate::control::{self, Host};
use crate::harmless;
use crate::output::{self, Facts, OutputArgs};

const EXAMPLES: &str = "\
Examples:
  aoede check
      Is /etc/aoede/aoede.toml right? Lists the exports, or what is wrong, where, and the remedy.
  aoede check new.toml && sudo mv new.toml /etc/aoede/aoede.toml
  aoede check --json | jq .errors

Nothing is opened, made or locked. What is not there yet, such as an interface, is a warning.
The code is 0 if there are only warnings, 1 if there are errors.";

/// Findings that are shown: who has more, begins with these.
const MOST_SHOWN: usize = 50;

/// Say whether a configuration for `aoede serve` is right, or what is wrong and where.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The configuration.
    #[arg(value_name = "FILE", default_value = "/etc/aoede/aoede.toml")]
    file: PathBuf,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<()> {
    let name = args.file.display().to_string();
    let text = control::read_text(&args.file)?;
    let text = text.as_str();
    let checked = config::check(text, Some(&Host));
    let source = Source { name: &name, text };
    let facts = Verdict::new(&source, &checked, Host.interfaces());
    if !args.output.json {
        let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        for finding in checked.findings.iter().take(MOST_SHOWN) {
            eprintln!("{}", source.show(finding, colours));
        }
        if let Some(more @ 1..) = checked.findings.len().checked_sub(MOST_SHOWN) {
            eprintln!("and {more} more\n");
        }
    }
    if facts.right || args.output.json {
        args.output.print(&facts)?;
    }
    if !facts.right {
        bail!("{name}: {}", many(facts.errors.len(), "error"));
    }
    Ok(())
}

/// What came of it.
#[derive(Serialize)]
struct Verdict {
    file: String,
    right: bool,
    exports: Vec<Line>,
    errors: Vec<Located>,
    warnings: Vec<Located>,
    /// Of this host, those that exports are served on now.
    #[serde(skip)]
    interfaces: usize,
}

/// One export.
#[derive(Serialize)]
struct Line {
    address: String,
    path: String,
    /// Names and patterns, as they were written.
    interfaces: Vec<String>,
    /// Of this host, those that they match now.
    interfaces_now: Vec<String>,
    read_only: bool,
    cache: String,
    allow: Vec<String>,
}

impl Verdict {
    fn new(source: &Source<'_>, checked: &Checked, interfaces: Option<Vec<Interface>>) -> Self {
        let mut interfaces = interfaces.unwrap_or_default();
        interfaces.retain(|one| one.ethernet);
        let all = |severity| {
            let findings = checked.findings.iter();
            let findings = findings.filter(move |finding| finding.severity == severity);
            findings.map(|finding| source.locate(finding)).collect()
        };
        let exports = checked.config.iter().flat_map(Config::exports);
        let exports: Vec<Line> = exports
            .map(|export| Line::new(export, &interfaces))
            .collect();
        let used = exports.iter().flat_map(|line| &line.interfaces_now);
        Self {
            file: source.name.to_owned(),
            right: checked.config.is_some(),
            errors: all(Severity::Error),
            warnings: all(Severity::Warning),
            interfaces: used.collect::<BTreeSet<_>>().len(),
            exports,
        }
    }
}

impl Line {
    fn new(export: &Export, interfaces: &[Interface]) -> Self {
        let settings = &export.settings;
        let is_used = |name: &str| {
            export
                .interfaces
                .iter()
                .any(|pattern| pattern.matches(name))
        };
        let now = interfaces.iter().filter(|one| is_used(&one.name));
        Self {
            address: export.address().to_string(),
            path: settings.path.display().to_string(),
            interfaces: export.interfaces.iter().map(ToString::to_string).collect(),
            interfaces_now: now.map(|one| one.name.clone()).collect(),
            read_only: settings.open.read_only,
            cache: settings.cache.mode.to_string(),
            allow: settings.allow.iter().map(ToString::to_string).collect(),
        }
    }
}

impl Facts for Verdict {
    fn text(&self) -> String {
        let mut text = format!(
            "{} is right: {} on {}",
            harmless::line(&self.file),
            many(self.exports.len(), "export"),
            many(self.interfaces, "interface"),
        );
        if !self.warnings.is_empty() {
            text.push_str(", ");
            text.push_str(&many(self.warnings.len(), "warning"));
        }
        text.push('\n');
        if self.exports.is_empty() {
            return text;
        }
        let rows: Vec<[String; 6]> = self.exports.iter().map(Line::row).collect();
        text.push('\n');
        text.push_str(&output::list(
            [
                ("ADDRESS", false),
                ("PATH", false),
                ("INTERFACES", false),
                ("ACCESS", false),
                ("CACHE", false),
                ("INITIATORS", true),
            ],
            &rows,
        ));
        text
    }
}

impl Line {
    fn row(&self) -> [String; 6] {
        let access = if self.read_only {
            "read"
        } else {
            "read, write"
        };
        let allow = match self.allow.len() {
            0 => "all".to_owned(),
            some => some.to_string(),
        };
        [
            self.address.clone(),
            self.path.clone(),
            self.interfaces.join(", "),
            access.to_owned(),
            self.cache.clone(),
            allow,
        ]
    }
}

/// `1 export`, `2 exports`.
fn many(count: usize, one: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {one}{plural}")
}
