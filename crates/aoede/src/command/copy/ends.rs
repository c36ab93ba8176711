//! The two ends of a copy: what they are, whether they may be used, and how each is known again.
//!
//! Nothing is changed here before [`WriteEnd::prepare`], but that an empty file is made where there
//! was none; it is removed again if the copy is refused.

use std::convert::Infallible;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aoede_initiator::{Disk, Identity, Request};
use aoede_wire::{Address, SECTOR_BYTES};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::disk::{Abilities, DiskComparer, DiskSink, DiskSource};
use super::file::{FileComparer, FileSink, FileSource, Zeros};
use super::pump::{Sink, Source};
use super::state::{Modified, Side};
use super::zeros::is_zero;
use crate::stop::Stop;

/// Where a disk is looked at to see whether it is blank, at its beginning and at its end: partition
/// tables and the headers of file systems lie there.
const EDGE_BYTES: u64 = 1 << 20;
/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// One end of a copy, as it is named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What reads as an address: `e1.1`, `1.1`.
    Disk(Address),
    /// Anything else; `./1.1` for a file of such a name.
    Path(PathBuf),
}

impl FromStr for Place {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text.parse() {
            Ok(address) => Self::Disk(address),
            Err(_) => Self::Path(text.into()),
        })
    }
}

/// A file or block device that is open.
#[derive(Debug)]
struct Local {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
    is_device: bool,
}

impl Local {
    fn of(file: File, path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let metadata = file.metadata().with_context(|| name.to_string())?;
        let kind = metadata.file_type();
        let is_device = kind.is_block_device();
        if !is_device && !kind.is_file() {
            bail!("{name} is neither a regular file nor a block device");
        }
        let bytes =
            bytes_of(&file, is_device).with_context(|| format!("{name}: asking for its size"))?;
        // The name that is the same from everywhere.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self {
            file: Arc::new(file),
            path,
            bytes,
            is_device,
        })
    }

    fn text(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    /// Whether it could be locked: false if somebody else uses it. Where there are no locks, all
    /// is well.
    fn lock(&self, how: FlockOperation) -> bool {
        !matches!(flock(&*self.file, how), Err(Errno::WOULDBLOCK))
    }
}

/// Where data is read.
#[derive(Debug)]
pub(super) enum ReadEnd {
    Disk { disk: Disk, identity: Identity },
    Local(LocalSource),
}

/// A file or device that is read.
#[derive(Debug)]
pub(super) struct LocalSource {
    local: Local,
    modified: Option<Modified>,
}

impl ReadEnd {
    pub(super) fn disk(disk: Disk) -> anyhow::Result<Self> {
        let identity = disk.info()?.identity;
        Ok(Self::Disk { disk, identity })
    }

    /// # Errors
    /// It is not there, may not be read, or is nothing that can be copied.
    pub(super) fn path(path: &Path) -> anyhow::Result<Self> {
        // A pipe is not waited for, but refused.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .with_context(|| path.display().to_string())?;
        let local = Local::of(file, path)?;
        let is_taken = local.is_device && is_taken(path);
        if is_taken || !local.lock(FlockOperation::NonBlockingLockShared) {
            eprintln!(
                "aoede: {} is in use: what changes while it is copied is half old and half new",
                local.text()
            );
        }
        let modified = modified(&local)?;
        Ok(Self::Local(LocalSource { local, modified }))
    }

    /// What is copied: whole sectors.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Disk { identity, .. } => disk_bytes(identity),
            Self::Local(source) => source.local.bytes.next_multiple_of(SECTOR_BYTES as u64),
        }
    }

    pub(super) fn side(&self) -> Side {
        match self {
            Self::Disk { disk, identity } => disk_side(disk, identity),
            Self::Local(LocalSource { local, .. }) if local.is_device => {
                device_side(local, local.bytes)
            }
            Self::Local(LocalSource { local, modified }) => {
                source_side(local, local.bytes, *modified)
            }
        }
    }

    /// Reads it from byte `from` on, with so many requests or buffers.
    pub(super) fn source(&self, from: u64, depth: usize) -> Box<dyn Source> {
        match self {
            Self::Disk { disk, .. } => Box::new(DiskSource::new(disk, from, self.bytes(), depth)),
            Self::Local(LocalSource { local, .. }) => Box::new(FileSource::new(
                Arc::clone(&local.file),
                local.path.clone(),
                from,
                local.bytes,
                2 * depth,
            )),
        }
    }

    /// Whole sectors; what the last sector of a file lacks is zeros.
    ///
    /// # Errors
    /// It cannot be read, or a stop was asked for.
    pub(super) fn read(&self, from: u64, bytes: u64, stop: &Stop) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Disk { disk, .. } => read_disk(disk, from, bytes, stop),
            Self::Local(LocalSource { local, .. }) => read_local(local, from, bytes),
        }
    }

    /// Whether it is still what it was when it was opened, as far as that can be seen: of the
    /// content of a disk or device nobody can tell.
    ///
    /// # Errors
    /// What has changed, or that it cannot be asked.
    pub(super) fn check_unchanged(&self) -> anyhow::Result<()> {
        let now = match self {
            Self::Disk { disk, .. } => {
                let identity = disk
                    .identity()
                    .with_context(|| disk.address().to_string())?;
                disk_side(disk, &identity)
            }
            Self::Local(LocalSource { local, .. }) => {
                let bytes = bytes_of(&local.file, local.is_device).with_context(|| local.text())?;
                if local.is_device {
                    device_side(local, bytes)
                } else {
                    source_side(local, bytes, modified(local)?)
                }
            }
        };
        self.side().check(&now)
    }
}

