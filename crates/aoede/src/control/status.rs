//! What a daemon tells of itself: the data behind `aoede status`, `aoede top`, the status page and
//! the metrics.
//!
//! Counters count up from the start of the daemon, or from when the export was opened; rates and
//! latencies of an interval come of two statuses, by [`Status::uptime_us`] and [`Latency::since`].
//! The names of the fields are a promise, listed in `docs/control.md`: new ones may come, and none
//! changes its meaning. What is missing is read as its default.

use std::collections::BTreeMap;

use aoede_histogram::Histogram;
use serde::{Deserialize, Serialize};

/// Of this form of the data. It changes if an old program would misread the new one.
pub const VERSION: u16 = 1;

/// Everything, at one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// [`VERSION`].
    pub version: u16,
    /// The daemon as a whole.
    pub daemon: DaemonStatus,
    /// How long it has been running. Goes on evenly: for intervals.
    pub uptime_us: u64,
    /// Its threads, by number.
    pub workers: Vec<WorkerStatus>,
    /// Where it serves, by name.
    pub interfaces: Vec<InterfaceStatus>,
    /// What it serves, by address.
    pub exports: Vec<ExportStatus>,
}

/// The daemon as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// Of the program, such as `0.1.0`.
    pub program_version: String,
    /// Its process.
    pub pid: u32,
    /// Where its configuration was read from.
    pub config_file: String,
    /// What came of the last reload, if there was one.
    pub last_reload: Option<ReloadStatus>,
    /// Frames that no export was meant by, or that were none, by
    /// [reason](aoede_target::IgnoreReason::name); without those that are 0.
    pub drops: BTreeMap<String, u64>,
}

/// What came of a reload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReloadStatus {
    /// Everything is as the file says.
    pub succeeded: bool,
    /// When it was, after the start of the daemon.
    pub uptime_us: u64,
    /// What was wrong: of the file, or of single exports.
    pub errors: Vec<String>,
}

/// One thread that serves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkerStatus {
    /// Counted from 0.
    pub worker: u16,
    /// How many it serves.
    pub exports: u64,
    /// Buffers for requests and responses,
    pub pool_buffers: u64,
    /// those of them in use,
    pub pool_used_buffers: u64,
    /// and the size of each.
    pub pool_buffer_bytes: u64,
    /// Frames taken from its rings.
    pub frames_received: u64,
    /// Frames handed to its interfaces.
    pub responses: u64,
    /// Answers that found no buffer.
    pub no_buffer: u64,
    /// Responses whose interface went away or had no room.
    pub responses_lost: u64,
    /// Requests that wait for a buffer or for their turn.
    pub waiting_requests: u64,
}

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    /// Of the kernel.
    pub name: String,
    /// It exists now.
    pub present: bool,
    /// It is up, and its link too.
    pub up: bool,
    /// Bytes of the largest frame after the Ethernet header.
    pub mtu_bytes: u32,
    /// Its own address.
    pub mac: String,
    /// Its rings: one for each worker that serves there.
    pub rings: Vec<RingStatus>,
}

/// A worker's ring at an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RingStatus {
    /// Whose it is.
    pub worker: u16,
    /// Frames it holds at most,
    pub slots: u64,
    /// and those it holds now.
    pub used_slots: u64,
    /// Frames taken from it.
    pub received: u64,
    /// Frames the kernel lost because it was full.
    pub ring_drops: u64,
    /// Frames for other stations or of other networks.
    pub foreign_ignored: u64,
    /// Frames longer than a slot.
    pub truncated: u64,
    /// Frames the kernel took to send.
    pub sent: u64,
    /// Frames it did not take: no memory, link down, too long, or something else.
    pub send_lost: u64,
    /// How often the send buffer was full.
    pub send_waits: u64,
}

/// One export.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportStatus {
    /// Such as `e1.1`.
    pub address: String,
    /// File or block device.
    pub path: String,
    /// Whether it is served.
    pub state: ExportState,
    /// As initiators see it.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// `writethrough` or `writeback`.
    pub cache_mode: String,
    /// How it is opened: `direct`, `buffered` or `uncached`.
    pub io: String,
    /// The kernel's interface for that: `io_uring`, `aio` or `blocking`.
    pub engine: String,
    /// Whose it is.
    pub worker: u16,
    /// Where it is served now.
    pub interfaces: Vec<String>,
    /// Most requests held at once, as announced.
    pub buffers: u16,
    /// Most bytes a second, if there is a limit.
    pub limit_bytes_per_second: Option<u64>,
    /// Most operations a second, if there is a limit.
    pub limit_operations_per_second: Option<u64>,
    /// Requests under way.
    pub outstanding: u64,
    /// What was done.
    #[serde(flatten)]
    pub counters: ExportCounters,
    /// From the turn that took the frame to the turn that handed out its response.
    pub latency: ExportLatency,
    /// Its cache.
    pub cache: CacheStatus,
    /// Frames left unanswered, by [reason](aoede_target::IgnoreReason::name); without those that
    /// are 0.
    pub drops: BTreeMap<String, u64>,
    /// How its freezes stand, if it has a shadow.
    pub freeze: Option<FreezeStatus>,
    /// Acknowledged data that could not be written: every write and flush fails since.
    pub failure: Option<FailureStatus>,
    /// Who was heard of, those heard of last first.
    pub initiators: Vec<InitiatorStatus>,
}

