//! The worker over a simulated network and a real file: stories of frames in and frames out.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "tests: a panic is how they fail, and their numbers are small"
)]

mod common;
#[path = "worker/exports.rs"]
mod exports;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use aoede::worker::Worker;
use aoede_disk::shadow::Header;
use aoede_disk::{
    Backing, BlockingEngine, Buffer, Completion, DeviceOp, Engine, FileId, IoMode, Memory,
    OpenOptions, Pool, Shadow, ShadowEvent, ShadowSettings, Stability, TASKS, UringEngine, Volume,
    VolumeSettings, WhenFull, create_shadow, open,
};
use aoede_link::Port as _;
use aoede_link::sim::{Faults, SimNet, SimPort};
use aoede_target::{Target, TargetSettings, WriteCache};
use aoede_wire::{
    Ata, Body, CoalescedRead, CoalescedReads, CoalescedWrites, ExtensionTable, Flags, Frame,
    MacAddr, Opcode, SECTOR_BYTES, Tag,
};
use common::{BUFFERS, E1_1, NOW, SECTORS, TestWorker, facts, request};

/// A segment with a worker and an initiator on it.
struct Scene {
    net: SimNet,
    worker: TestWorker<SimPort>,
    initiator: SimPort,
    target_mac: MacAddr,
    now: Duration,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(common::worker)
    }

    fn with(make: fn(Vec<SimPort>) -> (TestWorker<SimPort>, tempfile::TempDir)) -> Self {
        let net = SimNet::new(1);
        let port = net.attach("target", 9000);
        let target_mac = port.interface().mac;
        let initiator = net.attach("initiator", 9000);
        let (worker, folder) = make(vec![port]);
        Self {
            net,
            worker,
            initiator,
            target_mac,
            now: Duration::ZERO,
            _folder: folder,
        }
    }

    fn send_body(&mut self, tag: u32, body: Body<'_>) {
        let mac = self.initiator.interface().mac;
        let frame = common::frame(mac, self.target_mac, tag, body);
        assert_eq!(self.initiator.send(&[frame]), 1);
    }

    /// Asks for these extensions; all must be accepted.
    fn extend(&mut self, table: &[u8]) {
        self.send_body(
            u32::MAX,
            Body::Extension(ExtensionTable::new(table).unwrap()),
        );
        let answers = self.settle();
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0][26..][..table.len()], table.to_ascii_uppercase());
    }

    fn send(&mut self, tag: u32, ata: Ata<'_>) {
        self.send_body(tag, Body::Ata(ata));
    }

    /// Lets everything happen that can, and returns the answers.
    fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        loop {
            self.net.step();
            let busy = self.worker.turn(self.now).unwrap();
            while let Some(frame) = self.initiator.receive() {
                answers.push(frame.to_vec());
            }
            if !busy && self.net.under_way() == 0 {
                return answers;
            }
        }
    }
}

/// The data of the answer with this tag, which must be a success.
fn data(answers: &[Vec<u8>], tag: u32) -> &[u8] {
    let mut matching = answers.iter().filter_map(|bytes| {
        let frame = Frame::decode(bytes).unwrap();
        let Ok(Body::Ata(ata)) = frame.body() else {
            return None;
        };
        (frame.header.tag.big_endian() == tag).then_some((frame.header, ata))
    });
    let (header, ata) = matching.next().expect("an answer");
    assert!(matching.next().is_none(), "one answer for each request");
    assert_eq!(header.flags, Flags::RESPONSE);
    assert_eq!(header.address, E1_1);
    assert!(!ata.status().is_failure(), "{:02x}", ata.command_or_status);
    ata.data
}

#[test]
fn what_was_written_is_read_back() {
    let mut scene = Scene::new();
    let payload: Vec<u8> = (0..17 * SECTOR_BYTES).map(|i| (i / 3) as u8).collect();
    scene.send(
        1,
        Ata::request(Opcode::WriteExt, 100, 17).with_data(&payload),
    );
    let answers = scene.settle();
    assert_eq!(answers.len(), 1);
    data(&answers, 1);
    scene.send(2, Ata::request(Opcode::ReadExt, 108, 9));
    let answers = scene.settle();
    assert_eq!(data(&answers, 2), &payload[8 * SECTOR_BYTES..]);
    assert!(scene.worker.is_idle());
}

