//! The shell: a thread that drives the ports, and blocking handles that any thread may use.
//!
//! Everything that can be decided is decided in `session/`; here are a channel of commands to the
//! thread, and answers back.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::mem;
use std::os::fd::AsFd as _;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aoede_link::{Interface, OpenError, PacketPort, Port, PortOptions};
use aoede_wire::{Address, ConfigCommand, Directive, MacAddr, ReserveCommand};

use crate::alarm::Alarm;
use crate::driver::{Driver, SessionId};
use crate::wait::{PollWaiter, Waiter};
use crate::{
    Answer, Done, Error, Event, Found, Identity, Instant, Notice, PathInfo, PortId, Refusal,
    Refused, Request, RequestId, SessionStats, Settings,
};

/// How a call ended that brought no result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The target, or the way to it, failed the request.
    #[error(transparent)]
    Failed(#[from] Error),
    /// The request was not taken.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No target was found in time.
    #[error("no target answers at {address}")]
    NotFound {
        /// Where it should be.
        address: Address,
    },
    /// The thread has ended, by an error that it told or because the client was dropped.
    #[error("the initiator has stopped")]
    Stopped,
}

/// A thread with some ports, and the sessions on them. It ends when the client and all its disks
/// are dropped.
#[derive(Clone, Debug)]
pub struct Client {
    shared: Arc<Shared>,
}

/// A target that a [`Client`] has attached. Clones are the same disk; all methods block until the
/// target has answered, and any number of threads may call them at once.
///
/// Each call costs a buffer and a message to the client's thread. [`queue`](Self::queue) has many
/// requests under way from one thread, [`begin`](Self::begin) between two.
#[derive(Clone, Debug)]
pub struct Disk {
    inner: Arc<Attached>,
}

/// Requests to a [`Disk`] that one thread has under way at once.
#[derive(Debug)]
pub struct Queue {
    disk: Disk,
    done_in: Sender<Completion>,
    done_out: Receiver<Completion>,
    depth: usize,
    under_way: usize,
}

/// A request of a [`Queue`], or of [`Disk::begin`], that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The number it was submitted with.
    pub token: u64,
    /// Its buffer, if it had one; filled if it was a read and succeeded.
    pub buffer: Option<Vec<u8>>,
    /// How it ended.
    pub result: Result<Answer, ClientError>,
}

/// What can be known about an attached target.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct DiskInfo {
    /// The disk.
    pub identity: Identity,
    /// The ways to it.
    pub paths: Vec<PathInfo>,
    /// What its session counted.
    pub stats: SessionStats,
    /// What happened to it since the last time this was asked, oldest first.
    pub notices: Vec<Notice>,
}

/// What the client and its disks share.
#[derive(Debug)]
struct Shared {
    commands: Sender<Command>,
    alarm: Arc<Alarm>,
    thread: Mutex<Option<JoinHandle<io::Result<()>>>>,
}

#[derive(Debug)]
struct Attached {
    shared: Arc<Shared>,
    id: SessionId,
    address: Address,
}

enum Command {
    Attach {
        address: Address,
        settings: Settings,
        patience: Duration,
        reply: Sender<Option<SessionId>>,
    },
    Submit {
        session: SessionId,
        request: Request<Vec<u8>>,
        ticket: Ticket,
    },
    Info {
        session: SessionId,
        /// Whether to tell, and forget, what happened.
        notices: bool,
        reply: Sender<Option<DiskInfo>>,
    },
    Discover {
        reply: Sender<Vec<Found>>,
        again: bool,
    },
    Detach(SessionId),
    Stop,
}

/// A request that its session has not taken yet, and who waits for it.
type Waiting = (Request<Vec<u8>>, Ticket);

/// Who waits for a request. One that is dropped, wherever it is then, says that all has stopped.
struct Ticket {
    token: u64,
    to: Option<Sender<Completion>>,
}

