//! What happened, as a number for comparing and, when a run is replayed, as text.

use std::collections::VecDeque;
use std::time::Duration;

use aoede_wire::Frame;

use crate::middle::Side;

/// Lines that a replay tells, up to its failure.
const KEPT: usize = 1000;

#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    pub(crate) now: Duration,
    /// When it is to be read by people.
    kept: Option<VecDeque<String>>,
}

impl Trace {
    pub(crate) fn new(readable: bool) -> Self {
        Self {
            hash: 0xCBF2_9CE4_8422_2325,
            now: Duration::ZERO,
            kept: readable.then(VecDeque::new),
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn text(&self) -> String {
        let lines = self.kept.iter().flatten();
        lines.flat_map(|line| [line, "\n"]).collect()
    }

    pub(crate) fn event(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        for number in numbers {
            self.mix(*number);
        }
        self.keep(text);
    }

    pub(crate) fn frame(&mut self, side: Side, sent: bool, bytes: &[u8]) {
        self.mix(self.now.as_micros() as u64);
        for word in bytes[..36.min(bytes.len())].chunks(8) {
            let word = word.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            self.mix(word);
        }
        self.keep(|| {
            let frame =
                Frame::decode(bytes).map_or_else(|error| error.to_string(), |f| f.to_string());
            let verb = if sent { "sends" } else { "takes" };
            format!("{side:?} {verb} {frame}")
        });
    }

    /// FNV-1a, on whole numbers.
    fn mix(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01B3);
    }

    fn keep(&mut self, text: impl FnOnce() -> String) {
        if let Some(kept) = &mut self.kept {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(format!("  {:?} {}", self.now, text()));
        }
    }
}
