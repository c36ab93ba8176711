//! Several paths: failover, and what happens when one comes back.

use std::time::Duration;

use aoede_initiator::{Answer, Error, Notice, PortId, Request, Settings};
use aoede_target::Action;
use aoede_wire::{MacAddr, Opcode};

use crate::bench::{Bench, I, J, T, U, Way, ms, quick};
use crate::target::{ALL, Speaks};

fn write_at(lba: u64, byte: u8) -> Request<Vec<u8>> {
    Request::Write {
        lba,
        buffer: vec![byte; 512],
    }
}

/// Two ports, one target MAC on each of two segments.
fn two_segments(speaks: Speaks, settings: Settings) -> Bench {
    let mut bench = Bench::new(1500, speaks, settings);
    bench.add_station(U, 1500, None);
    bench.add_port(J, 1500);
    bench.loses = segments(|_| false);
    bench.attach();
    assert_eq!(bench.session.paths().filter(|path| path.ready).count(), 2);
    bench
}

/// I and T are on one segment, J and U on the other; `dead` ones let nothing pass.
fn segments(dead: impl Fn(MacAddr) -> bool + 'static) -> crate::bench::Loses {
    Box::new(move |way, frame| {
        let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
        let (target, initiator) = match way {
            Way::Request => (mac(0), mac(6)),
            Way::Response => (mac(6), mac(0)),
        };
        let crosses = matches!((target, initiator), (T, J) | (U, I));
        crosses || dead(initiator)
    })
}

#[test]
fn a_dead_path_costs_no_request() {
    for speaks in [Speaks::Nothing, ALL] {
        let mut bench = two_segments(speaks, quick());
        bench.loses = segments(|mac| mac == I);
        for lba in 0..100 {
            bench.submit(write_at(lba, lba as u8 + 1));
        }
        let start = bench.now;
        while !bench.session.is_idle() && bench.now.since(start) < Duration::from_secs(5) {
            bench.run(ms(10));
        }
        assert_eq!(bench.done.len(), 100, "{speaks:?}");
        assert!(
            bench
                .done
                .iter()
                .all(|done| done.result == Ok(Answer::Done))
        );
        assert!(bench.now.since(start) < Duration::from_secs(1));
        for lba in 0..100 {
            assert_eq!(bench.models[0].disk[lba * 512], lba as u8 + 1);
        }
        bench.run(Duration::from_secs(2));
        assert!(bench.notices.contains(&Notice::PathLost {
            port: PortId(0),
            mac: T
        }));
        // Later requests know.
        let before = bench.stats().timed_out;
        bench.write(1, vec![0; 512]).unwrap();
        assert_eq!(bench.stats().timed_out, before);

        bench.loses = segments(|_| false);
        bench.notices.clear();
        bench.run(Duration::from_secs(15));
        assert!(bench.notices.contains(&Notice::PathReady {
            port: PortId(0),
            mac: T
        }));
        bench.sent.clear();
        for lba in 0..20 {
            bench.submit(write_at(lba, 9));
        }
        bench.run(ms(100));
        let by = |mac: MacAddr| {
            let sent = bench.sent_ata(Opcode::WriteExt);
            sent.iter()
                .filter(|(frame, _)| frame.header.source == mac)
                .count()
        };
        assert_eq!(by(I) + by(J), 20);
        assert!(by(I) >= 2 && by(J) >= 2, "{} and {}", by(I), by(J));
    }
}

#[test]
fn a_port_that_goes_down_gives_its_requests_away_at_once() {
    let mut bench = two_segments(Speaks::Nothing, quick());
    for lba in 0..8 {
        bench.submit(write_at(lba, 1));
    }
    let out = bench.transmit();
    assert_eq!(out.iter().filter(|(port, _)| *port == PortId(0)).count(), 4);
    for (port, frame) in &out {
        if *port == PortId(1) {
            for answer in bench.deliver(frame) {
                bench.receive(*port, &answer);
            }
        }
    }
    let before = bench.now;
    bench.set_port(PortId(0), |port| port.up = false);
    bench.exchange();
    assert_eq!(bench.done.len(), 8);
    assert!(bench.now.since(before) < ms(1));
    assert_eq!(bench.stats().timed_out, 0);
}

