//! Requests: from 28 bytes to something that the disk can be asked, or a refusal.
//!
//! | bytes | |
//! |---|---|
//! | 0–3 | magic |
//! | 4–5 | flags |
//! | 6–7 | command |
//! | 8–15 | cookie, which the reply repeats |
//! | 16–23 | offset in bytes |
//! | 24–27 | length in bytes |

use super::handshake::Reader;
use super::protocol::{Errno, Export, MAX_PAYLOAD, REQUEST_MAGIC, SECTOR, command, flag};

/// Bytes of a request, without the data of a write.
pub const REQUEST_BYTES: usize = 28;

/// A request as it stands on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    flags: u16,
    command: u16,
    /// What the reply repeats.
    pub cookie: u64,
    offset: u64,
    len: u32,
}

/// What a client wants, within the export and in whole sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read.
    Read {
        /// From here on.
        extent: Extent,
    },
    /// Write the data that follows.
    Write {
        /// From here on.
        extent: Extent,
        /// It is to be stable before the reply.
        fua: bool,
    },
    /// Make stable what was replied to.
    Flush,
    /// This is no longer wanted. An extent without sectors asks for nothing.
    Trim {
        /// What lies in it whole.
        extent: Extent,
        /// It is to be stable before the reply.
        fua: bool,
    },
    /// Read as zeros from now on.
    Zero {
        /// These sectors.
        extent: Extent,
        /// By which means.
        by: Zeroing,
        /// It is to be stable before the reply.
        fua: bool,
    },
    /// The client leaves; there is no reply.
    Disconnect,
}

/// How sectors become zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// Zeros are written.
    Write,
    /// They are trimmed, or written where that fails.
    Trim,
    /// They are trimmed: the client does not want to wait for anything else.
    TrimOnly,
}

/// Sectors that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The first.
    pub lba: u64,
    /// How many.
    pub sectors: u64,
}

impl Extent {
    /// Its size in bytes.
    pub const fn bytes(self) -> u64 {
        self.sectors.saturating_mul(SECTOR)
    }
}

