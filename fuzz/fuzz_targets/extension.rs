//! Any bytes as an extension table, as coalesced reads and write responses, as TRIM data and under
//! the checksums; each compared with a slow and simple reading of the specification.
#![no_main]

use aoede_wire::{
    Checksum, CoalescedReads, CoalescedWrites, Crc8x4, Extension, ExtensionTable, congestion_id,
    crc32c_append, trim_ranges,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    table(bytes);
    coalesced(bytes);
    coalesced_writes(bytes);
    trim(bytes);
    checksum(bytes);
    castagnoli(bytes);
});

fn table(bytes: &[u8]) {
    let Ok(table) = ExtensionTable::decode(bytes) else {
        assert!(bytes.len() < 2);
        return;
    };
    let found: Option<Vec<_>> = table
        .entries()
        .ok()
        .map(|entries| entries.map(|entry| entry.bytes).collect());
    let [low, high] = table.length.map(usize::from);
    for len in [low + 256 * high, high + 256 * low] {
        let closed = table.rest.get(..len).filter(|t| t.ends_with(&[0, 0]));
        if let Some(closed) = closed {
            let simple: Vec<_> = closed
                .split(|&byte| byte == 0)
                .take_while(|entry| !entry.is_empty())
                .collect();
            assert_eq!(found.as_ref(), Some(&simple));
        } else if high == low {
            assert_eq!(found, None);
        }
    }
    for name in found.into_iter().flatten() {
        if let Some(extension) = Extension::from_name(name) {
            assert_eq!(extension.name().as_bytes(), name);
        }
        id(name);
    }
    assert_eq!(
        ExtensionTable::new(table.rest).is_ok(),
        table.rest.ends_with(&[0, 0]) && table.rest.len() <= 65535
    );
}

fn id(argument: &[u8]) {
    let (sign, digits) = match argument.split_first() {
        Some((b'-', digits)) => (-1, digits),
        Some((b'+', digits)) => (1, digits),
        _ => (1, argument),
    };
    let len = digits.iter().take_while(|d| d.is_ascii_digit()).count();
    if (1..=18).contains(&len) {
        let text = std::str::from_utf8(&digits[..len]).expect("digits are text");
        let number: i64 = text.parse().expect("18 digits fit");
        assert_eq!(congestion_id(argument), sign * number);
    } else if len == 0 {
        assert_eq!(congestion_id(argument), 0);
    } else {
        assert!(congestion_id(argument).signum() * sign >= 0);
    }
}

fn coalesced(bytes: &[u8]) {
    let Some(reads) = CoalescedReads::decode(bytes) else {
        assert!(bytes.len() < 17);
        return;
    };
    let mut rest = reads;
    let reads: Vec<_> = reads.reads().collect();
    assert!(std::iter::from_fn(|| rest.take_first()).eq(reads.iter().copied()));
    assert!(reads.len() <= usize::from(bytes[0]) && 16 * reads.len() < bytes.len());
    let mut out = vec![0xA5; bytes.len()];
    let len = CoalescedReads::encode(&reads, &mut out).expect("it came from as many bytes");
    assert_eq!(out[1..len], bytes[1..len]);
    assert!(out[len..].iter().all(|&byte| byte == 0xA5));
}

fn coalesced_writes(bytes: &[u8]) {
    let Some(writes) = CoalescedWrites::decode(bytes) else {
        assert!(bytes.len() < 17);
        return;
    };
    let writes: Vec<_> = writes.writes().collect();
    assert!(writes.len() <= usize::from(bytes[0]) && 16 * writes.len() < bytes.len());
    // Added to an ordinary response one by one.
    let mut frame = vec![0xA5; 60.max(36 + bytes.len())];
    frame[..60].fill(0);
    let mut len = 60;
    for &write in &writes {
        len = CoalescedWrites::append(&mut frame, len, write).expect("it came from as many bytes");
    }
    assert!(frame[len..].iter().all(|&byte| byte == 0xA5));
    let again = CoalescedWrites::decode(&frame[36..len]).expect("60 bytes hold one");
    assert!(again.writes().eq(writes.iter().copied()));
    // Any bytes as such a frame, of any length.
    let mut frame = bytes.to_vec();
    if let Some(&write) = writes.first() {
        let len = usize::from(bytes[0]) * 16 + 37;
        match CoalescedWrites::append(&mut frame, len.max(60), write) {
            Ok(longer) => assert!(longer <= frame.len().max(60)),
            Err(_) => assert_eq!(frame, bytes),
        }
    }
}

fn castagnoli(bytes: &[u8]) {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 };
        }
    }
    assert_eq!(crc32c_append(0, bytes), !crc);
    assert_eq!(Checksum::Crc32c.of(bytes), (!crc).to_le_bytes());
    let (head, tail) = bytes.split_at(
        bytes
            .first()
            .map_or(0, |&at| usize::from(at).min(bytes.len())),
    );
    assert_eq!(crc32c_append(crc32c_append(0, head), tail), !crc);
}

fn trim(bytes: &[u8]) {
    let used: Vec<_> = bytes
        .chunks_exact(8)
        .map(|entry| u64::from_le_bytes(entry.try_into().expect("8 bytes")))
        .map(|entry| (entry & 0xFFFF_FFFF_FFFF, entry >> 48))
        .filter(|&(_, sectors)| sectors > 0)
        .collect();
    let found: Vec<_> = trim_ranges(bytes)
        .map(|range| (range.lba, u64::from(range.sectors)))
        .collect();
    assert_eq!(found, used);
}

fn checksum(bytes: &[u8]) {
    let mut lanes = [0xFF_u8; 4];
    for (at, &byte) in bytes.iter().enumerate() {
        let lane = &mut lanes[at % 4];
        *lane ^= byte;
        for _ in 0..8 {
            *lane = (*lane >> 1) ^ if *lane & 1 == 1 { 0xB2 } else { 0 };
        }
    }
    assert_eq!(Crc8x4::of(bytes), lanes);
    // In pieces of lengths that the bytes themselves choose.
    let mut pieces = Crc8x4::new();
    let mut rest = bytes;
    while let Some(&first) = rest.first() {
        let (piece, later) = rest.split_at(rest.len().min(1 + usize::from(first) % 40));
        pieces.update(piece);
        rest = later;
    }
    assert_eq!(pieces.finish(), lanes);
}
