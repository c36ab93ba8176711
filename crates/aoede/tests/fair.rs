//! One greedy initiator and several polite ones, and limits: the worker over a simulated network
//! and a simulated disk that does so many operations at once, in virtual time.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests: a panic is how they fail, and their numbers are small"
)]

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::Duration;

use aoede::control::config::Limits;
use aoede::size::Size;
use aoede::worker::{HEAD_BYTES, SeatSet, Serving, Worker};
use aoede_disk::engine::sim::{Latency, SimDisk, SimDiskShape};
use aoede_disk::{
    Backing, Buffer, Completion, DeviceOp, Engine, FileId, Pool, PoolShape, Stability, Volume,
    VolumeSettings,
};
use aoede_link::Port as _;
use aoede_link::sim::{SimNet, SimPort};
use aoede_target::{IgnoreReason, PortFacts, Target, TargetSettings};
use aoede_wire::{Address, Ata, Body, Frame, Header, MacAddr, Opcode, Tag};

const E1_1: Address = Address { shelf: 1, slot: 1 };
const BUFFERS: u16 = 64;
const MS: Duration = Duration::from_millis(1);
/// Sectors that each initiator has for itself.
const REGION: u64 = 1 << 16;
const SIZE_BYTES: u64 = 8 * REGION * 512;

/// A disk that does `width` operations at once; the rest waits in the order of its coming.
struct Narrow {
    disk: SimDisk<Buffer>,
    width: usize,
    queue: VecDeque<DeviceOp<Buffer>>,
}

impl Engine<Buffer> for Narrow {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.disk.attach(backing)
    }

    fn detach(&mut self, file: FileId) {
        self.disk.detach(file);
    }

    fn submit(&mut self, _: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        self.queue.push_back(op);
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        while self.disk.in_flight() < self.width {
            let Some(op) = self.queue.pop_front() else {
                break;
            };
            let submitted = self.disk.submit(SimDisk::<Buffer>::FILE, op);
            assert!(submitted.is_ok(), "the disk has room");
        }
        self.disk.kick()
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        let done = self.disk.poll();
        self.kick().unwrap();
        done
    }

    fn in_flight(&self) -> usize {
        self.disk.in_flight() + self.queue.len()
    }
}

/// An initiator that always has as many requests under way.
struct Load {
    port: SimPort,
    to: MacAddr,
    opcode: Opcode,
    sectors: u8,
    depth: usize,
    /// Of its first sector.
    base: u64,
    next: u32,
    /// When each was sent.
    under_way: BTreeMap<u32, Duration>,
    latencies: Vec<Duration>,
}

impl Load {
    /// Takes what has come, and sends as many new ones. Whether there were any.
    fn work(&mut self, now: Duration) -> bool {
        while let Some(bytes) = self.port.receive() {
            let frame = Frame::decode(bytes).unwrap();
            let Ok(Body::Ata(ata)) = frame.body() else {
                panic!("{frame}");
            };
            assert!(!ata.status().is_failure(), "{frame}");
            let sent = self.under_way.remove(&frame.header.tag.big_endian());
            self.latencies.push(now.checked_sub(sent.unwrap()).unwrap());
        }
        let mut any = false;
        while self.under_way.len() < self.depth {
            any = true;
            let tag = self.next;
            self.next += 1;
            // All over the region, so that no two are neighbours, and far apart before they repeat.
            let slots = REGION / u64::from(self.sectors);
            let lba = self.base + u64::from(tag) * 7919 % slots * u64::from(self.sectors);
            let data = vec![7; usize::from(self.sectors) * 512];
            let mut ata = Ata::request(self.opcode, lba, self.sectors);
            if self.opcode == Opcode::WriteExt {
                ata = ata.with_data(&data);
            }
            let header = Header {
                tag: Tag(tag.to_be_bytes()),
                ..Header::request(self.port.interface().mac, self.to, E1_1)
            };
            let mut bytes = vec![0; 9014];
            let len = Body::Ata(ata).encode(header, &mut bytes).unwrap();
            assert_eq!(self.port.send(&[&bytes[..len]]), 1);
            self.under_way.insert(tag, now);
        }
        any
    }

    fn percentile(&self, percent: usize) -> Duration {
        let mut latencies = self.latencies.clone();
        latencies.sort_unstable();
        latencies[latencies.len() * percent / 100]
    }
}

struct Scene {
    net: SimNet,
    disk: SimDisk<Buffer>,
    worker: Worker<SimPort, Narrow>,
    loads: Vec<Load>,
    to: MacAddr,
    now: Duration,
}

