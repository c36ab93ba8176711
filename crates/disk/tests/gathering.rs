//! Transfers of several pieces of memory, with every engine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use aoede_disk::{
    Buffer, Completion, DeviceOp, Errno, FileId, IoMode, Memory, OpKind, Part, Pool, PoolShape,
};

use common::{AnyEngine, all_engines, create, engines, everywhere, folders, op, run};

const WRITE: OpKind = OpKind::Write { durable: false };
const DURABLE: OpKind = OpKind::Write { durable: true };

/// Each part is the start of a buffer that holds these bytes.
fn parts<const COUNT: usize>(pool: &Pool, contents: [&[u8]; COUNT]) -> Memory<Buffer> {
    Memory::Parts(contents.map(|bytes| part(pool, bytes)).into())
}

fn part(pool: &Pool, bytes: &[u8]) -> Part<Buffer> {
    let mut buffer = pool.take().unwrap();
    buffer.data_mut().fill(0xEE);
    buffer.data_mut()[..bytes.len()].copy_from_slice(bytes);
    Part {
        buffer,
        len_bytes: u32::try_from(bytes.len()).unwrap(),
    }
}

/// Parts of these lengths.
fn empty<const COUNT: usize>(pool: &Pool, lens: [usize; COUNT]) -> Memory<Buffer> {
    let zeros = [0; 16384];
    parts(pool, lens.map(|len| &zeros[..len]))
}

fn transfer(
    kind: OpKind,
    memory: Memory<Buffer>,
    [offset, start, len]: [usize; 3],
) -> DeviceOp<Buffer> {
    DeviceOp {
        offset_bytes: offset as u64,
        len_bytes: len as u64,
        memory,
        memory_start: start,
        ..op(kind, 0, None)
    }
}

/// The part lengths, and each part's bytes one after the other.
fn unpack(done: Completion<Buffer>) -> (Vec<usize>, Vec<u8>) {
    let Memory::Parts(parts) = done.memory else {
        panic!("the list did not come home");
    };
    let len = |part: &Part<Buffer>| part.len_bytes as usize;
    let bytes = |part: &Part<Buffer>| part.buffer.data()[..len(part)].to_vec();
    let lens = parts.iter().map(len).collect();
    (lens, parts.iter().flat_map(bytes).collect())
}

/// What the file holds, by a transfer of one piece.
fn contents(
    engine: &mut AnyEngine,
    file: FileId,
    pool: &Pool,
    offset: usize,
    len: usize,
) -> Vec<u8> {
    let memory = Memory::One(pool.take().unwrap());
    let done = run(
        engine,
        file,
        transfer(OpKind::Read, memory, [offset, 0, len]),
    );
    assert_eq!(done.result, Ok(u32::try_from(len).unwrap()));
    done.memory.into_one().unwrap().data()[..len].to_vec()
}

fn repeated(runs: &[(u8, usize)]) -> Vec<u8> {
    let run = |&(byte, len): &(u8, usize)| std::iter::repeat_n(byte, len);
    runs.iter().flat_map(run).collect()
}

#[test]
fn parts_are_written_in_their_order() {
    everywhere(|engine, file, pool| {
        for kind in [WRITE, DURABLE] {
            let memory = parts(pool, [&[1; 512], &[2; 4096], &[], &[3; 1024]]);
            let done = run(engine, file, transfer(kind, memory, [2048, 0, 5632]));
            assert_eq!(done.result, Ok(5632));
            let expected = repeated(&[(1, 512), (2, 4096), (3, 1024)]);
            assert_eq!(unpack(done), (vec![512, 4096, 0, 1024], expected.clone()));
            assert!(contents(engine, file, pool, 2048, 5632) == expected);
            assert!(contents(engine, file, pool, 0, 2048) == [0; 2048]);
            assert!(contents(engine, file, pool, 7680, 512) == [0; 512]);
        }
    });
}

