//! File systems without room left.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::path::Path;
use std::process::Command;

use aoede_disk::{Buffer, DeviceOp, Errno, FileId, IoMode, OpKind, Pool};

use common::{AnyEngine, LoopDevice, Mount, all_engines, create, folders, op, run};

const LEN: u64 = 16384;

fn write(engine: &mut AnyEngine, file: FileId, pool: &Pool, at: u64) -> Result<u32, Errno> {
    let mut buffer: Buffer = pool.take().unwrap();
    buffer.data_mut().fill(mark(at));
    let write = op(OpKind::Write { durable: true }, at * LEN, Some(buffer));
    let write = DeviceOp {
        len_bytes: LEN,
        ..write
    };
    run(engine, file, write).result
}

fn mark(at: u64) -> u8 {
    u8::try_from(at % 255).unwrap() + 1
}

/// A sparse disk that is larger than the file system: writes fail when that is full, what was
/// written stays, and room that is made is used.
fn fill_up(folder: &Path, io: IoMode) {
    let pool = common::pool(2);
    for index in 0..all_engines(2, &pool).len() {
        let (name, mut engine) = all_engines(2, &pool).remove(index);
        let path = folder.join("disk.img");
        let backing = create(&path, 64 << 20, io);
        eprintln!("{name} {:?} in {}", backing.io, folder.display());
        let file = engine.attach(&backing).unwrap();
        let mut stored = 0;
        let failure = loop {
            match write(&mut engine, file, &pool, stored) {
                Ok(bytes) if u64::from(bytes) == LEN => stored += 1,
                // In part: what is left is the next write's trouble.
                Ok(bytes) => assert!(bytes > 0, "{name}"),
                Err(errno) => break errno,
            }
            assert!(stored < 64 << 20 >> 14, "{name}: no end of room");
        };
        assert_eq!(failure, Errno::NOSPC, "{name}");
        assert!(stored > 4, "{name}: {stored}");
        for at in 0..stored {
            let read = DeviceOp {
                len_bytes: LEN,
                ..op(OpKind::Read, at * LEN, pool.take())
            };
            let done = run(&mut engine, file, read);
            assert_eq!(done.result, Ok(16384), "{name}");
            let buffer = done.memory.into_one().unwrap();
            assert!(buffer.data().iter().all(|&byte| byte == mark(at)), "{name}");
        }
        // What has room already can be written again, and a hole makes some.
        assert_eq!(write(&mut engine, file, &pool, 0), Ok(16384), "{name}");
        let hole = DeviceOp {
            len_bytes: 4 * LEN,
            ..op(OpKind::Discard, 0, None)
        };
        assert_eq!(run(&mut engine, file, hole).result, Ok(0), "{name}");
        let sync = op(OpKind::Sync, 0, None);
        assert_eq!(run(&mut engine, file, sync).result, Ok(0), "{name}");
        assert_eq!(write(&mut engine, file, &pool, 1), Ok(16384), "{name}");
        drop((engine, backing));
        std::fs::remove_file(&path).unwrap();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_file_system_in_memory() {
    let folder = &folders()[0];
    let options = ["-t", "tmpfs", "-o", "size=1m", "none"];
    let mount = Mount::new(&options, &folder.path().join("mount"));
    fill_up(&mount.path, IoMode::Buffered);
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_full_file_system_on_a_disk() {
    let folder = &folders()[0];
    let image = folder.path().join("image");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(4 << 20).unwrap();
    let device = LoopDevice::new(&image, 512);
    let mut make = Command::new("mkfs.ext4");
    let made = make.args(["-q", "-m", "0"]).arg(&device.path).status();
    assert!(made.unwrap().success());
    let device = device.path.to_str().unwrap();
    let mount = Mount::new(&[device], &folder.path().join("mount"));
    for io in [IoMode::Direct, IoMode::Buffered, IoMode::Uncached] {
        fill_up(&mount.path, io);
    }
}
