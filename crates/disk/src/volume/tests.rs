//! A volume's life, one story each. The device is whoever reads the test.

use super::*;

type TestVolume = Volume<Vec<u8>>;

fn volume(durability: Durability) -> TestVolume {
    Volume::new(VolumeSettings {
        capacity: 4,
        durability,
        changes: Changes::Concurrent,
    })
}

fn request(volume: &mut TestVolume, id: u32, kind: RequestKind) {
    let buffer = vec![0; 4096];
    let request = DiskRequest {
        id: RequestId(id),
        kind,
        buffer,
    };
    volume.handle_request(request).unwrap();
}

/// The next operation, which has to be of this kind, in sectors.
fn expect(volume: &mut TestVolume, kind: OpKind, lba: u64, sectors: u64) -> DeviceOp<Vec<u8>> {
    let op = volume.poll_device().expect("there is something to do");
    let range = (op.offset_bytes / 512, op.len_bytes / 512);
    assert_eq!((op.kind, range), (kind, (lba, sectors)));
    op
}

fn end(volume: &mut TestVolume, op: DeviceOp<Vec<u8>>, result: Result<u32, Errno>) {
    volume.handle_device(Completion {
        id: op.id,
        memory: op.memory,
        result,
    });
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
};
const DURABLE: OpKind = OpKind::Write { durable: true };
const PLAIN: OpKind = OpKind::Write { durable: false };

/// Behind the page cache the kernel may tell the wrong one of two durable writes that one failed.
#[test]
fn changes_go_to_the_device_one_by_one_where_they_must_and_reads_pass() {
    let mut volume = Volume::new(VolumeSettings {
        capacity: 4,
        durability: Durability::Writethrough,
        changes: Changes::OneByOne,
    });
    request(&mut volume, 1, WRITE);
    request(&mut volume, 2, RequestKind::Write { lba: 0, sectors: 8 });
    request(&mut volume, 3, RequestKind::Read { lba: 8, sectors: 8 });
    let read = expect(&mut volume, OpKind::Read, 8, 8);
    let first = expect(&mut volume, DURABLE, 100, 8);
    assert!(volume.poll_device().is_none(), "the second write waits");
    // The rest of a short transfer keeps its turn.
    end(&mut volume, first, Ok(512));
    let first = expect(&mut volume, DURABLE, 101, 7);
    end(&mut volume, first, Err(Errno::IO));
    let second = expect(&mut volume, DURABLE, 0, 8);
    let done = volume.poll_done().expect("the first is answered");
    assert!(done.id == RequestId(1) && done.result.is_err());
    end(&mut volume, read, Ok(4096));
    assert_eq!(answer(&mut volume, 3), Ok(()));
    end(&mut volume, second, Ok(4096));
    assert_eq!(answer(&mut volume, 2), Ok(()));
}

#[test]
fn a_request_for_nothing_is_answered_without_the_device() {
    let mut volume = volume(Durability::Writethrough);
    for kind in [
        RequestKind::Read { lba: 9, sectors: 0 },
        RequestKind::Write { lba: 9, sectors: 0 },
        RequestKind::Flush,
        RequestKind::Trim { blocks: 1 },
    ] {
        request(&mut volume, 1, kind);
        assert_eq!(answer(&mut volume, 1), Ok(()), "{kind:?}");
    }
    assert!(volume.is_idle());
}

#[test]
fn what_no_device_can_do_is_refused() {
    let mut volume = volume(Durability::Writethrough);
    for kind in [
        RequestKind::Read {
            lba: u64::MAX,
            sectors: 1,
        },
        RequestKind::Write {
            lba: u64::MAX / 512,
            sectors: 8,
        },
        RequestKind::Read { lba: 0, sectors: 9 },
        RequestKind::Read {
            lba: 0,
            sectors: u32::MAX,
        },
        RequestKind::Trim { blocks: 9 },
        RequestKind::Trim { blocks: u32::MAX },
    ] {
        request(&mut volume, 1, kind);
        let error = answer(&mut volume, 1).unwrap_err();
        assert_eq!(error.cause, Cause::Malformed, "{kind:?}");
    }
}

#[test]
fn a_full_volume_gives_the_request_back() {
    let mut volume = volume(Durability::Writethrough);
    for id in 0..4 {
        request(&mut volume, id, READ);
    }
    let fifth = DiskRequest {
        id: RequestId(4),
        kind: WRITE,
        buffer: vec![7; 4096],
    };
    let fifth = volume.handle_request(fifth).unwrap_err();
    assert_eq!((fifth.id, fifth.kind), (RequestId(4), WRITE));
    assert_eq!(fifth.buffer, [7; 4096]);
    let op = expect(&mut volume, OpKind::Read, 100, 8);
    end(&mut volume, op, Ok(4096));
    volume
        .handle_request(fifth)
        .expect_err("the answer is not polled yet");
    assert!(volume.poll_done().is_some());
    request(&mut volume, 4, READ);
    assert_eq!(volume.outstanding(), 4);
}

