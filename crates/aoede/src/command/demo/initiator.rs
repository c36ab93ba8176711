//! The smallest initiator that can show something: one target, one path, a fixed number of requests
//! under way, each repeated until it is answered.

use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use aoede_link::{Interface, PacketPort, Port as _, PortOptions};
use aoede_wire::{
    Address, Ata, Body, Config, ETHERNET_BYTES, ErrorCode, Flags, Frame, Header,
    MAX_SECTORS_PER_FRAME, MacAddr, Opcode, SECTOR_BYTES, Tag,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::stop::Stop;

/// Requests under way at once; must be a power of two below the target's buffer count.
const DEPTH: u32 = 16;
/// A request without an answer is repeated after this.
const PATIENCE: Duration = Duration::from_millis(250);
/// An initiator that got nothing at all for this long gives up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Size of a random read.
const RANDOM_SECTORS: u8 = 8;

/// What a target says of itself to whoever asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) mac: MacAddr,
    pub(super) buffers: u16,
    pub(super) sectors_per_frame: u8,
}

/// The part of IDENTIFY DEVICE that people read.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) model: String,
    pub(super) serial: String,
    pub(super) sectors: u64,
}

/// How fast a series of requests was.
#[derive(Clone, Debug)]
pub(super) struct Rates {
    pub(super) requests: u64,
    bytes: u64,
    took: Duration,
    latencies: Vec<Duration>,
}

impl Rates {
    pub(super) fn per_second(&self) -> u64 {
        self.rate(self.requests)
    }

    pub(super) fn bytes_per_second(&self) -> u64 {
        self.rate(self.bytes)
    }

    fn rate(&self, amount: u64) -> u64 {
        let nanos = self.took.as_nanos().max(1);
        u64::try_from(u128::from(amount) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    }

    /// The latency that this percentage of the requests stayed within.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let index = self.latencies.len() * percent / 100;
        self.latencies.get(index).copied().unwrap_or_default()
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Io {
    opcode: Opcode,
    lba: u64,
    sectors: u8,
}

#[derive(Clone, Copy, Debug)]
struct Outstanding {
    io: Io,
    tag: u32,
    first_sent: Instant,
    sent: Instant,
}

/// The requests under way, each at the place that the low bits of its tag name.
type Window = [Option<Outstanding>; DEPTH as usize];

pub(super) struct Initiator<'a> {
    port: PacketPort,
    stop: &'a Stop,
    mac: MacAddr,
    address: Address,
    target: Option<Found>,
    next_tag: u32,
    /// The frame to be sent.
    frame: Vec<u8>,
    /// The data of a write, before it is put into a frame.
    data: Vec<u8>,
}

impl<'a> Initiator<'a> {
    pub(super) fn open(interface: &Interface, stop: &'a Stop) -> anyhow::Result<Self> {
        Ok(Self {
            port: PacketPort::open(interface, &PortOptions::default())?,
            stop,
            mac: interface.mac,
            address: Address::ALL,
            target: None,
            next_tag: 1,
            frame: vec![0; interface.mtu as usize + ETHERNET_BYTES],
            data: vec![0; SECTOR_BYTES * usize::from(MAX_SECTORS_PER_FRAME)],
        })
    }

    /// Asks everybody, and keeps to the first target at `address` that answers.
    pub(super) fn discover(&mut self, address: Address) -> anyhow::Result<Found> {
        self.address = address;
        let give_up = Instant::now() + GIVE_UP;
        while Instant::now() < give_up {
            let header = Header {
                tag: Tag(self.next_tag.to_be_bytes()),
                ..Header::request(self.mac, MacAddr::BROADCAST, Address::ALL)
            };
            let len = Body::Config(Config::default()).encode(header, &mut self.frame)?;
            self.send(len);
            let deadline = Instant::now() + PATIENCE;
            while self.wait_until(deadline)? {
                while let Some(bytes) = self.port.receive() {
                    let Ok(frame) = Frame::decode(bytes) else {
                        continue;
                    };
                    if let (true, Ok(Body::Config(config))) = (
                        frame.header.flags == Flags::RESPONSE && frame.header.address == address,
                        frame.body(),
                    ) {
                        let found = Found {
                            mac: frame.header.source,
                            buffers: config.buffer_count,
                            sectors_per_frame: config.sector_count.max(1),
                        };
                        self.target = Some(found);
                        return Ok(found);
                    }
                }
            }
        }
        bail!("no target answered within {} s", GIVE_UP.as_secs())
    }

