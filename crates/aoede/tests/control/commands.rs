//! The commands that ask a daemon.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use aoede::control::status::Status;

use crate::fake::{Fake, status};

fn aoede(socket: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aoede"));
    command.args(arguments).arg("--socket").arg(socket);
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn the_tables_say_how_everything_is() {
    let fake = Fake::start();
    let output = aoede(&fake.socket(), &["status"]);
    assert_eq!(output.status.code(), Some(0));
    let expected = "\
aoede 1.2.3, process 4711, up 1h 2m 3s, as /etc/aoede/aoede.toml says

ADDRESS  STATE          SIZE  ACCESS       WORKER  READ/s  WRITE/s  IOPS  READ p50  p99  WRITE p50  p99    DIRTY  HITS  INITIATORS  DROPS  PATH
e1.1     serving       1 GiB  read, write       0       0        0     0         -    -          -    -    8 KiB  75 %           1      8  /srv/e1.1.img
e1.2     write failed  5 MiB  read              0       0        0     0         -    -          -    -  0 bytes     -           0      0  /srv/\\u{1b}[2J<b>\"\\

EXPORT  INITIATOR          SILENT  UNDER WAY  REQUESTS     READ  WRITTEN  PAYLOAD  DUPLICATES  EXTENSIONS
e1.1    52:54:00:00:00:aa   12 ms          2       130  400 KiB   80 KiB     8192           3  tags, crc32c

INTERFACE  STATE  MAC                 MTU  WORKER      RING  RECEIVED  SENT  RING FULL  NOT SENT
eth0       up     52:54:00:00:00:01  9000       0  2 of 256      1000   990          5         0

WORKER  EXPORTS   BUFFERS  WAITING  FRAMES  RESPONSES  NO BUFFER  LOST
     0        2  3 of 256        0    1000        990          0     0

e1.2: acknowledged data cannot be written (Input/output error); 4.5 KiB at risk: LBA 8-15, 96; mend the disk, then aoede reset e1.2
";
    assert_eq!(text(&output.stdout), expected);
}

#[test]
fn one_export_has_a_sheet() {
    let fake = Fake::start();
    let output = aoede(&fake.socket(), &["status", "e1.1"]);
    let sheet = text(&output.stdout);
    for line in [
        "buffers      64, 2 under way\n",
        "duplicates   1 of done writes, 2 of writes in progress, 0 too old to tell\n",
        "dirty        8 KiB of 32 MiB; 4 syncs, 0 writes tried again\n",
        "drops        checksum=1 masked=7\n",
    ] {
        assert!(sheet.contains(line), "{line}: {sheet}");
    }
    let output = aoede(&fake.socket(), &["status", "e1.3"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "aoede: there is no export e1.3; there are: e1.1, e1.2\n"
    );
}

#[test]
fn json_is_what_the_daemon_says() {
    let fake = Fake::start();
    let output = aoede(&fake.socket(), &["status", "--json"]);
    let told: Status = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told, status());
    let output = aoede(&fake.socket(), &["status", "e1.2", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["failure"]["at_risk_bytes"], 4608);
}

#[test]
fn what_is_done_is_told_in_a_line() {
    let fake = Fake::start();
    for (arguments, code, out, err) in [
        (&["reload"][..], 0, "e1.1: read only\ne1.2: opened\n", ""),
        (&["freeze", "e1.1"], 0, "e1.1: frozen\n", ""),
        (&["thaw", "e1.1"], 1, "", "aoede: e1.1 is not frozen\n"),
        (&["resize", "e1.1"], 0, "e1.1: 3 GiB, after 1 GiB\n", ""),
        (
            &["resize", "e1.1", "2GiB"],
            0,
            "e1.1: 2 GiB, after 1 GiB\n",
            "",
        ),
        (
            &["resize", "e1.1", "1GiB"],
            0,
            "e1.1: 1 GiB as before\n",
            "",
        ),
        (
            &["drain", "e1.1"],
            1,
            "e1.1: drained; `aoede reload` serves it again\n",
            "aoede: 4 KiB that were acknowledged could not be written and are lost: check the \
             file systems on e1.1\n",
        ),
        (
            &["drain", "e7.7"],
            1,
            "",
            "aoede: there is no export e7.7; look with aoede status\n",
        ),
        (
            &["reset", "e1.1"],
            0,
            "e1.1: going on; 12 KiB are tried again\n",
            "",
        ),
        (&["stop"], 0, "process 4711 is ending\n", ""),
    ] {
        let output = aoede(&fake.socket(), arguments);
        let found = (
            output.status.code(),
            text(&output.stdout),
            text(&output.stderr),
        );
        assert_eq!(found, (Some(code), out, err), "{arguments:?}");
    }
    let output = aoede(&fake.socket(), &["reset", "e1.1", "--json"]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        told,
        serde_json::json!({"address": "e1.1", "at_risk_bytes": 12288})
    );
}

#[test]
fn without_a_daemon_the_remedy_is_to_start_it() {
    let folder = tempfile::tempdir().unwrap();
    let nothing = folder.path().join("nothing");
    let stale = folder.path().join("stale");
    drop(UnixListener::bind(&stale).unwrap());
    for socket in [nothing, stale] {
        let output = aoede(&socket, &["status"]);
        assert_eq!(output.status.code(), Some(1));
        let expected = format!(
            "aoede: no daemon answers at {}: start it (systemctl start aoede), or say where its \
             socket is (--socket)\n",
            socket.display()
        );
        assert_eq!(text(&output.stderr), expected);
    }
}

/// As user nobody, who is in no group of interest.
#[test]
fn who_may_not_is_told_who_may() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let fake = Fake::start();
    let socket = fake.socket();
    let folder = socket.parent().unwrap();
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    // The program itself may be where nobody can go.
    let program = folder.join("aoede");
    std::fs::copy(env!("CARGO_BIN_EXE_aoede"), &program).unwrap();
    for (mode, who) in [
        (0o600, "root, or the user that the daemon runs as"),
        (0o660, "root, or a member of the group root"),
    ] {
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&program);
        command.args(["reload", "--socket"]).arg(&socket);
        let output = command.uid(65534).gid(65534).output().unwrap();
        let told = text(&output.stderr);
        let expected = format!(
            "aoede: not permitted to use {}: do this as {who}\n",
            socket.display()
        );
        assert_eq!(told, expected);
    }
}

#[test]
fn what_is_no_daemon_is_not_understood() {
    use std::io::{Read as _, Write as _};
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("other");
    let listener = UnixListener::bind(&socket).unwrap();
    for (answer, words) in [
        (&b"220 mail\r\n"[..], "this is no HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}",
            "this is no HTTP",
        ),
        (
            b"HTTP/1.1 500 Bad\r\nContent-Length: 2\r\n\r\n{}",
            "status 500 without a reason",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{\"version\":9}",
            "form 9",
        ),
    ] {
        let listener = listener.try_clone().unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let output = aoede(&socket, &["status", "--json"]);
        other.join().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            text(&output.stderr).contains(words),
            "{}",
            text(&output.stderr)
        );
    }
}
