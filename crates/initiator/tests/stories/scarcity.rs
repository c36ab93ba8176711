//! Few places, and much that wants them: nothing waits for ever.

use std::time::Duration;

use aoede_initiator::{Answer, PortId, Request, RequestId, Settings};

use crate::bench::{Bench, ms, quick};
use crate::target::Speaks;

const SECOND: Duration = Duration::from_secs(1);

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

/// A write that was sent in one frame and is sent in many now, all of which are lost.
fn narrowed(settings: Settings) -> (Bench, RequestId) {
    let mut bench = Bench::new(9000, Speaks::Nothing, settings);
    bench.attach();
    bench.loses = Box::new(|_, _| true);
    let id = bench.submit(write_at(0, 17, 1));
    bench.run(ms(1));
    bench.set_port(PortId(0), |port| port.mtu = 1500);
    bench.run(100 * SECOND);
    (bench, id)
}

/// Pieces of a request took the places of others, which then never ended.
#[test]
fn every_request_has_a_place_for_its_first_piece() {
    let settings = Settings {
        requests: 4,
        in_flight: 1,
        ..quick()
    };
    let (mut bench, _) = narrowed(settings);
    for lba in [100, 200, 300] {
        bench.submit(read_at(lba, 1));
    }
    bench.run(400 * SECOND);
    assert_eq!(bench.done.len(), 4);
    assert!(bench.session.is_idle());
}

/// The rest of such a write, which has no place for another part, held up the parts behind it.
#[test]
fn what_needs_no_place_passes_what_has_none() {
    for requests in [1, 4] {
        let settings = Settings {
            requests,
            in_flight: 1,
            ..quick()
        };
        let (mut bench, id) = narrowed(settings);
        bench.loses = Box::new(|_, _| false);
        assert_eq!(bench.wait(id, 30 * SECOND).result, Ok(Answer::Done));
        assert_eq!(bench.models[0].disk[..17 * 512], [1; 17 * 512]);
    }
}

/// Trims are waited for so long that nothing may stand behind them, whatever their number.
#[test]
fn rule_5_many_lost_trims_keep_nothing_else_waiting() {
    for in_flight in [4, 256] {
        let settings = Settings {
            in_flight,
            ..quick()
        };
        let mut bench = Bench::new(1500, Speaks::Nothing, settings);
        bench.attach();
        bench.loses = Box::new(|_, frame| frame[19] == 0 && frame[27] == 0x06);
        for lba in 0..20 {
            let (lba, sectors) = (8 * lba, 8);
            bench.submit(Request::Trim { lba, sectors });
        }
        for round in 1..4 {
            for lba in 0..20 {
                bench.submit(read_at(1000 + 4 * lba, 4));
            }
            bench.run(ms(100));
            assert_eq!(bench.done.len(), 20 * round);
        }
        bench.loses = Box::new(|_, _| false);
        bench.run(61 * SECOND);
        assert_eq!(bench.done.len(), 80);
        assert!(
            bench
                .done
                .iter()
                .all(|done| done.result == Ok(Answer::Done))
        );
    }
}
