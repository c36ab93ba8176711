//! What is measured: rows of the table, and who takes part in each.

use std::fmt::Write as _;

use anyhow::{Context as _, Result};
use aoede_bench::load::{Waiting, Workload};

use super::lab::Sample;

/// One kind of work, and who does it.
#[derive(Debug, PartialEq)]
pub(super) struct Row {
    /// As on the command line.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) work: Work,
    pub(super) image: Image,
    pub(super) figure: Figure,
    pub(super) contenders: &'static [Contender],
    /// Whom everybody in the row is compared with.
    pub(super) references: &'static [Reference],
}

/// Something to compare with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// As over the column, behind ×.
    pub(super) column: &'static str,
    /// Contenders of the row, by the beginning of their names: the one with the least figure of
    /// the round counts.
    pub(super) least_of: &'static [&'static str],
}

/// What the load generator asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    pub(super) workload: Workload,
    pub(super) block_bytes: u32,
    pub(super) depth: usize,
    /// How the load generator waits for answers.
    pub(super) waiting: Waiting,
    /// It ends with a flush that counts.
    pub(super) flush: bool,
}

/// Where the served file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Image {
    /// tmpfs: the speed of the target, not of a disk.
    Memory,
    /// There too, a quarter of it noise and the rest holes.
    Sparse,
    Disk,
}

/// Which of its figures a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Operations,
    Megabytes,
    MedianLatency,
}

impl Figure {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Operations => "operations/s",
            Self::Megabytes => "MB/s",
            Self::MedianLatency => "p50 us",
        }
    }

    pub(super) fn of(self, sample: &Sample) -> f64 {
        match self {
            Self::Operations => sample.ops_per_second,
            Self::Megabytes => sample.bytes_per_second / 1e6,
            Self::MedianLatency => sample.p50_us,
        }
    }

    /// A sample in a line.
    pub(super) fn show(self, sample: &Sample) -> String {
        format!("{:>9.1} {}", self.of(sample), self.name())
    }
}

/// Somebody who does the work.
#[derive(Debug, PartialEq)]
pub(super) struct Contender {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

#[derive(Debug, PartialEq)]
pub(super) enum Kind {
    /// `aoede export` with these options.
    Aoede(&'static [&'static str]),
    /// `vblade` with these options.
    Vblade(&'static [&'static str]),
    /// No disk, no I/O: the limit of the packet path.
    Responder,
    /// No network: the limit of the disk.
    Fio(FioJob),
}

/// How local fio does the row's work.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct FioJob {
    pub(super) engine: &'static str,
    pub(super) depth: usize,
    pub(super) direct: bool,
    /// `O_DSYNC`.
    pub(super) durable: bool,
    /// Other than the row's.
    pub(super) block_bytes: Option<u32>,
}

/// The contender that takes part in each row, by the beginning of its name.
pub(super) const RIVAL: &str = "vblade";

const TO_VBLADE: Reference = Reference {
    column: RIVAL,
    least_of: &[RIVAL],
};
const TO_FIO: Reference = Reference {
    column: "fio",
    least_of: &["fio"],
};

const BUFFERED: &[&str] = &["--io", "buffered"];
const RESPONDER: Contender = Contender {
    name: "responder, no I/O",
    kind: Kind::Responder,
};
const FIO_DIRECT: FioJob = FioJob {
    engine: "io_uring",
    depth: 16,
    direct: true,
    durable: false,
    block_bytes: None,
};
const FIO_MEMORY: Contender = Contender {
    name: "fio psync, local",
    kind: Kind::Fio(FioJob {
        engine: "psync",
        depth: 1,
        direct: false,
        durable: false,
        block_bytes: None,
    }),
};

