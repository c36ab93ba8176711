//! What a path finds out before it is used, and again when there is reason to: the disk at its end
//! (§15, 2), extensions (§15, 8), the size of frames (§15, 3), how many fit (§10).

use core::time::Duration;

use super::{Notice, Session};
use crate::features::{Features, names};
use crate::paths::{Chore, Measurement, Path, State, TRIES, Task, Timer};
use crate::settings::{Settings, Wanted};
use crate::window::Window;
use crate::{Identity, Instant};

/// Extensions are negotiated at most this often on one path, whatever others announce.
const NEGOTIATE_EVERY: Duration = Duration::from_secs(1);

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// What may be asked of the target at the end of a path (§15, 8; §10).
    pub(super) fn wanted_of(settings: &Settings, path: &Path) -> Wanted {
        let old = path.is_old();
        let trusted = !old || settings.sole_initiator;
        let wanted = settings.wanted;
        Wanted {
            coalesced_read: wanted.coalesced_read && !path.entries_ignored,
            // It surely lacks these, and each table takes away what others have agreed on with it.
            coalesced_write_reply: wanted.coalesced_write_reply && !old,
            crc32c: wanted.crc32c && !old,
            tags: wanted.tags && trusted,
            congestion: wanted.congestion && trusted,
            ..wanted
        }
    }

    /// Gives every path that has nothing to find out the next thing it should.
    pub(super) fn next_chores(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            self.next_chore(now, index);
        }
    }

    fn next_chore(&mut self, now: Instant, index: usize) {
        let measuring = self.paths.iter().any(|path| path.measurement.is_some());
        let Some(path) = self.paths.get(index) else {
            return;
        };
        if path.chore.is_some() || path.measurement.is_some() {
            return;
        }
        let mtu = self.mtu_of(path);
        let wanted = Self::wanted_of(&self.settings, path);
        let task = match path.state {
            State::Foreign => return,
            State::New | State::Silent => Task::Identify,
            State::Ready if !path.agreed => {
                if names(wanted).next().is_none() {
                    return self.agree(now, index, Features::default());
                }
                Task::Negotiate
            }
            State::Ready if path.look_again => Task::Identify,
            State::Ready => match path.size_to_prove(mtu) {
                Some(sectors) => Task::ProveOut(sectors),
                None => return self.rest(now, index, mtu, measuring),
            },
        };
        if let Some(path) = self.paths.get_mut(index) {
            path.look_again &= task != Task::Identify;
            path.chore = Some(Chore::new(task));
        }
    }

    /// All is found out, but for what is measured or tried again later.
    fn rest(&mut self, now: Instant, index: usize, mtu: u32, measuring: bool) {
        let again_at = now + self.settings.prove_again_after;
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        if path.payload < path.limit(mtu) {
            path.prove_again_at.get_or_insert(again_at);
        }
        let due = path.features.congestion && !path.measured && !measuring;
        let buffer_count = path.buffer_count;
        if due && self.may_stand_still(index) {
            if let Some(path) = self.paths.get_mut(index) {
                path.measured = true;
            }
            let under_way = super::send::tags(&self.pieces);
            let probes = Measurement::probes_of(buffer_count);
            if let Some(first) = self.tags.take_many(probes, under_way) {
                // Not −1, which the 2014 AoEde takes for the id before the first.
                let id = self.next_random() >> 16;
                if let Some(path) = self.paths.get_mut(index) {
                    path.measurement = Some(Measurement::new(id, first, buffer_count));
                }
            }
        }
    }

    /// A target has told which disk it is.
    pub(super) fn identified(&mut self, now: Instant, index: usize, mut identity: Identity) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        let (port, mac) = (path.port, path.mac);
        identity.flush_is_empty |= path.is_old();
        let cache_number = identity.cache_number;
        let established = matches!(path.state, State::Ready | State::Silent);
        let returned = path.state != State::Ready;
        let must_agree = core::mem::take(&mut path.must_agree);
        path.chore = None;
        match &self.identity {
            Some(known) if known.is_same_disk(&identity) => {}
            None => self.identity = Some(identity),
            Some(known)
                if established && !must_agree && known.is_same_apart_from_size(&identity) =>
            {
                let sectors = identity.sectors;
                self.identity = Some(identity);
                self.notify(Notice::Resized { sectors });
                for (other, path) in self.paths.iter_mut().enumerate() {
                    if other != index && path.state == State::Ready {
                        path.look_again = true;
                        path.must_agree = true;
                    }
                }
            }
            Some(_) => {
                self.go_silent(now, index);
                if let Some(path) = self.paths.get_mut(index) {
                    path.state = State::Foreign;
                    path.agreed = false;
                    path.chore = None;
                }
                let identity = Box::new(identity);
                return self.notify(Notice::ForeignDisk {
                    port,
                    mac,
                    identity,
                });
            }
        }
        self.cache_told(cache_number);
        let in_flight = self.settings.in_flight;
        if returned {
            if let Some(path) = self.paths.get_mut(index) {
                // Who knows what happened to it meanwhile. What was agreed on stays known until there
                // is a new agreement: the answers that come first may be from before, and their
                // data is compared with its checksum.
                path.state = State::Ready;
                path.agreed = false;
                path.measured = false;
                path.misses = 0;
                path.window = Window::new(u32::from(path.buffer_count.min(in_flight)));
            }
        }
        self.next_chores(now);
    }

    /// Extensions are settled on a path: it may be used.
    pub(super) fn agree(&mut self, now: Instant, index: usize, features: Features) {
        let Some(path) = self.paths.get(index) else {
            return;
        };
        let mtu = self.mtu_of(path);
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        path.chore = None;
        path.agreed = true;
        path.in_doubt = false;
        path.features = features;
        path.entry_misses = 0;
        path.negotiate_after = now + NEGOTIATE_EVERY;
        path.prove_anew(mtu);
        let (port, mac) = (path.port, path.mac);
        if features.checksum().is_some() {
            // Sectors in a frame are fewer now (§11).
            self.ask |= 1_u32.checked_shl(port.0.into()).unwrap_or(0);
        }
        if !self.attached {
            self.attached = true;
            self.last_heard = now;
            self.notify(Notice::Attached);
            let empty = self.identity.as_ref().is_some_and(|it| it.flush_is_empty);
            if empty {
                self.notify(Notice::FlushProvesNothing);
            }
        }
        self.notify(Notice::PathReady { port, mac });
        // What waits for an answer on a silent path need not wait any longer.
        for other in 0..self.paths.len() {
            if self
                .paths
                .get(other)
                .is_some_and(|path| path.state == State::Silent)
            {
                self.flights_again(now, other);
            }
        }
        self.next_chores(now);
    }

    /// Something says that the target has forgotten what was agreed on (§7.5).
    pub(super) fn negotiate_anew(&mut self, now: Instant, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        if path.state != State::Ready || !path.agreed || now < path.negotiate_after {
            return;
        }
        path.agreed = false;
        path.measurement = None;
        self.cache.doubt();
        let chore = path.chore.take();
        path.look_again |= chore.is_some_and(|chore| chore.task == Task::Identify);
        self.flights_again(now, index);
        self.next_chores(now);
    }

    /// A size of frame passes in one direction, or both.
    pub(super) fn proven(&mut self, now: Instant, index: usize, task: Task) {
        if let Some(path) = self.paths.get_mut(index) {
            path.chore = match task {
                Task::ProveOut(sectors) => Some(Chore::new(Task::ProveIn(sectors))),
                Task::ProveIn(sectors) => {
                    path.payload = path.payload.max(sectors);
                    None
                }
                Task::Identify | Task::Negotiate => None,
            };
        }
        self.next_chores(now);
    }

    /// A size of frame does not pass.
    pub(super) fn too_large(&mut self, now: Instant, index: usize, sectors: u8) {
        if let Some(path) = self.paths.get_mut(index) {
            path.chore = None;
            path.too_large = Some(sectors);
        }
        self.next_chores(now);
    }

    /// A chore's question was not answered in time.
    pub(super) fn chore_missed(&mut self, now: Instant, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        let Some(chore) = &mut path.chore else {
            return;
        };
        let given_up = chore.tries >= TRIES;
        match chore.task {
            Task::Negotiate if given_up => self.agree(now, index, Features::default()),
            Task::ProveOut(sectors) | Task::ProveIn(sectors) if given_up => {
                self.too_large(now, index, sectors);
            }
            Task::Identify if given_up && path.state == State::Ready => {
                self.go_silent(now, index);
            }
            _ => chore.timer = Timer::Due,
        }
    }

    /// Whether requests can do without a path while it is measured: another answers, or there never
    /// was another.
    fn may_stand_still(&self, index: usize) -> bool {
        let others = self.paths.iter().enumerate();
        let mut others = others.filter(|(other, path)| {
            *other != index && matches!(path.state, State::Ready | State::Silent)
        });
        let answers = |path: &Path| {
            let up = self.port(path.port).is_some_and(|port| port.up);
            up && path.state == State::Ready && path.is_usable() && path.misses == 0
        };
        others.clone().next().is_none() || others.any(|(_, path)| answers(path))
    }

    /// A path has failed to answer: no other stands still for a measurement if it is needed.
    pub(super) fn interrupt_measurements(&mut self) {
        for index in 0..self.paths.len() {
            if !self.may_stand_still(index) {
                if let Some(path) = self.paths.get_mut(index) {
                    path.measurement = None;
                }
            }
        }
    }

    /// All that was held has been answered.
    pub(super) fn measured(&mut self, now: Instant, index: usize) {
        if let Some(path) = self.paths.get_mut(index) {
            if let Some(measurement) = path.measurement.take() {
                let answered = measurement.count();
                path.answered_probes = Some(answered);
                path.probes = measurement.sent;
                // Nothing at all says nothing: a target is not measured again so soon (§10).
                if answered > 0 {
                    path.window.seed(answered);
                }
            }
        }
        self.next_chores(now);
    }
}
