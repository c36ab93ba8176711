//! CRC 8x4: four CRC-8 side by side, an AoEde extension (§11).
//!
//! Byte *i* of the covered range goes into CRC *i* mod 4. The covered range begins at the task
//! file (offset 24) and ends with the data; the four results follow it.

/// Bytes that the checksum adds to a frame.
pub const CRC_BYTES: usize = 4;

const LANES: usize = 4;
/// Bytes that one step takes for each lane.
const STEPS: usize = 4;
const INITIAL: u8 = 0xFF;
/// `0x4D` with its bits reversed: the least significant bit is the first.
const POLYNOMIAL: u8 = 0xB2;

/// `TABLES[n][x]` is the CRC after `x` and n zero bytes, so that several bytes of a lane can be
/// looked up independently of each other.
static TABLES: [[u8; 256]; STEPS] = tables();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler; all indices are below 256"
)]
const fn tables() -> [[u8; 256]; STEPS] {
    let mut tables = [[0; 256]; STEPS];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut step = 1;
    while step < STEPS {
        let mut byte = 0;
        while byte < 256 {
            tables[step][byte] = tables[0][tables[step - 1][byte] as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

/// Looks `byte` up in the table for `zeros` following bytes.
#[expect(
    clippy::indexing_slicing,
    reason = "a byte cannot leave a table of 256 entries; callers pass constants below STEPS"
)]
fn after<const ZEROS: usize>(byte: u8) -> u8 {
    TABLES[ZEROS][usize::from(byte)]
}

/// The checksum of bytes that come in pieces.
///
/// ```
/// use aoede_wire::Crc8x4;
/// let mut crc = Crc8x4::new();
/// crc.update(&[0; 12]); // the task file
/// crc.update(&[0; 512]); // the data
/// assert_eq!(crc.finish(), [0xFC; 4]);
/// ```
#[derive(Clone, Debug)]
pub struct Crc8x4 {
    lanes: [u8; LANES],
    /// Lane of the next byte.
    next: usize,
}

impl Default for Crc8x4 {
    fn default() -> Self {
        Self::new()
    }
}

impl Crc8x4 {
    /// The checksum of nothing.
    pub fn new() -> Self {
        Self {
            lanes: [INITIAL; LANES],
            next: 0,
        }
    }

    /// Adds `bytes` behind those added before.
    pub fn update(&mut self, bytes: &[u8]) {
        // Up to the next whole group of lanes one by one, then 16 bytes at a time.
        let lead = (LANES - self.next) % LANES;
        let (lead, rest) = bytes.split_at(lead.min(bytes.len()));
        self.one_by_one(lead);
        let mut groups = rest.chunks_exact(LANES * STEPS);
        for group in &mut groups {
            let (first, later) = group.split_at(LANES);
            let (second, later) = later.split_at(LANES);
            let (third, fourth) = later.split_at(LANES);
            for ((((lane, a), b), c), d) in self
                .lanes
                .iter_mut()
                .zip(first)
                .zip(second)
                .zip(third)
                .zip(fourth)
            {
                *lane = after::<3>(*lane ^ a) ^ after::<2>(*b) ^ after::<1>(*c) ^ after::<0>(*d);
            }
        }
        self.one_by_one(groups.remainder());
    }

    fn one_by_one(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(lane) = self.lanes.get_mut(self.next) {
                *lane = after::<0>(*lane ^ byte);
            }
            self.next = (self.next + 1) % LANES;
        }
    }

    /// The four bytes that follow the data, CRC 0 first.
    pub fn finish(&self) -> [u8; CRC_BYTES] {
        self.lanes
    }

    /// The checksum of one piece.
    pub fn of(bytes: &[u8]) -> [u8; CRC_BYTES] {
        let mut crc = Self::new();
        crc.update(bytes);
        crc.finish()
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    /// §11 in the terms of the catalogue of CRC parameters; nobody named this one.
    const LANE: crc::Algorithm<u8> = crc::Algorithm {
        width: 8,
        poly: 0x4D,
        init: 0xFF,
        refin: true,
        refout: true,
        xorout: 0x00,
        check: 0x27,
        residue: 0x00,
    };

    fn oracle(bytes: &[u8]) -> [u8; 4] {
        let lane = crc::Crc::<u8>::new(&LANE);
        [0, 1, 2, 3].map(|first| {
            let mut digest = lane.digest();
            for &byte in bytes.iter().skip(first).step_by(4) {
                digest.update(&[byte]);
            }
            digest.finalize()
        })
    }

    #[test]
    fn table_entries_named_by_the_specification() {
        assert_eq!((TABLES[0][1], TABLES[0][128]), (0x3E, 0xB2));
    }

    #[test]
    fn the_check_value_in_every_lane() {
        assert_eq!(crc::Crc::<u8>::new(&LANE).checksum(b"123456789"), 0x27);
        let four_times: Vec<u8> = b"123456789".iter().flat_map(|&c| [c; 4]).collect();
        assert_eq!(Crc8x4::of(&four_times), [0x27; 4]);
    }

    #[test]
    fn nothing_leaves_the_initial_value() {
        assert_eq!(Crc8x4::default().finish(), [0xFF; 4]);
        assert_eq!(Crc8x4::of(&[]), [0xFF; 4]);
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_implementation(
            bytes in proptest::collection::vec(any::<u8>(), 0..2048),
        ) {
            prop_assert_eq!(Crc8x4::of(&bytes), oracle(&bytes));
        }

        #[test]
        fn pieces_make_no_difference(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..70),
                0..20,
            ),
        ) {
            let mut crc = Crc8x4::new();
            for piece in &pieces {
                crc.update(piece);
            }
            prop_assert_eq!(crc.finish(), oracle(&pieces.concat()));
        }
    }
}
