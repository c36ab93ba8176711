//! What an export knows of those who use it, for a status display.

use std::time::Duration;

use aoede_target::{Duplicates, ExtensionSet, Initiator};
use aoede_wire::{ConfigCommand, Extension, Opcode};

use crate::bench::{
    Bench, I, J, Seen, ata, ata_with, config, from, from_14, settings, station, tagged, to_all,
};

fn seen(bench: &mut Bench) -> Vec<Initiator> {
    bench.target().initiators().collect()
}

#[test]
fn nobody_is_known_before_the_first_frame() {
    let mut bench = Bench::new(settings());
    assert_eq!(seen(&mut bench), []);
    // A response is no request.
    let announcement = crate::bench::with(config(ConfigCommand::Read, b""), 14, 0x18);
    bench.silence(&announcement);
    assert_eq!(seen(&mut bench), []);
}

#[test]
fn each_is_counted_for_itself() {
    let mut bench = Bench::new(settings());
    bench.wait(1000);
    bench.answer(&from(J, to_all(config(ConfigCommand::Read, b""))));
    bench.wait(500);
    bench.answer(&ata(Opcode::ReadExt, 0, 2));
    bench.answer(&ata(Opcode::ReadExt, 0, 1));
    bench.answer(&ata_with(Opcode::WriteExt, 0, 1, &[1; 512]));
    bench.answer(&ata(Opcode::FlushCache, 0, 0));
    // Refused: beyond the end.
    bench.answer(&ata(Opcode::ReadExt, 1 << 40, 1));
    let plain = Initiator {
        mac: J,
        extensions: ExtensionSet::NONE,
        last_active: Duration::from_secs(1),
        requests: 1,
        bytes_read: 0,
        bytes_written: 0,
        largest_payload_bytes: 0,
        outstanding: 0,
        duplicates: Duplicates::default(),
    };
    let busy = Initiator {
        mac: I,
        last_active: Duration::from_millis(1500),
        requests: 5,
        bytes_read: 3 * 512,
        bytes_written: 512,
        largest_payload_bytes: 2 * 512,
        ..plain
    };
    assert_eq!(seen(&mut bench), [plain, busy]);
}

#[test]
fn requests_with_the_disk_are_outstanding() {
    let mut bench = Bench::new(settings());
    let first = bench.see(&ata(Opcode::ReadExt, 0, 1));
    let second = bench.see(&ata(Opcode::ReadExt, 0, 1));
    assert_eq!(seen(&mut bench)[0].outstanding, 2);
    bench.finish(second);
    assert_eq!(seen(&mut bench)[0].outstanding, 1);
    // It ends as well when the disk fails it.
    bench.failure = Some(aoede_target::DeviceFailure::Fault);
    bench.finish(first);
    assert_eq!(seen(&mut bench)[0].outstanding, 0);
    assert_eq!(seen(&mut bench)[0].bytes_read, 1024);
}

#[test]
fn reads_of_one_frame_are_requests_of_their_own() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["coalesced_read"]);
    let answers = bench.answers(&from_14(
        "10 00 0001 01 00 00000020 40 00 01 24 080000000000 0000 02 \
         00000021 100000000000 0000000000 01 00000022 004000000000 0000000000 01",
    ));
    assert_eq!(answers.len(), 3);
    let known = seen(&mut bench)[0];
    // The table, and three reads, of which one is beyond the end.
    assert_eq!((known.requests, known.bytes_read), (4, 1024));
    assert_eq!(
        known.extensions,
        [Extension::CoalescedRead].into_iter().collect()
    );
}

#[test]
fn repetitions_are_told_by_what_became_of_the_first() {
    let mut bench = Bench::new(settings());
    bench.extend(I, &["tag_inc_be"]);
    let write = |tag: u32| {
        let bytes = ata_with(Opcode::WriteExt, 8, 1, &[1; 512]);
        tagged(bytes, tag.to_be_bytes())
    };
    bench.answer(&write(100_000));
    let Seen::Disk(request, ..) = bench.see(&write(100_001)) else {
        panic!("not executed");
    };
    bench.answer(&write(100_000));
    bench.answer(&write(100_000));
    bench.silence(&write(100_001));
    // Older than the 32768 that are remembered.
    bench.silence(&write(100_001 - 32_768));
    let expected = Duplicates {
        done: 2,
        in_progress: 1,
        stale: 1,
    };
    assert_eq!(seen(&mut bench)[0].duplicates, expected);
    // They went to no disk.
    assert_eq!(seen(&mut bench)[0].bytes_written, 1024);
    let mut out = [0; 60];
    bench.target().handle_done(request, Ok(()), &mut out);
    assert_eq!(seen(&mut bench)[0].outstanding, 0);
}

/// 1024 are known, and the one unheard of for longest makes room.
#[test]
fn a_crowd_is_forgotten_from_its_end() {
    let mut bench = Bench::new(settings());
    let query = config(ConfigCommand::Read, b"");
    for n in 0..1024 {
        bench.answer(&from(station(n), query.clone()));
    }
    bench.answer(&from(station(0), query.clone()));
    bench.answer(&from(I, query.clone()));
    bench.answer(&from(J, query));
    let known = seen(&mut bench);
    let has = |mac| known.iter().filter(|seen| seen.mac == mac).count();
    assert_eq!(known.len(), 1024);
    assert_eq!([I, J, station(0), station(3)].map(has), [1; 4]);
    assert_eq!([station(1), station(2)].map(has), [0; 2]);
}
