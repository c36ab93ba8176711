//! IDENTIFY DEVICE: 256 little-endian words that describe the disk (§3.6, column "ours").
//!
//! Built once; size, cache state and TRIM are written for each request, because they may change
//! while the export runs or differ between ports and initiators.

use aoede_wire::SECTOR_BYTES;

use crate::{TargetSettings, Trim, WriteCache};

/// Sectors in a cylinder of the geometry that old readers want: 16 heads of 63 sectors.
const SECTORS_PER_CYLINDER: u64 = 16 * 63;
/// Most cylinders of that geometry.
const MAX_CYLINDERS: u64 = 16_383;
/// Size told to readers of 28-bit addresses.
const MAX_SECTORS_28: u64 = 0x0FFF_FFFF;

/// In front of the number of the write cache: whose words these are.
const CACHE_MARK: [u16; 2] = [0x416F, 0x4564];

/// The words that stay the same while the export lives.
#[derive(Clone, Debug)]
pub(crate) struct Identify {
    base: Words,
}

/// The words that may change between two requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Changing {
    pub(crate) sectors: u64,
    pub(crate) write_cache_on: bool,
    /// TRIM, as far as it is offered to the asking initiator.
    pub(crate) trim: Trim,
    /// Most blocks in one TRIM on the receiving port.
    pub(crate) trim_blocks: u8,
}

impl Identify {
    pub(crate) fn new(settings: &TargetSettings) -> Self {
        let mut base = Words([0; SECTOR_BYTES]);
        base.set(0, 0x0040); // ATA, fixed disk
        base.text::<10, 10>(&settings.serial);
        base.text::<23, 4>(&settings.firmware_revision);
        base.text::<27, 20>(&settings.model);
        base.set(47, 0x8000); // no READ MULTIPLE
        base.set(49, 0x0200); // LBA
        base.set(50, 0x4000); // fixed pattern
        base.set(53, 0x0001); // words 54–58 are valid
        base.set(80, 0x01F0); // ATA-4 to ATA8
        base.set(82, 1 << 5); // there is a volatile write cache; word 85 says whether it is on
        base.set(83, 0x7400); // FLUSH EXT, FLUSH, LBA48
        base.set(84, 0x4000); // words 82–84 are valid
        base.set(86, 0x3400); // FLUSH EXT, FLUSH, LBA48 are on
        base.set(87, 0x4000); // words 85–87 are valid
        base.set(93, 0x400B); // not serial ATA: words 76–79 mean nothing
        if settings.write_cache == WriteCache::Back && settings.cache_number != 0 {
            let [first, second] = CACHE_MARK;
            base.set(129, first); // words 129–159 are the vendor's
            base.set(130, second);
            base.number::<4>(131, settings.cache_number);
        }
        base.set(
            106,
            match settings.physical_sector_exponent {
                0 => 0x4000,
                exponent => 0x6000 | u16::from(exponent),
            },
        );
        base.set(209, 0x4000 | settings.physical_sector_offset); // of sector 0
        base.set(217, u16::from(settings.non_rotating));
        Self { base }
    }

    /// The whole identity as sent.
    pub(crate) fn to_bytes(&self, changing: Changing) -> [u8; SECTOR_BYTES] {
        let sectors = changing.sectors;
        let cylinders = (sectors / SECTORS_PER_CYLINDER).clamp(1, MAX_CYLINDERS);
        let mut words = self.base.clone();
        for (cylinder_word, head_word, sector_word) in [(1, 3, 6), (54, 55, 56)] {
            words.number::<1>(cylinder_word, cylinders);
            words.set(head_word, 16);
            words.set(sector_word, 63);
        }
        words.number::<2>(57, cylinders * SECTORS_PER_CYLINDER);
        words.number::<2>(60, sectors.min(MAX_SECTORS_28));
        words.number::<4>(100, sectors);
        words.set(85, u16::from(changing.write_cache_on) << 5);
        if changing.trim == Trim::ReadsZeros {
            words.set(69, 1 << 14 | 1 << 5);
        }
        words.set(105, u16::from(changing.trim_blocks));
        words.set(169, u16::from(changing.trim != Trim::Unsupported));
        words.seal();
        words.0
    }
}

