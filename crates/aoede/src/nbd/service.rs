//! What is offered to clients, and how one is welcomed.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aoede_initiator::ClientError;

use super::connection::{Connection, STREAM_BUFFER};
use super::disk::Backing;
use super::handshake::{self, Handshake, Progress};
use super::protocol::{Export, SECTOR};

/// How long a client may take for each step of the negotiation.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// How long a client may keep replies waiting when it is time to stop, all of them together. Before
/// that it may take its time: it may be a machine that is suspended.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long one try to send takes at most, for each of the few portions that the kernel makes of
/// [`PORTION`] bytes.
const TRY: Duration = Duration::from_secs(1);
const PORTION: usize = 64 << 10;

/// What all connections share.
#[derive(Debug)]
pub struct Service<B> {
    disk: B,
    name: String,
    read_only: bool,
    changed: AtomicBool,
}

/// A client, as the server and its connection know it.
#[derive(Debug)]
pub struct Peer {
    stream: UnixStream,
    /// It is time to stop.
    leaving: AtomicBool,
}

/// Sends replies: waits until the client takes them, as long as there is time.
#[derive(Debug)]
pub(super) struct Replies<'a> {
    peer: &'a Peer,
    /// How long it has kept them waiting since it was time to stop.
    waited: Duration,
}

/// What a client has asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests that were replied to.
    pub requests: u64,
    /// Of these, with an error.
    pub failed: u64,
}

impl<B: Backing> Service<B> {
    /// Offers `disk` by this name.
    pub fn new(disk: B, name: String, read_only: bool) -> Self {
        Self {
            disk,
            name,
            read_only,
            changed: AtomicBool::new(false),
        }
    }

    /// The disk.
    pub fn disk(&self) -> &B {
        &self.disk
    }

    pub(super) fn note_change(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Whether a client has asked for anything that changes data.
    pub fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    /// What a client that comes now is offered: a disk that was resized has its new size.
    ///
    /// # Errors
    /// The disk is gone for good.
    pub fn export(&self) -> Result<Export, ClientError> {
        let facts = self.disk.facts()?;
        Ok(Export {
            name: self.name.clone(),
            bytes: facts.sectors.saturating_mul(SECTOR),
            read_only: self.read_only,
            flush: facts.flush,
            trim: facts.trim,
            trim_zeroes: facts.trim_zeroes,
        })
    }

    /// Serves a client until it leaves, or its stream is shut down for reading; what it has asked by
    /// then is finished and replied to.
    ///
    /// # Errors
    /// It does not speak the protocol, or takes too long for the negotiation.
    pub fn serve(&self, peer: &Peer) -> io::Result<Tally> {
        let export = self.export().map_err(io::Error::other)?;
        let mut input = BufReader::with_capacity(STREAM_BUFFER, &peer.stream);
        peer.stream.set_read_timeout(Some(NEGOTIATION))?;
        peer.stream.set_write_timeout(Some(NEGOTIATION))?;
        let Some(structured) = negotiate(&export, &mut input, &peer.stream)? else {
            return Ok(Tally::default());
        };
        peer.stream.set_read_timeout(None)?;
        peer.stream.set_write_timeout(Some(TRY))?;

        let losses = self.disk.losses().map_err(io::Error::other)?;
        Connection::new(self, peer, export, structured, losses).serve(&mut input)
    }
}

impl Peer {
    /// The client at the other end.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            leaving: AtomicBool::new(false),
        }
    }

    /// Reads nothing more from it than what it has sent already. Replies are still sent, unless
    /// it keeps them waiting for some seconds.
    pub fn hear_out(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        // Fails if the client has gone.
        let _down = self.stream.shutdown(Shutdown::Read);
    }

    /// Neither reads from it nor replies any more.
    pub(super) fn abandon(&self) {
        let _down = self.stream.shutdown(Shutdown::Both);
    }
}

impl<'a> Replies<'a> {
    pub(super) fn new(peer: &'a Peer) -> Self {
        let waited = Duration::ZERO;
        Self { peer, waited }
    }
}

impl Write for Replies<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One try for all of them would take as long as there are portions.
        let bytes = bytes.get(..PORTION).unwrap_or(bytes);
        loop {
            let start = Instant::now();
            let written = (&self.peer.stream).write(bytes);
            if self.peer.leaving.load(Ordering::Relaxed) {
                self.waited += start.elapsed();
            }
            match written {
                Ok(_) if self.waited > FAREWELL => return Err(ErrorKind::TimedOut.into()),
                Err(error) if error.kind() == ErrorKind::WouldBlock && self.waited <= FAREWELL => {}
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether replies are structured; `None` if the client has left.
fn negotiate(
    export: &Export,
    input: &mut impl Read,
    mut output: &UnixStream,
) -> io::Result<Option<bool>> {
    output.write_all(&handshake::greeting())?;
    let mut handshake = Handshake::new(export);
    let (mut wanted, mut out) = (vec![0; handshake::MAX_OPTION], Vec::new());
    loop {
        let bytes = wanted.get_mut(..handshake.wants()).unwrap_or_default();
        match input.read_exact(bytes) {
            // A client that only looked whether somebody is there.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let error = "it takes too long to negotiate";
                return Err(io::Error::new(ErrorKind::TimedOut, error));
            }
            result => result?,
        }
        out.clear();
        let progress = handshake.handle(bytes, &mut out);
        let progress = progress.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        output.write_all(&out)?;
        match progress {
            Progress::More => {}
            Progress::Transmission { structured } => return Ok(Some(structured)),
            Progress::Ended => return Ok(None),
        }
    }
}
