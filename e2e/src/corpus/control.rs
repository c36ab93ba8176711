//! Config string, reservation, MAC mask list, extensions: conversations with a state.

use crate::aoe::BROADCAST;

use super::{
    FENCE, INITIATOR, OTHER, TARGET, Writer,
    ask::{Ask, IDENTIFY, READ_EXT, WRITE_EXT, one_of_each},
};

pub(super) fn config_strings(writer: &mut Writer) {
    let long = [b'x'; 64];
    let longest = vec![b'y'; 1024];
    let strings: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("one", b"a"),
        ("two", b"ab"),
        ("long", &long),
        ("longest", &longest),
    ];
    for (state, string) in strings {
        let half = string.get(..string.len() / 2).unwrap_or(b"");
        let more = [string, b"c"].concat();
        let changed: Vec<u8> = string.iter().map(|byte| byte ^ 0x20).collect();
        let closed = [string, b"\0"].concat();
        let arguments: [(&str, &[u8]); 7] = [
            ("empty", b""),
            ("same", string),
            ("half", half),
            ("more", &more),
            ("changed", &changed),
            ("closed", &closed),
            ("binary", b"\0\xFF\x01"),
        ];
        for sub_command in 0..16 {
            for (relation, argument) in arguments {
                if sub_command > 5 && relation != "same" {
                    continue;
                }
                let name = format!("config/{state}/{sub_command}/{relation}");
                writer.talk(
                    name,
                    [
                        Ask::config(4, string),
                        Ask::config(sub_command, argument),
                        Ask::config(0, b""),
                        Ask::config(4, b""),
                    ],
                );
            }
        }
    }
    // The high nibble of a request's sub-command byte is not looked at, nor are the numbers.
    for byte in [0x10, 0x11, 0x14, 0x20, 0xF0, 0xF4] {
        let steps = [Ask::config_of_len(byte, 1, b"a"), Ask::config(4, b"")];
        writer.talk(format!("config/high-nibble/{byte:02x}"), steps);
    }
    for offset in 24..29 {
        let ask = Ask::config(0, b"").with_byte(offset, 0xEE);
        writer.ask(format!("config/number-{offset}"), ask);
    }
}

pub(super) fn config_lengths(writer: &mut Writer) {
    for sub_command in 0..6 {
        for (sent, announced) in [
            (0, 1),
            (1, 0),
            (2, 1),
            (4, 5),
            (4, 28),
            (28, 29),
            (28, 36),
            (28, 60),
            (100, 101),
            (100, 133),
            (1024, 1025),
            (1100, 1025),
            (1100, 1024),
            (0, 1024),
            (0, 0xFFFF),
            (1482, 1482),
            (1482, 0x8000),
        ] {
            let string = vec![0xED; sent];
            let ask = Ask::config_of_len(sub_command, announced, &string);
            let name = format!("config-length/{sub_command}/{announced}-of-{sent}");
            writer.talk(name, [ask, Ask::config(0, b""), Ask::config(4, b"")]);
        }
    }
}

