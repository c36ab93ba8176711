//! Several write responses in one frame, an AoEde extension (§18.1).
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 36 | an ordinary response to a WRITE: the first |
//! | 36 | 1 | number of further responses |
//! | 37 + 16 i | 4 | tag |
//! | +4 | 6 | LBA, least significant byte first, as in the request |
//! | +10 | 1 | error register |
//! | +11 | 1 | status register |
//! | +12 | 1 | sectors not done |
//! | +13 | 3 | reserved |
//!
//! The shape is that of coalesced reads (`coalesced.rs`). An ordinary response ends in zeros, so
//! that it reads as one without further responses.

use crate::coalesced::{entries, split};
use crate::{
    ATA_ARGUMENT_BYTES, Ata, ENTRY_BYTES, HEADER_BYTES, MIN_FRAME_BYTES, NoRoom, Status, Tag,
};

/// Where the number of further responses stands in a frame.
const COUNT_OFFSET: usize = HEADER_BYTES + ATA_ARGUMENT_BYTES;

/// A further write response. Its aflags and everything in the common header but the tag are those
/// of the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalescedWrite {
    /// The tag of its request.
    pub tag: Tag,
    /// LBA0 to LBA5, bits 7–0 first.
    pub lba: [u8; 6],
    /// Error register.
    pub error: u8,
    /// Status register.
    pub status: Status,
    /// Sectors not done.
    pub count: u8,
}

impl CoalescedWrite {
    /// What an ordinary response with this tag and these registers says.
    pub fn of(tag: Tag, response: &Ata<'_>) -> Self {
        Self {
            tag,
            lba: response.lba,
            error: response.feature_or_error,
            status: response.status(),
            count: response.count,
        }
    }

    /// The response as it is sent, reserved bytes zero.
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let [t0, t1, t2, t3] = self.tag.0;
        let [l0, l1, l2, l3, l4, l5] = self.lba;
        let (error, Status(status), count) = (self.error, self.status, self.count);
        [
            t0, t1, t2, t3, l0, l1, l2, l3, l4, l5, error, status, count, 0, 0, 0,
        ]
    }

    #[rustfmt::skip]
    fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let [
            t0, t1, t2, t3, l0, l1, l2, l3, l4, l5, error, status, count, _, _, _,
        ] = bytes;
        Self {
            tag: Tag([t0, t1, t2, t3]),
            lba: [l0, l1, l2, l3, l4, l5],
            error,
            status: Status(status),
            count,
        }
    }
}

/// The further responses behind the first one's registers.
///
/// ```
/// use aoede_wire::{CoalescedWrite, CoalescedWrites, Status, Tag};
///
/// let further = CoalescedWrite {
///     tag: Tag([0, 0, 0, 2]),
///     lba: [16, 0, 0, 0, 0, 0],
///     error: 0,
///     status: Status::GOOD,
///     count: 0,
/// };
/// // An ordinary response of 60 bytes, in a buffer that could hold a longer one.
/// let mut frame = [0; 1514];
/// let len = CoalescedWrites::append(&mut frame, 60, further)?;
/// let data = &frame[36..len];
/// assert!(CoalescedWrites::decode(data).is_some_and(|found| found.writes().eq([further])));
/// # Ok::<(), aoede_wire::NoRoom>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoalescedWrites<'a> {
    announced: u8,
    entries: &'a [u8],
}

