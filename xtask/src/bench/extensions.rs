//! What the extensions save, and what a measurement of congestion costs others: the same work by
//! turns, without and with it.

use anyhow::{Context as _, Result, ensure};
use aoede_bench::load::{Report, Waiting, Workload};
use aoede_bench::statistics::{Summary, ratio};
use aoede_e2e::Process;
use serde::Serialize;

use super::lab::{Lab, Timing};
use super::report::{Table, median, spread, three_digits};
use super::rows::{Contender, Image, Kind, Work};
use super::say;
use std::time::Duration;

/// Of a turn in which others measure: one begins every 2.2 s, and takes 0.5 s.
const LEAST_TURN: Duration = Duration::from_secs(3);

/// What is measured, without and with something.
struct Subject {
    name: &'static str,
    target: Contender,
    image: Image,
    work: Work,
    /// Further options of the load generator.
    without: &'static [&'static str],
    with: &'static [&'static str],
    /// Another initiator measures the target meanwhile.
    probed: bool,
    figures: &'static [Figure],
}

/// One figure of it, and what the ratio should be at most.
struct Figure {
    name: &'static str,
    of: fn(&Report) -> Option<f64>,
    at_most: Option<f64>,
}

const MEMORY: Contender = Contender {
    name: "aoede, buffered",
    kind: Kind::Aoede(&["--io", "buffered", "-i", PROBED_INTERFACE]),
};
const WRITEBACK: Contender = Contender {
    name: "aoede, writeback",
    kind: Kind::Aoede(&["--cache", "writeback", "-i", PROBED_INTERFACE]),
};

/// On the target's host, for the initiator that measures.
pub(super) const PROBED_INTERFACE: &str = "tgt1";

const SUBJECTS: [Subject; 3] = [
    Subject {
        name: "4 KiB random reads, 16 in a frame, 2 such frames outstanding",
        target: MEMORY,
        image: Image::Memory,
        work: work(Workload::RandRead, 4096, 32),
        without: &["--group", "16"],
        with: &["--group", "16", "--coalesce"],
        probed: false,
        figures: &[
            Figure {
                name: "request frames per read",
                of: |report| per_op(report.request_frames, report),
                at_most: Some(0.1),
            },
            Figure {
                name: "CPU seconds of the target per million reads",
                of: cpu,
                at_most: Some(0.75),
            },
            Figure {
                name: "the same of its whole core",
                of: core_cpu,
                at_most: None,
            },
            Figure {
                name: "µs per read",
                of: |report| Some(1e6 / report.ops_per_second),
                at_most: None,
            },
        ],
    },
    Subject {
        name: "8 KiB sequential writes, write-back, 16 outstanding, shared responses",
        target: WRITEBACK,
        image: Image::Disk,
        work: work(Workload::Write, 8192, 16),
        without: &[],
        with: &["--write-replies"],
        probed: false,
        figures: &[
            Figure {
                name: "response frames per write",
                of: |report| per_op(report.response_frames, report),
                at_most: Some(0.25),
            },
            Figure {
                name: "CPU seconds of the target per million writes",
                of: cpu,
                at_most: None,
            },
        ],
    },
    Subject {
        name: "4 KiB random reads, 16 outstanding, while another initiator measures congestion",
        target: MEMORY,
        image: Image::Memory,
        work: work(Workload::RandRead, 4096, 16),
        without: &[],
        with: &[],
        probed: true,
        figures: &[
            Figure {
                name: "p99, µs",
                of: |report| Some(report.latency.p99_us),
                at_most: Some(2.0),
            },
            // What a stall would show in, however few requests meet it.
            Figure {
                name: "longest, µs",
                of: |report| Some(report.latency.max_us),
                at_most: None,
            },
        ],
    },
];

