//! What may be exported, what may not, and what the operator is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use aoede_disk::{
    BlockingEngine, Engine, IoMode, OpenError, OpenOptions, OpenWarning, Stability, Windows, open,
    open_among,
};
use common::{LoopDevice, Mount, create, folders};

const PLAIN: OpenOptions = OpenOptions {
    read_only: false,
    io: IoMode::Direct,
    offset_sectors: 0,
    length_sectors: None,
    create_bytes: None,
    lock_patience: std::time::Duration::ZERO,
};
const READ_ONLY: OpenOptions = OpenOptions {
    read_only: true,
    ..PLAIN
};

/// The message, with the folder taken out.
fn refusal(path: &Path, options: &OpenOptions) -> String {
    let error = open(path, options).expect_err("it is not to be opened");
    let folder = format!("{}/", path.parent().unwrap().display());
    error.to_string().replace(&folder, "")
}

fn sparse(path: &Path, bytes: u64) {
    File::create(path).unwrap().set_len(bytes).unwrap();
}

#[test]
fn refusals_name_the_file_the_trouble_and_the_remedy() {
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    assert_eq!(
        refusal(&path, &PLAIN),
        "disk.img: no such file; check the path, or make a disk with --create SIZE"
    );
    fs::create_dir(&path).unwrap();
    assert_eq!(
        refusal(&path, &PLAIN),
        "disk.img is a directory; name a file or block device in it"
    );
    fs::remove_dir(&path).unwrap();
    symlink("/dev/null", &path).unwrap();
    assert_eq!(
        refusal(&path, &PLAIN),
        "disk.img is neither a regular file nor a block device"
    );
    fs::remove_file(&path).unwrap();
    sparse(&path, 511);
    assert_eq!(
        refusal(&path, &PLAIN),
        "disk.img is empty: a disk needs at least one sector of 512 bytes; remove the file and make a disk with --create SIZE"
    );
    sparse(&path, 8192);
    assert_eq!(
        refusal(
            &path,
            &OpenOptions {
                offset_sectors: 16,
                ..PLAIN
            }
        ),
        "disk.img: --offset 16 is beyond the end, the file has 16 sectors"
    );
    for length in [0, 13, u64::MAX] {
        let options = OpenOptions {
            offset_sectors: 4,
            length_sectors: Some(length),
            ..PLAIN
        };
        assert_eq!(
            refusal(&path, &options),
            format!(
                "disk.img: --length {length} does not fit, there are 12 sectors from the offset on"
            )
        );
    }
    let offset = OpenOptions {
        offset_sectors: u64::MAX,
        ..PLAIN
    };
    assert!(matches!(
        open(&path, &offset),
        Err(OpenError::OffsetBeyondEnd { .. })
    ));
}

#[test]
fn a_tail_is_left_out_with_a_warning() {
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    sparse(&path, 8192 + 100);
    let backing = open(&path, &PLAIN).unwrap();
    assert_eq!(backing.sectors, 16);
    assert_eq!(
        backing.warnings,
        [OpenWarning::TailLeftOut { tail_bytes: 100 }]
    );
    assert_eq!(
        backing.warnings[0].to_string(),
        "the size is not a multiple of 512: the last 100 bytes are left out"
    );
}

#[test]
fn sizes_follow_the_file_within_offset_and_length() {
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    sparse(&path, 100 * 512);
    let options = OpenOptions {
        offset_sectors: 10,
        ..READ_ONLY
    };
    let all = open(&path, &options).unwrap();
    let part = open(
        &path,
        &OpenOptions {
            length_sectors: Some(50),
            ..options
        },
    )
    .unwrap();
    assert_eq!((all.sectors, all.base_bytes, part.sectors), (90, 5120, 50));
    let resize = |sectors: u64| {
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(sectors * 512)
            .unwrap();
        (
            all.current_sectors().unwrap(),
            part.current_sectors().unwrap(),
        )
    };
    assert_eq!(resize(200), (190, 50));
    assert_eq!(resize(40), (30, 30));
    assert_eq!(resize(5), (0, 0));
}

