//! What is wrong with a configuration, where, and what to do about it.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use crate::harmless;

/// Whether it can be served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and is perhaps not what was meant.
    Warning,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Whether it can be served all the same.
    pub severity: Severity,
    /// What is wrong: one line.
    pub message: String,
    /// Where: bytes of the text, on the borders of characters.
    pub span: Range<usize>,
    /// What to do.
    pub remedy: String,
    /// Another place that has to do with it, and how.
    pub other: Option<(Range<usize>, &'static str)>,
}

impl Finding {
    /// What keeps a configuration from being used. Whatever of the file or the host comes into the
    /// words is escaped here.
    pub(super) fn error(
        span: Range<usize>,
        message: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            message: harmless::line(message.as_ref()).into_owned(),
            span,
            remedy: harmless::line(remedy.as_ref()).into_owned(),
            other: None,
        }
    }

    /// What is perhaps not meant.
    pub(super) fn warning(
        span: Range<usize>,
        message: impl AsRef<str>,
        remedy: impl AsRef<str>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message, remedy)
        }
    }

    /// With another place.
    pub(super) fn and(mut self, span: Range<usize>, label: &'static str) -> Self {
        self.other = Some((span, label));
        self
    }
}

/// A configuration file: its name, for messages, and what stands in it.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// As the operator gave it.
    pub name: &'a str,
    /// All of it.
    pub text: &'a str,
}

/// A finding as programs like to have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Located {
    /// Whether it can be served all the same.
    pub severity: Severity,
    /// Of the file.
    pub file: String,
    /// From 1 on.
    pub line: usize,
    /// Characters from the start of the line, from 1 on.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub remedy: String,
}

impl Source<'_> {
    /// A finding with its line and column.
    pub fn locate(&self, finding: &Finding) -> Located {
        let before = self.text.get(..finding.span.start).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.get(line_start..).unwrap_or_default();
        Located {
            severity: finding.severity,
            file: self.name.to_owned(),
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            message: finding.message.clone(),
            remedy: finding.remedy.clone(),
        }
    }

    /// A finding for people: what is wrong, the line with a mark under the place, and the remedy.
    /// Ends with a line break. Whatever stands in the file, a terminal gets no orders from it.
    pub fn show(&self, finding: &Finding, colours: bool) -> String {
        let renderer = if colours {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let level = match finding.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        // The renderer knows the control characters of ASCII only.
        let shown = harmless::file(self.text);
        let place = |span: &Range<usize>| {
            let length = |at: usize| harmless::file(self.text.get(..at).unwrap_or(self.text)).len();
            length(span.start)..length(span.end)
        };
        let primary = AnnotationKind::Primary.span(place(&finding.span));
        let mut snippet = Snippet::source(&*shown)
            .path(harmless::line(self.name))
            .annotation(primary);
        if let Some((span, label)) = &finding.other {
            let context = AnnotationKind::Context.span(place(span));
            snippet = snippet.annotation(context.label(*label));
        }
        let group: Group<'_> = level
            .primary_title(finding.message.as_str())
            .element(snippet)
            .element(Level::HELP.message(finding.remedy.as_str()));
        let mut text = renderer.render(&[group]);
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# é\nworkers = 1\nöö = \"a\"\n";

    #[test]
    fn columns_count_characters_from_1_on() {
        let source = Source {
            name: "x.toml",
            text: TEXT,
        };
        let start = TEXT.find("\"a\"").unwrap();
        let finding = Finding::warning(start..start + 3, "wrong", "mend it");
        let located = source.locate(&finding);
        assert_eq!((located.line, located.column), (3, 6));
        let at_end = Finding::error(TEXT.len()..TEXT.len(), "ends", "go on");
        assert_eq!(source.locate(&at_end).line, 4);
    }

    #[test]
    fn people_see_the_line_and_a_mark() {
        let source = Source {
            name: "x.toml",
            text: TEXT,
        };
        let start = TEXT.find("workers").unwrap();
        let finding = Finding::error(start..start + 7, "wrong", "mend it").and(0..1, "here");
        assert_eq!(
            source.show(&finding, false),
            "\
error: wrong
 --> x.toml:2:1
  |
1 | # é
  | - here
2 | workers = 1
  | ^^^^^^^
  |
  = help: mend it
"
        );
        assert!(source.show(&finding, true).contains('\u{1b}'));
    }

    #[test]
    fn what_a_terminal_may_not_get_stays_out() {
        let text = "a\u{1b}\u{80}\u{9b}2J\u{202e} = 1\n";
        let name = "x\u{9b}\u{7f}\n";
        let place = text.find('1').unwrap();
        let finding = Finding::error(place..place + 1, "w\u{1b}[2J\n", "m\u{9b}2J\u{202e}");
        assert_eq!(
            Source { name, text }.show(&finding, false),
            "\
error: w\\u{1b}[2J\\n
 --> x\\u{9b}\\u{7f}\\n:1:11
  |
1 | a\u{241b}\u{fffd}\u{fffd}2J\u{fffd} = 1
  |           ^
  |
  = help: m\\u{9b}2J\\u{202e}
"
        );
    }

    #[test]
    fn a_control_character_behind_ascii_is_not_shown() {
        // Found by fuzzing.
        let text = "# \u{2026}\n en\u{80}";
        let source = Source { name: "x", text };
        let checked = crate::control::config::check(text, None);
        let shown = source.show(&checked.findings[0], false);
        assert!(shown.contains("2 |  en\u{fffd}\n"), "{shown:?}");
        assert!(!shown.contains('\u{80}'), "{shown:?}");
    }
}
