//! Crashes of the real program under load, and what must be left afterwards.
//!
//! * [`kills`]: the target is killed with SIGKILL. What reached the kernel survives.
//! * [`power_cuts`]: the disk below the target loses everything that was not flushed.
//!
//! An initiator (`load.rs`) sends random requests and keeps account of what was promised
//! (`promises.rs`); every sector names the write that it is from (`sector.rs`). After each crash
//! the whole disk is compared with the promises. The same seed gives the same requests, but not
//! the same moments: those depend on the machine.

mod kill;
mod load;
mod power;
mod promises;
mod sector;
mod stage;

use std::{
    error::Error,
    fmt::{self, Display, Formatter},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

pub use kill::kills;
pub use load::{Mix, Tally};
pub use power::{Flushes, power_cuts};

use self::{load::UnderWay, promises::Promises, stage::Stage};
use crate::{Maker, Random};

/// Sectors of the disk under test. Small, so that requests overlap and all of it is looked at
/// after each crash.
const SECTORS: usize = 4096;
/// Broken promises shown of one crash; the rest is counted.
const SHOWN: usize = 12;

/// When a write is promised (docs/operations.md).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// When it is acknowledged, unless it carries the A flag.
    Writethrough,
    /// When a flush sent after its acknowledgement has succeeded.
    Writeback,
}

/// How a target is run, and what is asked of it.
#[derive(Clone, Debug)]
pub struct Way {
    /// What is special about it.
    pub name: &'static str,
    /// Whose target.
    pub maker: Maker,
    /// Its arguments, as its maker understands them.
    pub arguments: &'static [&'static str],
    /// The promises it is held to.
    pub held_to: Cache,
    /// The requests.
    pub mix: Mix,
    /// Most of them outstanding at once; a round takes that many, or a random number up to it.
    pub most_outstanding: usize,
    /// What was acknowledged so long before the crash is promised without a flush. A power cut
    /// then waits for so long after the last acknowledgement, and finds nothing under way.
    pub kept_after: Option<Duration>,
    /// The disk is frozen and thawed meanwhile, and the crash comes in any phase. The shadow is on
    /// a disk that keeps its power.
    pub freezes: bool,
    /// Power cuts: the disk is a loop device over the file, not the file.
    pub on_device: bool,
}

/// Crash after crash.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// How many.
    pub rounds: usize,
    /// Of all random choices.
    pub seed: u64,
    /// Taken in turn.
    pub ways: Vec<Way>,
}

impl Campaign {
    /// Calls `round` for each round, with its number among those of its way. The number in every
    /// failure is that among all. Returns what happened, way by way.
    fn run(
        &self,
        what: &str,
        mut round: impl FnMut(&Stage, &mut Promises, &Way, usize, Random) -> Result<Round> + Send,
    ) -> Result<Vec<Summary>> {
        eprintln!("{what}: {} rounds, seed {:#x}", self.rounds, self.seed);
        stage::on_one_core(|| {
            let stage = Stage::new(SECTORS)?;
            let mut promises = Promises::of_zeros(self.seed, SECTORS);
            let mut choices = Random::new(self.seed);
            let mut summaries: Vec<Summary> = self.ways.iter().map(Summary::new).collect();
            for number in 0..self.rounds {
                let at = number % self.ways.len();
                let (Some(way), Some(summary)) = (self.ways.get(at), summaries.get_mut(at)) else {
                    break;
                };
                let (start, turn) = (Instant::now(), summary.rounds);
                let random = Random::new(choices.number());
                let done = round(&stage, &mut promises, way, turn, random).with_context(|| {
                    format!("{what}, round {number}, seed {:#x}, {way:?}", self.seed)
                })?;
                summary.add(&done, start.elapsed());
            }
            Ok(summaries)
        })
    }
}

/// What happened in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    tally: Tally,
    /// The target had the time to stop: this was no crash.
    stopped: bool,
    under_way: UnderWay,
    /// Changes that were acknowledged and not promised when the crash came,
    unpromised: usize,
    /// and those that their age alone had promised.
    aged: usize,
    freeze: Option<Phase>,
    lost: usize,
}

/// How far a freeze was when the crash came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It was ordered.
    Ordered,
    /// The image was held as it was.
    Frozen,
    /// The shadow was being merged.
    Merging,
    /// It was over.
    Merged,
}

