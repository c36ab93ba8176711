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

/// 128 blocks, 16 in a frame.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn reads_of_a_group_travel_in_one_frame() -> Result<()> {
    let read = ["--rw", "read", "--bytes", "1048576", "--group", "16"];
    let (report, log) = measure(&[], &[&read[..], &["--coalesce"]].concat(), Maker::Aoede)?;
    ensure!(report.ops == 128, "{report:?}");
    ensure!(report.request_frames == 8, "{report:?}");
    ensure!(report.response_frames == 128, "{report:?}");
    ensure!(counted(&log, "reads")? == 128, "{log}");
    // The same without: a frame each.
    let (report, _) = measure(&[], &read, Maker::Aoede)?;
    ensure!(report.request_frames == 128, "{report:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn write_responses_that_share_frames_are_all_counted() -> Result<()> {
    let write = ["--rw", "write", "--bytes", "1048576", "--depth", "32"];
    let options = ["--cache", "writeback"];
    let load = [&write[..], &["--write-replies", "--group", "32"]].concat();
    let (report, log) = measure(&options, &load, Maker::Aoede)?;
    ensure!(report.ops == 128, "{report:?}");
    ensure!(counted(&log, "writes")? == 128, "{log}");
    ensure!(report.response_frames < 128, "{report:?}");
    let (report, _) = measure(&options, &write, Maker::Aoede)?;
    ensure!(report.response_frames == 128, "{report:?}");
    Ok(())
}

/// vblade knows no extensions, and must not be taken for one that does.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn extensions_are_not_taken_for_granted() {
    let read = ["--rw", "read", "--seconds", "0.1", "--coalesce"];
    let refused = measure(&[], &read, Maker::Vblade);
    assert!(refused.is_err_and(|error| format!("{error:#}").contains("does not know")));
}
