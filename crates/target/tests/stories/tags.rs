//! §9: a delayed duplicate of an old write must not overwrite newer data.

use aoede_target::{
    DeviceFailure, ExtensionSet, IgnoreReason, Request, Target, TargetSettings, Trim,
};
use aoede_wire::{ConfigCommand, DirectiveCode, MacAddr, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, Seen, ata, ata_with, config, from, mask_edit, reserve, settings, tagged, with,
};

/// A write of one sector full of `fill` to sector 8.
fn write(tag: u32, fill: u8) -> Vec<u8> {
    let bytes = ata_with(Opcode::WriteExt, 8, 1, &[fill; 512]);
    tagged(bytes, tag.to_be_bytes())
}

fn bench() -> Bench {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["tag_inc_be"]);
    bench
}

/// What sector 8 is full of.
fn found(bench: &Bench) -> u8 {
    bench.disk[8 * 512]
}

fn begin(bench: &mut Bench, bytes: &[u8]) -> Request {
    match bench.see(bytes) {
        Seen::Disk(request, ..) => request,
        seen => panic!("{seen:?}"),
    }
}

fn end(bench: &mut Bench, request: Request, result: Result<(), DeviceFailure>) {
    let mut out = [0; 60];
    assert_eq!(bench.target().handle_done(request, result, &mut out), 60);
}

/// The answer says it is done, and nothing was done.
#[track_caller]
fn is_answered_without_effect(bench: &mut Bench, bytes: &[u8]) {
    let before = (bench.actions.len(), bench.target().stats().duplicates);
    let answer = bench.answer(bytes);
    assert_eq!(
        (answer[14], answer[25], answer[26], answer[27]),
        (0x18, 0, 0, 0x40)
    );
    assert_eq!(answer.len(), 60);
    let after = (bench.actions.len(), bench.target().stats().duplicates);
    assert_eq!(after, (before.0, before.1 + 1));
}

#[test]
fn a_delayed_duplicate_is_answered_and_not_executed() {
    let mut bench = bench();
    bench.answer(&write(100, 1));
    bench.answer(&write(101, 2));
    is_answered_without_effect(&mut bench, &write(100, 1));
    assert_eq!(found(&bench), 2);
}

#[test]
fn a_target_that_takes_over_knows_what_is_done_and_who_holds_the_disk() {
    let mut bench = bench();
    bench.answer(&write(100, 1));
    bench.answer(&write(101, 2));
    bench.answer(&reserve(I, ReserveCommand::Set, &[I]));
    let other = TargetSettings {
        buffer_count: 7,
        ..settings()
    };
    let before = std::mem::replace(bench.target(), Target::new(other).unwrap());
    let writes = before.stats().writes;
    bench.target().take_over(before);
    is_answered_without_effect(&mut bench, &write(100, 1));
    assert_eq!(found(&bench), 2);
    assert_eq!(bench.target().reservation(), [I]);
    assert_eq!(bench.target().stats().writes, writes);
    // Of what is not allowed any more nothing is left.
    let mut narrower = settings();
    narrower.extensions = ExtensionSet::NONE;
    let before = std::mem::replace(bench.target(), Target::new(narrower).unwrap());
    bench.target().take_over(before);
    bench.answer(&write(100, 3));
    assert_eq!(found(&bench), 3);
}

#[test]
fn a_repetition_of_what_is_under_way_is_dropped() {
    let mut bench = bench();
    let first = begin(&mut bench, &write(100, 1));
    assert_eq!(bench.silence(&write(100, 1)), IgnoreReason::TagInProgress);
    end(&mut bench, first, Ok(()));
    is_answered_without_effect(&mut bench, &write(100, 1));
    assert_eq!(bench.ignored(IgnoreReason::TagInProgress), 1);
}

