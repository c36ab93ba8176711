//! Write responses that share a frame (§18.1): each entry is believed as far as an ordinary response
//! would be, and no further.

use aoede_initiator::{Answer, Error, PortId, Registers, Request, RequestId};
use aoede_wire::{Ata, CoalescedWrite, CoalescedWrites, Frame, Status, Tag};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{Bench, J, U, ms};
use crate::target::{ALL, Speaks};

/// The entry that stands for an ordinary response.
fn entry(answer: &[u8]) -> CoalescedWrite {
    let frame = Frame::decode(answer).unwrap();
    CoalescedWrite::of(frame.header.tag, &Ata::decode(frame.argument).unwrap())
}

/// One frame: an ordinary response, and these.
fn sharing(first: &[u8], further: impl IntoIterator<Item = CoalescedWrite>) -> Vec<u8> {
    let mut frame = [first, &[0; 6000]].concat();
    let mut len = first.len();
    for write in further {
        len = CoalescedWrites::append(&mut frame, len, write).unwrap();
    }
    frame.truncate(len);
    frame
}

/// Attached, with writes of one sector under way at these addresses: their ids, and the ordinary
/// responses.
fn writing(lbas: &[u64]) -> (Bench, Vec<RequestId>, Vec<Vec<u8>>) {
    let mut bench = Bench::attached(1500, ALL);
    let (ids, answers) = write(&mut bench, lbas);
    (bench, ids, answers)
}

fn write(bench: &mut Bench, lbas: &[u64]) -> (Vec<RequestId>, Vec<Vec<u8>>) {
    // With a window that holds them all.
    for lba in 1000..1100 {
        bench.read(lba, 1);
    }
    let ids = lbas.iter().map(|&lba| {
        let buffer = vec![7; 512];
        bench.submit(Request::Write { lba, buffer })
    });
    let ids = ids.collect();
    let requests = bench.transmit();
    let answers = requests.iter().flat_map(|(_, frame)| bench.deliver(frame));
    (ids, answers.collect())
}

type Change = fn(&mut CoalescedWrite);

/// What is done now.
fn done(bench: &mut Bench) -> Vec<RequestId> {
    bench.take_events();
    bench.done.iter().map(|done| done.id).collect()
}

#[test]
fn one_frame_ends_many_writes() {
    let lbas: Vec<u64> = (0..20).collect();
    let (mut bench, ids, answers) = writing(&lbas);
    let before = bench.stats();
    let frame = sharing(&answers[0], answers[1..].iter().map(|answer| entry(answer)));
    assert_eq!(frame.len(), 37 + 19 * 16);
    bench.receive(PortId(0), &frame);
    assert_eq!(done(&mut bench), ids);
    assert!(
        bench
            .done
            .iter()
            .all(|done| done.result == Ok(Answer::Done))
    );
    let stats = bench.stats();
    assert_eq!(stats.coalesced_replies - before.coalesced_replies, 19);
    assert_eq!(stats.answered - before.answered, 20);
    assert_eq!((stats.late, stats.unmatched, stats.damaged), (0, 0, 0));
}

/// The pieces of one long write, and a failure among them.
#[test]
fn entries_belong_to_pieces_of_requests() {
    let mut bench = Bench::attached(1500, ALL);
    for _ in 0..100 {
        bench.read(0, 1);
    }
    // Two sectors a frame.
    let id = bench.submit(Request::Write {
        lba: 30,
        buffer: vec![1; 6 * 512],
    });
    let requests = bench.transmit();
    let answers: Vec<_> = requests
        .iter()
        .flat_map(|(_, frame)| bench.deliver(frame))
        .collect();
    assert_eq!(answers.len(), 3);
    let failed = CoalescedWrite {
        error: 4,
        status: Status(0x61),
        count: 2,
        ..entry(&answers[1])
    };
    bench.receive(
        PortId(0),
        &sharing(&answers[2], [failed, entry(&answers[0])]),
    );
    let registers = Registers {
        status: Status(0x61),
        error: 4,
        not_done: 2,
        lba: 32,
    };
    assert_eq!(
        bench.wait(id, ms(0)).result,
        Err(Error::Device { registers })
    );
}

