//! The load: one initiator that sends random requests, several outstanding and overlapping, and
//! keeps account of what it was promised. Every read is checked on the way.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    BrokenPromises, Cache, Way,
    promises::{Covered, Promises},
    sector::{Content, SECTOR, bytes_of, recognise},
};
use crate::{
    Nic, Random,
    aoe::{Addressing, Response, ata},
};

/// How long a healthy target may take for one request.
const ANSWER: Duration = Duration::from_secs(20);
/// How often a load whose requests are all outstanding looks whether it is to end.
const LOOK: Duration = Duration::from_millis(5);
/// How long the network may take to deliver what a target sent before it died.
const DELIVERY: Duration = Duration::from_millis(20);
/// Most sectors in one request: what a jumbo frame holds.
const MOST_SECTORS: u8 = 17;
/// Half of the requests go to this many sectors, so that many overlap.
const HOT_SECTORS: usize = 64;
/// Most sectors in one range of a trim.
const TRIM_SECTORS: usize = 100;

/// What kinds of requests are sent: of a hundred, so many; the rest are reads.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Plain writes.
    pub writes: usize,
    /// Writes with the A flag.
    pub early_writes: usize,
    /// Trims.
    pub trims: usize,
    /// FLUSH CACHE and FLUSH CACHE EXT.
    pub flushes: usize,
    /// SET FEATURES: write cache off or on again.
    pub switches: usize,
}

/// What was sent and answered so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered with success.
    pub answered: u64,
    /// Writes and trims among these.
    pub changes: u64,
    /// Flushes among these.
    pub flushes: u64,
}

/// Requests that were sent before some time and had no response.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UnderWay {
    pub(super) requests: usize,
    /// Writes and trims among them.
    pub(super) changes: usize,
}

/// A request without a response yet.
#[derive(Debug)]
struct Sent {
    at: Instant,
    waiting: Waiting,
}

/// What its response will mean.
#[derive(Debug)]
enum Waiting {
    /// A write or trim that is promised when it is acknowledged.
    Durable(u64),
    /// A write or trim that is promised by the next flush, or by its age.
    Early(u64),
    Flush(Covered),
    /// The write cache goes off, after a flush.
    CacheOff(Covered),
    CacheOn,
    Read {
        lba: u64,
        expected: Vec<Content>,
    },
}

/// One initiator at work.
#[derive(Debug)]
pub(super) struct Load<'a> {
    nic: &'a Nic,
    target: Addressing,
    /// What an acknowledgement of a write without the A flag means that is sent now.
    cache: Cache,
    /// The cache is being switched: one at a time, so that `cache` is certain.
    switching: bool,
    mix: Mix,
    /// Most requests outstanding at once.
    depth: usize,
    random: Random,
    promises: &'a mut Promises,
    waiting: HashMap<u32, Sent>,
    tag: u32,
    /// Changes may fail, so a read may see an older state than that of the last change sent.
    disk_is_gone: bool,
    tally: Tally,
}

impl<'a> Load<'a> {
    pub(super) fn new(
        nic: &'a Nic,
        target: Addressing,
        promises: &'a mut Promises,
        way: &Way,
        mut random: Random,
    ) -> Self {
        Self {
            nic,
            target,
            cache: way.held_to,
            switching: false,
            mix: way.mix,
            depth: depth(&mut random, way.most_outstanding),
            // The Linux driver keeps to tags below 2^31.
            tag: u32::try_from(random.number() >> 33).unwrap_or(1),
            random,
            promises,
            waiting: HashMap::new(),
            disk_is_gone: false,
            tally: Tally::default(),
        }
    }

    pub(super) fn tally(&self) -> Tally {
        self.tally
    }

    /// What was under way at this time and still is: after a crash, when it came.
    pub(super) fn under_way(&self, at: Instant) -> UnderWay {
        let mut under_way = UnderWay::default();
        for sent in self.waiting.values().filter(|sent| sent.at <= at) {
            under_way.requests += 1;
            let change = matches!(sent.waiting, Waiting::Durable(_) | Waiting::Early(_));
            under_way.changes += usize::from(change);
        }
        under_way
    }

    /// Changes that are acknowledged and not promised.
    pub(super) fn unpromised(&self) -> usize {
        self.promises.unpromised()
    }