#[test]
fn what_failed_may_be_tried_again() {
    let mut bench = bench();
    let first = begin(&mut bench, &write(100, 1));
    end(&mut bench, first, Err(DeviceFailure::Fault));
    bench.answer(&write(100, 1));
    assert_eq!(bench.actions.len(), 1);
    is_answered_without_effect(&mut bench, &write(100, 1));
}

/// Requests overtake each other on their way.
#[test]
fn tags_inside_the_window_come_in_any_order() {
    let mut bench = bench();
    for tag in [32_800, 33, 32_767, 34, 100] {
        bench.answer(&write(tag, 1));
    }
    assert_eq!(bench.actions.len(), 5);
    for tag in [33, 34, 100, 32_767, 32_800] {
        is_answered_without_effect(&mut bench, &write(tag, 9));
    }
    // 32768 tags: 33 to 32800.
    assert_eq!(bench.silence(&write(32, 9)), IgnoreReason::TagStale);
    assert_eq!(bench.ignored(IgnoreReason::TagStale), 1);
    assert_eq!(found(&bench), 1);
}

#[test]
fn a_newer_tag_moves_the_window_and_forgets_what_it_skipped() {
    let mut bench = bench();
    bench.answer(&write(1, 1));
    bench.answer(&write(2, 1));
    // One window further: both are behind it, and the places they had are clean.
    bench.answer(&write(2 + 32_768, 1));
    assert_eq!(bench.silence(&write(1, 9)), IgnoreReason::TagStale);
    assert_eq!(bench.silence(&write(2, 9)), IgnoreReason::TagStale);
    bench.answer(&write(1 + 32_768, 1));
    // Almost half of all numbers further is still newer; half is older.
    let far = 2 + 32_768 + 0x7FFF_FFFF;
    bench.answer(&write(far, 1));
    bench.answer(&write(far - 1, 1));
    assert_eq!(bench.actions.len(), 6);
    let half = far.wrapping_add(0x8000_0000);
    assert_eq!(bench.silence(&write(half, 9)), IgnoreReason::TagStale);
}

#[test]
fn the_wrap_of_the_counter_is_invisible() {
    let mut bench = bench();
    for tag in [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1, 2] {
        bench.answer(&write(tag, 1));
    }
    assert_eq!(bench.actions.len(), 5);
    for tag in [0xFFFF_FFFE, 0xFFFF_FFFF, 0, 1, 2] {
        is_answered_without_effect(&mut bench, &write(tag, 9));
    }
}

#[test]
fn tags_are_read_in_the_order_that_was_agreed_on() {
    let sequence = [[0xFF, 0, 0, 0], [0, 1, 0, 0]];
    let send = |names: &[&str]| {
        let mut bench = Bench::new(settings());
        bench.extend(I, names);
        sequence.map(|tag| {
            let bytes = tagged(write(0, 1), tag);
            matches!(bench.see(&bytes), Seen::Disk(..))
        })
    };
    // 255 and 256; the other way round 0xFF000000 and 65536, which is 16842752 further.
    assert_eq!(send(&["tag_inc_le"]), [true, true]);
    assert_eq!(send(&["tag_inc_be"]), [true, true]);
    // 256 after 255 and back: one behind the other. 65536 is far behind 0xFF000000 + 65536.
    let back = |names: &[&str]| {
        let mut bench = Bench::new(settings());
        bench.extend(I, names);
        for tag in [[0, 1, 0, 0], [0xFF, 0, 0, 0]] {
            let _ = bench.see(&tagged(write(0, 1), tag));
        }
        bench.ignored(IgnoreReason::TagStale)
    };
    assert_eq!((back(&["tag_inc_le"]), back(&["tag_inc_be"])), (0, 1));
    // The last one named counts.
    assert_eq!(back(&["tag_inc_be", "tag_inc_le"]), 0);
    assert_eq!(back(&["tag_random", "tag_inc_le", "tag_inc_be"]), 1);
}

