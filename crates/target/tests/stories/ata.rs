//! §3: task files. The table of §3.3 row by row, then each command's own rules.

use aoede_target::{Action, DeviceFailure, TargetSettings, Trim, WriteCache};
use aoede_wire::Opcode;

use crate::bench::{Bench, SECTORS, Seen, ata, ata_with, hex, port, settings, with};

/// Byte 14, byte 15, error, count, status.
type Row = (u8, u8, u8, u8, u8);

const DONE: Row = (0x18, 0, 0, 0, 0x40);
fn bad_argument(count: u8) -> Row {
    (0x1C, 2, 0, count, 0x01)
}
fn not_found(count: u8) -> Row {
    (0x18, 0, 0x10, count, 0x41)
}
fn aborted(count: u8) -> Row {
    (0x18, 0, 0x04, count, 0x41)
}

/// The response is this row of the table; its data, if any, is returned.
#[track_caller]
fn answers(bench: &mut Bench, request: &[u8], row: Row) -> Vec<u8> {
    // What has to be copied shall be seen.
    let request = with(with(request.to_vec(), 34, 0x3A), 35, 0x5C);
    let response = bench.answer(&request);
    let (flags, error, err, count, status) = row;
    assert_eq!(response[14..16], [flags, error]);
    assert_eq!(response[24], request[24], "aflags");
    assert_eq!(response[25..28], [err, count, status], "err, count, status");
    assert_eq!(response[28..36], request[28..36], "LBA and reserved");
    if response.len() == 60 {
        assert_eq!(response[36..], [0; 24], "padding");
        return Vec::new();
    }
    response[36..].to_vec()
}

fn write(lba: u64, count: u8) -> Vec<u8> {
    ata_with(
        Opcode::WriteExt,
        lba,
        count,
        &vec![7; usize::from(count) * 512],
    )
}

fn read_only() -> Bench {
    Bench::new(TargetSettings {
        read_only: true,
        trim: Trim::ReadsZeros,
        ..settings()
    })
}

fn trimming() -> Bench {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        ..settings()
    });
    bench.disk.fill(0xEE);
    bench
}

fn write_back() -> Bench {
    Bench::new(TargetSettings {
        write_cache: WriteCache::Back,
        ..settings()
    })
}

#[test]
fn reads_return_the_sectors() {
    let mut bench = Bench::new(settings());
    for (i, byte) in (0..=u8::MAX).cycle().zip(&mut bench.disk) {
        *byte = i ^ 0x33;
    }
    let expected = bench.disk[5 * 512..7 * 512].to_vec();
    for opcode in [Opcode::Read, Opcode::ReadExt] {
        assert_eq!(answers(&mut bench, &ata(opcode, 5, 2), DONE), expected);
    }
    assert_eq!(bench.actions, [Action::Read { lba: 5, sectors: 2 }; 2]);
    let stats = bench.target().stats();
    assert_eq!((stats.reads, stats.read_sectors), (2, 4));
}

#[test]
fn writes_take_exactly_their_sectors() {
    let mut bench = Bench::new(settings());
    let mut long = write(9, 1);
    long.extend([0x99; 100]);
    answers(&mut bench, &long, DONE);
    assert_eq!(bench.disk[9 * 512..10 * 512], [7; 512]);
    assert_eq!(bench.disk[10 * 512..11 * 512], [0; 512]);
    let write28 = with(write(10, 2), 27, 0x30);
    answers(&mut bench, &write28, DONE);
    assert_eq!(bench.disk[10 * 512..12 * 512], [7; 1024]);
    let stats = bench.target().stats();
    assert_eq!((stats.writes, stats.written_sectors), (2, 3));
}

#[test]
fn count_0_is_a_success_without_data_up_to_the_end() {
    let mut bench = Bench::new(settings());
    for opcode in [
        Opcode::Read,
        Opcode::ReadExt,
        Opcode::Write,
        Opcode::WriteExt,
    ] {
        for lba in [0, 1, SECTORS] {
            answers(&mut bench, &ata(opcode, lba, 0), DONE);
        }
        answers(&mut bench, &ata(opcode, SECTORS + 1, 0), not_found(0));
    }
    assert!(bench.actions.is_empty());
}

#[test]
fn power_mode_is_active_whatever_the_count() {
    let mut bench = Bench::new(settings());
    for count in [0, 1, 3, 255] {
        let request = ata(Opcode::CheckPowerMode, 77, count);
        answers(&mut bench, &request, (0x18, 0, 0, 0xFF, 0x40));
    }
}

