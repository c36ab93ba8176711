//! How a command reaches targets: the options that say by which interfaces and for how long, the
//! initiator on them, and errors that tell a person what to do.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aoede_initiator::{Client, ClientError, Disk, DiskInfo, MAX_PORTS, PortId, Settings, Wanted};
use aoede_link::{Interface, Monitor};
use aoede_wire::{Address, MacAddr, SECTOR_BYTES};
use clap::{Args, ValueEnum};

use crate::stop::Stop;

/// Options of every command that looks at a network.
#[derive(Args, Clone, Debug)]
pub(crate) struct InterfaceArgs {
    /// Interfaces of the network, separated by commas; several are as many paths to one disk.
    #[arg(
        short,
        long = "interface",
        value_name = "INTERFACE",
        required = true,
        value_delimiter = ',',
        value_parser = clap::builder::NonEmptyStringValueParser::new()
    )]
    interfaces: Vec<String>,
}

/// Options of every command that uses a disk on the network. `A` says what the command asks the
/// disk for beside plain AoE.
#[derive(Args, Clone, Debug)]
pub(crate) struct ReachArgs<A: Asks = ExtensionArgs> {
    #[command(flatten)]
    pub(crate) interfaces: InterfaceArgs,

    /// How long to look for the disk.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = patience)]
    pub(crate) timeout: Duration,

    /// How long the disk may be silent before a request fails.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = patience)]
    pub(crate) give_up: Duration,

    #[command(flatten)]
    pub(crate) asks: A,
}

/// Which extensions a command asks for. What a disk agrees to is in force for all programs of this
/// host that use the same disk and interface, so a command that can do without asks for none.
pub(crate) trait Asks: Args {
    /// What to ask for.
    fn wanted(&self) -> Wanted;
}

/// No extensions, and no options.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Plainly;

/// Options of commands for which extensions pay.
#[derive(Args, Clone, Debug)]
pub(crate) struct ExtensionArgs {
    /// Extensions to ask the disk for, separated by commas; of these it uses those that it knows
    /// [default: all but checksums; of copy and bench: nor congestion].
    #[arg(long, value_name = "LIST", value_enum, value_delimiter = ',')]
    extensions: Option<Vec<ExtensionName>>,

    /// Ask for no extensions: plain AoE.
    #[arg(long, conflicts_with = "extensions")]
    no_extensions: bool,
}

/// An extension, as the command line names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum ExtensionName {
    /// Several reads in one frame.
    CoalescedRead,
    /// Several write responses in one frame.
    CoalescedWriteReply,
    /// Late copies of writes do no harm.
    Tags,
    /// A checksum of four CRC-8 behind data.
    #[value(name = "crc8x4")]
    Crc8x4,
    /// A better and faster checksum, CRC-32C; of both, the disk's best is used.
    #[value(name = "crc32c")]
    Crc32c,
    /// At first, measure how many requests fit: half a second.
    Congestion,
}

impl ExtensionName {
    pub(crate) fn wanted(names: &[Self]) -> Wanted {
        let mut wanted = Wanted::NOTHING;
        for name in names {
            match name {
                Self::CoalescedRead => wanted.coalesced_read = true,
                Self::CoalescedWriteReply => wanted.coalesced_write_reply = true,
                Self::Tags => wanted.tags = true,
                Self::Crc8x4 => wanted.crc8x4 = true,
                Self::Crc32c => wanted.crc32c = true,
                Self::Congestion => wanted.congestion = true,
            }
        }
        wanted
    }
}

/// An initiator on open interfaces.
#[derive(Debug)]
pub(crate) struct Network {
    client: Client,
    /// In the order of their [`PortId`]s, as they were when they were opened.
    interfaces: Vec<Interface>,
}

impl InterfaceArgs {
    /// Opens all of them. One that is down is waited for, and said so on standard error.
    ///
    /// # Errors
    /// An interface that does not exist or is not Ethernet, or no permission for packet sockets.
    pub(crate) fn open(&self) -> anyhow::Result<Network> {
        let mut monitor = Monitor::open().context("cannot ask the kernel about interfaces")?;
        let interfaces = find(&self.interfaces, &mut monitor)?;
        let client = Client::open(&interfaces)?;
        for down in interfaces.iter().filter(|one| !one.up) {
            eprintln!(
                "aoede: {} is down: nothing passes until it is up",
                down.name
            );
        }
        Ok(Network { client, interfaces })
    }
}

impl Asks for Plainly {
    fn wanted(&self) -> Wanted {
        Wanted::NOTHING
    }
}