/// 256 words in their order on the wire.
#[derive(Clone, Debug)]
struct Words([u8; SECTOR_BYTES]);

impl Words {
    fn set(&mut self, word: usize, value: u16) {
        let at = word * 2..word * 2 + 2;
        if let Some(bytes) = self.0.get_mut(at) {
            bytes.copy_from_slice(&value.to_le_bytes());
        }
    }

    /// A number of `COUNT` words, low word first: the same as its little-endian bytes.
    fn number<const COUNT: usize>(&mut self, word: usize, value: u64) {
        let at = word * 2..(word + COUNT) * 2;
        if let (Some(bytes), Some(value)) =
            (self.0.get_mut(at), value.to_le_bytes().get(..COUNT * 2))
        {
            bytes.copy_from_slice(value);
        }
    }

    /// ASCII in `COUNT` words from `WORD` on, padded with spaces, the characters of each word
    /// swapped.
    fn text<const WORD: usize, const COUNT: usize>(&mut self, text: &str) {
        let mut characters = text.bytes().chain(core::iter::repeat(b' '));
        for word in WORD..WORD + COUNT {
            let first = characters.next().unwrap_or(b' ');
            let second = characters.next().unwrap_or(b' ');
            self.set(word, u16::from_be_bytes([first, second]));
        }
    }