#[test]
fn a_read_sent_behind_a_write_sees_it() {
    let mut scene = Scene::new();
    for round in 0..4_u8 {
        let tag = u32::from(round) * 2;
        let payload = [round + 1; 8 * SECTOR_BYTES];
        scene.send(
            tag,
            Ata::request(Opcode::WriteExt, 8, 8).with_data(&payload),
        );
        scene.send(tag + 1, Ata::request(Opcode::ReadExt, 4, 8));
    }
    let answers = scene.settle();
    assert_eq!(answers.len(), 8);
    for round in 0..4_u8 {
        let read = data(&answers, u32::from(round) * 2 + 1);
        assert!(read[..4 * SECTOR_BYTES].iter().all(|&byte| byte == 0));
        assert!(
            read[4 * SECTOR_BYTES..]
                .iter()
                .all(|&byte| byte == round + 1)
        );
    }
}

#[test]
fn more_requests_than_buffers_wait_in_the_ring_and_are_all_answered() {
    let mut scene = Scene::new();
    let requests = 5 * BUFFERS as u32;
    for tag in 0..requests {
        scene.send(tag, Ata::request(Opcode::ReadExt, u64::from(tag), 1));
    }
    let answers = scene.settle();
    assert_eq!(answers.len(), requests as usize);
    for tag in 0..requests {
        assert_eq!(data(&answers, tag).len(), SECTOR_BYTES);
    }
}

#[test]
fn announcements_reach_everyone_on_the_segment() {
    let mut scene = Scene::new();
    scene.worker.announce(0);
    let answers = scene.settle();
    assert_eq!(answers.len(), 1);
    let frame = Frame::decode(&answers[0]).unwrap();
    assert_eq!(frame.header.destination, MacAddr::BROADCAST);
    assert_eq!(frame.header.address, E1_1);
    let Ok(Body::Config(config)) = frame.body() else {
        panic!("{frame}");
    };
    assert_eq!((config.buffer_count, config.sector_count), (64, 17));
}

#[test]
fn a_port_that_is_taken_out_keeps_no_buffer() {
    let mut scene = Scene::new();
    for tag in 0..BUFFERS as u32 {
        scene.send(tag, Ata::request(Opcode::ReadExt, 0, 1));
    }
    // The answers are stuck: nothing leaves the port.
    scene.net.set_faults(Faults {
        send_limit: Some(0),
        ..Faults::default()
    });
    scene.net.step();
    while scene.worker.turn(scene.now).unwrap() {}
    assert!(scene.worker.waits_to_send(0));
    scene.worker.set_port(0, None);
    assert!(scene.worker.is_idle());
    assert_eq!(scene.worker.stats().responses_lost, BUFFERS as u64);
}

/// Repeats until answered, as initiators do, on a network that loses, doubles and reorders frames.
#[test]
fn data_survives_a_bad_network() {
    let mut scene = Scene::new();
    scene.net.set_faults(Faults {
        loss_ppm: 100_000,
        duplicate_ppm: 100_000,
        reorder_ppm: 200_000,
        reorder_steps: 3,
        ..Faults::default()
    });
    let sectors = 8;
    for (tag, lba) in (0..).zip((0..SECTORS).step_by(64)) {
        let payload = [tag as u8; 8 * SECTOR_BYTES];
        let mut answered = false;
        for _ in 0..100 {
            let write = Ata::request(Opcode::WriteExt, lba, sectors).with_data(&payload);
            scene.send(tag, write);
            if !scene.settle().is_empty() {
                answered = true;
                break;
            }
        }
        assert!(answered, "a hundred losses in a row");
    }
    scene.net.set_faults(Faults::default());
    for (tag, lba) in (0..).zip((0..SECTORS).step_by(64)) {
        scene.send(tag, Ata::request(Opcode::ReadExt, lba, sectors));
        let answers = scene.settle();
        let read = data(&answers, tag);
        assert!(read.iter().all(|&byte| byte == tag as u8), "at {lba}");
    }
}

