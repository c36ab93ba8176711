//! A file that lives in memory, mapped: its pages can be lent to the kernel for sending instead of
//! being copied into a buffer first.
//!
//! Nothing here reads the mapping. A page that has gone because the file was truncated is a signal
//! for whoever touches it in user space, but only an error for a system call that is given its
//! address. Others may write to the file at any time, so the bytes are never a plain slice.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::AtomicU8;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// A mapped file, from its first byte on.
#[derive(Debug)]
pub(super) struct Mapping {
    file: File,
    base: NonNull<AtomicU8>,
    len_bytes: usize,
}

impl Mapping {
    /// Maps the first `len_bytes` of a file for reading.
    pub(super) fn new(file: &File, len_bytes: u64) -> io::Result<Rc<Self>> {
        let file = file.try_clone()?;
        let len_bytes = usize::try_from(len_bytes).map_err(io::Error::other)?;
        // SAFETY: without a wanted address the kernel picks a range that nobody uses.
        let base = unsafe {
            mmap(
                std::ptr::null_mut(),
                len_bytes,
                ProtFlags::READ,
                MapFlags::SHARED,
                &file,
                0,
            )
        }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Rc::new(Self {
            file,
            base,
            len_bytes,
        }))
    }

    /// A part of the file, if it lies within the mapping.
    pub(super) fn lend(self: &Rc<Self>, start_bytes: u64, len_bytes: u64) -> Option<Lent> {
        let start = usize::try_from(start_bytes).ok()?;
        let len = usize::try_from(len_bytes).ok()?;
        (start.checked_add(len)? <= self.len_bytes).then(|| Lent {
            mapping: Rc::clone(self),
            start,
            len,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and every `Lent` holds an `Rc` of this value, so none is
        // left that points into it.
        let unmapped = unsafe { munmap(self.base.as_ptr().cast(), self.len_bytes) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

/// A part of a mapped file.
#[derive(Debug)]
pub(super) struct Lent {
    mapping: Rc<Mapping>,
    start: usize,
    len: usize,
}

impl Lent {
    /// Reads the bytes, as they are now, to the start of `data`.
    pub(super) fn copy_to(&self, data: &mut [u8]) -> io::Result<()> {
        let data = data
            .get_mut(..self.len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.mapping.file.read_exact_at(data, self.start as u64)
    }

    /// The bytes, for the kernel to read; see the module's text.
    pub(super) fn bytes(&self) -> &[AtomicU8] {
        // SAFETY: `Mapping::lend` checked that the part begins inside the mapping.
        let start = unsafe { self.mapping.base.add(self.start) };
        // SAFETY: `Mapping::lend` checked that the part lies inside the mapping, which lives as
        // long as our `Rc`; whoever else changes the memory is no matter to atomics.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.len) }
    }
}
