//! §6: the initiators that hold the export.

use aoede_target::{IgnoreReason, TargetSettings, Trim};
use aoede_wire::{Ata, Body, MacAddr, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, Seen, T, ata, config, mask_read, port, request, reserve, settings, station, with,
};

const OK: [u8; 2] = [0x18, 0];
const BAD_ARGUMENT: [u8; 2] = [0x1C, 2];
const RESERVED: [u8; 2] = [0x1C, 6];

#[track_caller]
fn says(bench: &mut Bench, request: &[u8], flags_error: [u8; 2], holders: &[MacAddr]) {
    let response = bench.answer(request);
    assert_eq!(response[14..16], flags_error);
    let count = u8::try_from(holders.len()).unwrap();
    assert_eq!(response[24..26], [request[24], count]);
    let macs: Vec<u8> = holders.iter().flat_map(|mac| mac.0).collect();
    assert_eq!(response[26..26 + macs.len()], macs);
    assert!(response[26 + macs.len()..].iter().all(|&b| b == 0));
    assert_eq!(response.len(), 60.max(26 + macs.len()));
}

fn read(from: MacAddr) -> Vec<u8> {
    reserve(from, ReserveCommand::Read, &[])
}

fn set(from: MacAddr, macs: &[MacAddr]) -> Vec<u8> {
    reserve(from, ReserveCommand::Set, macs)
}

fn force(from: MacAddr, macs: &[MacAddr]) -> Vec<u8> {
    reserve(from, ReserveCommand::ForceSet, macs)
}

#[test]
fn holders_may_change_the_list_and_others_need_force() {
    let mut bench = Bench::new(settings());
    says(&mut bench, &read(J), OK, &[]);
    says(&mut bench, &set(I, &[I]), OK, &[I]);
    says(&mut bench, &read(J), OK, &[I]);
    says(&mut bench, &set(J, &[J]), RESERVED, &[I]);
    says(&mut bench, &set(J, &[]), RESERVED, &[I]);
    says(&mut bench, &set(I, &[I, J]), OK, &[I, J]);
    says(&mut bench, &set(J, &[J]), OK, &[J]);
    says(&mut bench, &set(I, &[I]), RESERVED, &[J]);
    says(&mut bench, &force(I, &[I]), OK, &[I]);
    says(&mut bench, &set(I, &[]), OK, &[]);
    // Free: anybody may reserve it, even for somebody else.
    says(&mut bench, &set(I, &[J]), OK, &[J]);
    says(&mut bench, &force(I, &[]), OK, &[]);
    assert!(bench.target().reservation().is_empty());
}

#[test]
fn a_reservation_by_one_refuses_the_ata_commands_of_the_other() {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        ..settings()
    });
    bench.answer(&set(J, &[J]));
    for opcode in 0..=0xFF {
        let bytes = with(ata(Opcode::ReadExt, 0, 1), 27, opcode);
        let response = bench.answer(&bytes);
        if opcode == 0xEC {
            assert_eq!(response.len(), 548);
        } else {
            assert_eq!(response[14..16], RESERVED);
            assert_eq!(response[24..28], [bytes[24], 0, 1, 0x01]);
            assert_eq!(response[36..], [0; 24]);
            assert_eq!(response.len(), 60);
        }
    }
    assert!(bench.actions.is_empty());
    // The other commands, and the holder, are not restricted.
    bench.answer(&config(aoede_wire::ConfigCommand::ForceSet, b"x"));
    bench.answer(&mask_read(I));
    let read = request(J, Body::Ata(Ata::request(Opcode::ReadExt, 0, 1)));
    assert!(matches!(bench.see(&read), Seen::Disk(..)));
}

#[test]
fn bad_arguments_change_nothing_and_the_sender_is_judged_first() {
    let mut bench = Bench::new(settings());
    bench.answer(&set(I, &[I]));
    // Nine announced, 34 bytes of 54 there.
    let beyond = |bytes: Vec<u8>| with(bytes, 25, 9);
    says(&mut bench, &beyond(set(I, &[I])), BAD_ARGUMENT, &[I]);
    says(&mut bench, &beyond(force(J, &[J])), BAD_ARGUMENT, &[I]);
    says(&mut bench, &beyond(set(J, &[J])), RESERVED, &[I]);
    for code in [3, 255] {
        let unknown = reserve(J, ReserveCommand::Unknown(code), &[J]);
        says(&mut bench, &unknown, BAD_ARGUMENT, &[I]);
    }
    says(&mut bench, &beyond(read(J)), OK, &[I]);
}

#[test]
fn a_list_that_no_response_could_hold_is_refused() {
    let many: Vec<_> = (0..255).map(station).collect();
    let mut bench = Bench::new(settings());
    says(&mut bench, &set(I, &many[..249]), BAD_ARGUMENT, &[]);
    says(&mut bench, &set(I, &many[..248]), OK, &many[..248]);
    bench.port = port(9000);
    says(&mut bench, &force(I, &many), OK, &many);
    bench.port = port(1500);
    says(&mut bench, &read(I), OK, &many[..248]);
    assert_eq!(bench.target().reservation().len(), 255);
}

/// The mask comes before the reservation.
#[test]
fn a_holder_outside_the_mask_stays_unheard() {
    let mut bench = Bench::new(TargetSettings {
        mask: vec![J],
        ..settings()
    });
    bench.answer(&set(J, &[I, T]));
    assert_eq!(bench.silence(&read(I)), IgnoreReason::Masked);
}
