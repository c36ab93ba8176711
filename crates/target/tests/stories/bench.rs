//! One export, e1.1, between an initiator and a disk in memory.

use std::time::Duration;

use aoede_target::{
    Action, Admitted, Arrival, DATA_OFFSET, DeviceFailure, Exports, IgnoreReason, Outcome,
    PortFacts, Queue, Request, Target, TargetSettings,
};
use aoede_wire::{
    Address, Ata, Body, Config, ConfigCommand, Directive, DirectiveCode, ExtensionTable, Header,
    MacAddr, Mask, MaskCommand, MaskError, Opcode, Reserve, ReserveCommand, trim_ranges,
};

/// The target's port.
pub(crate) const T: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
/// The initiator of most stories.
pub(crate) const I: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
/// Another initiator.
pub(crate) const J: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0C]);
pub(crate) const E1_1: Address = Address { shelf: 1, slot: 1 };
pub(crate) const SECTORS: u64 = 16384;
/// What every output buffer holds before: a response with this in it has leaked.
pub(crate) const POISON: u8 = 0xA5;

pub(crate) fn port(mtu: u32) -> PortFacts {
    PortFacts {
        mac: T,
        mtu,
        max_sectors: 255,
    }
}

pub(crate) fn settings() -> TargetSettings {
    TargetSettings::new(E1_1, SECTORS)
}

#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) port: PortFacts,
    pub(crate) exports: Exports,
    pub(crate) disk: Vec<u8>,
    /// What the disk was asked for.
    pub(crate) actions: Vec<Action>,
    /// How the disk fails from now on.
    pub(crate) failure: Option<DeviceFailure>,
    pub(crate) now: Duration,
    pub(crate) queue: Queue,
}

/// An [`Outcome`] that owns its bytes.
#[derive(Debug, PartialEq)]
pub(crate) enum Seen {
    Response(Vec<u8>),
    Disk(Request, Action, Vec<u8>),
    /// What becomes of each read.
    Reads(Vec<Self>),
    /// Given to the exports for later.
    Held,
    Ignored(IgnoreReason),
}

impl Bench {
    pub(crate) fn new(settings: TargetSettings) -> Self {
        let mut exports = Exports::new();
        let disk = vec![0; usize::try_from(settings.sectors).unwrap() * 512];
        exports.insert(Target::new(settings).unwrap()).unwrap();
        Self {
            port: port(1500),
            exports,
            disk,
            actions: Vec::new(),
            failure: None,
            now: Duration::ZERO,
            queue: Queue {
                number: 1000,
                waiting: 0,
                free: usize::MAX,
            },
        }
    }

    pub(crate) fn with_mtu(mtu: u32) -> Self {
        let mut bench = Self::new(settings());
        bench.port = port(mtu);
        bench
    }

    pub(crate) fn target(&mut self) -> &mut Target {
        self.exports.get_mut(0).unwrap()
    }

    pub(crate) fn arrival(&self) -> Arrival {
        Arrival {
            now: self.now,
            port: self.port,
            seat: 7,
            queue: self.queue,
        }
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    /// What the target makes of a frame, before the disk has done anything.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> Seen {
        self.queue.number += 1;
        // Longer than a frame may be: the port is the limit, not the buffer.
        let mut out = vec![POISON; self.port.frame_bytes() + 2000];
        let (frame, mut selection) = match self.exports.screen(&self.port, bytes) {
            Ok(screened) => screened,
            Err(reason) => return Seen::Ignored(reason),
        };
        let arrival = self.arrival();
        let (export, target) = self.exports.next(&mut selection).unwrap();
        match target.handle_frame(&arrival, &frame, &mut out) {
            Outcome::Reads(mut reads) => {
                let count = reads.left();
                let mut next = || {
                    out.fill(POISON);
                    let outcome = target.next_read(&arrival, &mut reads, &mut out)?;
                    Some(seen(outcome, &out))
                };
                let all: Vec<_> = std::iter::from_fn(&mut next).collect();
                assert_eq!(all.len(), count);
                Seen::Reads(all)
            }
            Outcome::Hold(hold) => {
                check_response(&self.port, bytes, &out[..hold.len]);
                self.exports.hold(export, hold, &out);
                Seen::Held
            }
            outcome => {
                if let Outcome::Respond(len) = outcome {
                    check_response(&self.port, bytes, &out[..len]);
                }
                seen(outcome, &out)
            }
        }
    }

