//! One request under way: its next device operation, and what a completion means for it.
#![forbid(unsafe_code)]

use super::plan::trim_range;
use super::request::{Cause, DiskError, Operation, RequestId};
use super::{Durability, MAX_RESUBMITS};
use crate::SECTOR_BYTES;
use crate::device::{DeviceOp, Errno, Memory, OpId, OpKind};

/// One request's place, from its arrival until its answer is polled.
#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) id: RequestId,
    pub(super) stage: Stage,
    pub(super) buffer: Option<B>,
    pub(super) step: Step,
    /// The current operation's range, and how much of it is done.
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    pub(super) done_bytes: u64,
    /// Resubmissions since there was progress.
    pub(super) resubmits: u8,
    pub(super) result: Result<(), DiskError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    /// Behind an earlier request or a sync.
    Waiting,
    /// In the `device` queue.
    Ready,
    /// With the engine.
    InFlight,
    /// In the `done` queue.
    Finished,
}

/// What a request's next operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    Write,
    Flush,
    /// Discards the current range; `next` is the entry after it.
    Discard {
        next: u32,
        entries: u32,
    },
    /// All ranges are discarded: make that durable.
    TrimSync,
}

impl Step {
    pub(super) fn operation(self) -> Operation {
        match self {
            Self::Read => Operation::Read,
            Self::Write => Operation::Write,
            Self::Flush => Operation::Flush,
            Self::Discard { .. } | Self::TrimSync => Operation::Trim,
        }
    }
}

/// What a completion means for its request.
pub(super) enum Advance {
    /// There is more to do.
    Again,
    Finished(Result<(), DiskError>),
}

impl<B: AsRef<[u8]>> Slot<B> {
    pub(super) fn empty() -> Self {
        Self {
            id: RequestId(0),
            stage: Stage::Free,
            buffer: None,
            step: Step::Flush,
            offset_bytes: 0,
            len_bytes: 0,
            done_bytes: 0,
            resubmits: 0,
            result: Ok(()),
        }
    }

    pub(super) fn begin(&mut self, step: Step, offset_bytes: u64, len_bytes: u64) {
        self.step = step;
        self.offset_bytes = offset_bytes;
        self.len_bytes = len_bytes;
        self.done_bytes = 0;
        self.resubmits = 0;
    }

    /// Moves a trim on to its next used entry; false when there is none.
    pub(super) fn next_range(&mut self) -> bool {
        let Step::Discard { next, entries } = self.step else {
            return false;
        };
        let data = self.buffer.as_ref().map_or(&[][..], AsRef::as_ref);
        let mut ranges = (next..entries).map(|entry| (entry, trim_range(data, entry)));
        let Some((entry, range)) = ranges.find_map(|(entry, range)| Some((entry, range?))) else {
            return false;
        };
        self.begin(
            Step::Discard {
                next: entry + 1,
                entries,
            },
            range.start,
            range.len,
        );
        true
    }

    /// The operation that is due, with the buffer if it needs one.
    pub(super) fn operation(&mut self, id: OpId, durability: Durability) -> DeviceOp<B> {
        let durable = durability == Durability::Writethrough;
        let kind = match self.step {
            Step::Read => OpKind::Read,
            Step::Write => OpKind::Write { durable },
            Step::Discard { .. } => OpKind::Discard,
            Step::TrimSync | Step::Flush => OpKind::Sync,
        };
        let memory = match kind {
            OpKind::Read | OpKind::Write { .. } => {
                self.buffer.take().map_or(Memory::None, Memory::One)
            }
            OpKind::Sync | OpKind::Discard => Memory::None,
        };
        DeviceOp {
            id,
            kind,
            offset_bytes: self.offset_bytes + self.done_bytes,
            len_bytes: self.len_bytes - self.done_bytes,
            memory,
            // Fits: the whole request fits the buffer.
            memory_start: usize::try_from(self.done_bytes).unwrap_or(usize::MAX),
        }
    }

    pub(super) fn advance(
        &mut self,
        result: Result<u32, Errno>,
        durability: Durability,
    ) -> Advance {
        let bytes = match result {
            Ok(bytes) => u64::from(bytes),
            Err(Errno::INTR | Errno::AGAIN) if self.resubmits < MAX_RESUBMITS => {
                self.resubmits += 1;
                return Advance::Again;
            }
            Err(errno) => return Advance::Finished(Err(self.error(Cause::Device(errno)))),
        };
        match self.step {
            Step::Read | Step::Write => self.transferred(bytes),
            Step::Discard { .. } => {
                if self.next_range() {
                    return Advance::Again;
                }
                if durability == Durability::Writeback {
                    return Advance::Finished(Ok(()));
                }
                self.begin(Step::TrimSync, self.offset_bytes, 0);
                Advance::Again
            }
            Step::TrimSync | Step::Flush => Advance::Finished(Ok(())),
        }
    }

    fn transferred(&mut self, bytes: u64) -> Advance {
        let left = self.len_bytes - self.done_bytes;
        if bytes >= left {
            return Advance::Finished(Ok(()));
        }
        // Go on at a whole sector, also after a transfer that ended inside one.
        let whole = bytes - bytes % SECTOR_BYTES;
        if whole > 0 {
            self.done_bytes += whole;
            self.resubmits = 0;
            return Advance::Again;
        }
        let cause = match self.step {
            Step::Read => Cause::EndOfFile,
            _ => Cause::NoProgress,
        };
        if bytes == 0 || self.resubmits >= MAX_RESUBMITS {
            return Advance::Finished(Err(self.error(cause)));
        }
        self.resubmits += 1;
        Advance::Again
    }

    pub(super) fn error(&self, cause: Cause) -> DiskError {
        DiskError {
            operation: self.step.operation(),
            lba: (self.offset_bytes + self.done_bytes) / SECTOR_BYTES,
            sectors: u32::try_from((self.len_bytes - self.done_bytes) / SECTOR_BYTES)
                .unwrap_or(u32::MAX),
            cause,
        }
    }
}
