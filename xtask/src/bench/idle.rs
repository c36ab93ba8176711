//! What an export costs that nobody asks: processor time, wake-ups and memory, fresh and after
//! work.

use std::{collections::BTreeMap, fs, time::Duration};

use anyhow::{Context as _, Result};
use aoede_bench::{
    load::{Waiting, Workload},
    process,
};
use serde::Serialize;

use super::lab::{Lab, Timing};
use super::report::Table;
use super::rows::{Contender, Image, Kind, Work};
use super::say;

const TARGETS: &[Contender] = &[
    Contender {
        name: "writethrough",
        kind: Kind::Aoede(&[]),
    },
    Contender {
        name: "writeback",
        kind: Kind::Aoede(&["--cache", "writeback"]),
    },
];

/// The work in between: first that which fills a read cache, then that which fills a write cache.
const WORKLOADS: [Workload; 2] = [Workload::Read, Workload::RandWrite];

/// How long everything takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// From the start until it is looked at.
    pub(super) settle: Duration,
    /// How long it is looked at.
    pub(super) look: Duration,
    /// All workloads together.
    load: Duration,
    /// From their end until it is looked at again.
    rest: Duration,
}

impl Pace {
    pub(super) fn new(quick: bool) -> Self {
        let seconds = |long, short| Duration::from_secs(if quick { short } else { long });
        Self {
            // It looks after itself every second, for the last time after one without any work.
            settle: seconds(3, 3),
            look: seconds(10, 2),
            load: seconds(5, 2),
            rest: seconds(5, 2),
        }
    }

    /// A turn is one workload.
    pub(super) fn timing(self) -> Timing {
        Timing {
            rounds: 1,
            measure: self.load / 2,
            warm_up: Duration::ZERO,
        }
    }
}

/// What was seen of one export during one look.
#[derive(Clone, Debug, Serialize)]
struct Seen {
    cache: &'static str,
    when: &'static str,
    #[serde(flatten)]
    cost: Cost,
}

/// What a process took during one look.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cost {
    pub(super) cpu_seconds: f64,
    /// Times that one of its threads went to sleep of its own accord.
    pub(super) wake_ups: u64,
    /// At the end, as is the next.
    pub(super) resident_kib: u64,
    pub(super) anonymous_kib: u64,
}

/// All exports, one after the other.
pub(super) fn table(lab: &Lab, pace: Pace) -> Result<Table> {
    let mut seen = Vec::new();
    for contender in TARGETS {
        let target = lab.start(contender, Image::Disk)?;
        lab.interrupt().sleep(pace.settle)?;
        seen.push(Seen::of(lab, pace, target.id(), contender.name, "fresh")?);
        for workload in WORKLOADS {
            let work = Work {
                workload,
                block_bytes: 4096,
                depth: 16,
                waiting: Waiting::Poll,
                flush: false,
            };
            lab.ask(&target, work, None)?;
        }
        lab.interrupt().sleep(pace.rest)?;
        seen.push(Seen::of(
            lab,
            pace,
            target.id(),
            contender.name,
            "after work",
        )?);
        lab.stop(target)?;
    }
    Ok(Table {
        name: "idle",
        title: "An export that nobody asks",
        what: format!(
            "{} s idle; work: 4 KiB, 16 outstanding, {} s of reads in order and {} s of random \
             writes, then {} s of rest",
            pace.look.as_secs(),
            pace.timing().measure.as_secs_f64(),
            pace.timing().measure.as_secs_f64(),
            pace.rest.as_secs()
        ),
        columns: &[
            "`--cache`",
            "",
            "CPU ms",
            "wake-ups",
            "RSS, MiB",
            "anonymous, MiB",
        ],
        lines: seen.iter().map(Seen::cells).collect(),
        records: serde_json::to_value(&seen)?,
    })
}

