//! `aoede bench`: what it tells is consistent, and it destroys nothing unasked. Speeds are not
//! judged here.

#![expect(clippy::indexing_slicing, reason = "what is missing fails the test")]

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{Export, Finished, Maker, Namespace, Scratch, TargetProcess, aoede_binary, run};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

struct Scene {
    _folder: Scratch,
    _host: Namespace,
    initiator: Namespace,
    image: PathBuf,
    target: TargetProcess,
}

impl Scene {
    fn new(maker: Maker) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", 16 << 20)?;
        let (host, initiator) = Namespace::pair(9000)?;
        let target = Export::new(&image, "tgt0").start(&host, maker)?;
        Ok(Self {
            _folder: folder,
            _host: host,
            initiator,
            image,
            target,
        })
    }

    fn bench(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(aoede_binary()?);
        command.args(["bench", "e1.1", "-i", "ini0"]);
        command.args(["--seconds", "0.3", "--warm-up", "0.1"]);
        command.args(arguments);
        run(Some(&self.initiator), command, SOON)
    }

    /// Measures, and looks whether what it says holds together.
    fn measure(&self, arguments: &[&str]) -> Result<Value> {
        let finished = self.bench(&[arguments, &["--json"]].concat())?;
        let (code, stderr) = (finished.code, &finished.stderr);
        ensure!(code == 0, "{arguments:?}: code {code}\n{stderr}");
        let told: Value = serde_json::from_str(&finished.stdout)?;
        consistent(&told).with_context(|| format!("{arguments:?}: {told:#}"))?;
        Ok(told)
    }
}

fn number(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .with_context(|| format!("no number {name}"))
}

fn is_near(one: f64, other: f64) -> bool {
    (one - other).abs() <= 1e-6 * other.abs().max(1.0)
}

fn consistent(told: &Value) -> Result<()> {
    let (seconds, block) = (number(told, "seconds")?, number(told, "block_bytes")?);
    // Not before its time; how much later depends on the machine.
    ensure!(seconds >= 0.3, "{seconds} s");
    let mut operations = 0.0;
    let kinds = ["reads", "writes"].map(|kind| &told[kind]);
    for part in kinds
        .into_iter()
        .filter(|part| !part.is_null())
        .chain([told])
    {
        let ops = number(part, "operations")?;
        ensure!(ops >= 1.0, "nothing was done");
        ensure!(is_near(number(part, "bytes")?, ops * block), "bytes");
        let rate = number(part, "operations_per_second")?;
        ensure!(is_near(rate, ops / seconds), "operations_per_second");
        let rate = number(part, "bytes_per_second")?;
        ensure!(is_near(rate, ops * block / seconds), "bytes_per_second");
        let names = ["min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
        let latency = &part["latency"];
        let figures = names.map(|name| number(latency, name).unwrap_or(-1.0));
        ensure!(figures[0] > 0.0 && figures.is_sorted(), "{figures:?}");
        let mean = number(latency, "mean_us")?;
        ensure!(mean >= figures[0] && mean <= figures[5], "the mean");
        if part != told {
            operations += ops;
        }
    }
    ensure!(
        is_near(operations, number(told, "operations")?),
        "the sum of both"
    );
    Ok(())
}

fn every_workload(maker: Maker) -> Result<()> {
    let scene = Scene::new(maker)?;
    for (rw, reads, writes) in [
        ("read", true, false),
        ("write", false, true),
        ("randread", true, false),
        ("randwrite", false, true),
        ("randrw", true, true),
    ] {
        let mut arguments = vec!["--rw", rw, "--queue-depth", "8", "--block-size", "8k"];
        if writes {
            arguments.push("--destroy-data");
        }
        let told = scene.measure(&arguments)?;
        ensure!(
            told["workload"] == rw && told["queue_depth"] == 8,
            "{told:#}"
        );
        ensure!(told["block_bytes"] == 8192, "{told:#}");
        let there = (!told["reads"].is_null(), !told["writes"].is_null());
        ensure!(there == (reads, writes), "{rw}: {told:#}");
    }
    let content = fs::read(&scene.image)?;
    ensure!(content.iter().any(|&byte| byte != 0), "nothing was written");
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn every_workload_is_measured_and_told_consistently() -> Result<()> {
    every_workload(Maker::under_test())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn vblade_can_be_measured() -> Result<()> {
    every_workload(Maker::Vblade)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn reads_share_frames_unless_they_must_not() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let told = scene.measure(&["--coalesce", "on", "--queue-depth", "16"])?;
    let (ops, sent) = (number(&told, "operations")?, number(&told, "frames_sent")?);
    let shared = number(&told, "reads_coalesced")?;
    // Sixteen may be under way at either end of the measured time.
    ensure!(
        shared > 0.0 && (sent + shared - ops).abs() <= 32.0,
        "{told:#}"
    );
    let told = scene.measure(&["--coalesce", "off", "--queue-depth", "16"])?;
    let (ops, sent) = (number(&told, "operations")?, number(&told, "frames_sent")?);
    ensure!(told["reads_coalesced"] == 0, "{told:#}");
    ensure!((sent - ops).abs() <= 32.0, "{told:#}");
    // A request of 64 KiB is eight frames of 17 sectors.
    let told = scene.measure(&["--rw", "read", "--block-size", "64k", "--coalesce", "off"])?;
    let (ops, sent) = (number(&told, "operations")?, number(&told, "frames_sent")?);
    ensure!(told["sectors_per_frame"] == 17, "{told:#}");
    ensure!((sent - 8.0 * ops).abs() <= 8.0 * 32.0, "{told:#}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn nothing_is_destroyed_unasked() -> Result<()> {
    let scene = Scene::new(Maker::under_test())?;
    for (arguments, word) in [
        (&["--rw", "write"][..], "--destroy-data"),
        (&["--rw", "randrw"], "--destroy-data"),
        (&["--mix", "50"], "--rw randrw"),
        (&["--block-size", "1000"], "512"),
        (
            &["--block-size", "16MiB", "--queue-depth", "1024"],
            "memory",
        ),
    ] {
        let finished = scene.bench(arguments)?;
        ensure!(
            finished.code == 2 && finished.stderr.contains(word),
            "{arguments:?}: code {}\n{}",
            finished.code,
            finished.stderr
        );
    }
    scene.measure(&["--rw", "read"])?;
    let content = fs::read(&scene.image)?;
    ensure!(
        content.iter().all(|&byte| byte == 0),
        "something was written"
    );
    Ok(())
}
