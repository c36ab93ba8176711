//! Freeze and thaw: keeps an image unchanged for a backup while its disk goes on being written.
//!
//! A shadow stands between a volume and an engine. It takes the volume's operations and gives out
//! operations on three files: the image; the shadow's data, a sparse file in which each block has
//! the place that it has in the image; and its map, a log of which blocks are there (`record.rs`).
//! It knows no file and no clock.
//!
//! ```text
//!             freeze                         thaw
//!   thawed ──▶ freezing ──▶ frozen ──▶ thawing ──▶ merging ──▶ merged ──▶ retire: thawed
//!                              writes go to          │  ▲
//!                              the shadow            ▼  │ thaw
//!                                                  stopped
//! ```
//!
//! - While frozen, writes go to the data file, and reads are put together from both. A durable
//!   write completes when its data and the map's record of it are stable. What plain writes and
//!   discards have changed is recorded by the next sync, after their data is stable. So a crash
//!   leaves the old content of the image in the place of a write that was not promised.
//! - While merging, blocks of the shadow are copied back. Writes to blocks that are still there go
//!   there, all others to the image.
//! - Reads never wait. Writes and syncs wait for a change of phase, and writes for the batch that
//!   is merged, when they overlap it.
//!
//! What the caller must do: operations are multiples of [`BLOCK_BYTES`], except at the end of the
//! disk (changes that are not fail with `EINVAL` unless thawed); changes that overlap another
//! operation are not under way with it at once, as a volume sees to it; a completed operation's
//! memory is as long as it says. Behind the page cache the kernel tells of a failure once for each
//! open file: there, changes are plain writes and syncs, never durable writes. The shadow never has
//! two syncs under way, and what one has heard the other is told. Call order: [`submit`](Shadow::submit) and
//! [`handle_device`](Shadow::handle_device) as things happen; after either,
//! [`poll_device`](Shadow::poll_device), [`poll_done`](Shadow::poll_done) and
//! [`poll_event`](Shadow::poll_event) until they give nothing.
//!
//! Limits: [`ShadowSettings::capacity`] operations, each with at most one operation on a file at a
//! time, and three more of its own. Freeze and resume take two bits for each block (64 MiB for
//! 1 TiB, of which the kernel gives the pages that are used), or refuse if there is no memory for
//! them; nothing else allocates after [`Shadow::new`].
#![forbid(unsafe_code)]

mod blocks;
mod change;
mod journal;
mod merge;
mod record;
mod recover;
#[cfg(test)]
mod simulation;
mod slot;
mod status;
mod sync;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind};
use blocks::{Bitmap, Blocks};
use journal::{Appended, Journal};
use merge::{Merge, Next};
use record::Kind;
pub use record::{Header, HeaderError, PATH_BYTES, UNIT_BYTES};
pub use recover::{Recovered, Replay, Replayed};
use slot::{Slot, Stage};
pub use status::{ShadowError, ShadowEvent, ShadowFailure, ShadowPhase, ShadowStatus};
use sync::Job;

/// What the shadow counts in.
pub const BLOCK_BYTES: u64 = 4096;

/// Events kept for [`Shadow::poll_event`]; a freeze has fewer.
const EVENTS: usize = 16;

/// Which of an export's files an operation works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowFile {
    /// What is exported.
    Image,
    /// The blocks written since the freeze.
    Data,
    /// The log of which blocks those are.
    Map,
}

/// What happens to writes that the shadow has no room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// They fail. The image stays as it is.
    #[default]
    FailWrites,
    /// The export thaws. The image changes, perhaps under somebody who copies it.
    Thaw,
}

/// What a shadow is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowSettings {
    /// Most operations of the volume at once.
    pub capacity: usize,
    /// Of the export.
    pub size_bytes: u64,
    /// When a write finds no room.
    pub when_full: WhenFull,
}

/// The phases, a little finer than what is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Thawed,
    Freezing,
    Frozen,
    /// To thaw, the writes under way have to end and the shadow has to be stable,
    Settling,
    /// and the map has to say that the image is free.
    Releasing,
    Merging,
    Stopped,
    Merged,
}

/// Keeps an image unchanged. See the module's text.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "five facts that have nothing to do with each other"
)]
pub struct Shadow<B> {
    size_bytes: u64,
    when_full: WhenFull,
    phase: Phase,
    slots: Vec<Slot<B>>,
    free: Vec<u32>,
    /// Reads and changes whose next operation is to be polled.
    ready: VecDeque<u32>,
    /// Changes that wait.
    held: VecDeque<u32>,
    /// The volume's syncs that wait.
    syncs: VecDeque<u32>,
    /// Completions to be polled.
    done: VecDeque<u32>,
    events: VecDeque<ShadowEvent>,

