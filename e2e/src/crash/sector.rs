//! Sectors that tell who wrote them: every byte follows from the disk, the LBA and the number of
//! the write, so what is stale, misplaced or torn shows.

use std::fmt::{self, Display, Formatter};

use crate::Random;

/// Bytes of a sector.
pub(super) const SECTOR: usize = 512;

const MAGIC: u64 = u64::from_be_bytes(*b"AoEcrash");
/// Magic, disk, LBA and number of the write.
const HEADER: usize = 32;

/// What a whole sector may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Never written, or trimmed.
    Zeros,
    /// The data of the write with this number.
    Write(u64),
}

impl Display for Content {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zeros => write!(f, "zeros"),
            Self::Write(number) => write!(f, "write {number}"),
        }
    }
}

/// What no write has left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// It begins as a write's sector does, but is another from this byte on.
    Torn { number: u64, at: usize },
    /// A sector of another LBA or another disk.
    Misplaced { disk: u64, lba: u64, number: u64 },
    /// Nothing of ours.
    Foreign([u8; 8]),
}

impl Display for Damage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Torn { number, at } => {
                write!(f, "write {number} up to byte {at} and something else there")
            }
            Self::Misplaced { disk, lba, number } => {
                write!(f, "write {number} of sector {lba} of disk {disk:#x}")
            }
            Self::Foreign(start) => write!(f, "what nobody has written: {start:02x?} …"),
        }
    }
}

/// The bytes that write `number` leaves in sector `lba`.
pub(super) fn bytes_of(disk: u64, lba: u64, number: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(SECTOR);
    for word in [MAGIC, disk, lba, number] {
        bytes.extend(word.to_be_bytes());
    }
    let mut body = Random::new(disk ^ lba.rotate_left(40) ^ number.wrapping_mul(0x9e37_79b9));
    while bytes.len() < SECTOR {
        bytes.extend(body.number().to_be_bytes());
    }
    bytes
}

/// Recognises what is found in sector `lba`.
pub(super) fn recognise(disk: u64, lba: u64, found: &[u8]) -> Result<Content, Damage> {
    if found.len() == SECTOR && found.iter().all(|&byte| byte == 0) {
        return Ok(Content::Zeros);
    }
    let mut words = found.chunks_exact(8).take(HEADER / 8).map(|word| {
        word.iter()
            .fold(0, |number, &byte| number << 8 | u64::from(byte))
    });
    let header = (words.next(), words.next(), words.next(), words.next());
    let (Some(MAGIC), Some(of_disk), Some(of_lba), Some(number)) = header else {
        let mut start = [0; 8];
        for (to, from) in start.iter_mut().zip(found) {
            *to = *from;
        }
        return Err(Damage::Foreign(start));
    };
    let whole = bytes_of(of_disk, of_lba, number);
    let same = whole.iter().zip(found).take_while(|(a, b)| a == b).count();
    if same < SECTOR {
        return Err(Damage::Torn { number, at: same });
    }
    if (of_disk, of_lba) != (disk, lba) {
        return Err(Damage::Misplaced {
            disk: of_disk,
            lba: of_lba,
            number,
        });
    }
    Ok(Content::Write(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 77;

    #[test]
    fn a_sector_names_its_write() {
        let bytes = bytes_of(DISK, 5, 9);
        assert_eq!(bytes.len(), SECTOR);
        assert_eq!(&bytes[..8], b"AoEcrash");
        assert_eq!(recognise(DISK, 5, &bytes), Ok(Content::Write(9)));
        assert_eq!(recognise(DISK, 5, &[0; SECTOR]), Ok(Content::Zeros));
    }

    #[test]
    fn a_sector_in_the_wrong_place_is_seen() {
        let misplaced = Damage::Misplaced {
            disk: DISK,
            lba: 6,
            number: 9,
        };
        assert_eq!(
            recognise(DISK, 5, &bytes_of(DISK, 6, 9)),
            Err(misplaced),
            "another LBA"
        );
        assert!(matches!(
            recognise(DISK, 5, &bytes_of(78, 5, 9)),
            Err(Damage::Misplaced { disk: 78, .. })
        ));
    }

    #[test]
    fn two_writes_in_one_sector_are_seen_wherever_they_meet() {
        for at in HEADER..SECTOR - 8 {
            let mut bytes = bytes_of(DISK, 5, 9);
            bytes[at..].copy_from_slice(&bytes_of(DISK, 5, 10)[at..]);
            let Err(Damage::Torn { number: 9, at: met }) = recognise(DISK, 5, &bytes) else {
                panic!("torn at {at}, unseen");
            };
            // The two may share a byte by chance.
            assert!(met >= at && met < at + 4);
        }
        let mut half_zero = bytes_of(DISK, 5, 9);
        half_zero[256..].fill(0);
        assert!(matches!(
            recognise(DISK, 5, &half_zero),
            Err(Damage::Torn { number: 9, .. })
        ));
    }

    #[test]
    fn other_bytes_are_foreign() {
        assert_eq!(
            recognise(DISK, 5, &[0xaa; SECTOR]),
            Err(Damage::Foreign([0xaa; 8]))
        );
        assert_eq!(recognise(DISK, 5, &[]), Err(Damage::Foreign([0; 8])));
        let mut late = [0; SECTOR];
        late[SECTOR - 1] = 1;
        assert_eq!(recognise(DISK, 5, &late), Err(Damage::Foreign([0; 8])));
    }
}