pub(super) fn reservations(writer: &mut Writer) {
    let third = [2, 0, 0, 0, 0, 0x0D];
    let states: [(&str, &[[u8; 6]]); 6] = [
        ("free", &[]),
        ("held", &[INITIATOR]),
        ("held-by-other", &[OTHER]),
        ("shared", &[OTHER, INITIATOR]),
        ("held-by-target", &[TARGET]),
        ("twice", &[INITIATOR, INITIATOR]),
    ];
    let lists: [(&str, &[[u8; 6]]); 5] = [
        ("nobody", &[]),
        ("self", &[INITIATOR]),
        ("third", &[third]),
        ("both", &[INITIATOR, third]),
        ("odd", &[BROADCAST, [0; 6], [1, 0, 0x5E, 0, 0, 1]]),
    ];
    for (state, holders) in states {
        let count = u8::try_from(holders.len()).unwrap_or(u8::MAX);
        let hold = Ask::reserve(2, count, holders);
        let free = Ask::reserve(2, 0, &[]);
        let read = Ask::reserve(0, 0, &[]);
        for sub_command in [0, 1, 2, 3, 0xFF] {
            for (name, list) in lists {
                let announced = u8::try_from(list.len()).unwrap_or(u8::MAX);
                let ask = Ask::reserve(sub_command, announced, list);
                let name = format!("reserve/{state}/{sub_command}/{name}");
                writer.talk(name, [hold.clone(), ask, read.clone(), free.clone()]);
            }
            // More announced than sent, with and without padding behind.
            for (announced, sent, padding) in
                [(1, 0, 0), (2, 1, 0), (9, 1, 0), (2, 1, 28), (255, 3, 0)]
            {
                let macs = vec![INITIATOR; sent];
                let mut ask = Ask::reserve(sub_command, announced, &macs);
                ask.argument.extend(std::iter::repeat_n(0, padding));
                let name = format!("reserve/{state}/{sub_command}/{announced}-of-{sent}+{padding}");
                writer.talk(name, [hold.clone(), ask, read.clone(), free.clone()]);
            }
        }
        for (name, ask) in one_of_each() {
            writer.talk(
                format!("reserved/{state}/{name}"),
                [hold.clone(), ask, free.clone()],
            );
        }
        for (name, ask) in [
            (
                "write",
                Ask::ata(0x41, WRITE_EXT, 90, 1).with_data(512, 0x33),
            ),
            ("read-beyond", Ask::ata(0x40, READ_EXT, 1 << 30, 1)),
            ("read-many", Ask::ata(0x40, READ_EXT, 8, 3)),
            ("read-nothing", Ask::ata(0x40, READ_EXT, 8, 0)),
            ("identify-none", Ask::ata(0, IDENTIFY, 0, 0)),
            ("unknown-opcode", Ask::ata(0, 0x99, 0, 0)),
            (
                "read-version-2",
                Ask {
                    version_flags: 0x20,
                    ..Ask::ata(0x40, READ_EXT, 8, 1)
                },
            ),
            (
                "identify-wildcard",
                Ask::ata(0, IDENTIFY, 0, 1).by_wildcard(),
            ),
        ] {
            writer.talk(
                format!("reserved/{state}/{name}"),
                [hold.clone(), ask, free.clone()],
            );
        }
    }
    for count in [40, 100, 247, 248] {
        let many: Vec<[u8; 6]> = (0..count).map(|n| [2, 0, 0, 0, 1, n]).collect();
        let steps = [
            Ask::reserve(2, count, &many),
            Ask::reserve(0, 0, &[]),
            Ask::ata(0x40, READ_EXT, 8, 1),
            Ask::reserve(1, 0, &[]).from([2, 0, 0, 0, 1, 3]),
        ];
        writer.talk(format!("reserve/many/{count}"), steps);
    }
}

pub(super) fn extensions(writer: &mut Writer) {
    let tables: [(&str, &[u8]); 12] = [
        ("empty", b"\0\0"),
        ("reset", b"reset\0\0"),
        ("unknown", b"foo\0\0"),
        ("upper-case", b"RESET\0\0"),
        ("coalesced", b"reset\0coalesced_read\0\0"),
        ("tags", b"tag_inc_le\0tag_inc_be\0tag_random\0\0"),
        ("crc", b"crc8x4\0\0"),
        ("congestion-bare", b"congestion\0\0"),
        ("after-the-end", b"\0\0reset\0\0"),
        ("open", b"reset\0"),
        ("not-closed", b"reset"),
        ("one", b"\0"),
    ];
    for (name, table) in tables {
        let [low, high, ..] = table.len().to_le_bytes();
        let [longer, ..] = (table.len() + 1).to_le_bytes();
        for (order, length) in [
            ("le", [low, high]),
            ("be", [high, low]),
            ("longer", [longer, high]),
            ("zero", [0, 0]),
            ("far", [0xFF, 0xFF]),
        ] {
            // Switched off again, in case it was taken.
            let steps = [
                Ask::extension(length, table),
                Ask::extension([7, 0], b"reset\0\0"),
            ];
            writer.talk(format!("extension/{name}/{order}"), steps);
        }
    }
}

