//! The real program between two hosts, asked with hand-made frames.

#![expect(
    clippy::indexing_slicing,
    reason = "a frame that is too short fails the test"
)]

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, symlink},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Maker, Namespace, Nic, Process, Scratch,
    aoe::{self, Addressing, BROADCAST, EVERY_TARGET, Response, ata, config},
    aoede_binary,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(5);
const SECTORS: u64 = 16_384;
const SECTOR: usize = 512;
/// Nobody's MAC address.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// Bytes that differ from sector to sector and within one.
fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len)
        .map(|at| u8::try_from((at * 7 + at / SECTOR * 13 + seed) % 251).unwrap_or(0))
        .collect()
}

fn ask(nic: &Nic, request: &[u8]) -> Result<Vec<u8>> {
    let what = || {
        format!(
            "no response to {:02x?}",
            request
                .get(14..)
                .unwrap_or_default()
                .iter()
                .take(24)
                .collect::<Vec<_>>()
        )
    };
    nic.exchange(request, SOON)?.with_context(what)
}

/// The size in words 100 to 103 of IDENTIFY data.
fn sectors_of(identify: &[u8]) -> u64 {
    identify[200..208]
        .iter()
        .rev()
        .fold(0, |size, &byte| size << 8 | u64::from(byte))
}

/// Waits for a frame that says, to everybody and unasked, that e1.1 takes this many sectors.
fn hear_announcement(nic: &Nic, within: Duration, sectors_per_frame: u8) -> Result<()> {
    let end = Instant::now() + within;
    let mut others = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "no announcement of {sectors_per_frame} sectors within {within:?}, but {others:02x?}"
        );
        let Some(frame) = nic.receive(left)? else {
            continue;
        };
        let news = Response(&frame);
        let unasked = frame[..6] == BROADCAST && frame[19] == 1 && frame[20..24] == [0; 4];
        let ours = news.address() == (1, 1) && (news.flags(), news.error()) == (0x18, 0);
        if unasked && ours && news.sector_count() == sectors_per_frame {
            return Ok(());
        }
        others.push(frame);
    }
}

/// Throws away the frames that have come so far.
fn forget(nic: &Nic) -> Result<()> {
    while nic.receive(Duration::ZERO)?.is_some() {}
    Ok(())
}

/// Everything an initiator does in its first second, at one MTU.
fn conversation(mtu: u32, sectors_per_frame: u8) -> Result<()> {
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(mtu)?;
    let target = Export::new(&image, "tgt0").start(&host, Maker::under_test())?;
    let nic = Nic::open(&initiator, "ini0")?;
    let e1_1 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (1, 1),
    };
    it_is_discovered(&nic, e1_1, sectors_per_frame)?;
    it_identifies_itself(&nic, e1_1)?;
    it_stores_and_returns(&nic, e1_1, sectors_per_frame, &image)?;
    it_refuses_properly(&nic, e1_1, sectors_per_frame)?;
    target.stop().map(drop)
}

fn it_is_discovered(nic: &Nic, e1_1: Addressing, sectors_per_frame: u8) -> Result<()> {
    let everybody = Addressing {
        to: BROADCAST,
        address: EVERY_TARGET,
        ..e1_1
    };
    let frame = ask(nic, &everybody.config(1, config::READ, b""))?;
    let found = Response(&frame);
    ensure!(
        frame[..12] == [e1_1.from, e1_1.to].concat(),
        "wrong MAC addresses: {frame:02x?}"
    );
    ensure!((found.flags(), found.error()) == (0x18, 0), "{frame:02x?}");
    ensure!(
        found.address() == (1, 1),
        "the real address, not the wildcard: {:?}",
        found.address()
    );
    ensure!(
        found.sector_count() == sectors_per_frame,
        "sector count {}",
        found.sector_count()
    );
    ensure!(
        found.buffer_count() >= 2,
        "Linux never sends anything below 2: {}",
        found.buffer_count()
    );
    let padded = frame.len() == 60 || Maker::under_test() == Maker::Vblade;
    ensure!(padded, "not padded to Ethernet's minimum: {}", frame.len());
    let elsewhere = Addressing {
        address: (1, 2),
        ..e1_1
    };
    let silence = nic.exchange(
        &elsewhere.config(2, config::READ, b""),
        Duration::from_millis(300),
    )?;
    ensure!(
        silence.is_none(),
        "somebody answers for e1.2: {silence:02x?}"
    );
    Ok(())
}

fn it_identifies_itself(nic: &Nic, e1_1: Addressing) -> Result<()> {
    let frame = ask(nic, &e1_1.ata(10, ata::IDENTIFY, 0, 1, b""))?;
    let identify = Response(&frame).data();
    ensure!(identify.len() == SECTOR, "{} bytes", identify.len());
    let size = sectors_of(identify);
    ensure!(size == SECTORS, "{size} sectors in words 100 to 103");
    ensure!(
        identify[167] & 0x04 != 0,
        "no 48-bit addresses announced in word 83"
    );
    Ok(())
}

