//! One export's data as a state machine: requests in, device operations out.
//!
//! It knows no file and no clock (the time comes with each call, counted from any start), and
//! allocates nothing after [`Volume::new`], but for the [`TASKS`] and [`GATHERS`] lists of pages at
//! the first use of each. Call order: [`handle_request`](Volume::handle_request),
//! [`handle_device`](Volume::handle_device) and [`handle_timeout`](Volume::handle_timeout) as
//! things happen; after each, [`poll_device`](Volume::poll_device) and then
//! [`poll_done`](Volume::poll_done) until they give nothing. [`poll_timeout`](Volume::poll_timeout)
//! says when to come back although nothing has happened.
//!
//! # What is promised
//! - Overlapping requests take effect in arrival order, and none is torn by another (`order.rs`).
//! - Every request is answered exactly once, with its buffer.
//! - A write or trim is acknowledged when it is on stable storage. One that may be acknowledged
//!   *early* is, when it is in the cache: then every read sees it at once, a flush brings it to
//!   stable storage, and so does time (`write_behind.rs`, `flush.rs`).
//! - A short transfer is continued, an interrupted operation resubmitted. Early data that the
//!   device refuses is tried again for a while; then, or at once when a sync of such data fails,
//!   the volume is latched: every change and flush fails until an operator acts, and reads go on.
//!
//! # The parts
//! `requests.rs` the way of a request, with `plan.rs` what it needs, `slot.rs` its place and
//! `order.rs` who waits for whom · `flushing.rs` the way of acknowledged data to stable storage, with
//! `flush.rs` who waits for which sync and `write_behind.rs` bounds and failures · `work.rs` what the
//! volume writes and reads ahead by itself, with `task.rs` and `read_ahead.rs` · `pages.rs` the
//! cache's memory · `resize.rs` another size of the disk.
//!
//! # Limits
//! [`VolumeSettings::capacity`] requests and [`TASKS`] tasks, each with at most one device
//! operation at a time, and one sync that flushes share; the pages given at start; [`GATHERS`]
//! requests whose operation has several buffers; [`MAX_RESUBMITS`].
#![forbid(unsafe_code)]

mod flush;
mod flushing;
mod list;
mod order;
mod pages;
mod plan;
mod read_ahead;
mod request;
mod requests;
mod resize;
#[cfg(test)]
mod simulation;
mod slot;
mod task;
#[cfg(test)]
mod tests;
mod work;
mod write_behind;

use std::collections::VecDeque;
use std::time::Duration;

use crate::SECTOR_BYTES;
use crate::device::{Completion, DeviceOp, Memory, OpId, OpKind, Part};
use flush::Flushes;
use order::Order;
pub use pages::PAGE_BYTES;
use pages::Pages;
use plan::Plan;
use read_ahead::ReadAhead;
pub use request::{Cause, DiskError, DiskRequest, Done, Operation, RequestId, RequestKind};
use slot::{EndMoved, Slot, Stage, Step, Transfer};
use task::Task;
use write_behind::WriteBehind;

/// How often one operation is handed to the device again without any progress in between (a
/// signal, a momentary shortage) before its request fails. A device that says "again" this often is
/// not going to recover in time for the initiator.
pub const MAX_RESUBMITS: u8 = 16;

/// Those among them that are tried at once: after an interruption that is all it takes. Later ones
/// give a shortage time to pass, about a quarter of a second in all.
const RESUBMITS_AT_ONCE: u8 = 2;
const RESUBMIT_PAUSE: Duration = Duration::from_millis(20);

/// Device operations of the volume's own at once: enough to keep a device busy with large
/// transfers, while requests go on beside them.
pub const TASKS: usize = 16;

/// Requests at once whose operation has more than one buffer: writes merged into one, and transfers
/// by way of scratch pages.
pub const GATHERS: usize = 32;

/// With fewer pages than this, nothing is cached or acknowledged early.
pub const LEAST_PAGES: usize = 64;

