//! What each sector may hold: to a reader now, and after a power cut now.
//!
//! A sector is the list of its versions, in order of arrival. Requests are numbered in that order,
//! and a version has the number of the request that brings it; its content is a stamp of number and
//! sector, or zeros. Reads look from the newest version that arrived before them back to the last
//! that was acknowledged. Promised is the newest version that a durable acknowledgement or a flush
//! has covered: a power cut leaves that one or one that arrived later.
//!
//! Whoever trims a sector gives up what it held: after a trim that failed a read may find any of it.
//! A flush covers the older data until the trim has taken its place, unless the volume is latched
//! meanwhile: then both may be lost.
//!
//! When the disk ends earlier, what is beyond the new end is promised no more. The volume does not
//! know of it at first, and may serve it from its cache; once it has been told, nothing is left of
//! it. Beyond an old end are zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::memory::TestBuffer;
use crate::engine::sim::SimDisk;

pub(super) const SECTOR: usize = 512;

/// Number of what is on the disk before the first request.
pub(super) const FIRST: u32 = 1;

#[derive(Debug)]
pub(super) struct Model {
    sectors: Vec<Sector>,
    /// Acknowledgements so far.
    acks: u64,
    /// Sectors with an acknowledged version that is newer than the promised one.
    unpromised: BTreeSet<u64>,
    /// Sectors with data that was acknowledged early and is not stable, and since when.
    at_risk: BTreeMap<u64, Duration>,
    /// A sync failed since the last power cut or the last end of the process.
    sync_failed: bool,
    /// The same since the last power cut: what is there may be forgotten by the kernel, and no sync
    /// of a later process stores it.
    forgotten: bool,
    /// The first sector beyond the end of the disk.
    end: u64,
}

#[derive(Debug)]
struct Sector {
    versions: Vec<Version>,
    promised: u32,
}

#[derive(Clone, Copy, Debug)]
struct Version {
    number: u32,
    stamp: u64,
    fate: Fate,
    /// Whether it may as well not have happened: the rim of a trim.
    optional: bool,
    /// It may be undone, and what was there before is lost all the same.
    undone: bool,
    /// A read that was sent later did not see it.
    unseen_by: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unanswered,
    Failed,
    /// As which of all acknowledgements, when, and whether it may have been early.
    Acknowledged {
        ack: u64,
        at: Duration,
        early: bool,
    },
    /// What was there when the process began: whoever read it counts on the next flush.
    Leftover,
}

/// A change of one sector, on its way to the model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) lba: u64,
    pub(super) zeros: bool,
    pub(super) optional: bool,
}

/// The 8 bytes that a sector is filled with.
pub(super) fn stamp(number: u32, lba: u64) -> u64 {
    u64::from(number) << 32 | lba
}

pub(super) fn fill(bytes: &mut [u8], number: u32, lba: u64) {
    for (lba, sector) in (lba..).zip(bytes.chunks_exact_mut(SECTOR)) {
        let stamp = stamp(number, lba).to_le_bytes();
        for word in sector.chunks_exact_mut(8) {
            word.copy_from_slice(&stamp);
        }
    }
}

/// The stamp of a sector that is filled with one.
fn stamp_of(sector: &[u8]) -> u64 {
    let (words, _) = sector.as_chunks::<8>();
    assert!(
        words.iter().all(|word| *word == words[0]),
        "torn inside a sector: {:?}",
        words
            .iter()
            .map(|word| describe(u64::from_le_bytes(*word)))
            .collect::<BTreeSet<_>>()
    );
    u64::from_le_bytes(words[0])
}

fn describe(stamp: u64) -> String {
    match stamp {
        0 => "zeros".to_owned(),
        0xEEEE_EEEE_EEEE_EEEE => "nothing".to_owned(),
        _ => format!("#{} of sector {}", stamp >> 32, stamp & 0xFFFF_FFFF),
    }
}

