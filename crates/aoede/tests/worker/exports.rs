//! Exports that come, change and go while others are served.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use aoede::worker::{SeatSet, Serving, Worker};
use aoede_disk::{
    Backing, BlockingEngine, Buffer, Completion, DeviceOp, Engine, FileId, Memory, OpenOptions,
    Pool, Shadow, ShadowEvent, ShadowPhase, ShadowSettings, TASKS, Volume, VolumeSettings,
    WhenFull, create_shadow, open,
};
use aoede_histogram::Histogram;
use aoede_link::Port as _;
use aoede_link::sim::{Faults, SimNet, SimPort};
use aoede_target::{Access, IgnoreReason, Target, TargetSettings, Who, WriteCache};
use aoede_wire::{
    Address, Ata, Body, Config, ConfigCommand, ExtensionTable, Frame, Header, MacAddr, Opcode, Tag,
};

use super::common::{self, BUFFERS, SECTORS, facts};

/// Blocking calls whose completions come when a test lets them.
struct Gated {
    engine: BlockingEngine<Buffer>,
    /// How many more may come.
    gate: Rc<Cell<usize>>,
    attached: Rc<Cell<usize>>,
}

impl Engine<Buffer> for Gated {
    fn attach(&mut self, backing: &Backing) -> io::Result<FileId> {
        self.attached.set(self.attached.get() + 1);
        Engine::<Buffer>::attach(&mut self.engine, backing)
    }

    fn detach(&mut self, file: FileId) {
        self.attached.set(self.attached.get() - 1);
        Engine::<Buffer>::detach(&mut self.engine, file);
    }

    fn submit(&mut self, file: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        self.engine.submit(file, op)
    }

    fn kick(&mut self) -> io::Result<()> {
        Engine::<Buffer>::kick(&mut self.engine)
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        let left = self.gate.get().checked_sub(1)?;
        let done = self.engine.poll()?;
        self.gate.set(left);
        Some(done)
    }

    fn in_flight(&self) -> usize {
        Engine::<Buffer>::in_flight(&self.engine)
    }
}

/// Some segments, each with an initiator, and a worker on all of them.
struct Scene {
    nets: Vec<SimNet>,
    initiators: Vec<SimPort>,
    target_macs: Vec<MacAddr>,
    worker: Worker<SimPort, Gated>,
    gate: Rc<Cell<usize>>,
    attached: Rc<Cell<usize>>,
    now: Duration,
    folder: tempfile::TempDir,
}

const OPEN: usize = usize::MAX;

