//! AoE frames made and read by hand, from the specification (`AoEr11`), independent of the
//! project's own codec. Offsets count from the first byte of the destination MAC address.

/// The Ethernet type of AoE.
pub const ETHERTYPE: u16 = 0x88a2;
/// The destination of discovery.
pub const BROADCAST: [u8; 6] = [0xff; 6];
/// Shelf and slot that every target answers to.
pub const EVERY_TARGET: (u16, u8) = (0xffff, 0xff);
/// Bytes of the frame before the data of an ATA request or response.
pub const ATA_HEADER: usize = 36;
/// Query/Config sub-commands.
pub mod config {
    /// Read the config string.
    pub const READ: u8 = 0;
    /// Answer only if the string is the same.
    pub const TEST: u8 = 1;
    /// Answer only if the string is a prefix.
    pub const PREFIX: u8 = 2;
    /// Set it if it is empty.
    pub const SET: u8 = 3;
    /// Set it.
    pub const FORCE_SET: u8 = 4;
}
/// ATA command opcodes.
pub mod ata {
    /// READ SECTORS EXT.
    pub const READ: u8 = 0x24;
    /// WRITE SECTORS EXT.
    pub const WRITE: u8 = 0x34;
    /// WRITE SECTORS.
    pub const WRITE_28: u8 = 0x30;
    /// IDENTIFY DEVICE.
    pub const IDENTIFY: u8 = 0xec;
    /// FLUSH CACHE EXT.
    pub const FLUSH: u8 = 0xea;
    /// FLUSH CACHE.
    pub const FLUSH_28: u8 = 0xe7;
    /// DATA SET MANAGEMENT, which can only TRIM.
    pub const TRIM: u8 = 0x06;
    /// SET FEATURES.
    pub const SET_FEATURES: u8 = 0xef;
}

/// Who asks whom: what all frames of one conversation have in common.
#[derive(Clone, Copy, Debug)]
pub struct Addressing {
    /// The target's MAC address or [`BROADCAST`].
    pub to: [u8; 6],
    /// The sender's MAC address.
    pub from: [u8; 6],
    /// Shelf and slot.
    pub address: (u16, u8),
}

impl Addressing {
    /// The 24 bytes of Ethernet and common header of a request.
    pub fn header(&self, command: u8, tag: u32) -> Vec<u8> {
        let mut frame = Vec::with_capacity(60);
        frame.extend(self.to);
        frame.extend(self.from);
        frame.extend(ETHERTYPE.to_be_bytes());
        frame.extend([0x10, 0]);
        frame.extend(self.address.0.to_be_bytes());
        frame.extend([self.address.1, command]);
        frame.extend(tag.to_be_bytes());
        frame
    }

    /// A Query/Config request.
    pub fn config(&self, tag: u32, sub_command: u8, string: &[u8]) -> Vec<u8> {
        let mut frame = self.header(1, tag);
        frame.extend([0, 0, 0, 0, 0, sub_command]);
        frame.extend(
            u16::try_from(string.len())
                .unwrap_or(u16::MAX)
                .to_be_bytes(),
        );
        frame.extend(string);
        frame
    }

    /// An ATA request with 48-bit address. Data marks a write.
    pub fn ata(&self, tag: u32, opcode: u8, lba: u64, sectors: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = self.header(0, tag);
        let flags = if data.is_empty() { 0x40 } else { 0x41 };
        frame.extend([flags, 0, sectors, opcode]);
        frame.extend(lba.to_le_bytes().iter().take(6));
        frame.extend([0, 0]);
        frame.extend(data);
        frame
    }

    /// A write that may be acknowledged before it is stable: the A flag.
    pub fn early_write(&self, tag: u32, lba: u64, sectors: u8, data: &[u8]) -> Vec<u8> {
        let mut frame = self.ata(tag, ata::WRITE, lba, sectors, data);
        frame.splice(24..25, [0x43]);
        frame
    }

    /// SET FEATURES: the write cache on or off.
    pub fn write_cache(&self, tag: u32, on: bool) -> Vec<u8> {
        let mut frame = self.ata(tag, ata::SET_FEATURES, 0, 0, b"");
        frame.splice(25..26, [if on { 0x02 } else { 0x82 }]);
        frame
    }

    /// A TRIM of up to 64 ranges of first sector and number of sectors.
    pub fn trim(&self, tag: u32, ranges: &[(u64, u16)]) -> Vec<u8> {
        let mut block = Vec::with_capacity(512);
        for &(lba, sectors) in ranges {
            block.extend(lba.to_le_bytes().iter().take(6));
            block.extend(sectors.to_le_bytes());
        }
        block.resize(512, 0);
        let mut frame = self.ata(tag, ata::TRIM, 0, 1, &block);
        frame.splice(25..26, [1]);
        frame
    }
}

/// A response, cut into its fields. Fields beyond the end of the frame read as zero.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a>(pub &'a [u8]);

impl<'a> Response<'a> {
    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.byte(at), self.byte(at + 1)])
    }

    /// Version and flags: 0x18 for a response, 0x1c for a refusal.
    pub fn flags(&self) -> u8 {
        self.byte(14)
    }

    /// The AoE error, 0 for none.
    pub fn error(&self) -> u8 {
        self.byte(15)
    }

    /// The command: 0 for ATA, 1 for Query/Config.
    pub fn command(&self) -> u8 {
        self.byte(19)
    }

    /// The tag of the request.
    pub fn tag(&self) -> u32 {
        u32::from_be_bytes([self.byte(20), self.byte(21), self.byte(22), self.byte(23)])
    }

    /// ATA: whether the request was carried out.
    pub fn succeeded(&self) -> bool {
        let (error, status) = self.registers();
        // Busy, device fault, data request and error, as the Linux driver looks at them.
        self.flags() & 0x04 == 0 && error == 0 && status & 0xa9 == 0
    }

    /// Shelf and slot.
    pub fn address(&self) -> (u16, u8) {
        (self.word(16), self.byte(18))
    }

    /// Query/Config: how many requests the target holds.
    pub fn buffer_count(&self) -> u16 {
        self.word(24)
    }

    /// Query/Config: most sectors in one frame.
    pub fn sector_count(&self) -> u8 {
        self.byte(28)
    }

    /// Query/Config: the config string.
    pub fn config_string(&self) -> &'a [u8] {
        self.0
            .get(32..32 + usize::from(self.word(30)))
            .unwrap_or(&[])
    }

    /// ATA: error and status register.
    pub fn registers(&self) -> (u8, u8) {
        (self.byte(25), self.byte(27))
    }

    /// ATA: what follows the header.
    pub fn data(&self) -> &'a [u8] {
        self.0.get(ATA_HEADER..).unwrap_or(&[])
    }
}
