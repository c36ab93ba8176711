//! Overlapping requests never meet on the network (§15, 10), and a flush comes after every write
//! before it (§15, 7).
//!
//! AoE has no order: the first of two frames may be lost and come again behind the second. So a
//! request waits here for every earlier unfinished one that it overlaps if either changes data.
//! Each waits for earlier ones only, and none is overtaken for ever.
//!
//! A write that was sent more than once may have a copy still under way when it is finished. Its
//! sectors stay closed for other changes until that copy must have come to its end, unless the
//! target itself drops such copies (§9).

use crate::Instant;

/// The sectors a request works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Reads from the first number up to below the second.
    Reads(u64, u64),
    /// Writes or trims from the first number up to below the second.
    Changes(u64, u64),
    /// Wants every earlier change finished.
    Flush,
    /// Touches no sector.
    None,
}

impl Extent {
    /// Whether `self` must wait for the earlier `other`.
    fn waits_for(self, other: &Entry) -> bool {
        match (self, other.extent) {
            (Self::Flush, Self::Changes(..)) => !other.lingers(),
            (Self::Reads(a, b), Self::Changes(c, d)) => !other.lingers() && a < d && c < b,
            (Self::Changes(a, b), Self::Reads(c, d) | Self::Changes(c, d)) => a < d && c < b,
            _ => false,
        }
    }
}

#[derive(Debug)]
struct Entry {
    /// The caller's number for the request.
    slot: u32,
    extent: Extent,
    /// Earlier entries that it waits for.
    waits_for: u32,
    /// Finished, but closed for changes until then.
    until: Option<Instant>,
}

impl Entry {
    fn lingers(&self) -> bool {
        self.until.is_some()
    }
}

/// Every unfinished request's extent, and those that linger. Its size is fixed from the start.
#[derive(Debug)]
pub(crate) struct Order {
    /// In the order of arrival.
    entries: Vec<Entry>,
    capacity: usize,
    lingering: usize,
}

impl Order {
    /// Room for this many requests, unfinished and lingering ones together.
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: Vec::with_capacity(capacity),
            capacity,
            lingering: 0,
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    /// Adds a request. Whether it may start at once; otherwise [`finish`](Self::finish) or
    /// [`expire`](Self::expire) names it later.
    pub(crate) fn admit(&mut self, slot: u32, extent: Extent) -> bool {
        let earlier = self.entries.iter();
        let waits_for = earlier.filter(|other| extent.waits_for(other)).count();
        self.entries.push(Entry {
            slot,
            extent,
            waits_for: u32::try_from(waits_for).unwrap_or(u32::MAX),
            until: None,
        });
        waits_for == 0
    }

    /// Ends a request, and names those that may start now. With `until` its sectors stay closed for
    /// changes.
    pub(crate) fn finish(&mut self, slot: u32, until: Option<Instant>, start: impl FnMut(u32)) {
        let mut unfinished = self.entries.iter();
        let Some(place) = unfinished.position(|entry| entry.slot == slot && !entry.lingers())
        else {
            return;
        };
        match until {
            None => self.remove(place, start),
            Some(until) => self.linger(place, until, start),
        }
    }

