//! A target in a process of its own: ours, or vblade with the same job.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use crate::{
    Finished, Log, Namespace, Packages, Process, Scratch, run, seccomp::withhold, target_folder,
    wait_until,
};

/// How long a target may take to serve after it was started.
const START: Duration = Duration::from_secs(20);
/// How long a clean stop may take.
const STOP: Duration = Duration::from_secs(20);

/// Who made the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Maker {
    /// The program of this workspace.
    Aoede,
    /// Debian's vblade.
    Vblade,
}

impl Maker {
    /// The target that the tests are about: ours, unless `AOEDE_E2E_TARGET=vblade` asks whether
    /// the bench itself is sound.
    pub fn under_test() -> Self {
        match std::env::var("AOEDE_E2E_TARGET").as_deref() {
            Ok("vblade") => Self::Vblade,
            _ => Self::Aoede,
        }
    }
}

/// Our program: `AOEDE_BIN`, or the release build of this workspace.
///
/// # Errors
/// It has not been built.
pub fn aoede_binary() -> Result<PathBuf> {
    let path = std::env::var_os("AOEDE_BIN")
        .map_or_else(|| target_folder().join("release/aoede"), PathBuf::from);
    ensure!(
        path.exists(),
        "no {}: build it with `cargo build --release -p aoede`, or name it in AOEDE_BIN",
        path.display()
    );
    path.canonicalize()
        .with_context(|| format!("no {}", path.display()))
}

/// A copy of our program where everybody can run it.
///
/// # Errors
/// It has not been built, or `folder` has no room.
pub fn public_copy(folder: &Scratch) -> Result<PathBuf> {
    let copy = folder.join("aoede");
    fs::copy(aoede_binary()?, &copy)?;
    Ok(copy)
}

/// A command that runs `program` as the user nobody. `capabilities` are further arguments of
/// setpriv.
///
/// # Errors
/// There is no setpriv.
pub fn as_nobody(capabilities: &[&str], program: &Path) -> Result<Command> {
    let mut command = Packages::open()?.command("setpriv")?;
    command
        .args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--pdeathsig=KILL",
        ])
        .args(capabilities)
        .arg(program);
    Ok(command)
}

/// A file to be served, and how.
#[derive(Clone, Debug)]
pub struct Export {
    file: PathBuf,
    interfaces: Vec<String>,
    address: (u16, u8),
    arguments: Vec<String>,
    withheld: Vec<libc::c_long>,
}

impl Export {
    /// `file` as e1.1 on `interface`.
    pub fn new(file: &Path, interface: &str) -> Self {
        Self {
            file: file.to_owned(),
            interfaces: vec![interface.to_owned()],
            address: (1, 1),
            arguments: Vec::new(),
            withheld: Vec::new(),
        }
    }

    /// Another interface.
    #[must_use]
    pub fn and_on(mut self, interface: &str) -> Self {
        self.interfaces.push(interface.to_owned());
        self
    }

    /// Another address.
    #[must_use]
    pub fn at(mut self, shelf: u16, slot: u8) -> Self {
        self.address = (shelf, slot);
        self
    }

    /// Further arguments, as the maker understands them.
    #[must_use]
    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// Ours gets "permission denied" from these system calls.
    #[must_use]
    pub fn without(mut self, calls: &[libc::c_long]) -> Self {
        self.withheld.extend(calls);
        self
    }

    /// Starts our target for it, which ends by itself.
    ///
    /// # Errors
    /// It does not.
    pub fn fail(&self, namespace: &Namespace, within: Duration) -> Result<Finished> {
        run(Some(namespace), self.aoede()?, within)
    }

    /// Starts a target for it on the host `namespace` and waits until it serves.
    ///
    /// # Errors
    /// It ends or stays silent; the message has its output.
    pub fn start(&self, namespace: &Namespace, maker: Maker) -> Result<TargetProcess> {
        // vblade has one interface; several are several processes.
        let commands: Vec<Command> = match maker {
            Maker::Aoede => vec![self.aoede()?],
            Maker::Vblade => self
                .interfaces
                .iter()
                .map(|interface| self.vblade(interface))
                .collect::<Result<_>>()?,
        };
        let (shelf, slot) = self.address;
        let ready = match maker {
            Maker::Aoede => format!("serving e{shelf}.{slot}"),
            Maker::Vblade => format!("e{shelf}.{slot}, "),
        };
        let mut processes = Vec::new();
        for command in commands {
            let name = format!("{maker:?} {}", self.interfaces.join(","));
            let process = Process::spawn(&name, Some(namespace), command)?;
            process
                .stderr
                .wait_for(&ready, START)
                .context("the target does not start")?;
            processes.push(process);
        }
        Ok(TargetProcess { maker, processes })
    }

    fn aoede(&self) -> Result<Command> {
        let mut command = Command::new(aoede_binary()?);
        command
            .arg("export")
            .arg(format!("e{}.{}", self.address.0, self.address.1))
            .arg(&self.file);
        command
            .arg("-i")
            .arg(self.interfaces.join(","))
            .args(&self.arguments);
        if !self.withheld.is_empty() {
            withhold(&mut command, &self.withheld);
        }
        Ok(command)
    }

