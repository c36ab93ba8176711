//! A disk in memory, with faults: same seed, same calls, same completions.
//!
//! A [`SimDisk`] is an [`Engine`] and the disk behind it; clones are the same disk, so that a test
//! keeps one and gives the other away. Time passes when [`SimDisk::advance`] says so. Whatever
//! file is attached, the disk takes its place, from its first byte on.
//!
//! The fault model. The unit is the sector of 512 bytes: it is stored whole or not at all.
//!
//! - **Order.** An operation takes effect when it completes, some time after the
//!   [`kick`](Engine::kick) that started it. Each takes a time of its own ([`Latency`]), so they
//!   complete in any order.
//! - **Stable or not.** A durable write is stable when it completes; beside a sync, when that has
//!   succeeded: of what makes a sync fail, Linux tells one of the two. A plain write and a discard
//!   are seen by reads, and stable after a successful sync that was started after they completed.
//! - **Short transfers** end anywhere, inside a sector too. What is counted of a sector that a
//!   write has begun is not stored.
//! - **Interruptions**, `EINTR` and `EAGAIN`: nothing happened.
//! - **Errors.** A failed read leaves anything in its memory. A failed write or discard has taken
//!   effect on any of its sectors, unsynced, also when it was durable. Sectors of a faulty region
//!   fail each operation that touches them; a transfer may end short before them first.
//! - **Failed syncs.** Each sector that it covers may have been stored, or stay unsynced, or fall
//!   back to its stable content, or, as in Linux, be seen by reads and be taken for synced from then
//!   on without being stored. The next sync may succeed all the same. Behind the page cache it
//!   covers, when it fails, also what was completed after its start.
//! - **Power cuts** ([`SimDisk::cut_power`]): each unsynced sector on its own keeps its stable
//!   content or any version written since. Operations in flight have reached any of their sectors.
//! - **The end of the process** ([`SimDisk::kill`]): operations in flight have reached any of their
//!   sectors; nothing completed is lost.
//!
//! - **Another size** ([`SimDisk::set_end`]): what is beyond a nearer end is gone; reads there end
//!   short, then with nothing, writes end short, then in `ENOSPC`, discards in `EINVAL`. Beyond the
//!   old end are zeros.
//!
//! It never reorders two writes to one sector, never changes a sector that was not written, and
//! never delivers old data for new but after a failed sync or a power cut.
//!
//! What the volume in front must never do is a panic: operations in flight that overlap, one of
//! them a write or discard; offsets, lengths or pieces of memory that are not whole blocks;
//! operations beyond the end that it knows of ([`SimDisk::set_known_end`]).
//!
//! ```
//! use aoede_disk::engine::sim::{SimDisk, SimDiskShape};
//! use aoede_disk::{DeviceOp, Engine, Memory, OpId, OpKind};
//! use std::time::Duration;
//!
//! let mut disk = SimDisk::new(1, SimDiskShape { size_bytes: 1 << 20, ..SimDiskShape::default() });
//! let write = DeviceOp {
//!     id: OpId(1),
//!     kind: OpKind::Write { durable: false },
//!     offset_bytes: 512,
//!     len_bytes: 512,
//!     memory: Memory::One(vec![7; 512]),
//!     memory_start: 0,
//! };
//! disk.submit(SimDisk::<Vec<u8>>::FILE, write).map_err(|_| "the disk has room")?;
//! disk.kick()?;
//! assert!(disk.poll().is_none(), "it takes its time");
//! disk.advance(Duration::from_secs(1));
//! assert_eq!(disk.poll().map(|(_, done)| done.result), Some(Ok(512)));
//! assert_eq!(disk.sector(1), [7; 512]);
//! let after_a_cut: Vec<_> = disk.survivors(1);
//! assert_eq!(after_a_cut, [[0; 512], [7; 512]]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod device;
pub(crate) mod random;
mod sectors;
#[cfg(test)]
mod tests;

use std::cell::{Ref, RefCell, RefMut};
use std::fmt;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::open::Backing;
use super::{Engine, FileId};
use crate::device::{Completion, DeviceOp};
use device::Device;
use sectors::{SECTOR, bytes};

/// What the disk is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SimDiskShape {
    /// A whole number of sectors, at least one.
    pub size_bytes: u64,
    /// Transfers are whole blocks, but for the last one of the disk. A whole number of sectors.
    pub block_bytes: u32,
    /// The same for discards.
    pub discard_bytes: u32,
    /// Most operations at once.
    pub capacity: usize,
    /// It is behind the kernel's page cache.
    pub page_cache: bool,
}

impl Default for SimDiskShape {
    fn default() -> Self {
        Self {
            size_bytes: 1 << 30,
            block_bytes: 512,
            discard_bytes: 512,
            capacity: 256,
            page_cache: false,
        }
    }
}

/// How long operations take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latency {
    /// At least.
    pub least: Duration,
    /// At most; every time in between is as likely.
    pub most: Duration,
    /// Operations that take longer, of a million.
    pub slow_ppm: u32,
    /// By how much.
    pub slow: Duration,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            least: Duration::from_micros(50),
            most: Duration::from_micros(500),
            slow_ppm: 0,
            slow: Duration::ZERO,
        }
    }
}