impl Scene {
    fn new(seats: usize) -> Self {
        let nets: Vec<_> = (1..).take(seats).map(SimNet::new).collect();
        let ports: Vec<_> = nets.iter().map(|net| net.attach("target", 9000)).collect();
        let (gate, attached) = (Rc::new(Cell::new(OPEN)), Rc::default());
        let engine = Gated {
            engine: BlockingEngine::new(8 * (BUFFERS + TASKS + 1)),
            gate: Rc::clone(&gate),
            attached: Rc::clone(&attached),
        };
        let mut worker = Worker::new(engine, common::pool(), seats);
        let target_macs = ports.iter().map(|port| port.interface().mac).collect();
        for (seat, port) in ports.into_iter().enumerate() {
            worker.set_facts(seat, facts(port.interface()));
            worker.set_port(seat, Some(port));
        }
        Self {
            initiators: nets.iter().map(|net| net.attach("i", 9000)).collect(),
            nets,
            target_macs,
            worker,
            gate,
            attached,
            now: Duration::ZERO,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, address: Address) -> PathBuf {
        self.folder.path().join(address.to_string())
    }

    fn backing(&self, address: Address) -> Backing {
        let options = OpenOptions {
            create_bytes: Some(SECTORS * 512),
            ..OpenOptions::default()
        };
        open(&self.path(address), &options).unwrap()
    }

    /// Serves a new disk, with a write cache, on all seats and with all buffers.
    fn add(&mut self, address: Address) -> usize {
        let export = self.add_serving(address, common::SERVING);
        self.sync_at_start(export);
        export
    }

    fn add_serving(&mut self, address: Address, serving: Serving) -> usize {
        let backing = self.backing(address);
        let settings = VolumeSettings {
            // Nothing is written before it has to be.
            dirty_age: Duration::from_secs(3600),
            ..common::volume_settings(&backing)
        };
        let volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
        self.add_volume(address, &backing, volume, serving)
    }

    fn add_volume(
        &mut self,
        address: Address,
        backing: &Backing,
        volume: Volume<Buffer>,
        serving: Serving,
    ) -> usize {
        let file = self.worker.engine_mut().attach(backing).unwrap();
        let settings = TargetSettings {
            write_cache: WriteCache::Back,
            ..TargetSettings::new(address, backing.sectors)
        };
        let target = Target::new(settings).unwrap();
        let added = self.worker.add_export(target, file, volume, serving);
        added.unwrap()
    }

    /// Has the sync that every volume begins with behind it, so that it has nothing to do.
    fn sync_at_start(&mut self, export: usize) {
        let gate = self.gate.replace(OPEN);
        self.worker.begin_flush_export(export, self.now);
        while !self.worker.volume(export).unwrap().is_clean() {
            self.worker.drain(self.now).unwrap();
        }
        self.gate.set(gate);
    }

    fn send(&mut self, seat: usize, address: Address, tag: u32, body: Body<'_>) {
        let initiator = &mut self.initiators[seat];
        let mac = initiator.interface().mac;
        let header = Header {
            tag: Tag(tag.to_be_bytes()),
            ..Header::request(mac, self.target_macs[seat], address)
        };
        let mut bytes = vec![0; 9014];
        let len = body.encode(header, &mut bytes).unwrap();
        assert_eq!(initiator.send(&[&bytes[..len]]), 1);
    }

    fn read(&mut self, seat: usize, address: Address, tag: u32) {
        let read = Ata::request(Opcode::ReadExt, u64::from(tag), 1);
        self.send(seat, address, tag, Body::Ata(read));
    }

    fn write(&mut self, address: Address, tag: u32, lba: u64, byte: u8) {
        let write = Ata::request(Opcode::WriteExt, lba, 1);
        self.send(0, address, tag, Body::Ata(write.with_data(&[byte; 512])));
    }

    /// Lets everything happen that can. What came back: by seat, address and tag; a failure counts
    /// as none.
    fn settle(&mut self) -> Vec<(usize, Address, u32)> {
        let mut answers = Vec::new();
        loop {
            self.nets.iter().for_each(SimNet::step);
            let busy = self.worker.turn(self.now).unwrap();
            for (seat, initiator) in self.initiators.iter_mut().enumerate() {
                while let Some(bytes) = initiator.receive() {
                    let frame = Frame::decode(bytes).unwrap();
                    if let Ok(Body::Ata(ata)) = frame.body() {
                        assert!(!ata.status().is_failure());
                    }
                    answers.push((seat, frame.header.address, frame.header.tag.big_endian()));
                }
            }
            if !busy && self.nets.iter().all(|net| net.under_way() == 0) {
                return answers;
            }
        }
    }

    fn ignored(&mut self, export: usize, reason: IgnoreReason) -> u64 {
        let target = self.worker.target_mut(export).unwrap();
        target.stats().ignored.get(reason)
    }

    fn close(&mut self, export: usize) {
        self.worker.begin_close(export, self.now);
        self.settle();
        assert!(self.worker.is_closed(export));
        let (_, _, volume) = self.worker.remove_export(export).unwrap();
        assert!(volume.is_clean());
    }
}

fn e(slot: u8) -> Address {
    Address::new(1, slot).unwrap()
}

const QUERY: Body<'_> = Body::Config(Config {
    buffer_count: 0,
    firmware: 0,
    sector_count: 0,
    version: 0,
    command: ConfigCommand::Read,
    string_len: 0,
    rest: &[],
});

