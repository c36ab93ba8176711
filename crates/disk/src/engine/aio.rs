//! Linux AIO: one call hands over everything queued, completions are read from shared memory.
//!
//! For kernels and containers without io_uring, and for files in memory: what need not wait is
//! done inside that one call, where io_uring would employ a helper thread for each operation.
//!
//! The engine owns each buffer from submission to completion, never has more operations in flight
//! than the kernel has room for completions, and its end waits for the kernel; if it cannot, the
//! buffers are leaked rather than given to someone else. Read next: `aio_context.rs`,
//! the kernel's side of it, and `flight.rs`.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use super::aio_context::{Context, Iocb};
use super::flight::{Action, Flights, Landed};
use super::open::Backing;
use super::pool::Buffer;
use super::{Engine, FileId};
use crate::device::{Completion, DeviceOp, Errno};

/// Carries out operations through the kernel's older asynchronous interface.
///
/// Belongs to the thread that made it. Its descriptor ([`AsFd`]) becomes readable when completions
/// come, and stays so: wait for it edge-triggered. Reads and writes of files in memory do not touch
/// it, for they are complete when [`kick`](Engine::kick) returns.
///
/// What the kernel cannot do without waiting, it does inside [`kick`](Engine::kick): reads and
/// writes through the page cache of a disk. Two things have no asynchronous form at all and are
/// system calls that wait: discards and, before Linux 4.18, syncs.
#[derive(Debug)]
pub struct AioEngine {
    context: Context,
    /// Counts completions.
    wake: OwnedFd,
    flights: Flights,
    /// What the kernel gets with the next call.
    batch: Vec<Iocb>,
    /// What is done by calls that wait, together with the next batch.
    calls: Vec<u32>,
    /// The kernel knows `IOCB_CMD_FDSYNC`, or was not asked yet.
    fdsync: bool,
}

impl AioEngine {
    /// An engine that takes up to `capacity` operations at once.
    ///
    /// # Errors
    /// - `Unsupported` (ENOSYS): the kernel has no AIO, or a container hides it.
    /// - `PermissionDenied` (EPERM): a container forbids it.
    /// - `WouldBlock` (EAGAIN): all the system's AIO is taken. `/proc/sys/fs/aio-nr` says how much
    ///   is in use, the sysctl `fs.aio-max-nr` sets the limit; each engine counts by its capacity.
    /// - `InvalidInput`: a capacity of 0 or above 32768.
    pub fn new(capacity: usize) -> io::Result<Self> {
        let flights = Flights::new(capacity)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            context: Context::new(capacity)?,
            wake,
            flights,
            batch: Vec::with_capacity(capacity),
            calls: Vec::with_capacity(capacity),
            fdsync: true,
        })
    }

    /// Queues a flight's next step. The queues never grow: each has room for every flight, and each
    /// flight has one step at a time.
    fn push(&mut self, index: u32) -> Result<(), Errno> {
        let step = self.flights.step(index)?;
        let iocb = match step.action {
            Action::Discard { .. } => None,
            Action::Sync if !self.fdsync => None,
            _ => Iocb::new(&step, index, self.wake.as_raw_fd()),
        };
        match iocb {
            Some(iocb) => self.batch.push(iocb),
            None => self.calls.push(index),
        }
        Ok(())
    }

    /// Hands over what is queued. False when a part stays, as the kernel takes no more for now:
    /// something that it has, or that is ready, will end first.
    fn hand_over(&mut self) -> bool {
        while let Some(first) = self.batch.first().map(Iocb::index) {
            // SAFETY: each entry's memory is in its flight's buffers, which stay in `flights` until
            // the event is seen, or are leaked, and its list of pieces until the next step;
            // descriptors are held open by the flight and by us.
            match unsafe { self.context.submit(&mut self.batch) } {
                Ok(taken @ 1..) => {
                    self.batch.drain(..taken);
                }
                Err(Errno::INTR) => {}
                Ok(0) | Err(Errno::AGAIN) => {
                    if self.in_kernel() > 0 || self.flights.has_ready() {
                        break;
                    }
                    // Nothing would ever tell us to come again, so this one goes without.
                    self.batch.remove(0);
                    self.flights.carry_out(first);
                }
                Err(Errno::INVAL) if self.flights.is_sync(first) => {
                    // The kernel is too old for it.
                    self.fdsync = false;
                    self.batch.remove(0);
                    self.calls.push(first);
                }
                Err(errno) => {
                    self.batch.remove(0);
                    let landed = self.end_step(first, Err(errno));
                    self.flights.push_ready(landed);
                }
            }
        }
        while let Some(index) = self.calls.pop() {
            self.flights.carry_out(index);
        }
        self.batch.is_empty()
    }

    /// Operations handed over whose completion was not seen.
    fn in_kernel(&self) -> usize {
        self.flights.flying() - self.batch.len() - self.calls.len()
    }

    /// What a step's end leads to: the operation's completion, or another step in the queue.
    fn end_step(&mut self, index: u32, result: Result<u32, Errno>) -> Option<Landed> {
        let Some(flight) = self.flights.get_mut(index) else {
            debug_assert!(false, "completion of an operation that is not in flight");
            return None;
        };
        let result = match flight.advance(result) {
            Some(result) => result,
            None => match self.push(index) {
                Ok(()) => return None,
                Err(errno) => Err(errno),
            },
        };
        self.flights.land(index, result)
    }

    /// The next completion that the kernel has put down, if it ends an operation.
    fn reap(&mut self) -> Option<Landed> {
        while self.in_kernel() > 0 {
            let event = self.context.next_event()?;
            let index = u32::try_from(event.data).unwrap_or(u32::MAX);
            if let Some(done) = self.end_step(index, event.result()) {
                return Some(done);
            }
        }
        None
    }
}

