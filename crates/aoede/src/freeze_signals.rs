//! The signals that freeze and thaw: SIGUSR1, SIGUSR2 freezes; SIGUSR1, SIGUSR1, SIGUSR2 thaws.
//!
//! The kernel keeps one signal of a kind at a time, so that two sent quickly may arrive as one.
//! SIGUSR2 decides, by how many SIGUSR1 have come before it; what is neither code does nothing.

use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use signal_hook::consts::{SIGUSR1, SIGUSR2};

/// A SIGUSR1 older than this is forgotten.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What an operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Hold the image as it is.
    Freeze,
    /// Merge the shadow into it.
    Thaw,
    /// Neither: there came so many SIGUSR1, and so many SIGUSR2.
    Unclear(usize, usize),
}

/// Takes the signals over for the whole process.
#[derive(Debug)]
pub(crate) struct FreezeSignals {
    ones: UnixStream,
    twos: UnixStream,
    code: Code,
}

impl FreezeSignals {
    /// From now on the signals are read here instead of ending the process.
    ///
    /// # Errors
    /// What the kernel said.
    pub(crate) fn register() -> io::Result<Self> {
        Ok(Self {
            ones: take_over(SIGUSR1)?,
            twos: take_over(SIGUSR2)?,
            code: Code::default(),
        })
    }

    /// Readable when a signal has come.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.ones.as_fd(), self.twos.as_fd()]
    }

    /// What has been ordered since the last call.
    pub(crate) fn take(&mut self, now: Duration) -> Option<Order> {
        // In this order: no SIGUSR1 that came before a SIGUSR2 is missed.
        let twos = count(&self.twos);
        let ones = count(&self.ones);
        self.code.take(now, ones, twos)
    }
}

fn take_over(signal: i32) -> io::Result<UnixStream> {
    let (receiver, sender) = UnixStream::pair()?;
    receiver.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, sender)?;
    Ok(receiver)
}

/// One byte for each signal.
fn count(mut stream: &UnixStream) -> usize {
    stream.read(&mut [0; 64]).unwrap_or(0)
}

/// SIGUSR1 that wait for their SIGUSR2.
#[derive(Debug, Default)]
struct Code {
    ones: usize,
    since: Duration,
}

impl Code {
    fn take(&mut self, now: Duration, ones: usize, twos: usize) -> Option<Order> {
        if now.saturating_sub(self.since) > PATIENCE {
            self.ones = 0;
        }
        if ones > 0 {
            self.ones += ones;
            self.since = now;
        }
        if twos == 0 {
            return None;
        }
        Some(match (std::mem::take(&mut self.ones), twos) {
            (1, 1) => Order::Freeze,
            (2, 1) => Order::Thaw,
            (ones, twos) => Order::Unclear(ones, twos),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_second_signal_decides_by_the_first_ones() {
        let mut code = Code::default();
        assert_eq!(code.take(at(1), 1, 0), None);
        assert_eq!(code.take(at(2), 0, 1), Some(Order::Freeze));
        assert_eq!(code.take(at(3), 1, 0), None);
        assert_eq!(code.take(at(9), 1, 0), None);
        assert_eq!(code.take(at(15), 0, 1), Some(Order::Thaw));
        assert_eq!(code.take(at(16), 2, 1), Some(Order::Thaw), "all at once");
        assert_eq!(code.take(at(17), 0, 0), None);
    }

    #[test]
    fn what_is_no_code_is_told_and_forgotten() {
        let mut code = Code::default();
        assert_eq!(code.take(at(1), 0, 1), Some(Order::Unclear(0, 1)));
        assert_eq!(code.take(at(1), 3, 1), Some(Order::Unclear(3, 1)));
        assert_eq!(code.take(at(1), 3, 2), Some(Order::Unclear(3, 2)));
        assert_eq!(code.take(at(1), 1, 1), Some(Order::Freeze));
        // A first signal that got no second.
        assert_eq!(code.take(at(20), 1, 0), None);
        assert_eq!(code.take(at(31), 1, 1), Some(Order::Freeze));
    }

    /// Signals for the process that runs the tests: nothing else here listens to them.
    #[test]
    fn signals_arrive_as_orders() {
        let mut signals = FreezeSignals::register().unwrap();
        assert_eq!(signals.take(at(1)), None);
        for signal in [SIGUSR1, SIGUSR2] {
            signal_hook::low_level::raise(signal).unwrap();
        }
        assert_eq!(signals.take(at(1)), Some(Order::Freeze));
        assert_eq!(signals.take(at(1)), None);
    }
}
