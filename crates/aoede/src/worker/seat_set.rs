//! Some of a worker's seats.

/// Most seats of a worker.
pub const MAX_SEATS: usize = 64;

/// Seats, by number. Numbers from [`MAX_SEATS`] on are in no set.
///
/// ```
/// use aoede::worker::SeatSet;
///
/// let seats: SeatSet = [0, 3].into_iter().collect();
/// assert!(seats.contains(3) && !seats.contains(1) && !seats.contains(64));
/// assert!(seats.iter().eq([0, 3]));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeatSet(u64);

impl SeatSet {
    /// None of them.
    pub const NONE: Self = Self(0);
    /// Those there are and those to come.
    pub const ALL: Self = Self(u64::MAX);

    /// These and one more.
    #[must_use]
    pub fn with(self, seat: usize) -> Self {
        Self(self.0 | bit(seat))
    }

    /// These without one.
    #[must_use]
    pub fn without(self, seat: usize) -> Self {
        Self(self.0 & !bit(seat))
    }

    /// Whether a seat is one of them.
    pub fn contains(self, seat: usize) -> bool {
        self.0 & bit(seat) != 0
    }

    /// Their numbers, upwards.
    pub fn iter(self) -> impl Iterator<Item = usize> {
        (0..MAX_SEATS).filter(move |&seat| self.contains(seat))
    }
}

impl FromIterator<usize> for SeatSet {
    fn from_iter<I: IntoIterator<Item = usize>>(seats: I) -> Self {
        seats.into_iter().fold(Self::NONE, Self::with)
    }
}

fn bit(seat: usize) -> u64 {
    let shift = u32::try_from(seat).ok();
    shift.and_then(|seat| 1_u64.checked_shl(seat)).unwrap_or(0)
}
