//! One run: requests in, device operations out, and everything checked after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::{
    DiskRequest, Done, Planted, RESUBMIT_PAUSE, RequestId, RequestKind, Stability, Volume,
    VolumeSettings,
};
use super::Report;
use super::draw::{self, Traffic, Weights};
use super::memory::{Alive, Owner, TestBuffer};
use super::model::{self, Change, Model, SECTOR};
use super::trace::Trace;
use crate::device::{Completion, DeviceOp, Errno, OpKind};
use crate::engine::Engine;
use crate::engine::sim::random::Random;
use crate::engine::sim::{Faults, Latency, SimDisk, SimDiskShape};

/// Requests of one run before it comes to its end.
const REQUESTS: u32 = 1000;
/// Steps in which everything that is left has to come to an end.
const LAST_STEPS: usize = 100_000;
/// Longer than refused data is tried again.
const RETRIES: Duration = Duration::from_secs(4);
/// Calls of `handle_timeout` at one time that lead to nothing.
const IDLE_TIMEOUTS: u32 = 4;

pub(super) struct Run {
    random: Random,
    shape: SimDiskShape,
    weights: Weights,
    traffic: Traffic,
    disk: SimDisk<TestBuffer>,
    latency: Latency,
    now: Duration,
    life: Life,
    model: Model,
    next_number: u32,
    /// Where the disk ends since it was resized, of which the volume has not been told.
    untold_bytes: Option<u64>,
    /// The number of the last step: for the message of a failure.
    pub(super) step: u64,
    pub(super) trace: Trace,
    pub(super) report: Report,
    planted: Option<Planted>,
}

/// From one start of the volume to its end.
struct Life {
    volume: Volume<TestBuffer>,
    settings: VolumeSettings,
    pages: usize,
    page_buffers: Alive,
    request_buffers: Alive,
    requests: BTreeMap<u32, Sent>,
    /// What is with the device, and where it ends.
    operations: BTreeMap<u32, (OpKind, u64)>,
    /// Completions that failed for good, or ended at the end of the disk.
    errors: u64,
    /// Those among them that the volume has to tell of; and how many when it was last told to go
    /// on.
    failures: u64,
    cleared_at: u64,
    /// When the device last failed or was slower than it should be.
    last_error: Duration,
    was_latched: bool,
    idle_timeouts: u32,
}

struct Sent {
    kind: RequestKind,
    changes: Vec<Change>,
    end_bytes: u64,
    /// Acknowledgements before it was sent.
    acks: u64,
    /// Failed operations before that.
    errors: u64,
    /// The volume was latched when it was sent,
    to_latched: bool,
    /// or has been since.
    latched: bool,
    /// The disk has come to end before its end.
    cut: bool,
}

impl Run {
    pub(super) fn new(seed: u64, planted: Option<Planted>, trace: Trace) -> Self {
        let mut random = Random::new(seed);
        let shape = draw::shape(&mut random);
        let sectors = shape.size_bytes / SECTOR as u64;
        let disk = SimDisk::new(random.next(), shape);
        let mut content = [0; SECTOR];
        for lba in 0..sectors {
            model::fill(&mut content, model::FIRST, lba);
            disk.preset(lba, &content);
        }
        let latency = draw::latency(&mut random);
        disk.set_latency(latency);
        Self {
            weights: Weights::new(&mut random),
            traffic: Traffic::new(&mut random, sectors),
            life: Life::begin(&mut random, shape, planted),
            random,
            shape,
            disk,
            latency,
            now: Duration::ZERO,
            model: Model::new(sectors),
            next_number: model::FIRST + 1,
            untold_bytes: None,
            step: 0,
            trace,
            report: Report::default(),
            planted,
        }
    }

    pub(super) fn play(&mut self) {
        while self.next_number < REQUESTS {
            self.step += 1;
            self.act();
            self.check();
        }
        self.finish();
    }

