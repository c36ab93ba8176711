//! From one configuration to the next: what has changed is closed, adjusted and opened.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use anyhow::bail;
use aoede_link::Monitor;
use aoede_target::Target;
use aoede_wire::Address;
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::calls::still_at_risk;
use super::{Daemon, Inner, Unserved, config_file, many, notify};
use crate::control::api::{Reason, Refusal, Reloaded};
use crate::control::config::{Config, Export};
use crate::control::plan::{Adjustment, DaemonChange, ExportChange, Placed, Plan, State, diff};
use crate::control::status::ReloadStatus;
use crate::service::{Change, Closed, Opening, Order, Remembered, Setup, spawn_worker};

/// What was opened, or why not, with whom it goes to.
type Opened = Vec<(Placed, anyhow::Result<Opening>)>;

/// Files that are opened at once. Fewer than there are threads for it: some may hang, and the state
/// is to be written nevertheless.
const OPENINGS: usize = 4;
/// Why nothing more is done.
const ENDING: &str = "the daemon is ending";

impl Daemon {
    /// Opens everything, and serves it.
    ///
    /// # Errors
    /// Whatever is wrong with any export. Then nothing was served.
    pub(super) async fn begin(&self, config: Config) -> anyhow::Result<()> {
        let _changing = self.changing.lock().await;
        let wanted = State::wanted(config, &State::default(), cores());
        let plan = diff(&State::default(), &wanted);
        self.inner.borrow_mut().state.daemon = wanted.daemon.clone();
        let mut errors = 0;
        let mut ready = Vec::new();
        let openings = plan.openings().map(|(_, placed)| placed.clone()).collect();
        for (placed, opening) in self.open_files(openings).await {
            match opening {
                Ok(opening) => ready.push((placed, opening)),
                Err(error) => {
                    error!("{error:#}");
                    errors += 1;
                }
            }
        }
        if errors == 0 {
            self.start_workers(wanted.exports.values())?;
            for (placed, opening) in ready {
                if let Err(error) = self.serve(placed, Ok(opening), None).await {
                    error!("{error:#}");
                    errors += 1;
                }
            }
        }
        if errors > 0 {
            bail!("{} to mend; nothing is served", many(errors, "error"));
        }
        let mut inner = self.inner.borrow_mut();
        inner.begun = true;
        for handle in inner.workers.values() {
            handle.send(Order::Begin);
        }
        Ok(())
    }

    /// Reads the configuration again, and carries out what has changed.
    ///
    /// # Errors
    /// The configuration is wrong: nothing was changed.
    pub(super) async fn reload(self: Rc<Self>) -> Result<Reloaded, Refusal> {
        let _changing = self.changing.lock().await;
        notify::reloading();
        let reloaded = self.read_and_change().await;
        let errors = match &reloaded {
            Ok(reloaded) => reloaded.errors.clone(),
            Err(wrong) => wrong.clone(),
        };
        let uptime_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.inner.borrow_mut().last_reload = Some(ReloadStatus {
            succeeded: errors.is_empty(),
            uptime_us,
            errors,
        });
        notify::ready();
        reloaded.map_err(|wrong| {
            let message = format!("{}: nothing is changed", wrong.join("\n"));
            Refusal::new(
                Reason::Invalid,
                message,
                "aoede check shows where it is wrong",
            )
        })
    }

    async fn read_and_change(&self) -> Result<Reloaded, Vec<String>> {
        let path = self.config_file.clone();
        let loaded = tokio::task::spawn_blocking(move || config_file::load(&path)).await;
        let Ok(loaded) = loaded else {
            return Err(vec![ENDING.to_owned()]);
        };
        for warning in &loaded.warnings {
            warn!("{warning}");
        }
        let Some(config) = loaded.config else {
            for wrong in &loaded.errors {
                error!("{wrong}");
            }
            error!(
                "{}: {}: nothing is changed",
                self.config_file.display(),
                many(loaded.errors.len(), "error")
            );
            return Err(loaded.errors);
        };
        let mut reloaded = Reloaded {
            config_file: self.config_file.display().to_string(),
            warnings: loaded.warnings,
            ..Reloaded::default()
        };
        let (plan, drained) = {
            let mut inner = self.inner.borrow_mut();
            let drained = std::mem::take(&mut inner.idle);
            let wanted = State::wanted(config, &inner.state, cores());
            (diff(&inner.state, &wanted), drained)
        };
        self.carry_out(plan, drained, &mut reloaded).await;
        match (reloaded.changes.len(), reloaded.errors.len()) {
            (0, 0) => info!("the configuration is read: nothing has changed"),
            (changes, 0) => info!("the configuration is read: {}", many(changes, "change")),
            (changes, errors) => warn!(
                "the configuration is read: {}, {}",
                many(changes, "change"),
                many(errors, "error")
            ),
        }
        Ok(reloaded)
    }

