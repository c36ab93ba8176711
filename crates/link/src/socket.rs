//! The packet socket: made, set up and bound, in an order that lets no foreign frame in.
//!
//! See `packet(7)` and `Documentation/networking/packet_mmap.rst`.

use libc::{c_int, socklen_t};
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::io;
use std::mem::size_of;

#[expect(clippy::cast_possible_truncation, reason = "it is 17")]
const PACKET_FAMILY: libc::sa_family_t = libc::AF_PACKET as libc::sa_family_t;

/// A packet socket that receives nothing until it is bound: it is made for no protocol.
pub(crate) fn create() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        flags,
        None,
    )?)
}

/// Sets an option of the packet level.
pub(crate) fn set_option<T: Copy>(
    socket: BorrowedFd<'_>,
    name: c_int,
    value: &T,
) -> io::Result<()> {
    set(socket, libc::SOL_PACKET, name, value)
}

/// From now on only frames that `program` accepts are received.
pub(crate) fn attach_filter(
    socket: BorrowedFd<'_>,
    mut program: Vec<libc::sock_filter>,
) -> io::Result<()> {
    let len =
        u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel makes a copy; `program` lives until it has.
    let program = libc::sock_fprog {
        len,
        filter: program.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Starts receiving frames of one EtherType on one interface. Succeeds when the interface is down;
/// the socket then has an error waiting.
pub(crate) fn bind(socket: BorrowedFd<'_>, index: u32, ethertype: u16) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: PACKET_FAMILY,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: c_int::try_from(index)
            .map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: `address` is a whole `sockaddr_ll`, given with its own size; the kernel reads it.
    let result = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size::<libc::sockaddr_ll>(),
        )
    };
    check(result)
}

/// Room for `bytes` of frames that wait for the interface, counted as the kernel counts.
///
/// Not an error when there is less: then sending has to wait more often.
pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, bytes: usize) {
    // The kernel sets twice of what it is told. Without CAP_NET_ADMIN net.core.wmem_max applies.
    let told = bytes / 2;
    if sockopt::set_socket_send_buffer_size_force(socket, told).is_err() {
        let _at_least_the_default = sockopt::set_socket_send_buffer_size(socket, told);
    }
}

/// Frames dropped because the ring was full, since this was last asked.
pub(crate) fn take_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    let mut stats = libc::tpacket_stats {
        tp_packets: 0,
        tp_drops: 0,
    };
    let mut len = size::<libc::tpacket_stats>();
    // SAFETY: the kernel writes at most `len` bytes, which is the size of `stats`; any bytes are a
    // value of its two integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut len,
        )
    };
    check(result)?;
    Ok(stats.tp_drops)
}

/// The error that waits on the socket.
pub(crate) fn take_error(socket: BorrowedFd<'_>) -> Option<io::Error> {
    sockopt::socket_error(socket)
        .and_then(|waiting| waiting)
        .err()
        .map(io::Error::from)
}

fn set<T: Copy>(socket: BorrowedFd<'_>, level: c_int, name: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`, a whole `T`; what that points
    // to it checks itself.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(value).cast(),
            size::<T>(),
        )
    };
    check(result)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "of structures of some bytes"
)]
const fn size<T>() -> socklen_t {
    size_of::<T>() as socklen_t
}

fn check(result: c_int) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