fn it_stores_and_returns(
    nic: &Nic,
    e1_1: Addressing,
    sectors_per_frame: u8,
    image: &Path,
) -> Result<()> {
    let data = pattern(usize::from(sectors_per_frame) * SECTOR, 1);
    let frame = ask(
        nic,
        &e1_1.ata(20, ata::WRITE, 100, sectors_per_frame, &data),
    )?;
    ensure!(
        Response(&frame).registers() == (0, 0x40),
        "write: {frame:02x?}"
    );
    let mut stored = vec![0; data.len()];
    File::open(image)?.read_exact_at(&mut stored, 100 * 512)?;
    ensure!(stored == data, "an acknowledged write is not in the file");
    let frame = ask(nic, &e1_1.ata(21, ata::READ, 100, sectors_per_frame, b""))?;
    let read = Response(&frame);
    ensure!(
        read.registers() == (0, 0x40) && read.data() == data,
        "something else is read back"
    );

    let last = pattern(SECTOR, 9);
    let frame = ask(nic, &e1_1.ata(22, ata::WRITE, SECTORS - 1, 1, &last))?;
    ensure!(
        Response(&frame).registers() == (0, 0x40),
        "write of the last sector: {frame:02x?}"
    );
    let frame = ask(nic, &e1_1.ata(23, ata::READ, SECTORS - 1, 1, b""))?;
    ensure!(
        Response(&frame).data() == last,
        "the last sector reads as something else"
    );
    Ok(())
}

