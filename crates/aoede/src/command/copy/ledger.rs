//! How far a copy has come: pure bookkeeping.
//!
//! Chunks are finished in any order. What counts is the length of the part at the beginning that is
//! finished without a gap, and of that the part that a sync has covered: only this may be recorded
//! as stable.

use std::collections::BTreeMap;

/// Bytes from the beginning of the copy.
#[derive(Debug)]
pub(super) struct Ledger {
    /// Everything before it is finished.
    written_to: u64,
    /// Finished chunks behind a gap: from, to. As many at most as chunks are under way.
    apart: BTreeMap<u64, u64>,
    /// Everything before it is on stable storage.
    stable_to: u64,
    /// Where a sync that is under way will have brought that.
    syncing_to: Option<u64>,
}

impl Ledger {
    /// Everything before `from` is on stable storage already.
    pub(super) fn new(from: u64) -> Self {
        Self {
            written_to: from,
            apart: BTreeMap::new(),
            stable_to: from,
            syncing_to: None,
        }
    }

    /// A chunk has reached the destination. No two chunks overlap.
    pub(super) fn finish(&mut self, from: u64, to: u64) {
        self.apart.insert(from, to);
        while let Some(next) = self.apart.first_entry() {
            if *next.key() != self.written_to {
                break;
            }
            self.written_to = next.remove();
        }
    }

    /// A sync begins, which covers what is finished now. There is one at a time.
    pub(super) fn begin_sync(&mut self) {
        self.syncing_to = Some(self.written_to);
    }

    /// The sync has succeeded.
    pub(super) fn end_sync(&mut self) {
        if let Some(to) = self.syncing_to.take() {
            self.stable_to = to;
        }
    }

    /// Whether a sync is under way.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing_to.is_some()
    }

    /// Bytes finished without a gap.
    pub(super) fn written_to(&self) -> u64 {
        self.written_to
    }

    /// Whether a sync has covered everything before `end`: only then the copy is complete.
    pub(super) fn is_complete(&self, end: u64) -> bool {
        self.stable_to >= end && self.apart.is_empty()
    }

    /// Bytes on stable storage without a gap.
    pub(super) fn stable_to(&self) -> u64 {
        self.stable_to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_gap_holds_back_what_is_behind_it() {
        let mut ledger = Ledger::new(100);
        ledger.finish(200, 300);
        assert_eq!(ledger.written_to(), 100);
        ledger.finish(100, 200);
        assert_eq!((ledger.written_to(), ledger.stable_to()), (300, 100));
    }

    #[test]
    fn a_sync_covers_what_was_finished_when_it_began() {
        let mut ledger = Ledger::new(0);
        ledger.finish(0, 10);
        ledger.begin_sync();
        ledger.finish(10, 20);
        assert!(ledger.is_syncing());
        ledger.end_sync();
        assert!(!ledger.is_syncing());
        assert_eq!((ledger.written_to(), ledger.stable_to()), (20, 10));
        ledger.end_sync();
        assert_eq!(ledger.stable_to(), 10, "no sync, no progress");
    }

    #[test]
    fn only_what_a_sync_has_covered_without_a_gap_is_complete() {
        let sync = |ledger: &mut Ledger| {
            ledger.begin_sync();
            ledger.end_sync();
        };
        let mut ledger = Ledger::new(0);
        assert!(ledger.is_complete(0) && !ledger.is_complete(30));
        ledger.finish(0, 10);
        ledger.finish(20, 30);
        sync(&mut ledger);
        assert!(!ledger.is_complete(30), "a gap");
        ledger.finish(10, 20);
        assert!(!ledger.is_complete(30), "no sync since");
        sync(&mut ledger);
        assert!(ledger.is_complete(30) && !ledger.is_complete(31));
    }

    /// What happens next: the number chooses among the chunks under way.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        Begin,
        Finish(usize),
        BeginSync,
        EndSync,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Begin),
            3 => (0_usize..8).prop_map(Step::Finish),
            1 => Just(Step::BeginSync),
            1 => Just(Step::EndSync),
        ]
    }

    proptest! {
        /// A destination that loses at an interruption whatever no sync has covered: what the
        /// ledger calls stable is there after every step.
        #[test]
        fn never_more_is_recorded_than_is_stable(steps in proptest::collection::vec(step(), 1..200)) {
            let mut ledger = Ledger::new(0);
            let mut begun = 0;
            let mut under_way: Vec<u64> = Vec::new();
            let (mut cached, mut medium) = (vec![false; 201], vec![false; 201]);
            let mut at_sync: Option<Vec<bool>> = None;
            for step in steps {
                match step {
                    Step::Begin => {
                        under_way.push(begun);
                        begun += 1;
                    }
                    Step::Finish(which) if !under_way.is_empty() => {
                        let chunk = under_way.remove(which % under_way.len());
                        cached[usize::try_from(chunk).unwrap()] = true;
                        ledger.finish(chunk, chunk + 1);
                    }
                    Step::BeginSync if at_sync.is_none() => {
                        at_sync = Some(cached.clone());
                        ledger.begin_sync();
                    }
                    Step::EndSync => if let Some(covered) = at_sync.take() {
                        medium = covered;
                        ledger.end_sync();
                    },
                    Step::Finish(_) | Step::BeginSync => {}
                }
                let stable = medium.iter().take_while(|&&there| there).count() as u64;
                let written = cached.iter().take_while(|&&there| there).count() as u64;
                prop_assert!(ledger.stable_to() <= stable);
                prop_assert_eq!(ledger.written_to(), written);
            }
            // And nothing is held back for ever.
            for chunk in under_way {
                ledger.finish(chunk, chunk + 1);
            }
            ledger.begin_sync();
            ledger.end_sync();
            prop_assert_eq!(ledger.stable_to(), begun);
        }
    }
}
