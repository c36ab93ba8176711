//! §7: what initiators and target agree on, and for how long.

use std::collections::BTreeMap;

use aoede_target::{ExtensionReset, IgnoreReason, Target, TargetSettings};
use aoede_wire::{Address, Body, ConfigCommand, DirectiveCode, Header, MacAddr, Opcode};

use crate::bench::{
    Bench, E1_1, I, J, T, ata, config, extension, from, from_14, hex, mask_edit, port, request,
    settings, station, to_all, with,
};

/// `reset\0coalesced_read\0foo\0\0`, its length left out: the golden frame `extension`.
const TABLE: &str = "726573657400 636f616c65736365645f7265616400 666f6f00 00";
const ANSWER: &str = "524553455400 434f414c45534345445f5245414400 666f6f00 00";

/// An MTU where the checksum costs a sector: 16 without, 15 with it.
fn bench() -> Bench {
    Bench::with_mtu(8228)
}

/// Whether `mac` has a checksum negotiated, as its sector count tells.
fn has_checksum(bench: &mut Bench, mac: MacAddr) -> bool {
    let query = from(mac, config(ConfigCommand::Read, b""));
    match bench.answer(&query)[28] {
        15 => true,
        16 => false,
        other => panic!("{other} sectors"),
    }
}

#[test]
fn the_answer_is_the_request_with_accepted_names_in_upper_case() {
    let mut bench = bench();
    // Length 26, in both byte orders; the first bytes come back as they were.
    for length in ["1a00", "001a"] {
        let sent = from_14(&format!("10 00 0001 01 23 0000001a {length} {TABLE}"));
        let response = bench.answer(&sent);
        let expected = hex(&format!("18 00 0001 01 23 0000001a {length} {ANSWER}"));
        assert_eq!(response[14..14 + expected.len()], expected);
        assert!(response[14 + expected.len()..].iter().all(|&b| b == 0));
        assert_eq!(response.len(), 60);
    }
}

#[test]
fn names_are_exact_and_unknown_ones_stay_as_they_are() {
    let mut bench = bench();
    for name in [
        "reset",
        "coalesced_read",
        "tag_inc_le",
        "tag_inc_be",
        "tag_random",
        "crc8x4",
        "crc32c",
        "coalesced_write_reply",
    ] {
        let response = bench.answer(&extension(I, &[name]));
        assert_eq!(
            &response[26..26 + name.len()],
            name.to_uppercase().as_bytes()
        );
    }
    for name in ["Reset", "CRC8X4", "crc8x", "crc8x45", "tag_inc", "1"] {
        let sent = extension(I, &[name]);
        assert_eq!(bench.answer(&sent)[24..], sent[24..]);
    }
    bench.extend(I, &[]);
}

/// §7.2: the name takes the entry behind it; without one it does nothing.
#[test]
fn the_argument_of_congestion_is_no_name() {
    let mut bench = bench();
    let sent = extension(I, &["congestion", "crc8x4"]);
    bench.see(&sent);
    assert!(!has_checksum(&mut bench, I));
    bench.wait(500);
    let answers = bench.released();
    assert_eq!(answers.len(), 1);
    assert_eq!(&answers[0][26..46], b"CONGESTION\0crc8x4\0\0\0");

    bench.extend(J, &["crc8x4", "congestion"]);
    assert!(has_checksum(&mut bench, J));
}

#[test]
fn malformed_tables_are_silence() {
    let mut bench = bench();
    for argument in [
        "0000 0000",
        "0100 0000",
        "0200 00",
        "0200 6100 00",
        "0300 6162 00",
        "0400 6100 0061",
        // One too large.
        &format!("1b00 {TABLE}"),
        // Neither order fits, although the table looks closed.
        &format!("1a1a {TABLE}"),
        "ffff 6100 00",
    ] {
        let sent = from_14(&format!("10 00 0001 01 23 0000001a {argument}"));
        assert_eq!(
            bench.silence(&sent),
            IgnoreReason::ExtensionTable,
            "{argument}"
        );
    }
    for len in 24..26 {
        let sent = extension(I, &["reset"]);
        assert_eq!(bench.silence(&sent[..len]), IgnoreReason::CutShort);
    }
}

#[test]
fn what_follows_the_first_empty_entry_is_echoed_and_means_nothing() {
    let mut bench = bench();
    // `\0crc8x4\0\0` inside the table.
    let sent = from_14("10 00 0001 01 23 0000001a 0900 00 637263387834 00 00 00");
    assert_eq!(bench.answer(&sent)[24..36], sent[24..36]);
    assert!(!has_checksum(&mut bench, I));
    // Padding of a probe, up to the MTU.
    let mut sent = extension(I, &["crc8x4"]);
    sent.resize(8242, 0x77);
    let response = bench.answer(&sent);
    assert_eq!(response.len(), 8242);
    assert_eq!(response[33..], sent[33..]);
    assert!(has_checksum(&mut bench, I));
}

