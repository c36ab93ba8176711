//! The unit for systemd, as systemd's own tools see it. Without them, nothing is tested, and that is
//! said.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Output};

const UNIT: &str = include_str!("../../../contrib/systemd/aoede.service");
const PROGRAM: &str = "/usr/bin/aoede";
/// In tenths, where 0 is best. Systemd calls what is below 50 "OK"; a packet target is a root process
/// on the host's network and cannot come near 0.
const MOST_EXPOSED: &str = "35";

/// The unit with the program that was built, in a folder of its own.
fn unit() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let text = UNIT.replace(PROGRAM, env!("CARGO_BIN_EXE_aoede"));
    std::fs::write(folder.path().join("aoede.service"), text).unwrap();
    folder
}

/// Runs systemd-analyze, if there is one.
fn analyze(arguments: &[&str], file: &Path) -> Option<Output> {
    let mut command = Command::new("systemd-analyze");
    match command.args(arguments).arg(file).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("NOT RUN: there is no systemd-analyze");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn text(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn systemd_understands_every_line() {
    let folder = unit();
    let file = folder.path().join("aoede.service");
    let Some(output) = analyze(&["verify", "--man=no"], &file) else {
        return;
    };
    // It may have something to say about other units of this host.
    let said = text(&output);
    assert!(!said.contains("aoede"), "{said}");
    // A line that it does not understand is seen.
    let wrong = UNIT.replace("WatchdogSec=30", "WatchdogSec=soon");
    std::fs::write(&file, wrong.replace(PROGRAM, "/bin/true")).unwrap();
    let said = text(&analyze(&["verify", "--man=no"], &file).unwrap());
    assert!(said.contains("soon"), "{said}");
}

#[test]
fn the_service_is_little_exposed() {
    let folder = unit();
    let file = folder.path().join("aoede.service");
    let arguments = ["security", "--offline=true", "--threshold", MOST_EXPOSED];
    let Some(output) = analyze(&arguments, &file) else {
        return;
    };
    assert!(output.status.success(), "{}", text(&output));
    // The same without its lines for that is not.
    let bare = "[Service]\nType=notify\nExecStart=/bin/true\n";
    std::fs::write(&file, bare).unwrap();
    assert!(!analyze(&arguments, &file).unwrap().status.success());
}

/// What the daemon's own filter lets through must not be refused by systemd's, and neither may what
/// it needs to install that filter.
#[test]
fn systemd_s_filter_lets_through_what_the_program_needs() {
    let mut list = Command::new("systemd-analyze");
    let Ok(output) = list.arg("syscall-filter").output() else {
        eprintln!("NOT RUN: there is no systemd-analyze");
        return;
    };
    let sets = text(&output);
    let mut allowed = std::collections::BTreeSet::new();
    for line in UNIT.lines() {
        let Some(list) = line.strip_prefix("SystemCallFilter=") else {
            continue;
        };
        let (list, refuse) = match list.strip_prefix('~') {
            Some(list) => (list, true),
            None => (list, false),
        };
        for name in list.split(' ') {
            for call in members(&sets, name) {
                if refuse {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    // Those that any list of systemd's has.
    allowed.extend(members(&sets, "@default"));
    let source = include_str!("../src/sandbox/calls.rs");
    let own = source.split("libc::SYS_").skip(1);
    let own = own.map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        &rest[..end.unwrap()]
    });
    let own: Vec<&str> = own.collect();
    assert!(own.len() > 100, "{own:?}");
    for call in own.into_iter().chain(["capset", "seccomp", "execve"]) {
        assert!(allowed.contains(call), "{call}");
    }
    for call in ["mount", "ptrace", "bpf", "init_module", "reboot"] {
        assert!(!allowed.contains(call), "{call}");
    }
}

/// The system calls of a set, and of the sets in it; a call is itself.
fn members(sets: &str, name: &str) -> Vec<String> {
    if !name.starts_with('@') {
        return vec![name.to_owned()];
    }
    let mut lines = sets.lines().skip_while(|line| *line != name).skip(1);
    let mut found = Vec::new();
    for line in lines.by_ref().take_while(|line| line.starts_with(' ')) {
        let line = line.trim();
        if !line.starts_with('#') {
            found.extend(members(sets, line));
        }
    }
    assert!(!found.is_empty(), "there is no {name}");
    found
}
