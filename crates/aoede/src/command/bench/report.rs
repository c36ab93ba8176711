//! What a measurement came to. Pure.

use std::time::Duration;

use aoede_histogram::{Histogram, Latencies};
use aoede_initiator::SessionStats;
use serde::Serialize;

use super::plan::Workload;
use crate::output::{self, Facts};
use crate::size::Size;

/// Requests that were finished in time, by kind.
#[derive(Debug)]
pub(super) struct Counts {
    reads: Histogram,
    writes: Histogram,
    all: Histogram,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            reads: Histogram::new(),
            writes: Histogram::new(),
            all: Histogram::new(),
        }
    }

    pub(super) fn record(&mut self, took: Duration, write: bool) {
        let kind = if write {
            &mut self.writes
        } else {
            &mut self.reads
        };
        kind.record(took);
        self.all.record(took);
    }
}

/// Requests of one kind, or all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Part {
    operations: u64,
    bytes: u64,
    operations_per_second: f64,
    bytes_per_second: f64,
    /// From the submission to the return of the buffer.
    latency: Latencies,
}

/// Everything; its JSON is a promise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Report {
    pub(super) address: String,
    pub(super) workload: Option<Workload>,
    pub(super) read_percent: Option<u8>,
    block_bytes: u64,
    pub(super) queue_depth: u16,
    pub(super) coalesce: bool,
    pub(super) seed: u64,
    seconds: f64,
    #[serde(flatten)]
    all: Part,
    reads: Option<Part>,
    writes: Option<Part>,
    frames_sent: u64,
    requests_repeated: u64,
    requests_timed_out: u64,
    reads_coalesced: u64,
    pub(super) sectors_per_frame: Option<u8>,
}

impl Report {
    /// Of requests of so many bytes each, in so much time.
    pub(super) fn new(counts: &Counts, block_bytes: u64, took: Duration) -> Self {
        let seconds = took.as_secs_f64();
        let part = |histogram: &Histogram| {
            let operations = histogram.count();
            let bytes = operations * block_bytes;
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let per_second = |amount: u64| amount as f64 / seconds;
            Part {
                operations,
                bytes,
                operations_per_second: per_second(operations),
                bytes_per_second: per_second(bytes),
                latency: histogram.latencies(),
            }
        };
        let some = |histogram: &Histogram| (histogram.count() > 0).then(|| part(histogram));
        Self {
            address: String::new(),
            workload: None,
            read_percent: None,
            block_bytes,
            queue_depth: 0,
            coalesce: false,
            seed: 0,
            seconds,
            all: part(&counts.all),
            reads: some(&counts.reads),
            writes: some(&counts.writes),
            frames_sent: 0,
            requests_repeated: 0,
            requests_timed_out: 0,
            reads_coalesced: 0,
            sectors_per_frame: None,
        }
    }

    /// What the session did meanwhile.
    pub(super) fn count_frames(&mut self, before: &SessionStats, after: &SessionStats) {
        self.frames_sent = after.sent - before.sent;
        self.requests_repeated = after.repeated - before.repeated;
        self.requests_timed_out = after.timed_out - before.timed_out;
        self.reads_coalesced = after.coalesced - before.coalesced;
    }
}

impl Facts for Report {
    fn text(&self) -> String {
        let name = self.workload.map_or("", Workload::name);
        let title = format!(
            "{name} of {}: {} blocks, {} under way, {:.2} s",
            self.address,
            Size(self.block_bytes),
            self.queue_depth,
            self.seconds
        );
        let kinds = [("reads", self.reads), ("writes", self.writes)];
        let rows: Vec<[String; 10]> = kinds
            .into_iter()
            .filter_map(|(name, part)| Some(row(name, &part?)))
            .collect();
        let rows = match rows.len() {
            1 => rows,
            _ => rows.into_iter().chain([row("all", &self.all)]).collect(),
        };
        let number = |name| (name, true);
        let table = output::list(
            [
                ("", false),
                number("OPERATIONS"),
                number("PER SECOND"),
                number("MB/S"),
                number("MEAN us"),
                number("P50"),
                number("P90"),
                number("P99"),
                number("P99.9"),
                number("MAX"),
            ],
            &rows,
        );
        format!(
            "{title}\n{table}{} frames sent, {} reads in frames of others, {} requests repeated\n",
            self.frames_sent, self.reads_coalesced, self.requests_repeated
        )
    }
}

fn row(name: &str, part: &Part) -> [String; 10] {
    let Latencies {
        mean_us,
        p50_us,
        p90_us,
        p99_us,
        p999_us,
        max_us,
        ..
    } = part.latency;
    let tenths = |value: f64| format!("{value:.1}");
    [
        name.to_owned(),
        part.operations.to_string(),
        format!("{:.0}", part.operations_per_second),
        tenths(part.bytes_per_second / 1e6),
        tenths(mean_us),
        tenths(p50_us),
        tenths(p90_us),
        tenths(p99_us),
        tenths(p999_us),
        tenths(max_us),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut counts = Counts::new();
        for _ in 0..3 {
            counts.record(Duration::from_nanos(100), false);
        }
        counts.record(Duration::from_nanos(120), true);
        let mut report = Report::new(&counts, 4096, Duration::from_secs(2));
        let before = SessionStats::default();
        let mut after = before;
        (after.sent, after.repeated) = (9, 2);
        (after.timed_out, after.coalesced) = (3, 4);
        report.count_frames(&before, &after);
        report
    }

    #[test]
    fn parts_add_up_to_the_whole() {
        let Report {
            all, reads, writes, ..
        } = report();
        assert_eq!((all.operations, all.bytes), (4, 16384));
        assert_eq!(reads.unwrap().operations, 3);
        assert_eq!(writes.unwrap().bytes, 4096);
        assert!((all.operations_per_second - 2.0).abs() < 1e-9);
        assert!((all.bytes_per_second - 8192.0).abs() < 1e-9);
        assert!((all.latency.mean_us - 0.105).abs() < 1e-9);
        assert!((all.latency.max_us - 0.12).abs() < 1e-9);
    }

    #[test]
    fn what_did_not_happen_is_left_out() {
        let mut counts = Counts::new();
        counts.record(Duration::from_nanos(100), true);
        let report = Report::new(&counts, 512, Duration::from_secs(1));
        assert_eq!(report.reads, None);
        assert_eq!(report.writes, Some(report.all));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["reads"], serde_json::Value::Null);
        assert_eq!(
            (&json["operations"], &json["bytes"]),
            (&1.into(), &512.into())
        );
    }

    #[test]
    fn a_person_sees_each_kind_and_the_sum() {
        let mut report = report();
        report.address = "e1.1".to_owned();
        report.workload = Some(Workload::RandRw);
        report.queue_depth = 16;
        let text = report.text();
        let first: Vec<&str> = text.lines().collect();
        assert_eq!(
            first[0],
            "randrw of e1.1: 4 KiB blocks, 16 under way, 2.00 s"
        );
        let starts: Vec<&str> = first[2..5]
            .iter()
            .map(|line| line.split_whitespace().next().unwrap())
            .collect();
        assert_eq!(starts, ["reads", "writes", "all"]);
        assert_eq!(
            first[5],
            "9 frames sent, 4 reads in frames of others, 2 requests repeated"
        );
    }
}
