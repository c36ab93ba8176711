//! The server: one worker, what it serves, and the loop that drives both and waits.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aoede_disk::Pool;
use aoede_link::Port as _;
use aoede_wire::Address;
use tokio::sync::mpsc::UnboundedSender;
use tracing::{error, info, warn};

use super::engines::Engines;
use super::order::{News, Opening, Order, Remembered};
use super::report::{self, Report};
use super::seats::{PortWorker, Seats};
use super::served::Served;
use super::size_watch::SizeWatches;
use super::wait::{Waiter, Waker, Woken};
use super::{Losses, REPORT_PAUSE, has_one_core};
use crate::control::api::{Reason, Refusal};
use crate::freeze_signals::{self, FreezeSignals};
use crate::stop::Stop;
use crate::worker::Worker;

/// How often the sizes of files are looked at, and losses are reported if there were any. Not
/// while the server is idle, if somebody tells of the sizes.
const TICK: Duration = Duration::from_secs(1);
/// Turns of a busy worker between two looks at signals, interfaces and the clock.
const TURNS_BETWEEN_LOOKS: u32 = 64;
/// Operations with the disk for which it is worth looking instead of sleeping.
const OPERATIONS_TO_POLL_FOR: usize = 4;
/// A pause while stopping, when waiting itself fails.
const LOOK_PAUSE: Duration = Duration::from_millis(10);
/// How long a stop waits for a full send buffer once the disk has finished.
const SEND_PATIENCE: Duration = Duration::from_secs(1);

const ENGINE_FAILED: &str = "the kernel refuses file I/O as a whole";

/// What a server is made of.
pub(super) struct Parts {
    /// For messages.
    pub(super) name: String,
    pub(super) pool: Pool,
    /// That each engine takes at once.
    pub(super) operations: usize,
    pub(super) seats: Seats,
    pub(super) busy_poll: Duration,
    /// What time is counted from.
    pub(super) start: Instant,
    pub(super) waking: Waking,
}

/// By whom it is told what to do.
pub(super) enum Waking {
    /// By signals: `aoede export`.
    Signals { stop: Stop, freeze: FreezeSignals },
    /// By a daemon's main thread, which makes the descriptor readable when there are orders.
    Orders(Orders),
}

/// From and to the daemon's main thread.
pub(super) struct Orders {
    /// Of the worker.
    pub(super) number: u16,
    pub(super) receiver: mpsc::Receiver<Order>,
    pub(super) wake: Arc<OwnedFd>,
    pub(super) news: UnboundedSender<News>,
}

/// See the module's text.
pub(super) struct Server {
    name: String,
    worker: PortWorker,
    seats: Seats,
    waiter: Waiter,
    size_watches: SizeWatches,
    exports: Vec<Served>,
    busy_poll: Duration,
    /// What the worker counts time from.
    start: Instant,
    waking: Waking,
    /// Descriptors that are waited for: of engines, and of sizes.
    engines_added: usize,
    sizes_added: [bool; 2],
    reported: Losses,
    report_after: Instant,
    /// There was something to do since the last look.
    worked: bool,
    /// New requests are not taken yet,
    holding: bool,
    /// or not any more.
    stopping: bool,
}

impl Server {
    /// One that serves nothing yet.
    pub(super) fn new(parts: Parts) -> anyhow::Result<Self> {
        let Parts {
            name,
            pool,
            operations,
            mut seats,
            busy_poll,
            start,
            waking,
        } = parts;
        let waiter = Waiter::new().context("cannot prepare for waiting")?;
        let add = |waker, fd| waiter.add(waker, fd).context("cannot prepare for waiting");
        add(Waker::Interfaces, seats.as_fd())?;
        match &waking {
            Waking::Signals { stop, freeze } => {
                add(Waker::Stop, stop.as_fd())?;
                for signals in freeze.fds() {
                    add(Waker::Freeze, signals)?;
                }
            }
            Waking::Orders(orders) => add(Waker::Orders, orders.wake.as_fd())?,
        }
        seats.set_data_bytes(pool.shape().data_bytes);
        let engines = Engines::new(operations, &pool);
        let mut server = Self {
            name,
            worker: Worker::new(engines, pool, seats.len()),
            seats,
            waiter,
            size_watches: SizeWatches::default(),
            exports: Vec::new(),
            busy_poll: Duration::ZERO,
            start,
            holding: matches!(waking, Waking::Orders(_)),
            waking,
            engines_added: 0,
            sizes_added: [false; 2],
            reported: Losses::default(),
            report_after: Instant::now(),
            worked: false,
            stopping: false,
        };
        server.set_busy_poll(busy_poll);
        Ok(server)
    }

