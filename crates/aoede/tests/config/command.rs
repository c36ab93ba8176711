//! `aoede check` as a person or a script meets it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::export;

fn check(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_aoede");
    let mut command = Command::new(program);
    command.arg("check").args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// A folder with a configuration of one export, which is in the folder too.
fn folder(lines: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("a.img");
    fs::write(&image, [0; 1024]).unwrap();
    let text = export(lines).replace("/srv/a", image.to_str().unwrap());
    // Hosts differ in what they have.
    let text = text.replace("eth0", "no-such-if");
    let file = folder.path().join("aoede.toml");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_right_one_is_listed_and_warnings_are_no_failure() {
    let (folder, file) = folder("");
    let output = check(&[&file]);
    assert_eq!(output.status.code(), Some(0));
    let shown = text(&output.stdout);
    let first = format!("{file} is right: 1 export on 0 interfaces, 1 warning\n\n");
    assert!(shown.starts_with(&first), "{shown}");
    assert!(shown.contains("\nADDRESS  PATH "), "{shown}");
    assert!(shown.contains("\ne1.1 "), "{shown}");
    let said = text(&output.stderr);
    assert!(
        said.starts_with("warning: there is no interface `no-such-if` now\n"),
        "{said}"
    );
    assert_eq!(names(folder.path()), ["a.img", "aoede.toml"]);
}

#[test]
fn a_wrong_one_is_a_failure_with_its_lines() {
    let (_folder, file) = folder("buffers = 1\noffset = 2");
    let output = check(&[&file]);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let said = text(&output.stderr);
    assert!(said.contains(&format!("--> {file}:5:11\n")), "{said}");
    assert!(said.contains("`offset` leaves nothing of"), "{said}");
    assert!(
        said.ends_with(&format!("\naoede: {file}: 2 errors\n")),
        "{said}"
    );
}

#[test]
fn of_many_mistakes_the_first_are_shown_and_all_are_counted() {
    let keys: Vec<String> = (0..60).map(|number| format!("x{number} = 1")).collect();
    let (_folder, file) = folder(&keys.join("\n"));
    let output = check(&[&file]);
    let said = text(&output.stderr);
    assert_eq!(
        said.matches("\n  = help: ").count() + said.matches("\n   = help: ").count(),
        50
    );
    // The interface that is not there is one more.
    let end = format!("\nand 11 more\n\naoede: {file}: 60 errors\n");
    assert!(said.ends_with(&end), "{said}");
}

#[test]
fn nothing_is_made() {
    let (folder, file) = folder("create = \"1MiB\"\nshadow = \"/tmp/no-such-shadow\"");
    fs::remove_file(folder.path().join("a.img")).unwrap();
    assert_eq!(check(&[&file]).status.code(), Some(0));
    assert_eq!(names(folder.path()), ["aoede.toml"]);
}

#[test]
fn programs_get_all_of_it_as_json() {
    let (_folder, file) = folder("buffers = 1");
    let output = check(&[&file, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["right"], false);
    assert_eq!(verdict["file"], file.as_str());
    let error = &verdict["errors"][0];
    assert_eq!(error["severity"], "error");
    assert_eq!(
        (error["line"].as_u64(), error["column"].as_u64()),
        (Some(5), Some(11))
    );
    assert_eq!(error["message"], "`buffers` is out of range");
    assert_eq!(verdict["warnings"][0]["line"], 4);

    let (_folder, file) = folder("");
    let output = check(&[&file, "--json"]);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["right"], true);
    let export = &verdict["exports"][0];
    assert_eq!(
        (&export["address"], &export["cache"]),
        (&"e1.1".into(), &"writethrough".into())
    );
    assert_eq!(export["interfaces"][0], "no-such-if");
    assert!(output.stderr.is_empty());
}

#[test]
fn what_is_no_text_is_named_by_its_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    fs::write(&file, b"# one\n# \xff\n").unwrap();
    let output = check(&[file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("x.toml:2: this is no UTF-8"), "{said}");
}

#[test]
fn a_terminal_gets_no_orders_from_a_file_or_its_name() {
    let (folder, file) = folder("# \u{9b}2J\u{202e}\nmodel = \"\\u009b\\u202e\"\n");
    let named = folder.path().join("a\u{9b}\u{202e}\u{7f}.toml");
    fs::rename(file, &named).unwrap();
    let named = named.to_str().unwrap();
    let missing = format!("{named}.not");
    let runs: [&[&str]; 3] = [&[named], &[named, "--json"], &[&missing]];
    for arguments in runs {
        let output = check(arguments);
        assert_eq!(output.status.code(), Some(1));
        let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
        let is_order = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
        assert!(!said.contains(is_order), "{said:?}");
        assert!(said.contains("9b") && said.contains("202e"), "{said}");
    }
    let output = check(&[named, "--json"]);
    let verdict: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(verdict["file"], named);
    assert_eq!(
        verdict["errors"][0]["message"],
        "`model` cannot be `\\u{9b}\\u{202e}`"
    );
}
