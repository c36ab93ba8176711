//! §16: exchanges seen on the wire. Ours differ in padding, firmware version and zeroed registers.

use aoede_target::{TargetSettings, WriteCache};
use aoede_wire::Opcode;

use crate::bench::{Bench, E1_1, I, T, ata, from_14, hex, settings};

/// The response from offset 14 on must be `expected` and zeros behind it.
#[track_caller]
fn exchange(bench: &mut Bench, sent: &str, expected: &str) {
    let response = bench.answer(&from_14(sent));
    let expected = hex(expected);
    assert_eq!(response[14..14 + expected.len()], expected);
    let rest = &response[14 + expected.len()..];
    assert!(rest.iter().all(|&b| b == 0), "padding: {rest:02x?}");
    assert_eq!(response.len(), 60.max(14 + expected.len()));
}

#[test]
fn discovery() {
    let mut bench = Bench::new(settings());
    let sent = hex("ffffffffffff 02000000000b 88a2 10 00 ffff ff 01 00000000 0000 0000 00 00 0000");
    let mut expected =
        hex("02000000000b 02000000000a 88a2 18 00 0001 01 01 00000000 0040 5001 02 10 0000");
    expected.resize(60, 0);
    assert_eq!(bench.answer(&sent), expected);
}

#[test]
fn config_string() {
    let mut bench = Bench::new(settings());
    for (sent, expected) in [
        (
            "0000000a 0000 0000 00 04 0002 6162",
            "18 00 0001 01 01 0000000a 0040 5001 02 14 0002 6162",
        ),
        (
            "0000000c 0000 0000 00 03 0002 6364",
            "1c 04 0001 01 01 0000000c 0040 5001 02 13 0002 6162",
        ),
        (
            "0000000d 0000 0000 00 09 0000",
            "1c 02 0001 01 01 0000000d 0040 5001 02 19 0002 6162",
        ),
    ] {
        exchange(&mut bench, &format!("10 00 0001 01 01 {sent}"), expected);
    }
}

#[test]
fn identify() {
    let mut bench = Bench::new(settings());
    let response = bench.answer(&from_14(
        "10 00 0001 01 00 00000011 00 00 01 ec 000000000000 0000",
    ));
    let expected = hex("18 00 0001 01 00 00000011 00 00 00 40 000000000000 0000");
    assert_eq!(response[14..36], expected);
    assert_eq!(response.len(), 548);
}

/// The golden frame `identify-cache`, read from the file that the codec's tests read.
#[test]
fn identify_with_the_number_of_a_cache() {
    let text = include_str!("../../../wire/tests/golden/identify-cache.txt");
    let exchange: Vec<Vec<u8>> = text
        .split("\n= ")
        .skip(1)
        .map(|frame| {
            let lines = frame.lines().skip(1);
            lines
                .flat_map(|line| match line.strip_prefix("00*") {
                    Some(zeros) => vec![0; zeros.parse().unwrap()],
                    None => hex(line),
                })
                .collect()
        })
        .collect();
    let [mut ask, answer] = <[Vec<u8>; 2]>::try_from(exchange).unwrap();
    ask.resize(60, 0);
    let mut bench = Bench::new(TargetSettings {
        serial: "1.1:vm".to_owned(),
        firmware_revision: "0.1.0".to_owned(),
        write_cache: WriteCache::Back,
        cache_number: 0x0123_4567_89AB_CDEF,
        ..TargetSettings::new(E1_1, 16384)
    });
    assert_eq!(bench.answer(&ask), answer);
}

#[test]
fn write_then_read() {
    let mut bench = Bench::new(settings());
    let data = "5a".repeat(512);
    exchange(
        &mut bench,
        &format!("10 00 0001 01 00 00000012 41 00 01 34 080000000000 0000 {data}"),
        "18 00 0001 01 00 00000012 41 00 00 40 080000000000 0000",
    );
    exchange(
        &mut bench,
        "10 00 0001 01 00 00000013 40 00 01 24 080000000000 0000",
        &format!("18 00 0001 01 00 00000013 40 00 00 40 080000000000 0000 {data}"),
    );
}

#[test]
fn reads_that_cannot_be() {
    let mut bench = Bench::new(settings());
    exchange(
        &mut bench,
        "10 00 0001 01 00 00000014 40 00 01 24 004000000000 0000",
        "18 00 0001 01 00 00000014 40 10 01 41 004000000000 0000",
    );
    exchange(
        &mut bench,
        "10 00 0001 01 00 00000015 40 00 03 24 000000000000 0000",
        "1c 02 0001 01 00 00000015 40 00 03 01 000000000000 0000",
    );
}

#[test]
fn lists_and_the_unknown() {
    let mut bench = Bench::new(settings());
    for (sent, expected) in [
        (
            "02 00000016 00 00 00 00",
            "18 00 0001 01 02 00000016 00 00 00 00",
        ),
        (
            "03 00000017 01 01 02000000000b",
            "18 00 0001 01 03 00000017 01 01 02000000000b",
        ),
        ("03 00000017 02 00", "18 00 0001 01 03 00000017 02 00"),
        (
            "03 00000018 02 09 02000000000b",
            "1c 02 0001 01 03 00000018 02 00",
        ),
        ("7f 0000001b 01020304", "1c 01 0001 01 7f 0000001b 01020304"),
    ] {
        exchange(&mut bench, &format!("10 00 0001 01 {sent}"), expected);
    }
}

/// The Linux driver pads nothing on virtual links; other tools pad everything to the MTU.
#[test]
fn padding_of_a_request_changes_nothing() {
    let mut bench = Bench::new(settings());
    let mut bytes = ata(Opcode::Identify, 0, 1);
    bytes.truncate(36);
    let short = bench.answer(&bytes);
    bytes.resize(1514, 0x77);
    assert_eq!(bench.answer(&bytes), short);
    assert_eq!((&short[..6], &short[6..12]), (&I.0[..], &T.0[..]));
    assert_eq!(bench.target().address(), E1_1);
}