    fn set_busy_poll(&mut self, time: Duration) {
        self.busy_poll = if has_one_core() { Duration::ZERO } else { time };
    }

    /// Serves one more, as soon as it has its places.
    ///
    /// # Errors
    /// Why it cannot be served.
    pub(super) fn add(&mut self, opening: Opening) -> anyhow::Result<()> {
        let served = Served::start(
            opening,
            matches!(self.waking, Waking::Orders(_)),
            &mut self.worker,
            &mut self.size_watches,
        )?;
        self.exports.push(served);
        self.wait_for_parts().context("cannot prepare for waiting")
    }

    /// Waits for engines and news of sizes that there were none of before.
    fn wait_for_parts(&mut self) -> std::io::Result<()> {
        let engines = self.worker.engine().fds();
        let mut added = 0;
        for (kind, fd) in engines {
            let bit = 1 << kind as usize;
            if self.engines_added & bit == 0 {
                self.waiter.add(Waker::Engine, fd)?;
                added |= bit;
            }
        }
        self.engines_added |= added;
        let sizes = self.size_watches.fds();
        for (fd, added) in sizes.into_iter().zip(&mut self.sizes_added) {
            if let (Some(fd), false) = (fd, *added) {
                self.waiter.add(Waker::Size, fd)?;
                *added = true;
            }
        }
        Ok(())
    }

    /// Has every export served on its interfaces.
    ///
    /// # Errors
    /// A port cannot be opened.
    pub(super) fn serve_places(&mut self) -> anyhow::Result<()> {
        let places: Vec<_> = self.exports.iter().map(Served::place).collect();
        self.seats
            .serve(&places, &mut self.worker, &mut self.waiter)
    }

    /// The same, where errors are only told of.
    fn follow(&mut self) {
        let places: Vec<_> = self.exports.iter().map(Served::place).collect();
        self.seats
            .follow(&places, &mut self.worker, &mut self.waiter);
    }

    pub(super) fn first(&self) -> Option<&Served> {
        self.exports.first()
    }

    pub(super) fn tell_what_is_served(&self) {
        for served in &self.exports {
            served.tell_what_is_served(&self.seats.names());
        }
    }

    /// Turns the worker until a stop is asked for, then finishes what has begun.
    ///
    /// # Errors
    /// The engine failed as a whole, or acknowledged data is lost.
    pub(super) fn run(mut self) -> anyhow::Result<()> {
        let served = self.serve();
        match &served {
            Ok(()) => info!("stopping {}", self.name),
            Err(error) => error!("{}: stopping, as it cannot go on: {error:#}", self.name),
        }
        self.disarm();
        // What was acknowledged is written whatever happened, as far as that works.
        let finished = self.finish();
        if let (Err(_), Err(error)) = (&served, &finished) {
            error!("{error:#}");
        }
        served.and(finished)
    }