impl Scene {
    /// Each operation of the disk takes 0.5 to 1.5 ms.
    fn new(width: usize) -> Self {
        let shape = SimDiskShape {
            size_bytes: SIZE_BYTES,
            ..SimDiskShape::default()
        };
        let disk = SimDisk::new(7, shape);
        disk.set_latency(Latency {
            least: MS / 2,
            most: 3 * MS / 2,
            ..Latency::default()
        });
        let engine = Narrow {
            disk: disk.clone(),
            width,
            queue: VecDeque::new(),
        };
        let pool = Pool::new(PoolShape {
            count: BUFFERS.into(),
            headroom_bytes: HEAD_BYTES,
            data_bytes: 9216,
            alignment: 512,
        });
        let mut worker = Worker::new(engine, pool.unwrap(), 1);
        let volume = VolumeSettings {
            capacity: BUFFERS.into(),
            stability: Stability::Each,
            size_bytes: SIZE_BYTES,
            read_ahead_bytes: 0,
            ..VolumeSettings::default()
        };
        let target = Target::new(TargetSettings::new(E1_1, SIZE_BYTES / 512)).unwrap();
        let serving = Serving {
            seats: SeatSet::ALL,
            requests: BUFFERS,
        };
        let volume = Volume::new(volume, Vec::new());
        let file = SimDisk::<Buffer>::FILE;
        worker.add_export(target, file, volume, serving).unwrap();
        let net = SimNet::new(1);
        let port = net.attach("target", 9000);
        let to = port.interface().mac;
        let facts = PortFacts {
            mac: to,
            mtu: 9000,
            max_sectors: 17,
        };
        worker.set_facts(0, facts);
        worker.set_port(0, Some(port));
        Self {
            net,
            disk,
            worker,
            loads: Vec::new(),
            to,
            now: Duration::from_secs(1),
        }
    }

    fn add(&mut self, opcode: Opcode, sectors: u8, depth: usize) {
        let number = self.loads.len() as u64;
        self.loads.push(Load {
            port: self.net.attach("initiator", 9000),
            to: self.to,
            opcode,
            sectors,
            depth,
            base: number * REGION,
            next: 0,
            under_way: BTreeMap::new(),
            latencies: Vec::new(),
        });
    }

    /// Lets so much time pass, and forgets latencies from before `from`.
    fn run(&mut self, warm_up: Duration, time: Duration) {
        let (start, end) = (self.now + warm_up, self.now + warm_up + time);
        let mut is_warm = false;
        while self.now < end {
            if !is_warm && self.now >= start {
                is_warm = true;
                for load in &mut self.loads {
                    load.latencies.clear();
                }
            }
            self.disk.advance(self.now);
            loop {
                let mut busy = self.worker.turn(self.now).unwrap();
                self.net.step();
                for load in &mut self.loads {
                    busy |= load.work(self.now);
                }
                self.net.step();
                if !busy {
                    break;
                }
            }
            let next = [self.disk.next_due(), self.worker.poll_timeout()];
            let next = next.into_iter().flatten().min();
            self.now = next.unwrap();
        }
    }

    /// The 99th percentile of all of these.
    fn slowest(&self, loads: std::ops::Range<usize>) -> Duration {
        let loads = self.loads[loads].iter();
        loads.map(|load| load.percentile(99)).max().unwrap()
    }

    fn ended(&self, loads: std::ops::Range<usize>) -> usize {
        let loads = self.loads[loads].iter();
        loads.map(|load| load.latencies.len()).sum()
    }

    fn dropped(&self) -> u64 {
        let (_, target) = self.worker.exports().iter().next().unwrap();
        target.stats().ignored.get(IgnoreReason::Busy)
    }
}

const WARM_UP: Duration = Duration::from_millis(700);
const TIME: Duration = Duration::from_secs(1);

/// Three initiators with one request each, without and with a greedy one.
fn greedy_beside_polite(width: usize, polite: Opcode) {
    let three = |scene: &mut Scene| {
        for _ in 0..3 {
            scene.add(polite, 8, 1);
        }
    };
    let mut alone = Scene::new(width);
    three(&mut alone);
    alone.run(WARM_UP, TIME);

    let mut scene = Scene::new(width);
    three(&mut scene);
    scene.add(Opcode::WriteExt, 16, 64);
    scene.run(WARM_UP, TIME);

    let (before, with) = (alone.slowest(0..3), scene.slowest(0..3));
    assert!(with <= 2 * before, "{with:?} instead of {before:?}");
    // An operation takes a millisecond on average.
    let capacity = width * TIME.as_millis() as usize;
    let (polite, greedy) = (scene.ended(0..3), scene.ended(3..4));
    let left = capacity.saturating_sub(polite);
    assert!(
        greedy * 10 > left * 7,
        "{greedy} of {left}, beside {polite} of {}",
        alone.ended(0..3)
    );
    assert_eq!(scene.dropped(), 0);
}

#[test]
fn polite_readers_are_served_beside_a_greedy_writer() {
    greedy_beside_polite(8, Opcode::ReadExt);
}

