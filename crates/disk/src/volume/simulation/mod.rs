//! A volume on a simulated disk, for as many seeds as you like.
//!
//! Each seed is a run of some hundred requests: reads, writes, trims and flushes, at random, on hot
//! spots and in streams, on a disk that is slow, interrupts, transfers short, fails, becomes smaller
//! and larger, loses power and sees the process stopped or killed. After every step the volume is compared with a model of what each
//! sector may hold (`model.rs`) and with what else was promised (`driver.rs`, the checks).
//!
//! ```text
//! cargo test -p aoede-disk simulation                        some seeds, as in CI
//! AOEDE_SEED=17 cargo test -p aoede-disk simulation          this one, with the story of its failure
//! AOEDE_SEEDS=12000 cargo test --release -p aoede-disk simulation -- --nocapture
//! ```

mod draw;
mod driver;
mod memory;
mod model;
mod trace;

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use super::Planted;
use driver::Run;
use trace::Trace;

/// Seeds of a usual run: as many as take some seconds unoptimized.
const SEEDS: u64 = 40;
/// A planted mistake has to be found within so many seeds.
const PLANTED_SEEDS: u64 = 60;

/// What runs have done.
#[derive(Clone, Copy, Debug, Default)]
struct Report {
    requests: u64,
    failed: u64,
    operations: u64,
    errors: u64,
    latches: u64,
    power_cuts: u64,
    kills: u64,
    stops: u64,
    resizes: u64,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.operations += other.operations;
        self.errors += other.errors;
        self.latches += other.latches;
        self.power_cuts += other.power_cuts;
        self.kills += other.kills;
        self.stops += other.stops;
        self.resizes += other.resizes;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} requests ({} failed), {} device operations ({} failed), {} latches, \
             {} power cuts, {} kills, {} clean stops, {} changes of size",
            self.requests,
            self.failed,
            self.operations,
            self.errors,
            self.latches,
            self.power_cuts,
            self.kills,
            self.stops,
            self.resizes
        )
    }
}

/// Tells how to see a failure again.
struct Replay {
    seed: u64,
    run: Run,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step) = (self.seed, self.run.step);
            eprintln!(
                "{}seed {seed}, step {step}; again with its story: \
                 AOEDE_SEED={seed} cargo test -p aoede-disk simulation",
                self.run.trace.text()
            );
        }
    }
}

/// Runs one seed: the hash of its trace, and what was done.
fn run(seed: u64, planted: Option<Planted>, readable: bool) -> (u64, Report) {
    let mut replay = Replay {
        seed,
        run: Run::new(seed, planted, Trace::new(readable)),
    };
    replay.run.play();
    (replay.run.trace.hash(), replay.run.report)
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is no number")),
    )
}

#[test]
fn a_volume_keeps_its_word_whatever_the_disk_does() {
    if let Some(seed) = variable("AOEDE_SEED") {
        let (hash, report) = run(seed, None, true);
        println!("seed {seed}: {report}, trace {hash:016x}");
        return;
    }
    let (seeds, started) = (variable("AOEDE_SEEDS").unwrap_or(SEEDS), Instant::now());
    let mut total = Report::default();
    for seed in 0..seeds {
        total.add(run(seed, None, false).1);
    }
    println!("{seeds} seeds in {:.1?}: {total}", started.elapsed());
    // A simulation in which nothing goes wrong shows nothing.
    for count in [
        total.failed,
        total.latches,
        total.power_cuts,
        total.kills,
        total.stops,
        total.resizes,
    ] {
        assert!(count >= seeds / 10, "too little happened: {total}");
    }
}

#[test]
fn the_same_seed_is_the_same_simulation() {
    let hash = |seed| run(seed, None, false).0;
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

/// What was promised is lost.
const LOST: &str = "a power cut leaves";
/// What is not stable counts as stable.
const FORGOTTEN: &str = "of which the volume knows";
/// A reader sees something else than the newest.
const STALE: &str = "read #";
/// A reader sees something of two times, or of none.
const TORN: &str = "torn inside a sector";
const UNREAD: &str = "found nothing";
/// The simulated disk is asked for two changes of one place at once.
const UNORDERED: &str = "overlaps Write";

#[test]
fn every_planted_mistake_is_found_by_the_simulation() {
    for (planted, violations) in [
        (Planted::SkipSync, [LOST, FORGOTTEN]),
        (Planted::AckBeforeSync, [LOST, LOST]),
        (Planted::DropOrder, [UNORDERED, STALE]),
        (Planted::ForgetDirtyAtEviction, [STALE, FORGOTTEN]),
        (Planted::IgnoreFailedSync, [LOST, FORGOTTEN]),
        (Planted::BelieveBesideSync, [LOST, LOST]),
        (Planted::StaleRead, [STALE, STALE]),
        (Planted::TornRead, [TORN, UNREAD]),
    ] {
        let caught = |seed: u64| {
            let run = || run(seed, Some(planted), false);
            let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
            Some((seed, message(panic.as_ref())))
        };
        let found = (0..PLANTED_SEEDS).find_map(caught);
        let (seed, message) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        // An assertion or an overflow in the volume itself would say nothing of the model.
        assert!(
            violations
                .iter()
                .any(|violation| message.contains(violation)),
            "seed {seed} finds something else than {planted:?}: {message}"
        );
        println!("{planted:?} is found by seed {seed}: {message}");
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or(literal).unwrap_or_default()
}
