//! A request that shows its parts, sound or not.

use crate::aoe::{BROADCAST, ETHERTYPE};

use super::{INITIATOR, TARGET};

/// ATA opcodes that read or write.
pub(super) const READ: u8 = 0x20;
pub(super) const READ_EXT: u8 = 0x24;
pub(super) const WRITE: u8 = 0x30;
pub(super) const WRITE_EXT: u8 = 0x34;
pub(super) const IDENTIFY: u8 = 0xEC;

/// AoE commands.
pub(super) const ATA: u8 = 0;
pub(super) const CONFIG: u8 = 1;
pub(super) const MASK: u8 = 2;
pub(super) const RESERVE: u8 = 3;
pub(super) const EXTENSION: u8 = 0x23;

/// A frame that shows its parts.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) to: [u8; 6],
    pub(super) from: [u8; 6],
    pub(super) version_flags: u8,
    pub(super) error: u8,
    pub(super) shelf: u16,
    pub(super) slot: u8,
    pub(super) command: u8,
    pub(super) tag: u32,
    pub(super) argument: Vec<u8>,
}

impl Ask {
    /// A request to e1.1, which the writer gives a tag of its own.
    pub(super) fn new(command: u8, argument: &[u8]) -> Self {
        Self {
            to: TARGET,
            from: INITIATOR,
            version_flags: 0x10,
            error: 0,
            shelf: 1,
            slot: 1,
            command,
            tag: 0,
            argument: argument.to_vec(),
        }
    }

    pub(super) fn ata(flags: u8, opcode: u8, lba: u64, count: u8) -> Self {
        let mut argument = vec![flags, 0, count, opcode];
        argument.extend(lba.to_le_bytes().iter().take(6));
        argument.extend([0, 0]);
        Self::new(ATA, &argument)
    }

    /// Sets one byte, counted from the start of the frame.
    pub(super) fn with_byte(mut self, offset: usize, value: u8) -> Self {
        if let Some(byte) = self.argument.get_mut(offset - 24) {
            *byte = value;
        }
        self
    }

    /// Data that is different in every request and every sector.
    pub(super) fn with_data(mut self, len: usize, seed: u8) -> Self {
        self.argument.extend(data(len, seed));
        self
    }

    pub(super) fn config(sub_command: u8, string: &[u8]) -> Self {
        let len = u16::try_from(string.len()).unwrap_or(u16::MAX);
        Self::config_of_len(sub_command, len, string)
    }

    pub(super) fn config_of_len(version_command: u8, len: u16, string: &[u8]) -> Self {
        let mut argument = vec![0, 0, 0, 0, 0, version_command];
        argument.extend(len.to_be_bytes());
        argument.extend(string);
        Self::new(CONFIG, &argument)
    }

    pub(super) fn mask(sub_command: u8, count: u8, directives: &[(u8, [u8; 6])]) -> Self {
        let mut argument = vec![0, sub_command, 0, count];
        for (code, mac) in directives {
            argument.extend([0, *code]);
            argument.extend(mac);
        }
        Self::new(MASK, &argument)
    }

    pub(super) fn reserve(sub_command: u8, count: u8, macs: &[[u8; 6]]) -> Self {
        let mut argument = vec![sub_command, count];
        argument.extend(macs.iter().flatten());
        Self::new(RESERVE, &argument)
    }

    pub(super) fn extension(length: [u8; 2], table: &[u8]) -> Self {
        let mut argument = length.to_vec();
        argument.extend(table);
        Self::new(EXTENSION, &argument)
    }

    pub(super) fn by_wildcard(self) -> Self {
        Self {
            to: BROADCAST,
            shelf: 0xFFFF,
            slot: 0xFF,
            ..self
        }
    }

    pub(super) fn from(self, from: [u8; 6]) -> Self {
        Self { from, ..self }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut frame = Vec::with_capacity(24 + self.argument.len());
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend(ETHERTYPE.to_be_bytes());
        frame.extend([self.version_flags, self.error]);
        frame.extend(self.shelf.to_be_bytes());
        frame.extend([self.slot, self.command]);
        frame.extend(self.tag.to_be_bytes());
        frame.extend(&self.argument);
        frame
    }

    /// Padded with zeros to `len`, or cut there.
    pub(super) fn bytes_of_len(&self, len: usize) -> Vec<u8> {
        let mut frame = self.bytes();
        frame.resize(len, 0);
        frame
    }
}

/// Bytes that are recognised: `seed`, number of the sector, and a ramp.
pub(super) fn data(len: usize, seed: u8) -> impl Iterator<Item = u8> {
    (0..len).map(move |at| {
        let [low, high, ..] = at.to_le_bytes();
        low ^ high.wrapping_mul(29) ^ seed
    })
}

/// One harmless request of each command, by name.
pub(super) fn one_of_each() -> [(&'static str, Ask); 10] {
    [
        ("identify", Ask::ata(0, IDENTIFY, 0, 1)),
        ("read", Ask::ata(0x40, READ_EXT, 8, 1)),
        ("check-power", Ask::ata(0, 0xE5, 0, 0)),
        ("flush", Ask::ata(0, 0xE7, 0, 0)),
        ("config-read", Ask::config(0, b"")),
        ("mask-read", Ask::mask(0, 0, &[])),
        ("reserve-read", Ask::reserve(0, 0, &[])),
        ("extension-reset", Ask::extension([7, 0], b"reset\0\0")),
        ("unknown", Ask::new(0x7F, &[1, 2, 3, 4])),
        ("vendor", Ask::new(0xF0, &[])),
    ]
}
