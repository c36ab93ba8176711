//! Command 3: Reserve/Release, the list of initiators that hold the target (§6, AoEr11 §3.4).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | sub-command |
//! | 25 | 1 | number of MAC addresses |
//! | 26 | 6 × n | MAC addresses |

use crate::put::Put;
use crate::{DecodeError, Header, MIN_FRAME_BYTES, MacAddr, NoRoom};

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

/// A Reserve/Release argument.
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

/// Encodes a whole frame that carries `list` (at most 255 addresses are sent) and pads it to
/// [`MIN_FRAME_BYTES`]. Returns its length.
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
    header.put(&mut put)?;
    put.bytes(&[command.into(), count])?;
    for mac in list.iter().take(usize::from(count)) {
        put.bytes(&mac.0)?;
    }
    put.zeros_up_to(MIN_FRAME_BYTES)?;
    Ok(put.written())
}
