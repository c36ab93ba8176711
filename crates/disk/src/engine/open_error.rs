//! What an operator is told about a backing file: what is wrong with it, and what to do.
#![forbid(unsafe_code)]

use std::io;
use std::path::PathBuf;

/// Something that works, but not quite as wished.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenWarning {
    /// The file is not a whole number of sectors.
    #[error("the size is not a multiple of 512: the last {tail_bytes} bytes are left out")]
    TailLeftOut {
        /// How many.
        tail_bytes: u64,
    },
    /// Buffered instead of direct I/O.
    #[error("the file system has no direct I/O for this file: using buffered I/O")]
    NoDirectIo,
    /// Buffered instead of direct I/O.
    #[error("direct I/O needs blocks of more than 4096 bytes here: using buffered I/O")]
    CoarseDirectIo,
    /// Buffered instead of direct I/O.
    #[error(
        "direct I/O works on blocks of {block_bytes} bytes here, and --offset is not a multiple \
         of that: using buffered I/O"
    )]
    StartsInsideBlock {
        /// What offset and length have to be a multiple of.
        block_bytes: u32,
    },
    /// Buffered instead of direct I/O.
    #[error(
        "direct I/O works on blocks of {block_bytes} bytes here, and the size is not a multiple \
         of that: using buffered I/O"
    )]
    EndsInsideBlock {
        /// What offset and length have to be a multiple of.
        block_bytes: u32,
    },
    /// Buffered instead of uncached I/O.
    #[error(
        "the kernel or the file system has no uncached I/O (Linux 6.14, XFS or ext4): using \
         buffered I/O"
    )]
    NoUncachedIo,
    /// The very first read failed; the export goes on, as a disk with a bad sector does.
    #[error("a first read failed: {0}")]
    FirstRead(String),
    /// Nothing keeps others from using the file.
    #[error("the file system has no locks: make sure that nothing else uses this file")]
    NoLocks,
}

/// Why a backing file cannot be exported. Says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is nothing at that path.
    #[error("{path}: no such file; check the path, or make a disk with --create SIZE")]
    NotFound {
        /// Of the file.
        path: PathBuf,
    },
    /// A folder.
    #[error("{path} is a directory; name a file or block device in it")]
    Directory {
        /// Of the file.
        path: PathBuf,
    },
    /// A socket, pipe or character device.
    #[error("{path} is neither a regular file nor a block device")]
    NotADisk {
        /// Of the file.
        path: PathBuf,
    },
    /// Not even readable.
    #[error("{path}: permission denied; change its permissions, or run as a user who may open it")]
    PermissionDenied {
        /// Of the file.
        path: PathBuf,
    },
    /// Readable only.
    #[error("{path} may only be read; use --read-only or change its permissions")]
    NotWritable {
        /// Of the file.
        path: PathBuf,
    },
    /// Immutable, append-only, or sealed.
    #[error("{path} cannot be opened for writing (immutable? see lsattr); use --read-only")]
    Immutable {
        /// Of the file.
        path: PathBuf,
    },
    /// Nothing on that file system can be written.
    #[error("{path} is on a read-only file system or device; use --read-only")]
    ReadOnlyFileSystem {
        /// Of the file.
        path: PathBuf,
    },
    /// Not one sector.
    #[error(
        "{path} is empty: a disk needs at least one sector of 512 bytes; remove the file and make a disk with --create SIZE"
    )]
    Empty {
        /// Of the file.
        path: PathBuf,
    },
    /// The offset leaves nothing.
    #[error("{path}: --offset {offset_sectors} is beyond the end, the file has {sectors} sectors")]
    OffsetBeyondEnd {
        /// Of the file.
        path: PathBuf,
        /// As given.
        offset_sectors: u64,
        /// Of the whole file.
        sectors: u64,
    },
    /// The length is 0 or more than there is.
    #[error(
        "{path}: --length {length_sectors} does not fit, there are {sectors} sectors from the offset on"
    )]
    LengthOutside {
        /// Of the file.
        path: PathBuf,
        /// As given.
        length_sectors: u64,
        /// Of the file, behind the offset.
        sectors: u64,
    },
    /// Another export, or any other program that locks.
    #[error("{path} is already exported by {}", in_use_by(*.pid, *.read_only_helps))]
    Locked {
        /// Of the file.
        path: PathBuf,
        /// Who holds the lock, if the kernel tells.
        pid: Option<u32>,
        /// The holder shares with readers.
        read_only_helps: bool,
    },
    /// The kernel itself uses the device.
    #[error(
        "{path} is in use (mounted, or part of a RAID or volume group); release it or use --read-only"
    )]
    Busy {
        /// Of the file.
        path: PathBuf,
    },
    /// `--create` for a file that exists and is something else.
    #[error(
        "{path} exists and has {found_bytes} bytes, not the {wanted_bytes} of --create; leave out --create or name another file"
    )]
    SizeDiffers {
        /// Of the file.
        path: PathBuf,
        /// As given.
        wanted_bytes: u64,
        /// Of the file.
        found_bytes: u64,
    },
    /// `--create` of something that is no disk.
    #[error("{path}: --create {bytes} is not a disk size; it must be a multiple of 512, and not 0")]
    CreateSize {
        /// Of the file.
        path: PathBuf,
        /// As given.
        bytes: u64,
    },
    /// Anything else.
    #[error("{path}: {doing} failed")]
    Io {
        /// Of the file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn in_use_by(pid: Option<u32>, read_only_helps: bool) -> String {
    let who = pid.map_or_else(
        || "another program".to_owned(),
        |pid| format!("process {pid}"),
    );
    let remedy = if read_only_helps {
        "stop it or use --read-only"
    } else {
        "stop it first"
    };
    format!("{who} (lock held); {remedy}")
}
