//! The middle of a cable: copies AoE frames between two interfaces, and does to them what a test
//! says.
//!
//! A [`Rule`] names frames ([`Frames`]) and what becomes of them ([`Fate`]): held back and released
//! later, lost, doubled, damaged, or only watched. Besides, a direction may be cut, and [`Noise`]
//! loses, doubles and damages frames by chance, from a seed. What is ordered holds for every frame
//! that is taken from an interface afterwards; what a rule has done can be waited for
//! ([`Watch::wait`]), so that no story needs to sleep.
//!
//! Frames of one direction keep their order, but for those that are held. What the next interface
//! cannot take, because it is down or the frame is too long for it, is lost, as in a switch.

use std::{
    fmt,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, eventfd, poll},
    io::Errno,
};

use crate::{Namespace, Nic, Random, aoe::ata};

/// Frames that one direction may pass before the other gets its turn.
const BATCH: usize = 64;
/// Frames that a rule keeps for whom asks what it has met; later ones are only counted.
const KEPT: usize = 1000;
/// Where the frame's common header begins: noise leaves the Ethernet header alone.
const HEADER: usize = 14;

/// The interfaces in the middle.
const TARGET_SIDE: &str = "target";
const INITIATOR_SIDE: &str = "initiator";

/// Which way a frame goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the target.
    ToTarget,
    /// Towards the initiator.
    ToInitiator,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::ToTarget, Self::ToInitiator];
}

/// What a frame must be like. Each condition narrows it further.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    direction: Option<Direction>,
    command: Option<u8>,
    opcodes: Option<&'static [u8]>,
    lba: Option<u64>,
    tag: Option<[u8; 4]>,
    length: Option<usize>,
}

impl Frames {
    /// Every frame.
    pub fn any() -> Self {
        Self::default()
    }

    /// Frames in this direction.
    pub fn going(direction: Direction) -> Self {
        Self {
            direction: Some(direction),
            ..Self::default()
        }
    }

    /// Requests of this AoE command.
    pub fn command(command: u8) -> Self {
        Self::going(Direction::ToTarget).of(command)
    }

    /// ATA requests with one of these opcodes.
    pub fn ata(opcodes: &'static [u8]) -> Self {
        Self {
            opcodes: Some(opcodes),
            ..Self::command(0)
        }
    }

    /// Requests to write, with 28 or 48 bits of address.
    pub fn writes() -> Self {
        Self::ata(&[ata::WRITE, ata::WRITE_28])
    }

    /// Frames of this AoE command.
    #[must_use]
    pub fn of(mut self, command: u8) -> Self {
        self.command = Some(command);
        self
    }

    /// Frames of so many bytes, from the destination address on.
    #[must_use]
    pub fn long(mut self, bytes: usize) -> Self {
        self.length = Some(bytes);
        self
    }

    /// ATA requests whose first sector is this one.
    #[must_use]
    pub fn at(mut self, lba: u64) -> Self {
        self.lba = Some(lba);
        self
    }

    /// Frames with this tag, big-endian.
    #[must_use]
    pub fn tagged(mut self, tag: u32) -> Self {
        self.tag = Some(tag.to_be_bytes());
        self
    }

    fn include(&self, direction: Direction, frame: &[u8]) -> bool {
        let lba = || {
            let bytes = frame.get(28..34).unwrap_or_default();
            let bytes = bytes.iter().rev();
            bytes.fold(0, |lba, &byte| lba << 8 | u64::from(byte))
        };
        let byte = |at: usize| frame.get(at).copied();
        self.direction.is_none_or(|wanted| wanted == direction)
            && self.command.is_none_or(|wanted| byte(19) == Some(wanted))
            && self
                .opcodes
                .is_none_or(|wanted| byte(27).is_some_and(|opcode| wanted.contains(&opcode)))
            && self.length.is_none_or(|wanted| wanted == frame.len())
            && self.lba.is_none_or(|wanted| lba() == wanted)
            && self
                .tag
                .is_none_or(|wanted| frame.get(20..24) == Some(&wanted))
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on. Other rules may still say otherwise.
    Pass,
    /// It goes on, whatever else is said; noise spares it too.
    Spare,
    /// It waits until [`Watch::release`].
    Hold,
    /// It is lost.
    Drop,
    /// It goes on twice.
    Double,
    /// This bit, counted from the first byte's lowest, is flipped before it goes on.
    Flip(usize),
}

/// Which frames, which of them, and what becomes of those. Of several rules that apply to one
/// frame the one made first decides; all of them count it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    frames: Frames,
    fate: Fate,
    skip: usize,
    most: usize,
}

