//! What a map file says after a restart.
#![forbid(unsafe_code)]

use super::BLOCK_BYTES;
use super::blocks::{Bitmap, Blocks};
use super::record::{Header, Kind, UNIT_BYTES, decode_unit};
use super::status::ShadowError;

/// Reads a map file, unit after unit.
#[derive(Debug)]
pub struct Replay {
    freeze_id: u64,
    blocks: u64,
    dirty: Bitmap,
    /// The number of the unit that is looked at next.
    number: u64,
    /// The first that is not valid.
    end: Option<u64>,
    thawing: bool,
    done: bool,
    damaged: bool,
}

/// A freeze that did not come to its end, to be gone on with: [`Shadow::resume`].
///
/// [`Shadow::resume`]: super::Shadow::resume
#[derive(Debug)]
pub struct Recovered {
    pub(super) freeze_id: u64,
    pub(super) next_unit: u64,
    pub(super) dirty: Bitmap,
    pub(super) dirty_blocks: u64,
    pub(super) thawing: bool,
}

impl Recovered {
    /// The last valid unit. It may be in the page cache alone, because its write had not ended or
    /// had failed when the process did. So write it again, durably, before [`Shadow::resume`].
    ///
    /// [`Shadow::resume`]: super::Shadow::resume
    pub fn last_unit(&self) -> u64 {
        self.next_unit - 1
    }

    /// What of the shadow is not in the image, in bytes.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_blocks * BLOCK_BYTES
    }

    /// The image was no longer held: merging had begun.
    pub fn is_thawing(&self) -> bool {
        self.thawing
    }
}

/// What a map file amounts to.
#[derive(Debug)]
pub enum Replayed {
    /// The shadow is needed.
    Unfinished(Recovered),
    /// All was merged; the files only have to be removed.
    Done,
    /// Valid units follow one that is not, whose word is lost; or one tells of blocks that the disk
    /// does not have.
    Damaged {
        /// Which unit.
        unit: u64,
    },
}

impl Replay {
    /// Begins behind the header.
    ///
    /// # Errors
    /// There is no memory for a bit for each block.
    pub fn new(header: &Header) -> Result<Self, ShadowError> {
        let blocks = header.image_bytes.div_ceil(BLOCK_BYTES);
        let no_memory = ShadowError::NoMemory { bytes: blocks / 8 };
        Ok(Self {
            freeze_id: header.freeze_id,
            blocks,
            dirty: Bitmap::new(blocks).ok_or(no_memory)?,
            number: 1,
            end: None,
            thawing: false,
            done: false,
            damaged: false,
        })
    }

    /// Takes the next unit of the file.
    pub fn unit(&mut self, unit: &[u8; UNIT_BYTES]) {
        let number = self.number;
        self.number += 1;
        let Some((found, kind, ranges)) = decode_unit(unit, self.freeze_id) else {
            self.end.get_or_insert(number);
            return;
        };
        if self.end.is_some() || found != number {
            // A unit is begun only after the one before it is stable.
            self.end.get_or_insert(number);
            self.damaged |= found == number;
            return;
        }
        match kind {
            Kind::Thawing => self.thawing = true,
            Kind::Done => self.done = true,
            Kind::Dirtied | Kind::Merged => {
                for blocks in ranges {
                    if blocks.end > self.blocks {
                        // Not of this disk; to leave it out could be to lose a write.
                        self.end.get_or_insert(number);
                        self.damaged = true;
                    } else if kind == Kind::Dirtied {
                        self.dirty.set(blocks);
                    } else {
                        self.dirty.clear(blocks);
                    }
                }
            }
        }
    }

    /// The file has ended.
    pub fn finish(self) -> Replayed {
        let next_unit = self.end.unwrap_or(self.number);
        if self.damaged {
            return Replayed::Damaged { unit: next_unit };
        }
        if self.done {
            return Replayed::Done;
        }
        let all = Blocks {
            first: 0,
            end: self.blocks,
        };
        Replayed::Unfinished(Recovered {
            freeze_id: self.freeze_id,
            next_unit,
            dirty_blocks: self.dirty.count(all),
            dirty: self.dirty,
            thawing: self.thawing,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::encode_unit;
    use super::*;

    const ID: u64 = 77;

    fn replay(units: &[[u8; UNIT_BYTES]]) -> Replayed {
        let mut replay = Replay::new(&Header {
            freeze_id: ID,
            image_bytes: 100 * 4096,
            base_bytes: 0,
            path: Vec::new(),
        })
        .unwrap();
        for unit in units {
            replay.unit(unit);
        }
        replay.finish()
    }

    fn unit(number: u64, kind: Kind, ranges: &[(u64, u64)]) -> [u8; UNIT_BYTES] {
        let mut unit = [0; UNIT_BYTES];
        let ranges = ranges.iter().map(|&(first, end)| Blocks { first, end });
        encode_unit(&mut unit, kind, ID, number, ranges);
        unit
    }

    fn unfinished(replayed: Replayed) -> Recovered {
        match replayed {
            Replayed::Unfinished(recovered) => recovered,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_longest_valid_row_counts() {
        let dirtied = unit(1, Kind::Dirtied, &[(0, 10), (20, 21)]);
        let merged = unit(2, Kind::Merged, &[(2, 4)]);
        let mut torn = unit(3, Kind::Dirtied, &[(50, 60)]);
        torn[300] = 1;
        let found = unfinished(replay(&[dirtied, merged, torn, [0; 512]]));
        assert_eq!((found.dirty_blocks, found.next_unit), (9, 3));
        assert_eq!(found.dirty_bytes(), 9 * 4096);
        assert!(found.dirty.get(20) && !found.dirty.get(2) && !found.dirty.get(50));
        assert!(!found.thawing);
    }

    #[test]
    fn a_hole_in_the_row_is_damage() {
        let units = [
            unit(1, Kind::Dirtied, &[(0, 10)]),
            [0; 512],
            unit(3, Kind::Dirtied, &[(50, 60)]),
        ];
        assert!(matches!(replay(&units), Replayed::Damaged { unit: 2 }));
    }

    /// To leave them out would be to lose what was written there.
    #[test]
    fn blocks_behind_the_end_of_the_disk_are_damage() {
        let inside = unit(1, Kind::Dirtied, &[(98, 100)]);
        for kind in [Kind::Dirtied, Kind::Merged] {
            let beyond = unit(2, kind, &[(0, 1), (99, 101)]);
            let units = [inside, beyond, unit(3, Kind::Done, &[])];
            for count in [2, 3] {
                let replayed = replay(&units[..count]);
                let is_damaged = matches!(replayed, Replayed::Damaged { unit: 2 });
                assert!(is_damaged, "{replayed:?}");
            }
        }
    }

    #[test]
    fn phases_are_remembered() {
        let thawing = unit(2, Kind::Thawing, &[]);
        let first = unit(1, Kind::Dirtied, &[(99, 100)]);
        let found = unfinished(replay(&[first, thawing]));
        assert!(found.is_thawing());
        assert_eq!(found.dirty_blocks, 1);
        let done = unit(3, Kind::Done, &[]);
        assert!(matches!(replay(&[first, thawing, done]), Replayed::Done));
        let found = unfinished(replay(&[]));
        assert_eq!((found.dirty_blocks, found.next_unit), (0, 1));
    }
}
