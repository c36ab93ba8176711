//! One export as a server knows it, beside what the worker does for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aoede_disk::{
    Backing, Buffer, Cause, DiskError, Engine as _, FileId, IoMode, Operation, ShadowPhase, Volume,
};
use aoede_target::Target;
use aoede_wire::{Address, SECTOR_BYTES};
use tracing::{debug, error, info, warn};

use super::freeze::{Freezer, Refused};
use super::order::{Answer, Change, Closed, Failure, Opening, Remembered};
use super::report;
use super::seats::{Place, PortWorker, Wanted};
use super::size_watch::{SizeWatch, SizeWatches};
use super::{REPORT_PAUSE, target_settings};
use crate::control::api::{self, Reason, Refusal};
use crate::control::config::{Export, Extension};
use crate::control::status::FreezeStatus;
use crate::size::Size;
use crate::worker::{SeatSet, Serving};

/// Ranges that a message names.
const RANGES_SHOWN: usize = 8;

/// Why data is lost that is not written when nothing can be tried any more.
const LOST: DiskError = DiskError {
    operation: Operation::Flush,
    lba: 0,
    sectors: 0,
    cause: Cause::NoProgress,
};

/// One export of a server.
pub(super) struct Served {
    /// The worker's number.
    number: usize,
    /// Of the engine.
    file: FileId,
    export: Export,
    interfaces: Vec<Wanted>,
    backing: Backing,
    freezer: Freezer,
    size_watch: SizeWatch,
    /// It has been said that acknowledged data cannot be written.
    latched: bool,
    /// Times that the disk has refused acknowledged data, and when to tell of the next.
    retries: u64,
    retries_after: Instant,
    /// A failure of an earlier process, until an operator knows of it.
    failed_before: Option<Failure>,
    /// Initiators have edited the mask list.
    mask_edited: bool,
    /// By which initiators know that nothing of the cache was lost.
    cache_number: u64,
    /// An operator has commands for it, beside signals.
    has_commands: bool,
    /// What the daemon knows of it.
    told: Remembered,
    /// Who waits for a freeze.
    freezing: Vec<api::Answer<FreezeStatus>>,
    closing: Option<Answer<Option<Box<Closed>>>>,
    closed: Option<Box<Closed>>,
}

impl Served {
    /// Gives the worker an export that is open.
    ///
    /// # Errors
    /// Why it cannot be served; nothing of it is left then.
    pub(super) fn start(
        opening: Opening,
        has_commands: bool,
        worker: &mut PortWorker,
        watches: &mut SizeWatches,
    ) -> anyhow::Result<Self> {
        let Opening {
            export,
            interfaces,
            backing,
            mut freezer,
            remembered,
            target,
            after_restart,
        } = opening;
        let address = export.address();
        let settings = &export.settings;
        let engine = worker.engine_mut();
        engine.choose(export.engine)?;
        let path = settings.path.display();
        let shown = target_settings(&export, &remembered, Some(&backing));
        let cache_number = shown.cache_number;
        let mut shown = Target::new(shown).with_context(|| address.to_string())?;
        if let Some(before) = target {
            shown.take_over(*before);
        }
        let volume = settings
            .cache
            .volume(
                &backing,
                usize::from(settings.buffers),
                settings.least_block_bytes(),
            )
            .with_context(|| address.to_string())?;
        let file = engine
            .attach(&backing)
            .with_context(|| format!("{address}: {path}"))?;
        let serving = Serving {
            // Until it is known where its interfaces are.
            seats: SeatSet::NONE,
            requests: settings.buffers,
        };
        let number = match worker.add_export(shown, file, volume, serving) {
            Ok(number) => number,
            Err(taken) => {
                worker.engine_mut().detach(file);
                bail!("{taken}");
            }
        };
        if let Err(error) = freezer.start(number, worker, &backing, after_restart) {
            worker.abandon_export(number);
            return Err(error.context(address.to_string()));
        }
        if let Some(failure) = &remembered.failure {
            warn!(
                at_risk = %at_risk_before(failure),
                "{address}: acknowledged data was lost ({}): every write and flush fails, reads \
                 go on; look at the file systems on this disk, then: aoede reset {address}",
                failure.error
            );
            worker.set_failure(number, failure.error);
        }
        worker.set_limits(number, export.limits);
        let size_watch = watches.watch(&backing);
        Ok(Self {
            number,
            file,
            interfaces,
            freezer,
            size_watch,
            latched: remembered.failure.is_some(),
            retries: 0,
            retries_after: Instant::now(),
            mask_edited: remembered.mask.is_some(),
            failed_before: remembered.failure.clone(),
            told: Remembered {
                cache_number: None,
                ..remembered
            },
            cache_number,
            has_commands,
            freezing: Vec::new(),
            closing: None,
            closed: None,
            backing,
            export,
        })
    }

