//! The tags of one session: a counter from a random start (§15, 4).
//!
//! One counter serves all source MACs of a session: each target sees numbers that only grow, as its
//! tag window (§9.2) wants them, and a request that moves to another path keeps its tag.

/// Tags under way span less than this, or the oldest would fall out of the target's window (§9.2).
const SPAN: u32 = 32768;
/// How far the counter leaps before extensions are negotiated again: repetitions of earlier writes
/// are then behind the target's fresh window.
const LEAP: u32 = 65536;

/// Where the counter stands.
#[derive(Debug)]
pub(crate) struct Tags {
    next: u32,
    /// The oldest tag under way when it was last looked for.
    oldest: u32,
}

impl Tags {
    pub(crate) fn new(start: u32) -> Self {
        Self {
            next: start,
            oldest: start,
        }
    }

    /// A tag for a new request, or `None` while one so old is under way that the span would be too
    /// large. `under_way` names the tags under way, in any order; it is asked now and then only.
    pub(crate) fn take(&mut self, under_way: impl Iterator<Item = u32>) -> Option<u32> {
        self.take_many(1, under_way)
    }

    /// As many tags in a row; the first of them. At most 1024.
    pub(crate) fn take_many(
        &mut self,
        count: u32,
        under_way: impl Iterator<Item = u32>,
    ) -> Option<u32> {
        let span = SPAN - count;
        if self.next.wrapping_sub(self.oldest) >= span {
            let age = |tag: u32| self.next.wrapping_sub(tag);
            self.oldest = under_way.max_by_key(|&tag| age(tag)).unwrap_or(self.next);
            if age(self.oldest) >= span {
                return None;
            }
        }
        let mut tag = self.next;
        if tag.wrapping_neg() < count {
            // Announcements carry tag 0 (§4.4): a response must not look like one.
            tag = 1;
        }
        self.next = tag.wrapping_add(count);
        Some(tag)
    }

    /// Leaves all earlier tags behind. Nothing under way may keep its tag.
    pub(crate) fn leap(&mut self) {
        self.next = self.next.wrapping_add(LEAP);
        self.oldest = self.next;
    }

    /// Whether the tag was given out not long ago.
    pub(crate) fn is_recent(&self, tag: u32) -> bool {
        let age = self.next.wrapping_sub(tag);
        (1..=4 * LEAP).contains(&age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::empty;

    #[test]
    fn rule_4_tags_count_upwards_from_the_start_and_skip_zero() {
        let mut tags = Tags::new(0xFFFF_FFFE);
        let taken: Vec<_> = (0..4).map(|_| tags.take(empty()).unwrap()).collect();
        assert_eq!(taken, [0xFFFF_FFFE, 0xFFFF_FFFF, 1, 2]);
        assert!(tags.is_recent(0xFFFF_FFFE) && tags.is_recent(2));
        assert!(!tags.is_recent(3));
    }

    #[test]
    fn rule_4_tags_in_a_row_are_given_out_once_and_skip_zero() {
        let mut tags = Tags::new(0xFFFF_FFF0);
        assert_eq!(tags.take_many(4, empty()), Some(0xFFFF_FFF0));
        assert_eq!(tags.take(empty()), Some(0xFFFF_FFF4));
        // Eleven are left.
        assert_eq!(tags.take_many(12, empty()), Some(1));
        assert_eq!(tags.take(empty()), Some(13));
        let mut tags = Tags::new(0xFFFF_FFF0);
        assert_eq!(tags.take_many(16, empty()), Some(0xFFFF_FFF0));
        assert_eq!(tags.take(empty()), Some(1));
    }

    #[test]
    fn rule_4_the_span_of_tags_under_way_stays_below_32768() {
        let mut tags = Tags::new(100);
        let first = tags.take(empty()).unwrap();
        let mut newest = first;
        while let Some(tag) = tags.take([first].into_iter()) {
            newest = tag;
            assert!(newest - first < 32768);
        }
        assert_eq!(newest - first, 32767 - 1);
        // Once the old one is answered, all goes on.
        assert_eq!(tags.take([newest].into_iter()), Some(newest + 1));
    }

    #[test]
    fn rule_4_a_leap_leaves_65536_tags_out() {
        let mut tags = Tags::new(7);
        assert_eq!(tags.take(empty()), Some(7));
        tags.leap();
        assert_eq!(tags.take(empty()), Some(8 + 65536));
    }
}