#[test]
fn an_export_answers_on_its_seats_and_on_no_other() {
    let mut scene = Scene::new(2);
    let serving = Serving {
        seats: SeatSet::NONE.with(1),
        ..common::SERVING
    };
    let everywhere = scene.add(e(1));
    let one = scene.add_serving(e(2), serving);
    for seat in [0, 1] {
        scene.read(seat, e(1), 1);
        scene.read(seat, e(2), 2);
        scene.send(seat, Address::ALL, 3, QUERY);
    }
    let mut answers = scene.settle();
    answers.sort();
    let expected = [
        (0, e(1), 1),
        (0, e(1), 3),
        (1, e(1), 1),
        (1, e(1), 3),
        (1, e(2), 2),
        (1, e(2), 3),
    ];
    assert_eq!(answers, expected);
    assert_eq!(scene.ignored(one, IgnoreReason::Interface), 2);
    assert_eq!(scene.ignored(everywhere, IgnoreReason::Interface), 0);

    // On others from now on, under load.
    scene.gate.set(0);
    scene.read(1, e(2), 4);
    scene.settle();
    scene.worker.set_export_seats(one, SeatSet::NONE.with(0));
    scene.read(1, e(2), 5);
    scene.read(0, e(2), 6);
    scene.settle();
    scene.gate.set(OPEN);
    let mut answers = scene.settle();
    answers.sort();
    // What had begun is answered where it came in.
    assert_eq!(answers, [(0, e(2), 6), (1, e(2), 4)]);
}

#[test]
fn announcements_go_to_an_exports_seats() {
    let mut scene = Scene::new(2);
    let only = |seat| Serving {
        seats: SeatSet::NONE.with(seat),
        ..common::SERVING
    };
    let first = scene.add_serving(e(1), only(0));
    scene.add_serving(e(2), only(1));
    let third = scene.add(e(3));
    for seat in [0, 1] {
        scene.worker.announce(seat);
    }
    let mut answers = scene.settle();
    answers.sort();
    assert_eq!(
        answers,
        [(0, e(1), 0), (0, e(3), 0), (1, e(2), 0), (1, e(3), 0)]
    );
    scene.worker.announce_export(third);
    scene.worker.announce_export(third);
    let mut answers = scene.settle();
    answers.sort();
    assert_eq!(answers, [(0, e(3), 0), (1, e(3), 0)]);
    // What was to be told where it is not served any more is not.
    scene.worker.announce_export(first);
    scene.worker.set_export_seats(first, SeatSet::NONE.with(1));
    assert_eq!(scene.settle(), []);
}

#[test]
fn there_are_64_seats_at_most() {
    let mut scene = Scene::new(1);
    let numbers: Vec<_> = std::iter::from_fn(|| scene.worker.add_seat()).collect();
    assert!(numbers.into_iter().eq(1..64));
    // A port in a new seat is served like any.
    scene.add(e(1));
    let net = SimNet::new(9);
    let port = net.attach("target", 9000);
    scene.target_macs.push(port.interface().mac);
    scene.worker.set_facts(63, facts(port.interface()));
    scene.worker.set_port(63, Some(port));
    scene.initiators.push(net.attach("i", 9000));
    scene.nets.push(net);
    scene.read(1, e(1), 7);
    assert_eq!(scene.settle(), [(1, e(1), 7)]);
}

