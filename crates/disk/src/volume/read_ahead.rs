//! Who reads in order, and what they will want next.
//!
//! A reader that has come a few times for just what follows its last request gets a window: that
//! much is read before it asks. The window grows each time the reader has come through all of
//! it, and shrinks for all when pages are given up before their reader came. Several
//! readers are followed at once, each in a place of its own; whoever has not been seen for longest
//! loses its place, those without a window first. So random readers cost a look at a short table,
//! and no I/O.
#![forbid(unsafe_code)]

/// Readers followed at once.
const STREAMS: usize = 16;
/// The first window.
const LEAST_WINDOW: u64 = 64 << 10;
/// Requests in a row after which a reader is believed to go on.
const ROW: u32 = 4;
/// How far from the expected place a known reader's request may be: many requests are on their way
/// at once, and arrive in another order.
const SLACK: u64 = 256 << 10;
/// The same for one that is not believed yet, in lengths of its requests.
const SLACK_REQUESTS: u64 = 2;
/// One operation reads no more than this,
const MOST_AT_ONCE: u64 = 256 << 10;
/// nor so little that it is not worth its system call, unless the disk ends.
const LEAST_AT_ONCE: u64 = 32 << 10;
/// Requests of others after which a reader's window is not kept for it any more.
const PATIENCE: u64 = 4096;

/// A reader.
#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Where its next request should start.
    next: u64,
    /// Requests that did.
    row: u32,
    /// How far ahead to read; 0 for nobody.
    window: u64,
    /// Up to here data is read ahead, or being read.
    filled: u64,
    /// Where it was when its window got its size.
    grown: u64,
    /// The number of the latest request of all that was this reader's; 0: the place is free.
    seen: u64,
}

/// The readers of one volume.
#[derive(Debug)]
pub(super) struct ReadAhead {
    streams: [Stream; STREAMS],
    most_window: u64,
    /// The present limit of windows: `most_window`, or less while pages are wasted.
    window_limit: u64,
    requests: u64,
}

impl ReadAhead {
    /// With windows of up to `most_window` bytes; less than the least means none at all.
    pub(super) fn new(most_window: u64) -> Self {
        Self {
            streams: [Stream::default(); STREAMS],
            most_window,
            window_limit: most_window,
            requests: 0,
        }
    }

    /// A read of this range arrives.
    pub(super) fn observe(&mut self, start: u64, end: u64) {
        if self.most_window < LEAST_WINDOW {
            return;
        }
        self.requests += 1;
        let requests = self.requests;
        let len = end - start;
        let known = self.streams.iter_mut().find(|stream| {
            let slack = match stream.window {
                0 => len * SLACK_REQUESTS,
                _ => SLACK,
            };
            stream.seen > 0 && stream.next.abs_diff(start) <= slack
        });
        let Some(stream) = known else {
            self.admit(end);
            return;
        };
        stream.seen = requests;
        if end <= stream.next {
            return;
        }
        stream.next = end;
        stream.row += 1;
        if stream.window == 0 && stream.row >= ROW {
            stream.window = LEAST_WINDOW.min(self.window_limit);
            stream.filled = end;
            stream.grown = end;
        } else if stream.window > 0 && end - stream.grown.min(end) >= stream.window {
            // It has come through a whole window: this pays.
            stream.window = (stream.window * 2).min(self.window_limit);
            stream.grown = end;
        }
    }

    /// A new reader takes the place that is needed least.
    fn admit(&mut self, next: u64) {
        let requests = self.requests;
        let place = self.streams.iter_mut().min_by_key(|stream| {
            let followed = stream.window > 0 && stream.seen + PATIENCE > requests;
            (followed, stream.seen)
        });
        if let Some(place) = place {
            *place = Stream {
                next,
                row: 1,
                seen: requests,
                ..Stream::default()
            };
        }
    }

    /// What should be read ahead now, if anything, on a disk of `disk_bytes`: the number of the
    /// reader, and a range. To be followed by [`Self::filled`].
    pub(super) fn wanted(&self, disk_bytes: u64) -> Option<(usize, u64, u64)> {
        self.streams
            .iter()
            .enumerate()
            .find_map(|(number, stream)| {
                if stream.window == 0 {
                    return None;
                }
                let start = stream.filled.max(stream.next);
                let end = (stream.next + stream.window).min(disk_bytes);
                let least = (stream.window / 4).clamp(LEAST_AT_ONCE, MOST_AT_ONCE);
                let worth_it = end >= start + least || (end == disk_bytes && end > start);
                worth_it.then_some((number, start, end.min(start + MOST_AT_ONCE)))
            })
    }

    /// What [`Self::wanted`] asked for is being read, up to `end`, or need not be.
    pub(super) fn filled(&mut self, number: usize, end: u64) {
        if let Some(stream) = self.streams.get_mut(number) {
            stream.filled = end;
        }
    }

    /// The reader's data could not be read ahead: it is left alone until it comes in order again.
    pub(super) fn failed(&mut self, start: u64, end: u64) {
        for stream in &mut self.streams {
            if stream.window > 0 && stream.next < end && start < stream.filled {
                stream.window = 0;
                stream.row = 0;
            }
        }
    }

    /// Pages were given up before their reader came: smaller windows for all, for a while.
    pub(super) fn wasted(&mut self) {
        self.window_limit = (self.window_limit / 2).max(LEAST_WINDOW);
        for stream in &mut self.streams {
            stream.window = stream.window.min(self.window_limit);
        }
    }