const fn work(workload: Workload, block_bytes: u32, depth: usize) -> Work {
    Work {
        workload,
        block_bytes,
        depth,
        // Others need the load generator's core too.
        waiting: Waiting::Poll,
        flush: false,
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn per_op(frames: u64, report: &Report) -> Option<f64> {
    (report.ops > 0).then(|| frames as f64 / report.ops as f64)
}

/// Of the process, with what the kernel did in its calls and on its back.
fn cpu(report: &Report) -> Option<f64> {
    Some(report.target_cpu_seconds? / millions(report))
}

/// Of its core, whoever is charged for it: on a quiet machine the target and its host.
fn core_cpu(report: &Report) -> Option<f64> {
    Some(report.core_seconds? / millions(report))
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn millions(report: &Report) -> f64 {
    report.ops as f64 / 1e6
}

/// A figure of all rounds.
#[derive(Clone, Debug, Serialize)]
struct Line {
    subject: &'static str,
    figure: &'static str,
    without: Vec<Option<f64>>,
    with: Vec<Option<f64>>,
    ratio: Option<Summary>,
    at_most: Option<f64>,
}

/// The times of a turn that all subjects can do with.
pub(super) fn timing(timing: Timing) -> Timing {
    Timing {
        measure: timing.measure.max(LEAST_TURN),
        ..timing
    }
}

/// All subjects, by turns.
pub(super) fn table(lab: &Lab, rounds: u32) -> Result<Table> {
    let mut turns: Vec<Vec<(Report, Report)>> = SUBJECTS.iter().map(|_| Vec::new()).collect();
    for round in 1..=rounds {
        for (subject, turns) in SUBJECTS.iter().zip(&mut turns) {
            let without = turn(lab, subject, subject.without, false)?;
            let with = turn(lab, subject, subject.with, subject.probed)?;
            for figure in subject.figures {
                say(&format!(
                    "round {round}/{rounds} {}: {} without, {} with",
                    figure.name,
                    three_digits((figure.of)(&without)),
                    three_digits((figure.of)(&with)),
                ));
            }
            turns.push((without, with));
        }
    }
    let lines: Vec<Line> = SUBJECTS
        .iter()
        .zip(&turns)
        .flat_map(|(subject, turns)| {
            let figures = subject.figures.iter();
            figures.map(|figure| Line::new(subject.name, figure, turns))
        })
        .collect();
    Ok(Table {
        name: "extensions",
        title: "Extensions",
        what: format!(
            "{rounds} rounds of {:.0?}, without and with by turns; median, and the ratio with its \
             extremes",
            lab.timing().measure
        ),
        columns: &["", "figure", "without", "with", "ratio", "wanted"],
        lines: lines.iter().map(Line::cells).collect(),
        records: serde_json::to_value(&lines)?,
    })
}

fn turn(lab: &Lab, subject: &Subject, options: &[&str], probed: bool) -> Result<Report> {
    let target = lab.start(&subject.target, subject.image)?;
    let outcome = if probed {
        probed_turn(lab, subject, &target, options)
    } else {
        lab.ask_with(&target, subject.work, options)
    };
    lab.stop(target)?;
    outcome.with_context(|| subject.name.to_owned())
}

/// While another initiator measures all the time.
fn probed_turn(lab: &Lab, subject: &Subject, target: &Process, options: &[&str]) -> Result<Report> {
    let mut prober = lab.probe()?;
    let report = lab.ask_with(target, subject.work, options)?;
    prober.kill()?;
    let told = prober.stdout.text();
    let answered: u32 = told
        .lines()
        .filter_map(|line| line.parse::<u32>().ok())
        .sum();
    ensure!(answered > 0, "nobody has measured meanwhile: {told}");
    Ok(report)
}

impl Line {
    fn new(subject: &'static str, figure: &Figure, turns: &[(Report, Report)]) -> Self {
        let without: Vec<_> = turns.iter().map(|turn| (figure.of)(&turn.0)).collect();
        let with: Vec<_> = turns.iter().map(|turn| (figure.of)(&turn.1)).collect();
        Self {
            subject,
            figure: figure.name,
            ratio: ratio(&with, &without),
            without,
            with,
            at_most: figure.at_most,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.subject.to_owned(),
            self.figure.to_owned(),
            median(&self.without),
            median(&self.with),
            spread(self.ratio),
            self.at_most
                .map_or_else(String::new, |most| format!("≤ {most}")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_medians_and_the_ratio_within_rounds() {
        let line = Line {
            subject: "reads",
            figure: "frames",
            without: vec![Some(1.0), Some(1.0), Some(2.0)],
            with: vec![Some(0.5), Some(0.1), Some(0.4)],
            ratio: ratio(
                &[Some(0.5), Some(0.1), Some(0.4)],
                &[Some(1.0), Some(1.0), Some(2.0)],
            ),
            at_most: Some(0.1),
        };
        assert_eq!(
            line.cells(),
            [
                "reads",
                "frames",
                "1.000",
                "0.400",
                "0.20 (0.10–0.50)",
                "≤ 0.1"
            ]
        );
    }
}