/// A seat without a port takes no buffers from the others: one alone may have them all.
#[test]
fn empty_seats_have_no_part_of_the_buffers() {
    let mut scene = Scene::new(1);
    // With four ports each could have 5 of the 8 only.
    for _ in 0..3 {
        scene.worker.add_seat().unwrap();
    }
    scene.add(e(1));
    scene.gate.set(0);
    for tag in 0..2 * BUFFERS as u32 {
        scene.read(0, e(1), tag);
    }
    scene.settle();
    let volume = scene.worker.volume(0).unwrap();
    assert_eq!(volume.outstanding(), BUFFERS);
    assert!(!scene.worker.takes_frames(0));
    scene.gate.set(OPEN);
    assert_eq!(scene.settle().len(), 2 * BUFFERS);
}

/// What one export may have at once leaves buffers for others.
#[test]
fn an_export_has_no_more_requests_at_once_than_it_may() {
    let mut scene = Scene::new(1);
    let serving = Serving {
        requests: 3,
        ..common::SERVING
    };
    let busy = scene.add_serving(e(1), serving);
    let free = scene.add(e(2));
    scene.gate.set(0);
    for tag in 0..5 {
        scene.read(0, e(1), tag);
    }
    // Another's request for another disk does not wait.
    let mut other = scene.nets[0].attach("other", 9000);
    let header = Header::request(other.interface().mac, scene.target_macs[0], e(2));
    let mut bytes = [0; 60];
    let read = Body::Ata(Ata::request(Opcode::ReadExt, 0, 1));
    read.encode(header, &mut bytes).unwrap();
    assert_eq!(other.send(&[&bytes[..]]), 1);
    assert_eq!(scene.settle(), []);
    let outstanding = |scene: &Scene, export| {
        let volume = scene.worker.volume(export).unwrap();
        volume.outstanding()
    };
    assert_eq!(outstanding(&scene, busy), 3);
    assert_eq!(outstanding(&scene, free), 1);
    scene.gate.set(OPEN);
    let mut answers = scene.settle();
    answers.sort();
    let expected = [0, 1, 2, 3, 4].map(|tag| (0, e(1), tag));
    assert_eq!(answers, expected);
    assert_eq!(scene.ignored(busy, IgnoreReason::Busy), 0);
    // Reads that come together do not wait for each other.
    let table = ExtensionTable::new(b"coalesced_read\0\0").unwrap();
    scene.send(0, e(1), 20, Body::Extension(table));
    scene.settle();
    let mut payload = [0; 400];
    let len = super::coalesced(&[9; 4], &mut payload);
    let reads = Ata::request(Opcode::ReadExt, 3, 1).with_data(&payload[..len]);
    scene.gate.set(0);
    scene.send(0, e(1), 21, Body::Ata(reads));
    scene.settle();
    // Of five.
    assert_eq!(outstanding(&scene, busy), 3);
    assert_eq!(scene.ignored(busy, IgnoreReason::Busy), 2);
}

#[test]
fn a_closing_export_answers_what_has_begun_and_takes_no_more() {
    let mut scene = Scene::new(1);
    let going = scene.add(e(1));
    scene.add(e(2));
    scene.worker.announce_export(going);
    scene.gate.set(0);
    scene.read(0, e(1), 1);
    scene.read(0, e(2), 2);
    scene.settle();
    scene.worker.begin_close(going, scene.now);
    scene.worker.announce(0);
    scene.read(0, e(1), 3);
    scene.send(0, Address::ALL, 4, QUERY);
    // The other one's announcement, and its answer.
    assert_eq!(scene.settle(), [(0, e(2), 0), (0, e(2), 4)]);
    assert_eq!(scene.ignored(going, IgnoreReason::Closing), 2);
    assert!(!scene.worker.is_closed(going) && scene.worker.is_export_busy(going));
    assert!(scene.worker.remove_export(going).is_none(), "too early");
    assert!(scene.worker.volume(going).is_some());

    scene.gate.set(OPEN);
    let mut answers = scene.settle();
    answers.sort();
    assert_eq!(answers, [(0, e(1), 1), (0, e(2), 2)]);
    assert!(scene.worker.is_closed(going));
    assert_eq!(scene.attached.get(), 2);
    let (target, ..) = scene.worker.remove_export(going).unwrap();
    assert_eq!(target.address(), e(1));
    assert_eq!(scene.attached.get(), 1);
    assert!(scene.worker.remove_export(going).is_none());
    // Nobody has this address any more.
    scene.read(0, e(1), 5);
    scene.read(0, e(2), 6);
    assert_eq!(scene.settle(), [(0, e(2), 6)]);
    assert!(scene.worker.is_idle());
}

