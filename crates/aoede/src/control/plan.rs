//! From what is running to what is wanted: the changes, and nothing else.
//!
//! ```text
//! Config ─▶ State::wanted ─▶ diff(running, wanted) ─▶ Plan ─▶ carried out, export by export
//!            (who serves)                                      ExportChange::apply keeps the account
//! ```
//!
//! Pure: what is opened, closed and told to whom is the business of the caller. An export that has
//! not changed is in no plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aoede_target::ExtensionReset;
use aoede_wire::Address;

use crate::service::ExportSettings;

use super::config::{Access, Config, Daemon, Export, Extension, Limits, Pattern};

/// What a daemon does, or shall do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// As a whole.
    pub daemon: Daemon,
    /// What is served, and by whom.
    pub exports: BTreeMap<Address, Placed>,
}

/// An export and the worker that serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// What is served.
    pub export: Export,
    /// By whom, counted from 0.
    pub worker: u16,
}

impl State {
    /// What a configuration wants on a host with so many cores, after what is `running`.
    ///
    /// Each export gets the worker that it is pinned to, or keeps the one that it has, or goes to
    /// the one with fewest exports; so there is one for each core at most, and none without an
    /// export. None is moved for the sake of balance: it would be interrupted.
    pub fn wanted(config: Config, running: &Self, cores: u16) -> Self {
        let workers = config.daemon.workers.unwrap_or(cores).max(1);
        let mut load: BTreeMap<u16, usize> = (0..workers).map(|worker| (worker, 0)).collect();
        let place = |export: &Export| {
            let kept = running.exports.get(&export.address());
            let kept = kept
                .map(|placed| placed.worker)
                .filter(|&worker| worker < workers);
            export.worker.or(kept)
        };
        for worker in config.exports.values().filter_map(place) {
            *load.entry(worker).or_default() += 1;
        }
        let mut exports = BTreeMap::new();
        for (address, export) in config.exports {
            let worker = place(&export).unwrap_or_else(|| least_loaded(&mut load, workers));
            exports.insert(address, Placed { export, worker });
        }
        Self {
            daemon: config.daemon,
            exports,
        }
    }
}

/// The first of the workers with fewest exports, which gets one more.
fn least_loaded(load: &mut BTreeMap<u16, usize>, workers: u16) -> u16 {
    let regular = load.range_mut(..workers);
    let Some((&worker, exports)) = regular.min_by_key(|(_, exports)| **exports) else {
        return 0;
    };
    *exports += 1;
    worker
}

/// What has to change: first `daemon`, then [closings](Plan::closings),
/// [adjustments](Plan::adjustments) and [openings](Plan::openings).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// About the daemon as a whole.
    pub daemon: Vec<DaemonChange>,
    /// About exports.
    pub exports: BTreeMap<Address, ExportChange>,
}

/// A change of the daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DaemonChange {
    /// Another folder for what outlives it; what is in the old one goes there.
    StateFolder(PathBuf),
    /// More or fewer workers. Which exports have to move, their own changes say.
    Workers(Option<u16>),
    /// Longer or shorter looks for more to do.
    BusyPoll(Duration),
    /// Another control socket.
    Socket(PathBuf),
    /// Another group that may use it.
    Group(Option<String>),
    /// A status page at another place, or none.
    Status(Option<SocketAddr>),
}

/// A change of one export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExportChange {
    /// It is new.
    Open(Box<Placed>),
    /// It is gone: what was acknowledged is written, then its file is closed.
    Close,
    /// It has to be closed as by `Close` and opened as by `Open`; initiators repeat what they ask
    /// meanwhile.
    Reopen {
        /// As it shall be.
        to: Box<Placed>,
        /// Keys of the configuration that make it necessary.
        because: Vec<&'static str>,
    },
    /// It goes on, and no request notices.
    Adjust(Vec<Adjustment>),
}

/// What of an export can change while it is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Adjustment {
    /// It is served on others, or on more or fewer interfaces.
    Interfaces(Vec<Pattern>),
    /// Others may use it. Takes the place of what initiators have made of the mask list.
    Access(Access),
    /// More or less of it may be used.
    Limits(Limits),
    /// Others can be negotiated; what has been negotiated and is not among them ends.
    Extensions(BTreeSet<Extension>),
    /// Other commands end what was negotiated.
    ExtensionReset(ExtensionReset),
    /// Of another size if it has to be made: that matters when it is opened the next time.
    Create(Option<u64>),
    /// Pinned to the worker that it has, or free of it from the next start on.
    Pin(Option<u16>),
}

