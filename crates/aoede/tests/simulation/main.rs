//! The whole at once: initiators, a network, a worker with its target and volume, a disk; all of it
//! drawn from a seed, in virtual time, compared with a model of every sector.
//!
//! # What happens
//!
//! Some initiators ([`aoede_initiator::Driver`]) send reads, writes, flushes and trims to one export
//! ([`aoede::worker::Worker`]) on a simulated disk. Frames are lost, come twice, overtake each other,
//! come late; ways are cut in one or both directions for a while; the target is killed or its power
//! is cut, and it starts again; an initiator is killed, and starts again with the same MAC, a new
//! session and new tags, while frames of its former life are still under way; the target announces
//! itself for no reason; somebody sets the config string, which ends everybody's extensions; a crowd
//! of 1100 other initiators pushes them out. The disk is slow, transfers short, interrupts, and
//! fails. Extensions are wanted or not.
//!
//! What does not happen: a frame that nobody sent, and one that grows or shrinks. Bits are flipped
//! only in one class; elsewhere a damaged frame is a lost one, as the network card drops it. No sync
//! fails: the volume's own simulation has that.
//!
//! # Classes of networks, and what is promised in each
//!
//! | class | a frame is under way | bits |
//! |---|---|---|
//! | prompt | 6 ms, less than any session's patience | kept |
//! | flips | as prompt | flipped, with `crc8x4` and without tags |
//! | lingering | 120 ms, less than a session's `linger`; twins come together | kept |
//! | late | up to 100 s, twins each at its own time | kept |
//!
//! In every class:
//! - A reader sees, sector by sector, the latest write that was acknowledged or seen before it
//!   asked, or one that was under way since: never an older one, none of another sector, nothing
//!   that was never written (`model.rs`).
//! - A response to a read shows each write that came in one frame whole or not at all (`middle.rs`).
//!   Writes of one MAC take effect in the order in which the target took them from its ring.
//! - After the target's end its disk holds what was acknowledged by a write-through target, and what
//!   was flushed, or what was written later.
//! - A flush succeeds only if no change that was acknowledged to its initiator before was lost with a
//!   target's end since, unless an earlier flush has told of it.
//! - A write that failed, was given up, or whose initiator died, has happened or not. It happens
//!   later only if the target takes another copy of it from the network.
//! - Every request is answered, or given up, which it is only where ways were cut or the target was
//!   away; it fails only where the disk fails or bits are flipped.
//! - At the end nothing is under way, and every buffer is back.
//!
//! A copy of a write that was answered before is not executed again, whatever the extensions. In the
//! class *prompt* there is none. In *lingering* initiators take care of it (protocol.md §15, 8 and
//! 10), as far as they can: each writes sectors of its own where tags are not tracked, as it can only
//! wait for its own copies. In *late* the tag window does (§9), and only that: a copy is excused
//! where the target has no window that goes back to when it was first sent. That is so without tags,
//! until extensions are agreed on after a start of either end, and where a frame from before has
//! moved the window (§9.2, 5). An excused copy is a write of its own from then on, in the model too:
//! it may bring back its old data, and nothing else. Excused everywhere are copies from an
//! initiator's former life, and of writes that failed where sectors are shared: a failed write may
//! be tried again, so the window does not remember it.
//!
//! Flipped bits: a checksum covers registers and data, not the common header with its tag (§11). So
//! no tags are tracked there, and a request may fail for no reason; none may lie.
//!
//! # Planted mistakes
//!
//! `planted.rs` has mistakes, each of which must be found by a violation of its own kind. They are
//! made between the stations: the crates have no code for them.
//!
//! ```text
//! cargo test -p aoede --test simulation                     some seeds
//! AOEDE_SEED=17 cargo test -p aoede --test simulation       this one, with the story of its failure
//! AOEDE_SEEDS=100000 cargo test --profile simulation -p aoede --test simulation -- --nocapture
//! ```
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests: a panic is how they fail, and their numbers are small"
)]

