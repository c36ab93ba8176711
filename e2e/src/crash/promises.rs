//! What was promised about each sector, and so what it may hold after a crash.
//!
//! A change (a write or a trim) is *sent*, perhaps *acknowledged*, perhaps *promised*: at its
//! acknowledgement if it is a durable one, else when a flush that was sent after its
//! acknowledgement has succeeded, or when it is old enough. Changes take effect in the order in
//! which they were sent. So a sector holds its newest promised change, or any one sent later;
//! anything else is a broken promise.

use std::{collections::HashMap, ops::Range, time::Instant};

use super::sector::{Content, SECTOR, recognise};

/// Changes acknowledged early: what a flush that is sent now will cover.
#[derive(Clone, Debug, Default)]
pub(super) struct Covered(Vec<u64>);

/// The promises about one disk.
#[derive(Debug)]
pub(super) struct Promises {
    /// The disk's identity in its sectors.
    disk: u64,
    sectors: Vec<Sector>,
    /// Where a change was made that is not promised yet, by its number.
    open: HashMap<u64, Vec<Range<u64>>>,
    /// The open changes that were acknowledged, in the order in which that became known.
    early: Vec<Early>,
    last_number: u64,
}

/// A change that was acknowledged and is not promised yet.
#[derive(Clone, Copy, Debug)]
struct Early {
    number: u64,
    /// When its acknowledgement was received.
    at: Instant,
}

#[derive(Clone, Debug)]
struct Sector {
    promised: Version,
    /// In the order of their numbers, all above that of `promised`.
    later: Vec<Version>,
}

/// What the change with this number leaves in a sector. Number 0 is what was there at the start.
#[derive(Clone, Copy, Debug)]
struct Version {
    number: u64,
    content: Content,
}

impl Promises {
    /// A disk of zeros.
    pub(super) fn of_zeros(disk: u64, sectors: usize) -> Self {
        let zeros = Sector {
            promised: Version {
                number: 0,
                content: Content::Zeros,
            },
            later: Vec::new(),
        };
        Self {
            disk,
            sectors: vec![zeros; sectors],
            open: HashMap::new(),
            early: Vec::new(),
            last_number: 0,
        }
    }

    /// The disk's identity in its sectors.
    pub(super) fn disk(&self) -> u64 {
        self.disk
    }

    /// The size of the disk.
    pub(super) fn sectors(&self) -> usize {
        self.sectors.len()
    }

    /// A write is about to be sent; returns its number, from which its bytes follow.
    pub(super) fn write(&mut self, range: Range<u64>) -> u64 {
        let content = Content::Write(self.last_number + 1);
        self.change(vec![range], content)
    }

    /// A trim is about to be sent; returns its number.
    pub(super) fn trim(&mut self, ranges: Vec<Range<u64>>) -> u64 {
        self.change(ranges, Content::Zeros)
    }

    fn change(&mut self, ranges: Vec<Range<u64>>, content: Content) -> u64 {
        self.last_number += 1;
        let number = self.last_number;
        for lba in ranges.iter().cloned().flatten() {
            let Some(sector) = self.sector_mut(lba) else {
                continue;
            };
            // The ranges of a trim may overlap.
            if sector.newest().number != number {
                sector.later.push(Version { number, content });
            }
        }
        self.open.insert(number, ranges);
        number
    }

    /// A durable change was acknowledged.
    pub(super) fn keep(&mut self, number: u64) {
        for lba in self
            .open
            .remove(&number)
            .unwrap_or_default()
            .into_iter()
            .flatten()
        {
            if let Some(sector) = self.sector_mut(lba) {
                sector.keep(number);
            }
        }
    }

    /// The acknowledgement of a change was received that is promised by the next flush, or by its
    /// age.
    pub(super) fn acknowledge_early(&mut self, number: u64, at: Instant) {
        self.early.push(Early { number, at });
    }

    /// Changes that are acknowledged and not promised.
    pub(super) fn unpromised(&self) -> usize {
        self.early.len()
    }

    /// A flush is about to be sent, or the target has stopped: what it will cover, or has.
    pub(super) fn covered(&self) -> Covered {
        Covered(self.early.iter().map(|early| early.number).collect())
    }

    /// The flush has succeeded.
    pub(super) fn flushed(&mut self, covered: Covered) {
        for number in covered.0 {
            self.keep(number);
        }
        let open = &self.open;
        self.early.retain(|early| open.contains_key(&early.number));
    }

    /// What was acknowledged before this time is promised by its age. Returns how many changes
    /// nothing else had promised.
    pub(super) fn keep_older(&mut self, than: Instant) -> usize {
        let old = self.early.partition_point(|early| early.at < than);
        let old: Vec<Early> = self.early.drain(..old).collect();
        for early in &old {
            self.keep(early.number);
        }
        old.len()
    }

