//! The checksum behind the data of an ATA frame, if one was agreed on (§11).

use aoede_wire::{CRC_BYTES, Crc8x4, HEADER_BYTES, sectors_per_frame};

/// Which checksum follows the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Checksum {
    /// None.
    #[default]
    None,
    /// CRC 8x4.
    Crc8x4,
}

/// What the data of a response turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// As it was sent, as far as can be known.
    Good,
    /// Changed on its way.
    Damaged,
    /// The target does not send the checksum any more.
    Missing,
}

impl Checksum {
    /// Bytes it takes in a frame.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc8x4 => CRC_BYTES,
        }
    }

    /// Whole sectors that fit into a frame with it.
    pub(crate) fn sectors_per_frame(self, mtu: u32) -> u8 {
        sectors_per_frame(mtu, self == Self::Crc8x4)
    }

    /// Puts it behind a frame with data, which ends at `len`. Returns the new length, or `None` if
    /// `out` is too short.
    pub(crate) fn append(self, out: &mut [u8], len: usize) -> Option<usize> {
        match self {
            Self::None => Some(len),
            Self::Crc8x4 => {
                let crc = Crc8x4::of(out.get(HEADER_BYTES..len)?);
                out.get_mut(len..len + crc.len())?.copy_from_slice(&crc);
                Some(len + crc.len())
            }
        }
    }

    /// Judges a response's argument (from offset 24 on) whose task file and data are `len` bytes.
    pub(crate) fn judge(self, argument: &[u8], len: usize) -> Verdict {
        let (Some(covered), Some(rest)) = (argument.get(..len), argument.get(len..)) else {
            return Verdict::Damaged;
        };
        match (self, rest.first_chunk::<CRC_BYTES>()) {
            (Self::None, _) => Verdict::Good,
            (Self::Crc8x4, None) => Verdict::Missing,
            (Self::Crc8x4, Some(crc)) if *crc == Crc8x4::of(covered) => Verdict::Good,
            (Self::Crc8x4, Some(_)) => Verdict::Damaged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vector of §11: `41 00 01 24`, 8 zeros, 512 zeros.
    #[test]
    fn the_checksum_follows_the_data() {
        let mut frame = [0; 24 + 12 + 512 + 4];
        frame[24..28].copy_from_slice(&[0x41, 0, 1, 0x24]);
        assert_eq!(Checksum::Crc8x4.append(&mut frame, 548), Some(552));
        assert_eq!(frame[548..], [0x92, 0xFC, 0x91, 0x9E]);
        let argument = &mut frame[24..];
        assert_eq!(Checksum::Crc8x4.judge(argument, 524), Verdict::Good);
        assert_eq!(Checksum::None.judge(argument, 524), Verdict::Good);
        assert_eq!(
            Checksum::Crc8x4.judge(&argument[..524], 524),
            Verdict::Missing
        );
        assert_eq!(
            Checksum::None.judge(&argument[..523], 524),
            Verdict::Damaged
        );
        argument[100] ^= 0x10;
        assert_eq!(Checksum::Crc8x4.judge(argument, 524), Verdict::Damaged);
        assert_eq!(Checksum::Crc8x4.append(&mut [0; 551], 548), None);
    }
}
