//! One worker in the foreground, on real interfaces and a real file.
//!
//! [`run`] checks everything before it touches anything, then drives the worker and waits in one
//! place for frames, completions, changes of the interfaces, signals and the clock. `seats.rs`
//! follows the interfaces, `size_watch.rs` the size of the file while nobody asks for it.

mod cache;
mod freeze;
mod seats;
mod size_watch;
mod wait;

use std::ops::RangeInclusive;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aoede_disk::{
    AioEngine, Backing, BlockingEngine, Buffer, Engine, IoMode, OpenOptions, Pool, PoolShape,
    TASKS, UringEngine, Volume,
};
use aoede_link::{Monitor, PacketPort, Port as _};
use aoede_target::{ExtensionReset, IgnoreReason, Ignored, Target, TargetSettings, Trim};
use aoede_wire::{Address, MacAddr, SECTOR_BYTES};
use clap::ValueEnum;
use tracing::{debug, error, info, warn};

use crate::serial;
use crate::size::Size;
use crate::stop::Stop;
use crate::worker::{HEAD_BYTES, SeatSet, Serving, Worker};
pub use cache::{CacheError, CacheMode, CacheSettings, DIRTY_AGES};
pub use freeze::{FreezeSettings, FullShadow, UnfinishedFreeze};
use freeze::{Freezer, SHADOW_OPS};
pub(crate) use seats::LEAST_MTU;
use seats::Seats;
use size_watch::SizeWatch;
use wait::{Waiter, Wakers, Woken};

/// How often the size of the file is looked at, and losses are reported if there were any. Not
/// while the service is idle, if somebody tells of the size.
const TICK: Duration = Duration::from_secs(1);
/// Turns of a busy worker between two looks at signals, interfaces and the clock.
const TURNS_BETWEEN_LOOKS: u32 = 64;
/// Buffers are made for interfaces of at least this MTU, so that a change to jumbo frames does
/// not find them too small.
const MTU_TO_BE_READY_FOR: u32 = 9000;
/// A pause at the least between two reports of losses.
const REPORT_PAUSE: Duration = Duration::from_secs(60);
/// Ranges that a message names.
const RANGES_SHOWN: usize = 8;
/// How long to look for more to do by default: a few of a fast disk's latencies.
pub const BUSY_POLL: Duration = Duration::from_micros(50);
/// And at most.
pub const MOST_BUSY_POLL: Duration = Duration::from_millis(10);
/// Requests that an export holds at once by default.
pub const BUFFERS: u16 = 64;
/// Fewest and most of them.
pub const BUFFERS_RANGE: RangeInclusive<u16> = 2..=1024;
/// Operations with the disk for which it is worth looking instead of sleeping.
const OPERATIONS_TO_POLL_FOR: usize = 4;
/// A pause while stopping, when waiting itself fails.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a stop waits for a full send buffer once the disk has finished.
const SEND_PATIENCE: Duration = Duration::from_secs(1);

/// How long a start waits for a file that a killed process still holds.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(2);

const ENGINE_FAILED: &str = "the kernel refuses file I/O as a whole";

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

    let export = &settings.export;
    // What is wrong with the settings themselves must show before a file is made.
    export.cache.check().with_context(|| address.to_string())?;
    Target::new(target_settings(export, None)).with_context(|| address.to_string())?;
    let mut backing =
        aoede_disk::open(&export.path, &export.open).with_context(|| address.to_string())?;
    for warning in &backing.warnings {
        warn!("{address}: {}: {warning}", export.path.display());
    }
    let freezer = Freezer::new(address, export.freeze.as_ref(), &mut backing)
        .with_context(|| address.to_string())?;
    let pool = pool(seats.largest_mtu(), usize::from(export.buffers), &backing)?;
    // As many operations as volume and shadow may have with the device.
    let capacity = pool.shape().count + TASKS + 1 + SHADOW_OPS;

    let parts = Parts {
        pool,
        seats,
        size_watch: SizeWatch::new(&backing),
        backing,
        freezer,
        export,
        busy_poll: if has_one_core() {
            Duration::ZERO
        } else {
            settings.busy_poll
        },
        stop,
    };
    let choice = settings.engine;
    if matches!(choice, EngineChoice::Auto | EngineChoice::IoUring) {
        match UringEngine::new(capacity, &parts.pool) {
            Ok(engine) => {
                let waiter = parts.waiter(Some(engine.as_fd()))?;
                return Service::start(engine, waiter, parts)?.run(ready);
            }
            Err(error) if choice == EngineChoice::IoUring => {
                let remedy = "io_uring is missing or forbidden here; use --engine auto or aio";
                return Err(error).context(remedy);
            }
            Err(error) => warn!("no io_uring ({error}): using Linux AIO"),
        }
    }
    if matches!(choice, EngineChoice::Auto | EngineChoice::Aio) {
        match AioEngine::new(capacity) {
            Ok(engine) => {
                let waiter = parts.waiter(Some(engine.as_fd()))?;
                return Service::start(engine, waiter, parts)?.run(ready);
            }
            Err(error) if choice == EngineChoice::Aio => {
                let remedy = "Linux AIO is missing or used up here (sysctl fs.aio-max-nr); \
                              use --engine auto or blocking";
                return Err(error).context(remedy);
            }
            Err(error) => warn!("no Linux AIO ({error}): using blocking calls, which are slower"),
        }
    }
    // Blocking calls complete at once: there is nothing to wait for.
    let waiter = parts.waiter(None)?;
    Service::start(BlockingEngine::new(capacity), waiter, parts)?.run(ready)
}

