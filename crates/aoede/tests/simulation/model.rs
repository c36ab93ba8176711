//! What each sector may hold: to a reader, and after the target's end.
//!
//! A sector is the list of its writes. Each write has a number, and fills the sector with a stamp
//! of number and sector; number 0 is zeros, the content at first and after a trim. Moments are
//! ticks: every submission, every end and every arrival has one of its own.
//!
//! A write takes effect at some moment from its *begin* on, up to its *end* if it has one. A reader
//! may see a write unless another is between: one that began after this one's end, and that had
//! taken effect before the reader asked. A write has taken effect when it was acknowledged, or seen.
//! After the target's end the same holds, but only what was promised to be stable counts.

use std::collections::BTreeSet;
use std::fmt;

use crate::draw::SECTOR;

/// Somebody read what had been replaced before.
pub(crate) const STALE: &str = "is stale";
/// Content of another sector.
pub(crate) const MISPLACED: &str = "is that of sector";
/// Bytes that nobody wrote.
pub(crate) const DAMAGED: &str = "was never written";
/// A flush was acknowledged, although an end of the target took what it covers.
pub(crate) const FLUSHED: &str = "was flushed, and had been lost:";
/// The target's end took what was promised.
pub(crate) const LOST: &str = "the end of the target leaves";
/// A part of one write, and another part older.
pub(crate) const TORN: &str = "is torn";
/// Given up although the network worked, or not even that.
pub(crate) const UNANSWERED: &str = "is not answered";

#[derive(Debug)]
pub(crate) struct Model {
    sectors: Vec<Vec<Entry>>,
    /// Closed when nothing is under way in the target.
    open: Vec<(u32, u64)>,
    /// Writes that failed.
    failures: BTreeSet<u32>,
}

/// Whether a copy of a write that has ended may be carried out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CopyRules {
    pub(crate) excused: bool,
    /// If the target has ended since the write was acknowledged.
    pub(crate) excused_if_lost: bool,
    pub(crate) excused_if_failed: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    number: u32,
    zeros: bool,
    begin: u64,
    end: Option<u64>,
    effective: Option<u64>,
    stable: Option<u64>,
    failed: bool,
    /// Acknowledged, and the target has not ended since.
    fresh: bool,
    /// Its end has brought back what was there before, and its initiator, in that life, was not
    /// told of it.
    gone: Option<Owner>,
    owner: Option<Owner>,
}

/// An initiator, and which of its lives.
pub(crate) type Owner = (usize, u64);

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} from {}", self.number, self.begin)?;
        let moments = [
            ("to", self.end),
            ("seen", self.effective),
            ("stable", self.stable),
        ];
        for (name, moment) in moments {
            if let Some(moment) = moment {
                write!(f, " {name} {moment}")?;
            }
        }
        f.write_str(if self.failed { " failed" } else { "" })
    }
}

impl Entry {
    fn new(number: u32, zeros: bool, begin: u64) -> Self {
        Self {
            number,
            zeros,
            begin,
            end: None,
            effective: None,
            stable: None,
            failed: false,
            fresh: false,
            gone: None,
            owner: None,
        }
    }

    fn stamp(&self, lba: u64) -> u64 {
        if self.zeros {
            0
        } else {
            stamp(self.number, lba)
        }
    }
}

pub(crate) fn stamp(number: u32, lba: u64) -> u64 {
    u64::from(number) << 32 | lba
}

/// A sector's stamp, from its first bytes alone.
pub(crate) fn first_stamp(sector: &[u8]) -> u64 {
    u64::from_le_bytes(sector[..8].try_into().unwrap())
}

pub(crate) fn fill(bytes: &mut [u8], number: u32, lba: u64) {
    for (lba, sector) in (lba..).zip(bytes.chunks_exact_mut(SECTOR)) {
        let stamp = stamp(number, lba).to_le_bytes();
        for word in sector.chunks_exact_mut(8) {
            word.copy_from_slice(&stamp);
        }
    }
}

/// The stamp that fills a sector.
fn stamp_of(lba: u64, sector: &[u8]) -> u64 {
    let stamp = &sector[..8];
    assert!(
        sector.chunks_exact(8).all(|word| word == stamp),
        "sector {lba}: this {DAMAGED}: {stamp:02x?} and others"
    );
    first_stamp(sector)
}

