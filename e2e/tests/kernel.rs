//! The Linux kernel's own AoE driver, in an emulated machine, as the initiator.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Export, Guest, GuestOptions, Job, Maker, Namespace, Packages, Scratch, TargetProcess, succeed,
    wait_until,
};

const MIB: u64 = 1 << 20;
const DISK: &str = "/dev/etherd/e1.1";
/// For anything that takes seconds on an idle machine.
const SOON: Duration = Duration::from_secs(120);
/// The driver gives a silent disk up after 180 s.
const LONG: Duration = Duration::from_secs(240);

/// Frames on a path that only a load explains.
const PATH_USED: u64 = 50;

/// A file, a host, a target that serves the file there on a tap, and a guest at the tap.
struct Scene {
    guest: Guest,
    target: TargetProcess,
    export: Export,
    host: Namespace,
    image: PathBuf,
    _folder: Scratch,
}

impl Scene {
    fn new(len_bytes: u64) -> Result<Self> {
        let (folder, host) = (Scratch::new()?, Namespace::new()?);
        let image = folder.image("disk.img", len_bytes)?;
        host.tap("tap0", 9000)?;
        let export = Export::new(&image, "tap0");
        let target = export.start(&host, Maker::under_test())?;
        let mut guest = Guest::boot(&host, GuestOptions::default())?;
        guest.wait_for_disk("e1.1", SOON)?;
        Ok(Self {
            guest,
            target,
            export,
            host,
            image,
            _folder: folder,
        })
    }
}

/// A fio run that writes, reads back what it wrote, and fails when a byte differs.
fn fio(arguments: &str) -> String {
    format!(
        "fio --name=verify --filename={DISK} --ioengine=io_uring --direct=1 --iodepth=16 --verify=crc32c \
         --verify_fatal=1 --verify_state_save=0 --group_reporting {arguments}"
    )
}

/// Verified writing all over the disk, some 15 s long. Every block is written once, so that a copy
/// of a request that a lost path delivers late does no harm: the driver gives each retransmission a
/// new tag, and no target can tell.
fn fio_load() -> String {
    fio("--rw=randwrite --bs=16k --size=64M --rate_iops=300 --verify_backlog=256")
}

/// Reads once more all that [`fio_load`] wrote.
fn fio_verify() -> String {
    fio("--rw=randwrite --bs=16k --size=64M --verify_only")
}

/// Waits until the driver has completed `more` writes beyond those of now, while `load` goes on.
fn wait_for_writes(guest: &mut Guest, load: &Job, more: u64) -> Result<Duration> {
    let writes = |guest: &mut Guest| -> Result<u64> {
        let text = guest.run("awk '{ print $5 }' '/sys/block/etherd!e1.1/stat'", SOON)?;
        Ok(text.trim().parse()?)
    };
    let before = writes(guest)?;
    wait_until("the load goes on", LONG, || {
        if writes(guest)? >= before + more {
            return Ok(true);
        }
        ensure!(
            !guest.has_ended(load),
            "the load has ended: {}",
            guest.finish(load, SOON)?.stdout
        );
        Ok(false)
    })
}

