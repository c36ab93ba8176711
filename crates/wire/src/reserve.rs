//! Command 3: Reserve/Release, the list of initiators that hold the target (§6, AoEr11 §3.4).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | sub-command |
//! | 25 | 1 | number of MAC addresses |
//! | 26 | 6 × n | MAC addresses |

use core::fmt;

use crate::put::Put;
use crate::{Command, DecodeError, Header, MIN_FRAME_BYTES, MacAddr, NoRoom};

/// Bytes of the argument before the MAC addresses.
pub const RESERVE_ARGUMENT_BYTES: usize = 2;

/// Byte 24.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReserveCommand {
    /// 0: return the list.
    Read,
    /// 1: replace the list, if it is empty or names the sender.
    Set,
    /// 2: replace the list in any case.
    ForceSet,
    /// Any other.
    Unknown(u8),
}

impl From<u8> for ReserveCommand {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Set,
            2 => Self::ForceSet,
            other => Self::Unknown(other),
        }
    }
}

impl From<ReserveCommand> for u8 {
    fn from(command: ReserveCommand) -> Self {
        match command {
            ReserveCommand::Read => 0,
            ReserveCommand::Set => 1,
            ReserveCommand::ForceSet => 2,
            ReserveCommand::Unknown(other) => other,
        }
    }
}

impl fmt::Display for ReserveCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Set => f.write_str("set"),
            Self::ForceSet => f.write_str("force-set"),
            Self::Unknown(code) => write!(f, "sub-command {code}"),
        }
    }
}

/// A Reserve/Release argument.
///
/// ```
/// use aoede_wire::{MacAddr, Reserve, ReserveCommand};
/// let reserve = Reserve::decode(&[1, 1, 2, 0, 0, 0, 0, 0x0B])?;
/// assert_eq!(reserve.command, ReserveCommand::Set);
/// assert!(reserve.macs()?.eq([MacAddr([2, 0, 0, 0, 0, 0x0B])]));
/// # Ok::<(), aoede_wire::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve<'a> {
    /// Read, set or force set.
    pub command: ReserveCommand,
    /// Number of MAC addresses announced.
    pub count: u8,
    /// All bytes behind the count, padding included.
    pub rest: &'a [u8],
}

impl<'a> Reserve<'a> {
    /// The announced MAC addresses.
    ///
    /// # Errors
    /// [`DecodeError::ReserveList`] if the frame ends before the last of them.
    pub fn macs(&self) -> Result<impl Iterator<Item = MacAddr> + Clone + use<'a>, DecodeError> {
        let bytes = self
            .rest
            .get(..usize::from(self.count) * 6)
            .ok_or(DecodeError::ReserveList)?;
        Ok(bytes
            .chunks_exact(6)
            .filter_map(|chunk| chunk.try_into().ok().map(MacAddr)))
    }

    /// Reads the argument, the bytes from offset 24 on.
    ///
    /// # Errors
    /// [`DecodeError::Reserve`] under 2 bytes.
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let (&[command, count], rest) = argument
            .split_first_chunk::<RESERVE_ARGUMENT_BYTES>()
            .ok_or(DecodeError::Reserve)?;
        Ok(Self {
            command: command.into(),
            count,
            rest,
        })
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        put.bytes(&[self.command.into(), self.count])?;
        put.bytes(self.rest)
    }
}

/// Encodes a whole frame that carries `list` (at most 255 addresses are sent) behind `header` with
/// this command's code, and pads it to [`MIN_FRAME_BYTES`]. Returns its length.
///
/// # Errors
/// [`NoRoom`] if `out` is too short.
pub fn encode_reserve_list(
    header: Header,
    command: ReserveCommand,
    list: &[MacAddr],
    out: &mut [u8],
) -> Result<usize, NoRoom> {
    let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
    let mut put = Put::new(out);
    Header {
        command: Command::Reserve,
        ..header
    }
    .put(&mut put)?;
    put.bytes(&[command.into(), count])?;
    for mac in list.iter().take(usize::from(count)) {
        put.bytes(&mac.0)?;
    }
    put.zeros_up_to(MIN_FRAME_BYTES)?;
    Ok(put.written())
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::Address;
    use std::vec::Vec;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);

    #[test]
    fn sub_commands_are_those_of_the_table() {
        for (code, command) in [
            (0, ReserveCommand::Read),
            (1, ReserveCommand::Set),
            (2, ReserveCommand::ForceSet),
            (3, ReserveCommand::Unknown(3)),
        ] {
            assert_eq!(ReserveCommand::from(code), command);
            assert_eq!(u8::from(command), code);
        }
    }

    #[test]
    fn the_argument_lies_where_the_table_says() {
        let bytes = [2, 2, 2, 0, 0, 0, 0, 0x0B, 2, 0, 0, 0, 0, 0x0C];
        let reserve = Reserve::decode(&bytes).unwrap();
        assert_eq!(reserve.command, ReserveCommand::ForceSet);
        assert_eq!(reserve.count, 2);
        let macs: Vec<_> = reserve.macs().unwrap().collect();
        assert_eq!(macs, [MAC, MacAddr([2, 0, 0, 0, 0, 0x0C])]);
        let mut out = [0xA5; 14];
        reserve.put(&mut Put::new(&mut out)).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn one_byte_is_no_argument() {
        assert_eq!(Reserve::decode(&[0]), Err(DecodeError::Reserve));
        assert!(Reserve::decode(&[0; 2]).is_ok());
    }

    #[test]
    fn addresses_beyond_the_frame_are_refused_as_a_whole() {
        for (count, bytes, good) in [(0, 0, true), (1, 6, true), (1, 5, false), (9, 6, false)] {
            let reserve = Reserve {
                command: ReserveCommand::Set,
                count,
                rest: &[0; 6][..bytes],
            };
            assert_eq!(
                reserve.macs().map(Iterator::count),
                if good {
                    Ok(usize::from(count))
                } else {
                    Err(DecodeError::ReserveList)
                }
            );
        }
    }

    #[test]
    fn a_list_is_padded_and_has_at_most_255_entries() {
        let header = Header::request(MAC, MacAddr::BROADCAST, Address::ALL);
        let mut out = [0xA5; 26 + 255 * 6 + 1];
        let command = ReserveCommand::Set;
        assert_eq!(
            encode_reserve_list(header, command, &[MAC], &mut out),
            Ok(60)
        );
        assert_eq!(out[19], 3);
        assert_eq!(out[24..32], [1, 1, 2, 0, 0, 0, 0, 0x0B]);
        assert_eq!(out[32..60], [0; 28]);
        assert_eq!(out[60], 0xA5);
        let list = [MAC; 256];
        assert_eq!(
            encode_reserve_list(header, command, &list, &mut out),
            Ok(26 + 255 * 6)
        );
        assert_eq!((out[25], out[26 + 255 * 6]), (255, 0xA5));
        assert_eq!(
            encode_reserve_list(header, command, &list, &mut out[..1555]),
            Err(NoRoom)
        );
    }
}
