//! Command 2: the list of initiators that may talk to the target at all (§5, AoEr11 §3.3).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | reserved |
//! | 25 | 1 | sub-command |
//! | 26 | 1 | mask error |
//! | 27 | 1 | number of directives or entries |
//! | 28 | 8 × n | directives: reserved, code, MAC |

use core::fmt;

use crate::put::Put;
use crate::{Command, DecodeError, Header, MIN_FRAME_BYTES, MacAddr, NoRoom};

/// Bytes of the argument before the directives.
pub const MASK_ARGUMENT_BYTES: usize = 4;

/// Byte 25: read the list, or change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskCommand {
    /// 0: return the list.
    Read,
    /// 1: carry out the directives.
    Edit,
    /// Any other.
    Unknown(u8),
}

impl From<u8> for MaskCommand {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::Read,
            1 => Self::Edit,
            other => Self::Unknown(other),
        }
    }
}

impl From<MaskCommand> for u8 {
    fn from(command: MaskCommand) -> Self {
        match command {
            MaskCommand::Read => 0,
            MaskCommand::Edit => 1,
            MaskCommand::Unknown(other) => other,
        }
    }
}

impl fmt::Display for MaskCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read => f.write_str("read"),
            Self::Edit => f.write_str("edit"),
            Self::Unknown(code) => write!(f, "sub-command {code}"),
        }
    }
}

/// Byte 26 of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskError {
    /// 0: done.
    None,
    /// 1: failed for no stated reason.
    Unspecified,
    /// 2: a directive that means nothing.
    BadDirective,
    /// 3: no room for another entry.
    Full,
    /// Any other.
    Unknown(u8),
}

impl From<u8> for MaskError {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Unspecified,
            2 => Self::BadDirective,
            3 => Self::Full,
            other => Self::Unknown(other),
        }
    }
}

impl From<MaskError> for u8 {
    fn from(error: MaskError) -> Self {
        match error {
            MaskError::None => 0,
            MaskError::Unspecified => 1,
            MaskError::BadDirective => 2,
            MaskError::Full => 3,
            MaskError::Unknown(other) => other,
        }
    }
}

impl fmt::Display for MaskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no error"),
            Self::Unspecified => f.write_str("unspecified error"),
            Self::BadDirective => f.write_str("bad directive"),
            Self::Full => f.write_str("list full"),
            Self::Unknown(code) => write!(f, "mask error {code}"),
        }
    }
}

/// What a directive does with its MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectiveCode {
    /// 0: nothing; the code of the entries of a response.
    None,
    /// 1: add it to the list.
    Add,
    /// 2: delete it from the list.
    Delete,
    /// Any other.
    Unknown(u8),
}

impl From<u8> for DirectiveCode {
    fn from(code: u8) -> Self {
        match code {
            0 => Self::None,
            1 => Self::Add,
            2 => Self::Delete,
            other => Self::Unknown(other),
        }
    }
}

impl From<DirectiveCode> for u8 {
    fn from(code: DirectiveCode) -> Self {
        match code {
            DirectiveCode::None => 0,
            DirectiveCode::Add => 1,
            DirectiveCode::Delete => 2,
            DirectiveCode::Unknown(other) => other,
        }
    }
}

impl fmt::Display for DirectiveCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Add => f.write_str("add"),
            Self::Delete => f.write_str("delete"),
            Self::Unknown(code) => write!(f, "directive {code}"),
        }
    }
}

/// One directive of a request, or one entry of a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directive {
    /// What to do.
    pub code: DirectiveCode,
    /// With whom.
    pub mac: MacAddr,
}

impl Directive {
    /// Bytes of a directive on the wire.
    pub const BYTES: usize = 8;

    /// The directive as it is sent.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let [a, b, c, d, e, f] = self.mac.0;
        [0, self.code.into(), a, b, c, d, e, f]
    }

    fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let [_, code, a, b, c, d, e, f] = bytes;
        Self {
            code: code.into(),
            mac: MacAddr([a, b, c, d, e, f]),
        }
    }
}

/// A MAC mask argument.
///
/// ```
/// use aoede_wire::{Directive, DirectiveCode, MacAddr, Mask, MaskCommand, MaskError};
/// let add = Directive { code: DirectiveCode::Add, mac: MacAddr([2, 0, 0, 0, 0, 0x0B]) };
/// let edit = Mask {
///     command: MaskCommand::Edit,
///     error: MaskError::None,
///     count: 1,
///     rest: &add.to_bytes(),
/// };
/// assert!(edit.directives()?.eq([add]));
/// # Ok::<(), aoede_wire::DecodeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mask<'a> {
    /// Read or edit.
    pub command: MaskCommand,
    /// What went wrong; 0 in requests.
    pub error: MaskError,
    /// Number of directives announced, or index of the failing one.
    pub count: u8,
    /// All bytes behind the count, padding included.
    pub rest: &'a [u8],
}

