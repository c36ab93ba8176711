//! §2: what is checked before a command's own rules, in which order, and who hears about it.

use aoede_target::{Exports, IgnoreReason, Target, TargetSettings};
use aoede_wire::{Address, Body, ConfigCommand, DirectiveCode, Header, Opcode, ReserveCommand};

use crate::bench::{
    Bench, E1_1, I, J, Seen, T, ata, config, from_14, hex, mask_edit, mask_read, port, request,
    reserve, settings, to_all, with,
};

fn query() -> Vec<u8> {
    config(ConfigCommand::Read, b"")
}

/// Rows 1 to 4: nothing that is not a request for us is answered.
#[test]
fn frames_that_are_no_request_for_us_are_dropped_and_counted() {
    let with_source = |mac: &str| {
        let mut bytes = query();
        bytes[6..12].copy_from_slice(&hex(mac));
        bytes
    };
    let cases = [
        (vec![], IgnoreReason::TooShort),
        (query()[..23].to_vec(), IgnoreReason::TooShort),
        (with(query(), 13, 0xA3), IgnoreReason::EtherType),
        (with(query(), 14, 0x18), IgnoreReason::Response),
        (with(query(), 14, 0x1C), IgnoreReason::Response),
        (with_source("ffffffffffff"), IgnoreReason::Source),
        (with_source("010000000000"), IgnoreReason::Source),
        (with_source("000000000000"), IgnoreReason::Source),
        (with_source("02000000000a"), IgnoreReason::Source),
        (with(query(), 5, 0x0F), IgnoreReason::Destination),
        (with(query(), 0, 0x03), IgnoreReason::Destination),
        (with(query(), 17, 2), IgnoreReason::Address),
        (with(query(), 18, 2), IgnoreReason::Address),
    ];
    let mut bench = Bench::new(settings());
    for (i, (bytes, reason)) in cases.iter().enumerate() {
        assert_eq!(bench.silence(bytes), *reason, "case {i}");
        assert_eq!(bench.exports.ignored().total(), i as u64 + 1);
    }
    for (reason, count) in bench.exports.ignored().iter() {
        let expected = cases.iter().filter(|case| case.1 == reason).count();
        assert_eq!(count, expected as u64, "{}", reason.name());
    }
    assert_eq!(bench.target().stats().ignored.total(), 0);
}

#[test]
fn broadcast_and_our_own_address_both_reach_us() {
    let mut bench = Bench::new(settings());
    bench.answer(&query());
    let mut broadcast = query();
    broadcast[..6].fill(0xFF);
    bench.answer(&broadcast);
}

/// Row 5: unlisted hosts learn nothing, not even that a command is unknown.
#[test]
fn the_mask_silences_every_command_from_others() {
    let mut bench = Bench::new(TargetSettings {
        mask: vec![J],
        ..settings()
    });
    let others = [
        query(),
        ata(Opcode::Identify, 0, 1),
        mask_read(I),
        reserve(I, ReserveCommand::Read, &[]),
        with(query(), 19, 0x7F),
        with(query(), 14, 0x20),
        query()[..24].to_vec(),
    ];
    for bytes in &others {
        assert_eq!(bench.silence(bytes), IgnoreReason::Masked);
    }
    let ignored = &bench.target().stats().ignored;
    assert_eq!(ignored.get(IgnoreReason::Masked), others.len() as u64);
    bench.answer(&mask_read(J));
}

/// Row 6.
#[test]
fn other_versions_get_error_5_and_their_frame_back() {
    let mut bench = Bench::new(settings());
    for version in [0x00, 0x20, 0xF0] {
        // Too short for its command: the version is judged first.
        let bytes = with(from_14("10 00 0001 01 00 aabbccdd 0102030405"), 14, version);
        let response = bench.answer(&bytes);
        assert_eq!(response[14..24], hex("1c 05 0001 01 00 aabbccdd"));
        assert_eq!(response[24..29], [1, 2, 3, 4, 5]);
        assert_eq!(response[29..], [0; 31]);
        let silence = bench.silence(&to_all(bytes));
        assert_eq!(silence, IgnoreReason::Version);
    }
}

