//! `aoede-bench load`, `aoede-bench responder` and `aoede-bench probe`, see the library.
#![forbid(unsafe_code)]

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use aoede_bench::{
    load::{self, Extent, MAX_DEPTH, Report, Waiting, Workload},
    probe, process, responder,
};
use aoede_wire::Address;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Measure AoE targets.
#[derive(Parser, Debug)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Load(LoadArgs),
    Responder(ResponderArgs),
    Probe(ProbeArgs),
}

/// Ask a target as fast as one core can, and tell how fast it answers.
#[derive(Args, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct LoadArgs {
    /// Address of the target, such as e1.1.
    address: Address,
    /// Interface to find it on.
    #[arg(short, long)]
    interface: String,
    /// What to do: read, write, randread or randwrite. Writing destroys what is on the disk.
    #[arg(long, default_value = "randread")]
    rw: Workload,
    /// Bytes of one request.
    #[arg(long, value_name = "BYTES", default_value_t = 4096)]
    block_size: u32,
    /// Requests under way.
    #[arg(long, default_value_t = 16, value_parser = depth)]
    depth: usize,
    /// Make so many requests at a time, when as many are answered.
    #[arg(long, default_value_t = 1)]
    group: usize,
    /// Put the reads of a group into one frame (the extension `coalesced_read`).
    #[arg(long)]
    coalesce: bool,
    /// Let the target answer several writes in one frame (the extension `coalesced_write_reply`).
    #[arg(long)]
    write_replies: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    seconds: f64,
    /// Instead, ask for so many bytes, as whole requests: the size of the disk for all of it once.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["seconds", "warm_up"])]
    bytes: Option<u64>,
    /// How long to run before it counts.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5, value_parser = seconds)]
    warm_up: f64,
    /// End with a flush that counts, so that everything written is on stable storage, if the
    /// target is honest. There is one after the warm-up, too.
    #[arg(long)]
    flush: bool,
    /// Only the first bytes of the disk.
    #[arg(long, value_name = "BYTES")]
    range: Option<u64>,
    /// Repeat a request that is not answered after this.
    #[arg(long, value_name = "MILLISECONDS", default_value_t = 500)]
    timeout: u64,
    /// How to wait for frames.
    #[arg(long, value_enum, default_value_t = Wait::Spin)]
    wait: Wait,
    /// Run on this core only.
    #[arg(long, value_name = "CORE")]
    cpu: Option<usize>,
    /// Tell how much processor time this process uses meanwhile.
    #[arg(long, value_name = "PID")]
    watch: Option<u32>,
    /// Tell how much of this core's time is used meanwhile, whoever uses it.
    #[arg(long, value_name = "CORE")]
    watch_core: Option<usize>,
    /// Compare some blocks with this file before the measurement.
    #[arg(long, value_name = "FILE")]
    verify: Option<PathBuf>,
    /// Where random addresses start.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// Answer as a disk of zeros, without doing any I/O.
#[derive(Args, Debug)]
struct ResponderArgs {
    /// Its address, such as e1.1.
    address: Address,
    /// Interface to answer on.
    #[arg(short, long)]
    interface: String,
    /// Size of the disk.
    #[arg(long, default_value_t = 1 << 20)]
    sectors: u64,
}

