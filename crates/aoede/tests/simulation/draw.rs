//! What is drawn from the seed: the class of the network, and all that the run is like.

use std::time::Duration;

use aoede_disk::engine::sim::{Faults as DiskFaults, Latency, SimDiskShape};
use aoede_disk::{Stability, VolumeSettings};
use aoede_initiator::{Settings, Wanted};
use aoede_link::sim::Faults;

use crate::planted::Planted;
use crate::random::Random;

pub(crate) const SECTOR: usize = 512;

/// How late frames may be, and so what can be promised: see the fault model in `main.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// Below the least patience of a session.
    Prompt,
    /// As `Prompt`, and bits are flipped where a checksum finds it.
    Flips,
    /// Below the time for which a session keeps a repeated write's sectors closed.
    Lingering,
    /// Up to minutes.
    Late,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each goes with any other")]
pub(crate) struct Scenario {
    pub(crate) class: Class,
    pub(crate) faults: Faults,
    pub(crate) initiators: usize,
    /// Of each initiator.
    pub(crate) ports: usize,
    pub(crate) target_ports: usize,
    pub(crate) mtu: u32,
    /// Everybody writes everywhere; otherwise each has sectors of its own, and reads all.
    pub(crate) shared: bool,
    pub(crate) settings: Settings,
    /// Requests of each initiator, and how many at once.
    pub(crate) requests: u32,
    pub(crate) depth: usize,
    /// Between two requests of an initiator, at most.
    pub(crate) pause: Duration,
    pub(crate) most_sectors: u64,
    /// Tags are about to wrap.
    pub(crate) wraps: bool,

    pub(crate) buffers: usize,
    pub(crate) write_back: bool,
    pub(crate) sectors: u64,
    pub(crate) shape: SimDiskShape,
    pub(crate) latency: Latency,
    /// Sometimes.
    pub(crate) disk_faults: DiskFaults,
    pub(crate) volume: VolumeSettings,
    pub(crate) pages: usize,

    pub(crate) trims: bool,
    /// Of a million requests, so many are followed by such an event.
    pub(crate) target_ends_ppm: u32,
    pub(crate) initiator_ends_ppm: u32,
    pub(crate) partition_ppm: u32,
    pub(crate) announcement_ppm: u32,
    pub(crate) config_ppm: u32,
    pub(crate) crowd_ppm: u32,
}

/// Nothing at this rate, or at that.
fn sometimes(random: &mut Random, ppm: u32) -> u32 {
    random.one_of(&[0, 0, ppm / 5, ppm])
}

impl Scenario {
    pub(crate) fn draw(random: &mut Random, planted: Option<Planted>) -> Self {
        let class = random.one_of(&[
            Class::Prompt,
            Class::Prompt,
            Class::Flips,
            Class::Lingering,
            Class::Lingering,
            Class::Late,
            Class::Late,
            Class::Late,
        ]);
        let wanted = wanted(random, class);
        // What the target has forgotten, it cannot check, and the initiator cannot rely on.
        let forgets = matches!(class, Class::Prompt | Class::Late);
        let ends = forgets && random.coin();
        let ports = match class {
            Class::Late => 1,
            _ => random.one_of(&[1, 1, 2]),
        };
        let target_ports = random.one_of(&[1, 1, 2]);
        let shared = match class {
            Class::Prompt | Class::Flips => target_ports == 1 || wanted.tags && ports == 1 && !ends,
            Class::Lingering => wanted.tags && ports == 1,
            Class::Late => true,
        };
        let give_up = Duration::from_secs(random.one_of(&[180, 180, 60]));
        let mut settings = Settings {
            requests: 16,
            in_flight: 32,
            coalesce: random.one_of(&[1, 4, 32]),
            give_up,
            prove_again_after: Duration::from_secs(2),
            wanted,
            ..Settings::default()
        };
        if planted == Some(Planted::NoLinger) {
            settings.linger = Duration::ZERO;
        }
        let sectors = random.within(48..=256);
        let shape = shape(random, sectors);
        let buffers = random.within(2..=24) as usize;
        let write_back = random.coin();
        let disk_faults = disk_faults(random, write_back);
        let fair = disk_faults.write_error_ppm == 0;
        let initiator_ends_ppm = sometimes(random, 30_000);
        Self {
            class,
            faults: network(random, class),
            initiators: random.within(1..=4) as usize,
            ports,
            target_ports,
            mtu: random.one_of(&[1500, 4200, 9000]),
            shared,
            settings,
            requests: random.one_of(&[40, 80, 120]),
            depth: random.one_of(&[1, 4, 12]),
            pause: Duration::from_micros(random.one_of(&[0, 200, 5000, 100_000, 2_000_000])),
            most_sectors: random.one_of(&[1, 4, 20, 40]),
            wraps: random.one_in(3),
            buffers,
            write_back,
            sectors,
            shape,
            latency: latency(random),
            disk_faults,
            volume: volume(random, &shape, buffers),
            pages: random.one_of(&[64, 64, 100]),
            trims: fair
                && !write_back
                && initiator_ends_ppm == 0
                && class == Class::Prompt
                && shape.discard_bytes == 512,
            target_ends_ppm: if ends { 20_000 } else { 0 },
            initiator_ends_ppm,
            partition_ppm: sometimes(random, 30_000),
            announcement_ppm: sometimes(random, 20_000),
            config_ppm: if forgets {
                sometimes(random, 10_000)
            } else {
                0
            },
            crowd_ppm: if forgets {
                random.one_of(&[0, 0, 0, 0, 0, 0, 0, 3000])
            } else {
                0
            },
        }
    }
}

