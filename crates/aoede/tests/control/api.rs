//! What other programs meet at the socket.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc;

use aoede::control::api::{Call, Socket, SocketError};
use aoede::control::status::{FreezeStatus, ReloadStatus, Status};
use serde_json::{Value, json};

use crate::fake::{Fake, answer, status};

/// Code and JSON of an answer.
fn split(answer: &str) -> (u16, Value) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(head.contains("content-type: application/json"), "{head}");
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    (code, serde_json::from_str(body).unwrap())
}

fn ask(fake: &Fake, line: &str, body: &str) -> (u16, Value) {
    let len = body.len();
    let request = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len}\r\n\r\n{body}"
    );
    split(&fake.exchange(&request))
}

#[test]
fn the_status_arrives_as_it_was_told() {
    let fake = Fake::start();
    let (code, json) = ask(&fake, "GET /v1/status", "");
    assert_eq!(code, 200);
    assert_eq!(json["exports"][0]["address"], "e1.1");
    assert_eq!(json["exports"][0]["read_bytes"], 409_600);
    assert_eq!(json["exports"][1]["failure"]["at_risk"][0]["lba"], 8);
    let told: Status = serde_json::from_value(json).unwrap();
    assert_eq!(told, status());
}

#[test]
fn everything_can_be_done() {
    let fake = Fake::start();
    for (line, body, code, expected) in [
        ("POST /v1/stop", "", 200, json!({"pid": 4711})),
        (
            "POST /v1/exports/e1.1/resize",
            r#"{"size_bytes": 2147483648}"#,
            200,
            json!({"old_size_bytes": 1 << 30, "size_bytes": 2_147_483_648_u64}),
        ),
        (
            "POST /v1/exports/1.1/resize",
            "",
            200,
            json!({"old_size_bytes": 1 << 30, "size_bytes": 3_221_225_472_u64}),
        ),
        (
            "POST /v1/exports/e1.1/drain",
            "",
            200,
            json!({"lost_bytes": 4096}),
        ),
        (
            "POST /v1/exports/e1.1/reset",
            "",
            200,
            json!({"at_risk_bytes": 12288}),
        ),
        (
            "POST /v1/exports/e1.1/thaw",
            "",
            409,
            json!({"reason": "conflict", "message": "e1.1 is not frozen", "remedy": ""}),
        ),
        (
            "POST /v1/exports/e9.9/drain",
            "",
            404,
            json!({
                "reason": "not_found",
                "message": "there is no export e9.9",
                "remedy": "look with aoede status"
            }),
        ),
    ] {
        assert_eq!(ask(&fake, line, body), (code, expected), "{line}");
    }
    let (code, json) = ask(&fake, "POST /v1/exports/e1.1/freeze", "");
    assert_eq!((code, &json["phase"]), (200, &json!("frozen")));
    let (code, json) = ask(&fake, "POST /v1/reload", "");
    assert_eq!((code, &json["changes"][1]), (200, &json!("e1.2: opened")));
}

#[test]
fn what_is_wrong_is_told_with_a_remedy() {
    let fake = Fake::start();
    let long = format!("{{\"size_bytes\": {}1}}", " ".repeat(5000));
    for (line, body, code, words) in [
        ("GET /v2/status", "", 404, "/v1/status"),
        ("POST /v1/status", "", 405, "GET"),
        ("GET /v1/stop", "", 405, "POST"),
        ("POST /v1/exports/disk/drain", "", 400, "such as e1.1"),
        (
            "POST /v1/exports/e1.1/resize",
            "{\"size\": 1}",
            400,
            "size_bytes",
        ),
        ("POST /v1/exports/e1.1/resize", "1G", 400, "size_bytes"),
        ("POST /v1/exports/e1.1/resize", &long, 400, "limit"),
    ] {
        let (found, json) = ask(&fake, line, body);
        assert_eq!(found, code, "{line}");
        let told = format!("{} {}", json["message"], json["remedy"]);
        assert!(told.contains(words), "{line}: {told}");
    }
}

