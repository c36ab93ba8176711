//! The two checksums that may follow data, and which of them is meant (§11, §18.2).

use crate::{CRC_BYTES, Crc8x4, Extension, crc32c_append};

/// A function of the meaning of [`crc32c_append`], perhaps by the processor's own instructions.
pub type Crc32cAppend = fn(crc: u32, bytes: &[u8]) -> u32;

/// What the [`CRC_BYTES`] behind the data of an ATA frame are, once negotiated. Both cover the
/// frame from its task file (offset 24) to the end of its data.
///
/// ```
/// use aoede_wire::Checksum;
/// let covered = [0; 12 + 512];
/// assert_eq!(Checksum::Crc8x4.of(&covered), [0xFC; 4]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Checksum {
    /// Four CRC-8 side by side, CRC 0 first.
    Crc8x4,
    /// One CRC-32C, least significant byte first.
    Crc32c,
}

impl Checksum {
    /// The checksum that an extension is about.
    pub fn of_extension(extension: Extension) -> Option<Self> {
        match extension {
            Extension::Crc8x4 => Some(Self::Crc8x4),
            Extension::Crc32c => Some(Self::Crc32c),
            _ => None,
        }
    }

    /// The extension that is about it.
    pub fn extension(self) -> Extension {
        match self {
            Self::Crc8x4 => Extension::Crc8x4,
            Self::Crc32c => Extension::Crc32c,
        }
    }

    /// The bytes that follow `covered`.
    pub fn of(self, covered: &[u8]) -> [u8; CRC_BYTES] {
        self.with(crc32c_append, covered)
    }

    /// As [`of`](Self::of), CRC-32C computed by `crc32c`.
    pub fn with(self, crc32c: Crc32cAppend, covered: &[u8]) -> [u8; CRC_BYTES] {
        match self {
            Self::Crc8x4 => Crc8x4::of(covered),
            Self::Crc32c => crc32c(0, covered).to_le_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    #[test]
    fn each_extension_means_its_own() {
        let found: std::vec::Vec<_> = Extension::ALL
            .into_iter()
            .filter_map(|extension| Some((extension, Checksum::of_extension(extension)?)))
            .collect();
        assert_eq!(
            found,
            [
                (Extension::Crc8x4, Checksum::Crc8x4),
                (Extension::Crc32c, Checksum::Crc32c)
            ]
        );
    }

    #[test]
    fn crc_32c_is_sent_least_significant_byte_first() {
        assert_eq!(Checksum::Crc32c.of(b"123456789"), [0x83, 0x92, 0x06, 0xE3]);
        // Whatever is given computes it.
        let given = |crc: u32, bytes: &[u8]| 0x0102_0304 + crc + u32::from(bytes[0]);
        assert_eq!(Checksum::Crc32c.with(given, &[1]), [5, 3, 2, 1]);
        assert_eq!(Checksum::Crc8x4.with(given, &[0; 524]), [0xFC; 4]);
    }
}
