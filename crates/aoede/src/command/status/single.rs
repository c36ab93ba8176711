//! All about one export.

use serde::Serialize;

use super::figures::{bytes, or, percent, time};
use super::tables::{access, initiators, state};
use crate::control::rates::ExportRates;
use crate::control::status::{ExportStatus, FailureStatus, Latency, SectorRange};
use crate::output::{self, Facts};
use crate::size::Size;

/// Ranges of sectors that are shown.
const RANGES_SHOWN: usize = 4;

/// One export.
#[derive(Serialize)]
pub(super) struct Single {
    #[serde(flatten)]
    pub(super) export: ExportStatus,
    #[serde(skip)]
    pub(super) rates: ExportRates,
}

impl Facts for Single {
    fn text(&self) -> String {
        let export = &self.export;
        let mut sheet = facts(export);
        sheet.extend(work(export, &self.rates));
        sheet.extend(cache(export));
        if let Some(freeze) = &export.freeze {
            sheet.push(("freeze", freeze.text()));
        }
        if let Some(failure) = &export.failure {
            sheet.push(("failure", failed(failure)));
        }
        let drops = export.drops.iter();
        let drops: Vec<String> = drops
            .map(|(reason, count)| format!("{reason}={count}"))
            .collect();
        sheet.push(("drops", or(&drops.join(" "), "none")));
        let initiators = initiators(std::iter::once(export));
        let initiators = or(&initiators, "no initiators\n");
        format!("{}\n{initiators}", output::sheet(sheet))
    }
}

/// Names and values.
type Sheet = Vec<(&'static str, String)>;

fn facts(export: &ExportStatus) -> Sheet {
    vec![
        ("address", export.address.clone()),
        ("path", export.path.clone()),
        ("state", state(export).to_owned()),
        ("size", Size(export.size_bytes).to_string()),
        ("access", access(export).to_owned()),
        ("worker", export.worker.to_string()),
        ("interfaces", or(&export.interfaces.join(", "), "none")),
        (
            "buffers",
            format!("{}, {} under way", export.buffers, export.outstanding),
        ),
        ("limits", limits(export)),
        ("file access", format!("{}, {}", export.io, export.engine)),
    ]
}

fn work(export: &ExportStatus, rates: &ExportRates) -> Sheet {
    let (counters, latency) = (&export.counters, &export.latency);
    let took = |of: &Latency| {
        let (p50, p99) = (time(of, of.p50_ns), time(of, of.p99_ns));
        format!("p50 {p50}, p99 {p99} since it was opened")
    };
    let done = |count: u64, data: u64, rate: f64, of: &Latency| {
        let (data, rate) = (Size(data), bytes(rate));
        format!("{count}, {data}, {rate}/s now; {}", took(of))
    };
    vec![
        (
            "reads",
            done(
                counters.reads,
                counters.read_bytes,
                rates.read_bytes_per_second,
                &latency.reads,
            ),
        ),
        (
            "writes",
            done(
                counters.writes,
                counters.written_bytes,
                rates.written_bytes_per_second,
                &latency.writes,
            ),
        ),
        (
            "flushes",
            format!("{}; {}", counters.flushes, took(&latency.flushes)),
        ),
        ("trims", counters.trims.to_string()),
        ("disk errors", counters.device_failures.to_string()),
        (
            "duplicates",
            format!(
                "{} of done writes, {} of writes in progress, {} too old to tell",
                counters.duplicates_done,
                counters.duplicates_in_progress,
                counters.duplicates_stale
            ),
        ),
    ]
}

fn cache(export: &ExportStatus) -> Sheet {
    let cache = &export.cache;
    vec![
        (
            "cache",
            format!(
                "{}, {}; {} hits, {} read ahead",
                export.cache_mode,
                Size(cache.size_bytes),
                percent(cache.read_hits, cache.read_misses),
                Size(cache.read_ahead_bytes)
            ),
        ),
        (
            "dirty",
            format!(
                "{} of {}; {} syncs, {} writes tried again",
                Size(cache.dirty_bytes),
                Size(cache.dirty_limit_bytes),
                cache.syncs,
                cache.retries
            ),
        ),
    ]
}

fn limits(export: &ExportStatus) -> String {
    let bytes = export.limit_bytes_per_second;
    let bytes = bytes.map(|bytes| format!("{}/s", Size(bytes)));
    let operations = export.limit_operations_per_second;
    let operations = operations.map(|count| format!("{count} operations/s"));
    let limits: Vec<String> = bytes.into_iter().chain(operations).collect();
    or(&limits.join(", "), "none")
}

/// `error; 12 KiB at risk: LBA 8-15, 96 and 3 more ranges`.
pub(super) fn failed(failure: &FailureStatus) -> String {
    let show = |range: &SectorRange| match range.sectors {
        0 | 1 => range.lba.to_string(),
        more => format!("{}-{}", range.lba, range.lba.saturating_add(more - 1)),
    };
    let shown = failure.at_risk.iter().take(RANGES_SHOWN).map(show);
    let shown: Vec<String> = shown.collect();
    let rest = failure.at_risk.len().saturating_sub(RANGES_SHOWN) as u64 + failure.more_ranges;
    let rest = match rest {
        0 => String::new(),
        rest => format!(" and {rest} more ranges"),
    };
    format!(
        "acknowledged data cannot be written ({}); {} at risk: LBA {}{rest}",
        failure.error,
        Size(failure.at_risk_bytes),
        shown.join(", "),
    )
}