#[test]
fn who_goes_away_or_sends_nonsense_does_not_disturb_others() {
    let fake = Fake::start();
    let mut kept = Vec::new();
    for bytes in [
        &b""[..],
        b"GET /v1/status HTTP/1.1\r\n",
        &[0xff; 300],
        b"GET / HTTP/9\r\n\r\n",
    ] {
        let mut stream = UnixStream::connect(fake.socket()).unwrap();
        stream.write_all(bytes).unwrap();
        kept.push(stream);
    }
    let mut gone = UnixStream::connect(fake.socket()).unwrap();
    gone.write_all(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        .unwrap();
    drop(gone);
    assert_eq!(ask(&fake, "GET /v1/status", "").0, 200);
    // A head without an end is not kept for ever, nor taken at any length.
    let mut endless = UnixStream::connect(fake.socket()).unwrap();
    let sent = (0..100_000).take_while(|_| {
        endless
            .write_all(b"X-A: aaaaaaaaaaaaaaaaaaaaaa\r\n")
            .is_ok()
    });
    assert!(sent.count() < 100_000);
}

#[test]
fn more_calls_than_the_daemon_can_take_are_refused_at_once() {
    // It takes none before it is told to.
    let (go, wait) = mpsc::channel::<()>();
    let mut waited = false;
    let fake = Fake::with(move |call: Call| {
        if !waited {
            wait.recv().unwrap();
            waited = true;
        }
        answer(call);
    });
    let request = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    // The loop above blocks the runtime in its first call: whatever was asked meanwhile is read
    // after that, before it takes more.
    let mut streams: Vec<UnixStream> = (0..30)
        .map(|_| UnixStream::connect(fake.socket()).unwrap())
        .collect();
    for stream in &mut streams {
        stream.write_all(request.as_bytes()).unwrap();
    }
    go.send(()).unwrap();
    let codes: Vec<u16> = streams
        .iter_mut()
        .map(|stream| {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            split(&answer).0
        })
        .collect();
    assert!(codes.contains(&200), "{codes:?}");
    assert!(
        codes.iter().all(|code| matches!(code, 200 | 503)),
        "{codes:?}"
    );
}

#[test]
fn a_call_that_nobody_answers_is_told() {
    let fake = Fake::with(drop);
    let (code, json) = ask(&fake, "GET /v1/status", "");
    assert_eq!((code, &json["reason"]), (503, &json!("busy")));
    assert_eq!(json["message"], "the daemon is ending");
}

/// What happens at a path, inside a runtime.
fn bind(path: &std::path::Path, group: Option<&str>) -> Result<Socket, SocketError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async { Socket::bind(path, group) })
}

#[test]
fn the_socket_is_for_its_owner_and_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/control.sock");
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    let socket = bind(&path, None).unwrap();
    assert!(fs::metadata(&path).unwrap().file_type().is_socket());
    assert_eq!(mode(), 0o600);
    drop(socket);
    assert!(!path.exists());
    let _socket = bind(&path, Some("root")).unwrap();
    assert_eq!(mode(), 0o660);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let first = bind(&path, None).unwrap();
    let error = bind(&path, None).unwrap_err().to_string();
    let told = format!("in use by process {}", std::process::id());
    assert!(error.contains(&told), "{error}");
    // Another has been put in its place: that one stays.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}

#[test]
fn what_is_no_socket_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.sock");
    fs::write(&path, "precious").unwrap();
    let error = bind(&path, None).unwrap_err().to_string();
    assert!(error.contains("is no socket; remove it"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");
    let error = bind(&path, Some("no:such")).unwrap_err().to_string();
    assert!(error.contains("groupadd"), "{error}");
}

/// All names of fields, but for those that are reasons.
fn names(json: &Value, found: &mut std::collections::BTreeSet<String>) {
    match json {
        Value::Object(fields) => {
            for (name, value) in fields {
                found.insert(name.clone());
                if name != "drops" {
                    names(value, found);
                }
            }
        }
        Value::Array(all) => all.iter().for_each(|one| names(one, found)),
        _ => {}
    }
}

#[test]
fn every_field_is_documented() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/control.md");
    let text = fs::read_to_string(path).unwrap();
    let mut status = status();
    status.daemon.last_reload = Some(ReloadStatus::default());
    status.exports[0].freeze = Some(FreezeStatus::default());
    let mut found = std::collections::BTreeSet::new();
    names(&serde_json::to_value(status).unwrap(), &mut found);
    for name in &found {
        assert!(text.contains(&format!("`{name}`")), "{name}");
    }
    assert!(found.len() > 80, "{}", found.len());
}
