//! Ethernet ports: frames in and out of the kernel, without a copy, an allocation or a system call
//! per received frame.
//!
//! - [`Port`] is what a worker sees of an interface: borrow the next received frame, send a batch.
//! - [`PacketPort`] is the real one: an `AF_PACKET` ring for receiving, `sendmmsg` for sending.
//! - [`sim`] is an in-memory segment with seeded faults, for tests and simulation.
//! - [`Monitor`] tells what interfaces there are and what becomes of them (MTU, MAC, up or down).
//! - [`veth`] makes pairs of virtual interfaces, for demonstrations and tests; [`namespace`] a
//!   private network to put them in.
//!
//! What a frame means is not known here; only the EtherType and, for the kernel's filter, the
//! place of shelf and slot. Nothing here starts a thread or logs: trouble is counted in
//! [`PortStats`].
//!
//! The unsafe code of the crate is in `socket.rs`, `ring.rs` and `send.rs`, and one call in
//! `namespace.rs`. Read next: `port.rs`, then `ring.rs` and `cursor.rs`.

mod cursor;
mod filter;
mod interface;
pub mod namespace;
mod netlink;
mod port;
mod ring;
mod send;
pub mod sim;
mod socket;
mod stats;
pub mod veth;

pub use interface::Interface;
pub use netlink::{Change, Monitor};
pub use port::{OpenError, PacketPort, PortOptions};
pub use send::BATCH;
pub use stats::PortStats;

use aoede_wire::Address;
use std::io;
use std::sync::atomic::AtomicU8;

/// A frame to be sent. Whatever is bytes is one, and has no shared part.
pub trait Outgoing {
    /// The frame from the destination MAC on, as far as it lies in memory of our own.
    fn head(&self) -> &[u8];

    /// The rest of it, in memory that others may change at any time, such as a mapped file. Only
    /// the kernel reads it, once, when the frame is sent.
    fn shared(&self) -> &[AtomicU8];
}

impl<T: AsRef<[u8]>> Outgoing for T {
    fn head(&self) -> &[u8] {
        self.as_ref()
    }

    fn shared(&self) -> &[AtomicU8] {
        &[]
    }
}

/// How full a receive ring is. The frame that is held is neither, and its slot is not free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingUse {
    /// Frames that wait to be received.
    pub waiting: usize,
    /// Frames that can still come.
    pub free: usize,
}

/// One Ethernet interface, opened for AoE frames. The worker is generic over it.
///
/// The order of calls in one pass of a worker: [`receive`](Self::receive) until `None` or until
/// the pass is long enough, [`release`](Self::release), [`send`](Self::send) what came of it, wait.
pub trait Port {
    /// What the port was opened with, or was last told by [`set_interface`](Self::set_interface).
    fn interface(&self) -> &Interface;

    /// Tells the port what has become of its interface. The size of the receive ring does not
    /// follow: when `max_frame` is too small for the new MTU, the port must be opened again.
    fn set_interface(&mut self, interface: Interface);

    /// Bytes of the largest frame that can be received, from the destination MAC on.
    fn max_frame(&self) -> usize;

    /// The next received frame, from the destination MAC on, without the frame check sequence. It
    /// is meant for this station or for a group, and may be shorter than a frame on a real wire.
    ///
    /// The frame received before goes back to the kernel. `None`: nothing is waiting, or too much
    /// that had to be skipped; a poll of the port tells.
    fn receive(&mut self) -> Option<&[u8]>;

    /// Gives the last received frame back. To be called before sleeping: a frame that is still
    /// held keeps the port readable.
    fn release(&mut self);

    /// How full the receive ring is. Not for every frame.
    fn ring_use(&self) -> RingUse;

    /// Sends whole frames in order, with as few system calls as possible, and returns how many are
    /// dealt with: sent, or counted as lost.
    ///
    /// Less than `frames.len()` only when the send buffer is full, or when the shared part of the
    /// next frame cannot be read. Keep the rest, without shared parts, and call again when the port
    /// is writable.
    fn send<F: Outgoing>(&mut self, frames: &[F]) -> usize;

    /// Receives only what is meant for these addresses; requests to wildcards always pass. An
    /// empty list lets every AoE frame pass.
    ///
    /// Frames that already wait are not looked at again, and too many addresses let all frames
    /// pass: this spares the worker frames, it does not take the look at the address from it.
    ///
    /// # Errors
    /// What the kernel said; the filter before stays.
    fn set_exports(&mut self, exports: &[Address]) -> io::Result<()>;

    /// Takes an error that waits on the port, such as `ENETDOWN` after the interface went down;
    /// until it is taken, a poll of the port returns at once.
    fn take_error(&mut self) -> Option<io::Error> {
        None
    }

    /// What has happened since the port was opened. Asks the kernel, so not for every frame.
    fn stats(&mut self) -> PortStats;
}
