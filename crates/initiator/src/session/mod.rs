//! One target, as one initiator sees it: a pure state machine.
//!
//! The order of calls, in the manner of quinn-proto:
//!
//! - what happened: [`handle_port`](Session::handle_port), [`handle_frame`](Session::handle_frame),
//!   [`handle_timeout`](Session::handle_timeout);
//! - commands: [`submit`](Session::submit);
//! - then, until each says `None`: [`poll_transmit`](Session::poll_transmit),
//!   [`poll_event`](Session::poll_event);
//! - and [`poll_timeout`](Session::poll_timeout), when to call
//!   [`handle_timeout`](Session::handle_timeout) at the latest;
//! - at the end [`poll_farewell`](Session::poll_farewell).
//!
//! Files: `op.rs` requests and their pieces, `send.rs` frames out, `receive.rs` frames in,
//! `response.rs` the responses in one of them, `chores.rs` what a path finds out before it is used,
//! `timers.rs` what comes with time, `farewell.rs` what is sent at the end.

mod chores;
mod farewell;
mod op;
mod receive;
mod response;
mod send;
mod timers;

use std::collections::VecDeque;

use aoede_wire::{Address, MacAddr, ReserveCommand, SECTOR_BYTES};

use self::op::{Kind, Op, Piece, Place};
use crate::cache::CacheWatch;
use crate::order::{Extent, Order};
use crate::paths::{Chore, LocalPort, Path, PortId, State, Task, Timer};
use crate::request::{Control, Done, Request, RequestId};
use crate::settings::MAX_PORTS;
use crate::table::Table;
use crate::tags::Tags;
use crate::{Answer, Error, Features, Identity, Instant, Refusal, Refused, SessionStats, Settings};
use core::time::Duration;

/// Most notices that wait to be taken; older ones are dropped and counted.
const NOTICES: usize = 64;
/// Between the first questions for a target that nobody has answered; doubles each time.
const ASK_FIRST: Duration = Duration::from_millis(500);

/// Something that the caller should know.
#[derive(Debug)]
pub enum Event<B> {
    /// A request has ended.
    Done(Done<B>),
    /// Something about the target.
    Notice(Notice),
}

/// News about a target.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Notice {
    /// The disk is known, and requests are taken.
    Attached,
    /// A path is in use, again perhaps.
    PathReady {
        /// The local port.
        port: PortId,
        /// The target's MAC.
        mac: MacAddr,
    },
    /// A path that was in use does not answer, or its port is down.
    PathLost {
        /// The local port.
        port: PortId,
        /// The target's MAC.
        mac: MacAddr,
    },
    /// Another disk answers at the same address. It is not used (§15, 2).
    ForeignDisk {
        /// The local port.
        port: PortId,
        /// Its MAC.
        mac: MacAddr,
        /// What it says of itself.
        identity: Box<Identity>,
    },
    /// The disk has another size now.
    Resized {
        /// In sectors.
        sectors: u64,
    },
    /// The target is vblade or the 2014 AoEde, whose FLUSH does nothing (§15, 7).
    FlushProvesNothing,
    /// The target speaks another version of the protocol: everything fails.
    VersionRefused,
}

/// A path, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathInfo {
    /// The local port.
    pub port: PortId,
    /// The target's MAC.
    pub mac: MacAddr,
    /// Whether it is in use.
    pub ready: bool,
    /// Sectors in a frame that were proven to pass.
    pub sectors_per_frame: u8,
    /// The target's buffer count.
    pub buffer_count: u16,
    /// The target's firmware version.
    pub firmware: u16,
    /// Extensions in force.
    pub features: Features,
    /// Most requests under way on it now.
    pub window: u32,
    /// Average round trip; zero before one was measured.
    pub round_trip: Duration,
    /// Probes that were answered when it was measured (§10). None of them: the target was measured
    /// a moment ago, and does not let itself be measured again so soon.
    pub measured: Option<u32>,
    /// Probes that were sent for it. If all were answered, more may fit.
    pub probes: u32,
    /// Nothing is being found out about it: what the other fields say will stay for a while.
    pub settled: bool,
}

