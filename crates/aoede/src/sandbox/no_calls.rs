//! Architectures for which nobody has listed the system calls.

use super::{Calls, Error};

#[expect(clippy::unnecessary_wraps, reason = "others can fail")]
pub(super) fn filter() -> Result<Calls, Error> {
    Ok(Calls::UnknownArchitecture)
}