/// How a durable write becomes stable.
///
/// Several at once share a sync, which costs a device without "force unit access" less than one for
/// each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Stability {
    /// By itself or by a shared sync, as there are few or many.
    #[default]
    Any,
    /// Always by itself: the device makes single writes stable without a sync of all it holds.
    Each,
    /// Always by a sync: for files behind the page cache. The kernel tells of a failure to write
    /// the cache back once for each open file, so that of two durable writes the wrong one may
    /// hear of it. There is never more than one sync, and its failure counts for all writes.
    Shared,
}

/// What a volume is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Most requests at once: at least the buffers that an export's requests can hold.
    pub capacity: usize,
    /// How durable writes become stable.
    pub stability: Stability,
    /// Size of the disk.
    pub size_bytes: u64,
    /// What device reads and writes must be multiples of, but for the end of the disk: 512 or 4096.
    /// Requests that are not are completed by reading the rest.
    pub block_bytes: u32,
    /// The same for discards. What a trim touches only in part is left alone.
    pub discard_bytes: u32,
    /// The largest window of one reader in order; 0 for no reading ahead.
    pub read_ahead_bytes: u32,
    /// Bytes that are acknowledged early and not on stable storage: never more.
    pub dirty_bytes: u64,
    /// A flush of such data begins when it is half as old as this.
    pub dirty_age: Duration,
}

/// A small disk of whole sectors, nothing acknowledged early, large reads ahead.
impl Default for VolumeSettings {
    fn default() -> Self {
        Self {
            capacity: 64,
            stability: Stability::Any,
            size_bytes: 0,
            block_bytes: 512,
            discard_bytes: 512,
            read_ahead_bytes: 1 << 20,
            dirty_bytes: 32 << 20,
            dirty_age: Duration::from_secs(1),
        }
    }
}

/// What a volume has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VolumeStats {
    /// Reads answered from the cache.
    pub read_hits: u64,
    /// Reads that went to the device.
    pub read_misses: u64,
    /// Bytes read ahead.
    pub read_ahead_bytes: u64,
    /// Device writes of several requests' or pages' data at once,
    pub merged_writes: u64,
    /// and what they saved: device writes that there would have been.
    pub writes_spared: u64,
    /// Syncs given to the device for flushes and by age or amount.
    pub syncs: u64,
    /// Device writes of acknowledged data that failed and were tried again.
    pub retries: u64,
}

/// One export's data.
#[derive(Debug)]
pub struct Volume<B> {
    slots: Vec<Slot<B>>,
    free: Vec<u32>,
    tasks: Vec<Task<B>>,
    free_tasks: Vec<u32>,
    order: Order,
    pages: Pages<B>,
    read_ahead: ReadAhead,
    write_behind: WriteBehind,
    flushes: Flushes,
    /// Requests and tasks whose turn has come.
    ready: VecDeque<u32>,
    /// Requests that need room in the cache, in order of arrival.
    blocked: VecDeque<u32>,
    /// Reads for the device.
    reads: VecDeque<u32>,
    /// Durable writes and trims for the device.
    changes: VecDeque<u32>,
    /// Tasks for the device.
    work: VecDeque<u32>,
    /// Requests and tasks that the device has no resources for, until then. A sync may wait too.
    resting: VecDeque<u32>,
    rest_until: Option<Duration>,
    stability: Stability,
    /// Durable changes that are not answered yet.
    unanswered_changes: usize,
    /// Changes that the device has taken, and that wait for the next sync.
    settling: VecDeque<u32>,
    /// Those that the running sync covers, and durable writes that have ended beside it.
    covered: VecDeque<u32>,
    sync: SyncState,
    /// Slots whose answer is to be polled.
    done: VecDeque<u32>,
    /// Lists for operations of several buffers; each gets its memory when it is first used.
    lists: Vec<Vec<Part<B>>>,
    /// Early data that could not be brought to stable storage.
    failure: Option<DiskError>,
    /// What becomes of acknowledged data after the failure.
    last_try: LastTry,
    now: Duration,
    disk_bytes: u64,
    block_bytes: u64,
    discard_bytes: u64,
    stats: VolumeStats,
    #[cfg(test)]
    planted: Option<Planted>,
}

