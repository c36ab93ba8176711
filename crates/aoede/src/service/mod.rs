//! Workers on real interfaces and real files: one in the foreground, or several under a daemon.
//!
//! [`run`] is `aoede export`: it checks everything before it touches anything. `thread.rs` is a
//! daemon's worker, which is told by orders (`order.rs`) what to serve. Both drive the same server
//! (`server.rs`), which waits in one place (`wait.rs`) for frames, completions, changes of the
//! interfaces, orders, signals and the clock. `served.rs` is one export in it; `seats.rs` follows
//! the interfaces, `size_watch.rs` the sizes of files while nobody asks for them.

mod cache;
mod engines;
mod freeze;
mod order;
mod report;
mod seats;
mod served;
mod server;
mod size_watch;
#[cfg(test)]
mod tests;
mod thread;
mod wait;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aoede_disk::{Backing, IoMode, OpenOptions, Pool, PoolShape, TASKS, Windows};
use aoede_link::Monitor;
use aoede_target::{ExtensionReset, TargetSettings, Trim};
use aoede_wire::{Address, MacAddr, SECTOR_BYTES};
use clap::ValueEnum;
use tracing::warn;

use crate::control::config::{Export, Extension};
use crate::freeze_signals::FreezeSignals;
use crate::serial;
use crate::stop::Stop;
use crate::worker::HEAD_BYTES;
pub use cache::{CacheError, CacheMode, CacheSettings, DIRTY_AGES};
use freeze::SHADOW_OPS;
pub use freeze::{FreezeSettings, FullShadow, UnfinishedFreeze};
pub(crate) use order::{Change, Closed, Failure, News, Opening, Order, Remembered};
pub(crate) use report::Report;
pub(crate) use seats::LEAST_MTU;
use seats::{Seats, Wanted};
use server::{Parts, Server, Waking};
pub(crate) use thread::{OrderSender, Setup, spawn_worker};

/// Buffers are made for interfaces of at least this MTU, so that a change to jumbo frames does
/// not find them too small.
const MTU_TO_BE_READY_FOR: u32 = 9000;
/// A pause at the least between two reports of losses.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// How long to look for more to do by default: a few of a fast disk's latencies.
pub const BUSY_POLL: Duration = Duration::from_micros(50);
/// And at most.
pub const MOST_BUSY_POLL: Duration = Duration::from_millis(10);
/// Requests that an export holds at once by default.
pub const BUFFERS: u16 = 64;
/// Fewest and most of them.
pub const BUFFERS_RANGE: RangeInclusive<u16> = 2..=1024;

/// How long a start waits for a file that a killed process still holds.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// What to serve, and where.
#[derive(Debug)]
pub struct ServiceSettings {
    /// Names of the interfaces.
    pub interfaces: Vec<String>,
    /// Kernel interface for file I/O.
    pub engine: EngineChoice,
    /// How long to look for frames and completions before sleeping, while the disk is busy. Not
    /// done where there is only one core: others need it.
    pub busy_poll: Duration,
    /// The disk.
    pub export: ExportSettings,
}

/// One disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportSettings {
    /// Its shelf and slot.
    pub address: Address,
    /// The file or block device behind it.
    pub path: PathBuf,
    /// How to open that.
    pub open: OpenOptions,
    /// The initiators that may use it; empty for all.
    pub allow: Vec<MacAddr>,
    /// Requests held at once, 2 to 1024.
    pub buffers: u16,
    /// When writes are acknowledged, and the memory for that and for reading ahead.
    pub cache: CacheSettings,
    /// The shadow with which it can be frozen.
    pub freeze: Option<FreezeSettings>,
    /// What ends the extensions that initiators have negotiated.
    pub extension_reset: ExtensionReset,
}

