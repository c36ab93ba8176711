//! Operations in the kernel's hands: what `uring.rs` and `aio.rs` have in common.
//!
//! Who is in flight, on which file, with which buffer, and in how many steps: a durable write on a
//! file that refuses RWF_DSYNC takes two. It hands nothing to the kernel; the engines turn each
//! [`Step`] into an entry of their own kind.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;

use rustix::io::ReadWriteFlags;

use super::blocking::{Target, position};
use super::mapping::Mapping;
use super::open::{Backing, IoMode};
use super::pool::Buffer;
use super::{FileId, Files, MAX_PIECES};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpKind};

/// The most operations that an engine takes at once: io_uring's own limit.
const MAX_CAPACITY: usize = 32768;

/// A completed operation and the file it worked on.
pub(super) type Landed = (FileId, Completion<Buffer>);

/// An engine's files and the operations on them, by the number that the kernel returns.
#[derive(Debug)]
pub(super) struct Flights {
    files: Files<Rc<Attached>>,
    places: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// For each place, the pieces of memory that its operation works on. It is zeros from the
    /// kernel, so that only what is used of it ever takes memory.
    pieces: Vec<Piece>,
    /// Completions that the kernel will not tell of.
    ready: VecDeque<Landed>,
}

#[derive(Debug)]
struct Attached {
    target: RefCell<Target>,
    route: Route,
    /// Reads are answered with parts of it, as long as it has no holes.
    mapping: RefCell<Option<Rc<Mapping>>>,
}

/// What a file's operations have to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// The device, which transfers to and from our memory.
    Direct,
    /// The page cache, and behind it the device.
    Buffered,
    /// Nothing: the file is memory.
    Immediate,
}

