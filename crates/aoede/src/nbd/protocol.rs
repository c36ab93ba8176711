//! Numbers of the NBD protocol, as its document `doc/proto.md` gives them. All integers on the wire
//! are big-endian.

/// Bytes of a sector. An AoE disk does nothing smaller, and so it is the smallest block here.
pub const SECTOR: u64 = 512;
/// What clients are told to prefer, in bytes: a page, and the physical sector of most disks.
pub(crate) const PREFERRED_BLOCK: u32 = 4096;
/// Most bytes of one read or write: what clients may count on that were told nothing.
pub const MAX_PAYLOAD: u32 = 32 << 20;

pub(crate) const GREETING_MAGIC: u64 = 0x4e42_444d_4147_4943; // "NBDMAGIC"
pub(crate) const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054; // "IHAVEOPT"
pub(crate) const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub(crate) const REQUEST_MAGIC: u32 = 0x2560_9513;
pub(crate) const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub(crate) const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags, the same bits from server and client.
pub(crate) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(crate) const NO_ZEROES: u16 = 1 << 1;

/// Options that a client may send.
pub(crate) mod option {
    pub(crate) const EXPORT_NAME: u32 = 1;
    pub(crate) const ABORT: u32 = 2;
    pub(crate) const LIST: u32 = 3;
    pub(crate) const INFO: u32 = 6;
    pub(crate) const GO: u32 = 7;
    pub(crate) const STRUCTURED_REPLY: u32 = 8;
}

/// Kinds of reply to an option.
pub(crate) mod reply {
    const ERROR: u32 = 1 << 31;
    pub(crate) const ACK: u32 = 1;
    pub(crate) const SERVER: u32 = 2;
    pub(crate) const INFO: u32 = 3;
    pub(crate) const UNSUPPORTED: u32 = ERROR + 1;
    pub(crate) const INVALID: u32 = ERROR + 3;
    pub(crate) const UNKNOWN_EXPORT: u32 = ERROR + 6;
    pub(crate) const TOO_BIG: u32 = ERROR + 9;
}

/// Kinds of information about an export.
pub(crate) mod info {
    pub(crate) const EXPORT: u16 = 0;
    pub(crate) const NAME: u16 = 1;
    pub(crate) const BLOCK_SIZE: u16 = 3;
}

/// Transmission flags: what an export can do.
pub(crate) mod can {
    pub(crate) const HAS_FLAGS: u16 = 1 << 0;
    pub(crate) const READ_ONLY: u16 = 1 << 1;
    pub(crate) const FLUSH: u16 = 1 << 2;
    pub(crate) const FUA: u16 = 1 << 3;
    pub(crate) const TRIM: u16 = 1 << 5;
    pub(crate) const WRITE_ZEROES: u16 = 1 << 6;
    pub(crate) const DF: u16 = 1 << 7;
    pub(crate) const MULTI_CONN: u16 = 1 << 8;
    pub(crate) const FAST_ZERO: u16 = 1 << 11;
}

/// Kinds of request.
pub(crate) mod command {
    pub(crate) const READ: u16 = 0;
    pub(crate) const WRITE: u16 = 1;
    pub(crate) const DISCONNECT: u16 = 2;
    pub(crate) const FLUSH: u16 = 3;
    pub(crate) const TRIM: u16 = 4;
    pub(crate) const WRITE_ZEROES: u16 = 6;
}

/// Flags of a request.
pub(crate) mod flag {
    pub(crate) const FUA: u16 = 1 << 0;
    pub(crate) const NO_HOLE: u16 = 1 << 1;
    pub(crate) const DF: u16 = 1 << 2;
    pub(crate) const FAST_ZERO: u16 = 1 << 4;
}

/// Kinds of chunk of a structured reply, and the flag of its last one.
pub(crate) mod chunk {
    pub(crate) const DONE: u16 = 1 << 0;
    pub(crate) const OFFSET_DATA: u16 = 1;
    pub(crate) const ERROR: u16 = (1 << 15) + 1;
}

/// Why a request failed, as clients are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errno {
    /// The disk is read-only, or held by another initiator.
    NotPermitted,
    /// The disk, or the way to it, has failed.
    Io,
    /// The request is malformed, unknown, or reaches beyond the end.
    Invalid,
    /// A write reaches beyond the end.
    NoSpace,
    /// It cannot be done in the way that was asked for.
    NotSupported,
    /// The server is stopping.
    Shutdown,
}

impl Errno {
    /// The number on the wire: Linux has the same.
    pub const fn code(self) -> u32 {
        match self {
            Self::NotPermitted => 1,
            Self::Io => 5,
            Self::Invalid => 22,
            Self::NoSpace => 28,
            Self::NotSupported => 95,
            Self::Shutdown => 108,
        }
    }
}

/// What is offered to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the wire")]
pub struct Export {
    /// The name to ask for; an empty name always means this export too.
    pub name: String,
    /// Size: a whole number of sectors.
    pub bytes: u64,
    /// Everything that changes data is refused.
    pub read_only: bool,
    /// Writes can be made stable.
    pub flush: bool,
    /// The disk can be told what is no longer wanted.
    pub trim: bool,
    /// What was trimmed reads as zeros.
    pub trim_zeroes: bool,
}

impl Export {
    /// The transmission flags, for a client that has negotiated structured replies or not.
    ///
    /// Connections share one session with the target, whose flush covers the writes of all: so more
    /// than one is always possible.
    pub fn flags(&self, structured: bool) -> u16 {
        let mut flags = can::HAS_FLAGS | can::MULTI_CONN;
        if structured {
            flags |= can::DF;
        }
        if self.flush {
            flags |= can::FLUSH | can::FUA;
        }
        if self.read_only {
            return flags | can::READ_ONLY;
        }
        flags |= can::WRITE_ZEROES;
        if self.trim {
            flags |= can::TRIM;
        }
        if self.zeroes_fast() {
            flags |= can::FAST_ZERO;
        }
        flags
    }

    /// Whether zeros can be had without writing them.
    pub fn zeroes_fast(&self) -> bool {
        self.trim && self.trim_zeroes
    }

    /// Whether a client that asks for this name means this export.
    pub(crate) fn is_called(&self, name: &[u8]) -> bool {
        name.is_empty() || name == self.name.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_the_document() {
        let mut export = Export {
            name: String::new(),
            bytes: 512,
            read_only: false,
            flush: true,
            trim: true,
            trim_zeroes: true,
        };
        // Bits 0, 2, 3, 5, 6, 8, 11; with structured replies 7 too.
        assert_eq!(export.flags(false), 0x096D);
        assert_eq!(export.flags(true), 0x09ED);
        export.trim_zeroes = false;
        assert_eq!(export.flags(false), 0x016D);
        export.trim = false;
        assert_eq!(export.flags(false), 0x014D);
        export.flush = false;
        assert_eq!(export.flags(false), 0x0141);
        (export.read_only, export.trim, export.trim_zeroes) = (true, true, true);
        assert_eq!(export.flags(false), 0x0103);
        // A promise about trims means nothing where there are none.
        (export.read_only, export.trim) = (false, false);
        assert_eq!(export.flags(false), 0x0141);
    }

    #[test]
    fn an_export_is_found_by_its_name_and_by_none() {
        let export = Export {
            name: "disk".to_owned(),
            bytes: 0,
            read_only: false,
            flush: false,
            trim: false,
            trim_zeroes: false,
        };
        assert!(export.is_called(b"disk") && export.is_called(b""));
        assert!(!export.is_called(b"dis") && !export.is_called(b"disk\0"));
    }
}
