//! `aoede serve`: all disks of a configuration, until asked to stop.

use std::path::PathBuf;

use clap::Args;

use crate::daemon::{self, Settings};
use crate::log::{self, LogArgs};

const EXAMPLES: &str = "\
Examples:
  aoede serve
      Serve what /etc/aoede/aoede.toml says.
  aoede check && systemctl reload aoede
      Serve what it says now: only what has changed is touched.

SIGHUP, as aoede reload, reads the configuration again; one that is wrong changes nothing. SIGTERM
and SIGINT (Ctrl-C) end the daemon when it has finished what it has begun.
If anything cannot be served at the start, nothing is, and the code is 1.
It needs the capability CAP_NET_RAW.";

/// Serve all disks of a configuration, in the foreground.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ServeArgs {
    /// The configuration.
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/aoede/aoede.toml"
    )]
    config: PathBuf,

    /// Keep all rights and system calls that the process was started with.
    #[arg(long)]
    no_sandbox: bool,

    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: ServeArgs) -> anyhow::Result<()> {
    log::start(args.log);
    daemon::run(&Settings {
        config: args.config,
        sandbox: !args.no_sandbox,
    })
}
