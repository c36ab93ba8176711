//! The Debian package on a system with systemd: installed, started, upgraded, removed and purged, with
//! an initiator that notices.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{
    Finished, Machine, Namespace, Nic, Scratch,
    aoe::{Addressing, Response, ata},
    aoede_binary, run, succeed, wait_until,
};

const SOON: Duration = Duration::from_secs(20);
/// For building a package with a slow compressor.
const PACKAGING: Duration = Duration::from_secs(300);
const IMAGE: &str = "/var/lib/aoede/e1.1.img";
/// Bits 1, `CAP_DAC_OVERRIDE`, and 13, `CAP_NET_RAW` (linux/capability.h).
const KEPT: &str = "0000000000002002";

/// A package of the program, and a newer one of the same.
fn packages(folder: &Scratch) -> Result<(PathBuf, PathBuf)> {
    let mut xtask = Command::new(env!("CARGO"));
    xtask.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    xtask
        .args(["xtask", "deb", "--program"])
        .arg(aoede_binary()?);
    xtask.arg("--output").arg(folder.path());
    succeed(None, xtask, PACKAGING)?;
    let made = fs::read_dir(folder.path())?.next().context("no package")?;
    let first = made?.path();

    let tree = folder.join("tree");
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--raw-extract").arg(&first).arg(&tree);
    succeed(None, extract, PACKAGING)?;
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control)?;
    let line = text.lines().find(|line| line.starts_with("Version: "));
    let line = line.context("no version")?;
    fs::write(&control, text.replace(line, &format!("{line}+newer")))?;
    let second = folder.join("newer.deb");
    let mut build = Command::new("dpkg-deb");
    build.args(["-Znone", "--root-owner-group", "--build"]);
    build.arg(&tree).arg(&second);
    succeed(None, build, PACKAGING)?;
    Ok((first, second))
}

/// The machine with the service, and a host with an initiator.
struct Scene {
    machine: Machine,
    host: Namespace,
    initiator: Namespace,
}

impl Scene {
    fn configure(&self, lines: &str) -> Result<()> {
        let text = format!(
            "[[export]]\naddress = \"e1.1\"\npath = \"{IMAGE}\"\ncreate = \"1MiB\"\n\
             interfaces = [\"tgt0\"]\n{lines}"
        );
        Ok(fs::write(self.machine.path("/etc/aoede/aoede.toml"), text)?)
    }

    fn state(&self) -> Result<String> {
        let state = self.machine.run("systemctl is-active aoede")?;
        Ok(state.stdout.trim().to_owned())
    }

    /// The service's process, as its own machine counts.
    fn process(&self) -> Result<u32> {
        let id = self.machine.succeed("systemctl show -P MainPID aoede")?;
        id.trim().parse().context("no process")
    }

    fn log(&self) -> Result<String> {
        self.machine
            .succeed("journalctl --no-pager -o cat -u aoede")
    }

    /// A command of ours on the initiator's host.
    fn aoede(&self, arguments: &[&str]) -> Result<Finished> {
        let mut command = Command::new(aoede_binary()?);
        command.args(arguments);
        run(Some(&self.initiator), command, SOON)
    }

