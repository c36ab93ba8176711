//! The tags of one initiator's latest writes: is a write new, under way, done or stale? (§9.2)
//!
//! A tag's state lies at its number modulo the window, which divides 2^32: so the wrap of the
//! counter needs no care.

use alloc::boxed::Box;
use alloc::vec;
use core::time::Duration;

/// Tags that a window remembers, the newest included.
const WINDOW: u32 = 32_768;
const STATES_IN_BYTE: u32 = 4;
const WINDOW_BYTES: usize = (WINDOW / STATES_IN_BYTE) as usize;
/// A window without a tracked command for so long is dropped: while an initiator only reads, its
/// counter may advance by any amount.
const IDLE: Duration = Duration::from_secs(300);
/// So often and over so long must one stale tag come to be taken for a counter that began anew: a
/// live initiator repeats its request, a delayed duplicate does not.
const RESTART_TIMES: u8 = 3;
const RESTART_TIME: Duration = Duration::from_secs(1);
/// Stale tags that are watched at a time, for as long as initiators pause between repetitions.
const STALE_WATCHED: usize = 4;
const STALE_PATIENCE: Duration = Duration::from_secs(30);

/// What a window says of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// Execute it; marked as in progress. To be finished with this life of the window.
    New(Life),
    /// It is being executed: the answer is coming.
    InProgress,
    /// It was executed: say so again.
    Done,
    /// Older than the window.
    Stale,
}

/// Tells a window from what it was before it was last emptied, and from every other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Life(u32);

/// Where lives come from.
#[derive(Debug, Default)]
pub(crate) struct Lives(u32);