/// Whole sectors of a disk, or the news that a stop was asked for.
fn read_disk(disk: &Disk, from: u64, bytes: u64, stop: &Stop) -> anyhow::Result<Vec<u8>> {
    let name = || disk.address().to_string();
    let lba = from / SECTOR_BYTES as u64;
    let buffer = vec![0; usize::try_from(bytes)?];
    let mut queue = disk.queue(1);
    let taken = queue.submit(0, Request::Read { lba, buffer });
    taken.with_context(name)?;
    loop {
        if stop.take() {
            bail!("interrupted");
        }
        if let Some(done) = queue.wait_for(LOOK) {
            done.result.with_context(name)?;
            return done.buffer.context("the data of a read is missing");
        }
    }
}

/// What a file or device has; behind its end are zeros.
fn read_local(local: &Local, from: u64, bytes: u64) -> anyhow::Result<Vec<u8>> {
    let mut data = vec![0; usize::try_from(bytes)?];
    let there = local.bytes.saturating_sub(from).min(bytes);
    let (content, _) = data.split_at_mut(usize::try_from(there)?);
    let read = local.file.read_exact_at(content, from);
    read.with_context(|| local.text())?;
    Ok(data)
}

/// Its size now.
fn bytes_of(mut file: &File, is_device: bool) -> io::Result<u64> {
    if is_device {
        file.seek(io::SeekFrom::End(0))
    } else {
        Ok(file.metadata()?.len())
    }
}

/// Whether a device is mounted, or part of something: the kernel does not give it exclusively then.
fn is_taken(path: &Path) -> bool {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::EXCL.bits().cast_signed());
    let opened = options.open(path);
    opened.is_err_and(|error| error.raw_os_error() == Some(Errno::BUSY.raw_os_error()))
}

/// Whether two names are one file or device.
fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    let same_file = (one.dev(), one.ino()) == (other.dev(), other.ino());
    let device = one.file_type().is_block_device() && other.file_type().is_block_device();
    Ok(same_file || (device && one.rdev() == other.rdev()))
}

/// When a regular file was last changed.
fn modified(local: &Local) -> anyhow::Result<Option<Modified>> {
    if local.is_device {
        return Ok(None);
    }
    let metadata = local.file.metadata().with_context(|| local.text())?;
    Ok(Some(Modified {
        seconds: metadata.mtime(),
        nanos: metadata.mtime_nsec(),
    }))
}

fn disk_bytes(identity: &Identity) -> u64 {
    identity.sectors.saturating_mul(SECTOR_BYTES as u64)
}

fn disk_side(disk: &Disk, identity: &Identity) -> Side {
    Side::Disk {
        address: disk.address().to_string(),
        serial: identity.serial.clone(),
        model: identity.model.clone(),
        bytes: disk_bytes(identity),
    }
}

fn device_side(local: &Local, bytes: u64) -> Side {
    Side::Device {
        path: local.text(),
        bytes,
    }
}

fn source_side(local: &Local, bytes: u64, modified: Option<Modified>) -> Side {
    Side::File {
        path: local.text(),
        bytes,
        modified,
        inode: None,
    }
}

/// Where data is written.
#[derive(Debug)]
pub(super) enum WriteEnd {
    Disk { disk: Disk, identity: Identity },
    Local(LocalSink),
}

/// A file or device that is written.
#[derive(Debug)]
pub(super) struct LocalSink {
    local: Local,
    inode: u64,
    /// An empty file that we have made, and locked, until it is prepared.
    fresh: Option<PathBuf>,
}

impl Drop for LocalSink {
    fn drop(&mut self) {
        if let Some(path) = &self.fresh {
            // If it stays, it is only untidy.
            let _untidy = fs::remove_file(path);
        }
    }
}

