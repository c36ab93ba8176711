//! A volume's life, one story each. The device is whoever reads the test.

mod faults;

use super::*;
use crate::device::Errno;

type TestVolume = Volume<Vec<u8>>;

/// When nothing depends on the time.
const NOW: Duration = Duration::from_secs(100);
const DISK_BYTES: u64 = 1 << 30;
const SETTINGS: VolumeSettings = VolumeSettings {
    capacity: 4,
    stability: Stability::Any,
    size_bytes: DISK_BYTES,
    block_bytes: 512,
    discard_bytes: 512,
    read_ahead_bytes: 1 << 20,
    dirty_bytes: 64 << 10,
    dirty_age: Duration::from_secs(1),
};

fn volume_of(settings: VolumeSettings) -> TestVolume {
    volume_with(settings, LEAST_PAGES)
}

/// With so many pages, and its first sync behind it.
fn volume_with(settings: VolumeSettings, pages: usize) -> TestVolume {
    let mut volume = Volume::new(settings, vec![vec![0; PAGE_BYTES]; pages]);
    let due = volume.poll_timeout().unwrap();
    volume.handle_timeout(due);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Ok(0));
    nothing_to_do(&mut volume);
    volume
}

fn volume() -> TestVolume {
    volume_of(SETTINGS)
}

fn request(volume: &mut TestVolume, id: u32, kind: RequestKind) {
    let buffer = vec![0; 4096];
    let request = DiskRequest {
        id: RequestId(id),
        kind,
        buffer,
    };
    volume.handle_request(NOW, request).unwrap();
}

/// The next operation, which has to be of this kind, in sectors.
fn expect(volume: &mut TestVolume, kind: OpKind, lba: u64, sectors: u64) -> DeviceOp<Vec<u8>> {
    let op = volume.poll_device().expect("there is something to do");
    let range = (op.offset_bytes / 512, op.len_bytes / 512);
    assert_eq!((op.kind, range), (kind, (lba, sectors)));
    op
}

fn end(volume: &mut TestVolume, op: DeviceOp<Vec<u8>>, result: Result<u32, Errno>) {
    end_at(volume, NOW, op, result);
}

fn end_at(
    volume: &mut TestVolume,
    now: Duration,
    op: DeviceOp<Vec<u8>>,
    result: Result<u32, Errno>,
) {
    let completion = Completion {
        id: op.id,
        memory: op.memory,
        result,
    };
    volume.handle_device(now, completion);
}

fn answer(volume: &mut TestVolume, id: u32) -> Result<(), DiskError> {
    assert!(volume.poll_device().is_none(), "there is more to do");
    let done = volume.poll_done().expect("there is an answer");
    assert_eq!((done.id, done.buffer.len()), (RequestId(id), 4096));
    done.result
}

const READ: RequestKind = RequestKind::Read {
    lba: 100,
    sectors: 8,
};
const WRITE: RequestKind = RequestKind::Write {
    lba: 100,
    sectors: 8,
    early: false,
};

fn write(lba: u64, sectors: u32) -> RequestKind {
    RequestKind::Write {
        lba,
        sectors,
        early: false,
    }
}

fn early(lba: u64, sectors: u32) -> RequestKind {
    RequestKind::Write {
        lba,
        sectors,
        early: true,
    }
}

fn read(lba: u64, sectors: u32) -> RequestKind {
    RequestKind::Read { lba, sectors }
}

fn trim_of(blocks: u32) -> RequestKind {
    RequestKind::Trim {
        blocks,
        early: false,
    }
}

const EARLY: RequestKind = RequestKind::Write {
    lba: 100,
    sectors: 8,
    early: true,
};
const DURABLE: OpKind = OpKind::Write { durable: true };
const PLAIN: OpKind = OpKind::Write { durable: false };

/// A device without "force unit access" has to write out all it holds for each durable write.
#[test]
fn many_durable_writes_share_a_sync_and_are_answered_by_it() {
    let mut volume = volume();
    for id in 0..4 {
        request(&mut volume, id, write(u64::from(id) * 80, 8));
    }
    let ops: Vec<_> = (0..4)
        .map(|id| expect(&mut volume, PLAIN, id * 80, 8))
        .collect();
    let mut ops = ops.into_iter();
    let mut next = || ops.next().unwrap();
    end(&mut volume, next(), Ok(4096));
    end(&mut volume, next(), Ok(4096));
    assert!(volume.poll_done().is_none(), "they are not stable yet");
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, next(), Ok(4096));
    end(&mut volume, next(), Err(Errno::IO));
    assert!(answered(&mut volume, 3).is_err());
    nothing_to_do(&mut volume);
    end(&mut volume, sync, Ok(0));
    for id in [0, 1] {
        assert!(answered(&mut volume, id).is_ok());
    }
    // What the device took after that sync began needs another, and if that fails, finds out for
    // itself.
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Err(Errno::IO));
    let op = expect(&mut volume, DURABLE, 160, 8);
    end(&mut volume, op, Ok(4096));
    assert_eq!(answer(&mut volume, 2), Ok(()));
    assert!(volume.failure().is_none() && volume.is_idle());
}

/// Behind the page cache the kernel tells of a failure once, perhaps to a sync that did not cover
/// what was lost.
#[test]
fn a_shared_sync_that_fails_behind_the_page_cache_counts_for_all() {
    let mut volume = volume_of(VolumeSettings {
        stability: Stability::Shared,
        ..SETTINGS
    });
    request(&mut volume, 0, WRITE);
    request(&mut volume, 1, write(0, 8));
    request(&mut volume, 2, write(40, 8));
    let covered = expect(&mut volume, PLAIN, 100, 8);
    let settling = expect(&mut volume, PLAIN, 0, 8);
    let flying = expect(&mut volume, PLAIN, 40, 8);
    end(&mut volume, covered, Ok(4096));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, settling, Ok(4096));
    nothing_to_do(&mut volume);
    end(&mut volume, sync, Err(Errno::IO));
    assert!(answered(&mut volume, 0).is_err());
    // The others are written again, whether they were lost or not.
    let settling = expect(&mut volume, PLAIN, 0, 8);
    nothing_to_do(&mut volume);
    end(&mut volume, flying, Ok(4096));
    let flying = expect(&mut volume, PLAIN, 40, 8);
    end(&mut volume, settling, Ok(4096));
    end(&mut volume, flying, Ok(4096));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Ok(0));
    for id in [1, 2] {
        assert!(answered(&mut volume, id).is_ok());
    }
    assert!(volume.is_idle());
}