impl Lives {
    fn next(&mut self) -> Life {
        self.0 = self.0.wrapping_add(1);
        Life(self.0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unseen = 0,
    InProgress = 1,
    Done = 2,
}

/// A tag behind the window that may be the first of a counter that began anew.
#[derive(Clone, Copy, Debug)]
struct StaleTag {
    tag: u32,
    times: u8,
    first: Duration,
    last: Duration,
}

/// One initiator's window at one export. 8 KiB.
#[derive(Debug)]
pub(crate) struct TagWindow {
    /// Two bits for each tag modulo [`WINDOW`].
    states: Box<[u8]>,
    /// The newest tag and the window's life; `None` while the window is empty.
    newest: Option<(u32, Life)>,
    last_used: Duration,
    stale: [Option<StaleTag>; STALE_WATCHED],
}

impl TagWindow {
    /// An empty window.
    pub(crate) fn new() -> Self {
        Self {
            states: vec![0; WINDOW_BYTES].into_boxed_slice(),
            newest: None,
            last_used: Duration::ZERO,
            stale: [None; STALE_WATCHED],
        }
    }

    /// Forgets all tags.
    pub(crate) fn clear(&mut self) {
        self.newest = None;
    }

    /// Judges the tag of a tracked command that is in order otherwise, and marks it if it is new.
    pub(crate) fn judge(&mut self, now: Duration, tag: u32, lives: &mut Lives) -> Judgement {
        if now.saturating_sub(self.last_used) >= IDLE {
            self.clear();
        }
        self.last_used = now;
        let Some((newest, life)) = self.newest else {
            return self.begin(tag, lives);
        };
        let (ahead, behind) = (tag.wrapping_sub(newest), newest.wrapping_sub(tag));
        // Serial numbers: what is less than half of all numbers ahead is newer.
        if (1..1 << 31).contains(&ahead) {
            self.forget(newest.wrapping_add(1), ahead);
            self.newest = Some((tag, life));
        } else if behind >= WINDOW {
            return if self.has_begun_anew(now, tag) {
                self.begin(tag, lives)
            } else {
                Judgement::Stale
            };
        }
        self.stale = [None; STALE_WATCHED];
        match self.state(tag) {
            State::Unseen => {
                self.set(tag, State::InProgress);
                Judgement::New(life)
            }
            State::InProgress => Judgement::InProgress,
            State::Done => Judgement::Done,
        }
    }

    /// Notes how a command ended that was judged new in this life of the window; a failed one may
    /// be tried again.
    pub(crate) fn finish(&mut self, life: Life, tag: u32, success: bool) {
        let Some((newest, current)) = self.newest else {
            return;
        };
        let remembered = newest.wrapping_sub(tag) < WINDOW;
        if current == life && remembered && self.state(tag) == State::InProgress {
            let state = if success { State::Done } else { State::Unseen };
            self.set(tag, state);
        }
    }

    /// Makes this tag the first of a window.
    fn begin(&mut self, tag: u32, lives: &mut Lives) -> Judgement {
        let life = lives.next();
        self.states.fill(0);
        self.stale = [None; STALE_WATCHED];
        self.newest = Some((tag, life));
        self.set(tag, State::InProgress);
        Judgement::New(life)
    }

    /// Watches a stale tag; whether it shows that the counter began anew.
    fn has_begun_anew(&mut self, now: Duration, tag: u32) -> bool {
        let mut watched = self.stale.iter_mut().flatten();
        if let Some(stale) = watched.find(|stale| stale.tag == tag) {
            stale.times = stale.times.saturating_add(1);
            stale.last = now;
            return stale.times >= RESTART_TIMES && now.saturating_sub(stale.first) >= RESTART_TIME;
        }
        // Those that are watched stay: many requests that are repeated in turn must not push each
        // other out.
        let free = |stale: &Option<StaleTag>| {
            stale.is_none_or(|stale| now.saturating_sub(stale.last) > STALE_PATIENCE)
        };
        if let Some(place) = self.stale.iter_mut().find(|stale| free(stale)) {
            *place = Some(StaleTag {
                tag,
                times: 1,
                first: now,
                last: now,
            });
        }
        false
    }

    /// Forgets `count` tags from `first` on.
    fn forget(&mut self, first: u32, count: u32) {
        if count >= WINDOW {
            self.states.fill(0);
            return;
        }
        let (mut tag, mut left) = (first, count);
        while left > 0 {
            let start = tag % WINDOW;
            // Whole bytes at once as far as there are, up to the end of the table.
            let whole = left.min(WINDOW - start) / STATES_IN_BYTE;
            let done = if start % STATES_IN_BYTE == 0 && whole > 0 {
                let at = (start / STATES_IN_BYTE) as usize;
                if let Some(bytes) = self.states.get_mut(at..at + whole as usize) {
                    bytes.fill(0);
                }
                whole * STATES_IN_BYTE
            } else {
                self.set(tag, State::Unseen);
                1
            };
            tag = tag.wrapping_add(done);
            left -= done;
        }
    }

    fn state(&self, tag: u32) -> State {
        let (byte, shift) = place(tag);
        match self.states.get(byte).map(|byte| byte >> shift & 3) {
            Some(1) => State::InProgress,
            Some(2) => State::Done,
            _ => State::Unseen,
        }
    }

    fn set(&mut self, tag: u32, state: State) {
        let (byte, shift) = place(tag);
        if let Some(byte) = self.states.get_mut(byte) {
            *byte = *byte & !(3 << shift) | (state as u8) << shift;
        }
    }
}

/// Byte of the table and bit in it.
fn place(tag: u32) -> (usize, u32) {
    let slot = tag % WINDOW;
    ((slot / STATES_IN_BYTE) as usize, slot % STATES_IN_BYTE * 2)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::vec::Vec;

    /// Tags where something begins or ends, seen from the newest.
    fn distance() -> impl Strategy<Value = i64> {
        let edges = [-0x8000_0000, -32_768, -1, 0, 1, 32_767, 32_768, 0x7FFF_FFFF];
        (prop::sample::select(edges.to_vec()), -2..3_i64).prop_map(|(edge, near)| edge + near)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Judge(i64),
        Finish(prop::sample::Index, bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => distance().prop_map(Step::Judge),
            2 => (-40..40_i64).prop_map(Step::Judge),
            3 => (any::<prop::sample::Index>(), any::<bool>())
                .prop_map(|(which, success)| Step::Finish(which, success)),
        ]
    }

    proptest! {
        /// §9.2, 3 and 4, by a list of tags and arithmetic in 64 bits. All within less than a
        /// second, so that no counter begins anew.
        #[test]
        fn a_window_is_a_list_of_the_latest_tags(
            first in prop_oneof![any::<u32>(), Just(0), Just(u32::MAX)],
            steps in vec(step(), 0..300),
        ) {
            let mut window = TagWindow::new();
            let mut lives = Lives::default();
            let judgement = window.judge(Duration::ZERO, first, &mut lives);
            let Judgement::New(life) = judgement else {
                return Err(TestCaseError::fail("the first is new"));
            };
            let mut newest = first;
            let mut list = BTreeMap::from([(first, State::InProgress)]);
            let mut running = Vec::from([first]);
            for step in steps {
                match step {
                    Step::Judge(distance) => {
                        let tag = (i64::from(newest) + distance).rem_euclid(1 << 32);
                        let tag = u32::try_from(tag).unwrap();
                        // The nearest way around the circle, half of it being backwards.
                        let distance = (distance + 0x8000_0000).rem_euclid(1 << 32) - 0x8000_0000;
                        if distance > 0 {
                            newest = tag;
                            let age = |tag: u32| (i64::from(newest) - i64::from(tag)).rem_euclid(1 << 32);
                            list.retain(|&tag, _| age(tag) < 32_768);
                        }
                        let expected = match list.get(&tag) {
                            _ if distance <= -32_768 => Judgement::Stale,
                            Some(State::InProgress) => Judgement::InProgress,
                            Some(State::Done) => Judgement::Done,
                            Some(State::Unseen) | None => {
                                list.insert(tag, State::InProgress);
                                running.push(tag);
                                Judgement::New(life)
                            }
                        };
                        let now = Duration::from_millis(3) * 300;
                        prop_assert_eq!(window.judge(now, tag, &mut lives), expected);
                    }
                    Step::Finish(which, success) if !running.is_empty() => {
                        let tag = running.swap_remove(which.index(running.len()));
                        window.finish(life, tag, success);
                        // Once around the circle a tag runs twice; the end of either is its end.
                        if let Some(state @ State::InProgress) = list.get_mut(&tag) {
                            *state = if success { State::Done } else { State::Unseen };
                        }
                    }
                    Step::Finish(..) => {}
                }
            }
        }

        /// Every number of tags skipped, from every place in a byte.
        #[test]
        fn what_is_skipped_is_forgotten_and_no_more(first in any::<u32>(), skipped in 1..40_000_u32) {
            let mut window = TagWindow::new();
            window.states.fill(0b1010_1010);
            window.newest = Some((first, Life(0)));
            let _ = window.judge(Duration::ZERO, first.wrapping_add(skipped), &mut Lives::default());
            for tag in 0..WINDOW {
                // As many tags after the first as this place is away from it.
                let after = tag.wrapping_sub(first) % WINDOW;
                let after = if after == 0 { WINDOW } else { after };
                let expected = match after {
                    _ if after == skipped || skipped > WINDOW && after == skipped % WINDOW => {
                        State::InProgress
                    }
                    _ if after < skipped => State::Unseen,
                    _ => State::Done,
                };
                prop_assert_eq!(window.state(tag), expected, "{} of {}", after, skipped);
            }
        }
    }
}
