//! One suite for every engine: what the trait promises, on real files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use aoede_disk::{
    Backing, Buffer, Completion, DeviceOp, DiskRequest, Engine, Errno, Fault, FileId, IoMode,
    Memory, OpId, OpKind, OpenOptions, Part, Pool, RequestId, RequestKind, TASKS, Volume,
    VolumeSettings, open,
};
use rustix::event::epoll;

use common::{
    AnyEngine, LoopDevice, all_engines, create, engines, everywhere, failing_engines, folders, op,
    pool, run, stumbling_engines, wait,
};

const WRITE: OpKind = OpKind::Write { durable: false };
const DURABLE: OpKind = OpKind::Write { durable: true };

fn filled(pool: &Pool, byte: u8) -> Option<Buffer> {
    let mut buffer = pool.take()?;
    buffer.data_mut().fill(byte);
    Some(buffer)
}

fn read(engine: &mut AnyEngine, file: FileId, pool: &Pool, offset: u64) -> Vec<u8> {
    let done = run(engine, file, op(OpKind::Read, offset, filled(pool, 0xEE)));
    assert_eq!(done.result, Ok(4096));
    done.memory.into_one().unwrap().data()[..4096].to_vec()
}

#[test]
fn what_was_written_is_read_back() {
    everywhere(|engine, file, pool| {
        for (at, kind) in [(0, WRITE), (4096, DURABLE), ((1 << 20) - 4096, DURABLE)] {
            let byte = u8::try_from(at % 251).unwrap() + 1;
            let done = run(engine, file, op(kind, at, filled(pool, byte)));
            assert_eq!((done.id, done.result), (OpId(7), Ok(4096)));
            assert!(done.memory.into_one().is_some());
            assert_eq!(read(engine, file, pool, at), [byte; 4096]);
        }
        assert_eq!(
            read(engine, file, pool, 8192),
            [0; 4096],
            "its neighbour is untouched"
        );
        assert_eq!(run(engine, file, op(OpKind::Sync, 0, None)).result, Ok(0));
    });
}

#[test]
fn a_discarded_range_reads_as_zeros() {
    everywhere(|engine, file, pool| {
        for at in [0, 4096, 8192] {
            run(engine, file, op(WRITE, at, filled(pool, 5)));
        }
        let done = run(engine, file, op(OpKind::Discard, 4096, None));
        assert_eq!(done.result, Ok(0));
        assert_eq!(read(engine, file, pool, 0), [5; 4096]);
        assert_eq!(read(engine, file, pool, 4096), [0; 4096]);
        assert_eq!(read(engine, file, pool, 8192), [5; 4096]);
    });
}

#[test]
fn a_transfer_may_start_inside_the_buffer() {
    everywhere(|engine, file, pool| {
        let mut buffer = pool.take().unwrap();
        buffer.data_mut()[..512].fill(1);
        buffer.data_mut()[512..1024].fill(2);
        let part = |kind, buffer| DeviceOp {
            memory_start: 512,
            len_bytes: 512,
            ..op(kind, 1024, buffer)
        };
        let done = run(engine, file, part(WRITE, Some(buffer)));
        assert_eq!(done.result, Ok(512));
        let mut buffer = done.memory.into_one().unwrap();
        buffer.data_mut().fill(9);
        let done = run(engine, file, part(OpKind::Read, Some(buffer)));
        let data = done.memory.into_one().unwrap();
        assert!(data.data()[..512].iter().all(|&byte| byte == 9));
        assert!(data.data()[512..1024].iter().all(|&byte| byte == 2));
        assert!(data.data()[1024..].iter().all(|&byte| byte == 9));
    });
}

#[test]
fn reads_at_the_end_are_short_and_beyond_it_empty() {
    everywhere(|engine, file, pool| {
        let end = 1 << 20;
        let done = run(engine, file, op(OpKind::Read, end - 1024, pool.take()));
        assert_eq!(done.result, Ok(1024));
        let done = run(engine, file, op(OpKind::Read, end, pool.take()));
        assert_eq!(done.result, Ok(0));
        let done = run(engine, file, op(OpKind::Read, end * 4, pool.take()));
        assert_eq!(done.result, Ok(0));
    });
}

