//! `aoede attach`: other people's NBD clients use an AoE disk.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Attachment, Export, Finished, Guest, GuestOptions, Maker, Namespace, Packages, Process, Random,
    Scratch, TargetProcess, run, succeed, wait_until,
};
use serde_json::{Value, json};

const MIB: u64 = 1 << 20;
const DISK: u64 = 64 * MIB;
/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(120);

/// A file, a target that serves it, and its disk attached on another host.
struct Scene {
    attachment: Attachment,
    target: TargetProcess,
    export: Export,
    target_host: Namespace,
    initiator_host: Namespace,
    image: PathBuf,
    folder: Scratch,
}

impl Scene {
    fn new() -> Result<Self> {
        Self::with(&[], &[])
    }

    /// With further arguments of the target and of the attachment.
    fn with(of_target: &[&str], of_attachment: &[&str]) -> Result<Self> {
        let (target_host, initiator_host) = Namespace::pair(9000)?;
        let folder = Scratch::new()?;
        let image = folder.image("disk.img", DISK)?;
        let export = Export::new(&image, "tgt0").with(of_target);
        let target = export.start(&target_host, Maker::Aoede)?;
        let socket = folder.join("nbd");
        let attachment = Attachment::start(&initiator_host, "ini0", &socket, of_attachment)?;
        Ok(Self {
            attachment,
            target,
            export,
            target_host,
            initiator_host,
            image,
            folder,
        })
    }

    fn uri(&self) -> &str {
        self.attachment.uri()
    }

    /// Runs a client to its end.
    fn client<S: AsRef<OsStr>>(&self, program: &str, arguments: &[S]) -> Result<String> {
        let mut command = Packages::open()?.command(program)?;
        command.args(arguments);
        succeed(Some(&self.initiator_host), command, SOON)
    }

    /// Runs commands of qemu-io, which fails when one of them does.
    fn qemu_io(&self, commands: &[&str]) -> Result<Finished> {
        let mut command = Packages::open()?.command("qemu-io")?;
        command.args(["-f", "raw"]);
        for one in commands {
            command.args(["-c", one]);
        }
        command.arg(self.uri());
        run(Some(&self.initiator_host), command, SOON)
    }

    fn qemu_io_succeeds(&self, commands: &[&str]) -> Result<String> {
        let finished = self.qemu_io(commands)?;
        ensure!(
            finished.code == 0,
            "{commands:?}: {}{}",
            finished.stdout,
            finished.stderr
        );
        Ok(finished.stdout)
    }

    /// The attachment ends well, and what it was given is in the image.
    fn stop(self) -> Result<(PathBuf, Scratch)> {
        let socket = self.attachment.socket().to_owned();
        let status = self.attachment.stop()?;
        ensure!(status.success(), "the attachment ended with {status}");
        ensure!(!socket.exists(), "the socket is still there");
        self.target.stop()?;
        Ok((self.image, self.folder))
    }
}

/// A file as large as the disk: data at random, holes, and zeros that are no holes.
fn source(folder: &Scratch) -> Result<PathBuf> {
    let path = folder.image("source", DISK)?;
    let file = fs::OpenOptions::new().write(true).open(&path)?;
    let mut random = Random::new(0x5EED);
    for at in [0, 3 * MIB + 512, 17 * MIB, DISK - 2 * MIB] {
        let count = usize::try_from(MIB)? + 4096 * random.below(200);
        file.write_all_at(&random.bytes(count), at)?;
    }
    file.write_all_at(&vec![0; 2 << 20], 30 * MIB)?;
    Ok(path)
}

fn same(one: &Path, other: &Path) -> Result<()> {
    let (one_bytes, other_bytes) = (fs::read(one)?, fs::read(other)?);
    ensure!(
        one_bytes.len() == other_bytes.len(),
        "{} and {} bytes",
        one_bytes.len(),
        other_bytes.len()
    );
    let differs = one_bytes.iter().zip(&other_bytes).position(|(a, b)| a != b);
    ensure!(
        differs.is_none(),
        "{} and {} differ at {differs:?}",
        one.display(),
        other.display()
    );
    Ok(())
}

