//! §8: several reads in one frame. §18.1: several write responses in one.

use aoede_target::{
    Action, DeviceFailure, MergeKey, Outcome, Request, TargetSettings, Trim, WriteReplies,
    merge_write_response,
};
use aoede_wire::{MacAddr, Opcode, ReserveCommand};

use crate::bench::{
    Bench, I, J, POISON, Seen, ata, ata_with, from, from_14, hex, reserve, settings, tagged, with,
};

/// An entry: tag, LBA, reserved bytes, sector count.
fn entry(tag: u8, lba: u16, count: u8) -> Vec<u8> {
    let [low, high] = lba.to_le_bytes();
    vec![
        0, 0, 0, tag, low, high, 0, 0, 0, 0, 0xA, 0xB, 0xC, 0xD, 0xE, count,
    ]
}

/// A READ EXT of sector 8 with tag 20, and further reads behind it.
fn coalesced(announced: u8, entries: &[Vec<u8>]) -> Vec<u8> {
    let payload = [vec![announced], entries.concat()].concat();
    tagged(ata_with(Opcode::ReadExt, 8, 1, &payload), [0, 0, 0, 0x20])
}

fn bench() -> Bench {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["coalesced_read"]);
    bench
}

#[test]
fn each_read_is_answered_as_if_it_had_come_alone() {
    let mut bench = bench();
    bench.disk[8 * 512..9 * 512].fill(0x5A);
    bench.disk[16 * 512..17 * 512].fill(0x6B);
    let answers = bench.answers(&from_14(
        "10 00 0001 01 00 00000020 40 00 01 24 080000000000 0000 02
         00000021 100000000000 0000000000 01
         00000022 004000000000 0000000000 01",
    ));
    let expected = [
        format!(
            "18 00 0001 01 00 00000020 40 00 00 40 080000000000 0000 {}",
            "5a".repeat(512)
        ),
        format!(
            "18 00 0001 01 00 00000021 40 00 00 40 100000000000 0000 {}",
            "6b".repeat(512)
        ),
        format!(
            "18 00 0001 01 00 00000022 40 10 01 41 004000000000 0000 {}",
            "00".repeat(24)
        ),
    ];
    assert_eq!(answers.len(), 3);
    for (answer, expected) in answers.iter().zip(expected) {
        assert_eq!(answer[..14], hex("02000000000b 02000000000a 88a2"));
        assert_eq!(answer[14..], hex(&expected));
    }
    let stats = bench.target().stats();
    assert_eq!(
        (stats.coalesced_reads, stats.reads, stats.responses),
        (1, 2, 2)
    );
}

#[test]
fn errors_belong_to_single_reads() {
    let mut bench = bench();
    // Too many sectors, none, beyond the end, in order.
    let entries = [
        entry(1, 0, 3),
        entry(2, 16384, 0),
        entry(3, 16384, 1),
        entry(4, 5, 2),
    ];
    let answers = bench.answers(&coalesced(4, &entries));
    let facts: Vec<_> = answers
        .iter()
        .map(|a| (a[23], a[14], a[15], a[25], a[26], a[27], a.len()))
        .collect();
    assert_eq!(
        facts,
        [
            (0x20, 0x18, 0, 0, 0, 0x40, 548),
            (1, 0x1C, 2, 0, 3, 0x01, 60),
            (2, 0x18, 0, 0, 0, 0x40, 60),
            (3, 0x18, 0, 0x10, 1, 0x41, 60),
            (4, 0x18, 0, 0, 0, 0x40, 1060),
        ]
    );
    // The first two reserved bytes come back.
    assert!(answers[1..].iter().all(|a| a[34..36] == [0xA, 0xB]));
    assert_eq!(answers[4][28..34], [5, 0, 0, 0, 0, 0]);
}

#[test]
fn a_failing_first_read_does_not_stop_the_others() {
    let mut bench = bench();
    for first in [
        with(coalesced(1, &[entry(1, 5, 1)]), 26, 9),
        with(coalesced(1, &[entry(1, 5, 1)]), 33, 1),
        with(coalesced(1, &[entry(1, 5, 1)]), 26, 0),
    ] {
        let answers = bench.answers(&first);
        assert_eq!(answers[0].len(), 60);
        assert_eq!((answers[1].len(), answers[1][23]), (548, 1));
    }
    bench.failure = Some(DeviceFailure::Unreadable);
    let answers = bench.answers(&coalesced(1, &[entry(1, 5, 1)]));
    assert!(answers.iter().all(|a| a[25] == 0x40 && a.len() == 60));
}

