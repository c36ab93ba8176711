//! The command line: one file per subcommand. Here they are told apart, and turned into exit codes:
//! 0 for success, 1 for failure, 2 for wrong usage.

mod attach;
mod bench;
mod check;
mod completions;
mod control;
mod copy;
mod demo;
mod discover;
mod export;
mod info;
mod man;
mod probe;
mod serve;
mod set;
mod status;
mod top;
mod vblade;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::harmless;

const EXAMPLES: &str = "\
Examples:
  aoede demo
      Show all of it on this machine, without set-up and without root.
  aoede export e1.1 disk.img -i eth0
      Serve the file disk.img on the network of eth0 as AoE disk e1.1.
  aoede export e7.0 /dev/sdb -i eth0,eth1 --read-only
      Serve a block device by two paths, read-only.
  aoede attach e1.1 -i eth0 --socket /run/e1.1.sock
      Offer the AoE disk e1.1 to QEMU and other programs that speak NBD.
  aoede discover -i eth0
      List the disks on the network of eth0.

Called by the name vblade, the program takes vblade's arguments.";

/// ATA over Ethernet: serve files and block devices as disks on an Ethernet network.
#[derive(Debug, Parser)]
#[command(name = "aoede", version, after_help = EXAMPLES, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Export(export::ExportArgs),
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Status(status::StatusArgs),
    Top(top::TopArgs),
    Reload(control::ReloadArgs),
    Freeze(control::FreezeArgs),
    Thaw(control::ThawArgs),
    Resize(control::ResizeArgs),
    Drain(control::DrainArgs),
    Reset(control::ResetArgs),
    Stop(control::StopArgs),
    Discover(discover::DiscoverArgs),
    Info(info::InfoArgs),
    Attach(attach::AttachArgs),
    Copy(copy::CopyArgs),
    Bench(bench::BenchArgs),
    Probe(probe::ProbeArgs),
    Set(set::SetArgs),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    Completions(completions::CompletionsArgs),
}

/// Runs the program with these arguments, the program's name first.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let name = args.first().map(Path::new).and_then(Path::file_name);
    let (name, result) = if name.is_some_and(|name| name == "vblade") {
        let parsed = vblade::VbladeArgs::try_parse_from(args);
        ("vblade", parsed.map(vblade::run))
    } else {
        let parsed = Cli::try_parse_from(args);
        ("aoede", parsed.map(|cli| cli.command.run()))
    };
    match result {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => match error.downcast::<clap::Error>() {
            Ok(usage) => usage.exit(),
            Err(error) => {
                // Names of files and of what is on the network come into it.
                eprintln!("{}", harmless::lines(&format!("{name}: {error:#}")));
                ExitCode::FAILURE
            }
        },
        // Help and version arrive here too; clap knows where each goes and which code it takes.
        Err(usage) => usage.exit(),
    }
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Export(args) => export::run(args),
            Self::Serve(args) => serve::run(args),
            Self::Check(args) => check::run(&args),
            Self::Status(args) => status::run(&args),
            Self::Top(args) => top::run(&args),
            Self::Reload(args) => control::reload(&args),
            Self::Freeze(args) => control::freeze(&args),
            Self::Thaw(args) => control::thaw(&args),
            Self::Resize(args) => control::resize(&args),
            Self::Drain(args) => control::drain(&args),
            Self::Reset(args) => control::reset(&args),
            Self::Stop(args) => control::stop(&args),
            Self::Discover(args) => discover::run(&args),
            Self::Info(args) => info::run(&args),
            Self::Attach(args) => attach::run(args),
            Self::Copy(args) => copy::run(&args),
            Self::Bench(args) => bench::run(&args),
            Self::Probe(args) => probe::run(&args),
            Self::Set(args) => set::run(&args),
            Self::Demo(args) => demo::run(&args),
            Self::Man(args) => man::run(&args, Cli::command()),
            Self::Completions(args) => completions::run(&args, Cli::command()),
        }
    }
}

/// Wrong usage that only all arguments together show: exit code 2.
fn usage(text: &str) -> anyhow::Error {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{text}\n")).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_arguments_make_a_command_line() {
        Cli::command().debug_assert();
    }
}