    pub(super) fn identify(&mut self) -> anyhow::Result<Identity> {
        let mut identity = None;
        let mut asked = false;
        let identify = Io {
            opcode: Opcode::Identify,
            lba: 0,
            sectors: 1,
        };
        self.carry_out(
            || (!std::mem::replace(&mut asked, true)).then_some(identify),
            |_, data| {
                identity = Some(Identity {
                    model: string(data, 27..47),
                    serial: string(data, 10..20),
                    sectors: (100..104)
                        .rev()
                        .fold(0, |sum, index| sum << 16 | u64::from(word(data, index))),
                });
                Ok(())
            },
        )?;
        identity.context("IDENTIFY DEVICE brought nothing")
    }

    /// Fills the first `bytes` of the disk so that every sector can be told from every other.
    pub(super) fn write_pattern(&mut self, bytes: u64) -> anyhow::Result<Rates> {
        let mut plan = self.sequential(Opcode::WriteExt, bytes);
        self.carry_out(|| plan.next(), |_, _| Ok(()))
    }

    pub(super) fn verify_pattern(&mut self, bytes: u64) -> anyhow::Result<Rates> {
        let mut plan = self.sequential(Opcode::ReadExt, bytes);
        let mut expected = [0; SECTOR_BYTES];
        self.carry_out(
            || plan.next(),
            |io, data| {
                for (lba, sector) in (io.lba..).zip(data.chunks(SECTOR_BYTES)) {
                    pattern(lba, &mut expected);
                    ensure!(
                        sector == expected,
                        "sector {lba} is not what was written to it"
                    );
                }
                Ok(())
            },
        )
    }

    /// Reads 4 KiB at random places of the first `bytes` for a while.
    pub(super) fn random_reads(&mut self, bytes: u64, time: Duration) -> anyhow::Result<Rates> {
        let places = bytes / (u64::from(RANDOM_SECTORS) * SECTOR_BYTES as u64);
        let deadline = Instant::now() + time;
        let mut state = 1;
        self.carry_out(
            || {
                state = scramble(state);
                (Instant::now() < deadline).then_some(Io {
                    opcode: Opcode::ReadExt,
                    lba: state % places * u64::from(RANDOM_SECTORS),
                    sectors: RANDOM_SECTORS,
                })
            },
            |_, _| Ok(()),
        )
    }

    fn sequential(&self, opcode: Opcode, bytes: u64) -> impl Iterator<Item = Io> + use<> {
        let end = bytes / SECTOR_BYTES as u64;
        let most = self.target.map_or(1, |found| found.sectors_per_frame);
        (0..end).step_by(most.into()).map(move |lba| Io {
            opcode,
            lba,
            sectors: u8::try_from(end - lba).unwrap_or(most).min(most),
        })
    }

