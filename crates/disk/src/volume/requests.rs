//! The way of a request through the volume: its turn, its operations, its end.
#![forbid(unsafe_code)]

#[cfg(test)]
use super::Planted;
use super::list::NONE;
use super::order::Extent;
use super::request::{Cause, DiskError};
use super::slot::{Advance, EndMoved, Sent, Stage, Step, Transfer};
use super::{LEAST_PAGES, PAGE_BYTES, Stability, Volume, operation, page_part};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind, Part};

/// Most buffers and bytes of writes merged into one operation.
pub(super) const MERGED_BUFFERS: usize = 128;
const MERGED_BYTES: u64 = 1 << 20;

/// Pages that the largest request needs whose blocks have to be completed: the 127 sectors of a
/// frame, and the rest of the first and last of their pages.
const SCRATCH_PAGES: usize = 17;

/// With so many durable changes unanswered, they share syncs.
const MANY: usize = 4;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    /// Gives a request its place in the order; its turn may have come at once.
    pub(super) fn admit(&mut self, index: u32, step: Step, start: u64, end: u64) {
        let unit = self.block_bytes;
        let cached = self.pages.total() >= LEAST_PAGES;
        let extent = Extent {
            start: start - start % unit,
            end: end.next_multiple_of(unit),
            changes: step.changes(),
        };
        #[cfg(test)]
        let extent = Extent {
            changes: extent.changes && self.planted != Some(Planted::DropOrder),
            ..extent
        };
        let discard_bytes = self.discard_bytes;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        (slot.start, slot.end) = (start, end);
        match step {
            Step::Discard { .. } => {
                slot.begin(step, start, start);
                if !slot.next_range(discard_bytes) {
                    return self.answer(index, Ok(()));
                }
            }
            Step::Absorb if !cached => slot.begin(Step::Write, start, end),
            _ => slot.begin(step, start, end),
        }
        slot.suspect = false;
        slot.sent = Sent::Nothing;
        match slot.step {
            Step::Read => self.read_ahead.observe(start, end),
            Step::Absorb => {}
            _ => self.unanswered_changes += 1,
        }
        if self.order.admit(index, extent) {
            self.ready.push_back(index);
        }
    }

    /// Starts whatever can start.
    pub(super) fn run(&mut self) {
        loop {
            if let Some(index) = self.ready.pop_front() {
                match self.slots.get(index as usize).map(|slot| slot.stage) {
                    None => self.work.push_back(index),
                    // It waits for room too.
                    Some(Stage::Blocked) => {}
                    Some(_) => self.start(index),
                }
            } else if let Some(index) = self.unblocked() {
                self.order.set_paused(index, false);
                let step = self.slots.get(index as usize).map(|slot| slot.step);
                if step != Some(Step::Absorb) || self.failure.is_some() {
                    self.start(index);
                } else if !self.is_gone(index) {
                    self.absorb(index);
                }
            } else {
                break;
            }
        }
    }

    /// A request's turn has come.
    pub(super) fn start(&mut self, index: u32) {
        if self.is_gone(index) {
            return;
        }
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let (start, end) = (slot.start, slot.end);
        if let (Some(failure), true) = (self.failure, slot.step.changes()) {
            let error = slot.error(failure.cause);
            return self.finish(index, Err(error));
        }
        let step = slot.step;
        match step {
            Step::Read => {
                let data = slot.buffer.as_mut().map_or(&mut [][..], AsMut::as_mut);
                if self.pages.read(start, end, data) {
                    self.stats.read_hits += 1;
                    let paid = self.pages.take_paid();
                    self.read_ahead.paid(u64::from(paid) * PAGE_BYTES as u64);
                    return self.finish(index, Ok(()));
                }
                self.stats.read_misses += 1;
                if self.is_aligned(start, end) {
                    self.enqueue(index);
                } else {
                    self.start_blocks(index, Step::ReadBlocks);
                }
            }
            Step::Write if !self.is_aligned(start, end) => {
                self.start_blocks(index, Step::ModifyRead);
            }
            // Nobody passes those who wait for room.
            Step::Absorb if self.blocked.is_empty() && self.has_room(start, end) => {
                self.absorb(index);
            }
            Step::Absorb => self.block(index),
            // Their pages or lists were not there; now they are.
            Step::ReadBlocks | Step::ModifyRead => self.start_blocks(index, step),
            _ => self.enqueue(index),
        }
    }

    /// Acknowledges a write whose data goes into the cache.
    fn absorb(&mut self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            let data = slot.buffer.as_ref().map_or(&[][..], AsRef::as_ref);
            self.pages.absorb(slot.start, slot.end, data, self.now);
            self.flushes.acknowledged();
        }
        self.finish(index, Ok(()));
    }

    /// Whether the device can transfer just this range.
    fn is_aligned(&self, start: u64, end: u64) -> bool {
        let unit = self.block_bytes;
        start % unit == 0 && (end % unit == 0 || end == self.disk_bytes)
    }

    /// The blocks that hold this range.
    fn blocks(&self, start: u64, end: u64) -> (u64, u64) {
        let unit = self.block_bytes;
        let last = end.next_multiple_of(unit);
        (start - start % unit, last.min(self.disk_bytes.max(end)))
    }

    /// Puts a request into the queue that it belongs to.
    fn enqueue(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.stage = Stage::Ready;
            if slot.step.changes() {
                self.changes.push_back(index);
            } else {
                self.reads.push_back(index);
            }
        }
    }

    /// Whether a write of this range may be acknowledged now.
    pub(super) fn has_room(&self, start: u64, end: u64) -> bool {
        let missing = self.pages.missing(start, end);
        self.write_behind.admits(self.bytes_at_risk(), end - start)
            && missing <= self.pages.available()
            && self.pages.held() + missing <= self.most_held()
    }

    /// Pages that acknowledged data may hold. Some always stay free of it, for blocks that have to
    /// be completed.
    pub(super) fn most_held(&self) -> usize {
        let total = self.pages.total();
        total.saturating_sub((total / 8).max(SCRATCH_PAGES))
    }

    /// A request's turn has come, but it has to wait for room in the cache.
    fn block(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.stage = Stage::Blocked;
        }
        self.order.set_paused(index, true);
        self.blocked.push_back(index);
    }

    /// The request that has waited longest for room, if there is room for it. One that may not
    /// begin, as its pages are being written, is passed by.
    fn unblocked(&mut self) -> Option<u32> {
        let place = self
            .blocked
            .iter()
            .position(|&index| self.order.is_turn(index))?;
        let slot = self.slots.get(*self.blocked.get(place)? as usize)?;
        let room = match slot.step {
            _ if slot.end_moved == EndMoved::Gone => true,
            Step::Absorb => self.failure.is_some() || self.has_room(slot.start, slot.end),
            step => {
                self.has_scratch(slot.start, slot.end) || self.failure.is_some() && step.changes()
            }
        };
        if !room {
            return None;
        }
        let index = self.blocked.remove(place)?;
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.stage = Stage::Waiting;
        }
        Some(index)
    }

    fn has_scratch(&self, start: u64, end: u64) -> bool {
        let (start, end) = self.blocks(start, end);
        let pages = (end - start).div_ceil(PAGE_BYTES as u64);
        !self.lists.is_empty() && self.pages.available() as u64 >= pages
    }

    /// Begins a transfer of whole blocks by way of scratch pages, or has it wait for those.
    fn start_blocks(&mut self, index: u32, step: Step) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let (start, end) = (slot.start, slot.end);
        slot.step = step;
        if self.pages.total() < LEAST_PAGES {
            let error = slot.error(Cause::Malformed);
            return self.finish(index, Err(error));
        }
        if !self.has_scratch(start, end) {
            return self.block(index);
        }
        let (first, last) = self.blocks(start, end);
        let mut list = self.lists.pop().unwrap_or_default();
        list.reserve_exact(MERGED_BUFFERS);
        let pages = (last - first).div_ceil(PAGE_BYTES as u64);
        for _ in 0..pages {
            list.extend(self.pages.take().map(page_part));
        }
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.scratch = list;
            slot.begin(step, first, last);
        }
        self.enqueue(index);
    }

    /// Adds writes to this one that wait too and continue it on the disk, to either side. Returns
    /// the one that stands for all: the first on the disk.
    pub(super) fn merge(&mut self, index: u32) -> u32 {
        let Some(slot) = self.slots.get(index as usize) else {
            return index;
        };
        let single = slot.step == Step::Write && !slot.alone && slot.next_member == NONE;
        if !single || slot.transfer.done > 0 || self.changes.is_empty() || self.lists.is_empty() {
            return index;
        }
        let (mut start, mut end) = (slot.start, slot.end);
        let (mut first, mut last, mut members) = (index, index, 1);
        let mut place = 0;
        while let Some(&other) = self.changes.get(place) {
            let range = self.slots.get(other as usize).and_then(|slot| {
                let free = slot.step == Step::Write && !slot.alone && slot.next_member == NONE;
                let free = free && slot.end_moved == EndMoved::No;
                let near = slot.start == end || slot.end == start;
                let fits = end.max(slot.end) - start.min(slot.start) <= MERGED_BYTES;
                let fresh = slot.transfer.done == 0;
                (free && near && fits && fresh).then_some((slot.start, slot.end))
            });
            let Some(range) = range else {
                place += 1;
                continue;
            };
            if members == MERGED_BUFFERS {
                break;
            }
            self.changes.remove(place);
            members += 1;
            // One that was passed by may fit now.
            place = 0;
            if range.0 == end {
                end = range.1;
                self.link(last, other);
                last = other;
            } else {
                start = range.0;
                self.link(other, first);
                first = other;
            }
        }
        if members > 1 {
            self.stats.merged_writes += 1;
            self.stats.writes_spared += members as u64 - 1;
            if let Some(slot) = self.slots.get_mut(first as usize) {
                slot.transfer = Transfer::new(start, end);
            }
        }
        first
    }

    fn link(&mut self, index: u32, next: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.next_member = next;
        }
    }

    /// A slot's operation, with its memory.
    pub(super) fn send_slot(&mut self, index: u32) -> Option<DeviceOp<B>> {
        let members = self.members(index);
        let memory = self.memory(index);
        let shared = match self.stability {
            // Beside those that are in this operation anyway.
            Stability::Any => self.unanswered_changes + 1 >= members + MANY,
            Stability::Each => false,
            Stability::Shared => true,
        };
        let slot = self.slots.get_mut(index as usize)?;
        if slot.transfer.done == 0 && slot.step.changes() {
            slot.settles = shared && (!slot.alone || self.stability == Stability::Shared);
        }
        slot.stage = Stage::InFlight;
        if slot.kind() != OpKind::Read {
            slot.sent = Sent::Begun;
        }
        Some(operation(OpId(index), slot.kind(), &slot.transfer, memory))
    }

    /// Requests that a slot's operation is for.
    fn members(&self, index: u32) -> usize {
        let next = |&index: &u32| {
            let next = self.slots.get(index as usize)?.next_member;
            (next != NONE).then_some(next)
        };
        std::iter::successors(Some(index), next).count()
    }

    fn memory(&mut self, index: u32) -> Memory<B> {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Memory::None;
        };
        match slot.step {
            Step::Discard { .. } | Step::Flush => Memory::None,
            Step::ReadBlocks | Step::ModifyRead | Step::ModifyWrite => {
                Memory::Parts(std::mem::take(&mut slot.scratch))
            }
            _ if slot.next_member == NONE => slot.buffer.take().into(),
            _ => {
                // A group keeps its list until all of it is written.
                let mut list = std::mem::take(&mut slot.scratch);
                if list.capacity() == 0 {
                    list = self.lists.pop().unwrap_or_default();
                    list.reserve_exact(MERGED_BUFFERS);
                }
                let mut next = index;
                while let Some(slot) = self.slots.get_mut(next as usize) {
                    let len_bytes = u32::try_from(slot.end - slot.start).unwrap_or(u32::MAX);
                    let part = |buffer| Part { buffer, len_bytes };
                    list.extend(slot.buffer.take().map(part));
                    next = slot.next_member;
                }
                Memory::Parts(list)
            }
        }
    }

    /// An operation of a slot has ended.
    pub(super) fn slot_came_back(&mut self, index: u32, done: Completion<B>) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if slot.stage != Stage::InFlight {
            debug_assert!(false, "completion of an operation that is not in flight");
            return;
        }
        slot.stage = Stage::Ready;
        let grouped = slot.next_member != NONE;
        match done.memory {
            Memory::None => {}
            Memory::One(buffer) => slot.buffer = Some(buffer),
            Memory::Parts(list) if !grouped => slot.scratch = list,
            Memory::Parts(mut list) => self.return_members(index, &mut list),
        }
        let unit = self.block_bytes;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let kind = slot.kind();
        let result = done.result;
        #[cfg(test)]
        let result = match (self.planted, kind) {
            (Some(Planted::TornRead), OpKind::Read) => result.map(|_| u32::MAX),
            _ => result,
        };
        let advance = slot.transfer.advance(kind, unit, result);
        // Of blocks that were read to be changed, all is still to be written.
        let finished = advance == Advance::Finished && slot.step != Step::ModifyRead;
        if !finished && self.takes_another_way(index) {
            return;
        }
        match advance {
            Advance::Again => self.try_again(index),
            Advance::Later => self.rest(index),
            Advance::Finished if grouped => self.finish_members(index),
            Advance::Finished => self.step_done(index),
            Advance::Failed(_) if grouped => self.part_members(index),
            Advance::Failed(cause) => {
                if let Some(slot) = self.slots.get(index as usize) {
                    let error = slot.error(cause);
                    self.finish(index, Err(error));
                }
            }
        }
    }

    /// The buffers of a group come home, in the order in which they went.
    fn return_members(&mut self, first: u32, list: &mut Vec<Part<B>>) {
        let mut next = first;
        for part in list.drain(..) {
            if let Some(slot) = self.slots.get_mut(next as usize) {
                slot.buffer = Some(part.buffer);
                next = slot.next_member;
            }
        }
        if let Some(slot) = self.slots.get_mut(first as usize) {
            slot.scratch = std::mem::take(list);
        }
    }

    /// All of a group is written.
    fn finish_members(&mut self, first: u32) {
        self.give_list(first);
        let head = self.slots.get(first as usize);
        let Some((settles, suspect, sent)) =
            head.map(|slot| (slot.settles, slot.suspect, slot.sent))
        else {
            return;
        };
        let mut next = first;
        while next != NONE {
            let member = next;
            next = self.unlink(member);
            if let Some(slot) = self.slots.get_mut(member as usize) {
                (slot.settles, slot.suspect, slot.sent) = (settles, suspect, sent);
            }
            self.step_done(member);
        }
    }

    /// A group has failed: each of its writes is to find out for itself whether it can be done.
    pub(super) fn part_members(&mut self, first: u32) {
        self.give_list(first);
        let mut next = first;
        let mut place = 0;
        while next != NONE {
            let member = next;
            next = self.unlink(member);
            if let Some(slot) = self.slots.get_mut(member as usize) {
                slot.alone = true;
                slot.sent = Sent::Before;
                slot.begin(Step::Write, slot.start, slot.end);
            }
            // In front of the others, in their own order.
            self.changes.insert(place, member);
            place += 1;
        }
    }

    fn unlink(&mut self, index: u32) -> u32 {
        let slot = self.slots.get_mut(index as usize);
        slot.map_or(NONE, |slot| std::mem::replace(&mut slot.next_member, NONE))
    }

    /// The list of a slot's memory, with any scratch pages in it, is free again.
    pub(super) fn give_list(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let mut list = std::mem::take(&mut slot.scratch);
        for part in list.drain(..) {
            self.pages.give(part.buffer);
        }
        if list.capacity() > 0 {
            self.lists.push(list);
        }
    }

    /// A slot's operation is done: the next one, or the end of the request.
    fn step_done(&mut self, index: u32) {
        let unit = self.discard_bytes;
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if slot.end_moved == EndMoved::Gone {
            self.is_gone(index);
            return;
        }
        let (start, end) = (slot.start, slot.end);
        let before = start - slot.transfer.start.min(start);
        match slot.step {
            Step::Read => {
                if let Some(data) = slot.buffer.as_mut() {
                    if self.pages.overlaps(start, end) {
                        self.pages.overlay(start, end, data.as_mut());
                    }
                }
            }
            Step::ReadBlocks => {
                let data = slot.buffer.as_mut().map_or(&mut [][..], AsMut::as_mut);
                copy_parts(
                    &mut slot.scratch,
                    before,
                    end - start,
                    data,
                    |part, data| {
                        data.copy_from_slice(part);
                    },
                );
                self.pages.overlay(start, end, data);
            }
            Step::Write | Step::ModifyWrite if slot.settles => return self.settle(index),
            Step::Write | Step::ModifyWrite => return self.written(index),
            Step::ModifyRead => {
                let (first, last) = (slot.transfer.start, slot.transfer.start + slot.transfer.len);
                debug_assert!(last <= self.disk_bytes.max(end));
                for (part, at) in slot.scratch.iter_mut().zip((first..).step_by(PAGE_BYTES)) {
                    let to = last.min(at + PAGE_BYTES as u64);
                    self.pages.overlay(at, to, part.buffer.as_mut());
                }
                let data = slot.buffer.as_mut().map_or(&mut [][..], AsMut::as_mut);
                copy_parts(
                    &mut slot.scratch,
                    before,
                    end - start,
                    data,
                    |part, data| {
                        part.copy_from_slice(data);
                    },
                );
                slot.suspect = false;
                slot.begin(Step::ModifyWrite, first, last);
                return self.changes.push_front(index);
            }
            Step::Discard { early, .. } => {
                let Transfer { start, len, .. } = slot.transfer;
                let dirty = self.pages.dirty_bytes();
                self.pages.discard(start, start + len);
                if self.pages.dirty_bytes() < dirty {
                    // Acknowledged data that the device never had: only a sync of the zeros in its
                    // place keeps what was there before it from coming back.
                    self.flushes.unsynced(self.now, 0);
                }
                if slot.next_range(unit) {
                    return self.changes.push_front(index);
                }
                if !early {
                    return self.settle(index);
                }
                if slot.suspect {
                    return self.write_again(index);
                }
                self.flushes.acknowledged();
                self.flushes.unsynced(self.now, 0);
                if let Some(failure) = self.failure {
                    // It ran beside the sync that failed, and may be part of what was lost.
                    let error = slot.error(failure.cause);
                    return self.finish(index, Err(error));
                }
            }
            Step::Absorb | Step::Flush => {}
        }
        self.finish(index, Ok(()));
    }

    /// A durable write is done. Beside a sync it is not believed yet: whatever makes that fail may
    /// have taken the write along, and the kernel tells only one of them.
    fn written(&mut self, index: u32) {
        let beside_sync = self.is_syncing();
        #[cfg(test)]
        let beside_sync = beside_sync && self.planted != Some(Planted::BelieveBesideSync);
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if slot.suspect {
            self.write_again(index);
        } else if beside_sync {
            slot.stage = Stage::Settling;
            self.covered.push_back(index);
        } else {
            self.settled(index);
        }
    }

    /// The device has taken a change: it is done when a sync that starts from now on is.
    pub(super) fn settle(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        if std::mem::take(&mut slot.suspect) {
            return self.write_again(index);
        }
        slot.stage = Stage::Settling;
        self.settling.push_back(index);
    }

    /// A write is on stable storage: what the cache has of it is replaced.
    fn stable(&mut self, index: u32) {
        if let Some(slot) = self.slots.get(index as usize) {
            let data = slot.buffer.as_ref().map_or(&[][..], AsRef::as_ref);
            #[cfg(test)]
            let data = match self.planted {
                Some(Planted::StaleRead) => &[],
                _ => data,
            };
            self.pages.update(slot.start, slot.end, data);
        }
    }

    /// This change is stable: a sync that covered it has succeeded, or it needed none.
    pub(super) fn settled(&mut self, index: u32) {
        if self.is_gone(index) {
            return;
        }
        let step = self.slots.get(index as usize).map(|slot| slot.step);
        if matches!(step, Some(Step::Write | Step::ModifyWrite)) {
            self.stable(index);
        }
        self.finish(index, Ok(()));
    }

    /// A sync has failed that covered this change. Where the device tells each write its own end,
    /// it is tried once more by itself. One that was done by itself was only beside the sync.
    pub(super) fn not_settled(&mut self, index: u32, cause: Cause) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        let write = matches!(slot.step, Step::Write | Step::ModifyWrite);
        if write && !slot.settles {
            return self.write_again(index);
        }
        if write && !slot.alone && self.stability != Stability::Shared {
            slot.alone = true;
            return self.write_again(index);
        }
        let error = slot.error(cause);
        self.finish(index, Err(error));
    }

    /// Hands a write to the device again, all of it. A trim that may be undone has failed.
    pub(super) fn write_again(&mut self, index: u32) {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return;
        };
        match slot.step {
            Step::Write | Step::ModifyWrite => {
                slot.stage = Stage::Ready;
                slot.sent = Sent::Before;
                slot.suspect = false;
                if slot.step == Step::Write {
                    // It may have stood for a group.
                    slot.begin(Step::Write, slot.start, slot.end);
                } else {
                    slot.transfer.done = 0;
                }
                self.changes.push_back(index);
            }
            _ => {
                let error = slot.error(Cause::Device(Errno::IO));
                self.finish(index, Err(error));
            }
        }
    }

    /// A request that held its place in the order is through.
    pub(super) fn finish(&mut self, index: u32, result: Result<(), DiskError>) {
        self.give_list(index);
        let slot = self.slots.get(index as usize);
        let change = slot.filter(|slot| slot.step.changes() && slot.step != Step::Absorb);
        if let Some(slot) = change {
            self.unanswered_changes -= 1;
            if result.is_err() && slot.sent != Sent::Nothing {
                self.pages.distrust(slot.start, slot.end);
            }
        }
        let ready = &mut self.ready;
        self.order.finish(index, |freed| ready.push_back(freed));
        self.answer(index, result);
    }

    pub(super) fn answer(&mut self, index: u32, result: Result<(), DiskError>) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            debug_assert_ne!(slot.stage, Stage::Finished);
            slot.stage = Stage::Finished;
            slot.result = result;
            self.done.push_back(index);
        }
    }
}

/// Calls `copy` with the pieces of `data`, and where each is in the scratch pages: `len` bytes from
/// `start` on.
fn copy_parts<B: AsMut<[u8]>>(
    parts: &mut [Part<B>],
    start: u64,
    len: u64,
    data: &mut [u8],
    mut copy: impl FnMut(&mut [u8], &mut [u8]),
) {
    let (mut start, mut left) = (
        usize::try_from(start).unwrap_or(usize::MAX),
        usize::try_from(len).unwrap_or(usize::MAX).min(data.len()),
    );
    let mut data = data;
    for part in parts {
        let page = part
            .buffer
            .as_mut()
            .get_mut(..PAGE_BYTES)
            .unwrap_or_default();
        let page = page.get_mut(start..).unwrap_or_default();
        let piece = page.len().min(left);
        let (now, later) = std::mem::take(&mut data).split_at_mut(piece);
        copy(page.get_mut(..piece).unwrap_or_default(), now);
        data = later;
        left -= piece;
        start = start.saturating_sub(PAGE_BYTES);
    }
}
