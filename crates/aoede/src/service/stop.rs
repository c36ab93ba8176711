//! SIGTERM and SIGINT as something to wait for.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::consts::{SIGINT, SIGTERM};

/// From its creation on, both signals ask for a stop instead of ending the process. A second one
/// asks again and so changes nothing: what has begun is finished.
#[derive(Debug)]
pub(crate) struct StopSignals {
    receiver: UnixStream,
}

impl StopSignals {
    /// Takes the signals over for the whole process.
    pub(crate) fn install() -> io::Result<Self> {
        let (receiver, sender) = UnixStream::pair()?;
        receiver.set_nonblocking(true)?;
        for signal in [SIGTERM, SIGINT] {
            signal_hook::low_level::pipe::register(signal, sender.try_clone()?)?;
        }
        Ok(Self { receiver })
    }

    /// Whether a signal came since the last call.
    pub(crate) fn take(&self) -> bool {
        matches!((&self.receiver).read(&mut [0; 16]), Ok(bytes) if bytes > 0)
    }
}

/// Readable when a signal has come.
impl AsFd for StopSignals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.receiver.as_fd()
    }
}
