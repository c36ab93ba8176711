//! Two kinds of error: why a request is not taken, and how one ended that was.

use aoede_wire::{ErrorCode, Status, ata_error};

/// How a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The device says so in its registers (§3.3).
    #[error("{registers}")]
    Device {
        /// What it says.
        registers: Registers,
    },
    /// Another initiator holds the target (§6).
    #[error("the target is reserved by another initiator")]
    Reserved,
    /// The config string is set already, to this (§4.2).
    #[error("the config string is already set to \"{}\"", .string.escape_ascii())]
    ConfigPresent {
        /// The string that is there.
        string: Vec<u8>,
    },
    /// The target does not know the command.
    #[error("the target does not know this command")]
    UnknownCommand,
    /// The target takes the request for malformed: a mistake of this side, or a value that it
    /// cannot take.
    #[error("the target refuses an argument of the request")]
    BadArgument,
    /// Another AoE error.
    #[error("the target answers: {code}")]
    Aoe {
        /// Its code.
        code: ErrorCode,
    },
    /// The target does not speak version 1 of the protocol.
    #[error("the target speaks another version of ATA over Ethernet")]
    Version,
    /// Nobody answered until it was time to give up.
    #[error("the target has been silent for too long")]
    Silent,
    /// A flush only: the target began with an empty write cache since, so that writes which it had
    /// acknowledged, and no flush had covered, may be gone (§15, 7). Each loss is told once.
    #[error(
        "the target was restarted, and may have lost writes that were acknowledged and not flushed"
    )]
    CacheLost,
    /// Nobody answered a test of the config string: it differs, or there is no target (§4.2).
    #[error("no target has this config string")]
    NoMatch,
    /// The session was closed.
    #[error("the session is closed")]
    Closed,
}

/// The registers of a failed command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Registers {
    /// Status register.
    pub status: Status,
    /// Error register: bits of [`ata_error`].
    pub error: u8,
    /// Sectors of the frame that were not done.
    pub not_done: u8,
    /// First sector of the frame that failed; 0 for commands without sectors.
    pub lba: u64,
}

impl core::fmt::Display for Registers {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let what = if self.error & ata_error::IDNF != 0 {
            "the disk has no such sector"
        } else if self.error & ata_error::UNC != 0 {
            "a sector cannot be read"
        } else if self.status.0 & Status::DF != 0 {
            "the device is at fault"
        } else if self.error & ata_error::ABRT != 0 {
            "the device refuses the command"
        } else {
            "the command failed"
        };
        let Self {
            status, error, lba, ..
        } = self;
        write!(
            f,
            "{what} (sector {lba}, status {:02x}, error {error:02x})",
            status.0
        )
    }
}

/// Why a session does not take a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// As many requests as the settings allow are unfinished; one of them must end first.
    #[error("too many requests are under way")]
    Full,
    /// The disk is not known yet: wait for [`Notice::Attached`](crate::Notice::Attached).
    #[error("the session is not attached")]
    NotAttached,
    /// The buffer is no whole number of sectors.
    #[error("the buffer is no whole number of 512-byte sectors")]
    NotSectors,
    /// It reaches beyond the end of the disk.
    #[error("the request reaches beyond the end of the disk")]
    Beyond,
    /// The disk does not have the command.
    #[error("the disk does not support this command")]
    Unsupported,
    /// A config string over 1024 bytes, or a list that no frame at an MTU of 1500 holds.
    #[error("the argument is too long for a frame")]
    TooLong,
    /// The target speaks another version of the protocol.
    #[error("the target speaks another version of ATA over Ethernet")]
    Version,
}

/// A request that was not taken, given back.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct Refused<T> {
    /// The request as it was.
    pub request: T,
    /// Why.
    pub why: Refusal,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_tell_what_failed() {
        for (status, error, text) in [
            (
                0x41,
                0x10,
                "the disk has no such sector (sector 7, status 41, error 10)",
            ),
            (
                0x41,
                0x40,
                "a sector cannot be read (sector 7, status 41, error 40)",
            ),
            (
                0x61,
                0x04,
                "the device is at fault (sector 7, status 61, error 04)",
            ),
            (
                0x41,
                0x04,
                "the device refuses the command (sector 7, status 41, error 04)",
            ),
            (
                0x81,
                0x00,
                "the command failed (sector 7, status 81, error 00)",
            ),
        ] {
            let registers = Registers {
                status: Status(status),
                error,
                not_done: 1,
                lba: 7,
            };
            assert_eq!(Error::Device { registers }.to_string(), text);
        }
    }
}