fn it_refuses_properly(nic: &Nic, e1_1: Addressing, sectors_per_frame: u8) -> Result<()> {
    let one_too_far = SECTORS + 1 - u64::from(sectors_per_frame);
    let request = e1_1.ata(30, ata::READ, one_too_far, sectors_per_frame, b"");
    let frame = ask(nic, &request)?;
    let beyond = Response(&frame);
    ensure!(
        beyond.registers() == (0x10, 0x41),
        "beyond the end, IDNF is due: {:02x?}",
        beyond.registers()
    );
    ensure!(
        beyond.flags() == 0x18,
        "the header must not say error: {:02x}",
        beyond.flags()
    );
    if Maker::under_test() == Maker::Aoede {
        let frame = ask(nic, &e1_1.ata(31, ata::READ, 0, sectors_per_frame + 1, b""))?;
        let refused = Response(&frame);
        ensure!(
            (refused.flags(), refused.error()) == (0x1c, 2),
            "over the sector count: {frame:02x?}"
        );
        ensure!(frame.len() == 60, "{} bytes", frame.len());
        let frame = ask(nic, &e1_1.ata(32, ata::FLUSH, 0, 0, b""))?;
        ensure!(
            Response(&frame).registers() == (0, 0x40),
            "flush: {frame:02x?}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_hosts_talk_with_standard_frames() -> Result<()> {
    conversation(1500, 2)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_hosts_talk_with_jumbo_frames() -> Result<()> {
    conversation(9000, 17)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn two_hosts_talk_with_the_smallest_frames() -> Result<()> {
    conversation(1042, 1)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_announces_itself_when_it_starts() -> Result<()> {
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let target = Export::new(&image, "tgt0")
        .at(7, 3)
        .start(&host, Maker::under_test())?;
    let frame = nic.receive(SOON)?.context("no announcement")?;
    let news = Response(&frame);
    // vblade forgets the version here.
    let version = if Maker::under_test() == Maker::Vblade {
        0
    } else {
        0x10
    };
    ensure!(
        frame[..6] == BROADCAST && news.flags() == version | 0x08 && frame[19] == 1,
        "{frame:02x?}"
    );
    ensure!(
        news.address() == (7, 3) && frame[20..24] == [0; 4] && news.sector_count() == 2,
        "{frame:02x?}"
    );
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_announces_itself_when_its_interface_or_its_file_changes() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let target = Export::new(&image, "tgt0").start(&host, Maker::Aoede)?;
    hear_announcement(&nic, SOON, 2).context("at the start")?;
    let set_mtu = |mtu: u32| -> Result<()> {
        forget(&nic)?;
        initiator.ip(&format!("link set ini0 mtu {mtu}"))?;
        host.ip(&format!("link set tgt0 mtu {mtu}")).map(drop)
    };

    host.ip("link set tgt0 down")?;
    target.log()?.wait_for("tgt0 is down", SOON)?;
    forget(&nic)?;
    host.ip("link set tgt0 up")?;
    hear_announcement(&nic, SOON, 2).context("up again")?;
    for (mtu, sectors_per_frame) in [(9000, 17), (1500, 2)] {
        set_mtu(mtu)?;
        hear_announcement(&nic, SOON, sectors_per_frame).with_context(|| format!("MTU {mtu}"))?;
    }

    let question = Addressing {
        to: BROADCAST,
        from: nic.mac(),
        address: EVERY_TARGET,
    }
    .config(1, config::READ, b"");
    set_mtu(1041)?;
    target.log()?.wait_for("MTU of 1041", SOON)?;
    let answer = nic.exchange(&question, Duration::from_millis(500))?;
    ensure!(
        answer.is_none(),
        "served with an MTU of 1041: {answer:02x?}"
    );
    set_mtu(1500)?;
    hear_announcement(&nic, SOON, 2).context("back from an MTU of 1041")?;
    ask(&nic, &question)?;

    forget(&nic)?;
    File::options()
        .write(true)
        .open(&image)?
        .set_len(2 * SECTORS * 512)?;
    hear_announcement(&nic, Duration::from_secs(3), 2).context("a larger file")?;
    let e1_1 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (1, 1),
    };
    let frame = ask(&nic, &e1_1.ata(2, ata::IDENTIFY, 0, 1, b""))?;
    let size = sectors_of(Response(&frame).data());
    ensure!(
        size == 2 * SECTORS,
        "{size} sectors after the file has grown"
    );
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_read_only_export_refuses_writes_and_keeps_the_file() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let target = Export::new(&image, "tgt0")
        .with(&["--read-only"])
        .start(&host, Maker::Aoede)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let e1_1 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (1, 1),
    };
    let frame = ask(&nic, &e1_1.ata(1, ata::WRITE, 0, 1, &pattern(SECTOR, 5)))?;
    ensure!(
        Response(&frame).registers() == (0x04, 0x41),
        "ABRT: {frame:02x?}"
    );
    let frame = ask(&nic, &e1_1.ata(2, ata::READ, 0, 1, b""))?;
    ensure!(Response(&frame).data() == [0; SECTOR], "{frame:02x?}");
    target.stop()?;
    ensure!(
        fs::read(&image)?.iter().all(|&byte| byte == 0),
        "the file has changed"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_window_into_the_file_is_served_and_nothing_beside_it() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let target = Export::new(&image, "tgt0")
        .with(&["--offset", "100", "--length", "50"])
        .start(&host, Maker::Aoede)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let e1_1 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (1, 1),
    };
    let data = pattern(SECTOR, 3);
    let frame = ask(&nic, &e1_1.ata(1, ata::WRITE, 49, 1, &data))?;
    ensure!(Response(&frame).registers() == (0, 0x40), "{frame:02x?}");
    let frame = ask(&nic, &e1_1.ata(2, ata::WRITE, 50, 1, &data))?;
    ensure!(
        Response(&frame).registers() == (0x10, 0x41),
        "beyond the window: {frame:02x?}"
    );
    target.stop()?;
    let file = fs::read(&image)?;
    let changed: Vec<usize> = (0..file.len() / SECTOR)
        .filter(|&sector| {
            file[sector * SECTOR..(sector + 1) * SECTOR]
                .iter()
                .any(|&byte| byte != 0)
        })
        .collect();
    ensure!(changed == [149], "sectors {changed:?} have changed");
    ensure!(
        file[149 * SECTOR..150 * SECTOR] == data,
        "sector 149 has other bytes"
    );
    Ok(())
}

/// What was acknowledged is in memory only, until the stop brings it to the file.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_clean_stop_writes_what_was_acknowledged_early() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    // A process that was started with SIGHUP ignored goes on ignoring it, and so would ours.
    let status = fs::read_to_string("/proc/self/status")?;
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = u64::from_str_radix(ignored.context("no SigIgn")?.trim(), 16)?;
    let signals = if ignored & 1 == 0 {
        &[Signal::TERM, Signal::INT, Signal::HUP][..]
    } else {
        &[Signal::TERM, Signal::INT]
    };
    for &signal in signals {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", SECTORS * 512)?;
        let (host, initiator) = Namespace::pair(1500)?;
        let nic = Nic::open(&initiator, "ini0")?;
        let target = Export::new(&image, "tgt0")
            .with(&["--cache", "writeback", "--dirty-age", "1h"])
            .start(&host, Maker::Aoede)?;
        let e1_1 = Addressing {
            to: host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        let data = pattern(2 * SECTOR, 5);
        let frame = ask(&nic, &e1_1.ata(1, ata::WRITE, 100, 2, &data))?;
        ensure!(Response(&frame).registers() == (0, 0x40), "{frame:02x?}");
        let written = 100 * SECTOR..102 * SECTOR;
        ensure!(
            fs::read(&image)?[written.clone()] == [0; 2 * SECTOR],
            "it was to stay in memory"
        );
        target.stop_by(signal)?;
        ensure!(
            fs::read(&image)?[written] == data,
            "{signal:?}: what was acknowledged is lost"
        );
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_stranger_is_not_answered_when_others_are_allowed() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let mac: Vec<String> = nic.mac().iter().map(|byte| format!("{byte:02x}")).collect();
    let export = Export::new(&image, "tgt0");
    let request = Addressing {
        to: BROADCAST,
        from: nic.mac(),
        address: (1, 1),
    }
    .config(1, config::READ, b"");
    let target = export
        .clone()
        .with(&["--allow", "02:00:00:00:00:99"])
        .start(&host, Maker::Aoede)?;
    ensure!(
        nic.exchange(&request, Duration::from_millis(500))?
            .is_none(),
        "a stranger is answered"
    );
    target.stop()?;
    let friends = format!("02:00:00:00:00:99,{}", mac.join(":"));
    let target = export
        .with(&["--allow", &friends])
        .start(&host, Maker::Aoede)?;
    ask(&nic, &request).context("a friend is not answered")?;
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn called_as_vblade_it_takes_vblades_arguments() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let link = folder.join("vblade");
    symlink(aoede_binary()?, &link)?;
    let mut command = Command::new(link);
    command
        .args(["-r", "-b", "24", "3", "4", "tgt0"])
        .arg(&image);
    let mut target = Process::spawn_split("aoede as vblade", Some(&host), command)?;
    target.stderr.wait_for("serving e3.4", SOON)?;
    let line = format!("pid {}: e3.4, {SECTORS} sectors O_RDONLY\n", target.id());
    target.stdout.wait_for(&line, SOON)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let e3_4 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (3, 4),
    };
    let frame = ask(&nic, &e3_4.config(1, config::READ, b""))?;
    ensure!(Response(&frame).buffer_count() == 24, "-b 24: {frame:02x?}");
    let frame = ask(&nic, &e3_4.ata(2, ata::WRITE, 0, 1, &pattern(SECTOR, 5)))?;
    ensure!(
        Response(&frame).registers() == (0x04, 0x41),
        "-r: {frame:02x?}"
    );
    ensure!(aoe::ATA_HEADER + SECTOR > frame.len(), "no data comes back");
    let stranger = Addressing {
        from: STRANGER,
        ..e3_4
    };
    ask(&nic, &stranger.ata(3, ata::IDENTIFY, 0, 1, b"")).context("without -m, to a stranger")?;
    target.signal(Signal::TERM)?;
    let status = target.wait(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn called_as_vblade_it_takes_a_window_and_a_list_of_initiators() -> Result<()> {
    if Maker::under_test() != Maker::Aoede {
        return Ok(());
    }
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let link = folder.join("vblade");
    symlink(aoede_binary()?, &link)?;
    let nic = Nic::open(&initiator, "ini0")?;
    let mac: Vec<String> = nic.mac().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut command = Command::new(link);
    command
        .args(["-d", "-s", "-o", "8", "-l", "16", "-m", &mac.join(":")])
        .args(["3", "4", "tgt0"])
        .arg(&image);
    let mut target = Process::spawn_split("aoede as vblade", Some(&host), command)?;
    let line = format!("pid {}: e3.4, 16 sectors O_RDWR\n", target.id());
    target.stdout.wait_for(&line, SOON)?;
    let e3_4 = Addressing {
        to: host.mac("tgt0")?,
        from: nic.mac(),
        address: (3, 4),
    };
    let frame = ask(&nic, &e3_4.ata(1, ata::IDENTIFY, 0, 1, b""))?;
    let size = sectors_of(Response(&frame).data());
    ensure!(size == 16, "-l 16: {size} sectors");
    let data = pattern(SECTOR, 5);
    let frame = ask(&nic, &e3_4.ata(2, ata::WRITE, 0, 1, &data))?;
    ensure!(Response(&frame).registers() == (0, 0x40), "{frame:02x?}");
    let mut stored = vec![0; SECTOR];
    File::open(&image)?.read_exact_at(&mut stored, 8 * 512)?;
    ensure!(
        stored == data,
        "-o 8: sector 0 is not in the file's sector 8"
    );
    // An answer to a stranger would be sent to its address, which a veth end takes in as well.
    let stranger = Addressing {
        from: STRANGER,
        ..e3_4
    };
    let answer = nic.exchange(
        &stranger.ata(3, ata::IDENTIFY, 0, 1, b""),
        Duration::from_millis(300),
    )?;
    ensure!(
        answer.is_none(),
        "-m: a stranger is answered: {answer:02x?}"
    );
    target.signal(Signal::TERM)?;
    let status = target.wait(SOON)?;
    ensure!(status.success(), "{status}");
    Ok(())
}