const fn aoede(name: &'static str, options: &'static [&'static str]) -> Contender {
    Contender {
        name,
        kind: Kind::Aoede(options),
    }
}

const fn vblade(name: &'static str, options: &'static [&'static str]) -> Contender {
    Contender {
        name,
        kind: Kind::Vblade(options),
    }
}

const fn fio(name: &'static str, job: FioJob) -> Contender {
    Contender {
        name,
        kind: Kind::Fio(job),
    }
}

const fn work(workload: Workload, block_bytes: u32, depth: usize) -> Work {
    Work {
        workload,
        block_bytes,
        depth,
        waiting: Waiting::Spin,
        flush: false,
    }
}

/// Everything that can be measured. Rows are added at the end; their numbers stay.
pub(super) const ROWS: &[Row] = &[
    Row {
        id: "1",
        title: "4 KiB random read, 16 outstanding, file in memory",
        work: work(Workload::RandRead, 4096, 16),
        image: Image::Memory,
        figure: Figure::Operations,
        contenders: &[
            aoede("aoede, buffered", BUFFERED),
            vblade("vblade", &[]),
            RESPONDER,
            FIO_MEMORY,
        ],
        references: &[TO_VBLADE],
    },
    Row {
        id: "2",
        title: "4 KiB random read, 16 outstanding, O_DIRECT",
        work: work(Workload::RandRead, 4096, 16),
        image: Image::Disk,
        figure: Figure::Operations,
        contenders: &[
            aoede("aoede, direct", &[]),
            vblade("vblade -d", &["-d"]),
            fio("fio io_uring, local", FIO_DIRECT),
        ],
        references: &[TO_VBLADE, TO_FIO],
    },
    Row {
        id: "3",
        title: "8 KiB sequential read, 16 outstanding, O_DIRECT",
        work: work(Workload::Read, 8192, 16),
        image: Image::Disk,
        figure: Figure::Megabytes,
        contenders: &[
            aoede("aoede, direct", &[]),
            vblade("vblade -d", &["-d"]),
            RESPONDER,
            fio("fio io_uring, local", FIO_DIRECT),
            fio(
                "fio 128 KiB, depth 4",
                FioJob {
                    depth: 4,
                    block_bytes: Some(128 << 10),
                    ..FIO_DIRECT
                },
            ),
        ],
        references: &[
            TO_VBLADE,
            Reference {
                column: "fio 128 KiB",
                least_of: &["fio 128 KiB"],
            },
            Reference {
                column: "limit",
                least_of: &["fio 128 KiB", "responder"],
            },
        ],
    },
    Row {
        id: "4",
        title: "4 KiB random write, 16 outstanding, durable",
        // The kernel's workers that bring writes to stable storage need a core, too.
        work: Work {
            waiting: Waiting::Poll,
            ..work(Workload::RandWrite, 4096, 16)
        },
        image: Image::Disk,
        figure: Figure::Operations,
        contenders: &[
            aoede("aoede, writethrough", &["--cache", "writethrough"]),
            vblade("vblade -d -s", &["-d", "-s"]),
            fio(
                "fio io_uring, O_DSYNC",
                FioJob {
                    durable: true,
                    ..FIO_DIRECT
                },
            ),
        ],
        references: &[TO_VBLADE, TO_FIO],
    },
    Row {
        id: "5",
        title: "Latency of one 4 KiB random read at a time, file in memory",
        work: work(Workload::RandRead, 4096, 1),
        image: Image::Memory,
        figure: Figure::MedianLatency,
        contenders: &[
            aoede("aoede, buffered", BUFFERED),
            vblade("vblade", &[]),
            RESPONDER,
        ],
        references: &[TO_VBLADE],
    },
    Row {
        id: "6",
        title: "The whole disk in order, 8 KiB reads, 16 outstanding, file in memory",
        work: work(Workload::Read, 8192, 16),
        image: Image::Memory,
        figure: Figure::Megabytes,
        contenders: &[
            aoede("aoede, buffered", BUFFERED),
            vblade("vblade", &[]),
            RESPONDER,
            FIO_MEMORY,
        ],
        references: &[TO_VBLADE],
    },
    Row {
        id: "7",
        title: "8 KiB sequential write, 16 outstanding, write-back, a flush at the end",
        work: Work {
            waiting: Waiting::Poll,
            flush: true,
            ..work(Workload::Write, 8192, 16)
        },
        image: Image::Disk,
        figure: Figure::Megabytes,
        contenders: &[
            aoede("aoede, writeback", &["--cache", "writeback"]),
            vblade("vblade -d", &["-d"]),
            fio("fio io_uring, local", FIO_DIRECT),
        ],
        references: &[TO_VBLADE, TO_FIO],
    },
];

/// The rows with these numbers; all for none.
pub(super) fn choose(wanted: &[String]) -> Result<Vec<&'static Row>> {
    if wanted.is_empty() {
        return Ok(ROWS.iter().collect());
    }
    wanted
        .iter()
        .map(|wanted| {
            ROWS.iter()
                .find(|row| row.id == wanted)
                .with_context(|| format!("there is no row {wanted}\n{}", help()))
        })
        .collect()
}

/// The rows as people choose among them.
pub(super) fn help() -> String {
    let mut text = "Rows:".to_owned();
    for row in ROWS {
        // A string takes everything.
        let _ = write!(text, "\n  {}  {}", row.id, row.title);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_found_by_their_number() {
        assert_eq!(choose(&[]).unwrap().len(), ROWS.len());
        let chosen = choose(&["5".to_owned(), "1".to_owned()]).unwrap();
        let ids: Vec<_> = chosen.iter().map(|row| row.id).collect();
        assert_eq!(ids, ["5", "1"]);
        assert!(choose(&["0".to_owned()]).is_err());
    }

    #[test]
    fn numbers_are_used_once_and_each_row_has_us_the_rival_and_its_references() {
        for (index, row) in ROWS.iter().enumerate() {
            assert!(ROWS[..index].iter().all(|other| other.id != row.id));
            let named = row
                .references
                .iter()
                .flat_map(|reference| reference.least_of);
            for who in ["aoede", RIVAL].iter().chain(named) {
                let count = row
                    .contenders
                    .iter()
                    .filter(|contender| contender.name.starts_with(who))
                    .count();
                assert_eq!(count, 1, "{who} in row {}", row.id);
            }
        }
    }
}