#[test]
fn frames_that_no_correct_initiator_sends_get_error_2() {
    let mut bench = Bench::new(settings());
    for count in [3, 255] {
        answers(
            &mut bench,
            &ata(Opcode::ReadExt, 0, count),
            bad_argument(count),
        );
        // Even when the data is there.
        answers(&mut bench, &write(0, count), bad_argument(count));
    }
    for count in [0, 2, 255] {
        answers(
            &mut bench,
            &ata(Opcode::Identify, 0, count),
            bad_argument(count),
        );
    }
    let whole = write(0, 2);
    for len in [36, 60, 36 + 512, 36 + 1023] {
        answers(&mut bench, &whole[..len], bad_argument(2));
    }
    // The frame is judged before the address.
    answers(
        &mut bench,
        &ata(Opcode::ReadExt, SECTORS, 3),
        bad_argument(3),
    );
    assert!(bench.actions.is_empty());
}

#[test]
fn the_sector_limit_is_the_receiving_ports() {
    let mut bench = Bench::with_mtu(9000);
    assert_eq!(
        answers(&mut bench, &ata(Opcode::ReadExt, 0, 17), DONE).len(),
        17 * 512
    );
    answers(&mut bench, &ata(Opcode::ReadExt, 0, 18), bad_argument(18));
    bench.port.max_sectors = 4;
    answers(&mut bench, &write(0, 4), DONE);
    answers(&mut bench, &write(0, 5), bad_argument(5));
}

#[test]
fn addresses_end_where_the_disk_does() {
    let mut bench = Bench::new(settings());
    for (lba, count, found) in [
        (SECTORS - 1, 1, true),
        (SECTORS - 2, 2, true),
        (SECTORS, 1, false),
        (SECTORS - 1, 2, false),
        ((1 << 48) - 1, 2, false),
        (1 << 28, 1, false),
        (1 << 32, 1, false),
    ] {
        let row = if found { DONE } else { not_found(count) };
        answers(&mut bench, &ata(Opcode::ReadExt, lba, count), row);
        answers(&mut bench, &write(lba, count), row);
    }
}

/// The high nibble of LBA3 holds device bits, LBA4 and LBA5 are ignored.
#[test]
fn short_commands_use_28_bits_of_the_address() {
    let mut bench = Bench::new(settings());
    for opcode in [0x20, 0x30] {
        let mut request = with(write(5, 1), 27, opcode);
        request[31..34].copy_from_slice(&[0xE0, 0xFF, 0xFF]);
        answers(&mut bench, &request, DONE);
        request[31] = 0xE1;
        answers(&mut bench, &request, not_found(1));
    }
    let write = Action::Write {
        lba: 5,
        sectors: 1,
        asynchronous: false,
    };
    assert_eq!(bench.actions, [Action::Read { lba: 5, sectors: 1 }, write]);
}

/// D4, D7: boot loaders send no flags at all, and nobody means what W says on a read.
#[test]
fn the_opcode_alone_decides_width_and_direction() {
    let mut bench = Bench::new(settings());
    for flags in [0x00, 0x01, 0x40, 0x41, 0x51, 0xFF] {
        let read = with(ata(Opcode::ReadExt, 5, 1), 24, flags);
        assert_eq!(answers(&mut bench, &read, DONE).len(), 512);
        let beyond = with(ata(Opcode::ReadExt, 1 << 40, 1), 24, flags);
        answers(&mut bench, &beyond, not_found(1));
        answers(&mut bench, &with(write(5, 1), 24, flags), DONE);
    }
}

/// The A flag is a permission that the worker hears of.
#[test]
fn asynchronous_writes_are_told_apart() {
    let mut bench = Bench::new(settings());
    for (flags, expected) in [(0x41, false), (0x43, true), (0x02, true)] {
        bench.actions.clear();
        answers(&mut bench, &with(write(5, 1), 24, flags), DONE);
        let [Action::Write { asynchronous, .. }] = bench.actions[..] else {
            panic!("{:?}", bench.actions);
        };
        assert_eq!(asynchronous, expected);
    }
}

#[test]
fn unknown_opcodes_are_aborted() {
    let mut bench = Bench::new(settings());
    let known = [0x06, 0x20, 0x24, 0x30, 0x34, 0xE5, 0xE7, 0xEA, 0xEC, 0xEF];
    for opcode in (0..=0xFF).filter(|opcode| !known.contains(opcode)) {
        // SMART (B0) among them, with the addresses and features it would have.
        let request = with(ata(Opcode::ReadExt, 0xC2_4F00, 1), 27, opcode);
        answers(&mut bench, &with(request, 25, 0xD0), aborted(1));
    }
    assert!(bench.actions.is_empty());
}

