//! The 24 bytes that every AoE frame begins with (§1, AoEr11 §2).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 6 | destination MAC |
//! | 6 | 6 | source MAC |
//! | 12 | 2 | EtherType `0x88A2`, big-endian |
//! | 14 | 1 | version (bits 7–4) and flags (bits 3–0) |
//! | 15 | 1 | error |
//! | 16 | 2 | shelf, big-endian |
//! | 18 | 1 | slot |
//! | 19 | 1 | command |
//! | 20 | 4 | tag |
//!
//! Read next: the file of the command.

use core::fmt;

use crate::put::Put;
use crate::{Address, DecodeError, ETHERTYPE, MacAddr, NoRoom};

/// Bytes of the Ethernet header, which an interface's MTU does not count.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes of the common header, Ethernet's included; the command's argument follows.
pub const HEADER_BYTES: usize = 24;
/// Shortest frame that is sent, without frame check sequence: real cards pad to it, virtual links
/// do not, and common tools discard shorter responses.
pub const MIN_FRAME_BYTES: usize = 60;
/// Where a frame says what its argument is.
const COMMAND_OFFSET: usize = 19;
/// Where its tag is.
const TAG_OFFSET: usize = 20;
/// The protocol version this crate speaks.
pub const VERSION: u8 = 1;

/// Four bytes that the initiator chooses and the target returns untouched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tag(pub [u8; 4]);

impl Tag {
    /// The tag of a frame, whatever else is in it; `None` if it ends before.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        frame.get(TAG_OFFSET..)?.first_chunk().copied().map(Self)
    }

    /// The tag as the number that most initiators count in.
    pub fn big_endian(self) -> u32 {
        u32::from_be_bytes(self.0)
    }

    /// The tag as Windows initiators count.
    pub fn little_endian(self) -> u32 {
        u32::from_le_bytes(self.0)
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.big_endian())
    }
}

/// The low four bits of byte 14.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Flags(u8);

impl Flags {
    /// R: the frame is a response.
    pub const RESPONSE: Self = Self(0x08);
    /// E: the response reports an AoE error.
    pub const ERROR: Self = Self(0x04);

    /// Whether all bits of `other` are set here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The bits as sent, 0 to 15.
    pub fn bits(self) -> u8 {
        self.0
    }
}

impl core::ops::BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Byte 19: what kind of argument follows the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// 0: ATA task file.
    Ata,
    /// 1: Query/Config.
    Config,
    /// 2: MAC mask list.
    Mask,
    /// 3: Reserve/Release.
    Reserve,
    /// `0x23`: AoEde Extensions.
    Extension,
    /// Anything else.
    Unknown(u8),
}

impl Command {
    /// The command of a frame, whatever else is in it; `None` if it ends before.
    pub fn of_frame(frame: &[u8]) -> Option<Self> {
        frame.get(COMMAND_OFFSET).map(|&code| code.into())
    }
}

impl From<u8> for Command {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Ata,
            1 => Self::Config,
            2 => Self::Mask,
            3 => Self::Reserve,
            0x23 => Self::Extension,
            other => Self::Unknown(other),
        }
    }
}

impl From<Command> for u8 {
    fn from(command: Command) -> Self {
        match command {
            Command::Ata => 0,
            Command::Config => 1,
            Command::Mask => 2,
            Command::Reserve => 3,
            Command::Extension => 0x23,
            Command::Unknown(other) => other,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ata => f.write_str("ata"),
            Self::Config => f.write_str("config"),
            Self::Mask => f.write_str("mask"),
            Self::Reserve => f.write_str("reserve"),
            Self::Extension => f.write_str("extension"),
            Self::Unknown(code) => write!(f, "command {code:#04x}"),
        }
    }
}

/// The common header as values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Who shall receive the frame.
    pub destination: MacAddr,
    /// Who sends it.
    pub source: MacAddr,
    /// Protocol version, 0 to 15; larger values lose their upper bits when encoded.
    pub version: u8,
    /// Response and error flag.
    pub flags: Flags,
    /// Error code as sent; means something only together with [`Flags::ERROR`].
    pub error: u8,
    /// Shelf and slot, perhaps wildcards.
    pub address: Address,
    /// Kind of the argument. [`Body::encode`](crate::Body::encode) sets it from the body.
    pub command: Command,
    /// The initiator's tag.
    pub tag: Tag,
}

