//! Data does not allocate: not a read or a write, sent, repeated or answered. Nor does waiting for
//! it.
#![expect(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "tests: a panic is how they fail"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::fd::AsFd as _;
use std::time::Duration;

use aoede_initiator::{
    Event, Instant, LocalPort, PollWaiter, PortId, Request, Session, Settings, Waiter as _, Wanted,
};
use aoede_target::{
    Action, Arrival, DATA_OFFSET, Exports, Outcome, PortFacts, Target, TargetSettings,
    merge_write_response,
};
use aoede_wire::{Address, MacAddr};
use rustix::event::{EventfdFlags, eventfd};

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
fn answer(exports: &mut Exports, port: &PortFacts, bytes: &[u8]) -> Vec<Vec<u8>> {
    let Ok((frame, mut selection)) = exports.screen(port, bytes) else {
        return Vec::new();
    };
    let (_, target) = exports.next(&mut selection).unwrap();
    let arrival = Arrival::new(Duration::ZERO, *port);
    let mut out = vec![0; port.frame_bytes()];
    let mut answers = Vec::new();
    match target.handle_frame(&arrival, &frame, &mut out) {
        Outcome::Reads(mut reads) => {
            while let Some(outcome) = target.next_read(&arrival, &mut reads, &mut out) {
                answers.extend(end(target, outcome, &mut out));
            }
        }
        outcome => answers.extend(end(target, outcome, &mut out)),
    }
    answers
}

fn end(target: &mut Target, outcome: Outcome<'_>, out: &mut [u8]) -> Option<Vec<u8>> {
    let len = match outcome {
        Outcome::Respond(len) => len,
        Outcome::Ignore(_) | Outcome::Reads(_) | Outcome::Hold(_) => return None,
        Outcome::Disk(admitted) => {
            if let Action::Read { .. } = admitted.action {
                out[DATA_OFFSET..].fill(0);
            }
            target.handle_done(admitted.request, Ok(()), out)
        }
    };
    Some(out[..len].to_vec())
}

/// Write responses that stand in a row share a frame, where that was agreed on.
fn share(answers: Vec<Vec<u8>>, port: &PortFacts) -> Vec<Vec<u8>> {
    let is_write = |answer: &[u8]| answer[19] == 0 && answer[24] & 1 != 0;
    let mut shared: Vec<Vec<u8>> = Vec::new();
    for answer in answers {
        if let Some(first) = shared.last_mut().filter(|first| is_write(first)) {
            let len = first.len();
            first.resize(port.frame_bytes(), 0);
            let longer = is_write(&answer).then(|| merge_write_response(first, len, &answer));
            let longer = longer.flatten();
            first.truncate(longer.unwrap_or(len));
            if longer.is_some() {
                continue;
            }
        }
        shared.push(answer);
    }
    shared
}

#[test]
fn data_does_not_allocate() {
    allocates_nothing(Wanted::NOTHING);
}

#[test]
fn waiting_does_not_allocate() {
    let mut waiter = PollWaiter::new().unwrap();
    for (number, patience) in [(1, Duration::from_secs(600)), (0, Duration::from_millis(1))] {
        let wake = eventfd(number, EventfdFlags::NONBLOCK).unwrap();
        let waits = (0..8).map(|_| {
            let wait = || waiter.wait(&mut [], &[], wake.as_fd(), Some(patience));
            let (result, count) = counted(wait);
            result.unwrap();
            count
        });
        // News of an interface may come in between, and allocates.
        assert_eq!(waits.min(), Some(0));
    }
}

#[test]
fn extensions_do_not_allocate() {
    for checksums in [[true, false], [false, true]] {
        allocates_nothing(Wanted {
            crc8x4: checksums[0],
            crc32c: checksums[1],
            congestion: false,
            ..Wanted::default()
        });
    }
}

fn allocates_nothing(wanted: Wanted) {
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
        wanted,
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
    let mut sent = 0_u64;
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
        let mut answers = Vec::new();
        loop {
            let (transmit, count) = counted(|| session.poll_transmit(now, &mut out));
            counts += count;
            let Some(transmit) = transmit else { break };
            sent += 1;
            // Some get lost, and come again.
            if attached && sent % 50 == 0 {
                continue;
            }
            let identify = out[27] == 0xEC;
            let responses = answer(&mut exports, &facts, &out[..transmit.len]);
            answers.extend(responses.into_iter().map(|response| (response, identify)));
        }
        // IDENTIFY, with which a path is looked at after a loss, has strings.
        let (identities, others): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(_, is)| *is);
        for (response, _) in identities {
            session.handle_frame(now, PortId(0), &response);
        }
        let mut others = others.into_iter().map(|(response, _)| response).collect();
        if wanted.coalesced_write_reply {
            others = share(others, &facts);
        }
        for response in others {
            let ((), count) = counted(|| session.handle_frame(now, PortId(0), &response));
            counts += count;
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
    let stats = session.stats();
    assert!(stats.repeated > 0);
    assert_eq!(stats.coalesced > 0, wanted.coalesced_read);
    assert_eq!(stats.coalesced_replies > 0, wanted.coalesced_write_reply);
    assert_eq!(stats.damaged, 0);
    assert_eq!(allocated, 0);
}
