//! What an export has seen of an initiator, for those who look at it.

use core::time::Duration;

use aoede_wire::MacAddr;

use crate::ExtensionSet;

/// One initiator at one export, since it was first heard of. An export knows 1024 at most: the one
/// unheard of for longest is forgotten for another, with its counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiator {
    /// Who it is.
    pub mac: MacAddr,
    /// What it has switched on. A measurement of congestion is not something to be on.
    pub extensions: ExtensionSet,
    /// When its latest request came, as [`Arrival::now`](crate::Arrival::now) said.
    pub last_active: Duration,
    /// Its requests of any kind, each read of a coalesced frame for itself.
    pub requests: u64,
    /// Bytes of the reads that went to the disk,
    pub bytes_read: u64,
    /// and of the writes.
    pub bytes_written: u64,
    /// The most data in one of those.
    pub largest_payload_bytes: u64,
    /// Its requests that are with the disk.
    pub outstanding: u32,
    /// Writes and trims that it sent again. Known only where it has its tags followed.
    pub duplicates: Duplicates,
}

/// Writes and trims that came again, by what had become of the first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Duplicates {
    /// Carried out: answered once more.
    pub done: u64,
    /// Under way: left unanswered.
    pub in_progress: u64,
    /// Too long ago to be known: left unanswered.
    pub stale: u64,
}

impl Initiator {
    pub(crate) fn new(mac: MacAddr) -> Self {
        Self {
            mac,
            extensions: ExtensionSet::NONE,
            last_active: Duration::ZERO,
            requests: 0,
            bytes_read: 0,
            bytes_written: 0,
            largest_payload_bytes: 0,
            outstanding: 0,
            duplicates: Duplicates::default(),
        }
    }
}
