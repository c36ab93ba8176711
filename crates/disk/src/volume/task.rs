//! Work of the volume's own: writing dirty pages, and reading ahead.
//!
//! A task has a place in the order of requests like a request that changes its whole range, so that
//! nobody touches the pages meanwhile. What it does is decided when its turn has come, as earlier
//! requests may have changed the pages by then.
#![forbid(unsafe_code)]

use super::order::Extent;
use super::pages::{PAGE_BYTES, Run};
use super::slot::Transfer;
use crate::device::Part;

/// Most pages in one operation.
pub(super) const MOST_PAGES: usize = 256;

/// A task's place.
#[derive(Debug)]
pub(super) struct Task<B> {
    pub(super) work: Work,
    /// Its pages, and how many.
    pub(super) first: u64,
    pub(super) count: u64,
    pub(super) transfer: Transfer,
    /// A sync failed meanwhile, and a part of what it writes may be lost.
    pub(super) suspect: bool,
    /// The disk came to end there meanwhile, or has ended there.
    pub(super) cut: Option<u64>,
    /// The list for the operation's memory, while that is not with the device. It gets its own when
    /// it is first used.
    pub(super) list: Vec<Part<B>>,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Nothing,
    /// Writing what is dirty of its pages, a run at a time.
    Write(Option<Run>),
    /// Reading a page of which only a part is here, before it can be written.
    Complete(u64),
    /// Reading ahead.
    Fill,
}

impl<B> Task<B> {
    pub(super) fn idle() -> Self {
        Self {
            work: Work::Nothing,
            first: 0,
            count: 0,
            transfer: Transfer::default(),
            suspect: false,
            cut: None,
            list: Vec::new(),
        }
    }
}

/// The place of `count` pages in the order.
pub(super) fn extent(first: u64, count: u64) -> Extent {
    let page = PAGE_BYTES as u64;
    Extent {
        start: first * page,
        end: (first + count) * page,
        changes: true,
    }
}
