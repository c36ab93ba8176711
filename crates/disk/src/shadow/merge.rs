//! Copying the shadow into the image, some runs of blocks at a time.
//!
//! A batch of runs is copied one after another, the image is synced, the map records the batch as
//! merged, and only then do its blocks belong to the image again. Writes to them wait so long.
#![forbid(unsafe_code)]

use super::blocks::{Bitmap, Blocks, Ranges};
use super::record::UNIT_RANGES;
use super::status::ShadowFailure;
use super::{BLOCK_BYTES, ShadowFile};
use crate::device::{Completion, DeviceOp, Errno, Memory, OpId, OpKind};
use crate::volume::MAX_RESUBMITS;

#[derive(Debug)]
pub(super) struct Merge<B> {
    memory: Memory<B>,
    /// What the memory holds.
    run_blocks: u64,
    batch: Ranges,
    /// All before it is merged.
    cursor: u64,
    pub(super) stage: Stage,
    with_device: bool,
    repeats: u8,
    /// A sync of the image has failed while the batch was on its way there.
    doubtful: Option<Errno>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Off,
    /// Writes to the batch that had begun are not finished.
    Waiting,
    Reading(Progress),
    Writing(Progress),
    /// The image is to be synced, or is being.
    Syncing,
    /// The map is to record the batch.
    Recording,
    /// The map is to record the end of it all.
    Ending,
}

/// How far a run is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    run: usize,
    done_bytes: u64,
}

/// What comes after a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    GoOn,
    /// The batch is in the image, on stable storage.
    Record,
    Stop(ShadowFailure),
}

impl<B: AsRef<[u8]>> Merge<B> {
    pub(super) fn new(memory: Memory<B>) -> Self {
        let bytes: usize = match &memory {
            Memory::None => 0,
            Memory::One(buffer) => buffer.as_ref().len(),
            Memory::Parts(parts) => parts.iter().map(|part| part.len_bytes as usize).sum(),
        };
        Self {
            memory,
            run_blocks: bytes as u64 / BLOCK_BYTES,
            batch: Ranges::new(UNIT_RANGES),
            cursor: 0,
            stage: Stage::Off,
            with_device: false,
            repeats: 0,
            doubtful: None,
        }
    }

    /// Whether all is merged; once.
    pub(super) fn take_end(&mut self) -> bool {
        let ended = self.stage == Stage::Ending;
        if ended {
            self.stage = Stage::Off;
        }
        ended
    }

    /// From the beginning of the disk.
    pub(super) fn start(&mut self) {
        self.cursor = 0;
        self.stage = Stage::Waiting;
    }

    /// Chooses the next batch; false when nothing is left.
    pub(super) fn choose(&mut self, dirty: &Bitmap, end: u64) -> bool {
        self.batch.clear();
        self.doubtful = None;
        while self.batch.len() < UNIT_RANGES {
            let rest = Blocks {
                first: self.cursor,
                end,
            };
            let Some(first) = dirty.find(rest, true) else {
                break;
            };
            let most = first.saturating_add(self.run_blocks.max(1)).min(end);
            let run = Blocks { first, end: most };
            let run = Blocks {
                first,
                end: dirty.find(run, false).unwrap_or(most),
            };
            self.batch.push(run);
            self.cursor = run.end;
        }
        self.stage = Stage::Waiting;
        !self.batch.is_empty()
    }

    pub(super) fn batch(&self) -> &Ranges {
        &self.batch
    }

    /// Whether a change of these blocks has to wait.
    pub(super) fn holds(&self, blocks: Blocks) -> bool {
        self.stage != Stage::Off && self.batch.overlaps(blocks)
    }

    /// Whether the image is being synced, or about to be.
    pub(super) fn is_syncing(&self) -> bool {
        self.stage == Stage::Syncing
    }

    /// Nobody else works on the batch.
    pub(super) fn copy(&mut self) {
        self.stage = Stage::Reading(Progress {
            run: 0,
            done_bytes: 0,
        });
    }

    /// Another sync of the image has failed, and its error may be about the batch: the kernel tells
    /// of a failure once.
    pub(super) fn doubt(&mut self, errno: Errno) {
        if matches!(
            self.stage,
            Stage::Reading(_) | Stage::Writing(_) | Stage::Syncing
        ) {
            self.doubtful = Some(errno);
        }
    }

