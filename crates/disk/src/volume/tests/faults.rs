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
