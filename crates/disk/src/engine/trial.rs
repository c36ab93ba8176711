//! Ways of I/O tried out when a file is opened: one read tells whether the kernel means it.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::IoSliceMut;

use rustix::fs::OFlags;
use rustix::io::{Errno, ReadWriteFlags};

use super::blocking::DONTCACHE;
use super::geometry::Alignment;
use super::open::IoMode;
use super::open_error::OpenWarning;
use super::pool::{Pool, PoolShape};

/// The blocks that direct I/O is done in: the least that will do.
const BLOCKS: [u32; 2] = [512, 4096];

/// A file, and the part of it that is to be served.
#[derive(Debug)]
pub(super) struct Trial<'a> {
    pub(super) file: &'a File,
    /// As the kernel says.
    pub(super) alignment: Alignment,
    pub(super) base_bytes: u64,
    pub(super) size_bytes: u64,
}

/// What the file is to be served with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) io: IoMode,
    /// What reads and writes have to be multiples of.
    pub(super) block_bytes: u32,
    /// Of their memory too.
    pub(super) alignment: Alignment,
}

/// The blocks to be tried. A kernel that does not tell may want more than a sector; and as a block
/// lies in a page at a multiple of its size, it is never smaller than what memory must be
/// aligned to.
fn blocks(needed: Alignment) -> impl Iterator<Item = u32> {
    let fits = move |block: &u32| block % needed.offset == 0 && block % needed.memory == 0;
    BLOCKS.into_iter().filter(fits)
}

