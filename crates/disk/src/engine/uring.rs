//! io_uring: one call hands over everything queued, completions are read from shared memory.
//!
//! Three things keep it safe. The engine owns each buffer from submission to completion. It never
//! has more operations in flight than the completion queue holds. And its end waits for the
//! kernel; if it cannot, the buffers are leaked rather than given to someone else.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{IoUring, opcode, squeue};
use rustix::event::{EventfdFlags, eventfd};

use super::flight::{Action, Flights, Landed, Route, Span, Step};
use super::open::Backing;
use super::pool::{Buffer, Pool};
use super::{Engine, FileId};
use crate::device::{Completion, DeviceOp, Errno};

/// Carries out operations through the kernel's submission and completion rings.
///
/// Belongs to the thread that made it. Its descriptor ([`AsFd`]) becomes readable when completions
/// come, and stays so: wait for it edge-triggered. The ring's own descriptor would not do, as it
/// says nothing of completions whose processing is deferred to us. A wait may also end with EINTR,
/// when the kernel starts a thread for an operation that has to wait: go round once more then.
///
/// A kernel that takes nothing at all, for want of memory, does not end the work: what is queued is
/// carried out by system calls that wait, as are some more operations, then a new ring is tried.
#[derive(Debug)]
pub struct UringEngine {
    ring: Ring,
    /// Counts completions.
    wake: OwnedFd,
    flights: Flights,
    /// Operations that the kernel gets with the next call.
    queued: usize,
    /// The pool's memory, where the kernel has it pinned and mapped.
    registered: Option<NonNull<[u8]>>,
    /// Operations to be carried out without the ring, which is lost, before another is made.
    without: u32,
    #[cfg(test)]
    faults: std::collections::VecDeque<i32>,
}

/// Operations carried out by calls that wait after the kernel took none: a new ring costs more than
/// a few of them.
const WITHOUT_RING: u32 = 256;

struct Ring(IoUring);

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Ring").field(&self.0.as_raw_fd()).finish()
    }
}

impl UringEngine {
    /// An engine that takes up to `capacity` operations at once, on buffers of `pool`.
    ///
    /// # Errors
    /// The kernel has no io_uring, forbids making or using it, or lacks operations that we need
    /// (before 5.6). One operation is carried out to see.
    pub fn new(capacity: usize, pool: &Pool) -> io::Result<Self> {
        let flights = Flights::new(capacity)?;
        let entries = u32::try_from(capacity).map_err(io::Error::other)?;
        let mut ring = build_ring(entries.next_power_of_two())?;
        check_operations(&ring)?;
        try_out(&mut ring)?;
        let registered = register(&ring, pool);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        Ok(Self {
            ring: Ring(ring),
            wake,
            flights,
            queued: 0,
            registered,
            without: 0,
            #[cfg(test)]
            faults: std::collections::VecDeque::new(),
        })
    }

    /// Whether the kernel has the pool's memory pinned: it saves work on each direct transfer.
    /// Without the right to lock that much memory the engine goes on without.
    pub fn has_registered_buffers(&self) -> bool {
        self.registered.is_some()
    }

    /// Puts a flight's next step into the submission ring. Room is certain: the ring has as many
    /// places as there are flights, and each has one step at a time. Of files in memory the ring
    /// would give each to a helper thread, though none ever waits: they are carried out here.
    fn push(&mut self, index: u32) -> Result<(), Errno> {
        if self.flights.is_immediate(index) || self.does_without() {
            self.flights.carry_out(index);
            return Ok(());
        }
        let step = self.flights.step(index)?;
        let entry = entry(&step, self.registered).user_data(index.into());
        // SAFETY: the entry's memory is in the flight's buffers, which stay in `flights` until the
        // completion is seen, or are leaked; its descriptor is held open by the flight's `Rc`. A
        // list of pieces stays as it is until the kernel has taken the entry, and with it the list
        // (`check_operations`): the flight has no other step before this one has ended.
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
        #[cfg(test)]
        if let Some(errno) = self.faults.pop_front() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let result = self.ring.0.submit_and_wait(wait_for);
        self.queued = self.ring.0.submission().len();
        result.map(|_| ())
    }

    /// Hands over what is queued. False when a part stays, as the kernel takes no more for now:
    /// something that it has, or that is ready, will end first.
    fn hand_over(&mut self) -> bool {
        loop {
            let before = self.queued;
            match self.enter(0) {
                // It took a part when one entry was refused; that one's completion says so.
                Ok(()) if self.queued > 0 && self.queued < before => {}
                Ok(()) => return self.queued == 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Out of memory for now, or completions wait to be read: with something of ours in
                // its hands there will be a completion, and with it the next call.
                Err(_) if self.queued < self.flights.flying() || self.flights.has_ready() => {
                    self.run_deferred_work();
                    return false;
                }
                Err(_) => {
                    self.lose_ring();
                    return true;
                }
            }
        }
    }