/// Frames that the guest has sent through a tap.
fn frames_from_guest(host: &Namespace, tap: &str) -> Result<u64> {
    let table = host.enter(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?))?;
    let received = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(tap)?.strip_prefix(':'))
        .with_context(|| format!("no {tap} in:\n{table}"))?;
    let frames = received.split_whitespace().nth(1).context("no counter")?;
    Ok(frames.parse()?)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_driver_finds_the_disk_with_its_size_and_jumbo_payload() -> Result<()> {
    let mut scene = Scene::new(64 * MIB)?;
    let size: u64 = scene.guest.disk("e1.1", "size")?.parse()?;
    ensure!(size == 64 * MIB / 512, "{size} sectors");
    let payload = scene.guest.disk("e1.1", "payload")?;
    ensure!(payload == "8704", "payload {payload} at MTU 9000");
    let stat = scene.guest.run("sh /sbin/aoe-stat", SOON)?;
    let words: Vec<&str> = stat.split_whitespace().collect();
    ensure!(
        words == ["e1.1", "0.067GB", "eth0", "8704", "up"],
        "aoe-stat says {stat}"
    );
    ensure!(scene.target.is_running(), "the target has died");
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_file_system_keeps_its_files_and_is_clean_on_both_sides() -> Result<()> {
    let mut scene = Scene::new(128 * MIB)?;
    let guest = &mut scene.guest;
    guest.run(
        &format!("mkfs.ext4 -q -F {DISK} && mount -t ext4 {DISK} /mnt"),
        SOON,
    )?;
    guest.run(
        "cd /mnt && for i in $(seq 200); do \
           head -c $((i * 331)) /dev/urandom > file$i; done && sha256sum file* > /tmp/sums && cd / && umount /mnt",
        SOON,
    )?;
    let sums = guest.run(
        &format!("mount -t ext4 {DISK} /mnt && cd /mnt && sha256sum -c /tmp/sums"),
        SOON,
    )?;
    let good = sums.lines().filter(|line| line.ends_with(": OK")).count();
    ensure!(good == 200, "{good} of 200 files are unchanged:\n{sums}");
    guest.run(
        &format!("cd / && umount /mnt && fsck.ext4 -f -n {DISK}"),
        SOON,
    )?;
    scene.target.stop()?;
    let mut check = Packages::open()?.command("e2fsck")?;
    check.args(["-f", "-n"]).arg(&scene.image);
    succeed(None, check, SOON).map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn fio_reads_back_what_it_wrote_in_all_sizes_and_orders() -> Result<()> {
    let mut scene = Scene::new(64 * MIB)?;
    for arguments in [
        "--rw=randwrite --bs=4k --size=8M",
        "--rw=write --bs=4k --size=8M --offset=8M",
        "--rw=randwrite --bs=64k --size=32M",
        "--rw=write --bs=1M --size=64M",
        "--rw=randrw --bsrange=4k-1M --bs_unaligned=0 --size=48M --offset=4k",
        "--rw=randwrite --bs=512 --size=512k --offset=1536",
    ] {
        scene.guest.run(&fio(arguments), SOON)?;
    }
    scene.target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_target_killed_and_restarted_under_load_costs_no_error() -> Result<()> {
    let mut scene = Scene::new(64 * MIB)?;
    let load = scene.guest.start(&fio_load())?;
    wait_for_writes(&mut scene.guest, &load, 500)?;
    scene.target.kill()?;
    // The outage itself: long enough for every outstanding request to time out.
    thread::sleep(Duration::from_secs(3));
    ensure!(
        !scene.guest.has_ended(&load),
        "the load ended before the outage did"
    );
    let target = scene.export.start(&scene.host, Maker::under_test())?;
    let stall = wait_for_writes(&mut scene.guest, &load, 100)?;
    println!("the first 100 writes came {stall:.1?} after the restart");
    scene.guest.succeed(load, LONG)?;
    scene.guest.run(&fio_verify(), SOON)?;
    target.stop().map(drop)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn one_of_two_paths_goes_down_under_load_and_comes_back() -> Result<()> {
    let (folder, host) = (Scratch::new()?, Namespace::new()?);
    let image = folder.image("disk.img", 64 * MIB)?;
    host.tap("tap0", 9000)?;
    host.tap("tap1", 9000)?;
    let target = Export::new(&image, "tap0")
        .and_on("tap1")
        .start(&host, Maker::under_test())?;
    let mut guest = Guest::boot(
        &host,
        GuestOptions {
            taps: &["tap0", "tap1"],
            ..GuestOptions::default()
        },
    )?;
    guest.wait_for_disk("e1.1", SOON)?;
    guest.wait_until("grep -q eth0 '/sys/block/etherd!e1.1/netif' && grep -q eth1 '/sys/block/etherd!e1.1/netif'", SOON)?;
    let paths = guest.run("cat /sys/kernel/debug/aoe/e1.1", SOON)?;
    for interface in ["tap0", "tap1"] {
        let mac = host
            .mac(interface)?
            .map(|byte| format!("{byte:02x}"))
            .concat();
        ensure!(
            paths.contains(&mac),
            "the driver has no path to {interface} ({mac}):\n{paths}"
        );
    }
    let idle = frames_from_guest(&host, "tap1")?;
    let load = guest.start(&fio_load())?;
    wait_for_writes(&mut guest, &load, 300)?;
    let before = frames_from_guest(&host, "tap1")?;
    ensure!(
        before >= idle + PATH_USED,
        "the second path is not used: {idle} frames before the load, {before} under it"
    );
    host.ip("link set tap1 down")?;
    let stall = wait_for_writes(&mut guest, &load, 300)?;
    println!("the first 300 writes came {stall:.1?} after the loss of the path");
    let down = frames_from_guest(&host, "tap1")?;
    host.ip("link set tap1 up")?;
    if Maker::under_test() == Maker::Aoede {
        let back = wait_until("the second path is used again", LONG, || {
            let used = frames_from_guest(&host, "tap1")? >= down + PATH_USED;
            ensure!(
                used || !guest.has_ended(&load),
                "the load ended before the path was used again"
            );
            Ok(used)
        })?;
        println!("the second path was in use {back:.1?} after it came back");
    }
    guest.succeed(load, LONG)?;
    guest.run(&fio_verify(), SOON)?;
    if Maker::under_test() == Maker::Aoede {
        target.stop()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_guest_started_first_finds_the_disk_by_the_announcement() -> Result<()> {
    let (folder, host) = (Scratch::new()?, Namespace::new()?);
    let image = folder.image("disk.img", MIB)?;
    host.tap("tap0", 9000)?;
    let mut guest = Guest::boot(&host, GuestOptions::default())?;
    // The driver asks when it is loaded and every 60 s from then on. Let it hear nothing first.
    guest.run(
        "[ -d /sys/module/aoe ] && [ ! -e '/sys/block/etherd!e1.1' ]",
        SOON,
    )?;
    let started = Instant::now();
    let target = Export::new(&image, "tap0").start(&host, Maker::under_test())?;
    guest.wait_for_disk("e1.1", Duration::from_secs(30))?;
    println!(
        "found {:.1?} after the target was started",
        started.elapsed()
    );
    ensure!(
        started.elapsed() < Duration::from_secs(30),
        "found only after {:?}",
        started.elapsed()
    );
    target.stop().map(drop)
}
