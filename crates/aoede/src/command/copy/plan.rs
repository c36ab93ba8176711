//! In which chunks a source is taken: pure.
//!
//! Chunks of data end at multiples of the request size, so that requests are aligned; holes are
//! taken in larger steps. Everything is in whole sectors, whatever the file system's blocks are.

use aoede_wire::SECTOR_BYTES;

/// Most bytes of one chunk of data: some thirty frames of 17 sectors.
pub(super) const REQUEST: usize = 256 << 10;
/// The same.
pub(super) const REQUEST_BYTES: u64 = REQUEST as u64;
/// Most bytes of a hole that are one chunk, so that the progress shows.
pub(super) const HOLE_BYTES: u64 = 64 << 20;

const SECTOR: u64 = SECTOR_BYTES as u64;

/// What is compared of an earlier run, before a copy goes on, at both of its ends.
const EDGE: u64 = 1 << 20;
/// The same, between them.
const PIECE: u64 = 64 << 10;
const PIECES: u64 = 7;

/// Where to look whether what was copied before byte `end`, a whole number of sectors, is still
/// there: from, and how many bytes.
pub(super) fn samples(end: u64) -> Vec<(u64, u64)> {
    let edge = end.min(EDGE);
    let mut samples = vec![(0, edge), (end - edge, edge)];
    if end > 2 * EDGE {
        let step = end / (PIECES + 1) / SECTOR * SECTOR;
        samples.extend((1..=PIECES).map(|piece| (piece * step, PIECE)));
    }
    samples
}

/// What a source has from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// Where it ends.
    pub(super) to: u64,
    /// Nothing was ever written there.
    pub(super) hole: bool,
}

/// A part of the source, from the end of the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) hole: bool,
}

/// Where the next chunk begins.
#[derive(Debug)]
pub(super) struct Plan {
    next: u64,
    end: u64,
    segment: Option<Segment>,
}

impl Plan {
    /// From `next` to `end`, both whole sectors.
    pub(super) fn new(next: u64, end: u64) -> Self {
        Self {
            next,
            end,
            segment: None,
        }
    }

    /// The next part; `None` at the end. `look` says what the source has from a place on; it is
    /// asked once for each segment.
    pub(super) fn next<E>(
        &mut self,
        look: impl FnOnce(u64) -> Result<Segment, E>,
    ) -> Result<Option<Part>, E> {
        let from = self.next;
        if from >= self.end {
            return Ok(None);
        }
        let segment = match self.segment.filter(|segment| segment.to > from) {
            Some(segment) => segment,
            None => self.in_sectors(from, look(from)?),
        };
        self.segment = Some(segment);
        let step = if segment.hole {
            from.saturating_add(HOLE_BYTES)
        } else {
            (from / REQUEST_BYTES + 1).saturating_mul(REQUEST_BYTES)
        };
        self.next = step.min(segment.to);
        Ok(Some(Part {
            from,
            to: self.next,
            hole: segment.hole,
        }))
    }

    /// Ends it here.
    pub(super) fn stop(&mut self) {
        self.end = self.next;
    }

