//! Who may look at the page, and what a browser may do with it.

use std::net::{IpAddr, SocketAddr};

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, HeaderName, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use crate::control::api::{Reason, Refusal};

/// Nothing but what this page itself brings.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

/// What every response says.
const FIELDS: [(HeaderName, HeaderValue); 5] = [
    (CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
];

/// What is asked for must be called by what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guard {
    /// Only this host shall see it.
    loopback: bool,
}

impl Guard {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            loopback: address.ip().to_canonical().is_loopback(),
        }
    }

    /// Whether a request comes by a name that can be meant. A foreign page can have its own name
    /// lead to a loopback address, and then read what is there.
    fn admits(self, fields: &HeaderMap) -> bool {
        if !self.loopback {
            return true;
        }
        let mut names = fields.get_all(HOST).iter();
        let (Some(name), None) = (names.next(), names.next()) else {
            return false;
        };
        name.to_str().is_ok_and(is_loopback)
    }
}

/// Whether a host, with or without a port, is `localhost` or a loopback address.
fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) if port.is_empty() || port.starts_with(':') => address,
        Some(_) => return false,
        None => host.split(':').next().unwrap_or_default(),
    };
    let address = name.parse::<IpAddr>();
    name.eq_ignore_ascii_case("localhost")
        || address.is_ok_and(|address| address.to_canonical().is_loopback())
}

/// A middleware.
pub(super) async fn guard(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let mut response = if guard.admits(request.headers()) {
        next.run(request).await
    } else {
        refuse()
    };
    response.headers_mut().extend(FIELDS);
    response
}

fn refuse() -> Response {
    let refusal = Refusal::new(
        Reason::Invalid,
        "this page is not at that name",
        "open it as http://127.0.0.1 or http://localhost, with the port",
    );
    (StatusCode::MISDIRECTED_REQUEST, Json(refusal)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_host_are_loopback() {
        for host in [
            "localhost",
            "LocalHost:34978",
            "127.0.0.1:34978",
            "127.1.2.3",
            "[::1]",
            "[::1]:34978",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:34978",
            "192.0.2.1",
            "[::1].evil.example",
            "[::1",
            "0.0.0.0",
            "[2001:db8::1]:80",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn beyond_loopback_any_name_will_do() {
        let open = Guard::new("192.0.2.1:80".parse().unwrap());
        assert!(open.admits(&HeaderMap::new()));
        let closed = Guard::new("[::ffff:127.0.0.1]:80".parse().unwrap());
        let mut fields = HeaderMap::new();
        assert!(!closed.admits(&fields));
        fields.append(HOST, HeaderValue::from_static("localhost"));
        assert!(closed.admits(&fields));
        fields.append(HOST, HeaderValue::from_static("localhost"));
        assert!(!closed.admits(&fields));
    }
}
