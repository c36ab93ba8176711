//! A port on a real interface: the packet socket with its ring, and the arrays for sending.
//!
//! The socket is made for no protocol, set up, and bound last: so every frame that gets into the
//! ring has the right EtherType, came in by the right interface and has passed the filter.
//!
//! Frames pass the interface's queueing discipline on their way out. `PACKET_QDISC_BYPASS` would
//! spare some time, but then a full transmit queue of the card loses frames that would have waited
//! in the queue, and an operator's traffic control does not apply.
#![forbid(unsafe_code)]

use crate::ring::{Geometry, Ring};
use crate::send::{BATCH, Sender};
use crate::{Interface, Outgoing, Port, PortStats, RingUse, filter, socket};
use aoede_wire::{Address, ETHERTYPE};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::io;

/// What a port is opened with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortOptions {
    /// Received frames that can wait for the worker; what comes when all slots are taken is lost.
    /// 1 to 65536; rounded up to fill whole pages. The default of 256 takes 2.3 MiB at an MTU of
    /// 9000, 0.4 MiB at 1500.
    pub ring_frames: u32,
    /// See [`Port::set_exports`]; empty for every AoE frame.
    pub exports: Vec<Address>,
}

impl Default for PortOptions {
    fn default() -> Self {
        Self {
            ring_frames: 256,
            exports: Vec::new(),
        }
    }
}

/// Why a port could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Its frames have no Ethernet header.
    #[error("{name} is no Ethernet interface")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// Packet sockets are for the privileged.
    #[error(
        "no permission to open a packet socket on {name}: run as root, \
         or give the program the capability with `setcap cap_net_raw+ep`"
    )]
    Permission {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is gone, or in another network namespace.
    #[error("there is no interface {name}")]
    NoSuchInterface {
        /// The interface.
        name: String,
    },
    /// Anything else.
    #[error("cannot {operation} on {name}")]
    Io {
        /// The interface.
        name: String,
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A port on a network interface of this host: `AF_PACKET`, without promiscuous mode.
///
/// The descriptor ([`AsFd`]) is for polling: readable when frames wait, writable when there is room
/// to send, in error when [`Port::take_error`] has something to tell. An interface that is down is
/// opened all the same, and works when it comes up.
///
/// ```no_run
/// use aoede_link::{Monitor, PacketPort, Port, PortOptions};
///
/// let Some(eth0) = Monitor::open()?.interface("eth0")? else {
///     return Ok(());
/// };
/// let mut port = PacketPort::open(&eth0, &PortOptions::default())?;
/// while let Some(frame) = port.receive() {
///     println!("{} bytes", frame.len());
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct PacketPort {
    // Before the socket: its mapping goes first.
    ring: Ring,
    socket: OwnedFd,
    sender: Sender,
    interface: Interface,
    stats: PortStats,
}

impl PacketPort {
    /// Opens a port. The ring is made for the MTU that `interface` tells.
    ///
    /// # Errors
    /// See [`OpenError`]; that the interface is down is none.
    pub fn open(interface: &Interface, options: &PortOptions) -> Result<Self, OpenError> {
        let name = || interface.name.clone();
        let failed = |operation| {
            move |source: io::Error| match Errno::from_io_error(&source) {
                Some(Errno::PERM | Errno::ACCESS) => OpenError::Permission {
                    name: name(),
                    source,
                },
                Some(Errno::NODEV | Errno::NXIO) => OpenError::NoSuchInterface { name: name() },
                _ => OpenError::Io {
                    name: name(),
                    operation,
                    source,
                },
            }
        };
        if !interface.ethernet {
            return Err(OpenError::NotEthernet { name: name() });
        }
        let geometry = ring_geometry(interface, options).map_err(failed("size a receive ring"))?;

        let socket = socket::create().map_err(failed("open a packet socket"))?;
        ignore_outgoing(socket.as_fd()).map_err(failed("ignore outgoing frames"))?;
        socket::attach_filter(socket.as_fd(), filter::program(&options.exports))
            .map_err(failed("attach a socket filter"))?;
        socket::set_send_buffer(socket.as_fd(), send_buffer_bytes(geometry.max_frame()));
        let ring = Ring::new(socket.as_fd(), geometry).map_err(failed("make a receive ring"))?;
        socket::bind(socket.as_fd(), interface.index, ETHERTYPE)
            .map_err(failed("bind a packet socket"))?;

        let mut port = Self {
            ring,
            socket,
            sender: Sender::new(),
            interface: interface.clone(),
            stats: PortStats::default(),
        };
        // That the interface is down, which `interface` tells as well.
        let _known = port.take_error();
        Ok(port)
    }
}

impl Port for PacketPort {
    fn interface(&self) -> &Interface {
        &self.interface
    }

    fn set_interface(&mut self, interface: Interface) {
        self.interface = interface;
    }

    fn max_frame(&self) -> usize {
        self.ring.max_frame()
    }

    fn receive(&mut self) -> Option<&[u8]> {
        self.ring.receive(&mut self.stats)
    }

    fn release(&mut self) {
        self.ring.release();
    }

    fn ring_use(&self) -> RingUse {
        self.ring.ring_use()
    }

    fn send<F: Outgoing>(&mut self, frames: &[F]) -> usize {
        self.sender
            .send(self.socket.as_fd(), frames, &mut self.stats)
    }

    fn set_exports(&mut self, exports: &[Address]) -> io::Result<()> {
        socket::attach_filter(self.socket.as_fd(), filter::program(exports))
    }

    fn take_error(&mut self) -> Option<io::Error> {
        socket::take_error(self.socket.as_fd())
    }

    fn stats(&mut self) -> PortStats {
        // Cannot fail on a packet socket; if it did, the count would only stay as it was.
        if let Ok(drops) = socket::take_drops(self.socket.as_fd()) {
            self.stats.ring_drops += u64::from(drops);
        }
        self.stats
    }
}

impl AsFd for PacketPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn ring_geometry(interface: &Interface, options: &PortOptions) -> io::Result<Geometry> {
    let frames = options.ring_frames.clamp(1, 1 << 16);
    Geometry::new(interface.mtu, frames, rustix::param::page_size())
        .ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn ignore_outgoing(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    match socket::set_option(socket, libc::PACKET_IGNORE_OUTGOING, &on) {
        // Linux before 4.20 does not know it; there the ring skips them.
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(()),
        result => result,
    }
}

/// Room for a whole batch. The kernel counts the memory of a frame, which comes in powers of two,
/// and about a kilobyte of its own for each.
fn send_buffer_bytes(max_frame: usize) -> usize {
    let own = 1024;
    BATCH * ((max_frame + own).next_power_of_two() + own)
}