    /// The response, after the disk has done what it was asked for.
    pub(crate) fn answer(&mut self, bytes: &[u8]) -> Vec<u8> {
        let seen = self.see(bytes);
        let response = self.finish(seen);
        check_response(&self.port, bytes, &response);
        response
    }

    /// The responses to a frame with several reads.
    pub(crate) fn answers(&mut self, bytes: &[u8]) -> Vec<Vec<u8>> {
        match self.see(bytes) {
            Seen::Reads(all) => all.into_iter().map(|seen| self.finish(seen)).collect(),
            seen => panic!("not several reads: {seen:?}"),
        }
    }

    /// The response, after the disk has done what it was asked for.
    pub(crate) fn finish(&mut self, seen: Seen) -> Vec<u8> {
        match seen {
            Seen::Response(response) => response,
            Seen::Disk(request, action, data) => {
                let mut out = vec![POISON; self.port.frame_bytes()];
                let result = self.perform(action, &data, &mut out);
                let len = self.target().handle_done(request, result, &mut out);
                out.truncate(len);
                out
            }
            seen => panic!("no response: {seen:?}"),
        }
    }

    /// What was held and is due now.
    pub(crate) fn released(&mut self) -> Vec<Vec<u8>> {
        self.exports.handle_timeout(self.now);
        let mut all = Vec::new();
        let mut out = vec![POISON; self.port.frame_bytes()];
        while let Some(held) = self.exports.poll_response(&mut out) {
            assert_eq!(held.seat, 7);
            all.push(out[..held.len].to_vec());
            out.fill(POISON);
        }
        all
    }

    /// Negotiates; every name must be accepted.
    pub(crate) fn extend(&mut self, from: MacAddr, names: &[&str]) {
        let request = extension(from, names);
        let response = self.answer(&request);
        assert_eq!(response[26..], request[26..].to_ascii_uppercase());
    }

    pub(crate) fn ignored(&mut self, reason: IgnoreReason) -> u64 {
        self.target().stats().ignored.get(reason)
    }

    /// The reason why there is no response.
    pub(crate) fn silence(&mut self, bytes: &[u8]) -> IgnoreReason {
        match self.see(bytes) {
            Seen::Ignored(reason) => reason,
            seen => panic!("not silent: {seen:?}"),
        }
    }

    fn perform(
        &mut self,
        action: Action,
        data: &[u8],
        out: &mut [u8],
    ) -> Result<(), DeviceFailure> {
        self.actions.push(action);
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        match action {
            Action::Read { lba, sectors } => {
                let at = bytes_of(lba, sectors);
                out[DATA_OFFSET..][..at.len()].copy_from_slice(&self.disk[at]);
            }
            Action::Write { lba, sectors, .. } => {
                self.disk[bytes_of(lba, sectors)].copy_from_slice(data);
            }
            Action::Trim { blocks } => {
                assert_eq!(data.len(), blocks as usize * 512);
                for range in trim_ranges(data) {
                    self.disk[bytes_of(range.lba, range.sectors.into())].fill(0);
                }
            }
            Action::Flush => assert!(data.is_empty()),
        }
        Ok(())
    }
}

/// An outcome that needs no more of the target.
fn seen(outcome: Outcome<'_>, out: &[u8]) -> Seen {
    match outcome {
        Outcome::Respond(len) => Seen::Response(out[..len].to_vec()),
        Outcome::Disk(Admitted {
            request,
            action,
            data,
        }) => Seen::Disk(request, action, data.to_vec()),
        Outcome::Ignore(reason) => Seen::Ignored(reason),
        other => panic!("not of a single request: {other:?}"),
    }
}

fn bytes_of(lba: u64, sectors: u32) -> core::ops::Range<usize> {
    let start = usize::try_from(lba).unwrap() * 512;
    start..start + sectors as usize * 512
}

/// What holds for every response (§1).
pub(crate) fn check_response(port: &PortFacts, request: &[u8], response: &[u8]) {
    assert!(response.len() >= 60, "{} bytes", response.len());
    assert!(response.len() <= port.frame_bytes());
    assert_eq!(response[..6], request[6..12], "goes to the sender");
    assert_eq!(response[6..12], port.mac.0, "comes from the port");
    assert_eq!(response[12..14], [0x88, 0xA2]);
    assert!(matches!(response[14], 0x18 | 0x1C), "{:02x}", response[14]);
    assert_eq!(response[14] == 0x1C, response[15] != 0, "E with an error");
    assert_eq!(response[16..19], [0, 1, 1], "the real address");
    assert_eq!(response[19], request[19], "command");
    assert_eq!(response[20..24], request[20..24], "tag");
}