/// Two busy hosts on one interface must not keep a third on another from its disk.
#[test]
fn a_port_that_cannot_send_does_not_keep_all_buffers() {
    let nets = [SimNet::new(1), SimNet::new(2)];
    let ports: Vec<SimPort> = nets.iter().map(|net| net.attach("target", 9000)).collect();
    let to: Vec<MacAddr> = ports.iter().map(|port| port.interface().mac).collect();
    let mut initiators: Vec<SimPort> = nets.iter().map(|net| net.attach("i", 9000)).collect();
    let (mut worker, _folder) = common::worker(ports);
    nets[0].set_faults(Faults {
        send_limit: Some(0),
        ..Faults::default()
    });
    for (initiator, &to) in initiators.iter_mut().zip(&to) {
        let from = initiator.interface().mac;
        for tag in 0..4 * BUFFERS as u32 {
            let frame = request(from, to, tag, Ata::request(Opcode::ReadExt, 0, 1));
            // The stuck end is the target's, and the faults are those of the whole segment.
            while initiator.send(&[&frame]) == 0 {
                nets[0].set_faults(Faults::default());
            }
        }
    }
    nets[0].set_faults(Faults {
        send_limit: Some(0),
        ..Faults::default()
    });
    nets.iter().for_each(SimNet::step);
    while worker.turn(NOW).unwrap() {
        nets.iter().for_each(SimNet::step);
    }
    assert!(worker.waits_to_send(0) && !worker.takes_frames(0));
    assert!(worker.takes_frames(1));
    let mut answers = 0;
    while initiators[1].receive().is_some() {
        answers += 1;
    }
    assert_eq!(answers, 4 * BUFFERS, "all of the other port's requests");
}

/// Such reads are answered from the file itself, and yet see it as it was when they arrived.
#[test]
fn a_read_of_a_file_in_memory_does_not_see_a_later_write() {
    // Every Linux has it; without it there is no file in memory to test with.
    let memory = Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(memory).unwrap();
    let path = folder.path().join("disk.img");
    let old = vec![1; usize::try_from(SECTORS).unwrap() * SECTOR_BYTES];
    fs::write(&path, &old).unwrap();
    let options = OpenOptions {
        io: IoMode::Buffered,
        ..OpenOptions::default()
    };
    let backing = open(&path, &options).unwrap();
    assert!(backing.lends);

    let pool = common::pool();
    let mut engine = UringEngine::new(BUFFERS + TASKS + 1, &pool).unwrap();
    let file = engine.attach(&backing).unwrap();
    let net = SimNet::new(1);
    let port = net.attach("target", 9000);
    let mut initiator = net.attach("initiator", 9000);
    let (to, from) = (port.interface().mac, initiator.interface().mac);
    let mut worker = Worker::new(engine, pool, 1);
    let target = Target::new(TargetSettings::new(E1_1, backing.sectors)).unwrap();
    let volume = Volume::new(common::volume_settings(&backing), Vec::new());
    worker
        .add_export(target, file, volume, common::SERVING)
        .unwrap();
    worker.set_facts(0, facts(port.interface()));
    worker.set_port(0, Some(port));

    let new = [2; 8 * SECTOR_BYTES];
    let frames = [
        request(from, to, 1, Ata::request(Opcode::ReadExt, 8, 8)),
        request(
            from,
            to,
            2,
            Ata::request(Opcode::WriteExt, 8, 8).with_data(&new),
        ),
        request(from, to, 3, Ata::request(Opcode::ReadExt, 8, 8)),
    ];
    assert_eq!(initiator.send(&frames), 3);
    // The send buffer is full, so that the first answer waits where it is: as a copy.
    let full = Faults {
        send_limit: Some(0),
        ..Faults::default()
    };
    net.set_faults(full);
    net.step();
    while worker.turn(NOW).unwrap() {}
    assert!(worker.waits_to_send(0));
    net.set_faults(Faults::default());
    net.step();
    while worker.turn(NOW).unwrap() {}
    net.step();
    let mut answers = Vec::new();
    while let Some(bytes) = initiator.receive() {
        let frame = Frame::decode(bytes).unwrap();
        let Ok(Body::Ata(ata)) = frame.body() else {
            continue;
        };
        assert!(!ata.status().is_failure());
        answers.push((frame.header.tag.big_endian(), ata.data.to_vec()));
    }
    answers.sort();
    assert_eq!(answers.len(), 3);
    assert_eq!(answers.first().unwrap().1, vec![1; 8 * SECTOR_BYTES]);
    assert_eq!(answers.last().unwrap().1, new);
    assert!(worker.is_idle());
}