/// A frame that [`poll_transmit`](Session::poll_transmit) has encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// Where to send it.
    pub port: PortId,
    /// Its length in bytes.
    pub len: usize,
}

/// One target, as one initiator sees it. `B` is the caller's buffer type.
///
/// Memory is taken when a session is made, for as much as its [`Settings`] allow; later only
/// control commands, and what is told about disks, allocate.
///
/// ```
/// use aoede_initiator::{Instant, LocalPort, PortId, Refusal, Request, Session, Settings};
/// use aoede_wire::MacAddr;
///
/// let mut session = Session::new("e1.1".parse()?, Settings::default(), 1);
/// let mac = MacAddr([2, 0, 0, 0, 0, 0x0B]);
/// let now = Instant::START;
/// session.handle_port(now, PortId(0), LocalPort { mac, mtu: 1500, up: true });
///
/// let mut out = vec![0; session.frame_bytes()];
/// let transmit = session.poll_transmit(now, &mut out).expect("a question for e1.1");
/// assert_eq!((transmit.port, transmit.len), (PortId(0), 60));
///
/// // Nobody has answered yet; the buffer comes back.
/// let request = Request::Read { lba: 0, buffer: vec![0; 512] };
/// let refused = session.submit(now, request).unwrap_err();
/// assert_eq!(refused.why, Refusal::NotAttached);
/// # Ok::<(), aoede_wire::AddressError>(())
/// ```
#[expect(
    clippy::struct_excessive_bools,
    reason = "each may be true with any other"
)]
pub struct Session<B> {
    address: Address,
    settings: Settings,
    /// State of the generator that ids of measurements come from.
    random: u64,
    tags: Tags,
    ports: Vec<Option<LocalPort>>,
    /// Ports that have a question to send: one bit each.
    ask: u32,
    ask_at: Instant,
    ask_interval: Duration,
    paths: Vec<Path>,
    identity: Option<Identity>,
    cache: CacheWatch,
    attached: bool,
    refused_version: bool,
    closed: bool,
    /// Writes were sent that the target tracks by their tags.
    tracked: bool,

    ops: Table<Op<B>>,
    order: Order,
    pieces: Table<Piece>,
    /// Pieces to be sent again, before all others.
    again: VecDeque<u32>,
    /// Pieces to be cut and sent.
    fresh: VecDeque<u32>,
    /// Pieces of flushes and trims to be sent, again perhaps. While they have no room, others go.
    slow: VecDeque<u32>,
    /// Pieces under way or held, on all paths, but for those of flushes and trims.
    in_flight: u32,
    /// Pieces beyond the first of their request. Each request has a place for its first, so these
    /// are at most as many as there are other places.
    cut: Cut,
    most_cut: Cut,
    next_id: u64,
    uses: u64,
    finished: VecDeque<u32>,
    /// Requests that may start; empty between calls.
    startable: Vec<u32>,
    notices: VecDeque<Notice>,
    last_heard: Instant,
    stats: SessionStats,
}