#[test]
fn a_response_to_the_first_copy_counts_when_the_second_went_elsewhere() {
    let mut bench = two_segments(Speaks::Nothing, quick());
    let id = bench.submit(write_at(3, 1));
    let (port, frame) = bench.transmit().remove(0);
    bench.now += ms(50);
    bench.session.handle_timeout(bench.now);
    let frames = bench.transmit();
    let (other, copy) = frames.iter().find(|(_, frame)| frame[27] == 0x34).unwrap();
    assert_ne!(port, *other);
    assert_eq!(frame[20..24], copy[20..24], "the tag");
    let answers = bench.deliver(&frame);
    bench.receive(port, &answers[0]);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
}

/// A target in a machine that is made anew again and again has a new MAC each time. When as many
/// were known as there is room for, the next one was not heard.
#[test]
fn silent_paths_make_room_for_new_ones() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let mac = |number: u8| MacAddr([2, 0, 0, 0, 1, number]);
    let mut most = 0;
    for number in 0..70 {
        bench.stations[0].facts.mac = mac(number);
        bench.announce(0);
        let data = vec![number; 512];
        assert_eq!(bench.write(number.into(), data), Ok(Answer::Done));
        // What is asked by the old path is not answered.
        bench.write(0, vec![0; 512]).unwrap();
        bench.run(Duration::from_secs(10));
        let ready = bench.session.paths().filter(|path| path.ready);
        assert_eq!(
            ready.map(|path| path.mac).collect::<Vec<_>>(),
            [mac(number)]
        );
        most = most.max(bench.session.paths().count());
    }
    assert_eq!(bench.models[0].disk[69 * 512], 69);
    assert_eq!(most, 32);
}

/// A path that has come back is measured, half a second without requests. When the other failed
/// meanwhile, all stood still until the end of that (found over real cables).
#[test]
fn a_measurement_does_not_keep_requests_from_the_last_path() {
    let probes = |bench: &Bench| {
        let sent = bench.sent.iter();
        sent.filter(|frame| frame[26..].starts_with(b"congestion\0"))
            .map(|frame| frame[6..12] == J.0)
            .collect::<Vec<_>>()
    };
    let lose = |bench: &mut Bench, dead: fn(MacAddr) -> bool| {
        bench.loses = segments(dead);
        for lba in 0..40 {
            bench.submit(write_at(lba, 1));
        }
        bench.run(Duration::from_secs(1));
        bench.sent.clear();
    };
    let comes_back = |bench: &mut Bench, port| {
        bench.notices.clear();
        let back =
            |notice: &Notice| matches!(notice, Notice::PathReady { port: at, .. } if *at == port);
        while !bench.notices.iter().any(back) {
            bench.run(ms(1));
        }
    };
    let mut bench = two_segments(ALL, Settings::default());
    bench.run(Duration::from_secs(2));
    lose(&mut bench, |mac| mac == J);
    bench.loses = segments(|_| false);
    comes_back(&mut bench, PortId(1));
    bench.run(ms(50));
    assert!(!probes(&bench).is_empty() && probes(&bench).iter().all(|&by_j| by_j));

    bench.loses = segments(|mac| mac == I);
    bench.done.clear();
    for lba in 0..40 {
        bench.submit(write_at(lba, 2));
    }
    bench.run(ms(150));
    assert_eq!(bench.done.len(), 40);
    // Nor does a measurement begin while the other path is dead, but afterwards.
    lose(&mut bench, |_| true);
    bench.loses = segments(|mac| mac == I);
    comes_back(&mut bench, PortId(1));
    bench.run(Duration::from_secs(5));
    assert_eq!(probes(&bench), []);
    bench.loses = segments(|_| false);
    comes_back(&mut bench, PortId(0));
    bench.run(Duration::from_secs(5));
    assert!(probes(&bench).contains(&true) && probes(&bench).contains(&false));
}

