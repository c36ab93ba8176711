//! Requests under way: each has a place, a frame that is made once and patched for each use, and a
//! tag that leads back to the place.

use std::{
    error::Error,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use aoede_wire::{
    Ata, Body, CoalescedRead, CoalescedWrite, CoalescedWrites, ENTRY_BYTES, ErrorCode, Flags,
    Frame, HEADER_BYTES, Header, Opcode, SECTOR_BYTES, Tag, ata_error,
};

use super::plan::Payload;

/// Where the tag and the address of a request stand in its frame, and where its data begins.
const TAG_AT: std::ops::Range<usize> = 20..24;
const LBA_AT: std::ops::Range<usize> = HEADER_BYTES + 4..HEADER_BYTES + 10;
const DATA_AT: usize = HEADER_BYTES + 12;

/// Most requests at once.
pub const MAX_DEPTH: usize = 1024;
/// The bits of a tag that name a place; the others count its uses.
const PLACE_BITS: u32 = MAX_DEPTH.trailing_zeros();

/// What all requests of a window have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    pub(super) header: Header,
    pub(super) opcode: Opcode,
    pub(super) sectors: u8,
    /// What a write carries.
    pub(super) payload: &'a [u8],
    pub(super) depth: usize,
}

#[derive(Debug)]
struct Place {
    frame: Vec<u8>,
    tag: u32,
    lba: u64,
    waiting: bool,
    first_sent: Instant,
    sent: Instant,
}

/// A fixed number of places.
#[derive(Debug)]
pub(super) struct Window {
    places: Vec<Place>,
    opcode: Opcode,
    sectors: u8,
    /// Bytes of data that a good response brings.
    expected_bytes: usize,
    waiting: usize,
    /// Most uses of a place so far.
    uses: u32,
}

/// What a frame turned out to be.
#[derive(Debug)]
pub(super) enum Arrival<'f> {
    /// The answer to the request at this place, which is free now.
    Answer {
        place: usize,
        lba: u64,
        took: Duration,
        data: &'f [u8],
    },
    /// An answer to nothing that waits: late, or the second.
    Stray,
    /// Not for us to judge: requests, announcements.
    Other,
}

/// The registers of a response that is no success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    status: u8,
    error: u8,
}

impl Failure {
    /// The command was aborted, or is not known.
    pub(super) fn is_abort(self) -> bool {
        self.error & ata_error::ABRT != 0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {:02x}, error {:02x}", self.status, self.error)
    }
}

impl Error for Failure {}

impl Window {
    /// A window whose requests cannot be taken for those of the window `before` it, of which late
    /// answers may still come.
    pub(super) fn new(
        shape: &Shape<'_>,
        before: Option<&Self>,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let uses = before.map_or(0, |before| before.uses);
        ensure!(
            (1..=MAX_DEPTH).contains(&shape.depth),
            "requests under way: 1 to {MAX_DEPTH}, not {}",
            shape.depth
        );
        let writes = shape.opcode == Opcode::WriteExt;
        let request = Ata::request(shape.opcode, 0, shape.sectors);
        let request = if writes {
            request.with_data(shape.payload)
        } else {
            request
        };
        let mut frame = vec![0; DATA_AT.max(60) + request.data.len()];
        let len = Body::Ata(request).encode(shape.header, &mut frame)?;
        frame.truncate(len);
        let places = (0..shape.depth).map(|_| Place {
            frame: frame.clone(),
            tag: uses << PLACE_BITS,
            lba: 0,
            waiting: false,
            first_sent: now,
            sent: now,
        });
        Ok(Self {
            places: places.collect(),
            opcode: shape.opcode,
            sectors: shape.sectors,
            expected_bytes: match shape.opcode {
                Opcode::WriteExt | Opcode::FlushCache | Opcode::FlushCacheExt => 0,
                _ => usize::from(shape.sectors) * SECTOR_BYTES,
            },
            waiting: 0,
            uses,
        })
    }

    /// How many requests wait for their answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// The frame at a place, as it is to be sent.
    pub(super) fn frame(&self, place: usize) -> &[u8] {
        self.places
            .get(place)
            .map_or(&[], |place| place.frame.as_slice())
    }