impl Header {
    /// Header of a request with tag 0, to be completed by the body's command.
    pub fn request(source: MacAddr, destination: MacAddr, address: Address) -> Self {
        Self {
            destination,
            source,
            version: VERSION,
            flags: Flags::default(),
            error: 0,
            address,
            command: Command::Ata,
            tag: Tag::default(),
        }
    }

    /// Header of the response to this request: from `source`, by the device at `address`.
    ///
    /// Tag and command are the request's; flags and error start fresh, nothing else is echoed.
    ///
    /// ```
    /// use aoede_wire::{Address, ErrorCode, Flags, Header, MacAddr};
    /// let initiator = MacAddr([2, 0, 0, 0, 0, 0x0B]);
    /// let request = Header::request(initiator, MacAddr::BROADCAST, Address::ALL);
    /// let response = request.response(MacAddr([2, 0, 0, 0, 0, 0x0A]), "e7.1".parse()?);
    /// assert_eq!((response.destination, response.flags), (initiator, Flags::RESPONSE));
    /// let error = response.with_error(ErrorCode::BadArgument);
    /// assert!(error.flags.contains(Flags::ERROR));
    /// # Ok::<(), aoede_wire::AddressError>(())
    /// ```
    #[must_use]
    pub fn response(&self, source: MacAddr, address: Address) -> Self {
        Self {
            destination: self.source,
            source,
            version: VERSION,
            flags: Flags::RESPONSE,
            error: 0,
            address,
            command: self.command,
            tag: self.tag,
        }
    }

    /// The same response as an error.
    #[must_use]
    pub fn with_error(mut self, code: crate::ErrorCode) -> Self {
        self.flags = Flags::RESPONSE | Flags::ERROR;
        self.error = code.into();
        self
    }

    /// Reads the header and returns what follows it.
    ///
    /// # Errors
    /// [`DecodeError::Header`] under 24 bytes, [`DecodeError::EtherType`] for other protocols.
    pub fn decode(frame: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let (bytes, argument) = frame
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(DecodeError::Header)?;
        #[rustfmt::skip]
        let [
            d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, e0, e1,
            version_flags, error, m0, m1, slot, command, t0, t1, t2, t3,
        ] = *bytes;
        if u16::from_be_bytes([e0, e1]) != ETHERTYPE {
            return Err(DecodeError::EtherType);
        }
        let header = Self {
            destination: MacAddr([d0, d1, d2, d3, d4, d5]),
            source: MacAddr([s0, s1, s2, s3, s4, s5]),
            version: version_flags >> 4,
            flags: Flags(version_flags & 0x0F),
            error,
            address: Address {
                shelf: u16::from_be_bytes([m0, m1]),
                slot,
            },
            command: command.into(),
            tag: Tag([t0, t1, t2, t3]),
        };
        Ok((header, argument))
    }

