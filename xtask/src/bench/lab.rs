//! One turn: a contender started, asked, and stopped. Target and load generator are two hosts
//! with a cable between them, on a core each.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aoede_bench::load::{Report, Waiting};
use aoede_e2e::{Namespace, Packages, Process, succeed, target_folder};
use rustix::process::Signal;
use serde::{Serialize, de::DeserializeOwned};

use super::extensions::PROBED_INTERFACE;
use super::fio;
use super::images::{Images, Sizes};
use super::interrupt::Interrupt;
use super::rows::{Contender, Image, Kind, Row, Work};

/// What the interfaces are called in [`Namespace::pair`].
pub(super) const TARGET_INTERFACE: &str = "tgt0";
const LOAD_INTERFACE: &str = "ini0";
pub(super) const MTU: u32 = 9000;

/// How long a target may take to serve after it was started.
const START: Duration = Duration::from_secs(20);
/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(20);
/// What starting, checking the data and waiting for a silent target takes at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// What reading a whole disk takes at most.
const LONG_PATIENCE: Duration = Duration::from_secs(600);

/// Where everybody runs.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Cores {
    pub(super) target: usize,
    pub(super) load: usize,
    /// Each end's receive work is done on its own core, not on the sender's.
    pub(super) steer: bool,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timing {
    pub(super) rounds: u32,
    pub(super) measure: Duration,
    pub(super) warm_up: Duration,
}

/// What a turn brought.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) ops_per_second: f64,
    pub(super) bytes_per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    /// Processor time of the contender.
    pub(super) cpu_seconds_per_million: Option<f64>,
    /// Requests sent again.
    pub(super) retransmissions: u64,
}

/// Everything a turn needs. Nothing of it is left when it is dropped.
#[derive(Debug)]
pub(super) struct Lab {
    target_host: Namespace,
    load_host: Namespace,
    /// Another initiator's.
    other_host: Namespace,
    packages: Packages,
    images: Images,
    sizes: Sizes,
    cores: Cores,
    timing: Timing,
    interrupt: Interrupt,
}

impl Lab {
    pub(super) fn open(
        sizes: Sizes,
        cores: Cores,
        timing: Timing,
        interrupt: Interrupt,
    ) -> Result<Self> {
        let packages = Packages::open().context("the rivals cannot be had")?;
        let (target_host, load_host) = Namespace::pair(MTU)?;
        let other_host = Namespace::new()?;
        target_host.veth(PROBED_INTERFACE, &other_host, LOAD_INTERFACE, MTU)?;
        if cores.steer {
            steer(&target_host, TARGET_INTERFACE, cores.target)?;
            steer(&load_host, LOAD_INTERFACE, cores.load)?;
        }
        Ok(Self {
            target_host,
            load_host,
            other_host,
            packages,
            images: Images::make(sizes, &interrupt)?,
            sizes,
            cores,
            timing,
            interrupt,
        })
    }

    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// One turn.
    pub(super) fn measure(&self, row: &Row, contender: &Contender) -> Result<Sample> {
        let file = self.images.path(row.image);
        if let Kind::Fio(job) = &contender.kind {
            let command = fio::command(&self.packages, row.work, *job, file, self.timing)?;
            let process = self.spawn("fio", None, pinned(self.cores.target, &command))?;
            let finished = self
                .interrupt
                .finish(process, PATIENCE + self.timing.measure)?;
            return fio::sample(&finished.stdout, row.work);
        }
        let target = self.start(contender, row.image)?;
        let verifiable = (contender.kind != Kind::Responder).then_some(file);
        let sample = self.ask(&target, row.work, verifiable);
        let stopped = self.stop(target);
        let report = sample?;
        stopped?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let millions = report.ops as f64 / 1e6;
        Ok(Sample {
            ops_per_second: report.ops_per_second,
            bytes_per_second: report.bytes_per_second,
            p50_us: report.latency.p50_us,
            p99_us: report.latency.p99_us,
            cpu_seconds_per_million: report.target_cpu_seconds.map(|seconds| seconds / millions),
            retransmissions: report.retransmissions,
        })
    }

    /// Starts a target for e1.1 and waits until it says that it serves.
    pub(super) fn start(&self, contender: &Contender, image: Image) -> Result<Process> {
        let file = self.images.path(image);
        let command = target_command(&self.packages, contender, file, self.image_bytes(image))?;
        let command = pinned(self.cores.target, &command);
        self.interrupt.check()?;
        // vblade says it on the standard output, ours on the other.
        let mut process = Process::spawn(contender.name, Some(&self.target_host), command)?;
        process.keep_quiet();
        let ready = match contender.kind {
            Kind::Vblade(_) => "e1.1, ",
            _ => "serving e1.1",
        };
        process
            .stderr
            .wait_for(ready, START)
            .with_context(|| format!("{} does not start", contender.name))?;
        Ok(process)
    }

