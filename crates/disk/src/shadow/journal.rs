//! What is to be appended to the map file, and when.
//!
//! One unit is under way at a time, and what comes meanwhile shares the next. The rule that makes
//! it safe: a range is recorded as dirtied only when its data in the shadow is stable. So plain
//! writes wait in `unsynced` until a sync of the data file has covered them.
#![forbid(unsafe_code)]

use super::blocks::{Bitmap, Blocks, Ranges};
use super::record::{Kind, UNIT_BYTES, UNIT_RANGES, encode_unit};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind};
use crate::volume::MAX_RESUBMITS;

/// Most ranges that wait for one thing; beyond it a sync is done that nobody asked for.
const WAITING_RANGES: usize = 1024;

#[derive(Debug)]
pub(super) struct Journal<B> {
    freeze_id: u64,
    /// The unit that is written next, or again.
    number: u64,
    /// Comes home between two units.
    buffer: Option<B>,
    /// Written, and not stable.
    unsynced: Ranges,
    /// The running sync of the data file covers these.
    syncing: Ranges,
    /// Stable by a sync, to be recorded.
    synced: Ranges,
    /// Stable by a durable write, to be recorded.
    stable: Ranges,
    /// A sync of these has failed: the kernel may have dropped them, and a later sync would not
    /// tell. So they are not recorded unless they are written again.
    suspect: Ranges,
    /// What the unit under way records.
    writing: Ranges,
    stage: Stage,
    /// To be recorded once all that waits is.
    step: Option<Kind>,
    /// Somebody waits for what is to be recorded.
    wanted: bool,
    /// How often the unit at hand was interrupted.
    repeats: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Idle,
    Writing(Kind),
}

/// How a unit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    Recorded(Kind),
    /// Whatever waits for the journal has failed.
    Failed(Errno),
}

impl<B: AsMut<[u8]>> Journal<B> {
    /// With room for as many durable writes as there are places.
    pub(super) fn new(buffer: B, places: usize) -> Self {
        // Failures bring all that waits together in `synced`.
        let room = 2 * WAITING_RANGES + places + 2 * UNIT_RANGES;
        Self {
            freeze_id: 0,
            number: 1,
            buffer: Some(buffer),
            unsynced: Ranges::new(room),
            syncing: Ranges::new(room),
            synced: Ranges::new(room),
            stable: Ranges::new(room),
            suspect: Ranges::new(room),
            writing: Ranges::new(UNIT_RANGES),
            stage: Stage::Idle,
            step: None,
            wanted: false,
            repeats: 0,
        }
    }

    pub(super) fn begin(&mut self, freeze_id: u64, number: u64) {
        self.freeze_id = freeze_id;
        self.number = number;
        for list in [
            &mut self.unsynced,
            &mut self.syncing,
            &mut self.synced,
            &mut self.stable,
            &mut self.suspect,
            &mut self.writing,
        ] {
            list.clear();
        }
        self.wanted = false;
        self.step = None;
    }

    /// Whether one more plain write, beside `others` under way, finds a place here.
    pub(super) fn has_room(&self, others: usize) -> bool {
        let waiting = self.unsynced.len() + self.syncing.len() + self.synced.len();
        waiting + others < WAITING_RANGES && self.stable.len() + others < WAITING_RANGES
    }

    /// Whether there will not be room again.
    pub(super) fn is_full(&self) -> bool {
        self.suspect.len() >= WAITING_RANGES
    }

    /// Whether a failed sync has put some of these blocks in doubt.
    pub(super) fn is_suspect(&self, blocks: Blocks) -> bool {
        self.suspect.overlaps(blocks)
    }

    /// Forgets doubts about blocks that are not in the shadow any more.
    pub(super) fn keep_suspects(&mut self, dirty: &Bitmap) {
        self.suspect
            .retain(|blocks| dirty.find(blocks, true).is_some());
    }

    /// A plain write has dirtied blocks.
    pub(super) fn wrote(&mut self, blocks: Blocks) {
        self.unsynced.add(blocks);
    }

    /// A durable write has dirtied blocks, or has gone to blocks that are not recorded yet.
    pub(super) fn wrote_durably(&mut self, blocks: Blocks) {
        self.stable.add(blocks);
        self.wanted = true;
    }

    /// Somebody waits for what is stable to be recorded.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// Blocks that the image has as well, but may be recorded as merged or not: a unit failed.
    pub(super) fn doubt(&mut self, blocks: Blocks) {
        self.synced.add(blocks);
    }

    /// Whether a record of these blocks is not on stable storage.
    pub(super) fn is_unrecorded(&self, blocks: Blocks) -> bool {
        self.unsynced.overlaps(blocks)
            || self.syncing.overlaps(blocks)
            || self.is_suspect(blocks)
            || self.is_recording(blocks)
    }

