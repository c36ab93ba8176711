//! What several suites need: engines by name, places for files, loop devices that go away.
#![allow(dead_code, reason = "each suite uses a part")]

mod persistent;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aoede_disk::{
    Backing, BlockingEngine, Buffer, Completion, DeviceOp, Engine, Errno, Fault, Faults, FileId,
    IoMode, OpId, OpKind, OpenOptions, Pool, PoolShape, open,
};

use persistent::{Any, Persistent};

pub(crate) type AnyEngine = Box<dyn Engine<Buffer>>;

pub(crate) fn pool(count: usize) -> Pool {
    Pool::new(PoolShape {
        count,
        headroom_bytes: 64,
        data_bytes: 16384,
        alignment: 4096,
    })
    .unwrap()
}

/// Every engine that runs here, with a name for messages: as it is, and with faults that a caller
/// overcomes, in blocks of 512 bytes.
pub(crate) fn all_engines(capacity: usize, pool: &Pool) -> Vec<(&'static str, AnyEngine)> {
    let mut engines = engines(capacity, pool);
    engines.extend(stumbling_engines(capacity, pool, 512));
    engines
}

/// Every engine that runs here, whose operations are interrupted or left undone and done in part,
/// as an engine again.
pub(crate) fn stumbling_engines(
    capacity: usize,
    pool: &Pool,
    block_bytes: u32,
) -> Vec<(&'static str, AnyEngine)> {
    let names = [
        "blocking, stumbling",
        "aio, stumbling",
        "io_uring, stumbling",
    ];
    let faults = [
        Fault::Fail(Errno::INTR),
        Fault::Fail(Errno::AGAIN),
        Fault::Short(block_bytes),
        Fault::Short(3 * block_bytes),
    ];
    let wrap = |(seed, (name, engine)): (u64, (&str, AnyEngine))| {
        let faults = Faults::by_seed(Any(engine), capacity, seed, 3, &faults);
        let name = names.into_iter().find(|long| long.starts_with(name));
        let engine: AnyEngine = Box::new(Persistent::new(faults));
        (name.unwrap(), engine)
    };
    (1..).zip(engines(capacity, pool)).map(wrap).collect()
}

/// Every engine that runs here, as it is.
#[cfg_attr(
    not(uring),
    expect(unused_variables, reason = "only io_uring registers memory")
)]
pub(crate) fn engines(capacity: usize, pool: &Pool) -> Vec<(&'static str, AnyEngine)> {
    let mut engines: Vec<(&str, AnyEngine)> = Vec::new();
    engines.push(("blocking", Box::new(BlockingEngine::new(capacity))));
    match aoede_disk::AioEngine::new(capacity) {
        Ok(engine) => engines.push(("aio", Box::new(engine))),
        Err(error) => eprintln!("Linux AIO is not to be had here: {error}"),
    }
    #[cfg(uring)]
    match aoede_disk::UringEngine::new(capacity, pool) {
        Ok(engine) => engines.push(("io_uring", Box::new(engine))),
        Err(error) => eprintln!("io_uring is not to be had here: {error}"),
    }
    engines
}

/// Runs a test with each engine and each way of I/O on a file of 1 MiB, on disk and in memory.
pub(crate) fn everywhere(test: impl Fn(&mut AnyEngine, FileId, &Pool)) {
    for folder in folders() {
        for io in [IoMode::Direct, IoMode::Buffered, IoMode::Uncached] {
            if io != IoMode::Buffered && folder.path().starts_with("/dev/shm") {
                continue; // it would be the same
            }
            for index in 0.. {
                let pool = pool(16);
                let Some((name, mut engine)) = all_engines(16, &pool).into_iter().nth(index) else {
                    break;
                };
                let path = folder.path().join(format!("{io:?}-{name}"));
                let backing = create(&path, 1 << 20, io);
                eprintln!("{name} {:?} in {}", backing.io, path.display());
                let file = engine.attach(&backing).unwrap();
                test(&mut engine, file, &pool);
                assert_eq!(engine.in_flight(), 0);
                drop(engine);
                assert_eq!(pool.free(), 16, "every buffer came home");
            }
        }
    }
}

/// Every engine that runs here, whose operations meet with these faults, one after the other.
pub(crate) fn failing_engines(
    capacity: usize,
    pool: &Pool,
    script: &[Fault],
) -> Vec<(&'static str, AnyEngine)> {
    let failing = |(name, engine)| {
        let faults = Faults::by_script(Any(engine), capacity, script.iter().copied());
        (name, Box::new(faults) as AnyEngine)
    };
    engines(capacity, pool).into_iter().map(failing).collect()
}

/// A folder on a disk and, where there is one, a folder in memory.
pub(crate) fn folders() -> Vec<tempfile::TempDir> {
    let mut folders = vec![tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()];
    folders.extend(tempfile::tempdir_in("/dev/shm"));
    folders
}

pub(crate) fn create(path: &Path, bytes: u64, io: IoMode) -> Backing {
    let options = OpenOptions {
        io,
        create_bytes: Some(bytes),
        ..OpenOptions::default()
    };
    open(path, &options).unwrap()
}

pub(crate) fn op(kind: OpKind, offset_bytes: u64, buffer: Option<Buffer>) -> DeviceOp<Buffer> {
    let len_bytes = match kind {
        OpKind::Sync => 0,
        _ => 4096,
    };
    DeviceOp {
        id: OpId(7),
        kind,
        offset_bytes,
        len_bytes,
        memory: buffer.into(),
        memory_start: 0,
    }
}

/// The next completion; fails the test when none comes.
pub(crate) fn wait(engine: &mut AnyEngine) -> (FileId, Completion<Buffer>) {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(done) = engine.poll() {
            return done;
        }
        assert!(Instant::now() < deadline, "no completion came");
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// One operation from start to end.
pub(crate) fn run(
    engine: &mut AnyEngine,
    file: FileId,
    op: DeviceOp<Buffer>,
) -> Completion<Buffer> {
    engine.submit(file, op).unwrap();
    engine.kick().unwrap();
    let (from, completion) = wait(engine);
    assert_eq!((from, engine.in_flight()), (file, 0));
    completion
}

/// A mounted file system; unmounted when dropped, also by a failing test.
pub(crate) struct Mount {
    pub(crate) path: PathBuf,
}

impl Mount {
    pub(crate) fn new(arguments: &[&str], path: &Path) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(arguments).arg(path).status();
        assert!(status.unwrap().success(), "mount {arguments:?}");
        Self { path: path.into() }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
    }
}

/// A block device made of a file; released when dropped, also by a failing test.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    pub(crate) fn new(file: &Path, sector_bytes: u32) -> Self {
        let out = Command::new("losetup")
            .args([
                "--find",
                "--show",
                "--sector-size",
                &sector_bytes.to_string(),
            ])
            .arg(file)
            .output()
            .unwrap();
        assert!(
            out.status.success(),
            "losetup: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        let path = String::from_utf8(out.stdout).unwrap().trim().into();
        Self { path }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
    }
}
