//! Several reads in one frame (§8): each becomes a task file of its own.

use aoede_wire::{Ata, CoalescedReads, Header};

/// The reads of a coalesced frame that have not been looked at, the first included. Whatever is
/// left of them when buffers end goes unanswered, and the initiator repeats it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "reads are answered one by one, by `Target::next_read`"]
pub struct Reads<'f> {
    /// The first read's response; the others have tags of their own.
    response: Header,
    /// The first read, whose opcode and flags are those of all.
    registers: Ata<'f>,
    first_taken: bool,
    further: CoalescedReads<'f>,
}

impl<'f> Reads<'f> {
    /// `None` if the read is alone, as most are: then padding follows it.
    pub(crate) fn find(response: Header, ata: &Ata<'f>) -> Option<Self> {
        let further = CoalescedReads::decode(ata.data)?;
        (further.reads().len() > 0).then_some(Self {
            response,
            registers: *ata,
            first_taken: false,
            further,
        })
    }

    /// How many there are.
    pub fn left(&self) -> usize {
        usize::from(!self.first_taken) + self.further.reads().len()
    }

    /// The next read as if it had come alone: header of its response, and task file.
    pub(crate) fn take_first(&mut self) -> Option<(Header, Ata<'f>)> {
        if !self.first_taken {
            self.first_taken = true;
            return Some((self.response, self.registers));
        }
        let further = self.further.take_first()?;
        let [r0, r1, ..] = further.reserved;
        let response = Header {
            tag: further.tag,
            ..self.response
        };
        let registers = Ata {
            count: further.count,
            lba: further.lba,
            reserved: [r0, r1],
            ..self.registers
        };
        Some((response, registers))
    }
}
