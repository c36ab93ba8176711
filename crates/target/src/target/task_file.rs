//! Command 0: from a task file to a disk request or a response (§3, §8, §9, §11).

use aoede_wire::{
    ATA_ARGUMENT_BYTES, Ata, CRC_BYTES, ErrorCode, Frame, HEADER_BYTES, Header, MIN_FRAME_BYTES,
    MacAddr, NoRoom, Opcode, SECTOR_BYTES,
};

use super::{Admitted, Outcome, Silence, Target};
use crate::ata::identify::Changing;
use crate::ata::{self, Action, Device, Verdict};
use crate::peers::{Features, Tracked};
use crate::reads::Reads;
use crate::request::{DATA_OFFSET, Ending, Request};
use crate::{Arrival, IgnoreReason, PortFacts};

impl Target {
    /// A frame with a task file, or with several.
    pub(super) fn handle_ata<'f>(
        &mut self,
        arrival: &Arrival,
        frame: &Frame<'f>,
        response: Header,
        ata: &Ata<'f>,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let opcode = ata.opcode();
        if frame.header.address.is_wildcard() && !ata::allowed_to_wildcard(opcode) {
            return Err(Silence(IgnoreReason::Wildcard));
        }
        let features = self.peers.features(frame.header.source);
        match opcode {
            Opcode::Read | Opcode::ReadExt if features.coalesced_read => {
                if let Some(reads) = Reads::find(response, ata) {
                    let further = reads.left().saturating_sub(1);
                    self.peers.count_further(frame.header.source, further);
                    return Ok(Outcome::Reads(reads));
                }
            }
            // First of all: a damaged frame is not what its sender meant.
            Opcode::Write | Opcode::WriteExt | Opcode::DataSetManagement => {
                self.check_data(features, frame.argument, ata.count)?;
            }
            _ => {}
        }
        self.handle_task_file(arrival, features, response, ata, out)
    }

    /// Compares the checksum behind the data of a write with what `argument` contains; it may be
    /// missing (§11).
    fn check_data(
        &mut self,
        features: Features,
        argument: &[u8],
        count: u8,
    ) -> Result<(), Silence> {
        let end = ATA_ARGUMENT_BYTES + usize::from(count) * SECTOR_BYTES;
        let Some(checksum) = features.checksum else {
            return Ok(());
        };
        if count == 0 {
            // Behind no data there is padding; behind a count that was damaged into 0 there is more.
            return if argument.len() > MIN_FRAME_BYTES - HEADER_BYTES {
                Err(Silence(IgnoreReason::Checksum))
            } else {
                Ok(())
            };
        }
        match (argument.get(..end), argument.get(end..end + CRC_BYTES)) {
            (Some(covered), Some(sum)) if checksum.with(self.crc32c, covered) != sum => {
                Err(Silence(IgnoreReason::Checksum))
            }
            (Some(_), None) => {
                self.stats.unchecked_writes += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// One task file of an initiator with these features.
    pub(super) fn handle_task_file<'f>(
        &mut self,
        arrival: &Arrival,
        features: Features,
        response: Header,
        ata: &Ata<'f>,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let initiator = response.destination;
        let request = Request::new(response, ata, features);
        let device = self.device(&arrival.port, initiator, features, out.len());
        let verdict = if ata.opcode() == Opcode::Identify || self.reservation.admits(initiator) {
            ata::judge(ata, &device)
        } else {
            Err(Ending::Refused(ErrorCode::Reserved))
        };
        let (request, ending) = match verdict {
            Ok(Verdict::Disk(action, data)) => {
                let request = match action {
                    Action::Read { .. } => request.with_data(ata.count),
                    Action::Write { .. } => request.merging(features.coalesced_write_reply),
                    Action::Flush | Action::Trim { .. } => request,
                };
                let tracked = match action {
                    Action::Write { .. } | Action::Trim { .. } => {
                        self.peers.judge(arrival.now, initiator, response.tag)
                    }
                    Action::Read { .. } | Action::Flush => Tracked::Execute(None),
                };
                let request = match tracked {
                    Tracked::Execute(tracking) => request.tracked(tracking),
                    Tracked::InProgress => return Err(Silence(IgnoreReason::TagInProgress)),
                    Tracked::Stale => return Err(Silence(IgnoreReason::TagStale)),
                    Tracked::Done => {
                        self.stats.duplicates += 1;
                        return self.respond(request, Ending::Done, out);
                    }
                };
                let request = request.begun(self.peers.begin(initiator, action));
                return Ok(Outcome::Disk(Admitted {
                    request,
                    action,
                    data,
                }));
            }
            Ok(Verdict::CacheOff) if self.write_cache_may_hold_data() => {
                // Off at once for new writes, so that the flush covers every early acknowledgement.
                self.cache_on = false;
                self.turning_cache_off = self.turning_cache_off.saturating_add(1);
                let request = request.begun(self.peers.begin(initiator, Action::Flush));
                return Ok(Outcome::Disk(Admitted {
                    request: request.turning_cache_off(),
                    action: Action::Flush,
                    data: &[],
                }));
            }
            Ok(Verdict::CacheOff) => (request, Ending::Done),
            Ok(Verdict::CacheOn) => {
                self.cache_on = true;
                (request, Ending::Done)
            }
            Ok(Verdict::Identify) => {
                let identity = self.identify.to_bytes(Changing {
                    sectors: self.sectors,
                    write_cache_on: self.write_cache_may_hold_data(),
                    trim: device.offered_trim(),
                    trim_blocks: device.trim_blocks(),
                });
                out.get_mut(DATA_OFFSET..DATA_OFFSET + identity.len())
                    .ok_or(NoRoom)?
                    .copy_from_slice(&identity);
                (request.with_data(1), Ending::Done)
            }
            Ok(Verdict::Nothing(ending)) | Err(ending) => (request, ending),
        };
        self.respond(request, ending, out)
    }

    fn respond<'f>(
        &self,
        request: Request,
        ending: Ending,
        out: &mut [u8],
    ) -> Result<Outcome<'f>, Silence> {
        let len = request.end(ending, out, self.crc32c).ok_or(NoRoom)?;
        Ok(Outcome::Respond(len))
    }

    /// The device as this initiator sees it, answered in a buffer of `room` bytes.
    fn device(
        &self,
        port: &PortFacts,
        initiator: MacAddr,
        features: Features,
        room: usize,
    ) -> Device {
        Device {
            sectors: self.sectors,
            max_sectors: port.sectors_with(features.checksum, room),
            read_only: self.read_only,
            write_cache: self.write_cache,
            trim: self.trim,
            may_read: self.access.read.includes(initiator),
            may_write: self.access.write.includes(initiator),
        }
    }

    /// Whether word 85 has to admit to a write cache: it does until the last flush for turning it
    /// off is through.
    fn write_cache_may_hold_data(&self) -> bool {
        self.cache_on || self.turning_cache_off > 0
    }
}