    /// The same for blocks whose data is stable.
    pub(super) fn is_recording(&self, blocks: Blocks) -> bool {
        self.synced.overlaps(blocks)
            || self.stable.overlaps(blocks)
            || self.writing.overlaps(blocks)
    }

    /// A sync of the data file starts.
    pub(super) fn sync_starts(&mut self) {
        self.unsynced.move_to(&mut self.syncing, usize::MAX);
    }

    /// It has succeeded; what it covered may be recorded.
    pub(super) fn sync_succeeded(&mut self) {
        self.wanted = true;
        self.syncing.move_to(&mut self.synced, usize::MAX);
    }

    /// It has failed. What was written while it ran may have been dropped as well.
    pub(super) fn sync_failed(&mut self) {
        self.syncing.move_to(&mut self.suspect, usize::MAX);
        self.unsynced.move_to(&mut self.suspect, usize::MAX);
    }

    /// A plain write was under way when a sync failed.
    pub(super) fn suspect(&mut self, blocks: Blocks) {
        self.suspect.add(blocks);
    }

    /// Whether all that syncs covered is recorded. Durable writes do not hold this up.
    pub(super) fn has_recorded_syncs(&self) -> bool {
        self.synced.is_empty() && self.writing.is_empty() && !self.is_busy()
    }

    /// Records a step once all that waits is recorded. For [`Kind::Merged`] the ranges are given
    /// to [`Self::poll`].
    pub(super) fn record(&mut self, step: Kind) {
        self.step = Some(step);
        self.wanted = true;
    }

    /// Whether a unit is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.stage != Stage::Idle
    }

    /// The next unit to be written durably; `merged` is what a merge records.
    pub(super) fn poll(&mut self, id: OpId, merged: &Ranges) -> Option<DeviceOp<B>> {
        if !self.wanted || self.is_busy() {
            return None;
        }
        for list in [&mut self.synced, &mut self.stable] {
            let room = UNIT_RANGES - self.writing.len();
            list.move_to(&mut self.writing, room);
        }
        let (kind, ranges) = match self.step {
            _ if !self.writing.is_empty() => (Kind::Dirtied, &self.writing),
            Some(step) => (step, merged),
            None => {
                self.wanted = false;
                return None;
            }
        };
        let mut buffer = self.buffer.take()?;
        let ranges = ranges.iter().filter(|_| has_ranges(kind));
        let unit = buffer.as_mut().first_chunk_mut::<UNIT_BYTES>();
        debug_assert!(unit.is_some(), "a buffer has room for a unit");
        if let Some(unit) = unit {
            encode_unit(unit, kind, self.freeze_id, self.number, ranges);
        }
        self.stage = Stage::Writing(kind);
        Some(DeviceOp {
            id,
            kind: OpKind::Write { durable: true },
            offset_bytes: self.number.saturating_mul(UNIT_BYTES as u64),
            len_bytes: UNIT_BYTES as u64,
            memory: Memory::One(buffer),
            memory_start: 0,
        })
    }

    /// The unit's end.
    pub(super) fn handle(&mut self, done: Completion<B>) -> Option<Appended> {
        self.buffer = done.memory.into_one();
        let Stage::Writing(kind) = std::mem::replace(&mut self.stage, Stage::Idle) else {
            return None;
        };
        let failure = match done.result {
            Ok(bytes) if bytes as usize == UNIT_BYTES => None,
            // A sector is written or it is not; a device that writes a part has failed.
            Ok(_) => Some(Errno::IO),
            Err(Errno::INTR | Errno::AGAIN) if self.repeats < MAX_RESUBMITS => {
                self.repeats += 1;
                return None;
            }
            Err(errno) => Some(errno),
        };
        self.repeats = 0;
        if let Some(errno) = failure {
            // The unit may be there all the same. So its number is written again, by whoever wants
            // something recorded next, with these ranges at the least.
            self.writing.move_to(&mut self.synced, usize::MAX);
            self.stable.move_to(&mut self.synced, usize::MAX);
            self.step = None;
            self.wanted = false;
            return Some(Appended::Failed(errno));
        }
        self.number += 1;
        self.writing.clear();
        if kind != Kind::Dirtied {
            self.step = None;
        }
        let waits = !self.synced.is_empty() || !self.stable.is_empty();
        self.wanted = waits || self.step.is_some();
        Some(Appended::Recorded(kind))
    }
}

fn has_ranges(kind: Kind) -> bool {
    matches!(kind, Kind::Dirtied | Kind::Merged)
}
