//! The rules of §15, one by one. Those that a single unit keeps have further tests beside it.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use aoede_initiator::{
    Answer, Error, Notice, PortId, Refusal, Registers, Request, Settings, Wanted,
};
use aoede_target::{DeviceFailure, TargetSettings};
use aoede_wire::{
    Address, Ata, Body, Command, Config, ConfigCommand, Directive, DirectiveCode, ErrorCode, Frame,
    Header, MacAddr, MaskError, Opcode, ReserveCommand, Status,
};

use crate::bench::{Bench, E1_1, I, J, SECTORS, T, U, Way, ms, quick};
use crate::target::{ALL, OLD, Speaks, settings};

const SECOND: Duration = Duration::from_secs(1);

fn opcode(bytes: &[u8]) -> u8 {
    bytes[27]
}

fn is_ata(bytes: &[u8], wanted: u8) -> bool {
    bytes[19] == 0 && opcode(bytes) == wanted
}

fn read(sectors: usize) -> Request<Vec<u8>> {
    read_at(0, sectors)
}

fn read_at(lba: u64, sectors: usize) -> Request<Vec<u8>> {
    Request::Read {
        lba,
        buffer: vec![0xEE; 512 * sectors],
    }
}

fn write_at(lba: u64, sectors: usize, byte: u8) -> Request<Vec<u8>> {
    Request::Write {
        lba,
        buffer: vec![byte; 512 * sectors],
    }
}

/// A response to a request, as `change` makes it.
fn response<'a>(request: &'a [u8], change: impl FnOnce(&mut Header, &mut Ata<'a>)) -> Vec<u8> {
    let frame = Frame::decode(request).unwrap();
    let Ok(Body::Ata(ata)) = frame.body() else {
        panic!("no ATA")
    };
    let mut header = frame.header.response(frame.header.destination, E1_1);
    let mut ata = Ata {
        command_or_status: 0x40,
        count: 0,
        data: &[],
        ..ata
    };
    change(&mut header, &mut ata);
    let mut out = vec![0; 1514];
    let len = Body::Ata(ata).encode(header, &mut out).unwrap();
    out.truncate(len);
    out
}

#[test]
fn rule_1_targets_are_asked_for_by_broadcast_every_minute_and_when_a_port_comes_up() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.run(Duration::from_secs(200));
    let asked: Vec<_> = bench.sent_commands(Command::Config);
    for frame in &asked {
        assert_eq!(frame.header.destination, MacAddr::BROADCAST);
        assert_eq!(frame.header.address, E1_1);
        let Ok(Body::Config(config)) = frame.body() else {
            panic!()
        };
        assert_eq!(config.command, ConfigCommand::Read);
        assert_eq!(frame.len(), 60);
    }
    // At once, then until somebody is known, then every 60 s.
    let times: Vec<_> = (bench.sent_at.iter().zip(&bench.sent))
        .filter(|(_, frame)| frame[19] == 1)
        .map(|(at, _)| at.since(aoede_initiator::Instant::START).as_secs())
        .collect();
    assert_eq!(times[times.len() - 3..], [60, 120, 180]);
    assert_eq!(bench.sent_ata(Opcode::Identify)[0].0.header.destination, T);

    bench.set_port(PortId(0), |port| port.up = false);
    bench.run(SECOND);
    bench.sent.clear();
    bench.set_port(PortId(0), |port| port.up = true);
    bench.exchange();
    assert_eq!(bench.sent_commands(Command::Config).len(), 1);
}

#[test]
fn rule_1_a_port_that_is_down_does_not_keep_others_from_asking() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.add_port(J, 1500);
    bench.set_port(PortId(0), |port| port.up = false);
    let asked: Vec<_> = bench.transmit().iter().map(|(port, _)| *port).collect();
    assert_eq!(asked, [PortId(1)]);
}

#[test]
fn rule_1_an_announcement_is_as_good_as_an_answer() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.loses = Box::new(|way, frame| way == Way::Request && frame[19] == 1);
    bench.run(SECOND);
    assert!(!bench.session.is_attached());
    bench.announce(0);
    bench.run(SECOND);
    assert!(bench.session.is_attached());
    bench.read(0, 1);
}

#[test]
fn rule_2_another_disk_at_the_same_address_is_not_used() {
    for change in [
        |target: &mut TargetSettings| target.serial = "serial 2".to_owned(),
        |target: &mut TargetSettings| target.model = "another".to_owned(),
        |target: &mut TargetSettings| target.sectors -= 1,
    ] {
        let mut bench = Bench::attached(1500, Speaks::Nothing);
        let mut target = settings(E1_1, SECTORS);
        change(&mut target);
        let model = crate::target::Model::new(target, Speaks::Nothing);
        bench.add_station(U, 1500, Some(model));
        bench.run(Duration::from_secs(70));
        let reported = bench
            .notices
            .iter()
            .filter(|notice| matches!(notice, Notice::ForeignDisk { mac, .. } if *mac == U));
        assert_eq!(reported.count(), 1);
        for lba in 0..64 {
            bench.read(lba, 1);
        }
        assert!(bench.models[1].actions.is_empty());
        assert_eq!(bench.models[0].actions.len(), 64);
    }
}

#[test]
fn rule_2_the_same_disk_behind_two_macs_is_one_disk_with_two_paths() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.add_station(U, 1500, None);
    bench.add_port(J, 1500);
    bench.attach();
    assert_eq!(bench.session.paths().filter(|path| path.ready).count(), 4);
    for lba in 0..64 {
        bench.submit(read_at(lba, 1));
    }
    bench.run(SECOND);
    for (source, destination) in [(I, T), (I, U), (J, T), (J, U)] {
        let on_path = bench.sent.iter().filter(|frame| {
            frame[..6] == destination.0 && frame[6..12] == source.0 && is_ata(frame, 0x24)
        });
        assert_eq!(on_path.count(), 16, "{source} to {destination}");
    }
}

#[test]
fn rule_2_a_disk_that_grows_is_the_same_disk() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.add_station(U, 1500, None);
    bench.attach();
    bench.models[0].target().set_sectors(SECTORS - 8);
    bench.announce(0);
    bench.run(SECOND);
    assert_eq!(bench.session.identity().unwrap().sectors, SECTORS - 8);
    let resized = Notice::Resized {
        sectors: SECTORS - 8,
    };
    assert_eq!(
        bench
            .notices
            .iter()
            .filter(|&notice| *notice == resized)
            .count(),
        1
    );
    assert_eq!(bench.session.paths().filter(|path| path.ready).count(), 2);
}