impl Ticket {
    fn new(token: u64, to: Sender<Completion>) -> Self {
        let to = Some(to);
        Self { token, to }
    }

    fn end(mut self, buffer: Option<Vec<u8>>, result: Result<Answer, ClientError>) {
        self.tell(buffer, result);
    }

    fn tell(&mut self, buffer: Option<Vec<u8>>, result: Result<Answer, ClientError>) {
        let token = self.token;
        if let Some(to) = self.to.take() {
            // Who asked may have gone away.
            let _gone = to.send(Completion {
                token,
                buffer,
                result,
            });
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.tell(None, Err(ClientError::Stopped));
    }
}

impl Client {
    /// Opens packet sockets on these interfaces and starts the thread.
    ///
    /// # Errors
    /// [`OpenError`]: what is wrong with an interface, or with the permission.
    pub fn open(interfaces: &[Interface]) -> Result<Self, OpenError> {
        let options = PortOptions::default();
        let ports = interfaces
            .iter()
            .map(|interface| PacketPort::open(interface, &options));
        let ports = ports.collect::<Result<Vec<_>, _>>()?;
        Self::start(move || Ok((ports, PollWaiter::new()?))).map_err(|source| OpenError::Io {
            name: interfaces
                .first()
                .map_or_else(String::new, |first| first.name.clone()),
            operation: "start an initiator",
            source,
        })
    }