    fn act(&mut self) {
        let weights = &self.weights;
        let (cut, kill) = (weights.power_cut_ppm, weights.kill_ppm);
        let (weather, send) = (weights.weather_ppm, weights.send_ppm);
        let (resize, stop) = (weights.resize_ppm, weights.stop_ppm);
        if self.random.chance(cut) {
            self.cut_power();
        } else if self.random.chance(kill) {
            self.kill();
        } else if self.random.chance(stop) {
            self.stop();
        } else if self.random.chance(resize) {
            self.resize();
        } else if self.untold_bytes.is_some() && self.random.chance(20_000) {
            self.tell_size();
        } else if self.random.chance(500) && !self.is_latched() {
            self.begin_flush();
        } else if self.random.chance(weather) {
            self.change_weather();
        } else if self.random.chance(2000) {
            self.weights.early_ppm = Weights::early(&mut self.random);
        } else if self.life.volume.failure().is_some() && self.random.chance(20_000) {
            self.clear_failure();
        } else if self.random.chance(send) {
            self.send();
        } else {
            match self.random.below(8) {
                0 => {
                    let hop = Duration::from_micros(self.random.below(1000));
                    self.pass(self.now + hop);
                }
                1 if self.random.chance(20_000) => {
                    let rest = self.life.settings.dirty_age * 2;
                    self.pass(self.now + rest);
                }
                _ => {
                    self.next_event();
                }
            }
        }
    }

    fn change_weather(&mut self) {
        let faults = draw::faults(&mut self.random);
        let sectors = self.shape.size_bytes / SECTOR as u64;
        let regions = draw::faulty_regions(&mut self.random, sectors);
        self.trace.event(|| format!("{faults:?} {regions:?}"));
        self.disk.set_faults(faults);
        self.disk.set_faulty_regions(&regions);
    }

    fn fair_weather(&mut self) {
        self.disk.set_faults(Faults::default());
        self.disk.set_faulty_regions(&[]);
    }

    /// The disk becomes smaller or larger, and the volume learns of it later.
    fn resize(&mut self) {
        self.tell_size();
        let now = self.shape.size_bytes / SECTOR as u64;
        let sectors = draw::sectors(&mut self.random, now);
        self.trace
            .event(|| format!("the disk has {sectors} sectors"));
        let bytes = sectors * SECTOR as u64;
        self.disk.set_end(bytes);
        self.model.resized(sectors);
        self.untold_bytes = Some(bytes);
        self.report.resizes += 1;
    }

    /// The volume learns how large the disk is.
    fn tell_size(&mut self) {
        let Some(bytes) = self.untold_bytes.take() else {
            return;
        };
        self.trace
            .event(|| format!("{bytes} bytes, the volume is told"));
        self.know_size(bytes);
        for sent in self.life.requests.values_mut() {
            sent.cut |= sent.end_bytes > bytes;
        }
        self.life.volume.set_size(bytes);
        self.drain();
    }

    fn know_size(&mut self, bytes: u64) {
        self.shape.size_bytes = bytes;
        self.disk.set_known_end(bytes);
        self.traffic.set_sectors(bytes / SECTOR as u64);
        self.model.told_of_end();
    }

    /// As before a freeze.
    fn begin_flush(&mut self) {
        self.trace.event(|| "a flush is begun".to_owned());
        self.life.volume.begin_flush(self.now);
        self.drain();
    }

    /// A clean stop, as the worker makes it: no requests are taken, those under way come to their
    /// end, what was acknowledged becomes stable, if that can be.
    fn stop(&mut self) {
        self.report.stops += 1;
        self.trace.event(|| "stopping".to_owned());
        self.come_to_rest();
        self.no_longer_latched();
        self.begin_flush();
        self.come_to_rest();
        assert!(
            self.life.volume.is_clean() || self.is_latched(),
            "a stop leaves data behind, and nobody knows why"
        );
        if self.random.coin() {
            self.cut_power();
        } else {
            self.kill();
        }
    }

