//! `aoede man`: the manual pages, made from the command line's own definition.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

/// Write the manual pages.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Folder to write them to; made if it does not exist.
    folder: PathBuf,
}

pub(super) fn run(args: &ManArgs, command: clap::Command) -> anyhow::Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| args.folder.display().to_string())?;
    clap_mangen::generate_to(command, &args.folder)
        .with_context(|| format!("writing manual pages to {}", args.folder.display()))
}