#[test]
fn trims_are_tracked_and_other_commands_are_not() {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        ..settings()
    });
    bench.extend(I, &["tag_inc_be"]);
    let mut block = [0; 512];
    (block[0], block[6]) = (8, 1);
    let trim = with(ata_with(Opcode::DataSetManagement, 0, 1, &block), 25, 1);
    bench.answer(&tagged(trim.clone(), [0, 0, 0, 100]));
    bench.answer(&write(101, 1));
    is_answered_without_effect(&mut bench, &tagged(trim, [0, 0, 0, 100]));
    assert_eq!(found(&bench), 1);

    // Far away, and twice the same.
    for bytes in [
        ata(Opcode::ReadExt, 8, 1),
        ata(Opcode::FlushCache, 0, 0),
        ata(Opcode::Identify, 0, 1),
        ata(Opcode::CheckPowerMode, 0, 0),
        ata(Opcode::WriteExt, 8, 0),
        config(ConfigCommand::Read, b""),
    ] {
        for tag in [[0x40, 0, 0, 0], [0x40, 0, 0, 0], [0, 0, 0, 101]] {
            bench.answer(&tagged(bytes.clone(), tag));
        }
    }
    bench.answer(&write(102, 2));
    assert_eq!(found(&bench), 2);
}

/// §9.2, 2: its correct repetition is executed.
#[test]
fn a_refused_write_leaves_the_window_alone() {
    let mut bench = bench();
    bench.extend(I, &["crc8x4"]);
    bench.answer(&write(1, 1));
    let tag = 0x4000_0000;
    for refused in [
        // More than the frame holds, beyond the end, more than the port allows.
        with(write(tag, 9), 26, 2),
        with(write(tag, 9), 32, 1),
        with(write(tag, 9), 26, 3),
        // A wrong checksum.
        [write(tag, 9), vec![1, 2, 3, 4]].concat(),
    ] {
        let seen = bench.see(&refused);
        assert!(matches!(seen, Seen::Response(_) | Seen::Ignored(_)));
    }
    bench.answer(&reserve(J, ReserveCommand::Set, &[J]));
    assert_eq!(bench.answer(&write(tag, 9))[15], 6);
    bench.answer(&reserve(J, ReserveCommand::Set, &[]));
    // The window did not move: 2 is still newer than all.
    bench.answer(&write(2, 2));
    bench.answer(&write(tag, 3));
    assert_eq!(found(&bench), 3);

    let mut bench = Bench::new(TargetSettings {
        read_only: true,
        ..settings()
    });
    bench.extend(I, &["tag_inc_be"]);
    for _ in 0..2 {
        assert_eq!(bench.answer(&write(7, 1))[25], 0x04);
    }
}

/// §9.2, 5: a live initiator repeats its request, a delayed duplicate does not.
#[test]
fn a_counter_that_began_anew_is_noticed_after_three_repetitions() {
    let mut bench = bench();
    bench.answer(&write(1_000_000, 1));
    assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
    bench.wait(500);
    assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
    // Three times, but within less than a second.
    bench.wait(499);
    assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
    bench.wait(1);
    bench.answer(&write(5, 2));
    assert_eq!(found(&bench), 2);
    bench.answer(&write(6, 3));
    is_answered_without_effect(&mut bench, &write(5, 2));
    // The old counter is a newer one now: it has to be, as it might have wrapped.
    assert_eq!(bench.target().stats().writes, 3);
}

#[test]
fn two_repetitions_are_not_enough() {
    let mut bench = bench();
    bench.answer(&write(1_000_000, 1));
    for _ in 0..2 {
        assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
        bench.wait(10_000);
    }
    // Another stale tag is another matter.
    assert_eq!(bench.silence(&write(6, 2)), IgnoreReason::TagStale);
    assert_eq!(found(&bench), 1);
}

#[test]
fn a_write_inside_the_window_shows_that_the_counter_goes_on() {
    let mut bench = bench();
    bench.answer(&write(1_000_000, 1));
    for round in 0..4 {
        for _ in 0..2 {
            assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
            bench.wait(2000);
        }
        if round % 2 == 0 {
            bench.answer(&write(1_000_001 + round, 1));
        } else {
            is_answered_without_effect(&mut bench, &write(1_000_000, 1));
        }
    }
    assert_eq!(found(&bench), 1);
}

