//! Nothing is allocated between start and end: not by the volume, not by the engines.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Instant;

use aoede_disk::{
    DiskRequest, IoMode, Pool, RequestId, RequestKind, SECTOR_BYTES, TASKS, Volume, VolumeSettings,
};
use common::{create, engines, folders, pool};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: hands every call on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are the ones asked for here.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are the ones asked for here.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn the_data_path_allocates_nothing() {
    for folder in folders() {
        for io in [IoMode::Direct, IoMode::Buffered] {
            let pool = pool(32);
            for (name, mut engine) in engines(32 + TASKS + 1, &pool) {
                let path = folder.path().join(format!("{name}{io:?}"));
                let backing = create(&path, 1 << 20, io);
                let file = engine.attach(&backing).unwrap();
                let settings = VolumeSettings {
                    capacity: 32,
                    size_bytes: backing.sectors * SECTOR_BYTES,
                    dirty_bytes: 256 << 10,
                    ..VolumeSettings::default()
                };
                let mut volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
                let start = Instant::now();
                let before = ALLOCATIONS.with(Cell::get);
                let mut answered = 0_u32;
                for number in 0..500_u32 {
                    while let Some(mut buffer) = pool.take() {
                        let lba = u64::from(number * 7 % 1000);
                        let kind = match number % 8 {
                            0..=3 => RequestKind::Read { lba, sectors: 8 },
                            4..=5 => RequestKind::Write {
                                lba,
                                sectors: 8,
                                early: number % 3 == 0,
                            },
                            6 => RequestKind::Flush,
                            _ => {
                                buffer.data_mut()[..512].fill(0);
                                buffer.data_mut()[6] = 8;
                                RequestKind::Trim {
                                    blocks: 1,
                                    early: false,
                                }
                            }
                        };
                        let request = DiskRequest {
                            id: RequestId(number),
                            kind,
                            buffer,
                        };
                        volume.handle_request(start.elapsed(), request).unwrap();
                    }
                    while let Some(op) = volume.poll_device() {
                        engine.submit(file, op).unwrap();
                    }
                    engine.kick().unwrap();
                    while let Some((_, completion)) = engine.poll() {
                        volume.handle_device(start.elapsed(), completion);
                    }
                    while let Some(done) = volume.poll_done() {
                        assert_eq!(done.result, Ok(()));
                        answered += 1;
                    }
                }
                let allocated = ALLOCATIONS.with(Cell::get) - before;
                assert!(answered > 100, "{name} did {answered}");
                assert_eq!(allocated, 0, "{name} {io:?}, {answered} requests");
            }
        }
    }
}
