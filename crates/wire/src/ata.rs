//! Command 0: an ATA task file and its data (§3, AoEr11 §3.1).
//!
//! | offset | bytes | request | response |
//! |---|---|---|---|
//! | 24 | 1 | aflags | copied |
//! | 25 | 1 | feature register | error register |
//! | 26 | 1 | sector count | sectors not done |
//! | 27 | 1 | opcode | status register |
//! | 28 | 6 | LBA, least significant byte first | copied |
//! | 34 | 2 | reserved | copied |
//! | 36 | n × 512 | data to write | data read |

use core::fmt;

use crate::put::Put;
use crate::{DecodeError, NoRoom};

/// Bytes of a sector on the wire, whatever the device below uses.
pub const SECTOR_BYTES: usize = 512;
/// Bytes of the task file between the common header and the data.
pub const ATA_ARGUMENT_BYTES: usize = 12;
/// Most sectors that the count byte can announce.
pub const MAX_SECTORS_PER_FRAME: u8 = 255;

/// Whole sectors that fit into a frame on an interface of this MTU (bytes), with or without room
/// for the four bytes of [`Crc8x4`](crate::Crc8x4).
///
/// The rule subtracts the whole 36-byte header although 14 bytes of it do not count against the
/// MTU: every implementation does (§1).
///
/// ```
/// use aoede_wire::sectors_per_frame;
/// assert_eq!(sectors_per_frame(1500, false), 2);
/// assert_eq!(sectors_per_frame(9000, true), 17);
/// ```
pub fn sectors_per_frame(mtu: u32, with_crc: bool) -> u8 {
    let overhead = if with_crc { 40 } else { 36 };
    let sectors = mtu.saturating_sub(overhead) / 512;
    u8::try_from(sectors).unwrap_or(MAX_SECTORS_PER_FRAME)
}

/// Byte 24. The opcode decides direction and width; initiators get these bits wrong (§3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct AtaFlags(pub u8);

impl AtaFlags {
    /// E: the address has 48 bits.
    pub const EXTENDED: Self = Self(0x40);
    /// D: the device/head bit.
    pub const DEVICE: Self = Self(0x10);
    /// A: the write may be acknowledged before it is stable.
    pub const ASYNCHRONOUS: Self = Self(0x02);
    /// W: data goes to the target.
    pub const WRITE: Self = Self(0x01);

    /// Whether all bits of `other` are set here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

impl core::ops::BitOr for AtaFlags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// ATA command codes that matter over Ethernet (§3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// `0x06` DATA SET MANAGEMENT: TRIM.
    DataSetManagement,
    /// `0x20` READ SECTORS, 28-bit address.
    Read,
    /// `0x24` READ SECTORS EXT, 48-bit address.
    ReadExt,
    /// `0x30` WRITE SECTORS, 28-bit address.
    Write,
    /// `0x34` WRITE SECTORS EXT, 48-bit address.
    WriteExt,
    /// `0xB0` SMART.
    Smart,
    /// `0xE5` CHECK POWER MODE.
    CheckPowerMode,
    /// `0xE7` FLUSH CACHE.
    FlushCache,
    /// `0xEA` FLUSH CACHE EXT.
    FlushCacheExt,
    /// `0xEC` IDENTIFY DEVICE.
    Identify,
    /// `0xEF` SET FEATURES.
    SetFeatures,
    /// Any other.
    Unknown(u8),
}

impl From<u8> for Opcode {
    fn from(code: u8) -> Self {
        match code {
            0x06 => Self::DataSetManagement,
            0x20 => Self::Read,
            0x24 => Self::ReadExt,
            0x30 => Self::Write,
            0x34 => Self::WriteExt,
            0xB0 => Self::Smart,
            0xE5 => Self::CheckPowerMode,
            0xE7 => Self::FlushCache,
            0xEA => Self::FlushCacheExt,
            0xEC => Self::Identify,
            0xEF => Self::SetFeatures,
            other => Self::Unknown(other),
        }
    }
}

