//! What was found wrong so far, and how a message shows what somebody wrote.

use std::collections::BTreeSet;
use std::ops::Range;

use super::finding::Finding;
use crate::harmless;

/// A value, and where it stands.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) span: Range<usize>,
}

impl<T> At<T> {
    pub(super) fn new(span: Range<usize>, value: T) -> Self {
        Self { value, span }
    }
}

/// What was found wrong so far. The same at the same place counts once: what all exports share is
/// read for each.
#[derive(Debug, Default)]
pub(super) struct Notes {
    findings: Vec<Finding>,
    seen: BTreeSet<(usize, usize, String)>,
    /// Places of which enough is said.
    settled: BTreeSet<(usize, usize)>,
}

impl Notes {
    pub(super) fn add(&mut self, finding: Finding) {
        let Range { start, end } = finding.span;
        if self.settled.contains(&(start, end)) {
            return;
        }
        if self.seen.insert((start, end, finding.message.clone())) {
            self.findings.push(finding);
        }
    }

    /// Notes something, and nothing else of the same place from now on.
    pub(super) fn settle(&mut self, finding: Finding) {
        let Range { start, end } = finding.span;
        self.add(finding);
        self.settled.insert((start, end));
    }

    pub(super) fn add_all(&mut self, findings: impl IntoIterator<Item = Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    /// All of them, in the order of the text.
    pub(super) fn into_findings(self) -> Vec<Finding> {
        let mut findings = self.findings;
        findings.sort_by_key(|finding| finding.span.start);
        findings
    }
}

/// Characters of a wrong value that a message repeats.
const MOST_QUOTED: usize = 60;

/// What somebody wrote, as a message shows it: one short line that does nothing to a terminal.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(MOST_QUOTED) {
        Some((end, _)) => {
            let start = text.get(..end).unwrap_or_default();
            format!("`{}…`", harmless::line(start))
        }
        None => format!("`{}`", harmless::line(text)),
    }
}

/// Words with commas between.
pub(super) fn list<S: AsRef<str>>(words: impl IntoIterator<Item = S>) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(word.as_ref());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_wrote_is_shown_short_and_harmless() {
        assert_eq!(quote("a é"), "`a é`");
        assert_eq!(quote("\u{1b}[2J\n"), "`\\u{1b}[2J\\n`");
        assert_eq!(quote(&"x".repeat(61)), format!("`{}…`", "x".repeat(60)));
        assert_eq!(quote(&"x".repeat(60)), format!("`{}`", "x".repeat(60)));
    }
}
