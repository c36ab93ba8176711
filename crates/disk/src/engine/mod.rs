//! Engines carry out device operations: one trait, one file per kernel interface.
//!
//! Read next: `blocking.rs`, the reference the others are compared with.
#![deny(unsafe_code)]

#[expect(unsafe_code, reason = "the kernel works on buffers while we hold them")]
pub mod aio;
#[expect(
    unsafe_code,
    reason = "system calls, and memory shared with the kernel"
)]
mod aio_context;
pub mod blocking;
mod flight;
mod geometry;
mod lock;
#[expect(unsafe_code, reason = "maps files and hands out parts of them")]
mod mapping;
#[cfg(not(uring))]
pub mod no_uring;
pub mod open;
mod open_error;
#[expect(unsafe_code, reason = "maps memory and hands out slices of it")]
pub mod pool;
mod shadow_error;
pub mod shadow_files;
pub mod sim;
#[expect(unsafe_code, reason = "system calls that rustix does not have")]
mod sys;
mod trial;
#[cfg(uring)]
#[expect(unsafe_code, reason = "the kernel works on buffers while we hold them")]
pub mod uring;
pub mod windows;
pub mod wrap;

use std::io;

use crate::device::{Completion, DeviceOp};
use open::Backing;

/// The most pieces of memory that a transfer has; one with more is done in part. The kernel takes
/// 1024 (`IOV_MAX`).
const MAX_PIECES: usize = 256;

/// An open file as an engine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// Carries out device operations on any number of files.
///
/// Call order, as often as you like: [`submit`](Self::submit) what there is to do,
/// [`kick`](Self::kick) once, [`poll`](Self::poll) until it gives nothing. Only then may the
/// caller sleep: an engine's file descriptor tells of completions that come later, not of those
/// that already wait.
///
/// A transfer may be short: at the end of the file, where the kernel wants it so, and where its
/// memory has more than 256 pieces. With direct I/O each piece has to be aligned.
pub trait Engine<B> {
    /// Adds a file. The engine keeps a descriptor of its own, and so the backing's locks, until
    /// [`Self::detach`].
    ///
    /// # Errors
    /// No descriptor is left.
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId>;

    /// Lets go of a file. Operations still in flight on it finish as usual; its id may then name
    /// another file.
    fn detach(&mut self, file: FileId);

    /// Queues an operation.
    ///
    /// # Errors
    /// Gives the operation back when as many as the engine was made for are in flight.
    fn submit(&mut self, file: FileId, op: DeviceOp<B>) -> Result<(), DeviceOp<B>>;

    /// Hands everything queued to the kernel, in one call where the kernel lets us.
    ///
    /// # Errors
    /// The kernel took nothing and has nothing of ours; what is queued stays queued.
    fn kick(&mut self) -> io::Result<()>;

    /// The next completion, without waiting.
    fn poll(&mut self) -> Option<(FileId, Completion<B>)>;

    /// Operations submitted whose completion was not polled yet.
    fn in_flight(&self) -> usize;
}

/// Open files by id, with freed places used again.
#[derive(Debug)]
struct Files<T> {
    entries: Vec<Option<T>>,
}

impl<T> Files<T> {
    fn new() -> Self {
        Self {
            entries: Vec::new(),
        }
    }

    fn add(&mut self, file: T) -> FileId {
        let index = self.entries.iter().position(Option::is_none);
        let index = index.unwrap_or_else(|| {
            self.entries.push(None);
            self.entries.len() - 1
        });
        if let Some(entry) = self.entries.get_mut(index) {
            *entry = Some(file);
        }
        FileId(u32::try_from(index).unwrap_or(u32::MAX))
    }

    fn get(&self, file: FileId) -> Option<&T> {
        self.entries.get(file.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, file: FileId) -> Option<&mut T> {
        self.entries.get_mut(file.0 as usize)?.as_mut()
    }

    fn remove(&mut self, file: FileId) -> Option<T> {
        self.entries.get_mut(file.0 as usize)?.take()
    }
}
