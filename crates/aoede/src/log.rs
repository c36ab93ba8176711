//! Where log lines go: to standard error, for people or, with `--json-log`, for programs.
//!
//! Levels: `error`, an operator must act; `warn`, something was lost or will be; `info`, what an
//! operator did or the network changed; `debug`, details of these. Nothing is logged per frame.

use std::io::IsTerminal as _;

use clap::Args;
use tracing_subscriber::filter::LevelFilter;

/// Options of every command that logs.
#[derive(Args, Clone, Copy, Debug, Default)]
pub(crate) struct LogArgs {
    /// Write log lines as JSON objects.
    #[arg(long)]
    pub(crate) json_log: bool,

    /// Log more: also what is of use only when looking for a fault.
    #[arg(short, long)]
    pub(crate) verbose: bool,
}

/// Starts logging; the first call in a process wins.
pub(crate) fn start(args: LogArgs) {
    let level = if args.verbose {
        LevelFilter::DEBUG
    } else {
        LevelFilter::INFO
    };
    let lines = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_max_level(level);
    let started = if args.json_log {
        lines.json().flatten_event(true).try_init()
    } else {
        lines.try_init()
    };
    // An error means that logging runs already, as in a test that starts two services.
    drop(started);
}
