//! The power is cut: the disk below the target has a volatile cache and loses what was not
//! flushed.
//!
//! The disk is nbdkit with its cache filter, which keeps writes to itself until a flush, and
//! nbdfuse shows it as a file. Cutting the power is killing nbdkit. A trim goes past that cache, as
//! a mere hint, so none is sent here.
//!
//! A disk that is frozen has its shadow on another, which keeps its power: what is lost is what the
//! image was said to have.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Campaign, Phase, Round, Summary, Way, judge,
    kill::{FREEZE, FROZEN, look, start as start_target, told},
    load::Load,
    promises::Promises,
    stage::Stage,
};
use crate::{Log, Namespace, Packages, Process, Random, TargetProcess, succeed, wait_until};

/// Most requests of a round, one of these at random. A durable write takes a millisecond here.
const LENGTHS: [usize; 3] = [20, 100, 400];
/// Each block that a flush writes takes so long, so that many a cut comes during a flush.
const SLOW_MEDIUM: &str = "wdelay=1ms";
/// How long after a thaw a cut comes at the most: merging takes about so long.
const MERGING: Duration = Duration::from_millis(20);
/// Requests sent while the shadow is merged, at the most.
const AMID_MERGE: usize = 4;
/// Requests sent after the cut.
const IN_VAIN: usize = 8;
/// How long nothing must be answered after the cut for the target to have said all it will.
const SILENCE: Duration = Duration::from_millis(100);
/// In one of eight rounds, longer than a target tries to write what it acknowledged: a flush must
/// not succeed then either.
const LONG_SILENCE: Duration = Duration::from_secs(6);
const START: Duration = Duration::from_secs(10);

/// What the disk makes of a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushes {
    /// It writes its cache to the medium.
    Obeyed,
    /// It lies, to see whether that is found out.
    Ignored,
}

/// Cuts the power of the disk below a target under load, then ends the target, and compares what
/// is on the medium with what was promised.
///
/// # Errors
/// As [`super::kills`].
pub fn power_cuts(campaign: &Campaign, flushes: Flushes) -> Result<Vec<Summary>> {
    // nbdfuse aborts when its server dies, and would leave a core file.
    let core = getrlimit(Resource::Core);
    setrlimit(
        Resource::Core,
        Rlimit {
            current: Some(0),
            ..core
        },
    )?;
    campaign.run("power cuts", |stage, promises, way, turn, mut random| {
        let host = stage.host.with_own_mounts()?;
        let disk = VolatileDisk::start(&host, stage, way, flushes)?;
        let freeze = way.freezes.then_some(match turn % 4 {
            0 => Phase::Frozen,
            2 => Phase::Ordered,
            _ => Phase::Merging,
        });
        let name = name(stage, &disk.file)?;
        let target = start_target(&host, &name, stage, way)?;
        let log = target.log()?.clone();
        let mut round = load_and_cut(stage, promises, way, freeze, (disk, target), &mut random)
            .with_context(|| told(&log))?;
        if freeze.is_some() {
            // With the power back, the disk is what is on the medium.
            let name = self::name(stage, &stage.image)?;
            let target = start_target(&stage.host, &name, stage, way)?;
            let again = target.log()?.clone();
            let said = || format!("{freeze:?}; {}; then {}", told(&log), told(&again));
            round.freeze = Some(found(freeze, &log, &again).with_context(said)?);
            round.lost = look(stage, promises, target).with_context(said)?;
            return Ok(round);
        }
        let medium = fs::read(&stage.image)?;
        round.lost = judge(promises, &medium).with_context(|| told(&log))?;
        Ok(round)
    })
}

fn load_and_cut(
    stage: &Stage,
    promises: &mut Promises,
    way: &Way,
    freeze: Option<Phase>,
    (mut disk, mut target): (VolatileDisk, TargetProcess),
    random: &mut Random,
) -> Result<Round> {
    ensure!(
        stage.read_over_the_wire()? == fs::read(&stage.image)?,
        "the target does not serve what is on the medium"
    );
    let requests = requests(random, &LENGTHS);
    let moment = moment(random)?;
    let silence = if random.below(8) == 0 {
        LONG_SILENCE
    } else {
        SILENCE
    };
    let load_random = Random::new(random.number());
    let mut load = Load::new(&stage.nic, stage.target, promises, way, load_random);
    load.run(requests)?;
    if let Some(phase) = freeze {
        freeze_under(&mut load, &mut target, phase, requests)?;
        if phase == Phase::Merging {
            thread::sleep(MERGING / (1 << random.below(6)));
        }
    }
    if let Some(age) = way.kept_after {
        load.finish()?;
        thread::sleep(age);
    }
    thread::sleep(moment);
    let at = Instant::now();
    let unpromised = load.unpromised();
    let old = way.kept_after.and_then(|age| at.checked_sub(age));
    let aged = old.map_or(0, |old| load.keep_older(old));
    disk.cut()?;
    let under_way = load.under_way(at);
    load.run_in_vain(IN_VAIN, silence)?;
    target.kill()?;
    load.take_last_words()?;
    Ok(Round {
        tally: load.tally(),
        under_way,
        unpromised,
        aged,
        ..Round::default()
    })
}

/// A name that the disk has in each of its lives: a shadow belongs to a name.
fn name(stage: &Stage, disk: &Path) -> Result<PathBuf> {
    let name = stage.image.with_file_name("disk");
    let _ = fs::remove_file(&name);
    symlink(disk, &name)?;
    Ok(name)
}

