//! The loop: frames from the rings, through target, volume and engine, and back.
//!
//! A worker owns some exports, a port on each interface and one engine, and shares nothing.
//! [`Worker::turn`] does everything that can be done now, without waiting; whoever drives it (the
//! service over real ports, a test over simulated ones) waits for frames and completions when a
//! turn found nothing to do, or until [`Worker::poll_timeout`]. Each turn is told the time, counted
//! from any start.
//!
//! One admitted frame takes one buffer of the pool and keeps it until its response is sent:
//! a write's payload is copied into the buffer, a read's is put there by the device, and the
//! response header is written in front of it. So the pool bounds everything. What cannot be served
//! at once is copied out of the ring and waits for its turn, so that nobody greedy is in front of
//! everybody ([`fair`]).

pub mod fair;
mod intake;
mod latencies;
mod pending;
mod seat_set;
mod served;
mod shadowed;

use std::io;
use std::sync::atomic::AtomicU8;
use std::time::Duration;

use aoede_disk::{
    Buffer, DiskError, Done, Engine, FileId, Operation, Pool, Recovered, SECTOR_BYTES, Shadow,
    ShadowError, ShadowEvent, ShadowFiles, ShadowStatus, Volume,
};
use aoede_link::{Outgoing, Port};
use aoede_target::{
    AddressTaken, Arrival, DeviceFailure, Exports, IgnoreReason, PortFacts, Queue, Target,
    WriteReplies, merge_write_response,
};
use aoede_wire::{Command, MacAddr};

use crate::control::config::Limits;
use fair::{Fair, FairStats, Frames, Head, cost};
use intake::{Asked, Intake};
pub use latencies::ExportLatencies;
use latencies::Work;
use pending::{Pending, PendingTable};
pub use seat_set::{MAX_SEATS, SeatSet};
use served::Served;
pub use served::Serving;
use shadowed::Shadowed;

/// Bytes of a response before its data: what the pool's buffers must have as headroom.
pub const HEAD_BYTES: usize = aoede_target::DATA_OFFSET;

/// Most frames taken from one port before the next port, the disks and the senders get their
/// turn: enough to make a batch worth its system calls, short enough to keep latencies even.
const FRAMES_PER_TURN: usize = 64;
/// While the disk is busy, a turn takes this part of the requests it holds: so that some are on the
/// network while others are on the disk, instead of all waiting for the slowest.
const PART_OF_THE_BUSY: usize = 8;
/// But so many at least that a batch is worth its system calls,
const LEAST_WHILE_BUSY: usize = 2;
/// and no more than that.
const MOST_WHILE_BUSY: usize = 16;

/// Responses that were held and are sent in one turn: a part at a time, so that frames get buffers
/// meanwhile.
const HELD_PER_TURN: usize = 16;

/// Frames that may wait, for each buffer,
const WAITING_PER_BUFFER: usize = 4;
/// and so many at least.
const LEAST_WAITING: usize = 256;

/// What an empty seat's port is like; no frame comes from it.
const NO_PORT: PortFacts = PortFacts {
    mac: MacAddr::ZERO,
    mtu: 0,
    max_sectors: 0,
};

/// A whole response in a pool buffer.
struct Response {
    buffer: Buffer,
    len: usize,
}

impl Outgoing for Response {
    fn head(&self) -> &[u8] {
        let whole = self.buffer.with_head(HEAD_BYTES);
        let len = self.len - self.shared().len().min(self.len);
        whole.get(..len).unwrap_or(whole)
    }

    fn shared(&self) -> &[AtomicU8] {
        self.buffer.lent().unwrap_or_default()
    }
}

impl Response {
    /// Takes another write response along; whether there was room for it.
    fn merge(&mut self, other: &Self, port: &PortFacts) -> bool {
        let whole = self.buffer.with_head_mut(HEAD_BYTES);
        let most = whole.len().min(port.frame_bytes());
        let Some(frame) = whole.get_mut(..most) else {
            return false;
        };
        let longer = merge_write_response(frame, self.len, other.head());
        self.len = longer.unwrap_or(self.len);
        longer.is_some()
    }
}

/// A port and what waits to be sent there.
struct Seat<P> {
    /// `None` while the interface is away.
    port: Option<P>,
    facts: PortFacts,
    /// Never more than the pool has buffers.
    outbox: Vec<Response>,
    /// Requests that came in here and are with the disk.
    pending: usize,
    /// Announcements still to be sent: export and position in its mask list.
    announce: Vec<(usize, usize)>,
    /// Where an Extensions frame is copied to, as it asks about the ring that it came in.
    copied: Vec<u8>,
    /// Frames that came in here.
    received: u64,
}

