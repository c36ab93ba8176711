//! Stories of a disk that fails, or ends earlier, at an awkward moment.

use super::*;

/// One beyond the new end was merged with one before it: a file that was cut grew again.
#[test]
fn a_write_that_is_gone_is_not_merged_with_one_that_is_not() {
    let mut volume = volume();
    filled(&mut volume, 1, write(88, 8), 1);
    filled(&mut volume, 2, write(96, 8), 2);
    volume.set_size(96 * 512);
    let op = expect(&mut volume, DURABLE, 88, 8);
    nothing_more(&mut volume);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 2).is_err());
    assert!(answered(&mut volume, 1).is_ok());
}

/// The rest of a group was given to the device, with what was gone in it.
#[test]
fn of_merged_writes_done_in_part_those_fail_whose_sectors_go() {
    let mut volume = volume();
    filled(&mut volume, 1, write(88, 8), 1);
    filled(&mut volume, 2, write(96, 8), 2);
    let both = expect(&mut volume, DURABLE, 88, 16);
    end(&mut volume, both, Ok(512));
    volume.set_size(96 * 512);
    let op = expect(&mut volume, DURABLE, 88, 8);
    nothing_more(&mut volume);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 2).is_err());
    assert!(answered(&mut volume, 1).is_ok());
}

/// The whole block was to be written, beyond the new end of the disk.
#[test]
fn a_block_that_was_read_before_the_disk_ended_in_it_starts_over() {
    let mut volume = volume_of(VolumeSettings {
        block_bytes: 4096,
        ..SETTINGS
    });
    filled(&mut volume, 1, write(96, 2), 1);
    let op = expect(&mut volume, OpKind::Read, 96, 8);
    volume.set_size(100 * 512);
    done(&mut volume, op, 7);
    let op = expect(&mut volume, OpKind::Read, 96, 4);
    done(&mut volume, op, 7);
    let mut op = expect(&mut volume, DURABLE, 96, 4);
    assert_eq!(sectors(&data(&mut op)), [1, 1, 7, 7]);
    done(&mut volume, op, 0);
    assert!(answered(&mut volume, 1).is_ok());
}

/// Its copy in the cache was kept as it was: after the next sync nobody knew that the device had
/// something else.
#[test]
fn what_no_sync_has_covered_is_written_again_over_a_write_that_failed() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    filled(&mut volume, 2, RequestKind::Flush, 0);
    assert!(answered(&mut volume, 1).is_ok());
    let op = expect(&mut volume, PLAIN, 96, 8);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    filled(&mut volume, 3, write(98, 2), 3);
    let op = expect(&mut volume, DURABLE, 98, 2);
    end(&mut volume, op, Err(Errno::IO));
    assert!(answered(&mut volume, 3).is_err());
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 2).is_ok());
    assert!(!volume.is_clean());
    filled(&mut volume, 4, RequestKind::Flush, 0);
    let mut op = expect(&mut volume, PLAIN, 98, 2);
    assert_eq!(sectors(&data(&mut op)), [1, 1]);
    done(&mut volume, op, 0);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    done(&mut volume, sync, 0);
    assert!(answered(&mut volume, 4).is_ok());
    assert!(volume.is_clean());
    filled(&mut volume, 5, read(96, 8), 0);
    assert_eq!(answered(&mut volume, 5).unwrap()[..4096], [1; 4096]);
}

/// With the smallest cache it waited for pages that nobody could give up.
#[test]
fn the_largest_read_goes_on_when_all_else_is_held() {
    let mut volume = volume_of(VolumeSettings {
        capacity: 64,
        block_bytes: 4096,
        dirty_bytes: 1 << 20,
        ..SETTINGS
    });
    for id in 0..64 {
        filled(&mut volume, id, early(u64::from(id) * 16, 8), 1);
    }
    while let Some(op) = volume.poll_device() {
        let write = op.kind == PLAIN;
        let result = if write { Err(Errno::IO) } else { Ok(0) };
        end(&mut volume, op, result);
    }
    let mut answers = 0;
    while volume.poll_done().is_some() {
        answers += 1;
    }
    assert!(
        (40..64).contains(&answers),
        "{answers}: not all it may hold"
    );
    let largest = DiskRequest {
        id: RequestId(64),
        kind: read(100_007, 127),
        buffer: vec![0; 127 * 512],
    };
    volume.handle_request(NOW, largest).unwrap();
    expect(&mut volume, OpKind::Read, 100_000, 136);
}
