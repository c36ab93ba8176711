//! §11 and §18.2: four bytes behind the data.

use aoede_target::{IgnoreReason, TargetSettings, Trim};
use aoede_wire::{ConfigCommand, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, Seen, ata, ata_with, config, from, from_14, hex, reserve, settings, with,
};

/// From offset 24 on; what they cover, and both checksums of it.
const WRITE: &str = "41 00 01 34 080000000000 0000";
const WRITE_CRC8X4: &str = "020c6185";
const WRITE_CRC32C: &str = "e2d1febd";
const READ_CRC8X4: &str = "6f0c0c0f";
const READ_CRC32C: &str = "3dba60d6";

fn write(sum: &str) -> Vec<u8> {
    let data = "5a".repeat(512);
    from_14(&format!("10 00 0001 01 00 00000029 {WRITE} {data} {sum}"))
}

fn names() -> [(&'static str, &'static str, &'static str); 2] {
    [
        ("crc8x4", WRITE_CRC8X4, READ_CRC8X4),
        ("crc32c", WRITE_CRC32C, READ_CRC32C),
    ]
}

#[test]
fn data_comes_with_its_checksum_and_goes_with_it() {
    for (name, write_sum, read_sum) in names() {
        let mut bench = Bench::new(settings());
        bench.extend(I, &[name]);
        let response = bench.answer(&write(write_sum));
        assert_eq!(response.len(), 60, "no data, no checksum");
        assert_eq!(response[36..], [0; 24]);

        let response = bench.answer(&ata(Opcode::ReadExt, 8, 1));
        assert_eq!(response.len(), 36 + 512 + 4);
        assert_eq!(response[36..548], [0x5A; 512]);
        assert_eq!(response[548..], hex(read_sum));
        assert_eq!(bench.target().stats().unchecked_writes, 0);
    }
}

#[test]
fn an_identity_is_data() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["crc8x4"]);
    let response = bench.answer(&ata(Opcode::Identify, 0, 1));
    assert_eq!(response.len(), 552);
    // One lane by hand: bytes 24, 28, 32, …
    let lane = (24..548).step_by(4).fold(0xFF_u8, |crc, at| {
        (0..8).fold(crc ^ response[at], |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0xB2 } else { 0 }
        })
    });
    assert_eq!(response[548], lane);
}

#[test]
fn a_damaged_write_is_silence_whatever_it_asks_for() {
    for (name, sum, _) in names() {
        let mut bench = Bench::new(settings());
        bench.extend(I, &[name]);
        let good = write(sum);
        // Flags, count, address in the device and beyond it, data, checksum. A count of 0 once
        // passed, and its success for that of the write.
        for (at, value) in [
            (24, 0x40),
            (26, 0),
            (28, 9),
            (32, 1),
            (36, 0x5B),
            (547, 0x00),
            (551, 0x11),
        ] {
            let damaged = with(good.clone(), at, value);
            assert_eq!(bench.silence(&damaged), IgnoreReason::Checksum, "at {at}");
        }
        assert_eq!(bench.ignored(IgnoreReason::Checksum), 7);
        assert!(bench.actions.is_empty());
        bench.answer(&good);
        assert_eq!(bench.actions.len(), 1);
    }
}

/// D12.
#[test]
fn a_write_without_a_checksum_is_accepted_and_counted() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["crc8x4"]);
    for behind in ["", "00", "000000"] {
        bench.answer(&write(behind));
    }
    assert_eq!(bench.actions.len(), 3);
    assert_eq!(bench.target().stats().unchecked_writes, 3);
    // Too short even for its data: refused as ever.
    assert_eq!(bench.answer(&write("")[..547])[14..16], [0x1C, 2]);
    // Nothing to check: its padding is none of it.
    let nothing = bench.answer(&ata(Opcode::WriteExt, 8, 0));
    assert_eq!(nothing[27], 0x40);
    assert_eq!(bench.target().stats().unchecked_writes, 3);
}

#[test]
fn without_agreement_nothing_is_checked() {
    let mut bench = Bench::new(settings());
    bench.extend(J, &["crc8x4"]);
    bench.answer(&write("01020304"));
    let response = bench.answer(&ata(Opcode::ReadExt, 8, 1));
    assert_eq!(response.len(), 548);
    let response = bench.answer(&from(J, ata(Opcode::ReadExt, 8, 1)));
    assert_eq!(response.len(), 552);
}

#[test]
fn trim_data_is_checked_like_a_writes() {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        ..settings()
    });
    bench.extend(I, &["crc32c"]);
    // Sectors 8 to 15.
    let mut block = vec![0; 512];
    block[0] = 8;
    block[6] = 8;
    let mut trim = with(ata_with(Opcode::DataSetManagement, 0, 1, &block), 25, 1);
    trim.extend([0; 4]);
    assert_eq!(bench.silence(&trim), IgnoreReason::Checksum);
    let sum = castagnoli(&trim[24..548]);
    trim.truncate(548);
    trim.extend(sum);
    assert_eq!(bench.answer(&trim)[27], 0x40);
}

