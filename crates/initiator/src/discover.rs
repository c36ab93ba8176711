//! Who is there: every target of the segments that the ports are on (§4, §15, 1).
//!
//! A [`Session`](crate::Session) looks for its own target by itself; this is for lists.

use core::time::Duration;
use std::collections::VecDeque;

use aoede_wire::{
    Address, Body, Command, Config, ConfigCommand, Flags, Frame, Header, MacAddr, Tag, VERSION,
};

use crate::settings::MAX_PORTS;
use crate::{Instant, LocalPort, PortId, Transmit};

/// Whether a response is of our version of the protocol. vblade's announcements say 0 (§13.2).
pub(crate) fn is_version_spoken(header: &Header) -> bool {
    let announces = header.command == Command::Config && header.tag == Tag([0; 4]);
    header.version == VERSION || (header.version == 0 && announces)
}

/// Most targets that are remembered; further ones are counted.
const MOST_FOUND: usize = 1024;
/// Questions in quick succession after the start, since frames get lost.
const QUICK: u32 = 3;
const QUICKLY: Duration = Duration::from_millis(200);
/// Between questions later on (§15, 1).
const EVERY: Duration = Duration::from_secs(60);
/// The tag of every question. Linux ignores responses with bit 31 set, and so does not take ours
/// for its own (§14.5).
const TAG: Tag = Tag([0x80, 0, 0, 1]);

/// A target, as it last described itself on one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Shelf and slot.
    pub address: Address,
    /// Its MAC.
    pub mac: MacAddr,
    /// The local port that it was heard on.
    pub port: PortId,
    /// Requests that it can hold.
    pub buffer_count: u16,
    /// Sectors in a frame, by its own account; 0 from old targets means 2.
    pub sector_count: u8,
    /// The version of its software; has no defined meaning.
    pub firmware: u16,
    /// The config string.
    pub config_string: Vec<u8>,
}

/// Asks everybody and keeps a list of those who answer, or announce themselves.
///
/// Driven like a [`Session`](crate::Session):
///
/// ```
/// use aoede_initiator::{Discovery, Instant, LocalPort, PortId};
/// use aoede_wire::{Frame, MacAddr};
///
/// let mut discovery = Discovery::new();
/// let mac = MacAddr([2, 0, 0, 0, 0, 0x0B]);
/// discovery.handle_port(PortId(0), LocalPort { mac, mtu: 1500, up: true });
///
/// let mut out = [0; 60];
/// let transmit = discovery.poll_transmit(&mut out).expect("a question");
/// let question = Frame::decode(&out[..transmit.len])?;
/// assert_eq!(question.header.destination, MacAddr::BROADCAST);
/// assert!(discovery.poll_transmit(&mut out).is_none());
/// # Ok::<(), aoede_wire::DecodeError>(())
/// ```
#[derive(Debug)]
pub struct Discovery {
    ports: Vec<Option<LocalPort>>,
    /// Ports that have a question to send: one bit each.
    ask: u32,
    ask_at: Instant,
    asked: u32,
    found: Vec<Found>,
    news: VecDeque<Found>,
    not_kept: u64,
}

impl Default for Discovery {
    fn default() -> Self {
        Self::new()
    }
}

impl Discovery {
    /// Nobody is known, and nobody is asked before there are ports.
    pub fn new() -> Self {
        Self {
            ports: vec![None; MAX_PORTS],
            ask: 0,
            ask_at: Instant::START + QUICKLY,
            asked: 1,
            found: Vec::new(),
            news: VecDeque::new(),
            not_kept: 0,
        }
    }

    /// Tells of a local port; it is asked on when it comes up.
    pub fn handle_port(&mut self, id: PortId, port: LocalPort) {
        let Some(known) = self.ports.get_mut(usize::from(id.0)) else {
            return;
        };
        let was_up = known.is_some_and(|known| known.up && known.mac == port.mac);
        *known = Some(port);
        if port.up && !was_up {
            self.ask |= 1 << id.0;
        }
    }

