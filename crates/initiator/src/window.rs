//! How long to wait for a response, and how many requests to have under way (§15, 5).

use core::time::Duration;

use crate::Instant;

/// Least patience for a read or write: below it lies the noise of busy hosts.
const TIMEOUT_FLOOR: Duration = Duration::from_millis(20);
/// Patience before anything was measured.
const TIMEOUT_START: Duration = Duration::from_secs(1);
/// Most patience for a read or write.
pub(crate) const TIMEOUT_CEILING: Duration = Duration::from_secs(10);
/// Requests under way at first, where the target allows it.
const START: u32 = 8;

/// Round trips as they were measured, by the estimator of RFC 6298.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RoundTrip {
    average: Option<Duration>,
    deviation: Duration,
}

impl RoundTrip {
    /// Adds a round trip of a request that was sent once: of a repeated one nobody knows which copy
    /// was answered.
    pub(crate) fn sample(&mut self, took: Duration) {
        let Some(average) = self.average else {
            self.average = Some(took);
            self.deviation = took / 2;
            return;
        };
        let off = took.abs_diff(average);
        self.deviation = self.deviation * 3 / 4 + off / 4;
        self.average = Some(average * 7 / 8 + took / 8);
    }

    /// How long to wait for the response to a read or write that was sent once.
    pub(crate) fn timeout(&self) -> Duration {
        match self.average {
            None => TIMEOUT_START,
            Some(average) => (average + 4 * self.deviation).clamp(TIMEOUT_FLOOR, TIMEOUT_CEILING),
        }
    }

    /// The average; zero before the first sample.
    pub(crate) fn average(&self) -> Duration {
        self.average.unwrap_or_default()
    }
}

/// Most requests under way on one path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    size: u32,
    /// Below it the window grows by one for each response, above it by one for each window full.
    threshold: u32,
    /// Responses since the last growth above the threshold.
    credit: u32,
    /// What the target and the caller allow.
    most: u32,
    /// What a measurement found (§10).
    ceiling: u32,
    /// Losses before this count as one.
    halved_until: Instant,
}

impl Window {
    /// A window that never exceeds `most`.
    pub(crate) fn new(most: u32) -> Self {
        let most = most.max(1);
        Self {
            size: START.min(most),
            threshold: most,
            credit: 0,
            most,
            ceiling: u32::MAX,
            halved_until: Instant::START,
        }
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// The target's buffer count, or the caller's wish, has changed.
    pub(crate) fn set_most(&mut self, most: u32) {
        self.most = most.max(1);
        self.size = self.size.min(self.limit());
        self.threshold = self.threshold.max(self.size);
    }

    /// Starts anew from a measurement in which this many requests were answered: three quarters of
    /// them are the ceiling, but two are always allowed (§10).
    pub(crate) fn seed(&mut self, answered: u32) {
        self.ceiling = (answered.saturating_mul(3) / 4).max(2);
        self.threshold = self.limit();
        self.size = self.limit().div_ceil(2);
        self.credit = 0;
    }

    /// A response came.
    pub(crate) fn answered(&mut self) {
        self.credit += 1;
        if self.size < self.threshold || self.credit >= self.size {
            self.credit = 0;
            self.size = (self.size + 1).min(self.limit());
        }
    }

    /// A request was lost. However many were lost at once, the window halves once a round trip.
    pub(crate) fn lost(&mut self, now: Instant, round_trip: &RoundTrip) {
        if now < self.halved_until {
            return;
        }
        self.halved_until = now + round_trip.average().max(Duration::from_millis(1));
        self.size = (self.size / 2).max(1);
        self.threshold = self.size.max(2);
        self.credit = 0;
    }

    fn limit(&self) -> u32 {
        self.most.min(self.ceiling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn rule_5_patience_follows_the_round_trips() {
        let mut trips = RoundTrip::default();
        assert_eq!(trips.timeout(), ms(1000));
        // RFC 6298: the first sample is the average, half of it the deviation.
        trips.sample(ms(100));
        assert_eq!(trips.timeout(), ms(300));
        // 3/4 of 50 ms is 37.5 ms; 7/8 of 100 ms and 1/8 of 100 ms.
        trips.sample(ms(100));
        assert_eq!(trips.timeout(), ms(100 + 4 * 75 / 2));
        for _ in 0..100 {
            trips.sample(Duration::from_micros(50));
        }
        assert_eq!(trips.timeout(), ms(20));
        for _ in 0..100 {
            trips.sample(Duration::from_secs(60));
        }
        assert_eq!(trips.timeout(), Duration::from_secs(10));
    }

    #[test]
    fn rule_5_the_window_starts_small_and_grows_to_the_buffer_count() {
        let mut window = Window::new(16);
        assert_eq!(window.size(), 8);
        for _ in 0..8 {
            window.answered();
        }
        assert_eq!(window.size(), 16);
        for _ in 0..100 {
            window.answered();
        }
        assert_eq!(window.size(), 16);
        window.set_most(4);
        assert_eq!(window.size(), 4);
        assert_eq!(Window::new(2).size(), 2);
    }

    #[test]
    fn rule_5_the_window_halves_once_a_round_trip_and_grows_slowly_afterwards() {
        let mut trips = RoundTrip::default();
        trips.sample(ms(10));
        let mut window = Window::new(64);
        for _ in 0..56 {
            window.answered();
        }
        assert_eq!(window.size(), 64);
        let now = Instant::START + ms(500);
        window.lost(now, &trips);
        window.lost(now + ms(9), &trips);
        assert_eq!(window.size(), 32);
        // Above the threshold a whole window of responses makes it one larger.
        for _ in 0..31 {
            window.answered();
        }
        assert_eq!(window.size(), 32);
        window.answered();
        assert_eq!(window.size(), 33);
        window.lost(now + ms(10), &trips);
        assert_eq!(window.size(), 16);
        for second in 1..20 {
            window.lost(now + Duration::from_secs(second), &trips);
        }
        assert_eq!(window.size(), 1);
    }

    /// §10: three quarters of what was answered, two at least, never over the buffer count.
    #[test]
    fn a_measurement_seeds_the_window() {
        for (answered, most, at_first, at_last) in [
            (40, 64, 15, 30),
            (232, 64, 32, 64),
            (0, 64, 1, 2),
            (1, 64, 1, 2),
        ] {
            let mut window = Window::new(most);
            window.seed(answered);
            assert_eq!(window.size(), at_first, "{answered}");
            for _ in 0..1000 {
                window.answered();
            }
            assert_eq!(window.size(), at_last, "{answered}");
        }
    }
}
