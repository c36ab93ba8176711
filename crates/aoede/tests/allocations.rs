//! A frame costs no allocation on its whole way: from the port through target, volume and engine
//! and back out.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;

use aoede_link::{Interface, Outgoing, Port, PortStats, RingUse};
use aoede_wire::{
    Address, Ata, Body, CoalescedRead, CoalescedReads, Config, ExtensionTable, Frame, Header,
    MacAddr, Opcode, Tag,
};
use common::request;

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to `System` as it came; counting allocates nothing, because the
// counter is a plain number that needs neither initialisation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` by way of `alloc`, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const T: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
const I: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);

/// Gives the same frames again and again, each time with a tag of its own if they are to be fresh,
/// and counts what is sent.
struct Treadmill {
    interface: Interface,
    frames: Vec<Vec<u8>>,
    fresh: bool,
    next: usize,
    /// Frames still to be given.
    left: usize,
    sent: usize,
    sent_bytes: usize,
}

impl Port for Treadmill {
    fn interface(&self) -> &Interface {
        &self.interface
    }
    fn set_interface(&mut self, interface: Interface) {
        self.interface = interface;
    }
    fn max_frame(&self) -> usize {
        9014
    }
    fn receive(&mut self) -> Option<&[u8]> {
        self.left = self.left.checked_sub(1)?;
        self.next = (self.next + 1) % self.frames.len();
        let frame = self.frames.get_mut(self.next)?;
        if let (true, Some(tag)) = (self.fresh, frame.get_mut(20..24)) {
            tag.copy_from_slice(&u32::try_from(self.left).unwrap().to_be_bytes());
        }
        Some(frame)
    }
    fn release(&mut self) {}
    fn ring_use(&self) -> RingUse {
        RingUse {
            waiting: self.left,
            free: 0,
        }
    }
    fn send<F: Outgoing>(&mut self, frames: &[F]) -> usize {
        self.sent += frames.len();
        self.sent_bytes += frames
            .iter()
            .map(|frame| frame.head().len() + frame.shared().len())
            .sum::<usize>();
        frames.len()
    }
    fn set_exports(&mut self, _: &[Address]) -> io::Result<()> {
        Ok(())
    }
    fn stats(&mut self) -> PortStats {
        PortStats::default()
    }
}

#[test]
fn no_frame_allocates_on_its_whole_way() {
    let payload = [7; 17 * 512];
    let write = Ata::request(Opcode::WriteExt, 16, 17).with_data(&payload);
    let mut query = vec![0; 60];
    let header = Header::request(I, MacAddr::BROADCAST, Address::ALL);
    Body::Config(Config::default())
        .encode(header, &mut query)
        .unwrap();
    let frames = vec![
        request(I, T, 1, write),
        request(I, T, 2, Ata::request(Opcode::ReadExt, 20, 17)),
        request(I, T, 3, Ata::request(Opcode::ReadExt, u64::MAX >> 16, 1)),
        request(I, T, 4, Ata::request(Opcode::FlushCacheExt, 0, 0)),
        request(I, T, 5, Ata::request(Opcode::Identify, 0, 1)),
        query,
        // Not for us, and not a frame at all.
        request(I, MacAddr([2; 6]), 6, Ata::request(Opcode::ReadExt, 0, 1)),
        vec![0xFF; 23],
    ];
    assert!(
        frames
            .iter()
            .take(6)
            .all(|bytes| Frame::decode(bytes).is_ok())
    );
    let (answers, rounds) = (6, 250);
    let (first, sent, allocations) = run(frames, true, rounds);
    assert_eq!((first, sent), (2 * answers, rounds * answers));
    assert_eq!(allocations, 0, "in {rounds} rounds");
}

/// Once they are agreed on, extensions allocate nothing either.
#[test]
fn no_extension_allocates() {
    let table = b"coalesced_read\0crc32c\0tag_inc_be\0coalesced_write_reply\0\0";
    let table = ExtensionTable::new(table).unwrap();
    let read = CoalescedRead {
        tag: Tag([1; 4]),
        lba: [5, 0, 0, 0, 0, 0],
        reserved: [0; 5],
        count: 3,
    };
    let mut further = [0; 33];
    CoalescedReads::encode(&[read; 2], &mut further).unwrap();
    let reads = Ata::request(Opcode::ReadExt, 20, 16).with_data(&further);
    let payload = [7; 16 * 512];
    let write = |lba| Ata::request(Opcode::WriteExt, lba, 16).with_data(&payload);
    let frames = vec![
        common::frame(I, T, 1, Body::Extension(table)),
        request(I, T, 2, reads),
        request(I, T, 9, write(16)),
        request(I, T, 10, write(100)),
        // A repetition of what is under way or done.
        request(I, T, 9, write(16)),
    ];
    let rounds = 250;
    let (_, sent, allocations) = run(frames, false, rounds);
    // What finds no buffer is left out, and write responses share frames.
    assert!(sent > 3 * rounds, "{sent}");
    assert_eq!(allocations, 0, "in {rounds} rounds");
}

/// Gives the frames twice, for whatever is made on first use, then so often. Responses of both
/// parts, and allocations of the second.
fn run(frames: Vec<Vec<u8>>, fresh: bool, rounds: usize) -> (usize, usize, u64) {
    let port = Treadmill {
        interface: Interface {
            index: 1,
            name: "treadmill".to_owned(),
            mac: T,
            mtu: 9000,
            up: true,
            ethernet: true,
        },
        next: 0,
        left: 2 * frames.len(),
        sent: 0,
        sent_bytes: 0,
        frames,
        fresh,
    };
    let (mut worker, _folder) = common::worker(vec![port]);
    while worker.turn(common::NOW).unwrap() {}

    let port = worker.port_mut(0).unwrap();
    let before = (port.sent, ALLOCATIONS.get());
    port.left = rounds * port.frames.len();
    while worker.turn(common::NOW).unwrap() {}

    let allocations = ALLOCATIONS.get() - before.1;
    let port = worker.port(0).unwrap();
    assert!(port.sent_bytes >= 60 * port.sent);
    (before.0, port.sent - before.0, allocations)
}