    /// A call that fails to hand over does not come to this.
    fn run_deferred_work(&mut self) {
        const GETEVENTS: u32 = 1;
        // SAFETY: it hands nothing over, and has no argument.
        let result = unsafe { self.ring.0.submitter().enter::<()>(0, 0, GETEVENTS, None) };
        // If it fails as well, the next turn has another.
        let _ = result;
    }

    /// Carries out by calls that wait what the kernel did not take, when it has nothing of ours:
    /// nothing would ever tell us to come again. What stands in the submission ring cannot be taken
    /// back, so that ring is never handed over again.
    fn lose_ring(&mut self) {
        self.flights.carry_out_all();
        self.queued = 0;
        self.without = WITHOUT_RING;
    }

    /// Whether the next operation has to go without the ring; makes a new one when it is time.
    fn does_without(&mut self) -> bool {
        if self.without == 0 {
            return false;
        }
        self.without -= 1;
        if self.without > 0 {
            return true;
        }
        let lost = self.renew_ring().is_err();
        if lost {
            self.without = WITHOUT_RING;
        }
        lost
    }

    /// Takes a new ring in the place of the lost one. The pool may be gone by now, so nothing is
    /// registered.
    fn renew_ring(&mut self) -> io::Result<()> {
        let entries = self.ring.0.params().sq_entries();
        let mut ring = build_ring(entries)?;
        try_out(&mut ring)?;
        ring.submitter().register_eventfd(self.wake.as_raw_fd())?;
        self.ring = Ring(ring);
        self.registered = None;
        Ok(())
    }

    /// The next completion in shared memory, if it ends an operation; a durable write may need a
    /// second step first.
    fn reap(&mut self) -> Option<Landed> {
        loop {
            let entry = self.ring.0.completion().next()?;
            let result = u32::try_from(entry.result()).map_err(|_| Errno(-entry.result()));
            let Ok(index) = u32::try_from(entry.user_data()) else {
                continue;
            };
            let Some(flight) = self.flights.get_mut(index) else {
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
            return self.flights.land(index, result);
        }
    }

    /// Whether completed operations wait for a call of ours to become visible.
    fn has_deferred_work(&mut self) -> bool {
        self.flights.flying() > 0 && self.ring.0.submission().taskrun()
    }
}

impl Engine<Buffer> for UringEngine {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.flights.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.flights.detach(file);
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        let Some(index) = self.flights.admit(file, op)? else {
            return Ok(());
        };
        if let Err(errno) = self.push(index) {
            self.flights.finish(index, Err(errno));
        }
        Ok(())
    }

    /// Never fails: what the kernel does not take, when it has nothing of ours, is carried out by
    /// calls that wait.
    fn kick(&mut self) -> io::Result<()> {
        if self.queued > 0 || self.has_deferred_work() {
            self.hand_over();
        }
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        let mut stuck = false;
        loop {
            if let Some(done) = self.flights.next_ready() {
                return Some(done);
            }
            if self.flights.flying() == 0 {
                return None;
            }
            if let Some(done) = self.reap() {
                return Some(done);
            }
            // Each call runs a bounded part of the deferred work. The second step of a durable
            // write is handed over here too: the caller has no reason to kick.
            if stuck || self.queued == 0 && !self.has_deferred_work() {
                return None;
            }
            stuck = !self.hand_over();
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.in_flight()
    }
}

impl AsFd for UringEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for UringEngine {
    fn drop(&mut self) {
        while self.flights.flying() > 0 {
            while self.reap().is_some() {}
            if self.flights.flying() == 0 {
                break;
            }
            match self.enter(1) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.flights.leak();
                    return;
                }
            }
        }
    }
}

/// The submission entry for a step.
fn entry(step: &Step, registered: Option<NonNull<[u8]>>) -> squeue::Entry {
    let (fd, offset, flags) = (Fd(step.fd), step.offset, step.flags);
    match step.action {
        Action::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        Action::Discard { len_bytes } => {
            let hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
            let discard = opcode::Fallocate::new(fd, len_bytes);
            discard.offset(offset).mode(hole).build()
        }
        Action::Read(Span::One { start, len_bytes }) => {
            if is_in(registered, step.route, start, len_bytes) {
                let read = opcode::ReadFixed::new(fd, start, len_bytes, 0);
                read.offset(offset).rw_flags(flags).build()
            } else {
                let read = opcode::Read::new(fd, start, len_bytes);
                read.offset(offset).rw_flags(flags).build()
            }
        }
        Action::Read(Span::List { first, count }) => {
            let read = opcode::Readv::new(fd, first.cast(), count);
            read.offset(offset).rw_flags(flags).build()
        }
        Action::Write(Span::One { start, len_bytes }) => {
            if is_in(registered, step.route, start, len_bytes) {
                let write = opcode::WriteFixed::new(fd, start, len_bytes, 0);
                write.offset(offset).rw_flags(flags).build()
            } else {
                let write = opcode::Write::new(fd, start, len_bytes);
                write.offset(offset).rw_flags(flags).build()
            }
        }
        Action::Write(Span::List { first, count }) => {
            let write = opcode::Writev::new(fd, first.cast(), count);
            write.offset(offset).rw_flags(flags).build()
        }
    }
}

