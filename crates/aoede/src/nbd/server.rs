//! Accepts clients until it is time to stop, and then lets them finish.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd as _;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use tracing::{debug, error, info, warn};

use super::disk::Backing;
use super::seldom::Seldom;
use super::service::{Peer, Service};
use super::socket::Socket;
use crate::stop::Stop;

/// How often `tick` is called.
const TICK: Duration = Duration::from_secs(1);

/// The clients of now.
#[derive(Debug, Default)]
struct Clients {
    peers: Mutex<BTreeMap<u64, Arc<Peer>>>,
    /// One has gone.
    gone: Condvar,
}

/// Serves up to `most` clients at once, others are turned away, until `stop` says so. Then nobody
/// is accepted any more, the socket is removed, requests that were sent are finished and replied
/// to, and it returns. `tick` is called about once a second; its error is a reason to stop too.
///
/// # Errors
/// What the kernel said when it was asked for clients, or `tick`.
pub fn run<B: Backing>(
    socket: Socket,
    service: &Service<B>,
    stop: &Stop,
    most: usize,
    mut tick: impl FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let clients = Clients::default();
    thread::scope(|scope| {
        let mut next = 0;
        let mut complaints = Seldom::default();
        let result = loop {
            match tick().and_then(|()| wait(&socket, stop)) {
                Ok(true) => break Ok(()),
                Ok(false) => {}
                Err(error) => break Err(error),
            }
            match socket.accept() {
                Ok(Some(stream)) => {
                    next += 1;
                    let peer = Arc::new(Peer::new(stream));
                    if clients.enter(next, &peer, most) {
                        welcome(scope, &clients, service, next, peer);
                    } else {
                        complain(most, &mut complaints);
                    }
                }
                Ok(None) => {}
                // No descriptors or memory are left, for now: the client has to wait.
                Err(error) => {
                    warn!(%error, "cannot accept a client");
                    thread::sleep(TICK);
                }
            }
        };
        // From now on nobody can connect, and another server may take the place.
        drop(socket);
        clients.wind_up();
        result
    })
}

/// Waits for a client, the wish to stop, or time to pass. Whether it is time to stop.
fn wait(socket: &Socket, stop: &Stop) -> io::Result<bool> {
    let patience = Timespec::try_from(TICK).map_err(io::Error::other)?;
    let mut fds = [
        PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN),
        PollFd::from_borrowed_fd(stop.as_fd(), PollFlags::IN),
    ];
    match poll(&mut fds, Some(&patience)) {
        Ok(_) | Err(Errno::INTR) => Ok(stop.take()),
        Err(error) => Err(error.into()),
    }
}

/// Logs that a client was turned away, unless that was said just now.
fn complain(most: usize, complaints: &mut Seldom) {
    if complaints.is_due(Instant::now()) {
        warn!("a client was turned away: {most} are connected (--connections)");
    } else {
        debug!("a client was turned away: {most} are connected (--connections)");
    }
}

/// Gives a client a thread.
fn welcome<'scope, B: Backing>(
    scope: &'scope Scope<'scope, '_>,
    clients: &'scope Clients,
    service: &'scope Service<B>,
    id: u64,
    peer: Arc<Peer>,
) {
    let serve = move || {
        // A fault in this program costs one client, and not the last flush.
        match panic::catch_unwind(AssertUnwindSafe(|| service.serve(&peer))) {
            Ok(Ok(tally)) => info!(client = id, ?tally, "a client has left"),
            Ok(Err(error)) => warn!(client = id, %error, "a client was disconnected"),
            Err(_) => {
                peer.abandon();
                error!(
                    client = id,
                    "a client was disconnected by a fault in this program"
                );
            }
        }
        clients.leave(id);
    };
    let started = thread::Builder::new()
        .name("nbd-client".to_owned())
        .spawn_scoped(scope, serve);
    match started {
        Ok(_) => info!(client = id, "a client has connected"),
        Err(error) => {
            warn!(%error, "cannot serve a client");
            clients.leave(id);
        }
    }
}

impl Clients {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Peer>>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False if there are too many.
    fn enter(&self, id: u64, peer: &Arc<Peer>, most: usize) -> bool {
        let mut peers = self.lock();
        let room = peers.len() < most;
        if room {
            peers.insert(id, Arc::clone(peer));
        }
        room
    }

    fn leave(&self, id: u64) {
        self.lock().remove(&id);
        self.gone.notify_all();
    }

    /// Reads nothing more from anybody, and waits until all have their replies.
    fn wind_up(&self) {
        let mut peers = self.lock();
        for peer in peers.values() {
            peer.hear_out();
        }
        while !peers.is_empty() {
            let waited = self.gone.wait(peers);
            peers = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}
