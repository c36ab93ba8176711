//! The steps of a request: most have one, FUA adds a flush, and zeros are written in portions.

use aoede_initiator::{Completion, Request};

use super::disk;
use super::protocol::{Errno, SECTOR};
use super::request::{Action, Extent};

/// Zeros are written in portions of this size, in sectors, one after the other.
const ZEROES: u64 = 2048;

/// What the disk has been asked for, or why it has not.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Refused(Errno),
    /// Nothing is left of it.
    Nothing,
    Read {
        extent: Extent,
    },
    Change {
        fua: bool,
    },
    /// A portion of zeros, and this remains.
    Zero {
        rest: Extent,
        fua: bool,
    },
    Flush,
}

/// How a request has ended: with its data, if it was a read.
pub(super) type Outcome = Result<Option<Vec<u8>>, Errno>;

/// What to do when a request has come back from the disk.
pub(super) enum Next {
    Reply(Outcome),
    Ask(Step, Request<Vec<u8>>),
}

/// Memory that a request holds until its reply is sent.
pub(super) fn held(action: Action) -> usize {
    let bytes = match action {
        Action::Read { extent } | Action::Write { extent, .. } => extent.bytes(),
        Action::Zero {
            extent,
            trim: false,
            ..
        } => extent.bytes().min(ZEROES * SECTOR),
        _ => 0,
    };
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Whether it changes data.
pub(super) fn changes(action: Action) -> bool {
    matches!(
        action,
        Action::Write { .. } | Action::Trim { .. } | Action::Zero { .. }
    )
}

/// Memory for this extent.
pub(super) fn zeroes(extent: Extent) -> Vec<u8> {
    vec![0; usize::try_from(extent.bytes()).unwrap_or(0)]
}

/// The first step, and what to ask the disk for. `payload` is the data of a write.
pub(super) fn first(action: Action, payload: Vec<u8>) -> (Step, Option<Request<Vec<u8>>>) {
    let (step, request) = match action {
        Action::Read { extent } => {
            let (lba, buffer) = (extent.lba, zeroes(extent));
            (Step::Read { extent }, Request::Read { lba, buffer })
        }
        Action::Write { extent, fua } => {
            let (lba, buffer) = (extent.lba, payload);
            (Step::Change { fua }, Request::Write { lba, buffer })
        }
        Action::Trim { extent, fua } if extent.sectors > 0 => trim(extent, fua),
        Action::Zero {
            extent,
            trim: true,
            fua,
        } => trim(extent, fua),
        Action::Zero {
            extent,
            trim: false,
            fua,
        } => zero(extent, fua),
        Action::Flush => (Step::Flush, Request::Flush),
        Action::Trim { .. } | Action::Disconnect => return (Step::Nothing, None),
    };
    (step, Some(request))
}

/// What comes after this step.
pub(super) fn next(step: Step, completion: Completion) -> Next {
    let result = match (step, completion.result) {
        (Step::Refused(error), _) => Err(error),
        (_, Err(error)) => {
            let changes = matches!(step, Step::Change { .. } | Step::Zero { .. });
            Err(disk::errno(&error, changes))
        }
        (Step::Read { .. }, Ok(_)) => Ok(completion.buffer),
        (Step::Zero { rest, fua }, Ok(_)) if rest.sectors > 0 => {
            let (step, request) = zero(rest, fua);
            return Next::Ask(step, request);
        }
        (Step::Change { fua: true } | Step::Zero { fua: true, .. }, Ok(_)) => {
            return Next::Ask(Step::Flush, Request::Flush);
        }
        _ => Ok(None),
    };
    Next::Reply(result)
}

fn trim(extent: Extent, fua: bool) -> (Step, Request<Vec<u8>>) {
    let Extent { lba, sectors } = extent;
    (Step::Change { fua }, Request::Trim { lba, sectors })
}

/// The first portion of zeros.
fn zero(extent: Extent, fua: bool) -> (Step, Request<Vec<u8>>) {
    let Extent { lba, sectors } = extent;
    let portion = sectors.min(ZEROES);
    let buffer = zeroes(Extent {
        lba,
        sectors: portion,
    });
    let rest = Extent {
        lba: lba + portion,
        sectors: sectors - portion,
    };
    (Step::Zero { rest, fua }, Request::Write { lba, buffer })
}
