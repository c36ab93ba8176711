//! Ranges of blocks: one, a short list of them, and one bit for each block of a disk.
#![forbid(unsafe_code)]

use std::hint::black_box;

use super::BLOCK_BYTES;

/// Blocks from `first` up to, not including, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Blocks {
    /// The first.
    pub(super) first: u64,
    /// The one behind the last.
    pub(super) end: u64,
}

impl Blocks {
    /// The blocks that a range of bytes touches.
    pub(super) fn touched_by(offset_bytes: u64, len_bytes: u64) -> Self {
        Self {
            first: offset_bytes / BLOCK_BYTES,
            end: offset_bytes.saturating_add(len_bytes).div_ceil(BLOCK_BYTES),
        }
    }

    pub(super) fn count(self) -> u64 {
        self.end.saturating_sub(self.first)
    }

    pub(super) fn overlaps(self, other: Self) -> bool {
        self.first < other.end && other.first < self.end
    }

    fn touches(self, other: Self) -> bool {
        self.first <= other.end && other.first <= self.end
    }
}

/// A list of ranges that never grows beyond what it was made for.
#[derive(Debug)]
pub(super) struct Ranges {
    list: Vec<Blocks>,
}

impl Ranges {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            list: Vec::with_capacity(capacity),
        }
    }

    /// Adds blocks, as a part of a range that they touch if there is one. The caller has seen to it
    /// that there is room.
    pub(super) fn add(&mut self, blocks: Blocks) {
        if let Some(known) = self.list.iter_mut().find(|known| known.touches(blocks)) {
            known.first = known.first.min(blocks.first);
            known.end = known.end.max(blocks.end);
            return;
        }
        self.push(blocks);
    }

    /// Adds blocks as a range of their own.
    pub(super) fn push(&mut self, blocks: Blocks) {
        debug_assert!(self.list.len() < self.list.capacity());
        self.list.push(blocks);
    }

    pub(super) fn overlaps(&self, blocks: Blocks) -> bool {
        self.list.iter().any(|known| known.overlaps(blocks))
    }

    /// Moves up to `most` ranges into another list, the oldest first.
    pub(super) fn move_to(&mut self, other: &mut Self, most: usize) {
        let most = most.min(self.list.len());
        for blocks in self.list.drain(..most) {
            other.add(blocks);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(Blocks) -> bool) {
        self.list.retain(|&blocks| keep(blocks));
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn get(&self, index: usize) -> Option<Blocks> {
        self.list.get(index).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Blocks> + '_ {
        self.list.iter().copied()
    }
}

/// One bit for each block of a disk: 32 MiB for a disk of 1 TiB, of which only the pages that were
/// ever written to take memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bitmap {
    words: Box<[u64]>,
}

const WORD: u64 = u64::BITS as u64;

impl Bitmap {
    /// All zero; `None` if there is no memory for it.
    pub(super) fn new(blocks: u64) -> Option<Self> {
        let count = usize::try_from(blocks.div_ceil(WORD)).ok()?;
        // Zeros take no memory before they are used, but who asks for them and is refused has ended.
        // So the same room is asked for first.
        let mut room = Vec::<u64>::new();
        room.try_reserve_exact(count).ok()?;
        drop(black_box(room));
        let words = vec![0; count].into_boxed_slice();
        Some(Self { words })
    }

    pub(super) fn get(&self, block: u64) -> bool {
        let word = usize::try_from(block / WORD).ok();
        let word = word.and_then(|word| self.words.get(word));
        word.is_some_and(|word| word >> (block % WORD) & 1 == 1)
    }

    /// Sets bits. Returns how many were not set before.
    pub(super) fn set(&mut self, blocks: Blocks) -> u64 {
        let before = self.count(blocks);
        self.change(blocks, |word, mask| *word |= mask);
        blocks.count() - before
    }

    /// Clears bits. Returns how many were set before.
    pub(super) fn clear(&mut self, blocks: Blocks) -> u64 {
        let before = self.count(blocks);
        self.change(blocks, |word, mask| *word &= !mask);
        before
    }

