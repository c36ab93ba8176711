//! ATA: every opcode, reads and writes at every edge.

use super::{
    DISPUTED, INITIATOR, Writer,
    ask::{Ask, IDENTIFY, READ, READ_EXT, WRITE, WRITE_EXT, one_of_each},
};

pub(super) fn opcodes(writer: &mut Writer) {
    for opcode in 0..=u8::MAX {
        if matches!(opcode, READ | READ_EXT | WRITE | WRITE_EXT) {
            continue;
        }
        for count in [0, 1] {
            let ask = Ask::ata(0, opcode, 8, count);
            writer.ask(format!("opcode/{opcode:02x}/{count}"), ask);
        }
    }
}

pub(super) fn reads(writer: &mut Writer) {
    let end = writer.scene.sectors;
    let lbas = [
        0,
        1,
        end - 2,
        end - 1,
        end,
        end + 1,
        (1 << 28) - 1,
        1 << 28,
        (1 << 28) + 8,
        1 << 32,
        (1 << 40) + 8,
        (1 << 47) + 8,
        (1 << 48) - 1,
    ];
    for (opcode, flags) in [
        (READ, 0x00),
        (READ, 0x40),
        (READ_EXT, 0x40),
        (READ_EXT, 0x00),
    ] {
        for lba in lbas {
            for count in [0, 1, 2, 3, 16, 128, 255] {
                let name = format!("read/{opcode:02x}-{flags:02x}/{lba}/{count}");
                writer.ask(name, Ask::ata(flags, opcode, lba, count));
            }
        }
    }
    for bits in [0x10, 0x40, 0xA0, 0xE0, 0xF0] {
        // Device bits above a 28-bit address.
        for lba in [8, end - 1, end] {
            let ask = Ask::ata(0, READ, lba | bits << 24, 1);
            writer.ask(format!("read/device-bits-{bits:02x}/{lba}"), ask);
        }
    }
    for extra in [1, 16, 17, 33, 512, 1024] {
        // What follows a read is padding, whatever it holds.
        let ask = Ask::ata(0x40, READ_EXT, 8, 2).with_data(extra, 1);
        writer.ask(format!("read/trailing/{extra}"), ask);
    }
}

pub(super) fn writes(writer: &mut Writer) {
    let end = writer.scene.sectors;
    // What both must carry out, and reading it back.
    for (opcode, read) in [(WRITE, READ), (WRITE_EXT, READ_EXT)] {
        for flags in [0x00, 0x01, 0x03, 0x40, 0x41, 0x43, 0x51, 0xFF] {
            for (lba, count) in [(64, 1), (65, 2), (end - 2, 2), (end - 1, 1), (0, 1)] {
                let seed = writer.seed();
                let write = Ask::ata(flags, opcode, lba, count);
                let write = write.with_data(usize::from(count) * 512, seed);
                let name = format!("write/{opcode:02x}-{flags:02x}/{lba}/{count}");
                writer.talk(name, [write, Ask::ata(0x40, read, lba, count)]);
            }
        }
    }
    // More data than asked for.
    for extra in [1, 4, 100, 400] {
        let seed = writer.seed();
        let write = Ask::ata(0x41, WRITE_EXT, 70, 2).with_data(1024 + extra, seed);
        let name = format!("write/extra-{extra}");
        writer.talk(name, [write, Ask::ata(0x40, READ_EXT, 70, 3)]);
    }
    // Less data than asked for, or a count that does not fit.
    for opcode in [WRITE, WRITE_EXT] {
        for count in [1, 2, 3, 4, 255] {
            for len in [0, 1, 23, 24, 511, 512, 513, 1023, 1024, 1478] {
                if len >= usize::from(count) * 512 && count < 3 {
                    continue;
                }
                let seed = writer.seed();
                let write = Ask::ata(0x41, opcode, DISPUTED + 512, count).with_data(len, seed);
                writer.ask(format!("write/short/{opcode:02x}/{count}/{len}"), write);
            }
        }
    }
    // Beyond the end, and nothing at all.
    for lba in [end - 1, end, end + 1, (1 << 28) - 1, 1 << 40, (1 << 48) - 1] {
        for count in [0, 1, 2] {
            if lba + u64::from(count) <= end && count > 0 {
                continue;
            }
            let seed = writer.seed();
            let write = Ask::ata(0x41, WRITE_EXT, lba, count);
            let write = write.with_data(usize::from(count) * 512, seed);
            writer.ask(format!("write/end/{lba}/{count}"), write);
        }
    }
    for bits in [0x10, 0xA0, 0xE0, 0xF0] {
        let seed = writer.seed();
        let write = Ask::ata(0x01, WRITE, 0x50 | bits << 24, 1).with_data(512, seed);
        let name = format!("write/device-bits-{bits:02x}");
        writer.talk(name, [write, Ask::ata(0, READ, 80, 1)]);
    }
}

