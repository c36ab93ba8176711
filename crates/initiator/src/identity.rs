//! What IDENTIFY DEVICE tells (§3.6).

use aoede_wire::SECTOR_BYTES;

/// Word 69: what trimmed sectors hold does not change, and is zeros.
const TRIM_ZEROES: u16 = 1 << 14 | 1 << 5;

/// In words 129 and 130: what follows is the number of a write cache.
const CACHE_MARK: u64 = 0x4564_416F;

/// Models of targets that answer FLUSH CACHE without doing it (§15, 7): vblade, the 2014 AoEde.
const EMPTY_FLUSH: [&str; 2] = ["Coraid EtherDrive vblade", "AoEde virtual blade"];

/// A disk as it describes itself.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a bit on the wire")]
pub struct Identity {
    /// Serial number; words 10–19, without the padding.
    pub serial: String,
    /// Model; words 27–46.
    pub model: String,
    /// Version of the target's software; words 23–26.
    pub firmware: String,
    /// Size in sectors of 512 bytes.
    pub sectors: u64,
    /// Whether addresses may have 48 bits; otherwise 28.
    pub lba48: bool,
    /// FLUSH CACHE is known.
    pub flush: bool,
    /// FLUSH CACHE EXT is known.
    pub flush_ext: bool,
    /// A flush is answered without being done, as far as is known of this kind of target.
    pub flush_is_empty: bool,
    /// Most blocks of ranges in one TRIM; 0 if it is not known.
    pub trim_blocks: u16,
    /// The disk promises that trimmed sectors read as zeros: bits 14 and 5 of word 69.
    pub trim_zeroes: bool,
    /// Whether writes may be acknowledged before they are stable.
    pub write_cache: bool,
    /// Number of the write cache, if the target tells one: another each time that it began empty.
    pub cache_number: Option<u64>,
    /// Binary logarithm of sectors in a physical sector.
    pub physical_sector_exponent: u8,
}

impl Identity {
    /// Reads the data of a response. `None` if it is too short, or its checksum is wrong.
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        let data = data.get(..SECTOR_BYTES)?;
        let word = |index: usize| match data.get(2 * index..2 * index + 2) {
            Some(&[low, high]) => u16::from_le_bytes([low, high]),
            _ => 0,
        };
        let number = |first: usize, words: usize| {
            (first..first + words)
                .rev()
                .fold(0, |sum, index| sum << 16 | u64::from(word(index)))
        };
        let sum = data.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
        if word(255) & 0xFF == 0xA5 && sum != 0 {
            return None;
        }
        // Words 82 to 87 count if bits 15 and 14 of word 83 are 01.
        let valid = word(83) >> 14 == 0b01;
        let feature = |index: usize, bit: u32| valid && word(index) >> bit & 1 == 1;
        let lba48 = feature(83, 10);
        let model = string(data, 54..94);
        Some(Self {
            serial: string(data, 20..40),
            firmware: string(data, 46..54),
            sectors: if lba48 { number(100, 3) } else { number(60, 2) },
            lba48,
            flush: feature(83, 12),
            flush_ext: feature(83, 13),
            flush_is_empty: EMPTY_FLUSH.contains(&model.as_str()),
            model,
            trim_blocks: if word(169) & 1 == 1 {
                word(105).max(1)
            } else {
                0
            },
            trim_zeroes: word(169) & 1 == 1 && word(69) & TRIM_ZEROES == TRIM_ZEROES,
            write_cache: feature(85, 5),
            cache_number: (number(129, 2) == CACHE_MARK).then(|| number(131, 4)),
            physical_sector_exponent: if word(106) >> 13 == 0b011 {
                u8::try_from(word(106) & 0x0F).unwrap_or(0)
            } else {
                0
            },
        })
    }

    /// Whether a flush is known, and worth something: what was acknowledged before it is on stable
    /// storage when it succeeds.
    pub fn can_flush(&self) -> bool {
        (self.flush || self.flush_ext) && !self.flush_is_empty
    }

    /// Whether the other is the same disk (§15, 2).
    pub(crate) fn is_same_disk(&self, other: &Self) -> bool {
        self.is_same_apart_from_size(other) && self.sectors == other.sectors
    }

    /// Whether the other is the same disk, which may have grown or shrunk.
    pub(crate) fn is_same_apart_from_size(&self, other: &Self) -> bool {
        self.serial == other.serial && self.model == other.model
    }
}

