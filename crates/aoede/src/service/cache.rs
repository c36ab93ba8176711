//! What a person says about the cache, and the volume that comes of it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use aoede_disk::{
    Backing, Buffer, IoMode, LEAST_PAGES, PAGE_BYTES, Pool, SECTOR_BYTES, Volume, VolumeSettings,
};
use aoede_target::WriteCache;
use clap::ValueEnum;

use crate::size::Size;

/// Memory for reading ahead, and for completing blocks.
const READ_BYTES: u64 = 8 << 20;
/// The largest window of one reader in order.
const READ_AHEAD_BYTES: u32 = 1 << 20;

/// When a write is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CacheMode {
    /// When it is on stable storage.
    #[default]
    Writethrough,
    /// When it is in memory. A flush, time, and the amount of such data bring it to stable storage;
    /// a power cut or a kill may lose what no flush has covered.
    Writeback,
}

impl fmt::Display for CacheMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Writethrough => "writethrough",
            Self::Writeback => "writeback",
        })
    }
}

impl From<CacheMode> for WriteCache {
    fn from(mode: CacheMode) -> Self {
        match mode {
            CacheMode::Writethrough => Self::Through,
            CacheMode::Writeback => Self::Back,
        }
    }
}

/// For how long data may be acknowledged and not on stable storage: from, and to.
pub const DIRTY_AGES: RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(3600);

/// One export's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSettings {
    /// When writes are acknowledged.
    pub mode: CacheMode,
    /// Memory for the whole cache; a default by the mode if not given.
    pub size: Option<Size>,
    /// Most data that is acknowledged and not on stable storage.
    pub dirty: Size,
    /// And for how long.
    pub dirty_age: Duration,
}

impl Default for CacheSettings {
    fn default() -> Self {
        Self {
            mode: CacheMode::default(),
            size: None,
            dirty: Size(32 << 20),
            dirty_age: Duration::from_secs(1),
        }
    }
}

impl CacheSettings {
    /// Refuses what cannot work.
    ///
    /// # Errors
    /// A cache that is too small, for anything or for what it shall hold.
    pub fn check(&self) -> Result<(), CacheError> {
        let least = (LEAST_PAGES * PAGE_BYTES) as u64;
        let bytes = self.bytes();
        if bytes < least {
            return Err(CacheError::TooSmall {
                size: Size(bytes),
                least: Size(least),
            });
        }
        // A part of the cache always stays free of such data.
        let pages = bytes / PAGE_BYTES as u64;
        let free = (pages / 8).max(LEAST_PAGES as u64 / 4);
        let most = (pages - free) * PAGE_BYTES as u64;
        if self.mode == CacheMode::Writeback && self.dirty.0 > most {
            return Err(CacheError::DirtyTooLarge {
                dirty: self.dirty,
                size: Size(bytes),
                most: Size(most),
            });
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.size.map_or_else(
            || match self.mode {
                CacheMode::Writethrough => READ_BYTES,
                // A part of it must stay free of such data.
                CacheMode::Writeback => self
                    .dirty
                    .0
                    .saturating_add(READ_BYTES.max(self.dirty.0 / 4)),
            },
            |size| size.0,
        )
    }

    /// The volume over a backing, for so many requests at once, working in blocks of at least this
    /// size.
    pub(super) fn volume(
        &self,
        backing: &Backing,
        capacity: usize,
        least_block_bytes: u32,
    ) -> anyhow::Result<Volume<Buffer>> {
        let block_bytes = backing.block_bytes.max(least_block_bytes);
        // What lives in memory gains nothing from being there twice, unless it has to be read to
        // complete a block.
        let whole = block_bytes == backing.block_bytes;
        let bytes = if backing.in_memory && whole {
            0
        } else {
            self.bytes()
        };
        let pages = Pool::cache_pages(bytes)
            .with_context(|| format!("cannot get {} of memory for the cache", Size(bytes)))?;
        let settings = VolumeSettings {
            capacity,
            stability: backing.stability(),
            size_bytes: backing.sectors.saturating_mul(SECTOR_BYTES),
            block_bytes,
            discard_bytes: backing.discard_bytes.next_multiple_of(block_bytes),
            read_ahead_bytes: match backing.io {
                IoMode::Direct | IoMode::Uncached => READ_AHEAD_BYTES,
                // The kernel does it for its own cache.
                IoMode::Buffered => 0,
            },
            dirty_bytes: match self.mode {
                CacheMode::Writeback => self.dirty.0,
                // An initiator may permit it for single writes.
                CacheMode::Writethrough => self.dirty.0.min(bytes / 2),
            },
            dirty_age: self.dirty_age,
        };
        Ok(Volume::new(settings, pages))
    }
}

/// Why a cache cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheError {
    /// Too small for anything.
    TooSmall {
        /// As given.
        size: Size,
        /// What it needs.
        least: Size,
    },
    /// What is acknowledged and not on stable storage does not fit.
    DirtyTooLarge {
        /// Most of that, as given.
        dirty: Size,
        /// Of the whole cache.
        size: Size,
        /// What it has room for.
        most: Size,
    },
}

impl fmt::Display for CacheError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { size, least } => write!(
                f,
                "a cache of {size} is too small; give --cache-size at least {least}"
            ),
            Self::DirtyTooLarge { dirty, size, most } => write!(
                f,
                "--dirty-size {dirty} does not fit a cache of {size}; make it at most {most}, or \
                 --cache-size larger"
            ),
        }
    }
}

impl std::error::Error for CacheError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_data_leaves_a_part_of_the_cache_free() {
        let fits = |cache: Option<u64>, dirty| {
            let settings = CacheSettings {
                mode: CacheMode::Writeback,
                size: cache.map(Size),
                dirty: Size(dirty),
                ..CacheSettings::default()
            };
            settings.check().is_ok()
        };
        // An eighth, but never less than 16 pages of 4096 bytes.
        for (cache, most) in [(64 << 10 << 4, 896 << 10), (256 << 10, 192 << 10)] {
            assert!(fits(Some(cache), most), "{cache}");
            assert!(!fits(Some(cache), most + 1), "{cache}");
        }
        assert!(fits(None, 32 << 20));
        assert!(!fits(None, u64::MAX));
    }
}
