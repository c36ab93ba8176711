//! What a volume asks of an engine, and what comes back: the seam between the two.
//!
//! The memory travels with the operation: the engine owns it until the completion returns it.
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

/// The memory that an operation works on: its buffers, one after the other.
#[derive(Debug)]
pub enum Memory<B> {
    /// None: for a sync or a discard.
    None,
    /// One buffer, from its first byte on.
    One(B),
    /// Several; each gives its first bytes. The list comes home with them, to be used again.
    Parts(Vec<Part<B>>),
}

/// The first bytes of a buffer, as a part of an operation's memory.
#[derive(Debug)]
pub struct Part<B> {
    /// The buffer.
    pub buffer: B,
    /// How much of it belongs to the operation's memory.
    pub len_bytes: u32,
}

impl<B> From<Option<B>> for Memory<B> {
    fn from(buffer: Option<B>) -> Self {
        buffer.map_or(Self::None, Self::One)
    }
}

impl<B> Memory<B> {
    /// The buffer, if there is just one.
    pub fn into_one(self) -> Option<B> {
        match self {
            Self::One(buffer) => Some(buffer),
            Self::None | Self::Parts(_) => None,
        }
    }
}

impl<B: AsMut<[u8]>> Memory<B> {
    /// Calls `each` with every piece of the `len_bytes` from `start` on, in order.
    ///
    /// # Errors
    /// [`Errno::INVAL`]: there is less memory than that. Nothing is said of pieces seen before.
    pub fn for_each_mut<'a>(
        &'a mut self,
        start: usize,
        len_bytes: u64,
        mut each: impl FnMut(&'a mut [u8]),
    ) -> Result<(), Errno> {
        let mut skip = start;
        let mut left = usize::try_from(len_bytes).map_err(|_| Errno::INVAL)?;
        let mut take = |bytes: &'a mut [u8]| {
            let whole = bytes.len();
            let bytes = bytes.get_mut(skip..).unwrap_or_default();
            let len = bytes.len().min(left);
            if let Some(piece) = bytes.get_mut(..len).filter(|piece| !piece.is_empty()) {
                each(piece);
            }
            left -= len;
            skip = skip.saturating_sub(whole);
        };
        match self {
            Self::None => {}
            Self::One(buffer) => take(buffer.as_mut()),
            Self::Parts(parts) => {
                for part in parts {
                    let len = part.len_bytes as usize;
                    let bytes = part.buffer.as_mut();
                    let len = len.min(bytes.len());
                    take(bytes.get_mut(..len).unwrap_or_default());
                }
            }
        }
        if left == 0 { Ok(()) } else { Err(Errno::INVAL) }
    }
}

/// One operation, with the memory it works on.
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
    /// Reads and writes bring memory.
    pub memory: Memory<B>,
    /// Where in the memory the transfer starts, in bytes.
    pub memory_start: usize,
}

/// How an operation ended.
#[derive(Debug)]
pub struct Completion<B> {
    /// The operation.
    pub id: OpId,
    /// The memory comes home, whatever the result.
    pub memory: Memory<B>,
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
    /// The device or file system has no room left.
    pub const NOSPC: Self = Self(libc::ENOSPC);
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
