//! A Linux machine under emulation, whose kernel has the AoE driver. The test sends it shell
//! commands over a serial line.

use std::{
    fmt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{Finished, Namespace, Packages, Process, initramfs::initramfs};

/// Booting takes 6 s on an idle machine.
const BOOT: Duration = Duration::from_secs(90);

/// What a guest is made of.
#[derive(Clone, Copy, Debug)]
pub struct GuestOptions<'a> {
    /// The taps, in the namespace the guest is started in, that are its eth0, eth1, …
    pub taps: &'a [&'a str],
    /// MTU of its interfaces.
    pub mtu: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// A socket of an NBD server, whose disk is its `/dev/vda`.
    pub nbd_socket: Option<&'a Path>,
}

impl Default for GuestOptions<'_> {
    /// One card at `tap0` with jumbo frames, and room for the programs and 300 MiB of cache.
    fn default() -> Self {
        Self {
            taps: &["tap0"],
            mtu: 9000,
            memory_mib: 1024,
            nbd_socket: None,
        }
    }
}

/// A running guest. Dropping it switches it off.
pub struct Guest {
    machine: Process,
    next_job: u32,
}

/// A command that runs in the guest.
#[derive(Debug)]
#[must_use = "a job that is not finished has no result"]
pub struct Job {
    id: u32,
    command: String,
}

impl Guest {
    /// Boots a guest on the host `namespace` and waits until it takes commands. Its interfaces are
    /// up and the AoE driver is loaded.
    ///
    /// # Errors
    /// It does not boot; the message has its console.
    pub fn boot(namespace: &Namespace, options: GuestOptions<'_>) -> Result<Self> {
        let packages = Packages::open()?;
        let initrd = initramfs(&packages)?;
        let mut command = machine(&packages, options.memory_mib)?;
        // The console on standard error, commands and results on standard input and output.
        command.args([
            "-chardev",
            "file,id=console,path=/dev/stderr",
            "-serial",
            "chardev:console",
            "-serial",
            "stdio",
        ]);
        command
            .arg("-kernel")
            .arg(packages.kernel())
            .arg("-initrd")
            .arg(initrd);
        command.args([
            "-append",
            "console=ttyS0 panic=-1 net.ifnames=0 quiet loglevel=6",
        ]);
        for (index, tap) in options.taps.iter().enumerate() {
            network_card(
                &mut command,
                index,
                tap,
                &format!(",host_mtu={}", options.mtu),
            );
        }
        if let Some(socket) = options.nbd_socket {
            let server = format!("server.type=unix,server.path={}", socket.display());
            command
                .arg("-blockdev")
                .arg(format!("driver=nbd,node-name=disk,discard=unmap,{server}"));
            command.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        let machine = Process::spawn_split("guest", Some(namespace), command)?;
        machine
            .stdout
            .wait_for("@ready", BOOT)
            .with_context(|| format!("the guest does not boot:\n{}", machine.stderr.text()))?;
        Ok(Self {
            machine,
            next_job: 0,
        })
    }

    /// Runs shell commands to their end and returns their output, standard error included.
    ///
    /// # Errors
    /// They fail or take longer; the message has their output and the kernel's messages.
    pub fn run(&mut self, commands: &str, within: Duration) -> Result<String> {
        let job = self.start(commands)?;
        self.succeed(job, within)
    }

    /// Starts shell commands and returns at once.
    ///
    /// # Errors
    /// The guest is gone.
    pub fn start(&mut self, commands: &str) -> Result<Job> {
        self.next_job += 1;
        let id = self.next_job;
        let message = format!("{id} {}\n{commands}\n", commands.split('\n').count());
        self.machine.write(message.as_bytes())?;
        Ok(Job {
            id,
            command: commands.to_owned(),
        })
    }

    /// Whether a job has ended.
    pub fn has_ended(&self, job: &Job) -> bool {
        end_of(&self.machine.stdout.text(), job.id).is_some()
    }

    /// Waits until a job has ended, well or not.
    ///
    /// # Errors
    /// It takes longer, or the guest is gone.
    pub fn finish(&mut self, job: &Job, within: Duration) -> Result<Finished> {
        let text = self.machine.stdout.clone();
        let (code, stdout) = text
            .wait(
                within,
                &format!("`{}` has not ended", job.command),
                |text| Some((end_of(text, job.id)?, output_of(text, job.id))),
            )
            .with_context(|| format!("the guest's console was:\n{}", self.console()))?;
        Ok(Finished {
            code,
            stdout,
            stderr: String::new(),
        })
    }

    /// Waits until a job has ended well and returns its output.
    ///
    /// # Errors
    /// As [`Guest::finish`], and a failing exit code.
    pub fn succeed(&mut self, job: Job, within: Duration) -> Result<String> {
        let finished = self.finish(&job, within)?;
        let Job { command, .. } = job;
        ensure!(
            finished.code == 0,
            "in the guest, `{command}` ended with code {}:\n{}\nconsole:\n{}",
            finished.code,
            finished.stdout,
            self.console()
        );
        Ok(finished.stdout)
    }

    /// Waits until shell commands succeed, trying again every 200 ms, and returns how long it took.
    ///
    /// # Errors
    /// They do not succeed in time.
    pub fn wait_until(&mut self, condition: &str, within: Duration) -> Result<Duration> {
        let start = Instant::now();
        let commands = format!("until {condition}; do sleep 0.2; done");
        self.run(&commands, within)
            .with_context(|| format!("not within {within:?}: {condition}"))?;
        Ok(start.elapsed())
    }

    /// Waits until the driver has the disk `name` (`e1.1`) ready for use.
    ///
    /// # Errors
    /// It is not there in time.
    pub fn wait_for_disk(&mut self, name: &str, within: Duration) -> Result<Duration> {
        self.wait_until(&format!("grep -q up '/sys/block/etherd!{name}/state' 2>/dev/null && test -b /dev/etherd/{name}"), within)
    }

    /// What the driver says about the disk `name`: `state`, `size` (sectors), `payload` (bytes),
    /// `netif`, `mac`.
    ///
    /// # Errors
    /// There is no such disk.
    pub fn disk(&mut self, name: &str, attribute: &str) -> Result<String> {
        let text = self.run(
            &format!("cat '/sys/block/etherd!{name}/{attribute}'"),
            Duration::from_secs(20),
        )?;
        Ok(text.trim().to_owned())
    }

    /// The kernel's messages so far.
    pub fn console(&self) -> String {
        self.machine.stderr.text()
    }
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest")
            .field("id", &self.machine.id())
            .finish_non_exhaustive()
    }
}

