//! Mistakes for the simulation to find.
//!
//! They are made on the way between the stations, so that neither end has code for them: a frame
//! that is rewritten, answered or swallowed here is what a target or an initiator with that mistake
//! would have done with it. One is a setting that a session should not have, one an engine that
//! lies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;

use aoede_disk::engine::sim::SimDisk;
use aoede_disk::{Backing, Buffer, Completion, DeviceOp, Engine, FileId, OpKind};
use aoede_initiator::Wanted;
use aoede_wire::{Checksum, MacAddr};

use crate::draw::SECTOR;
use crate::frame;
use crate::model::{DAMAGED, FLUSHED, LOST, MISPLACED, STALE, TORN, UNANSWERED, first_stamp};

/// Tags that nobody else uses.
const OWN_TAGS: u32 = 0x4000_0000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Planted {
    /// The target's window remembers no tag.
    RemembersNothing,
    /// It forgets what was done four writes ago, and executes it again.
    ForgetsSoon,
    /// It compares tags as plain numbers: after the wrap all are old.
    DoesNotWrap,
    /// All initiators share one window, and one's `reset` ends the checksums of all.
    OneWindowForAll,
    /// The repetition of a write that has failed is answered with success.
    FailureIsDone,
    /// A flush is answered at once.
    FlushAtOnce,
    /// A target that starts again has the number of the one before it.
    NumberStays,
    /// Writes are acknowledged before they are stable.
    AckBeforeStable,
    /// A wrong checksum is taken for a right one.
    ChecksumIgnored,
    /// Two reads of one frame get each other's data.
    EntriesMixedUp,
    /// A read beside a write is answered half from after it and half from before.
    TornReads,
    /// The initiator gives a repeated write a new tag.
    RetagsRepetitions,
    /// It takes a late response for the answer to another request.
    BelievesLateResponses,
    /// It does not wait for copies of a write that was repeated (§15, 10), nor before it negotiates
    /// anew (§15, 8): then a damaged copy meets a target that has just forgotten the checksum.
    NoLinger,
}

impl Planted {
    pub(crate) const ALL: [(Self, &[&str]); 14] = [
        (Self::RemembersNothing, &[STALE]),
        (Self::ForgetsSoon, &[STALE]),
        (Self::DoesNotWrap, &[UNANSWERED]),
        (Self::OneWindowForAll, &[UNANSWERED, STALE, DAMAGED]),
        (Self::FailureIsDone, &[STALE]),
        (Self::FlushAtOnce, &[LOST]),
        (Self::NumberStays, &[FLUSHED]),
        (Self::AckBeforeStable, &[LOST]),
        (Self::ChecksumIgnored, &[DAMAGED, STALE]),
        // Zeros do not tell which sector they are of.
        (Self::EntriesMixedUp, &[MISPLACED, STALE]),
        (Self::TornReads, &[TORN]),
        (Self::RetagsRepetitions, &[STALE]),
        (Self::BelievesLateResponses, &[MISPLACED]),
        (Self::NoLinger, &[STALE, DAMAGED]),
    ];
}

/// A mistake at work.
#[derive(Debug)]
pub(crate) struct Mistake {
    planted: Planted,
    /// What all agree on.
    checksum: Option<Checksum>,
    names: Names,
    newest: BTreeMap<MacAddr, u32>,
    senders: BTreeMap<u32, MacAddr>,
    first: Option<MacAddr>,
    failed: BTreeSet<(MacAddr, u32)>,
    /// What reads found last in each sector.
    found: BTreeMap<u64, Vec<u8>>,
    /// Numbers of writes that were not answered yet, by sender and tag.
    writing: BTreeMap<(MacAddr, u32), u64>,
    /// And those of them that a read may find, as they were under way when it came.
    beside: BTreeMap<(MacAddr, u32), BTreeSet<u64>>,
    /// Spans of reads, by sender and tag: all, and those not answered yet.
    asked: BTreeMap<(MacAddr, u32), (u64, u64)>,
    unanswered: BTreeSet<(MacAddr, u32)>,
}

/// Other tags than the true ones.
#[derive(Debug, Default)]
struct Names {
    given: u32,
    /// Sender, true tag, false tag; the newest last.
    list: VecDeque<(MacAddr, u32, u32)>,
    truth: BTreeMap<(MacAddr, u32), u32>,
}