/// Whether this machine has a single core: to look for work on it keeps the work from being done.
fn has_one_core() -> bool {
    // A list of ranges, such as 0-3.
    std::fs::read_to_string("/sys/devices/system/cpu/online").is_ok_and(|cores| cores.trim() == "0")
}

/// What a service is made of, apart from its engine.
struct Parts<'a> {
    pool: Pool,
    seats: Seats,
    size_watch: SizeWatch,
    backing: Backing,
    freezer: Freezer,
    export: &'a ExportSettings,
    busy_poll: Duration,
    stop: Stop,
}

impl Parts<'_> {
    fn waiter(&self, engine: Option<BorrowedFd<'_>>) -> anyhow::Result<Waiter> {
        let wakers = Wakers {
            stop: self.stop.as_fd(),
            interfaces: self.seats.as_fd(),
            freeze: self.freezer.fds(),
            size: self.size_watch.fd(),
            engine,
        };
        Waiter::new(&wakers, self.seats.len()).context("cannot prepare for waiting")
    }
}

/// Buffers for requests and whole responses on an interface of this MTU.
fn pool(mtu: u32, count: usize, backing: &Backing) -> anyhow::Result<Pool> {
    let mtu = mtu.max(MTU_TO_BE_READY_FOR) as usize;
    let data_bytes = mtu.next_multiple_of(SECTOR_BYTES);
    Pool::new(PoolShape {
        count,
        headroom_bytes: HEAD_BYTES,
        data_bytes,
        alignment: (backing.alignment.memory as usize).max(SECTOR_BYTES),
    })
    .with_context(|| format!("cannot get memory for {count} buffers of {data_bytes} bytes"))
}

struct Service<E> {
    worker: Worker<PacketPort, E>,
    seats: Seats,
    waiter: Waiter,
    stop: Stop,
    size_watch: SizeWatch,
    backing: Backing,
    freezer: Freezer,
    address: Address,
    busy_poll: Duration,
    /// What the worker counts time from.
    start: Instant,
    /// It has been said that acknowledged data cannot be written.
    latched: bool,
    /// Times that the disk has refused acknowledged data, and when to tell of the next.
    retries: u64,
    retries_after: Instant,
    reported: Losses,
    report_after: Instant,
    /// There was something to do since the last look.
    worked: bool,
    /// No new requests are taken.
    stopping: bool,
}

impl<E: Engine<Buffer>> Service<E> {
    fn start(mut engine: E, mut waiter: Waiter, parts: Parts<'_>) -> anyhow::Result<Self> {
        let Parts {
            pool,
            mut seats,
            size_watch,
            backing,
            mut freezer,
            export,
            busy_poll,
            stop,
        } = parts;
        let address = export.address;
        let path = export.path.display();
        let file = engine
            .attach(&backing)
            .with_context(|| format!("{address}: {path}"))?;
        let target = Target::new(target_settings(export, Some(&backing)))
            .with_context(|| address.to_string())?;
        let data_bytes = pool.shape().data_bytes;
        let mut worker = Worker::new(engine, pool, seats.len());
        let volume = export
            .cache
            .volume(
                &backing,
                worker.pool().shape().count,
                export.least_block_bytes(),
            )
            .with_context(|| address.to_string())?;
        let serving = Serving {
            seats: SeatSet::ALL,
            requests: export.buffers,
        };
        worker
            .add_export(target, file, volume, serving)
            .map_err(|_| anyhow::anyhow!("{address} is taken"))?;
        freezer
            .start(&mut worker, &backing)
            .with_context(|| address.to_string())?;
        seats.plug_all(&mut worker, &mut waiter, data_bytes)?;

        info!(
            path = %path,
            sectors = backing.sectors,
            size = %Size(backing.sectors.saturating_mul(SECTOR_BYTES as u64)),
            interfaces = %seats.names(),
            io = match backing.io {
                IoMode::Direct => "direct",
                IoMode::Buffered => "buffered",
                IoMode::Uncached => "uncached",
            },
            read_only = backing.read_only,
            cache = %export.cache.mode,
            buffers = export.buffers,
            pid = std::process::id(),
            "serving {address}"
        );
        Ok(Self {
            worker,
            seats,
            waiter,
            stop,
            size_watch,
            backing,
            freezer,
            address,
            busy_poll,
            start: Instant::now(),
            latched: false,
            retries: 0,
            retries_after: Instant::now(),
            reported: Losses::default(),
            report_after: Instant::now(),
            worked: false,
            stopping: false,
        })
    }

