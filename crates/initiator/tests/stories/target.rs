//! A target to talk to: the real one of this project over a disk in memory. Extensions (§7 to §11)
//! are put around it here, so that each can be missing and every frame can be looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aoede_target::{
    Action, Admitted, Arrival, DATA_OFFSET, DeviceFailure, Exports, Outcome, PortFacts, Queue,
    Target, TargetSettings, Trim,
};
use aoede_wire::{
    Address, Ata, Body, Checksum, CoalescedReads, Command, ErrorCode, Extension, ExtensionTable,
    Flags, Frame, Header, MacAddr, Opcode, SECTOR_BYTES, congestion_id, trim_ranges,
};

/// Which extensions a target speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// None: error 1, as vblade.
    Nothing,
    /// None, and says nothing.
    Silence,
    /// These; others come back in lower case.
    These(&'static [Extension]),
}

pub(crate) const ALL: Speaks = Speaks::These(&[
    Extension::Reset,
    Extension::CoalescedRead,
    Extension::CoalescedWriteReply,
    Extension::TagIncBe,
    Extension::Congestion,
]);
pub(crate) const ALL_AND_CRC: Speaks = Speaks::These(&[
    Extension::Reset,
    Extension::CoalescedRead,
    Extension::CoalescedWriteReply,
    Extension::TagIncBe,
    Extension::Crc8x4,
    Extension::Crc32c,
]);

/// What one initiator has agreed on.
#[derive(Debug, Default)]
struct Peer {
    features: Vec<Extension>,
    /// Tags of finished writes, and the newest.
    done: BTreeSet<u32>,
    newest: Option<u32>,
    congestion: i64,
    answered: u32,
}

impl Peer {
    fn has(&self, extension: Extension) -> bool {
        self.features.contains(&extension)
    }

    fn checksum(&self) -> Option<Checksum> {
        let mut latest = self.features.iter().rev();
        latest.find_map(|&extension| Checksum::of_extension(extension))
    }
}

/// A target and its disk.
#[derive(Debug)]
pub(crate) struct Model {
    exports: Exports,
    pub(crate) disk: Vec<u8>,
    pub(crate) speaks: Speaks,
    peers: BTreeMap<MacAddr, Peer>,
    /// Probes of one measurement that are answered.
    pub(crate) room: u32,
    pub(crate) failure: Option<DeviceFailure>,
    /// Announced firmware, if another than this project's.
    pub(crate) firmware: Option<u16>,
    /// Coalesced reads are accepted and forgotten.
    pub(crate) ignores_entries: bool,
    /// Actions carried out.
    pub(crate) actions: Vec<Action>,
    /// Writes that were recognised as repetitions.
    pub(crate) repetitions: u32,
}

pub(crate) fn settings(address: Address, sectors: u64) -> TargetSettings {
    TargetSettings {
        serial: "serial 1".to_owned(),
        trim: Trim::ReadsZeros,
        ..TargetSettings::new(address, sectors)
    }
}

impl Model {
    pub(crate) fn new(settings: TargetSettings, speaks: Speaks) -> Self {
        let mut exports = Exports::new();
        let disk = vec![0; settings.sectors as usize * SECTOR_BYTES];
        exports.insert(Target::new(settings).unwrap()).unwrap();
        Self {
            exports,
            disk,
            speaks,
            peers: BTreeMap::new(),
            room: 40,
            failure: None,
            firmware: None,
            ignores_entries: false,
            actions: Vec::new(),
            repetitions: 0,
        }
    }

    pub(crate) fn target(&mut self) -> &mut Target {
        self.exports.get_mut(0).unwrap()
    }

    /// As after a restart: nobody has agreed on anything.
    pub(crate) fn forget_extensions(&mut self) {
        self.peers.clear();
    }

    pub(crate) fn announcement(&mut self, port: &PortFacts) -> Vec<u8> {
        let mut out = vec![0xA5; port.frame_bytes()];
        let len = self.target().announcement(port, 0, &mut out);
        out.truncate(len);
        if let Some(firmware) = self.firmware {
            out[26..28].copy_from_slice(&firmware.to_be_bytes());
        }
        out
    }

