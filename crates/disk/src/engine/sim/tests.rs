//! The fault model, one clause each.

use super::*;
use crate::device::{Errno, Memory, OpId, OpKind, Part};
use std::collections::BTreeSet;

type TestDisk = SimDisk<Vec<u8>>;

const PLAIN: OpKind = OpKind::Write { durable: false };
const DURABLE: OpKind = OpKind::Write { durable: true };
const ALWAYS: u32 = 1_000_000;

fn disk(seed: u64) -> TestDisk {
    SimDisk::new(
        seed,
        SimDiskShape {
            size_bytes: 64 * 512,
            capacity: 8,
            ..SimDiskShape::default()
        },
    )
}

/// An operation on `sectors` from `lba` on, each of which has its memory filled with `fill`.
fn op(kind: OpKind, lba: u64, sectors: u64, fill: u8) -> DeviceOp<Vec<u8>> {
    let len = usize::try_from(sectors).unwrap() * 512;
    let transfer = matches!(kind, OpKind::Read | OpKind::Write { .. });
    DeviceOp {
        id: OpId(u32::from(fill)),
        kind,
        offset_bytes: lba * 512,
        len_bytes: sectors * 512,
        memory: transfer.then(|| vec![fill; len]).into(),
        memory_start: 0,
    }
}

fn start(disk: &mut TestDisk, op: DeviceOp<Vec<u8>>) {
    disk.submit(TestDisk::FILE, op).unwrap();
    disk.kick().unwrap();
}

/// The next completion, whenever it is due.
fn end(disk: &mut TestDisk) -> Completion<Vec<u8>> {
    disk.advance(disk.next_due().unwrap());
    disk.poll().unwrap().1
}

fn run(disk: &mut TestDisk, op: DeviceOp<Vec<u8>>) -> Completion<Vec<u8>> {
    assert_eq!(disk.in_flight(), 0);
    start(disk, op);
    end(disk)
}

/// First bytes of what a power cut may leave.
fn survivors(disk: &TestDisk, lba: u64) -> Vec<u8> {
    let survivors: Vec<[u8; 512]> = disk.survivors(lba);
    survivors.iter().map(|sector| sector[0]).collect()
}

#[test]
fn a_durable_write_is_stable_and_a_plain_one_waits_for_a_sync() {
    let mut disk = disk(0);
    assert_eq!(run(&mut disk, op(DURABLE, 1, 2, 5)).result, Ok(1024));
    run(&mut disk, op(PLAIN, 2, 2, 6));
    assert_eq!([0, 1, 2, 3].map(|lba| disk.sector(lba)[511]), [0, 5, 6, 6]);
    assert_eq!(survivors(&disk, 1), [5]);
    assert_eq!(survivors(&disk, 2), [5, 6]);
    assert_eq!(run(&mut disk, op(OpKind::Sync, 0, 0, 0)).result, Ok(0));
    assert_eq!(survivors(&disk, 2), [6]);
    run(&mut disk, op(OpKind::Discard, 1, 2, 0));
    assert_eq!(disk.sector(2), [0; 512]);
    assert_eq!(survivors(&disk, 1), [5, 0]);
}

#[test]
fn a_sync_does_not_cover_what_completes_after_its_start() {
    let mut disk = disk(0);
    start(&mut disk, op(PLAIN, 1, 1, 5));
    start(&mut disk, op(OpKind::Sync, 0, 0, 0));
    end(&mut disk);
    end(&mut disk);
    assert_eq!(survivors(&disk, 1), [0, 5]);
}

#[test]
fn a_durable_write_beside_a_sync_is_stable_when_that_has_succeeded() {
    let mut disk = disk(0);
    disk.set_latency(Latency {
        least: Duration::from_millis(2),
        most: Duration::from_millis(2),
        ..Latency::default()
    });
    start(&mut disk, op(OpKind::Sync, 0, 0, 0));
    disk.set_latency(Latency::default());
    start(&mut disk, op(DURABLE, 1, 1, 5));
    assert_eq!(end(&mut disk).result, Ok(512));
    assert_eq!(survivors(&disk, 1), [0, 5]);
    assert_eq!(end(&mut disk).id, OpId(0));
    assert_eq!(survivors(&disk, 1), [5]);
}

