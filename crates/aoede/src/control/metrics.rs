//! A [`Status`] as metrics, in the text format of Prometheus (version 0.0.4).
//!
//! Pure, and called when somebody reads them: nothing is kept for it. Each name ends in its unit,
//! and in `_total` if it is a counter.

use std::fmt::{self, Write as _};

use super::status::{
    ExportState, ExportStatus, FreezePhase, InitiatorStatus, InterfaceStatus, Latency, RingStatus,
    Status, WorkerStatus,
};

/// What the text is, for whom it is sent to.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text.
pub fn text(status: &Status) -> String {
    let mut out = Text(String::new());
    out.daemon(status);
    let workers = status.workers.iter();
    let workers = workers.map(|one| (vec![("worker", one.worker.to_string())], one));
    out.table(WORKER, &workers.collect::<Vec<_>>());
    let interfaces = status.interfaces.iter();
    let interfaces = interfaces.map(|one| (vec![("interface", one.name.clone())], one));
    let interfaces: Vec<_> = interfaces.collect();
    out.table(INTERFACE, &interfaces);
    let rings = interfaces.iter().flat_map(|(labels, interface)| {
        let rings = interface.rings.iter();
        rings.map(move |ring| (with(labels, "worker", ring.worker.to_string()), ring))
    });
    out.table(RING, &rings.collect::<Vec<_>>());
    let exports = status.exports.iter();
    let exports = exports.map(|one| (vec![("export", one.address.clone())], one));
    let exports: Vec<_> = exports.collect();
    out.table(EXPORT, &exports);
    out.ignored(status);
    out.durations(status);
    let initiators = exports.iter().flat_map(|(labels, export)| {
        let initiators = export.initiators.iter();
        initiators.map(move |one| (with(labels, "initiator", one.mac.clone()), one))
    });
    let initiators: Vec<_> = initiators.collect();
    out.table(INITIATOR, &initiators);
    out.silence(&initiators);
    out.0
}

/// Labels, and one more.
fn with(labels: &[Label], name: &'static str, text: String) -> Vec<Label> {
    let mut labels = labels.to_vec();
    labels.push((name, text));
    labels
}

