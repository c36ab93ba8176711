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
use super::rows::{Contender, Figure, Image, RIVAL, Row};
use super::say;
use super::syscalls::Count;

/// Between these lines of docs/benchmarks.md the tables stand.
const BEGIN: &str = "<!-- cargo xtask bench: begin -->";
const END: &str = "<!-- cargo xtask bench: end -->";

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
        let Machine {
            cpu,
            cores,
            kernel,
            date,
            commit,
        } = &self.machine;
        format!(
            "{date}, commit {commit}; {cpu}, {cores} cores, {kernel}; target on core {}, load \
             generator on core {}, veth pair with an MTU of {}{}; file in memory {} MiB, on disk {} \
             MiB; rounds: {}, of {} s after {} s of warm-up; cores {:.0} % busy before.",
            self.cores.target,
            self.cores.load,
            self.mtu,
            if self.cores.steer {
                ", received frames steered to the receiver's core"
            } else {
                ""
            },
            self.memory_bytes >> 20,
            self.disk_bytes >> 20,
            self.rounds,
            self.seconds,
            self.warm_up_seconds,
            self.busy_before * 100.0,
        )
    }

    fn image_bytes(&self, image: Image) -> u64 {
        match image {
            Image::Memory => self.memory_bytes,
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

    fn figures(&self, header: &Header) -> Vec<Figures> {
        let rival = self
            .entries
            .iter()
            .find(|entry| entry.contender.name.starts_with(RIVAL));
        let figure = self.row.figure;
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
                to_rival: rival.and_then(|rival| {
                    ratio(
                        &entry.values(|sample| Some(figure.of(sample))),
                        &rival.values(|sample| Some(figure.of(sample))),
                    )
                }),
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

/// What is told of one contender in one row.
#[derive(Debug, Serialize)]
struct Figures {
    name: &'static str,
    command: String,
    figure: Option<Summary>,
    to_rival: Option<Summary>,
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
            middle(self.to_rival, 2),
            spread(self.to_rival, 2),
        ];
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

fn columns(figure: Figure) -> Vec<String> {
    let name = figure.name();
    let mut columns = vec![
        String::new(),
        name.to_owned(),
        "min–max".to_owned(),
        format!("× {RIVAL}"),
        "min–max".to_owned(),
    ];
    if figure != Figure::MedianLatency {
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
            aligned(&columns(result.row.figure), &lines)
        );
    }
    publish_all("results", &text, &markdown(header, results), &json)
}

/// As [`publish`], for system calls.
pub(super) fn publish_syscalls(header: &Header, counts: &[Count]) -> Result<()> {
    let columns = ["", "outstanding", "frames", "calls per 1000", "of these"].map(str::to_owned);
    let lines: Vec<Vec<String>> = counts
        .iter()
        .map(|count| {
            vec![
                count.target.to_owned(),
                count.depth.to_string(),
                count.frames.to_string(),
                format!("{:.1}", count.total_per_thousand()),
                count.names(),
            ]
        })
        .collect();
    let json = serde_json::json!({ "header": header, "counts": counts });
    publish_all(
        "syscalls",
        &aligned(&columns, &lines),
        &format!("{}\n\n{}", header.text(), piped(&columns, &lines)),
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
    let path = workspace().join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).with_context(|| format!("no {}", path.display()))?;
    let page = replace(&page, &markdown(header, results))
        .with_context(|| format!("{} lacks `{BEGIN}` and `{END}`", path.display()))?;
    fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))
}

fn replace(page: &str, tables: &str) -> Option<String> {
    let (before, rest) = page.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{tables}\n{END}{after}"))
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
            piped(&columns(result.row.figure), &lines)
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
            for line in row_1().figures(&header()) {
                assert_eq!(line.cells(figure).len(), columns(figure).len());
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
        let page = format!("top\n{BEGIN}\nold\n{END}\nbottom\n");
        let new = replace(&page, "new").unwrap();
        assert_eq!(new, format!("top\n{BEGIN}\nnew\n{END}\nbottom\n"));
        assert_eq!(replace("nothing", "new"), None);
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
