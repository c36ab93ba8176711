//! What the daemon gives up once it has started, so that a fault in it is worth little to others.
//!
//! - **Capabilities**: [`KEPT`] stay, as far as they were there; all others go for good. Packet
//!   rings are opened throughout the daemon's life, as interfaces come. Files are, too, at every
//!   reload, and what a restart would accept a reload has to accept as well; so `CAP_DAC_OVERRIDE`
//!   stays where the daemon runs as root, who could do little less without it: most files that matter
//!   are root's own. Run it as another user, and it has files of that user only.
//! - **No new privileges**: no program that it could start would have more.
//! - **System calls**: those that it makes are allowed (`calls.rs`), all others fail with EPERM. They
//!   do not kill it: the engines take a refusal for an answer and go on with the next, and a target
//!   that is killed takes the disks of all its initiators along. Programs cannot be started, mounts,
//!   modules, keys, other processes and memory that is to be executed are out of reach, and sockets
//!   are of the families that it uses. What is done through an `io_uring` is not seen by such a
//!   filter; capabilities and what systemd's unit sets hold there, too.
//!
//! The capabilities are those of a thread, and new threads inherit them: [`enter`] comes before the
//! first one is started. What only the start needs (another group for the control socket, a low
//! port, a higher limit of open files) is done before.

#[cfg(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
))]
mod calls;
#[cfg(not(all(
    any(target_arch = "x86_64", target_arch = "aarch64"),
    target_pointer_width = "64"
)))]
#[path = "no_calls.rs"]
mod calls;
mod capabilities;

use std::fmt::{self, Display};
use std::io;

pub use capabilities::KEPT;
pub use rustix::thread::CapabilitySet;

/// Whether there is to be a sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `false` leaves everything as it is: `--no-sandbox`.
    pub wanted: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { wanted: true }
    }
}

/// What is given up. Prints as one line for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// Nothing: it was not wanted.
    Off,
    /// The daemon is in its sandbox.
    Entered {
        /// What is left of [`KEPT`]; the others of it were not there before.
        capabilities: CapabilitySet,
        /// Whether system calls are filtered.
        calls: Calls,
    },
}

/// Whether system calls are filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// They are.
    Filtered,
    /// There is no list for this architecture.
    UnknownArchitecture,
    /// This kernel was built without seccomp.
    UnknownToKernel,
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Entered {
            capabilities,
            calls,
        } = self
        else {
            return f.write_str("no sandbox: every privilege stays");
        };
        f.write_str("sandbox: capabilities ")?;
        let mut names = capabilities::names(*capabilities);
        f.write_str(names.next().unwrap_or("none"))?;
        for name in names {
            write!(f, ", {name}")?;
        }
        f.write_str(match calls {
            Calls::Filtered => "; system calls are filtered",
            Calls::UnknownArchitecture => {
                "; system calls are not filtered, for want of a list for this architecture"
            }
            Calls::UnknownToKernel => {
                "; system calls are not filtered, because this kernel has no seccomp"
            }
        })
    }
}

/// Why the sandbox could not be entered. What was given up before stays given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It was called too late: other threads would keep their capabilities.
    #[error("the sandbox has to be entered by the first thread, and there are {0} already")]
    Threads(usize),
    /// The kernel refused.
    #[error("cannot {operation}; --no-sandbox does without a sandbox")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The list of system calls makes no filter.
    #[error("cannot make a filter for system calls; --no-sandbox does without a sandbox")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Gives up for good what the daemon does not need, for the calling thread and all that it starts.
///
/// # Errors
/// See [`Error`]. A kernel or an architecture without a filter for system calls is none: the report
/// says so.
pub fn enter(settings: &Settings) -> Result<Report, Error> {
    if !settings.wanted {
        return Ok(Report::Off);
    }
    let threads = std::fs::read_dir("/proc/self/task")
        .map_err(refused("count threads in /proc/self/task"))?
        .count();
    if threads != 1 {
        return Err(Error::Threads(threads));
    }
    let capabilities = capabilities::reduce().map_err(refused("give up capabilities"))?;
    rustix::thread::set_no_new_privs(true).map_err(refused("give up new privileges"))?;
    Ok(Report::Entered {
        capabilities,
        calls: calls::filter()?,
    })
}

fn refused<E: Into<io::Error>>(operation: &'static str) -> impl FnOnce(E) -> Error {
    move |source| Error::Refused {
        operation,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_a_line_that_says_what_is_left() {
        let entered = |capabilities, calls| {
            let report = Report::Entered {
                capabilities,
                calls,
            };
            report.to_string()
        };
        assert_eq!(
            entered(KEPT, Calls::Filtered),
            "sandbox: capabilities CAP_NET_RAW, CAP_DAC_OVERRIDE; system calls are filtered"
        );
        assert_eq!(
            entered(CapabilitySet::empty(), Calls::UnknownArchitecture),
            "sandbox: capabilities none; system calls are not filtered, for want of a list for this \
             architecture"
        );
        assert_eq!(Report::Off.to_string(), "no sandbox: every privilege stays");
    }

    /// Each test has a thread of its own.
    #[test]
    fn it_is_too_late_when_there_are_threads() {
        assert_eq!(enter(&Settings { wanted: false }).unwrap(), Report::Off);
        let error = enter(&Settings::default()).unwrap_err();
        assert!(matches!(error, Error::Threads(2..)), "{error}");
    }
}
