//! io_uring: one call hands over everything queued, completions are read from shared memory.
//!
//! Three things keep it safe. The engine owns each buffer from submission to completion. It never
//! has more operations in flight than the completion queue holds. And its end waits for the
//! kernel; if it cannot, the buffers are leaked rather than given to someone else.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use super::blocking::{Target, part, position};
use super::open::{Backing, IoMode};
use super::pool::{Buffer, Pool};
use super::{Engine, FileId, Files};
use crate::device::{Completion, DeviceOp, Errno, OpId, OpKind};

/// Carries out operations through the kernel's submission and completion rings.
///
/// Belongs to the thread that made it. Its descriptor ([`AsFd`]) becomes readable when completions
/// come, and stays so: wait for it edge-triggered. The ring's own descriptor would not do, as it
/// says nothing of completions whose processing is deferred to us. A wait may also end with EINTR,
/// when the kernel starts a thread for an operation that has to wait: go round once more then.
#[derive(Debug)]
pub struct UringEngine {
    ring: Ring,
    /// Counts completions.
    wake: OwnedFd,
    files: Files<Rc<Attached>>,
    /// What is in flight, by the number the kernel returns.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Completions that did not need the ring.
    ready: VecDeque<(FileId, Completion<Buffer>)>,
    /// Operations the kernel has or will get with the next call.
    in_ring: usize,
    /// The part of those that it does not have yet.
    queued: usize,
    /// The pool's memory, where the kernel has it pinned and mapped.
    registered: Option<NonNull<[u8]>>,
}

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

#[derive(Debug)]
struct Attached {
    target: std::cell::RefCell<Target>,
    route: Route,
    /// The file takes RWF_DSYNC, or was not asked yet.
    dsync: std::cell::Cell<bool>,
}

/// How a file's operations are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Route {
    /// Through the ring; registered memory saves pinning pages for each transfer.
    Direct,
    /// Through the ring.
    Buffered,
    /// At once, by a plain system call: the file is memory, nothing ever waits for a device.
    Immediate,
}

/// An operation in the kernel's hands.
#[derive(Debug)]
struct Flight {
    file_id: FileId,
    file: Rc<Attached>,
    id: OpId,
    kind: OpKind,
    buffer: Option<Buffer>,
    offset: u64,
    len_bytes: u64,
    buffer_start: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// As asked for.
    Whole,
    /// A durable write without RWF_DSYNC: first the data,
    Data,
    /// then a sync.
    SyncAfter { written: u32 },
}

impl UringEngine {
    /// An engine that takes up to `capacity` operations at once, on buffers of `pool`.
    ///
    /// # Errors
    /// The kernel has no io_uring, forbids it, or lacks operations that we need (before 5.6).
    pub fn new(capacity: usize, pool: &Pool) -> io::Result<Self> {
        let entries = u32::try_from(capacity)
            .ok()
            .and_then(u32::checked_next_power_of_two);
        let entries = entries.filter(|&entries| (1..=MAX_ENTRIES).contains(&entries));
        let entries = entries.ok_or(io::ErrorKind::InvalidInput)?;
        let ring = build_ring(entries)?;
        check_operations(&ring)?;
        let registered = register(&ring, pool);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        let count = u32::try_from(capacity).unwrap_or(entries);
        Ok(Self {
            ring: Ring(ring),
            wake,
            files: Files::new(),
            flights: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            ready: VecDeque::with_capacity(capacity),
            in_ring: 0,
            queued: 0,
            registered,
        })
    }

    /// Whether the kernel has the pool's memory pinned: it saves work on each direct transfer.
    /// Without the right to lock that much memory the engine goes on without.
    pub fn has_registered_buffers(&self) -> bool {
        self.registered.is_some()
    }

    /// Puts a flight's next operation into the submission ring. Room is certain: the ring has as
    /// many places as there are flights, and each has one operation at a time.
    fn push(&mut self, index: u32) -> Result<(), Errno> {
        let flight = self
            .flights
            .get_mut(index as usize)
            .and_then(Option::as_mut);
        let entry = flight.ok_or(Errno::INVAL)?.entry(self.registered)?;
        let entry = entry.user_data(index.into());
        // SAFETY: the entry's memory is in the flight's buffer, which stays in `flights` until the
        // completion is seen, or is leaked; its descriptor is held open by the flight's `Rc`.
        let pushed = unsafe { self.ring.0.submission().push(&entry) };
        debug_assert!(
            pushed.is_ok(),
            "the submission ring is as large as the flights"
        );
        pushed.map_err(|_| Errno::AGAIN)?;
        self.queued += 1;
        Ok(())
    }

