//! Stories of a shadow whose files do as they are told.

use super::*;
use crate::device::Part;

type Buffer = Vec<u8>;
type Polled = (ShadowFile, DeviceOp<Buffer>);

const READ: OpKind = OpKind::Read;
const DURABLE: OpKind = OpKind::Write { durable: true };
const PLAIN: OpKind = OpKind::Write { durable: false };
const BLOCK: u64 = BLOCK_BYTES;

struct Bench {
    shadow: Shadow<Buffer>,
}

impl Bench {
    fn new(when_full: WhenFull) -> Self {
        let settings = ShadowSettings {
            capacity: 4,
            size_bytes: 100 * BLOCK,
            when_full,
        };
        let memory = Memory::One(vec![0; 8192]);
        Self {
            shadow: Shadow::new(settings, vec![0; 512], memory),
        }
    }

    fn frozen(when_full: WhenFull, limit_bytes: Option<u64>) -> Self {
        let mut bench = Self::new(when_full);
        bench.shadow.freeze(1, limit_bytes).unwrap();
        bench.expect(ShadowFile::Image, OpKind::Sync);
        assert_eq!(bench.shadow.poll_event(), Some(ShadowEvent::Frozen));
        bench
    }

    /// With one dirty block, being merged.
    fn merging() -> Self {
        let mut bench = Self::new(WhenFull::FailWrites);
        bench.shadow.freeze(1, None).unwrap();
        bench.expect(ShadowFile::Image, OpKind::Sync);
        bench.submit(1, DURABLE, 5, 1);
        bench.expect(ShadowFile::Data, DURABLE);
        bench.expect(ShadowFile::Map, DURABLE);
        assert_eq!(bench.answer(), (1, Ok(4096)));
        bench.shadow.thaw().unwrap();
        bench.expect(ShadowFile::Data, OpKind::Sync);
        bench.expect(ShadowFile::Map, DURABLE);
        bench.events();
        bench
    }

    fn submit(&mut self, id: u32, kind: OpKind, block: u64, blocks: u64) {
        let len = usize::try_from(blocks * BLOCK).unwrap();
        let op = DeviceOp {
            id: OpId(id),
            kind,
            offset_bytes: block * BLOCK,
            len_bytes: blocks * BLOCK,
            memory: Memory::One(vec![0; len]),
            memory_start: 0,
        };
        self.shadow.submit(op).unwrap();
    }

    /// The next operation, which must be this.
    fn poll(&mut self, file: ShadowFile, kind: OpKind) -> DeviceOp<Buffer> {
        let (found, op): Polled = self.shadow.poll_device().expect("an operation");
        assert_eq!((found, op.kind), (file, kind));
        op
    }

    fn finish(&mut self, op: DeviceOp<Buffer>, result: Result<u64, Errno>) {
        self.shadow.handle_device(Completion {
            id: op.id,
            memory: op.memory,
            result: result.map(|bytes| u32::try_from(bytes).unwrap()),
        });
    }

    /// The next operation must be this, and succeeds. Where it was.
    fn expect(&mut self, file: ShadowFile, kind: OpKind) -> (u64, u64) {
        let op = self.poll(file, kind);
        let place = (op.offset_bytes / BLOCK, op.len_bytes / BLOCK);
        let len = op.len_bytes;
        self.finish(op, Ok(len));
        place
    }

    fn answer(&mut self) -> (u32, Result<u32, Errno>) {
        let done = self.shadow.poll_done().expect("an answer");
        (done.id.0, done.result)
    }

    fn nothing_to_do(&mut self) {
        assert!(self.shadow.poll_device().is_none());
        assert!(self.shadow.poll_done().is_none());
    }

    fn events(&mut self) -> Vec<ShadowEvent> {
        std::iter::from_fn(|| self.shadow.poll_event()).collect()
    }

    fn phase(&self) -> ShadowPhase {
        self.shadow.status().phase
    }
}