impl Names {
    /// A false tag for a write; the one before, if it is among the last `memory`.
    fn give(&mut self, from: MacAddr, tag: u32, memory: usize) -> u32 {
        let known = self
            .list
            .iter()
            .find(|known| (known.0, known.1) == (from, tag));
        if let Some(known) = known {
            return known.2;
        }
        self.given += 1;
        let name = OWN_TAGS + self.given;
        self.truth.insert((from, name), tag);
        self.list.push_back((from, tag, name));
        while self.list.len() > memory {
            self.list.pop_front();
        }
        name
    }

    fn true_tag(&self, to: MacAddr, name: u32) -> Option<u32> {
        self.truth.get(&(to, name)).copied()
    }
}

impl Mistake {
    pub(crate) fn new(planted: Planted, wanted: Wanted) -> Self {
        let crc8x4 = wanted.crc8x4.then_some(Checksum::Crc8x4);
        Self {
            planted,
            checksum: wanted.crc32c.then_some(Checksum::Crc32c).or(crc8x4),
            names: Names::default(),
            newest: BTreeMap::new(),
            senders: BTreeMap::new(),
            first: None,
            failed: BTreeSet::new(),
            found: BTreeMap::new(),
            writing: BTreeMap::new(),
            beside: BTreeMap::new(),
            asked: BTreeMap::new(),
            unanswered: BTreeSet::new(),
        }
    }

    pub(crate) fn initiator_sends(&mut self, frame: &mut [u8]) {
        let (from, tag) = (frame::source(frame), frame::tag(frame));
        if self.planted == Planted::RetagsRepetitions && frame::changes(frame) {
            let name = self.names.give(from, tag, 0);
            frame::set_tag(frame, name);
        }
        if self.planted == Planted::BelievesLateResponses && frame::is_read(frame) {
            for (tag, lba, sectors) in frame::reads(frame) {
                self.asked.insert((from, tag), (lba, sectors));
                self.unanswered.insert((from, tag));
            }
        }
    }

    /// Whether the frame gets through.
    pub(crate) fn initiator_receives(&mut self, frame: &mut [u8]) -> bool {
        let key = (frame::destination(frame), frame::tag(frame));
        if let (Planted::RetagsRepetitions, Some(tag)) =
            (self.planted, self.names.true_tag(key.0, key.1))
        {
            frame::set_tag(frame, tag);
        }
        if let (Planted::BelievesLateResponses, Some(span)) = (self.planted, self.asked.get(&key)) {
            let was_waited_for = self.unanswered.remove(&key);
            if !was_waited_for {
                let sectors = span.1;
                let mut waiting = self.unanswered.iter();
                let alike = |other: &&(MacAddr, u32)| {
                    other.0 == key.0 && self.asked.get(*other).is_some_and(|o| o.1 == sectors)
                };
                if let Some(other) = waiting.find(alike).copied() {
                    self.unanswered.remove(&other);
                    frame::set_tag(frame, other.1);
                }
            }
        }
        true
    }

    /// Whether the frame gets through; `answers` go to the network instead.
    pub(crate) fn target_receives(
        &mut self,
        frame: &mut [u8],
        answers: &mut VecDeque<Vec<u8>>,
    ) -> bool {
        let (from, tag) = (frame::source(frame), frame::tag(frame));
        match self.planted {
            Planted::RemembersNothing | Planted::ForgetsSoon if frame::changes(frame) => {
                let memory = if self.planted == Planted::ForgetsSoon {
                    4
                } else {
                    0
                };
                let name = self.names.give(from, tag, memory);
                frame::set_tag(frame, name);
            }
            Planted::DoesNotWrap if frame::changes(frame) => {
                let newest = self.newest.entry(from).or_insert(tag);
                *newest = tag.max(*newest);
                return *newest - tag < 32768;
            }
            Planted::DoesNotWrap if frame::begins_window(frame) => {
                self.newest.remove(&from);
            }
            Planted::OneWindowForAll if !frame::is_response(frame) => {
                let first = *self.first.get_or_insert(from);
                self.senders.insert(tag, from);
                for (tag, ..) in frame::is_read(frame)
                    .then(|| frame::reads(frame))
                    .into_iter()
                    .flatten()
                {
                    self.senders.insert(tag, from);
                }
                frame[6..12].copy_from_slice(&first.0);
            }
            Planted::FailureIsDone
                if self.failed.contains(&(from, tag)) && frame::is_write(frame) =>
            {
                answers.push_back(frame::success(frame));
                return false;
            }
            Planted::FlushAtOnce if frame::is_flush(frame) => {
                answers.push_back(frame::success(frame));
                return false;
            }
            Planted::ChecksumIgnored if frame::is_write(frame) => {
                let end = frame::DATA + usize::from(frame[26]) * SECTOR;
                if let (Some(checksum), true) = (self.checksum, frame.len() >= end + 4) {
                    let sum = checksum.of(&frame[24..end]);
                    frame[end..end + 4].copy_from_slice(&sum);
                }
            }
            Planted::EntriesMixedUp if frame::is_read(frame) => {
                if let [one, other, ..] = frame::reads(frame)[..]
                    && one.2 == other.2
                {
                    frame::set_tag(frame, other.0);
                    frame[37..41].copy_from_slice(&one.0.to_be_bytes());
                }
            }
            Planted::TornReads if frame::is_read(frame) => {
                let beside: BTreeSet<u64> = self.writing.values().copied().collect();
                for (tag, lba, sectors) in frame::reads(frame) {
                    self.asked.insert((from, tag), (lba, sectors));
                    self.beside.insert((from, tag), beside.clone());
                }
            }
            Planted::TornReads => {
                if let Some(data) = frame::written(frame).filter(|data| !data.is_empty()) {
                    self.writing.insert((from, tag), first_stamp(data) >> 32);
                }
            }
            _ => {}
        }
        true
    }

