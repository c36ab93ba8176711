//! What a command has found out, on standard output: a table for people, JSON for programs.
//!
//! The names of JSON fields are a promise: they are listed in `docs/operations.md`, new ones may
//! come, and none changes its meaning. Quantities carry their unit in the name.

use std::io;

use anyhow::Context as _;
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

use crate::harmless;

/// Options of every command that prints facts.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct OutputArgs {
    /// Print JSON, for programs.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a command has found out. Its JSON is what it serializes to.
pub(crate) trait Facts: Serialize {
    /// As a person likes to read it: whole lines.
    fn text(&self) -> String;
}

impl OutputArgs {
    /// Prints facts in the form that was asked for. That the reader has gone away, as `head` does,
    /// is no error.
    ///
    /// # Errors
    /// Standard output takes nothing: a full disk, for instance.
    pub(crate) fn print(self, facts: &impl Facts) -> anyhow::Result<()> {
        self.print_as(facts, serde_json::to_string_pretty)
    }

    /// The same, with JSON on one line: for who waits for the line of a command that goes on.
    ///
    /// # Errors
    /// As [`print`](Self::print).
    pub(crate) fn print_line(self, facts: &impl Facts) -> anyhow::Result<()> {
        self.print_as(facts, serde_json::to_string)
    }

    fn print_as<F: Facts>(
        self,
        facts: &F,
        json: fn(&F) -> serde_json::Result<String>,
    ) -> anyhow::Result<()> {
        let mut text = if self.json {
            let json = json(facts).context("cannot make JSON of the result")?;
            harmless::json(&json).into_owned()
        } else {
            facts.text()
        };
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        write(&mut io::stdout().lock(), &text)
    }
}

fn write(out: &mut impl io::Write, text: &str) -> anyhow::Result<()> {
    let result = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to standard output"),
    }
}

/// Facts about one thing: a name and a value a line.
pub(crate) fn sheet<'a>(facts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut table = bare_table();
    for (name, value) in facts {
        table.add_row([name, &*harmless::line(&value)]);
    }
    lines(&table)
}

/// Facts about several things: a line for each, under a head. `true` in the head is for numbers,
/// which stand at the right.
pub(crate) fn list<const N: usize>(head: [(&str, bool); N], rows: &[[String; N]]) -> String {
    let mut table = bare_table();
    table.set_header(head.map(|(name, _)| name));
    for row in rows {
        table.add_row(row.iter().map(|cell| harmless::line(cell)));
    }
    for (column, (_, is_number)) in table.column_iter_mut().zip(head) {
        if is_number {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    lines(&table)
}

fn bare_table() -> Table {
    let mut table = Table::new();
    // A line is never broken: what cuts columns out of it must find them.
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// Without the room that tables have left and right.
fn lines(table: &Table) -> String {
    let lines = table.lines();
    let lines =
        lines.map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end()));
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_has_names_and_values_under_each_other() {
        let text = sheet([("size", "64 MiB".to_owned()), ("serial", String::new())]);
        assert_eq!(text, "size    64 MiB\nserial\n");
    }

    #[test]
    fn a_list_has_a_head_and_numbers_at_the_right() {
        let rows = [
            ["e1.1".to_owned(), "64".to_owned(), "x".repeat(200)],
            ["e10.11".to_owned(), "7".to_owned(), String::new()],
        ];
        let text = list(
            [("ADDRESS", false), ("BUFFERS", true), ("CONFIG", false)],
            &rows,
        );
        let long = "x".repeat(200);
        assert_eq!(
            text,
            format!("ADDRESS  BUFFERS  CONFIG\ne1.1          64  {long}\ne10.11         7\n")
        );
    }

    #[test]
    fn a_terminal_gets_no_orders() {
        let value = "a\u{9b}\n\u{202e}".to_owned();
        assert_eq!(sheet([("x", value.clone())]), "x  a\\u{9b}\\n\\u{202e}\n");
        assert_eq!(
            list([("X", false)], &[[value]]),
            "X\na\\u{9b}\\n\\u{202e}\n"
        );
    }

    struct Broken(io::ErrorKind);

    impl io::Write for Broken {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is() {
        assert!(write(&mut Broken(io::ErrorKind::BrokenPipe), "x").is_ok());
        let error = write(&mut Broken(io::ErrorKind::StorageFull), "x").unwrap_err();
        assert_eq!(error.to_string(), "cannot write to standard output");
    }
}
