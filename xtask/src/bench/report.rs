//! Samples as figures: medians, spread, ratios; as text, as Markdown, as JSON.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
};

use anyhow::{Context as _, Result};
use aoede_bench::statistics::{Summary, ratio};
use aoede_e2e::target_folder;
use serde::Serialize;

use super::images::Sizes;
use super::lab::{self, Cores, MTU, Sample, Timing};
use super::machine::{Machine, workspace};
use super::rows::{Contender, Figure, Image, RIVAL, Reference, Row};
use super::say;

/// The command whose tables are those of the rows.
const ROWS_COMMAND: &str = "cargo xtask bench";

/// What all tables of a run have in common.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Header {
    machine: Machine,
    /// How busy the cores were with other things, from 0 to 1.
    busy_before: f64,
    cores: Cores,
    rounds: u32,
    seconds: f64,
    warm_up_seconds: f64,
    memory_bytes: u64,
    disk_bytes: u64,
    mtu: u32,
    #[serde(skip)]
    timing: Timing,
}

impl Header {
    pub(super) fn new(cores: Cores, timing: Timing, sizes: Sizes, busy_before: f64) -> Self {
        Self {
            busy_before,
            machine: Machine::look(),
            cores,
            rounds: timing.rounds,
            seconds: timing.measure.as_secs_f64(),
            warm_up_seconds: timing.warm_up.as_secs_f64(),
            memory_bytes: sizes.memory_bytes,
            disk_bytes: sizes.disk_bytes,
            mtu: MTU,
            timing,
        }
    }

    fn text(&self) -> String {
        self.text_with(&format!(
            "rounds: {}, of {} s after {} s of warm-up",
            self.rounds, self.seconds, self.warm_up_seconds
        ))
    }

    /// Where and on what, and what of.
    fn text_with(&self, what: &str) -> String {
        let Machine {
            cpu,
            cores,
            kernel,
            date,
            commit,
        } = &self.machine;
        let files = [
            ("in memory", self.memory_bytes),
            ("on disk", self.disk_bytes),
        ];
        let files = files.into_iter().filter(|&(_, bytes)| bytes > 0);
        let files: Vec<_> = files
            .map(|(place, bytes)| format!("{place} {} MiB", bytes >> 20))
            .collect();
        format!(
            "{date}, commit {commit}; {cpu}, {cores} cores, {kernel}; target on core {}, load \
             generator on core {}, veth pair with an MTU of {}{}; file {}; {what}; cores {:.0} % busy before.",
            self.cores.target,
            self.cores.load,
            self.mtu,
            if self.cores.steer {
                ", received frames steered to the receiver's core"
            } else {
                ""
            },
            files.join(", "),
            self.busy_before * 100.0,
        )
    }

    fn image_bytes(&self, image: Image) -> u64 {
        match image {
            Image::Memory | Image::Sparse => self.memory_bytes,
            Image::Disk => self.disk_bytes,
        }
    }
}

/// One row of all rounds.
#[derive(Debug)]
pub(super) struct RowResult {
    row: &'static Row,
    entries: Vec<Entry>,
}

/// One contender's turns; what failed has its reason.
#[derive(Debug)]
struct Entry {
    contender: &'static Contender,
    turns: Vec<Result<Sample, String>>,
}

impl RowResult {
    pub(super) fn new(row: &'static Row) -> Self {
        let entries = row.contenders.iter().map(|contender| Entry {
            contender,
            turns: Vec::new(),
        });
        Self {
            row,
            entries: entries.collect(),
        }
    }