pub(super) fn masks(writer: &mut Writer) {
    let (me, you) = (INITIATOR, OTHER);
    // Nothing of this changes the list.
    for (name, ask) in [
        ("read-with-count", Ask::mask(0, 5, &[])),
        ("read-with-directive", Ask::mask(0, 1, &[(1, me)])),
        ("edit-nothing", Ask::mask(1, 0, &[])),
        ("none", edit(&[(0, me)])),
        ("bad", edit(&[(3, me)])),
        ("bad-late", edit(&[(0, me), (0, you), (9, me)])),
        ("unknown-2", Ask::mask(2, 0, &[])),
        ("unknown-2-add", Ask::mask(2, 1, &[(1, me)])),
        ("unknown-255", Ask::mask(255, 3, &[])),
        ("error-byte", read().with_byte(26, 3)),
        ("reserved-byte", read().with_byte(24, 0x5A)),
    ] {
        writer.talk(format!("mask/idle/{name}"), [ask, read()]);
    }
    // The fence passes wherever something is listed.
    let listed = [(1, FENCE), (1, me)];
    for (name, asks) in [
        ("add", vec![edit(&[(1, me)]), read()]),
        ("add-both", vec![edit(&listed), read()]),
        (
            "add-one-by-one",
            vec![edit(&[(1, FENCE)]).from(me), read().from(FENCE)],
        ),
        ("add-twice", vec![edit(&listed), edit(&[(1, me)]), read()]),
        (
            "add-three",
            vec![edit(&[(1, FENCE), (1, me), (1, you)]), read()],
        ),
        ("delete-absent", vec![edit(&[(2, you)]), read()]),
        (
            "delete-only",
            vec![edit(&[(1, me)]), edit(&[(2, me)]), read()],
        ),
        (
            "delete-first",
            vec![edit(&listed), edit(&[(2, FENCE)]), read()],
        ),
        (
            "delete-second",
            vec![edit(&[(1, me), (1, FENCE)]), edit(&[(2, FENCE)]), read()],
        ),
        (
            "add-then-bad",
            vec![edit(&[(1, FENCE), (1, me), (7, you)]), read()],
        ),
        (
            "bad-then-add",
            vec![edit(&[(7, you), (1, FENCE), (1, me)]), read()],
        ),
        (
            "lock-out",
            vec![edit(&[(1, FENCE)]), read(), read().from(FENCE)],
        ),
        (
            "add-broadcast",
            vec![edit(&[(1, FENCE), (1, BROADCAST)]), read().from(FENCE)],
        ),
        (
            "add-zero",
            vec![edit(&[(1, FENCE), (1, [0; 6])]), read().from(FENCE)],
        ),
        (
            "add-multicast",
            vec![
                edit(&[(1, FENCE), (1, [1, 0, 0x5E, 0, 0, 1])]),
                read().from(FENCE),
            ],
        ),
        (
            "short",
            vec![Ask::mask(1, 2, &[(1, FENCE)]), read().from(FENCE)],
        ),
        ("shorter", vec![Ask::mask(1, 1, &[]), read().from(FENCE)]),
        (
            "by-wildcard",
            vec![edit(&listed).by_wildcard(), read(), read().from(you)],
        ),
        (
            "read-by-wildcard",
            vec![
                edit(&listed),
                read().by_wildcard(),
                read().from(you).by_wildcard(),
            ],
        ),
    ] {
        writer.spoil(format!("mask/{name}"), asks);
    }
}

/// Reads the mask list.
fn read() -> Ask {
    Ask::mask(0, 0, &[])
}

/// Edits the mask list.
fn edit(directives: &[(u8, [u8; 6])]) -> Ask {
    let count = u8::try_from(directives.len()).unwrap_or(u8::MAX);
    Ask::mask(1, count, directives)
}

/// Lists that are in force, and lists that are too long.
pub(super) fn mask_lists(writer: &mut Writer) {
    let (me, you) = (INITIATOR, OTHER);
    let third = [2, 0, 0, 0, 0, 0x0D];
    let listed = [(1, FENCE), (1, me)];
    // Who is not listed hears nothing, whatever it says.
    for (name, ask) in one_of_each() {
        let outside = ask.clone().from(you);
        writer.spoil(
            format!("masked/{name}"),
            [
                edit(&listed),
                ask.clone(),
                outside.clone(),
                outside.by_wildcard(),
            ],
        );
    }
    for (name, from) in [("set", me), ("set-by-masked", you)] {
        let write = Ask::ata(0x41, WRITE_EXT, 95, 1)
            .with_data(512, 0x44)
            .from(from);
        let set = Ask::config(4, b"masked").from(from);
        let steps = [
            edit(&listed),
            write,
            set,
            Ask::ata(0x40, READ_EXT, 95, 1),
            Ask::config(4, b""),
        ];
        writer.spoil(format!("masked/{name}"), steps);
    }
    // As many as there is room for, and more.
    for count in [3, 31, 32, 33, 100, 185] {
        let many: Vec<(u8, [u8; 6])> = (0..count)
            .map(|n| (1, if n == 0 { FENCE } else { [2, 0, 0, 0, 2, n] }))
            .collect();
        writer.spoil(
            format!("mask/many/{count}"),
            [
                edit(&many),
                read().from(FENCE),
                edit(&[(1, third)]).from(FENCE),
                read().from(FENCE),
            ],
        );
    }
}