impl<'a> Mask<'a> {
    /// The announced directives or entries.
    ///
    /// # Errors
    /// [`DecodeError::MaskList`] if the frame ends before the last of them.
    pub fn directives(
        &self,
    ) -> Result<impl Iterator<Item = Directive> + Clone + use<'a>, DecodeError> {
        let bytes = self
            .rest
            .get(..usize::from(self.count) * Directive::BYTES)
            .ok_or(DecodeError::MaskList)?;
        Ok(bytes
            .chunks_exact(Directive::BYTES)
            .filter_map(|chunk| chunk.try_into().ok().map(Directive::from_bytes)))
    }

    /// Reads the argument, the bytes from offset 24 on.
    ///
    /// # Errors
    /// [`DecodeError::Mask`] under 4 bytes.
    pub fn decode(argument: &'a [u8]) -> Result<Self, DecodeError> {
        let (&[_, command, error, count], rest) = argument
            .split_first_chunk::<MASK_ARGUMENT_BYTES>()
            .ok_or(DecodeError::Mask)?;
        Ok(Self {
            command: command.into(),
            error: error.into(),
            count,
            rest,
        })
    }

    pub(crate) fn put(&self, put: &mut Put<'_>) -> Result<(), NoRoom> {
        put.bytes(&[0, self.command.into(), self.error.into(), self.count])?;
        put.bytes(self.rest)
    }
}

/// Encodes a whole frame that carries `list` (at most 255 entries are sent) behind `header` with
/// this command's code, and pads it to [`MIN_FRAME_BYTES`]. Returns its length.
///
/// # Errors
/// [`NoRoom`] if `out` is too short.
pub fn encode_mask_list(
    header: Header,
    command: MaskCommand,
    list: &[MacAddr],
    out: &mut [u8],
) -> Result<usize, NoRoom> {
    let count = u8::try_from(list.len()).unwrap_or(u8::MAX);
    let mut put = Put::new(out);
    Header {
        command: Command::Mask,
        ..header
    }
    .put(&mut put)?;
    put.bytes(&[0, command.into(), MaskError::None.into(), count])?;
    for &mac in list.iter().take(usize::from(count)) {
        let code = DirectiveCode::None;
        put.bytes(&Directive { code, mac }.to_bytes())?;
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
    fn codes_are_those_of_the_table() {
        for (code, command, error, directive) in [
            (0, MaskCommand::Read, MaskError::None, DirectiveCode::None),
            (
                1,
                MaskCommand::Edit,
                MaskError::Unspecified,
                DirectiveCode::Add,
            ),
            (
                2,
                MaskCommand::Unknown(2),
                MaskError::BadDirective,
                DirectiveCode::Delete,
            ),
            (
                3,
                MaskCommand::Unknown(3),
                MaskError::Full,
                DirectiveCode::Unknown(3),
            ),
            (
                4,
                MaskCommand::Unknown(4),
                MaskError::Unknown(4),
                DirectiveCode::Unknown(4),
            ),
        ] {
            assert_eq!(
                (MaskCommand::from(code), u8::from(command)),
                (command, code)
            );
            assert_eq!((MaskError::from(code), u8::from(error)), (error, code));
            assert_eq!(
                (DirectiveCode::from(code), u8::from(directive)),
                (directive, code)
            );
        }
    }

    #[test]
    fn the_argument_lies_where_the_table_says() {
        let bytes = [
            0, 1, 0, 2, 0, 1, 2, 0, 0, 0, 0, 0x0B, 0xEE, 2, 2, 0, 0, 0, 0, 0x0C,
        ];
        let mask = Mask::decode(&bytes).unwrap();
        assert_eq!(mask.command, MaskCommand::Edit);
        assert_eq!((mask.error, mask.count), (MaskError::None, 2));
        let directives: Vec<_> = mask.directives().unwrap().collect();
        assert_eq!(
            directives,
            [
                Directive {
                    code: DirectiveCode::Add,
                    mac: MAC
                },
                Directive {
                    code: DirectiveCode::Delete,
                    mac: MacAddr([2, 0, 0, 0, 0, 0x0C])
                },
            ]
        );
        let mut out = [0xA5; 20];
        mask.put(&mut Put::new(&mut out)).unwrap();
        assert_eq!(out, bytes);
    }

    #[test]
    fn three_bytes_are_no_argument() {
        assert_eq!(Mask::decode(&[0; 3]), Err(DecodeError::Mask));
        assert!(Mask::decode(&[0; 4]).is_ok());
    }

    #[test]
    fn directives_beyond_the_frame_are_refused_as_a_whole() {
        for (count, bytes, good) in [
            (0, 0, true),
            (1, 8, true),
            (1, 7, false),
            (255, 2039, false),
        ] {
            let mask = Mask {
                command: MaskCommand::Edit,
                error: MaskError::None,
                count,
                rest: &[0; 2040][..bytes],
            };
            assert_eq!(
                mask.directives().map(Iterator::count),
                if good {
                    Ok(usize::from(count))
                } else {
                    Err(DecodeError::MaskList)
                }
            );
        }
    }

    #[test]
    fn a_list_has_no_directive_codes_and_at_most_255_entries() {
        let header = Header::request(MAC, MacAddr::BROADCAST, Address::ALL);
        let mut out = [0xA5; 28 + 255 * 8 + 1];
        let command = MaskCommand::Read;
        assert_eq!(encode_mask_list(header, command, &[MAC], &mut out), Ok(60));
        assert_eq!(out[19], 2);
        assert_eq!(out[24..36], [0, 0, 0, 1, 0, 0, 2, 0, 0, 0, 0, 0x0B]);
        assert_eq!(out[36..60], [0; 24]);
        assert_eq!(out[60], 0xA5);
        let list = [MAC; 256];
        assert_eq!(
            encode_mask_list(header, command, &list, &mut out),
            Ok(28 + 255 * 8)
        );
        assert_eq!((out[27], out[28 + 255 * 8]), (255, 0xA5));
        assert_eq!(
            encode_mask_list(header, command, &list, &mut out[..2067]),
            Err(NoRoom)
        );
    }
}