#[test]
fn an_entry_that_does_not_fit_its_request_harms_nothing_else() {
    // What is wrong with an entry, and how it is counted.
    let wrongs: [(Change, &str); 8] = [
        (|write| write.lba[0] ^= 1, "damaged"),
        (|write| write.lba[5] = 1, "damaged"),
        (|write| write.error = 4, "damaged"),
        (|write| write.count = 1, "damaged"),
        (|write| write.status = Status(0x41), "damaged"),
        (
            |write| {
                (write.error, write.status, write.count) = (4, Status(0x61), 2);
            },
            "damaged",
        ),
        (|write| write.tag = Tag([0xEE; 4]), "unmatched"),
        // Answered, long ago.
        (
            |write| write.tag.0[3] = write.tag.0[3].wrapping_sub(10),
            "late",
        ),
    ];
    for (number, (wrong, counted)) in wrongs.into_iter().enumerate() {
        let (mut bench, ids, answers) = writing(&[5, 6, 7]);
        let mut bad = entry(&answers[1]);
        wrong(&mut bad);
        bench.receive(PortId(0), &sharing(&answers[0], [bad, entry(&answers[2])]));
        assert_eq!(done(&mut bench), [ids[0], ids[2]], "{number}");
        let stats = bench.stats();
        let (damaged, unmatched, late) = (stats.damaged, stats.unmatched, stats.late);
        let expected = match counted {
            "damaged" => (1, 0, 0),
            "unmatched" => (0, 1, 0),
            _ => (0, 0, 1),
        };
        assert_eq!((damaged, unmatched, late), expected, "{number}");
        // It is sent again, and ends.
        bench.run(ms(1000));
        assert!(done(&mut bench).contains(&ids[1]));
    }
}

#[test]
fn a_first_response_that_does_not_fit_harms_nothing_else() {
    let (mut bench, ids, mut answers) = writing(&[5, 6, 7]);
    answers[0][28] ^= 1;
    let further = [entry(&answers[1]), entry(&answers[2])];
    bench.receive(PortId(0), &sharing(&answers[0], further));
    assert_eq!(done(&mut bench), ids[1..]);
    assert_eq!(bench.stats().damaged, 1);
}

#[test]
fn entries_of_requests_that_are_over_are_late() {
    let (mut bench, ids, answers) = writing(&[5, 6, 7]);
    let further = || answers[1..].iter().map(|answer| entry(answer));
    bench.receive(PortId(0), &answers[1]);
    bench.receive(PortId(0), &sharing(&answers[0], further()));
    assert_eq!(done(&mut bench), [ids[1], ids[0], ids[2]]);
    assert_eq!(bench.stats().late, 1);
    // The frame comes twice, and one of its entries too.
    bench.receive(PortId(0), &sharing(&answers[0], further().chain(further())));
    assert_eq!(bench.stats().late, 1 + 5);
    assert_eq!(bench.done.len(), 3);
}

/// A write that is sent again is the same request: the answer to its first copy ends it.
#[test]
fn entries_answer_what_was_sent_again() {
    let (mut bench, ids, answers) = writing(&[5, 6]);
    bench.now += ms(2000);
    bench.session.handle_timeout(bench.now);
    let again = bench.transmit();
    assert!(
        again
            .iter()
            .any(|(_, frame)| frame[20..24] == answers[1][20..24])
    );
    bench.receive(PortId(0), &sharing(&answers[0], [entry(&answers[1])]));
    assert_eq!(done(&mut bench), ids);
    assert!(bench.stats().repeated > 0);
}

/// Neither reads nor trims nor flushes are answered in another's frame.
#[test]
fn only_writes_are_answered_in_anothers_frame() {
    let others: [fn() -> Request<Vec<u8>>; 4] = [
        || Request::Read {
            lba: 9,
            buffer: vec![0xEE; 512],
        },
        || Request::Trim { lba: 9, sectors: 1 },
        || Request::Flush,
        || Request::Identify,
    ];
    for other in others {
        let mut bench = Bench::attached(1500, ALL);
        let other = bench.submit(other());
        let (_, request) = bench.transmit().remove(0);
        let (ids, answers) = {
            let buffer = vec![7; 512];
            let id = bench.submit(Request::Write { lba: 5, buffer });
            let (_, frame) = bench.transmit().remove(0);
            (id, bench.deliver(&frame))
        };
        let [l0, l1, l2, l3, l4, l5] = <[u8; 6]>::try_from(&request[28..34]).unwrap();
        let forged = CoalescedWrite {
            tag: Tag(request[20..24].try_into().unwrap()),
            lba: [l0, l1, l2, l3, l4, l5],
            error: 0,
            status: Status::GOOD,
            count: 0,
        };
        bench.receive(PortId(0), &sharing(&answers[0], [forged]));
        assert_eq!(done(&mut bench), [ids]);
        assert_eq!(bench.stats().damaged, 1);
        // A flush and a trim have half a minute.
        assert!(bench.wait(other, ms(40_000)).result.is_ok());
    }
}