#[test]
fn thawed_everything_goes_to_the_image_as_it_is() {
    let mut bench = Bench::new(WhenFull::FailWrites);
    for (id, kind) in [(1, READ), (2, DURABLE), (3, PLAIN), (4, OpKind::Discard)] {
        bench.submit(id, kind, 3, 2);
        assert_eq!(bench.expect(ShadowFile::Image, kind), (3, 2));
        let bytes = if kind == OpKind::Discard { 0 } else { 8192 };
        assert_eq!(bench.answer(), (id, Ok(bytes)));
    }
    bench.submit(5, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.answer(), (5, Ok(0)));
    assert!(bench.shadow.is_idle());
}

#[test]
fn a_freeze_waits_for_writes_under_way_and_holds_those_that_come() {
    let mut bench = Bench::new(WhenFull::FailWrites);
    bench.submit(1, DURABLE, 0, 1);
    let write = bench.poll(ShadowFile::Image, DURABLE);
    bench.shadow.freeze(1, None).unwrap();
    bench.submit(2, DURABLE, 1, 1);
    bench.submit(3, READ, 2, 1);
    bench.expect(ShadowFile::Image, READ);
    assert_eq!(bench.answer().0, 3, "reads go on");
    bench.nothing_to_do();
    bench.finish(write, Ok(4096));
    assert_eq!(bench.answer(), (1, Ok(4096)));
    assert_eq!(bench.phase(), ShadowPhase::Freezing);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.events(), [ShadowEvent::Frozen]);
    bench.expect(ShadowFile::Data, DURABLE);
}

#[test]
fn an_image_that_cannot_be_synced_is_not_frozen_and_the_next_sync_tells() {
    let mut bench = Bench::new(WhenFull::FailWrites);
    bench.shadow.freeze(1, None).unwrap();
    let sync = bench.poll(ShadowFile::Image, OpKind::Sync);
    bench.finish(sync, Err(Errno::IO));
    let failure = ShadowFailure {
        file: ShadowFile::Image,
        errno: Errno::IO,
    };
    assert_eq!(bench.events(), [ShadowEvent::FreezeFailed(failure)]);
    assert_eq!(bench.phase(), ShadowPhase::Thawed);
    bench.submit(1, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.answer(), (1, Err(Errno::IO)));
}

#[test]
fn a_durable_write_is_done_when_its_record_is() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, DURABLE, 5, 2);
    assert_eq!(bench.expect(ShadowFile::Data, DURABLE), (5, 2));
    assert!(bench.shadow.poll_done().is_none());
    let unit = bench.poll(ShadowFile::Map, DURABLE);
    assert_eq!((unit.offset_bytes, unit.len_bytes), (512, 512));
    assert!(bench.shadow.poll_done().is_none());
    bench.finish(unit, Ok(512));
    assert_eq!(bench.answer(), (1, Ok(8192)));
    // Its blocks are recorded now.
    bench.submit(2, DURABLE, 6, 1);
    bench.expect(ShadowFile::Data, DURABLE);
    assert_eq!(bench.answer(), (2, Ok(4096)));
    assert_eq!(bench.shadow.status().dirty_bytes, 8192);
}

#[test]
fn a_sync_makes_data_stable_before_it_is_recorded() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, PLAIN, 5, 2);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (1, Ok(8192)));
    bench.nothing_to_do();
    // A durable write beside it records itself and not the other.
    bench.submit(2, DURABLE, 9, 1);
    bench.expect(ShadowFile::Data, DURABLE);
    let mut unit = bench.poll(ShadowFile::Map, DURABLE);
    let Memory::One(bytes) = &mut unit.memory else {
        panic!("{unit:?}");
    };
    assert_eq!((bytes[6], bytes[24], bytes[32]), (1, 9, 1));
    bench.finish(unit, Ok(512));
    assert_eq!(bench.answer(), (2, Ok(4096)));

    bench.submit(3, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    assert!(bench.shadow.poll_done().is_none());
    bench.expect(ShadowFile::Map, DURABLE);
    assert_eq!(bench.answer(), (3, Ok(0)));
}