    fn come_to_rest(&mut self) {
        for _ in 0..LAST_STEPS {
            if self.life.volume.is_idle() {
                return;
            }
            self.step += 1;
            let more = self.next_event();
            self.check();
            assert!(more, "nothing happens any more");
        }
        panic!("it does not come to rest");
    }

    fn clear_failure(&mut self) {
        self.trace.event(|| "failure cleared".to_owned());
        self.life.volume.clear_failure(self.now);
        self.no_longer_latched();
        self.drain();
    }

    fn no_longer_latched(&mut self) {
        self.life.was_latched = false;
        self.life.cleared_at = self.life.failures;
        // Those that have not begun will not know of it.
        for sent in self.life.requests.values_mut() {
            sent.to_latched = false;
        }
    }

    fn cut_power(&mut self) {
        self.report.power_cuts += 1;
        self.trace.event(|| "power cut".to_owned());
        self.disk.cut_power();
        self.model.power_cut(&self.disk);
        self.begin_life();
    }

    fn kill(&mut self) {
        self.report.kills += 1;
        self.trace.event(|| "process killed".to_owned());
        self.disk.kill();
        let number = self.take_number();
        self.model.killed(number, &self.disk);
        self.begin_life();
    }

    fn begin_life(&mut self) {
        self.fair_weather();
        if let Some(bytes) = self.untold_bytes.take() {
            self.know_size(bytes);
        }
        self.life = Life::begin(&mut self.random, self.shape, self.planted);
        let settings = self.life.settings;
        let pages = self.life.pages;
        self.trace
            .event(|| format!("a new life with {pages} pages and {settings:?}"));
    }

