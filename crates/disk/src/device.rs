//! What a volume asks of an engine, and what comes back: the seam between the two.
//!
//! The buffer travels with the operation: the engine owns it until the completion returns it.
#![forbid(unsafe_code)]

use std::fmt;

/// Names an operation between its volume and its engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub u32);

/// What the device is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Fill the buffer.
    Read,
    /// Store the buffer.
    Write {
        /// Complete only when the data is on stable storage.
        durable: bool,
    },
    /// Bring everything written and completed so far to stable storage.
    Sync,
    /// The range is no longer needed; it reads as zeros.
    Discard,
}

/// One operation, with the buffer it works on.
#[derive(Debug)]
pub struct DeviceOp<B> {
    /// Returned with the completion.
    pub id: OpId,
    /// What to do.
    pub kind: OpKind,
    /// Where on the volume, counted from its first byte.
    pub offset_bytes: u64,
    /// How much; for a sync, 0.
    pub len_bytes: u64,
    /// Reads and writes bring a buffer.
    pub buffer: Option<B>,
    /// Where in the buffer the transfer starts: not 0 for the rest of a short transfer.
    pub buffer_start: usize,
}

/// How an operation ended.
#[derive(Debug)]
pub struct Completion<B> {
    /// The operation.
    pub id: OpId,
    /// The buffer comes home, whatever the result.
    pub buffer: Option<B>,
    /// Bytes transferred, possibly fewer than asked for; 0 for a sync or discard.
    pub result: Result<u32, Errno>,
}

/// An error number of the operating system.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Interrupted by a signal: nothing happened, do it again.
    pub const INTR: Self = Self(libc::EINTR);
    /// Out of some resource for a moment: nothing happened, do it again.
    pub const AGAIN: Self = Self(libc::EAGAIN);
    /// The operation makes no sense to the device.
    pub const INVAL: Self = Self(libc::EINVAL);
    /// The device failed.
    pub const IO: Self = Self(libc::EIO);
    /// The device or file system cannot do that at all.
    pub const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// No such open file.
    pub const BADF: Self = Self(libc::EBADF);
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({}: {self})", self.0)
    }
}

impl std::error::Error for Errno {}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

impl From<Errno> for std::io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.0)
    }
}
