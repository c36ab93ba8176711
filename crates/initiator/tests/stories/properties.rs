//! Whatever comes from the network is harmless: no panic, every request ends once, and every buffer
//! comes back.

use std::time::Duration;

use aoede_initiator::{Discovery, Instant, LocalPort, PortId, Request, Settings, Wanted};
use aoede_wire::{ConfigCommand, MacAddr, ReserveCommand};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{Bench, I, T, quick};
use crate::target::{ALL, OLD, Speaks};

/// One of every kind of request.
fn submit_all(bench: &mut Bench) -> usize {
    let command = ConfigCommand::Set;
    let string = b"x".to_vec();
    let macs = vec![I];
    let requests = vec![
        Request::Read {
            lba: 0,
            buffer: vec![0; 20 * 512],
        },
        Request::Write {
            lba: 5,
            buffer: vec![1; 9 * 512],
        },
        Request::Read {
            lba: 6,
            buffer: vec![0; 512],
        },
        Request::Flush,
        Request::Trim { lba: 1, sectors: 9 },
        Request::Identify,
        Request::Config { command, string },
        Request::Mask { directives: vec![] },
        Request::Reserve {
            command: ReserveCommand::Set,
            macs,
        },
    ];
    let count = requests.len();
    for request in requests {
        bench.submit(request);
    }
    count
}

/// Everything that is under way ends, and the session works as before.
fn ends(bench: &mut Bench, count: usize) {
    bench.run(Duration::from_secs(400));
    assert_eq!(bench.done.len(), count);
    let mut ids: Vec<_> = bench.done.iter().map(|done| done.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert_eq!(
        bench
            .done
            .iter()
            .filter(|done| done.buffer.is_some())
            .count(),
        3
    );
    assert!(bench.session.is_idle());
}

fn speaking() -> impl Strategy<Value = Speaks> {
    prop_oneof![Just(Speaks::Nothing), Just(ALL), Just(OLD)]
}

fn bench(speaks: Speaks) -> Bench {
    let settings = Settings {
        wanted: Wanted {
            crc32c: true,
            congestion: true,
            ..Wanted::default()
        },
        ..quick()
    };
    let mut bench = Bench::new(4200, speaks, settings);
    bench.attach();
    bench
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_harmless(
        speaks in speaking(),
        frames in vec(vec(any::<u8>(), 0..200), 0..20),
    ) {
        let mut bench = bench(speaks);
        let count = submit_all(&mut bench);
        bench.transmit();
        for frame in &frames {
            for port in [0, 1, 255] {
                bench.session.handle_frame(bench.now, PortId(port), frame);
            }
        }
        ends(&mut bench, count);
    }

    /// Frames that look right up to a point: the target's own, or its responses to anything, with
    /// some bytes changed, cut or repeated.
    #[test]
    fn changed_responses_are_harmless(
        speaks in speaking(),
        changes in vec((any::<u16>(), any::<u8>(), 0..8_u8), 1..60),
        cuts in vec(0..600_usize, 8),
    ) {
        let mut bench = bench(speaks);
        let count = submit_all(&mut bench);
        let mut changes = changes.into_iter().cycle();
        let mut cuts = cuts.into_iter().cycle();
        for _ in 0..40 {
            for (port, frame) in bench.transmit() {
                for mut answer in bench.deliver(&frame) {
                    let (at, value, kind) = changes.next().unwrap();
                    // Most of the bytes that decide something are among the first.
                    let end = if kind < 6 { 48 } else { answer.len() };
                    let at = usize::from(at) % end.min(answer.len());
                    match kind {
                        0 => answer.truncate(cuts.next().unwrap()),
                        1 => answer.extend_from_slice(&[value; 40]),
                        2 => answer[14] |= 0x04,
                        _ => answer[at] = value,
                    }
                    bench.session.handle_frame(bench.now, port, &answer);
                    if kind == 3 {
                        bench.session.handle_frame(bench.now, port, &answer);
                    }
                }
            }
            bench.take_events();
            if let Some(next) = bench.session.poll_timeout() {
                bench.now = bench.now.max(next);
                bench.session.handle_timeout(bench.now);
            }
        }
        // A session that was told "another version" three times has ended already.
        ends(&mut bench, count);
    }

    /// The same for who only wants to know who is there.
    #[test]
    fn discovery_takes_any_bytes(
        frames in vec(vec(any::<u8>(), 0..100), 0..20),
        changes in vec((0..48_usize, any::<u8>()), 0..20),
    ) {
        let mut discovery = Discovery::new();
        let (mtu, up) = (1500, true);
        discovery.handle_port(PortId(0), LocalPort { mac: I, mtu, up });
        for frame in &frames {
            discovery.handle_frame(PortId(0), frame);
        }
        prop_assert!(discovery.found().len() <= frames.len());
        let mut answer = vec![0; 60];
        answer[..6].copy_from_slice(&I.0);
        answer[6..12].copy_from_slice(&T.0);
        answer[12..20].copy_from_slice(&[0x88, 0xA2, 0x18, 0, 0, 1, 1, 1]);
        for (at, value) in changes {
            answer[at] = value;
            discovery.handle_frame(PortId(0), &answer);
            discovery.handle_timeout(Instant::START);
        }
        for found in discovery.found() {
            prop_assert!(found.mac.is_unicast() && found.mac != MacAddr::ZERO);
            prop_assert!(!found.address.is_wildcard());
        }
    }
}