/// Freezes a disk between two loads, and thaws it for a third, as far as it is to come.
fn freeze_under(
    load: &mut Load<'_>,
    target: &mut TargetProcess,
    phase: Phase,
    requests: usize,
) -> Result<()> {
    target.freeze()?;
    if phase == Phase::Ordered {
        return Ok(());
    }
    target.log()?.wait_for(FROZEN, FREEZE)?;
    load.run(requests)?;
    if phase == Phase::Merging {
        target.thaw()?;
        target.log()?.wait_for("thawed: the image", FREEZE)?;
        load.run(requests.min(AMID_MERGE))?;
    }
    Ok(())
}

/// The phase in which the freeze was found again.
///
/// # Errors
/// It was told, and is not there any more.
fn found(freeze: Option<Phase>, log: &Log, again: &Log) -> Result<Phase> {
    let unfinished = again.text().contains("found an unfinished freeze");
    let merging = again.text().contains("merging it goes on");
    ensure!(
        unfinished || freeze != Some(Phase::Frozen),
        "the disk was frozen and is not any more"
    );
    Ok(match (unfinished, merging) {
        (true, true) => Phase::Merging,
        (true, false) if log.text().contains(FROZEN) => Phase::Frozen,
        (false, _) if log.text().contains(FROZEN) => Phase::Merged,
        _ => Phase::Ordered,
    })
}

/// A number of requests, up to one of `lengths`.
fn requests(random: &mut Random, lengths: &[usize]) -> usize {
    let most = lengths.get(random.below(lengths.len())).copied();
    1 + random.below(most.unwrap_or(1))
}

/// How long after the last request a cut comes: at once, or a little later.
fn moment(random: &mut Random) -> Result<Duration> {
    let micros = [0, random.below(300), random.below(3000)];
    let micros = micros.get(random.below(3)).copied().unwrap_or(0);
    Ok(Duration::from_micros(u64::try_from(micros)?))
}

/// An image behind a volatile cache, as a file that only processes of its host see.
#[derive(Debug)]
struct VolatileDisk {
    /// Where it is served.
    file: PathBuf,
    /// Dropped before what is below it.
    _device: Option<LoopDevice>,
    server: Process,
    /// Shows it as a file; nothing is ever asked of it but to end with the round.
    _mount: Process,
}

impl VolatileDisk {
    fn start(host: &Namespace, stage: &Stage, way: &Way, flushes: Flushes) -> Result<Self> {
        let packages = Packages::open()?;
        let folder = tempfile::tempdir_in(stage.scratch.path())?.keep();
        let (socket, point) = (folder.join("socket"), folder.join("mount"));
        fs::create_dir(&point)?;

        let ready = folder.join("server");
        let mut command = packages.command("nbdkit")?;
        command
            .env("TMPDIR", &folder)
            .args(["-f", "-U"])
            .arg(&socket);
        command.arg("-P").arg(&ready);
        for filter in ["cache", "delay"] {
            let name = format!("filters/nbdkit-{filter}-filter.so");
            command.arg("--filter").arg(packages.nbdkit_module(&name)?);
        }
        command.arg(packages.nbdkit_module("plugins/nbdkit-file-plugin.so")?);
        command.arg(&stage.image).arg(SLOW_MEDIUM);
        command.arg(match flushes {
            Flushes::Obeyed => "cache=writeback",
            Flushes::Ignored => "cache=unsafe",
        });
        let server = start("nbdkit", host, command, &ready)?;

        let ready = folder.join("mounted");
        let mut command = packages.command("nbdfuse")?;
        command.arg("-P").arg(&ready).arg(point.join("disk"));
        command.arg(format!("nbd+unix:///?socket={}", socket.display()));
        let mount = start("nbdfuse", host, command, &ready)?;
        let file = point.join("disk");
        let device = if way.on_device {
            Some(LoopDevice::over(&file, host)?)
        } else {
            None
        };
        Ok(Self {
            file: device.as_ref().map_or(file, |device| device.0.clone()),
            _device: device,
            server,
            _mount: mount,
        })
    }

    /// Cuts the power.
    fn cut(&mut self) -> Result<()> {
        self.server.kill()
    }
}

/// A loop device, released when dropped, or when the last that has it open ends.
#[derive(Debug)]
struct LoopDevice(PathBuf);

impl LoopDevice {
    /// Without pages of its own, so that what it is given reaches the file at once.
    fn over(file: &Path, host: &Namespace) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--direct-io=on"]);
        command.arg(file);
        let name = succeed(Some(host), command, START)?;
        Ok(Self(name.trim().into()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let mut command = Command::new("losetup");
        command.arg("--detach").arg(&self.0);
        let _ = command.status();
    }
}

/// Starts a server that writes its process number to `ready` when it serves.
fn start(name: &str, host: &Namespace, command: Command, ready: &Path) -> Result<Process> {
    let mut process = Process::spawn(name, Some(host), command)?;
    process.keep_quiet();
    wait_until(name, START, || {
        ensure!(
            process.is_running(),
            "{name} has ended:\n{}",
            process.stderr.text()
        );
        Ok(ready.exists())
    })
    .with_context(|| format!("{name} does not start"))?;
    Ok(process)
}
