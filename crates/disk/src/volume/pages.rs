//! The cache's memory: which sectors of which pages are here, and which of them the device lacks.
//!
//! A page is eight sectors. Each is valid or not; dirty (acknowledged, but not yet given to the
//! device) or not; and written (given to the device, but no sync has covered it yet) or not. What
//! is dirty or written is valid, and its page is held: should the sync fail, the device may have
//! lost it, and this is the only copy. Pages that are with the device for writing are in the table
//! without their buffer; whoever touches data has made sure by the order of requests that it does
//! not meet one.
//!
//! Deliberately not here: when to write, and what a failed write means (`write_behind.rs`), and
//! what to read before it is asked for (`read_ahead.rs`).
//!
//! `sectors.rs` has ranges as pages and sectors, `writing.rs` the way of dirty pages to the device.
#![forbid(unsafe_code)]

mod sectors;
mod writing;

use std::time::Duration;

use super::list::{Links, List, NONE};
use crate::SECTOR_BYTES;
use sectors::{Piece, byte_mask, mask, pieces};
pub(super) use writing::{Run, Writable};

/// Bytes of a page: the cache's unit, and the size of the buffers a volume is made with.
pub const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;
const SECTOR: usize = 512;
/// Every sector of a page.
const ALL: u8 = 0xFF;

/// One page's place.
#[derive(Debug)]
struct Page<B> {
    /// Its first byte divided by the page size.
    number: u64,
    /// `None`: free, or with the device.
    buffer: Option<B>,
    /// A bit for each sector.
    valid: u8,
    dirty: u8,
    /// Means something only while no sync has covered `written_in`.
    written: u8,
    /// The sync that will cover what is written.
    written_in: u64,
    place: Place,
    /// Read ahead of its reader, who has not come yet.
    unread: bool,
    /// A write of it together with others has failed.
    alone: bool,
    /// And so has one of it alone: since then.
    refused: Option<Duration>,
    /// The next page with the same hash.
    chain: u32,
    /// When it became dirty, and in which epoch.
    dirtied: Duration,
    epoch: u64,
}

/// The list that a page is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Free,
    /// Can be given up at any time.
    Clean,
    Dirty,
    /// Dirty, and the device refused it.
    Failed,
    /// Nothing is dirty, but something is written and not covered by a sync.
    Written,
    /// With the device for writing, without its buffer.
    Away,
}

/// All pages of a volume. Memory for them is set aside at start, and is not touched before it is
/// needed: a volume that nobody uses costs next to nothing.
#[derive(Debug)]
pub(super) struct Pages<B> {
    /// Most pages.
    total: usize,
    /// Those places that ever held a page.
    table: Vec<Page<B>>,
    links: Vec<Links>,
    /// By hash, the first page of a chain, counted from 1; 0 where there is none.
    buckets: Vec<u32>,
    hash_shift: u32,
    /// Places without a page.
    free: Vec<u32>,
    /// Buffers that were never used,
    fresh: Fresh<B>,
    /// and others that hold nothing.
    spare: Vec<B>,
    /// Least recently used first.
    clean: List,
    /// Longest dirty first, nearly: see [`Self::came_back_dirty`].
    dirty: List,
    failed: List,
    /// Nearly in the order of the syncs that will cover them: a page that a durable write has cleaned
    /// the rest of comes later than it might, and is held for one sync more.
    written: List,
    in_use: usize,
    /// The sync that covers what is written from now on, and the last one that succeeded.
    next_sync: u64,
    last_sync: u64,
    dirty_sectors: u64,
    /// Pages with dirty sectors, wherever they are; and those of earlier epochs among them.
    dirty_count: usize,
    old_count: usize,
    epoch: u64,
    /// Pages given up before their reader came, since last asked,
    wasted: u32,
    /// and pages whose reader came.
    paid: u32,
    /// A mistake for the simulation to find.
    #[cfg(test)]
    pub(super) forget_dirty: bool,
}

/// Where buffers come from that were never used.
struct Fresh<B>(Box<dyn ExactSizeIterator<Item = B>>);