#[test]
fn a_request_for_nothing_is_answered_without_the_device() {
    let mut volume = volume();
    for kind in [
        RequestKind::Read { lba: 9, sectors: 0 },
        write(9, 0),
        RequestKind::Flush,
        trim_of(1),
    ] {
        request(&mut volume, 1, kind);
        assert_eq!(answer(&mut volume, 1), Ok(()), "{kind:?}");
    }
    assert!(volume.is_idle());
}

#[test]
fn what_no_device_can_do_is_refused() {
    let mut volume = volume();
    for kind in [
        RequestKind::Read {
            lba: u64::MAX,
            sectors: 1,
        },
        write(u64::MAX / 512, 8),
        RequestKind::Read { lba: 0, sectors: 9 },
        RequestKind::Read {
            lba: 0,
            sectors: u32::MAX,
        },
        trim_of(9),
        trim_of(u32::MAX),
    ] {
        request(&mut volume, 1, kind);
        let error = answer(&mut volume, 1).unwrap_err();
        assert_eq!(error.cause, Cause::Malformed, "{kind:?}");
    }
}

#[test]
fn a_full_volume_gives_the_request_back() {
    let mut volume = volume();
    for id in 0..4 {
        request(&mut volume, id, READ);
    }
    let fifth = DiskRequest {
        id: RequestId(4),
        kind: WRITE,
        buffer: vec![7; 4096],
    };
    let fifth = volume.handle_request(NOW, fifth).unwrap_err();
    assert_eq!((fifth.id, fifth.kind), (RequestId(4), WRITE));
    assert_eq!(fifth.buffer, [7; 4096]);
    let op = expect(&mut volume, OpKind::Read, 100, 8);
    end(&mut volume, op, Ok(4096));
    volume
        .handle_request(NOW, fifth)
        .expect_err("the answer is not polled yet");
    assert!(volume.poll_done().is_some());
    request(&mut volume, 4, READ);
    assert_eq!(volume.outstanding(), 4);
}

#[test]
fn a_short_transfer_goes_on_where_it_stopped() {
    let mut volume = volume();
    request(&mut volume, 1, READ);
    let op = expect(&mut volume, OpKind::Read, 100, 8);
    end(&mut volume, op, Ok(3 * 512 + 100));
    let op = expect(&mut volume, OpKind::Read, 103, 5);
    assert_eq!(op.memory_start, 3 * 512);
    end(&mut volume, op, Ok(5 * 512));
    assert_eq!(answer(&mut volume, 1), Ok(()));
}

#[test]
fn a_file_that_was_cut_is_a_read_error_where_it_ends() {
    let mut volume = volume();
    for rest in [0, 100] {
        request(&mut volume, 1, READ);
        let op = expect(&mut volume, OpKind::Read, 100, 8);
        end(&mut volume, op, Ok(3 * 512));
        while let Some(op) = volume.poll_device() {
            assert_eq!((op.offset_bytes, op.len_bytes), (103 * 512, 5 * 512));
            end(&mut volume, op, Ok(rest));
        }
        let error = answer(&mut volume, 1).unwrap_err();
        assert_eq!(
            (error.operation, error.errno()),
            (Operation::Read, Errno::IO)
        );
        assert_eq!(
            error.to_string(),
            "read of 5 sectors at LBA 103 failed: the backing file ends here"
        );
    }
}

/// The device has no resources for this write, for the `count`th time: the third and later ones are
/// followed by a pause.
fn interrupted(volume: &mut TestVolume, count: u8, (lba, sectors): (u64, u64), errno: Errno) {
    let op = expect(volume, DURABLE, lba, sectors);
    end(volume, op, Err(errno));
    if count > 2 {
        nothing_to_do(volume);
        let due = volume.poll_timeout().expect("it goes on some time");
        assert_eq!(due, NOW + Duration::from_millis(20));
        volume.handle_timeout(due);
    }
}

#[test]
fn interrupted_operations_are_resubmitted_but_not_for_ever() {
    for errno in [Errno::INTR, Errno::AGAIN] {
        let mut volume = volume();
        request(&mut volume, 1, WRITE);
        for count in 1..=16 {
            interrupted(&mut volume, count, (100, 8), errno);
        }
        let op = expect(&mut volume, DURABLE, 100, 8);
        end(&mut volume, op, Ok(512));
        // There was progress: it counts from the beginning.
        for count in 1..=16 {
            interrupted(&mut volume, count, (101, 7), errno);
        }
        let op = expect(&mut volume, DURABLE, 101, 7);
        end(&mut volume, op, Err(errno));
        let error = answer(&mut volume, 1).unwrap_err();
        assert_eq!(error.cause, Cause::Device(errno));
        assert_eq!(volume.poll_timeout(), None);
    }
}

/// So many attempts took microseconds, and the volume was latched for a moment's shortage.
#[test]
fn a_sync_that_is_interrupted_again_and_again_takes_its_time() {
    let mut volume = volume();
    filled(&mut volume, 1, EARLY, 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    let op = expect(&mut volume, PLAIN, 100, 8);
    done(&mut volume, op, 0);
    let mut now = NOW;
    for _ in 0..16 {
        let sync = expect(&mut volume, OpKind::Sync, 0, 0);
        end_at(&mut volume, now, sync, Err(Errno::AGAIN));
        if let Some(due) = volume.poll_timeout() {
            nothing_to_do(&mut volume);
            now = due;
            volume.handle_timeout(now);
        }
    }
    assert_eq!(now, NOW + Duration::from_millis(14 * 20));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end_at(&mut volume, now, sync, Ok(0));
    assert!(answered(&mut volume, 2).is_ok());
}

#[test]
fn a_write_that_goes_nowhere_fails() {
    let mut volume = volume();
    request(&mut volume, 1, WRITE);
    let op = expect(&mut volume, DURABLE, 100, 8);
    end(&mut volume, op, Ok(0));
    assert_eq!(
        answer(&mut volume, 1).unwrap_err().to_string(),
        "write of 8 sectors at LBA 100 failed: no progress"
    );
}

fn trim(volume: &mut TestVolume, id: u32, ranges: &[(u64, u64)]) {
    let mut buffer = vec![0; 4096];
    for (entry, (lba, sectors)) in buffer.chunks_mut(8).zip(ranges) {
        entry.copy_from_slice(&(lba | sectors << 48).to_le_bytes());
    }
    let kind = trim_of(8);
    let request = DiskRequest {
        id: RequestId(id),
        kind,
        buffer,
    };
    volume.handle_request(NOW, request).unwrap();
}

#[test]
fn a_trim_discards_its_ranges_in_order_and_syncs_once() {
    let mut volume = volume();
    let last = (1 << 48) - 1;
    trim(
        &mut volume,
        1,
        &[(50, 0), (70, 65535), (0, 0), (10, 5), (last, 1)],
    );
    for (lba, sectors) in [(70, 65535), (10, 5), (last, 1)] {
        let op = expect(&mut volume, OpKind::Discard, lba, sectors);
        assert!(matches!(op.memory, Memory::None));
        end(&mut volume, op, Ok(0));
    }
    let op = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, op, Ok(0));
    assert_eq!(answer(&mut volume, 1), Ok(()));
}

