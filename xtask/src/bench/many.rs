//! What a process with many exports costs the one that is busy, compared with the same alone; and
//! what it costs when nobody asks.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aoede_bench::{
    load::{Report, Waiting, Workload},
    statistics::{Summary, ratio},
};
use aoede_e2e::Scratch;
use serde::Serialize;

use super::idle::{self, Cost, Pace};
use super::lab::{Lab, TARGET_INTERFACE};
use super::report::{Table, median, spread};
use super::rows::{Image, Work};
use super::say;

/// Exports of one process, the busy one among them.
const MANY: usize = 256;
/// What the busy one should reach of its speed alone.
const AT_LEAST: f64 = 0.95;
/// What an idle one may take.
const MOST_KIB: u64 = 200;
/// Of the files that nobody asks for. They are sparse.
const IDLE_BYTES: u64 = 64 << 20;

/// What the busy one has: how it is called, its file, `io`.
const SUBJECTS: [(&str, Image, &str); 2] = [
    (
        "4 KiB random reads, 16 outstanding, file in memory",
        Image::Memory,
        "buffered",
    ),
    (
        "4 KiB random reads, 16 outstanding, O_DIRECT",
        Image::Disk,
        "direct",
    ),
];

const WORK: Work = Work {
    workload: Workload::RandRead,
    block_bytes: 4096,
    depth: 16,
    waiting: Waiting::Spin,
    flush: false,
};

/// One figure of all rounds of one subject.
#[derive(Debug, Serialize)]
struct Busy {
    subject: &'static str,
    figure: &'static str,
    alone: Vec<Option<f64>>,
    among_many: Vec<Option<f64>>,
    ratio: Option<Summary>,
    at_least: Option<f64>,
}

/// A process that nobody asks.
#[derive(Debug, Serialize)]
struct Idle {
    alone: Cost,
    among_many: Cost,
}

/// Alone and among many by turns, then both idle.
pub(super) fn table(lab: &Lab, pace: Pace) -> Result<Table> {
    let scratch = Scratch::new()?;
    for number in 1..MANY {
        scratch.image(&format!("{number}.img"), IDLE_BYTES)?;
    }
    let rounds = lab.timing().rounds;
    let mut turns: [Vec<(Report, Report)>; 2] = Default::default();
    for round in 1..=rounds {
        for (subject, turns) in SUBJECTS.iter().zip(&mut turns) {
            let alone = turn(lab, &scratch, subject, 1)?;
            let among_many = turn(lab, &scratch, subject, MANY)?;
            say(&format!(
                "round {round}/{rounds} {}: {:.0}/s alone, {:.0}/s among {MANY}",
                subject.0, alone.ops_per_second, among_many.ops_per_second
            ));
            turns.push((alone, among_many));
        }
    }
    let busy: Vec<Busy> = SUBJECTS
        .iter()
        .zip(&turns)
        .flat_map(|(subject, turns)| Busy::all(subject.0, turns))
        .collect();
    let idle = Idle {
        alone: look(lab, &scratch, pace, 1)?,
        among_many: look(lab, &scratch, pace, MANY)?,
    };
    let mut lines: Vec<_> = busy.iter().map(Busy::cells).collect();
    lines.extend(idle.cells());
    Ok(Table {
        name: "many",
        title: "Many exports",
        what: format!(
            "{rounds} rounds of {} s after {} s of warm-up, alone and among {MANY} by turns; \
             medians, and the ratio with its extremes; then {} s idle",
            lab.timing().measure.as_secs_f64(),
            lab.timing().warm_up.as_secs_f64(),
            pace.look.as_secs()
        ),
        columns: &[
            "",
            "figure",
            "alone",
            "among 256",
            "ratio, or KiB for each further export",
            "wanted",
        ],
        lines,
        records: serde_json::json!({ "busy": busy, "idle": idle }),
    })
}

fn turn(
    lab: &Lab,
    scratch: &Scratch,
    &(subject, image, io): &(&str, Image, &str),
    exports: usize,
) -> Result<Report> {
    let file = lab.images().path(image);
    let config = configure(scratch, file, io, exports)?;
    let target = lab.serve(&config, exports)?;
    let report = lab.ask(&target, WORK, Some(file));
    lab.stop(target)?;
    report.with_context(|| format!("{subject}, {exports} exports"))
}

/// As it is without being told otherwise: with `O_DIRECT`.
fn look(lab: &Lab, scratch: &Scratch, pace: Pace, exports: usize) -> Result<Cost> {
    let config = configure(scratch, lab.images().path(Image::Disk), "direct", exports)?;
    let target = lab.serve(&config, exports)?;
    lab.interrupt().sleep(pace.settle)?;
    let cost = idle::look(lab, pace, target.id())?;
    lab.stop(target)?;
    say(&format!("{exports} idle: {}", cost.cells().join(" ")));
    Ok(cost)
}