/// Whether an export is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExportState {
    /// It is.
    #[default]
    Serving,
    /// It ends: what was begun is finished, nothing new is taken.
    Draining,
    /// It was [drained](super::api::Call::Drain), and waits for a reload.
    Drained,
    /// It could not be opened; the last reload has the reason.
    Failed,
    /// Its worker does not answer.
    Unknown,
}

impl ExportState {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// What an export has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExportCounters {
    /// Given to the disk.
    pub reads: u64,
    /// Their data.
    pub read_bytes: u64,
    /// Given to the disk.
    pub writes: u64,
    /// Their data.
    pub written_bytes: u64,
    /// Given to the disk.
    pub flushes: u64,
    /// Given to the disk.
    pub trims: u64,
    /// Requests that the disk failed.
    pub device_failures: u64,
    /// Requests answered without the disk.
    pub immediate_responses: u64,
    /// Writes and TRIMs repeated after they had been done: answered, not done again.
    pub duplicates_done: u64,
    /// Writes and TRIMs repeated while they were being done: left unanswered.
    pub duplicates_in_progress: u64,
    /// Writes and TRIMs older than all that are remembered: left unanswered.
    pub duplicates_stale: u64,
    /// Writes accepted without the checksum that was negotiated.
    pub unchecked_writes: u64,
    /// Frames that brought several reads.
    pub coalesced_reads: u64,
}

/// How long requests took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ExportLatency {
    pub reads: Latency,
    pub writes: Latency,
    pub flushes: Latency,
}

/// Durations, counted by size: 16 buckets in each power of two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many.
    pub count: u64,
    /// All together.
    pub sum_ns: u64,
    /// Half of them took no longer, within 3 %.
    pub p50_ns: u64,
    /// 99 of 100 took no longer, within 3 %.
    pub p99_ns: u64,
    /// The longest time of a bucket, and how many took no longer than that, but longer than the
    /// bucket before allows. Without empty ones, shortest first.
    pub buckets: Vec<(u64, u64)>,
}

/// Buckets in each power of two, as a power of two.
const SUB_BITS: u32 = 4;

impl Latency {
    /// Those of later than `before`, an earlier state of the same.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let old: BTreeMap<u64, u64> = before.buckets.iter().copied().collect();
        let counts = self.buckets.iter().map(|&(longest, count)| {
            let old = old.get(&longest).copied().unwrap_or(0);
            (longest, count.saturating_sub(old))
        });
        let buckets = counts.filter(|&(_, count)| count > 0).collect();
        Self::new(self.sum_ns.saturating_sub(before.sum_ns), buckets)
    }

    fn new(sum_ns: u64, buckets: Vec<(u64, u64)>) -> Self {
        Self {
            count: buckets.iter().map(|&(_, count)| count).sum(),
            sum_ns,
            p50_ns: quantile(&buckets, 50),
            p99_ns: quantile(&buckets, 99),
            buckets,
        }
    }
}

impl From<&Histogram> for Latency {
    fn from(histogram: &Histogram) -> Self {
        let mut buckets: Vec<(u64, u64)> = Vec::new();
        for (nanos, count) in histogram.occupied() {
            let longest = nanos | (width(nanos) - 1);
            match buckets.last_mut() {
                Some((last, sum)) if *last == longest => *sum += count,
                _ => buckets.push((longest, count)),
            }
        }
        let sum = histogram.sum().as_nanos();
        Self::new(u64::try_from(sum).unwrap_or(u64::MAX), buckets)
    }
}

/// Of the bucket that a time belongs to.
fn width(nanos: u64) -> u64 {
    1 << (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1)
}

/// What so many of 100 stay within: the middle of a bucket. 0 if there are none.
fn quantile(buckets: &[(u64, u64)], percent: u128) -> u64 {
    let all: u128 = buckets.iter().map(|&(_, count)| u128::from(count)).sum();
    let rank = (all * percent).div_ceil(100);
    let mut seen = 0;
    for &(longest, count) in buckets {
        seen += u128::from(count);
        if seen >= rank {
            return longest - (width(longest) - 1) / 2;
        }
    }
    0
}

/// One export's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheStatus {
    /// Memory for it.
    pub size_bytes: u64,
    /// Acknowledged and not on stable storage.
    pub dirty_bytes: u64,
    /// Most of that.
    pub dirty_limit_bytes: u64,
    /// Reads answered from it.
    pub read_hits: u64,
    /// Reads that went to the device.
    pub read_misses: u64,
    /// Read ahead.
    pub read_ahead_bytes: u64,
    /// Device writes of several requests' data at once.
    pub merged_writes: u64,
    /// Device writes that this saved.
    pub writes_spared: u64,
    /// Given to the device.
    pub syncs: u64,
    /// Device writes of acknowledged data that failed and were tried again.
    pub retries: u64,
}

