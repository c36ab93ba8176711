//! Any frames into a worker's exports, as a worker would drive them, with disk requests finished
//! in any order and with any result, held responses released, and write responses merged.
//!
//! The input is one byte of settings and then steps: a byte that says what to do, two bytes of
//! length (little-endian), and so many bytes of frame. See `Step`. Each step takes a while.
#![no_main]

use std::time::Duration;

use aoede_target::{
    Access, Action, Admitted, Arrival, DATA_OFFSET, DeviceFailure, Exports, ExtensionReset,
    ExtensionSet, Outcome, PortFacts, Queue, Request, Target, TargetSettings, Trim, Who,
    WriteCache, WriteReplies, merge_write_response,
};
use aoede_wire::{
    Address, Ata, CRC_BYTES, CoalescedWrites, Command, Extension, ExtensionTable, Flags, Frame,
    MIN_FRAME_BYTES, MacAddr, SECTOR_BYTES,
};
use libfuzzer_sys::fuzz_target;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
const SECTORS: u64 = 16384;
/// Between two steps.
const PAUSE: Duration = Duration::from_millis(300);
/// What the receive ring has room for, and what waits in it.
const FREE: usize = 3;
const WAITING: usize = 2;

fuzz_target!(|bytes: &[u8]| {
    let Some((&settings, mut rest)) = bytes.split_first() else {
        return;
    };
    let mut worker = Worker::new(settings);
    while let Some((step, later)) = Step::split(rest) {
        worker.carry_out(&step);
        rest = later;
    }
    worker.finish_all();
});

/// Bits of `what`: 7–6 the port, 5 finish a request after the frame, 4–0 which one, and how.
struct Step<'a> {
    what: u8,
    frame: &'a [u8],
}

impl<'a> Step<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (&[what, low, high], rest) = bytes.split_first_chunk::<3>()?;
        let len = usize::from(u16::from_le_bytes([low, high]));
        let (frame, later) = rest.split_at(len.min(rest.len()));
        Some((Self { what, frame }, later))
    }

    fn port(&self) -> PortFacts {
        let mtu = [1500, 9000, 1042, 4200][usize::from(self.what >> 6)];
        PortFacts {
            mac: OWN,
            mtu,
            max_sectors: 16,
        }
    }
}

/// A disk request that was admitted and not yet ended.
struct Pending {
    export: usize,
    seat: usize,
    request: Request,
    sectors_read: u32,
}

/// What came of a frame.
enum Judged {
    Over(Vec<Pending>),
    Hold(aoede_target::Hold),
}

struct Worker {
    exports: Exports,
    pending: Vec<Pending>,
    now: Duration,
    frames: u64,
    /// Write responses that others may join.
    replies: WriteReplies,
    outbox: Vec<(usize, Vec<u8>)>,
}

impl Worker {
    fn new(bits: u8) -> Self {
        let mut exports = Exports::new();
        for (shelf, slot) in [(1, 1), (1, 2), (7, 1)] {
            let address = Address { shelf, slot };
            let settings = TargetSettings {
                read_only: bits & 1 != 0,
                write_cache: if bits & 2 == 0 {
                    WriteCache::Through
                } else {
                    WriteCache::Back
                },
                trim: if bits & 4 == 0 {
                    Trim::Unsupported
                } else {
                    Trim::ReadsZeros
                },
                extension_reset: if bits & 8 == 0 {
                    ExtensionReset::SetOnly
                } else {
                    ExtensionReset::AnyConfig
                },
                access: access(bits),
                extensions: if bits & 64 == 0 {
                    ExtensionSet::ALL
                } else {
                    [Extension::Crc32c, Extension::TagIncBe]
                        .into_iter()
                        .collect()
                },
                buffer_count: 4,
                ..TargetSettings::new(address, SECTORS)
            };
            let target = Target::new(settings).expect("sound settings");
            exports.insert(target).expect("three different addresses");
        }
        Self {
            exports,
            pending: Vec::new(),
            now: Duration::ZERO,
            frames: 0,
            replies: WriteReplies::new(2),
            outbox: Vec::new(),
        }
    }

