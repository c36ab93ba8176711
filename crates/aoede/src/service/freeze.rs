//! Freezing and thawing an export: what is ordered, done and told.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aoede_disk::{
    Backing, Buffer, Engine, FoundShadow, Memory, PAGE_BYTES, Part, Pool, Recovered, Shadow,
    ShadowEvent, ShadowFiles, ShadowFilesError, ShadowPhase, ShadowSettings, Stability, TASKS,
    Volume, WhenFull,
};
use aoede_link::Port;
use aoede_wire::Address;
use clap::ValueEnum;
use tracing::{error, info, warn};

use crate::freeze_signals::{FreezeSignals, Order};
use crate::size::Size;
use crate::worker::Worker;

/// The export of this process.
const EXPORT: usize = 0;
/// What is copied at a time when a shadow is merged: few system calls, and a write that has to wait
/// for it waits for milliseconds.
const MERGE_PAGES: usize = 64;
/// How long a freeze waits for what was acknowledged early to be written to the image.
const FLUSH_PATIENCE: Duration = Duration::from_secs(5);
/// A shadow works on blocks of this size.
pub(super) const BLOCK_BYTES: u32 = 4096;

/// Operations that a shadow has with the engine beside the volume's.
pub(super) const SHADOW_OPS: usize = 3;

/// An export's shadow, as an operator gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreezeSettings {
    /// Of its data; the map stands beside it.
    pub path: PathBuf,
    /// What its data may take.
    pub limit: Option<Size>,
    /// What happens to writes that it has no room for.
    pub full: FullShadow,
    /// What happens to a freeze that a restart has interrupted.
    pub unfinished: UnfinishedFreeze,
}

/// What happens to writes that a shadow has no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum FullShadow {
    /// They fail; the image stays as it is.
    #[default]
    Fail,
    /// The disk thaws: writes succeed, and the image changes.
    Thaw,
}

/// What happens to a freeze that a restart has interrupted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum UnfinishedFreeze {
    /// It goes on: the image stays as it is until a thaw.
    #[default]
    Continue,
    /// The shadow is merged into the image.
    Merge,
}

/// One export's freezes.
pub(super) struct Freezer {
    address: Address,
    settings: Option<FreezeSettings>,
    signals: FreezeSignals,
    files: Option<ShadowFiles>,
    /// Found at start, until the worker has it.
    recovered: Option<Recovered>,
    /// A freeze is ordered, and comes when everything is written or at this time.
    freeze_at: Option<Duration>,
}

impl Freezer {
    /// Looks for what an earlier process has left, and makes the backing fit for a shadow.
    pub(super) fn new(
        address: Address,
        settings: Option<&FreezeSettings>,
        image: &mut Backing,
    ) -> anyhow::Result<Self> {
        let mut freezer = Self {
            address,
            settings: settings.cloned(),
            signals: FreezeSignals::register().context("cannot prepare for signals")?,
            files: None,
            recovered: None,
            freeze_at: None,
        };
        let Some(settings) = settings else {
            return match aoede_disk::shadow_of(image) {
                Some(shadow) if !image.read_only => Err(ShadowFilesError::Needed {
                    image: image.path.clone(),
                    shadow,
                }
                .into()),
                Some(_) => {
                    warn!("{address}: the image is frozen: this is the disk as it was then");
                    Ok(freezer)
                }
                None => Ok(freezer),
            };
        };
        // Reads are put together from two files, and the image changes while it is merged.
        image.lends = false;
        let path = settings.path.display();
        match aoede_disk::find_shadow(&settings.path, image, image.io)? {
            FoundShadow::Nothing => {}
            FoundShadow::Removed => {
                info!("{address}: removed the shadow {path}: all of it is in the image");
            }
            FoundShadow::Unfinished(files, recovered) => {
                warn!(
                    "{address}: found an unfinished freeze: {} in the shadow {path}",
                    Size(recovered.dirty_bytes())
                );
                freezer.files = Some(*files);
                freezer.recovered = Some(recovered);
            }
        }
        Ok(freezer)
    }