    /// Starts the thread with any ports. They are made in it, by `make`, and never leave it.
    ///
    /// # Errors
    /// What the kernel said to a new thread. If `make` fails, every call ends with
    /// [`ClientError::Stopped`].
    pub fn start<P, W, F>(make: F) -> io::Result<Self>
    where
        P: Port,
        W: Waiter<P>,
        F: FnOnce() -> io::Result<(Vec<P>, W)> + Send + 'static,
    {
        let alarm = Arc::new(Alarm::new()?);
        let (commands, receiver) = mpsc::channel();
        let woken_by = Arc::clone(&alarm);
        let thread = thread::Builder::new()
            .name("aoe-initiator".to_owned())
            .spawn(move || {
                let (ports, waiter) = make()?;
                Loop::new(ports, waiter, receiver, woken_by).run()
            })?;
        Ok(Self {
            shared: Arc::new(Shared {
                commands,
                alarm,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }

    /// Looks for the target at `address` for as long as `patience`, and attaches it.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] and [`ClientError::Stopped`].
    pub fn attach(
        &self,
        address: Address,
        settings: Settings,
        patience: Duration,
    ) -> Result<Disk, ClientError> {
        let (reply, answer) = mpsc::channel();
        self.shared.send(Command::Attach {
            address,
            settings,
            patience,
            reply,
        })?;
        let id = answer.recv().map_err(|_| ClientError::Stopped)?;
        let id = id.ok_or(ClientError::NotFound { address })?;
        Ok(Disk {
            inner: Arc::new(Attached {
                shared: Arc::clone(&self.shared),
                id,
                address,
            }),
        })
    }

    /// Asks who is there, listens for as long as `patience`, and lists all that were heard since
    /// this was first called.
    ///
    /// # Errors
    /// [`ClientError::Stopped`].
    pub fn discover(&self, patience: Duration) -> Result<Vec<Found>, ClientError> {
        let ask = |again| {
            let (reply, answer) = mpsc::channel();
            self.shared.send(Command::Discover { reply, again })?;
            answer.recv().map_err(|_| ClientError::Stopped)
        };
        ask(true)?;
        thread::sleep(patience);
        ask(false)
    }
}

impl Disk {
    /// The target's address.
    pub fn address(&self) -> Address {
        self.inner.address
    }

    /// What is known about it.
    ///
    /// # Errors
    /// [`ClientError::Stopped`].
    pub fn info(&self) -> Result<DiskInfo, ClientError> {
        self.ask_info(true)
    }

    fn ask_info(&self, notices: bool) -> Result<DiskInfo, ClientError> {
        let (reply, answer) = mpsc::channel();
        self.inner.shared.send(Command::Info {
            session: self.inner.id,
            notices,
            reply,
        })?;
        answer.recv().ok().flatten().ok_or(ClientError::Stopped)
    }

    /// What the disk says of itself, as it is now.
    ///
    /// # Errors
    /// [`ClientError::Stopped`].
    pub fn identity(&self) -> Result<Identity, ClientError> {
        Ok(self.ask_info(false)?.identity)
    }

    /// What its session has counted so far. Whatever came of a request is counted when that has
    /// ended.
    ///
    /// # Errors
    /// [`ClientError::Stopped`].
    pub fn stats(&self) -> Result<SessionStats, ClientError> {
        Ok(self.ask_info(false)?.stats)
    }

    /// Size in sectors of 512 bytes, as it is now.
    ///
    /// # Errors
    /// [`ClientError::Stopped`].
    pub fn sectors(&self) -> Result<u64, ClientError> {
        Ok(self.identity()?.sectors)
    }

    /// Fills `data`, a whole number of sectors, from sector `lba` on. On an error its content is
    /// as it was.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn read_at(&self, lba: u64, data: &mut [u8]) -> Result<(), ClientError> {
        let buffer = vec![0; data.len()];
        let (_, buffer) = self.call(Request::Read { lba, buffer })?;
        match buffer {
            Some(buffer) if buffer.len() == data.len() => data.copy_from_slice(&buffer),
            _ => return Err(ClientError::Stopped),
        }
        Ok(())
    }

    /// Writes `data`, a whole number of sectors, from sector `lba` on. It is as durable as the
    /// target makes it; see [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`ClientError`]. What the sectors hold then is not known.
    pub fn write_at(&self, lba: u64, data: &[u8]) -> Result<(), ClientError> {
        let buffer = data.to_vec();
        self.call(Request::Write { lba, buffer }).map(|_| ())
    }

    /// Makes every write stable that has returned before.
    ///
    /// # Errors
    /// [`ClientError`]; [`Refusal::Unsupported`] if the disk knows no flush.
    pub fn flush(&self) -> Result<(), ClientError> {
        self.call(Request::Flush).map(|_| ())
    }

    /// Tells the disk that the content of these sectors is no longer wanted.
    ///
    /// # Errors
    /// [`ClientError`]; [`Refusal::Unsupported`] if the disk knows no TRIM.
    pub fn trim(&self, lba: u64, sectors: u64) -> Result<(), ClientError> {
        self.call(Request::Trim { lba, sectors }).map(|_| ())
    }

    /// The config string, after the command (§4).
    ///
    /// # Errors
    /// [`ClientError`]; [`Error::NoMatch`] if it is not as tested, [`Error::ConfigPresent`] if it
    /// is set to something else.
    pub fn config(&self, command: ConfigCommand, string: &[u8]) -> Result<Vec<u8>, ClientError> {
        let string = string.to_vec();
        match self.call(Request::Config { command, string })?.0 {
            Answer::Config(string) => Ok(string),
            _ => Err(ClientError::Stopped),
        }
    }

    /// Reads the list of MACs that may talk to the target, or edits it:
    /// [`Answer::Mask`] or [`Answer::MaskRefused`] (§5).
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn mask(&self, directives: &[Directive]) -> Result<Answer, ClientError> {
        let directives = directives.to_vec();
        Ok(self.call(Request::Mask { directives })?.0)
    }

    /// Reads or replaces the list of MACs that hold the target, and returns the list (§6).
    ///
    /// # Errors
    /// [`ClientError`]; [`Error::Reserved`] if others hold it.
    pub fn reserve(
        &self,
        command: ReserveCommand,
        macs: &[MacAddr],
    ) -> Result<Vec<MacAddr>, ClientError> {
        let macs = macs.to_vec();
        match self.call(Request::Reserve { command, macs })?.0 {
            Answer::Reservation(macs) => Ok(macs),
            _ => Err(ClientError::Stopped),
        }
    }

    /// Up to `depth` requests, 1 at least, under way at once.
    pub fn queue(&self, depth: usize) -> Queue {
        let (done_in, done_out) = mpsc::channel();
        Queue {
            disk: self.clone(),
            done_in,
            done_out,
            depth: depth.max(1),
            under_way: 0,
        }
    }

    /// Begins a request and does not wait. How it ends is sent to `done`, with `token`; so one
    /// thread can ask and another hear. Who asks limits how many are under way.
    pub fn begin(&self, token: u64, request: Request<Vec<u8>>, done: &Sender<Completion>) {
        // If the client's thread is gone the ticket tells so.
        let _stopped = self.submit(request, Ticket::new(token, done.clone()));
    }

    fn call(&self, request: Request<Vec<u8>>) -> Result<(Answer, Option<Vec<u8>>), ClientError> {
        let (to, done) = mpsc::channel();
        self.submit(request, Ticket::new(0, to))?;
        let Completion { buffer, result, .. } = done.recv().map_err(|_| ClientError::Stopped)?;
        Ok((result?, buffer))
    }

    fn submit(&self, request: Request<Vec<u8>>, ticket: Ticket) -> Result<(), ClientError> {
        let session = self.inner.id;
        self.inner.shared.send(Command::Submit {
            session,
            request,
            ticket,
        })
    }
}

impl Queue {
    /// Takes a request, if fewer than the queue's depth are under way; else call
    /// [`wait`](Self::wait) first.
    ///
    /// # Errors
    /// The request comes back: the queue is full ([`Refusal::Full`]).
    pub fn submit(
        &mut self,
        token: u64,
        request: Request<Vec<u8>>,
    ) -> Result<(), Refused<Request<Vec<u8>>>> {
        if self.under_way >= self.depth {
            let why = Refusal::Full;
            return Err(Refused { request, why });
        }
        self.under_way += 1;
        let ticket = Ticket::new(token, self.done_in.clone());
        // If the thread is gone the ticket comes back at once, and `wait` tells it.
        let _stopped = self.disk.submit(request, ticket);
        Ok(())
    }

    /// The next request that has ended, in whatever order they end. `None` if none is under way.
    pub fn wait(&mut self) -> Option<Completion> {
        if self.under_way == 0 {
            return None;
        }
        self.under_way -= 1;
        // Our own sender keeps the channel open, and every ticket ends.
        self.done_out.recv().ok()
    }

    /// The same as [`wait`](Self::wait), but for so long at most: `None` also if none has ended
    /// by then.
    pub fn wait_for(&mut self, patience: Duration) -> Option<Completion> {
        if self.under_way == 0 {
            return None;
        }
        let done = self.done_out.recv_timeout(patience).ok()?;
        self.under_way -= 1;
        Some(done)
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }
}

impl Shared {
    fn send(&self, command: Command) -> Result<(), ClientError> {
        self.commands
            .send(command)
            .map_err(|_| ClientError::Stopped)?;
        self.alarm.ring();
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let _ended = self.send(Command::Stop);
        let thread = self.thread.get_mut().ok().and_then(Option::take);
        if let Some(thread) = thread {
            // Its error was told to every caller as "stopped".
            let _result = thread.join();
        }
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let _stopped = self.shared.send(Command::Detach(self.id));
    }
}

/// The thread.
struct Loop<P, W> {
    driver: Driver<P>,
    waiter: W,
    commands: Receiver<Command>,
    /// One that came when the thread was about to sleep.
    early: Option<Command>,
    alarm: Arc<Alarm>,
    start: std::time::Instant,
    tickets: BTreeMap<(SessionId, RequestId), Ticket>,
    /// Requests that found their session full, in order. Sessions without any are not in it.
    backlog: BTreeMap<SessionId, VecDeque<Waiting>>,
    attaching: Vec<(SessionId, Instant, Sender<Option<SessionId>>)>,
    notices: BTreeMap<SessionId, Vec<Notice>>,
    /// Which ports wait for room to send.
    room: Vec<bool>,
}

/// Most notices that are kept for [`Disk::info`]; the oldest go first.
const NOTICES: usize = 64;

impl<P: Port, W: Waiter<P>> Loop<P, W> {
    fn new(ports: Vec<P>, waiter: W, commands: Receiver<Command>, alarm: Arc<Alarm>) -> Self {
        Self {
            driver: Driver::new(ports),
            waiter,
            commands,
            early: None,
            alarm,
            start: std::time::Instant::now(),
            tickets: BTreeMap::new(),
            backlog: BTreeMap::new(),
            attaching: Vec::new(),
            notices: BTreeMap::new(),
            room: Vec::new(),
        }
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let now = self.now();
            if !self.take_commands(now) {
                self.driver.close(now);
                return Ok(());
            }
            let mut busy = self.driver.turn(now);
            busy |= self.take_events();
            busy |= self.retry_backlog(now);
            self.end_attaching(now);
            if !busy {
                self.wait()?;
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::START + self.start.elapsed()
    }

    fn wait(&mut self) -> io::Result<()> {
        let attaching = self.attaching.iter().map(|(_, until, _)| *until);
        let next = self
            .driver
            .poll_timeout()
            .into_iter()
            .chain(attaching)
            .min();
        let patience = next.map(|next| next.since(self.now()));
        let ports = u8::try_from(self.driver.ports_mut().len()).unwrap_or(u8::MAX);
        self.room.clear();
        for port in 0..ports {
            self.room.push(self.driver.wants_room(PortId(port)));
        }
        self.alarm.lie_down();
        self.early = self.commands.try_recv().ok();
        let waited = if self.early.is_some() {
            Ok(())
        } else {
            let wake = self.alarm.as_fd();
            self.waiter
                .wait(self.driver.ports_mut(), &self.room, wake, patience)
        };
        self.alarm.get_up();
        waited
    }

    /// False when it is time to stop.
    fn take_commands(&mut self, now: Instant) -> bool {
        loop {
            let command = self
                .early
                .take()
                .map_or_else(|| self.commands.try_recv(), Ok);
            match command {
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
                Ok(command) => self.obey(now, command),
            }
        }
    }

    fn obey(&mut self, now: Instant, command: Command) {
        match command {
            Command::Attach {
                address,
                settings,
                patience,
                reply,
            } => {
                // Keys are random, and so is what they make of nothing.
                let seed = RandomState::new().build_hasher().finish();
                let id = self.driver.attach(address, settings, seed);
                self.attaching.push((id, now + patience, reply));
            }
            Command::Submit {
                session,
                request,
                ticket,
            } => self.submit(now, session, request, ticket),
            Command::Info {
                session,
                notices,
                reply,
            } => {
                let _gone = reply.send(self.info(session, notices));
            }
            Command::Discover { reply, again } => {
                if again {
                    self.driver.discover();
                }
                let _gone = reply.send(self.driver.found().to_vec());
            }
            Command::Detach(session) => self.detach(now, session),
            Command::Stop => {}
        }
    }

    fn submit(
        &mut self,
        now: Instant,
        session: SessionId,
        request: Request<Vec<u8>>,
        ticket: Ticket,
    ) {
        // Nobody overtakes who waits already.
        if let Some(waiting) = self.backlog.get_mut(&session) {
            return waiting.push_back((request, ticket));
        }
        if let Some(refused) = self.try_submit(now, session, request, ticket) {
            self.backlog.entry(session).or_default().push_back(refused);
        }
    }

    /// Gives sessions what they have room for. There may be some after any turn: besides the end of
    /// a request the time makes it, when sectors have been closed for long enough (§15, 10).
    ///
    /// Whether anything was taken.
    fn retry_backlog(&mut self, now: Instant) -> bool {
        let mut any = false;
        let mut backlog = mem::take(&mut self.backlog);
        backlog.retain(|id, waiting| {
            while let Some((request, ticket)) = waiting.pop_front() {
                if let Some(refused) = self.try_submit(now, *id, request, ticket) {
                    waiting.push_front(refused);
                    return true;
                }
                any = true;
            }
            false
        });
        self.backlog = backlog;
        any
    }

    /// Gives the request back if the session is full.
    fn try_submit(
        &mut self,
        now: Instant,
        id: SessionId,
        request: Request<Vec<u8>>,
        ticket: Ticket,
    ) -> Option<Waiting> {
        let Some(session) = self.driver.session_mut(id) else {
            ticket.end(None, Err(ClientError::Stopped));
            return None;
        };
        match session.submit(now, request) {
            Ok(request) => {
                self.tickets.insert((id, request), ticket);
                None
            }
            Err(Refused {
                request,
                why: Refusal::Full,
            }) => Some((request, ticket)),
            Err(Refused { request, why }) => {
                ticket.end(buffer_of(request), Err(why.into()));
                None
            }
        }
    }

    /// Whether there was anything.
    fn take_events(&mut self) -> bool {
        let mut any = false;
        while let Some((id, event)) = self.driver.poll_event() {
            any = true;
            match event {
                Event::Done(Done {
                    id: request,
                    buffer,
                    result,
                }) => {
                    if let Some(ticket) = self.tickets.remove(&(id, request)) {
                        ticket.end(buffer, result.map_err(ClientError::from));
                    }
                }
                Event::Notice(notice) => self.notice(id, notice),
            }
        }
        any
    }

    fn notice(&mut self, id: SessionId, notice: Notice) {
        if notice == Notice::Attached {
            self.attaching.retain(|(other, _, reply)| {
                if *other == id {
                    let _gone = reply.send(Some(id));
                }
                *other != id
            });
        }
        let notices = self.notices.entry(id).or_default();
        if notices.len() >= NOTICES {
            notices.remove(0);
        }
        notices.push(notice);
    }

    /// Gives up looking for targets that were not found in time.
    fn end_attaching(&mut self, now: Instant) {
        let late = |(_, until, _): &(SessionId, Instant, _)| *until <= now;
        while let Some(index) = self.attaching.iter().position(late) {
            let (id, _, reply) = self.attaching.swap_remove(index);
            self.detach(now, id);
            let _gone = reply.send(None);
        }
    }

    fn detach(&mut self, now: Instant, id: SessionId) {
        self.driver.detach(now, id);
        self.notices.remove(&id);
        let later = self.tickets.split_off(&(id, RequestId(0)));
        for (key, ticket) in later {
            if key.0 == id {
                ticket.end(None, Err(Error::Closed.into()));
            } else {
                self.tickets.insert(key, ticket);
            }
        }
        for (request, ticket) in self.backlog.remove(&id).unwrap_or_default() {
            ticket.end(buffer_of(request), Err(Error::Closed.into()));
        }
    }

    fn info(&mut self, id: SessionId, with_notices: bool) -> Option<DiskInfo> {
        let notices = self.notices.get_mut(&id).filter(|_| with_notices);
        let notices = notices.map(mem::take).unwrap_or_default();
        let session = self.driver.session_mut(id)?;
        Some(DiskInfo {
            identity: session.identity()?.clone(),
            paths: session.paths().collect(),
            stats: *session.stats(),
            notices,
        })
    }
}

fn buffer_of(request: Request<Vec<u8>>) -> Option<Vec<u8>> {
    match request {
        Request::Read { buffer, .. } | Request::Write { buffer, .. } => Some(buffer),
        _ => None,
    }
}

// `Disk` is for many threads; the compiler tells if it is not.
const _: fn() = || {
    fn for_many_threads<T: Clone + Send + Sync>() {}
    for_many_threads::<Disk>();
    for_many_threads::<Client>();
};
