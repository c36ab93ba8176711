//! A target to talk to: the real one of this project over a disk in memory. What it cannot be by
//! itself is put around it here: a target that lacks extensions, or that is the 2014 AoEde.

use std::time::Duration;

use aoede_initiator::Instant;
use aoede_target::{
    Action, Admitted, Arrival, DATA_OFFSET, DeviceFailure, Exports, Outcome, PortFacts, Queue,
    Target, TargetSettings, Trim, WriteCache, WriteReplies, merge_write_response,
};
use aoede_wire::{
    Address, Body, Command, ErrorCode, Extension, ExtensionTable, Flags, Frame, SECTOR_BYTES,
    trim_ranges,
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

/// All that the real target does.
pub(crate) const ALL: Speaks = Speaks::These(&Extension::ALL);
/// What the 2014 AoEde does in its default build.
pub(crate) const OLD: Speaks = Speaks::These(&[
    Extension::Reset,
    Extension::CoalescedRead,
    Extension::TagIncLe,
    Extension::TagIncBe,
    Extension::TagRandom,
    Extension::Congestion,
]);

/// A target and its disk.
#[derive(Debug)]
pub(crate) struct Model {
    settings: TargetSettings,
    exports: Exports,
    pub(crate) disk: Vec<u8>,
    pub(crate) speaks: Speaks,
    /// Frames that the receive buffer has room for, as far as a measurement can tell.
    pub(crate) room: usize,
    /// Frames that came from it.
    received: u64,
    /// How much later than it is due what was held is sent.
    pub(crate) lag: Duration,
    pub(crate) failure: Option<DeviceFailure>,
    /// Announced firmware, if another than this project's.
    pub(crate) firmware: Option<u16>,
    /// Coalesced reads are accepted and forgotten.
    pub(crate) ignores_entries: bool,
    /// Actions carried out.
    pub(crate) actions: Vec<Action>,
    /// Responses of this turn.
    outbox: Vec<Response>,
    replies: WriteReplies,
}

/// A response, in a buffer as long as its port can send.
#[derive(Debug)]
struct Response {
    seat: usize,
    len: usize,
    buffer: Vec<u8>,
}

pub(crate) fn settings(address: Address, sectors: u64) -> TargetSettings {
    TargetSettings {
        serial: "serial 1".to_owned(),
        trim: Trim::ReadsZeros,
        ..TargetSettings::new(address, sectors)
    }
}

/// The same with a write cache, which has another number after each restart.
pub(crate) fn cached(settings: TargetSettings) -> TargetSettings {
    TargetSettings {
        write_cache: WriteCache::Back,
        cache_number: 1,
        ..settings
    }
}

fn exports(settings: TargetSettings) -> Exports {
    let mut exports = Exports::new();
    exports.insert(Target::new(settings).unwrap()).unwrap();
    exports
}

impl Model {
    pub(crate) fn new(settings: TargetSettings, speaks: Speaks) -> Self {
        Self {
            exports: exports(settings.clone()),
            disk: vec![0; settings.sectors as usize * SECTOR_BYTES],
            settings,
            speaks,
            room: 40,
            received: 0,
            lag: Duration::ZERO,
            failure: None,
            firmware: None,
            ignores_entries: false,
            actions: Vec::new(),
            outbox: Vec::new(),
            replies: WriteReplies::new(16),
        }
    }

    pub(crate) fn target(&mut self) -> &mut Target {
        self.exports.get_mut(0).unwrap()
    }

    /// Writes that were recognised as repetitions.
    pub(crate) fn repetitions(&mut self) -> u64 {
        self.target().stats().duplicates
    }

    /// A new process: nobody has agreed on anything.
    pub(crate) fn restart(&mut self) {
        if self.settings.cache_number > 0 {
            self.settings.cache_number += 1;
        }
        self.exports = exports(self.settings.clone());
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

    /// Takes a frame that has come in by this port, the target's number `seat`.
    pub(crate) fn take(&mut self, now: Instant, seat: usize, port: &PortFacts, bytes: &[u8]) {
        let Ok(frame) = Frame::decode(bytes) else {
            return;
        };
        let asks = frame.header.command == Command::Extension
            && !frame.header.flags.contains(Flags::RESPONSE);
        match self.speaks {
            Speaks::Nothing if asks => self.refuse(seat, port, bytes),
            Speaks::Silence if asks => {}
            Speaks::These(known) if asks => {
                let masked = mask(bytes, known);
                self.put(now, seat, port, &masked, Some(bytes));
            }
            _ => self.put(now, seat, port, bytes, None),
        }
    }

    /// What is ready to be sent now, and on which port. Ends the turn: write responses of one turn
    /// share frames (§18.1).
    pub(crate) fn responses(&mut self, now: Instant) -> Vec<(usize, Vec<u8>)> {
        self.replies.clear();
        let mut ready: Vec<_> = self
            .outbox
            .drain(..)
            .map(|response| (response.seat, response.buffer[..response.len].to_vec()))
            .collect();
        self.exports
            .handle_timeout(since_start(now).saturating_sub(self.lag));
        let mut out = vec![0xA5; 9014];
        while let Some(held) = self.exports.poll_response(&mut out) {
            ready.push((held.seat, out[..held.len].to_vec()));
        }
        ready
    }

    /// When a held response is due.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let due = self.exports.poll_timeout()?;
        Some(Instant::START + due + self.lag)
    }

    /// "No such command", and the frame back (§2, row 7).
    fn refuse(&mut self, seat: usize, port: &PortFacts, bytes: &[u8]) {
        let Ok((frame, _)) = self.exports.screen(port, bytes) else {
            return;
        };
        let header = frame.header.response(port.mac, self.target().address());
        let header = header.with_error(ErrorCode::UnrecognizedCommand);
        let body = Body::Unknown(Command::Extension.into(), frame.argument);
        let mut buffer = vec![0xA5; port.frame_bytes()];
        let len = body.encode(header, &mut buffer).unwrap();
        self.outbox.push(Response { seat, len, buffer });
    }

    /// Gives a frame to the real target. `sent` is what it was before names were masked.
    fn put(
        &mut self,
        now: Instant,
        seat: usize,
        port: &PortFacts,
        bytes: &[u8],
        sent: Option<&[u8]>,
    ) {
        self.received += 1;
        let arrival = Arrival {
            seat,
            queue: Queue {
                number: self.received,
                waiting: 0,
                free: self.room,
            },
            ..Arrival::new(since_start(now), *port)
        };
        let Ok((frame, mut selection)) = self.exports.screen(port, bytes) else {
            return;
        };
        let mut out = vec![0xA5; port.frame_bytes()];
        let Some((export, target)) = self.exports.next(&mut selection) else {
            return;
        };
        match target.handle_frame(&arrival, &frame, &mut out) {
            Outcome::Reads(mut reads) => loop {
                let mut out = vec![0xA5; port.frame_bytes()];
                let next = self.target().next_read(&arrival, &mut reads, &mut out);
                let Some(outcome) = next else { break };
                self.end(seat, outcome, out);
                if self.ignores_entries {
                    break;
                }
            },
            Outcome::Hold(hold) => self.exports.hold(export, hold, &out),
            Outcome::Respond(len) => {
                if let Some(sent) = sent {
                    unmask(&mut out[..len], bytes, sent);
                }
                if let (Command::Config, Some(firmware)) = (frame.header.command, self.firmware) {
                    out[26..28].copy_from_slice(&firmware.to_be_bytes());
                }
                self.end(seat, Outcome::Respond(len), out);
            }
            outcome => self.end(seat, outcome, out),
        }
    }

    /// Carries a single request out.
    fn end(&mut self, seat: usize, outcome: Outcome<'_>, mut buffer: Vec<u8>) {
        let mut key = None;
        let len = match outcome {
            Outcome::Respond(len) => len,
            Outcome::Disk(Admitted {
                request,
                action,
                data,
            }) => {
                key = request.merge_key(0, seat);
                let result = self.perform(action, data, &mut buffer);
                self.target().handle_done(request, result, &mut buffer)
            }
            Outcome::Ignore(_) => return,
            other => panic!("not of a single request: {other:?}"),
        };
        if let Some(key) = key {
            let first = self.replies.place(key).map(|place| &mut self.outbox[place]);
            if let Some(first) = first {
                let longer = merge_write_response(&mut first.buffer, first.len, &buffer[..len]);
                if let Some(longer) = longer {
                    first.len = longer;
                    return;
                }
            }
            self.replies.set_place(key, self.outbox.len());
        }
        self.outbox.push(Response { seat, len, buffer });
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

fn since_start(now: Instant) -> Duration {
    now.since(Instant::START)
}

/// The frame, with names that are not in `known` made unknown to the real target.
fn mask(bytes: &[u8], known: &[Extension]) -> Vec<u8> {
    let mut masked = bytes.to_vec();
    let frame = Frame::decode(bytes).unwrap();
    let Ok(table) = ExtensionTable::decode(frame.argument) else {
        return masked;
    };
    for entry in table.entries().into_iter().flatten() {
        let name = Extension::from_name(entry.bytes);
        if name.is_some_and(|name| !known.contains(&name)) {
            masked[ExtensionTable::OFFSET + entry.start] = b'?';
        }
    }
    masked
}

/// Puts what was masked back into the answer.
fn unmask(answer: &mut [u8], masked: &[u8], sent: &[u8]) {
    for ((byte, masked), sent) in answer.iter_mut().zip(masked).zip(sent).skip(26) {
        if masked != sent {
            *byte = *sent;
        }
    }
}
