//! One export as the worker serves it: its disk, who may ask by which seat, and its end.

use std::time::Duration;

use aoede_disk::{Buffer, Completion, DeviceOp, DiskRequest, Engine, FileId, RequestKind, Volume};
use aoede_target::IgnoreReason;

use super::latencies::ExportLatencies;
use super::pending::{Pending, PendingTable};
use super::seat_set::SeatSet;
use super::shadowed::Shadowed;

/// Where and how an export is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serving {
    /// Seats whose frames it answers, and where it is announced.
    pub seats: SeatSet,
    /// Most requests that are with its volume at once: what the volume was made for.
    pub requests: u16,
}

/// What stands behind one export.
pub(super) struct Served {
    pub(super) volume: Volume<Buffer>,
    pub(super) file: FileId,
    /// An operation that the engine had no room for.
    held: Option<DeviceOp<Buffer>>,
    /// What stands between volume and engine if the image can be frozen.
    pub(super) shadow: Option<Box<Shadowed>>,
    pub(super) serving: Serving,
    closing: Option<Closing>,
    /// It is in the worker's list of those that may have something to do,
    pub(super) active: bool,
    /// and something was done or came in since that list was last tidied.
    pub(super) worked: bool,
    /// Made when the first request ends.
    pub(super) latencies: Option<Box<ExportLatencies>>,
}

/// How far the closing of an export is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closing {
    /// What has begun is finished.
    Requests,
    /// What was acknowledged is brought to stable storage, as far as the disk lets us.
    Flush,
    /// The shadow gets nothing more to do: it can go on from any point, as after a kill.
    Shadow,
}

impl Served {
    pub(super) fn new(file: FileId, volume: Volume<Buffer>, serving: Serving) -> Self {
        debug_assert!(usize::from(serving.requests) <= volume.capacity());
        Self {
            volume,
            file,
            held: None,
            shadow: None,
            serving,
            closing: None,
            active: false,
            worked: false,
            latencies: None,
        }
    }

    /// Why a frame that came in by this seat is not for this export, if so.
    pub(super) fn refuses(&self, seat: usize) -> Option<IgnoreReason> {
        if !self.serving.seats.contains(seat) {
            return Some(IgnoreReason::Interface);
        }
        self.closing.is_some().then_some(IgnoreReason::Closing)
    }

    /// Whether as many requests are with the volume as may be.
    pub(super) fn is_full(&self) -> bool {
        self.volume.outstanding() >= usize::from(self.serving.requests)
    }

    /// Hands a request to the volume; whether it took it.
    pub(super) fn start(
        &mut self,
        now: Duration,
        kind: RequestKind,
        buffer: Buffer,
        request: Pending,
        pending: &mut PendingTable,
    ) -> bool {
        // The table has room for every buffer of the pool, the volume for what was let in.
        let Ok(id) = pending.add(request) else {
            debug_assert!(false, "no place for a request");
            return false;
        };
        let request = DiskRequest { id, kind, buffer };
        if let Err(refused) = self.volume.handle_request(now, request) {
            debug_assert!(false, "the volume refused {:?}", refused.kind);
            pending.take(id);
            return false;
        }
        true
    }

    /// Does what the time has come for, and moves device operations from the volume to the engine.
    /// Returns whether there were any.
    pub(super) fn submit<E: Engine<Buffer>>(&mut self, now: Duration, engine: &mut E) -> bool {
        if self.volume.poll_timeout().is_some_and(|due| due <= now) {
            self.volume.handle_timeout(now);
        }
        self.advance_closing(now);
        if self.closing == Some(Closing::Shadow) {
            return false;
        }
        if let Some(shadow) = &mut self.shadow {
            return shadow.submit(now, &mut self.volume, engine);
        }
        let mut any = false;
        while let Some(op) = self.held.take().or_else(|| self.volume.poll_device()) {
            if let Err(refused) = engine.submit(self.file, op) {
                self.held = Some(refused);
                break;
            }
            any = true;
        }
        any
    }

    pub(super) fn handle(&mut self, now: Duration, completion: Completion<Buffer>) {
        match &mut self.shadow {
            Some(shadow) => shadow.handle(now, completion, &mut self.volume),
            None => self.volume.handle_device(now, completion),
        }
    }

    /// Whether something can happen without a frame.
    pub(super) fn has_work(&self) -> bool {
        !self.is_settled()
            || self.volume.poll_timeout().is_some()
            || self.shadow.as_ref().is_some_and(|shadow| !shadow.is_idle())
    }

    /// Takes no new request from now on.
    pub(super) fn begin_close(&mut self, now: Duration) {
        if self.closing.is_none() {
            self.closing = Some(Closing::Requests);
            self.advance_closing(now);
        }
    }

    /// Begins to bring everything acknowledged to stable storage.
    pub(super) fn begin_flush(&mut self, now: Duration) {
        if self.closing.is_some() {
            self.closing = Some(Closing::Requests);
            self.advance_closing(now);
        } else {
            self.volume.begin_flush(now);
        }
    }

    /// Closes it at once, without a last flush, if nothing is under way. Whether it is closed.
    pub(super) fn abandon(&mut self) -> bool {
        if self.is_settled() {
            self.closing = Some(Closing::Shadow);
        }
        self.is_closed()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    pub(super) fn is_closed(&self) -> bool {
        let in_flight = self.shadow.as_ref().map_or(0, |shadow| shadow.in_flight());
        self.closing == Some(Closing::Shadow) && in_flight == 0
    }

    fn advance_closing(&mut self, now: Duration) {
        if self.closing == Some(Closing::Requests) && self.is_settled() {
            // Not earlier: a flush that runs already may not cover what was written last.
            self.volume.begin_flush(now);
            self.closing = Some(Closing::Flush);
        }
        if self.closing == Some(Closing::Flush) && self.is_settled() {
            self.closing = Some(Closing::Shadow);
        }
    }

    /// Whether every request is answered and nothing of the volume is under way.
    fn is_settled(&self) -> bool {
        self.volume.is_idle() && self.held.is_none()
    }
}
