//! The responses in a frame: one, or those to several writes (§18.1). Nothing is believed here.

use aoede_wire::{
    ATA_ARGUMENT_BYTES, Ata, AtaFlags, CoalescedWrite, CoalescedWrites, Command, ENTRY_BYTES,
    ErrorCode, Flags, Frame, HEADER_BYTES, Header, MIN_FRAME_BYTES, Status, Tag,
};

use crate::Features;

/// The answer to one request.
pub(super) struct Response<'f> {
    pub(super) command: Command,
    pub(super) tag: u32,
    pub(super) error: Option<ErrorCode>,
    /// The bytes behind the common header.
    pub(super) argument: &'f [u8],
    /// It came with others in one frame, which only responses to writes do.
    pub(super) shared: bool,
}

impl<'f> Response<'f> {
    fn of(frame: &Frame<'f>) -> Self {
        Self {
            command: frame.header.command,
            tag: frame.header.tag.big_endian(),
            error: error_of(&frame.header),
            argument: frame.argument,
            shared: false,
        }
    }

    /// One of several in a frame.
    pub(super) fn shared(tag: Tag, registers: &'f [u8; ATA_ARGUMENT_BYTES]) -> Self {
        Self {
            command: Command::Ata,
            tag: tag.big_endian(),
            error: None,
            argument: registers,
            shared: true,
        }
    }
}

/// All that a frame answers.
pub(super) enum Responses<'f> {
    /// One request, whatever follows its response.
    One(Response<'f>),
    /// Several writes.
    Writes {
        first: Response<'f>,
        further: CoalescedWrites<'f>,
    },
    /// Several, it says, but not all of them are there.
    Damaged,
}

impl<'f> Responses<'f> {
    /// What is in a frame from a sender with whom these extensions were agreed on.
    pub(super) fn of(frame: &Frame<'f>, features: Features) -> Self {
        let writes = features
            .coalesced_write_reply
            .then(|| writes(frame, features.checksum().is_some()))
            .flatten();
        writes.unwrap_or_else(|| Self::One(Response::of(frame)))
    }
}

/// `None` if the frame has one response. `exact`: it must be as long as §18.1 says. A WRITE that was
/// damaged into a READ comes back with its own flags, and with data that may begin like entries; no
/// number of them is as long.
fn writes<'f>(frame: &Frame<'f>, exact: bool) -> Option<Responses<'f>> {
    let header = &frame.header;
    if header.command != Command::Ata || header.flags.contains(Flags::ERROR) {
        return None;
    }
    let ata = Ata::decode(frame.argument).ok()?;
    // Flags come back as they were sent (§3.3): what a read has behind its registers is data.
    if !ata.flags.contains(AtaFlags::WRITE) {
        return None;
    }
    let further = CoalescedWrites::decode(ata.data)?;
    let announced = usize::from(further.announced());
    if announced == 0 {
        return None;
    }
    let len = HEADER_BYTES + ATA_ARGUMENT_BYTES + 1 + announced * ENTRY_BYTES;
    let is_exact = HEADER_BYTES + frame.argument.len() == len.max(MIN_FRAME_BYTES);
    if further.writes().len() < announced || exact && !is_exact {
        return Some(Responses::Damaged);
    }
    let first = Response::shared(header.tag, frame.argument.first_chunk()?);
    Some(Responses::Writes { first, further })
}

/// The task file of the ordinary response that an entry stands for.
pub(super) fn registers(write: &CoalescedWrite) -> [u8; ATA_ARGUMENT_BYTES] {
    let [l0, l1, l2, l3, l4, l5] = write.lba;
    let (AtaFlags(flags), Status(status)) = (AtaFlags::WRITE, write.status);
    [
        flags,
        write.error,
        write.count,
        status,
        l0,
        l1,
        l2,
        l3,
        l4,
        l5,
        0,
        0,
    ]
}

/// The AoE error of a response, if it has one.
pub(super) fn error_of(header: &Header) -> Option<ErrorCode> {
    let is_error = header.flags.contains(Flags::ERROR);
    is_error.then(|| ErrorCode::from(header.error))
}