impl Asks for ExtensionArgs {
    fn wanted(&self) -> Wanted {
        match &self.extensions {
            _ if self.no_extensions => Wanted::NOTHING,
            Some(names) => ExtensionName::wanted(names),
            None => Wanted::default(),
        }
    }
}

impl<A: Asks> ReachArgs<A> {
    /// How a session shall behave.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            give_up: self.give_up,
            wanted: self.asks.wanted(),
            ..Settings::default()
        }
    }

    /// Opens the interfaces and attaches the disk at `address`, with the settings of these options.
    ///
    /// # Errors
    /// Those of [`InterfaceArgs::open`] and [`Network::attach`].
    pub(crate) fn attach(&self, address: Address) -> anyhow::Result<(Network, Disk)> {
        let network = self.interfaces.open()?;
        let disk = network.attach(address, self.settings(), self.timeout)?;
        Ok((network, disk))
    }
}

impl ReachArgs {
    /// The same without the measurement of congestion, for who has no half a second to lose; with
    /// it if it was asked for by name.
    pub(crate) fn settings_without_measuring(&self) -> Settings {
        let mut settings = self.settings();
        settings.wanted.congestion &= self.asks.extensions.is_some();
        settings
    }
}

impl Network {
    /// The initiator.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Name of the interface behind a port.
    pub(crate) fn name(&self, port: PortId) -> &str {
        let interface = self.interfaces.get(usize::from(port.0));
        interface.map_or("?", |interface| interface.name.as_str())
    }

    /// Names of all interfaces, as `-i` takes them.
    pub(crate) fn names(&self) -> String {
        let names: Vec<&str> = self
            .interfaces
            .iter()
            .map(|one| one.name.as_str())
            .collect();
        names.join(",")
    }

    /// Name and address of one of the interfaces.
    pub(crate) fn interface_at(&self, at: usize) -> Option<(&str, MacAddr)> {
        let interface = self.interfaces.get(at)?;
        Some((&interface.name, interface.mac))
    }

    /// Addresses of all interfaces.
    pub(crate) fn macs(&self) -> Vec<MacAddr> {
        self.interfaces.iter().map(|one| one.mac).collect()
    }

    /// Attaches the disk at `address`, which is looked for as long as `patience`.
    ///
    /// # Errors
    /// It does not answer.
    pub(crate) fn attach(
        &self,
        address: Address,
        settings: Settings,
        patience: Duration,
    ) -> anyhow::Result<Disk> {
        match self.client.attach(address, settings, patience) {
            Err(ClientError::NotFound { .. }) => {
                bail!("{}", no_answer(address, patience, &self.look_again()))
            }
            result => result.with_context(|| address.to_string()),
        }
    }

    /// The interfaces as they are now, as far as the kernel tells.
    fn look_again(&self) -> Vec<Interface> {
        let Ok(mut monitor) = Monitor::open() else {
            return self.interfaces.clone();
        };
        let now = self.interfaces.iter().map(|opened| {
            let now = monitor.interface(&opened.name).ok().flatten();
            now.unwrap_or_else(|| Interface {
                up: false,
                ..opened.clone()
            })
        });
        now.collect()
    }
}

/// Bytes of a frame before its data, from the destination MAC on (§3.1).
const BEFORE_DATA: usize = 36;

/// Bytes of a frame that carries so many sectors, from the destination MAC on.
pub(crate) fn frame_bytes(sectors: u8) -> usize {
    BEFORE_DATA + usize::from(sectors) * SECTOR_BYTES
}

/// MAC addresses as people write them.
pub(crate) fn texts(macs: &[MacAddr]) -> Vec<String> {
    macs.iter().map(MacAddr::to_string).collect()
}

/// How long answers on other interfaces may take to come after the first.
const OTHER_PATHS: Duration = Duration::from_millis(200);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What is known about a disk when all is found out about its paths, or `patience` is over.
///
/// # Errors
/// Those of [`pause`], or the initiator has ended.
pub(crate) fn settled(disk: &Disk, patience: Duration, stop: &Stop) -> anyhow::Result<DiskInfo> {
    let start = Instant::now();
    let mut notices = Vec::new();
    loop {
        let mut info = disk.info()?;
        notices.append(&mut info.notices);
        let (passed, is_settled) = (start.elapsed(), info.paths.iter().all(|path| path.settled));
        if passed >= patience || (is_settled && passed >= OTHER_PATHS) {
            info.notices = notices;
            return Ok(info);
        }
        pause(LOOK_AGAIN, stop)?;
    }
}

