//! `aoede reload`, `freeze`, `thaw`, `resize`, `drain`, `reset` and `stop`: what is asked of a
//! daemon over its control socket.

use std::path::PathBuf;

use anyhow::bail;
use aoede_wire::Address;
use clap::Args;
use serde::Serialize;

use crate::control::api::{Drained, FailureReset, Reloaded, Resized, Stopping};
use crate::control::client::Client;
use crate::control::status::FreezeStatus;
use crate::harmless;
use crate::output::{Facts, OutputArgs};
use crate::size::Size;

/// Where the daemon is asked.
#[derive(Args, Clone, Debug)]
pub(super) struct SocketArgs {
    /// The daemon's control socket.
    #[arg(long, value_name = "PATH", default_value = "/run/aoede/control.sock")]
    pub(super) socket: PathBuf,
}

impl SocketArgs {
    pub(super) fn client(&self) -> Client {
        Client::new(&self.socket)
    }
}

const RELOAD_EXAMPLES: &str = "\
Examples:
  aoede check && aoede reload
  aoede reload --json | jq .changes

Only what is another than before is touched; exports that stay do not miss a request. A file with
errors changes nothing. The code is 1 if something could not be done.";

/// Have the daemon read its configuration again and carry out what has changed.
#[derive(Args, Debug)]
#[command(after_help = RELOAD_EXAMPLES)]
pub(super) struct ReloadArgs {
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn reload(args: &ReloadArgs) -> anyhow::Result<()> {
    let reloaded: Reloaded = args.socket.client().post("/v1/reload", "")?;
    for warning in &reloaded.warnings {
        eprintln!("aoede: {}", harmless::line(warning));
    }
    args.output.print(&reloaded)?;
    match reloaded.errors.as_slice() {
        [] => Ok(()),
        errors => bail!("not all of it could be done:\n{}", errors.join("\n")),
    }
}

impl Facts for Reloaded {
    fn text(&self) -> String {
        if self.changes.is_empty() && self.errors.is_empty() {
            return "nothing has changed".to_owned();
        }
        let changes = self.changes.iter();
        let changes: Vec<_> = changes.map(|change| harmless::line(change)).collect();
        changes.join("\n")
    }
}

const FREEZE_EXAMPLES: &str = "\
Examples:
  aoede freeze e1.1 && cp --sparse=always /srv/e1.1.img /backup/ ; aoede thaw e1.1

It returns when the image does not change any more. The disk goes on: what is written meanwhile goes
to its shadow, which the configuration must name. See freeze.md in the documentation.";

/// Keep the image of an export as it is, for a backup, while the disk goes on.
#[derive(Args, Debug)]
#[command(after_help = FREEZE_EXAMPLES)]
pub(super) struct FreezeArgs {
    #[command(flatten)]
    of: ExportArgs,
}

pub(super) fn freeze(args: &FreezeArgs) -> anyhow::Result<()> {
    let status: FreezeStatus = args.of.post("freeze", "")?;
    args.of.print(status)
}

const THAW_EXAMPLES: &str = "\
Examples:
  aoede thaw e1.1
  aoede status e1.1
      Tells how much of the shadow is not in the image yet.

It returns when the shadow begins to be copied into the image; the disk goes on meanwhile.";

/// Let the image of an export change again.
#[derive(Args, Debug)]
#[command(after_help = THAW_EXAMPLES)]
pub(super) struct ThawArgs {
    #[command(flatten)]
    of: ExportArgs,
}

pub(super) fn thaw(args: &ThawArgs) -> anyhow::Result<()> {
    let status: FreezeStatus = args.of.post("thaw", "")?;
    args.of.print(status)
}

impl Facts for FreezeStatus {
    fn text(&self) -> String {
        let mut text = self.phase.name().to_owned();
        if self.dirty_bytes > 0 {
            text = format!("{text}, {} not in the image", Size(self.dirty_bytes));
        }
        if let Some(error) = &self.error {
            text = format!("{text}, after an error: {error}");
        }
        text
    }
}

const RESIZE_EXAMPLES: &str = "\
Examples:
  aoede resize e1.1 20GiB
      Make the file 20 GiB long; initiators are told.
  aoede resize e1.1
      The file or device has another size already: take that.

A disk only grows: what is to be shorter has to be cut by hand.";

/// Give an export another size.
#[derive(Args, Debug)]
#[command(after_help = RESIZE_EXAMPLES)]
pub(super) struct ResizeArgs {
    #[command(flatten)]
    of: ExportArgs,

