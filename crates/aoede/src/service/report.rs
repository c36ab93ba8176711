//! How a worker and its exports stand, for whoever asks the daemon.

use std::collections::BTreeMap;
use std::time::Duration;

use aoede_disk::{Buffer, DiskError, ShadowPhase, Volume};
use aoede_link::Port as _;
use aoede_target::{IgnoreReason, Ignored, Initiator};
use aoede_wire::SECTOR_BYTES;

use super::CacheMode;
use super::engines::Engines;
use super::freeze::Freezer;
use super::seats::{PortWorker, Seats};
use super::served::{Served, io_name};
use crate::control::status::{
    CacheStatus, ExportCounters, ExportLatency, ExportState, ExportStatus, FailureStatus,
    FreezePhase, FreezeStatus, InitiatorStatus, InterfaceStatus, Latency, RingStatus, SectorRange,
    WorkerStatus,
};

/// Ranges that a failure names.
const MOST_RANGES: usize = 64;

/// What one worker tells.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) worker: WorkerStatus,
    /// With one ring each.
    pub(crate) interfaces: Vec<InterfaceStatus>,
    pub(crate) exports: Vec<ExportStatus>,
    /// Frames that no export was meant by.
    pub(crate) drops: BTreeMap<String, u64>,
}

pub(super) fn report(
    number: u16,
    now: Duration,
    exports: &[Served],
    seats: &Seats,
    worker: &mut PortWorker,
) -> Report {
    let pool = worker.pool();
    let shape = pool.shape();
    let used = shape.count - pool.free();
    let stats = worker.stats();
    let exports: Vec<ExportStatus> = exports
        .iter()
        .map(|served| export(number, now, served, seats, worker))
        .collect();
    Report {
        worker: WorkerStatus {
            worker: number,
            exports: exports.len() as u64,
            pool_buffers: shape.count as u64,
            pool_used_buffers: used as u64,
            pool_buffer_bytes: shape.data_bytes as u64,
            frames_received: stats.frames_received,
            responses: stats.responses,
            no_buffer: stats.no_buffer,
            responses_lost: stats.responses_lost,
            waiting_requests: worker.fair_stats().waiting as u64,
        },
        interfaces: interfaces(number, seats, worker),
        drops: drops(worker.exports().ignored()),
        exports,
    }
}

fn interfaces(number: u16, seats: &Seats, worker: &mut PortWorker) -> Vec<InterfaceStatus> {
    let seats = seats.interfaces();
    let each = seats.map(|(seat, name, interface)| {
        let mut status = InterfaceStatus {
            name: interface
                .map_or(name, |interface| &interface.name)
                .to_owned(),
            present: interface.is_some(),
            ..InterfaceStatus::default()
        };
        if let Some(interface) = interface {
            status.up = interface.up;
            status.mtu_bytes = interface.mtu;
            status.mac = interface.mac.to_string();
        }
        if let Some(port) = worker.port_mut(seat) {
            let (ring, stats) = (port.ring_use(), port.stats());
            status.rings.push(RingStatus {
                worker: number,
                slots: (ring.waiting + ring.free) as u64,
                used_slots: ring.waiting as u64,
                received: stats.received,
                ring_drops: stats.ring_drops,
                foreign_ignored: stats.foreign_ignored,
                truncated: stats.truncated,
                sent: stats.sent,
                send_lost: stats.send_lost(),
                send_waits: stats.send_waits,
            });
        }
        status
    });
    each.collect()
}

fn export(
    number: u16,
    now: Duration,
    served: &Served,
    seats: &Seats,
    worker: &PortWorker,
) -> ExportStatus {
    let export = served.export();
    let settings = &export.settings;
    let mut status = ExportStatus {
        address: export.address().to_string(),
        path: settings.path.display().to_string(),
        state: if served.is_closing() {
            ExportState::Draining
        } else {
            ExportState::Serving
        },
        read_only: settings.open.read_only,
        cache_mode: settings.cache.mode.to_string(),
        io: io_name(served.backing().io).to_owned(),
        engine: Engines::name_of(served.file()).to_owned(),
        worker: number,
        interfaces: seats.names_at(served.number(), worker),
        buffers: settings.buffers,
        limit_bytes_per_second: export.limits.bytes_per_second.map(|size| size.0),
        limit_operations_per_second: export.limits.operations_per_second.map(u64::from),
        freeze: freeze(served.number(), served.freezer(), worker),
        ..ExportStatus::default()
    };
    if let Some(target) = worker.exports().get(served.number()) {
        let stats = target.stats();
        status.size_bytes = target.sectors().saturating_mul(SECTOR_BYTES as u64);
        status.drops = drops(&stats.ignored);
        status.counters = ExportCounters {
            reads: stats.reads,
            read_bytes: stats.read_sectors.saturating_mul(SECTOR_BYTES as u64),
            writes: stats.writes,
            written_bytes: stats.written_sectors.saturating_mul(SECTOR_BYTES as u64),
            flushes: stats.flushes,
            trims: stats.trims,
            device_failures: stats.device_failures,
            immediate_responses: stats.responses,
            duplicates_done: stats.duplicates,
            duplicates_in_progress: stats.ignored.get(IgnoreReason::TagInProgress),
            duplicates_stale: stats.ignored.get(IgnoreReason::TagStale),
            unchecked_writes: stats.unchecked_writes,
            coalesced_reads: stats.coalesced_reads,
        };
        status.initiators = target
            .initiators()
            .map(|one| initiator(&one, now))
            .collect();
        status.initiators.sort_by_key(|one| one.idle_ms);
    }
    if let Some(volume) = worker.volume(served.number()) {
        let stats = volume.stats();
        status.outstanding = volume.outstanding() as u64;
        status.cache = CacheStatus {
            size_bytes: settings.cache.bytes(),
            dirty_bytes: volume.bytes_at_risk(),
            dirty_limit_bytes: match settings.cache.mode {
                CacheMode::Writeback => settings.cache.dirty.0,
                CacheMode::Writethrough => 0,
            },
            read_hits: stats.read_hits,
            read_misses: stats.read_misses,
            read_ahead_bytes: stats.read_ahead_bytes,
            merged_writes: stats.merged_writes,
            writes_spared: stats.writes_spared,
            syncs: stats.syncs,
            retries: stats.retries,
        };
    }
    status.failure = served.failure(worker).map(|failure| failure.status);
    if let Some(latencies) = worker.latencies(served.number()) {
        status.latency = ExportLatency {
            reads: Latency::from(&latencies.reads),
            writes: Latency::from(&latencies.writes),
            flushes: Latency::from(&latencies.flushes),
        };
    }
    status
}

