//! CRC-32C, the Castagnoli polynomial, in software: eight bytes a step by table (§18.2).
//!
//! Processors have instructions for it, which need `unsafe` and are not used here. Whoever computes
//! many of them takes an accelerated function of the same meaning as [`crc32c_append`].

/// Bytes that one step takes.
const STEP: usize = 8;
/// `0x1EDC6F41` with its bits reversed.
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// `TABLES[n][x]` is the CRC after `x` and n zero bytes, without the inversions.
static TABLES: [[u32; 256]; STEP] = tables();

#[expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "evaluated by the compiler; all indices are below 256"
)]
const fn tables() -> [[u32; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
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
    let mut zeros = 1;
    while zeros < STEP {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[zeros - 1][byte];
            tables[zeros][byte] = (crc >> 8) ^ tables[0][(crc & 0xFF) as usize];
            byte += 1;
        }
        zeros += 1;
    }
    tables
}

/// Looks `byte` up in the table for `ZEROS` following bytes.
#[expect(
    clippy::indexing_slicing,
    reason = "a byte cannot leave a table of 256 entries; callers pass constants below STEP"
)]
fn after<const ZEROS: usize>(byte: u8) -> u32 {
    TABLES[ZEROS][usize::from(byte)]
}

/// The CRC-32C of what `crc` is the CRC-32C of, followed by `bytes`; that of nothing is 0.
///
/// ```
/// use aoede_wire::crc32c_append;
/// assert_eq!(crc32c_append(0, b"123456789"), 0xE306_9283);
/// assert_eq!(crc32c_append(crc32c_append(0, b"12345"), b"6789"), 0xE306_9283);
/// ```
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    let mut crc = !crc;
    let mut rest = bytes;
    while let Some((&[b0, b1, b2, b3, b4, b5, b6, b7], later)) = rest.split_first_chunk::<STEP>() {
        let [c0, c1, c2, c3] = crc.to_le_bytes();
        crc = after::<7>(b0 ^ c0)
            ^ after::<6>(b1 ^ c1)
            ^ after::<5>(b2 ^ c2)
            ^ after::<4>(b3 ^ c3)
            ^ after::<3>(b4)
            ^ after::<2>(b5)
            ^ after::<1>(b6)
            ^ after::<0>(b7);
        rest = later;
    }
    for byte in rest {
        let [low, ..] = crc.to_le_bytes();
        crc = (crc >> 8) ^ after::<0>(low ^ byte);
    }
    !crc
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn oracle(bytes: &[u8]) -> u32 {
        crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes)
    }

    /// The check value of the catalogues, and the vectors of RFC 3720, appendix B.4.
    #[test]
    fn published_vectors() {
        let upwards: Vec<u8> = (0..32).collect();
        let downwards: Vec<u8> = (0..32).rev().collect();
        for (bytes, crc) in [
            (&b"123456789"[..], 0xE306_9283),
            (&[0; 32], 0x8A91_36AA),
            (&[0xFF; 32], 0x62A8_AB43),
            (&upwards, 0x46DD_794E),
            (&downwards, 0x113F_DB5C),
            (&[], 0),
        ] {
            assert_eq!(crc32c_append(0, bytes), crc, "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_an_independent_implementation(
            pieces in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..70),
                0..20,
            ),
        ) {
            let appended = pieces.iter().fold(0, |crc, piece| crc32c_append(crc, piece));
            prop_assert_eq!(appended, oracle(&pieces.concat()));
        }
    }
}
