//! How many system calls a target makes for a frame. Being traced makes it slow, so that more
//! frames wait for it in each turn: the figures are those of a busy target.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use aoede_bench::load::{Waiting, Workload};
use aoede_e2e::target_folder;
use rustix::process::Signal;
use serde::Serialize;

use super::lab::Lab;
use super::report::Table;
use super::rows::{Contender, Image, Kind, Work};
use super::say;

/// The depths at which it is looked.
const DEPTHS: [usize; 2] = [16, 64];

/// The targets that are looked at.
const TARGETS: &[(Contender, Image)] = &[
    (
        Contender {
            name: "aoede, file in memory",
            kind: Kind::Aoede(&["--io", "buffered"]),
        },
        Image::Memory,
    ),
    (
        Contender {
            name: "aoede, O_DIRECT",
            kind: Kind::Aoede(&[]),
        },
        Image::Disk,
    ),
    (
        Contender {
            name: "vblade, file in memory",
            kind: Kind::Vblade(&[]),
        },
        Image::Memory,
    ),
];

/// The system calls of one target at one depth.
#[derive(Clone, Debug, Serialize)]
struct Count {
    target: &'static str,
    depth: usize,
    /// Requests answered.
    frames: u64,
    /// Calls by name.
    calls: BTreeMap<String, u64>,
}

impl Count {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn per_thousand(&self, calls: u64) -> f64 {
        calls as f64 * 1000.0 / self.frames.max(1) as f64
    }

    /// All calls for a thousand frames.
    fn total_per_thousand(&self) -> f64 {
        self.per_thousand(self.calls.values().sum())
    }

    /// The calls for a thousand frames by name, the most frequent first; rare ones left out.
    fn names(&self) -> String {
        let mut calls: Vec<_> = self.calls.iter().collect();
        calls.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let words: Vec<String> = calls
            .into_iter()
            .map(|(name, &count)| (name, self.per_thousand(count)))
            .filter(|&(_, count)| count >= 0.05)
            .map(|(name, count)| format!("{name} {count:.1}"))
            .collect();
        words.join(", ")
    }
}

/// Counts for all targets and depths.
pub(super) fn table(lab: &Lab) -> Result<Table> {
    let counts = count(lab)?;
    Ok(Table {
        name: "syscalls",
        title: "System calls for each frame",
        what: "the target traced".to_owned(),
        columns: &["", "outstanding", "frames", "calls per 1000", "of these"],
        lines: counts
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
            .collect(),
        records: serde_json::to_value(&counts)?,
    })
}

fn count(lab: &Lab) -> Result<Vec<Count>> {
    let output = target_folder().join("bench/strace.txt");
    let mut counts = Vec::new();
    for (contender, image) in TARGETS {
        for depth in DEPTHS {
            let work = Work {
                workload: Workload::RandRead,
                block_bytes: 4096,
                depth,
                waiting: Waiting::Poll,
                flush: false,
            };
            let target = lab.start(contender, *image)?;
            let mut strace = lab.trace(&target, &output)?;
            let report = lab.ask(&target, work, None)?;
            strace.signal(Signal::INT)?;
            strace.wait(Duration::from_secs(10))?;
            lab.stop(target)?;
            let text = fs::read_to_string(&output).context("strace has written nothing")?;
            let count = Count {
                target: contender.name,
                depth,
                frames: report.all_ops,
                calls: parse(&text),
            };
            say(&format!(
                "{} at {depth}: {} frames",
                count.target, count.frames
            ));
            counts.push(count);
        }
    }
    // Only a help on the way.
    let _ = fs::remove_file(&output);
    Ok(counts)
}

/// Reads the table of `strace -c`: the calls are the fourth column, the name is the last.
fn parse(table: &str) -> BTreeMap<String, u64> {
    table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let calls = fields.get(3)?.parse().ok()?;
            let name = *fields.last()?;
            (name != "total").then(|| (name.to_owned(), calls))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_read_with_and_without_errors() {
        let table = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 60.30    0.208709           4     45052           preadv2
 39.51    0.136751          48      2846         7 sendmmsg
  0.00    0.000000           0         1           lseek
------ ----------- ----------- --------- --------- ----------------
100.00    0.346107           7     47899         7 total
";
        let calls = parse(table);
        assert_eq!(calls.len(), 3);
        assert_eq!((calls["preadv2"], calls["sendmmsg"]), (45052, 2846));
        let count = Count {
            target: "x",
            depth: 16,
            frames: 45_052,
            calls,
        };
        assert_eq!(count.names(), "preadv2 1000.0, sendmmsg 63.2");
        assert!((count.total_per_thousand() - 1063.2).abs() < 0.05);
    }
}