fn initiator(one: &Initiator, now: Duration) -> InitiatorStatus {
    let idle = now.saturating_sub(one.last_active).as_millis();
    InitiatorStatus {
        mac: one.mac.to_string(),
        extensions: one
            .extensions
            .to_string()
            .split_whitespace()
            .map(str::to_owned)
            .collect(),
        idle_ms: u64::try_from(idle).unwrap_or(u64::MAX),
        largest_payload_bytes: one.largest_payload_bytes,
        outstanding: one.outstanding.into(),
        requests: one.requests,
        read_bytes: one.bytes_read,
        written_bytes: one.bytes_written,
        duplicates_done: one.duplicates.done,
        duplicates_in_progress: one.duplicates.in_progress,
        duplicates_stale: one.duplicates.stale,
    }
}

/// How an export's freezes stand, if it has a shadow.
pub(super) fn freeze(
    export: usize,
    freezer: &Freezer,
    worker: &PortWorker,
) -> Option<FreezeStatus> {
    if !freezer.has_shadow() {
        return None;
    }
    let status = worker.shadow_status(export)?;
    let failure = status.failure.map(|failure| failure.to_string());
    Some(FreezeStatus {
        phase: match status.phase {
            _ if freezer.is_ordered() => FreezePhase::Freezing,
            ShadowPhase::Thawed => FreezePhase::Thawed,
            ShadowPhase::Freezing => FreezePhase::Freezing,
            ShadowPhase::Frozen => FreezePhase::Frozen,
            ShadowPhase::Stopped => FreezePhase::Stopped,
            _ => FreezePhase::Merging,
        },
        dirty_bytes: status.dirty_bytes,
        used_bytes: status.used_bytes,
        limit_bytes: status.limit_bytes,
        error: failure.or_else(|| freezer.problem().map(str::to_owned)),
    })
}

/// What may be lost.
pub(super) fn failure(error: DiskError, volume: &Volume<Buffer>) -> FailureStatus {
    let ranges = ranges_at_risk(volume);
    let shown = ranges.iter().take(MOST_RANGES);
    FailureStatus {
        error: error.to_string(),
        at_risk_bytes: volume.bytes_at_risk(),
        at_risk: shown
            .map(|&(lba, sectors)| SectorRange { lba, sectors })
            .collect(),
        more_ranges: ranges.len().saturating_sub(MOST_RANGES) as u64,
    }
}

/// Where acknowledged data is that is not on stable storage: first sectors and how many, in order,
/// neighbours together.
pub(super) fn ranges_at_risk(volume: &Volume<Buffer>) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = volume.ranges_at_risk().collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let follows = range.0 + range.1 == next.0;
        range.1 += if follows { next.1 } else { 0 };
        follows
    });
    ranges
}

/// `LBA 8-15, 96 and 3 more ranges`, with no more than `most` of them.
pub(super) fn show_ranges(ranges: &[(u64, u64)], most: usize) -> String {
    let show = |&(lba, sectors): &(u64, u64)| match sectors {
        1 => lba.to_string(),
        _ => format!("{lba}-{}", lba + sectors - 1),
    };
    let shown: Vec<String> = ranges.iter().take(most).map(show).collect();
    let rest = match ranges.len().saturating_sub(most) {
        0 => String::new(),
        rest => format!(" and {rest} more ranges"),
    };
    format!("LBA {}{rest}", shown.join(", "))
}

/// Frames left unanswered, by reason: `source=3 version=1`, or `none`.
pub(super) fn ignored(screened: &Ignored, by_target: &Ignored) -> String {
    let reasons: Vec<String> = IgnoreReason::ALL
        .into_iter()
        .map(|reason| (reason, screened.get(reason) + by_target.get(reason)))
        .filter(|&(_, frames)| frames > 0)
        .map(|(reason, frames)| format!("{}={frames}", reason.name()))
        .collect();
    if reasons.is_empty() {
        "none".to_owned()
    } else {
        reasons.join(" ")
    }
}

fn drops(ignored: &Ignored) -> BTreeMap<String, u64> {
    let reasons = IgnoreReason::ALL.into_iter();
    let frames = reasons.map(|reason| (reason.name().to_owned(), ignored.get(reason)));
    frames.filter(|&(_, frames)| frames > 0).collect()
}