    /// Writes the 24 bytes to the start of `out`.
    ///
    /// # Errors
    /// [`NoRoom`] if `out` is shorter.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, NoRoom> {
        let mut put = Put::new(out);
        self.put(&mut put)?;
        Ok(put.written())
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        let [e0, e1] = ETHERTYPE.to_be_bytes();
        let [m0, m1] = self.address.shelf.to_be_bytes();
        put.bytes(&self.destination.0)?;
        put.bytes(&self.source.0)?;
        put.bytes(&[
            e0,
            e1,
            self.version << 4 | self.flags.bits(),
            self.error,
            m0,
            m1,
            self.address.slot,
            self.command.into(),
        ])?;
        put.bytes(&self.tag.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::ErrorCode;
    use std::string::ToString;

    #[rustfmt::skip]
    const BYTES: [u8; HEADER_BYTES] = [
        2, 0, 0, 0, 0, 0x0A, 2, 0, 0, 0, 0, 0x0B, 0x88, 0xA2,
        0x1C, 0x06, 0x12, 0x34, 0x56, 0x23, 0x80, 0, 0, 1,
    ];

    #[test]
    fn every_field_lies_where_the_table_says() {
        let mut frame = [0xEE; HEADER_BYTES + 3];
        frame[..HEADER_BYTES].copy_from_slice(&BYTES);
        let (header, argument) = Header::decode(&frame).unwrap();
        assert_eq!(argument, [0xEE; 3]);
        assert_eq!(
            header,
            Header {
                destination: MacAddr([2, 0, 0, 0, 0, 0x0A]),
                source: MacAddr([2, 0, 0, 0, 0, 0x0B]),
                version: 1,
                flags: Flags::RESPONSE | Flags::ERROR,
                error: 6,
                address: Address {
                    shelf: 0x1234,
                    slot: 0x56
                },
                command: Command::Extension,
                tag: Tag([0x80, 0, 0, 1]),
            }
        );
        let mut out = [0xA5; HEADER_BYTES + 1];
        assert_eq!(header.encode(&mut out), Ok(HEADER_BYTES));
        assert_eq!(out[..HEADER_BYTES], BYTES);
        assert_eq!(out[HEADER_BYTES], 0xA5);
        assert_eq!(header.encode(&mut out[..HEADER_BYTES - 1]), Err(NoRoom));
    }

    #[test]
    fn short_and_foreign_frames_are_no_headers() {
        assert_eq!(Header::decode(&[]), Err(DecodeError::Header));
        assert_eq!(Header::decode(&BYTES[..23]), Err(DecodeError::Header));
        for (offset, value) in [(12, 0x08), (13, 0xA3)] {
            let mut bytes = BYTES;
            bytes[offset] = value;
            assert_eq!(Header::decode(&bytes), Err(DecodeError::EtherType));
        }
    }

    #[test]
    fn byte_14_keeps_all_its_bits() {
        for byte in 0..=u8::MAX {
            let mut bytes = BYTES;
            bytes[14] = byte;
            let (header, _) = Header::decode(&bytes).unwrap();
            assert_eq!(header.version, byte >> 4);
            assert_eq!(header.flags.contains(Flags::RESPONSE), byte & 0x08 != 0);
            assert_eq!(header.flags.contains(Flags::ERROR), byte & 0x04 != 0);
            let mut out = [0; HEADER_BYTES];
            header.encode(&mut out).unwrap();
            assert_eq!(out, bytes);
        }
    }

    #[test]
    fn commands_are_those_of_the_table() {
        for (code, command, name) in [
            (0, Command::Ata, "ata"),
            (1, Command::Config, "config"),
            (2, Command::Mask, "mask"),
            (3, Command::Reserve, "reserve"),
            (0x23, Command::Extension, "extension"),
            (4, Command::Unknown(4), "command 0x04"),
            (0xF0, Command::Unknown(0xF0), "command 0xf0"),
        ] {
            assert_eq!(Command::from(code), command);
            assert_eq!(u8::from(command), code);
            assert_eq!(command.to_string(), name);
            let mut frame = [0xA5; 20];
            frame[19] = code;
            assert_eq!(Command::of_frame(&frame), Some(command));
        }
        assert_eq!(Command::of_frame(&[0; 19]), None);
    }

    #[test]
    fn a_tag_is_read_in_either_byte_order_and_printed_as_sent() {
        let tag = Tag([0x18, 0xAE, 0, 1]);
        assert_eq!(tag.big_endian(), 0x18AE_0001);
        assert_eq!(tag.little_endian(), 0x0100_AE18);
        assert_eq!(tag.to_string(), "18ae0001");
    }

    /// §2: flags, version and error byte of the request must not come back.
    #[test]
    fn a_response_echoes_tag_and_command_only() {
        let (request, _) = Header::decode(&BYTES).unwrap();
        let own = MacAddr([2, 0, 0, 0, 0, 0xCC]);
        let address = Address { shelf: 7, slot: 1 };
        let request = Header {
            version: 2,
            address: Address::ALL,
            ..request
        };
        let mut out = [0; HEADER_BYTES];
        request.response(own, address).encode(&mut out).unwrap();
        #[rustfmt::skip]
        assert_eq!(out, [
            2, 0, 0, 0, 0, 0x0B, 2, 0, 0, 0, 0, 0xCC, 0x88, 0xA2,
            0x18, 0, 0, 7, 1, 0x23, 0x80, 0, 0, 1,
        ]);
        let error = request
            .response(own, address)
            .with_error(ErrorCode::BadArgument);
        error.encode(&mut out).unwrap();
        assert_eq!(out[14..16], [0x1C, 0x02]);
    }

    #[test]
    fn a_request_starts_with_version_1_and_nothing_set() {
        let header = Header::request(MacAddr::ZERO, MacAddr::BROADCAST, Address::ALL);
        let mut out = [0xA5; HEADER_BYTES];
        header.encode(&mut out).unwrap();
        assert_eq!(out[14..], [0x10, 0, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0]);
    }
}