#[test]
fn a_trim_ends_at_its_first_error() {
    let mut volume = volume();
    trim(&mut volume, 1, &[(1, 1), (2, 2), (8, 1)]);
    let op = expect(&mut volume, OpKind::Discard, 1, 1);
    end(&mut volume, op, Ok(0));
    let op = expect(&mut volume, OpKind::Discard, 2, 2);
    end(&mut volume, op, Err(Errno::OPNOTSUPP));
    let error = answer(&mut volume, 1).unwrap_err();
    assert_eq!((error.operation, error.lba), (Operation::Trim, 2));
    assert_eq!(error.errno(), Errno::OPNOTSUPP);
}

/// A request whose buffer is full of this byte.
fn filled(volume: &mut TestVolume, id: u32, kind: RequestKind, byte: u8) {
    filled_at(volume, NOW, id, kind, byte);
}

fn filled_at(volume: &mut TestVolume, now: Duration, id: u32, kind: RequestKind, byte: u8) {
    let buffer = vec![byte; 8192];
    let request = DiskRequest {
        id: RequestId(id),
        kind,
        buffer,
    };
    volume.handle_request(now, request).unwrap();
}

/// The data that an operation transfers.
fn data(op: &mut DeviceOp<Vec<u8>>) -> Vec<u8> {
    let mut data = Vec::new();
    let each = |piece: &mut [u8]| data.extend_from_slice(piece);
    op.memory
        .for_each_mut(op.memory_start, op.len_bytes, each)
        .unwrap();
    data
}

/// The device does a whole operation; what it reads is full of `byte`.
fn done(volume: &mut TestVolume, mut op: DeviceOp<Vec<u8>>, byte: u8) {
    if op.kind == OpKind::Read {
        let each = |piece: &mut [u8]| piece.fill(byte);
        op.memory
            .for_each_mut(op.memory_start, op.len_bytes, each)
            .unwrap();
    }
    let len = u32::try_from(op.len_bytes).unwrap();
    end(volume, op, Ok(len));
}

/// The next answer, whose data begins like this.
fn answered(volume: &mut TestVolume, id: u32) -> Result<Vec<u8>, DiskError> {
    let done = volume.poll_done().expect("there is an answer");
    assert_eq!(done.id, RequestId(id));
    done.result.map(|()| done.buffer)
}

fn nothing_to_do(volume: &mut TestVolume) {
    assert!(volume.poll_device().is_none(), "there is more to do");
    assert!(volume.poll_done().is_none(), "there is an answer");
}

/// Answers there may be.
fn nothing_more(volume: &mut TestVolume) {
    assert!(volume.poll_device().is_none(), "there is more to do");
}

fn sectors(data: &[u8]) -> Vec<u8> {
    data.chunks(512).map(|sector| sector[0]).collect()
}

#[test]
fn an_early_write_is_answered_at_once_and_seen_by_every_read() {
    let mut volume = volume();
    filled(&mut volume, 1, early(100, 8), 7);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, early(102, 2), 8);
    assert!(answered(&mut volume, 2).is_ok());
    filled(&mut volume, 3, read(100, 8), 0);
    let seen = answered(&mut volume, 3).unwrap();
    assert_eq!(sectors(&seen[..4096]), [7, 7, 8, 8, 7, 7, 7, 7]);
    nothing_to_do(&mut volume);
    // What is not in the cache comes from the device.
    filled(&mut volume, 4, read(106, 4), 0);
    let op = expect(&mut volume, OpKind::Read, 106, 4);
    done(&mut volume, op, 1);
    let seen = answered(&mut volume, 4).unwrap();
    assert_eq!(sectors(&seen[..2048]), [7, 7, 1, 1]);
    assert_eq!(volume.bytes_at_risk(), 4096);
}

#[test]
fn a_flush_writes_what_was_acknowledged_in_large_pieces_and_then_syncs() {
    let mut volume = volume();
    // In any order, two of them over a page's edge, and one elsewhere.
    for (id, lba) in [(1, 116), (2, 100), (3, 108), (4, 1000)] {
        filled(&mut volume, id, early(lba, 8), u8::try_from(id).unwrap());
        assert!(answered(&mut volume, id).is_ok());
    }
    nothing_to_do(&mut volume);
    filled(&mut volume, 5, RequestKind::Flush, 0);
    let mut large = expect(&mut volume, PLAIN, 100, 24);
    assert_eq!(
        sectors(&data(&mut large)),
        [[2; 8], [3; 8], [1; 8]].concat()
    );
    let other = expect(&mut volume, PLAIN, 1000, 8);
    nothing_to_do(&mut volume);
    done(&mut volume, large, 0);
    nothing_to_do(&mut volume);
    done(&mut volume, other, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    nothing_to_do(&mut volume);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 5).is_ok());
    assert_eq!(volume.bytes_at_risk(), 0);
    assert!(volume.is_clean() && volume.is_idle());
    assert_eq!(volume.poll_timeout(), None);
    // It is still in the cache.
    filled(&mut volume, 6, read(104, 8), 0);
    let seen = answered(&mut volume, 6).unwrap();
    assert_eq!(sectors(&seen[..4096]), [2, 2, 2, 2, 3, 3, 3, 3]);
}

