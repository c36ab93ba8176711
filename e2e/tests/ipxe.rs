//! iPXE as the initiator: a machine without a disk boots from the export.

use std::time::Duration;

use anyhow::Result;
use aoede_e2e::{Export, Ipxe, Maker, Namespace, Scratch, boot_image};

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_machine_boots_from_the_export() -> Result<()> {
    let (folder, host) = (Scratch::new()?, Namespace::new()?);
    // iPXE wants at least a few cylinders.
    let image = folder.image("boot.img", 64 << 20)?;
    boot_image(&image, "Booted from AoE.\r\n")?;
    host.tap("tap0", 1500)?;
    let target = Export::new(&image, "tap0").start(&host, Maker::under_test())?;
    let machine = Ipxe::boot(&host, "tap0", "e1.1")?;
    machine.wait_for("Booted from AoE.", Duration::from_secs(120))?;
    target.stop().map(drop)
}