/// CRC-32C bit by bit.
fn castagnoli(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    });
    (!crc).to_le_bytes()
}

#[test]
fn failing_reads_have_no_checksum() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["crc8x4"]);
    let beyond = bench.answer(&ata(Opcode::ReadExt, 16384, 1));
    assert_eq!((beyond.len(), beyond[25]), (60, 0x10));
    bench.failure = Some(aoede_target::DeviceFailure::Unreadable);
    let failed = bench.answer(&ata(Opcode::ReadExt, 0, 1));
    assert_eq!((failed.len(), failed[25]), (60, 0x40));
    assert_eq!(failed[36..], [0; 24]);
    bench.answer(&reserve(J, ReserveCommand::Set, &[J]));
    let refused = bench.answer(&ata(Opcode::ReadExt, 0, 1));
    assert_eq!((refused.len(), refused[15]), (60, 6));
}

/// §1: MTU, sectors without and with a checksum.
#[test]
fn sectors_in_a_frame_shrink_for_that_initiator() {
    for (mtu, plain, with_crc) in [(1500, 2, 2), (4200, 8, 8), (8228, 16, 15), (9000, 17, 17)] {
        for (name, ..) in names() {
            let mut bench = Bench::with_mtu(mtu);
            bench.extend(I, &[name]);
            let sectors = |bench: &mut Bench, mac| {
                bench.answer(&from(mac, config(ConfigCommand::Read, b"")))[28]
            };
            assert_eq!(sectors(&mut bench, I), with_crc, "MTU {mtu}");
            assert_eq!(sectors(&mut bench, J), plain, "MTU {mtu}");
            let full = bench.answer(&ata(Opcode::ReadExt, 0, with_crc));
            assert_eq!(full.len(), 40 + 512 * usize::from(with_crc));
            let more = bench.answer(&ata(Opcode::ReadExt, 0, with_crc + 1));
            assert_eq!(more[14..16], [0x1C, 2]);
        }
    }
}

/// A buffer that just holds the sectors of a frame has no room for what follows them.
#[test]
fn the_buffer_is_a_limit_too() {
    let mut bench = Bench::with_mtu(9000);
    bench.port.max_sectors = 4;
    bench.extend(I, &["crc8x4"]);
    for (room, sectors) in [
        (36 + 4 * 512, 3),
        (36 + 4 * 512 + 3, 3),
        (36 + 4 * 512 + 4, 4),
    ] {
        for (count, fits) in [(sectors, true), (sectors + 1, false)] {
            let bytes = ata(Opcode::ReadExt, 0, count);
            let (frame, _) = bench.exports.screen(&bench.port, &bytes).unwrap();
            let arrival = bench.arrival();
            let mut out = vec![0; room];
            let outcome = bench.target().handle_frame(&arrival, &frame, &mut out);
            let admitted = matches!(outcome, aoede_target::Outcome::Disk(_));
            assert_eq!(admitted, fits, "{count} in {room}");
        }
    }
}

/// Both are never there at once: the last named is.
#[test]
fn the_last_checksum_named_wins() {
    let mut bench = Bench::new(settings());
    bench.answer(&write(""));
    for (names, sum) in [
        (&["crc8x4", "crc32c"][..], READ_CRC32C),
        (&["crc32c", "crc8x4"], READ_CRC8X4),
        (&["crc32c"], READ_CRC32C),
        (&["crc8x4"], READ_CRC8X4),
    ] {
        bench.extend(I, names);
        let response = bench.answer(&ata(Opcode::ReadExt, 8, 1));
        assert_eq!(response[548..], hex(sum), "{names:?}");
    }
}

/// The processor's instructions may take the place of the table.
#[test]
fn crc_32c_may_be_computed_by_another_function() {
    let mut bench = Bench::new(settings());
    bench.target().set_crc32c(|crc, bytes| {
        assert_eq!((crc, bytes.len()), (0, 524));
        0x0403_0201
    });
    bench.extend(I, &["crc32c"]);
    let response = bench.answer(&ata(Opcode::ReadExt, 8, 1));
    assert_eq!(response[548..], [1, 2, 3, 4]);
    assert_eq!(bench.silence(&write(WRITE_CRC32C)), IgnoreReason::Checksum);
    let Seen::Disk(request, ..) = bench.see(&write("01020304")) else {
        panic!("a write with the right checksum");
    };
    assert!(!request.checks_data(), "its response has no data");
}
