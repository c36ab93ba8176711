//! The configuration file: read, checked, and what is wrong with it told.

use std::path::Path;

use crate::control::config::{self, Config, Located, Severity, Source};
use crate::control::{self, Host};

/// A configuration, or what keeps it from being one.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) config: Option<Config>,
    pub(super) errors: Vec<String>,
    pub(super) warnings: Vec<String>,
}

/// Reads a configuration, and looks at the host too.
pub(super) fn load(path: &Path) -> Loaded {
    let name = path.display().to_string();
    let text = match control::read_text(path) {
        Ok(text) => text,
        Err(error) => {
            return Loaded {
                config: None,
                errors: vec![format!("{error:#}")],
                warnings: Vec::new(),
            };
        }
    };
    let checked = config::check(&text, Some(&Host));
    let source = Source {
        name: &name,
        text: &text,
    };
    let all = |severity| {
        let findings = checked.findings.iter();
        let findings = findings.filter(move |finding| finding.severity == severity);
        findings
            .map(|finding| line(&source.locate(finding)))
            .collect()
    };
    Loaded {
        errors: all(Severity::Error),
        warnings: all(Severity::Warning),
        config: checked.config,
    }
}

/// `aoede.toml:3:1: what is wrong; what to do`.
fn line(located: &Located) -> String {
    let Located {
        file,
        line,
        column,
        message,
        remedy,
        ..
    } = located;
    format!("{file}:{line}:{column}: {message}; {remedy}")
}
