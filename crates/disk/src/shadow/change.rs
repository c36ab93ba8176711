//! Reads, writes and discards: which file each part goes to, and what its end means.
#![forbid(unsafe_code)]

#[cfg(test)]
use super::Planted;
use super::blocks::Blocks;
use super::slot::{Advance, Piece, Slot, Stage};
use super::status::ShadowEvent;
use super::{BLOCK_BYTES, Phase, Shadow, ShadowFile, WhenFull, transferred};
use crate::device::{Completion, Errno, OpKind};

/// Whether a change may begin.
enum Admission {
    /// It will use so many blocks more.
    Granted(u64),
    Held,
    Refused(Errno),
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Shadow<B> {
    /// Lets a change begin, holds it, or refuses it.
    pub(super) fn admit(&mut self, index: u32) {
        let admission = self.judge(index);
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        match admission {
            Admission::Granted(blocks) => {
                slot.stage = Stage::UnderWay;
                slot.reserved_blocks = blocks;
                self.reserved_blocks += blocks;
                self.changing += 1;
                self.ready.push_back(index);
            }
            Admission::Held => {
                slot.stage = Stage::Held;
                self.held.push_back(index);
            }
            Admission::Refused(errno) => self.answer(index, Err(errno)),
        }
    }

    fn judge(&mut self, index: u32) -> Admission {
        let Some(slot) = self.slots.get(index as usize) else {
            return Admission::Held;
        };
        match self.phase {
            Phase::Thawed | Phase::Merged => return Admission::Granted(0),
            Phase::Freezing | Phase::Settling | Phase::Releasing => return Admission::Held,
            Phase::Frozen | Phase::Merging | Phase::Stopped => {}
        }
        let inside = slot.rest().1 <= self.size_bytes;
        if !inside || !slot.is_whole_blocks(self.size_bytes) {
            return Admission::Refused(Errno::INVAL);
        }
        let (blocks, discard) = (slot.blocks(), slot.kind == OpKind::Discard);
        if self.phase != Phase::Frozen {
            if self.journal.is_suspect(blocks) {
                // To record it would be wrong as soon as it is merged, so that has to come first.
                return if self.phase == Phase::Merging {
                    Admission::Held
                } else {
                    Admission::Refused(Errno::IO)
                };
            }
            let held = self.merge.holds(blocks);
            #[cfg(test)]
            let held = held && self.planted != Some(Planted::WriteAmidMerge);
            return if held {
                Admission::Held
            } else {
                Admission::Granted(0)
            };
        }
        let clean = blocks.count() - self.dirty.count(blocks);
        if clean > 0 && self.journal.is_full() {
            return Admission::Refused(Errno::IO);
        }
        if clean > 0 && !self.journal.has_room(self.changing) {
            self.room_wanted = true;
            return Admission::Held;
        }
        if discard {
            return Admission::Granted(0);
        }
        let more = blocks.count() - self.dirty.count_without(blocks, &self.holes);
        let used = self.used_blocks + self.reserved_blocks;
        if more == 0 || used.saturating_add(more) <= self.limit_blocks {
            return Admission::Granted(more);
        }
        if self.thaws_when_full() {
            self.start_thaw(true);
            return Admission::Held;
        }
        self.tell_full();
        Admission::Refused(Errno::NOSPC)
    }

    /// The file that the next bytes of an operation are in, and where they end.
    pub(super) fn next_piece(&self, slot: &Slot<B>) -> (ShadowFile, u64) {
        let (start, end) = slot.rest();
        let to_shadow = matches!(self.phase, Phase::Frozen | Phase::Settling);
        #[cfg(test)]
        match self.planted {
            Some(Planted::WriteToImage) if slot.is_change() => return (ShadowFile::Image, end),
            Some(Planted::ReadFromImage) if !slot.is_change() => return (ShadowFile::Image, end),
            _ => {}
        }
        if slot.is_change() && to_shadow {
            return (ShadowFile::Data, end);
        }
        if self.dirty_blocks == 0 {
            return (ShadowFile::Image, end);
        }
        let blocks = Blocks::touched_by(start, end - start);
        let dirty = self.dirty.get(blocks.first);
        let other = self.dirty.find(blocks, !dirty);
        let file = if dirty {
            ShadowFile::Data
        } else {
            ShadowFile::Image
        };
        (file, other.map_or(end, |block| block * BLOCK_BYTES))
    }

    /// A read, write or discard of a file has ended.
    pub(super) fn handle_slot(&mut self, done: Completion<B>) {
        let index = done.id.0;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            debug_assert!(false, "completion of an operation that was never given out");
            return;
        };
        if slot.stage != Stage::UnderWay || !slot.has_piece() {
            debug_assert!(false, "completion of an operation that is not in flight");
            return;
        }
        slot.memory = done.memory;
        let Some((file, advance)) = slot.advance(done.result) else {
            return;
        };
        if !matches!(advance, Advance::Again) {
            self.in_data -= usize::from(file == ShadowFile::Data);
        }
        match advance {
            Advance::Again => self.ready.push_back(index),
            Advance::PieceDone(piece) => {
                self.piece_done(index, piece);
                self.go_on(index);
            }
            Advance::Ended => {
                let read = self.slots.get(index as usize).map_or(0, transferred);
                self.answer(index, Ok(read));
            }
            Advance::Failed(file, errno) => self.failed(index, file, errno),
        }
    }

