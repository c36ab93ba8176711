//! What a session leaves behind: nothing that the next user of its MAC would meet (§15, 8).

use std::collections::BTreeSet;
use std::time::Duration;

use aoede_initiator::{Driver, Instant, SessionId, Settings, Wanted};
use aoede_link::Port as _;
use aoede_link::sim::{SimNet, SimPort};
use aoede_wire::{Body, Command, Frame, MacAddr};

use crate::bench::{Bench, E1_1, I, J, SECTORS, T, Way, facts, ms, quick};
use crate::target::{ALL, Model, Speaks, settings};

/// What was agreed on for a MAC would be in force for the next who uses it: the kernel's initiator,
/// whose tags a target that tracks them takes for old ones.
#[test]
fn a_session_that_ends_takes_back_what_was_agreed_on() {
    let mut bench = Bench::attached(1500, ALL);
    bench.add_port(J, 1500);
    bench.run(Duration::from_secs(1));
    assert!(bench.session.paths().all(|path| path.features.tags));
    for initiator in [I, J] {
        assert_eq!(answers_to_two_reads(&mut bench, initiator), 2);
    }
    let mut farewells = BTreeSet::new();
    let mut out = vec![0xA5; bench.session.frame_bytes()];
    while let Some(transmit) = bench.session.poll_farewell(bench.now, &mut out) {
        let frame = out[..transmit.len].to_vec();
        assert_eq!(frame.len(), 60);
        let Body::Extension(table) = Frame::decode(&frame).unwrap().body().unwrap() else {
            panic!("{frame:02x?}");
        };
        let names: Vec<_> = table.entries().unwrap().map(|entry| entry.bytes).collect();
        assert_eq!(names, [b"reset"]);
        assert_eq!(bench.deliver(&frame).len(), 1);
        farewells.insert(frame[..12].to_vec());
    }
    assert_eq!(
        farewells,
        BTreeSet::from([[T.0, I.0].concat(), [T.0, J.0].concat()])
    );
    for initiator in [I, J] {
        assert_eq!(answers_to_two_reads(&mut bench, initiator), 1);
    }
}

/// How many reads of a frame that has two are answered: the second is padding to a target that has
/// agreed on nothing (§8).
fn answers_to_two_reads(bench: &mut Bench, initiator: MacAddr) -> usize {
    let mut frame = vec![0; 60];
    frame[..6].copy_from_slice(&T.0);
    frame[6..12].copy_from_slice(&initiator.0);
    frame[12..20].copy_from_slice(&[0x88, 0xA2, 0x10, 0, 0, 1, 1, 0]);
    frame[24..28].copy_from_slice(&[0x40, 0, 1, 0x24]);
    frame[36] = 1;
    frame[52] = 1;
    bench.deliver(&frame).len()
}

#[test]
fn who_agreed_on_nothing_has_nothing_to_take_back() {
    let congestion = Wanted {
        congestion: true,
        ..Wanted::NOTHING
    };
    for (speaks, wanted) in [
        (Speaks::Nothing, Wanted::default()),
        (ALL, Wanted::NOTHING),
        (ALL, congestion),
    ] {
        let settings = Settings {
            wanted,
            ..Settings::default()
        };
        let mut bench = Bench::new(1500, speaks, settings);
        bench.attach();
        let mut out = vec![0; bench.session.frame_bytes()];
        assert!(bench.session.poll_farewell(bench.now, &mut out).is_none());
    }
}

/// The target may have agreed, and its answers were lost.
#[test]
fn what_was_asked_for_without_an_answer_is_taken_back() {
    let mut bench = Bench::new(1500, ALL, quick());
    bench.loses = Box::new(|way, frame| {
        let command = Frame::decode(frame).unwrap().header.command;
        way == Way::Response && command == Command::Extension
    });
    bench.attach();
    assert!(!bench.path(0).features.tags);
    assert_eq!(answers_to_two_reads(&mut bench, I), 2);
    let mut out = vec![0; bench.session.frame_bytes()];
    let farewell = bench.session.poll_farewell(bench.now, &mut out).unwrap();
    bench.loses = Box::new(|_, _| false);
    bench.deliver(&out[..farewell.len]);
    assert_eq!(answers_to_two_reads(&mut bench, I), 1);
    assert!(bench.session.poll_farewell(bench.now, &mut out).is_none());
}

/// Only the target's tag window tells the late copies of a write that was sent again.
#[test]
fn what_tells_late_copies_is_not_taken_back() {
    let mut bench = Bench::attached(1500, ALL);
    let mut lost = 1;
    bench.loses = Box::new(move |way, frame| {
        let loses = way == Way::Response && frame[19] == 0 && lost > 0;
        lost -= i32::from(loses);
        loses
    });
    bench.write(0, vec![1; 512]).unwrap();
    assert_eq!(bench.stats().repeated, 1);
    let mut out = vec![0; bench.session.frame_bytes()];
    assert!(bench.session.poll_farewell(bench.now, &mut out).is_none());
}

/// What the other end of the segment hears after its initiator has left in this way.
fn last_words(leave: impl FnOnce(&mut Driver<SimPort>, SessionId)) -> Vec<Vec<u8>> {
    let net = SimNet::new(3);
    let mut port = net.attach("target", 1500);
    let facts = facts(port.interface().mac, 1500);
    let mut model = Model::new(settings(E1_1, SECTORS), ALL);
    let mut driver = Driver::new(vec![net.attach("initiator", 1500)]);
    let id = driver.attach(E1_1, quick(), 7);
    let mut now = Instant::START;
    while !driver.session_mut(id).unwrap().is_attached() {
        driver.turn(now);
        while let Some(frame) = port.receive() {
            model.take(now, 0, &facts, frame);
        }
        let answers = model.responses(now).into_iter();
        port.send(&answers.map(|(_, frame)| frame).collect::<Vec<_>>());
        now += ms(1);
    }
    driver.turn(now);
    while port.receive().is_some() {}
    leave(&mut driver, id);
    assert!(driver.session_mut(id).is_none());
    std::iter::from_fn(|| port.receive().map(<[u8]>::to_vec)).collect()
}

#[test]
fn the_shell_sends_what_a_session_takes_back() {
    let now = Instant::START + Duration::from_secs(1);
    let words = last_words(|driver, id| {
        assert!(driver.detach(now, id));
        driver.turn(now);
        assert!(!driver.detach(now, id));
    });
    assert_eq!(words.len(), 1);
    assert!(words[0][26..].starts_with(b"reset\0\0"));
    let words = last_words(|driver, _| driver.close(now));
    assert_eq!(words.len(), 1);
    assert!(words[0][26..].starts_with(b"reset\0\0"));
}
