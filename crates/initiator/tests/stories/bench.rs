//! A session between ports and targets, in time that only the bench moves.

use std::time::Duration;

use aoede_initiator::{
    Answer, Done, Error, Event, Instant, LocalPort, Notice, PathInfo, PortId, Request, RequestId,
    Session, SessionStats, Settings, Wanted,
};
use aoede_target::{PortFacts, TargetSettings};
use aoede_wire::{Address, Ata, Body, Command, Frame, MacAddr, Opcode};

use crate::target::{Model, Speaks};

pub(crate) const E1_1: Address = Address { shelf: 1, slot: 1 };
pub(crate) const SECTORS: u64 = 4096;
/// The initiator's ports.
pub(crate) const I: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
pub(crate) const J: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0C]);
/// The targets' ports.
pub(crate) const T: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
pub(crate) const U: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x1A]);
pub(crate) const SEED: u64 = 0x1234_5678;

/// A frame on the wire, and which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Response,
}

/// Says of a frame whether it is lost.
pub(crate) type Loses = Box<dyn FnMut(Way, &[u8]) -> bool>;

/// A MAC of a target.
pub(crate) struct Station {
    pub(crate) facts: PortFacts,
    /// Which of the targets it belongs to.
    pub(crate) model: usize,
}

pub(crate) struct Bench {
    pub(crate) now: Instant,
    pub(crate) session: Session<Vec<u8>>,
    pub(crate) ports: Vec<LocalPort>,
    pub(crate) stations: Vec<Station>,
    pub(crate) models: Vec<Model>,
    pub(crate) loses: Loses,
    /// Every frame that the session has sent.
    pub(crate) sent: Vec<Vec<u8>>,
    /// When each was sent.
    pub(crate) sent_at: Vec<Instant>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) done: Vec<Done<Vec<u8>>>,
}

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Without what takes half a second.
pub(crate) fn quick() -> Settings {
    Settings {
        wanted: Wanted {
            congestion: false,
            ..Wanted::default()
        },
        ..Settings::default()
    }
}

pub(crate) fn facts(mac: MacAddr, mtu: u32) -> PortFacts {
    PortFacts {
        mac,
        mtu,
        max_sectors: 255,
    }
}

impl Bench {
    /// One port, one target MAC, frames of this MTU at both ends.
    pub(crate) fn new(mtu: u32, speaks: Speaks, settings: Settings) -> Self {
        Self::with(
            mtu,
            crate::target::settings(E1_1, SECTORS),
            speaks,
            settings,
        )
    }

    pub(crate) fn with(
        mtu: u32,
        target: TargetSettings,
        speaks: Speaks,
        settings: Settings,
    ) -> Self {
        let mut bench = Self {
            now: Instant::START,
            session: Session::new(E1_1, settings, SEED),
            ports: Vec::new(),
            stations: vec![Station {
                facts: facts(T, mtu),
                model: 0,
            }],
            models: vec![Model::new(target, speaks)],
            loses: Box::new(|_, _| false),
            sent: Vec::new(),
            sent_at: Vec::new(),
            notices: Vec::new(),
            done: Vec::new(),
        };
        bench.add_port(I, mtu);
        bench
    }

    /// The same, and the next request of the caller gets this tag.
    pub(crate) fn with_next_tag(tag: u32, speaks: Speaks, settings: &Settings) -> Self {
        let from = |seed: u32| {
            let mut bench = Self::new(1500, speaks, settings.clone());
            bench.session = Session::new(E1_1, settings.clone(), seed.into());
            let port = bench.ports[0];
            bench.session.handle_port(bench.now, PortId(0), port);
            bench.attach();
            bench
        };
        let seed = 1000;
        let mut bench = from(seed);
        bench.read(0, 1);
        let next = Frame::decode(&bench.sent[0]).unwrap().header.tag;
        from(seed + tag - next.big_endian())
    }

    /// Attached, and quiet.
    pub(crate) fn attached(mtu: u32, speaks: Speaks) -> Self {
        let mut bench = Self::new(mtu, speaks, quick());
        bench.attach();
        bench
    }

    pub(crate) fn attach(&mut self) {
        self.run(ms(2000));
        assert!(self.session.is_attached(), "{:?}", self.session);
        self.sent.clear();
        self.sent_at.clear();
    }

    pub(crate) fn add_port(&mut self, mac: MacAddr, mtu: u32) -> PortId {
        let id = PortId(self.ports.len() as u8);
        self.ports.push(LocalPort { mac, mtu, up: true });
        self.session
            .handle_port(self.now, id, self.ports[usize::from(id.0)]);
        id
    }