/// Data that would be sent from the file itself is brought here first: the checksum is over it.
#[test]
fn a_read_of_a_file_in_memory_has_its_checksum() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let path = folder.path().join("disk.img");
    let content: Vec<u8> = (0..64 * SECTOR_BYTES).map(|i| (i / 7) as u8).collect();
    fs::write(&path, &content).unwrap();
    let options = OpenOptions {
        io: IoMode::Buffered,
        ..OpenOptions::default()
    };
    let backing = open(&path, &options).unwrap();
    assert!(backing.lends);
    let net = SimNet::new(1);
    let port = net.attach("target", 9000);
    let mut initiator = net.attach("initiator", 9000);
    let (to, from) = (port.interface().mac, initiator.interface().mac);
    let pool = common::pool();
    let mut engine = UringEngine::new(BUFFERS + TASKS + 1, &pool).unwrap();
    let file = engine.attach(&backing).unwrap();
    let mut worker = Worker::new(engine, pool, 1);
    let target = Target::new(TargetSettings::new(E1_1, backing.sectors)).unwrap();
    let volume = Volume::new(common::volume_settings(&backing), Vec::new());
    worker
        .add_export(target, file, volume, common::SERVING)
        .unwrap();
    worker.set_facts(0, facts(port.interface()));
    worker.set_port(0, Some(port));
    let table = Body::Extension(ExtensionTable::new(b"crc32c\0\0").unwrap());
    let frames = [
        common::frame(from, to, 1, table),
        request(from, to, 2, Ata::request(Opcode::ReadExt, 3, 5)),
    ];
    assert_eq!(initiator.send(&frames), 2);
    net.step();
    while worker.turn(NOW).unwrap() {}
    net.step();
    let answers: Vec<_> = std::iter::from_fn(|| initiator.receive().map(<[u8]>::to_vec)).collect();
    let (read, sum) = data(&answers, 2).split_at(5 * 512);
    assert_eq!(read, &content[3 * 512..8 * 512]);
    assert_eq!(sum, castagnoli(&answers[1][24..36 + 5 * 512]));
}

/// Reads of one sector each, at these sectors, with tags that count from 1.
fn coalesced(lbas: &[u8], payload: &mut [u8]) -> usize {
    let read = |(tag, &lba): (u32, &u8)| CoalescedRead {
        tag: Tag(tag.to_be_bytes()),
        lba: [lba, 0, 0, 0, 0, 0],
        reserved: [0; 5],
        count: 1,
    };
    let reads: Vec<_> = (1..).zip(lbas).map(read).collect();
    CoalescedReads::encode(&reads, payload).unwrap()
}

fn tags(answers: &[Vec<u8>]) -> Vec<u32> {
    let tag = |bytes: &Vec<u8>| Frame::decode(bytes).unwrap().header.tag.big_endian();
    let mut tags: Vec<_> = answers.iter().map(tag).collect();
    tags.sort_unstable();
    tags
}

#[test]
fn several_reads_in_one_frame_are_answered_one_by_one() {
    let mut scene = Scene::new();
    scene.extend(b"coalesced_read\0\0");
    let content: Vec<u8> = (0..8 * SECTOR_BYTES).map(|i| (i / 100) as u8).collect();
    scene.send(
        100,
        Ata::request(Opcode::WriteExt, 0, 8).with_data(&content),
    );
    scene.settle();
    let mut payload = [0; 200];
    let len = coalesced(&[7, 2, 2, 5], &mut payload);
    let first = Ata::request(Opcode::ReadExt, 3, 2).with_data(&payload[..len]);
    scene.send(0, first);
    let answers = scene.settle();
    assert_eq!(answers.len(), 5);
    assert_eq!(data(&answers, 0), &content[3 * 512..5 * 512]);
    for (tag, lba) in [(1, 7), (2, 2), (3, 2), (4, 5)] {
        assert_eq!(data(&answers, tag), &content[lba * 512..][..512]);
    }
    assert!(scene.worker.is_idle());
}

/// What finds no buffer goes unanswered, and is repeated; nobody else waits for it.
#[test]
fn more_reads_in_a_frame_than_buffers_leave_the_rest_unanswered() {
    let mut scene = Scene::new();
    scene.extend(b"coalesced_read\0\0");
    let mut payload = [0; 1000];
    let len = coalesced(&[9; 3 * BUFFERS], &mut payload);
    let first = Ata::request(Opcode::ReadExt, 3, 2).with_data(&payload[..len]);
    scene.send(0, first);
    scene.send(1000, Ata::request(Opcode::ReadExt, 1, 1));
    let answers = scene.settle();
    let mut expected: Vec<u32> = (0..BUFFERS as u32).collect();
    expected.push(1000);
    assert_eq!(tags(&answers), expected);
    assert_eq!(scene.worker.stats().no_buffer, 2 * BUFFERS as u64 + 1);
    assert!(scene.worker.is_idle());
}

