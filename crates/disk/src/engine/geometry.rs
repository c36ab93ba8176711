//! What the kernel knows of the device below a file: its blocks, how they lie, what it can do.
#![forbid(unsafe_code)]

use std::fs::{File, Metadata};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::str::FromStr;

use rustix::fs::{AtFlags, FallocateFlags, StatxFlags};

/// What direct I/O needs to be a multiple of, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// The buffer's address.
    pub memory: u32,
    /// Offset and length in the file.
    pub offset: u32,
}

/// The largest physical block that is believed: more sectors than its are not to be counted in
/// IDENTIFY.
const MAX_PHYSICAL: u32 = 1 << 23;

/// The device's physical blocks: writing a part of one costs the device a reading of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysicalBlocks {
    /// Size of each: a power of two, 512 at least.
    pub bytes: u32,
    /// From the start of a physical block to the export's first byte, which lies in it.
    pub offset_bytes: u32,
}

impl PhysicalBlocks {
    /// Binary logarithm of the sectors in a block.
    pub fn exponent(self) -> u8 {
        u8::try_from(self.bytes.trailing_zeros().saturating_sub(9)).unwrap_or(0)
    }

    /// [`Self::offset_bytes`] in sectors, below 2^14.
    pub fn offset_sectors(self) -> u16 {
        u16::try_from(self.offset_bytes / 512).unwrap_or(0)
    }
}

/// What the kernel says of direct I/O on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DirectIo {
    /// It is to be had.
    Told,
    /// It is not: the kernel would take `O_DIRECT` and use the page cache all the same.
    Not,
    /// Nothing: the kernel is older than Linux 6.1, or the file system does not take part.
    Untold,
}

/// Whether there is direct I/O, and what it needs; where the kernel does not say, the device's
/// sector size.
pub(super) fn direct_io(file: &File, metadata: &Metadata) -> (DirectIo, Alignment) {
    let smallest = |bytes: u32| bytes.max(512);
    let told = rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let told = told
        .ok()
        .filter(|it| it.stx_mask & StatxFlags::DIOALIGN.bits() != 0);
    if let Some(told) = told.filter(|told| told.stx_dio_offset_align != 0) {
        let alignment = Alignment {
            memory: smallest(told.stx_dio_mem_align),
            offset: smallest(told.stx_dio_offset_align),
        };
        return (DirectIo::Told, alignment);
    }
    let direct_io = told.map_or(DirectIo::Untold, |_| DirectIo::Not);
    let sector = if metadata.file_type().is_block_device() {
        rustix::fs::ioctl_blksszget(file).unwrap_or(512)
    } else {
        512
    };
    let alignment = Alignment {
        memory: smallest(sector),
        offset: smallest(sector),
    };
    (direct_io, alignment)
}

/// Physical blocks as an export that starts at `base_bytes` sees them. Where the kernel says
/// nothing, or nothing that makes sense, they are as large as what direct I/O needs; where it says
/// that they cannot be met at all, they are sectors.
pub(super) fn physical(
    file: &File,
    metadata: &Metadata,
    alignment: Alignment,
    base_bytes: u64,
) -> PhysicalBlocks {
    let device = device(metadata);
    let told = if metadata.file_type().is_block_device() {
        rustix::fs::ioctl_blkpbszget(file).ok().map(u64::from)
    } else {
        // A file system of smaller blocks may put the file anywhere among larger ones.
        queue_attribute(device, "physical_block_size").map(|bytes| bytes.min(metadata.blksize()))
    };
    let first_bytes = attribute(device, &["alignment_offset"]);
    place(told, first_bytes.unwrap_or(0), base_bytes, alignment)
}

/// `first_bytes`: where on the device its first whole physical block starts; below 0 the kernel
/// knows of none.
fn place(
    told: Option<u64>,
    first_bytes: i64,
    base_bytes: u64,
    alignment: Alignment,
) -> PhysicalBlocks {
    let sensible = |bytes: &u32| bytes.is_power_of_two() && (512..=MAX_PHYSICAL).contains(bytes);
    let aligned = Some(alignment.offset).filter(sensible).unwrap_or(512);
    let told = told.and_then(|bytes| u32::try_from(bytes).ok());
    let bytes = told
        .filter(sensible)
        .map_or(aligned, |bytes| bytes.max(aligned));
    let offset_bytes = u64::try_from(first_bytes).map_or(1, |first_bytes| {
        let size = u64::from(bytes);
        (base_bytes % size + size - first_bytes % size) % size
    });
    match u32::try_from(offset_bytes) {
        Ok(offset_bytes) if offset_bytes % 512 == 0 => PhysicalBlocks {
            bytes,
            offset_bytes,
        },
        _ => PhysicalBlocks {
            bytes: 512,
            offset_bytes: 0,
        },
    }
}

