//! Data does not allocate: not a read or a write, sent, repeated or answered.
#![expect(clippy::indexing_slicing, reason = "tests: a panic is how they fail")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use aoede_initiator::{Event, Instant, LocalPort, PortId, Request, Session, Settings, Wanted};
use aoede_target::{
    Action, Arrival, DATA_OFFSET, Exports, Outcome, PortFacts, Queue, Target, TargetSettings,
};
use aoede_wire::{Address, MacAddr};

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

/// What `act` returns, and how often it allocated.
fn counted<T>(act: impl FnOnce() -> T) -> (T, u64) {
    let before = ALLOCATIONS.get();
    let result = act();
    (result, ALLOCATIONS.get() - before)
}

/// What the target answers; whatever it reads is zeros, and writes go nowhere.
fn answer(exports: &mut Exports, port: &PortFacts, bytes: &[u8]) -> Option<Vec<u8>> {
    let (frame, mut selection) = exports.screen(port, bytes).ok()?;
    let mut out = vec![0; port.frame_bytes()];
    let (_, target) = exports.next(&mut selection)?;
    let len = match target.handle_frame(&arrival(port), &frame, &mut out) {
        Outcome::Respond(len) => len,
        Outcome::Ignore(_) | Outcome::Reads(_) | Outcome::Hold(_) => return None,
        Outcome::Disk(admitted) => {
            if let Action::Read { .. } = admitted.action {
                out[DATA_OFFSET..].fill(0);
            }
            target.handle_done(admitted.request, Ok(()), &mut out)
        }
    };
    out.truncate(len);
    Some(out)
}

#[test]
fn data_does_not_allocate() {
    let address = Address::new(1, 1).unwrap();
    let mut exports = Exports::new();
    let target = Target::new(TargetSettings::new(address, 1 << 20)).unwrap();
    exports.insert(target).unwrap();
    let facts = PortFacts {
        mac: MacAddr([2, 0, 0, 0, 0, 0x0A]),
        mtu: 9000,
        max_sectors: 255,
    };
    let settings = Settings {
        wanted: Wanted::NOTHING,
        ..Settings::default()
    };
    let mut session = Session::new(address, settings, 1);
    let port = LocalPort {
        mac: MacAddr([2, 0, 0, 0, 0, 0x0B]),
        mtu: 9000,
        up: true,
    };
    let mut now = Instant::START;
    session.handle_port(now, PortId(0), port);
    let mut out = vec![0; session.frame_bytes()];
    let mut buffers: Vec<Vec<u8>> = (0..64).map(|_| vec![7; 40 * 512]).collect();
    let (mut finished, mut allocated, mut turn) = (0_u64, 0, 0_u64);
    while finished < 2000 {
        turn += 1;
        now += Duration::from_millis(1);
        let attached = session.is_attached();
        let ((), count) = counted(|| session.handle_timeout(now));
        let mut counts = count;
        while let (true, Some(buffer)) = (attached, buffers.pop()) {
            let lba = turn % 100;
            let request = if turn % 2 == 0 {
                Request::Read { lba, buffer }
            } else {
                Request::Write { lba, buffer }
            };
            let (taken, count) = counted(|| session.submit(now, request).is_ok());
            assert!(taken);
            counts += count;
        }
        let mut sent = 0_u64;
        loop {
            let (transmit, count) = counted(|| session.poll_transmit(now, &mut out));
            counts += count;
            let Some(transmit) = transmit else { break };
            sent += 1;
            // Some get lost, and come again.
            if attached && sent % 50 == 0 {
                continue;
            }
            if let Some(response) = answer(&mut exports, &facts, &out[..transmit.len]) {
                let ((), count) = counted(|| session.handle_frame(now, PortId(0), &response));
                // IDENTIFY, with which a path is looked at after a loss, has strings.
                if out[27] != 0xEC {
                    counts += count;
                }
            }
        }
        loop {
            let (event, count) = counted(|| session.poll_event());
            counts += count;
            match event {
                None => break,
                Some(Event::Notice(_)) => {}
                Some(Event::Done(done)) => {
                    finished += 1;
                    done.result.unwrap();
                    buffers.push(done.buffer.unwrap());
                }
            }
        }
        let (_, count) = counted(|| session.poll_timeout());
        // Attaching and proving may allocate.
        if attached && turn > 100 {
            allocated += counts + count;
        }
    }
    assert!(session.stats().repeated > 0);
    assert_eq!(allocated, 0);
}

/// How a frame came in where neither time nor ring matters.
fn arrival(port: &PortFacts) -> Arrival {
    Arrival {
        now: Duration::ZERO,
        port: *port,
        seat: 0,
        queue: Queue::default(),
    }
}
