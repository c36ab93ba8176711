//! One host sends rubbish while another one works.

#![expect(
    clippy::indexing_slicing,
    reason = "the frames are made here, long enough"
)]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Guest, GuestOptions, Maker, Namespace, Nic, Random, Scratch,
    aoe::{Addressing, BROADCAST, EVERY_TARGET},
};

const FRAMES: u32 = 100_000;
const SEED: u64 = 0x5eed_a0ed;
const SOON: Duration = Duration::from_secs(120);
const LONGEST: usize = 9014;

/// A frame that no target may act on. Each kind breaks one rule and is random otherwise.
fn rubbish(random: &mut Random, mac: [u8; 6], target: [u8; 6]) -> Vec<u8> {
    let tag = u32::try_from(random.number() >> 32).unwrap_or(0);
    let e1_1 = Addressing {
        to: target,
        from: mac,
        address: (1, 1),
    };
    let length = random.below(1400);
    let kind = random.below(12);
    let mut frame = match kind {
        // Cut off anywhere: before the end of the header or before the command's own minimum.
        0 => {
            let mut frame = e1_1.ata(tag, 0x24, 0, 1, b"");
            frame.truncate(14 + random.below(22));
            frame
        }
        // A version that does not exist, with anything behind it.
        1 => {
            let mut frame = e1_1.header(random.byte(), tag);
            frame[14] = 0x20 | random.byte() & 0xc7;
            frame.extend(random.bytes(length));
            frame
        }
        // A response nobody asked for.
        2 => {
            let mut frame = e1_1.header(random.byte() & 1, tag);
            frame[14] = 0x18 | random.byte() & 0x04;
            frame.extend(random.bytes(length));
            frame
        }
        // A command that does not exist.
        3 => {
            let mut frame = e1_1.header(0x40 | random.byte() & 0x3f, tag);
            frame.extend(random.bytes(length));
            frame
        }
        // Somebody else's address.
        4 => Addressing {
            to: BROADCAST,
            address: (
                random.below(0xfff0).max(2).try_into().unwrap_or(2),
                random.byte() & 0x7f,
            ),
            ..e1_1
        }
        .ata(tag, 0x34, random.number() >> 40, 1, &random.bytes(512)),
        // A write with less data than it says.
        5 => e1_1.ata(
            tag,
            0x34,
            random.number() >> 50,
            2,
            &random.bytes(1 + length.min(1000)),
        ),
        // A write or read far beyond the end.
        6 => e1_1.ata(
            tag,
            if random.byte() & 1 == 0 { 0x24 } else { 0x34 },
            1 << 40 | random.number() >> 30,
            1,
            &random.bytes(512),
        ),
        // An ATA command that does not exist.
        7 => e1_1.ata(
            tag,
            0x80 | random.byte() & 0x0f,
            random.number() >> 16,
            random.byte(),
            b"",
        ),
        // More sectors than a frame holds.
        8 => e1_1.ata(
            tag,
            0x24,
            random.number() >> 50,
            18 + random.byte() % 200,
            b"",
        ),
        // A write to every disk of the segment.
        9 => Addressing {
            to: BROADCAST,
            address: EVERY_TARGET,
            ..e1_1
        }
        .ata(tag, 0x34, random.number() >> 50, 1, &random.bytes(512)),
        // A config string longer than the frame.
        10 => {
            let mut frame = e1_1.config(tag, 4, &random.bytes(20));
            frame[30] = 0x04 | random.byte() & 0x03;
            frame[31] |= 1;
            frame
        }
        // An extension table without an end.
        _ => {
            let mut frame = e1_1.header(0x23, tag);
            frame.extend([0xff, random.byte()]);
            frame.extend(random.bytes(length).iter().map(|byte| byte | 0x80));
            frame
        }
    };
    // A sender that cannot be answered.
    if random.below(50) == 0 {
        frame[6..12].copy_from_slice(if random.byte() & 1 == 0 {
            &[0; 6]
        } else {
            &BROADCAST
        });
    }
    frame.truncate(LONGEST);
    frame
}

/// Whether the switch and the filter that the target has in the kernel let a frame pass.
fn arrives(frame: &[u8]) -> bool {
    let sender_is_valid = frame[6] & 1 == 0 && frame[6..12] != [0; 6];
    let is_for_target = match frame.get(16..19) {
        Some(&[shelf_high, shelf_low, slot]) => {
            matches!([shelf_high, shelf_low], [0, 1] | [0xff, 0xff]) && matches!(slot, 1 | 0xff)
        }
        _ => false,
    };
    sender_is_valid && is_for_target
}