impl<P> Seat<P> {
    fn empty(buffers: usize) -> Self {
        Self {
            port: None,
            facts: NO_PORT,
            outbox: Vec::with_capacity(buffers),
            pending: 0,
            announce: Vec::new(),
            copied: Vec::new(),
            received: 0,
        }
    }
}

/// Counters of a worker beyond those of its parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct WorkerStats {
    pub frames_received: u64,
    /// Handed to the ports, which count those they lose.
    pub responses: u64,
    /// Broadcast requests that found no buffer for one more export's answer, and reads of a
    /// coalesced frame that found none.
    pub no_buffer: u64,
    /// Responses whose interface went away before they could be sent, and held ones that found too
    /// many others waiting there.
    pub responses_lost: u64,
}

/// One thread's share of the work. See the module's text.
pub struct Worker<P, E> {
    seats: Vec<Seat<P>>,
    exports: Exports,
    /// By the same numbers as the exports.
    disks: Vec<Option<Served>>,
    /// Those that may have something to do although no frame comes.
    active: Vec<usize>,
    /// Whose a file of the engine is, in the order of files.
    owners: Vec<(FileId, usize)>,
    pending: PendingTable,
    engine: E,
    pool: Pool,
    stats: WorkerStats,
    last_error: Option<(usize, DiskError)>,
    /// Seats with a port.
    plugged: usize,
    /// The seat that is served first in the next turn.
    first_seat: usize,
    /// Write responses of this turn, in the outboxes.
    write_replies: WriteReplies,
    /// Whose turn it is,
    fair: Fair,
    /// and the frames that wait for theirs.
    frames: Frames,
}

