//! Which extensions a target agreed to (§7).

use aoede_wire::{Extension, ExtensionTable};

use crate::checksum::Checksum;
use crate::settings::Wanted;

/// The firmware version of the 2014 AoEde, whose extensions and FLUSH are not what they should be
/// (§13).
pub(crate) const OLD_FIRMWARE: u16 = 0x4015;

/// What is in force between one of our MACs and a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
#[expect(clippy::struct_excessive_bools, reason = "one for each extension")]
pub struct Features {
    /// Several reads in one frame.
    pub coalesced_read: bool,
    /// The target drops late copies of writes.
    pub tags: bool,
    /// CRC 8x4 behind data.
    pub crc8x4: bool,
    /// The target can be measured.
    pub congestion: bool,
}

impl Features {
    pub(crate) fn checksum(self) -> Checksum {
        if self.crc8x4 {
            Checksum::Crc8x4
        } else {
            Checksum::None
        }
    }
}

/// What to ask a target for, in order: `reset` first, and `congestion` last, where it has no
/// argument and so measures nothing (§7.2). Without anything that stays in force there is no
/// `reset`: it would end what another program with the same MAC has agreed on.
pub(crate) fn names(wanted: Wanted) -> impl Iterator<Item = Extension> + Clone {
    [
        (wanted.stays_in_force(), Extension::Reset),
        (wanted.coalesced_read, Extension::CoalescedRead),
        (wanted.tags, Extension::TagIncBe),
        (wanted.crc8x4, Extension::Crc8x4),
        (wanted.congestion, Extension::Congestion),
    ]
    .into_iter()
    .filter_map(|(wanted, extension)| wanted.then_some(extension))
}

/// The table that takes back all of it.
pub(crate) const RESET: &[u8] = b"reset\0\0";

/// The same as a table for a frame.
pub(crate) fn table(wanted: Wanted) -> Vec<u8> {
    let mut table = Vec::new();
    for extension in names(wanted) {
        table.extend_from_slice(extension.name().as_bytes());
        table.push(0);
    }
    table.push(0);
    table
}

/// What a target made of it: only what came back in upper case, where it was asked, counts
/// (§15, 8). `None` if this is no answer to the question.
pub(crate) fn accepted(wanted: Wanted, answer: &ExtensionTable<'_>) -> Option<Features> {
    let mut features = Features::default();
    let mut entries = answer.entries().ok()?;
    for extension in names(wanted) {
        let entry = entries.next()?.bytes;
        let name = extension.name().as_bytes();
        if !entry.eq_ignore_ascii_case(name) {
            return None;
        }
        let is_upper = !entry.iter().any(u8::is_ascii_lowercase);
        match extension {
            Extension::CoalescedRead => features.coalesced_read = is_upper,
            Extension::TagIncBe => features.tags = is_upper,
            Extension::Crc8x4 => features.crc8x4 = is_upper,
            Extension::Congestion => features.congestion = is_upper,
            // Never asked for, or without anything to remember.
            Extension::Reset
            | Extension::TagIncLe
            | Extension::TagRandom
            | Extension::CoalescedWriteReply
            | Extension::Crc32c => {}
        }
    }
    Some(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted {
        coalesced_read: true,
        tags: true,
        crc8x4: true,
        congestion: true,
    };

    #[test]
    fn rule_8_one_table_resets_and_then_names_what_is_wanted() {
        assert_eq!(
            table(ALL),
            b"reset\0coalesced_read\0tag_inc_be\0crc8x4\0congestion\0\0"
        );
        assert_eq!(names(Wanted::NOTHING).count(), 0);
        let congestion = Wanted {
            congestion: true,
            ..Wanted::NOTHING
        };
        assert_eq!(table(congestion), b"congestion\0\0");
    }

    #[test]
    fn rule_8_only_upper_case_names_are_believed() {
        let answer = |entries| {
            let table = ExtensionTable::new(entries).unwrap();
            accepted(ALL, &table)
        };
        assert_eq!(
            answer(b"RESET\0COALESCED_READ\0tag_inc_be\0Crc8x4\0congestion\0\0"),
            Some(Features {
                coalesced_read: true,
                ..Features::default()
            })
        );
        assert_eq!(
            answer(b"RESET\0coalesced_read\0TAG_INC_BE\0CRC8X4\0CONGESTION\0\0"),
            Some(Features {
                coalesced_read: false,
                tags: true,
                crc8x4: true,
                congestion: true,
            })
        );
        // Not what was asked.
        assert_eq!(answer(b"RESET\0COALESCED_READ\0\0"), None);
        assert_eq!(answer(b"RESET\0CRC8X4\0TAG_INC_BE\0X\0Y\0\0"), None);
    }
}