/// Waits for so long, or until somebody wants the command to end.
///
/// # Errors
/// Somebody does: the disk is then to be dropped as at any other end, which takes back what was
/// agreed on with it.
pub(crate) fn pause(time: Duration, stop: &Stop) -> anyhow::Result<()> {
    let until = Instant::now() + time;
    loop {
        if stop.take() {
            bail!("interrupted");
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(LOOK_AGAIN));
    }
}

/// The interfaces of these names.
fn find(names: &[String], monitor: &mut Monitor) -> anyhow::Result<Vec<Interface>> {
    if names.len() > MAX_PORTS {
        bail!(
            "{} interfaces: at most {MAX_PORTS} can be used",
            names.len()
        );
    }
    let mut seen = BTreeSet::new();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        if !seen.insert(name) {
            bail!("interface {name} is named twice");
        }
        let asked = monitor.interface(name);
        match asked.with_context(|| format!("cannot ask the kernel about {name}"))? {
            Some(interface) => found.push(interface),
            None => bail!(
                "{}",
                no_such(name, &monitor.interfaces().unwrap_or_default())
            ),
        }
    }
    Ok(found)
}

/// Names that an error lists; more are only counted.
const MOST_LISTED: usize = 16;

/// What to say of an interface that does not exist, where `all` do.
pub(crate) fn no_such(name: &str, all: &[Interface]) -> String {
    let usable = all.iter().filter(|one| one.ethernet);
    let mut usable: Vec<&str> = usable.map(|one| one.name.as_str()).collect();
    usable.sort_unstable();
    let (listed, more) = usable.split_at(usable.len().min(MOST_LISTED));
    let more = match more.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    match listed {
        [] => format!("there is no interface {name}, nor any Ethernet interface here"),
        _ => format!(
            "there is no interface {name}; there is {}{more}",
            listed.join(", ")
        ),
    }
}

fn no_answer(address: Address, patience: Duration, interfaces: &[Interface]) -> String {
    let (up, down): (Vec<&Interface>, Vec<_>) = interfaces.iter().partition(|one| one.up);
    let names = |interfaces: &[&Interface], between| {
        let names: Vec<&str> = interfaces.iter().map(|one| one.name.as_str()).collect();
        names.join(between)
    };
    let mut advice = Vec::new();
    for interface in &down {
        let name = &interface.name;
        advice.push(format!("{name} is down (ip link set {name} up)"));
    }
    if !up.is_empty() {
        let names = names(&up, ",");
        advice.push(format!("aoede discover -i {names} lists who is there"));
    }
    format!(
        "{address} does not answer on {} within {}; {}",
        names(&interfaces.iter().collect::<Vec<_>>(), " or "),
        humantime::format_duration(patience),
        advice.join("; ")
    )
}

const MIN_PATIENCE: Duration = Duration::from_millis(100);
const MAX_PATIENCE: Duration = Duration::from_secs(3600);

fn patience(text: &str) -> Result<Duration, String> {
    time_within(text, MIN_PATIENCE..=MAX_PATIENCE)
}