    /// Hands over what is queued; with deferred work pending it has that done in the same call.
    fn enter(&mut self, wait_for: usize) -> io::Result<()> {
        let result = self.ring.0.submit_and_wait(wait_for);
        self.queued = self.ring.0.submission().len();
        result.map(|_| ())
    }

    /// The next completion in shared memory, if it ends an operation; a durable write may need a
    /// second step first.
    fn reap(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        loop {
            let entry = self.ring.0.completion().next()?;
            let result = u32::try_from(entry.result()).map_err(|_| Errno(-entry.result()));
            let Ok(index) = u32::try_from(entry.user_data()) else {
                continue;
            };
            let Some(flight) = self
                .flights
                .get_mut(index as usize)
                .and_then(Option::as_mut)
            else {
                debug_assert!(false, "completion of an operation that is not in flight");
                continue;
            };
            let result = match flight.advance(result) {
                Some(result) => result,
                None => match self.push(index) {
                    Ok(()) => continue,
                    Err(errno) => Err(errno),
                },
            };
            return self.land(index, result);
        }
    }

    fn land(
        &mut self,
        index: u32,
        result: Result<u32, Errno>,
    ) -> Option<(FileId, Completion<Buffer>)> {
        let flight = self.flights.get_mut(index as usize)?.take()?;
        self.free.push(index);
        self.in_ring -= 1;
        let completion = Completion {
            id: flight.id,
            buffer: flight.buffer,
            result,
        };
        Some((flight.file_id, completion))
    }

    /// Whether completed operations wait for a call of ours to become visible.
    fn has_deferred_work(&mut self) -> bool {
        self.in_ring > 0 && self.ring.0.submission().taskrun()
    }
}

impl Engine<Buffer> for UringEngine {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        let route = match (backing.in_memory, backing.io) {
            (true, _) => Route::Immediate,
            (false, IoMode::Direct) => Route::Direct,
            (false, IoMode::Buffered) => Route::Buffered,
        };
        Ok(self.files.add(Rc::new(Attached {
            target: Target::new(backing)?.into(),
            route,
            dsync: true.into(),
        })))
    }

    fn detach(&mut self, file: FileId) {
        self.files.remove(file);
    }

    fn submit(
        &mut self,
        file_id: FileId,
        mut op: DeviceOp<Buffer>,
    ) -> Result<(), DeviceOp<Buffer>> {
        if self.in_flight() >= self.flights.len() {
            return Err(op);
        }
        let Some(file) = self.files.get(file_id) else {
            self.ready.push_back((file_id, failed(op, Errno::BADF)));
            return Ok(());
        };
        if file.route == Route::Immediate {
            let result = file.target.borrow_mut().execute(&mut op);
            let completion = Completion {
                id: op.id,
                buffer: op.buffer,
                result,
            };
            self.ready.push_back((file_id, completion));
            return Ok(());
        }
        let base_bytes = file.target.borrow().base_bytes;
        let offset = match position(base_bytes, op.offset_bytes, op.len_bytes) {
            Ok(offset) => offset,
            Err(errno) => {
                self.ready.push_back((file_id, failed(op, errno)));
                return Ok(());
            }
        };
        let file = Rc::clone(file);
        let Some(index) = self.free.pop() else {
            return Err(op);
        };
        let Some(place) = self.flights.get_mut(index as usize) else {
            return Err(op);
        };
        let split = op.kind == OpKind::Write { durable: true } && !file.dsync.get();
        *place = Some(Flight {
            file_id,
            file,
            id: op.id,
            kind: op.kind,
            buffer: op.buffer,
            offset,
            len_bytes: op.len_bytes,
            buffer_start: op.buffer_start,
            phase: if split { Phase::Data } else { Phase::Whole },
        });
        self.in_ring += 1;
        if let Err(errno) = self.push(index) {
            let completion = self.land(index, Err(errno));
            self.ready.extend(completion);
        }
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        if self.queued == 0 && !self.has_deferred_work() {
            return Ok(());
        }
        loop {
            let before = self.queued;
            match self.enter(0) {
                // It took a part when one entry was refused; that one's completion says so.
                Ok(()) if self.queued > 0 && self.queued < before => {}
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory for now, or completions wait to be read: with something of ours in
                // its hands there will be a completion, and with it the next call.
                Err(_) if self.queued < self.in_ring || !self.ready.is_empty() => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        if let Some(done) = self.ready.pop_front() {
            return Some(done);
        }
        if self.in_ring == 0 {
            return None;
        }
        loop {
            if let Some(done) = self.reap() {
                return Some(done);
            }
            // Each call runs a bounded part of the deferred work. The second step of a durable
            // write is handed over here too: the caller has no reason to kick.
            if self.queued == 0 && !self.has_deferred_work() || self.enter(0).is_err() {
                return None;
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.in_ring + self.ready.len()
    }
}

impl AsFd for UringEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        while self.in_ring > 0 {
            while self.reap().is_some() {}
            if self.in_ring == 0 {
                break;
            }
            match self.enter(1) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    #[expect(clippy::mem_forget, reason = "the kernel may still write to them")]
                    std::mem::forget(std::mem::take(&mut self.flights));
                    return;
                }
            }
        }
    }
}