    /// The responses to a frame.
    pub(crate) fn answer(&mut self, port: &PortFacts, bytes: &[u8]) -> Vec<Vec<u8>> {
        let Ok(frame) = Frame::decode(bytes) else {
            return Vec::new();
        };
        let own = self.target().address();
        let header = frame.header;
        let mine = header.address.selects(own) && !header.flags.contains(Flags::RESPONSE);
        if mine && header.command == Command::Extension && self.speaks != Speaks::Nothing {
            return self.negotiate(port, &frame).into_iter().collect();
        }
        let Ok(Body::Ata(ata)) = frame.body() else {
            return self.plain(port, bytes).into_iter().collect();
        };
        let opcode = ata.opcode();
        let peer = self.peers.entry(header.source).or_default();
        let crc = peer.checksum();
        let is_read = matches!(opcode, Opcode::Read | Opcode::ReadExt);
        if is_read && mine {
            let coalesced = peer.has(Extension::CoalescedRead);
            let mut requests = vec![(header, ata.with_data(&[]))];
            if let (true, Some(further)) = (coalesced, CoalescedReads::decode(ata.data)) {
                let ignored = self.ignores_entries;
                requests.extend(further.reads().filter(|_| !ignored).map(|read| {
                    let entry = Ata {
                        lba: read.lba,
                        count: read.count,
                        reserved: [read.reserved[0], read.reserved[1]],
                        ..ata.with_data(&[])
                    };
                    (
                        Header {
                            tag: read.tag,
                            ..header
                        },
                        entry,
                    )
                }));
            }
            let answers = requests.into_iter().filter_map(|(header, ata)| {
                let mut request = vec![0; 60];
                Body::Ata(ata).encode(header, &mut request).unwrap();
                self.plain(port, &request)
                    .map(|answer| with_crc(answer, crc))
            });
            return answers.collect();
        }
        let data_bytes = usize::from(ata.count) * SECTOR_BYTES;
        let is_write = matches!(
            opcode,
            Opcode::Write | Opcode::WriteExt | Opcode::DataSetManagement
        );
        let mut request = bytes.to_vec();
        if let Some(crc) = crc.filter(|_| is_write && ata.data.len() >= data_bytes + 4) {
            let end = 36 + data_bytes;
            if crc.of(&bytes[24..end]) != bytes[end..end + 4] {
                return Vec::new();
            }
            request.truncate(end);
        }
        if is_write && mine && peer.has(Extension::TagIncBe) {
            return self.tracked(port, &request).into_iter().collect();
        }
        let answer = self.plain(port, &request);
        let crc = crc.filter(|_| opcode == Opcode::Identify);
        answer
            .map(|answer| with_crc(answer, crc))
            .into_iter()
            .collect()
    }

    /// §7.1: the whole frame comes back, accepted names in upper case.
    fn negotiate(&mut self, port: &PortFacts, frame: &Frame<'_>) -> Option<Vec<u8>> {
        let Speaks::These(known) = self.speaks else {
            return None;
        };
        let table = ExtensionTable::decode(frame.argument).ok()?;
        let header = frame.header.response(port.mac, self.target().address());
        let mut out = vec![0; frame.len().max(60)];
        Body::Extension(table).encode(header, &mut out).unwrap();
        let peer = self.peers.entry(frame.header.source).or_default();
        let mut entries = table.entries().ok()?;
        while let Some(entry) = entries.next() {
            let Some(extension) = Extension::from_name(entry.bytes) else {
                continue;
            };
            if !known.contains(&extension) {
                continue;
            }
            let at = ExtensionTable::OFFSET + entry.start;
            out[at..at + entry.bytes.len()].make_ascii_uppercase();
            match extension {
                Extension::Reset => *peer = Peer::default(),
                Extension::TagIncBe => {
                    peer.done.clear();
                    peer.newest = None;
                    peer.features.push(extension);
                }
                Extension::Congestion => {
                    let Some(id) = entries.next() else { continue };
                    let id = congestion_id(id.bytes);
                    if peer.congestion != id {
                        peer.congestion = id;
                        peer.answered = 0;
                    }
                    peer.answered += 1;
                    if peer.answered > self.room {
                        return None;
                    }
                }
                other => peer.features.push(other),
            }
        }
        Some(out)
    }