impl<B> core::fmt::Debug for Session<B> {
    /// Without the data that it holds.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Session")
            .field("address", &self.address)
            .field("ports", &self.ports)
            .field("paths", &self.paths)
            .field("attached", &self.attached)
            .field("in_flight", &self.in_flight)
            .field("again", &self.again.len())
            .field("fresh", &self.fresh.len())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Session<B> {
    /// A session with the target at `address`, which is looked for as soon as there are ports.
    ///
    /// `seed` is random: tags start from it, so that they are not those of an earlier run.
    pub fn new(address: Address, settings: Settings, seed: u64) -> Self {
        let settings = settings.clamped();
        let requests = u32::from(settings.requests);
        let in_flight = u32::from(settings.in_flight);
        // Each request has one piece that was not sent yet. Of those that were sent as many can be
        // under way as the settings say, and as many again in the queue for another try.
        // Lost trims keep theirs for long, so they have their own.
        let most_cut = Cut {
            others: 2 * in_flight + 1,
            slow: in_flight,
        };
        let pieces = requests + most_cut.others + most_cut.slow;
        let [t0, t1, t2, t3, ..] = seed.to_le_bytes();
        Self {
            address,
            random: seed,
            tags: Tags::new(u32::from_le_bytes([t0, t1, t2, t3])),
            ports: vec![None; MAX_PORTS],
            ask: 0,
            ask_at: Instant::START,
            ask_interval: ASK_FIRST,
            paths: Vec::with_capacity(crate::MAX_PATHS),
            identity: None,
            cache: CacheWatch::default(),
            attached: false,
            refused_version: false,
            closed: false,
            tracked: false,
            ops: Table::new(requests),
            order: Order::new(2 * usize::from(settings.requests)),
            pieces: Table::new(pieces),
            again: VecDeque::with_capacity(pieces as usize),
            fresh: VecDeque::with_capacity(pieces as usize),
            slow: VecDeque::with_capacity(pieces as usize),
            in_flight: 0,
            cut: Cut::default(),
            most_cut,
            next_id: 0,
            uses: 0,
            finished: VecDeque::with_capacity(requests as usize),
            startable: Vec::with_capacity(requests as usize),
            notices: VecDeque::with_capacity(NOTICES),
            last_heard: Instant::START,
            stats: SessionStats::default(),
            settings,
        }
    }

    /// Tells of a local port: that it is there, or what has become of it. The target is looked for
    /// on it when it comes up (§15, 1). Ports from [`MAX_PORTS`] on are ignored.
    pub fn handle_port(&mut self, now: Instant, id: PortId, port: LocalPort) {
        let Some(known) = self.ports.get_mut(usize::from(id.0)) else {
            return;
        };
        let before = known.replace(port);
        if before == Some(port) {
            return;
        }
        if port.up {
            self.ask |= 1 << id.0;
        }
        let renamed = before.is_some_and(|before| before.mac != port.mac);
        for index in 0..self.paths.len() {
            let Some(path) = self.paths.get_mut(index) else {
                continue;
            };
            if path.port != id {
                continue;
            }
            path.prove_anew(port.mtu);
            if !port.up || renamed {
                self.go_silent(now, index);
                if renamed {
                    self.renamed(index);
                }
            } else if let Some(chore) = &mut path.chore {
                chore.timer = Timer::Due;
            }
        }
        self.next_chores(now);
    }

    /// Takes a request. It is carried out as soon as the network and earlier requests allow; the
    /// result is an [`Event::Done`] with this id.
    ///
    /// A request of no sectors succeeds without a frame.
    ///
    /// # Errors
    /// The request comes back with a [`Refusal`].
    pub fn submit(
        &mut self,
        now: Instant,
        request: Request<B>,
    ) -> Result<RequestId, Refused<Request<B>>> {
        let Plan {
            lba,
            sectors,
            control,
        } = match self.plan(&request) {
            Ok(plan) => plan,
            Err(why) => return Err(Refused { request, why }),
        };
        let kind = match (request, control) {
            (_, Some(control)) => Kind::Control(control),
            (Request::Read { buffer, .. }, None) => Kind::Read(buffer),
            (Request::Write { buffer, .. }, None) => Kind::Write(buffer),
            (Request::Trim { .. }, None) => Kind::Trim,
            (Request::Flush, None) => Kind::Flush,
            (_, None) => Kind::Identify,
        };
        let end = lba.saturating_add(sectors);
        let extent = match &kind {
            Kind::Read(_) => Extent::Reads(lba, end),
            Kind::Write(_) | Kind::Trim => Extent::Changes(lba, end),
            Kind::Flush => Extent::Flush,
            Kind::Identify | Kind::FlushCheck | Kind::Control(_) => Extent::None,
        };
        let id = self.next_id;
        let op = Op {
            id,
            kind,
            lba,
            sectors,
            pieces: 0,
            error: None,
            answer: None,
            submitted: now,
            progress: None,
            copies_astray: false,
            covers: self.cache.covers(),
            cache_lost: false,
            finished: false,
        };
        // Cannot be full: that was looked at first.
        if let Ok(slot) = self.ops.insert(op) {
            self.next_id += 1;
            if self.order.admit(slot, extent) {
                self.start(now, slot);
            }
        }
        Ok(RequestId(id))
    }

    /// What is next to be told, if anything.
    pub fn poll_event(&mut self) -> Option<Event<B>> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(Event::Notice(notice));
        }
        let slot = self.finished.pop_front()?;
        let op = self.ops.remove(slot)?;
        let buffer = match op.kind {
            Kind::Read(buffer) | Kind::Write(buffer) => Some(buffer),
            _ => None,
        };
        let result = match op.error {
            Some(error) => Err(error),
            None => Ok(op.answer.unwrap_or(Answer::Done)),
        };
        Some(Event::Done(Done {
            id: RequestId(op.id),
            buffer,
            result,
        }))
    }

    /// Ends every request with [`Error::Closed`], so that all buffers come back, and takes no
    /// others. From then on it neither asks nor hears anything; only
    /// [`poll_farewell`](Self::poll_farewell) has something to send.
    pub fn close(&mut self, now: Instant) {
        self.closed = true;
        self.attached = false;
        self.fail_all(now, &Error::Closed);
    }

    /// The target's address.
    pub fn address(&self) -> Address {
        self.address
    }

    /// The disk, once it is known.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// Whether requests are taken.
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// Whether no request is unfinished or waits to be taken back.
    pub fn is_idle(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes that the buffer for [`poll_transmit`](Self::poll_transmit) must have.
    pub fn frame_bytes(&self) -> usize {
        let mtus = self.ports.iter().flatten().map(|port| port.mtu);
        let mtu = usize::try_from(mtus.max().unwrap_or(0)).unwrap_or(usize::MAX);
        mtu.saturating_add(aoede_wire::ETHERNET_BYTES).max(1514)
    }

    /// The paths to the target.
    pub fn paths(&self) -> impl Iterator<Item = PathInfo> + '_ {
        self.paths.iter().map(|path| PathInfo {
            port: path.port,
            mac: path.mac,
            ready: path.state == State::Ready && path.agreed,
            sectors_per_frame: path.payload,
            buffer_count: path.buffer_count,
            firmware: path.firmware,
            features: path.features,
            window: path.window.size(),
            round_trip: path.trips.average(),
            measured: path.answered_probes,
            probes: path.probes,
            settled: path.is_settled(),
        })
    }

    /// Counters since the session was made.
    pub fn stats(&self) -> &SessionStats {
        &self.stats
    }

    /// Whether a request can be taken, and what it comes to.
    fn plan(&self, request: &Request<B>) -> Result<Plan, Refusal> {
        if self.refused_version {
            return Err(Refusal::Version);
        }
        let identity = self.identity.as_ref().filter(|_| self.attached);
        let identity = identity.ok_or(Refusal::NotAttached)?;
        if self.ops.is_full() || self.order.is_full() {
            return Err(Refusal::Full);
        }
        let span = |lba: u64, sectors: u64| match lba.checked_add(sectors) {
            Some(end) if end <= identity.sectors => Ok(Plan::sectors(lba, sectors)),
            _ => Err(Refusal::Beyond),
        };
        match request {
            Request::Read { lba, buffer } | Request::Write { lba, buffer } => {
                let len = buffer.as_ref().len();
                if len % SECTOR_BYTES != 0 {
                    return Err(Refusal::NotSectors);
                }
                span(*lba, (len / SECTOR_BYTES) as u64)
            }
            Request::Trim { .. } if identity.trim_blocks == 0 => Err(Refusal::Unsupported),
            Request::Trim { lba, sectors } => span(*lba, *sectors),
            Request::Flush if !identity.flush && !identity.flush_ext => Err(Refusal::Unsupported),
            Request::Flush | Request::Identify => Ok(Plan::sectors(0, 0)),
            Request::Config { command, string } => {
                Ok(Plan::control(Control::config(*command, string)?))
            }
            Request::Mask { directives } => Ok(Plan::control(Control::mask(directives)?)),
            Request::Reserve { command, macs } => {
                let command = self.reserve_command(*command, macs);
                Ok(Plan::control(Control::reserve(command, macs)?))
            }
        }
    }

    /// The 2014 AoEde looks at the wrong MAC and lets nobody release but by force (§15, 9).
    fn reserve_command(&self, command: ReserveCommand, macs: &[MacAddr]) -> ReserveCommand {
        if command == ReserveCommand::Set && macs.is_empty() && self.paths.iter().any(Path::is_old)
        {
            return ReserveCommand::ForceSet;
        }
        command
    }

    /// Lets a request start that waited for nothing, or for nothing any more.
    fn start(&mut self, now: Instant, slot: u32) {
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        let with_sectors = matches!(op.kind, Kind::Read(_) | Kind::Write(_) | Kind::Trim);
        if op.error.is_some() || (with_sectors && op.sectors == 0) {
            return self.finish(now, slot);
        }
        let piece = Piece::new(slot, 0, op.sectors);
        // There is room: see `cut`. If there were none, nobody would wait for ever.
        let Ok(place) = self.pieces.insert(piece) else {
            op.error = Some(Error::Silent);
            return self.finish(now, slot);
        };
        op.pieces = 1;
        if op.is_slow() {
            self.slow.push_back(place);
        } else {
            self.fresh.push_back(place);
        }
    }

    /// Ends a request that has no pieces any more, and starts those that waited for it.
    fn finish(&mut self, now: Instant, slot: u32) {
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        op.finished = true;
        // Of a change that failed a piece may be under way that nobody waited for, and no window
        // knows it: what failed may be tried again (§9.2).
        let astray = op.copies_astray || op.error.is_some();
        if op.changes() && op.error.is_none() {
            self.cache.acknowledged(op.cache_lost);
        }
        let linger = Some(self.settings.linger).filter(|linger| !linger.is_zero());
        let until = linger.filter(|_| op.changes() && astray);
        let until = until.map(|linger| now + linger);
        self.finished.push_back(slot);
        let startable = &mut self.startable;
        self.order.finish(slot, until, |slot| startable.push(slot));
        self.start_all(now);
    }

    fn start_all(&mut self, now: Instant) {
        // Starting may finish a request of no sectors, and that start others.
        while let Some(slot) = self.startable.pop() {
            self.start(now, slot);
        }
    }

    /// Ends a piece, and its request if it was the last.
    fn finish_piece(&mut self, now: Instant, place: u32) {
        self.land(place);
        let Some(piece) = self.pieces.remove(place) else {
            return;
        };
        let Some(op) = self.ops.get_mut(piece.op) else {
            return;
        };
        op.pieces = op.pieces.saturating_sub(1);
        op.progress = Some(now);
        if op.pieces == 0 {
            self.finish(now, piece.op);
        } else {
            let cut = self.cut.of(op.is_slow());
            *cut = cut.saturating_sub(1);
        }
    }

    /// Takes a piece out of the air, or out of its queue. Its place is to be set by the caller.
    fn land(&mut self, place: u32) {
        let Some(piece) = self.pieces.get_mut(place) else {
            return;
        };
        let slow = self.ops.get(piece.op).is_some_and(Op::is_slow);
        match piece.place {
            Place::Queued => {
                self.again.retain(|&queued| queued != place);
                self.fresh.retain(|&queued| queued != place);
                self.slow.retain(|&queued| queued != place);
            }
            Place::Flying { path, .. } => {
                self.in_flight = self.in_flight.saturating_sub(u32::from(!slow));
                if let Some(path) = self.paths.get_mut(path) {
                    let under_way = path.under_way(slow);
                    *under_way = under_way.saturating_sub(1);
                }
            }
            Place::Held { .. } => {
                self.in_flight = self.in_flight.saturating_sub(u32::from(!slow));
            }
        }
    }

    /// Takes a piece out of the air and puts it into the queue for another try.
    fn send_again(&mut self, now: Instant, place: u32) {
        self.land(place);
        let Some(piece) = self.pieces.get_mut(place) else {
            return;
        };
        piece.place = Place::Queued;
        let op = self.ops.get(piece.op);
        if op.is_some_and(Op::is_slow) {
            self.slow.push_back(place);
        } else {
            self.again.push_back(place);
        }
        if op.is_none_or(|op| op.error.is_some()) {
            // Nobody wants it any more.
            self.finish_piece(now, place);
        }
    }

    /// Ends a request with an error that one of its pieces met, which is the caller's to end. What
    /// is under way is waited for, so that nothing of it meets a later request; what is not is
    /// dropped.
    fn fail_but(&mut self, now: Instant, slot: u32, error: Error, piece: u32) {
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        if op.error.is_some() {
            return;
        }
        op.error = Some(error);
        self.drop_pieces(now, slot, |place, other| {
            place != piece && !matches!(other.place, Place::Flying { .. })
        });
    }

    /// Ends a request at once, whatever is under way.
    fn abandon(&mut self, now: Instant, slot: u32, error: Error) {
        let Some(op) = self.ops.get_mut(slot) else {
            return;
        };
        op.error.get_or_insert(error);
        op.copies_astray = true;
        self.drop_pieces(now, slot, |_, _| true);
    }

    fn drop_pieces(&mut self, now: Instant, slot: u32, condemned: impl Fn(u32, &Piece) -> bool) {
        loop {
            let next = self
                .pieces
                .find(|place, piece| piece.op == slot && condemned(place, piece));
            let Some(place) = next else {
                return;
            };
            self.finish_piece(now, place);
        }
    }

    fn fail_all(&mut self, now: Instant, error: &Error) {
        let slots: Vec<u32> = self.ops.iter().map(|(slot, _)| slot).collect();
        for &slot in &slots {
            if let Some(op) = self.ops.get_mut(slot) {
                if !op.finished {
                    op.error.get_or_insert_with(|| error.clone());
                }
            }
        }
        // Those that wait for others end when the others do, and nothing is sent any more.
        self.settings.linger = Duration::ZERO;
        for slot in slots {
            self.drop_pieces(now, slot, |_, _| true);
        }
        let startable = &mut self.startable;
        let for_ever = Instant::START + Duration::MAX;
        self.order.expire(for_ever, |slot| startable.push(slot));
        self.start_all(now);
    }

    /// Whether nothing is to be sent or heard any more.
    fn is_over(&self) -> bool {
        self.refused_version || self.closed
    }

    fn is_finished(&self, slot: u32) -> bool {
        self.ops.get(slot).is_none_or(|op| op.finished)
    }

    fn notify(&mut self, notice: Notice) {
        if self.notices.len() >= NOTICES {
            self.notices.pop_front();
            self.stats.events_lost += 1;
        }
        self.notices.push_back(notice);
    }

    fn port(&self, id: PortId) -> Option<LocalPort> {
        self.ports.get(usize::from(id.0)).copied().flatten()
    }

    /// The MTU of a path's port.
    fn mtu_of(&self, path: &Path) -> u32 {
        self.port(path.port).map_or(0, |port| port.mtu)
    }

    /// A path does not answer, or its port is down: its requests go elsewhere, and it is asked
    /// until it answers.
    fn go_silent(&mut self, now: Instant, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        path.measurement = None;
        // Meanwhile the target may forget what was agreed on.
        path.in_doubt = true;
        self.cache.doubt();
        let was_ready = path.state == State::Ready;
        if was_ready {
            path.state = State::Silent;
            path.look_again = false;
            path.chore = Some(Chore::new(Task::Identify));
            let (port, mac) = (path.port, path.mac);
            self.stats.paths_lost += 1;
            self.notify(Notice::PathLost { port, mac });
            self.interrupt_measurements();
        }
        self.flights_again(now, index);
    }

    /// The target tells the number of its write cache, or that it has none.
    fn cache_told(&mut self, number: Option<u64>) {
        if !self.cache.told(number) {
            return;
        }
        // Whoever was there before may have acknowledged some of these, or parts of them.
        let mut any = self.cache.has_lost();
        for (_, op) in self.ops.iter_mut() {
            op.cache_lost |= op.changes() && !op.finished && op.progress.is_some();
            any |= op.cache_lost;
        }
        self.stats.caches_lost += u64::from(any);
    }

    /// A path's port has another MAC: nothing is agreed on for that, and its window does not know
    /// what left by the old one (§15, 10).
    fn renamed(&mut self, index: usize) {
        let Some(path) = self.paths.get_mut(index) else {
            return;
        };
        path.agreed = false;
        path.features = Features::default();
        path.may_be_in_force = false;
        self.send_astray(index, |_| {});
    }

    /// A path is another from now on: no response on it answers what was sent before.
    fn forget_sent_on(&mut self, index: usize) {
        self.send_astray(index, |piece| piece.sent_on &= !bit(index));
    }

    /// What was sent on a path is not known there any more.
    fn send_astray(&mut self, index: usize, change: impl Fn(&mut Piece)) {
        let bit = bit(index);
        for (_, piece) in self.pieces.iter_mut() {
            if piece.sent_on & bit != 0 {
                change(piece);
                if let Some(op) = self.ops.get_mut(piece.op) {
                    op.copies_astray = true;
                }
            }
        }
    }

    /// Takes everything that is under way on a path back into the queue.
    fn flights_again(&mut self, now: Instant, index: usize) {
        self.send_all_again(now, |piece| match piece.place {
            Place::Flying { path, .. } => path == index,
            Place::Queued | Place::Held { .. } => false,
        });
    }

    fn send_all_again(&mut self, now: Instant, chosen: impl Fn(&Piece) -> bool) {
        loop {
            let Some(place) = self.pieces.find(|_, piece| chosen(piece)) else {
                return;
            };
            self.send_again(now, place);
        }
    }

    /// Makes every request that was sent a new one, with a tag far from the old ones (§9.2): to be
    /// called before extensions are negotiated anew.
    fn leap(&mut self, now: Instant) {
        self.send_all_again(now, |piece| matches!(piece.place, Place::Flying { .. }));
        for (_, piece) in self.pieces.iter_mut() {
            if piece.forget_tag() {
                // Copies of what was sent carry a tag that the fresh window does not know.
                if let Some(op) = self.ops.get_mut(piece.op) {
                    op.copies_astray = true;
                }
            }
        }
        self.tags.leap();
        self.tracked = false;
    }

    /// A number that nobody can foresee who does not know the seed (`SplitMix64`).
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// A path's bit among those that a piece was sent on.
fn bit(path: usize) -> u32 {
    1_u32
        .checked_shl(u32::try_from(path).unwrap_or(u32::MAX))
        .unwrap_or(0)
}

/// How many pieces are beyond the first of their request.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    others: u32,
    slow: u32,
}

impl Cut {
    /// Those of flushes and trims are slow.
    fn of(&mut self, slow: bool) -> &mut u32 {
        if slow {
            &mut self.slow
        } else {
            &mut self.others
        }
    }
}

/// What a request comes to.
struct Plan {
    lba: u64,
    sectors: u64,
    control: Option<Control>,
}

impl Plan {
    fn sectors(lba: u64, sectors: u64) -> Self {
        Self {
            lba,
            sectors,
            control: None,
        }
    }

    fn control(control: Control) -> Self {
        Self {
            lba: 0,
            sectors: 0,
            control: Some(control),
        }
    }
}