#[test]
fn a_stale_duplicate_of_a_write_does_not_overwrite_newer_data() {
    let mut scene = Scene::new();
    scene.extend(b"tag_inc_be\0\0");
    let write = |fill: &'static [u8; 512]| Ata::request(Opcode::WriteExt, 8, 1).with_data(fill);
    let (old, new) = (&[1; 512], &[2; 512]);
    // Doubled on its way: both are in the ring at once.
    scene.send(1, write(old));
    scene.send(1, write(old));
    assert_eq!(tags(&scene.settle()), [1]);
    scene.send(2, write(new));
    scene.settle();
    // And once more, late.
    scene.send(1, write(old));
    let answers = scene.settle();
    assert!(data(&answers, 1).iter().all(|&byte| byte == 0));
    scene.send(3, Ata::request(Opcode::ReadExt, 8, 1));
    let answers = scene.settle();
    assert_eq!(data(&answers, 3), new);
    let (_, target) = scene.worker.exports().iter().next().unwrap();
    assert_eq!((target.stats().writes, target.stats().duplicates), (2, 1));
}

/// Tag and status of every write that these answers tell of.
fn writes(answers: &[Vec<u8>]) -> Vec<(u32, u8)> {
    let mut told = Vec::new();
    for bytes in answers {
        let frame = Frame::decode(bytes).unwrap();
        let Ok(Body::Ata(ata)) = frame.body() else {
            panic!("{frame}");
        };
        told.push((frame.header.tag.big_endian(), ata.command_or_status));
        let further = CoalescedWrites::decode(ata.data).unwrap();
        let further = further.writes();
        told.extend(further.map(|write| (write.tag.big_endian(), write.status.0)));
    }
    told.sort_unstable();
    told
}

/// With a disk that takes several writes at once, whatever is below it.
fn concurrent_worker(ports: Vec<SimPort>) -> (TestWorker<SimPort>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let backing = common::disk(&folder);
    let settings = VolumeSettings {
        stability: Stability::Each,
        ..common::volume_settings(&backing)
    };
    let volume = Volume::new(settings, Vec::new());
    (common::worker_on(&backing, volume, ports), folder)
}

#[test]
fn write_responses_of_one_turn_share_a_frame() {
    let mut scene = Scene::with(concurrent_worker);
    let send = |scene: &mut Scene| {
        for tag in 0..6 {
            let payload = [tag as u8; 512];
            // Apart from each other, so that none waits for another.
            let lba = u64::from(tag) * 16;
            scene.send(
                tag,
                Ata::request(Opcode::WriteExt, lba, 1).with_data(&payload),
            );
        }
        scene.settle()
    };
    let expected: Vec<_> = (0..6).map(|tag| (tag, 0x40)).collect();
    let answers = send(&mut scene);
    assert_eq!(answers.len(), 6, "who has not asked for it gets one each");
    assert_eq!(writes(&answers), expected);

    scene.extend(b"coalesced_write_reply\0\0");
    let answers = send(&mut scene);
    assert_eq!(writes(&answers), expected);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].len(), 37 + 5 * 16);
    assert!(scene.worker.is_idle());

    // One alone does not wait.
    scene.send(9, Ata::request(Opcode::WriteExt, 0, 1).with_data(&[3; 512]));
    let answers = scene.settle();
    assert_eq!((answers.len(), answers[0].len()), (1, 60));
    assert_eq!(writes(&answers), [(9, 0x40)]);
    for tag in 1..6 {
        scene.send(tag, Ata::request(Opcode::ReadExt, u64::from(tag) * 16, 1));
        let answers = scene.settle();
        assert_eq!(data(&answers, tag), [tag as u8; 512]);
    }
}

/// A disk that never comes to an end.
#[derive(Default)]
struct Stuck(Vec<DeviceOp<Buffer>>);

impl Engine<Buffer> for Stuck {
    fn attach(&mut self, _: &Backing) -> io::Result<FileId> {
        Ok(FileId(0))
    }

    fn detach(&mut self, _: FileId) {}

    fn submit(&mut self, _: FileId, op: DeviceOp<Buffer>) -> Result<(), DeviceOp<Buffer>> {
        self.0.push(op);
        Ok(())
    }

