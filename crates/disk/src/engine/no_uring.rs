//! In the place of `uring.rs` on machines that its library does not know: an engine that cannot be
//! made, so that programs need not tell machines apart.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::open::Backing;
use super::pool::{Buffer, Pool};
use super::{Engine, FileId};
use crate::device::{Completion, DeviceOp};

/// There is none here.
#[derive(Debug)]
pub enum UringEngine {}

impl UringEngine {
    /// Fails.
    ///
    /// # Errors
    /// Always `Unsupported`.
    pub fn new(_capacity: usize, _pool: &Pool) -> io::Result<Self> {
        let why = "io_uring is not supported on this kind of machine";
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }
}

impl Engine<Buffer> for UringEngine {
    fn attach(&mut self, _backing: &Backing) -> io::Result<FileId> {
        match *self {}
    }

    fn detach(&mut self, _file: FileId) {
        match *self {}
    }

    fn submit(&mut self, _file: FileId, _op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        match *self {}
    }

    fn kick(&mut self) -> io::Result<()> {
        match *self {}
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        match *self {}
    }

    fn in_flight(&self) -> usize {
        match *self {}
    }
}

impl AsFd for UringEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match *self {}
    }
}