    /// Asks again on all ports.
    pub fn ask(&mut self) {
        for (bit, port) in (0..).zip(&self.ports) {
            if port.is_some_and(|port| port.up) {
                self.ask |= 1_u32.checked_shl(bit).unwrap_or(0);
            }
        }
    }

    /// Takes a received frame, from the destination MAC on. Any bytes are harmless; what is no
    /// answer or announcement is left alone.
    pub fn handle_frame(&mut self, port: PortId, bytes: &[u8]) {
        if let Some(found) = self.read(port, bytes) {
            self.keep(found);
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&self) -> Instant {
        self.ask_at
    }

    /// Asks when it is time.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.ask_at {
            return;
        }
        self.ask();
        self.asked = self.asked.saturating_add(1);
        self.ask_at = now + if self.asked < QUICK { QUICKLY } else { EVERY };
    }

    /// Encodes the next question, if there is one, to the start of `out`, which must have 60 bytes.
    pub fn poll_transmit(&mut self, out: &mut [u8]) -> Option<Transmit> {
        while self.ask != 0 {
            let index = u8::try_from(self.ask.trailing_zeros()).ok()?;
            self.ask &= self.ask - 1;
            let Some(port) = self.ports.get(usize::from(index)).copied().flatten() else {
                continue;
            };
            let header = Header {
                tag: TAG,
                ..Header::request(port.mac, MacAddr::BROADCAST, Address::ALL)
            };
            let len = Body::Config(Config::default()).encode(header, out).ok()?;
            return Some(Transmit {
                port: PortId(index),
                len,
            });
        }
        None
    }

    /// The next target that is new, or has changed.
    pub fn poll_event(&mut self) -> Option<Found> {
        self.news.pop_front()
    }

    /// All that were found, in the order of their first answer: once for each port and MAC.
    pub fn found(&self) -> &[Found] {
        &self.found
    }

    /// Answers of targets that were not kept, because there are too many.
    pub fn not_kept(&self) -> u64 {
        self.not_kept
    }

    fn read(&self, port: PortId, bytes: &[u8]) -> Option<Found> {
        let local = self.ports.get(usize::from(port.0)).copied()??;
        let frame = Frame::decode(bytes).ok()?;
        let header = &frame.header;
        let for_us = header.destination == local.mac || !header.destination.is_unicast();
        let good = for_us
            && header.command == Command::Config
            && header.flags == Flags::RESPONSE
            && is_version_spoken(header)
            && header.source.is_unicast()
            && !header.address.is_wildcard();
        good.then_some(())?;
        let config = Config::decode(frame.argument).ok()?;
        (config.command == ConfigCommand::Read).then_some(())?;
        Some(Found {
            address: header.address,
            mac: header.source,
            port,
            buffer_count: config.buffer_count,
            sector_count: config.sector_count,
            firmware: config.firmware,
            config_string: config.string().ok()?.to_vec(),
        })
    }

    fn keep(&mut self, found: Found) {
        let full = self.found.len() >= MOST_FOUND;
        let known = self.found.iter_mut().find(|known| {
            (known.address, known.mac, known.port) == (found.address, found.mac, found.port)
        });
        match known {
            Some(known) if *known == found => return,
            Some(known) => known.clone_from(&found),
            None if full => {
                self.not_kept += 1;
                return;
            }
            None => self.found.push(found.clone()),
        }
        if self.news.len() < MOST_FOUND {
            self.news.push_back(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
    const T: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);

    fn discovery() -> Discovery {
        let mut discovery = Discovery::new();
        let (mtu, up) = (1500, true);
        discovery.handle_port(PortId(0), LocalPort { mac: I, mtu, up });
        discovery
    }

    fn answer(shelf: u16, string: &[u8]) -> Vec<u8> {
        let config = Config {
            buffer_count: 64,
            firmware: 0x5001,
            sector_count: 2,
            version: 1,
            ..Config::default()
        };
        let header = Header {
            flags: Flags::RESPONSE,
            ..Header::request(T, I, Address { shelf, slot: 1 })
        };
        let mut out = vec![0; 1514];
        let body = Body::Config(config.with_string(string).unwrap());
        let len = body.encode(header, &mut out).unwrap();
        out.truncate(len);
        out
    }

    fn questions(discovery: &mut Discovery) -> usize {
        let mut out = [0xA5; 60];
        let mut questions = 0;
        while discovery.poll_transmit(&mut out).is_some() {
            // §16 `config-read`, but for our own tag.
            assert_eq!(out[..6], [0xFF; 6]);
            assert_eq!(out[14..20], [0x10, 0, 0xFF, 0xFF, 0xFF, 1]);
            assert_eq!(out[24..], [0; 36]);
            questions += 1;
        }
        questions
    }

    #[test]
    fn rule_1_everybody_is_asked_three_times_and_then_every_minute() {
        let mut discovery = discovery();
        assert_eq!(questions(&mut discovery), 1);
        let mut asked_at = Vec::new();
        while asked_at.len() < 4 {
            let now = discovery.poll_timeout();
            discovery.handle_timeout(now);
            assert_eq!(questions(&mut discovery), 1);
            asked_at.push(now.since(Instant::START).as_millis());
        }
        assert_eq!(asked_at, [200, 400, 60_400, 120_400]);
        let down = LocalPort {
            mac: I,
            mtu: 1500,
            up: false,
        };
        discovery.handle_port(PortId(0), down);
        discovery.ask();
        assert_eq!(questions(&mut discovery), 0);
        discovery.handle_port(PortId(0), LocalPort { up: true, ..down });
        assert_eq!(questions(&mut discovery), 1);
    }

    #[test]
    fn targets_are_listed_once_and_told_when_they_change() {
        let mut discovery = discovery();
        for _ in 0..3 {
            discovery.handle_frame(PortId(0), &answer(1, b"a"));
            discovery.handle_frame(PortId(0), &answer(2, b""));
        }
        let told: Vec<_> = std::iter::from_fn(|| discovery.poll_event()).collect();
        assert_eq!(told, discovery.found());
        assert_eq!(told.len(), 2);
        assert_eq!(told[0].address.to_string(), "e1.1");
        assert_eq!(told[0].config_string, b"a");
        assert_eq!(
            (told[0].mac, told[0].buffer_count, told[0].firmware),
            (T, 64, 0x5001)
        );
        discovery.handle_frame(PortId(0), &answer(1, b"b"));
        assert_eq!(discovery.poll_event().unwrap().config_string, b"b");
        assert_eq!(discovery.found().len(), 2);
    }

    #[test]
    fn what_is_no_answer_is_left_alone() {
        let mut discovery = discovery();
        let good = answer(1, b"");
        for (offset, value) in [
            (14, 0x10),
            (14, 0x1C),
            (14, 0x28),
            (19, 0),
            (29, 0x14),
            (5, 0x99),
            (12, 0),
            (31, 200),
        ] {
            let mut bad = good.clone();
            bad[offset] = value;
            discovery.handle_frame(PortId(0), &bad);
        }
        discovery.handle_frame(PortId(1), &good);
        discovery.handle_frame(PortId(200), &good);
        for len in 0..32 {
            discovery.handle_frame(PortId(0), &good[..len]);
        }
        assert_eq!(discovery.found(), []);
    }

    #[test]
    fn the_list_has_an_end() {
        let mut discovery = discovery();
        for shelf in 0..1100 {
            discovery.handle_frame(PortId(0), &answer(shelf, b""));
        }
        assert_eq!((discovery.found().len(), discovery.not_kept()), (1024, 76));
    }
}
