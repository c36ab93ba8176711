//! §5.1: what an export's operator lets single initiators do. `I` may do all of it, `J` may read
//! and nothing else, `K` is heard and may configure, but not use the disk.

use std::collections::BTreeSet;

use aoede_target::{
    Access, Action, IgnoreReason, SettingsError, TargetSettings, Trim, Who, WriteCache,
};
use aoede_wire::{ConfigCommand, DirectiveCode, MacAddr, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, ata, ata_with, config, extension, from, from_14, hex, mask_edit, mask_read,
    reserve, settings, with,
};

const K: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0D]);
/// Error and status of an aborted command.
const ABORTED: [u8; 2] = [0x04, 0x41];
const DONE: [u8; 2] = [0, 0x40];

fn these(macs: &[MacAddr]) -> Who {
    Who::These(macs.iter().copied().collect())
}

fn access() -> Access {
    Access {
        read: these(&[I, J]),
        write: these(&[I]),
        configure: these(&[I, K]),
    }
}

fn bench() -> Bench {
    Bench::new(TargetSettings {
        trim: Trim::ReadsZeros,
        write_cache: WriteCache::Back,
        mask: access().mask(),
        access: access(),
        ..settings()
    })
}

/// Error and status registers, of a response without an AoE error: Linux would drop that.
fn registers(bench: &mut Bench, bytes: &[u8]) -> [u8; 2] {
    let response = bench.answer(bytes);
    assert_eq!(response[14..16], [0x18, 0]);
    [response[25], response[27]]
}

fn write() -> Vec<u8> {
    ata_with(Opcode::WriteExt, 8, 1, &[0x5A; 512])
}

/// A TRIM of sector 8.
fn trim() -> Vec<u8> {
    let mut ranges = [0; 512];
    (ranges[0], ranges[6]) = (8, 1);
    with(ata_with(Opcode::DataSetManagement, 0, 1, &ranges), 25, 0x01)
}

fn cache_on() -> Vec<u8> {
    with(ata(Opcode::SetFeatures, 0, 0), 25, 0x02)
}

#[test]
fn whoever_may_not_write_reads_as_from_a_read_only_export() {
    let mut bench = bench();
    for (bytes, of_j) in [
        (write(), ABORTED),
        (trim(), ABORTED),
        (cache_on(), ABORTED),
        (ata(Opcode::ReadExt, 8, 1), DONE),
        (ata(Opcode::FlushCache, 0, 0), DONE),
        (ata(Opcode::Identify, 0, 1), DONE),
    ] {
        assert_eq!(registers(&mut bench, &from(J, bytes.clone())), of_j);
        assert_eq!(registers(&mut bench, &bytes), DONE);
    }
    let changes = |action: &&Action| matches!(action, Action::Write { .. } | Action::Trim { .. });
    assert_eq!(bench.actions.iter().filter(changes).count(), 2);
    // Byte for byte.
    let sent = format!(
        "10 00 0001 01 00 0000002a 41 00 01 34 080000000000 0000 {}",
        "5a".repeat(512)
    );
    let mut expected = hex("02000000000c 02000000000a 88a2");
    expected.extend(hex(
        "18 00 0001 01 00 0000002a 41 04 01 41 080000000000 0000",
    ));
    expected.resize(60, 0);
    assert_eq!(bench.answer(&from(J, from_14(&sent))), expected);
    // Whatever else is wrong with it: it does not know the command.
    let beyond = ata_with(Opcode::WriteExt, 1 << 40, 1, &[0; 512]);
    assert_eq!(registers(&mut bench, &from(J, beyond)), ABORTED);
}

/// Words 69 and 169 of IDENTIFY.
#[test]
fn trim_is_offered_to_those_who_may() {
    let mut bench = bench();
    let identify = ata(Opcode::Identify, 0, 1);
    let words = |response: &[u8]| [69, 169].map(|word| response[36 + 2 * word..][..2].to_vec());
    assert_eq!(words(&bench.answer(&identify)), [[0x20, 0x40], [1, 0]]);
    assert_eq!(words(&bench.answer(&from(J, identify))), [[0, 0], [0, 0]]);
}

#[test]
fn whoever_may_not_read_gets_no_sector() {
    let mut bench = bench();
    bench.disk.fill(0x77);
    for bytes in [
        ata(Opcode::ReadExt, 8, 1),
        ata(Opcode::Read, 8, 1),
        ata(Opcode::ReadExt, 0, 0),
        write(),
    ] {
        let response = bench.answer(&from(K, bytes));
        assert_eq!((response[14], response[15]), (0x18, 0));
        assert_eq!([response[25], response[27]], ABORTED);
        assert!(!response.contains(&0x77));
    }
    assert!(bench.actions.is_empty());
    // It is heard, and may ask for what changes nothing.
    assert_eq!(
        registers(&mut bench, &from(K, ata(Opcode::Identify, 0, 1))),
        DONE
    );
    let query = from(K, config(ConfigCommand::Read, b""));
    assert_eq!(bench.answer(&query)[14], 0x18);
}

