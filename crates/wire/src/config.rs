//! Command 1: Query/Config (§4, AoEr11 §3.2).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 2 | buffer count, big-endian |
//! | 26 | 2 | firmware version, big-endian |
//! | 28 | 1 | sector count: most sectors in a frame |
//! | 29 | 1 | AoE version (bits 7–4), sub-command (bits 3–0) |
//! | 30 | 2 | length of the string, big-endian |
//! | 32 | … | config string, any bytes, no terminator |

use core::fmt;

use crate::put::Put;
use crate::{DecodeError, NoRoom};

/// Bytes of the argument before the config string.
pub const CONFIG_ARGUMENT_BYTES: usize = 8;
/// Longest config string.
pub const MAX_CONFIG_BYTES: usize = 1024;

/// What a Query/Config request wants done with the config string (§4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ConfigCommand {
    /// 0: return it.
    #[default]
    Read,
    /// 1: answer if it equals the request's.
    Test,
    /// 2: answer if it begins with the request's.
    Prefix,
    /// 3: set it if it is empty or the same.
    Set,
    /// 4: set it in any case.
    ForceSet,
    /// Any other, 5 to 15.
    Unknown(u8),
}

impl From<u8> for ConfigCommand {
    /// Takes the low four bits.
    fn from(code: u8) -> Self {
        match code & 0x0F {
            0 => Self::Read,
            1 => Self::Test,
            2 => Self::Prefix,
            3 => Self::Set,
            4 => Self::ForceSet,
            other => Self::Unknown(other),
        }
    }
}

impl From<ConfigCommand> for u8 {
    fn from(command: ConfigCommand) -> Self {
        match command {
            ConfigCommand::Read => 0,
            ConfigCommand::Test => 1,
            ConfigCommand::Prefix => 2,
            ConfigCommand::Set => 3,
            ConfigCommand::ForceSet => 4,
            ConfigCommand::Unknown(other) => other & 0x0F,
        }
    }
}

impl fmt::Display for ConfigCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Test => f.write_str("test"),
            Self::Prefix => f.write_str("prefix"),
            Self::Set => f.write_str("set"),
            Self::ForceSet => f.write_str("force-set"),
            Self::Unknown(code) => write!(f, "sub-command {code}"),
        }
    }
}

/// A Query/Config argument. Its default is the plain query: "who are you?".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config<'a> {
    /// Most requests the target can hold; 0 in requests.
    pub buffer_count: u16,
    /// The target's firmware version; 0 in requests.
    pub firmware: u16,
    /// Most sectors in one frame on this interface; 0 in requests.
    pub sector_count: u8,
    /// Highest AoE version supported, 0 to 15; 0 in requests.
    pub version: u8,
    /// What to do.
    pub command: ConfigCommand,
    /// Length of the string as announced: not yet checked, see [`string`](Self::string).
    pub string_len: u16,
    /// All bytes behind the length: the string and whatever padding follows.
    pub rest: &'a [u8],
}

impl<'a> Config<'a> {
    /// The same argument with this config string.
    ///
    /// # Errors
    /// [`DecodeError::ConfigString`] over 1024 bytes.
    pub fn with_string(mut self, string: &'a [u8]) -> Result<Self, DecodeError> {
        self.string_len = u16::try_from(string.len())
            .ok()
            .filter(|&len| usize::from(len) <= MAX_CONFIG_BYTES)
            .ok_or(DecodeError::ConfigString)?;
        self.rest = string;
        Ok(self)
    }

    /// The config string.
    ///
    /// # Errors
    /// [`DecodeError::ConfigString`] if it is over 1024 bytes or reaches beyond the frame.
    pub fn string(&self) -> Result<&'a [u8], DecodeError> {
        let len = usize::from(self.string_len);
        self.rest
            .get(..len)
            .filter(|_| len <= MAX_CONFIG_BYTES)
            .ok_or(DecodeError::ConfigString)
    }

    /// Reads the argument, the bytes from offset 24 on.
    ///
    /// # Errors
    /// [`DecodeError::Config`] under 8 bytes. The string is judged by [`string`](Self::string),
    /// because a read ignores it.
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let (fixed, rest) = argument
            .split_first_chunk::<CONFIG_ARGUMENT_BYTES>()
            .ok_or(DecodeError::Config)?;
        let [b0, b1, f0, f1, sector_count, version_command, l0, l1] = *fixed;
        Ok(Self {
            buffer_count: u16::from_be_bytes([b0, b1]),
            firmware: u16::from_be_bytes([f0, f1]),
            sector_count,
            version: version_command >> 4,
            command: version_command.into(),
            string_len: u16::from_be_bytes([l0, l1]),
            rest,
        })
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        put.bytes(&self.buffer_count.to_be_bytes())?;
        put.bytes(&self.firmware.to_be_bytes())?;
        put.bytes(&[
            self.sector_count,
            self.version << 4 | u8::from(self.command),
        ])?;
        put.bytes(&self.string_len.to_be_bytes())?;
        put.bytes(self.rest)
    }
}
