//! The extensions of the protocol (§7 to §11, §18), spoken with the real program by hand-made frames.

#![expect(
    clippy::indexing_slicing,
    reason = "a frame that is too short fails the test"
)]

use std::{
    collections::BTreeSet,
    os::unix::fs::FileExt as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata, config},
};

const SOON: Duration = Duration::from_secs(5);
/// Longer than anything on this network takes, but for what is held.
const QUIET: Duration = Duration::from_millis(200);

/// A target at an MTU of 9000, and an initiator.
struct Scene {
    nic: Nic,
    e1_1: Addressing,
    target: TargetProcess,
    image: std::path::PathBuf,
    _folder: Scratch,
    _namespaces: (Namespace, Namespace),
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with(&[])
    }

    fn with(arguments: &[&str]) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", 16_384 * 512)?;
        let (host, initiator) = Namespace::pair(9000)?;
        let target = Export::new(&image, "tgt0")
            .with(arguments)
            .start(&host, Maker::Aoede)?;
        let nic = Nic::open(&initiator, "ini0")?;
        let e1_1 = Addressing {
            to: host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        Ok(Self {
            nic,
            e1_1,
            target,
            image,
            _folder: folder,
            _namespaces: (host, initiator),
        })
    }

    fn table(&self, tag: u32, table: &[u8]) -> Result<Vec<u8>> {
        let mut frame = self.e1_1.header(0x23, tag);
        frame.extend(u16::try_from(table.len())?.to_le_bytes());
        frame.extend(table);
        Ok(frame)
    }

    /// Asks for extensions, all of which must be accepted.
    fn extend(&self, table: &[u8]) -> Result<()> {
        let answer = self.ask(&self.table(0x7000, table)?)?;
        ensure!(answer[26..][..table.len()] == table.to_ascii_uppercase());
        Ok(())
    }

    fn ask(&self, request: &[u8]) -> Result<Vec<u8>> {
        self.nic.exchange(request, SOON)?.context("no response")
    }

    /// All responses until none comes for a while, each with the time since `start`.
    fn responses(&self, start: Instant, patience: Duration) -> Result<Vec<(Duration, Vec<u8>)>> {
        let mut all = Vec::new();
        while let Some(frame) = self.nic.receive(patience)? {
            // Not the announcements.
            if frame[..6] == self.e1_1.from {
                all.push((start.elapsed(), frame));
            }
        }
        Ok(all)
    }

    fn stop(self) -> Result<()> {
        self.target.stop().map(drop)
    }
}

fn tag(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[20], frame[21], frame[22], frame[23]])
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn several_reads_and_several_write_responses_share_frames() -> Result<()> {
    let scene = Scene::new()?;
    scene.extend(b"reset\0coalesced_read\0coalesced_write_reply\0crc32c\0\0")?;
    let query = scene.ask(&scene.e1_1.config(1, config::READ, b""))?;
    ensure!(Response(&query).sector_count() == 17);

    // Writes of sectors far apart, each with its checksum.
    for number in 0..8_u8 {
        let mut write = scene.e1_1.ata(
            0x100 + u32::from(number),
            ata::WRITE,
            u64::from(number) * 100,
            1,
            &[number + 1; 512],
        );
        let sum = castagnoli(&write[24..]);
        write.extend(sum);
        scene.nic.send(&write)?;
    }
    let mut told = BTreeSet::new();
    for (_, frame) in scene.responses(Instant::now(), QUIET)? {
        ensure!(Response(&frame).registers() == (0, 0x40), "{frame:02x?}");
        told.insert(tag(&frame));
        for entry in frame[37..].chunks_exact(16).take(usize::from(frame[36])) {
            ensure!(entry[10..13] == [0, 0x40, 0], "{entry:02x?}");
            told.insert(u32::from_be_bytes([entry[0], entry[1], entry[2], entry[3]]));
        }
    }
    ensure!(
        told.into_iter().eq(0x100..0x108),
        "a write without response"
    );

    // And back, all in one frame.
    let mut read = scene.e1_1.ata(0x200, ata::READ, 0, 1, &[]);
    read.push(7);
    for number in 1..8_u8 {
        read.extend((0x200 + u32::from(number)).to_be_bytes());
        read.extend((u64::from(number) * 100).to_le_bytes().iter().take(6));
        read.extend([0, 0, 0, 0, 0, 1]);
    }
    scene.nic.send(&read)?;
    let mut seen = BTreeSet::new();
    for (_, frame) in scene.responses(Instant::now(), QUIET)? {
        let number = tag(&frame) - 0x200;
        let (covered, sum) = frame[24..].split_at(12 + 512);
        ensure!(
            covered[12..]
                .iter()
                .all(|&byte| u32::from(byte) == number + 1)
        );
        ensure!(sum == castagnoli(covered), "wrong checksum");
        seen.insert(number);
    }
    ensure!(seen.into_iter().eq(0..8), "a read without response");
    scene.stop()
}