/// A label's name and text.
type Label = (&'static str, String);

/// One family of numbers about things of one kind.
struct Family<T> {
    /// Without `aoede_`; a counter's without `_total`.
    name: &'static str,
    kind: Kind,
    help: &'static str,
    value: fn(&T) -> u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const fn counter<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Family<T> {
    Family {
        name,
        kind: Kind::Counter,
        help,
        value,
    }
}

const fn gauge<T>(name: &'static str, help: &'static str, value: fn(&T) -> u64) -> Family<T> {
    Family {
        name,
        kind: Kind::Gauge,
        help,
        value,
    }
}

#[rustfmt::skip]
const WORKER: &[Family<WorkerStatus>] = &[
    gauge("worker_exports", "Exports that a worker serves.", |w| w.exports),
    gauge("worker_pool_buffers", "Buffers of a worker for requests and responses.", |w| w.pool_buffers),
    gauge("worker_pool_used_buffers", "Buffers of a worker in use.", |w| w.pool_used_buffers),
    gauge("worker_pool_buffer_bytes", "Size of each buffer of a worker.", |w| w.pool_buffer_bytes),
    gauge("worker_waiting_requests", "Requests that wait for a buffer or for their turn.", |w| w.waiting_requests),
    counter("worker_received_frames", "Frames that a worker took from its rings.", |w| w.frames_received),
    counter("worker_responses", "Frames that a worker handed to its interfaces.", |w| w.responses),
    counter("worker_no_buffer", "Answers that found no buffer.", |w| w.no_buffer),
    counter("worker_lost_responses", "Responses whose interface went away or had no room.", |w| w.responses_lost),
];

#[rustfmt::skip]
const INTERFACE: &[Family<InterfaceStatus>] = &[
    gauge("interface_present", "1 if the interface exists.", |i| i.present.into()),
    gauge("interface_up", "1 if the interface and its link are up.", |i| i.up.into()),
    gauge("interface_mtu_bytes", "Bytes of the largest frame after the Ethernet header.", |i| i.mtu_bytes.into()),
];

#[rustfmt::skip]
const RING: &[Family<RingStatus>] = &[
    gauge("ring_slots", "Frames that a receive ring holds at most.", |r| r.slots),
    gauge("ring_used_slots", "Frames that a receive ring holds.", |r| r.used_slots),
    counter("ring_received_frames", "Frames taken from a receive ring.", |r| r.received),
    counter("ring_dropped_frames", "Frames that the kernel lost because a receive ring was full.", |r| r.ring_drops),
    counter("ring_foreign_frames", "Frames for other stations or of other networks.", |r| r.foreign_ignored),
    counter("ring_truncated_frames", "Frames longer than a slot of a receive ring.", |r| r.truncated),
    counter("ring_sent_frames", "Frames that the kernel took to send.", |r| r.sent),
    counter("ring_lost_sent_frames", "Frames that the kernel did not take to send.", |r| r.send_lost),
    counter("ring_send_waits", "How often the send buffer was full.", |r| r.send_waits),
];

#[rustfmt::skip]
const EXPORT: &[Family<ExportStatus>] = &[
    gauge("export_serving", "1 if an export is served.", |e| (e.state == ExportState::Serving).into()),
    gauge("export_size_bytes", "Size of an export, as initiators see it.", |e| e.size_bytes),
    gauge("export_read_only", "1 if an export refuses writes.", |e| e.read_only.into()),
    gauge("export_worker", "The worker that serves an export.", |e| e.worker.into()),
    gauge("export_outstanding_requests", "Requests under way.", |e| e.outstanding),
    gauge("export_failed", "1 if acknowledged data could not be written.", |e| e.failure.is_some().into()),
    gauge("export_at_risk_bytes", "Acknowledged data of a failed export that is not on stable storage.",
        |e| e.failure.as_ref().map_or(0, |f| f.at_risk_bytes)),
    gauge("export_frozen", "1 while the image of an export does not change.",
        |e| e.freeze.as_ref().is_some_and(|f| f.phase == FreezePhase::Frozen).into()),
    gauge("export_shadow_bytes", "What the shadow of an export takes.",
        |e| e.freeze.as_ref().map_or(0, |f| f.used_bytes)),
    counter("export_reads", "Reads given to the disk.", |e| e.counters.reads),
    counter("export_read_bytes", "Data of reads.", |e| e.counters.read_bytes),
    counter("export_writes", "Writes given to the disk.", |e| e.counters.writes),
    counter("export_written_bytes", "Data of writes.", |e| e.counters.written_bytes),
    counter("export_flushes", "Flushes given to the disk.", |e| e.counters.flushes),
    counter("export_trims", "TRIMs given to the disk.", |e| e.counters.trims),
    counter("export_device_failures", "Requests that the disk failed.", |e| e.counters.device_failures),
    counter("export_immediate_responses", "Requests answered without the disk.", |e| e.counters.immediate_responses),
    counter("export_duplicates_done", "Writes repeated after they had been done.", |e| e.counters.duplicates_done),
    counter("export_duplicates_in_progress", "Writes repeated while they were being done.", |e| e.counters.duplicates_in_progress),
    counter("export_duplicates_stale", "Writes older than all that are remembered.", |e| e.counters.duplicates_stale),
    counter("export_unchecked_writes", "Writes accepted without the checksum that was negotiated.", |e| e.counters.unchecked_writes),
    counter("export_coalesced_reads", "Frames that brought several reads.", |e| e.counters.coalesced_reads),
    gauge("export_cache_size_bytes", "Memory for the cache of an export.", |e| e.cache.size_bytes),
    gauge("export_cache_dirty_bytes", "Acknowledged data that is not on stable storage.", |e| e.cache.dirty_bytes),
    gauge("export_cache_dirty_limit_bytes", "Most acknowledged data that is not on stable storage.", |e| e.cache.dirty_limit_bytes),
    counter("export_cache_read_hits", "Reads answered from the cache.", |e| e.cache.read_hits),
    counter("export_cache_read_misses", "Reads that went to the device.", |e| e.cache.read_misses),
    counter("export_cache_read_ahead_bytes", "Data read ahead.", |e| e.cache.read_ahead_bytes),
    counter("export_cache_merged_writes", "Device writes of several requests' data at once.", |e| e.cache.merged_writes),
    counter("export_cache_spared_writes", "Device writes that merging has saved.", |e| e.cache.writes_spared),
    counter("export_cache_syncs", "Syncs given to the device.", |e| e.cache.syncs),
    counter("export_cache_retries", "Device writes of acknowledged data that were tried again.", |e| e.cache.retries),
];

#[rustfmt::skip]
const INITIATOR: &[Family<InitiatorStatus>] = &[
    gauge("initiator_largest_payload_bytes", "The most data of one frame.", |i| i.largest_payload_bytes),
    gauge("initiator_outstanding_requests", "Requests of an initiator under way.", |i| i.outstanding),
    counter("initiator_requests", "All that an initiator asked of an export.", |i| i.requests),
    counter("initiator_read_bytes", "Data that an initiator got.", |i| i.read_bytes),
    counter("initiator_written_bytes", "Data that an initiator sent.", |i| i.written_bytes),
    counter("initiator_duplicates_done", "Writes repeated after they had been done.", |i| i.duplicates_done),
    counter("initiator_duplicates_in_progress", "Writes repeated while they were being done.", |i| i.duplicates_in_progress),
    counter("initiator_duplicates_stale", "Writes older than all that are remembered.", |i| i.duplicates_stale),
];

struct Text(String);

impl Text {
    fn daemon(&mut self, status: &Status) {
        let version = vec![("version", status.daemon.program_version.clone())];
        self.head("info", Kind::Gauge, "The daemon; always 1.");
        self.sample("info", &version, 1);
        self.head("uptime_seconds", Kind::Gauge, "How long the daemon runs.");
        let uptime = Seconds(status.uptime_us.saturating_mul(1000));
        self.sample("uptime_seconds", &[], uptime);
        let name = "last_reload_succeeded";
        self.head(name, Kind::Gauge, "1 unless the last reload met an error.");
        let reload = status.daemon.last_reload.as_ref();
        let succeeded = reload.is_none_or(|reload| reload.succeeded);
        self.sample(name, &[], u8::from(succeeded));
    }

    /// Every family of a table for every thing.
    fn table<T>(&mut self, families: &[Family<T>], things: &[(Vec<Label>, &T)]) {
        if things.is_empty() {
            return;
        }
        for family in families {
            let name = match family.kind {
                Kind::Counter => format!("{}_total", family.name),
                _ => family.name.to_owned(),
            };
            self.head(&name, family.kind, family.help);
            for (labels, thing) in things {
                self.sample(&name, labels, (family.value)(thing));
            }
        }
    }

    /// Frames left unanswered, with the export that they were for, if they were for one.
    fn ignored(&mut self, status: &Status) {
        let name = "ignored_frames_total";
        let help = "Frames left unanswered, by reason; export is empty if no export was meant.";
        let exports = status.exports.iter();
        let exports = exports.map(|export| (export.address.as_str(), &export.drops));
        let all = std::iter::once(("", &status.daemon.drops)).chain(exports);
        let mut all = all
            .flat_map(|(export, drops)| drops.iter().map(move |drop| (export, drop)))
            .peekable();
        if all.peek().is_some() {
            self.head(name, Kind::Counter, help);
        }
        for (export, (reason, count)) in all {
            let labels = [("export", export.to_owned()), ("reason", reason.clone())];
            self.sample(name, &labels, count);
        }
    }

    fn silence(&mut self, initiators: &[(Vec<Label>, &InitiatorStatus)]) {
        let name = "initiator_idle_seconds";
        if !initiators.is_empty() {
            let help = "How long an initiator has been silent at an export.";
            self.head(name, Kind::Gauge, help);
        }
        for (labels, initiator) in initiators {
            let idle = Seconds(initiator.idle_ms.saturating_mul(1_000_000));
            self.sample(name, labels, idle);
        }
    }

    fn durations(&mut self, status: &Status) {
        if status.exports.is_empty() {
            return;
        }
        let help = "From the turn that took a frame to the turn that handed out its response.";
        self.head("export_request_duration_seconds", Kind::Histogram, help);
        for export in &status.exports {
            let latency = &export.latency;
            for (operation, latency) in [
                ("read", &latency.reads),
                ("write", &latency.writes),
                ("flush", &latency.flushes),
            ] {
                self.duration(&export.address, operation, latency);
            }
        }
    }

    fn duration(&mut self, export: &str, operation: &str, latency: &Latency) {
        let name = "export_request_duration_seconds";
        let labels = || {
            vec![
                ("export", export.to_owned()),
                ("operation", operation.to_owned()),
            ]
        };
        for power in BOUNDS {
            let within = latency.buckets.iter();
            let within = within.take_while(|&&(longest, _)| longest < 1 << power);
            let count: u64 = within.map(|&(_, count)| count).sum();
            let mut labels = labels();
            labels.push(("le", Seconds(1 << power).to_string()));
            self.sample(&format!("{name}_bucket"), &labels, count);
        }
        let mut all = labels();
        all.push(("le", "+Inf".to_owned()));
        self.sample(&format!("{name}_bucket"), &all, latency.count);
        self.sample(&format!("{name}_sum"), &labels(), Seconds(latency.sum_ns));
        self.sample(&format!("{name}_count"), &labels(), latency.count);
    }

    fn head(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // Writing into a string cannot fail.
        let _ = writeln!(self.0, "# HELP aoede_{name} {help}");
        let _ = writeln!(self.0, "# TYPE aoede_{name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[Label], value: impl fmt::Display) {
        let _ = write!(self.0, "aoede_{name}");
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{label}=\"{}\"", Escaped(text));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{after} {value}");
    }
}

/// Bounds of the buckets, in nanoseconds, as powers of two, where the buckets of [`Latency`] have
/// theirs: 33 µs to 17 s.
const BOUNDS: std::ops::RangeInclusive<u32> = 15..=34;

/// Nanoseconds, as seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SECOND: u64 = 1_000_000_000;
        write!(f, "{}.{:09}", self.0 / SECOND, self.0 % SECOND)
    }
}

/// The text of a label.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '\\' => f.write_str("\\\\")?,
                '"' => f.write_str("\\\"")?,
                '\n' => f.write_str("\\n")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}
