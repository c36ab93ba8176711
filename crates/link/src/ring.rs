//! The receive ring: memory the kernel puts frames into, `PACKET_RX_RING` with `TPACKET_V2`.
//!
//! Version 3 was measured and not taken: a lone frame waits for its block's timer, of a
//! millisecond at least. Slots are just as large as the MTU needs, so that many cost little
//! memory. Only frames that are ours (see `cursor.rs`) become slices, and only after the lengths
//! the kernel wrote beside them were checked.
//!
//! A slot, see `linux/if_packet.h`:
//!
//! | offset | what |
//! |---|---|
//! | 0 | `tpacket2_hdr`, with the status word first |
//! | 32 | `sockaddr_ll` |
//! | 66 (`tp_mac`) | the frame, placed so that what follows its 14-byte header is aligned to 16 |

use crate::cursor::{Cursor, StatusWords};
use crate::{PortStats, RingUse, socket};
use libc::{sockaddr_ll, tpacket2_hdr};
use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::mem::{offset_of, size_of};
use std::ptr::{self, NonNull};
use std::sync::atomic::AtomicU32;

const ETHERNET_HEADER: usize = 14;
/// Where the kernel puts what follows the Ethernet header: `tpacket_rcv` aligns the headers above
/// and at least 16 bytes of link header to 16.
const PAYLOAD_OFFSET: usize =
    (libc::TPACKET2_HDRLEN + 16).next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Where the frame starts.
const FRAME_OFFSET: usize = PAYLOAD_OFFSET - ETHERNET_HEADER;
/// Where the kernel puts the `sockaddr_ll`.
const ADDRESS_OFFSET: usize = size_of::<tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT);
/// Room for a VLAN tag or a frame check sequence, should a driver leave it.
const TRAILER: usize = 4;
/// The kernel allocates in blocks of neighbouring pages; small ones are easier to find.
const BLOCK_BYTES: usize = 64 * 1024;
/// More than one slot in a block, or most of it may be waste.
const MIN_SLOTS_IN_BLOCK: usize = 4;

/// How the ring is divided. A block holds whole slots; what is left at its end is unused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    slot_bytes: usize,
    slots_in_block: usize,
    block_bytes: usize,
    blocks: usize,
}

impl Geometry {
    /// At least `slots` slots for frames of `mtu` bytes and their header. `None` when that is more
    /// than the kernel's 32-bit sizes can tell.
    pub(crate) fn new(mtu: u32, slots: u32, page_bytes: usize) -> Option<Self> {
        let slot_bytes = usize::try_from(mtu)
            .ok()?
            .checked_add(PAYLOAD_OFFSET + TRAILER)?
            .checked_next_multiple_of(libc::TPACKET_ALIGNMENT)?;
        let block_bytes = slot_bytes
            .checked_mul(MIN_SLOTS_IN_BLOCK)?
            .max(BLOCK_BYTES)
            .max(page_bytes)
            .checked_next_power_of_two()?;
        let slots_in_block = block_bytes / slot_bytes;
        let blocks = usize::try_from(slots.max(1)).ok()?.div_ceil(slots_in_block);
        let bytes = block_bytes.checked_mul(blocks)?;
        i32::try_from(bytes).ok()?;
        Some(Self {
            slot_bytes,
            slots_in_block,
            block_bytes,
            blocks,
        })
    }

    /// Bytes of the largest frame a slot takes.
    pub(crate) fn max_frame(&self) -> usize {
        self.slot_bytes - FRAME_OFFSET
    }

    fn bytes(&self) -> usize {
        self.block_bytes * self.blocks
    }

    fn slots(&self) -> usize {
        self.slots_in_block * self.blocks
    }

    /// Where a slot starts; within `bytes` for every slot below `slots`.
    fn offset(&self, slot: usize) -> usize {
        slot / self.slots_in_block * self.block_bytes + slot % self.slots_in_block * self.slot_bytes
    }

    fn request(&self) -> Option<libc::tpacket_req> {
        Some(libc::tpacket_req {
            tp_block_size: u32::try_from(self.block_bytes).ok()?,
            tp_block_nr: u32::try_from(self.blocks).ok()?,
            tp_frame_size: u32::try_from(self.slot_bytes).ok()?,
            tp_frame_nr: u32::try_from(self.slots()).ok()?,
        })
    }
}

/// The ring of one socket, and our place in it.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Memory,
    cursor: Cursor,
}

impl Ring {
    /// Makes the ring of a packet socket, which must not be bound yet.
    pub(crate) fn new(socket: BorrowedFd<'_>, geometry: Geometry) -> io::Result<Self> {
        let request = geometry
            .request()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        socket::set_option(socket, libc::PACKET_VERSION, &version)?;
        socket::set_option(socket, libc::PACKET_RX_RING, &request)?;
        Ok(Self {
            memory: Memory::map(socket, geometry)?,
            cursor: Cursor::default(),
        })
    }

