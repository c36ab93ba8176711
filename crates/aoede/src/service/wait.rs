//! The one place where a worker waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What the events carry: who is ready.
const FIRST_SEAT: u64 = 16;

/// Events taken at once; what does not fit comes with the next wait.
const EVENTS: usize = 32;

/// Who can wake a worker, apart from its ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waker {
    /// Somebody wants it to stop.
    Stop = 0,
    /// Something may have changed about the interfaces.
    Interfaces = 1,
    /// Completions. Edge-triggered, so that its counter need not be read: an event says that
    /// completions came since the last wait, and every turn looks for them.
    Engine = 2,
    /// A signal about freezing has come.
    Freeze = 3,
    /// The size of a file may have changed.
    Size = 4,
    /// There are orders.
    Orders = 5,
}

/// Everything that can wake a worker, in one epoll. Whatever is closed leaves by itself.
pub(super) struct Waiter {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// What each seat's port is waited for.
    wanted: Vec<EventFlags>,
}

/// Who woke the worker, apart from ports and engines: those are looked at in every turn.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "any of them may have, in any combination"
)]
pub(super) struct Woken {
    pub(super) stop: bool,
    pub(super) interfaces: bool,
    pub(super) freeze: bool,
    pub(super) size: bool,
    pub(super) orders: bool,
    /// A port has an error to be taken.
    pub(super) port_error: bool,
}

impl Waiter {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            events: Vec::with_capacity(EVENTS),
            wanted: Vec::new(),
        })
    }

    /// Waits for one more.
    pub(super) fn add(&self, waker: Waker, fd: BorrowedFd<'_>) -> io::Result<()> {
        let mut flags = EventFlags::IN;
        flags.set(EventFlags::ET, waker == Waker::Engine);
        let data = EventData::new_u64(waker as u64);
        Ok(epoll::add(&self.epoll, fd, data, flags)?)
    }

    /// Waits for a newly opened port too.
    pub(super) fn plug(&mut self, seat: usize, port: &impl AsFd) -> io::Result<()> {
        let wanted = EventFlags::IN;
        epoll::add(&self.epoll, port, seat_data(seat), wanted)?;
        if self.wanted.len() <= seat {
            self.wanted.resize(seat + 1, EventFlags::empty());
        }
        if let Some(known) = self.wanted.get_mut(seat) {
            *known = wanted;
        }
        Ok(())
    }

    /// Says what a port is to be waited for: frames, or room to send.
    pub(super) fn want(
        &mut self,
        seat: usize,
        port: &impl AsFd,
        frames: bool,
        room: bool,
    ) -> io::Result<()> {
        let mut wanted = EventFlags::empty();
        wanted.set(EventFlags::IN, frames);
        wanted.set(EventFlags::OUT, room);
        match self.wanted.get_mut(seat) {
            Some(known) if *known != wanted => *known = wanted,
            _ => return Ok(()),
        }
        Ok(epoll::modify(&self.epoll, port, seat_data(seat), wanted)?)
    }

    /// Sleeps until somebody is ready or `patience` ends, if there is an end to it.
    pub(super) fn wait(&mut self, patience: Option<Duration>) -> io::Result<Woken> {
        self.events.clear();
        let timeout = patience.map(|patience| Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        });
        let spare = spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut woken = Woken::default();
        for event in &self.events {
            // The kernel packs the structure: copy, do not borrow.
            let (flags, data) = (event.flags, event.data);
            let who = |waker: Waker| data.u64() == waker as u64;
            woken.stop |= who(Waker::Stop);
            woken.interfaces |= who(Waker::Interfaces);
            woken.freeze |= who(Waker::Freeze);
            woken.size |= who(Waker::Size);
            woken.orders |= who(Waker::Orders);
            woken.port_error |=
                data.u64() >= FIRST_SEAT && flags.intersects(EventFlags::ERR | EventFlags::HUP);
        }
        Ok(woken)
    }
}

fn seat_data(seat: usize) -> EventData {
    EventData::new_u64(FIRST_SEAT + seat as u64)
}