/// Asks without an effect: a hole behind the end of a file, or the device's own word.
pub(super) fn can_discard(file: &File, metadata: &Metadata, bytes: u64) -> bool {
    if metadata.file_type().is_block_device() {
        // A hole in a device is made by writing zeros without data.
        return queue_attribute(device(metadata), "write_zeroes_max_bytes")
            .is_some_and(|max| max > 0);
    }
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let behind = bytes.next_multiple_of(1 << 20);
    rustix::fs::fallocate(file, hole, behind, 4096).is_ok()
}

/// What discards have to be multiples of: of a file the kernel zeroes parts of blocks, of a device
/// it refuses them.
pub(super) fn discard_bytes(file: &File, metadata: &Metadata) -> u32 {
    if metadata.file_type().is_block_device() {
        rustix::fs::ioctl_blksszget(file).map_or(4096, |bytes| bytes.max(512))
    } else {
        512
    }
}

/// Whether the device has seek times.
pub(super) fn rotational(metadata: &Metadata) -> Option<bool> {
    queue_attribute(device(metadata), "rotational").map(|value| value != 0)
}

/// Whether the device underneath takes writes with "force unit access", or needs none as it has no
/// volatile cache; false if the kernel does not say.
pub(super) fn fua(metadata: &Metadata) -> bool {
    queue_attribute(device(metadata), "fua") == Some(1)
}

/// The device itself, or the one that the file system is on.
fn device(metadata: &Metadata) -> u64 {
    if metadata.file_type().is_block_device() {
        metadata.rdev()
    } else {
        metadata.dev()
    }
}

/// A number that the kernel tells about a device's queue; a partition has its disk's.
fn queue_attribute(device: u64, name: &str) -> Option<u64> {
    let paths = [format!("queue/{name}"), format!("../queue/{name}")];
    attribute(device, &paths)
}

/// A number in the first of these files, in the device's folder of sysfs, that there is.
fn attribute<T: FromStr>(device: u64, paths: &[impl AsRef<str>]) -> Option<T> {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let folder = format!("/sys/dev/block/{major}:{minor}");
    let read = |path: &str| std::fs::read_to_string(format!("{folder}/{path}")).ok();
    let text = paths.iter().find_map(|path| read(path.as_ref()))?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_windows_place_in_its_physical_block() {
        let needs = |offset| Alignment {
            memory: 512,
            offset,
        };
        for (told, first, base, need, bytes, offset_bytes) in [
            (Some(4096), 0, 0, 512, 4096, 0),
            (Some(4096), 0, 512, 512, 4096, 512),
            (Some(4096), 0, 63 * 512, 512, 4096, 3584),
            (Some(4096), 0, 1 << 40, 512, 4096, 0),
            // A partition at sector 63: its first whole block starts 512 bytes later.
            (Some(4096), 512, 0, 512, 4096, 3584),
            (Some(4096), 512, 512, 512, 4096, 0),
            (Some(4096), 3584, 1024, 512, 4096, 1536),
            (Some(512), 0, 512, 512, 512, 0),
            // What direct I/O needs is known, what is below is not.
            (None, 0, 8192, 4096, 4096, 0),
            (Some(512), 0, 0, 4096, 4096, 0),
            // The kernel knows that nothing fits.
            (Some(4096), -1, 0, 512, 512, 0),
            (Some(4096), 100, 0, 512, 512, 0),
            // Nonsense.
            (Some(0), 0, 512, 512, 512, 0),
            (Some(520), 0, 512, 512, 512, 0),
            (Some(1 << 32), 0, 512, 512, 512, 0),
            (None, 0, 512, 1000, 512, 0),
        ] {
            let found = place(told, first, base, needs(need));
            let expected = PhysicalBlocks {
                bytes,
                offset_bytes,
            };
            assert_eq!(found, expected, "{told:?} {first} {base} {need}");
        }
    }

    #[test]
    fn blocks_are_counted_in_sectors() {
        for (bytes, offset_bytes, exponent, offset_sectors) in [
            (512, 0, 0, 0),
            (4096, 3584, 3, 7),
            (MAX_PHYSICAL, MAX_PHYSICAL - 512, 14, 0x3FFF),
        ] {
            let blocks = PhysicalBlocks {
                bytes,
                offset_bytes,
            };
            let found = (blocks.exponent(), blocks.offset_sectors());
            assert_eq!(found, (exponent, offset_sectors));
        }
    }
}