impl<P, E> std::fmt::Debug for Worker<P, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("seats", &self.seats.len())
            .field("exports", &self.exports.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<P: Port, E: Engine<Buffer>> Worker<P, E> {
    /// A worker without exports, with `seats` ports still to be plugged in, [`MAX_SEATS`] at most.
    ///
    /// The pool's buffers must have at least [`HEAD_BYTES`] of headroom.
    pub fn new(engine: E, pool: Pool, seats: usize) -> Self {
        let buffers = pool.shape().count;
        let frame_bytes = HEAD_BYTES + pool.shape().data_bytes;
        let waiting = (buffers * WAITING_PER_BUFFER).max(LEAST_WAITING);
        let seats = seats.min(MAX_SEATS);
        Self {
            seats: std::iter::repeat_with(|| Seat::empty(buffers))
                .take(seats)
                .collect(),
            exports: Exports::default(),
            disks: Vec::new(),
            active: Vec::new(),
            owners: Vec::new(),
            plugged: 0,
            pending: PendingTable::new(buffers),
            engine,
            pool,
            stats: WorkerStats::default(),
            last_error: None,
            first_seat: 0,
            write_replies: WriteReplies::new(buffers),
            fair: Fair::new(waiting, buffers),
            frames: Frames::new(waiting, frame_bytes),
        }
    }

    /// One more seat, empty; its number, or `None` if there are [`MAX_SEATS`].
    pub fn add_seat(&mut self) -> Option<usize> {
        let number = self.seats.len();
        if number >= MAX_SEATS {
            return None;
        }
        self.seats.push(Seat::empty(self.pool.shape().count));
        Some(number)
    }

    /// Adds an export whose data is `file` of this worker's engine, seen through `volume`, which
    /// must take as many requests as are `serving`. Returns its number.
    ///
    /// # Errors
    /// The address is taken.
    pub fn add_export(
        &mut self,
        mut target: Target,
        file: FileId,
        volume: Volume<Buffer>,
        serving: Serving,
    ) -> Result<usize, AddressTaken> {
        target.set_crc32c(crc32c::crc32c_append);
        let export = self.exports.insert(target)?;
        if self.disks.len() <= export {
            self.disks.resize_with(export + 1, || None);
        }
        if let Some(place) = self.disks.get_mut(export) {
            *place = Some(Served::new(file, volume, serving));
        }
        // No frame makes it grow.
        self.active.reserve(self.disks.len() - self.active.len());
        self.find_owned(export);
        self.fair.set_export(export, serving.requests.into());
        self.size_waiting_room();
        Ok(export)
    }

    /// As many frames may wait as the exports' buffers ask for.
    fn size_waiting_room(&mut self) {
        let disks = self.disks.iter().flatten();
        let buffers: usize = disks.map(|disk| usize::from(disk.serving.requests)).sum();
        self.fair
            .set_most_waiting((buffers * WAITING_PER_BUFFER).max(LEAST_WAITING));
    }

    /// An export's limits from now on.
    pub fn set_limits(&mut self, export: usize, limits: Limits) {
        self.fair.set_limits(export, limits);
    }

    /// Serves an export on these seats from now on. Frames from others are ignored, and counted.
    pub fn set_export_seats(&mut self, export: usize, seats: SeatSet) {
        let Some(disk) = self.disk_mut(export) else {
            return;
        };
        disk.serving.seats = seats;
        for (number, seat) in self.seats.iter_mut().enumerate() {
            if !seats.contains(number) {
                seat.announce.retain(|&(other, _)| other != export);
            }
        }
    }

    /// Begins the end of an export: its frames are ignored from now on, and counted. What has begun
    /// is finished and answered, then everything acknowledged is brought to stable storage as far as
    /// the disk lets us. A shadow stops where it is. [`Self::is_closed`] tells when.
    pub fn begin_close(&mut self, export: usize, now: Duration) {
        self.forget_announcements(export);
        self.fair.forget_export(export);
        if let Some(disk) = self.wake(export) {
            disk.begin_close(now);
        }
    }

    /// Whether nothing of a closing export is under way any more. Its volume says whether everything
    /// acknowledged is on stable storage ([`Volume::is_clean`]); if not,
    /// [`Self::begin_flush_export`] tries once more.
    pub fn is_closed(&self, export: usize) -> bool {
        self.disk(export).is_some_and(Served::is_closed)
    }

    /// Takes an export away, and its files from the engine; its number will be used again. `None`,
    /// and nothing happens, unless it [is closed](Self::is_closed).
    pub fn remove_export(&mut self, export: usize) -> Option<(Target, FileId, Volume<Buffer>)> {
        let disk = self
            .disks
            .get_mut(export)?
            .take_if(|disk| disk.is_closed())?;
        let Served {
            volume,
            file,
            shadow,
            ..
        } = disk;
        self.active.retain(|&other| other != export);
        self.owners.retain(|&(_, other)| other != export);
        self.forget_announcements(export);
        if let Some(mut shadow) = shadow {
            shadow.detach(&mut self.engine);
        }
        self.engine.detach(file);
        self.size_waiting_room();
        let target = self.exports.remove(export)?;
        Some((target, file, volume))
    }

    /// Takes away an export that cannot be served after all, as [`Self::remove_export`] does, before
    /// a turn has worked for it: nothing needs to be brought to stable storage. Whether that went.
    pub fn abandon_export(&mut self, export: usize) -> bool {
        self.fair.forget_export(export);
        let is_closed = self.disk_mut(export).is_some_and(Served::abandon);
        is_closed && self.remove_export(export).is_some()
    }

    /// Plugs a port into a seat, or with `None` takes it out; what waited there is dropped.
    pub fn set_port(&mut self, seat: usize, port: Option<P>) {
        self.fair.forget_seat(seat);
        if let Some(seat) = self.seats.get_mut(seat) {
            self.stats.responses_lost += seat.outbox.len() as u64;
            seat.outbox.clear();
            seat.announce.clear();
            self.plugged -= usize::from(seat.port.is_some());
            self.plugged += usize::from(port.is_some());
            seat.port = port;
        }
    }

    /// What the targets are told about a seat's port.
    pub fn set_facts(&mut self, seat: usize, facts: PortFacts) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.facts = facts;
        }
    }

    /// The port in a seat.
    pub fn port(&self, seat: usize) -> Option<&P> {
        self.seats.get(seat)?.port.as_ref()
    }

    /// The port in a seat.
    pub fn port_mut(&mut self, seat: usize) -> Option<&mut P> {
        self.seats.get_mut(seat)?.port.as_mut()
    }

    /// Whether responses wait until the port in this seat can send again.
    pub fn waits_to_send(&self, seat: usize) -> bool {
        self.seats
            .get(seat)
            .is_some_and(|seat| !seat.outbox.is_empty())
    }

    /// The buffers for requests and responses.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// The exports and what they ignored.
    pub fn exports(&self) -> &Exports {
        &self.exports
    }

    /// The target of an export.
    pub fn target_mut(&mut self, export: usize) -> Option<&mut Target> {
        self.exports.get_mut(export)
    }

    /// Counters so far.
    pub fn stats(&self) -> WorkerStats {
        self.stats
    }

    /// Frames that had to wait for their turn, and those that were dropped instead.
    pub fn fair_stats(&self) -> FairStats {
        self.fair.stats()
    }

    /// The latest device error, once, and whose it is.
    pub fn take_error(&mut self) -> Option<(usize, DiskError)> {
        self.last_error.take()
    }

    /// Whether no request is under way and no response waits.
    pub fn is_idle(&self) -> bool {
        self.pool.free() == self.pool.shape().count
    }

    /// An export's disk has another size now. Whether it is a change, to be announced. As long as
    /// there is a shadow, the disk keeps its size.
    pub fn set_sectors(&mut self, export: usize, sectors: u64) -> bool {
        if let Some(disk) = self.wake(export) {
            let size_bytes = sectors.saturating_mul(SECTOR_BYTES);
            let shadow = disk.shadow.as_mut();
            if shadow.is_some_and(|shadow| !shadow.set_size(size_bytes)) {
                return false;
            }
            disk.volume.set_size(size_bytes);
        }
        let target = self.exports.get_mut(export);
        target.is_some_and(|target| target.set_sectors(sectors))
    }

    /// What is known of an export's data.
    pub fn volume(&self, export: usize) -> Option<&Volume<Buffer>> {
        Some(&self.disk(export)?.volume)
    }

    /// How long an export's requests took; `None` before the first has ended.
    pub fn latencies(&self, export: usize) -> Option<&ExportLatencies> {
        self.disk(export)?.latencies.as_deref()
    }

    /// Puts a shadow between an export's volume and the engine, before the first frame. It takes as
    /// many operations as the volume may have with the device.
    pub fn set_shadow(&mut self, export: usize, shadow: Shadow<Buffer>) {
        if let Some(disk) = self.disk_mut(export) {
            disk.shadow = Some(Box::new(Shadowed::new(shadow, disk.file)));
        }
    }

    /// Holds an export's image as it is; [`Self::poll_shadow`] tells when.
    ///
    /// # Errors
    /// No descriptor is left; or the shadow cannot, or there is none.
    pub fn freeze(
        &mut self,
        export: usize,
        files: &ShadowFiles,
        limit_bytes: Option<u64>,
    ) -> io::Result<Result<(), ShadowError>> {
        let begun = match self.shadowed(export) {
            Some((shadow, engine)) => shadow.freeze(files, limit_bytes, engine),
            None => Ok(Err(ShadowError::NotFrozen)),
        };
        self.find_owned(export);
        begun
    }

    /// Goes on with a freeze that a restart has interrupted, before the first frame.
    ///
    /// # Errors
    /// As for [`Self::freeze`].
    pub fn resume(
        &mut self,
        export: usize,
        files: &ShadowFiles,
        recovered: Recovered,
        limit_bytes: Option<u64>,
    ) -> io::Result<Result<(), ShadowError>> {
        let begun = match self.shadowed(export) {
            Some((shadow, engine)) => shadow.resume(files, recovered, limit_bytes, engine),
            None => Ok(Err(ShadowError::NotFrozen)),
        };
        self.find_owned(export);
        begun
    }

    /// Lets an export's image change again, and merges the shadow.
    ///
    /// # Errors
    /// There is nothing to thaw.
    pub fn thaw(&mut self, export: usize) -> Result<(), ShadowError> {
        let (shadow, _) = self.shadowed(export).ok_or(ShadowError::NotFrozen)?;
        shadow.thaw()
    }

    /// The next event of an export's shadow. After [`ShadowEvent::Merged`] and
    /// [`ShadowEvent::FreezeFailed`] nothing works on its files.
    pub fn poll_shadow(&mut self, export: usize) -> Option<ShadowEvent> {
        let disk = self.disks.get_mut(export)?.as_mut()?;
        let event = disk.shadow.as_mut()?.poll_event(&mut self.engine)?;
        self.find_owned(export);
        Some(event)
    }

    /// How an export's shadow stands, if it has one.
    pub fn shadow_status(&self, export: usize) -> Option<ShadowStatus> {
        Some(self.disk(export)?.shadow.as_ref()?.status())
    }

    /// Begins to bring everything acknowledged to stable storage, for a clean stop.
    pub fn begin_flush(&mut self, now: Duration) {
        for export in 0..self.disks.len() {
            self.begin_flush_export(export, now);
        }
    }

    /// The same for one export.
    pub fn begin_flush_export(&mut self, export: usize, now: Duration) {
        if let Some(disk) = self.wake(export) {
            disk.begin_flush(now);
        }
    }

    /// An export has lost acknowledged data before ([`Volume::set_failure`]).
    pub fn set_failure(&mut self, export: usize, failure: DiskError) {
        if let Some(disk) = self.disk_mut(export) {
            disk.volume.set_failure(failure);
        }
    }

    /// Where an export is served.
    pub fn export_seats(&self, export: usize) -> SeatSet {
        self.disk(export)
            .map_or(SeatSet::NONE, |disk| disk.serving.seats)
    }

    /// Lets an export go on after a failure that made every change fail ([`Volume::clear_failure`]).
    pub fn clear_failure(&mut self, export: usize, now: Duration) {
        if let Some(disk) = self.wake(export) {
            disk.volume.clear_failure(now);
        }
    }

    /// When the next turn is due although nothing has happened.
    pub fn poll_timeout(&self) -> Option<Duration> {
        // What was held needs a buffer to be sent from; one that comes home wakes by itself.
        let held = self.exports.poll_timeout().filter(|_| self.pool.free() > 0);
        let disks = self.active_disks();
        let disks = disks.filter_map(|disk| disk.volume.poll_timeout());
        let limits = self.fair.poll_timeout().filter(|_| self.pool.free() > 0);
        disks.chain(held).chain(limits).min()
    }

    /// The engine, to attach files to.
    pub fn engine_mut(&mut self) -> &mut E {
        &mut self.engine
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// Operations with the disks.
    pub fn operations(&self) -> usize {
        self.engine.in_flight()
    }

    /// Whether a disk still works on a request, or on what it has acknowledged.
    pub fn is_disk_busy(&self) -> bool {
        self.active_disks().any(|disk| !disk.volume.is_idle())
    }

    /// The same for one export.
    pub fn is_export_busy(&self, export: usize) -> bool {
        self.disk(export).is_some_and(|disk| !disk.volume.is_idle())
    }

    /// Whether another frame of a seat would be taken from its ring: if not, waiting for one makes
    /// no sense.
    pub fn takes_frames(&self, seat: usize) -> bool {
        let most = self.buffers_for_a_seat();
        let can_answer = |seat: &Seat<P>| seat.outbox.len() < most;
        self.fair.takes_frames(seat) && self.seats.get(seat).is_some_and(can_answer)
    }

    /// Announces every export of a seat on its port, with the next turns (§4.4 of the protocol).
    pub fn announce(&mut self, seat: usize) {
        let disks = &self.disks;
        let here = |export: usize| {
            let disk = disks.get(export)?.as_ref()?;
            (disk.serving.seats.contains(seat) && !disk.is_closing()).then_some((export, 0))
        };
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.announce.clear();
            seat.announce
                .extend((0..disks.len()).rev().filter_map(here));
        }
    }

    /// Announces an export on the ports of all its seats, with the next turns.
    pub fn announce_export(&mut self, export: usize) {
        self.forget_announcements(export);
        let Some(disk) = self.disk(export).filter(|disk| !disk.is_closing()) else {
            return;
        };
        for seat in disk.serving.seats.iter() {
            if let Some(seat) = self.seats.get_mut(seat) {
                seat.announce.push((export, 0));
            }
        }
    }

    /// Does all that can be done without waiting. Returns whether anything was done: if not, the
    /// caller may sleep until a port or the engine has something, or until
    /// [`poll_timeout`](Self::poll_timeout).
    ///
    /// # Errors
    /// The engine failed as a whole; single operations that fail are answered, not reported here.
    pub fn turn(&mut self, now: Duration) -> io::Result<bool> {
        self.fair.handle_time(now);
        let mut busy = self.send_held(now);
        // Operations that no request waits for, such as writing behind, make nobody slow.
        let batch = match self.engine.in_flight().min(self.pending.len()) {
            0 => FRAMES_PER_TURN,
            busy => (busy / PART_OF_THE_BUSY).clamp(LEAST_WHILE_BUSY, MOST_WHILE_BUSY),
        };
        let seats = self.seats.len();
        for seat in 0..seats {
            busy |= self.send_announcements(seat);
        }
        let served = self.serve_waiting(batch, now);
        busy |= served > 0;
        for seat in (self.first_seat..seats).chain(0..self.first_seat) {
            busy |= self.receive(seat, batch - served, now);
        }
        self.first_seat = (self.first_seat + 1) % seats.max(1);
        busy |= self.run_disks(batch, now)?;
        for seat in &mut self.seats {
            busy |= self.stats.send(seat);
        }
        Ok(busy)
    }

    /// As [`turn`](Self::turn), but takes no new frame: for a clean stop.
    ///
    /// # Errors
    /// As for [`turn`](Self::turn).
    pub fn drain(&mut self, now: Duration) -> io::Result<bool> {
        self.fair.handle_time(now);
        let mut busy = self.send_held(now);
        busy |= self.run_disks(FRAMES_PER_TURN, now)?;
        for seat in &mut self.seats {
            busy |= self.stats.send(seat);
        }
        Ok(busy)
    }

    /// Frames that waited and whose turn it is, up to `batch`. Returns how many.
    fn serve_waiting(&mut self, batch: usize, now: Duration) -> usize {
        let most = self.buffers_for_a_seat();
        let mut served = 0;
        while served < batch {
            let (seats, disks) = (&self.seats, &self.disks);
            let has_room = |head: &Head| {
                let disk = head.export().filter(|_| head.needs_disk());
                let disk = disk.and_then(|export| disks.get(export)?.as_ref());
                !disk.is_some_and(Served::is_full)
            };
            let can_answer = |seat: usize| {
                let seat = seats.get(seat);
                seat.is_some_and(|seat| seat.outbox.len() + seat.pending < most)
            };
            let free = self.pool.free();
            let turn = self.fair.next(free, has_room, can_answer);
            let Some(turn) = turn else { break };
            served += 1;
            let Some(Seat {
                facts,
                outbox,
                pending,
                ..
            }) = self.seats.get_mut(turn.seat)
            else {
                self.fair.release(&turn);
                continue;
            };
            // Seen before, but not of these exports, perhaps, nor with these facts.
            let screened = self.exports.screen(facts, self.frames.get(turn.place));
            if let Ok((frame, selection)) = screened {
                let asked = Asked {
                    arrival: Arrival {
                        now,
                        port: *facts,
                        seat: turn.seat,
                        queue: turn.queue,
                    },
                    came: turn.came,
                    sender: turn.head.sender,
                    frame,
                    selection,
                };
                let mut intake = Intake {
                    exports: &mut self.exports,
                    disks: &mut self.disks,
                    active: &mut self.active,
                    pool: &self.pool,
                    table: &mut self.pending,
                    fair: &mut self.fair,
                    stats: &mut self.stats,
                    outbox,
                    pending,
                    most,
                };
                intake.serve(asked);
            }
            self.fair.release(&turn);
        }
        served
    }

    /// Frames of one port. Up to `batch` are served; with others there, the rest is looked at, too,
    /// and waits for its turn.
    fn receive(&mut self, seat_index: usize, batch: usize, now: Duration) -> bool {
        let most = self.buffers_for_a_seat();
        let Some(Seat {
            port: Some(port),
            facts,
            outbox,
            pending,
            copied,
            received,
            ..
        }) = self.seats.get_mut(seat_index)
        else {
            return false;
        };
        let mut intake = Intake {
            exports: &mut self.exports,
            disks: &mut self.disks,
            active: &mut self.active,
            pool: &self.pool,
            table: &mut self.pending,
            fair: &mut self.fair,
            stats: &mut self.stats,
            outbox,
            pending,
            most,
        };
        let mut arrival = Arrival {
            now,
            port: *facts,
            seat: seat_index,
            queue: Queue::default(),
        };
        let (mut taken, mut served) = (0, 0);
        while taken < FRAMES_PER_TURN
            && intake.outbox.len() < most
            && intake.fair.takes_frames(seat_index)
        {
            let is_over = served >= batch;
            if is_over && !intake.fair.is_shared() {
                break;
            }
            let Some(bytes) = port.receive() else { break };
            taken += 1;
            let bytes = if Command::of_frame(bytes) == Some(Command::Extension) {
                copied.clear();
                copied.extend_from_slice(bytes);
                let ring = port.ring_use();
                arrival.queue = Queue {
                    number: *received + taken as u64,
                    waiting: ring.waiting,
                    free: ring.free + 1,
                };
                copied.as_slice()
            } else {
                bytes
            };
            // What is no request for us is counted by its reason.
            let Ok((frame, selection)) = intake.exports.screen(facts, bytes) else {
                continue;
            };
            let header = &frame.header;
            let export = if header.address.is_wildcard() {
                None
            } else {
                intake.exports.index_of(header.address)
            };
            if export.is_some_and(|export| intake.refuses(export, seat_index, header.source)) {
                continue;
            }
            let head = intake.fair.look(export, header.source, bytes);
            let is_full = export.is_some_and(|export| head.needs_disk() && intake.is_full(export));
            let has_room = !is_over && !is_full && intake.has_room();
            if has_room && intake.fair.admits(&head, intake.pool.free()) {
                served += 1;
                intake.serve(Asked {
                    arrival,
                    came: now,
                    sender: head.sender,
                    frame,
                    selection,
                });
                continue;
            }
            let kept = intake
                .fair
                .keep(head, seat_index, arrival.queue, cost(bytes));
            let dropped = match kept {
                Some(kept) => {
                    self.frames.put(kept.place, bytes);
                    kept.dropped
                }
                None => export,
            };
            if let Some(target) = dropped.and_then(|export| intake.exports.get_mut(export)) {
                target.count_ignored(IgnoreReason::Busy);
            }
        }
        port.release();
        *received += taken as u64;
        self.stats.frames_received += taken as u64;
        taken > 0
    }

    /// Buffers that one seat's requests and responses may hold, so that no port can keep all of
    /// them from the others.
    fn buffers_for_a_seat(&self) -> usize {
        let (buffers, seats) = (self.pool.shape().count, self.plugged.max(1));
        buffers - (seats - 1) * (buffers / (2 * seats))
    }

    /// Device operations down, up to `batch` completions up, finished requests into the outboxes.
    fn run_disks(&mut self, batch: usize, now: Duration) -> io::Result<bool> {
        let mut busy = false;
        for &export in &self.active {
            if let Some(disk) = self.disks.get_mut(export).and_then(Option::as_mut) {
                let submitted = disk.submit(now, &mut self.engine);
                disk.worked |= submitted;
                busy |= submitted;
            }
        }
        self.engine.kick()?;
        for _ in 0..batch {
            let Some((file, completion)) = self.engine.poll() else {
                break;
            };
            busy = true;
            let owner = self.owner(file);
            if let Some(disk) = owner.and_then(|export| self.wake(export)) {
                disk.handle(now, completion);
            }
        }
        for place in 0..self.active.len() {
            let Some(&export) = self.active.get(place) else {
                break;
            };
            while let Some(done) = self.disk_mut(export).and_then(|d| d.volume.poll_done()) {
                busy = true;
                self.finish(export, done, now);
            }
        }
        self.tidy_active();
        self.write_replies.clear();
        Ok(busy)
    }

    /// Keeps in the list of the active those that did something, and may have more to do, and
    /// those that will. Another is first next time, so that none takes all room in the engine.
    fn tidy_active(&mut self) {
        let disks = &mut self.disks;
        self.active.retain(|&export| {
            let Some(disk) = disks.get_mut(export).and_then(Option::as_mut) else {
                return false;
            };
            disk.active = std::mem::take(&mut disk.worked) || disk.has_work();
            disk.active
        });
        if self.active.len() > 1 {
            self.active.rotate_left(1);
        }
    }

    fn disk(&self, export: usize) -> Option<&Served> {
        self.disks.get(export)?.as_ref()
    }

    fn disk_mut(&mut self, export: usize) -> Option<&mut Served> {
        self.disks.get_mut(export)?.as_mut()
    }

    /// An export that something happens to.
    fn wake(&mut self, export: usize) -> Option<&mut Served> {
        let disk = self.disks.get_mut(export)?.as_mut()?;
        note_work(disk, export, &mut self.active);
        Some(disk)
    }

    fn active_disks(&self) -> impl Iterator<Item = &Served> {
        self.active.iter().filter_map(|&export| self.disk(export))
    }

    /// An export's shadow, to be told something.
    fn shadowed(&mut self, export: usize) -> Option<(&mut Shadowed, &mut E)> {
        let disk = self.disks.get_mut(export)?.as_mut()?;
        note_work(disk, export, &mut self.active);
        Some((disk.shadow.as_mut()?, &mut self.engine))
    }

    /// Whose a file is: one file belongs to one export.
    fn owner(&self, file: FileId) -> Option<usize> {
        let files = &self.owners;
        let place = files.binary_search_by_key(&file.0, |(file, _)| file.0);
        files.get(place.ok()?).map(|&(_, export)| export)
    }

    /// Notes anew which files are an export's.
    fn find_owned(&mut self, export: usize) {
        self.owners.retain(|&(_, other)| other != export);
        let Some(disk) = self.disks.get(export).and_then(Option::as_ref) else {
            return;
        };
        let shadow = disk.shadow.iter().flat_map(|shadow| shadow.files());
        let files = std::iter::once(disk.file).chain(shadow);
        self.owners.extend(files.map(|file| (file, export)));
        self.owners.sort_unstable_by_key(|(file, _)| file.0);
    }

    fn forget_announcements(&mut self, export: usize) {
        for seat in &mut self.seats {
            seat.announce.retain(|&(other, _)| other != export);
        }
    }

    fn finish(&mut self, export: usize, done: Done<Buffer>, now: Duration) {
        let Done {
            id,
            mut buffer,
            result,
        } = done;
        let Some(pending) = self.pending.take(id) else {
            debug_assert!(false, "request {id:?} finished twice");
            return;
        };
        let Pending { request, seat, .. } = pending;
        let is_read = match pending.work {
            Work::Read => Some(true),
            Work::Write => Some(false),
            Work::Flush | Work::Trim => None,
        };
        self.fair.handle_done(pending.ticket, export, is_read);
        let is_change = matches!(pending.work, Work::Write | Work::Trim);
        let done = pending.name.filter(|_| is_change && result.is_ok());
        let repetitions = done.map_or(0, |name| self.fair.drop_repetitions(export, name));
        if let Some(disk) = self.disk_mut(export) {
            disk.worked = true;
            let latency = now.saturating_sub(pending.began);
            let latencies = disk.latencies.get_or_insert_with(Box::default);
            latencies.record(pending.work, latency);
        }
        let Some(target) = self.exports.get_mut(export) else {
            return;
        };
        if repetitions > 0 {
            target.count_ignored_times(IgnoreReason::TagInProgress, repetitions);
        }
        let mut result = result.map_err(|error| {
            let failure = match error.operation {
                Operation::Read => DeviceFailure::Unreadable,
                _ => DeviceFailure::Fault,
            };
            self.last_error = Some((export, error));
            failure
        });
        // A checksum is over data that can be read here. A file that became shorter has none.
        if request.checks_data() && buffer.settle().is_err() {
            result = Err(DeviceFailure::Unreadable);
        }
        let merge_key = request.merge_key(export, seat);
        let len = target.handle_done(request, result, buffer.with_head_mut(HEAD_BYTES));
        let Some(seat) = self.seats.get_mut(seat) else {
            return;
        };
        seat.pending -= 1;
        if seat.port.is_none() {
            self.stats.responses_lost += 1;
            return;
        }
        let response = Response { buffer, len };
        if let Some(key) = merge_key {
            let first = self.write_replies.place(key);
            let first = first.and_then(|place| seat.outbox.get_mut(place));
            if first.is_some_and(|first| first.merge(&response, &seat.facts)) {
                return;
            }
            self.write_replies.set_place(key, seat.outbox.len());
        }
        seat.outbox.push(response);
    }

    /// Responses that were held and are due, into the outboxes. Returns whether there were any.
    fn send_held(&mut self, now: Duration) -> bool {
        if self.exports.poll_timeout().is_none_or(|due| now < due) {
            return false;
        }
        self.exports.handle_timeout(now);
        let most = self.buffers_for_a_seat();
        let mut busy = false;
        for _ in 0..HELD_PER_TURN {
            let Some(mut buffer) = self.pool.take() else {
                break;
            };
            let out = buffer.with_head_mut(HEAD_BYTES);
            let Some(held) = self.exports.poll_response(out) else {
                break;
            };
            busy = true;
            let len = held.len;
            match self.seats.get_mut(held.seat) {
                Some(seat) if seat.port.is_some() && seat.outbox.len() + seat.pending < most => {
                    seat.outbox.push(Response { buffer, len });
                }
                _ => self.stats.responses_lost += 1,
            }
        }
        busy
    }

    fn send_announcements(&mut self, seat_index: usize) -> bool {
        let Some(seat) = self.seats.get_mut(seat_index) else {
            return false;
        };
        if seat.port.is_none() {
            return false;
        }
        let mut busy = false;
        while let Some((export, position)) = seat.announce.pop() {
            let Some(mut buffer) = self.pool.take() else {
                seat.announce.push((export, position));
                break;
            };
            let Some(target) = self.exports.get(export) else {
                continue;
            };
            let out = buffer.with_head_mut(HEAD_BYTES);
            let len = target.announcement(&seat.facts, position, out);
            seat.outbox.push(Response { buffer, len });
            busy = true;
            if position + 1 < target.announcement_count() {
                seat.announce.push((export, position + 1));
            }
        }
        busy
    }
}

