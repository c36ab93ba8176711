//! Command 2: the list of initiators that may talk to the target at all (§5, AoEr11 §3.3).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 24 | 1 | reserved |
//! | 25 | 1 | sub-command |
//! | 26 | 1 | mask error |
//! | 27 | 1 | number of directives or entries |
//! | 28 | 8 × n | directives: reserved, code, MAC |

use crate::put::Put;
use crate::{DecodeError, Header, MIN_FRAME_BYTES, MacAddr, NoRoom};

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

/// Encodes a whole frame that carries `list` (at most 255 entries are sent) and pads it to
/// [`MIN_FRAME_BYTES`]. Returns its length.
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
    header.put(&mut put)?;
    put.bytes(&[0, command.into(), MaskError::None.into(), count])?;
    for &mac in list.iter().take(usize::from(count)) {
        let code = DirectiveCode::None;
        put.bytes(&Directive { code, mac }.to_bytes())?;
    }
    put.zeros_up_to(MIN_FRAME_BYTES)?;
    Ok(put.written())
}
