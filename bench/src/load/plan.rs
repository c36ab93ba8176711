//! What is asked for: where the next request goes, and what is written there.

use std::str::FromStr;

use anyhow::{Context as _, ensure};
use aoede_wire::SECTOR_BYTES;
use serde::{Deserialize, Serialize};

/// Read or write, in order or anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it, and are those of fio")]
pub enum Workload {
    Read,
    Write,
    RandRead,
    RandWrite,
}

impl Workload {
    /// Whether it writes.
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::RandWrite)
    }

    fn is_random(self) -> bool {
        matches!(self, Self::RandRead | Self::RandWrite)
    }

    /// As the command line and fio call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::RandRead => "randread",
            Self::RandWrite => "randwrite",
        }
    }
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let all = [Self::Read, Self::Write, Self::RandRead, Self::RandWrite];
        all.into_iter()
            .find(|workload| workload.name() == text)
            .context("it is one of read, write, randread and randwrite")
    }
}

/// The addresses of a workload, without end: blocks of one size, each aligned to it.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    workload: Workload,
    sectors: u8,
    blocks: u64,
    next: u64,
    random: u64,
}

impl Plan {
    /// Over the whole blocks among the first `disk_sectors`.
    pub(super) fn new(
        workload: Workload,
        sectors: u8,
        disk_sectors: u64,
        seed: u64,
    ) -> anyhow::Result<Self> {
        ensure!(sectors > 0, "a block has at least one sector");
        let blocks = disk_sectors / u64::from(sectors);
        ensure!(
            blocks > 0,
            "a disk of {disk_sectors} sectors has no block of {sectors}"
        );
        Ok(Self {
            workload,
            sectors,
            blocks,
            next: 0,
            random: scramble(seed.wrapping_add(0x9E37_79B9_7F4A_7C15)) | 1,
        })
    }

    pub(super) fn workload(&self) -> Workload {
        self.workload
    }

    /// Sectors in a block.
    pub(super) fn sectors(&self) -> u8 {
        self.sectors
    }

    /// The same blocks for another workload.
    pub(super) fn with(&self, workload: Workload) -> Self {
        Self {
            workload,
            ..self.clone()
        }
    }

    /// The first sector of the next block.
    pub(super) fn next_lba(&mut self) -> u64 {
        let block = if self.workload.is_random() {
            self.random = scramble(self.random);
            // The upper half of the product spreads the numbers over the blocks evenly.
            let product = u128::from(self.random) * u128::from(self.blocks);
            u64::try_from(product >> 64).unwrap_or(0)
        } else {
            let block = self.next;
            self.next = if block + 1 < self.blocks {
                block + 1
            } else {
                0
            };
            block
        };
        block * u64::from(self.sectors)
    }
}

/// What a load generator writes: noise, with its own address at the start of each sector. So it
/// costs next to nothing to make, and what is read back can be told to be in the right place.
#[derive(Clone, Debug)]
pub(super) struct Payload {
    noise: Vec<u8>,
}

impl Payload {
    pub(super) fn new(sectors: u8, seed: u64) -> Self {
        let mut noise = vec![0; usize::from(sectors) * SECTOR_BYTES];
        let mut state = scramble(seed) | 1;
        for chunk in noise.chunks_mut(8) {
            state = scramble(state);
            chunk.copy_from_slice(&state.to_le_bytes());
        }
        Self { noise }
    }

    /// The bytes, before they are stamped.
    pub(super) fn noise(&self) -> &[u8] {
        &self.noise
    }

    /// Makes noise the content of the sectors from `lba` on.
    pub(super) fn stamp(lba: u64, data: &mut [u8]) {
        for (lba, sector) in (lba..).zip(data.chunks_mut(SECTOR_BYTES)) {
            if let Some(start) = sector.first_chunk_mut::<8>() {
                *start = lba.to_le_bytes();
            }
        }
    }

    /// The content of the sectors from `lba` on.
    pub(super) fn at(&self, lba: u64) -> Vec<u8> {
        let mut data = self.noise.clone();
        Self::stamp(lba, &mut data);
        data
    }
}

/// One step of xorshift64: any number but 0 leads to every other but 0.
fn scramble(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_order_and_round_again() {
        let mut plan = Plan::new(Workload::Read, 8, 8 * 3 + 7, 1).unwrap();
        let lbas: Vec<u64> = (0..5).map(|_| plan.next_lba()).collect();
        assert_eq!(lbas, [0, 8, 16, 0, 8]);
        assert!(Plan::new(Workload::Read, 8, 7, 1).is_err());
        assert!(Plan::new(Workload::Read, 0, 7, 1).is_err());
    }

    #[test]
    fn anywhere_is_everywhere_and_aligned() {
        let mut plan = Plan::new(Workload::RandRead, 8, 8 * 16 + 1, 42).unwrap();
        let mut hits = [0_u32; 16];
        for _ in 0..16_000 {
            let lba = plan.next_lba();
            assert_eq!(lba % 8, 0);
            hits[usize::try_from(lba / 8).unwrap()] += 1;
        }
        assert!(
            hits.iter().all(|hits| (800..1200).contains(hits)),
            "{hits:?}"
        );
    }

    #[test]
    fn seeds_differ() {
        let first = |seed| {
            let mut plan = Plan::new(Workload::RandWrite, 1, 1 << 40, seed).unwrap();
            plan.next_lba()
        };
        assert_ne!(first(0), first(1));
        assert_eq!(first(7), first(7));
    }

    #[test]
    fn payload_tells_its_address_sector_by_sector() {
        let payload = Payload::new(2, 1);
        let data = payload.at(0x0102);
        assert_eq!(data.len(), 1024);
        assert_eq!(data[..8], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(data[512..520], [3, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(data[8..512], payload.noise()[8..512]);
        assert_ne!(data[8..512], data[520..]);
    }

    #[test]
    fn names_are_those_of_fio() {
        for (name, workload, writes) in [
            ("read", Workload::Read, false),
            ("write", Workload::Write, true),
            ("randread", Workload::RandRead, false),
            ("randwrite", Workload::RandWrite, true),
        ] {
            assert_eq!(name.parse::<Workload>().unwrap(), workload);
            assert_eq!(workload.name(), name);
            assert_eq!(workload.writes(), writes);
        }
        assert!("trim".parse::<Workload>().is_err());
    }
}