/// A network that drops what is longer than this, in one direction or both.
fn narrow(request: usize, response: usize) -> crate::bench::Loses {
    Box::new(move |way, frame| {
        frame.len()
            > if way == Way::Request {
                request
            } else {
                response
            }
    })
}

#[test]
fn rule_3_the_size_of_frames_is_proven_both_ways_before_it_is_used() {
    let mut bench = Bench::new(9000, Speaks::Nothing, quick());
    bench.run(ms(1000));
    let longest = bench.sent.iter().map(Vec::len).max().unwrap();
    assert_eq!(longest, 36 + 17 * 512);
    let out = bench
        .sent
        .iter()
        .position(|frame| is_ata(frame, 0xEC) && frame.len() == longest);
    let back = bench
        .sent
        .iter()
        .position(|frame| is_ata(frame, 0x24) && frame[26] == 17);
    assert!(out.unwrap() < back.unwrap());
    assert_eq!(bench.path(0).sectors_per_frame, 17);
    bench.read(0, 17);
    assert_eq!(bench.models[0].actions.len(), 2, "the proof, and one frame");
}

#[test]
fn rule_3_what_passes_is_found_by_halves_in_either_direction() {
    for loses in [(4000, 9100), (9100, 4000)] {
        let mut bench = Bench::new(9000, Speaks::Nothing, quick());
        bench.loses = narrow(loses.0, loses.1);
        bench.run(Duration::from_secs(20));
        // 36 + 7 × 512 = 3620, one more sector would be 4132.
        assert_eq!(bench.path(0).sectors_per_frame, 7);
        let data = vec![7; 512 * 40];
        assert_eq!(bench.write(3, data.clone()), Ok(Answer::Done));
        assert_eq!(bench.read(3, 40), data);
        assert_eq!(bench.stats().timed_out, 0, "only proofs were lost");
    }
}

#[test]
fn rule_3_a_path_that_narrows_goes_back_to_two_sectors_and_tries_upwards_later() {
    let mut bench = Bench::attached(9000, Speaks::Nothing);
    bench.loses = narrow(1100, 1100);
    let data = vec![9; 512 * 34];
    assert_eq!(bench.write(3, data.clone()), Ok(Answer::Done));
    assert_eq!(bench.read(3, 34), data);
    assert_eq!(bench.path(0).sectors_per_frame, 2);
    assert!(bench.stats().fallbacks >= 1);
    assert!(
        !bench
            .notices
            .iter()
            .any(|n| matches!(n, Notice::PathLost { .. }))
    );
    bench.loses = Box::new(|_, _| false);
    bench.run(Duration::from_secs(70));
    assert_eq!(bench.path(0).sectors_per_frame, 17);
}

#[test]
fn rule_3_a_port_whose_mtu_changes_is_proven_anew() {
    let mut bench = Bench::attached(9000, Speaks::Nothing);
    bench.set_port(PortId(0), |port| port.mtu = 1500);
    assert_eq!(bench.path(0).sectors_per_frame, 2);
    bench.read(0, 17);
    bench.set_port(PortId(0), |port| port.mtu = 4200);
    bench.run(SECOND);
    assert_eq!(bench.path(0).sectors_per_frame, 8);
}

#[test]
fn rule_4_each_new_request_has_the_next_tag_and_a_repetition_keeps_its_tag() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let lost = Rc::new(Cell::new(0));
    let count = lost.clone();
    bench.loses = Box::new(move |_, frame| {
        // The second read is lost twice.
        let loses = is_ata(frame, 0x24) && frame[28] == 1 && count.get() < 2;
        count.set(count.get() + u32::from(loses));
        loses
    });
    for lba in 0..4 {
        bench.submit(read_at(lba, 1));
    }
    bench.run(SECOND);
    assert_eq!(bench.done.len(), 4);
    let tags: Vec<u32> = (bench.sent_ata(Opcode::ReadExt).iter())
        .map(|(frame, _)| frame.header.tag.big_endian())
        .collect();
    let first = tags[0];
    assert_eq!(
        tags,
        [first, first + 1, first + 2, first + 3, first + 1, first + 1]
    );
    assert_eq!((bench.stats().repeated, bench.stats().timed_out), (2, 2));
}

#[test]
fn rule_4_tags_of_a_measurement_are_not_given_out_again() {
    let mut bench = Bench::new(1500, ALL, Settings::default());
    bench.run(3 * SECOND);
    let probes = bench.path(0).probes;
    assert!(probes > 8);
    for lba in 0..8 {
        bench.submit(read_at(lba, 1));
    }
    bench.run(ms(100));
    let tags = |bytes: &[u8]| -> Vec<u32> {
        let sent = bench
            .sent
            .iter()
            .filter(|frame| frame[26..].starts_with(bytes));
        let tags = sent.map(|frame| u32::from_be_bytes(frame[20..24].try_into().unwrap()));
        tags.collect()
    };
    let last = *tags(b"congestion\0").iter().max().unwrap();
    assert_eq!(tags(b"congestion\0").len() as u32, probes);
    let reads = bench.sent_ata(Opcode::ReadExt);
    for (frame, _) in reads {
        assert!(frame.header.tag.big_endian() > last);
    }
}

/// The target knows a late copy of the whole by the tag of its first part.
#[test]
fn rule_4_a_write_that_is_cut_anew_keeps_its_tag_for_the_first_part() {
    let mut bench = Bench::attached(9000, ALL);
    bench.submit(write_at(5, 17, 1));
    let (port, whole) = bench.transmit().remove(0);
    assert_eq!(whole[26], 17);
    // The target's frames have become shorter, it says; the write itself is still under way.
    let mut refusal = whole[..60].to_vec();
    let (to, from) = whole[..12].split_at(6);
    refusal[..6].copy_from_slice(from);
    refusal[6..12].copy_from_slice(to);
    (refusal[14], refusal[15]) = (0x1C, 2);
    bench.receive(port, &refusal);
    let parts = bench.transmit();
    let parts: Vec<_> = parts
        .iter()
        .map(|(_, frame)| frame)
        .filter(|f| opcode(f) == 0x34)
        .collect();
    assert_eq!(parts[0][20..24], whole[20..24]);
    assert_eq!(parts[0][26], 2);
    assert!(parts[1..].iter().all(|part| part[20..24] != whole[20..24]));
    bench.run(SECOND);
    bench.ask(write_at(5, 17, 2)).unwrap();
    bench.deliver(&whole);
    let written = &bench.models[0].disk[5 * 512..22 * 512];
    assert!(written.iter().all(|byte| *byte == 2));
    assert_eq!(bench.done.len(), 1);
}

