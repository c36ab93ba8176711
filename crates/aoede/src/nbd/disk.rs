//! The disk behind a server, and what its failures mean to a client.

use std::sync::mpsc::Sender;

use aoede_initiator::{ClientError, Completion, Disk, Error, Refusal, Registers, Request};
use aoede_wire::{Status, ata_error};

use super::protocol::Errno;

/// Of our target (protocol.md §3.6). vblade aborts what it failed to write, too.
const OUR_MODEL: &str = "AoEde";

/// A disk that can be asked without waiting. In tests it is another one than [`Disk`].
pub trait Backing: Sync {
    /// What it is now.
    ///
    /// # Errors
    /// It is gone for good.
    fn facts(&self) -> Result<Facts, ClientError>;

    /// How often writes that it had acknowledged may have been lost before a flush, as far as that
    /// is known: each time some flush failed for it, but perhaps another client's.
    ///
    /// # Errors
    /// It is gone for good.
    fn losses(&self) -> Result<u64, ClientError>;

    /// Begins a request, whose end is sent to `done` with `token`, whatever comes of it.
    fn begin(&self, token: u64, request: Request<Vec<u8>>, done: &Sender<Completion>);
}

/// What a disk is and can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is an ability of its own"
)]
pub struct Facts {
    /// Size in sectors.
    pub sectors: u64,
    /// It knows FLUSH CACHE, and does it.
    pub flush: bool,
    /// It knows TRIM.
    pub trim: bool,
    /// What was trimmed reads as zeros.
    pub trim_zeroes: bool,
    /// It aborts a change because it does not want to, and says so when it fails.
    pub abort_refuses: bool,
}

impl Backing for Disk {
    fn facts(&self) -> Result<Facts, ClientError> {
        let identity = self.identity()?;
        Ok(Facts {
            sectors: identity.sectors,
            flush: identity.can_flush(),
            trim: identity.trim_blocks > 0,
            trim_zeroes: identity.trim_zeroes,
            abort_refuses: identity.model == OUR_MODEL,
        })
    }

    fn losses(&self) -> Result<u64, ClientError> {
        Ok(self.stats()?.caches_lost)
    }

    fn begin(&self, token: u64, request: Request<Vec<u8>>, done: &Sender<Completion>) {
        Self::begin(self, token, request, done);
    }
}

/// What a client is told of a failure. `changes`: the request would have changed data.
/// `abort_refuses`: as in [`Facts`].
pub(crate) fn errno(error: &ClientError, changes: bool, abort_refuses: bool) -> Errno {
    // Clients keep to the size that they were told: the disk has shrunk since.
    let beyond = if changes { Errno::NoSpace } else { Errno::Io };
    match error {
        ClientError::Failed(Error::Device { registers }) if is(registers, ata_error::IDNF) => {
            beyond
        }
        ClientError::Failed(Error::Device { registers })
            if changes && abort_refuses && is(registers, ata_error::ABRT) =>
        {
            // A healthy device that does not want to: a read-only export (protocol.md §3.3).
            Errno::NotPermitted
        }
        ClientError::Failed(Error::Reserved) => Errno::NotPermitted,
        ClientError::Refused(Refusal::Beyond) => beyond,
        ClientError::Refused(Refusal::Unsupported) => Errno::NotSupported,
        ClientError::Failed(Error::Closed) | ClientError::Stopped => Errno::Shutdown,
        _ => Errno::Io,
    }
}

/// Whether this, and no fault of the device, is the error.
fn is(registers: &Registers, error: u8) -> bool {
    registers.error & error != 0 && registers.status.0 & Status::DF == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use Errno::{Io, NoSpace, NotPermitted, NotSupported, Shutdown};

    #[test]
    fn errors_are_told_as_the_client_knows_them() {
        let device = |status, error| {
            let registers = Registers {
                status: Status(status),
                error,
                not_done: 1,
                lba: 0,
            };
            ClientError::Failed(Error::Device { registers })
        };
        for (error, of_read, of_write) in [
            // protocol.md §3.3: read-only, beyond the end, unreadable, device fault.
            (device(0x41, 0x04), Io, NotPermitted),
            (device(0x41, 0x10), Io, NoSpace),
            (device(0x41, 0x40), Io, Io),
            (device(0x61, 0x04), Io, Io),
            (Error::Reserved.into(), NotPermitted, NotPermitted),
            (Error::Silent.into(), Io, Io),
            (Error::CacheLost.into(), Io, Io),
            (Error::Closed.into(), Shutdown, Shutdown),
            (ClientError::Stopped, Shutdown, Shutdown),
            (Refusal::Beyond.into(), Io, NoSpace),
            (Refusal::Unsupported.into(), NotSupported, NotSupported),
            (Refusal::NotAttached.into(), Io, Io),
        ] {
            assert_eq!(errno(&error, false, true), of_read, "{error}");
            assert_eq!(errno(&error, true, true), of_write, "{error}");
        }
        // Another target's: nobody knows why.
        assert_eq!(errno(&device(0x41, 0x04), true, false), Io);
        assert_eq!(errno(&device(0x41, 0x10), true, false), NoSpace);
        assert_eq!(errno(&Error::Reserved.into(), true, false), NotPermitted);
    }
}