    /// Turns the worker until a stop is asked for, then finishes what has begun.
    fn run(mut self, ready: impl FnOnce(&Backing)) -> anyhow::Result<()> {
        ready(&self.backing);
        let served = self.serve();
        match &served {
            Ok(()) => info!("stopping {}", self.address),
            Err(error) => error!("{}: stopping, as it cannot go on: {error:#}", self.address),
        }
        self.size_watch.disarm();
        // What was acknowledged is written whatever happened, as far as that works.
        let finished = self.finish();
        if let (Err(_), Err(error)) = (&served, &finished) {
            error!("{error:#}");
        }
        served.and(finished)
    }

    /// Turns the worker until a stop is asked for.
    fn serve(&mut self) -> anyhow::Result<()> {
        // There is none while the service is idle.
        let mut next_look = Some(Instant::now() + TICK);
        loop {
            let idle = self.turn_for_a_while()?;
            let patience = if idle {
                self.patience(next_look)
            } else {
                Some(Duration::ZERO)
            };
            let woken = self.wait(patience)?;
            if woken.stop && self.stop.take() {
                return Ok(());
            }
            if woken.interfaces {
                self.seats.follow(&mut self.worker, &mut self.waiter);
            }
            let now = self.start.elapsed();
            if woken.freeze {
                self.freezer.obey(now, &mut self.worker);
            }
            self.freezer.advance(now, &mut self.worker, &self.backing);
            if next_look.is_none() || woken.size {
                self.size_watch.disarm();
                if woken.size {
                    self.look_at_size();
                }
            }
            let now = Instant::now();
            match next_look {
                None => next_look = Some(now + TICK),
                Some(due) if due <= now => next_look = self.look(now),
                Some(_) => {}
            }
        }
    }

