//! §4: the config string, the numbers beside it, and announcements.

use aoede_target::{IgnoreReason, SettingsError, Target, TargetSettings};
use aoede_wire::{ConfigCommand, DirectiveCode};

use crate::bench::{Bench, I, J, POISON, config, from_14, hex, mask_edit, port, settings, with};

fn with_string(string: &[u8]) -> Bench {
    Bench::new(TargetSettings {
        config_string: string.to_vec(),
        ..settings()
    })
}

#[track_caller]
fn says(bench: &mut Bench, request: &[u8], flags_error: [u8; 2], string: &[u8]) {
    let response = bench.answer(request);
    assert_eq!(response[14..16], flags_error);
    assert_eq!(response[24..29], hex("0040 5001 02"));
    assert_eq!(response[29], 0x10 | request[29] & 0x0F);
    let len = u16::try_from(string.len()).unwrap();
    assert_eq!(response[30..32], len.to_be_bytes());
    assert_eq!(response[32..32 + string.len()], *string);
    assert!(response[32 + string.len()..].iter().all(|&b| b == 0));
    assert_eq!(response.len(), 60.max(32 + string.len()));
}

const OK: [u8; 2] = [0x18, 0];

#[test]
fn read_ignores_the_length_and_string_of_its_request() {
    let mut bench = with_string(b"here");
    for length in [0u16, 1024, 0xFFFF] {
        let mut bytes = config(ConfigCommand::Read, b"");
        bytes[30..32].copy_from_slice(&length.to_be_bytes());
        bytes[32..].fill(0xED);
        says(&mut bench, &bytes, OK, b"here");
    }
}

#[test]
fn test_and_prefix_answer_a_match_only() {
    let mut bench = with_string(b"here");
    for (command, string, answered) in [
        (ConfigCommand::Test, &b"here"[..], true),
        (ConfigCommand::Test, b"her", false),
        (ConfigCommand::Test, b"heres", false),
        (ConfigCommand::Test, b"", false),
        (ConfigCommand::Prefix, b"here", true),
        (ConfigCommand::Prefix, b"her", true),
        (ConfigCommand::Prefix, b"", true),
        (ConfigCommand::Prefix, b"ere", false),
        (ConfigCommand::Prefix, b"heres", false),
    ] {
        let bytes = config(command, string);
        if answered {
            says(&mut bench, &bytes, OK, b"here");
        } else {
            assert_eq!(bench.silence(&bytes), IgnoreReason::ConfigMismatch);
        }
    }
    says(
        &mut with_string(b""),
        &config(ConfigCommand::Test, b""),
        OK,
        b"",
    );
}

#[test]
fn set_wants_an_empty_or_equal_string_and_force_set_wants_nothing() {
    let mut bench = with_string(b"");
    says(&mut bench, &config(ConfigCommand::Set, b""), OK, b"");
    assert!(!bench.target().take_config_changed());
    says(&mut bench, &config(ConfigCommand::Set, b"a"), OK, b"a");
    assert!(bench.target().take_config_changed());
    assert!(!bench.target().take_config_changed(), "taken once");
    says(&mut bench, &config(ConfigCommand::Set, b"a"), OK, b"a");
    let refused = config(ConfigCommand::Set, b"b");
    says(&mut bench, &refused, [0x1C, 4], b"a");
    let refused = config(ConfigCommand::Set, b"");
    says(&mut bench, &refused, [0x1C, 4], b"a");
    assert!(!bench.target().take_config_changed());
    says(
        &mut bench,
        &config(ConfigCommand::ForceSet, b"bb"),
        OK,
        b"bb",
    );
    assert!(bench.target().take_config_changed());
    says(&mut bench, &config(ConfigCommand::ForceSet, b""), OK, b"");
    assert_eq!(bench.target().config_string(), b"");
}

#[test]
fn other_sub_commands_get_error_2_and_the_string() {
    let mut bench = with_string(b"here");
    for code in 5..=15 {
        // The high nibble is ignored, and so is a string that is too long.
        let bytes = with(config(ConfigCommand::Read, b""), 29, 0xA0 | code);
        says(&mut bench, &with(bytes, 30, 0xFF), [0x1C, 2], b"here");
    }
}

#[test]
fn the_longest_string_fits_the_least_mtu() {
    let mut bench = Bench::with_mtu(1042);
    let longest = vec![7; 1024];
    let response = bench.answer(&config(ConfigCommand::Set, &longest));
    assert_eq!(response.len(), 1042 + 14);
    assert_eq!(response[32..], longest);
    assert_eq!(bench.target().config_string(), longest);
}