#[test]
fn create_makes_a_sparse_file_and_never_touches_another() {
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    let wanted = OpenOptions {
        create_bytes: Some(1 << 40),
        ..PLAIN
    };
    let backing = open(&path, &wanted).unwrap();
    assert_eq!(backing.sectors, (1 << 40) / 512);
    drop(backing);
    assert_eq!(
        open(&path, &wanted).unwrap().sectors,
        (1 << 40) / 512,
        "same size: kept"
    );
    let other = OpenOptions {
        create_bytes: Some(4096),
        ..PLAIN
    };
    assert_eq!(
        refusal(&path, &other),
        "disk.img exists and has 1099511627776 bytes, not the 4096 of --create; \
         leave out --create or name another file"
    );
    assert_eq!(fs::metadata(&path).unwrap().len(), 1 << 40);
    for bytes in [0, 1000] {
        let options = OpenOptions {
            create_bytes: Some(bytes),
            ..PLAIN
        };
        let path = folder.path().join("none.img");
        assert!(matches!(
            open(&path, &options),
            Err(OpenError::CreateSize { .. })
        ));
        assert!(!path.exists());
    }
    let path = folder.path().join("huge.img");
    let options = OpenOptions {
        create_bytes: Some(1 << 62),
        ..PLAIN
    };
    assert!(
        matches!(open(&path, &options), Err(OpenError::Io { .. })),
        "larger than any file"
    );
    assert!(!path.exists(), "nothing is left behind");
}

/// Taken by tests that let a lock go and look whether it is free, and by those that start other
/// programs: between fork and exec a child holds the locks of its parent.
static FORK: Mutex<()> = Mutex::new(());

#[test]
fn one_writer_or_many_readers() {
    let _no_fork = FORK.lock();
    for folder in folders() {
        let path = folder.path().join("disk.img");
        let me = std::process::id();
        let writer = create(&path, 8192, IoMode::Direct);
        let stop =
            format!("disk.img is already exported by process {me} (lock held); stop it first");
        assert_eq!(refusal(&path, &PLAIN), stop);
        assert_eq!(refusal(&path, &READ_ONLY), stop);
        drop(writer);
        let reader = open(&path, &READ_ONLY).unwrap();
        let second = open(&path, &READ_ONLY).unwrap();
        assert_eq!(
            refusal(&path, &PLAIN),
            format!(
                "disk.img is already exported by process {me} (lock held); stop it or use --read-only"
            )
        );
        drop((reader, second));
        open(&path, &PLAIN).unwrap();
    }
}

#[test]
fn a_lock_that_is_let_go_in_time_is_waited_for() {
    let _no_fork = FORK.lock();
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    drop(create(&path, 8192, IoMode::Direct));
    let mut holder = Command::new("flock")
        .arg(&path)
        .args(["sh", "-c", "echo locked; exec sleep 0.3"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = [0; 6];
    let mut out = holder.stdout.take().unwrap();
    std::io::Read::read_exact(&mut out, &mut told).unwrap();
    assert!(matches!(open(&path, &PLAIN), Err(OpenError::Locked { .. })));
    let patient = OpenOptions {
        lock_patience: std::time::Duration::from_secs(60),
        ..PLAIN
    };
    open(&path, &patient).unwrap();
    holder.wait().unwrap();
}

#[test]
fn an_attached_file_stays_locked_until_detached() {
    let _no_fork = FORK.lock();
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    let backing = create(&path, 8192, IoMode::Direct);
    let mut engine: BlockingEngine<Vec<u8>> = BlockingEngine::new(1);
    let file = engine.attach(&backing).unwrap();
    drop(backing);
    assert!(matches!(open(&path, &PLAIN), Err(OpenError::Locked { .. })));
    engine.detach(file);
    open(&path, &PLAIN).unwrap();
}

#[test]
fn qemu_keeps_out_of_our_disks_and_we_out_of_its() {
    let _no_fork = FORK.lock();
    let Ok(version) = Command::new("qemu-io").arg("--version").output() else {
        eprintln!("no qemu-io here");
        return;
    };
    assert!(version.status.success());
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    let qemu = |options: &[&str], commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "raw"]).args(options);
        for each in commands {
            command.args(["-c", each]);
        }
        command.arg(&path).output().unwrap().status.success()
    };
    let writer = create(&path, 8192, IoMode::Direct);
    assert!(!qemu(&[], &["write 0 512"]));
    assert!(!qemu(&["-r"], &["read 0 512"]));
    drop(writer);
    let reader = open(&path, &READ_ONLY).unwrap();
    assert!(!qemu(&[], &["write 0 512"]));
    assert!(qemu(&["-r"], &["read 0 512"]), "two readers get along");
    drop(reader);

    let mut running = Command::new("qemu-io")
        .args(["-f", "raw", "-c", "sleep 20000"])
        .arg(&path)
        .spawn()
        .unwrap();
    let refused = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        open(&path, &READ_ONLY).is_err()
    });
    let writing = open(&path, &PLAIN);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(refused, "a reader notices a QEMU that writes");
    let error = writing.unwrap_err().to_string();
    assert!(
        error.contains("another program (lock held); stop it first"),
        "{error}"
    );
}

