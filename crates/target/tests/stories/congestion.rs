//! §10: how many requests fit, without a stall.

use aoede_target::IgnoreReason;
use aoede_wire::{MacAddr, Opcode};

use crate::bench::{Bench, I, J, Seen, ata, extension, from, settings, tagged};

fn probe(mac: MacAddr, id: &str, tag: u8) -> Vec<u8> {
    tagged(extension(mac, &["congestion", id]), [0, 0, 0, tag])
}

fn is_held(bench: &mut Bench, bytes: &[u8]) -> bool {
    match bench.see(bytes) {
        Seen::Held => true,
        Seen::Response(_) => false,
        seen => panic!("{seen:?}"),
    }
}

/// Last byte of the MAC and of the tag.
fn who(answers: &[Vec<u8>]) -> Vec<(u8, u8)> {
    answers
        .iter()
        .map(|answer| (answer[5], answer[23]))
        .collect()
}

#[test]
fn probes_are_held_for_half_a_second_and_answered_in_order() {
    let mut bench = Bench::new(settings());
    for tag in 1..=3 {
        assert!(is_held(&mut bench, &probe(I, "77", tag)));
        bench.wait(100);
    }
    let due = std::time::Duration::from_millis(500);
    assert_eq!(bench.exports.poll_timeout(), Some(due));
    bench.wait(199);
    assert!(bench.released().is_empty());
    bench.wait(1);
    let answers = bench.released();
    assert_eq!(who(&answers), [(0x0B, 1), (0x0B, 2), (0x0B, 3)]);
    // The whole frame, the name in upper case.
    let request = probe(I, "77", 1);
    let answer = &answers[0];
    assert_eq!((answer[14], answer.len()), (0x18, request.len()));
    assert_eq!(&answer[26..40], b"CONGESTION\x0077\0");
    assert_eq!(answer[40..], request[40..]);
    assert_eq!(bench.exports.poll_timeout(), None);
    // Later ones at once, and for as long as the id is the same.
    for _ in 0..3 {
        assert!(!is_held(&mut bench, &probe(I, "77", 4)));
        bench.wait(60_000);
    }
    assert_eq!(bench.target().stats().responses, 6);
}

/// Probes have the length of full requests, and what pads them comes back.
#[test]
fn long_probes_come_back_in_full() {
    let mut bench = Bench::with_mtu(9000);
    for (tag, fill) in [(1, 0x00), (2, 0xED)] {
        let mut bytes = probe(I, "1", tag);
        bytes.resize(9014, fill);
        assert!(is_held(&mut bench, &bytes));
    }
    bench.wait(500);
    let answers = bench.released();
    let expected = [(1, 0x00), (2, 0xED)];
    assert_eq!(answers.len(), 2);
    for (answer, (tag, fill)) in answers.iter().zip(expected) {
        assert_eq!((answer.len(), answer[23]), (9014, tag));
        assert_eq!(&answer[26..39], b"CONGESTION\x001\0");
        assert!(answer[60..].iter().all(|&byte| byte == fill));
    }
}

#[test]
fn as_many_are_held_as_the_ring_had_room_for() {
    let mut bench = Bench::new(settings());
    bench.queue.free = 5;
    for tag in 0..8 {
        assert!(is_held(&mut bench, &probe(I, "1", tag)));
        // What counts is the room when it began.
        bench.queue.free = 100;
    }
    assert_eq!(bench.ignored(IgnoreReason::CongestionFull), 3);
    bench.wait(500);
    let tags: Vec<u8> = bench.released().iter().map(|answer| answer[23]).collect();
    assert_eq!(tags, [0, 1, 2, 3, 4]);
}

/// A burst may fill the ring before its first frame is looked at.
#[test]
fn what_waits_already_has_its_place() {
    let mut bench = Bench::new(settings());
    bench.queue.waiting = 5;
    bench.queue.free = 3;
    for tag in 0..4 {
        is_held(&mut bench, &probe(I, "1", tag));
        // Of those behind it.
        bench.queue.waiting = 100;
    }
    // Two frames of others, and the places behind the first are over.
    bench.answer(&from(J, ata(Opcode::ReadExt, 0, 1)));
    bench.answer(&from(J, ata(Opcode::ReadExt, 0, 1)));
    for tag in 4..10 {
        is_held(&mut bench, &probe(I, "1", tag));
    }
    bench.wait(500);
    // The first, three that waited, and two more for the three places.
    let tags: Vec<u8> = bench.released().iter().map(|answer| answer[23]).collect();
    assert_eq!(tags, [0, 1, 2, 3, 4, 5]);
    assert_eq!(bench.ignored(IgnoreReason::CongestionFull), 4);
}

