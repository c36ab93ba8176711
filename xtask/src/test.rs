//! `cargo xtask test`: everything that can be tested on this machine, and a plain word about what
//! could not.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{self, Command},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aoede_e2e::{Packages, lab_folder, target_folder, wait_until};
use clap::{Args, ValueEnum};

/// Seeds of the simulation of the whole, at least 2000.
const SIMULATION_SEEDS: u64 = 2000;
/// In the environment of every process of a run, so that survivors can be found.
const RUN: &str = "AOEDE_E2E_RUN";
/// In the name of every temporary folder of the lab.
const SCRATCH: &str = "aoede-e2e-";

/// Run all tests: without root those of the code, as root also those with real initiators.
///
/// As root, the first run fetches what the tests need (QEMU, a Linux kernel, iPXE, fio, aoetools,
/// vblade, nbdkit) as Debian packages and unpacks it under target/lab. Nothing is installed, and
/// nothing is left behind outside of target.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Run only the tests whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Which part to run
    #[arg(long, value_enum, default_value_t = Part::All)]
    part: Part,
    /// Put another target in the place of ours, to see whether the test bench itself is sound
    #[arg(long, value_enum, default_value_t = Target::Aoede)]
    target: Target,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Everything
    All,
    /// Unit, property and documentation tests: no root, no network
    Code,
    /// Tests in network namespaces and with real initiators: root only
    Lab,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Target {
    /// This project's program
    Aoede,
    /// Debian's vblade; only the stories that any target must pass
    Vblade,
}

/// The stories that any target must pass.
const BENCH: &[&str] = &["kernel", "ipxe", "aoetools", "namespace"];

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    let root = rustix::process::geteuid().is_root();
    let code = arguments.part != Part::Lab && arguments.target == Target::Aoede;
    let lab = arguments.part != Part::Code;
    ensure!(root || code, "these tests need root: {}", as_root());
    let mut failed = Vec::new();
    if code {
        say("tests of the code: cargo test --workspace");
        if !code_tests(arguments)? {
            failed.push("tests of the code");
        }
        if arguments.only.is_none() {
            say(&format!(
                "simulation of the whole: {SIMULATION_SEEDS} seeds"
            ));
            if !simulation()? {
                failed.push("simulation of the whole");
            }
        }
    }
    if lab && root {
        let packages = Packages::open().context("the test bench cannot be set up")?;
        say(&format!(
            "test bench: {} (guest kernel {})",
            lab_folder().display(),
            packages.kernel_version()
        ));
        if arguments.target == Target::Aoede {
            build_program()?;
        }
        say("tests in network namespaces and with real initiators, one after the other");
        if !lab_tests(arguments)? {
            failed.push("tests with real initiators");
        }
    }
    say(&format!("done in {:.0?}", start.elapsed()));
    if lab && !root {
        say(&format!(
            "NOT RUN: the tests in network namespaces and with real initiators (the Linux driver, iPXE, aoetools), \
             because they need root. Run them with: {}",
            as_root()
        ));
    }
    ensure!(failed.is_empty(), "FAILED: {}", failed.join(", "));
    Ok(())
}

fn code_tests(arguments: &Arguments) -> Result<bool> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast"]);
    if let Some(name) = &arguments.only {
        command.args(["--", name]);
    }
    Ok(command.status().context("cannot run cargo")?.success())
}

/// More seeds of the simulation of the whole than unoptimized code could run.
fn simulation() -> Result<bool> {
    let mut command = cargo();
    command.args(["test", "--profile", "simulation", "--package", "aoede"]);
    command.args(["--test", "simulation", "--", "the_whole", "--nocapture"]);
    command.env("AOEDE_SEEDS", SIMULATION_SEEDS.to_string());
    Ok(command.status().context("cannot run cargo")?.success())
}

/// Builds the program that the lab tests.
pub(crate) fn build_program() -> Result<()> {
    say("program under test: cargo build --release --package aoede");
    let built = cargo()
        .args(["build", "--release", "--package", "aoede"])
        .status()?;
    ensure!(built.success(), "the program does not build");
    Ok(())
}

/// Runs one file of the lab's tests with these variables in its environment, and looks for what it
/// leaves behind. Says whether all was well.
pub(crate) fn run_one_story(name: &str, environment: &[(&str, &str)]) -> Result<bool> {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast", "--package", "aoede-e2e"]);
    command
        .args(["--test", name, "--", "--ignored", "--nocapture"])
        .arg("--test-threads=1");
    command.envs(environment.iter().copied());
    command.env("AOEDE_BIN", target_folder().join("release/aoede"));
    run_and_look(command)
}

