//! One client: negotiation, and then two threads. One reads requests and gives them to the disk, the
//! other hears how they end and replies, in the order in which they end. So a client may have many
//! requests under way, and one that is slow to take its replies delays nobody else.
//!
//! Memory is bounded: a request holds its data, [`LEAST_COST`] at least, until its reply is sent, and
//! while [`WINDOW`] is taken no further request is read. One that is larger than that alone is
//! served when no other is under way.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use aoede_initiator::{Answer, ClientError, Completion, Request as DiskRequest};
use tracing::{debug, warn};

use super::disk::{self, Backing};
use super::handshake::{self, Handshake, Progress};
use super::protocol::{Errno, Export, SECTOR};
use super::reply;
use super::request::{Action, Extent, REQUEST_BYTES, Request};

/// Memory of a connection's requests, in bytes.
pub const WINDOW: usize = 8 << 20;
/// What a request takes of it at least: this bounds their number, to 128.
pub const LEAST_COST: usize = 64 << 10;

/// How long a client may take for each step of the negotiation.
const NEGOTIATION: Duration = Duration::from_secs(30);
/// Zeros are written in portions of this size, in sectors, one after the other.
const ZEROES: u64 = 2048;
/// Small requests and replies travel together in portions of this size.
const STREAM_BUFFER: usize = 64 << 10;
/// Failures are logged this often at most, for each client.
const COMPLAIN_EVERY: Duration = Duration::from_secs(5);
/// A token that no request has: look whether all is over.
const LOOK: u64 = u64::MAX;

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
    /// The connection.
    pub stream: UnixStream,
    under_way: AtomicU64,
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
        peer.stream.set_write_timeout(None)?;

        let connection = Connection {
            service: self,
            peer,
            export,
            structured,
            state: Mutex::new(State {
                reading: true,
                used: 0,
                next: 0,
                pending: BTreeMap::new(),
            }),
            room: Condvar::new(),
        };
        let (done, ended) = mpsc::channel();
        thread::scope(|scope| {
            let (connection, done) = (&connection, &done);
            let replying = thread::Builder::new()
                .name("nbd-reply".to_owned())
                .spawn_scoped(scope, move || connection.reply(&ended, done))?;
            let read = connection.read(&mut input, done);
            connection.lock().reading = false;
            look(done);
            let tally = replying.join().unwrap_or_default();
            read.map(|()| tally)
        })
    }
}

impl Peer {
    /// The client at the other end.
    pub fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            under_way: AtomicU64::new(0),
        }
    }

    /// Whether none of its requests is with the disk.
    pub fn is_idle(&self) -> bool {
        self.under_way.load(Ordering::Relaxed) == 0
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

fn look(done: &Sender<Completion>) {
    // The other thread may have ended already.
    let _ended = done.send(Completion {
        token: LOOK,
        buffer: None,
        result: Ok(Answer::Done),
    });
}

struct Connection<'a, B> {
    service: &'a Service<B>,
    peer: &'a Peer,
    export: Export,
    structured: bool,
    state: Mutex<State>,
    /// Memory has become free.
    room: Condvar,
}

struct State {
    /// Further requests may come.
    reading: bool,
    /// Memory that requests hold, in bytes.
    used: usize,
    /// The next token.
    next: u64,
    /// Requests without a reply, by token.
    pending: BTreeMap<u64, Pending>,
}

/// A request without a reply.
#[derive(Clone, Copy, Debug)]
struct Pending {
    cookie: u64,
    /// Its reply is a structured one.
    structured: bool,
    /// Memory that it holds, in bytes.
    cost: usize,
    step: Step,
}

/// What the disk has been asked for, or why it has not.
#[derive(Clone, Copy, Debug)]
enum Step {
    Refused(Errno),
    /// Nothing is left of it.
    Nothing,
    Read {
        extent: Extent,
    },
    Change {
        fua: bool,
    },
    /// A portion of zeros, and this remains.
    Zero {
        rest: Extent,
        fua: bool,
    },
    Flush,
}

/// What to do when a request has come back from the disk.
enum Next {
    Reply(Result<Option<Vec<u8>>, Errno>),
    Ask(Step, DiskRequest<Vec<u8>>),
}

