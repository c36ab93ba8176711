//! What comes with time.

use core::time::Duration;

use super::op::{Kind, Place};
use super::{Session, State};
use crate::paths::{BASE_SECTORS, Miss, Path, Timer};
use crate::window::TIMEOUT_CEILING;
use crate::{Error, Instant};

/// Between questions for a target that nobody has answered, at most.
const ASK_AT_MOST: Duration = Duration::from_secs(10);
/// Tries after which silence is the answer to a test of the config string, if other requests were
/// answered meanwhile.
const SILENCE_TRIES: u32 = 3;
/// Coalesced reads that went unanswered in a row, while so many others were answered.
const IGNORED_ENTRIES: u32 = 8;
const ANSWERED_OTHERS: u32 = 4;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.is_over() {
            return None;
        }
        let mut next = Some(self.ask_at);
        let mut sooner = |at: Option<Instant>| {
            if let Some(at) = at {
                next = next.map_or(Some(at), |next| Some(next.min(at)));
            }
        };
        sooner(self.order.next_expiry());
        for (_, piece) in self.pieces.iter() {
            sooner(match piece.place {
                Place::Flying { deadline, .. } => Some(deadline),
                Place::Held { until } => Some(until),
                Place::Queued => None,
            });
        }
        for path in &self.paths {
            sooner(path.chore.and_then(|chore| match chore.timer {
                Timer::Until(at) => Some(at),
                Timer::Due => None,
            }));
            sooner(
                path.measurement
                    .as_ref()
                    .and_then(|measurement| measurement.until),
            );
            sooner(path.prove_again_at);
            sooner(path.doubt_ends());
        }
        for (slot, op) in self.ops.iter() {
            if op.error.is_none() && !self.is_finished(slot) {
                sooner(Some(self.gives_up_at(slot)));
            }
        }
        next
    }

    /// Does what is due: asks, repeats, gives up. Calling it early does no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.is_over() {
            return;
        }
        self.ask_if_due(now);
        let startable = &mut self.startable;
        self.order.expire(now, |slot| startable.push(slot));
        self.start_all(now);
        self.time_out_pieces(now);
        self.time_out_paths(now);
        self.give_up(now);
        self.next_chores(now);
    }

    fn ask_if_due(&mut self, now: Instant) {
        if now < self.ask_at {
            return;
        }
        for (bit, port) in (0..).zip(&self.ports) {
            if port.is_some_and(|port| port.up) {
                self.ask |= 1_u32.checked_shl(bit).unwrap_or(0);
            }
        }
        let known = self.paths.iter().any(|path| path.state == State::Ready);
        if known {
            self.ask_interval = self.settings.discover_every;
            self.ask_at = now + self.ask_interval;
        } else {
            let most = ASK_AT_MOST.min(self.settings.discover_every);
            self.ask_interval = self.ask_interval.min(most);
            self.ask_at = now + self.ask_interval;
            self.ask_interval = (self.ask_interval * 2).min(most);
        }
    }

    fn time_out_pieces(&mut self, now: Instant) {
        loop {
            let due = self.pieces.find(|_, piece| match piece.place {
                Place::Flying { deadline, .. } => deadline <= now,
                Place::Held { until } => until <= now,
                Place::Queued => false,
            });
            let Some(place) = due else {
                return;
            };
            self.time_out_piece(now, place);
        }
    }

    fn time_out_piece(&mut self, now: Instant, place: u32) {
        let Some(piece) = self.pieces.get_mut(place) else {
            return;
        };
        let Place::Flying {
            path: index, sent, ..
        } = piece.place
        else {
            return self.send_again(now, place);
        };
        self.stats.timed_out += 1;
        self.cache.doubt();
        let patience = piece.patience.unwrap_or_default();
        // Doubles, but what is long already does not grow.
        piece.patience = Some(patience.max((patience * 2).min(TIMEOUT_CEILING)));
        let lives = self.paths.get(index);
        if lives.is_some_and(|path| path.answered_at > sent) {
            piece.silences += 1;
        }
        let (slot, entry, silences) = (piece.op, piece.entry, piece.silences);
        let sectors = piece.sectors;
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        let full =
            matches!(op.kind, Kind::Read(_) | Kind::Write(_)) && sectors > u64::from(BASE_SECTORS);
        let may_be_silent = matches!(&op.kind, Kind::Control(control) if control.may_be_silent);
        if may_be_silent && silences >= SILENCE_TRIES {
            op.error.get_or_insert(Error::NoMatch);
            return self.finish_piece(now, place);
        }
        self.send_again(now, place);
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        if may_be_silent {
            // Says nothing about the path, which is asked something that it must answer.
            path.look_again |= path.state == State::Ready;
            return;
        }
        if entry {
            path.entry_misses += 1;
        }
        match path.missed(now, full) {
            // Others are chosen before it from now on: so something must ask whether it lives.
            Miss::Nothing => path.look_again |= path.state == State::Ready,
            Miss::GoShort => self.go_short(index),
            Miss::GoSilent => self.go_silent(now, index),
        }
        self.interrupt_measurements();
        if entry {
            self.suspect_entries(now, index);
        }
    }

    /// Full frames do not pass any more: short ones until larger ones are proven (§15, 3).
    pub(super) fn go_short(&mut self, index: usize) {
        let Some(path) = self.paths.get(index) else {
            return;
        };
        let mtu = self.mtu_of(path);
        if let Some(path) = self.paths.get_mut(index) {
            path.prove_anew(mtu);
            self.stats.fallbacks += 1;
        }
    }

    /// Coalesced reads stay unanswered while others are answered: the target has forgotten the
    /// extension, or never had it right (§7.5; §15, 8).
    fn suspect_entries(&mut self, now: Instant, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        if path.entry_misses < IGNORED_ENTRIES || path.answered_others < ANSWERED_OTHERS {
            return;
        }
        path.entry_misses = 0;
        if path.is_old() || path.entries_suspected {
            path.entries_ignored = true;
            path.features.coalesced_read = false;
        } else {
            path.entries_suspected = true;
            self.negotiate_anew(now, index);
        }
    }

    fn time_out_paths(&mut self, now: Instant) {
        for index in 0..self.paths.len() {
            let Some(path) = self.paths.get_mut(index) else {
                return;
            };
            if path.prove_again_at.is_some_and(|at| at <= now) {
                path.prove_again_at = None;
                path.too_large = None;
            }
            let ended = |measurement: &crate::paths::Measurement| {
                measurement.until.is_some_and(|until| until <= now)
            };
            if path.measurement.as_ref().is_some_and(ended) {
                self.measured(now, index);
            }
            let doubt = self.paths.get(index).and_then(Path::doubt_ends);
            if doubt.is_some_and(|end| end <= now) {
                self.negotiate_anew(now, index);
            }
            let chore = self.paths.get(index).and_then(|path| path.chore);
            let missed = |timer| matches!(timer, Timer::Until(at) if at <= now);
            if chore.is_some_and(|chore| missed(chore.timer)) {
                self.chore_missed(now, index);
            }
        }
    }

    /// When a request without further progress fails (§15, 5). One that was not sent waits as long
    /// as there is progress with others.
    fn gives_up_at(&self, slot: u32) -> Instant {
        let since = self.ops.get(slot).map_or(self.last_heard, |op| {
            op.progress
                .unwrap_or_else(|| op.submitted.max(self.last_heard))
        });
        since + self.settings.give_up
    }

    fn give_up(&mut self, now: Instant) {
        loop {
            let late = self.ops.find(|slot, op| {
                op.error.is_none() && !self.is_finished(slot) && self.gives_up_at(slot) <= now
            });
            let Some(slot) = late else {
                return;
            };
            self.abandon(now, slot, Error::Silent);
        }
    }
}