impl<'a> CoalescedWrites<'a> {
    /// Reads what follows the registers ([`Ata::data`]). `None` if that is too short for a further
    /// response.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let (announced, entries) = split(data)?;
        Some(Self { announced, entries })
    }

    /// Number of further responses announced, more perhaps than the frame holds.
    pub fn announced(&self) -> u8 {
        self.announced
    }

    /// The further responses that are there in full.
    pub fn writes(&self) -> impl ExactSizeIterator<Item = CoalescedWrite> + Clone + use<'a> {
        entries(self.announced, self.entries).map(CoalescedWrite::from_bytes)
    }

    /// Adds a response to those in `frame`, which holds a whole frame of `len` bytes: an ordinary
    /// response to a write, zero-padded, or what this function made of one. `frame` must not be
    /// longer than the interface can send. Returns the new length.
    ///
    /// # Errors
    /// [`NoRoom`], and nothing is changed, if neither `frame` nor the count byte have room for one
    /// more, or `len` is not the length of such a frame.
    pub fn append(frame: &mut [u8], len: usize, further: CoalescedWrite) -> Result<usize, NoRoom> {
        let &announced = frame.get(COUNT_OFFSET).ok_or(NoRoom)?;
        let start = COUNT_OFFSET + 1 + usize::from(announced) * ENTRY_BYTES;
        let end = start + ENTRY_BYTES;
        let more = announced.checked_add(1).ok_or(NoRoom)?;
        if len != start.max(MIN_FRAME_BYTES) {
            return Err(NoRoom);
        }
        frame
            .get_mut(start..end)
            .ok_or(NoRoom)?
            .copy_from_slice(&further.to_bytes());
        if let Some(count) = frame.get_mut(COUNT_OFFSET) {
            *count = more;
        }
        Ok(end.max(MIN_FRAME_BYTES))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec;

    const WRITE: CoalescedWrite = CoalescedWrite {
        tag: Tag([0xA1, 0xA2, 0xA3, 0xA4]),
        lba: [0x10, 0x02, 0x03, 0x04, 0x05, 0x06],
        error: 0x04,
        status: Status(0x61),
        count: 7,
    };
    const BYTES: [u8; ENTRY_BYTES] = [
        0xA1, 0xA2, 0xA3, 0xA4, 0x10, 2, 3, 4, 5, 6, 0x04, 0x61, 7, 0, 0, 0,
    ];

    #[test]
    fn an_entry_lies_where_the_table_says() {
        assert_eq!(WRITE.to_bytes(), BYTES);
        // What is reserved is not looked at.
        let mut received = BYTES;
        received[13..].fill(0xEE);
        assert_eq!(CoalescedWrite::from_bytes(received), WRITE);
    }

    #[test]
    fn an_entry_says_what_the_ordinary_response_said() {
        let registers = [0x41, 0x04, 7, 0x61, 0x10, 2, 3, 4, 5, 6, 0, 0];
        let response = Ata::decode(&registers).unwrap();
        assert_eq!(
            CoalescedWrite::of(Tag([0xA1, 0xA2, 0xA3, 0xA4]), &response),
            WRITE
        );
    }

    #[test]
    fn an_ordinary_response_has_no_further_ones() {
        let data = [0; 60 - 36];
        let writes = CoalescedWrites::decode(&data).unwrap();
        assert_eq!((writes.announced(), writes.writes().len()), (0, 0));
        assert_eq!(CoalescedWrites::decode(&[1; 16]), None);
    }

    #[test]
    fn only_entries_announced_and_there_in_full_are_read() {
        // Announced, bytes behind the count, entries expected.
        for (announced, len, expected) in [
            (0, 32, 0),
            (1, 32, 1),
            (2, 32, 2),
            (2, 31, 1),
            (255, 32, 2),
            (1, 16, 1),
        ] {
            let mut data = vec![announced];
            data.extend(BYTES);
            data.extend(BYTES);
            let found = CoalescedWrites::decode(&data[..=len]).unwrap();
            assert_eq!(found.announced(), announced);
            assert_eq!(found.writes().len(), expected);
            assert!(found.writes().all(|write| write == WRITE));
        }
    }

    #[test]
    fn responses_are_added_until_the_frame_is_full() {
        // §18.1: 92 at MTU 1500. Behind the ordinary response there may be anything.
        let mut frame = vec![0xA5; 1514];
        frame[..60].fill(0);
        let mut len = 60;
        for (number, expected) in [(1, 60), (2, 69), (3, 85)] {
            len = CoalescedWrites::append(&mut frame, len, WRITE).unwrap();
            assert_eq!((frame[36], len), (number, expected));
        }
        assert_eq!(frame[37..53], BYTES);
        assert_eq!(frame[69..85], BYTES);
        assert_eq!(frame[85], 0xA5);
        for _ in 3..92 {
            len = CoalescedWrites::append(&mut frame, len, WRITE).unwrap();
        }
        assert_eq!((frame[36], len), (92, 37 + 92 * 16));
        assert_eq!(CoalescedWrites::append(&mut frame, len, WRITE), Err(NoRoom));
        assert_eq!((frame[36], frame[len]), (92, 0xA5));
    }

    #[test]
    fn the_count_byte_is_a_limit_of_its_own() {
        let mut frame = vec![0; 9014];
        let mut len = 60;
        while let Ok(longer) = CoalescedWrites::append(&mut frame, len, WRITE) {
            len = longer;
        }
        assert_eq!((frame[36], len), (255, 37 + 255 * 16));
    }

    #[test]
    fn nothing_is_added_to_what_is_no_such_frame() {
        let mut frame = [0; 100];
        for len in [0, 59, 61, 100] {
            assert_eq!(CoalescedWrites::append(&mut frame, len, WRITE), Err(NoRoom));
        }
        assert_eq!(
            CoalescedWrites::append(&mut frame[..36], 36, WRITE),
            Err(NoRoom)
        );
        assert_eq!(frame, [0; 100]);
    }
}
