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
const FIRST_SEAT: u64 = 3;

/// Events taken at once; what does not fit comes with the next wait.
const EVENTS: usize = 32;

/// Everything that can wake a worker, in one epoll.
pub(super) struct Waiter {
    epoll: OwnedFd,
    events: Vec<Event>,
    /// What each seat's port is waited for.
    wanted: Vec<EventFlags>,
}

/// Who woke the worker, apart from ports and engine: those are looked at in every turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Woken {
    pub(super) stop: bool,
    pub(super) interfaces: bool,
    /// A port has an error to be taken.
    pub(super) port_error: bool,
}

impl Waiter {
    pub(super) fn new(
        stop: &impl AsFd,
        interfaces: &impl AsFd,
        engine: Option<BorrowedFd<'_>>,
        seats: usize,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let read = EventFlags::IN;
        epoll::add(&epoll, stop, EventData::new_u64(STOP), read)?;
        epoll::add(&epoll, interfaces, EventData::new_u64(INTERFACES), read)?;
        if let Some(engine) = engine {
            // Edge-triggered, so that its counter need not be read: an event says that completions
            // came since the last wait, and every turn looks for them.
            epoll::add(
                &epoll,
                engine,
                EventData::new_u64(ENGINE),
                read | EventFlags::ET,
            )?;
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

    /// Sleeps until somebody is ready or `patience` ends.
    pub(super) fn wait(&mut self, patience: Duration) -> io::Result<Woken> {
        self.events.clear();
        let timeout = Timespec {
            tv_sec: i64::try_from(patience.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: patience.subsec_nanos().into(),
        };
        let spare = spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
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