#[test]
fn flushes_share_a_sync_that_covers_them() {
    let mut volume = volume();
    filled(&mut volume, 1, EARLY, 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    let write = expect(&mut volume, PLAIN, 100, 8);
    filled(&mut volume, 3, RequestKind::Flush, 0);
    done(&mut volume, write, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    nothing_to_do(&mut volume);
    filled(&mut volume, 4, EARLY, 1);
    assert!(answered(&mut volume, 4).is_ok());
    filled(&mut volume, 5, RequestKind::Flush, 0);
    nothing_to_do(&mut volume);
    done(&mut volume, sync, 0);
    for id in [2, 3] {
        assert!(answered(&mut volume, id).is_ok());
    }
    let write = expect(&mut volume, PLAIN, 100, 8);
    done(&mut volume, write, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    nothing_to_do(&mut volume);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 5).is_ok());
    filled(&mut volume, 6, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 6).is_ok(), "nothing is left to sync");
    nothing_to_do(&mut volume);
}

#[test]
fn acknowledged_data_is_flushed_when_half_its_time_is_over() {
    let mut volume = volume();
    filled(&mut volume, 1, EARLY, 1);
    assert!(answered(&mut volume, 1).is_ok());
    nothing_to_do(&mut volume);
    let due = NOW + SETTINGS.dirty_age / 2;
    assert_eq!(volume.poll_timeout(), Some(due));
    volume.handle_timeout(due.saturating_sub(Duration::from_nanos(1)));
    nothing_to_do(&mut volume);
    volume.handle_timeout(due);
    let write = expect(&mut volume, PLAIN, 100, 8);
    done(&mut volume, write, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    nothing_to_do(&mut volume);
    assert!(volume.is_clean());
}

/// The longest at risk goes first, wherever it is and however many have come since.
#[test]
fn the_oldest_data_is_written_first() {
    let mut volume = volume();
    let lbas = [400, 80, 240, 720, 560];
    for (number, lba) in (0..).zip(lbas) {
        let now = NOW + Duration::from_millis(number);
        filled_at(&mut volume, now, 1, early(lba, 8), 1);
        assert!(answered(&mut volume, 1).is_ok());
    }
    // One that is written again stays as old as it was.
    filled(&mut volume, 1, early(402, 2), 2);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    for lba in lbas {
        expect(&mut volume, PLAIN, lba, 8);
    }
}

#[test]
fn no_more_than_the_bound_is_acknowledged_and_the_rest_waits() {
    let mut volume = volume_of(VolumeSettings {
        dirty_bytes: 16 << 10,
        ..SETTINGS
    });
    for id in 0..4 {
        filled(&mut volume, id, early(u64::from(id) * 80, 8), 1);
        assert!(answered(&mut volume, id).is_ok());
    }
    filled(&mut volume, 4, early(800, 8), 1);
    assert!(volume.poll_done().is_none(), "that would be too much");
    assert_eq!(volume.bytes_at_risk(), 16 << 10);
    // Half the bound was reached long ago: a flush is under way.
    let writes: Vec<_> = (0..4)
        .map(|number| expect(&mut volume, PLAIN, number * 80, 8))
        .collect();
    for write in writes {
        done(&mut volume, write, 0);
    }
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    assert!(volume.poll_done().is_none(), "not stable yet");
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 4).is_ok());
}

#[test]
fn outstanding_writes_that_continue_each_other_are_one_device_write() {
    let mut volume = volume();
    for (id, lba) in [(1, 116), (2, 100), (3, 300), (4, 108)] {
        filled(&mut volume, id, write(lba, 8), u8::try_from(id).unwrap());
    }
    let mut merged = expect(&mut volume, DURABLE, 100, 24);
    assert_eq!(
        sectors(&data(&mut merged)),
        [[2; 8], [4; 8], [1; 8]].concat()
    );
    let other = expect(&mut volume, PLAIN, 300, 8);
    nothing_to_do(&mut volume);
    // A short transfer inside the second.
    end(&mut volume, merged, Ok(11 * 512));
    let mut rest = expect(&mut volume, DURABLE, 111, 13);
    assert_eq!(sectors(&data(&mut rest)), [&[4; 5][..], &[1; 8]].concat());
    nothing_to_do(&mut volume);
    done(&mut volume, rest, 0);
    for id in [2, 4, 1] {
        assert!(answered(&mut volume, id).is_ok());
    }
    done(&mut volume, other, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 3).is_ok());
    assert_eq!(volume.stats().writes_spared, 2);
}

#[test]
fn when_merged_writes_fail_each_finds_out_for_itself() {
    let mut volume = volume();
    for (id, lba) in [(1, 100), (2, 108), (3, 116)] {
        filled(&mut volume, id, write(lba, 8), 1);
    }
    let merged = expect(&mut volume, DURABLE, 100, 24);
    end(&mut volume, merged, Err(Errno::IO));
    for (id, lba, result) in [
        (1, 100, Ok(4096)),
        (2, 108, Err(Errno::IO)),
        (3, 116, Ok(4096)),
    ] {
        let op = expect(&mut volume, DURABLE, lba, 8);
        end(&mut volume, op, result);
        assert_eq!(answered(&mut volume, id).is_ok(), result.is_ok());
    }
    assert_eq!(volume.failure(), None);
}

#[test]
fn a_durable_write_replaces_what_is_in_the_cache_when_it_is_done() {
    let mut volume = volume();
    filled(&mut volume, 1, early(100, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    for (result, expected) in [(Err(Errno::IO), 1), (Ok(1024), 2)] {
        filled(&mut volume, 2, write(102, 2), 2);
        let op = expect(&mut volume, DURABLE, 102, 2);
        end(&mut volume, op, result);
        assert_eq!(answered(&mut volume, 2).is_ok(), result.is_ok());
        filled(&mut volume, 3, read(100, 8), 0);
        let seen = answered(&mut volume, 3).unwrap();
        assert_eq!(
            sectors(&seen[..4096]),
            [1, 1, expected, expected, 1, 1, 1, 1]
        );
    }
    assert_eq!(volume.bytes_at_risk(), 6 * 512, "two sectors are stable");
}

#[test]
fn data_that_the_device_refuses_is_tried_again_then_the_volume_is_latched() {
    let mut volume = volume();
    for (id, lba) in [(1, 96), (2, 104)] {
        filled(&mut volume, id, early(lba, 8), 7);
        assert!(answered(&mut volume, id).is_ok());
    }
    filled(&mut volume, 3, RequestKind::Flush, 0);
    let both = expect(&mut volume, PLAIN, 96, 16);
    end(&mut volume, both, Err(Errno::NOSPC));
    // The sound half is written, the other tried for a while.
    let bad = expect(&mut volume, PLAIN, 104, 8);
    let good = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, good, 0);
    end(&mut volume, bad, Err(Errno::NOSPC));
    let mut attempts = 1;
    while volume.failure().is_none() {
        nothing_to_do(&mut volume);
        let again = volume.poll_timeout().expect("it will be tried again");
        volume.handle_timeout(again);
        let bad = expect(&mut volume, PLAIN, 104, 8);
        end_at(&mut volume, again, bad, Err(Errno::NOSPC));
        attempts += 1;
    }
    assert_eq!(attempts, 7);
    let error = answered(&mut volume, 3).unwrap_err();
    assert_eq!((error.lba, error.errno()), (104, Errno::NOSPC));
    for (id, kind) in [(4, EARLY), (5, WRITE), (6, RequestKind::Flush)] {
        filled(&mut volume, id, kind, 1);
        assert!(answered(&mut volume, id).is_err(), "{kind:?}");
    }
    filled(&mut volume, 7, read(104, 8), 0);
    assert_eq!(answered(&mut volume, 7).unwrap()[..4096], [7; 4096]);
    // What could be written is made stable all the same.
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    nothing_to_do(&mut volume);
    assert_eq!(volume.ranges_at_risk().collect::<Vec<_>>(), [(104, 8)]);
    // There is room again, and somebody says so: nothing is lost.
    volume.clear_failure(NOW);
    filled(&mut volume, 8, RequestKind::Flush, 0);
    let op = expect(&mut volume, PLAIN, 104, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 8).is_ok());
    assert!(volume.is_clean());
}

