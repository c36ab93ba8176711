//! Several write responses in one frame (§18.1): which of those that are ready together may share
//! one, and how they do.

use alloc::vec::Vec;

use aoede_wire::{Ata, CoalescedWrite, CoalescedWrites, Command, Frame, MacAddr};

/// Responses with equal keys may share a frame. Made by
/// [`Request::merge_key`](crate::Request::merge_key).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeKey {
    pub(crate) export: usize,
    pub(crate) seat: usize,
    pub(crate) initiator: MacAddr,
}

/// Where the write responses of one turn wait that others may join. The owner keeps the responses
/// and says where they are; it [clears](Self::clear) this before any of them moves.
///
/// ```
/// # use aoede_target::{Action, Arrival, Exports, Outcome, PortFacts, Target, TargetSettings};
/// use aoede_target::{WriteReplies, merge_write_response};
/// # use aoede_wire::{Address, Ata, Body, ExtensionTable, Header, MacAddr, Opcode, Tag};
/// # let address = Address::new(1, 1)?;
/// # let mut target = Target::new(TargetSettings::new(address, 16384))?;
/// # let port = PortFacts { mac: MacAddr([2, 0, 0, 0, 0, 0x0A]), mtu: 1500, max_sectors: 2 };
/// # let arrival = Arrival::new(core::time::Duration::ZERO, port);
/// # let mut bytes = [0; 1514];
/// # let mut out = [0; 1514];
/// # let header = Header::request(MacAddr([2, 0, 0, 0, 0, 0x0B]), port.mac, address);
/// # let table = ExtensionTable::new(b"coalesced_write_reply\0\0")?;
/// # let len = Body::Extension(table).encode(header, &mut bytes)?;
/// # let frame = aoede_wire::Frame::decode(&bytes[..len])?;
/// # assert!(matches!(target.handle_frame(&arrival, &frame, &mut out), Outcome::Respond(_)));
/// # let mut finished = Vec::new();
/// # for tag in 1..=3 {
/// #     let header = Header { tag: Tag([0, 0, 0, tag]), ..header };
/// #     let write = Ata::request(Opcode::WriteExt, 8, 1).with_data(&[0; 512]);
/// #     let len = Body::Ata(write).encode(header, &mut bytes)?;
/// #     let frame = aoede_wire::Frame::decode(&bytes[..len])?;
/// #     let Outcome::Disk(admitted) = target.handle_frame(&arrival, &frame, &mut out) else {
/// #         unreachable!()
/// #     };
/// #     finished.push(admitted.request);
/// # }
/// # let (export, seat) = (0, 0);
/// let mut replies = WriteReplies::new(64);
/// let mut outbox: Vec<(usize, [u8; 1514])> = Vec::new();
/// for request in finished {
///     let key = request.merge_key(export, seat);
///     let mut buffer = [0; 1514];
///     let len = target.handle_done(request, Ok(()), &mut buffer);
///     if let Some(key) = key {
///         let first = replies.place(key).and_then(|place| outbox.get_mut(place));
///         if let Some((first_len, first)) = first {
///             if let Some(longer) = merge_write_response(first, *first_len, &buffer[..len]) {
///                 *first_len = longer;
///                 continue;
///             }
///         }
///         replies.set_place(key, outbox.len());
///     }
///     outbox.push((len, buffer));
/// }
/// replies.clear();
/// assert_eq!(outbox.len(), 1);
/// assert_eq!(outbox[0].0, 37 + 2 * 16);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct WriteReplies {
    open: Vec<(MergeKey, usize)>,
    most: usize,
}

impl WriteReplies {
    /// Room for `most` keys at a time; responses with others stay alone.
    pub fn new(most: usize) -> Self {
        Self {
            open: Vec::with_capacity(most),
            most,
        }
    }

    /// Where the response waits that one with this key may join.
    pub fn place(&self, key: MergeKey) -> Option<usize> {
        let mut open = self.open.iter();
        open.find(|(other, _)| *other == key)
            .map(|&(_, place)| place)
    }

    /// Notes where a response waits that others with this key may join from now on.
    pub fn set_place(&mut self, key: MergeKey, place: usize) {
        if let Some((_, known)) = self.open.iter_mut().find(|(other, _)| *other == key) {
            *known = place;
        } else if self.open.len() < self.most {
            self.open.push((key, place));
        }
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.open.clear();
    }
}

/// Adds a write response to another with the same key. `first` holds that, of `len` bytes, and must
/// not be longer than its port can send. Returns its new length, or `None`, and nothing is changed,
/// if there is no room for one more.
pub fn merge_write_response(first: &mut [u8], len: usize, later: &[u8]) -> Option<usize> {
    let later = Frame::decode(later).ok()?;
    if later.header.command != Command::Ata {
        return None;
    }
    let registers = Ata::decode(later.argument).ok()?;
    let further = CoalescedWrite::of(later.header.tag, &registers);
    CoalescedWrites::append(first, len, further).ok()
}
