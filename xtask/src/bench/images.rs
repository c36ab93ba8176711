//! The files that are served: one in memory, one on an ordinary disk, both full of noise, so that
//! neither holes nor compression make anything easy.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
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

/// How large they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) memory_bytes: u64,
    pub(super) disk_bytes: u64,
}

impl Sizes {
    pub(super) fn mib(memory: u64, disk: u64) -> Self {
        Self {
            memory_bytes: super::mib(memory),
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
        }
    }
}

/// The two files. Dropping them removes them.
#[derive(Debug)]
pub(super) struct Images {
    memory: Temporary,
    disk: Temporary,
}

impl Images {
    /// Makes them, but not the one of size 0, and removes those of runs that were killed.
    pub(super) fn make(sizes: Sizes, interrupt: &Interrupt) -> Result<Self> {
        let disk = target_folder().join("bench");
        Ok(Self {
            memory: Temporary::make(Path::new(MEMORY), sizes.memory_bytes, interrupt)?,
            disk: Temporary::make(&disk, sizes.disk_bytes, interrupt)?,
        })
    }

    pub(super) fn path(&self, image: Image) -> &Path {
        match image {
            Image::Memory => &self.memory.0,
            Image::Disk => &self.disk.0,
        }
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
    fn make(folder: &Path, bytes: u64, interrupt: &Interrupt) -> Result<Self> {
        remove_stale(folder);
        let path = folder.join(format!("{PREFIX}{}.img", process::id()));
        let image = Self(path);
        if bytes > 0 {
            let room = statvfs(folder).with_context(|| format!("no {}", folder.display()))?;
            let free = room.f_bavail * room.f_frsize;
            ensure!(
                free > bytes + bytes / 8,
                "{} has only {} MiB free; see --memory-mib and --disk-mib",
                folder.display(),
                free >> 20
            );
            image
                .fill(bytes, interrupt)
                .with_context(|| format!("cannot fill {}", image.0.display()))?;
        }
        Ok(image)
    }

    fn fill(&self, bytes: u64, interrupt: &Interrupt) -> Result<()> {
        say(&format!(
            "filling {} with {} MiB of noise",
            self.0.display(),
            bytes >> 20
        ));
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&self.0)?;
        let mut chunk = vec![0; CHUNK];
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut left = bytes;
        while left > 0 {
            interrupt.check()?;
            state = noise(state, &mut chunk);
            let len = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            file.write_all(chunk.get(..len).unwrap_or(&chunk))?;
            left -= len as u64;
        }
        settle(&file)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may never have been made.
        let _ = fs::remove_file(&self.0);
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
            .and_then(|name| name.strip_prefix(PREFIX)?.strip_suffix(".img"));
        if owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists()) {
            // Another run may be removing it at the same time.
            let _ = fs::remove_file(entry.path());
        }
    }
}
