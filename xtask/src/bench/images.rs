//! The files that are served: one in memory, one on an ordinary disk, both full of noise, so that
//! neither holes nor compression make anything easy; a sparse one, where holes are the matter; and
//! what is copied of them.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::target_folder;
use rustix::fs::{Advice, fadvise, statvfs};

use super::interrupt::Interrupt;
use super::rows::Image;
use super::say;

const PREFIX: &str = "aoede-bench-";
const MEMORY: &str = "/dev/shm";
const CHUNK: usize = 1 << 20;
/// Of a sparse file, one chunk in so many is noise.
const SPARSE: u64 = 4;

/// How large they are.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units stand last")]
pub(super) struct Sizes {
    pub(super) memory_bytes: u64,
    /// Of the sparse one, holes included.
    pub(super) sparse_bytes: u64,
    pub(super) disk_bytes: u64,
}

impl Sizes {
    pub(super) fn mib(memory: u64, disk: u64) -> Self {
        Self {
            memory_bytes: super::mib(memory),
            sparse_bytes: 0,
            disk_bytes: super::mib(disk),
        }
    }

    /// Without the file that nobody needs.
    pub(super) fn only_for(self, all_rows_use: impl Fn(Image) -> bool) -> Self {
        Self {
            memory_bytes: if all_rows_use(Image::Disk) {
                0
            } else {
                self.memory_bytes
            },
            disk_bytes: if all_rows_use(Image::Memory) {
                0
            } else {
                self.disk_bytes
            },
            ..self
        }
    }
}

/// The files. Dropping them removes them.
#[derive(Debug)]
pub(super) struct Images {
    memory: Temporary,
    sparse: Temporary,
    disk: Temporary,
    copy: Temporary,
    /// How far a copy is.
    record: Temporary,
}

impl Images {
    /// Makes them, but not the one of size 0, and removes those of runs that were killed.
    pub(super) fn make(sizes: Sizes, interrupt: &Interrupt) -> Result<Self> {
        let (memory, disk) = (Path::new(MEMORY), target_folder().join("bench"));
        for folder in [memory, &disk] {
            remove_stale(folder);
        }
        let images = Self {
            memory: Temporary::in_folder(memory, "full"),
            sparse: Temporary::in_folder(memory, "sparse"),
            disk: Temporary::in_folder(&disk, "full"),
            copy: Temporary::in_folder(memory, "copy"),
            record: Temporary::in_folder(memory, "record"),
        };
        images.memory.make(sizes.memory_bytes, 1, interrupt)?;
        images.sparse.make(sizes.sparse_bytes, SPARSE, interrupt)?;
        images.disk.make(sizes.disk_bytes, 1, interrupt)?;
        Ok(images)
    }

    pub(super) fn path(&self, image: Image) -> &Path {
        match image {
            Image::Memory => &self.memory.0,
            Image::Sparse => &self.sparse.0,
            Image::Disk => &self.disk.0,
        }
    }

    /// Where a copy goes, and the record of how far it is. Nothing is there.
    pub(super) fn place_for_copy(&self) -> (&Path, &Path) {
        for place in [&self.copy, &self.record] {
            place.remove();
        }
        (&self.copy.0, &self.record.0)
    }

    /// Compares a copy with its source. Returns how many bytes of storage it takes.
    ///
    /// # Errors
    /// They differ, or the copy takes more storage.
    pub(super) fn check_copy(&self, image: Image) -> Result<u64> {
        let (mut source, mut copy) = (File::open(self.path(image))?, File::open(&self.copy.0)?);
        let (before, after) = (source.metadata()?, copy.metadata()?);
        ensure!(before.len() == after.len(), "the copy has another size");
        ensure!(
            after.blocks() <= before.blocks(),
            "the copy takes more storage than its source"
        );
        let (mut expected, mut found) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut left = before.len();
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            expected.truncate(len);
            found.truncate(len);
            source.read_exact(&mut expected)?;
            copy.read_exact(&mut found)?;
            ensure!(expected == found, "the copy differs from its source");
            left -= len as u64;
        }
        // Blocks of 512 bytes, whatever those of the file system are.
        Ok(after.blocks() * 512)
    }

    /// Puts a file out of the page cache.
    pub(super) fn forget(&self, image: Image) -> Result<()> {
        let path = self.path(image);
        File::open(path)
            .map_err(anyhow::Error::from)
            .and_then(|file| settle(&file))
            .with_context(|| format!("cannot drop {} from the page cache", path.display()))
    }
}

#[derive(Debug)]
struct Temporary(PathBuf);

impl Temporary {
    fn in_folder(folder: &Path, name: &str) -> Self {
        Self(folder.join(format!("{PREFIX}{}.{name}", process::id())))
    }

    /// Makes it, of whatever size but 0, with noise in one chunk of so many.
    fn make(&self, bytes: u64, one_in: u64, interrupt: &Interrupt) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let folder = self.0.parent().context("a file is in no folder")?;
        let room = statvfs(folder).with_context(|| format!("no {}", folder.display()))?;
        let free = room.f_bavail * room.f_frsize;
        ensure!(
            free > bytes + bytes / 8,
            "{} has only {} MiB free; see --memory-mib and --disk-mib",
            folder.display(),
            free >> 20
        );
        self.fill(bytes, one_in, interrupt)
            .with_context(|| format!("cannot fill {}", self.0.display()))
    }

    fn fill(&self, bytes: u64, one_in: u64, interrupt: &Interrupt) -> Result<()> {
        say(&format!(
            "filling {} with {} MiB of noise",
            self.0.display(),
            (bytes / one_in) >> 20
        ));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.0)?;
        let mut chunk = vec![0; CHUNK];
        let mut state = 0x9E37_79B9_7F4A_7C15;
        file.set_len(bytes)?;
        let mut at = 0;
        while at < bytes {
            interrupt.check()?;
            state = noise(state, &mut chunk);
            let len = usize::try_from(bytes - at).unwrap_or(CHUNK).min(CHUNK);
            file.seek(SeekFrom::Start(at))?;
            file.write_all(chunk.get(..len).unwrap_or(&chunk))?;
            at += CHUNK as u64 * one_in;
        }
        settle(&file)
    }

    fn remove(&self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Everything on the disk, and nothing of it in the page cache, where it would be in the way of
/// direct I/O.
fn settle(file: &File) -> Result<()> {
    file.sync_all()?;
    fadvise(file, 0, None, Advice::DontNeed)?;
    Ok(())
}

/// Fills a chunk with xorshift64 and returns the state for the next.
fn noise(mut state: u64, chunk: &mut [u8]) -> u64 {
    for bytes in chunk.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.copy_from_slice(&state.to_le_bytes());
    }
    state
}

/// Removes files of processes that are gone.
fn remove_stale(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX)?.split('.').next());
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another run may be removing it at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
}
