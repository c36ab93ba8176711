//! The status page: read-only, for browsers and for Prometheus.
//!
//! It has no password. Whoever can reach its address sees it, so that is a loopback address unless
//! an operator has said otherwise; a name that somebody has made to lead there is refused
//! (`guard.rs`). All that it shows comes of one question to the daemon's loop (`view.rs`); nobody asks
//! while nobody looks.

mod guard;
mod view;

use std::io;
use std::net::SocketAddr;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

use crate::control::api::{Call, Caller, Limited, Turn, keep_time, method_unknown, path_unknown};

use guard::Guard;
use view::View;

/// Connections that wait to be taken.
const BACKLOG: u32 = 128;

/// Listens at the page's address. Belongs into a tokio runtime.
///
/// # Errors
/// What the kernel said: it is in use, or not ours.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // What an earlier process has left is no obstacle.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Shows the page for ever.
///
/// # Errors
/// What the kernel said.
pub async fn serve(listener: TcpListener, calls: mpsc::Sender<Call>) -> io::Result<()> {
    let guard = Guard::new(listener.local_addr()?);
    let service = router(View::new(Caller::new(calls)), guard);
    let service = service.into_make_service_with_connect_info::<Turn>();
    axum::serve(Limited::new(listener), service).await
}

fn router(view: View, guard: Guard) -> Router {
    Router::new()
        .route("/", get(|| async { asset("text/html", INDEX) }))
        .route("/page.css", get(|| async { asset("text/css", STYLE) }))
        .route(
            "/page.js",
            get(|| async { asset("text/javascript", SCRIPT) }),
        )
        .route("/v1/status.json", get(view::json))
        .route("/metrics", get(view::metrics))
        .fallback(path_unknown)
        .method_not_allowed_fallback(method_unknown)
        .layer(middleware::from_fn_with_state(guard, guard::guard))
        .layer(middleware::from_fn(keep_time))
        .with_state(view)
}

const INDEX: &[u8] = include_bytes!("assets/index.html");
const STYLE: &[u8] = include_bytes!("assets/page.css");
const SCRIPT: &[u8] = include_bytes!("assets/page.js");

fn asset(kind: &str, bytes: &'static [u8]) -> impl IntoResponse {
    ([(CONTENT_TYPE, format!("{kind}; charset=utf-8"))], bytes)
}
