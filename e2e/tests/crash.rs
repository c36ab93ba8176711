//! The real program is killed and loses its disk's power, at any moment, under load: what was
//! promised is there afterwards.
//!
//! `AOEDE_CRASH_ROUNDS` and `AOEDE_CRASH_CUTS` ask for more, `AOEDE_CRASH_SEED` for the same
//! requests again; `cargo xtask crash` sets them.

use std::{
    env,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use aoede_e2e::{
    Maker,
    crash::{BrokenPromises, Cache, Campaign, Flushes, Mix, Summary, Way, kills, power_cuts},
};

const ROUNDS: usize = 50;
const CUTS: usize = 64;
/// Rounds of one way from which on they have to say something.
const ENOUGH: usize = 4;

const ALL: Mix = Mix {
    writes: 45,
    early_writes: 10,
    trims: 3,
    flushes: 7,
    switches: 0,
};

const WITHOUT_TRIMS: Mix = Mix { trims: 0, ..ALL };

/// In a target with a write cache.
const CACHED: Mix = Mix { switches: 2, ..ALL };

const CACHED_WITHOUT_TRIMS: Mix = Mix { trims: 0, ..CACHED };

const WRITEBACK: &[&str] = &["--cache", "writeback"];
/// So little may be dirty, so shortly, that it is written all the time, and the cache so small that
/// pages are evicted all the time.
const BUSY_WRITEBACK: &[&str] = &[
    "--cache",
    "writeback",
    "--engine",
    "aio",
    "--dirty-size",
    "128KiB",
    "--dirty-age",
    "20ms",
    "--cache-size",
    "512KiB",
];
const BUFFERED_WRITEBACK: &[&str] = &["--cache", "writeback", "--io", "buffered"];

/// What any target understands.
const PLAIN: Mix = Mix {
    writes: 60,
    early_writes: 0,
    trims: 0,
    flushes: 0,
    switches: 0,
};

/// Nobody flushes: what is acknowledged early is promised by its age alone.
const UNFLUSHED: Mix = Mix {
    writes: 30,
    early_writes: 30,
    trims: 2,
    flushes: 0,
    switches: 0,
};

/// So old it is given to the kernel, by a target that needs so long at the most to write it.
const AGED_WRITEBACK: &[&str] = &["--cache", "writeback", "--dirty-age", "100ms"];
const AGED_WRITETHROUGH: &[&str] = &["--dirty-age", "100ms"];
const AGE: Duration = Duration::from_millis(100);
/// Time that the disk may take to write and sync what is so old, on a machine with other work.
const TIME_TO_WRITE: Duration = Duration::from_millis(300);

fn ours(name: &'static str, held_to: Cache, mix: Mix, arguments: &'static [&'static str]) -> Way {
    Way {
        name,
        maker: Maker::Aoede,
        arguments,
        held_to,
        mix,
        most_outstanding: 32,
        kept_after: None,
        on_device: false,
        freezes: false,
    }
}

/// The same, frozen and thawed under way.
fn freezing(mut way: Way) -> Way {
    way.freezes = true;
    way
}

/// The same, held to its dirty age.
fn aged(mut way: Way) -> Way {
    way.kept_after = Some(AGE + TIME_TO_WRITE);
    way
}

/// The same on a block device, where RWF_DSYNC is trusted: behind FUSE it is not.
fn on_device(mut way: Way) -> Way {
    way.on_device = true;
    way
}

/// A number from the environment.
fn number(variable: &str, otherwise: usize) -> Result<usize> {
    let Ok(text) = env::var(variable) else {
        return Ok(otherwise);
    };
    text.parse().with_context(|| format!("{variable}={text}"))
}

/// A new seed each time, unless one is asked for.
fn seed() -> Result<u64> {
    if let Ok(text) = env::var("AOEDE_CRASH_SEED") {
        let digits = text.trim_start_matches("0x");
        return u64::from_str_radix(digits, 16)
            .with_context(|| format!("AOEDE_CRASH_SEED={text} is no hexadecimal number"));
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    Ok(u64::from(since.subsec_nanos()) << 32 | since.as_secs() & 0xffff_ffff)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn killed_at_any_moment_it_has_kept_what_it_promised() -> Result<()> {
    let rounds = number("AOEDE_CRASH_ROUNDS", ROUNDS)?;
    let campaign = Campaign {
        rounds,
        seed: seed()?,
        ways: vec![
            ours(
                "writethrough, io_uring",
                Cache::Writethrough,
                ALL,
                &["--engine", "io_uring"],
            ),
            ours(
                "writethrough, aio",
                Cache::Writethrough,
                ALL,
                &["--engine", "aio"],
            ),
            ours(
                "writethrough, buffered",
                Cache::Writethrough,
                ALL,
                &["--io", "buffered"],
            ),
            ours("writeback", Cache::Writeback, CACHED, WRITEBACK),
            ours("writeback, busy", Cache::Writeback, CACHED, BUSY_WRITEBACK),
            ours(
                "writeback, buffered",
                Cache::Writeback,
                CACHED,
                BUFFERED_WRITEBACK,
            ),
            aged(ours(
                "writethrough, never flushed",
                Cache::Writethrough,
                UNFLUSHED,
                AGED_WRITETHROUGH,
            )),
            aged(ours(
                "writeback, never flushed",
                Cache::Writeback,
                UNFLUSHED,
                AGED_WRITEBACK,
            )),
            // With a shadow a trim leaves the parts of blocks as they are.
            freezing(ours(
                "writethrough, frozen",
                Cache::Writethrough,
                WITHOUT_TRIMS,
                &[],
            )),
            freezing(ours(
                "writeback, frozen",
                Cache::Writeback,
                CACHED_WITHOUT_TRIMS,
                WRITEBACK,
            )),
        ],
    };
    let summaries = kills(&campaign)?;
    show(&summaries);
    for (way, summary) in campaign.ways.iter().zip(&summaries) {
        says_something(way, summary).with_context(|| summary.to_string())?;
    }
    Ok(())
}

/// Whether the crashes of a way came when something could go wrong. The shares are far below what
/// is usual: of few crashes they ask nothing.
fn says_something(way: &Way, summary: &Summary) -> Result<()> {
    let early = way.mix.early_writes > 0 || way.held_to == Cache::Writeback;
    let aged = way.kept_after.is_some();
    // What is acknowledged from memory is not under way for long.
    let under_way = if aged || way.held_to == Cache::Writeback {
        8
    } else {
        2
    };
    for (what, asked, kills, one_of) in [
        (
            "amid writes without an answer",
            true,
            summary.amid_changes,
            under_way,
        ),
        ("with dirty data", early, summary.amid_unpromised, 4),
        ("with data that is old enough", aged, summary.amid_aged, 4),
        ("while a freeze began", way.freezes, summary.ordered, 40),
        ("while it was frozen", way.freezes, summary.frozen, 8),
        ("while it was merged", way.freezes, summary.merging, 20),
    ] {
        ensure!(
            !asked || kills >= summary.crashes() / one_of,
            "{kills} kills {what} are too few"
        );
    }
    let flushes = way.mix.flushes > 0 && summary.rounds >= ENOUGH;
    ensure!(
        !flushes || summary.tally.flushes > 0,
        "no flush was acknowledged"
    );
    Ok(())
}

fn show(summaries: &[Summary]) {
    for summary in summaries {
        eprintln!("{summary}");
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_power_cut_takes_nothing_that_was_promised() -> Result<()> {
    let rounds = number("AOEDE_CRASH_CUTS", CUTS)?;
    let campaign = Campaign {
        rounds,
        seed: seed()?,
        ways: vec![
            on_device(ours(
                "writethrough, io_uring, device",
                Cache::Writethrough,
                WITHOUT_TRIMS,
                &["--engine", "io_uring"],
            )),
            ours(
                "writethrough, aio, file",
                Cache::Writethrough,
                WITHOUT_TRIMS,
                &["--engine", "aio"],
            ),
            ours(
                "writethrough, buffered, file",
                Cache::Writethrough,
                WITHOUT_TRIMS,
                &["--io", "buffered"],
            ),
            on_device(ours(
                "writeback, device",
                Cache::Writeback,
                CACHED_WITHOUT_TRIMS,
                WRITEBACK,
            )),
            on_device(ours(
                "writeback, busy, device",
                Cache::Writeback,
                CACHED_WITHOUT_TRIMS,
                BUSY_WRITEBACK,
            )),
            ours(
                "writeback, buffered, file",
                Cache::Writeback,
                CACHED_WITHOUT_TRIMS,
                BUFFERED_WRITEBACK,
            ),
            freezing(ours(
                "writethrough, frozen, file",
                Cache::Writethrough,
                WITHOUT_TRIMS,
                &[],
            )),
            on_device(freezing(ours(
                "writeback, frozen, device",
                Cache::Writeback,
                CACHED_WITHOUT_TRIMS,
                WRITEBACK,
            ))),
        ],
    };
    let summaries = power_cuts(&campaign, Flushes::Obeyed)?;
    show(&summaries);
    let (mut frozen, mut merging) = (0, 0);
    for (way, summary) in campaign.ways.iter().zip(summaries) {
        if way.freezes {
            frozen += summary.frozen;
            merging += summary.merging;
        }
        // What is in a shadow is not on the disk that is cut.
        ensure!(
            way.freezes || summary.lost > 0 || summary.rounds < ENOUGH,
            "no cut took anything, so it was none: {summary}"
        );
    }
    ensure!(
        (frozen > 0 && merging > 0) || rounds < ENOUGH * campaign.ways.len(),
        "{frozen} cuts while it was frozen and {merging} while it was merged are too few"
    );
    Ok(())
}

/// With `-d` and `-s` vblade acknowledges what is on stable storage. Without, it acknowledges what
/// is in the page cache only, but never says that it has a write cache.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_that_acknowledges_too_early_is_found_out_by_a_power_cut() -> Result<()> {
    let honest = Way {
        name: "vblade",
        maker: Maker::Vblade,
        arguments: &["-d", "-s"],
        held_to: Cache::Writethrough,
        mix: PLAIN,
        most_outstanding: 4,
        kept_after: None,
        on_device: false,
        freezes: false,
    };
    let campaign = Campaign {
        rounds: 8,
        seed: seed()?,
        ways: vec![honest.clone()],
    };
    show(&power_cuts(&campaign, Flushes::Obeyed).context("the honest vblade")?);
    let liar = Way {
        arguments: &[],
        ..honest
    };
    expect_broken_promises(liar, Flushes::Obeyed)
}

/// Our own target cannot do better than its disk: with one that ignores flushes nothing is kept.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_that_ignores_flushes_is_found_out_by_a_power_cut() -> Result<()> {
    let way = ours("on a liar", Cache::Writethrough, WITHOUT_TRIMS, &[]);
    expect_broken_promises(way.clone(), Flushes::Ignored)?;
    expect_broken_promises(on_device(way), Flushes::Ignored)
}

/// An image that is merged into such a disk has not what the map says it has.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_that_ignores_flushes_is_found_out_by_a_power_cut_after_a_merge() -> Result<()> {
    let way = ours("on a liar", Cache::Writethrough, WITHOUT_TRIMS, &[]);
    expect_broken_promises(freezing(way), Flushes::Ignored)
}

/// What it acknowledges from its write cache it does not promise, and a kill takes it. Held to more
/// than it promises, it is found out.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_write_cache_that_is_kept_secret_is_found_out_by_a_kill() -> Result<()> {
    let secret = ours("a secret", Cache::Writethrough, PLAIN, WRITEBACK);
    expect_broken_promises_by_kills(secret)
}

/// The same with data that is kept for longer than is said.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn data_that_is_kept_in_memory_for_too_long_is_found_out_by_a_kill() -> Result<()> {
    const LONG: &[&str] = &["--cache", "writeback", "--dirty-age", "1m"];
    let way = aged(ours("too old", Cache::Writeback, UNFLUSHED, LONG));
    expect_broken_promises_by_kills(way)
}

/// `--dirty-age` bounds what a power cut takes where nobody flushes: the Linux driver never does.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_power_cut_takes_nothing_that_is_older_than_the_dirty_age() -> Result<()> {
    const ARGUMENTS: &[&str] = &["--cache", "writeback", "--dirty-age", "300ms"];
    let unflushed = Way {
        // The age, and time to write.
        kept_after: Some(Duration::from_millis(300 + 250)),
        ..ours("unflushed", Cache::Writeback, PLAIN, ARGUMENTS)
    };
    let campaign = Campaign {
        rounds: 5,
        seed: seed()?,
        ways: vec![unflushed.clone()],
    };
    show(&power_cuts(&campaign, Flushes::Obeyed)?);
    // Cut before that age, it loses what it acknowledged: the age has kept it above.
    let at_once = Way {
        kept_after: Some(Duration::ZERO),
        ..unflushed
    };
    expect_broken_promises(at_once, Flushes::Obeyed)
}

fn expect_broken_promises(way: Way, flushes: Flushes) -> Result<()> {
    let campaign = Campaign {
        rounds: 3,
        seed: seed()?,
        ways: vec![way],
    };
    found_out(power_cuts(&campaign, flushes))
}

fn expect_broken_promises_by_kills(way: Way) -> Result<()> {
    let campaign = Campaign {
        rounds: 5,
        seed: seed()?,
        ways: vec![way],
    };
    found_out(kills(&campaign))
}

fn found_out(result: Result<Vec<Summary>>) -> Result<()> {
    let Err(error) = result else {
        bail!("a liar was not found out");
    };
    eprintln!("as it must be: {error:#}");
    if error.downcast_ref::<BrokenPromises>().is_none() {
        return Err(error.context("something else went wrong"));
    }
    Ok(())
}
