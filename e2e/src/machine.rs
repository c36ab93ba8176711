//! A whole system with systemd on this kernel, in namespaces of its own: this machine's files, under
//! a layer in memory for what is changed.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{Finished, Namespace, Packages, Process, Scratch, run, wait_until};

const BOOT: Duration = Duration::from_secs(60);
const SYSTEMD: &str = "/lib/systemd/systemd";
const FIRST_PROCESS: &str = include_str!("machine.sh");

/// A running system. Dropping it ends all its processes; its files go with them.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    /// The number of its first process here.
    init: u32,
    _folder: Scratch,
}

impl Machine {
    /// Whether there is systemd on this machine.
    pub fn is_possible() -> bool {
        Path::new(SYSTEMD).exists()
    }

    /// Boots one with the network of `host`.
    ///
    /// # Errors
    /// Not root, no overlay file system, or it does not come up; the message has its log.
    pub fn boot(host: &Namespace) -> Result<Self> {
        let folder = Scratch::new()?;
        let script = folder.join("init.sh");
        fs::write(&script, FIRST_PROCESS)?;
        let layer = folder.join("layer");
        fs::create_dir(&layer)?;
        let mut command = Packages::open()?.command("unshare")?;
        command
            .args(["--pid", "--mount", "--uts", "--ipc", "--cgroup"])
            .args(["--fork", "--kill-child", "sh"])
            .arg(&script)
            .arg(&layer);
        let mut process = Process::spawn("machine", Some(host), command)?;
        let outside = process.id();
        let mut init = None;
        wait_until("the machine's first process", BOOT, || {
            ensure!(process.is_running(), "{}", process.stderr.text());
            let children = format!("/proc/{outside}/task/{outside}/children");
            let children = fs::read_to_string(children)?;
            init = children.trim().parse().ok();
            let name = init.map(|init: u32| fs::read_to_string(format!("/proc/{init}/comm")));
            Ok(matches!(name, Some(Ok(name)) if name.trim() == "systemd"))
        })?;
        let machine = Self {
            init: init.context("no first process")?,
            process,
            _folder: folder,
        };
        wait_until("the machine is up", BOOT, || {
            let state = machine.run("systemctl is-system-running")?;
            Ok(state.stdout.trim() == "running")
        })
        .with_context(|| machine.process.stderr.text())?;
        Ok(machine)
    }

    /// Runs a line of the shell inside, to its end.
    ///
    /// # Errors
    /// It does not end within a minute. A failing exit code is none.
    pub fn run(&self, line: &str) -> Result<Finished> {
        let mut command = Packages::open()?.command("nsenter")?;
        command
            .arg(format!("--target={}", self.init))
            .args(["--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup"])
            .args(["--root", "--wd", "env", "-i", "LC_ALL=C"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line]);
        run(None, command, BOOT)
    }

    /// The same, and what it wrote to standard output.
    ///
    /// # Errors
    /// A failing exit code, too.
    pub fn succeed(&self, line: &str) -> Result<String> {
        let finished = self.run(line)?;
        ensure!(
            finished.code == 0,
            "`{line}` ended with code {}:\n{}{}",
            finished.code,
            finished.stdout,
            finished.stderr
        );
        Ok(finished.stdout)
    }

    /// A path of its files, as this process sees it.
    pub fn path(&self, inside: &str) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.init));
        root.join(inside.trim_start_matches('/'))
    }
}
