//! Several reads in one request frame, an AoEde extension (§8).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 36 | an ordinary READ: the first read |
//! | 36 | 1 | number of further reads |
//! | 37 + 16 i | 4 | tag |
//! | +4 | 6 | LBA, least significant byte first |
//! | +10 | 5 | reserved |
//! | +15 | 1 | sector count |

use crate::{ATA_ARGUMENT_BYTES, ETHERNET_BYTES, HEADER_BYTES, NoRoom, Tag};

/// Bytes of one further read, and of one further write response (§18.1).
pub const ENTRY_BYTES: usize = 16;
/// Fewest bytes behind the task file that can hold an entry.
const MIN_BYTES: usize = 1 + ENTRY_BYTES;
/// Where the entries begin in a frame.
const ENTRIES_OFFSET: usize = HEADER_BYTES + ATA_ARGUMENT_BYTES + 1;

/// Most entries in one frame on an interface of this MTU (bytes): reads in a request, or write
/// responses.
///
/// ```
/// assert_eq!(aoede_wire::coalesced_entries_per_frame(1500), 92);
/// ```
pub fn coalesced_entries_per_frame(mtu: u32) -> u8 {
    let frame = usize::try_from(mtu)
        .unwrap_or(usize::MAX)
        .saturating_add(ETHERNET_BYTES);
    let entries = frame.saturating_sub(ENTRIES_OFFSET) / ENTRY_BYTES;
    u8::try_from(entries).unwrap_or(u8::MAX)
}

/// A further read of a coalesced request. Opcode and flags are those of the first read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalescedRead {
    /// Its own tag.
    pub tag: Tag,
    /// LBA0 to LBA5, bits 7–0 first.
    pub lba: [u8; 6],
    /// Sent as zero; the first two come back in bytes 34–35 of the response.
    pub reserved: [u8; 5],
    /// Sectors to read.
    pub count: u8,
}

impl CoalescedRead {
    /// The read as it is sent.
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let [t0, t1, t2, t3] = self.tag.0;
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        let [r0, r1, r2, r3, r4] = self.reserved;
        [
            t0, t1, t2, t3, l0, l1, l2, l3, l4, l5, r0, r1, r2, r3, r4, self.count,
        ]
    }

    fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let [
            t0,
            t1,
            t2,
            t3,
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            r0,
            r1,
            r2,
            r3,
            r4,
            count,
        ] = bytes;
        Self {
            tag: Tag([t0, t1, t2, t3]),
            lba: [l0, l1, l2, l3, l4, l5],
            reserved: [r0, r1, r2, r3, r4],
            count,
        }
    }
}

/// The further reads behind the first one's task file.
///
/// ```
/// use aoede_wire::{Ata, CoalescedRead, CoalescedReads, Opcode, Tag};
///
/// let second = CoalescedRead { tag: Tag([0, 0, 0, 2]), lba: [16, 0, 0, 0, 0, 0], reserved: [0; 5], count: 1 };
/// let mut payload = [0; 64];
/// let len = CoalescedReads::encode(&[second], &mut payload)?;
/// let first = Ata::request(Opcode::ReadExt, 8, 1).with_data(&payload[..len]);
///
/// let further = CoalescedReads::decode(first.data).expect("17 bytes hold one");
/// assert!(further.reads().eq([second]));
/// # Ok::<(), aoede_wire::NoRoom>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalescedReads<'a> {
    announced: u8,
    entries: &'a [u8],
}

impl<'a> CoalescedReads<'a> {
    /// Reads what follows the task file ([`Ata::data`](crate::Ata::data)). `None` if that is too
    /// short for a further read: then it is padding.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let (announced, entries) = split(data)?;
        Some(Self { announced, entries })
    }

    /// Number of further reads announced, more perhaps than the frame holds.
    pub fn announced(&self) -> u8 {
        self.announced
    }

    /// The further reads that are there in full.
    pub fn reads(&self) -> impl ExactSizeIterator<Item = CoalescedRead> + Clone + use<'a> {
        entries(self.announced, self.entries).map(CoalescedRead::from_bytes)
    }

    /// Takes the first of them out.
    pub fn take_first(&mut self) -> Option<CoalescedRead> {
        let announced = self.announced.checked_sub(1)?;
        let (&entry, entries) = self.entries.split_first_chunk::<ENTRY_BYTES>()?;
        *self = Self { announced, entries };
        Some(CoalescedRead::from_bytes(entry))
    }

    /// Writes count and reads (at most 255) to `out`, ready to be the data of the first read.
    /// Returns the bytes written.
    ///
    /// # Errors
    /// [`NoRoom`] if `out` is too short.
    pub fn encode(reads: &[CoalescedRead], out: &mut [u8]) -> Result<usize, NoRoom> {
        let announced = u8::try_from(reads.len()).unwrap_or(u8::MAX);
        let mut put = crate::put::Put::new(out);
        put.bytes(&[announced])?;
        for read in reads.iter().take(usize::from(announced)) {
            put.bytes(&read.to_bytes())?;
        }
        Ok(put.written())
    }
}

