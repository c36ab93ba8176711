//! Any frames, in any order: nothing panics, every response is what a response must be, and no
//! byte in it comes from anywhere but the request and the target.

use aoede_target::{Action, Outcome, TargetSettings, Trim, WriteCache};
use aoede_wire::MacAddr;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::bench::{Bench, I, J, SECTORS, T, check_response, port, settings};

/// A frame for e1.1 that gets past the first checks, with an argument that often makes sense.
fn frame() -> impl Strategy<Value = Vec<u8>> {
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

/// The response to a frame over a buffer filled with `poison`, and what the disk was asked for.
fn response(bench: &mut Bench, bytes: &[u8], poison: u8) -> (Option<Vec<u8>>, Option<Action>) {
    let port = bench.port;
    let mut out = vec![poison; port.frame_bytes()];
    let Ok((frame, mut selection)) = bench.exports.screen(&port, bytes) else {
        return (None, None);
    };
    let (_, target) = bench.exports.next(&mut selection).unwrap();
    match target.handle_frame(&port, &frame, &mut out) {
        Outcome::Ignore(_) => (None, None),
        Outcome::Respond(len) => {
            out.truncate(len);
            (Some(out), None)
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
            let len = target.handle_done(admitted.request, Ok(()), &mut out);
            out.truncate(len);
            (Some(out), Some(admitted.action))
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_do_no_harm(frames in vec(vec(any::<u8>(), 0..200), 0..20)) {
        let mut bench = bench(1500);
        for bytes in frames {
            let (response, _) = response(&mut bench, &bytes, 0xA5);
            if let Some(response) = response {
                check_response(&bench.port, &bytes, &response);
            }
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
            let (a, action) = response(&mut one, &bytes, 0xA5);
            let (b, _) = response(&mut other, &bytes, 0x5A);
            prop_assert_eq!(&a, &b);
            if let Some(response) = a {
                check_response(&one.port, &bytes, &response);
            }
            if bytes[16..19].contains(&0xFF) {
                prop_assert_eq!(action, None);
            }
        }
        let target = one.target();
        prop_assert!(target.mask().iter().all(|mac| mac.is_unicast()));
        prop_assert!(target.mask().len() <= 255 && target.reservation().len() <= 255);
        prop_assert!(target.config_string().len() <= 1024);
    }

    #[test]
    fn every_frame_is_counted_once(frames in vec(frame(), 1..30)) {
        let mut bench = bench(1500);
        for bytes in &frames {
            response(&mut bench, bytes, 0);
        }
        let before = bench.exports.ignored().total();
        let stats = bench.target().stats();
        let disk = stats.reads + stats.writes + stats.flushes + stats.trims;
        let total = before + stats.ignored.total() + stats.responses + disk;
        prop_assert_eq!(total, frames.len() as u64);
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