    /// Makes a new request at a free place. It counts as sent `now`.
    pub(super) fn issue(&mut self, index: usize, lba: u64, now: Instant) {
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        debug_assert!(!place.waiting);
        // Never 0, which is the tag of announcements.
        let used = match (place.tag >> PLACE_BITS) + 1 {
            used if used >> (u32::BITS - PLACE_BITS) == 0 => used,
            _ => 1,
        };
        place.tag = used << PLACE_BITS | u32::try_from(index).unwrap_or(0);
        self.uses = self.uses.max(used);
        place.lba = lba;
        place.waiting = true;
        place.first_sent = now;
        place.sent = now;
        self.waiting += 1;
        if let Some(bytes) = place.frame.get_mut(TAG_AT) {
            bytes.copy_from_slice(&place.tag.to_be_bytes());
        }
        let [l0, l1, l2, l3, l4, l5, ..] = lba.to_le_bytes();
        if let Some(bytes) = place.frame.get_mut(LBA_AT) {
            bytes.copy_from_slice(&[l0, l1, l2, l3, l4, l5]);
        }
        if self.opcode == Opcode::WriteExt {
            if let Some(data) = place.frame.get_mut(DATA_AT..) {
                Payload::stamp(lba, data);
            }
        }
    }

    /// Puts the reads at these places into one frame (§8); `frame` is emptied first.
    pub(super) fn coalesce(&self, places: &[usize], frame: &mut Vec<u8>) {
        frame.clear();
        let mut places = places.iter().filter_map(|&place| self.places.get(place));
        let Some(first) = places.next() else {
            return;
        };
        frame.extend(&first.frame);
        frame.truncate(DATA_AT);
        frame.push(0);
        let mut further = 0;
        for place in places {
            let [l0, l1, l2, l3, l4, l5, ..] = place.lba.to_le_bytes();
            let read = CoalescedRead {
                tag: Tag(place.tag.to_be_bytes()),
                lba: [l0, l1, l2, l3, l4, l5],
                reserved: [0; 5],
                count: self.sectors,
            };
            frame.extend(read.to_bytes());
            further += 1;
        }
        if let Some(count) = frame.get_mut(DATA_AT) {
            *count = further;
        }
        frame.resize(frame.len().max(60), 0);
        debug_assert!(frame.len() <= DATA_AT + 1 + MAX_DEPTH * ENTRY_BYTES);
    }

    /// Finds the requests that have waited for `patience` since they were last sent. They count
    /// as sent again `now`.
    pub(super) fn overdue(
        &mut self,
        now: Instant,
        patience: Duration,
        mut found: impl FnMut(usize),
    ) {
        for (index, place) in self.places.iter_mut().enumerate() {
            if place.waiting && now.duration_since(place.sent) >= patience {
                place.sent = now;
                found(index);
            }
        }
    }

