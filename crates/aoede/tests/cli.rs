//! The command line as a person or a script meets it.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use std::process::{Command, Output};

use aoede::control::config::keys;

fn aoede(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_aoede");
    Command::new(program).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn it_says_its_version() {
    let output = aoede(&["--version"]);
    assert!(output.status.success());
    assert_eq!(
        text(&output.stdout),
        concat!("aoede ", env!("CARGO_PKG_VERSION"), "\n")
    );
}

#[test]
fn every_command_has_help_with_examples() {
    for command in [
        &["--help"][..],
        &["export", "--help"],
        &["check", "--help"],
        &["status", "--help"],
        &["top", "--help"],
        &["reload", "--help"],
        &["freeze", "--help"],
        &["thaw", "--help"],
        &["resize", "--help"],
        &["drain", "--help"],
        &["reset", "--help"],
        &["stop", "--help"],
        &["discover", "--help"],
        &["info", "--help"],
        &["attach", "--help"],
        &["copy", "--help"],
        &["bench", "--help"],
        &["probe", "--help"],
        &["set", "--help"],
        &["demo", "--help"],
    ] {
        let output = aoede(command);
        assert!(output.status.success(), "{command:?}");
        let help = text(&output.stdout);
        assert!(help.contains("Examples:\n  aoede "), "{command:?}: {help}");
    }
}

#[test]
fn wrong_usage_is_code_2_and_a_failure_code_1() {
    for (arguments, code) in [
        (&[][..], 2),
        (&["export"], 2),
        (&["export", "e1.1", "/nowhere"], 2),
        (&["export", "e1.1", "/nowhere", "-i", ""], 2),
        (
            &[
                "export", "e1.1", "/nowhere", "-i", "x", "-r", "--shadow", "s",
            ],
            2,
        ),
        (
            &[
                "export",
                "e1.1",
                "/nowhere",
                "-i",
                "x",
                "--shadow-full",
                "thaw",
            ],
            2,
        ),
        (&["copy", "e1.1", "-i", "x"], 2),
        (&["copy", "one.img", "two.img", "-i", "x"], 2),
        (&["copy", "e1.1", "1.1", "-i", "x"], 2),
        (&["copy", "e1.1", "y", "-i", "x", "--resume", "--force"], 2),
        (&["copy", "e1.1", "y", "-i", "x", "--sync-every", "1"], 2),
        (&["copy", "e1.1", "y", "-i", "no-such-if"], 1),
        (&["bench", "e1.1", "-i", "x", "--rw", "write"], 2),
        (&["bench", "e1.1", "-i", "x", "--seconds", "0"], 2),
        (&["bench", "e1.1", "-i", "no-such-if"], 1),
        (&["no-such-command"], 2),
        (&["export", "e1.1", "/nowhere", "-i", "no-such-if"], 1),
        (&["check", "a", "b"], 2),
        (&["check", "/nowhere"], 1),
        (&["discover"], 2),
        (&["discover", "-i", "no-such-if", "--seconds", "0"], 2),
        (&["discover", "-i", "no-such-if"], 1),
        (&["discover", "-i", "lo"], 1),
        (&["info", "-i", "no-such-if"], 2),
        (&["info", "1", "-i", "no-such-if"], 2),
        (&["info", "e1.1", "-i", "no-such-if"], 1),
        (&["attach", "e1.1", "-i", "no-such-if"], 2),
        (
            &[
                "attach",
                "e1.1",
                "-i",
                "no-such-if",
                "--socket",
                "s",
                "--socket-mode",
                "rw",
            ],
            2,
        ),
        (&["attach", "e1.1", "-i", "no-such-if", "--socket", "s"], 1),
        (&["probe", "e1.1", "-i", "no-such-if"], 1),
        (&["set", "e1.1", "-i", "no-such-if"], 2),
        (&["set", "e1.1", "-i", "no-such-if", "--release"], 1),
    ] {
        let output = aoede(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
        assert!(!output.stderr.is_empty(), "{arguments:?} says nothing");
    }
}

#[test]
fn manual_pages_are_written_for_the_program_and_each_command() {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new").join("man1");
    let output = aoede(&["man", target.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for page in [
        "aoede.1",
        "aoede-export.1",
        "aoede-bench.1",
        "aoede-copy.1",
        "aoede-check.1",
        "aoede-discover.1",
        "aoede-info.1",
        "aoede-attach.1",
        "aoede-probe.1",
        "aoede-set.1",
        "aoede-demo.1",
    ] {
        let roff = std::fs::read_to_string(target.join(page)).unwrap();
        assert!(roff.contains(".SH NAME"), "{page}: {roff}");
    }
    let export = std::fs::read_to_string(target.join("aoede-export.1")).unwrap();
    assert!(export.contains("Examples:") && export.contains("create"));

    // Each key is the head of an entry.
    let config = std::fs::read_to_string(target.join("aoede.toml.5")).unwrap();
    for tables in [keys::TOP, keys::CONTROL, keys::STATUS, keys::EXPORT] {
        for key in tables {
            let head = match key.takes {
                keys::Takes::Table => format!("\n.SH \"\\fB[{}]\\fR\"\n", key.name),
                keys::Takes::Tables => format!("\n.SH \"\\fB[[{}]]\\fR\"\n", key.name),
                _ => format!("\n.TP\n\\fB{}\\fR\n", key.name),
            };
            assert!(config.contains(&head), "{head}");
        }
    }
}

/// As the shell sees it: the script is read without an error, and knows commands and options.
#[test]
fn a_shell_completes_commands_and_options() {
    let ask = r#"
        source <("$0" completions bash) || exit 1
        complete() { words=("$@"); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
            _aoede "$1" "${words[-1]}" "${words[-2]}"; echo "${COMPREPLY[@]}"; }
        complete aoede ex
        complete aoede export --read
    "#;
    let mut bash = Command::new("bash");
    let output = bash
        .args(["-c", ask, env!("CARGO_BIN_EXE_aoede")])
        .output()
        .unwrap();
    assert_eq!(text(&output.stdout), "export\n--read-only\n");
    for (shell, says) in [("zsh", "#compdef aoede"), ("fish", "complete -c aoede")] {
        let output = aoede(&["completions", shell]);
        assert!(output.status.success(), "{shell}");
        assert!(text(&output.stdout).contains(says), "{shell}");
    }
    assert_eq!(aoede(&["completions", "tcsh"]).status.code(), Some(2));
}