    async fn carry_out(
        &self,
        mut plan: Plan,
        mut drained: BTreeMap<Address, Unserved>,
        reloaded: &mut Reloaded,
    ) {
        for change in &plan.daemon {
            self.change_daemon(change, reloaded).await;
        }
        self.spare(&mut plan, reloaded).await;
        let mut left = BTreeMap::new();
        for address in plan.closings() {
            // All begin to close before one is waited for.
            left.insert(address, self.order_close(address));
        }
        let mut closed: BTreeMap<Address, Before> = BTreeMap::new();
        for (address, unserved) in &mut drained {
            if let Some(before) = unserved.drained.take() {
                closed.insert(
                    *address,
                    Before::new(unserved.export.clone(), None, *before),
                );
            }
        }
        for (address, answer) in left {
            let placed = self.placed(address);
            let answer = answer.await;
            if answer.is_err() && self.is_stopping() {
                // Its worker ends it, and has its last news.
                reloaded.errors.push(format!("{address}: {ENDING}"));
                continue;
            }
            if let (Some(Placed { export, worker }), Ok(Some(done))) = (placed, answer) {
                if done.lost_bytes > 0 {
                    reloaded.errors.push(format!(
                        "{address}: {} bytes that were acknowledged could not be written",
                        done.lost_bytes
                    ));
                }
                self.keep(&export, &done.remembered);
                closed.insert(address, Before::new(export, Some(worker), *done));
            }
            self.forget(address);
            if !plan.openings().any(|(opened, _)| opened == address) {
                reloaded.changes.push(format!("{address}: closed"));
            }
        }
        // What was told of an export before it was closed is not true of its next.
        self.hear_all().await;
        for (address, adjustments) in plan.adjustments() {
            self.adjust(address, adjustments).await;
            let names: Vec<&str> = adjustments.iter().map(name).collect();
            let changed = format!("{address}: changed {}", names.join(", "));
            info!("{changed}");
            reloaded.changes.push(changed);
        }
        let openings = plan.openings().map(|(_, placed)| placed.clone()).collect();
        let mut failed = Vec::new();
        for (placed, opening) in self.open_files(openings).await {
            let address = placed.export.address();
            let because = match plan.exports.get(&address) {
                Some(ExportChange::Reopen { because, .. }) => {
                    format!("opened again, for {}", because.join(", "))
                }
                _ => "opened".to_owned(),
            };
            let mut before = closed.remove(&address);
            match self.serve(placed.clone(), opening, before.as_mut()).await {
                Ok(()) => reloaded.changes.push(format!("{address}: {because}")),
                Err(error) => failed.push((placed.export, before, error)),
            }
        }
        // Behind the others: they may have what these had.
        for (export, before, error) in failed {
            let restored = match before {
                Some(before) => self.restore(before).await,
                None => false,
            };
            let told = if restored {
                format!("{error:#}; it is served as before")
            } else {
                self.set_idle(export, None);
                format!("{error:#}")
            };
            error!("{told}");
            reloaded.errors.push(told);
        }
        self.end_idle_workers();
    }

    /// Takes what may not be closed out of a plan. It stays as it is, also in the account: the next
    /// reload finds it again.
    async fn spare(&self, plan: &mut Plan, reloaded: &mut Reloaded) {
        if plan.closings().next().is_none() {
            return;
        }
        let at_risk = self.at_risk().await;
        let closings: Vec<Address> = plan.closings().collect();
        for address in closings {
            if let Some(&bytes) = at_risk.get(&address) {
                let refusal = still_at_risk(address, bytes);
                error!("{refusal}");
                reloaded.errors.push(format!("{refusal}, aoede reload"));
                plan.exports.remove(&address);
            }
        }
    }

    async fn change_daemon(&self, change: &DaemonChange, reloaded: &mut Reloaded) {
        let mut daemon = self.inner.borrow().state.daemon.clone();
        change.clone().apply(&mut daemon);
        let (what, done) = match change {
            DaemonChange::StateFolder(folder) => {
                ("the state folder", self.move_folder(folder.clone()).await)
            }
            DaemonChange::Workers(_) => ("the number of workers", Ok(())),
            DaemonChange::BusyPoll(time) => {
                for handle in self.inner.borrow().workers.values() {
                    handle.send(Order::BusyPoll(*time));
                }
                ("the time for looking", Ok(()))
            }
            DaemonChange::Socket(_) | DaemonChange::Group(_) => (
                "the control socket",
                self.listeners.lock().await.move_control(&daemon).await,
            ),
            DaemonChange::Status(_) => (
                "the status page",
                self.listeners.lock().await.move_page(&daemon).await,
            ),
        };
        match done {
            Ok(()) => {
                reloaded.changes.push(format!("changed {what}"));
                // Only what is done is in the account: what is not is tried again.
                self.inner.borrow_mut().state.daemon = daemon;
            }
            Err(error) => {
                error!("{error:#}");
                reloaded.errors.push(format!("{error:#}"));
            }
        }
    }