#[test]
fn a_read_is_put_together_in_its_own_memory() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, PLAIN, 5, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer().0, 1);
    let part = || Part {
        buffer: vec![0; 4096],
        len_bytes: 4096,
    };
    // Blocks 4 to 6 from the second byte of the memory's second sector on.
    bench
        .shadow
        .submit(DeviceOp {
            id: OpId(2),
            kind: READ,
            offset_bytes: 4 * BLOCK + 512,
            len_bytes: 2 * BLOCK,
            memory: Memory::Parts(vec![part(), part(), part()]),
            memory_start: 513,
        })
        .unwrap();
    let mut pieces = Vec::new();
    while let Some((file, op)) = bench.shadow.poll_device() {
        assert!(matches!(&op.memory, Memory::Parts(parts) if parts.len() == 3));
        pieces.push((file, op.offset_bytes, op.len_bytes, op.memory_start));
        let len = op.len_bytes;
        bench.finish(op, Ok(len));
    }
    assert_eq!(
        pieces,
        [
            (ShadowFile::Image, 16896, 3584, 513),
            (ShadowFile::Data, 20480, 4096, 4097),
            (ShadowFile::Image, 24576, 512, 8193),
        ]
    );
    assert_eq!(bench.answer(), (2, Ok(8192)));
}

#[test]
fn a_full_shadow_fails_writes_and_nothing_else() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, Some(2 * BLOCK));
    bench.submit(1, PLAIN, 5, 2);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer().0, 1);
    for id in [2, 3] {
        bench.submit(id, DURABLE, 9, 1);
        assert_eq!(bench.answer(), (id, Err(Errno::NOSPC)));
    }
    assert_eq!(bench.events(), [ShadowEvent::Full], "said once");
    bench.submit(4, PLAIN, 6, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (4, Ok(4096)), "its block has its place");
    bench.submit(5, READ, 9, 1);
    bench.expect(ShadowFile::Image, READ);
    // A discard takes no room, and makes some.
    bench.submit(6, OpKind::Discard, 5, 90);
    bench.expect(ShadowFile::Data, OpKind::Discard);
    assert_eq!(bench.shadow.status().used_bytes, 0);
    bench.submit(7, PLAIN, 9, 2);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.shadow.status().used_bytes, 8192);
    assert_eq!(bench.shadow.status().dirty_bytes, 90 * BLOCK);
}

#[test]
fn writes_under_way_count_against_the_limit() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, Some(BLOCK));
    bench.submit(1, PLAIN, 5, 1);
    let write = bench.poll(ShadowFile::Data, PLAIN);
    bench.submit(2, PLAIN, 6, 1);
    assert_eq!(bench.answer(), (2, Err(Errno::NOSPC)));
    // The first fails and gives its room back.
    bench.finish(write, Err(Errno::IO));
    assert_eq!(bench.answer(), (1, Err(Errno::IO)));
    bench.submit(3, PLAIN, 6, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (3, Ok(4096)));
}

#[test]
fn a_full_shadow_may_thaw_instead() {
    for full_file_system in [false, true] {
        let limit = (!full_file_system).then_some(BLOCK);
        let mut bench = Bench::frozen(WhenFull::Thaw, limit);
        bench.submit(1, DURABLE, 9, 2);
        if full_file_system {
            let write = bench.poll(ShadowFile::Data, DURABLE);
            bench.finish(write, Err(Errno::NOSPC));
        }
        assert!(bench.shadow.poll_done().is_none());
        bench.expect(ShadowFile::Data, OpKind::Sync);
        bench.expect(ShadowFile::Map, DURABLE);
        let merging = ShadowEvent::Merging { automatic: true };
        assert_eq!(bench.events(), [merging]);
        // Nothing is dirty: only the end is to be recorded.
        bench.expect(ShadowFile::Map, DURABLE);
        assert_eq!(bench.events(), [ShadowEvent::Merged]);
        assert_eq!(bench.expect(ShadowFile::Image, DURABLE), (9, 2));
        assert_eq!(bench.answer(), (1, Ok(8192)));
    }
}

#[test]
fn changes_that_are_not_whole_blocks_are_refused_while_frozen() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    for (offset_bytes, len_bytes) in [(512, 4096), (0, 512), (99 * BLOCK, 2 * BLOCK)] {
        bench
            .shadow
            .submit(DeviceOp {
                id: OpId(1),
                kind: DURABLE,
                offset_bytes,
                len_bytes,
                memory: Memory::One(vec![0; 8192]),
                memory_start: 0,
            })
            .unwrap();
        assert_eq!(bench.answer(), (1, Err(Errno::INVAL)));
    }
}

