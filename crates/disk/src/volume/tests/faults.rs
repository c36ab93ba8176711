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

/// Nothing was dirty any more, so it was answered; but neither the data nor the zeros in its place
/// were stable.
#[test]
fn a_flush_of_data_that_is_trimmed_meanwhile_waits_for_a_sync() {
    let mut volume = volume();
    filled(&mut volume, 1, early(96, 8), 1);
    assert!(answered(&mut volume, 1).is_ok());
    trim(&mut volume, 2, &[(96, 8), (500, 8)]);
    let op = expect(&mut volume, OpKind::Discard, 96, 8);
    filled(&mut volume, 3, RequestKind::Flush, 0);
    nothing_to_do(&mut volume);
    end(&mut volume, op, Ok(0));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    let second = expect(&mut volume, OpKind::Discard, 500, 8);
    nothing_to_do(&mut volume);
    end(&mut volume, sync, Ok(0));
    assert!(answered(&mut volume, 3).is_ok());
    end(&mut volume, second, Ok(0));
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    end(&mut volume, sync, Ok(0));
    assert_eq!(answer(&mut volume, 2), Ok(()));
    assert!(volume.is_clean() && volume.is_idle());
}

/// The kernel tells of what was lost once: the sync heard of it, and the write did not.
#[test]
fn a_durable_write_is_answered_when_the_sync_beside_it_has_ended() {
    for (ended_first, result) in [
        (true, Ok(0)),
        (true, Err(Errno::IO)),
        (false, Err(Errno::IO)),
    ] {
        let mut volume = volume();
        trim(&mut volume, 1, &[(500, 8)]);
        let op = expect(&mut volume, OpKind::Discard, 500, 8);
        end(&mut volume, op, Ok(0));
        let sync = expect(&mut volume, OpKind::Sync, 0, 0);
        filled(&mut volume, 2, WRITE, 2);
        let op = expect(&mut volume, DURABLE, 100, 8);
        if ended_first {
            done(&mut volume, op, 0);
            nothing_to_do(&mut volume);
            end(&mut volume, sync, result);
        } else {
            end(&mut volume, sync, result);
            nothing_more(&mut volume);
            done(&mut volume, op, 0);
        }
        if result.is_err() {
            // It is written again, by itself.
            let op = expect(&mut volume, DURABLE, 100, 8);
            done(&mut volume, op, 0);
        }
        nothing_more(&mut volume);
        for id in [1, 2] {
            let done = volume.poll_done().expect("there is an answer");
            let of_the_trim = done.id == RequestId(1);
            assert_eq!(done.result.is_err(), of_the_trim && result.is_err(), "{id}");
        }
        assert!(volume.is_idle());
    }
}

/// Each success of another began the counting anew, and the flush waited for ever.
#[test]
fn a_page_that_is_never_written_latches_however_others_fare() {
    let settings = VolumeSettings {
        dirty_bytes: 1 << 20,
        ..SETTINGS
    };
    let mut volume = volume_with(settings, 4 * LEAST_PAGES);
    filled(&mut volume, 0, early(0, 8), 1);
    assert!(answered(&mut volume, 0).is_ok());
    filled(&mut volume, 1, RequestKind::Flush, 0);
    let mut now = NOW;
    let mut once_refused = 0;
    for round in 1..200 {
        let lba = round * 80;
        filled_at(&mut volume, now, 2, early(lba, 8), 1);
        while let Some(op) = volume.poll_device() {
            let lba = op.offset_bytes / 512;
            let refused = op.kind == PLAIN && (lba == 0 || lba > once_refused);
            once_refused = once_refused.max(lba);
            let len = u32::try_from(op.len_bytes).unwrap();
            end_at(
                &mut volume,
                now,
                op,
                if refused { Err(Errno::IO) } else { Ok(len) },
            );
        }
        while volume.poll_done().is_some() {}
        if volume.failure().is_some() {
            break;
        }
        now = volume.poll_timeout().expect("it will be tried again");
        volume.handle_timeout(now);
    }
    assert!(volume.failure().is_some(), "it is tried for ever");
    let waited = now.saturating_sub(NOW).as_secs_f64();
    assert!((3.0..3.2).contains(&waited), "{waited} s");
}

/// A process that was killed has left data with the device that readers see. A flush was answered
/// at once, and a power cut took the data.
#[test]
fn the_first_flush_covers_what_an_earlier_process_has_left() {
    let new = || TestVolume::new(SETTINGS, vec![vec![0; PAGE_BYTES]; LEAST_PAGES]);
    let mut volume = new();
    assert!(!volume.is_clean());
    request(&mut volume, 1, RequestKind::Flush);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    nothing_to_do(&mut volume);
    end(&mut volume, sync, Ok(0));
    assert_eq!(answer(&mut volume, 1), Ok(()));
    assert!(volume.is_clean() && volume.is_idle());
    // Nor does it wait for a flush that never comes; once is enough.
    let mut volume = new();
    let due = volume.poll_timeout().expect("a sync is due");
    assert!(due <= SETTINGS.dirty_age / 2);
    volume.handle_timeout(NOW);
    let sync = expect(&mut volume, OpKind::Sync, 0, 0);
    request(&mut volume, 1, WRITE);
    let op = expect(&mut volume, DURABLE, 100, 8);
    end(&mut volume, op, Ok(4096));
    end(&mut volume, sync, Ok(0));
    assert_eq!(answer(&mut volume, 1), Ok(()));
    assert!(volume.is_clean() && volume.is_idle());
    assert_eq!(
        volume.poll_timeout(),
        None,
        "an idle volume has nothing to do"
    );
}