/// QEMU without anything the guest does not need, on the processor it has.
pub(crate) fn machine(packages: &Packages, memory_mib: u32) -> Result<Command> {
    let mut command = packages.command("qemu-system-x86_64")?;
    for folder in packages.firmware() {
        command.arg("-L").arg(folder);
    }
    command.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-nodefaults",
        "-nographic",
        "-no-reboot",
    ]);
    command.args(["-m", &memory_mib.to_string()]);
    Ok(command)
}

pub(crate) fn network_card(command: &mut Command, index: usize, tap: &str, options: &str) {
    command.arg("-netdev").arg(format!(
        "tap,id=n{index},ifname={tap},script=no,downscript=no"
    ));
    command.arg("-device").arg(format!(
        "virtio-net-pci,netdev=n{index},mac=52:54:00:00:00:{:02x},romfile={options}",
        index + 1
    ));
}

/// The exit code, once a job has ended.
fn end_of(text: &str, id: u32) -> Option<i32> {
    let marker = format!("@end {id} ");
    // The last line may still be on its way.
    let complete = text.get(..=text.rfind('\n')?)?;
    complete
        .lines()
        .find_map(|line| line.strip_prefix(&marker)?.trim().parse().ok())
}

fn output_of(text: &str, id: u32) -> String {
    let marker = format!("@out {id} ");
    text.lines()
        .filter_map(|line| line.strip_prefix(&marker))
        .flat_map(|line| [line.trim_end_matches('\r'), "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "@ready\n@out 1 a\n@out 2 x\n@out 1 b\n@end 1 3\n@end 2 0";

    #[test]
    fn the_output_of_one_job_is_told_from_the_others() {
        assert_eq!(output_of(TEXT, 1), "a\nb\n");
        assert_eq!(output_of(TEXT, 2), "x\n");
    }

    #[test]
    fn a_job_has_ended_when_its_last_line_is_complete() {
        assert_eq!(end_of(TEXT, 1), Some(3));
        assert_eq!(end_of(TEXT, 2), None);
    }
}