#[test]
fn a_table_may_come_by_wildcard() {
    let mut bench = bench();
    bench.answer(&to_all(extension(I, &["crc8x4"])));
    assert!(has_checksum(&mut bench, I));
}

/// A table that cannot be answered changes nothing.
#[test]
fn without_room_for_the_answer_nothing_is_agreed_on() {
    let mut bench = bench();
    let bytes = extension(I, &["crc8x4"]);
    let (frame, _) = bench.exports.screen(&port(8228), &bytes).unwrap();
    let arrival = bench.arrival();
    let outcome = bench.target().handle_frame(&arrival, &frame, &mut [0; 59]);
    assert_eq!(outcome, aoede_target::Outcome::Ignore(IgnoreReason::NoRoom));
    assert!(!has_checksum(&mut bench, I));
}

/// §13, 13: one initiator's agreement is not another's, nor another export's.
#[test]
fn extensions_belong_to_one_initiator_at_one_export() {
    let mut bench = bench();
    let other = Address::new(1, 2).unwrap();
    let other = Target::new(TargetSettings::new(other, 16)).unwrap();
    bench.exports.insert(other).unwrap();
    bench.extend(I, &["crc8x4"]);
    assert!(has_checksum(&mut bench, I));
    assert!(!has_checksum(&mut bench, J));
    bench.extend(J, &["reset"]);
    assert!(has_checksum(&mut bench, I));
    // On another interface of the same export it is the same initiator.
    bench.port.mac = MacAddr([2, 0, 0, 0, 9, 9]);
    let mut query = config(ConfigCommand::Read, b"");
    query[..6].fill(0xFF);
    assert_eq!(bench.answer(&query)[28], 15);
    bench.port.mac = T;

    let header = Header::request(I, T, Address::new(1, 2).unwrap());
    let mut query = [0; 60];
    Body::Config(aoede_wire::Config::default())
        .encode(header, &mut query)
        .unwrap();
    let (frame, mut selection) = bench.exports.screen(&bench.port, &query).unwrap();
    let (_, other) = bench.exports.next(&mut selection).unwrap();
    let mut out = [0; 8242];
    let arrival = aoede_target::Arrival::new(std::time::Duration::ZERO, port(8228));
    assert_eq!(
        other.handle_frame(&arrival, &frame, &mut out),
        aoede_target::Outcome::Respond(60)
    );
    assert_eq!(out[28], 16);
}

#[test]
fn reset_ends_the_senders_extensions_and_acts_in_its_place() {
    let mut bench = bench();
    for names in [&["reset"][..], &["crc8x4", "reset"]] {
        bench.extend(I, &["crc8x4"]);
        bench.extend(J, &["crc32c"]);
        bench.extend(I, names);
        assert!(!has_checksum(&mut bench, I));
        assert!(has_checksum(&mut bench, J));
    }
    bench.extend(I, &["reset", "crc8x4"]);
    assert!(has_checksum(&mut bench, I));
    bench.extend(I, &["coalesced_read"]);
    assert!(has_checksum(&mut bench, I), "others are not switched off");
}

#[test]
fn a_new_config_string_ends_the_extensions_of_everybody() {
    let mut bench = bench();
    for (command, string) in [
        (ConfigCommand::Set, &b"ab"[..]),
        (ConfigCommand::Set, b"ab"),
        (ConfigCommand::ForceSet, b"cd"),
    ] {
        bench.extend(I, &["crc8x4"]);
        bench.extend(J, &["crc8x4"]);
        let response = bench.answer(&config(command, string));
        // The response to the one who did it already tells.
        assert_eq!((response[14], response[28]), (0x18, 16));
        assert!(!has_checksum(&mut bench, I));
        assert!(!has_checksum(&mut bench, J));
    }
}

/// Linux and all tools ask for the config string once a minute.
#[test]
fn other_config_commands_end_nothing() {
    let mut bench = bench();
    bench.answer(&config(ConfigCommand::ForceSet, b"ab"));
    bench.extend(I, &["crc8x4"]);
    for sender in [I, J] {
        for (command, string) in [
            (ConfigCommand::Read, &b""[..]),
            (ConfigCommand::Test, b"ab"),
            (ConfigCommand::Prefix, b"a"),
            (ConfigCommand::Unknown(9), b""),
        ] {
            bench.answer(&from(sender, config(command, string)));
        }
        let mismatch = from(sender, config(ConfigCommand::Test, b"x"));
        assert_eq!(bench.silence(&mismatch), IgnoreReason::ConfigMismatch);
        let refused = bench.answer(&from(sender, config(ConfigCommand::Set, b"x")));
        assert_eq!(refused[14..16], [0x1C, 4]);
        let beyond = with(from(sender, config(ConfigCommand::ForceSet, b"x")), 31, 200);
        assert_eq!(bench.silence(&beyond), IgnoreReason::ConfigString);
    }
    assert!(has_checksum(&mut bench, I));
}