impl Flights {
    /// Room for `capacity` operations, for good: nothing here grows later.
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        let count = u32::try_from(capacity).unwrap_or(u32::MAX);
        if !(1..=MAX_CAPACITY).contains(&capacity) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(Self {
            files: Files::new(),
            places: (0..count).map(|_| None).collect(),
            free: (0..count).rev().collect(),
            pieces: vec![[0, 0]; capacity * MAX_PIECES],
            ready: VecDeque::with_capacity(capacity),
        })
    }

    pub(super) fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        let route = match (backing.in_memory, backing.io) {
            (true, _) => Route::Immediate,
            (false, IoMode::Direct) => Route::Direct,
            (false, IoMode::Buffered | IoMode::Uncached) => Route::Buffered,
        };
        Ok(self.files.add(Rc::new(Attached {
            target: Target::new(backing)?.into(),
            route,
            // Without it, reads are copied.
            mapping: backing
                .lends
                .then(|| Mapping::new(&backing.file, backing.end_bytes()).ok())
                .flatten()
                .into(),
        })))
    }

    /// What is in flight on the file keeps it open.
    pub(super) fn detach(&mut self, file: FileId) {
        self.files.remove(file);
    }

    /// Takes an operation in and names its place; `None` when it is nonsense and has its completion
    /// already.
    pub(super) fn admit(
        &mut self,
        file_id: FileId,
        mut op: DeviceOp<Buffer>,
    ) -> Result<Option<u32>, DeviceOp<Buffer>> {
        if self.in_flight() >= self.places.len() {
            return Err(op);
        }
        let Some(file) = self.files.get(file_id) else {
            self.ready.push_back((file_id, failed(op, Errno::BADF)));
            return Ok(None);
        };
        let (base_bytes, dsync) = {
            let target = file.target.borrow();
            (target.base_bytes, target.dsync)
        };
        let offset = match position(base_bytes, op.offset_bytes, op.len_bytes) {
            Ok(offset) => offset,
            Err(errno) => {
                self.ready.push_back((file_id, failed(op, errno)));
                return Ok(None);
            }
        };
        if op.kind == OpKind::Discard {
            file.mapping.take();
        }
        if let (OpKind::Read, Memory::One(buffer)) = (op.kind, &mut op.memory) {
            let mapping = file.mapping.borrow();
            // What is lent stands for a buffer from its start.
            let mapping = mapping.as_ref().filter(|_| op.memory_start == 0);
            let lent = mapping.and_then(|mapping| mapping.lend(offset, op.len_bytes));
            if let (Some(lent), Ok(len)) = (lent, u32::try_from(op.len_bytes)) {
                buffer.lend(lent);
                let completion = Completion {
                    id: op.id,
                    memory: op.memory,
                    result: Ok(len),
                };
                self.ready.push_back((file_id, completion));
                return Ok(None);
            }
        }
        let file = Rc::clone(file);
        let Some(index) = self.free.pop() else {
            return Err(op);
        };
        let Some(place) = self.places.get_mut(index as usize) else {
            return Err(op);
        };
        let split = op.kind == OpKind::Write { durable: true } && !dsync;
        *place = Some(Flight {
            file_id,
            file,
            op,
            offset,
            phase: if split { Phase::Data } else { Phase::Whole },
        });
        Ok(Some(index))
    }

    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut Flight> {
        self.places.get_mut(index as usize)?.as_mut()
    }

    /// What the kernel is to do next for the operation.
    pub(super) fn step(&mut self, index: u32) -> Result<Step, Errno> {
        let index = index as usize;
        let flight = self.places.get_mut(index).and_then(Option::as_mut);
        let mut pieces = self.pieces.chunks_exact_mut(MAX_PIECES);
        match (flight, pieces.nth(index)) {
            (Some(flight), Some(pieces)) => flight.step(pieces),
            _ => Err(Errno::INVAL),
        }
    }

    /// Whether the operation needs to wait for nothing.
    #[cfg_attr(not(uring), expect(dead_code, reason = "AIO waits for nothing then"))]
    pub(super) fn is_immediate(&self, index: u32) -> bool {
        let flight = self.places.get(index as usize).and_then(Option::as_ref);
        flight.is_some_and(|flight| flight.file.route == Route::Immediate)
    }

    /// Whether the operation's step at hand is a sync.
    pub(super) fn is_sync(&self, index: u32) -> bool {
        let flight = self.places.get(index as usize).and_then(Option::as_ref);
        flight.is_some_and(|flight| {
            flight.op.kind == OpKind::Sync || matches!(flight.phase, Phase::SyncAfter { .. })
        })
    }

    /// The operation's end: its buffer comes home.
    pub(super) fn land(&mut self, index: u32, result: Result<u32, Errno>) -> Option<Landed> {
        let flight = self.places.get_mut(index as usize)?.take()?;
        self.free.push(index);
        let completion = Completion {
            id: flight.op.id,
            memory: flight.op.memory,
            result,
        };
        Some((flight.file_id, completion))
    }

    /// As [`Self::land`], for [`Self::next_ready`] to give later.
    pub(super) fn finish(&mut self, index: u32, result: Result<u32, Errno>) {
        let landed = self.land(index, result);
        self.push_ready(landed);
    }

    pub(super) fn push_ready(&mut self, landed: Option<Landed>) {
        self.ready.extend(landed);
    }

    /// Carries out the rest of an operation here and now, by system calls that wait.
    pub(super) fn carry_out(&mut self, index: u32) {
        if let Some(flight) = self.get_mut(index) {
            let result = flight.carry_out();
            self.finish(index, result);
        }
    }

    /// As [`Self::carry_out`], for everything in flight.
    #[cfg_attr(not(uring), expect(dead_code, reason = "AIO can take back its queue"))]
    pub(super) fn carry_out_all(&mut self) {
        for index in (0..).take(self.places.len()) {
            self.carry_out(index);
        }
    }

    /// A completion that needs nothing more from the kernel.
    pub(super) fn next_ready(&mut self) -> Option<Landed> {
        self.ready.pop_front()
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Operations that were admitted and have not landed.
    pub(super) fn flying(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.flying() + self.ready.len()
    }

    /// Keeps the buffers and files of what is in flight from everyone, for ever.
    pub(super) fn leak(&mut self) {
        #[expect(clippy::mem_forget, reason = "the kernel may still write to them")]
        std::mem::forget(std::mem::take(&mut self.places));
    }
}

/// An operation in the kernel's hands.
#[derive(Debug)]
pub(super) struct Flight {
    file_id: FileId,
    file: Rc<Attached>,
    op: DeviceOp<Buffer>,
    /// In the file.
    offset: u64,
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

/// What the kernel is to do next for an operation. Memory and descriptor stay valid while the
/// flight is in its place, lists of pieces until its next step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) fd: RawFd,
    pub(super) route: Route,
    /// In the file; for a sync it means nothing.
    pub(super) offset: u64,
    /// `RWF_…` flags of a read or write.
    pub(super) flags: i32,
    pub(super) action: Action,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Read(Span),
    Write(Span),
    Sync,
    #[cfg_attr(not(uring), expect(dead_code, reason = "done by a call without it"))]
    Discard {
        len_bytes: u64,
    },
}

/// A `struct iovec`: address and length.
type Piece = [usize; 2];

