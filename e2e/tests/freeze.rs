//! A disk is frozen by signals, its target killed, found again and thawed.

use std::{
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
    succeed,
};

const SOON: Duration = Duration::from_secs(20);
/// The last block is not whole.
const SECTORS: u64 = 16_385;

/// A disk that can be frozen, and an initiator.
struct Disk {
    nic: Nic,
    e1_1: Addressing,
    image: PathBuf,
    shadow: PathBuf,
    host: Namespace,
    _initiator: Namespace,
    _folder: Scratch,
}

impl Disk {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", SECTORS * 512)?;
        let (host, initiator) = Namespace::pair(1500)?;
        let nic = Nic::open(&initiator, "ini0")?;
        Ok(Self {
            e1_1: Addressing {
                to: host.mac("tgt0")?,
                from: nic.mac(),
                address: (1, 1),
            },
            nic,
            shadow: image.with_file_name("shadow"),
            image,
            host,
            _initiator: initiator,
            _folder: folder,
        })
    }

    /// With its shadow, and further arguments.
    fn start(&self, arguments: &[&str]) -> Result<TargetProcess> {
        let path = self.shadow.to_str().context("a path of text")?;
        let export = Export::new(&self.image, "tgt0").with(&["--shadow", path]);
        export
            .with(arguments)
            .start(&self.host, Maker::under_test())
    }

    fn ask(&self, request: &[u8]) -> Result<Vec<u8>> {
        let response = self.nic.exchange(request, SOON)?.context("no response")?;
        let registers = Response(&response).registers();
        ensure!(registers == (0, 0x40), "{registers:02x?}");
        Ok(response)
    }

    /// Two sectors in the middle of a block.
    fn write(&self, tag: u32, byte: u8) -> Result<()> {
        self.ask(&self.e1_1.ata(tag, ata::WRITE, 102, 2, &[byte; 1024]))?;
        Ok(())
    }

    fn is(&self, tag: u32, byte: u8) -> Result<()> {
        let response = self.ask(&self.e1_1.ata(tag, ata::READ, 102, 2, b""))?;
        let read = Response(&response).data();
        ensure!(read == [byte; 1024], "not {byte:02x}, but {read:02x?}");
        Ok(())
    }

    /// Whether a block can be written.
    fn can_write(&self, tag: u32, block: u64, byte: u8) -> Result<bool> {
        let request = self.e1_1.ata(tag, ata::WRITE, block * 8, 2, &[byte; 1024]);
        let response = self.nic.exchange(&request, SOON)?.context("no response")?;
        let (error, status) = Response(&response).registers();
        ensure!(
            [(0, 0x40), (4, 0x61)].contains(&(error, status)),
            "{error:02x} {status:02x}"
        );
        Ok(error == 0)
    }

    fn can_flush(&self, tag: u32) -> Result<bool> {
        let request = self.e1_1.ata(tag, ata::FLUSH, 0, 0, b"");
        let response = self.nic.exchange(&request, SOON)?.context("no response")?;
        Ok(Response(&response).registers().0 == 0)
    }

    /// What the image has in the first sector of blocks.
    fn stored<const N: usize>(&self, blocks: [u64; N]) -> Result<[u8; N]> {
        let image = File::open(&self.image)?;
        let mut stored = [0; N];
        for (block, byte) in blocks.iter().zip(&mut stored) {
            image.read_exact_at(std::slice::from_mut(byte), block * 4096)?;
        }
        Ok(stored)
    }

    fn image_is(&self, byte: u8) -> Result<()> {
        let mut stored = [0; 1024];
        File::open(&self.image)?.read_exact_at(&mut stored, 102 * 512)?;
        ensure!(stored == [byte; 1024], "not {byte:02x}, but {stored:02x?}");
        Ok(())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_frozen_disk_survives_its_target_and_is_merged() -> Result<()> {
    let disk = Disk::new()?;
    let mut target = disk.start(&[])?;
    disk.write(1, 0xA1)?;
    target.freeze()?;
    target.log()?.wait_for("frozen: the image", SOON)?;
    disk.write(2, 0xB2)?;
    disk.is(3, 0xB2)?;
    disk.image_is(0xA1)?;
    target.kill()?;

    let refused = Export::new(&disk.image, "tgt0").fail(&disk.host, SOON)?;
    let text = refused.stderr;
    let path = disk.shadow.to_str().context("a path of text")?;
    ensure!(
        text.contains("disk.img is frozen") && text.contains(path),
        "{text}"
    );

    let mut target = disk.start(&[])?;
    target.log()?.wait_for("still frozen", SOON)?;
    disk.is(4, 0xB2)?;
    disk.image_is(0xA1)?;
    disk.ask(&disk.e1_1.ata(7, ata::WRITE, SECTORS - 1, 1, &[9; 512]))?;
    target.thaw()?;
    target.log()?.wait_for("the shadow is merged", SOON)?;
    disk.image_is(0xB2)?;
    let last = disk.ask(&disk.e1_1.ata(8, ata::READ, SECTORS - 1, 1, b""))?;
    ensure!(Response(&last).data() == [9; 512], "{last:02x?}");
    ensure!(!disk.shadow.exists(), "the shadow is still there");
    disk.write(5, 0xC3)?;
    disk.image_is(0xC3)?;
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_disk_that_has_grown_is_frozen_as_it_is_now() -> Result<()> {
    const GROWN: u64 = 2 * 16_384;
    let disk = Disk::new()?;
    let mut target = disk.start(&[])?;
    File::options()
        .write(true)
        .open(&disk.image)?
        .set_len(GROWN * 512)?;
    let log = target.log()?.clone();
    log.wait_for(&format!("the size is now {GROWN} sectors"), SOON)?;
    target.freeze()?;
    log.wait_for("frozen: the image", SOON)?;
    for (tag, lba) in [(1, GROWN - 16), (2, GROWN - 8)] {
        disk.ask(&disk.e1_1.ata(tag, ata::WRITE, lba, 2, &[0xB2; 1024]))?;
    }
    disk.ask(&disk.e1_1.trim(3, &[(GROWN - 16, 8), (GROWN - 32, 8)]))?;
    let check = |tag| {
        for (tag, (lba, byte)) in (tag..).zip([(32, 0), (16, 0), (8, 0xB2)]) {
            let read = disk.e1_1.ata(tag, ata::READ, GROWN - lba, 2, b"");
            let read = disk.ask(&read)?;
            ensure!(Response(&read).data() == [byte; 1024], "{read:02x?}");
        }
        Ok(())
    };
    check(4)?;
    target.kill()?;

    let mut target = disk.start(&[])?;
    target.log()?.wait_for("still frozen", SOON)?;
    check(7)?;
    target.thaw()?;
    target.log()?.wait_for("the shadow is merged", SOON)?;
    check(10)?;
    target.stop().map(drop)
}

/// Two blocks have a place in the shadow, a third has none.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_shadow_refuses_writes_until_it_is_thawed() -> Result<()> {
    let disk = Disk::new()?;
    let mut target = disk.start(&["--shadow-limit", "8k"])?;
    let log = target.log()?.clone();
    target.freeze()?;
    log.wait_for("frozen: the image", SOON)?;
    let writes = [
        (1, 10, true),
        (2, 20, true),
        (3, 30, false),
        (4, 20, true),
        (5, 31, false),
    ];
    for (tag, block, expected) in writes {
        let written = disk.can_write(tag, block, 0xB2)?;
        ensure!(written == expected, "block {block}: {written}");
    }
    log.wait_for("the shadow is full: writes fail", SOON)?;
    ensure!(disk.can_flush(6)?, "what was acknowledged is in the shadow");
    ensure!(
        disk.stored([10, 20, 30])? == [0, 0, 0],
        "the image has changed"
    );
    target.thaw()?;
    log.wait_for("the shadow is merged", SOON)?;
    ensure!(disk.can_write(7, 30, 0xB2)?, "there is room in the image");
    ensure!(disk.stored([10, 20, 30])? == [0xB2; 3], "not merged");
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_shadow_may_thaw_by_itself() -> Result<()> {
    let disk = Disk::new()?;
    let mut target = disk.start(&["--shadow-limit", "8k", "--shadow-full", "thaw"])?;
    let log = target.log()?.clone();
    target.freeze()?;
    log.wait_for("frozen: the image", SOON)?;
    for (tag, block) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        ensure!(disk.can_write(tag, block, 0xB2)?, "block {block}");
    }
    log.wait_for("the shadow was full: thawed; a copy", SOON)?;
    log.wait_for("the shadow is merged", SOON)?;
    ensure!(disk.stored([10, 20, 30, 40])? == [0xB2; 4], "not merged");
    ensure!(!disk.shadow.exists(), "the shadow is still there");
    target.stop().map(drop)
}

/// Acknowledged in memory, refused by the shadow, and in the end where it belongs.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_thaw_gives_room_to_what_a_full_shadow_refused() -> Result<()> {
    let disk = Disk::new()?;
    let mut target = disk.start(&["--shadow-limit", "8k", "--cache", "writeback"])?;
    let log = target.log()?.clone();
    target.freeze()?;
    log.wait_for("frozen: the image", SOON)?;
    for (tag, block) in [(1, 10), (2, 20), (3, 30), (4, 40)] {
        ensure!(disk.can_write(tag, block, 0xB2)?, "block {block}");
    }
    log.wait_for("acknowledged data cannot be written", SOON)?;
    ensure!(!disk.can_flush(5)?, "a flush must tell");
    ensure!(!disk.can_write(6, 10, 0xC3)?, "a write must tell");
    ensure!(
        disk.stored([10, 20, 30])? == [0, 0, 0],
        "the image has changed"
    );
    target.thaw()?;
    log.wait_for("the shadow is merged", SOON)?;
    ensure!(disk.can_write(7, 50, 0xB2)?, "writes go on");
    ensure!(disk.can_flush(8)?, "flushes go on");
    ensure!(
        disk.stored([10, 20, 30, 40, 50])? == [0xB2; 5],
        "something is lost"
    );
    target.stop().map(drop)
}

