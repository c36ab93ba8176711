//! §13: what the 2014 program did wrong and this one must not. Named by number; those about disk,
//! worker and extensions have their tests there.

use aoede_target::{Action, IgnoreReason, TargetSettings};
use aoede_wire::{ConfigCommand, DirectiveCode, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, POISON, Seen, T, ata, ata_with, config, from_14, mask_edit, mask_read, request,
    reserve, settings, station, to_all, with,
};

/// A flush was acknowledged without one.
#[test]
fn defect_1_a_flush_waits_for_the_disk() {
    let mut bench = Bench::new(settings());
    let seen = bench.see(&ata(Opcode::FlushCache, 0, 0));
    assert!(matches!(seen, Seen::Disk(_, Action::Flush, _)));
}

/// Writes were acknowledged before anything was done about them.
#[test]
fn defect_2_a_write_waits_for_the_disk() {
    let mut bench = Bench::new(settings());
    let seen = bench.see(&ata_with(Opcode::WriteExt, 0, 1, &[7; 512]));
    assert!(matches!(seen, Seen::Disk(_, Action::Write { .. }, _)));
}

/// A read-only export acknowledged writes, returned them from its buffer, then lost them.
#[test]
fn defect_4_a_read_only_export_aborts_writes() {
    let mut bench = Bench::new(TargetSettings {
        read_only: true,
        ..settings()
    });
    let response = bench.answer(&ata_with(Opcode::WriteExt, 0, 1, &[7; 512]));
    assert_eq!(response[25..28], [0x04, 1, 0x41]);
    assert!(bench.actions.is_empty());
}

/// The first ATA frame that met a reservation ended the process.
#[test]
fn defect_6_a_first_frame_may_meet_a_reservation() {
    let mut bench = Bench::new(settings());
    bench.answer(&reserve(J, ReserveCommand::Set, &[J]));
    let response = bench.answer(&ata(Opcode::ReadExt, 0, 1));
    assert_eq!(response[14..16], [0x1C, 6]);
}

/// A config string was bounded by the whole frame: up to 32 bytes behind it were published.
#[test]
fn defect_7_a_config_string_ends_with_its_frame() {
    let mut bench = Bench::new(settings());
    for len in 3..=34u16 {
        let [high, low] = len.to_be_bytes();
        let bytes = from_14("10 00 0001 01 01 00000001 0000 0000 00 04 0000 6162");
        let bytes = with(with(bytes, 30, high), 31, low);
        assert_eq!(bench.silence(&bytes), IgnoreReason::ConfigString);
    }
    assert_eq!(bench.target().config_string(), b"");
}

/// Directives that the frame did not hold were taken from the frame before.
#[test]
fn defect_8_directives_end_with_their_frame() {
    let mut bench = Bench::new(settings());
    let edit = mask_edit(I, &[(DirectiveCode::Add, I); 4]);
    let response = bench.answer(&with(edit, 27, 5));
    assert_eq!(response[14..16], [0x1C, 2]);
    assert_eq!(response[24..], [[0, 1].as_slice(), &[0; 34]].concat());
    assert!(bench.target().mask().is_empty());
}

/// The third entry overwrote the second, which could not be found; deleting the only one crashed.
#[test]
fn defect_9_entries_are_added_found_and_deleted() {
    let mut bench = Bench::new(settings());
    for mac in [I, J, station(3)] {
        bench.answer(&mask_edit(I, &[(DirectiveCode::Add, mac)]));
    }
    assert_eq!(bench.target().mask(), [I, J, station(3)]);
    bench.answer(&mask_read(J));
    for mac in [J, station(3), I] {
        bench.answer(&mask_edit(I, &[(DirectiveCode::Delete, mac)]));
    }
    assert!(bench.target().mask().is_empty());
}

/// More than 32 configured entries overran their array.
#[test]
fn defect_10_a_long_configured_mask_is_kept() {
    let mask: Vec<_> = (0..255).map(station).collect();
    let mut bench = Bench::new(TargetSettings {
        mask: mask.clone(),
        ..settings()
    });
    assert_eq!(bench.target().mask(), mask);
}