pub(super) fn ata_bytes(writer: &mut Writer) {
    for flags in 0..=u8::MAX {
        let ask = Ask::ata(flags, READ_EXT, 8, 1);
        writer.ask(format!("aflags/read/{flags:02x}"), ask);
    }
    for flags in [0x01, 0x02, 0x10, 0x40, 0x41, 0xFF] {
        for (name, opcode, count) in [("identify", IDENTIFY, 1), ("flush", 0xE7, 0)] {
            let ask = Ask::ata(flags, opcode, 0, count);
            writer.ask(format!("aflags/{name}/{flags:02x}"), ask);
        }
    }
    for (offset, what) in [(25, "feature"), (34, "reserved"), (35, "reserved")] {
        for (name, ask) in [
            ("identify", Ask::ata(0, IDENTIFY, 0, 1)),
            ("read", Ask::ata(0x40, READ_EXT, 8, 1)),
            ("read-beyond", Ask::ata(0x40, READ_EXT, 1 << 30, 1)),
            ("read-many", Ask::ata(0x40, READ_EXT, 8, 3)),
            ("flush", Ask::ata(0, 0xE7, 0, 0)),
            ("unknown", Ask::ata(0, 0x99, 0, 0)),
        ] {
            let ask = ask.with_byte(offset, 0xC3);
            writer.ask(format!("ata-bytes/{what}-{offset}/{name}"), ask);
        }
    }
}

pub(super) fn other_ata_commands(writer: &mut Writer) {
    for (name, opcode) in [
        ("identify", IDENTIFY),
        ("check-power", 0xE5),
        ("flush", 0xE7),
        ("flush-ext", 0xEA),
    ] {
        for count in [0, 1, 2, 3, 128, 255] {
            for lba in [0, 8, writer.scene.sectors, (1 << 48) - 1] {
                let ask = Ask::ata(0, opcode, lba, count);
                writer.ask(format!("{name}/{lba}/{count}"), ask);
            }
        }
    }
    for feature in [0x02, 0x82, 0x03, 0x05, 0x55, 0xAA, 0x00, 0xFF] {
        let ask = Ask::ata(0, 0xEF, 0, 0).with_byte(25, feature);
        writer.ask(format!("set-features/{feature:02x}"), ask);
    }
    for feature in [0xD0, 0xD1, 0xD2, 0xD4, 0xD5, 0xD8, 0xD9, 0xDA, 0x00] {
        for (name, lba) in [("keyed", 0xA0C2_4F00), ("bare", 0)] {
            for count in [0, 1] {
                let ask = Ask::ata(0, 0xB0, lba, count).with_byte(25, feature);
                writer.ask(format!("smart/{feature:02x}/{name}/{count}"), ask);
            }
        }
    }
    for feature in [0, 1, 2] {
        for count in [0, 1, 2, 3] {
            let ask = Ask::ata(0x01, 0x06, 0, count).with_byte(25, feature);
            // Unused entries only: nothing to trim, whoever carries it out.
            let mut ask = ask;
            ask.argument
                .extend(std::iter::repeat_n(0, usize::from(count.min(2)) * 512));
            writer.ask(format!("trim/{feature}/{count}"), ask);
        }
    }
}