#[test]
fn a_failed_sync_is_final_until_an_operator_acts() {
    let mut volume = volume();
    filled(&mut volume, 1, EARLY, 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    let op = expect(&mut volume, PLAIN, 100, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Err(Errno::IO));
    assert!(answered(&mut volume, 2).is_err());
    assert!(volume.failure().is_some());
    for kind in [WRITE, EARLY, RequestKind::Flush] {
        filled(&mut volume, 3, kind, 2);
        let error = answered(&mut volume, 3).unwrap_err();
        assert_eq!(error.errno(), Errno::IO, "{kind:?}");
    }
    filled(&mut volume, 4, read(200, 8), 0);
    let op = expect(&mut volume, OpKind::Read, 200, 8);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 4).is_ok(), "reads go on");
    volume.clear_failure(NOW);
    filled(&mut volume, 5, WRITE, 1);
    expect(&mut volume, DURABLE, 100, 8);
}

/// A durable write's sync covers acknowledged data too; that it failed must not be forgotten.
#[test]
fn a_failed_sync_counts_for_acknowledged_data_whoever_asked_for_it() {
    let mut volume = volume_of(VolumeSettings {
        stability: Stability::Shared,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(0, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    filled(&mut volume, 3, WRITE, 1);
    let durable = expect(&mut volume, PLAIN, 100, 8);
    let acknowledged = expect(&mut volume, PLAIN, 0, 8);
    done(&mut volume, durable, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, acknowledged, 0);
    end(&mut volume, sync, Err(Errno::IO));
    assert!(answered(&mut volume, 2).is_err());
    assert!(answered(&mut volume, 3).is_err());
    assert!(volume.failure().is_some());
    assert_eq!(volume.bytes_at_risk(), 4096, "it is dirty again");
}

#[test]
fn reads_in_order_are_answered_from_what_was_read_ahead() {
    let mut volume = volume();
    for number in 0..4 {
        filled(&mut volume, number, read(u64::from(number) * 16, 16), 0);
        let op = expect(&mut volume, OpKind::Read, u64::from(number) * 16, 16);
        done(&mut volume, op, 1);
        assert!(answered(&mut volume, number).is_ok());
    }
    let ahead = volume.poll_device().expect("it reads ahead");
    assert_eq!((ahead.kind, ahead.offset_bytes), (OpKind::Read, 4 * 8192));
    // Its reader waits for it rather than asking the device a second time.
    filled(&mut volume, 5, read(64, 16), 0);
    assert!(volume.poll_done().is_none());
    done(&mut volume, ahead, 9);
    assert_eq!(answered(&mut volume, 5).unwrap(), [9; 8192]);
    assert_eq!(volume.stats().read_hits, 1);
    // A write to what was read ahead is seen.
    filled(&mut volume, 6, write(80, 16), 4);
    let op = std::iter::from_fn(|| volume.poll_device())
        .find(|op| op.kind == DURABLE)
        .unwrap();
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 6).is_ok());
    filled(&mut volume, 7, read(80, 16), 0);
    assert_eq!(answered(&mut volume, 7).unwrap(), [4; 8192]);
}

#[test]
fn blocks_larger_than_a_request_are_read_changed_and_written() {
    let mut volume = volume_of(VolumeSettings {
        block_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, write(102, 8), 5);
    filled(&mut volume, 2, write(110, 2), 6);
    let op = expect(&mut volume, OpKind::Read, 96, 16);
    nothing_to_do(&mut volume);
    done(&mut volume, op, 1);
    let mut op = expect(&mut volume, DURABLE, 96, 16);
    let expected = [&[1; 6][..], &[5; 8], &[1; 2]].concat();
    assert_eq!(sectors(&data(&mut op)), expected);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, OpKind::Read, 104, 8);
    end(&mut volume, op, Err(Errno::IO));
    assert!(answered(&mut volume, 2).is_err());
    // Whole blocks need nothing of that.
    filled(&mut volume, 3, write(96, 16), 7);
    let op = expect(&mut volume, DURABLE, 96, 16);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 3).is_ok());
    // A part of a block is read as a whole.
    filled(&mut volume, 4, read(97, 3), 0);
    let op = expect(&mut volume, OpKind::Read, 96, 8);
    done(&mut volume, op, 3);
    assert_eq!(answered(&mut volume, 4).unwrap()[..1536], [3; 1536]);
    nothing_to_do(&mut volume);
    assert!(volume.is_idle());
    assert_eq!(volume.pages.available(), LEAST_PAGES, "no page is lost");
}

#[test]
fn a_block_that_is_dirty_in_part_is_completed_before_it_is_written() {
    let mut volume = volume_of(VolumeSettings {
        block_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(102, 4), 5);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, RequestKind::Flush, 0);
    for (lba, expected) in [
        (96, [1, 1, 1, 1, 1, 1, 5, 5]),
        (104, [5, 5, 1, 1, 1, 1, 1, 1]),
    ] {
        let op = expect(&mut volume, OpKind::Read, lba, 8);
        nothing_to_do(&mut volume);
        done(&mut volume, op, 1);
        let mut op = expect(&mut volume, PLAIN, lba, 8);
        assert_eq!(sectors(&data(&mut op)), expected);
        done(&mut volume, op, 0);
    }
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
}

