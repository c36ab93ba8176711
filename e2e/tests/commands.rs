//! The commands that look at disks on a network, against our target and vblade. What they say is
//! compared with what the file, `ip link` and hand-made frames say.

#![expect(
    clippy::indexing_slicing,
    reason = "a field that is missing reads as null"
)]

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Finished, Maker, Namespace, Nic, Process, Scratch, TargetProcess,
    aoe::{Addressing, Response, ata, config},
    aoede_binary, as_nobody, public_copy, run,
};
use rustix::process::Signal;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
/// Longer than an answer takes.
const QUIET: Duration = Duration::from_millis(300);
const SECTORS: u64 = 16_384;
/// Nobody's MAC address.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// A target at an MTU of 9000, and the host where the commands run.
struct Scene {
    host: Namespace,
    initiator: Namespace,
    image: PathBuf,
    folder: Scratch,
    _target: TargetProcess,
}

impl Scene {
    fn new(maker: Maker) -> Result<Self> {
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", SECTORS * 512)?;
        let (host, initiator) = Namespace::pair(9000)?;
        let target = Export::new(&image, "tgt0").start(&host, maker)?;
        Ok(Self {
            host,
            initiator,
            image,
            folder,
            _target: target,
        })
    }

    /// Runs a command line, without the program's name, to its end.
    fn aoede(&self, line: &str) -> Result<Finished> {
        let mut command = Command::new(aoede_binary()?);
        command.args(line.split_whitespace());
        run(Some(&self.initiator), command, SOON)
    }

    /// What a command that succeeds prints.
    fn text(&self, line: &str) -> Result<String> {
        let finished = self.aoede(line)?;
        ensure!(finished.code == 0, "{line}: {finished:?}");
        Ok(finished.stdout)
    }

    fn json(&self, line: &str) -> Result<Value> {
        let text = self.text(&format!("{line} --json"))?;
        serde_json::from_str(&text).with_context(|| format!("{line}: {text}"))
    }

    /// A command that fails, and says these words.
    fn fails(&self, line: &str, words: &[&str]) -> Result<()> {
        let finished = self.aoede(line)?;
        ensure!(finished.code == 1, "{line}: {finished:?}");
        for word in words {
            let is_there = finished.stderr.contains(word);
            ensure!(is_there, "{line} does not say {word}: {finished:?}");
        }
        ensure!(finished.stdout.is_empty(), "{line}: {finished:?}");
        Ok(())
    }

    fn mac(&self) -> Result<String> {
        Ok(text(self.host.mac("tgt0")?))
    }

    fn own_mac(&self) -> Result<String> {
        Ok(text(self.initiator.mac("ini0")?))
    }

    /// A way to send frames of this sender to the target by hand.
    fn by_hand(&self, from: Option<[u8; 6]>) -> Result<(Nic, Addressing)> {
        let nic = Nic::open(&self.initiator, "ini0")?;
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: from.unwrap_or_else(|| nic.mac()),
            address: (1, 1),
        };
        Ok((nic, e1_1))
    }
}

