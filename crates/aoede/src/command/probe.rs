//! `aoede probe`: how many requests fit into a target's receive buffer (§10).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use aoede_initiator::{Disk, PathInfo, Wanted};
use aoede_wire::Address;
use clap::Args;
use serde::Serialize;

use crate::output::{self, Facts, OutputArgs};
use crate::reach::{self, Asks, Network, ReachArgs};
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede probe e1.1 -i eth0
  aoede probe e1.1 -i eth0,eth1 --json

Many requests are sent at once, as long as full writes, four for each buffer that the disk
announces. Those that are answered have fitted; three quarters of them are a good number to have
under way. Each path takes half a second; the disk serves everybody else meanwhile. A disk that does
not know this measurement is none the worse: its own announcement is shown.
It needs the capability CAP_NET_RAW.";

/// Measure how many requests fit into a disk's receive buffer.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ProbeArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    #[command(flatten)]
    reach: ReachArgs<Congestion>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Copy, Debug)]
struct Congestion;

impl Asks for Congestion {
    fn wanted(&self) -> Wanted {
        Wanted {
            congestion: true,
            ..Wanted::NOTHING
        }
    }
}

/// A target does not let itself be measured again before that time (§10), and a little more.
const PAUSE: Duration = Duration::from_millis(2200);

pub(super) fn run(args: &ProbeArgs) -> anyhow::Result<()> {
    let reached = args.reach.attach(args.address)?;
    // Before, a signal ends the process at once.
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let mut facts = measure(args, &reached, &stop)?;
    if facts.has_silent_path() {
        drop(reached);
        eprintln!("aoede: somebody on this host has just measured; once more in two seconds");
        reach::pause(PAUSE, &stop)?;
        facts = measure(args, &args.reach.attach(args.address)?, &stop)?;
    }
    ensure!(
        !facts.has_silent_path(),
        "{} answers none of the probes",
        args.address
    );
    args.output.print(&facts)
}

fn measure(
    args: &ProbeArgs,
    (network, disk): &(Network, Disk),
    stop: &Stop,
) -> anyhow::Result<ProbeFacts> {
    let info = reach::settled(disk, args.reach.give_up, stop)?;
    let paths = info.paths.iter().filter(|path| path.ready);
    Ok(ProbeFacts {
        address: args.address.to_string(),
        paths: paths.map(|path| PathFacts::new(path, network)).collect(),
    })
}

#[derive(Debug, Serialize)]
struct ProbeFacts {
    address: String,
    paths: Vec<PathFacts>,
}

#[derive(Debug, Serialize)]
struct PathFacts {
    interface: String,
    mac: String,
    /// By its own account.
    buffer_count: u16,
    probe_bytes: usize,
    /// Not there if the target cannot be measured.
    probes: Option<u32>,
    answered: Option<u32>,
}

impl ProbeFacts {
    fn has_silent_path(&self) -> bool {
        self.paths.iter().any(|path| path.answered == Some(0))
    }
}

impl PathFacts {
    fn new(path: &PathInfo, network: &Network) -> Self {
        Self {
            interface: network.name(path.port).to_owned(),
            mac: path.mac.to_string(),
            buffer_count: path.buffer_count,
            probe_bytes: reach::frame_bytes(path.sectors_per_frame),
            probes: path.measured.map(|_| path.probes),
            answered: path.measured,
        }
    }

    fn row(&self) -> [String; 5] {
        let fit = match (self.answered, self.probes) {
            (Some(answered), Some(probes)) if answered >= probes => format!("{answered} or more"),
            (Some(answered), _) => answered.to_string(),
            (None, _) => "not measurable".to_owned(),
        };
        [
            self.interface.clone(),
            self.mac.clone(),
            self.probe_bytes.to_string(),
            fit,
            self.buffer_count.to_string(),
        ]
    }
}

impl Facts for ProbeFacts {
    fn text(&self) -> String {
        let head = [
            ("INTERFACE", false),
            ("MAC", false),
            ("BYTES EACH", true),
            ("FIT", true),
            ("ANNOUNCED", true),
        ];
        let rows: Vec<_> = self.paths.iter().map(PathFacts::row).collect();
        let mut text = output::list(head, &rows);
        if self.paths.iter().any(|path| path.answered.is_none()) {
            text.push_str(
                "\nNot measurable: the target does not know the measurement, or would stop for all \
                 its initiators (the 2014 AoEde). It says itself that it holds as many requests as \
                 are announced.\n",
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_told_from_what_is_announced_and_what_is_not_known() {
        let path = |answered, probes| PathFacts {
            interface: "eth0".to_owned(),
            mac: "02:00:00:00:00:0a".to_owned(),
            buffer_count: 64,
            probe_bytes: 1060,
            probes,
            answered,
        };
        let facts = ProbeFacts {
            address: "e1.1".to_owned(),
            paths: vec![
                path(Some(231), Some(256)),
                path(Some(256), Some(256)),
                path(None, None),
            ],
        };
        let text = facts.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "INTERFACE  MAC                BYTES EACH             FIT  ANNOUNCED",
                "eth0       02:00:00:00:00:0a        1060             231         64",
                "eth0       02:00:00:00:00:0a        1060     256 or more         64",
                "eth0       02:00:00:00:00:0a        1060  not measurable         64",
            ]
        );
        assert!(lines[5].starts_with("Not measurable: the target does not know"));
    }
}