#[test]
fn a_run_is_merged_synced_recorded_and_only_then_free() {
    let mut bench = Bench::merging();
    assert_eq!(bench.expect(ShadowFile::Data, READ), (5, 1));
    bench.submit(2, DURABLE, 4, 2);
    bench.submit(3, DURABLE, 7, 1);
    bench.submit(4, READ, 5, 1);
    assert_eq!(bench.expect(ShadowFile::Image, PLAIN), (5, 1));
    let sync = bench.poll(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.expect(ShadowFile::Image, DURABLE), (7, 1));
    assert_eq!(bench.answer(), (3, Ok(4096)), "another block is free");
    assert_eq!(bench.expect(ShadowFile::Data, READ), (5, 1));
    assert_eq!(bench.answer(), (4, Ok(4096)));
    bench.nothing_to_do();
    bench.finish(sync, Ok(0));
    let unit = bench.poll(ShadowFile::Map, DURABLE);
    bench.nothing_to_do();
    assert_eq!(bench.shadow.status().dirty_bytes, BLOCK);
    bench.finish(unit, Ok(512));
    assert_eq!(bench.shadow.status().dirty_bytes, 0);
    bench.expect(ShadowFile::Map, DURABLE);
    assert_eq!(bench.expect(ShadowFile::Image, DURABLE), (4, 2));
    assert_eq!(bench.events(), [ShadowEvent::Merged]);
    assert!(bench.shadow.retire());
    assert_eq!(bench.phase(), ShadowPhase::Thawed);
}

#[test]
fn a_merge_waits_for_a_write_to_its_run() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, DURABLE, 5, 1);
    bench.expect(ShadowFile::Data, DURABLE);
    bench.expect(ShadowFile::Map, DURABLE);
    bench.submit(2, DURABLE, 8, 1);
    bench.expect(ShadowFile::Data, DURABLE);
    bench.expect(ShadowFile::Map, DURABLE);
    bench.shadow.thaw().unwrap();
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
    // The first batch is both blocks; it fails, and in between a write to one of them begins.
    let read = bench.poll(ShadowFile::Data, READ);
    bench.finish(read, Err(Errno::IO));
    bench.submit(3, PLAIN, 8, 1);
    let write = bench.poll(ShadowFile::Data, PLAIN);
    bench.shadow.thaw().unwrap();
    assert!(bench.shadow.poll_device().is_none());
    bench.finish(write, Ok(4096));
    assert_eq!(bench.expect(ShadowFile::Data, READ), (5, 1));
}

#[test]
fn a_merge_that_fails_stops_and_may_be_tried_again() {
    let mut bench = Bench::merging();
    bench.expect(ShadowFile::Data, READ);
    bench.submit(2, DURABLE, 5, 1);
    let write = bench.poll(ShadowFile::Image, PLAIN);
    bench.finish(write, Err(Errno::IO));
    let failure = ShadowFailure {
        file: ShadowFile::Image,
        errno: Errno::IO,
    };
    assert_eq!(bench.events(), [ShadowEvent::MergeStopped(failure)]);
    let status = bench.shadow.status();
    assert_eq!(
        (status.phase, status.dirty_bytes, status.failure),
        (ShadowPhase::Stopped, BLOCK, Some(failure))
    );
    // What waited for the run goes on, in the shadow.
    bench.expect(ShadowFile::Data, DURABLE);
    assert_eq!(bench.answer().0, 2);
    bench.nothing_to_do();
    bench.shadow.thaw().unwrap();
    bench.expect(ShadowFile::Data, READ);
    bench.expect(ShadowFile::Image, PLAIN);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
    bench.expect(ShadowFile::Map, DURABLE);
    assert_eq!(bench.phase(), ShadowPhase::Merged);
}

