//! `aoede copy` between real hosts: sparse, interrupted in every way, and what it refuses.

#![expect(clippy::indexing_slicing, reason = "what is too short fails the test")]

use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Finished, Maker, Namespace, Process, Random, Scratch, TargetProcess, aoede_binary, run,
    succeed, wait_until,
};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);
const LONG: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;
const SECTOR: u64 = 512;

/// Two hosts, a target on one, an image that it serves, and a source of the same size.
struct Scene {
    folder: Scratch,
    host: Namespace,
    initiator: Namespace,
    image: PathBuf,
    export: Export,
    target: TargetProcess,
}

impl Scene {
    fn new(maker: Maker, image_bytes: u64, mtu: u32) -> Result<Self> {
        Self::with(maker, image_bytes, mtu, &[])
    }

    /// With further arguments of the target.
    fn with(maker: Maker, image_bytes: u64, mtu: u32, arguments: &[&str]) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", image_bytes)?;
        let (host, initiator) = Namespace::pair(mtu)?;
        let export = Export::new(&image, "tgt0").with(arguments);
        let target = export.start(&host, maker)?;
        Ok(Self {
            folder,
            host,
            initiator,
            image,
            export,
            target,
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a copy to a disk keeps its record here.
    fn record(&self) -> PathBuf {
        self.path("record")
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(aoede_binary()?);
        command
            .current_dir(self.folder.path())
            .arg("copy")
            .args(arguments)
            .args(["-i", "ini0", "--state"])
            .arg(self.record());
        Ok(command)
    }

    fn copy(&self, arguments: &[&str]) -> Result<Finished> {
        run(Some(&self.initiator), self.command(arguments)?, LONG)
    }

    /// Copies, and returns what it tells programs.
    fn succeed(&self, arguments: &[&str]) -> Result<Value> {
        let arguments = [arguments, &["--json"]].concat();
        let finished = self.copy(&arguments)?;
        ensure!(
            finished.code == 0,
            "{arguments:?}: code {}\n{}",
            finished.code,
            finished.stderr
        );
        serde_json::from_str(&finished.stdout).with_context(|| finished.stdout.clone())
    }

    /// Copies in vain; its message must have all these words.
    fn fail(&self, arguments: &[&str], code: i32, words: &[&str]) -> Result<()> {
        let finished = self.copy(arguments)?;
        let stderr = &finished.stderr;
        ensure!(
            finished.code == code && words.iter().all(|word| stderr.contains(word)),
            "{arguments:?}: code {}, and not {words:?} in\n{stderr}",
            finished.code
        );
        Ok(())
    }

    /// Starts a copy and waits until so much of it is recorded as stable. `None` if it has come to
    /// its end before.
    fn begin(&self, arguments: &[&str], stable_bytes: u64) -> Result<Option<Process>> {
        let mut command = self.command(arguments)?;
        command.args(["--sync-every", "10ms"]);
        let mut copy = Process::spawn("aoede copy", Some(&self.initiator), command)?;
        let start = Instant::now();
        // Without a sleep: a moment later it may have ended.
        while recorded(&self.record()).is_none_or(|bytes| bytes < stable_bytes) {
            if !copy.is_running() {
                let status = copy.wait(SOON)?;
                ensure!(status.success(), "{status}:\n{}", copy.stderr.text());
                return Ok(None);
            }
            ensure!(start.elapsed() < LONG, "{stable_bytes} bytes: not in time");
            thread::yield_now();
        }
        Ok(Some(copy))
    }

    /// The same, and it must not have ended.
    fn interrupt_at(&self, arguments: &[&str], stable_bytes: u64) -> Result<Process> {
        self.begin(arguments, stable_bytes)?
            .context("the copy ended before it could be interrupted")
    }

    /// Kills the target as a crash would.
    fn kill(&self) -> Result<()> {
        let id = i32::try_from(self.target.id()?)?;
        let id = Pid::from_raw(id).context("no process number")?;
        Ok(kill_process(id, Signal::KILL)?)
    }

    fn restart(&mut self, maker: Maker) -> Result<()> {
        self.target = self.export.start(&self.host, maker)?;
        Ok(())
    }
}

/// How much a record calls stable, if there is one.
fn recorded(record: &Path) -> Option<u64> {
    let text = fs::read_to_string(record).ok()?;
    let state: Value = serde_json::from_str(text.lines().next()?).ok()?;
    state["stable_bytes"].as_u64()
}

/// Makes a file of so many bytes, full of noise.
fn noise(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let chunk = random.bytes(1 << 20);
    let file = File::create_new(path)?;
    for (index, from) in (0..bytes).step_by(1 << 20).enumerate() {
        let mut chunk = chunk.clone();
        for sector in chunk.chunks_mut(512) {
            sector[..8].copy_from_slice(&random.number().to_le_bytes());
            sector[8..16].copy_from_slice(&(index as u64).to_le_bytes());
        }
        let len = (bytes - from).min(MIB);
        file.write_all_at(&chunk[..usize::try_from(len)?], from)?;
    }
    Ok(())
}

/// Makes a sparse file with a few extents of noise, one of them written zeros. Returns how many
/// bytes of it are noise.
fn sparse(path: &Path, bytes: u64, seed: u64) -> Result<u64> {
    let mut random = Random::new(seed);
    let file = File::create_new(path)?;
    file.set_len(bytes)?;
    let mut written = 0;
    // Odd places and lengths, some of them shorter than a block.
    for _ in 0..12 {
        let len = 1 + random.below(400_000);
        let from = random.below(usize::try_from(bytes)? - len);
        file.write_all_at(&random.bytes(len), from as u64)?;
        written += len as u64;
    }
    file.write_all_at(&vec![0; 3 << 20], 5 * MIB)?;
    Ok(written)
}

fn equal(one: &Path, other: &Path) -> Result<()> {
    let (a, b) = (File::open(one)?, File::open(other)?);
    let bytes = a.metadata()?.len();
    ensure!(bytes == b.metadata()?.len(), "sizes differ");
    let (mut x, mut y) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    for from in (0..bytes).step_by(1 << 20) {
        let len = usize::try_from((bytes - from).min(MIB))?;
        a.read_exact_at(&mut x[..len], from)?;
        b.read_exact_at(&mut y[..len], from)?;
        let differs = x[..len].iter().zip(&y[..len]).position(|(x, y)| x != y);
        if let Some(differs) = differs {
            let sector = (from + differs as u64) / SECTOR;
            anyhow::bail!(
                "{} and {} differ at sector {sector}",
                one.display(),
                other.display()
            );
        }
    }
    Ok(())
}

/// Bytes that a file takes up.
fn allocated(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)?.blocks() * 512)
}