impl<B: Backing> Connection<'_, B> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads requests and gives them to the disk, until there are no more.
    fn read(
        &self,
        input: &mut BufReader<&UnixStream>,
        done: &Sender<Completion>,
    ) -> io::Result<()> {
        let mut bytes = [0; REQUEST_BYTES];
        loop {
            // The end of the stream is the end of the client, wherever it comes.
            match input.fill_buf() {
                Ok([]) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(()),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            input.read_exact(&mut bytes)?;
            let Some(request) = Request::decode(&bytes) else {
                let error = "the client sends something else than requests";
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            };
            let action = request.judge(&self.export, self.structured);
            if action == Ok(Action::Disconnect) {
                return Ok(());
            }
            let cost = action.map_or(0, held).max(LEAST_COST);
            self.take(cost);
            let (step, asked) = match action {
                Ok(action) => self.begin(action, input)?,
                Err(error) => {
                    skip(input, request.payload_bytes())?;
                    (Step::Refused(error), None)
                }
            };
            self.admit(&request, cost, step, asked, done);
        }
    }

    /// Waits for memory.
    fn take(&self, cost: usize) {
        let full = |state: &mut State| state.used > 0 && state.used + cost > WINDOW;
        let state = self.room.wait_while(self.lock(), full);
        state.unwrap_or_else(PoisonError::into_inner).used += cost;
    }

    /// The first thing to ask the disk for.
    fn begin(
        &self,
        action: Action,
        input: &mut impl Read,
    ) -> io::Result<(Step, Option<DiskRequest<Vec<u8>>>)> {
        let changes = !matches!(action, Action::Read { .. } | Action::Flush);
        if changes {
            self.service.changed.store(true, Ordering::Relaxed);
        }
        Ok(match action {
            Action::Read { extent } => {
                let (lba, buffer) = (extent.lba, zeroes(extent));
                (
                    Step::Read { extent },
                    Some(DiskRequest::Read { lba, buffer }),
                )
            }
            Action::Write { extent, fua } => {
                let (lba, mut buffer) = (extent.lba, zeroes(extent));
                input.read_exact(&mut buffer)?;
                (
                    Step::Change { fua },
                    Some(DiskRequest::Write { lba, buffer }),
                )
            }
            Action::Trim { extent, .. } if extent.sectors == 0 => (Step::Nothing, None),
            Action::Trim { extent, fua }
            | Action::Zero {
                extent,
                trim: true,
                fua,
            } => {
                let Extent { lba, sectors } = extent;
                (
                    Step::Change { fua },
                    Some(DiskRequest::Trim { lba, sectors }),
                )
            }
            Action::Zero {
                extent,
                trim: false,
                fua,
            } => {
                let (step, request) = zero(extent, fua);
                (step, Some(request))
            }
            Action::Flush => (Step::Flush, Some(DiskRequest::Flush)),
            Action::Disconnect => (Step::Nothing, None),
        })
    }

    fn admit(
        &self,
        request: &Request,
        cost: usize,
        step: Step,
        asked: Option<DiskRequest<Vec<u8>>>,
        done: &Sender<Completion>,
    ) {
        let pending = Pending {
            cookie: request.cookie,
            structured: self.structured && request.is_read(),
            cost,
            step,
        };
        let mut state = self.lock();
        let token = state.next;
        state.next += 1;
        state.pending.insert(token, pending);
        drop(state);
        self.peer.under_way.fetch_add(1, Ordering::Relaxed);
        match asked {
            Some(asked) => self.service.disk.begin(token, asked, done),
            None => {
                let _ended = done.send(Completion {
                    token,
                    buffer: None,
                    result: Ok(Answer::Done),
                });
            }
        }
    }

    /// Hears how requests end and replies, until the last has ended that was read.
    fn reply(&self, ended: &Receiver<Completion>, done: &Sender<Completion>) -> Tally {
        let mut output = BufWriter::with_capacity(STREAM_BUFFER, &self.peer.stream);
        let mut tally = Tally::default();
        let mut there = true;
        let mut complaint = None;
        loop {
            let completion = if let Ok(completion) = ended.try_recv() {
                completion
            } else {
                // Replies that have gathered are sent before anything is waited for.
                there = there && self.keep(output.flush());
                if self.is_over() {
                    return tally;
                }
                // Our own sender keeps the channel open.
                let Ok(completion) = ended.recv() else {
                    return tally;
                };
                completion
            };
            if let Err(error) = &completion.result {
                complain(error, &mut complaint);
            }
            let Some((pending, result)) = self.advance(completion, done) else {
                continue;
            };
            tally.requests += 1;
            tally.failed += u64::from(result.is_err());
            // A client that is gone gets no replies, but what it asked for is finished.
            there = there && self.keep(send(&mut output, &pending, result));
            self.lock().used -= pending.cost;
            self.room.notify_one();
        }
    }

    fn is_over(&self) -> bool {
        let state = self.lock();
        !state.reading && state.pending.is_empty()
    }

    /// Whether the client is still there. If not, nothing more is read from it.
    fn keep(&self, sent: io::Result<()>) -> bool {
        if sent.is_err() {
            // Fails if it is shut down already.
            let _down = self.peer.stream.shutdown(Shutdown::Both);
        }
        sent.is_ok()
    }

    /// Asks the disk for the next step of a request, or says how it has ended.
    fn advance(
        &self,
        completion: Completion,
        done: &Sender<Completion>,
    ) -> Option<(Pending, Result<Option<Vec<u8>>, Errno>)> {
        let token = completion.token;
        let mut pending = self.lock().pending.remove(&token)?;
        match next(pending.step, completion) {
            Next::Reply(result) => {
                self.peer.under_way.fetch_sub(1, Ordering::Relaxed);
                Some((pending, result))
            }
            Next::Ask(step, request) => {
                pending.step = step;
                self.lock().pending.insert(token, pending);
                self.service.disk.begin(token, request, done);
                None
            }
        }
    }
}

