//! Overlapping requests take effect in arrival order.
//!
//! A request waits for every earlier unfinished one that it overlaps when either of the two
//! changes data. Later requests count a waiting one as unfinished, so none is overtaken for ever,
//! and since each waits only for earlier ones, no two wait for each other.
//!
//! A request whose turn has come may still have to wait for room in the cache. Room is made by
//! writing pages that it may overlap, so that writing goes before all requests that have not begun:
//! they have had no effect yet.
#![forbid(unsafe_code)]

/// The bytes a request works on, and whether it changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// First byte.
    pub(super) start: u64,
    /// First byte after it.
    pub(super) end: u64,
    /// A write or trim.
    pub(super) changes: bool,
}

impl Extent {
    fn conflicts(self, other: Self) -> bool {
        (self.changes || other.changes) && self.start < other.end && other.start < self.end
    }
}

#[derive(Debug)]
struct Entry {
    extent: Extent,
    /// The caller's number for the request.
    slot: u32,
    /// Unfinished requests before it that it conflicts with.
    waits_for: u32,
    /// Its turn has come, but it has not begun.
    paused: bool,
}

impl Entry {
    fn has_begun(&self) -> bool {
        self.waits_for == 0 && !self.paused
    }
}

/// Every unfinished request's extent. Fixed in size from the start.
#[derive(Debug)]
pub(super) struct Order {
    /// In no particular order: what conflicts with a finishing request came after it.
    entries: Vec<Entry>,
    /// Where each slot's entry is.
    places: Vec<u32>,
    /// Entries that change data: while there are none, reads need not look further.
    changing: usize,
    /// Entries that wait for another.
    waiting: usize,
}

const NOWHERE: u32 = u32::MAX;

