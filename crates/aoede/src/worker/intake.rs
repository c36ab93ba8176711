//! One frame at the exports that it is for: what the targets make of it goes to the disks, to the
//! outbox, or nowhere.

use std::time::Duration;

use aoede_disk::{Buffer, Pool, RequestKind};
use aoede_target::{Action, Arrival, Exports, IgnoreReason, Outcome, Selection};
use aoede_wire::{Frame, MacAddr, SECTOR_BYTES};

use super::fair::{Fair, Name, SenderId};
use super::pending::{Pending, PendingTable};
use super::served::Served;
use super::{HEAD_BYTES, Response, WorkerStats, note_work};

/// Where frames of one seat go.
pub(super) struct Intake<'w> {
    pub(super) exports: &'w mut Exports,
    pub(super) disks: &'w mut [Option<Served>],
    /// Exports that may have something to do.
    pub(super) active: &'w mut Vec<usize>,
    pub(super) pool: &'w Pool,
    pub(super) table: &'w mut PendingTable,
    pub(super) fair: &'w mut Fair,
    pub(super) stats: &'w mut WorkerStats,
    /// Of the seat.
    pub(super) outbox: &'w mut Vec<Response>,
    pub(super) pending: &'w mut usize,
    /// Buffers that the seat's requests and responses may hold.
    pub(super) most: usize,
}

/// A frame whose turn it is.
pub(super) struct Asked<'f> {
    pub(super) arrival: Arrival,
    /// When it came from the ring.
    pub(super) came: Duration,
    pub(super) sender: SenderId,
    pub(super) frame: Frame<'f>,
    pub(super) selection: Selection,
}

impl Intake<'_> {
    /// Whether the seat may hold another buffer.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() + *self.pending < self.most
    }

    /// Whether an export can take another request.
    pub(super) fn is_full(&self, export: usize) -> bool {
        let disk = self.disks.get(export).and_then(Option::as_ref);
        disk.is_some_and(Served::is_full)
    }

    /// Counts a frame that an export does not get at all, and that must not wait either: one from a
    /// seat that it is not served on, or of an initiator that it does not know. Whether it is one.
    pub(super) fn refuses(&mut self, export: usize, seat: usize, source: MacAddr) -> bool {
        let disk = self.disks.get(export).and_then(Option::as_ref);
        let Some(target) = self.exports.get_mut(export) else {
            return false;
        };
        let reason = disk.and_then(|disk| disk.refuses(seat));
        let reason = reason.or_else(|| (!target.admits(source)).then_some(IgnoreReason::Masked));
        if let Some(reason) = reason {
            target.count_ignored(reason);
        }
        reason.is_some()
    }

    /// Lets every export that is meant answer a frame.
    pub(super) fn serve(&mut self, mut asked: Asked<'_>) {
        let seat = asked.arrival.seat;
        while let Some((export, target)) = self.exports.next(&mut asked.selection) {
            let Some(disk) = self.disks.get_mut(export).and_then(Option::as_mut) else {
                continue;
            };
            if let Some(reason) = disk.refuses(seat) {
                target.count_ignored(reason);
                continue;
            }
            let Some(mut buffer) = self.pool.take() else {
                self.stats.no_buffer += 1;
                break;
            };
            let mut filing = Filing {
                asked: &asked,
                export,
                disk,
                started: false,
                table: self.table,
                fair: self.fair,
                outbox: self.outbox,
                pending: self.pending,
            };
            let arrival = &asked.arrival;
            let out = buffer.with_head_mut(HEAD_BYTES);
            match target.handle_frame(arrival, &asked.frame, out) {
                Outcome::Hold(hold) => {
                    self.exports
                        .hold(export, hold, buffer.with_head(HEAD_BYTES));
                }
                Outcome::Reads(mut reads) => {
                    let mut first = Some(buffer);
                    while reads.left() > 0 {
                        let free = filing.outbox.len() + *filing.pending < self.most;
                        let another = || free.then(|| self.pool.take()).flatten();
                        let Some(mut buffer) = first.take().or_else(another) else {
                            self.stats.no_buffer += reads.left() as u64;
                            break;
                        };
                        if filing.disk.is_full() {
                            let left = reads.left() as u64;
                            target.count_ignored_times(IgnoreReason::Busy, left);
                            break;
                        }
                        let out = buffer.with_head_mut(HEAD_BYTES);
                        if let Some(outcome) = target.next_read(arrival, &mut reads, out) {
                            filing.take(outcome, buffer, target.is_write_cache_on());
                        }
                    }
                }
                outcome => filing.take(outcome, buffer, target.is_write_cache_on()),
            }
            if filing.started {
                note_work(disk, export, self.active);
            }
        }
    }
}

/// Where the outcomes of one frame at one export go.
struct Filing<'w, 'f> {
    asked: &'w Asked<'f>,
    export: usize,
    disk: &'w mut Served,
    /// A request went to the disk.
    started: bool,
    table: &'w mut PendingTable,
    fair: &'w mut Fair,
    outbox: &'w mut Vec<Response>,
    pending: &'w mut usize,
}

impl Filing<'_, '_> {
    /// Files what a target made of one request; `cache_on` is its write cache.
    fn take(&mut self, outcome: Outcome<'_>, mut buffer: Buffer, cache_on: bool) {
        match outcome {
            Outcome::Respond(len) => self.outbox.push(Response { buffer, len }),
            Outcome::Disk(admitted) => {
                let Asked {
                    arrival,
                    came,
                    sender,
                    frame,
                    ..
                } = *self.asked;
                let kind = request_kind(admitted.action, cache_on);
                let ticket = self.fair.begin(sender, self.export, data_bytes(kind));
                let asked = Pending {
                    request: admitted.request,
                    seat: arrival.seat,
                    work: kind.into(),
                    began: came,
                    ticket,
                    name: Name::new(frame.header.tag, frame.argument),
                };
                let started = fill(&mut buffer, admitted.data)
                    && self
                        .disk
                        .start(arrival.now, kind, buffer, asked, self.table);
                if !started {
                    self.fair.handle_done(ticket, self.export, None);
                }
                self.started |= started;
                *self.pending += usize::from(started);
            }
            // Counted by the target; the buffer goes back to the pool.
            _ => {}
        }
    }
}

/// What the volume is asked for. With the write cache on, or where the initiator permits it, a
/// change may be acknowledged early.
fn request_kind(action: Action, cache_on: bool) -> RequestKind {
    match action {
        Action::Read { lba, sectors } => RequestKind::Read { lba, sectors },
        Action::Write {
            lba,
            sectors,
            asynchronous,
        } => RequestKind::Write {
            lba,
            sectors,
            early: cache_on || asynchronous,
        },
        Action::Flush => RequestKind::Flush,
        Action::Trim { blocks } => RequestKind::Trim {
            blocks,
            early: cache_on,
        },
    }
}

/// Data that a request reads or writes.
fn data_bytes(kind: RequestKind) -> u64 {
    match kind {
        RequestKind::Read { sectors, .. } | RequestKind::Write { sectors, .. } => {
            u64::from(sectors) * SECTOR_BYTES as u64
        }
        RequestKind::Flush | RequestKind::Trim { .. } => 0,
    }
}

/// Copies a request's data into its buffer; whether it fits. The target admits no more than
/// `PortFacts::max_sectors`, which the buffers hold.
fn fill(buffer: &mut Buffer, data: &[u8]) -> bool {
    let room = buffer.data_mut().get_mut(..data.len());
    debug_assert!(room.is_some(), "{} bytes exceed a buffer", data.len());
    room.map(|room| room.copy_from_slice(data)).is_some()
}