#[test]
fn polite_writers_are_served_beside_a_greedy_writer() {
    greedy_beside_polite(8, Opcode::WriteExt);
}

#[test]
fn the_whole_of_a_wide_disk_is_used() {
    greedy_beside_polite(32, Opcode::ReadExt);
}

#[test]
fn polite_readers_are_served_on_a_disk_that_does_one_thing_after_the_other() {
    greedy_beside_polite(1, Opcode::ReadExt);
}

#[test]
fn two_that_are_greedy_get_the_same() {
    let mut scene = Scene::new(4);
    scene.add(Opcode::WriteExt, 16, 64);
    scene.add(Opcode::WriteExt, 16, 16);
    scene.run(WARM_UP, TIME);
    let (one, two) = (scene.ended(0..1), scene.ended(1..2));
    assert!(one.abs_diff(two) * 10 < one + two, "{one} and {two}");
    assert!((one + two) * 10 > 9 * 4 * TIME.as_millis() as usize);
}

#[test]
fn who_is_alone_gets_the_whole_disk_at_once() {
    let mut scene = Scene::new(32);
    scene.add(Opcode::WriteExt, 16, 64);
    scene.run(10 * MS, TIME);
    let ended = scene.ended(0..1);
    assert!(ended * 100 > 97 * 32 * TIME.as_millis() as usize, "{ended}");
    assert_eq!(scene.worker.fair_stats().waited, 0, "nothing was copied");
}

fn limits(bytes: Option<u64>, operations: Option<u32>) -> Limits {
    Limits {
        bytes_per_second: bytes.map(Size),
        operations_per_second: operations,
    }
}

/// Some initiators of all kinds for ten seconds: what was done and how much data that was.
fn limited(limits: Limits) -> (usize, usize) {
    let mut scene = Scene::new(8);
    scene.worker.set_limits(0, limits);
    scene.add(Opcode::ReadExt, 8, 1);
    scene.add(Opcode::WriteExt, 16, 32);
    scene.add(Opcode::ReadExt, 17, 4);
    scene.run(100 * MS, Duration::from_secs(10));
    let sectors = scene.loads.iter();
    let sectors = sectors.map(|load| load.latencies.len() * usize::from(load.sectors));
    let bytes = 512 * sectors.sum::<usize>();
    for load in &scene.loads {
        // Nobody is left out, however deep the others are.
        let share = load.latencies.len() * 8;
        assert!(share > scene.ended(0..3), "{share}");
    }
    assert_eq!(scene.dropped(), 0);
    (scene.ended(0..3), bytes)
}

/// Within how much of what was promised, in percent.
fn assert_within_five_percent(found: usize, promised: usize) {
    assert!(
        (promised * 95..=promised * 105).contains(&(found * 100)),
        "{found} instead of {promised}"
    );
}

#[test]
fn operations_are_limited() {
    let (operations, _) = limited(limits(None, Some(300)));
    assert_within_five_percent(operations, 3000);
}

#[test]
fn bytes_are_limited() {
    let (_, bytes) = limited(limits(Some(2 << 20), None));
    assert_within_five_percent(bytes, 20 << 20);
}

#[test]
fn the_stricter_limit_holds() {
    let (operations, bytes) = limited(limits(Some(64 << 20), Some(200)));
    assert_within_five_percent(operations, 2000);
    assert!(bytes < 64 << 20);
}

/// No more begins at once than a small part of a second is worth, however long it was quiet.
#[test]
fn a_limit_knows_no_burst() {
    let mut scene = Scene::new(8);
    scene.worker.set_limits(0, limits(None, Some(100)));
    scene.now = Duration::from_secs(3600);
    scene.add(Opcode::ReadExt, 8, 64);
    scene.run(Duration::ZERO, 100 * MS);
    // Ten, two that were saved, and one that may be paid for later.
    assert!((10..=13).contains(&scene.ended(0..1)));
}

/// An export that nobody asks, limited or not, has nothing to wake for.
#[test]
fn a_limit_that_nobody_meets_wakes_nobody() {
    let mut scene = Scene::new(8);
    scene.worker.set_limits(0, limits(Some(1 << 20), Some(100)));
    scene.add(Opcode::ReadExt, 8, 16);
    scene.run(Duration::ZERO, 500 * MS);
    // Whoever asked stops.
    for load in &mut scene.loads {
        load.depth = 0;
    }
    while let Some(next) = [scene.disk.next_due(), scene.worker.poll_timeout()]
        .into_iter()
        .flatten()
        .min()
    {
        assert!(scene.now < Duration::from_secs(10));
        scene.now = next;
        scene.disk.advance(next);
        while scene.worker.turn(next).unwrap() {}
    }
    assert!(scene.worker.is_idle());
    assert_eq!(scene.worker.fair_stats().waiting, 0);
}
