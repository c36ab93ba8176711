//! The one system call that `rustix` does not have: byte-range locks that belong to the open file.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// A byte range of a file; `len` 0 means everything from `start` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ByteRange {
    pub(super) start: u8,
    pub(super) len: u8,
}

/// Shared or exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LockKind {
    Shared,
    Exclusive,
}

/// Takes a lock that lasts as long as the open file description, without waiting. False when
/// another open file has one that conflicts.
pub(super) fn try_lock_range(file: &File, range: ByteRange, kind: LockKind) -> io::Result<bool> {
    match lock_call(file, libc::F_OFD_SETLK, range, kind.number()) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

/// Whether another open file's lock would conflict with such a one.
pub(super) fn is_range_locked(file: &File, range: ByteRange, kind: LockKind) -> io::Result<bool> {
    let found = lock_call(file, libc::F_OFD_GETLK, range, kind.number())?;
    Ok(i32::from(found.l_type) != libc::F_UNLCK)
}

/// Lets go of all such locks of an open file.
pub(super) fn unlock_range(file: &File, range: ByteRange) -> io::Result<()> {
    lock_call(file, libc::F_OFD_SETLK, range, libc::F_UNLCK).map(drop)
}

impl LockKind {
    fn number(self) -> libc::c_int {
        match self {
            Self::Shared => libc::F_RDLCK,
            Self::Exclusive => libc::F_WRLCK,
        }
    }
}

fn lock_call(
    file: &File,
    command: libc::c_int,
    range: ByteRange,
    l_type: libc::c_int,
) -> io::Result<libc::flock> {
    // SAFETY: `flock` is plain numbers on every architecture, so all zeros is a value of it; it
    // has padding or extra fields on some, hence no literal.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the constants are below 16 bits"
    )]
    {
        lock.l_type = l_type as libc::c_short;
        lock.l_whence = libc::SEEK_SET as libc::c_short;
    }
    lock.l_start = range.start.into();
    lock.l_len = range.len.into();
    // SAFETY: these commands read and write one `flock`, which `lock` is, and the descriptor is
    // open while `file` is borrowed.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(lock)
    }
}
