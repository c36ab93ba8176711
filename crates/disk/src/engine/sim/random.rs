//! The simulations' source of chance.
#![forbid(unsafe_code)]

use std::ops::RangeInclusive;

/// `SplitMix64` (Steele, Lea and Flood, 2014): in-tree, so that a seed means the same for ever.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which counts as 1 when it is 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    pub(crate) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (start, end) = range.into_inner();
        start + self.below((end - start).saturating_add(1))
    }

    pub(crate) fn chance(&mut self, ppm: u32) -> bool {
        // Without a look at the generator when it is certain: most faults are off most of the time.
        ppm > 0 && self.below(1_000_000) < u64::from(ppm)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // Values of the authors' C code for this seed.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn both_ends_of_a_range_are_drawn() {
        let mut random = Random::new(0);
        let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| random.within(3..=5)).collect();
        assert_eq!(drawn, [3, 4, 5].into());
        assert_eq!(random.within(7..=7), 7);
    }
}
