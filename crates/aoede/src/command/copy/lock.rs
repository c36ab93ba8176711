//! One copy at a time to one destination: a locked file beside the record. Not the record itself,
//! which is replaced again and again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

/// Held until it is dropped. After a SIGKILL its file is left, empty and not locked: the next copy
/// takes it.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock of the record at `record`.
    ///
    /// # Errors
    /// Another copy has it, or what is at its place is no lock.
    pub(super) fn of(record: &Path) -> anyhow::Result<Self> {
        let mut path = record.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let name = path.display();
        loop {
            let file = open(&path)
                .with_context(|| format!("the lock {name}, which a copy needs (see --state)"))?;
            let opened = file.metadata().with_context(|| name.to_string())?;
            if !opened.is_file() || opened.len() > 0 {
                bail!("{name} is no lock of a copy; give another --state");
            }
            // Any other error means that there are no locks here.
            let taken = flock(&file, FlockOperation::NonBlockingLockExclusive);
            if taken == Err(Errno::WOULDBLOCK) {
                bail!(
                    "another copy to the same destination is under way ({name} is locked); wait for \
                     its end or stop it"
                );
            }
            // Its last holder may have removed it since it was opened.
            let there = fs::symlink_metadata(&path);
            if there.is_ok_and(|there| (there.dev(), there.ino()) == (opened.dev(), opened.ino())) {
                return Ok(Self { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is locked: nobody else has it then. If it stays, it is only untidy.
        let _untidy = fs::remove_file(&self.path);
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(flags.bits().cast_signed())
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_copy_has_it_and_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        let lock = Lock::of(&record).unwrap();
        let error = Lock::of(&record).unwrap_err().to_string();
        assert!(error.starts_with("another copy"), "{error}");
        Lock::of(&folder.path().join("other")).unwrap();
        drop(lock);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        Lock::of(&record).unwrap();
    }

    #[test]
    fn one_that_was_left_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        File::create(folder.path().join("record.lock")).unwrap();
        let _lock = Lock::of(&record).unwrap();
        Lock::of(&record).unwrap_err();
    }

    #[test]
    fn what_is_no_lock_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("full.lock"), "mine").unwrap();
        std::os::unix::fs::symlink("full.lock", path("link.lock")).unwrap();
        fs::create_dir(path("folder.lock")).unwrap();
        for name in ["full", "link", "folder"] {
            Lock::of(&path(name)).unwrap_err();
        }
        assert_eq!(fs::read(path("full.lock")).unwrap(), b"mine");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3);
    }

    /// Whoever takes it over while another lets it go has it alone.
    #[test]
    fn it_is_handed_over_whole() {
        use std::sync::atomic::{AtomicU32, Ordering};
        let folder = tempfile::tempdir().unwrap();
        let record = folder.path().join("record");
        let (inside, taken) = (AtomicU32::new(0), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while taken.load(Ordering::Relaxed) < 1000 {
                        if let Ok(_lock) = Lock::of(&record) {
                            let others = inside.fetch_add(1, Ordering::SeqCst);
                            // The others are to have their turn while it is held.
                            (0..20).for_each(|_| std::thread::yield_now());
                            inside.fetch_sub(1, Ordering::SeqCst);
                            taken.fetch_add(1, Ordering::Relaxed);
                            assert_eq!(others, 0);
                        }
                    }
                });
            }
        });
    }
}
