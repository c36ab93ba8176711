//! `aoede info`: what a disk on the network says of itself, and what the way to it can do.

use std::time::Duration;

use anyhow::Context as _;
use aoede_initiator::{
    Answer, ClientError, Disk, DiskInfo, Error, Features, Notice, PathInfo, Request, Wanted,
};
use aoede_wire::{Address, ConfigCommand, ReserveCommand, SECTOR_BYTES};
use clap::{Args, ValueEnum as _};
use serde::{Serialize, Serializer};

use crate::escape;
use crate::output::{self, Facts, OutputArgs};
use crate::reach::{self, Asks, ExtensionName, Network, ReachArgs};
use crate::size::Size;
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede info e1.1 -i eth0
  aoede info e1.1 -i eth0,eth1
      With a line for each path to the disk.
  aoede info e1.1 -i eth0 --json | jq .size_bytes
  aoede info e1.1 -i eth0 --extensions

Nothing is changed, and without --extensions nobody is disturbed. What the disk does not know is
shown as such, and is no failure. It needs the capability CAP_NET_RAW.";

/// Show what is known about an AoE disk, and about the paths to it.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct InfoArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    #[command(flatten)]
    reach: ReachArgs<EveryExtension>,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args, Clone, Copy, Debug)]
struct EveryExtension {
    /// Also ask which extensions the disk knows. Another program that uses extensions from this
    /// host, on the same disk and interface, loses them: not while one runs.
    #[arg(long)]
    extensions: bool,
}

impl Asks for EveryExtension {
    fn wanted(&self) -> Wanted {
        if self.extensions {
            ExtensionName::wanted(ExtensionName::value_variants())
        } else {
            Wanted::NOTHING
        }
    }
}

pub(super) fn run(args: &InfoArgs) -> anyhow::Result<()> {
    let (network, disk) = args.reach.attach(args.address)?;
    // Before, a signal ends the process at once.
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let told = ask(&disk, &stop)?;
    let info = reach::settled(&disk, args.reach.timeout, &stop)?;
    warn_of_others(args.address, &info, &network);
    let facts = DiskFacts::new(args, &info, told, &network);
    args.output.print(&facts)
}

/// How often signals are looked at.
const LOOK: Duration = Duration::from_millis(20);

/// What the control commands tell.
struct Told {
    config_string: Known<String>,
    mask: Known<Vec<String>>,
    reservation: Known<Vec<String>>,
}

/// All at once, so that a target that is silent about several is waited for once.
fn ask(disk: &Disk, stop: &Stop) -> anyhow::Result<Told> {
    let mut queue = disk.queue(3);
    queue.submit(
        0,
        Request::Config {
            command: ConfigCommand::Read,
            string: Vec::new(),
        },
    )?;
    let directives = Vec::new();
    queue.submit(1, Request::Mask { directives })?;
    queue.submit(
        2,
        Request::Reserve {
            command: ReserveCommand::Read,
            macs: Vec::new(),
        },
    )?;
    let mut told = Told {
        config_string: Known::No(UNKNOWN),
        mask: Known::No(UNKNOWN),
        reservation: Known::No(UNKNOWN),
    };
    while queue.under_way() > 0 {
        let Some(done) = queue.wait_for(LOOK) else {
            reach::pause(Duration::ZERO, stop)?;
            continue;
        };
        match (done.token, done.result) {
            (_, Ok(Answer::Config(string))) => {
                told.config_string = Known::Yes(escape::escape(&string));
            }
            (_, Ok(Answer::Mask(macs))) => told.mask = Known::Yes(reach::texts(&macs)),
            (_, Ok(Answer::Reservation(macs))) => {
                told.reservation = Known::Yes(reach::texts(&macs));
            }
            (_, Ok(_) | Err(ClientError::Failed(Error::UnknownCommand))) => {}
            (token, Err(ClientError::Failed(Error::Silent))) => match token {
                0 => told.config_string = Known::No(SILENT),
                1 => told.mask = Known::No(SILENT),
                _ => told.reservation = Known::No(SILENT),
            },
            (_, Err(error)) => return Err(error.into()),
        }
    }
    Ok(told)
}

/// Another disk at the same address is a mistake that somebody should know of.
fn warn_of_others(address: Address, info: &DiskInfo, network: &Network) {
    for notice in &info.notices {
        if let Notice::ForeignDisk {
            port,
            mac,
            identity,
        } = notice
        {
            eprintln!(
                "aoede: another disk answers at {address}, on {} from {mac}: serial \"{}\", {} \
                 sectors; it is not used",
                network.name(*port),
                identity.serial,
                identity.sectors
            );
        }
    }
}

const UNKNOWN: &str = "not known to the target";
const SILENT: &str = "no answer";

/// Something that a target may not know; then why. JSON has null for it.
enum Known<T> {
    Yes(T),
    No(&'static str),
}

impl<T: Serialize> Serialize for Known<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Yes(value) => serializer.serialize_some(value),
            Self::No(_) => serializer.serialize_none(),
        }
    }
}

impl<T> Known<T> {
    fn text(&self, tell: impl FnOnce(&T) -> String) -> String {
        match self {
            Self::Yes(value) => tell(value),
            Self::No(why) => (*why).to_owned(),
        }
    }
}

