//! What two statuses tell of the time between them.

use super::status::{ExportStatus, InitiatorStatus, Latency, Status};

/// One export's.
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ExportRates {
    pub read_bytes_per_second: f64,
    pub written_bytes_per_second: f64,
    pub reads_per_second: f64,
    pub writes_per_second: f64,
    pub drops_per_second: f64,
    pub reads: Latency,
    pub writes: Latency,
    pub flushes: Latency,
}

/// One initiator's, at one export.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct InitiatorRates {
    pub read_bytes_per_second: f64,
    pub written_bytes_per_second: f64,
    pub requests_per_second: f64,
}

/// Two statuses of one daemon.
#[derive(Clone, Copy, Debug)]
pub struct Interval<'a> {
    before: &'a Status,
    seconds: f64,
}

impl<'a> Interval<'a> {
    /// From `before` to `now`. None if these are not in order, or of two daemons.
    pub fn new(before: &'a Status, now: &Status) -> Option<Self> {
        let micros = now.uptime_us.checked_sub(before.uptime_us)?;
        (micros > 0 && before.daemon.pid == now.daemon.pid).then(|| Self {
            before,
            seconds: as_f64(micros) / 1e6,
        })
    }

    /// Of an export of the later status. One that was not there before has counted from 0.
    pub fn export(&self, now: &ExportStatus) -> ExportRates {
        let new = ExportStatus::default();
        let before = self.before.export(&now.address).unwrap_or(&new);
        let (old, counters) = (&before.counters, &now.counters);
        let (then, latency) = (&before.latency, &now.latency);
        ExportRates {
            read_bytes_per_second: self.rate(old.read_bytes, counters.read_bytes),
            written_bytes_per_second: self.rate(old.written_bytes, counters.written_bytes),
            reads_per_second: self.rate(old.reads, counters.reads),
            writes_per_second: self.rate(old.writes, counters.writes),
            drops_per_second: self.rate(before.all_drops(), now.all_drops()),
            reads: latency.reads.since(&then.reads),
            writes: latency.writes.since(&then.writes),
            flushes: latency.flushes.since(&then.flushes),
        }
    }

    /// Of an initiator of an export of the later status.
    pub fn initiator(&self, export: &ExportStatus, now: &InitiatorStatus) -> InitiatorRates {
        let new = InitiatorStatus::default();
        let before = self.before.export(&export.address);
        let before = before.and_then(|export| {
            let mut initiators = export.initiators.iter();
            initiators.find(|one| one.mac == now.mac)
        });
        let before = before.unwrap_or(&new);
        InitiatorRates {
            read_bytes_per_second: self.rate(before.read_bytes, now.read_bytes),
            written_bytes_per_second: self.rate(before.written_bytes, now.written_bytes),
            requests_per_second: self.rate(before.requests, now.requests),
        }
    }

    /// What was begun anew counts from 0 again.
    fn rate(&self, before: u64, now: u64) -> f64 {
        let more = if now < before { now } else { now - before };
        as_f64(more) / self.seconds
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::control::status::{DaemonStatus, ExportCounters};

    fn status(uptime_us: u64, pid: u32, reads: u64, drops: u64) -> Status {
        Status {
            uptime_us,
            daemon: DaemonStatus {
                pid,
                ..DaemonStatus::default()
            },
            exports: vec![ExportStatus {
                address: "e1.1".to_owned(),
                counters: ExportCounters {
                    reads,
                    read_bytes: reads * 4096,
                    ..ExportCounters::default()
                },
                drops: BTreeMap::from([("masked".to_owned(), drops)]),
                initiators: vec![InitiatorStatus {
                    mac: "a".to_owned(),
                    requests: reads,
                    ..InitiatorStatus::default()
                }],
                ..ExportStatus::default()
            }],
            ..Status::default()
        }
    }

    #[test]
    #[expect(clippy::float_cmp, reason = "all of these are exact")]
    fn rates_are_by_the_clock_of_the_daemon() {
        let (before, now) = (status(1_000_000, 7, 10, 1), status(1_500_000, 7, 60, 2));
        let interval = Interval::new(&before, &now).unwrap();
        let rates = interval.export(&now.exports[0]);
        assert_eq!(rates.reads_per_second, 100.0);
        assert_eq!(rates.read_bytes_per_second, 409_600.0);
        assert_eq!(rates.drops_per_second, 2.0);
        let initiator = interval.initiator(&now.exports[0], &now.exports[0].initiators[0]);
        assert_eq!(initiator.requests_per_second, 100.0);
        // It was closed and opened again.
        let again = status(2_000_000, 7, 5, 0);
        let interval = Interval::new(&now, &again).unwrap();
        assert_eq!(interval.export(&again.exports[0]).reads_per_second, 10.0);
    }

    #[test]
    fn another_daemon_is_no_interval() {
        let now = status(2_000_000, 7, 0, 0);
        assert!(Interval::new(&status(1_000_000, 8, 0, 0), &now).is_none());
        assert!(Interval::new(&status(2_000_000, 7, 0, 0), &now).is_none());
        assert!(Interval::new(&status(3_000_000, 7, 0, 0), &now).is_none());
    }
}
