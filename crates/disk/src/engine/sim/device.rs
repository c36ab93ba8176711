//! The simulated disk at work: what each operation does, and when.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use super::random::Random;
use super::sectors::{Content, SECTOR, Sectors};
use super::{Faults, FaultyRegion, Latency, SimDiskShape};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpKind};

/// As the kernel: most pieces of memory in one operation.
const MAX_PARTS: usize = 1024;

pub(super) struct Device<B> {
    pub(super) shape: SimDiskShape,
    pub(super) latency: Latency,
    pub(super) faults: Faults,
    pub(super) faulty: Vec<FaultyRegion>,
    pub(super) now: Duration,
    pub(super) sectors: Sectors,
    /// Where it really ends: `shape` has what its user knows of that.
    end_bytes: u64,
    random: Random,
    /// Number of the last operation started: those due at one time complete in that order.
    sequence: u64,
    /// Submitted and not started.
    queue: VecDeque<DeviceOp<B>>,
    /// By the time they are due, then by sequence.
    flights: BTreeMap<(Duration, u64), Flight<B>>,
    /// An operation's memory in one piece.
    scratch: Vec<u8>,
}

struct Flight<B> {
    op: DeviceOp<B>,
    /// For a sync: the last version that it covers.
    covers: u64,
    /// Where the disk ended at its start, or nearer since then.
    end_bytes: u64,
}