impl WorkerStats {
    /// Sends what waits in a seat. Returns whether any of it left.
    ///
    /// Data of a file in memory is sent from where it is ([`Buffer::lent`]). Nothing can have
    /// changed it since it was read: a write of the same sectors comes to the engine in a later
    /// turn at the earliest. What cannot be sent in this turn is therefore copied.
    fn send<P: Port>(&mut self, seat: &mut Seat<P>) -> bool {
        let Some(port) = &mut seat.port else {
            return false;
        };
        let before = seat.outbox.len();
        while !seat.outbox.is_empty() {
            let dealt_with = port.send(&seat.outbox);
            seat.outbox.drain(..dealt_with);
            self.responses += dealt_with as u64;
            let lent = |response: &Response| response.buffer.lent().is_some();
            if !seat.outbox.iter().any(lent) {
                break;
            }
            let left = seat.outbox.len();
            // The file became shorter: the initiator repeats its request, and learns the new size.
            seat.outbox
                .retain_mut(|response| response.buffer.settle().is_ok());
            self.responses_lost += (left - seat.outbox.len()) as u64;
        }
        seat.outbox.len() < before
    }
}

/// Puts an export into the list of the active, if it is not there.
fn note_work(disk: &mut Served, export: usize, active: &mut Vec<usize>) {
    disk.worked = true;
    if !std::mem::replace(&mut disk.active, true) {
        active.push(export);
    }
}
