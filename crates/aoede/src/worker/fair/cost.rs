//! What a frame asks for, seen from the outside: before its export has judged it.

use aoede_wire::{ATA_ARGUMENT_BYTES, Command, HEADER_BYTES, Opcode, SECTOR_BYTES};

/// What a request costs beside its data, in bytes: a small one occupies a disk as long as a page.
pub const REQUEST_BYTES: u64 = 4096;

/// Bytes of one further read in a frame (§8).
const ENTRY_BYTES: usize = 16;
/// Where those begin: behind the byte with their number.
const ENTRIES_AT: usize = HEADER_BYTES + ATA_ARGUMENT_BYTES + 1;

/// Whether the frame may give the disk something to do.
pub fn needs_disk(frame: &[u8]) -> bool {
    Command::of_frame(frame) == Some(Command::Ata)
        && !matches!(opcode(frame), Opcode::Identify | Opcode::CheckPowerMode)
}

/// The frame's share of the work, in bytes: those it brings or asks for, and [`REQUEST_BYTES`] for
/// each request in it.
pub fn cost(frame: &[u8]) -> u64 {
    if Command::of_frame(frame) != Some(Command::Ata) {
        return REQUEST_BYTES;
    }
    let first = sectors(frame.get(HEADER_BYTES + 2));
    let is_read = matches!(opcode(frame), Opcode::Read | Opcode::ReadExt);
    let further = if is_read { further_reads(frame) } else { &[] };
    let (entries, _) = further.as_chunks::<ENTRY_BYTES>();
    let further: u64 = entries
        .iter()
        .map(|entry| REQUEST_BYTES + sectors(entry.last()))
        .sum();
    REQUEST_BYTES + first + further
}

/// The entries behind a read that are there in full and announced.
fn further_reads(frame: &[u8]) -> &[u8] {
    let count = frame.get(ENTRIES_AT - 1).copied().unwrap_or(0);
    let entries = frame.get(ENTRIES_AT..).unwrap_or_default();
    let len = entries.len().min(usize::from(count) * ENTRY_BYTES);
    entries.get(..len).unwrap_or_default()
}

fn opcode(frame: &[u8]) -> Opcode {
    Opcode::from(frame.get(HEADER_BYTES + 3).copied().unwrap_or(0))
}

fn sectors(count: Option<&u8>) -> u64 {
    u64::from(count.copied().unwrap_or(0)) * SECTOR_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_wire::{
        Address, Ata, Body, CoalescedRead, CoalescedReads, Config, Header, MacAddr, Tag,
    };

    fn frame(body: Body<'_>) -> Vec<u8> {
        let (from, to) = (MacAddr([2; 6]), MacAddr([4; 6]));
        let header = Header::request(from, to, Address { shelf: 1, slot: 1 });
        let mut bytes = vec![0; 9014];
        let len = body.encode(header, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn what_moves_data_costs_data_and_a_request() {
        let ata = |opcode, sectors| frame(Body::Ata(Ata::request(opcode, 8, sectors)));
        let write = Ata::request(Opcode::WriteExt, 8, 16).with_data(&[7; 8192]);
        for (frame, bytes, disk) in [
            (ata(Opcode::ReadExt, 16), 4096 + 8192, true),
            (ata(Opcode::Read, 1), 4096 + 512, true),
            (frame(Body::Ata(write)), 4096 + 8192, true),
            (ata(Opcode::FlushCacheExt, 0), 4096, true),
            (ata(Opcode::Identify, 1), 4096 + 512, false),
            (frame(Body::Config(Config::default())), 4096, false),
        ] {
            assert_eq!((cost(&frame), needs_disk(&frame)), (bytes, disk));
        }
    }

    #[test]
    fn several_reads_in_a_frame_cost_what_they_cost_alone() {
        let entry = |count| CoalescedRead {
            tag: Tag([1; 4]),
            lba: [5, 0, 0, 0, 0, 0],
            reserved: [0; 5],
            count,
        };
        let mut further = [0; 33];
        CoalescedReads::encode(&[entry(2), entry(255)], &mut further).unwrap();
        let reads = Ata::request(Opcode::ReadExt, 20, 16).with_data(&further);
        let mut frame = frame(Body::Ata(reads));
        assert_eq!(cost(&frame), 3 * 4096 + (16 + 2 + 255) * 512);
        // The last entry is cut short.
        frame.truncate(36 + 1 + 31);
        assert_eq!(cost(&frame), 2 * 4096 + (16 + 2) * 512);
    }

    #[test]
    fn any_bytes_have_a_cost() {
        let ata = frame(Body::Ata(Ata::request(Opcode::ReadExt, 0, 1)));
        for len in 0..ata.len() {
            assert!(cost(&ata[..len]) >= REQUEST_BYTES);
        }
    }
}