impl Order {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
            places: vec![NOWHERE; capacity],
            changing: 0,
            waiting: 0,
        }
    }

    /// Adds a request; whether it may start at once.
    pub(super) fn admit(&mut self, slot: u32, extent: Extent) -> bool {
        let waits_for = if extent.changes || self.changing > 0 {
            let earlier = self.entries.iter();
            earlier
                .filter(|entry| entry.extent.conflicts(extent))
                .count()
        } else {
            0
        };
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = number(self.entries.len());
        }
        self.entries.push(Entry {
            extent,
            slot,
            waits_for: number(waits_for),
            paused: false,
        });
        self.changing += usize::from(extent.changes);
        self.waiting += usize::from(waits_for > 0);
        waits_for == 0
    }

    /// Adds a request in front of all that have not begun; whether it may start at once.
    pub(super) fn admit_in_front(&mut self, slot: u32, extent: Extent) -> bool {
        let mut waits_for = 0;
        for entry in &mut self.entries {
            if !entry.extent.conflicts(extent) {
                continue;
            }
            if entry.has_begun() {
                waits_for += 1;
            } else {
                self.waiting += usize::from(entry.waits_for == 0);
                entry.waits_for += 1;
            }
        }
        if let Some(place) = self.places.get_mut(slot as usize) {
            *place = number(self.entries.len());
        }
        self.entries.push(Entry {
            extent,
            slot,
            waits_for,
            paused: false,
        });
        self.changing += usize::from(extent.changes);
        self.waiting += usize::from(waits_for > 0);
        waits_for == 0
    }

    /// A request whose turn has come has not begun yet, or begins now.
    pub(super) fn set_paused(&mut self, slot: u32, paused: bool) {
        let place = self.places.get(slot as usize).copied().unwrap_or(NOWHERE);
        if let Some(entry) = self.entries.get_mut(place as usize) {
            entry.paused = paused;
        }
    }

    /// Whether it is a request's turn.
    pub(super) fn is_turn(&self, slot: u32) -> bool {
        let place = self.places.get(slot as usize).copied().unwrap_or(NOWHERE);
        let entry = self.entries.get(place as usize);
        entry.is_some_and(|entry| entry.waits_for == 0)
    }

    /// Whether a request for this extent would have to wait.
    pub(super) fn conflicts(&self, extent: Extent) -> bool {
        (extent.changes || self.changing > 0)
            && self
                .entries
                .iter()
                .any(|entry| entry.extent.conflicts(extent))
    }

    /// Removes a finished request and names those that may start now.
    pub(super) fn finish(&mut self, slot: u32, mut start: impl FnMut(u32)) {
        let Some(place) = self.places.get_mut(slot as usize) else {
            return;
        };
        let place = std::mem::replace(place, NOWHERE) as usize;
        if place >= self.entries.len() {
            return;
        }
        let finished = self.entries.swap_remove(place);
        debug_assert_eq!((finished.slot, finished.waits_for), (slot, 0));
        if let Some(moved) = self.entries.get(place) {
            if let Some(moved) = self.places.get_mut(moved.slot as usize) {
                *moved = number(place);
            }
        }
        self.changing -= usize::from(finished.extent.changes);
        if self.waiting == 0 {
            return;
        }
        let waiting = self.entries.iter_mut().filter(|entry| entry.waits_for > 0);
        for entry in waiting.filter(|entry| entry.extent.conflicts(finished.extent)) {
            entry.waits_for -= 1;
            if entry.waits_for == 0 {
                self.waiting -= 1;
                start(entry.slot);
            }
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(start: u64, end: u64) -> Extent {
        Extent {
            start,
            end,
            changes: false,
        }
    }

    fn write(start: u64, end: u64) -> Extent {
        Extent {
            start,
            end,
            changes: true,
        }
    }

    fn finish(order: &mut Order, slot: u32) -> Vec<u32> {
        let mut started = Vec::new();
        order.finish(slot, |slot| started.push(slot));
        started.sort_unstable();
        started
    }

    #[test]
    fn reads_never_wait_for_reads() {
        let mut order = Order::new(3);
        assert!((0..3).all(|slot| order.admit(slot, read(0, 10))));
        assert_eq!(finish(&mut order, 1), []);
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        let mut order = Order::new(3);
        assert!(order.admit(0, write(10, 20)));
        assert!(order.admit(1, write(0, 10)));
        assert!(order.admit(2, read(20, 30)));
    }

    #[test]
    fn a_write_waits_for_all_it_overlaps_and_readers_wait_for_it() {
        let mut order = Order::new(5);
        assert!(order.admit(0, read(0, 10)));
        assert!(order.admit(1, read(5, 15)));
        assert!(!order.admit(2, write(8, 20)));
        assert!(
            !order.admit(3, read(19, 20)),
            "it would overtake the waiting write"
        );
        assert!(order.admit(4, read(0, 8)));
        assert_eq!(finish(&mut order, 0), []);
        assert_eq!(finish(&mut order, 1), [2]);
        assert_eq!(finish(&mut order, 2), [3]);
        assert_eq!(finish(&mut order, 3), []);
        assert_eq!(finish(&mut order, 4), []);
    }

    #[test]
    fn writing_goes_before_what_has_not_begun() {
        let mut order = Order::new(5);
        assert!(order.admit(0, read(0, 10)));
        assert!(order.admit(1, write(10, 20)));
        order.set_paused(1, true);
        assert!(
            !order.admit(2, write(15, 25)),
            "behind the one that waits for room"
        );
        assert!(
            !order.admit_in_front(3, write(5, 30)),
            "behind the read that has begun"
        );
        assert!(!order.is_turn(1));
        assert!(!order.admit(4, read(25, 26)));
        assert_eq!(finish(&mut order, 0), [3]);
        assert_eq!(finish(&mut order, 3), [1, 4]);
        order.set_paused(1, false);
        assert_eq!(finish(&mut order, 1), [2]);
        assert_eq!(finish(&mut order, 4), []);
        assert_eq!(finish(&mut order, 2), []);
    }

    #[test]
    fn slots_are_used_again() {
        let mut order = Order::new(2);
        for round in 0..5 {
            assert!(order.admit(0, write(0, 1)), "round {round}");
            assert!(!order.admit(1, write(0, 1)));
            assert_eq!(finish(&mut order, 0), [1]);
            assert_eq!(finish(&mut order, 1), []);
        }
    }
}