/// Row 7.
#[test]
fn unknown_commands_get_error_1_and_their_frame_back_in_full() {
    let mut bench = Bench::new(settings());
    for command in [0x04, 0x24, 0x7F, 0xF0, 0xFF] {
        let argument: Vec<u8> = (0..200).collect();
        let bytes = request(I, Body::Unknown(command, &argument));
        let response = bench.answer(&bytes);
        assert_eq!(response.len(), bytes.len());
        assert_eq!(response[14..16], [0x1C, 1]);
        assert_eq!(response[24..], argument);
        let silence = bench.silence(&to_all(bytes));
        assert_eq!(silence, IgnoreReason::UnknownCommand);
    }
    // Longer than the port can send: such a frame did not come over this port's network.
    let long = request(I, Body::Unknown(0x7F, &[7; 3000]));
    assert_eq!(bench.answer(&long).len(), 1514);
}

/// Row 8.
#[test]
fn arguments_cut_short_are_dropped() {
    let mut bench = Bench::new(settings());
    for (command, least) in [(0, 36), (1, 32), (2, 28), (3, 26), (0x23, 26)] {
        let full = with(ata(Opcode::CheckPowerMode, 0, 0), 19, command);
        for len in 24..least {
            assert_eq!(bench.silence(&full[..len]), IgnoreReason::CutShort);
        }
        let whole = bench.see(&full[..least]);
        assert_ne!(whole, Seen::Ignored(IgnoreReason::CutShort));
    }
}

/// Row 9: one broadcast must not change every disk of the segment.
#[test]
fn wildcards_may_ask_but_not_change() {
    let mut bench = Bench::new(TargetSettings {
        trim: aoede_target::Trim::Supported,
        ..settings()
    });
    for bytes in [
        query(),
        config(ConfigCommand::Test, b""),
        config(ConfigCommand::Prefix, b""),
        config(ConfigCommand::Set, b""),
        config(ConfigCommand::ForceSet, b"a"),
        with(query(), 29, 9),
        mask_read(I),
        reserve(I, ReserveCommand::Read, &[]),
        ata(Opcode::Identify, 0, 1),
        ata(Opcode::CheckPowerMode, 0, 0),
    ] {
        bench.answer(&to_all(bytes));
    }
    for opcode in 0..=0xFF {
        if opcode != 0xEC && opcode != 0xE5 {
            let bytes = to_all(with(ata(Opcode::Identify, 0, 1), 27, opcode));
            assert_eq!(bench.silence(&bytes), IgnoreReason::Wildcard);
        }
    }
    for bytes in [
        mask_edit(I, &[(DirectiveCode::Add, I)]),
        with(mask_read(I), 25, 2),
        reserve(I, ReserveCommand::Set, &[I]),
        reserve(I, ReserveCommand::ForceSet, &[I]),
        reserve(I, ReserveCommand::Unknown(3), &[I]),
    ] {
        assert_eq!(
            bench.silence(&to_all(bytes.clone())),
            IgnoreReason::Wildcard
        );
        // Half a wildcard is one as well.
        assert_eq!(
            bench.silence(&with(bytes, 18, 0xFF)),
            IgnoreReason::Wildcard
        );
    }
    assert!(bench.target().mask().is_empty() && bench.target().reservation().is_empty());
    assert!(bench.actions.is_empty());
}

