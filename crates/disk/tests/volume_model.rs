//! A volume on a simulated device, compared with an array to which the same requests are applied
//! one after another, in order of arrival.
//!
//! The device does its operations in any order and sector by sector, so that what should not run
//! side by side shows as a torn or stale read. It transfers short, interrupts, fails, and keeps
//! what was not synced apart from what was.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on panics"
)]

use std::collections::BTreeMap;

use aoede_disk::{
    Changes, Completion, DeviceOp, DiskRequest, Done, Durability, Errno, OpKind, RequestId,
    RequestKind, Volume, VolumeSettings,
};
use proptest::prelude::*;

const SECTORS: usize = 16;
const CAPACITY: usize = 8;

type Buffer = Vec<u8>;

/// What a sector holds: the id of the write that put it there, or 0; and when it was put there.
#[derive(Clone, Copy, Default)]
struct Sector {
    content: u32,
    moment: u64,
}

type Disk = [Sector; SECTORS];

#[derive(Clone, Debug)]
enum Step {
    Request(Wish),
    /// The device does one sector of one of its operations.
    Work(usize),
    /// The device completes one of its operations.
    Complete(usize, Ending),
}

#[derive(Clone, Debug)]
enum Wish {
    Read(usize, usize),
    Write(usize, usize),
    Trim(Vec<(usize, usize)>),
    Flush,
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Whole,
    /// After so many sectors, and some bytes of the next.
    Short(usize, u32),
    Error(Errno),
}

fn range() -> impl Strategy<Value = (usize, usize)> {
    (0..SECTORS, 0..6_usize).prop_map(|(start, len)| (start, len.min(SECTORS - start)))
}

fn step(faults: bool) -> impl Strategy<Value = Step> {
    let wish = prop_oneof![
        4 => range().prop_map(|(start, len)| Wish::Read(start, len)),
        4 => range().prop_map(|(start, len)| Wish::Write(start, len)),
        1 => prop::collection::vec(range(), 0..4).prop_map(Wish::Trim),
        1 => Just(Wish::Flush),
    ];
    let ending = prop_oneof![
        6 => Just(Ending::Whole),
        2 => (0..4_usize, 0..512_u32).prop_map(|(sectors, bytes)| Ending::Short(sectors, bytes)),
        1 => Just(Ending::Error(Errno::INTR)),
        1 => Just(Ending::Error(Errno::AGAIN)),
        u32::from(faults) => Just(Ending::Error(Errno::IO)),
    ];
    prop_oneof![
        4 => wish.prop_map(Step::Request),
        6 => any::<usize>().prop_map(Step::Work),
        3 => (any::<usize>(), ending).prop_map(|(which, ending)| Step::Complete(which, ending)),
    ]
}

/// An operation on the device, and how far it has come.
struct Running {
    op: DeviceOp<Buffer>,
    done: usize,
    /// For a sync: what it will have made stable.
    snapshot: Disk,
}

/// What became of a request that changes data.
struct Change {
    sectors: Vec<usize>,
    content: u32,
    acknowledged: bool,
    failed: bool,
}

struct Simulation {
    volume: Volume<Buffer>,
    durability: Durability,
    now: Disk,
    stable: Disk,
    moment: u64,
    running: Vec<Running>,
    next_id: u32,
    wishes: BTreeMap<u32, Wish>,
    changes: BTreeMap<u32, Change>,
    reads: Vec<(u32, usize, Vec<u32>)>,
    /// For each flush not answered: the changes that were acknowledged before it.
    flushes: BTreeMap<u32, Vec<u32>>,
    latched: bool,
}

impl Simulation {
    fn new(durability: Durability, volume_changes: Changes) -> Self {
        Self {
            volume: Volume::new(VolumeSettings {
                capacity: CAPACITY,
                durability,
                changes: volume_changes,
            }),
            durability,
            now: Disk::default(),
            stable: Disk::default(),
            moment: 0,
            running: Vec::new(),
            next_id: 1,
            wishes: BTreeMap::new(),
            changes: BTreeMap::new(),
            reads: Vec::new(),
            flushes: BTreeMap::new(),
            latched: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Request(wish) => self.request(wish),
            Step::Work(which) if !self.running.is_empty() => {
                let which = which % self.running.len();
                self.work(which);
            }
            Step::Complete(which, ending) if !self.running.is_empty() => {
                let which = which % self.running.len();
                self.complete(which, ending);
            }
            _ => {}
        }
        self.drain();
    }