    pub(crate) fn max_frame(&self) -> usize {
        self.memory.geometry.max_frame()
    }

    /// Gives the held slot back and finds the next good frame, counting what is skipped.
    pub(crate) fn receive(&mut self, stats: &mut PortStats) -> Option<&[u8]> {
        // Bounded: frames to be skipped may come in as fast as they are skipped.
        for _ in 0..self.memory.slots() {
            let slot = self.cursor.take(&self.memory)?;
            match self.memory.inspect(slot) {
                Content::Frame { offset, len } => {
                    stats.received += 1;
                    return Some(self.memory.frame(offset, len));
                }
                Content::Foreign => stats.foreign_ignored += 1,
                Content::Outgoing => stats.outgoing_ignored += 1,
                Content::Truncated => stats.truncated += 1,
                Content::Malformed => stats.malformed += 1,
            }
        }
        self.release();
        None
    }

    pub(crate) fn release(&mut self) {
        self.cursor.give_back(&self.memory);
    }

    pub(crate) fn ring_use(&self) -> RingUse {
        self.cursor.ring_use(&self.memory)
    }
}

/// What is in a slot.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// A frame, at this place of the ring's memory.
    Frame {
        offset: usize,
        len: usize,
    },
    /// Meant for another station, or for a VLAN. The tag of a VLAN is gone when a socket of one
    /// EtherType gets the frame; its mark, even on a broadcast, is `PACKET_OTHERHOST`.
    Foreign,
    Outgoing,
    Truncated,
    Malformed,
}

impl Content {
    /// Judges a slot by its headers. A frame lies within the slot, behind the headers.
    fn judge(
        geometry: &Geometry,
        slot_offset: usize,
        header: &tpacket2_hdr,
        packet_type: u8,
    ) -> Self {
        match packet_type {
            libc::PACKET_OTHERHOST => return Self::Foreign,
            libc::PACKET_OUTGOING => return Self::Outgoing,
            _ => {}
        }
        if header.tp_snaplen < header.tp_len {
            return Self::Truncated;
        }
        let start = usize::from(header.tp_mac);
        match usize::try_from(header.tp_snaplen) {
            Ok(len)
                if start >= ADDRESS_OFFSET + size_of::<sockaddr_ll>()
                    && start <= geometry.slot_bytes
                    && len <= geometry.slot_bytes - start =>
            {
                Self::Frame {
                    offset: slot_offset + start,
                    len,
                }
            }
            _ => Self::Malformed,
        }
    }
}

/// The mapping that is shared with the kernel.
#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    geometry: Geometry,
}

// SAFETY: the mapping belongs to the process, not to a thread, and `Memory` is its only owner.
unsafe impl Send for Memory {}

impl Memory {
    fn map(socket: BorrowedFd<'_>, geometry: Geometry) -> io::Result<Self> {
        // SAFETY: a new mapping at a place the kernel chooses; it touches no memory in use. The
        // kernel refuses any length but the ring's own.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                geometry.bytes(),
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                socket,
                0,
            )
        }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, geometry })
    }

    fn inspect(&self, slot: u32) -> Content {
        let offset = self.geometry.offset(slot as usize);
        let header = self.at(offset).cast::<tpacket2_hdr>();
        // SAFETY: the slot is ours, so the kernel does not write to it; it is aligned to 16 and
        // larger than its headers (`Geometry`).
        let header = unsafe { header.read() };
        let packet_type = self.at(offset + ADDRESS_OFFSET + offset_of!(sockaddr_ll, sll_pkttype));
        // SAFETY: as above; one byte of the second header.
        let packet_type = unsafe { packet_type.read() };
        Content::judge(&self.geometry, offset, &header, packet_type)
    }

    /// The bytes of a frame that `inspect` found in the slot that is ours. The slice borrows the
    /// ring, so the slot cannot be given back while it lives.
    fn frame(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset <= self.geometry.bytes() && len <= self.geometry.bytes() - offset);
        // SAFETY: within the mapping, as asserted; written by the kernel before it handed the slot
        // over, and not again before `Ring::release` or `Ring::receive`, which need `&mut Ring`.
        unsafe { std::slice::from_raw_parts(self.at(offset).as_ptr(), len) }
    }

    fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.geometry.bytes());
        // SAFETY: within the mapping, as asserted, which is shorter than `isize::MAX`.
        unsafe { self.start.add(offset) }
    }
}

impl StatusWords for Memory {
    fn slots(&self) -> u32 {
        u32::try_from(self.geometry.slots()).unwrap_or(u32::MAX)
    }