/// After a failure everything acknowledged is written and synced once more, as far as it can be, so
/// that no more is lost than must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LastTry {
    Writing,
    SyncWanted,
    Over,
}

/// The one sync that may be with the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncState {
    /// There is none, or it is to be repeated: then it was interrupted so often.
    Idle {
        repeats: u8,
    },
    Running {
        repeats: u8,
    },
}

/// A mistake built in, for the simulation to find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// A flush does without its sync.
    SkipSync,
    /// A flush is answered when its sync begins.
    AckBeforeSync,
    /// Overlapping writes go to the device in any order.
    DropOrder,
    /// A dirty page is given up like a clean one.
    ForgetDirtyAtEviction,
    /// A sync that failed counts as one.
    IgnoreFailedSync,
    /// A durable write that ends beside a sync is answered before the sync's end.
    BelieveBesideSync,
    /// A page in the cache stays as it is when a write has passed it by.
    StaleRead,
    /// A read that the device did in part counts as a whole one.
    TornRead,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    /// A volume whose cache is `pages`: buffers of [`PAGE_BYTES`], each taken when it is first
    /// needed. It has one sync to do, for what an earlier process may have left to be made stable.
    pub fn new<P>(settings: VolumeSettings, pages: P) -> Self
    where
        P: IntoIterator<Item = B>,
        P::IntoIter: ExactSizeIterator + 'static,
    {
        let pages = pages.into_iter();
        // The ids after the last slot's are the tasks', then the sync's.
        let count = u32::try_from(settings.capacity).unwrap_or(u32::MAX / 2);
        let (capacity, tasks) = (count as usize, number(TASKS));
        let has_cache = pages.len() >= LEAST_PAGES;
        let window = if has_cache {
            u64::from(settings.read_ahead_bytes).min(pages.len() as u64 * PAGE_BYTES as u64 / 4)
        } else {
            0
        };
        Self {
            slots: (0..count).map(|_| Slot::empty()).collect(),
            free: (0..count).rev().collect(),
            tasks: (0..tasks).map(|_| Task::idle()).collect(),
            free_tasks: (count..count + tasks).rev().collect(),
            order: Order::new(capacity + TASKS),
            pages: Pages::new(pages),
            read_ahead: ReadAhead::new(window),
            write_behind: WriteBehind::new(settings.dirty_bytes, settings.dirty_age),
            flushes: Flushes::new(),
            ready: VecDeque::with_capacity(capacity + TASKS),
            blocked: VecDeque::with_capacity(capacity),
            reads: VecDeque::with_capacity(capacity),
            changes: VecDeque::with_capacity(capacity),
            work: VecDeque::with_capacity(TASKS),
            resting: VecDeque::with_capacity(capacity + TASKS),
            rest_until: None,
            stability: settings.stability,
            unanswered_changes: 0,
            settling: VecDeque::with_capacity(capacity),
            covered: VecDeque::with_capacity(capacity),
            sync: SyncState::Idle { repeats: 0 },
            done: VecDeque::with_capacity(capacity),
            lists: (0..GATHERS).map(|_| Vec::new()).collect(),
            failure: None,
            last_try: LastTry::Over,
            now: Duration::ZERO,
            disk_bytes: settings.size_bytes,
            block_bytes: u64::from(settings.block_bytes).max(SECTOR_BYTES),
            discard_bytes: u64::from(settings.discard_bytes).max(SECTOR_BYTES),
            stats: VolumeStats::default(),
            #[cfg(test)]
            planted: None,
        }
    }

    /// Takes a request; its answer comes from [`Self::poll_done`].
    ///
    /// # Errors
    /// Gives the request back when as many as the volume was made for are unanswered.
    pub fn handle_request(
        &mut self,
        now: Duration,
        request: DiskRequest<B>,
    ) -> Result<(), DiskRequest<B>> {
        self.now = now;
        let Some(index) = self.free.pop() else {
            return Err(request);
        };
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return Err(request);
        };
        let plan = Plan::new(request.kind, request.buffer.as_ref());
        slot.id = request.id;
        slot.buffer = Some(request.buffer);
        slot.stage = Stage::Waiting;
        slot.alone = false;
        slot.end_moved = EndMoved::No;
        slot.result = Ok(());
        match plan {
            Plan::Transfer { step, start, end } => self.admit(index, step, start, end),
            Plan::Trim {
                entries,
                early,
                start,
                end,
            } => {
                let step = Step::Discard {
                    next: 0,
                    entries,
                    early,
                };
                self.admit(index, step, start, end);
            }
            Plan::Flush => {
                slot.begin(Step::Flush, 0, 0);
                self.flush(index);
            }
            Plan::Nothing => self.answer(index, Ok(())),
            Plan::Refuse(error) => self.answer(index, Err(error)),
        }
        self.run();
        Ok(())
    }

    /// Takes the end of an operation that [`Self::poll_device`] gave out.
    pub fn handle_device(&mut self, now: Duration, done: Completion<B>) {
        self.now = now;
        let index = done.id.0;
        match (index as usize).checked_sub(self.slots.len()) {
            None => self.slot_came_back(index, done),
            Some(task) if task < TASKS => self.task_came_back(index, done),
            Some(_) => self.synced(done.result.map(|_| ())),
        }
        self.run();
    }

    /// Tells the volume the time: when [`Self::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.now = now;
        if self.write_behind.take_retry(now) {
            self.pages.try_failed_again();
        }
        if self.rest_until.take_if(|due| *due <= now).is_some() {
            while let Some(index) = self.resting.pop_back() {
                self.try_again(index);
            }
        }
        self.run();
    }

    /// When there is something to do next although nothing has happened.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let flush = if self.flushes.is_running() || self.failure.is_some() {
            None
        } else {
            self.write_behind.deadline(self.oldest_at_risk())
        };
        let retry = earlier(self.write_behind.retry_at(), self.rest_until);
        earlier(flush, retry)
    }

    /// Puts an operation that is to go on in front of all others of its kind.
    fn try_again(&mut self, index: u32) {
        match self.slots.get(index as usize).map(|slot| slot.step) {
            None => self.work.push_front(index),
            Some(step) if step.changes() => self.changes.push_front(index),
            Some(_) => self.reads.push_front(index),
        }
    }

    /// The same, after a pause.
    fn rest(&mut self, index: u32) {
        self.resting.push_back(index);
        self.rest_until.get_or_insert(self.now + RESUBMIT_PAUSE);
    }

    /// The next operation for the device. Its memory goes along and must come back through
    /// [`Self::handle_device`].
    pub fn poll_device(&mut self) -> Option<DeviceOp<B>> {
        loop {
            let op = self.next_operation();
            // The end of a task that had nothing to do may have started requests behind it, or been
            // what a flush waited for.
            let more = !self.reads.is_empty() || !self.changes.is_empty();
            if op.is_some() || !more && !self.is_all_written() {
                return op;
            }
        }
    }

    fn next_operation(&mut self) -> Option<DeviceOp<B>> {
        self.advance_flush();
        if self.starts_sync() {
            #[cfg(test)]
            match self.planted {
                Some(Planted::SkipSync) => {
                    self.synced(Ok(()));
                    return self.next_operation();
                }
                Some(Planted::AckBeforeSync) => self.answer_flushes(None),
                _ => {}
            }
            let id = OpId(number(self.slots.len() + TASKS));
            return Some(operation(
                id,
                OpKind::Sync,
                &Transfer::default(),
                Memory::None,
            ));
        }
        while let Some(index) = self.reads.pop_front() {
            if !self.takes_another_way(index) {
                return self.send_slot(index);
            }
            self.run();
        }
        while let Some(index) = self.changes.pop_front() {
            if self.takes_another_way(index) {
                self.run();
                continue;
            }
            let slot = self.slots.get(index as usize)?;
            if let Some(failure) = self.failure {
                if slot.next_member != list::NONE {
                    // Half written when the failure came: each is answered for itself.
                    self.part_members(index);
                    continue;
                }
                let error = slot.error(failure.cause);
                self.finish(index, Err(error));
                self.run();
                continue;
            }
            let index = self.merge(index);
            return self.send_slot(index);
        }
        loop {
            if let Some(op) = self.next_work() {
                return Some(op);
            }
            if !self.plan_writing() && !self.plan_filling() {
                return None;
            }
        }
    }

    /// The next answer.
    pub fn poll_done(&mut self) -> Option<Done<B>> {
        while let Some(index) = self.done.pop_front() {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                continue;
            };
            slot.stage = Stage::Free;
            self.free.push(index);
            // Only an engine that breaks its contract comes back without the buffer.
            debug_assert!(slot.buffer.is_some(), "a buffer was lost");
            let Some(buffer) = slot.buffer.take() else {
                continue;
            };
            return Some(Done {
                id: slot.id,
                buffer,
                result: slot.result,
            });
        }
        None
    }

    /// Begins to bring everything acknowledged to stable storage, also what the device has refused
    /// so far: for a clean stop. [`Self::is_clean`] tells when it is done, if it can be done.
    pub fn begin_flush(&mut self, now: Duration) {
        self.clear_failure(now);
        if !self.flushes.is_running() && !self.is_clean() {
            self.flushes.begin();
            self.pages.begin_epoch();
        }
    }

    /// Whether every request is answered and nothing is with the device. Data may still be in the
    /// cache.
    pub fn is_idle(&self) -> bool {
        self.outstanding() == 0
            && self.free_tasks.len() == TASKS
            && !self.flushes.is_running()
            && !self.is_syncing()
            && self.last_try == LastTry::Over
    }

    /// Whether everything acknowledged is on stable storage.
    pub fn is_clean(&self) -> bool {
        self.pages.dirty_pages() == 0 && !self.flushes.has_unsynced() && !self.flushes.is_running()
    }

    /// Requests without a polled answer.
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Most requests at once.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Most device operations at once.
    pub fn most_operations(&self) -> usize {
        self.slots.len() + TASKS + 1
    }

    /// The failure that makes every write, trim and flush fail, if there was one: data that was
    /// acknowledged may be lost.
    pub fn failure(&self) -> Option<DiskError> {
        self.failure
    }

    /// An earlier process had such a failure, and no operator knows of it yet.
    pub fn set_failure(&mut self, failure: DiskError) {
        self.failure = Some(failure);
    }

    /// An operator knows of the failure: go on from here, and try again to write what the device
    /// has refused.
    pub fn clear_failure(&mut self, now: Duration) {
        self.now = now;
        self.failure = None;
        self.last_try = LastTry::Over;
        self.write_behind.start_over();
        self.pages.forgive();
    }

    /// Where acknowledged data is that is not known to be on stable storage, page by page: first
    /// sector and number of sectors, in no particular order.
    pub fn ranges_at_risk(&self) -> impl Iterator<Item = (u64, u64)> {
        self.pages.at_risk()
    }

    /// Bytes acknowledged early and not known to be on stable storage.
    pub fn bytes_at_risk(&self) -> u64 {
        self.pages.dirty_bytes() + self.flushes.unsynced_bytes()
    }

    /// Counters since the start.
    pub fn stats(&self) -> &VolumeStats {
        &self.stats
    }

    /// Builds a mistake in.
    #[cfg(test)]
    pub(crate) fn plant(&mut self, planted: Planted) {
        self.planted = Some(planted);
        self.pages.forget_dirty = planted == Planted::ForgetDirtyAtEviction;
    }
}

fn page_part<B>(buffer: B) -> Part<B> {
    Part {
        buffer,
        len_bytes: 4096,
    }
}

fn operation<B>(id: OpId, kind: OpKind, transfer: &Transfer, memory: Memory<B>) -> DeviceOp<B> {
    DeviceOp {
        id,
        kind,
        offset_bytes: transfer.start + transfer.done,
        len_bytes: transfer.len - transfer.done,
        memory,
        // Fits: the whole transfer fits the memory.
        memory_start: usize::try_from(transfer.done).unwrap_or(usize::MAX),
    }
}

/// The earlier of two times, if there is any.
fn earlier(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.into_iter().chain(other).min()
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