    fn request(&mut self, wish: Wish) {
        let id = self.next_id;
        let mut buffer = vec![0xEE; 4096];
        let sectors = |len: usize| u32::try_from(len).unwrap();
        let kind = match &wish {
            Wish::Read(start, len) => RequestKind::Read {
                lba: *start as u64,
                sectors: sectors(*len),
            },
            Wish::Write(start, len) => {
                buffer
                    .chunks_mut(512)
                    .for_each(|sector| sector[..4].copy_from_slice(&id.to_le_bytes()));
                RequestKind::Write {
                    lba: *start as u64,
                    sectors: sectors(*len),
                }
            }
            Wish::Trim(ranges) => {
                buffer.fill(0);
                for (entry, (start, len)) in ranges.iter().enumerate() {
                    let value = *start as u64 | (*len as u64) << 48;
                    // Unused entries between the used ones.
                    buffer[entry * 16..entry * 16 + 8].copy_from_slice(&value.to_le_bytes());
                }
                RequestKind::Trim { blocks: 1 }
            }
            Wish::Flush => RequestKind::Flush,
        };
        let full = self.volume.outstanding() == CAPACITY;
        let refused = self.volume.handle_request(DiskRequest {
            id: RequestId(id),
            kind,
            buffer,
        });
        assert_eq!(refused.is_err(), full, "refused only when full");
        if full {
            return;
        }
        self.next_id += 1;
        let changed = match &wish {
            Wish::Write(start, len) => Some((id, (*start..start + len).collect())),
            Wish::Trim(ranges) => Some((
                0,
                ranges
                    .iter()
                    .flat_map(|&(start, len)| start..start + len)
                    .collect(),
            )),
            _ => None,
        };
        if let Some((content, sectors)) = changed {
            let change = Change {
                sectors,
                content,
                acknowledged: false,
                failed: false,
            };
            self.changes.insert(id, change);
        }
        if matches!(wish, Wish::Flush) {
            let acknowledged = self
                .changes
                .iter()
                .filter(|(_, change)| change.acknowledged);
            self.flushes
                .insert(id, acknowledged.map(|(&id, _)| id).collect());
        }
        self.wishes.insert(id, wish);
    }

    /// Takes what the volume gives out, until it gives nothing.
    fn drain(&mut self) {
        while let Some(op) = self.volume.poll_device() {
            let snapshot = self.now;
            self.running.push(Running {
                op,
                done: 0,
                snapshot,
            });
        }
        while let Some(done) = self.volume.poll_done() {
            self.done(&done);
        }
    }

    /// One more sector of an operation takes effect.
    fn work(&mut self, which: usize) {
        let Running { op, done, .. } = &mut self.running[which];
        let sectors = usize::try_from(op.len_bytes / 512).unwrap();
        if *done == sectors {
            return;
        }
        let at = usize::try_from(op.offset_bytes / 512).unwrap() + *done;
        let memory = op.memory_start + *done * 512;
        *done += 1;
        self.moment += 1;
        let moment = self.moment;
        match op.kind {
            OpKind::Read => {
                let content = self.now[at].content.to_le_bytes();
                op.memory
                    .for_each_mut(memory, 4, |piece| piece.copy_from_slice(&content))
                    .unwrap();
            }
            OpKind::Write { durable } => {
                let mut content = [0; 4];
                op.memory
                    .for_each_mut(memory, 4, |piece| content.copy_from_slice(piece))
                    .unwrap();
                let content = u32::from_le_bytes(content);
                self.now[at] = Sector { content, moment };
                if durable {
                    self.stable[at] = self.now[at];
                }
            }
            OpKind::Discard => self.now[at] = Sector { content: 0, moment },
            OpKind::Sync => {}
        }
    }

    fn complete(&mut self, which: usize, ending: Ending) {
        let transfer = matches!(
            self.running[which].op.kind,
            OpKind::Read | OpKind::Write { .. }
        );
        let sectors = usize::try_from(self.running[which].op.len_bytes / 512).unwrap();
        let result = match ending {
            // Bytes of a sector that is only half there are no lie, they are transferred again.
            Ending::Short(whole, bytes)
                if transfer && whole < sectors && (whole > 0 || bytes > 0) =>
            {
                while self.running[which].done < whole {
                    self.work(which);
                }
                Ok(u32::try_from(whole).unwrap() * 512 + bytes)
            }
            Ending::Error(errno) => Err(errno),
            _ => {
                (0..sectors).for_each(|_| self.work(which));
                Ok(u32::try_from(sectors * 512).unwrap())
            }
        };
        let Running { op, snapshot, .. } = self.running.swap_remove(which);
        if op.kind == OpKind::Sync {
            match result {
                Ok(_) => {
                    for (stable, synced) in self.stable.iter_mut().zip(snapshot) {
                        if synced.moment > stable.moment {
                            *stable = synced;
                        }
                    }
                }
                // Without a sync of its own a write-through volume latches nothing.
                Err(Errno::IO | Errno::AGAIN) => {
                    self.latched |= self.durability == Durability::Writeback;
                }
                Err(_) => {}
            }
        }
        self.volume.handle_device(Completion {
            id: op.id,
            memory: op.memory,
            result,
        });
    }