#[test]
fn memory_in_parts_is_one_memory_from_its_start_on() {
    let mut disk = disk(0);
    let parts = |fills: [u8; 3]| {
        let part = |fill| Part {
            buffer: vec![fill; 2048],
            len_bytes: 1024,
        };
        Memory::Parts(fills.map(part).into())
    };
    let mut write = op(DURABLE, 8, 4, 9);
    write.memory = parts([1, 2, 3]);
    write.memory_start = 512;
    assert_eq!(run(&mut disk, write).result, Ok(2048));
    let found = [7, 8, 9, 10, 11, 12].map(|lba| disk.sector(lba)[0]);
    assert_eq!(found, [0, 1, 2, 2, 3, 0]);

    let mut read = op(OpKind::Read, 8, 4, 9);
    read.memory = parts([9, 9, 9]);
    read.memory_start = 512;
    let Memory::Parts(parts) = run(&mut disk, read).memory else {
        panic!("as they went");
    };
    let bytes = parts.iter().flat_map(|part| &part.buffer[..1024]);
    let firsts: Vec<u8> = bytes.step_by(512).copied().collect();
    assert_eq!(firsts, [9, 1, 2, 2, 3, 9]);
    assert_eq!(parts[0].buffer[1024], 9, "behind the part");

    let mut short = op(OpKind::Read, 8, 4, 9);
    short.memory_start = 512;
    assert_eq!(run(&mut disk, short).result, Err(Errno::INVAL));
}