    /// Gives the worker a shadow, and the unfinished freeze.
    pub(super) fn start<P: Port, E: Engine<Buffer>>(
        &mut self,
        worker: &mut Worker<P, E>,
        image: &Backing,
    ) -> anyhow::Result<()> {
        let Some(settings) = &self.settings else {
            return Ok(());
        };
        let capacity = worker.pool().shape().count + TASKS + 1;
        worker.set_shadow(EXPORT, shadow(settings, image, capacity)?);
        let (Some(files), Some(recovered)) = (&self.files, self.recovered.take()) else {
            return Ok(());
        };
        check_stability(files, image)?;
        let thawing = recovered.is_thawing();
        let limit = limit(settings, files, recovered.dirty_bytes())?;
        worker.resume(EXPORT, files, recovered, limit)??;
        match settings.unfinished {
            _ if thawing => info!("{}: merging it goes on", self.address),
            UnfinishedFreeze::Continue => warn!(
                "{}: still frozen; thaw it when the backup is done",
                self.address
            ),
            UnfinishedFreeze::Merge => worker.thaw(EXPORT)?,
        }
        Ok(())
    }

    /// Readable when a signal has come.
    pub(super) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.signals.fds()
    }

    /// Does what signals have ordered.
    pub(super) fn obey<P: Port, E: Engine<Buffer>>(
        &mut self,
        now: Duration,
        worker: &mut Worker<P, E>,
    ) {
        let address = self.address;
        match self.signals.take(now) {
            None => {}
            Some(Order::Freeze) => self.order_freeze(now, worker),
            Some(Order::Thaw) if self.freeze_at.take().is_some() => {
                info!("{address}: not freezing");
            }
            Some(Order::Thaw) => match worker.thaw(EXPORT) {
                Ok(()) => info!("{address}: thawing"),
                Err(error) => warn!("{address}: cannot thaw: {error}"),
            },
            Some(Order::Unclear(ones, twos)) => warn!(
                "{address}: {ones} times SIGUSR1 and {twos} times SIGUSR2 mean nothing: freeze \
                 with USR1 USR2, thaw with USR1 USR1 USR2, and pause between them"
            ),
        }
    }

    /// The service is stopping: orders come too late.
    pub(super) fn disregard(&mut self, now: Duration) {
        if self.signals.take(now).is_some() {
            warn!("{}: stopping: neither freezing nor thawing", self.address);
        }
    }

    /// When a freeze comes that is ordered, whatever is written by then.
    pub(super) fn due(&self) -> Option<Duration> {
        self.freeze_at
    }

    /// Freezes when it is time for it, and tells what has happened.
    pub(super) fn advance<P: Port, E: Engine<Buffer>>(
        &mut self,
        now: Duration,
        worker: &mut Worker<P, E>,
        image: &Backing,
    ) {
        let clean = || worker.volume(EXPORT).is_none_or(Volume::is_clean);
        let freeze = self.freeze_at.take_if(|at| *at <= now || clean());
        if freeze.is_some()
            && let Err(error) = self.freeze(worker, image)
        {
            error!("{}: cannot freeze: {error:#}", self.address);
        }
        while let Some(event) = worker.poll_shadow(EXPORT) {
            self.tell(event, image);
        }
    }

    /// What is left behind when the service stops.
    pub(super) fn stop<P: Port, E: Engine<Buffer>>(&self, worker: &Worker<P, E>) {
        let status = worker.shadow_status(EXPORT);
        let Some(status) = status.filter(|status| status.phase != ShadowPhase::Thawed) else {
            return;
        };
        warn!(
            "{}: {} of what was written since the freeze is in the shadow only: serve it again \
             with the same --shadow",
            self.address,
            Size(status.dirty_bytes)
        );
    }

    /// First, what is acknowledged should be in the image.
    fn order_freeze<P: Port, E: Engine<Buffer>>(
        &mut self,
        now: Duration,
        worker: &mut Worker<P, E>,
    ) {
        let address = self.address;
        if self.settings.is_none() {
            warn!("{address}: cannot freeze: there is no shadow; give one with --shadow PATH");
            return;
        }
        let phase = worker.shadow_status(EXPORT).map(|status| status.phase);
        if phase != Some(ShadowPhase::Thawed) || self.freeze_at.is_some() {
            warn!(
                "{address}: cannot freeze: the last freeze is not over (if this was to be a thaw, \
                 pause between the signals)"
            );
            return;
        }
        if let Some(failure) = worker.volume(EXPORT).and_then(Volume::failure) {
            warn!("{address}: cannot freeze: {failure}");
            return;
        }
        worker.begin_flush(now);
        self.freeze_at = Some(now + FLUSH_PATIENCE);
    }

    fn freeze<P: Port, E: Engine<Buffer>>(
        &mut self,
        worker: &mut Worker<P, E>,
        image: &Backing,
    ) -> anyhow::Result<()> {
        let Some(settings) = &self.settings else {
            return Ok(());
        };
        let files = aoede_disk::create_shadow(&settings.path, image, image.io)?;
        let begun = begin(settings, &files, worker, image);
        if begun.is_ok() {
            self.files = Some(files);
        } else {
            remove(files, image, self.address);
        }
        begun
    }

    fn tell(&mut self, event: ShadowEvent, image: &Backing) {
        let address = self.address;
        match event {
            ShadowEvent::Frozen => info!("{address}: frozen: the image does not change"),
            ShadowEvent::FreezeFailed(failure) => error!("{address}: not frozen: {failure}"),
            ShadowEvent::Full => {
                error!("{address}: the shadow is full: writes fail until it is thawed");
            }
            ShadowEvent::Merging { automatic: true } => error!(
                "{address}: the shadow was full: thawed; a copy of the image that was not \
                 complete by now is of no use"
            ),
            ShadowEvent::Merging { automatic: false } => {
                info!("{address}: thawed: the image changes, the shadow is being merged");
            }
            ShadowEvent::ThawFailed(failure) => error!("{address}: still frozen: {failure}"),
            ShadowEvent::MergeStopped(failure) => error!(
                "{address}: merging stopped: {failure}; nothing is lost, thaw again to go on"
            ),
            ShadowEvent::Merged => info!("{address}: the shadow is merged"),
        }
        let over = matches!(event, ShadowEvent::Merged | ShadowEvent::FreezeFailed(_));
        if let Some(files) = self.files.take_if(|_| over) {
            remove(files, image, address);
        }
    }
}

