//! What a request needs, found out before it takes its place in the order.
#![forbid(unsafe_code)]

use super::request::{Cause, DiskError, Operation, RequestKind};
use super::slot::Step;
use crate::SECTOR_BYTES;

/// What a request needs, found out before it takes its place.
pub(super) enum Plan {
    Transfer {
        step: Step,
        /// The request's bytes.
        start: u64,
        end: u64,
    },
    Trim {
        entries: u32,
        early: bool,
        /// From the first range's start to the last one's end.
        start: u64,
        end: u64,
    },
    Flush,
    Nothing,
    Refuse(DiskError),
}

impl Plan {
    pub(super) fn new(kind: RequestKind, data: &[u8]) -> Self {
        match kind {
            RequestKind::Read { sectors: 0, .. } | RequestKind::Write { sectors: 0, .. } => {
                Self::Nothing
            }
            RequestKind::Read { lba, sectors } => Self::transfer(Step::Read, lba, sectors, data),
            RequestKind::Write {
                lba,
                sectors,
                early,
            } => {
                let step = if early { Step::Absorb } else { Step::Write };
                Self::transfer(step, lba, sectors, data)
            }
            RequestKind::Flush => Self::Flush,
            RequestKind::Trim { blocks, early } => Self::trim(blocks, early, data),
        }
    }

    fn transfer(step: Step, lba: u64, sectors: u32, data: &[u8]) -> Self {
        let len = u64::from(sectors) * SECTOR_BYTES;
        let start = lba.checked_mul(SECTOR_BYTES);
        let end = start.and_then(|start| start.checked_add(len));
        match (start, end) {
            (Some(start), Some(end)) if len <= data.len() as u64 && end <= LAST_BYTE => {
                Self::Transfer { step, start, end }
            }
            _ => Self::Refuse(DiskError {
                operation: step.operation(),
                lba,
                sectors,
                cause: Cause::Malformed,
            }),
        }
    }

    /// A trim holds one place in the order, from its first range to its last: trims are rare, and
    /// what lies between its ranges waits no longer than they take.
    fn trim(blocks: u32, early: bool, data: &[u8]) -> Self {
        let entries = blocks.checked_mul(TRIM_ENTRIES);
        let len = entries.and_then(|entries| (entries as usize).checked_mul(size_of::<u64>()));
        let (Some(entries), Some(data)) = (entries, len.and_then(|len| data.get(..len))) else {
            return Self::Refuse(DiskError {
                operation: Operation::Trim,
                lba: 0,
                sectors: 0,
                cause: Cause::Malformed,
            });
        };
        let mut all: Option<(u64, u64)> = None;
        for range in (0..entries).filter_map(|entry| trim_range(data, entry)) {
            let (start, end) = (range.start, range.start + range.len);
            all = Some(all.map_or((start, end), |(low, high)| (low.min(start), high.max(end))));
        }
        all.map_or(Self::Nothing, |(start, end)| Self::Trim {
            entries,
            early,
            start,
            end,
        })
    }
}

/// No device has bytes from here on, so that rounding up never overflows.
const LAST_BYTE: u64 = i64::MAX as u64 - (1 << 20);

/// Ranges in one 512-byte block of a trim.
const TRIM_ENTRIES: u32 = 64;

/// A range of a trim, in bytes.
pub(super) struct TrimRange {
    pub(super) start: u64,
    pub(super) len: u64,
}

pub(super) fn trim_range(data: &[u8], entry: u32) -> Option<TrimRange> {
    let at = entry as usize * size_of::<u64>();
    let (bytes, _) = data.get(at..)?.split_first_chunk()?;
    let value = u64::from_le_bytes(*bytes);
    let (lba, sectors) = (value & ((1 << 48) - 1), value >> 48);
    // 48 bits of sectors are 57 bits of bytes: no overflow.
    (sectors > 0).then_some(TrimRange {
        start: lba * SECTOR_BYTES,
        len: sectors * SECTOR_BYTES,
    })
}