    fn vblade(&self, interface: &str) -> Result<Command> {
        let mut command = Packages::open()?.command("vblade")?;
        command
            .args(&self.arguments)
            .arg(self.address.0.to_string())
            .arg(self.address.1.to_string());
        command.arg(interface).arg(&self.file);
        Ok(command)
    }
}

/// A running target. Dropping it kills it and prints its log.
#[derive(Debug)]
pub struct TargetProcess {
    maker: Maker,
    processes: Vec<Process>,
}

impl TargetProcess {
    /// What it has written so far (of the first process, where vblade needs several).
    ///
    /// # Errors
    /// Never, as long as a target has a process.
    pub fn log(&self) -> Result<&Log> {
        Ok(&self.first()?.stderr)
    }

    /// The process number.
    ///
    /// # Errors
    /// As [`TargetProcess::log`].
    pub fn id(&self) -> Result<u32> {
        Ok(self.first()?.id())
    }

    /// Whether it is still there.
    pub fn is_running(&mut self) -> bool {
        self.processes.iter_mut().all(Process::is_running)
    }

    /// Resident memory in KiB.
    ///
    /// # Errors
    /// It has ended.
    pub fn resident_kib(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()?))
            .context("the target has ended")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        line.split_whitespace()
            .next()
            .and_then(|number| number.parse().ok())
            .context("no number")
    }

    /// Processor time used so far, user and system together, in clock ticks of 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()?))
            .context("the target has ended")?;
        let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace();
        // Fields 14 and 15 of proc(5), counted from the state after the name, which is field 3.
        Ok(fields
            .skip(11)
            .take(2)
            .filter_map(|field| field.parse::<u64>().ok())
            .sum())
    }

    /// How often its threads went to sleep of their own accord so far: as often as they were woken.
    /// Those that have ended do not count, nor the kernel's own: io_uring keeps one for syncs, which
    /// looks every five seconds whether there is more to do.
    ///
    /// # Errors
    /// It has ended.
    pub fn sleeps(&self) -> Result<u64> {
        let mut sleeps = 0;
        for thread in fs::read_dir(format!("/proc/{}/task", self.id()?))? {
            let status = fs::read_to_string(thread?.path().join("status"));
            let Some(status) = status.ok().filter(|it| !it.contains("Name:\tiou-")) else {
                continue;
            };
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
                .context("no voluntary_ctxt_switches")?;
            sleeps += line.trim().parse::<u64>()?;
        }
        Ok(sleeps)
    }

    /// Asks it to stop with SIGTERM and waits. Ours must end with exit code 0. Returns how long
    /// it took.
    ///
    /// # Errors
    /// It had ended before, does not stop, or stops with an error.
    pub fn stop(self) -> Result<Duration> {
        self.stop_by(Signal::TERM)
    }

    /// The same with another signal.
    ///
    /// # Errors
    /// As [`TargetProcess::stop`].
    pub fn stop_by(mut self, signal: Signal) -> Result<Duration> {
        let start = Instant::now();
        for process in &mut self.processes {
            process.signal(signal)?;
            let status = process.wait(STOP)?;
            let clean = status.success() || self.maker == Maker::Vblade;
            ensure!(clean, "stopped with {status}:\n{}", process.stderr.text());
        }
        Ok(start.elapsed())
    }

    /// Kills it with SIGKILL, as a crash would.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::kill)
    }

    /// Asks it to stop with SIGTERM and kills it with SIGKILL `grace` later. Says whether it had
    /// stopped by then, cleanly.
    ///
    /// # Errors
    /// It had ended before or cannot be killed.
    pub fn stop_or_kill(mut self, grace: Duration) -> Result<bool> {
        for process in &mut self.processes {
            process.signal(Signal::TERM)?;
        }
        thread::sleep(grace);
        let mut stopped = true;
        for process in &mut self.processes {
            process.kill()?;
            stopped &= process.wait(STOP)?.success();
        }
        Ok(stopped)
    }

    /// Orders a freeze by signals.
    ///
    /// # Errors
    /// It has ended, or does not take its signals.
    pub fn freeze(&mut self) -> Result<()> {
        self.order(&[Signal::USR1, Signal::USR2])
    }

    /// Orders a thaw by signals.
    ///
    /// # Errors
    /// As [`TargetProcess::freeze`].
    pub fn thaw(&mut self) -> Result<()> {
        self.order(&[Signal::USR1, Signal::USR1, Signal::USR2])
    }

    /// Sends signals, each when the one before it has been delivered.
    fn order(&mut self, signals: &[Signal]) -> Result<()> {
        let id = self.id()?;
        for &signal in signals {
            let process = self.processes.first_mut().context("no process")?;
            process.signal(signal)?;
            wait_until("a signal is delivered", STOP, || {
                let status = fs::read_to_string(format!("/proc/{id}/status"))?;
                let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
                Ok(pending.is_some_and(|set| set.trim().chars().all(|digit| digit == '0')))
            })?;
        }
        Ok(())
    }

    /// Keeps its output for [`TargetProcess::log`]: it is not printed at the end.
    pub fn keep_quiet(&mut self) {
        self.processes.iter_mut().for_each(Process::keep_quiet);
    }

    fn first(&self) -> Result<&Process> {
        self.processes.first().context("no process")
    }
}
