//! `aoede discover`: who is on a network.

use std::time::Duration;

use aoede_initiator::Found;
use clap::Args;
use serde::Serialize;

use crate::escape;
use crate::output::{self, Facts, OutputArgs};
use crate::reach::{InterfaceArgs, Network};

const EXAMPLES: &str = "\
Examples:
  aoede discover -i eth0
  aoede discover -i eth0,eth1 --seconds 5
      A disk that answers on both has a line for each path.
  aoede discover -i eth0 --json | jq -r '.[].address'

That nobody answers is no failure: the list is empty, a line on standard error says so, and the exit
code is 0. A target whose MAC mask leaves this host out does not answer.
It needs the capability CAP_NET_RAW.";

/// List the AoE disks on a network.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiscoverArgs {
    #[command(flatten)]
    interfaces: InterfaceArgs,

    /// How long to listen.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn run(args: &DiscoverArgs) -> anyhow::Result<()> {
    let network = args.interfaces.open()?;
    let found = network
        .client()
        .discover(Duration::from_secs(args.seconds))?;
    if found.is_empty() {
        let (names, seconds) = (network.names(), args.seconds);
        eprintln!("aoede: nobody answers on {names} within {seconds} s");
    }
    args.output.print(&Answers::new(&found, &network))
}

/// Sorted by address, so that the paths to one disk stand together.
#[derive(Serialize)]
#[serde(transparent)]
struct Answers(Vec<Answer>);

/// One target as it answered on one interface.
#[derive(Serialize)]
struct Answer {
    address: String,
    interface: String,
    mac: String,
    buffer_count: u16,
    sectors_per_frame: u8,
    firmware: u16,
    config_string: String,
}

/// What a sector count of 0 means (§4).
const SECTORS_OF_OLD: u8 = 2;

impl Answers {
    fn new(found: &[Found], network: &Network) -> Self {
        let mut found: Vec<&Found> = found.iter().collect();
        found.sort_by_key(|found| (found.address, found.port, found.mac));
        let answers = found.into_iter().map(|found| Answer {
            address: found.address.to_string(),
            interface: network.name(found.port).to_owned(),
            mac: found.mac.to_string(),
            buffer_count: found.buffer_count,
            sectors_per_frame: match found.sector_count {
                0 => SECTORS_OF_OLD,
                sectors => sectors,
            },
            firmware: found.firmware,
            config_string: escape::escape(&found.config_string),
        });
        Self(answers.collect())
    }
}

impl Facts for Answers {
    fn text(&self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let rows: Vec<_> = self
            .0
            .iter()
            .map(|answer| {
                [
                    answer.address.clone(),
                    answer.interface.clone(),
                    answer.mac.clone(),
                    answer.buffer_count.to_string(),
                    answer.sectors_per_frame.to_string(),
                    format!("{:04x}", answer.firmware),
                    answer.config_string.clone(),
                ]
            })
            .collect();
        let head = [
            ("ADDRESS", false),
            ("INTERFACE", false),
            ("MAC", false),
            ("BUFFERS", true),
            ("SECTORS", true),
            ("FIRMWARE", true),
            ("CONFIG", false),
        ];
        output::list(head, &rows)
    }
}
