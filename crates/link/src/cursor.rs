//! Who owns which slot of the receive ring: the hand-over with the kernel and nothing else.
//!
//! Each slot has a status word. The kernel fills slots in a circle and sets `TP_STATUS_USER` in
//! the word when a slot is ours; we write `TP_STATUS_KERNEL` to give it back. One slot at a time
//! is ours to look at. Where the words are is the ring's business, see `ring.rs`.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU32, Ordering};

use crate::RingUse;

/// The status words of a ring.
pub(crate) trait StatusWords {
    /// How many slots there are, at least one.
    fn slots(&self) -> u32;
    /// The word of a slot below `slots`.
    fn status(&self, slot: u32) -> &AtomicU32;
}

/// The place in the circle, and whether the slot there is held by us.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    slot: u32,
    held: bool,
}

impl Cursor {
    /// Gives the held slot back and takes the next, if the kernel has filled it. The slot is ours
    /// until the next call of the cursor.
    pub(crate) fn take(&mut self, words: &impl StatusWords) -> Option<u32> {
        self.give_back(words);
        // Acquire: what the kernel wrote into the slot before the word is seen after it.
        let status = words.status(self.slot).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.held = true;
        Some(self.slot)
    }

    /// Gives the held slot back, if there is one.
    pub(crate) fn give_back(&mut self, words: &impl StatusWords) {
        if !self.held {
            return;
        }
        self.held = false;
        // Release: our reads of the slot are over before the kernel may write to it.
        words
            .status(self.slot)
            .store(libc::TP_STATUS_KERNEL, Ordering::Release);
        self.slot += 1;
        if self.slot >= words.slots() {
            self.slot = 0;
        }
    }

    /// How many slots the kernel has filled and not. The filled follow each other, from the place in
    /// the circle on, so that a few words tell.
    pub(crate) fn ring_use(&self, words: &impl StatusWords) -> RingUse {
        let slots = words.slots();
        let (mut filled, mut end) = (0, slots);
        while filled < end {
            let middle = filled.midpoint(end);
            let slot = (self.slot + middle) % slots;
            let status = words.status(slot).load(Ordering::Relaxed);
            if status & libc::TP_STATUS_USER == 0 {
                end = middle;
            } else {
                filled = middle + 1;
            }
        }
        RingUse {
            waiting: filled.saturating_sub(u32::from(self.held)) as usize,
            free: (slots - filled) as usize,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Plain(Vec<AtomicU32>);

    impl StatusWords for Plain {
        fn slots(&self) -> u32 {
            u32::try_from(self.0.len()).unwrap()
        }

        fn status(&self, slot: u32) -> &AtomicU32 {
            &self.0[slot as usize]
        }
    }

    /// The other side: fills the next slot in the circle when it is free, else drops.
    struct Kernel {
        next: usize,
        dropped: usize,
    }

    impl Kernel {
        fn fill(&mut self, words: &Plain, flags: u32) -> Option<u32> {
            let word = &words.0[self.next];
            if word.load(Ordering::Acquire) != libc::TP_STATUS_KERNEL {
                self.dropped += 1;
                return None;
            }
            word.store(libc::TP_STATUS_USER | flags, Ordering::Release);
            let slot = u32::try_from(self.next).unwrap();
            self.next = (self.next + 1) % words.0.len();
            Some(slot)
        }
    }

    fn words(count: usize) -> Plain {
        Plain((0..count).map(|_| AtomicU32::new(0)).collect())
    }

    #[test]
    fn a_slot_is_held_until_the_next_call() {
        let words = words(2);
        let mut cursor = Cursor::default();
        assert_eq!(cursor.take(&words), None);

        let mut kernel = Kernel {
            next: 0,
            dropped: 0,
        };
        kernel.fill(&words, 0);
        kernel.fill(&words, libc::TP_STATUS_LOSING);
        assert_eq!(cursor.take(&words), Some(0));
        assert_eq!(kernel.fill(&words, 0), None, "slot 0 is still held");

        assert_eq!(cursor.take(&words), Some(1));
        assert_eq!(kernel.fill(&words, 0), Some(0));
        cursor.give_back(&words);
        cursor.give_back(&words);
        assert_eq!(kernel.fill(&words, 0), Some(1), "given back once");
    }

    proptest! {
        /// Any order of filling, taking and giving back: slots come out in the order they were
        /// filled, none twice, none lost, and the kernel drops only when all are taken.
        #[test]
        fn slots_come_out_as_they_went_in(count in 1_usize..9, steps in prop::collection::vec(0_u8..4, 0..200)) {
            let words = words(count);
            let mut cursor = Cursor::default();
            let mut kernel = Kernel { next: 0, dropped: 0 };
            let mut filled = VecDeque::new();
            let mut held = 0;
            for step in steps {
                match step {
                    0 | 1 => {
                        let full = filled.len() + held == count;
                        match kernel.fill(&words, u32::from(step) << 4) {
                            Some(slot) => {
                                prop_assert!(!full);
                                filled.push_back(slot);
                            }
                            None => prop_assert!(full),
                        }
                    }
                    2 => {
                        let taken = cursor.take(&words);
                        prop_assert_eq!(taken, filled.pop_front());
                        held = usize::from(taken.is_some());
                    }
                    _ => {
                        cursor.give_back(&words);
                        held = 0;
                    }
                }
                let free = count - filled.len() - held;
                let waiting = filled.len();
                prop_assert_eq!(cursor.ring_use(&words), RingUse { waiting, free });
            }
        }
    }
}
