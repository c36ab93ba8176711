//! `aoede`: an ATA-over-Ethernet target.

use std::process::ExitCode;

fn main() -> ExitCode {
    aoede::command::run(std::env::args_os())
}
