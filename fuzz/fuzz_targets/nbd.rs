//! What a client of the NBD server sends: a byte of settings, then its stream.
#![no_main]

use handshake::{Handshake, MAX_OPTION, Progress};
use libfuzzer_sys::fuzz_target;
use protocol::{Errno, Export, MAX_PAYLOAD};
use request::{Action, REQUEST_BYTES, Request, Zeroing};

// These files alone: the program's other dependencies have no business here.
#[allow(dead_code, reason = "its other half is in files that are not here")]
#[path = "../../crates/aoede/src/nbd/handshake.rs"]
mod handshake;
#[allow(dead_code, reason = "its other half is in files that are not here")]
#[path = "../../crates/aoede/src/nbd/protocol.rs"]
mod protocol;
#[allow(dead_code, reason = "its other half is in files that are not here")]
#[path = "../../crates/aoede/src/nbd/request.rs"]
mod request;

const SIZE: u64 = 1 << 30;

fuzz_target!(|input: &[u8]| {
    let Some((settings, mut stream)) = input.split_first() else {
        return;
    };
    let is = |bit: u8| settings >> bit & 1 == 1;
    let export = Export {
        name: "disk".to_owned(),
        bytes: SIZE,
        read_only: is(0),
        flush: is(1),
        trim: is(2),
        trim_zeroes: is(3),
    };
    if let Some(structured) = negotiate(&export, &mut stream) {
        transmit(&export, structured, stream);
    }
});

/// Whether replies are structured, if requests come next.
fn negotiate(export: &Export, stream: &mut &[u8]) -> Option<bool> {
    let mut handshake = Handshake::new(export);
    loop {
        assert!(handshake.wants() <= MAX_OPTION);
        let (wanted, rest) = stream.split_at_checked(handshake.wants())?;
        *stream = rest;
        let mut out = Vec::new();
        let progress = handshake.handle(wanted, &mut out).ok()?;
        assert!(out.len() <= 256, "an answer of {} bytes", out.len());
        match progress {
            Progress::More => check_answers(&out),
            Progress::Ended => {
                check_answers(&out);
                return None;
            }
            Progress::Transmission { structured } => {
                // The old way has no frame around its answer.
                if !matches!(out.len(), 10 | 134) {
                    check_answers(&out);
                }
                return Some(structured);
            }
        }
    }
}

/// Whole answers to options, each of the length that it says.
fn check_answers(mut out: &[u8]) {
    while !out.is_empty() {
        let (head, rest) = out.split_at(20);
        assert_eq!(head[..8], 0x0003_E889_0455_65A9_u64.to_be_bytes());
        let len = u32::from_be_bytes(head[16..].try_into().unwrap());
        out = &rest[len as usize..];
    }
}

fn transmit(export: &Export, structured: bool, mut stream: &[u8]) {
    while let Some((bytes, rest)) = stream.split_first_chunk::<REQUEST_BYTES>() {
        let Some(request) = Request::decode(bytes) else {
            assert_ne!(bytes[..4], [0x25, 0x60, 0x95, 0x13]);
            return;
        };
        check(export, structured, bytes, &request);
        let payload = request.payload_bytes() as usize;
        stream = rest.get(payload..).unwrap_or_default();
    }
}

/// Reads the request a second time, and holds what was made of it against that.
fn check(export: &Export, structured: bool, bytes: &[u8; REQUEST_BYTES], request: &Request) {
    let flags = u16::from_be_bytes([bytes[4], bytes[5]]);
    let command = u16::from_be_bytes([bytes[6], bytes[7]]);
    let offset = u64::from_be_bytes(bytes[16..24].try_into().unwrap());
    let len = u64::from(u32::from_be_bytes(bytes[24..].try_into().unwrap()));
    assert_eq!(request.cookie.to_be_bytes(), bytes[8..16]);
    assert_eq!(request.is_read(), command == 0);
    assert_eq!(
        u64::from(request.payload_bytes()),
        if command == 1 { len } else { 0 }
    );

    let inside = len > 0 && offset.checked_add(len).is_some_and(|end| end <= SIZE);
    let aligned = (offset | len) % 512 == 0;
    let wants_fua = flags & 1 != 0;
    let action = match request.judge(export, structured) {
        Ok(action) => action,
        Err(error) => {
            // What is in order is not refused: the plain requests, at least.
            let plain = flags == 0 && inside && aligned && len <= u64::from(MAX_PAYLOAD);
            assert!(!(plain && command == 0));
            assert!(!(plain && command == 1) || error == Errno::NotPermitted && export.read_only);
            assert_ne!(command, 2);
            return;
        }
    };
    let (expected, extent, changes) = match action {
        Action::Read { extent } => (0, Some(extent), false),
        Action::Write { extent, fua } => {
            assert_eq!(fua, wants_fua);
            (1, Some(extent), true)
        }
        Action::Disconnect => (2, None, false),
        Action::Flush => {
            assert!(export.flush);
            (3, None, false)
        }
        Action::Trim { extent, fua } => {
            assert!(inside && export.trim && fua == wants_fua);
            let bytes = extent.lba * 512..(extent.lba + extent.sectors) * 512;
            assert!(bytes.is_empty() || bytes.start >= offset && bytes.end <= offset + len);
            (4, None, true)
        }
        Action::Zero { extent, by, fua } => {
            assert_eq!(fua, wants_fua);
            let trims = by != Zeroing::Write;
            assert!(!trims || export.trim && export.trim_zeroes && flags & 2 == 0);
            assert_eq!(by == Zeroing::TrimOnly, flags & 0x10 != 0);
            (6, Some(extent), true)
        }
    };
    assert_eq!(command, expected);
    assert!(!changes || !export.read_only);
    assert!(command == 2 || !wants_fua || export.flush);
    if let Some(extent) = extent {
        assert!(inside && aligned);
        assert_eq!((extent.lba * 512, extent.sectors * 512), (offset, len));
        assert!(command == 6 || len <= u64::from(MAX_PAYLOAD));
    }
}
