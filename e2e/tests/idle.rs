//! An export that nobody asks costs next to nothing.

use std::{thread, time::Duration};

use anyhow::{Result, ensure};
use aoede_e2e::{Export, Maker, Namespace, Scratch};

const MIB: u64 = 1 << 20;
/// How long nobody asks. Not for anything to happen: nothing should.
const IDLE: Duration = Duration::from_secs(5);
/// The clock ticks every 10 ms. A process whose time so far ends just before a tick reaches it
/// with the first microsecond of work, so a single one tells nothing.
const TICKS: u64 = 1;
const RESIDENT_KIB: u64 = 16 << 10;

/// The default cache, jumbo frames, and so the largest buffers.
#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_idle_export_uses_no_processor_time_and_little_memory() -> Result<()> {
    let (target_host, _initiator_host) = Namespace::pair(9000)?;
    let folder = Scratch::new()?;
    let disk = folder.image("disk.img", 64 * MIB)?;
    let target = Export::new(&disk, "tgt0").start(&target_host, Maker::Aoede)?;

    let before = target.cpu_ticks()?;
    thread::sleep(IDLE);
    let ticks = target.cpu_ticks()? - before;
    ensure!(ticks <= TICKS, "{ticks} clock ticks used in {IDLE:?}");

    let resident = target.resident_kib()?;
    ensure!(
        resident < RESIDENT_KIB,
        "{resident} KiB resident, {RESIDENT_KIB} KiB is too much"
    );
    target.stop().map(drop)
}
