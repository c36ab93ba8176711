//! `cargo xtask bench`: ours and its rivals at the same work in the same run, by turns.
//!
//! `rows.rs` says what is measured, `lab.rs` does it, `fio.rs` is the rival without a network,
//! `syscalls.rs`, `page_cache.rs`, `idle.rs`, `extensions.rs`, `copy.rs` and `many.rs` measure what
//! is no row, `report.rs` makes figures of the samples and writes them, `images.rs` makes the files,
//! `machine.rs` looks where all this happens, `interrupt.rs` ends it early and clean.

mod copy;
mod extensions;
mod fio;
mod idle;
mod images;
mod interrupt;
mod lab;
mod machine;
mod many;
mod page_cache;
mod report;
mod rows;
mod syscalls;

use std::{
    env, fs,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aoede_e2e::target_folder;
use clap::Args;

use images::Sizes;
use interrupt::Interrupt;
use lab::{Cores, Lab, Timing};
use report::{Header, RowResult, Table};
use rows::Row;

/// Above this the machine is not quiet.
const QUIET: f64 = 0.05;

/// Measure ours, vblade, a responder without I/O and local fio at the same work, by turns.
///
/// Needs root and two cores that have nothing else to do. The first run fetches the rivals as
/// Debian packages and unpacks them under target/lab; nothing is installed. The tables go to the
/// standard output, and with all samples to target/bench.
#[derive(Args, Debug)]
#[command(after_help = rows::help())]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
pub(crate) struct Arguments {
    /// Measure only these rows, such as 1,2,5
    #[arg(long, value_name = "ROWS", value_delimiter = ',')]
    rows: Vec<String>,
    /// How often everybody has a turn
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// Seconds of a turn that count
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: Option<u32>,
    /// Two rounds of one second with small files, to see whether everything works
    #[arg(long)]
    quick: bool,
    /// Count the targets' system calls instead, at 16 and 64 outstanding requests
    #[arg(long, conflicts_with_all = ["rounds", "rows", "write_docs"])]
    syscalls: bool,
    /// Look instead at how much of a file is in the page cache after it was read once
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "rows", "syscalls"])]
    page_cache: bool,
    /// Look instead at what an export costs that nobody asks
    #[arg(long, conflicts_with_all = ["rounds", "seconds", "rows", "syscalls", "page_cache"])]
    idle: bool,
    /// Measure instead what the extensions save, and what measuring congestion costs others
    #[arg(long, conflicts_with_all = ["rows", "syscalls", "page_cache", "idle"])]
    extensions: bool,
    /// Measure instead how fast a disk is copied to a file, compared with only reading it
    #[arg(long, conflicts_with_all = ["rows", "syscalls", "page_cache", "idle", "extensions"])]
    copy: bool,
    /// Measure instead what 255 idle exports cost a busy one in the same process, and themselves
    #[arg(long, conflicts_with_all = ["rows", "syscalls", "page_cache", "idle", "extensions", "copy"])]
    many: bool,
    /// MiB of the file in memory
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
    /// MiB of the file on disk
    #[arg(long, value_name = "MIB")]
    disk_mib: Option<u64>,
    /// The core of the target, and of local fio
    #[arg(long, value_name = "CORE", default_value_t = 0)]
    target_core: usize,
    /// The core of the load generator
    #[arg(long, value_name = "CORE", default_value_t = 1)]
    load_core: usize,
    /// Have each end's receive work done on its own core, at the price of interrupts between cores
    #[arg(long)]
    steer: bool,
    /// Put the tables into docs/benchmarks.md
    #[arg(long, conflicts_with = "quick")]
    write_docs: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let rows = rows::choose(&arguments.rows)?;
    ensure!(
        rustix::process::geteuid().is_root(),
        "measuring needs root, for network namespaces and packet sockets: \
         sudo env \"PATH=$PATH\" \"HOME=$HOME\" CARGO_TARGET_DIR=target/root cargo xtask bench"
    );
    let cores = Cores {
        target: arguments.target_core,
        load: arguments.load_core,
        // What frames cost is paid where they are received.
        steer: arguments.steer || arguments.extensions,
    };
    check(cores)?;
    let interrupt = Interrupt::install()?;
    build()?;
    let (rounds, seconds, sizes) = if arguments.quick {
        (2, 1, Sizes::mib(64, 256))
    } else {
        (
            5,
            5,
            Sizes::mib(if arguments.copy { 1024 } else { 512 }, 2048),
        )
    };
    let sizes = Sizes {
        memory_bytes: arguments.memory_mib.map_or(sizes.memory_bytes, mib),
        disk_bytes: arguments.disk_mib.map_or(sizes.disk_bytes, mib),
        ..sizes
    };
    let timing = Timing {
        rounds: arguments.rounds.unwrap_or(rounds),
        measure: Duration::from_secs(arguments.seconds.unwrap_or(seconds).into()),
        warm_up: Duration::from_millis(500),
    };
    let busy = machine::busy();
    if busy > QUIET {
        say(&format!(
            "WARNING: the cores are {:.0} % busy with other things; the figures will tell of those",
            busy * 100.0
        ));
    }
    if let Some(subject) = arguments.subject() {
        let (sizes, timing) = subject.needs(sizes, timing);
        let lab = Lab::open(sizes, cores, timing, interrupt)?;
        let table = subject.measure(&lab)?;
        drop(lab);
        let header = Header::new(cores, timing, sizes, busy);
        report::publish_table(&header, &table)?;
        if arguments.write_docs {
            report::write_docs_table(&header, &table)?;
        }
        return Ok(());
    }
    let header = Header::new(cores, timing, sizes, busy);
    let only = |wanted| rows.iter().all(|row| row.image == wanted);
    let lab = Lab::open(sizes.only_for(only), cores, timing, interrupt)?;
    let results = measure(&lab, &rows, timing.rounds)?;
    drop(lab);
    report::publish(&header, &results)?;
    if arguments.write_docs {
        report::write_docs(&header, &results)?;
    }
    let failures: usize = results.iter().map(RowResult::failures).sum();
    ensure!(
        failures == 0,
        "{failures} turns failed; they are missing in the figures"
    );
    Ok(())
}

