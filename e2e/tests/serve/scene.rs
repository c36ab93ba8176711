//! A host with a daemon, and another one that asks it by hand-made frames.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aoede_e2e::{
    Finished, Namespace, Nic, Process, Scratch,
    aoe::{Addressing, BROADCAST, EVERY_TARGET, Response, ata, config},
    aoede_binary, run,
};
use rustix::process::Signal;

/// Longer than anything here takes on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Initiators wait so long before they ask again.
const REPEAT: Duration = Duration::from_millis(200);
/// Long enough for an answer, if there is one.
const SILENCE: Duration = Duration::from_millis(300);
pub(crate) const MIB: u64 = 1 << 20;

/// Two hosts with cables between them, and a folder for everything.
pub(crate) struct Scene {
    pub(crate) host: Namespace,
    pub(crate) initiator: Namespace,
    pub(crate) folder: Scratch,
    notify: UnixDatagram,
}

/// A running daemon.
pub(crate) struct Daemon<'s> {
    pub(crate) process: Process,
    scene: &'s Scene,
}

impl Scene {
    /// With so many cables: `tgt0` to `ini0` and so on.
    pub(crate) fn new(cables: usize, mtu: u32) -> Result<Self> {
        let (host, initiator) = (Namespace::new()?, Namespace::new()?);
        for number in 0..cables {
            let (there, here) = (format!("tgt{number}"), format!("ini{number}"));
            host.veth(&there, &initiator, &here, mtu)?;
        }
        let folder = Scratch::new()?;
        let notify = UnixDatagram::bind(folder.join("notify"))?;
        notify.set_read_timeout(Some(SOON))?;
        Ok(Self {
            host,
            initiator,
            folder,
            notify,
        })
    }

    /// Writes the configuration. `@` stands for the folder.
    pub(crate) fn configure(&self, exports: &str) -> Result<()> {
        let folder = self.folder.path().display().to_string();
        let text = format!(
            "state_folder = \"@/state\"\n{}\n[control]\nsocket = \"@/control\"\n{}",
            // What concerns the whole daemon stands before the first table.
            exports.split_once("[[").map_or("", |(top, _)| top),
            exports
                .split_once("[[")
                .map_or(String::new(), |(_, rest)| format!("[[{rest}")),
        );
        fs::write(self.config(), text.replace('@', &folder))?;
        Ok(())
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.folder.join("aoede.toml")
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(aoede_binary()?);
        command.arg("serve").arg("--config").arg(self.config());
        command.env("NOTIFY_SOCKET", self.folder.join("notify"));
        Ok(command)
    }

    /// Starts the daemon and waits until it says that it is ready.
    pub(crate) fn start(&self) -> Result<Daemon<'_>> {
        self.start_on(&self.host)
    }

    /// The same where other things are mounted.
    pub(crate) fn start_on(&self, host: &Namespace) -> Result<Daemon<'_>> {
        let mut process = Process::spawn_split("aoede serve", Some(host), self.command()?)?;
        if let Err(error) = self.hear("READY=1") {
            let _ = process.kill();
            return Err(error.context(process.stderr.text()));
        }
        Ok(Daemon {
            process,
            scene: self,
        })
    }

    /// Starts a daemon that ends by itself.
    pub(crate) fn fail(&self) -> Result<Finished> {
        run(Some(&self.host), self.command()?, SOON)
    }

    /// Waits until systemd would be told this.
    pub(crate) fn hear(&self, news: &str) -> Result<()> {
        let mut buffer = [0; 1024];
        loop {
            let len = self.notify.recv(&mut buffer).context(news.to_owned())?;
            let told = String::from_utf8_lossy(&buffer[..len]);
            if told.lines().any(|line| line == news) {
                return Ok(());
            }
        }
    }

    pub(crate) fn nic(&self, number: usize) -> Result<Nic> {
        Nic::open(&self.initiator, &format!("ini{number}"))
    }

    /// How an export is asked by a cable.
    pub(crate) fn path(&self, nic: &Nic, number: usize, address: (u16, u8)) -> Result<Addressing> {
        Ok(Addressing {
            to: self.host.mac(&format!("tgt{number}"))?,
            from: nic.mac(),
            address,
        })
    }

    /// Runs a command that uses the control socket. Returns what it has printed.
    pub(crate) fn control(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(aoede_binary()?);
        command.args(arguments).arg("--socket");
        command.arg(self.folder.join("control"));
        aoede_e2e::succeed(None, command, SOON)
    }

    /// What `aoede status` says of an export.
    pub(crate) fn status(&self, address: &str) -> Result<serde_json::Value> {
        let status: serde_json::Value =
            serde_json::from_str(&self.control(&["status", "--json"])?)?;
        let exports = status["exports"].as_array().context("no exports")?;
        let export = exports.iter().find(|one| one["address"] == address);
        export.cloned().with_context(|| format!("no {address}"))
    }
}

impl Daemon<'_> {
    /// Has it read another configuration, and waits until it has carried it out.
    pub(crate) fn reload(&mut self, exports: &str) -> Result<()> {
        self.scene.configure(exports)?;
        self.reload_as_is()
    }

    pub(crate) fn reload_as_is(&mut self) -> Result<()> {
        self.process.signal(Signal::HUP)?;
        self.scene.hear("RELOADING=1")?;
        self.scene.hear("READY=1")
    }

    /// Asks it to end, which it must do without complaint.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM)?;
        let status = self.process.wait(SOON)?;
        ensure!(
            status.success(),
            "{status}:\n{}",
            self.process.stderr.text()
        );
        Ok(())
    }
}

/// Asks as initiators do, again and again, until there is an answer.
pub(crate) fn ask(nic: &Nic, request: &[u8]) -> Result<Vec<u8>> {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if let Some(frame) = nic.exchange(request, REPEAT)? {
            return Ok(frame);
        }
    }
    bail!("no answer to {:02x?}", request.get(14..40))
}

/// Status and error registers of a write of one sector full of `byte`.
pub(crate) fn write(nic: &Nic, to: Addressing, tag: u32, lba: u64, byte: u8) -> Result<(u8, u8)> {
    let frame = ask(nic, &to.ata(tag, ata::WRITE, lba, 1, &[byte; 512]))?;
    Ok(Response(&frame).registers())
}

/// The registers of a write that went well.
pub(crate) const DONE: (u8, u8) = (0, 0x40);

/// A sector.
pub(crate) fn read(nic: &Nic, to: Addressing, tag: u32, lba: u64) -> Result<Vec<u8>> {
    let frame = ask(nic, &to.ata(tag, ata::READ, lba, 1, b""))?;
    let read = Response(&frame);
    ensure!(read.registers() == DONE, "{:02x?}", read.registers());
    Ok(read.data().to_vec())
}

/// What answers to a query of everybody, in order.
pub(crate) fn discover(nic: &Nic, tag: u32) -> Result<Vec<(u16, u8)>> {
    let everybody = Addressing {
        to: BROADCAST,
        from: nic.mac(),
        address: EVERY_TARGET,
    };
    nic.send(&everybody.config(tag, config::READ, b""))?;
    let mut found = Vec::new();
    while let Some(frame) = nic.receive(SILENCE)? {
        let answer = Response(&frame);
        if answer.command() == 1 && answer.tag() == tag && answer.flags() & 8 != 0 {
            found.push(answer.address());
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Whether an export keeps silent.
pub(crate) fn is_silent(nic: &Nic, to: Addressing, tag: u32) -> Result<bool> {
    let request = to.config(tag, config::READ, b"");
    Ok(nic.exchange(&request, SILENCE)?.is_none())
}
