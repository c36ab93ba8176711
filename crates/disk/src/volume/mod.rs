//! One export's data as a state machine: requests in, device operations out.
//!
//! It knows no file and no clock, and allocates nothing after [`Volume::new`]. Call order:
//! [`handle_request`](Volume::handle_request) and [`handle_device`](Volume::handle_device) as
//! things happen; after either, [`poll_device`](Volume::poll_device) and then
//! [`poll_done`](Volume::poll_done) until they give nothing.
//!
//! What is promised: overlapping requests take effect in arrival order and no read is torn
//! (`order.rs`); a short transfer is continued; an interrupted operation is resubmitted; every
//! request is answered exactly once, with its buffer. A write or trim is acknowledged when its
//! [`Durability`] says so, and a failed sync of acknowledged data is final.
//!
//! Limits: [`VolumeSettings::capacity`] requests, each with at most one device operation at a
//! time, and one sync that flushes share; [`MAX_RESUBMITS`].
#![forbid(unsafe_code)]

mod flush;
mod order;
mod plan;
mod request;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use crate::device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind};
use flush::{Arrival, Flushes};
use order::{Extent, Order};
use plan::Plan;
pub use request::{Cause, DiskError, DiskRequest, Done, Operation, RequestId, RequestKind};
use slot::{Advance, Slot, Stage, Step};

/// How often one operation is handed to the device again without any progress in between (a
/// signal, a momentary shortage) before its request fails. There is no clock to wait by; a device
/// that says "again" this often is not going to recover in time for the initiator.
pub const MAX_RESUBMITS: u8 = 16;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Durability {
    /// When its data is on stable storage. A flush has nothing to do.
    #[default]
    Writethrough,
    /// When the operating system has it. A flush brings everything acknowledged to stable storage.
    Writeback,
}

/// How many writes and trims may be with the device at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Changes {
    /// As many as there are: the device tells each its own end.
    #[default]
    Concurrent,
    /// One: for files behind the page cache. The kernel tells of a failure to write the cache back
    /// once for each open file, so that of two durable writes the wrong one may hear of it.
    OneByOne,
}

/// What a volume is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Most requests at once: at least the buffers that an export's requests can hold.
    pub capacity: usize,
    /// When writes are acknowledged.
    pub durability: Durability,
    /// How many writes may be with the device at once.
    pub changes: Changes,
}

/// One export's data.
#[derive(Debug)]
pub struct Volume<B> {
    durability: Durability,
    slots: Vec<Slot<B>>,
    free: Vec<u32>,
    order: Order,
    flushes: Flushes,
    /// Slots whose next operation is to be polled.
    device: VecDeque<u32>,
    /// The same, where writes and trims wait for each other.
    one_by_one: Option<OneByOne>,
    /// Slots whose answer is to be polled.
    done: VecDeque<u32>,
    /// Acknowledged data that could not be brought to stable storage.
    failure: Option<DiskError>,
}

/// Writes and trims that are given to the device one after another.
#[derive(Debug)]
struct OneByOne {
    waiting: VecDeque<u32>,
    with_device: Option<u32>,
}

impl OneByOne {
    /// The next, if none is with the device.
    fn next(&mut self) -> Option<u32> {
        if self.with_device.is_none() {
            self.with_device = self.waiting.pop_front();
            return self.with_device;
        }
        None
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    /// A volume with nothing to do.
    pub fn new(settings: VolumeSettings) -> Self {
        // The id after the last slot's is the sync's.
        let count = u32::try_from(settings.capacity).unwrap_or(u32::MAX - 1);
        let capacity = count as usize;
        Self {
            durability: settings.durability,
            slots: (0..count).map(|_| Slot::empty()).collect(),
            free: (0..count).rev().collect(),
            order: Order::new(capacity),
            flushes: Flushes::default(),
            device: VecDeque::with_capacity(capacity),
            one_by_one: (settings.changes == Changes::OneByOne).then(|| OneByOne {
                waiting: VecDeque::with_capacity(capacity),
                with_device: None,
            }),
            done: VecDeque::with_capacity(capacity),
            failure: None,
        }
    }

    /// Takes a request; its answer comes from [`Self::poll_done`].
    ///
    /// # Errors
    /// Gives the request back when as many as the volume was made for are unanswered.
    pub fn handle_request(&mut self, request: DiskRequest<B>) -> Result<(), DiskRequest<B>> {
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
        slot.result = Ok(());
        match plan {
            Plan::Transfer { step, extent } => {
                slot.begin(step, extent.start, extent.end - extent.start);
                self.admit(index, extent);
            }
            Plan::Trim { entries, extent } => {
                slot.begin(Step::Discard { next: 0, entries }, extent.start, 0);
                slot.next_range();
                self.admit(index, extent);
            }
            Plan::Flush => {
                slot.begin(Step::Flush, 0, 0);
                self.flush(index);
            }
            Plan::Nothing => self.answer(index, Ok(())),
            Plan::Refuse(error) => self.answer(index, Err(error)),
        }
        Ok(())
    }

    /// Takes the end of an operation that [`Self::poll_device`] gave out.
    pub fn handle_device(&mut self, done: Completion<B>) {
        let index = done.id.0;
        if index as usize == self.slots.len() {
            self.synced(done.result.map(|_| ()));
            return;
        }
        let Some(slot) = self.slots.get_mut(index as usize) else {
            debug_assert!(false, "completion of an operation that was never given out");
            return;
        };
        if slot.stage != Stage::InFlight {
            debug_assert!(false, "completion of an operation that is not in flight");
            return;
        }
        if let Memory::One(buffer) = done.memory {
            slot.buffer = Some(buffer);
        }
        match slot.advance(done.result, self.durability) {
            Advance::Again => {
                slot.stage = Stage::Ready;
                // A change keeps its turn until it is finished.
                self.device.push_back(index);
            }
            Advance::Finished(result) => self.finish(index, result),
        }
    }

    /// The next operation for the device. Its buffer goes along and must come back through
    /// [`Self::handle_device`].
    pub fn poll_device(&mut self) -> Option<DeviceOp<B>> {
        if self.flushes.take_sync() {
            return Some(DeviceOp {
                id: OpId(u32::try_from(self.slots.len()).unwrap_or(u32::MAX)),
                kind: OpKind::Sync,
                offset_bytes: 0,
                len_bytes: 0,
                memory: Memory::None,
                memory_start: 0,
            });
        }
        while let Some(index) = self.next_ready() {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                continue;
            };
            if let (Some(failure), true) = (self.failure, slot.step != Step::Read) {
                let error = slot.error(failure.cause);
                self.finish(index, Err(error));
                continue;
            }
            slot.stage = Stage::InFlight;
            return Some(slot.operation(OpId(index), self.durability));
        }
        None
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

    /// Whether every request is answered and no sync runs.
    pub fn is_idle(&self) -> bool {
        self.outstanding() == 0 && !self.flushes.is_running()
    }

    /// Requests without a polled answer.
    pub fn outstanding(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Most requests at once.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The failed sync that makes every write, trim and flush fail, if there was one: data that
    /// was acknowledged may be lost.
    pub fn failure(&self) -> Option<DiskError> {
        self.failure
    }

    /// An operator knows of the failure: go on from here.
    pub fn clear_failure(&mut self) {
        self.failure = None;
    }

    fn admit(&mut self, index: u32, extent: Extent) {
        if self.order.admit(index, extent) {
            self.ready(index);
        }
    }

    fn ready(&mut self, index: u32) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.stage = Stage::Ready;
            let change = slot.step != Step::Read;
            enqueue(index, change, &mut self.device, &mut self.one_by_one);
        }
    }