impl From<Opcode> for u8 {
    fn from(opcode: Opcode) -> Self {
        match opcode {
            Opcode::DataSetManagement => 0x06,
            Opcode::Read => 0x20,
            Opcode::ReadExt => 0x24,
            Opcode::Write => 0x30,
            Opcode::WriteExt => 0x34,
            Opcode::Smart => 0xB0,
            Opcode::CheckPowerMode => 0xE5,
            Opcode::FlushCache => 0xE7,
            Opcode::FlushCacheExt => 0xEA,
            Opcode::Identify => 0xEC,
            Opcode::SetFeatures => 0xEF,
            Opcode::Unknown(other) => other,
        }
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DataSetManagement => "DATA SET MANAGEMENT",
            Self::Read => "READ",
            Self::ReadExt => "READ EXT",
            Self::Write => "WRITE",
            Self::WriteExt => "WRITE EXT",
            Self::Smart => "SMART",
            Self::CheckPowerMode => "CHECK POWER MODE",
            Self::FlushCache => "FLUSH CACHE",
            Self::FlushCacheExt => "FLUSH CACHE EXT",
            Self::Identify => "IDENTIFY",
            Self::SetFeatures => "SET FEATURES",
            Self::Unknown(code) => return write!(f, "opcode {code:#04x}"),
        })
    }
}

/// Values of the feature register.
#[derive(Clone, Copy, Debug)]
pub struct Feature;

impl Feature {
    /// DATA SET MANAGEMENT: TRIM.
    pub const TRIM: u8 = 0x01;
    /// SET FEATURES: volatile write cache on.
    pub const WRITE_CACHE_ON: u8 = 0x02;
    /// SET FEATURES: volatile write cache off.
    pub const WRITE_CACHE_OFF: u8 = 0x82;
}

/// The status register of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Status(pub u8);

impl Status {
    /// ERR: the command failed, the error register says why.
    pub const ERR: u8 = 0x01;
    /// DF: the device itself is at fault.
    pub const DF: u8 = 0x20;
    /// DRDY: the device is ready.
    pub const DRDY: u8 = 0x40;

    /// Success: `0x40`.
    pub const GOOD: Self = Self(Self::DRDY);
    /// The command failed for what it asked: `0x41`.
    pub const FAILED: Self = Self(Self::DRDY | Self::ERR);
    /// The device failed: `0x61`.
    pub const FAULT: Self = Self(Self::DRDY | Self::DF | Self::ERR);

    /// Whether Linux and Plan 9 take this status for a failure (BSY, DF, DRQ or ERR set).
    pub fn is_failure(self) -> bool {
        self.0 & 0xA9 != 0
    }
}

/// Bits of the error register.
pub mod ata_error {
    /// ABRT: command aborted or not known.
    pub const ABRT: u8 = 0x04;
    /// IDNF: the address does not exist.
    pub const IDNF: u8 = 0x10;
    /// UNC: the data cannot be read.
    pub const UNC: u8 = 0x40;
}

/// An ATA task file with its data. Request and response have one layout; two registers change
/// their meaning with the direction, as their names say.
///
/// ```
/// use aoede_wire::{Address, Ata, Body, Frame, Header, MacAddr, Opcode};
///
/// let header = Header::request(MacAddr([2, 0, 0, 0, 0, 0x0B]), MacAddr::BROADCAST, Address::ALL);
/// let write = Ata::request(Opcode::WriteExt, 2048, 1).with_data(&[0x5A; 512]);
/// let mut bytes = [0; 1514];
/// let len = Body::Ata(write).encode(header, &mut bytes)?;
/// assert_eq!(len, 36 + 512);
///
/// let Body::Ata(ata) = Frame::decode(&bytes[..len])?.body()? else {
///     unreachable!("it says so in its header");
/// };
/// assert_eq!((ata.opcode(), ata.lba48(), ata.count), (Opcode::WriteExt, 2048, 1));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ata<'a> {
    /// Direction and width as the initiator claims them.
    pub flags: AtaFlags,
    /// Feature register of a request, error register of a response.
    pub feature_or_error: u8,
    /// Sectors asked for (0 is zero); in a response sectors not done.
    pub count: u8,
    /// Opcode of a request, status register of a response.
    pub command_or_status: u8,
    /// LBA0 to LBA5, bits 7–0 first.
    pub lba: [u8; 6],
    /// Bytes 34–35, copied into the response.
    pub reserved: [u8; 2],
    /// All that follows, padding included.
    pub data: &'a [u8],
}