/// Count byte and entries behind a task file; `None` if that is too short for an entry.
pub(crate) fn split(data: &[u8]) -> Option<(u8, &[u8])> {
    if data.len() < MIN_BYTES {
        return None;
    }
    let (&announced, entries) = data.split_first()?;
    Some((announced, entries))
}

/// The entries that are announced and there in full.
pub(crate) fn entries(
    announced: u8,
    bytes: &[u8],
) -> impl ExactSizeIterator<Item = [u8; ENTRY_BYTES]> + Clone + use<'_> {
    let announced = usize::from(announced);
    bytes
        .chunks_exact(ENTRY_BYTES)
        .take(announced)
        .map(|chunk| {
            let mut entry = [0; ENTRY_BYTES];
            entry.copy_from_slice(chunk);
            entry
        })
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    const READ: CoalescedRead = CoalescedRead {
        tag: Tag([0, 0, 0, 0x21]),
        lba: [0x10, 0x02, 0x03, 0x04, 0x05, 0x06],
        reserved: [0xA, 0xB, 0xC, 0xD, 0xE],
        count: 3,
    };
    const BYTES: [u8; ENTRY_BYTES] = [
        0, 0, 0, 0x21, 0x10, 2, 3, 4, 5, 6, 0xA, 0xB, 0xC, 0xD, 0xE, 3,
    ];

    #[test]
    fn an_entry_lies_where_the_table_says() {
        assert_eq!(READ.to_bytes(), BYTES);
        assert_eq!(CoalescedRead::from_bytes(BYTES), READ);
    }

    #[test]
    fn frames_under_53_bytes_have_no_entries() {
        // 36 bytes of header and task file, the number of entries, one entry.
        assert_eq!(CoalescedReads::decode(&[1; 52 - 36]), None);
        assert!(CoalescedReads::decode(&[1; 53 - 36]).is_some());
    }

    #[test]
    fn only_entries_announced_and_there_in_full_are_read() {
        let mut data = Vec::from([0]);
        for _ in 0..3 {
            data.extend(BYTES);
        }
        // Announced, bytes cut off, entries expected.
        for (announced, cut, expected) in [
            (0, 0, 0),
            (1, 0, 1),
            (3, 0, 3),
            (3, 1, 2),
            (3, 16, 2),
            (3, 31, 1),
            (4, 0, 3),
            (255, 0, 3),
        ] {
            data[0] = announced;
            let reads = CoalescedReads::decode(&data[..data.len() - cut]).unwrap();
            assert_eq!(reads.announced(), announced);
            assert_eq!(
                reads.reads().len(),
                expected,
                "{announced} less {cut} bytes"
            );
            assert!(reads.reads().all(|read| read == READ));
            // One by one.
            let mut taken = reads;
            for left in (0..expected).rev() {
                assert_eq!(taken.take_first(), Some(READ));
                assert_eq!(taken.reads().len(), left);
            }
            assert_eq!(taken.take_first(), None);
        }
    }

    #[test]
    fn a_frame_holds_as_many_entries_as_the_table_says() {
        // §8: MTU, entries.
        for (mtu, entries) in [
            (0, 0),
            (38, 0),
            (39, 1),
            (1500, 92),
            (9000, 255),
            (u32::MAX, 255),
        ] {
            assert_eq!(coalesced_entries_per_frame(mtu), entries, "MTU {mtu}");
        }
    }

    #[test]
    fn the_count_byte_bounds_what_is_written() {
        let reads = std::vec![READ; 300];
        let mut out = [0xA5; 1 + 255 * ENTRY_BYTES + 1];
        let len = CoalescedReads::encode(&reads, &mut out).unwrap();
        assert_eq!(len, 1 + 255 * ENTRY_BYTES);
        assert_eq!((out[0], out[len]), (255, 0xA5));
        assert_eq!(
            CoalescedReads::encode(&reads[..1], &mut [0; 16]),
            Err(NoRoom)
        );
        assert_eq!(CoalescedReads::encode(&[], &mut out), Ok(1));
        assert_eq!(out[0], 0);
    }
}
