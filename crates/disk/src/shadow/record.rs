//! What the map file holds, byte by byte.
//!
//! The file is a row of units of 512 bytes, numbered from 0. Unit 0 is the header; each further
//! unit was appended by one durable write, and none is ever changed once that write has succeeded.
//! A unit is valid when its checksum is right, it belongs to the header's freeze and carries its
//! own number; what counts is the longest row of valid units. All numbers are little-endian.
//!
//! ```text
//! header                                      unit
//!   0  8  magic "AoEdeSHW"                      0  4  magic "AoEu"
//!   8  4  version, 1                            4  1  kind: 1 dirtied, 2 merged, 3 thawing, 4 done
//!  12  4  bytes of a block, 4096                5  1  zero
//!  16  8  id of the freeze                      6  2  ranges that follow, 0 to 30
//!  24  8  bytes of the image's export           8  8  id of the freeze
//!  32  8  where in the file it starts          16  8  number of the unit
//!  40  2  bytes of the image's path            24 16n first block, blocks: 8 bytes each
//!  42  …  path, its last 466 bytes            508  4  CRC-32C of the bytes before
//! 508  4  CRC-32C of the bytes before
//! ```
#![forbid(unsafe_code)]

use super::BLOCK_BYTES;
use super::blocks::Blocks;

/// Bytes of a unit: a sector, the most that a disk writes wholly or not at all.
pub const UNIT_BYTES: usize = 512;
/// Ranges in a unit.
pub(super) const UNIT_RANGES: usize = 30;

const HEADER_MAGIC: [u8; 8] = *b"AoEdeSHW";
const UNIT_MAGIC: [u8; 4] = *b"AoEu";
const VERSION: u32 = 1;
const RANGES_AT: usize = 24;
const PATH_AT: usize = 42;
const SUM_AT: usize = UNIT_BYTES - 4;

/// Bytes of a path that a header has room for; of a longer one the end is kept.
pub const PATH_BYTES: usize = SUM_AT - PATH_AT;

/// The first unit: which freeze of which image this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Tells this freeze's units from what was in the file before.
    pub freeze_id: u64,
    /// Bytes of the export.
    pub image_bytes: u64,
    /// Where in the image's file the export starts.
    pub base_bytes: u64,
    /// The image's path, or the end of it.
    pub path: Vec<u8>,
}

/// Why a unit is no header that we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Nothing was ever written there.
    Blank,
    /// Not ours, or damaged.
    Damaged,
    /// A later version of this format, or other blocks.
    Version(u32),
}

impl Header {
    /// Writes the header as a unit.
    pub fn encode(&self) -> [u8; UNIT_BYTES] {
        let mut unit = [0; UNIT_BYTES];
        let kept = self.path.len().saturating_sub(PATH_BYTES);
        let path = self.path.get(kept..).unwrap_or_default();
        put(&mut unit, 0, &HEADER_MAGIC);
        put(&mut unit, 8, &VERSION.to_le_bytes());
        put(&mut unit, 12, &block_bytes().to_le_bytes());
        put(&mut unit, 16, &self.freeze_id.to_le_bytes());
        put(&mut unit, 24, &self.image_bytes.to_le_bytes());
        put(&mut unit, 32, &self.base_bytes.to_le_bytes());
        let len = u16::try_from(path.len()).unwrap_or(0);
        put(&mut unit, 40, &len.to_le_bytes());
        put(&mut unit, PATH_AT, path);
        seal(&mut unit);
        unit
    }

    /// Reads a unit as a header.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(unit: &[u8; UNIT_BYTES]) -> Result<Self, HeaderError> {
        if unit.iter().all(|&byte| byte == 0) {
            return Err(HeaderError::Blank);
        }
        if !is_sealed(unit) || !unit.starts_with(&HEADER_MAGIC) {
            return Err(HeaderError::Damaged);
        }
        let version = u32::from_le_bytes(get(unit, 8));
        if version != VERSION || u32::from_le_bytes(get(unit, 12)) != block_bytes() {
            return Err(HeaderError::Version(version));
        }
        let len = usize::from(u16::from_le_bytes(get(unit, 40)));
        let path = unit.get(PATH_AT..PATH_AT + len.min(PATH_BYTES));
        Ok(Self {
            freeze_id: u64::from_le_bytes(get(unit, 16)),
            image_bytes: u64::from_le_bytes(get(unit, 24)),
            base_bytes: u64::from_le_bytes(get(unit, 32)),
            path: path.unwrap_or_default().to_vec(),
        })
    }
}