#[test]
fn a_short_transfer_goes_on_where_it_stopped() {
    let mut volume = volume(Durability::Writethrough);
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
    let mut volume = volume(Durability::Writethrough);
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

#[test]
fn interrupted_operations_are_resubmitted_but_not_for_ever() {
    for errno in [Errno::INTR, Errno::AGAIN] {
        let mut volume = volume(Durability::Writethrough);
        request(&mut volume, 1, WRITE);
        for _ in 0..MAX_RESUBMITS {
            let op = expect(&mut volume, DURABLE, 100, 8);
            end(&mut volume, op, Err(errno));
        }
        let op = expect(&mut volume, DURABLE, 100, 8);
        end(&mut volume, op, Ok(512));
        // There was progress: it counts from the beginning.
        for _ in 0..=MAX_RESUBMITS {
            let op = expect(&mut volume, DURABLE, 101, 7);
            end(&mut volume, op, Err(errno));
        }
        let error = answer(&mut volume, 1).unwrap_err();
        assert_eq!(error.cause, Cause::Device(errno));
    }
}

#[test]
fn a_write_that_goes_nowhere_fails() {
    let mut volume = volume(Durability::Writethrough);
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
    let kind = RequestKind::Trim { blocks: 8 };
    let request = DiskRequest {
        id: RequestId(id),
        kind,
        buffer,
    };
    volume.handle_request(request).unwrap();
}

#[test]
fn a_trim_discards_its_ranges_in_order_and_syncs_once() {
    let mut volume = volume(Durability::Writethrough);
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
    let op = expect(&mut volume, OpKind::Sync, last, 0);
    end(&mut volume, op, Ok(0));
    assert_eq!(answer(&mut volume, 1), Ok(()));
}

#[test]
fn a_trim_ends_at_its_first_error() {
    let mut volume = volume(Durability::Writethrough);
    trim(&mut volume, 1, &[(1, 1), (2, 2), (8, 1)]);
    let op = expect(&mut volume, OpKind::Discard, 1, 1);
    end(&mut volume, op, Ok(0));
    let op = expect(&mut volume, OpKind::Discard, 2, 2);
    end(&mut volume, op, Err(Errno::OPNOTSUPP));
    let error = answer(&mut volume, 1).unwrap_err();
    assert_eq!((error.operation, error.lba), (Operation::Trim, 2));
    assert_eq!(error.errno(), Errno::OPNOTSUPP);
}

#[test]
fn flushes_share_a_sync_that_covers_them() {
    let mut volume = volume(Durability::Writeback);
    request(&mut volume, 1, WRITE);
    let write = expect(&mut volume, PLAIN, 100, 8);
    end(&mut volume, write, Ok(4096));
    assert_eq!(answer(&mut volume, 1), Ok(()));
    request(&mut volume, 2, RequestKind::Flush);
    request(&mut volume, 3, RequestKind::Flush);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    assert!(volume.poll_device().is_none(), "one for both");
    request(&mut volume, 4, WRITE);
    let write = expect(&mut volume, PLAIN, 100, 8);
    end(&mut volume, write, Ok(4096));
    assert_eq!(answer(&mut volume, 4), Ok(()));
    request(&mut volume, 5, RequestKind::Flush);
    end(&mut volume, sync, Ok(0));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    for id in [2, 3] {
        assert_eq!(answer(&mut volume, id), Ok(()));
    }
    assert!(
        volume.poll_done().is_none(),
        "the write came after that sync began"
    );
    end(&mut volume, sync, Ok(0));
    assert_eq!(answer(&mut volume, 5), Ok(()));
    request(&mut volume, 6, RequestKind::Flush);
    assert_eq!(answer(&mut volume, 6), Ok(()), "nothing is left to sync");
}

#[test]
fn a_failed_sync_is_final_until_an_operator_acts() {
    let mut volume = volume(Durability::Writeback);
    request(&mut volume, 1, WRITE);
    let write = expect(&mut volume, PLAIN, 100, 8);
    end(&mut volume, write, Ok(4096));
    assert_eq!(answer(&mut volume, 1), Ok(()));
    request(&mut volume, 2, RequestKind::Flush);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Err(Errno::IO));
    assert!(answer(&mut volume, 2).is_err());
    assert!(volume.failure().is_some());
    for kind in [WRITE, RequestKind::Flush] {
        request(&mut volume, 3, kind);
        let error = answer(&mut volume, 3).unwrap_err();
        assert_eq!(error.errno(), Errno::IO, "{kind:?}");
    }
    request(&mut volume, 4, READ);
    let read = expect(&mut volume, OpKind::Read, 100, 8);
    end(&mut volume, read, Ok(4096));
    assert_eq!(answer(&mut volume, 4), Ok(()), "reads go on");
    volume.clear_failure();
    request(&mut volume, 5, WRITE);
    expect(&mut volume, PLAIN, 100, 8);
}