impl Model {
    /// Each sector holds its stamp of [`FIRST`].
    pub(super) fn new(sectors: u64) -> Self {
        let sector = |lba| Sector {
            versions: vec![Version::settled(FIRST, stamp(FIRST, lba))],
            promised: FIRST,
        };
        Self {
            sectors: (0..sectors).map(sector).collect(),
            acks: 0,
            unpromised: BTreeSet::new(),
            at_risk: BTreeMap::new(),
            sync_failed: false,
            forgotten: false,
            end: sectors,
        }
    }

    /// The disk has this many sectors now, whether or not the volume knows.
    pub(super) fn resized(&mut self, sectors: u64) {
        self.unpromised.split_off(&sectors);
        self.at_risk.split_off(&sectors);
        for lba in self.end..sectors {
            if let Some(sector) = self.sectors.get_mut(usize::try_from(lba).unwrap()) {
                *sector = Sector::zeros();
            } else {
                self.sectors.push(Sector::zeros());
            }
        }
        self.end = sectors;
    }

    /// The volume knows of the end, and from now on serves nothing beyond it.
    pub(super) fn told_of_end(&mut self) {
        for sector in self.beyond_the_end() {
            *sector = Sector::zeros();
        }
    }

    fn beyond_the_end(&mut self) -> &mut [Sector] {
        let end = usize::try_from(self.end).unwrap();
        self.sectors.get_mut(end..).unwrap_or_default()
    }

    pub(super) fn acks(&self) -> u64 {
        self.acks
    }

    pub(super) fn at_risk_bytes(&self) -> u64 {
        (self.at_risk.len() * SECTOR) as u64
    }

    /// The sectors at risk, for a message.
    pub(super) fn sectors_at_risk(&self) -> Vec<u64> {
        self.at_risk.keys().copied().collect()
    }

    /// Since when data has been at risk.
    pub(super) fn oldest_at_risk(&self) -> Option<Duration> {
        self.at_risk.values().min().copied()
    }

    pub(super) fn sent(&mut self, number: u32, change: Change) {
        if change.zeros && !change.optional {
            self.at_risk.remove(&change.lba);
        }
        let stamp = if change.zeros {
            0
        } else {
            stamp(number, change.lba)
        };
        self.sector_mut(change.lba).versions.push(Version {
            number,
            stamp,
            fate: Fate::Unanswered,
            optional: change.optional,
            undone: false,
            unseen_by: None,
        });
    }

    pub(super) fn failed(&mut self, number: u32, lba: u64) {
        let sector = self.sector_mut(lba);
        // Beyond the end it is forgotten.
        if let Some(at) = sector.position(number) {
            sector.versions[at].fate = Fate::Failed;
        }
    }

    /// One acknowledgement, of all its sectors.
    pub(super) fn acknowledged(
        &mut self,
        number: u32,
        changes: &[Change],
        early: bool,
        now: Duration,
        disk: &SimDisk<TestBuffer>,
    ) {
        self.acks += 1;
        let fate = Fate::Acknowledged {
            ack: self.acks,
            at: now,
            early,
        };
        for change in changes {
            let lba = change.lba;
            let version = self.version_mut(number, lba);
            version.fate = fate;
            let optional = version.optional;
            if let Some(read) = version.unseen_by {
                panic!("#{read} did not see sector {lba} of #{number}, which came before it");
            }
            if optional || lba >= self.end {
                continue;
            }
            if !early {
                self.promise(number, lba, disk);
                if self.at_risk.contains_key(&lba) {
                    self.reconsider(lba, disk);
                }
                continue;
            }
            self.unpromised.insert(lba);
            self.reconsider(lba, disk);
        }
    }

    /// A flush that arrived after so many acknowledgements has succeeded.
    pub(super) fn flushed(&mut self, acks: u64, disk: &SimDisk<TestBuffer>) {
        for lba in self.unpromised.clone() {
            let newest = self.sector(lba).versions.iter().rev();
            let mut wanted = newest.filter(|version| !version.optional);
            let is_covered = |version: &Version| version.ack().is_some_and(|ack| ack <= acks);
            let newest = wanted.find(|version| version.undone || is_covered(version));
            let covered = newest.filter(|version| !version.undone);
            if let Some(number) = covered.map(|version| version.number) {
                self.promise(number, lba, disk);
            }
        }
    }