    /// Starts the daemon and waits until it says of so many exports that it serves them.
    pub(super) fn serve(&self, config: &Path, exports: usize) -> Result<Process> {
        let mut command = Command::new(own_program("aoede")?);
        command.arg("serve").arg("--config").arg(config);
        let command = pinned(self.cores.target, &command);
        let process = self.spawn("aoede serve", Some(&self.target_host), command)?;
        let missing = format!("it does not serve {exports} exports");
        process.stderr.wait(START, &missing, |text| {
            (text.matches("serving e").count() == exports).then_some(())
        })?;
        Ok(process)
    }

    pub(super) fn stop(&self, mut target: Process) -> Result<()> {
        target.signal(Signal::TERM)?;
        target.wait(STOP)?;
        self.interrupt.check()
    }

    /// Has the load generator do its work for the time of a turn, and returns what it found.
    pub(super) fn ask(
        &self,
        target: &Process,
        work: Work,
        verify: Option<&Path>,
    ) -> Result<Report> {
        let (measure, warm_up) = (self.timing.measure, self.timing.warm_up);
        let mut extent = Command::new(own_program("aoede-bench")?);
        extent
            .args(["load", "--seconds", &measure.as_secs_f64().to_string()])
            .args(["--warm-up", &warm_up.as_secs_f64().to_string()]);
        if let Some(file) = verify {
            extent.arg("--verify").arg(file);
        }
        self.load(target, work, extent, PATIENCE + measure)
    }

    /// As [`Lab::ask`], with further options.
    pub(super) fn ask_with(
        &self,
        target: &Process,
        work: Work,
        options: &[&str],
    ) -> Result<Report> {
        let (measure, warm_up) = (self.timing.measure, self.timing.warm_up);
        let mut command = Command::new(own_program("aoede-bench")?);
        command
            .args(["load", "--seconds", &measure.as_secs_f64().to_string()])
            .args(["--warm-up", &warm_up.as_secs_f64().to_string()])
            .args(["--watch-core", &self.cores.target.to_string()])
            .args(options);
        self.load(target, work, command, PATIENCE + measure)
    }

    /// Has another initiator measure the congestion of the target, again and again.
    pub(super) fn probe(&self) -> Result<Process> {
        let mut command = Command::new(own_program("aoede-bench")?);
        command
            .args(["probe", "e1.1", "--interface", LOAD_INTERFACE])
            .args(["--times", "1000"]);
        let command = pinned(self.cores.load, &command);
        self.spawn("another initiator", Some(&self.other_host), command)
    }

