//! Limits in units a second: what may begin now, and when the next may.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::control::config::Limits;

/// What an export that was idle may do at once: as much as its limit allows in this time. A turn
/// that comes later than this after it was due loses a part of the limit.
pub const BURST: Duration = Duration::from_millis(20);

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// A token bucket that may be overdrawn: what begins is charged in full, and the next waits until
/// that is paid for. So frames of any size pass, and in the long run the rate is exact.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_second: NonZeroU64,
    /// When everything charged so far is paid for.
    level_at: Duration,
    /// What is left of a nanosecond: in units of one nanosecond divided by the rate.
    rest: u64,
}

impl Bucket {
    /// A full bucket.
    pub fn new(per_second: NonZeroU64) -> Self {
        Self {
            per_second,
            level_at: Duration::ZERO,
            rest: 0,
        }
    }

    /// When the next may begin; any time in the past means now.
    pub fn due(&self) -> Duration {
        self.level_at
    }

    /// Charges what begins now.
    pub fn take(&mut self, now: Duration, units: u64) {
        let earliest = now.saturating_sub(BURST);
        if self.level_at < earliest {
            (self.level_at, self.rest) = (earliest, 0);
        }
        let rate = u128::from(self.per_second.get());
        let price = u128::from(units) * NANOS_PER_SECOND + u128::from(self.rest);
        let nanos = u64::try_from(price / rate).unwrap_or(u64::MAX);
        // Less than the rate, which is 64 bits.
        self.rest = u64::try_from(price % rate).unwrap_or(0);
        self.level_at = self.level_at.saturating_add(Duration::from_nanos(nanos));
    }
}

/// The limits of one export.
#[derive(Clone, Copy, Debug, Default)]
pub struct Throttle {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Throttle {
    /// With nothing charged yet. A limit of nothing is none.
    pub fn new(limits: Limits) -> Self {
        let bucket = |rate| NonZeroU64::new(rate).map(Bucket::new);
        Self {
            bytes: limits.bytes_per_second.and_then(|size| bucket(size.0)),
            operations: limits
                .operations_per_second
                .and_then(|operations| bucket(operations.into())),
        }
    }

    /// Whether there is any limit.
    pub fn is_limited(&self) -> bool {
        self.bytes.is_some() || self.operations.is_some()
    }

    /// When the next request may begin.
    pub fn due(&self) -> Duration {
        let buckets = self.bytes.iter().chain(&self.operations);
        buckets.map(Bucket::due).max().unwrap_or_default()
    }

    /// Charges a request with this much data, which begins now.
    pub fn take(&mut self, now: Duration, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.take(now, bytes);
        }
        if let Some(bucket) = &mut self.operations {
            bucket.take(now, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::size::Size;
    use proptest::prelude::*;

    fn limits(bytes: Option<u64>, operations: Option<u32>) -> Throttle {
        Throttle::new(Limits {
            bytes_per_second: bytes.map(Size),
            operations_per_second: operations,
        })
    }

    #[test]
    fn without_a_limit_everything_may_begin() {
        let mut none = limits(None, None);
        assert!(!none.is_limited());
        for _ in 0..1000 {
            none.take(Duration::ZERO, 1 << 40);
        }
        assert_eq!(none.due(), Duration::ZERO);
    }

    /// 8192 bytes at 1 MiB a second are worth 7.8125 ms.
    #[test]
    fn what_was_charged_must_be_paid_for_before_the_next() {
        let mut limit = limits(Some(1 << 20), None);
        let now = Duration::from_secs(5);
        limit.take(now, 8192);
        // 20 ms had been saved.
        assert_eq!(limit.due() + BURST, now + Duration::from_nanos(7_812_500));
        limit.take(now, 8192);
        limit.take(now, 8192);
        assert_eq!(limit.due(), now + Duration::from_nanos(3_437_500));
    }

    #[test]
    fn the_stricter_of_two_limits_holds() {
        let mut limit = limits(Some(1_000_000), Some(10));
        let now = Duration::from_secs(1);
        limit.take(now, 1000);
        assert_eq!(limit.due() + BURST, now + Duration::from_millis(100));
        let mut limit = limits(Some(1000), Some(10));
        limit.take(now, 1000);
        assert_eq!(limit.due() + BURST, now + Duration::from_secs(1));
    }

    /// A third of a second is no whole number of nanoseconds.
    #[test]
    fn parts_of_nanoseconds_are_not_lost() {
        let mut limit = limits(None, Some(3));
        let start = Duration::from_secs(1);
        limit.take(start, 0);
        for _ in 0..2_999_999 {
            limit.take(limit.due(), 0);
        }
        assert_eq!(limit.due() + BURST, start + Duration::from_secs(1_000_000));
    }

    proptest! {
        /// Whenever turns come, as much begins as the rate allows in the time since the start and
        /// the burst, and one request more at the most. While there is always work and turns come
        /// often enough, no less than the rate allows.
        #[test]
        fn no_sequence_of_turns_beats_the_rate(
            rate in 8_u64..10_000_000,
            sizes in prop::collection::vec(1_u64..200_000, 1..20),
            pauses in prop::collection::vec(1_u64..60_000, 1..300),
        ) {
            let mut bucket = Bucket::new(NonZeroU64::new(rate).unwrap());
            let start = Duration::from_secs(1);
            let mut sizes = sizes.iter().copied().cycle();
            let (mut now, mut taken, mut last) = (start, 0_u64, 0);
            let mut worth = BURST;
            let mut is_busy = true;
            for pause in pauses {
                while bucket.due() <= now {
                    last = sizes.next().unwrap();
                    bucket.take(now, last);
                    taken += last;
                }
                let allowed = u128::from(rate) * worth.as_nanos() / NANOS_PER_SECOND;
                prop_assert!(u128::from(taken) <= allowed + u128::from(last) + 1);
                if is_busy {
                    prop_assert!(u128::from(taken) >= allowed);
                }
                is_busy &= Duration::from_micros(pause) <= BURST;
                now += Duration::from_micros(pause);
                worth += Duration::from_micros(pause);
            }
        }
    }
}