    /// Turns the worker until a stop is asked for.
    fn serve(&mut self) -> anyhow::Result<()> {
        // There is none while the server is idle, until it has worked again.
        let mut next_look = Some(Instant::now() + TICK);
        loop {
            let idle = self.turn_for_a_while()?;
            if next_look.is_none() && self.worked {
                self.disarm();
                next_look = Some(Instant::now() + TICK);
            }
            let patience = if idle {
                self.patience(next_look)
            } else {
                Some(Duration::ZERO)
            };
            let woken = self.wait(patience)?;
            if woken.stop && self.takes_stop() {
                return Ok(());
            }
            self.worked |= woken.interfaces || woken.freeze || woken.size;
            if woken.interfaces {
                self.follow();
            }
            let now = self.start.elapsed();
            if woken.freeze {
                self.obey_signals(now);
            }
            if woken.size {
                self.disarm();
                self.look_at_sizes();
            }
            if woken.orders && self.obey() {
                return Ok(());
            }
            for served in &mut self.exports {
                served.advance(now, &mut self.worker);
            }
            self.end_closed();
            let now = Instant::now();
            if next_look.is_some_and(|due| due <= now) {
                next_look = self.look(now);
            }
        }
    }

    fn takes_stop(&self) -> bool {
        match &self.waking {
            Waking::Signals { stop, .. } => stop.take(),
            Waking::Orders(_) => false,
        }
    }

    fn obey_signals(&mut self, now: Duration) {
        let Waking::Signals { freeze, .. } = &mut self.waking else {
            return;
        };
        let Some(order) = freeze.take(now) else {
            return;
        };
        for served in &mut self.exports {
            match order {
                freeze_signals::Order::Freeze => served.freeze_by_signal(now, &mut self.worker),
                freeze_signals::Order::Thaw => served.thaw_by_signal(&mut self.worker),
                freeze_signals::Order::Unclear(ones, twos) => warn!(
                    "{}: {ones} times SIGUSR1 and {twos} times SIGUSR2 mean nothing: freeze with \
                     USR1 USR2, thaw with USR1 USR1 USR2, and pause between them",
                    self.name
                ),
            }
        }
    }

    /// Carries out the orders that are there. Whether one is to stop.
    fn obey(&mut self) -> bool {
        while let Some(order) = self.next_order() {
            if matches!(order, Order::Stop) {
                return true;
            }
            // To be looked at is no work, and wakes nothing else.
            self.worked |= !matches!(order, Order::Ping(_) | Order::Report(_));
            self.carry_out(order);
        }
        false
    }