    /// How many bits are set.
    pub(super) fn count(&self, blocks: Blocks) -> u64 {
        let words = pieces(blocks).map(|(index, mask)| {
            let word = self.words.get(index).copied().unwrap_or(0);
            u64::from((word & mask).count_ones())
        });
        words.sum()
    }

    /// How many set bits another bitmap does not have.
    pub(super) fn count_without(&self, blocks: Blocks, other: &Self) -> u64 {
        let words = pieces(blocks).map(|(index, mask)| {
            let word = self.words.get(index).copied().unwrap_or(0);
            let without = other.words.get(index).copied().unwrap_or(0);
            u64::from((word & !without & mask).count_ones())
        });
        words.sum()
    }

    /// The first block of a range whose bit is `wanted`.
    pub(super) fn find(&self, blocks: Blocks, wanted: bool) -> Option<u64> {
        pieces(blocks).find_map(|(index, mask)| {
            let word = self.words.get(index).copied().unwrap_or(0);
            let hits = if wanted { word } else { !word } & mask;
            (hits != 0).then(|| index as u64 * WORD + u64::from(hits.trailing_zeros()))
        })
    }

    fn change(&mut self, blocks: Blocks, apply: impl Fn(&mut u64, u64)) {
        for (index, mask) in pieces(blocks) {
            if let Some(word) = self.words.get_mut(index) {
                apply(word, mask);
            }
        }
    }
}

/// The words that a range lies in, each with a mask of its bits.
fn pieces(blocks: Blocks) -> impl Iterator<Item = (usize, u64)> {
    let words = blocks.first / WORD..blocks.end.div_ceil(WORD);
    words.filter_map(move |word| {
        let start = blocks.first.max(word * WORD) - word * WORD;
        let end = blocks.end.min((word + 1) * WORD) - word * WORD;
        let len = end.checked_sub(start).filter(|&len| len > 0)?;
        let mask = u64::MAX >> (WORD - len) << start;
        Some((usize::try_from(word).ok()?, mask))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(first: u64, end: u64) -> Blocks {
        Blocks { first, end }
    }

    #[test]
    fn bits_are_set_counted_found_and_cleared_across_words() {
        let mut bits = Bitmap::new(200).unwrap();
        assert_eq!(bits.find(blocks(0, 200), true), None);
        assert_eq!(bits.set(blocks(60, 130)), 70);
        assert_eq!(bits.set(blocks(129, 131)), 1);
        assert_eq!(
            [59, 60, 63, 64, 128, 130, 131].map(|block| bits.get(block)),
            [false, true, true, true, true, true, false]
        );
        assert_eq!(bits.count(blocks(0, 200)), 71);
        assert_eq!(bits.find(blocks(0, 200), true), Some(60));
        assert_eq!(bits.find(blocks(60, 200), false), Some(131));
        assert_eq!(bits.find(blocks(60, 131), false), None);
        assert_eq!(bits.find(blocks(131, 200), true), None);
        assert_eq!(bits.clear(blocks(0, 128)), 68);
        assert_eq!(bits.find(blocks(0, 200), true), Some(128));

        let mut others = Bitmap::new(200).unwrap();
        others.set(blocks(129, 130));
        assert_eq!(bits.count_without(blocks(0, 200), &others), 2);
        // Beyond its end nothing is set, and nothing breaks.
        assert_eq!(bits.find(blocks(199, 10_000), true), None);
        assert!(!bits.get(u64::MAX));
    }

    #[test]
    fn ranges_that_touch_are_one() {
        let mut list = Ranges::new(3);
        list.add(blocks(0, 2));
        list.add(blocks(4, 6));
        list.add(blocks(2, 3));
        list.add(blocks(1, 2));
        assert_eq!(
            list.iter().collect::<Vec<_>>(),
            [blocks(0, 3), blocks(4, 6)]
        );
        assert!(list.overlaps(blocks(2, 4)) && !list.overlaps(blocks(3, 4)));
        let mut other = Ranges::new(3);
        list.move_to(&mut other, 1);
        assert_eq!((list.get(0), list.len()), (Some(blocks(4, 6)), 1));
        assert_eq!(other.get(0), Some(blocks(0, 3)));
    }
}