    /// A read that was sent as `number` has found this.
    pub(super) fn read(&mut self, number: u32, lba: u64, bytes: &[u8]) {
        for (lba, bytes) in (lba..).zip(bytes.chunks_exact(SECTOR)) {
            let found = stamp_of(bytes);
            let sync_failed = self.sync_failed;
            let versions = &mut self.sector_mut(lba).versions;
            let arrived = versions.iter_mut().rev();
            let (mut seen, mut trim_failed) = (false, false);
            for version in arrived.filter(|version| version.number < number) {
                seen = version.stamp == found;
                trim_failed |= version.gives_up() && version.fate == Fate::Failed;
                if seen || version.hides_older(sync_failed) && !trim_failed {
                    break;
                }
                if version.fate == Fate::Unanswered && !version.optional {
                    version.unseen_by.get_or_insert(number);
                }
            }
            assert!(
                seen,
                "read #{number} found {} in sector {lba}, which has {versions:?}",
                describe(found)
            );
        }
    }

    /// Something has become stable: less is at risk.
    pub(super) fn synced(&mut self, disk: &SimDisk<TestBuffer>) {
        let at_risk: Vec<u64> = self.at_risk.keys().copied().collect();
        for lba in at_risk {
            self.reconsider(lba, disk);
        }
    }

    pub(super) fn sync_failed(&mut self) {
        self.sync_failed = true;
        self.forgotten = true;
    }

    /// The volume has said that what was acknowledged may be lost. That can be true of trims: they
    /// may be undone, with all the consequences of one that failed; and of what an earlier process
    /// has left. It may not be true of other data.
    pub(super) fn latched(&mut self) {
        for lba in &self.unpromised {
            let sector = &mut self.sectors[usize::try_from(*lba).unwrap()];
            let promised = sector.promised;
            for version in &mut sector.versions {
                let may_be = version.gives_up() || version.fate == Fate::Leftover;
                if may_be && version.number > promised {
                    version.undone = true;
                    if version.ack().is_some() {
                        version.fate = Fate::Failed;
                    }
                }
            }
        }
    }

    /// The power was cut: what is there now is what there is.
    pub(super) fn power_cut(&mut self, disk: &SimDisk<TestBuffer>) {
        for sector in self.beyond_the_end() {
            *sector = Sector::zeros();
        }
        for (lba, sector) in (0..self.end).zip(&mut self.sectors) {
            let found = stamp_of(&disk.sector(lba));
            let version = sector.survivor(lba, found);
            *sector = Sector {
                versions: vec![Version::settled(version.number, found)],
                promised: version.number,
            };
        }
        self.forgotten = false;
        self.begin_anew();
    }

    /// The process ended. What is there is what the next one sees, and stable or not as it was.
    /// `number` is that of the end.
    pub(super) fn killed(&mut self, number: u32, disk: &SimDisk<TestBuffer>) {
        for sector in self.beyond_the_end() {
            *sector = Sector::zeros();
        }
        self.begin_anew();
        for (lba, sector) in (0..self.end).zip(&mut self.sectors) {
            let found = stamp_of(&disk.sector(lba));
            sector.survivor(lba, found);
            if sector.versions.len() > 1 {
                for version in &mut sector.versions {
                    if version.number > sector.promised {
                        version.fate = Fate::Failed;
                    }
                }
                sector.versions.push(Version {
                    fate: Fate::Leftover,
                    undone: self.forgotten,
                    ..Version::settled(number, found)
                });
                self.unpromised.insert(lba);
            }
        }
    }

    fn begin_anew(&mut self) {
        self.unpromised.clear();
        self.at_risk.clear();
        self.sync_failed = false;
    }

