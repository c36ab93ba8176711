//! Which parts of data are zeros: pure.

use std::ops::Range;

/// What zeros are looked for in: a page, the block of most file systems and disks.
pub(super) const BLOCK: usize = 4096;

/// A part of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Where it is in the chunk.
    pub(super) range: Range<usize>,
    pub(super) zero: bool,
}

/// Whether all of it is zeros.
pub(super) fn is_zero(data: &[u8]) -> bool {
    let pieces = data.chunks_exact(64);
    let rest = pieces.remainder();
    // A sum of 64 bytes at a time is something that processors do in a few instructions.
    pieces.into_iter().all(|piece| ored(piece) == 0) && ored(rest) == 0
}

fn ored(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum | byte)
}

/// Cuts data into parts with and without content. Zeros count in whole blocks, and from `least`
/// bytes in a row on; at the end of the data what is left of a block counts as one.
pub(super) fn runs(data: &[u8], least: usize) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (index, block) in data.chunks(BLOCK).enumerate() {
        let from = index * BLOCK;
        let zero = is_zero(block);
        match runs.last_mut() {
            Some(last) if last.zero == zero => last.range.end = from + block.len(),
            _ => runs.push(Run {
                range: from..from + block.len(),
                zero,
            }),
        }
    }
    let whole = data.len();
    let mut merged: Vec<Run> = Vec::new();
    for mut run in runs {
        // A part that is all the data has no neighbour that it could join.
        run.zero &= run.range.len() >= least || run.range.len() == whole;
        match merged.last_mut() {
            Some(last) if last.zero == run.zero => last.range.end = run.range.end,
            _ => merged.push(run),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(range: Range<usize>, zero: bool) -> Run {
        Run { range, zero }
    }

    #[test]
    fn one_byte_makes_the_difference_wherever_it_is() {
        for len in [1, 63, 64, 65, 512, 4096] {
            let mut data = vec![0; len];
            assert!(is_zero(&data), "{len}");
            for at in [0, len / 2, len - 1] {
                data[at] = 1;
                assert!(!is_zero(&data), "{len} {at}");
                data[at] = 0;
            }
        }
        assert!(is_zero(&[]));
    }

    #[test]
    fn runs_are_whole_blocks() {
        let mut data = vec![0; 5 * BLOCK + 512];
        data[BLOCK + 7] = 1;
        assert_eq!(
            runs(&data, BLOCK),
            [
                run(0..4096, true),
                run(4096..8192, false),
                run(8192..20992, true),
            ]
        );
        assert_eq!(runs(&[], BLOCK), []);
        assert_eq!(runs(&[0; 512], 1 << 20), [run(0..512, true)]);
        assert_eq!(runs(&[1; 512], BLOCK), [run(0..512, false)]);
    }

    #[test]
    fn short_zeros_between_data_are_data() {
        let mut data = vec![0; 8 * BLOCK];
        data[0] = 1;
        data[3 * BLOCK] = 1;
        assert_eq!(
            runs(&data, 3 * BLOCK),
            [run(0..16384, false), run(16384..32768, true)]
        );
        assert_eq!(runs(&data, 8 * BLOCK), [run(0..32768, false)]);
    }

    proptest! {
        #[test]
        fn runs_follow_each_other_and_tell_the_truth(
            blocks in proptest::collection::vec(any::<bool>(), 0..40),
            tail in 0_usize..BLOCK,
            least in 1_usize..5,
        ) {
            let mut data = vec![0; blocks.len() * BLOCK + tail];
            for (block, &full) in data.chunks_mut(BLOCK).zip(&blocks) {
                if full {
                    let last = block.len() - 1;
                    block[last] = 7;
                }
            }
            let runs = runs(&data, least * BLOCK);
            let mut at = 0;
            for run in &runs {
                prop_assert_eq!(run.range.start, at);
                at = run.range.end;
                prop_assert!(!run.range.is_empty());
                let zeros = data[run.range.clone()].iter().all(|&byte| byte == 0);
                prop_assert!(!run.zero || zeros);
                if zeros && !run.zero {
                    prop_assert!(run.range.len() < least * BLOCK);
                }
            }
            prop_assert_eq!(at, data.len());
            prop_assert!(runs.windows(2).all(|pair| pair[0].zero != pair[1].zero));
        }
    }
}