fn wanted(random: &mut Random, class: Class) -> Wanted {
    let drawn = Wanted {
        coalesced_read: random.coin(),
        tags: !random.one_in(4),
        crc8x4: random.one_in(4),
        crc32c: random.one_in(4),
        congestion: random.one_in(4),
        coalesced_write_reply: random.coin(),
    };
    match class {
        // Checksums do not cover tags: §11.
        Class::Flips => Wanted {
            tags: false,
            congestion: false,
            crc8x4: !drawn.crc32c,
            ..drawn
        },
        _ => drawn,
    }
}

fn network(random: &mut Random, class: Class) -> Faults {
    let usual = Faults {
        loss_ppm: random.one_of(&[0, 10_000, 50_000]),
        duplicate_ppm: random.one_of(&[0, 20_000, 100_000]),
        reorder_ppm: random.one_of(&[0, 50_000, 300_000]),
        reorder_steps: 5000,
        delay_steps: random.within(5..=200) as u32,
        twins_together: true,
        ..Faults::default()
    };
    match class {
        Class::Prompt | Class::Flips => usual,
        Class::Lingering => Faults {
            reorder_steps: 120_000,
            ..usual
        },
        Class::Late => Faults {
            reorder_steps: random.one_of(&[5000, 100_000, 300_000]),
            late_ppm: random.one_of(&[5000, 30_000]),
            late_steps: random.one_of(&[1_000_000, 20_000_000, 100_000_000]),
            twins_together: false,
            ..usual
        },
    }
}

fn shape(random: &mut Random, sectors: u64) -> SimDiskShape {
    let block_bytes = random.one_of(&[512, 512, 4096]);
    SimDiskShape {
        size_bytes: sectors * SECTOR as u64,
        block_bytes,
        discard_bytes: block_bytes,
        capacity: 128,
        page_cache: random.one_in(3),
    }
}

fn latency(random: &mut Random) -> Latency {
    let least = Duration::from_micros(random.within(1..=200));
    Latency {
        least,
        most: least + Duration::from_micros(random.within(0..=2000)),
        slow_ppm: random.one_of(&[0, 0, 10_000]),
        slow: Duration::from_millis(10),
    }
}

fn disk_faults(random: &mut Random, write_back: bool) -> DiskFaults {
    let fair = DiskFaults {
        short_ppm: random.one_of(&[0, 50_000]),
        interrupted_ppm: random.one_of(&[0, 20_000]),
        ..DiskFaults::default()
    };
    match random.below(8) {
        0 => DiskFaults {
            read_error_ppm: 20_000,
            ..fair
        },
        1 | 2 => DiskFaults {
            write_error_ppm: if write_back { 20_000 } else { 100_000 },
            ..fair
        },
        _ => fair,
    }
}

fn volume(random: &mut Random, shape: &SimDiskShape, buffers: usize) -> VolumeSettings {
    VolumeSettings {
        capacity: buffers,
        stability: if shape.page_cache {
            Stability::Shared
        } else {
            random.one_of(&[Stability::Any, Stability::Each, Stability::Shared])
        },
        size_bytes: shape.size_bytes,
        block_bytes: shape.block_bytes,
        discard_bytes: shape.discard_bytes,
        read_ahead_bytes: random.one_of(&[0, 16 << 10, 64 << 10]),
        dirty_bytes: random.one_of(&[8 << 10, 64 << 10, 256 << 10]),
        dirty_age: Duration::from_millis(random.one_of(&[20, 100, 1000])),
    }
}
