//! The one place where the client's thread waits.

use std::array;
use std::io;
use std::iter;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aoede_link::{Change, Monitor, PacketPort, Port as _};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::settings::MAX_PORTS;

/// Waits for whatever ports there are.
pub trait Waiter<P> {
    /// Returns when a port has received a frame, when one of those in `room` (in the order of the
    /// ports) can send again, when `wake` is readable, or when `patience` is over; without patience
    /// that never happens. Returning early does no harm.
    ///
    /// News about an interface is given to its port, [`Port::set_interface`](aoede_link::Port).
    ///
    /// # Errors
    /// What makes waiting impossible; the thread ends.
    fn wait(
        &mut self,
        ports: &mut [P],
        room: &[bool],
        wake: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> io::Result<()>;
}

/// Waits for packet sockets, [`MAX_PORTS`] at most, and watches their interfaces.
#[derive(Debug)]
pub struct PollWaiter {
    monitor: Monitor,
}

impl PollWaiter {
    /// Begins to watch interfaces.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn new() -> io::Result<Self> {
        let monitor = Monitor::open()?;
        Ok(Self { monitor })
    }

    fn take_news(&mut self, ports: &mut [PacketPort]) -> io::Result<()> {
        while let Some(change) = self.monitor.poll()? {
            match change {
                Change::Updated(interface) => update(ports, &interface),
                Change::Removed { index, .. } => {
                    for port in ports
                        .iter_mut()
                        .filter(|port| port.interface().index == index)
                    {
                        let mut gone = port.interface().clone();
                        gone.up = false;
                        port.set_interface(gone);
                    }
                }
                // Too much happened at once: look at all.
                _ => {
                    for interface in self.monitor.interfaces()? {
                        update(ports, &interface);
                    }
                }
            }
        }
        Ok(())
    }
}

fn update(ports: &mut [PacketPort], interface: &aoede_link::Interface) {
    for port in ports {
        if port.interface().index == interface.index {
            port.set_interface(interface.clone());
        }
    }
}

impl Waiter<PacketPort> for PollWaiter {
    fn wait(
        &mut self,
        ports: &mut [PacketPort],
        room: &[bool],
        wake: BorrowedFd<'_>,
        patience: Option<Duration>,
    ) -> io::Result<()> {
        let timeout = patience.map(Timespec::try_from).transpose();
        let timeout = timeout.map_err(|_| io::ErrorKind::InvalidInput)?;
        let port_fds = ports.iter().zip(room).map(|(port, &room)| {
            let wanted = if room {
                PollFlags::IN | PollFlags::OUT
            } else {
                PollFlags::IN
            };
            PollFd::from_borrowed_fd(port.as_fd(), wanted)
        });
        let monitor = PollFd::new(&self.monitor, PollFlags::IN);
        let mut fds: [_; 2 + MAX_PORTS] = array::from_fn(|_| PollFd::new(&wake, PollFlags::IN));
        let others = iter::once(monitor).chain(port_fds);
        let mut used = 1;
        for (place, fd) in fds.iter_mut().skip(1).zip(others) {
            *place = fd;
            used += 1;
        }
        let fds = fds.get_mut(..used).unwrap_or_default();
        match poll(fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready =
            |fd: Option<&PollFd<'_>>, flags| fd.is_some_and(|fd| fd.revents().intersects(flags));
        let news = ready(fds.get(1), PollFlags::IN);
        let trouble = fds
            .iter()
            .skip(2)
            .any(|fd| fd.revents().intersects(PollFlags::ERR));
        if trouble {
            for port in ports.iter_mut() {
                // Such as that the interface went down, which the monitor tells too.
                let _known = port.take_error();
            }
        }
        if news {
            self.take_news(ports)?;
        }
        Ok(())
    }
}