impl Flight {
    /// What a completion means: the operation's result, or that the next step is to be submitted.
    fn advance(&mut self, result: Result<u32, Errno>) -> Option<Result<u32, Errno>> {
        let durable = self.kind == OpKind::Write { durable: true };
        match (self.phase, result) {
            (Phase::Whole, Err(Errno::OPNOTSUPP | Errno::INVAL)) if durable => {
                self.phase = Phase::Data;
                None
            }
            (Phase::Data, Ok(written)) => {
                // Without the flag it works: the flag was the trouble, and will be next time.
                self.file.dsync.set(false);
                self.phase = Phase::SyncAfter { written };
                None
            }
            (Phase::SyncAfter { written }, Ok(_)) => Some(Ok(written)),
            (_, result) => Some(result),
        }
    }

    /// The submission entry for the current phase.
    fn entry(&mut self, registered: Option<NonNull<[u8]>>) -> Result<squeue::Entry, Errno> {
        let fd = Fd(self.file.target.borrow().file.as_raw_fd());
        let sync = opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC);
        match (self.kind, self.phase) {
            (_, Phase::SyncAfter { .. }) | (OpKind::Sync, _) => Ok(sync.build()),
            (OpKind::Discard, _) => {
                let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
                let discard = opcode::Fallocate::new(fd, self.len_bytes);
                Ok(discard.offset(self.offset).mode(hole).build())
            }
            (OpKind::Read, _) => {
                let (start, len) = self.memory()?;
                Ok(if self.is_in(registered, start) {
                    let read = opcode::ReadFixed::new(fd, start, len, 0);
                    read.offset(self.offset).build()
                } else {
                    opcode::Read::new(fd, start, len)
                        .offset(self.offset)
                        .build()
                })
            }
            (OpKind::Write { durable }, phase) => {
                let (start, len) = self.memory()?;
                let flags = if durable && phase == Phase::Whole {
                    libc::RWF_DSYNC
                } else {
                    0
                };
                Ok(if self.is_in(registered, start) {
                    let write = opcode::WriteFixed::new(fd, start, len, 0);
                    write.offset(self.offset).rw_flags(flags).build()
                } else {
                    let write = opcode::Write::new(fd, start, len);
                    write.offset(self.offset).rw_flags(flags).build()
                })
            }
        }
    }

    /// Where the transfer starts in memory, and its length.
    fn memory(&mut self) -> Result<(*mut u8, u32), Errno> {
        let part = part(self.buffer.as_mut(), self.buffer_start, self.len_bytes)?;
        let len = u32::try_from(part.len()).map_err(|_| Errno::INVAL)?;
        Ok((part.as_mut_ptr(), len))
    }

    /// Whether to use registered memory: it pays for direct transfers, and a buffer of another
    /// pool is not in it.
    fn is_in(&self, registered: Option<NonNull<[u8]>>, start: *mut u8) -> bool {
        self.file.route == Route::Direct
            && registered.is_some_and(|region| {
                let base = region.cast::<u8>().addr().get();
                (base..base + region.len()).contains(&start.addr())
            })
    }
}

fn failed(op: DeviceOp<Buffer>, errno: Errno) -> Completion<Buffer> {
    Completion {
        id: op.id,
        buffer: op.buffer,
        result: Err(errno),
    }
}

/// The kernel's own limit.
const MAX_ENTRIES: u32 = 32768;

/// Makes a ring with the best the kernel has: completions processed when we ask, by nobody else
/// (6.1), without interrupting us (5.19), or as it always was.
fn build_ring(entries: u32) -> io::Result<IoUring> {
    let mut deferred = IoUring::builder();
    deferred.setup_submit_all().setup_taskrun_flag();
    let mut cooperative = deferred.clone();
    deferred.setup_single_issuer().setup_defer_taskrun();
    cooperative.setup_coop_taskrun();

    for builder in [deferred, cooperative] {
        match builder.build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            result => return result,
        }
    }
    IoUring::new(entries)
}