    fn status(&self, slot: u32) -> &AtomicU32 {
        let slot = self.at(self.geometry.offset(slot as usize));
        let word = slot.cast::<tpacket2_hdr>().cast::<u32>();
        // SAFETY: the status word is the first field of a slot, aligned to 16, in memory that is
        // mapped as long as `self`; both sides use it as one atomic word.
        unsafe { AtomicU32::from_ptr(word.as_ptr()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: start and length are those of the mapping made in `map`, and every slice of it
        // borrowed `self`.
        let _unmapped_or_leaked =
            unsafe { munmap(self.start.as_ptr().cast(), self.geometry.bytes()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 4096;

    fn header(len: u32, mac: u16) -> tpacket2_hdr {
        tpacket2_hdr {
            tp_status: libc::TP_STATUS_USER,
            tp_len: len,
            tp_snaplen: len,
            tp_mac: mac,
            tp_net: mac + 14,
            tp_sec: 0,
            tp_nsec: 0,
            tp_vlan_tci: 0,
            tp_vlan_tpid: 0,
            tp_padding: [0; 4],
        }
    }

    fn judge(header: &tpacket2_hdr) -> Content {
        let geometry = Geometry::new(1500, 16, PAGE).unwrap();
        Content::judge(&geometry, 0, header, libc::PACKET_HOST)
    }

    #[test]
    fn rings_are_small_and_what_the_kernel_wants() {
        for (mtu, slots, page) in [
            (1500, 256, PAGE),
            (9000, 256, PAGE),
            (9000, 1, PAGE),
            (68, 4096, PAGE),
            (65535, 64, PAGE),
            (1500, 256, 64 * 1024),
            (9000, 100, 256 * 1024),
        ] {
            let ring = Geometry::new(mtu, slots, page).unwrap();
            assert!(ring.slots() >= slots as usize);
            assert!(ring.max_frame() >= mtu as usize + 14 + 4);
            assert!(ring.max_frame() < mtu as usize + 14 + 4 + 16);
            assert_eq!(ring.slot_bytes % 16, 0);
            assert_eq!(ring.block_bytes % page, 0);
            assert!(ring.slots_in_block > 1);
            let last = ring.offset(ring.slots() - 1);
            assert!(last + ring.slot_bytes <= ring.bytes());
            for slot in 1..ring.slots() {
                assert!(ring.offset(slot) >= ring.offset(slot - 1) + ring.slot_bytes);
            }
        }
        assert!(Geometry::new(9000, 256, PAGE).unwrap().bytes() < 3 << 20);
        assert!(Geometry::new(1500, 256, PAGE).unwrap().bytes() < 1 << 19);
    }

    #[test]
    fn rings_too_large_are_refused() {
        assert_eq!(Geometry::new(u32::MAX, 256, PAGE), None);
        assert_eq!(Geometry::new(9000, u32::MAX, PAGE), None);
    }

    #[test]
    fn frames_are_where_the_kernel_puts_them() {
        // Offsets as `tpacket_rcv` computes them on every architecture.
        assert_eq!((FRAME_OFFSET, ADDRESS_OFFSET), (66, 32));
        let whole = Content::Frame {
            offset: 66,
            len: 60,
        };
        assert_eq!(judge(&header(60, 66)), whole);
    }

    #[test]
    fn impossible_lengths_are_no_frames() {
        let slot = Geometry::new(1500, 16, PAGE).unwrap().slot_bytes;
        let slot = u16::try_from(slot).unwrap();
        for (len, mac) in [
            (60, 0),
            (60, 51),
            (60, slot - 59),
            (60, slot + 1),
            (60, u16::MAX - 14),
            (u32::from(slot), 66),
            (u32::MAX, 66),
        ] {
            let content = judge(&header(len, mac));
            assert_eq!(content, Content::Malformed, "{len} {mac}");
        }
        let tight = judge(&header(60, slot - 60));
        assert!(matches!(tight, Content::Frame { .. }));
    }

    #[test]
    fn cut_frames_are_skipped() {
        let mut cut = header(2000, 66);
        cut.tp_snaplen = 1518;
        assert_eq!(judge(&cut), Content::Truncated);
    }

    #[test]
    fn frames_of_others_and_our_own_are_skipped() {
        let geometry = Geometry::new(1500, 16, PAGE).unwrap();
        let judge = |packet_type| Content::judge(&geometry, 0, &header(60, 66), packet_type);
        assert_eq!(judge(libc::PACKET_OTHERHOST), Content::Foreign);
        assert_eq!(judge(libc::PACKET_OUTGOING), Content::Outgoing);
        for ours in [
            libc::PACKET_HOST,
            libc::PACKET_BROADCAST,
            libc::PACKET_MULTICAST,
        ] {
            assert!(matches!(judge(ours), Content::Frame { .. }));
        }
    }
}
