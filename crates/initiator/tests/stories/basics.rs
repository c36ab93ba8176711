//! One port, one target: attaching, data, the limits.

use std::time::Duration;

use aoede_initiator::{
    Answer, Error, Instant, PortId, Refusal, Request, Session, Settings, Wanted,
};
use aoede_target::Action;
use aoede_wire::{Command, Opcode};

use crate::bench::{Bench, E1_1, J, SECTORS, SEED, ms, quick};
use crate::target::{ALL, Speaks};

const CONGESTION: Wanted = Wanted {
    congestion: true,
    ..Wanted::NOTHING
};

fn pattern(sectors: usize, seed: u8) -> Vec<u8> {
    (0..sectors * 512).map(|i| (i / 7) as u8 ^ seed).collect()
}

fn read_at(lba: u64, bytes: usize) -> Request<Vec<u8>> {
    Request::Read {
        lba,
        buffer: vec![0; bytes],
    }
}

#[test]
fn what_was_written_is_read_back_whatever_its_size() {
    for mtu in [1500, 9000] {
        let mut bench = Bench::attached(mtu, Speaks::Nothing);
        for (lba, sectors) in [(0, 1), (7, 2), (100, 300), (SECTORS - 5, 5)] {
            let data = pattern(sectors, lba as u8);
            assert_eq!(bench.write(lba, data.clone()), Ok(Answer::Done));
            let at = lba as usize * 512;
            assert_eq!(bench.models[0].disk[at..at + data.len()], data);
            assert_eq!(bench.read(lba, sectors), data);
        }
        assert_eq!(bench.stats().repeated, 0);
        assert!(bench.session.is_idle());
    }
}

#[test]
fn requests_that_make_no_sense_come_back_with_a_reason() {
    let mut bench = Bench::new(1500, Speaks::Nothing, quick());
    let refusal = |bench: &mut Bench, request| {
        let refused = bench.session.submit(bench.now, request).unwrap_err();
        refused.why
    };
    assert_eq!(refusal(&mut bench, read_at(0, 512)), Refusal::NotAttached);
    bench.attach();
    assert_eq!(refusal(&mut bench, read_at(0, 100)), Refusal::NotSectors);
    assert_eq!(refusal(&mut bench, read_at(SECTORS, 512)), Refusal::Beyond);
    assert_eq!(refusal(&mut bench, read_at(u64::MAX, 512)), Refusal::Beyond);
    let sectors = SECTORS + 1;
    assert_eq!(
        refusal(&mut bench, Request::Trim { lba: 0, sectors }),
        Refusal::Beyond
    );
    let refused = bench
        .session
        .submit(bench.now, read_at(SECTORS, 1024))
        .unwrap_err();
    assert_eq!(refused.request, read_at(SECTORS, 1024));
    assert_eq!(bench.ask(read_at(SECTORS, 0)), Ok(Answer::Done));
}

#[test]
fn no_more_requests_are_taken_than_the_settings_allow() {
    let settings = Settings {
        requests: 3,
        ..quick()
    };
    let mut bench = Bench::new(1500, Speaks::Nothing, settings);
    bench.attach();
    for lba in 0..3 {
        bench.submit(read_at(lba, 512));
    }
    let refused = bench
        .session
        .submit(bench.now, read_at(3, 512))
        .unwrap_err();
    assert_eq!(refused.why, Refusal::Full);
    bench.exchange();
    bench.submit(read_at(3, 512));
    bench.exchange();
    assert_eq!(bench.done.len(), 4);
}

#[test]
fn trims_reach_the_disk_and_disks_without_them_refuse() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.write(0, pattern(20, 1)).unwrap();
    assert_eq!(
        bench.ask(Request::Trim {
            lba: 4,
            sectors: 10
        }),
        Ok(Answer::Done)
    );
    assert_eq!(
        bench.models[0].actions.last(),
        Some(&Action::Trim { blocks: 1 })
    );
    assert_eq!(bench.read(4, 10), vec![0; 5120]);
    assert_ne!(bench.read(14, 1), vec![0; 512]);
    let target = aoede_target::TargetSettings::new(E1_1, SECTORS);
    let mut bench = Bench::with(1500, target, Speaks::Nothing, quick());
    bench.attach();
    let trim = Request::Trim {
        lba: 4,
        sectors: 10,
    };
    let refused = bench.session.submit(bench.now, trim).unwrap_err();
    assert_eq!(refused.why, Refusal::Unsupported);
}