    fn kick(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn poll(&mut self) -> Option<(FileId, Completion<Buffer>)> {
        None
    }

    fn in_flight(&self) -> usize {
        self.0.len()
    }
}

/// A turn takes few frames while requests are with the disk. Once it did so too while the disk was
/// only written behind, and then no more than two responses shared a frame.
#[test]
fn write_responses_share_a_frame_while_the_disk_is_written_behind() {
    let net = SimNet::new(1);
    let port = net.attach("target", 9000);
    let target_mac = port.interface().mac;
    let mut initiator = net.attach("initiator", 9000);
    let folder = tempfile::tempdir().unwrap();
    let backing = common::disk(&folder);
    let mut worker = Worker::new(Stuck::default(), common::pool(), 1);
    let settings = TargetSettings {
        write_cache: WriteCache::Back,
        ..TargetSettings::new(E1_1, backing.sectors)
    };
    let volume = common::volume(&backing);
    let target = Target::new(settings).unwrap();
    worker
        .add_export(target, FileId(0), volume, common::SERVING)
        .unwrap();
    worker.set_facts(0, facts(port.interface()));
    worker.set_port(0, Some(port));
    let from = initiator.interface().mac;

    let table = ExtensionTable::new(b"coalesced_write_reply\0\0").unwrap();
    initiator.send(&[common::frame(from, target_mac, 99, Body::Extension(table))]);
    let mut ask = |first: u32, now: Duration| {
        let requests = (first..first + 6).map(|tag| {
            let ata = Ata::request(Opcode::WriteExt, u64::from(tag) * 16, 8);
            request(from, target_mac, tag, ata.with_data(&[7; 8 * 512]))
        });
        initiator.send(&requests.collect::<Vec<_>>());
        let mut answers = Vec::new();
        loop {
            net.step();
            let busy = worker.turn(now).unwrap();
            while let Some(frame) = initiator.receive() {
                answers.push(frame.to_vec());
            }
            if !busy && net.under_way() == 0 {
                return (answers, worker.operations());
            }
        }
    };
    ask(0, NOW);
    // Old enough to be written behind.
    let (_, operations) = ask(10, NOW + Duration::from_secs(10));
    assert!(operations > 0);
    let (answers, operations) = ask(20, NOW + Duration::from_secs(10));
    assert!(operations > 0);
    assert_eq!(answers.len(), 1);
    assert_eq!(writes(&answers).len(), 6);
}

/// CRC-32C bit by bit.
fn castagnoli(bytes: &[u8]) -> [u8; 4] {
    let crc = bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82F6_3B78 } else { 0 }
        })
    });
    (!crc).to_le_bytes()
}

#[test]
fn data_has_its_checksum_and_damaged_writes_are_dropped() {
    let mut scene = Scene::new();
    scene.extend(b"crc32c\0\0");
    let mut payload = [0x5A; 512 + 4];
    scene.send(1, Ata::request(Opcode::WriteExt, 8, 1).with_data(&payload));
    assert!(scene.settle().is_empty());
    // §18.2, golden frame `crc32c`.
    payload[512..].copy_from_slice(&[0xE2, 0xD1, 0xFE, 0xBD]);
    scene.send(2, Ata::request(Opcode::WriteExt, 8, 1).with_data(&payload));
    assert_eq!(tags(&scene.settle()), [2]);

    for (tag, sectors) in [(3, 1), (4, 17)] {
        scene.send(tag, Ata::request(Opcode::ReadExt, 8, sectors));
        let answers = scene.settle();
        let (read, sum) = data(&answers, tag).split_at(usize::from(sectors) * 512);
        assert_eq!(read[..512], [0x5A; 512]);
        assert_eq!(sum, castagnoli(&answers[0][24..answers[0].len() - 4]));
    }
}

/// Responses to a measurement are held, and nothing else is.
#[test]
fn a_congestion_measurement_holds_its_own_responses_only() {
    let mut scene = Scene::new();
    let table = ExtensionTable::new(b"congestion\x005\0\0").unwrap();
    // More than there are buffers: they hold none.
    let probes = 3 * BUFFERS as u32;
    for tag in 0..probes {
        scene.send_body(tag, Body::Extension(table));
    }
    scene.send(100, Ata::request(Opcode::ReadExt, 0, 1));
    assert_eq!(tags(&scene.settle()), [100]);
    let due = Duration::from_millis(500);
    assert_eq!(scene.worker.poll_timeout(), Some(due));
    assert!(scene.worker.is_idle());

    scene.now = Duration::from_nanos(499_999_999);
    assert!(scene.settle().is_empty());
    scene.now = due;
    let answers = scene.settle();
    let order: Vec<_> = answers.iter().map(|bytes| bytes[23]).collect();
    assert!(order.iter().copied().eq(0..probes as u8), "{order:?}");
    assert_eq!(scene.worker.poll_timeout(), None);
    // Late ones at once.
    scene.send_body(200, Body::Extension(table));
    assert_eq!(tags(&scene.settle()), [200]);
}