impl ExportSettings {
    /// An export of the whole of a file, with the default of everything else. The options of
    /// `aoede export` and the keys of a configuration have the same defaults.
    pub fn new(address: Address, path: PathBuf) -> Self {
        Self {
            address,
            path,
            open: OpenOptions {
                lock_patience: LOCK_PATIENCE,
                ..OpenOptions::default()
            },
            allow: Vec::new(),
            buffers: BUFFERS,
            cache: CacheSettings::default(),
            freeze: None,
            extension_reset: ExtensionReset::default(),
        }
    }

    /// The least block that the volume may have.
    fn least_block_bytes(&self) -> u32 {
        match self.freeze {
            Some(_) => freeze::BLOCK_BYTES,
            None => 512,
        }
    }
}

/// Kernel interface for file I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The best that the kernel has and allows, in the order of this list.
    #[default]
    Auto,
    /// io_uring, or fail.
    #[value(name = "io_uring")]
    IoUring,
    /// Linux AIO, or fail.
    Aio,
    /// One read or write at a time; for comparison and for kernels without anything better.
    Blocking,
}

/// How a file is read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum IoChoice {
    /// Past the host's page cache.
    #[default]
    Direct,
    /// Through the host's page cache.
    Buffered,
    /// Through the host's page cache, without leaving anything there (Linux 6.14, XFS or ext4).
    Uncached,
}

impl From<IoChoice> for IoMode {
    fn from(choice: IoChoice) -> Self {
        match choice {
            IoChoice::Direct => Self::Direct,
            IoChoice::Buffered => Self::Buffered,
            IoChoice::Uncached => Self::Uncached,
        }
    }
}

/// Which Query/Config commands end the extensions that initiators have negotiated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ResetChoice {
    /// Those that set the config string, for every initiator of the disk: as the 2014 AoEde's
    /// release.
    #[default]
    Release,
    /// As well any other, for its sender: as the 2014 AoEde's first version.
    Config,
}

impl From<ResetChoice> for ExtensionReset {
    fn from(choice: ResetChoice) -> Self {
        match choice {
            ResetChoice::Release => Self::SetOnly,
            ResetChoice::Config => Self::AnyConfig,
        }
    }
}

/// Serves until asked to stop. Calls `ready` once everything is checked and open, before the first
/// frame is taken.
///
/// # Errors
/// What is wrong with the settings, each with its remedy, or a failure of the whole engine.
pub fn run(
    settings: &ServiceSettings,
    stop: Stop,
    ready: impl FnOnce(&Backing),
) -> anyhow::Result<()> {
    let monitor = Monitor::open().context("cannot ask the kernel about interfaces")?;
    let address = settings.export.address;
    if address.shelf == 4095 {
        warn!("{address}: the Linux initiator refuses shelf 4095; better choose another");
    }
    let seats = Seats::find(monitor, &settings.interfaces, address)?;
    let named = settings.interfaces.iter().cloned().map(Wanted::Named);
    let export = Export {
        settings: settings.export.clone(),
        engine: settings.engine,
        ..Export::new(address, settings.export.path.clone(), Vec::new())
    };
    let opening = Opening {
        interfaces: named.collect(),
        ..Opening::new(export, &Windows::default())?
    };
    let alignment = opening.backing.alignment.memory as usize;
    let buffers = usize::from(settings.export.buffers);
    let shape = pool_shape(seats.largest_mtu(), buffers, alignment);
    let parts = Parts {
        name: address.to_string(),
        pool: Pool::new(shape).with_context(|| no_memory(shape))?,
        // As many operations as volume and shadow may have with the device.
        operations: buffers + TASKS + 1 + SHADOW_OPS,
        seats,
        busy_poll: settings.busy_poll,
        start: Instant::now(),
        waking: Waking::Signals {
            stop,
            freeze: FreezeSignals::register().context("cannot prepare for signals")?,
        },
    };
    let mut server = Server::new(parts)?;
    server.add(opening)?;
    server.serve_places()?;
    server.tell_what_is_served();
    if let Some(served) = server.first() {
        ready(served.backing());
    }
    server.run()
}