#[test]
fn a_trim_makes_the_cache_forget() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 16), 5);
    assert!(answered(&mut volume, 1).is_ok());
    trim(&mut volume, 2, &[(100, 8)]);
    let op = expect(&mut volume, OpKind::Discard, 100, 8);
    filled(&mut volume, 3, read(96, 16), 0);
    nothing_to_do(&mut volume);
    end(&mut volume, op, Ok(0));
    let op = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, op, Ok(0));
    let op = expect(&mut volume, OpKind::Read, 96, 16);
    assert_eq!(answer(&mut volume, 2), Ok(()));
    done(&mut volume, op, 0);
    let seen = answered(&mut volume, 3).unwrap();
    let expected = [[5; 4], [0; 4], [0; 4], [5; 4]].concat();
    assert_eq!(sectors(&seen), expected);
}

#[test]
fn a_clean_stop_writes_everything_also_what_was_refused() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    volume.begin_flush(NOW);
    let op = expect(&mut volume, PLAIN, 96, 8);
    end(&mut volume, op, Err(Errno::IO));
    nothing_to_do(&mut volume);
    assert!(!volume.is_clean() && !volume.is_idle());
    volume.begin_flush(NOW);
    let op = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    nothing_to_do(&mut volume);
    assert!(volume.is_clean() && volume.is_idle());
}

/// Only the first of the merged writes was answered then; the others came back, as written, when
/// the first one's place was used again.
#[test]
fn merged_writes_that_a_latch_interrupts_all_fail() {
    let mut volume = volume();
    filled(&mut volume, 1, early(300, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, write(100, 8), 2);
    filled(&mut volume, 3, write(108, 8), 3);
    let merged = expect(&mut volume, DURABLE, 100, 16);
    request(&mut volume, 4, RequestKind::Flush);
    let data = expect(&mut volume, PLAIN, 300, 8);
    end(&mut volume, data, Ok(4096));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Err(Errno::IO));
    end(&mut volume, merged, Ok(512));
    // What was acknowledged is written once more.
    expect(&mut volume, PLAIN, 300, 8);
    assert!(volume.poll_device().is_none(), "there is more to do");
    for id in [4, 2, 3] {
        assert!(answered(&mut volume, id).is_err(), "{id}");
    }
    assert_eq!(volume.outstanding(), 0);
}

