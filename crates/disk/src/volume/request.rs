//! What a volume is asked, and what it answers.
#![forbid(unsafe_code)]

use std::fmt;

use crate::device::Errno;

/// Names a request between its sender and the volume; the volume only returns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u32);

/// One request. A read brings the buffer to fill, a write the data, a trim its ranges.
#[derive(Debug)]
pub struct DiskRequest<B> {
    /// Returned with the answer.
    pub id: RequestId,
    /// What is wanted.
    pub kind: RequestKind,
    /// At least as large as the request says.
    pub buffer: B,
}

/// What a request wants. The target has checked that all of it lies inside the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Read into the buffer.
    Read {
        /// First sector.
        lba: u64,
        /// How many; 0 does nothing.
        sectors: u32,
    },
    /// Write from the buffer.
    Write {
        /// First sector.
        lba: u64,
        /// How many; 0 does nothing.
        sectors: u32,
        /// May be acknowledged before it is on stable storage.
        early: bool,
    },
    /// Everything acknowledged before is to be on stable storage.
    Flush,
    /// The ranges in the buffer are no longer needed.
    Trim {
        /// 512-byte blocks of ranges in the buffer: 8 bytes each, little-endian, bits 47-0 the
        /// first LBA, bits 63-48 the number of sectors, 0 for an unused entry.
        blocks: u32,
        /// May be acknowledged before it is on stable storage.
        early: bool,
    },
}

/// The answer to a request: each gets exactly one.
#[derive(Debug)]
pub struct Done<B> {
    /// The request.
    pub id: RequestId,
    /// The buffer comes home, whatever the result.
    pub buffer: B,
    /// Whether it was done.
    pub result: Result<(), DiskError>,
}

/// What was being done when a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Bringing acknowledged data to stable storage.
    Flush,
    /// Discarding.
    Trim,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Flush => "flush",
            Self::Trim => "trim",
        })
    }
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// The device said so.
    #[error("{0}")]
    Device(Errno),
    /// The backing file ends before the request does: it was made smaller.
    #[error("the backing file ends here")]
    EndOfFile,
    /// The device went on accepting the operation without getting anywhere.
    #[error("no progress")]
    NoProgress,
    /// No device has such an address, or the buffer is smaller than the request.
    #[error("malformed request")]
    Malformed,
}

/// A request that failed: for the log. Its answer on the wire follows from the operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{operation} of {sectors} sectors at LBA {lba} failed: {cause}")]
pub struct DiskError {
    /// What was being done.
    pub operation: Operation,
    /// The first sector that was not reached.
    pub lba: u64,
    /// Sectors from there on that were not done; 0 when none in particular.
    pub sectors: u32,
    /// Why.
    pub cause: Cause,
}

impl DiskError {
    /// The cause as an error number of the operating system.
    pub fn errno(&self) -> Errno {
        match self.cause {
            Cause::Device(errno) => errno,
            Cause::EndOfFile | Cause::NoProgress => Errno::IO,
            Cause::Malformed => Errno::INVAL,
        }
    }
}
