//! Freezing and thawing an export: what is ordered, done and told.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use aoede_disk::{
    Backing, Buffer, DiskError, Errno, FoundShadow, Memory, PAGE_BYTES, Part, Pool, Recovered,
    Shadow, ShadowError, ShadowEvent, ShadowFiles, ShadowFilesError, ShadowPhase, ShadowSettings,
    Stability, Volume, WhenFull,
};
use aoede_wire::Address;
use clap::ValueEnum;
use tracing::{error, info, warn};

use super::seats::PortWorker;
use crate::size::Size;

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
#[derive(Debug)]
pub(crate) struct Freezer {
    address: Address,
    /// The worker's number of the export.
    export: usize,
    settings: Option<FreezeSettings>,
    files: Option<ShadowFiles>,
    /// Found at start, until the worker has it.
    recovered: Option<Recovered>,
    /// A freeze is ordered, and comes when everything is written or at this time.
    freeze_at: Option<Duration>,
    /// Why the last freeze did not even begin.
    problem: Option<String>,
}

/// Why an export cannot be frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It was not made for that.
    NoShadow,
    /// It is frozen, or being merged.
    NotOver,
    /// Acknowledged data cannot be written.
    Failed(DiskError),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoShadow => f.write_str("there is no shadow"),
            Self::NotOver => f.write_str("the last freeze is not over"),
            Self::Failed(failure) => failure.fmt(f),
        }
    }
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
            export: 0,
            settings: settings.cloned(),
            files: None,
            recovered: None,
            freeze_at: None,
            problem: None,
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

    /// Gives the worker a shadow, and the unfinished freeze. It was interrupted by a restart of the
    /// process if `after_restart`, else the process only opens the export anew.
    ///
    /// # Errors
    /// Then no operation is under way.
    pub(super) fn start(
        &mut self,
        export: usize,
        worker: &mut PortWorker,
        image: &Backing,
        after_restart: bool,
    ) -> anyhow::Result<()> {
        self.export = export;
        let Some(settings) = &self.settings else {
            return Ok(());
        };
        let most = worker.volume(export).map(Volume::most_operations);
        let capacity = most.context("there is no such export")?;
        worker.set_shadow(self.export, shadow(settings, image, capacity)?);
        let (Some(files), Some(recovered)) = (&self.files, self.recovered.take()) else {
            return Ok(());
        };
        check_stability(files, image)?;
        let thawing = recovered.is_thawing();
        let limit = limit(settings, files, recovered.dirty_bytes())?;
        worker.resume(self.export, files, recovered, limit)??;
        let merges = after_restart && settings.unfinished == UnfinishedFreeze::Merge;
        if thawing {
            info!("{}: merging it goes on", self.address);
        } else if !merges {
            warn!(
                "{}: still frozen; thaw it when the backup is done",
                self.address
            );
        } else if let Err(error) = worker.thaw(self.export) {
            error!("{}: still frozen: {error}", self.address);
        }
        Ok(())
    }

    /// Whether it could be frozen at all.
    pub(super) fn has_shadow(&self) -> bool {
        self.settings.is_some()
    }

    /// A freeze is ordered, and not yet begun.
    pub(super) fn is_ordered(&self) -> bool {
        self.freeze_at.is_some()
    }

    /// Why the last freeze did not even begin.
    pub(super) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    /// Orders a thaw, or takes back the order of a freeze.
    ///
    /// # Errors
    /// There is nothing to thaw.
    pub(super) fn order_thaw(&mut self, worker: &mut PortWorker) -> Result<(), ShadowError> {
        let address = self.address;
        if self.freeze_at.take().is_some() {
            info!("{address}: not freezing");
            return Ok(());
        }
        worker.thaw(self.export)?;
        self.problem = None;
        info!("{address}: thawing");
        Ok(())
    }

    /// When a freeze comes that is ordered, whatever is written by then.
    pub(super) fn due(&self) -> Option<Duration> {
        self.freeze_at
    }

    /// Freezes when it is time for it, and tells what has happened. Whether anything has. What had
    /// no room in the shadow is written to the image, unless the export has `failed_before` this
    /// process: what was lost then is not in memory.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        worker: &mut PortWorker,
        image: &Backing,
        failed_before: bool,
    ) -> bool {
        let mut any = false;
        let clean = || worker.volume(self.export).is_none_or(Volume::is_clean);
        let freeze = self.freeze_at.take_if(|at| *at <= now || clean());
        if freeze.is_some()
            && let Err(error) = self.freeze(worker, image)
        {
            error!("{}: cannot freeze: {error:#}", self.address);
            self.problem = Some(format!("cannot freeze: {error:#}"));
            any = true;
        }
        while let Some(event) = worker.poll_shadow(self.export) {
            if matches!(event, ShadowEvent::Merging { .. }) && !failed_before {
                self.make_use_of_room(now, worker);
            }
            self.tell(event, image);
            any = true;
        }
        any
    }

    /// Acknowledged data that found no room in the shadow has room in the image.
    fn make_use_of_room(&self, now: Duration, worker: &mut PortWorker) {
        let failure = worker.volume(self.export).and_then(Volume::failure);
        if failure.is_some_and(|failure| failure.errno() == Errno::NOSPC) {
            info!(
                "{}: what was acknowledged and found no room is written to the image",
                self.address
            );
            worker.clear_failure(self.export, now);
            worker.begin_flush_export(self.export, now);
        }
    }

    /// What is left behind when the service stops.
    pub(super) fn stop(&self, worker: &PortWorker) {
        let status = worker.shadow_status(self.export);
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

    /// Orders a freeze. First, what is acknowledged should be in the image.
    ///
    /// # Errors
    /// It cannot be frozen, and why.
    pub(super) fn order_freeze(
        &mut self,
        now: Duration,
        worker: &mut PortWorker,
    ) -> Result<(), Refused> {
        if self.settings.is_none() {
            return Err(Refused::NoShadow);
        }
        let phase = worker.shadow_status(self.export).map(|status| status.phase);
        if phase != Some(ShadowPhase::Thawed) || self.freeze_at.is_some() {
            return Err(Refused::NotOver);
        }
        if let Some(failure) = worker.volume(self.export).and_then(Volume::failure) {
            return Err(Refused::Failed(failure));
        }
        self.problem = None;
        worker.begin_flush_export(self.export, now);
        self.freeze_at = Some(now + FLUSH_PATIENCE);
        Ok(())
    }

    fn freeze(&mut self, worker: &mut PortWorker, image: &Backing) -> anyhow::Result<()> {
        let Some(settings) = &self.settings else {
            return Ok(());
        };
        let status = worker.shadow_status(self.export);
        let size_bytes = status.context("there is no shadow")?.size_bytes;
        let files = aoede_disk::create_shadow(&settings.path, image, size_bytes, image.io)?;
        let begun = begin(self.export, settings, &files, worker, image);
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
                error!(
                    "{address}: the shadow is full: writes fail until it is thawed, and what was \
                     acknowledged early is lost if it is not"
                );
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

fn begin(
    export: usize,
    settings: &FreezeSettings,
    files: &ShadowFiles,
    worker: &mut PortWorker,
    image: &Backing,
) -> anyhow::Result<()> {
    check_stability(files, image)?;
    check_discard(files, image)?;
    let limit = limit(settings, files, 0)?;
    worker.freeze(export, files, limit)??;
    Ok(())
}

/// Durable writes are for files that tell each its own end.
fn check_stability(files: &ShadowFiles, image: &Backing) -> anyhow::Result<()> {
    let shared = |file: &Backing| file.stability() == Stability::Shared;
    if shared(&files.data) && !shared(image) {
        bail!(
            "{}: single writes cannot be made durable on its file system, on that of the image \
             they can: move the shadow to ext4 or XFS, or use --io buffered",
            files.data.path.display()
        );
    }
    Ok(())
}

/// A TRIM makes a hole in the shadow, and is offered if it can make one in the image.
fn check_discard(files: &ShadowFiles, image: &Backing) -> anyhow::Result<()> {
    if image.discard && !files.data.discard {
        bail!(
            "{}: its file system cannot give back parts of a file, as TRIM wants it and that of the \
             image can: move the shadow to one that can (ext4, XFS, Btrfs, tmpfs)",
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