#[test]
fn nonsense_is_an_error_and_not_a_panic() {
    everywhere(|engine, file, pool| {
        let good = |buffer| op(OpKind::Read, 0, buffer);
        for (name, op) in [
            (
                "offset overflow",
                op(OpKind::Read, u64::MAX - 100, pool.take()),
            ),
            ("offset beyond i64", op(OpKind::Read, 1 << 63, pool.take())),
            ("no buffer", good(None)),
            (
                "too long",
                DeviceOp {
                    len_bytes: 1 << 20,
                    ..good(pool.take())
                },
            ),
            (
                "starts outside",
                DeviceOp {
                    memory_start: usize::MAX,
                    ..good(pool.take())
                },
            ),
        ] {
            assert_eq!(run(engine, file, op).result, Err(Errno::INVAL), "{name}");
        }
        let other = FileId(99);
        assert_eq!(
            run(engine, other, good(pool.take())).result,
            Err(Errno::BADF)
        );
        engine.detach(file);
        assert_eq!(
            run(engine, file, good(pool.take())).result,
            Err(Errno::BADF)
        );
        engine.detach(file);
    });
}

#[test]
fn a_full_engine_gives_the_operation_back() {
    let pool = pool(4);
    let folder = &folders()[0];
    for (name, mut engine) in all_engines(3, &pool) {
        let backing = create(&folder.path().join(name), 1 << 20, IoMode::Direct);
        let file = engine.attach(&backing).unwrap();
        for _ in 0..3 {
            engine
                .submit(file, op(OpKind::Read, 0, pool.take()))
                .unwrap();
        }
        let refused = engine.submit(file, op(OpKind::Read, 4096, pool.take()));
        let refused = refused.expect_err("three are in flight");
        assert_eq!(refused.offset_bytes, 4096);
        assert!(matches!(refused.memory, Memory::One(_)));
        engine.kick().unwrap();
        wait(&mut engine);
        engine.submit(file, refused).unwrap();
        engine.kick().unwrap();
        for _ in 0..3 {
            assert_eq!(wait(&mut engine).1.result, Ok(4096));
        }
        assert!(engine.poll().is_none());
    }
}

/// A socket cannot be synced: whoever says that it is has not asked the kernel.
#[test]
fn a_sync_ends_as_the_kernel_says() {
    let pool = pool(2);
    let folder = &folders()[0];
    let mut backing = create(&folder.path().join("disk"), 1 << 20, IoMode::Buffered);
    for (name, mut engine) in engines(2, &pool) {
        let file = engine.attach(&backing).unwrap();
        let done = run(&mut engine, file, op(OpKind::Sync, 0, None));
        assert_eq!(done.result, Ok(0), "{name}");
    }
    let (socket, _other) = UnixStream::pair().unwrap();
    backing.file = OwnedFd::from(socket).into();
    for (name, mut engine) in engines(2, &pool) {
        let file = engine.attach(&backing).unwrap();
        let done = run(&mut engine, file, op(OpKind::Sync, 0, None));
        assert_eq!(done.result, Err(Errno::INVAL), "{name}");
    }
}

#[test]
fn writing_to_a_read_only_file_fails() {
    let pool = pool(2);
    for folder in folders() {
        let path = folder.path().join("disk");
        drop(create(&path, 1 << 20, IoMode::Direct));
        let options = OpenOptions {
            read_only: true,
            ..OpenOptions::default()
        };
        let backing = open(&path, &options).unwrap();
        for (name, mut engine) in all_engines(2, &pool) {
            let file = engine.attach(&backing).unwrap();
            for kind in [WRITE, DURABLE] {
                let done = run(&mut engine, file, op(kind, 0, pool.take()));
                assert_eq!(done.result, Err(Errno::BADF), "{name}");
                assert!(done.memory.into_one().is_some());
            }
            let done = run(&mut engine, file, op(OpKind::Discard, 0, None));
            assert_eq!(done.result, Err(Errno::BADF), "{name}");
            let done = run(&mut engine, file, op(OpKind::Read, 0, pool.take()));
            assert_eq!(done.result, Ok(4096), "{name}");
        }
    }
}

