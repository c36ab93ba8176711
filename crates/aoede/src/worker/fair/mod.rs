//! Who is served next when not all can be, so that nobody has to wait for somebody greedy.
//!
//! The kernel's ring is one queue for all initiators. When a frame cannot be served at once it is
//! copied here, where every initiator has a queue of its own at every export, and the queues take
//! turns ([`Fair::next`]): deficit round robin, by what their frames cost ([`cost`]). A frame waits
//! - behind others of its initiator, so that their order stays (but not Query/Config),
//! - for a buffer, the last of which are for those who have few,
//! - for the limits of its export ([`Throttle`]),
//! - while others use the same disk, for the initiator's own requests there ([`Share`]),
//! - for whatever the caller says.
//!
//! Who is alone, and has no limit, never waits: [`Fair::admits`] is then a few comparisons.
//!
//! Everything has a bound: an initiator's queue is as long as its export's announced buffer count,
//! all together are as many as [`Frames`] holds, and the longest queue gives way. What is dropped is
//! counted. Time comes with [`Fair::handle_time`].
#![forbid(unsafe_code)]

mod bucket;
mod cost;
mod frames;
mod senders;
mod share;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use aoede_target::Queue;
use aoede_wire::{Command, HEADER_BYTES, MacAddr, Tag};

use crate::control::config::Limits;
pub use bucket::{BURST, Bucket, Throttle};
pub use cost::{REQUEST_BYTES, cost, needs_disk};
pub use frames::Frames;
pub use senders::{ABSENCE, MOST_SENDERS, SenderId};
use senders::{Key, Sender, Senders};
pub use share::{Class, LEAST, Share};

/// What a queue gets when it is its turn, in units of [`cost`]: more than any frame with a single
/// request costs at an MTU of 9000.
pub const QUANTUM: u32 = 16 << 10;
/// How often it is looked at who is still there.
const SWEEP: Duration = Duration::from_millis(10);
/// Of the buffers, this part is for initiators with few requests, if there are several.
const PART_FOR_FEW: usize = 8;
/// Frames to a wildcard address that may wait, of one initiator.
const WILDCARD_PLACES: usize = 64;
/// Changes that were done last and are remembered,
const REMEMBERED: usize = 64;
/// for so long: a copy that was sent before the answer came is there by then.
const MEMORY: Duration = Duration::from_millis(100);
/// Of LBA0 in an ATA argument.
const LBA_OFFSET: usize = 4;
/// Stands in the place of an export's number for a wildcard address.
const ALL: u16 = u16::MAX;

/// What copies of an ATA request have in common, whatever path of their initiator they took: the tag,
/// and where on the disk it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    tag: Tag,
    lba: [u8; 6],
}

impl Name {
    /// That of a frame; `None` if it is too short to have one.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        Self::new(Tag::of_frame(frame)?, frame.get(HEADER_BYTES..)?)
    }

    /// Of a tag and an ATA argument.
    pub fn new(tag: Tag, argument: &[u8]) -> Option<Self> {
        let lba = argument.get(LBA_OFFSET..)?.first_chunk().copied()?;
        Some(Self { tag, lba })
    }
}

/// What must be known of a frame to say when it is its turn.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// Where it comes from.
    pub sender: SenderId,
    export: u16,
    mac: MacAddr,
    name: Option<Name>,
    needs_disk: bool,
    /// It may be served before older requests.
    is_query: bool,
}

impl Head {
    /// The export that is meant; `None` if it is a wildcard.
    pub fn export(&self) -> Option<usize> {
        (self.export != ALL).then_some(usize::from(self.export))
    }

    /// Whether the frame may give the disk something to do.
    pub fn needs_disk(&self) -> bool {
        self.needs_disk
    }
}

/// A waiting frame whose turn it is. Its bytes stay in [`Frames`] until [`Fair::release`].
#[derive(Clone, Copy, Debug)]
#[must_use = "its place is taken until `Fair::release`"]
pub struct Turn {
    /// Where its bytes are.
    pub place: usize,
    /// What it is.
    pub head: Head,
    /// Where it came in.
    pub seat: usize,
    /// The ring when it was taken from there,
    pub queue: Queue,
    /// and the time.
    pub came: Duration,
}