    /// A sector with any data in it is data.
    fn in_sectors(&self, from: u64, segment: Segment) -> Segment {
        let to = segment.to.min(self.end);
        if to == self.end {
            return Segment { to, ..segment };
        }
        if segment.hole && to / SECTOR * SECTOR > from {
            let to = to / SECTOR * SECTOR;
            return Segment { to, hole: true };
        }
        let to = to.max(from + 1).next_multiple_of(SECTOR);
        let to = to.min(self.end);
        Segment { to, hole: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_the_edges_and_pieces_between() {
        const MIB: u64 = 1 << 20;
        assert_eq!(samples(512), [(0, 512), (0, 512)]);
        assert_eq!(samples(2 * MIB), [(0, MIB), (MIB, MIB)]);
        let end = 2 * MIB + 512;
        let found = samples(end);
        assert_eq!(found.len(), 9);
        assert_eq!(found[1], (MIB + 512, MIB));
        // An eighth of it is 262208 bytes, and that has 512 whole sectors.
        assert_eq!(found[2], (262_144, 65_536));
        assert_eq!(found[8], (7 * 262_144, 65_536));
        let all_fit = found.iter().all(|(from, bytes)| from + bytes <= end);
        assert!(all_fit);
        let large = samples(1 << 60);
        assert_eq!(large[8], (7 << 57, 65_536));
    }
    use proptest::prelude::*;
    use std::convert::Infallible;

    /// All parts of a source whose segments end at these places.
    fn parts(mut plan: Plan, segments: &[Segment]) -> Vec<Part> {
        let look = |from| {
            let found = segments.iter().find(|segment| segment.to > from);
            Ok::<_, Infallible>(*found.unwrap())
        };
        std::iter::from_fn(|| plan.next(look).unwrap()).collect()
    }

    fn part(from: u64, to: u64, hole: bool) -> Part {
        Part { from, to, hole }
    }

    fn segment(to: u64, hole: bool) -> Segment {
        Segment { to, hole }
    }

    #[test]
    fn data_ends_at_multiples_of_the_request_size_and_holes_are_taken_in_large_steps() {
        let segments = [
            segment(4096, true),
            segment(600 << 10, false),
            segment(100 << 20, true),
        ];
        assert_eq!(
            parts(Plan::new(0, 100 << 20), &segments),
            [
                part(0, 4096, true),
                part(4096, 256 << 10, false),
                part(256 << 10, 512 << 10, false),
                part(512 << 10, 600 << 10, false),
                part(600 << 10, (600 << 10) + (64 << 20), true),
                part((600 << 10) + (64 << 20), 100 << 20, true),
            ]
        );
    }

    #[test]
    fn a_sector_with_any_data_is_data() {
        let segments = [
            segment(700, true),
            segment(1100, false),
            segment(1200, true),
            segment(5000, false),
        ];
        assert_eq!(
            parts(Plan::new(0, 2560), &segments),
            [
                part(0, 512, true),
                part(512, 1024, false),
                part(1024, 1536, false),
                part(1536, 2560, false),
            ]
        );
    }

    #[test]
    fn it_begins_and_stops_in_the_middle() {
        let mut plan = Plan::new(1 << 20, 2 << 20);
        let look = |_| Ok::<_, Infallible>(segment(u64::MAX, false));
        let first = plan.next(look).unwrap().unwrap();
        assert_eq!((first.from, first.to), (1 << 20, (1 << 20) + (256 << 10)));
        plan.stop();
        assert_eq!(plan.next(look).unwrap(), None);
    }

    proptest! {
        #[test]
        fn parts_are_the_source_without_gap_in_whole_sectors(
            lens in proptest::collection::vec(1_u64..300_000, 1..30),
            from in 0_u64..100,
            beyond in any::<bool>(),
        ) {
            let mut to = 0;
            let mut segments: Vec<Segment> = Vec::new();
            for (index, len) in lens.iter().enumerate() {
                to += len;
                segments.push(segment(to, index % 2 == 0));
            }
            let end = to.next_multiple_of(512);
            segments.push(segment(if beyond { u64::MAX } else { end.max(to + 1) }, true));
            let from = (from * 512).min(end);
            let parts = parts(Plan::new(from, end), &segments);
            let mut at = from;
            for part in parts {
                prop_assert_eq!(part.from, at);
                at = part.to;
                prop_assert!(part.to > part.from && part.to % 512 == 0);
                // A hole has no data in it.
                if part.hole {
                    let mut begins = 0;
                    for segment in &segments {
                        let apart = segment.to <= part.from || begins >= part.to;
                        prop_assert!(segment.hole || apart);
                        begins = segment.to;
                    }
                } else {
                    prop_assert!(part.to - part.from <= 256 << 10);
                }
            }
            prop_assert_eq!(at, end);
        }
    }
}
