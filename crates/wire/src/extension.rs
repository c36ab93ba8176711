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
}

impl Extension {
    /// Every extension, in the order of §7.2.
    pub const ALL: [Self; 7] = [
        Self::Reset,
        Self::CoalescedRead,
        Self::TagIncLe,
        Self::TagIncBe,
        Self::TagRandom,
        Self::Congestion,
        Self::Crc8x4,
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
pub fn congestion_id(argument: &[u8]) -> i64 {
    let (negative, digits) = match argument {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
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
        table.entries().map(|_| table)
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
