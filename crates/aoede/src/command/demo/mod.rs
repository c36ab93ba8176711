//! `aoede demo`: a target and an initiator on a private network of their own.
//!
//! The story a newcomer reads is told here; the small initiator that plays its part is in
//! `initiator.rs`. Everything lives in a namespace that ends with the process, and in a temporary
//! folder that goes with this function.

mod initiator;

use std::io::{self, Write as _};
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::Context as _;
use aoede_disk::{IoMode, OpenOptions};
use aoede_link::namespace::{self, Privacy};
use aoede_link::{Interface, Monitor, veth};
use aoede_target::ExtensionReset;
use aoede_wire::{Address, SECTOR_BYTES};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};

use crate::log::{self, LogArgs};
use crate::service::{self, CacheSettings, EngineChoice, ExportSettings, ServiceSettings};
use crate::size::Size;
use crate::stop::{Stop, StopHandle};
use initiator::{Initiator, Rates};

const TARGET_INTERFACE: &str = "aoede-target";
const INITIATOR_INTERFACE: &str = "aoede-initiator";
const MTU: u32 = 9000;
const ADDRESS: Address = Address { shelf: 1, slot: 1 };
const DISK: Size = Size(64 << 20);
/// How much of the disk is written and read back.
const PATTERN: Size = Size(8 << 20);

const EXAMPLES: &str = "\
Examples:
  aoede demo
  aoede demo --seconds 10
  aoede demo --keep
      Leave the target running, and say how to look at it.";

/// Show it all on this machine: a target, an initiator and a network of their own.
///
/// Needs no set-up and no root, and leaves nothing behind.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct DemoArgs {
    /// Leave the target running until Ctrl-C, and print commands to play with.
    #[arg(long)]
    keep: bool,

    /// How long to measure random reads.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,

    /// Show the target's log, too.
    #[arg(short, long)]
    verbose: bool,
}

pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    if args.verbose {
        log::start(LogArgs {
            verbose: true,
            json_log: false,
        });
    }
    // First of all: a process with threads cannot change its namespaces.
    let privacy = namespace::enter_private()?;
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    let mut stage = Stage::new();

    Stage::tell("AoEde demo: a disk over Ethernet, all of it on this machine.\n\n")?;
    let (target_end, initiator_end) = network(&stop)?;
    stage.step(
        "A network",
        &[
            &format!(
                "two interfaces joined by a virtual cable, MTU {MTU}, in a namespace of their own:"
            ),
            &format!(
                "{TARGET_INTERFACE} {} <---> {INITIATOR_INTERFACE} {}",
                target_end.mac, initiator_end.mac
            ),
        ],
    )?;

    let folder = tempfile::Builder::new()
        .prefix("aoede-demo-")
        .tempdir()
        .context("cannot make a temporary folder; is TMPDIR right?")?;
    let image = folder.path().join("disk.img");
    let target = RunningTarget::start(&image)?;
    stage.step(
        "A target",
        &[
            &format!("aoede export {ADDRESS} disk.img -i {TARGET_INTERFACE} --create 64MiB"),
            &format!(
                "{} holds {DISK} and takes up none yet: it is sparse",
                image.display()
            ),
        ],
    )?;

    let result = show(
        &mut stage,
        &stop,
        &initiator_end,
        Duration::from_secs(args.seconds),
    )
    .and_then(|()| {
        if args.keep {
            keep(&mut stage, &stop, privacy)
        } else {
            Ok(())
        }
    });
    // If the target failed, what the initiator saw of it is only the consequence.
    target.stop().and(result)?;
    drop(folder);
    Stage::tell(
        "\nThe target has stopped; network and image are gone.\n\
         Next: the quick start in README.md, or aoede export --help.\n",
    )
}

/// Makes the two interfaces, and waits until both ends know that the cable is in.
fn network(stop: &Stop) -> anyhow::Result<(Interface, Interface)> {
    let mut monitor = Monitor::open().context("cannot ask the kernel about interfaces")?;
    veth::create_pair(TARGET_INTERFACE, INITIATOR_INTERFACE, MTU)
        .context("cannot make a pair of virtual interfaces (veth)")?;
    for name in [TARGET_INTERFACE, INITIATOR_INTERFACE] {
        veth::set_up(name, true).with_context(|| format!("cannot switch {name} on"))?;
    }
    loop {
        // Read the news first: what changes after the look below wakes the wait.
        while monitor.poll()?.is_some() {}
        let target_end = monitor.interface(TARGET_INTERFACE)?;
        let initiator_end = monitor.interface(INITIATOR_INTERFACE)?;
        match (target_end, initiator_end) {
            (Some(target), Some(initiator)) if target.up && initiator.up => {
                return Ok((target, initiator));
            }
            _ => wait_for(&monitor, stop)?,
        }
    }
}

/// Waits for news about the interfaces; an error if a stop was asked for instead.
fn wait_for(monitor: &Monitor, stop: &Stop) -> anyhow::Result<()> {
    let mut fds = [
        PollFd::new(monitor, PollFlags::IN),
        PollFd::new(stop, PollFlags::IN),
    ];
    match poll(&mut fds, None) {
        Ok(_) if stop.take() => anyhow::bail!("interrupted"),
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(io::Error::from(error)).context("waiting for the interfaces"),
    }
}