#[test]
fn who_is_not_asked_to_close_is_not_removed() {
    let mut scene = Scene::new(1);
    let export = scene.add(e(1));
    assert!(!scene.worker.is_closed(export));
    assert!(scene.worker.remove_export(export).is_none());
    assert!(scene.worker.remove_export(7).is_none());
    scene.read(0, e(1), 1);
    assert_eq!(scene.settle().len(), 1);
    // One that has nothing to do is closed at once.
    scene.worker.begin_close(export, scene.now);
    assert!(scene.worker.is_closed(export));
}

/// They would take memory, and places from those who are meant.
#[test]
fn frames_of_who_is_masked_do_not_wait() {
    let mut scene = Scene::new(1);
    let another = scene.nets[0].attach("another", 9000);
    scene.initiators.push(another);
    scene.target_macs.push(scene.target_macs[0]);
    let serving = Serving {
        requests: 2,
        ..common::SERVING
    };
    let export = scene.add_serving(e(1), serving);
    let meant = Who::These(BTreeSet::from([scene.initiators[0].interface().mac]));
    let access = Access {
        read: meant.clone(),
        write: meant.clone(),
        configure: meant,
    };
    scene
        .worker
        .target_mut(export)
        .unwrap()
        .set_access(&access)
        .unwrap();
    scene.gate.set(0);
    for tag in 1..=3 {
        scene.read(0, e(1), tag);
    }
    scene.settle();
    scene.read(1, e(1), 4);
    scene.settle();
    assert_eq!(scene.ignored(export, IgnoreReason::Masked), 1);
    assert_eq!(scene.worker.fair_stats().waiting, 1);
    scene.gate.set(OPEN);
    assert_eq!(scene.settle(), [(0, e(1), 1), (0, e(1), 2), (0, e(1), 3)]);
}

#[test]
fn who_cannot_be_served_after_all_leaves_nothing() {
    let mut scene = Scene::new(1);
    // Its first sync is missing.
    let export = scene.add_serving(e(1), common::SERVING);
    assert!(scene.worker.abandon_export(export));
    assert!(!scene.worker.abandon_export(export));
    assert_eq!(scene.add(e(1)), export);
    scene.gate.set(0);
    scene.read(0, e(1), 1);
    scene.settle();
    assert!(!scene.worker.abandon_export(export));
    scene.gate.set(OPEN);
    assert_eq!(scene.settle(), [(0, e(1), 1)]);
}