/// What a unit behind the header tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// These blocks are in the shadow.
    Dirtied,
    /// These are in the image again.
    Merged,
    /// The image is no longer held.
    Thawing,
    /// Nothing of the shadow is needed any more.
    Done,
}

impl Kind {
    const ALL: [(Self, u8); 4] = [
        (Self::Dirtied, 1),
        (Self::Merged, 2),
        (Self::Thawing, 3),
        (Self::Done, 4),
    ];

    fn code(self) -> u8 {
        let found = Self::ALL.iter().find(|(kind, _)| *kind == self);
        found.map_or(0, |&(_, code)| code)
    }

    fn from_code(code: u8) -> Option<Self> {
        let found = Self::ALL.iter().find(|&&(_, known)| known == code);
        found.map(|&(kind, _)| kind)
    }
}

/// Writes a unit; of more than [`UNIT_RANGES`] ranges, the first.
pub(super) fn encode_unit(
    unit: &mut [u8; UNIT_BYTES],
    kind: Kind,
    freeze_id: u64,
    number: u64,
    ranges: impl Iterator<Item = Blocks>,
) {
    unit.fill(0);
    put(unit, 0, &UNIT_MAGIC);
    put(unit, 4, &[kind.code()]);
    put(unit, 8, &freeze_id.to_le_bytes());
    put(unit, 16, &number.to_le_bytes());
    let mut count = 0_u16;
    let places = (RANGES_AT..SUM_AT - 15).step_by(16);
    for (blocks, place) in ranges.zip(places) {
        put(unit, place, &blocks.first.to_le_bytes());
        put(unit, place + 8, &blocks.count().to_le_bytes());
        count += 1;
    }
    put(unit, 6, &count.to_le_bytes());
    seal(unit);
}

/// Reads a unit; `None` when it is not valid, or not this unit of this freeze.
pub(super) fn decode_unit(
    unit: &[u8; UNIT_BYTES],
    freeze_id: u64,
) -> Option<(u64, Kind, impl Iterator<Item = Blocks> + '_)> {
    if !is_sealed(unit) || !unit.starts_with(&UNIT_MAGIC) {
        return None;
    }
    if u64::from_le_bytes(get(unit, 8)) != freeze_id {
        return None;
    }
    let kind = Kind::from_code(get::<1>(unit, 4)[0])?;
    let count = usize::from(u16::from_le_bytes(get(unit, 6)));
    let places = (RANGES_AT..SUM_AT - 15).step_by(16).take(count);
    let ranges = places.map(|place| {
        let first = u64::from_le_bytes(get(unit, place));
        let count = u64::from_le_bytes(get(unit, place + 8));
        Blocks {
            first,
            end: first.saturating_add(count),
        }
    });
    Some((u64::from_le_bytes(get(unit, 16)), kind, ranges))
}

fn block_bytes() -> u32 {
    u32::try_from(BLOCK_BYTES).unwrap_or(0)
}

fn seal(unit: &mut [u8; UNIT_BYTES]) {
    let sum = crc32c(unit.get(..SUM_AT).unwrap_or_default());
    put(unit, SUM_AT, &sum.to_le_bytes());
}

fn is_sealed(unit: &[u8; UNIT_BYTES]) -> bool {
    let sum = crc32c(unit.get(..SUM_AT).unwrap_or_default());
    u32::from_le_bytes(get(unit, SUM_AT)) == sum
}

