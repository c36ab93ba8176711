//! An initiator that does nothing but ask: one target, one workload, a fixed number of requests
//! under way, each repeated until it is answered.
//!
//! [`run`] finds the target, checks that it serves what it should (if it is told what that is),
//! warms up, measures, and for writes reads back a part of what was written. Only the middle part
//! counts. `plan.rs` says where requests go, `window.rs` keeps those under way, `session.rs` is
//! the loop.

mod plan;
mod session;
mod window;

pub use plan::Workload;
pub use window::MAX_DEPTH;

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use aoede_wire::{Address, MacAddr, Opcode, SECTOR_BYTES};
use serde::{Deserialize, Serialize};

use crate::{Histogram, Latencies, process};
use plan::{Payload, Plan};
use session::Session;

/// How many blocks are compared with the file, or read back after writing.
const CHECKED_BLOCKS: usize = 256;

/// What to ask, whom, and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The target.
    pub address: Address,
    /// Where to find it.
    pub interface: String,
    /// Read or write, in order or anywhere.
    pub workload: Workload,
    /// Bytes of one request: whole sectors, no more than the target takes in a frame.
    pub block_bytes: u32,
    /// Requests under way.
    pub depth: usize,
    /// They are made so many at a time, 1 to `depth`: when as many are answered.
    pub group: usize,
    /// The reads of a group travel in one frame, which the target must agree to.
    pub coalesce: bool,
    /// The target may answer several writes in one frame, and must agree to that.
    pub write_replies: bool,
    /// How much of it counts.
    pub extent: Extent,
    /// How long it does not count yet.
    pub warm_up: Duration,
    /// The measurement ends with a flush, and it counts. The warm-up ends with one, too.
    pub flush: bool,
    /// Only the first bytes of the disk.
    pub range_bytes: Option<u64>,
    /// A request without an answer is repeated after this.
    pub patience: Duration,
    /// How to wait for frames.
    pub waiting: Waiting,
    /// Compare some blocks with this file before the measurement.
    pub verify: Option<PathBuf>,
    /// Tell how much processor time this process uses meanwhile.
    pub watch: Option<u32>,
    /// The same of this core, whoever uses it.
    pub watch_core: Option<usize>,
    /// Where random addresses start.
    pub seed: u64,
}

/// How much is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// As much as there is time for. What is under way at its end does not count, unless a flush
    /// follows.
    Time(Duration),
    /// So many requests, whose answers are waited for.
    Blocks(u64),
}

/// How to wait for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Waiting {
    /// Look at the ring all the time. The target need not wake anybody.
    Spin,
    /// Sleep in `poll` when there is nothing to do.
    Poll,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was asked.
    pub workload: Workload,
    /// Bytes of one request.
    pub block_bytes: u32,
    /// Requests under way.
    pub depth: usize,
    /// How long it was measured, a flush included.
    pub seconds: f64,
    /// Of these, how long the flush took.
    pub flush_seconds: Option<f64>,
    /// Requests answered meanwhile.
    pub ops: u64,
    /// Their data.
    pub bytes: u64,
    /// The same in a second.
    pub ops_per_second: f64,
    /// The same in a second.
    pub bytes_per_second: f64,
    /// From making the request until its answer was found, repetitions included.
    pub latency: Latencies,
    /// Frames sent meanwhile.
    pub request_frames: u64,
    /// Frames that brought answers.
    pub response_frames: u64,
    /// Requests sent again, because no answer came in time.
    pub retransmissions: u64,
    /// Answers to nothing that waited: late, or the second.
    pub strays: u64,
    /// Frames that did not find room in the receive ring.
    pub ring_drops: u64,
    /// Processor time of the watched process meanwhile.
    pub target_cpu_seconds: Option<f64>,
    /// Processor time of the watched core meanwhile.
    pub core_seconds: Option<f64>,
    /// Processor time of the load generator meanwhile: as much as there was, when it spins.
    pub own_cpu_seconds: f64,
    /// Requests answered from beginning to end, checks and warm-up included.
    pub all_ops: u64,
    /// Blocks that were compared with what they should be, and were.
    pub verified_blocks: u64,
    /// What the target says of itself.
    pub target: Found,
}

/// What a target says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Where it is.
    #[serde(skip, default = "no_mac")]
    pub mac: MacAddr,
    /// Requests it holds at once.
    pub buffers: u16,
    /// Sectors in one frame at most.
    pub sectors_per_frame: u8,
    /// Sectors of the disk.
    pub sectors: u64,
}

fn no_mac() -> MacAddr {
    MacAddr::ZERO
}

/// Counters of the measured part.
#[derive(Debug, Default)]
struct Counts {
    ops: u64,
    request_frames: u64,
    response_frames: u64,
    retransmissions: u64,
    strays: u64,
    latency: Histogram,
}

