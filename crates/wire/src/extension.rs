//! Command `0x23`: AoEde Extensions, a table of feature names (§7).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 2 | length of the table; little-endian is sent, both orders are accepted (§7.3) |
//! | 26 | … | entries, each closed by NUL; an empty entry ends the table |
//!
//! A target answers with the same bytes, the names it accepts in upper case.

use core::fmt;

use crate::put::Put;
use crate::{DecodeError, NoRoom};

/// Bytes of the argument before the table.
const LENGTH_BYTES: usize = 2;

/// A feature that both ends may agree on (§7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Extension {
    /// `reset`: all extensions off.
    Reset,
    /// `coalesced_read`: many reads in one frame, §8.
    CoalescedRead,
    /// `tag_inc_le`: tags count upwards, little-endian, §9.
    TagIncLe,
    /// `tag_inc_be`: tags count upwards, big-endian, §9.
    TagIncBe,
    /// `tag_random`: tags are unique, no more, §9.5.
    TagRandom,
    /// `congestion`, followed by a decimal id: measurement, §10.
    Congestion,
    /// `crc8x4`: checksum behind data, §11.
    Crc8x4,
    /// `coalesced_write_reply`: many write responses in one frame, §18.1.
    CoalescedWriteReply,
    /// `crc32c`: another checksum behind data, §18.2.
    Crc32c,
}

impl Extension {
    /// Every extension, in the order of §7.2.
    pub const ALL: [Self; 9] = [
        Self::Reset,
        Self::CoalescedRead,
        Self::TagIncLe,
        Self::TagIncBe,
        Self::TagRandom,
        Self::Congestion,
        Self::Crc8x4,
        Self::CoalescedWriteReply,
        Self::Crc32c,
    ];

    /// The name as an initiator sends it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::CoalescedRead => "coalesced_read",
            Self::TagIncLe => "tag_inc_le",
            Self::TagIncBe => "tag_inc_be",
            Self::TagRandom => "tag_random",
            Self::Congestion => "congestion",
            Self::Crc8x4 => "crc8x4",
            Self::CoalescedWriteReply => "coalesced_write_reply",
            Self::Crc32c => "crc32c",
        }
    }

    /// The extension of exactly this lower-case name.
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|extension| extension.name().as_bytes() == name)
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Reads the id behind `congestion`: a decimal integer with optional sign, ended by the first
/// non-digit, 0 without digits; beyond 64 bits it saturates.
///
/// ```
/// assert_eq!(aoede_wire::congestion_id(b"-12 probes"), -12);
/// ```
pub fn congestion_id(argument: &[u8]) -> i64 {
    let (negative, digits) = match argument {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] | rest => (false, rest),
    };
    digits
        .iter()
        .take_while(|digit| digit.is_ascii_digit())
        .map(|digit| i64::from(digit - b'0'))
        .fold(0_i64, |id, digit| {
            let id = id.saturating_mul(10);
            if negative {
                id.saturating_sub(digit)
            } else {
                id.saturating_add(digit)
            }
        })
}

/// An Extensions argument.
///
/// ```
/// use aoede_wire::{Extension, ExtensionTable};
/// let table = ExtensionTable::new(b"reset\0coalesced_read\0\0")?;
/// let wanted = table.entries()?.map(|entry| Extension::from_name(entry.bytes));
/// assert!(wanted.eq([Some(Extension::Reset), Some(Extension::CoalescedRead)]));
/// # Ok::<(), aoede_wire::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionTable<'a> {
    /// The two length bytes, to be echoed unchanged.
    pub length: [u8; LENGTH_BYTES],
    /// All bytes behind the length, padding included.
    pub rest: &'a [u8],
}

impl<'a> ExtensionTable<'a> {
    /// Offset of the first entry in the frame.
    pub const OFFSET: usize = crate::HEADER_BYTES + LENGTH_BYTES;

    /// A table whose bytes, closing NULs included, are `entries`.
    ///
    /// # Errors
    /// [`DecodeError::ExtensionTable`] if they do not end with two NULs or are over 65535 bytes.
    pub fn new(entries: &'a [u8]) -> Result<Self, DecodeError> {
        let table = Self {
            length: u16::try_from(entries.len())
                .map_err(|_| DecodeError::ExtensionTable)?
                .to_le_bytes(),
            rest: entries,
        };
        if entries.ends_with(&[0, 0]) {
            Ok(table)
        } else {
            Err(DecodeError::ExtensionTable)
        }
    }