    /// Sends without a pause, as many outstanding as the load may have, until it is over: another
    /// thread crashes the target meanwhile.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(super) fn run_until(&mut self, over: &AtomicBool) -> Result<()> {
        let mut heard = Instant::now();
        while !over.load(Ordering::Acquire) {
            while self.waiting.len() < self.depth {
                self.send_one()?;
            }
            // The first that comes, and what has come by then.
            let mut next = self.nic.receive(LOOK)?;
            if next.is_some() {
                heard = Instant::now();
            }
            ensure!(heard.elapsed() < ANSWER, "{}", self.silence());
            while let Some(frame) = next {
                self.expect_success(&frame)?;
                next = self.nic.try_receive()?;
            }
        }
        Ok(())
    }

    /// Sends this many requests. Those that have no response yet stay outstanding.
    ///
    /// # Errors
    /// A request fails or stays without a response, or a read returns what it must not.
    pub(super) fn run(&mut self, requests: usize) -> Result<()> {
        for _ in 0..requests {
            self.send_one()?;
            while let Some(frame) = self.next_frame()? {
                self.expect_success(&frame)?;
            }
        }
        Ok(())
    }

    /// Sends this many requests to a target whose disk is gone; they may fail. Then waits until
    /// nothing more is answered.
    ///
    /// # Errors
    /// A read that succeeds returns what it must not.
    pub(super) fn run_in_vain(&mut self, requests: usize, silence: Duration) -> Result<()> {
        self.disk_is_gone = true;
        for _ in 0..requests {
            self.send_one()?;
        }
        self.listen(silence)
    }

    /// Takes in what the target sent before it was killed.
    ///
    /// # Errors
    /// As [`Load::run_in_vain`].
    pub(super) fn take_last_words(&mut self) -> Result<()> {
        self.listen(DELIVERY)
    }

    fn listen(&mut self, silence: Duration) -> Result<()> {
        while !self.waiting.is_empty() {
            let Some(frame) = self.nic.receive(silence)? else {
                break;
            };
            self.handle(&frame)?;
        }
        Ok(())
    }

    /// Waits until every request has its response.
    ///
    /// # Errors
    /// As [`Load::run`].
    pub(super) fn finish(&mut self) -> Result<()> {
        while !self.waiting.is_empty() {
            let frame = self.nic.receive(ANSWER)?;
            self.expect_success(&frame.with_context(|| self.silence())?)?;
        }
        Ok(())
    }

    /// The target has stopped in peace: what it acknowledged is as good as flushed.
    pub(super) fn stopped(&mut self) {
        self.promises.flushed(self.promises.covered());
    }

    /// What was acknowledged before this time is promised by its age; how many changes that were.
    pub(super) fn keep_older(&mut self, than: Instant) -> usize {
        self.promises.keep_older(than)
    }

    /// The next response: with all requests outstanding it is waited for.
    fn next_frame(&mut self) -> Result<Option<Vec<u8>>> {
        if self.waiting.len() < self.depth {
            return self.nic.try_receive();
        }
        let frame = self.nic.receive(ANSWER)?;
        frame.map(Some).with_context(|| self.silence())
    }

    fn silence(&self) -> String {
        let waiting = self.waiting.len();
        format!("{waiting} requests without a response for {ANSWER:?}")
    }

    fn expect_success(&mut self, frame: &[u8]) -> Result<()> {
        let success = self.handle(frame)?;
        ensure!(
            success,
            "a request failed: {:02x?}",
            frame.get(14..36).unwrap_or_default()
        );
        Ok(())
    }

    fn send_one(&mut self) -> Result<()> {
        self.tag = (self.tag + 1) & 0x7fff_ffff;
        self.tally.sent += 1;
        let (frame, waiting) = self.random_request();
        let at = Instant::now();
        self.waiting.insert(self.tag, Sent { at, waiting });
        self.nic.send(&frame)
    }

    fn random_request(&mut self) -> (Vec<u8>, Waiting) {
        let mut choice = self.random.below(100);
        let mut is = |percent: usize| {
            let chosen = choice < percent;
            choice = choice.saturating_sub(percent);
            chosen
        };
        let mix = self.mix;
        if is(mix.writes) {
            self.write(false)
        } else if is(mix.early_writes) {
            self.write(true)
        } else if is(mix.trims) {
            self.trim()
        } else if is(mix.flushes) {
            self.flush()
        } else if is(mix.switches) && !self.switching {
            self.switch_cache()
        } else {
            self.read()
        }
    }

    fn write(&mut self, early: bool) -> (Vec<u8>, Waiting) {
        let (lba, sectors) = self.place(usize::from(MOST_SECTORS));
        let number = self.promises.write(lba..lba + u64::from(sectors));
        let disk = self.promises.disk();
        let data: Vec<u8> = (lba..lba + u64::from(sectors))
            .flat_map(|lba| bytes_of(disk, lba, number))
            .collect();
        let (tag, sectors) = (self.tag, u8::try_from(sectors).unwrap_or(u8::MAX));
        let frame = if early {
            self.target.early_write(tag, lba, sectors, &data)
        } else {
            self.target.ata(tag, ata::WRITE, lba, sectors, &data)
        };
        let waiting = match self.cache {
            Cache::Writethrough if !early => Waiting::Durable(number),
            _ => Waiting::Early(number),
        };
        (frame, waiting)
    }

    fn trim(&mut self) -> (Vec<u8>, Waiting) {
        let count = 1 + self.random.below(4);
        let ranges: Vec<(u64, u16)> = (0..count).map(|_| self.place(TRIM_SECTORS)).collect();
        let changed = ranges
            .iter()
            .map(|&(lba, sectors)| lba..lba + u64::from(sectors));
        let number = self.promises.trim(changed.collect());
        let waiting = match self.cache {
            Cache::Writethrough => Waiting::Durable(number),
            Cache::Writeback => Waiting::Early(number),
        };
        (self.target.trim(self.tag, &ranges), waiting)
    }

    fn flush(&mut self) -> (Vec<u8>, Waiting) {
        let short = self.random.below(2) == 0;
        let opcode = if short { ata::FLUSH_28 } else { ata::FLUSH };
        let frame = self.target.ata(self.tag, opcode, 0, 0, b"");
        (frame, Waiting::Flush(self.promises.covered()))
    }

    fn switch_cache(&mut self) -> (Vec<u8>, Waiting) {
        self.switching = true;
        let off = self.cache == Cache::Writeback;
        let frame = self.target.write_cache(self.tag, !off);
        if off {
            return (frame, Waiting::CacheOff(self.promises.covered()));
        }
        self.cache = Cache::Writeback;
        (frame, Waiting::CacheOn)
    }

    fn read(&mut self) -> (Vec<u8>, Waiting) {
        let (lba, sectors) = self.place(usize::from(MOST_SECTORS));
        let range = lba..lba + u64::from(sectors);
        let expected = range.filter_map(|lba| self.promises.newest(lba)).collect();
        let sectors = u8::try_from(sectors).unwrap_or(u8::MAX);
        let frame = self.target.ata(self.tag, ata::READ, lba, sectors, b"");
        (frame, Waiting::Read { lba, expected })
    }

    /// A random place for a request of up to `most` sectors.
    fn place(&mut self, most: usize) -> (u64, u16) {
        let sectors = 1 + self.random.below(most);
        let hot = self.random.below(2) == 0;
        let room = if hot {
            HOT_SECTORS
        } else {
            self.promises.sectors() - sectors + 1
        };
        let lba = self.random.below(room);
        (
            u64::try_from(lba).unwrap_or(0),
            u16::try_from(sectors).unwrap_or(1),
        )
    }

    /// Takes in a frame; says whether the request has succeeded. Frames that answer nothing of
    /// ours, such as announcements, are successes.
    fn handle(&mut self, frame: &[u8]) -> Result<bool> {
        let response = Response(frame);
        if response.command() != 0 || response.flags() & 0x08 == 0 {
            return Ok(true);
        }
        let tag = response.tag();
        let Some(Sent { waiting, .. }) = self.waiting.remove(&tag) else {
            bail!("a response nobody waits for, tag {tag:#x}");
        };
        if !response.succeeded() {
            return Ok(false);
        }
        self.tally.answered += 1;
        match waiting {
            Waiting::Durable(number) => {
                self.tally.changes += 1;
                self.promises.keep(number);
            }
            Waiting::Early(number) => {
                self.tally.changes += 1;
                self.promises.acknowledge_early(number, Instant::now());
            }
            Waiting::Flush(covered) => {
                self.tally.flushes += 1;
                self.promises.flushed(covered);
            }
            Waiting::CacheOff(covered) => {
                self.switching = false;
                self.cache = Cache::Writethrough;
                self.promises.flushed(covered);
            }
            Waiting::CacheOn => self.switching = false,
            Waiting::Read { lba, expected } => self.check_read(lba, &expected, response.data())?,
        }
        Ok(true)
    }

    fn check_read(&self, lba: u64, expected: &[Content], data: &[u8]) -> Result<()> {
        ensure!(
            data.len() == expected.len() * SECTOR,
            "a read of {} sectors returned {} bytes",
            expected.len(),
            data.len()
        );
        for ((lba, expected), found) in (lba..).zip(expected).zip(data.chunks_exact(SECTOR)) {
            let found = match recognise(self.promises.disk(), lba, found) {
                Ok(found) if found == *expected => continue,
                Ok(found) if self.disk_is_gone && self.promises.allow(lba, found) => continue,
                Ok(found) => found.to_string(),
                Err(damage) => damage.to_string(),
            };
            return Err(BrokenPromises(format!(
                "a read returned {found} in sector {lba}; due was {expected}"
            ))
            .into());
        }
        Ok(())
    }
}

/// How many requests a load may have outstanding: in half of the rounds as many as it can.
fn depth(random: &mut Random, most: usize) -> usize {
    let some = 1 + random.below(most);
    if random.below(2) == 0 { most } else { some }
}
