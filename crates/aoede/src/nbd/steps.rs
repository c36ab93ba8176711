//! The steps of a request: most have one, FUA adds a flush, and zeros are written in portions where
//! they cannot be trimmed.

use aoede_initiator::{ClientError, Completion, Error, Refusal, Request};

use super::disk;
use super::protocol::{Errno, SECTOR};
use super::request::{Action, Extent, Zeroing};

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
    /// Zeros by a trim.
    Hole {
        extent: Extent,
        /// They may be written if it fails.
        or_write: bool,
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
        // A trim that fails is followed by writes.
        Action::Zero { extent, .. } => extent.bytes().min(ZEROES * SECTOR),
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
        Action::Trim { extent, fua } if extent.sectors > 0 => (Step::Change { fua }, trim(extent)),
        Action::Zero {
            extent,
            by: Zeroing::Write,
            fua,
        } => zero(extent, fua),
        Action::Zero { extent, by, fua } => {
            let or_write = by == Zeroing::Trim;
            let step = Step::Hole {
                extent,
                or_write,
                fua,
            };
            (step, trim(extent))
        }
        Action::Flush => (Step::Flush, Request::Flush),
        Action::Trim { .. } | Action::Disconnect => return (Step::Nothing, None),
    };
    (step, Some(request))
}

/// What comes after this step. `abort_refuses`: see [`disk::errno`].
pub(super) fn next(step: Step, completion: Completion, abort_refuses: bool) -> Next {
    let result = match (step, completion.result) {
        (Step::Refused(error), _) => Err(error),
        (
            Step::Hole {
                or_write: false, ..
            },
            Err(error),
        ) if is_answer(&error) => Err(Errno::NotSupported),
        (Step::Hole { extent, fua, .. }, Err(error)) if is_answer(&error) => {
            let (step, request) = zero(extent, fua);
            return Next::Ask(step, request);
        }
        (_, Err(error)) => {
            let changes = !matches!(step, Step::Read { .. } | Step::Flush);
            Err(disk::errno(&error, changes, abort_refuses))
        }
        (Step::Read { .. }, Ok(_)) => Ok(completion.buffer),
        (Step::Zero { rest, fua }, Ok(_)) if rest.sectors > 0 => {
            let (step, request) = zero(rest, fua);
            return Next::Ask(step, request);
        }
        (
            Step::Change { fua: true }
            | Step::Hole { fua: true, .. }
            | Step::Zero { fua: true, .. },
            Ok(_),
        ) => {
            return Next::Ask(Step::Flush, Request::Flush);
        }
        _ => Ok(None),
    };
    Next::Reply(result)
}

/// Whether the target says so, or the disk: it does not trim this, and may write it. One that is
/// silent or gone does neither.
fn is_answer(error: &ClientError) -> bool {
    matches!(
        error,
        ClientError::Failed(Error::Device { .. }) | ClientError::Refused(Refusal::Unsupported)
    )
}

fn trim(extent: Extent) -> Request<Vec<u8>> {
    let Extent { lba, sectors } = extent;
    Request::Trim { lba, sectors }
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