#[test]
fn the_export_starts_at_its_offset() {
    let pool = pool(2);
    let folder = &folders()[0];
    let path = folder.path().join("disk");
    let bytes: Vec<u8> = (0..32_u8).flat_map(|sector| [sector; 512]).collect();
    std::fs::write(&path, bytes).unwrap();
    let options = OpenOptions {
        offset_sectors: 8,
        length_sectors: Some(16),
        ..OpenOptions::default()
    };
    for index in 0.. {
        let backing = open(&path, &options).unwrap();
        let Some((name, mut engine)) = all_engines(2, &pool).into_iter().nth(index) else {
            break;
        };
        let file = engine.attach(&backing).unwrap();
        let done = run(&mut engine, file, op(OpKind::Read, 512, pool.take()));
        assert_eq!(done.memory.into_one().unwrap().data()[0], 9, "{name}");
    }
}

#[test]
fn operations_in_flight_survive_a_detach() {
    let pool = pool(4);
    let folder = &folders()[0];
    for (name, mut engine) in engines(4, &pool) {
        let backing = create(&folder.path().join(name), 1 << 20, IoMode::Direct);
        let file = engine.attach(&backing).unwrap();
        for _ in 0..4 {
            engine
                .submit(file, op(OpKind::Read, 0, pool.take()))
                .unwrap();
        }
        drop(backing);
        engine.detach(file);
        // The freed descriptor number goes to an empty file: a late look-up would read nothing.
        let _empty = tempfile::tempfile().unwrap();
        engine.kick().unwrap();
        for _ in 0..4 {
            assert_eq!(wait(&mut engine).1.result, Ok(4096), "{name}");
        }
    }
}

#[test]
fn an_engine_dropped_with_operations_in_flight_returns_its_buffers() {
    let pool = pool(16);
    let folder = &folders()[0];
    for kicked in [false, true] {
        for (name, mut engine) in all_engines(16, &pool) {
            let path = folder.path().join(format!("{name}-{kicked}"));
            let backing = create(&path, 1 << 20, IoMode::Direct);
            let file = engine.attach(&backing).unwrap();
            for at in 0..8 {
                engine
                    .submit(file, op(DURABLE, at * 4096, pool.take()))
                    .unwrap();
                engine
                    .submit(file, op(OpKind::Read, at * 4096, pool.take()))
                    .unwrap();
            }
            if kicked {
                engine.kick().unwrap();
            }
            drop(engine);
            assert_eq!(pool.free(), 16, "{name}");
        }
    }
}

#[test]
fn only_buffered_reads_stay_in_the_page_cache() {
    let pool = pool(1);
    let folder = &folders()[0];
    for (io, stays) in [
        (IoMode::Direct, false),
        (IoMode::Uncached, false),
        (IoMode::Buffered, true),
    ] {
        for (name, mut engine) in all_engines(1, &pool) {
            let path = folder.path().join(format!("{name}-{io:?}"));
            std::fs::write(&path, [5; 8192]).unwrap();
            let beside = std::fs::File::open(&path).unwrap();
            beside.sync_all().unwrap();
            let options = OpenOptions {
                io,
                ..OpenOptions::default()
            };
            let backing = open(&path, &options).unwrap();
            if backing.io != io {
                eprintln!("not here: {:?}", backing.warnings);
                continue;
            }
            let file = engine.attach(&backing).unwrap();
            // What the opening has read goes as well.
            rustix::fs::fadvise(&beside, 0, None, rustix::fs::Advice::DontNeed).unwrap();
            assert_eq!(read(&mut engine, file, &pool, 4096), [5; 4096]);
            assert_eq!(is_cached(&beside), stays, "{name} {io:?}");
        }
    }
}