impl Rule {
    /// This is what becomes of all these frames.
    pub fn new(frames: Frames, fate: Fate) -> Self {
        Self {
            frames,
            fate,
            skip: 0,
            most: usize::MAX,
        }
    }

    /// Only of the first of them.
    #[must_use]
    pub fn once(self) -> Self {
        self.times(1)
    }

    /// Only of as many.
    #[must_use]
    pub fn times(mut self, most: usize) -> Self {
        self.most = most;
        self
    }

    /// Not of the first ones.
    #[must_use]
    pub fn after(mut self, skip: usize) -> Self {
        self.skip = skip;
        self
    }
}

/// Faults by chance, each in so many of a thousand frames.
#[derive(Clone, Copy, Debug, Default)]
pub struct Noise {
    /// Lost.
    pub drop: usize,
    /// Passed on twice.
    pub double: usize,
    /// One bit behind the Ethernet header flipped.
    pub flip: usize,
}

/// A frame that a rule has met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met {
    /// When.
    pub at: Instant,
    /// As it came.
    pub frame: Vec<u8>,
}

/// What has become of the frames so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Sent on, to the target and to the initiator, doubles counted twice.
    pub sent: [u64; 2],
    /// Held, released ones included.
    pub held: u64,
    /// Lost by a rule, a cut or noise.
    pub dropped: u64,
    /// Sent on twice.
    pub doubled: u64,
    /// Sent on with a bit flipped.
    pub flipped: u64,
    /// Not taken by the next interface.
    pub refused: u64,
}

/// A cable with somebody in its middle. Dropping it cuts the cable for good.
pub struct Forwarder {
    middle: Namespace,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Result<()>>>,
}

/// What came of a rule.
#[derive(Clone)]
pub struct Watch {
    shared: Arc<Shared>,
    rule: usize,
}

struct Shared {
    /// Where frames to the target leave, and where those to the initiator do.
    ends: [Nic; 2],
    state: Mutex<State>,
    changed: Condvar,
    stop: OwnedFd,
}

#[derive(Default)]
struct State {
    rules: Vec<Active>,
    cut: [bool; 2],
    noise: Option<(Noise, Random)>,
    passed: Passed,
    stopped: bool,
}

/// A rule with its history.
struct Active {
    rule: Rule,
    /// Frames that it would have been about, skipped ones included.
    seen: usize,
    acted: usize,
    met: Vec<Met>,
    held: Vec<(Direction, Vec<u8>)>,
}

impl Forwarder {
    /// Makes a cable from an interface of the target's host to one of the initiator's, both new,
    /// and begins to copy.
    ///
    /// # Errors
    /// As [`Namespace::new`] and [`Namespace::veth`].
    pub fn between(
        target: (&Namespace, &str),
        initiator: (&Namespace, &str),
        mtu: u32,
    ) -> Result<Self> {
        let middle = Namespace::new()?;
        target.0.veth(target.1, &middle, TARGET_SIDE, mtu)?;
        initiator
            .0
            .veth(initiator.1, &middle, INITIATOR_SIDE, mtu)?;
        let shared = Arc::new(Shared {
            ends: [
                Nic::open(&middle, TARGET_SIDE)?,
                Nic::open(&middle, INITIATOR_SIDE)?,
            ],
            state: Mutex::default(),
            changed: Condvar::new(),
            stop: eventfd(0, EventfdFlags::CLOEXEC)?,
        });
        let copier = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("forwarder".to_owned())
            .spawn(move || {
                let result = copier.run();
                copier.lock().stopped = true;
                copier.changed.notify_all();
                result
            })?;
        Ok(Self {
            middle,
            shared,
            thread: Some(thread),
        })
    }

    /// Frames with more than `mtu` bytes behind the Ethernet header do not pass any more, as
    /// through a switch with such an MTU; the two hosts are not told.
    ///
    /// # Errors
    /// No interface has such an MTU.
    pub fn set_mtu(&self, mtu: u32) -> Result<()> {
        for side in [TARGET_SIDE, INITIATOR_SIDE] {
            self.middle.ip(&format!("link set {side} mtu {mtu}"))?;
        }
        Ok(())
    }