/// The part of the initiator.
fn show(
    stage: &mut Stage,
    stop: &Stop,
    interface: &Interface,
    measured: Duration,
) -> anyhow::Result<()> {
    let mut initiator = Initiator::open(interface, stop)?;

    let found = initiator.discover(ADDRESS)?;
    stage.step(
        "Who is there?",
        &[
            "one broadcast frame asks every target of the network; one answers:",
            &format!(
                "{ADDRESS} at {}: holds {} requests, takes {} sectors ({}) a frame",
                found.mac,
                found.buffers,
                found.sectors_per_frame,
                Size(u64::from(found.sectors_per_frame) * SECTOR_BYTES as u64),
            ),
        ],
    )?;

    let identity = initiator.identify()?;
    stage.step(
        "What are you?",
        &[&format!(
            "IDENTIFY DEVICE: model \"{}\", serial \"{}\", {} sectors = {}",
            identity.model,
            identity.serial,
            identity.sectors,
            Size(identity.sectors * SECTOR_BYTES as u64),
        )],
    )?;

    let wrote = initiator.write_pattern(PATTERN.0)?;
    stage.step(
        "Write",
        &[
            &format!(
                "a pattern of {PATTERN} in {} frames, {}",
                wrote.requests,
                megabytes(&wrote)
            ),
            "each one acknowledged when it was on stable storage, not before",
        ],
    )?;

    let read = initiator.verify_pattern(PATTERN.0)?;
    stage.step(
        "Read it back",
        &[&format!(
            "every byte is as it was written; {}",
            megabytes(&read)
        )],
    )?;

    let random = initiator.random_reads(PATTERN.0, measured)?;
    stage.step(
        "Random reads",
        &[&format!(
            "{} reads of 4 KiB, 16 at a time: {} a second, half of them under {} µs, 99 % under {} µs",
            random.requests,
            random.per_second(),
            random.percentile(50).as_micros(),
            random.percentile(99).as_micros(),
        )],
    )
}

fn megabytes(rates: &Rates) -> String {
    format!("{} MB/s", rates.bytes_per_second() / 1_000_000)
}

/// Waits for Ctrl-C, after saying what can be done meanwhile.
fn keep(stage: &mut Stage, stop: &Stop, privacy: Privacy) -> anyhow::Result<()> {
    let pid = std::process::id();
    let enter = match privacy {
        Privacy::Network => format!("nsenter -t {pid} -n"),
        Privacy::UserAndNetwork => format!("nsenter -t {pid} -U -n --preserve-credentials"),
    };
    stage.step(
        "It keeps running",
        &[
            "until Ctrl-C. In another terminal:",
            &format!("{enter} ip -s link show {TARGET_INTERFACE}"),
            &format!("{enter} tcpdump -e -XX -i {TARGET_INTERFACE} ether proto 0x88a2"),
            &format!("{enter} aoeping 1 1 {INITIATOR_INTERFACE}    (Debian package aoetools)"),
        ],
    )?;
    let mut fds = [PollFd::new(stop, PollFlags::IN)];
    while !stop.take() {
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error)).context("waiting for Ctrl-C"),
        }
    }
    Ok(())
}

/// A target on a thread of its own.
struct RunningTarget {
    handle: StopHandle,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl RunningTarget {
    fn start(image: &Path) -> anyhow::Result<Self> {
        let (stop, handle) = Stop::by_hand().context("cannot prepare the target's stop")?;
        let settings = ServiceSettings {
            interfaces: vec![TARGET_INTERFACE.to_owned()],
            engine: EngineChoice::Auto,
            busy_poll: service::BUSY_POLL,
            export: ExportSettings {
                address: ADDRESS,
                path: image.to_owned(),
                open: OpenOptions {
                    io: IoMode::Direct,
                    create_bytes: Some(DISK.0),
                    ..OpenOptions::default()
                },
                allow: Vec::new(),
                buffers: 64,
                cache: CacheSettings::default(),
                freeze: None,
                extension_reset: ExtensionReset::default(),
            },
        };
        let thread = std::thread::Builder::new()
            .name("target".to_owned())
            .spawn(move || service::run(&settings, stop, |_| ()))
            .context("cannot start a thread for the target")?;
        Ok(Self { handle, thread })
    }

    /// Stops the target, and tells how it fared.
    fn stop(self) -> anyhow::Result<()> {
        // An error means that it has stopped by itself; the result below says why.
        drop(self.handle.stop());
        match self.thread.join() {
            Ok(result) => result.context("the target failed"),
            Err(_) => anyhow::bail!("the target panicked"),
        }
    }
}

/// Where the story is told: numbered steps on standard output.
struct Stage {
    steps: u32,
}

impl Stage {
    fn new() -> Self {
        Self { steps: 0 }
    }

    fn step(&mut self, title: &str, lines: &[&str]) -> anyhow::Result<()> {
        self.steps += 1;
        let mut head = format!("{}. {title}", self.steps);
        for line in lines {
            Self::tell(&format!("{head:<20} {line}\n"))?;
            head.clear();
        }
        Ok(())
    }

    fn tell(text: &str) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .context("cannot write to standard output")
    }
}
