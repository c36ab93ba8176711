//! `aoede attach`: an AoE disk as an NBD server, in a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use crate::{Finished, Log, Namespace, Process, aoede_binary, run};

/// How long it may take to find the disk.
const START: Duration = Duration::from_secs(30);

/// A running `aoede attach` of e1.1. Dropping it kills it and prints its log.
#[derive(Debug)]
pub struct Attachment {
    process: Process,
    socket: PathBuf,
    ready: String,
}

impl Attachment {
    /// Attaches e1.1 by `interface` on the host `namespace`, and waits until clients can connect to
    /// `socket`. `arguments` are further ones.
    ///
    /// # Errors
    /// It ends or stays silent; the message has its output.
    pub fn start(
        namespace: &Namespace,
        interface: &str,
        socket: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let command = command(interface, socket, arguments)?;
        let process = Process::spawn_split("attach", Some(namespace), command)?;
        let text = process
            .stdout
            .wait_for("\n", START)
            .with_context(|| format!("the disk is not attached:\n{}", process.stderr.text()))?;
        Ok(Self {
            process,
            socket: socket.to_owned(),
            ready: text.trim_end().to_owned(),
        })
    }

    /// The same, but it ends by itself.
    ///
    /// # Errors
    /// It does not.
    pub fn fail(
        namespace: &Namespace,
        interface: &str,
        socket: &Path,
        arguments: &[&str],
    ) -> Result<Finished> {
        run(
            Some(namespace),
            command(interface, socket, arguments)?,
            START,
        )
    }

    /// What it printed when clients could connect.
    pub fn ready(&self) -> &str {
        &self.ready
    }

    /// The URI for clients, which it prints without `--json`.
    pub fn uri(&self) -> &str {
        &self.ready
    }

    /// Where clients connect.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What it has logged.
    pub fn log(&self) -> &Log {
        &self.process.stderr
    }

    /// Asks it to stop with SIGTERM, and waits until it has.
    ///
    /// # Errors
    /// It has ended before, or does not end.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.process.signal(Signal::TERM)?;
        self.process.wait(START)
    }

    /// Kills it with SIGKILL.
    ///
    /// # Errors
    /// It cannot be killed.
    pub fn kill(mut self) -> Result<()> {
        self.process.kill()
    }
}

fn command(interface: &str, socket: &Path, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(aoede_binary()?);
    command
        .args(["attach", "e1.1", "-i", interface, "--socket"])
        .arg(socket)
        .args(arguments);
    Ok(command)
}
