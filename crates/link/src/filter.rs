//! A socket filter for the addresses one worker serves, in classic BPF.
//!
//! ```text
//!         ldh [16]                  the shelf
//!         jeq #shelf, next, skip    once for each shelf, and for the wildcard
//! skip:   ja  past the block        32-bit offset: a block may be longer than jeq can jump
//! next:   ldb [18]                  the slot
//!         jeq #slot, accept         once for each slot, and for the wildcard
//!         ret #0
//! accept: ret #everything
//!         ...
//!         ret #0
//! ```
//!
//! The socket is bound to the EtherType, so that is not looked at again. A load beyond the end of
//! a frame drops it. Instructions: `linux/filter.h`, `Documentation/networking/filter.rst`.
#![forbid(unsafe_code)]

use aoede_wire::Address;
use libc::sock_filter;
use std::collections::{BTreeMap, BTreeSet};

/// Offset of the shelf in a frame; 14 bytes Ethernet header, 2 bytes version, flags and error.
const SHELF: u32 = 16;
/// Offset of the slot in a frame.
const SLOT: u32 = 18;

const LOAD_U16: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
const LOAD_U8: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
const JUMP: u16 = 0x05; // BPF_JMP | BPF_JA
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// Returned by a program that drops the frame.
const DROP: u32 = 0;
/// Returned by a program that takes the frame: how many bytes of it, so all.
const ACCEPT: u32 = u32::MAX;

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
const MAX_INSTRUCTIONS: usize = 4096;

/// A program that accepts what [`Address::selects`] one of `exports`; everything when there are
/// none, or more than fit into a program.
pub(crate) fn program(exports: &[Address]) -> Vec<sock_filter> {
    if exports.is_empty() {
        return accept_all();
    }
    let mut shelves: BTreeMap<u16, BTreeSet<u8>> = BTreeMap::new();
    // First: discovery by broadcast is the most frequent frame of an idle segment.
    let any_shelf: BTreeSet<u8> = exports.iter().map(|export| export.slot).collect();
    for export in exports {
        shelves.entry(export.shelf).or_default().insert(export.slot);
    }
    // An export at the wildcard shelf, which the configuration refuses, is selected by itself only;
    // that shelf's block holds it already.
    shelves.remove(&Address::ANY_SHELF);

    let mut program = vec![statement(LOAD_U16, SHELF)];
    push_shelf(&mut program, Address::ANY_SHELF, &any_shelf);
    for (&shelf, slots) in &shelves {
        push_shelf(&mut program, shelf, slots);
    }
    program.push(statement(RETURN, DROP));
    if program.len() > MAX_INSTRUCTIONS {
        return accept_all();
    }
    program
}

fn accept_all() -> Vec<sock_filter> {
    vec![statement(RETURN, ACCEPT)]
}

/// Decides about frames to `shelf`; others go on behind it with the shelf still loaded.
fn push_shelf(program: &mut Vec<sock_filter>, shelf: u16, slots: &BTreeSet<u8>) {
    let block = slot_block(slots);
    program.push(jump_equal(u32::from(shelf), 1, 0));
    // A block is at most 258 instructions long.
    program.push(statement(JUMP, u32::try_from(block.len()).unwrap_or(0)));
    program.extend(block);
}

fn slot_block(slots: &BTreeSet<u8>) -> Vec<sock_filter> {
    let mut accepted = slots.clone();
    accepted.insert(Address::ANY_SLOT);
    // Every slot there is; and 256 comparisons would be one more than a jump can pass.
    let Ok(count) = u8::try_from(accepted.len()) else {
        return accept_all();
    };
    let mut block = vec![statement(LOAD_U8, SLOT)];
    // From the last comparison it is one instruction to skip, `ret #0`.
    for (slot, skip) in accepted.into_iter().zip((1..=count).rev()) {
        block.push(jump_equal(u32::from(slot), skip, 0));
    }
    block.push(statement(RETURN, DROP));
    block.push(statement(RETURN, ACCEPT));
    block
}