impl<'a> Ata<'a> {
    /// A request without data.
    pub fn request(opcode: Opcode, lba: u64, count: u8) -> Self {
        let [l0, l1, l2, l3, l4, l5, _, _] = lba.to_le_bytes();
        let flags = match opcode {
            Opcode::WriteExt => AtaFlags::EXTENDED | AtaFlags::WRITE,
            Opcode::Write | Opcode::DataSetManagement => AtaFlags::WRITE,
            Opcode::ReadExt | Opcode::FlushCacheExt => AtaFlags::EXTENDED,
            _ => AtaFlags::default(),
        };
        Self {
            flags,
            feature_or_error: 0,
            count,
            command_or_status: opcode.into(),
            lba: [l0, l1, l2, l3, l4, l5],
            reserved: [0; 2],
            data: &[],
        }
    }

    /// The same with data or another payload behind it.
    #[must_use]
    pub fn with_data(mut self, data: &'a [u8]) -> Self {
        self.data = data;
        self
    }

    /// The request's opcode.
    pub fn opcode(&self) -> Opcode {
        self.command_or_status.into()
    }

    /// The response's status register.
    pub fn status(&self) -> Status {
        Status(self.command_or_status)
    }

    /// The address of a 48-bit command.
    pub fn lba48(&self) -> u64 {
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0])
    }

    /// The address of a 28-bit command: the high nibble of LBA3 holds device bits.
    pub fn lba28(&self) -> u64 {
        self.lba48() & 0x0FFF_FFFF
    }

    /// Reads the argument, the bytes from offset 24 on.
    ///
    /// # Errors
    /// [`DecodeError::Ata`] under 12 bytes.
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let (registers, data) = argument
            .split_first_chunk::<ATA_ARGUMENT_BYTES>()
            .ok_or(DecodeError::Ata)?;
        let [
            flags,
            feature,
            count,
            command,
            l0,
            l1,
            l2,
            l3,
            l4,
            l5,
            r0,
            r1,
        ] = *registers;
        Ok(Self {
            flags: AtaFlags(flags),
            feature_or_error: feature,
            count,
            command_or_status: command,
            lba: [l0, l1, l2, l3, l4, l5],
            reserved: [r0, r1],
            data,
        })
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        put.bytes(&[
            self.flags.0,
            self.feature_or_error,
            self.count,
            self.command_or_status,
        ])?;
        put.bytes(&self.lba)?;
        put.bytes(&self.reserved)?;
        put.bytes(self.data)
    }
}

/// One entry of a TRIM block: sectors whose content is no longer wanted (§3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrimRange {
    /// First sector, below 2^48.
    pub lba: u64,
    /// Number of sectors, never 0: unused entries are left out.
    pub sectors: u16,
}

/// The used entries of TRIM data, in order: 8 bytes each, little-endian, bits 47–0 first sector,
/// bits 63–48 number of sectors, 0 = unused. Trailing bytes that make no whole entry are ignored.
///
/// ```
/// use aoede_wire::{TrimRange, trim_ranges};
/// let mut block = [0; 512];
/// block[..8].copy_from_slice(&[0x00, 0x08, 0, 0, 0, 0, 16, 0]);
/// let ranges: Vec<_> = trim_ranges(&block).collect();
/// assert_eq!(ranges, [TrimRange { lba: 2048, sectors: 16 }]);
/// ```
pub fn trim_ranges(blocks: &[u8]) -> TrimRanges<'_> {
    TrimRanges { rest: blocks }
}