#[test]
fn rule_4_responses_match_by_tag_mac_and_command_and_late_ones_are_counted() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    bench.add_station(U, 1500, None);
    bench.attach();
    let id = bench.submit(write_at(5, 1, 1));
    let (port, request) = bench.transmit().remove(0);
    let good = response(&request, |_, _| {});
    let before = bench.stats();
    for (what, change) in [
        ("tag", (|header| header.tag.0[3] ^= 0x40) as fn(&mut Header)),
        ("mac", |header| {
            header.source = if header.source == T { U } else { T }
        }),
        ("unknown mac", |header| header.source = J),
        ("command", |header| {
            header.tag = aoede_wire::Tag(header.tag.0);
        }),
    ] {
        let mut wrong = response(&request, |header, _| change(header));
        if what == "command" {
            wrong[19] = 3;
        }
        bench.session.handle_frame(bench.now, port, &wrong);
        bench.take_events();
        assert!(bench.done.is_empty(), "{what}");
    }
    // Neither requests nor frames for others, other shelves or versions are looked at.
    for (offset, value) in [(14, 0x10), (14, 0x28), (5, 0x55), (17, 9), (18, 9), (12, 8)] {
        let mut wrong = good.clone();
        wrong[offset] = value;
        bench.session.handle_frame(bench.now, port, &wrong);
    }
    bench.take_events();
    assert!(bench.done.is_empty());
    assert_eq!(bench.stats().ignored - before.ignored, 6);
    bench.session.handle_frame(bench.now, port, &good);
    let done = bench.wait(id, ms(1));
    assert_eq!(done.result, Ok(Answer::Done));
    let late = bench.stats().late;
    bench.session.handle_frame(bench.now, port, &good);
    assert_eq!(bench.stats().late, late + 1);
}

#[test]
fn rule_5_patience_grows_with_each_try_up_to_ten_seconds_and_ends_after_three_minutes() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.loses = Box::new(|_, frame| is_ata(frame, 0x24));
    let start = bench.now;
    let id = bench.submit(read(1));
    let done = bench.wait(id, Duration::from_secs(200));
    assert_eq!(done.result, Err(Error::Silent));
    assert_eq!(done.buffer.unwrap(), [0xEE; 512]);
    assert_eq!(bench.now.since(start).as_secs(), 180);
    let times: Vec<u64> = (bench.sent_at.iter().zip(&bench.sent))
        .filter(|(_, frame)| is_ata(frame, 0x24))
        .map(|(at, _)| at.since(start).as_millis() as u64)
        .collect();
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Round trips of 100 µs: the floor of 20 ms, doubled each time.
    assert_eq!(
        waits[..10],
        [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10000]
    );
    assert!(waits[10..].iter().all(|&wait| wait == 10000));
    // The session lives on.
    bench.loses = Box::new(|_, _| false);
    bench.run(Duration::from_secs(10));
    bench.read(0, 1);
}

#[test]
fn rule_5_flush_and_trim_are_waited_for_thirty_seconds() {
    for request in [Request::Flush, Request::Trim { lba: 0, sectors: 8 }] {
        let mut bench = Bench::attached(1500, Speaks::Nothing);
        let first = Rc::new(Cell::new(true));
        bench.loses = Box::new(move |way, frame| {
            let mine = way == Way::Request && (is_ata(frame, 0xEA) || is_ata(frame, 0x06));
            mine && first.replace(false)
        });
        let start = bench.now;
        assert_eq!(bench.ask(request), Ok(Answer::Done));
        assert_eq!(bench.now.since(start).as_secs(), 30);
    }
}

/// When losses made the window as small as one, a flush that was lost too held that place for thirty
/// seconds, and everything stood still (found over a real cable that loses one frame in twenty).
#[test]
fn rule_5_a_lost_flush_keeps_nothing_else_waiting() {
    for slow in [
        Request::Flush,
        Request::Trim {
            lba: 900,
            sectors: 8,
        },
    ] {
        let mut bench = Bench::attached(1500, Speaks::Nothing);
        let left = Rc::new(Cell::new(3));
        bench.loses = Box::new(move |_, frame| {
            let lost = is_ata(frame, 0x24) && left.get() > 0;
            left.set(left.get() - u32::from(lost));
            lost || is_ata(frame, 0xEA) || is_ata(frame, 0x06)
        });
        let slow = bench.submit(slow);
        let read = bench.submit(read_at(0, 1));
        // 20, 40 and 80 ms for the tries that are lost.
        assert_eq!(bench.wait(read, ms(150)).result, Ok(Answer::Done));
        for lba in 0..100 {
            bench.submit(read_at(lba, 1));
        }
        bench.run(ms(100));
        assert_eq!(bench.done.len(), 100);
        bench.loses = Box::new(|_, _| false);
        assert_eq!(bench.wait(slow, 31 * SECOND).result, Ok(Answer::Done));
    }
}

#[test]
fn rule_5_requests_under_way_never_exceed_window_and_buffer_count() {
    let target = TargetSettings {
        buffer_count: 12,
        ..settings(E1_1, SECTORS)
    };
    let mut bench = Bench::with(1500, target, Speaks::Nothing, quick());
    bench.attach();
    for lba in 0..100 {
        bench.submit(read_at(lba, 1));
    }
    let mut most = 0;
    for round in 0.. {
        let frames = bench.transmit();
        if frames.is_empty() {
            break;
        }
        if round == 0 {
            assert_eq!(frames.len(), 8, "slow start");
        }
        most = most.max(frames.len());
        bench.now += ms(1);
        for (port, frame) in frames {
            for answer in bench.deliver(&frame) {
                bench.receive(port, &answer);
            }
        }
        bench.take_events();
    }
    assert_eq!(bench.done.len(), 100);
    assert_eq!(most, 12);
    // All of a window lost: half of it is sent again.
    for lba in 0..100 {
        bench.submit(read_at(lba, 1));
    }
    assert_eq!(bench.transmit().len(), 12);
    bench.now += SECOND;
    bench.session.handle_timeout(bench.now);
    let frames = bench.transmit();
    let reads = frames.iter().filter(|(_, frame)| is_ata(frame, 0x24));
    assert_eq!(reads.count(), 6);
}

