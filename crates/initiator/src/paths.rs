//! The ways to a target: local port and target MAC (§15, 2 and 3).
//!
//! A path proves what it can do before it is used for it: that the disk at its end is the right
//! one, which extensions it speaks, how large frames may be, how many the target holds. Each of
//! these is a [`Task`], one at a time. What is asked and answered on the wire for them is in
//! `session/chores.rs`.

use core::time::Duration;

use aoede_wire::MacAddr;

use crate::Instant;
use crate::features::{Features, OLD_FIRMWARE};
use crate::settings::Settings;
use crate::window::{RoundTrip, Window};

/// Number of a local port, chosen by the caller; below
/// [`MAX_PORTS`](crate::MAX_PORTS).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u8);

/// What a session must know of a local port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalPort {
    /// Its own address.
    pub mac: MacAddr,
    /// Bytes.
    pub mtu: u32,
    /// Frames pass.
    pub up: bool,
}

/// Sectors that pass on every Ethernet; larger frames are proven first.
pub(crate) const BASE_SECTORS: u8 = 2;
/// Unanswered tries after which a path counts as silent.
const SILENT_AFTER: u32 = 4;
/// and for how long at least: a host that is busy does not answer for a while either, and others
/// are preferred to a path from its first miss on.
const SILENT_FOR: Duration = Duration::from_millis(250);
/// Unanswered tries with full frames, and only with those, after which short ones are used.
const SHORT_AFTER: u32 = 3;
/// Tries for a question that not every target answers (§7.5), and for each size of frame.
pub(crate) const TRIES: u32 = 3;
/// Flushes and trims that may be under way however small the window is.
const SLOW_AT_LEAST: u32 = 8;
/// Least patience for such questions.
const CHORE_FLOOR: Duration = Duration::from_millis(100);
/// Most patience for them.
const CHORE_CEILING: Duration = Duration::from_secs(10);

/// Where a path stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The disk at its end is not known yet.
    New,
    /// It leads to another disk of the same address.
    Foreign,
    /// In use.
    Ready,
    /// Was in use, and does not answer.
    Silent,
}

/// Something that a path has to find out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Which disk is there?
    Identify,
    /// Which extensions are spoken?
    Negotiate,
    /// Do frames with so many sectors reach the target?
    ProveOut(u8),
    /// And frames from there?
    ProveIn(u8),
}

/// When a task's frame is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Now.
    Due,
    /// It is sent; again at that time.
    Until(Instant),
}

/// A task and its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chore {
    pub(crate) task: Task,
    /// Given when it is first sent, and kept.
    pub(crate) tag: Option<u32>,
    pub(crate) tries: u32,
    pub(crate) timer: Timer,
    pub(crate) sent: Instant,
}

impl Chore {
    pub(crate) fn new(task: Task) -> Self {
        Self {
            task,
            tag: None,
            tries: 0,
            timer: Timer::Due,
            sent: Instant::START,
        }
    }
}

/// A measurement of how many requests fit (§10).
#[derive(Clone, Debug)]
pub(crate) struct Measurement {
    pub(crate) id: u64,
    /// Tags are this and those that follow.
    pub(crate) first_tag: u32,
    pub(crate) probes: u32,
    pub(crate) sent: u32,
    /// One bit for each probe that was answered.
    pub(crate) answered: [u64; Self::WORDS],
    /// When all are sent: the end.
    pub(crate) until: Option<Instant>,
    /// And the end at the latest.
    latest: Instant,
}

impl Measurement {
    /// Most probes of one measurement.
    pub(crate) const MOST: u32 = 1024;
    const WORDS: usize = Self::MOST as usize / 64;
    /// How long a target holds the probes.
    const HOLD: Duration = Duration::from_millis(500);
    /// How much later than that its first answer may come: a busy target wakes late.
    const LATE: Duration = Duration::from_millis(200);
    /// Without an answer for so long, after that, there are no more. They come in a burst, which a
    /// slow network takes its time for.
    const QUIET: Duration = Duration::from_millis(100);
    /// How much later than the hold it ends, whatever comes.
    const AT_MOST: Duration = Duration::from_secs(2);

    pub(crate) fn new(id: u64, first_tag: u32, buffer_count: u16) -> Self {
        Self {
            id,
            first_tag,
            probes: Self::probes_of(buffer_count),
            sent: 0,
            answered: [0; Self::WORDS],
            until: None,
            latest: Instant::START,
        }
    }