#[test]
fn strings_over_the_limit_or_the_frame_are_silence() {
    let mut bench = Bench::new(settings());
    for command in 1..=4 {
        let mut bytes = with(config(ConfigCommand::Read, &[7; 1025 - 1]), 29, command);
        bytes.resize(1200, 7);
        bytes[30..32].copy_from_slice(&1025u16.to_be_bytes());
        assert_eq!(bench.silence(&bytes), IgnoreReason::ConfigString);
        let bytes = from_14(&format!(
            "10 00 0001 01 01 00000001 0000 0000 00 0{command} 0003 6162"
        ));
        assert_eq!(bench.silence(&bytes), IgnoreReason::ConfigString);
    }
    assert_eq!(bench.target().config_string(), b"");
}

/// §1: 2, 8, 16, 17 sectors; and no more than the worker's buffers take.
#[test]
fn the_sector_count_is_the_receiving_ports() {
    let mut bench = Bench::new(settings());
    for (mtu, max_sectors, expected) in [
        (1500, 255, 2),
        (4200, 255, 8),
        (8228, 255, 16),
        (9000, 255, 17),
        (9000, 16, 16),
        (1500, 16, 2),
        (1042, 255, 1),
        (1_000_000, 255, 255),
    ] {
        bench.port = port(mtu);
        bench.port.max_sectors = max_sectors;
        let response = bench.answer(&config(ConfigCommand::Read, b""));
        assert_eq!(response[28], expected, "MTU {mtu}");
    }
}

#[test]
fn the_buffer_count_is_at_least_two() {
    let with_buffers = |buffer_count| TargetSettings {
        buffer_count,
        ..settings()
    };
    for count in [0, 1] {
        let error = Target::new(with_buffers(count)).unwrap_err();
        assert_eq!(error, SettingsError::BufferCount);
    }
    let mut bench = Bench::new(with_buffers(300));
    let response = bench.answer(&config(ConfigCommand::Read, b""));
    assert_eq!(response[24..26], 300u16.to_be_bytes());
}

#[test]
fn announcements_are_broadcast_or_sent_to_each_listed_initiator() {
    let mut bench = with_string(b"here");
    let announce = |bench: &mut Bench, index| {
        let mut out = [POISON; 1514];
        let port = bench.port;
        let len = bench.target().announcement(&port, index, &mut out);
        out[..len].to_vec()
    };
    let mut expected = hex(
        "ffffffffffff 02000000000a 88a2 18 00 0001 01 01 00000000 0040 5001 02 10 0004 68657265",
    );
    expected.resize(60, 0);
    assert_eq!(bench.target().announcement_count(), 1);
    assert_eq!(announce(&mut bench, 0), expected);
    assert_eq!(announce(&mut bench, 1), []);

    bench.answer(&mask_edit(
        I,
        &[(DirectiveCode::Add, I), (DirectiveCode::Add, J)],
    ));
    assert_eq!(bench.target().announcement_count(), 2);
    for (index, mac) in [I, J].into_iter().enumerate() {
        expected[..6].copy_from_slice(&mac.0);
        assert_eq!(announce(&mut bench, index), expected);
    }
    assert_eq!(announce(&mut bench, 2), []);
}

#[test]
fn settings_that_the_wire_cannot_express_are_refused() {
    let check = |settings, error| assert_eq!(Target::new(settings).unwrap_err(), error);
    let mut s = settings();
    s.address.slot = 0xFF;
    check(s, SettingsError::Address);
    let mut s = settings();
    s.model = "x".repeat(41);
    check(s, SettingsError::Model);
    let mut s = settings();
    s.serial = "x".repeat(21);
    check(s, SettingsError::Serial);
    let mut s = settings();
    s.serial = "né".into();
    check(s, SettingsError::Serial);
    let mut s = settings();
    s.firmware_revision = "123456789".into();
    check(s, SettingsError::FirmwareRevision);
    let mut s = settings();
    s.physical_sector_exponent = 16;
    check(s, SettingsError::PhysicalSector);
    for (exponent, offset) in [(0, 1), (3, 8), (15, 0x4000)] {
        let mut s = settings();
        s.physical_sector_exponent = exponent;
        s.physical_sector_offset = offset;
        check(s, SettingsError::PhysicalSectorOffset);
    }
    let mut s = settings();
    s.config_string = vec![0; 1025];
    check(s, SettingsError::ConfigString);
}
