//! All exports of a worker: which of them is a frame for, and is it a request at all?

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use core::time::Duration;

use aoede_wire::{Address, DecodeError, Flags, Frame, MacAddr};

use crate::congestion::WaitingRoom;
use crate::{HeldResponse, Hold, IgnoreReason, Ignored, PortFacts, Target};

/// The exports of one worker, found by shelf and slot.
///
/// Each has an index that stays its own while it is exported, so that the worker can keep what
/// else belongs to it in a table of the same shape. A removed export's index is used again.
#[derive(Debug, Default)]
pub struct Exports {
    targets: Vec<Option<Target>>,
    /// Sorted by address.
    by_address: Vec<(Address, usize)>,
    ignored: Ignored,
    waiting: WaitingRoom,
}

/// The exports that a frame is meant for, to be taken one by one with [`Exports::next`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a selection does nothing until its targets are taken with `Exports::next`"]
pub struct Selection {
    wanted: Address,
    /// Places in `by_address` still to be looked at.
    rest: Range<usize>,
}

/// Two exports with one address cannot be told apart on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressTaken(pub Address);

impl fmt::Display for AddressTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is exported already", self.0)
    }
}

impl core::error::Error for AddressTaken {}

impl Exports {
    /// No exports yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an export and returns its index.
    ///
    /// # Errors
    /// [`AddressTaken`] if there is one with the same address.
    pub fn insert(&mut self, target: Target) -> Result<usize, AddressTaken> {
        let address = target.address();
        let Err(place) = self.find(address) else {
            return Err(AddressTaken(address));
        };
        let free = self
            .targets
            .iter_mut()
            .enumerate()
            .find(|(_, slot)| slot.is_none());
        let index = if let Some((index, slot)) = free {
            *slot = Some(target);
            index
        } else {
            self.targets.push(Some(target));
            self.targets.len() - 1
        };
        self.by_address.insert(place, (address, index));
        Ok(index)
    }

    /// Takes an export away.
    pub fn remove(&mut self, index: usize) -> Option<Target> {
        let target = self.targets.get_mut(index)?.take()?;
        self.by_address.retain(|&(_, other)| other != index);
        self.waiting.forget(index);
        Some(target)
    }

    /// The export with this index.
    pub fn get(&self, index: usize) -> Option<&Target> {
        self.targets.get(index)?.as_ref()
    }

    /// The export with this index, to be told something.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Target> {
        self.targets.get_mut(index)?.as_mut()
    }

    /// The index of the export with exactly this address.
    pub fn index_of(&self, address: Address) -> Option<usize> {
        let place = self.find(address).ok()?;
        self.by_address.get(place).map(|&(_, index)| index)
    }

    /// Every export with its index, in the order of addresses.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Target)> + '_ {
        let pair = |&(_, index): &(Address, usize)| Some((index, self.get(index)?));
        self.by_address.iter().filter_map(pair)
    }

    /// Number of exports.
    pub fn len(&self) -> usize {
        self.by_address.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.by_address.is_empty()
    }

    /// Whether these bytes are a request for any of the exports, and for which: checks 1 to 4 of
    /// §2, done once however many exports are meant.
    ///
    /// # Errors
    /// Why the frame is to be ignored. Counted already.
    pub fn screen<'f>(
        &mut self,
        port: &PortFacts,
        bytes: &'f [u8],
    ) -> Result<(Frame<'f>, Selection), IgnoreReason> {
        let screened = self.check(port, bytes);
        if let Err(reason) = screened {
            self.ignored.count(reason);
        }
        screened
    }

    /// The next export that a frame is meant for, with its index.
    pub fn next(&mut self, selection: &mut Selection) -> Option<(usize, &mut Target)> {
        let index = loop {
            let place = selection.rest.next()?;
            let &(address, index) = self.by_address.get(place)?;
            if selection.wanted.selects(address) {
                break index;
            }
        };
        Some((index, self.get_mut(index)?))
    }

    /// Keeps a response of the export with this index until it is due; `response` is what the
    /// export has encoded. Counted already, also when there is no room for it.
    pub fn hold(&mut self, index: usize, hold: Hold, response: &[u8]) {
        let held = self.waiting.take(index, hold, response);
        if let (false, Some(target)) = (held, self.get_mut(index)) {
            target.count_ignored(IgnoreReason::CongestionFull);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) should be called next, if at all.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.waiting.next_due()
    }

    /// Tells the time, as in [`Arrival::now`](crate::Arrival::now). Then
    /// [`poll_response`](Self::poll_response) has what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        self.waiting.set_now(now);
    }

    /// The next response that was held and is due now, in the order of arrival, moved into `out`.
    pub fn poll_response(&mut self, out: &mut [u8]) -> Option<HeldResponse> {
        let response = self.waiting.release(out)?;
        if let Some(target) = self.get_mut(response.export) {
            target.count_response();
        }
        Some(response)
    }

    /// Frames that were ignored before any export was asked; the exports count their own.
    pub fn ignored(&self) -> &Ignored {
        &self.ignored
    }

    fn check<'f>(
        &self,
        port: &PortFacts,
        bytes: &'f [u8],
    ) -> Result<(Frame<'f>, Selection), IgnoreReason> {
        let frame = Frame::decode(bytes).map_err(|error| match error {
            DecodeError::EtherType => IgnoreReason::EtherType,
            _ => IgnoreReason::TooShort,
        })?;
        let header = &frame.header;
        if header.flags.contains(Flags::RESPONSE) {
            return Err(IgnoreReason::Response);
        }
        if !header.source.is_unicast() || header.source == port.mac {
            return Err(IgnoreReason::Source);
        }
        if header.destination != port.mac && header.destination != MacAddr::BROADCAST {
            return Err(IgnoreReason::Destination);
        }
        let selection = self.select(header.address).ok_or(IgnoreReason::Address)?;
        Ok((frame, selection))
    }

    /// Where the exports meant by `wanted` are to be found, if there is one.
    fn select(&self, wanted: Address) -> Option<Selection> {
        let rest = if wanted.is_wildcard() {
            let mut all = self.by_address.iter();
            let first = all.position(|&(address, _)| wanted.selects(address))?;
            first..self.by_address.len()
        } else {
            let place = self.find(wanted).ok()?;
            place..place + 1
        };
        Some(Selection { wanted, rest })
    }

    fn find(&self, address: Address) -> Result<usize, usize> {
        self.by_address
            .binary_search_by_key(&address, |&(address, _)| address)
    }
}