/// Bytes written as people write them: hexadecimal, spaces anywhere.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(16)).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).unwrap();
    digits.chunks(2).map(byte).collect()
}

/// A request from `I` to e1.1, unpadded: the bytes from offset 14 on.
pub(crate) fn from_14(text: &str) -> Vec<u8> {
    let mut bytes = hex("02000000000a 02000000000b 88a2");
    bytes.extend(hex(text));
    bytes
}

/// A request from `from` to e1.1 with a tag of its own.
pub(crate) fn request(from: MacAddr, body: Body<'_>) -> Vec<u8> {
    let header = Header::request(from, T, E1_1);
    // Longer than any port's: some frames here are too long for theirs.
    let mut bytes = vec![0; 1 << 18];
    let len = body.encode(header, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes[20..24].copy_from_slice(&[0x80, 0x01, 0x02, 0x03]);
    bytes
}

/// The same frame from another station.
pub(crate) fn from(mac: MacAddr, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[6..12].copy_from_slice(&mac.0);
    bytes
}

/// The same frame, sent to wildcards by broadcast.
pub(crate) fn to_all(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..6].fill(0xFF);
    bytes[16..19].fill(0xFF);
    bytes
}

/// The same frame with one byte changed.
pub(crate) fn with(mut bytes: Vec<u8>, at: usize, value: u8) -> Vec<u8> {
    bytes[at] = value;
    bytes
}

pub(crate) fn ata(opcode: Opcode, lba: u64, count: u8) -> Vec<u8> {
    request(I, Body::Ata(Ata::request(opcode, lba, count)))
}

pub(crate) fn ata_with(opcode: Opcode, lba: u64, count: u8, data: &[u8]) -> Vec<u8> {
    let ata = Ata::request(opcode, lba, count).with_data(data);
    request(I, Body::Ata(ata))
}

pub(crate) fn config(command: ConfigCommand, string: &[u8]) -> Vec<u8> {
    let config = Config {
        command,
        ..Config::default()
    };
    request(I, Body::Config(config.with_string(string).unwrap()))
}

pub(crate) fn mask_edit(from: MacAddr, directives: &[(DirectiveCode, MacAddr)]) -> Vec<u8> {
    let rest: Vec<u8> = directives
        .iter()
        .flat_map(|&(code, mac)| Directive { code, mac }.to_bytes())
        .collect();
    let mask = Mask {
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: directives.len().try_into().unwrap(),
        rest: &rest,
    };
    request(from, Body::Mask(mask))
}

pub(crate) fn mask_read(from: MacAddr) -> Vec<u8> {
    with(mask_edit(from, &[]), 25, 0)
}

pub(crate) fn reserve(from: MacAddr, command: ReserveCommand, macs: &[MacAddr]) -> Vec<u8> {
    let rest: Vec<u8> = macs.iter().flat_map(|mac| mac.0).collect();
    let reserve = Reserve {
        command,
        count: macs.len().try_into().unwrap(),
        rest: &rest,
    };
    request(from, Body::Reserve(reserve))
}

/// A request for these extensions.
pub(crate) fn extension(from: MacAddr, names: &[&str]) -> Vec<u8> {
    let entries = names.iter().flat_map(|name| [name.as_bytes(), b"\0"]);
    let table = [entries.collect::<Vec<_>>().concat(), vec![0; 1]].concat();
    // An empty table is two NULs.
    let table = if names.is_empty() { vec![0; 2] } else { table };
    request(from, Body::Extension(ExtensionTable::new(&table).unwrap()))
}

/// The same frame with this tag.
pub(crate) fn tagged(mut bytes: Vec<u8>, tag: [u8; 4]) -> Vec<u8> {
    bytes[20..24].copy_from_slice(&tag);
    bytes
}

/// The n-th of many stations.
pub(crate) fn station(n: u16) -> MacAddr {
    let [high, low] = n.to_be_bytes();
    MacAddr([2, 0, 0, 1, high, low])
}