/// Acknowledged in memory, and never with a place to go.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stop_without_a_thaw_says_what_is_lost() -> Result<()> {
    let disk = Disk::new()?;
    let full = ["--shadow-limit", "4k", "--cache", "writeback"];
    let mut target = disk.start(&full)?;
    let log = target.log()?.clone();
    target.freeze()?;
    log.wait_for("frozen: the image", SOON)?;
    for (tag, block) in [(1, 10), (2, 20)] {
        ensure!(disk.can_write(tag, block, 0xB2)?, "block {block}");
    }
    log.wait_for("acknowledged data cannot be written", SOON)?;
    let end = target.stop().err().context("it ends as if all were well")?;
    let text = format!("{end:#}");
    ensure!(
        text.contains("exit status: 1") && text.contains("is lost, so check"),
        "{text}"
    );
    ensure!(disk.stored([10, 20])? == [0, 0], "the image has changed");
    let target = disk.start(&full)?;
    target.log()?.wait_for("still frozen", SOON)?;
    target.stop().map(drop)
}

/// TRIM is offered for what the image's file system can do. This one for the shadow has only files.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_shadow_that_cannot_be_trimmed_is_refused() -> Result<()> {
    let mut disk = Disk::new()?;
    let point = disk.image.with_file_name("ramfs");
    fs::create_dir(&point)?;
    disk.host = disk.host.with_own_mounts()?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "ramfs", "none"]).arg(&point);
    succeed(Some(&disk.host), mount, SOON)?;
    disk.shadow = point.join("shadow");
    let mut target = disk.start(&[])?;
    let log = target.log()?.clone();
    target.freeze()?;
    log.wait_for("cannot give back parts of a file", SOON)?;
    disk.ask(&disk.e1_1.trim(1, &[(8, 8)]))?;
    disk.write(2, 0xA1)?;
    disk.image_is(0xA1)?;
    target.stop().map(drop)
}