/// A fio run that writes, reads back what it wrote, and fails when a byte differs: four clients,
/// each on a quarter of the disk.
fn fio(uri: &str, arguments: &[&str]) -> Result<std::process::Command> {
    let mut command = Packages::open()?.command("fio")?;
    command.args(["--name=verify", "--ioengine=nbd", "--iodepth=16"]);
    command.args(["--numjobs=4", "--offset_increment=16M", "--group_reporting"]);
    command.args([
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
    ]);
    command.arg(format!("--uri={uri}")).args(arguments);
    Ok(command)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn nbdinfo_shows_size_and_abilities() -> Result<()> {
    let scene = Scene::with(&[], &["--export-name", "disk 1"])?;
    let socket = scene.attachment.socket().display().to_string();
    ensure!(
        scene.uri() == format!("nbd+unix:///disk%201?socket={socket}"),
        "the URI is {}",
        scene.uri()
    );
    let default = format!("nbd+unix:///?socket={socket}");
    for uri in [scene.uri(), &default] {
        let size = scene.client("nbdinfo", &["--size", uri])?;
        ensure!(size.trim() == DISK.to_string(), "size {size}");
        let text = scene.client("nbdinfo", &["--json", uri])?;
        for fact in [
            "\"protocol\": \"newstyle-fixed\"",
            "\"structured\": true",
            "\"is_read_only\": false",
            "\"can_flush\": true",
            "\"can_fua\": true",
            "\"can_multi_conn\": true",
            "\"can_trim\": true",
            "\"can_zero\": true",
            "\"can_fast_zero\": true",
            "\"can_df\": true",
            "\"can_cache\": false",
            "\"block_size_minimum\": 512",
            "\"block_size_preferred\": 4096",
            "\"block_size_maximum\": 33554432",
        ] {
            ensure!(text.contains(fact), "no {fact} in {text}");
        }
    }
    let list = scene.client("nbdinfo", &["--list", &default])?;
    ensure!(list.contains("export=\"disk 1\":"), "the list is {list}");
    let mut wrong = Packages::open()?.command("nbdinfo")?;
    wrong.arg(format!("nbd+unix:///other?socket={socket}"));
    let wrong = run(Some(&scene.initiator_host), wrong, SOON)?;
    ensure!(
        wrong.code != 0 && wrong.stderr.contains("for export: other"),
        "another name: {wrong:?}"
    );
    scene.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn nbdcopy_copies_both_ways() -> Result<()> {
    let scene = Scene::new()?;
    let source = source(&scene.folder)?;
    let back = scene.folder.join("back");
    let arguments = [source.as_os_str(), scene.uri().as_ref()];
    scene.client(
        "nbdcopy",
        &[&[OsStr::new("--flush")], &arguments[..]].concat(),
    )?;
    scene.client("nbdcopy", &[scene.uri().as_ref(), back.as_os_str()])?;
    same(&source, &back)?;
    let (image, _folder) = scene.stop()?;
    same(&source, &image)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn qemu_img_converts_both_ways() -> Result<()> {
    let scene = Scene::new()?;
    // What was there before must go, also where the source has holes.
    scene.qemu_io_succeeds(&["write -P 0xa5 0 64M"])?;
    let source = source(&scene.folder)?.display().to_string();
    let convert = ["convert", "-f", "raw", "-O", "raw", "-n", "-W"];
    scene.client(
        "qemu-img",
        &[&convert[..], &[&source, scene.uri()]].concat(),
    )?;
    let compare = ["compare", "-f", "raw", "-F", "raw"];
    scene.client(
        "qemu-img",
        &[&compare[..], &[&source, scene.uri()]].concat(),
    )?;
    let back = scene.folder.join("back.qcow2").display().to_string();
    let convert = ["convert", "-f", "raw", "-O", "qcow2"];
    scene.client("qemu-img", &[&convert[..], &[scene.uri(), &back]].concat())?;
    let compare = ["compare", "-f", "raw", "-F", "qcow2"];
    scene.client("qemu-img", &[&compare[..], &[&source, &back]].concat())?;
    let (image, _folder) = scene.stop()?;
    same(Path::new(&source), &image)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn fio_reads_back_what_it_wrote_by_four_connections() -> Result<()> {
    let scene = Scene::new()?;
    for arguments in [
        &["--rw=randrw", "--bs=4k", "--size=4M"][..],
        &["--rw=write", "--bs=1M", "--size=16M"],
        &[
            "--rw=randwrite",
            "--bsrange=512-64k",
            "--bs_unaligned=0",
            "--blockalign=512",
            "--size=4M",
        ],
        &["--rw=randwrite", "--bs=16k", "--size=4M", "--fsync=16"],
    ] {
        succeed(
            Some(&scene.initiator_host),
            fio(scene.uri(), arguments)?,
            SOON,
        )?;
    }
    scene.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn qemu_io_flushes_discards_and_writes_zeros() -> Result<()> {
    let scene = Scene::new()?;
    let blocks = || fs::metadata(&scene.image).map(|about| about.blocks());
    scene.qemu_io_succeeds(&["write -P 0x11 0 8M", "flush", "write -f -P 0x22 8M 1M"])?;
    let full = blocks()?;
    // Zeros with and without leave to make holes, and through requests of no whole sectors.
    scene.qemu_io_succeeds(&[
        "write -z 1M 1M",
        "write -z -u 2M 1M",
        "write -z -f 5000000 1001",
        "write -P 0x33 6000001 3",
        "discard 4M 512k",
        "flush",
    ])?;
    scene.qemu_io_succeeds(&[
        "read -P 0x11 0 1M",
        "read -P 0 1M 2M",
        "read -P 0x11 3M 1M",
        "read -P 0x11 4999999 1",
        "read -P 0 5000000 1001",
        "read -P 0x11 5001001 999000",
        "read -P 0x33 6000001 3",
        "read -P 0x22 8M 1M",
        "read -P 0 9M 1M",
    ])?;
    // A discard, or zeros that may be holes, give room back: 512 KiB at least.
    let now = blocks()?;
    ensure!(now + 1024 <= full, "{full} blocks before, {now} after");
    scene.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn what_is_read_only_is_not_written() -> Result<()> {
    let scene = Scene::with(&[], &["--read-only"])?;
    let text = scene.client("nbdinfo", &["--json", scene.uri()])?;
    ensure!(text.contains("\"is_read_only\": true"), "{text}");
    scene.stop()?;
    // The target refuses, which is known when it does.
    let scene = Scene::with(&["--read-only"], &[])?;
    let finished = scene.qemu_io(&["read -P 0 0 4k", "write 0 4k"])?;
    let text = finished.stdout + &finished.stderr;
    ensure!(
        finished.code != 0
            && text.contains("read 4096/4096")
            && text.contains("write failed: Operation not permitted"),
        "{text}"
    );
    // Nothing was written, and yet there is something to flush: that works.
    scene.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_restarted_target_costs_a_load_no_error() -> Result<()> {
    let scene = Scene::new()?;
    let arguments = ["--rw=randrw", "--bs=16k", "--size=16M", "--rate_iops=200"];
    let mut load = Process::spawn(
        "fio",
        Some(&scene.initiator_host),
        fio(scene.uri(), &arguments)?,
    )?;
    // Some of it is written, then the target is away for a while.
    let blocks = || Ok(fs::metadata(&scene.image)?.blocks() > 2048);
    wait_until("the load has begun", SOON, blocks)?;
    scene.target.kill()?;
    thread::sleep(Duration::from_secs(3));
    ensure!(load.is_running(), "the load ended before the outage did");
    let target = scene.export.start(&scene.target_host, Maker::Aoede)?;
    let status = load.wait(SOON)?;
    ensure!(status.success(), "fio ended with {status}");
    let status = scene.attachment.stop()?;
    ensure!(status.success(), "the attachment ended with {status}");
    target.stop().map(drop)
}

/// Each of two cables is pulled in turn and put back, while a load runs that checks its data.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_path_of_two_that_fails_costs_a_load_no_error() -> Result<()> {
    let (target_host, initiator_host) = Namespace::pair(9000)?;
    target_host.veth("tgt1", &initiator_host, "ini1", 9000)?;
    let folder = Scratch::new()?;
    let image = folder.image("disk.img", DISK)?;
    let export = Export::new(&image, "tgt0").and_on("tgt1");
    let target = export.start(&target_host, Maker::Aoede)?;
    let socket = folder.join("nbd");
    let attachment = Attachment::start(&initiator_host, "ini0,ini1", &socket, &[])?;
    let arguments = ["--rw=randrw", "--bs=16k", "--size=16M", "--rate_iops=100"];
    let command = fio(attachment.uri(), &arguments)?;
    let mut load = Process::spawn("fio", Some(&initiator_host), command)?;
    let received = |interface: &str| -> Result<u64> {
        let text = initiator_host.ip(&format!("-s -j link show dev {interface}"))?;
        let told: Value = serde_json::from_str(&text)?;
        let frames = &told[0]["stats64"]["rx"]["packets"];
        frames.as_u64().with_context(|| text.clone())
    };
    let goes_on_by = |interface: &str| -> Result<()> {
        let enough = received(interface)? + 100;
        let goes_on = || Ok(received(interface)? > enough);
        wait_until("the load goes on", SOON, goes_on).map(drop)
    };
    for (cut, other) in [("tgt0", "ini1"), ("tgt1", "ini0")] {
        goes_on_by(other)?;
        target_host.ip(&format!("link set {cut} down"))?;
        goes_on_by(other)?;
        target_host.ip(&format!("link set {cut} up"))?;
        goes_on_by(&cut.replace("tgt", "ini"))?;
    }
    ensure!(load.is_running(), "the load ended too early");
    let status = load.wait(SOON)?;
    ensure!(status.success(), "fio ended with {status}");
    ensure!(attachment.stop()?.success(), "the attachment fails");
    target.stop().map(drop)
}

/// docs/durability.md, "A target that restarts": what fio wrote is gone, and the flush that a client
/// asks for afterwards must not succeed.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_flush_tells_of_a_write_cache_that_was_lost() -> Result<()> {
    let cached = ["--cache", "writeback", "--dirty-age", "60s"];
    let mut scene = Scene::with(&cached, &[])?;
    scene.qemu_io_succeeds(&["write -P 0x11 0 64k", "flush"])?;
    // fio flushes only when it is told to; qemu-io does when it ends.
    let mut command = Packages::open()?.command("fio")?;
    command.args(["--name=write", "--ioengine=nbd", "--rw=write", "--bs=64k"]);
    command.args(["--size=1M", "--offset=1M"]);
    command.arg(format!("--uri={}", scene.uri()));
    succeed(Some(&scene.initiator_host), command, SOON)?;
    scene.target.kill()?;
    let image = fs::File::open(&scene.image)?;
    let mut written = vec![0; 1 << 20];
    image.read_exact_at(&mut written, MIB)?;
    ensure!(
        written.iter().all(|&byte| byte == 0),
        "nothing was lost that a flush could tell of"
    );
    scene.target = scene.export.start(&scene.target_host, Maker::Aoede)?;
    let finished = scene.qemu_io(&["flush"])?;
    ensure!(
        finished.code != 0,
        "the flush succeeds: {}{}",
        finished.stdout,
        finished.stderr
    );
    ensure!(
        scene.attachment.log().text().contains("was restarted"),
        "it does not say why: {}",
        scene.attachment.log().text()
    );
    scene.qemu_io_succeeds(&["read -P 0x11 0 64k", "write -P 0x22 0 64k", "flush"])?;
    scene.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_that_stays_away_is_an_error_and_then_forgotten() -> Result<()> {
    let scene = Scene::with(&[], &["--give-up", "1s"])?;
    scene.qemu_io_succeeds(&["write -P 0x44 0 64k", "flush"])?;
    scene.target.kill()?;
    let mut command = Packages::open()?.command("qemu-io")?;
    command.args(["-f", "raw", "-r", "-c", "read 0 4k", scene.attachment.uri()]);
    let finished = run(Some(&scene.initiator_host), command, SOON)?;
    let text = finished.stdout + &finished.stderr;
    ensure!(
        finished.code != 0 && text.contains("Input/output error"),
        "{text}"
    );
    ensure!(
        scene
            .attachment
            .log()
            .text()
            .contains("silent for too long"),
        "it does not say why"
    );
    let target = scene.export.start(&scene.target_host, Maker::Aoede)?;
    let mut command = Packages::open()?.command("qemu-io")?;
    command.args([
        "-f",
        "raw",
        "-c",
        "read -P 0x44 0 64k",
        scene.attachment.uri(),
    ]);
    succeed(Some(&scene.initiator_host), command, SOON)?;
    let status = scene.attachment.stop()?;
    ensure!(status.success(), "the attachment ended with {status}");
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_dead_ones_socket_is_replaced_and_a_live_ones_is_not() -> Result<()> {
    let scene = Scene::new()?;
    let socket = scene.attachment.socket().to_owned();
    let mode = |path: &Path| fs::symlink_metadata(path).map(|about| about.mode() & 0o777);
    ensure!(mode(&socket)? == 0o600, "mode {:o}", mode(&socket)?);
    let finished = Attachment::fail(&scene.initiator_host, "ini0", &socket, &[])?;
    ensure!(
        finished.code == 1 && finished.stderr.contains("another server is listening at"),
        "{finished:?}"
    );
    scene.attachment.kill()?;
    ensure!(socket.exists(), "a killed process cannot remove it");
    let arguments = ["--json", "--socket-mode", "0666", "--read-only"];
    let attachment = Attachment::start(&scene.initiator_host, "ini0", &socket, &arguments)?;
    ensure!(mode(&socket)? == 0o666, "mode {:o}", mode(&socket)?);
    // One line, since it was waited for one only.
    let facts: Value = serde_json::from_str(attachment.ready())?;
    let path = socket.display().to_string();
    let expected = json!({
        "address": "e1.1",
        "uri": format!("nbd+unix:///?socket={path}"),
        "socket": path,
        "export_name": "",
        "size_bytes": DISK,
        "read_only": true,
    });
    ensure!(facts == expected, "{facts}");
    let file = scene.folder.join("file");
    fs::write(&file, "precious")?;
    let finished = Attachment::fail(&scene.initiator_host, "ini0", &file, &[])?;
    ensure!(
        finished.code == 1 && finished.stderr.contains("is no socket"),
        "{finished:?}"
    );
    ensure!(fs::read(&file)? == b"precious");
    let status = attachment.stop()?;
    ensure!(status.success(), "the attachment ended with {status}");
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_virtual_machine_has_its_file_system_on_it() -> Result<()> {
    let scene = Scene::new()?;
    let options = GuestOptions {
        taps: &[],
        nbd_socket: Some(scene.attachment.socket()),
        ..GuestOptions::default()
    };
    let mut guest = Guest::boot(&scene.initiator_host, options)?;
    let size = guest.run("cat /sys/block/vda/size", SOON)?;
    ensure!(size.trim() == (DISK / 512).to_string(), "{size} sectors");
    guest.run(
        "mkfs.ext4 -q -F /dev/vda && mount -t ext4 /dev/vda /mnt",
        SOON,
    )?;
    guest.run(
        "cd /mnt && for i in $(seq 100); do head -c $((i * 1331)) /dev/urandom > file$i; done && \
         sha256sum file* > /tmp/sums && sync && rm file7 && cd / && fstrim /mnt; umount /mnt",
        SOON,
    )?;
    let sums = guest.run(
        "echo 3 > /proc/sys/vm/drop_caches && mount -t ext4 /dev/vda /mnt && cd /mnt && \
         grep -v 'file7$' /tmp/sums | sha256sum -c",
        SOON,
    )?;
    let good = sums.lines().filter(|line| line.ends_with(": OK")).count();
    ensure!(good == 99, "{good} of 99 files are unchanged:\n{sums}");
    guest.run("cd / && umount /mnt && fsck.ext4 -f -n /dev/vda", SOON)?;
    drop(guest);
    let (image, _folder) = scene.stop()?;
    let mut check = Packages::open()?.command("e2fsck")?;
    check.args(["-f", "-n"]).arg(&image);
    succeed(None, check, SOON)
        .context("the image is not clean")
        .map(drop)
}