/// A string: two characters a word, the first in the high byte.
fn string(data: &[u8], bytes: std::ops::Range<usize>) -> String {
    let words = data.get(bytes).unwrap_or_default().chunks_exact(2);
    let characters = words.flat_map(|pair| pair.iter().rev());
    let text: String = characters
        .map(|&byte| char::from(byte))
        .map(|c| if c.is_ascii_graphic() { c } else { ' ' })
        .collect();
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(data: &mut [u8], index: usize, word: u16) {
        data[2 * index..][..2].copy_from_slice(&word.to_le_bytes());
    }

    /// Words as §3.6 lists them for the 2014 AoEde, and for this project's target.
    #[test]
    fn words_are_read_where_the_table_has_them() {
        let mut data = [0; 512];
        data[20..26].copy_from_slice(&[0x2E, 0x31, 0x3A, 0x31, 0x6D, 0x76]);
        data[26..40].fill(b' ');
        set(&mut data, 23, u16::from_be_bytes(*b"V2"));
        set(&mut data, 24, u16::from_be_bytes(*b"1 "));
        set(&mut data, 60, 0x4000);
        set(&mut data, 83, 0x5400);
        set(&mut data, 100, 0x5678);
        set(&mut data, 101, 0x1234);
        set(&mut data, 102, 1);
        let identity = Identity::decode(&data).unwrap();
        assert_eq!(identity.serial, "1.1:vm");
        assert_eq!(identity.firmware, "V21");
        assert_eq!(identity.sectors, 0x1_1234_5678);
        assert!(identity.lba48 && identity.flush && !identity.flush_ext);
        assert_eq!((identity.trim_blocks, identity.write_cache), (0, false));

        set(&mut data, 83, 0x7400);
        set(&mut data, 85, 0x0020);
        set(&mut data, 105, 2);
        set(&mut data, 106, 0x6003);
        set(&mut data, 169, 1);
        let identity = Identity::decode(&data).unwrap();
        assert!(identity.flush_ext && identity.write_cache);
        assert_eq!((identity.trim_blocks, identity.trim_zeroes), (2, false));
        assert_eq!(identity.physical_sector_exponent, 3);

        // Zeros are promised by both bits together, and not without TRIM.
        for (word, zeroes) in [(0x4000, false), (0x0020, false), (0x4020, true)] {
            set(&mut data, 69, word);
            assert_eq!(Identity::decode(&data).unwrap().trim_zeroes, zeroes);
        }
        set(&mut data, 169, 0);
        assert!(!Identity::decode(&data).unwrap().trim_zeroes);

        set(&mut data, 83, 0x5000);
        assert_eq!(Identity::decode(&data).unwrap().sectors, 0x4000);
        // Without the fixed bits the words say nothing.
        set(&mut data, 83, 0x3400);
        assert!(!Identity::decode(&data).unwrap().lba48);
    }

    /// §3.6: a number counts behind its mark only, as these words are every vendor's own.
    #[test]
    fn the_number_of_a_write_cache_is_read_behind_its_mark() {
        let mut data = [0; 512];
        for (index, word) in [(131, 0xCDEF), (132, 0x89AB), (133, 0x4567), (134, 0x0123)] {
            set(&mut data, index, word);
        }
        assert_eq!(Identity::decode(&data).unwrap().cache_number, None);
        set(&mut data, 129, 0x416F);
        assert_eq!(Identity::decode(&data).unwrap().cache_number, None);
        set(&mut data, 130, 0x4564);
        let identity = Identity::decode(&data).unwrap();
        assert_eq!(identity.cache_number, Some(0x0123_4567_89AB_CDEF));
    }

    /// Models as the golden frames and §3.6 have them, and flushes as word 83 of each says.
    #[test]
    fn rule_7_the_model_tells_whose_flush_does_nothing() {
        for (model, word_83, can_flush) in [
            ("AoEde", 0x7400, true),
            ("AoEde", 0x5400, true),
            ("AoEde", 0x6400, true),
            ("AoEde", 0x4400, false),
            ("Coraid EtherDrive vblade", 0x5400, false),
            ("AoEde virtual blade", 0x5400, false),
            ("another vblade", 0x5400, true),
        ] {
            let mut data = [0; 512];
            data[54..94].fill(b' ');
            for (at, byte) in model.bytes().enumerate() {
                data[54 + (at ^ 1)] = byte;
            }
            set(&mut data, 83, word_83);
            let identity = Identity::decode(&data).unwrap();
            assert_eq!(identity.model, model);
            assert_eq!(identity.can_flush(), can_flush, "{model} {word_83:#06x}");
        }
    }

    #[test]
    fn short_and_damaged_data_is_no_identity() {
        assert_eq!(Identity::decode(&[0; 511]), None);
        let mut data = [0; 512];
        data[510] = 0xA5;
        data[511] = 0x5B;
        assert!(Identity::decode(&data).is_some());
        data[7] = 1;
        assert_eq!(Identity::decode(&data), None);
    }
}