#[test]
fn opcode_and_flags_are_those_of_the_first() {
    let mut bench = bench();
    // READ SECTORS: device bits in the fourth byte of both addresses, flags all set.
    let mut bytes = with(coalesced(1, &[entry(1, 5, 1)]), 27, 0x20);
    bytes = with(with(with(bytes, 31, 0xE0), 44, 0xEF), 24, 0x51);
    let answers = bench.answers(&bytes);
    assert_eq!(answers[0].len(), 548);
    // 28 bits: 0x0F000005 is beyond the end.
    assert_eq!((answers[1][24], answers[1][25]), (0x51, 0x10));
    assert_eq!(answers[1][28..34], [5, 0, 0, 0xEF, 0, 0]);
    bytes = with(bytes, 44, 0xE0);
    assert_eq!(bench.answers(&bytes)[1].len(), 548);
    let read = |lba| Action::Read { lba, sectors: 1 };
    assert_eq!(bench.actions, [read(8), read(8), read(5)]);
}

/// Announced, bytes of the frame, reads answered.
#[test]
fn entries_that_are_announced_and_there_in_full_are_served() {
    let mut bench = bench();
    let entries: Vec<_> = (1..=3).map(|n| entry(n, 5, 1)).collect();
    let full = coalesced(3, &entries);
    assert_eq!(full.len(), 37 + 3 * 16);
    for (announced, len, served) in [
        (3, 85, 4),
        (2, 85, 3),
        (1, 85, 2),
        (9, 85, 4),
        (255, 84, 3),
        (3, 69, 3),
        (3, 68, 2),
        (3, 53, 2),
    ] {
        let bytes = with(full[..len].to_vec(), 36, announced);
        let answers = bench.answers(&bytes);
        let tags: Vec<u8> = answers.iter().map(|answer| answer[23]).collect();
        assert_eq!(
            tags,
            [0x20, 1, 2, 3][..served],
            "{announced} in {len} bytes"
        );
    }
    // Below 53 bytes there is no entry, and with none announced there is padding.
    for (announced, len) in [(3, 52), (1, 37), (1, 36), (0, 85)] {
        let mut bytes = full[..len].to_vec();
        if let Some(count) = bytes.get_mut(36) {
            *count = announced;
        }
        assert_eq!(
            bench.answer(&bytes).len(),
            548,
            "{announced} in {len} bytes"
        );
    }
}

#[test]
fn without_agreement_what_follows_a_read_is_padding() {
    let mut bench = bench();
    bench.answer(&from(J, coalesced(1, &[entry(1, 5, 1)])));
    assert_eq!(bench.actions.len(), 1);
    bench.extend(I, &["reset"]);
    bench.answer(&coalesced(1, &[entry(1, 5, 1)]));
    assert_eq!(bench.actions.len(), 2);
}

/// Zeros behind a read are padding also with the extension, and other commands have no entries.
#[test]
fn other_frames_are_what_they_were() {
    let mut bench = bench();
    let mut probe = ata(Opcode::ReadExt, 8, 2);
    probe.resize(1514, 0);
    assert_eq!(bench.answer(&probe).len(), 36 + 1024);
    let data = [1; 512];
    assert_eq!(
        bench.answer(&ata_with(Opcode::WriteExt, 8, 1, &data))[27],
        0x40
    );
    assert_eq!(bench.disk[8 * 512..9 * 512], data);
    let identify = ata_with(Opcode::Identify, 0, 1, &data);
    assert_eq!(bench.answer(&identify).len(), 548);
}

#[test]
fn as_many_reads_as_a_frame_announces() {
    let mut bench = Bench::with_mtu(9000);
    bench.extend(I, &["coalesced_read"]);
    let entries: Vec<_> = (0..255).map(|n| entry(n, 5, 1)).collect();
    assert_eq!(bench.answers(&coalesced(255, &entries)).len(), 256);
}

#[test]
fn a_reservation_by_another_refuses_all_of_them() {
    let mut bench = bench();
    bench.answer(&reserve(J, ReserveCommand::Set, &[J]));
    let answers = bench.answers(&coalesced(1, &[entry(1, 5, 1)]));
    assert_eq!(answers.len(), 2);
    assert!(
        answers
            .iter()
            .all(|a| a[14..16] == [0x1C, 6] && a.len() == 60)
    );
    assert_eq!((answers[0][23], answers[1][23]), (0x20, 1));
}