    pub(super) fn row(&self) -> &'static Row {
        self.row
    }

    pub(super) fn add(&mut self, contender: &Contender, turn: Result<Sample, String>) {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.contender == contender);
        if let Some(entry) = entry {
            entry.turns.push(turn);
        }
    }

    /// Turns that brought nothing.
    pub(super) fn failures(&self) -> usize {
        let turns = self.entries.iter().flat_map(|entry| &entry.turns);
        turns.filter(|turn| turn.is_err()).count()
    }

    /// The contender whose name begins so.
    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries
            .iter()
            .find(|entry| entry.contender.name.starts_with(name))
    }

    /// The figure to compare with, round by round.
    fn reference_values(&self, reference: &Reference) -> Vec<Option<f64>> {
        let figure = self.row.figure;
        reference
            .least_of
            .iter()
            .filter_map(|name| self.entry(name))
            .map(|entry| entry.values(|sample| Some(figure.of(sample))))
            .reduce(least)
            .unwrap_or_default()
    }

    fn figures(&self, header: &Header) -> Vec<Figures> {
        let rival = self.entry(RIVAL);
        let figure = self.row.figure;
        let references: Vec<_> = self
            .row
            .references
            .iter()
            .map(|reference| (reference.column, self.reference_values(reference)))
            .collect();
        self.entries
            .iter()
            .map(|entry| Figures {
                name: entry.contender.name,
                command: lab::describe(
                    self.row,
                    entry.contender,
                    header.image_bytes(self.row.image),
                    header.timing,
                ),
                figure: entry.summary(|sample| Some(figure.of(sample))),
                to_references: references
                    .iter()
                    .map(|(to, values)| Comparison {
                        to,
                        ratio: ratio(&entry.values(|sample| Some(figure.of(sample))), values),
                    })
                    .collect(),
                p50_us: entry.summary(|sample| Some(sample.p50_us)),
                p99_us: entry.summary(|sample| Some(sample.p99_us)),
                cpu_seconds_per_million: entry.summary(|sample| sample.cpu_seconds_per_million),
                cpu_to_rival: rival.and_then(|rival| {
                    ratio(
                        &entry.values(|sample| sample.cpu_seconds_per_million),
                        &rival.values(|sample| sample.cpu_seconds_per_million),
                    )
                }),
                retransmissions: entry
                    .turns
                    .iter()
                    .flatten()
                    .map(|sample| sample.retransmissions)
                    .sum(),
                turns: entry.turns.clone(),
            })
            .collect()
    }
}

impl Entry {
    fn values(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<Option<f64>> {
        self.turns
            .iter()
            .map(|turn| turn.as_ref().ok().and_then(&value))
            .collect()
    }

    fn summary(&self, value: impl Fn(&Sample) -> Option<f64>) -> Option<Summary> {
        Summary::of(self.values(value).into_iter().flatten())
    }
}

/// The lesser of two in each round. Rounds that lack one of them have none.
#[expect(
    clippy::needless_pass_by_value,
    reason = "as `Iterator::reduce` wants it"
)]
fn least(some: Vec<Option<f64>>, others: Vec<Option<f64>>) -> Vec<Option<f64>> {
    let rounds = some.iter().zip(&others);
    rounds
        .map(|(one, other)| Some((*one)?.min((*other)?)))
        .collect()
}

/// A contender's figure in units of a reference.
#[derive(Debug, Serialize)]
struct Comparison {
    to: &'static str,
    ratio: Option<Summary>,
}

/// What is told of one contender in one row.
#[derive(Debug, Serialize)]
struct Figures {
    name: &'static str,
    command: String,
    figure: Option<Summary>,
    to_references: Vec<Comparison>,
    p50_us: Option<Summary>,
    p99_us: Option<Summary>,
    cpu_seconds_per_million: Option<Summary>,
    cpu_to_rival: Option<Summary>,
    retransmissions: u64,
    turns: Vec<Result<Sample, String>>,
}

impl Figures {
    /// The cells of its line in the table.
    fn cells(&self, figure: Figure) -> Vec<String> {
        let digits = usize::from(figure != Figure::Operations);
        let middle = |summary: Option<Summary>, digits: usize| {
            summary.map_or_else(|| "–".to_owned(), |s| format!("{:.digits$}", s.median))
        };
        let spread = |summary: Option<Summary>, digits: usize| {
            summary.map_or_else(
                || "–".to_owned(),
                |s| format!("{:.digits$}–{:.digits$}", s.min, s.max),
            )
        };
        let mut cells = vec![
            self.name.to_owned(),
            middle(self.figure, digits),
            spread(self.figure, digits),
        ];
        for comparison in &self.to_references {
            cells.push(middle(comparison.ratio, 2));
            cells.push(spread(comparison.ratio, 2));
        }
        if figure != Figure::MedianLatency {
            cells.push(middle(self.p50_us, 1));
        }
        cells.push(middle(self.p99_us, 1));
        cells.push(middle(self.cpu_seconds_per_million, 2));
        cells.push(middle(self.cpu_to_rival, 2));
        cells.push(self.retransmissions.to_string());
        cells
    }
}

