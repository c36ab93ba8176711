//! §5: the list of initiators that may talk to the export at all.

use aoede_target::{IgnoreReason, SettingsError, Target, TargetSettings};
use aoede_wire::{DirectiveCode, MacAddr};

use crate::bench::{Bench, I, J, hex, mask_edit, mask_read, port, settings, station, with};

const ADD: DirectiveCode = DirectiveCode::Add;
const DELETE: DirectiveCode = DirectiveCode::Delete;

/// A success that lists these.
#[track_caller]
fn lists(bench: &mut Bench, request: &[u8], macs: &[MacAddr]) {
    let response = bench.answer(request);
    assert_eq!(response[14..16], [0x18, 0]);
    let count = u8::try_from(macs.len()).unwrap();
    assert_eq!(response[24..28], [0, request[25], 0, count]);
    let entries: Vec<u8> = macs
        .iter()
        .flat_map(|mac| [&[0, 0], &mac.0[..]].concat())
        .collect();
    assert_eq!(response[28..28 + entries.len()], entries);
    assert!(response[28 + entries.len()..].iter().all(|&b| b == 0));
    assert_eq!(response.len(), 60.max(28 + entries.len()));
}

/// An edit that stopped: mask error and index, no list, no E.
#[track_caller]
fn stops(bench: &mut Bench, request: &[u8], error: u8, index: u8) {
    let response = bench.answer(request);
    assert_eq!(response[14..16], [0x18, 0]);
    assert_eq!(response[24..28], [0, 1, error, index]);
    assert_eq!(response[28..], [0; 32]);
}

fn adds(from: MacAddr, stations: core::ops::Range<u16>) -> Vec<u8> {
    let directives: Vec<_> = stations.map(|n| (ADD, station(n))).collect();
    mask_edit(from, &directives)
}

fn stations(n: u16) -> Vec<MacAddr> {
    (0..n).map(station).collect()
}

#[test]
fn directives_act_one_after_the_other() {
    let mut bench = Bench::new(settings());
    lists(&mut bench, &mask_read(I), &[]);
    lists(&mut bench, &mask_edit(I, &[(ADD, I), (ADD, J)]), &[I, J]);
    lists(&mut bench, &mask_edit(I, &[(ADD, I)]), &[I, J]);
    lists(&mut bench, &mask_edit(I, &[(DELETE, station(1))]), &[I, J]);
    let edit = [
        (DirectiveCode::None, MacAddr::ZERO),
        (DELETE, J),
        (ADD, station(1)),
        (DELETE, station(1)),
        (ADD, station(2)),
    ];
    lists(&mut bench, &mask_edit(I, &edit), &[I, station(2)]);
    lists(&mut bench, &mask_edit(I, &[]), &[I, station(2)]);
    assert_eq!(bench.target().mask(), [I, station(2)]);
}

#[test]
fn an_edit_may_lock_its_sender_out_and_is_answered_once() {
    let mut bench = Bench::new(settings());
    lists(&mut bench, &mask_edit(I, &[(ADD, J)]), &[J]);
    assert_eq!(bench.silence(&mask_read(I)), IgnoreReason::Masked);
    lists(&mut bench, &mask_edit(J, &[(DELETE, J)]), &[]);
    lists(&mut bench, &mask_read(I), &[]);
}

/// D17: all or nothing.
#[test]
fn a_failing_edit_changes_nothing() {
    let mut bench = Bench::new(settings());
    bench.answer(&mask_edit(I, &[(ADD, I)]));
    for bad in [
        (DirectiveCode::Unknown(3), J),
        (DirectiveCode::Unknown(255), J),
        (ADD, MacAddr::BROADCAST),
        (ADD, MacAddr::ZERO),
        (ADD, MacAddr([1, 0, 0x5E, 0, 0, 1])),
    ] {
        let edit = mask_edit(I, &[(ADD, J), (DELETE, I), bad, (ADD, J)]);
        stops(&mut bench, &edit, 2, 2);
        lists(&mut bench, &mask_read(I), &[I]);
    }
}

