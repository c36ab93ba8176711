//! `aoede status`: what a daemon does.

pub(super) mod figures;
mod single;
pub(super) mod tables;

use std::thread;
use std::time::Duration;

use anyhow::bail;
use aoede_wire::Address;
use clap::Args;
use serde::Serialize;

use self::figures::{or, uptime};
use self::single::{Single, failed};
use super::control::SocketArgs;
use crate::control::rates::Interval;
use crate::control::status::Status;
use crate::harmless;
use crate::output::{Facts, OutputArgs};

const EXAMPLES: &str = "\
Examples:
  aoede status
      Exports, initiators, interfaces and workers, with the rates of half a second.
  aoede status e1.1
      All about one export.
  aoede status --json | jq '.exports[] | select(.failure != null) | .address'

Only members of the socket's group may ask. `aoede top` shows the same, live. The fields of JSON are
in control.md of the documentation. The code is 0 also when an export has failed.";

/// Show what a daemon serves, to whom, and how it goes.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// Show all about this export only, such as e1.1.
    address: Option<Address>,

    #[command(flatten)]
    socket: SocketArgs,

    #[command(flatten)]
    output: OutputArgs,
}

/// Between two looks, for rates.
const LOOK: Duration = Duration::from_millis(500);

pub(super) fn run(args: &StatusArgs) -> anyhow::Result<()> {
    let client = args.socket.client();
    let mut status = client.status()?;
    let mut before = None;
    // Programs take the rates from counters, as they like.
    if !args.output.json {
        thread::sleep(LOOK);
        before = Some(std::mem::replace(&mut status, client.status()?));
    }
    let Some(address) = args.address else {
        return args.output.print(&Overview { status, before });
    };
    let address = address.to_string();
    let Some(export) = status.export(&address).cloned() else {
        let exports = status.exports.iter().map(|one| one.address.as_str());
        let exports: Vec<&str> = exports.collect();
        bail!(
            "there is no export {address}; there are: {}",
            or(&exports.join(", "), "none")
        );
    };
    let interval = before.as_ref().and_then(|old| Interval::new(old, &status));
    let rates = interval.map(|interval| interval.export(&export));
    args.output.print(&Single {
        export,
        rates: rates.unwrap_or_default(),
    })
}

/// Everything.
#[derive(Serialize)]
struct Overview {
    #[serde(flatten)]
    status: Status,
    #[serde(skip)]
    before: Option<Status>,
}

impl Facts for Overview {
    fn text(&self) -> String {
        let status = &self.status;
        let interval = self.before.as_ref();
        let interval = interval.and_then(|before| Interval::new(before, status));
        let parts = [
            head(status),
            tables::exports(status, interval),
            tables::initiators(status.exports.iter()),
            tables::interfaces(&status.interfaces),
            tables::workers(&status.workers),
            troubles(status),
        ];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("\n")
    }
}

fn head(status: &Status) -> String {
    let daemon = &status.daemon;
    let mut text = format!(
        "aoede {}, process {}, up {}, as {} says\n",
        daemon.program_version,
        daemon.pid,
        uptime(status.uptime_us),
        daemon.config_file,
    );
    if let Some(reload) = daemon.last_reload.as_ref().filter(|one| !one.succeeded) {
        let ago = status.uptime_us.saturating_sub(reload.uptime_us);
        text = format!("{text}the last reload, {} ago, met errors:\n", uptime(ago));
        for error in &reload.errors {
            text = format!("{text}  {error}\n");
        }
    }
    harmless::lines(&text).into_owned()
}

/// What somebody has to do something about.
fn troubles(status: &Status) -> String {
    let failures = status.exports.iter().filter_map(|export| {
        let failure = export.failure.as_ref()?;
        Some(format!(
            "{}: {}; mend the disk, then aoede reset {}\n",
            export.address,
            failed(failure),
            export.address
        ))
    });
    let text: String = failures.collect();
    harmless::lines(&text).into_owned()
}
