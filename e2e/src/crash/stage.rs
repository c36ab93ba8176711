//! Where crashes happen: two hosts, a disk image, and an initiator's eyes.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::sector::SECTOR;
use crate::{
    Namespace, Nic, Scratch,
    aoe::{Addressing, Response, ata},
};

/// Sectors in one read when the whole disk is read.
const STEP: u8 = 16;
const ANSWER: Duration = Duration::from_secs(20);

/// Two hosts and an image of zeros; its folder goes away with it.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) host: Namespace,
    pub(super) nic: Nic,
    pub(super) target: Addressing,
    pub(super) scratch: Scratch,
    pub(super) image: PathBuf,
    sectors: usize,
}

impl Stage {
    pub(super) fn new(sectors: usize) -> Result<Self> {
        let (host, initiator) = Namespace::pair(9000)?;
        let nic = Nic::open(&initiator, "ini0")?;
        let target = Addressing {
            to: host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        let scratch = Scratch::new()?;
        let image = scratch.image("disk.img", u64::try_from(sectors * SECTOR)?)?;
        Ok(Self {
            host,
            nic,
            target,
            scratch,
            image,
            sectors,
        })
    }

    /// The whole disk, as an initiator sees it.
    pub(super) fn read_over_the_wire(&self) -> Result<Vec<u8>> {
        let mut disk = Vec::with_capacity(self.sectors * SECTOR);
        for tag in (0..).take(self.sectors / usize::from(STEP)) {
            let lba = u64::from(tag) * u64::from(STEP);
            let request = self.target.ata(tag, ata::READ, lba, STEP, b"");
            let frame = self
                .nic
                .exchange(&request, ANSWER)?
                .with_context(|| format!("no response to a read of sector {lba}"))?;
            let response = Response(&frame);
            ensure!(
                response.succeeded() && response.data().len() == usize::from(STEP) * SECTOR,
                "a read of sector {lba} failed: {:02x?}",
                frame.get(14..36).unwrap_or_default()
            );
            disk.extend(response.data());
        }
        Ok(disk)
    }
}

/// Calls `work` on a thread that stays on one processor: what is sent from several may overtake
/// each other on a virtual cable, and the promises rely on the order.
pub(super) fn on_one_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let pinned = || {
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        sched_setaffinity(None, &here).context("cannot stay on one processor")?;
        work()
    };
    thread::scope(|scope| scope.spawn(pinned).join()).map_err(|_| anyhow!("the thread died"))?
}
