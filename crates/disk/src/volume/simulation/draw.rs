//! What is drawn from the seed: the disk, each life's settings, the traffic and the weather.

use std::time::Duration;

use super::super::{PAGE_BYTES, Stability, VolumeSettings};
use super::model::SECTOR;
use crate::engine::sim::random::Random;
use crate::engine::sim::{Faults, FaultyRegion, Latency, SimDiskShape};

/// Most device operations of the volume beside those of its requests.
const SPARE_OPERATIONS: usize = 64;
const MOST_REQUESTS: usize = 48;

pub(super) fn one_of<T: Copy>(random: &mut Random, choices: &[T]) -> T {
    let at = random.below(choices.len() as u64);
    choices[usize::try_from(at).unwrap()]
}

pub(super) fn shape(random: &mut Random) -> SimDiskShape {
    let block_bytes = one_of(random, &[512, 512, 4096]);
    let sectors = sectors(random, 0);
    SimDiskShape {
        size_bytes: sectors * SECTOR as u64,
        block_bytes,
        discard_bytes: one_of(random, &[block_bytes, block_bytes, 4096, 32768]),
        capacity: MOST_REQUESTS + SPARE_OPERATIONS,
        page_cache: random.coin(),
    }
}

/// The size of a disk: mostly more than the cache, and mostly not whole pages. Often near `now`.
pub(super) fn sectors(random: &mut Random, now: u64) -> u64 {
    let most = 2000;
    if now > 0 && random.coin() {
        let near = now.saturating_sub(20)..=now + 20;
        return random.within(near).clamp(200, most);
    }
    random.within(200..=most)
}

pub(super) fn settings(random: &mut Random, shape: SimDiskShape) -> VolumeSettings {
    VolumeSettings {
        capacity: usize::try_from(random.within(2..=MOST_REQUESTS as u64)).unwrap(),
        stability: if shape.page_cache {
            Stability::Shared
        } else {
            one_of(
                random,
                &[Stability::Any, Stability::Each, Stability::Shared],
            )
        },
        size_bytes: shape.size_bytes,
        block_bytes: shape.block_bytes,
        discard_bytes: shape.discard_bytes,
        read_ahead_bytes: one_of(random, &[0, 16 << 10, 64 << 10, 256 << 10]),
        dirty_bytes: one_of(random, &[8 << 10, 64 << 10, 256 << 10, 4 << 20]),
        dirty_age: Duration::from_millis(one_of(random, &[20, 100, 1000])),
    }
}

pub(super) fn pages(random: &mut Random, block_bytes: u32) -> usize {
    let many = usize::try_from(random.within(64..=1024)).unwrap();
    // Without a cache there is nothing to complete blocks in.
    let few = if block_bytes as usize > SECTOR { 80 } else { 0 };
    one_of(random, &[64, 64, 65, 100, many, few])
}

pub(super) fn latency(random: &mut Random) -> Latency {
    let least = Duration::from_micros(random.within(1..=200));
    Latency {
        least,
        most: least + Duration::from_micros(random.within(0..=2000)),
        slow_ppm: one_of(random, &[0, 0, 10_000]),
        slow: Duration::from_millis(10),
    }
}

/// Mostly fair: a volume that fails all the time does little that can go wrong.
pub(super) fn faults(random: &mut Random) -> Faults {
    let transient = |random: &mut Random, most| one_of(random, &[0, most / 10, most]);
    let short_ppm = transient(random, 150_000);
    let interrupted_ppm = transient(random, 50_000);
    let fair = Faults {
        short_ppm,
        interrupted_ppm,
        ..Faults::default()
    };
    match random.below(12) {
        0 => Faults {
            write_error_ppm: one_of(random, &[1000, 100_000, 1_000_000]),
            ..fair
        },
        1 => Faults {
            no_space_ppm: one_of(random, &[100_000, 1_000_000]),
            ..fair
        },
        2 => Faults {
            sync_error_ppm: one_of(random, &[100_000, 1_000_000]),
            ..fair
        },
        3 => Faults {
            read_error_ppm: one_of(random, &[1000, 100_000, 1_000_000]),
            ..fair
        },
        4 => Faults {
            read_error_ppm: 20_000,
            write_error_ppm: 20_000,
            sync_error_ppm: 20_000,
            discard_error_ppm: 100_000,
            ..fair
        },
        _ => fair,
    }
}

pub(super) fn faulty_regions(random: &mut Random, sectors: u64) -> Vec<FaultyRegion> {
    let count = one_of(random, &[0, 0, 0, 0, 1, 2]);
    let mut region = || {
        let start = random.below(sectors);
        let reads = random.coin();
        FaultyRegion {
            sectors: start..start + random.within(1..=40),
            reads,
            writes: !reads || random.coin(),
        }
    };
    (0..count).map(|_| region()).collect()
}