/// The memory that a transfer is about.
#[derive(Clone, Copy, Debug)]
pub(super) enum Span {
    /// One piece.
    One { start: *mut u8, len_bytes: u32 },
    /// A list of pieces, of which the kernel makes its own when it takes the step.
    List { first: *const Piece, count: u32 },
}

impl Flight {
    fn step(&mut self, pieces: &mut [Piece]) -> Result<Step, Errno> {
        let action = match (self.op.kind, self.phase) {
            (_, Phase::SyncAfter { .. }) | (OpKind::Sync, _) => Action::Sync,
            (OpKind::Discard, _) => Action::Discard {
                len_bytes: self.op.len_bytes,
            },
            (OpKind::Read, _) => Action::Read(self.memory(pieces)?),
            (OpKind::Write { .. }, _) => Action::Write(self.memory(pieces)?),
        };
        let target = self.file.target.borrow();
        let mut flags = target.flags;
        let durable = self.op.kind == OpKind::Write { durable: true };
        flags.set(ReadWriteFlags::DSYNC, durable && self.phase == Phase::Whole);
        Ok(Step {
            fd: target.file.as_raw_fd(),
            route: self.file.route,
            offset: self.offset,
            #[expect(clippy::cast_possible_wrap, reason = "flags have no sign")]
            flags: flags.bits() as i32,
            action,
        })
    }

    /// What a step's end means: the operation's result, or that the next step is to be submitted.
    pub(super) fn advance(&mut self, result: Result<u32, Errno>) -> Option<Result<u32, Errno>> {
        let durable = self.op.kind == OpKind::Write { durable: true };
        match (self.phase, result) {
            (Phase::Whole, Err(Errno::OPNOTSUPP | Errno::INVAL)) if durable => {
                self.phase = Phase::Data;
                None
            }
            (Phase::Data, Ok(written)) => {
                // Without the flag it works: the flag was the trouble, and will be next time.
                self.file.target.borrow_mut().dsync = false;
                self.phase = Phase::SyncAfter { written };
                None
            }
            (Phase::SyncAfter { written }, Ok(_)) => Some(Ok(written)),
            (_, result) => Some(result),
        }
    }

    /// Does what is left of the operation, and waits for it.
    pub(super) fn carry_out(&mut self) -> Result<u32, Errno> {
        let mut target = self.file.target.borrow_mut();
        match self.phase {
            Phase::SyncAfter { written } => target.sync().map(|()| written),
            Phase::Whole | Phase::Data => target.execute(&mut self.op),
        }
    }

    /// Lists the pieces of memory; neighbours are one. What the list cannot hold is left out.
    fn memory(&mut self, list: &mut [Piece]) -> Result<Span, Errno> {
        let DeviceOp {
            memory,
            memory_start,
            len_bytes,
            ..
        } = &mut self.op;
        // A result must be able to tell of all.
        u32::try_from(*len_bytes).map_err(|_| Errno::INVAL)?;
        let first = list.as_ptr();
        let mut count = 0;
        let mut places = list.iter_mut();
        let mut last: Option<&mut Piece> = None;
        memory.for_each_mut(*memory_start, *len_bytes, |piece| {
            let (start, len) = (piece.as_mut_ptr().expose_provenance(), piece.len());
            match &mut last {
                Some([last_start, last_len]) if *last_start + *last_len == start => {
                    *last_len += len;
                }
                _ => {
                    last = places.next();
                    if let Some(place) = &mut last {
                        **place = [start, len];
                        count += 1;
                    }
                }
            }
        })?;
        Ok(match last {
            Some([start, len]) if count == 1 => Span::One {
                start: std::ptr::with_exposed_provenance_mut(*start),
                len_bytes: u32::try_from(*len).map_err(|_| Errno::INVAL)?,
            },
            _ => Span::List { first, count },
        })
    }
}

