//! One operation of the volume: which part of it goes to which file next.
#![forbid(unsafe_code)]

use super::blocks::Blocks;
use super::{BLOCK_BYTES, ShadowFile};
use crate::device::{DeviceOp, Errno, Memory, OpId, OpKind};

/// An operation's place, from its arrival until its completion is polled.
#[derive(Debug)]
pub(super) struct Slot<B> {
    pub(super) id: OpId,
    pub(super) kind: OpKind,
    pub(super) offset_bytes: u64,
    pub(super) len_bytes: u64,
    /// At home between two pieces.
    pub(super) memory: Memory<B>,
    memory_start: usize,
    pub(super) done_bytes: u64,
    piece: Option<Piece>,
    pub(super) stage: Stage,
    /// Blocks of the shadow that are counted for it before it has written them.
    pub(super) reserved_blocks: u64,
    /// A part of it has to be recorded before it is done.
    pub(super) unrecorded: bool,
    /// It was under way when a sync of the data file failed.
    pub(super) suspect: bool,
    pub(super) result: Result<u32, Errno>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    /// Until the phase changes, or a run is merged.
    Held,
    /// A change or read on its way: in the queue for the device, or with it.
    UnderWay,
    /// Written; the map has to say so.
    Recording,
    /// A sync: in its queue, or running.
    Syncing,
    /// In the queue of completions.
    Finished,
}

/// Consecutive bytes of an operation that are in one file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub(super) file: ShadowFile,
    pub(super) start_bytes: u64,
    pub(super) end_bytes: u64,
}

impl Piece {
    pub(super) fn blocks(self) -> Blocks {
        Blocks::touched_by(self.start_bytes, self.end_bytes - self.start_bytes)
    }
}

/// What a piece's completion means.
#[derive(Debug)]
pub(super) enum Advance {
    /// There is more of this piece to do.
    Again,
    PieceDone(Piece),
    Failed(ShadowFile, Errno),
    /// The file ends here: what was read so far is all.
    Ended,
}

impl<B> Slot<B> {
    pub(super) fn empty() -> Self {
        Self {
            id: OpId(0),
            kind: OpKind::Sync,
            offset_bytes: 0,
            len_bytes: 0,
            memory: Memory::None,
            memory_start: 0,
            done_bytes: 0,
            piece: None,
            stage: Stage::Free,
            reserved_blocks: 0,
            unrecorded: false,
            suspect: false,
            result: Ok(0),
        }
    }

    pub(super) fn begin(&mut self, op: DeviceOp<B>) {
        *self = Self {
            id: op.id,
            kind: op.kind,
            offset_bytes: op.offset_bytes,
            len_bytes: op.len_bytes,
            memory: op.memory,
            memory_start: op.memory_start,
            ..Self::empty()
        };
    }

    pub(super) fn is_change(&self) -> bool {
        matches!(self.kind, OpKind::Write { .. } | OpKind::Discard)
    }

    /// A change that the device or the map has not finished.
    pub(super) fn is_changing(&self, blocks: Blocks) -> bool {
        matches!(self.stage, Stage::UnderWay | Stage::Recording)
            && self.is_change()
            && self.blocks().overlaps(blocks)
    }

    pub(super) fn blocks(&self) -> Blocks {
        Blocks::touched_by(self.offset_bytes, self.len_bytes)
    }

    /// Where the next piece starts and the operation ends.
    pub(super) fn rest(&self) -> (u64, u64) {
        let start = self.offset_bytes.saturating_add(self.done_bytes);
        (start, self.offset_bytes.saturating_add(self.len_bytes))
    }

    pub(super) fn has_piece(&self) -> bool {
        self.piece.is_some()
    }

    /// The next operation on a file is the rest of this piece.
    pub(super) fn set_piece(&mut self, file: ShadowFile, end_bytes: u64) {
        self.piece = Some(Piece {
            file,
            start_bytes: self.rest().0,
            end_bytes,
        });
    }

    /// The operation that is due, with the memory.
    pub(super) fn operation(&mut self, id: OpId) -> Option<(ShadowFile, DeviceOp<B>)> {
        let piece = self.piece?;
        let (start, _) = self.rest();
        let op = DeviceOp {
            id,
            kind: self.kind,
            offset_bytes: start,
            len_bytes: piece.end_bytes - start,
            memory: std::mem::replace(&mut self.memory, Memory::None),
            memory_start: self
                .memory_start
                .saturating_add(usize::try_from(self.done_bytes).unwrap_or(usize::MAX)),
        };
        Some((piece.file, op))
    }

    /// Takes the end of the operation that was due.
    pub(super) fn advance(&mut self, result: Result<u32, Errno>) -> Option<(ShadowFile, Advance)> {
        let piece = self.piece?;
        let (start, _) = self.rest();
        let left = piece.end_bytes - start;
        let done = match (result, self.kind) {
            (Err(errno), _) => return Some((piece.file, Advance::Failed(piece.file, errno))),
            (Ok(_), OpKind::Discard) => left,
            (Ok(0), OpKind::Read) => return Some((piece.file, Advance::Ended)),
            (Ok(0), _) => return Some((piece.file, Advance::Failed(piece.file, Errno::IO))),
            (Ok(bytes), _) => u64::from(bytes).min(left),
        };
        self.done_bytes += done;
        if done < left {
            return Some((piece.file, Advance::Again));
        }
        self.piece = None;
        Some((piece.file, Advance::PieceDone(piece)))
    }

    /// Everything from the start.
    pub(super) fn start_again(&mut self) {
        self.done_bytes = 0;
        self.piece = None;
        self.unrecorded = false;
    }

    /// Whether it covers whole blocks, the last of the disk apart.
    pub(super) fn is_whole_blocks(&self, size_bytes: u64) -> bool {
        let (start, end) = (self.offset_bytes, self.rest().1);
        start % BLOCK_BYTES == 0 && (end % BLOCK_BYTES == 0 || end == size_bytes)
    }
}
