//! Time as the caller tells it: nothing here reads a clock, and tests start at zero.

use core::ops::{Add, AddAssign};
use core::time::Duration;

/// A moment, counted from a start that the caller chose and keeps. It never runs backwards.
///
/// ```
/// use aoede_initiator::Instant;
/// use std::time::Duration;
/// let later = Instant::START + Duration::from_millis(20);
/// assert_eq!(later.since(Instant::START), Duration::from_millis(20));
/// assert_eq!(Instant::START.since(later), Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(Duration);

impl Instant {
    /// The caller's start.
    pub const START: Self = Self(Duration::ZERO);

    /// How long ago `earlier` was; zero if it lies ahead.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(later))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, later: Duration) {
        *self = *self + later;
    }
}