#[test]
fn rule_6_aoe_errors_mean_what_the_table_says() {
    for (code, expected) in [
        (ErrorCode::UnrecognizedCommand, Error::UnknownCommand),
        (ErrorCode::BadArgument, Error::BadArgument),
        (ErrorCode::Reserved, Error::Reserved),
        (
            ErrorCode::Unknown(9),
            Error::Aoe {
                code: ErrorCode::Unknown(9),
            },
        ),
    ] {
        let mut bench = Bench::attached(1500, Speaks::Nothing);
        let id = bench.submit(read(1));
        let (port, request) = bench.transmit().remove(0);
        let error = response(&request, |header, _| *header = header.with_error(code));
        bench.session.handle_frame(bench.now, port, &error);
        assert_eq!(bench.wait(id, ms(1)).result, Err(expected));
        bench.read(0, 1);
    }
}

#[test]
fn rule_6_device_unavailable_is_tried_again_later() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let id = bench.submit(read(1));
    let start = bench.now;
    for wait in [100, 200] {
        let (port, request) = bench.transmit().remove(0);
        let code = ErrorCode::DeviceUnavailable;
        let error = response(&request, |header, _| *header = header.with_error(code));
        bench.session.handle_frame(bench.now, port, &error);
        assert!(bench.transmit().is_empty());
        bench.now += ms(wait - 1);
        bench.session.handle_timeout(bench.now);
        assert!(bench.transmit().is_empty());
        bench.now += ms(1);
        bench.session.handle_timeout(bench.now);
    }
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
    assert_eq!(bench.now.since(start).as_millis(), 300);
}

#[test]
fn rule_6_another_version_ends_the_session() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let id = bench.submit(read(1));
    let other = bench.submit(read(8));
    for _ in 0..3 {
        let (port, request) = bench.transmit().remove(0);
        let code = ErrorCode::UnsupportedVersion;
        let error = response(&request, |header, _| *header = header.with_error(code));
        bench.session.handle_frame(bench.now, port, &error);
    }
    assert_eq!(bench.wait(id, ms(1)).result, Err(Error::Version));
    assert_eq!(bench.wait(other, ms(1)).result, Err(Error::Version));
    assert!(bench.notices.contains(&Notice::VersionRefused));
    let refused = bench.session.submit(bench.now, read(1)).unwrap_err();
    assert_eq!(refused.why, Refusal::Version);
    assert_eq!(bench.session.poll_timeout(), None);
}

/// Three times without another answer between: what else is lost does not count.
#[test]
fn rule_6_a_damaged_version_after_lost_tries_ends_nothing() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.set_port(PortId(0), |port| port.up = false);
    bench.set_port(PortId(0), |port| port.up = true);
    let mut tries = 0;
    while tries < 5 {
        for (port, request) in bench.transmit() {
            if is_ata(&request, 0xEC) {
                tries += 1;
                if tries == 4 || tries == 5 {
                    let code = ErrorCode::UnsupportedVersion;
                    let error = response(&request, |header, _| *header = header.with_error(code));
                    bench.session.handle_frame(bench.now, port, &error);
                }
            }
        }
        bench.now = bench.session.poll_timeout().unwrap();
        bench.session.handle_timeout(bench.now);
    }
    bench.run(Duration::from_secs(30));
    assert!(!bench.notices.contains(&Notice::VersionRefused));
    assert!(bench.path(0).ready);
    bench.read(0, 1);
}

/// Sectors that were closed then stayed so, and what waited for them never ended.
#[test]
fn rule_6_another_version_ends_also_what_waits_for_copies_of_an_earlier_write() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let repeated = bench.submit(write_at(5, 1, 1));
    bench.transmit();
    bench.now += ms(30);
    bench.session.handle_timeout(bench.now);
    assert_eq!(bench.wait(repeated, ms(1)).result, Ok(Answer::Done));
    let waiting = bench.submit(write_at(5, 1, 2));
    bench.submit(read_at(50, 1));
    for _ in 0..3 {
        let (port, request) = bench.transmit().remove(0);
        assert!(is_ata(&request, 0x24));
        let code = ErrorCode::UnsupportedVersion;
        let error = response(&request, |header, _| *header = header.with_error(code));
        bench.session.handle_frame(bench.now, port, &error);
    }
    assert_eq!(bench.wait(waiting, ms(1)).result, Err(Error::Version));
    assert!(bench.session.is_idle() && bench.done.len() == 1);
}

#[test]
fn rule_6_registers_of_a_failure_are_kept() {
    // 28 from §3.3: failures, and the bits of 0xA9 one by one.
    for (status, error) in [
        (0x41, 0x40),
        (0x61, 0x04),
        (0x80, 0),
        (0x20, 0),
        (0x08, 0),
        (0x01, 0),
    ] {
        let mut bench = Bench::attached(1500, Speaks::Nothing);
        let id = bench.submit(read_at(77, 2));
        let (port, request) = bench.transmit().remove(0);
        let failure = response(&request, |_, ata| {
            ata.command_or_status = status;
            ata.feature_or_error = error;
            ata.count = 2;
        });
        bench.session.handle_frame(bench.now, port, &failure);
        let registers = Registers {
            status: Status(status),
            error,
            not_done: 2,
            lba: 77,
        };
        assert_eq!(
            bench.wait(id, ms(1)).result,
            Err(Error::Device { registers })
        );
    }
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.models[0].failure = Some(DeviceFailure::Fault);
    let Err(Error::Device { registers }) = bench.write(1, vec![0; 512]) else {
        panic!("a write to a broken device succeeds")
    };
    assert_eq!((registers.status.0, registers.error), (0x61, 0x04));
}