#[test]
fn when_every_path_is_dead_requests_wait_for_the_first_that_returns() {
    let mut bench = two_segments(ALL, quick());
    bench.loses = segments(|_| true);
    let id = bench.submit(write_at(3, 7));
    bench.run(Duration::from_secs(60));
    assert!(bench.done.is_empty());
    assert_eq!(bench.session.paths().filter(|path| path.ready).count(), 0);
    bench.loses = segments(|mac| mac == I);
    let end = bench.now + Duration::from_secs(15);
    while !bench.session.paths().any(|path| path.ready) && bench.now < end {
        bench.run(ms(10));
    }
    // At once, though its last copy went the way that is still dead.
    let done = bench.wait(id, ms(20));
    assert_eq!(done.result, Ok(Answer::Done));
    assert_eq!(bench.models[0].disk[3 * 512], 7);

    let settings = Settings {
        give_up: Duration::from_secs(5),
        ..quick()
    };
    let mut bench = two_segments(ALL, settings);
    bench.loses = segments(|_| true);
    assert_eq!(bench.write(3, vec![7; 512]), Err(Error::Silent));
}

/// Nothing was agreed on for the new MAC when the write left by it, and its window does not know
/// the copy that left by the old one.
#[test]
fn a_port_that_is_renamed_repeats_writes_as_if_by_another() {
    let mut bench = Bench::attached(1500, ALL);
    let id = bench.submit(write_at(5, 1));
    let late = bench.transmit();
    bench.set_port(PortId(0), |port| port.mac = MacAddr([2, 0, 0, 0, 0, 0x0D]));
    assert_eq!(bench.wait(id, ms(50)).result, Ok(Answer::Done));
    // The next can go by another port, which need not wait.
    bench.add_port(J, 1500);
    stays_closed_to_late_copies(&mut bench, &late[0].1);
    assert!(bench.session.paths().all(|path| path.features.tags));
}

/// A target that did not answer for long has been started anew, perhaps.
#[test]
fn a_write_that_is_repeated_on_a_silent_path_is_not_trusted_to_be_known() {
    let mut bench = Bench::attached(1500, ALL);
    let id = bench.submit(write_at(5, 1));
    let late = bench.transmit();
    bench.loses = Box::new(|_, _| true);
    bench.run(Duration::from_secs(2));
    assert!(!bench.path(0).ready);
    bench.models[0].restart();
    bench.loses = Box::new(|_, frame| frame[19] == 0 && frame[27] == 0xEC);
    let done = bench.wait(id, Duration::from_secs(5));
    assert_eq!(done.result, Ok(Answer::Done));
    stays_closed_to_late_copies(&mut bench, &late[0].1);
}

/// Another write of the same sector waits until the copy of the first must have come.
fn stays_closed_to_late_copies(bench: &mut Bench, late: &[u8]) {
    let next = bench.submit(write_at(5, 2));
    bench.run(ms(150));
    bench.deliver(late);
    assert_eq!(bench.models[0].disk[5 * 512], 1);
    assert_eq!(bench.wait(next, ms(200)).result, Ok(Answer::Done));
    assert_eq!(bench.models[0].disk[5 * 512], 2);
}

/// A path with a small frame size must not be given what only the other can carry.
#[test]
fn each_path_carries_what_it_can() {
    let mut bench = Bench::new(9000, Speaks::Nothing, quick());
    bench.add_port(J, 1500);
    bench.attach();
    let data: Vec<u8> = (0..100 * 512_u32).map(|i| (i / 100) as u8).collect();
    bench.write(0, data.clone()).unwrap();
    assert_eq!(bench.read(0, 100), data);
    let longest = |mac: MacAddr| {
        let from = bench.sent.iter().filter(|frame| frame[6..12] == mac.0);
        from.map(Vec::len).max().unwrap()
    };
    assert_eq!((longest(I), longest(J)), (36 + 17 * 512, 36 + 1024));
    assert_eq!(bench.stats().repeated, 0);
}