    /// The next slot whose operation may go to the device.
    fn next_ready(&mut self) -> Option<u32> {
        let ready = self.device.pop_front();
        ready.or_else(|| self.one_by_one.as_mut()?.next())
    }

    /// A request that held its place in the order is through.
    fn finish(&mut self, index: u32, result: Result<(), DiskError>) {
        if let Some(changes) = &mut self.one_by_one {
            changes
                .with_device
                .take_if(|with_device| *with_device == index);
        }
        let (slots, device, changes) = (&mut self.slots, &mut self.device, &mut self.one_by_one);
        self.order.finish(index, |freed| {
            if let Some(slot) = slots.get_mut(freed as usize) {
                slot.stage = Stage::Ready;
                enqueue(freed, slot.step != Step::Read, device, changes);
            }
        });
        let changed = self.slots.get(index as usize).map(|slot| slot.step) != Some(Step::Read);
        let result = match (changed, self.failure, result) {
            // It ran beside the sync that failed, and may be part of what was lost.
            (true, Some(failure), Ok(())) => {
                let slot = self.slots.get(index as usize);
                Err(slot.map_or(failure, |slot| slot.error(failure.cause)))
            }
            (_, _, result) => result,
        };
        if changed && result.is_ok() && self.durability == Durability::Writeback {
            self.flushes.acknowledged();
        }
        self.answer(index, result);
    }

    fn answer(&mut self, index: u32, result: Result<(), DiskError>) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            debug_assert_ne!(slot.stage, Stage::Finished);
            slot.stage = Stage::Finished;
            slot.result = result;
            self.done.push_back(index);
        }
    }

    fn flush(&mut self, index: u32) {
        if let Some(failure) = self.failure {
            return self.answer(index, Err(flush_error(failure.cause)));
        }
        match self.flushes.arrive() {
            Arrival::NothingToDo => self.answer(index, Ok(())),
            Arrival::Running => self.join(index, false),
            Arrival::Next => self.join(index, true),
        }
    }

    /// Notes in the slot which sync the flush waits for.
    fn join(&mut self, index: u32, next: bool) {
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.offset_bytes = u64::from(next);
        }
    }

    /// The sync is over: answers its flushes, and starts the next one if somebody waits for it.
    fn synced(&mut self, result: Result<(), Errno>) {
        match result {
            Err(Errno::INTR) if self.flushes.repeat() => return,
            Err(errno) => {
                let error = flush_error(Cause::Device(errno));
                self.failure.get_or_insert(error);
            }
            Ok(()) => {}
        }
        let failed = self.failure.map(|failure| flush_error(failure.cause));
        self.flushes.finished(failed.is_some());
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            if (slot.step, slot.stage) != (Step::Flush, Stage::Waiting) {
                continue;
            }
            if slot.offset_bytes == 0 || failed.is_some() {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                self.answer(index, failed.map_or(Ok(()), Err));
            } else {
                slot.offset_bytes = 0;
            }
        }
    }
}

/// Puts a slot into the queue that it belongs to.
fn enqueue(
    index: u32,
    change: bool,
    device: &mut VecDeque<u32>,
    one_by_one: &mut Option<OneByOne>,
) {
    match one_by_one {
        Some(changes) if change => changes.waiting.push_back(index),
        _ => device.push_back(index),
    }
}

fn flush_error(cause: Cause) -> DiskError {
    DiskError {
        operation: Operation::Flush,
        lba: 0,
        sectors: 0,
        cause,
    }
}
