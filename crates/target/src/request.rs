//! One admitted ATA frame, from its admission to its response.

use aoede_wire::{
    ATA_ARGUMENT_BYTES, Address, Ata, AtaFlags, Body, CRC_BYTES, Checksum, Crc32cAppend, ErrorCode,
    HEADER_BYTES, Header, MIN_FRAME_BYTES, MacAddr, SECTOR_BYTES, Status, Tag, ata_error,
};

use crate::peers::{Birth, Features, Tracking};
use crate::write_replies::MergeKey;

/// Where the data of an ATA frame begins.
pub const DATA_OFFSET: usize = HEADER_BYTES + ATA_ARGUMENT_BYTES;

/// What a response needs to know of its request. Made by
/// [`handle_frame`](crate::Target::handle_frame), used up by
/// [`handle_done`](crate::Target::handle_done): a request ends exactly once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "an admitted request must be ended with `handle_done`"]
pub struct Request {
    /// The response's header.
    header: Header,
    flags: AtaFlags,
    count: u8,
    lba: [u8; 6],
    reserved: [u8; 2],
    /// Sectors that a successful response carries.
    data_sectors: u8,
    /// What follows that data.
    checksum: Option<Checksum>,
    /// How its tag is followed.
    tracking: Option<Tracking>,
    /// Whose it is, for the count of those under way.
    begun: Option<Birth>,
    /// A write whose response may share a frame with others.
    merges: bool,
    /// A SET FEATURES that waits for its flush.
    turns_cache_off: bool,
}

/// How a request ends: one row of the table in §3.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Done; nothing remains.
    Done,
    /// CHECK POWER MODE: active or idle.
    Active,
    /// A frame that a correct initiator never sends, or one that a reservation forbids.
    Refused(ErrorCode),
    /// The registers say what failed: error and status.
    Failed(u8, Status),
}

impl Ending {
    pub(crate) const ABORTED: Self = Self::Failed(ata_error::ABRT, Status::FAILED);
    pub(crate) const NOT_FOUND: Self = Self::Failed(ata_error::IDNF, Status::FAILED);
    pub(crate) const UNREADABLE: Self = Self::Failed(ata_error::UNC, Status::FAILED);
    pub(crate) const FAULT: Self = Self::Failed(ata_error::ABRT, Status::FAULT);
}

impl Request {
    /// Of an initiator with these features.
    pub(crate) fn new(header: Header, ata: &Ata<'_>, features: Features) -> Self {
        Self {
            header,
            flags: ata.flags,
            count: ata.count,
            lba: ata.lba,
            reserved: ata.reserved,
            data_sectors: 0,
            checksum: features.checksum,
            tracking: None,
            begun: None,
            merges: false,
            turns_cache_off: false,
        }
    }

    /// The same request, to be answered with this much data.
    pub(crate) fn with_data(mut self, sectors: u8) -> Self {
        self.data_sectors = sectors;
        self
    }

    /// The same request as one whose tag is followed.
    pub(crate) fn tracked(mut self, tracking: Option<Tracking>) -> Self {
        self.tracking = tracking;
        self
    }

    /// The same request as one that is counted as under way.
    pub(crate) fn begun(mut self, begun: Option<Birth>) -> Self {
        self.begun = begun;
        self
    }

    pub(crate) fn birth(&self) -> Option<Birth> {
        self.begun
    }

    /// The same request as a write whose response may share a frame with others.
    pub(crate) fn merging(mut self, merges: bool) -> Self {
        self.merges = merges;
        self
    }

    /// The same request as one that turns the write cache off.
    pub(crate) fn turning_cache_off(mut self) -> Self {
        self.turns_cache_off = true;
        self
    }

    pub(crate) fn turns_cache_off(&self) -> bool {
        self.turns_cache_off
    }

    pub(crate) fn tracking(&self) -> Option<Tracking> {
        self.tracking
    }

    pub(crate) fn tag(&self) -> Tag {
        self.header.tag
    }

    /// The export that admitted it.
    pub fn address(&self) -> Address {
        self.header.address
    }

    /// Who sent it, and where the response goes.
    pub fn initiator(&self) -> MacAddr {
        self.header.destination
    }

    /// Whether a checksum over the data will follow it: then the data of a read must really be in
    /// the frame that is given to [`handle_done`](crate::Target::handle_done).
    pub fn checks_data(&self) -> bool {
        self.data_sectors > 0 && self.checksum.is_some()
    }

    /// Which other responses may share a frame with this one's, if there may be any; `export` and
    /// `seat` are the caller's numbers for export and port. See
    /// [`WriteReplies`](crate::WriteReplies).
    pub fn merge_key(&self, export: usize, seat: usize) -> Option<MergeKey> {
        self.merges.then_some(MergeKey {
            export,
            seat,
            initiator: self.initiator(),
        })
    }

    /// Bytes of a successful response: what the frame given to
    /// [`handle_done`](crate::Target::handle_done) must hold at least.
    pub fn response_bytes(&self) -> usize {
        match self.data_sectors {
            0 => MIN_FRAME_BYTES,
            _ if self.checksum.is_some() => self.data_end() + CRC_BYTES,
            _ => self.data_end(),
        }
    }

    fn data_end(&self) -> usize {
        DATA_OFFSET + usize::from(self.data_sectors) * SECTOR_BYTES
    }

    /// Writes the response around data that is already in its place and returns its length, or
    /// `None` if `frame` is too short for it.
    pub(crate) fn end(
        self,
        ending: Ending,
        frame: &mut [u8],
        crc32c: Crc32cAppend,
    ) -> Option<usize> {
        let (header, error, count, status) = match ending {
            Ending::Done => (self.header, 0, 0, Status::GOOD),
            Ending::Active => (self.header, 0, 0xFF, Status::GOOD),
            // An AoE error leaves the device registers alone but for the bit all initiators test.
            Ending::Refused(code) => {
                let status = Status(Status::ERR);
                (self.header.with_error(code), 0, self.count, status)
            }
            Ending::Failed(error, status) => (self.header, error, self.count, status),
        };
        let registers = Ata {
            flags: self.flags,
            feature_or_error: error,
            count,
            command_or_status: status.0,
            lba: self.lba,
            reserved: self.reserved,
            data: &[],
        };
        let mut head = [0; MIN_FRAME_BYTES];
        Body::Ata(registers).encode(header, &mut head).ok()?;
        // Data follows the registers only where the request was carried out; elsewhere zeros do,
        // never what the buffer held before (§13, 17).
        let has_data = ending == Ending::Done && self.data_sectors > 0;
        let (len, head) = if has_data {
            (self.response_bytes(), head.get(..DATA_OFFSET)?)
        } else {
            (MIN_FRAME_BYTES, head.as_slice())
        };
        let frame = frame.get_mut(..len)?;
        frame.get_mut(..head.len())?.copy_from_slice(head);
        if let (true, Some(checksum)) = (has_data, self.checksum) {
            let (covered, sum) = frame.split_at_mut_checked(self.data_end())?;
            let covered = covered.get(HEADER_BYTES..)?;
            sum.copy_from_slice(&checksum.with(crc32c, covered));
        }
        Some(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_small() {
        assert!(size_of::<Request>() <= 64);
    }
}