    fn done(&mut self, done: &Done<Buffer>) {
        let id = done.id.0;
        let wish = self.wishes.remove(&id).expect("answered once");
        assert_eq!(done.buffer.len(), 4096, "with its buffer");
        match wish {
            Wish::Read(start, len) if done.result.is_ok() => {
                let sectors = done.buffer.chunks(512).take(len);
                let contents =
                    sectors.map(|sector| u32::from_le_bytes(sector[..4].try_into().unwrap()));
                self.reads.push((id, start, contents.collect()));
            }
            Wish::Read(..) => {}
            Wish::Write(..) | Wish::Trim(_) => {
                let change = self.changes.get_mut(&id).unwrap();
                change.acknowledged = done.result.is_ok();
                change.failed = done.result.is_err();
                let nothing = change.sectors.is_empty();
                assert!(
                    !self.latched || change.failed || nothing,
                    "acknowledged after a failed sync"
                );
                if self.durability == Durability::Writethrough && done.result.is_ok() {
                    self.must_be_stable(&[id]);
                }
            }
            Wish::Flush => {
                let covered = self.flushes.remove(&id).unwrap();
                assert!(
                    !self.latched || done.result.is_err(),
                    "flushed after a failed sync"
                );
                if done.result.is_ok() {
                    self.must_be_stable(&covered);
                }
            }
        }
    }

    /// A power cut now would leave each of these changes, or a later one, on the disk.
    fn must_be_stable(&self, ids: &[u32]) {
        for id in ids {
            for &sector in &self.changes[id].sectors {
                let later = self.changes.range(id..);
                let mut allowed = later.filter(|(_, change)| change.sectors.contains(&sector));
                let found = self.stable[sector].content;
                assert!(
                    allowed.any(|(_, change)| change.content == found),
                    "request {id} was promised, sector {sector} holds {found}"
                );
            }
        }
    }

    /// Lets everything end, then compares each read with its place in the order.
    fn finish(mut self) {
        for _ in 0..10_000 {
            if self.running.is_empty() {
                break;
            }
            self.complete(0, Ending::Whole);
            self.drain();
        }
        assert!(
            self.volume.is_idle() && self.running.is_empty(),
            "something is stuck"
        );
        assert!(self.wishes.is_empty(), "not answered: {:?}", self.wishes);
        for (id, start, contents) in &self.reads {
            for (sector, content) in (*start..).zip(contents) {
                let earlier = self.changes.range(..id).rev();
                let mut allowed = Vec::new();
                for (_, change) in earlier.filter(|(_, change)| change.sectors.contains(&sector)) {
                    allowed.push(change.content);
                    if !change.failed {
                        break;
                    }
                }
                let untouched = self
                    .changes
                    .range(..id)
                    .all(|(_, change)| change.failed || !change.sectors.contains(&sector));
                if untouched {
                    allowed.push(0);
                }
                assert!(
                    allowed.contains(content),
                    "read {id} found {content} in sector {sector}, not one of {allowed:?}"
                );
            }
        }
    }
}

fn play(durability: Durability, steps: &[Step]) {
    for changes in [Changes::Concurrent, Changes::OneByOne] {
        let mut simulation = Simulation::new(durability, changes);
        for step in steps {
            simulation.step(step.clone());
        }
        simulation.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn writethrough_is_an_array(steps in prop::collection::vec(step(false), 0..200)) {
        play(Durability::Writethrough, &steps);
    }

    #[test]
    fn writethrough_with_errors_is_an_array_where_it_succeeds(
        steps in prop::collection::vec(step(true), 0..200),
    ) {
        play(Durability::Writethrough, &steps);
    }

    #[test]
    fn writeback_is_an_array_and_flushes_keep_their_word(
        steps in prop::collection::vec(step(true), 0..200),
    ) {
        play(Durability::Writeback, &steps);
    }
}