/// Whether to use registered memory: it pays for direct transfers, and buffers of another pool are
/// not in it, or not to their end where that pool is its neighbour.
fn is_in(registered: Option<NonNull<[u8]>>, route: Route, start: *mut u8, len_bytes: u32) -> bool {
    route == Route::Direct
        && registered.is_some_and(|region| {
            let base = region.cast::<u8>().addr().get();
            let place = start.addr().checked_sub(base);
            let end = place.and_then(|place| place.checked_add(len_bytes as usize));
            end.is_some_and(|end| end <= region.len())
        })
}

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
        opcode::Readv::CODE,
        opcode::Writev::CODE,
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

/// Carries out an operation that does nothing: some containers let rings be made, but not used.
fn try_out(ring: &mut IoUring) -> io::Result<()> {
    let nothing = opcode::Nop::new().build();
    // SAFETY: the entry names neither memory nor a descriptor.
    let pushed = unsafe { ring.submission().push(&nothing) };
    pushed.map_err(io::Error::other)?;
    while let Err(error) = ring.submit_and_wait(1) {
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    match ring.completion().next().map(|entry| entry.result()) {
        Some(0) => Ok(()),
        Some(result) => Err(io::Error::from_raw_os_error(-result)),
        None => Err(io::ErrorKind::Unsupported.into()),
    }
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
    use crate::device::OpKind;
    use crate::engine::flight::tests::{Bench, durable_writes_without_the_flag, wait};

    #[test]
    fn durable_writes_without_the_flag_are_followed_by_a_sync() {
        let bench = Bench::new(6);
        if let Ok(mut engine) = UringEngine::new(2, &bench.pool) {
            durable_writes_without_the_flag(&bench, &mut engine, |engine| &engine.flights);
        }
    }

    const WRITE: OpKind = OpKind::Write { durable: false };
    const DURABLE: OpKind = OpKind::Write { durable: true };

    /// Whatever `io_uring_enter` says, each operation ends once, and the caller need not come again.
    #[test]
    fn a_kernel_that_takes_nothing_is_survived() {
        let bench = Bench::new(4);
        for errno in [libc::EAGAIN, libc::ENOMEM, libc::EBUSY, libc::EPERM] {
            let Ok(mut engine) = UringEngine::new(4, &bench.pool) else {
                return;
            };
            let file = engine.attach(&bench.backing).unwrap();
            engine.faults.extend([libc::EINTR, errno]);
            for (id, kind) in [(0, OpKind::Read), (1, DURABLE), (2, OpKind::Sync)] {
                engine.submit(file, bench.op(id, kind)).unwrap();
            }
            engine.kick().unwrap();
            let mut results = [None; 3];
            for _ in 0..3 {
                let (_, done) = engine.poll().unwrap();
                let place = &mut results[done.id.0 as usize];
                assert_eq!(place.replace(done.result), None);
            }
            assert_eq!(results, [Some(Ok(4096)), Some(Ok(4096)), Some(Ok(0))]);
            assert_eq!(engine.in_flight(), 0);
            // Without the ring, and with the new one.
            for round in 0..2 * WITHOUT_RING {
                engine.submit(file, bench.op(0, WRITE)).unwrap();
                engine.kick().unwrap();
                assert_eq!(wait(&mut engine).result, Ok(4096));
                let renewed = round + 1 >= WITHOUT_RING;
                assert_eq!(engine.without == 0, renewed, "{round}");
            }
            assert_eq!(bench.pool.free(), 4);
        }
    }

    #[test]
    fn the_second_step_of_a_durable_write_is_never_stranded() {
        let bench = Bench::new(1);
        for faults in [&[libc::EINTR][..], &[libc::EAGAIN]] {
            let Ok(mut engine) = UringEngine::new(1, &bench.pool) else {
                return;
            };
            let file = engine.attach(&bench.backing).unwrap();
            engine.flights.forget_dsync(file);
            engine.submit(file, bench.op(0, DURABLE)).unwrap();
            engine.kick().unwrap();
            // The first step's end is known, the second is not handed over yet.
            while engine.queued == 0 {
                assert!(engine.reap().is_none());
                engine.run_deferred_work();
            }
            engine.faults.extend(faults);
            let done = engine.poll();
            if faults == [libc::EAGAIN] {
                assert_eq!(done.unwrap().1.result, Ok(4096));
            } else {
                assert_eq!(engine.queued, 0, "the kernel has it");
                let done = done.map_or_else(|| wait(&mut engine), |(_, done)| done);
                assert_eq!(done.result, Ok(4096));
            }
        }
    }
}
