//! Freeze and thaw with real files: what an operator finds after each kind of end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

mod common;

use std::fs::{File, OpenOptions as FileOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use aoede_disk::{
    Backing, Buffer, DeviceOp, FileId, FoundShadow, IoMode, Memory, OpId, OpKind, OpenError,
    OpenOptions, Part, Pool, Shadow, ShadowEvent, ShadowFile, ShadowFiles, ShadowFilesError,
    ShadowPhase, ShadowSettings, WhenFull, create_shadow, find_shadow, open, shadow_of,
};
use common::{AnyEngine, LoopDevice, Mount, create, engines, folders, pool};

const BLOCKS: u64 = 64;
const BLOCK: u64 = 4096;

/// An export's files, its shadow and its engine; dropped without a word, as when it is killed.
struct Disk {
    engine: AnyEngine,
    pool: Pool,
    shadow: Shadow<Buffer>,
    image: Backing,
    files: Option<ShadowFiles>,
    /// Image, data, map.
    ids: [Option<FileId>; 3],
    path: PathBuf,
    io: IoMode,
    events: Vec<ShadowEvent>,
}

impl Disk {
    fn new(folder: &Path, engine: AnyEngine, pool: &Pool, io: IoMode) -> Self {
        let image = folder.join("disk.img");
        let image = create(&image, BLOCKS * BLOCK, io);
        let settings = ShadowSettings {
            capacity: 4,
            size_bytes: BLOCKS * BLOCK,
            when_full: WhenFull::FailWrites,
        };
        let part = || Part {
            buffer: pool.take().unwrap(),
            len_bytes: 16384,
        };
        let memory = Memory::Parts(vec![part(), part()]);
        let mut disk = Self {
            engine,
            pool: pool.clone(),
            shadow: Shadow::new(settings, pool.take().unwrap(), memory),
            image,
            files: None,
            ids: [None; 3],
            path: folder.join("shadow"),
            io,
            events: Vec::new(),
        };
        disk.ids[0] = Some(disk.engine.attach(&disk.image).unwrap());
        match find_shadow(&disk.path, &disk.image, io).unwrap() {
            FoundShadow::Unfinished(files, recovered) => {
                disk.attach(*files);
                disk.shadow.resume(recovered, None).unwrap();
            }
            FoundShadow::Nothing | FoundShadow::Removed => {}
        }
        disk
    }

    fn attach(&mut self, files: ShadowFiles) {
        self.ids[1] = Some(self.engine.attach(&files.data).unwrap());
        self.ids[2] = Some(self.engine.attach(&files.map).unwrap());
        self.files = Some(files);
    }

    fn freeze(&mut self) {
        let files = create_shadow(&self.path, &self.image, BLOCKS * BLOCK, self.io).unwrap();
        let id = files.freeze_id;
        let room = files.room_bytes().unwrap();
        self.attach(files);
        self.shadow.freeze(id, Some(room)).unwrap();
        self.run(usize::MAX);
        assert_eq!(self.phase(), ShadowPhase::Frozen);
    }

    fn thaw(&mut self) {
        self.shadow.thaw().unwrap();
        self.run(usize::MAX);
        assert_eq!(self.phase(), ShadowPhase::Thawed);
    }

    /// Does up to `most` operations.
    fn run(&mut self, most: usize) {
        let mut done = 0;
        while done < most {
            while let Some((file, op)) = self.shadow.poll_device() {
                let id = self.ids[file as usize].unwrap();
                self.engine.submit(id, op).unwrap();
            }
            self.engine.kick().unwrap();
            while let Some(event) = self.shadow.poll_event() {
                self.events.push(event);
                if event == ShadowEvent::Merged {
                    assert!(self.shadow.retire());
                    for file in [ShadowFile::Data, ShadowFile::Map] {
                        self.engine.detach(self.ids[file as usize].take().unwrap());
                    }
                    self.files.take().unwrap().remove(&self.image).unwrap();
                }
            }
            if self.engine.in_flight() == 0 {
                break;
            }
            let (_, completion) = common::wait(&mut self.engine);
            self.shadow.handle_device(completion);
            done += 1;
        }
    }

    fn request(&mut self, kind: OpKind, block: u64, fill: u8) -> Vec<u8> {
        let mut buffer = self.pool.take().unwrap();
        buffer.data_mut().fill(fill);
        let sync = kind == OpKind::Sync;
        let op = DeviceOp {
            id: OpId(1),
            kind,
            offset_bytes: block * BLOCK,
            len_bytes: if sync { 0 } else { BLOCK },
            memory: if sync {
                Memory::None
            } else {
                Memory::One(buffer)
            },
            memory_start: 0,
        };
        self.shadow.submit(op).unwrap();
        let done = loop {
            if let Some(done) = self.shadow.poll_done() {
                break done;
            }
            self.run(1);
        };
        assert_eq!(done.result, Ok(if sync { 0 } else { 4096 }));
        let buffer = done.memory.into_one();
        buffer.map_or_else(Vec::new, |buffer| buffer.data()[..4096].to_vec())
    }

    fn write(&mut self, block: u64, fill: u8) {
        self.request(OpKind::Write { durable: true }, block, fill);
    }

    fn read(&mut self, block: u64) -> u8 {
        let data = self.request(OpKind::Read, block, 0xEE);
        assert!(data.iter().all(|&byte| byte == data[0]));
        data[0]
    }

    fn phase(&self) -> ShadowPhase {
        self.shadow.status().phase
    }
}

/// A block of the image as a program that copies it sees it.
fn image_block(folder: &Path, block: u64) -> u8 {
    let file = File::open(folder.join("disk.img")).unwrap();
    let mut data = [0; 4096];
    file.read_exact_at(&mut data, block * BLOCK).unwrap();
    assert!(data.iter().all(|&byte| byte == data[0]));
    data[0]
}

fn each_engine(test: impl Fn(&Path, &dyn Fn() -> Disk)) {
    for folder in folders() {
        for io in [IoMode::Direct, IoMode::Buffered] {
            let pool = pool(16);
            for number in 0..engines(16, &pool).len() {
                let place = folder.path().join(format!("{number}{io:?}"));
                std::fs::create_dir(&place).unwrap();
                let disk = || {
                    let (_, engine) = engines(16, &pool).swap_remove(number);
                    Disk::new(&place, engine, &pool, io)
                };
                test(&place, &disk);
            }
        }
    }
}

#[test]
fn a_freeze_survives_being_killed_and_goes_on() {
    each_engine(|folder, start| {
        let mut disk = start();
        disk.write(1, 0xA1);
        disk.write(2, 0xA2);
        disk.freeze();
        disk.write(2, 0xB2);
        disk.write(50, 0xB5);
        assert_eq!(
            [disk.read(1), disk.read(2), disk.read(50)],
            [0xA1, 0xB2, 0xB5]
        );
        assert_eq!([2, 50].map(|block| image_block(folder, block)), [0xA2, 0]);
        drop(disk);

        let mut disk = start();
        assert_eq!(disk.phase(), ShadowPhase::Frozen);
        assert_eq!(disk.shadow.status().dirty_bytes, 2 * BLOCK);
        assert_eq!(
            [disk.read(1), disk.read(2), disk.read(50)],
            [0xA1, 0xB2, 0xB5]
        );
        disk.write(3, 0xC3);
        assert_eq!(image_block(folder, 3), 0);
        disk.thaw();
        assert_eq!(
            [1, 2, 3, 50].map(|block| image_block(folder, block)),
            [0xA1, 0xB2, 0xC3, 0xB5]
        );
        assert_eq!([disk.read(2), disk.read(3)], [0xB2, 0xC3]);
        assert_eq!(shadow_of(&disk.image), None);
        let left: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
        assert_eq!(left.len(), 1, "{left:?}");

        // And once more.
        disk.freeze();
        disk.write(2, 0xD2);
        assert_eq!([disk.read(2), image_block(folder, 2)], [0xD2, 0xB2]);
        disk.thaw();
        assert_eq!(image_block(folder, 2), 0xD2);
    });
}

#[test]
fn a_merge_may_be_killed_after_any_operation() {
    // In memory if possible: it starts and ends many times.
    let folder = folders().pop().unwrap();
    let pool = pool(16);
    let start = || {
        let (_, engine) = engines(16, &pool).swap_remove(0);
        Disk::new(folder.path(), engine, &pool, IoMode::Buffered)
    };
    for most in 1_u8.. {
        let mut disk = start();
        disk.freeze();
        for block in (0..40).step_by(2) {
            disk.write(block, most);
        }
        disk.shadow.thaw().unwrap();
        disk.run(usize::from(most));
        let merged = disk.phase() == ShadowPhase::Thawed;
        drop(disk);
        let mut disk = start();
        disk.write(0, 0xF0);
        assert_eq!(disk.read(0), 0xF0);
        if disk.phase() == ShadowPhase::Frozen {
            disk.shadow.thaw().unwrap();
        }
        disk.run(usize::MAX);
        assert_eq!(disk.phase(), ShadowPhase::Thawed);
        assert_eq!(image_block(folder.path(), 0), 0xF0);
        for block in (2..40).step_by(2) {
            let found = image_block(folder.path(), block);
            assert_eq!(found, most, "block {block}");
        }
        if merged {
            // Twenty runs were read and written.
            assert!(most > 40);
            break;
        }
    }
}

/// One disk with two blocks in its shadow, killed; the paths of image, data and map.
fn unfinished(folder: &Path) -> [PathBuf; 3] {
    let pool = pool(16);
    let (_, engine) = engines(16, &pool).swap_remove(0);
    let mut disk = Disk::new(folder, engine, &pool, IoMode::Buffered);
    disk.freeze();
    disk.write(7, 1);
    disk.write(9, 2);
    ["disk.img", "shadow", "shadow.map"].map(|name| folder.join(name))
}

fn image(path: &Path) -> Backing {
    open(path, &OpenOptions::default()).unwrap()
}

fn find(shadow: &Path, image: &Backing) -> Result<FoundShadow, ShadowFilesError> {
    find_shadow(shadow, image, IoMode::Buffered)
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    let file = FileOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn a_torn_last_record_is_as_if_its_write_had_not_happened() {
    let folder = &folders()[0];
    let [image_path, data, map] = unfinished(folder.path());
    // The header and two records.
    overwrite(&map, 2 * 512 + 30, &[0xFF]);
    let image = image(&image_path);
    let Ok(FoundShadow::Unfinished(_, recovered)) = find(&data, &image) else {
        panic!("it is unfinished");
    };
    assert_eq!(recovered.dirty_bytes(), BLOCK);
}

#[test]
fn a_shadow_that_cannot_be_trusted_is_refused_and_left_alone() {
    let folder = &folders()[0];
    let [image_path, data, map] = unfinished(folder.path());
    let whole = std::fs::read(&map).unwrap();
    let image = image(&image_path);
    let message = |data: &Path, image: &Backing| find(data, image).unwrap_err().to_string();

    overwrite(&map, 512 + 30, &[0xFF]);
    assert!(message(&data, &image).contains("record 1 is damaged and others follow"));
    overwrite(&map, 30, &[0xFF]);
    assert!(message(&data, &image).contains("the header is damaged"));
    overwrite(&map, 0, &[0; 512]);
    assert!(message(&data, &image).contains("the header is damaged"));
    std::fs::write(&map, b"AoEdeSHW").unwrap();
    assert!(find(&data, &image).is_err());
    std::fs::write(&map, &whole).unwrap();

    let other_path = folder.path().join("other.img");
    let other = create(&other_path, BLOCKS * BLOCK, IoMode::Buffered);
    let text = message(&data, &other);
    assert!(
        text.contains("disk.img, not of") && text.contains("other.img"),
        "{text}"
    );
    drop(image);
    let half = OpenOptions {
        length_sectors: Some(100),
        ..OpenOptions::default()
    };
    let image = open(&image_path, &half).unwrap();
    assert!(message(&data, &image).contains("512 sectors of"));
    drop(image);

    let image = self::image(&image_path);
    let moved = folder.path().join("moved");
    std::fs::rename(&data, &moved).unwrap();
    assert!(message(&data, &image).contains("shadow is missing, and"));
    std::fs::rename(&moved, &data).unwrap();
    assert!(create_shadow(&data, &image, BLOCKS * BLOCK, IoMode::Buffered).is_err());
    assert_eq!(std::fs::read(&map).unwrap(), whole);
    assert!(std::fs::metadata(&data).unwrap().blocks() > 0);

    let found = find(&data, &image).unwrap();
    let FoundShadow::Unfinished(_files, recovered) = &found else {
        panic!("{found:?}");
    };
    assert_eq!(recovered.dirty_bytes(), 2 * BLOCK);
    let locked = find(&data, &image).unwrap_err();
    assert!(
        matches!(locked, ShadowFilesError::Open(OpenError::Locked { .. })),
        "{locked}"
    );
}

/// Else its initiators would find the disk as it was before the freeze, write to it, and later
/// have the shadow merged over what they wrote.
#[test]
fn a_frozen_image_says_which_shadow_it_needs() {
    let folder = &folders()[0];
    let [image_path, data, map] = unfinished(folder.path());
    let image = image(&image_path);
    let wanted = std::path::absolute(&data).unwrap();
    assert_eq!(shadow_of(&image), Some(wanted), "needs extended attributes");
    // The shadow's file system is not mounted; or another path is given.
    for path in [&data, &map] {
        std::fs::remove_file(path).unwrap();
    }
    for shadow in [data, folder.path().join("other")] {
        let missing = find(&shadow, &image).unwrap_err();
        let needed = matches!(missing, ShadowFilesError::Needed { .. });
        assert!(needed, "{missing}");
    }
}

/// What the image says is what a power cut leaves, on a file system that writes its journal when it
/// is told to.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn the_mark_of_a_frozen_image_is_as_lasting_as_its_shadow() {
    let folder = &folders()[0];
    let medium = folder.path().join("medium");
    File::create(&medium).unwrap().set_len(16 << 20).unwrap();
    let device = LoopDevice::new(&medium, 512);
    let mut make = Command::new("mkfs.ext4");
    assert!(make.arg("-q").arg(&device.path).status().unwrap().success());
    let name = device.path.to_str().unwrap();
    let arguments = ["-o", "commit=300", name];
    let mount = Mount::new(&arguments, &folder.path().join("mount"));
    let image_path = mount.path.join("disk.img");
    let image = create(&image_path, BLOCKS * BLOCK, IoMode::Buffered);
    rustix::fs::syncfs(&image.file).unwrap();
    let mark_after_a_power_cut = || {
        let copy = folder.path().join("copy");
        std::fs::copy(&medium, &copy).unwrap();
        let device = LoopDevice::new(&copy, 512);
        let name = device.path.to_str().unwrap();
        let mount = Mount::new(&[name], &folder.path().join("after"));
        shadow_of(&self::image(&mount.path.join("disk.img")))
    };

    let shadow = folder.path().join("shadow");
    assert_eq!(mark_after_a_power_cut(), None);
    let files = create_shadow(&shadow, &image, BLOCKS * BLOCK, IoMode::Buffered).unwrap();
    assert_eq!(mark_after_a_power_cut(), Some(shadow.clone()));
    files.remove(&image).unwrap();
    assert!(!shadow.exists());
    assert_eq!(mark_after_a_power_cut(), None);

    // The same by the next start: all was merged when the machine stopped.
    drop(create_shadow(&shadow, &image, BLOCKS * BLOCK, IoMode::Buffered).unwrap());
    std::fs::remove_file(&shadow).unwrap();
    let found = find(&shadow, &image).unwrap();
    assert!(matches!(found, FoundShadow::Removed), "{found:?}");
    assert_eq!(mark_after_a_power_cut(), None);
}

#[test]
fn a_path_that_cannot_be_a_shadow_is_told_at_start() {
    let folder = &folders()[0];
    let image_path = folder.path().join("disk.img");
    let image = create(&image_path, BLOCKS * BLOCK, IoMode::Buffered);
    let text = find(&image_path, &image).unwrap_err().to_string();
    assert!(text.contains("exists and is no shadow"), "{text}");
    let text = find(&folder.path().join("no/shadow"), &image).unwrap_err();
    assert!(text.to_string().contains("no such folder"), "{text}");
    let fine = find(&folder.path().join("shadow"), &image).unwrap();
    assert!(matches!(fine, FoundShadow::Nothing));
}

#[test]
fn what_a_freeze_has_left_that_never_began_is_removed() {
    let folder = &folders()[0];
    let image_path = folder.path().join("disk.img");
    let image = create(&image_path, BLOCKS * BLOCK, IoMode::Buffered);
    let [data, map] = ["shadow", "shadow.map"].map(|name| folder.path().join(name));
    for (header, with_data) in [(0, false), (512, false), (512, true)] {
        std::fs::write(&map, vec![0; header]).unwrap();
        if with_data {
            File::create(&data)
                .unwrap()
                .set_len(BLOCKS * BLOCK)
                .unwrap();
        }
        let found = find(&data, &image).unwrap();
        assert!(matches!(found, FoundShadow::Removed));
        assert!(!data.exists() && !map.exists());
    }
    // A header and no data file: it was made first.
    drop(create_shadow(&data, &image, BLOCKS * BLOCK, IoMode::Buffered).unwrap());
    std::fs::remove_file(&data).unwrap();
    assert!(matches!(find(&data, &image), Ok(FoundShadow::Removed)));
    assert!(!map.exists());
    // Both, and no record: that is a freeze.
    drop(create_shadow(&data, &image, BLOCKS * BLOCK, IoMode::Buffered).unwrap());
    assert!(matches!(
        find(&data, &image),
        Ok(FoundShadow::Unfinished(..))
    ));
}

/// A crash between the last record and the removal.
#[test]
fn files_of_which_nothing_is_needed_are_removed_at_the_next_start() {
    let folder = &folders()[0];
    let pool = pool(16);
    let (_, engine) = engines(16, &pool).swap_remove(0);
    let mut disk = Disk::new(folder.path(), engine, &pool, IoMode::Buffered);
    disk.freeze();
    disk.write(7, 1);
    let [data, map] = ["shadow", "shadow.map"].map(|name| folder.path().join(name));
    // Names that outlive the removal.
    let kept = |path: &Path| PathBuf::from(format!("{}.kept", path.display()));
    for path in [&data, &map] {
        std::fs::hard_link(path, kept(path)).unwrap();
    }
    disk.thaw();
    assert!(!data.exists() && !map.exists());
    drop(disk);
    for path in [&data, &map] {
        std::fs::rename(kept(path), path).unwrap();
    }
    let image = image(&folder.path().join("disk.img"));
    assert!(matches!(find(&data, &image), Ok(FoundShadow::Removed)));
    assert!(!data.exists() && !map.exists());
}
