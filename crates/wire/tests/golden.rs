//! Frames of real targets, and for what only ours do frames made by hand, as files that a person can
//! read: each decodes to the line of text beside it and to typed fields, and encodes back to the
//! same bytes.
//!
//! A file of `tests/golden/` holds one exchange. A line that begins with `#` is a comment, one with
//! `=` starts a frame and says how it must print; the lines below are its bytes in hexadecimal,
//! `00*24` standing for 24 times the byte 00.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot read its frames must fail"
)]

use std::fs;
use std::path::{Path, PathBuf};

use aoede_wire::{
    Address, Ata, Body, Checksum, CoalescedRead, CoalescedReads, CoalescedWrite, CoalescedWrites,
    Command, Config, ConfigCommand, Crc8x4, DecodeError, ErrorCode, Extension, ExtensionTable,
    Flags, Frame, Header, MacAddr, Mask, MaskCommand, MaskError, Opcode, Reserve, ReserveCommand,
    Status, Tag,
};

const TARGET: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
const INITIATOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
const E1_1: Address = Address { shelf: 1, slot: 1 };

/// One frame of a file and the line it must print as.
struct Golden {
    text: String,
    bytes: Vec<u8>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn read(path: &Path) -> Vec<Golden> {
    let mut frames: Vec<Golden> = Vec::new();
    for line in fs::read_to_string(path).unwrap().lines() {
        if let Some(text) = line.strip_prefix("= ") {
            frames.push(Golden {
                text: text.into(),
                bytes: Vec::new(),
            });
        } else if !line.starts_with('#') {
            for token in line.split_whitespace() {
                frames.last_mut().unwrap().bytes.extend(bytes_of(token));
            }
        }
    }
    frames
}

fn bytes_of(token: &str) -> Vec<u8> {
    let (digits, times) = token.split_once('*').unwrap_or((token, "1"));
    let bytes: Vec<u8> = (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap())
        .collect();
    bytes.repeat(times.parse().unwrap())
}

/// The frames of one exchange.
fn golden<const N: usize>(name: &str) -> [Vec<u8>; N] {
    let frames = read(&folder().join(name).with_extension("txt"));
    let bytes: Vec<_> = frames.into_iter().map(|frame| frame.bytes).collect();
    bytes.try_into().unwrap()
}

fn ata(bytes: &[u8]) -> (Header, Ata<'_>) {
    let frame = Frame::decode(bytes).unwrap();
    match frame.body().unwrap() {
        Body::Ata(ata) => (frame.header, ata),
        other => panic!("{other:?}"),
    }
}

fn config(bytes: &[u8]) -> (Header, Config<'_>) {
    let frame = Frame::decode(bytes).unwrap();
    match frame.body().unwrap() {
        Body::Config(config) => (frame.header, config),
        other => panic!("{other:?}"),
    }
}

fn mask(bytes: &[u8]) -> (Header, Mask<'_>) {
    let frame = Frame::decode(bytes).unwrap();
    match frame.body().unwrap() {
        Body::Mask(mask) => (frame.header, mask),
        other => panic!("{other:?}"),
    }
}

fn reserve(bytes: &[u8]) -> (Header, Reserve<'_>) {
    let frame = Frame::decode(bytes).unwrap();
    match frame.body().unwrap() {
        Body::Reserve(reserve) => (frame.header, reserve),
        other => panic!("{other:?}"),
    }
}

fn extension(bytes: &[u8]) -> (Header, ExtensionTable<'_>) {
    let frame = Frame::decode(bytes).unwrap();
    match frame.body().unwrap() {
        Body::Extension(table) => (frame.header, table),
        other => panic!("{other:?}"),
    }
}

fn request(command: Command, tag: u8) -> Header {
    Header {
        command,
        tag: Tag([0, 0, 0, tag]),
        ..Header::request(INITIATOR, TARGET, E1_1)
    }
}

fn response(command: Command, tag: u8) -> Header {
    request(command, tag).response(TARGET, E1_1)
}

#[test]
fn every_frame_prints_as_stated_and_encodes_back_to_the_same_bytes() {
    let mut seen = 0;
    for file in fs::read_dir(folder()).unwrap() {
        let path = file.unwrap().path();
        for Golden { text, bytes } in read(&path) {
            let frame = Frame::decode(&bytes).unwrap();
            assert_eq!(frame.to_string(), text, "{}", path.display());
            assert_eq!(frame.len(), bytes.len());

            let mut out = vec![0xA5; bytes.len().max(60) + 16];
            let len = frame
                .body()
                .unwrap()
                .encode(frame.header, &mut out)
                .unwrap();
            assert_eq!(len, bytes.len().max(60), "{text}");
            assert_eq!(out[..bytes.len()], bytes, "{text}");
            assert!(out[bytes.len()..len].iter().all(|&b| b == 0), "{text}");
            assert!(out[len..].iter().all(|&b| b == 0xA5), "{text}");
            seen += 1;
        }
    }
    assert!(seen > 53, "only {seen} frames in {}", folder().display());
}

#[test]
fn config_read() {
    let [query, answer] = golden("config-read");
    let (header, config_query) = config(&query);
    assert_eq!(
        header,
        Header {
            command: Command::Config,
            ..Header::request(INITIATOR, MacAddr::BROADCAST, Address::ALL)
        }
    );
    assert_eq!(config_query, Config::default());

    let (header, answer) = config(&answer);
    assert_eq!(header, response(Command::Config, 0));
    assert_eq!(
        answer,
        Config {
            buffer_count: 64,
            firmware: 0x4015,
            sector_count: 2,
            version: 1,
            command: ConfigCommand::Read,
            string_len: 0,
            rest: &[],
        }
    );
}

#[test]
fn config_strings() {
    let [ask, answer] = golden("config-force-set");
    let (header, force) = config(&ask);
    assert_eq!(header, request(Command::Config, 0x0A));
    assert_eq!(force.command, ConfigCommand::ForceSet);
    assert_eq!((force.version, force.string()), (0, Ok(&b"ab"[..])));
    let (header, set) = config(&answer);
    assert_eq!(header, response(Command::Config, 0x0A));
    assert_eq!(set.command, ConfigCommand::ForceSet);
    assert_eq!((set.version, set.string()), (1, Ok(&b"ab"[..])));

    let [ask, answer] = golden("config-set-refused");
    assert_eq!(config(&ask).1.string(), Ok(&b"cd"[..]));
    let (header, refused) = config(&answer);
    assert_eq!(
        header,
        response(Command::Config, 0x0C).with_error(ErrorCode::ConfigPresent)
    );
    assert_eq!(refused.command, ConfigCommand::Set);
    assert_eq!(refused.string(), Ok(&b"ab"[..]));

    let [ask, answer] = golden("config-unknown");
    assert_eq!(config(&ask).1.command, ConfigCommand::Unknown(9));
    let (header, refused) = config(&answer);
    assert_eq!(
        header,
        response(Command::Config, 0x0D).with_error(ErrorCode::BadArgument)
    );
    assert_eq!(refused.command, ConfigCommand::Unknown(9));
    assert_eq!(refused.string(), Ok(&b"ab"[..]));
}

#[test]
fn identify() {
    let [ask, answer] = golden("identify");
    let (header, identify) = ata(&ask);
    assert_eq!(header, request(Command::Ata, 0x11));
    assert_eq!(identify, Ata::request(Opcode::Identify, 0, 1));
    let (header, data) = ata(&answer);
    assert_eq!(header, response(Command::Ata, 0x11));
    assert_eq!((data.status(), data.count), (Status::GOOD, 0));
    assert_eq!(data.data.len(), 512);
}

#[test]
fn reads_and_writes() {
    let [ask, answer] = golden("write-ext");
    let (header, write) = ata(&ask);
    assert_eq!(header, request(Command::Ata, 0x12));
    assert_eq!(
        write,
        Ata::request(Opcode::WriteExt, 8, 1).with_data(&[0x5A; 512])
    );
    let (header, written) = ata(&answer);
    assert_eq!(header, response(Command::Ata, 0x12));
    assert_eq!((written.status(), written.flags.0), (Status::GOOD, 0x41));
    assert_eq!(written.lba48(), 8);

    let [ask, answer] = golden("read-ext");
    let (header, read) = ata(&ask);
    assert_eq!(header, request(Command::Ata, 0x13));
    assert_eq!(read, Ata::request(Opcode::ReadExt, 8, 1));
    let (_, data) = ata(&answer);
    assert_eq!((data.status(), data.data), (Status::GOOD, &[0x5A; 512][..]));

    let [ask, answer] = golden("read-beyond-end");
    assert_eq!(ata(&ask).1, Ata::request(Opcode::ReadExt, 16384, 1));
    let (header, failed) = ata(&answer);
    assert_eq!(header, response(Command::Ata, 0x14));
    assert_eq!(failed.status(), Status::FAILED);
    assert_eq!(failed.feature_or_error, aoede_wire::ata_error::IDNF);
    assert_eq!((failed.count, failed.lba48()), (1, 16384));

    let [ask, answer] = golden("read-too-many");
    assert_eq!(ata(&ask).1, Ata::request(Opcode::ReadExt, 0, 3));
    let (header, failed) = ata(&answer);
    assert_eq!(
        header,
        response(Command::Ata, 0x15).with_error(ErrorCode::BadArgument)
    );
    assert_eq!((failed.status(), failed.count), (Status(0x01), 3));
}

#[test]
fn mask_lists() {
    let [ask, answer] = golden("mask-read");
    let (header, read) = mask(&ask);
    assert_eq!(header, request(Command::Mask, 0x16));
    assert_eq!((read.command, read.count), (MaskCommand::Read, 0));
    let (header, empty) = mask(&answer);
    assert_eq!(header, response(Command::Mask, 0x16));
    assert_eq!(empty.error, MaskError::None);
    assert_eq!(empty.directives().unwrap().count(), 0);

    let [ask, answer] = golden("vblade-mask");
    let (_, edit) = mask(&ask);
    assert_eq!(edit.command, MaskCommand::Edit);
    let directives: Vec<_> = edit.directives().unwrap().collect();
    assert_eq!(
        directives,
        [aoede_wire::Directive {
            code: aoede_wire::DirectiveCode::Add,
            mac: INITIATOR
        }]
    );
    let list: Vec<_> = mask(&answer).1.directives().unwrap().collect();
    assert_eq!(
        list,
        [aoede_wire::Directive {
            code: aoede_wire::DirectiveCode::None,
            mac: INITIATOR
        }]
    );
}

#[test]
fn reservations() {
    let [ask, answer] = golden("reserve-set");
    let (header, set) = reserve(&ask);
    assert_eq!(header, request(Command::Reserve, 0x17));
    assert_eq!(set.command, ReserveCommand::Set);
    assert!(set.macs().unwrap().eq([INITIATOR]));
    let (header, holders) = reserve(&answer);
    assert_eq!(header, response(Command::Reserve, 0x17));
    assert!(holders.macs().unwrap().eq([INITIATOR]));

    let [ask, answer] = golden("reserve-short");
    let (_, short) = reserve(&ask);
    assert_eq!((short.command, short.count), (ReserveCommand::ForceSet, 9));
    assert!(matches!(short.macs(), Err(DecodeError::ReserveList)));
    let (header, refused) = reserve(&answer);
    assert_eq!(
        header,
        response(Command::Reserve, 0x18).with_error(ErrorCode::BadArgument)
    );
    assert_eq!(refused.macs().unwrap().count(), 0);
}

#[test]
fn extensions() {
    let [ask, answer] = golden("extension");
    let (header, table) = extension(&ask);
    assert_eq!(header, request(Command::Extension, 0x1A));
    assert_eq!(table.length, [26, 0]);
    let wanted: Vec<_> = table
        .entries()
        .unwrap()
        .map(|entry| (entry.start, Extension::from_name(entry.bytes)))
        .collect();
    assert_eq!(
        wanted,
        [
            (0, Some(Extension::Reset)),
            (6, Some(Extension::CoalescedRead)),
            (21, None)
        ]
    );
    assert_eq!(ExtensionTable::new(table.rest), Ok(table));
    let (header, table) = extension(&answer);
    assert_eq!(header, response(Command::Extension, 0x1A));
    let accepted = table.entries().unwrap().map(|entry| entry.bytes);
    assert!(accepted.eq([&b"RESET"[..], b"COALESCED_READ", b"foo"]));

    // The same table, its length in the other byte order.
    let mut swapped = ask.clone();
    swapped.swap(24, 25);
    let (_, table) = extension(&swapped);
    assert_eq!(table.length, [0, 26]);
    assert_eq!(table.entries().unwrap().count(), 3);

    let [ask] = golden("extension-too-long");
    let (_, table) = extension(&ask);
    assert_eq!(table.entries().err(), Some(DecodeError::ExtensionTable));

    let [_, answer] = golden("vblade-extension");
    let (header, _) = extension(&answer);
    assert_eq!(
        header,
        response(Command::Extension, 0x1A).with_error(ErrorCode::UnrecognizedCommand)
    );
}

#[test]
fn coalesced_reads() {
    let [ask, first, second, third] = golden("coalesced");
    assert_eq!(ask.len(), 69);
    let (header, read) = ata(&ask);
    assert_eq!(header, request(Command::Ata, 0x20));
    assert_eq!((read.opcode(), read.count), (Opcode::ReadExt, 1));
    let reads = CoalescedReads::decode(read.data).unwrap();
    assert_eq!(reads.announced(), 2);
    let entry = |tag, lba| CoalescedRead {
        tag: Tag([0, 0, 0, tag]),
        lba,
        reserved: [0; 5],
        count: 1,
    };
    let entries = [
        entry(0x21, [0x10, 0, 0, 0, 0, 0]),
        entry(0x22, [0, 0x40, 0, 0, 0, 0]),
    ];
    assert!(reads.reads().eq(entries));

    let mut payload = [0xA5; 33];
    assert_eq!(CoalescedReads::encode(&entries, &mut payload), Ok(33));
    assert_eq!(payload, ask[36..]);

    // A count that promises more than the frame holds: the whole entries count.
    for (announced, len, found) in [(9, 69, 2), (9, 68, 1), (2, 53, 1), (1, 69, 1), (0, 69, 0)] {
        let mut bytes = ask[..len].to_vec();
        bytes[36] = announced;
        let reads = CoalescedReads::decode(ata(&bytes).1.data).unwrap();
        assert!(reads.reads().eq(entries[..found].iter().copied()));
    }
    assert_eq!(CoalescedReads::decode(ata(&ask[..52]).1.data), None);

    for (bytes, tag, lba, status) in [
        (first, 0x20, 8, Status::GOOD),
        (second, 0x21, 16, Status::GOOD),
        (third, 0x22, 16384, Status::FAILED),
    ] {
        let (header, answer) = ata(&bytes);
        assert_eq!(header, response(Command::Ata, tag));
        assert_eq!((answer.lba48(), answer.status()), (lba, status));
    }
}

#[test]
fn unknown_commands_keep_their_bytes() {
    let [ask, answer] = golden("unknown-command");
    for (bytes, header) in [
        (ask, request(Command::Unknown(0x7F), 0x1B)),
        (
            answer,
            response(Command::Unknown(0x7F), 0x1B).with_error(ErrorCode::UnrecognizedCommand),
        ),
    ] {
        let frame = Frame::decode(&bytes).unwrap();
        assert_eq!(frame.header, header);
        assert_eq!(frame.body(), Ok(Body::Unknown(0x7F, &[1, 2, 3, 4])));
    }
}

#[test]
fn an_announcement_of_version_0() {
    let [bytes] = golden("vblade-announcement");
    let (header, announcement) = config(&bytes);
    assert_eq!((header.version, header.flags), (0, Flags::RESPONSE));
    assert_eq!(header.destination, MacAddr::BROADCAST);
    assert_eq!(announcement.buffer_count, 16);
    assert_eq!(announcement.firmware, 0x4019);
}

#[test]
fn a_complete_identify() {
    let [_, answer] = golden("vblade-identify");
    let (_, identify) = ata(&answer);
    let word = |n: usize| u16::from_le_bytes([identify.data[2 * n], identify.data[2 * n + 1]]);
    let text = |words: core::ops::Range<usize>| -> String {
        words
            .flat_map(|n| word(n).to_be_bytes())
            .map(char::from)
            .collect()
    };
    assert_eq!(text(10..20).trim_end(), "1.1:vm");
    assert_eq!(text(23..27).trim_end(), "V25");
    assert_eq!(text(27..47).trim_end(), "Coraid EtherDrive vblade");
    assert_eq!((word(83), word(86)), (0x5400, 0x1400));
    assert_eq!([word(100), word(101), word(102)], [16384, 0, 0]);
}

/// §3.6: what is the vendor's own, of this project's target with a write cache.
#[test]
fn an_identify_with_the_number_of_a_cache() {
    let [_, answer] = golden("identify-cache");
    let (_, identify) = ata(&answer);
    assert_eq!(identify.data[258..262], *b"oAdE");
    assert_eq!(
        identify.data[262..270],
        0x0123_4567_89AB_CDEF_u64.to_le_bytes()
    );
    let sum = identify
        .data
        .iter()
        .fold(0, |sum: u8, b| sum.wrapping_add(*b));
    assert_eq!((identify.data[510], sum), (0xA5, 0));
}

/// The vectors of §11: four lanes over the task file and the data.
#[test]
fn crc_8x4() {
    let read = [0x41, 0, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0];
    let write = [0x41, 0, 2, 0x34, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0];
    let answer = [0x40, 0, 0, 0x40, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0];
    let counting: Vec<u8> = (0..=255).chain(0..=255).collect();
    let sevens: Vec<u8> = (0..1024_u32)
        .map(|i| (7 * i + 3).to_le_bytes()[0])
        .collect();
    for (header, data, crc) in [
        ([0; 12], vec![0; 512], [0xFC, 0xFC, 0xFC, 0xFC]),
        (read, vec![0; 512], [0x92, 0xFC, 0x91, 0x9E]),
        (read, counting, [0x13, 0x8B, 0x99, 0x60]),
        (write, sevens.clone(), [0xB6, 0x1A, 0xB0, 0x60]),
        (answer, sevens, [0x14, 0x1A, 0x91, 0x44]),
    ] {
        assert_eq!(Crc8x4::of(&[&header[..], &data].concat()), crc);
        let mut pieces = Crc8x4::new();
        pieces.update(&header);
        pieces.update(&data);
        assert_eq!(pieces.finish(), crc);
    }
    // One lane of the check string: every byte four times.
    let four_times: Vec<u8> = b"123456789".iter().flat_map(|&byte| [byte; 4]).collect();
    assert_eq!(Crc8x4::of(&four_times), [0x27; 4]);
}

/// The vectors of §18.2: CRC-32C over the same bytes.
#[test]
fn crc_32c() {
    let read = [0x41, 0, 1, 0x24, 0, 0, 0, 0, 0, 0, 0, 0];
    let write = [0x41, 0, 2, 0x34, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0];
    let answer = [0x40, 0, 0, 0x40, 0x78, 0x56, 0x34, 0x12, 0, 0, 0, 0];
    let counting: Vec<u8> = (0..=255).chain(0..=255).collect();
    let sevens: Vec<u8> = (0..1024_u32)
        .map(|i| (7 * i + 3).to_le_bytes()[0])
        .collect();
    for (header, data, crc) in [
        ([0; 12], vec![0; 512], [0xC4, 0xB2, 0x82, 0xEA]),
        (read, vec![0; 512], [0xAA, 0x4E, 0xC9, 0xDC]),
        (read, counting, [0x30, 0x4D, 0x25, 0x42]),
        (write, sevens.clone(), [0xC1, 0xDE, 0xB7, 0xFA]),
        (answer, sevens, [0x55, 0x62, 0x8C, 0xD6]),
    ] {
        assert_eq!(Checksum::Crc32c.of(&[&header[..], &data].concat()), crc);
    }
}

/// A write and a read, each with its checksum behind the data.
#[test]
fn checksums_in_frames() {
    for (name, checksum) in [("crc8x4", Checksum::Crc8x4), ("crc32c", Checksum::Crc32c)] {
        let [ask, answer, write, written, read, data] = golden(name);
        let (_, table) = extension(&ask);
        let wanted: Vec<_> = table.entries().unwrap().map(|entry| entry.bytes).collect();
        assert_eq!(wanted, [name.as_bytes()]);
        let (_, table) = extension(&answer);
        let accepted: Vec<_> = table.entries().unwrap().map(|entry| entry.bytes).collect();
        assert_eq!(accepted, [name.to_ascii_uppercase().as_bytes()]);

        for bytes in [&write, &data] {
            let (covered, crc) = bytes[24..].split_at(12 + 512);
            assert_eq!(checksum.of(covered), crc);
        }
        for bytes in [&written, &read] {
            assert_eq!(ata(bytes).1.data, [0; 24]);
        }
    }
}

#[test]
fn coalesced_write_responses() {
    let [ask, accepted, first, second, third, answer] = golden("coalesced-write-reply");
    let table = extension(&ask).1;
    let wanted: Vec<_> = table.entries().unwrap().map(|entry| entry.bytes).collect();
    assert_eq!(wanted, [Extension::CoalescedWriteReply.name().as_bytes()]);
    let table = extension(&accepted).1;
    let names: Vec<_> = table.entries().unwrap().map(|entry| entry.bytes).collect();
    assert_eq!(names, [&b"COALESCED_WRITE_REPLY"[..]]);

    let (header, registers) = ata(&answer);
    assert_eq!(header, response(Command::Ata, 0x32));
    assert_eq!((registers.lba48(), registers.status()), (8, Status::GOOD));
    let further = |tag, lba, error, status, count| CoalescedWrite {
        tag: Tag([0, 0, 0, tag]),
        lba: [lba, 0, 0, 0, 0, 0],
        error,
        status,
        count,
    };
    let entries = [
        further(0x33, 16, 0, Status::GOOD, 0),
        further(0x31, 24, aoede_wire::ata_error::ABRT, Status::FAULT, 1),
    ];
    let writes = CoalescedWrites::decode(registers.data).unwrap();
    assert!(writes.writes().eq(entries));
    for (bytes, tag, lba) in [(first, 0x31, 24), (second, 0x32, 8), (third, 0x33, 16)] {
        let (header, write) = ata(&bytes);
        assert_eq!(header, request(Command::Ata, tag));
        assert_eq!((write.opcode(), write.lba48()), (Opcode::WriteExt, lba));
    }

    // Made from the ordinary response, one by one.
    let mut frame = [0; 1514];
    frame[..36].copy_from_slice(&answer[..36]);
    let len = CoalescedWrites::append(&mut frame, 60, entries[0]).unwrap();
    let len = CoalescedWrites::append(&mut frame, len, entries[1]).unwrap();
    assert_eq!(frame[..len], answer);
}