    /// The new size of the file. Without it, the size that it has.
    size: Option<Size>,
}

pub(super) fn resize(args: &ResizeArgs) -> anyhow::Result<()> {
    let json = args
        .size
        .map(|size| format!(r#"{{"size_bytes":{}}}"#, size.0));
    let resized: Resized = args.of.post("resize", &json.unwrap_or_default())?;
    args.of.print(resized)
}

impl Facts for Resized {
    fn text(&self) -> String {
        let (old, new) = (Size(self.old_size_bytes), Size(self.size_bytes));
        if old == new {
            format!("{new} as before")
        } else {
            format!("{new}, after {old}")
        }
    }
}

const DRAIN_EXAMPLES: &str = "\
Examples:
  aoede drain e1.1
  aoede drain e1.1 && mv /srv/e1.1.img /mnt/e1.1.img
      Then change the path in the configuration, and aoede reload.

It returns when everything acknowledged is on stable storage and the file is closed. Initiators
repeat their requests until it is back. The code is 1 if acknowledged data is lost.";

/// Stop serving one export until the next reload.
#[derive(Args, Debug)]
#[command(after_help = DRAIN_EXAMPLES)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    of: ExportArgs,
}

pub(super) fn drain(args: &DrainArgs) -> anyhow::Result<()> {
    let drained: Drained = args.of.post("drain", "")?;
    args.of.print(drained)?;
    if drained.lost_bytes > 0 {
        bail!(
            "{} that were acknowledged could not be written and are lost: check the file systems \
             on {}",
            Size(drained.lost_bytes),
            args.of.address
        );
    }
    Ok(())
}

impl Facts for Drained {
    fn text(&self) -> String {
        "drained; `aoede reload` serves it again".to_owned()
    }
}

const RESET_EXAMPLES: &str = "\
Examples:
  aoede reset e1.1

When acknowledged data cannot be written, every later write and flush fails, so that nobody goes on
as if all were well. Mend the disk; look with `aoede status e1.1` at what is at risk; then reset: the
daemon tries once more to write it, and goes on.";

/// Go on after a failure to write acknowledged data.
#[derive(Args, Debug)]
#[command(after_help = RESET_EXAMPLES)]
pub(super) struct ResetArgs {
    #[command(flatten)]
    of: ExportArgs,
}

pub(super) fn reset(args: &ResetArgs) -> anyhow::Result<()> {
    let reset: FailureReset = args.of.post("reset", "")?;
    args.of.print(reset)
}

impl Facts for FailureReset {
    fn text(&self) -> String {
        format!("going on; {} are tried again", Size(self.at_risk_bytes))
    }
}

const STOP_EXAMPLES: &str = "\
Examples:
  aoede stop
      What `systemctl stop aoede` does, without systemd.

The daemon finishes what was begun, writes what was acknowledged, and ends. This returns before that.";

/// Have the daemon finish and end.
#[derive(Args, Debug)]
#[command(after_help = STOP_EXAMPLES)]
pub(super) struct StopArgs {
    #[command(flatten)]
    socket: SocketArgs,
    #[command(flatten)]
    output: OutputArgs,
}

pub(super) fn stop(args: &StopArgs) -> anyhow::Result<()> {
    let stopping: Stopping = args.socket.client().post("/v1/stop", "")?;
    args.output.print(&stopping)
}

impl Facts for Stopping {
    fn text(&self) -> String {
        format!("process {} is ending", self.pid)
    }
}

/// What is done with one export.
#[derive(Args, Debug)]
struct ExportArgs {
    /// Address of the export, such as e1.1.
    address: Address,

    #[command(flatten)]
    socket: SocketArgs,

    #[command(flatten)]
    output: OutputArgs,
}

impl ExportArgs {
    fn post<T: serde::de::DeserializeOwned>(&self, what: &str, json: &str) -> anyhow::Result<T> {
        let path = format!("/v1/exports/{}/{what}", self.address);
        Ok(self.socket.client().post(&path, json)?)
    }

    fn print(&self, facts: impl Facts) -> anyhow::Result<()> {
        self.output.print(&Of {
            address: self.address.to_string(),
            facts,
        })
    }
}

/// Facts about one export.
#[derive(Serialize)]
struct Of<T> {
    address: String,
    #[serde(flatten)]
    facts: T,
}

impl<T: Facts> Facts for Of<T> {
    fn text(&self) -> String {
        format!("{}: {}", self.address, harmless::line(&self.facts.text()))
    }
}