pub(super) fn wildcards(writer: &mut Writer) {
    let everywhere = [(0xFFFF, 0xFF), (0xFFFF, 1), (1, 0xFF)];
    for (shelf, slot) in everywhere {
        let at = format!("{shelf:04x}.{slot:02x}");
        let mut ask = |name: &str, ask: Ask| {
            let ask = Ask { shelf, slot, ..ask };
            writer.ask(format!("wildcard/{at}/{name}"), ask);
        };
        for opcode in [READ, READ_EXT, 0xE5, 0xE7, 0xEA, IDENTIFY, 0xEF, 0x99] {
            let count = u8::from(!matches!(opcode, 0xE5 | 0xE7 | 0xEA));
            ask(
                &format!("ata-{opcode:02x}"),
                Ask::ata(0x40, opcode, 8, count),
            );
        }
        for opcode in [WRITE, WRITE_EXT] {
            let write = Ask::ata(0x41, opcode, DISPUTED, 1).with_data(512, 0x77);
            ask(&format!("ata-{opcode:02x}"), write);
        }
        ask("config-test", Ask::config(1, b""));
        ask("config-prefix", Ask::config(2, b""));
        ask("config-prefix-other", Ask::config(2, b"other"));
        ask("config-unknown", Ask::config(7, b""));
        ask("mask-unknown", Ask::mask(7, 0, &[]));
        ask("reserve-unknown", Ask::reserve(7, 0, &[]));
        ask("mask-edit-nothing", Ask::mask(1, 0, &[]));
        // A request to everybody may set the string: discovery tools do so.
        let set = Ask {
            shelf,
            slot,
            ..Ask::config(4, b"everybody")
        };
        let steps = [set, Ask::config(0, b""), Ask::config(4, b"")];
        writer.talk(format!("wildcard/{at}/config-force-set"), steps);
        for (name, sub_command) in [("set", 1), ("force-set", 2)] {
            let reserve = Ask {
                shelf,
                slot,
                ..Ask::reserve(sub_command, 1, &[INITIATOR])
            };
            let steps = [reserve, Ask::reserve(0, 0, &[]), Ask::reserve(2, 0, &[])];
            writer.talk(format!("wildcard/{at}/reserve-{name}"), steps);
        }
    }
}

pub(super) fn large(writer: &mut Writer) {
    writer.ask("large/identify".into(), Ask::ata(0, IDENTIFY, 0, 1));
    let reach = 1 << 28;
    for lba in [
        reach - 2,
        reach - 1,
        reach,
        reach + 1,
        reach + 62,
        reach + 63,
        reach + 64,
    ] {
        for count in [1, 2] {
            for (opcode, flags) in [(READ, 0x00), (READ, 0x40), (READ_EXT, 0x40), (READ_EXT, 0)] {
                let name = format!("large-read/{opcode:02x}-{flags:02x}/{lba}/{count}");
                writer.ask(name, Ask::ata(flags, opcode, lba, count));
            }
        }
    }
    // A 28-bit address ends at 28 bits: sector 5 is meant, with or without the bits above.
    for (name, opcode, lba) in [
        ("last-28", WRITE, reach - 1),
        ("over-28", WRITE, reach + 5),
        ("last-ext", WRITE_EXT, reach - 1),
        ("over-ext", WRITE_EXT, reach + 6),
        ("end-ext", WRITE_EXT, reach + 63),
        ("beyond-ext", WRITE_EXT, reach + 64),
        ("across-28", WRITE, reach - 1),
    ] {
        let count = if name.starts_with("across") { 2 } else { 1 };
        let seed = writer.seed();
        let write = Ask::ata(0x41, opcode, lba, count).with_data(usize::from(count) * 512, seed);
        let steps = [
            write,
            Ask::ata(0x40, READ_EXT, lba, 1),
            Ask::ata(0x40, READ_EXT, lba % reach, 1),
        ];
        writer.talk(format!("large-write/{name}"), steps);
    }
}

pub(super) fn read_only(writer: &mut Writer) {
    for (opcode, read) in [(WRITE, READ), (WRITE_EXT, READ_EXT)] {
        for flags in [0x00, 0x01, 0x41, 0x43] {
            for (lba, count, len) in [
                (8, 0, 0),
                (8, 1, 512),
                (8, 2, 1024),
                (8, 3, 1024),
                (8, 1, 100),
                (4095, 2, 1024),
                (4096, 1, 512),
                (1 << 40, 1, 512),
            ] {
                let write = Ask::ata(flags, opcode, lba, count).with_data(len, 0x55);
                let name = format!("read-only/write-{opcode:02x}-{flags:02x}/{lba}/{count}/{len}");
                writer.talk(name, [write, Ask::ata(0x40, read, 8, 1)]);
            }
        }
    }
    for (name, ask) in one_of_each() {
        writer.ask(format!("read-only/{name}"), ask);
    }
    let mut trim = Ask::ata(0x01, 0x06, 0, 1).with_byte(25, 1);
    trim.argument.extend([8, 0, 0, 0, 0, 0, 1, 0]);
    trim.argument.extend([0; 504]);
    writer.ask("read-only/trim".into(), trim);
}
