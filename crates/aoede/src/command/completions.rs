//! `aoede completions`: what a shell completes, made from the command line's own definition.

use std::io::Write as _;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use clap_complete::{aot, generate};

/// Write what a shell needs to complete this program's arguments, to standard output.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    #[value(help = "For /usr/share/bash-completion/completions/aoede")]
    Bash,
    #[value(help = "For /usr/share/zsh/vendor-completions/_aoede")]
    Zsh,
    #[value(help = "For /usr/share/fish/vendor_completions.d/aoede.fish")]
    Fish,
}

pub(super) fn run(args: &CompletionsArgs, mut command: clap::Command) -> anyhow::Result<()> {
    // Not straight to standard output, where a failure would be a panic.
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(aot::Bash, &mut command, "aoede", &mut script),
        Shell::Zsh => generate(aot::Zsh, &mut command, "aoede", &mut script),
        Shell::Fish => generate(aot::Fish, &mut command, "aoede", &mut script),
    }
    let mut output = std::io::stdout().lock();
    output
        .write_all(&script)
        .and_then(|()| output.flush())
        .context("cannot write to standard output")
}
