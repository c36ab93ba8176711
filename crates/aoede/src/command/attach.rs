//! `aoede attach`: a disk on the network for programs that speak NBD.

use std::io;
use std::path::{self, PathBuf};

use anyhow::Context as _;
use aoede_initiator::{Disk, Notice, PortId};
use aoede_wire::{Address, MacAddr};
use clap::Args;
use serde::Serialize;
use tracing::{error, info, warn};

use crate::log::{self, LogArgs};
use crate::nbd::server;
use crate::nbd::service::Service;
use crate::nbd::socket::Socket;
use crate::output::{Facts, OutputArgs};
use crate::reach::{Network, ReachArgs};
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede attach e1.1 -i eth0 --socket /run/e1.1.sock
  aoede attach e1.1 -i eth0,eth1 --socket /run/e1.1.sock --read-only --json
Then, in another terminal:
  nbdinfo 'nbd+unix:///?socket=/run/e1.1.sock'
  nbdcopy --progress 'nbd+unix:///?socket=/run/e1.1.sock' disk.img
  qemu-img convert -O qcow2 'nbd+unix:///?socket=/run/e1.1.sock' disk.qcow2
  qemu-system-x86_64 -drive file='nbd+unix:///?socket=/run/e1.1.sock',format=raw,if=virtio
  nbd-client -unix /run/e1.1.sock /dev/nbd0

When clients can connect, the URI is printed. The command runs until SIGTERM or SIGINT (Ctrl-C),
then finishes and flushes what clients have asked for, removes the socket and exits.
It needs the capability CAP_NET_RAW.";

/// Offer an AoE disk to programs that speak NBD, on a Unix socket.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct AttachArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    #[command(flatten)]
    reach: ReachArgs,

    /// Where clients connect. One that a dead process has left is replaced.
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,

    /// Who may connect: permissions of the socket, in octal.
    #[arg(long, value_name = "MODE", default_value = "0600", value_parser = mode)]
    socket_mode: u32,

    /// Refuse whatever would change the disk.
    #[arg(short, long)]
    read_only: bool,

    /// Name of the disk among the exports of NBD. Clients that ask for none get it too.
    #[arg(long, value_name = "NAME", default_value = "", value_parser = name)]
    export_name: String,

    /// Clients at once; each takes 8 MiB of memory or so, and 32 MiB at most.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    connections: u16,

    #[command(flatten)]
    output: OutputArgs,

    #[command(flatten)]
    log: LogArgs,
}

pub(super) fn run(args: AttachArgs) -> anyhow::Result<()> {
    log::start(args.log);
    let path = path::absolute(&args.socket).context("cannot find the current folder")?;
    let (network, disk) = args.reach.attach(args.address)?;
    // Until here a signal ends the process; from here on there is a socket to remove.
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let service = Service::new(disk.clone(), args.export_name.clone(), args.read_only);
    let export = service.export()?;
    let socket = Socket::open(&path, args.socket_mode)?;
    args.output.print_line(&Ready {
        address: args.address.to_string(),
        uri: socket.uri(&args.export_name),
        socket: path.display().to_string(),
        export_name: args.export_name,
        size_bytes: export.bytes,
        read_only: export.read_only,
    })?;

    let most = usize::from(args.connections);
    let tell_news = || tell_news(&disk, &network, args.address);
    let served = server::run(socket, &service, &stop, most, tell_news);
    // Clients have their replies; what they did not flush themselves is flushed for them.
    let flushed = if service.has_changed() && export.flush {
        disk.flush()
    } else {
        Ok(())
    };
    served.context("clients can no longer be served")?;
    flushed.with_context(|| format!("{}: the last flush has failed", args.address))
}

/// Logs what has happened to the disk since the last time.
///
/// # Errors
/// The initiator has ended: no request can succeed any more.
fn tell_news(disk: &Disk, network: &Network, address: Address) -> io::Result<()> {
    let news = disk.info().map_err(io::Error::other)?.notices;
    let way = |port: PortId, mac: MacAddr| format!("{} to {mac}", network.name(port));
    for notice in news {
        match notice {
            Notice::PathReady { port, mac } => info!(%address, path = way(port, mac), "path found"),
            Notice::PathLost { port, mac } => warn!(%address, path = way(port, mac), "path lost"),
            Notice::ForeignDisk { port, mac, .. } => {
                error!(%address, path = way(port, mac), "another disk has the same address");
            }
            Notice::Resized { sectors } => {
                warn!(%address, sectors, "the disk has another size; clients see it when they connect anew");
            }
            Notice::FlushProvesNothing => {
                warn!(%address, "the target answers flushes without doing them");
            }
            Notice::VersionRefused => {
                error!(%address, "the target speaks another version of ATA over Ethernet");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Printed when clients can connect.
#[derive(Serialize)]
struct Ready {
    address: String,
    uri: String,
    socket: String,
    export_name: String,
    size_bytes: u64,
    read_only: bool,
}

impl Facts for Ready {
    fn text(&self) -> String {
        self.uri.clone()
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| mode & !0o777 == 0)
        .ok_or_else(|| "write permissions as chmod takes them, such as 0660".to_owned())
}

/// Names that the protocol and its clients take.
fn name(text: &str) -> Result<String, String> {
    const MOST: usize = 4096;
    if text.len() > MOST {
        return Err(format!("at most {MOST} bytes, please"));
    }
    if text.starts_with('/') || text.chars().any(char::is_control) {
        return Err("without a slash in front and without control characters, please".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_octal_permissions() {
        assert_eq!(mode("0600"), Ok(0o600));
        assert_eq!(mode("660"), Ok(0o660));
        for wrong in ["", "0o600", "1777", "rw", "680", "-600"] {
            assert!(mode(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_fit_into_a_uri_and_an_option() {
        assert!(name("").is_ok() && name("disk 1/a").is_ok());
        assert!(name(&"x".repeat(4096)).is_ok());
        for wrong in ["/disk", "a\nb", &"x".repeat(4097)] {
            assert!(name(wrong).is_err(), "{wrong}");
        }
    }
}