/// Writes a configuration in which e1.1 has the file.
fn configure(scratch: &Scratch, file: &Path, io: &str, exports: usize) -> Result<PathBuf> {
    let config = scratch.join("aoede.toml");
    fs::write(&config, configuration(scratch.path(), file, io, exports))?;
    Ok(config)
}

fn configuration(folder: &Path, file: &Path, io: &str, exports: usize) -> String {
    let folder = folder.display();
    let mut text = format!(
        "state_folder = \"{folder}/state\"\n\
         [control]\nsocket = \"{folder}/control\"\n\
         [defaults]\ninterfaces = [\"{TARGET_INTERFACE}\"]\nio = \"{io}\"\n\
         [[export]]\naddress = \"e1.1\"\npath = \"{}\"\n",
        file.display()
    );
    for number in 1..exports {
        let (shelf, slot) = (2 + number / 16, number % 16);
        // A string takes everything.
        let _ = write!(
            text,
            "[[export]]\naddress = \"e{shelf}.{slot}\"\npath = \"{folder}/{number}.img\"\n"
        );
    }
    text
}

impl Busy {
    fn all(subject: &'static str, turns: &[(Report, Report)]) -> [Self; 2] {
        [
            Self {
                at_least: Some(AT_LEAST),
                ..Self::new(subject, "operations/s", turns, |report| {
                    Some(report.ops_per_second)
                })
            },
            // Less is better. It tells a dear export from a busy machine.
            Self::new(subject, "CPU seconds per million", turns, cpu),
        ]
    }

    fn new(
        subject: &'static str,
        figure: &'static str,
        turns: &[(Report, Report)],
        of: fn(&Report) -> Option<f64>,
    ) -> Self {
        let alone: Vec<_> = turns.iter().map(|(alone, _)| of(alone)).collect();
        let among_many: Vec<_> = turns.iter().map(|(_, many)| of(many)).collect();
        Self {
            subject,
            figure,
            ratio: ratio(&among_many, &alone),
            alone,
            among_many,
            at_least: None,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.subject.to_owned(),
            self.figure.to_owned(),
            median(&self.alone),
            median(&self.among_many),
            spread(self.ratio),
            self.at_least
                .map_or_else(String::new, |least| format!("≥ {least}")),
        ]
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn cpu(report: &Report) -> Option<f64> {
    Some(report.target_cpu_seconds? / (report.ops as f64 / 1e6))
}

impl Idle {
    fn cells(&self) -> Vec<Vec<String>> {
        let each = |memory: fn(&Cost) -> u64| {
            // Processes without work differ by some pages, not by less than nothing.
            let more = memory(&self.among_many).saturating_sub(memory(&self.alone));
            (more / (MANY as u64 - 1)).to_string()
        };
        let further = [
            String::new(),
            String::new(),
            each(|cost| cost.resident_kib),
            each(|cost| cost.anonymous_kib),
        ];
        ["CPU ms", "wake-ups", "RSS, MiB", "anonymous, MiB"]
            .into_iter()
            .zip(self.alone.cells())
            .zip(self.among_many.cells())
            .zip(further)
            .map(|(((figure, alone), many), further)| {
                let wanted = if further.is_empty() {
                    String::new()
                } else {
                    format!("< {MOST_KIB}")
                };
                let figure = figure.to_owned();
                vec!["idle".to_owned(), figure, alone, many, further, wanted]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_memory_is_told_for_each_further_export() {
        let cost = |wake_ups, resident_kib, anonymous_kib| Cost {
            cpu_seconds: 0.01,
            wake_ups,
            resident_kib,
            anonymous_kib,
        };
        let idle = Idle {
            alone: cost(0, 10_240, 2048),
            // 255 × 80 KiB and 255 × 61 KiB more.
            among_many: cost(2, 30_640, 17_603),
        };
        let lines: Vec<_> = idle.cells().iter().map(|line| line.join("|")).collect();
        assert_eq!(
            lines,
            [
                "idle|CPU ms|10|10||",
                "idle|wake-ups|0|2||",
                "idle|RSS, MiB|10.0|29.9|80|< 200",
                "idle|anonymous, MiB|2.0|17.2|61|< 200",
            ]
        );
    }

    #[test]
    fn every_export_has_an_address_and_a_file_of_its_own() {
        let (folder, file) = (Path::new("/tmp/x"), Path::new("/dev/shm/full"));
        let alone = configuration(folder, file, "direct", 1);
        assert_eq!(
            alone,
            "state_folder = \"/tmp/x/state\"\n[control]\nsocket = \"/tmp/x/control\"\n\
             [defaults]\ninterfaces = [\"tgt0\"]\nio = \"direct\"\n\
             [[export]]\naddress = \"e1.1\"\npath = \"/dev/shm/full\"\n"
        );
        let many = configuration(folder, file, "direct", MANY);
        for key in ["address = ", "path = "] {
            let mut values: Vec<_> = many.lines().filter(|line| line.starts_with(key)).collect();
            values.sort_unstable();
            values.dedup();
            assert_eq!(values.len(), 256, "{key}");
        }
    }
}