/// Reads that come in one frame are refused one by one.
#[test]
fn every_read_of_a_frame_is_refused() {
    let mut bench = bench();
    bench.extend(K, &["coalesced_read"]);
    // The golden frame `coalesced`, from another station.
    let frame = from_14(
        "10 00 0001 01 00 00000020 40 00 01 24 080000000000 0000 02 \
         00000021 100000000000 0000000000 01 00000022 004000000000 0000000000 01",
    );
    let answers = bench.answers(&from(K, frame));
    assert_eq!(answers.len(), 3);
    assert!(
        answers
            .iter()
            .all(|a| [a[25], a[27]] == ABORTED && a.len() == 60)
    );
}

#[test]
fn strangers_are_not_heard() {
    let mut bench = bench();
    let stranger = MacAddr([2, 0, 0, 0, 0, 0x99]);
    for bytes in [
        ata(Opcode::ReadExt, 8, 1),
        config(ConfigCommand::Read, b""),
        mask_read(I),
    ] {
        let reason = bench.silence(&from(stranger, bytes));
        assert_eq!(reason, IgnoreReason::Masked);
    }
    let list = bench.target().mask().to_vec();
    assert_eq!(list, [I, J, K]);
    assert!(bench.target().initiators().next().is_none());
}

/// From the bytes on the wire, tag 0x2a: string, list and reservation stay as they were.
#[test]
fn whoever_may_not_configure_is_refused_as_the_protocol_has_it() {
    let mut bench = bench();
    bench.answer(&config(ConfigCommand::ForceSet, b"ab"));
    for (sent, expected) in [
        // Set and force set: error 6, with the string.
        (
            "01 0000002a 0000 0000 00 03 0002 6364",
            "1c 06 0001 01 01 0000002a 0040 5001 02 13 0002 6162",
        ),
        (
            "01 0000002a 0000 0000 00 04 0002 6364",
            "1c 06 0001 01 01 0000002a 0040 5001 02 14 0002 6162",
        ),
        // An edit that would let in anybody: mask error 1, neither list nor E flag.
        (
            "02 0000002a 00 01 00 01 00 01 020000000099",
            "18 00 0001 01 02 0000002a 00 01 01 00",
        ),
        // Set and force set: error 6, with the holders, of whom there are none.
        (
            "03 0000002a 01 01 02000000000c",
            "1c 06 0001 01 03 0000002a 01 00",
        ),
        (
            "03 0000002a 02 01 02000000000c",
            "1c 06 0001 01 03 0000002a 02 00",
        ),
    ] {
        let request = from(J, from_14(&format!("10 00 0001 01 {sent}")));
        let mut expected = [hex("02000000000c 02000000000a 88a2"), hex(expected)].concat();
        expected.resize(60, 0);
        assert_eq!(bench.answer(&request), expected);
    }
    let target = bench.target();
    assert_eq!(target.config_string(), b"ab");
    assert_eq!(target.mask(), [I, J, K]);
    assert!(target.reservation().is_empty());
    assert!(!target.take_mask_changed());
    // To ask is free.
    assert_eq!(
        bench.answer(&from(J, config(ConfigCommand::Test, b"ab")))[14],
        0x18
    );
    assert_eq!(bench.answer(&mask_read(J))[27], 3);
    assert_eq!(
        bench.answer(&reserve(J, ReserveCommand::Read, &[]))[14],
        0x18
    );
}

#[test]
fn whoever_may_configure_does() {
    let mut bench = bench();
    assert!(!bench.target().take_mask_changed());
    assert_eq!(
        bench.answer(&from(K, config(ConfigCommand::Set, b"k")))[14],
        0x18
    );
    assert!(bench.target().take_config_changed());
    let edit = mask_edit(K, &[(DirectiveCode::Delete, J)]);
    assert_eq!(bench.answer(&edit)[26..28], [0, 2]);
    assert!(bench.target().take_mask_changed());
    assert!(!bench.target().take_mask_changed());
    // Deleting it once more is a success, and no change.
    bench.answer(&edit);
    assert!(!bench.target().take_mask_changed());
    assert_eq!(
        bench.answer(&reserve(K, ReserveCommand::Set, &[K]))[14],
        0x18
    );
    assert_eq!(bench.target().reservation(), [K]);
}

/// The mask list lets in, the access lists still say what for.
#[test]
fn an_edit_of_the_mask_list_gives_no_rights() {
    let mut bench = bench();
    let guest = MacAddr([2, 0, 0, 0, 0, 0x99]);
    bench.answer(&mask_edit(I, &[(DirectiveCode::Add, guest)]));
    assert_eq!(registers(&mut bench, &from(guest, write())), ABORTED);
    let read = from(guest, ata(Opcode::ReadExt, 8, 1));
    assert_eq!(registers(&mut bench, &read), ABORTED);
}

