//! Nobody else may use a disk while we export it.
//!
//! A writable export locks exclusively, a read-only one shares. Two kinds of lock, because other
//! programs look at one or the other: `flock` on the whole file, and byte-range locks of the open
//! file description, which also conflict with the classic `fcntl` kind.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::FlockOperation;

use super::sys::{ByteRange, LockKind, is_range_locked, try_lock_range, unlock_range};

/// Who keeps us from locking, as far as the kernel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    /// The process, unless it is hidden from us or the lock belongs to an open file.
    pub(super) pid: Option<u32>,
    /// It only reads, so that another reader would be welcome.
    pub(super) shared: bool,
}

/// How locking ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Locked,
    HeldBy(Holder),
    /// The file system has no locks.
    Unsupported,
}

const WHOLE_FILE: ByteRange = ByteRange { start: 0, len: 0 };

/// What a reader locks. QEMU, sharing an image among several programs, announces what it does by
/// shared locks on bytes from 100 on and what it does not want others to do on bytes from 200 on:
/// we read (100) and want nobody to write (201) or resize (203). The bytes before are our own.
const READER: [ByteRange; 3] = [
    ByteRange { start: 0, len: 101 },
    ByteRange { start: 201, len: 1 },
    ByteRange { start: 203, len: 1 },
];

/// Locked by a QEMU that writes.
const QEMU_WRITES: ByteRange = ByteRange { start: 101, len: 1 };

/// File system magic of NFS, where `flock` is a byte-range lock too and would stand in our own way.
const NFS_MAGIC: u32 = 0x6969;

/// Locks the file for as long as it, or a duplicate of it, is open.
pub(super) fn lock(file: &File, kind: LockKind) -> io::Result<Outcome> {
    let nfs = rustix::fs::fstatfs(file).is_ok_and(|fs| magic(&fs) == NFS_MAGIC);
    let whole = match kind {
        _ if nfs => Ok(()),
        LockKind::Shared => rustix::fs::flock(file, FlockOperation::NonBlockingLockShared),
        LockKind::Exclusive => rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive),
    };
    match whole {
        Err(rustix::io::Errno::WOULDBLOCK) => return holder(file, kind).map(Outcome::HeldBy),
        Err(errno) if unsupported(errno.raw_os_error()) => return Ok(Outcome::Unsupported),
        result => result?,
    }
    match lock_ranges(file, kind) {
        Ok(true) => Ok(Outcome::Locked),
        Ok(false) => {
            // Else the table would name ourselves.
            let _ = rustix::fs::flock(file, FlockOperation::NonBlockingUnlock);
            holder(file, kind).map(Outcome::HeldBy)
        }
        Err(error) if error.raw_os_error().is_some_and(unsupported) => Ok(if nfs {
            Outcome::Unsupported
        } else {
            Outcome::Locked
        }),
        Err(error) => Err(error),
    }
}

/// Lets go of what [`lock`] has taken.
pub(super) fn unlock(file: &File) {
    // What fails here was not locked.
    let _ = rustix::fs::flock(file, FlockOperation::NonBlockingUnlock);
    let _ = unlock_range(file, WHOLE_FILE);
}

/// The file system's magic number; all that we look for are 32 bits wide, the field is not.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it is a bit pattern"
)]
#[allow(
    clippy::allow_attributes,
    clippy::unnecessary_cast,
    reason = "the field differs in width"
)]
pub(super) fn magic(fs: &rustix::fs::StatFs) -> u32 {
    fs.f_type as u32
}

fn lock_ranges(file: &File, kind: LockKind) -> io::Result<bool> {
    match kind {
        LockKind::Exclusive => try_lock_range(file, WHOLE_FILE, kind),
        LockKind::Shared => {
            for range in READER {
                if !try_lock_range(file, range, kind)? {
                    return Ok(false);
                }
            }
            // QEMU's lock is a shared one: only looking as a writer would shows it.
            Ok(!is_range_locked(file, QEMU_WRITES, LockKind::Exclusive)?)
        }
    }
}

fn unsupported(errno: i32) -> bool {
    // EINVAL: an old kernel without locks of the open file description.
    [libc::EOPNOTSUPP, libc::ENOLCK, libc::ENOSYS, libc::EINVAL].contains(&errno)
}

