//! The status page as a browser meets it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aoede::control::api::Call;
use aoede::control::{metrics, status::Status};

use crate::fake::{Fake, answer, status};

/// Head, in lower case, and body.
fn get(fake: &Fake, path: &str, host: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let answer = fake.browse(&request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.to_ascii_lowercase(), body.to_owned())
}

#[test]
fn everything_is_served_with_a_strict_policy() {
    let fake = Fake::start();
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/v1/status.json", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let (head, body) = get(&fake, path, &fake.page.to_string());
        assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
        assert!(!body.is_empty());
        for field in [
            &*format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'; \
             connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cross-origin-resource-policy: same-origin",
            "cache-control: no-store",
        ] {
            assert!(
                head.lines().any(|line| line == field),
                "{path}: {field}: {head}"
            );
        }
    }
}

/// What the policy forbids is not there in the first place.
#[test]
fn the_page_needs_nothing_from_elsewhere() {
    let fake = Fake::start();
    let host = fake.page.to_string();
    let (_, html) = get(&fake, "/", &host);
    let (_, script) = get(&fake, "/page.js", &host);
    let (_, style) = get(&fake, "/page.css", &host);
    for text in [&html, &script, &style] {
        let foreign = text.replace("http://www.w3.org/2000/svg", "");
        for wrong in [
            "http://",
            "https://",
            "innerHTML",
            "eval(",
            " onclick",
            "style=\"",
            "<style",
        ] {
            assert!(!foreign.contains(wrong), "{wrong}");
        }
    }
    assert!(style.contains("prefers-color-scheme: dark"));
}

#[test]
fn the_page_tells_what_the_socket_tells() {
    let fake = Fake::start();
    let host = fake.page.to_string();
    let (_, body) = get(&fake, "/v1/status.json", &host);
    assert_eq!(serde_json::from_str::<Status>(&body).unwrap(), status());
    let (_, body) = get(&fake, "/metrics", &host);
    assert_eq!(body, metrics::text(&status()));
}

#[test]
fn nothing_can_be_done_here() {
    let fake = Fake::start();
    let host = fake.page.to_string();
    for (line, code) in [
        ("POST /v1/stop", 404),
        ("POST /v1/exports/e1.1/drain", 404),
        ("POST /v1/status.json", 405),
        ("GET /v1/status", 404),
        ("GET /../etc/passwd", 404),
    ] {
        let answer = fake.browse(&format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ));
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {code} ")),
            "{line}: {answer}"
        );
    }
}

#[test]
fn a_foreign_name_that_leads_here_is_refused() {
    let fake = Fake::start();
    let port = fake.page.port();
    for host in ["evil.example".to_owned(), format!("evil.example:{port}")] {
        for path in ["/", "/v1/status.json", "/metrics"] {
            let (head, body) = get(&fake, path, &host);
            assert!(head.starts_with("http/1.1 421 "), "{head}");
            assert!(!body.contains("e1.1"), "{body}");
        }
    }
    let (head, _) = get(&fake, "/", &format!("localhost:{port}"));
    assert!(head.starts_with("http/1.1 200 "), "{head}");
}

#[test]
fn many_who_look_cost_as_much_as_one() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let fake = Fake::with(move |call| {
        if matches!(call, Call::Status(_)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        answer(call);
    });
    let host = fake.page.to_string();
    let line = format!("GET /v1/status.json HTTP/1.1\r\nHost: {host}\r\n");
    let last = format!("{line}Connection: close\r\n\r\n");
    // Asked within a moment: all of them are in the first frames.
    let answers = fake.browse(&(format!("{line}\r\n").repeat(20) + &last));
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 21);
    // A machine that is very busy may need a second look.
    let asked = asked.load(Ordering::Relaxed);
    assert!((1..5).contains(&asked), "asked {asked} times");
}