/// What happened in all rounds of one way, to see whether they say anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// The way's name.
    pub way: &'static str,
    /// Rounds.
    pub rounds: usize,
    /// Those that ended in a clean stop. All others are crashes.
    pub stops: usize,
    /// All requests.
    pub tally: Tally,
    /// Requests without a response at a crash.
    pub outstanding: usize,
    /// Crashes amid writes or trims that were not acknowledged yet,
    pub amid_changes: usize,
    /// with acknowledged ones that nothing had promised yet,
    pub amid_unpromised: usize,
    /// and with some that their age alone had promised.
    pub amid_aged: usize,
    /// Crashes after a freeze was ordered and before it was told,
    pub ordered: usize,
    /// while the disk was frozen,
    pub frozen: usize,
    /// and while the shadow was being merged.
    pub merging: usize,
    /// Sectors that lost a change nobody had promised.
    pub lost: usize,
    /// Time it took.
    pub took: Duration,
}

impl Summary {
    fn new(way: &Way) -> Self {
        Self {
            way: way.name,
            ..Self::default()
        }
    }

    /// Rounds that ended in a crash.
    pub fn crashes(&self) -> usize {
        self.rounds - self.stops
    }

    fn add(&mut self, round: &Round, took: Duration) {
        self.rounds += 1;
        self.took += took;
        self.tally.sent += round.tally.sent;
        self.tally.answered += round.tally.answered;
        self.tally.changes += round.tally.changes;
        self.tally.flushes += round.tally.flushes;
        self.lost += round.lost;
        if round.stopped {
            self.stops += 1;
            return;
        }
        self.outstanding += round.under_way.requests;
        self.amid_changes += usize::from(round.under_way.changes > 0);
        self.amid_unpromised += usize::from(round.unpromised > 0);
        self.amid_aged += usize::from(round.aged > 0);
        self.ordered += usize::from(round.freeze == Some(Phase::Ordered));
        self.frozen += usize::from(round.freeze == Some(Phase::Frozen));
        self.merging += usize::from(round.freeze == Some(Phase::Merging));
    }
}

impl Display for Summary {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Tally {
            sent,
            answered,
            changes,
            flushes,
        } = self.tally;
        write!(
            f,
            "{}: {} crashes and {} clean stops in {:.1?}; {sent} requests, {answered} answered, \
             among them {changes} writes and trims and {flushes} flushes; {} outstanding at a \
             crash; crashes amid unacknowledged changes: {}, amid acknowledged ones without a \
             promise: {}",
            self.way,
            self.crashes(),
            self.stops,
            self.took,
            self.outstanding,
            self.amid_changes,
            self.amid_unpromised,
        )?;
        if self.amid_aged > 0 {
            write!(f, ", with some promised by their age: {}", self.amid_aged)?;
        }
        if self.ordered + self.frozen + self.merging > 0 {
            write!(
                f,
                ", freezing: {}, frozen: {}, merging: {}",
                self.ordered, self.frozen, self.merging
            )?;
        }
        write!(
            f,
            "; {} sectors lost what was not promised; no promise broken",
            self.lost
        )
    }
}

/// Sectors that hold what they must not after a crash.
#[derive(Clone, Debug)]
pub struct BrokenPromises(String);

impl Display for BrokenPromises {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for BrokenPromises {}

/// Compares a disk after a crash with what was promised; returns how many sectors lost a change
/// that was not.
///
/// # Errors
/// [`BrokenPromises`].
fn judge(promises: &mut Promises, disk: &[u8]) -> Result<usize> {
    let comparison = promises.compare(disk);
    if comparison.broken.is_empty() {
        return Ok(comparison.lost);
    }
    let shown = comparison.broken.iter().take(SHOWN).map(|broken| {
        let allowed: Vec<String> = broken.allowed.iter().map(ToString::to_string).collect();
        format!(
            "\n  sector {} holds {}; allowed: {}",
            broken.lba,
            broken.found,
            allowed.join(", ")
        )
    });
    let shown: String = shown.collect();
    let count = comparison.broken.len();
    Err(BrokenPromises(format!("{count} sectors break a promise:{shown}")).into())
}