#[test]
fn a_transfer_may_start_and_end_inside_a_part() {
    everywhere(|engine, file, pool| {
        let memory = parts(pool, [&[1; 1024], &[2; 2048], &[3; 1024]]);
        let done = run(engine, file, transfer(WRITE, memory, [0, 1536, 2048]));
        assert_eq!(done.result, Ok(2048));
        let expected = repeated(&[(2, 1536), (3, 512), (0, 2048)]);
        assert!(contents(engine, file, pool, 0, 4096) == expected);

        let memory = empty(pool, [512, 1024, 1536, 4096]);
        let read = transfer(OpKind::Read, memory, [1024, 1024, 1024]);
        let done = run(engine, file, read);
        assert_eq!(done.result, Ok(1024));
        let (_, bytes) = unpack(done);
        let expected = repeated(&[(0, 1024), (2, 512), (3, 512), (0, 5120)]);
        assert!(bytes == expected);
    });
}

/// Pages that lie side by side are one piece for the kernel; in another order they are not.
#[test]
fn neighbours_keep_their_order() {
    let pages = Pool::new(PoolShape {
        count: 4,
        headroom_bytes: 0,
        data_bytes: 4096,
        alignment: 4096,
    })
    .unwrap();
    everywhere(|engine, file, pool| {
        for order in [[0, 1, 2, 3], [3, 2, 1, 0], [0, 2, 1, 3], [2, 3, 0, 1]] {
            let mut taken: Vec<Buffer> = (0..4).map(|_| pages.take().unwrap()).collect();
            taken.sort_by_key(|buffer| buffer.data().as_ptr());
            let mut taken: Vec<Option<Buffer>> = taken.into_iter().map(Some).collect();
            let list = (1..).zip(order).map(|(byte, index)| {
                let mut buffer: Buffer = taken[index].take().unwrap();
                buffer.data_mut().fill(byte);
                let len_bytes = 4096;
                Part { buffer, len_bytes }
            });
            let memory = Memory::Parts(list.collect());
            let done = run(engine, file, transfer(WRITE, memory, [4096, 0, 16384]));
            assert_eq!(done.result, Ok(16384));
            let expected = repeated(&[(1, 4096), (2, 4096), (3, 4096), (4, 4096)]);
            assert!(contents(engine, file, pool, 4096, 16384) == expected);

            let Memory::Parts(mut list) = done.memory else {
                panic!("the list did not come home");
            };
            for part in &mut list {
                part.buffer.data_mut().fill(0xEE);
            }
            // From inside the first to inside the last.
            let read = transfer(OpKind::Read, Memory::Parts(list), [4608, 512, 15360]);
            let done = run(engine, file, read);
            assert_eq!(done.result, Ok(15360));
            let (_, bytes) = unpack(done);
            let expected = repeated(&[
                (0xEE, 512),
                (1, 3584),
                (2, 4096),
                (3, 4096),
                (4, 3584),
                (0xEE, 512),
            ]);
            assert!(bytes == expected, "{order:?}");
        }
    });
}

#[test]
fn through_the_page_cache_any_numbers_will_do() {
    for folder in folders() {
        let pool = common::pool(16);
        for (name, mut engine) in all_engines(16, &pool) {
            let backing = create(&folder.path().join(name), 1 << 20, IoMode::Buffered);
            let file = engine.attach(&backing).unwrap();
            let memory = parts(&pool, [&[1; 7], &[2; 5001], &[3; 1], &[4; 99]]);
            let done = run(&mut engine, file, transfer(DURABLE, memory, [777, 3, 5007]));
            assert_eq!(done.result, Ok(5007), "{name}");
            let expected = repeated(&[(0, 1), (1, 4), (2, 5001), (3, 1), (4, 1), (0, 1)]);
            assert!(contents(&mut engine, file, &pool, 776, 5009) == expected);

            let memory = empty(&pool, [1000, 3001, 1003]);
            let read = transfer(OpKind::Read, memory, [778, 999, 4004]);
            let done = run(&mut engine, file, read);
            assert_eq!(done.result, Ok(4004), "{name}");
            let expected = repeated(&[(0, 999), (1, 3), (2, 4001), (0, 1)]);
            let (_, bytes) = unpack(done);
            assert!(bytes[..5004] == expected[..], "{name}");
        }
    }
}