fn failed(op: DeviceOp<Buffer>, errno: Errno) -> Completion<Buffer> {
    Completion {
        id: op.id,
        memory: op.memory,
        result: Err(errno),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::device::{OpId, Part};
    use crate::engine::Engine;
    use crate::engine::open::{IoMode, OpenOptions, open};
    use crate::engine::pool::{Pool, PoolShape};

    /// A pool, and a file of two blocks in a folder that goes away.
    pub(in crate::engine) struct Bench {
        pub(in crate::engine) pool: Pool,
        pub(in crate::engine) backing: Backing,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        pub(in crate::engine) fn new(buffers: usize) -> Self {
            let shape = PoolShape {
                count: buffers,
                headroom_bytes: 0,
                data_bytes: 4096,
                alignment: 4096,
            };
            let folder = tempfile::tempdir().unwrap();
            let options = OpenOptions {
                create_bytes: Some(8192),
                ..OpenOptions::default()
            };
            Self {
                pool: Pool::new(shape).unwrap(),
                backing: open(&folder.path().join("disk"), &options).unwrap(),
                _folder: folder,
            }
        }

        /// As [`Self::op`], with the memory in two pieces, the second in front of the first.
        pub(in crate::engine) fn gathered(&self, id: u32, kind: OpKind) -> DeviceOp<Buffer> {
            let mut buffers = [self.pool.take().unwrap(), self.pool.take().unwrap()];
            buffers.sort_by_key(|buffer| std::cmp::Reverse(buffer.data().as_ptr()));
            let parts = buffers.map(|mut buffer| {
                buffer.data_mut().fill(0);
                let len_bytes = 2048;
                Part { buffer, len_bytes }
            });
            DeviceOp {
                id: OpId(id),
                kind,
                offset_bytes: 0,
                len_bytes: 4096,
                memory: Memory::Parts(parts.into()),
                memory_start: 0,
            }
        }

        pub(in crate::engine) fn op(&self, id: u32, kind: OpKind) -> DeviceOp<Buffer> {
            let transfer = matches!(kind, OpKind::Read | OpKind::Write { .. });
            DeviceOp {
                id: OpId(id),
                kind,
                offset_bytes: 0,
                len_bytes: if kind == OpKind::Sync { 0 } else { 4096 },
                memory: if transfer {
                    Memory::One(self.pool.take().unwrap())
                } else {
                    Memory::None
                },
                memory_start: 0,
            }
        }
    }

    pub(in crate::engine) fn wait<E: Engine<Buffer>>(engine: &mut E) -> Completion<Buffer> {
        loop {
            if let Some((_, completion)) = engine.poll() {
                return completion;
            }
            std::thread::yield_now();
        }
    }

    impl Flights {
        /// The file counts as one that refuses RWF_DSYNC.
        pub(in crate::engine) fn forget_dsync(&self, file: FileId) {
            let attached = self.files.get(file).unwrap();
            attached.target.borrow_mut().dsync = false;
        }
    }

    /// No file here refuses RWF_DSYNC, so the refusal is made up: one bit remembers it.
    pub(in crate::engine) fn durable_writes_without_the_flag<E: Engine<Buffer>>(
        bench: &Bench,
        engine: &mut E,
        flights: impl Fn(&E) -> &Flights,
    ) {
        let file = engine.attach(&bench.backing).unwrap();
        flights(engine).forget_dsync(file);
        let durable = OpKind::Write { durable: true };
        let whole = || bench.op(3, durable);
        let gathered = || bench.gathered(3, durable);
        let nowhere = |op| DeviceOp {
            offset_bytes: u64::MAX,
            ..op
        };
        let refused = Err(Errno::INVAL);
        let cases = [
            (whole(), Ok(4096)),
            (nowhere(whole()), refused),
            (gathered(), Ok(4096)),
            (nowhere(gathered()), refused),
        ];
        for (op, expected) in cases {
            engine.submit(file, op).unwrap();
            engine.kick().unwrap();
            let completion = wait(engine);
            assert_eq!((completion.id, completion.result), (OpId(3), expected));
            assert_eq!(engine.in_flight(), 0);
        }
        assert_eq!(bench.pool.free(), bench.pool.shape().count);
    }

    #[test]
    fn the_rest_of_a_buffer_is_not_lent() {
        let Ok(folder) = tempfile::tempdir_in("/dev/shm") else {
            return;
        };
        let path = folder.path().join("disk");
        std::fs::write(&path, [7; 8192]).unwrap();
        let options = OpenOptions {
            io: IoMode::Buffered,
            ..OpenOptions::default()
        };
        let backing = open(&path, &options).unwrap();
        let bench = Bench::new(1);
        for (memory_start, is_lent) in [(0, true), (512, false)] {
            let mut flights = Flights::new(1).unwrap();
            let file = flights.attach(&backing).unwrap();
            let read = DeviceOp {
                len_bytes: 512,
                memory_start,
                ..bench.op(0, OpKind::Read)
            };
            let place = flights.admit(file, read).unwrap();
            assert_eq!(place.is_none(), is_lent, "from byte {memory_start} on");
        }
    }

    #[test]
    fn a_refused_flag_is_told_from_a_refused_write() {
        let bench = Bench::new(1);
        let durable = || {
            let mut flights = Flights::new(1).unwrap();
            let file = flights.attach(&bench.backing).unwrap();
            let op = bench.op(0, OpKind::Write { durable: true });
            let index = flights.admit(file, op).unwrap().unwrap();
            flights.places[index as usize].take().unwrap()
        };
        let takes_flag = |flight: &Flight| flight.file.target.borrow().dsync;

        let mut flight = durable();
        // The write itself makes no sense either: the file is not to blame.
        assert_eq!(flight.advance(Err(Errno::INVAL)), None);
        assert_eq!(flight.advance(Err(Errno::INVAL)), Some(Err(Errno::INVAL)));
        assert!(takes_flag(&flight));
        drop(flight);

        let mut flight = durable();
        assert_eq!(flight.advance(Err(Errno::OPNOTSUPP)), None);
        assert_eq!(flight.advance(Ok(4096)), None);
        assert_eq!(flight.advance(Ok(0)), Some(Ok(4096)));
        assert!(!takes_flag(&flight));
        drop(flight);

        assert_eq!(durable().advance(Ok(512)), Some(Ok(512)));
    }

    #[test]
    fn only_the_first_attempt_of_a_durable_write_has_the_flag() {
        let bench = Bench::new(1);
        let mut flights = Flights::new(1).unwrap();
        let file = flights.attach(&bench.backing).unwrap();
        for (uncached, flag) in [(false, 0), (true, 0x80)] {
            let attached = Rc::clone(flights.files.get(file).unwrap());
            let kept = ReadWriteFlags::from_bits_retain(0x80);
            attached.target.borrow_mut().flags.set(kept, uncached);
            for (kind, first) in [
                (OpKind::Read, 0),
                (OpKind::Write { durable: false }, 0),
                (OpKind::Write { durable: true }, 2),
            ] {
                let index = flights.admit(file, bench.op(0, kind)).unwrap().unwrap();
                assert_eq!(flights.step(index).unwrap().flags, first | flag, "{kind:?}");
                if first != 0 {
                    let refused = Err(Errno::OPNOTSUPP);
                    assert_eq!(flights.get_mut(index).unwrap().advance(refused), None);
                    assert_eq!(flights.step(index).unwrap().flags, flag);
                }
                drop(flights.land(index, Ok(0)));
            }
        }
    }

    /// Lengths of what the kernel is given, for parts of these buffers with these lengths.
    fn pieces(order: &[usize], lens: &[u32], start: usize, len_bytes: u64) -> Vec<usize> {
        let bench = Bench::new(4);
        let mut flights = Flights::new(2).unwrap();
        let file = flights.attach(&bench.backing).unwrap();
        let mut buffers: Vec<_> = (0..4).map(|_| bench.pool.take()).collect();
        let list = order.iter().zip(lens).map(|(&index, &len_bytes)| Part {
            buffer: buffers[index].take().unwrap(),
            len_bytes,
        });
        let op = DeviceOp {
            id: OpId(0),
            kind: OpKind::Read,
            offset_bytes: 0,
            len_bytes,
            memory: Memory::Parts(list.collect()),
            memory_start: start,
        };
        let index = flights.admit(file, op).unwrap().unwrap();
        match flights.step(index).unwrap().action {
            Action::Read(Span::One { len_bytes, .. }) => vec![len_bytes as usize],
            Action::Read(Span::List { count, .. }) => {
                let list = &flights.pieces[index as usize * MAX_PIECES..][..count as usize];
                list.iter().map(|&[_, len]| len).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn neighbours_are_one_piece() {
        let page = 4096;
        assert_eq!(pieces(&[0, 1, 2], &[page; 3], 0, 12288), [12288]);
        assert_eq!(pieces(&[0, 1, 2], &[page; 3], 512, 8192), [8192]);
        assert_eq!(pieces(&[0, 1, 3], &[page; 3], 0, 12288), [8192, 4096]);
        assert_eq!(pieces(&[2, 1, 0], &[page; 3], 0, 12288), [4096; 3]);
        assert_eq!(
            pieces(&[0, 1, 2], &[page, 512, page], 0, 8704),
            [4608, 4096]
        );
        assert_eq!(pieces(&[0, 2], &[page; 2], 4096, 1024), [1024]);
        assert_eq!(pieces(&[0, 2], &[page; 2], 4095, 2), [1, 1]);
    }

    #[test]
    fn impossible_capacities_are_refused() {
        for capacity in [0, MAX_CAPACITY + 1, usize::MAX] {
            let error = Flights::new(capacity).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{capacity}");
        }
    }
}
