//! The worker over a simulated network and a real file: stories of frames in and frames out.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_possible_truncation,
    reason = "tests: a panic is how they fail, and their numbers are small"
)]

mod common;

use aoede::worker::Worker;
use aoede_disk::{
    BlockingEngine, Engine as _, IoMode, Memory, OpenOptions, Pool, Shadow, ShadowEvent,
    ShadowSettings, TASKS, UringEngine, Volume, VolumeSettings, WhenFull, create_shadow, open,
};
use aoede_link::Port as _;
use aoede_link::sim::{Faults, SimNet, SimPort};
use aoede_target::{Target, TargetSettings};
use aoede_wire::{Ata, Body, Flags, Frame, MacAddr, Opcode, SECTOR_BYTES};
use common::{BUFFERS, E1_1, NOW, SECTORS, TestWorker, facts, request};

/// A segment with a worker and an initiator on it.
struct Scene {
    net: SimNet,
    worker: TestWorker<SimPort>,
    initiator: SimPort,
    target_mac: MacAddr,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let net = SimNet::new(1);
        let port = net.attach("target", 9000);
        let target_mac = port.interface().mac;
        let initiator = net.attach("initiator", 9000);
        let (worker, folder) = common::worker(vec![port]);
        Self {
            net,
            worker,
            initiator,
            target_mac,
            _folder: folder,
        }
    }

    fn send(&mut self, tag: u32, ata: Ata<'_>) {
        let mac = self.initiator.interface().mac;
        let frame = request(mac, self.target_mac, tag, ata);
        assert_eq!(self.initiator.send(&[frame]), 1);
    }

    /// Lets everything happen that can, and returns the answers.
    fn settle(&mut self) -> Vec<Vec<u8>> {
        let mut answers = Vec::new();
        loop {
            self.net.step();
            let busy = self.worker.turn(NOW).unwrap();
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
    while scene.worker.turn(NOW).unwrap() {}
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
    let memory = std::path::Path::new("/dev/shm");
    let folder = tempfile::tempdir_in(memory).unwrap();
    let path = folder.path().join("disk.img");
    let old = vec![1; usize::try_from(SECTORS).unwrap() * SECTOR_BYTES];
    std::fs::write(&path, &old).unwrap();
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
    worker.add_export(target, file, volume).unwrap();
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

/// A backup reads the image while the initiator goes on (§12).
#[test]
fn a_frozen_image_keeps_its_content_and_its_disk_goes_on() {
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
    worker.add_export(target, file, volume).unwrap();
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
    let mut scene = Scene {
        net,
        worker,
        initiator,
        target_mac,
        _folder: folder,
    };
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
        let bytes = std::fs::read(&image_path).unwrap();
        [101, 102, 103, 104].map(|sector| bytes[sector * SECTOR_BYTES])
    };
    write(&mut scene, 1, 0xA1);
    assert_eq!(on_disk(), [0, 0xA1, 0xA1, 0]);

    let path = image_path.with_file_name("shadow");
    let files = create_shadow(&path, &image, image.io).unwrap();
    scene.worker.freeze(0, &files, None).unwrap().unwrap();
    scene.settle();
    assert_eq!(scene.worker.poll_shadow(0), Some(ShadowEvent::Frozen));
    write(&mut scene, 2, 0xB2);
    scene.send(3, Ata::request(Opcode::ReadExt, 101, 4));
    let answers = scene.settle();
    let read = data(&answers, 3);
    let firsts = [0, 1, 2, 3].map(|sector| read[sector * SECTOR_BYTES]);
    assert_eq!(firsts, [0, 0xB2, 0xB2, 0]);
    assert_eq!(on_disk(), [0, 0xA1, 0xA1, 0]);
    // The disk keeps the size that its shadow is made for.
    assert!(!scene.worker.set_sectors(0, SECTORS / 2));

    scene.worker.thaw(0).unwrap();
    scene.settle();
    let events = [(); 2].map(|()| scene.worker.poll_shadow(0).unwrap());
    let merging = ShadowEvent::Merging { automatic: false };
    assert_eq!(events, [merging, ShadowEvent::Merged]);
    assert_eq!(on_disk(), [0, 0xB2, 0xB2, 0]);
    write(&mut scene, 4, 0xC3);
    assert_eq!(on_disk(), [0, 0xC3, 0xC3, 0]);
}
