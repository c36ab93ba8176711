//! A flush over the restart of a target with a write cache (§15, 7): each loss is told.

use std::time::Duration;

use aoede_initiator::{Answer, Error, PortId, Request, Settings};
use aoede_wire::Opcode;

use crate::bench::{Bench, E1_1, I, SECTORS, U, ms, quick};
use crate::target::{ALL, Speaks, cached, settings};

const BOTH: [Speaks; 2] = [ALL, Speaks::Nothing];

fn with_cache(speaks: Speaks, settings: Settings) -> Bench {
    let target = cached(crate::target::settings(E1_1, SECTORS));
    let mut bench = Bench::with(1500, target, speaks, settings);
    bench.attach();
    bench
}

fn write_at(lba: u64) -> Request<Vec<u8>> {
    Request::Write {
        lba,
        buffer: vec![1; 512],
    }
}

#[test]
fn rule_7_a_flush_by_another_process_fails_once() {
    for speaks in BOTH {
        let mut bench = with_cache(speaks, quick());
        assert_eq!(bench.ask(write_at(1)), Ok(Answer::Done));
        assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
        // It loses nothing: all was flushed.
        bench.models[0].restart();
        assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));

        assert_eq!(bench.ask(write_at(1)), Ok(Answer::Done));
        bench.models[0].restart();
        assert_eq!(bench.ask(Request::Flush), Err(Error::CacheLost));
        assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
        assert_eq!(bench.ask(write_at(1)), Ok(Answer::Done));
        assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
    }
}

/// The number is asked for after the answer to the flush: one that was asked for before would be
/// that of the old process, if the restart was between.
#[test]
fn rule_7_the_number_is_asked_for_behind_each_flush() {
    let mut bench = with_cache(ALL, quick());
    bench.ask(write_at(1)).unwrap();
    bench.sent.clear();
    let id = bench.submit(Request::Flush);
    let (port, flush) = bench.transmit().remove(0);
    assert_eq!(flush[27], 0xEA);
    let answers = bench.deliver(&flush);
    assert!(bench.transmit().is_empty());
    bench.receive(port, &answers[0]);
    let (_, question) = bench.transmit().remove(0);
    assert_eq!((question[27], question[26]), (0xEC, 1));
    assert!(bench.done.is_empty());
    let answers = bench.deliver(&question);
    bench.receive(port, &answers[0]);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
    assert_eq!(bench.sent.len(), 2);
}

/// Without a cache nothing can be lost: it is not asked for, unless something has happened that a
/// restart may be the reason for.
#[test]
fn rule_7_a_target_without_a_cache_is_asked_when_something_has_happened() {
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    for (answers_lost, questions) in [(0, 0), (1, 1), (0, 0)] {
        bench.run(Duration::from_secs(1));
        bench.sent.clear();
        let mut left = answers_lost;
        bench.loses = Box::new(move |_, frame| {
            let lost = left > 0 && frame[27] == 0x34;
            left -= usize::from(lost);
            lost
        });
        bench.ask(write_at(1)).unwrap();
        // A lost write is a reason to look who is there.
        bench.run(Duration::from_secs(1));
        bench.sent.clear();
        assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
        assert_eq!(bench.sent_ata(Opcode::Identify).len(), questions);
    }
    // One that had none, and has one now, is another.
    bench.models[0] = crate::target::Model::new(cached(settings(E1_1, SECTORS)), Speaks::Nothing);
    bench.ask(write_at(1)).unwrap();
    bench.announce(0);
    assert_eq!(bench.ask(Request::Flush), Err(Error::CacheLost));
    assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
}

fn is_question(frame: &[u8]) -> bool {
    frame[19] == 0 && frame[27] == 0xEC || frame[19] == 0x23
}

/// The old process has taken a write, and its answer comes when the new one is known already.
#[test]
fn rule_7_a_write_that_was_under_way_at_the_restart_is_not_trusted() {
    // Where tags are tracked such an answer does not count, and the write is repeated.
    let mut bench = with_cache(Speaks::Nothing, quick());
    let id = bench.submit(write_at(3));
    let (port, write) = bench.transmit().remove(0);
    let answer = bench.deliver(&write).remove(0);
    bench.models[0].restart();
    bench.announce(0);
    while let Some((port, question)) = bench
        .transmit()
        .into_iter()
        .find(|(_, frame)| is_question(frame))
    {
        for answer in bench.deliver(&question) {
            bench.receive(port, &answer);
        }
    }
    assert!(bench.done.is_empty());
    bench.receive(port, &answer);
    assert_eq!(bench.wait(id, ms(1)).result, Ok(Answer::Done));
    assert_eq!(bench.ask(Request::Flush), Err(Error::CacheLost));
    assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
}

/// Every caller who asked for a flush before the loss was known must hear of it: each may have
/// writes among those that are gone.
#[test]
fn rule_7_all_flushes_under_way_tell_of_the_loss() {
    let mut bench = with_cache(ALL, quick());
    bench.ask(write_at(1)).unwrap();
    bench.models[0].restart();
    let flushes = [(); 3].map(|()| bench.submit(Request::Flush));
    for id in flushes {
        assert_eq!(bench.wait(id, ms(500)).result, Err(Error::CacheLost));
    }
    assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
}

/// The question is lost, the path is cut: it goes by another path.
#[test]
fn rule_7_the_question_is_repeated_like_any_request() {
    let mut bench = with_cache(Speaks::Nothing, quick());
    bench.add_station(U, 1500, None);
    let other = bench.add_port(crate::bench::J, 1500);
    assert_eq!(other, PortId(1));
    bench.run(Duration::from_secs(1));
    bench.ask(write_at(1)).unwrap();
    bench.loses = Box::new(|_, frame| frame[27] == 0xEC && frame[6..12] == I.0);
    assert_eq!(bench.ask(Request::Flush), Ok(Answer::Done));
    bench.models[0].restart();
    bench.ask(write_at(1)).unwrap();
    assert_eq!(bench.ask(Request::Flush), Err(Error::CacheLost));
}