fn lab_tests(arguments: &Arguments) -> Result<bool> {
    let mut command = cargo();
    command.args(["test", "--no-fail-fast"]);
    match arguments.target {
        // Not --doc: there, `ignore` means something else.
        Target::Aoede => {
            command.args(["--workspace", "--lib", "--bins", "--tests"]);
            command.env("AOEDE_BIN", target_folder().join("release/aoede"));
        }
        Target::Vblade => {
            command
                .args(["--package", "aoede-e2e"])
                .args(BENCH.iter().flat_map(|name| ["--test", name]));
            command.env("AOEDE_E2E_TARGET", "vblade");
        }
    }
    command
        .args(["--", "--ignored", "--test-threads=1"])
        .args(&arguments.only);
    run_and_look(command)
}

/// Runs tests, then looks for what they left behind.
fn run_and_look(mut command: Command) -> Result<bool> {
    let run = format!("{}-{}", process::id(), env!("CARGO_PKG_NAME"));
    command.env(RUN, &run);
    let passed = command.status().context("cannot run cargo")?.success();
    let clean = nothing_left(&run);
    if let Err(error) = &clean {
        say(&format!("{error:#}"));
    }
    Ok(passed && clean.is_ok())
}

/// Looks for processes, mounts, loop devices and temporary folders of a run that has ended.
fn nothing_left(run: &str) -> Result<()> {
    // The kernel kills the children of a test that died, but not before the test has ended.
    let gone = wait_until("all processes end", Duration::from_secs(5), || {
        Ok(survivors(run).is_empty())
    });
    ensure!(
        gone.is_ok(),
        "processes are left behind: {}",
        survivors(run).join(", ")
    );
    let mounts = mounts_left();
    ensure!(
        mounts.is_empty(),
        "mounts are left behind:\n{}",
        mounts.join("\n")
    );
    for entry in entries(Path::new("/sys/block")) {
        let file = fs::read_to_string(entry.join("loop/backing_file")).unwrap_or_default();
        ensure!(
            !file.contains(SCRATCH),
            "{} is left behind on {file}",
            entry.display()
        );
    }
    let folders: Vec<PathBuf> = entries(&env::temp_dir())
        .filter(|path| abandoned(path))
        .collect();
    ensure!(
        folders.is_empty(),
        "temporary folders are left behind: {folders:?}"
    );
    Ok(())
}

/// Mounts in temporary folders of lab processes that are gone, as any process sees them: tests with
/// FUSE mount in a namespace of their own, which lasts as long as a process is in it.
fn mounts_left() -> Vec<String> {
    let tables = entries(Path::new("/proc")).map(|path| path.join("mountinfo"));
    let tables = tables.filter_map(|path| Some((fs::read_to_string(&path).ok()?, path)));
    tables
        .flat_map(|(table, path)| {
            let left = table.lines().filter(|line| {
                // The fifth field is where it is mounted (proc_pid_mountinfo(5)).
                let point = line.split(' ').nth(4).unwrap_or_default();
                Path::new(point).ancestors().any(abandoned)
            });
            let told = left.map(|line| format!("{}: {line}", path.display()));
            told.collect::<Vec<_>>()
        })
        .collect()
}

/// Whether this is a temporary folder of a lab process that is gone.
fn abandoned(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    let owner = name
        .and_then(|name| name.strip_prefix(SCRATCH))
        .and_then(|rest| rest.split('-').next());
    owner.is_some_and(|owner| !Path::new("/proc").join(owner).exists())
}

/// Processes that carry the mark of a run.
fn survivors(run: &str) -> Vec<String> {
    let mark = format!("{RUN}={run}");
    let marked = entries(Path::new("/proc")).filter(|path| {
        let environment = fs::read(path.join("environ")).unwrap_or_default();
        environment
            .split(|&byte| byte == 0)
            .any(|variable| variable == mark.as_bytes())
    });
    marked
        .map(|path| {
            format!(
                "{} ({})",
                path.display(),
                fs::read_to_string(path.join("comm"))
                    .unwrap_or_default()
                    .trim()
            )
        })
        .collect()
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
}

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    // Errors of the stories carry their own context; a backtrace of the harness only hides it.
    command.env("RUST_LIB_BACKTRACE", "0");
    command
}

/// The command for the part that was left out. It has a build folder of its own: files of root in
/// the usual one would be in the way afterwards.
fn as_root() -> &'static str {
    "sudo env \"PATH=$PATH\" \"HOME=$HOME\" CARGO_TARGET_DIR=target/root cargo xtask test --part lab"
}

fn say(text: &str) {
    eprintln!("\n=== {text}");
}