    fn take_number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number - 1
    }

    fn send(&mut self) {
        let weights = &self.weights;
        let all = weights.read + weights.write + weights.trim + weights.flush;
        let (read, write) = (weights.read, weights.read + weights.write);
        let trim = write + weights.trim;
        let most = weights.most_sectors;
        let early = self.random.chance(weights.early_ppm);
        match self.random.below(all) {
            what if what < read => {
                let (lba, sectors) = self.traffic.transfer(&mut self.random, false, most);
                self.read(lba, sectors);
            }
            what if what < write => {
                let (lba, sectors) = self.traffic.transfer(&mut self.random, true, most);
                self.write(lba, sectors, early);
            }
            what if what < trim => self.trim(early),
            _ => self.flush(),
        }
    }

    fn read(&mut self, lba: u64, sectors: u64) {
        let kind = RequestKind::Read {
            lba,
            sectors: u32::try_from(sectors).unwrap(),
        };
        let bytes = vec![0xEE; usize::try_from(sectors).unwrap() * SECTOR];
        self.request(kind, bytes, Vec::new());
    }

    fn write(&mut self, lba: u64, sectors: u64, early: bool) {
        let kind = RequestKind::Write {
            lba,
            sectors: u32::try_from(sectors).unwrap(),
            early,
        };
        let mut bytes = vec![0; usize::try_from(sectors).unwrap() * SECTOR];
        model::fill(&mut bytes, self.next_number, lba);
        let change = |lba| Change {
            lba,
            zeros: false,
            optional: false,
        };
        self.request(kind, bytes, (lba..lba + sectors).map(change).collect());
    }

    fn trim(&mut self, early: bool) {
        let mut bytes = vec![0; SECTOR];
        let unit = u64::from(self.shape.discard_bytes) / SECTOR as u64;
        // Whether each sector has to be zeros afterwards.
        let mut sectors = BTreeMap::new();
        for entry in 0..usize::try_from(self.random.within(0..=4)).unwrap() {
            let most = draw::one_of(&mut self.random, &[4, 32, 200]);
            let (lba, len) = self.traffic.range(&mut self.random, most);
            // Unused entries between the used ones.
            let value = (lba | len << 48).to_le_bytes();
            bytes[entry * 16..entry * 16 + 8].copy_from_slice(&value);
            let whole = lba.next_multiple_of(unit)..(lba + len) - (lba + len) % unit;
            for lba in lba..lba + len {
                *sectors.entry(lba).or_insert(false) |= whole.contains(&lba);
            }
        }
        let change = |(lba, zeros): (u64, bool)| Change {
            lba,
            zeros: true,
            optional: !zeros,
        };
        let changes = sectors.into_iter().map(change).collect();
        self.request(RequestKind::Trim { blocks: 1, early }, bytes, changes);
    }

    fn flush(&mut self) {
        self.request(RequestKind::Flush, Vec::new(), Vec::new());
    }

    fn request(&mut self, kind: RequestKind, bytes: Vec<u8>, changes: Vec<Change>) {
        let number = self.next_number;
        let owner = Owner::Request(number);
        let request = DiskRequest {
            id: RequestId(number),
            kind,
            buffer: self.life.request_buffers.buffer(owner, bytes),
        };
        let life = &mut self.life;
        let full = life.requests.len() == life.settings.capacity;
        let answer = life.volume.handle_request(self.now, request);
        assert_eq!(answer.is_err(), full, "refused when full and only then");
        self.trace.request(number, kind, full);
        if let Err(refused) = answer {
            assert_eq!((refused.id, refused.kind), (RequestId(number), kind));
            assert_eq!(refused.buffer.owner, owner);
            return;
        }
        self.next_number += 1;
        self.report.requests += 1;
        for change in &changes {
            self.model.sent(number, *change);
        }
        let end = match kind {
            RequestKind::Read { lba, sectors } => lba + u64::from(sectors),
            _ => changes
                .iter()
                .map(|change| change.lba + 1)
                .max()
                .unwrap_or(0),
        };
        let sent = Sent {
            kind,
            changes,
            end_bytes: end * SECTOR as u64,
            acks: self.model.acks(),
            errors: life.errors,
            to_latched: life.was_latched,
            latched: life.was_latched,
            cut: false,
        };
        life.requests.insert(number, sent);
        self.drain();
    }

    /// Lets time pass until `until`, with all that is due on the way.
    fn pass(&mut self, until: Duration) {
        while self.next_time().is_some_and(|next| next <= until) {
            self.next_event();
            self.check();
        }
        self.now = self.now.max(until);
    }

    fn next_time(&self) -> Option<Duration> {
        let timeout = self.life.volume.poll_timeout();
        let due = self.disk.next_due();
        let next = timeout.into_iter().chain(due).min()?;
        Some(next.max(self.now))
    }

    /// Lets time pass until something happens; whether something does.
    fn next_event(&mut self) -> bool {
        let Some(next) = self.next_time() else {
            return false;
        };
        self.now = next;
        self.disk.advance(next);
        if let Some((_, completion)) = self.disk.poll() {
            self.complete(completion);
        } else {
            self.trace.timeout(next);
            self.life.idle_timeouts += 1;
            assert!(
                self.life.idle_timeouts < IDLE_TIMEOUTS,
                "the volume wants to be called again and again"
            );
            self.life.volume.handle_timeout(next);
            self.drain();
            if self.life.volume.poll_timeout().is_none_or(|at| at > next) {
                self.life.idle_timeouts = 0;
            }
        }
        true
    }

    fn complete(&mut self, completion: Completion<TestBuffer>) {
        let Completion { id, ref result, .. } = completion;
        let operation = self.life.operations.remove(&id.0);
        let (kind, end) = operation.expect("it was started");
        self.report.operations += 1;
        self.trace.completion(self.now, id, *result);
        self.life.idle_timeouts = 0;
        let sync_failed = kind == OpKind::Sync && result.is_err();
        let real_end = self.untold_bytes.unwrap_or(self.shape.size_bytes);
        let beyond = end > real_end;
        match result {
            Ok(_) => {
                if beyond {
                    self.failed_operation(end);
                }
                if matches!(kind, OpKind::Sync | OpKind::Write { durable: true }) {
                    self.model.synced(&self.disk);
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                self.failed_operation(end);
                if sync_failed {
                    self.model.sync_failed();
                }
            }
        }
        self.life.volume.handle_device(self.now, completion);
        self.drain();
    }

    fn failed_operation(&mut self, end_bytes: u64) {
        self.report.errors += 1;
        self.life.last_error = self.now;
        self.life.errors += 1;
        // What is beyond the end that the volume knows is of no interest any more.
        self.life.failures += u64::from(end_bytes <= self.shape.size_bytes);
    }

    /// Takes what the volume gives out, until it gives nothing.
    fn drain(&mut self) {
        loop {
            let mut nothing = true;
            while let Some(op) = self.life.volume.poll_device() {
                nothing = false;
                self.start(op);
            }
            while let Some(done) = self.life.volume.poll_done() {
                nothing = false;
                self.done(&done);
            }
            if nothing {
                break;
            }
        }
        let volume = &self.life.volume;
        assert!(
            volume.reads.is_empty() && volume.changes.is_empty() && volume.ready.is_empty(),
            "it keeps operations to itself"
        );
        self.disk.kick().unwrap();
        if self.is_latched() && !self.life.was_latched {
            self.report.latches += 1;
            self.model.latched();
        }
        self.life.was_latched |= self.is_latched();
        if self.is_latched() {
            for sent in self.life.requests.values_mut() {
                sent.latched = true;
            }
        }
    }

    fn start(&mut self, op: DeviceOp<TestBuffer>) {
        self.trace.operation(&op);
        self.disk.advance(self.now);
        let end = op.offset_bytes + op.len_bytes;
        let before = self.life.operations.insert(op.id.0, (op.kind, end));
        assert!(before.is_none(), "{:?} is in flight twice", op.id);
        self.disk
            .submit(SimDisk::<TestBuffer>::FILE, op)
            .unwrap_or_else(|op| panic!("{:?} is one too many", op.id));
    }

    fn done(&mut self, done: &Done<TestBuffer>) {
        let number = done.id.0;
        self.trace.done(number, done.result.is_ok());
        let sent = self.life.requests.remove(&number);
        let sent = sent.unwrap_or_else(|| panic!("#{number} is answered twice"));
        assert_eq!(done.buffer.owner, Owner::Request(number), "its own buffer");
        if done.result.is_err() {
            self.report.failed += 1;
            let errors = self.life.errors;
            assert!(
                errors > sent.errors || sent.latched || sent.cut,
                "#{number} failed for no reason: {:?}",
                done.result
            );
        }
        let ok = done.result.is_ok();
        assert!(!ok || !sent.cut, "#{number} is of sectors that are gone");
        match sent.kind {
            RequestKind::Read { lba, .. } if ok => {
                self.model.read(number, lba, &done.buffer.bytes);
            }
            RequestKind::Write { early, .. } | RequestKind::Trim { early, .. } if ok => {
                let nothing = sent.changes.iter().all(|change| change.optional);
                assert!(
                    nothing || !sent.to_latched,
                    "#{number} was sent to a latched volume and acknowledged"
                );
                // Once it is latched, only what is stable already is still acknowledged.
                let early = early && !self.life.was_latched;
                self.model
                    .acknowledged(number, &sent.changes, early, self.now, &self.disk);
            }
            RequestKind::Write { .. } | RequestKind::Trim { .. } => {
                for change in &sent.changes {
                    self.model.failed(number, change.lba);
                }
            }
            RequestKind::Flush if ok => {
                assert!(
                    !self.life.was_latched,
                    "flush #{number} of a latched volume"
                );
                self.model.flushed(sent.acks, &self.disk);
            }
            RequestKind::Read { .. } | RequestKind::Flush => {}
        }
    }

    fn is_latched(&self) -> bool {
        self.life.volume.failure().is_some()
    }

    /// What has to be true between any two steps.
    fn check(&mut self) {
        let life = &self.life;
        assert_eq!(life.volume.outstanding(), life.requests.len());
        assert_eq!(
            life.page_buffers.count(),
            life.pages,
            "pages of the cache are lost or made"
        );
        assert_eq!(life.request_buffers.count(), life.requests.len());
        let idle = life.operations.is_empty() && life.volume.poll_timeout().is_none();
        assert!(!idle || life.requests.is_empty(), "requests are stuck");
        let kinds = life.operations.values();
        let syncs = kinds.filter(|(kind, _)| *kind == OpKind::Sync);
        assert!(syncs.count() <= 1, "syncs at once: {:?}", life.operations);
        // The kernel may tell the wrong one of two of a failure.
        let durable = OpKind::Write { durable: true };
        assert!(
            life.settings.stability != Stability::Shared
                || life.operations.values().all(|(kind, _)| *kind != durable),
            "a durable write behind the page cache"
        );
        if self.is_latched() {
            assert!(
                life.failures > life.cleared_at,
                "latched for no reason: {:?}",
                life.volume.failure()
            );
        }
        self.check_bounds();
        if self.life.volume.is_clean() && !self.is_latched() {
            self.model.flushed(self.model.acks(), &self.disk);
            assert_eq!(self.model.at_risk_bytes(), 0, "clean and at risk");
        }
    }

    /// What a power cut can take: never more than was allowed. One request is always let in.
    fn check_bounds(&self) {
        let settings = &self.life.settings;
        let at_risk = self.model.at_risk_bytes();
        let counted = self.life.volume.bytes_at_risk();
        assert!(
            counted >= at_risk,
            "{at_risk} bytes at risk, of which the volume knows {counted}: sectors {:?}",
            self.model.sectors_at_risk()
        );
        let most_bytes = settings.dirty_bytes.max(64 * SECTOR as u64);
        assert!(at_risk <= most_bytes, "{at_risk} bytes at risk");
        let Some(since) = self.model.oldest_at_risk() else {
            return;
        };
        // While the device refuses data, time is what it gets.
        if self.is_latched() || self.life.last_error + RETRIES >= since {
            return;
        }
        let device = (self.latency.most + self.latency.slow) * 64;
        let most_age = settings.dirty_age + device + RESUBMIT_PAUSE * 3;
        let age = self.now.saturating_sub(since);
        assert!(age <= most_age, "data has been at risk for {age:?}");
    }

    /// Without faults, everything ends, is stable, and is there.
    fn finish(&mut self) {
        self.trace.event(|| "the end".to_owned());
        self.fair_weather();
        self.tell_size();
        self.settle();
        self.flush();
        self.settle();
        assert_eq!(self.model.at_risk_bytes(), 0, "flushed and at risk");
        let sectors = self.shape.size_bytes / SECTOR as u64;
        for lba in (0..sectors).step_by(17) {
            self.read(lba, 17.min(sectors - lba));
            self.settle();
        }
        self.cut_power();
        self.check();
    }

    fn settle(&mut self) {
        for _ in 0..LAST_STEPS {
            self.step += 1;
            if self.is_latched() {
                self.clear_failure();
            }
            let more = self.next_event();
            self.check();
            let volume = &self.life.volume;
            if volume.is_idle() && volume.is_clean() && self.life.requests.is_empty() {
                return;
            }
            assert!(more, "nothing happens any more");
        }
        panic!("it does not come to an end");
    }
}

impl Life {
    fn begin(random: &mut Random, shape: SimDiskShape, planted: Option<Planted>) -> Self {
        let settings = draw::settings(random, shape);
        let pages = draw::pages(random, shape.block_bytes);
        let page_buffers = Alive::default();
        let memory: Vec<_> = (0..pages)
            .map(|_| page_buffers.buffer(Owner::Page, draw::page_bytes()))
            .collect();
        let mut volume = Volume::new(settings, memory);
        if let Some(planted) = planted {
            volume.plant(planted);
        }
        Self {
            volume,
            settings,
            pages,
            page_buffers,
            request_buffers: Alive::default(),
            requests: BTreeMap::new(),
            operations: BTreeMap::new(),
            errors: 0,
            failures: 0,
            cleared_at: 0,
            last_error: Duration::ZERO,
            was_latched: false,
            idle_timeouts: 0,
        }
    }
}