    /// How many probes measure a target with this buffer count.
    pub(crate) fn probes_of(buffer_count: u16) -> u32 {
        (4 * u32::from(buffer_count)).min(Self::MOST)
    }

    /// The last probe is sent; its answer is waited for so long after the hold.
    pub(crate) fn all_sent(&mut self, now: Instant, patience: Duration) {
        let held_until = now + Self::HOLD;
        self.until = Some(held_until + patience.max(Self::LATE).min(Self::AT_MOST));
        self.latest = held_until + Self::AT_MOST;
    }

    /// Marks a probe as answered; whether it is one. More are waited for, unless it was the last.
    pub(crate) fn answer(&mut self, now: Instant, tag: u32) -> bool {
        let probe = tag.wrapping_sub(self.first_tag);
        if probe >= self.sent {
            return false;
        }
        let Some(word) = self.answered.get_mut(probe as usize / 64) else {
            return false;
        };
        let bit = 1 << (probe % 64);
        if *word & bit != 0 {
            return true;
        }
        *word |= bit;
        let all = self.count() == self.probes;
        self.until = self.until.map(|until| {
            if all {
                now
            } else {
                until.max(now + Self::QUIET).min(self.latest)
            }
        });
        true
    }

    pub(crate) fn count(&self) -> u32 {
        self.answered.iter().map(|word| word.count_ones()).sum()
    }
}

/// One path.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each may be true with any other"
)]
pub(crate) struct Path {
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
    pub(crate) buffer_count: u16,
    /// As announced; 0 from old targets.
    pub(crate) sector_count: u8,
    pub(crate) firmware: u16,

    pub(crate) state: State,
    /// Whether extensions are settled, if only that there are none.
    pub(crate) agreed: bool,
    pub(crate) features: Features,
    /// The target has, or may have, something to remember of us: what was agreed on, or asked for
    /// without an answer.
    pub(crate) may_be_in_force: bool,
    /// Not before then are they negotiated anew.
    pub(crate) negotiate_after: Instant,
    /// The target may have forgotten them.
    pub(crate) in_doubt: bool,
    pub(crate) chore: Option<Chore>,
    /// Whether the disk is to be looked at anew when the chore is done.
    pub(crate) look_again: bool,
    /// Another path has told a new size: here it must be the same.
    pub(crate) must_agree: bool,
    pub(crate) measurement: Option<Measurement>,
    pub(crate) measured: bool,
    /// What came of it.
    pub(crate) answered_probes: Option<u32>,
    /// Of so many.
    pub(crate) probes: u32,

    /// Sectors that frames are proven to hold.
    pub(crate) payload: u8,
    /// Fewest sectors that did not pass.
    pub(crate) too_large: Option<u8>,
    pub(crate) prove_again_at: Option<Instant>,

    pub(crate) trips: RoundTrip,
    pub(crate) window: Window,
    /// Requests under way, but for those below.
    pub(crate) in_flight: u32,
    /// Flushes and trims under way. They may be waited for so long, answered or lost, that nothing
    /// else must wait for the room they take.
    pub(crate) slow_in_flight: u32,
    /// When it last answered anything that it was asked.
    pub(crate) answered_at: Instant,
    /// "Unsupported version", since anything else was answered.
    pub(crate) version_refusals: u32,
    /// Tries unanswered since the last response.
    pub(crate) misses: u32,
    /// When the first of them was missed.
    missed_since: Instant,
    /// Requests lost before then belong to the last of them.
    miss_until: Instant,
    /// Tries with full frames unanswered since one passed.
    full_misses: u32,
    /// Reads that travelled in another's frame, unanswered since one was answered.
    pub(crate) entry_misses: u32,
    /// Other requests answered meanwhile.
    pub(crate) answered_others: u32,
    /// Once before the reads in others' frames went unanswered.
    pub(crate) entries_suspected: bool,
    /// They are not tried again.
    pub(crate) entries_ignored: bool,
    /// When a change was last sent again on it, trusting in the target's tag window.
    pub(crate) repeated_at: Option<Instant>,
    /// Counts when it was last chosen.
    pub(crate) last_used: u64,
}

