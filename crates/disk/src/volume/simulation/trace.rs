//! What happened, as a number for comparing and, when a run is replayed, as text.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::RequestKind;
use super::memory::TestBuffer;
use crate::device::{DeviceOp, Errno, OpId, OpKind};

/// Events that a replay tells of, up to its failure.
const KEPT: usize = 200;

#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    /// When it is to be read by people.
    kept: Option<VecDeque<String>>,
}

impl Trace {
    pub(super) fn new(readable: bool) -> Self {
        Self {
            hash: 0xCBF2_9CE4_8422_2325,
            kept: readable.then(VecDeque::new),
        }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn text(&self) -> String {
        let kept = self.kept.iter().flatten();
        let lines = kept.flat_map(|line| ["  ", line, "\n"]);
        lines.collect()
    }

    /// Something rare, which shows in what follows.
    pub(super) fn event(&mut self, text: impl FnOnce() -> String) {
        self.note(&[1], text);
    }

    pub(super) fn request(&mut self, number: u32, kind: RequestKind, refused: bool) {
        self.note(&[2, number.into(), refused.into()], || {
            let end = if refused { " is refused" } else { "" };
            format!("#{number} {kind:?}{end}")
        });
    }

    pub(super) fn done(&mut self, number: u32, ok: bool) {
        self.note(&[3, number.into(), ok.into()], || {
            format!("#{number} {}", if ok { "done" } else { "failed" })
        });
    }

    pub(super) fn operation(&mut self, op: &DeviceOp<TestBuffer>) {
        let kind = match op.kind {
            OpKind::Read => 0,
            OpKind::Write { durable } => 1 + u64::from(durable),
            OpKind::Sync => 3,
            OpKind::Discard => 4,
        };
        self.note(
            &[4, op.id.0.into(), kind, op.offset_bytes, op.len_bytes],
            || {
                let (first, end) = (op.offset_bytes, op.offset_bytes + op.len_bytes);
                let (kind, id) = (op.kind, op.id.0);
                format!(
                    "    op {id} {kind:?} sectors {}..{}",
                    first / 512,
                    end / 512
                )
            },
        );
    }

    pub(super) fn completion(&mut self, now: Duration, id: OpId, result: Result<u32, Errno>) {
        let number = match result {
            Ok(len) => u64::from(len),
            Err(errno) => u64::MAX - u64::from(errno.0.unsigned_abs()),
        };
        self.note(&[5, nanos(now), id.0.into(), number], || {
            format!("    op {} at {now:?}: {result:?}", id.0)
        });
    }

    pub(super) fn timeout(&mut self, now: Duration) {
        self.note(&[6, nanos(now)], || format!("timeout at {now:?}"));
    }

    fn note(&mut self, numbers: &[u64], text: impl FnOnce() -> String) {
        for number in numbers {
            // FNV-1a, on whole numbers.
            self.hash = (self.hash ^ number).wrapping_mul(0x100_0000_01B3);
        }
        if let Some(kept) = &mut self.kept {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(text());
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap()
}