    /// Judges a received frame.
    ///
    /// # Errors
    /// It is the answer to a request, and not a good one; it has a [`Failure`] inside where the
    /// registers say so. In any case the request waits no longer.
    pub(super) fn accept<'f>(
        &mut self,
        bytes: &'f [u8],
        now: Instant,
    ) -> anyhow::Result<Arrival<'f>> {
        let Ok(frame) = Frame::decode(bytes) else {
            return Ok(Arrival::Other);
        };
        let (true, Ok(Body::Ata(ata))) =
            (frame.header.flags.contains(Flags::RESPONSE), frame.body())
        else {
            // Answers to our requests that are errors may be cut short.
            self.refused(&frame.header)?;
            return Ok(Arrival::Other);
        };
        let Some((index, place)) = find(&mut self.places, frame.header.tag) else {
            return Ok(Arrival::Stray);
        };
        place.waiting = false;
        self.waiting -= 1;
        check(&frame.header, &ata)
            .and_then(|()| {
                ata.data
                    .get(..self.expected_bytes)
                    .context("the response is too short")
            })
            .with_context(|| format!("{} at sector {}", self.opcode, place.lba))
            .map(|data| Arrival::Answer {
                place: index,
                lba: place.lba,
                took: now.duration_since(place.first_sent),
                data,
            })
    }

    /// Judges a further response of a frame with several (§18.1), as
    /// [`accept`](Self::accept) does a frame.
    ///
    /// # Errors
    /// As there.
    pub(super) fn accept_further(
        &mut self,
        write: &CoalescedWrite,
        now: Instant,
    ) -> anyhow::Result<Arrival<'static>> {
        let Some((index, place)) = find(&mut self.places, write.tag) else {
            return Ok(Arrival::Stray);
        };
        place.waiting = false;
        self.waiting -= 1;
        let (error, status) = (write.error, write.status);
        if status.is_failure() {
            let status = status.0;
            return Err(Failure { status, error })
                .with_context(|| format!("{} at sector {}", self.opcode, place.lba));
        }
        Ok(Arrival::Answer {
            place: index,
            lba: place.lba,
            took: now.duration_since(place.first_sent),
            data: &[],
        })
    }

    fn refused(&mut self, header: &Header) -> anyhow::Result<()> {
        if !header.flags.contains(Flags::ERROR) {
            return Ok(());
        }
        let Some((_, place)) = find(&mut self.places, header.tag) else {
            return Ok(());
        };
        place.waiting = false;
        self.waiting -= 1;
        bail!("the target says: {}", ErrorCode::from(header.error));
    }
}

/// The further responses in a frame that may have some.
pub(super) fn further(bytes: &[u8]) -> impl Iterator<Item = CoalescedWrite> {
    let frame = Frame::decode(bytes).ok();
    let ata = frame.and_then(|frame| Ata::decode(frame.argument).ok());
    let writes = ata.and_then(|ata| CoalescedWrites::decode(ata.data));
    writes.into_iter().flat_map(|writes| writes.writes())
}

fn find(places: &mut [Place], tag: Tag) -> Option<(usize, &mut Place)> {
    let tag = tag.big_endian();
    let index = (tag & ((1 << PLACE_BITS) - 1)) as usize;
    let place = places.get_mut(index)?;
    (place.waiting && place.tag == tag).then_some((index, place))
}

