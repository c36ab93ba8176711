//! A client that sends requests, on two threads. One reads them and gives them to the disk, the other
//! hears how they end and replies, in the order in which they end. So a client may have many requests
//! under way, and one that is slow to take its replies delays nobody else.
//!
//! Memory is bounded: a request holds its data, [`LEAST_COST`] at least, until its reply is sent, and
//! while [`WINDOW`] is taken no further request is read. One that is larger than that alone is
//! served when no other is under way.

use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use aoede_initiator::{Answer, ClientError, Completion, Request as DiskRequest};
use tracing::{debug, warn};

use super::disk::Backing;
use super::protocol::{Errno, Export, SECTOR};
use super::reply;
use super::request::{Action, REQUEST_BYTES, Request};
use super::seldom::Seldom;
use super::service::{Peer, Replies, Service, Tally};
use super::steps::{Next, Outcome, Step, changes, first, held, next, zeroes};

/// Memory of a client's requests, in bytes.
pub const WINDOW: usize = 8 << 20;
/// What a request takes of it at least: this bounds their number, to 128.
pub const LEAST_COST: usize = 64 << 10;

/// Small requests and replies travel together in portions of this size.
pub(super) const STREAM_BUFFER: usize = 64 << 10;
/// A token that no request has: look whether all is over.
const LOOK: u64 = u64::MAX;

/// A client that sends requests.
pub(super) struct Connection<'a, B> {
    service: &'a Service<B>,
    peer: &'a Peer,
    export: Export,
    structured: bool,
    state: Mutex<State>,
    /// Memory has become free.
    room: Condvar,
}

/// What one of the two threads does at its end, by a panic too, so that the other does not wait.
struct Half<F: FnMut()>(F);

struct State {
    /// One of the threads has panicked: what is pending may never end.
    broken: bool,
    /// Further requests may come.
    reading: bool,
    /// Memory that requests hold, in bytes.
    used: usize,
    /// The next token.
    next: u64,
    /// Losses of the disk that the client has been told, or that were before its time.
    losses: u64,
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

impl<F: FnMut()> Drop for Half<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

impl<'a, B: Backing> Connection<'a, B> {
    pub(super) fn new(
        service: &'a Service<B>,
        peer: &'a Peer,
        export: Export,
        structured: bool,
        losses: u64,
    ) -> Self {
        let state = State {
            broken: false,
            reading: true,
            used: 0,
            next: 0,
            losses,
            pending: BTreeMap::new(),
        };
        Self {
            service,
            peer,
            export,
            structured,
            state: Mutex::new(state),
            room: Condvar::new(),
        }
    }

