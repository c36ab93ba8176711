//! How long an export's requests take.

use std::time::Duration;

use aoede_disk::RequestKind;
use aoede_histogram::Histogram;

/// Latencies of one export: from the turn that took a request's frame to the turn that handed out
/// its response. What begins and ends within one turn counts as no time.
#[derive(Clone, Debug, Default)]
pub struct ExportLatencies {
    /// Reads of the disk, from the cache too.
    pub reads: Histogram,
    /// Writes,
    pub writes: Histogram,
    /// flushes, those for SET FEATURES included,
    pub flushes: Histogram,
    /// and trims.
    pub trims: Histogram,
}

/// What is done, without its details.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Read,
    Write,
    Flush,
    Trim,
}

impl From<RequestKind> for Work {
    fn from(kind: RequestKind) -> Self {
        match kind {
            RequestKind::Read { .. } => Self::Read,
            RequestKind::Write { .. } => Self::Write,
            RequestKind::Flush => Self::Flush,
            RequestKind::Trim { .. } => Self::Trim,
        }
    }
}

impl ExportLatencies {
    pub(super) fn record(&mut self, work: Work, latency: Duration) {
        match work {
            Work::Read => &mut self.reads,
            Work::Write => &mut self.writes,
            Work::Flush => &mut self.flushes,
            Work::Trim => &mut self.trims,
        }
        .record(latency);
    }
}
