//! The load generator among targets that count what they are asked.

use std::{process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_bench::load::Report;
use aoede_e2e::{Export, Maker, Namespace, Scratch, succeed};

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(60);

/// Our target with these options, a load generator with those: what the one found, and what the
/// other said at its end.
fn measure(options: &[&str], load: &[&str], maker: Maker) -> Result<(Report, String)> {
    let (target_host, load_host) = Namespace::pair(9000)?;
    let folder = Scratch::new()?;
    let disk = folder.image("disk.img", MIB)?;
    let target = Export::new(&disk, "tgt0")
        .with(options)
        .start(&target_host, maker)?;
    let log = target.log()?.clone();
    let mut command = Command::new(env!("CARGO_BIN_EXE_aoede-bench"));
    command
        .args(["load", "e1.1", "--interface", "ini0", "--json"])
        .args(["--wait", "poll", "--block-size", "8192"])
        // Nothing is lost here: a busy machine shall not look like it.
        .args(["--timeout", "8000"])
        .args(load);
    let output = succeed(Some(&load_host), command, SOON)?;
    target.stop()?;
    Ok((serde_json::from_str(&output)?, log.text()))
}

fn counted(log: &str, name: &str) -> Result<u64> {
    let last = log.lines().last().context("the target said nothing")?;
    let value = last
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    Ok(value
        .with_context(|| format!("no {name} in {last}"))?
        .parse()?)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_is_read_once() -> Result<()> {
    let (report, log) = measure(&[], &["--rw", "read", "--bytes", "1048576"], Maker::Aoede)?;
    ensure!(report.ops == 128, "{} operations", report.ops);
    ensure!(report.bytes == MIB, "{} bytes", report.bytes);
    ensure!(counted(&log, "reads")? == 128, "{log}");
    ensure!(report.flush_seconds.is_none(), "{report:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flush_counts_and_follows_every_write() -> Result<()> {
    let write = ["--rw", "write", "--seconds", "0.5", "--warm-up", "0"];
    let load = [&write[..], &["--flush"]].concat();
    let (report, log) = measure(&["--cache", "writeback"], &load, Maker::Aoede)?;
    ensure!(counted(&log, "flushes")? == 2, "{log}");
    ensure!(
        counted(&log, "writes")? == report.ops,
        "{} operations: {log}",
        report.ops
    );
    let flush = report.flush_seconds.context("no flush")?;
    ensure!(report.seconds >= 0.5 + flush, "{report:?}");
    Ok(())
}

/// vblade aborts FLUSH CACHE EXT (§13).
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_without_flush_cache_ext_is_asked_for_the_other() -> Result<()> {
    let write = ["--rw", "write", "--seconds", "0.1", "--flush"];
    let (report, _) = measure(&[], &write, Maker::Vblade)?;
    ensure!(report.flush_seconds.is_some(), "{report:?}");
    ensure!(report.ops > 0, "{report:?}");
    Ok(())
}