mod draw;
mod frame;
mod middle;
mod model;
mod planted;
mod random;
mod report;
mod trace;
mod world;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use planted::Planted;
use report::Report;
use trace::Trace;
use world::World;

/// Seeds of a usual run: as many as take some seconds unoptimized. `cargo xtask test` runs more.
const SEEDS: u64 = 60;
/// A planted mistake has to be found within so many seeds.
const PLANTED_SEEDS: u64 = 2000;

struct Failure {
    seed: u64,
    step: u64,
    message: String,
    story: String,
}

/// Runs one seed: the hash of its trace, and what was done.
fn run(seed: u64, planted: Option<Planted>, readable: bool) -> Result<(u64, Report), Failure> {
    let mut world = World::new(seed, planted, Trace::new(readable));
    let panic = catch_unwind(AssertUnwindSafe(|| world.run())).err();
    let Some(panic) = panic else {
        return Ok((world.trace_hash(), world.report));
    };
    Err(Failure {
        seed,
        step: world.step,
        message: message(panic.as_ref()),
        story: world.story(),
    })
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or(literal).unwrap_or_default()
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

/// Runs seeds on all processors, up to the first failure.
fn run_many(seeds: u64) -> Result<Report, Failure> {
    let next = AtomicU64::new(0);
    let total = Mutex::new(Ok(Report::default()));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds {
                return;
            }
            let outcome = run(seed, None, false);
            let mut total = total.lock().unwrap();
            match (&mut *total, outcome) {
                (Ok(total), Ok((_, report))) => total.add(&report),
                (Ok(_), Err(failure)) => {
                    next.store(seeds, Ordering::Relaxed);
                    *total = Err(failure);
                }
                (Err(_), _) => {}
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    total.into_inner().unwrap()
}

fn tell(failure: &Failure) -> ! {
    let Failure {
        seed,
        step,
        message,
        story,
    } = failure;
    panic!(
        "{story}{message}\nseed {seed}, step {step}; again with its story: \
         AOEDE_SEED={seed} cargo test -p aoede --test simulation"
    );
}

#[test]
fn the_whole_keeps_its_word_whatever_network_and_disk_do() {
    if let Some(seed) = variable("AOEDE_SEED") {
        match run(seed, None, true) {
            Ok((hash, report)) => println!("seed {seed}: trace {hash:016x}\n{report}"),
            Err(failure) => tell(&failure),
        }
        return;
    }
    let (seeds, started) = (variable("AOEDE_SEEDS").unwrap_or(SEEDS), Instant::now());
    let report = run_many(seeds).unwrap_or_else(|failure| tell(&failure));
    println!("{seeds} seeds in {:.1?}\n{report}", started.elapsed());
    report.check(seeds);
}

#[test]
fn the_same_seed_is_the_same_simulation() {
    let hash = |seed| run(seed, None, false).map(|(hash, _)| hash).ok();
    for seed in 0..20 {
        assert_eq!(hash(seed), hash(seed));
    }
    assert_ne!(hash(3), hash(4));
}

#[test]
fn every_planted_mistake_is_found_by_the_simulation() {
    std::thread::scope(|scope| {
        for (planted, violations) in Planted::ALL {
            scope.spawn(move || is_found(planted, violations));
        }
    });
}

fn is_found(planted: Planted, violations: &[&str]) {
    let found = (0..PLANTED_SEEDS).find_map(|seed| run(seed, Some(planted), false).err());
    let Failure { seed, message, .. } = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
    let first = message.lines().next().unwrap_or_default();
    // An assertion or an overflow in the code under test would say nothing of the simulation.
    assert!(
        violations
            .iter()
            .any(|violation| message.contains(violation)),
        "seed {seed} finds something else than {planted:?}: {message}"
    );
    println!("{planted:?} is found by seed {seed}: {first}");
}