    fn carry_out(&mut self, step: &Step<'_>) {
        self.now += PAUSE;
        self.frames += 1;
        self.release(&step.port());
        let arrival = Arrival {
            now: self.now,
            port: step.port(),
            seat: usize::from(step.what >> 6),
            queue: Queue {
                number: self.frames,
                waiting: WAITING,
                free: FREE,
            },
        };
        if let Ok((frame, mut selection)) = self.exports.screen(&arrival.port, step.frame) {
            let mut asked = 0;
            while let Some((export, target)) = self.exports.next(&mut selection) {
                asked += 1;
                let mut out = vec![0xA5; arrival.port.frame_bytes().max(frame.len())];
                match judge(&arrival, &frame, export, target, &mut out) {
                    Judged::Over(pending) => self.pending.extend(pending),
                    Judged::Hold(hold) => self.exports.hold(export, hold, &out),
                }
            }
            assert!(asked > 0, "screened for nobody");
        }
        if step.what & 0x20 != 0 && !self.pending.is_empty() {
            let which = usize::from(step.what & 7) % self.pending.len();
            let pending = self.pending.swap_remove(which);
            self.finish(pending, step.what >> 3 & 3);
        }
        // The end of a turn.
        if step.what & 0x10 != 0 {
            self.send();
        }
    }

    fn release(&mut self, port: &PortFacts) {
        self.exports.handle_timeout(self.now);
        let mut out = vec![0xA5; port.frame_bytes()];
        while let Some(held) = self.exports.poll_response(&mut out) {
            let response = Frame::decode(&out[..held.len]).expect("a frame of ours");
            assert_eq!(response.header.command, Command::Extension);
            assert_eq!(response.header.flags, Flags::RESPONSE);
            let table = ExtensionTable::decode(response.argument).expect("it was one");
            assert!(table.entries().is_ok());
        }
        assert!(self.exports.poll_timeout().is_none_or(|due| due > self.now));
    }

    /// Looks at what waits to be sent.
    fn send(&mut self) {
        self.replies.clear();
        for (len, bytes) in self.outbox.drain(..) {
            let response = Frame::decode(&bytes[..len]).expect("a frame of ours");
            let ata = Ata::decode(response.argument).expect("a write's response");
            let further = CoalescedWrites::decode(ata.data).expect("60 bytes at least");
            assert_eq!(further.writes().len(), usize::from(further.announced()));
        }
    }

    fn finish(&mut self, pending: Pending, how: u8) {
        let result = match how {
            0 | 1 => Ok(()),
            2 => Err(DeviceFailure::Unreadable),
            _ => Err(DeviceFailure::Fault),
        };
        let data_end = DATA_OFFSET + pending.sectors_read as usize * SECTOR_BYTES;
        let expected = match (result, pending.sectors_read) {
            (Ok(()), 1..) if pending.request.checks_data() => data_end + CRC_BYTES,
            (Ok(()), 1..) => data_end,
            _ => MIN_FRAME_BYTES,
        };
        let most = pending.request.response_bytes();
        let merge_key = pending.request.merge_key(pending.export, pending.seat);
        let mut out = vec![0xA5; most];
        let target = self.exports.get_mut(pending.export).expect("never removed");
        let len = target.handle_done(pending.request, result, &mut out);
        assert_eq!(len, expected);
        let response = Frame::decode(&out[..len]).expect("a frame of ours");
        assert_eq!(response.header.address, target.address());
        assert_eq!(response.header.flags, Flags::RESPONSE);
        if pending.sectors_read > 0 && result.is_ok() {
            // The disk's data is the disk's.
            assert!(out[DATA_OFFSET..data_end].iter().all(|&byte| byte == 0xA5));
        }
        if let Some(key) = merge_key {
            let place = self.replies.place(key);
            if let Some((first_len, first)) = place.and_then(|place| self.outbox.get_mut(place)) {
                let most = first.len() - 1;
                if let Some(longer) =
                    merge_write_response(&mut first[..most], *first_len, &out[..len])
                {
                    assert!(longer <= most);
                    *first_len = longer;
                    return;
                }
            }
            self.replies.set_place(key, self.outbox.len());
            out.resize(200, 0xA5);
            self.outbox.push((len, out));
        }
    }

    fn finish_all(&mut self) {
        for (how, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            self.finish(pending, (how % 4) as u8);
        }
        self.send();
        for (_, target) in self.exports.iter() {
            assert!(target.initiators().count() <= 1024);
            assert!(target.initiators().all(|seen| seen.outstanding == 0));
        }
    }
}