/// Its unit may be on the disk all the same, and would hide a write that came later.
#[test]
fn after_a_merge_that_may_be_recorded_blocks_are_recorded_anew_before_a_write_is_promised() {
    let mut bench = Bench::merging();
    bench.expect(ShadowFile::Data, READ);
    bench.expect(ShadowFile::Image, PLAIN);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    let unit = bench.poll(ShadowFile::Map, DURABLE);
    let place = unit.offset_bytes;
    bench.finish(unit, Err(Errno::IO));
    assert_eq!(bench.phase(), ShadowPhase::Stopped);
    bench.submit(2, DURABLE, 5, 1);
    bench.expect(ShadowFile::Data, DURABLE);
    assert!(bench.shadow.poll_done().is_none());
    let mut unit = bench.poll(ShadowFile::Map, DURABLE);
    let Memory::One(bytes) = &mut unit.memory else {
        panic!("{unit:?}");
    };
    assert_eq!((bytes[4], bytes[24]), (1, 5), "block 5, dirtied");
    assert_eq!(unit.offset_bytes, place, "in the same place");
    bench.finish(unit, Ok(512));
    assert_eq!(bench.answer(), (2, Ok(4096)));
}

#[test]
fn a_merge_does_not_trust_its_sync_after_another_has_failed() {
    let mut bench = Bench::merging();
    bench.expect(ShadowFile::Data, READ);
    bench.submit(2, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    let sync = bench.poll(ShadowFile::Image, OpKind::Sync);
    bench.expect(ShadowFile::Image, PLAIN);
    bench.finish(sync, Err(Errno::IO));
    assert_eq!(bench.answer(), (2, Err(Errno::IO)));
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.phase(), ShadowPhase::Stopped, "it may be about ours");
    assert_eq!(bench.shadow.status().dirty_bytes, BLOCK);
}

/// The process before may have ended between the order to freeze and the image's sync.
#[test]
fn after_a_restart_a_sync_includes_the_image() {
    let replay = Replay::new(&Header {
        freeze_id: 1,
        image_bytes: 100 * BLOCK,
        base_bytes: 0,
        path: Vec::new(),
    })
    .unwrap();
    let Replayed::Unfinished(recovered) = replay.finish() else {
        panic!("nothing was done");
    };
    let mut bench = Bench::new(WhenFull::FailWrites);
    bench.shadow.resume(recovered, None).unwrap();
    assert_eq!(bench.phase(), ShadowPhase::Frozen);
    for image in [true, false] {
        bench.submit(1, OpKind::Sync, 0, 0);
        bench.expect(ShadowFile::Data, OpKind::Sync);
        if image {
            bench.expect(ShadowFile::Image, OpKind::Sync);
        }
        assert_eq!(bench.answer(), (1, Ok(0)));
    }
}

/// To record it once more could fail, and nothing may be taken for frozen whose image changes.
#[test]
fn after_a_restart_a_merge_goes_on_at_once() {
    let mut replay = Replay::new(&Header {
        freeze_id: 1,
        image_bytes: 100 * BLOCK,
        base_bytes: 0,
        path: Vec::new(),
    })
    .unwrap();
    let mut unit = [0; UNIT_BYTES];
    let blocks = Blocks { first: 5, end: 6 };
    record::encode_unit(&mut unit, Kind::Dirtied, 1, 1, [blocks].into_iter());
    replay.unit(&unit);
    record::encode_unit(&mut unit, Kind::Thawing, 1, 2, [].into_iter());
    replay.unit(&unit);
    let Replayed::Unfinished(recovered) = replay.finish() else {
        panic!("a block is dirty");
    };
    let mut bench = Bench::new(WhenFull::FailWrites);
    bench.shadow.resume(recovered, None).unwrap();
    assert_eq!(bench.phase(), ShadowPhase::Merging);
    assert_eq!(bench.expect(ShadowFile::Data, READ), (5, 1));
    bench.expect(ShadowFile::Image, PLAIN);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    let unit = bench.poll(ShadowFile::Map, DURABLE);
    assert_eq!(unit.offset_bytes, 3 * 512);
}