    /// A change has put a piece where it belongs.
    fn piece_done(&mut self, index: u32, piece: Piece) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if !slot.is_change() || piece.file != ShadowFile::Data {
            return;
        }
        let blocks = piece.blocks();
        let allocated = self.dirty.count_without(blocks, &self.holes);
        let dirtied = self.dirty.set(blocks);
        self.dirty_blocks += dirtied;
        if slot.kind == OpKind::Discard {
            self.holes.set(blocks);
            self.used_blocks = self.used_blocks.saturating_sub(allocated);
        } else {
            self.holes.clear(blocks);
            self.used_blocks += blocks.count() - allocated;
        }
        self.reserved_blocks -= std::mem::take(&mut slot.reserved_blocks);
        if slot.kind == (OpKind::Write { durable: true }) {
            if dirtied > 0 || self.journal.is_unrecorded(blocks) {
                self.journal.wrote_durably(blocks);
                slot.unrecorded = true;
            }
        } else if slot.suspect {
            self.journal.suspect(blocks);
        } else if dirtied > 0 || self.journal.is_suspect(blocks) {
            #[cfg(test)]
            if self.planted == Some(Planted::RecordBeforeSync) {
                return self.journal.wrote_durably(blocks);
            }
            self.journal.wrote(blocks);
        }
    }

    /// A piece is done: the next, or the end.
    fn go_on(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if slot.done_bytes < slot.len_bytes {
            self.ready.push_back(index);
            return;
        }
        let result = Ok(transferred(slot));
        #[cfg(test)]
        if self.planted == Some(Planted::AckBeforeRecord) {
            slot.unrecorded = false;
        }
        if slot.unrecorded && self.journal.is_recording(slot.blocks()) {
            slot.stage = Stage::Recording;
            self.journal.want();
        } else if slot.is_change() {
            self.finish_change(index, result);
        } else {
            self.answer(index, result);
        }
    }

    fn failed(&mut self, index: u32, file: ShadowFile, errno: Errno) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if !slot.is_change() {
            return self.answer(index, Err(errno));
        }
        let full = errno == Errno::NOSPC && file == ShadowFile::Data;
        if full && self.thaws_when_full() {
            if let Some(slot) = self.slots.get_mut(index as usize) {
                slot.start_again();
                slot.stage = Stage::Held;
            }
            self.leave(index);
            self.held.push_back(index);
            if self.phase == Phase::Frozen {
                self.start_thaw(true);
            }
            return;
        }
        if full {
            self.tell_full();
        }
        self.finish_change(index, Err(errno));
    }

    pub(super) fn finish_change(&mut self, index: u32, result: Result<u32, Errno>) {
        self.leave(index);
        self.answer(index, result);
    }

    /// A change is no longer under way.
    fn leave(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            self.reserved_blocks -= std::mem::take(&mut slot.reserved_blocks);
            self.changing -= 1;
        }
    }

    fn thaws_when_full(&self) -> bool {
        self.when_full == WhenFull::Thaw
            && !self.automatic_failed
            && matches!(self.phase, Phase::Frozen | Phase::Settling)
    }

    fn tell_full(&mut self) {
        if !std::mem::replace(&mut self.full_told, true) {
            self.tell(ShadowEvent::Full);
        }
    }
}
