//! What the tests of the worker share: a disk in a temporary folder, and frames by hand.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use aoede::worker::{HEAD_BYTES, SeatSet, Serving, Worker};
use aoede_disk::{
    Backing, BlockingEngine, Buffer, Engine as _, OpenOptions, Pool, PoolShape, TASKS, Volume,
    VolumeSettings, open,
};
use aoede_link::{Interface, Port};
use aoede_target::{PortFacts, Target, TargetSettings};
use aoede_wire::{Address, Ata, Body, Header, MacAddr, Tag};
use std::time::Duration;

use tempfile::TempDir;

pub(crate) const E1_1: Address = Address { shelf: 1, slot: 1 };
pub(crate) const SECTORS: u64 = 4096;
pub(crate) const BUFFERS: usize = REQUESTS as usize;
const REQUESTS: u16 = 8;
/// On every seat, with every buffer.
pub(crate) const SERVING: Serving = Serving {
    seats: SeatSet::ALL,
    requests: REQUESTS,
};
/// When nothing depends on the time.
pub(crate) const NOW: Duration = Duration::from_secs(1);

pub(crate) type TestWorker<P> = Worker<P, BlockingEngine<Buffer>>;

/// A worker with one export, `e1.1`, and a seat for each of `ports`, all plugged in.
pub(crate) fn worker<P: Port>(ports: Vec<P>) -> (TestWorker<P>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let backing = disk(&folder);
    let volume = volume(&backing);
    (worker_on(&backing, volume, ports), folder)
}

/// The same on a file of one's own.
pub(crate) fn worker_on<P: Port>(
    backing: &Backing,
    volume: Volume<Buffer>,
    ports: Vec<P>,
) -> TestWorker<P> {
    let mut engine = BlockingEngine::new(BUFFERS + TASKS + 1);
    let file = engine.attach(backing).unwrap();
    let mut worker = Worker::new(engine, pool(), ports.len());
    let target = Target::new(TargetSettings::new(E1_1, backing.sectors)).unwrap();
    worker.add_export(target, file, volume, SERVING).unwrap();
    for (seat, port) in ports.into_iter().enumerate() {
        worker.set_facts(seat, facts(port.interface()));
        worker.set_port(seat, Some(port));
    }
    worker
}

/// As many buffers as the tests count on.
pub(crate) fn pool() -> Pool {
    Pool::new(PoolShape {
        count: BUFFERS,
        headroom_bytes: HEAD_BYTES,
        data_bytes: 9216,
        alignment: 512,
    })
    .unwrap()
}

/// The volume of a test's disk, with a small cache.
pub(crate) fn volume(backing: &Backing) -> Volume<Buffer> {
    Volume::new(volume_settings(backing), Pool::cache(1 << 20).unwrap())
}

pub(crate) fn volume_settings(backing: &Backing) -> VolumeSettings {
    VolumeSettings {
        capacity: BUFFERS,
        stability: backing.stability(),
        size_bytes: backing.sectors * 512,
        dirty_bytes: 256 << 10,
        ..VolumeSettings::default()
    }
}

pub(crate) fn disk(folder: &TempDir) -> Backing {
    let options = OpenOptions {
        create_bytes: Some(SECTORS * 512),
        ..OpenOptions::default()
    };
    open(&folder.path().join("disk.img"), &options).unwrap()
}

pub(crate) fn facts(interface: &Interface) -> PortFacts {
    PortFacts {
        mac: interface.mac,
        mtu: interface.mtu,
        max_sectors: 18,
    }
}

/// An ATA request to `e1.1`.
pub(crate) fn request(from: MacAddr, to: MacAddr, tag: u32, ata: Ata<'_>) -> Vec<u8> {
    frame(from, to, tag, Body::Ata(ata))
}

/// A request to `e1.1`.
pub(crate) fn frame(from: MacAddr, to: MacAddr, tag: u32, body: Body<'_>) -> Vec<u8> {
    let header = Header {
        tag: Tag(tag.to_be_bytes()),
        ..Header::request(from, to, E1_1)
    };
    let mut bytes = vec![0; 9014];
    let len = body.encode(header, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}