#[test]
fn what_a_request_sets_without_meaning_is_neither_judged_nor_echoed() {
    let mut bench = Bench::new(settings());
    // E flag, low flag bits, header error, reserved bytes.
    let bytes = with(with(ata(Opcode::CheckPowerMode, 0, 0), 14, 0x17), 15, 0x77);
    let response = bench.answer(&bytes);
    assert_eq!(response[14..16], [0x18, 0]);
    let bytes = with(with(with(mask_read(I), 24, 9), 26, 9), 14, 0x13);
    let response = bench.answer(&bytes);
    assert_eq!(response[14..16], [0x18, 0]);
    assert_eq!(response[24..28], [0; 4]);
}

#[test]
fn each_wildcard_selects_on_its_own() {
    let mut exports = Exports::new();
    let mut insert = |shelf, slot| {
        let address = Address::new(shelf, slot).unwrap();
        let target = Target::new(TargetSettings::new(address, 1)).unwrap();
        exports.insert(target).unwrap()
    };
    let (b, a, c, d) = (insert(7, 2), insert(7, 1), insert(8, 1), insert(9, 3));
    for (shelf, slot, expected) in [
        (7, 1, vec![a]),
        (9, 3, vec![d]),
        (7, 0xFF, vec![a, b]),
        (0xFFFF, 1, vec![a, c]),
        (0xFFFF, 0xFF, vec![a, b, c, d]),
        (0xFFFF, 9, vec![]),
        (6, 0xFF, vec![]),
        (7, 3, vec![]),
    ] {
        let header = Header::request(I, T, Address { shelf, slot });
        let mut bytes = [0; 60];
        Body::Config(aoede_wire::Config::default())
            .encode(header, &mut bytes)
            .unwrap();
        let mut selected = Vec::new();
        match exports.screen(&port(1500), &bytes) {
            Ok((_, mut selection)) => {
                while let Some((index, target)) = exports.next(&mut selection) {
                    assert!(header.address.selects(target.address()));
                    selected.push(index);
                }
            }
            Err(reason) => assert_eq!(reason, IgnoreReason::Address),
        }
        assert_eq!(selected, expected, "{shelf}.{slot}");
    }
}

#[test]
fn an_export_keeps_its_index_while_others_come_and_go() {
    let target = |slot| {
        let address = Address::new(1, slot).unwrap();
        Target::new(TargetSettings::new(address, 1)).unwrap()
    };
    let mut exports = Exports::new();
    let two = exports.insert(target(2)).unwrap();
    let one = exports.insert(target(1)).unwrap();
    let taken = exports.insert(target(1)).unwrap_err();
    assert_eq!(taken.0, E1_1);
    assert_eq!(exports.remove(two).unwrap().address().slot, 2);
    assert!(exports.remove(two).is_none() && exports.get(two).is_none());
    assert_eq!(exports.index_of(E1_1), Some(one));
    let three = exports.insert(target(3)).unwrap();
    assert_eq!(three, two, "a free index is used again");
    let order: Vec<_> = exports.iter().map(|(i, t)| (i, t.address().slot)).collect();
    assert_eq!(order, [(one, 1), (three, 3)]);
    assert_eq!((exports.len(), exports.is_empty()), (2, false));
}

#[test]
fn a_buffer_too_small_is_silence_and_no_panic() {
    let mut bench = Bench::new(settings());
    for len in 0..60 {
        let bytes = query();
        let (frame, _) = bench.exports.screen(&port(1500), &bytes).unwrap();
        let mut out = vec![0; len];
        let arrival = bench.arrival();
        let outcome = bench.target().handle_frame(&arrival, &frame, &mut out);
        let expected = aoede_target::Outcome::Ignore(IgnoreReason::NoRoom);
        assert_eq!(outcome, expected);
    }
    let Seen::Disk(request, ..) = bench.see(&ata(Opcode::ReadExt, 0, 1)) else {
        panic!("a read goes to the disk");
    };
    assert_eq!(request.response_bytes(), 548);
    assert_eq!((request.address(), request.initiator()), (E1_1, I));
    let mut out = [0; 547];
    assert_eq!(bench.target().handle_done(request, Ok(()), &mut out), 0);
}
