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

use self::{promises::Promises, stage::Stage};
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
    /// Whose target.
    pub maker: Maker,
    /// Its arguments, as its maker understands them.
    pub arguments: &'static [&'static str],
    /// The promises it is held to.
    pub held_to: Cache,
    /// The requests.
    pub mix: Mix,
    /// Most of them outstanding at once; a round takes a random number up to it.
    pub most_outstanding: usize,
    /// An acknowledged write so old is promised without a flush; a round then waits for so long
    /// before its crash, and the crash finds nothing under way.
    pub kept_after: Option<Duration>,
    /// Kills: the disk is frozen and thawed meanwhile, and the target killed in any phase.
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
    /// Calls `round` for each round. The number in every failure is the round's.
    fn run(
        &self,
        what: &str,
        mut round: impl FnMut(&Stage, &mut Promises, &Way, Random) -> Result<Round> + Send,
    ) -> Result<Summary> {
        eprintln!("{what}: {} rounds, seed {:#x}", self.rounds, self.seed);
        stage::on_one_core(|| {
            let start = Instant::now();
            let stage = Stage::new(SECTORS)?;
            let mut promises = Promises::of_zeros(self.seed, SECTORS);
            let mut choices = Random::new(self.seed);
            let mut summary = Summary::default();
            for (number, way) in self.ways.iter().cycle().take(self.rounds).enumerate() {
                let random = Random::new(choices.number());
                let done = round(&stage, &mut promises, way, random).with_context(|| {
                    format!("{what}, round {number}, seed {:#x}, {way:?}", self.seed)
                })?;
                summary.add(&done);
            }
            summary.took = start.elapsed();
            Ok(summary)
        })
    }
}

/// What happened in one round.
#[derive(Clone, Copy, Debug)]
struct Round {
    tally: Tally,
    outstanding: usize,
    lost: usize,
}

/// What happened in a campaign, to see whether it says anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Summary {
    /// Crashes.
    pub rounds: usize,
    /// All requests.
    pub tally: Tally,
    /// Requests without a response when the crash came, over all rounds.
    pub outstanding: usize,
    /// Sectors that lost a change nobody had promised, over all rounds.
    pub lost: usize,
    /// Time it took.
    pub took: Duration,
}

impl Summary {
    fn add(&mut self, round: &Round) {
        self.rounds += 1;
        self.outstanding += round.outstanding;
        self.lost += round.lost;
        self.tally.sent += round.tally.sent;
        self.tally.answered += round.tally.answered;
        self.tally.changes += round.tally.changes;
        self.tally.flushes += round.tally.flushes;
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
            "{} crashes in {:.1?}: {sent} requests, {answered} answered, among them {changes} \
             writes and trims and {flushes} flushes; {} outstanding at a crash; {} sectors lost \
             what was not promised; no promise broken",
            self.rounds, self.took, self.outstanding, self.lost
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