#[test]
fn a_read_only_export_refuses_what_changes_it_and_nothing_else() {
    let mut bench = read_only();
    for count in [0, 1, 2, 3] {
        answers(&mut bench, &write(0, count), aborted(count));
        answers(&mut bench, &with(write(0, count), 27, 0x30), aborted(count));
    }
    let trim = with(ata_with(Opcode::DataSetManagement, 0, 1, &[0; 512]), 25, 1);
    answers(&mut bench, &trim, aborted(1));
    answers(&mut bench, &ata(Opcode::ReadExt, 0, 1), DONE);
    answers(&mut bench, &ata(Opcode::FlushCache, 0, 0), DONE);
    assert!(bench.target().is_read_only());
}

#[test]
fn a_failing_device_is_reported_in_registers_without_data() {
    let mut bench = trimming();
    let trim = with(ata_with(Opcode::DataSetManagement, 0, 1, &[0; 512]), 25, 1);
    for (failure, err, status) in [
        (DeviceFailure::Unreadable, 0x40, 0x41),
        (DeviceFailure::Fault, 0x04, 0x61),
    ] {
        bench.failure = Some(failure);
        for request in [
            ata(Opcode::ReadExt, 0, 2),
            write(0, 2),
            ata(Opcode::FlushCacheExt, 0, 9),
            trim.clone(),
        ] {
            let count = request[26];
            answers(&mut bench, &request, (0x18, 0, err, count, status));
        }
    }
    assert_eq!(bench.target().stats().device_failures, 8);
}

#[test]
fn both_flushes_reach_the_disk_whatever_else_they_say() {
    let mut bench = Bench::new(settings());
    for opcode in [Opcode::FlushCache, Opcode::FlushCacheExt] {
        answers(&mut bench, &ata(opcode, (1 << 48) - 1, 255), DONE);
    }
    assert_eq!(bench.actions, [Action::Flush; 2]);
    assert_eq!(bench.target().stats().flushes, 2);
}

/// One entry of a TRIM block.
fn range(lba: u64, sectors: u64) -> [u8; 8] {
    (lba | sectors << 48).to_le_bytes()
}

fn trim(blocks: u8, ranges: &[[u8; 8]]) -> Vec<u8> {
    let mut data = ranges.concat();
    data.resize(usize::from(blocks) * 512, 0);
    with(ata_with(Opcode::DataSetManagement, 0, blocks, &data), 25, 1)
}

#[test]
fn trim_discards_what_its_entries_name() {
    let mut bench = trimming();
    let mut ranges = vec![
        range(4, 2),
        range(99, 0),
        range(5, 3),
        range(SECTORS - 1, 1),
    ];
    answers(&mut bench, &trim(1, &ranges), DONE);
    assert!(bench.disk[4 * 512..8 * 512].iter().all(|&b| b == 0));
    assert_eq!(bench.disk[8 * 512], 0xEE);
    ranges.resize(100, range(0, 0));
    ranges[99] = range(8, 1);
    answers(&mut bench, &trim(2, &ranges), DONE);
    assert_eq!(bench.disk[8 * 512], 0);
    assert_eq!(bench.actions[1], Action::Trim { blocks: 2 });
    assert_eq!(bench.target().stats().trims, 2);
}

#[test]
fn trim_checks_every_entry_before_it_touches_one() {
    let mut bench = trimming();
    for beyond in [
        range(SECTORS, 1),
        range(SECTORS - 1, 2),
        range((1 << 48) - 1, 0xFFFF),
    ] {
        answers(&mut bench, &trim(1, &[range(4, 2), beyond]), not_found(1));
    }
    // An unused entry names nothing, wherever it points to.
    answers(&mut bench, &trim(1, &[range(SECTORS + 1, 0)]), DONE);
    assert_eq!(bench.disk[4 * 512], 0xEE);
}

#[test]
fn trim_is_aborted_for_other_features_and_counts() {
    let mut bench = trimming();
    for feature in [0, 2, 0xFF] {
        answers(&mut bench, &with(trim(1, &[]), 25, feature), aborted(1));
    }
    for count in [0, 3, 255] {
        answers(&mut bench, &with(trim(1, &[]), 26, count), aborted(count));
    }
    answers(&mut bench, &with(trim(1, &[]), 26, 2), bad_argument(2));
    bench.port = port(1042);
    answers(&mut bench, &trim(1, &[]), DONE);
    answers(&mut bench, &trim(2, &[]), aborted(2));
    // Backing that cannot discard.
    answers(&mut Bench::new(settings()), &trim(1, &[]), aborted(1));
}