impl Engine<Buffer> for AioEngine {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.flights.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.flights.detach(file);
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        if let Some(index) = self.flights.admit(file, op)? {
            if let Err(errno) = self.push(index) {
                self.flights.finish(index, Err(errno));
            }
        }
        Ok(())
    }

    /// Never fails: an operation that the kernel has no memory for is carried out by a call that
    /// waits, unless another's completion is to come.
    fn kick(&mut self) -> io::Result<()> {
        self.hand_over();
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        let mut stuck = false;
        loop {
            if let Some(done) = self.flights.next_ready().or_else(|| self.reap()) {
                return Some(done);
            }
            let queued = !self.batch.is_empty() || !self.calls.is_empty();
            if !queued || stuck && self.in_kernel() > 0 {
                return None;
            }
            // The second step of a durable write, or what the kernel had no room for: the caller
            // has no reason to kick.
            stuck = !self.hand_over();
        }
    }

    fn in_flight(&self) -> usize {
        self.flights.in_flight()
    }
}

impl AsFd for AioEngine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Drop for AioEngine {
    fn drop(&mut self) {
        // Waits for all that the kernel has.
        if self.context.destroy().is_err() && self.in_kernel() > 0 {
            self.flights.leak();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::OpKind;
    use crate::engine::aio_context::{Events, Fault};
    use crate::engine::flight::tests::{Bench, durable_writes_without_the_flag, wait};

    type Case<'a> = (&'a [Fault], [Result<u32, Errno>; 4]);

    const WRITE: OpKind = OpKind::Write { durable: false };
    const DURABLE: OpKind = OpKind::Write { durable: true };

    /// `None` where there is no AIO.
    fn engine(capacity: usize) -> Option<AioEngine> {
        let engine = AioEngine::new(capacity);
        engine.inspect_err(|error| println!("{error}")).ok()
    }

    #[test]
    fn durable_writes_without_the_flag_are_followed_by_a_sync() {
        let bench = Bench::new(6);
        if let Some(mut engine) = engine(2) {
            durable_writes_without_the_flag(&bench, &mut engine, |engine| &engine.flights);
        }
    }

    /// Through the ring, whose end comes many times, and without it.
    #[test]
    fn events_are_found_with_and_without_the_ring() {
        let bench = Bench::new(8);
        for ring in [true, false] {
            let Some(mut engine) = engine(8) else { return };
            assert!(matches!(engine.context.events, Events::Ring(_)));
            if !ring {
                engine.context.events = Events::by_call();
            }
            let file = engine.attach(&bench.backing).unwrap();
            for round in 0..1000 {
                for id in 0..8 {
                    let kind = if id == 7 { DURABLE } else { OpKind::Read };
                    engine.submit(file, bench.op(id, kind)).unwrap();
                }
                engine.kick().unwrap();
                let mut seen = [0; 8];
                for _ in 0..8 {
                    let done = wait(&mut engine);
                    assert_eq!(done.result, Ok(4096), "{round}");
                    seen[done.id.0 as usize] += 1;
                }
                assert_eq!(seen, [1; 8], "{round}");
                assert!(engine.poll().is_none());
            }
        }
    }

    /// Whatever `io_submit` says, each operation ends once, with its own result.
    #[test]
    fn refusals_by_the_kernel_are_survived() {
        let bench = Bench::new(6);
        let (again, intr) = (Fault::Error(Errno::AGAIN), Fault::Error(Errno::INTR));
        let broken = Fault::Error(Errno::IO);
        let cases: &[Case<'_>] = &[
            (&[intr, intr], [Ok(4096); 4]),
            (&[Fault::TakeOnly(1), Fault::TakeOnly(2)], [Ok(4096); 4]),
            (&[again; 8], [Ok(4096); 4]),
            (&[Fault::TakeOnly(0); 8], [Ok(4096); 4]),
            (&[Fault::TakeOnly(3), again, again, intr], [Ok(4096); 4]),
            (
                &[Fault::TakeOnly(2), broken, again],
                [Ok(4096), Ok(4096), Err(Errno::IO), Ok(4096)],
            ),
            (&[broken; 4], [Err(Errno::IO); 4]),
        ];
        for (faults, expected) in cases {
            let Some(mut engine) = engine(4) else { return };
            let file = engine.attach(&bench.backing).unwrap();
            engine.context.faults.extend(faults.iter());
            for op in [
                bench.gathered(0, OpKind::Read),
                bench.op(1, WRITE),
                bench.op(2, OpKind::Read),
                bench.gathered(3, WRITE),
            ] {
                engine.submit(file, op).unwrap();
            }
            engine.kick().unwrap();
            let mut results = [None; 4];
            for _ in 0..4 {
                let done = wait(&mut engine);
                let place = &mut results[done.id.0 as usize];
                assert_eq!(place.replace(done.result), None);
            }
            assert_eq!(results, expected.map(Some), "{faults:?}");
            assert_eq!(engine.in_flight(), 0);
        }
    }

    #[test]
    fn a_refused_flag_costs_one_attempt_and_a_sync() {
        let bench = Bench::new(1);
        let Some(mut engine) = engine(1) else { return };
        let file = engine.attach(&bench.backing).unwrap();
        engine
            .context
            .faults
            .push_back(Fault::Error(Errno::OPNOTSUPP));
        for _ in 0..2 {
            engine.submit(file, bench.op(0, DURABLE)).unwrap();
            engine.kick().unwrap();
            assert_eq!(wait(&mut engine).result, Ok(4096));
        }
    }

    #[test]
    fn a_kernel_without_sync_is_asked_once() {
        let bench = Bench::new(1);
        let Some(mut engine) = engine(2) else { return };
        let file = engine.attach(&bench.backing).unwrap();
        engine.context.faults.push_back(Fault::Error(Errno::INVAL));
        for _ in 0..2 {
            engine.submit(file, bench.op(0, OpKind::Sync)).unwrap();
            engine.kick().unwrap();
            assert_eq!(wait(&mut engine).result, Ok(0));
            assert!(!engine.fdsync);
        }
        // The first step is asynchronous, the second cannot be.
        let flag = Fault::Error(Errno::OPNOTSUPP);
        engine.context.faults.push_back(flag);
        engine.submit(file, bench.op(0, DURABLE)).unwrap();
        engine.kick().unwrap();
        assert_eq!(wait(&mut engine).result, Ok(4096));
    }

    #[test]
    fn buffers_are_leaked_when_the_kernel_cannot_be_waited_for() {
        let bench = Bench::new(2);
        let Some(mut engine) = engine(2) else { return };
        let file = engine.attach(&bench.backing).unwrap();
        engine.submit(file, bench.op(0, OpKind::Read)).unwrap();
        engine.kick().unwrap();
        let id = std::mem::replace(&mut engine.context.id, 1);
        drop(engine);
        assert_eq!(bench.pool.free(), 1);
        // SAFETY: the engine is gone and its ring with it; the context is still there.
        let result = unsafe { libc::syscall(libc::SYS_io_destroy, id) };
        assert_eq!(result, 0);
    }
}