impl<B> std::fmt::Debug for Fresh<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Fresh").field(&self.0.len()).finish()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Pages<B> {
    /// An empty cache over these buffers, each of [`PAGE_BYTES`] at least.
    pub(super) fn new(buffers: impl ExactSizeIterator<Item = B> + 'static) -> Self {
        let total = buffers.len().min(NONE as usize - 1);
        let buckets = (total * 2).next_power_of_two().max(2);
        Self {
            total,
            table: Vec::with_capacity(total),
            links: Vec::with_capacity(total),
            buckets: vec![0; buckets],
            hash_shift: u64::BITS - buckets.trailing_zeros(),
            free: Vec::with_capacity(total),
            fresh: Fresh(Box::new(buffers)),
            spare: Vec::with_capacity(total),
            clean: List::EMPTY,
            dirty: List::EMPTY,
            failed: List::EMPTY,
            written: List::EMPTY,
            in_use: 0,
            next_sync: 1,
            last_sync: 0,
            dirty_sectors: 0,
            dirty_count: 0,
            old_count: 0,
            epoch: 0,
            wasted: 0,
            paid: 0,
            #[cfg(test)]
            forget_dirty: false,
        }
    }

    /// Pages in all, wherever their buffers are.
    pub(super) fn total(&self) -> usize {
        self.total
    }

    /// Buffers that [`Self::take`] would give now, one after the other.
    pub(super) fn available(&self) -> usize {
        self.spare.len() + self.fresh.0.len() + self.clean.len()
    }

    pub(super) fn dirty_bytes(&self) -> u64 {
        self.dirty_sectors * SECTOR_BYTES
    }

    /// Pages with dirty sectors, those with the device and those it refused included.
    pub(super) fn dirty_pages(&self) -> usize {
        self.dirty_count
    }

    /// Pages that cannot be given up.
    pub(super) fn held(&self) -> usize {
        self.in_use - self.clean.len()
    }

    /// A sync starts: what is written from now on is for the next one.
    pub(super) fn sync_starts(&mut self) {
        self.next_sync += 1;
    }

    /// The sync that started last has succeeded.
    pub(super) fn synced(&mut self) {
        self.last_sync = self.next_sync - 1;
        while let Some(index) = self.written.first() {
            let last_sync = self.last_sync;
            if self
                .page(index)
                .is_none_or(|page| page.written_in > last_sync)
            {
                break;
            }
            self.place(index, Place::Clean);
        }
    }

    /// A sync has failed: whatever no sync has covered is dirty again.
    pub(super) fn not_synced(&mut self) {
        for index in (0..).take(self.table.len()) {
            let lost = self.page(index).map_or(0, |page| self.uncovered(page));
            let Some(page) = self.page_mut(index).filter(|_| lost > 0) else {
                continue;
            };
            page.written = 0;
            let since = page.dirtied;
            self.mark_dirty(index, lost, since);
        }
    }

    /// The written sectors of a page that no sync has covered.
    fn uncovered(&self, page: &Page<B>) -> u8 {
        if page.written_in > self.last_sync {
            page.written
        } else {
            0
        }
    }

    /// Of these, the ones dirty since before the current epoch.
    pub(super) fn old_pages(&self) -> usize {
        self.old_count
    }

    /// Pages that the device refused.
    pub(super) fn failed_pages(&self) -> usize {
        self.failed.len()
    }

    /// Pages given up unread since the last call.
    pub(super) fn take_wasted(&mut self) -> u32 {
        std::mem::take(&mut self.wasted)
    }

    /// Pages that were read ahead and then read, since the last call.
    pub(super) fn take_paid(&mut self) -> u32 {
        std::mem::take(&mut self.paid)
    }

    /// Begins a new epoch: all that is dirty now is old.
    pub(super) fn begin_epoch(&mut self) {
        self.epoch += 1;
        self.old_count = self.dirty_count;
    }

    /// A buffer to use elsewhere, at the cost of the least recently used clean page.
    pub(super) fn take(&mut self) -> Option<B> {
        #[cfg(test)]
        if let Some(index) = self.dirty.first().filter(|_| self.forget_dirty) {
            self.mark_clean(index, ALL);
        }
        let spare = self.spare.pop();
        spare.or_else(|| self.fresh.0.next()).or_else(|| {
            let index = self.clean.first()?;
            self.wasted += u32::from(self.page(index)?.unread);
            self.forget(index);
            self.spare.pop()
        })
    }

    /// A buffer that was taken comes back empty.
    pub(super) fn give(&mut self, buffer: B) {
        // Never grows: the list was made for every buffer.
        self.spare.push(buffer);
    }

    /// Whether the page with this number is here.
    pub(super) fn holds(&self, number: u64) -> bool {
        self.in_use > 0 && self.find(number).is_some()
    }

    /// Pages that a write of this range would hold which nothing holds now: those that it would have
    /// to make, and those here that could be given up until then.
    pub(super) fn missing(&self, start: u64, end: u64) -> usize {
        let held = |number| {
            let page = self.find(number).and_then(|index| self.page(index));
            page.is_some_and(|page| page.place != Place::Clean)
        };
        pieces(start, end)
            .filter(|piece| self.in_use == 0 || !held(piece.number))
            .count()
    }

    /// Copies a range out, if every sector of it is here.
    pub(super) fn read(&mut self, start: u64, end: u64, data: &mut [u8]) -> bool {
        if self.in_use == 0 {
            return false;
        }
        let complete = pieces(start, end).all(|piece| {
            let page = self.find(piece.number).and_then(|index| self.page(index));
            page.is_some_and(|page| page.valid & piece.mask() == piece.mask())
        });
        if complete {
            for piece in pieces(start, end) {
                if let Some(index) = self.find(piece.number) {
                    self.copy_out(index, piece, piece.mask(), data);
                    self.used(index);
                }
            }
        }
        complete
    }

    /// Whether a part of the range is here.
    pub(super) fn overlaps(&self, start: u64, end: u64) -> bool {
        self.in_use > 0 && pieces(start, end).any(|piece| self.holds(piece.number))
    }

    /// Replaces what came from the device by what is here: it is as new or newer.
    pub(super) fn overlay(&mut self, start: u64, end: u64, data: &mut [u8]) {
        for piece in pieces(start, end) {
            if let Some(index) = self.find(piece.number) {
                let valid = self.page(index).map_or(0, |page| page.valid);
                self.copy_out(index, piece, valid & piece.mask(), data);
            }
        }
    }

    /// Takes acknowledged data in, to be written later. The caller has made sure that there are
    /// buffers for the [`Self::missing`] pages.
    pub(super) fn absorb(&mut self, start: u64, end: u64, data: &[u8], now: Duration) {
        // Those that are here first: so they cannot be given up for those that are not.
        for piece in pieces(start, end) {
            if let Some(index) = self.find(piece.number) {
                self.copy_in(index, piece, data);
                self.mark_dirty(index, piece.mask(), now);
            }
        }
        for piece in pieces(start, end) {
            if self.find(piece.number).is_some() {
                continue;
            }
            let Some(buffer) = self.take() else {
                debug_assert!(false, "no buffer for a page");
                continue;
            };
            if let Some(index) = self.insert(piece.number, buffer, 0) {
                self.copy_in(index, piece, data);
                self.mark_dirty(index, piece.mask(), now);
            }
        }
    }

    /// A write of this range has failed, and may have changed the device: what is here and not
    /// newer than the device would hide that. What no sync has covered is to be written again, over
    /// whatever the write has left.
    pub(super) fn distrust(&mut self, start: u64, end: u64) {
        if self.in_use == 0 {
            return;
        }
        // A trim may be of far more than the cache holds: then it is quicker to ask the cache.
        if (end - start) / PAGE > self.table.len() as u64 {
            for index in (0..).take(self.table.len()) {
                self.distrust_page(index, ALL);
            }
            return;
        }
        for piece in pieces(start, end) {
            if let Some(index) = self.find(piece.number) {
                self.distrust_page(index, piece.mask());
            }
        }
    }

    fn distrust_page(&mut self, index: u32, sectors: u8) {
        let Some(page) = self.page(index) else { return };
        if matches!(page.place, Place::Free | Place::Away) {
            return;
        }
        let (uncovered, since) = (self.uncovered(page) & sectors, page.dirtied);
        if uncovered > 0 {
            self.mark_dirty(index, uncovered, since);
        }
        let dirty = self.page(index).map_or(0, |page| page.dirty);
        self.invalidate(index, sectors & !dirty);
    }

    /// Forgets everything from `end` on: the device ends there now. What is with the device for
    /// writing has to be [cut](Self::cut_pages) when it comes back.
    pub(super) fn cut(&mut self, end: u64) {
        for index in (0..).take(self.table.len()) {
            self.cut_page(index, end);
        }
    }

    /// The same for `count` pages from `first` on.
    pub(super) fn cut_pages(&mut self, first: u64, count: u64, end: u64) {
        for number in first..first + count {
            if let Some(index) = self.find(number) {
                self.cut_page(index, end);
            }
        }
    }

    fn cut_page(&mut self, index: u32, end: u64) {
        let Some(page) = self.page(index) else { return };
        let (first, last) = (
            page.number.saturating_mul(PAGE),
            page.number.saturating_add(1),
        );
        if !matches!(page.place, Place::Free | Place::Away) && last.saturating_mul(PAGE) > end {
            self.invalidate(index, byte_mask(end.saturating_sub(first).min(PAGE), PAGE));
        }
    }

    /// The sectors that the device lacks, or may lose, of each page.
    pub(super) fn at_risk(&self) -> impl Iterator<Item = (u64, u64)> {
        self.table.iter().filter_map(|page| {
            let sectors = page.dirty | self.uncovered(page);
            let (first, last) = (sectors.trailing_zeros(), sectors.checked_ilog2()?);
            let lba = page.number.saturating_mul(PAGE / SECTOR_BYTES);
            Some((
                lba.saturating_add(first.into()),
                u64::from(last - first + 1),
            ))
        })
    }

    /// Data has reached the device by another way: what is here of that range is now the same, and
    /// need not be written.
    pub(super) fn update(&mut self, start: u64, end: u64, data: &[u8]) {
        if self.in_use == 0 {
            return;
        }
        for piece in pieces(start, end) {
            if let Some(index) = self.find(piece.number) {
                self.copy_in(index, piece, data);
                self.mark_clean(index, piece.mask());
            }
        }
    }

    /// Forgets a range that has been discarded.
    pub(super) fn discard(&mut self, start: u64, end: u64) {
        if self.in_use == 0 {
            return;
        }
        // The shorter way round: ranges may be far larger than the cache.
        if (end - start) / PAGE > self.table.len() as u64 {
            for index in (0..).take(self.table.len()) {
                let Some(page) = self.page(index).filter(|page| page.place != Place::Free) else {
                    continue;
                };
                let (first, last) = (page.number * PAGE, (page.number + 1) * PAGE);
                if first < end && start < last {
                    let (from, to) = (start.max(first) - first, end.min(last) - first);
                    self.invalidate(index, byte_mask(from, to));
                }
            }
            return;
        }
        for piece in pieces(start, end) {
            if let Some(index) = self.find(piece.number) {
                self.invalidate(index, piece.mask());
            }
        }
    }

    /// Takes in a page that was read from the device; `len` bytes of it are good. The page is not
    /// here yet.
    pub(super) fn fill(&mut self, number: u64, buffer: B, len: usize) {
        let valid = mask(0, (len / SECTOR).min(8));
        if valid == 0 || self.find(number).is_some() {
            debug_assert!(valid == 0, "filled a page that is here");
            return self.give(buffer);
        }
        if let Some(index) = self.insert(number, buffer, valid) {
            self.place(index, Place::Clean);
            if let Some(page) = self.page_mut(index) {
                page.unread = true;
            }
        }
    }

    /// Completes the page with what the device has; `data` is the page as it was read.
    pub(super) fn complete(&mut self, number: u64, data: &[u8]) {
        let Some(index) = self.find(number) else {
            return;
        };
        let Some(page) = self.page_mut(index) else {
            return;
        };
        let (missing, len) = (!page.valid, data.len() / SECTOR);
        if let Some(buffer) = &mut page.buffer {
            for sector in (0..len).filter(|sector| missing & 1 << sector != 0) {
                let range = sector * SECTOR..(sector + 1) * SECTOR;
                if let (Some(to), Some(from)) =
                    (buffer.as_mut().get_mut(range.clone()), data.get(range))
                {
                    to.copy_from_slice(from);
                }
            }
        }
        page.valid |= mask(0, len.min(8));
    }

    fn page(&self, index: u32) -> Option<&Page<B>> {
        self.table.get(index as usize)
    }

    fn page_mut(&mut self, index: u32) -> Option<&mut Page<B>> {
        self.table.get_mut(index as usize)
    }

    fn bucket(&self, number: u64) -> usize {
        // Fibonacci hashing: neighbours spread over all buckets.
        let hash = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.hash_shift;
        usize::try_from(hash).unwrap_or(0)
    }

    fn find(&self, number: u64) -> Option<u32> {
        let mut index = self.first(self.bucket(number));
        loop {
            let page = self.page(index)?;
            if page.number == number {
                return Some(index);
            }
            index = page.chain;
        }
    }

    /// The first page of a bucket, or [`NONE`].
    fn first(&self, bucket: usize) -> u32 {
        let first = self.buckets.get(bucket).copied().unwrap_or(0);
        first.wrapping_sub(1)
    }

    /// Makes a page the first of a bucket, or [`NONE`].
    fn set_first(&mut self, bucket: usize, index: u32) {
        if let Some(first) = self.buckets.get_mut(bucket) {
            *first = index.wrapping_add(1);
        }
    }

    /// A place without a page.
    fn free_place(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        let index = u32::try_from(self.table.len()).ok()?;
        if self.table.len() == self.total {
            return None;
        }
        self.table.push(Page::free());
        self.links.push(Links::ALONE);
        Some(index)
    }

    /// Makes a page of a buffer; it is in no list yet.
    fn insert(&mut self, number: u64, buffer: B, valid: u8) -> Option<u32> {
        let Some(index) = self.free_place() else {
            debug_assert!(false, "more pages than places");
            self.give(buffer);
            return None;
        };
        let bucket = self.bucket(number);
        let chain = self.first(bucket);
        self.set_first(bucket, index);
        if let Some(page) = self.page_mut(index) {
            *page = Page {
                number,
                buffer: Some(buffer),
                valid,
                chain,
                ..Page::free()
            };
        }
        self.in_use += 1;
        Some(index)
    }

    /// Gives a page up; its buffer becomes a spare one.
    fn forget(&mut self, index: u32) {
        self.place(index, Place::Free);
        let Some((number, after)) = self.page(index).map(|page| (page.number, page.chain)) else {
            return;
        };
        let bucket = self.bucket(number);
        let first = self.first(bucket);
        if first == index {
            self.set_first(bucket, after);
        } else {
            let mut before = first;
            while let Some(page) = self.page_mut(before) {
                if page.chain == index {
                    page.chain = after;
                    break;
                }
                before = page.chain;
            }
        }
        let page = self.page_mut(index);
        let page = page.map(|page| std::mem::replace(page, Page::free()));
        if let Some(buffer) = page.and_then(|page| page.buffer) {
            self.give(buffer);
        }
        self.free.push(index);
        self.in_use -= 1;
    }

    /// Moves a page to the end of the list of this place.
    fn place(&mut self, index: u32, place: Place) {
        let Some(page) = self.page_mut(index) else {
            return;
        };
        let before = std::mem::replace(&mut page.place, place);
        if let Some(list) = self.list(before) {
            list.0.remove(index, list.1);
        }
        if let Some(list) = self.list(place) {
            list.0.push_back(index, list.1);
        }
    }

    fn list(&mut self, place: Place) -> Option<(&mut List, &mut [Links])> {
        let list = match place {
            Place::Free | Place::Away => return None,
            Place::Clean => &mut self.clean,
            Place::Dirty => &mut self.dirty,
            Place::Failed => &mut self.failed,
            Place::Written => &mut self.written,
        };
        Some((list, &mut self.links))
    }

    /// Somebody has read a page. One that was read ahead has served its purpose, and is the first
    /// to go.
    fn used(&mut self, index: u32) {
        let Some(page) = self.page_mut(index) else {
            return;
        };
        if page.place != Place::Clean {
            return;
        }
        if std::mem::take(&mut page.unread) {
            self.paid += 1;
            return;
        }
        self.place(index, Place::Clean);
    }

    fn copy_out(&self, index: u32, piece: Piece, sectors: u8, data: &mut [u8]) {
        let Some(buffer) = self.page(index).and_then(|page| page.buffer.as_ref()) else {
            debug_assert!(sectors == 0, "read a page that is away");
            return;
        };
        let whole = sectors == piece.mask();
        let each = if whole { piece.len } else { SECTOR };
        for at in (0..piece.len).step_by(each.max(SECTOR)) {
            let start = piece.start + at;
            if !whole && sectors & 1 << (start / SECTOR) == 0 {
                continue;
            }
            let from = buffer.as_ref().get(start..start + each);
            let to = data.get_mut(piece.at + at..piece.at + at + each);
            if let (Some(from), Some(to)) = (from, to) {
                to.copy_from_slice(from);
            }
        }
    }

    fn copy_in(&mut self, index: u32, piece: Piece, data: &[u8]) {
        let Some(page) = self.page_mut(index) else {
            return;
        };
        let Some(buffer) = &mut page.buffer else {
            debug_assert!(false, "wrote to a page that is away");
            return;
        };
        let to = buffer
            .as_mut()
            .get_mut(piece.start..piece.start + piece.len);
        let from = data.get(piece.at..piece.at + piece.len);
        if let (Some(to), Some(from)) = (to, from) {
            to.copy_from_slice(from);
            page.valid |= piece.mask();
        }
    }

    fn mark_dirty(&mut self, index: u32, sectors: u8, now: Duration) {
        let epoch = self.epoch;
        let Some(page) = self.page_mut(index) else {
            return;
        };
        let added = (sectors & !page.dirty).count_ones();
        let was_clean = page.dirty == 0;
        page.dirty |= sectors;
        page.unread = false;
        if was_clean {
            page.dirtied = now;
            page.epoch = epoch;
            self.dirty_count += 1;
            self.place(index, Place::Dirty);
        }
        self.dirty_sectors += u64::from(added);
    }

    /// These sectors are with the device, until a sync covers them.
    fn mark_written(&mut self, index: u32, sectors: u8) {
        let (next_sync, last_sync) = (self.next_sync, self.last_sync);
        if let Some(page) = self.page_mut(index) {
            if page.written_in <= last_sync {
                page.written = 0;
            }
            page.written |= page.dirty & sectors;
            page.written_in = next_sync;
        }
        self.no_longer_dirty(index, sectors);
    }

    /// These sectors are on stable storage, or of no interest any more.
    fn mark_clean(&mut self, index: u32, sectors: u8) {
        if let Some(page) = self.page_mut(index) {
            page.written &= !sectors;
        }
        self.no_longer_dirty(index, sectors);
    }

    fn no_longer_dirty(&mut self, index: u32, sectors: u8) {
        let epoch = self.epoch;
        let Some(page) = self.page_mut(index) else {
            return;
        };
        let removed = (page.dirty & sectors).count_ones();
        page.dirty &= !sectors;
        if page.dirty != 0 {
            self.dirty_sectors -= u64::from(removed);
            return;
        }
        (page.alone, page.refused) = (false, None);
        let old = page.epoch != epoch;
        if removed > 0 {
            self.dirty_sectors -= u64::from(removed);
            self.dirty_count -= 1;
            self.old_count -= usize::from(old);
        }
        let Some(page) = self.page(index) else { return };
        let place = match self.uncovered(page) {
            0 => Place::Clean,
            _ => Place::Written,
        };
        if page.place != place {
            self.place(index, place);
        }
    }

    fn invalidate(&mut self, index: u32, sectors: u8) {
        self.mark_clean(index, sectors);
        if let Some(page) = self.page_mut(index) {
            page.valid &= !sectors;
            if page.valid == 0 {
                self.forget(index);
            }
        }
    }
}