    /// The batch is not merged; all of it is still in the shadow.
    pub(super) fn stop(&mut self) {
        self.stage = Stage::Off;
        self.batch.clear();
    }

    /// The next operation of a batch.
    pub(super) fn poll(
        &mut self,
        id: OpId,
        size_bytes: u64,
        may_sync: bool,
    ) -> Option<(ShadowFile, DeviceOp<B>)> {
        if self.with_device {
            return None;
        }
        let (file, kind, progress) = match self.stage {
            Stage::Reading(progress) => (ShadowFile::Data, OpKind::Read, Some(progress)),
            Stage::Writing(progress) => {
                let plain = OpKind::Write { durable: false };
                (ShadowFile::Image, plain, Some(progress))
            }
            Stage::Syncing if may_sync => (ShadowFile::Image, OpKind::Sync, None),
            _ => return None,
        };
        self.with_device = true;
        let Some(progress) = progress else {
            let sync = DeviceOp {
                id,
                kind,
                offset_bytes: 0,
                len_bytes: 0,
                memory: Memory::None,
                memory_start: 0,
            };
            return Some((file, sync));
        };
        let (start, end) = self.span(progress.run, size_bytes);
        let op = DeviceOp {
            id,
            kind,
            offset_bytes: start + progress.done_bytes,
            len_bytes: end - start - progress.done_bytes,
            memory: std::mem::replace(&mut self.memory, Memory::None),
            // Fits: a run fits the memory.
            memory_start: usize::try_from(progress.done_bytes).unwrap_or(usize::MAX),
        };
        Some((file, op))
    }

    /// The end of an operation of [`Self::poll`].
    pub(super) fn handle(&mut self, done: Completion<B>, size_bytes: u64) -> Next {
        self.with_device = false;
        let file = match self.stage {
            Stage::Reading(_) => ShadowFile::Data,
            _ => ShadowFile::Image,
        };
        if self.stage != Stage::Syncing {
            self.memory = done.memory;
        }
        let bytes = match done.result {
            Err(Errno::INTR | Errno::AGAIN) if self.repeats < MAX_RESUBMITS => {
                self.repeats += 1;
                return Next::GoOn;
            }
            Err(errno) => return Next::Stop(ShadowFailure { file, errno }),
            Ok(bytes) => u64::from(bytes),
        };
        self.repeats = 0;
        let (progress, reading) = match self.stage {
            Stage::Reading(progress) => (progress, true),
            Stage::Writing(progress) => (progress, false),
            _ => return self.synced(),
        };
        let Some(next) = self.moved(progress, bytes, size_bytes) else {
            // A transfer that gets nowhere will not get further.
            let errno = Errno::IO;
            return Next::Stop(ShadowFailure { file, errno });
        };
        self.stage = if next.run == progress.run {
            if reading {
                Stage::Reading(next)
            } else {
                Stage::Writing(next)
            }
        } else if reading {
            Stage::Writing(Progress {
                run: progress.run,
                done_bytes: 0,
            })
        } else if next.run < self.batch.len() {
            Stage::Reading(next)
        } else {
            Stage::Syncing
        };
        Next::GoOn
    }

    /// The batch is on stable storage, unless another has heard of its failure.
    fn synced(&mut self) -> Next {
        if let Some(errno) = self.doubtful {
            return Next::Stop(ShadowFailure {
                file: ShadowFile::Image,
                errno,
            });
        }
        self.stage = Stage::Recording;
        Next::Record
    }

    /// Where a transfer of so many bytes leads; `None` when it was nothing.
    fn moved(&self, progress: Progress, bytes: u64, size_bytes: u64) -> Option<Progress> {
        let (start, end) = self.span(progress.run, size_bytes);
        let done_bytes = progress.done_bytes + bytes;
        let next = if start + done_bytes >= end {
            Progress {
                run: progress.run + 1,
                done_bytes: 0,
            }
        } else {
            Progress {
                run: progress.run,
                done_bytes,
            }
        };
        (bytes > 0).then_some(next)
    }

    /// Where a run starts and ends, in bytes.
    fn span(&self, run: usize, size_bytes: u64) -> (u64, u64) {
        let empty = Blocks { first: 0, end: 0 };
        let run = self.batch.get(run).unwrap_or(empty);
        let end = run.end.saturating_mul(BLOCK_BYTES).min(size_bytes);
        (run.first * BLOCK_BYTES, end)
    }
}
