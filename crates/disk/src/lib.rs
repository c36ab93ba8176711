//! The disk side of an AoE target: sectors in, device operations out.
//!
//! Two halves that meet in [`device`]: a [`Volume`] decides what has to happen to the device, in
//! which order and what that means for the requests; an [`Engine`] makes it happen. The volume
//! knows no file and no clock, which is told it with each call; an engine knows no request. A worker stands between them,
//! and where an image can be frozen, a [`Shadow`] too:
//!
//! ```
//! use aoede_disk::*;
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("disk.img");
//! let backing = open(&path, &OpenOptions { create_bytes: Some(1 << 20), ..OpenOptions::default() })?;
//! let pool = Pool::new(PoolShape { count: 4, headroom_bytes: 64, data_bytes: 4096, alignment: 4096 })?;
//! let mut engine = BlockingEngine::new(4);
//! let file = engine.attach(&backing)?;
//! let settings = VolumeSettings {
//!     capacity: 4,
//!     stability: backing.stability(),
//!     size_bytes: backing.sectors * SECTOR_BYTES,
//!     ..VolumeSettings::default()
//! };
//! let mut volume = Volume::new(settings, Pool::cache(1 << 20)?);
//! let start = std::time::Instant::now();
//!
//! let mut buffer = pool.take().ok_or("a buffer is free")?;
//! buffer.data_mut().fill(7);
//! let write = RequestKind::Write { lba: 0, sectors: 8, early: false };
//! let request = DiskRequest { id: RequestId(1), kind: write, buffer };
//! volume.handle_request(start.elapsed(), request).map_err(|_| "room for one")?;
//! while !volume.is_idle() {
//!     while let Some(op) = volume.poll_device() {
//!         engine.submit(file, op).map_err(|_| "the engine has room")?;
//!     }
//!     engine.kick()?;
//!     while let Some((_, completion)) = engine.poll() {
//!         volume.handle_device(start.elapsed(), completion);
//!     }
//!     while let Some(done) = volume.poll_done() {
//!         assert!(done.result.is_ok());
//!     }
//! }
//! assert_eq!(pool.free(), 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Unsafe code lives in six files of `engine/`: `pool.rs`, `mapping.rs`, `uring.rs`, `aio.rs`,
//! `aio_context.rs` and `sys.rs`.

pub mod device;
pub mod engine;
pub mod shadow;
pub mod volume;

pub use device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind, Part};
pub use engine::aio::AioEngine;
pub use engine::blocking::BlockingEngine;
#[cfg(not(uring))]
pub use engine::no_uring::UringEngine;
pub use engine::open::{
    Alignment, Backing, IoMode, OpenError, OpenOptions, OpenWarning, PhysicalBlocks, open,
    open_among,
};
pub use engine::pool::{Buffer, CachePages, Pool, PoolShape};
pub use engine::shadow_files::{
    FoundShadow, ShadowFiles, ShadowFilesError, create_shadow, find_shadow, shadow_of,
};
#[cfg(uring)]
pub use engine::uring::UringEngine;
pub use engine::windows::Windows;
pub use engine::wrap::{Fault, Faults};
pub use engine::{Engine, FileId};
pub use shadow::{
    BLOCK_BYTES, Recovered, Shadow, ShadowError, ShadowEvent, ShadowFailure, ShadowFile,
    ShadowPhase, ShadowSettings, ShadowStatus, WhenFull,
};
pub use volume::{
    Cause, DiskError, DiskRequest, Done, LEAST_PAGES, Operation, PAGE_BYTES, RequestId,
    RequestKind, Stability, TASKS, Volume, VolumeSettings, VolumeStats,
};

/// Bytes in a sector, the unit of every address on the wire.
pub const SECTOR_BYTES: u64 = 512;
