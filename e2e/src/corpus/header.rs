//! The common header: versions, flags, addresses, tags, command codes, lengths.

use crate::aoe::BROADCAST;

use super::{
    TARGET, Writer,
    ask::{Ask, EXTENSION, READ_EXT, one_of_each},
};

pub(super) fn versions_and_flags(writer: &mut Writer) {
    for (name, ask) in one_of_each() {
        for version_flags in 0..=u8::MAX {
            let (version, flags) = (version_flags >> 4, version_flags & 0x0F);
            // All versions plainly, all flags with version 1, and a few of both.
            if flags != 0 && version != 1 && version_flags % 37 != 0 {
                continue;
            }
            let ask = Ask {
                version_flags,
                ..ask.clone()
            };
            writer.ask(format!("version-flags/{name}/{version_flags:02x}"), ask);
        }
        for version_flags in [0x00, 0x20, 0xF0, 0x14, 0x18, 0x13] {
            let ask = Ask {
                version_flags,
                ..ask.clone().by_wildcard()
            };
            let name = format!("version-flags/{name}/wildcard-{version_flags:02x}");
            writer.ask(name, ask);
        }
        for error in [1, 2, 6, 7, 0xFF] {
            let ask = Ask {
                error,
                ..ask.clone()
            };
            writer.ask(format!("error-byte/{name}/{error}"), ask);
        }
    }
}

pub(super) fn addresses(writer: &mut Writer) {
    for (name, ask) in one_of_each() {
        for shelf in [0, 1, 2, 0x0100, 0xFFFE, 0xFFFF] {
            for slot in [0, 1, 2, 0xFE, 0xFF] {
                let ask = Ask {
                    shelf,
                    slot,
                    ..ask.clone()
                };
                writer.ask(format!("address/{name}/{shelf}.{slot}"), ask);
            }
        }
    }
}

pub(super) fn macs(writer: &mut Writer) {
    let addresses = [
        ("broadcast", BROADCAST),
        ("multicast", [1, 0, 0x5E, 0, 0, 1]),
        ("local-multicast", [3, 0, 0, 0, 0, 0x0A]),
        ("foreign", [2, 0, 0, 0, 0, 0x77]),
        ("zero", [0; 6]),
        ("target", TARGET),
    ];
    for (name, ask) in one_of_each() {
        for (mac_name, mac) in addresses {
            let to = Ask {
                to: mac,
                ..ask.clone()
            };
            writer.ask(format!("destination/{name}/{mac_name}"), to);
            let from = ask.clone().from(mac);
            writer.ask(format!("source/{name}/{mac_name}"), from);
        }
    }
}

pub(super) fn tags(writer: &mut Writer) {
    for ((name, ask), number) in one_of_each().into_iter().zip(0..) {
        // Not 0 for Config: announcements carry it.
        for tag in [0x7FFF_FF00, 0x8000_0000, 0xFFFF_FF00, 0x0000_0100] {
            let tag = tag + number;
            let ask = Ask { tag, ..ask.clone() };
            writer.ask(format!("tag/{name}/{tag:08x}"), ask);
        }
    }
    let tag = 0xFFFF_FFFF;
    let ask = Ask::ata(0x40, READ_EXT, 8, 1);
    writer.ask("tag/read/last".into(), Ask { tag, ..ask });
}

pub(super) fn commands(writer: &mut Writer) {
    for command in 4..=u8::MAX {
        if command == EXTENSION {
            continue;
        }
        let ask = Ask::new(command, &[1, 2, 3, 4]);
        writer.ask(format!("command/{command:02x}"), ask.clone());
        if command % 16 == 4 {
            let name = format!("command/{command:02x}/long");
            writer.ask_with_len(name, ask.clone(), 1514);
            writer.ask(format!("command/{command:02x}/wildcard"), ask.by_wildcard());
        }
    }
}

pub(super) fn lengths(writer: &mut Writer) {
    for (name, ask) in one_of_each() {
        for len in (14..=64).chain([100, 512, 548, 1056, 1060, 1514]) {
            writer.ask_with_len(format!("length/{name}/{len}"), ask.clone(), len);
        }
    }
    // Broadcast as all initiators and tools send them.
    for len in [32, 60, 1056] {
        let name = format!("length/discovery/{len}");
        writer.ask_with_len(name, Ask::config(0, b"").by_wildcard(), len);
    }
}
