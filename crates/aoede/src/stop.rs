//! The wish to stop, as something to wait for.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Tells when to stop.
#[derive(Debug)]
pub struct Stop {
    receiver: UnixStream,
}

/// Asks for the stop.
#[derive(Debug)]
pub struct StopHandle {
    sender: UnixStream,
}

impl Stop {
    /// Takes SIGTERM, SIGINT and SIGHUP over for the whole process: from now on they ask for a stop
    /// instead of ending it. A second one asks again; what that means is for the caller to say. A
    /// SIGHUP that is ignored (nohup) stays so.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn on_signals() -> io::Result<Self> {
        let (stop, handle) = Self::by_hand()?;
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            if signal != SIGHUP || !is_ignored(signal) {
                signal_hook::low_level::pipe::register(signal, handle.sender.try_clone()?)?;
            }
        }
        Ok(stop)
    }

    /// A stop that is asked for with the handle.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn by_hand() -> io::Result<(Self, StopHandle)> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        Ok((Self { receiver }, StopHandle { sender }))
    }

    /// Whether a stop was asked for since the last call.
    pub fn take(&self) -> bool {
        matches!((&self.receiver).read(&mut [0; 16]), Ok(bytes) if bytes > 0)
    }
}

/// Readable when a stop was asked for.
impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}

impl StopHandle {
    /// Asks for the stop.
    ///
    /// # Errors
    /// The other end is gone: it has stopped already.
    pub fn stop(&self) -> io::Result<()> {
        (&self.sender).write_all(&[0])
    }
}

/// Whether whoever started this process had it ignore a signal: the mask `SigIgn` of proc(5).
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Signals count from 1, bits from 0.
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
