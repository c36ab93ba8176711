//! Any bytes as a frame: they decode, print and encode back, and no iterator leaves the frame.
#![no_main]

use std::fmt::Write as _;

use aoede_wire::{
    Ata, Body, CoalescedReads, Config, ExtensionTable, Frame, HEADER_BYTES, MIN_FRAME_BYTES, Mask,
    NoRoom, Reserve, trim_ranges,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(frame) = Frame::decode(bytes) else {
        return;
    };
    assert_eq!(frame.len(), bytes.len());
    let mut line = String::new();
    write!(line, "{frame}").expect("a string takes everything");
    assert!(!line.contains('\n'));

    let Ok(body) = frame.body() else {
        return;
    };
    assert_eq!(body.command(), frame.header.command);
    encode_back(bytes, &frame, &body);
    match body {
        Body::Ata(ata) => look_at_ata(&ata),
        Body::Config(config) => look_at_config(&config),
        Body::Mask(mask) => look_at_mask(&mask),
        Body::Reserve(reserve) => look_at_reserve(&reserve),
        Body::Extension(table) => look_at_extension(&table),
        Body::Unknown(_, rest) => assert_eq!(rest, &bytes[HEADER_BYTES..]),
    }
});

fn encode_back(bytes: &[u8], frame: &Frame<'_>, body: &Body<'_>) {
    let len = bytes.len().max(MIN_FRAME_BYTES);
    let mut out = vec![0xA5; len + 1];
    assert_eq!(body.encode(frame.header, &mut out), Ok(len));
    assert_eq!(out.pop(), Some(0xA5));
    if matches!(body, Body::Mask(_)) {
        // Reserved, and so sent as zero whatever was received.
        assert_eq!(out[HEADER_BYTES], 0);
        out[HEADER_BYTES] = bytes[HEADER_BYTES];
    }
    assert_eq!(&out[..bytes.len()], bytes);
    assert!(out[bytes.len()..].iter().all(|&byte| byte == 0));
    for short in [0, HEADER_BYTES, len - 1] {
        assert_eq!(body.encode(frame.header, &mut out[..short]), Err(NoRoom));
    }
}

fn look_at_ata(ata: &Ata<'_>) {
    assert!(ata.lba48() < 1 << 48 && ata.lba28() < 1 << 28);
    let _ = (ata.opcode(), ata.status().is_failure());
    assert!(trim_ranges(ata.data).count() <= ata.data.len() / 8);
    for range in trim_ranges(ata.data) {
        assert!(range.lba < 1 << 48 && range.sectors > 0);
    }
    match CoalescedReads::decode(ata.data) {
        Some(reads) => {
            let whole = (ata.data.len() - 1) / 16;
            assert_eq!(
                reads.reads().count(),
                whole.min(usize::from(reads.announced()))
            );
        }
        None => assert!(ata.data.len() < 17),
    }
}

fn look_at_config(config: &Config<'_>) {
    let fits = usize::from(config.string_len) <= config.rest.len().min(1024);
    match config.string() {
        Ok(string) => {
            assert!(fits);
            assert_eq!(string, &config.rest[..usize::from(config.string_len)]);
        }
        Err(_) => assert!(!fits),
    }
}

fn look_at_mask(mask: &Mask<'_>) {
    let fits = usize::from(mask.count) * 8 <= mask.rest.len();
    match mask.directives() {
        Ok(directives) => assert!(fits && directives.count() == usize::from(mask.count)),
        Err(_) => assert!(!fits),
    }
}

fn look_at_reserve(reserve: &Reserve<'_>) {
    let fits = usize::from(reserve.count) * 6 <= reserve.rest.len();
    match reserve.macs() {
        Ok(macs) => assert!(fits && macs.count() == usize::from(reserve.count)),
        Err(_) => assert!(!fits),
    }
}

fn look_at_extension(table: &ExtensionTable<'_>) {
    let Ok(entries) = table.entries() else {
        return;
    };
    let mut end = 0;
    for entry in entries {
        assert_eq!(entry.start, end);
        end += entry.bytes.len() + 1;
        assert_eq!(&table.rest[entry.start..end - 1], entry.bytes);
        assert_eq!(table.rest[end - 1], 0);
    }
    assert_eq!(table.rest[end], 0);
}
