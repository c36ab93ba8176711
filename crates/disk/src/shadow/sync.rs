//! Bringing shadow and image to stable storage: for the volume, and before each change of phase.
//!
//! One job at a time. While there may be a shadow: sync its data, let the map record what that
//! covered, sync the image if it may have changed.
#![forbid(unsafe_code)]

#[cfg(test)]
use super::Planted;
use super::slot::Stage;
use super::status::{ShadowEvent, ShadowFailure};
use super::{Own, Phase, Shadow, ShadowFile};
use crate::device::{DeviceOp, Errno, Memory, OpKind};
use crate::volume::MAX_RESUBMITS;

#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    owner: Owner,
    step: Step,
    with_device: bool,
    repeats: u8,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The volume.
    Slot(u32),
    Freeze,
    Thaw,
    /// The map's records need room for more.
    Room,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Data,
    Record,
    Image,
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Shadow<B> {
    /// Begins the next job if there is one.
    pub(super) fn start_job(&mut self) {
        if self.job.is_some() {
            return;
        }
        #[cfg(test)]
        match self.planted {
            Some(Planted::FreezeUnsynced) if self.phase == Phase::Freezing => {
                return self.phase_ended(Owner::Freeze, Ok(()));
            }
            Some(Planted::FreezeAmidWrites) if self.phase == Phase::Freezing => {
                self.job = Some(Job {
                    owner: Owner::Freeze,
                    step: Step::Image,
                    with_device: false,
                    repeats: 0,
                });
                return;
            }
            _ => {}
        }
        let (owner, step) = match self.phase {
            Phase::Freezing if self.changing == 0 => (Owner::Freeze, Step::Image),
            Phase::Settling if self.changing == 0 => (Owner::Thaw, Step::Data),
            Phase::Freezing | Phase::Settling | Phase::Releasing => return,
            Phase::Thawed | Phase::Merged => match self.syncs.pop_front() {
                Some(index) => (Owner::Slot(index), Step::Image),
                None => return,
            },
            _ if self.room_wanted => (Owner::Room, Step::Data),
            _ if self.merge.is_syncing() => return,
            _ => match self.syncs.pop_front() {
                Some(index) => (Owner::Slot(index), Step::Data),
                None => return,
            },
        };
        self.job = Some(Job {
            owner,
            step,
            with_device: false,
            repeats: 0,
        });
    }

    pub(super) fn poll_sync(&mut self) -> Option<(ShadowFile, DeviceOp<B>)> {
        let id = self.id(Own::Sync);
        let job = self.job.as_mut().filter(|job| !job.with_device)?;
        let file = match job.step {
            Step::Data => ShadowFile::Data,
            Step::Image => ShadowFile::Image,
            Step::Record => return None,
        };
        job.with_device = true;
        if file == ShadowFile::Data {
            self.journal.sync_starts();
        }
        let op = DeviceOp {
            id,
            kind: OpKind::Sync,
            offset_bytes: 0,
            len_bytes: 0,
            memory: Memory::None,
            memory_start: 0,
        };
        Some((file, op))
    }

    /// The sync that the job has asked for is over.
    pub(super) fn synced(&mut self, result: Result<(), Errno>) {
        let Some(job) = self.job.as_mut() else {
            debug_assert!(false, "completion of a sync that was never given out");
            return;
        };
        job.with_device = false;
        #[cfg(test)]
        let result = match self.planted {
            Some(Planted::IgnoreFailedSync) => Ok(()),
            _ => result,
        };
        let again = matches!(result, Err(Errno::INTR | Errno::AGAIN));
        if again && job.repeats < MAX_RESUBMITS {
            job.repeats += 1;
            return;
        }
        job.repeats = 0;
        let file = if job.step == Step::Data {
            if result.is_ok() {
                self.journal.sync_succeeded();
            } else {
                self.journal.sync_failed();
                for slot in &mut self.slots {
                    slot.suspect = slot.stage == Stage::UnderWay;
                }
            }
            ShadowFile::Data
        } else {
            ShadowFile::Image
        };
        match result {
            Err(errno) => self.job_ended(Err(ShadowFailure { file, errno })),
            Ok(()) if file == ShadowFile::Image => {
                self.image_unsynced = false;
                self.job_ended(Ok(()));
            }
            Ok(()) => {
                job.step = Step::Record;
                self.sync_recorded();
            }
        }
    }

    /// Something was recorded, or there was nothing to record.
    pub(super) fn sync_recorded(&mut self) {
        let Some(job) = self.job.as_mut().filter(|job| job.step == Step::Record) else {
            return;
        };
        if !self.journal.has_recorded_syncs() {
            return;
        }
        let held = matches!(self.phase, Phase::Frozen | Phase::Settling);
        if (!held || self.image_unsynced) && matches!(job.owner, Owner::Slot(_)) {
            job.step = Step::Image;
        } else {
            self.job_ended(Ok(()));
        }
    }

    /// The map could not record what the job has made stable.
    pub(super) fn sync_unrecorded(&mut self, failure: ShadowFailure) {
        if self.job.is_some_and(|job| job.step == Step::Record) {
            self.job_ended(Err(failure));
        }
    }

    fn job_ended(&mut self, result: Result<(), ShadowFailure>) {
        let Some(job) = self.job.take() else { return };
        let Owner::Slot(index) = job.owner else {
            // The kernel tells of a failed sync once, and this was not the one it is about.
            if let Err(failure) = result {
                if failure.file != ShadowFile::Map {
                    self.lost = Some(failure.errno);
                }
            }
            return self.phase_ended(job.owner, result);
        };
        if let (Err(failure), ShadowFile::Image) = (result, job_file(job.step)) {
            self.merge.doubt(failure.errno);
        }
        let result = match (result, self.lost.take()) {
            (Err(failure), _) => Err(failure.errno),
            (Ok(()), Some(errno)) => Err(errno),
            (Ok(()), None) => Ok(0),
        };
        self.answer(index, result);
    }

    fn phase_ended(&mut self, owner: Owner, result: Result<(), ShadowFailure>) {
        match (owner, result) {
            (Owner::Freeze, Ok(())) => {
                self.phase = Phase::Frozen;
                self.tell(ShadowEvent::Frozen);
                self.release();
            }
            (Owner::Freeze, Err(failure)) => {
                self.phase = Phase::Thawed;
                self.failure = Some(failure);
                self.tell(ShadowEvent::FreezeFailed(failure));
                self.release();
            }
            (Owner::Thaw, Ok(())) => {
                self.phase = Phase::Releasing;
                self.journal.record(super::Kind::Thawing);
            }
            (Owner::Thaw, Err(failure)) => self.thaw_failed(failure),
            (Owner::Room, Ok(())) => {
                self.room_wanted = false;
                self.release();
            }
            (Owner::Room, Err(failure)) => self.refuse_for_room(failure.errno),
            (Owner::Slot(_), _) => {}
        }
    }

    /// Changes that need room in the map's records cannot have it.
    fn refuse_for_room(&mut self, errno: Errno) {
        for _ in 0..self.held.len() {
            self.room_wanted = false;
            let Some(index) = self.held.pop_front() else {
                break;
            };
            self.admit(index);
            if self.room_wanted && self.held.back() == Some(&index) {
                self.held.pop_back();
                self.answer(index, Err(errno));
            }
        }
        self.room_wanted = false;
    }
}

impl Job {
    /// Whether it works on the files of the shadow, or is about to.
    pub(super) fn needs_shadow(self) -> bool {
        self.step != Step::Image
    }
}

fn job_file(step: Step) -> ShadowFile {
    match step {
        Step::Data => ShadowFile::Data,
        Step::Record => ShadowFile::Map,
        Step::Image => ShadowFile::Image,
    }
}
