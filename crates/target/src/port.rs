//! What the network side of a request limits: how long a frame may be, and so how much it holds.

use core::time::Duration;

use aoede_wire::{
    CRC_BYTES, Checksum, Directive, ETHERNET_BYTES, HEADER_BYTES, MASK_ARGUMENT_BYTES, MacAddr,
    RESERVE_ARGUMENT_BYTES, SECTOR_BYTES, sectors_per_frame,
};

use crate::DATA_OFFSET;
use crate::access::MAX_ENTRIES;

/// What a target must know about the port a frame came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// The port's own address.
    pub mac: MacAddr,
    /// Bytes; at least 1042, so that every config string fits (§1).
    pub mtu: u32,
    /// Most sectors that the worker's buffers take; caps what the MTU allows.
    pub max_sectors: u8,
}

/// How a frame came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The time since some moment that stays the same; never less than before.
    pub now: Duration,
    /// The port it came in by.
    pub port: PortFacts,
    /// The caller's number for that port: comes back with what is held for it
    /// ([`HeldResponse`](crate::HeldResponse)).
    pub seat: usize,
    /// Where it waited until now.
    pub queue: Queue,
}

/// The receive buffer that a frame came from. Looked at for Extensions frames only (§10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queue {
    /// Frames that came from it before this one, ever.
    pub number: u64,
    /// Frames that wait in it behind this one.
    pub waiting: usize,
    /// Frames that it can still take, with this one's place.
    pub free: usize,
}

impl Arrival {
    /// At a port that is the only one, and has room for any number of frames.
    pub fn new(now: Duration, port: PortFacts) -> Self {
        Self {
            now,
            port,
            seat: 0,
            queue: Queue {
                free: usize::MAX,
                ..Queue::default()
            },
        }
    }
}

impl PortFacts {
    /// Most sectors in one frame, as advertised on this port.
    pub fn sectors_per_frame(&self) -> u8 {
        sectors_per_frame(self.mtu, false).min(self.max_sectors)
    }

    /// Most sectors in one frame to an initiator with this checksum behind its data, in a buffer of
    /// `room` bytes: one that just holds the data has no room for the checksum.
    pub(crate) fn sectors_with(&self, checksum: Option<Checksum>, room: usize) -> u8 {
        if checksum.is_none() {
            return self.sectors_per_frame();
        }
        let room = room.saturating_sub(DATA_OFFSET + CRC_BYTES) / SECTOR_BYTES;
        sectors_per_frame(self.mtu, true)
            .min(self.max_sectors)
            .min(u8::try_from(room).unwrap_or(u8::MAX))
    }

    /// Bytes of the longest frame that may be sent.
    pub fn frame_bytes(&self) -> usize {
        usize::try_from(self.mtu)
            .unwrap_or(usize::MAX)
            .saturating_add(ETHERNET_BYTES)
    }

    /// How many entries a mask list may have in a response on this port.
    pub(crate) fn mask_entries(&self) -> usize {
        self.list_entries(MASK_ARGUMENT_BYTES, Directive::BYTES)
    }

    /// How many entries a reservation may have in a response on this port.
    pub(crate) fn reserve_entries(&self) -> usize {
        self.list_entries(RESERVE_ARGUMENT_BYTES, size_of::<MacAddr>())
    }

    /// How many entries of a list fit into a frame behind its fixed part; never more than
    /// the count byte can tell.
    fn list_entries(&self, argument_bytes: usize, entry_bytes: usize) -> usize {
        let room = self
            .frame_bytes()
            .saturating_sub(HEADER_BYTES + argument_bytes);
        (room / entry_bytes).min(MAX_ENTRIES)
    }
}