/// What a disk holds may look like a list of responses.
#[test]
fn the_data_of_a_read_is_no_list_of_responses() {
    let mut bench = Bench::attached(1500, ALL);
    for _ in 0..50 {
        bench.read(0, 1);
    }
    let buffer = vec![7; 512];
    let write = bench.submit(Request::Write { lba: 5, buffer });
    let (_, frame) = bench.transmit().remove(0);
    let answer = bench.deliver(&frame).remove(0);
    let mut forged = vec![1];
    forged.extend(entry(&answer).to_bytes());
    bench.models[0].disk[9 * 512..][..17].copy_from_slice(&forged);
    let buffer = vec![0; 512];
    let read = bench.submit(Request::Read { lba: 9, buffer });
    let (port, frame) = bench.transmit().remove(0);
    let answer = bench.deliver(&frame).remove(0);
    // In time, and late.
    for _ in 0..2 {
        bench.receive(port, &answer);
        assert_eq!(done(&mut bench), [read]);
    }
    assert_eq!(bench.done[0].buffer.as_ref().unwrap()[..17], forged);
    assert_eq!(bench.stats().late, 1);
    assert_eq!(bench.stats().coalesced_replies, 0);
    assert_eq!(bench.wait(write, ms(3000)).result, Ok(Answer::Done));
}

#[test]
fn a_frame_with_fewer_entries_than_it_announces_is_damaged() {
    let (mut bench, ids, answers) = writing(&[5, 6, 7, 8]);
    let mut frame = sharing(&answers[0], answers[1..].iter().map(|answer| entry(answer)));
    let whole = frame.clone();
    frame.pop();
    bench.receive(PortId(0), &frame);
    frame[36] = 255;
    bench.receive(PortId(0), &frame);
    assert_eq!(done(&mut bench), []);
    assert_eq!(bench.stats().damaged, 2);
    // What follows the last means nothing (§1).
    bench.receive(PortId(0), &[whole, vec![0xA5; 30]].concat());
    assert_eq!(done(&mut bench), ids);
    assert_eq!(bench.stats().damaged, 2);
}

/// Other targets leave old bytes behind their short responses (§3.4).
#[test]
fn without_agreement_what_follows_a_response_means_nothing() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let (ids, answers) = write(&mut bench, &[5, 6]);
    bench.receive(PortId(0), &sharing(&answers[0], [entry(&answers[1])]));
    assert_eq!(done(&mut bench), ids[..1]);
    let mut rubbish = answers[1].clone();
    rubbish[36..].fill(0xA5);
    bench.receive(PortId(0), &rubbish);
    assert_eq!(done(&mut bench), ids);
}

/// Only where a request was sent can it be answered (§15, 4).
#[test]
fn entries_answer_what_was_sent_on_their_path() {
    let mut bench = Bench::attached(1500, ALL);
    bench.add_port(J, 1500);
    bench.add_station(U, 1500, None);
    bench.run(ms(3000));
    assert!(bench.session.paths().filter(|path| path.ready).count() >= 2);
    let (ids, answers) = write(&mut bench, &[5, 6]);
    assert!(answers[0][..12] != answers[1][..12], "two paths");
    let frame = sharing(&answers[0], [entry(&answers[1])]);
    bench.receive(PortId(u8::from(frame[..6] == J.0)), &frame);
    assert_eq!(done(&mut bench), ids[..1]);
    assert_eq!(bench.stats().late, 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Whatever becomes of a frame with many responses, no write ends twice, or as something that
    /// no target said, and all end in time.
    #[test]
    fn changed_entries_are_harmless(
        changes in vec((36..400_usize, any::<u8>()), 0..40),
        first in vec((14..36_usize, any::<u8>()), 0..2),
        cut in proptest::option::of(0..400_usize),
        times in 1..3_usize,
    ) {
        let lbas: Vec<u64> = (0..16).map(|lba| 3 * lba).collect();
        let (mut bench, ids, answers) = writing(&lbas);
        let mut frame = sharing(&answers[0], answers[1..].iter().map(|answer| entry(answer)));
        for (at, value) in first.into_iter().chain(changes) {
            if let Some(byte) = frame.get_mut(at) {
                *byte = value;
            }
        }
        frame.truncate(cut.unwrap_or(400));
        for _ in 0..times {
            bench.receive(PortId(0), &frame);
        }
        bench.run(ms(400_000));
        let mut ended = done(&mut bench);
        ended.sort_unstable();
        prop_assert_eq!(ended, ids);
        prop_assert!(bench.session.is_idle());
    }
}