#[test]
fn each_read_has_its_own_checksum() {
    let mut bench = bench();
    bench.extend(I, &["crc8x4"]);
    bench.disk[8 * 512..9 * 512].fill(0x5A);
    let answers = bench.answers(&coalesced(1, &[entry(1, 8, 1)]));
    assert_eq!(answers[0][548..], hex("6f0c0c0f"));
    assert_eq!(answers[1].len(), 552);
    // The reserved bytes of the second differ, and so do the lanes they are in: 2 and 3.
    assert_eq!(answers[1][548..550], answers[0][548..550]);
    assert_ne!(answers[1][550], answers[0][550]);
    assert_ne!(answers[1][551], answers[0][551]);
}

/// When buffers end, the rest is left: the owner stops asking.
#[test]
fn reads_that_find_no_buffer_stay_unasked() {
    let mut bench = bench();
    let entries: Vec<_> = (1..=3).map(|n| entry(n, 5, 1)).collect();
    let bytes = coalesced(3, &entries);
    let (frame, _) = bench.exports.screen(&bench.port, &bytes).unwrap();
    let arrival = bench.arrival();
    let mut out = [POISON; 1514];
    let outcome = bench.target().handle_frame(&arrival, &frame, &mut out);
    let Outcome::Reads(mut reads) = outcome else {
        panic!("{outcome:?}");
    };
    for left in [3, 2] {
        let outcome = bench.target().next_read(&arrival, &mut reads, &mut out);
        assert!(matches!(outcome, Some(Outcome::Disk(_))));
        assert_eq!(reads.left(), left);
    }
    assert_eq!(bench.target().stats().reads, 2);
}

/// Coalesced reads do not move the window of tags (§9.2, 1).
#[test]
fn tags_of_reads_are_not_tracked() {
    let mut bench = bench();
    bench.extend(I, &["tag_inc_be"]);
    let write = |tag| tagged(ata_with(Opcode::WriteExt, 0, 1, &[7; 512]), tag);
    bench.answer(&write([0, 1, 0, 0]));
    let mut far = entry(1, 5, 1);
    far[0] = 0x40;
    bench.answers(&coalesced(1, &[far]));
    bench.answer(&write([0, 1, 0, 1]));
    assert_eq!(bench.target().stats().writes, 2);
}

/// What is ready in one turn, merged as a worker does it.
struct Turn {
    replies: WriteReplies,
    outbox: Vec<(usize, Vec<u8>)>,
}

impl Turn {
    fn new() -> Self {
        Self {
            replies: WriteReplies::new(8),
            outbox: Vec::new(),
        }
    }

    fn finish(
        &mut self,
        bench: &mut Bench,
        request: Request,
        result: Result<(), DeviceFailure>,
        seat: usize,
    ) {
        let key = request.merge_key(0, seat);
        let mut out = vec![POISON; bench.port.frame_bytes()];
        let len = bench.target().handle_done(request, result, &mut out);
        self.send(key, len, out);
    }

    fn send(&mut self, key: Option<MergeKey>, len: usize, out: Vec<u8>) {
        if let Some(key) = key {
            if let Some(place) = self.replies.place(key) {
                let (first_len, first) = &mut self.outbox[place];
                if let Some(longer) = merge_write_response(first, *first_len, &out[..len]) {
                    *first_len = longer;
                    return;
                }
            }
            self.replies.set_place(key, self.outbox.len());
        }
        self.outbox.push((len, out));
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let frame = |(len, bytes): &(usize, Vec<u8>)| bytes[..*len].to_vec();
        self.outbox.iter().map(frame).collect()
    }
}

fn write(bench: &mut Bench, mac: MacAddr, tag: u8, lba: u64) -> Request {
    let bytes = tagged(
        ata_with(Opcode::WriteExt, lba, 1, &[7; 512]),
        [0, 0, 0, tag],
    );
    match bench.see(&from(mac, bytes)) {
        Seen::Disk(request, ..) => request,
        seen => panic!("{seen:?}"),
    }
}