impl<B> Page<B> {
    fn free() -> Self {
        Self {
            // No such page: the last byte of a volume is below 2^57.
            number: u64::MAX,
            buffer: None,
            valid: 0,
            dirty: 0,
            written: 0,
            written_in: 0,
            place: Place::Free,
            unread: false,
            alone: false,
            refused: None,
            chain: NONE,
            dirtied: Duration::ZERO,
            epoch: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clean page of the range was taken for room for the others of it, which then had none:
    /// their data was dropped.
    #[test]
    fn clean_pages_of_a_range_are_no_room_for_the_rest_of_it() {
        let mut pages = Pages::new(vec![vec![0; PAGE_BYTES]; 3].into_iter());
        for number in 0..3 {
            let buffer = pages.take().unwrap();
            pages.fill(number, buffer, PAGE_BYTES);
        }
        assert_eq!((pages.available(), pages.held()), (3, 0));
        assert_eq!(pages.missing(0, 3 * PAGE), 3);
        assert_eq!(pages.missing(2 * PAGE, 6 * PAGE), 4, "more than there are");
        pages.absorb(0, PAGE, &[1; PAGE_BYTES], Duration::ZERO);
        assert_eq!((pages.available(), pages.held()), (2, 1));
        assert_eq!(pages.missing(0, 3 * PAGE), 2);
    }
}
