//! A shadow on three simulated files that lose what was not synced, compared with what was promised.
//!
//! Each sector of the model has a history: the last value that must survive, and what was written
//! since. A read must give the last successful write or a failed one since; after a power cut each
//! sector must have a value of its history. Files do their operations in any order, transfer short,
//! interrupt and fail; a power cut keeps any part of what is not on stable storage, operations that
//! are under way included. A failed sync leaves its data in doubt for ever.
//!
//! `SHADOW_SEED=n cargo test -p aoede-disk simulation` runs one seed and tells what happens.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::*;
use crate::device::Part;

const SIZE_BYTES: u64 = 29 * BLOCK_BYTES + 1024;
const SECTORS: usize = 29 * 8 + 2;
const CAPACITY: usize = 12;
const SEEDS: u64 = 700;
const STEPS: usize = 500;

type Buffer = Vec<u8>;
type Sector = [u8; 512];

/// splitmix64: small, and the same on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// A write of one sector that is not on stable storage.
struct Loose {
    sector: usize,
    data: Sector,
    /// A sync that should have covered it has failed: none will.
    forgotten: bool,
}

/// A file: what reads give, what would be left after a power cut, and what might be.
#[derive(Default)]
struct File {
    now: Vec<Sector>,
    stable: Vec<Sector>,
    loose: Vec<Loose>,
}

impl File {
    fn new(sectors: usize) -> Self {
        Self {
            now: vec![[0; 512]; sectors],
            stable: vec![[0; 512]; sectors],
            loose: Vec::new(),
        }
    }

    fn write(&mut self, sector: usize, data: &Sector, durable: bool) {
        if self.now.len() <= sector {
            self.now.resize(sector + 1, [0; 512]);
            self.stable.resize(sector + 1, [0; 512]);
        }
        self.now[sector] = *data;
        if durable {
            self.stable[sector] = *data;
            self.loose.retain(|loose| loose.sector != sector);
        } else {
            self.loose.push(Loose {
                sector,
                data: *data,
                forgotten: false,
            });
        }
    }

    fn sync(&mut self, fails: bool) {
        if fails {
            self.loose
                .iter_mut()
                .for_each(|loose| loose.forgotten = true);
            return;
        }
        let (kept, synced) = std::mem::take(&mut self.loose)
            .into_iter()
            .partition(|loose| loose.forgotten);
        self.loose = kept;
        for loose in &synced {
            self.stable[loose.sector] = loose.data;
            self.loose.retain(|other| other.sector != loose.sector);
        }
    }

    fn cut(&mut self, random: &mut Random) {
        for loose in std::mem::take(&mut self.loose) {
            if random.one_in(2) {
                self.stable[loose.sector] = loose.data;
            }
        }
        self.now = self.stable.clone();
    }
}

/// A value that a sector has been given.
#[derive(Clone, Copy, Debug)]
struct Given {
    value: u64,
    acknowledged: bool,
    /// When it was asked for,
    from: usize,
    /// and when it was acknowledged.
    at: usize,
}

struct Request {
    op: OpKind,
    first: usize,
    count: usize,
    value: u64,
    start: usize,
    submitted_at: usize,
}

struct Simulation {
    random: Random,
    seed: u64,
    trace: bool,
    step: usize,
    /// Files fail from time to time,
    faults: bool,
    /// one time in so many,
    fault_rate: usize,
    /// until the end, when what has begun is finished.
    ending: bool,
    when_full: WhenFull,
    limit_bytes: Option<u64>,
    shadow: Shadow<Buffer>,
    files: [File; 3],
    running: Vec<(ShadowFile, DeviceOp<Buffer>)>,
    requests: BTreeMap<u32, Request>,
    next_id: u32,
    model: Vec<Vec<Given>>,
    /// The last sync that failed: what was acknowledged before is not promised.
    sync_failed_at: usize,
    freeze_id: u64,
    /// The image when it was frozen.
    held: Option<Vec<Sector>>,
    planted: Option<Planted>,
    /// How often each thing happened, so that a test that tests nothing shows.
    seen: BTreeMap<&'static str, usize>,
}

fn stamp(value: u64) -> Sector {
    let mut sector = [0; 512];
    sector[..8].copy_from_slice(&value.to_le_bytes());
    sector[504..].copy_from_slice(&value.to_le_bytes());
    sector
}