    /// Opens what has lingered long enough, and names the requests that may start now.
    pub(crate) fn expire(&mut self, now: Instant, mut start: impl FnMut(u32)) {
        while self.lingering > 0 {
            let due = |entry: &Entry| entry.until.is_some_and(|until| until <= now);
            let Some(place) = self.entries.iter().position(due) else {
                return;
            };
            self.lingering -= 1;
            self.remove(place, &mut start);
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        if self.lingering == 0 {
            return None;
        }
        self.entries.iter().filter_map(|entry| entry.until).min()
    }

    fn remove(&mut self, place: usize, mut start: impl FnMut(u32)) {
        if place >= self.entries.len() {
            return;
        }
        let finished = self.entries.remove(place);
        for entry in self.entries.iter_mut().skip(place) {
            if entry.waits_for > 0 && entry.extent.waits_for(&finished) {
                entry.waits_for -= 1;
                if entry.waits_for == 0 {
                    start(entry.slot);
                }
            }
        }
    }

    fn linger(&mut self, place: usize, until: Instant, mut start: impl FnMut(u32)) {
        let Some((finished, later)) = self
            .entries
            .get_mut(place..)
            .and_then(<[Entry]>::split_first_mut)
        else {
            return;
        };
        for entry in later {
            if entry.waits_for == 0 || !entry.extent.waits_for(finished) {
                continue;
            }
            // Changes go on waiting.
            if !matches!(entry.extent, Extent::Changes(..)) {
                entry.waits_for -= 1;
                if entry.waits_for == 0 {
                    start(entry.slot);
                }
            }
        }
        finished.until = Some(until);
        self.lingering += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::time::Duration;

    const READ: Extent = Extent::Reads(10, 20);
    const WRITE: Extent = Extent::Changes(15, 25);

    fn started(order: &mut Order, slot: u32, until: Option<Instant>) -> Vec<u32> {
        let mut started = Vec::new();
        order.finish(slot, until, |slot| started.push(slot));
        started
    }

    #[test]
    fn rule_10_what_overlaps_waits_if_either_changes_data() {
        for (first, second, at_once) in [
            (READ, READ, true),
            (READ, WRITE, false),
            (WRITE, READ, false),
            (WRITE, WRITE, false),
            (WRITE, Extent::Reads(25, 26), true),
            (WRITE, Extent::Changes(0, 15), true),
            (WRITE, Extent::Changes(0, 16), false),
            (WRITE, Extent::None, true),
        ] {
            let mut order = Order::new(4);
            assert!(order.admit(0, first));
            assert_eq!(order.admit(1, second), at_once, "{first:?} {second:?}");
            let released: &[u32] = if at_once { &[] } else { &[1] };
            assert_eq!(started(&mut order, 0, None), released);
        }
    }

    #[test]
    fn rule_7_a_flush_waits_for_earlier_changes_and_holds_nobody_up() {
        let mut order = Order::new(8);
        assert!(order.admit(0, WRITE));
        assert!(order.admit(1, Extent::Changes(100, 101)));
        assert!(!order.admit(2, Extent::Flush));
        assert!(order.admit(3, Extent::Changes(200, 201)));
        assert_eq!(started(&mut order, 0, None), []);
        assert_eq!(started(&mut order, 1, None), [2]);
    }

    #[test]
    fn none_is_overtaken_for_ever() {
        let mut order = Order::new(8);
        assert!(order.admit(0, READ));
        assert!(!order.admit(1, WRITE));
        assert!(!order.admit(2, READ));
        assert_eq!(started(&mut order, 0, None), [1]);
        assert_eq!(started(&mut order, 1, None), [2]);
    }

    #[test]
    fn a_repeated_write_stays_closed_for_changes_only() {
        let mut order = Order::new(8);
        let until = Instant::START + Duration::from_millis(5);
        assert!(order.admit(0, WRITE));
        assert!(!order.admit(1, WRITE));
        assert!(!order.admit(2, Extent::Flush));
        assert_eq!(started(&mut order, 0, Some(until)), []);
        // The flush still waits for the write of slot 1.
        assert!(!order.admit(0, READ));
        assert_eq!(order.next_expiry(), Some(until));
        let mut released = Vec::new();
        order.expire(Instant::START, |slot| released.push(slot));
        assert_eq!(released, []);
        order.expire(until, |slot| released.push(slot));
        assert_eq!(released, [1]);
        assert_eq!(order.next_expiry(), None);
        assert_eq!(started(&mut order, 1, Some(until)), [2, 0]);
        assert!(order.admit(3, READ), "readers pass what lingers");
        assert!(!order.admit(4, WRITE));
    }
}
