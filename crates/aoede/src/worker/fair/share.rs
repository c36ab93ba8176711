//! How many requests one initiator may have with a disk while others use it.
//!
//! With few, a wide disk is idle; with many, the others' requests wait behind them. How many is
//! right depends on the disk, so it is found out: with one request at a time for those who want
//! more, everybody's latency is measured. Then they get more, as long as latencies stay near that.
//! Reads and changes, and the requests of those who want more and of those who do not, are looked
//! at separately: each has its own latency, and none may hide another's.

use std::time::Duration;

/// The fewest requests that an initiator may have with a disk.
pub const LEAST: usize = 1;

/// Requests of a class that make a mean worth looking at. With times spread evenly from nothing to
/// twice the mean, it is off by a tenth then.
const SAMPLES: u32 = 64;
/// A class of which there are fewer among so many requests is not waited for.
const MOST_IN_A_PERIOD: u32 = 1024;
/// A mean latency may become this much of what it was, in percent.
const TOLERATED_PERCENT: u64 = 125;
/// Periods with a bound that has proved right, before more is tried after it proved wrong: twice
/// as many each time, up to so many.
const MOST_PATIENCE: u32 = 64;
/// Times in a row that more has to prove right until it is forgotten that it once did not.
const RISES_TO_FORGET: u32 = 2;
/// Periods after which latencies are measured anew: disks change.
const PERIODS_PER_MEASUREMENT: u32 = 256;
/// Least time between two measurements, when initiators come and go.
const MEASUREMENT_PAUSE: Duration = Duration::from_secs(1);

/// Whose request it was, and what it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// It did not change anything.
    pub is_read: bool,
    /// Its initiator had more to ask.
    pub wants_more: bool,
}

impl Class {
    const COUNT: usize = 4;

    fn index(self) -> usize {
        usize::from(self.is_read) + 2 * usize::from(self.wants_more)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Until so many more requests have ended, the disk still has those of another bound.
    Settling(u32),
    Counting,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    count: u32,
    nanos: u64,
}

impl Sum {
    fn mean(self) -> Option<u64> {
        (self.count >= SAMPLES).then(|| self.nanos / u64::from(self.count))
    }
}

/// The bound of one disk.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    bound: usize,
    most: usize,
    phase: Phase,
    /// What the bound becomes when latencies with the least have been measured.
    goal: Option<usize>,
    measured_at: Option<Duration>,
    /// Mean latencies with the least bound, in nanoseconds, where there were enough.
    least: [Option<u64>; Class::COUNT],
    sums: [Sum; Class::COUNT],
    ended: u32,
    /// Periods since the measurement.
    periods: u32,
    /// Periods until more is tried.
    hold: u32,
    patience: u32,
    /// Times in a row that more proved right.
    rises: u32,
    /// The bound was raised for this period.
    is_risen: bool,
}

impl Share {
    /// For an export that takes `most` requests at once.
    pub fn new(most: usize) -> Self {
        Self {
            bound: LEAST,
            most: most.max(LEAST),
            phase: Phase::Counting,
            goal: Some(LEAST),
            measured_at: None,
            least: [None; Class::COUNT],
            sums: [Sum::default(); Class::COUNT],
            ended: 0,
            periods: 0,
            hold: 0,
            patience: 1,
            rises: 0,
            is_risen: false,
        }
    }

    /// Most requests that one initiator may have with the disk.
    pub fn bound(&self) -> usize {
        self.bound
    }

    /// Another initiator has come.
    pub fn handle_newcomer(&mut self, now: Duration) {
        let is_recent = |at: Duration| now < at.saturating_add(MEASUREMENT_PAUSE);
        if !self.measured_at.is_some_and(is_recent) {
            // Until now the only one had as many as it liked.
            self.measure(now, self.most);
        }
    }

    /// A request has ended, so long after it began. What the cache answers at once tells nothing.
    pub fn handle_done(&mut self, now: Duration, class: Class, took: Duration) {
        if took.is_zero() {
            return;
        }
        if let Phase::Settling(left) = self.phase {
            self.phase = match left.checked_sub(1) {
                Some(left) => Phase::Settling(left),
                None => Phase::Counting,
            };
            return;
        }
        if let Some(sum) = self.sums.get_mut(class.index()) {
            sum.count += 1;
            let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
            sum.nanos = sum.nanos.saturating_add(nanos);
        }
        self.ended += 1;
        let is_enough = |sum: &Sum| sum.count == 0 || sum.count >= SAMPLES;
        if self.ended >= MOST_IN_A_PERIOD
            || self.ended >= SAMPLES && self.sums.iter().all(is_enough)
        {
            self.end_period(now);
        }
    }

    fn end_period(&mut self, now: Duration) {
        let means = self.sums.map(Sum::mean);
        if let Some(goal) = self.goal.take() {
            self.least = means;
            self.periods = 0;
            self.change(goal);
            return;
        }
        self.periods += 1;
        let is_slow = self.is_slow(means);
        let has_risen = std::mem::take(&mut self.is_risen);
        if is_slow {
            self.rises = 0;
        } else if has_risen {
            self.rises += 1;
            if self.rises >= RISES_TO_FORGET {
                self.patience = 1;
            }
        }
        // Slow with the least is what the disk is now.
        let is_least = self.bound == LEAST;
        if is_slow && !is_least {
            self.hold = self.patience;
            self.patience = (self.patience * 2).min(MOST_PATIENCE);
            self.change(self.bound - self.bound.div_ceil(4));
        } else if is_slow || self.periods >= PERIODS_PER_MEASUREMENT {
            self.measure(now, self.bound);
        } else if self.hold > 0 {
            self.hold -= 1;
            self.begin_period();
        } else if self.bound < self.most {
            self.change(self.bound + self.bound.div_ceil(4));
            self.is_risen = true;
        } else {
            self.begin_period();
        }
    }