#[test]
fn a_disk_tells_who_it_is() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    let Ok(Answer::Identity(identity)) = bench.ask(Request::Identify) else {
        panic!("no identity")
    };
    assert_eq!(Some(&*identity), bench.session.identity());
    assert_eq!(
        (identity.serial.as_str(), identity.model.as_str()),
        ("serial 1", "AoEde")
    );
    assert_eq!(identity.sectors, SECTORS);
    assert!(identity.lba48 && identity.flush && identity.flush_ext && !identity.write_cache);
    assert_eq!((identity.trim_blocks, identity.trim_zeroes), (2, true));
}

#[test]
fn a_closed_session_gives_every_buffer_back() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.loses = Box::new(|_, _| true);
    for _ in 0..5 {
        let buffer = pattern(3, 0);
        bench.submit(Request::Write { lba: 1, buffer });
    }
    bench.transmit();
    bench.session.close(bench.now);
    bench.take_events();
    assert_eq!(bench.done.len(), 5);
    for done in &bench.done {
        assert_eq!(done.result, Err(Error::Closed));
        assert_eq!(done.buffer.as_deref(), Some(&pattern(3, 0)[..]));
    }
    assert!(bench.session.submit(bench.now, read_at(0, 512)).is_err());
    // For good: not even an announcement brings it back.
    bench.loses = Box::new(|_, _| false);
    bench.sent.clear();
    bench.announce(0);
    bench.run(Duration::from_secs(120));
    assert!(!bench.session.is_attached());
    assert!(bench.session.submit(bench.now, read_at(0, 512)).is_err());
    assert!(bench.sent.is_empty(), "{} frames", bench.sent.len());
    assert_eq!(bench.session.poll_timeout(), None);
}

/// A program that only measures leaves what others with its MAC have agreed on.
#[test]
fn a_measurement_resets_nothing() {
    let settings = Settings {
        wanted: CONGESTION,
        ..Settings::default()
    };
    let mut bench = Bench::new(1500, ALL, settings);
    bench.run(Duration::from_secs(3));
    assert_eq!(bench.path(0).measured, Some(40));
    let asked = bench.sent_commands(Command::Extension);
    assert!(asked[0].argument[2..].starts_with(b"congestion\0\0"));
    assert!(
        asked[1..]
            .iter()
            .all(|frame| frame.argument[2..].starts_with(b"congestion\0"))
    );
}

/// A target that was measured a moment ago lets probes go unanswered (§10), which is no reason to
/// go slowly.
#[test]
fn a_measurement_without_answers_says_nothing() {
    let mut bench = Bench::new(1500, ALL, Settings::default());
    bench.models[0].room = 0;
    bench.run(Duration::from_secs(3));
    assert_eq!(bench.path(0).measured, Some(0));
    for lba in 0..100 {
        bench.read(lba, 1);
    }
    assert_eq!(bench.path(0).window, 64);
}

#[test]
fn a_path_is_settled_when_all_is_found_out() {
    let mut bench = Bench::new(9000, ALL, Settings::default());
    bench.run(ms(2));
    assert!(bench.session.is_attached());
    let path = bench.path(0);
    assert!(path.ready && !path.settled, "being measured");
    assert_eq!(path.measured, None);
    bench.run(Duration::from_secs(1));
    let path = bench.path(0);
    assert!(path.settled);
    assert_eq!((path.sectors_per_frame, path.measured), (17, Some(40)));
    bench.loses = Box::new(|_, _| true);
    bench.submit(read_at(0, 512));
    bench.run(Duration::from_secs(10));
    let path = bench.path(0);
    assert!(path.settled && !path.ready, "it does not answer");
}

