//! Dirty pages on their way to the device: which are written next, as what, and what becomes of them.
#![forbid(unsafe_code)]

use std::time::Duration;

use super::super::list::List;
use super::sectors::{byte_of, pieces, sectors_of};
use super::{PAGE, Pages, Place};
use crate::SECTOR_BYTES;
use crate::volume::earlier;

/// What a range of dirty pages would be written as: one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volume) struct Run {
    /// In bytes on the volume.
    pub(in crate::volume) start: u64,
    pub(in crate::volume) end: u64,
}

/// What can be written of a range of pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volume) enum Writable {
    Nothing,
    Run(Run),
    /// A block of this page is dirty in part: the rest of it has to be read first.
    Incomplete(u64),
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pages<B> {
    /// The page that has been dirty longest, and is neither away nor refused.
    pub(in crate::volume) fn oldest_dirty(&self) -> Option<u64> {
        Some(self.page(self.dirty.first()?)?.number)
    }

    /// The dirty pages, longest dirty first.
    pub(in crate::volume) fn dirty(&self) -> impl Iterator<Item = u64> {
        std::iter::successors(self.dirty.first(), |&index| List::after(index, &self.links))
            .filter_map(|index| Some(self.page(index)?.number))
    }

    /// Since when the longest dirty page has been so, whatever became of it.
    pub(in crate::volume) fn oldest_dirtied(&self) -> Option<Duration> {
        let first = |list: &List| Some(self.page(list.first()?)?.dirtied);
        earlier(first(&self.dirty), first(&self.failed))
    }

    /// Whether the page can be written together with its neighbours.
    pub(in crate::volume) fn is_dirty_in_company(&self, number: u64) -> bool {
        let page = self.find(number).and_then(|index| self.page(index));
        page.is_some_and(|page| page.place == Place::Dirty && !page.alone)
    }

    pub(in crate::volume) fn is_alone(&self, number: u64) -> bool {
        let page = self.find(number).and_then(|index| self.page(index));
        page.is_some_and(|page| page.alone)
    }

    /// Since when the device has refused the page, if it has.
    pub(in crate::volume) fn refused_since(&self, number: u64) -> Option<Duration> {
        self.page(self.find(number)?)?.refused
    }

    /// What can be written first of `count` pages from `first` on, on a device with blocks of
    /// `block_bytes` that ends at `device_bytes`.
    pub(in crate::volume) fn writable(
        &self,
        first: u64,
        count: u64,
        block_bytes: u64,
        device_bytes: u64,
    ) -> Writable {
        let mut run: Option<Run> = None;
        for number in first..first + count {
            let page = self.find(number).and_then(|index| self.page(index));
            let Some(page) = page.filter(|page| page.place == Place::Dirty) else {
                if run.is_some() {
                    break;
                }
                continue;
            };
            let base = number * PAGE;
            let here = sectors_of(number, device_bytes);
            if block_bytes >= PAGE {
                if page.valid & here != here {
                    match run {
                        Some(_) => break,
                        None => return Writable::Incomplete(number),
                    }
                }
                let end = (base + PAGE).min(device_bytes.max(base + SECTOR_BYTES));
                run = Some(Run {
                    start: run.map_or(base, |run| run.start),
                    end,
                });
                continue;
            }
            // Sectors that are valid without a gap, from the first dirty one to the last.
            let from = match run {
                Some(run) if run.end == base && page.valid & 1 != 0 => 0,
                Some(_) => break,
                None => page.dirty.trailing_zeros(),
            };
            let solid = (page.valid >> from).trailing_ones();
            let last = (page.dirty & byte_of(from, from + solid)).checked_ilog2();
            let Some(last) = last else { break };
            let start = base + u64::from(from) * SECTOR_BYTES;
            let end = base + u64::from(last + 1) * SECTOR_BYTES;
            run = Some(Run {
                start: run.map_or(start, |run| run.start),
                end,
            });
            if end < base + PAGE {
                break;
            }
        }
        run.map_or(Writable::Nothing, Writable::Run)
    }

    /// Takes the buffers of a run's pages out, to be written; they come back with
    /// [`Self::came_back`].
    pub(in crate::volume) fn send(&mut self, run: Run, mut each: impl FnMut(B)) {
        for piece in pieces(run.start, run.end) {
            let Some(index) = self.find(piece.number) else {
                continue;
            };
            self.place(index, Place::Away);
            if let Some(buffer) = self.page_mut(index).and_then(|page| page.buffer.take()) {
                each(buffer);
            }
        }
    }

    /// The next buffer of a run comes back: that of page `number`.
    pub(in crate::volume) fn came_back(&mut self, number: u64, buffer: B) {
        let page = self.find(number).and_then(|index| self.page_mut(index));
        if let Some(page) = page.filter(|page| page.buffer.is_none()) {
            page.buffer = Some(buffer);
        } else {
            debug_assert!(false, "a page came back that was not away");
            self.give(buffer);
        }
    }

    /// The run is written: its sectors are clean. Returns since when the oldest was dirty.
    pub(in crate::volume) fn written(&mut self, run: Run) -> Option<Duration> {
        let mut oldest: Option<Duration> = None;
        for piece in pieces(run.start, run.end) {
            let Some(index) = self.find(piece.number) else {
                continue;
            };
            let dirtied = self.page(index).map(|page| page.dirtied);
            oldest = earlier(oldest, dirtied);
            if let Some(page) = self.page_mut(index) {
                page.alone = false;
            }
            self.came_back_dirty(index);
            self.mark_written(index, piece.mask());
        }
        oldest
    }

    /// The run is to be written again: a part of it may be lost.
    pub(in crate::volume) fn write_again(&mut self, run: Run) {
        for piece in pieces(run.start, run.end) {
            if let Some(index) = self.find(piece.number) {
                self.came_back_dirty(index);
            }
        }
    }

    /// The run was not written: its pages are to be tried again, each alone. A page that was alone
    /// already goes to the failed ones.
    pub(in crate::volume) fn not_written(&mut self, run: Run, now: Duration) {
        let single = run.end - run.start <= PAGE && run.start / PAGE == (run.end - 1) / PAGE;
        for piece in pieces(run.start, run.end) {
            let Some(index) = self.find(piece.number) else {
                continue;
            };
            if let Some(page) = self.page_mut(index) {
                page.alone = true;
            }
            if single {
                if let Some(page) = self.page_mut(index) {
                    page.refused.get_or_insert(now);
                }
                self.place(index, Place::Failed);
            } else {
                self.came_back_dirty(index);
            }
        }
    }

    /// The page that cannot be made complete, as the device does not give the rest of it.
    pub(in crate::volume) fn not_complete(&mut self, number: u64, now: Duration) {
        if let Some(index) = self.find(number) {
            if let Some(page) = self.page_mut(index) {
                page.alone = true;
                page.refused.get_or_insert(now);
            }
            self.place(index, Place::Failed);
        }
    }

    /// Refused pages are tried again, after all others: those may be written without trouble.
    pub(in crate::volume) fn try_failed_again(&mut self) {
        while let Some(index) = self.failed.first() {
            self.place(index, Place::Dirty);
        }
    }

    /// The same, and from now on as if they had not been refused before.
    pub(in crate::volume) fn forgive(&mut self) {
        for page in &mut self.table {
            page.refused = None;
        }
        self.try_failed_again();
    }

    /// Puts a page that was given to the device back among the dirty ones: in front, as it is older
    /// than all that became dirty meanwhile.
    fn came_back_dirty(&mut self, index: u32) {
        self.place(index, Place::Free);
        self.dirty.push_front(index, &mut self.links);
        if let Some(page) = self.page_mut(index) {
            page.place = Place::Dirty;
        }
    }
}