/// The target restarts and says nothing: data comes without a checksum.
#[test]
fn a_missing_checksum_means_that_the_target_has_forgotten() {
    let mut settings = quick();
    settings.wanted.crc8x4 = true;
    let mut bench = Bench::new(1500, ALL, settings);
    bench.attach();
    assert!(bench.path(0).features.crc8x4);
    bench.run(Duration::from_secs(2));
    bench.models[0].restart();
    bench.models[0].disk[0] = 9;
    assert_eq!(bench.read(0, 2)[0], 9);
    assert_eq!(bench.stats().negotiations, 2);
    assert!(bench.path(0).features.crc8x4);
}

#[test]
fn damaged_data_is_not_believed() {
    let mut settings = quick();
    settings.wanted.crc8x4 = true;
    let mut bench = Bench::new(1500, ALL, settings);
    bench.attach();
    let data = vec![0x33; 1024];
    let id = bench.submit(Request::Write {
        lba: 4,
        buffer: data.clone(),
    });
    let (port, mut frame) = bench.transmit().remove(0);
    assert_eq!(frame.len(), 36 + 1024 + 4);
    frame[500] ^= 4;
    assert!(bench.deliver(&frame).is_empty());
    frame[500] ^= 4;
    let answers = bench.deliver(&frame);
    bench.receive(port, &answers[0]);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));

    let buffer = vec![0; 1024];
    let id = bench.submit(Request::Read { lba: 4, buffer });
    let (port, frame) = bench.transmit().remove(0);
    let answer = bench.deliver(&frame).remove(0);
    // Every single bit, from the task file on.
    for bit in 24 * 8..answer.len() * 8 {
        let mut damaged = answer.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        bench.session.handle_frame(bench.now, port, &damaged);
        bench.take_events();
        assert!(bench.done.is_empty(), "bit {bit}");
    }
    bench.receive(port, &answer);
    assert_eq!(bench.wait(id, ms(1)).buffer.unwrap(), data);
}

/// When a path has been silent its extensions are agreed on anew. Answers that come before that, to
/// what was asked long ago, have their checksum still (found by the simulation: seed 12784 of the
/// whole took damaged data for good).
#[test]
fn damaged_data_is_not_believed_while_a_path_comes_back() {
    let mut settings = quick();
    settings.wanted.crc8x4 = true;
    settings.wanted.tags = false;
    let mut bench = Bench::new(1500, ALL, settings);
    bench.attach();
    bench.models[0].disk[4 * 512..5 * 512].fill(0x33);
    let buffer = vec![0; 512];
    let id = bench.submit(Request::Read { lba: 4, buffer });
    let (port, frame) = bench.transmit().remove(0);
    let answer = bench.deliver(&frame).remove(0);
    bench.loses = Box::new(|_, _| true);
    bench.run(Duration::from_secs(2));
    assert_eq!(bench.stats().paths_lost, 1);

    bench.loses = Box::new(|_, _| false);
    let identify = loop {
        bench.now = bench.session.poll_timeout().unwrap();
        bench.session.handle_timeout(bench.now);
        let sent = bench.transmit();
        if let Some((_, frame)) = sent.into_iter().find(|(_, frame)| frame[27] == 0xEC) {
            break frame;
        }
    };
    for answer in bench.deliver(&identify) {
        bench.receive(port, &answer);
    }
    assert!(!bench.path(0).ready, "nothing is agreed on anew yet");
    let mut damaged = answer.clone();
    damaged[100] ^= 4;
    bench.receive(port, &damaged);
    bench.take_events();
    assert!(bench.done.is_empty());
    bench.receive(port, &answer);
    assert_eq!(bench.wait(id, ms(1)).buffer.unwrap(), [0x33; 512]);
}

/// A request may be damaged into another that succeeds: a WRITE into a READ, a FLUSH into CHECK
/// POWER MODE. None of these may pass for what was asked.
#[test]
fn no_bit_flipped_in_a_request_passes_for_its_success() {
    for (crc32c, tags) in [(false, false), (true, false), (true, true)] {
        let mut settings = quick();
        settings.wanted.crc8x4 = !crc32c;
        settings.wanted.crc32c = crc32c;
        settings.wanted.tags = tags;
        no_bit_passes(&settings);
    }
}