    fn is_slow(&self, means: [Option<u64>; Class::COUNT]) -> bool {
        let mut pairs = means.into_iter().zip(self.least);
        pairs.any(|(mean, least)| {
            let pair = mean.zip(least);
            pair.is_some_and(|(mean, least)| {
                mean.saturating_mul(100) > least.saturating_mul(TOLERATED_PERCENT)
            })
        })
    }

    /// Measures latencies with the least bound; there may be `held` requests of one initiator now.
    fn measure(&mut self, now: Duration, held: usize) {
        self.goal = Some(self.bound);
        self.measured_at = Some(now);
        self.bound = LEAST;
        self.is_risen = false;
        self.settle(held);
    }

    fn change(&mut self, bound: usize) {
        let before = self.bound;
        self.bound = bound.clamp(LEAST, self.most);
        self.settle(before.max(self.bound));
    }

    fn settle(&mut self, held: usize) {
        self.begin_period();
        let held = u32::try_from(held).unwrap_or(u32::MAX);
        self.phase = Phase::Settling(held.min(MOST_IN_A_PERIOD));
    }

    fn begin_period(&mut self) {
        self.sums = [Sum::default(); Class::COUNT];
        self.ended = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: Duration = Duration::from_micros(100);
    const GUEST: Class = Class {
        is_read: true,
        wants_more: false,
    };
    const GREEDY: Class = Class {
        is_read: false,
        wants_more: true,
    };

    /// A disk that does `width` requests at once, each in `T`, used by `guests` initiators with a
    /// request each, and one that takes all it gets. Returns the bound over time.
    fn run(share: &mut Share, width: usize, guests: usize, rounds: usize) -> Vec<usize> {
        let mut now = Duration::from_secs(1);
        let mut bounds = Vec::new();
        for _ in 0..rounds {
            let greedy = share.bound();
            let all = guests + greedy;
            let took = T * u32::try_from(all.div_ceil(width).max(1)).unwrap();
            now += took;
            for class in 0..all {
                let class = if class < guests { GUEST } else { GREEDY };
                share.handle_done(now, class, took);
            }
            bounds.push(share.bound());
        }
        bounds
    }

    #[test]
    fn on_a_narrow_disk_nobody_gets_much_more_than_one() {
        let mut share = Share::new(64);
        let bounds = run(&mut share, 1, 1, 20_000);
        // Two requests at once are three with the guest's, and take 1.5 times as long as two.
        assert!(bounds.iter().all(|&bound| bound <= 2));
        let tries = bounds.iter().filter(|&&bound| bound > 1).count();
        assert!((1..20_000 / 20).contains(&tries), "{tries}");
    }

    #[test]
    fn on_a_wide_disk_others_are_served_beside() {
        let mut share = Share::new(64);
        let bounds = run(&mut share, 32, 3, 20_000);
        // 29 have room beside the guests.
        let late = &bounds[10_000..];
        let enough = late.iter().filter(|&&bound| bound >= 21).count();
        assert!(enough > 8_000, "{enough}");
        let more = late.iter().filter(|&&bound| bound > 29).count();
        assert!(more < 1_000, "{more}");
    }

    #[test]
    fn where_latencies_stay_there_is_no_bound_but_the_most() {
        let mut share = Share::new(48);
        let bounds = run(&mut share, 1000, 1, 20_000);
        assert_eq!(bounds.iter().max(), Some(&48));
        let at_most = bounds.iter().filter(|&&bound| bound == 48).count();
        assert!(at_most > 15_000, "{at_most}");
    }

    /// The greedy one's own latency, of which there are many more, hides nothing.
    #[test]
    fn a_guests_latency_counts_for_itself() {
        let mut share = Share::new(64);
        let mut now = Duration::from_secs(1);
        for _ in 0..50_000 {
            let bound = share.bound();
            now += T;
            share.handle_done(now, GUEST, if bound > 6 { 3 * T } else { T });
            for _ in 0..bound {
                share.handle_done(now, GREEDY, T);
            }
        }
        assert!((4..=7).contains(&share.bound()), "{}", share.bound());
    }

    #[test]
    fn what_the_cache_answers_tells_nothing() {
        let mut share = Share::new(64);
        for _ in 0..10_000 {
            share.handle_done(T, GUEST, Duration::ZERO);
        }
        assert_eq!(share.bound(), LEAST);
    }

    #[test]
    fn a_newcomer_is_measured_with_the_least_and_then_what_was_found_holds_again() {
        let mut share = Share::new(64);
        share.handle_newcomer(Duration::from_millis(500));
        run(&mut share, 32, 3, 10_000);
        let found = share.bound();
        assert!(found > 10, "{found}");
        let later = Duration::from_secs(60);
        share.handle_newcomer(later);
        assert_eq!(share.bound(), LEAST);
        let bounds = run(&mut share, 32, 3, 200);
        assert!(bounds.contains(&found), "{found} {bounds:?}");
        // They come and go: not each is a reason to begin again.
        share.handle_newcomer(later + Duration::from_millis(900));
        assert!(share.bound() > LEAST);
    }
}