#[test]
fn a_file_in_memory_is_buffered_and_says_so() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let path = folder.path().join("disk.img");
    let backing = create(&path, 8192, IoMode::Direct);
    assert!(backing.in_memory && backing.discard && !backing.block_device);
    assert_eq!(backing.io, IoMode::Buffered);
    assert_eq!(backing.warnings, [OpenWarning::NoDirectIo]);
    drop(backing);
    let backing = create(&path, 8192, IoMode::Uncached);
    assert_eq!(backing.io, IoMode::Buffered);
    assert_eq!(backing.warnings, [OpenWarning::NoUncachedIo]);
    assert_eq!(
        backing.warnings[0].to_string(),
        "the kernel or the file system has no uncached I/O (Linux 6.14, XFS or ext4): \
         using buffered I/O"
    );
}

#[test]
fn permissions_are_told_apart() {
    if rustix::process::geteuid().is_root() {
        eprintln!("nothing is forbidden to root");
        return;
    }
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    sparse(&path, 8192);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    assert_eq!(
        refusal(&path, &PLAIN),
        "disk.img may only be read; use --read-only or change its permissions"
    );
    open(&path, &READ_ONLY).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert!(matches!(
        open(&path, &READ_ONLY),
        Err(OpenError::PermissionDenied { .. })
    ));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_immutable_file_can_only_be_read() {
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    sparse(&path, 8192);
    let chattr = |flag: &str| Command::new("chattr").arg(flag).arg(&path).status();
    if !chattr("+i").is_ok_and(|status| status.success()) {
        eprintln!("no immutable files here");
        return;
    }
    let writable = open(&path, &PLAIN);
    let readable = open(&path, &READ_ONLY);
    assert!(chattr("-i").unwrap().success());
    assert!(
        matches!(writable, Err(OpenError::Immutable { .. })),
        "{writable:?}"
    );
    readable.unwrap();
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_device_in_use_is_refused() {
    let folder = &folders()[0];
    let image = folder.path().join("image");
    sparse(&image, 16 << 20);
    let device = LoopDevice::new(&image, 512);
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&device.path)
        .status()
        .unwrap();
    assert!(made.success());
    let mount = folder.path().join("mount");
    fs::create_dir(&mount).unwrap();
    assert!(
        Command::new("mount")
            .arg(&device.path)
            .arg(&mount)
            .status()
            .unwrap()
            .success()
    );
    let busy = open(&device.path, &PLAIN);
    let shared = open(&device.path, &READ_ONLY);
    assert!(
        Command::new("umount")
            .arg(&mount)
            .status()
            .unwrap()
            .success()
    );
    assert!(matches!(busy, Err(OpenError::Busy { .. })), "{busy:?}");
    shared.unwrap();
    let backing = open(&device.path, &PLAIN).unwrap();
    assert_eq!((backing.sectors, backing.io), (32768, IoMode::Direct));
    assert!(matches!(
        open(&device.path, &PLAIN),
        Err(OpenError::Busy { .. } | OpenError::Locked { .. })
    ));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_device_with_large_sectors_is_served_in_its_blocks() {
    let folder = &folders()[0];
    let image = folder.path().join("image");
    sparse(&image, 1 << 20);
    let device = LoopDevice::new(&image, 4096);
    let facts = |options: &OpenOptions| {
        let backing = open(&device.path, options).unwrap();
        assert_eq!(
            (backing.discard_bytes, backing.alignment.offset),
            (4096, 4096)
        );
        let physical = backing.physical;
        let warning = backing.warnings.first().cloned();
        let place = (physical.bytes, physical.offset_bytes);
        (backing.io, backing.block_bytes, place, warning)
    };
    let found = facts(&PLAIN);
    assert_eq!(found, (IoMode::Direct, 4096, (4096, 0), None));
    let window = |offset_sectors, length| OpenOptions {
        offset_sectors,
        length_sectors: Some(length),
        ..PLAIN
    };
    let found = facts(&window(8, 16));
    assert_eq!(found, (IoMode::Direct, 4096, (4096, 0), None));
    let warning = OpenWarning::StartsInsideBlock { block_bytes: 4096 };
    assert_eq!(
        warning.to_string(),
        "direct I/O works on blocks of 4096 bytes here, and --offset is not a multiple of that: \
         using buffered I/O"
    );
    let found = facts(&window(15, 8));
    assert_eq!(found, (IoMode::Buffered, 512, (4096, 3584), Some(warning)));
    let warning = OpenWarning::EndsInsideBlock { block_bytes: 4096 };
    assert_eq!(
        warning.to_string(),
        "direct I/O works on blocks of 4096 bytes here, and the size is not a multiple of that: \
         using buffered I/O"
    );
    let found = facts(&window(8, 9));
    assert_eq!(found, (IoMode::Buffered, 512, (4096, 0), Some(warning)));

    let uncached = OpenOptions {
        io: IoMode::Uncached,
        ..PLAIN
    };
    match facts(&uncached) {
        (IoMode::Uncached, 512, _, None) => {}
        other => {
            let warning = Some(OpenWarning::NoUncachedIo);
            assert_eq!(other, (IoMode::Buffered, 512, (4096, 0), warning));
        }
    }
    drop(device);

    let device = LoopDevice::new(&image, 512);
    let backing = open(&device.path, &window(15, 9)).unwrap();
    assert_eq!((backing.io, backing.block_bytes), (IoMode::Direct, 512));
    assert_eq!(backing.discard_bytes, 512);
    let physical = backing.physical;
    assert_eq!((physical.bytes, physical.offset_bytes), (512, 0));
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_file_on_large_sectors_is_served_in_whole_blocks() {
    let folder = &folders()[0];
    let image = folder.path().join("image");
    sparse(&image, 16 << 20);
    let device = LoopDevice::new(&image, 4096);
    let made = Command::new("mkfs.ext4")
        .arg("-q")
        .arg(&device.path)
        .status();
    assert!(made.unwrap().success());
    let device = device.path.to_str().unwrap();
    let mount = Mount::new(&[device], &folder.path().join("mount"));
    let path = mount.path.join("disk.img");
    let backing = create(&path, 1 << 20, IoMode::Direct);
    assert_eq!(backing.warnings, []);
    assert_eq!((backing.io, backing.block_bytes), (IoMode::Direct, 4096));
    // A hole in a file may be of any size.
    assert_eq!((backing.discard, backing.discard_bytes), (true, 512));
    // A part of a block at the end is left out when it comes later, and buffered when it is there.
    let file = File::options().write(true).open(&path).unwrap();
    file.set_len((1 << 20) + 4096 + 512).unwrap();
    assert_eq!(backing.current_sectors().unwrap(), 2048 + 8);
    drop((backing, file));
    let backing = open(&path, &PLAIN).unwrap();
    assert_eq!((backing.io, backing.sectors), (IoMode::Buffered, 2048 + 9));
    assert_eq!(backing.block_bytes, 512);
}

/// An ext4 file system in a file in `folder`, mounted.
fn ext4(folder: &Path, options: &str) -> (LoopDevice, Mount) {
    let image = folder.join("image");
    sparse(&image, 16 << 20);
    let device = LoopDevice::new(&image, 512);
    let mut made = Command::new("mkfs.ext4");
    made.arg("-q").arg(&device.path);
    assert!(made.status().unwrap().success());
    let name = device.path.to_str().unwrap();
    let mount = Mount::new(&["-o", options, name], &folder.join("mount"));
    (device, mount)
}

/// The file system takes `O_DIRECT`, and uses the page cache.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_file_that_the_kernel_says_has_no_direct_io_is_buffered() {
    let folder = &folders()[0];
    for (options, io, warnings, stability) in [
        (
            "data=journal",
            IoMode::Buffered,
            vec![OpenWarning::NoDirectIo],
            Stability::Shared,
        ),
        ("data=ordered", IoMode::Direct, vec![], Stability::Any),
    ] {
        let folder = folder.path().join(options);
        fs::create_dir(&folder).unwrap();
        let (_device, mount) = ext4(&folder, options);
        let backing = create(&mount.path.join("disk.img"), 1 << 20, IoMode::Direct);
        assert_eq!(
            (backing.io, &backing.warnings),
            (io, &warnings),
            "{options}"
        );
        let stable = backing.stability();
        assert!(
            stable == stability || (stable, backing.fua) == (Stability::Each, true),
            "{options}: {stable:?}"
        );
        let flags = rustix::fs::fcntl_getfl(&backing.file).unwrap();
        let direct = flags.contains(rustix::fs::OFlags::DIRECT);
        assert_eq!(direct, io == IoMode::Direct);
    }
}

/// What it does with direct I/O is the matter of another one below it.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn errors_of_a_file_system_that_may_use_the_page_cache_are_shared() {
    let folder = &folders()[0];
    let (_device, ext4) = ext4(folder.path(), "data=ordered");
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
        let path = ext4.path.join(name);
        fs::create_dir(&path).unwrap();
        format!("{name}dir={}", path.display())
    });
    let options = format!("{lower},{upper},{work}");
    let arguments = ["-t", "overlay", "-o", &options, "none"];
    let mount = Mount::new(&arguments, &folder.path().join("overlay"));
    let backing = create(&mount.path.join("disk.img"), 1 << 20, IoMode::Direct);
    assert_eq!(backing.io, IoMode::Direct);
    assert_eq!(backing.stability(), Stability::Shared);
}