    /// §9.2, but for what only matters when requests are finished later than they come.
    fn tracked(&mut self, port: &PortFacts, bytes: &[u8]) -> Option<Vec<u8>> {
        let header = Frame::decode(bytes).unwrap().header;
        let tag = header.tag.big_endian();
        let peer = self.peers.entry(header.source).or_default();
        // How far behind the newest; huge if it is ahead.
        let age = peer.newest.map_or(0, |newest| newest.wrapping_sub(tag));
        if (32768..1 << 31).contains(&age) {
            return None;
        }
        if peer.done.contains(&tag) {
            self.repetitions += 1;
            let Ok(Body::Ata(ata)) = Frame::decode(bytes).unwrap().body() else {
                unreachable!()
            };
            let done = Ata {
                count: 0,
                command_or_status: 0x40,
                feature_or_error: 0,
                data: &[],
                ..ata
            };
            let header = header.response(port.mac, self.target().address());
            let mut out = vec![0; 60];
            Body::Ata(done).encode(header, &mut out).unwrap();
            return Some(out);
        }
        let answer = self.plain(port, bytes)?;
        let peer = self.peers.entry(header.source).or_default();
        if answer[27] == 0x40 {
            peer.done.insert(tag);
            if age == 0 || age >= 1 << 31 {
                peer.newest = Some(tag);
            }
        }
        Some(answer)
    }

    /// What the real target answers.
    fn plain(&mut self, port: &PortFacts, bytes: &[u8]) -> Option<Vec<u8>> {
        let (frame, mut selection) = self.exports.screen(port, bytes).ok()?;
        let mut out = vec![0xA5; port.frame_bytes()];
        let (_, target) = self.exports.next(&mut selection)?;
        if frame.header.command == Command::Extension {
            // What a target without extensions says.
            let header = frame.header.response(port.mac, target.address());
            let header = header.with_error(ErrorCode::UnrecognizedCommand);
            let body = Body::Unknown(Command::Extension.into(), frame.argument);
            let len = body.encode(header, &mut out).ok()?;
            out.truncate(len);
            return Some(out);
        }
        let len = match target.handle_frame(&arrival(port), &frame, &mut out) {
            Outcome::Respond(len) => len,
            Outcome::Ignore(_) | Outcome::Reads(_) | Outcome::Hold(_) => return None,
            Outcome::Disk(Admitted {
                request,
                action,
                data,
            }) => {
                let result = self.perform(action, data, &mut out);
                self.target().handle_done(request, result, &mut out)
            }
        };
        out.truncate(len);
        if let (Command::Config, Some(firmware)) = (frame.header.command, self.firmware) {
            out[26..28].copy_from_slice(&firmware.to_be_bytes());
        }
        Some(out)
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
        let bytes = |lba: u64, sectors: u64| {
            let at = lba as usize * SECTOR_BYTES;
            at..at + sectors as usize * SECTOR_BYTES
        };
        match action {
            Action::Read { lba, sectors } => {
                let at = bytes(lba, sectors.into());
                out[DATA_OFFSET..][..at.len()].copy_from_slice(&self.disk[at]);
            }
            Action::Write { lba, sectors, .. } => {
                self.disk[bytes(lba, sectors.into())].copy_from_slice(data);
            }
            Action::Trim { .. } => {
                for range in trim_ranges(data) {
                    self.disk[bytes(range.lba, range.sectors.into())].fill(0);
                }
            }
            Action::Flush => {}
        }
        Ok(())
    }
}

/// §11: data is followed by the checksum of all from offset 24 on.
fn with_crc(mut answer: Vec<u8>, crc: Option<Checksum>) -> Vec<u8> {
    if let Some(crc) = crc.filter(|_| answer.len() > 60) {
        let sum = crc.of(&answer[24..]);
        answer.extend_from_slice(&sum);
    }
    answer
}

/// How a frame came in where neither time nor ring matters.
fn arrival(port: &PortFacts) -> Arrival {
    Arrival {
        now: Duration::ZERO,
        port: *port,
        seat: 0,
        queue: Queue::default(),
    }
}
