//! An export that nobody uses takes little memory. Alone in its program: it looks at all of the
//! process's.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use std::fs;
use std::time::Duration;

use aoede::worker::{HEAD_BYTES, SeatSet, Serving, Worker};
use aoede_disk::{
    BlockingEngine, Engine as _, OpenOptions, Pool, PoolShape, TASKS, Volume, VolumeSettings, open,
};
use aoede_link::sim::SimPort;
use aoede_target::{Target, TargetSettings};
use aoede_wire::Address;

const EXPORTS: u8 = 128;
/// As `aoede export` has it by default.
const BUFFERS: u16 = 64;
const WRITE_THROUGH_CACHE: u64 = 8 << 20;
const WRITE_BACK_CACHE: u64 = 40 << 20;

/// Memory of this process that is in use, in KiB.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("RssAnon:"));
    let number = line.unwrap().split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}

#[test]
fn an_idle_export_takes_less_than_200_kib_beyond_the_pool() {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        create_bytes: Some(1 << 30),
        ..OpenOptions::default()
    };
    let backing = open(&folder.path().join("disk.img"), &options).unwrap();
    let shape = PoolShape {
        count: usize::from(BUFFERS),
        headroom_bytes: HEAD_BYTES,
        data_bytes: 9216,
        alignment: 512,
    };
    let engine = BlockingEngine::new(usize::from(BUFFERS) + TASKS + 1);
    let mut worker: Worker<SimPort, _> = Worker::new(engine, Pool::new(shape).unwrap(), 1);
    let mut add = |shelf: u16, cache_bytes| {
        let before = resident_kib();
        for slot in 0..EXPORTS {
            let file = worker.engine_mut().attach(&backing).unwrap();
            let address = Address::new(shelf, slot).unwrap();
            let target = Target::new(TargetSettings::new(address, backing.sectors)).unwrap();
            let settings = VolumeSettings {
                capacity: BUFFERS.into(),
                size_bytes: backing.sectors * 512,
                ..VolumeSettings::default()
            };
            let volume = Volume::new(settings, Pool::cache_pages(cache_bytes).unwrap());
            let serving = Serving {
                seats: SeatSet::ALL,
                requests: BUFFERS,
            };
            worker.add_export(target, file, volume, serving).unwrap();
        }
        while worker.turn(Duration::ZERO).unwrap() {}
        (resident_kib() - before) / u64::from(EXPORTS)
    };
    for (shelf, cache_bytes) in [(1, WRITE_THROUGH_CACHE), (2, WRITE_BACK_CACHE)] {
        let kib = add(shelf, cache_bytes);
        println!("{kib} KiB for each export with a cache of {cache_bytes} bytes");
        assert!((8..200).contains(&kib), "{kib} KiB with {cache_bytes}");
    }
}
