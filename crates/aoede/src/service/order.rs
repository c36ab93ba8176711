//! What a daemon's worker is told, and what it tells.

use std::time::Duration;

use anyhow::Context as _;
use aoede_disk::{Backing, DiskError, Windows};
use aoede_target::{ExtensionReset, Target};
use aoede_wire::{Address, MacAddr};
use tokio::sync::oneshot;
use tracing::warn;

use super::freeze::Freezer;
use super::report::Report;
use super::seats::Wanted;
use super::target_settings;
use crate::control::api;
use crate::control::config::{Access, Export, Extension, Limits};
use crate::control::status::{FailureStatus, FreezeStatus};

/// Where an answer goes. Who asked may be gone when it comes.
pub(crate) type Answer<T> = oneshot::Sender<T>;

/// What a worker is to do, beside serving.
#[derive(Debug)]
pub(crate) enum Order {
    /// Serve one more.
    Open(Box<Opening>, Answer<anyhow::Result<()>>),
    /// Everything is open: take frames from now on.
    Begin,
    /// Take no new requests, finish what has begun, write what was acknowledged, close the file.
    Close(Address, Answer<Option<Box<Closed>>>),
    /// Go on with an export, but otherwise.
    Adjust(Address, Vec<Change>, Answer<()>),
    /// Look so long for more to do before sleeping.
    BusyPoll(Duration),
    /// The size of the file may have changed: tell initiators, and answer with it, in sectors.
    LookAtSize(Address, Answer<Option<u64>>),
    /// The image shall not change; answered when it does not, or cannot be.
    Freeze(Address, api::Answer<FreezeStatus>),
    /// The image may change again; answered when that has begun.
    Thaw(Address, api::Answer<FreezeStatus>),
    /// A latched failure is known of: go on, and try again.
    ResetFailure(Address, api::Answer<api::FailureReset>),
    /// How everything is.
    Report(Answer<Report>),
    /// Are you there?
    Ping(Answer<()>),
    /// Finish, and end.
    Stop,
}

/// What of an export changes while it is served.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// It is served on others.
    Interfaces(Vec<Wanted>),
    /// Others may use it.
    Access(Access),
    /// More or less of it may be used.
    Limits(Limits),
    /// Others can be negotiated.
    Extensions(std::collections::BTreeSet<Extension>),
    /// Other commands end what was negotiated.
    ExtensionReset(ExtensionReset),
}

/// An export that is open, and not yet served.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) export: Export,
    pub(crate) interfaces: Vec<Wanted>,
    pub(crate) backing: Backing,
    pub(super) freezer: Freezer,
    /// What an earlier process has left.
    pub(crate) remembered: Remembered,
    /// As whom this process has served it until now.
    pub(crate) target: Option<Box<Target>>,
    /// This process has not served it before: a freeze that is found was interrupted by a restart.
    pub(crate) after_restart: bool,
}

/// What of an export outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    /// As set by initiators.
    pub(crate) config_string: Vec<u8>,
    /// If initiators have edited it.
    pub(crate) mask: Option<Vec<MacAddr>>,
    /// Acknowledged data that could not be written: nothing is, until an operator knows of it.
    pub(crate) failure: Option<Failure>,
    /// A shadow holds what was written since a freeze.
    pub(crate) frozen: bool,
    /// By which initiators know that nothing of the cache was lost. Only of an export that was
    /// closed with all of it written.
    pub(crate) cache_number: Option<u64>,
}

/// Acknowledged data that could not be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) error: DiskError,
    pub(crate) status: FailureStatus,
}

/// An export that is closed.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) remembered: Remembered,
    /// To be served on by another worker.
    pub(crate) target: Target,
    /// Acknowledged, and never written.
    pub(crate) lost_bytes: u64,
}

/// What a worker tells by itself.
#[derive(Debug)]
pub(crate) enum News {
    /// This is to be kept over a restart.
    Remember(Address, Box<Remembered>),
    /// The worker with this number has ended.
    Ended(u16, anyhow::Result<()>),
    /// From the main thread to itself: all before this is heard.
    Heard(oneshot::Sender<()>),
}

impl Opening {
    /// Checks the settings, then opens the file and what belongs to it. May wait for a lock.
    ///
    /// # Errors
    /// What is wrong with it, and the remedy.
    pub(crate) fn new(export: Export, windows: &Windows) -> anyhow::Result<Self> {
        let settings = &export.settings;
        let address = settings.address;
        // What is wrong with the settings themselves must show before a file is made.
        settings
            .cache
            .check()
            .with_context(|| address.to_string())?;
        Target::new(target_settings(&export, &Remembered::default(), None))
            .with_context(|| address.to_string())?;
        let mut backing = aoede_disk::open_among(windows, &settings.path, &settings.open)
            .with_context(|| address.to_string())?;
        for warning in &backing.warnings {
            warn!("{address}: {}: {warning}", settings.path.display());
        }
        let freezer = Freezer::new(address, settings.freeze.as_ref(), &mut backing)
            .with_context(|| address.to_string())?;
        Ok(Self {
            interfaces: export.interfaces.iter().map(Wanted::from).collect(),
            export,
            backing,
            freezer,
            remembered: Remembered::default(),
            target: None,
            after_restart: true,
        })
    }
}