#[test]
fn write_responses_that_are_ready_together_share_a_frame() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["coalesced_write_reply"]);
    let requests =
        [(0x31, 24), (0x32, 8), (0x33, 16)].map(|(tag, lba)| write(&mut bench, I, tag, lba));
    let [first, second, third] = requests;
    let mut turn = Turn::new();
    turn.finish(&mut bench, second, Ok(()), 0);
    turn.finish(&mut bench, third, Ok(()), 0);
    turn.finish(&mut bench, first, Err(DeviceFailure::Fault), 0);
    let expected = hex("02000000000b 02000000000a 88a2
         18 00 0001 01 00 00000032 41 00 00 40 080000000000 0000 02
         00000033 100000000000 00 40 00 000000
         00000031 180000000000 04 61 01 000000");
    assert_eq!(turn.frames(), [expected]);
}

#[test]
fn a_write_response_alone_is_an_ordinary_one() {
    let mut bench = Bench::new(settings());
    let plain = write(&mut bench, J, 1, 8);
    let mut out = vec![POISON; 1514];
    assert_eq!(plain.merge_key(0, 0), None);
    let len = bench.target().handle_done(plain, Ok(()), &mut out);
    let ordinary = out[..len].to_vec();

    bench.extend(J, &["coalesced_write_reply"]);
    let alone = write(&mut bench, J, 1, 8);
    let mut turn = Turn::new();
    turn.finish(&mut bench, alone, Ok(()), 0);
    assert_eq!(turn.frames(), [ordinary]);
    // What is ready later is another turn's.
    turn.replies.clear();
    let later = write(&mut bench, J, 2, 8);
    turn.finish(&mut bench, later, Ok(()), 0);
    assert_eq!(turn.frames().len(), 2);
}

#[test]
fn only_write_responses_to_one_initiator_by_one_port_share_a_frame() {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        ..settings()
    });
    bench.extend(I, &["coalesced_write_reply"]);
    bench.extend(J, &["coalesced_write_reply"]);
    let mut turn = Turn::new();
    for (mac, seat) in [(I, 0), (J, 0), (I, 1), (I, 0), (J, 0), (I, 1)] {
        let request = write(&mut bench, mac, 1, 8);
        turn.finish(&mut bench, request, Ok(()), seat);
    }
    let counts: Vec<_> = turn
        .frames()
        .iter()
        .map(|f| (f[5], f[36], f.len()))
        .collect();
    assert_eq!(counts, [(0x0B, 1, 60), (0x0C, 1, 60), (0x0B, 1, 60)]);
    let keys = [(0, 0), (1, 0), (0, 1)]
        .map(|(export, seat)| write(&mut bench, I, 1, 8).merge_key(export, seat).unwrap());
    assert!(keys[0] != keys[1] && keys[0] != keys[2]);

    // Reads, flushes and TRIMs are answered alone.
    let trim = with(ata_with(Opcode::DataSetManagement, 0, 1, &[0; 512]), 25, 1);
    for bytes in [
        ata(Opcode::ReadExt, 0, 1),
        ata(Opcode::FlushCacheExt, 0, 0),
        trim,
    ] {
        let Seen::Disk(request, ..) = bench.see(&bytes) else {
            panic!("a request for the disk");
        };
        assert_eq!(request.merge_key(0, 0), None);
    }
}

#[test]
fn a_full_frame_of_write_responses_is_followed_by_another() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["coalesced_write_reply"]);
    let mut turn = Turn::new();
    for tag in 0..100 {
        let request = write(&mut bench, I, tag, 8);
        turn.finish(&mut bench, request, Ok(()), 0);
    }
    let frames = turn.frames();
    // 93 at MTU 1500, and the rest.
    let counts: Vec<_> = frames.iter().map(|f| (f[23], f[36], f.len())).collect();
    assert_eq!(counts, [(0, 92, 1509), (93, 6, 133)]);
    assert_eq!(frames[0][37 + 91 * 16..][..4], [0, 0, 0, 92]);
}

#[test]
fn more_initiators_than_places_are_answered_alone() {
    let mut bench = Bench::new(settings());
    let mut turn = Turn::new();
    turn.replies = WriteReplies::new(1);
    for mac in [I, J, J, I] {
        bench.extend(mac, &["coalesced_write_reply"]);
        let request = write(&mut bench, mac, 1, 8);
        turn.finish(&mut bench, request, Ok(()), 0);
    }
    let counts: Vec<_> = turn.frames().iter().map(|f| (f[5], f[36])).collect();
    assert_eq!(counts, [(0x0B, 1), (0x0C, 0), (0x0C, 0)]);
}