/// Whether the second page can be read without waiting for the disk. To ask may bring it in.
fn is_cached(file: &std::fs::File) -> bool {
    let mut byte = [0];
    let mut piece = [std::io::IoSliceMut::new(&mut byte)];
    let flags = rustix::io::ReadWriteFlags::NOWAIT;
    match rustix::io::preadv2(file, &mut piece, 4096, flags) {
        Ok(bytes) => bytes == 1,
        Err(errno) => {
            assert_eq!(errno, rustix::io::Errno::AGAIN);
            false
        }
    }
}

/// A small generator, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Memory of `len` bytes in one buffer, or cut into parts in several, filled with bytes that tell
/// their place.
fn memory(random: &mut Random, pool: &Pool, len: u64, step: u64, seed: u8) -> Memory<Buffer> {
    let mut at = 0;
    let mut part = |len: u64| {
        let mut buffer = pool.take().unwrap();
        let len_bytes = u32::try_from(len).unwrap();
        for byte in &mut buffer.data_mut()[..len_bytes as usize] {
            *byte = place_byte(seed, at);
            at += 1;
        }
        Part { buffer, len_bytes }
    };
    let cuts = random.below(4);
    if cuts == 0 {
        return Memory::One(part(len).buffer);
    }
    let mut parts = Vec::new();
    let mut left = len;
    for _ in 0..cuts {
        let piece = random.below(left / step + 1) * step;
        parts.push(part(piece));
        left -= piece;
    }
    parts.push(part(left));
    Memory::Parts(parts)
}

/// Two places a sector or a page apart differ.
fn place_byte(seed: u8, at: u64) -> u8 {
    u8::try_from((at + at / 512 + u64::from(seed)) % 251).unwrap()
}

fn bytes_of(mut memory: Memory<Buffer>, len: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let each = |piece: &mut [u8]| bytes.extend_from_slice(piece);
    memory.for_each_mut(0, len, each).unwrap();
    bytes
}

/// Many at once, of all sizes, against an array. Operations in flight together never overlap:
/// order is the volume's business.
fn against_a_model(engine: &mut AnyEngine, backing: &Backing, pool: &Pool, step: u64, seed: u64) {
    let file = engine.attach(backing).unwrap();
    let mut random = Random(seed);
    let size = 1_u64 << 20;
    let mut model = vec![0_u8; 1 << 20];
    for round in 0..60_u32 {
        let mut flying: Vec<(OpKind, u64, u64)> = Vec::new();
        for number in 0..16 {
            // Each has a sixteenth of the file for itself.
            let from = u64::from(number) * (size / 16);
            let len = (random.below(16384 / step) + 1) * step;
            let offset = from + random.below((size / 16 - len) / step + 1) * step;
            let kind = match random.below(8) {
                0..=2 => OpKind::Read,
                3..=5 => WRITE,
                6 => DURABLE,
                _ => OpKind::Discard,
            };
            let byte = u8::try_from(random.below(255)).unwrap() + 1;
            let memory = match kind {
                OpKind::Discard => Memory::None,
                _ => memory(&mut random, pool, len, step, byte),
            };
            let (start, end) = (
                usize::try_from(offset).unwrap(),
                usize::try_from(offset + len).unwrap(),
            );
            match kind {
                OpKind::Write { .. } => {
                    for (at, place) in (0..).zip(&mut model[start..end]) {
                        *place = place_byte(byte, at);
                    }
                }
                OpKind::Discard => model[start..end].fill(0),
                _ => {}
            }
            let id = OpId(number);
            engine
                .submit(
                    file,
                    DeviceOp {
                        id,
                        kind,
                        offset_bytes: offset,
                        len_bytes: len,
                        memory,
                        memory_start: 0,
                    },
                )
                .unwrap();
            flying.push((kind, offset, len));
            if random.below(4) == 0 {
                engine.kick().unwrap();
            }
        }
        engine.kick().unwrap();
        let mut seen = [false; 16];
        for _ in 0..16 {
            let (_, Completion { id, memory, result }) = wait(engine);
            let (kind, offset, len) = flying[id.0 as usize];
            assert!(
                !std::mem::replace(&mut seen[id.0 as usize], true),
                "completed twice"
            );
            assert_eq!(matches!(memory, Memory::None), kind == OpKind::Discard);
            let moved = if kind == OpKind::Discard {
                0
            } else {
                u32::try_from(len).unwrap()
            };
            assert_eq!(
                result,
                Ok(moved),
                "{kind:?} at {offset}, seed {seed}, round {round}"
            );
            if kind == OpKind::Read {
                let (offset, len) = (
                    usize::try_from(offset).unwrap(),
                    usize::try_from(len).unwrap(),
                );
                assert!(
                    bytes_of(memory, len as u64) == model[offset..offset + len],
                    "seed {seed}, round {round}"
                );
            }
        }
        assert!(engine.poll().is_none());
    }
}