/// The kernel judges each piece: what it does not like is an error, never wrong data.
#[test]
fn direct_transfers_want_aligned_pieces() {
    let folder = &folders()[0];
    let pool = common::pool(16);
    for (name, mut engine) in all_engines(16, &pool) {
        let backing = create(&folder.path().join(name), 1 << 20, IoMode::Direct);
        if backing.io != IoMode::Direct {
            eprintln!("no direct I/O here");
            return;
        }
        let file = engine.attach(&backing).unwrap();
        let memory = parts(&pool, [&[1; 511], &[2; 513]]);
        let done = run(&mut engine, file, transfer(WRITE, memory, [0, 0, 1024]));
        let after = contents(&mut engine, file, &pool, 0, 1024);
        match done.result {
            Ok(1024) => assert!(after == repeated(&[(1, 511), (2, 513)]), "{name}"),
            result => {
                assert_eq!(result, Err(Errno::INVAL), "{name}");
                assert!(after == [0; 1024], "{name}");
            }
        }
    }
}

/// 300 pieces, none beside another: as many as go at once, the rest with the next transfer.
#[test]
fn a_transfer_of_too_many_pieces_is_short() {
    let pool = Pool::new(PoolShape {
        count: 300,
        headroom_bytes: 0,
        data_bytes: 1024,
        alignment: 512,
    })
    .unwrap();
    let reader = common::pool(1);
    for folder in folders() {
        for io in [IoMode::Direct, IoMode::Buffered] {
            for (name, mut engine) in engines(2, &pool) {
                let path = folder.path().join(format!("{name}-{io:?}"));
                let backing = create(&path, 1 << 20, io);
                let file = engine.attach(&backing).unwrap();
                let list = (0..300_u32).map(|number| {
                    let byte = u8::try_from(number % 251).unwrap();
                    part(&pool, &[byte; 512])
                });
                let all = transfer(WRITE, Memory::Parts(list.collect()), [0, 0, 300 * 512]);
                let done = run(&mut engine, file, all);
                assert_eq!(done.result, Ok(256 * 512), "{name}");
                let rest = [256 * 512, 256 * 512, 44 * 512];
                let done = run(&mut engine, file, transfer(WRITE, done.memory, rest));
                assert_eq!(done.result, Ok(44 * 512), "{name}");
                for number in [0, 1, 255, 256, 299] {
                    let byte = u8::try_from(number % 251).unwrap();
                    let found = contents(&mut engine, file, &reader, number * 512, 512);
                    assert!(found == [byte; 512], "{name} {number}");
                }
                let beyond = contents(&mut engine, file, &reader, 300 * 512, 512);
                assert!(beyond == [0; 512], "{name}");
            }
        }
    }
}

#[test]
fn lists_that_make_no_sense_are_refused_and_come_home() {
    everywhere(|engine, file, pool| {
        for (start, len) in [(0, 5121), (4096, 1536), (5120, 512), (usize::MAX, 512)] {
            let memory = empty(pool, [4096, 1024]);
            let read = transfer(OpKind::Read, memory, [0, start, len]);
            let done = run(engine, file, read);
            assert_eq!(done.result, Err(Errno::INVAL), "{start} {len}");
            assert_eq!(unpack(done).0, [4096, 1024]);
        }
        let nothing = transfer(OpKind::Read, Memory::Parts(Vec::new()), [0, 0, 512]);
        assert_eq!(run(engine, file, nothing).result, Err(Errno::INVAL));
        let nothing = transfer(OpKind::Read, Memory::Parts(Vec::new()), [0, 0, 0]);
        assert_eq!(run(engine, file, nothing).result, Ok(0));
    });
}

#[test]
fn gathered_reads_are_short_at_the_end() {
    everywhere(|engine, file, pool| {
        let end = 1 << 20;
        for (before, got) in [(1536, 1536), (512, 512), (0, 0)] {
            let memory = empty(pool, [1024, 1024]);
            let read = transfer(OpKind::Read, memory, [end - before, 0, 2048]);
            assert_eq!(run(engine, file, read).result, Ok(got));
        }
    });
}
