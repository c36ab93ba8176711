//! `cargo xtask fuzz`: every fuzz target for a while, as many side by side as there are cores.

use std::{
    env, fs,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

/// Larger than any frame of an interface with jumbo frames.
const MAX_LEN: u32 = 9014;

/// Fuzz all parsers, starting from the committed seeds; a finding is a failure.
///
/// Needs a nightly compiler and cargo-fuzz. Without them nothing is run, and that is said; with
/// the environment variable CI it is a failure.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// How long to run each target
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Run only this target
    #[arg(long, value_name = "TARGET")]
    only: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !is_there() {
        let message = "NOT RUN: fuzzing needs a nightly compiler and `cargo install cargo-fuzz`";
        ensure!(env::var_os("CI").is_none(), "{message}");
        eprintln!("{message}");
        return Ok(());
    }
    let mut targets = targets()?;
    if let Some(only) = &arguments.only {
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "no fuzz target {only}");
    }
    let built = cargo_fuzz(&["build"]).status()?;
    ensure!(built.success(), "the fuzz targets do not build");

    let side_by_side = thread::available_parallelism().map_or(1, usize::from);
    let mut found = Vec::new();
    for batch in targets.chunks(side_by_side) {
        eprintln!(
            "xtask: fuzzing {} for {} s",
            batch.join(", "),
            arguments.seconds
        );
        let running: Vec<(&String, Child)> = batch
            .iter()
            .map(|target| Ok((target, start(target, arguments.seconds)?)))
            .collect::<Result<_>>()?;
        for (target, child) in running {
            let output = child.wait_with_output()?;
            let log = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                let done = log.lines().rfind(|line| line.starts_with("Done "));
                eprintln!("xtask: {target}: {}", done.context("no closing line")?);
            } else {
                eprintln!("{log}");
                found.push(target.as_str());
            }
        }
    }
    if !found.is_empty() {
        bail!(
            "FAILED: findings in {}; see fuzz/artifacts",
            found.join(", ")
        );
    }
    Ok(())
}

fn start(target: &str, seconds: u32) -> Result<Child> {
    let corpus = format!("fuzz/corpus/{target}");
    fs::create_dir_all(&corpus).with_context(|| corpus.clone())?;
    let seeds = format!("fuzz/seeds/{target}");
    ensure!(Path::new(&seeds).is_dir(), "no folder {seeds}");
    cargo_fuzz(&["run", target, &corpus, &seeds, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={MAX_LEN}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start the fuzz target {target}"))
}

/// The names of the targets, as the files are named.
fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir("fuzz/fuzz_targets").context("not at the root of the repository")? {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    ensure!(!names.is_empty(), "no fuzz targets");
    Ok(names)
}

fn is_there() -> bool {
    let version = cargo_fuzz(&["--version"]).stderr(Stdio::null()).output();
    version.is_ok_and(|output| output.status.success())
}

/// Through rustup's `cargo`, which understands the toolchain; the one that runs us does not.
fn cargo_fuzz(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(["+nightly", "fuzz"]).args(arguments);
    // Set by the cargo that runs us, and wrong for the other compiler.
    for variable in [
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    command
}