/// Whether this machine has a single core: to look for work on it keeps the work from being done.
fn has_one_core() -> bool {
    // A list of ranges, such as 0-3.
    std::fs::read_to_string("/sys/devices/system/cpu/online").is_ok_and(|cores| cores.trim() == "0")
}

/// Buffers for requests and whole responses on interfaces of up to this MTU.
fn pool_shape(mtu: u32, count: usize, alignment: usize) -> PoolShape {
    let mtu = mtu.max(MTU_TO_BE_READY_FOR) as usize;
    PoolShape {
        count,
        headroom_bytes: HEAD_BYTES,
        data_bytes: mtu.next_multiple_of(SECTOR_BYTES),
        alignment: alignment.max(SECTOR_BYTES),
    }
}

fn no_memory(shape: PoolShape) -> String {
    let PoolShape {
        count, data_bytes, ..
    } = shape;
    format!("cannot get memory for {count} buffers of {data_bytes} bytes")
}

/// Frames lost on the way in or out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Losses {
    /// By the kernel, because the ring was full.
    ring_full: u64,
    /// By the kernel, when they were to be sent.
    not_sent: u64,
    /// By the worker, for want of a buffer or because the interface went away.
    unanswered: u64,
}

/// What the export shows on the wire; without a backing, the part of it that is configured.
fn target_settings(
    of: &Export,
    remembered: &Remembered,
    backing: Option<&Backing>,
) -> TargetSettings {
    let export = &of.settings;
    let default = TargetSettings::new(export.address, 0);
    let serial = of.serial.clone();
    let plain = TargetSettings {
        read_only: export.open.read_only,
        buffer_count: export.buffers,
        write_cache: export.cache.mode.into(),
        cache_number: remembered.cache_number.unwrap_or_else(serial::cache_number),
        model: of.model.clone().unwrap_or(default.model),
        serial: serial.unwrap_or_else(|| serial::serial(export.address)),
        mask: remembered
            .mask
            .clone()
            .unwrap_or_else(|| export.allow.clone()),
        config_string: remembered.config_string.clone(),
        access: of.access.clone(),
        extensions: Extension::set(&of.extensions),
        extension_reset: export.extension_reset,
        ..TargetSettings::new(export.address, 0)
    };
    let Some(backing) = backing else {
        return plain;
    };
    TargetSettings {
        sectors: backing.sectors,
        non_rotating: backing.rotational == Some(false),
        physical_sector_exponent: backing.physical.exponent(),
        physical_sector_offset: backing.physical.offset_sectors(),
        trim: trim(
            backing.discard,
            backing.discard_bytes,
            backing.base_bytes,
            backing.block_bytes.max(export.least_block_bytes()),
        ),
        ..plain
    }
}

/// What TRIM is for an export that starts at `base_bytes` and is served in such blocks.
fn trim(discard: bool, discard_bytes: u32, base_bytes: u64, block_bytes: u32) -> Trim {
    match discard_bytes {
        _ if !discard => Trim::Unsupported,
        512 if block_bytes == 512 => Trim::ReadsZeros,
        // The device would refuse every discard: none begins where its blocks do.
        _ if !base_bytes.is_multiple_of(discard_bytes.into()) => Trim::Unsupported,
        // Parts of blocks are left as they are.
        _ => Trim::Supported,
    }
}

#[cfg(test)]
mod trim_tests {
    use super::*;

    #[test]
    fn trim_is_offered_where_the_device_takes_it() {
        for (discard, discard_bytes, base_bytes, block_bytes, expected) in [
            (false, 512, 0, 512, Trim::Unsupported),
            (true, 512, 512, 512, Trim::ReadsZeros),
            (true, 512, 512, 4096, Trim::Supported),
            (true, 4096, 0, 512, Trim::Supported),
            (true, 4096, 8192, 4096, Trim::Supported),
            (true, 4096, 512, 512, Trim::Unsupported),
        ] {
            let found = trim(discard, discard_bytes, base_bytes, block_bytes);
            assert_eq!(found, expected, "{discard_bytes} {base_bytes}");
        }
    }
}