#[test]
fn rule_6_short_data_is_a_lost_response_and_longer_is_none() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let id = bench.submit(read(2));
    let (port, request) = bench.transmit().remove(0);
    let data = [0x77; 1028];
    for (len, done) in [(0, false), (512, false), (1023, false), (1028, true)] {
        let answer = response(&request, |_, ata| ata.data = &data[..len]);
        bench.session.handle_frame(bench.now, port, &answer);
        bench.take_events();
        assert_eq!(bench.done.len(), usize::from(done), "{len}");
    }
    assert_eq!(bench.stats().short, 3);
    assert_eq!(bench.wait(id, ms(1)).buffer.unwrap(), [0x77; 1024]);
}

#[test]
fn rule_7_flush_comes_after_the_responses_of_all_earlier_writes() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.submit(write_at(0, 1, 1));
    bench.submit(write_at(9, 1, 1));
    let flush = bench.submit(Request::Flush);
    bench.submit(write_at(20, 1, 1));
    let frames = bench.transmit();
    let opcodes: Vec<_> = frames.iter().map(|(_, frame)| opcode(frame)).collect();
    assert_eq!(opcodes, [0x34, 0x34, 0x34]);
    let answer = |bench: &mut Bench, index: usize| {
        let (port, frame) = &frames[index];
        let answers = bench.deliver(frame);
        bench.receive(*port, &answers[0]);
    };
    answer(&mut bench, 1);
    assert!(bench.transmit().is_empty());
    answer(&mut bench, 0);
    // FLUSH CACHE EXT, as word 83 bit 13 says; the third write is not waited for.
    assert_eq!(opcode(&bench.transmit()[0].1), 0xEA);
    assert!(bench.done.iter().all(|done| done.id != flush));
}

#[test]
fn rule_7_the_flush_is_the_one_that_the_disk_knows() {
    // Words 82 to 87 as in §3.6; the checksum is left out.
    for (word_83, expected) in [(0x7400, Some(0xEA)), (0x5400, Some(0xE7)), (0x4400, None)] {
        let mut bench = Bench::new(1500, Speaks::Nothing, quick());
        bench.run_with(ms(500), |answer| {
            if answer.len() == 548 {
                answer[36 + 2 * 83..][..2].copy_from_slice(&u16::to_le_bytes(word_83));
                answer[36 + 510..].fill(0);
            }
        });
        assert!(bench.session.is_attached());
        let Some(expected) = expected else {
            let refused = bench.session.submit(bench.now, Request::Flush).unwrap_err();
            assert_eq!(refused.why, Refusal::Unsupported);
            continue;
        };
        bench.submit(Request::Flush);
        assert_eq!(opcode(&bench.transmit()[0].1), expected);
    }
}

#[test]
fn rule_7_a_flush_that_does_nothing_comes_with_a_warning() {
    let is_told = |firmware, vblade: bool| {
        let mut bench = Bench::new(1500, Speaks::Nothing, quick());
        bench.models[0].firmware = firmware;
        bench.run_with(ms(500), |answer| {
            if vblade && answer.len() == 548 {
                // Words 27 to 46 as in the golden frame of vblade; the checksum is left out.
                answer[36 + 54..36 + 94]
                    .copy_from_slice(b"oCardiE htrerDvi ebvaled                ");
                answer[36 + 510..].fill(0);
            }
        });
        let identity = bench.session.identity().unwrap();
        assert!(identity.flush && bench.session.is_attached());
        let told = bench.notices.contains(&Notice::FlushProvesNothing);
        assert_eq!(identity.can_flush(), !told);
        told
    };
    assert!(!is_told(None, false));
    assert!(is_told(None, true));
    // The 2014 AoEde, whatever it calls itself.
    assert!(is_told(Some(0x4015), false));
    assert!(!is_told(Some(0x4019), false));
}

#[test]
fn rule_8_extensions_are_asked_for_in_one_frame_and_believed_in_upper_case_only() {
    let mut bench = Bench::new(1500, ALL, quick());
    bench.run(SECOND);
    let asked = bench.sent_commands(Command::Extension);
    assert_eq!(asked.len(), 1);
    assert!(
        asked[0].argument[2..]
            .starts_with(b"reset\0coalesced_read\0coalesced_write_reply\0tag_inc_be\0\0")
    );
    let features = bench.path(0).features;
    assert!(features.coalesced_read && features.coalesced_write_reply && features.tags);
    assert!(!features.crc8x4 && !features.crc32c && !features.congestion);
    assert!(bench.stats().negotiations == 1);
}

#[test]
fn rule_8_targets_without_extensions_are_spoken_to_plainly() {
    for (speaks, asked) in [
        (Speaks::Nothing, 1),
        (Speaks::Silence, 3),
        (Speaks::These(&[]), 1),
    ] {
        let mut bench = Bench::new(1500, speaks, quick());
        bench.run(Duration::from_secs(5));
        assert!(bench.session.is_attached());
        assert_eq!(
            bench.sent_commands(Command::Extension).len(),
            asked,
            "{speaks:?}"
        );
        assert_eq!(bench.path(0).features, aoede_initiator::Features::default());
        bench.write(0, vec![1; 512]).unwrap();
        for lba in 0..20 {
            bench.submit(read_at(lba, 1));
        }
        bench.run(SECOND);
        assert_eq!(bench.stats().coalesced, 0);
        assert_eq!(bench.stats().repeated, 0);
    }
}

#[test]
fn rule_8_the_old_program_is_not_asked_to_track_tags_unless_we_are_alone() {
    for (sole_initiator, tags) in [(false, false), (true, true)] {
        let wanted = Wanted {
            crc32c: true,
            ..Wanted::default()
        };
        let settings = Settings {
            sole_initiator,
            wanted,
            ..Settings::default()
        };
        let mut bench = Bench::new(1500, OLD, settings);
        bench.models[0].firmware = Some(0x4015);
        bench.run(Duration::from_secs(3));
        let asked = bench.sent_commands(Command::Extension)[0];
        let text = asked.argument.escape_ascii().to_string();
        assert_eq!(text.contains("tag_inc_be"), tags);
        assert!(!text.contains("coalesced_write_reply") && !text.contains("crc32c"));
        assert_eq!(text.contains("congestion"), tags);
        assert_eq!(bench.path(0).features.tags, tags);
        assert_eq!(bench.path(0).measured.is_some(), tags);
    }
}