#[derive(Serialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
struct DiskFacts {
    address: String,
    model: String,
    serial: String,
    firmware: String,
    size_sectors: u64,
    size_bytes: u128,
    physical_sector_bytes: u64,
    write_cache: bool,
    flush: bool,
    /// It is answered, but not done.
    flush_is_empty: bool,
    trim: bool,
    config_string: Known<String>,
    mask: Known<Vec<String>>,
    reservation: Known<Vec<String>>,
    extensions: Known<Vec<&'static str>>,
    paths: Vec<PathFacts>,
}

#[derive(Serialize)]
struct PathFacts {
    interface: String,
    mac: String,
    ready: bool,
    sectors_per_frame: u8,
    frame_bytes: usize,
    buffer_count: u16,
    firmware: u16,
    round_trip_us: Option<u128>,
}

impl DiskFacts {
    fn new(args: &InfoArgs, info: &DiskInfo, told: Told, network: &Network) -> Self {
        let identity = &info.identity;
        let extensions = if args.reach.asks.extensions {
            Known::Yes(in_force(&info.paths))
        } else {
            Known::No("not asked for (--extensions)")
        };
        Self {
            address: args.address.to_string(),
            model: identity.model.clone(),
            serial: identity.serial.clone(),
            firmware: identity.firmware.clone(),
            size_sectors: identity.sectors,
            size_bytes: u128::from(identity.sectors) * SECTOR_BYTES as u128,
            physical_sector_bytes: (SECTOR_BYTES as u64) << identity.physical_sector_exponent,
            write_cache: identity.write_cache,
            flush: identity.flush || identity.flush_ext,
            flush_is_empty: identity.flush_is_empty,
            trim: identity.trim_blocks > 0,
            config_string: told.config_string,
            mask: told.mask,
            reservation: told.reservation,
            extensions,
            paths: info
                .paths
                .iter()
                .map(|path| PathFacts::new(path, network))
                .collect(),
        }
    }
}

impl PathFacts {
    fn new(path: &PathInfo, network: &Network) -> Self {
        let round_trip_us = path.round_trip.as_micros();
        Self {
            interface: network.name(path.port).to_owned(),
            mac: path.mac.to_string(),
            ready: path.ready,
            sectors_per_frame: path.sectors_per_frame,
            frame_bytes: reach::frame_bytes(path.sectors_per_frame),
            buffer_count: path.buffer_count,
            firmware: path.firmware,
            round_trip_us: (round_trip_us > 0).then_some(round_trip_us),
        }
    }
}

/// Extensions in force on every path in use.
fn in_force(paths: &[PathInfo]) -> Vec<&'static str> {
    let has = |extension: fn(&Features) -> bool| {
        let mut ready = paths.iter().filter(|path| path.ready).peekable();
        ready.peek().is_some() && ready.all(|path| extension(&path.features))
    };
    [
        (has(|features| features.coalesced_read), "coalesced_read"),
        (
            has(|features| features.coalesced_write_reply),
            "coalesced_write_reply",
        ),
        (has(|features| features.tags), "tags"),
        (has(|features| features.crc8x4), "crc8x4"),
        (has(|features| features.crc32c), "crc32c"),
        (has(|features| features.congestion), "congestion"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect()
}

impl Facts for DiskFacts {
    fn text(&self) -> String {
        let bytes = u64::try_from(self.size_bytes).unwrap_or(u64::MAX);
        let flush = match (self.flush, self.flush_is_empty) {
            (true, true) => "acknowledged, but proves nothing",
            (known, _) => yes_or_no(known),
        };
        let sheet = output::sheet([
            ("address", self.address.clone()),
            ("model", self.model.clone()),
            ("serial", self.serial.clone()),
            ("firmware", self.firmware.clone()),
            (
                "size",
                format!("{}, {} sectors", Size(bytes), self.size_sectors),
            ),
            (
                "physical sector",
                format!("{} bytes", self.physical_sector_bytes),
            ),
            ("write cache", yes_or_no(self.write_cache).to_owned()),
            ("flush", flush.to_owned()),
            ("trim", yes_or_no(self.trim).to_owned()),
            (
                "config string",
                self.config_string.text(|string| or(string, "empty")),
            ),
            (
                "may use it",
                self.mask.text(|macs| or(&macs.join(", "), "everyone")),
            ),
            (
                "reserved by",
                self.reservation.text(|macs| or(&macs.join(", "), "nobody")),
            ),
            (
                "extensions",
                self.extensions.text(|names| or(&names.join(", "), "none")),
            ),
        ]);
        let head = [
            ("INTERFACE", false),
            ("MAC", false),
            ("STATE", false),
            ("SECTORS", true),
            ("FRAME BYTES", true),
            ("BUFFERS", true),
            ("ROUND TRIP", true),
        ];
        let rows: Vec<_> = self.paths.iter().map(PathFacts::row).collect();
        format!("{sheet}\n{}", output::list(head, &rows))
    }
}

impl PathFacts {
    fn row(&self) -> [String; 7] {
        let state = if self.ready { "in use" } else { "silent" };
        let round_trip = self
            .round_trip_us
            .map_or_else(|| "?".to_owned(), |us| format!("{us} us"));
        [
            self.interface.clone(),
            self.mac.clone(),
            state.to_owned(),
            self.sectors_per_frame.to_string(),
            self.frame_bytes.to_string(),
            self.buffer_count.to_string(),
            round_trip,
        ]
    }
}

fn yes_or_no(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}

fn or(text: &str, empty: &str) -> String {
    if text.is_empty() { empty } else { text }.to_owned()
}