/// Opens it, or makes an empty file, and says whether that was made.
fn open_or_make(options: &mut OpenOptions, path: &Path) -> io::Result<(File, bool)> {
    match options.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        result => return Ok((result?, false)),
    }
    match options.create_new(true).open(path) {
        // A link to nothing, or somebody was faster.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let file = options.create_new(false).create(true).open(path)?;
            Ok((file, false))
        }
        result => Ok((result?, true)),
    }
}

impl WriteEnd {
    pub(super) fn disk(disk: Disk) -> anyhow::Result<Self> {
        let identity = disk.info()?.identity;
        Ok(Self::Disk { disk, identity })
    }

    /// Opens it, or makes an empty file.
    ///
    /// # Errors
    /// It is in use, may not be written, is nothing that can be written to, or is the source.
    pub(super) fn path(path: &Path, source: &ReadEnd) -> anyhow::Result<Self> {
        let name = path.display();
        let is_device =
            fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device());
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if is_device {
            // The kernel's way to say: not while it is mounted, or part of something.
            options.custom_flags(OFlags::EXCL.bits().cast_signed());
        }
        let (file, is_new) = match open_or_make(&mut options, path) {
            Err(error) if is_device && error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
                bail!(
                    "{name} is in use (mounted, a part of another device, or open); free it first"
                )
            }
            result => result.with_context(|| name.to_string())?,
        };
        let inode = file.metadata().with_context(|| name.to_string())?.ino();
        let local = Local::of(file, path)?;
        if let ReadEnd::Local(LocalSource { local: from, .. }) = source
            && is_same(&from.file, &local.file).with_context(|| name.to_string())?
        {
            bail!("{name} is source and destination");
        }
        if !local.lock(FlockOperation::NonBlockingLockExclusive) {
            bail!("{name} is in use by another process (it is locked); stop that first");
        }
        // Only now, as nobody else has it.
        let fresh = is_new.then(|| local.path.clone());
        Ok(Self::Local(LocalSink {
            local,
            inode,
            fresh,
        }))
    }

    pub(super) fn side(&self, bytes: u64) -> Side {
        match self {
            Self::Disk { disk, identity } => disk_side(disk, identity),
            Self::Local(LocalSink { local, .. }) if local.is_device => {
                device_side(local, local.bytes)
            }
            // As it will be: it is as large as its source.
            Self::Local(LocalSink { local, inode, .. }) => Side::File {
                path: local.text(),
                bytes,
                modified: None,
                inode: Some(*inode),
            },
        }
    }

    /// Its size, if it has one of its own.
    pub(super) fn room(&self) -> Option<u64> {
        match self {
            Self::Disk { identity, .. } => Some(disk_bytes(identity)),
            Self::Local(LocalSink { local, .. }) => local.is_device.then_some(local.bytes),
        }
    }

    /// The path of a regular file.
    pub(super) fn file_path(&self) -> Option<&Path> {
        match self {
            Self::Local(LocalSink { local, .. }) if !local.is_device => Some(&local.path),
            _ => None,
        }
    }

    /// The size of a regular file, as it was when it was opened.
    pub(super) fn file_bytes(&self) -> Option<u64> {
        match self {
            Self::Local(LocalSink { local, .. }) if !local.is_device => Some(local.bytes),
            _ => None,
        }
    }

    /// Whether it has nothing that could be lost: an empty file, a disk with zeros at both ends.
    ///
    /// # Errors
    /// It cannot be read, or a stop was asked for.
    pub(super) fn is_blank(&self, stop: &Stop) -> anyhow::Result<bool> {
        let Some(room) = self.room() else {
            return Ok(self.file_bytes() == Some(0));
        };
        let edge = room.min(EDGE_BYTES);
        for from in [0, room - edge] {
            let data = self.read(from, edge, stop);
            let data = data.context("looking whether it is blank")?;
            if !is_zero(&data) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// # Errors
    /// It cannot be read, or a stop was asked for.
    pub(super) fn read(&self, from: u64, bytes: u64, stop: &Stop) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::Disk { disk, .. } => read_disk(disk, from, bytes, stop),
            Self::Local(LocalSink { local, .. }) => read_local(local, from, bytes),
        }
    }

    /// Whether it can be said when something is on stable storage.
    pub(super) fn can_sync(&self) -> bool {
        match self {
            Self::Disk { identity, .. } => identity.can_flush(),
            Self::Local(_) => true,
        }
    }

    /// Makes a file `bytes` long, with holes from byte `from` on.
    ///
    /// # Errors
    /// What the file system said.
    pub(super) fn prepare(&mut self, from: u64, bytes: u64) -> anyhow::Result<()> {
        let Self::Local(LocalSink { local, fresh, .. }) = self else {
            return Ok(());
        };
        // From here on it stays.
        *fresh = None;
        if local.is_device {
            return Ok(());
        }
        let file = &local.file;
        file.set_len(from)
            .and_then(|()| file.set_len(bytes))
            .with_context(|| format!("{}: making it {bytes} bytes long", local.text()))
    }

    /// # Errors
    /// There is no thread to be had.
    pub(super) fn sink(&self, depth: usize) -> anyhow::Result<Box<dyn Sink>> {
        Ok(match self {
            Self::Disk { disk, identity } => {
                let abilities = Abilities {
                    trim_zeroes: identity.trim_zeroes && identity.trim_blocks > 0,
                    flush: self.can_sync(),
                };
                Box::new(DiskSink::new(disk, abilities, depth))
            }
            Self::Local(LocalSink { local, .. }) => {
                let zeros = if local.is_device {
                    Zeros::Punch
                } else {
                    Zeros::Holes
                };
                let file = Arc::clone(&local.file);
                let sink = FileSink::new(file, local.path.clone(), zeros);
                Box::new(sink.context("cannot start a thread")?)
            }
        })
    }

    /// Reads it again, to be compared.
    pub(super) fn comparer(&self, depth: usize) -> Comparer {
        match self {
            Self::Disk { disk, .. } => Comparer::Disk(DiskComparer::new(disk, depth)),
            Self::Local(LocalSink { local, .. }) => Comparer::Local(FileComparer::new(
                Arc::clone(&local.file),
                local.path.clone(),
            )),
        }
    }
}

