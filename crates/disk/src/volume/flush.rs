//! Which writing and which sync a flush waits for.
//!
//! Syncs are shared with durable writes: whichever runs covers all that the device has taken when
//! it starts. A flush covers what was acknowledged before it arrived. It has two parts: everything
//! dirty is written, then the device is synced. One runs at a time. What was acknowledged since it
//! began is not covered: a flush that arrives later waits for the next one, which all that arrive
//! meanwhile share. Flushes begin also without being asked for, when acknowledged data grows too
//! much or too old.
#![forbid(unsafe_code)]

use std::time::Duration;

/// The flush that may run, and what it does not cover.
#[derive(Debug)]
pub(super) struct Flushes {
    state: State,
    /// Somebody waits for the flush after the running one.
    next_wanted: bool,
    /// Data was acknowledged since the running flush began.
    uncovered: bool,
    /// Given to the device, and no sync begun since then covers it: that much, and for how long.
    unsynced: Option<Duration>,
    unsynced_bytes: u64,
    /// Covered by the running sync.
    syncing: Option<Duration>,
    syncing_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// What was dirty when it began is being written.
    Writing,
    /// To be given to the device.
    SyncWanted,
    Syncing,
}

/// What an arriving flush has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    NothingToDo,
    /// The flush that is to begin now.
    Begin,
    /// The flush that runs.
    Running,
    /// The one after it.
    Next,
}

impl Flushes {
    /// Before anything is acknowledged. An earlier process may have been killed that had given
    /// acknowledged data to the device: readers see it, so that a flush has to cover it, and no
    /// time may pass without a sync.
    pub(super) fn new() -> Self {
        Self {
            state: State::Idle,
            next_wanted: false,
            uncovered: false,
            unsynced: Some(Duration::ZERO),
            unsynced_bytes: 0,
            syncing: None,
            syncing_bytes: 0,
        }
    }

    /// A change was acknowledged that is not on stable storage.
    pub(super) fn acknowledged(&mut self) {
        self.uncovered = true;
    }

    /// The device has taken data that was acknowledged at `since`, and may lose it in a power cut.
    pub(super) fn unsynced(&mut self, since: Duration, bytes: u64) {
        self.unsynced = super::earlier(self.unsynced, Some(since));
        self.unsynced_bytes += bytes;
    }

    /// Since when the oldest data has waited for a sync.
    pub(super) fn oldest_unsynced(&self) -> Option<Duration> {
        self.unsynced
    }

    /// Bytes that are with the device but not known to be stable.
    pub(super) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes + self.syncing_bytes
    }

    /// A flush arrives, while data is dirty or not.
    pub(super) fn arrive(&mut self, dirty: bool) -> Arrival {
        match self.state {
            State::Idle if !dirty && !self.has_unsynced() => Arrival::NothingToDo,
            State::Idle => Arrival::Begin,
            _ if !self.uncovered => Arrival::Running,
            _ => {
                self.next_wanted = true;
                Arrival::Next
            }
        }
    }

    /// A flush begins: what is dirty now is to be written, then synced.
    pub(super) fn begin(&mut self) {
        self.state = State::Writing;
        self.uncovered = false;
    }

    /// Whether what was dirty at the beginning is still being written.
    pub(super) fn is_writing(&self) -> bool {
        self.state == State::Writing
    }

    /// All of it is written. Whether that was all: then the flush is over.
    pub(super) fn all_written(&mut self) -> bool {
        self.state = match (self.unsynced, self.syncing) {
            (Some(_), _) => State::SyncWanted,
            // A sync for other writes runs, and covers all there is.
            (None, Some(_)) => State::Syncing,
            (None, None) => State::Idle,
        };
        self.state == State::Idle
    }

    /// Whether a sync is due.
    pub(super) fn is_sync_wanted(&self) -> bool {
        self.state == State::SyncWanted
    }

    /// A sync is given to the device. It covers what the device has by now.
    pub(super) fn sync_starts(&mut self) {
        if self.state == State::SyncWanted {
            self.state = State::Syncing;
        }
        // Of a sync that is repeated, what it covered before is covered again.
        self.syncing = super::earlier(self.syncing, self.unsynced.take());
        self.syncing_bytes += std::mem::take(&mut self.unsynced_bytes);
    }

    /// The sync is over. Whether it was what the running flush waited for.
    pub(super) fn sync_ends(&mut self) -> bool {
        self.syncing = None;
        self.syncing_bytes = 0;
        self.state == State::Syncing
    }

    /// Whether the device has acknowledged data that it may lose.
    pub(super) fn has_unsynced(&self) -> bool {
        self.unsynced.is_some() || self.syncing.is_some()
    }

    /// The running flush is over; whether somebody waits for another, which is to begin. After a
    /// failure nobody waits.
    pub(super) fn finished(&mut self, failed: bool) -> bool {
        self.state = State::Idle;
        std::mem::take(&mut self.next_wanted) && !failed
    }

    /// What the device had is to be written again: none of it waits for a sync any more.
    pub(super) fn nothing_unsynced(&mut self) {
        self.unsynced = None;
        self.unsynced_bytes = 0;
        self.syncing = None;
        self.syncing_bytes = 0;
    }

    pub(super) fn is_running(&self) -> bool {
        self.state != State::Idle
    }
}