#[test]
fn other_rights_hold_from_the_next_frame_on() {
    let mut bench = bench();
    bench.answer(&mask_edit(I, &[(DirectiveCode::Delete, K)]));
    bench.extend(I, &["crc32c"]);
    bench.extend(J, &["crc32c"]);
    assert_eq!(registers(&mut bench, &from(J, write())), ABORTED);
    let only_j = Access {
        read: these(&[J]),
        write: these(&[J]),
        configure: Who::These(BTreeSet::new()),
    };
    bench.target().set_access(&only_j).unwrap();
    assert_eq!(bench.target().mask(), [J]);
    // It was not the network that changed it.
    let _ = bench.target().take_mask_changed();
    bench.target().set_access(&only_j).unwrap();
    assert!(!bench.target().take_mask_changed());
    assert_eq!(bench.silence(&write()), IgnoreReason::Masked);
    assert_eq!(registers(&mut bench, &from(J, write())), DONE);
    // Who is not heard any more has nothing switched on.
    let extensions = |bench: &mut Bench, mac| {
        let mut all = bench.target().initiators();
        all.find(|seen| seen.mac == mac)
            .unwrap()
            .extensions
            .to_string()
    };
    assert_eq!(extensions(&mut bench, I), "");
    assert_eq!(extensions(&mut bench, J), "crc32c");

    bench.target().set_access(&Access::default()).unwrap();
    assert!(bench.target().mask().is_empty());
    assert_eq!(registers(&mut bench, &from(K, write())), DONE);
}

#[test]
fn rights_that_no_mask_list_can_hold_change_nothing() {
    let mut bench = bench();
    let group = MacAddr([1, 0, 0, 0, 0, 1]);
    let wrong = Access {
        read: these(&[I, group]),
        write: these(&[]),
        configure: these(&[]),
    };
    let error = bench.target().set_access(&wrong);
    assert_eq!(error, Err(SettingsError::MaskEntry(group)));
    assert_eq!(bench.target().access(), &access());
    assert_eq!(bench.target().mask(), [I, J, K]);
}

#[test]
fn an_export_becomes_read_only_and_writable_again() {
    let mut bench = bench();
    for (read_only, expected) in [(true, ABORTED), (false, DONE)] {
        bench.target().set_read_only(read_only);
        assert_eq!(bench.target().is_read_only(), read_only);
        assert_eq!(registers(&mut bench, &write()), expected);
        assert_eq!(registers(&mut bench, &trim()), expected);
        let identity = bench.answer(&ata(Opcode::Identify, 0, 1));
        assert_eq!(identity[36 + 2 * 169], u8::from(!read_only));
    }
}

/// Extensions that an export does not offer stay as they are in the answer, like unknown names.
#[test]
fn what_is_not_offered_is_not_accepted() {
    let offered = [
        aoede_wire::Extension::TagIncBe,
        aoede_wire::Extension::Crc32c,
    ];
    let mut bench = Bench::new(TargetSettings {
        extensions: offered.into_iter().collect(),
        ..settings()
    });
    let names = [
        "reset",
        "coalesced_read",
        "tag_inc_le",
        "tag_inc_be",
        "congestion",
        // Its id, and no name.
        "crc32c",
        "crc8x4",
        "coalesced_write_reply",
    ];
    let answer = bench.answer(&extension(I, &names));
    let accepted = b"RESET\0coalesced_read\0tag_inc_le\0TAG_INC_BE\0congestion\0crc32c\0crc8x4\0\
                     coalesced_write_reply\0\0";
    assert_eq!(answer[26..26 + accepted.len()], accepted[..]);
    let mut seen = bench.target().initiators();
    assert_eq!(seen.next().unwrap().extensions.to_string(), "tag_inc_be");
}

#[test]
fn what_is_offered_no_longer_ends() {
    let mut bench = Bench::new(settings());
    let write = |tag: u8| crate::bench::tagged(write(), [0, 0, 0, tag]);
    bench.extend(I, &["tag_inc_be", "crc32c", "coalesced_read"]);
    bench.extend(J, &["coalesced_write_reply"]);
    bench.answer(&write(5));
    let offered = [
        aoede_wire::Extension::Crc32c,
        aoede_wire::Extension::TagIncLe,
    ];
    bench.target().set_extensions(offered.into_iter().collect());
    let known: Vec<_> = bench
        .target()
        .initiators()
        .map(|seen| seen.extensions.to_string())
        .collect();
    assert_eq!(known, ["crc32c", ""]);
    // Its tags are not followed any more: the same one is executed again.
    let before = bench.actions.len();
    bench.answer(&write(5));
    assert_eq!(bench.actions.len(), before + 1);
    assert_eq!(bench.target().stats().duplicates, 0);
}
