//! Any frames, in any order: nothing panics, every response is what a response must be, and no
//! byte in it comes from anywhere but the request and the target.

use aoede_target::{Action, Outcome, Target, TargetSettings, Trim, WriteCache};
use aoede_wire::{MacAddr, Opcode};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{
    Bench, I, J, SECTORS, T, ata_with, check_response, extension, port, settings, tagged,
};

/// A frame for e1.1 that gets past the first checks, with an argument that often makes sense.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![6 => command(), 2 => table(), 1 => reads(), 1 => writes()]
}

fn table() -> impl Strategy<Value = Vec<u8>> {
    let name = prop::sample::select(vec![
        "reset",
        "coalesced_read",
        "tag_inc_le",
        "tag_inc_be",
        "tag_random",
        "congestion",
        "1",
        "-2",
        "crc8x4",
        "coalesced_write_reply",
        "crc32c",
        "foo",
    ]);
    let from = prop::sample::select(vec![I, J]);
    (from, vec(name, 0..5)).prop_map(|(from, names)| extension(from, &names))
}

/// A read that is often followed by others.
fn reads() -> impl Strategy<Value = Vec<u8>> {
    (any::<u8>(), vec((any::<u16>(), 0..5_u8), 0..6)).prop_map(|(announced, entries)| {
        let mut payload = vec![announced % 8];
        for (lba, count) in entries {
            let [low, high] = lba.to_le_bytes();
            payload.extend([9, 9, 9, low, low, high, 0, 0, 0, 0, 1, 2, 3, 4, 5, count]);
        }
        ata_with(Opcode::ReadExt, 8, 1, &payload)
    })
}

/// A write with one of few tags, perhaps with something behind its data.
fn writes() -> impl Strategy<Value = Vec<u8>> {
    (0..4_u8, any::<bool>(), vec(any::<u8>(), 0..6)).prop_map(|(tag, trim, behind)| {
        let data = [vec![0; 512], behind].concat();
        let opcode = if trim {
            Opcode::DataSetManagement
        } else {
            Opcode::Write
        };
        let mut bytes = ata_with(opcode, 8, 1, &data);
        bytes[25] = u8::from(trim);
        tagged(bytes, [tag, 0, 0, 0])
    })
}

fn command() -> impl Strategy<Value = Vec<u8>> {
    let version_flags = prop_oneof![9 => Just(0x10), 1 => any::<u8>()];
    let address = prop_oneof![
        5 => Just([0, 1, 1]),
        1 => Just([0xFF, 0xFF, 0xFF]),
        1 => Just([0, 1, 0xFF]),
    ];
    let command = prop_oneof![9 => 0u8..4, 1 => Just(0x23), 1 => any::<u8>()];
    let small = prop_oneof![4 => 0u8..6, 1 => any::<u8>()];
    let opcode = prop_oneof![
        prop::sample::select(vec![
            0x06, 0x20, 0x24, 0x30, 0x34, 0xB0, 0xE5, 0xE7, 0xEA, 0xEC, 0xEF
        ]),
        any::<u8>(),
    ];
    let head = (
        version_flags,
        address,
        command,
        any::<[u8; 4]>(),
        any::<bool>(),
    );
    let registers = (small.clone(), small.clone(), small.clone(), opcode);
    let tail = (vec(small, 0..40), 0..1600usize, any::<u8>());
    (head, registers, tail).prop_map(|(head, registers, tail)| {
        let (version_flags, address, command, tag, from_i) = head;
        let (r0, r1, r2, r3) = registers;
        let (start, len, fill) = tail;
        let source = if from_i { I } else { J };
        let mut bytes = [T.0, source.0].concat();
        bytes.extend([0x88, 0xA2, version_flags, 0]);
        bytes.extend(address);
        bytes.push(command);
        bytes.extend(tag);
        bytes.extend([r0, r1, r2, r3]);
        bytes.extend(start);
        if bytes.len() < len {
            bytes.resize(len, fill);
        }
        bytes
    })
}

fn bench(mtu: u32) -> Bench {
    let mut bench = Bench::new(TargetSettings {
        trim: Trim::Supported,
        write_cache: WriteCache::Back,
        ..settings()
    });
    bench.port = port(mtu);
    bench
}

/// What came of a frame.
#[derive(Debug, Default, PartialEq)]
struct Came {
    responses: Vec<Vec<u8>>,
    /// What the disk was asked for.
    actions: Vec<Action>,
    /// How many requests it was.
    requests: u64,
}