    pub(crate) fn set_port(&mut self, id: PortId, change: impl FnOnce(&mut LocalPort)) {
        let port = &mut self.ports[usize::from(id.0)];
        change(port);
        self.session.handle_port(self.now, id, *port);
    }

    /// A second MAC of the target, or of another one.
    pub(crate) fn add_station(&mut self, mac: MacAddr, mtu: u32, model: Option<Model>) {
        let model = model.map_or(0, |model| {
            self.models.push(model);
            self.models.len() - 1
        });
        let facts = facts(mac, mtu);
        self.stations.push(Station { facts, model });
    }

    /// When something happens next without a frame.
    fn next(&self) -> Option<Instant> {
        let held = self.models.iter().filter_map(Model::poll_timeout);
        held.chain(self.session.poll_timeout()).min()
    }

    /// Lets time pass, with everything that happens in it.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.exchange();
            match self.next() {
                Some(next) if next < end => {
                    self.now = self.now.max(next);
                    self.session.handle_timeout(self.now);
                }
                _ => break,
            }
        }
        self.now = self.now.max(end);
        self.session.handle_timeout(self.now);
        self.exchange();
    }

    /// Lets time pass in which answers come as `change` makes them.
    pub(crate) fn run_with(&mut self, time: Duration, change: impl Fn(&mut Vec<u8>)) {
        let end = self.now + time;
        while self.now < end {
            for (port, frame) in self.transmit() {
                for mut answer in self.deliver(&frame) {
                    change(&mut answer);
                    self.receive(port, &answer);
                }
            }
            self.take_events();
            self.now += ms(1);
            self.session.handle_timeout(self.now);
        }
    }

    /// Sends and answers until nothing is left to send. A round trip takes 100 µs.
    pub(crate) fn exchange(&mut self) {
        loop {
            let frames = self.transmit();
            self.take_events();
            if !frames.is_empty() {
                self.now += Duration::from_micros(100);
            }
            for (_, frame) in &frames {
                self.hand_over(frame);
            }
            let answers = self.answers();
            if frames.is_empty() && answers.is_empty() {
                return;
            }
            for answer in answers {
                let ports = self.ports.iter();
                if let Some(port) = ports.zip(0..).find(|(port, _)| port.mac.0 == answer[..6]) {
                    self.receive(PortId(port.1), &answer);
                }
            }
            self.take_events();
        }
    }

    /// What the session sends now, without answering it.
    pub(crate) fn transmit(&mut self) -> Vec<(PortId, Vec<u8>)> {
        let mut frames = Vec::new();
        loop {
            let mut out = vec![0xA5; self.session.frame_bytes()];
            let Some(transmit) = self.session.poll_transmit(self.now, &mut out) else {
                return frames;
            };
            out.truncate(transmit.len);
            check_request(&self.ports[usize::from(transmit.port.0)], &out);
            self.sent.push(out.clone());
            self.sent_at.push(self.now);
            frames.push((transmit.port, out));
        }
    }

    /// The answers of all targets to a frame.
    pub(crate) fn deliver(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.hand_over(frame);
        self.answers()
    }

    /// Gives a frame to all targets.
    fn hand_over(&mut self, frame: &[u8]) {
        if (self.loses)(Way::Request, frame) {
            return;
        }
        let to = MacAddr(frame[..6].try_into().unwrap());
        for (seat, station) in self.stations.iter().enumerate() {
            if to == station.facts.mac || to == MacAddr::BROADCAST {
                let model = &mut self.models[station.model];
                model.take(self.now, seat, &station.facts, frame);
            }
        }
    }

    /// What the targets have to say now.
    fn answers(&mut self) -> Vec<Vec<u8>> {
        let models = self.models.iter_mut();
        let answers = models.flat_map(|model| model.responses(self.now));
        answers.map(|(_, answer)| answer).collect()
    }

    pub(crate) fn receive(&mut self, port: PortId, frame: &[u8]) {
        if !(self.loses)(Way::Response, frame) {
            self.session.handle_frame(self.now, port, frame);
        }
    }

    pub(crate) fn take_events(&mut self) {
        while let Some(event) = self.session.poll_event() {
            match event {
                Event::Done(done) => self.done.push(done),
                Event::Notice(notice) => self.notices.push(notice),
            }
        }
    }

    pub(crate) fn announce(&mut self, station: usize) {
        let Station { facts, model } = &self.stations[station];
        let frame = self.models[*model].announcement(facts);
        self.session.handle_frame(self.now, PortId(0), &frame);
    }

    pub(crate) fn submit(&mut self, request: Request<Vec<u8>>) -> RequestId {
        self.session.submit(self.now, request).unwrap()
    }

    /// What became of a request within this time.
    pub(crate) fn wait(&mut self, id: RequestId, time: Duration) -> Done<Vec<u8>> {
        let end = self.now + time;
        self.exchange();
        while !self.done.iter().any(|done| done.id == id) {
            let next = self.next().filter(|&next| next <= end);
            self.now = self.now.max(next.unwrap_or(end));
            self.session.handle_timeout(self.now);
            self.exchange();
            if next.is_none() {
                break;
            }
        }
        let place = self.done.iter().position(|done| done.id == id);
        self.done
            .remove(place.unwrap_or_else(|| panic!("not done: {:?}", self.session)))
    }

    /// Carries a request out that must end within a minute.
    pub(crate) fn ask(&mut self, request: Request<Vec<u8>>) -> Result<Answer, Error> {
        let id = self.submit(request);
        self.wait(id, Duration::from_secs(60)).result
    }

    pub(crate) fn write(&mut self, lba: u64, data: Vec<u8>) -> Result<Answer, Error> {
        self.ask(Request::Write { lba, buffer: data })
    }

    pub(crate) fn read(&mut self, lba: u64, sectors: usize) -> Vec<u8> {
        let buffer = vec![0xEE; sectors * 512];
        let id = self.submit(Request::Read { lba, buffer });
        let done = self.wait(id, Duration::from_secs(60));
        assert_eq!(done.result, Ok(Answer::Done));
        done.buffer.unwrap()
    }

    pub(crate) fn path(&self, index: usize) -> PathInfo {
        self.session.paths().nth(index).unwrap()
    }

    pub(crate) fn stats(&self) -> SessionStats {
        *self.session.stats()
    }

    /// ATA requests with this opcode among all sent.
    pub(crate) fn sent_ata(&self, opcode: Opcode) -> Vec<(Frame<'_>, Ata<'_>)> {
        let frames = self.sent.iter().map(|bytes| Frame::decode(bytes).unwrap());
        frames
            .filter_map(|frame| match frame.body() {
                Ok(Body::Ata(ata)) if ata.opcode() == opcode => Some((frame, ata)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn sent_commands(&self, command: Command) -> Vec<Frame<'_>> {
        let frames = self.sent.iter().map(|bytes| Frame::decode(bytes).unwrap());
        frames
            .filter(|frame| frame.header.command == command)
            .collect()
    }
}

/// What every request must keep to (§1; §15, 11).
fn check_request(port: &LocalPort, bytes: &[u8]) {
    assert!(bytes.len() >= 60 && bytes.len() <= port.mtu as usize + 14);
    let frame = Frame::decode(bytes).unwrap();
    assert_eq!(frame.header.source, port.mac);
    assert_eq!(bytes[14..16], [0x10, 0], "version 1, nothing else set");
    match frame.body().unwrap() {
        Body::Ata(ata) => {
            assert_eq!(ata.reserved, [0; 2]);
            assert_eq!(ata.flags.0 & !0x51, 0);
            let count = usize::from(ata.count);
            let used = match ata.opcode() {
                Opcode::WriteExt | Opcode::Write | Opcode::DataSetManagement => 512 * count,
                Opcode::ReadExt | Opcode::Read => match ata.data.first() {
                    Some(0) | None => 0,
                    Some(&entries) => {
                        let used = 1 + 16 * usize::from(entries);
                        for entry in ata.data[1..used].chunks(16) {
                            assert_eq!(entry[10..15], [0; 5], "reserved bytes of an entry");
                        }
                        used
                    }
                },
                _ => 0,
            };
            // A checksum may follow data.
            let padding = &ata.data[used..];
            assert!(
                padding.iter().all(|&byte| byte == 0) || (used > 0 && padding.len() == 4),
                "padding {padding:02x?}"
            );
        }
        Body::Config(config) => {
            let len = config.string().unwrap().len();
            assert!(config.rest[len..].iter().all(|&byte| byte == 0));
            assert_eq!(
                (config.buffer_count, config.firmware, config.sector_count),
                (0, 0, 0)
            );
        }
        Body::Mask(mask) => {
            assert!(
                mask.rest[8 * usize::from(mask.count)..]
                    .iter()
                    .all(|&byte| byte == 0)
            );
        }
        Body::Reserve(reserve) => {
            assert!(
                reserve.rest[6 * usize::from(reserve.count)..]
                    .iter()
                    .all(|&byte| byte == 0)
            );
        }
        Body::Extension(table) => {
            let len = usize::from(u16::from_le_bytes(table.length));
            assert!(table.entries().is_ok());
            assert!(table.rest[len..].iter().all(|&byte| byte == 0));
        }
        Body::Unknown(code, _) => panic!("command {code}"),
    }
}
