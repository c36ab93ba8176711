//! Any frames into a worker's exports, as a worker would drive them, with disk requests finished
//! in any order and with any result.
//!
//! The input is one byte of settings and then steps: a byte that says what to do, two bytes of
//! length (little-endian), and so many bytes of frame. See `Step`.
#![no_main]

use aoede_target::{
    Action, Admitted, DATA_OFFSET, DeviceFailure, Exports, Outcome, PortFacts, Request, Target,
    TargetSettings, Trim, WriteCache,
};
use aoede_wire::{Address, Command, Flags, Frame, MIN_FRAME_BYTES, MacAddr, SECTOR_BYTES};
use libfuzzer_sys::fuzz_target;

const OWN: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
const SECTORS: u64 = 16384;

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
    request: Request,
    sectors_read: u32,
}

struct Worker {
    exports: Exports,
    pending: Vec<Pending>,
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
                ..TargetSettings::new(address, SECTORS)
            };
            let target = Target::new(settings).expect("sound settings");
            exports.insert(target).expect("three different addresses");
        }
        Self {
            exports,
            pending: Vec::new(),
        }
    }

    fn carry_out(&mut self, step: &Step<'_>) {
        let port = step.port();
        if let Ok((frame, mut selection)) = self.exports.screen(&port, step.frame) {
            let mut asked = 0;
            while let Some((export, target)) = self.exports.next(&mut selection) {
                asked += 1;
                let pending = judge(&port, &frame, export, target);
                self.pending.extend(pending);
            }
            assert!(asked > 0, "screened for nobody");
        }
        if step.what & 0x20 != 0 && !self.pending.is_empty() {
            let which = usize::from(step.what & 7) % self.pending.len();
            let pending = self.pending.swap_remove(which);
            self.finish(pending, step.what >> 3 & 3);
        }
    }

    fn finish(&mut self, pending: Pending, how: u8) {
        let result = match how {
            0 | 1 => Ok(()),
            2 => Err(DeviceFailure::Unreadable),
            _ => Err(DeviceFailure::Fault),
        };
        let expected = match (result, pending.sectors_read) {
            (Ok(()), sectors @ 1..) => DATA_OFFSET + sectors as usize * SECTOR_BYTES,
            _ => MIN_FRAME_BYTES,
        };
        let most = pending.request.response_bytes();
        let mut out = vec![0xA5; most];
        let target = self.exports.get_mut(pending.export).expect("never removed");
        let len = target.handle_done(pending.request, result, &mut out);
        assert_eq!(len, expected);
        let response = Frame::decode(&out[..len]).expect("a frame of ours");
        assert_eq!(response.header.address, target.address());
        assert_eq!(response.header.flags, Flags::RESPONSE);
        if pending.sectors_read > 0 && result.is_ok() {
            // The disk's data is the disk's.
            assert!(out[DATA_OFFSET..].iter().all(|&byte| byte == 0xA5));
        }
    }

    fn finish_all(&mut self) {
        for (how, pending) in std::mem::take(&mut self.pending).into_iter().enumerate() {
            self.finish(pending, (how % 4) as u8);
        }
    }
}

/// Hands one frame to one export and checks what comes of it.
fn judge(
    port: &PortFacts,
    frame: &Frame<'_>,
    export: usize,
    target: &mut Target,
) -> Option<Pending> {
    let source = frame.header.source;
    let masked = !target.mask().is_empty() && !target.mask().contains(&source);
    let held = !target.reservation().is_empty() && !target.reservation().contains(&source);
    let mut out = vec![0xA5; port.frame_bytes().max(frame.len())];
    let outcome = target.handle_frame(port, frame, &mut out);
    match outcome {
        Outcome::Ignore(_) => None,
        Outcome::Respond(len) => {
            assert!(!masked);
            look_at_response(port, frame, target, &out, len);
            None
        }
        Outcome::Disk(admitted) => {
            assert!(!masked && !held && !frame.header.address.is_wildcard());
            assert_eq!(frame.header.command, Command::Ata);
            Some(look_at_disk_request(port, export, target, admitted))
        }
    }
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
    assert_eq!(answered.tag, asked.tag);
    assert_eq!(answered.error != 0, answered.flags.contains(Flags::ERROR));
    if asked.address.is_wildcard() {
        assert!(matches!(answered.error, 0 | 2 | 4 | 6));
    }
    let _ = response.to_string();
}

fn look_at_disk_request(
    port: &PortFacts,
    export: usize,
    target: &Target,
    admitted: Admitted<'_>,
) -> Pending {
    let most = u32::from(port.sectors_per_frame());
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
        request: admitted.request,
        sectors_read,
    }
}
