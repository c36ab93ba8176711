//! The program under the name `vblade`: its predecessor's arguments, so that scripts keep working.
//!
//! What differs is for the better only: writes are always on stable storage before they are
//! acknowledged (so `-s` changes nothing), the file is locked, and SIGTERM ends it cleanly.

use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use aoede_disk::{IoMode, OpenOptions};
use aoede_wire::{Address, MacAddr};
use clap::Parser;

use crate::log::{self, LogArgs};
use crate::service::{self, EngineChoice, ExportSettings, ServiceSettings};
use crate::stop::Stop;

/// Serve a file or block device as an AoE disk (AoEde in the place of vblade).
#[derive(Debug, Parser)]
#[command(name = "vblade", version)]
pub(super) struct VbladeArgs {
    /// Requests that the target holds at once.
    #[arg(short = 'b', value_name = "BUFCNT", default_value_t = 64)]
    buffers: u16,

    /// Sectors to leave out at the beginning of the file.
    #[arg(short = 'o', value_name = "OFFSET", default_value_t = 0)]
    offset: u64,

    /// Sectors to serve.
    #[arg(short = 'l', value_name = "LENGTH")]
    length: Option<u64>,

    /// Read and write past the page cache.
    #[arg(short = 'd')]
    direct: bool,

    /// Acknowledge writes when they are stored; always so here.
    #[arg(short = 's')]
    sync: bool,

    /// Refuse writes.
    #[arg(short = 'r')]
    read_only: bool,

    /// Only these initiators may use the disk.
    #[arg(short = 'm', value_name = "MAC", value_delimiter = ',')]
    allow: Vec<MacAddr>,

    /// Shelf, 0 to 65534.
    #[arg(value_parser = clap::value_parser!(u16).range(..65535))]
    shelf: u16,

    /// Slot, 0 to 254.
    #[arg(value_parser = clap::value_parser!(u8).range(..255))]
    slot: u8,

    /// Interface to serve on; several, separated by commas, are as many paths to the disk.
    #[arg(value_delimiter = ',', num_args = 1, required = true)]
    netif: Vec<String>,

    /// File or block device to serve.
    filename: PathBuf,
}

pub(super) fn run(args: VbladeArgs) -> anyhow::Result<()> {
    log::start(LogArgs::default());
    let address = Address::new(args.shelf, args.slot)
        .with_context(|| format!("shelf {} slot {}", args.shelf, args.slot))?;
    // vblade takes any number.
    let (fewest, most) = service::BUFFERS_RANGE.into_inner();
    let buffers = args.buffers.clamp(fewest, most);
    if buffers != args.buffers {
        tracing::warn!("-b {}: using {buffers} buffers", args.buffers);
    }
    let plain = ExportSettings::new(address, args.filename);
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let settings = ServiceSettings {
        interfaces: args.netif,
        engine: EngineChoice::Auto,
        busy_poll: service::BUSY_POLL,
        export: ExportSettings {
            open: OpenOptions {
                read_only: args.read_only,
                io: if args.direct {
                    IoMode::Direct
                } else {
                    IoMode::Buffered
                },
                offset_sectors: args.offset,
                length_sectors: args.length,
                ..plain.open
            },
            allow: args.allow,
            buffers,
            ..plain
        },
    };
    service::run(&settings, stop, |backing| {
        // The line that vblade prints, for scripts that wait for it.
        let (pid, sectors) = (std::process::id(), backing.sectors);
        let mode = if backing.read_only {
            "O_RDONLY"
        } else {
            "O_RDWR"
        };
        let line = format!("pid {pid}: {address}, {sectors} sectors {mode}\n");
        // Nobody may be listening any more; the disk is served all the same.
        drop(io::stdout().lock().write_all(line.as_bytes()));
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    /// clap checks this in debug builds at each start.
    #[test]
    fn its_arguments_make_a_command_line() {
        VbladeArgs::command().debug_assert();
    }
}
