//! The project's own tasks, as `cargo xtask TASK`. Each task has a file; this one only chooses.

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
    Fuzz(fuzz::Arguments),
    Test(test::Arguments),
}

fn main() -> Result<()> {
    match Arguments::parse().task {
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
    }
}