    /// What a read must return that is sent now.
    pub(super) fn newest(&self, lba: u64) -> Option<Content> {
        self.sector(lba).map(|sector| sector.newest().content)
    }

    /// Whether a sector may hold this after a crash that comes now.
    pub(super) fn allow(&self, lba: u64, content: Content) -> bool {
        self.sector(lba)
            .is_some_and(|sector| sector.allowed().any(|allowed| allowed == content))
    }

    /// Compares a whole disk with the promises, and from then on takes what it holds for the
    /// promised state. Returns what was found.
    pub(super) fn compare(&mut self, disk: &[u8]) -> Comparison {
        let mut comparison = Comparison::default();
        for (index, (sector, found)) in self.sectors.iter_mut().zip(disk.chunks(SECTOR)).enumerate()
        {
            let lba = u64::try_from(index).unwrap_or(u64::MAX);
            let found = recognise(self.disk, lba, found);
            comparison.lost += usize::from(found != Ok(sector.newest().content));
            let allowed: Vec<Content> = sector.allowed().collect();
            match found {
                Ok(content) if allowed.contains(&content) => *sector = Sector::holding(content),
                found => {
                    let found = found.map_or_else(|damage| damage.to_string(), |it| it.to_string());
                    comparison.broken.push(Broken {
                        lba,
                        found,
                        allowed,
                    });
                }
            }
        }
        self.open.clear();
        self.early.clear();
        comparison
    }

    fn sector(&self, lba: u64) -> Option<&Sector> {
        self.sectors.get(usize::try_from(lba).ok()?)
    }

    fn sector_mut(&mut self, lba: u64) -> Option<&mut Sector> {
        self.sectors.get_mut(usize::try_from(lba).ok()?)
    }
}

impl Sector {
    /// One that held this at the start.
    fn holding(content: Content) -> Self {
        Self {
            promised: Version { number: 0, content },
            later: Vec::new(),
        }
    }

    fn newest(&self) -> Version {
        self.later.last().copied().unwrap_or(self.promised)
    }

    fn keep(&mut self, number: u64) {
        // One that is not there is older than what is promised already.
        let place = self.later.binary_search_by_key(&number, |it| it.number);
        if let Some(kept) = place
            .ok()
            .and_then(|at| self.later.drain(..=at).next_back())
        {
            self.promised = kept;
        }
    }

    fn allowed(&self) -> impl Iterator<Item = Content> {
        let versions = std::iter::once(&self.promised).chain(&self.later);
        versions.map(|version| version.content)
    }
}

/// A disk after a crash.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    /// Sectors that do not hold the last change that was sent.
    pub(super) lost: usize,
    /// Sectors that hold what they must not.
    pub(super) broken: Vec<Broken>,
}

