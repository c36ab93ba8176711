//! Counters: what an export did, and why frames got no response.

use core::fmt;

use crate::Action;

/// Why a frame is left unanswered. The order is the order of the checks (§2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IgnoreReason {
    /// Fewer than the 24 bytes of the common header.
    TooShort,
    /// Another EtherType than `0x88A2`.
    EtherType,
    /// The frame is itself a response.
    Response,
    /// The source MAC is multicast, zero or our own.
    Source,
    /// The destination MAC is neither ours nor broadcast.
    Destination,
    /// No export has this shelf and slot.
    Address,
    /// The export is not served on the interface that the frame came in by.
    Interface,
    /// The export is about to be taken away.
    Closing,
    /// As many requests are under way at the export as it may have.
    Busy,
    /// The export's MAC mask list does not name the source.
    Masked,
    /// Another version than 1, sent to a wildcard address.
    Version,
    /// A command nobody knows, sent to a wildcard address.
    UnknownCommand,
    /// The frame ends before its command's fixed argument does.
    CutShort,
    /// The command may not be sent to a wildcard address.
    Wildcard,
    /// A config string over 1024 bytes, or longer than its frame.
    ConfigString,
    /// The config string asked for is not ours.
    ConfigMismatch,
    /// An extension table that does not end where its length says.
    ExtensionTable,
    /// A new congestion measurement within two seconds of the one before.
    CongestionPause,
    /// More frames of a congestion measurement than the receive buffer had room for.
    CongestionFull,
    /// The checksum behind the data is wrong: the frame was damaged on its way.
    Checksum,
    /// A repetition of a write or TRIM that is being carried out.
    TagInProgress,
    /// A write or TRIM whose tag is older than all that are remembered.
    TagStale,
    /// The caller's buffer is shorter than the response: a mistake of ours, not of the sender.
    NoRoom,
}

impl IgnoreReason {
    /// Every reason, in order.
    pub const ALL: [Self; 23] = [
        Self::TooShort,
        Self::EtherType,
        Self::Response,
        Self::Source,
        Self::Destination,
        Self::Address,
        Self::Interface,
        Self::Closing,
        Self::Busy,
        Self::Masked,
        Self::Version,
        Self::UnknownCommand,
        Self::CutShort,
        Self::Wildcard,
        Self::ConfigString,
        Self::ConfigMismatch,
        Self::ExtensionTable,
        Self::CongestionPause,
        Self::CongestionFull,
        Self::Checksum,
        Self::TagInProgress,
        Self::TagStale,
        Self::NoRoom,
    ];

    /// The reason as a metrics label: lower case, words joined by `_`.
    pub fn name(self) -> &'static str {
        match self {
            Self::TooShort => "too_short",
            Self::EtherType => "ether_type",
            Self::Response => "response",
            Self::Source => "source",
            Self::Destination => "destination",
            Self::Address => "address",
            Self::Interface => "interface",
            Self::Closing => "closing",
            Self::Busy => "busy",
            Self::Masked => "masked",
            Self::Version => "version",
            Self::UnknownCommand => "unknown_command",
            Self::CutShort => "cut_short",
            Self::Wildcard => "wildcard",
            Self::ConfigString => "config_string",
            Self::ConfigMismatch => "config_mismatch",
            Self::ExtensionTable => "extension_table",
            Self::CongestionPause => "congestion_pause",
            Self::CongestionFull => "congestion_full",
            Self::Checksum => "checksum",
            Self::TagInProgress => "tag_in_progress",
            Self::TagStale => "tag_stale",
            Self::NoRoom => "no_room",
        }
    }
}

impl fmt::Display for IgnoreReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooShort => "shorter than the AoE header",
            Self::EtherType => "not the AoE EtherType",
            Self::Response => "a response, not a request",
            Self::Source => "source MAC is no single other station",
            Self::Destination => "for another station",
            Self::Address => "no export at this shelf and slot",
            Self::Interface => "the export is not served on this interface",
            Self::Closing => "the export is about to be taken away",
            Self::Busy => "as many requests under way as the export takes",
            Self::Masked => "source is not in the MAC mask list",
            Self::Version => "unsupported version to a wildcard address",
            Self::UnknownCommand => "unknown command to a wildcard address",
            Self::CutShort => "argument cut short",
            Self::Wildcard => "command not allowed to a wildcard address",
            Self::ConfigString => "config string too long",
            Self::ConfigMismatch => "config string does not match",
            Self::ExtensionTable => "extension table not closed where its length says",
            Self::CongestionPause => "congestion measurement too soon after another",
            Self::CongestionFull => "congestion measurement beyond the receive buffer",
            Self::Checksum => "wrong checksum behind the data",
            Self::TagInProgress => "repetition of a write in progress",
            Self::TagStale => "tag of a write older than all remembered",
            Self::NoRoom => "no room for the response",
        })
    }
}

impl core::error::Error for IgnoreReason {}

/// How many frames were ignored, by reason.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Ignored([u64; IgnoreReason::ALL.len()]);

impl Ignored {
    /// Frames ignored for this reason.
    pub fn get(&self, reason: IgnoreReason) -> u64 {
        self.0.get(reason as usize).copied().unwrap_or(0)
    }

    /// Every reason with its count, in the order of [`IgnoreReason::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (IgnoreReason, u64)> + '_ {
        IgnoreReason::ALL.into_iter().zip(self.0)
    }

    /// Frames ignored for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: IgnoreReason) {
        self.count_times(reason, 1);
    }

    pub(crate) fn count_times(&mut self, reason: IgnoreReason, times: u64) {
        if let Some(counter) = self.0.get_mut(reason as usize) {
            *counter += times;
        }
    }
}

/// What an export has done, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TargetStats {
    /// Reads given to the disk.
    pub reads: u64,
    /// Sectors of those.
    pub read_sectors: u64,
    /// Writes given to the disk.
    pub writes: u64,
    /// Sectors of those.
    pub written_sectors: u64,
    /// Flushes given to the disk, those for SET FEATURES included.
    pub flushes: u64,
    /// TRIMs given to the disk.
    pub trims: u64,
    /// Requests that the disk failed.
    pub device_failures: u64,
    /// Frames, and reads of a coalesced frame, answered without the disk: at once, refusals
    /// included, or after they were held.
    pub responses: u64,
    /// Of those, writes and TRIMs that were repeated after they had been carried out.
    pub duplicates: u64,
    /// Writes and TRIMs that came without the checksum that was negotiated, and were accepted.
    pub unchecked_writes: u64,
    /// Frames that brought several reads.
    pub coalesced_reads: u64,
    /// Frames left unanswered, by reason.
    pub ignored: Ignored,
}

impl TargetStats {
    pub(crate) fn count(&mut self, action: Action) {
        match action {
            Action::Read { sectors, .. } => {
                self.reads += 1;
                self.read_sectors += u64::from(sectors);
            }
            Action::Write { sectors, .. } => {
                self.writes += 1;
                self.written_sectors += u64::from(sectors);
            }
            Action::Flush => self.flushes += 1,
            Action::Trim { .. } => self.trims += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        for (i, reason) in IgnoreReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, i);
            let mut ignored = Ignored::default();
            ignored.count(reason);
            assert_eq!((ignored.get(reason), ignored.total()), (1, 1));
            let same_name = |other: &IgnoreReason| other.name() == reason.name();
            assert_eq!(IgnoreReason::ALL.iter().filter(|r| same_name(r)).count(), 1);
        }
    }
}
