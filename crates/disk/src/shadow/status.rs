//! What a driver is told.
#![forbid(unsafe_code)]

use std::fmt;

use super::ShadowFile;
use crate::device::Errno;

/// Where an export stands between freeze and thaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowPhase {
    /// No freeze: the shadow is not used.
    Thawed,
    /// The image is being brought to stable storage; writes wait for that.
    Freezing,
    /// The image does not change.
    Frozen,
    /// The shadow is being brought to stable storage; writes wait for that.
    Thawing,
    /// The shadow is copied into the image, which changes.
    Merging,
    /// Copying has met an error. The shadow is still used, and goes on being; thawing again tries
    /// again.
    Stopped,
    /// Nothing of the shadow is needed: its files can be removed.
    Merged,
}

/// How much there is, and how it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowStatus {
    /// Where it stands.
    pub phase: ShadowPhase,
    /// Of the export: what the files of a freeze are made for.
    pub size_bytes: u64,
    /// What of the shadow is not in the image.
    pub dirty_bytes: u64,
    /// What the shadow's data takes, counted in blocks that were written.
    pub used_bytes: u64,
    /// What it may take at most.
    pub limit_bytes: Option<u64>,
    /// What went wrong since the last freeze or thaw was asked for.
    pub failure: Option<ShadowFailure>,
}

/// Something that happened, for a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowEvent {
    /// The image does not change from now on.
    Frozen,
    /// It does: there was an error.
    FreezeFailed(ShadowFailure),
    /// The first write since the freeze has been refused because the shadow is full.
    Full,
    /// The image may change again, and is brought up to date.
    Merging {
        /// Because the shadow was full, not because somebody asked for it.
        automatic: bool,
    },
    /// The image is still held: there was an error.
    ThawFailed(ShadowFailure),
    /// Nothing is lost, but the shadow is still needed.
    MergeStopped(ShadowFailure),
    /// Nothing of the shadow is needed: its files can be removed, then [`Shadow::retire`] called.
    ///
    /// [`Shadow::retire`]: super::Shadow::retire
    Merged,
}

/// What went wrong, and with which file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowFailure {
    /// The file.
    pub file: ShadowFile,
    /// The error.
    pub errno: Errno,
}

impl fmt::Display for ShadowFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = match self.file {
            ShadowFile::Image => "the image",
            ShadowFile::Data => "the shadow",
            ShadowFile::Map => "the shadow's map",
        };
        write!(f, "{file}: {}", self.errno)
    }
}

/// Why a freeze or thaw was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// Frozen, or about to be.
    #[error("it is frozen already")]
    Frozen,
    /// An earlier freeze is not over.
    #[error("the shadow of the last freeze is still being merged; try again when that is done")]
    Merging,
    /// There is nothing to thaw.
    #[error("it is not frozen")]
    NotFrozen,
    /// Of the list of changed blocks, which has two bits for each block.
    #[error(
        "the list of changed blocks needs {bytes} bytes of memory, and there are not so many; free \
         some, or raise the limit of the process's address space"
    )]
    NoMemory {
        /// That it needs.
        bytes: u64,
    },
}