/// Measure how many requests a target's receive buffer holds, again and again, and print for each
/// time how many probes were answered.
#[derive(Args, Debug)]
struct ProbeArgs {
    /// Address of the target, such as e1.1.
    address: Address,
    /// Interface to find it on.
    #[arg(short, long)]
    interface: String,
    /// Frames of one measurement.
    #[arg(long, default_value_t = 256)]
    probes: u32,
    /// Measurements, one every 2.2 s.
    #[arg(long, default_value_t = 1)]
    times: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Wait {
    /// Look at the ring all the time.
    Spin,
    /// Sleep when there is nothing to do.
    Poll,
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aoede-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Load(args) => {
            if let Some(core) = args.cpu {
                process::pin(core)?;
            }
            let json = args.json;
            let report = load::run(&args.into())?;
            let mut out = io::stdout().lock();
            if json {
                serde_json::to_writer_pretty(&mut out, &report)?;
                writeln!(out)?;
            } else {
                print(&mut out, &report)?;
            }
            Ok(())
        }
        Command::Probe(args) => {
            let settings = probe::Settings {
                address: args.address,
                interface: args.interface,
                probes: args.probes,
                times: args.times,
            };
            // If nobody reads it any more, it ends by itself.
            probe::run(&settings, |answered| {
                let _gone = writeln!(io::stdout(), "{answered}");
            })
        }
        Command::Responder(args) => {
            let address = args.address;
            let settings = responder::Settings {
                address,
                interface: args.interface,
                sectors: args.sectors,
            };
            responder::run(&settings, || eprintln!("serving {address}"))
        }
    }
}

impl From<LoadArgs> for load::Settings {
    fn from(args: LoadArgs) -> Self {
        Self {
            address: args.address,
            interface: args.interface,
            workload: args.rw,
            block_bytes: args.block_size,
            depth: args.depth,
            group: args.group,
            coalesce: args.coalesce,
            write_replies: args.write_replies,
            extent: args.bytes.map_or_else(
                || Extent::Time(Duration::from_secs_f64(args.seconds)),
                |bytes| Extent::Blocks(bytes / u64::from(args.block_size).max(1)),
            ),
            warm_up: if args.bytes.is_some() {
                Duration::ZERO
            } else {
                Duration::from_secs_f64(args.warm_up)
            },
            flush: args.flush,
            range_bytes: args.range,
            patience: Duration::from_millis(args.timeout),
            waiting: match args.wait {
                Wait::Spin => Waiting::Spin,
                Wait::Poll => Waiting::Poll,
            },
            verify: args.verify,
            watch: args.watch,
            watch_core: args.watch_core,
            seed: args.seed,
        }
    }
}

fn print(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    let Report {
        workload,
        block_bytes,
        depth,
        seconds,
        ops,
        latency,
        ..
    } = report;
    writeln!(
        out,
        "{} {block_bytes} bytes, {depth} outstanding: {ops} in {seconds:.2} s",
        workload.name()
    )?;
    writeln!(
        out,
        "{:.0} operations/s, {:.1} MB/s",
        report.ops_per_second,
        report.bytes_per_second / 1e6
    )?;
    writeln!(
        out,
        "latency us: min {:.1} mean {:.1} p50 {:.1} p90 {:.1} p99 {:.1} p99.9 {:.1} max {:.1}",
        latency.min_us,
        latency.mean_us,
        latency.p50_us,
        latency.p90_us,
        latency.p99_us,
        latency.p999_us,
        latency.max_us
    )?;
    if let Some(flush) = report.flush_seconds {
        writeln!(out, "of the time, the flush: {flush:.3} s")?;
    }
    if let Some(seconds) = report.target_cpu_seconds {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let per_million = seconds / (*ops).max(1) as f64 * 1e6;
        writeln!(
            out,
            "target: {seconds:.2} CPU s, {per_million:.2} per million operations"
        )?;
    }
    writeln!(
        out,
        "frames sent: {}, with answers: {}, sent again: {}, strays: {}, lost at the ring: {}, \
         blocks verified: {}",
        report.request_frames,
        report.response_frames,
        report.retransmissions,
        report.strays,
        report.ring_drops,
        report.verified_blocks
    )
}

fn depth(text: &str) -> Result<usize, String> {
    let depth = text.parse().ok();
    let depth = depth.filter(|depth| (1..=MAX_DEPTH).contains(depth));
    depth.ok_or_else(|| format!("it is a number from 1 to {MAX_DEPTH}"))
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().ok();
    let seconds = seconds.filter(|seconds| (0.0..86_400.0).contains(seconds));
    seconds.ok_or_else(|| "it is a number of seconds".to_owned())
}
