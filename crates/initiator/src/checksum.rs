//! The checksum behind the data of an ATA frame, if one was agreed on (§11, §18.2).

use aoede_wire::{CRC_BYTES, HEADER_BYTES, sectors_per_frame};

/// Which checksum follows the data, if any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct Checksum(pub(crate) Option<aoede_wire::Checksum>);

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
    /// Whether there is one.
    pub(crate) fn is_some(self) -> bool {
        self.0.is_some()
    }

    /// Bytes it takes in a frame.
    pub(crate) fn bytes(self) -> usize {
        if self.is_some() { CRC_BYTES } else { 0 }
    }

    /// Whole sectors that fit into a frame with it.
    pub(crate) fn sectors_per_frame(self, mtu: u32) -> u8 {
        sectors_per_frame(mtu, self.is_some())
    }

    /// Puts it behind a frame with data, which ends at `len`. Returns the new length, or `None` if
    /// `out` is too short.
    pub(crate) fn append(self, out: &mut [u8], len: usize) -> Option<usize> {
        let Self(Some(checksum)) = self else {
            return Some(len);
        };
        let sum = of(checksum, out.get(HEADER_BYTES..len)?);
        out.get_mut(len..len + sum.len())?.copy_from_slice(&sum);
        Some(len + sum.len())
    }

    /// Judges a response's argument (from offset 24 on) whose task file and data are `len` bytes.
    pub(crate) fn judge(self, argument: &[u8], len: usize) -> Verdict {
        let (Some(covered), Some(rest)) = (argument.get(..len), argument.get(len..)) else {
            return Verdict::Damaged;
        };
        match (self.0, rest.first_chunk::<CRC_BYTES>()) {
            (None, _) => Verdict::Good,
            (Some(_), None) => Verdict::Missing,
            (Some(checksum), Some(sum)) if *sum == of(checksum, covered) => Verdict::Good,
            (Some(_), Some(_)) => Verdict::Damaged,
        }
    }
}

/// CRC-32C by the processor's own instructions, where it has them.
fn of(checksum: aoede_wire::Checksum, covered: &[u8]) -> [u8; CRC_BYTES] {
    checksum.with(crc32c::crc32c_append, covered)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of §11 and §18.2: `41 00 01 24`, 8 zeros, 512 zeros; and the same 12 bytes,
    /// 0…255 twice.
    #[test]
    fn the_checksum_follows_the_data() {
        let none = Checksum(None);
        for (kind, rising, sum) in [
            (
                aoede_wire::Checksum::Crc8x4,
                false,
                [0x92, 0xFC, 0x91, 0x9E],
            ),
            (aoede_wire::Checksum::Crc8x4, true, [0x13, 0x8B, 0x99, 0x60]),
            (
                aoede_wire::Checksum::Crc32c,
                false,
                [0xAA, 0x4E, 0xC9, 0xDC],
            ),
            (aoede_wire::Checksum::Crc32c, true, [0x30, 0x4D, 0x25, 0x42]),
        ] {
            let checksum = Checksum(Some(kind));
            let mut frame = [0; 24 + 12 + 512 + 4];
            frame[24..28].copy_from_slice(&[0x41, 0, 1, 0x24]);
            for (byte, value) in frame[36..548].iter_mut().zip((0..=255).cycle()) {
                *byte = if rising { value } else { 0 };
            }
            assert_eq!(checksum.append(&mut frame, 548), Some(552));
            assert_eq!(frame[548..], sum);
            let argument = &mut frame[24..];
            assert_eq!(checksum.judge(argument, 524), Verdict::Good);
            assert_eq!(checksum.judge(&argument[..524], 524), Verdict::Missing);
            argument[100] ^= 0x10;
            assert_eq!(checksum.judge(argument, 524), Verdict::Damaged);
            assert_eq!(none.judge(argument, 524), Verdict::Good);
            assert_eq!(none.judge(&argument[..523], 524), Verdict::Damaged);
            assert_eq!(checksum.append(&mut [0; 551], 548), None);
            assert_eq!(none.append(&mut [0; 551], 548), Some(548));
        }
    }
}