/// Where a frame waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The place for its bytes.
    pub place: usize,
    /// The export of a frame that was dropped for it.
    pub dropped: Option<usize>,
}

/// A request that the disk works on; to be given back with [`Fair::handle_done`].
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    sender: SenderId,
    wants_more: bool,
    began: Duration,
}

/// Counters, and how many wait now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FairStats {
    /// Frames that had to wait, ever.
    pub waited: u64,
    /// Frames that wait now.
    pub waiting: usize,
    /// Dropped because so many of their initiator waited already.
    pub queue_full: u64,
    /// Dropped because so many waited in all.
    pub room_full: u64,
    /// Dropped because their export or interface went away.
    pub gone: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Fair {
    now: Duration,
    /// When it was last looked at who is there.
    swept: Duration,
    senders: Senders,
    exports: Vec<Export>,
    places: Vec<Place>,
    free: Vec<u32>,
    /// Frames that may wait: no more than there are places.
    most: usize,
    /// Those with waiting frames, in the order of their turns.
    order: VecDeque<SenderId>,
    /// Waiting frames to wildcard addresses.
    wildcards: usize,
    /// Initiators that use a disk, each at each export.
    active: usize,
    buffers: usize,
    /// Frames that came to wait, ever.
    number: u64,
    /// Changes that were done last, of which copies may still come: export, name and time.
    done: VecDeque<(usize, Name, Duration)>,
    stats: FairStats,
}

#[derive(Clone, Copy, Debug)]
struct Export {
    throttle: Throttle,
    share: Share,
    /// Frames of each initiator that may wait.
    places: usize,
    /// Initiators that use it.
    active: usize,
}

/// A place for a waiting frame.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// `None` while nothing waits here.
    head: Option<Head>,
    seat: usize,
    queue: Queue,
    came: Duration,
    cost: u64,
    number: u64,
    before: Option<u32>,
    behind: Option<u32>,
}

const NO_FRAME: Place = Place {
    head: None,
    seat: 0,
    queue: Queue {
        number: 0,
        waiting: 0,
        free: 0,
    },
    came: Duration::ZERO,
    cost: 0,
    number: 0,
    before: None,
    behind: None,
};

impl Fair {
    /// Without exports. At most `places` frames wait, for `buffers` buffers among other things.
    pub fn new(places: usize, buffers: usize) -> Self {
        let count = u32::try_from(places).unwrap_or(u32::MAX);
        Self {
            now: Duration::ZERO,
            swept: Duration::ZERO,
            senders: Senders::new(),
            exports: Vec::new(),
            places: vec![NO_FRAME; places],
            free: (0..count).rev().collect(),
            most: places,
            order: VecDeque::with_capacity(MOST_SENDERS + 1),
            wildcards: 0,
            active: 0,
            buffers,
            number: 0,
            done: VecDeque::with_capacity(REMEMBERED),
            stats: FairStats::default(),
        }
    }

    /// Lets no more than so many frames wait from now on, and no more than there are places: the
    /// others are never used, so that their memory costs nothing.
    pub fn set_most_waiting(&mut self, most: usize) {
        self.most = most.min(self.places.len());
    }

    /// There is an export with this number, below 65535, from now on another than before. It has
    /// announced `buffers`, takes as many requests at once, and has no limits.
    pub fn set_export(&mut self, export: usize, buffers: usize) {
        self.forget_export(export);
        let new = Export {
            throttle: Throttle::default(),
            share: Share::new(buffers),
            places: buffers,
            active: 0,
        };
        while self.exports.len() <= export {
            self.exports.push(new);
        }
        if let Some(export) = self.exports.get_mut(export) {
            // Whoever is still known there is counted still.
            let active = export.active;
            *export = Export { active, ..new };
        }
    }

    /// An export's limits, instead of those before.
    pub fn set_limits(&mut self, export: usize, limits: Limits) {
        if let Some(export) = self.exports.get_mut(export) {
            export.throttle = Throttle::new(limits);
        }
    }

