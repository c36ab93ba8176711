//! Text that is no TOML: where, and what was probably meant.

use std::ops::Range;

use toml::Spanned;
use toml::de::DeTable;

use super::finding::Finding;
use super::notes::{Notes, quote};
use crate::harmless;

/// What the parser says of text without quotes, after which it goes on as if they were there.
const NO_QUOTES: &str = "string values must be quoted";

/// Reads text as TOML. None if what follows from its mistakes cannot be told from others.
pub(super) fn parse<'t>(text: &'t str, notes: &mut Notes) -> Option<Spanned<DeTable<'t>>> {
    let (table, mut errors) = DeTable::parse_recoverable(text);
    let at = |error: &toml::de::Error| error.span().unwrap_or(0..0);
    errors.sort_by_key(|error| at(error).start);
    let mut is_whole = true;
    for error in errors {
        let place = Place {
            text,
            span: fit(text, at(&error)),
        };
        let message = error.message();
        // What was meant by it is not known, so nothing follows from it.
        notes.settle(Finding::error(
            place.span.clone(),
            place.message(message),
            place.remedy(message),
        ));
        if !message.starts_with(NO_QUOTES) {
            // Those behind it are mostly its consequences.
            is_whole = false;
            break;
        }
    }
    is_whole.then_some(table)
}

/// A place in the text that is there, on borders of characters.
fn fit(text: &str, span: Range<usize>) -> Range<usize> {
    let border = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = border(span.start);
    start..border(span.end).max(start)
}

struct Place<'t> {
    text: &'t str,
    span: Range<usize>,
}

impl<'t> Place<'t> {
    /// The line that it begins in, without its end.
    fn line(&self) -> &'t str {
        let (before, after) = self.text.split_at(self.span.start);
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = after
            .find('\n')
            .map_or(self.text.len(), |at| self.span.start + at);
        self.text
            .get(start..end)
            .unwrap_or_default()
            .trim_end_matches('\r')
    }

    fn marked(&self) -> &'t str {
        self.text.get(self.span.clone()).unwrap_or_default()
    }

    /// The word that it is in, up to what cannot be in a word.
    fn word(&self) -> &'t str {
        let (before, after) = self.text.split_at(self.span.start);
        let is_end = |c: char| c.is_whitespace() || "[]{}=,#\"'".contains(c);
        let last = before.char_indices().rfind(|&(_, c)| is_end(c));
        let start = last.map_or(0, |(at, c)| at + c.len_utf8());
        let end = after
            .find(is_end)
            .map_or(self.text.len(), |at| self.span.start + at);
        self.text.get(start..end).unwrap_or_default()
    }

    fn message(&self, message: &str) -> String {
        if message.starts_with(NO_QUOTES) {
            format!("{} is text without quotes", quote(self.marked()))
        } else if message == "duplicate key" {
            format!("{} stands here for the second time", quote(self.marked()))
        } else {
            format!("this is no TOML: {message}")
        }
    }

    fn remedy(&self, message: &str) -> String {
        if message.starts_with(NO_QUOTES) {
            return in_quotes(self.marked());
        }
        if message.starts_with("invalid boolean") {
            return "write true or false, in small letters".to_owned();
        }
        if message == "duplicate key" {
            return match self.marked() {
                "export" => "begin each export with a line [[export]], in double brackets",
                _ => {
                    "keep one of the two; the keys of a further export stand below a further \
                      line [[export]]"
                }
            }
            .to_owned();
        }
        if self.line().trim_start().starts_with('[') && message.contains("`]`") {
            return "close the brackets: [name], or [[export]]".to_owned();
        }
        if message.contains("escaped value") {
            return "write a backslash as two, or put the text in single quotes".to_owned();
        }
        let is_open = |quotes: char| self.line().matches(quotes).count() % 2 == 1;
        if message.starts_with("invalid basic string") && is_open('"') {
            return "close the quotes".to_owned();
        }
        if message.contains("array") {
            return "close the bracket of the list, and put commas between: [\"eth0\", \"eth1\"]"
                .to_owned();
        }
        if message.contains("leading zero") {
            return "write the number without zeros in front".to_owned();
        }
        match self.word() {
            word if message.starts_with("invalid ")
                && !word.is_empty()
                && self.line().contains('=') =>
            {
                in_quotes(word)
            }
            _ if self.line().contains('=') => "write one key a line: key = value".to_owned(),
            _ => "write key = value, [name] or [[export]]; remarks begin with #".to_owned(),
        }
    }
}

/// What to write in the place of text without quotes.
fn in_quotes(text: &str) -> String {
    let text = text.trim_matches(['“', '”', '„', '‘', '’', '«', '»', '"', '\'']);
    match text.to_lowercase().as_str() {
        "yes" | "on" | "true" => "write true".to_owned(),
        "no" | "off" | "false" => "write false".to_owned(),
        _ if text.len() <= 60
            && !text.contains(['"', '\\'])
            && !text.contains(harmless::is_order) =>
        {
            format!("put it in straight quotes: \"{text}\"")
        }
        _ => "put it in straight quotes".to_owned(),
    }
}