/// Parses a time with its unit.
///
/// # Errors
/// It is none, or out of `range`: what to tell a person.
pub(crate) fn time_within(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let time = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a time such as 500ms or 5s"))?;
    if range.contains(&time) {
        return Ok(time);
    }
    let (least, most) = range.into_inner();
    let [least, most] = [least, most].map(humantime::format_duration);
    Err(format!("from {least} to {most}, please"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        reach: ReachArgs,
    }

    fn parse(options: &[&str]) -> Result<ReachArgs, clap::Error> {
        let args = ["x", "-i", "eth0,eth1"].iter().chain(options);
        Cli::try_parse_from(args).map(|cli| cli.reach)
    }

    fn interface(name: &str, up: bool, ethernet: bool) -> Interface {
        Interface {
            index: 1,
            name: name.to_owned(),
            mac: MacAddr([2, 0, 0, 0, 0, 0x0A]),
            mtu: 1500,
            up,
            ethernet,
        }
    }

    #[test]
    fn without_options_a_command_gives_up_before_a_kernel_would() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.interfaces.interfaces, ["eth0", "eth1"]);
        assert_eq!(args.timeout, Duration::from_secs(5));
        assert_eq!(args.settings().give_up, Duration::from_secs(30));
        assert_eq!(args.settings().wanted, Wanted::default());
    }

    #[test]
    fn only_the_named_extensions_are_asked_for() {
        let wanted = |options: &[&str]| parse(options).map(|args| args.settings().wanted);
        assert_eq!(wanted(&["--no-extensions"]).unwrap(), Wanted::NOTHING);
        assert_eq!(
            wanted(&["--extensions", "tags,crc8x4"]).unwrap(),
            Wanted {
                tags: true,
                crc8x4: true,
                ..Wanted::NOTHING
            }
        );
        assert_eq!(
            wanted(&[
                "--extensions",
                "coalesced_read,coalesced_write_reply,crc32c,congestion"
            ])
            .unwrap(),
            Wanted {
                coalesced_read: true,
                coalesced_write_reply: true,
                crc32c: true,
                congestion: true,
                ..Wanted::NOTHING
            }
        );
        assert!(wanted(&["--extensions", "tag"]).is_err());
        let measures = |options: &[&str]| {
            let settings = parse(options).unwrap().settings_without_measuring();
            settings.wanted.congestion
        };
        assert!(!measures(&[]) && !measures(&["--extensions", "tags"]));
        assert!(measures(&["--extensions", "congestion"]));
        // Who names what is usual, in whatever order, has named it.
        for usual in [
            "coalesced_read,coalesced_write_reply,tags,congestion",
            "tags,congestion,coalesced_write_reply,coalesced_read",
        ] {
            assert!(measures(&["--extensions", usual]));
            let named = wanted(&["--extensions", usual]).unwrap();
            assert_eq!(named, Wanted::default());
        }
        assert!(!measures(&["--no-extensions"]));
        assert!(wanted(&["--extensions", "tags", "--no-extensions"]).is_err());
    }

    #[test]
    fn times_have_a_unit_and_a_range() {
        assert_eq!(
            parse(&["--timeout", "1500ms"]).unwrap().timeout,
            Duration::from_millis(1500)
        );
        assert_eq!(
            parse(&["--give-up", "1h"]).unwrap().give_up,
            Duration::from_secs(3600)
        );
        let error = time_within("9ms", Duration::from_millis(10)..=MAX_PATIENCE).unwrap_err();
        assert_eq!(error, "from 10ms to 1h, please");
        for wrong in ["5", "99ms", "3601s", "soon"] {
            assert!(parse(&["--timeout", wrong]).is_err(), "{wrong}");
            assert!(parse(&["--give-up", wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_those_that_exist() {
        let all = [
            interface("lo", true, false),
            interface("eth1", false, true),
            interface("eth0", true, true),
        ];
        assert_eq!(
            no_such("eht0", &all),
            "there is no interface eht0; there is eth0, eth1"
        );
        assert_eq!(
            no_such("eth0", &all[..1]),
            "there is no interface eth0, nor any Ethernet interface here"
        );
        let many: Vec<Interface> = (10..28)
            .map(|index| interface(&format!("v{index}"), true, true))
            .collect();
        let text = no_such("eth0", &many);
        assert!(text.ends_with(", v25 and 2 more"), "{text}");
    }

    #[test]
    fn an_interface_is_used_once_and_there_are_not_too_many() {
        let mut monitor = Monitor::open().unwrap();
        let names =
            |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.to_owned()).collect() };
        let error = find(&names(&["lo", "lo"]), &mut monitor).unwrap_err();
        assert_eq!(error.to_string(), "interface lo is named twice");
        let error = find(&vec!["lo".to_owned(); 17], &mut monitor).unwrap_err();
        assert_eq!(error.to_string(), "17 interfaces: at most 16 can be used");
        let found = find(&names(&["lo"]), &mut monitor).unwrap();
        assert_eq!((found[0].name.as_str(), found[0].ethernet), ("lo", false));
    }

    #[test]
    fn a_frame_has_36_bytes_before_its_sectors() {
        assert_eq!([0, 2, 17].map(frame_bytes), [36, 1060, 8740]);
    }

    #[test]
    fn silence_says_what_to_do_about_it() {
        let address = Address::new(1, 1).unwrap();
        let text =
            |interfaces: &[Interface]| no_answer(address, Duration::from_secs(5), interfaces);
        let (eth0, eth1) = (interface("eth0", true, true), interface("eth1", true, true));
        assert_eq!(
            text(&[eth0.clone(), eth1]),
            "e1.1 does not answer on eth0 or eth1 within 5s; \
             aoede discover -i eth0,eth1 lists who is there"
        );
        let eth1 = interface("eth1", false, true);
        assert_eq!(
            text(&[eth0, eth1.clone()]),
            "e1.1 does not answer on eth0 or eth1 within 5s; eth1 is down (ip link set eth1 up); \
             aoede discover -i eth0 lists who is there"
        );
        assert_eq!(
            text(&[interface("eth0", false, true), eth1]),
            "e1.1 does not answer on eth0 or eth1 within 5s; eth0 is down (ip link set eth0 up); \
             eth1 is down (ip link set eth1 up)"
        );
    }
}
