//! The volume's own work: which pages are written and read ahead, and what becomes of them.
#![forbid(unsafe_code)]

use super::pages::Writable;
use super::request::{DiskError, Operation};
use super::slot::{Advance, Transfer, error_at};
use super::task::{self, MOST_PAGES, Task, Work};
use super::write_behind::{Failure, WriteBehind};
use super::{LEAST_PAGES, LastTry, PAGE_BYTES, Volume, operation, page_part};
use crate::device::{Completion, DeviceOp, Memory, OpId, OpKind, Part};

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    /// Has the longest dirty page and its neighbours written, if that is worth it now. Whether
    /// there is a new task.
    pub(super) fn plan_writing(&mut self) -> bool {
        let Some(first) = self
            .pages
            .oldest_dirty()
            .filter(|_| !self.free_tasks.is_empty())
        else {
            return false;
        };
        let short = self.pages.available() < self.pages.total() / 8;
        let last_try = self.last_try == LastTry::Writing;
        let due = self.flushes.is_writing() && self.pages.old_pages() > 0
            || last_try
            || !self.blocked.is_empty()
            || short
            || self.write_behind.is_worth_writing(self.pages.dirty_bytes());
        if !due || !last_try && !WriteBehind::may_write(self.pages.failed_pages()) {
            return false;
        }
        // Pages whose task waits for its turn are dirty still: those are left to it.
        let first = if self.is_planned(first) {
            self.pages.dirty().find(|&page| !self.is_planned(page))
        } else {
            Some(first)
        };
        let Some(oldest) = first else { return false };
        let (mut first, mut end) = (oldest, oldest + 1);
        let most = MOST_PAGES as u64;
        if !self.pages.is_alone(oldest) {
            let joins = |page| self.pages.is_dirty_in_company(page) && !self.is_planned(page);
            while end - first < most && joins(end) {
                end += 1;
            }
            while end - first < most && first > 0 && joins(first - 1) {
                first -= 1;
            }
        }
        self.add_task(Work::Write(None), first, end - first)
    }

    /// Whether nothing dirty is left but what the device has refused.
    pub(super) fn is_all_tried(&self) -> bool {
        let writes = |task: &Task<B>| matches!(task.work, Work::Write(_) | Work::Complete(_));
        self.pages.oldest_dirty().is_none() && !self.tasks.iter().any(writes)
    }

    /// Whether a task has this page.
    fn is_planned(&self, page: u64) -> bool {
        self.tasks.iter().any(|task| {
            task.work != Work::Nothing && (task.first..task.first + task.count).contains(&page)
        })
    }

    /// Has something read ahead that a reader will want. Whether there is a new task.
    pub(super) fn plan_filling(&mut self) -> bool {
        if self.pages.take_wasted() > 0 {
            self.read_ahead.wasted();
        }
        let page_bytes = PAGE_BYTES as u64;
        while let Some((reader, start, end)) = self.read_ahead.wanted(self.disk_bytes) {
            let (mut first, last) = (start / page_bytes, end.div_ceil(page_bytes));
            while first < last && self.pages.holds(first) {
                first += 1;
            }
            let absent = (first..last).take_while(|&page| !self.pages.holds(page));
            let count = absent.take(MOST_PAGES).count() as u64;
            if count == 0 {
                self.read_ahead.filled(reader, last * page_bytes);
                continue;
            }
            let reserve = LEAST_PAGES as u64 / 4;
            if self.free_tasks.is_empty() || (self.pages.available() as u64) < count + reserve {
                return false;
            }
            self.read_ahead.filled(reader, (first + count) * page_bytes);
            // Where somebody is at work already, reading ahead is too late.
            if self.order.conflicts(task::extent(first, count)) {
                continue;
            }
            return self.add_task(Work::Fill, first, count);
        }
        false
    }

    fn add_task(&mut self, work: Work, first: u64, count: u64) -> bool {
        let Some(index) = self.free_tasks.pop() else {
            return false;
        };
        if let Some(task) = task_mut(&mut self.tasks, self.slots.len(), index) {
            task.work = work;
            task.first = first;
            task.count = count;
        }
        if self.order.admit_in_front(index, task::extent(first, count)) {
            self.work.push_back(index);
        }
        true
    }

    /// The next operation of a task whose turn has come.
    pub(super) fn next_work(&mut self) -> Option<DeviceOp<B>> {
        let mut waiting = 0;
        while waiting < self.work.len() {
            let index = self.work.pop_front()?;
            if let Some(op) = self.send_task(index) {
                return Some(op);
            }
            // Still there: it waits for a page.
            waiting += usize::from(self.work.back() == Some(&index));
        }
        None
    }

    /// A task's operation; `None` when it has nothing more to do, or has to wait for a page.
    fn send_task(&mut self, index: u32) -> Option<DeviceOp<B>> {
        let (disk_bytes, unit) = (self.disk_bytes, self.block_bytes);
        let task = task_mut(&mut self.tasks, self.slots.len(), index)?;
        let mut list = std::mem::take(&mut task.list);
        list.reserve_exact(MOST_PAGES.saturating_sub(list.len()));
        if let Some(cut) = task.cut.take() {
            let (work, first, count) = (task.work, task.first, task.count);
            self.undo(work, &mut list);
            self.pages.cut_pages(first, count, cut);
        }
        let task = task_mut(&mut self.tasks, self.slots.len(), index)?;
        if list.is_empty() {
            match task.work {
                Work::Nothing => {}
                Work::Fill => {
                    let (start, end) = page_range(task.first, task.count, disk_bytes);
                    task.transfer = Transfer::new(start, end);
                    // The disk may have become shorter.
                    let count = (end - start).div_ceil(PAGE_BYTES as u64);
                    let pages = (0..count).map_while(|_| self.pages.take());
                    list.extend(pages.map(page_part));
                    // Requests may have taken pages meanwhile.
                    let held = list.len() as u64 * PAGE_BYTES as u64;
                    task.transfer.len = task.transfer.len.min(held);
                }
                Work::Write(_) | Work::Complete(_) => {
                    match self
                        .pages
                        .writable(task.first, task.count, unit, disk_bytes)
                    {
                        Writable::Nothing => {}
                        Writable::Run(run) => {
                            task.work = Work::Write(Some(run));
                            task.transfer = Transfer::new(run.start, run.end);
                            task.suspect = false;
                            let part = |buffer| list.push(page_part(buffer));
                            self.pages.send(run, part);
                        }
                        Writable::Incomplete(page) => {
                            let (start, end) = page_range(page, 1, disk_bytes);
                            let Some(buffer) = self.pages.take() else {
                                task.list = list;
                                self.work.push_back(index);
                                return None;
                            };
                            list.push(page_part(buffer));
                            task.work = Work::Complete(page);
                            task.transfer = Transfer::new(start, end);
                        }
                    }
                }
            }
        }
        if list.is_empty() {
            task.list = list;
            self.end_task(index);
            self.run();
            return None;
        }
        let kind = match task.work {
            Work::Write(_) => OpKind::Write { durable: false },
            _ => OpKind::Read,
        };
        let start = match task.work {
            // The first page is written from its first dirty sector on.
            Work::Write(Some(run)) => usize::try_from(run.start % PAGE_BYTES as u64).unwrap_or(0),
            _ => 0,
        };
        let mut op = operation(OpId(index), kind, &task.transfer, Memory::Parts(list));
        op.memory_start += start;
        Some(op)
    }

    pub(super) fn task_came_back(&mut self, index: u32, done: Completion<B>) {
        let unit = self.block_bytes;
        let Some(task) = task_mut(&mut self.tasks, self.slots.len(), index) else {
            return;
        };
        if let Memory::Parts(list) = done.memory {
            task.list = list;
        }
        let kind = match task.work {
            Work::Write(_) => OpKind::Write { durable: false },
            _ => OpKind::Read,
        };
        let advance = task.transfer.advance(kind, unit, done.result);
        match advance {
            // With another end of the disk it is begun anew.
            Advance::Later if task.cut.is_none() => return self.rest(index),
            Advance::Again | Advance::Later => return self.try_again(index),
            Advance::Failed(_) if task.cut.is_some() => return self.try_again(index),
            Advance::Failed(_) | Advance::Finished => {}
        }
        let mut list = std::mem::take(&mut task.list);
        let failed = match advance {
            Advance::Failed(cause) => Some(error_at(Operation::Write, &task.transfer, cause)),
            _ => None,
        };
        let (work, first, transfer) = (task.work, task.first, task.transfer);
        let suspect = task.suspect;
        match work {
            Work::Nothing => {}
            Work::Fill => {
                let good = failed.map_or(transfer.len, |_| transfer.done);
                self.filled(first, good, &mut list);
                if failed.is_some() {
                    let (start, len) = (transfer.start, transfer.len);
                    self.read_ahead.failed(start, start + len);
                }
            }
            Work::Complete(page) => {
                for mut part in list.drain(..) {
                    if failed.is_none() {
                        let len = usize::try_from(transfer.len).unwrap_or(PAGE_BYTES);
                        let data = part.buffer.as_mut().get(..len).unwrap_or_default();
                        self.pages.complete(page, data);
                    }
                    self.pages.give(part.buffer);
                }
                if let Some(error) = failed {
                    self.pages.not_complete(page, self.now);
                    self.refused(page, error);
                }
            }
            Work::Write(run) => {
                let Some(run) = run else { return };
                let number = run.start / PAGE_BYTES as u64;
                let pages = list.len() as u64;
                for (part, number) in list.drain(..).zip(number..) {
                    self.pages.came_back(number, part.buffer);
                }
                let bytes = self.pages.dirty_bytes();
                if suspect && failed.is_none() {
                    self.pages.write_again(run);
                } else if let Some(error) = failed {
                    let alone = pages == 1;
                    self.pages.not_written(run, self.now);
                    if alone {
                        self.refused(number, error);
                    }
                } else {
                    if self.pages.refused_since(number).is_some() {
                        self.write_behind.recovered();
                    }
                    if let Some(since) = self.pages.written(run) {
                        self.flushes
                            .unsynced(since, bytes - self.pages.dirty_bytes());
                    }
                    if pages > 1 {
                        self.stats.merged_writes += 1;
                        self.stats.writes_spared += pages - 1;
                    }
                }
            }
        }
        let Some(task) = task_mut(&mut self.tasks, self.slots.len(), index) else {
            return;
        };
        task.list = list;
        let (first, count) = (task.first, task.count);
        if let Some(cut) = task.cut.take() {
            self.pages.cut_pages(first, count, cut);
        }
        let left = self
            .pages
            .writable(first, count, self.block_bytes, self.disk_bytes);
        if work != Work::Fill && failed.is_none() && left != Writable::Nothing {
            self.work.push_front(index);
        } else {
            self.end_task(index);
        }
    }

    /// Takes in what was read ahead: the first `good` bytes of it.
    fn filled(&mut self, first: u64, good: u64, list: &mut Vec<Part<B>>) {
        self.stats.read_ahead_bytes += good;
        let mut left = usize::try_from(good).unwrap_or(0);
        for (part, page) in list.drain(..).zip(first..) {
            let len = left.min(PAGE_BYTES);
            left -= len;
            self.pages.fill(page, part.buffer, len);
        }
    }

    /// The device has refused a page of acknowledged data.
    fn refused(&mut self, page: u64, error: DiskError) {
        self.stats.retries += 1;
        let since = self.pages.refused_since(page).unwrap_or(self.now);
        if self.write_behind.failed(self.now, since) == Failure::GiveUp {
            self.latch(error);
        }
    }

    fn end_task(&mut self, index: u32) {
        if let Some(task) = task_mut(&mut self.tasks, self.slots.len(), index) {
            task.work = Work::Nothing;
        }
        self.free_tasks.push(index);
        let ready = &mut self.ready;
        self.order.finish(index, |freed| ready.push_back(freed));
    }
}

/// The task that an operation's number means.
fn task_mut<B>(tasks: &mut [Task<B>], slots: usize, index: u32) -> Option<&mut Task<B>> {
    tasks.get_mut((index as usize).checked_sub(slots)?)
}

/// The bytes of pages, as far as the disk has them.
fn page_range(first: u64, count: u64, disk_bytes: u64) -> (u64, u64) {
    let page_bytes = PAGE_BYTES as u64;
    let start = first * page_bytes;
    (
        start,
        ((first + count) * page_bytes).min(disk_bytes.max(start)),
    )
}
