//! Opening a backing file or device: every check before anything is touched, and what it can do.
#![forbid(unsafe_code)]

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::geometry::{self, DirectIo};
pub use super::geometry::{Alignment, PhysicalBlocks};
use super::lock::{self, Holder, Outcome};
pub use super::open_error::{OpenError, OpenWarning};
use super::sys::LockKind;
use super::trial::{Trial, Way};
use super::windows::{Entered, Wanted, Window, Windows};
use crate::SECTOR_BYTES;
use crate::volume::Stability;

/// Whether the kernel's page cache stands between us and the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum IoMode {
    /// It does not: `O_DIRECT`.
    #[default]
    Direct,
    /// It does.
    Buffered,
    /// It does, and keeps nothing that it did not have before: `RWF_DONTCACHE`, of Linux 6.14. A
    /// hint to the kernel, not a promise.
    Uncached,
}

/// How to open a backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenOptions {
    /// Never write, and share the file with other readers.
    pub read_only: bool,
    /// Wanted; what is in use stands in [`Backing::io`].
    pub io: IoMode,
    /// Sectors of the file in front of the export's first.
    pub offset_sectors: u64,
    /// Sectors to export; all from the offset on when not given.
    pub length_sectors: Option<u64>,
    /// Make a sparse file of this size if there is none. One that exists must have this size, and
    /// is not touched.
    pub create_bytes: Option<u64>,
    /// How long to wait for one that is in use. After a process was killed, the kernel keeps its
    /// files open until the I/O that was under way has ended.
    pub lock_patience: Duration,
}

/// A backing file or device, locked and ready to be attached to an engine.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that have nothing to do with each other"
)]
pub struct Backing {
    /// The open file; holds the locks.
    pub file: File,
    /// As it was given.
    pub path: PathBuf,
    /// What is exported, after offset and length.
    pub sectors: u64,
    /// Where in the file the export starts.
    pub base_bytes: u64,
    /// Writes will fail.
    pub read_only: bool,
    /// In use, which may not be what was wanted: then a warning says why.
    pub io: IoMode,
    /// Needed for direct I/O; buffers aligned like this serve buffered files as well.
    pub alignment: Alignment,
    /// What offset and length of reads and writes have to be multiples of: 512 or 4096.
    pub block_bytes: u32,
    /// What offset and length of discards have to be multiples of; 512 or more.
    pub discard_bytes: u32,
    /// What writes are best multiples of.
    pub physical: PhysicalBlocks,
    /// A device, not a regular file.
    pub block_device: bool,
    /// The file lives in memory (tmpfs, ramfs): reading never waits for a device.
    pub in_memory: bool,
    /// Reads may be answered with parts of the mapped file ([`Buffer::lent`]): it lives in memory
    /// and has no holes, which being read through a mapping would fill.
    ///
    /// [`Buffer::lent`]: super::pool::Buffer::lent
    pub lends: bool,
    /// Writes with RWF_DSYNC are durable.
    pub keeps_dsync: bool,
    /// What is written with direct I/O is known not to go through the page cache.
    pub truly_direct: bool,
    /// The device underneath makes single writes stable without a sync of all it holds ("force
    /// unit access").
    pub fua: bool,
    /// The device underneath has seek times, if the kernel knows.
    pub rotational: Option<bool>,
    /// Ranges can be discarded.
    pub discard: bool,
    /// What the operator should know.
    pub warnings: Vec<OpenWarning>,
    length_sectors: Option<u64>,
    /// The lock that it has together with other parts of the same file.
    pub(super) window: Option<Arc<Window>>,
}

impl Backing {
    /// How durable writes on this file become stable.
    pub fn stability(&self) -> Stability {
        match (self.io, self.in_memory) {
            (IoMode::Buffered | IoMode::Uncached, false) => Stability::Shared,
            (IoMode::Direct, false) if !self.keeps_dsync || !self.truly_direct => Stability::Shared,
            (IoMode::Direct, false) if !self.fua => Stability::Any,
            _ => Stability::Each,
        }
    }

