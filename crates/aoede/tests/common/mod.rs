//! What the tests of the worker share: a disk in a temporary folder, and frames by hand.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use aoede::worker::{HEAD_BYTES, Worker};
use aoede_disk::{
    Backing, BlockingEngine, Buffer, Changes, Engine as _, OpenOptions, Pool, PoolShape, open,
};
use aoede_link::{Interface, Port};
use aoede_target::{PortFacts, Target, TargetSettings};
use aoede_wire::{Address, Ata, Body, Header, MacAddr, Tag};
use tempfile::TempDir;

pub(crate) const E1_1: Address = Address { shelf: 1, slot: 1 };
pub(crate) const SECTORS: u64 = 4096;
pub(crate) const BUFFERS: usize = 8;

pub(crate) type TestWorker<P> = Worker<P, BlockingEngine<Buffer>>;

/// A worker with one export, `e1.1`, and a seat for each of `ports`, all plugged in.
pub(crate) fn worker<P: Port>(ports: Vec<P>) -> (TestWorker<P>, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let backing = disk(&folder);
    let changes = backing.changes();
    (worker_on(&backing, changes, ports), folder)
}

/// The same on a file of one's own.
pub(crate) fn worker_on<P: Port>(
    backing: &Backing,
    changes: Changes,
    ports: Vec<P>,
) -> TestWorker<P> {
    let mut engine = BlockingEngine::new(BUFFERS);
    let file = engine.attach(backing).unwrap();
    let mut worker = Worker::new(engine, pool(), ports.len());
    let target = Target::new(TargetSettings::new(E1_1, backing.sectors)).unwrap();
    worker.add_export(target, file, changes).unwrap();
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