/// What is measured instead of rows.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Syscalls,
    PageCache,
    Idle(idle::Pace),
    Extensions,
    Copy,
    Many(idle::Pace),
}

impl Arguments {
    fn subject(&self) -> Option<Subject> {
        if self.syscalls {
            Some(Subject::Syscalls)
        } else if self.page_cache {
            Some(Subject::PageCache)
        } else if self.idle {
            Some(Subject::Idle(idle::Pace::new(self.quick)))
        } else if self.extensions {
            Some(Subject::Extensions)
        } else if self.copy {
            Some(Subject::Copy)
        } else if self.many {
            Some(Subject::Many(idle::Pace::new(self.quick)))
        } else {
            None
        }
    }
}

impl Subject {
    /// The files and the times of a turn.
    fn needs(self, sizes: Sizes, timing: Timing) -> (Sizes, Timing) {
        let on_disk = Sizes {
            memory_bytes: 0,
            ..sizes
        };
        match self {
            Self::Syscalls | Self::Many(_) => (sizes, timing),
            Self::PageCache => (on_disk, timing),
            Self::Idle(pace) => (on_disk, pace.timing()),
            Self::Extensions => (sizes, extensions::timing(timing)),
            Self::Copy => (copy::sizes(sizes), timing),
        }
    }

    fn measure(self, lab: &Lab) -> Result<Table> {
        match self {
            Self::Syscalls => syscalls::table(lab),
            Self::PageCache => page_cache::table(lab),
            Self::Idle(pace) => idle::table(lab, pace),
            Self::Extensions => extensions::table(lab, lab.timing().rounds),
            Self::Copy => copy::table(lab),
            Self::Many(pace) => many::table(lab, pace),
        }
    }
}

/// All rounds of all rows. In each round everybody has one turn, so that what the machine does
/// meanwhile meets all of them alike.
fn measure(lab: &Lab, rows: &[&'static Row], rounds: u32) -> Result<Vec<RowResult>> {
    let start = Instant::now();
    let mut results: Vec<RowResult> = rows.iter().map(|row| RowResult::new(row)).collect();
    for round in 1..=rounds {
        for result in &mut results {
            let row = result.row();
            for contender in row.contenders {
                let sample = lab.measure(row, contender);
                lab.interrupt().check()?;
                say(&format!(
                    "round {round}/{rounds} row {} {:<22} {}",
                    row.id,
                    contender.name,
                    match &sample {
                        Ok(sample) => row.figure.show(sample),
                        Err(error) => format!("FAILED: {error:#}"),
                    }
                ));
                result.add(contender, sample.map_err(|error| format!("{error:#}")));
            }
        }
    }
    say(&format!("measured in {:.0?}", start.elapsed()));
    Ok(results)
}

fn check(cores: Cores) -> Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    ensure!(
        cores.target != cores.load,
        "target and load generator need a core each"
    );
    for core in [cores.target, cores.load] {
        ensure!(
            core < rustix::thread::CpuSet::MAX_CPU && allowed.is_set(core),
            "there is no core {core} here: measuring needs two cores, \
             see --target-core and --load-core"
        );
    }
    Ok(())
}

fn build() -> Result<()> {
    say("building: cargo build --release --package aoede --package aoede-bench");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(machine::workspace())
        .args(["build", "--release", "--package", "aoede"])
        .args(["--package", "aoede-bench"]);
    let status = cargo.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("the programs do not build");
    }
    fs::create_dir_all(target_folder().join("bench")).context("cannot make target/bench")
}

fn mib(count: u64) -> u64 {
    count << 20
}

fn say(text: &str) {
    eprintln!("bench: {text}");
}
