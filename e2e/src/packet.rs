//! A network card for hand-made frames: one `AF_PACKET` socket on one interface, AoE frames only.
//! The socket calls that have no safe form are here and nowhere else.

use std::{
    mem::size_of,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
        netdevice::name_to_index,
        recv, send, socket_with,
        sockopt::{Timeout, set_socket_recv_buffer_size_force, set_socket_timeout},
    },
};

use crate::{Namespace, aoe::ETHERTYPE};

/// Most bytes that wait to be received.
const RECEIVE_BYTES: usize = 16 << 20;

/// An interface on which a test sends frames and receives AoE frames.
#[derive(Debug)]
pub struct Nic {
    socket: OwnedFd,
    mac: [u8; 6],
}

impl Nic {
    /// Opens `interface` on the host `namespace`.
    ///
    /// # Errors
    /// There is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        let mac = namespace.mac(interface)?;
        let socket = namespace.enter(|| open_socket(interface))?;
        Ok(Self { socket, mac })
    }

    /// The interface's own MAC address.
    pub fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Sends one frame, from its destination address to its last byte, exactly as given.
    ///
    /// # Errors
    /// The interface is down or the frame longer than its MTU and 14 bytes.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        loop {
            match send(&self.socket, frame, SendFlags::empty()) {
                Ok(sent) => {
                    ensure!(sent == frame.len(), "{sent} of {} bytes sent", frame.len());
                    return Ok(());
                }
                Err(Errno::INTR | Errno::NOBUFS) => {}
                Err(error) => return Err(error).context("cannot send a frame"),
            }
        }
    }

    /// The next AoE frame, or nothing if none comes in time.
    ///
    /// # Errors
    /// The interface went away.
    pub fn receive(&self, within: Duration) -> Result<Option<Vec<u8>>> {
        set_socket_timeout(
            &self.socket,
            Timeout::Recv,
            Some(within.max(Duration::from_millis(1))),
        )?;
        self.take(RecvFlags::empty())
    }

    /// The next AoE frame, if one is there already.
    ///
    /// # Errors
    /// As [`Nic::receive`].
    pub fn try_receive(&self) -> Result<Option<Vec<u8>>> {
        self.take(RecvFlags::DONTWAIT)
    }

    /// The same into a buffer of the caller: the frame's length, if one is there already. What the
    /// buffer has no room for is cut off.
    ///
    /// # Errors
    /// As [`Nic::receive`]; an interface that went down says so once.
    pub(crate) fn try_receive_into(&self, buffer: &mut [u8]) -> Result<Option<usize>, Errno> {
        match recv(&self.socket, buffer, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(Some(count)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends one frame if there is room for it now and the interface can.
    ///
    /// # Errors
    /// What the kernel said: no room, no carrier, down, or the frame too long.
    pub(crate) fn try_send(&self, frame: &[u8]) -> Result<(), Errno> {
        send(&self.socket, frame, SendFlags::DONTWAIT).map(drop)
    }

    fn take(&self, flags: RecvFlags) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 65_536];
        match recv(&self.socket, &mut buffer[..], flags) {
            Ok((count, _)) => {
                buffer.truncate(count);
                Ok(Some(buffer))
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(error) => Err(error).context("cannot receive a frame"),
        }
    }

    /// Sends `request` and returns the response with the same tag and command, or nothing if none
    /// comes in time.
    ///
    /// # Errors
    /// As [`Nic::send`] and [`Nic::receive`].
    pub fn exchange(&self, request: &[u8], within: Duration) -> Result<Option<Vec<u8>>> {
        self.send(request)?;
        let end = Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            if let Some(frame) = self.receive(left)? {
                let is_response = frame.get(14).is_some_and(|flags| flags & 0x08 != 0);
                if is_response && frame.get(19..24) == request.get(19..24) {
                    return Ok(Some(frame));
                }
            }
        }
    }
}

impl AsFd for Nic {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn open_socket(interface: &str) -> Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // Room for as many jumbo frames as a target ever has under way.
    set_socket_recv_buffer_size_force(&socket, RECEIVE_BYTES)?;
    let index =
        name_to_index(&socket, interface).with_context(|| format!("no interface {interface}"))?;
    let yes: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the option's value is the c_int `yes`, and `length` is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            (&raw const yes).cast(),
            length,
        )
    };
    ensure!(
        result == 0,
        "PACKET_IGNORE_OUTGOING: {}",
        std::io::Error::last_os_error()
    );
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: ETHERTYPE.to_be(),
        sll_ifindex: i32::try_from(index)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the address is a complete sockaddr_ll, and `length` is its size.
    let result = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(
        result == 0,
        "cannot bind to {interface}: {}",
        std::io::Error::last_os_error()
    );
    Ok(socket)
}