pub(super) fn page_bytes() -> Vec<u8> {
    vec![0xEE; PAGE_BYTES]
}

/// What is likely in one run.
#[derive(Debug)]
pub(super) struct Weights {
    pub(super) read: u64,
    pub(super) write: u64,
    pub(super) trim: u64,
    pub(super) flush: u64,
    /// Writes and trims that may be acknowledged early, of a million: switched during the run.
    pub(super) early_ppm: u32,
    /// Of all steps: sends; the rest lets time pass.
    pub(super) send_ppm: u32,
    pub(super) power_cut_ppm: u32,
    pub(super) kill_ppm: u32,
    pub(super) stop_ppm: u32,
    pub(super) resize_ppm: u32,
    pub(super) weather_ppm: u32,
    pub(super) most_sectors: u64,
}

impl Weights {
    pub(super) fn new(random: &mut Random) -> Self {
        Self {
            read: random.within(1..=20),
            write: random.within(1..=20),
            trim: random.within(0..=2),
            flush: random.within(0..=3),
            early_ppm: Self::early(random),
            send_ppm: one_of(random, &[300_000, 600_000, 900_000]),
            power_cut_ppm: one_of(random, &[0, 500, 5000]),
            kill_ppm: one_of(random, &[0, 500, 5000]),
            stop_ppm: one_of(random, &[0, 500, 2000]),
            resize_ppm: one_of(random, &[0, 1000, 5000]),
            weather_ppm: one_of(random, &[0, 2000, 10_000]),
            most_sectors: one_of(random, &[2, 8, 17, 64]),
        }
    }

    /// The write cache is on, off, or off with some writes that allow it.
    pub(super) fn early(random: &mut Random) -> u32 {
        one_of(random, &[1_000_000, 0, 200_000])
    }
}

/// Where requests go: at random, to hot spots, or along a stream.
#[derive(Debug)]
pub(super) struct Traffic {
    sectors: u64,
    hot: Vec<u64>,
    streams: Vec<Stream>,
}

#[derive(Debug)]
struct Stream {
    writes: bool,
    next: u64,
    len: u64,
}

impl Traffic {
    pub(super) fn new(random: &mut Random, sectors: u64) -> Self {
        let mut traffic = Self {
            sectors,
            hot: (0..random.within(0..=3))
                .map(|_| random.below(sectors))
                .collect(),
            streams: Vec::new(),
        };
        for _ in 0..random.within(0..=4) {
            let stream = traffic.stream(random);
            traffic.streams.push(stream);
        }
        traffic
    }

    /// The disk has another size now.
    pub(super) fn set_sectors(&mut self, sectors: u64) {
        self.sectors = sectors;
    }

    fn stream(&self, random: &mut Random) -> Stream {
        let len = one_of(random, &[1, 2, 8, 17, 3, 32]);
        let start = random.below(self.sectors);
        Stream {
            writes: random.coin(),
            next: if random.coin() {
                start - start % 8
            } else {
                start
            },
            len,
        }
    }

    /// First sector and number of sectors of a transfer.
    pub(super) fn transfer(
        &mut self,
        random: &mut Random,
        writes: bool,
        most_sectors: u64,
    ) -> (u64, u64) {
        if random.coin() {
            let which = random.below(self.streams.len() as u64);
            let which = usize::try_from(which).unwrap();
            if self
                .streams
                .get(which)
                .is_some_and(|stream| stream.writes == writes)
            {
                if self.streams[which].next >= self.sectors || random.chance(10_000) {
                    let writes = self.streams[which].writes;
                    self.streams[which] = Stream {
                        writes,
                        ..self.stream(random)
                    };
                }
                let stream = &mut self.streams[which];
                let (lba, len) = (stream.next, stream.len.min(self.sectors - stream.next));
                stream.next += len;
                return (lba, len);
            }
        }
        self.range(random, most_sectors)
    }

    /// Somewhere; now and then no sector at all.
    pub(super) fn range(&self, random: &mut Random, most_sectors: u64) -> (u64, u64) {
        let lba = if !self.hot.is_empty() && random.coin() {
            let hot = one_of(random, &self.hot);
            (hot + random.below(24)).min(self.sectors - 1)
        } else {
            random.below(self.sectors)
        };
        let len = if random.chance(10_000) {
            0
        } else {
            random.within(1..=most_sectors)
        };
        (lba, len.min(self.sectors - lba))
    }
}
