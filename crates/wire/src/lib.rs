//! ATA over Ethernet on the wire: every byte of a frame, decoded to borrowed views and encoded
//! into the caller's buffer.
//!
//! No I/O, no allocation, no `unsafe`, and no input that panics. What a frame *means* is not
//! decided here: codes that nobody knows survive as `Unknown`, so that they can be refused, echoed
//! or logged by whoever knows the rules.
//!
//! Start with [`Frame`]; each command has a file of its own with a table of its offsets. Section
//! marks (§) refer to `docs/protocol.md` of this project, "AoEr11" to the specification *ATA over
//! Ethernet*, revision 11.
//!
//! ```
//! use aoede_wire::{Address, Body, Config, Frame, Header, MacAddr};
//!
//! // "Who is there?", as every initiator asks it.
//! let header = Header::request(MacAddr([2, 0, 0, 0, 0, 0x0B]), MacAddr::BROADCAST, Address::ALL);
//! let mut bytes = [0xA5; 60];
//! let len = Body::Config(Config::default()).encode(header, &mut bytes)?;
//!
//! let frame = Frame::decode(&bytes[..len])?;
//! assert!(matches!(frame.body()?, Body::Config(query) if query.string() == Ok(&[])));
//! println!("{frame}");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod ata;
mod checksum;
mod coalesced;
mod coalesced_write;
mod config;
mod crc;
mod crc32c;
mod error;
mod extension;
mod frame;
mod header;
mod mask;
mod put;
mod reserve;

pub use address::{Address, AddressError, ETHERTYPE, MacAddr, MacError};
pub use ata::{
    ATA_ARGUMENT_BYTES, Ata, AtaFlags, Feature, MAX_SECTORS_PER_FRAME, Opcode, SECTOR_BYTES,
    Status, TrimRange, TrimRanges, ata_error, sectors_per_frame, trim_ranges,
};
pub use checksum::{Checksum, Crc32cAppend};
pub use coalesced::{CoalescedRead, CoalescedReads, ENTRY_BYTES, coalesced_entries_per_frame};
pub use coalesced_write::{CoalescedWrite, CoalescedWrites};
pub use config::{CONFIG_ARGUMENT_BYTES, Config, ConfigCommand, MAX_CONFIG_BYTES};
pub use crc::{CRC_BYTES, Crc8x4};
pub use crc32c::crc32c_append;
pub use error::{DecodeError, ErrorCode, NoRoom};
pub use extension::{Entries, Entry, Extension, ExtensionTable, congestion_id};
pub use frame::{Body, Frame};
pub use header::{
    Command, ETHERNET_BYTES, Flags, HEADER_BYTES, Header, MIN_FRAME_BYTES, Tag, VERSION,
};
pub use mask::{
    Directive, DirectiveCode, MASK_ARGUMENT_BYTES, Mask, MaskCommand, MaskError, encode_mask_list,
};
pub use reserve::{RESERVE_ARGUMENT_BYTES, Reserve, ReserveCommand, encode_reserve_list};