impl<B> Device<B> {
    pub(super) fn new(seed: u64, shape: SimDiskShape) -> Self {
        Self {
            shape,
            latency: Latency::default(),
            faults: Faults::default(),
            faulty: Vec::new(),
            now: Duration::ZERO,
            sectors: Sectors::default(),
            end_bytes: shape.size_bytes,
            random: Random::new(seed),
            sequence: 0,
            queue: VecDeque::new(),
            flights: BTreeMap::new(),
            scratch: Vec::new(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.queue.len() + self.flights.len()
    }

    pub(super) fn set_end(&mut self, end_bytes: u64) {
        self.end_bytes = end_bytes;
        for flight in self.flights.values_mut() {
            flight.end_bytes = flight.end_bytes.min(end_bytes);
        }
        self.sectors.cut(end_bytes / SECTOR as u64);
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.flights.first_key_value().map(|((due, _), _)| *due)
    }

    pub(super) fn start(&mut self) {
        while let Some(op) = self.queue.pop_front() {
            let Latency { least, most, .. } = self.latency;
            let spread = most.saturating_sub(least).as_nanos();
            let spread = u64::try_from(spread).unwrap_or(u64::MAX);
            let mut due = self.now + least + Duration::from_nanos(self.random.within(0..=spread));
            if self.random.chance(self.latency.slow_ppm) {
                due += self.latency.slow;
            }
            self.sequence += 1;
            let covers = self.sectors.sequence();
            let end_bytes = self.end_bytes;
            let flight = Flight {
                op,
                covers,
                end_bytes,
            };
            self.flights.insert((due, self.sequence), flight);
        }
    }
}

impl<B: AsMut<[u8]>> Device<B> {
    pub(super) fn submit(&mut self, op: DeviceOp<B>) -> Result<(), DeviceOp<B>> {
        if self.in_flight() >= self.shape.capacity {
            return Err(op);
        }
        self.check(&op);
        self.queue.push_back(op);
        Ok(())
    }

    /// The first operation that is due takes effect and ends.
    pub(super) fn complete(&mut self) -> Option<Completion<B>> {
        let due = self.next_due().filter(|due| *due <= self.now);
        let (_, mut flight) = due.and_then(|_| self.flights.pop_first())?;
        let result = self.execute(&mut flight);
        let op = flight.op;
        Some(Completion {
            id: op.id,
            memory: op.memory,
            result,
        })
    }

    pub(super) fn cut_power(&mut self) {
        self.abandon();
        self.sectors.cut_power(&mut self.random);
    }

    /// Nobody waits for what is in flight any more. It has reached any of its sectors.
    pub(super) fn abandon(&mut self) {
        self.queue.clear();
        for mut flight in std::mem::take(&mut self.flights).into_values() {
            // What is no write or discard, or brings too little memory, reaches none.
            let _ = self.reach_some(&mut flight);
        }
    }

    /// Panics about what a volume must never ask for.
    fn check(&self, op: &DeviceOp<B>) {
        let (kind, id) = (op.kind, op.id);
        if kind == OpKind::Sync {
            return;
        }
        let range = range(op);
        let Range { start, end } = range;
        let size = self.shape.size_bytes;
        assert!(start < end, "{kind:?} {id:?} is about nothing");
        assert!(
            end <= size,
            "{kind:?} {id:?} of {range:?} is beyond the end, {size}"
        );
        let block = u64::from(match kind {
            OpKind::Discard => self.shape.discard_bytes,
            _ => self.shape.block_bytes,
        });
        assert!(
            start % block == 0 && (end % block == 0 || end == size),
            "{kind:?} {id:?} of {range:?} is not whole blocks of {block} bytes"
        );
        self.check_memory(op);
        let flights = self.flights.values().map(|flight| &flight.op);
        for other in self.queue.iter().chain(flights) {
            let overlap = self::range(other);
            let overlap = overlap.start < end && start < overlap.end;
            assert!(
                !overlap || (kind, other.kind) == (OpKind::Read, OpKind::Read),
                "{kind:?} {id:?} of {range:?} overlaps {:?} {:?} of {:?}, which is in flight",
                other.kind,
                other.id,
                self::range(other)
            );
        }
    }

    /// The kernel wants whole blocks of direct I/O, piece by piece.
    fn check_memory(&self, op: &DeviceOp<B>) {
        let block = self.shape.block_bytes as usize;
        assert!(
            op.memory_start % block == 0,
            "{op_id:?} starts inside a block of its memory, at {start}",
            op_id = op.id,
            start = op.memory_start
        );
        let Memory::Parts(parts) = &op.memory else {
            return;
        };
        let (count, id) = (parts.len(), op.id);
        assert!(count <= MAX_PARTS, "{id:?} has {count} pieces");
        let mut lens = parts.iter().map(|part| part.len_bytes as usize);
        lens.next_back();
        assert!(
            lens.all(|len| len % block == 0),
            "{id:?} has a piece that is not whole blocks"
        );
    }

    fn execute(&mut self, flight: &mut Flight<B>) -> Result<u32, Errno> {
        if self.random.chance(self.faults.interrupted_ppm) {
            let again = self.random.coin();
            return Err(if again { Errno::AGAIN } else { Errno::INTR });
        }
        match flight.op.kind {
            OpKind::Read => self.read(flight),
            OpKind::Write { durable } => self.write(flight, durable),
            OpKind::Sync => self.sync(flight.covers),
            OpKind::Discard => self.discard(flight),
        }
    }

    fn read(&mut self, flight: &mut Flight<B>) -> Result<u32, Errno> {
        let ending = if self.random.chance(self.faults.read_error_ppm) {
            Err(Errno::IO)
        } else {
            self.transfer(flight, |region| region.reads)
        };
        let op = &mut flight.op;
        let Ok(len) = ending else {
            let scribbled = self.random.below(op.len_bytes + 1);
            op.memory
                .for_each_mut(op.memory_start, scribbled, |piece| piece.fill(0xEE))?;
            return ending;
        };
        let sectors = u64::from(len).div_ceil(SECTOR as u64);
        self.scratch.clear();
        // Fits: it is no longer than the memory.
        let bytes = usize::try_from(sectors).unwrap_or(usize::MAX) * SECTOR;
        self.scratch.resize(bytes, 0);
        self.sectors.read(first_sector(op), &mut self.scratch);
        let mut rest = &self.scratch[..];
        op.memory
            .for_each_mut(op.memory_start, u64::from(len), |piece| {
                if let Some((bytes, after)) = rest.split_at_checked(piece.len()) {
                    piece.copy_from_slice(bytes);
                    rest = after;
                }
            })?;
        Ok(len)
    }

    fn write(&mut self, flight: &mut Flight<B>, durable: bool) -> Result<u32, Errno> {
        let ending = if self.random.chance(self.faults.write_error_ppm) {
            Err(Errno::IO)
        } else if self.random.chance(self.faults.no_space_ppm) {
            Err(Errno::NOSPC)
        } else {
            self.transfer(flight, |region| region.writes)
        };
        let Ok(len) = ending else {
            self.reach_some(flight)?;
            return ending;
        };
        let op = &mut flight.op;
        self.gather(op)?;
        let whole = len as usize / SECTOR;
        let mut others = self.flights.values();
        let beside_sync = others.any(|flight| flight.op.kind == OpKind::Sync);
        for (lba, sector) in (first_sector(op)..).zip(self.scratch.chunks(SECTOR).take(whole)) {
            let content = content(sector);
            match (durable, beside_sync) {
                (true, false) => self.sectors.write_stable(lba, content),
                (true, true) => self.sectors.write_beside_sync(lba, content),
                (false, _) => self.sectors.write(lba, content),
            }
        }
        Ok(len)
    }

    fn sync(&mut self, covers: u64) -> Result<u32, Errno> {
        if self.random.chance(self.faults.sync_error_ppm) {
            let concerned = if self.shape.page_cache {
                self.sectors.sequence()
            } else {
                covers
            };
            self.sectors.fail_sync(concerned, &mut self.random);
            return Err(Errno::IO);
        }
        self.sectors.sync(covers);
        Ok(0)
    }

    fn discard(&mut self, flight: &mut Flight<B>) -> Result<u32, Errno> {
        let op = &flight.op;
        let faulty = self.first_faulty(op, |region| region.writes).is_some();
        if range(op).end > flight.end_bytes {
            self.reach_some(flight)?;
            return Err(Errno::INVAL);
        }
        if faulty || self.random.chance(self.faults.discard_error_ppm) {
            self.reach_some(flight)?;
            return Err(Errno::IO);
        }
        for lba in sectors(&flight.op) {
            self.sectors.write(lba, None);
        }
        Ok(0)
    }

    /// How far a transfer comes that has no error of its own.
    fn transfer(
        &mut self,
        flight: &Flight<B>,
        fails: impl Fn(&FaultyRegion) -> bool,
    ) -> Result<u32, Errno> {
        let op = &flight.op;
        let left = flight.end_bytes.saturating_sub(op.offset_bytes);
        if left == 0 {
            return match op.kind {
                OpKind::Read => Ok(0),
                _ => Err(Errno::NOSPC),
            };
        }
        let mut len = u32::try_from(op.len_bytes.min(left)).map_err(|_| Errno::INVAL)?;
        if let Some(faulty) = self.first_faulty(op, fails) {
            let before = (faulty - first_sector(op)) * SECTOR as u64;
            if before == 0 || self.random.coin() {
                return Err(Errno::IO);
            }
            // The disk may end before that.
            len = len.min(u32::try_from(before).unwrap_or(len));
        }
        if len > 1 && self.random.chance(self.faults.short_ppm) {
            let least = if self.random.coin() { 1 } else { SECTOR as u64 };
            let short = self.random.within(1..=u64::from(len) - 1);
            let short = short - short % least;
            len = u32::try_from(short.max(1)).unwrap_or(len);
        }
        Ok(len)
    }

    /// The first sector of the operation for which a region fails.
    fn first_faulty(&self, op: &DeviceOp<B>, fails: impl Fn(&FaultyRegion) -> bool) -> Option<u64> {
        let op = sectors(op);
        let regions = self.faulty.iter().filter(|region| fails(region));
        let starts = regions.filter_map(|region| {
            let start = region.sectors.start.max(op.start);
            (start < region.sectors.end.min(op.end)).then_some(start)
        });
        starts.min()
    }

    /// A write or discard takes effect on any of its sectors, unsynced.
    fn reach_some(&mut self, flight: &mut Flight<B>) -> Result<(), Errno> {
        let end = flight.end_bytes / SECTOR as u64;
        let op = &mut flight.op;
        if matches!(op.kind, OpKind::Write { .. }) {
            self.gather(op)?;
            for (lba, sector) in (first_sector(op)..end).zip(self.scratch.chunks(SECTOR)) {
                if self.random.coin() {
                    self.sectors.write(lba, content(sector));
                }
            }
        } else if op.kind == OpKind::Discard {
            for lba in sectors(op).take_while(|lba| *lba < end) {
                if self.random.coin() {
                    self.sectors.write(lba, None);
                }
            }
        }
        Ok(())
    }

    /// Brings an operation's memory into one piece.
    fn gather(&mut self, op: &mut DeviceOp<B>) -> Result<(), Errno> {
        let scratch = &mut self.scratch;
        scratch.clear();
        op.memory
            .for_each_mut(op.memory_start, op.len_bytes, |piece| {
                scratch.extend_from_slice(piece);
            })
    }
}

fn range<B>(op: &DeviceOp<B>) -> Range<u64> {
    op.offset_bytes..op.offset_bytes.saturating_add(op.len_bytes)
}

fn sectors<B>(op: &DeviceOp<B>) -> Range<u64> {
    let Range { start, end } = range(op);
    start / SECTOR as u64..end / SECTOR as u64
}

fn first_sector<B>(op: &DeviceOp<B>) -> u64 {
    sectors(op).start
}

fn content(sector: &[u8]) -> Content {
    let sector: &[u8; SECTOR] = sector.try_into().ok()?;
    sector
        .iter()
        .any(|byte| *byte != 0)
        .then(|| Rc::new(*sector))
}
