//! What the simulated disk holds, and what of it would survive a power cut.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::random::Random;

pub(super) const SECTOR: usize = 512;

/// One sector's bytes; `None` is all zeros.
pub(super) type Content = Option<Rc<[u8; SECTOR]>>;

/// The sectors, by their number. Those never written are zeros and take no memory.
#[derive(Debug, Default)]
pub(super) struct Sectors {
    places: BTreeMap<u64, Place>,
    /// Places with versions.
    unsynced: BTreeSet<u64>,
    /// Number of the last version written.
    sequence: u64,
}

#[derive(Debug, Default)]
struct Place {
    stable: Content,
    /// What was written since, oldest first. Reads see the last.
    versions: Vec<Version>,
}

#[derive(Debug)]
struct Version {
    sequence: u64,
    content: Content,
    /// A sync failed on it: no later one takes it for unsynced.
    forgotten: bool,
    /// Of a durable write, beside a sync: the end of that decides.
    beside_sync: bool,
}

impl Sectors {
    /// What a read sees.
    pub(super) fn content(&self, lba: u64) -> Content {
        let place = self.places.get(&lba)?;
        match place.versions.last() {
            Some(version) => version.content.clone(),
            None => place.stable.clone(),
        }
    }

    /// Fills `bytes`, a whole number of sectors, with what a read sees.
    pub(super) fn read(&self, lba: u64, bytes: &mut [u8]) {
        bytes.fill(0);
        let end = lba + (bytes.len() / SECTOR) as u64;
        for (at, place) in self.places.range(lba..end) {
            let last = place.versions.last();
            let content = last.map_or(&place.stable, |version| &version.content);
            // Fits: it is inside the range.
            let start = usize::try_from(at - lba).unwrap_or(usize::MAX) * SECTOR;
            if let (Some(content), Some(to)) = (content, bytes.get_mut(start..start + SECTOR)) {
                to.copy_from_slice(&**content);
            }
        }
    }

    /// Reads see it, and a power cut may lose it.
    pub(super) fn write(&mut self, lba: u64, content: Content) {
        self.push(lba, content, false);
    }

    /// The same, but the next sync that ends covers it, whenever that began.
    pub(super) fn write_beside_sync(&mut self, lba: u64, content: Content) {
        self.push(lba, content, true);
    }

    fn push(&mut self, lba: u64, content: Content, beside_sync: bool) {
        self.sequence += 1;
        let version = Version {
            sequence: self.sequence,
            content,
            forgotten: false,
            beside_sync,
        };
        self.places.entry(lba).or_default().versions.push(version);
        self.unsynced.insert(lba);
    }

    /// Reads see it, and it is there for good.
    pub(super) fn write_stable(&mut self, lba: u64, content: Content) {
        let place = self.places.entry(lba).or_default();
        place.stable = content;
        place.versions.clear();
        self.unsynced.remove(&lba);
    }

    /// The disk ends before this sector now; what was there is gone.
    pub(super) fn cut(&mut self, lba: u64) {
        self.places.split_off(&lba);
        self.unsynced.split_off(&lba);
    }

    /// Number of the last version: what a sync that starts now covers.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// A sync that covers everything up to `sequence` succeeds.
    pub(super) fn sync(&mut self, sequence: u64) {
        let places = &mut self.places;
        self.unsynced.retain(|lba| {
            let Some(place) = places.get_mut(lba) else {
                return false;
            };
            let mut versions = place.versions.iter();
            let covered = versions.rposition(|version| version.is_covered_by(sequence));
            if let Some(last) = covered.and_then(|at| place.versions.drain(..=at).next_back()) {
                place.stable = last.content;
            }
            !place.versions.is_empty()
        });
    }

    /// It fails. Each sector that it covers fares on its own, as in Linux: it may have been stored
    /// all the same; still wait for the next sync; be dropped, so that reads see what is stable; or
    /// be forgotten, so that reads see it, no sync stores it, and a power cut ends it.
    pub(super) fn fail_sync(&mut self, sequence: u64, random: &mut Random) {
        let places = &mut self.places;
        self.unsynced.retain(|lba| {
            let Some(place) = places.get_mut(lba) else {
                return false;
            };
            let mut versions = place.versions.iter();
            let Some(at) = versions.rposition(|version| version.is_covered_by(sequence)) else {
                return true;
            };
            match random.below(4) {
                0 => {
                    if let Some(last) = place.versions.drain(..=at).next_back() {
                        place.stable = last.content;
                    }
                }
                1 => {
                    for version in place.versions.iter_mut().take(at + 1) {
                        version.beside_sync = false;
                    }
                }
                2 => drop(place.versions.drain(..=at)),
                _ => {
                    for version in place.versions.iter_mut().take(at + 1) {
                        version.forgotten = true;
                    }
                }
            }
            !place.versions.is_empty()
        });
    }

