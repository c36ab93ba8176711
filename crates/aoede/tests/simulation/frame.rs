//! Frames by their bytes, from the specification alone: what the simulation reads and forges.

use aoede_wire::{Checksum, MacAddr};

use crate::draw::SECTOR;

pub(crate) const DATA: usize = 36;
const READS: [u8; 2] = [0x20, 0x24];
const WRITES: [u8; 2] = [0x30, 0x34];
const FLUSHES: [u8; 2] = [0xE7, 0xEA];
const TRIM: u8 = 0x06;

pub(crate) fn destination(frame: &[u8]) -> MacAddr {
    MacAddr(frame[..6].try_into().unwrap())
}

pub(crate) fn source(frame: &[u8]) -> MacAddr {
    MacAddr(frame[6..12].try_into().unwrap())
}

pub(crate) fn tag(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[20..24].try_into().unwrap())
}

pub(crate) fn set_tag(frame: &mut [u8], tag: u32) {
    frame[20..24].copy_from_slice(&tag.to_be_bytes());
}

pub(crate) fn is_response(frame: &[u8]) -> bool {
    frame[14] & 0x08 != 0
}

fn is_request(frame: &[u8], command: u8) -> bool {
    frame.len() >= DATA && !is_response(frame) && frame[14] >> 4 == 1 && frame[19] == command
}

/// First sector and number of sectors of a task file.
pub(crate) fn span(frame: &[u8]) -> (u64, u64) {
    (lba(&frame[28..34]), frame[26].into())
}

fn lba(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..6].copy_from_slice(&bytes[..6]);
    u64::from_le_bytes(all)
}

/// The data of a write that brings as much as it says.
pub(crate) fn written(frame: &[u8]) -> Option<&[u8]> {
    let is_write = is_request(frame, 0) && WRITES.contains(&frame[27]);
    let bytes = usize::from(*frame.get(26)?) * SECTOR;
    frame.get(DATA..DATA + bytes).filter(|_| is_write)
}

pub(crate) fn is_write(frame: &[u8]) -> bool {
    written(frame).is_some()
}

/// A write or a trim: what the tag window is about.
pub(crate) fn changes(frame: &[u8]) -> bool {
    is_write(frame) || is_request(frame, 0) && frame[27] == TRIM
}

pub(crate) fn is_read(frame: &[u8]) -> bool {
    is_request(frame, 0) && READS.contains(&frame[27])
}

pub(crate) fn is_flush(frame: &[u8]) -> bool {
    is_request(frame, 0) && FLUSHES.contains(&frame[27])
}

/// All reads in the frame of a read: tag, first sector, number of sectors.
pub(crate) fn reads(frame: &[u8]) -> Vec<(u32, u64, u64)> {
    let (first, sectors) = span(frame);
    let mut reads = vec![(tag(frame), first, sectors)];
    let count = frame.get(DATA).copied().unwrap_or_default().into();
    for entry in frame[DATA.min(frame.len() - 1) + 1..]
        .chunks_exact(16)
        .take(count)
    {
        let tag = u32::from_be_bytes(entry[..4].try_into().unwrap());
        reads.push((tag, lba(&entry[4..]), entry[15].into()));
    }
    reads
}

/// The tags of all requests that a frame answers: write responses may share one (§18.1).
pub(crate) fn answered_tags(frame: &[u8]) -> Vec<u32> {
    if !is_response(frame) {
        return Vec::new();
    }
    let mut tags = vec![tag(frame)];
    let is_write = is_ata(frame) && frame[24] & 1 != 0 && frame.len() > DATA;
    let further = if is_write { frame[DATA] } else { 0 };
    let entries = frame.get(DATA + 1..).unwrap_or_default();
    let entries = entries.chunks_exact(16).take(further.into());
    tags.extend(entries.map(|entry| u32::from_be_bytes(entry[..4].try_into().unwrap())));
    tags
}

/// Whether an extension table asks for tags to be tracked.
pub(crate) fn begins_window(frame: &[u8]) -> bool {
    let name = b"tag_inc_be\0";
    is_request(frame, 0x23) && frame.windows(name.len()).any(|part| part == name)
}

/// Whether it takes everything back first.
pub(crate) fn resets(frame: &[u8]) -> bool {
    is_request(frame, 0x23) && frame[26..].starts_with(b"reset\0")
}

/// Whether it sets the config string, which ends everybody's extensions (§7.4).
pub(crate) fn sets_config(frame: &[u8]) -> bool {
    is_request(frame, 1) && matches!(frame[29] & 0x0F, 3 | 4)
}

/// Whether an extension table came back with a checksum agreed on.
pub(crate) fn agrees_on_checksum(frame: &[u8]) -> bool {
    let has = |name: &[u8]| frame.windows(name.len()).any(|part| part == name);
    is_response(frame) && frame[19] == 0x23 && (has(b"CRC8X4\0") || has(b"CRC32C\0"))
}

pub(crate) fn is_extension_request(frame: &[u8]) -> bool {
    is_request(frame, 0x23)
}

pub(crate) fn is_ata(frame: &[u8]) -> bool {
    frame.len() >= DATA && frame[19] == 0
}

pub(crate) fn is_failure(frame: &[u8]) -> bool {
    frame[14] & 0x04 != 0 || frame[27] & 0xA9 != 0
}

/// The success that answers a request without data.
pub(crate) fn success(request: &[u8]) -> Vec<u8> {
    let mut frame = request[..DATA].to_vec();
    let (to, from) = request[..12].split_at(6);
    frame[..6].copy_from_slice(from);
    frame[6..12].copy_from_slice(to);
    frame[14] = 0x18;
    frame[25] = 0;
    frame[26] = 0;
    frame[27] = 0x40;
    frame.resize(60, 0);
    frame
}

/// Gives a write cache another number, if the frame is an IDENTIFY response that tells one
/// (protocol.md §3.6). A checksum may follow it.
pub(crate) fn number_cache(frame: &mut [u8], number: u64, checksum: Option<Checksum>) {
    let at = |word: usize| DATA + 2 * word;
    let tells = is_ata(frame) && is_response(frame) && frame.len() >= DATA + SECTOR;
    if !tells || frame[at(129)..at(131)] != *b"oAdE" || frame[at(255)] != 0xA5 {
        return;
    }
    frame[at(131)..at(135)].copy_from_slice(&number.to_le_bytes());
    frame[at(255) + 1] = 0;
    let sum = frame[DATA..DATA + SECTOR]
        .iter()
        .fold(0, |sum: u8, byte| sum.wrapping_add(*byte));
    frame[at(255) + 1] = sum.wrapping_neg();
    if let (Some(checksum), Some(_)) = (checksum, frame.get(DATA + SECTOR + 3)) {
        let sum = checksum.of(&frame[24..DATA + SECTOR]);
        frame[DATA + SECTOR..DATA + SECTOR + 4].copy_from_slice(&sum);
    }
}