fn value(sector: &[u8]) -> u64 {
    let value = u64::from_le_bytes(sector[..8].try_into().unwrap());
    assert_eq!(
        sector,
        stamp(value),
        "a sector is torn or no sector of a write"
    );
    value
}

fn bytes(memory: &mut Memory<Buffer>, start: usize, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let each = |piece: &mut [u8]| all.extend_from_slice(piece);
    memory.for_each_mut(start, len as u64, each).unwrap();
    all
}

fn fill(memory: &mut Memory<Buffer>, start: usize, data: &[u8]) {
    let mut rest = data;
    let each = |piece: &mut [u8]| {
        let (now, later) = rest.split_at(piece.len());
        piece.copy_from_slice(now);
        rest = later;
    };
    memory.for_each_mut(start, data.len() as u64, each).unwrap();
}

impl Simulation {
    fn new(seed: u64, planted: Option<Planted>) -> Self {
        let mut random = Random(seed);
        let when_full = [WhenFull::FailWrites, WhenFull::Thaw][random.below(2)];
        let limit_bytes = random.one_in(3).then_some(9 * BLOCK_BYTES);
        let faults = random.one_in(2);
        let fault_rate = random.below(3);
        let shadow = Self::shadow(&mut random, when_full, planted);
        Self {
            random,
            seed,
            trace: std::env::var("SHADOW_SEED").is_ok(),
            step: 0,
            faults,
            fault_rate: [25, 60, 300][fault_rate],
            ending: false,
            when_full,
            limit_bytes,
            shadow,
            files: [File::new(SECTORS), File::default(), File::default()],
            running: Vec::new(),
            requests: BTreeMap::new(),
            next_id: 0,
            model: vec![
                vec![Given {
                    value: 0,
                    acknowledged: true,
                    from: 0,
                    at: 0
                }];
                SECTORS
            ],
            sync_failed_at: 0,
            freeze_id: 0,
            held: None,
            planted,
            seen: BTreeMap::new(),
        }
    }

    fn shadow(
        random: &mut Random,
        when_full: WhenFull,
        planted: Option<Planted>,
    ) -> Shadow<Buffer> {
        let settings = ShadowSettings {
            capacity: CAPACITY,
            size_bytes: SIZE_BYTES,
            when_full,
        };
        let memory = if random.one_in(2) {
            Memory::One(vec![0; 5000])
        } else {
            let page = || Part {
                buffer: vec![0; 4096],
                len_bytes: 4096,
            };
            Memory::Parts((0..3).map(|_| page()).collect())
        };
        let mut shadow = Shadow::new(settings, vec![0; 512], memory);
        shadow.planted = planted;
        shadow
    }

    fn run(&mut self) {
        while self.step < STEPS {
            self.step += 1;
            match self.random.below(200) {
                0..60 => self.submit(),
                60..64 => self.freeze(),
                64..67 => {
                    if self.shadow.thaw().is_ok() {
                        self.note("thaw");
                    }
                }
                67..68 => self.restart(),
                _ => self.complete(),
            }
            self.pump();
        }
        // Whatever has begun comes to its end.
        self.ending = true;
        let mut patience = 100_000;
        loop {
            let _ = self.shadow.thaw();
            self.pump();
            if self.running.is_empty() {
                break;
            }
            self.complete();
            self.pump();
            patience -= 1;
            assert!(patience > 0, "it does not end: {:?}", self.shadow.status());
        }
        assert!(
            self.requests.is_empty(),
            "unanswered: {:?}",
            self.requests.keys()
        );
        assert!(self.shadow.is_idle());
        let status = self.shadow.status();
        assert_eq!((status.phase, status.dirty_bytes), (ShadowPhase::Thawed, 0));
        self.compare_all();
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
        if self.trace {
            println!("seed {} step {}: {what}", self.seed, self.step);
        }
    }