    /// Each unsynced sector keeps its stable content or any version written since.
    pub(super) fn cut_power(&mut self, random: &mut Random) {
        // Cuts that lose all or nothing find other bugs than those in between.
        let mood = random.below(4);
        for lba in std::mem::take(&mut self.unsynced) {
            let Some(place) = self.places.get_mut(&lba) else {
                continue;
            };
            let written = place.versions.len() as u64;
            let kept = match mood {
                0 => 0,
                1 => written,
                _ => random.below(written + 1),
            };
            let version = usize::try_from(kept)
                .ok()
                .and_then(|kept| kept.checked_sub(1));
            let mut versions = std::mem::take(&mut place.versions);
            if let Some(version) = version.filter(|at| *at < versions.len()) {
                place.stable = versions.swap_remove(version).content;
            }
        }
    }

    /// Every content that a power cut now could leave in the sector: the stable one first.
    pub(super) fn survivors(&self, lba: u64) -> impl Iterator<Item = Content> + '_ {
        let place = self.places.get(&lba);
        let stable = place.and_then(|place| place.stable.clone());
        let versions = place.map_or(&[][..], |place| &place.versions);
        let versions = versions.iter().map(|version| version.content.clone());
        std::iter::once(stable).chain(versions)
    }
}

impl Version {
    fn is_covered_by(&self, sequence: u64) -> bool {
        (self.sequence <= sequence || self.beside_sync) && !self.forgotten
    }
}

/// The content written out.
pub(super) fn bytes(content: &Content) -> [u8; SECTOR] {
    content.as_ref().map_or([0; SECTOR], |content| **content)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(byte: u8) -> Content {
        (byte > 0).then(|| Rc::new([byte; SECTOR]))
    }

    fn byte(content: &Content) -> u8 {
        content.as_ref().map_or(0, |content| content[0])
    }

    fn survivors(sectors: &Sectors) -> Vec<u8> {
        sectors.survivors(5).map(|content| byte(&content)).collect()
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let mut sectors = Sectors::default();
        sectors.write(5, content(1));
        sectors.write(5, content(2));
        let started = sectors.sequence();
        sectors.write(5, content(3));
        assert_eq!(survivors(&sectors), [0, 1, 2, 3]);
        sectors.sync(started);
        assert_eq!(survivors(&sectors), [2, 3]);
        assert_eq!(byte(&sectors.content(5)), 3);
        sectors.sync(sectors.sequence());
        assert_eq!(survivors(&sectors), [3]);
    }

    #[test]
    fn a_stable_write_leaves_nothing_older() {
        let mut sectors = Sectors::default();
        sectors.write(5, content(1));
        sectors.write_stable(5, content(2));
        assert_eq!(survivors(&sectors), [2]);
        sectors.sync(sectors.sequence());
        assert_eq!(survivors(&sectors), [2]);
    }

    #[test]
    fn a_durable_write_beside_a_sync_fares_as_the_sync_does() {
        let mut ends = BTreeSet::new();
        for seed in 0..100 {
            let mut sectors = Sectors::default();
            sectors.write_stable(5, content(1));
            let started = sectors.sequence();
            sectors.write_beside_sync(5, content(2));
            assert_eq!(survivors(&sectors), [1, 2], "not yet decided");
            if seed == 0 {
                sectors.sync(started);
                assert_eq!(survivors(&sectors), [2]);
            } else {
                sectors.fail_sync(started, &mut Random::new(seed));
                ends.insert(survivors(&sectors));
                // One that began before is none for what stayed unsynced.
                sectors.sync(started);
                ends.insert(survivors(&sectors));
            }
        }
        assert_eq!(ends, [vec![1], vec![2], vec![1, 2]].into());
    }

    #[test]
    fn a_power_cut_leaves_any_survivor_and_nothing_else() {
        let mut left = BTreeSet::new();
        for seed in 0..100 {
            let mut sectors = Sectors::default();
            sectors.write_stable(5, content(1));
            for version in 2..5 {
                sectors.write(5, content(version));
            }
            sectors.cut_power(&mut Random::new(seed));
            let kept = byte(&sectors.content(5));
            assert_eq!(survivors(&sectors), [kept]);
            left.insert(kept);
        }
        assert_eq!(left, [1, 2, 3, 4].into());
    }

    /// What a read sees and what survives: after the failure, and after a sync that succeeds.
    #[test]
    fn a_failed_sync_does_to_each_sector_what_linux_may_do() {
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let mut sectors = Sectors::default();
            sectors.write_stable(5, content(1));
            sectors.write(5, content(2));
            sectors.fail_sync(sectors.sequence(), &mut Random::new(seed));
            let read = byte(&sectors.content(5));
            let first = survivors(&sectors);
            sectors.sync(sectors.sequence());
            seen.insert((read, first, survivors(&sectors)));
            sectors.write(5, content(3));
            sectors.sync(sectors.sequence());
            assert_eq!(survivors(&sectors), [3], "written anew it is stored");
        }
        let expected = [
            (2, vec![2], vec![2]),       // stored
            (2, vec![1, 2], vec![2]),    // stays unsynced
            (1, vec![1], vec![1]),       // dropped
            (2, vec![1, 2], vec![1, 2]), // forgotten
        ];
        assert_eq!(seen, expected.into());
    }
}