    /// The entries up to the first empty one.
    ///
    /// # Errors
    /// [`DecodeError::ExtensionTable`] unless the length, read in at least one byte order, is 2 or
    /// more, lies within the frame and ends behind two NULs.
    pub fn entries(&self) -> Result<Entries<'a>, DecodeError> {
        let lengths = [
            u16::from_le_bytes(self.length),
            u16::from_be_bytes(self.length),
        ];
        let closed = |length: &u16| {
            self.rest
                .get(..usize::from(*length))
                .is_some_and(|table| table.ends_with(&[0, 0]))
        };
        // If both readings are valid the first empty entry ends both: which one is used makes no
        // difference (§7.3).
        lengths
            .iter()
            .find(|&length| closed(length))
            .and_then(|&length| self.rest.get(..usize::from(length)))
            .map(|table| Entries { table, start: 0 })
            .ok_or(DecodeError::ExtensionTable)
    }

    /// Reads the argument, the bytes from offset 24 on.
    ///
    /// # Errors
    /// [`DecodeError::Extension`] under 2 bytes. The table is judged by
    /// [`entries`](Self::entries).
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let (&length, rest) = argument
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(DecodeError::Extension)?;
        Ok(Self { length, rest })
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        put.bytes(&self.length)?;
        put.bytes(self.rest)
    }
}

/// One entry: a feature name, or the argument of the entry before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Offset of the first byte from the start of the table, for rewriting it in place.
    pub start: usize,
    /// The bytes without the closing NUL, never empty.
    pub bytes: &'a [u8],
}

/// Iterator over the entries of a table, made by [`ExtensionTable::entries`].
#[derive(Clone, Debug)]
pub struct Entries<'a> {
    table: &'a [u8],
    start: usize,
}

