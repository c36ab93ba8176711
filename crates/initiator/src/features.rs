//! Which extensions a target agreed to (§7, §18).

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
    /// Several write responses in one frame.
    pub coalesced_write_reply: bool,
    /// The target drops late copies of writes.
    pub tags: bool,
    /// CRC 8x4 behind data.
    pub crc8x4: bool,
    /// CRC-32C behind data.
    pub crc32c: bool,
    /// The target can be measured.
    pub congestion: bool,
}

impl Features {
    /// Whether the target has to remember something of it.
    pub(crate) fn stays_in_force(self) -> bool {
        Self {
            congestion: false,
            ..self
        } != Self::default()
    }

    pub(crate) fn checksum(self) -> Checksum {
        Checksum(match (self.crc8x4, self.crc32c) {
            (_, true) => Some(aoede_wire::Checksum::Crc32c),
            (true, false) => Some(aoede_wire::Checksum::Crc8x4),
            (false, false) => None,
        })
    }
}

/// What to ask a target for, in order: `reset` first, and `congestion` last, where it has no
/// argument and so measures nothing (§7.2). Of the checksums the last that is accepted is in force
/// (§18.2): the better one. Without anything that stays in force there is no `reset`: it would end
/// what another program with the same MAC has agreed on.
pub(crate) fn names(wanted: Wanted) -> impl Iterator<Item = Extension> + Clone {
    [
        (wanted.stays_in_force(), Extension::Reset),
        (wanted.coalesced_read, Extension::CoalescedRead),
        (wanted.coalesced_write_reply, Extension::CoalescedWriteReply),
        (wanted.tags, Extension::TagIncBe),
        (wanted.crc8x4, Extension::Crc8x4),
        (wanted.crc32c, Extension::Crc32c),
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
            Extension::CoalescedWriteReply => features.coalesced_write_reply = is_upper,
            Extension::TagIncBe => features.tags = is_upper,
            Extension::Crc8x4 => features.crc8x4 = is_upper,
            Extension::Crc32c => {
                features.crc32c = is_upper;
                features.crc8x4 &= !is_upper;
            }
            Extension::Congestion => features.congestion = is_upper,
            // Never asked for, or without anything to remember.
            Extension::Reset | Extension::TagIncLe | Extension::TagRandom => {}
        }
    }
    Some(features)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Wanted = Wanted {
        coalesced_read: true,
        coalesced_write_reply: true,
        tags: true,
        crc8x4: true,
        crc32c: true,
        congestion: true,
    };

    fn answer(entries: &[u8]) -> Option<Features> {
        accepted(ALL, &ExtensionTable::new(entries).unwrap())
    }

    #[test]
    fn rule_8_one_table_resets_and_then_names_what_is_wanted() {
        assert_eq!(
            table(ALL),
            b"reset\0coalesced_read\0coalesced_write_reply\0tag_inc_be\0crc8x4\0crc32c\0\
              congestion\0\0"
        );
        assert_eq!(names(Wanted::NOTHING).count(), 0);
        let congestion = Wanted {
            congestion: true,
            ..Wanted::NOTHING
        };
        assert_eq!(table(congestion), b"congestion\0\0");
        assert_eq!(
            table(Wanted::default()),
            b"reset\0coalesced_read\0coalesced_write_reply\0tag_inc_be\0congestion\0\0"
        );
    }

    #[test]
    fn rule_8_only_upper_case_names_are_believed() {
        assert_eq!(
            answer(
                b"RESET\0COALESCED_READ\0coalesced_write_reply\0tag_inc_be\0Crc8x4\0crc32C\0\
                  congestion\0\0"
            ),
            Some(Features {
                coalesced_read: true,
                ..Features::default()
            })
        );
        assert_eq!(
            answer(
                b"RESET\0coalesced_read\0COALESCED_WRITE_REPLY\0TAG_INC_BE\0CRC8X4\0crc32c\0\
                  CONGESTION\0\0"
            ),
            Some(Features {
                coalesced_read: false,
                coalesced_write_reply: true,
                tags: true,
                crc8x4: true,
                crc32c: false,
                congestion: true,
            })
        );
        // Not what was asked.
        assert_eq!(answer(b"RESET\0COALESCED_READ\0\0"), None);
        assert_eq!(
            answer(b"RESET\0COALESCED_READ\0TAG_INC_BE\0COALESCED_WRITE_REPLY\0X\0Y\0Z\0\0"),
            None
        );
    }

    /// §18.2: a frame has room for one, and the last that was named and accepted is in force.
    #[test]
    fn one_checksum_is_in_force() {
        for (crc8x4, crc32c, expected) in [
            ("crc8x4", "crc32c", None),
            ("CRC8X4", "crc32c", Some(aoede_wire::Checksum::Crc8x4)),
            ("crc8x4", "CRC32C", Some(aoede_wire::Checksum::Crc32c)),
            ("CRC8X4", "CRC32C", Some(aoede_wire::Checksum::Crc32c)),
        ] {
            let entries = format!(
                "RESET\0COALESCED_READ\0COALESCED_WRITE_REPLY\0TAG_INC_BE\0{crc8x4}\0{crc32c}\0\
                 CONGESTION\0\0"
            );
            let features = answer(entries.as_bytes()).unwrap();
            assert_eq!(features.checksum().0, expected);
            let in_force = u8::from(features.crc8x4) + u8::from(features.crc32c);
            assert_eq!(in_force, u8::from(expected.is_some()));
        }
    }
}