/// What a lost request means for its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Miss {
    /// Nothing yet.
    Nothing,
    /// Full frames do not pass any more.
    GoShort,
    /// Nothing passes any more.
    GoSilent,
}

impl Path {
    pub(crate) fn new(port: PortId, mac: MacAddr) -> Self {
        Self {
            port,
            mac,
            buffer_count: 1,
            sector_count: 0,
            firmware: 0,
            state: State::New,
            agreed: false,
            features: Features::default(),
            may_be_in_force: false,
            negotiate_after: Instant::START,
            in_doubt: false,
            chore: Some(Chore::new(Task::Identify)),
            look_again: false,
            must_agree: false,
            measurement: None,
            measured: false,
            answered_probes: None,
            probes: 0,
            payload: 1,
            too_large: None,
            prove_again_at: None,
            trips: RoundTrip::default(),
            window: Window::new(1),
            in_flight: 0,
            slow_in_flight: 0,
            answered_at: Instant::START,
            version_refusals: 0,
            misses: 0,
            missed_since: Instant::START,
            miss_until: Instant::START,
            full_misses: 0,
            entry_misses: 0,
            answered_others: 0,
            entries_suspected: false,
            entries_ignored: false,
            repeated_at: None,
            last_used: 0,
        }
    }

    /// Whether requests may be sent on it.
    pub(crate) fn is_usable(&self) -> bool {
        matches!(self.state, State::Ready | State::Silent)
            && self.agreed
            && self.payload > 0
            && self.measurement.is_none()
    }

    /// Whether one more request may be under way; flushes and trims are slow.
    pub(crate) fn has_room(&self, slow: bool) -> bool {
        let size = self.window.size();
        if slow {
            self.slow_in_flight < size.max(SLOW_AT_LEAST)
        } else {
            self.in_flight < size
        }
    }

    /// Where requests under way are counted.
    pub(crate) fn under_way(&mut self, slow: bool) -> &mut u32 {
        if slow {
            &mut self.slow_in_flight
        } else {
            &mut self.in_flight
        }
    }

    /// When extensions that are in doubt are to be negotiated anew.
    pub(crate) fn doubt_ends(&self) -> Option<Instant> {
        let in_doubt = self.in_doubt && self.state == State::Ready && self.agreed;
        in_doubt.then_some(self.negotiate_after)
    }

    /// Whether its place may be given to another: it was asked who it is, never answered, and was
    /// never used.
    pub(crate) fn is_a_shadow(&self) -> bool {
        let asked = self.chore.map_or(0, |chore| chore.tries);
        self.state == State::New && self.last_used == 0 && asked >= TRIES
    }

    /// Whether its place may be given to another that is new, when there are no more: see
    /// [`MAX_PATHS`](crate::MAX_PATHS).
    pub(crate) fn is_replaceable(&self) -> bool {
        let asked = self.chore.map_or(0, |chore| chore.tries);
        match self.state {
            State::New => self.is_a_shadow(),
            State::Foreign => true,
            // Its target may have another MAC by now.
            State::Silent => asked >= TRIES && self.in_flight == 0 && self.slow_in_flight == 0,
            State::Ready => false,
        }
    }

    /// Whether nothing is being found out about it.
    pub(crate) fn is_settled(&self) -> bool {
        match self.state {
            State::New => self.is_a_shadow(),
            State::Foreign | State::Silent => true,
            State::Ready => {
                let to_measure = self.features.congestion && !self.measured;
                self.agreed
                    && !to_measure
                    && !self.look_again
                    && self.chore.is_none()
                    && self.measurement.is_none()
            }
        }
    }

    /// Whether the target is the 2014 AoEde.
    pub(crate) fn is_old(&self) -> bool {
        self.firmware == OLD_FIRMWARE
    }

    /// Most sectors that a frame may have by what both ends say of themselves (§1).
    pub(crate) fn limit(&self, mtu: u32) -> u8 {
        let announced = match self.sector_count {
            0 => BASE_SECTORS,
            sectors => sectors,
        };
        announced.min(self.features.checksum().sectors_per_frame(mtu))
    }

    /// Sectors that need no proof.
    pub(crate) fn base(&self, mtu: u32) -> u8 {
        self.limit(mtu).min(BASE_SECTORS)
    }