/// Of two syncs at once, Linux tells only one that data was lost. So there is never more than one,
/// and it counts for everybody whom it covers.
#[test]
fn there_is_one_sync_at_a_time_and_it_counts_for_all() {
    let mut volume = volume();
    filled(&mut volume, 1, early(300, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    trim(&mut volume, 2, &[(10, 8)]);
    trim(&mut volume, 3, &[(50, 8)]);
    let first = expect(&mut volume, OpKind::Discard, 10, 8);
    let second = expect(&mut volume, OpKind::Discard, 50, 8);
    end(&mut volume, first, Ok(0));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, second, Ok(0));
    request(&mut volume, 4, RequestKind::Flush);
    let data = expect(&mut volume, PLAIN, 300, 8);
    end(&mut volume, data, Ok(4096));
    assert!(volume.poll_device().is_none(), "a second sync has to wait");
    end(&mut volume, sync, Err(Errno::IO));
    assert!(answered(&mut volume, 4).is_err(), "its data may be lost");
    // One was not covered, but the device has forgotten it all the same, perhaps.
    for id in [3, 2] {
        assert!(answered(&mut volume, id).is_err());
    }
    assert!(volume.failure().is_some());
}

/// A sync that durable writes wait for may cover early data too: a flush waits for it.
#[test]
fn a_flush_waits_for_a_sync_that_runs_for_others() {
    let mut volume = volume_of(VolumeSettings {
        stability: Stability::Shared,
        // Worth writing, and not yet due.
        dirty_bytes: 24 << 10,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(300, 16), 1);
    assert!(answered(&mut volume, 1).is_ok());
    let data = expect(&mut volume, PLAIN, 300, 16);
    request(&mut volume, 2, WRITE);
    let op = expect(&mut volume, PLAIN, 100, 8);
    end(&mut volume, data, Ok(8192));
    end(&mut volume, op, Ok(4096));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    request(&mut volume, 3, RequestKind::Flush);
    assert!(volume.poll_device().is_none() && volume.poll_done().is_none());
    end(&mut volume, sync, Ok(0));
    assert!(volume.poll_device().is_none(), "one sync for both");
    let mut answers: Vec<_> = std::iter::from_fn(|| volume.poll_done()).collect();
    answers.sort_by_key(|done| done.id);
    let ids: Vec<_> = answers.iter().map(|done| done.id.0).collect();
    assert_eq!(ids, [2, 3]);
}

/// The first of a merged group kept the group's range, and was written again as all of it.
#[test]
fn merged_writes_that_a_sync_loses_are_written_again_each_for_itself() {
    let mut volume = volume_of(VolumeSettings {
        stability: Stability::Any,
        capacity: 8,
        ..SETTINGS
    });
    for (id, lba) in [(1, 100), (2, 108), (3, 500), (4, 600), (5, 700), (6, 800)] {
        filled(&mut volume, id, write(lba, 8), 1);
    }
    let merged = expect(&mut volume, PLAIN, 100, 16);
    end(&mut volume, merged, Ok(8192));
    let mut sync = None;
    while let Some(op) = volume.poll_device() {
        if op.kind == OpKind::Sync {
            sync = Some(op);
        }
    }
    end(&mut volume, sync.unwrap(), Err(Errno::IO));
    for lba in [100, 108] {
        expect(&mut volume, DURABLE, lba, 8);
    }
}

/// The first part was covered by the sync that failed, and no later one would store it.
#[test]
fn data_whose_first_part_a_failed_sync_may_have_lost_is_written_again() {
    let mut volume = volume_of(VolumeSettings {
        dirty_bytes: 32 << 10,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(100, 16), 1);
    assert!(answered(&mut volume, 1).is_ok());
    request(&mut volume, 2, RequestKind::Flush);
    let data = expect(&mut volume, PLAIN, 100, 16);
    trim(&mut volume, 3, &[(500, 8)]);
    let op = expect(&mut volume, OpKind::Discard, 500, 8);
    end(&mut volume, data, Ok(8 * 512));
    let rest = expect(&mut volume, PLAIN, 108, 8);
    end(&mut volume, op, Ok(0));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Err(Errno::IO));
    assert!(volume.poll_done().is_some_and(|done| done.result.is_err()));
    end(&mut volume, rest, Ok(8 * 512));
    expect(&mut volume, PLAIN, 100, 16);
}

/// What it has discarded so far may be undone.
#[test]
fn a_trim_that_a_failed_sync_meets_on_its_way_fails() {
    for early in [true, false] {
        let mut volume = volume_of(VolumeSettings {
            stability: Stability::Shared,
            ..SETTINGS
        });
        request(&mut volume, 1, WRITE);
        let op = expect(&mut volume, PLAIN, 100, 8);
        end(&mut volume, op, Ok(4096));
        let sync = expect(&mut volume, OpKind::Sync, 0, 0);
        let mut buffer = vec![0; 4096];
        buffer[..8].copy_from_slice(&(0x1F4_u64 | 8 << 48).to_le_bytes());
        let kind = RequestKind::Trim { blocks: 1, early };
        let request = DiskRequest {
            id: RequestId(2),
            kind,
            buffer,
        };
        volume.handle_request(NOW, request).unwrap();
        let op = expect(&mut volume, OpKind::Discard, 500, 8);
        end(&mut volume, sync, Err(Errno::IO));
        end(&mut volume, op, Ok(0));
        for id in [1, 2] {
            assert!(answered(&mut volume, id).is_err(), "{id}, early: {early}");
        }
    }
}

/// It loses what was beyond the new end, and nothing else; nobody waits for what cannot be read.
#[test]
fn a_disk_that_becomes_shorter_takes_what_was_beyond_its_end() {
    let mut volume = volume_of(VolumeSettings {
        block_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(10, 1), 1);
    filled(&mut volume, 2, early(104, 2), 2);
    for id in [1, 2] {
        assert!(answered(&mut volume, id).is_ok());
    }
    volume.set_size(100 * 512 / 4096 * 4096);
    filled(&mut volume, 3, RequestKind::Flush, 0);
    let rest = expect(&mut volume, OpKind::Read, 8, 8);
    done(&mut volume, rest, 7);
    let write = expect(&mut volume, PLAIN, 8, 8);
    nothing_to_do(&mut volume);
    done(&mut volume, write, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 3).is_ok());
    assert!(volume.is_clean() && volume.is_idle());
    // Longer again: nothing of it comes back.
    volume.set_size(DISK_BYTES);
    filled(&mut volume, 4, read(104, 8), 0);
    let op = expect(&mut volume, OpKind::Read, 104, 8);
    done(&mut volume, op, 0);
    assert_eq!(answered(&mut volume, 4).unwrap()[..4096], [0; 4096]);
}

/// They were given to the device all the same: a file would have grown again.
#[test]
fn requests_for_what_is_gone_fail_and_the_device_is_not_asked() {
    for kind in [write(96, 8), early(96, 8), read(96, 8)] {
        let mut volume = volume();
        filled(&mut volume, 1, write(90, 8), 1);
        let before = expect(&mut volume, DURABLE, 90, 8);
        filled(&mut volume, 2, kind, 2);
        nothing_to_do(&mut volume);
        volume.set_size(98 * 512);
        done(&mut volume, before, 0);
        nothing_more(&mut volume);
        assert!(answered(&mut volume, 1).is_ok());
        assert!(answered(&mut volume, 2).is_err(), "{kind:?}");
        assert!(volume.is_clean() && volume.is_idle());
    }
}

/// It was acknowledged, and what the cache had of it came back when the disk grew.
#[test]
fn a_write_that_is_with_the_device_when_its_sectors_go_fails() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    filled(&mut volume, 2, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
    filled(&mut volume, 3, write(96, 8), 3);
    let op = expect(&mut volume, DURABLE, 96, 8);
    volume.set_size(100 * 512);
    volume.set_size(DISK_BYTES);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 3).is_err());
    filled(&mut volume, 4, read(96, 8), 0);
    let op = expect(&mut volume, OpKind::Read, 96, 8);
    done(&mut volume, op, 0);
    assert_eq!(sectors(&answered(&mut volume, 4).unwrap()[..4096]), [0; 8]);
}

/// A group was answered as a whole.
#[test]
fn of_merged_writes_those_fail_whose_sectors_go() {
    let mut volume = volume();
    filled(&mut volume, 1, write(80, 8), 1);
    let before = expect(&mut volume, DURABLE, 80, 8);
    filled(&mut volume, 2, write(84, 4), 2);
    filled(&mut volume, 3, write(88, 8), 3);
    filled(&mut volume, 4, write(96, 8), 4);
    done(&mut volume, before, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let mut ops = Vec::new();
    while let Some(op) = volume.poll_device() {
        ops.push(op);
    }
    volume.set_size(96 * 512);
    for op in ops {
        let left = (96 * 512_u64)
            .saturating_sub(op.offset_bytes)
            .min(op.len_bytes);
        let result = u32::try_from(left).ok().filter(|left| *left > 0);
        end(&mut volume, op, result.ok_or(Errno::NOSPC));
    }
    let mut results = Vec::new();
    for _ in 0..4 {
        while let Some(op) = volume.poll_device() {
            assert!(op.offset_bytes + op.len_bytes <= 96 * 512, "beyond the end");
            done(&mut volume, op, 0);
        }
        while let Some(done) = volume.poll_done() {
            results.push((done.id.0, done.result.is_ok()));
        }
    }
    results.sort_unstable();
    assert_eq!(results, [(2, true), (3, true), (4, false)]);
}

/// It was tried again and again, beyond the end, until the volume was latched.
#[test]
fn a_page_that_is_being_written_when_its_sectors_go_is_forgotten() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 16), 1);
    filled(&mut volume, 2, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 16);
    volume.set_size(104 * 512);
    end(&mut volume, op, Ok(8 * 512));
    // What is left of it is written anew.
    let op = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
    assert!(volume.is_clean() && volume.is_idle() && volume.poll_timeout().is_none());
    volume.set_size(DISK_BYTES);
    filled(&mut volume, 3, read(104, 8), 0);
    let op = expect(&mut volume, OpKind::Read, 104, 8);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 3).is_ok());
}