fn put(unit: &mut [u8; UNIT_BYTES], at: usize, bytes: &[u8]) {
    if let Some(place) = unit.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn get<const N: usize>(unit: &[u8; UNIT_BYTES], at: usize) -> [u8; N] {
    let bytes = unit.get(at..at + N).and_then(|bytes| bytes.try_into().ok());
    bytes.unwrap_or([0; N])
}

/// The polynomial of CRC-32C (Castagnoli), bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0_u32;
    while byte < 256 {
        let mut crc = byte;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte as usize] = crc;
        }
        byte += 1;
    }
    table
};

fn crc32c(bytes: &[u8]) -> u32 {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        let [low, ..] = crc.to_le_bytes();
        let entry = TABLE.get(usize::from(low ^ byte)).copied();
        (crc >> 8) ^ entry.unwrap_or(0)
    });
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc_32c() {
        // RFC 3720, B.4, and the check value of the catalogue of CRCs.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn a_header_lies_where_the_table_says() {
        let header = Header {
            freeze_id: 0x1122_3344_5566_7788,
            image_bytes: 1 << 40,
            base_bytes: 512,
            path: b"/srv/disk.img".to_vec(),
        };
        let mut unit = header.encode();
        assert_eq!(unit[..16], *b"AoEdeSHW\x01\0\0\0\0\x10\0\0");
        assert_eq!(unit[16..20], [0x88, 0x77, 0x66, 0x55]);
        assert_eq!(unit[24..34], [0, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
        assert_eq!(unit[40..56], *b"\x0d\0/srv/disk.img\0");
        assert_eq!(Header::decode(&unit), Ok(header));
        unit[100] ^= 1;
        assert_eq!(Header::decode(&unit), Err(HeaderError::Damaged));
        assert_eq!(Header::decode(&[0; 512]), Err(HeaderError::Blank));
        unit[8] = 2;
        unit[100] ^= 1;
        seal(&mut unit);
        assert_eq!(Header::decode(&unit), Err(HeaderError::Version(2)));
    }

    #[test]
    fn of_a_long_path_the_end_is_kept() {
        let mut path = vec![b'x'; 600];
        path.extend_from_slice(b"/disk.img");
        let header = Header {
            freeze_id: 1,
            image_bytes: 4096,
            base_bytes: 0,
            path,
        };
        let read = Header::decode(&header.encode()).unwrap();
        assert_eq!(read.path.len(), 466);
        assert!(read.path.ends_with(b"x/disk.img"));
    }

    #[test]
    fn a_unit_lies_where_the_table_says() {
        let mut unit = [9; UNIT_BYTES];
        let range = Blocks {
            first: 0x0102,
            end: 0x0105,
        };
        encode_unit(&mut unit, Kind::Merged, 7, 5, [range, range].into_iter());
        assert_eq!(unit[..8], *b"AoEu\x02\0\x02\0");
        assert_eq!(
            unit[8..24],
            [7, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(
            unit[24..40],
            [2, 1, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0]
        );
        let (number, kind, ranges) = decode_unit(&unit, 7).unwrap();
        assert_eq!((number, kind), (5, Kind::Merged));
        assert_eq!(ranges.collect::<Vec<_>>(), [range, range]);
        assert!(decode_unit(&unit, 8).is_none(), "of another freeze");
        for at in 0..UNIT_BYTES {
            unit[at] ^= 0x10;
            assert!(decode_unit(&unit, 7).is_none(), "byte {at}");
            unit[at] ^= 0x10;
        }
    }

    #[test]
    fn a_unit_holds_30_ranges() {
        let mut unit = [0; UNIT_BYTES];
        let ranges = (0..40).map(|first| Blocks {
            first: first * 2,
            end: first * 2 + 1,
        });
        encode_unit(&mut unit, Kind::Dirtied, 1, 1, ranges);
        let (_, _, ranges) = decode_unit(&unit, 1).unwrap();
        let ranges: Vec<_> = ranges.collect();
        assert_eq!(ranges.len(), UNIT_RANGES);
        assert_eq!(ranges[29], Blocks { first: 58, end: 59 });
    }
}