    /// One of a sector with the disk, with these bytes for a write.
    fn exchange(&self, command: u8, data: &[u8]) -> Result<Vec<u8>> {
        let nic = Nic::open(&self.initiator, "ini0")?;
        let e1_1 = Addressing {
            to: self.host.mac("tgt0")?,
            from: nic.mac(),
            address: (1, 1),
        };
        let answer = nic.exchange(&e1_1.ata(1, command, 8, 1, data), SOON)?;
        let answer = answer.context("no answer")?;
        let registers = Response(&answer).registers();
        ensure!(registers == (0, 0x40), "{registers:?}");
        Ok(Response(&answer).data().to_vec())
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn it_is_installed_serves_is_upgraded_and_goes() -> Result<()> {
    if !Machine::is_possible() {
        eprintln!("NOT RUN: there is no systemd here");
        return Ok(());
    }
    let folder = Scratch::new()?;
    let (first, second) = packages(&folder)?;
    let (host, initiator) = Namespace::pair(1500)?;
    let scene = Scene {
        machine: Machine::boot(&host)?,
        host,
        initiator,
    };
    let machine = &scene.machine;
    fs::copy(first, machine.path("/root/first.deb"))?;
    fs::copy(second, machine.path("/root/second.deb"))?;

    installed(&scene)?;
    serves(&scene).with_context(|| scene.log().unwrap_or_default())?;
    confined(&scene)?;
    reloads(&scene)?;
    upgraded(&scene).with_context(|| scene.log().unwrap_or_default())?;
    goes(&scene)
}

/// It runs at once, and serves nothing.
fn installed(scene: &Scene) -> Result<()> {
    let machine = &scene.machine;
    machine.succeed("dpkg --install /root/first.deb")?;
    ensure!(machine.succeed("systemctl is-enabled aoede")?.trim() == "enabled");
    ensure!(scene.state()? == "active", "{}", scene.log()?);
    let found = scene.aoede(&["discover", "-i", "ini0", "--seconds", "1", "--json"])?;
    ensure!(
        found.code == 0 && !found.stdout.contains("e1."),
        "{found:?}"
    );
    // What it came with is right, and so is the example.
    let checked = machine.run("aoede check")?;
    ensure!(
        checked.code == 0 && checked.stderr.contains("there is no export"),
        "{checked:?}"
    );
    machine.succeed("aoede check /usr/share/doc/aoede/examples/aoede.toml")?;
    let files = machine.succeed("dpkg --listfiles aoede && dpkg --verify aoede")?;
    for file in [
        "/etc/aoede/aoede.toml",
        "/usr/bin/aoede",
        "/usr/lib/systemd/system/aoede.service",
        "/usr/share/bash-completion/completions/aoede",
        "/usr/share/doc/aoede/changelog.Debian.gz",
        "/usr/share/doc/aoede/changelog.gz",
        "/usr/share/doc/aoede/copyright",
        "/usr/share/man/man1/aoede-serve.1.gz",
        "/usr/share/man/man5/aoede.toml.5.gz",
    ] {
        ensure!(files.lines().any(|line| line == file), "{file}:\n{files}");
    }
    Ok(())
}

/// An export by a reload, and what is written and set there.
fn serves(scene: &Scene) -> Result<()> {
    scene.configure("")?;
    scene.machine.succeed("systemctl reload aoede")?;
    scene.exchange(ata::WRITE, &[0x5A; 512])?;
    let set = scene.aoede(&["set", "e1.1", "-i", "ini0", "--config-string", "rack7"])?;
    ensure!(set.code == 0, "{set:?}");
    Ok(())
}

/// What the process may do, and what it has open.
fn confined(scene: &Scene) -> Result<()> {
    let id = scene.process()?;
    let threads = scene
        .machine
        .succeed(&format!("cat /proc/{id}/task/*/status"))?;
    // The kernel's own threads for an io_uring are of the process, too.
    let threads = threads.split("Name:\t").skip(1);
    for thread in threads.filter(|thread| !thread.starts_with("iou-")) {
        let line = |name: &str| {
            let line = thread.lines().find_map(|line| line.strip_prefix(name));
            line.map_or("", |line| line.trim_start_matches(':').trim())
        };
        let [inherited, permitted, effective] = ["CapInh", "CapPrm", "CapEff"].map(line);
        ensure!(
            [permitted, effective] == [KEPT, KEPT] && inherited.trim_matches('0').is_empty(),
            "{thread}"
        );
        ensure!(
            line("NoNewPrivs") == "1" && line("Seccomp") == "2",
            "{thread}"
        );
    }
    let open = scene
        .machine
        .succeed(&format!("readlink /proc/{id}/fd/*"))?;
    for file in open.lines() {
        let known = ["socket:", "pipe:", "anon_inode:", "/dev/null"];
        let is_known = known.iter().any(|start| file.starts_with(start));
        ensure!(is_known || file.ends_with(IMAGE), "{file}:\n{open}");
    }
    ensure!(open.lines().any(|file| file.ends_with(IMAGE)), "{open}");
    // The rest of the system is read-only for it.
    let mounts = scene
        .machine
        .succeed(&format!("cat /proc/{id}/mountinfo"))?;
    let options = |place: &str| {
        let mut mounts = mounts
            .lines()
            .map(|line| line.split(' ').collect::<Vec<_>>());
        let mount = mounts.rfind(|mount| mount.get(4) == Some(&place));
        mount.and_then(|mount| mount.get(5).map(|&options| options.to_owned()))
    };
    for (place, may) in [("/", "ro"), ("/var/lib/aoede", "rw")] {
        let options = options(place).with_context(|| format!("{place}:\n{mounts}"))?;
        ensure!(options.split(',').next() == Some(may), "{place}: {options}");
    }
    Ok(())
}

/// One that is wrong says so, and changes nothing.
fn reloads(scene: &Scene) -> Result<()> {
    let before = scene.process()?;
    scene.configure("buffers = 1\n")?;
    let reload = scene.machine.run("systemctl reload aoede")?;
    ensure!(reload.code != 0, "{reload:?}");
    let log = scene.log()?;
    ensure!(log.contains("`buffers` is out of range"), "{log}");
    scene.configure("")?;
    scene.machine.succeed("systemctl reload aoede")?;
    ensure!(scene.process()? == before);
    ensure!(scene.exchange(ata::READ, b"")? == [0x5A; 512]);
    Ok(())
}

/// A new process, with what was set and written; and what the administrator has decided stays.
fn upgraded(scene: &Scene) -> Result<()> {
    let machine = &scene.machine;
    let before = scene.process()?;
    // The configuration has been changed, and the package has none that is new: nobody is asked.
    machine.succeed("dpkg --install /root/second.deb </dev/null")?;
    ensure!(scene.state()? == "active");
    ensure!(scene.process()? != before);
    ensure!(scene.exchange(ata::READ, b"")? == [0x5A; 512]);
    let info = scene.aoede(&["info", "e1.1", "-i", "ini0", "--json"])?;
    ensure!(info.stdout.contains("rack7"), "{info:?}");

    machine.succeed("systemctl disable --now aoede")?;
    machine.succeed("dpkg --install /root/second.deb </dev/null")?;
    let enabled = machine.run("systemctl is-enabled aoede")?;
    ensure!(enabled.stdout.trim() == "disabled", "{enabled:?}");
    ensure!(scene.state()? == "inactive");
    machine.succeed("systemctl enable --now aoede").map(drop)
}

/// First all but what is an administrator's, then all but disks.
fn goes(scene: &Scene) -> Result<()> {
    let machine = &scene.machine;
    let id = scene.process()?;
    machine.succeed("dpkg --remove aoede")?;
    wait_until("the service has ended", SOON, || {
        Ok(!machine.path(&format!("/proc/{id}")).exists())
    })?;
    let left = machine.succeed("find /etc /usr /var/lib /run -path '*aoede*' -type f | sort")?;
    let own = |line: &&str| !line.starts_with("/var/lib/dpkg/") && !line.contains("deb-systemd");
    let left: Vec<&str> = left.lines().filter(own).collect();
    let expected = ["/etc/aoede/aoede.toml", IMAGE, "/var/lib/aoede/e1.1.state"];
    ensure!(left == expected, "{left:?}");

    machine.succeed("dpkg --purge aoede")?;
    let left = machine.succeed("find /etc /usr /var/lib /run -path '*aoede*' | sort")?;
    let left: Vec<&str> = left.lines().collect();
    ensure!(left == ["/var/lib/aoede", IMAGE], "{left:?}");
    let image = fs::read(machine.path(IMAGE))?;
    ensure!(image.get(8 * 512..9 * 512) == Some([0x5A; 512].as_slice()));
    Ok(())
}