/// How an export's freezes stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FreezeStatus {
    /// Where it stands.
    pub phase: FreezePhase,
    /// What of the shadow is not in the image.
    pub dirty_bytes: u64,
    /// What the shadow takes.
    pub used_bytes: u64,
    /// What it may take.
    pub limit_bytes: Option<u64>,
    /// What went wrong since the last freeze or thaw.
    pub error: Option<String>,
}

/// Where a freeze stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezePhase {
    /// Not frozen.
    #[default]
    Thawed,
    /// Ordered, and not yet there.
    Freezing,
    /// The image does not change.
    Frozen,
    /// The shadow is copied into the image.
    Merging,
    /// Copying has met an error.
    Stopped,
}

impl FreezePhase {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Thawed => "thawed",
            Self::Freezing => "freezing",
            Self::Frozen => "frozen",
            Self::Merging => "merging",
            Self::Stopped => "stopped",
        }
    }
}

/// Acknowledged data that could not be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureStatus {
    /// What the disk said.
    pub error: String,
    /// All that may be lost.
    pub at_risk_bytes: u64,
    /// Where it is, in order; only the first 64.
    pub at_risk: Vec<SectorRange>,
    /// Ranges beyond those.
    pub more_ranges: u64,
}

/// Sectors of 512 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SectorRange {
    /// The first.
    pub lba: u64,
    /// How many.
    pub sectors: u64,
}

/// One initiator, as one export knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InitiatorStatus {
    /// Its address.
    pub mac: String,
    /// What it has negotiated, by the names that the configuration has.
    pub extensions: Vec<String>,
    /// How long it has been silent.
    pub idle_ms: u64,
    /// The most data a frame of it has brought or asked for.
    pub largest_payload_bytes: u64,
    /// Requests under way.
    pub outstanding: u64,
    /// All that it asked.
    pub requests: u64,
    /// Data it got.
    pub read_bytes: u64,
    /// Data it sent.
    pub written_bytes: u64,
    /// As [`ExportCounters::duplicates_done`].
    pub duplicates_done: u64,
    /// As [`ExportCounters::duplicates_in_progress`].
    pub duplicates_in_progress: u64,
    /// As [`ExportCounters::duplicates_stale`].
    pub duplicates_stale: u64,
}

impl Status {
    /// The export with this address.
    pub fn export(&self, address: &str) -> Option<&ExportStatus> {
        self.exports.iter().find(|one| one.address == address)
    }
}

impl ExportStatus {
    /// Frames left unanswered, for any reason.
    pub fn all_drops(&self) -> u64 {
        self.drops.values().sum()
    }
}

impl InitiatorStatus {
    /// Writes and TRIMs that came again.
    pub fn duplicates(&self) -> u64 {
        self.duplicates_done + self.duplicates_in_progress + self.duplicates_stale
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn latency(nanos: &[u64]) -> Latency {
        let mut histogram = Histogram::new();
        for &nanos in nanos {
            histogram.record(Duration::from_nanos(nanos));
        }
        Latency::from(&histogram)
    }

    #[test]
    fn buckets_have_a_sixteenth_of_a_power_of_two() {
        assert_eq!(
            latency(&[3, 31, 32, 33, 34, 1024, 1087, 1088]).buckets,
            [(3, 1), (31, 1), (33, 2), (35, 1), (1087, 2), (1151, 1)]
        );
        assert_eq!(latency(&[u64::MAX]).buckets, [(u64::MAX, 1)]);
    }

    #[test]
    fn quantiles_are_of_the_interval() {
        let before = latency(&[20_000_000; 100]);
        let mut all = vec![20_000_000; 100];
        all.extend([100_000; 98]);
        all.extend([1_000_000; 2]);
        let now = latency(&all);
        let interval = now.since(&before);
        assert_eq!((interval.count, interval.sum_ns), (100, 11_800_000));
        assert!(interval.p50_ns.abs_diff(100_000) < 3_200, "{interval:?}");
        assert!(interval.p99_ns.abs_diff(1_000_000) < 32_000, "{interval:?}");
        assert!(now.p99_ns.abs_diff(20_000_000) < 640_000, "{now:?}");
        assert_eq!(now.since(&now), Latency::default());
        assert_eq!(latency(&[]), Latency::default());
    }

    #[test]
    fn what_is_missing_is_its_default_and_what_is_unknown_is_no_matter() {
        let text = r#"{"version":1,"exports":[{"address":"e1.1","reads":7,"new":[1]}]}"#;
        let status: Status = serde_json::from_str(text).unwrap();
        let export = status.export("e1.1").unwrap();
        assert_eq!((export.counters.reads, export.counters.writes), (7, 0));
        assert_eq!(status.export("e1.2"), None);
    }
}