impl Model {
    pub(crate) fn new(sectors: u64) -> Self {
        let first = Entry {
            end: Some(0),
            effective: Some(0),
            stable: Some(0),
            ..Entry::new(0, true, 0)
        };
        Self {
            sectors: (0..sectors).map(|_| vec![first]).collect(),
            open: Vec::new(),
            failures: BTreeSet::new(),
        }
    }

    /// A write or trim begins.
    pub(crate) fn begin(&mut self, tick: u64, number: u32, zeros: bool, lba: u64, sectors: u64) {
        for lba in lba..lba + sectors {
            self.sectors[lba as usize].push(Entry::new(number, zeros, tick));
        }
    }

    /// Whether a change of this sector is a trim.
    pub(crate) fn is_trim(&self, number: u32, lba: u64) -> bool {
        let mut entries = self.sectors[lba as usize].iter();
        entries.any(|entry| entry.number == number && entry.zeros)
    }

    /// It was acknowledged; `stable` tells whether that promises to keep it.
    pub(crate) fn acknowledged(
        &mut self,
        tick: u64,
        owner: Owner,
        number: u32,
        lbas: (u64, u64),
        stable: bool,
    ) {
        for entry in self.entries(number, lbas) {
            entry.end = Some(tick);
            entry.owner = Some(owner);
            entry.effective.get_or_insert(tick);
            entry.fresh = true;
            if stable {
                entry.stable = Some(tick);
            }
        }
    }

    /// It failed: it may have happened or not, sector by sector.
    pub(crate) fn failed(&mut self, tick: u64, number: u32, lbas: (u64, u64)) {
        self.failures.insert(number);
        for entry in self.entries(number, lbas) {
            entry.end = Some(tick);
            entry.failed = true;
        }
    }

    /// Nobody waits for it any more; what the target has of it is still under way.
    pub(crate) fn abandoned(&mut self, number: u32, lbas: (u64, u64)) {
        self.open
            .extend((lbas.0..lbas.0 + lbas.1).map(|lba| (number, lba)));
    }

    /// The target has taken a copy of a write. If that had ended, and the copy is excused, it is a
    /// write of its own from now on: whether it is.
    pub(crate) fn copy_taken(&mut self, tick: u64, number: u32, lba: u64, copy: CopyRules) -> bool {
        let Some(sector) = self.sectors.get_mut(lba as usize) else {
            return false;
        };
        let known = sector.iter().filter(|entry| entry.number == number);
        let known: Vec<_> = known.collect();
        let lost = known.iter().all(|entry| !entry.fresh);
        let excused = copy.excused
            || copy.excused_if_failed && self.failures.contains(&number)
            || copy.excused_if_lost && lost;
        let is_late = excused && known.iter().all(|entry| entry.end.is_some());
        if is_late {
            sector.push(Entry::new(number, false, tick));
            self.open.push((number, lba));
        }
        is_late
    }

    /// Nothing is under way in the target.
    pub(crate) fn quiet(&mut self, tick: u64) {
        for (number, lba) in std::mem::take(&mut self.open) {
            for entry in &mut self.sectors[lba as usize] {
                if entry.number == number {
                    entry.end.get_or_insert(tick);
                }
            }
        }
    }

    /// A flush that was asked for at `asked` was acknowledged: everybody's changes are stable that
    /// were acknowledged before by this target, and the asker's own by any.
    pub(crate) fn flushed(&mut self, tick: u64, asked: u64, owner: Owner) {
        for (lba, sector) in self.sectors.iter_mut().enumerate() {
            for entry in sector {
                if entry.failed || entry.end.is_none_or(|end| end >= asked) {
                    continue;
                }
                assert!(
                    entry.gone != Some(owner),
                    "sector {lba}: {entry:?} {FLUSHED} asked at {asked}"
                );
                if entry.fresh {
                    entry.stable.get_or_insert(tick);
                }
            }
        }
    }

    /// A flush that was asked for at `asked` told of a loss. Whether there is one.
    pub(crate) fn loss_told(&mut self, asked: u64, owner: Owner) -> bool {
        let mut any = false;
        for entry in self.sectors.iter_mut().flatten() {
            if entry.end.is_some_and(|end| end < asked) {
                any |= entry.gone.take_if(|gone| *gone == owner).is_some();
            }
        }
        any
    }