/// Iterator over the used entries of TRIM data, made by [`trim_ranges`].
#[derive(Clone, Debug)]
pub struct TrimRanges<'a> {
    rest: &'a [u8],
}

impl Iterator for TrimRanges<'_> {
    type Item = TrimRange;

    fn next(&mut self) -> Option<TrimRange> {
        loop {
            let (entry, rest) = self.rest.split_first_chunk::<8>()?;
            self.rest = rest;
            let [l0, l1, l2, l3, l4, l5, n0, n1] = *entry;
            let sectors = u16::from_le_bytes([n0, n1]);
            if sectors > 0 {
                return Some(TrimRange {
                    lba: u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]),
                    sectors,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::put::Put;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn sector_counts_follow_the_table_of_mtus() {
        // §1: MTU, sectors, sectors with CRC.
        for (mtu, plain, with_crc) in [
            (0, 0, 0),
            (547, 0, 0),
            (548, 1, 0),
            (552, 1, 1),
            (1500, 2, 2),
            (4200, 8, 8),
            (8228, 16, 15),
            (9000, 17, 17),
            (36 + 255 * 512, 255, 254),
            (u32::MAX, 255, 255),
        ] {
            assert_eq!(sectors_per_frame(mtu, false), plain, "MTU {mtu}");
            assert_eq!(sectors_per_frame(mtu, true), with_crc, "MTU {mtu} with CRC");
        }
    }

    #[test]
    fn opcodes_are_those_of_the_ata_standard() {
        for (code, opcode, name) in [
            (0x06, Opcode::DataSetManagement, "DATA SET MANAGEMENT"),
            (0x20, Opcode::Read, "READ"),
            (0x24, Opcode::ReadExt, "READ EXT"),
            (0x30, Opcode::Write, "WRITE"),
            (0x34, Opcode::WriteExt, "WRITE EXT"),
            (0xB0, Opcode::Smart, "SMART"),
            (0xE5, Opcode::CheckPowerMode, "CHECK POWER MODE"),
            (0xE7, Opcode::FlushCache, "FLUSH CACHE"),
            (0xEA, Opcode::FlushCacheExt, "FLUSH CACHE EXT"),
            (0xEC, Opcode::Identify, "IDENTIFY"),
            (0xEF, Opcode::SetFeatures, "SET FEATURES"),
            (0xA1, Opcode::Unknown(0xA1), "opcode 0xa1"),
        ] {
            assert_eq!(Opcode::from(code), opcode);
            assert_eq!(u8::from(opcode), code);
            assert_eq!(opcode.to_string(), name);
        }
        for code in 0..=u8::MAX {
            assert_eq!(u8::from(Opcode::from(code)), code);
        }
    }

    #[test]
    fn requests_set_the_flags_that_belong_to_the_opcode() {
        for (opcode, flags) in [
            (Opcode::Read, 0x00),
            (Opcode::ReadExt, 0x40),
            (Opcode::Write, 0x01),
            (Opcode::WriteExt, 0x41),
            (Opcode::DataSetManagement, 0x01),
            (Opcode::FlushCache, 0x00),
            (Opcode::FlushCacheExt, 0x40),
            (Opcode::Identify, 0x00),
        ] {
            assert_eq!(Ata::request(opcode, 0, 1).flags.0, flags, "{opcode}");
        }
        let write = AtaFlags(0x41);
        assert!(write.contains(AtaFlags::WRITE) && write.contains(AtaFlags::EXTENDED));
        assert!(!write.contains(AtaFlags::ASYNCHRONOUS | AtaFlags::WRITE));
        assert!(!write.contains(AtaFlags::DEVICE));
    }

    #[test]
    fn a_task_file_lies_where_the_table_says() {
        let bytes = [
            0x41, 0x82, 0x02, 0x34, 0x78, 0x56, 0x34, 0x12, 0xBC, 0x9A, 0xEE, 0xFF, 0xD0, 0xD1,
        ];
        let ata = Ata::decode(&bytes).unwrap();
        assert_eq!(ata.flags, AtaFlags(0x41));
        assert_eq!(ata.feature_or_error, Feature::WRITE_CACHE_OFF);
        assert_eq!(ata.count, 2);
        assert_eq!(ata.opcode(), Opcode::WriteExt);
        assert_eq!(ata.status(), Status(0x34));
        assert_eq!(ata.lba48(), 0x9ABC_1234_5678);
        assert_eq!(ata.lba28(), 0x0234_5678);
        assert_eq!(ata.reserved, [0xEE, 0xFF]);
        assert_eq!(ata.data, [0xD0, 0xD1]);

        let mut out = [0xA5; 16];
        let mut put = Put::new(&mut out);
        ata.put(&mut put).unwrap();
        assert_eq!(put.written(), bytes.len());
        assert_eq!(&out[..14], bytes);
        assert_eq!(out[14..], [0xA5; 2]);
    }

    #[test]
    fn eleven_bytes_are_no_task_file() {
        assert_eq!(Ata::decode(&[0; 11]), Err(DecodeError::Ata));
        assert!(Ata::decode(&[0; 12]).is_ok());
    }

    #[test]
    fn an_address_keeps_its_lower_48_bits() {
        let ata = Ata::request(Opcode::ReadExt, 0xFFFF_0102_0304_0506, 1);
        assert_eq!(ata.lba, [0x06, 0x05, 0x04, 0x03, 0x02, 0x01]);
        // The high nibble of LBA3 is not part of a 28-bit address, nor are LBA4 and LBA5.
        let ata = Ata {
            lba: [0xFF, 0xFF, 0xFF, 0xE0, 0x01, 0x01],
            ..ata
        };
        assert_eq!(ata.lba28(), 0x00FF_FFFF);
    }

    #[test]
    fn failures_are_what_linux_takes_for_failures() {
        // BSY 0x80, DF 0x20, DRQ 0x08, ERR 0x01.
        for (status, failure) in [
            (Status::GOOD, false),
            (Status::FAILED, true),
            (Status::FAULT, true),
            (Status(0x00), false),
            (Status(0x80), true),
            (Status(0x08), true),
            (Status(0x56), false),
        ] {
            assert_eq!(status.is_failure(), failure, "{status:?}");
        }
        assert_eq!(
            (Status::GOOD.0, Status::FAILED.0, Status::FAULT.0),
            (0x40, 0x41, 0x61)
        );
    }

    #[test]
    fn trim_entries_are_little_endian_and_unused_ones_are_left_out() {
        let blocks = [
            0x06, 0x05, 0x04, 0x03, 0x02, 0x01, 0x34, 0x12, // 0x1234 sectors
            0xFF, 0, 0, 0, 0, 0, 0, 0, // unused: no sectors, whatever the address
            0, 0, 0, 0, 0, 0, 1, 0, // the first sector
            9, 9, 9, 9, 9, 9, 9, // no whole entry
        ];
        let ranges: Vec<_> = trim_ranges(&blocks).collect();
        assert_eq!(
            ranges,
            [
                TrimRange {
                    lba: 0x0102_0304_0506,
                    sectors: 0x1234
                },
                TrimRange { lba: 0, sectors: 1 },
            ]
        );
        assert_eq!(trim_ranges(&[0; 512]).count(), 0);
        assert_eq!(trim_ranges(&[0xFF; 512]).count(), 64);
    }
}