/// Frames received and frames left unanswered, from the line that a target writes at its end:
/// `stopped e1.1 frames=7 … ignored=source=3 version=1`.
fn frames_and_ignored(log: &str) -> Result<(u64, u64)> {
    let line = log
        .lines()
        .find(|line| line.contains("stopped e1.1"))
        .with_context(|| format!("no last line in:\n{log}"))?;
    let (counters, reasons) = line.split_once("ignored=").context("no `ignored`")?;
    let number = |pair: &str| pair.split_once('=')?.1.parse::<u64>().ok();
    let frames = counters
        .split_whitespace()
        .find(|pair| pair.starts_with("frames="))
        .and_then(number)
        .with_context(|| format!("no `frames` in {line}"))?;
    let reasons = reasons.trim_matches('"').split_whitespace();
    Ok((frames, reasons.filter_map(number).sum()))
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flood_of_rubbish_disturbs_nobody() -> Result<()> {
    // Three hosts at a switch: the target, the guest, and the one that floods.
    let (switch, host, stranger) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    switch.veth("port0", &host, "tgt0", 9000)?;
    switch.veth("port1", &stranger, "bad0", 9000)?;
    switch.tap("tap0", 9000)?;
    switch.bridge("br0", &["port0", "port1", "tap0"], 9000)?;
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", 64 << 20)?;
    let mut export = Export::new(&image, "tgt0");
    if Maker::under_test() == Maker::Aoede {
        // Memory of the cache comes with its first use: it must not hide what the flood costs.
        export = export.with(&["--cache-size", "256KiB"]);
    }
    let mut target = export.start(&host, Maker::under_test())?;
    let mut guest = Guest::boot(&switch, GuestOptions::default())?;
    guest.wait_for_disk("e1.1", SOON)?;
    let fio = "fio --name=verify --filename=/dev/etherd/e1.1 --ioengine=io_uring --direct=1 --iodepth=16 --verify=crc32c \
               --verify_fatal=1 --verify_state_save=0 --rw=randwrite --bs=16k";
    // Once without the flood, so that the target has what memory it needs.
    guest.run(&format!("{fio} --size=4M"), SOON)?;
    let memory_kib = target.resident_kib()?;

    let load = guest.start(&format!(
        "{fio} --size=48M --rate_iops=400 --verify_backlog=256"
    ))?;
    let nic = Nic::open(&stranger, "bad0")?;
    let target_mac = host.mac("tgt0")?;
    let mut random = Random::new(SEED);
    let start = Instant::now();
    let mut during_load = 0;
    let mut arriving = 0;
    for _ in 0..FRAMES {
        let frame = rubbish(&mut random, nic.mac(), target_mac);
        nic.send(&frame)?;
        arriving += u64::from(arrives(&frame));
        during_load += u32::from(!guest.has_ended(&load));
    }
    println!(
        "{FRAMES} frames in {:.1?}, {during_load} while the guest was working",
        start.elapsed()
    );
    ensure!(
        during_load > FRAMES / 2,
        "the load ended too early for this to say anything"
    );
    guest.succeed(load, SOON)?;
    ensure!(target.is_running(), "the target has died; seed {SEED:#x}");
    let now_kib = target.resident_kib()?;
    ensure!(
        now_kib.abs_diff(memory_kib) <= 1024,
        "resident memory went from {memory_kib} to {now_kib} KiB"
    );
    guest.run(&format!("{fio} --size=48M --verify_only"), SOON)?;
    let log = target.log()?.clone();
    target.stop()?;
    if Maker::under_test() == Maker::Aoede {
        let (frames, ignored) = frames_and_ignored(&log.text())?;
        println!("{arriving} frames were to arrive; {frames} did, {ignored} were ignored");
        // The guest's own, some 20,000, are among the frames, but no target ignores those; of the
        // rubbish, a third has no answer at all.
        ensure!(
            frames > arriving / 4 * 3 && ignored > arriving / 5,
            "{arriving} frames were to arrive; {frames} did, {ignored} were ignored"
        );
    }
    Ok(())
}
