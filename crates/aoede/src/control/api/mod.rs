//! What a daemon can be asked over its control socket, and what it answers.
//!
//! ```text
//! connection ─▶ limits.rs ─▶ routes.rs ─ Call over a channel ─▶ the daemon's loop
//!               time, number             ◀── answer ───────────
//! ```
//!
//! [`Socket`] is the place in the file system; [`serve`] answers there, until it is dropped. The
//! paths are documented in `docs/control.md`; the other end is [`client`](super::client).

mod limits;
mod routes;
mod socket;

use std::fmt;

use aoede_wire::Address;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::status::{FreezeStatus, Status};

pub(crate) use limits::{Limited, Turn, keep_time};
pub(crate) use routes::{Caller, method_unknown, path_unknown};
pub use routes::{PATIENCE, serve};
pub use socket::{Socket, SocketError};

/// Something that the daemon's loop is asked for. Who asks may be gone when the answer comes.
#[derive(Debug)]
pub enum Call {
    /// How everything is.
    Status(Answer<Status>),
    /// The configuration is to be read again, and carried out.
    Reload(Answer<Reloaded>),
    /// The image shall not change; answered when it does not, or cannot be.
    Freeze(Address, Answer<FreezeStatus>),
    /// The image may change again; answered when merging has begun.
    Thaw(Address, Answer<FreezeStatus>),
    /// The file is to get another size, or has got one if none is given; answered when initiators
    /// are told.
    Resize(Address, Option<u64>, Answer<Resized>),
    /// No new requests; what was acknowledged is written and the file is closed; answered then. A
    /// reload serves it again.
    Drain(Address, Answer<Drained>),
    /// A latched failure is known of: go on, and try again to write what was refused.
    ResetFailure(Address, Answer<FailureReset>),
    /// Finish and end; answered before that.
    Stop(Answer<Stopping>),
}

/// Where the answer to a call goes.
pub type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

/// What a reload has done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// What was read.
    pub config_file: String,
    /// What is another than before, in words, such as `e1.1: opened`.
    pub changes: Vec<String>,
    /// What could not be done, in words; the rest was.
    pub errors: Vec<String>,
    /// What was found in the file that may be wrong.
    pub warnings: Vec<String>,
}

/// What became of a size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resized {
    /// Before.
    pub old_size_bytes: u64,
    /// As initiators are told now.
    pub size_bytes: u64,
}

/// How an export was drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Drained {
    /// Acknowledged data that is lost, as it could not be written.
    pub lost_bytes: u64,
}

/// What was reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailureReset {
    /// Acknowledged data that is tried again.
    pub at_risk_bytes: u64,
}

/// It ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stopping {
    /// The process to wait for.
    pub pid: u32,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub reason: Reason,
    /// For people, in one sentence.
    pub message: String,
    /// What to do about it, if that is known.
    #[serde(default)]
    pub remedy: String,
}

/// The kinds of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// There is no such export, or no such path.
    NotFound,
    /// The call makes no sense, as it is written.
    Invalid,
    /// It makes sense, but not as things stand: an export that is not frozen cannot be thawed.
    Conflict,
    /// It was tried, and failed.
    Failed,
    /// Not now: too many others ask, or the daemon is ending.
    Busy,
}

impl Refusal {
    /// One with a remedy.
    pub fn new(reason: Reason, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            remedy: remedy.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match self.remedy.as_str() {
            "" => Ok(()),
            remedy => write!(f, "; {remedy}"),
        }
    }
}

impl std::error::Error for Refusal {}
