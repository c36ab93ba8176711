//! The likeliest mistakes, as an administrator meets them: a file on a real host, `aoede check`, and
//! what it says of which line. `mistakes.txt` has many more.

use std::fs;
use std::process::Command;

/// Right but for the host, which has no such interface: that is a warning.
const RIGHT: &str = r#"[[export]]
address = "e1.1"
path = "@/a.img"
interfaces = ["no-such-*"]
"#;

/// A line of [`RIGHT`] (5 is a new one), what stands there instead, the line that is told, and parts
/// of what is told of it: what is wrong, and what to do.
type Mistake = (usize, &'static str, usize, &'static str, &'static str);

const MISTAKES: &[Mistake] = &[
    (1, "[export]", 1, "in double brackets", "[[export]]"),
    (
        2,
        r#"adress = "e1.1""#,
        2,
        "no key `adress`",
        "write `address`",
    ),
    (2, "address = e1.1", 2, "text without quotes", r#""e1.1""#),
    (
        2,
        "address = 1.1",
        2,
        "a number with a point",
        r#"address = "1.1""#,
    ),
    (
        2,
        r#"address = "e1.255""#,
        2,
        "`e1.255` is wrong",
        "a slot of 0 to 254",
    ),
    (
        3,
        r#"path = "@/b.img""#,
        3,
        "there is no",
        r#"create = "10GiB""#,
    ),
    (
        3,
        r#"path = "a.img""#,
        3,
        "does not begin with a slash",
        "the whole path",
    ),
    (
        3,
        r#"path = "@""#,
        3,
        "is a directory",
        "a file or block device in it",
    ),
    (
        4,
        r#"interfaces = "eth0""#,
        4,
        "a list of texts",
        r#"["eth0"]"#,
    ),
    (
        4,
        r#"interfaces = ["lo"]"#,
        4,
        "no Ethernet interface",
        "name one that is",
    ),
    (4, "", 1, "needs `interfaces`", r#"interfaces = ["eth0""#),
    (
        5,
        "cache_size = 64MiB",
        5,
        "text without quotes",
        r#""64MiB""#,
    ),
    (
        5,
        r#"cache = "write-back""#,
        5,
        "no choice `write-back`",
        r#"write "writeback""#,
    ),
    (
        5,
        "dirty_age = 1",
        5,
        "a time in quotes",
        r#"dirty_age = "1s""#,
    ),
    (5, "read_only = yes", 5, "text without quotes", "write true"),
    (
        5,
        "read-only = true",
        5,
        "no key `read-only`",
        "write `read_only`",
    ),
    (
        5,
        r#"allow = ["52:54:00:00:00:1"]"#,
        5,
        "neither a MAC address",
        "52:54:00:00:00:01",
    ),
    (5, "buffers = 1", 5, "out of range", "2 to 1024"),
    (
        5,
        r#"create = "2MiB""#,
        5,
        "exists and has 1048576 bytes",
        "create = 1048576",
    ),
    (
        5,
        "length = 1048576",
        5,
        "goes beyond the end",
        "sectors of 512 bytes",
    ),
    (
        5,
        "[[export]]\naddress = \"e1.1\"\npath = \"@/c.img\"\ncreate = \"1MiB\"\ninterfaces = [\"x*\"]",
        6,
        "the address of two exports",
        "an address of its own",
    ),
    (
        5,
        "[[export]]\naddress = \"e1.2\"\npath = \"@/a.img\"\ninterfaces = [\"x*\"]",
        7,
        "use the same part of one file",
        "a file of its own",
    ),
    (
        5,
        "[status]\nlisten = \"0.0.0.0:80\"",
        6,
        "can be reached from other hosts",
        "beyond_loopback = true",
    ),
];

#[test]
fn the_likeliest_mistakes_are_told_with_line_and_remedy() {
    assert!(MISTAKES.len() >= 20);
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.img"), vec![0; 1 << 20]).unwrap();
    let place = folder.path().to_str().unwrap();
    let file = folder.path().join("aoede.toml");
    let check = |text: &str| {
        fs::write(&file, text.replace('@', place)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_aoede"));
        let output = command.arg("check").arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    assert_eq!(check(RIGHT).0, Some(0));

    for &(replaced, by, line, message, remedy) in MISTAKES {
        let mut lines: Vec<&str> = RIGHT.lines().collect();
        lines.truncate(4);
        lines.resize(5, "");
        lines[replaced - 1] = by;
        let (code, said) = check(&lines.join("\n"));
        assert_eq!(code, Some(1), "{by}: {said}");
        let place = format!("--> {}:{line}:", file.display());
        let told = said.split("error: ").skip(1).any(|one| {
            let first = one.lines().next().unwrap_or_default();
            let help = one.lines().find_map(|line| line.split_once("= help: "));
            first.contains(message)
                && one.contains(&place)
                && help.is_some_and(|(_, help)| help.contains(remedy))
        });
        assert!(told, "{by}: {message}; {remedy}:\n{said}");
    }
}