    /// Takes what is proven back to what needs no proof, and starts to prove anew.
    pub(crate) fn prove_anew(&mut self, mtu: u32) {
        self.payload = self.base(mtu);
        self.too_large = None;
        self.prove_again_at = None;
        self.full_misses = 0;
        if let Some(Chore {
            task: Task::ProveIn(_) | Task::ProveOut(_),
            ..
        }) = self.chore
        {
            self.chore = None;
        }
    }

    /// The size to be tried next, if any: the largest possible, then by halves.
    pub(crate) fn size_to_prove(&self, mtu: u32) -> Option<u8> {
        let limit = self.limit(mtu);
        let size = match self.too_large {
            None => limit,
            Some(too_large) => u8::midpoint(self.payload, too_large.min(limit)),
        };
        (size > self.payload).then_some(size)
    }

    /// How long to wait for an answer to try number `tries` of a chore.
    pub(crate) fn chore_patience(&self, tries: u32) -> Duration {
        let first = self.trips.timeout().max(CHORE_FLOOR);
        first
            .saturating_mul(1 << tries.saturating_sub(1).min(8))
            .min(CHORE_CEILING)
    }

    /// The target says that it speaks another version. Whether to believe it: one damaged frame
    /// must not end everything (§15, 6).
    pub(crate) fn refuses_version(&mut self) -> bool {
        self.version_refusals += 1;
        self.version_refusals >= TRIES
    }

    /// The target's buffer count, as it announced it.
    pub(crate) fn set_buffer_count(&mut self, buffer_count: u16, settings: &Settings) {
        if self.buffer_count != buffer_count {
            self.buffer_count = buffer_count;
            let most = u32::from(buffer_count.min(settings.in_flight));
            if self.state == State::New {
                self.window = Window::new(most);
            } else {
                self.window.set_most(most);
            }
        }
    }

    /// A response came by it.
    pub(crate) fn heard(&mut self) {
        self.misses = 0;
        // A path that was silent is looked at again at once.
        if self.state == State::Silent {
            if let Some(chore) = &mut self.chore {
                chore.timer = Timer::Due;
            }
        }
    }

    /// A full frame came through.
    pub(crate) fn heard_full(&mut self) {
        self.full_misses = 0;
    }

