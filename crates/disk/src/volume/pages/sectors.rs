//! Ranges of bytes as pages, and as bits for the sectors of each.
#![forbid(unsafe_code)]

use super::{ALL, PAGE, SECTOR};
use crate::SECTOR_BYTES;

/// The part of a request that lies in one page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) number: u64,
    /// In the page.
    pub(super) start: usize,
    pub(super) len: usize,
    /// In the request.
    pub(super) at: usize,
}

impl Piece {
    pub(super) fn mask(self) -> u8 {
        mask(self.start / SECTOR, (self.start + self.len) / SECTOR)
    }
}

/// The pages of a range, with the part of each that is in it.
pub(super) fn pieces(start: u64, end: u64) -> impl Iterator<Item = Piece> {
    let mut next = start;
    std::iter::from_fn(move || {
        if next >= end {
            return None;
        }
        let number = next / PAGE;
        let stop = end.min((number + 1) * PAGE);
        let piece = Piece {
            number,
            // All of these are inside a page, or inside a request's buffer.
            start: usize::try_from(next % PAGE).unwrap_or(0),
            len: usize::try_from(stop - next).unwrap_or(0),
            at: usize::try_from(next - start).unwrap_or(usize::MAX),
        };
        next = stop;
        Some(piece)
    })
}

/// The bits of sectors `from` to `to`, without the latter.
pub(super) fn mask(from: usize, to: usize) -> u8 {
    byte_of(
        u32::try_from(from).unwrap_or(8),
        u32::try_from(to).unwrap_or(8),
    )
}

pub(super) fn byte_of(from: u32, to: u32) -> u8 {
    let below = |bit: u32| (1_u16 << bit.min(8)) - 1;
    let bits = below(to) & !below(from);
    u8::try_from(bits).unwrap_or(ALL)
}

/// The bits of the sectors that a byte range inside a page touches.
pub(super) fn byte_mask(from: u64, to: u64) -> u8 {
    let sector = |bytes: u64| u32::try_from(bytes / SECTOR_BYTES).unwrap_or(8);
    byte_of(sector(from), sector(to))
}

/// The sectors of a page that the device has.
pub(super) fn sectors_of(number: u64, device_bytes: u64) -> u8 {
    let len = device_bytes.saturating_sub(number * PAGE).min(PAGE);
    byte_mask(0, len)
}