/// The kernel may have dropped what a sync could not write, and tells of it once.
#[test]
fn what_a_failed_sync_should_have_covered_is_not_recorded_by_the_next() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, PLAIN, 5, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (1, Ok(4096)));
    bench.submit(2, OpKind::Sync, 0, 0);
    let sync = bench.poll(ShadowFile::Data, OpKind::Sync);
    bench.finish(sync, Err(Errno::IO));
    assert_eq!(bench.answer(), (2, Err(Errno::IO)));
    bench.submit(3, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    assert_eq!(bench.answer(), (3, Ok(0)));
    bench.nothing_to_do();
    // Written again, it is.
    bench.submit(4, PLAIN, 5, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (4, Ok(4096)));
    bench.submit(5, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
    assert_eq!(bench.answer(), (5, Ok(0)));
}

/// The kernel tells of a failure once: two syncs at the same time, and the wrong one may hear of it.
#[test]
fn syncs_of_volume_and_merge_are_not_under_way_at_once() {
    let mut bench = Bench::merging();
    bench.expect(ShadowFile::Data, READ);
    bench.expect(ShadowFile::Image, PLAIN);
    let sync = bench.poll(ShadowFile::Image, OpKind::Sync);
    bench.submit(2, OpKind::Sync, 0, 0);
    bench.nothing_to_do();
    bench.finish(sync, Err(Errno::IO));
    assert_eq!(bench.phase(), ShadowPhase::Stopped);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.answer(), (2, Err(Errno::IO)), "ours has heard of it");

    let mut bench = Bench::merging();
    bench.submit(2, OpKind::Sync, 0, 0);
    let sync = bench.poll(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Data, READ);
    bench.expect(ShadowFile::Image, PLAIN);
    bench.nothing_to_do();
    bench.finish(sync, Ok(0));
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.answer(), (2, Ok(0)));
    bench.expect(ShadowFile::Image, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
}

#[test]
fn a_failed_sync_puts_in_doubt_what_was_written_beside_it() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, OpKind::Sync, 0, 0);
    let sync = bench.poll(ShadowFile::Data, OpKind::Sync);
    bench.submit(2, PLAIN, 5, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer().0, 2);
    bench.submit(3, PLAIN, 9, 1);
    let write = bench.poll(ShadowFile::Data, PLAIN);
    bench.finish(sync, Err(Errno::IO));
    assert_eq!(bench.answer(), (1, Err(Errno::IO)));
    bench.finish(write, Ok(4096));
    assert_eq!(bench.answer().0, 3);
    bench.submit(4, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    assert_eq!(bench.answer(), (4, Ok(0)), "without a record");
    bench.nothing_to_do();
}

/// Found by seed 9495 of a long simulation: a power cut left zeros in the place of the old content.
#[test]
fn a_block_in_doubt_is_not_recorded_after_its_merge_was_not() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    bench.submit(1, PLAIN, 5, 1);
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer().0, 1);
    bench.submit(2, OpKind::Sync, 0, 0);
    let sync = bench.poll(ShadowFile::Data, OpKind::Sync);
    bench.finish(sync, Err(Errno::IO));
    assert_eq!(bench.answer().0, 2);
    bench.shadow.thaw().unwrap();
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
    bench.expect(ShadowFile::Data, READ);
    bench.expect(ShadowFile::Image, PLAIN);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    let unit = bench.poll(ShadowFile::Map, DURABLE);
    bench.finish(unit, Err(Errno::IO));
    bench.submit(3, OpKind::Sync, 0, 0);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Image, OpKind::Sync);
    assert_eq!(bench.answer(), (3, Ok(0)), "without a record");
    bench.submit(4, DURABLE, 5, 1);
    assert_eq!(bench.answer(), (4, Err(Errno::IO)));
}

/// It would be recorded as dirtied when it is merged already.
#[test]
fn while_merging_a_block_in_doubt_is_not_written_before_it_is_merged() {
    let mut bench = Bench::frozen(WhenFull::FailWrites, None);
    // One batch and a block more.
    for run in 0..31 {
        bench.submit(1, PLAIN, run * 2, 1);
        bench.expect(ShadowFile::Data, PLAIN);
        assert_eq!(bench.answer().0, 1);
        if run == 30 {
            bench.submit(2, OpKind::Sync, 0, 0);
            let sync = bench.poll(ShadowFile::Data, OpKind::Sync);
            bench.finish(sync, Err(Errno::IO));
            assert_eq!(bench.answer().0, 2);
        }
    }
    bench.shadow.thaw().unwrap();
    bench.expect(ShadowFile::Data, OpKind::Sync);
    bench.expect(ShadowFile::Map, DURABLE);
    bench.submit(3, PLAIN, 60, 1);
    for run in 0..31 {
        assert_eq!(bench.expect(ShadowFile::Data, READ), (run * 2, 1));
        assert_eq!(bench.expect(ShadowFile::Image, PLAIN), (run * 2, 1));
        if run >= 29 {
            bench.expect(ShadowFile::Image, OpKind::Sync);
            bench.expect(ShadowFile::Map, DURABLE);
        }
    }
    bench.expect(ShadowFile::Map, DURABLE);
    assert_eq!(bench.expect(ShadowFile::Image, PLAIN), (60, 1));
    assert_eq!(bench.answer(), (3, Ok(4096)));
    assert_eq!(bench.phase(), ShadowPhase::Merged);
}

