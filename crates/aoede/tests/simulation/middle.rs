//! What stands between every station and the network: it looks at each frame, and makes the mistakes
//! that are planted.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use aoede_link::sim::SimPort;
use aoede_link::{Interface, Outgoing, Port, PortStats, RingUse};
use aoede_wire::{Address, MacAddr};

use crate::draw::SECTOR;
use crate::frame;
use crate::model::{TORN, first_stamp};
use crate::planted::Mistake;
use crate::random::Random;
use crate::trace::Trace;

/// What all stations of a run share.
pub(crate) type Shared = Rc<RefCell<Tap>>;

/// What has been seen on the network.
#[derive(Debug)]
pub(crate) struct Tap {
    /// Everything that happens has a number.
    pub(crate) tick: u64,
    pub(crate) trace: Trace,
    pub(crate) mistake: Option<Mistake>,
    /// Whether what reads find may be compared with what was taken: not where frames are damaged or
    /// writes fail, and may happen in part; and zeros have no number.
    pub(crate) looks_for_tears: bool,
    /// When a change was first sent by a MAC with a tag.
    sent: BTreeMap<(MacAddr, u32), u64>,
    /// The MACs of each initiator.
    pub(crate) stations: Vec<Vec<MacAddr>>,
    /// When an initiator last began to agree on extensions: since then it has given all its
    /// requests new tags (§15, 4).
    leaps: BTreeMap<MacAddr, (u32, u64)>,
    /// When an initiator's last life ended.
    lives: BTreeMap<MacAddr, u64>,
    /// When the window of a MAC began, if there is one.
    windows: BTreeMap<MacAddr, u64>,
    /// When the target's present life began.
    target_life: u64,
    /// Writes that the target took.
    pub(crate) taken: Vec<Taken>,
    /// By number: frames of one write as the target took them.
    pieces: BTreeMap<u32, Vec<Piece>>,
    /// Number and first sector of such frames, by MAC and tag.
    writes: BTreeMap<(MacAddr, u32), (u32, u64)>,
    /// Reads that the target took, by MAC and tag.
    reads: BTreeMap<(MacAddr, u32), (u64, u64)>,
    /// Copies of writes that the target took beyond the first.
    pub(crate) repetitions: u64,
    /// Frames with one bit flipped, of a million, where a checksum was agreed on.
    pub(crate) flips_ppm: u32,
    random: Random,
    /// Initiators and targets that have agreed on one.
    checked: BTreeSet<(MacAddr, MacAddr)>,
}

/// A copy of a write that the target has taken from its ring.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) tick: u64,
    /// Number and sector of all that it brings.
    pub(crate) stamps: Vec<(u32, u64)>,
    /// Its sender has died since.
    pub(crate) of_former_life: bool,
    /// The target has no window that goes back to when it was first sent.
    pub(crate) unknown_to_window: bool,
    /// Its sender has given the same write another tag since.
    pub(crate) withdrawn: bool,
}

#[derive(Debug)]
struct Piece {
    lba: u64,
    sectors: u64,
    first: u64,
    last: u64,
    /// `None` if copies came from several.
    from: Option<MacAddr>,
    /// Copies that were not answered yet, by initiator and tag.
    under_way: Vec<(MacAddr, u32)>,
    /// When the last of them was answered, if none is left.
    answered: Option<u64>,
}

impl Tap {
    pub(crate) fn new(trace: Trace, mistake: Option<Mistake>, random: Random) -> Self {
        Self {
            flips_ppm: 0,
            random,
            checked: BTreeSet::new(),
            tick: 0,
            trace,
            mistake,
            looks_for_tears: true,
            sent: BTreeMap::new(),
            stations: Vec::new(),
            leaps: BTreeMap::new(),
            lives: BTreeMap::new(),
            windows: BTreeMap::new(),
            target_life: 0,
            taken: Vec::new(),
            pieces: BTreeMap::new(),
            writes: BTreeMap::new(),
            reads: BTreeMap::new(),
            repetitions: 0,
        }
    }

