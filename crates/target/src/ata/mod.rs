//! What a task file asks for, and whether this device does it (§3).
//!
//! Nothing happens here: a task file goes in, a [`Verdict`] or the [`Ending`] of a refused request
//! comes out.

pub(crate) mod identify;

use aoede_wire::{Ata, AtaFlags, ErrorCode, Feature, Opcode, SECTOR_BYTES, trim_ranges};

use crate::request::Ending;
use crate::{Trim, WriteCache};

/// What the disk has to do for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read into the response, from byte 36 on.
    Read {
        /// First sector.
        lba: u64,
        /// Number of sectors, 1 to 255, within the device.
        sectors: u32,
    },
    /// Write the request's data.
    Write {
        /// First sector.
        lba: u64,
        /// Number of sectors, 1 to 255, within the device.
        sectors: u32,
        /// The initiator permits an acknowledgement before the data is stable (the A flag),
        /// whether or not the write cache is on.
        asynchronous: bool,
    },
    /// Make every write stable that was acknowledged until now.
    Flush,
    /// Discard the ranges that the request's data lists
    /// ([`trim_ranges`]); all are within the device. In order with
    /// other requests, like a write.
    Trim {
        /// Number of 512-byte blocks of ranges.
        blocks: u32,
    },
}

/// What a task file is judged by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    pub(crate) sectors: u64,
    /// Most sectors in a frame of the receiving port.
    pub(crate) max_sectors: u8,
    pub(crate) read_only: bool,
    pub(crate) write_cache: WriteCache,
    /// What the backing can discard.
    pub(crate) trim: Trim,
    /// What the asking initiator may do.
    pub(crate) may_read: bool,
    pub(crate) may_write: bool,
}

impl Device {
    /// Most blocks in one TRIM on this port: word 105 (§3.6).
    pub(crate) fn trim_blocks(&self) -> u8 {
        self.max_sectors.min(2)
    }

    /// TRIM as it is offered: whoever cannot write discards nothing.
    pub(crate) fn offered_trim(&self) -> Trim {
        if self.is_writable() {
            self.trim
        } else {
            Trim::Unsupported
        }
    }

    fn is_writable(&self) -> bool {
        self.may_write && !self.read_only
    }

    fn holds(&self, lba: u64, sectors: u64) -> Result<(), Ending> {
        // Both are far below 2^63: 48 and 16 bits at most.
        if lba + sectors <= self.sectors {
            Ok(())
        } else {
            Err(Ending::NOT_FOUND)
        }
    }
}

/// What shall be done for a permitted task file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// Something for the disk, with the data it needs.
    Disk(Action, &'a [u8]),
    /// Nothing: respond.
    Nothing(Ending),
    /// Respond with the identity.
    Identify,
    /// Acknowledge writes early from now on.
    CacheOn,
    /// Stop acknowledging writes early; flush what was.
    CacheOff,
}

/// Judges a task file; the error is how the refused request ends.
pub(crate) fn judge<'a>(ata: &Ata<'a>, device: &Device) -> Result<Verdict<'a>, Ending> {
    match ata.opcode() {
        Opcode::ReadExt => read(ata, ata.lba48(), device),
        Opcode::WriteExt => write(ata, ata.lba48(), device),
        Opcode::Read => read(ata, ata.lba28(), device),
        Opcode::Write => write(ata, ata.lba28(), device),
        Opcode::FlushCache | Opcode::FlushCacheExt => Ok(Verdict::Disk(Action::Flush, &[])),
        Opcode::Identify if ata.count == 1 => Ok(Verdict::Identify),
        Opcode::Identify => Err(BAD_ARGUMENT),
        Opcode::CheckPowerMode => Ok(Verdict::Nothing(Ending::Active)),
        Opcode::DataSetManagement => trim(ata, device),
        // The write cache is everybody's.
        Opcode::SetFeatures if !device.may_write => Err(Ending::ABORTED),
        Opcode::SetFeatures => match (ata.feature_or_error, device.write_cache) {
            (Feature::WRITE_CACHE_ON, WriteCache::Back) => Ok(Verdict::CacheOn),
            (Feature::WRITE_CACHE_OFF, WriteCache::Back) => Ok(Verdict::CacheOff),
            (Feature::WRITE_CACHE_OFF, WriteCache::Through) => Ok(Verdict::Nothing(Ending::Done)),
            _ => Err(Ending::ABORTED),
        },
        Opcode::Smart | Opcode::Unknown(_) => Err(Ending::ABORTED),
    }
}

/// Whether the command may be sent to a wildcard address: one broadcast must not write to every
/// disk of the segment (D1).
pub(crate) fn allowed_to_wildcard(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::Identify | Opcode::CheckPowerMode)
}

const BAD_ARGUMENT: Ending = Ending::Refused(ErrorCode::BadArgument);

fn read<'a>(ata: &Ata<'a>, lba: u64, device: &Device) -> Result<Verdict<'a>, Ending> {
    if !device.may_read {
        return Err(Ending::ABORTED);
    }
    if ata.count > device.max_sectors {
        return Err(BAD_ARGUMENT);
    }
    device.holds(lba, u64::from(ata.count))?;
    if ata.count == 0 {
        return Ok(Verdict::Nothing(Ending::Done));
    }
    let sectors = u32::from(ata.count);
    Ok(Verdict::Disk(Action::Read { lba, sectors }, &[]))
}

fn write<'a>(ata: &Ata<'a>, lba: u64, device: &Device) -> Result<Verdict<'a>, Ending> {
    // First of all: a device that cannot write does not know the command, whatever it asks for.
    if !device.is_writable() {
        return Err(Ending::ABORTED);
    }
    // Both bounds: what a frame may hold here, and what this one does hold (§13, 24).
    if ata.count > device.max_sectors {
        return Err(BAD_ARGUMENT);
    }
    let data = data(ata)?;
    device.holds(lba, u64::from(ata.count))?;
    if ata.count == 0 {
        return Ok(Verdict::Nothing(Ending::Done));
    }
    let action = Action::Write {
        lba,
        sectors: u32::from(ata.count),
        asynchronous: ata.flags.contains(AtaFlags::ASYNCHRONOUS),
    };
    Ok(Verdict::Disk(action, data))
}

fn trim<'a>(ata: &Ata<'a>, device: &Device) -> Result<Verdict<'a>, Ending> {
    let counted = (1..=device.trim_blocks()).contains(&ata.count);
    if device.offered_trim() == Trim::Unsupported
        || ata.feature_or_error != Feature::TRIM
        || !counted
    {
        return Err(Ending::ABORTED);
    }
    let data = data(ata)?;
    // All ranges before any is touched.
    for range in trim_ranges(data) {
        device.holds(range.lba, u64::from(range.sectors))?;
    }
    let blocks = u32::from(ata.count);
    Ok(Verdict::Disk(Action::Trim { blocks }, data))
}

/// The data that the count announces; what follows it is padding.
fn data<'a>(ata: &Ata<'a>) -> Result<&'a [u8], Ending> {
    let len = usize::from(ata.count) * SECTOR_BYTES;
    ata.data.get(..len).ok_or(BAD_ARGUMENT)
}