fn features(feature: u8) -> Vec<u8> {
    with(ata(Opcode::SetFeatures, 0, 0), 25, feature)
}

fn word(bench: &mut Bench, word: usize) -> u16 {
    let identity = answers(bench, &ata(Opcode::Identify, 0, 1), DONE);
    u16::from_le_bytes([identity[word * 2], identity[word * 2 + 1]])
}

#[test]
fn the_write_cache_goes_off_after_a_flush_and_on_again() {
    let mut bench = write_back();
    assert_eq!((word(&mut bench, 82), word(&mut bench, 85)), (0x20, 0x20));
    answers(&mut bench, &features(0x02), DONE);
    assert!(bench.target().is_write_cache_on());
    assert!(bench.actions.is_empty());

    let Seen::Disk(request, Action::Flush, _) = bench.see(&features(0x82)) else {
        panic!("the cache is flushed first");
    };
    // Writes that come now are through already; the identity still admits to what is not stable.
    assert!(!bench.target().is_write_cache_on());
    assert_eq!(word(&mut bench, 85), 0x20);
    let mut out = [0; 60];
    assert_eq!(bench.target().handle_done(request, Ok(()), &mut out), 60);
    assert_eq!(out[25..28], [0, 0, 0x40]);
    assert_eq!((word(&mut bench, 82), word(&mut bench, 85)), (0x20, 0));

    answers(&mut bench, &features(0x82), DONE);
    assert!(bench.actions.is_empty(), "it was off");
    answers(&mut bench, &features(0x02), DONE);
    assert!(bench.target().is_write_cache_on());
    assert_eq!(word(&mut bench, 85), 0x20);
}

#[test]
fn a_cache_that_cannot_be_flushed_stays_on() {
    let mut bench = write_back();
    bench.failure = Some(DeviceFailure::Fault);
    answers(&mut bench, &features(0x82), (0x18, 0, 0x04, 0, 0x61));
    assert!(bench.target().is_write_cache_on());
    assert_eq!(word(&mut bench, 85), 0x20);
}

#[test]
fn a_repeated_request_to_turn_the_cache_off_waits_for_its_own_flush() {
    let mut bench = write_back();
    let (first, second) = (bench.see(&features(0x82)), bench.see(&features(0x82)));
    let (Seen::Disk(first, ..), Seen::Disk(second, ..)) = (first, second) else {
        panic!("both flush");
    };
    let mut out = [0; 60];
    bench.target().handle_done(second, Ok(()), &mut out);
    assert_eq!(word(&mut bench, 85), 0x20);
    bench.target().handle_done(first, Ok(()), &mut out);
    assert_eq!(word(&mut bench, 85), 0);
}

#[test]
fn without_a_cache_it_is_off_and_stays_off() {
    let mut bench = Bench::new(settings());
    answers(&mut bench, &features(0x82), DONE);
    answers(&mut bench, &features(0x02), aborted(0));
    for feature in [0x00, 0x03, 0x55, 0xAA] {
        answers(&mut bench, &features(feature), aborted(0));
        answers(&mut write_back(), &features(feature), aborted(0));
    }
    // Word 82: there could be one. Word 85: it is off.
    assert_eq!((word(&mut bench, 82), word(&mut bench, 85)), (0x20, 0));
    assert!(bench.actions.is_empty());
}

#[test]
fn the_identity_follows_size_and_port() {
    let mut bench = Bench::with_mtu(9000);
    let size = |bench: &mut Bench| {
        let identity = answers(bench, &ata(Opcode::Identify, 0, 1), DONE);
        assert_eq!(
            identity.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b)),
            0
        );
        identity[200..208].to_vec()
    };
    assert_eq!(size(&mut bench), hex("0040000000000000"));
    assert!(bench.target().set_sectors(0x01_0000_0001));
    assert!(!bench.target().set_sectors(0x01_0000_0001));
    assert_eq!(size(&mut bench), hex("0100000001000000"));
    assert_eq!(bench.target().sectors(), 0x01_0000_0001);
    // More than 48 bits cannot be told, so it is not offered.
    assert!(bench.target().set_sectors(u64::MAX));
    assert_eq!(size(&mut bench), hex("ffffffffffff0000"));
    assert!(bench.target().set_sectors(0));
    answers(&mut bench, &ata(Opcode::ReadExt, 0, 1), not_found(1));
    assert_eq!(word(&mut bench, 105), 2);
    bench.port = port(1042);
    assert_eq!(word(&mut bench, 105), 1);
}
