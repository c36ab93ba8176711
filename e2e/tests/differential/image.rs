//! Which sectors of two images differ. Holes are skipped: an image may be far larger than what is
//! in it.

use std::{collections::BTreeSet, fs::File, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use rustix::{
    fs::{SeekFrom, seek},
    io::Errno,
};

const SECTOR: usize = 512;
/// Holes have borders at multiples of this, or of more.
const BLOCK: u64 = 4096;

/// The sectors in which two images of one size differ.
///
/// # Errors
/// An image cannot be read, or their sizes differ.
pub(crate) fn differences(one: &Path, other: &Path) -> Result<BTreeSet<u64>> {
    let open = |path: &Path| File::open(path).with_context(|| format!("no {}", path.display()));
    let (one, other) = (open(one)?, open(other)?);
    let len = one.metadata()?.len();
    ensure!(len == other.metadata()?.len(), "the images differ in size");
    let mut blocks = data_blocks(&one)?;
    blocks.extend(data_blocks(&other)?);
    let mut found = BTreeSet::new();
    for block in blocks {
        let start = block * BLOCK;
        let size = usize::try_from((len - start).min(BLOCK))?;
        let (mut here, mut there) = (vec![0; size], vec![0; size]);
        one.read_exact_at(&mut here, start)?;
        other.read_exact_at(&mut there, start)?;
        let sectors = here.chunks(SECTOR).zip(there.chunks(SECTOR));
        let first = start / SECTOR as u64;
        found.extend(
            (first..)
                .zip(sectors)
                .filter(|(_, (here, there))| here != there)
                .map(|(lba, _)| lba),
        );
    }
    Ok(found)
}

/// Numbers of the blocks that are no holes.
fn data_blocks(file: &File) -> Result<BTreeSet<u64>> {
    let mut blocks = BTreeSet::new();
    let mut at = 0;
    loop {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(blocks),
            Err(error) => return Err(error.into()),
        };
        at = seek(file, SeekFrom::Hole(start))?;
        blocks.extend(start / BLOCK..at.div_ceil(BLOCK));
    }
}