    /// A page was read ahead and its reader came.
    pub(super) fn paid(&mut self, bytes: u64) {
        self.window_limit = (self.window_limit + bytes / 16).min(self.most_window);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: u64 = 1 << 30;
    const STEP: u64 = 8192;

    /// Reads in order from `start` on, and plays the volume: returns what was read ahead.
    fn run(ahead: &mut ReadAhead, start: u64, requests: u64) -> Vec<(u64, u64)> {
        let mut ranges = Vec::new();
        for number in 0..requests {
            let at = start + number * STEP;
            ahead.observe(at, at + STEP);
            while let Some((stream, from, to)) = ahead.wanted(DISK) {
                ranges.push((from, to));
                ahead.filled(stream, to);
            }
        }
        ranges
    }

    #[test]
    fn a_reader_in_order_is_found_and_its_window_grows_to_the_limit() {
        let mut ahead = ReadAhead::new(1 << 20);
        let ranges = run(&mut ahead, 4096, 1000);
        let first = ranges[0];
        assert_eq!(first.0, 4096 + u64::from(ROW) * STEP);
        assert!(first.1 - first.0 <= LEAST_WINDOW);
        for pair in ranges.windows(2) {
            assert_eq!(pair[0].1, pair[1].0, "without a gap");
        }
        let end = 4096 + 1000 * STEP;
        let last = ranges.last().unwrap().1;
        assert!(last - end >= (1 << 20) - (256 << 10) && last - end <= 1 << 20);
    }

    #[test]
    fn random_readers_get_nothing() {
        let mut ahead = ReadAhead::new(1 << 20);
        let mut at = 12345_u64;
        for _ in 0..100_000 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (at >> 33) % (DISK / 4096) * 4096;
            ahead.observe(start, start + 4096);
            assert_eq!(ahead.wanted(DISK), None);
        }
    }

    #[test]
    fn readers_are_followed_side_by_side_and_among_random_ones() {
        let mut ahead = ReadAhead::new(1 << 20);
        let mut ranges = vec![0; 4];
        for number in 0..200 {
            for reader in 0..4_u64 {
                let at = reader * (DISK / 8) + number * STEP;
                ahead.observe(at, at + STEP);
                let noise = (number * 4 + reader) * 7_654_321 % (DISK / 2) / 512 * 512 + DISK / 2;
                ahead.observe(noise, noise + 512);
            }
            while let Some((stream, from, to)) = ahead.wanted(DISK) {
                let reader = usize::try_from(from / (DISK / 8)).unwrap();
                ranges[reader] += to - from;
                ahead.filled(stream, to);
            }
        }
        assert!(ranges.iter().all(|&bytes| bytes > 1 << 20), "{ranges:?}");
    }

    #[test]
    fn requests_out_of_order_are_one_reader() {
        let mut ahead = ReadAhead::new(1 << 20);
        let mut bytes = 0;
        for group in 0..100 {
            for number in [1, 0, 3, 2] {
                let at = (group * 4 + number) * STEP;
                ahead.observe(at, at + STEP);
                while let Some((stream, from, to)) = ahead.wanted(DISK) {
                    bytes += to - from;
                    ahead.filled(stream, to);
                }
            }
        }
        assert!(
            (400 * STEP..=400 * STEP + (1 << 20)).contains(&bytes),
            "{bytes}"
        );
    }

    #[test]
    fn nothing_is_read_beyond_the_end_and_the_end_is_reached() {
        let mut ahead = ReadAhead::new(1 << 20);
        let start = DISK - 20 * STEP - 512;
        let ranges = run(&mut ahead, start, 20);
        assert_eq!(ranges.last().unwrap().1, DISK);
    }

    #[test]
    fn a_waste_of_pages_makes_windows_small_and_success_large_again() {
        let mut ahead = ReadAhead::new(1 << 20);
        run(&mut ahead, 0, 1000);
        for _ in 0..10 {
            ahead.wasted();
        }
        assert!(
            ahead
                .streams
                .iter()
                .all(|stream| stream.window <= LEAST_WINDOW)
        );
        ahead.paid(64 << 20);
        let ranges = run(&mut ahead, 1000 * STEP, 1000);
        let end = 2000 * STEP;
        assert!(ranges.last().unwrap().1 - end > 512 << 10);
    }

    #[test]
    fn a_reader_whose_data_cannot_be_read_is_left_alone() {
        let mut ahead = ReadAhead::new(1 << 20);
        let (from, to) = run(&mut ahead, 0, 10)[0];
        ahead.failed(from, to);
        assert_eq!(ahead.wanted(DISK), None);
    }

    /// One that has come to its end gets nothing more, and its place goes to others at last; while
    /// it may come back, readers of single blocks do not take it.
    #[test]
    fn a_window_is_dropped_when_its_stream_has_ended() {
        let mut ahead = ReadAhead::new(1 << 20);
        run(&mut ahead, 0, 1000);
        let window = |ahead: &ReadAhead| ahead.streams.iter().map(|stream| stream.window).max();
        assert_eq!(window(&ahead), Some(1 << 20));
        // Far from each other, and from where it was.
        let mut others = (0..).map(|number| DISK / 2 + number % 256 * (1 << 20));
        let mut pass = |ahead: &mut ReadAhead, count| {
            for at in others.by_ref().take(count) {
                ahead.observe(at, at + 4096);
                assert_eq!(ahead.wanted(DISK), None, "nobody reads in order");
            }
        };
        pass(&mut ahead, 4095);
        assert_eq!(window(&ahead), Some(1 << 20), "it may only have paused");
        pass(&mut ahead, 20);
        assert_eq!(window(&ahead), Some(0));
        // It is one like any other when it comes back.
        ahead.observe(1000 * STEP, 1001 * STEP);
        assert_eq!(ahead.wanted(DISK), None);
    }
}
