//! The loop of the load generator, over a real port.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aoede_link::{BATCH, Interface, PacketPort, Port as _, PortOptions};
use aoede_wire::{
    Address, Body, Command, Config, ExtensionTable, Flags, Frame, Header, MacAddr, Opcode, Tag,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::plan::Plan;
use super::window::{Arrival, Failure, Shape, Window, further};
use super::{Counts, Extent, Found, Recent, Settings, Waiting};

/// A target that says nothing at all for this long is given up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// A flush may take its time; it is repeated after this.
const FLUSH_PATIENCE: Duration = Duration::from_secs(20);
/// How often the question for a target is repeated.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// Looks at an empty ring between two looks at the clock.
const SPINS: u32 = 64;
/// Requests under way where it does not matter.
const EASY_DEPTH: usize = 8;

/// A conversation with one target.
#[derive(Debug)]
pub(super) struct Session {
    port: PacketPort,
    mac: MacAddr,
    address: Address,
    target: MacAddr,
    patience: Duration,
    waiting: Waiting,
    window: Window,
    /// What is to be sent.
    outbox: Vec<Outgoing>,
    /// Frames for several reads, for use again.
    spare: Vec<Vec<u8>>,
    /// Requests are made so many at a time.
    group: usize,
    /// Those of a group travel in one frame (§8).
    coalesce: bool,
    /// Several write responses may come in one frame (§18.1).
    write_replies: bool,
    /// Places that are free.
    free: Vec<usize>,
    next_look: Instant,
    last_answer: Instant,
    pub(super) counts: Counts,
    /// Requests answered since the session was opened.
    pub(super) all_ops: u64,
}

/// A frame to be sent.
#[derive(Debug)]
enum Outgoing {
    /// That of a place.
    Place(usize),
    /// One for several reads.
    Group(Vec<u8>),
}

impl Session {
    pub(super) fn open(interface: &Interface, settings: &Settings) -> anyhow::Result<Self> {
        let now = Instant::now();
        // Room for every answer, and for their repetition.
        let frames = u32::try_from(settings.depth * 2)?.max(256);
        let options = PortOptions {
            ring_frames: frames,
            ..PortOptions::default()
        };
        let nothing = Shape {
            header: Header::request(interface.mac, MacAddr::BROADCAST, settings.address),
            opcode: Opcode::ReadExt,
            sectors: 1,
            payload: &[],
            depth: 1,
        };
        Ok(Self {
            port: PacketPort::open(interface, &options)?,
            mac: interface.mac,
            address: settings.address,
            target: MacAddr::BROADCAST,
            patience: settings.patience,
            waiting: settings.waiting,
            window: Window::new(&nothing, None, now)?,
            outbox: Vec::new(),
            spare: Vec::new(),
            group: settings.group.clamp(1, settings.depth.max(1)),
            coalesce: settings.coalesce,
            write_replies: settings.write_replies,
            free: Vec::new(),
            next_look: now,
            last_answer: now,
            counts: Counts::default(),
            all_ops: 0,
        })
    }

    /// Asks until the target answers, then asks for its size.
    pub(super) fn find(&mut self) -> anyhow::Result<Found> {
        let header = Header {
            tag: Tag([0, 0, 0, 1]),
            ..Header::request(self.mac, MacAddr::BROADCAST, self.address)
        };
        let mut question = [0; 60];
        Body::Config(Config::default()).encode(header, &mut question)?;
        let give_up = Instant::now() + GIVE_UP;
        let mut found = loop {
            ensure!(
                Instant::now() < give_up,
                "no target at {} answered within {GIVE_UP:?}",
                self.address
            );
            self.port.send(&[question]);
            if let Some(found) = self.hear_config(Instant::now() + ASK_AGAIN)? {
                break found;
            }
        };
        self.target = found.mac;
        let mut sectors = None;
        self.carry_out(Opcode::Identify, 1, &[0], |_, identity| {
            sectors = disk_sectors(identity);
            Ok(())
        })?;
        found.sectors = sectors.context("the target does not say how large its disk is")?;
        self.negotiate()?;
        Ok(found)
    }

    /// Agrees on what frames may hold (§7), if anything beyond the usual is wanted.
    fn negotiate(&mut self) -> anyhow::Result<()> {
        let mut names = b"reset\0".to_vec();
        if self.coalesce {
            names.extend(b"coalesced_read\0");
        }
        if self.write_replies {
            names.extend(b"coalesced_write_reply\0");
        }
        if !self.coalesce && !self.write_replies {
            return Ok(());
        }
        names.push(0);
        let header = Header {
            tag: Tag([0, 0, 0, 2]),
            ..Header::request(self.mac, self.target, self.address)
        };
        let mut question = [0; 120];
        let table = Body::Extension(ExtensionTable::new(&names)?);
        let len = table.encode(header, &mut question)?;
        let question = question.get(..len).unwrap_or_default();
        let expected = names.to_ascii_uppercase();
        let give_up = Instant::now() + GIVE_UP;
        while Instant::now() < give_up {
            self.port.send(&[question]);
            self.sleep(ASK_AGAIN)?;
            while let Some(bytes) = self.port.receive() {
                let Ok(frame) = Frame::decode(bytes) else {
                    continue;
                };
                if frame.header.command == Command::Extension && frame.header.tag == header.tag {
                    let answer = bytes.get(ExtensionTable::OFFSET..).unwrap_or_default();
                    ensure!(
                        answer.starts_with(&expected),
                        "the target does not know these extensions"
                    );
                    return Ok(());
                }
            }
        }
        bail!("the target is silent about extensions")
    }

    fn hear_config(&mut self, deadline: Instant) -> anyhow::Result<Option<Found>> {
        while Instant::now() < deadline {
            self.sleep(ASK_AGAIN)?;
            while let Some(bytes) = self.port.receive() {
                let Ok(frame) = Frame::decode(bytes) else {
                    continue;
                };
                let header = frame.header;
                if let (true, Ok(Body::Config(config))) = (
                    header.flags == Flags::RESPONSE && header.address == self.address,
                    frame.body(),
                ) {
                    return Ok(Some(Found {
                        mac: header.source,
                        buffers: config.buffer_count,
                        // 0 is what very old targets say, and means 2.
                        sectors_per_frame: match config.sector_count {
                            0 => 2,
                            count => count,
                        },
                        sectors: 0,
                    }));
                }
            }
        }
        Ok(None)
    }

    /// Reads blocks and compares each with what it should be. Returns how many there were.
    pub(super) fn compare(
        &mut self,
        lbas: &[u64],
        sectors: u8,
        mut expected: impl FnMut(u64) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<u64> {
        let mut blocks = BTreeMap::new();
        for &lba in lbas {
            blocks.insert(lba, expected(lba)?);
        }
        self.carry_out(Opcode::ReadExt, sectors, lbas, |lba, data| {
            let right = blocks.get(&lba).is_some_and(|block| block == data);
            ensure!(right, "the block at sector {lba} is not what it should be");
            Ok(())
        })?;
        Ok(lbas.len() as u64)
    }

    /// Makes the frames of a workload.
    pub(super) fn prepare(
        &mut self,
        opcode: Opcode,
        sectors: u8,
        payload: &[u8],
        depth: usize,
    ) -> anyhow::Result<()> {
        debug_assert_eq!(self.window.waiting(), 0);
        let shape = Shape {
            header: Header::request(self.mac, self.target, self.address),
            opcode,
            sectors,
            payload,
            depth,
        };
        self.window = Window::new(&shape, Some(&self.window), Instant::now())?;
        self.free = (0..depth).rev().collect();
        self.outbox = Vec::with_capacity(depth);
        self.last_answer = Instant::now();
        Ok(())
    }

    /// Keeps the window full for a while, or until so many requests are made. What is under way
    /// at its end stays under way.
    pub(super) fn pump(
        &mut self,
        plan: &mut Plan,
        extent: Extent,
        written: &mut Recent,
    ) -> anyhow::Result<()> {
        let writes = plan.workload().writes();
        debug_assert!(plan.sectors() > 0);
        let mut now = Instant::now();
        let (end, mut left) = match extent {
            Extent::Time(time) => (Some(now + time), u64::MAX),
            Extent::Blocks(blocks) => (None, blocks),
        };
        while left > 0 && end.is_none_or(|end| now < end) {
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(self.group).min(self.group);
                let Some(rest) = self.free.len().checked_sub(count) else {
                    break;
                };
                left -= count as u64;
                self.issue(rest, plan, now);
            }
            now = self.exchange(now, |lba, _| {
                if writes {
                    written.add(lba);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Makes requests at all free places from this one on.
    fn issue(&mut self, first: usize, plan: &mut Plan, now: Instant) {
        let places = self.free.get(first..).unwrap_or_default();
        for &place in places {
            self.window.issue(place, plan.next_lba(), now);
        }
        if self.coalesce && places.len() > 1 {
            let mut frame = self.spare.pop().unwrap_or_default();
            self.window.coalesce(places, &mut frame);
            self.outbox.push(Outgoing::Group(frame));
        } else {
            let frames = places.iter().map(|&place| Outgoing::Place(place));
            self.outbox.extend(frames);
        }
        self.free.truncate(first);
    }

    /// Waits for the answers that are still to come.
    pub(super) fn drain(&mut self, written: &mut Recent) -> anyhow::Result<()> {
        let mut now = Instant::now();
        while self.window.waiting() > 0 {
            now = self.exchange(now, |lba, _| {
                written.add(lba);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Has the target bring to stable storage what it acknowledged, and waits for it.
    ///
    /// # Errors
    /// It cannot, or knows neither FLUSH CACHE EXT nor FLUSH CACHE.
    pub(super) fn flush(&mut self) -> anyhow::Result<()> {
        let patience = std::mem::replace(&mut self.patience, FLUSH_PATIENCE);
        let mut flushed = self.carry_out(Opcode::FlushCacheExt, 0, &[0], |_, _| Ok(()));
        if flushed.as_ref().is_err_and(is_abort) {
            flushed = self.carry_out(Opcode::FlushCache, 0, &[0], |_, _| Ok(()));
        }
        self.patience = patience;
        flushed
    }

    /// Frames lost at the receive ring so far.
    pub(super) fn ring_drops(&mut self) -> u64 {
        self.port.stats().ring_drops
    }

    /// One request for each address, each answer to `done`.
    fn carry_out(
        &mut self,
        opcode: Opcode,
        sectors: u8,
        lbas: &[u64],
        mut done: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.prepare(opcode, sectors, &[], EASY_DEPTH)?;
        let mut lbas = lbas.iter();
        let mut now = Instant::now();
        loop {
            while let (Some(place), [lba, ..]) = (self.free.last(), lbas.as_slice()) {
                self.window.issue(*place, *lba, now);
                self.outbox.extend(self.free.pop().map(Outgoing::Place));
                lbas.next();
            }
            if self.window.waiting() == 0 {
                return Ok(());
            }
            now = self.exchange(now, &mut done)?;
        }
    }

    /// Sends what is to be sent, and takes what has come or comes first. Returns the time.
    fn exchange(
        &mut self,
        mut now: Instant,
        mut done: impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Instant> {
        self.send();
        let mut spins = 0;
        loop {
            if self.receive(&mut now, &mut done)? {
                return Ok(now);
            }
            spins += 1;
            if self.waiting == Waiting::Poll {
                self.sleep(self.patience / 8)?;
                spins = SPINS;
            }
            if spins >= SPINS {
                spins = 0;
                now = Instant::now();
                if now >= self.next_look {
                    self.look_after(now)?;
                    // The caller wants to see the clock, too.
                    return Ok(now);
                }
            }
            std::hint::spin_loop();
        }
    }

    /// Takes the frames that have come. Returns whether any was an answer.
    fn receive(
        &mut self,
        now: &mut Instant,
        done: &mut impl FnMut(u64, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let mut taken: usize = 0;
        while let Some(bytes) = self.port.receive() {
            if taken == 0 {
                *now = Instant::now();
            }
            match self.window.accept(bytes, *now)? {
                Arrival::Answer {
                    place,
                    lba,
                    took,
                    data,
                } => {
                    done(lba, data)?;
                    self.counts.latency.record(took);
                    self.counts.response_frames += 1;
                    self.free.push(place);
                    taken += 1;
                }
                Arrival::Stray => self.counts.strays += 1,
                Arrival::Other => {}
            }
            for write in further(bytes).filter(|_| self.write_replies) {
                match self.window.accept_further(&write, *now)? {
                    Arrival::Answer {
                        place, lba, took, ..
                    } => {
                        done(lba, &[])?;
                        self.counts.latency.record(took);
                        self.free.push(place);
                        taken += 1;
                    }
                    Arrival::Stray | Arrival::Other => self.counts.strays += 1,
                }
            }
            // The target shall not run dry while we collect.
            if taken >= BATCH {
                break;
            }
        }
        self.port.release();
        if taken == 0 {
            return Ok(false);
        }
        self.counts.ops += taken as u64;
        self.all_ops += taken as u64;
        self.last_answer = *now;
        Ok(true)
    }

    /// Sends again what was not answered in time.
    fn look_after(&mut self, now: Instant) -> anyhow::Result<()> {
        self.next_look = now + self.patience / 8;
        let (outbox, counts) = (&mut self.outbox, &mut self.counts);
        self.window.overdue(now, self.patience, |place| {
            // What could not be sent yet need not be sent twice.
            let waits = |outgoing: &Outgoing| matches!(outgoing, Outgoing::Place(p) if *p == place);
            if !outbox.iter().any(waits) {
                outbox.push(Outgoing::Place(place));
                counts.retransmissions += 1;
            }
        });
        let give_up = GIVE_UP.max(self.patience * 2);
        if now.duration_since(self.last_answer) > give_up {
            bail!("the target is silent for {give_up:?}");
        }
        self.send();
        Ok(())
    }

    fn send(&mut self) {
        while !self.outbox.is_empty() {
            let mut batch: [&[u8]; BATCH] = [&[]; BATCH];
            let mut count = 0;
            for (entry, outgoing) in batch.iter_mut().zip(&self.outbox) {
                *entry = match outgoing {
                    Outgoing::Place(place) => self.window.frame(*place),
                    Outgoing::Group(frame) => frame,
                };
                count += 1;
            }
            let sent = self.port.send(batch.get(..count).unwrap_or(&[]));
            self.counts.request_frames += sent as u64;
            for outgoing in self.outbox.drain(..sent) {
                if let Outgoing::Group(frame) = outgoing {
                    self.spare.push(frame);
                }
            }
            if sent < count {
                // The send buffer is full: what comes in makes room.
                return;
            }
        }
    }

    fn sleep(&mut self, longest: Duration) -> anyhow::Result<()> {
        self.port.release();
        let timeout = Timespec::try_from(longest)?;
        let mut descriptors = [PollFd::new(&self.port, PollFlags::IN)];
        match poll(&mut descriptors, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error).context("cannot wait for frames"),
        }
    }
}

/// Whether the target knows no such command, as vblade and FLUSH CACHE EXT.
fn is_abort(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<Failure>()
        .is_some_and(|failure| failure.is_abort())
}

/// Words 100 to 103 of IDENTIFY DEVICE, or the older 60 and 61 where they are 0.
fn disk_sectors(identity: &[u8]) -> Option<u64> {
    let number = |words: std::ops::Range<usize>| {
        let bytes = identity.get(words.start * 2..words.end * 2)?;
        let number = bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b));
        (number > 0).then_some(number)
    };
    number(100..104).or_else(|| number(60..62))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_stands_in_one_of_two_places() {
        let mut identity = [0; 512];
        assert_eq!(disk_sectors(&identity), None);
        identity[120..124].copy_from_slice(&[0x78, 0x56, 0x34, 0x02]);
        assert_eq!(disk_sectors(&identity), Some(0x0234_5678));
        identity[200..208].copy_from_slice(&[0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(disk_sectors(&identity), Some(1 << 32));
        assert_eq!(disk_sectors(&identity[..100]), None);
    }
}