/// Logs that the disk has failed a request, unless that was said just now.
fn complain(error: &ClientError, last: &mut Option<Instant>) {
    if last.is_none_or(|last| last.elapsed() >= COMPLAIN_EVERY) {
        warn!(%error, "a request has failed");
        *last = Some(Instant::now());
    } else {
        debug!(%error, "a request has failed");
    }
}

/// Memory that a request holds until its reply is sent.
fn held(action: Action) -> usize {
    let bytes = match action {
        Action::Read { extent } | Action::Write { extent, .. } => extent.bytes(),
        Action::Zero {
            extent,
            trim: false,
            ..
        } => extent.bytes().min(ZEROES * SECTOR),
        _ => 0,
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What comes after this step.
fn next(step: Step, completion: Completion) -> Next {
    let result = match (step, completion.result) {
        (Step::Refused(error), _) => Err(error),
        (_, Err(error)) => {
            let changes = matches!(step, Step::Change { .. } | Step::Zero { .. });
            Err(disk::errno(&error, changes))
        }
        (Step::Read { .. }, Ok(_)) => Ok(completion.buffer),
        (Step::Zero { rest, fua }, Ok(_)) if rest.sectors > 0 => {
            let (step, request) = zero(rest, fua);
            return Next::Ask(step, request);
        }
        (Step::Change { fua: true } | Step::Zero { fua: true, .. }, Ok(_)) => {
            return Next::Ask(Step::Flush, DiskRequest::Flush);
        }
        _ => Ok(None),
    };
    Next::Reply(result)
}

/// The first portion of zeros.
fn zero(extent: Extent, fua: bool) -> (Step, DiskRequest<Vec<u8>>) {
    let Extent { lba, sectors } = extent;
    let portion = sectors.min(ZEROES);
    let buffer = zeroes(Extent {
        lba,
        sectors: portion,
    });
    let rest = Extent {
        lba: lba + portion,
        sectors: sectors - portion,
    };
    (Step::Zero { rest, fua }, DiskRequest::Write { lba, buffer })
}

fn zeroes(extent: Extent) -> Vec<u8> {
    vec![0; usize::try_from(extent.bytes()).unwrap_or(0)]
}

/// Reads over the data of a write that is refused.
fn skip(input: &mut impl Read, bytes: u32) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(bytes.into()), &mut io::sink())?;
    if skipped == u64::from(bytes) {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}

fn send(
    output: &mut impl Write,
    pending: &Pending,
    result: Result<Option<Vec<u8>>, Errno>,
) -> io::Result<()> {
    let Pending { cookie, step, .. } = *pending;
    let head = match (&result, step) {
        (Ok(Some(data)), Step::Read { extent }) if pending.structured => {
            let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
            reply::data_chunk(cookie, extent.lba * SECTOR, bytes)
        }
        (Err(error), _) if pending.structured => reply::error_chunk(cookie, *error),
        _ => reply::simple(cookie, result.as_ref().map(|_| ()).map_err(|error| *error)),
    };
    output.write_all(head.bytes())?;
    match result {
        Ok(Some(data)) => output.write_all(&data),
        _ => Ok(()),
    }
}