/// CRC-32C bit by bit.
fn castagnoli(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    });
    (!crc).to_le_bytes()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stale_duplicate_of_a_write_changes_nothing() -> Result<()> {
    let scene = Scene::new()?;
    scene.extend(b"tag_inc_be\0\0")?;
    let write = |tag, fill| scene.e1_1.ata(tag, ata::WRITE, 8, 1, &[fill; 512]);
    for request in [write(1, 1), write(2, 2), write(1, 1)] {
        let answer = scene.ask(&request)?;
        ensure!(Response(&answer).registers() == (0, 0x40), "{answer:02x?}");
    }
    let mut sector = [0; 512];
    std::fs::File::open(&scene.image)?.read_exact_at(&mut sector, 8 * 512)?;
    ensure!(sector == [2; 512], "the old write was executed again");
    scene.stop()
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn congestion_is_measured_without_a_stall() -> Result<()> {
    let scene = Scene::new()?;
    let probes = 50;
    let start = Instant::now();
    for tag in 0..probes {
        let mut probe = scene.table(tag, b"congestion\x0012345\0\0")?;
        probe.resize(1500, 0);
        scene.nic.send(&probe)?;
    }
    let read = scene.e1_1.ata(1000, ata::READ, 0, 1, &[]);
    scene.nic.send(&read)?;
    let responses = scene.responses(start, Duration::from_millis(900))?;
    let tags: Vec<u32> = responses.iter().map(|(_, frame)| tag(frame)).collect();
    ensure!(
        tags.iter().copied().eq([1000].into_iter().chain(0..probes)),
        "the read first, then the probes in order: {tags:?}"
    );
    for (after, frame) in &responses[1..] {
        ensure!(frame.len() == 1500, "{} bytes", frame.len());
        ensure!(*after >= Duration::from_millis(500), "after {after:?}");
    }
    scene.stop()
}

/// A read of the config string ends what its sender has negotiated with `--extension-reset config`,
/// and nothing otherwise.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_config_command_ends_extensions_where_the_operator_wants_it() -> Result<()> {
    for (arguments, ends) in [
        (&[][..], false),
        (&["--extension-reset", "release"], false),
        (&["--extension-reset", "config"], true),
    ] {
        let scene = Scene::with(arguments)?;
        scene.extend(b"crc32c\0\0")?;
        let read = |tag| scene.ask(&scene.e1_1.ata(tag, ata::READ, 0, 1, &[]));
        ensure!(read(1)?.len() == 36 + 512 + 4);
        scene.ask(&scene.e1_1.config(2, config::READ, b""))?;
        let len = read(3)?.len();
        let expected = if ends { 36 + 512 } else { 36 + 512 + 4 };
        ensure!(len == expected, "{arguments:?}: {len} bytes");
        scene.stop()?;
    }
    Ok(())
}
