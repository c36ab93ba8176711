//! Markdown to the language of manual pages (man(7)): as much of it as the project's own manuals use.
//! The first heading is left out, tables become lists with the first column in front, and links keep
//! their text.

use std::fmt::Write as _;

/// The text as the body of a page.
pub(super) fn to_roff(text: &str) -> String {
    let mut page = Page::default();
    for line in text.lines() {
        page.take(line);
    }
    page.end_paragraph();
    page.roff
}

#[derive(Default)]
struct Page {
    roff: String,
    /// Lines that belong together, until the next that does not.
    paragraph: Vec<String>,
    /// Behind a mark of a list.
    is_item: bool,
    in_code: bool,
    /// The last column of the table that is being read, if it has three.
    last_column: Option<String>,
    in_table: bool,
}

impl Page {
    fn take(&mut self, line: &str) {
        if line.starts_with("```") {
            self.end_paragraph();
            self.in_code = !self.in_code;
            self.order(if self.in_code {
                ".PP\n.RS 4\n.nf"
            } else {
                ".fi\n.RE"
            });
        } else if self.in_code {
            let line = escape(line);
            self.line(&line);
        } else if let Some(row) = line.strip_prefix('|') {
            self.end_paragraph();
            self.row(row);
        } else {
            self.in_table = false;
            self.text(line);
        }
    }

    fn text(&mut self, line: &str) {
        if line.is_empty() {
            self.end_paragraph();
        } else if let Some(heading) = line.strip_prefix("## ") {
            self.end_paragraph();
            let heading = inline(heading);
            self.order(&format!(".SH \"{}\"", heading.replace('"', "\\(dq")));
        } else if line.starts_with("# ") {
            self.end_paragraph();
        } else if let Some(item) = line.strip_prefix("- ") {
            self.end_paragraph();
            self.is_item = true;
            self.paragraph.push(item.to_owned());
        } else {
            self.paragraph.push(line.trim_start().to_owned());
        }
    }

    fn end_paragraph(&mut self) {
        if self.paragraph.is_empty() {
            return;
        }
        let text = inline(&std::mem::take(&mut self.paragraph).join("\n"));
        let is_item = std::mem::take(&mut self.is_item);
        self.order(if is_item { ".IP \\(bu 2" } else { ".PP" });
        for line in text.lines() {
            self.line(line);
        }
    }

    /// A line `a | b |` or `a | b | c |`, whose first bar is gone.
    fn row(&mut self, row: &str) {
        let row = row.trim_end().trim_end_matches('|');
        let mut columns = row.split(" | ").map(str::trim);
        let (first, second, third) = (columns.next(), columns.next(), columns.next());
        if !std::mem::replace(&mut self.in_table, true) {
            self.last_column = third.map(inline);
            return;
        }
        let (Some(first), Some(second)) = (first, second) else {
            // The line below the heads.
            return;
        };
        self.order(".TP");
        let (first, second) = (inline(first), inline(second));
        self.line(&first);
        self.line(&second);
        if let (Some(name), Some(value)) = (self.last_column.clone(), third)
            && !value.is_empty()
        {
            let value = inline(value);
            self.line(&format!("({name}: {value})"));
        }
    }

    /// A line that is an order.
    fn order(&mut self, order: &str) {
        // To a string, this cannot fail.
        let _ = writeln!(self.roff, "{order}");
    }

    /// A line of text, which must not begin as an order does.
    fn line(&mut self, text: &str) {
        let guard = if text.starts_with(['.', '\'']) {
            "\\&"
        } else {
            ""
        };
        let _ = writeln!(self.roff, "{guard}{text}");
    }
}

/// Text with marks of Markdown in it: code and bold become bold, links their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['`', '*', '[']) {
        let (before, marked) = rest.split_at(at);
        out.push_str(&escape(before));
        let bold = |inner: &str| format!("\\fB{}\\fR", escape(inner));
        if let Some((inner, after)) = between(marked, "`", "`") {
            out.push_str(&bold(inner));
            rest = after;
        } else if let Some((inner, after)) = between(marked, "**", "**") {
            // All of it is bold, code in it too.
            out.push_str(&bold(&inner.replace('`', "")));
            rest = after;
        } else if let Some((inner, after)) = link(marked) {
            out.push_str(&inline(inner));
            rest = after;
        } else {
            let (mark, after) = marked.split_at(1);
            out.push_str(mark);
            rest = after;
        }
    }
    out.push_str(&escape(rest));
    out
}

/// What stands between two marks, the first of which the text begins with, and what follows them.
fn between<'t>(text: &'t str, first: &str, last: &str) -> Option<(&'t str, &'t str)> {
    text.strip_prefix(first)?.split_once(last)
}

/// The text of a link that the text begins with, and what follows the link.
fn link(text: &str) -> Option<(&str, &str)> {
    let (inner, after) = between(text, "[", "](")?;
    if inner.contains(']') {
        return None;
    }
    Some((inner, after.split_once(')')?.1))
}

/// Backslashes begin orders, and hyphens would become others.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_paragraphs_and_lists() {
        assert_eq!(
            to_roff(
                "# Title\n\nOne `a-b`\nand **`t`wo**.\n\n## `[x]` \"y\"\n\n- first\n  goes on\n- next\n"
            ),
            ".PP\nOne \\fBa\\-b\\fR\nand \\fBtwo\\fR.\n\
             .SH \"\\fB[x]\\fR \\(dqy\\(dq\"\n\
             .IP \\(bu 2\nfirst\ngoes on\n.IP \\(bu 2\nnext\n"
        );
    }

    #[test]
    fn tables_are_lists() {
        assert_eq!(
            to_roff(
                "| key | meaning | default |\n|---|---|---|\n| `a` | one | `\"1s\"` |\n| `b` | two | |\n"
            ),
            ".TP\n\\fBa\\fR\none\n(default: \\fB\"1s\"\\fR)\n.TP\n\\fBb\\fR\ntwo\n"
        );
        assert_eq!(
            to_roff(
                "| kind | written |\n|---|---|\n| size | as text |\n\n| x | y |\n|---|---|\n| z | w |\n"
            ),
            ".TP\nsize\nas text\n.TP\nz\nw\n"
        );
    }

    #[test]
    fn code_stays_as_it_is() {
        assert_eq!(
            to_roff("```toml\n[x] # `\n.a = '\\'\n```\n"),
            ".PP\n.RS 4\n.nf\n[x] # `\n\\&.a = '\\e'\n.fi\n.RE\n"
        );
    }

    #[test]
    fn links_and_single_marks() {
        assert_eq!(
            inline("see [a `b`](c.md#d), with * and [no link] at `[x]`"),
            "see a \\fBb\\fR, with * and [no link] at \\fB[x]\\fR"
        );
        assert_eq!(inline("open ` and [a](b"), "open ` and [a](b");
    }
}