/// The rule of the first version of the 2014 program, for those who want it.
#[test]
fn any_config_command_ends_those_of_its_sender_where_that_is_wanted() {
    let mut bench = Bench::new(TargetSettings {
        extension_reset: ExtensionReset::AnyConfig,
        ..settings()
    });
    bench.port = port(8228);
    for query in [
        config(ConfigCommand::Read, b""),
        config(ConfigCommand::Test, b"x"),
        config(ConfigCommand::Unknown(9), b""),
        to_all(config(ConfigCommand::Prefix, b"")),
    ] {
        bench.extend(I, &["coalesced_read"]);
        bench.extend(J, &["coalesced_read"]);
        bench.see(&query);
        assert!(!coalesces(&mut bench, I));
        assert!(coalesces(&mut bench, J));
    }
    bench.extend(I, &["coalesced_read"]);
    bench.answer(&from(J, config(ConfigCommand::ForceSet, b"x")));
    assert!(!coalesces(&mut bench, I));
}

/// Whether a read of `mac` with one more behind it is two reads.
fn coalesces(bench: &mut Bench, mac: MacAddr) -> bool {
    let mut bytes = from(mac, ata(Opcode::ReadExt, 0, 1));
    bytes[36] = 1;
    bytes[52] = 1;
    matches!(bench.see(&bytes), crate::bench::Seen::Reads(_))
}

#[test]
fn deletion_from_the_mask_ends_the_extensions_of_the_deleted() {
    let mut bench = bench();
    let (add, delete) = (DirectiveCode::Add, DirectiveCode::Delete);
    bench.answer(&mask_edit(I, &[(add, I), (add, J)]));
    bench.extend(I, &["crc8x4"]);
    bench.extend(J, &["crc8x4"]);
    // Adding whom is there, and an edit that fails, change nothing.
    bench.answer(&mask_edit(I, &[(add, J)]));
    let failed = mask_edit(I, &[(delete, J), (DirectiveCode::Unknown(9), J)]);
    assert_eq!(bench.answer(&failed)[26], 2);
    assert!(has_checksum(&mut bench, J));
    bench.answer(&mask_edit(I, &[(delete, J), (add, J)]));
    assert!(!has_checksum(&mut bench, J));
    assert!(has_checksum(&mut bench, I));
}

/// The one unheard of for longest makes room.
#[test]
fn an_export_remembers_1024_initiators() {
    let mut bench = bench();
    for n in 0..1024 {
        bench.extend(station(n), &["crc8x4"]);
    }
    assert!((0..1024).all(|n| has_checksum(&mut bench, station(n))));
    // Heard of again, by a read.
    bench.answer(&from(station(0), ata(Opcode::ReadExt, 0, 1)));
    bench.extend(station(1024), &["crc8x4"]);
    bench.extend(station(1025), &["crc8x4"]);
    let known: BTreeMap<_, _> = bench
        .target()
        .initiators()
        .map(|seen| (seen.mac, seen.extensions.to_string()))
        .collect();
    let gone: Vec<u16> = (0..1026)
        .filter(|&n| known.get(&station(n)).map(String::as_str) != Some("crc8x4"))
        .collect();
    assert_eq!((known.len(), gone), (1024, vec![1, 2]));
    // So does whoever has nothing switched on.
    bench.answer(&from(I, ata(Opcode::ReadExt, 0, 1)));
    assert!(!has_checksum(&mut bench, station(3)));
}

/// An announcement to a single station tells it what holds for it.
#[test]
fn announcements_tell_each_its_own_sector_count() {
    let mut bench = bench();
    let add = DirectiveCode::Add;
    bench.answer(&mask_edit(I, &[(add, I), (add, J)]));
    bench.extend(J, &["crc32c"]);
    let port = bench.port;
    let mut out = vec![0; port.frame_bytes()];
    let counts = [0, 1].map(|index| {
        assert_eq!(bench.target().announcement(&port, index, &mut out), 60);
        out[28]
    });
    assert_eq!(counts, [16, 15]);
}

#[test]
fn extensions_are_no_answer_to_unknown_commands() {
    let mut bench = bench();
    let unknown = request(I, Body::Unknown(0x24, &[2, 0, 0, 0]));
    assert_eq!(bench.answer(&unknown)[14..16], [0x1C, 1]);
    assert_eq!(bench.target().address(), E1_1);
}