#[test]
fn the_list_ends_where_a_response_on_the_editing_port_does() {
    for (mtu, most) in [(1042, 128), (1500, 185), (9000, 255)] {
        let mut bench = Bench::with_mtu(mtu);
        let free = TargetSettings {
            // Not to lock the editor out.
            mask: vec![I],
            ..settings()
        };
        bench.exports = Bench::new(free).exports;
        bench.answer(&adds(I, 0..100));
        let rest = most - 1;
        if rest > 200 {
            bench.answer(&adds(I, 100..200));
        }
        let listed = if rest > 200 { 200 } else { 100 };
        stops(
            &mut bench,
            &adds(I, listed..rest + 1),
            3,
            u8::try_from(rest - listed).unwrap(),
        );
        assert_eq!(bench.target().mask().len(), usize::from(listed) + 1);
        let full = [vec![I], stations(rest)].concat();
        lists(&mut bench, &adds(I, listed..rest), &full);
        stops(&mut bench, &mask_edit(I, &[(ADD, J)]), 3, 0);
        // A present one is no addition, and a deleted one makes room.
        lists(&mut bench, &mask_edit(I, &[(ADD, I)]), &full);
        let swapped = [vec![I], stations(rest)[1..].to_vec(), vec![J]].concat();
        let swap = mask_edit(I, &[(DELETE, station(0)), (ADD, J)]);
        lists(&mut bench, &swap, &swapped);
    }
}

#[test]
fn as_many_directives_as_the_count_byte_can_announce() {
    let mut bench = Bench::with_mtu(9000);
    lists(&mut bench, &adds(I, 0..255), &stations(255));
}

#[test]
fn a_smaller_port_lists_what_fits() {
    let mut bench = Bench::with_mtu(9000);
    let mut listed = stations(200);
    listed.push(I);
    let directives: Vec<_> = listed.iter().map(|&mac| (ADD, mac)).collect();
    lists(&mut bench, &mask_edit(I, &directives), &listed);
    bench.port = port(1500);
    lists(&mut bench, &mask_read(I), &listed[..185]);
    assert_eq!(bench.target().mask().len(), 201);
    // Deleting works there; what is left is still too long to add to.
    stops(&mut bench, &mask_edit(I, &[(ADD, J)]), 3, 0);
    lists(
        &mut bench,
        &mask_edit(I, &[(DELETE, station(0))]),
        &listed[1..186],
    );
}

#[test]
fn unknown_sub_commands_get_error_2() {
    let mut bench = Bench::new(settings());
    for code in [2, 3, 255] {
        let bytes = with(mask_edit(I, &[(ADD, I)]), 25, code);
        let response = bench.answer(&bytes);
        assert_eq!(response[14..16], [0x1C, 2]);
        assert_eq!(response[24..28], [0, code, 0, 0]);
        assert_eq!(response[28..], [0; 32]);
    }
    assert!(bench.target().mask().is_empty());
}

#[test]
fn a_read_ignores_the_directives_it_brings() {
    let mut bench = Bench::new(settings());
    let bytes = with(mask_edit(I, &[(ADD, I)]), 25, 0);
    lists(&mut bench, &bytes, &[]);
    lists(&mut bench, &with(bytes, 27, 255), &[]);
}

#[test]
fn a_configured_list_is_checked() {
    let with_mask = |mask| Target::new(TargetSettings { mask, ..settings() });
    let target = with_mask(vec![I, J, I]).unwrap();
    assert_eq!(target.mask(), [I, J]);
    let group = MacAddr(hex("010000000000").try_into().unwrap());
    let error = with_mask(vec![I, group]).unwrap_err();
    assert_eq!(error, SettingsError::MaskEntry(group));
    assert!(with_mask(stations(255)).is_ok());
    let error = with_mask(stations(256)).unwrap_err();
    assert_eq!(error, SettingsError::MaskFull);
}