/// Refuses kernels that would fail later.
fn check_operations(ring: &IoUring) -> io::Result<()> {
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    let needed = [
        opcode::Read::CODE,
        opcode::Write::CODE,
        opcode::ReadFixed::CODE,
        opcode::WriteFixed::CODE,
        opcode::Fsync::CODE,
        opcode::Fallocate::CODE,
    ];
    let params = ring.params();
    let stable = params.is_feature_nodrop() && params.is_feature_submit_stable();
    if stable && needed.iter().all(|&code| probe.is_supported(code)) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "io_uring of this kernel is too old",
    ))
}

/// Has the kernel pin the pool's memory; `None` when it may not, or not that much.
fn register(ring: &IoUring, pool: &Pool) -> Option<NonNull<[u8]>> {
    let region = pool.region();
    let vector = libc::iovec {
        iov_base: region.cast().as_ptr(),
        iov_len: region.len(),
    };
    // SAFETY: the region is mapped now, and the kernel keeps its pages until the ring is gone,
    // whatever becomes of the mapping.
    let registered = unsafe { ring.submitter().register_buffers(&[vector]) };
    registered.is_ok().then_some(region)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::open::{OpenOptions, open};
    use crate::engine::pool::PoolShape;

    /// No file here refuses RWF_DSYNC, so the refusal is made up: one bit remembers it.
    #[test]
    fn durable_writes_without_the_flag_are_followed_by_a_sync() {
        let pool = Pool::new(PoolShape {
            count: 2,
            headroom_bytes: 0,
            data_bytes: 4096,
            alignment: 4096,
        })
        .unwrap();
        let Ok(mut engine) = UringEngine::new(2, &pool) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions {
            create_bytes: Some(8192),
            ..OpenOptions::default()
        };
        let backing = open(&folder.path().join("disk"), &options).unwrap();
        let file = engine.attach(&backing).unwrap();
        engine.files.get(file).unwrap().dsync.set(false);
        for (offset_bytes, expected) in [(0, Ok(4096)), (u64::MAX, Err(Errno::INVAL))] {
            let op = DeviceOp {
                id: OpId(3),
                kind: OpKind::Write { durable: true },
                offset_bytes,
                len_bytes: 4096,
                buffer: pool.take(),
                buffer_start: 0,
            };
            engine.submit(file, op).unwrap();
            engine.kick().unwrap();
            let completion = loop {
                if let Some((_, completion)) = engine.poll() {
                    break completion;
                }
                std::thread::yield_now();
            };
            assert_eq!((completion.id, completion.result), (OpId(3), expected));
            assert_eq!(engine.in_flight(), 0);
        }
        assert_eq!(pool.free(), 2);
    }

    #[test]
    fn a_refused_flag_is_told_from_a_refused_write() {
        let mut pieces = Pieces::new();
        // The write itself makes no sense either: the file is not to blame.
        assert_eq!(pieces.flight.advance(Err(Errno::INVAL)), None);
        assert_eq!(
            pieces.flight.advance(Err(Errno::INVAL)),
            Some(Err(Errno::INVAL))
        );
        assert!(pieces.flight.file.dsync.get());
        pieces = Pieces::new();
        assert_eq!(pieces.flight.advance(Err(Errno::OPNOTSUPP)), None);
        assert_eq!(pieces.flight.advance(Ok(4096)), None);
        assert_eq!(pieces.flight.advance(Ok(0)), Some(Ok(4096)));
        assert!(!pieces.flight.file.dsync.get());
        pieces = Pieces::new();
        assert_eq!(pieces.flight.advance(Ok(512)), Some(Ok(512)));
    }

    struct Pieces {
        flight: Flight,
        _folder: tempfile::TempDir,
    }

    impl Pieces {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let options = OpenOptions {
                create_bytes: Some(8192),
                ..OpenOptions::default()
            };
            let backing = open(&folder.path().join("disk"), &options).unwrap();
            let file = Attached {
                target: Target::new(&backing).unwrap().into(),
                route: Route::Direct,
                dsync: true.into(),
            };
            let flight = Flight {
                file_id: FileId(0),
                file: Rc::new(file),
                id: OpId(0),
                kind: OpKind::Write { durable: true },
                buffer: None,
                offset: 0,
                len_bytes: 4096,
                buffer_start: 0,
                phase: Phase::Whole,
            };
            Self {
                flight,
                _folder: folder,
            }
        }
    }
}