/// Two disks that are parts of one file, in one process: the file stays locked until the last is
/// closed.
#[test]
fn parts_of_one_file_have_its_lock_together() {
    let _no_fork = FORK.lock();
    for folder in folders() {
        let path = folder.path().join("disk.img");
        drop(create(&path, 8192, IoMode::Direct));
        let windows = Windows::default();
        let part = |offset_sectors, length_sectors, read_only| OpenOptions {
            offset_sectors,
            length_sectors,
            read_only,
            ..PLAIN
        };
        let open_part = |options| open_among(&windows, &path, &options);
        let is_locked = |options| matches!(open_part(options), Err(OpenError::Locked { .. }));
        let first = open_part(part(0, Some(8), false)).unwrap();
        let last = open_part(part(8, None, false)).unwrap();
        assert!(is_locked(part(7, Some(1), false)), "in the first");
        assert!(is_locked(part(15, Some(1), true)), "in the last");
        assert!(matches!(open(&path, &PLAIN), Err(OpenError::Locked { .. })));

        let mut engine: BlockingEngine<Vec<u8>> = BlockingEngine::new(1);
        let file = engine.attach(&last).unwrap();
        drop(last);
        drop(first);
        assert!(
            matches!(open(&path, &READ_ONLY), Err(OpenError::Locked { .. })),
            "the engine still has a part"
        );
        engine.detach(file);
        open(&path, &PLAIN).unwrap();
    }
}

/// A reader's lock becomes a writer's when another part is written to.
#[test]
fn a_part_to_write_to_locks_out_others_that_read() {
    let _no_fork = FORK.lock();
    let folder = &folders()[0];
    let path = folder.path().join("disk.img");
    drop(create(&path, 8192, IoMode::Direct));
    let windows = Windows::default();
    let reading = OpenOptions {
        length_sectors: Some(8),
        ..READ_ONLY
    };
    let first = open_among(&windows, &path, &reading).unwrap();
    let stranger = open(&path, &READ_ONLY).unwrap();
    let writing = OpenOptions {
        offset_sectors: 8,
        ..PLAIN
    };
    let refused = open_among(&windows, &path, &writing);
    assert!(matches!(refused, Err(OpenError::Locked { .. })));
    drop(stranger);
    let second = open_among(&windows, &path, &writing).unwrap();
    assert!(matches!(
        open(&path, &READ_ONLY),
        Err(OpenError::Locked { .. })
    ));
    drop((first, second));
    open(&path, &PLAIN).unwrap();
}
