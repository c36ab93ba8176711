//! The one place where a worker waits.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

/// What the events carry: who is ready.
const STOP: u64 = 0;
const INTERFACES: u64 = 1;
const ENGINE: u64 = 2;
const FREEZE: u64 = 3;
const SIZE: u64 = 4;
const FIRST_SEAT: u64 = 5;

/// Events taken at once; what does not fit comes with the next wait.
const EVENTS: usize = 32;

/// Everything that can wake a worker, in one epoll.
pub(super) struct Waiter {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// What each seat's port is waited for.
    wanted: Vec<EventFlags>,
}

/// What wakes a worker, apart from its ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wakers<'a> {
    pub(super) stop: BorrowedFd<'a>,
    pub(super) interfaces: BorrowedFd<'a>,
    pub(super) freeze: [BorrowedFd<'a>; 2],
    pub(super) size: Option<BorrowedFd<'a>>,
    pub(super) engine: Option<BorrowedFd<'a>>,
}

/// Who woke the worker, apart from ports and engine: those are looked at in every turn.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "any of them may have, in any combination"
)]
pub(super) struct Woken {
    pub(super) stop: bool,
    pub(super) interfaces: bool,
    /// A signal about freezing has come.
    pub(super) freeze: bool,
    /// The size of the file may have changed.
    pub(super) size: bool,
    /// A port has an error to be taken.
    pub(super) port_error: bool,
}

impl Waiter {
    pub(super) fn new(wakers: &Wakers<'_>, seats: usize) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let add = |fd, who, flags| epoll::add(&epoll, fd, EventData::new_u64(who), flags);
        add(wakers.stop, STOP, EventFlags::IN)?;
        add(wakers.interfaces, INTERFACES, EventFlags::IN)?;
        for signals in wakers.freeze {
            add(signals, FREEZE, EventFlags::IN)?;
        }
        if let Some(size) = wakers.size {
            add(size, SIZE, EventFlags::IN)?;
        }
        if let Some(engine) = wakers.engine {
            // Edge-triggered, so that its counter need not be read: an event says that completions
            // came since the last wait, and every turn looks for them.
            add(engine, ENGINE, EventFlags::IN | EventFlags::ET)?;
        }
        Ok(Self {
            epoll,
            events: Vec::with_capacity(EVENTS),
            wanted: vec![EventFlags::empty(); seats],
        })
    }

    /// Waits for a newly opened port too. A port that is closed leaves by itself.
    pub(super) fn plug(&mut self, seat: usize, port: &impl AsFd) -> io::Result<()> {
        let wanted = EventFlags::IN;
        epoll::add(&self.epoll, port, seat_data(seat), wanted)?;
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
            match data.u64() {
                STOP => woken.stop = true,
                INTERFACES => woken.interfaces = true,
                FREEZE => woken.freeze = true,
                SIZE => woken.size = true,
                ENGINE => {}
                _ => woken.port_error |= flags.intersects(EventFlags::ERR | EventFlags::HUP),
            }
        }
        Ok(woken)
    }
}

fn seat_data(seat: usize) -> EventData {
    EventData::new_u64(FIRST_SEAT + seat as u64)
}
