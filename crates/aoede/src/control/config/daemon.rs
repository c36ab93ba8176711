//! What concerns the daemon as a whole.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

use super::export::MOST_WORKERS;
use super::finding::Finding;
use super::keys;
use super::notes::{At, Notes, quote};
use super::table::Table;
use super::values;
use crate::service;

/// The daemon as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Daemon {
    /// Where it keeps what outlives it, such as config strings.
    pub state_folder: PathBuf,
    /// Most threads that serve; one for each core if not given.
    pub workers: Option<u16>,
    /// How long workers look for more to do before sleeping, while the disk is busy.
    pub busy_poll: Duration,
    /// The socket for `aoede status` and the like.
    pub socket: PathBuf,
    /// The group that may use that; only the daemon's own user if not given.
    pub group: Option<String>,
    /// Where the status page is shown, if it is.
    pub status: Option<SocketAddr>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            state_folder: PathBuf::from("/var/lib/aoede"),
            workers: None,
            busy_poll: service::BUSY_POLL,
            socket: PathBuf::from("/run/aoede/control.sock"),
            group: None,
            status: None,
        }
    }
}

/// Where parts of it stand.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) workers: Option<Range<usize>>,
    pub(super) group: Option<Range<usize>>,
}

/// Bytes of the longest path of a socket (`sockaddr_un` without the zero).
const MOST_SOCKET_BYTES: usize = 107;

pub(super) fn read(top: &Table<'_>, notes: &mut Notes) -> (Daemon, Places) {
    let plain = Daemon::default();
    let state_folder = values::folder(top, "state_folder", notes);
    let workers = top.count("workers", &(1..=MOST_WORKERS), notes);
    let busy_poll = top.time(
        "busy_poll",
        &(Duration::ZERO..=service::MOST_BUSY_POLL),
        notes,
    );

    let control = top.table("control", "[control]", keys::CONTROL, notes);
    let (socket, group) = control.map_or((None, None), |control| {
        control.check_keys(|_| true, notes);
        (socket(&control, notes), group(&control, notes))
    });
    let status = top.table("status", "[status]", keys::STATUS, notes);
    let status = status.and_then(|status| {
        status.check_keys(|_| true, notes);
        listen(&status, notes)
    });
    let places = Places {
        workers: workers.as_ref().map(|at| at.span.clone()),
        group: group.as_ref().map(|at| at.span.clone()),
    };
    let daemon = Daemon {
        state_folder: state_folder.map_or(plain.state_folder, |at| at.value),
        workers: workers.map(|at| at.value),
        busy_poll: busy_poll.unwrap_or(plain.busy_poll),
        socket: socket.unwrap_or(plain.socket),
        group: group.map(|at| at.value),
        status,
    };
    (daemon, places)
}

fn socket(control: &Table<'_>, notes: &mut Notes) -> Option<PathBuf> {
    let path = values::path(control, "socket", notes)?;
    if path.value.as_os_str().len() > MOST_SOCKET_BYTES {
        notes.add(Finding::error(
            path.span,
            format!("the path of a socket has {MOST_SOCKET_BYTES} bytes at most"),
            "choose a shorter one, such as /run/aoede/control.sock",
        ));
        return None;
    }
    Some(path.value)
}

fn group(control: &Table<'_>, notes: &mut Notes) -> Option<At<String>> {
    let text = control.text("group", notes)?;
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '$' | '@' | '\\');
    let is_name = !text.value.is_empty()
        && text.value.len() <= 255
        && !text.value.starts_with('-')
        && text.value.chars().all(is_plain);
    if !is_name {
        notes.add(Finding::error(
            text.span,
            format!("{} is no name of a group", quote(text.value)),
            "write a name as `getent group` shows it",
        ));
        return None;
    }
    Some(At::new(text.span, text.value.to_owned()))
}

fn listen(status: &Table<'_>, notes: &mut Notes) -> Option<SocketAddr> {
    let beyond = status
        .switch("beyond_loopback", notes)
        .is_some_and(|at| at.value);
    let remedy = "write an IP address and a port, such as 127.0.0.1:34978 or [::1]:34978";
    if status.place("listen").is_none() {
        notes.add(Finding::warning(
            status.span(),
            "[status] without `listen`: there is no status page",
            "add a line such as listen = \"127.0.0.1:34978\", or take out [status]",
        ));
    }
    let listen: At<SocketAddr> = status.parsed("listen", remedy, notes)?;
    if listen.value.port() == 0 {
        notes.add(Finding::error(
            listen.span,
            "a port of 0 is a different one at each start",
            "choose one, such as 127.0.0.1:34978",
        ));
        return None;
    }
    if !listen.value.ip().to_canonical().is_loopback() && !beyond {
        notes.add(Finding::error(
            listen.span,
            format!("{} can be reached from other hosts, and nobody is asked for a password", listen.value),
            "write 127.0.0.1 or [::1]; if other hosts shall see the page, add beyond_loopback = true",
        ));
        return None;
    }
    Some(listen.value)
}