/// A sector that holds what it must not.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) lba: u64,
    pub(super) found: String,
    pub(super) allowed: Vec<Content>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::crash::sector::bytes_of;

    const DISK: u64 = 3;
    const SECTORS: usize = 4;

    fn promises() -> Promises {
        Promises::of_zeros(DISK, SECTORS)
    }

    /// A disk whose sectors hold the writes with these numbers, 0 standing for zeros.
    fn holding(numbers: [u64; SECTORS]) -> Vec<u8> {
        let sectors = (0..).zip(numbers).map(|(lba, number)| match number {
            0 => vec![0; SECTOR],
            number => bytes_of(DISK, lba, number),
        });
        sectors.flatten().collect()
    }

    /// The LBAs at which `numbers` breaks a promise.
    fn broken(promises: &mut Promises, numbers: [u64; SECTORS]) -> Vec<u64> {
        let comparison = promises.compare(&holding(numbers));
        comparison.broken.iter().map(|broken| broken.lba).collect()
    }

    #[test]
    fn what_is_not_acknowledged_may_be_there_or_not() {
        for there in [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]] {
            let mut promises = promises();
            assert_eq!(promises.write(0..2), 1);
            assert!(broken(&mut promises, there).is_empty(), "{there:?}");
        }
    }

    #[test]
    fn what_is_acknowledged_must_be_there() {
        let mut promises = promises();
        let number = promises.write(0..2);
        promises.keep(number);
        assert_eq!(broken(&mut promises, [1, 0, 0, 0]), [1]);
    }

    #[test]
    fn what_was_sent_later_may_have_replaced_it_and_what_was_sent_before_may_not() {
        for (there, expected) in [
            ([1, 0, 0, 0], &[0][..]),
            ([2, 0, 0, 0], &[]),
            ([3, 0, 0, 0], &[]),
            ([0, 0, 0, 0], &[0]),
            ([2, 2, 0, 0], &[1]),
        ] {
            let mut promises = promises();
            promises.write(0..1);
            let second = promises.write(0..1);
            promises.write(0..1);
            promises.keep(second);
            assert_eq!(broken(&mut promises, there), expected, "{there:?}");
        }
    }

    #[test]
    fn acknowledgements_in_any_order_promise_the_newest() {
        let mut promises = promises();
        let (first, second) = (promises.write(0..1), promises.write(0..1));
        promises.keep(second);
        promises.keep(first);
        assert_eq!(broken(&mut promises, [1, 0, 0, 0]), [0]);
    }

    #[test]
    fn a_flush_covers_what_was_acknowledged_before_it_was_sent() {
        let mut promises = promises();
        let numbers: Vec<u64> = (0..3).map(|lba| promises.write(lba..lba + 1)).collect();
        promises.acknowledge_early(numbers[0], Instant::now());
        let covered = promises.covered();
        promises.acknowledge_early(numbers[1], Instant::now());
        promises.flushed(covered);
        assert_eq!(broken(&mut promises, [0, 0, 0, 0]), [0]);
    }

    #[test]
    fn a_second_flush_covers_what_the_first_did_not() {
        let mut promises = promises();
        let numbers: Vec<u64> = (0..2).map(|lba| promises.write(lba..lba + 1)).collect();
        promises.acknowledge_early(numbers[0], Instant::now());
        let first = promises.covered();
        promises.acknowledge_early(numbers[1], Instant::now());
        let second = promises.covered();
        promises.flushed(first);
        promises.flushed(second);
        assert_eq!(broken(&mut promises, [0, 0, 0, 0]), [0, 1]);
    }

    #[test]
    fn a_flush_without_an_answer_covers_nothing() {
        let mut promises = promises();
        let number = promises.write(0..1);
        promises.acknowledge_early(number, Instant::now());
        let _ = promises.covered();
        assert!(broken(&mut promises, [0, 0, 0, 0]).is_empty());
    }

    #[test]
    fn what_is_old_enough_is_promised_without_a_flush_and_what_is_younger_is_not() {
        let mut promises = promises();
        let start = Instant::now();
        for (lba, age) in [(0, 30), (1, 20), (2, 10)] {
            let number = promises.write(lba..lba + 1);
            promises.acknowledge_early(number, start + Duration::from_millis(30 - age));
        }
        assert_eq!(promises.unpromised(), 3);
        assert_eq!(promises.keep_older(start + Duration::from_millis(20)), 2);
        assert_eq!(promises.keep_older(start + Duration::from_millis(20)), 0);
        assert_eq!(promises.unpromised(), 1);
        assert_eq!(broken(&mut promises, [0, 0, 0, 0]), [0, 1]);
    }

    #[test]
    fn trims_leave_zeros_under_the_same_rules() {
        let mut promises = promises();
        let write = promises.write(0..3);
        promises.keep(write);
        let trim = promises.trim(vec![0..2, 1..2]);
        assert_eq!(promises.newest(1), Some(Content::Zeros));
        assert_eq!(promises.newest(2), Some(Content::Write(write)));
        promises.keep(trim);
        assert_eq!(broken(&mut promises, [0, 1, 1, 0]), [1]);
    }

    #[test]
    fn what_is_allowed_is_known_before_the_crash() {
        let mut promises = promises();
        let number = promises.write(0..1);
        promises.write(0..1);
        promises.keep(number);
        let allowed = [0, 1, 2, 3].map(|number| match number {
            0 => promises.allow(0, Content::Zeros),
            number => promises.allow(0, Content::Write(number)),
        });
        assert_eq!(allowed, [false, true, true, false]);
    }

    #[test]
    fn what_was_found_is_the_promise_of_the_next_round() {
        let mut promises = promises();
        promises.write(0..2);
        assert!(broken(&mut promises, [1, 0, 0, 0]).is_empty());
        assert_eq!(promises.newest(0), Some(Content::Write(1)));
        assert_eq!(promises.newest(1), Some(Content::Zeros));
        assert_eq!(broken(&mut promises, [0, 1, 0, 0]), [0, 1]);
    }

    #[test]
    fn a_sector_that_no_write_has_made_is_a_broken_promise() {
        let mut promises = promises();
        promises.write(0..4);
        let mut disk = holding([1, 1, 1, 1]);
        disk[SECTOR + 300] ^= 1;
        let comparison = promises.compare(&disk);
        assert_eq!((comparison.broken.len(), comparison.broken[0].lba), (1, 1));
        assert_eq!(comparison.lost, 1);
    }

    #[test]
    fn what_is_lost_without_a_promise_is_counted() {
        let mut promises = promises();
        promises.write(0..3);
        assert_eq!(promises.compare(&holding([1, 0, 0, 0])).lost, 2);
    }
}
