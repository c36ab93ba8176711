//! `aoede bench`: how fast a disk on the network is, seen from here, with everything that the
//! initiator does.
//!
//! `plan.rs` says what is asked for, `report.rs` what came of it; here is the loop.

mod plan;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use aoede_initiator::{Completion, Disk, Queue, Request};
use aoede_wire::{Address, SECTOR_BYTES};
use clap::{Args, ValueEnum};

use self::plan::{Plan, Random, Workload};
use self::report::{Counts, Report};
use super::usage;
use crate::output::OutputArgs;
use crate::reach::{self, ReachArgs};
use crate::size::Size;
use crate::stop::Stop;

const EXAMPLES: &str = "\
Examples:
  aoede bench e1.1 -i eth0
      Random reads of 4 KiB, 16 at a time, for 5 seconds.
  aoede bench e1.1 -i eth0 --rw read --block-size 256k
      The disk in order, as a copy reads it.
  aoede bench e1.1 -i eth0 --rw randrw --mix 70 --destroy-data --json
      Seven reads on three writes. Writing fills the disk with noise.
  aoede bench e1.1 -i eth0 --coalesce off

It needs the capability CAP_NET_RAW.";

/// Measure how fast an AoE disk is.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    /// Address of the disk, such as e1.1.
    address: Address,

    #[command(flatten)]
    reach: ReachArgs,

    /// What to do.
    #[arg(long, value_enum, default_value_t = Workload::RandRead)]
    rw: Workload,

    /// With randrw: so many of a hundred requests read [default: 70].
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    mix: Option<u8>,

    /// Size of one request, whole sectors of 512 bytes, at most 16MiB.
    #[arg(long, value_name = "SIZE", default_value = "4k", value_parser = block_size)]
    block_size: Size,

    /// Requests under way at once.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    queue_depth: u16,

    /// How long to measure.
    #[arg(long, value_name = "N", default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,

    /// For so many seconds before, work that does not count.
    #[arg(long, value_name = "N", default_value_t = 0.5, value_parser = seconds_or_none)]
    warm_up: f64,

    /// Whether reads and write responses may share frames, where the disk knows how.
    #[arg(long, value_enum, default_value_t = Coalesce::On)]
    coalesce: Coalesce,

    /// Where random addresses start.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,

    /// Needed for writing: what is on the disk is lost.
    #[arg(long)]
    destroy_data: bool,

    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Coalesce {
    On,
    Off,
}

/// Most memory for buffers.
const MOST_BYTES: u64 = 1 << 30;
const MOST_BLOCK: u64 = 16 << 20;
/// How often signals are looked at, and whether paths are settled.
const LOOK: Duration = Duration::from_millis(20);
const SHARE_OF_READS: u8 = 70;

pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    if args.rw.writes() && !args.destroy_data {
        return Err(usage(&format!(
            "this overwrites {}; add --destroy-data if what is on it may be lost",
            args.address
        )));
    }
    if args.mix.is_some() && args.rw != Workload::RandRw {
        return Err(usage("--mix goes with --rw randrw"));
    }
    // Reads and writes have buffers of their own.
    let memory = 2 * args.block_size.0 * u64::from(args.queue_depth);
    if memory > MOST_BYTES {
        return Err(usage(&format!(
            "so many requests of this size need {} of memory; at most {}, please",
            Size(memory),
            Size(MOST_BYTES)
        )));
    }
    let mut settings = args.reach.settings_without_measuring();
    settings.requests = settings.requests.max(args.queue_depth);
    if args.coalesce == Coalesce::Off {
        settings.wanted.coalesced_read = false;
        settings.wanted.coalesced_write_reply = false;
    }
    let network = args.reach.interfaces.open()?;
    let disk = network.attach(args.address, settings, args.reach.timeout)?;
    // A signal that comes before ends the process at once; from here on the disk is to be taken
    // leave of.
    let stop = Stop::on_signals().context("cannot prepare for signals")?;
    // With measuring frame sizes, or congestion, nothing else shall be measured.
    reach::settled(&disk, args.reach.timeout, &stop)?;
    let report = measure(args, &disk, &stop)?;
    args.output.print(&report)
}

fn measure(args: &BenchArgs, disk: &Disk, stop: &Stop) -> anyhow::Result<Report> {
    let sectors = disk.info()?.identity.sectors;
    let mix = args.mix.unwrap_or(SHARE_OF_READS);
    let plan = Plan::new(
        args.rw,
        mix,
        args.block_size.0 / SECTOR_BYTES as u64,
        sectors,
        args.seed,
    );
    let Some(plan) = plan else {
        bail!(
            "{} has {sectors} sectors: less than one block of {}",
            args.address,
            args.block_size
        );
    };
    let mut load = Load::new(disk, plan, args, stop);
    load.work(Duration::from_secs_f64(args.warm_up))?;
    load.counts = Counts::new();
    let before = disk.info()?;
    let start = Instant::now();
    load.work(Duration::from_secs_f64(args.seconds))?;
    let took = start.elapsed();
    let after = disk.info()?;
    let counts = std::mem::replace(&mut load.counts, Counts::new());
    load.drain()?;
    let mut report = Report::new(&counts, args.block_size.0, took);
    report.address = args.address.to_string();
    report.workload = Some(args.rw);
    report.read_percent = (args.rw == Workload::RandRw).then_some(mix);
    report.queue_depth = args.queue_depth;
    report.coalesce = args.coalesce == Coalesce::On;
    report.seed = args.seed;
    report.count_frames(&before.stats, &after.stats);
    report.sectors_per_frame = after
        .paths
        .iter()
        .filter(|path| path.ready)
        .map(|path| path.sectors_per_frame)
        .max();
    Ok(report)
}