    /// Takes requests until the client leaves, or its stream is shut down for reading. Those taken by
    /// then are finished and replied to.
    ///
    /// # Errors
    /// It sends something else than requests, or leaves in the middle of one.
    ///
    /// # Panics
    /// One of its threads has; both have ended then.
    pub(super) fn serve(&self, input: &mut BufReader<&UnixStream>) -> io::Result<Tally> {
        let (done, ended) = mpsc::channel();
        thread::scope(|scope| {
            let done = &done;
            let replying = thread::Builder::new()
                .name("nbd-reply".to_owned())
                .spawn_scoped(scope, move || {
                    let _half = Half(|| self.note_panic());
                    self.reply(&ended, done)
                })?;
            let half = Half(|| self.end_reading(done));
            let read = self.read(input, done);
            drop(half);
            let tally = replying.join().unwrap_or_else(|panic| resume_unwind(panic));
            read.map(|()| tally)
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the replying thread end when all that was read has its reply.
    fn end_reading(&self, done: &Sender<Completion>) {
        self.note_panic();
        self.lock().reading = false;
        look(done);
    }

    /// Lets the other thread end, wherever it waits, if this one panics.
    fn note_panic(&self) {
        if thread::panicking() {
            self.lock().broken = true;
            self.peer.abandon();
            self.room.notify_all();
        }
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
            let payload = match action {
                Ok(Action::Write { extent, .. }) => {
                    let mut payload = zeroes(extent);
                    input.read_exact(&mut payload)?;
                    payload
                }
                Ok(_) => Vec::new(),
                Err(_) => {
                    skip(input, request.payload_bytes())?;
                    Vec::new()
                }
            };
            if action.is_ok_and(changes) {
                self.service.note_change();
            }
            let (step, asked) = match action {
                Ok(action) => first(action, payload),
                Err(error) => (Step::Refused(error), None),
            };
            self.admit(&request, cost, step, asked, done);
        }
    }

    /// Waits for memory.
    fn take(&self, cost: usize) {
        let full =
            |state: &mut State| !state.broken && state.used > 0 && state.used + cost > WINDOW;
        let state = self.room.wait_while(self.lock(), full);
        state.unwrap_or_else(PoisonError::into_inner).used += cost;
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
        match asked {
            Some(asked) => self.service.disk().begin(token, asked, done),
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
        let mut output = BufWriter::with_capacity(STREAM_BUFFER, Replies::new(self.peer));
        let mut tally = Tally::default();
        let mut there = true;
        let mut complaints = Seldom::default();
        loop {
            let completion = if let Ok(completion) = ended.try_recv() {
                completion
            } else {
                // Replies that have gathered are sent before anything is waited for.
                there = there && self.keep(&output.flush());
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
                complain(error, &mut complaints);
            }
            let Some((pending, result)) = self.advance(completion, done) else {
                continue;
            };
            tally.requests += 1;
            tally.failed += u64::from(result.is_err());
            // A client that is gone gets no replies, but what it asked for is finished.
            there = there && self.keep(&send(&mut output, &pending, result));
            self.lock().used -= pending.cost;
            self.room.notify_one();
        }
    }

    /// Whether a flush has to tell the client of a loss: the disk lets one flush fail for it, and
    /// that was perhaps another client's.
    fn tells_loss(&self) -> bool {
        let losses = self.service.disk().losses();
        let mut state = self.lock();
        let told = state.losses;
        state.losses = losses.unwrap_or(told);
        state.losses != told
    }

    fn is_over(&self) -> bool {
        let state = self.lock();
        state.broken || !state.reading && state.pending.is_empty()
    }

    /// Whether the client is still there. If not, nothing more is read from it.
    fn keep(&self, sent: &io::Result<()>) -> bool {
        if sent.is_err() {
            self.peer.abandon();
        }
        sent.is_ok()
    }

    /// Asks the disk for the next step of a request, or says how it has ended.
    fn advance(
        &self,
        completion: Completion,
        done: &Sender<Completion>,
    ) -> Option<(Pending, Outcome)> {
        let token = completion.token;
        let mut pending = self.lock().pending.remove(&token)?;
        let disk = self.service.disk();
        let refuses =
            completion.result.is_err() && disk.facts().is_ok_and(|facts| facts.abort_refuses);
        match next(pending.step, completion, refuses) {
            Next::Reply(result) => {
                let is_told = matches!(pending.step, Step::Flush) && self.tells_loss();
                let result = if is_told {
                    result.and(Err(Errno::Io))
                } else {
                    result
                };
                Some((pending, result))
            }
            Next::Ask(step, request) => {
                pending.step = step;
                self.lock().pending.insert(token, pending);
                disk.begin(token, request, done);
                None
            }
        }
    }
}

/// Logs that the disk has failed a request, unless that was said just now.
fn complain(error: &ClientError, complaints: &mut Seldom) {
    if complaints.is_due(Instant::now()) {
        warn!(%error, "a request has failed");
    } else {
        debug!(%error, "a request has failed");
    }
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

fn send(output: &mut impl Write, pending: &Pending, result: Outcome) -> io::Result<()> {
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

fn look(done: &Sender<Completion>) {
    // The other thread may have ended already.
    let _ended = done.send(Completion {
        token: LOOK,
        buffer: None,
        result: Ok(Answer::Done),
    });
}
