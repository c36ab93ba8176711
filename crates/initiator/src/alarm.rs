//! How other threads wake the client's thread, with a system call only if it sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// A descriptor that is readable when the thread is to wake up.
#[derive(Debug)]
pub(crate) struct Alarm {
    fd: OwnedFd,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let asleep = AtomicBool::new(false);
        Ok(Self { fd, asleep })
    }

    /// To be called when there is something new: the thread will look for it.
    pub(crate) fn ring(&self) {
        // Either this sees that the thread sleeps, or the thread sees what is new before it does.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // Any number wakes it, whichever way its bytes are read; if the counter is full it is
            // awake anyway.
            let _awake = rustix::io::write(&self.fd, &[0, 0, 0, 1, 0, 0, 0, 0]);
        }
    }

    /// The thread is about to sleep: it must look once more whether there is something new.
    pub(crate) fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The thread is awake.
    pub(crate) fn get_up(&self) {
        if !self.asleep.swap(false, Ordering::Relaxed) {
            // It was rung. Whoever rings this moment and has not written yet wakes it once for
            // nothing.
            let _none = rustix::io::read(&self.fd, &mut [0; 8]);
        }
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use std::sync::{Arc, mpsc};
    use std::thread;
    use std::time::Duration;

    fn is_rung(alarm: &Alarm, patience: Duration) -> bool {
        let patience = Timespec::try_from(patience).unwrap();
        poll(&mut [PollFd::new(alarm, PollFlags::IN)], Some(&patience)).unwrap() > 0
    }

    #[test]
    fn it_rings_for_who_sleeps_and_once() {
        let alarm = Alarm::new().unwrap();
        alarm.ring();
        assert!(!is_rung(&alarm, Duration::ZERO), "nobody sleeps");
        alarm.lie_down();
        assert!(!is_rung(&alarm, Duration::ZERO));
        alarm.ring();
        alarm.ring();
        assert!(is_rung(&alarm, Duration::ZERO));
        alarm.get_up();
        assert!(!is_rung(&alarm, Duration::ZERO));
        alarm.lie_down();
        alarm.get_up();
        alarm.ring();
        assert!(!is_rung(&alarm, Duration::ZERO), "it got up by itself");
    }

    /// A thread that sleeps whenever it finds nothing gets everything, in time.
    #[test]
    fn nothing_new_is_slept_over() {
        const THINGS: u32 = 20_000;
        let alarm = Arc::new(Alarm::new().unwrap());
        let (sender, receiver) = mpsc::channel();
        let rings = Arc::clone(&alarm);
        let other = thread::spawn(move || {
            for thing in 0..THINGS {
                sender.send(thing).unwrap();
                rings.ring();
                if thing % 7 == 0 {
                    thread::yield_now();
                }
            }
            sender
        });
        let mut next = 0;
        while next < THINGS {
            let mut take = || {
                let thing = receiver.try_recv().ok();
                next += u32::from(thing == Some(next));
                thing.is_some()
            };
            if take() {
                continue;
            }
            alarm.lie_down();
            if !take() {
                assert!(is_rung(&alarm, Duration::from_secs(20)), "slept over");
            }
            alarm.get_up();
        }
        drop(other.join().unwrap());
    }
}
