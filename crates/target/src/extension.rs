//! What an extension table asks for (§7). Nothing happens here: a table goes in, a [`Wanted`] comes
//! out, and the names that are understood are told.

use aoede_wire::{Checksum, Entry, Extension, congestion_id};

use crate::ExtensionSet;
use crate::peers::TagOrder;

/// All that a table asks for. Its entries act in order, and nothing is seen before the last has
/// acted, so that it can be done at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// First of all, end everything.
    pub(crate) reset: bool,
    pub(crate) coalesced_read: bool,
    pub(crate) coalesced_write_reply: bool,
    pub(crate) checksum: Option<Checksum>,
    pub(crate) tags: Option<TagOrder>,
    /// Id of a measurement.
    pub(crate) congestion: Option<i64>,
}

impl Wanted {
    /// Whether there is anything to remember of the initiator.
    pub(crate) fn needs_state(&self) -> bool {
        let nothing = Self {
            reset: self.reset,
            ..Self::default()
        };
        *self != nothing
    }
}

/// Reads a table; `accept` is told every name that is understood. What is not `allowed` is not.
pub(crate) fn read<'a>(
    entries: impl Iterator<Item = Entry<'a>>,
    allowed: ExtensionSet,
    mut accept: impl FnMut(Entry<'a>),
) -> Wanted {
    let mut wanted = Wanted::default();
    let mut entries = entries.fuse();
    while let Some(entry) = entries.next() {
        let Some(extension) = Extension::from_name(entry.bytes) else {
            continue;
        };
        if extension != Extension::Reset && !allowed.contains(extension) {
            if extension == Extension::Congestion {
                // Its id is no name.
                entries.next();
            }
            continue;
        }
        accept(entry);
        match extension {
            Extension::Reset => {
                wanted = Wanted {
                    reset: true,
                    ..Wanted::default()
                }
            }
            Extension::CoalescedRead => wanted.coalesced_read = true,
            Extension::CoalescedWriteReply => wanted.coalesced_write_reply = true,
            Extension::TagIncLe => wanted.tags = Some(TagOrder::LittleEndian),
            Extension::TagIncBe => wanted.tags = Some(TagOrder::BigEndian),
            Extension::TagRandom => wanted.tags = Some(TagOrder::Random),
            Extension::Crc8x4 | Extension::Crc32c => {
                wanted.checksum = Checksum::of_extension(extension);
            }
            // At the end of a table it has no id, and nothing to do.
            Extension::Congestion => {
                let id = entries.next().map(|argument| congestion_id(argument.bytes));
                wanted.congestion = id.or(wanted.congestion);
            }
        }
    }
    wanted
}
