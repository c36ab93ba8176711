//! One request under way: its next device operation, and what a completion means for it.
#![forbid(unsafe_code)]

use super::list::NONE;
use super::plan::trim_range;
use super::request::{Cause, DiskError, Operation, RequestId};
use super::{MAX_RESUBMITS, RESUBMITS_AT_ONCE};
use crate::SECTOR_BYTES;
use crate::device::{Errno, OpKind, Part};

/// One request's place, from its arrival until its answer is polled.
#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) id: RequestId,
    pub(super) stage: Stage,
    pub(super) buffer: Option<B>,
    pub(super) step: Step,
    /// The request's bytes.
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) transfer: Transfer,
    /// Pages that stand in for the buffer, where the device cannot take that.
    pub(super) scratch: Vec<Part<B>>,
    /// The write that follows this one on the disk, in one operation with it.
    pub(super) next_member: u32,
    /// Not to be written or synced together with others: that has failed.
    pub(super) alone: bool,
    /// The write is followed by a sync, which others may share, instead of being durable itself.
    pub(super) settles: bool,
    /// A sync has failed while it was with the device: it is to be written again.
    pub(super) suspect: bool,
    /// What the device was given of this change so far.
    pub(super) sent: Sent,
    pub(super) end_moved: EndMoved,
    pub(super) result: Result<(), DiskError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    /// Behind an earlier request or a flush.
    Waiting,
    /// Its turn has come, but it waits for room in the cache.
    Blocked,
    /// In a queue for the device.
    Ready,
    /// With the engine.
    InFlight,
    /// The device has taken it; a sync is to make it stable.
    Settling,
    /// In the `done` queue.
    Finished,
}

/// How much of a change the device knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    Nothing,
    /// A part or all of it, which is to be given to it anew.
    Before,
    /// It is under way, or done.
    Begun,
}

/// What another size of the disk means for a request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndMoved {
    No,
    /// What it has with the device is not whole blocks any more.
    StartOver,
    /// It is for what is beyond the end.
    Gone,
}

/// What a request's next operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Read,
    /// Whole blocks into scratch pages, of which a part is wanted.
    ReadBlocks,
    Write,
    /// Whole blocks into scratch pages, of which a part is to be replaced,
    ModifyRead,
    /// and back to the device.
    ModifyWrite,
    /// Into the cache: no operation of its own.
    Absorb,
    Flush,
    /// Discards the current range; `next` is the entry after it.
    Discard {
        next: u32,
        entries: u32,
        /// May be acknowledged before it is stable.
        early: bool,
    },
}

impl Step {
    pub(super) fn operation(self) -> Operation {
        match self {
            Self::Read | Self::ReadBlocks => Operation::Read,
            Self::Write | Self::ModifyRead | Self::ModifyWrite | Self::Absorb => Operation::Write,
            Self::Flush => Operation::Flush,
            Self::Discard { .. } => Operation::Trim,
        }
    }

    pub(super) fn changes(self) -> bool {
        !matches!(self, Self::Read | Self::ReadBlocks)
    }
}

/// A range on its way to or from the device, in as many pieces as the device likes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Transfer {
    pub(super) start: u64,
    pub(super) len: u64,
    pub(super) done: u64,
    /// Resubmissions since there was progress.
    resubmits: u8,
}

/// What a completion means for its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advance {
    /// The rest of it is to be done.
    Again,
    /// The same, after a pause.
    Later,
    Finished,
    Failed(Cause),
}

impl Transfer {
    pub(super) fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            len: end.saturating_sub(start),
            done: 0,
            resubmits: 0,
        }
    }

    /// The device did something, or did not. What is left goes on at a whole unit.
    pub(super) fn advance(
        &mut self,
        kind: OpKind,
        unit_bytes: u64,
        result: Result<u32, Errno>,
    ) -> Advance {
        let bytes = match result {
            Ok(bytes) => u64::from(bytes),
            Err(Errno::INTR | Errno::AGAIN) if self.resubmits < MAX_RESUBMITS => {
                self.resubmits += 1;
                return if self.resubmits > RESUBMITS_AT_ONCE {
                    Advance::Later
                } else {
                    Advance::Again
                };
            }
            Err(errno) => return Advance::Failed(Cause::Device(errno)),
        };
        if !matches!(kind, OpKind::Read | OpKind::Write { .. }) || bytes >= self.len - self.done {
            return Advance::Finished;
        }
        let whole = bytes - bytes % unit_bytes;
        if whole > 0 {
            self.done += whole;
            self.resubmits = 0;
            return Advance::Again;
        }
        if bytes == 0 || self.resubmits >= MAX_RESUBMITS {
            return Advance::Failed(match kind {
                OpKind::Read => Cause::EndOfFile,
                _ => Cause::NoProgress,
            });
        }
        self.resubmits += 1;
        Advance::Again
    }
}

impl<B: AsRef<[u8]>> Slot<B> {
    pub(super) fn empty() -> Self {
        Self {
            id: RequestId(0),
            stage: Stage::Free,
            buffer: None,
            step: Step::Flush,
            start: 0,
            end: 0,
            transfer: Transfer::default(),
            scratch: Vec::new(),
            next_member: NONE,
            alone: false,
            settles: false,
            suspect: false,
            sent: Sent::Nothing,
            end_moved: EndMoved::No,
            result: Ok(()),
        }
    }

    pub(super) fn begin(&mut self, step: Step, start: u64, end: u64) {
        self.step = step;
        self.transfer = Transfer::new(start, end);
    }

    /// Moves a trim on to its next used entry, of which whole units of `unit_bytes` are discarded;
    /// false when there is none.
    pub(super) fn next_range(&mut self, unit_bytes: u64) -> bool {
        let Step::Discard {
            next,
            entries,
            early,
        } = self.step
        else {
            return false;
        };
        let data = self.buffer.as_ref().map_or(&[][..], AsRef::as_ref);
        let mut ranges = (next..entries).filter_map(|entry| {
            let range = trim_range(data, entry)?;
            let start = range.start.next_multiple_of(unit_bytes);
            let end = range.start + range.len;
            let end = end - end % unit_bytes;
            (start < end).then_some((entry, start, end))
        });
        let Some((entry, start, end)) = ranges.next() else {
            return false;
        };
        let next = entry + 1;
        let step = Step::Discard {
            next,
            entries,
            early,
        };
        self.begin(step, start, end);
        true
    }

    /// What the device is to do for the step.
    pub(super) fn kind(&self) -> OpKind {
        match self.step {
            Step::Read | Step::ReadBlocks | Step::ModifyRead => OpKind::Read,
            Step::Write | Step::ModifyWrite | Step::Absorb => OpKind::Write {
                durable: !self.settles,
            },
            Step::Discard { .. } => OpKind::Discard,
            Step::Flush => OpKind::Sync,
        }
    }

    pub(super) fn error(&self, cause: Cause) -> DiskError {
        error_at(self.step.operation(), &self.transfer, cause)
    }
}

/// What is left of a transfer has failed.
pub(super) fn error_at(operation: Operation, transfer: &Transfer, cause: Cause) -> DiskError {
    DiskError {
        operation,
        lba: (transfer.start + transfer.done) / SECTOR_BYTES,
        sectors: u32::try_from((transfer.len - transfer.done) / SECTOR_BYTES).unwrap_or(u32::MAX),
        cause,
    }
}