/// What goes wrong. The default is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Transfers that end short, of a million.
    pub short_ppm: u32,
    /// Operations that `EINTR` or `EAGAIN` ends before they did anything, of a million.
    pub interrupted_ppm: u32,
    /// Reads that end in `EIO`, of a million.
    pub read_error_ppm: u32,
    /// Writes that end in `EIO`, of a million.
    pub write_error_ppm: u32,
    /// Writes that end in `ENOSPC`, of a million.
    pub no_space_ppm: u32,
    /// Syncs that end in `EIO`, of a million.
    pub sync_error_ppm: u32,
    /// Discards that end in `EIO`, of a million.
    pub discard_error_ppm: u32,
}

/// Sectors that cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultyRegion {
    /// Which.
    pub sectors: Range<u64>,
    /// Reads of them fail.
    pub reads: bool,
    /// Writes and discards of them fail.
    pub writes: bool,
}

/// A disk, and the engine that works on it. Clones are the same disk.
pub struct SimDisk<B>(Rc<RefCell<Device<B>>>);

impl<B> SimDisk<B> {
    /// The id of any file that is attached.
    pub const FILE: FileId = FileId(0);

    /// A disk full of zeros, at time zero.
    ///
    /// # Panics
    /// The shape makes no sense.
    pub fn new(seed: u64, shape: SimDiskShape) -> Self {
        let whole = |bytes: u64| bytes > 0 && bytes % SECTOR as u64 == 0;
        let granules = [shape.block_bytes, shape.discard_bytes];
        assert!(
            whole(shape.size_bytes) && granules.iter().all(|bytes| whole(u64::from(*bytes))),
            "not whole sectors: {shape:?}"
        );
        Self(Rc::new(RefCell::new(Device::new(seed, shape))))
    }

    /// The disk ends there now, whoever knows of it.
    pub fn set_end(&self, end_bytes: u64) {
        self.device_mut().set_end(end_bytes);
    }

    /// Whoever uses the disk knows now that it ends there.
    pub fn set_known_end(&self, end_bytes: u64) {
        self.device_mut().shape.size_bytes = end_bytes;
    }

    /// Operations that start from now on take this long.
    ///
    /// # Panics
    /// `most` is less than `least`.
    pub fn set_latency(&self, latency: Latency) {
        assert!(latency.least <= latency.most, "{latency:?}");
        self.device_mut().latency = latency;
    }

    /// Operations that end from now on suffer these.
    pub fn set_faults(&self, faults: Faults) {
        self.device_mut().faults = faults;
    }

    /// The same, for these sectors instead of those set before.
    pub fn set_faulty_regions(&self, regions: &[FaultyRegion]) {
        self.device_mut().faulty = regions.to_vec();
    }

    /// The time, from the disk's making.
    pub fn now(&self) -> Duration {
        self.device().now
    }

    /// Time passes; it never goes back. What is due by then is there to be polled.
    pub fn advance(&self, now: Duration) {
        let mut device = self.device_mut();
        device.now = device.now.max(now);
    }

    /// When the next completion is due, of the operations that were started.
    pub fn next_due(&self) -> Option<Duration> {
        self.device().next_due()
    }

    /// What a read of the sector sees now.
    pub fn sector(&self, lba: u64) -> [u8; SECTOR] {
        bytes(&self.device().sectors.content(lba))
    }

    /// Every content that the sector may have after a power cut now, but for operations in flight.
    /// One that is alone is stable.
    pub fn survivors<C: FromIterator<[u8; SECTOR]>>(&self, lba: u64) -> C {
        let device = self.device();
        let survivors = device.sectors.survivors(lba);
        survivors.map(|content| bytes(&content)).collect()
    }

    /// Puts a content into a sector, for good: what was on the disk before the test.
    pub fn preset(&self, lba: u64, content: &[u8; SECTOR]) {
        let content = Some(Rc::new(*content));
        self.device_mut().sectors.write_stable(lba, content);
    }

    fn device(&self) -> Ref<'_, Device<B>> {
        self.0.borrow()
    }

    fn device_mut(&self) -> RefMut<'_, Device<B>> {
        self.0.borrow_mut()
    }
}

impl<B: AsMut<[u8]>> SimDisk<B> {
    /// The power goes and comes back: operations in flight end without a completion, what was not
    /// stable is gone or not.
    pub fn cut_power(&self) {
        self.device_mut().cut_power();
    }

    /// The process that used the disk is gone: operations in flight end without a completion.
    pub fn kill(&self) {
        self.device_mut().abandon();
    }
}

impl<B> Clone for SimDisk<B> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<B> fmt::Debug for SimDisk<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = self.device();
        f.debug_struct("SimDisk")
            .field("shape", &device.shape)
            .field("now", &device.now)
            .field("in_flight", &device.in_flight())
            .finish_non_exhaustive()
    }
}

impl<B: AsMut<[u8]>> Engine<B> for SimDisk<B> {
    fn attach(&mut self, _: &Backing) -> io::Result<FileId> {
        Ok(Self::FILE)
    }

    fn detach(&mut self, _: FileId) {}

    fn submit(&mut self, _: FileId, op: DeviceOp<B>) -> Result<(), DeviceOp<B>> {
        self.device_mut().submit(op)
    }

    fn kick(&mut self) -> io::Result<()> {
        self.device_mut().start();
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<B>)> {
        Some((Self::FILE, self.device_mut().complete()?))
    }

    fn in_flight(&self) -> usize {
        self.device().in_flight()
    }
}
