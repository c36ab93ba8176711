//! `aoede demo`: what a newcomer runs first, on whatever machine there is.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Result, ensure};
use aoede_e2e::{
    Finished, Namespace, Packages, Process, Scratch, aoede_binary, as_nobody, public_copy, run,
};
use rustix::process::Signal;

const SOON: Duration = Duration::from_secs(60);
const SHORT: [&str; 3] = ["demo", "--seconds", "1"];

/// A host on which the demonstration takes place, and the folder for its temporary files.
struct Scene {
    host: Namespace,
    folder: Scratch,
    temporary: PathBuf,
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = Scratch::new()?;
        let temporary = folder.join("tmp");
        fs::create_dir(&temporary)?;
        fs::set_permissions(&temporary, Permissions::from_mode(0o1777))?;
        Ok(Self {
            host: Namespace::new()?,
            folder,
            temporary,
        })
    }

    fn run(&self, mut command: Command) -> Result<Finished> {
        command.env("TMPDIR", &self.temporary);
        run(Some(&self.host), command, SOON)
    }

    fn nothing_is_left(&self) -> Result<()> {
        let files = fs::read_dir(&self.temporary)?.count();
        ensure!(files == 0, "{files} files left in TMPDIR");
        let links = self.host.ip("-o link show")?;
        ensure!(links.lines().count() == 1, "interfaces left:\n{links}");
        Ok(())
    }

    fn it_worked(&self, finished: &Finished) -> Result<()> {
        ensure!(
            finished.code == 0 && finished.stdout.contains("every byte is as it was written"),
            "exit code {}:\n{}{}",
            finished.code,
            finished.stdout,
            finished.stderr
        );
        self.nothing_is_left()
    }

    fn it_was_forbidden(&self, finished: &Finished) -> Result<()> {
        ensure!(
            finished.code == 1
                && finished
                    .stderr
                    .contains("sysctl -w user.max_user_namespaces=")
                && !finished.stderr.contains("panicked"),
            "exit code {}:\n{}{}",
            finished.code,
            finished.stdout,
            finished.stderr
        );
        self.nothing_is_left()
    }
}

/// Whether this machine denies user namespaces to ordinary users.
fn machine_forbids_namespaces() -> bool {
    let holds = |file: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{file}")).is_ok_and(|text| text.trim() == value)
    };
    holds("kernel/apparmor_restrict_unprivileged_userns", "1")
        || holds("kernel/unprivileged_userns_clone", "0")
        || holds("user/max_user_namespaces", "0")
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn root_sees_the_demonstration() -> Result<()> {
    let scene = Scene::new()?;
    let mut command = Command::new(aoede_binary()?);
    command.args(SHORT);
    let finished = scene.run(command)?;
    scene.it_worked(&finished)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn an_ordinary_user_sees_the_demonstration() -> Result<()> {
    let scene = Scene::new()?;
    let mut command = as_nobody(&[], &public_copy(&scene.folder)?)?;
    command.args(SHORT);
    let finished = scene.run(command)?;
    if machine_forbids_namespaces() {
        scene.it_was_forbidden(&finished)
    } else {
        scene.it_worked(&finished)
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn where_user_namespaces_are_forbidden_it_names_the_setting() -> Result<()> {
    let scene = Scene::new()?;
    let packages = Packages::open()?;
    // The limit holds in the user namespace in which it is written, and nowhere else.
    let forbid = "echo 0 > /proc/sys/user/max_user_namespaces && exec \"$@\"";
    let mut command = packages.command("unshare")?;
    command.args(["--user", "--map-root-user", "sh", "-c", forbid, "sh"]);
    command.arg(packages.tool("setpriv")?);
    // Without any capability: root, there, in name only.
    command.args(["--bounding-set=-all", "--inh-caps=-all", "--pdeathsig=KILL"]);
    command.arg(public_copy(&scene.folder)?).args(SHORT);
    let finished = scene.run(command)?;
    scene.it_was_forbidden(&finished)
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn kept_running_it_ends_with_ctrl_c_and_leaves_nothing() -> Result<()> {
    let scene = Scene::new()?;
    let mut command = Command::new(aoede_binary()?);
    command
        .args(SHORT)
        .arg("--keep")
        .env("TMPDIR", &scene.temporary);
    let mut demo = Process::spawn_split("aoede demo --keep", Some(&scene.host), command)?;
    demo.stdout.wait_for("until Ctrl-C", SOON)?;
    let files = fs::read_dir(&scene.temporary)?.count();
    ensure!(files == 1, "{files} files in TMPDIR while it runs");
    demo.signal(Signal::INT)?;
    let status = demo.wait(SOON)?;
    ensure!(status.success(), "{status}");
    scene.nothing_is_left()
}