#[test]
fn rule_8_extensions_are_negotiated_again_after_an_announcement_with_tags_far_away() {
    let mut bench = Bench::attached(1500, ALL);
    bench.write(0, vec![1; 512]).unwrap();
    let before = bench.sent_ata(Opcode::WriteExt)[0]
        .0
        .header
        .tag
        .big_endian();
    bench.run(SECOND);
    bench.models[0].restart();
    bench.sent.clear();
    bench.announce(0);
    bench.run(SECOND);
    assert_eq!(bench.sent_commands(Command::Extension).len(), 1);
    bench.write(0, vec![2; 512]).unwrap();
    let after = bench.sent_ata(Opcode::WriteExt)[0]
        .0
        .header
        .tag
        .big_endian();
    assert!(after.wrapping_sub(before) > 65536);
    assert_eq!(bench.models[0].disk[0], 2);
    // A storm of announcements does not become one of negotiations.
    bench.sent.clear();
    for _ in 0..100 {
        bench.announce(0);
        bench.exchange();
    }
    assert!(bench.sent_commands(Command::Extension).len() <= 1);
}

/// A target that was restarted within a second of an agreement was trusted to track tags for ever,
/// as its announcement came too soon (found over a real cable).
#[test]
fn rule_8_an_announcement_right_after_an_agreement_is_not_forgotten() {
    let mut bench = Bench::attached(1500, ALL);
    bench.run(SECOND);
    bench.announce(0);
    bench.run(ms(10));
    bench.models[0].restart();
    bench.sent.clear();
    bench.announce(0);
    bench.run(ms(100));
    assert_eq!(bench.sent_commands(Command::Extension).len(), 0);
    // Until then a write that is repeated is one that the target does not track.
    let id = bench.submit(write_at(5, 1, 1));
    let _late = bench.transmit();
    bench.now += ms(30);
    bench.session.handle_timeout(bench.now);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
    bench.sent.clear();
    let next = bench.submit(write_at(5, 1, 2));
    bench.run(ms(150));
    assert_eq!(bench.sent_ata(Opcode::WriteExt).len(), 0);
    assert_eq!(bench.wait(next, ms(100)).result, Ok(Answer::Done));

    bench.run(SECOND);
    assert_eq!(bench.sent_commands(Command::Extension).len(), 1);
    assert!(bench.path(0).features.tags);
    bench.run(10 * SECOND);
    assert_eq!(bench.sent_commands(Command::Extension).len(), 1);
}

/// The question for the disk gave way to the one for extensions, and was forgotten.
#[test]
fn rule_2_a_disk_is_looked_at_again_after_extensions_were_negotiated() {
    let mut bench = Bench::attached(1500, ALL);
    bench.announce(0);
    bench.run(ms(500));
    bench.models[0].target().set_sectors(SECTORS - 8);
    bench.loses = Box::new(|way, frame| way == Way::Request && is_ata(frame, 0xEC));
    bench.announce(0);
    bench.run(ms(550));
    assert_eq!(bench.stats().negotiations, 3);
    assert_eq!(bench.session.identity().unwrap().sectors, SECTORS);
    bench.loses = Box::new(|_, _| false);
    bench.run(SECOND);
    assert_eq!(bench.session.identity().unwrap().sectors, SECTORS - 8);
}

#[test]
fn rule_8_coalesced_reads_that_stay_unanswered_are_given_up() {
    for (firmware, speaks) in [(None, ALL), (Some(0x4015), OLD)] {
        let mut bench = Bench::new(1500, speaks, quick());
        bench.models[0].firmware = firmware;
        bench.models[0].ignores_entries = true;
        bench.attach();
        for round in 0..60 {
            for lba in 0..20 {
                bench.submit(read_at(lba, 1));
            }
            bench.run(SECOND);
            assert_eq!(bench.done.len(), 20 * (round + 1), "every read is answered");
        }
        assert!(bench.stats().coalesced > 0);
        assert!(!bench.path(0).features.coalesced_read);
        let negotiations = if firmware.is_none() { 2 } else { 1 };
        assert_eq!(bench.stats().negotiations, negotiations);
        // Nor are they asked for again; of the old program nothing is left to ask for.
        bench.sent.clear();
        bench.announce(0);
        bench.run(SECOND);
        let asked: Vec<_> = (bench.sent_commands(Command::Extension).iter())
            .map(|frame| frame.argument.escape_ascii().to_string())
            .collect();
        assert_eq!(asked.len(), usize::from(firmware.is_none()));
        assert!(asked.iter().all(|text| !text.contains("coalesced_read")));
    }
}

/// A fresh window takes whatever comes first: once, a late copy of a write came first and replaced a
/// newer trim (simulation of two paths, seed 15).
#[test]
fn rule_8_no_fresh_window_while_copies_of_writes_may_be_under_way() {
    let mut bench = Bench::attached(1500, ALL);
    let id = bench.submit(write_at(5, 1, 1));
    let _late = bench.transmit();
    bench.now += ms(30);
    bench.session.handle_timeout(bench.now);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
    bench.sent.clear();
    bench.announce(0);
    bench.run(ms(150));
    assert_eq!(bench.sent_commands(Command::Extension).len(), 0);
    bench.run(ms(100));
    assert_eq!(bench.sent_commands(Command::Extension).len(), 1);
    bench.write(5, vec![2; 512]).unwrap();
}

/// A READ damaged into a WRITE would store what follows it.
#[test]
fn rule_8_a_coalesced_read_is_too_short_to_be_a_write() {
    let settings = Settings {
        coalesce: 256,
        ..quick()
    };
    let mut bench = Bench::new(9000, ALL, settings);
    bench.attach();
    for lba in 0..200 {
        bench.read(lba, 1);
    }
    for lba in 0..200 {
        bench.submit(read_at(lba, 1));
    }
    bench.run(SECOND);
    let entries = |ata: &Ata<'_>| ata.data[0];
    let most = bench
        .sent_ata(Opcode::ReadExt)
        .iter()
        .map(|(_, ata)| entries(ata))
        .max();
    // 1 + 16 × 31 bytes are fewer than a sector.
    assert_eq!(most, Some(31));
}

/// Where a checksum was agreed on, registers must fit the request too.
#[test]
fn rule_6_registers_that_do_not_fit_are_damage() {
    for crc32c in [false, true] {
        let wanted = Wanted {
            crc8x4: !crc32c,
            crc32c,
            ..quick().wanted
        };
        believes_fitting_registers_only(Settings { wanted, ..quick() });
    }
}