/// Many requests that are repeated in turn, as after a restart under load.
#[test]
fn a_counter_that_began_anew_is_noticed_under_load() {
    let mut bench = bench();
    bench.answer(&write(1_000_000, 1));
    for round in 0..3 {
        for tag in 1..=64 {
            let seen = bench.see(&write(tag, 2));
            assert_eq!(matches!(seen, Seen::Disk(..)), round == 2, "{tag}");
        }
        bench.wait(1000);
    }
    assert_eq!(bench.ignored(IgnoreReason::TagStale), 128);
}

/// Stale duplicates of long ago do not keep later ones from being noticed.
#[test]
fn stale_tags_that_stay_away_make_room_for_others() {
    let mut bench = bench();
    bench.answer(&write(1_000_000, 1));
    for tag in 1..=4 {
        assert_eq!(bench.silence(&write(tag, 2)), IgnoreReason::TagStale);
    }
    bench.wait(31_000);
    for _ in 0..2 {
        assert_eq!(bench.silence(&write(50, 2)), IgnoreReason::TagStale);
        bench.wait(10_000);
    }
    bench.answer(&write(50, 2));
}

/// §9.2, 6: while it only reads, an initiator's counter may advance by any amount.
#[test]
fn five_minutes_without_a_write_empty_the_window() {
    let mut bench = bench();
    bench.answer(&write(0x7000_0000, 1));
    bench.wait(299_999);
    assert_eq!(bench.silence(&write(5, 2)), IgnoreReason::TagStale);
    bench.wait(299_999);
    is_answered_without_effect(&mut bench, &write(0x7000_0000, 1));
    bench.wait(299_000);
    // A read is no tracked command.
    bench.answer(&ata(Opcode::ReadExt, 0, 1));
    bench.wait(1000);
    bench.answer(&write(5, 2));
    assert_eq!(found(&bench), 2);
    is_answered_without_effect(&mut bench, &write(5, 2));
}

#[test]
fn each_agreement_begins_with_an_empty_window() {
    let mut bench = bench();
    bench.answer(&write(100, 1));
    for (fill, names) in [
        (2, &["tag_inc_be"][..]),
        (3, &["reset", "tag_inc_be"]),
        (4, &["tag_random", "tag_inc_be"]),
        (5, &["tag_inc_le", "tag_inc_be"]),
    ] {
        bench.extend(I, names);
        bench.answer(&write(100, fill));
        assert_eq!(found(&bench), fill);
        is_answered_without_effect(&mut bench, &write(100, 9));
    }
    // Other extensions leave it alone.
    bench.extend(I, &["coalesced_read"]);
    is_answered_without_effect(&mut bench, &write(100, 9));
}

/// What was under way before an agreement says nothing about tags after it.
#[test]
fn a_write_of_an_earlier_agreement_marks_nothing() {
    let mut bench = bench();
    let old = begin(&mut bench, &write(100, 1));
    bench.extend(I, &["tag_inc_be"]);
    let new = begin(&mut bench, &write(100, 2));
    end(&mut bench, old, Ok(()));
    assert_eq!(bench.silence(&write(100, 2)), IgnoreReason::TagInProgress);
    end(&mut bench, new, Ok(()));
    is_answered_without_effect(&mut bench, &write(100, 2));
    // Nor after the agreement has ended.
    let old = begin(&mut bench, &write(101, 1));
    bench.extend(I, &["reset"]);
    end(&mut bench, old, Ok(()));
    bench.answer(&write(101, 3));
    assert_eq!(found(&bench), 3);
}