/// What has to change so that what is running becomes what is wanted.
pub fn diff(running: &State, wanted: &State) -> Plan {
    let mut exports = BTreeMap::new();
    for (&address, new) in &wanted.exports {
        let change = match running.exports.get(&address) {
            None => Some(ExportChange::Open(Box::new(new.clone()))),
            Some(old) => diff_export(old, new),
        };
        exports.extend(change.map(|change| (address, change)));
    }
    let gone = running.exports.keys();
    let gone = gone.filter(|address| !wanted.exports.contains_key(address));
    exports.extend(gone.map(|&address| (address, ExportChange::Close)));
    Plan {
        daemon: diff_daemon(&running.daemon, &wanted.daemon),
        exports,
    }
}

impl Plan {
    /// Whether all is as it should be.
    pub fn is_empty(&self) -> bool {
        self.daemon.is_empty() && self.exports.is_empty()
    }

    /// What has to be closed. All of it comes before anything is opened: what is opened may need
    /// its files.
    pub fn closings(&self) -> impl Iterator<Item = Address> {
        let closing = self.exports.iter().filter(|(_, change)| {
            matches!(change, ExportChange::Close | ExportChange::Reopen { .. })
        });
        closing.map(|(&address, _)| address)
    }

    /// What changes while it is served, in any order.
    pub fn adjustments(&self) -> impl Iterator<Item = (Address, &[Adjustment])> {
        self.exports
            .iter()
            .filter_map(|(&address, change)| match change {
                ExportChange::Adjust(adjustments) => Some((address, adjustments.as_slice())),
                _ => None,
            })
    }

    /// What has to be opened.
    pub fn openings(&self) -> impl Iterator<Item = (Address, &Placed)> {
        self.exports
            .iter()
            .filter_map(|(&address, change)| match change {
                ExportChange::Open(to) | ExportChange::Reopen { to, .. } => {
                    Some((address, to.as_ref()))
                }
                _ => None,
            })
    }

    /// What is running once all of it is done.
    pub fn apply(self, running: State) -> State {
        let State {
            mut daemon,
            mut exports,
        } = running;
        for change in self.daemon {
            change.apply(&mut daemon);
        }
        for (address, change) in self.exports {
            change.apply(address, &mut exports);
        }
        State { daemon, exports }
    }
}

impl DaemonChange {
    /// Keeps the account of a change that is done.
    pub fn apply(self, daemon: &mut Daemon) {
        match self {
            Self::StateFolder(folder) => daemon.state_folder = folder,
            Self::Workers(workers) => daemon.workers = workers,
            Self::BusyPoll(time) => daemon.busy_poll = time,
            Self::Socket(path) => daemon.socket = path,
            Self::Group(group) => daemon.group = group,
            Self::Status(listen) => daemon.status = listen,
        }
    }
}

impl ExportChange {
    /// Keeps the account of a change that is done.
    pub fn apply(self, address: Address, exports: &mut BTreeMap<Address, Placed>) {
        match self {
            Self::Close => drop(exports.remove(&address)),
            Self::Open(to) | Self::Reopen { to, .. } => drop(exports.insert(address, *to)),
            Self::Adjust(adjustments) => {
                let Some(placed) = exports.get_mut(&address) else {
                    return;
                };
                for adjustment in adjustments {
                    adjustment.apply(&mut placed.export);
                }
            }
        }
    }
}

impl Adjustment {
    fn apply(self, export: &mut Export) {
        match self {
            Self::Interfaces(interfaces) => export.interfaces = interfaces,
            Self::Access(access) => {
                export.settings.allow = access.mask();
                export.access = access;
            }
            Self::Limits(limits) => export.limits = limits,
            Self::Extensions(extensions) => export.extensions = extensions,
            Self::ExtensionReset(reset) => export.settings.extension_reset = reset,
            Self::Create(bytes) => export.settings.open.create_bytes = bytes,
            Self::Pin(worker) => export.worker = worker,
        }
    }
}