    /// Adds a rule.
    pub fn add(&self, rule: Rule) -> Watch {
        let mut state = self.shared.lock();
        state.rules.push(Active {
            rule,
            seen: 0,
            acted: 0,
            met: Vec::new(),
            held: Vec::new(),
        });
        Watch {
            shared: Arc::clone(&self.shared),
            rule: state.rules.len() - 1,
        }
    }

    /// Lets nothing pass in these directions any more.
    pub fn cut(&self, directions: &[Direction]) {
        let mut state = self.shared.lock();
        for &direction in directions {
            *end(&mut state.cut, direction) = true;
        }
    }

    /// Ends every cut.
    pub fn mend(&self) {
        self.shared.lock().cut = [false; 2];
    }

    /// Faults by chance from now on; the same seed makes the same choices.
    pub fn disturb(&self, noise: Noise, seed: u64) {
        self.shared.lock().noise = Some((noise, Random::new(seed)));
    }

    /// No more faults by chance.
    pub fn calm(&self) {
        self.shared.lock().noise = None;
    }

    /// Sends a frame that nobody else has sent.
    ///
    /// # Errors
    /// The interface cannot take it.
    pub fn inject(&self, direction: Direction, frame: &[u8]) -> Result<()> {
        let mut state = self.shared.lock();
        let refused = state.passed.refused;
        self.shared.send(&mut state.passed, direction, frame);
        ensure!(state.passed.refused == refused, "the frame was not taken");
        Ok(())
    }

    /// What has become of the frames so far.
    pub fn passed(&self) -> Passed {
        self.shared.lock().passed
    }

    /// Ends it and tells what became of the frames.
    ///
    /// # Errors
    /// Copying had failed.
    pub fn stop(mut self) -> Result<Passed> {
        self.end()?;
        Ok(self.passed())
    }

    fn end(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        rustix::io::write(&self.shared.stop, &[0, 0, 0, 1, 0, 0, 0, 0])?;
        thread.join().map_err(|_| anyhow!("the forwarder died"))?
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        // A failure was told by whoever waited for something.
        let _ended = self.end();
        eprintln!("--- forwarder --- {:?}", self.passed());
    }
}

impl fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forwarder")
            .field("passed", &self.passed())
            .finish_non_exhaustive()
    }
}

impl Watch {
    /// Waits until the rule has acted so often.
    ///
    /// # Errors
    /// It has not within the deadline, or the forwarder has ended.
    pub fn wait(&self, times: usize, within: Duration) -> Result<()> {
        let end = Instant::now() + within;
        let mut state = self.shared.lock();
        loop {
            let active = self.of(&mut state)?;
            let (rule, acted) = (active.rule, active.acted);
            if acted >= times {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(
                !left.is_zero() && !state.stopped,
                "{rule:?} has acted {acted} times, not {times}, within {within:?}: {:?}",
                state.passed
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// How often it has acted.
    ///
    /// # Errors
    /// Never, as long as rules are only added.
    pub fn count(&self) -> Result<usize> {
        Ok(self.of(&mut self.shared.lock())?.acted)
    }

    /// The frames that it acted on, oldest first; the first thousand of them.
    ///
    /// # Errors
    /// As [`Watch::count`].
    pub fn met(&self) -> Result<Vec<Met>> {
        Ok(self.of(&mut self.shared.lock())?.met.clone())
    }

    /// Sends on what the rule holds, in the order it came, whatever other rules and cuts say. Says
    /// how many frames.
    ///
    /// # Errors
    /// It holds nothing.
    pub fn release(&self) -> Result<usize> {
        let mut state = self.shared.lock();
        let held = std::mem::take(&mut self.of(&mut state)?.held);
        ensure!(!held.is_empty(), "nothing is held");
        for (direction, frame) in &held {
            self.shared.send(&mut state.passed, *direction, frame);
        }
        Ok(held.len())
    }

    /// Ends the rule. What it holds stays held.
    ///
    /// # Errors
    /// As [`Watch::count`].
    pub fn end(&self) -> Result<()> {
        self.of(&mut self.shared.lock())?.rule.most = 0;
        Ok(())
    }

    fn of<'s>(&self, state: &'s mut State) -> Result<&'s mut Active> {
        state.rules.get_mut(self.rule).context("no such rule")
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn run(&self) -> Result<()> {
        let [target, initiator] = &self.ends;
        let mut buffer = vec![0; 65_536];
        loop {
            let mut fds = [&self.stop.as_fd(), &target.as_fd(), &initiator.as_fd()]
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN));
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot wait for frames"),
            }
            let [stop, from_target, from_initiator] = &fds;
            if !stop.revents().is_empty() {
                return Ok(());
            }
            if !from_target.revents().is_empty() {
                self.copy(target, Direction::ToInitiator, &mut buffer);
            }
            if !from_initiator.revents().is_empty() {
                self.copy(initiator, Direction::ToTarget, &mut buffer);
            }
        }
    }