fn both_ways(maker: Maker, mtu: u32) -> Result<()> {
    let bytes = 48 * MIB;
    let scene = Scene::new(maker, bytes, mtu)?;
    let (source, back) = (scene.path("source.img"), scene.path("back.img"));
    let written = sparse(&source, bytes, 11)?;
    // Twelve extents, and the blocks at both of their ends.
    let most = written + 12 * 2 * 4096;

    let told = scene.succeed(&["source.img", "e1.1", "--verify"])?;
    ensure!(
        told["verified"] == true && told["size_bytes"] == bytes,
        "{told}"
    );
    ensure!(!scene.record().exists(), "the record stays");
    equal(&source, &scene.image)?;

    let told = scene.succeed(&["e1.1", "back.img", "--verify"])?;
    ensure!(told["zero_bytes"].as_u64() > Some(bytes / 2), "{told}");
    equal(&source, &back)?;
    let used = allocated(&back)?;
    ensure!(used <= most, "{used} bytes are taken up, of {most} at most");

    // What was there before does not shine through.
    noise(&scene.path("noise.img"), bytes, 12)?;
    scene.succeed(&["noise.img", "e1.1", "--force"])?;
    equal(&scene.path("noise.img"), &scene.image)?;
    scene.succeed(&["source.img", "e1.1", "--force", "--verify"])?;
    equal(&source, &scene.image)?;
    if maker == Maker::Aoede {
        // Trims are for zeros that are 64 KiB long or longer, in requests of 256 KiB.
        let (used, most) = (allocated(&scene.image)?, written + 12 * 2 * (256 << 10));
        ensure!(used <= most, "{used} bytes are taken up, of {most} at most");
    }
    scene.succeed(&["e1.1", "noise.img", "--force", "--verify"])?;
    equal(&source, &scene.path("noise.img"))?;
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sparse_image_goes_there_and_back() -> Result<()> {
    both_ways(Maker::under_test(), 9000)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn it_goes_to_vblade_and_back_in_small_frames() -> Result<()> {
    both_ways(Maker::Vblade, 1500)
}

/// Makes a file of so many bytes from a seed.
type Make = fn(&Path, u64, u64) -> Result<()>;

/// Makes a file full of noise, with a hole in every other MiB, and written zeros in every eighth.
fn patchy(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    noise(path, bytes, seed)?;
    let file = OpenOptions::new().write(true).open(path)?;
    for from in (0..bytes).step_by(8 << 20) {
        for at in [1, 3, 5, 7] {
            // Odd places, so that no hole is whole requests.
            let (from, len) = (from + at * MIB - 1234, MIB + 4321);
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(&file, punch, from, len)?;
        }
        file.write_all_at(&vec![0; 300_000], from + 4 * MIB)?;
    }
    Ok(())
}

/// Killed several times at random places, it comes to its end, and every byte is right.
fn killed(arguments: [&str; 2], bytes: u64, seed: u64, make: Make) -> Result<()> {
    let scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    let mut random = Random::new(seed);
    let original = scene.path("original.img");
    make(&original, bytes, seed)?;
    // What is at the destination before must not shine through.
    let old = scene.path("old.img");
    noise(&old, bytes, seed + 1)?;
    let (on_disk, source) = if arguments[0] == "e1.1" {
        fs::rename(old, scene.path(arguments[1]))?;
        (&original, None)
    } else {
        (&old, Some(scene.path(arguments[0])))
    };
    File::options()
        .write(true)
        .open(&scene.image)?
        .write_all_at(&fs::read(on_disk)?, 0)?;
    if let Some(source) = source {
        fs::hard_link(&original, source)?;
    }
    let begin = [&arguments[..], &["--force"]].concat();
    let resume = [&arguments[..], &["--resume"]].concat();
    let mut last = 0;
    for round in 0..4 {
        let span = usize::try_from((bytes - last) / 3)?;
        let at = last + 1 + random.below(span) as u64;
        let first = if round == 0 { &begin } else { &resume };
        let mut copy = scene
            .interrupt_at(first, at)
            .with_context(|| format!("seed {seed}, round {round}, {at} of {bytes} bytes"))?;
        copy.kill()?;
        last = recorded(&scene.record()).context("no record")?;
    }
    let told = scene.succeed(&[&resume[..], &["--verify"]].concat())?;
    ensure!(
        told["resumed_at_bytes"] == last && told["copied_bytes"] == bytes - last,
        "seed {seed}: {told}"
    );
    scene.target.stop()?;
    let copied = if arguments[1] == "e1.1" {
        scene.image
    } else {
        scene.folder.join(arguments[1])
    };
    equal(&original, &copied).with_context(|| format!("seed {seed}"))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_copy_to_a_disk_that_is_killed_goes_on() -> Result<()> {
    killed(["source.img", "e1.1"], 192 * MIB, 21, noise)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_copy_to_a_file_that_is_killed_goes_on() -> Result<()> {
    killed(["e1.1", "back.img"], 192 * MIB, 22, noise)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sparse_copy_to_a_disk_that_is_killed_goes_on() -> Result<()> {
    killed(["source.img", "e1.1"], 256 * MIB, 23, patchy)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sparse_copy_to_a_file_that_is_killed_goes_on() -> Result<()> {
    killed(["e1.1", "back.img"], 256 * MIB, 24, patchy)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn ctrl_c_leaves_a_copy_that_goes_on() -> Result<()> {
    let bytes = 192 * MIB;
    let scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    noise(&scene.path("source.img"), bytes, 31)?;
    let mut copy = scene.interrupt_at(&["source.img", "e1.1"], MIB)?;
    // It cannot end meanwhile.
    copy.signal(Signal::STOP)?;
    for option in ["--resume", "--force"] {
        scene.fail(
            &["source.img", "e1.1", option],
            1,
            &["another copy to the same destination"],
        )?;
    }
    copy.signal(Signal::CONT)?;
    copy.signal(Signal::INT)?;
    let status = copy.wait(SOON)?;
    let said = copy.stderr.text();
    ensure!(
        status.code() == Some(1)
            && said.contains("aoede: interrupted; ")
            && said.contains("192 MiB are copied, and --resume goes on from there"),
        "{status}: {said}"
    );
    let stable = recorded(&scene.record()).context("no record")?;
    ensure!(stable >= MIB && stable < bytes, "{stable}");
    // Not by accident from the beginning.
    scene.fail(&["source.img", "e1.1"], 1, &["--resume", "--force"])?;
    let told = scene.succeed(&["source.img", "e1.1", "--resume"])?;
    ensure!(told["resumed_at_bytes"] == stable, "{told}");
    equal(&scene.path("source.img"), &scene.image)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_has_changed_is_not_gone_on_with() -> Result<()> {
    let bytes = 128 * MIB;
    let mut scene = Scene::new(Maker::Aoede, bytes, 9000)?;
    let source = scene.path("source.img");
    noise(&source, bytes, 41)?;
    let arguments = ["source.img", "e1.1", "--resume"];
    scene.interrupt_at(&["source.img", "e1.1"], MIB)?.kill()?;
    let record = fs::read(scene.record())?;

    let file = OpenOptions::new().write(true).open(&source)?;
    let before = file.metadata()?.modified()?;
    file.write_all_at(b"other", 100 * MIB)?;
    scene.fail(
        &arguments,
        1,
        &["source.img was changed since the copy began", "--force"],
    )?;
    file.set_len(bytes - SECTOR)?;
    scene.fail(&arguments, 1, &["134217216 bytes now, and had 134217728"])?;
    file.set_len(bytes)?;
    file.set_modified(before)?;

    let mut damaged = record.clone();
    damaged[40] ^= 1;
    fs::write(scene.record(), damaged)?;
    scene.fail(
        &arguments,
        1,
        &["record: it is damaged; begin anew with --force instead of --resume"],
    )?;
    fs::write(scene.record(), record)?;

    // Another target at the same address, whose serial number is another.
    scene.target.stop()?;
    scene.target = Export::new(&scene.image, "tgt0").start(&scene.host, Maker::Vblade)?;
    scene.fail(
        &arguments,
        1,
        &["e1.1 is another disk now", "serial number"],
    )?;
    scene.target.stop()?;

    // One that differs in its content alone: at sector 1000.
    let image = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&scene.image)?;
    let mut was = [0; 5];
    image.read_exact_at(&mut was, 512_007)?;
    image.write_all_at(b"other", 512_007)?;
    scene.target = Export::new(&scene.image, "tgt0").start(&scene.host, Maker::Aoede)?;
    let record = fs::read(scene.record())?;
    scene.fail(
        &arguments,
        1,
        &[
            "e1.1 differs from ",
            "at sector 1000, where it was copied",
            "--force instead of --resume",
        ],
    )?;
    ensure!(
        fs::read(scene.record())? == record,
        "the record has changed"
    );
    scene.target.stop()?;
    image.write_all_at(&was, 512_007)?;

    scene.target = Export::new(&scene.image, "tgt0").start(&scene.host, Maker::Aoede)?;
    let told = scene.succeed(&arguments)?;
    ensure!(told["resumed_at_bytes"].as_u64() >= Some(MIB), "{told}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_that_is_killed_and_comes_back_is_no_error() -> Result<()> {
    let bytes = 192 * MIB;
    let mut scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    noise(&scene.path("source.img"), bytes, 51)?;
    for (arguments, copied) in [
        (["source.img", "e1.1"], "disk.img"),
        (["e1.1", "back.img"], "back.img"),
    ] {
        let mut copy = scene.interrupt_at(&arguments, 2 * MIB)?;
        // The image is locked until the old one is gone: that is waited for.
        scene.kill()?;
        scene.restart(Maker::under_test())?;
        let status = copy.wait(LONG)?;
        ensure!(status.success(), "{status}: {}", copy.stderr.text());
        equal(&scene.path("source.img"), &scene.path(copied))?;
    }
    Ok(())
}

/// Each of two cables is pulled in turn and put back while a copy runs.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_path_of_two_that_fails_is_no_error() -> Result<()> {
    let bytes = 192 * MIB;
    let mut scene = Scene::new(Maker::Aoede, bytes, 9000)?;
    scene.host.veth("tgt1", &scene.initiator, "ini1", 9000)?;
    scene.kill()?;
    scene.export = scene.export.clone().and_on("tgt1");
    scene.restart(Maker::Aoede)?;
    noise(&scene.path("source.img"), bytes, 71)?;
    for (arguments, copied) in [
        (["source.img", "e1.1", "-i", "ini1"], "disk.img"),
        (["e1.1", "back.img", "-i", "ini1"], "back.img"),
    ] {
        let mut copy = scene.interrupt_at(&arguments, 2 * MIB)?;
        for cut in ["tgt0", "tgt1"] {
            let before = recorded(&scene.record());
            scene.host.ip(&format!("link set {cut} down"))?;
            let goes_on = || Ok(recorded(&scene.record()) != before);
            wait_until("the copy goes on", LONG, goes_on)?;
            scene.host.ip(&format!("link set {cut} up"))?;
        }
        let status = copy.wait(LONG)?;
        ensure!(status.success(), "{status}: {}", copy.stderr.text());
        equal(&scene.path("source.img"), &scene.path(copied))?;
    }
    scene.target.stop().map(drop)
}

/// A GiB with some data here and there: interrupted, gone on with, and no hole is lost.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sparse_gibibyte_is_interrupted_and_keeps_its_holes() -> Result<()> {
    let bytes = 1024 * MIB;
    let scene = Scene::new(Maker::Aoede, bytes, 9000)?;
    let (source, back) = (scene.path("source.img"), scene.path("back.img"));
    let file = File::create_new(&source)?;
    file.set_len(bytes)?;
    let mut random = Random::new(81);
    let (pieces, piece) = (32, 2 * MIB);
    for number in 0..pieces {
        let room = usize::try_from(bytes / pieces - piece)?;
        let from = number * (bytes / pieces) + random.below(room) as u64;
        file.write_all_at(&random.bytes(usize::try_from(piece)?), from)?;
    }
    // Each piece of data, and the requests of 256 KiB at both of its ends.
    let most = pieces * (piece + 2 * (256 << 10));
    for (arguments, copied) in [
        (["source.img", "e1.1"], &scene.image),
        (["e1.1", "back.img"], &back),
    ] {
        let mut copy = scene.interrupt_at(&arguments, 100 * MIB)?;
        copy.kill()?;
        let told = scene.succeed(&[&arguments[..], &["--resume"]].concat())?;
        let from = told["resumed_at_bytes"].as_u64();
        ensure!(from >= Some(100 * MIB), "{told}");
        equal(&source, copied)?;
        let used = allocated(copied)?;
        ensure!(used <= most, "{used} bytes are taken up, of {most} at most");
    }
    scene.target.stop().map(drop)
}

/// docs/durability.md, "A target that restarts": with a write cache that is no error only where
/// nothing was lost, and a copy that succeeds has all of it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_that_loses_its_write_cache_stops_a_copy_which_goes_on() -> Result<()> {
    let cached = ["--cache", "writeback", "--dirty-age", "60s"];
    let bytes = 192 * MIB;
    let mut scene = Scene::with(Maker::Aoede, bytes, 9000, &cached)?;
    noise(&scene.path("source.img"), bytes, 61)?;
    let mut told = false;
    for round in 1..=3 {
        let arguments = ["source.img", "e1.1", "--force"];
        let mut copy = scene.interrupt_at(&arguments, round * MIB)?;
        scene.kill()?;
        scene.restart(Maker::Aoede)?;
        let status = copy.wait(LONG)?;
        if !status.success() {
            let text = copy.stderr.text();
            ensure!(text.contains("was restarted"), "{text}");
            told = true;
            scene.succeed(&["source.img", "e1.1", "--resume"])?;
        }
        equal(&scene.path("source.img"), &scene.image)?;
    }
    ensure!(told, "nothing was ever lost");
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_sector_that_was_corrupted_is_found() -> Result<()> {
    let bytes = 128 * MIB;
    let mut scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    noise(&scene.path("source.img"), bytes, 61)?;
    scene
        .interrupt_at(&["source.img", "e1.1"], 24 * MIB)?
        .kill()?;
    scene.target.stop()?;
    let image = OpenOptions::new().write(true).open(&scene.image)?;
    // Between the first MiB and an eighth of what was copied: a resumed copy does not look there.
    for sector in [5_432, 2_345] {
        image.write_all_at(b"corrupted", sector * SECTOR + 7)?;
    }
    let maker = Maker::under_test();
    scene.target = Export::new(&scene.image, "tgt0").start(&scene.host, maker)?;
    scene.fail(
        &["source.img", "e1.1", "--resume", "--verify"],
        1,
        &["e1.1 differs from ", "source.img at sector 2345:"],
    )?;
    ensure!(!scene.record().exists(), "there is nothing to go on with");

    // In a file: the disk is the source.
    let back = scene.path("back.img");
    scene
        .interrupt_at(&["e1.1", "back.img"], 24 * MIB)?
        .kill()?;
    let file = OpenOptions::new().write(true).open(&back)?;
    file.write_all_at(&[0; 512], 4321 * SECTOR)?;
    scene.fail(
        &["e1.1", "back.img", "--resume", "--verify"],
        1,
        &["back.img differs from e1.1 at sector 4321:"],
    )
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_would_be_lost_and_what_does_not_fit_is_refused() -> Result<()> {
    let scene = Scene::new(Maker::under_test(), 8 * MIB, 1500)?;
    noise(&scene.path("large.img"), 8 * MIB + 5, 71)?;
    noise(&scene.path("small.img"), MIB + 5, 72)?;
    scene.fail(
        &["large.img", "e1.1"],
        1,
        &["large.img has 8389120 bytes", "e1.1 only 8388608"],
    )?;
    ensure!(allocated(&scene.image)? == 0, "something was written");
    for [from, to] in [["large.img", "small.img"], ["e1.1", "1.1"]] {
        scene.fail(&[from, to], 2, &["error:"])?;
    }
    // Smaller is fine; the last sector is filled up with zeros, the rest stays as it is.
    let rest = OpenOptions::new().write(true).open(&scene.image)?;
    rest.write_all_at(b"mine", 4 * MIB)?;
    scene.succeed(&["small.img", "e1.1", "--verify"])?;
    let mut expected = fs::read(scene.path("small.img"))?;
    expected.resize(usize::try_from(8 * MIB)?, 0);
    let mine = usize::try_from(4 * MIB)?;
    expected[mine..mine + 4].copy_from_slice(b"mine");
    ensure!(fs::read(&scene.image)? == expected, "wrong content");

    scene.fail(&["small.img", "e1.1"], 1, &["e1.1 is not empty; --force"])?;
    scene.fail(
        &["small.img", "e1.1", "--resume"],
        1,
        &[
            "e1.1 is not empty, and there is no record",
            "--force instead of --resume",
        ],
    )?;
    scene.fail(
        &["e1.1", "small.img"],
        1,
        &["small.img is not empty; --force"],
    )?;
    // The image that the target itself serves.
    scene.fail(&["e1.1", "disk.img", "--force"], 1, &["disk.img is in use"])?;
    scene.fail(
        &["e1.1", "/dev/null"],
        1,
        &["neither a regular file nor a block device"],
    )?;
    scene.fail(
        &["nowhere.img", "e1.1"],
        1,
        &["nowhere.img", "No such file"],
    )?;
    scene.succeed(&["e1.1", "small.img", "--force"])?;
    equal(&scene.image, &scene.path("small.img"))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_copy_whose_disk_stays_away_ends_and_can_go_on() -> Result<()> {
    let bytes = 128 * MIB;
    let mut scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    noise(&scene.path("source.img"), bytes, 81)?;
    let arguments = ["source.img", "e1.1", "--give-up", "500ms"];
    let mut copy = scene.interrupt_at(&arguments, MIB)?;
    scene.kill()?;
    let status = copy.wait(SOON)?;
    let said = copy.stderr.text();
    ensure!(
        status.code() == Some(1) && said.contains("silent") && said.contains("--resume"),
        "{status}: {said}"
    );
    wait_until("the target is gone", SOON, || {
        Ok(!scene.target.is_running())
    })?;
    scene.restart(Maker::under_test())?;
    scene.succeed(&["source.img", "e1.1", "--resume", "--verify"])?;
    equal(&scene.path("source.img"), &scene.image)
}

/// A loop device, released when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn new(image: &Path) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(image);
        let name = succeed(None, command, SOON)?;
        Ok(Self(name.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.0)
            .status();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_device_is_written_if_it_is_free_and_read() -> Result<()> {
    let bytes = 16 * MIB;
    let scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    sparse(&scene.path("source.img"), bytes, 91)?;
    scene.succeed(&["source.img", "e1.1"])?;
    // Larger by a MiB, and full.
    let behind = scene.path("behind.img");
    noise(&behind, bytes + MIB, 92)?;
    let end = fs::read(&behind)?[usize::try_from(bytes)?..].to_vec();
    let device = LoopDevice::new(&behind)?;
    let name = device.0.to_str().context("no UTF-8")?;

    let mut exclusive = OpenOptions::new();
    exclusive.read(true).custom_flags(libc::O_EXCL);
    let taken = exclusive.open(&device.0)?;
    scene.fail(&["e1.1", name, "--force"], 1, &[name, "is in use (mounted"])?;
    // As the source it is used with a warning, and refused as it is too large.
    scene.fail(
        &[name, "e1.1"],
        1,
        &["is in use: what changes while it is copied", "17825792"],
    )?;
    drop(taken);
    scene.fail(&["e1.1", name], 1, &["is not empty; --force"])?;
    scene.succeed(&["e1.1", name, "--force", "--verify"])?;
    let content = fs::read(&device.0)?;
    let (copy, rest) = content.split_at(usize::try_from(bytes)?);
    ensure!(
        copy == fs::read(scene.path("source.img"))?,
        "another content"
    );
    ensure!(rest == end, "what is behind has changed");

    scene.fail(&[name, "e1.1"], 1, &["17825792", "16777216"])?;
    let small = LoopDevice::new(&scene.path("source.img"))?;
    let name = small.0.to_str().context("no UTF-8")?;
    scene.succeed(&[name, "e1.1", "--force", "--verify"])?;
    equal(&scene.path("source.img"), &scene.image)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_is_copied_to_a_disk_and_killed_meanwhile() -> Result<()> {
    let bytes = 128 * MIB;
    let scene = Scene::new(Maker::under_test(), bytes, 9000)?;
    let other = scene.folder.image("other.img", bytes)?;
    let export = Export::new(&other, "tgt1").at(2, 1);
    scene.host.veth("tgt1", &scene.initiator, "ini1", 9000)?;
    let _other = export.start(&scene.host, Maker::under_test())?;
    noise(&scene.path("source.img"), bytes, 95)?;
    scene.succeed(&["source.img", "e1.1"])?;
    let both = ["e1.1", "e2.1", "-i", "ini1"];
    scene.interrupt_at(&both, 5 * MIB)?.kill()?;
    let told = scene.succeed(&[&both[..], &["--resume", "--verify"]].concat())?;
    ensure!(told["resumed_at_bytes"].as_u64() >= Some(5 * MIB), "{told}");
    equal(&scene.path("source.img"), &other)
}