    pub(crate) fn tick(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    pub(crate) fn initiator_ends(&mut self, mac: MacAddr) {
        let tick = self.tick();
        self.lives.insert(mac, tick);
    }

    pub(crate) fn target_begins(&mut self) {
        self.target_life = self.tick();
        self.reads.clear();
        self.forget_windows();
    }

    pub(crate) fn forget_windows(&mut self) {
        self.windows.clear();
    }

    fn leaps_to(&mut self, mac: MacAddr, tag: u32) {
        if self.leaps.get(&mac).is_none_or(|(last, _)| *last != tag) {
            let tick = self.tick();
            let station = self.stations.iter().find(|macs| macs.contains(&mac));
            for mac in station.into_iter().flatten() {
                self.leaps.insert(*mac, (tag, tick));
            }
        }
    }

    fn sends(&mut self, frame: &[u8]) {
        if frame::is_extension_request(frame) {
            let from = frame::source(frame);
            self.checked.remove(&(from, frame::destination(frame)));
            self.leaps_to(from, frame::tag(frame));
        }
        if frame::changes(frame) {
            let tick = self.tick();
            let key = (frame::source(frame), frame::tag(frame));
            self.sent.entry(key).or_insert(tick);
        }
    }

    /// Damages a frame between two that would notice. What they agree on before is not protected by
    /// anything, nor is a station that has forgotten it.
    fn flip(&mut self, side: Side, frame: &mut [u8]) {
        let (to, from) = (frame::destination(frame), frame::source(frame));
        let way = match side {
            Side::Initiator => (to, from),
            Side::Target => (from, to),
        };
        let noticed = frame::is_ata(frame) && self.checked.contains(&way);
        if noticed && self.random.chance(self.flips_ppm) {
            // Behind the Ethernet header: else it would be a frame for or from somebody else.
            let bit = self.random.below(8 * (frame.len() as u64 - 14)) as usize;
            frame[14 + bit / 8] ^= 1 << (bit % 8);
        }
    }

    fn target_takes(&mut self, frame: &[u8]) {
        let tick = self.tick();
        let from = frame::source(frame);
        if frame::begins_window(frame) {
            self.windows.insert(from, tick);
        } else if frame::resets(frame) {
            self.windows.remove(&from);
        } else if frame::sets_config(frame) {
            self.forget_windows();
        }
        if frame::is_read(frame) {
            for (tag, lba, sectors) in frame::reads(frame) {
                self.reads.insert((from, tag), (lba, sectors));
            }
        }
        if frame::changes(frame) {
            self.takes_change(tick, from, frame);
        }
    }

    fn takes_change(&mut self, tick: u64, from: MacAddr, frame: &[u8]) {
        let sent = self.sent.get(&(from, frame::tag(frame))).copied();
        let sent = sent.unwrap_or_default();
        let life = self.lives.get(&from).copied().unwrap_or_default();
        let window = self.windows.get_mut(&from);
        let unknown_to_window = window.as_ref().is_none_or(|began| sent < **began);
        if let (Some(began), true) = (window, unknown_to_window) {
            // It may have moved the window, or begun it anew (§9.2, 5).
            *began = tick;
        }
        let Some(data) = frame::written(frame) else {
            return;
        };
        let (lba, sectors) = frame::span(frame);
        let stamps = data.chunks_exact(SECTOR).map(first_stamp);
        let stamps = (lba..)
            .zip(stamps)
            .filter(|(lba, stamp)| stamp & 0xFFFF_FFFF == *lba);
        let stamps: Vec<_> = stamps
            .map(|(lba, stamp)| ((stamp >> 32) as u32, lba))
            .collect();
        if let Some((number, _)) = stamps.first() {
            let key = (from, frame::tag(frame));
            self.writes.insert(key, (*number, lba));
            let pieces = self.pieces.entry(*number).or_default();
            let known = pieces
                .iter_mut()
                .find(|piece| (piece.lba, piece.sectors) == (lba, sectors));
            if let Some(piece) = known {
                piece.last = tick;
                piece.under_way.push(key);
                piece.answered = None;
                piece.from = piece.from.filter(|known| *known == from);
                self.repetitions += 1;
            } else {
                pieces.push(Piece {
                    lba,
                    sectors,
                    first: tick,
                    last: tick,
                    from: Some(from),
                    under_way: vec![key],
                    answered: None,
                });
            }
        }
        self.taken.push(Taken {
            tick,
            stamps,
            of_former_life: sent < life,
            unknown_to_window,
            withdrawn: self
                .leaps
                .get(&from)
                .is_some_and(|(_, leapt)| sent < *leapt),
        });
    }

    /// No frame of a read shows a part of a write, and beside it what that write had replaced.
    fn target_answers(&mut self, frame: &[u8]) {
        let tick = self.tick();
        for tag in frame::answered_tags(frame) {
            let key = (frame::destination(frame), tag);
            let Some(&(number, lba)) = self.writes.get(&key) else {
                continue;
            };
            let pieces = self.pieces.get_mut(&number).into_iter().flatten();
            for piece in pieces.filter(|piece| piece.lba == lba) {
                piece.is_answered(key, tick);
            }
        }
        let key = (frame::destination(frame), frame::tag(frame));
        let Some(&(lba, sectors)) = self.reads.get(&key) else {
            return;
        };
        let bytes = sectors as usize * SECTOR;
        let Some(data) = frame.get(frame::DATA..frame::DATA + bytes) else {
            return;
        };
        if !self.looks_for_tears || frame::is_failure(frame) {
            return;
        }
        let found: Vec<u32> = data
            .chunks_exact(SECTOR)
            .map(|sector| (first_stamp(sector) >> 32) as u32)
            .collect();
        let mut before = 0;
        for (at, &number) in (lba..).zip(&found) {
            if number != before {
                self.look_for_tear(number, at, lba, &found);
            }
            before = number;
        }
    }

    fn look_for_tear(&self, number: u32, at: u64, lba: u64, found: &[u32]) {
        let pieces = self.pieces.get(&number).map_or(&[][..], |pieces| pieces);
        // What an earlier life of the target has taken, its end may have torn.
        if pieces.iter().any(|piece| piece.first < self.target_life) {
            return;
        }
        // Cut anew, it may have been refused as one frame and taken as another.
        let covering: Vec<_> = pieces.iter().filter(|piece| piece.covers(at)).collect();
        let [piece] = covering[..] else {
            return;
        };
        let range = piece.lba.max(lba)..(piece.lba + piece.sectors).min(lba + found.len() as u64);
        for other in range {
            let beside = found[(other - lba) as usize];
            let is_newer = self.may_be_newer(beside, other, piece);
            assert!(
                beside == number || is_newer,
                "write #{number} {TORN}: a read of one frame shows it in sector {at}, \
                 and the older #{beside} in sector {other}"
            );
        }
    }

    /// Whether a write may have taken effect in a sector after this frame of another: those of one
    /// MAC do so in the order in which they were taken, those of several while they are under way.
    fn may_be_newer(&self, number: u32, lba: u64, than: &Piece) -> bool {
        let pieces = self.pieces.get(&number).into_iter().flatten();
        let mut covering = pieces.filter(|piece| piece.covers(lba));
        covering.any(|piece| {
            let in_order = piece.from.is_some() && piece.from == than.from;
            let was_over = || piece.answered.is_some_and(|at| at < than.first);
            piece.last > than.first || !in_order && !was_over()
        })
    }
}

impl Piece {
    fn is_answered(&mut self, copy: (MacAddr, u32), tick: u64) {
        let Some(place) = self.under_way.iter().position(|other| *other == copy) else {
            return;
        };
        self.under_way.swap_remove(place);
        if self.under_way.is_empty() {
            self.answered = Some(tick);
        }
    }