    /// Where in the file the export ended when it was opened.
    pub(super) fn end_bytes(&self) -> u64 {
        self.base_bytes + self.sectors * SECTOR_BYTES
    }

    /// Sectors that the file has for the export now: it may have grown or shrunk since it was
    /// opened. Never more than the configured length, and whole blocks ([`Self::block_bytes`]).
    ///
    /// # Errors
    /// The size cannot be read.
    pub fn current_sectors(&self) -> io::Result<u64> {
        let bytes = size(&self.file)?.saturating_sub(self.base_bytes);
        let bytes = bytes - bytes % u64::from(self.block_bytes);
        let sectors = bytes / SECTOR_BYTES;
        Ok(self
            .length_sectors
            .map_or(sectors, |length| length.min(sectors)))
    }
}

/// Opens, checks and locks a backing file or device, and finds out what it can do.
///
/// # Errors
/// The first thing found wrong.
pub fn open(path: &Path, options: &OpenOptions) -> Result<Backing, OpenError> {
    open_among(&Windows::default(), path, options)
}

/// The same for a process that serves several disks: those that are parts of one file, and do not
/// overlap, have its locks together.
///
/// # Errors
/// As for [`open`].
pub fn open_among(
    windows: &Windows,
    path: &Path,
    options: &OpenOptions,
) -> Result<Backing, OpenError> {
    let opening = Opening {
        path,
        options,
        windows,
    };
    opening.run()
}

/// Magic number of FUSE. There the kernel takes RWF_DSYNC and forgets it in every asynchronous
/// direct write: the file system below is never asked to sync.
const FUSE_MAGIC: u32 = 0x6573_5546;

/// Magic numbers of the file systems whose direct I/O is direct when the kernel says that there is
/// some: ext4 and XFS. Others take the flag and write through the page cache without a word, where
/// of a failure only one of several writes may be told: Btrfs those of files with checksums, ZFS,
/// bcachefs and F2FS some, overlayfs what the file system below it does.
const DIRECT_MAGICS: [u32; 2] = [0xEF53, 0x5846_5342];

/// Magic numbers of file systems that live in memory (`statfs`).
const MEMORY_MAGICS: [u32; 2] = [0x0102_1994, 0x8584_58F6];

/// A pause between two attempts to open a file that is in use.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

struct Opening<'a> {
    path: &'a Path,
    options: &'a OpenOptions,
    windows: &'a Windows,
}

