//! What a measurement asks for: where the next request goes, and whether it reads. Pure.

use clap::ValueEnum;
use serde::Serialize;

/// Read or write, in order or anywhere. The names are those of fio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[value(rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub(super) enum Workload {
    /// From the first block to the last, and round again.
    Read,
    /// The same, writing.
    Write,
    /// Anywhere.
    RandRead,
    /// Anywhere, writing.
    RandWrite,
    /// Anywhere, a part of them writing.
    RandRw,
}

impl Workload {
    /// As the command line calls it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
            Self::RandRw => "randrw",
        }
    }

    pub(super) fn writes(self) -> bool {
        !matches!(self, Self::Read | Self::RandRead)
    }

    fn is_random(self) -> bool {
        !matches!(self, Self::Read | Self::Write)
    }
}

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) lba: u64,
    pub(super) write: bool,
}

/// Requests without end: blocks of one size, each aligned to it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    workload: Workload,
    /// Of a hundred requests of [`Workload::RandRw`] so many read.
    read_percent: u8,
    block_sectors: u64,
    blocks: u64,
    next: u64,
    random: Random,
}

impl Plan {
    /// Over the whole blocks of a disk; `None` if there is none.
    pub(super) fn new(
        workload: Workload,
        read_percent: u8,
        block_sectors: u64,
        disk_sectors: u64,
        seed: u64,
    ) -> Option<Self> {
        let blocks = disk_sectors.checked_div(block_sectors)?;
        (blocks > 0).then(|| Self {
            workload,
            read_percent,
            block_sectors,
            blocks,
            next: 0,
            random: Random::new(seed),
        })
    }

    pub(super) fn next(&mut self) -> Step {
        let block = if self.workload.is_random() {
            self.random.below(self.blocks)
        } else {
            let block = self.next;
            self.next = if block + 1 < self.blocks {
                block + 1
            } else {
                0
            };
            block
        };
        let write = match self.workload {
            Workload::RandRw => self.random.below(100) >= self.read_percent.into(),
            workload => workload.writes(),
        };
        Step {
            lba: block * self.block_sectors,
            write,
        }
    }
}

/// The same seed gives the same numbers, on every machine (`SplitMix64`).
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, each as likely as the others.
    fn below(&mut self, limit: u64) -> u64 {
        let product = u128::from(self.number()) * u128::from(limit);
        u64::try_from(product >> 64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(workload: Workload, read_percent: u8, sectors: u64, seed: u64) -> Plan {
        Plan::new(workload, read_percent, 8, sectors, seed).unwrap()
    }

    #[test]
    fn in_order_and_round_again() {
        for (workload, write) in [(Workload::Read, false), (Workload::Write, true)] {
            let mut plan = plan(workload, 0, 8 * 3 + 7, 1);
            let steps: Vec<Step> = (0..5).map(|_| plan.next()).collect();
            assert_eq!(
                steps,
                [0, 8, 16, 0, 8].map(|lba| Step { lba, write }),
                "{workload:?}"
            );
        }
        assert!(Plan::new(Workload::Read, 0, 8, 7, 1).is_none());
        assert!(Plan::new(Workload::Read, 0, 0, 7, 1).is_none());
    }

    #[test]
    fn anywhere_is_everywhere_and_aligned() {
        let mut plan = plan(Workload::RandRead, 0, 8 * 16 + 1, 42);
        let mut hits = [0_u32; 16];
        for _ in 0..16_000 {
            let Step { lba, write } = plan.next();
            assert!(lba % 8 == 0 && !write);
            hits[usize::try_from(lba / 8).unwrap()] += 1;
        }
        assert!(
            hits.iter().all(|hits| (800..1200).contains(hits)),
            "{hits:?}"
        );
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        for (percent, expected) in [(0, 0..=0), (30, 2700..=3300), (100, 10_000..=10_000)] {
            let mut plan = plan(Workload::RandRw, percent, 1 << 20, 7);
            let reads = (0..10_000).filter(|_| !plan.next().write).count();
            assert!(expected.contains(&reads), "{percent} %: {reads}");
        }
        assert!(plan(Workload::RandWrite, 100, 80, 7).next().write);
    }

    #[test]
    fn a_seed_is_a_series() {
        let first = |seed| plan(Workload::RandRead, 0, 1 << 40, seed).next();
        assert_ne!(first(0), first(1));
        assert_eq!(first(7), first(7));
        // Published values of SplitMix64 for the seed 1234567.
        let mut random = Random::new(1_234_567);
        assert_eq!(random.number(), 6_457_827_717_110_365_317);
        assert_eq!(random.number(), 3_203_168_211_198_807_973);
    }
}
