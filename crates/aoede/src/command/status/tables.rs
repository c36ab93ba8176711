//! The tables: a line for each export, initiator, ring and worker.

use super::figures::{bytes, or, percent, silence, time, whole};
use crate::control::rates::Interval;
use crate::control::status::{
    ExportStatus, FreezePhase, InitiatorStatus, InterfaceStatus, RingStatus, Status, WorkerStatus,
};
use crate::output;
use crate::size::Size;

pub(super) fn exports(status: &Status, interval: Option<Interval<'_>>) -> String {
    let head = [
        ("ADDRESS", false),
        ("STATE", false),
        ("SIZE", true),
        ("ACCESS", false),
        ("WORKER", true),
        ("READ/s", true),
        ("WRITE/s", true),
        ("IOPS", true),
        ("READ p50", true),
        ("p99", true),
        ("WRITE p50", true),
        ("p99", true),
        ("DIRTY", true),
        ("HITS", true),
        ("INITIATORS", true),
        ("DROPS", true),
        ("PATH", false),
    ];
    if status.exports.is_empty() {
        return "no exports\n".to_owned();
    }
    let rows = status.exports.iter().map(|export| {
        let rates = interval.map(|interval| interval.export(export));
        let rates = rates.unwrap_or_default();
        let cache = &export.cache;
        [
            export.address.clone(),
            state(export).to_owned(),
            Size(export.size_bytes).to_string(),
            access(export).to_owned(),
            export.worker.to_string(),
            bytes(rates.read_bytes_per_second),
            bytes(rates.written_bytes_per_second),
            whole(rates.reads_per_second + rates.writes_per_second),
            time(&rates.reads, rates.reads.p50_ns),
            time(&rates.reads, rates.reads.p99_ns),
            time(&rates.writes, rates.writes.p50_ns),
            time(&rates.writes, rates.writes.p99_ns),
            Size(cache.dirty_bytes).to_string(),
            percent(cache.read_hits, cache.read_misses),
            export.initiators.len().to_string(),
            export.all_drops().to_string(),
            export.path.clone(),
        ]
    });
    output::list(head, &rows.collect::<Vec<_>>())
}

/// How an export is, in a word.
pub(in crate::command) fn state(export: &ExportStatus) -> &'static str {
    match (&export.failure, &export.freeze) {
        (Some(_), _) => "write failed",
        (None, Some(freeze)) if freeze.phase != FreezePhase::Thawed => freeze.phase.name(),
        _ => export.state.name(),
    }
}

pub(super) fn access(export: &ExportStatus) -> &'static str {
    if export.read_only {
        "read"
    } else {
        "read, write"
    }
}

/// Of one export, or of several.
pub(super) fn initiators<'a>(exports: impl Iterator<Item = &'a ExportStatus>) -> String {
    let rows = exports.flat_map(|export| {
        let initiators = export.initiators.iter();
        initiators.map(|one| initiator(&export.address, one))
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() {
        return String::new();
    }
    let head = [
        ("EXPORT", false),
        ("INITIATOR", false),
        ("SILENT", true),
        ("UNDER WAY", true),
        ("REQUESTS", true),
        ("READ", true),
        ("WRITTEN", true),
        ("PAYLOAD", true),
        ("DUPLICATES", true),
        ("EXTENSIONS", false),
    ];
    output::list(head, &rows)
}

fn initiator(export: &str, one: &InitiatorStatus) -> [String; 10] {
    [
        export.to_owned(),
        one.mac.clone(),
        silence(one.idle_ms),
        one.outstanding.to_string(),
        one.requests.to_string(),
        Size(one.read_bytes).to_string(),
        Size(one.written_bytes).to_string(),
        one.largest_payload_bytes.to_string(),
        one.duplicates().to_string(),
        or(&one.extensions.join(", "), "none"),
    ]
}

pub(super) fn interfaces(interfaces: &[InterfaceStatus]) -> String {
    if interfaces.is_empty() {
        return "no interfaces\n".to_owned();
    }
    let none = RingStatus::default();
    let mut rows = Vec::new();
    for interface in interfaces {
        if interface.rings.is_empty() {
            rows.push(ring(interface, &none, "-".to_owned()));
        }
        let rings = interface.rings.iter();
        rows.extend(rings.map(|one| ring(interface, one, one.worker.to_string())));
    }
    let head = [
        ("INTERFACE", false),
        ("STATE", false),
        ("MAC", false),
        ("MTU", true),
        ("WORKER", true),
        ("RING", true),
        ("RECEIVED", true),
        ("SENT", true),
        ("RING FULL", true),
        ("NOT SENT", true),
    ];
    output::list(head, &rows)
}

fn ring(interface: &InterfaceStatus, ring: &RingStatus, worker: String) -> [String; 10] {
    let state = match (interface.present, interface.up) {
        (false, _) => "gone",
        (true, false) => "down",
        (true, true) => "up",
    };
    [
        interface.name.clone(),
        state.to_owned(),
        interface.mac.clone(),
        interface.mtu_bytes.to_string(),
        worker,
        format!("{} of {}", ring.used_slots, ring.slots),
        ring.received.to_string(),
        ring.sent.to_string(),
        ring.ring_drops.to_string(),
        ring.send_lost.to_string(),
    ]
}

pub(super) fn workers(workers: &[WorkerStatus]) -> String {
    if workers.is_empty() {
        return String::new();
    }
    let head = [
        ("WORKER", true),
        ("EXPORTS", true),
        ("BUFFERS", true),
        ("WAITING", true),
        ("FRAMES", true),
        ("RESPONSES", true),
        ("NO BUFFER", true),
        ("LOST", true),
    ];
    let rows = workers.iter().map(|worker| {
        [
            worker.worker.to_string(),
            worker.exports.to_string(),
            format!("{} of {}", worker.pool_used_buffers, worker.pool_buffers),
            worker.waiting_requests.to_string(),
            worker.frames_received.to_string(),
            worker.responses.to_string(),
            worker.no_buffer.to_string(),
            worker.responses_lost.to_string(),
        ]
    });
    output::list(head, &rows.collect::<Vec<_>>())
}