fn check(header: &Header, ata: &Ata<'_>) -> anyhow::Result<()> {
    ensure!(
        !header.flags.contains(Flags::ERROR),
        "the target says: {}",
        ErrorCode::from(header.error)
    );
    if ata.status().is_failure() {
        bail!(Failure {
            status: ata.command_or_status,
            error: ata.feature_or_error,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use aoede_wire::{Address, MacAddr, Status};

    const INITIATOR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0B]);
    const TARGET: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x0A]);
    const ADDRESS: Address = Address { shelf: 7, slot: 1 };

    fn window(opcode: Opcode, depth: usize) -> Window {
        let payload = Payload::new(2, 1);
        let shape = Shape {
            header: Header::request(INITIATOR, TARGET, ADDRESS),
            opcode,
            sectors: 2,
            payload: payload.noise(),
            depth,
        };
        Window::new(&shape, None, Instant::now()).unwrap()
    }

    fn answer(request: &[u8], status: Status, data: &[u8]) -> Vec<u8> {
        let frame = Frame::decode(request).unwrap();
        let Ok(Body::Ata(ata)) = frame.body() else {
            panic!("no ATA request");
        };
        let ata = Ata {
            command_or_status: status.0,
            data,
            ..ata
        };
        let mut bytes = vec![0; 2000];
        let header = frame.header.response(TARGET, ADDRESS);
        let len = Body::Ata(ata).encode(header, &mut bytes).unwrap();
        bytes.truncate(len);
        bytes
    }

    /// §8: the count stands at 36, entries of 16 bytes follow.
    #[test]
    fn reads_in_one_frame_are_those_at_their_places() {
        let now = Instant::now();
        let mut reads = window(Opcode::ReadExt, 4);
        for (place, lba) in [(3, 8), (1, 16), (2, 0x0102_0304_0506)] {
            reads.issue(place, lba, now);
        }
        let mut frame = vec![0xEE; 7];
        reads.coalesce(&[3, 1, 2], &mut frame);
        assert_eq!(frame.len(), 37 + 2 * 16);
        assert_eq!(frame[..36], reads.frame(3)[..36]);
        assert_eq!(frame[36], 2);
        assert_eq!(frame[37..41], reads.frame(1)[20..24]);
        assert_eq!(frame[41..53], [16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
        assert_eq!(frame[57..63], [6, 5, 4, 3, 2, 1]);
        reads.coalesce(&[1], &mut frame);
        assert_eq!(frame, reads.frame(1));
    }

    #[test]
    fn further_responses_end_their_writes() {
        let now = Instant::now();
        let mut writes = window(Opcode::WriteExt, 3);
        for place in 0..3 {
            writes.issue(place, 8, now);
        }
        let tag = |place: usize| writes.frame(place)[20..24].try_into().unwrap();
        let good = CoalescedWrite {
            tag: Tag(tag(1)),
            lba: [8, 0, 0, 0, 0, 0],
            error: 0,
            status: Status::GOOD,
            count: 0,
        };
        let bad = CoalescedWrite {
            tag: Tag(tag(2)),
            error: 4,
            status: Status(0x61),
            ..good
        };
        let first = answer(writes.frame(0), Status::GOOD, &[]);
        let mut frame = [first, vec![0; 200]].concat();
        let len = CoalescedWrites::append(&mut frame, 60, good).unwrap();
        let len = CoalescedWrites::append(&mut frame, len, bad).unwrap();
        assert!(further(&frame[..len]).eq([good, bad]));
        assert!(matches!(
            writes.accept_further(&good, now),
            Ok(Arrival::Answer { place: 1, .. })
        ));
        assert!(matches!(
            writes.accept_further(&good, now),
            Ok(Arrival::Stray)
        ));
        assert!(writes.accept_further(&bad, now).is_err());
        assert_eq!(writes.waiting(), 1);
    }

    #[test]
    fn frames_say_what_was_asked() {
        let now = Instant::now();
        let mut reads = window(Opcode::ReadExt, 3);
        reads.issue(2, 0x0102_0304_0506, now);
        let frame = Frame::decode(reads.frame(2)).unwrap();
        assert_eq!(frame.header.destination, TARGET);
        let Ok(Body::Ata(ata)) = frame.body() else {
            panic!("no ATA request");
        };
        assert_eq!(ata.opcode(), Opcode::ReadExt);
        assert_eq!((ata.lba48(), ata.count), (0x0102_0304_0506, 2));
        assert_eq!(reads.frame(2).len(), 60);

        let mut writes = window(Opcode::WriteExt, 1);
        writes.issue(0, 99, now);
        let frame = Frame::decode(writes.frame(0)).unwrap();
        let Ok(Body::Ata(ata)) = frame.body() else {
            panic!("no ATA request");
        };
        assert_eq!(ata.data, Payload::new(2, 1).at(99));
    }

    #[test]
    fn an_answer_is_taken_once() {
        let start = Instant::now();
        let later = start + Duration::from_millis(3);
        let mut reads = window(Opcode::ReadExt, 4);
        reads.issue(1, 10, start);
        let good = answer(reads.frame(1), Status::GOOD, &[7; 1024]);
        let Arrival::Answer {
            place,
            lba,
            took,
            data,
        } = reads.accept(&good, later).unwrap()
        else {
            panic!("not taken");
        };
        assert_eq!(
            (place, lba, took.as_millis(), data),
            (1, 10, 3, &[7; 1024][..])
        );
        assert_eq!(reads.waiting(), 0);
        assert!(matches!(reads.accept(&good, later), Ok(Arrival::Stray)));
        // The next use of the place has another tag.
        reads.issue(1, 11, later);
        assert!(matches!(reads.accept(&good, later), Ok(Arrival::Stray)));
        assert_eq!(reads.waiting(), 1);
    }

    /// Repeated IDENTIFYs of a target that was slow to start were answered when reads were under
    /// way, with the tags of these.
    #[test]
    fn late_answers_of_an_earlier_window_are_strays() {
        let now = Instant::now();
        let mut early = window(Opcode::Identify, 4);
        early.issue(3, 0, now);
        let late = answer(early.frame(3), Status::GOOD, &[0; 512]);
        let payload = [];
        let shape = Shape {
            header: Header::request(INITIATOR, TARGET, ADDRESS),
            opcode: Opcode::ReadExt,
            sectors: 2,
            payload: &payload,
            depth: 4,
        };
        let mut reads = Window::new(&shape, Some(&early), now).unwrap();
        for place in 0..4 {
            reads.issue(place, 0, now);
        }
        assert!(matches!(reads.accept(&late, now), Ok(Arrival::Stray)));
    }

    #[test]
    fn bad_answers_are_errors() {
        let now = Instant::now();
        let mut reads = window(Opcode::ReadExt, 1);
        let mut judge = |make: &dyn Fn(&[u8]) -> Vec<u8>| {
            reads.issue(0, 10, now);
            let error = reads.accept(&make(reads.frame(0)), now).unwrap_err();
            assert_eq!(reads.waiting(), 0, "{error:#}");
            error.downcast_ref::<Failure>().copied()
        };
        let short = judge(&|request| answer(request, Status::GOOD, &[0; 1023]));
        assert_eq!(short, None);
        let failed = judge(&|request| answer(request, Status::FAILED, &[0; 1024]));
        assert!(!failed.unwrap().is_abort(), "the error register is 0");
        let aborted = judge(&|request| {
            let mut aborted = answer(request, Status::FAILED, &[]);
            aborted[25] = 0x04;
            aborted
        });
        assert!(aborted.unwrap().is_abort());
        let refused = |request: &[u8]| {
            let mut refused = answer(request, Status::GOOD, &[]);
            refused[14] |= 0x04;
            refused
        };
        assert_eq!(judge(&refused), None);
        let cut = judge(&|request| refused(request)[..HEADER_BYTES].to_vec());
        assert_eq!(cut, None);
    }

    #[test]
    fn a_flush_brings_no_data() {
        let now = Instant::now();
        for opcode in [Opcode::FlushCacheExt, Opcode::FlushCache] {
            let mut flush = window(opcode, 1);
            flush.issue(0, 0, now);
            let good = answer(flush.frame(0), Status::GOOD, &[]);
            let Arrival::Answer { data, .. } = flush.accept(&good, now).unwrap() else {
                panic!("not taken");
            };
            assert!(data.is_empty());
        }
    }

    #[test]
    fn what_is_no_answer_is_let_pass() {
        let now = Instant::now();
        let mut reads = window(Opcode::ReadExt, 1);
        reads.issue(0, 10, now);
        let request = reads.frame(0).to_vec();
        assert!(matches!(reads.accept(&request, now), Ok(Arrival::Other)));
        assert!(matches!(reads.accept(&[1, 2], now), Ok(Arrival::Other)));
        assert_eq!(reads.waiting(), 1);
    }

    #[test]
    fn what_waits_too_long_is_found_again_and_again() {
        let start = Instant::now();
        let patience = Duration::from_millis(100);
        let overdue = |window: &mut Window, millis| {
            let mut found = Vec::new();
            let now = start + Duration::from_millis(millis);
            window.overdue(now, patience, |place| found.push(place));
            found
        };
        let mut reads = window(Opcode::ReadExt, 3);
        reads.issue(0, 1, start);
        reads.issue(2, 2, start + Duration::from_millis(50));
        assert_eq!(overdue(&mut reads, 99), []);
        assert_eq!(overdue(&mut reads, 100), [0]);
        assert_eq!(overdue(&mut reads, 150), [2]);
        assert_eq!(overdue(&mut reads, 201), [0]);
    }

    #[test]
    fn no_tag_is_zero_even_after_a_wrap() {
        let now = Instant::now();
        let mut reads = window(Opcode::ReadExt, 1);
        reads.places[0].tag = u32::MAX << PLACE_BITS;
        reads.issue(0, 1, now);
        assert_eq!(reads.places[0].tag, 1 << PLACE_BITS);
    }
}
