//! The reference engine: each operation is a system call that waits.
//!
//! For kernels without io_uring, for tests, and for files that live in memory.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use rustix::fs::FallocateFlags;
use rustix::io::{ReadWriteFlags, preadv2, pwritev2};

use super::open::{Backing, IoMode};
use super::windows::Window;
use super::{Engine, FileId, Files, MAX_PIECES};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpKind};

/// What passes through the page cache is not kept there.
pub(super) const DONTCACHE: ReadWriteFlags =
    ReadWriteFlags::from_bits_retain(libc::RWF_DONTCACHE as u32);

/// Carries out operations one after another, in the order of submission.
#[derive(Debug)]
pub struct BlockingEngine<B> {
    files: Files<Target>,
    queue: VecDeque<(FileId, DeviceOp<B>)>,
    done: VecDeque<(FileId, Completion<B>)>,
    capacity: usize,
}

impl<B> BlockingEngine<B> {
    /// An engine that takes up to `capacity` operations at once.
    pub fn new(capacity: usize) -> Self {
        Self {
            files: Files::new(),
            queue: VecDeque::with_capacity(capacity),
            done: VecDeque::with_capacity(capacity),
            capacity,
        }
    }
}

impl<B: AsMut<[u8]>> Engine<B> for BlockingEngine<B> {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        Ok(self.files.add(Target::new(backing)?))
    }

    fn detach(&mut self, file: FileId) {
        // Operations in the queue still need it.
        let _ = Engine::<B>::kick(self);
        self.files.remove(file);
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<B>) -> Result<(), DeviceOp<B>> {
        if self.in_flight() >= self.capacity {
            return Err(op);
        }
        self.queue.push_back((file, op));
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        while let Some((id, mut op)) = self.queue.pop_front() {
            let result = match self.files.get_mut(id) {
                Some(target) => target.execute(&mut op),
                None => Err(Errno::BADF),
            };
            let completion = Completion {
                id: op.id,
                memory: op.memory,
                result,
            };
            self.done.push_back((id, completion));
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<B>)> {
        self.done.pop_front()
    }

    fn in_flight(&self) -> usize {
        self.queue.len() + self.done.len()
    }
}

/// A file to work on with plain system calls.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: File,
    /// Keeps the lock that it has together with other parts of the file.
    _window: Option<Arc<Window>>,
    pub(super) base_bytes: u64,
    /// The file takes RWF_DSYNC and keeps it, or was not asked yet.
    pub(super) dsync: bool,
    /// Of every transfer.
    pub(super) flags: ReadWriteFlags,
}

impl Target {
    pub(super) fn new(backing: &Backing) -> io::Result<Self> {
        Ok(Self {
            file: backing.file.try_clone()?,
            _window: backing.window.clone(),
            base_bytes: backing.base_bytes,
            dsync: backing.keeps_dsync,
            flags: match backing.io {
                IoMode::Uncached => DONTCACHE,
                IoMode::Direct | IoMode::Buffered => ReadWriteFlags::empty(),
            },
        })
    }

    pub(super) fn execute<B: AsMut<[u8]>>(&mut self, op: &mut DeviceOp<B>) -> Result<u32, Errno> {
        let offset = position(self.base_bytes, op.offset_bytes, op.len_bytes)?;
        let parts = matches!(op.memory, Memory::Parts(_));
        let bytes = match op.kind {
            OpKind::Read if parts => self.read::<B, MAX_PIECES>(op, offset)?,
            OpKind::Read => self.read::<B, 1>(op, offset)?,
            OpKind::Write { durable } if parts => {
                self.write::<B, MAX_PIECES>(op, offset, durable)?
            }
            OpKind::Write { durable } => self.write::<B, 1>(op, offset, durable)?,
            OpKind::Sync => {
                self.sync()?;
                0
            }
            OpKind::Discard => {
                let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(&self.file, hole, offset, op.len_bytes)?;
                0
            }
        };
        u32::try_from(bytes).map_err(|_| Errno::INVAL)
    }

    pub(super) fn sync(&self) -> Result<(), Errno> {
        Ok(rustix::fs::fdatasync(&self.file)?)
    }

    /// Reads into the first `PIECES` pieces of the operation's memory.
    fn read<B: AsMut<[u8]>, const PIECES: usize>(
        &self,
        op: &mut DeviceOp<B>,
        offset: u64,
    ) -> Result<usize, Errno> {
        let mut slices: [_; PIECES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let mut places = slices.iter_mut();
        op.memory
            .for_each_mut(op.memory_start, op.len_bytes, |piece| {
                if let Some(place) = places.next() {
                    *place = IoSliceMut::new(piece);
                }
            })?;
        let used = PIECES - places.len();
        let slices = slices.get_mut(..used).unwrap_or_default();
        Ok(preadv2(&self.file, slices, offset, self.flags)?)
    }

    /// Writes the first `PIECES` pieces of the operation's memory.
    fn write<B: AsMut<[u8]>, const PIECES: usize>(
        &mut self,
        op: &mut DeviceOp<B>,
        offset: u64,
        durable: bool,
    ) -> Result<usize, Errno> {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut places = slices.iter_mut();
        op.memory
            .for_each_mut(op.memory_start, op.len_bytes, |piece| {
                if let Some(place) = places.next() {
                    *place = IoSlice::new(piece);
                }
            })?;
        let used = PIECES - places.len();
        let slices = slices.get(..used).unwrap_or_default();
        if durable && self.dsync {
            let flags = self.flags | ReadWriteFlags::DSYNC;
            match pwritev2(&self.file, slices, offset, flags) {
                Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) => {}
                result => return Ok(result?),
            }
        }
        let bytes = pwritev2(&self.file, slices, offset, self.flags)?;
        if durable {
            // Without the flag it works: the flag was the trouble, and will be next time.
            self.dsync = false;
            self.sync()?;
        }
        Ok(bytes)
    }
}

/// The operation's place in the file, checked to end inside what the kernel can address.
pub(super) fn position(base_bytes: u64, offset_bytes: u64, len_bytes: u64) -> Result<u64, Errno> {
    let start = base_bytes.checked_add(offset_bytes);
    let end = start.and_then(|start| start.checked_add(len_bytes));
    match (start, end) {
        (Some(start), Some(end)) if i64::try_from(end).is_ok() => Ok(start),
        _ => Err(Errno::INVAL),
    }
}