/// What comes of a frame, over buffers filled with `poison`.
fn response(bench: &mut Bench, bytes: &[u8], poison: u8) -> Came {
    let port = bench.port;
    let mut came = Came {
        requests: 1,
        ..Came::default()
    };
    let Ok((frame, mut selection)) = bench.exports.screen(&port, bytes) else {
        return came;
    };
    let arrival = bench.arrival();
    let mut out = vec![poison; port.frame_bytes()];
    let (export, target) = bench.exports.next(&mut selection).unwrap();
    match target.handle_frame(&arrival, &frame, &mut out) {
        Outcome::Hold(hold) => {
            check_response(&port, bytes, &out[..hold.len]);
            bench.exports.hold(export, hold, &out);
        }
        Outcome::Reads(mut reads) => {
            came.requests = reads.left() as u64;
            let mut out = vec![poison; port.frame_bytes()];
            while let Some(outcome) = target.next_read(&arrival, &mut reads, &mut out) {
                finish(target, outcome, out, &mut came);
                out = vec![poison; port.frame_bytes()];
            }
        }
        outcome => finish(target, outcome, out, &mut came),
    }
    for response in &came.responses {
        let request = tagged(bytes.to_vec(), response[20..24].try_into().unwrap());
        check_response(&port, &request, response);
    }
    came
}

fn finish(target: &mut Target, outcome: Outcome<'_>, mut out: Vec<u8>, came: &mut Came) {
    match outcome {
        Outcome::Respond(len) => {
            out.truncate(len);
            came.responses.push(out);
        }
        Outcome::Disk(admitted) => {
            let expected_data = match admitted.action {
                Action::Read { lba, sectors } => {
                    assert!(sectors > 0 && lba + u64::from(sectors) <= SECTORS);
                    // What the disk reads is not poison.
                    out[36..36 + sectors as usize * 512].fill(0x11);
                    0
                }
                Action::Write { lba, sectors, .. } => {
                    assert!(sectors > 0 && lba + u64::from(sectors) <= SECTORS);
                    sectors as usize * 512
                }
                Action::Trim { blocks } => blocks as usize * 512,
                Action::Flush => 0,
            };
            assert_eq!(admitted.data.len(), expected_data);
            let bytes = admitted.request.response_bytes();
            let len = target.handle_done(admitted.request, Ok(()), &mut out);
            assert_eq!(len, bytes);
            out.truncate(len);
            came.responses.push(out);
            came.actions.push(admitted.action);
        }
        Outcome::Ignore(_) => {}
        other => panic!("not of a single request: {other:?}"),
    }
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(frames in vec(vec(any::<u8>(), 0..200), 0..20)) {
        let mut bench = bench(1500);
        for bytes in frames {
            response(&mut bench, &bytes, 0xA5);
        }
    }

    /// Two targets in the same state, whose buffers held different bytes before, say the same.
    #[test]
    fn responses_are_well_formed_and_leak_nothing(
        frames in vec(frame(), 1..30),
        mtu in prop_oneof![Just(1042), Just(1500), Just(9000)],
    ) {
        let (mut one, mut other) = (bench(mtu), bench(mtu));
        for bytes in frames {
            let a = response(&mut one, &bytes, 0xA5);
            let b = response(&mut other, &bytes, 0x5A);
            prop_assert_eq!(&a, &b);
            if bytes[16..19].contains(&0xFF) {
                prop_assert_eq!(a.actions, []);
            }
            one.wait(400);
            other.wait(400);
            prop_assert_eq!(one.released(), other.released());
        }
        let target = one.target();
        prop_assert!(target.mask().iter().all(|mac| mac.is_unicast()));
        prop_assert!(target.mask().len() <= 255 && target.reservation().len() <= 255);
        prop_assert!(target.config_string().len() <= 1024);
    }

    #[test]
    fn every_frame_is_counted_once(frames in vec(frame(), 1..30)) {
        let mut bench = bench(1500);
        let mut requests = 0;
        for bytes in &frames {
            requests += response(&mut bench, bytes, 0).requests;
            bench.wait(100);
        }
        bench.wait(1000);
        bench.released();
        let before = bench.exports.ignored().total();
        let stats = bench.target().stats();
        let disk = stats.reads + stats.writes + stats.flushes + stats.trims;
        let total = before + stats.ignored.total() + stats.responses + disk;
        prop_assert_eq!(total, requests);
    }

    #[test]
    fn a_mask_edit_is_all_or_nothing(
        edits in vec(vec((0u8..4, 0u8..6), 0..12), 1..12),
    ) {
        let mut bench = bench(1500);
        let mut model: Vec<MacAddr> = vec![I];
        bench.answer(&crate::bench::mask_edit(I, &[(1.into(), I)]));
        for edit in edits {
            // Station 0 is no single station, code 3 means nothing; I stays, to be heard.
            let edit: Vec<_> = edit.into_iter().map(|(code, n)| {
                let mac = if n == 0 { MacAddr::BROADCAST } else { crate::bench::station(n.into()) };
                (code, mac)
            }).collect();
            let valid = edit.iter().all(|&(code, mac)| code < 3 && (code != 1 || mac.is_unicast()));
            if valid {
                for &(code, mac) in &edit {
                    match code {
                        1 if !model.contains(&mac) => model.push(mac),
                        2 => model.retain(|&other| other != mac),
                        _ => {}
                    }
                }
            }
            let directives: Vec<_> = edit.iter().map(|&(code, mac)| (code.into(), mac)).collect();
            let response = bench.answer(&crate::bench::mask_edit(I, &directives));
            prop_assert_eq!(response[26] == 0, valid);
            prop_assert_eq!(bench.target().mask(), model.as_slice());
        }
    }
}
