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
///
/// ```
/// use aoede_wire::{Config, ConfigCommand};
/// let set = Config {
///     command: ConfigCommand::Set,
///     ..Config::default()
/// };
/// let set = set.with_string(b"backup of host 7")?;
/// assert_eq!(set.string(), Ok(&b"backup of host 7"[..]));
/// # Ok::<(), aoede_wire::DecodeError>(())
/// ```
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn the_argument_lies_where_the_table_says() {
        let bytes = [0x01, 0x02, 0x50, 0x01, 17, 0x14, 0, 2, b'a', b'b', 0];
        let config = Config::decode(&bytes).unwrap();
        assert_eq!(
            config,
            Config {
                buffer_count: 0x0102,
                firmware: 0x5001,
                sector_count: 17,
                version: 1,
                command: ConfigCommand::ForceSet,
                string_len: 2,
                rest: b"ab\0",
            }
        );
        assert_eq!(config.string(), Ok(&b"ab"[..]));

        let mut out = [0xA5; 12];
        let mut put = Put::new(&mut out);
        config.put(&mut put).unwrap();
        assert_eq!(put.written(), bytes.len());
        assert_eq!(&out[..11], bytes);
    }

    #[test]
    fn seven_bytes_are_no_argument() {
        assert_eq!(Config::decode(&[0; 7]), Err(DecodeError::Config));
        assert_eq!(Config::decode(&[0; 8]), Ok(Config::default()));
    }

    #[test]
    fn strings_end_at_1024_bytes_and_at_the_frame() {
        let bytes = [0xED; MAX_CONFIG_BYTES + 1];
        assert_eq!(MAX_CONFIG_BYTES, 1024);
        for (len, in_frame, good) in [
            (0, 0, true),
            (1, 1, true),
            (1, 0, false),
            (1024, 1024, true),
            (1024, 1023, false),
            (1025, 1025, false),
            (u16::MAX, 1025, false),
        ] {
            let config = Config {
                string_len: len,
                rest: &bytes[..in_frame],
                ..Config::default()
            };
            let expected = if good {
                Ok(usize::from(len))
            } else {
                Err(DecodeError::ConfigString)
            };
            assert_eq!(config.string().map(<[u8]>::len), expected, "{len}");
        }
        assert!(Config::default().with_string(&bytes[..1024]).is_ok());
        assert_eq!(
            Config::default().with_string(&bytes),
            Err(DecodeError::ConfigString)
        );
        assert_eq!(
            Config::default().with_string(&std::vec![0; 65536]),
            Err(DecodeError::ConfigString)
        );
    }

    #[test]
    fn sub_commands_are_the_low_four_bits() {
        for (code, command, name) in [
            (0, ConfigCommand::Read, "read"),
            (1, ConfigCommand::Test, "test"),
            (2, ConfigCommand::Prefix, "prefix"),
            (3, ConfigCommand::Set, "set"),
            (4, ConfigCommand::ForceSet, "force-set"),
            (9, ConfigCommand::Unknown(9), "sub-command 9"),
        ] {
            assert_eq!(ConfigCommand::from(code), command);
            assert_eq!(ConfigCommand::from(0x10 | code), command);
            assert_eq!(u8::from(command), code);
            assert_eq!(command.to_string(), name);
        }
        for code in 0..16 {
            assert_eq!(u8::from(ConfigCommand::from(code)), code);
        }
        // A value that does not fit must not spill into the version.
        assert_eq!(u8::from(ConfigCommand::Unknown(0xF9)), 9);
    }
}
