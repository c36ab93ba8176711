//! `aoede info`: what a disk on the network says of itself.

use aoede_wire::{Address, SECTOR_BYTES};
use clap::Args;
use serde::Serialize;

use crate::output::{self, Facts, OutputArgs};
use crate::reach::ReachArgs;
use crate::size::Size;

const EXAMPLES: &str = "\
Examples:
  aoede info e1.1 -i eth0
  aoede info e1.1 -i eth0,eth1 --json | jq .size_bytes

It needs the capability CAP_NET_RAW.";

/// Show what is known about an AoE disk.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct InfoArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    #[command(flatten)]
    reach: ReachArgs,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &InfoArgs) -> anyhow::Result<()> {
    let (_network, disk) = args.reach.attach(args.address)?;
    let identity = disk.info()?.identity;
    args.output.print(&DiskFacts {
        address: args.address.to_string(),
        model: identity.model,
        serial: identity.serial,
        firmware: identity.firmware,
        size_bytes: u128::from(identity.sectors) * SECTOR_BYTES as u128,
    })
}

#[derive(Serialize)]
struct DiskFacts {
    address: String,
    model: String,
    serial: String,
    firmware: String,
    size_bytes: u128,
}

impl Facts for DiskFacts {
    fn text(&self) -> String {
        let size = u64::try_from(self.size_bytes).unwrap_or(u64::MAX);
        output::sheet([
            ("address", self.address.clone()),
            ("model", self.model.clone()),
            ("serial", self.serial.clone()),
            ("firmware", self.firmware.clone()),
            ("size", Size(size).to_string()),
        ])
    }
}