/// The requests under way.
struct Load<'a> {
    stop: &'a Stop,
    queue: Queue,
    plan: Plan,
    depth: usize,
    /// By token: when it was made, and whether it writes.
    made: Vec<(Instant, bool)>,
    /// Tokens that are free.
    free: Vec<u64>,
    to_read: Vec<Vec<u8>>,
    to_write: Vec<Vec<u8>>,
    counts: Counts,
    address: Address,
}

impl<'a> Load<'a> {
    fn new(disk: &Disk, plan: Plan, args: &BenchArgs, stop: &'a Stop) -> Self {
        let depth = usize::from(args.queue_depth);
        let block = usize::try_from(args.block_size.0).unwrap_or(0);
        let mut random = Random::new(args.seed ^ 0x5EED);
        let mut noise = || {
            let numbers = (0..block / 8).flat_map(|_| random.number().to_le_bytes());
            numbers.collect::<Vec<u8>>()
        };
        let (mut to_read, mut to_write) = (Vec::new(), Vec::new());
        for _ in 0..depth {
            if args.rw.writes() {
                to_write.push(noise());
            }
            if !matches!(args.rw, Workload::Write | Workload::RandWrite) {
                to_read.push(vec![0; block]);
            }
        }
        Self {
            stop,
            queue: disk.queue(depth),
            plan,
            depth,
            made: vec![(Instant::now(), false); depth],
            free: (0..depth as u64).collect(),
            to_read,
            to_write,
            counts: Counts::new(),
            address: args.address,
        }
    }

    /// Keeps all requests under way for so long; what is finished by then counts.
    fn work(&mut self, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        let mut look = Instant::now() + LOOK;
        loop {
            if look <= Instant::now() {
                look = Instant::now() + LOOK;
                if self.stop.take() {
                    bail!("interrupted");
                }
            }
            while self.queue.under_way() < self.depth && self.submit() {}
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            if let Some(done) = self.queue.wait_for(left.min(LOOK)) {
                let now = Instant::now();
                let (took, write) = self.take_back(done, now)?;
                if now <= end {
                    self.counts.record(took, write);
                }
            }
        }
    }

    /// Waits for what is under way.
    fn drain(&mut self) -> anyhow::Result<()> {
        while self.queue.under_way() > 0 {
            if self.stop.take() {
                bail!("interrupted");
            }
            if let Some(done) = self.queue.wait_for(LOOK) {
                self.take_back(done, Instant::now())?;
            }
        }
        Ok(())
    }

    fn submit(&mut self) -> bool {
        let step = self.plan.next();
        let buffers = if step.write {
            &mut self.to_write
        } else {
            &mut self.to_read
        };
        let (Some(token), Some(buffer)) = (self.free.pop(), buffers.pop()) else {
            return false;
        };
        let lba = step.lba;
        let request = if step.write {
            Request::Write { lba, buffer }
        } else {
            Request::Read { lba, buffer }
        };
        if let Some(made) = self
            .made
            .get_mut(usize::try_from(token).unwrap_or(usize::MAX))
        {
            *made = (Instant::now(), step.write);
        }
        self.queue.submit(token, request).is_ok()
    }

    /// How long a request took, and whether it wrote.
    fn take_back(&mut self, done: Completion, now: Instant) -> anyhow::Result<(Duration, bool)> {
        let made = self
            .made
            .get(usize::try_from(done.token).unwrap_or(usize::MAX));
        let (made, write) = made.copied().unwrap_or((now, false));
        done.result.with_context(|| {
            let doing = if write { "writing" } else { "reading" };
            format!("{}: {doing}", self.address)
        })?;
        self.free.push(done.token);
        let buffers = if write {
            &mut self.to_write
        } else {
            &mut self.to_read
        };
        buffers.extend(done.buffer);
        Ok((now.duration_since(made), write))
    }
}

fn block_size(text: &str) -> Result<Size, String> {
    let size: Size = text
        .parse()
        .map_err(|error: crate::size::SizeError| error.to_string())?;
    if size.0 == 0 || !size.0.is_multiple_of(SECTOR_BYTES as u64) || size.0 > MOST_BLOCK {
        return Err("whole sectors of 512 bytes, at most 16MiB, please".to_owned());
    }
    Ok(size)
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = seconds_or_none(text)?;
    if seconds < 0.01 {
        return Err("at least 0.01, please".to_owned());
    }
    Ok(seconds)
}

fn seconds_or_none(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "it is a number of seconds".to_owned())
}