fn statement(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Compares what was loaded with `k` and skips `if_equal` or `if_not` instructions.
fn jump_equal(k: u32, if_equal: u8, if_not: u8) -> sock_filter {
    sock_filter {
        code: JUMP_EQUAL,
        jt: if_equal,
        jf: if_not,
        k,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What the kernel does with a program; refuses what the kernel's checker refuses.
    fn run(program: &[sock_filter], frame: &[u8]) -> u32 {
        let (mut accumulator, mut at) = (0_u32, 0_usize);
        loop {
            let step = program[at];
            at += 1;
            match step.code {
                LOAD_U16 => match frame.get(step.k as usize..step.k as usize + 2) {
                    Some(bytes) => {
                        accumulator = u32::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                    }
                    None => return 0,
                },
                LOAD_U8 => match frame.get(step.k as usize) {
                    Some(&byte) => accumulator = u32::from(byte),
                    None => return 0,
                },
                JUMP => at += step.k as usize,
                JUMP_EQUAL if accumulator == step.k => at += usize::from(step.jt),
                JUMP_EQUAL => at += usize::from(step.jf),
                RETURN => return step.k,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn frame(address: Address) -> [u8; 60] {
        let mut frame = [0xA5; 60];
        frame[16..18].copy_from_slice(&address.shelf.to_be_bytes());
        frame[18] = address.slot;
        frame
    }

    fn accepts(program: &[sock_filter], address: Address) -> bool {
        match run(program, &frame(address)) {
            DROP => false,
            ACCEPT => true,
            part => panic!("a part of the frame: {part}"),
        }
    }

    fn address(shelf: u16, slot: u8) -> Address {
        Address { shelf, slot }
    }

    /// All slots, of the shelves that are exported, their neighbours and the extremes.
    fn check_against_selects(exports: &[Address]) {
        let program = program(exports);
        assert!(program.len() <= MAX_INSTRUCTIONS);
        let mut shelves: BTreeSet<u16> = [0, 1, 0xFF, 0x100, 0xFFFE, 0xFFFF].into();
        for export in exports.iter().take(32) {
            let shelf = export.shelf;
            shelves.extend([shelf, shelf.wrapping_add(1), shelf.wrapping_sub(1)]);
            shelves.insert(shelf.swap_bytes());
        }
        for shelf in shelves {
            for slot in 0..=u8::MAX {
                let request = address(shelf, slot);
                let expected = exports.iter().any(|&export| request.selects(export));
                assert_eq!(
                    accepts(&program, request),
                    expected,
                    "{request} of {exports:?}"
                );
            }
        }
    }

    #[test]
    fn one_export_and_each_wildcard_on_its_own() {
        let program = program(&[address(7, 1)]);
        for (shelf, slot, expected) in [
            (7, 1, true),
            (0xFFFF, 0xFF, true),
            (0xFFFF, 1, true),
            (7, 0xFF, true),
            (0xFFFF, 2, false),
            (8, 0xFF, false),
            (8, 1, false),
            (7, 2, false),
            (0x0700, 1, false),
        ] {
            assert_eq!(
                accepts(&program, address(shelf, slot)),
                expected,
                "{shelf}.{slot}"
            );
        }
    }

    #[test]
    fn all_of_a_shelf() {
        for last in [253, 254] {
            let exports: Vec<_> = (0..=last).map(|slot| address(3, slot)).collect();
            check_against_selects(&exports);
        }
    }

    #[test]
    fn no_export_means_no_filter() {
        assert!(accepts(&program(&[]), address(1, 1)));
    }

    #[test]
    fn too_many_exports_let_everything_pass() {
        let many: Vec<_> = (0..400).map(|shelf| address(shelf, 0)).collect();
        assert!(program(&many).len() > 1000);
        check_against_selects(&many);
        let too_many: Vec<_> = (0..1000).map(|shelf| address(shelf, 0)).collect();
        assert_eq!(program(&too_many).len(), 1);
        assert!(accepts(&program(&too_many), address(5000, 9)));
    }

    #[test]
    fn a_frame_without_address_is_dropped() {
        let program = program(&[address(7, 1)]);
        for len in 0..19 {
            assert_eq!(run(&program, &frame(address(7, 1))[..len]), DROP);
        }
    }

    proptest! {
        #[test]
        fn programs_agree_with_selects(
            exports in prop::collection::vec((prop_oneof![0_u16..4, any::<u16>()], any::<u8>()), 1..40)
        ) {
            let exports: Vec<_> = exports.into_iter().map(|(shelf, slot)| address(shelf, slot)).collect();
            check_against_selects(&exports);
        }
    }
}
