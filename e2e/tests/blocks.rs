//! A device whose own sectors have 4096 bytes, behind sectors of 512.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Log, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata},
    succeed,
};

const SOON: Duration = Duration::from_secs(5);
const BYTES: usize = 1 << 20;

/// A loop device, released when dropped.
struct LoopDevice(String);

impl LoopDevice {
    fn new(image: &Path) -> Result<Self> {
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", "4096"]);
        command.arg(image);
        let name = succeed(None, command, SOON)?;
        Ok(Self(name.trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

struct Scene {
    host: Namespace,
    nic: Nic,
    device: LoopDevice,
    _folder: Scratch,
}

impl Scene {
    /// A disk whose bytes tell their sector.
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.join("image");
        fs::write(&image, old(0, BYTES / 512))?;
        let (host, initiator) = Namespace::pair(1500)?;
        Ok(Self {
            nic: Nic::open(&initiator, "ini0")?,
            device: LoopDevice::new(&image)?,
            host,
            _folder: folder,
        })
    }

    fn start(&self, arguments: &[&str]) -> Result<TargetProcess> {
        let export = Export::new(Path::new(&self.device.0), "tgt0").with(arguments);
        export.start(&self.host, Maker::Aoede)
    }

    fn ask(&self, opcode: u8, lba: u64, sectors: u8, data: &[u8]) -> Result<Vec<u8>> {
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: self.nic.mac(),
            address: (1, 1),
        };
        let answer = self
            .nic
            .exchange(&e1_1.ata(7, opcode, lba, sectors, data), SOON)?;
        answer.context("no answer")
    }

    fn identify(&self) -> Result<impl Fn(usize) -> Option<u16>> {
        let frame = self.ask(ata::IDENTIFY, 0, 1, b"")?;
        let data = Response(&frame).data().to_vec();
        Ok(move |word: usize| {
            let bytes = data.get(word * 2..word * 2 + 2)?;
            Some(u16::from_le_bytes(bytes.try_into().ok()?))
        })
    }
}

/// What these sectors held at first.
fn old(first: usize, count: usize) -> Vec<u8> {
    let byte = |at: usize| u8::try_from((first + at / 512) % 251).unwrap_or(0);
    (0..count * 512).map(byte).collect()
}

fn text(target: &TargetProcess) -> String {
    target.log().map(Log::text).unwrap_or_default()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn sectors_of_a_block_are_written_one_by_one() -> Result<()> {
    let scene = Scene::new()?;
    for cache in [&["--cache", "writethrough"], &["--cache", "writeback"]] {
        let target = scene.start(cache)?;
        let log = text(&target);
        ensure!(log.contains("direct") && !log.contains("buffered"), "{log}");
        let word = scene.identify()?;
        let found = [69, 106, 169, 209].map(&word);
        // TRIM without a promise of zeros; 8 sectors in a physical one; aligned.
        ensure!(
            found == [Some(0), Some(0x6003), Some(1), Some(0x4000)],
            "{found:04x?}"
        );

        // In one block, across two, and the disk's last.
        for (lba, sectors) in [(3, 1), (15, 2), (2047, 1)] {
            let data = vec![0xF5; usize::from(sectors) * 512];
            let written = scene.ask(ata::WRITE, lba, sectors, &data)?;
            let registers = Response(&written).registers();
            ensure!(registers == (0, 0x40), "write at {lba}: {registers:?}");
            let read = scene.ask(ata::READ, lba, sectors, b"")?;
            ensure!(Response(&read).data() == data, "read at {lba}");
        }
        target.stop()?;

        let mut expected = old(0, BYTES / 512);
        for sector in [3, 15, 16, 2047] {
            let bytes = expected.get_mut(sector * 512..(sector + 1) * 512);
            bytes.context("inside")?.fill(0xF5);
        }
        let stored = fs::read(&scene.device.0)?;
        let differs = stored.chunks(512).zip(expected.chunks(512));
        let wrong: Vec<usize> = (0..)
            .zip(differs)
            .filter_map(|(sector, (found, wanted))| (found != wanted).then_some(sector))
            .collect();
        ensure!(wrong.is_empty(), "{cache:?}: wrong sectors {wrong:?}");
        fs::write(&scene.device.0, old(0, BYTES / 512))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_window_inside_a_block_is_told_to_initiators() -> Result<()> {
    let scene = Scene::new()?;
    let target = scene.start(&["--offset", "7"])?;
    let log = text(&target);
    ensure!(log.contains("--offset is not a multiple"), "{log}");
    let word = scene.identify()?;
    let found = [106, 209].map(&word);
    ensure!(found == [Some(0x6003), Some(0x4007)], "{found:04x?}");
    let read = scene.ask(ata::READ, 0, 2, b"")?;
    ensure!(Response(&read).data() == old(7, 2), "{read:02x?}");
    target.stop().map(drop)
}