impl Trial<'_> {
    /// Nothing needs to be tried.
    pub(super) fn buffered(&self) -> Way {
        Way {
            io: IoMode::Buffered,
            block_bytes: 512,
            alignment: self.alignment,
        }
    }

    /// Buffered, if it cannot be uncached.
    pub(super) fn uncached(&self, warnings: &mut Vec<OpenWarning>) -> Way {
        let uncached = Way {
            io: IoMode::Uncached,
            ..self.buffered()
        };
        match self.read(self.base_bytes, uncached, DONTCACHE) {
            Ok(()) => uncached,
            Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                warnings.push(OpenWarning::NoUncachedIo);
                self.buffered()
            }
            Err(errno) => {
                warnings.push(OpenWarning::FirstRead(errno.to_string()));
                uncached
            }
        }
    }

    /// Switches the file to direct I/O; if that does not work, it stays buffered.
    pub(super) fn direct(&self, warnings: &mut Vec<OpenWarning>) -> Way {
        let Ok(flags) = rustix::fs::fcntl_getfl(self.file) else {
            warnings.push(OpenWarning::NoDirectIo);
            return self.buffered();
        };
        if rustix::fs::fcntl_setfl(self.file, flags | OFlags::DIRECT).is_err() {
            warnings.push(OpenWarning::NoDirectIo);
            return self.buffered();
        }
        let mut obstacle = OpenWarning::CoarseDirectIo;
        for block_bytes in blocks(self.alignment) {
            match self.direct_in(block_bytes, warnings) {
                Ok(way) => return way,
                Err(found) => obstacle = found,
            }
        }
        warnings.push(obstacle);
        if rustix::fs::fcntl_setfl(self.file, flags).is_err() {
            let why = "direct I/O cannot be switched off".to_owned();
            warnings.push(OpenWarning::FirstRead(why));
        }
        self.buffered()
    }

    /// Whether direct I/O works in these blocks, or what is in its way.
    fn direct_in(
        &self,
        block_bytes: u32,
        warnings: &mut Vec<OpenWarning>,
    ) -> Result<Way, OpenWarning> {
        let block = u64::from(block_bytes);
        if self.base_bytes % block != 0 {
            return Err(OpenWarning::StartsInsideBlock { block_bytes });
        }
        if self.size_bytes % block != 0 {
            return Err(OpenWarning::EndsInsideBlock { block_bytes });
        }
        let alignment = if block_bytes > self.alignment.offset {
            // Found out and not told: then nothing is known of memory either.
            Alignment {
                memory: self.alignment.memory.max(block_bytes),
                offset: block_bytes,
            }
        } else {
            self.alignment
        };
        let way = Way {
            io: IoMode::Direct,
            block_bytes,
            alignment,
        };
        // The second block tells whether a block is enough: the first is aligned to anything.
        let second = if self.size_bytes > block { block } else { 0 };
        match self.read(self.base_bytes + second, way, ReadWriteFlags::empty()) {
            Ok(()) => Ok(way),
            Err(Errno::INVAL) => Err(OpenWarning::CoarseDirectIo),
            Err(Errno::OPNOTSUPP) => Err(OpenWarning::NoDirectIo),
            Err(errno) => {
                warnings.push(OpenWarning::FirstRead(errno.to_string()));
                Ok(way)
            }
        }
    }

    /// Reads a block.
    fn read(&self, offset: u64, way: Way, flags: ReadWriteFlags) -> Result<(), Errno> {
        let shape = PoolShape {
            count: 1,
            headroom_bytes: 0,
            data_bytes: way.block_bytes as usize,
            alignment: way.alignment.memory as usize,
        };
        let pool = Pool::new(shape).map_err(|_| Errno::NOMEM)?;
        let mut buffer = pool.take().ok_or(Errno::NOMEM)?;
        let mut piece = [IoSliceMut::new(buffer.data_mut())];
        rustix::io::preadv2(self.file, &mut piece, offset, flags).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Released when dropped, also by a failing test.
    struct LoopDevice(String);

    impl Drop for LoopDevice {
        fn drop(&mut self) {
            let _ = Command::new("losetup").args(["--detach", &self.0]).status();
        }
    }

    #[test]
    fn blocks_are_multiples_of_what_offset_and_memory_need() {
        for (memory, offset, expected) in [
            (512, 512, &[512, 4096][..]),
            (512, 4096, &[4096]),
            (4096, 512, &[4096]),
            (4096, 4096, &[4096]),
            (8192, 512, &[]),
        ] {
            let found: Vec<_> = blocks(Alignment { memory, offset }).collect();
            assert_eq!(found, expected, "{memory} {offset}");
        }
    }

    /// A kernel before 6.1 says nothing of a file's blocks.
    #[test]
    #[ignore = "needs root: run by cargo xtask test"]
    fn blocks_that_the_kernel_does_not_tell_of_are_found_out() {
        let image = tempfile::NamedTempFile::new().unwrap();
        image.as_file().set_len(1 << 20).unwrap();
        let mut command = Command::new("losetup");
        command.args(["--find", "--show", "--sector-size", "4096"]);
        let out = command.arg(image.path()).output().unwrap();
        assert!(out.status.success(), "{out:?}");
        let device = LoopDevice(String::from_utf8(out.stdout).unwrap().trim().to_owned());

        let needs = |offset| Alignment {
            memory: 512,
            offset,
        };
        for (told, base_bytes, io, found, warning) in [
            (512, 0, IoMode::Direct, needs(4096), None),
            (2048, 4096, IoMode::Direct, needs(4096), None),
            (
                512,
                512,
                IoMode::Buffered,
                needs(512),
                Some(OpenWarning::StartsInsideBlock { block_bytes: 4096 }),
            ),
            (
                8192,
                0,
                IoMode::Buffered,
                needs(8192),
                Some(OpenWarning::CoarseDirectIo),
            ),
        ] {
            let file = File::open(&device.0).unwrap();
            let trial = Trial {
                file: &file,
                alignment: needs(told),
                base_bytes,
                size_bytes: 65536,
            };
            let mut warnings = Vec::new();
            let way = trial.direct(&mut warnings);
            assert_eq!((way.io, way.alignment.offset), (io, found.offset));
            let direct = io == IoMode::Direct;
            assert_eq!(way.block_bytes, if direct { 4096 } else { 512 });
            // Of memory the kernel has said nothing either.
            assert_eq!(way.alignment.memory, if direct { 4096 } else { 512 });
            assert_eq!(warnings, Vec::from_iter(warning));
            let flags = rustix::fs::fcntl_getfl(&file).unwrap();
            assert_eq!(flags.contains(OFlags::DIRECT), direct);
        }
    }
}