fn columns(row: &Row) -> Vec<String> {
    let name = row.figure.name();
    let mut columns = vec![String::new(), name.to_owned(), "min–max".to_owned()];
    for reference in row.references {
        columns.push(format!("× {}", reference.column));
        columns.push("min–max".to_owned());
    }
    if row.figure != Figure::MedianLatency {
        columns.push("p50 us".to_owned());
    }
    columns.push("p99 us".to_owned());
    columns.push("CPU s/M".to_owned());
    columns.push(format!("× {RIVAL}"));
    columns.push("again".to_owned());
    columns
}

/// The standard output gets the tables, target/bench all of it.
pub(super) fn publish(header: &Header, results: &[RowResult]) -> Result<()> {
    let rows: Vec<_> = results
        .iter()
        .map(|result| {
            serde_json::json!({
                "row": result.row.id,
                "title": result.row.title,
                "figure": result.row.figure.name(),
                "contenders": result.figures(header),
            })
        })
        .collect();
    let json = serde_json::json!({ "header": header, "rows": rows });
    let mut text = format!("{}\n", header.text());
    for result in results {
        let lines = result.figures(header);
        let lines: Vec<_> = lines
            .iter()
            .map(|line| line.cells(result.row.figure))
            .collect();
        // A string takes everything.
        let _ = write!(
            text,
            "\n{}. {}\n{}",
            result.row.id,
            result.row.title,
            aligned(&columns(result.row), &lines)
        );
    }
    publish_all("results", &text, &markdown(header, results), &json)
}

/// A table that stands by itself.
#[derive(Debug)]
pub(super) struct Table {
    /// The option that asks for it, and its file in target/bench.
    pub(super) name: &'static str,
    /// Of its section in docs/benchmarks.md.
    pub(super) title: &'static str,
    /// How it was measured, in few words.
    pub(super) what: String,
    pub(super) columns: &'static [&'static str],
    pub(super) lines: Vec<Vec<String>>,
    pub(super) records: serde_json::Value,
}

impl Table {
    fn columns(&self) -> Vec<String> {
        let columns = self.columns.iter();
        columns.map(|&column| column.to_owned()).collect()
    }

    fn markdown(&self, header: &Header) -> String {
        format!(
            "{}\n\n{}",
            header.text_with(&self.what),
            piped(&self.columns(), &self.lines)
        )
    }
}

/// As [`publish`].
pub(super) fn publish_table(header: &Header, table: &Table) -> Result<()> {
    let json = serde_json::json!({ "header": header, table.name: table.records });
    publish_all(
        table.name,
        &aligned(&table.columns(), &table.lines),
        &table.markdown(header),
        &json,
    )
}

fn publish_all(name: &str, text: &str, markdown: &str, json: &serde_json::Value) -> Result<()> {
    let folder = target_folder().join("bench");
    for (suffix, content) in [
        ("md", markdown.to_owned()),
        ("json", serde_json::to_string_pretty(json)?),
    ] {
        let path = folder.join(name).with_extension(suffix);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("written: {}", path.display()));
    }
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Puts the tables into docs/benchmarks.md.
pub(super) fn write_docs(header: &Header, results: &[RowResult]) -> Result<()> {
    put(ROWS_COMMAND, "Figures", &markdown(header, results))
}

/// The same for a table that stands by itself.
pub(super) fn write_docs_table(header: &Header, table: &Table) -> Result<()> {
    put(
        &table_command(table.name),
        table.title,
        &table.markdown(header),
    )
}

fn table_command(name: &str) -> String {
    format!("{ROWS_COMMAND} --{name}")
}

fn put(command: &str, title: &str, tables: &str) -> Result<()> {
    let path = workspace().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let page = replace(&page, command, tables)
        .unwrap_or_else(|| format!("{page}{}", section(command, title, tables)));
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

/// The page with other tables between the two lines that name the command, if it has them.
fn replace(page: &str, command: &str, tables: &str) -> Option<String> {
    let (begin, end) = (begin(command), end(command));
    let (before, rest) = page.split_once(&begin)?;
    let (_, after) = rest.split_once(&end)?;
    Some(format!("{before}{begin}\n{tables}\n{end}{after}"))
}

/// For a page that has no such lines yet.
fn section(command: &str, title: &str, tables: &str) -> String {
    let (begin, end) = (begin(command), end(command));
    format!("\n### {title}\n\n`{command}`:\n\n{begin}\n{tables}\n{end}\n")
}

fn begin(command: &str) -> String {
    format!("<!-- {command}: begin -->")
}

fn end(command: &str) -> String {
    format!("<!-- {command}: end -->")
}

fn markdown(header: &Header, results: &[RowResult]) -> String {
    let mut text = format!("{}\n", header.text());
    for result in results {
        let figures = result.figures(header);
        let lines: Vec<_> = figures
            .iter()
            .map(|line| line.cells(result.row.figure))
            .collect();
        // A string takes everything.
        let _ = write!(
            text,
            "\n### {}. {}\n\n{}",
            result.row.id,
            result.row.title,
            piped(&columns(result.row), &lines)
        );
        text.push_str("\n```sh\n");
        for line in &figures {
            text.push_str(&line.command);
            text.push('\n');
        }
        text.push_str("```\n");
    }
    text
}

/// Three digits that matter.
pub(super) fn three_digits(value: Option<f64>) -> String {
    match value {
        None => "–".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.3}"),
    }
}

