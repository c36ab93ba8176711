//! An interface with an MTU of 9000.

use super::{
    DISPUTED, Writer,
    ask::{Ask, READ, READ_EXT, WRITE, WRITE_EXT, one_of_each},
};

pub(super) fn jumbo(writer: &mut Writer) {
    let end = writer.scene.sectors;
    for (opcode, flags) in [(READ, 0x00), (READ_EXT, 0x40)] {
        for count in [0, 1, 2, 3, 8, 15, 16, 17, 18, 19, 64, 255] {
            for lba in [0, end - 16, end - 1, end] {
                let name = format!("jumbo-read/{opcode:02x}/{lba}/{count}");
                writer.ask(name, Ask::ata(flags, opcode, lba, count));
            }
        }
    }
    for (opcode, read) in [(WRITE, READ), (WRITE_EXT, READ_EXT)] {
        for (lba, count) in [(100, 3), (200, 8), (300, 16), (400, 17), (end - 16, 16)] {
            let seed = writer.seed();
            let write = Ask::ata(0x41, opcode, lba, count);
            let write = write.with_data(usize::from(count) * 512, seed);
            let name = format!("jumbo-write/{opcode:02x}/{lba}/{count}");
            writer.talk(name, [write, Ask::ata(0x40, read, lba, count)]);
        }
    }
    for (count, len) in [
        (17, 16 * 512),
        (18, 17 * 512),
        (16, 17 * 512),
        (17, 8978),
        (255, 8978),
    ] {
        let write = Ask::ata(0x41, WRITE_EXT, DISPUTED, count).with_data(len, 0x21);
        writer.ask(format!("jumbo-write/odd/{count}/{len}"), write);
    }
    for (name, ask) in one_of_each() {
        for len in [1515, 4096, 9013, 9014] {
            writer.ask_with_len(format!("jumbo-length/{name}/{len}"), ask.clone(), len);
        }
    }
    for count in [249, 254, 255] {
        let many: Vec<[u8; 6]> = (0..count).map(|n| [2, 0, 0, 0, 1, n]).collect();
        let steps = [
            Ask::reserve(2, count, &many),
            Ask::reserve(0, 0, &[]),
            Ask::reserve(2, 0, &[]),
        ];
        writer.talk(format!("jumbo-reserve/{count}"), steps);
    }
    for len in [1024, 1025, 8000] {
        let string = vec![b'z'; usize::from(len)];
        let steps = [
            Ask::config_of_len(4, len, &string),
            Ask::config(0, b""),
            Ask::config(4, b""),
        ];
        writer.talk(format!("jumbo-config/{len}"), steps);
    }
}