/// Two initiators, of whom each may do something that others may not, or all of them.
fn access(bits: u8) -> Access {
    let only = |bit: u8, mac: [u8; 6]| {
        if bits & bit == 0 {
            Who::Everyone
        } else {
            Who::These([MacAddr(mac)].into())
        }
    };
    Access {
        read: Who::Everyone,
        write: only(16, [2, 0, 0, 0, 0, 0x0B]),
        configure: only(32, [2, 0, 0, 0, 0, 0x0C]),
    }
}

/// Hands one frame to one export and checks what comes of it.
fn judge(
    arrival: &Arrival,
    frame: &Frame<'_>,
    export: usize,
    target: &mut Target,
    out: &mut [u8],
) -> Judged {
    let source = frame.header.source;
    let masked = !target.mask().is_empty() && !target.mask().contains(&source);
    let held = !target.reservation().is_empty() && !target.reservation().contains(&source);
    let outcome = target.handle_frame(arrival, frame, out);
    assert!(!masked || matches!(outcome, Outcome::Ignore(_)));
    let mut pending = Vec::new();
    let mut single = |target: &Target, outcome: Outcome<'_>, out: &[u8]| match outcome {
        Outcome::Ignore(_) => {}
        Outcome::Respond(len) => look_at_response(&arrival.port, frame, target, out, len),
        Outcome::Disk(admitted) => {
            assert!(!held && !frame.header.address.is_wildcard());
            if let Action::Write { .. } | Action::Trim { .. } = admitted.action {
                assert!(target.access().write.includes(source));
            }
            assert_eq!(frame.header.command, Command::Ata);
            pending.push(look_at_disk_request(arrival, export, target, admitted));
        }
        other => panic!("not of a single request: {other:?}"),
    };
    match outcome {
        Outcome::Hold(hold) => {
            look_at_response(&arrival.port, frame, target, out, hold.len);
            return Judged::Hold(hold);
        }
        Outcome::Reads(mut reads) => {
            assert!((2..=256).contains(&reads.left()));
            while reads.left() > 0 {
                out.fill(0xA5);
                let outcome = target.next_read(arrival, &mut reads, out);
                single(target, outcome.expect("one is left"), out);
            }
        }
        outcome => single(target, outcome, out),
    }
    Judged::Over(pending)
}

fn look_at_response(port: &PortFacts, frame: &Frame<'_>, target: &Target, out: &[u8], len: usize) {
    assert!((MIN_FRAME_BYTES..=port.frame_bytes()).contains(&len));
    assert!(out[len..].iter().all(|&byte| byte == 0xA5));
    let response = Frame::decode(&out[..len]).expect("a frame of ours");
    let (asked, answered) = (&frame.header, &response.header);
    assert!(answered.flags.contains(Flags::RESPONSE));
    assert_eq!(answered.version, 1);
    assert_eq!(answered.source, port.mac);
    assert_eq!(answered.destination, asked.source);
    assert_eq!(answered.address, target.address());
    assert_eq!(answered.command, asked.command);
    // Further reads have tags of their own.
    if asked.command != Command::Ata {
        assert_eq!(answered.tag, asked.tag);
    }
    assert_eq!(answered.error != 0, answered.flags.contains(Flags::ERROR));
    if asked.address.is_wildcard() {
        assert!(matches!(answered.error, 0 | 2 | 4 | 6));
    }
    let _ = response.to_string();
}

fn look_at_disk_request(
    arrival: &Arrival,
    export: usize,
    target: &Target,
    admitted: Admitted<'_>,
) -> Pending {
    let most = u32::from(arrival.port.sectors_per_frame());
    let within = |lba: u64, sectors: u32| {
        assert!(sectors > 0 && sectors <= most && lba + u64::from(sectors) <= SECTORS);
    };
    let mut sectors_read = 0;
    match admitted.action {
        Action::Read { lba, sectors } => {
            within(lba, sectors);
            assert!(admitted.data.is_empty());
            sectors_read = sectors;
        }
        Action::Write { lba, sectors, .. } => {
            within(lba, sectors);
            assert!(!target.is_read_only());
            assert_eq!(admitted.data.len(), sectors as usize * SECTOR_BYTES);
        }
        Action::Trim { blocks } => {
            assert!(!target.is_read_only());
            assert_eq!(admitted.data.len(), blocks as usize * SECTOR_BYTES);
            for range in aoede_wire::trim_ranges(admitted.data) {
                assert!(range.lba + u64::from(range.sectors) <= SECTORS);
            }
        }
        Action::Flush => assert!(admitted.data.is_empty()),
    }
    Pending {
        export,
        seat: arrival.seat,
        request: admitted.request,
        sectors_read,
    }
}