fn shadow(
    settings: &FreezeSettings,
    image: &Backing,
    capacity: usize,
) -> anyhow::Result<Shadow<Buffer>> {
    let bytes = (MERGE_PAGES + 1) * PAGE_BYTES;
    let mut pages = Pool::cache(bytes as u64).context("cannot get memory for the shadow")?;
    let map_buffer = pages.pop().context("a shadow needs a page")?;
    let parts = pages.into_iter().map(|buffer| Part {
        buffer,
        len_bytes: BLOCK_BYTES,
    });
    let shadow = ShadowSettings {
        capacity,
        size_bytes: image.sectors.saturating_mul(aoede_disk::SECTOR_BYTES),
        when_full: match settings.full {
            FullShadow::Fail => WhenFull::FailWrites,
            FullShadow::Thaw => WhenFull::Thaw,
        },
    };
    Ok(Shadow::new(
        shadow,
        map_buffer,
        Memory::Parts(parts.collect()),
    ))
}

fn begin<P: Port, E: Engine<Buffer>>(
    settings: &FreezeSettings,
    files: &ShadowFiles,
    worker: &mut Worker<P, E>,
    image: &Backing,
) -> anyhow::Result<()> {
    check_stability(files, image)?;
    let limit = limit(settings, files, 0)?;
    worker.freeze(EXPORT, files, limit)??;
    Ok(())
}

/// Durable writes are for files that tell each its own end.
fn check_stability(files: &ShadowFiles, image: &Backing) -> anyhow::Result<()> {
    let shared = |file: &Backing| file.stability() == Stability::Shared;
    if shared(&files.data) && !shared(image) {
        bail!(
            "{}: single writes cannot be made durable on its file system, on that of the image \
             they can: move the shadow to one with direct I/O, or use --io buffered",
            files.data.path.display()
        );
    }
    Ok(())
}

/// The configured limit, and the room there is.
fn limit(
    settings: &FreezeSettings,
    files: &ShadowFiles,
    used_bytes: u64,
) -> anyhow::Result<Option<u64>> {
    let room = files.room_bytes().context("asking for free room")?;
    let room = used_bytes.saturating_add(room);
    Ok(Some(settings.limit.map_or(room, |limit| limit.0.min(room))))
}

fn remove(files: ShadowFiles, image: &Backing, address: Address) {
    if let Err(error) = files.remove(image) {
        warn!("{address}: cannot remove the shadow: {error}; the next start does");
    }
    // To close the last descriptor of a large file takes time.
    let _ = std::thread::Builder::new().spawn(move || drop(files));
}