    /// Sends what `next` gives, as much at once as may be under way, until it gives nothing and all
    /// is answered; hands the data of each answer to `done`.
    fn carry_out(
        &mut self,
        mut next: impl FnMut() -> Option<Io>,
        mut done: impl FnMut(Io, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Rates> {
        let start = Instant::now();
        let mut rates = Rates {
            requests: 0,
            bytes: 0,
            took: Duration::ZERO,
            latencies: Vec::new(),
        };
        let mut window: Window = [None; DEPTH as usize];
        let mut last_answer = start;
        loop {
            self.fill(&mut window, &mut next)?;
            if window.iter().all(Option::is_none) {
                break;
            }
            if !self.wait_until(Instant::now() + PATIENCE)? {
                ensure!(
                    last_answer.elapsed() < GIVE_UP,
                    "the target is silent for {} s",
                    GIVE_UP.as_secs()
                );
            }
            while let Some(bytes) = self.port.receive() {
                let Some((outstanding, data)) = accept(bytes, &mut window)? else {
                    continue;
                };
                last_answer = Instant::now();
                done(outstanding.io, data)?;
                rates.requests += 1;
                rates.bytes += u64::from(outstanding.io.sectors) * SECTOR_BYTES as u64;
                rates.latencies.push(last_answer - outstanding.first_sent);
            }
        }
        rates.took = start.elapsed();
        rates.latencies.sort_unstable();
        Ok(rates)
    }

    /// Puts a request into every free place of the window, and repeats those that wait too long.
    fn fill(
        &mut self,
        window: &mut Window,
        next: &mut impl FnMut() -> Option<Io>,
    ) -> anyhow::Result<()> {
        let now = Instant::now();
        for (place, slot) in (0_u32..).zip(window.iter_mut()) {
            match slot {
                Some(waiting) if now - waiting.sent < PATIENCE => continue,
                Some(waiting) => waiting.sent = now,
                None => {
                    let Some(io) = next() else { continue };
                    // The low bits of a tag say which place its answer belongs to.
                    self.next_tag = self.next_tag.wrapping_add(DEPTH);
                    let tag = (self.next_tag & !(DEPTH - 1)) | place;
                    *slot = Some(Outstanding {
                        io,
                        tag,
                        first_sent: now,
                        sent: now,
                    });
                }
            }
            if let Some(outstanding) = slot {
                self.request(outstanding)?;
            }
        }
        Ok(())
    }

    fn request(&mut self, outstanding: &Outstanding) -> anyhow::Result<()> {
        let Outstanding { io, tag, .. } = outstanding;
        let target = self.target.context("no target found yet")?;
        let header = Header {
            tag: Tag(tag.to_be_bytes()),
            ..Header::request(self.mac, target.mac, self.address)
        };
        let ata = Ata::request(io.opcode, io.lba, io.sectors);
        let ata = if io.opcode == Opcode::WriteExt {
            let len = usize::from(io.sectors) * SECTOR_BYTES;
            let data = self.data.get_mut(..len).context("too many sectors")?;
            for (lba, sector) in (io.lba..).zip(data.chunks_mut(SECTOR_BYTES)) {
                pattern(lba, sector);
            }
            ata.with_data(data)
        } else {
            ata
        };
        let len = Body::Ata(ata).encode(header, &mut self.frame)?;
        self.send(len);
        Ok(())
    }

    /// Sends the frame made last. What does not get out is repeated like any lost frame.
    fn send(&mut self, len: usize) {
        if let Some(frame) = self.frame.get(..len) {
            self.port.send(&[frame]);
        }
    }

    /// Waits for a frame; false when none came in time.
    fn wait_until(&mut self, deadline: Instant) -> anyhow::Result<bool> {
        self.port.release();
        let patience = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(patience)?;
        let mut fds = [
            PollFd::new(&self.port, PollFlags::IN),
            PollFd::new(self.stop, PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(ready) if self.stop.take() => {
                let _ = ready;
                bail!("interrupted")
            }
            Ok(ready) => Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => Ok(true),
            Err(error) => Err(io::Error::from(error)).context("waiting for frames"),
        }
    }
}

/// The request that a frame answers, taken out of the window, and its data.
fn accept<'f>(
    bytes: &'f [u8],
    window: &mut Window,
) -> anyhow::Result<Option<(Outstanding, &'f [u8])>> {
    let Ok(frame) = Frame::decode(bytes) else {
        return Ok(None);
    };
    let tag = frame.header.tag.big_endian();
    let Some(slot) = window.get_mut((tag % DEPTH) as usize) else {
        return Ok(None);
    };
    let (true, Some(outstanding), Ok(Body::Ata(ata))) = (
        frame.header.flags.contains(Flags::RESPONSE),
        *slot,
        frame.body(),
    ) else {
        return Ok(None);
    };
    if outstanding.tag != tag {
        return Ok(None);
    }
    if frame.header.flags.contains(Flags::ERROR) {
        bail!("the target says: {}", ErrorCode::from(frame.header.error));
    }
    let Io {
        opcode,
        lba,
        sectors,
    } = outstanding.io;
    ensure!(
        !ata.status().is_failure(),
        "{opcode} of {sectors} sectors at {lba} failed: status {:02x}, error {:02x}",
        ata.command_or_status,
        ata.feature_or_error,
    );
    let wanted = match opcode {
        Opcode::WriteExt => 0,
        _ => usize::from(sectors) * SECTOR_BYTES,
    };
    let Some(data) = ata.data.get(..wanted) else {
        return Ok(None);
    };
    *slot = None;
    Ok(Some((outstanding, data)))
}

/// What is written to a sector: numbers that follow from its address alone.
fn pattern(lba: u64, sector: &mut [u8]) {
    let mut state = lba + 1;
    for chunk in sector.chunks_mut(8) {
        state = scramble(state);
        for (out, byte) in chunk.iter_mut().zip(state.to_le_bytes()) {
            *out = byte;
        }
    }
}

/// One step of xorshift64: any number but 0 leads to every other.
fn scramble(mut state: u64) -> u64 {
    state ^= state << 13;
    state ^= state >> 7;
    state ^ state << 17
}

/// A word of IDENTIFY data.
fn word(data: &[u8], index: usize) -> u16 {
    match data.get(2 * index..2 * index + 2) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    }
}

/// A string of IDENTIFY data: two characters a word, the first in the high byte.
fn string(data: &[u8], words: std::ops::Range<usize>) -> String {
    let characters = words.flat_map(|index| word(data, index).to_be_bytes());
    let text: String = characters.map(char::from).collect();
    text.trim_end().to_owned()
}
