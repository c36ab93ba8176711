//! What is wrong with a configuration, where, and what to do about it.

use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

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
    pub other: Option<(Range<usize>, String)>,
}

impl Finding {
    /// What keeps a configuration from being used.
    pub(super) fn error(
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Error,
            message: message.into(),
            span,
            remedy: remedy.into(),
            other: None,
        }
    }

    /// What is perhaps not meant.
    pub(super) fn warning(
        span: Range<usize>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(span, message, remedy)
        }
    }

    /// With another place.
    pub(super) fn and(mut self, span: Range<usize>, label: impl Into<String>) -> Self {
        self.other = Some((span, label.into()));
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
    /// Ends with a line break.
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
        let primary = AnnotationKind::Primary.span(finding.span.clone());
        let mut snippet = Snippet::source(self.text)
            .path(self.name)
            .annotation(primary);
        if let Some((span, label)) = &finding.other {
            let context = AnnotationKind::Context.span(span.clone());
            snippet = snippet.annotation(context.label(label.as_str()));
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
        let text = "a\u{1b}[2J = 1\n";
        let source = Source { name: "x", text };
        let shown = source.show(&Finding::error(0..1, "wrong \u{1b}[2J", "mend"), false);
        assert!(!shown.contains('\u{1b}'), "{shown:?}");
    }
}
