//! How much of a served file the host's page cache holds after an initiator has read it once.

use anyhow::Result;
use aoede_bench::load::{Waiting, Workload};
use serde::Serialize;

use super::lab::Lab;
use super::report::Table;
use super::rows::{Contender, Image, Kind, Work};
use super::say;

const TARGETS: &[Contender] = &[
    Contender {
        name: "direct",
        kind: Kind::Aoede(&["--io", "direct"]),
    },
    Contender {
        name: "buffered",
        kind: Kind::Aoede(&["--io", "buffered"]),
    },
    Contender {
        name: "uncached",
        kind: Kind::Aoede(&["--io", "uncached"]),
    },
];

/// What a target says that was asked for uncached I/O in vain.
const NOT_HERE: &str = "no uncached I/O";

/// One target: bytes of the file in the page cache.
#[derive(Clone, Debug, Serialize)]
struct Cached {
    io: String,
    before: u64,
    after: u64,
    megabytes_per_second: f64,
}

/// All of them, one after the other, each with a file that is not in the page cache.
pub(super) fn table(lab: &Lab) -> Result<Table> {
    let mut looks = Vec::new();
    for contender in TARGETS {
        let look = look(lab, contender)?;
        say(&format!(
            "--io {}: {} MiB, {} MiB after reading",
            look.io,
            look.before >> 20,
            look.after >> 20
        ));
        looks.push(look);
    }
    Ok(Table {
        name: "page-cache",
        title: "The host's page cache",
        what: "the file read once in order, 8 KiB, 16 outstanding".to_owned(),
        columns: &["`--io`", "cached before, MiB", "after, MiB", "MB/s"],
        lines: looks.iter().map(Cached::cells).collect(),
        records: serde_json::to_value(&looks)?,
    })
}

fn look(lab: &Lab, contender: &Contender) -> Result<Cached> {
    let work = Work {
        workload: Workload::Read,
        block_bytes: 8192,
        depth: 16,
        waiting: Waiting::Spin,
        flush: false,
    };
    let target = lab.start(contender, Image::Disk)?;
    let io = if target.stderr.text().contains(NOT_HERE) {
        format!("{}, not here: as buffered", contender.name)
    } else {
        contender.name.to_owned()
    };
    lab.forget(Image::Disk)?;
    let before = lab.cached_bytes(Image::Disk)?;
    let report = lab.ask_for(&target, work, lab.image_bytes(Image::Disk))?;
    // While it still serves: this is what other programs on the host have to do without.
    let after = lab.cached_bytes(Image::Disk)?;
    lab.stop(target)?;
    Ok(Cached {
        io,
        before,
        after,
        megabytes_per_second: report.bytes_per_second / 1e6,
    })
}

impl Cached {
    fn cells(&self) -> Vec<String> {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
        vec![
            self.io.clone(),
            mib(self.before),
            mib(self.after),
            format!("{:.1}", self.megabytes_per_second),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_as_mib() {
        let cached = Cached {
            io: "direct".to_owned(),
            before: 0,
            after: 1_572_864,
            megabytes_per_second: 123.44,
        };
        assert_eq!(cached.cells(), ["direct", "0.0", "1.5", "123.4"]);
    }
}