/// Writes that were acknowledged from memory are on the disk when the export is closed, whatever was
/// under way when the end began.
#[test]
fn closing_under_load_loses_nothing() {
    for seed in 0..60_u32 {
        let mut scene = Scene::new(1);
        let going = scene.add(e(1));
        scene.add(e(2));
        let mut random = seed.wrapping_mul(0x9E37_79B9) | 1;
        let mut draw = move |most: u32| {
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            random % most
        };
        // By sector: what was written last, as far as it was acknowledged.
        let mut expected = vec![0; 64];
        let mut sent = Vec::new();
        let rounds = 5 + draw(40);
        for tag in 1..200_u32 {
            scene.gate.set(draw(4) as usize);
            // Different sectors while they are under way: only the order of arrival counts.
            let lba = draw(64) as usize;
            scene.write(e(1), tag, lba as u64, tag as u8);
            sent.push((tag, lba));
            if draw(8) == 0 {
                scene.send(
                    0,
                    e(1),
                    1000,
                    Body::Ata(Ata::request(Opcode::FlushCache, 0, 0)),
                );
            }
            if tag == rounds {
                scene.worker.begin_close(going, scene.now);
            }
            for (_, address, answered) in scene.settle() {
                assert_eq!(address, e(1));
                if let Some(&(tag, lba)) = sent.iter().find(|(tag, _)| *tag == answered) {
                    expected[lba] = tag as u8;
                }
            }
            if scene.worker.is_closed(going) {
                break;
            }
        }
        scene.gate.set(OPEN);
        scene.settle();
        assert!(scene.worker.is_closed(going), "seed {seed}");
        let (_, _, volume) = scene.worker.remove_export(going).unwrap();
        assert!(volume.is_clean());
        drop(volume);
        let content = fs::read(scene.path(e(1))).unwrap();
        for (lba, byte) in expected.into_iter().enumerate() {
            let sector = &content[lba * 512..][..512];
            assert!(
                sector.iter().all(|&b| b == byte),
                "seed {seed}, sector {lba}"
            );
        }
        assert!(scene.worker.is_idle());
    }
}

/// What a flush that already runs does not cover is flushed too.
#[test]
fn closing_during_a_flush_waits_for_another() {
    let mut scene = Scene::new(1);
    let going = scene.add(e(1));
    scene.write(e(1), 1, 8, 0xA1);
    scene.settle();
    scene.gate.set(0);
    scene.worker.begin_flush_export(going, scene.now);
    scene.settle();
    scene.write(e(1), 2, 9, 0xB2);
    scene.settle();
    scene.worker.begin_close(going, scene.now);
    scene.settle();
    assert!(!scene.worker.is_closed(going));
    scene.gate.set(OPEN);
    scene.settle();
    assert!(scene.worker.is_closed(going));
    assert!(scene.worker.volume(going).unwrap().is_clean());
    let content = fs::read(scene.path(e(1))).unwrap();
    assert_eq!([content[8 * 512], content[9 * 512]], [0xA1, 0xB2]);
}

#[test]
fn the_number_of_a_closed_export_is_used_again() {
    let mut scene = Scene::new(1);
    let first = scene.add(e(1));
    let kept = scene.add(e(2));
    scene.write(e(1), 1, 8, 0x11);
    scene.write(e(2), 2, 8, 0x22);
    scene.settle();
    scene.close(first);
    let second = scene.add(e(3));
    assert_eq!(second, first);
    scene.write(e(3), 3, 8, 0x33);
    scene.settle();
    scene.worker.begin_flush(scene.now);
    scene.settle();
    let byte = |scene: &Scene, slot| fs::read(scene.path(e(slot))).unwrap()[8 * 512];
    let bytes = [1, 2, 3].map(|slot| byte(&scene, slot));
    assert_eq!(bytes, [0x11, 0x22, 0x33]);
    // The address too, with the file: all that was written is there.
    scene.close(second);
    let again = scene.add(e(1));
    assert_eq!((again, scene.attached.get()), (first, 2));
    scene.read(0, e(1), 8);
    assert_eq!(scene.settle(), [(0, e(1), 8)]);
    assert_ne!(kept, again);
    for _ in 0..100 {
        scene.close(again);
        assert_eq!(scene.add(e(4)), again);
        scene.close(again);
        assert_eq!(scene.add(e(1)), again);
    }
    assert_eq!(scene.attached.get(), 2);
}