/// A MAC address as people write it.
fn text(mac: [u8; 6]) -> String {
    let bytes = mac.map(|byte| format!("{byte:02x}"));
    bytes.join(":")
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn discover_lists_every_target_and_every_path() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    // Another target on the same network, and a second network for both.
    scene.host.veth("tgt1", &scene.initiator, "ini1", 1500)?;
    let other = scene.folder.image("other.img", 4096 * 512)?;
    let vblade = Export::new(&other, "tgt0")
        .and_on("tgt1")
        .at(7, 250)
        .start(&scene.host, Maker::Vblade)?;
    let third = scene.folder.image("third.img", 4096 * 512)?;
    let third = Export::new(&third, "tgt1")
        .at(10, 0)
        .start(&scene.host, Maker::Aoede)?;
    scene.text("set e10.0 -i ini1 --config-string cfg\\x20of\\x1b[2J\\\\10")?;

    let (near, far) = (scene.mac()?, text(scene.host.mac("tgt1")?));
    let answer =
        |address: &str, interface: &str, mac: &str, buffers: u64, sectors: u64, firmware: u64| {
            json!({
                "address": address,
                "interface": interface,
                "mac": mac,
                "buffer_count": buffers,
                "sectors_per_frame": sectors,
                "firmware": firmware,
                "config_string": "",
            })
        };
    let mut last = answer("e10.0", "ini1", &far, 64, 2, 0x5001);
    if let Some(string) = last.get_mut("config_string") {
        *string = json!("cfg of\\x1b[2J\\\\10");
    }
    let listed = scene.json("discover -i ini0,ini1 --seconds 1")?;
    let expected = json!([
        answer("e1.1", "ini0", &near, 64, 17, 0x5001),
        answer("e7.250", "ini0", &near, 16, 17, 0x4019),
        answer("e7.250", "ini1", &far, 16, 2, 0x4019),
        last,
    ]);
    ensure!(listed == expected, "{listed:#}");

    let table = scene.text("discover -i ini0,ini1 --seconds 1")?;
    let expected = format!(
        "ADDRESS  INTERFACE  MAC                BUFFERS  SECTORS  FIRMWARE  CONFIG\n\
         e1.1     ini0       {near}       64       17      5001\n\
         e7.250   ini0       {near}       16       17      4019\n\
         e7.250   ini1       {far}       16        2      4019\n\
         e10.0    ini1       {far}       64        2      5001  cfg of\\x1b[2J\\\\10\n"
    );
    ensure!(table == expected, "{table}");
    third.stop()?;
    vblade.stop()?;
    // What has gone does not answer.
    scene.initiator.ip("link set ini1 down")?;
    let listed = scene.json("discover -i ini0 --seconds 1")?;
    ensure!(listed.as_array().is_some_and(|list| list.len() == 1));
    scene.initiator.ip("link set ini1 up").map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn that_nobody_answers_is_a_fact() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    scene.host.veth("tgt1", &scene.initiator, "ini1", 1500)?;
    let empty = scene.aoede("discover -i ini1 --seconds 1")?;
    ensure!((empty.code, &*empty.stdout) == (0, ""), "{empty:?}");
    ensure!(
        empty.stderr.contains("nobody answers on ini1 within 1 s"),
        "{empty:?}"
    );
    let empty = scene.json("discover -i ini1 --seconds 1")?;
    ensure!(empty == json!([]), "{empty}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn who_stops_reading_gets_no_complaint() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let mut command = Command::new("bash");
    let program = aoede_binary()?;
    command.args([
        "-c",
        "set -o pipefail; \"$0\" discover -i ini0 --seconds 1 | true",
    ]);
    command.arg(program);
    let finished = run(Some(&scene.initiator), command, SOON)?;
    ensure!(
        (finished.code, &*finished.stderr) == (0, ""),
        "{finished:?}"
    );
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn info_says_what_is_so_of_our_target() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let mut info = scene.json("info e1.1 -i ini0")?;
    check_size_and_path(&scene, &mut info, 64, 0x5001)?;
    let serial = info["serial"].as_str().unwrap_or_default().to_owned();
    ensure!(serial.starts_with("1.1:"), "{info:#}");
    ensure!(info["model"] == "AoEde", "{info:#}");
    for (field, value) in [
        ("write_cache", json!(false)),
        ("flush", json!(true)),
        ("flush_is_empty", json!(false)),
        ("trim", json!(true)),
        ("config_string", json!("")),
        ("mask", json!([])),
        ("reservation", json!([])),
        ("extensions", Value::Null),
    ] {
        ensure!(info[field] == value, "{field}: {info:#}");
    }

    let table = scene.text("info e1.1 -i ini0")?;
    for line in [
        "address          e1.1",
        "model            AoEde",
        &format!("serial           {serial}"),
        "size             8 MiB, 16384 sectors",
        "write cache      no",
        "flush            yes",
        "config string    empty",
        "may use it       everyone",
        "reserved by      nobody",
        "extensions       not asked for (--extensions)",
    ] {
        ensure!(table.lines().any(|found| found == line), "{line}: {table}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn info_says_what_is_so_of_vblade() -> Result<()> {
    let scene = Scene::new(Maker::Vblade)?;
    let mut info = scene.json("info e1.1 -i ini0 --extensions")?;
    check_size_and_path(&scene, &mut info, 16, 0x4019)?;
    for (field, value) in [
        ("model", json!("Coraid EtherDrive vblade")),
        ("flush", json!(true)),
        ("flush_is_empty", json!(true)),
        ("trim", json!(false)),
        ("config_string", json!("")),
        ("mask", json!([])),
        ("reservation", json!([])),
        ("extensions", json!([])),
    ] {
        ensure!(info[field] == value, "{field}: {info:#}");
    }
    Ok(())
}

/// vblade says that it knows FLUSH CACHE, and acknowledges it without a sync.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flush_that_does_nothing_is_not_believed() -> Result<()> {
    let scene = Scene::new(Maker::Vblade)?;
    let info = scene.text("info e1.1 -i ini0")?;
    let line = "flush            acknowledged, but proves nothing";
    ensure!(info.lines().any(|found| found == line), "{info}");

    let (source, record) = (
        scene.folder.image("source.img", 4096)?,
        scene.folder.join("record"),
    );
    let copy = scene.aoede(&format!(
        "copy {} e1.1 -i ini0 --state {}",
        source.display(),
        record.display()
    ))?;
    ensure!(copy.code == 0, "{copy:?}");
    ensure!(
        copy.stderr
            .contains("e1.1 has no flush that proves anything"),
        "{copy:?}"
    );

    let socket = scene.folder.join("nbd");
    let mut command = Command::new(aoede_binary()?);
    command.args(["attach", "e1.1", "-i", "ini0", "--socket"]);
    command.arg(&socket);
    let mut attach = Process::spawn_split("aoede attach", Some(&scene.initiator), command)?;
    attach
        .stderr
        .wait_for("the target answers flushes without doing them", SOON)?;
    attach.stdout.wait_for("\n", SOON)?;
    // Neither flush (bit 2) nor FUA (bit 3) is offered, but flags are (bit 0).
    let flags = transmission_flags(&socket)?;
    ensure!(flags & 0b1101 == 1, "{flags:#b}");
    attach.kill()
}

/// What an NBD server offers to who asks for its export without a name, in the old way.
fn transmission_flags(socket: &Path) -> Result<u16> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(SOON))?;
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    ensure!(greeting[..16] == *b"NBDMAGICIHAVEOPT", "{greeting:02x?}");
    // Fixed newstyle, no zeros; then the option 1, without a name.
    stream.write_all(&[0, 0, 0, 3])?;
    stream.write_all(b"IHAVEOPT\0\0\0\x01\0\0\0\0")?;
    let mut answer = [0; 10];
    stream.read_exact(&mut answer)?;
    ensure!(
        answer[..8] == (SECTORS * 512).to_be_bytes(),
        "{answer:02x?}"
    );
    Ok(u16::from_be_bytes([answer[8], answer[9]]))
}