    pub(crate) fn target_sends(&mut self, frame: &mut [u8]) {
        let (to, tag) = (frame::destination(frame), frame::tag(frame));
        match self.planted {
            Planted::RemembersNothing | Planted::ForgetsSoon => {
                if let Some(tag) = self.names.true_tag(to, tag) {
                    frame::set_tag(frame, tag);
                }
            }
            Planted::OneWindowForAll => {
                if let Some(sender) = self.senders.get(&tag) {
                    frame[..6].copy_from_slice(&sender.0);
                }
            }
            Planted::FailureIsDone if frame[19] == 0 && frame::is_failure(frame) => {
                self.failed.insert((to, tag));
            }
            Planted::TornReads => self.tear(to, tag, frame),
            Planted::NumberStays => frame::number_cache(frame, 1, self.checksum),
            _ => {}
        }
    }

    fn tear(&mut self, to: MacAddr, tag: u32, frame: &mut [u8]) {
        self.writing.remove(&(to, tag));
        let Some(&(lba, sectors)) = self.asked.get(&(to, tag)) else {
            return;
        };
        let end = frame::DATA + sectors as usize * SECTOR;
        if frame::is_failure(frame) || frame.len() < end {
            return;
        }
        let whole = frame[frame::DATA..end].to_vec();
        if let [.., first, last] = whole.chunks(SECTOR).collect::<Vec<_>>()[..] {
            let [first, last] = [first, last].map(|sector| first_stamp(sector) >> 32);
            let beside = &self.beside[&(to, tag)];
            let old = self.found.get(&(lba + sectors - 1));
            if let Some(old) = old.filter(|_| first == last && beside.contains(&last)) {
                frame[end - SECTOR..end].copy_from_slice(old);
            }
        }
        for (lba, sector) in (lba..).zip(whole.chunks(SECTOR)) {
            self.found.insert(lba, sector.to_vec());
        }
    }
}

/// The simulated disk, and what an engine with a mistake makes of it.
#[derive(Debug)]
pub(crate) struct Medium {
    disk: SimDisk<Buffer>,
    lies: bool,
    /// Syncs that are not done.
    skipped: VecDeque<Completion<Buffer>>,
}

impl Medium {
    pub(crate) fn new(disk: SimDisk<Buffer>, planted: Option<Planted>) -> Self {
        Self {
            disk,
            lies: planted == Some(Planted::AckBeforeStable),
            skipped: VecDeque::new(),
        }
    }
}

impl Engine<Buffer> for Medium {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.disk.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.disk.detach(file);
    }

    fn submit(&mut self, file: FileId, mut op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        if self.lies && op.kind == OpKind::Sync {
            self.skipped.push_back(Completion {
                id: op.id,
                memory: op.memory,
                result: Ok(0),
            });
            return Ok(());
        }
        if self.lies && op.kind == (OpKind::Write { durable: true }) {
            op.kind = OpKind::Write { durable: false };
        }
        self.disk.submit(file, op)
    }

    fn kick(&mut self) -> io::Result<()> {
        self.disk.kick()
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        match self.skipped.pop_front() {
            Some(done) => Some((SimDisk::<Buffer>::FILE, done)),
            None => self.disk.poll(),
        }
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.skipped.len()
    }
}
