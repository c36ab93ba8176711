//! Frames do not allocate: not a read or a write, and no control command either.
#![expect(clippy::unwrap_used, reason = "tests: a panic is how they fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use std::time::Duration;

use aoede_target::{
    Action, Arrival, DATA_OFFSET, Exports, Outcome, PortFacts, Target, TargetSettings,
};
use aoede_wire::{
    Address, Ata, Body, Config, ConfigCommand, Directive, DirectiveCode, Header, MacAddr, Mask,
    MaskCommand, MaskError, Opcode, Reserve, ReserveCommand,
};

/// The system's allocator, with a count for each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: everything is passed on to `System` as it came; counting allocates nothing, because the
// counter is a plain number that needs neither initialisation nor destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps to the contract of `alloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` by way of `alloc`, with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const I: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
const E1_1: Address = Address { shelf: 1, slot: 1 };
const PORT: PortFacts = PortFacts {
    mac: MacAddr([2, 0, 0, 0, 0, 0x0A]),
    mtu: 9000,
    max_sectors: 16,
};

fn frame(body: Body<'_>) -> Vec<u8> {
    let mut bytes = vec![0; PORT.frame_bytes()];
    let header = Header::request(I, PORT.mac, E1_1);
    let len = body.encode(header, &mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

#[test]
fn no_frame_allocates() {
    let mut exports = Exports::new();
    for slot in 1..=8 {
        let address = Address::new(1, slot).unwrap();
        let target = Target::new(TargetSettings::new(address, 1 << 20)).unwrap();
        exports.insert(target).unwrap();
    }
    let data = vec![7; 16 * 512];
    let longest = vec![b'x'; 1024];
    let config = Config {
        command: ConfigCommand::ForceSet,
        ..Config::default()
    };
    let many: Vec<MacAddr> = (1..=255).map(|n| MacAddr([2, 0, 0, 0, 0, n])).collect();
    let add = |&mac: &MacAddr| {
        let code = DirectiveCode::Add;
        Directive { code, mac }.to_bytes()
    };
    let mask = Mask {
        command: MaskCommand::Edit,
        error: MaskError::None,
        count: 255,
        rest: &many.iter().flat_map(add).collect::<Vec<_>>(),
    };
    let reserve = Reserve {
        command: ReserveCommand::Set,
        count: 255,
        rest: &many.iter().flat_map(|mac| mac.0).collect::<Vec<_>>(),
    };
    let frames = [
        frame(Body::Ata(Ata::request(Opcode::ReadExt, 8, 16))),
        frame(Body::Ata(
            Ata::request(Opcode::WriteExt, 8, 16).with_data(&data),
        )),
        frame(Body::Ata(Ata::request(Opcode::FlushCache, 0, 0))),
        frame(Body::Ata(Ata::request(Opcode::Identify, 0, 1))),
        frame(Body::Config(config.with_string(&longest).unwrap())),
        frame(Body::Mask(mask)),
        frame(Body::Reserve(reserve)),
        frame(Body::Unknown(0x7F, &data)),
    ];
    let mut out = vec![0; PORT.frame_bytes()];
    let arrival = Arrival::new(Duration::ZERO, PORT);
    let mut answered = 0;

    // An initiator takes memory when it is first heard of.
    let (heard, mut selection) = exports.screen(&PORT, &frames[3]).unwrap();
    let (_, target) = exports.next(&mut selection).unwrap();
    assert_eq!(
        target.handle_frame(&arrival, &heard, &mut out),
        Outcome::Respond(36 + 512)
    );

    let before = ALLOCATIONS.get();
    for bytes in frames.iter().cycle().take(frames.len() * 100) {
        let (frame, mut selection) = exports.screen(&PORT, bytes).unwrap();
        while let Some((_, target)) = exports.next(&mut selection) {
            let len = match target.handle_frame(&arrival, &frame, &mut out) {
                Outcome::Respond(len) => len,
                Outcome::Disk(admitted) => {
                    if let Action::Read { sectors, .. } = admitted.action {
                        out[DATA_OFFSET..][..sectors as usize * 512].fill(1);
                    }
                    target.handle_done(admitted.request, Ok(()), &mut out)
                }
                Outcome::Ignore(_) | Outcome::Reads(_) | Outcome::Hold(_) => 0,
            };
            answered += usize::from(len >= 60);
        }
    }
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(answered, frames.len() * 100);
}
