//! `cargo xtask crash`: the crash tests of the lab, for as long as one likes.

use anyhow::{Result, ensure};
use clap::Args;

use crate::test;

/// Kill the program under load and cut its disk's power, again and again; needs root.
///
/// What was promised must be there afterwards. `cargo xtask test` does the same, but fewer times.
/// At the end stands, for each way of running the program, what the crashes came amid. A failure says the round, the seed, and which sectors hold what they must not. The same seed
/// sends the same requests, but the moments of the crashes differ.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// How often the program is killed
    #[arg(long, value_name = "N", default_value_t = 1000)]
    rounds: u32,
    /// How often the power is cut
    #[arg(long, value_name = "N", default_value_t = 300)]
    cuts: u32,
    /// The seed of an earlier run, in hexadecimal
    #[arg(long, value_name = "SEED")]
    seed: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let (rounds, cuts) = (arguments.rounds.to_string(), arguments.cuts.to_string());
    let mut settings = vec![
        ("AOEDE_CRASH_ROUNDS", rounds.as_str()),
        ("AOEDE_CRASH_CUTS", cuts.as_str()),
    ];
    settings.extend(
        arguments
            .seed
            .as_deref()
            .map(|seed| ("AOEDE_CRASH_SEED", seed)),
    );
    test::build_program()?;
    let passed = test::run_one_story("crash", &settings)?;
    ensure!(passed, "FAILED");
    Ok(())
}
