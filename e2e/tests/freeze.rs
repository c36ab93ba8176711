//! A disk is frozen by signals, its target killed, found again and thawed.

use std::{fs::File, os::unix::fs::FileExt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
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
        for (number, (lba, byte)) in [(32, 0), (16, 0), (8, 0xB2)].into_iter().enumerate() {
            let read = disk
                .e1_1
                .ata(tag + number as u32, ata::READ, GROWN - lba, 2, b"");
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