    /// Opens files, a few at a time, while the main thread goes on.
    async fn open_files(&self, openings: Vec<Placed>) -> Opened {
        let start = |placed: Placed| {
            let (export, windows) = (placed.export.clone(), self.windows.clone());
            let task = tokio::task::spawn_blocking(move || Opening::new(export, &windows));
            (placed, task)
        };
        let mut waiting = openings.into_iter();
        let mut running: VecDeque<_> = waiting.by_ref().take(OPENINGS).map(start).collect();
        let mut opened = Vec::new();
        while let Some((placed, task)) = running.pop_front() {
            let opening = task.await.unwrap_or_else(|error| Err(error.into()));
            opened.push((placed, opening));
            running.extend(waiting.next().map(start));
        }
        opened
    }

    /// Serves an export as before its change, which could not be made. Whether that was possible.
    async fn restore(&self, mut before: Before) -> bool {
        let Some(worker) = before.worker else {
            return false;
        };
        let placed = Placed {
            export: before.export.clone(),
            worker,
        };
        for (placed, opening) in self.open_files(vec![placed]).await {
            if let Err(error) = self.serve(placed, opening, Some(&mut before)).await {
                error!("nor can it be served as before: {error:#}");
                return false;
            }
        }
        true
    }

    /// Serves an export whose file is open, as it was `before`.
    async fn serve(
        &self,
        placed: Placed,
        opening: anyhow::Result<Opening>,
        before: Option<&mut Before>,
    ) -> anyhow::Result<()> {
        let mut opening = opening?;
        opening.remembered = match &before {
            // Newer than what stands in the folder, perhaps.
            Some(before) => carried_on(&before.remembered, &before.export, &placed.export),
            None => self.load(&placed.export).await?,
        };
        opening.after_restart = false;
        if let Some(before) = before
            && is_same_disk(&before.export, &placed.export)
        {
            opening.target = before.target.take();
        }
        self.start_workers(std::iter::once(&placed))?;
        self.hand_over(placed, opening).await
    }

    /// Gives an export to its worker.
    async fn hand_over(&self, placed: Placed, opening: Opening) -> anyhow::Result<()> {
        let (sender, answer) = oneshot::channel();
        {
            let mut inner = self.inner.borrow_mut();
            let Inner {
                workers,
                state,
                stopping,
                ..
            } = &mut *inner;
            if *stopping {
                bail!(ENDING);
            }
            let Some(worker) = workers.get(&placed.worker) else {
                bail!("worker {} has ended", placed.worker);
            };
            // First the account, so that its news are heard.
            state
                .exports
                .insert(placed.export.address(), placed.clone());
            worker.send(Order::Open(Box::new(opening), sender));
        }
        let opened = answer.await;
        let opened = opened.unwrap_or_else(|_| bail_ended(placed.worker));
        if opened.is_err() {
            self.forget(placed.export.address());
        }
        opened
    }

    /// Closes an export, and keeps what is known of it.
    pub(super) async fn close(&self, address: Address) -> Option<Box<Closed>> {
        let export = self.export(address)?;
        let closed = self.order_close(address).await.ok().flatten()?;
        self.keep(&export, &closed.remembered);
        self.forget(address);
        self.write_news().await;
        Some(closed)
    }

    fn order_close(&self, address: Address) -> oneshot::Receiver<Option<Box<Closed>>> {
        let (sender, answer) = oneshot::channel();
        if let Some(worker) = self.worker_of(address) {
            worker.send(Order::Close(address, sender));
        }
        answer
    }

    async fn adjust(&self, address: Address, adjustments: &[Adjustment]) {
        let changes: Vec<Change> = adjustments.iter().filter_map(change).collect();
        if let (Some(worker), false) = (self.worker_of(address), changes.is_empty()) {
            let (sender, answer) = oneshot::channel();
            worker.send(Order::Adjust(address, changes, sender));
            // One that has ended in between ends the daemon.
            let _ = answer.await;
        }
        let mut inner = self.inner.borrow_mut();
        let change = ExportChange::Adjust(adjustments.to_vec());
        change.apply(address, &mut inner.state.exports);
    }

    fn forget(&self, address: Address) {
        self.inner.borrow_mut().state.exports.remove(&address);
    }