    /// Drops what waits for an export.
    pub fn forget_export(&mut self, export: usize) {
        self.forget(|place| place.head.and_then(|head| head.export()) == Some(export));
    }

    /// Drops what came in by a seat.
    pub fn forget_seat(&mut self, seat: usize) {
        self.forget(|place| place.seat == seat);
    }

    /// Counters.
    pub fn stats(&self) -> FairStats {
        FairStats {
            waiting: self.places.len() - self.free.len(),
            ..self.stats
        }
    }

    /// Tells the time, before anything else of a turn.
    pub fn handle_time(&mut self, now: Duration) {
        self.now = now;
        if now < self.swept.saturating_add(SWEEP) {
            return;
        }
        self.swept = now;
        let (exports, active) = (&mut self.exports, &mut self.active);
        self.senders.forget_absent(now, |sender| {
            if sender.is_active {
                *active = active.saturating_sub(1);
                let export = exports.get_mut(usize::from(sender.key.export()));
                if let Some(export) = export {
                    export.active = export.active.saturating_sub(1);
                }
            }
        });
    }

    /// When something that waits is due for its export's limits, if that is in the future.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let due = self.order.iter().filter_map(|&id| {
            let head = self.first(id)?.head.filter(|head| head.needs_disk)?;
            let due = self.exports.get(usize::from(head.export))?.throttle.due();
            (due > self.now).then_some(due)
        });
        due.min()
    }

    /// What a frame is that has come for an export, or with `None` for a wildcard address.
    pub fn look(&mut self, export: Option<usize>, mac: MacAddr, frame: &[u8]) -> Head {
        let export = export.and_then(|export| u16::try_from(export).ok());
        let export = export.unwrap_or(ALL);
        Head {
            sender: self.senders.find(Key::new(export, mac), self.now),
            export,
            mac,
            name: Name::of_frame(frame),
            needs_disk: needs_disk(frame),
            is_query: Command::of_frame(frame) == Some(Command::Config),
        }
    }

    /// Whether a frame that has just come may be served now, with `buffers` free. What waits and
    /// may be served must have been.
    pub fn admits(&self, head: &Head, buffers: usize) -> bool {
        if head.is_query {
            // It changes nothing that a request depends on, and discovery should not wait.
            return buffers > 0;
        }
        let Some(sender) = self.senders.get(head.sender) else {
            return false;
        };
        sender.waiting == 0
            && self.may_begin(sender, head, buffers)
            && !self.comes_behind_others(head, u64::MAX)
    }

    /// Whether more frames should be taken from the ring of a seat. Not when somebody alone has sent
    /// more than was announced: the ring keeps them, and nobody is behind them.
    pub fn takes_frames(&self, seat: usize) -> bool {
        // What waits for its limit may do so for long.
        let is_stuck = |id: &&SenderId| {
            let (Some(sender), Some(place)) = (self.senders.get(**id), self.first(**id)) else {
                return false;
            };
            let is_limited = |head: Head| {
                let export = self.exports.get(usize::from(head.export));
                export.is_some_and(|export| export.throttle.is_limited())
            };
            let full = |head: &Head| self.is_full(sender, head, seat) && !is_limited(*head);
            place.head.as_ref().is_some_and(full)
        };
        let stuck = self.order.iter().find(is_stuck);
        let Some(stuck) = stuck.and_then(|&id| self.senders.get(id)) else {
            return true;
        };
        let mut others = self.senders.iter().filter(|sender| {
            (sender.is_active || sender.waiting > 0) && !sender.key.is_same_mac(stuck.key)
        });
        others.next().is_some()
    }

    /// Whether several ask, so that what is in the rings should be looked at soon.
    pub fn is_shared(&self) -> bool {
        self.active > 1 || !self.order.is_empty()
    }

    /// Finds a place for a frame that must wait, to be put into [`Frames`] there. With `None` it is
    /// dropped, and counted.
    pub fn keep(&mut self, head: Head, seat: usize, queue: Queue, cost: u64) -> Option<Kept> {
        let mut dropped = None;
        if self.is_done(&head) {
            return None;
        }
        let sender = self.senders.get(head.sender)?;
        let waiting = sender.waiting;
        if self.is_full(sender, &head, seat) {
            self.stats.queue_full += 1;
            return None;
        }
        if self.places.len() - self.free.len() >= self.most {
            self.stats.room_full += 1;
            let longest = self.longest()?;
            let longest = self.senders.get(longest)?;
            if longest.waiting <= waiting + 1 {
                return None;
            }
            let (_, last) = longest.ends?;
            dropped = self.place(last)?.head.and_then(|head| head.export());
            self.unlink(last);
            self.free.push(last);
        }
        let index = self.free.pop()?;
        self.stats.waited += 1;
        self.number += 1;
        let (number, came) = (self.number, self.now);
        let sender = self.senders.get_mut(head.sender)?;
        let last = sender.ends.map(|(_, last)| last);
        sender.ends = Some((sender.ends.map_or(index, |(first, _)| first), index));
        sender.waiting += 1;
        if sender.waiting == 1 {
            sender.credit = i64::from(QUANTUM);
            self.order.push_back(head.sender);
        }
        if let Some(last) = last.and_then(|last| self.place_mut(last)) {
            last.behind = Some(index);
        }
        self.wildcards += usize::from(head.export == ALL);
        *self.place_mut(index)? = Place {
            head: Some(head),
            seat,
            queue,
            came,
            cost,
            number,
            before: last,
            behind: None,
        };
        let place = usize::try_from(index).ok()?;
        Some(Kept { place, dropped })
    }

    /// The next waiting frame to be served, with `buffers` free. `has_room` says whether the caller
    /// has what it needs, and `can_answer` whether a seat has.
    pub fn next(
        &mut self,
        buffers: usize,
        has_room: impl Fn(&Head) -> bool,
        can_answer: impl Fn(usize) -> bool,
    ) -> Option<Turn> {
        let ready = |fair: &Self, id| fair.ready(id, buffers, &has_room, &can_answer);
        // If all that are ready have had their share, they get more in this round, and one of them
        // its turn in the next.
        for _ in 0..2 {
            let mut best = None;
            for _ in 0..self.order.len() {
                let id = *self.order.front()?;
                if let Some(index) = ready(self, id) {
                    let sender = self.senders.get_mut(id)?;
                    if sender.credit > 0 {
                        return self.take(index);
                    }
                    sender.credit += i64::from(QUANTUM);
                    best = best.max(Some(sender.credit));
                }
                self.order.rotate_left(1);
            }
            let best = best?;
            if best <= 0 {
                // Each has had very much in advance: as many rounds at once as one needs.
                let rounds = -best / i64::from(QUANTUM) + 1;
                for place in 0..self.order.len() {
                    let id = *self.order.get(place)?;
                    if ready(self, id).is_some() {
                        self.senders.get_mut(id)?.credit += rounds * i64::from(QUANTUM);
                    }
                }
            }
        }
        None
    }

    /// A frame's turn is over.
    pub fn release(&mut self, turn: &Turn) {
        if let Ok(index) = u32::try_from(turn.place) {
            self.free.push(index);
        }
    }

    /// A request goes to the disk of an export, with so much data.
    pub fn begin(&mut self, sender: SenderId, export: usize, bytes: u64) -> Ticket {
        let ticket = Ticket {
            sender,
            wants_more: self.senders.get(sender).is_some_and(|s| s.waiting > 0),
            began: self.now,
        };
        let number = u16::try_from(export).unwrap_or(ALL);
        let Some(export) = self.exports.get_mut(export) else {
            return ticket;
        };
        export.throttle.take(self.now, bytes);
        let Some(known) = self.senders.get_mut(sender) else {
            return ticket;
        };
        known.held += 1;
        // A crowd has no export of its own.
        if !known.is_active && known.key.export() == number {
            known.is_active = true;
            self.active += 1;
            export.active += 1;
            if export.active > 1 {
                export.share.handle_newcomer(self.now);
            }
        }
        ticket
    }

    /// The disk is done with a request. `is_read` is `None` if it was neither read nor write.
    pub fn handle_done(&mut self, ticket: Ticket, export: usize, is_read: Option<bool>) {
        if let Some(sender) = self.senders.get_mut(ticket.sender) {
            sender.held = sender.held.saturating_sub(1);
        }
        let shared = self.exports.get_mut(export).filter(|e| e.active > 1);
        if let Some((export, is_read)) = shared.zip(is_read) {
            let class = Class {
                is_read,
                wants_more: ticket.wants_more,
            };
            let took = self.now.saturating_sub(ticket.began);
            export.share.handle_done(self.now, class, took);
        }
    }

    /// Drops what waits and is the same request once more, as it came before this one was answered:
    /// its turn might come when newer data stands there. It may have come from another MAC, of
    /// the same initiator. If it is another's after all, that one asks again. Returns how many
    /// frames those were. Those that come within 100 ms and would have to wait are not kept.
    pub fn drop_repetitions(&mut self, export: usize, name: Name) -> u64 {
        if self.done.len() >= REMEMBERED {
            self.done.pop_front();
        }
        self.done.push_back((export, name, self.now));
        let mut dropped = 0;
        let is_same = |place: &Place| {
            place.head.as_ref().is_some_and(|head| {
                let is_there = head.export == ALL || usize::from(head.export) == export;
                is_there && head.needs_disk && head.name == Some(name)
            })
        };
        while let Some(index) = self.order.iter().find_map(|&id| {
            let mut queue = self.queue(self.senders.get(id)?);
            queue
                .find(|(_, place)| is_same(place))
                .map(|(index, _)| index)
        }) {
            self.unlink(index);
            self.free.push(index);
            dropped += 1;
        }
        dropped
    }

    /// The frame of an initiator that may be served now: its oldest, or if that came by a seat which
    /// cannot answer, the oldest of another.
    fn ready(
        &self,
        id: SenderId,
        buffers: usize,
        has_room: &impl Fn(&Head) -> bool,
        can_answer: &impl Fn(usize) -> bool,
    ) -> Option<u32> {
        let sender = self.senders.get(id)?;
        let head = self.first(id)?.head?;
        if !self.may_begin(sender, &head, buffers) || !has_room(&head) {
            return None;
        }
        let (index, place) = self
            .queue(sender)
            .find(|(_, place)| can_answer(place.seat))?;
        let head = place.head.as_ref()?;
        let in_order = !self.comes_behind_others(head, place.number);
        (self.may_begin(sender, head, buffers) && in_order).then_some(index)
    }

    fn may_begin(&self, sender: &Sender, head: &Head, buffers: usize) -> bool {
        if buffers == 0 {
            return false;
        }
        let export = self.exports.get(usize::from(head.export));
        let Some(export) = export.filter(|_| head.needs_disk) else {
            return true;
        };
        if export.throttle.due() > self.now {
            return false;
        }
        let itself = usize::from(sender.is_active);
        if export.active > itself && sender.held >= export.share.bound() {
            return false;
        }
        let all = self.active + 1 - itself;
        all < 2
            || buffers > self.buffers / PART_FOR_FEW
            || sender.held.saturating_mul(all) < self.buffers
    }

    /// Whether an older frame of the same initiator waits that this one must not overtake: a
    /// wildcard and a single export's address mean the same disk. Those of one queue are in order.
    fn comes_behind_others(&self, head: &Head, number: u64) -> bool {
        let is_wildcard = head.export == ALL;
        if self.order.is_empty() || (!is_wildcard && self.wildcards == 0) {
            return false;
        }
        let own = Key::new(head.export, head.mac);
        let others = self.senders.iter().filter(|sender| {
            let other_is_wildcard = sender.key.export() == ALL;
            sender.key.is_same_mac(own) && other_is_wildcard != is_wildcard
        });
        let mut firsts = others.filter_map(|sender| self.place(sender.ends?.0));
        firsts.any(|first| first.number < number)
    }

    fn take(&mut self, index: u32) -> Option<Turn> {
        let place = *self.place(index)?;
        let head = place.head?;
        self.unlink(index);
        if let Some(sender) = self.senders.get_mut(head.sender).filter(|s| s.waiting > 0) {
            let cost = i64::try_from(place.cost).unwrap_or(i64::MAX);
            sender.credit = sender.credit.saturating_sub(cost);
        }
        Some(Turn {
            place: usize::try_from(index).ok()?,
            head,
            seat: place.seat,
            queue: place.queue,
            came: place.came,
        })
    }

    /// Takes a waiting frame out of its queue. A queue that is empty then is forgotten.
    fn unlink(&mut self, index: u32) {
        let Some(place) = self.place_mut(index) else {
            return;
        };
        let Place {
            head: Some(head),
            before,
            behind,
            ..
        } = std::mem::replace(place, NO_FRAME)
        else {
            return;
        };
        if let Some(before) = before.and_then(|before| self.place_mut(before)) {
            before.behind = behind;
        }
        if let Some(behind) = behind.and_then(|behind| self.place_mut(behind)) {
            behind.before = before;
        }
        self.wildcards -= usize::from(head.export == ALL);
        let Some(sender) = self.senders.get_mut(head.sender) else {
            return;
        };
        sender.waiting -= 1;
        sender.ends = sender.ends.and_then(|(first, last)| {
            let first = if before.is_some() {
                Some(first)
            } else {
                behind
            };
            let last = if behind.is_some() { Some(last) } else { before };
            first.zip(last)
        });
        if sender.waiting == 0 {
            sender.credit = 0;
            if self.order.front() == Some(&head.sender) {
                self.order.pop_front();
            } else {
                self.order.retain(|&id| id != head.sender);
            }
        }
    }

    fn forget(&mut self, is_gone: impl Fn(&Place) -> bool) {
        for index in 0..u32::try_from(self.places.len()).unwrap_or(u32::MAX) {
            let place = self.place(index).filter(|place| place.head.is_some());
            if place.is_some_and(&is_gone) {
                self.unlink(index);
                self.free.push(index);
                self.stats.gone += 1;
            }
        }
    }

    fn longest(&self) -> Option<SenderId> {
        let waiting = |id: &SenderId| self.senders.get(*id).map(|sender| sender.waiting);
        self.order.iter().copied().max_by_key(waiting)
    }

    /// Whether a frame is a copy of a change that was done just now.
    fn is_done(&self, head: &Head) -> bool {
        head.needs_disk
            && self.done.iter().any(|&(export, name, at)| {
                usize::from(head.export) == export
                    && head.name == Some(name)
                    && self.now.saturating_sub(at) <= MEMORY
            })
    }

    /// Whether as many frames of an initiator wait as may, of those that came in by this seat: by
    /// another way it may be answered.
    fn is_full(&self, sender: &Sender, head: &Head, seat: usize) -> bool {
        let export = self.exports.get(usize::from(head.export));
        let places = export.map_or(WILDCARD_PLACES, |export| export.places);
        sender.waiting >= places && {
            let here = self.queue(sender).filter(|(_, place)| place.seat == seat);
            here.count() >= places
        }
    }

    /// The waiting frames of an initiator, from the oldest on.
    fn queue(&self, sender: &Sender) -> impl Iterator<Item = (u32, &Place)> + '_ {
        let mut next = sender.ends.map(|(first, _)| first);
        std::iter::from_fn(move || {
            let index = next?;
            let place = self.place(index)?;
            next = place.behind;
            Some((index, place))
        })
    }

    fn first(&self, id: SenderId) -> Option<&Place> {
        self.place(self.senders.get(id)?.ends?.0)
    }

    fn place(&self, index: u32) -> Option<&Place> {
        self.places.get(usize::try_from(index).ok()?)
    }

    fn place_mut(&mut self, index: u32) -> Option<&mut Place> {
        self.places.get_mut(usize::try_from(index).ok()?)
    }
}