impl<'a> Iterator for Entries<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let start = self.start;
        let rest = self.table.get(start..)?;
        let len = rest
            .iter()
            .position(|&byte| byte == 0)
            .filter(|&len| len > 0)?;
        self.start = start + len + 1;
        rest.get(..len).map(|bytes| Entry { start, bytes })
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn names<'a>(table: &ExtensionTable<'a>) -> Result<Vec<&'a [u8]>, DecodeError> {
        Ok(table.entries()?.map(|entry| entry.bytes).collect())
    }

    fn table(length: [u8; 2], rest: &[u8]) -> ExtensionTable<'_> {
        ExtensionTable { length, rest }
    }

    #[test]
    fn names_are_exact_and_lower_case() {
        for (name, extension) in [
            ("reset", Extension::Reset),
            ("coalesced_read", Extension::CoalescedRead),
            ("tag_inc_le", Extension::TagIncLe),
            ("tag_inc_be", Extension::TagIncBe),
            ("tag_random", Extension::TagRandom),
            ("congestion", Extension::Congestion),
            ("crc8x4", Extension::Crc8x4),
            ("coalesced_write_reply", Extension::CoalescedWriteReply),
            ("crc32c", Extension::Crc32c),
        ] {
            assert_eq!(Extension::from_name(name.as_bytes()), Some(extension));
            assert_eq!(extension.name(), name);
        }
        for name in ["RESET", "Reset", "rese", "resets", "", "reset\0"] {
            assert_eq!(Extension::from_name(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn both_byte_orders_of_the_length_are_read() {
        let bytes = b"reset\0crc8x4\0\0";
        for length in [[14, 0], [0, 14]] {
            assert_eq!(
                names(&table(length, bytes)),
                Ok(Vec::from([&b"reset"[..], b"crc8x4"])),
                "{length:?}"
            );
        }
    }

    #[test]
    fn tables_are_refused_unless_closed_where_their_length_says() {
        for (length, bytes, good) in [
            ([0, 0], &b"\0\0"[..], false),
            ([1, 0], b"\0\0", false),
            ([2, 0], b"\0\0", true),
            ([2, 0], b"\0", false),
            ([2, 0], b"", false),
            ([3, 0], b"\0\0", false),
            ([3, 0], b"\0\0\0", true),
            ([3, 0], b"a\0\0", true),
            ([3, 0], b"a\0b\0\0", false),
            ([2, 0], b"a\0\0", false),
            ([4, 0], b"a\0\0b", false),
            ([4, 0], b"a\0b\0", false),
            // Padding behind the table belongs to the frame, not to the table.
            ([3, 0], b"a\0\0zzzz", true),
            ([0, 3], b"a\0\0zzzz", true),
            ([0xFF, 0xFF], b"a\0\0", false),
        ] {
            assert_eq!(
                table(length, bytes).entries().is_ok(),
                good,
                "{length:?} {bytes:?}"
            );
        }
    }

    #[test]
    fn entries_know_their_place_and_end_at_the_first_empty_one() {
        let bytes = b"reset\0congestion\0-7\0\0ignored\0\0";
        let length = [u8::try_from(bytes.len()).unwrap(), 0];
        let entries: Vec<_> = table(length, bytes).entries().unwrap().collect();
        let expected = [(0, &b"reset"[..]), (6, b"congestion"), (17, b"-7")]
            .map(|(start, bytes)| Entry { start, bytes });
        assert_eq!(entries, expected);
        assert_eq!(names(&table([2, 0], b"\0\0reset\0\0")), Ok(Vec::new()));
    }

    /// Both readings are valid only in large frames; they must then agree.
    #[test]
    fn both_readings_at_once_have_the_same_entries() {
        // 0x0100 = 256 and 0x0001: no; 0x0102 read either way: 258 and 513.
        let mut bytes = [0; 600];
        bytes[..6].copy_from_slice(b"reset\0");
        assert_eq!(
            names(&table([2, 1], &bytes)),
            Ok(Vec::from([&b"reset"[..]]))
        );
        assert_eq!(
            names(&table([1, 2], &bytes)),
            Ok(Vec::from([&b"reset"[..]]))
        );
        // With room for the smaller one only.
        assert_eq!(
            names(&table([1, 2], &bytes[..258])),
            Ok(Vec::from([&b"reset"[..]]))
        );
    }

    #[test]
    fn a_new_table_sends_its_length_little_endian() {
        let made = ExtensionTable::new(b"reset\0\0").unwrap();
        assert_eq!(made.length, [7, 0]);
        assert_eq!(ExtensionTable::new(b"\0\0").unwrap().length, [2, 0]);
        for bytes in [&b""[..], b"\0", b"reset", b"reset\0"] {
            assert_eq!(
                ExtensionTable::new(bytes),
                Err(DecodeError::ExtensionTable),
                "{bytes:?}"
            );
        }
        assert!(ExtensionTable::new(&std::vec![0; 65535]).is_ok());
        assert_eq!(
            ExtensionTable::new(&std::vec![0; 65536]),
            Err(DecodeError::ExtensionTable)
        );
    }

    /// 512 bytes that begin with two NULs but do not end with them: the big-endian reading of
    /// their length, 2, is a closed table, and `new` once took it for the whole.
    #[test]
    fn a_new_table_must_be_closed_at_its_own_end() {
        let mut bytes = [b'x'; 512];
        bytes[..2].fill(0);
        assert_eq!(
            ExtensionTable::new(&bytes),
            Err(DecodeError::ExtensionTable)
        );
    }

    #[test]
    fn one_byte_is_no_argument() {
        assert_eq!(ExtensionTable::decode(&[2]), Err(DecodeError::Extension));
        assert_eq!(ExtensionTable::decode(&[2, 0]), Ok(table([2, 0], &[])));
        assert_eq!(ExtensionTable::OFFSET, 26);
    }

    #[test]
    fn ids_read_like_decimal_integers() {
        for (argument, id) in [
            ("0", 0),
            ("1234", 1234),
            ("+12", 12),
            ("-1", -1),
            ("12ab", 12),
            ("", 0),
            ("abc", 0),
            ("-", 0),
            ("--1", 0),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("99999999999999999999", i64::MAX),
            ("-99999999999999999999", i64::MIN),
        ] {
            assert_eq!(congestion_id(argument.as_bytes()), id, "{argument}");
        }
    }
}