/// The newest may run far ahead of one that is under way.
#[test]
fn a_write_that_fell_out_of_the_window_marks_nothing() {
    let mut bench = bench();
    let old = begin(&mut bench, &write(5, 1));
    bench.answer(&write(5 + 32_768, 2));
    end(&mut bench, old, Ok(()));
    assert_eq!(bench.silence(&write(5, 9)), IgnoreReason::TagStale);
    // The same place in the table, another tag.
    is_answered_without_effect(&mut bench, &write(5 + 32_768, 9));
}

/// §13, 11 and 14: equal tags of two initiators are two writes.
#[test]
fn windows_belong_to_single_initiators() {
    let mut bench = bench();
    bench.extend(J, &["tag_inc_be"]);
    bench.answer(&write(100, 1));
    bench.answer(&from(J, write(100, 2)));
    assert_eq!(found(&bench), 2);
    bench.extend(J, &["reset"]);
    is_answered_without_effect(&mut bench, &write(100, 9));
    bench.answer(&from(J, write(100, 3)));
    bench.answer(&from(J, write(100, 3)));
    assert_eq!(bench.actions.len(), 4);
}

/// §13, 11: the windows of others stay where they are.
#[test]
fn deletion_from_the_mask_ends_one_window() {
    let mut bench = bench();
    bench.extend(J, &["tag_inc_be"]);
    let add = DirectiveCode::Add;
    bench.answer(&mask_edit(I, &[(add, J), (add, I)]));
    bench.answer(&write(100, 1));
    bench.answer(&from(J, write(100, 2)));
    bench.answer(&mask_edit(I, &[(DirectiveCode::Delete, J), (add, J)]));
    is_answered_without_effect(&mut bench, &write(100, 9));
    bench.answer(&from(J, write(100, 3)));
    assert_eq!(found(&bench), 3);
}

/// Base AoE has no protection: each repetition runs again.
#[test]
fn without_agreement_every_write_is_executed() {
    let mut bench = Bench::new(settings());
    for fill in 1..4 {
        bench.answer(&write(100, fill));
    }
    assert_eq!(found(&bench), 3);
}

/// §9.5: unique tags are no counter.
#[test]
fn unique_tags_are_compared_with_what_is_under_way_only() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["tag_random"]);
    bench.extend(J, &["tag_random"]);
    let first = begin(&mut bench, &write(100, 1));
    let second = begin(&mut bench, &write(7, 1));
    assert_eq!(bench.silence(&write(100, 1)), IgnoreReason::TagInProgress);
    assert_eq!(bench.silence(&write(7, 1)), IgnoreReason::TagInProgress);
    // Others, other commands, other tags.
    let other: MacAddr = J;
    let theirs = begin(&mut bench, &from(other, write(100, 1)));
    bench.answer(&tagged(ata(Opcode::ReadExt, 8, 1), [0, 0, 0, 100]));
    end(&mut bench, first, Ok(()));
    bench.answer(&write(100, 2));
    assert_eq!(bench.silence(&write(7, 1)), IgnoreReason::TagInProgress);
    assert_eq!(
        bench.silence(&from(J, write(100, 1))),
        IgnoreReason::TagInProgress
    );
    end(&mut bench, second, Err(DeviceFailure::Fault));
    end(&mut bench, theirs, Ok(()));
    bench.answer(&write(7, 2));
    bench.answer(&from(J, write(100, 2)));
}

/// More than the worker can hold need not be remembered; what is not, is executed.
#[test]
fn the_list_of_what_is_under_way_has_an_end() {
    let mut bench = Bench::new(TargetSettings {
        buffer_count: 2,
        ..settings()
    });
    bench.extend(I, &["tag_random"]);
    let running: Vec<_> = (1..=3)
        .map(|tag| begin(&mut bench, &write(tag, 1)))
        .collect();
    assert_eq!(bench.silence(&write(2, 1)), IgnoreReason::TagInProgress);
    let again = begin(&mut bench, &write(3, 1));
    for request in running.into_iter().chain([again]) {
        end(&mut bench, request, Ok(()));
    }
    bench.answer(&write(2, 1));
}