    /// Turns the worker until it has nothing to do, or until others must be looked at. Returns
    /// whether it has nothing to do.
    fn turn_for_a_while(&mut self) -> anyhow::Result<bool> {
        for _ in 0..TURNS_BETWEEN_LOOKS {
            if !self.turn()? && !self.find_more()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn turn(&mut self) -> anyhow::Result<bool> {
        let now = self.start.elapsed();
        let worked = self.worker.turn(now).context(ENGINE_FAILED)?;
        self.worked |= worked;
        Ok(worked)
    }

    /// Looks for more to do before it goes to sleep, while so much is with the disk that something
    /// will come soon: to be woken takes longer than that. Whether it found something.
    fn find_more(&mut self) -> anyhow::Result<bool> {
        if self.busy_poll.is_zero() || self.worker.operations() < OPERATIONS_TO_POLL_FOR {
            return Ok(false);
        }
        let end = self.start.elapsed() + self.busy_poll;
        while self.start.elapsed() < end {
            if self.turn()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    /// How long to sleep at most, if there is anything to wake for.
    fn patience(&self, next_look: Option<Instant>) -> Option<Duration> {
        let due = self.worker.poll_timeout().into_iter();
        let due = due.chain(self.freezer.due()).map(|due| self.start + due);
        let next = due.chain(next_look).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Works until the disk has nothing more to do.
    fn finish_disk(&mut self) -> anyhow::Result<()> {
        while self.worker.is_disk_busy() {
            let now = self.start.elapsed();
            if !self.worker.drain(now).context(ENGINE_FAILED)? {
                let patience = self.patience(Some(Instant::now() + TICK));
                self.wait_to_finish(patience.unwrap_or(TICK));
            }
        }
        Ok(())
    }

    /// Takes no new requests; finishes and answers those that were begun, and brings everything
    /// acknowledged to stable storage.
    fn finish(mut self) -> anyhow::Result<()> {
        self.finish_disk()?;
        self.worker.begin_flush(self.start.elapsed());
        self.finish_disk()?;
        let deadline = Instant::now() + SEND_PATIENCE;
        while !self.worker.is_idle() && Instant::now() < deadline {
            let now = self.start.elapsed();
            if !self.worker.drain(now).context(ENGINE_FAILED)? {
                self.wait_to_finish(deadline.saturating_duration_since(Instant::now()));
            }
        }
        self.log_disk_error();
        self.report();
        let frames = self.worker.stats();
        for (_, target) in self.worker.exports().iter() {
            let stats = target.stats();
            let cache = self.worker.volume(0).map(Volume::stats);
            let cache = cache.copied().unwrap_or_default();
            info!(
                frames = frames.frames_received,
                responses = frames.responses,
                reads = stats.reads,
                writes = stats.writes,
                flushes = stats.flushes,
                trims = stats.trims,
                disk_errors = stats.device_failures,
                cache_hits = cache.read_hits,
                cache_misses = cache.read_misses,
                read_ahead = %Size(cache.read_ahead_bytes),
                writes_spared = cache.writes_spared,
                syncs = cache.syncs,
                retries = cache.retries,
                ignored = %self.ignored(&stats.ignored),
                "stopped {}",
                target.address(),
            );
        }
        self.freezer.stop(&self.worker);
        self.check_nothing_is_lost()
    }

    /// Says so if acknowledged data never reached stable storage.
    fn check_nothing_is_lost(&self) -> anyhow::Result<()> {
        let Some(volume) = self.worker.volume(0).filter(|volume| !volume.is_clean()) else {
            return Ok(());
        };
        let (sectors, path) = (at_risk(volume), self.backing.path.display());
        let cause = volume.failure().map(|error| format!(": {error}"));
        bail!(
            "{}: {path}: acknowledged data could not be written{}; what initiators wrote last to \
             {sectors} is lost, so check the file systems on this disk",
            self.address,
            cause.unwrap_or_default()
        );
    }

    /// Sleeps while stopping. A second signal has nothing to add, but must not wake us for ever.
    fn wait_to_finish(&mut self, patience: Duration) {
        self.stopping = true;
        let woken = self.wait(Some(patience)).unwrap_or_else(|_| {
            // Nothing tells when the disk is done, so look often.
            std::thread::sleep(patience.min(LOOK_PAUSE));
            Woken::default()
        });
        if woken.stop && self.stop.take() {
            info!("already stopping: finishing what has begun");
        }
        if woken.freeze {
            self.freezer.disregard(self.start.elapsed());
        }
        if woken.size {
            self.size_watch.disarm();
        }
        if woken.interfaces {
            self.seats.follow(&mut self.worker, &mut self.waiter);
        }
    }

    /// Frames left unanswered, by reason: `source=3 version=1`, or `none`.
    fn ignored(&self, by_target: &Ignored) -> String {
        let screened = self.worker.exports().ignored();
        let reasons: Vec<String> = IgnoreReason::ALL
            .into_iter()
            .map(|reason| (reason, screened.get(reason) + by_target.get(reason)))
            .filter(|&(_, frames)| frames > 0)
            .map(|(reason, frames)| format!("{}={frames}", reason.name()))
            .collect();
        if reasons.is_empty() {
            "none".to_owned()
        } else {
            reasons.join(" ")
        }
    }

    /// Sleeps until a frame, a completion, a signal or a change of an interface, or until
    /// `patience` ends.
    fn wait(&mut self, patience: Option<Duration>) -> anyhow::Result<Woken> {
        for seat in 0..self.seats.len() {
            let frames = !self.stopping && self.worker.takes_frames(seat);
            let room = self.worker.waits_to_send(seat);
            if let Some(port) = self.worker.port_mut(seat) {
                port.release();
                self.waiter
                    .want(seat, port, frames, room)
                    .context("waiting")?;
            }
        }
        let woken = self.waiter.wait(patience).context("waiting")?;
        if woken.port_error {
            self.seats.take_errors(&mut self.worker);
        }
        Ok(woken)
    }

    /// What is done once a second, as long as there is something to do: follow the size of the file,
    /// report losses. Returns when to do it again: without a time, when there will be something to
    /// do again.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let next = Some(now + TICK);
        self.tick();
        if std::mem::take(&mut self.worked) || self.is_waiting() || !self.size_watch.arm() {
            return next;
        }
        // What was written before it listened.
        if self.look_at_size() {
            self.size_watch.disarm();
            return next;
        }
        None
    }

    /// Whether something is under way, or waits for its time.
    fn is_waiting(&mut self) -> bool {
        self.worker.is_disk_busy()
            || self.worker.operations() > 0
            || !self.worker.is_idle()
            || self.seats.is_incomplete()
            || self.freezer.due().is_some()
            || self.losses() != self.reported
    }

    /// Follows the size of the file. Whether it is another.
    fn look_at_size(&mut self) -> bool {
        match self.backing.current_sectors() {
            Ok(sectors) if self.worker.set_sectors(0, sectors) => {
                info!("{}: the size is now {sectors} sectors", self.address);
                self.seats.announce_all(&mut self.worker);
                return true;
            }
            Ok(_) => {}
            Err(error) => debug!("{}: cannot read the size: {error}", self.address),
        }
        false
    }

    fn tick(&mut self) {
        self.look_at_size();
        let string_changed = self
            .worker
            .target_mut(0)
            .is_some_and(Target::take_config_changed);
        if string_changed {
            self.seats.announce_all(&mut self.worker);
        }
        self.log_disk_error();
        if self.seats.is_incomplete() {
            self.seats.follow(&mut self.worker, &mut self.waiter);
        }
        if Instant::now() >= self.report_after {
            self.report();
        }
    }

    /// Tells of the latest request that the disk failed, if there was one since the last call.
    fn log_disk_error(&mut self) {
        if let Some((_, error)) = self.worker.take_error() {
            error!("{}: {error}", self.address);
        }
        let Some(volume) = self.worker.volume(0) else {
            return;
        };
        if let Some(error) = volume.failure().filter(|_| !self.latched) {
            error!(
                at_risk = %at_risk(volume),
                "{}: acknowledged data cannot be written ({error}): every write and flush fails \
                 from now on, reads go on; mend the disk, then stop this process with SIGTERM, \
                 which tries once more",
                self.address
            );
        }
        self.latched = volume.failure().is_some();
        let retries = volume.stats().retries;
        if retries > self.retries && !self.latched && Instant::now() >= self.retries_after {
            self.retries_after = Instant::now() + REPORT_PAUSE;
            warn!(
                at_risk = %at_risk(volume),
                "{}: the disk refuses acknowledged data; trying again",
                self.address
            );
        }
        self.retries = retries;
    }

    fn losses(&mut self) -> Losses {
        let stats = self.worker.stats();
        Losses {
            unanswered: stats.no_buffer + stats.responses_lost,
            ..self.seats.losses(&mut self.worker)
        }
    }

    /// Warns of frames lost since the last report.
    fn report(&mut self) {
        let now = self.losses();
        if now != self.reported {
            let before = std::mem::replace(&mut self.reported, now);
            self.report_after = Instant::now() + REPORT_PAUSE;
            warn!(
                ring_full = now.ring_full - before.ring_full,
                not_sent = now.not_sent - before.not_sent,
                unanswered = now.unanswered - before.unanswered,
                "{}: frames were lost; initiators will repeat their requests",
                self.address
            );
        }
    }
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

impl Losses {
    /// These and what a port has lost.
    fn plus(self, port: &mut PacketPort) -> Self {
        let stats = port.stats();
        Self {
            ring_full: self.ring_full + stats.ring_drops,
            not_sent: self.not_sent + stats.send_lost(),
            ..self
        }
    }
}

/// Where acknowledged data is that is not on stable storage: `LBA 8-15, 96 and 3 more ranges`.
fn at_risk(volume: &Volume<Buffer>) -> String {
    let mut ranges: Vec<(u64, u64)> = volume.ranges_at_risk().collect();
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let follows = range.0 + range.1 == next.0;
        range.1 += if follows { next.1 } else { 0 };
        follows
    });
    let show = |&(lba, sectors): &(u64, u64)| match sectors {
        1 => lba.to_string(),
        _ => format!("{lba}-{}", lba + sectors - 1),
    };
    let shown: Vec<String> = ranges.iter().take(RANGES_SHOWN).map(show).collect();
    let rest = match ranges.len().saturating_sub(RANGES_SHOWN) {
        0 => String::new(),
        rest => format!(" and {rest} more ranges"),
    };
    format!("LBA {}{rest}", shown.join(", "))
}

/// What the export shows on the wire; without a backing, the part of it that is configured.
fn target_settings(export: &ExportSettings, backing: Option<&Backing>) -> TargetSettings {
    let plain = TargetSettings {
        read_only: export.open.read_only,
        buffer_count: export.buffers,
        write_cache: export.cache.mode.into(),
        serial: serial::serial(export.address),
        mask: export.allow.clone(),
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
mod tests {
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