    pub(super) fn number(&self) -> usize {
        self.number
    }

    pub(super) fn file(&self) -> FileId {
        self.file
    }

    pub(super) fn address(&self) -> Address {
        self.export.address()
    }

    pub(super) fn export(&self) -> &Export {
        &self.export
    }

    pub(super) fn backing(&self) -> &Backing {
        &self.backing
    }

    pub(super) fn freezer(&self) -> &Freezer {
        &self.freezer
    }

    pub(super) fn place(&self) -> Place<'_> {
        Place {
            export: self.number,
            address: self.address(),
            interfaces: &self.interfaces,
        }
    }

    pub(super) fn tell_what_is_served(&self, interfaces: &str) {
        let settings = &self.export.settings;
        info!(
            path = %settings.path.display(),
            sectors = self.backing.sectors,
            size = %Size(self.backing.sectors.saturating_mul(SECTOR_BYTES as u64)),
            interfaces = %interfaces,
            io = io_name(self.backing.io),
            read_only = self.backing.read_only,
            cache = %settings.cache.mode,
            buffers = settings.buffers,
            pid = std::process::id(),
            "serving {}",
            self.address()
        );
    }

    /// When a freeze comes that is ordered, whatever is written by then.
    pub(super) fn due(&self) -> Option<Duration> {
        self.freezer.due()
    }

    /// Goes on with a freeze, and tells who waits for it.
    pub(super) fn advance(&mut self, now: Duration, worker: &mut PortWorker) {
        let failed_before = self.failed_before.is_some();
        self.freezer
            .advance(now, worker, &self.backing, failed_before);
        if self.freezing.is_empty() || self.freezer.is_ordered() {
            return;
        }
        let status = report::freeze(self.number, &self.freezer, worker).unwrap_or_default();
        let phase = worker.shadow_status(self.number).map(|status| status.phase);
        let answer = match phase {
            Some(ShadowPhase::Freezing) => return,
            Some(ShadowPhase::Frozen) => Ok(status),
            _ => {
                let why = status.error.unwrap_or_else(|| "thawed again".to_owned());
                let message = format!("{}: not frozen: {why}", self.address());
                Err(Refusal::new(Reason::Failed, message, ""))
            }
        };
        for waiting in self.freezing.drain(..) {
            // Who asked may be gone.
            let _ = waiting.send(answer.clone());
        }
    }

    /// A signal has ordered a freeze.
    pub(super) fn freeze_by_signal(&mut self, now: Duration, worker: &mut PortWorker) {
        let address = self.address();
        match self.freezer.order_freeze(now, worker) {
            Ok(()) => {}
            Err(Refused::NoShadow) => {
                warn!("{address}: cannot freeze: there is no shadow; give one with --shadow PATH");
            }
            Err(refused @ Refused::NotOver) => warn!(
                "{address}: cannot freeze: {refused} (if this was to be a thaw, pause between the \
                 signals)"
            ),
            Err(refused) => warn!("{address}: cannot freeze: {refused}"),
        }
    }

    pub(super) fn thaw_by_signal(&mut self, worker: &mut PortWorker) {
        if let Err(error) = self.freezer.order_thaw(worker) {
            warn!("{}: cannot thaw: {error}", self.address());
        }
    }

    pub(super) fn freeze(
        &mut self,
        now: Duration,
        worker: &mut PortWorker,
        answer: api::Answer<FreezeStatus>,
    ) {
        let address = self.address();
        let remedy = match self.freezer.order_freeze(now, worker) {
            Ok(()) => {
                info!("{address}: freezing");
                self.freezing.push(answer);
                return;
            }
            Err(refused) => match refused {
                Refused::NoShadow => (refused, "give it a shadow in the configuration".to_owned()),
                Refused::NotOver => (refused, format!("thaw it first: aoede thaw {address}")),
                Refused::Failed(_) => (
                    refused,
                    format!("mend the disk, then: aoede reset {address}"),
                ),
            },
        };
        let (refused, remedy) = remedy;
        let message = format!("{address}: cannot freeze: {refused}");
        let _ = answer.send(Err(Refusal::new(Reason::Conflict, message, remedy)));
    }

    pub(super) fn thaw(&mut self, worker: &mut PortWorker, answer: api::Answer<FreezeStatus>) {
        let result = match self.freezer.order_thaw(worker) {
            Ok(()) => Ok(report::freeze(self.number, &self.freezer, worker).unwrap_or_default()),
            Err(error) => {
                let message = format!("{}: cannot thaw: {error}", self.address());
                Err(Refusal::new(Reason::Conflict, message, ""))
            }
        };
        let _ = answer.send(result);
    }

    pub(super) fn reset_failure(
        &mut self,
        now: Duration,
        worker: &mut PortWorker,
    ) -> Result<api::FailureReset, Refusal> {
        let address = self.address();
        let volume = worker.volume(self.number);
        if self.failed_before.is_none() && volume.and_then(Volume::failure).is_none() {
            let message = format!("{address}: there is no failure to reset");
            return Err(Refusal::new(Reason::Conflict, message, ""));
        }
        let at_risk_bytes = volume.map_or(0, Volume::bytes_at_risk);
        worker.clear_failure(self.number, now);
        worker.begin_flush_export(self.number, now);
        self.failed_before = None;
        self.latched = false;
        info!("{address}: the failure is reset: writing is tried again");
        Ok(api::FailureReset { at_risk_bytes })
    }

    /// Makes a change. Whether it is now served elsewhere.
    pub(super) fn change(&mut self, change: Change, worker: &mut PortWorker) -> bool {
        let Some(target) = worker.target_mut(self.number) else {
            return false;
        };
        match change {
            Change::Interfaces(interfaces) => {
                self.interfaces = interfaces;
                return true;
            }
            Change::Access(access) => {
                if let Err(error) = target.set_access(&access) {
                    error!("{}: cannot set the access: {error}", self.export.address());
                }
                self.mask_edited = false;
                self.export.access = access;
            }
            Change::Extensions(extensions) => {
                target.set_extensions(Extension::set(&extensions));
                self.export.extensions = extensions;
            }
            Change::Limits(limits) => {
                worker.set_limits(self.number, limits);
                self.export.limits = limits;
            }
            Change::ExtensionReset(reset) => target.set_extension_reset(reset),
        }
        false
    }

    /// Begins to close it.
    pub(super) fn close(
        &mut self,
        now: Duration,
        worker: &mut PortWorker,
        answer: Answer<Option<Box<Closed>>>,
    ) {
        info!("closing {}", self.address());
        worker.begin_close(self.number, now);
        self.closing = Some(answer);
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// Ends it, if it is to be closed and nothing of it is under way any more. Returns what is to be
    /// kept of it; then [`Self::answer_closed`].
    pub(super) fn try_end(
        &mut self,
        worker: &mut PortWorker,
        watches: &SizeWatches,
    ) -> Option<Remembered> {
        if !self.is_closing() || !worker.is_closed(self.number) {
            return None;
        }
        self.size_watch.disarm(watches);
        self.log_disk_error(worker);
        self.freezer.stop(worker);
        let mut remembered = self.remember(worker);
        let lost_bytes = worker.volume(self.number).map_or(0, Volume::bytes_at_risk);
        let is_whole = lost_bytes == 0 && remembered.failure.is_none();
        remembered.cache_number = is_whole.then_some(self.cache_number);
        if let Err(error) = self.check_nothing_is_lost(worker) {
            error!("{error:#}");
        }
        let (target, _, _) = worker.remove_export(self.number)?;
        info!("closed {}", self.address());
        self.closed = Some(Box::new(Closed {
            remembered: remembered.clone(),
            target,
            lost_bytes,
        }));
        Some(remembered)
    }

    /// Tells whoever has ordered it that it is closed.
    pub(super) fn answer_closed(&mut self) {
        if let Some(answer) = self.closing.take() {
            // Who asked may be gone.
            let _ = answer.send(self.closed.take());
        }
    }

    /// Begins to listen for changes of the size; whether there will be news.
    pub(super) fn arm(&mut self, watches: &SizeWatches) -> bool {
        self.size_watch.arm(watches)
    }

    pub(super) fn disarm(&mut self, watches: &SizeWatches) {
        self.size_watch.disarm(watches);
    }

    /// Follows the size of the file. Whether it is another.
    pub(super) fn look_at_size(&mut self, worker: &mut PortWorker) -> bool {
        let address = self.address();
        match self.backing.current_sectors() {
            Ok(sectors) if worker.set_sectors(self.number, sectors) => {
                info!("{address}: the size is now {sectors} sectors");
                worker.announce_export(self.number);
                return true;
            }
            Ok(_) => {}
            Err(error) => debug!("{address}: cannot read the size: {error}"),
        }
        false
    }

    /// What is done once a second, as long as there is something to do. Returns what is to be kept
    /// over a restart, if that is something new.
    pub(super) fn tick(&mut self, worker: &mut PortWorker) -> Option<Remembered> {
        self.look_at_size(worker);
        let target = worker.target_mut(self.number)?;
        let string_changed = target.take_config_changed();
        self.mask_edited |= target.take_mask_changed();
        if string_changed {
            worker.announce_export(self.number);
        }
        self.log_disk_error(worker);
        let now = self.remember(worker);
        if now == self.told {
            return None;
        }
        self.told = now.clone();
        Some(now)
    }

    /// What is to be kept over a restart.
    pub(super) fn remember(&self, worker: &PortWorker) -> Remembered {
        let mut remembered = Remembered {
            failure: self.failure(worker),
            frozen: worker
                .shadow_status(self.number)
                .is_some_and(|status| status.phase != ShadowPhase::Thawed),
            ..Remembered::default()
        };
        if let Some(target) = worker.exports().get(self.number) {
            remembered.config_string = target.config_string().to_vec();
            remembered.mask = self.mask_edited.then(|| target.mask().to_vec());
        }
        remembered
    }

    /// Acknowledged data that could not be written, now or by an earlier process.
    pub(super) fn failure(&self, worker: &PortWorker) -> Option<Failure> {
        if let Some(before) = &self.failed_before {
            return Some(before.clone());
        }
        let volume = worker.volume(self.number)?;
        let is_over = worker.is_closed(self.number);
        let error = volume.failure();
        let error = error.or_else(|| (is_over && !volume.is_clean()).then_some(LOST))?;
        Some(Failure {
            error,
            status: report::failure(error, volume),
        })
    }

    /// Tells that acknowledged data cannot be written, or is refused again and again.
    pub(super) fn log_disk_error(&mut self, worker: &PortWorker) {
        let address = self.address();
        let Some(volume) = worker.volume(self.number) else {
            return;
        };
        if let Some(error) = volume.failure().filter(|_| !self.latched) {
            let status = worker.shadow_status(self.number);
            let frozen = status.is_some_and(|status| status.phase == ShadowPhase::Frozen);
            let remedy = match (frozen, self.has_commands) {
                (true, _) => "thaw it, or make room for the shadow".to_owned(),
                (false, true) => format!("mend the disk, then: aoede reset {address}"),
                (false, false) => {
                    "mend the disk, then stop this process with SIGTERM, which tries \
                                   once more"
                        .to_owned()
                }
            };
            error!(
                at_risk = %at_risk(volume),
                "{address}: acknowledged data cannot be written ({error}): every write and flush \
                 fails from now on, reads go on; {remedy}",
            );
        }
        self.latched = volume.failure().is_some();
        let retries = volume.stats().retries;
        if retries > self.retries && !self.latched && Instant::now() >= self.retries_after {
            self.retries_after = Instant::now() + REPORT_PAUSE;
            warn!(
                at_risk = %at_risk(volume),
                "{address}: the disk refuses acknowledged data; trying again",
            );
        }
        self.retries = retries;
    }

    /// Says so if acknowledged data never reached stable storage.
    pub(super) fn check_nothing_is_lost(&self, worker: &PortWorker) -> anyhow::Result<()> {
        let volume = worker.volume(self.number);
        let Some(volume) = volume.filter(|volume| !volume.is_clean()) else {
            return Ok(());
        };
        let (sectors, path) = (at_risk(volume), self.backing.path.display());
        let cause = volume.failure().map(|error| format!(": {error}"));
        bail!(
            "{}: {path}: acknowledged data could not be written{}; what initiators wrote last to \
             {sectors} is lost, so check the file systems on this disk",
            self.address(),
            cause.unwrap_or_default()
        );
    }

    /// The service ends, and nothing more will be tried: what is not written by now is lost.
    pub(super) fn give_up(&mut self, worker: &PortWorker) {
        let Some(volume) = worker.volume(self.number) else {
            return;
        };
        // One that is not clean because its first sync is missing has lost nothing of its own.
        let lost = (volume.bytes_at_risk() > 0).then_some(LOST);
        let Some(error) = volume.failure().or(lost) else {
            return;
        };
        self.failed_before.get_or_insert_with(|| Failure {
            error,
            status: report::failure(error, volume),
        });
    }

    /// The last words: what it has done.
    pub(super) fn tell_what_was_done(&self, worker: &PortWorker) {
        let Some(target) = worker.exports().get(self.number) else {
            return;
        };
        let frames = worker.stats();
        let stats = target.stats();
        let cache = worker.volume(self.number).map(Volume::stats);
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
            ignored = %report::ignored(worker.exports().ignored(), &stats.ignored),
            "stopped {}",
            target.address(),
        );
    }
}

pub(super) fn io_name(io: IoMode) -> &'static str {
    match io {
        IoMode::Direct => "direct",
        IoMode::Buffered => "buffered",
        IoMode::Uncached => "uncached",
    }
}

/// The same of an earlier process.
fn at_risk_before(failure: &Failure) -> String {
    let ranges = failure.status.at_risk.iter();
    let ranges: Vec<_> = ranges.map(|range| (range.lba, range.sectors)).collect();
    report::show_ranges(&ranges, RANGES_SHOWN)
}

/// Where acknowledged data is that is not on stable storage: `LBA 8-15, 96 and 3 more ranges`.
fn at_risk(volume: &Volume<Buffer>) -> String {
    let ranges = report::ranges_at_risk(volume);
    report::show_ranges(&ranges, RANGES_SHOWN)
}
