//! An export that nobody asks costs next to nothing, and knows the size of its file all the same.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
    succeed, wait_until,
};

const MIB: u64 = 1 << 20;
/// How long nobody asks. Not for anything to happen: nothing should.
const IDLE: Duration = Duration::from_secs(5);
/// How long an export may take to fall asleep: what was acknowledged early is written after half a
/// second, and after two seconds without anything to do it looks after itself for the last time.
const FALL_ASLEEP: Duration = Duration::from_secs(10);
/// The clock ticks every 10 ms. A process whose time so far ends just before a tick reaches it
/// with the first microsecond of work, so a single one tells nothing.
const TICKS: u64 = 1;
const RESIDENT_KIB: u64 = 16 << 10;
const SOON: Duration = Duration::from_secs(5);
/// The size is announced so soon.
const A_SECOND: Duration = Duration::from_millis(1500);

/// Waits until it sleeps, then leaves it alone: it must not wake at all.
fn sleeps_well(target: &TargetProcess) -> Result<()> {
    let mut before = target.sleeps()?;
    // It looks after itself every second, if at all.
    wait_until("it sleeps", FALL_ASLEEP, || {
        thread::sleep(Duration::from_millis(1200));
        let now = target.sleeps()?;
        Ok(std::mem::replace(&mut before, now) == now)
    })?;
    let ticks = target.cpu_ticks()?;
    thread::sleep(IDLE);
    let (sleeps, ticks) = (target.sleeps()? - before, target.cpu_ticks()? - ticks);
    ensure!(sleeps == 0, "woken {sleeps} times in {IDLE:?}");
    ensure!(ticks <= TICKS, "{ticks} clock ticks used in {IDLE:?}");
    Ok(())
}

/// Two hosts, one of which has a disk of one MiB.
struct Scene {
    host: Namespace,
    nic: Nic,
    image: PathBuf,
    _folder: Scratch,
}

impl Scene {
    fn new() -> Result<Self> {
        let (host, initiator) = Namespace::pair(1500)?;
        let folder = Scratch::new()?;
        Ok(Self {
            nic: Nic::open(&initiator, "ini0")?,
            image: folder.image("disk.img", MIB)?,
            _folder: folder,
            host,
        })
    }

    fn start(&self, file: &Path, arguments: &[&str]) -> Result<TargetProcess> {
        let export = Export::new(file, "tgt0").with(arguments);
        export.start(&self.host, Maker::Aoede)
    }

    fn write(&self, tag: u32) -> Result<()> {
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: self.nic.mac(),
            address: (1, 1),
        };
        let request = e1_1.ata(tag, ata::WRITE, 8, 2, &[7; 1024]);
        let frame = self.nic.exchange(&request, SOON)?.context("no response")?;
        let registers = Response(&frame).registers();
        ensure!(registers == (0, 0x40), "{registers:02x?}");
        Ok(())
    }

    fn grow(&self, bytes: u64) -> Result<()> {
        let image = File::options().write(true).open(&self.image)?;
        Ok(image.set_len(bytes)?)
    }

    /// Waits until the size is known and announced.
    fn hears_of(&self, target: &TargetProcess, bytes: u64) -> Result<()> {
        let told = format!("the size is now {} sectors", bytes / 512);
        target.log()?.wait_for(&told, A_SECOND)?;
        while let Some(frame) = self.nic.receive(SOON)? {
            // A response to nobody's request.
            let announcement = frame.get(14) == Some(&0x18) && Response(&frame).command() == 1;
            if announcement && Response(&frame).tag() == 0 {
                return Ok(());
            }
        }
        anyhow::bail!("no announcement of {bytes} bytes")
    }

    /// Frames so far are of no interest any more.
    fn forget(&self) -> Result<()> {
        while self.nic.try_receive()?.is_some() {}
        Ok(())
    }
}

/// The default cache, jumbo frames, and so the largest buffers.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_idle_export_uses_no_processor_time_and_little_memory() -> Result<()> {
    let (target_host, _initiator_host) = Namespace::pair(9000)?;
    let folder = Scratch::new()?;
    let disk = folder.image("disk.img", 64 * MIB)?;
    let target = Export::new(&disk, "tgt0").start(&target_host, Maker::Aoede)?;
    sleeps_well(&target)?;
    let resident = target.resident_kib()?;
    ensure!(
        resident < RESIDENT_KIB,
        "{resident} KiB resident, {RESIDENT_KIB} KiB is too much"
    );
    target.stop().map(drop)
}

/// Also after work, what it wrote late included; and what others do to its file wakes it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_sleeps_after_work_and_wakes_when_its_file_grows() -> Result<()> {
    let scene = Scene::new()?;
    let target = scene.start(&scene.image, &["--cache", "writeback"])?;
    for tag in 1..100 {
        scene.write(tag)?;
    }
    sleeps_well(&target)?;
    scene.forget()?;
    scene.grow(2 * MIB)?;
    scene.hears_of(&target, 2 * MIB)?;
    scene.write(100)?;
    sleeps_well(&target)?;
    scene.forget()?;
    scene.grow(MIB)?;
    scene.hears_of(&target, MIB)?;
    target.stop().map(drop)
}

/// A loop device, released when dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn over(image: &Path) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show"]).arg(image);
        let name = succeed(None, command, SOON)?;
        Ok(Self(name.trim().into()))
    }

    /// Its file has another size.
    fn follow(&self) -> Result<()> {
        let mut command = Command::new("losetup");
        command.arg("--set-capacity").arg(&self.0);
        succeed(None, command, SOON).map(drop)
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let mut command = Command::new("losetup");
        let _ = command.arg("--detach").arg(&self.0).status();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_sleeps_until_its_device_grows() -> Result<()> {
    let scene = Scene::new()?;
    let device = LoopDevice::over(&scene.image)?;
    let target = scene.start(&device.0, &[])?;
    scene.write(1)?;
    sleeps_well(&target)?;
    scene.forget()?;
    scene.grow(2 * MIB)?;
    device.follow()?;
    scene.hears_of(&target, 2 * MIB)?;
    target.stop().map(drop)
}

/// It looks once a second then.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_export_that_nobody_tells_of_its_file_looks_for_itself() -> Result<()> {
    let scene = Scene::new()?;
    let export = Export::new(&scene.image, "tgt0").without(&[libc::SYS_inotify_init1]);
    let target = export.start(&scene.host, Maker::Aoede)?;
    // Until it would sleep for good: every export looks a few times at first.
    let begun = target.sleeps()?;
    wait_until("it goes on to look", FALL_ASLEEP, || {
        Ok(target.sleeps()? >= begun + 4)
    })?;
    scene.forget()?;
    scene.grow(2 * MIB)?;
    scene.hears_of(&target, 2 * MIB)?;
    target.stop().map(drop)
}
