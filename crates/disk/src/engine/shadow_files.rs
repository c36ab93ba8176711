//! The files of a shadow: found at start, made for a freeze, removed when all is merged.
//!
//! A shadow has a path: `PATH` holds its data and `PATH.map` says which of it counts
//! (`shadow/record.rs`). A shadow that is found is never cut off, overwritten or removed unless its
//! map proves that nothing of it is needed.
//!
//! The image carries the shadow's path as an extended attribute, where its file system has them: so
//! that nobody serves it without what was written since the freeze, and nobody merges an old shadow
//! into it later.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{Access, FallocateFlags, XattrFlags};
use rustix::io::Errno;

use super::open::{Backing, IoMode, OpenOptions, open};
pub use super::shadow_error::ShadowFilesError;
use crate::SECTOR_BYTES;
use crate::shadow::{Header, HeaderError, Recovered, Replay, Replayed, UNIT_BYTES};

/// Room made for the map at once: its writes are quicker when it need not grow.
const MAP_BYTES: u64 = 1 << 20;
/// What of the free room the data may take, in fifths; the rest is for the map, which needs less.
const FIFTHS_FOR_DATA: u64 = 4;

/// The attribute of a frozen image.
const MARK: &str = "user.aoede.shadow";
/// The kernel's limit of a path.
const PATH_MAX: usize = 4096;

/// The files of a freeze, locked and ready to be attached to an engine.
#[derive(Debug)]
pub struct ShadowFiles {
    /// As long as the image, and sparse.
    pub data: Backing,
    /// The log.
    pub map: Backing,
    /// Of the freeze.
    pub freeze_id: u64,
}

/// What was found at start.
#[derive(Debug)]
pub enum FoundShadow {
    /// There is no shadow, and one can be made.
    Nothing,
    /// There was one of which nothing is needed any more: it is removed.
    Removed,
    /// A freeze that did not come to its end.
    Unfinished(Box<ShadowFiles>, Recovered),
}

/// Looks for a shadow of this image, and whether one can be made.
///
/// # Errors
/// There is something that is no shadow of this image, or that cannot be used.
pub fn find_shadow(
    path: &Path,
    image: &Backing,
    io: IoMode,
) -> Result<FoundShadow, ShadowFilesError> {
    let size_bytes = image.sectors.saturating_mul(SECTOR_BYTES);
    let place = Place {
        path,
        image,
        size_bytes,
        io,
    };
    place.find()
}

/// Makes the files for a freeze of a disk that has this size now, which may not be the one that its
/// image had when it was opened.
///
/// # Errors
/// They exist already, or cannot be made.
pub fn create_shadow(
    path: &Path,
    image: &Backing,
    size_bytes: u64,
    io: IoMode,
) -> Result<ShadowFiles, ShadowFilesError> {
    let place = Place {
        path,
        image,
        size_bytes,
        io,
    };
    place.create()
}

/// The shadow without which an image is not what its initiators know, as far as the image tells.
pub fn shadow_of(image: &Backing) -> Option<PathBuf> {
    let mut path = vec![0; PATH_MAX];
    let len = rustix::fs::fgetxattr(&image.file, MARK, &mut path).ok()?;
    path.truncate(len);
    Some(std::ffi::OsString::from_vec(path).into())
}

impl ShadowFiles {
    /// Room that the data may take beside what it has: the file system's free room, less what the
    /// map may need.
    ///
    /// # Errors
    /// The file system does not tell.
    pub fn room_bytes(&self) -> io::Result<u64> {
        let told = rustix::fs::fstatvfs(&self.data.file)?;
        let free = told.f_bavail.saturating_mul(told.f_frsize);
        Ok(free / (FIFTHS_FOR_DATA + 1) * FIFTHS_FOR_DATA)
    }

    /// Removes the files, the map last: it says that the data is not needed. Before them the image's
    /// mark, so that no power cut brings it back without them. The room that they take becomes free
    /// when the last descriptor is closed.
    ///
    /// # Errors
    /// What the system said; what is left is removed at the next start.
    pub fn remove(&self, image: &Backing) -> io::Result<()> {
        unmark(image)?;
        remove(&self.data.path)?;
        remove(&self.map.path)?;
        sync_folder(&self.data.path)
    }
}

struct Place<'a> {
    path: &'a Path,
    image: &'a Backing,
    /// Of the export.
    size_bytes: u64,
    io: IoMode,
}