/// Either kind.
#[derive(Debug)]
pub(super) enum Comparer {
    Disk(DiskComparer),
    Local(FileComparer),
}

impl Comparer {
    pub(super) fn sink(&mut self) -> &mut dyn Sink {
        match self {
            Self::Disk(disk) => disk,
            Self::Local(local) => local,
        }
    }

    /// The first byte that differs.
    pub(super) fn difference(&self) -> Option<u64> {
        match self {
            Self::Disk(disk) => disk.difference(),
            Self::Local(local) => local.difference(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_changes_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("source");
        fs::write(&path, "1234").unwrap();
        let source = ReadEnd::path(&path).unwrap();
        source.check_unchanged().unwrap();
        let file = OpenOptions::new().append(true).open(&path).unwrap();
        file.set_len(5).unwrap();
        let error = source.check_unchanged().unwrap_err().to_string();
        assert!(
            error.ends_with("source has 5 bytes now, and had 4 when the copy began"),
            "{error}"
        );
        file.set_len(4).unwrap();
        let long_ago = std::time::UNIX_EPOCH + Duration::from_secs(1);
        file.set_modified(long_ago).unwrap();
        let error = source.check_unchanged().unwrap_err().to_string();
        assert!(
            error.ends_with("source was changed since the copy began"),
            "{error}"
        );
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
        rustix::fs::mknodat(rustix::fs::CWD, &path, kind, mode, 0).unwrap();
        let error = ReadEnd::path(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("pipe is neither a regular file nor a block device"),
            "{error}"
        );
    }

    #[test]
    fn a_destination_that_was_made_goes_if_nothing_comes_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("source"), "1234").unwrap();
        fs::write(path("empty"), "").unwrap();
        std::os::unix::fs::symlink("nothing", path("link")).unwrap();
        let source = ReadEnd::path(&path("source")).unwrap();
        let open = |name: &str| WriteEnd::path(&path(name), &source).unwrap();

        let sink = open("new");
        assert!(path("new").exists());
        WriteEnd::path(&path("new"), &source).unwrap_err();
        assert!(path("new").exists(), "it is the first one's");
        drop(sink);
        assert!(!path("new").exists());
        drop(open("empty"));
        assert!(path("empty").exists(), "it was there before");
        drop(open("link"));

        let mut sink = open("new");
        sink.prepare(0, 512).unwrap();
        drop(sink);
        assert_eq!(fs::metadata(path("new")).unwrap().len(), 512);
    }

    #[test]
    fn what_reads_as_an_address_is_a_disk() {
        let e1_1 = Place::Disk(Address::new(1, 1).unwrap());
        for (text, place) in [
            ("e1.1", e1_1.clone()),
            ("1.1", e1_1),
            ("./1.1", Place::Path("./1.1".into())),
            ("disk.img", Place::Path("disk.img".into())),
            ("/dev/sdb", Place::Path("/dev/sdb".into())),
            ("e1", Place::Path("e1".into())),
        ] {
            assert_eq!(text.parse(), Ok(place), "{text}");
        }
    }
}
