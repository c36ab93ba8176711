//! Latencies in constant memory: a log-linear array, exact below 128 ns, within 1.6 % above.
#![forbid(unsafe_code)]

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets in each power of two.
const SUB_BUCKETS: u64 = 1 << SUB_BITS;
const SUB_BITS: u32 = 6;
/// Enough for every `u64`: the lowest powers share one linear part.
const BUCKETS: usize = ((u64::BITS - SUB_BITS + 1) << SUB_BITS) as usize;

/// Durations, counted by size. Never allocates after [`Histogram::new`].
///
/// ```
/// use aoede_histogram::Histogram;
/// use std::time::Duration;
///
/// let mut histogram = Histogram::new();
/// for micros in [10, 11, 90] {
///     histogram.record(Duration::from_micros(micros));
/// }
/// assert_eq!(histogram.count(), 3);
/// assert!(histogram.quantile(0.5) < Duration::from_micros(12));
/// ```
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64]>,
    count: u64,
    sum_nanos: u128,
    min_nanos: u64,
    max_nanos: u64,
}

impl Histogram {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            sum_nanos: 0,
            min_nanos: u64::MAX,
            max_nanos: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.sum_nanos = 0;
        self.min_nanos = u64::MAX;
        self.max_nanos = 0;
    }

    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(bucket) = self.buckets.get_mut(bucket_of(nanos)) {
            *bucket += 1;
        }
        self.count += 1;
        self.sum_nanos += u128::from(nanos);
        self.min_nanos = self.min_nanos.min(nanos);
        self.max_nanos = self.max_nanos.max(nanos);
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// All durations together.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(u64::try_from(self.sum_nanos).unwrap_or(u64::MAX))
    }

    /// How many durations fell into each bucket that has any: its lowest nanoseconds, and the
    /// number. In order.
    pub fn occupied(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let counts = (0..).zip(self.buckets.iter().copied());
        let occupied = counts.filter(|&(_, count)| count > 0);
        occupied.map(|(index, count)| (lowest_of(index).0, count))
    }

    /// The duration that this share of all (`0.5` is the median) stayed within: the middle of its
    /// bucket. Zero if nothing was counted.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank; rounding is its nature"
        )]
        let rank = (share.clamp(0.0, 1.0) * self.count as f64).ceil() as u64;
        let rank = rank.clamp(1, self.count.max(1));
        let mut seen = 0;
        for (index, bucket) in (0..).zip(&self.buckets) {
            seen += bucket;
            if seen >= rank {
                let middle = middle_of(index).clamp(self.min_nanos, self.max_nanos);
                return Duration::from_nanos(middle);
            }
        }
        Duration::ZERO
    }

    /// The figures people read.
    pub fn latencies(&self) -> Latencies {
        let micros = |duration: Duration| duration.as_secs_f64() * 1e6;
        let mean = self.sum_nanos.checked_div(self.count.into()).unwrap_or(0);
        let mean = Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX));
        Latencies {
            min_us: micros(self.quantile(0.0)),
            mean_us: micros(mean),
            p50_us: micros(self.quantile(0.5)),
            p90_us: micros(self.quantile(0.9)),
            p99_us: micros(self.quantile(0.99)),
            p999_us: micros(self.quantile(0.999)),
            max_us: micros(Duration::from_nanos(self.max_nanos)),
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// A histogram's figures, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Latencies {
    pub min_us: f64,
    pub mean_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p999_us: f64,
    pub max_us: f64,
}

/// The bucket of a value: the highest bits, and how far they were shifted down.
fn bucket_of(nanos: u64) -> usize {
    let shift = (u64::BITS - nanos.leading_zeros()).saturating_sub(SUB_BITS + 1);
    let index = u64::from(shift) * SUB_BUCKETS + (nanos >> shift);
    usize::try_from(index).unwrap_or(BUCKETS - 1)
}

/// The middle of the values that fall into a bucket.
fn middle_of(index: u64) -> u64 {
    let (lowest, shift) = lowest_of(index);
    lowest + ((1 << shift) >> 1)
}

/// The lowest of them, and how many there are, as a power of two.
fn lowest_of(index: u64) -> (u64, u64) {
    let shift = (index / SUB_BUCKETS).saturating_sub(1);
    ((index - shift * SUB_BUCKETS) << shift, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(values: impl IntoIterator<Item = u64>) -> Histogram {
        let mut histogram = Histogram::new();
        for value in values {
            histogram.record(Duration::from_nanos(value));
        }
        histogram
    }

    #[test]
    fn small_values_are_exact() {
        for value in 0..128 {
            assert_eq!(middle_of(bucket_of(value) as u64), value);
        }
        let histogram = nanos(1..=100);
        assert_eq!(histogram.quantile(0.5).as_nanos(), 50);
        assert_eq!(histogram.quantile(0.99).as_nanos(), 99);
        assert_eq!(histogram.quantile(1.0).as_nanos(), 100);
        assert_eq!(histogram.quantile(0.0).as_nanos(), 1);
    }

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        assert_eq!(bucket_of(127), 127);
        assert_eq!((bucket_of(128), bucket_of(129)), (128, 128));
        assert_eq!((bucket_of(255), bucket_of(256)), (191, 192));
        assert_eq!((bucket_of(259), bucket_of(260)), (192, 193));
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        let mut last = 0;
        for value in 0..1 << 16 {
            let bucket = bucket_of(value);
            assert!(bucket == last || bucket == last + 1, "{value}");
            last = bucket;
        }
    }

    #[test]
    fn occupied_buckets_tell_where_they_begin() {
        let histogram = nanos([5, 129, 128, 259, 1 << 40]);
        let occupied: Vec<_> = histogram.occupied().collect();
        assert_eq!(occupied, [(5, 1), (128, 2), (256, 1), (1 << 40, 1)]);
        assert_eq!(histogram.sum().as_nanos(), 521 + (1 << 40));
    }

    #[test]
    fn large_values_are_off_by_less_than_a_64th() {
        for value in [130, 1000, 58_123, 1_600_000, 2_000_000_007, u64::MAX] {
            let middle = middle_of(bucket_of(value) as u64);
            assert!(middle.abs_diff(value) <= value / 64, "{value}: {middle}");
        }
    }

    #[test]
    fn the_figures_of_a_known_distribution() {
        // 90 of 10 us, 9 of 100 us, one of 5 ms.
        let values = [(90, 10_000), (9, 100_000), (1, 5_000_000)];
        let histogram = nanos(
            values
                .iter()
                .flat_map(|&(count, value)| std::iter::repeat_n(value, count)),
        );
        let Latencies {
            min_us,
            mean_us,
            p50_us,
            p90_us,
            p99_us,
            p999_us,
            max_us,
        } = histogram.latencies();
        for (got, wanted) in [
            (min_us, 10.0),
            (mean_us, 68.0),
            (p50_us, 10.0),
            (p90_us, 10.0),
            (p99_us, 100.0),
            (p999_us, 5000.0),
            (max_us, 5000.0),
        ] {
            assert!((got / wanted - 1.0).abs() < 0.016, "{got} {wanted}");
        }
    }

    #[test]
    fn nothing_is_zero_and_cleared_is_nothing() {
        let mut histogram = nanos([7, 8]);
        histogram.clear();
        assert_eq!(histogram.count(), 0);
        assert_eq!(histogram.latencies(), Latencies::default());
        histogram.record(Duration::MAX);
        assert_eq!(histogram.quantile(0.5), Duration::from_nanos(u64::MAX));
    }
}