/// The task that was to write its pages had nothing left to do, and nobody noticed.
#[test]
fn a_flush_whose_data_is_gone_is_answered() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    filled(&mut volume, 2, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 8);
    nothing_to_do(&mut volume);
    volume.set_size(96 * 512);
    end(&mut volume, op, Err(Errno::NOSPC));
    nothing_more(&mut volume);
    assert!(answered(&mut volume, 2).is_ok());
    assert!(volume.is_clean() && volume.is_idle());
}

/// They waited for room that was there, until somebody else asked for something.
#[test]
fn writes_that_wait_for_room_get_that_of_what_is_gone() {
    let mut volume = volume_of(VolumeSettings {
        dirty_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(96, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 8);
    filled(&mut volume, 2, early(0, 8), 2);
    end(&mut volume, op, Err(Errno::NOSPC));
    nothing_to_do(&mut volume);
    volume.set_size(96 * 512);
    expect(&mut volume, PLAIN, 0, 8);
    assert!(answered(&mut volume, 2).is_ok());
}

/// It was there again when the disk had grown.
#[test]
fn what_is_read_ahead_beyond_an_end_that_came_nearer_is_not_kept() {
    let mut volume = volume();
    for id in 0..4 {
        filled(&mut volume, id, read(u64::from(id) * 8, 8), 0);
        let op = expect(&mut volume, OpKind::Read, u64::from(id) * 8, 8);
        done(&mut volume, op, 1);
        assert!(answered(&mut volume, id).is_ok());
    }
    let ahead = volume.poll_device().expect("something is read ahead");
    let end = (ahead.offset_bytes + ahead.len_bytes) / 512;
    while let Some(op) = volume.poll_device() {
        done(&mut volume, op, 1);
    }
    volume.set_size((end - 8) * 512);
    volume.set_size(DISK_BYTES);
    done(&mut volume, ahead, 1);
    filled(&mut volume, 9, read(end - 8, 8), 0);
    let op = expect(&mut volume, OpKind::Read, end - 8, 8);
    done(&mut volume, op, 0);
    assert_eq!(sectors(&answered(&mut volume, 9).unwrap()[..4096]), [0; 8]);
}

/// The rest of the block at the old end was asked for from inside of a block.
#[test]
fn a_transfer_of_the_last_block_starts_over_when_the_disk_grows() {
    let mut volume = volume_of(VolumeSettings {
        block_bytes: 4096,
        size_bytes: 100 * 512,
        ..SETTINGS
    });
    filled(&mut volume, 1, write(96, 4), 1);
    let op = expect(&mut volume, DURABLE, 96, 4);
    volume.set_size(112 * 512);
    end(&mut volume, op, Err(Errno::INVAL));
    let rest = expect(&mut volume, OpKind::Read, 96, 8);
    done(&mut volume, rest, 7);
    let mut op = expect(&mut volume, DURABLE, 96, 8);
    assert_eq!(sectors(&data(&mut op)), [1, 1, 1, 1, 7, 7, 7, 7]);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 1).is_ok());
}

/// It is not known what the device has now: an old copy must not hide it.
#[test]
fn a_write_that_failed_makes_the_cache_forget() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    filled(&mut volume, 2, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
    filled(&mut volume, 3, write(98, 2), 2);
    let op = expect(&mut volume, DURABLE, 98, 2);
    end(&mut volume, op, Err(Errno::IO));
    assert!(answered(&mut volume, 3).is_err());
    filled(&mut volume, 4, read(96, 8), 0);
    let op = expect(&mut volume, OpKind::Read, 96, 8);
    done(&mut volume, op, 2);
    let seen = answered(&mut volume, 4).unwrap();
    assert_eq!(sectors(&seen[..4096]), [1, 1, 2, 2, 1, 1, 1, 1]);
}

/// SET FEATURES turns the write cache off with a flush: nothing may be early that is answered
/// after it.
#[test]
fn a_flush_makes_durable_what_waits_for_room() {
    let mut volume = volume_of(VolumeSettings {
        dirty_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, early(96, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    filled(&mut volume, 2, early(200, 8), 2);
    assert!(volume.poll_done().is_none(), "it waits for room");
    filled(&mut volume, 3, RequestKind::Flush, 0);
    let durable = expect(&mut volume, DURABLE, 200, 8);
    let plain = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, plain, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 3).is_ok());
    assert!(volume.poll_done().is_none(), "it is not stable");
    done(&mut volume, durable, 0);
    assert!(answered(&mut volume, 2).is_ok());
}

/// However little is at risk: whoever waits for room waits for a sync, not for time to pass.
#[test]
fn a_write_that_waits_for_room_has_a_flush_begun() {
    let mut volume = volume_of(VolumeSettings {
        dirty_bytes: 6 * 1024,
        dirty_age: Duration::from_secs(3600),
        ..SETTINGS
    });
    filled(&mut volume, 1, early(96, 1), 1);
    assert!(answered(&mut volume, 1).is_ok());
    nothing_to_do(&mut volume);
    filled(&mut volume, 2, early(200, 12), 2);
    let op = expect(&mut volume, PLAIN, 96, 1);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
}

/// A full file system takes no new blocks, but those that it has can be written.
#[test]
fn refused_pages_do_not_keep_others_from_being_written() {
    let settings = VolumeSettings {
        dirty_bytes: 1 << 20,
        ..SETTINGS
    };
    let mut volume = volume_with(settings, 4 * LEAST_PAGES);
    // Every second page, so that each is written by itself; those of the first half are refused.
    for number in 0..100 {
        filled(&mut volume, number, early(u64::from(number) * 16, 8), 1);
        assert!(answered(&mut volume, number).is_ok());
    }
    volume.begin_flush(NOW);
    let mut now = NOW;
    let mut written = 0;
    loop {
        while let Some(op) = volume.poll_device() {
            let refused = op.kind == PLAIN && op.offset_bytes < 50 * 16 * 512;
            written += u32::from(op.kind == PLAIN && !refused);
            let len = u32::try_from(op.len_bytes).unwrap();
            let result = if refused { Err(Errno::NOSPC) } else { Ok(len) };
            end_at(&mut volume, now, op, result);
        }
        match volume.poll_timeout() {
            Some(due) => now = now.max(due),
            None => break,
        }
        volume.handle_timeout(now);
    }
    assert_eq!(written, 50);
    assert!(volume.failure().is_some() && volume.is_idle() && !volume.is_clean());
    assert_eq!(volume.ranges_at_risk().count(), 50);
}