    /// Copies what is there in one direction, but no more than a batch.
    fn copy(&self, from: &Nic, direction: Direction, buffer: &mut [u8]) {
        let mut state = self.lock();
        let mut acted = false;
        for _ in 0..BATCH {
            let frame = match from.try_receive_into(buffer) {
                Ok(Some(length)) => buffer.get_mut(..length).unwrap_or_default(),
                Ok(None) => break,
                // The interface went down, which it says once.
                Err(_) => continue,
            };
            if *end(&mut state.cut, direction) {
                state.passed.dropped += 1;
                continue;
            }
            let (fate, by_rule) = state.judge(direction, frame);
            acted |= by_rule;
            match fate {
                Fate::Hold => state.passed.held += 1,
                Fate::Drop => state.passed.dropped += 1,
                Fate::Pass | Fate::Spare => self.send(&mut state.passed, direction, frame),
                Fate::Double => {
                    state.passed.doubled += 1;
                    self.send(&mut state.passed, direction, frame);
                    self.send(&mut state.passed, direction, frame);
                }
                Fate::Flip(bit) => {
                    state.passed.flipped += 1;
                    if let Some(byte) = frame.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                    self.send(&mut state.passed, direction, frame);
                }
            }
        }
        if acted {
            self.changed.notify_all();
        }
    }

    fn send(&self, passed: &mut Passed, direction: Direction, frame: &[u8]) {
        let [target, initiator] = &self.ends;
        let to = match direction {
            Direction::ToTarget => target,
            Direction::ToInitiator => initiator,
        };
        match to.try_send(frame) {
            Ok(()) => *end(&mut passed.sent, direction) += 1,
            Err(_) => passed.refused += 1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What becomes of a frame, and whether a rule acted on it.
    fn judge(&mut self, direction: Direction, frame: &[u8]) -> (Fate, bool) {
        let mut fate = Fate::Pass;
        let mut acted = false;
        for active in &mut self.rules {
            if active.rule.frames.include(direction, frame) && active.is_due() {
                acted = true;
                active.meet(frame);
                if fate == Fate::Pass {
                    fate = active.rule.fate;
                    if fate == Fate::Hold {
                        active.held.push((direction, frame.to_vec()));
                    }
                }
            }
        }
        match &mut self.noise {
            Some((noise, random)) if fate == Fate::Pass => (noise.fate(random, frame), acted),
            _ => (fate, acted),
        }
    }
}

impl Active {
    /// Counts a frame; whether the rule acts on it.
    fn is_due(&mut self) -> bool {
        self.seen += 1;
        self.seen > self.rule.skip && self.acted < self.rule.most
    }

    fn meet(&mut self, frame: &[u8]) {
        self.acted += 1;
        if self.met.len() < KEPT {
            self.met.push(Met {
                at: Instant::now(),
                frame: frame.to_vec(),
            });
        }
    }
}

impl Noise {
    fn fate(&self, random: &mut Random, frame: &[u8]) -> Fate {
        let chance = random.below(1000);
        let bits = frame.len().saturating_sub(HEADER) * 8;
        if chance < self.drop {
            Fate::Drop
        } else if chance < self.drop + self.double {
            Fate::Double
        } else if chance < self.drop + self.double + self.flip && bits > 0 {
            Fate::Flip(HEADER * 8 + random.below(bits))
        } else {
            Fate::Pass
        }
    }
}

/// The half of a pair that belongs to a direction.
fn end<T>(pair: &mut [T; 2], direction: Direction) -> &mut T {
    let [to_target, to_initiator] = pair;
    match direction {
        Direction::ToTarget => to_target,
        Direction::ToInitiator => to_initiator,
    }
}