impl Opening<'_> {
    fn run(&self) -> Result<Backing, OpenError> {
        let created = match self.options.create_bytes {
            Some(bytes) => self.create(bytes)?,
            None => false,
        };
        let backing = self.open_in_time();
        if backing.is_err() && created {
            self.remove();
        }
        backing
    }

    fn open_in_time(&self) -> Result<Backing, OpenError> {
        let start = Instant::now();
        loop {
            match self.open() {
                Err(OpenError::Locked { .. } | OpenError::Busy { .. })
                    if start.elapsed() < self.options.lock_patience =>
                {
                    std::thread::sleep(LOCK_PAUSE);
                }
                result => return result,
            }
        }
    }

    fn open(&self) -> Result<Backing, OpenError> {
        let mut open = self.windows.enter();
        let file = self.open_file(&open)?;
        let metadata = self.step("reading its attributes", file.metadata())?;
        self.check_type(&metadata)?;
        let block_device = metadata.file_type().is_block_device();
        let bytes = self.step("reading its size", size(&file))?;
        if let Some(wanted_bytes) = self.options.create_bytes.filter(|&wanted| wanted != bytes) {
            let path = self.path.to_owned();
            return Err(OpenError::SizeDiffers {
                path,
                wanted_bytes,
                found_bytes: bytes,
            });
        }
        let sectors = self.range(bytes)?;
        let mut warnings = Vec::new();
        if self.options.length_sectors.is_none() && bytes % SECTOR_BYTES != 0 {
            warnings.push(OpenWarning::TailLeftOut {
                tail_bytes: bytes % SECTOR_BYTES,
            });
        }
        let window = self.lock(&file, &metadata, &mut open, &mut warnings)?;
        drop(open);

        let magic = rustix::fs::fstatfs(&file).ok().map(|fs| lock::magic(&fs));
        let in_memory = !block_device && magic.is_some_and(|magic| MEMORY_MAGICS.contains(&magic));
        let base_bytes = self.options.offset_sectors * SECTOR_BYTES;
        let (direct_io, alignment) = geometry::direct_io(&file, &metadata);
        let known = magic.is_some_and(|magic| DIRECT_MAGICS.contains(&magic));
        let truly_direct = block_device || (known && direct_io == DirectIo::Told);
        let trial = Trial {
            file: &file,
            alignment,
            base_bytes,
            size_bytes: sectors.saturating_mul(SECTOR_BYTES),
        };
        let Way {
            io,
            block_bytes,
            alignment,
        } = match self.options.io {
            IoMode::Buffered => trial.buffered(),
            IoMode::Uncached => trial.uncached(&mut warnings),
            // Newer kernels take the flag for files in memory too; it means nothing there.
            IoMode::Direct if in_memory || direct_io == DirectIo::Not => {
                warnings.push(OpenWarning::NoDirectIo);
                trial.buffered()
            }
            IoMode::Direct => trial.direct(&mut warnings),
        };
        Ok(Backing {
            path: self.path.to_owned(),
            sectors,
            base_bytes,
            read_only: self.options.read_only,
            io,
            alignment,
            block_bytes,
            discard_bytes: geometry::discard_bytes(&file, &metadata),
            physical: geometry::physical(&file, &metadata, alignment, base_bytes),
            block_device,
            in_memory,
            lends: self.options.io == IoMode::Buffered
                && in_memory
                && metadata.blocks() >= bytes / 512,
            keeps_dsync: block_device || magic != Some(FUSE_MAGIC),
            truly_direct,
            fua: geometry::fua(&metadata),
            rotational: geometry::rotational(&metadata),
            discard: !self.options.read_only && geometry::can_discard(&file, &metadata, bytes),
            warnings,
            length_sectors: self.options.length_sectors,
            window,
            file,
        })
    }

    fn step<T>(&self, doing: &'static str, result: io::Result<T>) -> Result<T, OpenError> {
        result.map_err(|source| OpenError::Io {
            path: self.path.to_owned(),
            doing,
            source,
        })
    }

    /// Makes the file if there is none, and says whether it did; one that exists stays as it is.
    fn create(&self, bytes: u64) -> Result<bool, OpenError> {
        let path = || self.path.to_owned();
        if bytes == 0 || bytes % SECTOR_BYTES != 0 {
            return Err(OpenError::CreateSize {
                path: path(),
                bytes,
            });
        }
        let made = File::options().write(true).create_new(true).open(self.path);
        let file = match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(OpenError::PermissionDenied { path: path() });
            }
            made => self.step("creating it", made)?,
        };
        let sized = file.set_len(bytes).and_then(|()| file.sync_all());
        // The name must last as long as the data that will be acknowledged under it.
        let sized = sized.and_then(|()| File::open(self.folder())?.sync_all());
        if sized.is_err() {
            self.remove();
        }
        self.step("giving it its size", sized)?;
        Ok(true)
    }

    /// Removes the file that was made just now and turned out to be of no use.
    fn remove(&self) {
        // The error at hand is the one to be told.
        let _ = std::fs::remove_file(self.path);
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if folder != Path::new("") => folder,
            _ => Path::new("."),
        }
    }

    fn open_file(&self, others: &Entered<'_>) -> Result<File, OpenError> {
        let path = || self.path.to_owned();
        // Look before opening: to open a pipe waits, and to open some devices does things.
        let metadata = std::fs::metadata(self.path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound { path: path() },
            io::ErrorKind::PermissionDenied => OpenError::PermissionDenied { path: path() },
            _ => OpenError::Io {
                path: path(),
                doing: "looking at it",
                source,
            },
        })?;
        self.check_type(&metadata)?;
        let write = !self.options.read_only;
        let mut open = File::options();
        open.read(true).write(write);
        if write && metadata.file_type().is_block_device() && !others.has(&metadata) {
            // Without O_CREAT: refused while the kernel itself uses the device, and once for each
            // that has it open.
            open.custom_flags(libc::O_EXCL);
        }
        open.open(self.path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EACCES) if write && self.is_readable() => {
                    OpenError::NotWritable { path: path() }
                }
                Some(libc::EACCES) => OpenError::PermissionDenied { path: path() },
                Some(libc::EPERM) if write => OpenError::Immutable { path: path() },
                Some(libc::EROFS) => OpenError::ReadOnlyFileSystem { path: path() },
                Some(libc::EBUSY) => OpenError::Busy { path: path() },
                Some(libc::ENOENT) => OpenError::NotFound { path: path() },
                _ => OpenError::Io {
                    path: path(),
                    doing: "opening it",
                    source,
                },
            })
    }

    fn is_readable(&self) -> bool {
        File::open(self.path).is_ok()
    }

    fn check_type(&self, metadata: &Metadata) -> Result<(), OpenError> {
        let kind = metadata.file_type();
        if kind.is_dir() {
            return Err(OpenError::Directory {
                path: self.path.to_owned(),
            });
        }
        if !kind.is_file() && !kind.is_block_device() {
            return Err(OpenError::NotADisk {
                path: self.path.to_owned(),
            });
        }
        Ok(())
    }

    /// Applies offset and length to the size of the file.
    fn range(&self, bytes: u64) -> Result<u64, OpenError> {
        let path = || self.path.to_owned();
        let all = bytes / SECTOR_BYTES;
        if all == 0 {
            return Err(OpenError::Empty { path: path() });
        }
        let offset_sectors = self.options.offset_sectors;
        let Some(sectors) = all
            .checked_sub(offset_sectors)
            .filter(|&sectors| sectors > 0)
        else {
            return Err(OpenError::OffsetBeyondEnd {
                path: path(),
                offset_sectors,
                sectors: all,
            });
        };
        match self.options.length_sectors {
            Some(length_sectors) if length_sectors == 0 || length_sectors > sectors => {
                Err(OpenError::LengthOutside {
                    path: path(),
                    length_sectors,
                    sectors,
                })
            }
            length => Ok(length.unwrap_or(sectors)),
        }
    }

    fn lock(
        &self,
        file: &File,
        metadata: &Metadata,
        open: &mut Entered<'_>,
        warnings: &mut Vec<OpenWarning>,
    ) -> Result<Option<Arc<Window>>, OpenError> {
        let start_bytes = self.options.offset_sectors.saturating_mul(SECTOR_BYTES);
        let length = self.options.length_sectors;
        let wanted = Wanted {
            metadata,
            start_bytes,
            end_bytes: length
                .map(|length| start_bytes.saturating_add(length.saturating_mul(SECTOR_BYTES))),
            kind: if self.options.read_only {
                LockKind::Shared
            } else {
                LockKind::Exclusive
            },
        };
        let (outcome, window) = self.step("locking it", open.take(wanted, file))?;
        match outcome {
            Outcome::Locked => Ok(window),
            Outcome::Unsupported => {
                warnings.push(OpenWarning::NoLocks);
                Ok(None)
            }
            Outcome::HeldBy(Holder { pid, shared }) => Err(OpenError::Locked {
                path: self.path.to_owned(),
                pid,
                read_only_helps: shared,
            }),
        }
    }
}

/// The size of a file or device; only seeking knows both.
fn size(mut file: &File) -> io::Result<u64> {
    file.seek(SeekFrom::End(0))
}
