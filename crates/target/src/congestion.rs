//! Congestion measurement without a stall (§10): frames of a measurement are held for half a
//! second, as many as the receive buffer had room for, and nothing else waits.
//!
//! A [`Measurement`] is what an export knows of one initiator; the [`WaitingRoom`] holds the
//! responses of all exports of a worker.

use alloc::collections::VecDeque;
use core::time::Duration;

use crate::{Arrival, Queue};

/// How long the responses of a measurement are held, from its first frame on.
const HOLD: Duration = Duration::from_millis(500);
/// So long after the first frame of a measurement no other begins.
const PAUSE: Duration = Duration::from_secs(2);
/// Most responses that are held at a time,
const MAX_HELD: usize = 1024;
/// and most bytes of those, zeros at their ends left out.
const MAX_HELD_BYTES: usize = 1 << 20;

/// The latest measurement of one initiator at one export.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measurement {
    id: i64,
    /// When and where its first frame came.
    began: Duration,
    seat: usize,
    queue: Queue,
}

/// What becomes of a frame of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probe {
    /// Its measurement is over: answer at once.
    Answer,
    /// Answer later.
    Hold {
        /// When.
        until: Duration,
        place: Place,
    },
    /// Too soon for a new measurement.
    Drop,
}

/// Whether there was a place for a frame in the receive buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It was in it when the measurement began.
    Taken,
    /// It came later. So many were free then.
    OneOf(usize),
}

/// Decides on a frame with this id, and begins a measurement with it if the id is new.
pub(crate) fn probe(latest: &mut Option<Measurement>, arrival: &Arrival, id: i64) -> Probe {
    let Arrival {
        now, seat, queue, ..
    } = *arrival;
    let measurement = match *latest {
        Some(measurement) if measurement.id == id => measurement,
        Some(other) if now < other.began + PAUSE => return Probe::Drop,
        _ => *latest.insert(Measurement {
            id,
            began: now,
            seat,
            queue,
        }),
    };
    let until = measurement.began + HOLD;
    if now >= until {
        return Probe::Answer;
    }
    let first = measurement.queue;
    // The first frame has left its place, and takes one like those that come later.
    let behind_first = queue.number.saturating_sub(first.number);
    let waited = 1..=u64::try_from(first.waiting).unwrap_or(u64::MAX);
    let place = if measurement.seat == seat && waited.contains(&behind_first) {
        Place::Taken
    } else {
        Place::OneOf(first.free)
    };
    Probe::Hold { until, place }
}

/// A response that is encoded and must wait. To be given to [`Exports::hold`](crate::Exports::hold)
/// together with its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a response that is not held is lost"]
pub struct Hold {
    /// Bytes of the response, in the output buffer.
    pub len: usize,
    pub(crate) seat: usize,
    pub(crate) until: Duration,
    pub(crate) place: Place,
}

/// A response that waited: what to send, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldResponse {
    /// The port its request came in by, as [`Arrival::seat`](crate::Arrival::seat) said.
    pub seat: usize,
    /// Bytes of the response, in the output buffer.
    pub len: usize,
    pub(crate) export: usize,
}

/// Responses that are held. Takes memory while it has any.
#[derive(Debug, Default)]
pub(crate) struct WaitingRoom {
    /// In the order they came.
    held: VecDeque<Held>,
    /// Their bytes, one behind the other, without the zeros at the end of each: probes are padded
    /// to the MTU.
    bytes: VecDeque<u8>,
    now: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    export: usize,
    seat: usize,
    until: Duration,
    place: Place,
    len: usize,
    /// How many of them are kept.
    kept: usize,
}

impl WaitingRoom {
    /// Takes a response in; whether there was room.
    pub(crate) fn take(&mut self, export: usize, hold: Hold, response: &[u8]) -> bool {
        let response = response.get(..hold.len).unwrap_or(response);
        let zeros = response.iter().rev().take_while(|&&byte| byte == 0).count();
        let kept = response.get(..response.len() - zeros).unwrap_or_default();
        let full = !self.has_place(hold)
            || self.held.len() >= MAX_HELD
            || self.bytes.len() + kept.len() > MAX_HELD_BYTES;
        if full {
            return false;
        }
        self.bytes.extend(kept);
        self.held.push_back(Held {
            export,
            seat: hold.seat,
            until: hold.until,
            place: hold.place,
            len: response.len(),
            kept: kept.len(),
        });
        true
    }

    /// Whether the response's request had a place in the receive buffer; several measurements share
    /// those that were free.
    fn has_place(&self, hold: Hold) -> bool {
        let Place::OneOf(free) = hold.place else {
            return true;
        };
        let takes_one = |held: &&Held| held.seat == hold.seat && held.place != Place::Taken;
        self.held.iter().filter(takes_one).count() < free
    }

    pub(crate) fn set_now(&mut self, now: Duration) {
        self.now = now;
    }

    /// When the next response is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.held.iter().map(|held| held.until).min()
    }

    /// Moves the next response that is due into `out`. One that does not fit is dropped.
    pub(crate) fn release(&mut self, out: &mut [u8]) -> Option<HeldResponse> {
        loop {
            let mut start = 0;
            let place = self.held.iter().position(|held| {
                let due = held.until <= self.now;
                start += if due { 0 } else { held.kept };
                due
            })?;
            let Held {
                export,
                seat,
                len,
                kept,
                ..
            } = self.held.remove(place)?;
            let mut bytes = self.bytes.drain(start..start + kept);
            let response = out.get_mut(..len).map(|response| {
                response.fill_with(|| bytes.next().unwrap_or(0));
                HeldResponse { seat, len, export }
            });
            drop(bytes);
            if self.held.is_empty() {
                // Nobody measures most of the time.
                *self = Self {
                    now: self.now,
                    ..Self::default()
                };
            }
            if response.is_some() {
                return response;
            }
        }
    }

    /// Drops what is held for an export.
    pub(crate) fn forget(&mut self, export: usize) {
        let mut start = 0;
        let bytes = &mut self.bytes;
        self.held.retain(|held| {
            if held.export == export {
                bytes.drain(start..start + held.kept);
                return false;
            }
            start += held.kept;
            true
        });
    }
}