/// As long as the disk has an operation of an export, the export is there: its number is not
/// another's when the completion comes.
#[test]
fn a_late_completion_finds_the_export_that_it_belongs_to() {
    let mut scene = Scene::new(1);
    let going = scene.add(e(1));
    scene.gate.set(0);
    scene.read(0, e(1), 1);
    scene.settle();
    scene.worker.begin_close(going, scene.now);
    for _ in 0..10 {
        scene.settle();
        assert!(scene.worker.remove_export(going).is_none());
    }
    let new = scene.add_serving(e(2), common::SERVING);
    assert_ne!(new, going);
    scene.read(0, e(2), 2);
    scene.settle();
    scene.gate.set(1);
    assert_eq!(scene.settle(), [(0, e(1), 1)]);
    assert!(scene.worker.is_closed(going));
    assert!(scene.worker.remove_export(going).is_some());
    // Now that it is gone, completions go on to find the other.
    scene.gate.set(OPEN);
    assert_eq!(scene.settle(), [(0, e(2), 2)]);
}

/// What was held and what was to be announced belongs to the old export, not to its number.
#[test]
fn a_new_export_says_nothing_for_the_old_one() {
    let mut scene = Scene::new(1);
    let old = scene.add(e(1));
    let table = ExtensionTable::new(b"congestion\x005\0\0").unwrap();
    scene.send(0, e(1), 1, Body::Extension(table));
    assert_eq!(scene.settle(), []);
    assert!(scene.worker.poll_timeout().is_some());
    scene.worker.announce_export(old);
    scene.worker.begin_close(old, scene.now);
    scene.worker.remove_export(old).unwrap();
    assert_eq!(scene.worker.poll_timeout(), None);
    assert_eq!(scene.add(e(2)), old);
    scene.now = Duration::from_secs(1);
    assert_eq!(scene.settle(), []);
    let target = scene.worker.target_mut(old).unwrap();
    assert_eq!(target.stats().responses, 0);
}

/// An answer that could not leave yet leaves after its export.
#[test]
fn answers_that_wait_outlive_their_export() {
    let mut scene = Scene::new(1);
    let going = scene.add(e(1));
    scene.read(0, e(1), 1);
    scene.nets[0].step();
    scene.nets[0].set_faults(Faults {
        send_limit: Some(0),
        ..Faults::default()
    });
    while scene.worker.turn(scene.now).unwrap() {}
    assert!(scene.worker.waits_to_send(0));
    scene.worker.begin_close(going, scene.now);
    assert!(scene.worker.remove_export(going).is_some());
    scene.nets[0].set_faults(Faults::default());
    assert_eq!(scene.settle(), [(0, e(1), 1)]);
}

#[test]
fn latencies_reach_from_turn_to_turn() {
    let mut scene = Scene::new(1);
    let export = scene.add(e(1));
    assert!(scene.worker.latencies(export).is_none());
    scene.gate.set(0);
    scene.now = Duration::from_millis(100);
    scene.read(0, e(1), 1);
    scene.settle();
    scene.now = Duration::from_millis(103);
    scene.gate.set(OPEN);
    scene.settle();
    // From memory, within one turn.
    scene.write(e(1), 2, 8, 1);
    scene.settle();
    scene.gate.set(0);
    scene.send(
        0,
        e(1),
        3,
        Body::Ata(Ata::request(Opcode::FlushCache, 0, 0)),
    );
    scene.settle();
    scene.now = Duration::from_millis(110);
    scene.gate.set(OPEN);
    scene.settle();
    let latencies = scene.worker.latencies(export).unwrap();
    let of = |histogram: &Histogram| {
        (
            histogram.count(),
            histogram.quantile(0.5).as_secs_f64() * 1e3,
        )
    };
    let [(reads, read), (writes, write), (flushes, flush), (trims, _)] = [
        &latencies.reads,
        &latencies.writes,
        &latencies.flushes,
        &latencies.trims,
    ]
    .map(of);
    assert_eq!((reads, writes, flushes, trims), (1, 1, 1, 0));
    assert!((2.95..3.05).contains(&read), "{read} ms");
    assert!((6.9..7.1).contains(&flush), "{flush} ms");
    assert!(write < 0.001, "{write} ms");
}