/// What the disk holds may begin like entries of a shared response (found by the simulation: seed
/// 5844 of the whole took a damaged WRITE for done).
#[test]
fn a_write_damaged_into_a_read_is_not_answered_by_its_data() {
    for (first, mtu) in [(5, 1500), (32, 1500), (3, 9000)] {
        let mut settings = quick();
        settings.wanted.crc8x4 = true;
        settings.wanted.tags = false;
        let mut bench = Bench::new(mtu, ALL, settings);
        bench.attach();
        assert!(bench.path(0).features.coalesced_write_reply);
        bench.models[0].disk[5 * 512] = first;
        let id = bench.submit(write_at(5, 0));
        let (port, mut frame) = bench.transmit().remove(0);
        assert_eq!(frame[27], 0x34);
        frame[27] = 0x24;
        for answer in bench.deliver(&frame) {
            bench.receive(port, &answer);
        }
        bench.take_events();
        assert!(bench.done.is_empty(), "{first} entries");
        assert_eq!(bench.wait(id, ms(500)).result, Ok(Answer::Done));
        assert_eq!(bench.models[0].disk[5 * 512], 0);
    }
}

/// No checksum covers the tag: an answer with the tag of an IDENTIFY may be a read's, and the zeros
/// that it has would be a disk of no size (found by the simulation: seed 5844 of the whole fell
/// silent).
#[test]
fn data_with_the_tag_of_an_identify_is_no_identity() {
    let mut settings = quick();
    settings.wanted.crc32c = true;
    settings.wanted.tags = false;
    let mut bench = Bench::new(1500, ALL, settings);
    bench.attach();
    let id = bench.submit(Request::Read {
        lba: 4,
        buffer: vec![0; 512],
    });
    let (port, frame) = bench.transmit().remove(0);
    let read = bench.deliver(&frame).remove(0);
    let identify = bench.submit(Request::Identify);
    let (_, frame) = bench.transmit().remove(0);
    assert_eq!(frame[27], 0xEC);
    let mut damaged = read.clone();
    damaged[20..24].copy_from_slice(&frame[20..24]);
    bench.receive(port, &damaged);
    bench.take_events();
    assert!(bench.done.is_empty());
    for answer in bench.deliver(&frame) {
        bench.receive(port, &answer);
    }
    let done = bench.wait(identify, ms(1));
    assert!(matches!(done.result, Ok(Answer::Identity(found)) if found.sectors > 0));
    bench.receive(port, &read);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
}

fn no_bit_passes(settings: &Settings) {
    let requests: [fn() -> Request<Vec<u8>>; 4] = [
        || write_at(5, 7),
        || Request::Read {
            lba: 9,
            buffer: vec![0; 512],
        },
        || Request::Flush,
        || Request::Trim { lba: 3, sectors: 1 },
    ];
    for (kind, request) in requests.into_iter().enumerate() {
        let mut successes = 0;
        for bit in 14 * 8..36 * 8 {
            let mut bench = Bench::new(1500, ALL, settings.clone());
            bench.attach();
            for lba in 0..64 {
                bench.models[0].disk[lba * 512..][..512].fill(lba as u8 + 100);
            }
            bench.submit(request());
            let (port, mut frame) = bench.transmit().remove(0);
            frame[bit / 8] ^= 1 << (bit % 8);
            for answer in bench.deliver(&frame) {
                bench.receive(port, &answer);
            }
            bench.take_events();
            let Some(done) = bench.done.first().filter(|done| done.result.is_ok()) else {
                continue;
            };
            successes += 1;
            let model = &bench.models[0];
            let kept = match kind {
                0 => model.disk[5 * 512..6 * 512] == [7; 512],
                1 => done.buffer.as_deref() == Some(&[109; 512]),
                2 => model.actions.contains(&Action::Flush),
                _ => model.disk[3 * 512..4 * 512] == [0; 512],
            };
            assert!(kept, "request {kind}, bit {bit}");
        }
        assert!(successes > 0, "some bits mean nothing");
    }
}
