//! Golden frames of §16 and §18.3: what a session sends and takes is these bytes.

use aoede_initiator::{Answer, Discovery, Error, PortId, Registers, Request, Settings, Wanted};
use aoede_wire::{Opcode, Status};

use crate::bench::{Bench, ms, quick};
use crate::target::{ALL, Speaks};

/// Bytes written as people write them: hexadecimal, spaces anywhere.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A request of the golden initiator; the bytes from offset 14 on.
fn request(text: &str) -> Vec<u8> {
    hex(&format!("02000000000a 02000000000b 88a2 {text}"))
}

/// A response to it.
fn response(text: &str) -> Vec<u8> {
    hex(&format!("02000000000b 02000000000a 88a2 {text}"))
}

fn asking_for(wanted: Wanted) -> Settings {
    Settings { wanted, ..quick() }
}

fn write(lba: u64) -> Request<Vec<u8>> {
    let buffer = vec![0x5A; 512];
    Request::Write { lba, buffer }
}

#[test]
fn coalesced_write_reply() {
    let settings = asking_for(Wanted {
        coalesced_write_reply: true,
        ..Wanted::NOTHING
    });
    let mut bench = Bench::with_next_tag(0x31, ALL, &settings);
    let ids = [0x18, 0x08, 0x10].map(|lba| bench.submit(write(lba)));
    let sent: Vec<_> = bench
        .transmit()
        .into_iter()
        .map(|(_, frame)| frame)
        .collect();
    let data = vec![0x5A; 512];
    let expected = [
        "10 00 0001 01 00 00000031 41 00 01 34 180000000000 0000",
        "10 00 0001 01 00 00000032 41 00 01 34 080000000000 0000",
        "10 00 0001 01 00 00000033 41 00 01 34 100000000000 0000",
    ]
    .map(|text| [request(text), data.clone()].concat());
    assert_eq!(sent, expected);

    let answer = response(
        "18 00 0001 01 00 00000032 41 00 00 40 080000000000 0000 02
         00000033 100000000000 00 40 00 000000
         00000031 180000000000 04 61 01 000000",
    );
    bench.receive(PortId(0), &answer);
    let registers = Registers {
        status: Status(0x61),
        error: 4,
        not_done: 1,
        lba: 0x18,
    };
    let results = ids.map(|id| bench.wait(id, ms(0)).result);
    assert_eq!(
        results,
        [
            Err(Error::Device { registers }),
            Ok(Answer::Done),
            Ok(Answer::Done)
        ]
    );
    assert_eq!(bench.stats().coalesced_replies, 2);
}

/// vblade announces itself with version 0. It is heard all the same: it may have another disk now.
#[test]
fn vblades_announcement() {
    let mut frame = hex("ffffffffffff 02000000000a 88a2 08 00 0001 01 01 00000000");
    frame.extend(hex("0010 4019 02 10 0000"));
    let mut bench = Bench::attached(1500, Speaks::Nothing);
    bench.receive(PortId(0), &frame);
    assert_eq!(bench.path(0).buffer_count, 16);
    bench.run(ms(1000));
    assert_eq!(bench.sent_ata(Opcode::Identify).len(), 1);

    let mut discovery = Discovery::new();
    discovery.handle_port(PortId(0), bench.ports[0]);
    discovery.handle_frame(PortId(0), &frame);
    assert_eq!(discovery.found()[0].firmware, 0x4019);

    // Nothing else has version 0.
    let mut answer = frame.clone();
    answer[20] = 1;
    let ignored = bench.stats().ignored;
    bench.receive(PortId(0), &answer);
    assert_eq!(bench.stats().ignored, ignored + 1);
}

#[test]
fn checksums() {
    let crc8x4 = Wanted {
        crc8x4: true,
        ..Wanted::NOTHING
    };
    let crc32c = Wanted {
        crc32c: true,
        ..Wanted::NOTHING
    };
    // If both are asked for, the last that is accepted is in force (§18.2).
    let both = Wanted {
        crc8x4: true,
        ..crc32c
    };
    for (wanted, sent, received) in [
        (crc8x4, "020c6185", "6f0c0c0f"),
        (crc32c, "e2d1febd", "3dba60d6"),
        (both, "e2d1febd", "3dba60d6"),
    ] {
        let mut bench = Bench::with_next_tag(0x29, ALL, &asking_for(wanted));
        let data = vec![0x5A; 512];
        let id = bench.submit(write(8));
        let (port, frame) = bench.transmit().remove(0);
        let registers = request("10 00 0001 01 00 00000029 41 00 01 34 080000000000 0000");
        assert_eq!(frame, [registers, data.clone(), hex(sent)].concat());
        let answer = response("18 00 0001 01 00 00000029 41 00 00 40 080000000000 0000");
        bench.receive(port, &[answer, vec![0; 24]].concat());
        assert_eq!(bench.wait(id, ms(0)).result, Ok(Answer::Done));

        let buffer = vec![0; 512];
        let id = bench.submit(Request::Read { lba: 8, buffer });
        let (port, frame) = bench.transmit().remove(0);
        let registers = request("10 00 0001 01 00 0000002a 40 00 01 24 080000000000 0000");
        assert_eq!(frame, [registers, vec![0; 24]].concat());
        let answer = response("18 00 0001 01 00 0000002a 40 00 00 40 080000000000 0000");
        let mut answer = [answer, data.clone(), hex(received)].concat();
        answer[300] ^= 1;
        bench.receive(port, &answer);
        assert_eq!(bench.stats().damaged, 1);
        answer[300] ^= 1;
        bench.receive(port, &answer);
        assert_eq!(bench.wait(id, ms(0)).buffer, Some(data));
    }
}
