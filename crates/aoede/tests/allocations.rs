//! A frame costs no allocation on its whole way: from the port through target, volume and engine
//! and back out.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io;

use aoede_link::{Interface, Outgoing, Port, PortStats};
use aoede_wire::{Address, Ata, Body, Config, Frame, Header, MacAddr, Opcode};
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

/// Gives the same frames again and again, and counts what is sent.
struct Treadmill {
    interface: Interface,
    frames: Vec<Vec<u8>>,
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
        self.frames.get(self.next).map(Vec::as_slice)
    }
    fn release(&mut self) {}
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
    let rounds = 250;
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
    };
    let (mut worker, _folder) = common::worker(vec![port]);
    // Once around for whatever is made on first use.
    while worker.turn(common::NOW).unwrap() {}

    let answers = 6;
    let port = worker.port_mut(0).unwrap();
    let before = (port.sent, ALLOCATIONS.get());
    assert_eq!(before.0, 2 * answers);
    port.left = rounds * port.frames.len();
    while worker.turn(common::NOW).unwrap() {}

    let allocations = ALLOCATIONS.get() - before.1;
    let port = worker.port(0).unwrap();
    assert_eq!(port.sent - before.0, rounds * answers);
    assert_eq!(
        allocations,
        0,
        "in {rounds} rounds of {} frames",
        port.frames.len()
    );
}