/// Looks at a process for a while.
pub(super) fn look(lab: &Lab, pace: Pace, id: u32) -> Result<Cost> {
    let (cpu_before, sleeps_before) = (process::cpu_seconds(id)?, sleeps(id)?);
    lab.interrupt().sleep(pace.look)?;
    let (cpu_after, sleeps_after) = (process::cpu_seconds(id)?, sleeps(id)?);
    let status = status(&format!("/proc/{id}"))?;
    let memory = |name| number(&status, name).with_context(|| format!("no {name}"));
    Ok(Cost {
        cpu_seconds: cpu_after - cpu_before,
        wake_ups: more(&sleeps_before, &sleeps_after),
        resident_kib: memory("VmRSS")?,
        anonymous_kib: memory("RssAnon")?,
    })
}

/// How often each thread of a process went to sleep of its own accord.
fn sleeps(id: u32) -> Result<BTreeMap<String, u64>> {
    let folder = format!("/proc/{id}/task");
    let mut sleeps = BTreeMap::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("no {folder}"))? {
        let thread = entry?.file_name().to_string_lossy().into_owned();
        // A worker of the kernel may have ended meanwhile.
        let Ok(status) = status(&format!("{folder}/{thread}")) else {
            continue;
        };
        let count = number(&status, "voluntary_ctxt_switches").context("no count of sleeps")?;
        sleeps.insert(thread, count);
    }
    Ok(sleeps)
}

/// How much was added in all; threads may be new.
fn more(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> u64 {
    let added = after.iter().map(|(thread, count)| {
        let old = before.get(thread).copied().unwrap_or(0);
        count.saturating_sub(old)
    });
    added.sum()
}

fn status(folder: &str) -> Result<String> {
    let path = format!("{folder}/status");
    fs::read_to_string(&path).with_context(|| format!("no {path}"))
}

/// A number of `/proc/PID/status`; memory is in KiB there.
fn number(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        let value = value.split_whitespace().next();
        (field == name).then(|| value?.parse().ok()).flatten()
    })
}

impl Seen {
    fn of(lab: &Lab, pace: Pace, id: u32, cache: &'static str, when: &'static str) -> Result<Self> {
        let cost = look(lab, pace, id)?;
        let seen = Self { cache, when, cost };
        say(&format!("{cache}: {}", seen.cells().join(" ")));
        Ok(seen)
    }

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.cache.to_owned(), self.when.to_owned()];
        cells.extend(self.cost.cells());
        cells
    }
}

impl Cost {
    /// Milliseconds, wake-ups, MiB resident, MiB anonymous.
    pub(super) fn cells(self) -> [String; 4] {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mib = |kib: u64| format!("{:.1}", kib as f64 / 1024.0);
        [
            format!("{:.0}", self.cpu_seconds * 1e3),
            self.wake_ups.to_string(),
            mib(self.resident_kib),
            mib(self.anonymous_kib),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\taoede\nVmRSS:\t    5120 kB\nRssAnon:\t     640 kB\n\
                          voluntary_ctxt_switches:\t41\nnonvoluntary_ctxt_switches:\t7\n";

    #[test]
    fn numbers_are_found_by_their_whole_name() {
        assert_eq!(number(STATUS, "VmRSS"), Some(5120));
        assert_eq!(number(STATUS, "RssAnon"), Some(640));
        assert_eq!(number(STATUS, "voluntary_ctxt_switches"), Some(41));
        assert_eq!(number(STATUS, "RSS"), None);
        assert_eq!(number(STATUS, "Name"), None);
    }

    #[test]
    fn threads_come_and_go() {
        let counts = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter();
            pairs
                .map(|&(thread, count)| (thread.to_owned(), count))
                .collect()
        };
        let before = counts(&[("1", 10), ("2", 500)]);
        let after = counts(&[("1", 13), ("3", 4)]);
        assert_eq!(more(&before, &after), 7);
    }

    #[test]
    fn a_line_has_milliseconds_and_mib() {
        let seen = Seen {
            cache: "writeback",
            when: "fresh",
            cost: Cost {
                cpu_seconds: 0.03,
                wake_ups: 12,
                resident_kib: 5120,
                anonymous_kib: 640,
            },
        };
        assert_eq!(
            seen.cells(),
            ["writeback", "fresh", "30", "12", "5.0", "0.6"]
        );
    }
}
