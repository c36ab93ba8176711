//! Parts of one file, served as several disks by one process: they have its locks together.
//!
//! A lock belongs to an open file, and so a second opening of the same file would stand in its own
//! way. The first that is opened among [`Windows`] locks the file; those that come later share that
//! lock, as long as they do not overlap. Other programs are kept out until the last is closed.
#![forbid(unsafe_code)]

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::lock::{self, Holder, Outcome};
use super::sys::LockKind;

/// What a process has open for its disks. A clone is another handle on the same.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    open: Arc<Mutex<Vec<Weak<Window>>>>,
}

/// A part of a file that is open, and the lock on the whole of it.
#[derive(Debug)]
pub(super) struct Window {
    file: Identity,
    /// In the file, with an end that may be far beyond its own: it may grow.
    start_bytes: u64,
    end_bytes: u64,
    /// What the file is locked for.
    kind: LockKind,
    /// Holds the lock. Another takes its place when one to write to is opened after readers.
    lock: Mutex<Arc<File>>,
}

/// Which file or device it is, whatever name it was opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identity {
    File { device: u64, inode: u64 },
    Device(u64),
}

/// The part of a file that is to be opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) start_bytes: u64,
    /// Up to the end, wherever that will be, if not given.
    pub(super) end_bytes: Option<u64>,
    pub(super) kind: LockKind,
}

impl Windows {
    /// Keeps others from opening or closing a part meanwhile.
    pub(super) fn enter(&self) -> Entered<'_> {
        Entered(self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The parts that are open, while one is being opened.
#[derive(Debug)]
pub(super) struct Entered<'a>(MutexGuard<'a, Vec<Weak<Window>>>);

impl Entered<'_> {
    /// Whether a part of the same file is open, so that its lock can be shared.
    pub(super) fn has(&self, metadata: &Metadata) -> bool {
        let file = Identity::of(metadata);
        self.0
            .iter()
            .filter_map(Weak::upgrade)
            .any(|window| window.file == file)
    }

    /// Takes a part of `file`, and its lock if nothing else of it is open here.
    pub(super) fn take(
        &mut self,
        wanted: Wanted<'_>,
        file: &File,
    ) -> io::Result<(Outcome, Option<Arc<Window>>)> {
        let identity = Identity::of(wanted.metadata);
        self.0.retain(|window| window.strong_count() > 0);
        let same: Vec<Arc<Window>> = self
            .0
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|window| window.file == identity)
            .collect();
        let end_bytes = wanted.end_bytes.unwrap_or(u64::MAX);
        let writes = |kind| kind == LockKind::Exclusive;
        let overlaps = |window: &&Arc<Window>| {
            let apart = window.end_bytes <= wanted.start_bytes || end_bytes <= window.start_bytes;
            !apart && (writes(window.kind) || writes(wanted.kind))
        };
        if let Some(window) = same.iter().find(overlaps) {
            let holder = Holder {
                pid: Some(std::process::id()),
                shared: !writes(window.kind),
            };
            return Ok((Outcome::HeldBy(holder), None));
        }
        let strong = same
            .iter()
            .find(|window| writes(window.kind) || window.kind == wanted.kind);
        let lock = match (strong, same.first()) {
            (Some(window), _) => window.lock(),
            (None, None) => match Self::lock(file, wanted.kind)? {
                Ok(lock) => lock,
                Err(outcome) => return Ok((outcome, None)),
            },
            (None, Some(reader)) => {
                // A file that was opened to be read cannot hold a writer's lock.
                let old = reader.lock();
                lock::unlock(&old);
                match Self::lock(file, wanted.kind)? {
                    Ok(lock) => {
                        for window in &same {
                            window.set_lock(&lock);
                        }
                        lock
                    }
                    Err(outcome) => {
                        lock::lock(&old, LockKind::Shared)?;
                        return Ok((outcome, None));
                    }
                }
            }
        };
        let window = Arc::new(Window {
            file: identity,
            start_bytes: wanted.start_bytes,
            end_bytes,
            kind: wanted.kind,
            lock: Mutex::new(lock),
        });
        self.0.push(Arc::downgrade(&window));
        Ok((Outcome::Locked, Some(window)))
    }

    fn lock(file: &File, kind: LockKind) -> io::Result<Result<Arc<File>, Outcome>> {
        Ok(match lock::lock(file, kind)? {
            Outcome::Locked => Ok(Arc::new(file.try_clone()?)),
            outcome => Err(outcome),
        })
    }
}

impl Window {
    fn lock(&self) -> Arc<File> {
        Arc::clone(&self.lock.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_lock(&self, lock: &Arc<File>) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(lock);
    }
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            Self::Device(metadata.rdev())
        } else {
            Self::File {
                device: metadata.dev(),
                inode: metadata.ino(),
            }
        }
    }
}