impl Request {
    /// Reads a request. `None` if none begins here: then nobody knows where the next one does.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Option<Self> {
        let mut bytes = Reader(bytes);
        (bytes.u32()? == REQUEST_MAGIC).then_some(())?;
        Some(Self {
            flags: bytes.u16()?,
            command: bytes.u16()?,
            cookie: bytes.u64()?,
            offset: bytes.u64()?,
            len: bytes.u32()?,
        })
    }

    /// Bytes of data that follow it, whether or not it is refused.
    pub fn payload_bytes(&self) -> u32 {
        match self.command {
            command::WRITE => self.len,
            _ => 0,
        }
    }

    /// Whether its reply is a structured one, where these were negotiated.
    pub fn is_read(&self) -> bool {
        self.command == command::READ
    }

    /// What it asks of this export.
    ///
    /// # Errors
    /// What the client is to be told instead.
    pub fn judge(&self, export: &Export, structured: bool) -> Result<Action, Errno> {
        self.check_flags(export, structured)?;
        let fua = self.flags & flag::FUA != 0;
        match self.command {
            command::READ => Ok(Action::Read {
                extent: self.transfer(export, Errno::Invalid)?,
            }),
            command::DISCONNECT => Ok(Action::Disconnect),
            command::FLUSH if export.flush => Ok(Action::Flush),
            command::FLUSH => Err(Errno::Invalid),
            // The flags checked above belong to these three, and they all change data.
            _ if export.read_only => Err(Errno::NotPermitted),
            command::WRITE => Ok(Action::Write {
                extent: self.transfer(export, Errno::NoSpace)?,
                fua,
            }),
            command::TRIM if export.trim => Ok(Action::Trim {
                extent: self.inner_extent(export)?,
                fua,
            }),
            command::WRITE_ZEROES => {
                let extent = self.extent(export, Errno::NoSpace)?;
                let trim = export.zeroes_fast() && self.flags & flag::NO_HOLE == 0;
                let fast = self.flags & flag::FAST_ZERO != 0;
                let by = match (trim, fast) {
                    (true, false) => Zeroing::Trim,
                    (true, true) => Zeroing::TrimOnly,
                    (false, false) => Zeroing::Write,
                    (false, true) => return Err(Errno::NotSupported),
                };
                Ok(Action::Zero { extent, by, fua })
            }
            _ => Err(Errno::Invalid),
        }
    }

    fn check_flags(&self, export: &Export, structured: bool) -> Result<(), Errno> {
        let mut known = match self.command {
            command::READ if structured => flag::DF,
            command::READ | command::WRITE | command::FLUSH | command::TRIM => 0,
            command::WRITE_ZEROES if export.zeroes_fast() => flag::NO_HOLE | flag::FAST_ZERO,
            command::WRITE_ZEROES => flag::NO_HOLE,
            // A client that leaves is not told anything.
            command::DISCONNECT => return Ok(()),
            _ => return Err(Errno::Invalid),
        };
        if export.flush {
            known |= flag::FUA;
        }
        if self.flags & !known == 0 {
            Ok(())
        } else {
            Err(Errno::Invalid)
        }
    }

    /// The extent of a read or write, not too long for a buffer.
    fn transfer(&self, export: &Export, beyond: Errno) -> Result<Extent, Errno> {
        if self.len > MAX_PAYLOAD {
            return Err(Errno::Invalid);
        }
        self.extent(export, beyond)
    }

    fn extent(&self, export: &Export, beyond: Errno) -> Result<Extent, Errno> {
        self.check_range(export, beyond)?;
        let len = u64::from(self.len);
        if !self.offset.is_multiple_of(SECTOR) || !len.is_multiple_of(SECTOR) {
            return Err(Errno::Invalid);
        }
        Ok(Extent {
            lba: self.offset / SECTOR,
            sectors: len / SECTOR,
        })
    }

    /// The whole sectors inside: a trim is only a hint.
    fn inner_extent(&self, export: &Export) -> Result<Extent, Errno> {
        let end = self.check_range(export, Errno::Invalid)?;
        let lba = self.offset.div_ceil(SECTOR);
        let sectors = (end / SECTOR).saturating_sub(lba);
        Ok(Extent { lba, sectors })
    }

    /// Where it ends.
    fn check_range(&self, export: &Export, beyond: Errno) -> Result<u64, Errno> {
        if self.len == 0 {
            // The document leaves it open what this means.
            return Err(Errno::Invalid);
        }
        let end = self.offset.checked_add(self.len.into());
        end.filter(|&end| end <= export.bytes).ok_or(beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn export() -> Export {
        Export {
            name: String::new(),
            bytes: 64 * MIB,
            read_only: false,
            flush: true,
            trim: true,
            trim_zeroes: true,
        }
    }

    fn request(command: u16, flags: u16, offset: u64, len: u32) -> Request {
        Request {
            flags,
            command,
            cookie: 7,
            offset,
            len,
        }
    }

    fn extent(lba: u64, sectors: u64) -> Extent {
        Extent { lba, sectors }
    }

    /// A write of 4 KiB at 1 MiB, with FUA.
    #[test]
    fn the_bytes_of_a_request_are_those_of_the_document() {
        let bytes = [
            0x25, 0x60, 0x95, 0x13, 0x00, 0x01, 0x00, 0x01, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0,
            0x10, 0, 0, 0, 0, 0x10, 0,
        ];
        let decoded = Request::decode(&bytes).unwrap();
        assert_eq!(decoded.cookie, 0x0102_0304_0506_0708);
        assert_eq!(decoded.payload_bytes(), 4096);
        assert!(!decoded.is_read());
        let write = Action::Write {
            extent: extent(2048, 8),
            fua: true,
        };
        assert_eq!(decoded.judge(&export(), false), Ok(write));
        let mut wrong = bytes;
        wrong[3] = 0x14;
        assert_eq!(Request::decode(&wrong), None);
    }

    #[test]
    fn every_command_has_its_action() {
        let extent = extent(2, 4);
        for (command, flags, action) in [
            (0, 0, Action::Read { extent }),
            (0, 1, Action::Read { extent }),
            (0, 4, Action::Read { extent }),
            (1, 0, Action::Write { extent, fua: false }),
            (2, 0xFFFF, Action::Disconnect),
            (3, 0, Action::Flush),
            (3, 1, Action::Flush),
            (4, 1, Action::Trim { extent, fua: true }),
        ] {
            let judged = request(command, flags, 1024, 2048).judge(&export(), true);
            assert_eq!(judged, Ok(action), "command {command}, flags {flags:#x}");
        }
    }

    #[test]
    fn flags_are_refused_where_they_mean_nothing_or_were_not_announced() {
        let judge = |command, flags, export: &Export, structured| {
            request(command, flags, 0, 512).judge(export, structured)
        };
        let full = export();
        // DF of an unstructured read; NO_HOLE, REQ_ONE, FAST_ZERO and an unknown bit elsewhere.
        for (command, flags) in [
            (0, 4),
            (0, 2),
            (0, 8),
            (1, 4),
            (1, 0x10),
            (4, 2),
            (3, 0x8000),
        ] {
            let judged = judge(command, flags, &full, false);
            assert_eq!(judged, Err(Errno::Invalid), "{command}, flags {flags:#x}");
        }
        let no_flush = Export {
            flush: false,
            ..export()
        };
        for command in [0, 1, 4, 6] {
            assert_eq!(judge(command, 1, &no_flush, true), Err(Errno::Invalid));
            assert!(judge(command, 0, &no_flush, true).is_ok());
        }
        assert_eq!(judge(3, 0, &no_flush, true), Err(Errno::Invalid));
        // CACHE, BLOCK_STATUS, RESIZE and what nobody has invented.
        for command in [5, 7, 8, 0xFFFF] {
            assert_eq!(judge(command, 0, &full, true), Err(Errno::Invalid));
        }
        let no_trim = Export {
            trim: false,
            ..export()
        };
        assert_eq!(judge(4, 0, &no_trim, true), Err(Errno::Invalid));
    }

    #[test]
    fn zeros_are_trimmed_only_where_that_makes_zeros_and_holes_are_welcome() {
        let zero = |flags, export: &Export| request(6, flags, 0, 1024).judge(export, false);
        let action = |by, fua| {
            let extent = extent(0, 2);
            Ok(Action::Zero { extent, by, fua })
        };
        let (no_hole, fast) = (2, 0x10);
        let full = export();
        assert_eq!(zero(0, &full), action(Zeroing::Trim, false));
        assert_eq!(zero(1, &full), action(Zeroing::Trim, true));
        assert_eq!(zero(no_hole, &full), action(Zeroing::Write, false));
        assert_eq!(zero(fast, &full), action(Zeroing::TrimOnly, false));
        assert_eq!(zero(fast | no_hole, &full), Err(Errno::NotSupported));
        let unsure = Export {
            trim_zeroes: false,
            ..export()
        };
        assert_eq!(zero(0, &unsure), action(Zeroing::Write, false));
        // It was not announced.
        assert_eq!(zero(fast, &unsure), Err(Errno::Invalid));
    }

    #[test]
    fn a_read_only_export_refuses_what_changes_it_and_nothing_else() {
        let export = Export {
            read_only: true,
            ..export()
        };
        for command in [1, 4, 6] {
            let judged = request(command, 0, 0, 512).judge(&export, false);
            assert_eq!(judged, Err(Errno::NotPermitted));
        }
        assert!(request(0, 0, 0, 512).judge(&export, false).is_ok());
        assert_eq!(request(3, 0, 0, 0).judge(&export, false), Ok(Action::Flush));
    }

    #[test]
    fn what_is_not_whole_sectors_inside_the_export_is_refused() {
        let judge = |command, offset, len| request(command, 0, offset, len).judge(&export(), false);
        let end = 64 * MIB;
        for (command, beyond) in [
            (0, Errno::Invalid),
            (1, Errno::NoSpace),
            (6, Errno::NoSpace),
        ] {
            assert!(judge(command, end - 512, 512).is_ok());
            assert_eq!(judge(command, end - 512, 1024), Err(beyond));
            assert_eq!(judge(command, end, 512), Err(beyond));
            assert_eq!(judge(command, u64::MAX - 511, 512), Err(beyond));
            assert_eq!(judge(command, 0, 0), Err(Errno::Invalid));
            assert_eq!(judge(command, 1, 512), Err(Errno::Invalid));
            assert_eq!(judge(command, 512, 511), Err(Errno::Invalid));
        }
        assert!(judge(0, 0, 32 << 20).is_ok());
        assert_eq!(judge(0, 0, (32 << 20) + 512), Err(Errno::Invalid));
        assert_eq!(judge(1, 0, (32 << 20) + 512), Err(Errno::Invalid));
        // Without data the whole export may be named at once.
        assert!(judge(6, 0, 64 << 20).is_ok() && judge(4, 0, 64 << 20).is_ok());
    }

    #[test]
    fn of_a_trim_the_whole_sectors_inside_remain() {
        let trim = |offset, len| match request(4, 0, offset, len).judge(&export(), false) {
            Ok(Action::Trim { extent, .. }) => Ok((extent.lba, extent.sectors)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        assert_eq!(trim(512, 1024), Ok((1, 2)));
        assert_eq!(trim(1, 1024), Ok((1, 1)));
        assert_eq!(trim(513, 1023), Ok((2, 1)));
        assert_eq!(trim(513, 600), Ok((2, 0)));
        assert_eq!(trim(64 * MIB, 512), Err(Errno::Invalid));
        assert_eq!(trim(u64::MAX, 2), Err(Errno::Invalid));
    }
}
