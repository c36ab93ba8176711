//! A whole frame: common header and the command's argument.
//!
//! Decoding goes in two steps because a target must: header, address and access are judged before
//! it matters whether the argument makes sense.

use core::fmt;

use crate::put::Put;
use crate::{
    Ata, Command, Config, DecodeError, ErrorCode, ExtensionTable, Flags, HEADER_BYTES, Header,
    MIN_FRAME_BYTES, Mask, NoRoom, Reserve,
};

/// A frame whose header has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The common header.
    pub header: Header,
    /// All bytes behind it.
    pub argument: &'a [u8],
}

/// The argument of a frame, read by its command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// Command 0.
    Ata(Ata<'a>),
    /// Command 1.
    Config(Config<'a>),
    /// Command 2.
    Mask(Mask<'a>),
    /// Command 3.
    Reserve(Reserve<'a>),
    /// Command `0x23`.
    Extension(ExtensionTable<'a>),
    /// Any other: its code and its bytes.
    Unknown(u8, &'a [u8]),
}

impl<'a> Frame<'a> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`DecodeError::Header`] and [`DecodeError::EtherType`].
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, argument) = Header::decode(bytes)?;
        Ok(Self { header, argument })
    }

    /// Length in bytes, without frame check sequence.
    pub fn len(&self) -> usize {
        HEADER_BYTES + self.argument.len()
    }

    /// Never: a frame has at least its header.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Reads the argument.
    ///
    /// # Errors
    /// The command's own, when the frame is shorter than its fixed part.
    pub fn body(&self) -> Result<Body<'a>, DecodeError> {
        let argument = self.argument;
        Ok(match self.header.command {
            Command::Ata => Body::Ata(Ata::decode(argument)?),
            Command::Config => Body::Config(Config::decode(argument)?),
            Command::Mask => Body::Mask(Mask::decode(argument)?),
            Command::Reserve => Body::Reserve(Reserve::decode(argument)?),
            Command::Extension => Body::Extension(ExtensionTable::decode(argument)?),
            Command::Unknown(code) => Body::Unknown(code, argument),
        })
    }
}

impl Body<'_> {
    /// The command code that announces this argument.
    pub fn command(&self) -> Command {
        match self {
            Self::Ata(_) => Command::Ata,
            Self::Config(_) => Command::Config,
            Self::Mask(_) => Command::Mask,
            Self::Reserve(_) => Command::Reserve,
            Self::Extension(_) => Command::Extension,
            Self::Unknown(code, _) => Command::Unknown(*code),
        }
    }

    /// Writes the whole frame, `header` with this body's command, to the start of `out` and pads
    /// it with zeros to [`MIN_FRAME_BYTES`]. Returns its length in bytes.
    ///
    /// # Errors
    /// [`NoRoom`] if `out` is too short; what it then holds is unspecified.
    pub fn encode(&self, header: Header, out: &mut [u8]) -> Result<usize, NoRoom> {
        let mut put = Put::new(out);
        Header {
            command: self.command(),
            ..header
        }
        .put(&mut put)?;
        match self {
            Self::Ata(ata) => ata.put(&mut put),
            Self::Config(config) => config.put(&mut put),
            Self::Mask(mask) => mask.put(&mut put),
            Self::Reserve(reserve) => reserve.put(&mut put),
            Self::Extension(table) => table.put(&mut put),
            Self::Unknown(_, bytes) => put.bytes(bytes),
        }?;
        put.zeros_up_to(MIN_FRAME_BYTES)?;
        Ok(put.written())
    }
}

/// One line, as a network monitor would print it.
impl fmt::Display for Frame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header = &self.header;
        let response = header.flags.contains(Flags::RESPONSE);
        write!(
            f,
            "{} > {} {} {} tag {}",
            header.source,
            header.destination,
            header.address,
            if response { "response" } else { "request" },
            header.tag,
        )?;
        if header.version != crate::VERSION {
            write!(f, " version {}", header.version)?;
        }
        if header.flags.contains(Flags::ERROR) {
            write!(f, " error: {}", ErrorCode::from(header.error))?;
        }
        match self.body() {
            Ok(Body::Ata(ata)) => fmt_ata(f, &ata, response),
            Ok(Body::Config(config)) => fmt_config(f, &config, response),
            Ok(Body::Mask(mask)) => fmt_mask(f, &mask),
            Ok(Body::Reserve(reserve)) => fmt_reserve(f, &reserve),
            Ok(Body::Extension(table)) => fmt_extension(f, &table),
            Ok(Body::Unknown(code, bytes)) => {
                write!(f, ", command {code:#04x}, {} bytes", bytes.len())
            }
            Err(error) => write!(f, ", {}: {error}", header.command),
        }
    }
}

fn fmt_ata(f: &mut fmt::Formatter<'_>, ata: &Ata<'_>, response: bool) -> fmt::Result {
    if response {
        write!(
            f,
            ", ata status {:02x} error {:02x} count {} lba {}",
            ata.command_or_status,
            ata.feature_or_error,
            ata.count,
            ata.lba48(),
        )?;
    } else {
        write!(
            f,
            ", {} lba {} count {}",
            ata.opcode(),
            ata.lba48(),
            ata.count
        )?;
        if ata.feature_or_error != 0 {
            write!(f, " feature {:02x}", ata.feature_or_error)?;
        }
    }
    write!(f, " flags {:02x}, {} bytes", ata.flags.0, ata.data.len())
}

fn fmt_config(f: &mut fmt::Formatter<'_>, config: &Config<'_>, response: bool) -> fmt::Result {
    write!(f, ", config {}", config.command)?;
    if response {
        write!(
            f,
            " buffers {} firmware {:#06x} sectors {} version {}",
            config.buffer_count, config.firmware, config.sector_count, config.version,
        )?;
    }
    match config.string() {
        Ok(string) => write!(f, " \"{}\"", string.escape_ascii()),
        Err(error) => write!(f, ": {error}"),
    }
}

fn fmt_mask(f: &mut fmt::Formatter<'_>, mask: &Mask<'_>) -> fmt::Result {
    write!(f, ", mask {:?} {:?}", mask.command, mask.error)?;
    match mask.directives() {
        Ok(mut directives) => directives.try_for_each(|d| write!(f, " {:?} {}", d.code, d.mac)),
        // A failing edit carries an index in the place of the count, and no list.
        Err(_) => write!(f, " at {}", mask.count),
    }
}

fn fmt_reserve(f: &mut fmt::Formatter<'_>, reserve: &Reserve<'_>) -> fmt::Result {
    write!(f, ", reserve {:?}", reserve.command)?;
    match reserve.macs() {
        Ok(mut macs) => macs.try_for_each(|mac| write!(f, " {mac}")),
        Err(error) => write!(f, ": {error}"),
    }
}

fn fmt_extension(f: &mut fmt::Formatter<'_>, table: &ExtensionTable<'_>) -> fmt::Result {
    f.write_str(", extension")?;
    match table.entries() {
        Ok(mut entries) => entries.try_for_each(|e| write!(f, " {}", e.bytes.escape_ascii())),
        Err(error) => write!(f, ": {error}"),
    }
}