    fn covers(&self, lba: u64) -> bool {
        (self.lba..self.lba + self.sectors).contains(&lba)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Initiator,
    Target,
}

/// A port with a look at its frames.
#[derive(Debug)]
pub(crate) struct Middle {
    port: SimPort,
    side: Side,
    shared: Shared,
    current: Vec<u8>,
    /// What the mistake has to say to the network.
    forged: VecDeque<Vec<u8>>,
}

impl Middle {
    pub(crate) fn new(port: SimPort, side: Side, shared: &Shared) -> Self {
        Self {
            port,
            side,
            shared: Rc::clone(shared),
            current: Vec::new(),
            forged: VecDeque::new(),
        }
    }

    pub(crate) fn is_readable(&self) -> bool {
        self.port.is_readable()
    }

    /// What becomes of a frame on its way in; `None` if nothing comes in.
    fn take_in(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut tap = self.shared.borrow_mut();
        let mut frame = bytes.to_vec();
        tap.flip(self.side, &mut frame);
        tap.trace.frame(self.side, false, &frame);
        match self.side {
            Side::Target => tap.target_takes(&frame),
            Side::Initiator if frame::agrees_on_checksum(&frame) => {
                let way = (frame::destination(&frame), frame::source(&frame));
                tap.checked.insert(way);
            }
            Side::Initiator => {}
        }
        let Some(mistake) = &mut tap.mistake else {
            return Some(frame);
        };
        let passes = match self.side {
            Side::Initiator => mistake.initiator_receives(&mut frame),
            Side::Target => mistake.target_receives(&mut frame, &mut self.forged),
        };
        passes.then_some(frame)
    }

    fn send_one(&mut self, mut frame: Vec<u8>) -> bool {
        {
            let mut tap = self.shared.borrow_mut();
            if let Some(mistake) = &mut tap.mistake {
                match self.side {
                    Side::Initiator => mistake.initiator_sends(&mut frame),
                    Side::Target => mistake.target_sends(&mut frame),
                }
            }
            match self.side {
                Side::Initiator => tap.sends(&frame),
                Side::Target => tap.target_answers(&frame),
            }
            tap.trace.frame(self.side, true, &frame);
        }
        self.port.send(&[frame]) == 1
    }
}

impl Port for Middle {
    fn interface(&self) -> &Interface {
        self.port.interface()
    }

    fn set_interface(&mut self, interface: Interface) {
        self.port.set_interface(interface);
    }

    fn max_frame(&self) -> usize {
        self.port.max_frame()
    }

    fn receive(&mut self) -> Option<&[u8]> {
        loop {
            let bytes = self.port.receive()?.to_vec();
            if let Some(frame) = self.take_in(&bytes) {
                self.current = frame;
                return Some(&self.current);
            }
        }
    }

    fn release(&mut self) {
        while let Some(frame) = self.forged.pop_front() {
            self.port.send(&[frame]);
        }
        self.port.release();
    }

    fn ring_use(&self) -> RingUse {
        self.port.ring_use()
    }

    fn send<F: Outgoing>(&mut self, frames: &[F]) -> usize {
        for (done, frame) in frames.iter().enumerate() {
            let shared = frame.shared().iter().map(|byte| byte.load(Relaxed));
            let bytes = frame.head().iter().copied().chain(shared).collect();
            if !self.send_one(bytes) {
                return done;
            }
        }
        frames.len()
    }

    fn set_exports(&mut self, exports: &[Address]) -> io::Result<()> {
        self.port.set_exports(exports)
    }

    fn stats(&mut self) -> PortStats {
        self.port.stats()
    }
}