    fn submit(&mut self) {
        if self.requests.len() >= CAPACITY {
            return;
        }
        let kinds = [
            OpKind::Read,
            OpKind::Read,
            OpKind::Read,
            OpKind::Write { durable: true },
            OpKind::Write { durable: true },
            OpKind::Write { durable: false },
            OpKind::Write { durable: false },
            OpKind::Discard,
            OpKind::Sync,
        ];
        let kind = kinds[self.random.below(kinds.len())];
        let most = if self.random.one_in(8) { 20 } else { 4 };
        let (first, count) = match kind {
            OpKind::Sync => (0, 0),
            OpKind::Read => (self.random.below(SECTORS), 1 + self.random.below(64)),
            _ => (self.random.below(30) * 8, 8 * (1 + self.random.below(most))),
        };
        let count = count.min(SECTORS - first);
        let overlaps = |other: &Request| {
            let both_read = kind == OpKind::Read && other.op == OpKind::Read;
            !both_read && first < other.first + other.count && other.first < first + count
        };
        if self.requests.values().any(overlaps) {
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        let value = u64::from(id);
        // The volume goes on after short transfers: then the transfer starts inside the memory.
        let start = if self.random.one_in(3) { 1024 } else { 0 };
        let mut memory = match kind {
            OpKind::Sync | OpKind::Discard => Memory::None,
            _ => self.memory(start + count * 512),
        };
        if matches!(kind, OpKind::Write { .. }) {
            fill(&mut memory, start, &stamp(value).repeat(count));
        }
        let op = DeviceOp {
            id: OpId(id),
            kind,
            offset_bytes: first as u64 * 512,
            len_bytes: count as u64 * 512,
            memory,
            memory_start: start,
        };
        let request = Request {
            op: kind,
            first,
            count,
            value: if kind == OpKind::Discard { 0 } else { value },
            start,
            submitted_at: self.step,
        };
        self.requests.insert(id, request);
        self.shadow.submit(op).unwrap();
    }

    fn memory(&mut self, len: usize) -> Memory<Buffer> {
        if self.random.one_in(2) {
            return Memory::One(vec![0xEE; len]);
        }
        let parts = (0..len.div_ceil(4096)).map(|part| Part {
            buffer: vec![0xEE; 4096],
            len_bytes: u32::try_from((len - part * 4096).min(4096)).unwrap(),
        });
        Memory::Parts(parts.collect())
    }

    fn freeze(&mut self) {
        let id = self.freeze_id + 1;
        if self.shadow.freeze(id, self.limit_bytes).is_err() {
            return;
        }
        self.note("freeze");
        self.freeze_id = id;
        let mut map = File::new(1);
        let header = Header {
            freeze_id: id,
            image_bytes: SIZE_BYTES,
            base_bytes: 0,
            path: Vec::new(),
        };
        map.write(0, &header.encode(), true);
        self.files[1] = File::new(SECTORS);
        self.files[2] = map;
    }

    /// Takes what the shadow gives out.
    fn pump(&mut self) {
        loop {
            let mut any = false;
            while let Some((file, op)) = self.shadow.poll_device() {
                any = true;
                let phase = self.shadow.status().phase;
                let change = matches!(op.kind, OpKind::Write { .. } | OpKind::Discard);
                let held = matches!(phase, ShadowPhase::Frozen | ShadowPhase::Thawing);
                assert!(
                    !(held && change && file == ShadowFile::Image),
                    "{phase:?}: the image is changed by {op:?}"
                );
                self.running.push((file, op));
            }
            while let Some(done) = self.shadow.poll_done() {
                any = true;
                self.answered(done);
            }
            while let Some(event) = self.shadow.poll_event() {
                any = true;
                self.event(event);
            }
            if !any {
                break;
            }
        }
    }

    fn event(&mut self, event: ShadowEvent) {
        if self.trace {
            println!("seed {} step {}: {event:?}", self.seed, self.step);
        }
        match event {
            ShadowEvent::Frozen => {
                self.note("frozen");
                let stable = self.files[0].loose.iter().all(|loose| loose.forgotten);
                assert!(stable, "the image is frozen and not stable");
                // What a failed sync has forgotten may still come or go.
                let stable = self.files[0].loose.is_empty();
                self.held = stable.then(|| self.files[0].now.clone());
            }
            ShadowEvent::Merging { automatic } => {
                self.note(if automatic { "automatic" } else { "merging" });
                self.released();
            }
            ShadowEvent::Merged => {
                self.note("merged");
                assert_eq!(self.shadow.status().phase, ShadowPhase::Merged);
                assert!(self.shadow.retire());
                assert!(
                    self.running
                        .iter()
                        .all(|(file, _)| *file == ShadowFile::Image)
                );
                self.files[1] = File::default();
                self.files[2] = File::default();
            }
            ShadowEvent::Full => {
                self.note("full");
                assert!(self.faults || self.limit_bytes.is_some());
            }
            ShadowEvent::FreezeFailed(_)
            | ShadowEvent::ThawFailed(_)
            | ShadowEvent::MergeStopped(_) => {
                assert!(self.faults, "{event:?}");
                self.note("failed");
            }
        }
    }

    fn released(&mut self) {
        if let Some(held) = self.held.take() {
            assert!(held == self.files[0].now, "the image has changed");
        }
    }

    /// One of the operations under way is carried out and completes.
    fn complete(&mut self) {
        if self.running.is_empty() {
            return;
        }
        let which = self.random.below(self.running.len());
        let (file, op) = self.running.swap_remove(which);
        let (kind, offset, len) = (op.kind, op.offset_bytes / 512, op.len_bytes / 512);
        let completion = self.execute(file, op);
        if self.trace {
            let result = completion.result;
            println!(
                "{}: {file:?} {kind:?} {offset} +{len}: {result:?}",
                self.step
            );
        }
        self.shadow.handle_device(completion);
    }

    fn execute(&mut self, file: ShadowFile, mut op: DeviceOp<Buffer>) -> Completion<Buffer> {
        let len = usize::try_from(op.len_bytes).unwrap();
        let first = usize::try_from(op.offset_bytes / 512).unwrap();
        assert_eq!(op.offset_bytes % 512, 0);
        let fault = if self.faults && !self.ending {
            self.random.below(self.fault_rate)
        } else {
            usize::MAX
        };
        let disk = &mut self.files[file as usize];
        let mut done = len / 512;
        let mut result = match fault {
            0 => Err(Errno::INTR),
            1 => Err(Errno::IO),
            2 if file != ShadowFile::Image && matches!(op.kind, OpKind::Write { .. }) => {
                Err(Errno::NOSPC)
            }
            3..9 if file != ShadowFile::Map && done > 1 => {
                done = 1 + self.random.below(done - 1);
                Ok(u32::try_from(done * 512).unwrap())
            }
            _ => Ok(u32::try_from(len).unwrap_or(0)),
        };
        match op.kind {
            OpKind::Read if result.is_ok() => {
                let sectors = &disk.now[first..first + done];
                fill(&mut op.memory, op.memory_start, &sectors.concat());
            }
            OpKind::Read => {}
            OpKind::Write { durable } => {
                let data = bytes(&mut op.memory, op.memory_start, len);
                let failed = result.is_err();
                for (index, sector) in data.chunks_exact(512).take(done).enumerate() {
                    // Of a write that fails, any part may be there.
                    if !failed || (result != Err(Errno::INTR) && self.random.one_in(2)) {
                        let data = sector.try_into().unwrap();
                        disk.write(first + index, data, durable && !failed);
                    }
                }
            }
            OpKind::Discard => {
                if result.is_ok() {
                    for sector in first..first + len / 512 {
                        disk.write(sector, &[0; 512], false);
                    }
                    result = Ok(0);
                }
            }
            OpKind::Sync => {
                if result != Err(Errno::INTR) {
                    disk.sync(result.is_err());
                }
                result = result.map(|_| 0);
            }
        }
        Completion {
            id: op.id,
            memory: op.memory,
            result,
        }
    }

    fn answered(&mut self, mut done: Completion<Buffer>) {
        let request = self.requests.remove(&done.id.0).unwrap();
        let range = request.first..request.first + request.count;
        if done.result.is_err() && !self.faults {
            // The only reason without a fault.
            assert_eq!(done.result, Err(Errno::NOSPC));
            assert!(matches!(request.op, OpKind::Write { .. }));
            assert_eq!(self.when_full, WhenFull::FailWrites);
        }
        match (request.op, done.result) {
            (OpKind::Read, Ok(read)) => {
                assert_eq!(read as usize, request.count * 512);
                let data = bytes(&mut done.memory, request.start, request.count * 512);
                for (sector, data) in range.zip(data.chunks_exact(512)) {
                    self.compare(sector, value(data));
                }
            }
            (OpKind::Read, Err(_)) => {}
            (OpKind::Write { durable }, Ok(written)) => {
                assert_eq!(written as usize, request.count * 512);
                for sector in range {
                    if durable {
                        self.model[sector].clear();
                    }
                    self.give(sector, &request, true);
                }
            }
            (OpKind::Discard, Ok(_)) => {
                range.for_each(|sector| self.give(sector, &request, true));
            }
            (OpKind::Write { .. } | OpKind::Discard, Err(_)) => {
                range.for_each(|sector| self.give(sector, &request, false));
            }
            (OpKind::Sync, Ok(_)) => {
                let promised = |given: &Given| {
                    given.acknowledged
                        && given.from > self.sync_failed_at
                        && given.at < request.submitted_at
                };
                for history in &mut self.model {
                    if let Some(last) = history.iter().rposition(promised) {
                        history.drain(..last);
                    }
                }
            }
            (OpKind::Sync, Err(_)) => self.sync_failed_at = self.step,
        }
    }

    fn give(&mut self, sector: usize, request: &Request, acknowledged: bool) {
        self.model[sector].push(Given {
            value: request.value,
            acknowledged,
            from: request.submitted_at,
            at: self.step,
        });
    }

    /// A value that was read must be that of the last successful write, or of one since.
    fn compare(&self, sector: usize, value: u64) {
        let history = &self.model[sector];
        let last = history.iter().rposition(|given| given.acknowledged);
        let current = &history[last.unwrap_or(0)..];
        assert!(
            current.iter().any(|given| given.value == value),
            "sector {sector} is {value}, not of {current:?}"
        );
    }

    fn compare_all(&self) {
        for (sector, data) in self.files[0].now.iter().enumerate() {
            self.compare(sector, value(data));
        }
    }

    /// The process ends, and perhaps the machine; then all begins anew.
    fn restart(&mut self) {
        let power = self.random.one_in(2);
        self.note(if power { "power cut" } else { "kill" });
        // What is under way has happened, or a part of it, or nothing.
        for (file, mut op) in std::mem::take(&mut self.running) {
            let len = usize::try_from(op.len_bytes).unwrap();
            let first = usize::try_from(op.offset_bytes / 512).unwrap();
            let data = match op.kind {
                OpKind::Write { .. } => bytes(&mut op.memory, op.memory_start, len),
                OpKind::Discard => vec![0; len],
                OpKind::Read | OpKind::Sync => continue,
            };
            for (index, sector) in data.chunks_exact(512).enumerate() {
                if self.random.one_in(2) {
                    let data = sector.try_into().unwrap();
                    self.files[file as usize].write(first + index, data, false);
                }
            }
        }
        for request in std::mem::take(&mut self.requests).into_values() {
            if matches!(request.op, OpKind::Write { .. } | OpKind::Discard) {
                let range = request.first..request.first + request.count;
                range.for_each(|sector| self.give(sector, &request, false));
            }
        }
        if power {
            for file in &mut self.files {
                file.cut(&mut self.random);
            }
        }
        self.shadow = Self::shadow(&mut self.random, self.when_full, self.planted);
        let recovered = self.recover();
        self.check_survivors(recovered.as_ref(), power);
        let Some(recovered) = recovered else {
            self.held = None;
            return;
        };
        if recovered.is_thawing() {
            self.held = None;
            self.note("resumed merge");
        } else {
            self.note("resumed freeze");
        }
        self.shadow.resume(recovered, self.limit_bytes).unwrap();
        if self.random.one_in(2) {
            let _ = self.shadow.thaw();
        }
    }

    fn recover(&mut self) -> Option<Recovered> {
        let map = &self.files[2].now;
        let header = Header::decode(map.first()?).unwrap();
        let mut replay = Replay::new(&header).unwrap();
        map[1..].iter().for_each(|unit| replay.unit(unit));
        match replay.finish() {
            Replayed::Unfinished(recovered) => {
                let last = usize::try_from(recovered.last_unit()).unwrap();
                let unit = map[last];
                self.files[2].write(last, &unit, true);
                return Some(recovered);
            }
            Replayed::Done => self.note("done"),
            Replayed::Damaged { unit } => panic!("unit {unit} is damaged"),
        }
        self.files[1] = File::default();
        self.files[2] = File::default();
        None
    }

    /// What is there after a restart must be what was promised, or newer.
    fn check_survivors(&mut self, recovered: Option<&Recovered>, power: bool) {
        let frozen = recovered.is_some_and(|recovered| !recovered.is_thawing());
        if let Some(held) = self.held.as_ref().filter(|_| frozen) {
            assert!(*held == self.files[0].now, "the image has changed");
        }
        let mut loose = self.files.iter().flat_map(|file| &file.loose);
        let forgotten = loose.any(|loose| loose.forgotten);
        for sector in 0..SECTORS {
            let dirty = recovered.is_some_and(|found| found.dirty.get(sector as u64 / 8));
            let found = value(&self.files[usize::from(dirty)].now[sector]);
            let history = &mut self.model[sector];
            assert!(
                history.iter().any(|given| given.value == found),
                "sector {sector} is {found} after the restart, not of {history:?}"
            );
            if power {
                history.clear();
            }
            // What was overtaken may come back in a power cut, and no later sync promises it.
            for given in history.iter_mut() {
                given.from = 0;
            }
            history.push(Given {
                value: found,
                acknowledged: true,
                // What a failed sync should have covered stays in doubt.
                from: if forgotten { 0 } else { self.step },
                at: self.step,
            });
        }
    }
}

#[test]
fn what_was_promised_is_there() {
    let one = std::env::var("SHADOW_SEED").ok();
    let seeds = match one.and_then(|seed| seed.parse::<u64>().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    let all = seeds.end - seeds.start == SEEDS;
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for seed in seeds {
        let mut simulation = Simulation::new(seed, None);
        let run = AssertUnwindSafe(|| simulation.run());
        if let Err(panic) = catch_unwind(run) {
            eprintln!("seed {seed}, step {}", simulation.step);
            resume_unwind(panic);
        }
        for (what, times) in simulation.seen {
            *seen.entry(what).or_default() += times;
        }
    }
    println!("{seen:?}");
    let interesting = [
        "automatic",
        "done",
        "failed",
        "frozen",
        "full",
        "kill",
        "merged",
        "merging",
        "power cut",
        "resumed freeze",
        "resumed merge",
    ];
    for what in interesting {
        let times = seen.get(what).copied().unwrap_or(0);
        assert!(!all || times > 5, "{what} happened {times} times");
    }
}

/// A planted mistake has to be found within so many seeds.
const PLANTED_SEEDS: u64 = 100;

/// A restart finds something else than what was promised.
const LOST: &str = "after the restart, not of";
/// A read finds something else than the newest.
const STALE: &str = ", not of [";
/// The frozen image is not what it was.
const CHANGED: &str = "the image has changed";
const CHANGES: &str = "the image is changed by";
const UNSTABLE: &str = "the image is frozen and not stable";

/// A simulation that finds nothing shows nothing.
#[test]
fn every_planted_mistake_is_found() {
    for (planted, violations) in [
        (Planted::FreezeAmidWrites, [UNSTABLE, CHANGED]),
        (Planted::FreezeUnsynced, [UNSTABLE, UNSTABLE]),
        (Planted::WriteToImage, [CHANGES, CHANGES]),
        (Planted::ReadFromImage, [STALE, STALE]),
        (Planted::AckBeforeRecord, [LOST, LOST]),
        (Planted::RecordBeforeSync, [LOST, LOST]),
        (Planted::IgnoreFailedSync, [LOST, UNSTABLE]),
        (Planted::WriteAmidMerge, [STALE, LOST]),
        (Planted::MergeUnsynced, [LOST, LOST]),
        (Planted::MergeTooLittle, [STALE, LOST]),
    ] {
        let caught = |seed: u64| {
            let run = || Simulation::new(seed, Some(planted)).run();
            let panic = catch_unwind(AssertUnwindSafe(run)).err()?;
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Some((seed, text.unwrap_or_default().to_owned()))
        };
        let found = (0..PLANTED_SEEDS).find_map(caught);
        let (seed, message) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
        // An assertion of the shadow itself would say nothing of the simulation.
        assert!(
            violations
                .iter()
                .any(|violation| message.contains(violation)),
            "seed {seed} finds something else than {planted:?}: {message}"
        );
        println!("{planted:?} is found by seed {seed}: {message}");
    }
}