    /// A request was not answered in time. Requests sent together are lost together: they count
    /// once.
    pub(crate) fn missed(&mut self, now: Instant, full: bool) -> Miss {
        self.window.lost(now, &self.trips);
        if now < self.miss_until {
            return Miss::Nothing;
        }
        self.miss_until = now + self.trips.timeout();
        if self.misses == 0 {
            self.missed_since = now;
        }
        self.misses += 1;
        if full {
            self.full_misses += 1;
        }
        let silent = self.misses >= SILENT_AFTER && now.since(self.missed_since) >= SILENT_FOR;
        if self.state == State::Ready && silent {
            return Miss::GoSilent;
        }
        if self.full_misses >= SHORT_AFTER {
            self.full_misses = 0;
            return Miss::GoShort;
        }
        Miss::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> Path {
        let mut path = Path::new(PortId(0), MacAddr([2, 0, 0, 0, 0, 0x0A]));
        path.sector_count = 17;
        path.state = State::Ready;
        path
    }

    #[test]
    fn rule_3_sizes_are_tried_from_the_top_and_then_by_halves() {
        let mut path = path();
        path.prove_anew(9000);
        assert_eq!(path.payload, 2);
        assert_eq!(path.size_to_prove(9000), Some(17));
        path.too_large = Some(17);
        assert_eq!(path.size_to_prove(9000), Some(9));
        path.payload = 9;
        assert_eq!(path.size_to_prove(9000), Some(13));
        path.too_large = Some(10);
        assert_eq!(path.size_to_prove(9000), None);
        // At an MTU of 1500 there is nothing to prove.
        path.prove_anew(1500);
        assert_eq!((path.payload, path.size_to_prove(1500)), (2, None));
        // An old target says nothing, and means two.
        path.sector_count = 0;
        assert_eq!(path.limit(9000), 2);
    }

    #[test]
    fn rule_3_the_checksum_takes_its_room() {
        let mut path = path();
        path.sector_count = 16;
        assert_eq!(path.limit(8228), 16);
        path.features.crc8x4 = true;
        assert_eq!(path.limit(8228), 15);
    }

    #[test]
    fn requests_lost_together_count_once() {
        let mut path = path();
        let second = Duration::from_secs(1);
        let mut now = Instant::START + second;
        for _ in 0..50 {
            assert_eq!(path.missed(now, false), Miss::Nothing);
        }
        for _ in 0..2 {
            now += second;
            assert_eq!(path.missed(now, false), Miss::Nothing);
        }
        now += second;
        assert_eq!(path.missed(now, false), Miss::GoSilent);
    }

    /// A host that was busy for 100 ms was taken for dead, and extensions were negotiated again:
    /// the longer pause (found on a busy machine).
    #[test]
    fn a_path_is_not_silent_before_a_quarter_of_a_second() {
        let mut path = path();
        let mut now = Instant::START;
        path.trips.sample(Duration::from_micros(100));
        // Every 20 ms, the least patience: the first at 20, the thirteenth at 260.
        for _ in 0..13 {
            now += Duration::from_millis(20);
            assert_eq!(path.missed(now, false), Miss::Nothing);
        }
        now += Duration::from_millis(20);
        assert_eq!(path.missed(now, false), Miss::GoSilent);
        // Counted from the first miss after an answer.
        path.heard();
        now += Duration::from_millis(20);
        assert_eq!(path.missed(now, false), Miss::Nothing);
    }

    #[test]
    fn rule_3_full_frames_lost_in_a_row_mean_short_ones() {
        let mut path = path();
        let mut now = Instant::START;
        let mut lose = |path: &mut Path, full| {
            now += Duration::from_secs(1);
            path.missed(now, full)
        };
        assert_eq!(lose(&mut path, true), Miss::Nothing);
        assert_eq!(lose(&mut path, true), Miss::Nothing);
        path.heard_full();
        path.heard();
        assert_eq!(lose(&mut path, true), Miss::Nothing);
        assert_eq!(lose(&mut path, true), Miss::Nothing);
        path.heard();
        assert_eq!(lose(&mut path, false), Miss::Nothing);
        assert_eq!(lose(&mut path, true), Miss::GoShort);
    }

    #[test]
    fn a_measurement_counts_each_probe_once() {
        let mut measurement = Measurement::new(7, u32::MAX, 64);
        assert_eq!(measurement.probes, 256);
        assert_eq!(Measurement::new(7, 0, 1000).probes, 1024);
        measurement.sent = 3;
        for (tag, is_probe) in [
            (u32::MAX, true),
            (0, true),
            (0, true),
            (1, true),
            (2, false),
        ] {
            assert_eq!(measurement.answer(Instant::START, tag), is_probe);
        }
        assert_eq!(measurement.count(), 3);
    }

    #[test]
    fn a_measurement_lasts_until_answers_stay_away() {
        let mut measurement = Measurement::new(7, 0, 2);
        measurement.sent = 8;
        let at = |ms| Instant::START + Duration::from_millis(ms);
        measurement.all_sent(at(0), Duration::ZERO);
        assert_eq!(measurement.until, Some(at(700)));
        let mut until_after = |ms, tag| {
            measurement.answer(at(ms), tag);
            measurement.until
        };
        assert_eq!(until_after(590, 0), Some(at(700)));
        assert_eq!(until_after(690, 1), Some(at(790)));
        assert_eq!(until_after(750, 1), Some(at(790)), "it was answered before");
        for tag in 2..6 {
            until_after(760, tag);
        }
        assert_eq!(until_after(770, 6), Some(at(870)), "the last is missing");
        assert_eq!(until_after(780, 7), Some(at(780)));
    }

    /// Answers that come one by one must not keep requests waiting for long.
    #[test]
    fn a_measurement_ends_two_seconds_after_the_hold() {
        let mut measurement = Measurement::new(7, 0, 250);
        measurement.sent = 1000;
        let at = |ms: u32| Instant::START + Duration::from_millis(ms.into());
        measurement.all_sent(at(0), Duration::ZERO);
        for tag in 0..39 {
            measurement.answer(at(500 + 50 * tag), tag);
        }
        // The last came at 2400 ms.
        assert_eq!(measurement.until, Some(at(2500)));
        measurement.answer(at(2450), 39);
        assert_eq!(measurement.until, Some(at(2500)));
    }
}