/// Set was judged by the target's own MAC: holders could not release, and with that MAC in the
/// list anybody could.
#[test]
fn defect_12_the_sender_of_a_reservation_is_checked() {
    let mut bench = Bench::new(settings());
    bench.answer(&reserve(I, ReserveCommand::Set, &[I, T]));
    let response = bench.answer(&reserve(J, ReserveCommand::Set, &[J]));
    assert_eq!(response[14..16], [0x1C, 6]);
    let response = bench.answer(&reserve(I, ReserveCommand::Set, &[]));
    assert_eq!(response[14..16], [0x18, 0]);
    assert!(bench.target().reservation().is_empty());
}

/// Short responses ended in what the buffer had held before.
#[test]
fn defect_17_no_old_bytes_in_any_response() {
    let mut bench = Bench::new(settings());
    for bytes in [
        config(ConfigCommand::Read, b""),
        mask_read(I),
        reserve(I, ReserveCommand::Read, &[]),
        ata(Opcode::ReadExt, 1 << 40, 1),
        ata(Opcode::ReadExt, 0, 3),
        ata(Opcode::Smart, 0, 1),
        ata(Opcode::FlushCache, 0, 1),
        request(I, aoede_wire::Body::Unknown(0x7F, &[])),
        with(request(I, aoede_wire::Body::Unknown(0x7F, &[])), 14, 0x20),
    ] {
        let response = bench.answer(&bytes);
        assert_eq!(response.len(), 60);
        assert!(!response.contains(&POISON), "{response:02x?}");
    }
}

/// Lengths followed the request's count, not what was done.
#[test]
fn defect_18_a_failing_read_has_no_data() {
    let mut bench = Bench::new(settings());
    bench.failure = Some(aoede_target::DeviceFailure::Unreadable);
    let response = bench.answer(&ata(Opcode::ReadExt, 0, 2));
    assert_eq!(response.len(), 60);
    assert_eq!(response[36..], [0; 24]);
}

/// Version, flags and error were echoed, and a broadcast WRITE reached every disk.
#[test]
fn defect_19_nothing_stale_is_echoed_and_no_wildcard_writes() {
    let mut bench = Bench::new(settings());
    let stale = with(with(ata(Opcode::CheckPowerMode, 0, 0), 14, 0x24), 15, 9);
    assert_eq!(bench.answer(&stale)[14..16], [0x1C, 5]);
    let stale = with(with(ata(Opcode::CheckPowerMode, 0, 0), 14, 0x14), 15, 9);
    assert_eq!(bench.answer(&stale)[14..16], [0x18, 0]);
    let write = to_all(ata_with(Opcode::WriteExt, 0, 1, &[7; 512]));
    assert_eq!(bench.silence(&write), IgnoreReason::Wildcard);
}

/// Every bad frame was a line in the log.
#[test]
fn defect_23_bad_frames_are_counted() {
    let mut bench = Bench::new(settings());
    for _ in 0..1000 {
        bench.silence(&config(ConfigCommand::Read, b"")[..31]);
    }
    let ignored = &bench.target().stats().ignored;
    assert_eq!(ignored.get(IgnoreReason::CutShort), 1000);
}

/// A write was bounded by its frame alone.
#[test]
fn defect_24_a_write_is_bounded_by_frame_and_port() {
    let mut bench = Bench::new(settings());
    for (count, len) in [(3, 3 * 512), (2, 2 * 512 - 1)] {
        let response = bench.answer(&ata_with(Opcode::WriteExt, 0, count, &vec![7; len]));
        assert_eq!(response[14..16], [0x1C, 2]);
    }
    assert!(bench.actions.is_empty());
}

/// Virtual links do not pad, and tools time out on short responses.
#[test]
fn defect_25_responses_have_at_least_60_bytes() {
    let mut bench = Bench::new(settings());
    let bytes = from_14("10 00 ffff ff 01 00000000 0000 0000 00 00 0000");
    assert_eq!(bench.answer(&bytes).len(), 60);
}