    /// Notes that an export is not served although the configuration has it.
    pub(super) fn set_idle(&self, export: Export, drained: Option<Box<Closed>>) {
        let mut inner = self.inner.borrow_mut();
        let address = export.address();
        inner.idle.insert(address, Unserved { export, drained });
    }

    /// Starts the workers of these that are not there yet.
    fn start_workers<'a>(&self, exports: impl Iterator<Item = &'a Placed>) -> anyhow::Result<()> {
        let mut buffers: BTreeMap<u16, usize> = BTreeMap::new();
        for placed in exports {
            *buffers.entry(placed.worker).or_default() +=
                usize::from(placed.export.settings.buffers);
        }
        let mut inner = self.inner.borrow_mut();
        if inner.stopping {
            bail!(ENDING);
        }
        for (number, buffers) in buffers {
            if inner.workers.contains_key(&number) {
                continue;
            }
            let handle = spawn_worker(Setup {
                number,
                buffers,
                mtu: largest_mtu(),
                busy_poll: inner.state.daemon.busy_poll,
                start: self.start,
                news: self.news.clone(),
            })?;
            if inner.begun {
                handle.send(Order::Begin);
            }
            inner.workers.insert(number, handle);
        }
        Ok(())
    }

    /// Ends the workers that have nothing to serve any more.
    fn end_idle_workers(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.stopping {
            return;
        }
        let Inner {
            workers,
            retired,
            state,
            ..
        } = &mut *inner;
        let used: Vec<u16> = state.exports.values().map(|placed| placed.worker).collect();
        workers.retain(|number, handle| {
            let is_used = used.contains(number);
            if !is_used {
                handle.send(Order::Stop);
                retired.push(*number);
            }
            is_used
        });
    }
}

/// An export that was closed to be another.
struct Before {
    export: Export,
    /// Whose it was; none if it was drained.
    worker: Option<u16>,
    remembered: Remembered,
    /// If nothing of it was lost.
    target: Option<Box<Target>>,
}

impl Before {
    fn new(export: Export, worker: Option<u16>, closed: Closed) -> Self {
        let target = (closed.lost_bytes == 0).then(|| Box::new(closed.target));
        Self {
            export,
            worker,
            remembered: closed.remembered,
            target,
        }
    }
}

/// What is still true of an export that is another now.
fn carried_on(remembered: &Remembered, from: &Export, to: &Export) -> Remembered {
    if from.settings.path != to.settings.path {
        return Remembered::default();
    }
    let mut remembered = remembered.clone();
    if from.access != to.access {
        remembered.mask = None;
    }
    remembered
}

/// Whether an export has the same data as before, so that initiators can go on.
fn is_same_disk(from: &Export, to: &Export) -> bool {
    let (from, to) = (&from.settings, &to.settings);
    from.path == to.path && from.open.offset_sectors == to.open.offset_sectors
}

fn bail_ended(worker: u16) -> anyhow::Result<()> {
    bail!("worker {worker} has ended")
}

/// What a worker has to know of an adjustment.
fn change(adjustment: &Adjustment) -> Option<Change> {
    Some(match adjustment {
        Adjustment::Interfaces(patterns) => {
            Change::Interfaces(patterns.iter().map(Into::into).collect())
        }
        Adjustment::Access(access) => Change::Access(access.clone()),
        Adjustment::Extensions(extensions) => Change::Extensions(extensions.clone()),
        Adjustment::ExtensionReset(reset) => Change::ExtensionReset(*reset),
        Adjustment::Limits(limits) => Change::Limits(*limits),
        Adjustment::Create(_) | Adjustment::Pin(_) => return None,
    })
}

/// The key of the configuration.
fn name(adjustment: &Adjustment) -> &'static str {
    match adjustment {
        Adjustment::Interfaces(_) => "interfaces",
        Adjustment::Access(_) => "access",
        Adjustment::Limits(_) => "limits",
        Adjustment::Extensions(_) => "extensions",
        Adjustment::ExtensionReset(_) => "extension_reset",
        Adjustment::Create(_) => "create",
        Adjustment::Pin(_) => "worker",
    }
}

fn cores() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores).unwrap_or(u16::MAX)
}

/// Of all Ethernet interfaces there are, so that buffers hold what they bring.
fn largest_mtu() -> u32 {
    let interfaces = Monitor::open().and_then(|mut monitor| monitor.interfaces());
    let ethernet = interfaces.unwrap_or_default();
    let ethernet = ethernet.into_iter().filter(|one| one.ethernet);
    ethernet
        .map(|one| one.mtu)
        .filter(|&mtu| mtu <= MOST_MTU)
        .max()
        .unwrap_or(0)
}

/// Interfaces that take more are virtual ones, which do so for nothing in particular.
const MOST_MTU: u32 = 16_384;
