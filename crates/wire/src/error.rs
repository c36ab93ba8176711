//! Two kinds of error: why bytes are no frame (nobody answers those), and the six codes that the
//! protocol itself sends.

use core::fmt;

/// Why received bytes are not the frame, or the part of a frame, that they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DecodeError {
    /// Fewer than the 24 bytes of the common header.
    Header,
    /// Another EtherType than `0x88A2`.
    EtherType,
    /// An ATA frame under 36 bytes.
    Ata,
    /// A Query/Config frame under 32 bytes.
    Config,
    /// A config string over 1024 bytes, or longer than the frame.
    ConfigString,
    /// A MAC mask frame under 28 bytes.
    Mask,
    /// More mask directives announced than the frame holds.
    MaskList,
    /// A Reserve/Release frame under 26 bytes.
    Reserve,
    /// More MAC addresses announced than the frame holds.
    ReserveList,
    /// An Extensions frame under 26 bytes.
    Extension,
    /// An extension table that does not end where its length says.
    ExtensionTable,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "shorter than the AoE header",
            Self::EtherType => "not the AoE EtherType",
            Self::Ata => "ATA argument cut short",
            Self::Config => "Query/Config argument cut short",
            Self::ConfigString => "config string over 1024 bytes or beyond the frame",
            Self::Mask => "MAC mask argument cut short",
            Self::MaskList => "mask directives beyond the frame",
            Self::Reserve => "Reserve/Release argument cut short",
            Self::ReserveList => "reservation list beyond the frame",
            Self::Extension => "Extensions argument cut short",
            Self::ExtensionTable => "extension table not closed where its length says",
        })
    }
}

impl core::error::Error for DecodeError {}

/// The caller's buffer cannot hold the frame to be encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the buffer is too small for the frame")
    }
}

impl core::error::Error for NoRoom {}

/// An AoE error, byte 15 of a response with the E flag (§1, AoEr11 §2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// 1: the target does not know the command.
    UnrecognizedCommand,
    /// 2: an argument has no meaning to the target.
    BadArgument,
    /// 3: the device cannot be used now.
    DeviceUnavailable,
    /// 4: the config string is set already, to something else.
    ConfigPresent,
    /// 5: the target does not speak that version.
    UnsupportedVersion,
    /// 6: the target is reserved by another initiator.
    Reserved,
    /// Any other code.
    Unknown(u8),
}

impl From<u8> for ErrorCode {
    fn from(code: u8) -> Self {
        match code {
            1 => Self::UnrecognizedCommand,
            2 => Self::BadArgument,
            3 => Self::DeviceUnavailable,
            4 => Self::ConfigPresent,
            5 => Self::UnsupportedVersion,
            6 => Self::Reserved,
            other => Self::Unknown(other),
        }
    }
}

impl From<ErrorCode> for u8 {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::UnrecognizedCommand => 1,
            ErrorCode::BadArgument => 2,
            ErrorCode::DeviceUnavailable => 3,
            ErrorCode::ConfigPresent => 4,
            ErrorCode::UnsupportedVersion => 5,
            ErrorCode::Reserved => 6,
            ErrorCode::Unknown(other) => other,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnrecognizedCommand => f.write_str("unrecognized command"),
            Self::BadArgument => f.write_str("bad argument"),
            Self::DeviceUnavailable => f.write_str("device unavailable"),
            Self::ConfigPresent => f.write_str("config string present"),
            Self::UnsupportedVersion => f.write_str("unsupported version"),
            Self::Reserved => f.write_str("reserved by another initiator"),
            Self::Unknown(code) => write!(f, "error {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn codes_are_those_of_the_table() {
        for (code, error, text) in [
            (0, ErrorCode::Unknown(0), "error 0"),
            (1, ErrorCode::UnrecognizedCommand, "unrecognized command"),
            (2, ErrorCode::BadArgument, "bad argument"),
            (3, ErrorCode::DeviceUnavailable, "device unavailable"),
            (4, ErrorCode::ConfigPresent, "config string present"),
            (5, ErrorCode::UnsupportedVersion, "unsupported version"),
            (6, ErrorCode::Reserved, "reserved by another initiator"),
            (7, ErrorCode::Unknown(7), "error 7"),
        ] {
            assert_eq!(ErrorCode::from(code), error);
            assert_eq!(u8::from(error), code);
            assert_eq!(error.to_string(), text);
        }
    }
}