/// One that nobody asks has its timer and its turn when it has something to do, among many that
/// have nothing.
#[test]
fn an_export_among_many_writes_behind_by_itself() {
    let mut scene = Scene::new(1);
    for slot in 1..=40 {
        let address = e(slot);
        let backing = scene.backing(address);
        let settings = VolumeSettings {
            dirty_age: Duration::from_secs(2),
            ..common::volume_settings(&backing)
        };
        let volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
        scene.add_volume(address, &backing, volume, common::SERVING);
    }
    assert_eq!(scene.settle(), []);
    assert_eq!(scene.worker.poll_timeout(), None);
    for slot in [7, 30] {
        scene.write(e(slot), u32::from(slot), 8, slot);
    }
    assert_eq!(scene.settle().len(), 2);
    let due = scene.worker.poll_timeout().expect("not on the disk yet");
    assert_eq!(due, Duration::from_secs(1));
    assert!(!scene.worker.is_disk_busy());
    scene.now = due;
    scene.settle();
    for slot in [7, 30] {
        let content = fs::read(scene.path(e(slot))).unwrap();
        assert_eq!(content[8 * 512], slot);
    }
    assert_eq!(scene.worker.poll_timeout(), None);
}

/// A frozen image is closed as it is: its shadow goes on from there the next time.
#[test]
fn a_shadow_does_not_hold_up_the_end() {
    for merging in [false, true] {
        let mut scene = Scene::new(1);
        let image = scene.backing(e(1));
        let settings = VolumeSettings {
            block_bytes: 4096,
            discard_bytes: 4096,
            ..common::volume_settings(&image)
        };
        let volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
        let export = scene.add_volume(e(1), &image, volume, common::SERVING);
        let settings = ShadowSettings {
            capacity: BUFFERS + TASKS + 1,
            size_bytes: SECTORS * 512,
            when_full: WhenFull::FailWrites,
        };
        let mut pages = Pool::cache(2 * 4096).unwrap();
        let memory = Memory::One(pages.pop().unwrap());
        let shadow = Shadow::new(settings, pages.pop().unwrap(), memory);
        scene.worker.set_shadow(export, shadow);
        let path = scene.folder.path().join("shadow");
        let files = create_shadow(&path, &image, SECTORS * 512, image.io).unwrap();
        scene.worker.freeze(export, &files, None).unwrap().unwrap();
        scene.settle();
        assert_eq!(scene.worker.poll_shadow(export), Some(ShadowEvent::Frozen));
        assert_eq!(scene.attached.get(), 3);
        for tag in 0..40 {
            scene.write(e(1), tag, u64::from(tag) * 8, 0x77);
            scene.settle();
        }
        if merging {
            // Until the volume has nothing more to do, and the shadow has not merged it all.
            scene.worker.begin_flush_export(export, scene.now);
            scene.settle();
            scene.worker.thaw(export).unwrap();
            let status = |scene: &Scene| scene.worker.shadow_status(export).unwrap();
            for _ in 0..10 {
                scene.gate.set(1);
                scene.settle();
                if status(&scene).phase == ShadowPhase::Merging {
                    break;
                }
            }
            scene.gate.set(0);
        }
        scene.worker.begin_close(export, scene.now);
        scene.settle();
        assert_eq!(scene.worker.is_closed(export), !merging);
        scene.gate.set(OPEN);
        scene.settle();
        assert!(scene.worker.is_closed(export));
        assert!(scene.worker.volume(export).unwrap().is_clean());
        let status = scene.worker.shadow_status(export).unwrap();
        let phase = if merging {
            ShadowPhase::Merging
        } else {
            ShadowPhase::Frozen
        };
        assert_eq!(status.phase, phase);
        assert!(status.dirty_bytes > 0);
        scene.worker.remove_export(export).unwrap();
        assert_eq!(scene.attached.get(), 0, "its files too");
        if !merging {
            let content = fs::read(scene.path(e(1))).unwrap();
            assert!(content.iter().all(|&byte| byte == 0));
        }
    }
}
