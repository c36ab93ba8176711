//! Which sync a flush waits for.
//!
//! A flush covers what was acknowledged before it arrived. A running sync may have passed by what
//! was acknowledged since it started: a flush that needs that waits for the next one, and all that
//! arrive meanwhile share it.
#![forbid(unsafe_code)]

/// The one sync that may run, and what it does not cover.
#[derive(Debug, Default)]
pub(super) struct Flushes {
    state: State,
    /// Data was acknowledged that no sync started since then covers.
    unsynced: bool,
    /// A flush waits for the sync after the running one.
    next_wanted: bool,
    /// How often the running sync was interrupted.
    repeats: u8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    /// To be given to the device.
    Wanted,
    Running,
}

/// What an arriving flush has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    NothingToDo,
    /// The sync that runs or is about to.
    Running,
    /// The one after it.
    Next,
}

impl Flushes {
    /// A change was acknowledged that is not on stable storage.
    pub(super) fn acknowledged(&mut self) {
        self.unsynced = true;
    }

    pub(super) fn arrive(&mut self) -> Arrival {
        match (self.state, self.unsynced) {
            (State::Idle, false) => Arrival::NothingToDo,
            (State::Idle, true) => {
                self.state = State::Wanted;
                Arrival::Running
            }
            (State::Wanted, _) | (State::Running, false) => Arrival::Running,
            (State::Running, true) => {
                self.next_wanted = true;
                Arrival::Next
            }
        }
    }

    /// Whether a sync is due; it counts as started.
    pub(super) fn take_sync(&mut self) -> bool {
        let wanted = self.state == State::Wanted;
        if wanted {
            self.state = State::Running;
            self.unsynced = false;
        }
        wanted
    }

    /// The running sync was interrupted before it did anything: whether it is worth repeating.
    pub(super) fn repeat(&mut self) -> bool {
        let again = self.repeats < super::MAX_RESUBMITS;
        if again {
            self.repeats += 1;
            self.state = State::Wanted;
        }
        again
    }

    /// The running sync is over. After a failure nobody waits for another.
    pub(super) fn finished(&mut self, failed: bool) {
        self.repeats = 0;
        let next = std::mem::take(&mut self.next_wanted) && !failed;
        self.state = if next { State::Wanted } else { State::Idle };
    }

    pub(super) fn is_running(&self) -> bool {
        self.state != State::Idle
    }
}