#[test]
fn commands_out_of_order_are_refused() {
    let mut bench = Bench::new(WhenFull::FailWrites);
    let shadow = &mut bench.shadow;
    assert_eq!(shadow.thaw(), Err(ShadowError::NotFrozen));
    shadow.freeze(1, None).unwrap();
    assert_eq!(shadow.freeze(2, None), Err(ShadowError::Frozen));
    assert_eq!(shadow.thaw(), Err(ShadowError::NotFrozen), "not yet");
    let mut bench = Bench::merging();
    assert_eq!(bench.shadow.freeze(2, None), Err(ShadowError::Merging));
    assert_eq!(bench.shadow.thaw(), Err(ShadowError::Merging));
    assert!(!bench.shadow.retire() && !bench.shadow.set_size(1 << 30));
}

#[test]
fn there_are_as_many_places_as_asked_for() {
    let mut bench = Bench::new(WhenFull::FailWrites);
    for id in 0..4 {
        bench.submit(id, READ, 0, 1);
    }
    let op = DeviceOp {
        id: OpId(9),
        kind: OpKind::Sync,
        offset_bytes: 0,
        len_bytes: 0,
        memory: Memory::None,
        memory_start: 0,
    };
    assert_eq!(bench.shadow.submit(op).unwrap_err().id, OpId(9));
}

/// Plain writes all over the disk, more than records can wait.
#[test]
fn when_too_much_waits_to_be_recorded_a_sync_comes_by_itself() {
    let settings = ShadowSettings {
        capacity: 4,
        size_bytes: 1 << 30,
        when_full: WhenFull::FailWrites,
    };
    let mut bench = Bench {
        shadow: Shadow::new(settings, vec![0; 512], Memory::One(vec![0; 4096])),
    };
    bench.shadow.freeze(1, None).unwrap();
    bench.expect(ShadowFile::Image, OpKind::Sync);
    for number in 0..1024 {
        bench.submit(1, PLAIN, number * 2, 1);
        bench.expect(ShadowFile::Data, PLAIN);
        assert_eq!(bench.answer(), (1, Ok(4096)));
    }
    bench.submit(1, PLAIN, 5000, 1);
    bench.expect(ShadowFile::Data, OpKind::Sync);
    // 1024 ranges, 30 in a unit.
    for _ in 0..35 {
        bench.expect(ShadowFile::Map, DURABLE);
    }
    bench.expect(ShadowFile::Data, PLAIN);
    assert_eq!(bench.answer(), (1, Ok(4096)));
}

/// A freeze that needs more memory than there is does not begin, and is no reason to abort.
#[test]
fn a_list_of_changed_blocks_that_is_too_large_is_refused() {
    let size_bytes = u64::MAX;
    // Two bits for each of 2^52 blocks.
    let no_memory = Err(ShadowError::NoMemory { bytes: 1 << 50 });
    let mut bench = Bench::new(WhenFull::FailWrites);
    assert!(bench.shadow.set_size(size_bytes));
    assert_eq!(bench.shadow.freeze(1, None), no_memory);
    assert_eq!(bench.shadow.status().phase, ShadowPhase::Thawed);
    assert!(bench.shadow.set_size(100 * BLOCK));
    bench.shadow.freeze(1, None).unwrap();
    let header = Header {
        freeze_id: 1,
        image_bytes: size_bytes,
        base_bytes: 0,
        path: Vec::new(),
    };
    assert!(matches!(
        Replay::new(&header),
        Err(ShadowError::NoMemory { .. })
    ));
}