#[test]
fn many_at_once_do_what_an_array_does() {
    for folder in folders() {
        for io in [IoMode::Direct, IoMode::Buffered, IoMode::Uncached] {
            let pool = pool(64);
            for (name, mut engine) in all_engines(16, &pool) {
                let backing = create(&folder.path().join(format!("{name}{io:?}")), 1 << 20, io);
                against_a_model(&mut engine, &backing, &pool, 512, 42);
            }
        }
    }
}

/// The descriptor once was the ring's own, which says nothing of completions that the kernel holds
/// back until we ask: a worker without other work slept for ever.
#[test]
fn the_descriptor_wakes_a_sleeper() {
    let pool = pool(4);
    for folder in folders() {
        #[cfg(uring)]
        if let Ok(engine) = aoede_disk::UringEngine::new(4, &pool) {
            sleep_and_wake(engine, &pool, &folder.path().join("io_uring"));
        }
        if let Ok(engine) = aoede_disk::AioEngine::new(4) {
            sleep_and_wake(engine, &pool, &folder.path().join("aio"));
        }
    }
}

fn sleep_and_wake<E: Engine<Buffer> + AsFd>(mut engine: E, pool: &Pool, path: &Path) {
    let backing = create(path, 1 << 20, IoMode::Direct);
    let waiter = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(
        &waiter,
        engine.as_fd(),
        epoll::EventData::new_u64(0),
        interest,
    )
    .unwrap();
    let file = engine.attach(&backing).unwrap();
    let mut completed = 0;
    for at in (0..500).map(|number| number % 64 * 4096) {
        while let Some(buffer) = pool.take() {
            let kind = if at % 8192 == 0 {
                OpKind::Read
            } else {
                DURABLE
            };
            engine.submit(file, op(kind, at, Some(buffer))).unwrap();
        }
        engine.kick().unwrap();
        let before = completed;
        while let Some((_, done)) = engine.poll() {
            assert_eq!(done.result, Ok(4096));
            completed += 1;
        }
        if completed == before {
            let mut events = Vec::with_capacity(1);
            let limit = rustix::event::Timespec {
                tv_sec: 10,
                tv_nsec: 0,
            };
            let space = rustix::buffer::spare_capacity(&mut events);
            // The kernel interrupts us to start a thread for a write that waits.
            let woken = epoll::wait(&waiter, space, Some(&limit));
            assert!(
                matches!(woken, Ok(1) | Err(rustix::io::Errno::INTR)),
                "nobody woke us: {woken:?}"
            );
        }
    }
    assert!(completed > 100, "{completed} completed");
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn block_devices_do_what_files_do() {
    for sector_bytes in [512, 4096] {
        for io in [IoMode::Direct, IoMode::Buffered] {
            let folder = &folders()[0];
            let image = folder.path().join("image");
            std::fs::write(&image, vec![0; 1 << 20]).unwrap();
            let device = LoopDevice::new(&image, sector_bytes);
            let pool = pool(64);
            let all = || {
                let mut engines = engines(16, &pool);
                engines.extend(stumbling_engines(16, &pool, sector_bytes));
                engines
            };
            for index in 0..all().len() {
                let backing = open(
                    &device.path,
                    &OpenOptions {
                        io,
                        ..OpenOptions::default()
                    },
                )
                .unwrap();
                assert!(backing.block_device && backing.discard);
                assert_eq!(backing.sectors, 2048);
                let (_, mut engine) = all().remove(index);
                let file = engine.attach(&backing).unwrap();
                for at in 0..64 {
                    let zeros = op(WRITE, at * 16384, filled(&pool, 0));
                    let done = run(
                        &mut engine,
                        file,
                        DeviceOp {
                            len_bytes: 16384,
                            ..zeros
                        },
                    );
                    assert_eq!(done.result, Ok(16384));
                }
                engine.detach(file);
                // Discards of a device are in its own sectors.
                against_a_model(&mut engine, &backing, &pool, u64::from(sector_bytes), 7);
            }
        }
    }
}

/// One request through a volume over an engine, to its end.
fn ask(
    volume: &mut Volume<Buffer>,
    engine: &mut AnyEngine,
    file: FileId,
    pool: &Pool,
    kind: RequestKind,
    byte: u8,
) -> Result<Vec<u8>, Errno> {
    let now = std::time::Duration::from_secs(1);
    let id = RequestId(0);
    let buffer = filled(pool, byte).unwrap();
    volume
        .handle_request(now, DiskRequest { id, kind, buffer })
        .unwrap();
    loop {
        while let Some(op) = volume.poll_device() {
            engine.submit(file, op).unwrap();
        }
        engine.kick().unwrap();
        if let Some(done) = volume.poll_done() {
            let data = done.buffer.data()[..4096].to_vec();
            return done.result.map(|()| data).map_err(|error| error.errno());
        }
        let (_, completion) = wait(engine);
        volume.handle_device(now, completion);
    }
}

/// What an initiator is told when the disk fails is the same over every engine.
#[test]
fn failures_reach_whom_they_concern_over_every_engine() {
    let write = |lba, early| RequestKind::Write {
        lba,
        sectors: 8,
        early,
    };
    let read = RequestKind::Read {
        lba: 16,
        sectors: 8,
    };
    // The volume's first sync, two durable writes, an early one with its sync, then nothing more.
    let script = [
        Fault::None,
        Fault::Fail(Errno::IO),
        Fault::Fail(Errno::NOSPC),
        Fault::None,
        Fault::Fail(Errno::IO),
    ];
    let pool = pool(4);
    let capacity = 4 + TASKS + 1;
    let folder = &folders()[0];
    for (name, mut engine) in failing_engines(capacity, &pool, &script) {
        let backing = create(&folder.path().join(name), 1 << 20, IoMode::Direct);
        let file = engine.attach(&backing).unwrap();
        let settings = VolumeSettings {
            capacity: 4,
            size_bytes: 1 << 20,
            ..VolumeSettings::default()
        };
        let mut volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
        let mut ask =
            |volume: &mut _, kind, byte| ask(volume, &mut engine, file, &pool, kind, byte);
        assert!(ask(&mut volume, RequestKind::Flush, 0).is_ok(), "{name}");
        assert_eq!(
            ask(&mut volume, write(0, false), 1),
            Err(Errno::IO),
            "{name}"
        );
        assert_eq!(
            ask(&mut volume, write(8, false), 1),
            Err(Errno::NOSPC),
            "{name}"
        );
        assert!(volume.failure().is_none(), "{name}");
        assert!(ask(&mut volume, write(16, true), 7).is_ok(), "{name}");
        assert_eq!(
            ask(&mut volume, RequestKind::Flush, 0),
            Err(Errno::IO),
            "{name}"
        );
        assert!(volume.failure().is_some(), "{name}");
        assert_eq!(
            ask(&mut volume, write(24, true), 1),
            Err(Errno::IO),
            "{name}"
        );
        assert_eq!(ask(&mut volume, read, 0), Ok(vec![7; 4096]), "{name}");
        volume.clear_failure(std::time::Duration::from_secs(1));
        assert!(ask(&mut volume, RequestKind::Flush, 0).is_ok(), "{name}");
        assert!(volume.is_clean(), "{name}");
    }
}