/// Finds who holds the lock; it may be gone by now, then nobody is named.
fn holder(file: &File, wanted: LockKind) -> io::Result<Holder> {
    let metadata = file.metadata()?;
    let (major, minor) = (
        rustix::fs::major(metadata.dev()),
        rustix::fs::minor(metadata.dev()),
    );
    let inode = Inode {
        major,
        minor,
        number: metadata.ino(),
    };
    // Only the message is poorer without it.
    let table = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let found = find_holder(&table, inode);
    // Whoever keeps a reader out writes; so may a QEMU, though all its locks are shared ones.
    let shared = wanted == LockKind::Exclusive
        && found.is_some_and(|holder| holder.shared)
        && !is_range_locked(file, QEMU_WRITES, LockKind::Exclusive).unwrap_or(false);
    Ok(Holder {
        pid: found.and_then(|holder| holder.pid),
        shared,
    })
}

/// A file, as `/proc/locks` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Inode {
    major: u32,
    minor: u32,
    number: u64,
}

/// Looks through the text of `/proc/locks` for locks on a file. One that names its process wins
/// over one that does not; the file counts as shared only when all its locks are.
///
/// A line reads `1: FLOCK  ADVISORY  WRITE 412 fd:01:131 0 EOF`, with `->` after the number when
/// that one still waits. Locks of an open file have -1 for the process.
fn find_holder(table: &str, file: Inode) -> Option<Holder> {
    let mut found: Option<Holder> = None;
    for lock in table
        .lines()
        .filter_map(parse_line)
        .filter(|lock| lock.file == file)
    {
        let (pid, shared) = found.map_or((None, true), |found| (found.pid, found.shared));
        found = Some(Holder {
            pid: pid.or(lock.pid),
            shared: shared && lock.shared,
        });
    }
    found
}

struct Line {
    pid: Option<u32>,
    shared: bool,
    file: Inode,
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let class = words.next()?;
    if !["FLOCK", "POSIX", "OFDLCK"].contains(&class) {
        return None;
    }
    let _advisory = words.next()?;
    let shared = words.next()? == "READ";
    let pid = words.next()?.parse().ok().filter(|&pid| pid != 0);
    let mut device = words.next()?.split(':');
    let mut part = || device.next();
    let file = Inode {
        major: u32::from_str_radix(part()?, 16).ok()?,
        minor: u32::from_str_radix(part()?, 16).ok()?,
        number: part()?.parse().ok()?,
    };
    Some(Line { pid, shared, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = Inode {
        major: 0xFD,
        minor: 1,
        number: 131,
    };

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let table = "1: POSIX  ADVISORY  READ  99 00:2b:131 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 412 fd:01:131 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 500 fd:01:131 0 EOF\n\
                     3: FLOCK  ADVISORY  READ 7 fd:01:1311 0 EOF\n";
        let holder = Holder {
            pid: Some(412),
            shared: false,
        };
        assert_eq!(find_holder(table, FILE), Some(holder));
        assert_eq!(find_holder(table, Inode { number: 13, ..FILE }), None);
    }

    #[test]
    fn locks_of_open_files_name_nobody() {
        let qemu = "1: OFDLCK ADVISORY  READ  -1 fd:01:131 100 100\n";
        let holder = Holder {
            pid: None,
            shared: true,
        };
        assert_eq!(find_holder(qemu, FILE), Some(holder));
        let both = format!("{qemu}2: FLOCK  ADVISORY  READ  412 fd:01:131 0 EOF\n");
        let holder = Holder {
            pid: Some(412),
            shared: true,
        };
        assert_eq!(find_holder(&both, FILE), Some(holder));
        let hidden = "1: FLOCK  ADVISORY  WRITE 0 fd:01:131 0 EOF\n";
        let holder = Holder {
            pid: None,
            shared: false,
        };
        assert_eq!(find_holder(hidden, FILE), Some(holder));
    }

    #[test]
    fn strange_tables_find_nobody() {
        for table in [
            "",
            "\n",
            "1:",
            "1: FLOCK",
            "1: LEASE ACTIVE READ 4 fd:01:131 0 EOF",
            "1: FLOCK ADVISORY WRITE 4 fd:01 0 EOF",
            "1: FLOCK ADVISORY WRITE 4 zz:01:131 0 EOF",
            "1: FLOCK ADVISORY WRITE 4 fd:01:99999999999999999999999 0 EOF",
        ] {
            assert_eq!(find_holder(table, FILE), None, "{table:?}");
        }
    }
}