    fn next_order(&self) -> Option<Order> {
        let Waking::Orders(orders) = &self.waking else {
            return None;
        };
        match orders.receiver.try_recv() {
            Ok(order) => Some(order),
            // The main thread is gone: it has nothing more to say.
            Err(mpsc::TryRecvError::Disconnected) => Some(Order::Stop),
            Err(mpsc::TryRecvError::Empty) => {
                // Read first, then looked at once more: none comes unseen.
                let read = rustix::io::read(&*orders.wake, &mut [0; 8]);
                read.ok().and_then(|_| orders.receiver.try_recv().ok())
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        let now = self.start.elapsed();
        // Whoever asked may be gone when the answer comes: no answer is looked after.
        match order {
            Order::Open(opening, answer) => drop(answer.send(self.open(*opening))),
            Order::Begin => {
                self.holding = false;
                for served in &self.exports {
                    self.worker.announce_export(served.number());
                }
            }
            Order::Close(address, answer) => match self.find(address) {
                Some((served, worker)) => served.close(now, worker, answer),
                None => drop(answer.send(None)),
            },
            Order::Adjust(address, changes, answer) => {
                let mut elsewhere = false;
                if let Some((served, worker)) = self.find(address) {
                    for change in changes {
                        elsewhere |= served.change(change, worker);
                    }
                }
                if elsewhere {
                    self.follow();
                    if let Some((served, worker)) = self.find(address) {
                        worker.announce_export(served.number());
                    }
                }
                let _ = answer.send(());
            }
            Order::BusyPoll(time) => self.set_busy_poll(time),
            Order::LookAtSize(address, answer) => {
                let sectors = self.find(address).and_then(|(served, worker)| {
                    served.look_at_size(worker);
                    Some(worker.exports().get(served.number())?.sectors())
                });
                let _ = answer.send(sectors);
            }
            Order::Freeze(address, answer) => match self.find(address) {
                Some((served, worker)) => served.freeze(now, worker, answer),
                None => drop(answer.send(Err(not_here(address)))),
            },
            Order::Thaw(address, answer) => match self.find(address) {
                Some((served, worker)) => served.thaw(worker, answer),
                None => drop(answer.send(Err(not_here(address)))),
            },
            Order::ResetFailure(address, answer) => {
                let reset = match self.find(address) {
                    Some((served, worker)) => served.reset_failure(now, worker),
                    None => Err(not_here(address)),
                };
                let _ = answer.send(reset);
                self.tell_what_is_new();
            }
            Order::Report(answer) => drop(answer.send(self.report())),
            Order::Ping(answer) => drop(answer.send(())),
            // It ended the loop.
            Order::Stop => {}
        }
    }

    fn open(&mut self, opening: Opening) -> anyhow::Result<()> {
        let address = opening.export.address();
        self.add(opening)?;
        let opened = self.serve_places();
        if let Err(error) = &opened {
            // At start it ends everything; later it is tried again.
            if !self.holding {
                error!("{error:#}");
            }
        }
        if let Some(served) = self
            .exports
            .iter()
            .find(|served| served.address() == address)
        {
            self.worker.announce_export(served.number());
            let names = self.seats.names_at(served.number(), &self.worker);
            served.tell_what_is_served(&names.join(","));
        }
        if self.holding { opened } else { Ok(()) }
    }

    fn find(&mut self, address: Address) -> Option<(&mut Served, &mut PortWorker)> {
        let mut exports = self.exports.iter_mut();
        let served = exports.find(|served| served.address() == address)?;
        Some((served, &mut self.worker))
    }

    /// Ends the exports that are closed by now.
    fn end_closed(&mut self) {
        let before = self.exports.len();
        let (worker, watches) = (&mut self.worker, &self.size_watches);
        let waking = &self.waking;
        self.exports.retain_mut(|served| {
            let Some(last) = served.try_end(worker, watches) else {
                return true;
            };
            // Behind what was told before, of which it takes the place.
            tell(waking, served.address(), last);
            served.answer_closed();
            false
        });
        if self.exports.len() < before {
            self.follow();
        }
    }

    /// Turns the worker until it has nothing to do, or until others must be looked at. Returns
    /// whether it has nothing to do.
    fn turn_for_a_while(&mut self) -> anyhow::Result<bool> {
        for _ in 0..TURNS_BETWEEN_LOOKS {
            if !self.turn()? && !self.find_more()? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn turn(&mut self) -> anyhow::Result<bool> {
        let now = self.start.elapsed();
        let worked = if self.holding {
            self.worker.drain(now)
        } else {
            self.worker.turn(now)
        };
        let worked = worked.context(ENGINE_FAILED)?;
        self.worked |= worked;
        Ok(worked)
    }

    /// Looks for more to do before it goes to sleep, while so much is with the disk that something
    /// will come soon: to be woken takes longer than that. Whether it found something.
    fn find_more(&mut self) -> anyhow::Result<bool> {
        if self.busy_poll.is_zero() || self.worker.operations() < OPERATIONS_TO_POLL_FOR {
            return Ok(false);
        }
        let end = self.start.elapsed() + self.busy_poll;
        while self.start.elapsed() < end {
            if self.turn()? {
                return Ok(true);
            }
            std::hint::spin_loop();
        }
        Ok(false)
    }

    /// How long to sleep at most, if there is anything to wake for.
    fn patience(&self, next_look: Option<Instant>) -> Option<Duration> {
        let due = self.worker.poll_timeout().into_iter();
        let freezes = self.exports.iter().filter_map(Served::due);
        let due = due.chain(freezes).map(|due| self.start + due);
        let next = due.chain(next_look).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Works until the disk has nothing more to do.
    fn finish_disk(&mut self) -> anyhow::Result<()> {
        while self.worker.is_disk_busy() {
            let now = self.start.elapsed();
            if !self.worker.drain(now).context(ENGINE_FAILED)? {
                let patience = self.patience(Some(Instant::now() + TICK));
                self.wait_to_finish(patience.unwrap_or(TICK));
            }
        }
        Ok(())
    }

    /// Takes no new requests; finishes and answers those that were begun, and brings everything
    /// acknowledged to stable storage. What is lost is told of and remembered, whatever failed.
    ///
    /// # Errors
    /// Of a failed engine and lost data the first; the other is logged.
    fn finish(mut self) -> anyhow::Result<()> {
        let finished = self.finish_work();
        let told = self.tell_the_end();
        if let (Err(_), Err(lost)) = (&finished, &told) {
            error!("{lost:#}");
        }
        finished.and(told)
    }

    fn finish_work(&mut self) -> anyhow::Result<()> {
        self.finish_disk()?;
        self.worker.begin_flush(self.start.elapsed());
        self.finish_disk()?;
        let deadline = Instant::now() + SEND_PATIENCE;
        while !self.worker.is_idle() && Instant::now() < deadline {
            let now = self.start.elapsed();
            if !self.worker.drain(now).context(ENGINE_FAILED)? {
                self.wait_to_finish(deadline.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }

    /// The last words about everything, and what of it is kept.
    fn tell_the_end(&mut self) -> anyhow::Result<()> {
        self.log_disk_errors();
        self.report_losses();
        let mut lost = Ok(());
        for served in &mut self.exports {
            served.give_up(&self.worker);
            served.tell_what_was_done(&self.worker);
            served.freezer().stop(&self.worker);
            if let Err(error) = served.check_nothing_is_lost(&self.worker) {
                if lost.is_ok() {
                    lost = Err(error);
                } else {
                    error!("{error:#}");
                }
            }
        }
        self.tell_what_is_new();
        lost
    }

    /// Sleeps while stopping. A second signal has nothing to add, but must not wake us for ever.
    fn wait_to_finish(&mut self, patience: Duration) {
        self.stopping = true;
        let woken = self.wait(Some(patience)).unwrap_or_else(|_| {
            // Nothing tells when the disk is done, so look often.
            std::thread::sleep(patience.min(LOOK_PAUSE));
            Woken::default()
        });
        if woken.stop && self.takes_stop() {
            info!("already stopping: finishing what has begun");
        }
        let now = self.start.elapsed();
        if let (true, Waking::Signals { freeze, .. }) = (woken.freeze, &mut self.waking)
            && freeze.take(now).is_some()
        {
            warn!("{}: stopping: neither freezing nor thawing", self.name);
        }
        if woken.orders {
            self.refuse_orders();
        }
        if woken.size {
            self.disarm();
        }
        if woken.interfaces {
            self.follow();
        }
    }

    /// Of what is asked while stopping, only a look is answered: who waits for something else sees
    /// its answer dropped.
    fn refuse_orders(&mut self) {
        while let Some(order) = self.next_order() {
            match order {
                Order::Ping(_) | Order::Report(_) => self.carry_out(order),
                Order::Stop => return,
                _ => {}
            }
        }
    }

    /// Sleeps until a frame, a completion, a signal, an order or a change of an interface, or until
    /// `patience` ends.
    fn wait(&mut self, patience: Option<Duration>) -> anyhow::Result<Woken> {
        for seat in 0..self.seats.len() {
            let frames = !self.stopping && !self.holding && self.worker.takes_frames(seat);
            let room = self.worker.waits_to_send(seat);
            if let Some(port) = self.worker.port_mut(seat) {
                port.release();
                self.waiter
                    .want(seat, port, frames, room)
                    .context("waiting")?;
            }
        }
        let woken = self.waiter.wait(patience).context("waiting")?;
        if woken.port_error {
            self.seats.take_errors(&mut self.worker);
        }
        Ok(woken)
    }

    /// What is done once a second, as long as there is something to do: follow the sizes of files,
    /// report losses. Returns when to do it again: without a time, when there will be something to
    /// do again.
    fn look(&mut self, now: Instant) -> Option<Instant> {
        let next = Some(now + TICK);
        self.tick();
        if std::mem::take(&mut self.worked) || self.is_waiting() || !self.arm() {
            return next;
        }
        // What was written before it listened.
        if self.look_at_sizes() {
            self.disarm();
            return next;
        }
        None
    }

    /// Whether something is under way, or waits for its time.
    fn is_waiting(&mut self) -> bool {
        self.worker.is_disk_busy()
            || self.worker.operations() > 0
            || !self.worker.is_idle()
            || self.worker.fair_stats().waiting > 0
            || self.seats.is_incomplete()
            || self
                .exports
                .iter()
                .any(|served| served.due().is_some() || served.is_closing())
            || self.losses() != self.reported
    }

    /// Begins to listen for all sizes. False if nobody tells of some: then all are looked at.
    fn arm(&mut self) -> bool {
        let watches = &self.size_watches;
        let all = self.exports.iter_mut().all(|served| served.arm(watches));
        if !all {
            self.disarm();
        }
        all
    }

    fn disarm(&mut self) {
        let watches = &self.size_watches;
        for served in &mut self.exports {
            served.disarm(watches);
        }
        watches.take_news();
    }

    /// Follows the sizes of all files. Whether one is another.
    fn look_at_sizes(&mut self) -> bool {
        let mut any = false;
        for served in &mut self.exports {
            any |= served.look_at_size(&mut self.worker);
        }
        any
    }

    fn tick(&mut self) {
        self.tell_what_is_new();
        self.log_disk_errors();
        if self.seats.is_incomplete() {
            self.follow();
        }
        if Instant::now() >= self.report_after {
            self.report_losses();
        }
    }

    /// Looks after each export, and tells what of it is to be kept over a restart.
    fn tell_what_is_new(&mut self) {
        for served in &mut self.exports {
            if let Some(new) = served.tick(&mut self.worker) {
                tell(&self.waking, served.address(), new);
            }
        }
    }

    /// Tells of the latest request that a disk failed, if there was one since the last call.
    fn log_disk_errors(&mut self) {
        if let Some((export, error)) = self.worker.take_error() {
            let mut exports = self.exports.iter();
            let served = exports.find(|served| served.number() == export);
            if let Some(served) = served {
                error!("{}: {error}", served.address());
            }
        }
        for served in &mut self.exports {
            served.log_disk_error(&self.worker);
        }
    }

    fn losses(&mut self) -> Losses {
        let (stats, fair) = (self.worker.stats(), self.worker.fair_stats());
        Losses {
            unanswered: stats.no_buffer + stats.responses_lost + fair.queue_full + fair.room_full,
            ..self.seats.losses(&mut self.worker)
        }
    }

    /// Warns of frames lost since the last report.
    fn report_losses(&mut self) {
        let now = self.losses();
        if now != self.reported {
            let before = std::mem::replace(&mut self.reported, now);
            self.report_after = Instant::now() + REPORT_PAUSE;
            warn!(
                ring_full = now.ring_full - before.ring_full,
                not_sent = now.not_sent - before.not_sent,
                unanswered = now.unanswered - before.unanswered,
                "{}: frames were lost; initiators will repeat their requests",
                self.name
            );
        }
    }

    fn report(&mut self) -> Report {
        let number = match &self.waking {
            Waking::Orders(orders) => orders.number,
            Waking::Signals { .. } => 0,
        };
        let now = self.start.elapsed();
        report::report(number, now, &self.exports, &self.seats, &mut self.worker)
    }
}

/// Tells the main thread what is to be kept.
fn tell(waking: &Waking, address: Address, remembered: Remembered) {
    if let Waking::Orders(orders) = waking {
        // It is gone only when nothing can be kept any more.
        let _ = orders
            .news
            .send(News::Remember(address, Box::new(remembered)));
    }
}

/// An export that its worker does not know: it was closed in between.
fn not_here(address: Address) -> Refusal {
    Refusal::new(
        Reason::NotFound,
        format!("{address} is not served"),
        "aoede status lists what is",
    )
}
