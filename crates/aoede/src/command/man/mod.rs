//! `aoede man`: the manual pages, made from the command line's own definition and from the manual of
//! the configuration.

mod markdown;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

/// The manual of the configuration: `aoede.toml(5)`.
const CONFIGURATION: &str = include_str!("../../../../../docs/configuration.md");

/// Write the manual pages: one of the program, one of each command, and aoede.toml(5).
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Folder to write them to; made if it does not exist.
    folder: PathBuf,
}

pub(super) fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    clap_mangen::generate_to(command, &args.folder)
        .and_then(|()| {
            let page = format!("{HEAD}{}{TAIL}", markdown::to_roff(CONFIGURATION));
            fs::write(args.folder.join("aoede.toml.5"), page)
        })
        .with_context(|| format!("writing manual pages to {}", args.folder.display()))
}

const HEAD: &str = concat!(
    ".TH aoede.toml 5 \"\" \"aoede ",
    env!("CARGO_PKG_VERSION"),
    "\" \"File Formats\"\n",
    ".SH NAME\n",
    "aoede.toml \\- configuration of the ATA\\-over\\-Ethernet target\n",
    ".SH SYNOPSIS\n",
    ".I /etc/aoede/aoede.toml\n",
    ".SH DESCRIPTION\n",
);

const TAIL: &str = ".SH SEE ALSO\n.BR aoede (1),\n.BR aoede\\-check (1)\n";