#[test]
fn time_is_the_callers_and_completions_come_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..50 {
        let mut disk = disk(seed);
        for lba in 0..3_u8 {
            start(&mut disk, op(OpKind::Read, lba.into(), 1, lba));
        }
        disk.submit(TestDisk::FILE, op(OpKind::Read, 9, 1, 9))
            .unwrap();
        assert!(disk.poll().is_none() && disk.next_due() >= Some(Duration::from_micros(50)));
        disk.advance(Duration::from_micros(500));
        let ids = [(); 3].map(|()| disk.poll().unwrap().1.id.0);
        assert!(disk.poll().is_none(), "one was never kicked");
        assert_eq!(disk.in_flight(), 1);
        orders.insert(ids);
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn some_operations_are_slow() {
    let mut disk = disk(0);
    disk.set_latency(Latency {
        slow_ppm: ALWAYS,
        slow: Duration::from_secs(1),
        ..Latency::default()
    });
    start(&mut disk, op(OpKind::Read, 0, 1, 0));
    assert!(disk.next_due() >= Some(Duration::from_micros(1_000_050)));
}

#[test]
fn a_short_write_stores_whole_sectors_of_what_it_counts() {
    let mut inside = 0;
    for seed in 0..100 {
        let mut disk = disk(seed);
        disk.set_faults(Faults {
            short_ppm: ALWAYS,
            ..Faults::default()
        });
        let len = run(&mut disk, op(DURABLE, 0, 8, 5)).result.unwrap();
        assert!((1..4096).contains(&len));
        inside += u32::from(len % 512 > 0);
        for lba in 0..8 {
            let expected = if (lba + 1) * 512 <= len { 5 } else { 0 };
            assert_eq!(survivors(&disk, lba.into()), [expected], "of {len} bytes");
        }
        let read = run(&mut disk, op(OpKind::Read, 0, 8, 9));
        let len = read.result.unwrap();
        let memory = read.memory.into_one().unwrap();
        assert_eq!(memory[len as usize..], vec![9; 4096 - len as usize]);
        assert_eq!(memory[0], disk.sector(0)[0]);
    }
    assert!((20..80).contains(&inside), "{inside} ended inside a sector");
}

#[test]
fn errors_come_as_often_as_told_and_interruptions_do_nothing() {
    let all: [(Faults, OpKind, &[Errno]); 6] = [
        (
            Faults {
                interrupted_ppm: 500_000,
                ..Faults::default()
            },
            PLAIN,
            &[Errno::AGAIN, Errno::INTR],
        ),
        (
            Faults {
                read_error_ppm: 500_000,
                ..Faults::default()
            },
            OpKind::Read,
            &[Errno::IO],
        ),
        (
            Faults {
                write_error_ppm: 500_000,
                ..Faults::default()
            },
            DURABLE,
            &[Errno::IO],
        ),
        (
            Faults {
                no_space_ppm: 500_000,
                ..Faults::default()
            },
            DURABLE,
            &[Errno::NOSPC],
        ),
        (
            Faults {
                sync_error_ppm: 500_000,
                ..Faults::default()
            },
            OpKind::Sync,
            &[Errno::IO],
        ),
        (
            Faults {
                discard_error_ppm: 500_000,
                ..Faults::default()
            },
            OpKind::Discard,
            &[Errno::IO],
        ),
    ];
    for (faults, kind, expected) in all {
        let mut disk = disk(3);
        disk.set_faults(faults);
        let mut failed = 0;
        for _ in 0..200 {
            if let Err(errno) = run(&mut disk, op(kind, 0, 1, 5)).result {
                assert!(expected.contains(&errno), "{kind:?}: {errno:?}");
                failed += 1;
            }
        }
        assert!(
            (70..130).contains(&failed),
            "{kind:?} failed {failed} times"
        );
        disk.set_faults(Faults {
            interrupted_ppm: ALWAYS,
            ..Faults::default()
        });
        let (before, kept) = (disk.sector(9), survivors(&disk, 9));
        run(&mut disk, op(PLAIN, 9, 1, 6)).result.unwrap_err();
        assert_eq!((disk.sector(9), survivors(&disk, 9)), (before, kept));
    }
}

#[test]
fn a_failed_write_reaches_some_of_its_sectors_and_makes_none_stable() {
    let mut reached = BTreeSet::new();
    for seed in 0..50 {
        let mut disk = disk(seed);
        disk.set_faults(Faults {
            write_error_ppm: ALWAYS,
            ..Faults::default()
        });
        let completion = run(&mut disk, op(DURABLE, 0, 2, 5));
        assert_eq!(completion.result, Err(Errno::IO));
        assert_eq!(completion.memory.into_one(), Some(vec![5; 1024]));
        let found = [0, 1].map(|lba| survivors(&disk, lba));
        assert!(
            found
                .iter()
                .all(|sector| [&[0][..], &[0, 5]].contains(&&sector[..]))
        );
        reached.insert(found);
    }
    assert_eq!(reached.len(), 4);
}

#[test]
fn a_failed_read_may_leave_its_memory_changed() {
    let mut disk = disk(1);
    disk.set_faults(Faults {
        read_error_ppm: ALWAYS,
        ..Faults::default()
    });
    let mut changed = 0;
    for _ in 0..10 {
        let completion = run(&mut disk, op(OpKind::Read, 0, 2, 5));
        changed += u32::from(completion.memory.into_one().unwrap() != vec![5; 1024]);
    }
    assert!(changed > 5, "{changed} of 10");
}

#[test]
fn a_faulty_region_fails_what_touches_it() {
    for seed in 0..20 {
        let mut disk = disk(seed);
        disk.set_faulty_regions(&[FaultyRegion {
            sectors: 4..6,
            reads: true,
            writes: false,
        }]);
        assert_eq!(run(&mut disk, op(OpKind::Read, 0, 4, 1)).result, Ok(2048));
        assert_eq!(run(&mut disk, op(OpKind::Read, 6, 4, 1)).result, Ok(2048));
        assert_eq!(run(&mut disk, op(DURABLE, 3, 4, 1)).result, Ok(2048));
        assert_eq!(
            run(&mut disk, op(OpKind::Read, 5, 4, 1)).result,
            Err(Errno::IO)
        );
        let touching = run(&mut disk, op(OpKind::Read, 2, 4, 1)).result;
        assert!(
            [Ok(1024), Err(Errno::IO)].contains(&touching),
            "{touching:?}"
        );
    }
    let mut disk = disk(0);
    disk.set_faulty_regions(&[FaultyRegion {
        sectors: 4..5,
        reads: false,
        writes: true,
    }]);
    for kind in [DURABLE, PLAIN, OpKind::Discard] {
        assert_eq!(run(&mut disk, op(kind, 4, 4, 1)).result, Err(Errno::IO));
    }
    assert_eq!(run(&mut disk, op(OpKind::Read, 4, 4, 1)).result, Ok(2048));
}

/// The kernel writes back when it likes, and tells of a failure once.
#[test]
fn behind_the_page_cache_a_failed_sync_concerns_what_came_after_its_start() {
    let lost = |page_cache| {
        (0..50).any(|seed| {
            let mut disk = SimDisk::new(
                seed,
                SimDiskShape {
                    page_cache,
                    ..SimDiskShape::default()
                },
            );
            start(&mut disk, op(OpKind::Sync, 0, 0, 0));
            start(&mut disk, op(PLAIN, 1, 1, 5));
            disk.set_faults(Faults {
                sync_error_ppm: ALWAYS,
                ..Faults::default()
            });
            end(&mut disk);
            end(&mut disk);
            disk.sector(1) == [0; 512]
        })
    };
    assert!(lost(true) && !lost(false));
}

#[test]
fn a_power_cut_ends_what_is_in_flight_and_the_end_of_the_process_loses_nothing() {
    let mut seen = BTreeSet::new();
    for seed in 0..200 {
        let mut disk = disk(seed);
        run(&mut disk, op(PLAIN, 0, 1, 5));
        start(&mut disk, op(DURABLE, 1, 1, 6));
        if seed % 2 == 0 {
            disk.cut_power();
        } else {
            disk.kill();
            assert_eq!(survivors(&disk, 0), [0, 5]);
        }
        assert_eq!((disk.in_flight(), disk.next_due()), (0, None));
        seen.insert((seed % 2 == 0, [0, 1].map(|lba| disk.sector(lba)[0])));
    }
    let cut = [[0, 0], [0, 6], [5, 0], [5, 6]].map(|left| (true, left));
    let killed = [[5, 0], [5, 6]].map(|left| (false, left));
    assert_eq!(seen, cut.into_iter().chain(killed).collect());
}

#[test]
fn nothing_is_beyond_a_nearer_end_and_zeros_are_beyond_an_old_one() {
    let mut disk = disk(1);
    run(&mut disk, op(DURABLE, 10, 4, 1));
    start(&mut disk, op(PLAIN, 14, 4, 2));
    disk.set_end(12 * 512);
    let under_way = end(&mut disk);
    assert_eq!(under_way.result, Err(Errno::NOSPC), "it began before");
    for (kind, lba, expected) in [
        (OpKind::Read, 10, Ok(1024)),
        (OpKind::Read, 12, Ok(0)),
        (DURABLE, 11, Ok(512)),
        (PLAIN, 12, Err(Errno::NOSPC)),
        (OpKind::Discard, 10, Err(Errno::INVAL)),
    ] {
        let done = run(&mut disk, op(kind, lba, 4, 3));
        assert_eq!(done.result, expected, "{kind:?} {lba}");
    }
    // What begins now does not reach what is there when it ends.
    start(&mut disk, op(PLAIN, 11, 4, 4));
    disk.set_end(64 * 512);
    assert_eq!(end(&mut disk).result, Ok(512));
    for lba in 12..18 {
        assert_eq!(survivors(&disk, lba), [0], "sector {lba}");
    }
}

/// A write that ended short before the region reached beyond the end.
#[test]
fn a_faulty_region_beyond_the_end_changes_nothing() {
    for seed in 0..20 {
        let mut disk = disk(seed);
        disk.set_faulty_regions(&[FaultyRegion {
            sectors: 6..7,
            reads: true,
            writes: true,
        }]);
        disk.set_end(4 * 512);
        let done = run(&mut disk, op(DURABLE, 0, 8, 3));
        assert!(matches!(done.result, Ok(2048) | Err(Errno::IO)), "{done:?}");
        assert_eq!([4, 5].map(|lba| survivors(&disk, lba)), [[0], [0]]);
    }
}

#[test]
fn the_same_seed_is_the_same_disk() {
    let trace = |seed| {
        let mut disk = disk(seed);
        disk.set_faults(Faults {
            short_ppm: 200_000,
            write_error_ppm: 200_000,
            sync_error_ppm: 200_000,
            ..Faults::default()
        });
        let mut trace = Vec::new();
        for round in 0..50 {
            let lba = u64::from(round) % 32;
            start(&mut disk, op(PLAIN, lba, 8, round));
            start(&mut disk, op(OpKind::Sync, 0, 0, 0));
            for _ in 0..2 {
                let completion = end(&mut disk);
                trace.push((disk.now(), completion.id, completion.result));
            }
        }
        disk.cut_power();
        (
            trace,
            (0..64).map(|lba| disk.sector(lba)[0]).collect::<Vec<_>>(),
        )
    };
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
}

#[test]
fn a_full_disk_gives_the_operation_back() {
    let mut disk = disk(0);
    for lba in 0..8 {
        start(&mut disk, op(OpKind::Read, lba, 1, 0));
    }
    let refused = disk.submit(TestDisk::FILE, op(OpKind::Read, 8, 1, 3));
    assert_eq!(refused.unwrap_err().id, OpId(3));
}

/// Whether the disk panics about the second operation while the first is in flight.
fn panics(shape: SimDiskShape, first: DeviceOp<Vec<u8>>, second: DeviceOp<Vec<u8>>) -> bool {
    let outcome = std::panic::catch_unwind(|| {
        let mut disk = SimDisk::new(0, shape);
        disk.submit(TestDisk::FILE, first).unwrap();
        disk.kick().unwrap();
        disk.submit(TestDisk::FILE, second).unwrap();
    });
    outcome.is_err()
}

#[test]
fn what_overlaps_a_change_in_flight_is_a_mistake() {
    let discard = OpKind::Discard;
    let read = OpKind::Read;
    let panics = |first, second, at| {
        let shape = SimDiskShape::default();
        panics(shape, op(first, 10, 4, 1), op(second, at, 4, 2))
    };
    for (first, second) in [
        (PLAIN, read),
        (read, DURABLE),
        (PLAIN, DURABLE),
        (discard, read),
    ] {
        let found = [6, 7, 13, 14].map(|at| panics(first, second, at));
        assert_eq!(found, [false, true, true, false], "{first:?} {second:?}");
    }
    assert!(!panics(read, read, 10));
}

#[test]
fn what_is_not_whole_blocks_or_not_on_the_disk_is_a_mistake() {
    let shape = SimDiskShape {
        // The last block has two sectors, the last unit of discards ten.
        size_bytes: 26 * 512,
        block_bytes: 4096,
        discard_bytes: 8192,
        ..SimDiskShape::default()
    };
    let panics = |op| panics(shape, self::op(OpKind::Sync, 0, 0, 0), op);
    for (kind, good, bad) in [
        (
            OpKind::Read,
            [(8, 8), (24, 2)],
            [(4, 8), (8, 4), (24, 1), (24, 8)],
        ),
        (
            DURABLE,
            [(0, 26), (16, 8)],
            [(1, 1), (0, 25), (26, 0), (32, 8)],
        ),
        (
            OpKind::Discard,
            [(0, 16), (16, 10)],
            [(8, 8), (0, 8), (16, 8), (0, 0)],
        ),
    ] {
        for (lba, sectors) in good {
            assert!(
                !panics(op(kind, lba, sectors, 1)),
                "{kind:?} {lba} {sectors}"
            );
        }
        for (lba, sectors) in bad {
            assert!(
                panics(op(kind, lba, sectors, 1)),
                "{kind:?} {lba} {sectors}"
            );
        }
    }
    let mut inside = op(OpKind::Read, 0, 8, 1);
    inside.memory_start = 512;
    assert!(panics(inside));
    let parts = |lens: [u32; 2]| {
        let mut op = op(OpKind::Read, 0, 8, 1);
        let part = |len_bytes| Part {
            buffer: vec![0; 4096],
            len_bytes,
        };
        op.memory = Memory::Parts(lens.map(part).into());
        op
    };
    assert!(panics(parts([2048, 2048])));
    assert!(!panics(parts([4096, 512])));
}