    /// Blocks that are in the shadow.
    dirty: Bitmap,
    /// Those of them that were discarded: they take no room.
    holes: Bitmap,
    dirty_blocks: u64,
    used_blocks: u64,
    /// Will be used by writes under way.
    reserved_blocks: u64,
    limit_blocks: u64,
    journal: Journal<B>,
    merge: Merge<B>,
    job: Option<Job>,
    /// The map's records have no room for another plain write.
    room_wanted: bool,
    /// Changes that are neither held nor done.
    changing: usize,
    /// Slots whose current piece is in the data file.
    in_data: usize,
    /// Frozen by an earlier process, which may have ended before it had synced the image.
    image_unsynced: bool,
    /// A sync of ours has failed: the volume's next must tell.
    lost: Option<Errno>,
    failure: Option<ShadowFailure>,
    full_told: bool,
    automatic: bool,
    /// To thaw when full has failed, and is not tried again.
    automatic_failed: bool,
    #[cfg(test)]
    planted: Option<Planted>,
}

/// A mistake built in, for the simulation to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Planted {
    /// A freeze does not wait for the writes that are under way.
    FreezeAmidWrites,
    /// It does not sync the image.
    FreezeUnsynced,
    /// What is written while the disk is frozen goes to the image.
    WriteToImage,
    /// Reads forget that there is a shadow.
    ReadFromImage,
    /// A durable write is answered before the map has its record.
    AckBeforeRecord,
    /// The map records what is not stable.
    RecordBeforeSync,
    /// A sync that failed counts as one.
    IgnoreFailedSync,
    /// Writes go to blocks that are just being merged.
    WriteAmidMerge,
    /// The map calls merged what is not stable in the image.
    MergeUnsynced,
    /// The first block of a batch is left out.
    MergeTooLittle,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Shadow<B> {
    /// A shadow that is not used. `map_buffer` has at least [`UNIT_BYTES`]; merging copies as much
    /// at a time as `merge_memory` holds, at least a block.
    pub fn new(settings: ShadowSettings, map_buffer: B, merge_memory: Memory<B>) -> Self {
        // The ids after the last slot's are our own.
        let count = u32::try_from(settings.capacity).unwrap_or(u32::MAX - 4);
        let capacity = count as usize;
        Self {
            size_bytes: settings.size_bytes,
            when_full: settings.when_full,
            phase: Phase::Thawed,
            slots: (0..count).map(|_| Slot::empty()).collect(),
            free: (0..count).rev().collect(),
            ready: VecDeque::with_capacity(capacity),
            held: VecDeque::with_capacity(capacity),
            syncs: VecDeque::with_capacity(capacity),
            done: VecDeque::with_capacity(capacity),
            events: VecDeque::with_capacity(EVENTS),
            dirty: Bitmap::default(),
            holes: Bitmap::default(),
            dirty_blocks: 0,
            used_blocks: 0,
            reserved_blocks: 0,
            limit_blocks: u64::MAX,
            journal: Journal::new(map_buffer, capacity),
            merge: Merge::new(merge_memory),
            job: None,
            room_wanted: false,
            changing: 0,
            in_data: 0,
            image_unsynced: false,
            lost: None,
            failure: None,
            full_told: false,
            automatic: false,
            automatic_failed: false,
            #[cfg(test)]
            planted: None,
        }
    }

    /// Holds the image as it is once the writes under way have ended; [`ShadowEvent::Frozen`] tells
    /// when. The data file is as long as the image and has no data, and the map file has a header
    /// with this id on stable storage and nothing else.
    ///
    /// What a volume has acknowledged and not written yet goes to the shadow: flush it before.
    ///
    /// # Errors
    /// There is a freeze already, or no memory for one.
    pub fn freeze(&mut self, freeze_id: u64, limit_bytes: Option<u64>) -> Result<(), ShadowError> {
        match self.phase {
            Phase::Thawed => {}
            Phase::Freezing | Phase::Frozen => return Err(ShadowError::Frozen),
            _ => return Err(ShadowError::Merging),
        }
        let [dirty, holes] = [(); 2].map(|()| self.bitmap());
        self.dirty = dirty?;
        self.begin(freeze_id, 1, limit_bytes, holes?);
        self.phase = Phase::Freezing;
        self.settle();
        Ok(())
    }

    /// Goes on with a freeze that a restart has interrupted, before the first operation. If it was
    /// being thawed it goes on being thawed.
    ///
    /// # Errors
    /// There is a freeze already, or no memory for one.
    pub fn resume(
        &mut self,
        recovered: Recovered,
        limit_bytes: Option<u64>,
    ) -> Result<(), ShadowError> {
        if self.phase != Phase::Thawed {
            return Err(ShadowError::Frozen);
        }
        let holes = self.bitmap()?;
        self.dirty = recovered.dirty;
        self.begin(recovered.freeze_id, recovered.next_unit, limit_bytes, holes);
        self.dirty_blocks = recovered.dirty_blocks;
        self.used_blocks = recovered.dirty_blocks;
        self.image_unsynced = true;
        self.phase = Phase::Frozen;
        if recovered.thawing {
            self.start_merge();
        }
        self.settle();
        Ok(())
    }

    /// Lets the image change again and copies the shadow into it, in the background. A second call
    /// tries again after merging has stopped.
    ///
    /// # Errors
    /// There is nothing to thaw.
    pub fn thaw(&mut self) -> Result<(), ShadowError> {
        match self.phase {
            Phase::Frozen => self.start_thaw(false),
            Phase::Stopped => {
                self.failure = None;
                self.start_merge();
            }
            Phase::Thawed | Phase::Freezing => return Err(ShadowError::NotFrozen),
            _ => return Err(ShadowError::Merging),
        }
        self.settle();
        Ok(())
    }

    /// Forgets the shadow after [`ShadowEvent::Merged`]; a next freeze may follow. Whether there
    /// was one to forget.
    pub fn retire(&mut self) -> bool {
        let merged = self.phase == Phase::Merged && !self.needs_files();
        if merged {
            self.dirty = Bitmap::default();
            self.holes = Bitmap::default();
            self.phase = Phase::Thawed;
        }
        merged
    }

    /// The export has another size. Only while thawed: the shadow is made for one size.
    pub fn set_size(&mut self, size_bytes: u64) -> bool {
        let thawed = self.phase == Phase::Thawed;
        if thawed {
            self.size_bytes = size_bytes;
        }
        thawed
    }

    /// How it stands.
    pub fn status(&self) -> ShadowStatus {
        let limited = self.phase != Phase::Thawed && self.limit_blocks != u64::MAX;
        ShadowStatus {
            phase: match self.phase {
                Phase::Thawed => ShadowPhase::Thawed,
                Phase::Freezing => ShadowPhase::Freezing,
                Phase::Frozen => ShadowPhase::Frozen,
                Phase::Settling | Phase::Releasing => ShadowPhase::Thawing,
                Phase::Merging => ShadowPhase::Merging,
                Phase::Stopped => ShadowPhase::Stopped,
                Phase::Merged => ShadowPhase::Merged,
            },
            size_bytes: self.size_bytes,
            dirty_bytes: self.dirty_blocks * BLOCK_BYTES,
            used_bytes: self.used_blocks * BLOCK_BYTES,
            limit_bytes: limited.then(|| self.limit_blocks * BLOCK_BYTES),
            failure: self.failure,
        }
    }

    /// Takes an operation of the volume; its end comes from [`Self::poll_done`].
    ///
    /// # Errors
    /// Gives it back when as many as the shadow was made for are under way.
    pub fn submit(&mut self, op: DeviceOp<B>) -> Result<(), DeviceOp<B>> {
        let Some(index) = self.free.pop() else {
            return Err(op);
        };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Err(op);
        };
        let nothing = op.len_bytes == 0 && op.kind != OpKind::Sync;
        slot.begin(op);
        match slot.kind {
            _ if nothing => self.answer(index, Ok(0)),
            OpKind::Read => {
                slot.stage = Stage::UnderWay;
                self.ready.push_back(index);
            }
            OpKind::Sync => {
                slot.stage = Stage::Syncing;
                self.syncs.push_back(index);
            }
            OpKind::Write { .. } | OpKind::Discard => self.admit(index),
        }
        self.settle();
        Ok(())
    }

    /// Takes the end of an operation that [`Self::poll_device`] gave out.
    pub fn handle_device(&mut self, done: Completion<B>) {
        match self.own(done.id) {
            None => self.handle_slot(done),
            Some(Own::Unit) => {
                if let Some(appended) = self.journal.handle(done) {
                    self.appended(appended);
                }
            }
            Some(Own::Sync) => self.synced(done.result.map(|_| ())),
            Some(Own::Copy) => {
                let failed = done.result.is_err();
                match self.merge.handle(done, self.size_bytes) {
                    Next::GoOn => {}
                    Next::Record => self.journal.record(Kind::Merged),
                    Next::Stop(failure) => {
                        if failed && self.merge.is_syncing() {
                            self.lost = Some(failure.errno);
                        }
                        self.stop_merge(failure);
                    }
                }
            }
        }
        self.settle();
    }

    /// The next operation, and the file it works on. Its memory goes along and must come back
    /// through [`Self::handle_device`].
    pub fn poll_device(&mut self) -> Option<(ShadowFile, DeviceOp<B>)> {
        let batch = self.merge.batch();
        if let Some(op) = self.journal.poll(self.id(Own::Unit), batch) {
            return Some((ShadowFile::Map, op));
        }
        if let Some(op) = self.poll_sync() {
            return Some(op);
        }
        #[cfg(test)]
        if self.planted == Some(Planted::MergeUnsynced) && self.merge.is_syncing() {
            self.merge.stage = merge::Stage::Recording;
            self.journal.record(Kind::Merged);
            return self.poll_device();
        }
        let (id, may_sync) = (self.id(Own::Copy), self.job.is_none());
        if let Some(op) = self.merge.poll(id, self.size_bytes, may_sync) {
            return Some(op);
        }
        while let Some(index) = self.ready.pop_front() {
            let Some(slot) = self.slots.get(index as usize) else {
                continue;
            };
            if !slot.has_piece() {
                let (file, end_bytes) = self.next_piece(slot);
                self.in_data += usize::from(file == ShadowFile::Data);
                if let Some(slot) = self.slots.get_mut(index as usize) {
                    slot.set_piece(file, end_bytes);
                }
            }
            let slot = self.slots.get_mut(index as usize);
            let op = slot.and_then(|slot| slot.operation(OpId(index)));
            if op.is_some() {
                return op;
            }
        }
        None
    }

    /// The next completion for the volume.
    pub fn poll_done(&mut self) -> Option<Completion<B>> {
        let index = self.done.pop_front()?;
        let slot = self.slots.get_mut(index as usize)?;
        slot.stage = Stage::Free;
        self.free.push(index);
        Some(Completion {
            id: slot.id,
            memory: std::mem::replace(&mut slot.memory, Memory::None),
            result: slot.result,
        })
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<ShadowEvent> {
        self.events.pop_front()
    }

    /// Whether every operation has had its completion and nothing is under way on any file.
    pub fn is_idle(&self) -> bool {
        let quiet = !matches!(
            self.phase,
            Phase::Freezing | Phase::Settling | Phase::Releasing | Phase::Merging
        );
        quiet
            && self.free.len() == self.slots.len()
            && self.job.is_none()
            && !self.journal.is_busy()
    }

    /// One bit for each block.
    fn bitmap(&self) -> Result<Bitmap, ShadowError> {
        let blocks = self.size_bytes.div_ceil(BLOCK_BYTES);
        Bitmap::new(blocks).ok_or(ShadowError::NoMemory { bytes: blocks / 4 })
    }

    fn begin(&mut self, freeze_id: u64, next_unit: u64, limit_bytes: Option<u64>, holes: Bitmap) {
        self.holes = holes;
        self.dirty_blocks = 0;
        self.used_blocks = 0;
        self.reserved_blocks = 0;
        self.limit_blocks = limit_bytes.map_or(u64::MAX, |bytes| bytes / BLOCK_BYTES);
        self.journal.begin(freeze_id, next_unit);
        self.failure = None;
        self.full_told = false;
        self.automatic = false;
        self.automatic_failed = false;
    }

    /// Starts whatever has become possible.
    fn settle(&mut self) {
        self.start_job();
        if self.phase == Phase::Merging && self.merge.stage == merge::Stage::Waiting {
            let free = self.merge.batch().iter().all(|run| !self.is_changing(run));
            if free {
                self.merge.copy();
            }
        }
        if self.phase == Phase::Merged && !self.needs_files() && self.merge.take_end() {
            self.tell(ShadowEvent::Merged);
        }
    }

    /// Whether something is under way on the shadow's files.
    fn needs_files(&self) -> bool {
        self.in_data > 0 || self.job.is_some_and(Job::needs_shadow)
    }

    fn is_changing(&self, blocks: Blocks) -> bool {
        self.slots.iter().any(|slot| slot.is_changing(blocks))
    }

    fn start_thaw(&mut self, automatic: bool) {
        self.failure = None;
        self.automatic = automatic;
        if !automatic {
            self.automatic_failed = false;
        }
        self.phase = Phase::Settling;
    }

    fn thaw_failed(&mut self, failure: ShadowFailure) {
        self.phase = Phase::Frozen;
        self.failure = Some(failure);
        self.automatic_failed = self.automatic;
        self.tell(ShadowEvent::ThawFailed(failure));
        self.release();
    }

    fn start_merge(&mut self) {
        self.phase = Phase::Merging;
        self.merge.start();
        self.next_batch();
        let automatic = self.automatic;
        self.tell(ShadowEvent::Merging { automatic });
    }

    fn next_batch(&mut self) {
        let end = self.size_bytes.div_ceil(BLOCK_BYTES);
        #[cfg(test)]
        if self.planted == Some(Planted::MergeTooLittle) {
            let first = self.dirty.find(Blocks { first: 0, end }, true);
            let end = first.map_or(0, |first| first + 1);
            let first = first.unwrap_or(0);
            self.dirty_blocks -= self.dirty.clear(Blocks { first, end });
        }
        if !self.merge.choose(&self.dirty, end) {
            // Nothing dirties blocks any more, so nothing can have come behind the cursor.
            self.merge.stage = merge::Stage::Ending;
            self.journal.record(Kind::Done);
        }
    }

    fn stop_merge(&mut self, failure: ShadowFailure) {
        self.merge.stop();
        self.phase = Phase::Stopped;
        self.failure = Some(failure);
        self.tell(ShadowEvent::MergeStopped(failure));
        self.release();
    }

    /// A unit of the map was written, or could not be.
    fn appended(&mut self, appended: Appended) {
        match appended {
            Appended::Recorded(Kind::Dirtied) => {}
            Appended::Recorded(Kind::Thawing) => {
                self.start_merge();
                self.release();
            }
            Appended::Recorded(Kind::Merged) => {
                for run in self.merge.batch().iter() {
                    self.dirty_blocks -= self.dirty.clear(run);
                    self.holes.clear(run);
                }
                self.journal.keep_suspects(&self.dirty);
                self.next_batch();
                self.release();
            }
            Appended::Recorded(Kind::Done) => self.phase = Phase::Merged,
            Appended::Failed(errno) => return self.append_failed(errno),
        }
        self.finish_recorded(None);
        self.sync_recorded();
    }

    /// Whatever waits for the map has failed.
    fn append_failed(&mut self, errno: Errno) {
        let failure = ShadowFailure {
            file: ShadowFile::Map,
            errno,
        };
        self.finish_recorded(Some(errno));
        self.sync_unrecorded(failure);
        match (self.phase, self.merge.stage) {
            (Phase::Releasing, _) => self.thaw_failed(failure),
            (Phase::Merging, merge::Stage::Recording) => {
                // The map may call them merged. So nothing is promised for them before it surely
                // does not; where their data is in doubt too, not before they are merged.
                for run in self.merge.batch().iter() {
                    if self.journal.is_suspect(run) {
                        self.journal.suspect(run);
                    } else {
                        self.journal.doubt(run);
                    }
                }
                self.stop_merge(failure);
            }
            (Phase::Merging, merge::Stage::Ending) => self.stop_merge(failure),
            _ => {}
        }
    }

    /// Ends the changes that waited for the map; without a failure, those whose record is there.
    fn finish_recorded(&mut self, failure: Option<Errno>) {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            if slot.stage != Stage::Recording {
                continue;
            }
            let result = match failure {
                Some(errno) => Err(errno),
                None if self.journal.is_recording(slot.blocks()) => continue,
                None => Ok(transferred(slot)),
            };
            self.finish_change(u32::try_from(index).unwrap_or(u32::MAX), result);
        }
    }

    /// Lets what was held try again, in its order.
    fn release(&mut self) {
        for _ in 0..self.held.len() {
            if let Some(index) = self.held.pop_front() {
                self.admit(index);
            }
        }
    }

    fn answer(&mut self, index: u32, result: Result<u32, Errno>) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            debug_assert_ne!(slot.stage, Stage::Finished);
            slot.stage = Stage::Finished;
            slot.result = result;
            self.done.push_back(index);
        }
    }

    fn tell(&mut self, event: ShadowEvent) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    fn id(&self, own: Own) -> OpId {
        let slots = u32::try_from(self.slots.len()).unwrap_or(u32::MAX - 4);
        OpId(slots + own as u32)
    }

    fn own(&self, id: OpId) -> Option<Own> {
        [Own::Unit, Own::Sync, Own::Copy]
            .into_iter()
            .find(|&own| self.id(own) == id)
    }
}

/// Operations of the shadow itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Own {
    Unit,
    Sync,
    Copy,
}

/// What a completed operation says it has transferred.
fn transferred<B>(slot: &Slot<B>) -> u32 {
    match slot.kind {
        OpKind::Read | OpKind::Write { .. } => u32::try_from(slot.done_bytes).unwrap_or(u32::MAX),
        OpKind::Sync | OpKind::Discard => 0,
    }
}