#[test]
fn measurements_at_one_time_share_the_room() {
    let mut bench = Bench::new(settings());
    bench.queue.free = 4;
    for tag in 0..2 {
        is_held(&mut bench, &probe(I, "1", tag));
    }
    bench.wait(300);
    for tag in 2..6 {
        is_held(&mut bench, &probe(J, "1", tag));
    }
    assert_eq!(bench.ignored(IgnoreReason::CongestionFull), 2);
    bench.wait(200);
    assert_eq!(who(&bench.released()), [(0x0B, 0), (0x0B, 1)]);
    // Each is held for half a second of its own.
    bench.wait(299);
    assert!(bench.released().is_empty());
    bench.wait(1);
    assert_eq!(who(&bench.released()), [(0x0C, 2), (0x0C, 3)]);
}

#[test]
fn interleaved_measurements_are_answered_each_in_its_order() {
    let mut bench = Bench::new(settings());
    is_held(&mut bench, &probe(I, "1", 0));
    bench.wait(100);
    is_held(&mut bench, &probe(J, "22", 1));
    is_held(&mut bench, &probe(I, "1", 2));
    is_held(&mut bench, &probe(J, "22", 3));
    is_held(&mut bench, &probe(I, "1", 4));
    bench.wait(400);
    let answers = bench.released();
    assert_eq!(who(&answers), [(0x0B, 0), (0x0B, 2), (0x0B, 4)]);
    assert!(answers.iter().all(|answer| &answer[37..39] == b"1\0"));
    bench.wait(100);
    let answers = bench.released();
    assert_eq!(who(&answers), [(0x0C, 1), (0x0C, 3)]);
    assert!(answers.iter().all(|answer| &answer[37..40] == b"22\0"));
}

#[test]
fn a_new_measurement_needs_a_pause() {
    let mut bench = Bench::new(settings());
    is_held(&mut bench, &probe(I, "1", 0));
    bench.wait(1999);
    let soon = probe(I, "2", 1);
    assert_eq!(bench.silence(&soon), IgnoreReason::CongestionPause);
    // Another initiator is not concerned, and the old id not ended.
    assert!(is_held(&mut bench, &probe(J, "2", 1)));
    assert!(!is_held(&mut bench, &probe(I, "1", 2)));
    bench.wait(1);
    assert!(is_held(&mut bench, &probe(I, "2", 3)));
    assert_eq!(bench.ignored(IgnoreReason::CongestionPause), 1);
}

#[test]
fn ids_are_numbers() {
    let mut bench = Bench::new(settings());
    assert!(is_held(&mut bench, &probe(I, "0", 0)));
    bench.wait(500);
    for same in ["-0", "abc", "0x7", "+", "00"] {
        assert!(!is_held(&mut bench, &probe(I, same, 1)), "{same}");
    }
    bench.wait(1500);
    assert!(is_held(&mut bench, &probe(I, "-1", 2)));
}

#[test]
fn everything_else_is_served_meanwhile() {
    let mut bench = Bench::new(settings());
    bench.queue.free = 1;
    for tag in 0..10 {
        is_held(&mut bench, &probe(I, "1", tag));
    }
    for mac in [I, J] {
        assert_eq!(
            bench.answer(&from(mac, ata(Opcode::ReadExt, 0, 1))).len(),
            548
        );
        bench.extend(mac, &["coalesced_read"]);
    }
    bench.wait(500);
    assert_eq!(bench.released().len(), 1);
}

/// A measurement's names act at once, and what it was told before is not taken back.
#[test]
fn reset_forgets_the_measurement_and_keeps_what_is_held() {
    let mut bench = Bench::new(settings());
    is_held(&mut bench, &probe(I, "1", 0));
    bench.extend(I, &["reset"]);
    bench.wait(100);
    assert!(is_held(&mut bench, &probe(I, "2", 1)));
    bench.wait(400);
    assert_eq!(who(&bench.released()), [(0x0B, 0)]);
    bench.wait(100);
    assert_eq!(who(&bench.released()), [(0x0B, 1)]);
}

/// The room has an end of its own: 1024 responses, and 1 MiB without the zeros behind them.
#[test]
fn what_is_held_is_bounded() {
    let mut bench = Bench::new(settings());
    for tag in 0..=255 {
        for _ in 0..5 {
            is_held(&mut bench, &probe(I, "1", tag));
        }
    }
    assert_eq!(bench.ignored(IgnoreReason::CongestionFull), 256);
    bench.wait(500);
    assert_eq!(bench.released().len(), 1024);

    let mut bench = Bench::with_mtu(9000);
    let mut long = probe(I, "1", 0);
    long.resize(9014, 0xED);
    for _ in 0..200 {
        is_held(&mut bench, &long);
    }
    bench.wait(500);
    // 116 times 9014 is below 1048576, 117 times is not.
    assert_eq!(bench.released().len(), 116);
}

#[test]
fn an_export_that_goes_away_takes_its_responses_along() {
    let mut bench = Bench::new(settings());
    is_held(&mut bench, &probe(I, "1", 0));
    bench.exports.remove(0);
    bench.wait(500);
    assert!(bench.released().is_empty());
    assert_eq!(bench.exports.poll_timeout(), None);
}
