//! A whole frame: common header and the command's argument.
//!
//! Decoding goes in two steps because a target must: header, address and access are judged before
//! it matters whether the argument makes sense.

use core::fmt;

use crate::put::Put;
use crate::{
    Ata, Command, Config, DecodeError, DirectiveCode, ErrorCode, ExtensionTable, Flags,
    HEADER_BYTES, Header, MIN_FRAME_BYTES, Mask, MaskError, NoRoom, Opcode, Reserve,
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
            Ok(Body::Mask(mask)) => fmt_mask(f, &mask, response),
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
            match ata.opcode() {
                Opcode::Read | Opcode::Write => ata.lba28(),
                _ => ata.lba48(),
            },
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

fn fmt_mask(f: &mut fmt::Formatter<'_>, mask: &Mask<'_>, response: bool) -> fmt::Result {
    write!(f, ", mask {}", mask.command)?;
    if response && mask.error != MaskError::None {
        // The count is then the place of the failing directive, and no list follows.
        return write!(f, ": {} at {}", mask.error, mask.count);
    }
    match mask.directives() {
        Ok(mut directives) => directives.try_for_each(|directive| {
            if !response || directive.code != DirectiveCode::None {
                write!(f, " {}", directive.code)?;
            }
            write!(f, " {}", directive.mac)
        }),
        Err(error) => write!(f, ": {error}"),
    }
}

fn fmt_reserve(f: &mut fmt::Formatter<'_>, reserve: &Reserve<'_>) -> fmt::Result {
    write!(f, ", reserve {}", reserve.command)?;
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

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use crate::{Address, MacAddr, Tag};
    use std::string::ToString;

    fn header() -> Header {
        Header {
            tag: Tag([0, 0, 0, 9]),
            ..Header::request(
                MacAddr([2, 0, 0, 0, 0, 0x0B]),
                MacAddr([2, 0, 0, 0, 0, 0x0A]),
                Address { shelf: 1, slot: 1 },
            )
        }
    }

    /// The line of a frame with this command and argument, without the addresses before the tag.
    fn line(header: Header, command: u8, argument: &[u8]) -> std::string::String {
        let frame = Frame {
            header: Header {
                command: command.into(),
                ..header
            },
            argument,
        };
        let line = frame.to_string();
        line.split_once("tag ").unwrap().1.to_string()
    }

    #[test]
    fn the_body_decides_the_command() {
        let mut out = [0xA5; 61];
        assert_eq!(
            Body::Unknown(0x7F, &[1, 2]).encode(header(), &mut out),
            Ok(60)
        );
        assert_eq!((out[19], out[24], out[25], out[26]), (0x7F, 1, 2, 0));
        assert_eq!((out[59], out[60]), (0, 0xA5));
        let frame = Frame::decode(&out[..60]).unwrap();
        assert_eq!(frame.len(), 60);
        assert!(!frame.is_empty());
        assert_eq!(frame.body().unwrap().command(), Command::Unknown(0x7F));
    }

    #[test]
    fn arguments_shorter_than_their_fixed_part_name_their_command() {
        // §2: ATA 36, Config 32, Mask 28, Reserve 26, Extensions 26 bytes.
        for (command, len, error) in [
            (0, 36, DecodeError::Ata),
            (1, 32, DecodeError::Config),
            (2, 28, DecodeError::Mask),
            (3, 26, DecodeError::Reserve),
            (0x23, 26, DecodeError::Extension),
        ] {
            let mut bytes = [0; 60];
            header().encode(&mut bytes).unwrap();
            bytes[19] = command;
            let short = Frame::decode(&bytes[..len - 1]).unwrap();
            assert_eq!(short.body(), Err(error));
            assert!(short.to_string().ends_with(&error.to_string()));
            assert!(Frame::decode(&bytes[..len]).unwrap().body().is_ok());
        }
    }

    #[test]
    fn a_line_names_what_is_unusual() {
        let old = Header {
            version: 2,
            ..header()
        };
        assert_eq!(
            line(old, 0x7F, &[]),
            "00000009 version 2, command 0x7f, 0 bytes"
        );
        let reserved = header()
            .response(MacAddr::ZERO, Address::ALL)
            .with_error(ErrorCode::Reserved);
        assert_eq!(
            line(reserved, 3, &[1, 1, 2, 0, 0, 0, 0, 0x0C]),
            "00000009 error: reserved by another initiator, reserve set 02:00:00:00:00:0c"
        );
        assert_eq!(
            line(header(), 3, &[7, 1, 2]),
            "00000009, reserve sub-command 7: reservation list beyond the frame"
        );
    }

    /// Device bits in LBA3 are no part of a 28-bit address; the line once showed them.
    #[test]
    fn a_line_shows_the_address_that_the_opcode_means() {
        for (opcode, text) in [(0x20, "READ lba 5"), (0x24, "READ EXT lba 3758096389")] {
            assert_eq!(
                line(header(), 0, &[0, 0, 2, opcode, 5, 0, 0, 0xE0, 0, 0, 0, 0]),
                std::format!("00000009, {text} count 2 flags 00, 0 bytes")
            );
        }
        assert_eq!(
            line(header(), 0, &[0, 0x82, 0, 0xEF, 0, 0, 0, 0, 0, 0, 0, 0]),
            "00000009, SET FEATURES lba 0 count 0 feature 82 flags 00, 0 bytes"
        );
    }

    /// A failing edit carries a place instead of a count; the line once listed padding as entries.
    #[test]
    fn a_line_shows_a_failing_edit_without_a_list() {
        let mut argument = [0; 36];
        argument[1..4].copy_from_slice(&[1, 2, 1]);
        let response = header().response(MacAddr::ZERO, Address::ALL);
        assert_eq!(
            line(response, 2, &argument),
            "00000009, mask edit: bad directive at 1"
        );
        argument[2] = 0;
        assert_eq!(
            line(header(), 2, &argument),
            "00000009, mask edit none 00:00:00:00:00:00"
        );
        assert_eq!(
            line(response, 2, &argument),
            "00000009, mask edit 00:00:00:00:00:00"
        );
        assert_eq!(
            line(header(), 2, &argument[..11]),
            "00000009, mask edit: mask directives beyond the frame"
        );
    }
}
