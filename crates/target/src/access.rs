//! Who may talk to an export: the MAC mask list (§5) and the reservation (§6). What its operator lets
//! single initiators do is in `rights.rs`.
//!
//! Both are short lists that only control commands change. Their room is taken at start, so that
//! no frame makes them allocate.

use alloc::vec::Vec;

use aoede_wire::{
    Body, Directive, DirectiveCode, ErrorCode, Header, MacAddr, Mask, MaskCommand, MaskError,
    NoRoom, Reserve, ReserveCommand, encode_mask_list, encode_reserve_list,
};

use crate::{PortFacts, SettingsError};

/// Most entries of either list: its count on the wire is one byte.
pub(crate) const MAX_ENTRIES: usize = 255;

/// The initiators that may talk to the export at all; empty: everyone.
#[derive(Debug)]
pub(crate) struct MaskList {
    entries: Vec<MacAddr>,
    /// Where an edit happens before it takes effect as a whole.
    draft: Vec<MacAddr>,
    /// An edit has changed it since the owner last asked.
    changed: bool,
}

/// The directive that an edit stopped at, and why. Nothing was changed.
#[derive(Debug)]
struct FailedEdit {
    index: u8,
    error: MaskError,
}

impl MaskList {
    pub(crate) fn new(macs: &[MacAddr]) -> Result<Self, SettingsError> {
        let mut mask = Self {
            entries: Vec::with_capacity(MAX_ENTRIES),
            draft: Vec::with_capacity(MAX_ENTRIES),
            changed: false,
        };
        mask.replace(macs)?;
        Ok(mask)
    }

    /// Has these entries from now on, or on an error those it had.
    pub(crate) fn replace(&mut self, macs: &[MacAddr]) -> Result<(), SettingsError> {
        self.draft.clear();
        for &mac in macs {
            add(&mut self.draft, mac, MAX_ENTRIES).map_err(|error| match error {
                MaskError::Full => SettingsError::MaskFull,
                _ => SettingsError::MaskEntry(mac),
            })?;
        }
        core::mem::swap(&mut self.entries, &mut self.draft);
        Ok(())
    }

    pub(crate) fn take_changed(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    pub(crate) fn admits(&self, mac: MacAddr) -> bool {
        self.entries.is_empty() || self.entries.contains(&mac)
    }

    pub(crate) fn entries(&self) -> &[MacAddr] {
        &self.entries
    }

    /// Carries out a mask command and encodes the response. Edits must not come by a wildcard, and
    /// fail unless the sender `may_edit`. `deleted` is told whom an edit took from the list.
    pub(crate) fn answer(
        &mut self,
        request: &Mask<'_>,
        may_edit: bool,
        port: &PortFacts,
        response: Header,
        out: &mut [u8],
        deleted: impl FnMut(MacAddr),
    ) -> Result<usize, NoRoom> {
        let most = port.mask_entries();
        let result = match (request.command, request.directives()) {
            (MaskCommand::Read, _) => Ok(()),
            (MaskCommand::Edit, _) if !may_edit => Err(FailedEdit {
                index: 0,
                error: MaskError::Unspecified,
            }),
            (MaskCommand::Edit, Ok(directives)) => {
                let deletions = directives
                    .clone()
                    .filter(|d| d.code == DirectiveCode::Delete);
                self.edit(directives, most)
                    .inspect(|()| deletions.map(|d| d.mac).for_each(deleted))
            }
            // An unknown sub-command, or directives that the frame does not hold (§13, 8).
            _ => {
                let header = response.with_error(ErrorCode::BadArgument);
                return encode_mask_list(header, request.command, &[], out);
            }
        };
        match result {
            Ok(()) => {
                encode_mask_list(response, request.command, fitting(&self.entries, most), out)
            }
            // Neither list nor E flag: the index in the place of the count tells it all.
            Err(FailedEdit { index, error }) => Body::Mask(Mask {
                command: request.command,
                error,
                count: index,
                rest: &[],
            })
            .encode(response, out),
        }
    }

    /// Carries out all directives, or none: a half-done access list is worse than none (D17).
    ///
    /// Additions stop at `limit` entries, what a response on the asking port can list.
    fn edit(
        &mut self,
        directives: impl Iterator<Item = Directive>,
        limit: usize,
    ) -> Result<(), FailedEdit> {
        self.draft.clear();
        self.draft.extend_from_slice(&self.entries);
        for (directive, index) in directives.zip(0..=u8::MAX) {
            match directive.code {
                DirectiveCode::None => Ok(()),
                DirectiveCode::Add => add(&mut self.draft, directive.mac, limit),
                DirectiveCode::Delete => {
                    self.draft.retain(|&mac| mac != directive.mac);
                    Ok(())
                }
                DirectiveCode::Unknown(_) => Err(MaskError::BadDirective),
            }
            .map_err(|error| FailedEdit { index, error })?;
        }
        self.changed |= self.entries != self.draft;
        core::mem::swap(&mut self.entries, &mut self.draft);
        Ok(())
    }
}

fn add(list: &mut Vec<MacAddr>, mac: MacAddr, limit: usize) -> Result<(), MaskError> {
    if !mac.is_unicast() {
        return Err(MaskError::BadDirective);
    }
    if list.contains(&mac) {
        return Ok(());
    }
    if list.len() >= limit {
        return Err(MaskError::Full);
    }
    list.push(mac);
    Ok(())
}

/// The initiators that hold the export; empty: nobody does. A restart releases it (D13).
#[derive(Debug)]
pub(crate) struct Reservation {
    holders: Vec<MacAddr>,
}

impl Reservation {
    pub(crate) fn new() -> Self {
        Self {
            holders: Vec::with_capacity(MAX_ENTRIES),
        }
    }

    /// Whether `mac` may use the device, and change the reservation without force.
    pub(crate) fn admits(&self, mac: MacAddr) -> bool {
        self.holders.is_empty() || self.holders.contains(&mac)
    }

    pub(crate) fn holders(&self) -> &[MacAddr] {
        &self.holders
    }

    /// Carries out a reserve command and encodes the response, which lists the current holders
    /// whatever happened. Changes must not come by a wildcard, and fail unless the sender
    /// `may_change`.
    pub(crate) fn answer(
        &mut self,
        request: &Reserve<'_>,
        may_change: bool,
        port: &PortFacts,
        response: Header,
        out: &mut [u8],
    ) -> Result<usize, NoRoom> {
        let sender = response.destination;
        let most = port.reserve_entries();
        let result = match (request.command, request.macs()) {
            (ReserveCommand::Read, _) => Ok(()),
            (ReserveCommand::Set | ReserveCommand::ForceSet, _) if !may_change => {
                Err(ErrorCode::Reserved)
            }
            // The sender is judged first, and it is the sender who is judged (§13, 12).
            (ReserveCommand::Set, _) if !self.admits(sender) => Err(ErrorCode::Reserved),
            (ReserveCommand::Set | ReserveCommand::ForceSet, Ok(macs))
                if usize::from(request.count) <= most =>
            {
                self.holders.clear();
                self.holders.extend(macs);
                Ok(())
            }
            // An unknown sub-command, or a list that this frame or the response cannot hold.
            _ => Err(ErrorCode::BadArgument),
        };
        let header = match result {
            Ok(()) => response,
            Err(code) => response.with_error(code),
        };
        encode_reserve_list(header, request.command, fitting(&self.holders, most), out)
    }
}

/// What a response can hold of a list that was set by way of a port with a larger MTU.
fn fitting(list: &[MacAddr], most: usize) -> &[MacAddr] {
    list.get(..most).unwrap_or(list)
}
