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
    BlockingEngine, Buffer, DiskRequest, Engine, IoMode, Memory, Part, Pool, RequestId,
    RequestKind, SECTOR_BYTES, Shadow, ShadowEvent, ShadowSettings, TASKS, Volume, VolumeSettings,
    WhenFull, create_shadow,
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

/// A volume's lists of pages, of which each gets its memory when it is first used: 16 for work of
/// its own, 32 for requests.
const LISTS: usize = 16 + 32;

#[test]
fn the_data_path_allocates_nothing_but_lists_once() {
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
                let mut answered = 0;
                for number in 0..10_000_000_u32 {
                    if number >= 500 && answered > 20 * LISTS {
                        break;
                    }
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
                assert!(answered > 20 * LISTS, "{name} did {answered}");
                assert!(
                    allocated <= LISTS,
                    "{name} {io:?}: {allocated}, {answered} requests"
                );
            }
        }
    }
}

/// Between freeze and thaw, and while the shadow is merged.
#[test]
fn a_shadow_allocates_nothing_for_an_operation() {
    let folder = folders().pop().unwrap();
    let pool = pool(32);
    let mut engine = BlockingEngine::new(64);
    let image = create(&folder.path().join("disk.img"), 1 << 20, IoMode::Buffered);
    let files = create_shadow(
        &folder.path().join("shadow"),
        &image,
        1 << 20,
        IoMode::Buffered,
    )
    .unwrap();
    let ids = [&image, &files.data, &files.map].map(|file| engine.attach(file).unwrap());
    let settings = VolumeSettings {
        capacity: 16,
        stability: image.stability(),
        size_bytes: 1 << 20,
        block_bytes: 4096,
        discard_bytes: 4096,
        dirty_bytes: 256 << 10,
        ..VolumeSettings::default()
    };
    let mut volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
    let settings = ShadowSettings {
        capacity: 48,
        size_bytes: 1 << 20,
        when_full: WhenFull::FailWrites,
    };
    let part = || Part {
        buffer: pool.take().unwrap(),
        len_bytes: 16384,
    };
    let memory = Memory::Parts(vec![part(), part()]);
    let mut shadow = Shadow::new(settings, pool.take().unwrap(), memory);
    let start = Instant::now();
    shadow.freeze(files.freeze_id, None).unwrap();

    let before = ALLOCATIONS.with(Cell::get);
    let (mut answered, mut merged) = (0, 0);
    for number in 0..600_u32 {
        if number == 150 {
            shadow.thaw().unwrap();
        }
        while let Some(buffer) = (volume.outstanding() < 16).then(|| pool.take()).flatten() {
            let lba = u64::from(number * 13 % 2000);
            let (sectors, early) = (8, number % 3 == 0);
            let kind = match number % 8 {
                0..=3 => RequestKind::Read { lba, sectors },
                4..=6 => RequestKind::Write {
                    lba,
                    sectors,
                    early,
                },
                _ => RequestKind::Flush,
            };
            let id = RequestId(number);
            let request = DiskRequest { id, kind, buffer };
            volume.handle_request(start.elapsed(), request).unwrap();
        }
        for _ in 0..20 {
            while let Some(op) = volume.poll_device() {
                shadow.submit(op).unwrap();
            }
            while let Some((file, op)) = shadow.poll_device() {
                engine.submit(ids[file as usize], op).unwrap();
            }
            Engine::<Buffer>::kick(&mut engine).unwrap();
            while let Some((_, completion)) = engine.poll() {
                shadow.handle_device(completion);
            }
            while let Some(completion) = shadow.poll_done() {
                volume.handle_device(start.elapsed(), completion);
            }
            while let Some(done) = volume.poll_done() {
                assert_eq!(done.result, Ok(()));
                answered += 1;
            }
            merged += usize::from(shadow.poll_event() == Some(ShadowEvent::Merged));
        }
    }
    let allocated = ALLOCATIONS.with(Cell::get) - before;
    assert!(answered > 20 * LISTS, "{answered} requests");
    assert_eq!(merged, 1);
    assert!(allocated <= LISTS, "{allocated}");
}