    /// Word 255: a signature, and a checksum that makes all bytes sum to zero.
    fn seal(&mut self) {
        self.set(255, 0x00A5);
        let sum = self.0.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b));
        self.set(255, u16::from_le_bytes([0xA5, sum.wrapping_neg()]));
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use alloc::string::String;
    use aoede_wire::Address;
    use std::collections::BTreeMap;

    fn settings() -> TargetSettings {
        let address = Address { shelf: 1, slot: 1 };
        let mut settings = TargetSettings::new(address, 16384);
        settings.model = String::from("vm");
        settings.serial = String::from("1.1:vm");
        settings.firmware_revision = String::from("0.1.0");
        settings
    }

    fn words(settings: &TargetSettings, changing: Changing) -> [u16; 256] {
        let bytes = Identify::new(settings).to_bytes(changing);
        let sum = bytes.iter().fold(0, |sum: u8, &b| sum.wrapping_add(b));
        assert_eq!(sum, 0, "all bytes sum to zero");
        let mut words = [0; 256];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(2)) {
            *word = u16::from_le_bytes([bytes[0], bytes[1]]);
        }
        words
    }

    /// Sizes are checked on their own; texts and checksum too.
    fn others(words: &[u16; 256]) -> BTreeMap<usize, u16> {
        let own = |word: &usize| matches!(word, 10..=46 | 255);
        (0..256)
            .filter(|word| !own(word) && words[*word] != 0)
            .map(|word| (word, words[word]))
            .collect()
    }

    const PLAIN: Changing = Changing {
        sectors: 16384,
        write_cache_on: false,
        trim: Trim::Unsupported,
        trim_blocks: 2,
    };

    #[test]
    fn a_plain_disk_has_these_words_and_no_others() {
        let words = words(&settings(), PLAIN);
        let expected = [
            (0, 0x0040),
            (1, 16),
            (3, 16),
            (6, 63),
            (47, 0x8000),
            (49, 0x0200),
            (50, 0x4000),
            (53, 0x0001),
            (54, 16),
            (55, 16),
            (56, 63),
            (57, 16128),
            (60, 16384),
            (80, 0x01F0),
            (82, 0x0020),
            (83, 0x7400),
            (84, 0x4000),
            (86, 0x3400),
            (87, 0x4000),
            (93, 0x400B),
            (100, 16384),
            (105, 2),
            (106, 0x4000),
            (209, 0x4000),
        ];
        assert_eq!(others(&words), BTreeMap::from(expected));
        assert_eq!(words[255] & 0xFF, 0xA5);
    }

    #[test]
    fn everything_that_can_be_switched_on() {
        let mut settings = settings();
        settings.write_cache = WriteCache::Back;
        settings.physical_sector_exponent = 3;
        settings.non_rotating = true;
        let changing = Changing {
            write_cache_on: true,
            trim: Trim::ReadsZeros,
            ..PLAIN
        };
        let plain = others(&words(&self::settings(), PLAIN));
        let mut full = others(&words(&settings, changing));
        full.retain(|word, value| plain.get(word) != Some(value));
        let expected = [
            (69, 0x4020),
            (85, 0x0020),
            (106, 0x6003),
            (169, 0x0001),
            (217, 0x0001),
        ];
        assert_eq!(full, BTreeMap::from(expected));

        // A window that starts one sector before a physical sector does.
        settings.physical_sector_offset = 7;
        assert_eq!(words(&settings, changing)[209], 0x4007);

        let changing = Changing {
            trim: Trim::Supported,
            ..changing
        };
        let uncertain = words(&settings, changing);
        assert_eq!((uncertain[69], uncertain[169]), (0, 1));
    }

    /// §3.6: `AoEd`, then a number of 64 bits.
    #[test]
    fn a_write_cache_has_a_number() {
        let numbered = |write_cache| {
            let settings = TargetSettings {
                write_cache,
                cache_number: 0x0123_4567_89AB_CDEF,
                ..settings()
            };
            words(&settings, PLAIN)
        };
        let back = numbered(WriteCache::Back);
        assert_eq!(
            back[129..136],
            [0x416F, 0x4564, 0xCDEF, 0x89AB, 0x4567, 0x0123, 0]
        );
        // Nothing is lost with a process that acknowledges what is stable.
        assert_eq!(numbered(WriteCache::Through)[129..136], [0; 7]);
        let unnumbered = TargetSettings {
            write_cache: WriteCache::Back,
            ..settings()
        };
        assert_eq!(words(&unnumbered, PLAIN)[129..136], [0; 7]);
    }

    #[test]
    fn texts_are_padded_and_their_characters_swapped() {
        let bytes = Identify::new(&settings()).to_bytes(PLAIN);
        assert_eq!(bytes[20..26], [0x2E, 0x31, 0x3A, 0x31, 0x6D, 0x76]);
        assert_eq!(bytes[26..40], *b"              ");
        assert_eq!(bytes[46..54], *b".0.1 0  ");
        assert_eq!(bytes[54..58], *b"mv  ");
        assert_eq!(bytes[58..94], [b' '; 36]);
        let mut full = settings();
        full.model = "0123456789".repeat(4);
        full.serial = "abcdefghij".repeat(2);
        full.firmware_revision = String::from("12345678");
        let bytes = Identify::new(&full).to_bytes(PLAIN);
        assert_eq!(bytes[20..40], *b"badcfehgjibadcfehgji");
        assert_eq!(bytes[46..54], *b"21436587");
        assert_eq!(bytes[54..94], *"1032547698".repeat(4).as_bytes());
    }

    #[test]
    fn sizes_are_cut_to_what_their_readers_can_take() {
        for (sectors, cylinders, short) in [
            (0, 1, 0),
            (1, 1, 1),
            (2016, 2, 2016),
            (16_383 * 1008 - 1, 16_382, 16_383 * 1008 - 1),
            (16_384 * 1008, 16_383, 16_384 * 1008),
            (0x0FFF_FFFF, 16_383, 0x0FFF_FFFF),
            (0x1000_0000, 16_383, 0x0FFF_FFFF),
            (0xBEEF_1234_5678, 16_383, 0x0FFF_FFFF),
        ] {
            let words = words(&settings(), Changing { sectors, ..PLAIN });
            let number = |at: usize| u32::from(words[at]) | u32::from(words[at + 1]) << 16;
            assert_eq!((words[1], words[54]), (cylinders, cylinders));
            assert_eq!(number(57), u32::from(cylinders) * 1008);
            assert_eq!(u64::from(number(60)), short);
            let long = u64::from(number(100)) | u64::from(number(102)) << 32;
            assert_eq!(long, sectors);
        }
    }
}
