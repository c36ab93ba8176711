//! When acknowledged data is written: bounds by bytes and age, and what a failure leads to.
//!
//! Whoever acknowledges a write early promises two things: that no more than so many bytes are at
//! risk, and none for longer than so long. Data is at risk until a sync has covered it, so both
//! bounds are watched from the acknowledgement to the end of the sync, and a flush begins at half
//! of either.
#![forbid(unsafe_code)]

use std::time::Duration;

/// How long a page that the device refuses is tried again before the volume is latched: long enough
/// for a path that changes over, short enough for an initiator that waits for a flush.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long to wait before the second attempt; twice as long before each later one, while none
/// of those refused is written.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause is this many times doubled.
const MOST_DOUBLED: u8 = 5;
/// With so many pages refused, nothing more is written until they are tried again.
const MOST_FAILED: usize = 16;

/// The bounds, and how the device's failures are going.
#[derive(Debug)]
pub(super) struct WriteBehind {
    most_bytes: u64,
    most_age: Duration,
    /// Pauses since a page that was refused has been written.
    pauses: u8,
    retry_at: Option<Duration>,
}

/// What follows from a failed write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    TryAgain,
    /// It has been tried often enough.
    GiveUp,
}

impl WriteBehind {
    pub(super) fn new(most_bytes: u64, most_age: Duration) -> Self {
        Self {
            most_bytes,
            most_age,
            pauses: 0,
            retry_at: None,
        }
    }

    /// Whether `bytes` more may be acknowledged, with so many at risk already. One request is
    /// always admitted to an empty cache.
    pub(super) fn admits(&self, at_risk: u64, bytes: u64) -> bool {
        at_risk == 0 || at_risk + bytes <= self.most_bytes
    }

    /// Whether a flush is due with so many bytes at risk, the oldest since then.
    pub(super) fn is_flush_due(
        &self,
        at_risk: u64,
        oldest: Option<Duration>,
        now: Duration,
    ) -> bool {
        let old = self.deadline(oldest).is_some_and(|due| due <= now);
        old || at_risk > 0 && at_risk >= self.most_bytes / 2
    }

    /// When a flush is due for the sake of data that is at risk since then.
    pub(super) fn deadline(&self, oldest: Option<Duration>) -> Option<Duration> {
        Some(oldest? + self.most_age / 2)
    }

    /// Whether so much dirty data is worth writing, though nobody waits for it.
    pub(super) fn is_worth_writing(&self, dirty_bytes: u64) -> bool {
        dirty_bytes > self.most_bytes / 4
    }

    /// Whether the device may be given more, with so many pages refused.
    pub(super) fn may_write(failed_pages: usize) -> bool {
        failed_pages < MOST_FAILED
    }

    /// A page was refused, as it has been since then.
    pub(super) fn failed(&mut self, now: Duration, since: Duration) -> Failure {
        // However well others fare meanwhile.
        if now >= since + PATIENCE {
            return Failure::GiveUp;
        }
        if self.retry_at.is_none() {
            let pause = FIRST_PAUSE * (1 << self.pauses.min(MOST_DOUBLED));
            self.pauses = self.pauses.saturating_add(1);
            self.retry_at = Some(now + pause);
        }
        Failure::TryAgain
    }

    /// A page that was refused has been written.
    pub(super) fn recovered(&mut self) {
        self.pauses = 0;
    }

    /// Whether refused pages are to be tried again now.
    pub(super) fn take_retry(&mut self, now: Duration) -> bool {
        self.retry_at.take_if(|due| *due <= now).is_some()
    }

    /// When they are.
    pub(super) fn retry_at(&self) -> Option<Duration> {
        self.retry_at
    }

    /// An operator wants it tried from the beginning.
    pub(super) fn start_over(&mut self) {
        self.pauses = 0;
        self.retry_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flush_begins_at_half_of_either_bound() {
        let bounds = WriteBehind::new(1000, SECOND);
        let now = Duration::from_secs(10);
        assert!(!bounds.is_flush_due(0, None, now));
        assert!(!bounds.is_flush_due(499, Some(now), now));
        assert!(bounds.is_flush_due(500, Some(now), now));
        assert!(!bounds.is_flush_due(
            1,
            Some(now),
            now + SECOND.saturating_sub(Duration::from_nanos(1)) / 2
        ));
        assert!(bounds.is_flush_due(1, Some(now), now + SECOND / 2));
        assert!(bounds.admits(500, 500) && !bounds.admits(500, 501) && bounds.admits(0, 2000));
    }

    #[test]
    fn refused_pages_are_tried_for_three_seconds() {
        let mut bounds = WriteBehind::new(1000, SECOND);
        let mut now = SECOND;
        let mut pauses = Vec::new();
        while bounds.failed(now, SECOND) == Failure::TryAgain {
            assert_eq!(bounds.failed(now, now), Failure::TryAgain, "the same round");
            let due = bounds.retry_at().unwrap();
            assert!(!bounds.take_retry(due.saturating_sub(Duration::from_nanos(1))));
            assert!(bounds.take_retry(due));
            pauses.push(due.saturating_sub(now).as_millis());
            now = due;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600]);
        assert_eq!(bounds.failed(now, now), Failure::TryAgain, "another page");
        assert_eq!(bounds.retry_at(), Some(now + 32 * FIRST_PAUSE));
        bounds.start_over();
        assert_eq!(bounds.failed(now, now), Failure::TryAgain);
        assert_eq!(bounds.retry_at(), Some(now + FIRST_PAUSE));
    }
}