/// The ring takes 256 frames: the 200 that are in it when the first is looked at, and 56 more.
#[test]
fn a_measurement_counts_what_the_ring_has_room_for() {
    let mut scene = Scene::new();
    let table = ExtensionTable::new(b"congestion\x005\0\0").unwrap();
    for count in [200, 100] {
        for tag in 0..count {
            scene.send_body(tag, Body::Extension(table));
        }
        assert!(scene.settle().is_empty());
    }
    scene.now = Duration::from_millis(500);
    assert_eq!(scene.settle().len(), 256);
}

/// Where the response of one turn waited, another's may wait in the next.
#[test]
fn a_write_response_joins_none_of_another_initiator() {
    let mut scene = Scene::with(concurrent_worker);
    let mut other = scene.net.attach("other", 9000);
    scene.extend(b"coalesced_write_reply\0\0");
    let write = |lba| Ata::request(Opcode::WriteExt, lba, 1).with_data(&[1; 512]);
    scene.send(1, write(0));
    assert_eq!(writes(&scene.settle()), [(1, 0x40)]);

    let from = other.interface().mac;
    assert_eq!(
        other.send(&[request(from, scene.target_mac, 2, write(16))]),
        1
    );
    scene.send(3, write(32));
    assert_eq!(writes(&scene.settle()), [(3, 0x40)]);
    let answers: Vec<_> = std::iter::from_fn(|| other.receive().map(<[u8]>::to_vec)).collect();
    assert_eq!(writes(&answers), [(2, 0x40)]);
}

/// Of several ports each may hold a part of the buffers only, and a frame of many reads is no way
/// around that: 6 of 8 with two ports.
#[test]
fn reads_in_one_frame_leave_buffers_for_other_ports() {
    let nets = [SimNet::new(1), SimNet::new(2)];
    let ports: Vec<SimPort> = nets.iter().map(|net| net.attach("target", 9000)).collect();
    let to = ports[0].interface().mac;
    let mut initiator = nets[0].attach("initiator", 9000);
    let from = initiator.interface().mac;
    let (mut worker, _folder) = common::worker(ports);
    let table = Body::Extension(ExtensionTable::new(b"coalesced_read\0\0").unwrap());
    let mut payload = [0; 400];
    let len = coalesced(&[9; 20], &mut payload);
    let reads = Ata::request(Opcode::ReadExt, 3, 1).with_data(&payload[..len]);
    let frames = [
        common::frame(from, to, 100, table),
        request(from, to, 0, reads),
    ];
    for frame in frames {
        assert_eq!(initiator.send(&[frame]), 1);
        nets[0].step();
        while worker.turn(NOW).unwrap() {}
        nets[0].step();
    }
    let answers: Vec<_> = std::iter::from_fn(|| initiator.receive().map(<[u8]>::to_vec)).collect();
    assert_eq!(tags(&answers), [0, 1, 2, 3, 4, 5, 100]);
    assert_eq!(worker.stats().no_buffer, 15);
}

/// A scene whose disk can be frozen, with its image and that image's path.
fn scene_with_shadow() -> (Scene, Backing, PathBuf) {
    let net = SimNet::new(1);
    let port = net.attach("target", 9000);
    let (target_mac, interface) = (port.interface().mac, facts(port.interface()));
    let folder = tempfile::tempdir().unwrap();
    let image_path = folder.path().join("disk.img");
    let options = OpenOptions {
        create_bytes: Some(SECTORS * 512),
        ..OpenOptions::default()
    };
    let image = open(&image_path, &options).unwrap();
    let mut engine = BlockingEngine::new(BUFFERS + TASKS + 4);
    let file = engine.attach(&image).unwrap();
    let mut worker = Worker::new(engine, common::pool(), 1);
    let settings = VolumeSettings {
        block_bytes: 4096,
        discard_bytes: 4096,
        ..common::volume_settings(&image)
    };
    let volume = Volume::new(settings, Pool::cache(1 << 20).unwrap());
    let target = Target::new(TargetSettings::new(E1_1, image.sectors)).unwrap();
    worker
        .add_export(target, file, volume, common::SERVING)
        .unwrap();
    let settings = ShadowSettings {
        capacity: BUFFERS + TASKS + 1,
        size_bytes: SECTORS * 512,
        when_full: WhenFull::FailWrites,
    };
    let mut pages = Pool::cache(2 * 4096).unwrap();
    let memory = Memory::One(pages.pop().unwrap());
    worker.set_shadow(0, Shadow::new(settings, pages.pop().unwrap(), memory));
    worker.set_facts(0, interface);
    worker.set_port(0, Some(port));
    let initiator = net.attach("initiator", 9000);
    let scene = Scene {
        net,
        worker,
        initiator,
        target_mac,
        now: Duration::ZERO,
        _folder: folder,
    };
    (scene, image, image_path)
}

