//! The way of acknowledged data to stable storage: writing, sync, answers, and the latch.
#![forbid(unsafe_code)]

use std::time::Duration;

#[cfg(test)]
use super::Planted;
use super::flush::Arrival;
use super::request::{Cause, DiskError, Operation};
use super::slot::{Sent, Stage, Step};
use super::{
    LastTry, MAX_RESUBMITS, RESUBMIT_PAUSE, RESUBMITS_AT_ONCE, SyncState, Volume, earlier, number,
};
use crate::device::Errno;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    pub(super) fn flush(&mut self, index: u32) {
        if let Some(failure) = self.failure {
            return self.answer(index, Err(flush_error(failure)));
        }
        self.absorb_no_more();
        let arrival = self.flushes.arrive(self.pages.dirty_pages() > 0);
        match arrival {
            Arrival::NothingToDo => return self.answer(index, Ok(())),
            Arrival::Begin => self.begin(),
            Arrival::Running | Arrival::Next => {}
        }
        // Which flush it waits for.
        if let Some(slot) = self.slots.get_mut(index as usize) {
            slot.start = u64::from(arrival == Arrival::Next);
        }
    }

    /// Writes that may be acknowledged early and have not begun are made durable instead: the flush
    /// may be the one that turns the write cache off, and then none may be early that is answered
    /// after it.
    fn absorb_no_more(&mut self) {
        for index in 0..number(self.slots.len()) {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                continue;
            };
            if slot.step != Step::Absorb || !matches!(slot.stage, Stage::Waiting | Stage::Blocked) {
                continue;
            }
            slot.step = Step::Write;
            self.unanswered_changes += 1;
            if slot.stage == Stage::Blocked {
                slot.stage = Stage::Waiting;
                self.blocked.retain(|&blocked| blocked != index);
                self.order.set_paused(index, false);
                if self.order.is_turn(index) {
                    self.ready.push_back(index);
                }
            }
        }
    }

    pub(super) fn begin(&mut self) {
        self.flushes.begin();
        self.pages.begin_epoch();
    }

    /// Since when the oldest data has been at risk that no running flush covers.
    pub(super) fn oldest_at_risk(&self) -> Option<Duration> {
        earlier(self.pages.oldest_dirtied(), self.flushes.oldest_unsynced())
    }

    /// Begins a flush that is due, and moves the running one on when its writing is done.
    pub(super) fn advance_flush(&mut self) {
        if !self.flushes.is_running() && self.failure.is_none() {
            let (at_risk, oldest) = (self.bytes_at_risk(), self.oldest_at_risk());
            let crowded =
                self.pages.held() > self.most_held() / 2 || at_risk > 0 && !self.blocked.is_empty();
            if crowded || self.write_behind.is_flush_due(at_risk, oldest, self.now) {
                self.begin();
            }
        }
        if self.is_last_try_over() {
            self.last_try = if self.flushes.has_unsynced() {
                LastTry::SyncWanted
            } else {
                LastTry::Over
            };
        }
        if self.is_flush_written() && self.flushes.all_written() {
            self.flush_over(None);
        }
    }

    /// Whether the writing that a flush, or the last try, has begun with is over.
    pub(super) fn is_all_written(&self) -> bool {
        self.is_flush_written() || self.is_last_try_over()
    }

    fn is_flush_written(&self) -> bool {
        self.flushes.is_writing() && self.pages.old_pages() == 0
    }

    fn is_last_try_over(&self) -> bool {
        self.last_try == LastTry::Writing && self.is_all_tried()
    }

    /// Starts a sync, if one is wanted and none runs.
    pub(super) fn starts_sync(&mut self) -> bool {
        let SyncState::Idle { repeats } = self.sync else {
            return false;
        };
        let last = self.last_try == LastTry::SyncWanted;
        let wanted = self.flushes.is_sync_wanted() || !self.settling.is_empty() || last;
        let rests = repeats > RESUBMITS_AT_ONCE && self.rest_until.is_some();
        if !wanted && repeats == 0 || rests {
            return false;
        }
        self.sync = SyncState::Running { repeats };
        if last {
            self.last_try = LastTry::Over;
        }
        self.covered.append(&mut self.settling);
        self.flushes.sync_starts();
        self.pages.sync_starts();
        self.stats.syncs += 1;
        true
    }

    pub(super) fn is_syncing(&self) -> bool {
        self.sync != SyncState::Idle { repeats: 0 }
    }

    /// The sync is over.
    pub(super) fn synced(&mut self, result: Result<(), Errno>) {
        let SyncState::Running { repeats } = self.sync else {
            debug_assert!(false, "the end of a sync that was never given out");
            return;
        };
        self.sync = SyncState::Idle { repeats: 0 };
        #[cfg(test)]
        let result = match self.planted {
            Some(Planted::IgnoreFailedSync) => Ok(()),
            _ => result,
        };
        match result {
            Err(Errno::INTR | Errno::AGAIN) if repeats < MAX_RESUBMITS => {
                self.sync = SyncState::Idle {
                    repeats: repeats + 1,
                };
                if repeats >= RESUBMITS_AT_ONCE {
                    self.rest_until.get_or_insert(self.now + RESUBMIT_PAUSE);
                }
                return;
            }
            Err(errno) => self.not_synced(Cause::Device(errno)),
            Ok(()) => {
                self.pages.synced();
                for _ in 0..self.covered.len() {
                    if let Some(index) = self.covered.pop_front() {
                        self.settled(index);
                    }
                }
            }
        }
        if self.flushes.sync_ends() {
            self.flush_over(self.failure);
        }
    }

    /// A sync has failed: what it covered may be lost.
    fn not_synced(&mut self, cause: Cause) {
        if self.flushes.has_unsynced() {
            self.lost(DiskError {
                operation: Operation::Flush,
                lba: 0,
                sectors: 0,
                cause,
            });
        }
        // Whatever the device has begun with may be lost, covered by this sync or not. Behind the
        // page cache the kernel tells of a loss once, perhaps to the wrong one; and a device that
        // was reset has forgotten all that it held.
        for slot in &mut self.slots {
            let begun = match slot.stage {
                Stage::InFlight | Stage::Settling => true,
                Stage::Ready => slot.sent == Sent::Begun,
                _ => false,
            };
            slot.suspect |= begun && slot.step.changes();
        }
        for task in &mut self.tasks {
            task.suspect = true;
        }
        // Those that wait for the next sync, which will not know of the loss.
        for _ in 0..self.settling.len() {
            if let Some(index) = self.settling.pop_front() {
                self.settle(index);
            }
        }
        for _ in 0..self.covered.len() {
            if let Some(index) = self.covered.pop_front() {
                self.not_settled(index, cause);
            }
        }
    }

    /// The running flush is over: answers who waited for it, and begins the next one if somebody
    /// waits for that.
    fn flush_over(&mut self, failure: Option<DiskError>) {
        let next = self.flushes.finished(failure.is_some());
        self.answer_flushes(failure);
        if next {
            self.begin();
        }
    }

    pub(super) fn answer_flushes(&mut self, failure: Option<DiskError>) {
        for index in 0..number(self.slots.len()) {
            let Some(slot) = self.slots.get_mut(index as usize) else {
                continue;
            };
            if (slot.step, slot.stage) != (Step::Flush, Stage::Waiting) {
                continue;
            }
            if slot.start == 0 || failure.is_some() {
                let result = failure.map_or(Ok(()), |failure| Err(flush_error(failure)));
                self.answer(index, result);
            } else {
                slot.start = 0;
            }
        }
    }

    /// The device may have lost what it had taken and not yet made stable. We still have it.
    pub(super) fn lost(&mut self, error: DiskError) {
        self.pages.not_synced();
        self.flushes.nothing_unsynced();
        self.latch(error);
    }

    /// Acknowledged data may be lost: nothing is acknowledged any more until an operator acts.
    pub(super) fn latch(&mut self, error: DiskError) {
        if self.failure.is_none() {
            self.failure = Some(error);
            self.last_try = LastTry::Writing;
        }
        // A running sync answers when it ends; nobody waits for what cannot be done any more.
        if self.flushes.is_writing() || self.flushes.is_sync_wanted() {
            self.flush_over(Some(error));
        }
    }
}

/// What a flush is told of the failure that stands in its way.
fn flush_error(failure: DiskError) -> DiskError {
    DiskError {
        operation: Operation::Flush,
        ..failure
    }
}