/// Measures.
///
/// # Errors
/// No target, one that refuses or fails a request or is silent for long, or wrong data.
pub fn run(settings: &Settings) -> anyhow::Result<Report> {
    let interface = crate::interface(&settings.interface)?;
    let mut session = Session::open(&interface, settings)?;
    let found = session.find()?;
    let block_sectors = block_sectors(settings.block_bytes, found)?;
    let range_sectors = settings
        .range_bytes
        .map_or(u64::MAX, |bytes| bytes / SECTOR_BYTES as u64)
        .min(found.sectors);
    let plan = Plan::new(
        settings.workload,
        block_sectors,
        range_sectors,
        settings.seed,
    )?;
    let payload = Payload::new(block_sectors, settings.seed);

    let mut verified_blocks = 0;
    if let Some(path) = &settings.verify {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut lbas = plan.with(Workload::RandRead);
        let lbas: Vec<u64> = (0..CHECKED_BLOCKS).map(|_| lbas.next_lba()).collect();
        verified_blocks += session.compare(&lbas, block_sectors, |lba| {
            let mut expected = vec![0; settings.block_bytes as usize];
            file.read_exact_at(&mut expected, lba * SECTOR_BYTES as u64)?;
            Ok(expected)
        })?;
        // What is in the page cache now would only be in the way of direct I/O.
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }

    let opcode = if settings.workload.writes() {
        Opcode::WriteExt
    } else {
        Opcode::ReadExt
    };
    session.prepare(opcode, block_sectors, payload.noise(), settings.depth)?;
    let mut source = plan;
    let mut written = Recent::default();
    session.pump(&mut source, Extent::Time(settings.warm_up), &mut written)?;
    if settings.flush {
        session.drain(&mut written)?;
        session.flush()?;
        session.prepare(opcode, block_sectors, payload.noise(), settings.depth)?;
    }
    session.counts = Counts::default();
    let target_before = watched_cpu(settings)?;
    let core_before = watched_core(settings)?;
    let own_before = process::cpu_seconds(std::process::id())?;
    let start = Instant::now();
    session.pump(&mut source, settings.extent, &mut written)?;
    if settings.flush || matches!(settings.extent, Extent::Blocks(_)) {
        session.drain(&mut written)?;
    }
    let counts = std::mem::take(&mut session.counts);
    let mut flush_seconds = None;
    if settings.flush {
        let start = Instant::now();
        session.flush()?;
        flush_seconds = Some(start.elapsed().as_secs_f64());
    }
    let seconds = start.elapsed().as_secs_f64();
    let own_cpu_seconds = process::cpu_seconds(std::process::id())? - own_before;
    let since = |before: Option<f64>, after: Option<f64>| Some(after? - before?);
    let target_cpu_seconds = since(target_before, watched_cpu(settings)?);
    let core_seconds = since(core_before, watched_core(settings)?);
    session.drain(&mut written)?;

    if settings.workload.writes() {
        verified_blocks +=
            session.compare(&written.lbas, block_sectors, |lba| Ok(payload.at(lba)))?;
    }
    let bytes = counts.ops * u64::from(settings.block_bytes);
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let per_second = |amount: u64| amount as f64 / seconds;
    Ok(Report {
        workload: settings.workload,
        block_bytes: settings.block_bytes,
        depth: settings.depth,
        seconds,
        flush_seconds,
        ops: counts.ops,
        bytes,
        ops_per_second: per_second(counts.ops),
        bytes_per_second: per_second(bytes),
        latency: counts.latency.latencies(),
        request_frames: counts.request_frames,
        response_frames: counts.response_frames,
        retransmissions: counts.retransmissions,
        strays: counts.strays,
        ring_drops: session.ring_drops(),
        target_cpu_seconds,
        core_seconds,
        own_cpu_seconds,
        all_ops: session.all_ops,
        verified_blocks,
        target: found,
    })
}

fn block_sectors(block_bytes: u32, found: Found) -> anyhow::Result<u8> {
    let bytes = block_bytes as usize;
    ensure!(
        bytes > 0 && bytes % SECTOR_BYTES == 0,
        "{block_bytes} bytes are not a whole number of sectors"
    );
    u8::try_from(bytes / SECTOR_BYTES)
        .ok()
        .filter(|&sectors| sectors <= found.sectors_per_frame)
        .with_context(|| {
            format!(
                "the target takes {} sectors in a frame, less than {block_bytes} bytes",
                found.sectors_per_frame
            )
        })
}

fn watched_cpu(settings: &Settings) -> anyhow::Result<Option<f64>> {
    settings.watch.map(process::cpu_seconds).transpose()
}

fn watched_core(settings: &Settings) -> anyhow::Result<Option<f64>> {
    settings.watch_core.map(process::core_seconds).transpose()
}

/// The blocks written last, to be read back.
#[derive(Debug, Default)]
struct Recent {
    lbas: Vec<u64>,
    next: usize,
}

impl Recent {
    fn add(&mut self, lba: u64) {
        if let Some(place) = self.lbas.get_mut(self.next) {
            *place = lba;
        } else {
            self.lbas.push(lba);
        }
        self.next = (self.next + 1) % CHECKED_BLOCKS;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writes_are_remembered() {
        let mut recent = Recent::default();
        for lba in 0..CHECKED_BLOCKS as u64 + 3 {
            recent.add(lba);
        }
        assert_eq!(recent.lbas.len(), CHECKED_BLOCKS);
        assert_eq!(recent.lbas[..4], [256, 257, 258, 3]);
    }

    #[test]
    fn blocks_are_whole_sectors_that_fit() {
        let found = Found {
            mac: MacAddr::ZERO,
            buffers: 16,
            sectors_per_frame: 17,
            sectors: 1000,
        };
        assert_eq!(block_sectors(8704, found).unwrap(), 17);
        for bytes in [0, 1000, 8704 + 512, 256 * 512] {
            assert!(block_sectors(bytes, found).is_err(), "{bytes}");
        }
    }
}