/// The median of those that there are.
pub(super) fn median(values: &[Option<f64>]) -> String {
    let summary = Summary::of(values.iter().copied().flatten());
    three_digits(summary.map(|summary| summary.median))
}

/// A ratio with its extremes.
pub(super) fn spread(ratio: Option<Summary>) -> String {
    ratio.map_or_else(
        || "–".to_owned(),
        |ratio| format!("{:.2} ({:.2}–{:.2})", ratio.median, ratio.min, ratio.max),
    )
}

/// A table in Markdown: names to the left, numbers to the right.
fn piped(columns: &[String], lines: &[Vec<String>]) -> String {
    let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = row(columns);
    let rules: Vec<String> = (0..columns.len())
        .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
        .collect();
    text.push_str(&row(&rules));
    text.extend(lines.iter().map(|line| row(line)));
    text
}

/// The same for a terminal.
fn aligned(columns: &[String], lines: &[Vec<String>]) -> String {
    let all = || std::iter::once(columns).chain(lines.iter().map(Vec::as_slice));
    let width = |column: usize| {
        let cells = all().filter_map(|line| line.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in all() {
        let mut cells = line.iter().zip(&widths);
        if let Some((name, width)) = cells.next() {
            // A string takes everything.
            let _ = write!(text, "{name:<width$}");
        }
        for (cell, width) in cells {
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::choose;
    use std::time::Duration;

    fn header() -> Header {
        let timing = Timing {
            rounds: 3,
            measure: Duration::from_secs(5),
            warm_up: Duration::from_millis(500),
        };
        let cores = Cores {
            target: 0,
            load: 1,
            steer: false,
        };
        Header::new(cores, timing, Sizes::mib(512, 2048), 0.0)
    }

    fn sample(ops_per_second: f64, cpu: f64) -> Sample {
        Sample {
            ops_per_second,
            bytes_per_second: ops_per_second * 4096.0,
            p50_us: 50.0,
            p99_us: 99.0,
            cpu_seconds_per_million: Some(cpu),
            retransmissions: 1,
        }
    }

    fn row_1() -> RowResult {
        let row = choose(&["1".to_owned()]).unwrap()[0];
        let mut result = RowResult::new(row);
        for (ours, theirs) in [(300.0, 100.0), (150.0, 60.0), (220.0, 110.0)] {
            result.add(&row.contenders[0], Ok(sample(ours, 2.0)));
            result.add(&row.contenders[1], Ok(sample(theirs, 4.0)));
            result.add(&row.contenders[2], Err("it broke".to_owned()));
        }
        result
    }

    #[test]
    fn a_line_has_median_spread_and_the_median_of_the_ratios() {
        let result = row_1();
        let cells: Vec<_> = result
            .figures(&header())
            .iter()
            .map(|line| line.cells(Figure::Operations).join(" "))
            .collect();
        assert_eq!(
            cells[0],
            "aoede, buffered 220 150–300 2.50 2.00–3.00 50.0 99.0 2.00 0.50 3"
        );
        assert_eq!(
            cells[1],
            "vblade 100 60–110 1.00 1.00–1.00 50.0 99.0 4.00 1.00 3"
        );
        assert_eq!(cells[2], "responder, no I/O – – – – – – – – 0");
        assert_eq!(result.failures(), 3);
    }

    #[test]
    fn tables_have_as_many_cells_as_columns() {
        for figure in [Figure::Operations, Figure::Megabytes, Figure::MedianLatency] {
            for row in choose(&[]).unwrap() {
                if row.figure == figure {
                    for line in RowResult::new(row).figures(&header()) {
                        assert_eq!(line.cells(figure).len(), columns(row).len());
                    }
                }
            }
        }
    }

    #[test]
    fn a_terminal_table_is_aligned() {
        let columns = [String::new(), "n".to_owned()];
        let lines = [
            vec!["a–b".to_owned(), "1".to_owned()],
            vec!["c".to_owned(), "1000".to_owned()],
        ];
        assert_eq!(
            aligned(&columns, &lines),
            "        n\na–b     1\nc    1000\n"
        );
        assert_eq!(
            piped(&columns, &lines),
            "|  | n |\n| --- | ---: |\n| a–b | 1 |\n| c | 1000 |\n"
        );
    }

    #[test]
    fn tables_find_their_place_in_the_page() {
        let page = "top\n<!-- x: begin -->\nold\n<!-- x: end -->\nmiddle\n\
                    <!-- x --y: begin -->\nnot measured yet\n<!-- x --y: end -->\nbottom\n";
        let new = replace(page, "x --y", "new").unwrap();
        assert_eq!(
            new,
            "top\n<!-- x: begin -->\nold\n<!-- x: end -->\nmiddle\n\
             <!-- x --y: begin -->\nnew\n<!-- x --y: end -->\nbottom\n"
        );
        assert_eq!(replace("nothing", "x", "new"), None);
    }

    #[test]
    fn a_page_without_the_place_gets_a_section_and_keeps_it() {
        let page = format!("bottom\n{}", section("x --y", "Title", "first"));
        assert_eq!(
            page,
            "bottom\n\n### Title\n\n`x --y`:\n\n\
             <!-- x --y: begin -->\nfirst\n<!-- x --y: end -->\n"
        );
        let again = replace(&page, "x --y", "second").unwrap();
        assert_eq!(again, page.replace("first", "second"));
    }

    #[test]
    fn figures_have_three_digits() {
        let shown = [1234.4, 99.94, 0.0625].map(|value| three_digits(Some(value)));
        assert_eq!(shown, ["1234", "99.9", "0.062"]);
        assert_eq!(three_digits(None), "–");
    }

    #[test]
    fn the_page_has_a_place_for_each_command() {
        let page = fs::read_to_string(workspace().join("docs/benchmarks.md")).unwrap();
        for command in [
            ROWS_COMMAND.to_owned(),
            table_command("page-cache"),
            table_command("idle"),
            table_command("extensions"),
            table_command("copy"),
        ] {
            assert!(replace(&page, &command, "").is_some(), "{command}");
        }
    }

    #[test]
    fn a_row_is_compared_with_the_lesser_of_two_in_each_round() {
        let row = choose(&["3".to_owned()]).unwrap()[0];
        let mut result = RowResult::new(row);
        // Ours, the responder, fio with large blocks: the limit is 200, then 100, then unknown.
        let rounds = [
            (100.0, Some(400.0), 200.0),
            (80.0, Some(100.0), 160.0),
            (90.0, None, 90.0),
        ];
        let find = |name: &str| {
            let mut contenders = row.contenders.iter();
            contenders.find(|contender| contender.name.starts_with(name))
        };
        for (ours, responder, fio) in rounds {
            let add = |result: &mut RowResult, name, value: Option<f64>| {
                let turn = value.map(|value| sample(value, 1.0));
                result.add(find(name).unwrap(), turn.ok_or_else(|| "no".to_owned()));
            };
            add(&mut result, "aoede", Some(ours));
            add(&mut result, "responder", responder);
            add(&mut result, "fio 128", Some(fio));
        }
        let figures = result.figures(&header());
        let compared: Vec<_> = figures[0]
            .to_references
            .iter()
            .map(|comparison| (comparison.to, comparison.ratio))
            .collect();
        assert_eq!(
            compared,
            [
                ("vblade", None),
                ("fio 128 KiB", Summary::of([0.5, 0.5, 1.0])),
                ("limit", Summary::of([0.5, 0.8])),
            ]
        );
    }

    #[test]
    fn commands_are_shown_without_the_places_of_this_machine() {
        let markdown = markdown(&header(), &[row_1()]);
        for command in [
            "aoede export e1.1 FILE -i tgt0 --io buffered\n",
            "vblade 1 1 tgt0 FILE\n",
            "aoede-bench responder e1.1 -i tgt0 --sectors 1048576\n",
            "fio --name=local --filename=FILE --rw=randread --bs=4096 --ioengine=psync",
        ] {
            assert!(markdown.contains(command), "{markdown}");
        }
    }
}