impl Place<'_> {
    fn map_path(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".map");
        name.into()
    }

    /// What the header has of the image's path: names are compared as they were given, since those
    /// of devices lead to another place after each start of the machine.
    fn image_path(&self) -> Vec<u8> {
        let path = std::path::absolute(&self.image.path);
        let path = path.unwrap_or_else(|_| self.image.path.clone());
        path.as_os_str().as_bytes().to_vec()
    }

    fn find(&self) -> Result<FoundShadow, ShadowFilesError> {
        let map_path = self.map_path();
        match (exists(self.path)?, exists(&map_path)?) {
            (false, false) => {
                if let Some(shadow) = shadow_of(self.image) {
                    return Err(ShadowFilesError::Needed {
                        image: self.image.path.clone(),
                        shadow,
                    });
                }
                self.check_folder()?;
                return Ok(FoundShadow::Nothing);
            }
            (true, false) => return Err(ShadowFilesError::NoShadow(self.path.to_owned())),
            (_, true) => {}
        }
        let mut file = step(&map_path, "opening it", File::open(&map_path))?;
        // Locked before it is looked at: its owner may be at work on it.
        let map = match Self::open(&map_path, IoMode::Buffered) {
            Ok(map) => map,
            // Not even a header, so no write was ever promised.
            Err(ShadowFilesError::Open(super::open::OpenError::Empty { .. })) => {
                return self.discard_unused(&map_path);
            }
            Err(error) => return Err(error),
        };
        let mut unit = [0; UNIT_BYTES];
        step(&map_path, "reading it", file.read_exact(&mut unit))?;
        let header = match Header::decode(&unit) {
            Ok(header) => header,
            Err(HeaderError::Blank) => return self.discard_unused(&map_path),
            Err(HeaderError::Damaged) => return Err(ShadowFilesError::Header(map_path)),
            Err(HeaderError::Version(version)) => {
                return Err(ShadowFilesError::Version {
                    path: map_path,
                    version,
                });
            }
        };
        self.check_image(&header)?;
        let recovered = match Self::replay(&map_path, file, &header)? {
            Replayed::Damaged { unit } => {
                return Err(ShadowFilesError::Damaged {
                    path: map_path,
                    unit,
                });
            }
            Replayed::Done => return self.discard(&map_path),
            Replayed::Unfinished(recovered) => recovered,
        };
        if !exists(self.path)? {
            // It is made after the map: a freeze was interrupted before it began.
            if recovered.last_unit() == 0 {
                return self.discard(&map_path);
            }
            return Err(ShadowFilesError::DataMissing(self.path.to_owned()));
        }
        Self::rewrite_last(&map_path, &recovered)?;
        self.grow_data()?;
        let files = ShadowFiles {
            data: Self::open(self.path, self.io)?,
            map,
            freeze_id: header.freeze_id,
        };
        step(&self.image.path, "marking it as frozen", self.mark())?;
        Ok(FoundShadow::Unfinished(Box::new(files), recovered))
    }

    fn check_folder(&self) -> Result<(), ShadowFilesError> {
        let folder = folder(self.path);
        if !folder.is_dir() {
            return Err(ShadowFilesError::NoFolder(folder.to_owned()));
        }
        rustix::fs::access(folder, Access::WRITE_OK | Access::EXEC_OK)
            .map_err(|_| ShadowFilesError::FolderNotWritable(folder.to_owned()))
    }

    fn check_image(&self, header: &Header) -> Result<(), ShadowFilesError> {
        let ours = Header {
            freeze_id: header.freeze_id,
            image_bytes: self.size_bytes,
            base_bytes: self.image.base_bytes,
            path: self.image_path(),
        };
        // Through the form in which it is stored: of a long path the end is kept.
        let ours = Header::decode(&ours.encode()).unwrap_or(ours);
        if ours.path != header.path {
            return Err(ShadowFilesError::OtherImage {
                path: self.path.to_owned(),
                of: std::ffi::OsStr::from_bytes(&header.path).into(),
                image: self.image.path.clone(),
            });
        }
        if ours != *header {
            return Err(ShadowFilesError::OtherRange {
                path: self.path.to_owned(),
                image: self.image.path.clone(),
                offset_sectors: header.base_bytes / SECTOR_BYTES,
                sectors: header.image_bytes / SECTOR_BYTES,
            });
        }
        Ok(())
    }

    fn replay(map_path: &Path, file: File, header: &Header) -> Result<Replayed, ShadowFilesError> {
        let mut replay = Replay::new(header).map_err(ShadowFilesError::Memory)?;
        let mut reader = BufReader::with_capacity(1 << 16, file);
        let mut unit = [0; UNIT_BYTES];
        loop {
            match reader.read_exact(&mut unit) {
                Ok(()) => replay.unit(&unit),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break,
                Err(error) => return step(map_path, "reading it", Err(error)),
            }
        }
        Ok(replay.finish())
    }

    /// As [`Recovered::last_unit`] wants it.
    fn rewrite_last(map_path: &Path, recovered: &Recovered) -> Result<(), ShadowFilesError> {
        let place = recovered.last_unit().saturating_mul(UNIT_BYTES as u64);
        let rewrite = || {
            let mut file = File::options().read(true).write(true).open(map_path)?;
            let mut unit = [0; UNIT_BYTES];
            file.seek(SeekFrom::Start(place))?;
            file.read_exact(&mut unit)?;
            file.seek(SeekFrom::Start(place))?;
            file.write_all(&unit)?;
            file.sync_all()
        };
        step(map_path, "writing to it", rewrite())
    }

    /// A data file that is too short has lost nothing that was promised: it is made longer.
    fn grow_data(&self) -> Result<(), ShadowFilesError> {
        let grow = || {
            let file = File::options().write(true).open(self.path)?;
            if file.metadata()?.len() < self.size_bytes {
                file.set_len(self.size_bytes)?;
                file.sync_all()?;
            }
            Ok(())
        };
        step(self.path, "giving it its size", grow())
    }

    /// Removes what a freeze has left that was interrupted before it began.
    fn discard_unused(&self, map_path: &Path) -> Result<FoundShadow, ShadowFilesError> {
        let data = std::fs::metadata(self.path);
        if data.is_ok_and(|data| data.blocks() > 0) {
            return Err(ShadowFilesError::Header(map_path.to_owned()));
        }
        self.discard(map_path)
    }

    fn discard(&self, map_path: &Path) -> Result<FoundShadow, ShadowFilesError> {
        let unmarked = unmark(self.image);
        step(&self.image.path, "removing its mark", unmarked)?;
        step(self.path, "removing it", remove(self.path))?;
        step(map_path, "removing it", remove(map_path))?;
        step(self.path, "removing it", sync_folder(self.path))?;
        Ok(FoundShadow::Removed)
    }

    fn create(&self) -> Result<ShadowFiles, ShadowFilesError> {
        let map_path = self.map_path();
        if exists(self.path)? || exists(&map_path)? {
            return Err(ShadowFilesError::Exists(self.path.to_owned()));
        }
        let made = self.create_files(&map_path).and_then(|files| {
            step(&self.image.path, "marking it as frozen", self.mark())?;
            Ok(files)
        });
        if made.is_err() {
            // The error at hand is the one to be told.
            let _ = unmark(self.image);
            let _ = remove(self.path);
            let _ = remove(&map_path);
        }
        made
    }

    fn create_files(&self, map_path: &Path) -> Result<ShadowFiles, ShadowFilesError> {
        let header = Header {
            freeze_id: freeze_id(),
            image_bytes: self.size_bytes,
            base_bytes: self.image.base_bytes,
            path: self.image_path(),
        };
        let map = || {
            let mut file = File::options()
                .write(true)
                .create_new(true)
                .open(map_path)?;
            file.write_all(&header.encode())?;
            // It works without, only slower.
            let _ = rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, MAP_BYTES);
            file.sync_all()
        };
        step(map_path, "making it", map())?;
        let data = || {
            let file = File::options()
                .write(true)
                .create_new(true)
                .open(self.path)?;
            file.set_len(self.size_bytes)?;
            file.sync_all()?;
            sync_folder(self.path)
        };
        step(self.path, "making it", data())?;
        Ok(ShadowFiles {
            data: Self::open(self.path, self.io)?,
            map: Self::open(map_path, IoMode::Buffered)?,
            freeze_id: header.freeze_id,
        })
    }

    /// Notes in the image that it needs this shadow, on stable storage. Where that is impossible,
    /// people have to remember.
    fn mark(&self) -> io::Result<()> {
        let path = std::path::absolute(self.path);
        let path = path.unwrap_or_else(|_| self.path.to_owned());
        let path = path.as_os_str().as_bytes();
        match rustix::fs::fsetxattr(&self.image.file, MARK, path, XattrFlags::empty()) {
            Ok(()) => self.image.file.sync_all(),
            Err(errno) if has_no_marks(self.image, errno) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Units are smaller than the blocks of some devices, so that the map is always written through
    /// the page cache, durably.
    fn open(path: &Path, io: IoMode) -> Result<Backing, ShadowFilesError> {
        let options = OpenOptions {
            io,
            ..OpenOptions::default()
        };
        open(path, &options).map_err(ShadowFilesError::Open)
    }
}

fn step<T>(path: &Path, doing: &'static str, result: io::Result<T>) -> Result<T, ShadowFilesError> {
    result.map_err(|source| ShadowFilesError::Io {
        path: path.to_owned(),
        doing,
        source,
    })
}

/// Takes the mark away, on stable storage.
fn unmark(image: &Backing) -> io::Result<()> {
    match rustix::fs::fremovexattr(&image.file, MARK) {
        // It may be gone from the page cache alone.
        Ok(()) | Err(Errno::NODATA) => image.file.sync_all(),
        Err(errno) if has_no_marks(image, errno) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether this is how the image says that it has no attributes: those of devices belong to the
/// system, not to users.
fn has_no_marks(image: &Backing, errno: Errno) -> bool {
    errno == Errno::OPNOTSUPP || (errno == Errno::PERM && image.block_device)
}

/// Whether there is anything under that name, a link that leads nowhere included.
fn exists(path: &Path) -> Result<bool, ShadowFilesError> {
    match std::fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(ShadowFilesError::Io {
            path: path.to_owned(),
            doing: "looking at it",
            source,
        }),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

/// Another for each freeze.
fn freeze_id() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let now = now.unwrap_or_default();
    let (seconds, nanos) = (now.as_secs(), now.subsec_nanos());
    (seconds << 32 | u64::from(nanos)) ^ u64::from(std::process::id()) << 40
}