fn believes_fitting_registers_only(settings: Settings) {
    let mut bench = Bench::new(1500, ALL, settings);
    bench.attach();
    let id = bench.submit(Request::Flush);
    let (port, request) = bench.transmit().remove(0);
    let wrong: [fn(&mut Ata<'_>); 5] = [
        // CHECK POWER MODE says so.
        |ata| ata.count = 0xFF,
        |ata| ata.feature_or_error = 4,
        |ata| ata.lba[0] = 1,
        |ata| ata.command_or_status = 0x41,
        |ata| ata.data = &[0; 100],
    ];
    for (count, wrong) in (1..).zip(wrong) {
        let answer = response(&request, |_, ata| wrong(ata));
        bench.session.handle_frame(bench.now, port, &answer);
        bench.take_events();
        assert!(bench.done.is_empty());
        assert_eq!(bench.stats().damaged, count);
    }
    let answer = response(&request, |_, _| {});
    bench.session.handle_frame(bench.now, port, &answer);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
}

#[test]
fn rule_9_reservations_and_masks_are_touched_only_when_asked() {
    let mut bench = Bench::new(1500, ALL, quick());
    bench.run(Duration::from_secs(200));
    assert!(bench.sent_commands(Command::Mask).is_empty());
    assert!(bench.sent_commands(Command::Reserve).is_empty());

    let reserve = |command, macs: &[MacAddr]| Request::Reserve {
        command,
        macs: macs.to_vec(),
    };
    let holders = |macs: &[MacAddr]| Ok(Answer::Reservation(macs.to_vec()));
    assert_eq!(
        bench.ask(reserve(ReserveCommand::Set, &[I, J])),
        holders(&[I, J])
    );
    assert_eq!(
        bench.ask(reserve(ReserveCommand::Read, &[])),
        holders(&[I, J])
    );
    assert_eq!(bench.ask(reserve(ReserveCommand::Set, &[])), holders(&[]));
    assert_eq!(
        bench.ask(reserve(ReserveCommand::ForceSet, &[U])),
        holders(&[U])
    );
    assert_eq!(bench.ask(read(1)), Err(Error::Reserved));
    assert_eq!(
        bench.ask(reserve(ReserveCommand::Set, &[I])),
        Err(Error::Reserved)
    );
    bench.ask(reserve(ReserveCommand::ForceSet, &[])).unwrap();

    let directive = |code, mac| Directive { code, mac };
    let mask = |directives: &[Directive]| Request::Mask {
        directives: directives.to_vec(),
    };
    let add = [
        directive(DirectiveCode::Add, I),
        directive(DirectiveCode::Add, J),
    ];
    assert_eq!(bench.ask(mask(&add)), Ok(Answer::Mask(vec![I, J])));
    let bad = [
        directive(DirectiveCode::Delete, J),
        directive(DirectiveCode::Unknown(7), J),
    ];
    assert_eq!(
        bench.ask(mask(&bad)),
        Ok(Answer::MaskRefused {
            error: MaskError::BadDirective,
            index: 1
        })
    );
    assert_eq!(bench.ask(mask(&[])), Ok(Answer::Mask(vec![I, J])));
}

#[test]
fn rule_9_the_old_program_is_released_by_force() {
    for (firmware, sub_command) in [(None, 1), (Some(0x4015), 2)] {
        let mut bench = Bench::new(1500, Speaks::Nothing, quick());
        bench.models[0].firmware = firmware;
        bench.attach();
        let command = ReserveCommand::Set;
        let macs = vec![I];
        bench.ask(Request::Reserve { command, macs }).unwrap();
        assert_eq!(bench.sent_commands(Command::Reserve)[0].argument[0], 1);
        bench.sent.clear();
        let macs = Vec::new();
        bench.ask(Request::Reserve { command, macs }).unwrap();
        assert_eq!(
            bench.sent_commands(Command::Reserve)[0].argument[..2],
            [sub_command, 0]
        );
    }
}

/// Its failure comes when it waits to be sent again: the read behind it begins then, and is not taken
/// for it.
#[test]
fn a_late_failure_ends_its_own_request_only() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let written = bench.submit(write_at(5, 1, 1));
    bench.submit(read_at(5, 1));
    let (port, request) = bench.transmit().remove(0);
    bench.now += ms(30);
    bench.session.handle_timeout(bench.now);
    let mut failure = bench.deliver(&request).remove(0);
    (failure[25], failure[26], failure[27]) = (0x04, 1, 0x61);
    bench.receive(port, &failure);
    bench.take_events();
    assert_eq!(bench.done.len(), 1, "the read was not even sent");
    assert_eq!(bench.done[0].id, written);
    bench.exchange();
    let read = bench.done.pop().unwrap();
    assert_eq!(read.result, Ok(Answer::Done));
    assert_eq!(read.buffer, Some(vec![1; 512]));
}

#[test]
fn rule_10_overlapping_requests_are_never_under_way_together_when_one_writes() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.submit(write_at(10, 4, 1));
    bench.submit(read_at(13, 2));
    bench.submit(write_at(14, 1, 2));
    bench.submit(read_at(30, 2));
    bench.submit(read_at(31, 2));
    let addresses = |frames: &[(PortId, Vec<u8>)]| -> Vec<(u8, u8)> {
        frames
            .iter()
            .map(|(_, frame)| (opcode(frame), frame[28]))
            .collect()
    };
    let answer = |bench: &mut Bench, frames: Vec<(PortId, Vec<u8>)>| {
        for (port, frame) in frames {
            for answer in bench.deliver(&frame) {
                bench.receive(port, &answer);
            }
        }
    };
    let mut first = bench.transmit();
    assert_eq!(
        addresses(&first),
        [(0x34, 10), (0x34, 12), (0x24, 30), (0x24, 31)]
    );
    let last_half = first.remove(1);
    answer(&mut bench, first);
    assert!(
        bench.transmit().is_empty(),
        "half of the first write is still out"
    );
    answer(&mut bench, vec![last_half]);
    let second = bench.transmit();
    assert_eq!(addresses(&second), [(0x24, 13)]);
    answer(&mut bench, second);
    let third = bench.transmit();
    assert_eq!(addresses(&third), [(0x34, 14)]);
    answer(&mut bench, third);
    bench.take_events();
    assert_eq!(bench.done.len(), 5);
}