fn diff_daemon(old: &Daemon, new: &Daemon) -> Vec<DaemonChange> {
    let mut changes = Vec::new();
    let mut add = |has_changed: bool, change: DaemonChange| {
        if has_changed {
            changes.push(change);
        }
    };
    add(
        old.state_folder != new.state_folder,
        DaemonChange::StateFolder(new.state_folder.clone()),
    );
    add(
        old.workers != new.workers,
        DaemonChange::Workers(new.workers),
    );
    add(
        old.busy_poll != new.busy_poll,
        DaemonChange::BusyPoll(new.busy_poll),
    );
    add(
        old.socket != new.socket,
        DaemonChange::Socket(new.socket.clone()),
    );
    add(
        old.group != new.group,
        DaemonChange::Group(new.group.clone()),
    );
    add(old.status != new.status, DaemonChange::Status(new.status));
    changes
}

fn diff_export(old: &Placed, new: &Placed) -> Option<ExportChange> {
    if old == new {
        return None;
    }
    let reopen = |because| {
        Some(ExportChange::Reopen {
            to: Box::new(new.clone()),
            because,
        })
    };
    let because = causes(old, new);
    if !because.is_empty() {
        return reopen(because);
    }
    let adjustments = adjustments(&old.export, &new.export);
    let mut adjusted = old.export.clone();
    for adjustment in adjustments.clone() {
        adjustment.apply(&mut adjusted);
    }
    // Only a mask list that does not follow from the access could differ now.
    if adjusted != new.export {
        return reopen(vec!["allow"]);
    }
    Some(ExportChange::Adjust(adjustments))
}

/// Keys whose change needs the file opened anew, or all requests ended.
fn causes(old: &Placed, new: &Placed) -> Vec<&'static str> {
    let (a, b) = (&old.export, &new.export);
    let (from, to) = (&a.settings, &b.settings);
    let shadows = from.freeze.as_ref().zip(to.freeze.as_ref());
    let shadow =
        |settings: &ExportSettings| settings.freeze.as_ref().map(|freeze| freeze.path.clone());
    let differs = [
        ("path", from.path != to.path),
        ("read_only", from.open.read_only != to.open.read_only),
        ("offset", from.open.offset_sectors != to.open.offset_sectors),
        ("length", from.open.length_sectors != to.open.length_sectors),
        ("io", from.open.io != to.open.io),
        ("engine", a.engine != b.engine),
        ("buffers", from.buffers != to.buffers),
        ("cache", from.cache.mode != to.cache.mode),
        ("cache_size", from.cache.size != to.cache.size),
        ("dirty_size", from.cache.dirty != to.cache.dirty),
        ("dirty_age", from.cache.dirty_age != to.cache.dirty_age),
        ("shadow", shadow(from) != shadow(to)),
        (
            "shadow_limit",
            shadows.is_some_and(|(a, b)| a.limit != b.limit),
        ),
        (
            "shadow_full",
            shadows.is_some_and(|(a, b)| a.full != b.full),
        ),
        (
            "unfinished_freeze",
            shadows.is_some_and(|(a, b)| a.unfinished != b.unfinished),
        ),
        ("model", a.model != b.model),
        ("serial", a.serial != b.serial),
        ("worker", old.worker != new.worker),
    ];
    let causes = differs.into_iter().filter(|&(_, differs)| differs);
    causes.map(|(key, _)| key).collect()
}

fn adjustments(old: &Export, new: &Export) -> Vec<Adjustment> {
    let mut adjustments = Vec::new();
    let mut add = |has_changed: bool, adjustment: Adjustment| {
        if has_changed {
            adjustments.push(adjustment);
        }
    };
    let (from, to) = (&old.settings, &new.settings);
    add(
        old.interfaces != new.interfaces,
        Adjustment::Interfaces(new.interfaces.clone()),
    );
    add(
        old.access != new.access,
        Adjustment::Access(new.access.clone()),
    );
    add(old.limits != new.limits, Adjustment::Limits(new.limits));
    add(
        old.extensions != new.extensions,
        Adjustment::Extensions(new.extensions.clone()),
    );
    add(
        from.extension_reset != to.extension_reset,
        Adjustment::ExtensionReset(to.extension_reset),
    );
    add(
        from.open.create_bytes != to.open.create_bytes,
        Adjustment::Create(to.open.create_bytes),
    );
    add(old.worker != new.worker, Adjustment::Pin(new.worker));
    adjustments
}