/// What the file and `ip link` say, too.
fn check_size_and_path(scene: &Scene, info: &mut Value, buffers: u64, firmware: u64) -> Result<()> {
    let bytes = scene.image.metadata()?.len();
    ensure!(info["address"] == "e1.1", "{info:#}");
    ensure!(info["size_bytes"] == bytes, "{info:#}");
    ensure!(info["size_sectors"] == bytes / 512, "{info:#}");
    let mut paths = info["paths"].take();
    let round_trip = paths[0]["round_trip_us"].take();
    ensure!(
        round_trip.as_u64().is_some_and(|us| us < 1_000_000),
        "{round_trip}"
    );
    // 36 bytes before the data of 17 sectors.
    let expected = json!([{
        "interface": "ini0",
        "mac": scene.mac()?,
        "ready": true,
        "sectors_per_frame": 17,
        "frame_bytes": 8740,
        "buffer_count": buffers,
        "firmware": firmware,
        "round_trip_us": null,
    }]);
    ensure!(paths == expected, "{paths:#}");
    Ok(())
}

/// Both ends have jumbo frames, and the switch between them takes eight sectors.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn info_finds_the_largest_frame_that_passes() -> Result<()> {
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", SECTORS * 512)?;
    let (host, switch, initiator) = (Namespace::new()?, Namespace::new()?, Namespace::new()?);
    host.veth("tgt0", &switch, "port0", 9000)?;
    initiator.veth("ini0", &switch, "port1", 9000)?;
    switch.bridge("br0", &["port0", "port1"], 9000)?;
    switch.ip("link set port1 mtu 4200")?;
    let target = Export::new(&image, "tgt0").start(&host, Maker::Aoede)?;
    let scene = Scene {
        host,
        initiator,
        image,
        folder,
        _target: target,
    };
    let found = scene.json("discover -i ini0 --seconds 1")?;
    ensure!(found[0]["sectors_per_frame"] == 17, "{found:#}");
    let info = scene.json("info e1.1 -i ini0")?;
    let path = &info["paths"][0];
    ensure!(path["sectors_per_frame"] == 8, "{info:#}");
    ensure!(path["frame_bytes"] == 36 + 8 * 512, "{info:#}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn info_names_extensions_and_leaves_none_in_force() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let info = scene.json("info e1.1 -i ini0 --extensions")?;
    let expected = json!([
        "coalesced_read",
        "coalesced_write_reply",
        "tags",
        "crc32c",
        "congestion"
    ]);
    ensure!(info["extensions"] == expected, "{info:#}");

    // A read with another behind it, from the same MAC: padding, if nothing is in force.
    let (nic, e1_1) = scene.by_hand(None)?;
    let mut read = e1_1.ata(0x70, ata::READ, 0, 1, b"");
    read.push(1);
    read.extend([0, 0, 0, 0x71, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ensure!(answers(&nic, &read)? == [0x70]);
    // The same read where it is in force.
    let mut table = e1_1.header(0x23, 0x7f);
    let names = b"reset\0coalesced_read\0\0";
    table.extend(u16::try_from(names.len())?.to_le_bytes());
    table.extend(names);
    ensure!(answers(&nic, &table)? == [0x7f]);
    ensure!(answers(&nic, &read)? == [0x70, 0x71]);
    Ok(())
}

/// What is in force after a command would meet the next user of the MAC, so a signal does not end it
/// at once.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interrupted_info_leaves_no_extension_in_force() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let (nic, e1_1) = scene.by_hand(None)?;
    let mut read = e1_1.ata(0x70, ata::READ, 0, 1, b"");
    read.push(1);
    read.extend([0, 0, 0, 0x71, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    let mut command = Command::new(aoede_binary()?);
    // It measures for half a second when all is agreed on.
    command.args(["info", "e1.1", "-i", "ini0", "--extensions"]);
    let mut info = Process::spawn_split("aoede info", Some(&scene.initiator), command)?;
    let end = Instant::now() + SOON;
    let mut is_in_force = false;
    while !is_in_force {
        ensure!(Instant::now() < end, "nothing is agreed on");
        nic.send(&read)?;
        while let Some(answer) = nic.receive(Duration::from_millis(10))? {
            is_in_force |= Response(&answer).tag() == 0x71;
        }
    }
    info.signal(Signal::INT)?;
    let status = info.wait(SOON)?;
    ensure!(status.code() == Some(1), "{status}");
    let said = info.stderr.text();
    ensure!(said.contains("interrupted"), "{said}");
    ensure!(info.stdout.text().is_empty(), "{}", info.stdout.text());
    // Answers to what was sent before.
    while nic.receive(QUIET)?.is_some() {}
    let mut answered = answers(&nic, &read)?;
    // The program's measurement is answered when it is gone.
    answered.retain(|tag| [0x70, 0x71].contains(tag));
    ensure!(answered == [0x70], "{answered:x?}");
    Ok(())
}

/// The tags of all answers to a frame, in order.
fn answers(nic: &Nic, frame: &[u8]) -> Result<Vec<u32>> {
    nic.send(frame)?;
    let end = Instant::now() + QUIET;
    let mut tags = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(answer) = nic.receive(left)? else {
            tags.sort_unstable();
            return Ok(tags);
        };
        if Response(&answer).flags() & 0x08 != 0 {
            tags.push(Response(&answer).tag());
        }
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn probe_measures_what_can_be_measured() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let probe = scene.json("probe e1.1 -i ini0")?;
    ensure!(probe["address"] == "e1.1", "{probe:#}");
    let path = &probe["paths"][0];
    ensure!(path["interface"] == "ini0", "{probe:#}");
    ensure!(path["mac"] == scene.mac()?.as_str(), "{probe:#}");
    ensure!(path["buffer_count"] == 64, "{probe:#}");
    ensure!(path["probe_bytes"] == 8740, "{probe:#}");
    // Four for each buffer. A receive ring has 256 slots or more, which 1 MiB of answers may limit.
    ensure!(path["probes"] == 256, "{probe:#}");
    let answered = path["answered"].as_u64().unwrap_or(0);
    ensure!((64..=256).contains(&answered), "{probe:#}");

    // Again at once: the target wants a pause, and the command waits for it.
    let again = scene.aoede("probe e1.1 -i ini0")?;
    ensure!(again.code == 0, "{again:?}");
    ensure!(again.stderr.contains("once more"), "{again:?}");
    let line = again.stdout.lines().nth(1).unwrap_or_default();
    ensure!(
        line.starts_with(&format!("ini0       {}        8740 ", scene.mac()?)),
        "{again:?}"
    );
    ensure!(!again.stdout.contains("Not measurable"), "{again:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn probe_says_that_vblade_cannot_be_measured() -> Result<()> {
    let scene = Scene::new(Maker::Vblade)?;
    let probe = scene.json("probe e1.1 -i ini0")?;
    let expected = json!({
        "address": "e1.1",
        "paths": [{
            "interface": "ini0",
            "mac": scene.mac()?,
            "buffer_count": 16,
            "probe_bytes": 8740,
            "probes": null,
            "answered": null,
        }],
    });
    ensure!(probe == expected, "{probe:#}");
    let text = scene.text("probe e1.1 -i ini0")?;
    ensure!(
        text.contains("not measurable         16\n")
            && text.contains("Not measurable: the target does not know"),
        "{text}"
    );
    Ok(())
}

fn config_strings(maker: Maker) -> Result<()> {
    let scene = Scene::new(maker)?;
    let (nic, e1_1) = scene.by_hand(None)?;
    let there = || -> Result<Vec<u8>> {
        let read = e1_1.config(9, config::READ, b"");
        let answer = nic.exchange(&read, SOON)?.context("no answer")?;
        Ok(Response(&answer).config_string().to_vec())
    };
    let first = b"disk\0of \\ seven, and long enough to need no padding".to_vec();
    let as_text =
        r"disk\x00of\x20\\\x20seven,\x20and\x20long\x20enough\x20to\x20need\x20no\x20padding";
    let set = scene.json(&format!("set e1.1 -i ini0 --config-string {as_text}"))?;
    let shown = r"disk\x00of \\ seven, and long enough to need no padding";
    ensure!(
        set == json!({ "address": "e1.1", "config_string": shown }),
        "{set:#}"
    );
    ensure!(there()? == first);

    // Another one needs more than the wish.
    let other = "set e1.1 -i ini0 --config-string other";
    scene.fails(
        other,
        &["e1.1: the config string is", shown, "--expect", "--force"],
    )?;
    scene.fails(
        &format!("{other} --expect wrong"),
        &["not \"wrong\"", "nothing is changed", shown],
    )?;
    ensure!(there()? == first);
    let set = scene.text(&format!("{other} --expect {as_text}"))?;
    ensure!(set == "config string  other\n", "{set}");
    ensure!(there()? == b"other");
    let set = scene.text("set e1.1 -i ini0 --config-string= --force")?;
    ensure!(set == "config string  empty\n", "{set}");
    ensure!(there()?.is_empty());
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn set_changes_the_config_string_of_our_target() -> Result<()> {
    config_strings(Maker::Aoede)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn set_changes_the_config_string_of_vblade() -> Result<()> {
    config_strings(Maker::Vblade)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn set_decides_who_may_use_the_disk() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    let own = scene.own_mac()?;
    let (nic, stranger) = scene.by_hand(Some(STRANGER))?;
    let heard = || -> Result<bool> {
        let read = stranger.config(3, config::READ, b"");
        Ok(nic.exchange(&read, QUIET)?.is_some())
    };
    ensure!(heard()?, "everyone may use it at first");

    // An address that is not this host's would shut this host out.
    let other = "02:00:00:00:00:55";
    scene.fails(
        &format!("set e1.1 -i ini0 --mask-add {other}"),
        &["could not use the disk on ini0", &own, "`me`", "--force"],
    )?;
    ensure!(heard()?, "nothing has changed");

    let set = scene.json(&format!("set e1.1 -i ini0 --mask-add {other},me"))?;
    ensure!(
        set == json!({ "address": "e1.1", "mask": [other, own] }),
        "{set:#}"
    );
    ensure!(!heard()?, "a stranger is answered");
    let info = scene.json("info e1.1 -i ini0")?;
    ensure!(info["mask"] == json!([other, own]), "{info:#}");

    let set = scene.text(&format!("set e1.1 -i ini0 --mask-remove {other}"))?;
    ensure!(set == format!("may use it  {own}\n"), "{set}");
    scene.fails(
        "set e1.1 -i ini0 --mask-add 03:00:00:00:00:01",
        &["03:00:00:00:00:01: the target takes no such address"],
    )?;
    let set = scene.text("set e1.1 -i ini0 --mask-remove me")?;
    ensure!(set == "may use it  everyone\n", "{set}");
    ensure!(heard()?, "the mask is empty again");

    let set = scene.text(&format!("set e1.1 -i ini0 --mask-add {other} --force"))?;
    ensure!(set == format!("may use it  {other}\n"), "{set}");
    scene.fails(
        "info e1.1 -i ini0 --timeout 500ms",
        &["e1.1 does not answer on ini0 within 500ms"],
    )
}

fn reservations(maker: Maker) -> Result<()> {
    let scene = Scene::new(maker)?;
    let own = scene.own_mac()?;
    let (nic, stranger) = scene.by_hand(Some(STRANGER))?;
    // The error of a read by somebody else: 6 where the disk is reserved.
    let error = || -> Result<u8> {
        let read = stranger.ata(4, ata::READ, 0, 1, b"");
        let answer = nic.exchange(&read, SOON)?.context("no answer")?;
        Ok(Response(&answer).error())
    };
    ensure!(error()? == 0);
    let set = scene.json("set e1.1 -i ini0 --reserve me")?;
    ensure!(
        set == json!({ "address": "e1.1", "reservation": [own] }),
        "{set:#}"
    );
    ensure!(error()? == 6);
    let set = scene.text("set e1.1 -i ini0 --release")?;
    ensure!(set == "reserved by  nobody\n", "{set}");
    ensure!(error()? == 0);

    // Held by others: only force takes it.
    let holder = text(STRANGER);
    let for_other = format!("set e1.1 -i ini0 --reserve {holder}");
    scene.fails(
        &for_other,
        &["could not use the disk on ini0", &own, "`me`", "--force"],
    )?;
    ensure!(error()? == 0, "nothing has changed");
    let set = scene.text(&format!("{for_other} --force"))?;
    ensure!(set == format!("reserved by  {holder}\n"), "{set}");
    for line in ["--release", "--reserve me"] {
        scene.fails(
            &format!("set e1.1 -i ini0 {line}"),
            &["e1.1: it is reserved by", &holder, "--force"],
        )?;
    }
    ensure!(error()? == 0, "the holder may read");
    let info = scene.json("info e1.1 -i ini0")?;
    ensure!(info["reservation"] == json!([holder]), "{info:#}");
    let set = scene.text("set e1.1 -i ini0 --release --force")?;
    ensure!(set == "reserved by  nobody\n", "{set}");
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn set_reserves_and_releases_our_target() -> Result<()> {
    reservations(Maker::Aoede)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn set_reserves_and_releases_vblade() -> Result<()> {
    reservations(Maker::Vblade)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_wrong_is_said_with_its_remedy() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    scene.host.veth("tgt1", &scene.initiator, "ini1", 1500)?;
    for command in ["info e1.1", "probe e1.1", "set e1.1 --release", "discover"] {
        scene.fails(
            &format!("{command} -i ini9"),
            &["there is no interface ini9; there is ini0, ini1"],
        )?;
        scene.fails(
            &format!("{command} -i lo"),
            &["lo is no Ethernet interface"],
        )?;
        scene.fails(&format!("{command} -i ini0,ini0"), &["ini0 is named twice"])?;
    }
    scene.fails(
        "info e1.2 -i ini0,ini1 --timeout 300ms",
        &[
            "e1.2 does not answer on ini0 or ini1 within 300ms",
            "aoede discover -i ini0,ini1 lists who is there",
        ],
    )?;
    scene.initiator.ip("link set ini1 down")?;
    scene.fails(
        "info e1.1 -i ini1 --timeout 300ms",
        &[
            "ini1 is down: nothing passes",
            "within 300ms; ini1 is down (ip link set ini1 up)",
        ],
    )?;
    // One that is down does not keep from using the other.
    let both = scene.json("info e1.1 -i ini0,ini1")?;
    ensure!(
        both["paths"]
            .as_array()
            .is_some_and(|paths| paths.len() == 1)
    );

    let program = public_copy(&scene.folder)?;
    for line in ["info e1.1 -i ini0", "discover -i ini0"] {
        let mut command = as_nobody(&["--inh-caps=-all"], &program)?;
        command.args(line.split_whitespace());
        let refused = run(Some(&scene.initiator), command, SOON)?;
        ensure!(refused.code == 1, "{refused:?}");
        ensure!(
            refused.stderr.contains("setcap cap_net_raw+ep") && refused.stderr.contains("ini0"),
            "{refused:?}"
        );
    }
    for line in ["info e1 -i ini0", "info e1.1", "set e1.1 -i ini0"] {
        let usage = scene.aoede(line)?;
        ensure!(usage.code == 2, "{line}: {usage:?}");
    }
    Ok(())
}

/// An interface that comes up while the command waits is as good as one that was up.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_interface_that_is_down_is_waited_for() -> Result<()> {
    let scene = Scene::new(Maker::Aoede)?;
    scene.initiator.ip("link set ini0 down")?;
    let mut command = Command::new(aoede_binary()?);
    command.args(["info", "e1.1", "-i", "ini0", "--timeout", "15s", "--json"]);
    let mut info = Process::spawn_split("aoede info", Some(&scene.initiator), command)?;
    info.stderr.wait_for("ini0 is down", SOON)?;
    scene.initiator.ip("link set ini0 up")?;
    ensure!(info.wait(SOON)?.success());
    let told: Value = serde_json::from_str(&info.stdout.text())?;
    ensure!(told["size_sectors"] == SECTORS, "{told:#}");
    Ok(())
}