    /// Runs a command of ours on the load generator's host, and returns the JSON that it prints.
    pub(super) fn initiate<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let mut command = Command::new(own_program("aoede")?);
        command
            .args(arguments)
            .args(["--interface", LOAD_INTERFACE, "--json"]);
        let command = pinned(self.cores.load, &command);
        let process = self.spawn("aoede", Some(&self.load_host), command)?;
        let finished = self.interrupt.finish(process, LONG_PATIENCE)?;
        serde_json::from_str(&finished.stdout).context("cannot understand aoede")
    }

    pub(super) fn images(&self) -> &Images {
        &self.images
    }

    pub(super) fn timing(&self) -> Timing {
        self.timing
    }

    /// As [`Lab::ask`], for so many bytes, once.
    pub(super) fn ask_for(&self, target: &Process, work: Work, bytes: u64) -> Result<Report> {
        let mut extent = Command::new(own_program("aoede-bench")?);
        extent.args(["load", "--bytes", &bytes.to_string()]);
        self.load(target, work, extent, LONG_PATIENCE)
    }

    fn load(
        &self,
        target: &Process,
        work: Work,
        mut command: Command,
        within: Duration,
    ) -> Result<Report> {
        let wait = match work.waiting {
            Waiting::Spin => "spin",
            Waiting::Poll => "poll",
        };
        command
            .args(["e1.1", "--json", "--interface", LOAD_INTERFACE])
            .args(["--rw", work.workload.name(), "--wait", wait])
            .args(["--block-size", &work.block_bytes.to_string()])
            .args(["--depth", &work.depth.to_string()])
            .args(["--watch", &target.id().to_string()])
            .args(["--cpu", &self.cores.load.to_string()]);
        if work.flush {
            command.arg("--flush");
        }
        let process = self.spawn("load generator", Some(&self.load_host), command)?;
        let finished = self.interrupt.finish(process, within)?;
        serde_json::from_str(&finished.stdout).context("cannot understand the load generator")
    }

    /// How much of a served file is in the host's page cache, in bytes.
    pub(super) fn cached_bytes(&self, image: Image) -> Result<u64> {
        let mut command = self.packages.command("fincore")?;
        command
            .args(["--bytes", "--raw", "--noheadings", "--output", "RES"])
            .arg(self.images.path(image));
        let output = succeed(None, command, START)?;
        output
            .trim()
            .parse()
            .with_context(|| format!("cannot understand fincore: {output}"))
    }

    /// Puts a served file out of the page cache.
    pub(super) fn forget(&self, image: Image) -> Result<()> {
        self.images.forget(image)
    }

    /// Begins to count the system calls of a target.
    pub(super) fn trace(&self, target: &Process, output: &Path) -> Result<Process> {
        let mut command = self.packages.command("strace")?;
        command
            .args(["-c", "-f", "-p", &target.id().to_string(), "-o"])
            .arg(output);
        // On the target's core, where the two take turns anyway.
        let command = pinned(self.cores.target, &command);
        let process = self.spawn("strace", None, command)?;
        process
            .stderr
            .wait_for("attached", START)
            .context("strace cannot attach")?;
        Ok(process)
    }

    fn spawn(&self, name: &str, host: Option<&Namespace>, command: Command) -> Result<Process> {
        self.interrupt.check()?;
        let mut process = Process::spawn_split(name, host, command)?;
        process.keep_quiet();
        Ok(process)
    }

    pub(super) fn image_bytes(&self, image: Image) -> u64 {
        match image {
            Image::Memory => self.sizes.memory_bytes,
            Image::Sparse => self.sizes.sparse_bytes,
            Image::Disk => self.sizes.disk_bytes,
        }
    }
}

fn target_command(
    packages: &Packages,
    contender: &Contender,
    file: &Path,
    bytes: u64,
) -> Result<Command> {
    let mut command = match contender.kind {
        Kind::Aoede(_) => Command::new(own_program("aoede")?),
        Kind::Vblade(_) => packages.command("vblade")?,
        Kind::Responder | Kind::Fio(_) => Command::new(own_program("aoede-bench")?),
    };
    let file = file
        .to_str()
        .context("the build folder's name is no UTF-8")?;
    command.args(arguments(contender, TARGET_INTERFACE, file, bytes));
    Ok(command)
}

/// Has the receive work of an interface done on this core (Receive Packet Steering).
fn steer(host: &Namespace, interface: &str, core: usize) -> Result<()> {
    // Each network namespace has a view of its own of this part of /sys.
    let script = format!(
        "mount -t sysfs sysfs /sys && echo {:x} > /sys/class/net/{interface}/queues/rx-0/rps_cpus",
        1_u128 << core.min(127)
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    succeed(Some(host), command, START)
        .map(drop)
        .context("cannot steer received frames to a core")
}

/// The same command on one core.
fn pinned(core: usize, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", &core.to_string()]);
    pinned.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            pinned.env(name, value);
        }
    }
    pinned
}

/// What a target is told.
fn arguments(contender: &Contender, interface: &str, file: &str, bytes: u64) -> Vec<String> {
    let words = match contender.kind {
        Kind::Aoede(options) => [&["export", "e1.1", file, "-i", interface], options].concat(),
        Kind::Vblade(options) => [options, &["1", "1", interface, file]].concat(),
        Kind::Responder | Kind::Fio(_) => vec!["responder", "e1.1", "-i", interface, "--sectors"],
    };
    let mut words: Vec<String> = words.into_iter().map(str::to_owned).collect();
    if contender.kind == Kind::Responder {
        words.push((bytes / 512).to_string());
    }
    words
}

/// The command of a contender, for people.
pub(super) fn describe(row: &Row, contender: &Contender, bytes: u64, timing: Timing) -> String {
    let program = match &contender.kind {
        Kind::Fio(job) => {
            let words = fio::arguments(row.work, *job, "FILE", timing);
            return format!("fio {}", words.join(" "));
        }
        Kind::Aoede(_) => "aoede",
        Kind::Vblade(_) => "vblade",
        Kind::Responder => "aoede-bench",
    };
    let words = arguments(contender, TARGET_INTERFACE, "FILE", bytes);
    format!("{program} {}", words.join(" "))
}

/// A program of this workspace.
fn own_program(name: &str) -> Result<PathBuf> {
    let path = target_folder().join("release").join(name);
    ensure!(path.exists(), "no {}", path.display());
    Ok(path)
}