/// Freezes it, in the size that the disk has now.
fn freeze(scene: &mut Scene, image: &Backing, image_path: &Path) {
    let path = image_path.with_file_name("shadow");
    let size_bytes = scene.worker.shadow_status(0).unwrap().size_bytes;
    let files = create_shadow(&path, image, size_bytes, image.io).unwrap();
    scene.worker.freeze(0, &files, None).unwrap().unwrap();
    scene.settle();
    assert_eq!(scene.worker.poll_shadow(0), Some(ShadowEvent::Frozen));
}

/// Thaws it and has all of it merged.
fn thaw(scene: &mut Scene) {
    scene.worker.thaw(0).unwrap();
    scene.settle();
    let events = [(); 2].map(|()| scene.worker.poll_shadow(0).unwrap());
    let merging = ShadowEvent::Merging { automatic: false };
    assert_eq!(events, [merging, ShadowEvent::Merged]);
}

/// A backup reads the image while the initiator goes on (§12).
#[test]
fn a_frozen_image_keeps_its_content_and_its_disk_goes_on() {
    let (mut scene, image, image_path) = scene_with_shadow();
    // Sector 102 is in the middle of a block.
    let write = |scene: &mut Scene, tag, byte: u8| {
        let payload = [byte; 2 * SECTOR_BYTES];
        scene.send(
            tag,
            Ata::request(Opcode::WriteExt, 102, 2).with_data(&payload),
        );
        data(&scene.settle(), tag);
    };
    let on_disk = || {
        let bytes = fs::read(&image_path).unwrap();
        [101, 102, 103, 104].map(|sector| bytes[sector * SECTOR_BYTES])
    };
    write(&mut scene, 1, 0xA1);
    assert_eq!(on_disk(), [0, 0xA1, 0xA1, 0]);

    freeze(&mut scene, &image, &image_path);
    write(&mut scene, 2, 0xB2);
    scene.send(3, Ata::request(Opcode::ReadExt, 101, 4));
    let answers = scene.settle();
    let read = data(&answers, 3);
    let firsts = [0, 1, 2, 3].map(|sector| read[sector * SECTOR_BYTES]);
    assert_eq!(firsts, [0, 0xB2, 0xB2, 0]);
    assert_eq!(on_disk(), [0, 0xA1, 0xA1, 0]);
    // The disk keeps the size that its shadow is made for.
    assert!(!scene.worker.set_sectors(0, SECTORS / 2));

    thaw(&mut scene);
    assert_eq!(on_disk(), [0, 0xB2, 0xB2, 0]);
    write(&mut scene, 4, 0xC3);
    assert_eq!(on_disk(), [0, 0xC3, 0xC3, 0]);
}

/// The disk was made larger while it was served: all of it is in its shadow (§12).
#[test]
fn a_disk_that_has_grown_is_frozen_in_its_present_size() {
    let (mut scene, image, image_path) = scene_with_shadow();
    image.file.set_len(2 * SECTORS * 512).unwrap();
    assert!(scene.worker.set_sectors(0, 2 * SECTORS));
    freeze(&mut scene, &image, &image_path);
    let lba = 2 * SECTORS - 8;
    let payload = [0xB2; 8 * SECTOR_BYTES];
    let write = Ata::request(Opcode::WriteExt, lba, 8).with_data(&payload);
    scene.send(1, write);
    data(&scene.settle(), 1);

    // What the next process would find.
    let map = fs::read(image_path.with_file_name("shadow.map")).unwrap();
    let header = Header::decode(map[..SECTOR_BYTES].try_into().unwrap()).unwrap();
    assert_eq!(header.image_bytes, 2 * SECTORS * 512);
    let data_bytes = fs::metadata(image_path.with_file_name("shadow")).unwrap();
    assert_eq!(data_bytes.len(), 2 * SECTORS * 512);

    thaw(&mut scene);
    let bytes = fs::read(&image_path).unwrap();
    let place = usize::try_from(lba).unwrap() * SECTOR_BYTES;
    assert_eq!(bytes[place..], payload);
}
