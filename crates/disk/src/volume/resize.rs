//! The disk has another size: what becomes of requests, pages and work that reach the moved end.
//!
//! What lies beyond a nearer end is gone, acknowledged or not, and nobody asks the device for it
//! any more. Operations that are with the device meanwhile may still reach it, or what a larger
//! disk has in its place later, so that nothing of them is kept.
#![forbid(unsafe_code)]

use super::Volume;
use super::list::NONE;
use super::pages::PAGE_BYTES;
use super::request::Cause;
use super::slot::{EndMoved, Sent, Stage, Step};
use super::task::Work;
use crate::device::Part;

impl<B: AsRef<[u8]> + AsMut<[u8]>> Volume<B> {
    /// The disk has another size now. What was beyond a nearer end is gone, acknowledged or not:
    /// requests for it that are not answered fail.
    pub fn set_size(&mut self, size_bytes: u64) {
        let before = std::mem::replace(&mut self.disk_bytes, size_bytes);
        if size_bytes == before {
            return;
        }
        let edge = size_bytes.min(before);
        if size_bytes < before {
            self.pages.cut(edge);
        }
        // A block that the disk had or has a part of is not to be transferred as before.
        let whole_blocks = edge - edge % self.block_bytes;
        for slot in &mut self.slots {
            if matches!(slot.stage, Stage::Free | Stage::Finished) || slot.step == Step::Flush {
                continue;
            }
            let transfer_end = slot.transfer.start + slot.transfer.len;
            let trim = matches!(slot.step, Step::Discard { .. });
            if slot.end > size_bytes {
                slot.end_moved = EndMoved::Gone;
            } else if transfer_end > whole_blocks && !trim && slot.end_moved == EndMoved::No {
                slot.end_moved = EndMoved::StartOver;
            }
        }
        for task in &mut self.tasks {
            let end = (task.first + task.count).saturating_mul(PAGE_BYTES as u64);
            if task.work != Work::Nothing && end > whole_blocks {
                task.cut = Some(task.cut.unwrap_or(edge).min(edge));
            }
        }
        self.run();
    }

    /// Whether a request is for what is gone. If so it has failed now.
    pub(super) fn is_gone(&mut self, index: u32) -> bool {
        let slot = self.slots.get(index as usize);
        let Some(slot) = slot.filter(|slot| slot.end_moved == EndMoved::Gone) else {
            return false;
        };
        let error = slot.error(Cause::EndOfFile);
        self.finish(index, Err(error));
        true
    }

    /// Whether a request that is about to be given to the device, or came back from it unfinished,
    /// cannot go on as it began. If so it has failed, or starts over.
    pub(super) fn takes_another_way(&mut self, index: u32) -> bool {
        let Some(slot) = self.slots.get_mut(index as usize) else {
            return false;
        };
        if slot.end_moved == EndMoved::No {
            return false;
        }
        if slot.next_member != NONE {
            // Each for itself.
            self.part_members(index);
            return true;
        }
        if self.is_gone(index) {
            return true;
        }
        self.give_list(index);
        if let Some(slot) = self.slots.get_mut(index as usize) {
            let step = match slot.step {
                Step::ReadBlocks => Step::Read,
                Step::ModifyRead | Step::ModifyWrite => Step::Write,
                step => step,
            };
            slot.end_moved = EndMoved::No;
            slot.stage = Stage::Waiting;
            slot.suspect = false;
            if slot.sent == Sent::Begun {
                slot.sent = Sent::Before;
            }
            slot.begin(step, slot.start, slot.end);
        }
        self.start(index);
        true
    }

    /// A task came back unfinished after the end had moved: its pages are as they were, as far as
    /// the disk has them.
    pub(super) fn undo(&mut self, work: Work, list: &mut Vec<Part<B>>) {
        if list.is_empty() {
            return;
        }
        if let Work::Write(Some(run)) = work {
            for (part, number) in list.drain(..).zip(run.start / PAGE_BYTES as u64..) {
                self.pages.came_back(number, part.buffer);
            }
            self.pages.write_again(run);
            return;
        }
        for part in list.drain(..) {
            self.pages.give(part.buffer);
        }
    }
}
