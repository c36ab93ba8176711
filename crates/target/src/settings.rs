//! What an export is: the part of its configuration that shows on the wire, checked once.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use aoede_wire::{Address, MacAddr};

use crate::{Access, ExtensionSet};

/// Least buffer count: the Linux driver opens with half of it and sends nothing if that is 0 (§4.3).
pub const MIN_BUFFER_COUNT: u16 = 2;
/// Most sectors of an export: all that IDENTIFY can tell (words 100–102). What lies beyond is not
/// offered.
pub const MAX_SECTORS: u64 = (1 << 48) - 1;

/// When a write is acknowledged (§3.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum WriteCache {
    /// When its data is on stable storage.
    #[default]
    Through,
    /// When the target holds it; a flush makes it stable.
    Back,
}

/// Which Query/Config commands end negotiated extensions (§7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum ExtensionReset {
    /// A successful set or force set, by whomever, ends those of every initiator of the export.
    #[default]
    SetOnly,
    /// As well, any Query/Config command ends those of its sender. So did the first version of the
    /// 2014 program.
    AnyConfig,
}

/// Whether the backing can discard sectors (§3.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Trim {
    /// It cannot.
    #[default]
    Unsupported,
    /// It can; what they read as afterwards is uncertain.
    Supported,
    /// It can, and they surely read as zeros.
    ReadsZeros,
}

/// One export as its operator configured it and its backing file turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetSettings {
    /// Shelf and slot; no wildcards.
    pub address: Address,
    /// Size in sectors; [`MAX_SECTORS`] at most are offered.
    pub sectors: u64,
    /// Refuse everything that changes data.
    pub read_only: bool,
    /// Most requests the worker can hold, at least [`MIN_BUFFER_COUNT`].
    pub buffer_count: u16,
    /// Model, up to 40 printable ASCII characters.
    pub model: String,
    /// Serial number, up to 20 printable ASCII characters, the same on every interface.
    pub serial: String,
    /// Version of the software, up to 8 printable ASCII characters.
    pub firmware_revision: String,
    /// Binary logarithm of sectors per physical sector: 0 for 512 bytes, 3 for 4096; at most 15.
    pub physical_sector_exponent: u8,
    /// Sectors between the start of a physical sector and sector 0, which lies in it; below 2^14.
    pub physical_sector_offset: u16,
    /// Not a spinning disk.
    pub non_rotating: bool,
    /// What the backing makes of discarded sectors.
    pub trim: Trim,
    /// Whether writes may be acknowledged before they are stable.
    pub write_cache: WriteCache,
    /// Another number each time that the cache begins empty, so that initiators notice when what it
    /// held is gone (§3.6, words 129 to 134). Told with [`WriteCache::Back`] only; 0 for none.
    pub cache_number: u64,
    /// Who may talk to the export, up to 255 unicast addresses; empty for everyone. Initiators can
    /// change it (§5); as long as none has, it is [`Access::mask`].
    pub mask: Vec<MacAddr>,
    /// What they may do.
    pub access: Access,
    /// What they may negotiate.
    pub extensions: ExtensionSet,
    /// The config string, up to 1024 bytes.
    pub config_string: Vec<u8>,
    /// What ends negotiated extensions.
    pub extension_reset: ExtensionReset,
}

impl TargetSettings {
    /// A writable write-through disk of this size with nothing special about it.
    pub fn new(address: Address, sectors: u64) -> Self {
        Self {
            address,
            sectors,
            read_only: false,
            buffer_count: 64,
            model: String::from("AoEde"),
            serial: String::new(),
            firmware_revision: String::from(env!("CARGO_PKG_VERSION")),
            physical_sector_exponent: 0,
            physical_sector_offset: 0,
            non_rotating: false,
            trim: Trim::Unsupported,
            write_cache: WriteCache::Through,
            cache_number: 0,
            mask: Vec::new(),
            access: Access::default(),
            extensions: ExtensionSet::ALL,
            config_string: Vec::new(),
            extension_reset: ExtensionReset::SetOnly,
        }
    }

    pub(crate) fn check(&self) -> Result<(), SettingsError> {
        let printable = |text: &str, most| {
            text.len() <= most && text.bytes().all(|c| c == b' ' || c.is_ascii_graphic())
        };
        if self.address.is_wildcard() {
            return Err(SettingsError::Address);
        }
        if self.buffer_count < MIN_BUFFER_COUNT {
            return Err(SettingsError::BufferCount);
        }
        if !printable(&self.model, 40) {
            return Err(SettingsError::Model);
        }
        if !printable(&self.serial, 20) {
            return Err(SettingsError::Serial);
        }
        if !printable(&self.firmware_revision, 8) {
            return Err(SettingsError::FirmwareRevision);
        }
        if self.physical_sector_exponent > 15 {
            return Err(SettingsError::PhysicalSector);
        }
        let sectors = 1 << self.physical_sector_exponent;
        if self.physical_sector_offset >= sectors || self.physical_sector_offset > 0x3FFF {
            return Err(SettingsError::PhysicalSectorOffset);
        }
        Ok(())
    }
}

/// Why settings make no export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SettingsError {
    /// The address has a wildcard.
    Address,
    /// Fewer than two buffers.
    BufferCount,
    /// The model is too long or not printable ASCII.
    Model,
    /// The serial number is too long or not printable ASCII.
    Serial,
    /// The firmware revision is too long or not printable ASCII.
    FirmwareRevision,
    /// More than 2^15 sectors in a physical one.
    PhysicalSector,
    /// Sector 0 is not in the first physical sector, or too far inside for IDENTIFY to tell.
    PhysicalSectorOffset,
    /// This entry of the mask list is no single station.
    MaskEntry(MacAddr),
    /// More than 255 entries in the mask list.
    MaskFull,
    /// The config string has more than 1024 bytes.
    ConfigString,
}

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "an export needs one shelf and one slot, not a wildcard",
            Self::BufferCount => "the buffer count must be at least 2",
            Self::Model => "the model must be at most 40 printable ASCII characters",
            Self::Serial => "the serial number must be at most 20 printable ASCII characters",
            Self::FirmwareRevision => {
                "the firmware revision must be at most 8 printable ASCII characters"
            }
            Self::PhysicalSector => "a physical sector has at most 2^15 sectors of 512 bytes",
            Self::PhysicalSectorOffset => {
                "sector 0 lies in the first physical sector, less than 2^14 sectors from its start"
            }
            Self::MaskEntry(mac) => {
                return write!(
                    f,
                    "{mac} cannot be in a MAC mask list: it is no single station"
                );
            }
            Self::MaskFull => "a MAC mask list has at most 255 entries",
            Self::ConfigString => "a config string has at most 1024 bytes",
        })
    }
}

impl core::error::Error for SettingsError {}
