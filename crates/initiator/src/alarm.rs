//! How other threads wake the client's thread, with a system call only if it sleeps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// A descriptor that is readable when the thread is to wake up.
#[derive(Debug)]
pub(crate) struct Alarm {
    fd: OwnedFd,
    /// The thread sleeps, or is about to.
    asleep: AtomicBool,
    /// Rings that have not been read from `fd` yet. Only the thread itself looks at this.
    owed: AtomicU64,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            fd,
            asleep: AtomicBool::new(false),
            owed: AtomicU64::new(0),
        })
    }

    /// To be called when there is something new: the thread will look for it.
    pub(crate) fn ring(&self) {
        if self.finds_asleep() {
            self.wake();
        }
    }

    /// True once for each time the thread sleeps.
    fn finds_asleep(&self) -> bool {
        // Either this sees that the thread sleeps, or the thread sees what is new before it does.
        fence(Ordering::SeqCst);
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }

    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel counts in the host's order"
    )]
    fn wake(&self) {
        // Fails only if the counter is full, and then it wakes, too.
        let _awake = rustix::io::write(&self.fd, &1_u64.to_ne_bytes());
    }

    /// The thread is about to sleep: it must look once more whether there is something new.
    pub(crate) fn lie_down(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The thread is awake.
    #[expect(
        clippy::host_endian_bytes,
        reason = "the kernel counts in the host's order"
    )]
    pub(crate) fn get_up(&self) {
        let rung = !self.asleep.swap(false, Ordering::Relaxed);
        let owed = self.owed.load(Ordering::Relaxed) + u64::from(rung);
        if owed == 0 {
            return;
        }
        // Who rang may not have written yet. It wakes the thread once for nothing, and what it
        // wrote must be read then: else the thread never sleeps again.
        let mut written = [0; 8];
        let read = match rustix::io::read(&self.fd, &mut written) {
            Ok(_) => u64::from_ne_bytes(written),
            Err(_) => 0,
        };
        self.owed
            .store(owed.saturating_sub(read), Ordering::Relaxed);
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

    /// Whoever rings may be held up between looking and writing, while the thread wakes for
    /// something else. What is written late wakes it once, and not for ever.
    #[test]
    fn who_writes_late_wakes_it_once() {
        let alarm = Alarm::new().unwrap();
        alarm.lie_down();
        assert!(alarm.finds_asleep());
        alarm.get_up();
        alarm.lie_down();
        assert!(
            alarm.finds_asleep(),
            "a second before the first has written"
        );
        alarm.get_up();
        for _ in 0..2 {
            alarm.wake();
            alarm.lie_down();
            assert!(is_rung(&alarm, Duration::ZERO));
            alarm.get_up();
            alarm.lie_down();
            assert!(!is_rung(&alarm, Duration::ZERO), "once");
            alarm.get_up();
        }
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