    /// From now on a power cut leaves this version or one that arrived later.
    fn promise(&mut self, number: u32, lba: u64, disk: &SimDisk<TestBuffer>) {
        let sector = self.sector_mut(lba);
        if number <= sector.promised {
            return;
        }
        sector.promised = number;
        let at = sector.position(number).expect("its versions are kept");
        sector.versions.drain(..at);
        for survivor in disk.survivors::<Vec<_>>(lba) {
            sector.survivor(lba, stamp_of(&survivor));
        }
        if !sector
            .versions
            .iter()
            .any(|version| version.is_unpromised(number))
        {
            self.unpromised.remove(&lba);
        }
    }

    /// Whether the sector is still at risk, and since when.
    fn reconsider(&mut self, lba: u64, disk: &SimDisk<TestBuffer>) {
        let sector = self.sector(lba);
        let survivors = disk.survivors::<Vec<_>>(lba);
        let oldest = survivors.iter().map(|survivor| {
            let survivor = sector.survivor(lba, stamp_of(survivor));
            survivor.number
        });
        let oldest = oldest.min().expect("there is always one");
        let newest = sector.versions.iter().rev();
        let wanted = newest
            .take_while(|version| version.number > oldest && !version.gives_up())
            .filter(|version| version.stamp != 0);
        let unstable = wanted.filter_map(|version| match version.fate {
            Fate::Acknowledged {
                at, early: true, ..
            } => Some(at),
            _ => None,
        });
        if let Some(since) = unstable.min() {
            self.at_risk.insert(lba, since);
        } else {
            self.at_risk.remove(&lba);
        }
    }

    fn sector(&self, lba: u64) -> &Sector {
        &self.sectors[usize::try_from(lba).unwrap()]
    }

    fn sector_mut(&mut self, lba: u64) -> &mut Sector {
        &mut self.sectors[usize::try_from(lba).unwrap()]
    }

    fn version_mut(&mut self, number: u32, lba: u64) -> &mut Version {
        let sector = self.sector_mut(lba);
        let at = sector.position(number).expect("it was sent");
        &mut sector.versions[at]
    }
}

impl Sector {
    fn zeros() -> Self {
        Self {
            versions: vec![Version::settled(0, 0)],
            promised: 0,
        }
    }

    fn position(&self, number: u32) -> Option<usize> {
        self.versions
            .iter()
            .rposition(|version| version.number == number)
    }

    /// The version that a power cut has left or would leave: the newest with that content.
    fn survivor(&self, lba: u64, found: u64) -> Version {
        let allowed = self.versions.iter().rev();
        let mut allowed = allowed.take_while(|version| version.number >= self.promised);
        let version = allowed.find(|version| version.stamp == found);
        *version.unwrap_or_else(|| {
            panic!(
                "a power cut leaves {} in sector {lba}, where #{} was promised: {:?}",
                describe(found),
                self.promised,
                self.versions
            )
        })
    }
}

impl Version {
    fn settled(number: u32, stamp: u64) -> Self {
        Self {
            number,
            stamp,
            fate: Fate::Leftover,
            optional: false,
            undone: false,
            unseen_by: None,
        }
    }

    fn ack(&self) -> Option<u64> {
        match self.fate {
            Fate::Acknowledged { ack, .. } => Some(ack),
            Fate::Leftover => Some(0),
            Fate::Unanswered | Fate::Failed => None,
        }
    }

    fn is_unpromised(&self, promised: u32) -> bool {
        self.number > promised && self.ack().is_some() && !self.optional
    }

    /// A trim: what was there before is of no use to anybody, whatever becomes of the trim.
    fn gives_up(&self) -> bool {
        self.stamp == 0 && !self.optional
    }

    /// Whether a read can see nothing that came before.
    fn hides_older(&self, sync_failed: bool) -> bool {
        match self.fate {
            Fate::Acknowledged { .. } => !self.optional,
            // Of an earlier process, and perhaps not stable.
            Fate::Leftover => !sync_failed,
            Fate::Unanswered | Fate::Failed => false,
        }
    }
}