    /// A read that was asked for at `asked` found these bytes.
    pub(crate) fn read(&mut self, tick: u64, asked: u64, lba: u64, bytes: &[u8]) {
        for (lba, bytes) in (lba..).zip(bytes.chunks_exact(SECTOR)) {
            let found = self.known(lba, stamp_of(lba, bytes));
            let sector = &mut self.sectors[lba as usize];
            let seen = |entry: &Entry| entry.effective;
            let Some(at) = allowed(sector, lba, found, asked, seen) else {
                panic!(
                    "sector {lba}: {} {STALE}: asked at {asked}, it has {sector:?}",
                    describe(found)
                );
            };
            sector[at].effective.get_or_insert(tick);
        }
    }

    /// The target has ended; `content` tells what the disk holds of each sector, and whether that
    /// is stable. What it holds is what the next target serves.
    pub(crate) fn ended(
        &mut self,
        tick: u64,
        power_cut: bool,
        content: impl Fn(u64) -> ([u8; SECTOR], Vec<[u8; SECTOR]>),
    ) {
        for lba in 0..self.sectors.len() as u64 {
            let (bytes, survivors) = content(lba);
            let found = self.known(lba, stamp_of(lba, &bytes));
            let sector = &mut self.sectors[lba as usize];
            let promised = |entry: &Entry| entry.stable;
            // What a later power cut could leave counts too.
            for bytes in survivors.iter().chain([&bytes]) {
                let stamp = stamp_of(lba, bytes);
                assert!(
                    allowed(sector, lba, stamp, tick, promised).is_some(),
                    "sector {lba}: {LOST} {}, it has {sector:?}",
                    describe(stamp)
                );
            }
            // A late copy of a write that was promised looks like it, and is not promised itself:
            // then something else that was may be left by a power cut.
            let is_certain = survivors.iter().all(|bytes| stamp_of(lba, bytes) == found);
            let was_promised = allowed(sector, lba, found, tick, promised)
                .filter(|_| is_certain)
                .and_then(|at| sector[at].stable)
                .map(|_| tick);
            // The latest that may have begun with what is there now.
            let mut holds = sector.iter().filter(|entry| entry.stamp(lba) == found);
            let since = holds.try_fold(0, |end, entry| Some(end.max(entry.end?)));
            for entry in sector.iter_mut() {
                let replaced = since.is_some_and(|since| entry.begin > since);
                if entry.fresh && replaced && !entry.failed {
                    entry.gone = entry.owner;
                }
                entry.fresh = false;
            }
            // A write of its own, which replaces all others: but for those that are under way, and
            // reads that were.
            let number = (found >> 32) as u32;
            sector.push(Entry {
                end: Some(tick + 1),
                effective: Some(tick + 1),
                stable: if power_cut { Some(tick) } else { was_promised },
                ..Entry::new(number, found == 0, tick + 1)
            });
        }
        self.quiet(tick);
    }

    /// The number of a stamp that is in its place.
    fn known(&self, lba: u64, found: u64) -> u64 {
        let at = found & 0xFFFF_FFFF;
        assert!(
            found == 0 || at == lba || at >= self.sectors.len() as u64,
            "sector {lba}: {} {MISPLACED} {at}",
            describe(found)
        );
        let written = &self.sectors[lba as usize];
        let is_known = found == 0 || at == lba;
        assert!(
            is_known,
            "sector {lba}: {} {DAMAGED}, but {written:?}",
            describe(found)
        );
        found
    }

    fn entries(
        &mut self,
        number: u32,
        (lba, sectors): (u64, u64),
    ) -> impl Iterator<Item = &mut Entry> {
        let range = lba as usize..(lba + sectors) as usize;
        let sectors = self.sectors[range].iter_mut();
        // The one that is waited for: copies of it come later in the list.
        sectors.filter_map(move |sector| {
            sector
                .iter_mut()
                .find(|entry| entry.number == number && entry.end.is_none())
        })
    }
}

/// The write that explains what was found at `moment`, if one does.
fn allowed(
    sector: &[Entry],
    lba: u64,
    found: u64,
    moment: u64,
    counts: impl Fn(&Entry) -> Option<u64>,
) -> Option<usize> {
    let hidden = |entry: &Entry| {
        let Some(end) = entry.end else {
            return false;
        };
        sector.iter().any(|other| {
            other.begin > end && !other.failed && counts(other).is_some_and(|at| at < moment)
        })
    };
    // The oldest: what was seen may have been the write itself or a copy of it that came later.
    let mut entries = sector.iter();
    entries.position(|entry| entry.stamp(lba) == found && !hidden(entry))
}

fn describe(stamp: u64) -> String {
    match stamp {
        0 => "zeros".to_owned(),
        _ => format!("#{} for {}", stamp >> 32, stamp & 0xFFFF_FFFF),
    }
}
