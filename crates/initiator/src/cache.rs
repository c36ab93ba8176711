//! Whether a flush can be believed when the target may have been restarted (§15, 7).
//!
//! A target with a write cache that is killed forgets what it had acknowledged, and the next one
//! answers a flush in good faith. It has another number, though (§3.6). A number that was told
//! before a change was sent, and again after the flush that covers it was answered, is that of the
//! one target that has heard both.

/// What is known of the target's write cache, and which changes depend on it. Changes are counted
/// in the order of their acknowledgements.
#[derive(Debug, Default)]
pub(crate) struct CacheWatch {
    /// As it was told last, if it was; 0 where there is none.
    number: Option<u64>,
    /// Events after which a target that told none may be another.
    doubts: u64,
    /// Of these, those before its number was last asked for.
    dispelled: u64,
    acknowledged: u64,
    /// The first so many are stable, or were told to be lost.
    settled: u64,
    /// From the first, exclusive, to the second, inclusive, all that are not settled may be lost.
    lost: (u64, u64),
}

/// What one flush is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Covers {
    /// Changes up to this were settled when it was asked for,
    settled: u64,
    /// and up to this acknowledged.
    acknowledged: u64,
    /// Doubts when it was answered.
    doubts: u64,
}

impl CacheWatch {
    /// Something has happened that a new target behind an old address may be the reason for.
    pub(crate) fn doubt(&mut self) {
        self.doubts += 1;
    }

    /// The target tells its number, or that it has none. Whether it is another than before: then
    /// what is under way, and was sent before now, may be lost as well.
    pub(crate) fn told(&mut self, number: Option<u64>) -> bool {
        let number = number.unwrap_or_default();
        let before = self.number.replace(number);
        let is_other = before.is_some_and(|before| before != number);
        if is_other {
            self.lose(self.settled);
        }
        is_other
    }

    /// A change was acknowledged; `lost` if it was under way when a new target was noticed.
    pub(crate) fn acknowledged(&mut self, lost: bool) {
        let before = self.acknowledged;
        self.acknowledged += 1;
        if lost {
            self.lose(before);
        }
    }

    /// What a flush will cover that is asked for now.
    pub(crate) fn covers(&self) -> Covers {
        Covers {
            settled: self.settled,
            acknowledged: self.acknowledged,
            doubts: 0,
        }
    }

    /// A flush was answered. Whether the number has to be asked for before it counts: always if
    /// there is one, otherwise if the target may be another.
    pub(crate) fn must_ask(&self, covers: &mut Covers) -> bool {
        covers.doubts = self.doubts;
        self.number != Some(0) || self.doubts != self.dispelled
    }

    /// A flush was answered, and the number told since if it had to be. Whether all that it covers
    /// is stable; what is not is told by this flush, and those asked for before now.
    pub(crate) fn flushed(&mut self, covers: Covers) -> bool {
        self.dispelled = self.dispelled.max(covers.doubts);
        self.settled = self.settled.max(covers.acknowledged);
        let (from, to) = self.lost;
        from.max(covers.settled) >= to.min(covers.acknowledged)
    }

    /// Whether there is a loss that was not told yet.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.1 > self.settled
    }

    fn lose(&mut self, from: u64) {
        // In one go with what was lost before, if that was not told yet.
        if !self.has_lost() {
            self.lost.0 = from;
        }
        self.lost.1 = self.acknowledged;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(changes: u32) -> CacheWatch {
        let mut watch = CacheWatch::default();
        assert!(!watch.told(Some(7)));
        (0..changes).for_each(|_| watch.acknowledged(false));
        watch
    }

    #[test]
    fn rule_7_a_loss_is_told_once_and_to_every_flush_that_was_asked_for_before() {
        let mut watch = watch(3);
        let (one, other) = (watch.covers(), watch.covers());
        assert!(!watch.has_lost());
        assert!(watch.told(Some(8)));
        assert!(watch.has_lost());
        let third = watch.covers();
        assert!(!watch.flushed(one));
        assert!(!watch.flushed(other));
        assert!(!watch.flushed(third));
        let later = watch.covers();
        assert!(watch.flushed(later));
        watch.acknowledged(false);
        assert!(!watch.told(Some(8)));
        let later = watch.covers();
        assert!(watch.flushed(later));
    }

    #[test]
    fn rule_7_what_was_flushed_is_not_lost() {
        let mut watch = watch(3);
        let covers = watch.covers();
        assert!(watch.flushed(covers));
        assert!(watch.told(Some(8)));
        let covers = watch.covers();
        assert!(watch.flushed(covers), "nothing was acknowledged since");
    }

    #[test]
    fn rule_7_what_was_acknowledged_beside_a_failing_flush_is_told_by_the_next() {
        let mut watch = watch(1);
        let covers = watch.covers();
        watch.acknowledged(false);
        assert!(watch.told(None));
        assert!(!watch.flushed(covers));
        // Sent to the old one, and heard of only now.
        watch.acknowledged(true);
        let covers = watch.covers();
        assert!(!watch.flushed(covers));
        let covers = watch.covers();
        assert!(watch.flushed(covers));
        watch.acknowledged(true);
        let covers = watch.covers();
        assert!(!watch.flushed(covers), "a loss of its own");
    }

    #[test]
    fn rule_7_without_a_number_it_is_asked_for_when_something_has_happened() {
        let mut watch = CacheWatch::default();
        watch.told(None);
        let mut covers = watch.covers();
        assert!(!watch.must_ask(&mut covers));
        watch.doubt();
        assert!(watch.must_ask(&mut covers));
        // Once more while it is asked for.
        watch.doubt();
        assert!(watch.flushed(covers));
        assert!(watch.must_ask(&mut covers));
        assert!(watch.flushed(covers));
        assert!(!watch.must_ask(&mut covers));
        watch.told(Some(9));
        assert!(watch.must_ask(&mut covers));
    }
}