#[test]
fn a_path_is_not_settled_while_frames_are_tried_or_a_measurement_is_to_come() {
    let mut bench = Bench::new(9000, ALL, quick());
    bench.loses = Box::new(|_, frame| frame.len() > 1514);
    bench.run(ms(50));
    let path = bench.path(0);
    assert!(path.ready && !path.settled);
    bench.run(Duration::from_secs(5));
    let path = bench.path(0);
    assert_eq!((path.sectors_per_frame, path.settled), (2, true));

    // One path is measured after the other.
    let mut bench = Bench::new(1500, ALL, Settings::default());
    bench.add_port(J, 1500);
    bench.run(ms(300));
    assert!(!bench.path(0).settled && !bench.path(1).settled);
    bench.run(ms(700));
    let settled = [bench.path(0).settled, bench.path(1).settled];
    assert!(settled[0] != settled[1], "{settled:?}");
    bench.run(ms(1000));
    assert!(bench.path(0).settled && bench.path(1).settled);
}

/// A request that waits its turn is not given up while there is progress with others.
#[test]
fn a_long_queue_is_no_silence() {
    let settings = Settings {
        give_up: Duration::from_secs(1),
        ..quick()
    };
    let mut bench = Bench::new(1500, Speaks::Nothing, settings);
    bench.attach();
    for lba in 0..100 {
        bench.submit(read_at(lba, 512));
    }
    for _ in 0..100 {
        // One answer in 50 ms: the last waits for five seconds.
        for (port, frame) in bench.transmit() {
            let answers = bench.deliver(&frame);
            bench.now += ms(50);
            bench.session.handle_timeout(bench.now);
            bench.receive(port, &answers[0]);
        }
    }
    bench.take_events();
    assert_eq!(bench.done.len(), 100);
    assert!(
        bench
            .done
            .iter()
            .all(|done| done.result == Ok(Answer::Done))
    );
}

#[test]
fn tags_start_where_the_seed_says() {
    let mut first = Bench::new(1500, Speaks::Nothing, quick());
    first.run(ms(10));
    assert_eq!(
        u32::from_be_bytes(first.sent[0][20..24].try_into().unwrap()),
        SEED as u32
    );
    let other: Session<Vec<u8>> = Session::new(E1_1, quick(), SEED + 1);
    first.session = other;
    first.sent.clear();
    let port = first.ports[0];
    first.session.handle_port(Instant::START, PortId(0), port);
    first.run(ms(10));
    assert_eq!(
        u32::from_be_bytes(first.sent[0][20..24].try_into().unwrap()),
        SEED as u32 + 1
    );
}

#[test]
fn reads_travel_together_where_the_target_knows_how() {
    let mut bench = Bench::attached(1500, ALL);
    bench.write(0, pattern(256, 3)).unwrap();
    bench.sent.clear();
    // 8 KiB in two-sector frames: 8 pieces, one window.
    assert_eq!(bench.read(16, 16), pattern(256, 3)[16 * 512..32 * 512]);
    assert_eq!(bench.stats().coalesced, 7);
    let frames = bench.sent_ata(Opcode::ReadExt);
    assert_eq!(frames.len(), 1);
    assert_eq!(frames[0].1.data[0], 7);
    assert_eq!(frames[0].0.len(), 37 + 7 * 16);
    assert_eq!(bench.stats().repeated, 0);
}

#[test]
fn a_measurement_limits_the_window() {
    // A target that wakes late has measured the same. Once a millisecond was too much.
    for lag in [0, 3, 150] {
        measures(lag);
    }
}

fn measures(lag_ms: u64) {
    let mut bench = Bench::new(1500, ALL, Settings::default());
    bench.models[0].room = 40;
    bench.models[0].lag = Duration::from_millis(lag_ms);
    bench.run(Duration::from_secs(3));
    let path = bench.path(0);
    assert_eq!((path.measured, path.probes), (Some(40), 256));
    // 4 × the buffer count of 64, each as long as a full write.
    let probes = bench
        .sent
        .iter()
        .filter(|frame| frame[26..].starts_with(b"congestion\0"));
    assert_eq!(probes.clone().count(), 256);
    assert!(probes.clone().all(|frame| frame.len() == 36 + 1024));
    for lba in 0..400 {
        bench.read(lba, 1);
    }
    assert_eq!(bench.path(0).window, 30);
    // Not again for an announcement.
    bench.sent.clear();
    bench.announce(0);
    bench.run(Duration::from_secs(3));
    assert!(
        !bench
            .sent
            .iter()
            .any(|frame| frame[26..].starts_with(b"congestion\0"))
    );
}
