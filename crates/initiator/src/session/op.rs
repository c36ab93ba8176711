//! A request of the caller, and the pieces of it that travel in one frame each.

use core::time::Duration;

use aoede_wire::{Command, TrimRange};

use crate::cache::Covers;
use crate::request::Control;
use crate::{Answer, Error, Instant};

/// Most sectors that one TRIM of one block names: 64 entries of 65535 sectors.
pub(super) const TRIM_SECTORS: u64 = 64 * 65535;

/// What a request is about.
#[derive(Debug)]
pub(super) enum Kind<B> {
    Read(B),
    Write(B),
    Flush,
    /// It was answered: by whom?
    FlushCheck,
    Trim,
    Identify,
    Control(Control),
}

/// A request of the caller.
#[derive(Debug)]
pub(super) struct Op<B> {
    /// Counts upwards.
    pub(super) id: u64,
    pub(super) kind: Kind<B>,
    pub(super) lba: u64,
    pub(super) sectors: u64,
    /// Pieces that are not finished.
    pub(super) pieces: u32,
    /// The first that failed says why.
    pub(super) error: Option<Error>,
    pub(super) answer: Option<Answer>,
    pub(super) submitted: Instant,
    /// When a piece was first sent, or last answered.
    pub(super) progress: Option<Instant>,
    /// A copy of a frame that changes data may arrive when all is over.
    pub(super) copies_astray: bool,
    /// What a flush is about.
    pub(super) covers: Covers,
    /// A change that was under way when a new target was noticed, which may have lost it.
    pub(super) cache_lost: bool,
    /// It only waits to be taken back.
    pub(super) finished: bool,
}

impl<B> Op<B> {
    /// Whether it changes data.
    pub(super) fn changes(&self) -> bool {
        matches!(self.kind, Kind::Write(_) | Kind::Trim)
    }

    /// Whether it may take a disk long.
    pub(super) fn is_slow(&self) -> bool {
        matches!(self.kind, Kind::Flush | Kind::Trim)
    }

    pub(super) fn command(&self) -> Command {
        match &self.kind {
            Kind::Control(control) => control.command,
            _ => Command::Ata,
        }
    }

    /// Most sectors that one frame can be about, when it holds so many of data.
    pub(super) fn most_sectors(&self, payload: u8) -> u64 {
        match self.kind {
            Kind::Read(_) | Kind::Write(_) => payload.into(),
            Kind::Trim => TRIM_SECTORS,
            _ => u64::MAX,
        }
    }
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In one of the queues.
    Queued,
    /// Sent, and waited for.
    Flying {
        path: usize,
        sent: Instant,
        deadline: Instant,
    },
    /// The target asked to come back later.
    Held { until: Instant },
}

/// A part of a request: one frame, or what is still to be cut into frames.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) op: u32,
    /// Sectors of the request before it.
    pub(super) offset: u64,
    pub(super) sectors: u64,
    /// Given when it is first sent, and kept as long as it stays the same request.
    pub(super) tag: Option<u32>,
    pub(super) place: Place,
    /// One bit for each path it was sent on with this tag.
    pub(super) sent_on: u32,
    pub(super) transmissions: u32,
    /// How long it is waited for; longer each time.
    pub(super) patience: Option<Duration>,
    /// It travelled in another read's frame.
    pub(super) entry: bool,
    /// How often the target would not have it.
    pub(super) refusals: u32,
    /// Tries that stayed unanswered while something else was answered.
    pub(super) silences: u32,
}

impl Piece {
    pub(super) fn new(op: u32, offset: u64, sectors: u64) -> Self {
        Self {
            op,
            offset,
            sectors,
            tag: None,
            place: Place::Queued,
            sent_on: 0,
            transmissions: 0,
            patience: None,
            entry: false,
            refusals: 0,
            silences: 0,
        }
    }

    /// Makes it a new request: responses to what was sent so far do not count any more. Whether
    /// something was sent.
    pub(super) fn forget_tag(&mut self) -> bool {
        self.sent_on = 0;
        self.tag.take().is_some()
    }
}

/// The entries of a TRIM block for these sectors, at most [`TRIM_SECTORS`].
pub(super) fn trim_entries(lba: u64, sectors: u64) -> impl Iterator<Item = TrimRange> {
    let end = lba.saturating_add(sectors.min(TRIM_SECTORS));
    let mut next = lba;
    core::iter::from_fn(move || {
        let sectors = u16::try_from(end - next).unwrap_or(u16::MAX);
        let range = TrimRange { lba: next, sectors };
        next += u64::from(sectors);
        (sectors > 0).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trims_are_cut_at_65535_sectors() {
        let ranges: Vec<_> = trim_entries(10, 65536).collect();
        assert_eq!(
            ranges,
            [
                TrimRange {
                    lba: 10,
                    sectors: 65535
                },
                TrimRange {
                    lba: 65545,
                    sectors: 1
                },
            ]
        );
        assert_eq!(trim_entries(0, 0).count(), 0);
        assert_eq!(trim_entries(5, u64::MAX).count(), 64);
    }
}
