//! One request and what came of it, with names for the bytes.

use aoede_e2e::{
    aoe::BROADCAST,
    corpus::{Case, Scene, TARGET},
};
use aoede_wire::Frame;

use crate::side::Answer;

/// A request within its case.
pub(crate) struct Exchange<'a> {
    pub(crate) scene: &'a Scene,
    pub(crate) case: &'a Case,
    /// Which step of the case.
    pub(crate) step: usize,
    /// The 512 bytes by which the other target identifies itself.
    pub(crate) identity: &'a [u8],
}

impl Exchange<'_> {
    /// The frame that was sent.
    pub(crate) fn request(&self) -> &[u8] {
        self.request_of(self.step)
    }

    /// The frame of another step of this case.
    pub(crate) fn request_of(&self, step: usize) -> &[u8] {
        self.case.steps.get(step).map_or(&[], |step| &step.frame)
    }

    /// One byte of the request, 0 behind its end.
    pub(crate) fn byte(&self, offset: usize) -> u8 {
        self.request().get(offset).copied().unwrap_or(0)
    }

    pub(crate) fn destination(&self) -> &[u8] {
        self.request().get(..6).unwrap_or(&[])
    }

    pub(crate) fn source(&self) -> &[u8] {
        self.request().get(6..12).unwrap_or(&[])
    }

    pub(crate) fn version(&self) -> u8 {
        self.byte(14) >> 4
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.request().get(16..18) == Some(&[0xFF, 0xFF]) || self.byte(18) == 0xFF
    }

    pub(crate) fn command(&self) -> u8 {
        self.byte(19)
    }

    /// The ATA opcode, if it is an ATA request.
    pub(crate) fn opcode(&self) -> Option<u8> {
        (self.command() == 0 && self.request().len() >= 36).then(|| self.byte(27))
    }

    pub(crate) fn is_write(&self) -> bool {
        matches!(self.opcode(), Some(0x30 | 0x34))
    }

    /// Sectors that a read or write means.
    pub(crate) fn sectors(&self) -> std::ops::Range<u64> {
        let bytes = [28, 29, 30, 31, 32, 33].map(|offset| self.byte(offset));
        let lba = bytes
            .iter()
            .rev()
            .fold(0, |lba, &byte| lba << 8 | u64::from(byte));
        let lba = match self.opcode() {
            Some(0x20 | 0x30) => lba & 0x0FFF_FFFF,
            _ => lba,
        };
        lba..lba + u64::from(self.byte(26))
    }

    /// Length of the string that a Query/Config request announces.
    pub(crate) fn string_len(&self) -> usize {
        usize::from(u16::from_be_bytes([self.byte(30), self.byte(31)]))
    }

    /// The response that repeats the request: addresses swapped, these flags and this error.
    pub(crate) fn echo(&self, flags: u8, error: u8) -> Vec<u8> {
        let request = self.request();
        let mut frame = [self.source(), &TARGET].concat();
        frame.extend(request.iter().skip(12).take(2));
        frame.extend([0x10 | flags, error, 0, 1, 1]);
        frame.extend(request.iter().skip(19));
        frame
    }

    /// The ATA response without data that repeats the request but for these registers.
    pub(crate) fn ata(&self, error: u8, count: u8, status: u8) -> Vec<u8> {
        let mut frame = self.echo(0x08, 0);
        frame.resize(60, 0);
        frame.splice(25..28, [error, count, status]);
        frame.splice(36.., [0; 24]);
        frame
    }

    /// Whether the request is for the target's own MAC address or for everybody.
    pub(crate) fn is_for_the_target(&self) -> bool {
        self.destination() == TARGET || self.destination() == BROADCAST
    }
}

/// The answer with every frame changed by `edit`.
pub(crate) fn each(answer: &Answer, edit: impl Fn(&mut Vec<u8>)) -> Answer {
    match answer {
        Answer::Frames(frames) => {
            let mut frames = frames.clone();
            frames.iter_mut().for_each(edit);
            Answer::Frames(frames)
        }
        other => other.clone(),
    }
}

/// The answer that is no answer.
pub(crate) const SILENCE: Answer = Answer::Frames(Vec::new());

/// The answer of one frame.
pub(crate) fn one(frame: Vec<u8>) -> Answer {
    Answer::Frames(vec![frame])
}

/// An answer as a person can read it: a line for each frame, and its bytes where the line does not
/// show all.
pub(crate) fn describe(answer: &Answer) -> String {
    match answer {
        Answer::Frames(frames) if frames.is_empty() => "silence".into(),
        Answer::Frames(frames) => {
            let lines: Vec<String> = frames.iter().map(|frame| describe_frame(frame)).collect();
            lines.join("\n            ")
        }
        Answer::Died => "the process ended".into(),
        Answer::NotAsked => "not asked: the process had ended".into(),
    }
}

/// One frame, decoded and in bytes.
pub(crate) fn describe_frame(frame: &[u8]) -> String {
    const SHOWN: usize = 60;
    let text = match Frame::decode(frame) {
        Ok(frame) => frame.to_string(),
        Err(error) => error.to_string(),
    };
    let shown = hex(frame.iter().skip(14).take(SHOWN - 14));
    let more = if frame.len() > SHOWN { "…" } else { "" };
    format!(
        "{text}\n              {} bytes, from 14: {shown}{more}",
        frame.len()
    )
}

/// Where two answers part: frame, byte, and the next bytes of both.
pub(crate) fn first_difference(expected: &Answer, found: &Answer) -> String {
    const SHOWN: usize = 8;
    let (Answer::Frames(expected), Answer::Frames(found)) = (expected, found) else {
        return "one of the targets ended".into();
    };
    if expected.len() != found.len() {
        return format!("{} answers expected, {} came", expected.len(), found.len());
    }
    let mut frames = expected.iter().zip(found).enumerate();
    let Some((frame, (expected, found))) = frames.find(|(_, (one, other))| one != other) else {
        return "nothing".into();
    };
    let pairs = expected.iter().zip(found);
    let at = pairs.take_while(|(one, other)| one == other).count();
    let hex = |frame: &[u8]| hex(frame.iter().skip(at).take(SHOWN));
    let (expected, found) = (hex(expected), hex(found));
    format!("frame {frame} from byte {at}: {expected} expected, {found} came")
}

fn hex<'a>(bytes: impl Iterator<Item = &'a u8>) -> String {
    let digits: Vec<String> = bytes.map(|byte| format!("{byte:02x}")).collect();
    digits.concat()
}
