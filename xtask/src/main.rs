//! The project's own tasks, as `cargo xtask TASK`. Each task has a file; this one only chooses.

mod bench;
mod crash;
mod deb;
mod fuzz;
mod test;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own tasks.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    Bench(bench::Arguments),
    Crash(crash::Arguments),
    Deb(deb::Arguments),
    Fuzz(fuzz::Arguments),
    Test(test::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Bench(arguments) => bench::run(&arguments),
        Task::Crash(arguments) => crash::run(&arguments),
        Task::Deb(arguments) => deb::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
    }
}
