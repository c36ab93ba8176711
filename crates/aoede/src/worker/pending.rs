//! Requests that the disk is working on.

use std::time::Duration;

use aoede_disk::RequestId;
use aoede_target::Request;

use super::fair::{Name, Ticket};
use super::latencies::Work;

/// What is needed to answer a request when the disk is done.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) request: Request,
    /// Where the request came in, and the response goes out.
    pub(super) seat: usize,
    pub(super) work: Work,
    /// The turn that took its frame.
    pub(super) began: Duration,
    pub(super) ticket: Ticket,
    /// Of its frame.
    pub(super) name: Option<Name>,
}

/// A fixed number of places, each free or with a request in it.
#[derive(Debug)]
pub(super) struct PendingTable {
    places: Vec<Option<Pending>>,
    free: Vec<u32>,
}

impl PendingTable {
    pub(super) fn new(places: usize) -> Self {
        let count = u32::try_from(places).unwrap_or(u32::MAX);
        Self {
            places: std::iter::repeat_with(|| None).take(places).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Requests that are filed.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Files a request; gives it back when there is no place. There is one for every buffer.
    pub(super) fn add(&mut self, pending: Pending) -> Result<RequestId, Pending> {
        let Some(index) = self.free.pop() else {
            return Err(pending);
        };
        if let Some(place) = self.places.get_mut(index as usize) {
            *place = Some(pending);
        }
        Ok(RequestId(index))
    }

    /// Takes a request out.
    pub(super) fn take(&mut self, id: RequestId) -> Option<Pending> {
        let pending = self.places.get_mut(id.0 as usize)?.take()?;
        self.free.push(id.0);
        Some(pending)
    }
}