/// Plain AoE cannot tell a late copy of a write from a new one.
#[test]
fn rule_10_a_repeated_write_keeps_its_sectors_closed_until_its_copies_are_gone() {
    for (speaks, closed) in [(Speaks::Nothing, true), (ALL, false)] {
        let mut bench = Bench::attached(1500, speaks);
        let first = bench.submit(write_at(5, 1, 1));
        let (port, request) = bench.transmit().remove(0);
        // The request is late, its repetition is not.
        bench.now += ms(30);
        bench.session.handle_timeout(bench.now);
        assert_eq!(bench.wait(first, ms(1)).result, Ok(Answer::Done));
        bench.submit(write_at(5, 1, 2));
        bench.exchange();
        assert_eq!(bench.models[0].disk[5 * 512], if closed { 1 } else { 2 });
        let answers = bench.deliver(&request);
        bench.receive(port, &answers[0]);
        assert_eq!(bench.stats().late, 1);
        bench.run(ms(200));
        assert_eq!(bench.models[0].disk[5 * 512], 2, "{speaks:?}");
        assert_eq!(bench.done.len(), 1);
    }
}

/// Of a failed write too a part may be under way, and no window keeps it out: what failed may be
/// tried again.
#[test]
fn rule_10_a_write_that_failed_keeps_its_sectors_closed_until_its_parts_are_gone() {
    for speaks in [Speaks::Nothing, ALL] {
        let mut bench = Bench::attached(1500, speaks);
        bench.submit(write_at(5, 4, 1));
        let [(port, first), (_, second)] = bench.transmit().try_into().unwrap();
        let mut failure = bench.deliver(&first).remove(0);
        (failure[25], failure[26], failure[27]) = (0x04, 2, 0x61);
        bench.receive(port, &failure);
        // Nobody waits for the second part any longer than for any frame.
        bench.now += ms(30);
        bench.session.handle_timeout(bench.now);
        bench.take_events();
        assert!(bench.done.remove(0).result.is_err());

        bench.submit(write_at(7, 1, 2));
        bench.exchange();
        assert_eq!(bench.models[0].disk[7 * 512], 0, "{speaks:?}");
        bench.deliver(&second);
        bench.run(ms(200));
        assert_eq!(bench.models[0].disk[7 * 512], 2, "{speaks:?}");
        assert_eq!(bench.done.len(), 1);
    }
}

#[test]
fn rule_11_frames_are_padded_with_zeros_to_sixty_bytes() {
    // The bench looks at every frame of every story; here are all kinds of them.
    let wanted = Wanted {
        crc8x4: true,
        ..quick().wanted
    };
    let settings = Settings { wanted, ..quick() };
    let mut bench = Bench::new(9000, ALL, settings);
    bench.run(SECOND);
    for lba in 0..40 {
        bench.submit(read_at(lba, 1));
    }
    bench.submit(write_at(2, 30, 3));
    bench.submit(Request::Trim { lba: 9, sectors: 3 });
    bench.submit(Request::Flush);
    bench.submit(Request::Identify);
    let command = ConfigCommand::ForceSet;
    let string = b"a string".to_vec();
    bench.submit(Request::Config { command, string });
    bench.submit(Request::Mask { directives: vec![] });
    let command = ReserveCommand::Read;
    let macs = Vec::new();
    bench.submit(Request::Reserve { command, macs });
    bench.run(SECOND);
    assert_eq!(bench.done.len(), 47);
    assert!(bench.done.iter().all(|done| done.result.is_ok()));
    let lengths: Vec<_> = bench.sent.iter().map(Vec::len).collect();
    for kind in [60, 36 + 17 * 512 + 4, 36 + 512 + 4] {
        assert!(lengths.contains(&kind), "{kind} in {lengths:?}");
    }
    // Whether as long a frame passes was asked before, with one as long (rule 3).
    let identities = bench.sent_ata(Opcode::Identify);
    let mut lengths = identities.iter().map(|(frame, _)| frame.len());
    assert!(lengths.any(|len| len == 36 + 17 * 512 + 4));
}

#[test]
fn config_strings_are_read_tested_and_set() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let config = |command, string: &[u8]| Request::Config {
        command,
        string: string.to_vec(),
    };
    let is = |string: &[u8]| Ok(Answer::Config(string.to_vec()));
    assert_eq!(bench.ask(config(ConfigCommand::Read, b"")), is(b""));
    assert_eq!(
        bench.ask(config(ConfigCommand::Set, b"host 7")),
        is(b"host 7")
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::Prefix, b"host")),
        is(b"host 7")
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::Test, b"host 7")),
        is(b"host 7")
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::Test, b"host")),
        Err(Error::NoMatch)
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::Set, b"host 8")),
        Err(Error::ConfigPresent {
            string: b"host 7".to_vec()
        })
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::ForceSet, b"host 8")),
        is(b"host 8")
    );
    assert_eq!(
        bench.ask(config(ConfigCommand::Unknown(9), b"")),
        Err(Error::BadArgument)
    );
    assert!(bench.path(0).ready, "silence was an answer");
}

/// A target that is down says nothing either.
#[test]
fn a_test_of_the_config_string_is_not_answered_by_a_target_that_is_down() {
    let test = || Request::Config {
        command: ConfigCommand::Test,
        string: b"not this".to_vec(),
    };
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.loses = Box::new(|_, _| true);
    let id = bench.submit(test());
    bench.run(60 * SECOND);
    assert!(bench.done.is_empty());
    bench.loses = Box::new(|_, _| false);
    assert_eq!(bench.wait(id, 60 * SECOND).result, Err(Error::NoMatch));

    bench.loses = Box::new(|_, _| true);
    let id = bench.submit(test());
    assert_eq!(bench.wait(id, 200 * SECOND).result, Err(Error::Silent));
}

/// A session looks for its own target only.
#[test]
fn other_addresses_are_no_paths() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    let other = Address { shelf: 1, slot: 2 };
    let header = Header::request(U, I, other);
    let header = Header {
        flags: aoede_wire::Flags::RESPONSE,
        ..header
    };
    let mut out = vec![0; 60];
    Body::Config(Config::default())
        .encode(header, &mut out)
        .unwrap();
    bench.session.handle_frame(bench.now, PortId(0), &out);
    assert_eq!(bench.session.paths().count(), 0);
    assert_eq!(bench.stats().ignored, 1);
}
